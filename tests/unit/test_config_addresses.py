"""Settings that are addresses: the API's, a proxy's and those of the page."""

from __future__ import annotations

import pytest

from tests.support.settings import SECRET, complaint
from worker.config import validated


@pytest.mark.parametrize(
    ("url", "sound"),
    [
        ("https://api.caspen.com/v1", True),
        ("https://api.caspen.com:8443/v1", True),
        ("http://localhost:8460/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:8460/v1", True),
        ("http://api.caspen.com/v1", False),
        ("http://localhost.caspen.com/v1", False),
        ("http://127.0.0.1.caspen.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://0.0.0.0/v1", False),
    ],
)
def test_plain_http_is_for_loopback(url: str, *, sound: bool) -> None:
    """The token would travel in the clear."""
    if sound:
        assert validated({"api": {"base_url": url}}).api.base_url == url
    else:
        assert "https://" in complaint({"api": {"base_url": url}})


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.example:3128",
        "http://10.0.0.1:3128/",
        "https://proxy:443",
        "http://[::1]:3128",
        f"http://user:{SECRET}%40@proxy:3128",
    ],
)
def test_a_proxy(url: str) -> None:
    """A scheme, a host and a port, perhaps a user and a password; kept as it was written, and shown to nobody."""
    settings = validated({"api": {"proxy": url}})
    assert settings.api.proxy is not None
    assert settings.api.proxy.get_secret_value() == url
    assert url not in f"{settings!r} {settings.model_dump()}"


def test_a_proxy_goes_with_https_only() -> None:
    """Without TLS to the API the proxy would read the token; a bad base_url is complained of by itself."""
    proxy = f"http://u:{SECRET}@proxy:3128"
    line = complaint({"api": {"base_url": "http://localhost:8460/v1", "proxy": proxy}})
    assert line.startswith("here: api.proxy: goes with an https:// api.base_url only")
    line = complaint({"api": {"base_url": "ftp://localhost/v1", "proxy": proxy}})
    assert line.startswith("here: api.base_url: ")
    assert "\n" not in line


def test_names_of_the_page() -> None:
    """In small letters, however they are written: that is how they are compared. None need be there."""
    names = ["Sync.Example", "sync-1", "x_y.internal", "10.0.0.1"]
    assert validated({"http": {"hosts": names}}).http.hosts == ("sync.example", "sync-1", "x_y.internal", "10.0.0.1")
    assert validated({}).http.hosts == ()


def test_a_base_url_may_end_in_a_slash() -> None:
    """Nobody has to know whether it must."""
    assert validated({"api": {"base_url": "https://h/v1/"}}).api.base_url == "https://h/v1"
