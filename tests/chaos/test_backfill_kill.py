"""A backfill that is killed with -9 wherever it is, that loses its Postgres, or that is started twice: each line
becomes one change, and the API holds what the file says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.chaos.seeds import seed_of_this_run
from tests.support.audit import assert_accounted_for, assert_no_overlap, assert_settled, most_in_any_window
from tests.support.backfill_files import (
    Line,
    as_csv,
    as_gzip,
    as_jsonl,
    assert_folded,
    assert_loaded_once,
    assert_sent_in_order,
    year,
)
from tests.support.database import Database
from tests.support.processes import TOKEN, Ended, Watched, command, environment, start
from tests.support.servers import Server, looked_into
from tests.support.waiting import eventually
from worker.sandbox import Entry, Sandbox, SandboxSettings

NAME = "year"
# Lines of which half are more than the command takes at once.
MANY = {"appointments": 60, "changes": 200}
LIMIT = 120
WINDOW_S = 1.0
ACCOUNTS = ("default", "north")
NORTH = "test-token-north-7d1e"
SETTINGS = {"API__TIMEOUT_S": "1"}
for account, token in zip(ACCOUNTS, (TOKEN, NORTH), strict=True):
    SETTINGS |= {
        f"ACCOUNTS__{account.upper()}__TOKEN": token,
        f"ACCOUNTS__{account.upper()}__RATE_LIMIT": str(LIMIT),
        f"ACCOUNTS__{account.upper()}__RATE_WINDOW_S": str(WINDOW_S),
        f"ACCOUNTS__{account.upper()}__RATE_GUARD_S": "0.05",
    }
FAULTS = {"http_503": 0.02, "reset_after": 0.02}

# Where a run may be, in this order, and for how long it is left there at the most before it is killed, in seconds.
PHASES = {"reading": 0.3, "staging": 0.5, "accepting": 0.05, "loading": 0.1, "working": 1.0}

# In each of them.
KILLS = 6

Write = Callable[[Sequence[Line]], bytes]


@dataclass(slots=True)
class Backfill:
    """One file, and the command that loads it."""

    database: Database
    sandbox: Sandbox
    lines: Sequence[Line]
    file: Path
    from_stdin: bool = False
    args: tuple[str, ...] = field(init=False)
    env: dict[str, str] = field(init=False)
    started: list[Watched] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.args = ("backfill", "-" if self.from_stdin else str(self.file), "--name", NAME, "--wait")
        self.env = environment(self.database.dsn, self.sandbox.base_url, SETTINGS)

    async def start(self) -> tuple[Watched, asyncio.Task[tuple[bytes, bytes]]]:
        process = await start(*self.args, env=self.env, piped=self.from_stdin)
        self.started.append(process)
        return process, asyncio.create_task(process.communicate(self._given()))

    async def to_its_end(self) -> Ended:
        return await command(*self.args, env=self.env, limit_s=120, given=self._given())

    def _given(self) -> bytes | None:
        return self.file.read_bytes() if self.from_stdin else None

    async def check(self) -> None:
        """All that must hold once a run has ended with 0."""
        await assert_loaded_once(self.database, NAME, self.lines)
        await assert_settled(self.database)
        assert await self.database.states() == {"synced": len(self.lines)}
        assert_folded(self.sandbox.appointments, self.lines)
        await assert_accounted_for(self.database, self.sandbox.log)
        await assert_sent_in_order(self.database, self.sandbox.log)
        assert_no_overlap(self.sandbox.log)
        by_token: dict[str | None, list[Entry]] = defaultdict(list)
        for entry in self.sandbox.log:
            assert not entry.throttled
            by_token[entry.token].append(entry)
        for entries in by_token.values():
            assert most_in_any_window((entry.received_at for entry in entries), WINDOW_S) <= LIMIT


@contextlib.asynccontextmanager
async def backfill(
    database: Database, folder: Path, lines: Sequence[Line], *, write: Write = as_jsonl, seed: int = 1, **options: Any
) -> AsyncIterator[Backfill]:
    """The lines in a file, and an API that stumbles now and then."""
    suffix = {as_gzip: "jsonl.gz", as_csv: "csv"}.get(write, "jsonl")
    file = folder / f"may.{suffix}"
    file.write_bytes(write(lines))
    settings = SandboxSettings(
        tokens=(TOKEN, NORTH), limit=LIMIT, window_s=WINDOW_S, latency_s=0.1, latency_jitter_s=0.05, faults=FAULTS,
        seed=seed,
    )  # fmt: skip
    async with Sandbox(settings) as sandbox:
        one = Backfill(database, sandbox, lines, file, **options)
        try:
            yield one
        finally:
            for process in one.started:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def chance_of_this_run() -> random.Random:
    return random.Random(seed_of_this_run())


# -- killed ------------------------------------------------------------------------------------------------------------

WHERE = """
SELECT (SELECT array_agg(a.pid) FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.application_name = 'caspen-sync') AS pids,
       EXISTS (SELECT FROM pg_stat_activity a
               WHERE a.datname = current_database() AND a.state = 'active' AND a.pid <> pg_backend_pid()
                 AND a.query LIKE '%DELETE FROM caspen_sync.backfill_line l%USING staged%') AS accepting,
       (SELECT max(b.token::text) FROM caspen_sync.backfill b) AS token,
       EXISTS (SELECT FROM caspen_sync.backfill b
               JOIN caspen_sync.backfill_line l ON l.account = b.account AND l.name = b.name
               WHERE l.nth > b.accepted_nth) AS staged,
       (SELECT coalesce(sum(b.lines), 0) FROM caspen_sync.backfill b) AS lines,
       (SELECT coalesce(sum(b.loaded), 0) FROM caspen_sync.backfill b) AS loaded,
       (SELECT count(*) FROM caspen_sync.attempt) AS attempts
