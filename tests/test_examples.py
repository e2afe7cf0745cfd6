"""The example programs run; the kill rounds in their short form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def ran(name, *arguments):
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_collaboration_keeps_its_memory():
    """Four users go on through all stages and back: no wrong read, both sides equal."""
    text = ran("collaboration.py", "--seconds", "1")
    assert "equal: True" in text
    assert "wrong reads: none" in text


def test_a_killed_application_loses_nothing(tmp_path):
    """The short form of the kill rounds: nothing acknowledged is lost, nothing wrong is read, both sides equal."""
    text = ran("kill_rounds.py", "--rounds", "5", "--seed", "11", "--folder", str(tmp_path))
    assert '"lost": 0, "wrong": 0' in text
