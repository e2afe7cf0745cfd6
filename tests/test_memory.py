"""The memory interface: every operation in every stage, several threads and processes, a failing store, losses."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from staged import EXAMPLE, UNTIMED, climb, edn, keys_of, opened

import datalog as d
from datalog import kw
from migration import modes
from migration.backfill import Backfill
from migration.checking import check_memory, compare_digests
from migration.cutover import move, prefer, roll_back
from migration.database_side import DatabaseSide
from migration.memory import MemoryStore, Settings
from migration.modes import DEFAULTS, OPERATIONS, STAGES, access
from migration.source import read_memory
from store.errors import (
    DatalogError,
    ForkedConnection,
    KeyMapError,
    StorageError,
    StoreCorrupt,
    StoreFull,
    StoreLocked,
    UserError,
)

ROOT = Path(__file__).parent.parent
STRICT = Settings(lag=0, sync=False)


@pytest.fixture(params=STAGES)
def staged(request, tmp_path):
    """A memory in each stage, made from a file with some keys."""
    (tmp_path / "memory.edn").write_text(
        '{:collab-session/s1 {:owner :ada :open? true} :presence/s1 {:ada {:user-name "Ada"}} :plain 1 :nothing nil :no false}'
    )
    with opened(tmp_path) as memory:
        yield climb(memory, request.param)


# -- the matrix


def test_the_matrix_names_what_the_memory_has():
    """Every operation of the table is a method, and every mode has an access for each."""
    for operation in OPERATIONS:
        assert callable(getattr(MemoryStore, operation))
        for stage in STAGES:
            found = access(operation, DEFAULTS[stage])
            assert set(found.asks) | set(found.writes) <= {"edn", "datalog"}
    assert set(DEFAULTS) == set(STAGES)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_in_every_stage(staged, operation):
    """Each operation gives the same in each stage, and says truthfully which store answered or was written."""
    stage = staged.stage_name()
    wanted = access(operation, DEFAULTS[stage])
    memory, key = staged, kw("plain")
    sessions = keys_of("collab-session/s1", "presence/s1")
    if operation == "get_value":
        assert [memory.get_value(k, "none") for k in keys_of("plain", "nothing", "no", "absent")] == [
            1,
            None,
            False,
            "none",
        ]
    elif operation == "get_instrumented":
        for name, found, value in (
            ("plain", True, 1),
            ("nothing", True, None),
            ("no", True, False),
            ("absent", False, None),
        ):
            reading = memory.get_instrumented(kw(name))
            assert (reading.found, reading.value, reading.stage) == (found, value, stage)
            if found:
                assert (reading.store, reading.fell_back) == (wanted.asks[0], "")
    elif operation == "get_all":
        assert memory.get_all() == dict(read_memory(memory.file).pairs())
    elif operation == "keys":
        assert sorted(memory.keys()) == sorted([*sessions, *keys_of("plain", "nothing", "no")])
    elif operation == "search":
        assert memory.search("s1") == sessions
        assert memory.search(where={":session/owner": kw("ada")}) == sessions[:1]
        assert memory.search(where={":presence/user": kw("ada")}, kind="session") == sessions[1:]
        assert memory.search(where={":session/owner": kw("bob")}) == []
    elif operation in ("save_value", "update"):
        saved = memory.save_value(key, False) if operation == "save_value" else memory.update(key, lambda n: n != 1)
        assert set(saved.written) | set(saved.pending) == set(wanted.writes)
        assert (saved.value, saved.changed, saved.stage) == (False, True, stage)
        assert memory.get_instrumented(key).found
        assert memory.get_value(key) is False
    elif operation == "delete_value":
        assert memory.delete_value(key).changed
        assert not memory.delete_value(key).changed
        assert not memory.get_instrumented(key).found
        assert memory.save_value(key, 2).value == memory.get_value(key) == 2
    elif operation == "clear_memory":
        assert memory.clear_memory("session") == 2
        assert sorted(memory.keys()) == keys_of("no", "nothing", "plain")
        assert memory.clear_memory() == 3
        assert (memory.keys(), memory.get_all(), memory.clear_memory()) == ([], {}, 0)
    elif operation == "save_now":
        memory.save_value(key, 7)
        memory.save_now()
        if "edn" in access("save_value", DEFAULTS[stage]).writes:
            assert read_memory(memory.file)[key] == 7
        if stage not in ("edn-only", "datalog-only"):
            assert not memory.follower.pending
    elif operation == "init":
        assert memory.init()["stage"] == stage
    elif operation == "health":
        assert memory.health()["ok"] is True
    else:
        status = memory.migration_status()
        assert status["stage"] == stage
        if DEFAULTS[stage].uses_database:
            assert sum(k["database_keys"] for k in status["kinds"].values()) == 5
        if DEFAULTS[stage].uses_edn:
            assert sum(k["edn_keys"] for k in status["kinds"].values()) == 5
    if DEFAULTS[stage].writes == "both":
        assert check_memory(memory).equal


def test_wrong_keys_and_values_are_refused_in_every_stage(staged):
    """A key that is no keyword and a value that EDN has not are refused, and nothing changes."""
    before = staged.get_all()
    for call in (
        lambda: staged.save_value("plain", 1),
        lambda: staged.save_value(kw("a"), object()),
        lambda: staged.get_value("plain"),
        lambda: staged.delete_value(1),
        lambda: staged.update(kw("a"), lambda _: object()),
    ):
        with pytest.raises(KeyMapError):
            call()
    with pytest.raises(ZeroDivisionError):
        staged.update(kw("plain"), lambda n: n / 0)
    with pytest.raises(UserError, match="memory/kind"):
        staged.clear_memory("nobody")
    with pytest.raises(KeyMapError, match="memory/search"):
        staged.search(where={":session/created-at": 1})
    assert staged.get_all() == before


def test_update_cannot_use_the_memory(staged):
    """The function of an update must not save; it is told so, and nothing is saved."""
    with pytest.raises(UserError, match="memory/nested-update"):
        staged.update(kw("plain"), lambda n: staged.save_value(kw("other"), 1).value + n)
    assert staged.get_value(kw("plain")) == 1
    assert not staged.get_instrumented(kw("other")).found
    assert staged.update(kw("plain"), lambda n: n + 1).value == 2


def test_values_come_back_as_they_would_from_either_store(staged):
    """A value that is given as plain Python is the model's when it is read, and nobody's change reaches it."""
    given = {"list": [1, {"x": {1, 2}}], "t": (1, 2)}
    staged.save_value(kw("v"), given)
    given["list"].append(5)
    found = staged.get_value(kw("v"))
    assert found == edn('{"list" [1 {"x" #{1 2}}] "t" [1 2]}')
    staged.save_now()
    assert staged.get_value(kw("v")) == found


def test_deleted_and_made_again_through_all_stages(tmp_path):
    """Deletes stay deletes and what was made again is there, whichever store answers."""
    key, other = keys_of("webhook/w", "presence/p")
    with opened(tmp_path) as memory:
        for n, stage in enumerate([*STAGES, *reversed(STAGES[:-1])]):
            climb(memory, stage)
            memory.save_value(key, n)
            memory.save_value(other, {kw("ada"): {kw("user-name"): str(n)}})
            memory.delete_value(key)
            memory.delete_value(other)
            assert (memory.get_value(key, "gone"), memory.get_value(other, "gone")) == ("gone", "gone")
            assert memory.keys() == []
            memory.save_value(other, None)
            assert memory.get_all() == {other: None}


# -- threads and processes


@pytest.mark.parametrize("stage", STAGES)
def test_updates_of_threads_lose_nothing(tmp_path, stage):
    """Four threads count on one key, and each reads at least what it has counted."""
    with opened(tmp_path) as memory:
        climb(memory, stage)
        wrong = []

        def count():
            for _ in range(25):
                n = memory.update(kw("n"), lambda n: n + 1, default=0).value
                if memory.get_value(kw("n")) < n:
                    wrong.append(n)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert memory.get_value(kw("n")) == 100
        assert wrong == []


_COUNT = """
import sys
from datalog import kw
from migration.memory import MemoryStore, Settings
with MemoryStore(sys.argv[1], sys.argv[2], settings=Settings(sync=False)) as memory:
    for _ in range(25):
        memory.update(kw("n"), lambda n: n + 1, default=0)
        memory.save_value(kw(sys.argv[3]), 1)
