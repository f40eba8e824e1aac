"""The printed units under a real systemd: one that the test boots in namespaces of its own."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.audit import assert_settled
from tests.support.database import Database
from tests.support.processes import TOKEN
from tests.support.rawserver import closed_port
from tests.support.realsystemd import Systemd, real_systemd
from tests.support.servers import Server, looked_into
from tests.support.units import configured, unit
from tests.support.waiting import eventually
from worker import unit as units
from worker.config import validated
from worker.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.long

SERVICE = "caspen-sync.service"
ONCE = "caspen-sync-once.service"
PYTHON = f"--identifier={Path(sys.executable).name}"  # what the units start, and nothing that systemd itself says
RUNNING = {"ActiveState": "active", "SubState": "running"}


@pytest.fixture
async def systemd() -> AsyncIterator[Systemd]:
    async with real_systemd() as running:
        yield running


@pytest.fixture
async def clinic(server: Server) -> AsyncIterator[Database]:
    """A database that anybody reaches by TCP."""
    async with looked_into(server.dsn()) as database:
        yield database


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as running:
        yield running


async def installed(systemd: Systemd, config: Path, *args: str, **overridden: str) -> None:
    """The unit as it is printed, but for what is overridden."""
    text = (await unit(*args, "--config", str(config))).stdout
    await systemd.install(ONCE if "--once" in args else SERVICE, text, **overridden)


async def test_the_service_from_start_to_stop(
    systemd: Systemd, clinic: Database, sandbox: Sandbox, tmp_path: Path
) -> None:
    """It becomes ready, tells its status, sends what is written, and reloads and stops as asked, under the printed
    hardening and with files that only root may read. Its log has levels in the journal."""
    await installed(systemd, configured(tmp_path, clinic.dsn, sandbox.base_url), "service")
    await clinic.write("app_1", {"note": "before the start"})
    await systemd.systemctl("start", SERVICE)
    await systemd.comes_to(SERVICE, **RUNNING)
    await clinic.write("app_2", {"note": "while it runs"})
    await clinic.write("app_3", {"room_id": "seven"})
    await eventually(lambda: len(sandbox.log) == 2, what="both changes are sent")
    await eventually(lambda: _parked(clinic), what="the third is parked")
    await eventually(lambda: _status(systemd), what="a status")

    await systemd.systemctl("reload", SERVICE)
    await systemd.comes_to(SERVICE, **RUNNING, NRestarts="0")
    (pid,) = await systemd.show(SERVICE, "MainPID")
    # The call that sets it is among those that the unit's filter is about.
    assert "\nMax core file size        1 " in await systemd.run("cat", f"/proc/{pid}/limits")

    await systemd.systemctl("stop", SERVICE)
    await systemd.comes_to(SERVICE, ActiveState="inactive", Result="success", ExecMainStatus="0", NRestarts="0")
    await assert_settled(clinic)
    await _its_log_has_levels(systemd)


async def _status(systemd: Systemd) -> str:
    return (await systemd.show(SERVICE, "StatusText"))[0]


async def _parked(clinic: Database) -> bool:
    return (await clinic.states()).get("parked") == 1


async def _its_log_has_levels(systemd: Systemd) -> None:
    """The prefix is gone, what is left is JSON, and of warnings there is the one about the change that parked."""
    said = await systemd.journal(SERVICE, PYTHON)
    assert {"worker_started", "change_parked", "worker_stopped"} <= _events(said)
    assert _events(await systemd.journal(SERVICE, PYTHON, "--priority=warning")) == {"change_parked"}


def _events(said: str) -> set[str]:
    return {json.loads(line)["event"] for line in said.splitlines()}


async def test_a_frozen_service_is_started_again(
    systemd: Systemd, clinic: Database, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The watchdog: who does not call is killed, and its successor works."""
    config = configured(tmp_path, clinic.dsn, sandbox.base_url)
    await installed(systemd, config, "service", WatchdogSec="2", RestartSec="100ms")
    await systemd.systemctl("start", SERVICE)
    (before,) = await systemd.show(SERVICE, "MainPID")
    await systemd.systemctl("kill", "--kill-whom=main", f"--signal={signal.SIGSTOP.name}", SERVICE)
    await systemd.comes_to(SERVICE, **RUNNING, NRestarts="1")
    assert "Watchdog timeout (limit 2s)!" in await systemd.journal(SERVICE)
    assert await systemd.show(SERVICE, "MainPID") != [before]
    await clinic.write("app_1", {"note": "afterwards"})
    await eventually(lambda: len(sandbox.log) == 1, what="the change is sent")


async def test_a_service_that_works_is_left_alone(
    systemd: Systemd, clinic: Database, sandbox: Sandbox, tmp_path: Path
) -> None:
    """It calls the watchdog in time, for several times over, idle as it is."""
    config = configured(tmp_path, clinic.dsn, sandbox.base_url)
    await installed(systemd, config, "service", WatchdogSec="1")
    await systemd.systemctl("start", SERVICE)
    (since,) = await systemd.show(SERVICE, "ActiveEnterTimestampMonotonic")

    async def four_seconds_on() -> bool:
        uptime = float((await systemd.run("cat", "/proc/uptime")).split()[0])
        return uptime > int(since) / 1e6 + 4

    await eventually(four_seconds_on, every_s=0.1)
    await systemd.comes_to(SERVICE, **RUNNING, NRestarts="0")


