"""The stage on which the model's tests play."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.model.stage import Stage, staged
from tests.support.database import with_database
from tests.support.databases import Databases


@pytest.fixture
def stage(server_dsn: str, databases: Databases) -> Iterator[Stage]:
    """A database and an event loop for all runs of a test."""
    name = asyncio.run(databases.take())
    with staged(with_database(server_dsn, name)) as stage:
        yield stage
    databases.give_back(name)
