"""Waiting for a backfill, and saying how far it is and how it ended."""

from __future__ import annotations

from collections.abc import Collection

from worker.backfill.progress import Progress
from worker.backfill.working import Worked, work_off
from worker.cli.bar import Stage, shown
from worker.cli.howfar import details, head, sentence
from worker.cli.messages import complain
from worker.cli.output import print_line
from worker.cli.terminal import whoever_reads
from worker.config import Settings
from worker.errors import ExitCode


async def wait_for(settings: Settings, name: str, accounts: Collection[str]) -> ExitCode:
    """Works the backfill off, shows how far it is, and says how it ended: what came of it on stdout, what is left to do
    on stderr. Raises CaspenSyncError where `run` does."""
    with shown() as show:
        worked = await work_off(settings, name, accounts, show=lambda progress: show(_stage(progress)))
    return _told(worked)


def _stage(progress: Progress) -> Stage:
    return Stage(
        name=progress.name,
        done=progress.done,
        total=progress.changes,
        said=head(progress),
        besides="; ".join(details(progress)),
    )


def _told(worked: Worked) -> ExitCode:
    with whoever_reads():
        if worked.progress and not worked.progress.pending and worked.found:
            print_line(sentence(worked.found))
        elif worked.progress:
            print_line(f"{head(worked.progress)} of {worked.progress.name} are done")
    if worked.reason:
        complain(worked.reason)
    return worked.exit_code