"""


def _run_process(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def test_updates_of_processes_lose_nothing(tmp_path):
    """In datalog-only four processes count on one key; in a stage that writes EDN the second one is refused."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-only")
        files = (memory.file, memory.side.path)
        processes = [_run_process(_COUNT, *files, f"p{n}") for n in range(4)]
        for p in processes:
            _, errors = p.communicate(timeout=100)
            assert p.returncode == 0, errors
        assert memory.get_value(kw("n")) == 100
        assert len(memory.keys()) == 5
        roll_back(memory, "rampdown")
        refused = _run_process(_COUNT, *files, "late")
        _, errors = refused.communicate(timeout=100)
        assert "memory/locked" in errors
        assert f"process {os.getpid()}" in errors
        assert memory.get_value(kw("n")) == 100


def test_a_stage_that_writes_edn_needs_the_memory_alone(tmp_path):
    """From datalog-only nobody rolls back while another has the memory open; both go on working."""
    with opened(tmp_path) as one:
        climb(one, "datalog-only")
        with opened(tmp_path) as two:
            two.save_value(kw("a"), 1)
            with pytest.raises(StoreLocked):
                roll_back(one, "rampdown")
            one.save_value(kw("b"), 2)
            assert two.get_all() == one.get_all()
        roll_back(one, "edn-only")
        assert one.get_all() == {kw("a"): 1, kw("b"): 2}
        with opened(tmp_path) as three, pytest.raises(StoreLocked, match="memory/locked"):
            three.keys()


