"""Several processes that open one directory at once: each comes in, whatever another is doing there just then."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import datalog as d
from store import environment
from store.backup import compact
from store.check import check_path

ROOT = Path(__file__).parent.parent

WRITER = """
import sys
import datalog as d
for line in sys.stdin:
    path, n = line.rsplit(None, 1)
    try:
        with d.connect(path, sync=False) as conn:
            conn.transact([{":n": int(n)}])
        print("ok", flush=True)
    except d.DatalogError as e:
        print(e.code, flush=True)
"""


@contextlib.contextmanager
def writers(n: int) -> Any:
    """Processes that open a database, write a number and close it, each time they are told to."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
            )
            for _ in range(n)
        ]


def tell(process: subprocess.Popen[str], path: Path, n: int) -> None:
    """Has it write a number."""
    assert process.stdin is not None
    process.stdin.write(f"{path} {n}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    """What it says about the last one."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def numbers(path: Path) -> list[int]:
    """All that were written."""
    with d.connect(path) as conn:
        return sorted(conn.q("[:find [?n ...] :where [_ :n ?n]]"))


def test_processes_that_make_a_database_at_the_same_time_share_it(tmp_path: Path) -> None:
    """Whoever is first makes it; the others find it, and nobody takes the half-made one for something else."""
    rounds = 25
    with writers(4) as processes:
        for r in range(rounds):
            for n, process in enumerate(processes):
                tell(process, tmp_path / str(r), n)
            assert [answer(process) for process in processes] == ["ok"] * 4
            assert numbers(tmp_path / str(r)) == [0, 1, 2, 3]


@pytest.mark.parametrize("at", range(6))
def test_a_database_made_by_another_process_while_this_one_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At each look at the directory, and before the read of the meta record, another process makes the database."""
    path = tmp_path / "db"
    looks = 0
    with writers(1) as (other,):

        def before(look: Any) -> Any:
            def looked(*args: Any, **named: Any) -> Any:
                nonlocal looks
                looks += 1
                if looks == at + 1:
                    tell(other, path, 1)
                    assert answer(other) == "ok"
                return look(*args, **named)

            return looked

        monkeypatch.setattr(environment, "_stat", before(environment._stat))
        monkeypatch.setattr(environment, "_take_open_file", before(environment._take_open_file))
        monkeypatch.setattr(environment, "_open_lmdb", before(environment._open_lmdb))
        with d.connect(path, sync=False) as conn:
            monkeypatch.undo()
            conn.transact([{":n": 2}])
    assert looks > at
    assert numbers(path) == [1, 2]
    assert check_path(path)[0] == []


def test_a_database_made_between_two_reads_of_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta record is looked for and the emptiness judged as of one moment."""
    path = tmp_path / "db"
    found = environment.ReadTxn.get
    with writers(1) as (other,):

        def get(self: Any, key: bytes) -> bytes | None:
            value = found(self, key)
            if value is None and key == environment.META_KEY:
                monkeypatch.undo()
                tell(other, path, 1)
                assert answer(other) == "ok"
            return value

        monkeypatch.setattr(environment.ReadTxn, "get", get)
        with d.connect(path, sync=False) as conn:
            conn.transact([{":n": 2}])
    assert numbers(path) == [1, 2]


def test_a_refused_attempt_to_have_it_alone_leaves_no_moment_for_another(tmp_path: Path) -> None:
    """One process at a time attempts it; whoever is refused has kept, or has again, what tells others that it is there."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "db"

    def refused(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    with d.connect(path) as conn, contextlib.ExitStack() as files:
        attempt = files.enter_context((path / "exclusive.lock").open("w")).fileno()
        assert not refused(attempt)
        assert not conn.store.env.lock_exclusive()
        opened = files.enter_context((path / "open.lock").open("r+")).fileno()
        assert refused(opened)  # the connection has its lock still
        fcntl.flock(attempt, fcntl.LOCK_UN)
        fcntl.flock(opened, fcntl.LOCK_SH)
        assert not conn.store.env.lock_exclusive()
        assert refused(opened)
        assert not refused(attempt)
        fcntl.flock(attempt, fcntl.LOCK_UN)
        fcntl.flock(opened, fcntl.LOCK_UN)
        assert conn.store.env.lock_exclusive()
        with pytest.raises(OSError, match="unavailable"):
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_reading_where_a_database_is_being_made(tmp_path: Path) -> None:
    """LMDB's file, empty yet: who only reads is told that there is nothing, not of damage."""
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").touch()
    with pytest.raises(d.DatalogError, match="no database yet") as caught:
        d.connect(tmp_path / "db", read_only=True)
    assert caught.value.code == "store/path"


def test_a_process_that_ended_while_it_made_the_database_leaves_a_place_for_one(tmp_path: Path) -> None:
    """LMDB's empty file, and no meta record in it: a new database is made there, not a foreign one seen."""
    path = tmp_path / "db"
    code = (
        "import os, sys, store.store as s; s.Store._create = lambda self: os._exit(7); import datalog as d;"
        "d.connect(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == 7
    assert (path / "data.mdb").stat().st_size > 0
    with d.connect(path) as conn:
        conn.transact([{":n": 1}])
    assert numbers(path) == [1]


def test_opening_while_others_write_and_compact(tmp_path: Path) -> None:
    """A database that is open elsewhere, grows, or is put in place anew is let in or said to be in use; never damaged."""
    path = tmp_path / "db"
    with d.connect(path, sync=False) as conn:
        conn.transact([{":n": -1}])
    written = [-1]
    with writers(3) as processes:
        for n in range(0, 120, 3):
            for i, process in enumerate(processes):
                tell(process, path, n + i)
            with contextlib.suppress(d.DatalogError):
                compact(path)
            for i, process in enumerate(processes):
                said = answer(process)
                assert said in ("ok", "store/exclusive")
                if said == "ok":
                    written.append(n + i)
    assert numbers(path) == sorted(written)
    assert check_path(path)[0] == []
