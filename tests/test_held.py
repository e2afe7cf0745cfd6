"""Ephemeral databases keep small commits from LMDB for a while: nobody can tell, whatever happens in between."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import datalog as d
from exchange.copying import copy_database
from store.backup import store_stats
from store.check import check_path
from store.commit import Commit, PlainCommits
from store.environment import META_KEY, Environment, decode_meta
from store.errors import StoreFull
from store.writing import PrivateTxn, WriteTxn, begin_write

ROOT = Path(__file__).parent.parent
SCHEMA = {
    ":n": {":db/valueType": ":db.type/long"},
    ":text": {":db/valueType": ":db.type/string", ":db/index": True},
    ":tags": {":db/valueType": ":db.type/keyword", ":db/cardinality": ":db.cardinality/many"},
    ":key": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
}


@pytest.fixture
def conn() -> Any:
    """An ephemeral database."""
    with d.connect(None, SCHEMA) as conn:
        yield conn


def meta_in_lmdb(conn: Any) -> Any:
    """The meta record that LMDB has."""
    raw = conn.store.env.begin_raw()
    try:
        return decode_meta(raw.get(META_KEY))
    finally:
        raw.abort()


def holds(conn: Any) -> bool:
    """True when LMDB is behind."""
    return bool(meta_in_lmdb(conn).basis_tx < conn.store.meta.basis_tx)


def facts(db: Any) -> list[Any]:
    """All datoms but the transactions' own, as text."""
    return sorted(repr(tuple(x)[:4]) for x in db.datoms("eavt") if x.e < 1 << 40)


def same_as_log(conn: Any) -> None:
    """The database that holds commits checks clean, log and all, and so does a copy of it."""
    assert check_path(conn.path)[0] == []
    assert not holds(conn)


def test_small_commits_are_held_until_the_log_is_read(conn) -> None:
    """A hundred transactions of known values reach LMDB as one commit, when the log is wanted there."""
    conn.transact([{":text": "a", ":n": 0}])
    before = conn.store.env.last_txnid()
    for i in range(100):
        conn.transact([[":db/add", i + 1, ":n", i], [":db/add", i + 1, ":text", "a"]])
    assert conn.q("[:find (count ?e) . :where [?e :text 'a'] [?e :n _]]".replace("'", '"')) == 100
    assert conn.store.env.last_txnid() == before
    assert holds(conn)
    assert store_stats(conn.store)["table_entries"]["log"] == conn.store.meta.basis_tx - (1 << 40)
    assert conn.store.env.last_txnid() == before + 1
    same_as_log(conn)


