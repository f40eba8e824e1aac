"""What this process counts about itself, for Prometheus. What all processes share is read from the database when
somebody asks, see `reading`.

Names follow https://prometheus.io/docs/practices/naming/: one prefix, base units, `_total` on counters. Labels are our
own words, accounts' names and HTTP status codes; never an appointment.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from worker import __version__, clock
from worker.claims import Lane, PauseKind, Settlement, Written

PREFIX = "caspen_sync"

# When each series began: as many series again, which the textfile collector of node_exporter does not take.
disable_created_metrics()  # type: ignore[no-untyped-call]

# An answer within a tenth of a second is good, one after the default timeout of 30 s was none.
REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
# From one that went out at once to one that waited for a day behind a backfill or a pause.
SYNCED_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
CLAIM_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)

# A batch's counts and times by metric and labels, so that each series is looked up once a batch.
_Counts = collections.Counter[tuple[Counter, tuple[str | int, ...]]]
_Times = collections.defaultdict[tuple[Histogram, tuple[str, ...]], list[float]]


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests that went out.", "account", "outcome", "status")
        self._duration = self._histogram(
            "request_duration_seconds", "From the first byte of a request to its outcome.", REQUEST_BUCKETS_S, "account"
        )
        self._changes = self._counter(
            "changes", "Changes that left pending, by what became of them.", "account", "state"
        )
        self._synced = self._histogram(
            "commit_to_synced_seconds",
            "From the writing of a change to its synced state.",
            SYNCED_BUCKETS_S,
            "account",
            "lane",
        )
        self._folded = self._counter("folded_changes", "Synced changes that needed no request of their own.", "account")
        self._retries = self._counter("retries", "Requests that repeated one that had failed.", "account")
        self._undelivered = self._counter(
            "undelivered", "Claims for which nothing could be sent: no connection, no such host, TLS.", "account"
        )
        self._mismatches = self._counter("mismatches", "Accepted answers that differ from what was sent.", "account")
        self._lost = self._counter("leases_lost", "Claims that ran out before they were written back.", "account")
        self._pauses = self._counter("pauses", "Pauses that this process began or prolonged.", "account", "kind")
        self._database_faults = self._counter(
            "database_faults", "Statements that were tried again because Postgres was away or could not do them."
        )
        self._claim = self._histogram(
            "claim_duration_seconds", "How long the statement took that claims.", CLAIM_BUCKETS_S
        )
        self._lag = self._histogram(
            "loop_lag_seconds", "By how much the event loop was late, measured twice a second.", LAG_BUCKETS_S
        )
        self._in_flight = Gauge(
            f"{PREFIX}_requests_in_flight",
            "Requests that this process has on the wire, or is writing back.",
            ["account"],
            registry=self.registry,
        )
        Gauge(f"{PREFIX}_build_info", "Always 1; which version runs.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)

    def begin(self, accounts: Sequence[str]) -> None:
        """Shows each account's counters from the start, at 0: a rate needs a first value."""
        for account in accounts:
            self._in_flight.labels(account).set(0)
            for counter in (self._folded, self._retries, self._undelivered, self._mismatches, self._lost):
                counter.labels(account)
            for state in ("synced", "parked", "discarded"):
                self._changes.labels(account, state)
            for kind in get_args(PauseKind):
                self._pauses.labels(account, kind)
            self._duration.labels(account)
            for lane in get_args(Lane):
                self._synced.labels(account, lane)

    def settled(self, batch: Sequence[Settlement], written: Written) -> None:
        """Counts a batch that was written back."""
        lost = {id(settlement) for settlement in written.lost}
        now = clock.now()
        counts: _Counts = collections.Counter()
        times: _Times = collections.defaultdict(list)
        for settlement in batch:
            self._count_requests(settlement, counts, times)
            if id(settlement) in lost:
                counts[self._lost, (settlement.claim.account,)] += 1
            else:
                self._count_changes(settlement, now, counts, times)
        for (counter, labels), count in counts.items():
            counter.labels(*labels).inc(count)
        for (histogram, told), all_s in times.items():
            series = histogram.labels(*told)
            for seconds in all_s:
                series.observe(seconds)
        for paused in written.paused:
            self.paused(paused.account, paused.kind)

    def paused(self, account: str, kind: PauseKind) -> None:
        """A pause began or was prolonged."""
        self._pauses.labels(account, kind).inc()

    def in_flight(self, account: str, requests: int) -> None:
        """How many requests of the account are on the wire now."""
        self._in_flight.labels(account).set(requests)

    def claimed(self, seconds: float) -> None:
        """A claim's statement took so long."""
        self._claim.observe(seconds)

    def database_failed(self) -> None:
        """A statement has to be tried again."""
        self._database_faults.inc()

    def lagged(self, seconds: float) -> None:
        """The event loop came so late."""
        self._lag.observe(seconds)

    def _count_requests(self, settlement: Settlement, counts: _Counts, times: _Times) -> None:
        account = settlement.claim.account
        for attempt in settlement.attempts:
            counts[self._requests, (account, attempt.outcome, attempt.http_status or "none")] += 1
            times[self._duration, (account,)].append(attempt.duration_s)
        first = 0 if any(change.attempts for change in settlement.claim.changes) else 1
        if len(settlement.attempts) > first:
            counts[self._retries, (account,)] += len(settlement.attempts) - first
        if not settlement.attempts and settlement.failures > settlement.claim.failures:
            counts[self._undelivered, (account,)] += 1

    def _count_changes(self, settlement: Settlement, now: float, counts: _Counts, times: _Times) -> None:
        claim = settlement.claim
        ages = {change.id: change.age_s for change in claim.changes}
        synced = 0
        for verdict in settlement.verdicts:
            if verdict.state is None:
                continue
            counts[self._changes, (claim.account, verdict.state)] += 1
            if verdict.state == "synced":
                synced += 1
                age_s = max(0.0, ages[verdict.change_id]) + now - claim.claimed_at
                times[self._synced, (claim.account, claim.lane)].append(age_s)
        if synced > 1:
            counts[self._folded, (claim.account,)] += synced - 1
        if settlement.mismatches:
            counts[self._mismatches, (claim.account,)] += 1

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", help_text, labels, buckets=buckets, registry=self.registry)
