"""A database that nobody holds is let go at once, by counting references: its snapshot pins pages of the file."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import datalog as d

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = {
    ":a/x": {":db/valueType": ":db.type/long"},
    ":a/name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":a/r": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
}
UP = "[[(up ?a ?b) [?a :a/r ?b]] [(up ?a ?b) [?a :a/r ?c] (up ?c ?b)]]"
ROUND = "[[(p ?a ?b) [?a :a/r ?b]] [(p ?a ?b) (p ?a ?c) (p ?c ?b)] [(near ?a) [?a :a/x ?x] [(< ?x 9)]]]"
QUERIES: dict[str, tuple[Any, ...]] = {
    "pattern": ("[:find ?e ?v :where [?e :a/x ?v]]",),
    "attribute variable": ("[:find ?e ?a ?v ?t :where [?e ?a ?v ?t]]",),
    "scalar": ("[:find ?v . :in $ ?e :where [?e :a/x ?v]]", 1),
    "tuple input": ("[:find ?e :in $ [?e ?v] :where [?e :a/x ?v]]", [1, 1]),
    "collection input": ("[:find ?e ?v :in $ [?v ...] :where [?e :a/x ?v]]", [1, 2]),
    "relation input": ("[:find ?e ?v :in $ [[?e ?v] ...] :where [?e :a/x ?v]]", [[1, 1], [2, 2]]),
    "bound twice": ("[:find ?e ?v :in $ [[?e ?e ?v] ...] :where [?e :a/x ?v]]", [[1, 1, 1]]),
    "entity inputs": ("[:find ?e ?v :in $ [?e ...] :where [?e :a/x ?v]]", [[":a/name", "one"], 2]),
    "rule": ("[:find ?a ?b :in $ % :where (up ?a ?b)]", UP),
    "rule from an input": ("[:find ?b :in $ % ?x :where [?a :a/x ?x] (up ?a ?b)]", UP, 1),
    "rule, recursive twice": ("[:find ?a ?b :in $ % :where (near ?a) (p ?a ?b) (not (p ?b ?a))]", ROUND),
    "not": ("[:find ?e :where [?e :a/x _] (not [?e :a/r _])]",),
    "not, nested": ("[:find ?e :where [?e :a/x _] (not [?e :a/r ?o] (not [?o :a/x 2] [?o :a/r _]))]",),
    "or": ("[:find ?e ?w :where [?e :a/x _] (or-join [?e ?w] [?e :a/r ?w] (and [?w :a/r ?e] [?w :a/x 1]))]",),
    "functions": ('[:find ?w ?r :where [?e :a/x ?v] [(+ ?v 1) ?w] [(< ?w 9)] [(get-else $ ?e :a/name "") ?r]]',),
    "function with a tuple": ("[:find ?p ?q :where [?e :a/x ?v] [(vector ?v 2) [?p ?q]]]",),
    "star": ("[:find ?e ?f :where [?e :a/x ?v] [?e :a/name ?n] [?e :a/r ?f] [?f :a/x ?w] [?f :a/name ?m]]",),
    "callable": ("[:find ?w :in $ ?f :where [?e :a/x ?v] [(?f ?v) ?w]]", str),
    "aggregates": ("[:find (count ?e) (median ?v) (max 2 ?v) :with ?e :where [?e :a/x ?v]]",),
    "pull": ("[:find (pull ?e [* {:a/r [:a/x]}]) ?v :where [?e :a/x ?v]]",),
    "order": ("[:find ?e ?v :where [?e :a/x ?v] :order-by [?v] :limit 1 :offset 1]",),
    "two databases": ("[:find ?e :in $ $rows [?v ...] :where [?e :a/x ?v] [$rows ?e ?v]]", [[1, 1]], [1]),
    "wrong clause": ("[:find ?e ?w :in $ [?v ...] :where [?e :a/x ?v]]", [1]),
    "wrong at run time": ("[:find ?w :in $ [?v ...] :where [?e :a/x ?v] [(/ ?v 0) ?w]]", [1]),
}
WAYS: dict[str, Callable[..., Any]] = {
    "q": lambda db, query, *inputs: d.q(query, db, *inputs),
    "twice": lambda db, query, *inputs: [db.q(query, *inputs) for _ in range(2)],
    "as data": lambda db, query, *inputs: d.q(d.read_edn(query), db, *inputs),
    "explain": lambda db, query, *inputs: d.explain(query, db, *inputs),
    "analyze": lambda db, query, *inputs: d.explain(query, db, *inputs, analyze=True),
    "naive": lambda db, query, *inputs: d.q(query, db, *inputs, engine="naive"),
    "limits": lambda db, query, *inputs: d.q(query, db, *inputs, limits=d.Limits(rows=1)),
}
OTHERS: dict[str, Callable[[d.Db], Any]] = {
    "pull": lambda db: db.pull("[* {:a/r 3} {:a/_r [:a/x]}]", 1),
    "pull many": lambda db: db.pull_many("[:a/x {:a/r ...}]", [1, 2]),
    "entity": lambda db: [db.entity(1)[":a/x"], list(db.entity([":a/name", "one"])), dict(db.entity(1))],
    "datoms": lambda db: [list(db.datoms("aevt", ":a/x")), next(iter(db.datoms("eavt")))],
    "with": lambda db: db.with_([[":db/add", 1, ":a/x", 7]]).db_after.q(
        "[:find ?v :in $ [?v ...] :where [_ :a/x ?v]]", [7]
    ),
    "filter": lambda db: db.filter(lambda _, datom: datom.e == 1).q(
        "[:find ?e :in $ [?v ...] :where [?e :a/x ?v]]", [1]
    ),
}


@pytest.fixture
def conn() -> Iterator[d.Connection]:
    """Three entities in a ring, and no cyclic collection until the test is over."""
    with d.connect(None, SCHEMA, sync=False) as connection:
        rows = [{":db/id": i, ":a/x": i, ":a/name": n} for i, n in ((1, "one"), (2, "two"), (3, "three"))]
        connection.transact(rows)
        connection.transact([[":db/add", 1, ":a/r", 2], [":db/add", 2, ":a/r", 3], [":db/add", 3, ":a/r", 1]])
        gc.disable()
        try:
            yield connection
        finally:
            gc.enable()


def is_let_go(conn: d.Connection, use: Callable[[d.Db], Any], *, fails: bool = False) -> bool:
    """Whether the snapshot of a database is gone when it was used, dropped, and the connection has moved on."""
    db = conn.db()
    watched = weakref.ref(db.snapshot)
    with suppress(*[d.DatalogError] if fails else []):
        use(db)
    del db
    for i in range(2):
        conn.transact([[":db/add", 1, ":a/x", 10 + i]])
    return watched() is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_lets_its_database_go(conn: d.Connection, name: str, way: str) -> None:
    """No query, plan, error or explanation keeps the snapshot that it ran on."""
    query, *inputs = QUERIES[name]
    fails = name.startswith("wrong") or way in ("naive", "limits")
    assert is_let_go(conn, lambda db: WAYS[way](db, query, *inputs), fails=fails)


@pytest.mark.parametrize("name", OTHERS)
def test_a_view_lets_its_database_go(conn: d.Connection, name: str) -> None:
    """Pull, entities, datoms, `with_` and filters, once read and dropped, keep no snapshot."""
    assert is_let_go(conn, OTHERS[name])


def test_a_result_lets_its_database_go(conn: d.Connection) -> None:
    """A result that was dropped keeps nothing, be it read or not."""
    for read in (False, True):
        db = conn.db()
        watched = weakref.ref(db.snapshot)
        result = db.q("[:find ?n ?v :in $ [?v ...] :where [?e :a/x ?v] [?e :a/name ?n]]", [1, 2, 3])
        del db
        assert not read or sorted(result)
        del result
        conn.transact([[":db/add", 2, ":a/x", 20]])
        conn.transact([[":db/add", 2, ":a/x", 21]])
        assert watched() is None
