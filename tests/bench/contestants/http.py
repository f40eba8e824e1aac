"""One POST by aiohttp, as the contestants do it that are not caspen-sync. Of an answer only the status is looked at."""

from __future__ import annotations

import aiohttp
from yarl import URL

from tests.bench.work import TOKEN

HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Authorization": f"Bearer {TOKEN}",
    "Content-Type": "application/json",
}


def session() -> aiohttp.ClientSession:
    """A session whose pool of connections nobody waits for."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=HEADERS, cookie_jar=aiohttp.DummyCookieJar()
    )


async def post(http: aiohttp.ClientSession, base_url: str, appointment_id: str, body: str) -> str:
    """The answer. Raises aiohttp.ClientError."""
    url = URL(f"{base_url}/appointments/{appointment_id}", encoded=True)
    async with http.post(url, data=body.encode(), raise_for_status=True) as response:
        return await response.text("utf-8")