def test_a_forked_child_is_refused(tmp_path):
    """A child must open its own; the parent goes on."""
    with opened(tmp_path) as memory:
        memory.save_value(kw("a"), 1)

        def child(answers):
            try:
                memory.get_value(kw("a"))
            except ForkedConnection as e:
                answers.put(e.code)

        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        process = context.Process(target=child, args=(answers,))
        process.start()
        assert answers.get(timeout=30) == "memory/forked"
        process.join()
        memory.save_value(kw("a"), 2)
    with pytest.raises(StorageError, match="memory/closed"):
        memory.keys()


@pytest.mark.parametrize("stage", ["edn-only", "datalog-first", "datalog-only"])
def test_closed_while_threads_work(tmp_path, stage):
    """Who is late is told that the memory is closed; what was acknowledged is there."""
    memory = climb(opened(tmp_path), stage)
    told, done = [], {}

    def work(name):
        try:
            for n in range(100_000):
                memory.save_value(kw(f"k/{name}"), n)
                done[name] = n
                memory.get_value(kw(f"k/{name}"))
        except StorageError as e:
            told.append(e.code)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for t in threads:
        t.start()
    time.sleep(0.2)
    memory.close()
    for t in threads:
        t.join(30)
    assert not any(t.is_alive() for t in threads)
    assert set(told) <= {"memory/closed", "store/closed"}
    assert len(told) == 3
    with opened(tmp_path) as again:
        found = again.get_all()
        assert all(found[kw(f"k/{name}")] in (n, n + 1) for name, n in done.items())


def test_a_link_leads_to_the_same_lock(tmp_path):
    """A memory opened through a symbolic link is the same memory: refused while it is open, and not replaced by a file."""
    (tmp_path / "memory.edn").write_text("{:a 1}")
    (tmp_path / "link.edn").symlink_to(tmp_path / "memory.edn")
    with opened(tmp_path) as memory:
        memory.save_value(kw("b"), 2)
        with MemoryStore(tmp_path / "link.edn", tmp_path / "memory.db") as other, pytest.raises(StoreLocked):
            other.keys()
    with MemoryStore(tmp_path / "link.edn", tmp_path / "memory.db") as other:
        other.save_value(kw("c"), 3)
    assert (tmp_path / "link.edn").is_symlink()
    assert read_memory(tmp_path / "memory.edn")[kw("c")] == 3


def test_opened_lazily(tmp_path):
    """Making the object touches nothing; in edn-only the database is never made."""
    memory = opened(tmp_path)
    assert list(tmp_path.iterdir()) == []
    memory.save_value(kw("a"), 1)
    assert not memory.side.path.exists()
    memory.close()
    memory.close()


def test_a_given_connection_stays_open(tmp_path):
    """A connection that the application gave is used and not closed."""
    with d.connect(tmp_path / "app.db", schema={":app/x": {":db/valueType": ":db.type/long"}}) as conn:
        with MemoryStore(tmp_path / "memory.edn", conn) as memory:
            memory.save_value(kw("a"), 1)
            climb(memory, "datalog-only")
        conn.transact([{":app/x": 1}])
        assert conn.q("[:find ?k . :where [?e :memory/key ?k] [?e :memory/version]]") is kw("a")


