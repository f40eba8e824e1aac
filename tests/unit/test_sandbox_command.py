"""The sandbox's settings, its options on a command line, and serving until told to stop."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from worker.sandbox import FAULT_NAMES, Sandbox, SandboxSettings, add_arguments, serve, settings_from


def parse(*words: str) -> SandboxSettings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return settings_from(parser.parse_args(words))


def test_the_defaults_are_the_apis() -> None:
    """Without options: the API's throttle on a fixed local port, one token, no faults."""
    settings = parse()
    assert settings == SandboxSettings(port=8460)
    assert (settings.limit, settings.window_s, settings.tokens) == (60, 60.0, ("sandbox",))


def test_every_option_reaches_its_setting() -> None:
    """Each option sets what it is named after."""
    words = (
        "--host ::1 --port 0 --token a --token b --forbidden-token c --limit 5 --window 2.5 --throttle rolling-strict "
        "--whole-seconds --latency 0.1 --latency-jitter 0.05 --fault cut=0.1 --fault slow=0.2 --slow 3 --late 4 "
        "--seed 7 --strict --appointment app_1 --ids any --log-file requests.jsonl"
    )
    assert parse(*words.split()) == SandboxSettings(
        host="::1",
        port=0,
        tokens=("a", "b"),
        forbidden=("c",),
        limit=5,
        window_s=2.5,
        throttle="rolling-strict",
        whole_seconds=True,
        latency_s=0.1,
        latency_jitter_s=0.05,
        faults={"cut": 0.1, "slow": 0.2},
        slow_s=3,
        late_s=4,
        seed=7,
        strict=True,
        appointments=("app_1",),
        ids="any",
        log_file=Path("requests.jsonl"),
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--port 65536", "from 0 to 65535"),
        ("--limit 0", "from 1 to"),
        ("--limit many", "from 1 to"),
        ("--window 0", "above 0"),
        ("--latency -1", "0 or more"),
        ("--slow nan", "0 or more"),
        ("--fault cut=2", "from 0 to 1"),
        ("--fault cut", "from 0 to 1"),
        ("--fault http_418=1", FAULT_NAMES[0]),
        ("--fault http_418=1", FAULT_NAMES[-1]),
        ("--throttle leaky", "rolling-strict"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(words: str, says: str) -> None:
    """The error names the range or the choices."""
    with pytest.raises(argparse.ArgumentError, match=says):
        parse(*words.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [("--fault cut=0.6 --fault slow=0.6", "together"), ("--host 0.0.0.0", "allow_remote")],
)
def test_values_that_do_not_fit_together_are_refused(words: str, says: str) -> None:
    """What no option can tell by itself is refused when the settings are made."""
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        parse(*words.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "", "localhost.example.com"])
def test_only_this_host_without_permission(host: str) -> None:
    """The control side has no token, so another address needs a word of its own."""
    with pytest.raises(ValueError, match="loopback"):
        SandboxSettings(host=host)
    assert SandboxSettings(host=host, allow_remote=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_are_fine(host: str) -> None:
    """Every way to name this host is taken."""
    assert SandboxSettings(host=host).host == host


@pytest.mark.parametrize(
    "options",
    [{"port": -1}, {"limit": 0}, {"window_s": 0}, {"latency_s": -1}, {"late_s": float("inf")}, {"ids": "some"}],
)
def test_a_bad_setting_names_itself(options: dict[str, Any]) -> None:
    """The error says which setting it is about."""
    (name,) = options
    with pytest.raises(ValueError, match=name):
        SandboxSettings(**options)


def test_tokens_stay_out_of_the_repr() -> None:
    """A token that finds its way into the settings finds none into a log or a traceback."""
    assert "hush" not in repr(SandboxSettings(tokens=("hush",), forbidden=("hush",)))


async def test_serve_says_when_it_is_ready_and_stops_when_told() -> None:
    """`ready` is called with a base URL that answers; after `stop` nothing listens there."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(SandboxSettings(), stop, ready.set_result))
    async with asyncio.timeout(20), aiohttp.ClientSession(headers={"Authorization": "Bearer sandbox"}) as session:
        url = f"{await ready}/appointments/app_1"
        async with session.get(url) as answer:
            assert answer.status == 200
        stop.set()
        await serving
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)


async def test_a_taken_port_is_an_oserror(tmp_path: Path) -> None:
    """Starting on a port in use fails at once and leaves nothing behind; so does a log file that cannot be written."""
    async with Sandbox() as first:
        port = int(first.base_url.removesuffix("/v1").rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Sandbox(SandboxSettings(port=port)).start()
    with pytest.raises(OSError, match="directory"):
        await Sandbox(SandboxSettings(log_file=tmp_path)).start()
