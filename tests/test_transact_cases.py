"""Transactions by cases (tests/cases/transact/*.edn), and what EDN cannot say about them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datalog as d
from store import txdata
from store.edn import Keyword, Symbol, read_all, strict_equal

ROOT = Path(__file__).parent / "cases" / "transact"


def _cases() -> list[Any]:
    found = []
    for path in sorted(ROOT.glob("*.edn")):
        schema: Any = None
        for form in read_all(path.read_text(encoding="utf-8"), source=path.name):
            case = {k.name: v for k, v in form.items()}
            if "name" not in case:
                schema = case["schema"]
                continue
            found.append(pytest.param(case.get("schema", schema), case, id=f"{path.stem}: {case['name']}"))
    return found


def _facts(db: Any) -> list[tuple[Any, ...]]:
    return [(x.e, Keyword(x.a), x.v) for x in db.datoms("eavt")]


def _match(expected: Any, found: list[tuple[Any, ...]]) -> None:
    left, seen = list(found), {}
    for want in sorted(expected, key=lambda w: any(isinstance(x, Symbol) for x in w)):
        for fact in left:
            bound = dict(seen)
            if all(
                strict_equal(bound.setdefault(w, f), f)
                if isinstance(w, Symbol) and str(w).startswith("?")
                else strict_equal(w, f)
                for w, f in zip(want, fact, strict=True)
            ):
                left = [f for f in left if f is not fact]
                seen = bound
                break
        else:
            raise AssertionError(f"{want} is not among {found}")
    assert not left, f"nobody expected {left}"


@pytest.mark.parametrize("batch", [256, 1], ids=["one by one", "as columns"])
@pytest.mark.parametrize(("schema", "case"), _cases())
def test_case(schema: Any, case: dict[str, Any], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case's transactions leave the facts it says, or the last one ends with the error it names."""
    monkeypatch.setattr(txdata, "BATCH", batch)
    with d.connect(None, schema) as conn:
        for tx in case["txs"][:-1]:
            conn.transact(tx)
        before = _facts(conn.db())
        if "error" in case:
            with pytest.raises(d.DatalogError) as caught:
                conn.transact(case["txs"][-1])
            assert caught.value.code == case["error"]
            with pytest.raises(d.DatalogError):
                conn.db().with_(case["txs"][-1])
            _match(case.get("left", before), _facts(conn.db()))
        else:
            speculative = conn.db().with_(case["txs"][-1])
            report = conn.transact(case["txs"][-1])
            _match(case["expect"], _facts(conn.db()))
            _match(case["expect"], _facts(speculative.db_after))
            _match(before, _facts(report.db_before))
            _match(case["expect"], _facts(report.db_after))


SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":email": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":n": {":db/valueType": ":db.type/long"},
    ":x": {":db/valueType": ":db.type/double"},
    ":at": {":db/valueType": ":db.type/instant"},
    ":ok": {":db/valueType": ":db.type/boolean"},
    ":ref": {":db/valueType": ":db.type/ref"},
    ":tags": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":a": {":db/valueType": ":db.type/long"},
    ":b": {":db/valueType": ":db.type/string"},
    ":ab": {":db/tupleAttrs": [":a", ":b"], ":db/unique": ":db.unique/identity"},
}


def test_the_report_says_what_happened() -> None:
    """tx, tempids, tx_data, db_before and db_after of a transaction, and its instant."""
    with d.connect(None, SCHEMA) as conn:
        report = conn.transact([{":db/id": "t", ":name": "a"}, {":db/id": -7, ":n": 1}], {":db/doc": "first"})
        assert report.tempids == {"t": 1, -7: 2, ":db/current-tx": report.tx}
        assert [(x.e, x.a, x.v, x.tx, x.added) for x in report.tx_data] == [
            (1, ":name", "a", report.tx, True), (2, ":n", 1, report.tx, True), (report.tx, ":db/doc", "first", report.tx, True),
        ]  # fmt: skip
        again = conn.transact([{":db/id": 1, ":name": "b"}])
        assert [tuple(x) for x in again.tx_data] == [
            (1, ":name", "a", again.tx, False),
            (1, ":name", "b", again.tx, True),
        ]
        assert again.tx == report.tx + 1
        assert again.db_before.pull("[:name]", 1) == {":name": "a"}
        assert again.db_after.pull("[:name]", 1) == {":name": "b"}
        at = conn.q("[:find ?at . :in $ ?tx :where [?tx :db/txInstant ?at]]", again.tx)
        assert abs((datetime.datetime.now(datetime.UTC) - at).total_seconds()) < 60