def test_another_writer_of_the_database_is_seen(tmp_path):
    """The value cache answers what the database would, whoever has written it."""
    with opened(tmp_path) as one, opened(tmp_path) as two:
        climb(one, "datalog-only")
        for n in range(20):
            (one if n % 2 else two).save_value(kw("webhook/w"), {"n": n})
            assert one.get_value(kw("webhook/w")) == two.get_value(kw("webhook/w")) == edn(f'{{"n" {n}}}')
        one.save_value(kw("collab-session/s"), {kw("owner"): kw("ada")})
        assert one.get_value(kw("collab-session/s"))[kw("owner")] is kw("ada")
        one.side.conn.transact([{":session/id": "s", ":session/owner": kw("bob")}])
        assert one.get_value(kw("collab-session/s"))[kw("owner")] is kw("bob")


# -- stages while it is used


def test_moves_while_threads_work(tmp_path):
    """Up and down through all stages under load: no read goes back behind what was acknowledged."""
    with opened(tmp_path) as memory:
        memory.init()
        stop, wrong = threading.Event(), []

        def work(name):
            own = random.Random(name)
            state = {}
            while not stop.is_set():
                key = kw(f"{own.choice(['presence', 'learning', 'x'])}/{name}{own.randrange(4)}")
                what = own.random()
                if what < 0.4:
                    state[key] = own.choice([None, False, own.randrange(1000), edn('{:owner :u "n" 1}')])
                    memory.save_value(key, state[key])
                elif what < 0.5:
                    state.pop(key, None)
                    memory.delete_value(key)
                elif what < 0.95:
                    reading = memory.get_instrumented(key)
                    if reading.found != (key in state) or (reading.found and reading.value != state[key]):
                        wrong.append((key, reading, state.get(key, "absent")))
                elif {k for k in memory.keys() if name in k.name} != state.keys():
                    wrong.append("keys")
                time.sleep(0.0005)

        threads = [threading.Thread(target=work, args=(n,)) for n in "abc"]
        for t in threads:
            t.start()
        for top in STAGES[1:]:
            climb(memory, top)
            time.sleep(0.05)
            assert compare_digests(memory).equal or top == "datalog-only"
            roll_back(memory, "edn-only")
        stop.set()
        for t in threads:
            t.join()
        assert wrong == []


# -- the second store fails


class Failing:
    """Makes the database side fail on a share of its writes."""

    def __init__(self, patch, share, seed=1):
        self.random, self.share, self.calls, self.failed = random.Random(seed), share, 0, 0
        real = DatabaseSide.bring

        def bring(side, wanted, **more):
            self.calls += 1
            if self.random.random() < self.share:
                self.failed += 1
                raise StoreFull("store/disk-full", "The disk is full.", retryable=True)
            return real(side, wanted, **more)

        patch.setattr(DatabaseSide, "bring", bring)


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("stage", ["dual-write", "shadow"])
def test_a_failing_second_store(tmp_path, monkeypatch, share, stage):
    """EDN leads: saves go on, the list is exact, the gate holds; when the store works again it drains to nothing."""
    alerts = []
    with opened(tmp_path, settings=STRICT, alerts=[alerts.append]) as memory:
        climb(memory, stage)
        expected = {}
        with monkeypatch.context() as patch:
            failing = Failing(patch, share)
            for n in range(300):
                key = kw(f"x/k{n % 40}")
                expected[key] = n
                saved = memory.save_value(key, n)
                assert saved.written[0] == "edn"
                assert (saved.pending == ("datalog",)) == (key in memory.follower.pending)
            if share == 1.0:
                assert set(memory.follower.pending) == set(expected)
                assert memory.migration_status()["pending"] == 40
                with pytest.raises(UserError, match="stage/gate"):
                    move(memory, STAGES[STAGES.index(stage) + 1], limits=UNTIMED)
            assert memory.get_all() == expected
            assert not failing.failed or alerts
        memory.save_now()
        assert not memory.follower.pending
        assert check_memory(memory).equal


