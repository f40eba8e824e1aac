"""The pages' contents without a browser: figures that agree with the JSON and the database, lists, and decisions over
many changes at once."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from tests.support import statuspage
from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.parking import parked
from tests.support.statuspage import WITH_TOKEN, surgery
from tests.support.waiting import eventually
from worker.errors import CaspenSyncError, DatabaseRefused, DatabaseUnreachable
from worker.reading import SharedReading
from worker.status import Status, status
from worker.telemetry import log
from worker.trail import Trail
from worker.web import changes as module
from worker.web import figures
from worker.web.access import Access
from worker.web.asked import Asked
from worker.web.changes import Changes
from worker.web.doorman import Visitor
from worker.web.figures import Looks

GONE = "gave up after 20 attempts: 503"
NO_ROOM = "422 validation failed: room_id"
REFUSED = "SELECT count(*) FROM caspen_sync.attempt WHERE outcome = 'refused'"


def text_of(page: str) -> str:
    """What a person reads of it."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<main")[2].partition("</main>")[0]).split())


def requests_of(found: Any) -> dict[str, int]:
    """By outcome, of the last hour."""
    requests: Counter[str] = Counter()
    for minute in found["lately"]["minutes"]:
        requests.update(minute["requests"])
    return dict(requests)


def ids_on(page: str) -> list[int]:
    """The changes that can be chosen there."""
    return [int(number) for number in re.findall(r'name="id" value="(\d+)"', page)]


@pytest.mark.long
async def test_the_json_has_every_figure(database: Database) -> None:
    """What the overview says stands at /api/status as well, and both are what the database says."""
    await parked(database, "app_bad", {"room_id": 1}, error=NO_ROOM)
    async with surgery(database, ACCOUNTS__NORTH__TOKEN="north-token", RETRY__PROBE_BASE_S="60") as one:
        for number in range(5):
            await database.write(f"app_{number}", {"note": NOTE})
        for number in range(3):
            await database.write(f"app_{number}", {"note": NOTE}, account="north")
        visitor = statuspage.Visitor(one.address)

        async def settled() -> Any:
            found = json.loads((await visitor.get("/api/status")).text)
            accounts = {each["account"]: each for each in found["status"]["accounts"]} if found["status"] else {}
            done = accounts.keys() == {"default", "north"} and not accounts["default"]["live"]
            refused = done and accounts["north"]["pause_kind"] == "refused"
            told = refused and found["lately"] and not accounts["north"]["in_flight"]
            sent = {"synced": 5, "refused": await database.value(REFUSED)}
            return found if told and requests_of(found) == sent else None

        found = await eventually(settled, what="one account is in step, the other is refused")
        page = (await visitor.get("/")).text
        shown = text_of(page)
        north = next(each for each in found["status"]["accounts"] if each["account"] == "north")
        assert found["verdict"]["level"] == "stopped"
        assert found["verdict"]["headline"] in shown
        assert (north["live"], north["backfill"], north["parked"]) == (3, 0, 0)
        assert 'id="pending" data-value="3"' in page
        assert re.search(r"next try in \d+ (s|min)", shown)
        assert 0 < north["paused_for_s"] <= 60
        requests = requests_of(found)
        assert requests == {"synced": 5, "refused": await database.value(REFUSED)}
        assert f"{requests['synced']} accepted" in shown
        assert f"{requests['refused']} access token refused" in shown
        (reason,) = found["lately"]["reasons"]
        assert (reason["error"], reason["changes"]) == (NO_ROOM, 1)
        assert f"{NO_ROOM} 1" in shown
        (worker,) = found["status"]["workers"]
        assert worker["worker"] in shown
        assert all({"at", "pending", "oldest_s"} == point.keys() for point in found["trail"])


async def test_the_list_of_parked_changes(database: Database) -> None:
    """Oldest first and a page at a time; of one reason, or one account, when asked for, and it says so."""
    await registered(database, account="default")
    await registered(database, account="north")
    first = [await parked(database, f"app_{number}", {"room_id": 1}, error=NO_ROOM) for number in range(module.SHOWN)]
    other = await parked(database, "app_gone", {"note": NOTE}, error=GONE, account="north")
    last = await parked(database, "app_last", {"room_id": 1}, error=NO_ROOM)
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        page = (await visitor.get("/parked")).text
        assert ids_on(page) == first
        more = re.search(r'href="(/parked\?after=\d+)">The next ones', page)
        assert more
        assert ids_on((await visitor.get(more[1])).text) == [other, last]
        overview = (await visitor.get("/")).text
        digests = dict(re.findall(r'id="reason-([0-9a-f]+)"><td[^>]*><bdi class="reason">([^<]+)<', overview))
        assert sorted(digests.values()) == sorted([GONE, NO_ROOM])
        gone = next(digest for digest, error in digests.items() if error == GONE)
        page = (await visitor.get(f"/parked?reason={gone}")).text
        assert ids_on(page) == [other]
        assert f"Only those of one reason: {GONE}" in text_of(page)
        page = (await visitor.get("/parked?account=north")).text
        assert ids_on(page) == [other]
        assert "Only those of account north" in text_of(page)


