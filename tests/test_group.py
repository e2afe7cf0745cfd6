"""Transactions of several threads: none is lost, each has its own report or error, plain ones share commits."""

from __future__ import annotations

import threading
from typing import Any

import lmdb
import pytest

import datalog as d
from store.commit import PlainCommits
from store.environment import ReadTxn
from store.group import Wish
from store.writing import WriteTxn

SCHEMA = {
    ":n": {":db/valueType": ":db.type/long"},
    ":name": {":db/valueType": ":db.type/string"},
    ":key": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
    ":seen": {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/many"},
}


@pytest.fixture(params=[True, False], ids=["sync", "no sync"])
def conn(request, tmp_path):
    """A database in a directory."""
    with d.connect(tmp_path / "db", SCHEMA, sync=request.param) as connection:
        yield connection


def _in_threads(work: Any, count: int = 8) -> None:
    failed: list[BaseException] = []

    def run(k: int) -> None:
        try:
            work(k)
        except Exception as e:  # noqa: BLE001  shown by the assertion
            failed.append(e)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_threads_lose_nothing(conn) -> None:
    """Eight threads that add, replace, upsert and fail: every report is of its own transaction, the sums are right."""

    def work(k: int) -> None:
        for i in range(60):
            report = conn.transact([{":n": k * 1000 + i, ":name": f"{k} {i}"}])
            assert [(x.a, x.v) for x in report.tx_data] == [(":n", k * 1000 + i), (":name", f"{k} {i}")]
            assert report.db_after.q("[:find ?e . :in $ ?n :where [?e :n ?n]]", k * 1000 + i) == report.tx_data[0].e
            conn.transact([{":key": i, ":seen": [k, k + 100]}])  # not plain: a collection
            conn.transact([{":key": i, ":seen": k + 200}])
            with pytest.raises(d.DatalogError, match="value"):
                conn.transact([{":n": "no number"}])

    _in_threads(work)
    assert conn.q("[:find (count ?e) . :where [?e :n]]") == 480
    assert len(set(conn.q("[:find [?n ...] :where [?e :n ?n]]"))) == 480
    assert set(conn.q("[:find ?k (count ?s) :where [?e :key ?k] [?e :seen ?s]]")) == {(i, 24) for i in range(60)}
    assert conn.store.meta.basis_tx - (1 << 40) == 1 + 8 * 60 * 3


def test_futures_keep_their_order(conn) -> None:
    """Transactions given without waiting are carried out in order, plain and others mixed; a faulty one fails alone."""
    told: list[int] = []
    conn.listen(lambda report: told.append(report.tx))
    futures = []
    for i in range(300):
        if i % 50 == 7:
            futures.append(conn.transact_async([{":n": "no number"}]))
        elif i % 10 == 3:
            futures.append(conn.transact_async([[":db/retractEntity", 1], {":db/id": 1, ":n": i}], {":name": "meta"}))
        else:
            futures.append(conn.transact_async([[":db/add", 1, ":n", i]]))
    for i, future in enumerate(futures):
        if i % 50 == 7:
            assert future.exception().code == "value/wrong-type"
        else:
            assert future.result().db_after.q("[:find ?n . :where [1 :n ?n]]") == i
    txs = [f.result().tx for i, f in enumerate(futures) if i % 50 != 7]
    assert told == txs == sorted(set(txs))
    assert not futures[0].cancel()
    with pytest.raises(d.DatalogError, match="cannot be"):
        conn.transact_async(7)


def test_waiting_transactions_share_a_commit(conn, monkeypatch) -> None:
    """What is brought while the writer is at work is committed at once; their new values have the same code."""
    sizes: list[int] = []
    finish = PlainCommits.finish

    def counted(group: PlainCommits) -> None:
        sizes.append(group.meta.basis_tx - conn.store.meta.basis_tx)
        finish(group)

    monkeypatch.setattr(PlainCommits, "finish", counted)
    with conn.store.lock:
        futures = [conn.transact_async([{":name": f"new {i // 2}"}]) for i in range(100)]
    reports = [f.result() for f in futures]
    assert max(sizes) > 50
    assert [r.tx_data[0].v for r in reports] == [f"new {i // 2}" for i in range(100)]
    assert reports[30].db_before.q("[:find (count ?e) . :where [?e :name]]") == 30
    assert conn.q("[:find (count-distinct ?n) . :where [?e :name ?n]]") == 50
    assert d.q("[:find (count ?e) . :where [?e :name]]", conn.db()) == 100


def test_a_commit_that_fails_fails_all_in_it(conn, monkeypatch) -> None:
    """Nobody is told of a transaction that is not there; afterwards things go on, with nothing of it left."""
    conn.transact([{":name": "before"}])
    with monkeypatch.context() as patched:
        patched.setattr(WriteTxn, "put", _no_space)
        futures = [conn.transact_async([{":name": "lost", ":n": i}]) for i in range(20)]
        for future in futures:
            assert isinstance(future.exception(), d.DatalogError)
    assert conn.q("[:find [?n ...] :where [?e :name ?n]]") == ["before"]
    conn.transact([{":name": "after", ":n": 1}])
    assert set(conn.q("[:find [?n ...] :where [?e :name ?n]]")) == {"before", "after"}
    assert conn.q("[:find (count ?e) . :where [?e :n]]") == 1
    from store.check import check_path

    assert check_path(conn.path)[0] == []


def _no_space(*_: Any) -> None:
    raise lmdb.MapFullError("mdb_put: MDB_MAP_FULL")


def test_close_waits_and_then_refuses(tmp_path) -> None:
    """What was brought before `close` is there; what comes after is refused."""
    conn = d.connect(tmp_path / "db", SCHEMA)
    futures = [conn.transact_async([{":n": i}]) for i in range(200)]
    store = conn.store
    conn.close()
    assert all(f.done() for f in futures)
    with pytest.raises(d.DatalogError, match="closed"):
        conn.transact_async([{":n": 1}])
    assert store.env.closed
    with d.connect(tmp_path / "db") as again:
        assert again.q("[:find (count ?e) . :where [?e :n]]") == 200


def test_a_transaction_inside_one_is_refused(conn) -> None:
    """A transaction function that writes by itself gets an error, and does not wait for itself."""

    def nested(_: Any) -> Any:
        conn.transact([{":n": 1}])
        return [{":n": 2}]

    with pytest.raises(d.DatalogError) as caught:
        conn.transact([[":db.fn/call", nested]])
    assert caught.value.code == "tx/nested"
    future = conn.transact_async([[":db.fn/call", nested]])
    assert future.exception().code == "tx/nested"
    conn.listen(lambda report: conn.transact([{":name": "told"}]) if report.tx_data[0].a == ":n" else None)
    conn.transact([{":n": 3}])
    assert conn.transact_async([{":n": 4}]).result().tx
    assert sorted(conn.q("[:find [?n ...] :where [?e :n ?n]]")) == [3, 4]
    assert conn.q('[:find (count ?e) . :where [?e :name "told"]]') == 2


def test_loads_and_readers_between(conn) -> None:
    """Loads, schema changes and compositions take their turns among the groups."""
    conn.transact([{":db/id": 1000, ":key": 0}])  # new ids come after it

    def work(k: int) -> None:
        for i in range(20):
            if k == 0:
                conn.load({":n": ([1 + i], [i])})
            elif k == 1:
                conn.update_schema({f":more/a{i}": {":db/valueType": ":db.type/long"}})
            elif k == 2:
                with conn.atomic() as steps:
                    steps.transact([{":name": f"a{i}"}])
                    steps.transact([{":name": f"b{i}"}])
            elif k == 3:
                assert len(conn.q("[:find ?e ?n :where [?e :name ?n]]")) % 2 == 0
            else:
                conn.transact([{":n": 1000 * k + i}])

    _in_threads(work)
    assert conn.q("[:find (count ?e) . :where [?e :n]]") == 20 + 4 * 20
    assert conn.q("[:find (count ?e) . :where [?e :name]]") == 40
    assert len([a for a in conn.schema if a.startswith(":more/")]) == 20


def test_a_future_is_told_whoever_carried_it_out(conn, monkeypatch) -> None:
    """Another thread takes a future's transaction into its commit just before the writer looks and finds nothing to do."""
    telling, told, go, committing = (threading.Event() for _ in range(4))
    finish = PlainCommits.finish

    def slow(group: PlainCommits) -> None:
        if threading.current_thread().name == "other":
            committing.set()
            go.wait(10)
        finish(group)

    monkeypatch.setattr(PlainCommits, "finish", slow)
    conn.listen(lambda report: (telling.set(), told.wait(10)) if report.tx_data[0].v == 1 else None)
    conn.transact_async([{":n": 1}])
    assert telling.wait(10)  # so the writer is busy
    future = conn.transact_async([{":n": 2}])
    other = threading.Thread(target=conn.transact, args=([{":n": 3}],), name="other")
    other.start()
    assert committing.wait(10)
    told.set()
    while not conn.store.transactor._writer._idle:
        pass
    go.set()
    other.join()
    assert future.result(10).tx_data[0].v == 2


def test_one_that_is_interrupted_while_it_waits_leaves_no_gap(conn, monkeypatch) -> None:
    """Its transaction is not made behind its back, and the turn goes on to who waits after it."""
    begun, go = threading.Event(), threading.Event()
    wait = Wish.wait

    def interrupted(wish: Wish) -> None:
        wait(wish)
        if wish.forms[0].get(":n") == 2:
            raise KeyboardInterrupt

    def slow(_: Any) -> Any:
        begun.set()
        go.wait(10)
        return [{":n": 1}]

    monkeypatch.setattr(Wish, "wait", interrupted)
    ended: list[str] = []

    def transact(forms: list[Any], name: str) -> None:
        try:
            conn.transact(forms)
        except KeyboardInterrupt:
            name += " interrupted"
        ended.append(name)

    threads = []
    for k, forms in enumerate(([[":db.fn/call", slow]], [{":n": 2}], [{":n": 3}])):
        threads.append(threading.Thread(target=transact, args=(forms, str(k)), daemon=True))
        threads[-1].start()
        assert begun.wait(10)
        while len(conn.store.transactor.turns.waiting) < k:
            pass
    go.set()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["0", "1 interrupted", "2"]
    assert sorted(conn.q("[:find [?n ...] :where [?e :n ?n]]")) == [1, 3]


def test_an_interrupt_is_of_the_thread_that_gets_it(conn) -> None:
    """Who is interrupted while it carries out what another brought is stopped; the other gets an error that says so."""

    def stopped(_: Any) -> Any:
        raise KeyboardInterrupt

    turns = conn.store.transactor.turns
    others = Wish([[":db.fn/call", stopped]], None, None, conn._call)
    turns.waiting.append(others)
    with pytest.raises(KeyboardInterrupt):
        conn.transact([{":n": 1}])
    with pytest.raises(d.DatalogError) as caught:
        others.result()
    assert caught.value.code == "store/interrupted"
    assert conn.q("[:find ?e . :where [?e :n]]") is None
    with pytest.raises(KeyboardInterrupt):
        conn.transact([[":db.fn/call", stopped]])
    assert isinstance(conn.transact_async([[":db.fn/call", stopped]]).exception(10), KeyboardInterrupt)
    conn.transact([{":n": 2}])
    assert conn.transact_async([{":n": 3}]).result(10).db_after.q("[:find [?n ...] :where [?e :n ?n]]") == [2, 3]


def test_groups_let_pages_go(conn, monkeypatch) -> None:
    """The reader of the segments moves along with commits of several transactions, whatever their numbers."""
    moved: list[int] = []
    advance = ReadTxn.advance
    monkeypatch.setattr(ReadTxn, "advance", lambda txn, *a: (moved.append(1), advance(txn, *a))[1])
    conn.transact([{":n": 0}])
    if conn.store.meta.basis_tx % 2 == 0:
        conn.transact([{":n": 1}])
    moved.clear()
    for _ in range(16):
        with conn.store.lock:
            futures = [conn.transact_async([{":n": i}]) for i in range(2)]
        for future in futures:
            future.result(10)
    assert len(moved) == 2


def test_an_interrupt_before_a_write_ends_leaves_no_lock(conn, monkeypatch) -> None:
    """LMDB's write lock is let go at once, also while somebody still looks at the interrupt."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(WriteTxn, "__exit__", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            conn.transact([{":n": 1}])
    other = threading.Thread(target=conn.transact, args=([{":n": 2}],), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    conn.transact([{":n": 3}])
    assert caught.value is not None
    assert sorted(conn.q("[:find [?n ...] :where [?e :n ?n]]")) == [2, 3]