@pytest.mark.parametrize("stage", ["datalog-first", "rampdown"])
def test_a_failing_leading_store(tmp_path, monkeypatch, stage):
    """The database leads, and each save waits for it: what it refuses is refused, and seen in no store, now or later."""
    with opened(tmp_path, settings=STRICT) as memory:
        climb(memory, stage)
        memory.save_value(kw("x/a"), 1)
        with monkeypatch.context() as patch:
            Failing(patch, 1.0)
            with pytest.raises(StoreFull):
                memory.save_value(kw("x/a"), 2)
            with pytest.raises(StoreFull):
                memory.delete_value(kw("x/a"))
            with pytest.raises(StoreFull):
                memory.update(kw("x/b"), lambda _: 1)
            with pytest.raises(StoreFull):
                memory.clear_memory()
            if stage == "datalog-first":
                assert memory.get_value(kw("x/a")) == 1
                assert memory.keys() == [kw("x/a")]
        assert memory.get_all() == {kw("x/a"): 1}
    with opened(tmp_path) as memory:
        assert memory.get_all() == {kw("x/a"): 1}
        assert check_memory(memory).equal


def test_a_failing_leading_store_with_saves_on_the_way(tmp_path, monkeypatch):
    """With a lag: what was acknowledged stays and is answered; from the first failure on nothing more is."""
    with opened(tmp_path, settings=Settings(lag=8, idle_s=60, sync=False)) as memory:
        climb(memory, "datalog-first")
        with monkeypatch.context() as patch:
            Failing(patch, 1.0)
            acknowledged = {}
            refused = 0
            for n in range(30):
                try:
                    memory.save_value(kw(f"x/k{n}"), n)
                    acknowledged[kw(f"x/k{n}")] = n
                except StoreFull:
                    refused += 1
            assert 8 <= len(acknowledged) <= 12
            assert refused == 30 - len(acknowledged)
            assert {k: memory.get_value(k) for k in acknowledged} == acknowledged
            assert memory.get_instrumented(kw("x/k0")).fell_back == "pending"
            assert memory.get_all() == acknowledged
            assert memory.health()["ok"] is False
        memory.save_now()
        assert memory.get_all() == acknowledged
        assert check_memory(memory).equal


def test_a_key_that_the_database_refuses_holds_up_no_other(tmp_path):
    """A value held by a foreign entity: that key waits and is named, the others go on; mended, it follows."""
    with opened(tmp_path) as memory:
        climb(memory, "dual-write")
        memory.side.conn.transact([{":db/id": "x", ":cache/key": kw("k/taken")}])
        foreign = memory.side.conn.db().entid([":cache/key", kw("k/taken")])
        memory.side.conn.update_schema({":cache/key": {":db/unique": ":db.unique/value"}})
        for n in range(20):
            memory.save_value(kw(f"k/{'taken' if n == 7 else n}"), n)
        memory.save_now()
        status = memory.migration_status()
        assert list(status["refused"]) == [":k/taken"]
        assert list(memory.follower.pending) == [kw("k/taken")]
        assert memory.get_value(kw("k/taken")) == 7
        with pytest.raises(UserError, match="stage/gate"):
            move(memory, "shadow", limits=UNTIMED)
        memory.side.conn.transact([[":db/retractEntity", foreign]])
        memory.follower.drain(retry_refused=True)
        assert check_memory(memory).equal


def test_pending_survives_a_crash_and_the_rewrite_of_the_file(tmp_path, monkeypatch):
    """Saves that the database has not got are on the list again after a crash, whether in the journal or folded in."""
    with monkeypatch.context() as patch:
        memory = opened(tmp_path)
        climb(memory, "dual-write")
        Failing(patch, 1.0)
        memory.save_value(kw("x/a"), 1)
        memory.edn.rewrite()
        memory.save_value(kw("x/b"), 2)
        memory.delete_value(kw("x/a"))
        memory.save_value(kw("x/a"), None)
        image = tmp_path / "image"
        memory._stop.set()
        memory._keeper.join()
        shutil.copytree(tmp_path, image, ignore=shutil.ignore_patterns("image"))
        memory.close()
        with opened(image) as again:
            again.init()
            assert set(again.follower.pending) == {kw("x/a"), kw("x/b")}
    with opened(image) as again:
        again.save_now()
        assert again.side.read_all() == {kw("x/a"): None, kw("x/b"): 2}
        assert compare_digests(again).equal


# -- losses