def test_a_transaction_that_changes_nothing_writes_nothing() -> None:
    """Importing the same again makes no transaction, and the file does not grow."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":email": "a", ":n": 1}])
        before = conn.store.meta
        report = conn.transact([{":email": "a", ":n": 1}])
        assert report.tx_data == []
        assert conn.store.meta == before
        assert report.tx == before.basis_tx


def test_transaction_functions() -> None:
    """A callable, and a registered name, give operations from the database before; a failing one changes nothing."""

    def grow(db: Any, e: int, by: int) -> list[Any]:
        return [[":db/add", e, ":n", db.pull("[:n]", e)[":n"] + by]]

    d.register("test/grow", grow)
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":n": 1}])
        conn.transact([[":db.fn/call", grow, 1, 5]])
        conn.transact("[[:db.fn/call test/grow 1 10]]")
        assert conn.pull("[:n]", 1) == {":n": 16}
        with pytest.raises(d.DatalogError, match="grow raised TypeError"):
            conn.transact([{":db/id": 2, ":n": 2}, [":db.fn/call", grow, 2]])
        assert conn.pull("[:n]", 2) is None


def test_composite_tuples_follow_their_parts() -> None:
    """A composite is filled and changed with its parts; partial it holds nil and is not unique, whole it is."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":a": 1}, {":db/id": 2, ":a": 1}])
        assert conn.q("[:find ?e ?t :where [?e :ab ?t]]") == {(1, d.Vector([1, None])), (2, d.Vector([1, None]))}
        conn.transact([[":db/add", 1, ":b", "x"]])
        assert conn.pull("[:ab]", 1) == {":ab": d.Vector([1, "x"])}
        with pytest.raises(d.DatalogError, match="is unique"):
            conn.transact([[":db/add", 2, ":b", "x"]])
        assert conn.db().entid((":ab", [1, "x"])) == 1
        conn.transact([{":ab": [1, "x"], ":a": 1, ":b": "x", ":name": "by tuple"}])
        assert conn.pull("[:name]", 1) == {":name": "by tuple"}
        conn.transact([[":db/retract", 1, ":b"]])
        assert conn.pull("[:ab]", 1) == {":ab": d.Vector([1, None])}
        conn.transact([[":db/retract", 1, ":a"]])
        assert conn.pull("[:ab]", 1) is None
        with pytest.raises(d.DatalogError, match="the tuple follows"):
            conn.transact([[":db/add", 5, ":ab", [7, "q"]]])


def test_load_takes_arrays_and_lists() -> None:
    """Columns of every inline type, strings and refs come in as arrays or lists, and columns of Arrow."""
    n = 1000
    eids = np.arange(1, n + 1)
    at = np.datetime64("2026-01-01T00:00:00.123456") + np.arange(n).astype("timedelta64[us]")
    with d.connect(None, SCHEMA) as conn:
        conn.load(
            {
                ":n": (eids, np.arange(n, dtype=np.int32)), ":x": (eids, np.linspace(0, 1, n)), ":at": (eids, at),
                ":ok": (eids, np.arange(n) % 2 == 0), ":name": (eids.tolist(), [f"n{i}" for i in range(n)]), ":ref": (eids, eids[::-1]),
                ":tags": (np.repeat(eids, 2), ["x", "y"] * n),
            }
        )  # fmt: skip
        assert conn.pull("[*]", 3) == {
            ":db/id": 3, ":n": 2, ":x": float(np.linspace(0, 1, n)[2]), ":ok": True, ":name": "n2", ":ref": {":db/id": 998},
            ":at": datetime.datetime(2026, 1, 1, 0, 0, 0, 123458, tzinfo=datetime.UTC), ":tags": ["x", "y"],
        }  # fmt: skip
        nanoarrow = pytest.importorskip("nanoarrow")
        conn.load({":n": (eids, nanoarrow.Array(list(range(n, 2 * n)), nanoarrow.int64()))})
        assert conn.q("[:find (sum ?n) . :with ?e :where [?e :n ?n]]") == sum(range(n, 2 * n))


