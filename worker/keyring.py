"""The tokens: read again when their files change, and an account's tried at once where its last one was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker import clock
from worker.complaints import Complaints
from worker.errors import ConfigError
from worker.patience import Patience
from worker.store import Store
from worker.telemetry import Log
from worker.token import TokenSource

# How often the files are looked at: after so many seconds for each, so that a thousand of them cost no more than one. A
# request that is refused has its own looked at in any case.
LOOK_S = 0.001


class Keyring:
    """Keeps the tokens fresh."""

    def __init__(
        self, tokens: Mapping[str, TokenSource], page: TokenSource | None, *, complaints: Complaints, log: Log
    ) -> None:
        """`tokens`: by account. `page`: what the page asks people for, if it does."""
        self._tokens = tokens
        self._sources: list[tuple[str | None, TokenSource]] = [*tokens.items(), *([(None, page)] if page else [])]
        self._complaints = complaints
        self._log = log
        self._tried: dict[str, str] = {}
        self._look_at = clock.now()

    def read(self, *, force: bool = False) -> None:
        """Reads every token that changed, or, with `force`, all."""
        for account, source in self._sources:
            try:
                source.refresh(force=force)
            except ConfigError as error:
                self._complaints.about("token_unreadable", account, str(error))
            else:
                self._complaints.over("token_unreadable", account)
        self._look_at = clock.now() if force else clock.now() + LOOK_S * len(self._sources)

    def refused(self, account: str) -> None:
        """The account's token was refused; it may have been replaced meanwhile."""
        self._tried.pop(account, None)
        self._look_at = clock.now()

    async def keep_fresh(self, store: Store, patience: Patience) -> Sequence[str]:
        """Looks, when it is time to, and lets refused accounts try another token at once: those are returned. Raises
        what the store raises, when patience is over."""
        if clock.now() < self._look_at:
            return ()
        self.read()
        # Another one may be read while the database is told of these.
        had = {account: source.fingerprint for account, source in self._tokens.items()}
        untried = {account: token for account, token in had.items() if self._tried.get(account) != token}
        if not untried:
            return ()
        self._tried |= untried  # before that: an account that is refused meanwhile may need to be told of again
        replaced = await patience.call(store.fresh_tokens, untried)
        for account in replaced:
            self._log.info("token_replaced", account=account)
        return replaced