@pytest.mark.parametrize("stage", STAGES[1:-1])
def test_the_database_is_lost(tmp_path, stage):
    """While EDN is written, EDN answers, nothing is lost, and a backfill makes the database anew."""
    with opened(tmp_path) as memory:
        climb(memory, stage)
        memory.save_value(kw("a"), 1)
    shutil.rmtree(tmp_path / "memory.db")
    with opened(tmp_path) as memory:
        assert memory.get_instrumented(kw("a")).store == "edn"
        memory.save_value(kw("b"), False)
        assert memory.get_all() == {kw("a"): 1, kw("b"): False}
        assert memory.stage_name() == stage
        status = memory.migration_status()
        assert {k["database"] for k in status["kinds"].values()} == {"stale"}
        assert {k["reads_now"] for k in status["kinds"].values()} == {"edn"}
        Backfill(memory).run()
        memory.save_now()  # a key on its way would be answered by EDN
        assert memory.get_instrumented(kw("b")).store == ("edn" if stage in ("dual-write", "shadow") else "datalog")
        assert check_memory(memory).equal


def test_the_database_is_lost_when_it_is_all_there_is(tmp_path):
    """In datalog-only a lost or foreign database is an error, not an empty memory."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-only")
        memory.save_value(kw("a"), 1)
    shutil.move(tmp_path / "memory.db", tmp_path / "kept")
    with opened(tmp_path) as memory, pytest.raises(StoreCorrupt, match="memory/database-lost"):
        memory.keys()
    d.connect(tmp_path / "memory.db").close()
    with opened(tmp_path) as memory, pytest.raises(StoreCorrupt, match="memory/database-lost"):
        memory.keys()
    shutil.rmtree(tmp_path / "memory.db")
    shutil.move(tmp_path / "kept", tmp_path / "memory.db")
    with opened(tmp_path) as memory:
        assert memory.get_all() == {kw("a"): 1}


@pytest.mark.parametrize("stage", ["dual-write", "datalog-first", "rampdown"])
def test_the_database_is_an_older_copy(tmp_path, stage):
    """A database restored from an older copy does not answer until it is filled again."""
    with opened(tmp_path) as memory:
        climb(memory, stage)
        memory.save_value(kw("a"), 1)
        memory.save_now()
    shutil.copytree(tmp_path / "memory.db", tmp_path / "older")
    with opened(tmp_path) as memory:
        memory.save_value(kw("a"), 2)
        memory.save_now()
    shutil.rmtree(tmp_path / "memory.db")
    shutil.move(tmp_path / "older", tmp_path / "memory.db")
    with opened(tmp_path) as memory:
        assert memory.get_value(kw("a")) == 2
        Backfill(memory).run()
        assert memory.get_value(kw("a")) == 2
        assert check_memory(memory).equal


@pytest.mark.parametrize("lost", ["stage", "journal", "database"])
@pytest.mark.parametrize("stage", ["edn-only", "dual-write", "datalog-first", "datalog-only"])
def test_the_stage_survives_the_loss_of_any_one_place(tmp_path, stage, lost):
    """File, journal, database: any one may go, and the stage is what it was."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        climb(memory, stage)
        memory.save_value(kw("a"), 1)
        sequence = memory.record.sequence
    if lost == "stage":
        (tmp_path / "memory.edn.stage").unlink()
    elif lost == "journal":
        for path in tmp_path.glob("*.journal.*"):
            path.unlink()
    elif stage == "datalog-only":
        return
    else:
        shutil.rmtree(tmp_path / "memory.db")
    with opened(tmp_path) as memory:
        memory.init()
        assert memory.stage_name() == stage
        assert memory.record.sequence >= sequence
        assert memory.get_value(kw("a")) == 1
        assert (tmp_path / "memory.edn.stage").exists()


def test_the_memory_file_is_lost_or_changed(tmp_path):
    """Lost: an error that names the way back. Changed by hand: EDN answers until the database is filled again."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        memory.save_value(kw("a"), 1)
    text = (tmp_path / "memory.edn").read_text()
    (tmp_path / "memory.edn").unlink()
    with opened(tmp_path) as memory, pytest.raises(StorageError, match="memory/file-lost"):
        memory.keys()
    (tmp_path / "memory.edn").write_text(text.replace("1", "5"))
    with opened(tmp_path) as memory:
        reading = memory.get_instrumented(kw("a"))
        assert (reading.value, reading.store) == (5, "edn")
        Backfill(memory).run()
        reading = memory.get_instrumented(kw("a"))
        assert (reading.value, reading.store) == (5, "datalog")
        assert check_memory(memory).equal


def test_the_database_cannot_be_opened(tmp_path):
    """Where EDN may answer it does, and saves wait on the list; where it may not, the error says so."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        memory.save_value(kw("a"), 1)
    data = tmp_path / "memory.db" / "data.mdb"
    whole = data.read_bytes()
    data.write_bytes(b"not a database" * 1000)
    with opened(tmp_path) as memory:
        reading = memory.get_instrumented(kw("a"))
        assert (reading.value, reading.store, reading.fell_back) == (1, "edn", "error")
        assert memory.health()["ok"] is False
        prefer(memory, reads="edn")
        memory.save_value(kw("a"), 2)
        assert memory.get_value(kw("a")) == 2
    data.write_bytes(whole)
    with opened(tmp_path) as memory:
        memory.save_now()
        assert memory.get_value(kw("a")) == 2
        assert check_memory(memory).equal


