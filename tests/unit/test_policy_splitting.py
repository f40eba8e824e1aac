"""Refused folds, driven to their end: `settle` decides, an API in memory answers, the queue does as settle.sql does."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.settlements import LIMITS, NOT_SENT, REJECTED, RETRY, THROTTLED, UNKNOWN, claim, sent, synced
from worker.merge import Change, fold, sift
from worker.outcome import Outcome
from worker.parts import UNSURE_MOST
from worker.policy import settle

BAD_ROOM = 404404
FIELDS = ("note", "room_id", "confirmed")


@dataclass
class Appointment:
    """One appointment's queue here and its state at the API, which takes any room but one."""

    pending: list[Change]
    max_attempts: int = 10**9
    remote: dict[str, Any] = field(default_factory=dict)
    parked: list[int] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)
    requests: int = 0
    part_size: int | None = None
    unsure_ids: tuple[int, ...] = ()
    failures: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def step(self, fault: Outcome | None = None) -> None:
        """One claim, one request, one settlement; `fault` instead of what the API would say."""
        held = claim(
            self.pending[: self.part_size],
            failures=self.failures,
            part_size=self.part_size,
            unsure_ids=self.unsure_ids,
        )
        sound, breaches = sift(held.changes, ids="integer")
        assert sound, "the tests write no breaches"
        outcome = fault or self._answer(fold(sound))
        limits = replace(LIMITS, max_attempts=self.max_attempts)
        settlement = settle(held, sound, sent(outcome), limits, self.chance, breaches=breaches)
        self.requests += 1
        self.part_size, self.failures = settlement.part_size, settlement.failures
        self.unsure_ids = settlement.unsure_ids
        verdicts = {verdict.change_id: verdict for verdict in settlement.verdicts}
        rest = []
        for change in self.pending:
            verdict = verdicts.get(change.id)
            if verdict is None:
                rest.append(change)
            elif verdict.state is None:
                rest.append(Change(id=change.id, changes=change.changes, attempts=change.attempts + verdict.charged))
            else:
                (self.synced if verdict.state == "synced" else self.parked).append(change.id)
        still_pending = {change.id for change in rest}
        due = settlement.due_in_s is not None or any(change_id > settlement.upto_id for change_id in still_pending)
        assert due or not rest, "a change that is pending, in an appointment that is not due, would wait for ever"
        self.pending = rest

    def _answer(self, body: dict[str, Any]) -> Outcome:
        if body.get("room_id") == BAD_ROOM:
            return REJECTED
        self.remote.update(body)
        return synced(**{name: self.remote.get(name) for name in ("note", "confirmed")})

    def drain(self, limit: int) -> None:
        while self.pending:
            assert self.requests < limit, f"not done after {limit} requests"
            self.step()


def numbered(bodies: list[dict[str, Any]]) -> list[Change]:
    return [Change(id=number, changes=body) for number, body in enumerate(bodies, start=1)]


def bound(size: int, guilty: int) -> int:
    """So many requests find `guilty` ones among `size`: some for each level of halving down and doubling up again."""
    return (guilty + 1) * (4 * size.bit_length() + 2)


good = st.fixed_dictionaries(
    {}, optional={"note": st.none() | st.text("ab", max_size=3), "confirmed": st.booleans()}
).filter(bool)
any_room = st.fixed_dictionaries(
    {"room_id": st.sampled_from([None, 1, 2, BAD_ROOM])}, optional={"note": st.text("ab", max_size=3)}
)


@given(bodies=st.lists(good, min_size=1, max_size=200), data=st.data())
def test_exactly_the_guilty_change_parks(bodies: list[dict[str, Any]], data: st.DataObject) -> None:
    """One bad change among others that do not touch its field: it parks, the others sync, in few requests.

    `max_attempts` of 1 does not matter: refusals of a fold are charged, but park nobody by their number.
    """
    guilty = data.draw(st.integers(0, len(bodies) - 1))
    bodies = [body | {"room_id": BAD_ROOM} if n == guilty else body for n, body in enumerate(bodies)]
    appointment = Appointment(numbered(bodies), max_attempts=1)
    appointment.drain(bound(len(bodies), 1))
    assert appointment.parked == [guilty + 1]
    assert appointment.synced == [n for n in range(1, len(bodies) + 1) if n != guilty + 1]


@given(size=st.integers(1, 400), guilty=st.sets(st.integers(1, 400), max_size=6))
def test_exactly_the_guilty_changes_park(size: int, guilty: set[int]) -> None:
    """Several bad ones: each parks, nobody else does."""
    guilty = {number for number in guilty if number <= size}
    bodies = [{"room_id": BAD_ROOM} if number in guilty else {"note": str(number)} for number in range(1, size + 1)]
    appointment = Appointment(numbered(bodies))
    appointment.drain(bound(size, len(guilty)))
    assert appointment.parked == sorted(guilty)
    assert len(appointment.synced) == size - len(guilty)


@given(bodies=st.lists(good | any_room, min_size=1, max_size=40))
@settings(max_examples=300)
def test_each_field_ends_as_its_last_change_that_was_not_parked(bodies: list[dict[str, Any]]) -> None:
    """Whatever overwrites what: nobody innocent parks, and the API ends with what was written last of the rest."""
    changes = numbered(bodies)
    appointment = Appointment(list(changes))
    appointment.drain(2 * len(bodies) * len(bodies) + 10)
    for number in appointment.parked:
        assert changes[number - 1].changes.get("room_id") == BAD_ROOM
    assert appointment.synced == sorted(appointment.synced)
    assert sorted(appointment.synced + appointment.parked) == [change.id for change in changes]
    assert appointment.remote == fold([change for change in changes if change.id not in appointment.parked])


