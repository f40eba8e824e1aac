"""A stand-in for the Caspen API that follows its contract, throttle and faults included.

    async with Sandbox(SandboxSettings(limit=10, faults={"reset_after": 0.1}, seed=1)) as sandbox:
        ...  # talk to sandbox.base_url with the token "sandbox"
        assert sandbox.log[0].http_status == 200

What it adds to the API's page, because that leaves it open, stands with the code that does it.
"""

from worker.sandbox.command import add_arguments, serve, settings_from
from worker.sandbox.faults import FAULT_NAMES, Fault
from worker.sandbox.journal import Entry, token_label
from worker.sandbox.resource import NO_SUCH_ROOM
from worker.sandbox.server import Sandbox
from worker.sandbox.settings import SandboxSettings
from worker.sandbox.store import Appointments
from worker.sandbox.throttle import THROTTLE_NAMES, ThrottleName, make_throttle

__all__ = [
    "FAULT_NAMES",
    "NO_SUCH_ROOM",
    "THROTTLE_NAMES",
    "Appointments",
    "Entry",
    "Fault",
    "Sandbox",
    "SandboxSettings",
    "ThrottleName",
    "add_arguments",
    "make_throttle",
    "serve",
    "settings_from",
    "token_label",
]