async def test_a_database_that_is_away_at_boot(
    systemd: Systemd, server: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The service is there when the database is, however often it was started before."""
    await server.stop("fast")
    config = configured(tmp_path, server.dsn(), sandbox.base_url)
    await installed(systemd, config, "service", RestartSec="50ms")
    await systemd.systemctl("start", "--no-block", SERVICE)
    # Five starts in ten seconds are what systemd puts up with, unless the unit says otherwise.
    await eventually(lambda: _restarts(systemd, 6), limit_s=60, every_s=0.1)
    await server.start()
    await systemd.comes_to(SERVICE, **RUNNING)


async def _restarts(systemd: Systemd, wanted: int) -> bool:
    return int((await systemd.show(SERVICE, "NRestarts"))[0]) >= wanted


async def test_a_new_token_takes_a_restart(systemd: Systemd, clinic: Database, tmp_path: Path) -> None:
    """As the unit's comment says: systemd reads the file when it starts the service, and not at a reload."""
    async with Sandbox(SandboxSettings(tokens=("token-of-tomorrow",), limit=1000)) as sandbox:
        config = configured(tmp_path, clinic.dsn, sandbox.base_url, token="token-of-yesterday")
        await installed(systemd, config, "service")
        await clinic.write("app_1", {"note": "n1"})
        await systemd.systemctl("start", SERVICE)
        await eventually(lambda: clinic.value("SELECT pause_kind FROM caspen_sync.account"), what="a refusal")
        configured(tmp_path, clinic.dsn, sandbox.base_url, token="token-of-tomorrow")
        await systemd.systemctl("reload", SERVICE)
        copied = await systemd.run("cat", f"/run/credentials/{SERVICE}/token.default")
        assert copied == "token-of-yesterday\n"
        await systemd.systemctl("restart", SERVICE)
        await eventually(lambda: clinic.value("SELECT bool_and(state = 'synced') FROM caspen_sync.outbox"))


async def test_the_timer_starts_a_run(systemd: Systemd, clinic: Database, sandbox: Sandbox, tmp_path: Path) -> None:
    """Within the minute; what the run does not find out about is not a failure, and it says nothing."""
    await installed(systemd, configured(tmp_path, clinic.dsn, sandbox.base_url), "service", "--once")
    await systemd.install("caspen-sync-once.timer", (await unit("timer")).stdout)
    await clinic.write("app_1", {"note": "n1"})
    await systemd.systemctl("start", "caspen-sync-once.timer")
    await eventually(lambda: len(sandbox.log) == 1, limit_s=75, what="a run")
    await systemd.comes_to(ONCE, ActiveState="inactive", Result="success", ExecMainStatus="0")
    assert await systemd.journal(ONCE, PYTHON) == ""


@pytest.mark.parametrize(
    ("fault", "status", "state"), [("down", "75", "inactive"), ("unreachable", "69", "failed"), ("no", "65", "failed")]
)
async def test_how_a_run_ended(
    systemd: Systemd, clinic: Database, tmp_path: Path, fault: str, status: str, state: str
) -> None:
    """What is left for the next run (75) is no failure; what a person has to see to is."""
    await clinic.write("app_1", {"note": "n1"} if fault == "down" else {"room_id": "seven"})
    faults = {"http_503": 1.0} if fault == "down" else {}
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, faults=faults)) as sandbox:
        dsn = f"postgresql://127.0.0.1:{closed_port()}/x" if fault == "unreachable" else clinic.dsn
        await installed(systemd, configured(tmp_path, dsn, sandbox.base_url), "service", "--once")
        await systemd.systemctl("start", ONCE, check=False)
    await systemd.comes_to(ONCE, ActiveState=state, ExecMainStatus=status)
    if fault == "unreachable":
        assert "cannot be reached" in await systemd.journal(ONCE, "--priority=err")


ODD = """we ird %h ${HOME} "q" 'a' \\t;x:y #z"""
SCRIPT = """\
#!/usr/bin/env python3
import json, os, sys
folder = os.environ["CREDENTIALS_DIRECTORY"]
read = {name: open(os.path.join(folder, name)).read() for name in os.listdir(folder)}
print(json.dumps([sys.argv, os.getcwd(), os.environ["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN_FILE"], read]))
"""


async def test_odd_paths_come_out_as_they_went_in(systemd: Systemd, tmp_path: Path) -> None:
    """Spaces, quotes, backslashes, % and $ in every path of a unit, of an installation where a service sees nothing;
    but for the program's own, in which systemd allows no quotes and backslashes."""
    folder, bin_folder = tmp_path / ODD, tmp_path / ODD.translate({ord(char): None for char in "'\"\\"})
    for one in (folder, bin_folder):
        one.mkdir()
    script, config, token = bin_folder / "caspen-sync", folder / "config.toml", folder / "token"
    for file, text in ((script, SCRIPT), (config, "the configuration"), (token, "the token")):
        file.write_text(text, encoding="utf-8")
    script.chmod(0o755)
    installation = units.Installation(
        command=[str(script), ODD], folder=folder, parts=[folder, script], for_one_user=False
    )
    settings = validated({"accounts": {"default": {"token_file": str(token)}}})
    plan = units.Plan(installation=installation, config=config, settings=settings)
    await systemd.install(SERVICE, units.service(plan), Type="exec", Restart="no")
    await systemd.systemctl("start", SERVICE)
    await systemd.comes_to(SERVICE, ActiveState="inactive", Result="success")
    argv, cwd, token_file, read = json.loads(await systemd.journal(SERVICE, "--identifier=caspen-sync"))
    credentials = f"/run/credentials/{SERVICE}"
    assert argv == [str(script), ODD, "run", "--config", f"{credentials}/config.toml"]
    assert cwd == str(folder)
    assert token_file == f"{credentials}/token.default"
    assert read == {"config.toml": "the configuration", "token.default": "the token"}