@pytest.mark.parametrize("action", ["retry", pytest.param("discard", marks=pytest.mark.long)])
async def test_all_of_a_reason_at_once(database: Database, action: str) -> None:
    """After having asked, with a reason for whoever looks later; and the others stay. What newer changes have set
    altogether is not sent again, and that is said."""
    ids = [await parked(database, f"app_{number}", {"room_id": 7}, error=NO_ROOM) for number in range(5)]
    other = await parked(database, "app_other", {"room_id": 7}, error=GONE)
    await database.pool.execute(
        "INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id, set_by)"
        " VALUES ('default', 'app_0', '{}', now(), 999, '{\"room_id\": 999}')"
    )
    digest = await database.value(f"SELECT md5('{NO_ROOM}')")
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        form = {"word": visitor.word, "reason": digest, "whole": "1"}
        asked = await visitor.post(f"/{action}", form)
        assert asked.status == 200
        assert f"{'Send 5 changes again' if action == 'retry' else 'Discard 5 changes'}?" in text_of(asked.text)
        assert set(await database.states()) == {"parked"}
        done = await visitor.post(f"/{action}", form | {"sure": "1", "why": "rooms were renumbered"})
        assert done.status == 303
        said = text_of((await visitor.get(done.headers["Location"])).text)
        if action == "retry":
            assert "4 changes wait to be sent again. 1 change had nothing left to send" in said
        else:
            assert "5 changes were discarded." in said
        states = await database.rows("SELECT id, state FROM caspen_sync.outbox")
        assert {row["id"] for row in states if row["state"] == "parked"} == {other}
        people = await database.rows("SELECT change_id, action, who, reason FROM caspen_sync.intervention")
        assert {tuple(row) for row in people} == {
            (number, action, "Ann (page)", "rooms were renumbered") for number in ids
        }


