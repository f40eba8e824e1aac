"""What would keep a unit from working, said to whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.addresses import is_loopback, parse_listen
from worker.config import variables_set
from worker.unit.credentials import Credential, read_directly
from worker.unit.installation import TEMPORARY, closed_to
from worker.unit.plan import Plan
from worker.unit.sections import USER


def on_service(plan: Plan) -> Iterator[str]:
    """For the service."""
    yield from _on_unit(plan, plan.service_credentials)
    http = plan.settings.http
    place = parse_listen(http.listen)
    if place and not is_loopback(place[0]) and http.token is None and http.token_file is None:
        yield (
            f"http.listen: other hosts can reach {http.listen}, and the service does not start without a token then; "
            f"set http.token_file in {plan.config}"
        )


def on_once(plan: Plan) -> Iterator[str]:
    """For what the timer starts."""
    yield from _on_unit(plan, plan.credentials)


def on_cron(plan: Plan) -> Iterator[str]:
    """For one that cron starts."""
    yield from _on_both(plan, ())
    files = {f"accounts.{name}.token_file": account.token_file for name, account in plan.settings.accounts.items()}
    for setting, file in {**files, "api.ca_file": plan.settings.api.ca_file}.items():
        if file is not None and not file.is_absolute():
            yield f"{setting}: {file} means another file to cron; write it with its whole path into {plan.config}"


def _on_unit(plan: Plan, handed_over: Sequence[Credential]) -> Iterator[str]:
    yield from _on_both(plan, plan.shown)
    for one in handed_over:
        if _is_missing(one.file):
            yield f"{one.setting}: {one.file} is not there yet, and the service does not start without it"
    for account, file in read_directly(plan.settings).items():
        yield (
            f"accounts.{account}: no variable can bear this name, so systemd cannot hand its token over; "
            f"the user {USER} has to be able to read {file}"
        )
    for folder in plan.socket_folders:
        if folder in TEMPORARY:
            yield (
                f"database.dsn: the service has a {folder} of its own and does not see Postgres's socket there; "
                "give it another folder (unix_socket_directories), or use 127.0.0.1"
            )


def _on_both(plan: Plan, shown: Sequence[Path]) -> Iterator[str]:
    if variables := variables_set():
        yield f"unknown to what is printed: {', '.join(variables)}; write what this says into {plan.config}"
    for name, account in plan.settings.accounts.items():
        if account.token is None and account.token_file is None:
            yield f"accounts.{name}: has no token in {plan.config}; set token_file there"
    if plan.installation.for_one_user:
        yield "this is installed for one user only (pip install --user), so others do not find it; use a venv"
    closed = {closed_to(USER, path, shown=shown) for path in plan.installation.parts}
    for path in sorted(closed - {None}, key=str):
        yield (
            f"{path}: the user {USER} may not enter or read it, and so cannot start {plan.installation.command[0]}; "
            "install it elsewhere, such as in /opt, or let that user in"
        )


def _is_missing(file: Path) -> bool:
    try:
        return not file.exists()
    except OSError:  # in a folder that this user may not enter
        return False
