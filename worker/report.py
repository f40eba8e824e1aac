"""How a run ended: its exit code, and one line for a person."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from worker.errors import ExitCode
from worker.store import LeftOver, Outlook
from worker.writeback import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a run ended."""

    exit_code: ExitCode
    tally: Tally
    reason: str | None = None
    """For a person, when the exit code is not 0."""


def verdict(outlooks: Sequence[Outlook], left: LeftOver, tally: Tally, base_url: str) -> Report:
    """The report of one run, worst first: what its accounts wait for, what is left and what it did decide."""
    waiting = [outlook for outlook in outlooks if outlook.waits]
    paused = [outlook for outlook in waiting if outlook.pause_kind]
    refused = [outlook.account for outlook in paused if outlook.pause_kind == "refused"]
    work_left = left.due or left.waiting or any(outlook.arrivals for outlook in outlooks)
    if refused and work_left:
        return Report(exit_code=ExitCode.REFUSED, tally=tally, reason=f"{why_refused(refused)}; work is left")
    if work_left and tally.undelivered and not tally.answered:
        return Report(
            exit_code=ExitCode.UNREACHABLE, tally=tally, reason=f"the API at {base_url} is out of reach; work is left"
        )
    if work_left:
        reason = "; ".join(map(why_paused, paused)) or "backing off, waiting for budget, or out of time"
        return Report(exit_code=ExitCode.WORK_LEFT, tally=tally, reason=f"work is left: {reason}")
    if tally.parked:
        changes = "1 change was" if tally.parked == 1 else f"{tally.parked} changes were"
        reason = f"everything due is sent, but {changes} parked; see caspen-sync parked list"
        return Report(exit_code=ExitCode.PARKED, tally=tally, reason=reason)
    return Report(exit_code=ExitCode.OK, tally=tally)


def why_refused(accounts: Sequence[str]) -> str:
    """What is wrong with accounts whose token the API refuses, and how to mend it."""
    return (
        f"account {', '.join(accounts)} is paused: the API refused its token (wrong, withdrawn, or not allowed "
        "from here); replace it, and restart a service that has it from systemd"
    )


def why_paused(outlook: Outlook) -> str:
    """Why an account waits, and for whom, if its token was not refused."""
    account, reason = outlook.account, outlook.pause_reason
    match outlook.pause_kind:
        case "manual":
            return f"account {account} is paused by hand ({reason}); caspen-sync resume {shlex.quote(account)}"
        case "down":
            return f"account {account} is paused: the API is down ({reason}); it is probed until it is back"
        case "rejected":
            return (
                f"account {account} is paused: the API rejects everything ({reason}); is api.base_url right? "
                "It is probed until something is accepted"
            )
        case _:
            return f"account {account} is throttled"