def test_keyword_columns_may_be_text_and_columns_share_their_ids():
    """Texts become keywords, each looked at once; a wrong one is named by its row; a generator of pairs is read as it comes."""
    schema = {":k": {":db/valueType": ":db.type/keyword"}, ":n": {":db/valueType": ":db.type/long"}}
    with d.connect(None, schema) as conn:
        ids = list(range(1, 7))
        conn.load({":k": (ids, [":a", ":b", ":a", ":c/d", ":b", ":a"]), ":n": (ids, ids)})
        assert conn.q("[:find ?e ?k ?n :where [?e :k ?k] [?e :n ?n]]") == {
            (e, d.kw(k), e) for e, k in zip(ids, ["a", "b", "a", "c/d", "b", "a"], strict=True)
        }
        mixed = [":x", d.kw("x"), ":y"]
        conn.load({":k": ([11, 12, 13], mixed)})
        assert conn.q("[:find [?e ...] :where [?e :k :x]]") == [11, 12]
        with pytest.raises(d.DatalogError) as caught:
            conn.load({":k": ([21, 22, 23], [":a", ":b", "c"])})
        assert caught.value.data == {"attribute": ":k", "row": 2}

        class Fresh(dict):  # type: ignore[type-arg]
            """Each pair is made when it is asked for, and may have the id of one that is gone."""

            def items(self):  # type: ignore[no-untyped-def]
                for i, name in enumerate((":k", ":n")):
                    yield name, ([30 + i], [":z" if name == ":k" else 5])

        conn.load(Fresh({":k": None}))
        assert conn.q("[:find ?a ?b :where [?a :k :z] [?b :n 5] [(> ?b 20)]]") == {(30, 31)}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({":n": ([1, 1], [1, 2])}, "tx/contradiction"),
        ({":n": ([1, 2], [1])}, "load/length"),
        ({":n": ([1, 2], [1, None])}, "value/nil"),
        ({":n": ([1, 2], [1, "x"])}, "value/wrong-type"),
        ({":x": ([1], np.array([np.nan]))}, "value/unsupported"),
        ({":n": ([0], [1])}, "load/eids"),
        ({":n": (["a"], [1])}, "load/eids"),
        ({":n": [1, 2]}, "load/eids"),
        ({":n": 5}, "load/form"),
        ([1], "load/form"),
        ({":email": ([1, 2], ["a", "a"])}, "tx/unique"),
        ({":nn": ([1], [1])}, "schema/unknown-attribute"),
        ({":db/ident": ([1], [d.kw("a")])}, "load/built-in"),
        ({":at": ([1], np.array(["NaT"], dtype="datetime64[us]"))}, "value/nil"),
        ({":at": ([1], np.array(["12000-01-01"], dtype="datetime64[us]"))}, "value/unsupported"),
        ({":ref": ([1], [-1])}, "value/wrong-type"),
    ],
)
def test_load_refuses_what_is_wrong(columns: Any, code: str) -> None:
    """A wrong column is an error that names attribute and row, and nothing is written."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":db/id": 9, ":email": "z"}])
        with pytest.raises(d.DatalogError) as caught:
            conn.load(columns)
        assert caught.value.code == code
        assert len(conn.db()) == 1


def test_load_over_existing_data() -> None:
    """Loaded values replace old ones of cardinality one, join those of many, and duplicates fold."""
    with d.connect(None, SCHEMA) as conn:
        conn.load({":n": ([1, 2, 3], [1, 2, 3]), ":tags": ([1, 1], ["a", "b"]), ":email": ([1, 2], ["p", "q"])})
        conn.transact([[":db/add", 2, ":n", 20], [":db/retract", 3, ":n", 3]])
        conn.load({":n": ([2, 3, 3], [2, 4, 4]), ":tags": ([1, 1, 2], ["b", "c", "d"]), ":email": ([2, 1], ["p", "q"])})
        assert {(x.e, x.a, x.v) for x in conn.db().datoms("eavt")} == {
            (1, ":n", 1), (2, ":n", 2), (3, ":n", 4), (1, ":tags", "a"), (1, ":tags", "b"), (1, ":tags", "c"), (2, ":tags", "d"),
            (1, ":email", "q"), (2, ":email", "p"),
        }  # fmt: skip


def test_listeners_hear_each_transaction() -> None:
    """A listener gets every report until it is taken off."""
    heard: list[Any] = []
    with d.connect(None, SCHEMA) as conn:
        key = conn.listen(heard.append)
        conn.listen(lambda r: heard.append(r.tx), "mine")
        report = conn.transact([{":n": 1}])
        conn.unlisten(key)
        conn.transact([{":n": 2}])
        assert heard[0].tx == report.tx
        assert heard[1:] == [report.tx, report.tx + 1]


def test_with_leaves_no_trace_and_can_be_stacked() -> None:
    """with_ gives views on views, with new values, attributes and entities, while nothing is written."""
    with d.connect(None, {}) as conn:
        conn.transact([{":s": "old"}])
        db = conn.db()
        first = db.with_([{":s": "new one", ":t": "attribute too"}]).db_after
        second = first.with_([{":s": "newer"}, [":db/retract", 1, ":s", "old"]]).db_after
        assert sorted(second.q("[:find [?s ...] :where [_ :s ?s]]")) == ["new one", "newer"]
        assert second.q('[:find ?e . :where [?e :t "attribute too"]]') == 2
        assert first.q("[:find (count ?e) . :where [?e :s]]") == 2
        assert db.q("[:find [?s ...] :where [_ :s ?s]]") == ["old"]
        assert conn.store.dictionary.find("newer") is None
        assert conn.db().schema == {":s": {}}


def test_filter_hides_datoms_everywhere() -> None:
    """A filtered database answers as if the other datoms were not there."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":name": f"n{i}", ":n": i, ":email": f"{i}@x"} for i in range(20)])
        db = conn.db().filter(lambda datom: not (datom.a == ":n" and datom.v >= 5))
        assert db.q("[:find (count ?e) . :where [?e :n]]") == 5
        assert db.q("[:find (count ?e) . :where [?e :name]]") == 20
        assert db.pull("[:name :n]", 15) == {":name": "n14"}
        assert [x.v for x in db.index_range(":n", 3, 9)] == [3, 4]
        assert len(list(db.datoms("eavt"))) == len(db) == 45
        assert conn.db().filter(lambda _db, datom: datom.e == 1).q("[:find [?a ...] :where [?e ?a]]") != []


