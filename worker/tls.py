"""Whom this program trusts when it speaks TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from worker.errors import ConfigError

_MEND = "name a PEM file with the certificates to trust"


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that speaks TLS 1.2 or newer and checks certificate and host name: against the certificates in
    `ca_file` alone when it is given, else against the system's. Raises ConfigError for a file that holds none."""
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        try:
            ca_file.read_bytes()  # for the system's own words about what is wrong: OpenSSL has none for a directory
            context = ssl.create_default_context(cafile=ca_file)
        except ssl.SSLError:
            raise ConfigError(f"api.ca_file: {ca_file}: holds no certificate, or a broken one; {_MEND}") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no file can have this name"
            raise ConfigError(f"api.ca_file: {ca_file}: cannot be read: {why}; {_MEND}") from None
        if not context.cert_store_stats()["x509"]:
            raise ConfigError(f"api.ca_file: {ca_file}: holds no certificate; {_MEND}")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
