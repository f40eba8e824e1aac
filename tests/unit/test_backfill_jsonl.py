"""JSON Lines of a backfill: what each line makes, and what is said of those that make nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sources import NORTH_TOO, found_in, settings
from worker.backfill.inspection import APPOINTMENT_ID_MAX_BYTES, Inspector
from worker.backfill.jsonl import rows
from worker.backfill.lines import LINE_MAX_BYTES
from worker.backfill.rows import Reject, Row
from worker.contract import BODY_MAX_BYTES
from worker.errors import SourceError

SOUND = '{"appointment_id": "app_1", "changes": {"room_id": 7}}'
BODY = '{"appointment_id": "app_1", "changes": %s}'
ANYWHERE = Inspector(accounts=frozenset({"default"}), default_account="default", ids="integer")


def one(line: str | bytes) -> Row | Reject:
    """What a line makes that is the second one, so that it may look like the beginning of a document."""
    text = line.encode() if isinstance(line, str) else line
    found = list(rows(iter([b"", text]), ANYWHERE, label="x.jsonl", encoding="utf-8"))
    assert len(found) == 1
    return found[0]


def wrong_with(line: str | bytes) -> str:
    found = one(line)
    assert isinstance(found, Reject), line
    assert found.line == 2
    return "; ".join(map(str, found.problems))


async def test_lines_become_rows(tmp_path: Path) -> None:
    """Each line is a row with what it sets and clears; blank lines, CRLF and a last line without an end are fine."""
    content = (
        '{"appointment_id": "app_1", "changes": {"note": null, "room_id": 7}}\r\n'
        "\r\n   \n"
        '{"changes": {"note": "é\\u00e9"}, "appointment_id": "app_2", "account": "north"}\n'
        '{"appointment_id": "app_3", "account": null, "changes": {"resource_ids": []}}'
    )
    found = await found_in(tmp_path / "a.jsonl", content, configured=settings(accounts=NORTH_TOO))
    assert not found.rejects
    assert found.said == [
        ("app_1", {"note": None, "room_id": 7}),
        ("app_2", {"note": "éé"}),
        ("app_3", {"resource_ids": []}),
    ]
    assert [(row.line, row.account, row.fields, row.cleared) for row in found.rows] == [
        (1, "default", ("note", "room_id"), ("note",)),
        (4, "north", ("note",), ()),
        (5, "default", ("resource_ids",), ()),
    ]


def test_equal_lines_have_equal_digests() -> None:
    """Whatever the order of keys and the spaces; another appointment, account, field or value is another digest."""

    def digest(line: str, account: str = "default") -> Any:
        inspector = Inspector(accounts=frozenset({account}), default_account=account, ids="integer")
        (row,) = rows(iter([line.encode()]), inspector, label="x", encoding="utf-8")
        assert isinstance(row, Row)
        return row.digest

    base = digest('{"appointment_id": "app_1", "changes": {"note": "a", "room_id": 7}}')
    assert digest('{"changes":{"room_id":7,"note":"\\u0061"},"appointment_id":"app_1"}') == base
    others = [
        digest('{"appointment_id": "app_2", "changes": {"note": "a", "room_id": 7}}'),
        digest('{"appointment_id": "app_1", "changes": {"note": "b", "room_id": 7}}'),
        digest('{"appointment_id": "app_1", "changes": {"note": null, "room_id": 7}}'),
        digest('{"appointment_id": "app_1", "changes": {"note": "a", "case_id": 7}}'),
        digest('{"appointment_id": "app_1", "changes": {"note": "a", "room_id": 7}}', "north"),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line: is not JSON: EOF while parsing an object (column 1)"),
        ("nonsense", "line: is not JSON: expected ident (column 2)"),
        (SOUND + SOUND, "line: is not JSON: trailing characters"),
        ("7", "line: is no object such as"),
        ("[1]", "line: is no object such as"),
        ("null", "line: is no object such as"),
        (BODY % '{"room_id": NaN}', "line: is not JSON: expected value"),
        (BODY % '{"room_id": Infinity}', "line: is not JSON"),
        (BODY % ('{"room_id": %s}' % ("7" * 5000)), "line: is not JSON: number out of range"),
        (BODY % ('{"room_id": %s}' % ("7" * 400)), "room_id: must be a whole number from 0 to 2^63-1"),
        (BODY % '{"room_id": 1e999}', "room_id: must be an integer"),
        (BODY % ('{"note": ' + "[" * 5000 + "]" * 5000 + "}"), "line: is not JSON: recursion limit exceeded"),
        (BODY % '{"note": "\\ud800"}', "line: is not JSON"),
        (BODY % '{"note": "\\ud800 and more"}', "line: is not JSON"),
        (BODY % '{"note": "a\\u0000b"}', "note: must hold no NUL character"),
        (b'{"appointment_id": "app_1", "changes": {"note": "\xff"}}', "line: is not valid UTF-8"),
        (b'\xff{"appointment_id": "app_1", "changes": {"room_id": 7}}', "line: is not valid UTF-8"),
        (BODY % "{}", "changes: must name at least one field"),
        (BODY % "[]", "changes: must be a JSON object"),
        (BODY % "null", "changes: is missing"),
        ('{"appointment_id": "app_1"}', "changes: is missing"),
        (BODY % '{"romo_id": 7}', "romo_id: is not a field of the API"),
        (BODY % '{"note": 7, "confirmed": null}', "note: must be a string; confirmed: must be true or false"),
        (BODY % ('{"note": "%s"}' % ("x" * 256)), "note: must be at most 255 characters"),
        ('{"changes": {"room_id": 7}}', "appointment_id: is missing"),
        ('{"appointment_id": 7, "changes": {"room_id": 7}}', "appointment_id: must be a string"),
        ('{"appointment_id": "", "changes": {"room_id": 7}}', "appointment_id: is empty"),
        ('{"appointment_id": "..", "changes": {"room_id": 7}}', "appointment_id: would change the path"),
        ('{"appointment_id": " app_1", "changes": {"room_id": 7}}', "appointment_id: must be printable"),
        ('{"appointment_id": "a\\u0000b", "changes": {"room_id": 7}}', "appointment_id: must be printable"),
        ('{"appointment_id": "%s", "changes": {"room_id": 7}}' % ("x" * 1001), "appointment_id: must be at most"),
        ('{"appointment_id": "app_1", "room_id": 7, "changes": {"room_id": 7}}', "room_id: belongs into changes"),
        ('{"appointment_id": "app_1", "id": 7, "changes": {"room_id": 7}}', "id: is not a key of a line"),
        ('{"account": "south", "appointment_id": "a", "changes": {"room_id": 7}}', "account: is not an account of the"),
        ('{"account": [], "appointment_id": "app_1", "changes": {"room_id": 7}}', "account: must be a string"),
    ],
)
def test_what_is_wrong_with_a_line(line: str | bytes, problem: str) -> None:
    """Each way in which a line may be wrong is named, and nothing that a line may hold ends in a traceback."""
    assert problem in wrong_with(line)


def test_all_that_is_wrong_with_a_line_is_said_at_once() -> None:
    """Key, account, appointment and every field, so that a line is mended once."""
    line = '{"id": 1, "account": "south", "appointment_id": "", "changes": {"note": 1, "room_id": "7"}}'
    assert [part.split(":")[0] for part in wrong_with(line).split("; ")] == [
        "id", "account", "appointment_id", "note", "room_id",
    ]  # fmt: skip


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    """As in Postgres, whose jsonb an application's line would have become."""
    found = one('{"appointment_id": "app_1", "changes": {"room_id": 7, "room_id": 8}}')
    assert isinstance(found, Row)
    assert json.loads(found.changes) == {"room_id": 8}


