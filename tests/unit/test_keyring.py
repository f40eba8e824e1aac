"""When which token is told to the database, for an account that is refused to be probed with at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from worker import keyring as module
from worker.complaints import Complaints
from worker.config import AccountSettings
from worker.keyring import Keyring
from worker.metrics import Metrics
from worker.patience import Patience
from worker.pulse import Pulse
from worker.store import Store
from worker.token import TokenSource, account_token


class World:
    """Stands in for the store and the log: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.replaced: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def fresh_tokens(self, fingerprints: Mapping[str, str]) -> list[str]:
        self.told.append(dict(fingerprints))
        self.meanwhile()
        return self.replaced

    def info(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    warning = info

    @property
    def patience(self) -> Patience:
        return Patience(asyncio.Event(), pulse=Pulse(), metrics=Metrics(), log=self)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    return World()


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, TokenSource]:
    """Of two accounts, each in a file of its own."""
    made = {}
    for account in ("a", "b"):
        (tmp_path / account).write_text(f"first-{account}")
        made[account] = account_token(account, AccountSettings(token_file=tmp_path / account))
    return made


def keyring(world: World, tokens: dict[str, TokenSource]) -> Keyring:
    return Keyring(tokens, None, complaints=Complaints(world), log=world)


async def look(keys: Keyring, world: World) -> list[str]:
    return list(await keys.keep_fresh(cast(Store, world), world.patience))


async def test_each_token_is_told_once(world: World, tokens: dict[str, TokenSource], tmp_path: Path) -> None:
    """At the first look all, since nobody knows what was refused before our time; then what is another one."""
    keys = keyring(world, tokens)
    assert await look(keys, world) == []
    assert await look(keys, world) == []
    assert world.told == [{name: source.fingerprint for name, source in tokens.items()}]
    (tmp_path / "b").write_text("another-b")
    world.replaced = ["b"]
    assert await look(keys, world) == ["b"]
    assert world.told[1:] == [{"b": tokens["b"].fingerprint}]
    assert world.said == [("token_replaced", {"account": "b"})]


async def test_a_token_is_told_again_when_the_account_is_refused(world: World, tokens: dict[str, TokenSource]) -> None:
    """The one that was refused may be an older one that was still on the wire."""
    keys = keyring(world, tokens)
    await look(keys, world)
    keys.refused("a")
    await look(keys, world)
    assert world.told[1:] == [{"a": tokens["a"].fingerprint}]


async def test_an_account_that_is_refused_while_tokens_are_told(world: World, tokens: dict[str, TokenSource]) -> None:
    """The database may have looked before the pause was written: it is told once more, and the account does not wait
    for a probe with a good token at hand."""
    keys = keyring(world, tokens)
    world.meanwhile = lambda: keys.refused("a")
    await look(keys, world)
    world.meanwhile = lambda: None
    await look(keys, world)
    assert world.told[1:] == [{"a": tokens["a"].fingerprint}]


async def test_a_token_that_cannot_be_read_is_said_once(
    world: World, tokens: dict[str, TokenSource], tmp_path: Path
) -> None:
    """And again when it is mended and breaks anew; the last one is kept."""
    keys = keyring(world, tokens)
    for _ in range(2):
        (tmp_path / "a").unlink()
        await look(keys, world)
        await look(keys, world)
        (tmp_path / "a").write_text("first-a")
        await look(keys, world)
    assert [(event, fields["account"]) for event, fields in world.said] == [("token_unreadable", "a")] * 2
    assert tokens["a"].token == "first-a"


async def test_files_are_looked_at_now_and_then(
    world: World, tokens: dict[str, TokenSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The more there are, the less often, unless somebody asks for it or an account is refused."""
    now_s = 1000.0
    monkeypatch.setattr(module, "LOOK_S", 1.0)
    monkeypatch.setattr(module.clock, "now", lambda: now_s)
    keys = keyring(world, tokens)
    await look(keys, world)
    for after_s, told in ((1.9, 1), (2.0, 2)):
        tokens["a"]._hold("another")
        now_s = 1000.0 + after_s
        await look(keys, world)
        assert len(world.told) == told
    for number, asked in enumerate((lambda: keys.refused("a"), lambda: keys.read(force=True)), start=3):
        asked()
        tokens["a"]._hold(f"another-{number}")
        await look(keys, world)
        assert len(world.told) == number
