"""What a unit needs to know of this host: the installation, the configuration, and what follows from the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from worker.config import Settings
from worker.unit.credentials import Credential, credentials, page_credentials, read_directly
from worker.unit.installation import Installation, to_be_shown

# What comes on top of a request's time: writing back, and a farewell to the database.
MARGIN_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What differs between hosts."""

    installation: Installation
    config: Path
    """An absolute path."""

    settings: Settings
    """What stands in it."""

    @property
    def stop_s(self) -> int:
        """How long the requests on the wire, and what follows them, may take."""
        return math.ceil(self.settings.api.timeout_s) + MARGIN_S

    @property
    def credentials(self) -> Sequence[Credential]:
        """The files that systemd hands over to a run, beside the configuration."""
        return credentials(self.settings)

    @property
    def service_credentials(self) -> Sequence[Credential]:
        """The same for the service, which has a page."""
        return [*self.credentials, *page_credentials(self.settings)]

    @property
    def shown(self) -> Sequence[Path]:
        """What the service has to see although it lies in somebody's home or in /tmp."""
        own = read_directly(self.settings).values()
        return to_be_shown([*self.installation.parts, *own, *self.socket_folders])

    @property
    def socket_folders(self) -> Sequence[Path]:
        """Where Postgres has its socket, if database.dsn says so."""
        try:
            parts = urlsplit(self.settings.database.dsn.get_secret_value())
            hosts = [parts.netloc.rpartition("@")[2], *(v for k, v in parse_qsl(parts.query) if k == "host")]
        except ValueError:
            return []
        folders = (unquote(host).split(":")[0] for named in hosts for host in named.split(","))
        return [Path(folder) for folder in folders if folder.startswith("/")]
