"""A network that swallows what it is given: connections that stay open and say nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.dark import proxy_to
from tests.support.outages import clinic, refused, watched
from tests.support.servers import Server, looked_into

SILENT = "database: cannot be reached: no answer in time; does Postgres run there, and is database.dsn"


@pytest.mark.long
@pytest.mark.alone
async def test_a_server_that_never_answers(server: Server) -> None:
    """It takes the connection and is silent: each command says so after the connection's 10 s, and ends with 69."""
    async with (
        looked_into(server.dsn()) as database,
        proxy_to(server.port) as proxy,
        clinic(database, dsn=server.dsn(port=proxy.port)) as one,
    ):
        proxy.dark_for_new = True
        async with asyncio.timeout(18):  # whoever tries twice takes 20 s
            await asyncio.gather(
                refused(one.env, "run", "--once", exit_code=69, words=SILENT),
                refused(one.env, "run", exit_code=69, words=SILENT),
                refused(one.env, "migrate", exit_code=69, words=SILENT),
            )


@pytest.mark.long
@pytest.mark.parametrize("new_ones", ["work", "are silent too"])
async def test_connections_that_go_dark(server: Server, new_ones: str) -> None:
    """Every connection of a service goes dark with requests on the wire: their outcomes are written over new ones
    before the leases end, none is lost, and LISTEN hears again."""
    async with (
        looked_into(server.dsn()) as database,
        proxy_to(server.port) as proxy,
        clinic(database, latency_s=1.0, dsn=server.dsn(port=proxy.port)) as one,
    ):
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            proxy.dark_for_new = new_ones == "are silent too"
            proxy.go_dark()
            await service.says("write_back_waits", "database: cannot be reached: no answer in time", limit_s=35)
            proxy.dark_for_new = False
            await one.nothing_lost(limit_s=25)
            one.sandbox.set_latency(0)
            await service.says("listen_lost", limit_s=75)
            await one.write(8, note=2)
            await one.nothing_lost()
            await one.stopped(service)
