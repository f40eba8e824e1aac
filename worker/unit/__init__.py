"""systemd units and a crontab line for this installation, and what an operator should know before using them."""

from worker.unit.credentials import absolute
from worker.unit.installation import Installation, this_one
from worker.unit.plan import Plan
from worker.unit.remarks import on_cron, on_once, on_service
from worker.unit.texts import cron, once, service, timer

__all__ = [
    "Installation",
    "Plan",
    "absolute",
    "cron",
    "on_cron",
    "on_once",
    "on_service",
    "once",
    "service",
    "this_one",
    "timer",
]