async def test_more_than_a_click_can_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the oldest are done, and the list shows that there are more."""
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)
    ids = [await parked(database, f"app_{number}", {"room_id": 7}, error=NO_ROOM) for number in range(3)]
    page = Changes(Access(database.pool), log())
    form = (("whole", "1"), ("sure", "1"))
    ann = Visitor(name="Ann", looks=True, token_set=True)
    request = make_mocked_request("POST", "/discard")
    done = await page.discard(Asked(request=request, visitor=ann, form=form))
    assert done.headers["Location"] == "/parked?did=discard&n=2"
    left = await database.rows("SELECT id FROM caspen_sync.outbox WHERE state = 'parked'")
    assert [row["id"] for row in left] == ids[2:]


async def test_where_an_appointment_stands(database: Database) -> None:
    """In each account that knows it: what waits, when the last answer came, each request, and what is parked."""
    async with surgery(database) as one:
        await database.write("app_1", {"note": NOTE})
        await one.clinic.all_synced()
        change = await parked(database, "app_1", {"room_id": 7}, error=NO_ROOM, account="north")
        page = (await statuspage.Visitor(one.address).get("/appointment?id=app_1")).text
        shown = text_of(page)
        assert "Account default : No change waits. Caspen's last answer came at" in shown
        assert re.search(r"accepted 200 \d+ ms 1", shown)
        assert f"Change {change} : {NO_ROOM}" in shown
        assert f"/change?account=north&amp;id={change}" in page


async def test_why_an_appointment_waits(database: Database) -> None:
    """What stops its account is said where the appointment is looked up, until when, and where one can do something."""
    await registered(database, account="west")
    async with surgery(database, ACCOUNTS__NORTH__TOKEN="north-token", RETRY__PROBE_BASE_S="60") as one:
        for account in ("default", "north", "west"):
            await database.write(f"app_{account}", {"note": NOTE}, account=account)
        await one.web.turns("/appointment?id=app_north", 200, "Caspen refuses the access token")
        page = (await one.web.get("/appointment?id=app_north")).text
        shown = text_of(page)
        assert "1 change waits" in shown
        assert re.search(r"Caspen refuses the access token : 401 .*next try in (\d+ s|1 min)", shown)
        assert 'href="/account?name=north"' in page
        page = (await one.web.get("/appointment?id=app_west")).text
        assert "No service works for this account." in page
        assert 'href="/account?name=west"' in page
        page = (await one.web.turns("/appointment?id=app_default", 200, "No change waits")).text
        assert "/account?name=" not in page


async def test_what_was_just_done_shows_at_once(database: Database) -> None:
    """Not the reading from before: who stops an account sees on the next page that it is stopped."""
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        await one.web.turns("/account?name=default", 200, "Changes are sent as they come")
        for _ in range(3):
            assert "Changes are sent as they come" in text_of((await visitor.get("/account?name=default")).text)
            form = {"word": visitor.word, "name": "default", "why": "Caspen moves house"}
            done = await visitor.post("/pause", form)
            shown = text_of((await visitor.get(done.headers["Location"])).text)
            assert "A person has stopped the sending : Ann (page): Caspen moves house" in shown
            await visitor.post("/resume", form)


@pytest.mark.long
async def test_the_work_does_not_wait_for_pages(database: Database) -> None:
    """However many pages wait for the database, they have one connection between them, and changes go out meanwhile."""
    change = await parked(database, "app_bad", {"room_id": 1}, error=NO_ROOM)
    async with surgery(database) as one:
        visitor = statuspage.Visitor(one.address)
        async with database.pool.acquire() as conn:
            await conn.execute("BEGIN; LOCK TABLE caspen_sync.intervention")
            path = f"/change?account=default&id={change}"
            asked = [asyncio.create_task(visitor.get(path)) for _ in range(20)]
            await eventually(one.clinic.waits_for_a_lock, what="a page waits")
            await one.clinic.write(20)
            synced = "SELECT count(*) = 20 FROM caspen_sync.outbox WHERE state = 'synced'"
            await eventually(lambda: database.value(synced), what="the changes are synced")
            assert await one.clinic.backends("count(*)", "wait_event_type = 'Lock'") <= 1
            await conn.execute("ROLLBACK")
        assert {(await page).status for page in asked} <= {200, 503}


@pytest.mark.parametrize(
    "written_at",
    [
        "infinity",
        "294000-01-01",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("-infinity", "0044-03-15 BC")),
    ],
)
async def test_a_change_of_no_time(database: Database, written_at: str) -> None:
    """A writer may say anything: neither the list nor the change's page minds."""
    change = await parked(database, "app_1", {"room_id": 7}, error=NO_ROOM)
    written = "UPDATE caspen_sync.outbox SET created_at = $1::text::timestamptz"
    await database.pool.execute(written, written_at)
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        assert ids_on((await visitor.get("/parked")).text) == [change]
        page = await visitor.get(f"/change?account=default&id={change}")
        assert (page.status, "Written \N{EN DASH}, live lane" in text_of(page.text)) == (200, True)
        assert (await visitor.get("/appointment?id=app_1")).status == 200


async def test_a_body_that_nobody_can_read(database: Database) -> None:
    """It is shown as it stands, but for what turns text around."""
    change = await parked(database, "app_1", {"note": "\u202eexe.png", "room_id": 7}, error=NO_ROOM)
    deep = f"UPDATE caspen_sync.outbox SET changes = changes || '{{\"deep\": {'[' * 3000}{']' * 3000}}}'"
    await database.pool.execute(deep)
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        page = await visitor.get(f"/change?account=default&id={change}")
        assert (page.status, "exe.png" in page.text, "[" * 3000 in page.text) == (200, True, True)
        assert "\u202e" not in page.text


async def test_names_with_blanks(database: Database) -> None:
    """An account and an appointment that have blanks at their ends are found by their links; and what was pasted with
    blanks is found without."""
    change = await parked(database, " app 1 ", {"room_id": 7}, error=NO_ROOM, account=" north ")
    await parked(database, "app_2", {"room_id": 7}, error=NO_ROOM)
    async with surgery(database) as one:
        visitor = statuspage.Visitor(one.address)
        await one.web.turns("/accounts", 200, "/account?name=%20north%20")
        assert "Parked changes 1 change" in text_of((await visitor.get("/account?name=%20north%20")).text)
        page = (await visitor.get("/parked?account=%20north%20")).text
        (link,) = re.findall(r'href="(/change\?[^"]+)"', page)
        assert f"Change {change}" in text_of((await visitor.get(link.replace("&amp;", "&"))).text)
        assert NO_ROOM in (await visitor.get("/appointment?id=%20app%201%20")).text
        assert NO_ROOM in (await visitor.get("/appointment?id=%20app_2%20")).text


