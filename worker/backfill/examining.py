"""The pass over a source: what is wrong with its lines, while the valid ones are counted and handed on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from worker.backfill.census import Census
from worker.backfill.rows import Batch, Source

# A file of the wrong kind may have a field name of its own in each line.
FIELDS_MOST = 1000
OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProblem:
    """One thing that is wrong with one line. Holds no value of it."""

    line: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What the pass found."""

    valid: int
    """Lines."""
    rejected: int
    """Lines."""
    problems: int
    first_problems: tuple[FoundProblem, ...]
    problems_by_field: Mapping[str, int]
    """By name; those of fields beyond the first thousand as "others"."""

    @property
    def lines(self) -> int:
        """Valid or not."""
        return self.valid + self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSoFar:
    """How far the pass is."""

    lines: int
    problems: int
    share: float | None
    """Of the source, from 0 to 1; None: its size is not known."""


async def examine(
    source: Source,
    census: Census,
    *,
    on_batch: Callable[[Batch], Awaitable[None]],
    problems: int,
    show: Callable[[ReadSoFar], None] = lambda _: None,
) -> Examined:
    """Reads all of the source. Each batch goes to `on_batch`, then into the census. `problems`: how many to name.

    Raises SourceError, NoRoom, and what `on_batch` raises.
    """
    found = _Found(problems)
    # Whatever ends the pass, what the source has open is closed at once.
    async with aclosing(cast("AsyncGenerator[Batch, None]", source.batches())) as batches:
        async for batch in batches:
            await on_batch(batch)
            census.add(batch.rows)
            found.add(batch)
            share = min(1.0, batch.read / source.size) if source.size else None
            show(ReadSoFar(lines=found.valid + found.rejected, problems=found.by_field.total(), share=share))
    return found.examined()


class _Found:
    """What was found so far."""

    def __init__(self, named: int) -> None:
        self.valid = self.rejected = 0
        self.by_field: Counter[str] = Counter()
        self._named = named
        self._first: list[FoundProblem] = []

    def add(self, batch: Batch) -> None:
        self.valid += len(batch.rows)
        self.rejected += len(batch.rejects)
        for reject in batch.rejects:
            for problem in reject.problems:
                counted = problem.field in self.by_field or len(self.by_field) < FIELDS_MOST
                self.by_field[problem.field if counted else OTHERS] += 1
                if len(self._first) < self._named:
                    self._first.append(FoundProblem(line=reject.line, field=problem.field, reason=problem.reason))

    def examined(self) -> Examined:
        return Examined(
            valid=self.valid,
            rejected=self.rejected,
            problems=self.by_field.total(),
            first_problems=tuple(self._first),
            problems_by_field=dict(self.by_field.most_common()),
        )