def test_a_clock_that_goes_back_changes_nothing(tmp_path, monkeypatch):
    """Nothing is decided by the time of day."""
    with opened(tmp_path) as memory:
        climb(memory, "dual-write")
        memory.save_value(kw("a"), 1)
        monkeypatch.setattr(time, "time", lambda: 1.0)
        monkeypatch.setattr(time, "time_ns", lambda: 10**9)
        memory.save_value(kw("a"), 2)
        climb(memory, "datalog-only")
        memory.save_value(kw("a"), 3)
    with opened(tmp_path) as memory:
        assert memory.get_value(kw("a")) == 3
        roll_back(memory)
        assert memory.get_value(kw("a")) == 3


# -- kinds, shares, preferences


def test_kinds_move_apart(tmp_path):
    """Each kind is in its own stage; what concerns all asks both stores, and gives the whole."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    everything = dict(read_memory(EXAMPLE).pairs())
    with opened(tmp_path) as memory:
        for n, kind in enumerate(memory.keymap.data_kinds):
            for stage in STAGES[1 : n + 3]:
                move(memory, stage, kinds=[kind], limits=UNTIMED)
                if stage == "dual-write":
                    Backfill(memory, [kind]).run()
        assert memory.stage_name() == "mixed"
        assert memory.get_all() == everything
        assert sorted(memory.keys()) == sorted(everything)
        key = kw("user/new")
        memory.save_value(key, 5)
        assert memory.get_all() == {**everything, key: 5}
        assert check_memory(memory).equal
        memory.delete_value(key)
        assert memory.clear_memory("session") == sum(memory.keymap.data_of(k) is kw("session") for k in everything)
        assert not any(memory.keymap.data_of(k) is kw("session") for k in memory.keys())
        roll_back(memory)
        assert memory.stage_name() == "edn-only"
        assert memory.get_all() == {
            k: v for k, v in everything.items() if memory.keymap.data_of(k) is not kw("session")
        }


@pytest.mark.parametrize("top", ["dual-write", "datalog-first", "datalog-only"])
def test_a_share_of_the_keys_moves(tmp_path, top):
    """With 30 per cent in the next stage each key is where its bucket says, and every operation sees all of them."""
    with opened(tmp_path) as memory:
        below = STAGES[STAGES.index(top) - 1]
        climb(memory, below)
        wanted = {kw(f"k/{n}"): n for n in range(200)}
        for key, n in wanted.items():
            memory.save_value(key, n)
        move(memory, top, percent=30, limits=UNTIMED)
        Backfill(memory).run()
        stages = [memory.get_instrumented(k).stage for k in wanted]
        assert 35 < stages.count(top) < 85
        assert set(stages) == {top, below}
        assert memory.get_all() == wanted
        for key in wanted:
            memory.update(key, lambda n: -n)
        assert memory.get_all() == {k: -n for k, n in wanted.items()}
        assert memory.search("k/1") == sorted(k for k in wanted if "k/1" in str(k))
        if top != "datalog-only":
            assert check_memory(memory).equal
        with pytest.raises(UserError, match="stage/percent"):
            move(memory, STAGES[min(STAGES.index(top) + 1, 5)] if top != "datalog-only" else top, percent=101)
        move(memory, top, percent=100, limits=UNTIMED)
        Backfill(memory).run()
        assert memory.get_all() == {k: -n for k, n in wanted.items()}
        roll_back(memory)
        assert memory.get_all() == {k: -n for k, n in wanted.items()}


def test_read_preference_and_write_destination_apart(tmp_path):
    """EDN reads with both written; both read from the database in dual-write; nothing is read from where it is not written."""
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        memory.save_value(kw("a"), 1)
        prefer(memory, reads="edn", why="slow")
        assert memory.get_instrumented(kw("a")).store == "edn"
        memory.save_value(kw("a"), 2)
        prefer(memory, reads=None)
        memory.save_now()
        assert memory.get_instrumented(kw("a")).store == "datalog"
        prefer(memory, reads="edn", writes="edn")
        memory.save_value(kw("a"), 3)
        with pytest.raises(UserError, match="stage/preference"):
            prefer(memory, reads="datalog", writes="edn")
        prefer(memory)
        reading = memory.get_instrumented(kw("a"))
        assert (reading.value, reading.store) == (3, "edn")  # what the database holds is void until it is filled
        Backfill(memory).run()
        assert memory.get_instrumented(kw("a")).store == "datalog"
        assert check_memory(memory).equal
        roll_back(memory, "dual-write")
        prefer(memory, reads="datalog-first")
        assert memory.get_instrumented(kw("a")).store == "datalog"


def test_dual_write_reads_the_database_first_before_it_is_filled(tmp_path):
    """A fresh database may be asked first while it is filled: what it does not know comes from EDN, deletes stay."""
    (tmp_path / "memory.edn").write_text("{:a 1 :b 2}")
    with opened(tmp_path, settings=STRICT) as memory:
        climb(memory, "edn-only")
        move(memory, "dual-write", limits=UNTIMED)
        prefer(memory, reads="datalog-first")
        reading = memory.get_instrumented(kw("a"))
        assert (reading.value, reading.store, reading.fell_back) == (1, "edn", "unknown")
        memory.save_value(kw("a"), 3)
        assert memory.get_instrumented(kw("a")).store == "datalog"
        memory.delete_value(kw("b"))
        assert not memory.get_instrumented(kw("b")).found
        assert memory.keys() == [kw("a")]
        assert memory.get_all() == {kw("a"): 3}


def test_shadow_reads_find_what_differs_and_nothing_else(tmp_path):
    """A difference made behind the memory's back is counted once it is read; saves on the way are no difference."""
    alerts = []
    with opened(tmp_path, alerts=[alerts.append]) as memory:
        climb(memory, "shadow")
        for n in range(50):
            memory.save_value(kw("collab-session/s"), {kw("owner"): kw(f"u{n}")})
            memory.get_value(kw("collab-session/s"))
        memory.save_now()
        assert memory.get_value(kw("collab-session/s"))[kw("owner")] is kw("u49")
        assert memory.counters.mismatched == 0
        assert memory.counters.compared > 0
        memory.side.conn.transact([{":session/id": "s", ":session/owner": kw("mallory")}])
        assert memory.get_value(kw("collab-session/s"))[kw("owner")] is kw("u49")
        assert memory.counters.mismatched == 1
        assert "mismatch" in [a.data["alert"] for a in alerts]
        with pytest.raises(UserError, match="mismatches of shadow reads"):
            move(memory, "datalog-first", limits=UNTIMED)