@pytest.mark.parametrize("seed", range(6))
def test_as_a_database_that_holds_nothing(tmp_path, monkeypatch, seed) -> None:
    """Transactions of all kinds, reads, undos, merges and failures: the same facts as in a database with a path."""
    r = random.Random(seed)
    monkeypatch.setattr("store.store.MOST_NOVELTY", 60)
    monkeypatch.setattr("store.store.LEAST_NOVELTY", 40)
    held = 0
    with d.connect(None, SCHEMA) as mine, d.connect(tmp_path / "db", SCHEMA, sync=False) as other:
        declared = mine.db().basis_tx
        for step in range(150):
            kind = r.random()
            e, n = r.randrange(1, 30), r.randrange(6)
            both = (mine, other)
            if kind < 0.5:
                for c in both:
                    c.transact([[":db/add", e, ":n", n], [":db/add", e, ":tags", d.kw(f"t{n % 3}")]])
            elif kind < 0.6:
                for c in both:
                    c.transact([{":text": f"text {step}", ":key": f"k{n}", ":n": n}])
            elif kind < 0.7:
                for c in both:
                    c.transact([[":db/retractEntity", e]])
            elif kind < 0.75:
                futures = [c.transact_async([[":db/add", e + i, ":n", i]]) for c in both for i in range(5)]
                assert all(f.result(10) for f in futures)
            elif kind < 0.8:
                tx = mine.db().basis_tx
                for c in both:
                    with c.atomic() as work:
                        work.transact([[":db/add", e, ":text", "within"]])
                        if n % 2 and tx > declared:
                            work.undo(tx, force=True)
            elif kind < 0.83:
                for c in both:
                    c.load({":n": (list(range(100, 160)), [n] * 60)})
            elif kind < 0.86:
                for c in both:
                    c.update_schema({f":new{n}": {":db/valueType": ":db.type/string"}})
            elif kind < 0.9:
                for c in both:
                    with pytest.raises(d.DatalogError):
                        c.transact([[":db/add", e, ":n", "no number"]])
            elif kind < 0.93:
                with monkeypatch.context() as patched:  # the commit is made, the process does not come to know it
                    patched.setattr(PlainCommits, "finish", _interrupted)
                    patched.setattr(Commit, "finish", _interrupted)
                    with suppress(KeyboardInterrupt):  # none where nothing is new
                        mine.transact([[":db/add", e, ":n", n + 10]])
                other.transact([[":db/add", e, ":n", n + 10]])
            elif kind < 0.95:
                with monkeypatch.context() as patched:  # nothing is made
                    patched.setattr(PrivateTxn, "__exit__", _interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        mine.transact([[":db/add", e, ":n", n + 20]])
            else:
                same_as_log(mine)
            held += holds(mine)
            if r.random() < 0.4:
                assert facts(mine.db()) == facts(other.db()), (seed, step)
        assert facts(mine.db()) == facts(other.db())
        assert held > 40
        same_as_log(mine)
        copy_database(mine.path, tmp_path / "copy")
        with d.connect(tmp_path / "copy") as copy:
            assert facts(copy.db()) == facts(other.db())


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_readers_do_not_wait_for_what_became_a_real_transaction(conn) -> None:
    """While a transaction function runs, other threads read what was there before, and may read the log."""
    conn.transact([[":db/add", 1, ":n", 1]])
    conn.transact([[":db/add", 1, ":n", 2]])
    seen: list[Any] = []

    def read() -> None:
        seen.append(conn.q("[:find ?n . :where [1 :n ?n]]"))
        seen.append(store_stats(conn.store)["transactions"])

    def slow(_: d.Db) -> list[Any]:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(10)
        assert len(seen) == 2, "the reader waits"
        return [[":db/add", 1, ":n", 3], [":db/add", 1, ":text", "not known before"]]

    conn.transact([[":db.fn/call", slow]])
    assert seen == [2, 3]
    seen.clear()
    with conn.atomic() as work:
        work.transact([[":db/add", 1, ":text", "new as well"]])
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(10)
        assert seen == [3, 4]
    same_as_log(conn)


def test_threads_that_write_and_read_the_log(conn) -> None:
    """Held commits, real ones and readers that settle, all at once: nothing is lost."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(60):
                e = 1 + number * 1000 + i
                conn.transact([[":db/add", e, ":n", i]])
                if i % 7 == number:
                    conn.transact([{":db/id": e, ":text": f"{number} {i}"}])
                if i % 5 == number:
                    assert store_stats(conn.store)["transactions"] > 0
        except BaseException as e:  # noqa: BLE001 - shown by the test
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert conn.q("[:find (count ?e) . :where [?e :n _]]") == 240
    same_as_log(conn)


def test_a_full_disk_loses_nothing_that_is_held(conn, monkeypatch) -> None:
    """Whoever reads the log hears of it; the facts stay, and LMDB gets them when there is room again."""
    for i in range(10):
        conn.transact([[":db/add", 1 + i, ":n", i]])

    def full(*_: Any) -> None:
        raise StoreFull("store/disk-full", "full", retryable=True, hint="free some space")

    with monkeypatch.context() as patched:
        patched.setattr(WriteTxn, "put_sorted", full)
        with pytest.raises(StoreFull):
            store_stats(conn.store)
        assert conn.q("[:find (count ?e) . :where [?e :n _]]") == 10
        conn.transact([[":db/add", 99, ":n", 99]])
        with pytest.raises(StoreFull):
            conn.transact([{":text": "new to the dictionary"}])
    assert conn.q("[:find (count ?e) . :where [?e :n _]]") == 11
    assert conn.q("[:find ?e :where [?e :text _]]") == set()
    conn.transact([{":text": "new to the dictionary"}])
    same_as_log(conn)


@pytest.mark.parametrize(
    "forms",
    [[{":text": "new to the dictionary", ":n": 7}], [[":db/add", 1, ":n", 7]], [[":db/retractEntity", 1], {":n": 7}]],
    ids=["in LMDB", "held", "general"],
)
def test_a_commit_that_nobody_heard_of_is_there(conn, monkeypatch, forms) -> None:
    """An interrupt between the commit and its news: the next transaction comes after it, not in its place."""
    conn.transact([[":db/add", 1, ":n", 1]])
    with monkeypatch.context() as patched:
        patched.setattr(PlainCommits, "finish", _interrupted)
        patched.setattr(Commit, "finish", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            conn.transact(forms)
    conn.transact([[":db/add", 99, ":n", 8]])
    assert {7, 8} <= set(conn.q("[:find [?n ...] :where [_ :n ?n]]"))
    same_as_log(conn)


def test_settling_may_be_interrupted(conn, monkeypatch) -> None:
    """An interrupt after LMDB's commit: it is made once more, which changes nothing."""
    for i in range(10):
        conn.transact([[":db/add", 1 + i, ":n", i]])
    exit_ = WriteTxn.__exit__

    def interrupted(txn: Any, *args: Any) -> None:
        exit_(txn, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(WriteTxn, "__exit__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store_stats(conn.store)
    conn.transact([[":db/add", 1, ":n", 100]])
    assert conn.q("[:find ?n . :where [1 :n ?n]]") == 100
    same_as_log(conn)


def test_settling_that_is_interrupted_early_leaves_no_lock(conn, monkeypatch) -> None:
    """A reader's interrupt between LMDB's begin and the block that ends it: others can write at once."""
    conn.transact([[":db/add", 1, ":n", 1]])
    with monkeypatch.context() as patched:
        patched.setattr(WriteTxn, "__init__", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            store_stats(conn.store)
    other = threading.Thread(target=conn.transact, args=([{":db/id": 2, ":text": "new"}],), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    assert conn.q("[:find ?t . :where [2 :text ?t]]") == "new"
    same_as_log(conn)


def test_pages_are_let_go(conn) -> None:
    """The reader of the segments moves on with LMDB's commits, so that their old pages can be used again."""
    for i in range(200):
        conn.transact([{":db/id": 1, ":text": f"text {i}"}])
        store_stats(conn.store)
    size = store_stats(conn.store)["file_bytes"]
    for i in range(400):
        conn.transact([{":db/id": 1, ":text": f"text {i}"}])
        conn.transact([[":db/add", 1, ":n", i]])
        store_stats(conn.store)
    assert store_stats(conn.store)["file_bytes"] < 3 * size


def test_no_other_process_gets_in(conn) -> None:
    """It would not see what is held; the error says what to do."""
    conn.transact([[":db/add", 1, ":n", 1]])
    code = "import sys, datalog as d\ntry: d.connect(sys.argv[1])\nexcept d.DatalogError as e: print(e.code, e.hint)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(conn.path)], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("store/exclusive")
    assert "give it a path" in done.stdout
    with d.connect(conn.path) as same:  # this process shares what it has open
        assert same.q("[:find ?n . :where [1 :n ?n]]") == 1


def test_where_no_lock_can_be_had_nothing_is_held(monkeypatch) -> None:
    """A system without file locks: every commit reaches LMDB."""
    monkeypatch.setattr(Environment, "lock_exclusive", lambda _: False)
    with d.connect(None, SCHEMA) as conn:
        for i in range(5):
            conn.transact([[":db/add", 1, ":n", i]])
            assert not holds(conn)


def test_a_write_transaction_begun_by_hand_sees_everything(conn) -> None:
    """LMDB is brought up to date before anybody writes there."""
    conn.transact([[":db/add", 1, ":n", 1]])
    assert holds(conn)
    with begin_write(conn.store.env) as txn:
        assert decode_meta(txn.get(META_KEY)) == conn.store.meta
    conn.transact([[":db/add", 1, ":n", 2]])
    same_as_log(conn)
