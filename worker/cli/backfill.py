"""`caspen-sync backfill FILE`."""

from __future__ import annotations

import argparse


def run(args: argparse.Namespace) -> int:
    """Loads, and unless told not to, works it off."""
    raise NotImplementedError(args)
