"""Have today's changes reached Caspen? If not: why, until when, and what can be done. For people who do not know us.

A `Trouble` is one answer to "why"; the verdict has the worst of them first: what stops changes, then what a person has
to decide, then what ends by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from worker.status import AccountStatus, Status, Stranger
from worker.words import counted, toml_key, visible

# well:    nothing waits.
# busy:    changes are on their way, and get there without anybody's help.
# person:  changes wait for a person to decide.
# stopped: changes wait, and will until somebody mends something, or something outside of us.
# unknown: it cannot be said.
Level = Literal["well", "busy", "person", "stopped", "unknown"]

# An older count is told as such, in seconds.
FRESH_S = 3.0
# A writer may make up a name of any length.
LONGEST_NAME = 80
_STOPS_NOTHING = (None, "throttled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One reason why something has not reached Caspen."""

    what: str
    mend: str
    """What a person can do, or that nothing has to be done."""
    account: str | None = None
    """Whose page helps."""
    ends: str = ""
    """What the end of `ends_in_s` brings, as in "next try"."""
    ends_in_s: float | None = None
    urgent: bool = False
    """Whether something is stopped for as long as it lasts."""
    key: str = ""
    """By which it is known again while its numbers change."""
    parked: bool = False
    """Whether the list of parked changes helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer in one line, and why."""

    level: Level
    headline: str
    details: str
    """What there is to say besides, in a line; may be empty."""
    troubles: tuple[Trouble, ...] = ()


def no_verdict(fault: str) -> Verdict:
    """When the database cannot be read. `fault`: in our own words."""
    return Verdict(
        level="unknown",
        headline="It cannot be said whether changes have reached Caspen",
        details="caspen-sync cannot read its database. Nothing is lost: what was written waits there.",
        troubles=(
            Trouble(
                what=fault, mend="Is Postgres running? caspen-sync check says more. It goes on by itself.", urgent=True
            ),
        ),
    )


def no_count() -> Verdict:
    """When nothing was counted yet."""
    return Verdict(level="unknown", headline="Counting what waits …", details="There is much of it; it takes a moment.")


def verdict(found: Status, configured: Collection[str]) -> Verdict:
    """What is to be said. `configured`: the accounts that this service's configuration names."""
    pending, parked = _pending(found), sum(one.parked for one in found.accounts)
    ordered = tuple(sorted(_troubles(found, configured), key=lambda one: (not one.urgent, not one.parked)))
    urgent = bool(ordered) and ordered[0].urgent
    if pending and urgent:
        moving = _moving(found, configured)
        return Verdict(
            level="stopped",
            headline=_not_reached(found, moving)
            if moving < pending
            else f"{_on_its_way(found)}, but new ones of some accounts would not reach Caspen",
            details=_others(moving) if moving < pending else "; ".join(_how_soon(found)),
            troubles=ordered,
        )
    if urgent:
        waits = f"{counted(parked, 'change')} {_needs(parked)} a decision" if parked else "Nothing waits"
        some = "" if all(one.pause_kind not in _STOPS_NOTHING for one in found.accounts) else " of some accounts"
        headline = f"{waits}, but new changes{some} would not reach Caspen"
        return Verdict(level="stopped", headline=headline, details=_as_of(found), troubles=ordered)
    if pending:
        details = "; ".join(_how_soon(found))
        return Verdict(level="busy", headline=f"{_on_its_way(found)} to Caspen", details=details, troubles=ordered)
    if parked:
        # How many comes first: what a browser's tab leaves of the line must not be that all is well.
        headline = f"{counted(parked, 'change')} {_needs(parked)} a decision; all others {_have_reached(found)}"
        return Verdict(level="person", headline=headline, details="", troubles=ordered)
    return Verdict(level="well", headline=f"All changes {_have_reached(found)}", details="", troubles=ordered)


def _pending(found: Status) -> int:
    return sum(one.pending for one in found.accounts) + sum(one.changes for one in found.unregistered)


def _moving(found: Status, configured: Collection[str]) -> int:
    """How many of them nothing stops."""
    new = sum(one.changes for one in found.unregistered if one.account in configured)
    return sum(one.pending for one in found.accounts if not _is_stopped(one)) + new


def _is_stopped(one: AccountStatus) -> bool:
    return one.pause_kind not in _STOPS_NOTHING or not one.served


def _number(found: Status) -> str:
    at_least = "At least " if any(one.uncounted for one in found.unregistered) else ""
    return f"{at_least}{counted(_pending(found), 'change')}"


def _not_reached(found: Status, moving: int) -> str:
    if not moving:
        return f"{_number(found)} {'has' if _pending(found) == 1 else 'have'} not reached Caspen"
    number = _number(found)
    return f"{_pending(found) - moving:,} of {number[0].lower()}{number[1:]} cannot reach Caspen now"


def _on_its_way(found: Status) -> str:
    return f"{_number(found)} {'is on its way' if _pending(found) == 1 else 'are on their way'}"


def _needs(parked: int) -> str:
    return "needs" if parked == 1 else "need"


def _others(moving: int) -> str:
    """What is not stopped."""
    if not moving:
        return "Nothing is lost: what waits is kept in the database."
    return f"{moving:,} {'is' if moving == 1 else 'are'} on the way; the others are kept in the database."


def _how_soon(found: Status) -> Iterator[str]:
    done_in_s = [one.done_in_s for one in found.accounts if one.done_in_s is not None]
    if done_in_s:
        uncounted = any(one.arrived or one.waiting or (one.pause_kind and one.pending) for one in found.accounts)
        uncertain = uncounted or found.unregistered
        yield f"The last of them goes out in {'at least' if uncertain else 'about'} {span(max(done_in_s))}"
    if held := sum(one.in_flight for one in found.accounts):
        yield f"{counted(held, 'appointment')} being sent now"


