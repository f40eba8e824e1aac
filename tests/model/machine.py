"""The model: writers, workers, the API, people and time, each of whose steps is a rule; and what must hold after any of
them, in any order."""

from __future__ import annotations

import random
import sys
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

import aiohttp
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.model.api import FAULTS_OF_THE_ACCOUNT, LOOSE, Fate
from tests.model.ledger import FIELDS, Change, Kind, saying
from tests.model.people import Action
from tests.model.run import Run
from tests.model.stage import Stage
from tests.model.workers import Worker
from tests.model.writers import Writer

T = TypeVar("T")

APPOINTMENTS = ("app_a", "app_b", "app_c")
WORKERS = 2

AChange = tuple[str, dict[str, bool], Kind, str]
"""Appointment, fields and whether they are null, kind, lane."""
Changes = list[AChange]

which = st.integers(0, 5)
"""One of several: it is taken modulo how many there are, so that whatever goes away leaves a failure playable."""
appointments = st.sampled_from(APPOINTMENTS)
fields = st.dictionaries(st.sampled_from(FIELDS), st.booleans(), min_size=1, max_size=3)
kinds = st.sampled_from([Kind.GOOD] * 4 + [Kind.BREACH, Kind.REFUSED])
lanes = st.sampled_from(["live", "live", "live", "backfill"])
# A little; past a backoff; half a timeout and a whole one; past a window; past a lease and a slot's worst case.
spans = st.sampled_from([0.01, 0.01, 1.0, 4.0, 15.0, 29.0, 31.0, 61.0, 80.0, 200.0])
changes = st.tuples(appointments, fields, kinds, lanes)
# Those after which a request is loose are what makes trouble.
fates = st.sampled_from(
    [Fate.DONE] * 8 + [fate for fate in Fate if fate not in FAULTS_OF_THE_ACCOUNT] + [*Fate, *LOOSE, *LOOSE, *LOOSE]
)