@given(
    size=st.integers(1, 60),
    guilty=st.integers(1, 60),
    faults=st.lists(st.sampled_from([None, RETRY, UNKNOWN, THROTTLED, NOT_SENT]), max_size=80),
)
def test_faults_in_the_middle_of_the_search_do_not_mislead_it(
    size: int, guilty: int, faults: list[Outcome | None]
) -> None:
    """503s, timeouts and 429s between the refusals cost requests, and change nothing else."""
    bodies = [{"room_id": BAD_ROOM} if n == guilty else {"note": str(n)} for n in range(1, size + 1)]
    appointment = Appointment(numbered(bodies))
    for fault in faults:
        if appointment.pending:
            appointment.step(fault)
    wasted = sum(fault is not None for fault in faults)
    appointment.drain(bound(size, 1) + wasted)
    assert appointment.parked == [n for n in [guilty] if n <= size]
    assert len(appointment.synced) == size - len(appointment.parked)


@given(
    size=st.integers(1, 40),
    guilty=st.sets(st.integers(1, 80), max_size=4),
    arrivals=st.lists(st.integers(0, 3), max_size=40),
)
def test_changes_that_come_in_the_middle_of_the_search(size: int, guilty: set[int], arrivals: list[int]) -> None:
    """They wait for their turn; good ones sync and bad ones park, as if they had come before."""

    def change(number: int) -> Change:
        return Change(id=number, changes={"room_id": BAD_ROOM} if number in guilty else {"note": str(number)})

    appointment = Appointment([change(number) for number in range(1, size + 1)])
    total = size
    for arriving in arrivals:
        if appointment.pending:
            appointment.step()
        appointment.pending += [change(number) for number in range(total + 1, total + arriving + 1)]
        total += arriving
    appointment.drain(len(arrivals) + bound(total, len(guilty)))
    assert appointment.parked == sorted(number for number in guilty if number <= total)
    assert len(appointment.synced) == total - len(appointment.parked)
    assert appointment.synced == sorted(appointment.synced)


@dataclass
class Unheard(Appointment):
    """The API does some of what it gives no answer to. Every note is its change's number."""

    notes: list[int] = field(default_factory=list)
    """In the order in which they took effect."""

    def unheard(self) -> None:
        """It does what it is sent next, if it is sound, and nobody hears of it."""
        sound, _ = sift(self.pending[: self.part_size], ids="integer")
        self._answer(fold(sound))
        self.step(UNKNOWN)

    def died(self) -> None:
        """The same, and whoever sent it dies. A claim says beforehand what it is about to send."""
        sound, _ = sift(self.pending[: self.part_size], ids="integer")
        self.unsure_ids = (*self.unsure_ids, sound[-1].id)
        self._answer(fold(sound))

    def _answer(self, body: dict[str, Any]) -> Outcome:
        outcome = super()._answer(body)
        if outcome is not REJECTED:
            self.notes.append(int(body["note"]))
        return outcome


@given(
    rounds=st.lists(
        st.tuples(
            st.lists(st.booleans(), max_size=4), st.sampled_from(["unheard", "died", RETRY, UNKNOWN, THROTTLED, None])
        ),
        max_size=UNSURE_MOST,
    )
)
@example(rounds=[([False, False], "unheard"), ([True], None)])
@example(rounds=[([False, False], "died"), ([True], None)])
@settings(max_examples=300)
def test_what_was_done_unheard_is_not_set_back_by_a_part_of_it(rounds: list[tuple[list[bool], Any]]) -> None:
    """A fold that was maybe done, and then is refused with what came since, goes out again as it was. In parts, older
    changes would undo newer ones until those had their turn."""
    appointment = Unheard([])
    total = 0
    for arriving, fault in rounds:
        for guilty in arriving:
            total += 1
            body = {"note": str(total)} | ({"room_id": BAD_ROOM} if guilty else {})
            appointment.pending.append(Change(id=total, changes=body))
        if not appointment.pending:
            continue
        if fault == "unheard":
            appointment.unheard()
        elif fault == "died":
            appointment.died()
        else:
            appointment.step(fault)
    appointment.drain(appointment.requests + bound(total, total))
    assert appointment.notes == sorted(appointment.notes)


def test_what_was_sent_together_often_is_not_charged_for_the_search() -> None:
    """An outage of many probes, each with one more change, and then the oldest one is refused: the others are blamed no
    more than by any other search, and it takes not many more requests."""
    bodies: list[dict[str, Any]] = [{"room_id": BAD_ROOM}, *({"note": str(number)} for number in range(2, 42))]
    appointment = Appointment(numbered(bodies), max_attempts=20)
    appointment.unsure_ids = tuple(range(2, 42))[-UNSURE_MOST:]
    while not appointment.parked:
        appointment.step()
    assert appointment.parked == [1]
    assert appointment.requests <= UNSURE_MOST + 6
    assert max(change.attempts for change in appointment.pending) <= 6


def test_a_change_that_only_some_neighbours_make_bad_does_not_search_for_ever() -> None:
    """The API refuses two good changes when they come together: sent apart, both go through."""

    class Picky(Appointment):
        def _answer(self, body: dict[str, Any]) -> Outcome:
            return REJECTED if {"note", "confirmed"} <= body.keys() else super()._answer(body)

    bodies: list[dict[str, Any]] = [{"note": "x"}, {"confirmed": True}]
    appointment = Picky(numbered(bodies * 8))
    appointment.drain(200)
    assert appointment.parked == []
    assert appointment.synced == list(range(1, 17))
