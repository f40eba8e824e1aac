"""What Grafana and Prometheus are given to show, and to warn of, what the metrics say: files of this package."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def dashboard() -> str:
    """The text of dashboard.json, which Grafana imports."""
    return (_HERE / "dashboard.json").read_text(encoding="utf-8")


def alerts() -> str:
    """The text of alerts.yml, which Prometheus reads as rules."""
    return (_HERE / "alerts.yml").read_text(encoding="utf-8")