async def test_what_is_confirmed_is_what_was_shown(database: Database) -> None:
    """Changes that are parked after the question was put are not among those that are discarded."""
    ids = [await parked(database, f"app_{number}", {"room_id": 7}, error=NO_ROOM) for number in range(3)]
    digest = await database.value(f"SELECT md5('{NO_ROOM}')")
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        asked = await visitor.post("/discard", {"word": visitor.word, "reason": digest, "whole": "1"})
        await parked(database, "app_late", {"room_id": 7}, error=NO_ROOM)
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked.text.partition("<main")[2]))
        assert form["ids"] == ",".join(map(str, ids))
        await visitor.post("/discard", form)
        assert await database.states() == {"discarded": 3, "parked": 1}
        for place in ("//[", "http://[x"):
            assert (await visitor.get(f"/sign-in?next={place}")).status == 303


@pytest.mark.long
async def test_the_work_does_not_wait_for_who_pauses(database: Database) -> None:
    """However often somebody stops an account that is locked: it is one connection, it gives up soon, and the changes
    of other accounts go out meanwhile."""
    async with surgery(database, ACCOUNTS__NORTH__TOKEN="north-token", **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        await one.web.turns("/accounts", 200, "/account?name=north")
        async with database.pool.acquire() as conn:
            await conn.execute("BEGIN; SELECT FROM caspen_sync.account WHERE account = 'north' FOR UPDATE")
            form = {"word": visitor.word, "name": "north"}
            asked = [asyncio.create_task(visitor.post("/pause", form)) for _ in range(12)]
            await eventually(one.clinic.waits_for_a_lock, what="one of them waits")
            await one.clinic.write(5)
            synced = "SELECT count(*) = 5 FROM caspen_sync.outbox WHERE state = 'synced'"
            await eventually(lambda: database.value(synced), what="the changes are synced")
            assert await one.clinic.backends("count(*)", "wait_event_type = 'Lock'") <= 1
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            refused = [await page for page in done]
            assert {page.status for page in refused} == {503}
            assert any("somebody holds a lock" in page.text for page in refused)
            await conn.execute("ROLLBACK")
        await asyncio.wait(asked)


@pytest.mark.long
@pytest.mark.parametrize("state", ["paused", "not"])
async def test_a_button_is_known_by_what_it_does(database: Database, state: str) -> None:
    """What stops an account and what lets it go on are different elements: none turns into the other under a finger."""
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        await one.web.turns("/account?name=default", 200, "Changes are sent as they come")
        if state == "paused":
            await visitor.post("/pause", {"word": visitor.word, "name": "default"})
        page = (await visitor.get("/account?name=default")).text
        wanted = "resume" if state == "paused" else "pause"
        assert f'<form id="{wanted}" method="post" action="/{wanted}"' in page


async def test_an_account_that_nobody_has(database: Database) -> None:
    """It can neither be stopped nor let go on, and that is said."""
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = statuspage.Visitor(one.address)
        await visitor.sign_in()
        for path in ("/pause", "/resume"):
            page = await visitor.post(path, {"word": visitor.word, "name": "nobody"})
            assert (page.status, "There is no such account" in page.text) == (404, True)


async def test_what_is_kept_is_no_silence(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database is far away, a glance is kept for longer; only what is waited for is silence."""
    await registered(database)
    looks = Looks(database.pool, Access(database.pool), SharedReading(database.pool, status), Trail(), ["default"])

    async def known() -> bool:
        return (await looks.now()).status is not None

    await eventually(known, what="it was looked once")
    monkeypatch.setattr(figures, "SILENCE_S", 0.0)
    assert (await looks.now()).verdict.level != "unknown"


@pytest.mark.parametrize(
    ("fault", "headline"),
    [
        (DatabaseUnreachable("database: it took too long"), "Counting what waits …"),
        (DatabaseRefused("database: no right"), "It cannot be said whether changes have reached Caspen"),
    ],
)
async def test_a_count_that_fails_where_the_database_answers(
    database: Database, fault: CaspenSyncError, headline: str
) -> None:
    """One that took too long is no database that is away; one that is refused is told."""

    async def fails(_: object) -> Status:
        raise fault

    await registered(database)
    looks = Looks(database.pool, Access(database.pool), SharedReading(database.pool, fails), Trail(), ["default"])

    async def said() -> bool:
        return (await looks.now()).verdict.headline == headline

    await eventually(said, what=f"the page says {headline!r}")
