"""What the lines of a backfill come to: appointments, requests, duplicates and fields, in one pass and little memory.

Lines and appointments are told apart by 64 bits. That two of ten million are taken for one has a chance of 1 in
300,000, and would make a count wrong by one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self
from uuid import UUID

from worker.backfill.rows import Row
from worker.backfill.spill import PARTS, Spill
from worker.backfill.tally import ACCOUNT_BITS, FATE_BITS, Counted, Fate, FieldCount, Tally

_KIND_BITS = ACCOUNT_BITS + FATE_BITS
_KIND = (1 << _KIND_BITS) - 1
_HASH = (1 << 64) - 1
# Digests of one part in memory at once. There are more only where one appointment has that many lines, and then the
# part is gone through several times.
_PART_MOST = 1_000_000
# Ways to combine fields; a file has a handful, and one that has all of them must not fill the memory.
_SHAPES_MOST = 10_000


class Census:
    """Is fed with every valid line, and counts at the end. A context: its temporary files are gone when it ends."""

    def __init__(self, *, most_folded: int) -> None:
        """`most_folded`: how many changes of an appointment one request carries at the most."""
        self._most_folded = most_folded
        self._accounts: dict[str, int] = {}
        self._shapes: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
        self._named: Counter[str] = Counter()
        self._cleared: Counter[str] = Counter()
        self._fates: dict[int, Fate] = {}
        # Equal lines are of one appointment, so they meet in its part.
        self._lines = Spill(3)  # appointment, digest, what kind of line
        self._known = Spill(2)  # appointment, digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()
        self._known.__exit__()

    def leave_out(self, fates: Mapping[int, Fate]) -> None:
        """What newer changes take of the lines that are added next, by line."""
        self._fates.update(fates)

    def add(self, rows: Sequence[Row]) -> None:
        """Takes lines in. Raises NoRoom."""
        for account in {row.account for row in rows} - self._accounts.keys():
            self._accounts[account] = len(self._accounts) << FATE_BITS
        kinds, fates = self._accounts, self._fates
        self._lines.add(
            [
                (
                    hash((row.account, row.appointment_id)) & _HASH,
                    row.digest.int >> 64,
                    row.line << _KIND_BITS | kinds[row.account] | fates.get(row.line, 0),
                )
                for row in rows
            ]
        )
        fates.clear()
        self._shapes.update([(row.fields, row.cleared) for row in rows])
        if len(self._shapes) > _SHAPES_MOST:
            self._count_fields()

    def know(self, lines: Iterable[tuple[str, str, UUID]]) -> None:
        """Takes in lines that the backfill has already: account, appointment and digest, each as often as it has it.
        Raises NoRoom."""
        self._known.add(
            [(hash((account, appointment_id)) & _HASH, digest.int >> 64) for account, appointment_id, digest in lines]
        )

    async def counted(self, *, duplicates: int) -> Counted:
        """Counts. `duplicates`: how many of them to name. Raises NoRoom."""
        self._count_fields()
        tally = Tally(len(self._accounts), most_folded=self._most_folded, duplicates=duplicates)
        for number in range(PARTS):
            self._count_part(number, tally)
            await asyncio.sleep(0)  # Ctrl-C gets its turn
        return Counted(
            accounts=tuple(tally.account(name, kind >> FATE_BITS) for name, kind in sorted(self._accounts.items())),
            duplicates=tally.duplicates,
            first_duplicates=tally.first_duplicates(),
            fields={
                name: FieldCount(set=self._named[name] - self._cleared[name], cleared=self._cleared[name])
                for name in sorted(self._named)
            },
        )

    def _count_part(self, number: int, tally: Tally) -> None:
        sent: dict[int, int] = {}  # how many lines of each appointment are
        owners: dict[int, int] = {}
        turns = 1 + self._lines.records(number) // _PART_MOST
        for turn in range(turns):
            known = self._known_in(number, turn, turns)
            first: dict[int, int] = {}
            kinds: list[int] = []
            for appointments, digests, tags in self._lines.part(number):
                for appointment, digest, tag in zip(appointments, digests, tags, strict=True):
                    if digest % turns != turn:
                        continue
                    kind = tag & _KIND
                    if (earlier := first.setdefault(digest, tag)) != tag:
                        tally.add_duplicate(tag >> _KIND_BITS, earlier >> _KIND_BITS)
                    if known and known[digest] > 0:
                        known[digest] -= 1
                        kind |= Fate.KNOWN
                    kinds.append(kind)
                    sent[appointment] = sent.get(appointment, 0) + (kind & 2 == 0)
                    owners[appointment] = kind >> FATE_BITS
                tally.add_lines(kinds)
                kinds.clear()
        tally.add_appointments((owners[appointment], lines) for appointment, lines in sent.items())

    def _known_in(self, number: int, turn: int, turns: int) -> Counter[int]:
        known: Counter[int] = Counter()
        for _, digests in self._known.part(number):
            known.update(digest for digest in digests if digest % turns == turn)
        return known

    def _count_fields(self) -> None:
        for (fields, cleared), lines in self._shapes.items():
            self._named.update(dict.fromkeys(fields, lines))
            self._cleared.update(dict.fromkeys(cleared, lines))
        self._shapes.clear()
