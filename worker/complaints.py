"""What lasts is said once: when it begins, and when it changes."""

from __future__ import annotations

from worker.telemetry import Log


class Complaints:
    """Warnings about what is tried again and again. One event each, however often it is tried."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: dict[tuple[str, str | None], str] = {}

    def about(self, event: str, account: str | None, error: str) -> None:
        """Logs it, unless that is what was said of it last."""
        if self._said.get((event, account)) != error:
            self._said[event, account] = error
            self._log.warning(event, account=account, error=error)

    def over(self, event: str, account: str | None) -> None:
        """It went well: what is wrong the next time is news."""
        self._said.pop((event, account), None)
