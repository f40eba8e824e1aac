"""The API: its address, without a request; and with one for each account, what it says to the token."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg

from worker import clock
from worker.caspen import Caspen
from worker.check.finding import Finding, failed, ok, skipped, told_by, toml_key, warning
from worker.check.server import clock_finding
from worker.config import AccountSettings, ApiSettings, Settings
from worker.database import understood
from worker.errors import ConfigError, ExitCode
from worker.outcome import Exchange, Refused, Rejected, Retry, Synced, Throttled
from worker.sqlfiles import query
from worker.tls import client_context
from worker.token import TokenSource

REACH_S = 8.0
# One request. Shorter than api.timeout_s may be: somebody waits for the result.
ASK_S = 6.0

ACCEPTED, LIMIT = "accepted", "limit"


async def reach(api: ApiSettings) -> Finding:
    """That the API's host, or the proxy before it, takes a connection. Nothing is sent, so it costs no budget."""
    proxy = api.proxy.get_secret_value() if api.proxy else None
    parts = urlsplit(proxy or api.base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    place = f"{'the proxy ' if proxy else ''}{host}, port {port}"
    setting = "api.proxy" if proxy else "api.base_url"
    try:
        tls = client_context(api.ca_file) if parts.scheme == "https" else None
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=host if tls else None)
            spoken = writer.get_extra_info("ssl_object")
            writer.transport.abort()
    except ConfigError as error:
        return told_by("api", error, "mend api.ca_file")
    except (OSError, UnicodeError) as error:
        return _out_of_reach(f"{place}: {_why(error)}", f"is {setting} right, and may this host speak to it?")
    said = f"{place}: {spoken.version()}, with a certificate that is trusted" if spoken else f"{place}: it listens"
    return ok("api", f"{said}; whether it reaches the API is not looked at" if proxy else said)


def _why(error: OSError | UnicodeError) -> str:
    """In the system's words, which hold nothing of ours."""
    match error:
        case TimeoutError():
            return f"no answer within {REACH_S:g} s"
        case socket.gaierror() | UnicodeError():
            return "this name is not known"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return "it does not speak TLS 1.2 or newer there"
        case ConnectionError() if error.errno is None:
            return "it closes the connection"
        case _:
            return os.strerror(error.errno) if error.errno else "none of its addresses can be reached"


def _out_of_reach(said: str, mend: str) -> Finding:
    return failed("api", said, mend, ExitCode.UNREACHABLE)


# -- one request for each account ------------------------------------------------------------------------------------


# When an account's slot was taken, by `clock.now()`; or why it has none.
Slots = dict[str, float | str]


async def take_slot(conn: asyncpg.Connection, account: str) -> float | str:
    """Takes one slot of the account's budget for a request that is over ASK_S from now.

    The reserve is left to live changes, as by the backfill lane. Nobody writes the slot back: it rests for the worst
    case, which is only two timeouts longer than after an answer.
    """
    taken_at = clock.now()
    with understood():
        if await conn.fetchrow(query("check_slot"), account, ASK_S):
            return taken_at
        row = await conn.fetchrow(query("check_pause"), [account])
    if row is None:
        return "no worker has registered it yet, so it has no budget; caspen-sync run --once, then check again"
    if row["kind"] == "throttled":
        return "the API wants to be left alone for a while (429); check again later"
    return "no slot of its budget is free; check again in a while"


async def ask(settings: Settings, sources: Mapping[str, TokenSource], slots: Slots) -> list[Finding]:
    """Asks the API once for each account that has a slot, and says why it does not ask for the others."""
    api = settings.api
    proxy = api.proxy.get_secret_value() if api.proxy else None
    found = [skipped(ACCEPTED, f"account {name}: {why}") for name, why in slots.items() if isinstance(why, str)]
    taken = {name: at for name, at in slots.items() if not isinstance(at, str)}
    try:
        async with Caspen(api.base_url, timeout_s=ASK_S, ca_file=api.ca_file, proxy=proxy) as caspen:
            asked = [caspen.ask(token=sources[name].token, deadline=at + ASK_S) for name, at in taken.items()]
            exchanges = await asyncio.gather(*asked)
    except ConfigError:
        return [*found, *(skipped(ACCEPTED, f"account {name}: needs the api") for name in taken)]
    for name, exchange in zip(taken, exchanges, strict=True):
        found += told(name, settings.accounts[name], exchange, skew=_skew(exchange))
    return found


def told(name: str, account: AccountSettings, exchange: Exchange, *, skew: tuple[float, float] | None) -> list[Finding]:
    """What is to be said of the answer. `skew`: how far this host is ahead of the API in seconds, give or take what."""
    found = [_accepted(name, exchange)]
    if exchange.limit is not None:
        found.append(_limit(name, account.rate_limit, exchange.limit))
    if skew is not None:
        found.append(clock_finding("the API", *skew))
    return found


def _accepted(name: str, exchange: Exchange) -> Finding:
    match exchange.outcome:
        case Refused(reason=reason):
            mend = "replace it where `token` says that it is; or let this host's address into the API's allow-list"
            return failed(ACCEPTED, f"account {name}: the API refused the token: {reason}", mend, ExitCode.REFUSED)
        case Throttled():
            mend = "find out who else uses the key, and give each service a token of its own"
            return warning(ACCEPTED, f"account {name}: throttled, although we had budget", mend)
        # Each answer of the API has a limit: without one it may be anybody's.
        case Rejected(whole=True) if exchange.limit is None:
            said = f"account {name}: {exchange.outcome.status}, and not as the API says it (no X-RateLimit-Limit)"
            return failed(ACCEPTED, said, "is api.base_url right, its path included?")
        case Rejected() | Synced() | Retry(status=200):
            return ok(ACCEPTED, f"account {name}: the API accepts the token")
        case other:
            mend = "the worker would try again; so may you"
            return failed(ACCEPTED, f"account {name}: {other.reason}", mend, ExitCode.UNREACHABLE)


def _limit(name: str, configured: int, granted: int) -> Finding:
    said = f"account {name}: the API grants {granted} requests in a window, and {configured} are configured"
    setting = f"accounts.{toml_key(name)}.rate_limit = {granted}"
    if granted < configured:
        return warning(LIMIT, f"{said}: the worker keeps to the lower", setting)
    if granted > configured:
        return warning(LIMIT, f"{said}: the rest is not used", f"{setting}, if it is yours")
    return ok(LIMIT, f"account {name}: {granted} requests in a window, as configured")


def _skew(exchange: Exchange) -> tuple[float, float] | None:
    if exchange.date_s is None:
        return None
    took_s = exchange.ended_at - exchange.started_at
    ours = time.time() - (clock.now() - exchange.ended_at) - took_s / 2
    return ours - (exchange.date_s + 0.5), 0.5 + took_s / 2