class Machine(RuleBasedStateMachine):
    """One run on one account of its own."""

    stage: ClassVar[Stage]
    """Set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Run
        self.numbers = 0

    def does(self, step: Coroutine[Any, Any, T]) -> T:
        """Takes a step, and looks at what may be looked at meanwhile."""
        self.stage.steps += 1

        async def taken() -> T:
            done = await step
            await self.run.audit.meanwhile()
            return done

        return self.stage.loop.run_until_complete(taken())

    @initialize(
        seed=st.integers(0, 2**16),
        max_attempts=st.sampled_from([20, 3, 1]),
        coalesce=st.sampled_from([True, True, True, False]),
        limit=st.sampled_from([1, 1, 3, 8]),
        down_after=st.sampled_from([2, 5]),
        hostile=st.sampled_from([True, True, False]),
        backlog=st.lists(changes, min_size=1, max_size=6),
    )
    def begins(self, seed: int, hostile: bool, backlog: Changes, **settings: Any) -> None:
        """`hostile`: what is loose lands at the last moment; else it never does. `down_after`: 5 is never."""
        begun = self.stage.begin(random.Random(seed), hostile=hostile, workers=WORKERS, **settings)
        self.run = self.stage.loop.run_until_complete(begun)
        self.commit(backlog)

    # -- writers -----------------------------------------------------------------------------------------------------

    @rule(nth=which, change=changes)
    def writes(self, nth: int, change: AChange) -> None:
        writer = self.writer(nth)
        if self.run.writers.may_insert(writer, change[0]):
            self.does(self.run.writers.insert(writer, self.change(*change)))

    @rule(backlog=st.lists(changes, min_size=1, max_size=3))
    def writes_and_commits(self, backlog: Changes) -> None:
        self.commit(backlog)

    @precondition(lambda self: self.run.writers.able)
    @rule(nth=which, commit=st.sampled_from([True, True, False]))
    def ends(self, nth: int, commit: bool) -> None:
        self.does(self.run.writers.end(self.one(self.run.writers.able, nth), commit=commit))

    @precondition(lambda self: self.run.writers.able)
    @rule(nth=which)
    def sets_a_savepoint_or_goes_back_to_it(self, nth: int) -> None:
        writer = self.one(self.run.writers.able, nth)
        if len(writer.written) == 1:
            self.does(self.run.writers.savepoint(writer))
        else:
            self.does(self.run.writers.roll_back_to_savepoint(writer))

    # -- workers -----------------------------------------------------------------------------------------------------

    @rule(nth=which)
    def takes_in(self, nth: int) -> None:
        self.does(self.worker(nth).take_in())

    @rule(nth=which, most=st.integers(1, 3))
    def claims(self, nth: int, most: int) -> None:
        self.does(self.worker(nth).claim(most))

    @rule(nth=which)
    def claims_an_arrival(self, nth: int) -> None:
        self.does(self.worker(nth).claim_arrival())

    @precondition(lambda self: any(worker.waiting for worker in self.run.workers))
    @rule(nth=which)
    def starts(self, nth: int) -> None:
        waiting = [(worker, n) for worker in self.run.workers for n in range(len(worker.waiting))]
        worker, n = waiting[nth % len(waiting)]
        self.does(worker.start(n))

    @rule(nth=which)
    def takes_in_claims_and_starts(self, nth: int) -> None:
        self.does(self.run.set_out(self.worker(nth)))

    @precondition(lambda self: not all(worker.idle for worker in self.run.workers))
    @rule(nth=which)
    def hears(self, nth: int) -> None:
        self.does(self.worker(nth).hear())

    @precondition(lambda self: any(worker.done for worker in self.run.workers))
    @rule(nth=which, unheard=st.sampled_from([False, False, True]))
    def writes_back(self, nth: int, unheard: bool) -> None:
        """`unheard`: the commit's answer gets lost."""
        ready = [worker for worker in self.run.workers if worker.done]
        worker = ready[nth % len(ready)]
        worker.store.commit_unheard = unheard
        self.does(worker.write_back())

    @precondition(lambda self: not all(worker.idle for worker in self.run.workers))
    @rule(nth=which, after_a_batch=st.booleans())
    def dies(self, nth: int, after_a_batch: bool) -> None:
        """`after_a_batch`: in the middle of writing back, once the first transaction of it is committed."""
        worker = self.worker(nth)
        if after_a_batch:
            worker.store.gives_back = False
            self.does(worker.write_back())
        self.does(self.run.replace(worker))

    # -- the API -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.run.connecting)
    @rule(nth=which, refused=st.sampled_from([False, False, False, True]))
    def connects(self, nth: int, refused: bool) -> None:
        worker, flight = self.one(self.run.connecting, nth)
        error = aiohttp.ClientConnectionError() if refused else None
        self.does(worker.connect(flight, error))

    @precondition(lambda self: self.run.unreceived)
    @rule(nth=which)
    def receives(self, nth: int) -> None:
        self.run.api.receive(self.one(self.run.unreceived, nth))

    @precondition(lambda self: self.run.open)
    @rule(nth=which, fate=fates)
    def answers(self, nth: int, fate: Fate) -> None:
        self.run.api.meet(self.one(self.run.open, nth), fate)

    @precondition(lambda self: self.run.connecting)
    @rule(nth=which, fate=fates)
    def connects_and_answers(self, nth: int, fate: Fate) -> None:
        worker, flight = self.one(self.run.connecting, nth)
        self.does(self.run.deliver(worker, flight, fate))

    @precondition(lambda self: self.run.loose)
    @rule(nth=which)
    def lands_late(self, nth: int) -> None:
        self.run.api.land(self.one(self.run.loose, nth))

    # -- people and time ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.run.audit.ledger.committed)
    @rule(nth=which, action=st.sampled_from(Action), fields=fields, meanwhile=st.booleans())
    def deals_with_a_parked_change(self, nth: int, action: Action, fields: dict[str, bool], meanwhile: bool) -> None:
        """`meanwhile`: while a worker holds whatever it could get."""
        if meanwhile:
            self.does(self.run.set_out(self.worker(nth)))
        self.numbers += 1
        self.does(self.run.people.deal_with_parked(nth, action, saying(self.numbers, fields, Kind.GOOD)))

    @precondition(lambda self: self.run.around.on_wire)
    @rule()
    def pauses_or_resumes(self) -> None:
        self.does(self.run.people.pause_or_resume())

    @rule(seconds=spans)
    def time_passes(self, seconds: float) -> None:
        self.does(self.run.pass_time(seconds))

    @rule(nth=which, fates=st.lists(fates, min_size=1, max_size=3), slow=st.booleans(), seconds=spans)
    def works(self, nth: int, fates: list[Fate], slow: bool, seconds: float) -> None:
        """A worker does a round of all that it does, one request after the other, and then time passes."""
        self.does(self.run.round(self.worker(nth), fates, slow=slow))
        self.does(self.run.pass_time(seconds))

    @rule(nth=which, news=changes, fates=st.lists(fates, min_size=1, max_size=3), seconds=spans)
    def has_news_and_works(self, nth: int, news: AChange, fates: list[Fate], seconds: float) -> None:
        """The same, with something new to do."""
        self.commit([news])
        self.works(nth, fates, False, seconds)

    @rule(seconds=spans)
    def all_goes_well_for(self, seconds: float) -> None:
        """Whoever is alive does its work, the API answers, and then time passes."""
        self.does(self.run.go_well())
        self.does(self.run.pass_time(seconds))

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Faults end, those who died are replaced, and everything is drained; or, after a failure, just dropped."""
        if not hasattr(self, "run"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.does(self.run.drain())
        finally:
            self.stage.loop.run_until_complete(self.run.close())
            self.stage.ended(self.run)

    # -- choices -----------------------------------------------------------------------------------------------------

    def writer(self, nth: int) -> Writer:
        return self.one(self.run.writers.all, nth)

    def worker(self, nth: int) -> Worker:
        return self.one(self.run.workers, nth)

    def one(self, several: Any, nth: int) -> Any:
        return several[nth % len(several)]

    def commit(self, backlog: Changes) -> None:
        """A transaction for each of them, where no other one is in the way."""
        for change in backlog:
            writer = next((writer for writer in self.run.writers.all if not writer.is_open), None)
            if writer and self.run.writers.is_free(change[0]):
                self.does(self.run.writers.insert(writer, self.change(*change)))
                self.does(self.run.writers.end(writer, commit=True))

    def change(self, appointment: str, fields: dict[str, bool], kind: Kind, lane: str) -> Change:
        self.numbers += 1
        return Change(appointment, saying(self.numbers, fields, kind), kind, lane)
