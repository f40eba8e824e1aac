"""Bad settings, and what is said of them."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from worker.config import validated
from worker.errors import ConfigError

SECRET = "s3cret-2f9c"


def complaint(values: dict[str, Any]) -> str:
    """What is said of these values. The secret is looked for in the whole traceback, as a crash report has it."""
    with pytest.raises(ConfigError) as caught:
        validated(values, origin="here")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)
