"""Accounts whose names, in a configuration, are made to hurt: each is worked for under its own name, and breaks out of
no label, statement, log line, page or unit."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.database import Database
from tests.support.hostile import TEXTS, assert_log, assert_metrics, assert_page, assert_steers_nothing, catalogue
from tests.support.outages import clinic
from tests.support.processes import TOKEN, command
from tests.support.statuspage import WITH_TOKEN, Visitor
from tests.support.units import without_settings
from tests.support.waiting import eventually
from tests.support.web import Metrics, Web, web
from worker.words import toml_key

NAMES = list(TEXTS.values())


def configured(folder: Path) -> str:
    """A configuration that names them all."""
    sections = [f'[accounts.{toml_key(name)}]\ntoken = "{TOKEN}"\nrate_limit = 100\n' for name in NAMES]
    file = folder / "config.toml"
    file.write_text("\n".join(sections).replace("\x7f", "\\u007f"), encoding="utf-8")
    file.chmod(0o600)
    return str(file)


@pytest.mark.long
async def test_an_account_is_what_it_is_called(database: Database, tmp_path: Path) -> None:
    """Its change is sent; log, metrics and pages know it by exactly its name, or by that as a text, and a pause stops
    that account and no other."""
    before = await catalogue(database)
    config = configured(tmp_path)
    async with (
        clinic(database, **WITH_TOKEN) as one,
        web(one.env, "--config", config) as service,
    ):
        for number, name in enumerate(NAMES):
            await database.write(f"app_{number}", {"note": "a long enough note"}, account=name)
        await one.all_synced()
        visitor = Visitor(service.address)
        await visitor.sign_in()
        for path in ("/", "/accounts", *(f"/account?name={quote(name, safe='')}" for name in NAMES)):
            page = await visitor.get(path)
            assert page.status == 200, path
            assert_page(page.text)
        sent = {"word": visitor.word, "name": NAMES[0], "why": "why"}
        assert (await visitor.post("/pause", sent)).status == 303
        await counted(service)
        await one.stopped(service.service)
    events = assert_log(service.service.lines)
    assert {event["account"] for event in events if event["event"] == "request"} == set(NAMES)
    paused = await database.rows("SELECT account FROM caspen_sync.account WHERE pause_kind IS NOT NULL")
    assert [row["account"] for row in paused] == NAMES[:1]
    assert await catalogue(database) == before


def read(file: Path) -> str:
    return file.read_bytes().decode()  # and no carriage return made into a line feed


async def counted(service: Web) -> None:
    """Each name is the value of a label, whole."""

    async def told() -> Metrics | None:
        scrape = await service.scrape()
        return scrape if scrape.values("caspen_sync_account_paused", kind="manual").get((NAMES[0],)) else None

    scrape: Metrics = await eventually(told, what="the pause is counted")
    assert_metrics(scrape.text)
    sent = scrape.values("caspen_sync_requests_total", outcome="synced", status="200")
    assert {name: sent[name,] for name in NAMES} == dict.fromkeys(NAMES, 1)


@pytest.mark.long
async def test_in_files(database: Database, tmp_path: Path) -> None:
    """A textfile for node_exporter has them as labels, and a unit has nothing of them."""
    config = configured(tmp_path)
    text = tmp_path / "run.prom"
    async with clinic(database) as one:
        for name in NAMES:
            await database.write("app_0", {"note": "a long enough note"}, account=name)
        ended = await command("run", "--once", "--config", config, "--textfile", str(text), env=one.env)
    assert (ended.exit_code, await database.states()) == (0, {"synced": len(NAMES)})
    assert_steers_nothing(ended.stderr)
    assert_metrics(read(text))
    sent = Metrics(read(text)).values("caspen_sync_requests_total", outcome="synced", status="200")
    assert {name: sent[name,] for name in NAMES} == dict.fromkeys(NAMES, 1)

    ended = await command("unit", "service", "--config", config, env=without_settings())
    assert ended.exit_code == 0
    assert_steers_nothing(ended.stdout + ended.stderr)
    assert "hacked" not in ended.stdout