"""


async def where(conn: asyncpg.Connection, before: asyncpg.Record) -> int:
    """How many of the phases the run that began after `before` has entered, so far as the database tells."""
    now = await conn.fetchrow(WHERE)
    entered = {
        "reading": not set(now["pids"] or []) <= set(before["pids"] or []),
        "staging": now["staged"] and now["token"] != before["token"],
        "accepting": now["accepting"],
        "loading": now["loaded"] > before["loaded"],
        "working": now["loaded"] == now["lines"] > 0 and now["attempts"] > before["attempts"],
    }
    return max((nth for nth, phase in enumerate(PHASES, 1) if entered[phase]), default=0)


async def kill_in(one: Backfill, wanted: str, chance: random.Random) -> str:
    """Starts a run and kills it a moment after it has entered this phase, or a later one; returns which one it was in,
    or how it ended if it was quicker."""
    async with one.database.pool.acquire() as conn:
        before = await conn.fetchrow(WHERE)
        process, said = await one.start()
        reached = 0
        while reached <= list(PHASES).index(wanted) and process.returncode is None:
            await asyncio.sleep(0.002)
            reached = await where(conn, before)
        left_s = chance.uniform(0, PHASES[wanted])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await asyncio.shield(said)
        reached = max(reached, await where(conn, before))
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        _, err = await said
    assert process.returncode in (-9, 0), err
    assert b"Traceback" not in err
    return list(PHASES)[reached - 1] if process.returncode else "ended"


@pytest.mark.long
async def test_killed_while_it_loads(database: Database, tmp_path: Path) -> None:
    """Some lines are in the outbox by then. The next run adds the others, and works all off."""
    chance = chance_of_this_run()
    lines = year(chance, appointments=40, changes=100, duplicates=0.1, accounts=ACCOUNTS)
    async with backfill(database, tmp_path, lines) as one:
        assert await kill_in(one, "loading", chance) in ("loading", "working")
        assert (await one.to_its_end()).exit_code == 0
        await one.check()


@pytest.mark.long
@pytest.mark.parametrize(
    ("write", "sizes", "options"),
    [
        pytest.param(as_jsonl, (2000, 6, 0.2, ("default",)), {}, id="duplicates"),
        pytest.param(as_gzip, (600, 20, 0.0, ("default",)), {}, id="twenty-each-gzip"),
        pytest.param(as_csv, (1000, 12, 0.1, ("default",)), {}, id="csv"),
        pytest.param(as_jsonl, (1000, 12, 0.1, ACCOUNTS), {}, id="two-accounts"),
        pytest.param(as_jsonl, (1000, 12, 0.1, ("default",)), {"from_stdin": True}, id="stdin"),
    ],
)
async def test_killed_everywhere(
    database: Database,
    tmp_path: Path,
    write: Write,
    sizes: tuple[int, int, float, Sequence[str]],
    options: dict[str, Any],
) -> None:
    """Half-way in reading, then some times in each phase, and then run to its end; one more run changes nothing."""
    chance = chance_of_this_run()
    appointments, changes, duplicates, accounts = sizes
    lines = year(chance, appointments=appointments, changes=changes, duplicates=duplicates, accounts=accounts)
    async with backfill(database, tmp_path, lines, write=write, seed=chance.randrange(1000), **options) as one:
        process, said = await half_read(one)
        process.kill()
        await said
        # Each in its turn first, since loading is soon over; then in any order.
        later = [phase for phase in PHASES for _ in range(KILLS - 1)]
        chance.shuffle(later)
        killed = Counter([await kill_in(one, phase, chance) for phase in (*PHASES, *later)])
        print(f"killed in {dict(killed)}")
        assert (await one.to_its_end()).exit_code == 0
        requests = len(one.sandbox.log)
        assert (await one.to_its_end()).exit_code == 0
        assert len(one.sandbox.log) == requests
        await one.check()
    assert killed.total() - killed["ended"] > len(PHASES) * KILLS // 2


# -- two of one name, and a Postgres that goes away --------------------------------------------------------------------


@pytest.mark.long
async def test_the_later_of_two_goes_on(database: Database, tmp_path: Path) -> None:
    """A run of the same name takes over from one that is reading: that one says so and adds nothing."""
    lines = year(chance_of_this_run(), **MANY)
    async with backfill(database, tmp_path, lines) as one:
        earlier, said = await half_read(one)
        later = await one.to_its_end()
        earlier.stdin.close()
        _, err = await said
        assert (later.exit_code, earlier.returncode) == (0, 75), (later, err)
        assert f"backfill {NAME}: another process has taken over" in err.decode()
        await one.check()


@pytest.mark.long
async def test_the_later_of_two_goes_on_loading(database: Database, tmp_path: Path) -> None:
    """The same when the earlier one is loading, held up by the transaction of an application."""
    lines = year(chance_of_this_run(), appointments=500, changes=20)
    async with backfill(database, tmp_path, lines) as one:
        async with held_up(one) as (earlier, said):
            later, later_said = await one.start()
            _, err = await asyncio.wait_for(said, 30)
            assert earlier.returncode == 75
            assert f"backfill {NAME}: another process has taken over" in err.decode()
        await later_said
        assert later.returncode == 0
        await one.check()


@pytest.mark.long
async def test_postgres_goes_away_while_it_reads(server: Server, tmp_path: Path) -> None:
    """The run ends with 69 and has added nothing; the next one adds all."""
    lines = year(chance_of_this_run(), **MANY)
    async with looked_into(server.dsn()) as database, backfill(database, tmp_path, lines) as one:
        process, said = await half_read(one)
        await server.stop()
        process.stdin.write(as_jsonl(lines[len(lines) // 2 :]))
        process.stdin.close()
        _, err = await said
        assert process.returncode == 69, err
        assert b"Traceback" not in err
        await server.start()
        await forget_connections(database)
        assert await database.value("SELECT count(*) FROM caspen_sync.outbox") == 0
        assert (await one.to_its_end()).exit_code == 0
        await one.check()


@pytest.mark.long
@pytest.mark.parametrize("phase", ["loading", "working"])
async def test_postgres_restarts_later(server: Server, tmp_path: Path, phase: str) -> None:
    """Once all is accepted, the run waits for the server and goes on by itself."""
    chance = chance_of_this_run()
    lines = year(chance, appointments=400, changes=20, duplicates=0.1)
    async with looked_into(server.dsn()) as database, backfill(database, tmp_path, lines) as one:
        conn = await asyncpg.connect(database.dsn)
        before = await conn.fetchrow(WHERE)
        process, said = await one.start()
        while await where(conn, before) <= list(PHASES).index(phase):
            assert process.returncode is None, await said
            await asyncio.sleep(0.002)
        await server.restart("immediate")
        _, err = await asyncio.wait_for(said, 120)
        assert process.returncode == 0, err
        await forget_connections(database)
        await one.check()


async def half_read(one: Backfill) -> tuple[Watched, asyncio.Task[tuple[bytes, bytes]]]:
    """A run that has staged half of the lines, and waits for more of its standard input."""
    process = await start("backfill", "-", "--name", NAME, "--wait", env=one.env, piped=True)
    one.started.append(process)
    process.stdin.write(as_jsonl(one.lines[: len(one.lines) // 2]))
    await eventually(
        lambda: one.database.value("SELECT count(*) FROM caspen_sync.backfill_line"), what="half of the lines staged"
    )

    async def output() -> tuple[bytes, bytes]:
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        await process.wait()
        return out, err

    return process, asyncio.create_task(output())


@contextlib.asynccontextmanager
async def held_up(one: Backfill) -> AsyncIterator[tuple[Watched, asyncio.Task[tuple[bytes, bytes]]]]:
    """A run whose loading waits for a transaction that is rolled back at the end."""
    async with one.database.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await one.database.write(one.lines[-1].appointment_id, {"note": "never committed"}, conn=conn)
        run = await one.start()
        await eventually(
            lambda: one.database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ),
            what="loading waits",
        )
        yield run
        await transaction.rollback()


async def forget_connections(database: Database) -> None:
    """Those to the server that is gone."""
    await database.pool.expire_connections()
    with contextlib.suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
        await database.value("SELECT 1")
