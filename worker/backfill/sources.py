"""What a backfill reads: the file or the query that the command line names."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from worker.backfill import jsonl
from worker.backfill.decoding import in_utf8, known_encoding
from worker.backfill.inspection import Inspector
from worker.backfill.lines import is_remark, lines
from worker.backfill.opening import STDIN, Counted, label, look_at, opened, refusals
from worker.backfill.query import QuerySource
from worker.backfill.rows import Batch, Reject, Row
from worker.backfill.table import Dialect, Records, Table
from worker.config import Settings
from worker.errors import SourceError, UsageError
from worker.privacy import withhold_passwords

Format = Literal["jsonl", "csv"]

# Of a batch. Bytes are those of the source, so that neither many short lines nor a few long ones are too much to hold.
BATCH_LINES = 5_000
BATCH_BYTES = 4 * 1024 * 1024

_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv"}


def inspector_from(settings: Settings, account: str | None) -> Inspector:
    """What lines are held against, with `account` for those that name none. Raises UsageError for one that is not
    configured."""
    accounts = frozenset(settings.accounts)
    if account is not None and account not in accounts:
        raise UsageError(f"--account {account}: is not an account of the configuration; there are {_listed(accounts)}")
    if account is None:
        account = next(iter(accounts)) if len(accounts) == 1 else "default" if "default" in accounts else None
    return Inspector(accounts=accounts, default_account=account, ids=settings.api.ids)


def _listed(accounts: frozenset[str]) -> str:
    return ", ".join(sorted(accounts))


class FileSource:
    """Lines out of a file, a pipe or standard input. It is read in a thread, one batch ahead."""

    def __init__(
        self,
        path: str,
        inspector: Inspector,
        *,
        written_as: Format | None,
        encoding: str,
        dialect: Dialect,
    ) -> None:
        """`written_as`: None to go by the first character. Raises SourceError for a file that cannot be read."""
        self.name = _name_of(path)
        self.size = look_at(path)
        self.format = written_as
        """Known from the first batch on."""
        self.encoding = encoding
        self.dialect = dialect
        self.header = b""
        """Of CSV, in UTF-8; known from the first batch on."""
        self._path = path
        self._inspector = inspector

    @property
    def suffix(self) -> str:
        """Of a file that is written as this one, by which it is known how to read it."""
        return "tsv" if self.format == "csv" and self.dialect.delimiter == "\t" else self.format or "jsonl"

    async def batches(self) -> AsyncIterator[Batch]:
        """The lines, some thousand at a time. Raises SourceError when the file cannot be read on."""
        reading = self._batches()
        ahead = asyncio.ensure_future(asyncio.to_thread(next, reading, None))
        try:
            while (batch := await ahead) is not None:
                ahead = asyncio.ensure_future(asyncio.to_thread(next, reading, None))
                yield batch
        finally:
            ahead.cancel()
            ahead.add_done_callback(lambda done: done.cancelled() or done.exception())
            with contextlib.suppress(ValueError):  # it is just waiting for a pipe, and is left to that
                reading.close()

    def _batches(self) -> Generator[Batch]:
        with opened(self._path) as (stream, counted):
            chunks = in_utf8(stream, self.encoding, label(self._path))
            found = self._found(lines(chunks, self._path))
            yield from _batched(found, counted)

    def _found(self, all_lines: Iterator[bytes]) -> Iterator[Row | Reject]:
        if self.format is None:
            self.format, all_lines = _told_by_the_first(all_lines)
        if self.format == "jsonl":
            return jsonl.rows(all_lines, self._inspector, label=label(self._path), encoding=self.encoding)
        records = Records(all_lines, self.dialect.delimiter, self.encoding)
        table = Table(records, self.dialect, label(self._path))
        self.header = table.header
        return table.rows(self._inspector)


def _told_by_the_first(all_lines: Iterator[bytes]) -> tuple[Format, Iterator[bytes]]:
    """JSON begins with a bracket, a header does not. What was looked at is given back."""
    looked_at = []
    for line in itertools.islice(all_lines, 100):
        looked_at.append(line)
        if line.strip() and not is_remark(line):
            break
    first = looked_at[-1].strip() if looked_at else b""
    told: Format = "jsonl" if first[:1] in (b"{", b"[", b"") else "csv"
    return told, itertools.chain(looked_at, all_lines)


def _batched(found: Iterator[Row | Reject], counted: Counted) -> Iterator[Batch]:
    rows: list[Row] = []
    rejects: list[Reject] = []
    size = 0
    for one in found:
        if isinstance(one, Row):
            rows.append(one)
            size += len(one.changes)
        else:
            rejects.append(one)
            size += len(one.raw)
        if size >= BATCH_BYTES or len(rows) + len(rejects) >= BATCH_LINES:
            yield Batch(rows=tuple(rows), rejects=tuple(rejects), read=counted.count)
            rows, rejects, size = [], [], 0
    if rows or rejects:
        yield Batch(rows=tuple(rows), rejects=tuple(rejects), read=counted.count)


def _name_of(path: str) -> str:
    """What the backfill is called: as its file, whatever folder that is in. A pipe of the shell's has no name."""
    if path == STDIN or path.startswith(("/dev/", "/proc/")):
        return "stdin"
    return os.fsencode(Path(path).name).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says of the source: the options of `caspen-sync backfill` of the same names."""

    file: str | None = None
    query: str | None = None
    query_file: Path | None = None
    query_dsn: str | None = None
    format: Format | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    null: str = "NULL"
    account: str | None = None


def source_from(asked: Asked, settings: Settings) -> FileSource | QuerySource:
    """The source. Raises UsageError for options that do not go together, SourceError for a file that cannot be read."""
    if sum(one is not None for one in (asked.file, asked.query, asked.query_file)) != 1:
        raise UsageError("backfill: give one of FILE (- for standard input), --query and --query-file")
    inspector = inspector_from(settings, asked.account)
    if asked.file is not None:
        return _file(asked, asked.file, inspector)
    if asked != replace(asked, format=None, encoding="utf-8", delimiter=",", null="NULL"):
        raise UsageError("backfill: --format, --encoding, --delimiter and --null are of a FILE, and not of a query")
    dsn = asked.query_dsn if asked.query_dsn is not None else settings.database.dsn.get_secret_value()
    withhold_passwords(dsn)
    if asked.query is not None:
        return QuerySource("query", asked.query, dsn, inspector, label="--query")
    return QuerySource(
        _name_of(str(asked.query_file)), _text_of(str(asked.query_file)), dsn, inspector, label=str(asked.query_file)
    )


def _file(asked: Asked, path: str, inspector: Inspector) -> FileSource:
    if asked.query_dsn is not None:
        raise UsageError("backfill: --query-dsn says where --query runs, and there is none")
    suffixes = Path(path.removesuffix(".gz")).suffix.lower()
    written_as = asked.format or _SUFFIXES.get(suffixes)
    if written_as == "jsonl" and (asked.delimiter, asked.null) != (",", "NULL"):
        raise UsageError(f"backfill: --delimiter and --null are of CSV, and {label(path)} is read as JSON Lines")
    delimiter = "\t" if asked.delimiter == "\\t" or (asked.delimiter == "," and suffixes == ".tsv") else asked.delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n\0' or not asked.null or asked.null == delimiter:
        raise UsageError("backfill: --delimiter is one character and no quote (\\t: a tab), --null a word")
    return FileSource(
        path,
        inspector,
        written_as=written_as,
        encoding=known_encoding(asked.encoding),
        dialect=Dialect(delimiter=delimiter, null=asked.null),
    )


def _text_of(path: str) -> str:
    look_at(path)
    with refusals(path):
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise SourceError(f"{path}: is not UTF-8") from None
    if not text.strip():
        raise SourceError(f"{path}: is empty, and should hold a query")
    if "\0" in text:
        raise SourceError(f"{path}: holds a NUL character, which no query may")
    return text
