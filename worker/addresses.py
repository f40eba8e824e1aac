"""Addresses as the settings write them: where to listen, which proxy, which host; and whether others get there."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_PROXY_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*", re.ASCII)


def parse_listen(text: str) -> tuple[str, int] | None:
    """Host and port of an `http.listen`; None for an empty one. Raises ValueError for what is neither."""
    if not text:
        return None
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65_535 or not _is_v6(match["v6"]):
        raise ValueError('must be HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464, or "" to turn it off')
    return match["v6"] or match["name"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether only this host gets there: a loopback address, or localhost. What any other name stands for may change,
    so none is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_host_name(text: str) -> bool:
    """Whether this is the name of a host, and nothing more: no port, no scheme, no path."""
    return _HOST_NAME.fullmatch(text) is not None


def is_proxy(value: str) -> bool:
    """Whether this is http://host:port or https://host:port, perhaps with a user and a password, and nothing more."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    host = parts.netloc.rpartition("@")[2].rpartition(":")[0]
    return (
        value.isascii()
        and value.isprintable()
        and not set(value) & set(" ?#\\")
        and parts.scheme in ("http", "https")
        and bool(port)
        and parts.path in ("", "/")
        and _PROXY_HOST.fullmatch(host) is not None
    )


def _is_v6(address: str | None) -> bool:
    """Whether this is an IPv6 address, if it is there at all."""
    try:
        return address is None or bool(ipaddress.IPv6Address(address))
    except ValueError:
        return False
