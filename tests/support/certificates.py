"""Certificates that a test issues itself, and servers' contexts that show them."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme


def ca_file(authority: trustme.CA, folder: Path) -> Path:
    """The authority's certificate as a PEM file, for `api.ca_file`."""
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(
    authority: trustme.CA, name: str = "localhost", *, expired_for: datetime.timedelta | None = None
) -> ssl.SSLContext:
    """A server's context with a certificate of this authority for this name."""
    until = datetime.datetime.now(datetime.UTC) - expired_for if expired_for else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    since = until - datetime.timedelta(days=1) if until else None
    authority.issue_cert(name, not_before=since, not_after=until).configure_cert(context)
    return context