def test_a_backslash_is_no_nul() -> None:
    r"""A note that says \u0000 in six characters is sound."""
    found = one(BODY % '{"note": "\\\\u0000"}')
    assert isinstance(found, Row)
    assert json.loads(found.changes) == {"note": "\\u0000"}


@pytest.mark.parametrize("extra", [0, 1])
def test_the_largest_body_is_the_largest_that_a_claim_takes(extra: int) -> None:
    """The limit is that of the text Postgres writes, spaces included; a byte more is refused."""
    # {"resource_ids": [10, 10, …]} and one number that makes up the rest.
    frame, each = len('{"resource_ids": []}'), len("10, ")
    count, rest = divmod(BODY_MAX_BYTES - frame + extra - len("10"), each)
    ids = [10] * count + [10 ** (1 + rest)]
    assert len(json.dumps({"resource_ids": ids})) == BODY_MAX_BYTES + extra
    found = one(json.dumps({"appointment_id": "app_1", "changes": {"resource_ids": ids}}))
    assert isinstance(found, Reject if extra else Row)


def test_ids_are_what_the_configuration_says() -> None:
    """With api.ids = any, text is sound where an id is asked for."""
    inspector = Inspector(accounts=frozenset({"default"}), default_account="default", ids="any")
    (found,) = rows(iter([(BODY % '{"room_id": "r_1"}').encode()]), inspector, label="x", encoding="utf-8")
    assert isinstance(found, Row)


