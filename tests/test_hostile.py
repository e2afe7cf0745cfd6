"""Broken and hostile query texts: each gets an answer or an error of ours, nothing else happens."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from differential import SCHEMA, Generator
from hostile import broken

import datalog as d
from store.errors import DatalogError


@pytest.fixture(scope="module")
def db():
    """Random data."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.transact(Generator(7).transaction())
        yield conn.db()


def test_hostile_texts_end_in_our_errors() -> None:
    """3,000 texts (`tests/hostile.py --count 10000` for more), broken at random or hostile, give an answer or a DatalogError, and touch no file, module, socket or process."""
    command = [sys.executable, str(Path(__file__).parent / "hostile.py"), "--count", "3000"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    answers = re.search(r"answer: (\d+)", found.stdout)
    assert answers is not None
    assert int(answers.group(1)) > 150


def test_broken_pull_patterns_end_in_our_errors(db) -> None:
    """Pull patterns broken at random give a map, nothing, or a DatalogError."""
    source = random.Random(11)
    patterns = [
        "[*]",
        "[:n/num {:n/ref [:n/str]} :n/_ref]",
        "[[:n/num :default 1 :as :x] {:n/up ...}]",
        "[{:n/ref 3} :n/tag]",
    ]
    for _ in range(500):
        text = broken(source.choice(patterns), source)
        try:
            db.pull(text, 1)
        except DatalogError:
            continue
        except Exception as error:
            raise AssertionError(f"{text}\n{error!r}") from error
