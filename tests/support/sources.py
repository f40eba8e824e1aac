"""Sources of backfills, read to their end."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.backfill.rows import Batch, Reject, Row
from worker.backfill.sources import Asked, source_from
from worker.config import Settings

NORTH_TOO = {"default": {}, "north": {}}


def settings(**sections: Any) -> Settings:
    """Validated settings with the given sections."""
    return Settings.model_validate(sections)


@dataclass(frozen=True)
class Found:
    """All that a source yielded."""

    batches: list[Batch]

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self.batches for row in batch.rows]

    @property
    def rejects(self) -> list[Reject]:
        return [reject for batch in self.batches for reject in batch.rejects]

    @property
    def said(self) -> list[tuple[str, dict[str, Any]]]:
        """Appointment and changes of each row."""
        return [(row.appointment_id, json.loads(row.changes)) for row in self.rows]

    @property
    def problems(self) -> dict[int, str]:
        """What is wrong with each line that is refused."""
        return {reject.line: "; ".join(map(str, reject.problems)) for reject in self.rejects}


async def found(asked: Asked, configured: Settings | None = None) -> Found:
    """What the source yields."""
    source = source_from(asked, configured or settings())
    async with contextlib.aclosing(source.batches()) as batches:
        return Found([batch async for batch in batches])


async def found_in(path: Path, content: bytes | str, **options: Any) -> Found:
    """What a file of this content yields."""
    _write(path, content)
    configured = options.pop("configured", None)
    return await found(Asked(file=str(path), **options), configured)


def _write(path: Path, content: bytes | str) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