def test_without_a_default_each_line_names_its_account() -> None:
    """With several accounts and none called default, a line that names none is refused, and the mend is said."""
    inspector = Inspector(accounts=frozenset({"north", "south"}), default_account=None, ids="integer")
    named = SOUND.replace("{", '{"account": "south", ', 1)
    first, second = rows(iter([SOUND.encode(), named.encode()]), inspector, label="x", encoding="utf-8")
    assert isinstance(first, Reject)
    assert "give --account" in str(first.problems[0])
    assert isinstance(second, Row)
    assert second.account == "south"


@pytest.mark.parametrize("content", ["[" + SOUND + "]", "[\n" + SOUND + "\n]", "{\n" + SOUND[1:], "  [", "[]\n"])
async def test_one_json_document_is_refused_as_such(tmp_path: Path, content: str) -> None:
    """An array, or an object over several lines, is named for what it is, with the mend, and not line by line."""
    with pytest.raises(SourceError, match=r"a\.json: is one JSON document, not JSON Lines.*jq"):
        await found_in(tmp_path / "a.json", content)


@pytest.mark.parametrize("remark", ["", "# line 17: appointment_id: is missing\n"])
async def test_a_table_is_told_apart(tmp_path: Path, remark: str) -> None:
    """By its header; remarks of rejects are none."""
    with pytest.raises(SourceError, match=r"a\.jsonl: line 1 is no JSON, but .* CSV; is it --format csv\?"):
        await found_in(tmp_path / "a.jsonl", "appointment_id,note\napp_1,x\n")
    assert len((await found_in(tmp_path / "b.jsonl", f"{remark}{SOUND}\n")).rows) == 1


async def test_a_line_that_is_too_long_is_refused_by_itself(tmp_path: Path) -> None:
    """However long it is, it is a reject whose raw is cut; its neighbours are rows, with their own line numbers."""
    spaced = SOUND + " " * LINE_MAX_BYTES + "and more"
    content = f"{SOUND}\n{'x' * (3 * LINE_MAX_BYTES)}\n{SOUND}\n{'y' * (LINE_MAX_BYTES + 1)}\n{SOUND}\n{spaced}\n"
    found = await found_in(tmp_path / "a.jsonl", content)
    assert [row.line for row in found.rows] == [1, 3, 5]
    assert list(found.problems) == [2, 4, 6]
    assert all("is longer than 1048576 bytes" in problem for problem in found.problems.values())
    assert all(len(reject.raw) <= LINE_MAX_BYTES + 1 for reject in found.rejects)


async def test_remarks_are_skipped(tmp_path: Path) -> None:
    """What stands before a reject says nothing, but it counts as a line of the file."""
    found = await found_in(tmp_path / "a.jsonl", f"# line 3: note: must be a string\n{SOUND}\n# a comment\n")
    assert [row.line for row in found.rows] == [2]
    assert list(found.problems) == [3]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["appointment_id", "changes", "account", "note", "x"])
_FIELDS = st.sampled_from(["note", "room_id", "confirmed", "resource_ids", "starts_at", "x"])


@given(
    st.binary()
    | st.dictionaries(_KEYS, _JSON | st.dictionaries(_FIELDS, _JSON)).map(lambda said: json.dumps(said).encode())
)
def test_any_line_is_a_row_a_reject_or_nothing(line: bytes) -> None:
    """Whatever a line holds, it raises nothing; and a row holds text that Postgres can take."""
    for found in rows(iter([b"", line]), ANYWHERE, label="x", encoding="utf-8"):
        assert isinstance(found, Row | Reject)
        if isinstance(found, Row):
            assert "\0" not in json.dumps(json.loads(found.changes), ensure_ascii=False).replace("\\\\", "")
            assert found.appointment_id
            assert len(found.appointment_id.encode()) <= APPOINTMENT_ID_MAX_BYTES


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=255) | st.none(),
    st.integers(0, 2**63 - 1) | st.none(),
)
def test_what_is_sound_arrives_as_it_was(note: str | None, room_id: int | None) -> None:
    """Any note and any id come out as they went in."""
    changes = {"note": note, "room_id": room_id}
    found = one(json.dumps({"appointment_id": "app_1", "changes": changes}))
    assert isinstance(found, Row)
    assert json.loads(found.changes) == changes
    assert found.cleared == tuple(name for name in ("note", "room_id") if changes[name] is None)
