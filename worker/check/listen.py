"""Our own address: that it can be listened on, or that the service does so already."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import aiohttp

from worker.addresses import parse_listen
from worker.check.finding import Finding, failed, ok

LIVEZ_S = 3.0
# With what our answer to /livez begins.
OURS = b"caspen-sync"

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what somebody else's setting may be
_MENDS = {
    errno.EADDRINUSE: "set http.listen to a free port, or end the program that has this one (ss -ltnp)",
    errno.EACCES: "set http.listen to a port from 1024 on",
    errno.EADDRNOTAVAIL: "set http.listen to an address of this host, such as 127.0.0.1",
}


async def listen(text: str) -> Finding:
    """What is to be said of `http.listen`."""
    place = parse_listen(text)
    if place is None:
        return ok("listen", "http.listen is empty: no address is opened")
    try:
        async with asyncio.timeout(LIVEZ_S):
            await _bind(*place)
    except TimeoutError:
        return failed("listen", f"{text}: the name is not resolved", _MENDS[errno.EADDRNOTAVAIL])
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
        if number == errno.EADDRINUSE and await _is_ours(*place):
            return ok("listen", f"{text}: a service is running there; a second one needs another address")
        why = os.strerror(number) if number else "this name is not known"
        mend = _MENDS.get(number or errno.EADDRNOTAVAIL, "set http.listen to another address")
        return failed("listen", f"{text}: {why[0].lower()}{why[1:]}", mend)
    return ok("listen", f"{text} is free")


async def _bind(host: str, port: int) -> None:
    """Takes the address for a moment. Raises OSError when none that the name stands for can be had."""
    loop = asyncio.get_running_loop()
    free = False
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)
            except OSError as error:
                # localhost may stand for ::1, too, where there is no IPv6.
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                continue
            free = True
    if not free:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


async def _is_ours(host: str, port: int) -> bool:
    """Whether a service of ours answers there. Nothing else would be pleased to be sent more than this."""
    host = _EVERYWHERE.get(host, host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/livez"
    try:
        timeout = aiohttp.ClientTimeout(total=LIVEZ_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as answer:
            return answer.status in (200, 503) and (await answer.content.read(len(OURS))).startswith(OURS)
    except (aiohttp.ClientError, OSError, ValueError):
        return False