@pytest.mark.parametrize("stage", ["edn-only", "datalog-first", "datalog-only"])
def test_the_example_memory_is_searched_alike(tmp_path, stage):
    """Every attribute that can be searched for, with values that occur, finds the same keys on both sides."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    with opened(tmp_path) as memory:
        climb(memory, stage)
        values = dict(read_memory(EXAMPLE).pairs())
        compared = 0
        for attr in sorted(memory.keymap.searchable):
            by_value = {}
            for key, value in values.items():
                rule = memory.keymap.rule_of(key, value)[0]
                getter = rule.getter(attr)
                for found in getter(key, value) if getter else ():
                    by_value.setdefault((type(found), found), set()).add(key)
            for (_, wanted), keys in list(by_value.items())[:4]:
                assert memory.search(where={attr: wanted}) == sorted(keys), (attr, wanted)
                compared += 1
        assert compared > 60
        two = memory.search(where={":learning/level": kw("wisdom"), ":learning/tags": "joins"})
        assert two == sorted(
            set(memory.search(where={":learning/level": kw("wisdom")}))
            & set(memory.search(where={":learning/tags": "joins"}))
        )


def test_modes_refuse_what_does_not_go_together():
    """No stage reads from where it does not write."""
    for stage in STAGES:
        for reads in modes.READS:
            for writes in modes.WRITES:
                mode = modes.mode_of(stage, reads, writes)
                if mode is not None:
                    assert mode.reads in modes.allowed_reads(mode.writes)
                    assert DEFAULTS[stage].writes in (mode.writes, "both")
    assert issubclass(StoreFull, DatalogError)