def test_strictness() -> None:
    """Without a schema anything goes in; with one, only what is declared, unless strict is False."""
    with d.connect(None) as conn:
        conn.transact([{":a/b": 1}, {":a/b": "two", ":c": [1, 2]}])
        assert conn.q("[:find ?v :where [_ :a/b ?v]]") == {(1,), ("two",)}
    with d.connect(None, strict=True) as conn, pytest.raises(d.DatalogError, match="not declared"):
        conn.transact([{":a/b": 1}])
    with d.connect(None, {":n": {":db/valueType": ":db.type/long"}}, strict=False) as conn:
        conn.transact([{":other": [1, "x"]}])
        assert conn.q("[:find ?v . :where [_ :other ?v]]") == d.Vector([1, "x"])


def test_with_on_a_filtered_database_keeps_the_filter() -> None:
    """A view on a filtered database is what would happen to the whole, through the same filter."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":n": 1}, {":db/id": 2, ":n": 2}])
        view = conn.db().filter(lambda x: x.v != 1).with_([{":db/id": 1, ":n": 5}, {":db/id": 3, ":n": 1}]).db_after
        assert [(x.e, x.v) for x in view.datoms("eavt")] == [(1, 5), (2, 2)]
        assert view.pull("[:n]", 1) == {":n": 5}


def test_a_net_of_components_is_pulled_once() -> None:
    """A wildcard expands each component once, on cycles and nets too."""
    schema = {
        ":c": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many", ":db/isComponent": True}
    }
    with d.connect(None, schema) as conn:
        conn.transact([{":db/id": i, ":c": [j for j in range(1, 31) if j != i]} for i in range(1, 31)])
        found = conn.pull("[*]", 1)
        assert found[":db/id"] == 1
        assert len(found[":c"]) == 29


@pytest.mark.parametrize(
    "call",
    [
        lambda _: d.connect(5), lambda _: d.connect(b"x"), lambda _: d.connect("a\0b"), lambda c: c.transact([{":n": 1}], 5),
        lambda c: c.update_schema(rename=5), lambda c: c.update_schema(rename=[":a"]), lambda c: c.update_schema(delete=5),
        lambda c: c.update_schema(delete=":n"), lambda c: c.db().pull_many("[*]", 5), lambda c: c.db().filter(5),
        lambda c: c.transact(object()), lambda c: c.load(5), lambda c: c.load({5: 5}), lambda c: c.db().entid(object()),
    ],
)  # fmt: skip
def test_wrong_arguments_are_errors_of_ours(call: Any) -> None:
    """A wrong argument of any kind is told, with a way to mend it, and never a raw Python error."""
    with d.connect(None, SCHEMA) as conn, pytest.raises(d.DatalogError):
        call(conn)


def test_ids_out_of_range_are_nobody() -> None:
    """An id that no entity can have names none."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([{":n": 1}])
        assert conn.pull("[*]", 2**200) is None
        assert list(conn.db().datoms("eavt", 2**80)) == []
        assert conn.db().entid(-5) is None
