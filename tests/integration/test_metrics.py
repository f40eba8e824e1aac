"""/metrics: figures that are true, names that Prometheus likes, and nothing that the README does not tell of."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.web import assert_clean, web
from worker.sandbox import NO_SUCH_ROOM

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def documented(*, textfile: bool = False) -> dict[str, str]:
    """The families in the README's tables, with their types."""
    section = README.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
    return {name: kind for name, kind in rows.items() if name.startswith("caspen_sync_last_run_") == textfile}


async def test_the_readme_tells_of_all_of_them(database: Database) -> None:
    """Each family of a live scrape stands in the README with its type, and each that stands there is scraped."""
    async with clinic(database) as one, web(one.env) as service:
        families = (await service.scrape()).families()
        ours = {name: kind for name, kind in families.items() if not name.startswith("process_")}
        assert ours == documented()
        assert len(documented(textfile=True)) == 3
        assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} < families.keys()
        await one.stopped(service.service)


@pytest.mark.long
async def test_the_figures_after_a_drain(database: Database) -> None:
    """With folds, faults, refusals and both lanes: what was counted agrees with the API's own log and the outbox."""
    async with clinic(database, RETRY__DOWN_AFTER="1000", RETRY__MAX_ATTEMPTS="1000") as one:
        for number in range(40):
            await database.write(f"app_{number % 13}", {"note": NOTE, "room_id": number})
        for number in range(6):
            await database.write(f"app_backfill_{number}", {"note": NOTE}, lane="backfill")
        await database.write("app_bad", {"room_id": NO_SUCH_ROOM})
        one.sandbox.set_faults({"http_503": 0.4})
        async with web(one.env) as service:
            await service.turns(
                "/metrics", 200, 'caspen_sync_backlog_changes{account="default",lane="live"} 0.0', limit_s=20
            )
            scrape = await service.scrape()

            requests = scrape.values("caspen_sync_requests_total", account="default")
            log = Counter(str(entry.http_status) for entry in one.sandbox.log)
            assert {status: count for (_, status), count in requests.items()} == log
            assert requests["synced", "200"] == log["200"]
            assert requests["rejected", "422"] == log["422"] == 1
            assert requests["retry", "503"] == log["503"] > 0
            assert scrape.value("caspen_sync_request_duration_seconds_count") == log.total()
            assert scrape.value("caspen_sync_request_duration_seconds_bucket", le="+Inf") == log.total()
            assert scrape.value("caspen_sync_retries_total") == log["503"]

            assert await database.states() == {"synced": 46, "parked": 1}
            states = scrape.values("caspen_sync_changes_total", account="default")
            assert states == {("synced",): 46, ("parked",): 1, ("discarded",): 0}
            synced = scrape.values("caspen_sync_commit_to_synced_seconds_count", account="default")
            assert synced == {("live",): 40, ("backfill",): 6}
            assert scrape.value("caspen_sync_folded_changes_total") == 46 - log["200"]
            attempts = await database.value("SELECT count(*) FROM caspen_sync.attempt")
            assert attempts == log.total()

            assert scrape.value("caspen_sync_parked_changes") == 1
            assert scrape.value("caspen_sync_workers") == 1
            assert scrape.value("caspen_sync_requests_in_flight") == 0
            assert scrape.value("caspen_sync_claim_duration_seconds_count") > 0
            assert scrape.value("caspen_sync_loop_lag_seconds_count") > 0
            assert sum(scrape.values("caspen_sync_database_connections").values()) >= 1
            await one.stopped(service.service)


async def test_prometheus_likes_them(database: Database) -> None:
    """`promtool check metrics` has nothing to say to a scrape with everything in it; and who asks for OpenMetrics gets
    what its parser, which is strict, takes."""
    async with clinic(database) as one, web(one.env) as service:
        await one.write(3)
        await database.write("app_1", {"note": NOTE}, account='no"body\n\\')
        await service.turns("/metrics", 200, "caspen_sync_unserved_accounts 1.0", limit_s=10)
        await assert_clean((await service.scrape()).text)
        page = await service.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        assert page.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        names = {family.name for family in openmetrics(page.text)}
        assert "caspen_sync_requests" in names
        await one.stopped(service.service)


async def test_whatever_a_client_asks_for(database: Database) -> None:
    """Without a word that is understood, the answer is the text format that everybody knows."""
    async with clinic(database) as one, web(one.env) as service:
        for accept in ("", "*/*", "text/html", "application/openmetrics-text;version=x", "text/plain;version=", ";;=,"):
            page = await service.get("/metrics", Accept=accept)
            assert (page.status, page.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8"), (
                accept
            )
        assert not service.service.events("http_failed")
        await one.stopped(service.service)
