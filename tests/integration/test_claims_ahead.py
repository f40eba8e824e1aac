"""Claims are made ahead of the wire, as many as are answered while the database claims."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.support.checking import settings_for
from tests.support.database import Database
from tests.support.processes import TOKEN
from worker.agenda import Agenda
from worker.claims import Claim
from worker.intake import Intake
from worker.metrics import Metrics
from worker.patience import Patience
from worker.pulse import Pulse
from worker.sender import Delivery
from worker.store import Store
from worker.telemetry import log
from worker.wire import Wire

CONCURRENCY = 4


async def test_an_api_that_is_quicker_than_the_database(database: Database) -> None:
    """The wire hears how long a claim took: once answers come sooner than claims do, the next statement claims for as
    many again as there are places."""
    for number in range(4 * CONCURRENCY):
        await database.write(f"app_{number}", {"note": "n"})
    settings = settings_for(database.dsn, accounts={"default": {"token": TOKEN, "concurrency": CONCURRENCY}})
    wire = Wire({"default": CONCURRENCY}, most=1000)
    rounds: list[list[Claim]] = []

    async def start(claims: Sequence[Claim]) -> None:
        rounds.append(list(claims))
        wire.add(Delivery(claim=claim) for claim in claims)
        while wire.enter("default"):
            pass

    stopping, metrics = asyncio.Event(), Metrics()
    agenda = Agenda({"default": 60.5})
    intake = Intake(
        settings,
        Store(database.pool, worker="w"),
        agenda=agenda,
        wire=wire,
        start=start,
        stopping=stopping,
        patience=Patience(stopping, pulse=Pulse(), metrics=metrics, log=log()),
        metrics=metrics,
        log=log(),
    )
    await intake.register()
    agenda.arrived(["default"])
    await intake.round()
    assert sum(map(len, rounds)) == CONCURRENCY
    for _ in range(CONCURRENCY):
        assert wire.go_on("default", answered_s=1e-6) is None
    await intake.round()
    assert len(rounds[-1]) == 2 * CONCURRENCY