def _have_reached(found: Status) -> str:
    """An old count says nothing of now, not even by leaving it out."""
    if found.age_s > FRESH_S:
        return f"had reached Caspen {span(found.age_s)} ago"
    return "have reached Caspen"


def _as_of(found: Status) -> str:
    """Where there is much to count, it is counted seldom, and something may have been written since."""
    return f"As of {span(found.age_s)} ago" if found.age_s > FRESH_S else ""


def span(seconds: float) -> str:
    """Two units at most, whole seconds: 4 s, 12 min 5 s, 3 h 2 min, 4 d 3 h."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    shown = [part for part in parts[:2] if not part.startswith("0 ")]
    return " ".join(shown) or "0 s"


def clipped(text: str, most: int = 300) -> str:
    """The text, or its beginning: a reason is a sentence, and what is longer is somebody's accident."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


# -- why ---------------------------------------------------------------------------------------------------------------


def _troubles(found: Status, configured: Collection[str]) -> Iterator[Trouble]:
    alone = len(found.accounts) == 1 and not found.unregistered
    for one in found.accounts:
        if (pause := _pause(one, alone=alone)) is not None:
            yield pause
        # A pause that ends by itself does so only for who works for the account.
        if one.pending and not one.served:
            yield _unserved(one)
    for stranger in found.unregistered:
        yield _stranger(stranger, configured)
    if parked := sum(one.parked for one in found.accounts):
        are, them = ("is", "it") if parked == 1 else ("are", "them")
        yield Trouble(
            what=f"{counted(parked, 'change')} {are} parked: Caspen does not take {them}",
            mend="Read why; then have them sent again, or discard them.",
            parked=True,
            key="parked",
        )
    yield from _waits(found.accounts, alone=alone)


def _pause(one: AccountStatus, *, alone: bool) -> Trouble | None:
    whose = "" if alone else f" for account {_named(one.account)}"
    why = f"({clipped(one.pause_reason or 'no reason was given')})"
    probed = Trouble(what="", mend="", account=one.account, ends="next try", ends_in_s=one.paused_for_s, urgent=True)
    probed = replace(probed, key=f"paused {one.account}")
    match one.pause_kind:
        case None:
            return None
        case "refused":
            return replace(
                probed,
                what=f"Caspen refuses the access token{whose} {why}",
                mend="Put a valid token into its file; it is tried at once. "
                "Where systemd hands the file over, restart the service.",
            )
        case "rejected":
            return replace(
                probed,
                what=f"Caspen rejects every change{whose} {why}",
                mend="Is api.base_url right? It goes on by itself as soon as one change is accepted.",
            )
        case "down":
            return replace(
                probed,
                what=f"Caspen is out of order{whose} {why}",
                mend="Nothing has to be done: it goes on by itself when Caspen does.",
            )
        case "manual":
            return replace(
                probed, what=f"A person has stopped the sending{whose} {why}", mend="Resume it when the reason is gone."
            )
        case "throttled":
            return replace(
                probed,
                what=f"Caspen asked to wait before the next changes{whose}",
                mend="Nothing has to be done.",
                ends="goes on",
                urgent=False,
            )


def _unserved(one: AccountStatus) -> Trouble:
    return Trouble(
        what=f"No service works for account {_named(one.account)}: {counted(one.pending, 'change')}",
        mend=f"Is accounts.{_key(one.account)} in the configuration of a service that runs?",
        account=one.account,
        urgent=True,
        key=f"unserved {one.account}",
    )


def _stranger(one: Stranger, configured: Collection[str]) -> Trouble:
    name, at_least = _named(one.account), "at least " if one.uncounted else ""
    if one.account in configured:
        return Trouble(
            what=f"Account {name} is new: {at_least}{counted(one.changes, 'change')}",
            mend="Restart the service if it does not take the account up by itself.",
            key=f"stranger {one.account}",
        )
    changes = f"{at_least.capitalize()}{counted(one.changes, 'change')}"
    return Trouble(
        what=f"{changes} for account {name}, which no configuration names",
        mend=f"Add accounts.{_key(one.account)}, or mend the application that writes this name.",
        urgent=True,
        key=f"stranger {one.account}",
    )


def _waits(accounts: Sequence[AccountStatus], *, alone: bool) -> Iterator[Trouble]:
    waiting = [one for one in accounts if one.waiting and one.pause_kind is None and one.served]
    if waiting:
        due = min((one.next_due_s for one in waiting if one.next_due_s is not None), default=None)
        yield Trouble(
            what=f"{counted(sum(one.waiting for one in waiting), 'appointment')} failed and will be tried again",
            mend="Nothing has to be done.",
            account=waiting[0].account if len(waiting) == 1 else None,
            ends="next try",
            ends_in_s=due,
            key="waiting",
        )
    if shared := [one for one in accounts if one.held_back]:
        others = f" and {counted(len(shared) - 1, 'other')}" if len(shared) > 1 else ""
        named = "" if alone else f" of account {_named(shared[0].account)}{others}"
        held_back, limit = sum(one.held_back for one in shared), sum(one.budget_limit for one in shared)
        yield Trouble(
            what=f"Somebody else uses the access token{named}: {held_back:,} of {counted(limit, 'request')} are left "
            "to them",
            mend="Nothing has to be done; it is slower for as long as they go on.",
            account=shared[0].account if len(shared) == 1 else None,
            key="shared",
        )


def _named(account: str) -> str:
    return clipped(visible(account), LONGEST_NAME)


def _key(account: str) -> str:
    return clipped(toml_key(account), LONGEST_NAME)
