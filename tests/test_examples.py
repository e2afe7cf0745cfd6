"""The example programs run; the kill rounds in their short form."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

import datalog as d

ROOT = Path(__file__).parent.parent


def ran(name, *arguments):
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(name):
    """What the docstring of an example says that it prints."""
    tree = ast.parse((ROOT / "examples" / name).read_text(encoding="utf-8"))
    lines = iter(ast.get_docstring(tree).split(f"$ python examples/{name}", 1)[1].splitlines()[1:])
    return "".join(f"{line.strip()}\n" for line in takewhile(bool, lines))


@pytest.mark.parametrize("name", ["family.py", "sensors.py", "agent_memory.py"])
def test_an_example_prints_what_it_says(name):
    """The output stands in the docstring."""
    assert ran(name) == shown(name)


def test_the_packages_of_this_machine(monkeypatch):
    """The closure over the installed packages is the one that a search in plain Python finds; the program prints its lines."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import packages

    graph = {name: needs for name, (_, needs) in packages.installed().items()}

    def reach(name):
        found, pending = set(), [name]
        while pending:
            new = graph[pending.pop()] - found
            found |= new
            pending += new
        return found

    with d.connect(None, packages.SCHEMA) as conn:
        packages.load(conn)
        db = conn.db()
        for name in ("pytest", "pandas", "numpy"):
            assert packages.needed_by(db, name) == sorted(reach(name))
            assert packages.broken_without(db, name) == sorted(n for n in graph if name in reach(n))
    labels = [line.split(":")[0] for line in ran("packages.py", "numpy").splitlines()[1:]]
    assert labels == [line.split(":")[0] for line in shown("packages.py").splitlines()[1:]]
    assert "datalog-lmdb" in ran("packages.py", "numpy").splitlines()[2]


def test_the_collaboration_keeps_its_memory():
    """Four users go on through all stages and back: no wrong read, both sides equal."""
    text = ran("collaboration.py", "--seconds", "1")
    assert "equal: True" in text
    assert "wrong reads: none" in text


def test_a_killed_application_loses_nothing(tmp_path):
    """The short form of the kill rounds: nothing acknowledged is lost, nothing wrong is read, both sides equal."""
    text = ran("kill_rounds.py", "--rounds", "5", "--seed", "11", "--folder", str(tmp_path))
    assert '"lost": 0, "wrong": 0' in text
