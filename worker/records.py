"""Records: values of which several are made for every request.

mypy takes them as frozen; at run time they are not, because there a frozen dataclass sets each of its fields by a call,
and takes more than twice as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[_T]) -> type[_T]:
    """A dataclass with slots, whose fields are given by name and set by nobody afterwards."""
    return dataclass(slots=True, kw_only=True)(cls)
