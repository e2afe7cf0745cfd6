"""Transitive closures: recognised when they are, and every way of answering them gives what the reference evaluator gives."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import datalog as d
from datalog import closure, hops
from store.errors import QueryError

REFS = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
SCHEMA = {
    ":to": REFS,
    ":via": REFS,
    ":name": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":any": {":db/cardinality": ":db.cardinality/many"},
}
FORMS = {
    "right": "[[(path ?x ?y) [?x :to ?y]] [(path ?a ?b) [?a :to ?t] (path ?t ?b)]]",
    "left": "[[(path ?x ?y) [?x :to ?z] (path ?z ?y)] [(path ?from ?to) [?from :to ?to]]]",
    "left linear": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) (path ?x ?t) [?t :to ?y]]]",
    "non-linear": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) (path ?t ?y) (path ?x ?t)]]",
    "backwards": "[[(path ?x ?y) [?y :to ?x]] [(path ?x ?y) [?t :to ?x] (path ?t ?y)]]",
    "two steps": "[[(path ?x ?y) [?x :to ?m] [?m :via ?y]] [(path ?x ?y) [?x :to ?m] [?m :via ?t] (path ?t ?y)]]",
    "a rule between": "[[(e ?x ?y) [?x :to ?y]] [(e ?x ?y) [?y :via ?x]] [(path ?x ?y) (e ?x ?y)] [(path ?x ?y) (e ?x ?t) (path ?t ?y)]]",
    "with a condition": "[[(path ?x ?y) [?x :to ?y] [(!= ?x ?y)]] [(path ?x ?y) [?x :to ?t] [(!= ?x ?t)] (path ?t ?y)]]",
    "with a negation": "[[(path ?x ?y) [?x :to ?y] (not [?y :via ?x])] [(path ?x ?y) [?x :to ?t] (not [?t :via ?x]) (path ?t ?y)]]",
    "strings": "[[(path ?x ?y) [?e :name ?x] [?e :name ?y]] [(path ?x ?y) [?e :name ?x] [?e :name ?t] (path ?t ?y)]]",
    "mixed kinds": "[[(path ?x ?y) [?x :any ?y]] [(path ?x ?y) [?x :any ?t] (path ?t ?y)]]",
    "other kind": "[[(path ?x ?y) [?x :name ?y]] [(path ?x ?y) [?x :name ?t] (path ?t ?y)]]",
    "collection": "[[(path ?x ?y) [$e ?x ?y]] [(path ?x ?y) [$e ?x ?t] (path ?t ?y)]]",
}
NO_CLOSURE = {
    "another edge": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) [?x :via ?t] (path ?t ?y)]]",
    "turned round": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) [?x :to ?t] (path ?y ?t)]]",
    "shared variable": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) [?x :to ?t] (path ?t ?y) [?y :to ?y]]]",
    "constant": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) [?x :to 3] (path 3 ?y)]]",
    "another constant": '[[(path ?x ?y) [?x :to ?y] [?x :name "a"]] [(path ?x ?y) [?x :to ?t] [?x :name "b"] (path ?t ?y)]]',
    "inside or": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) [?x :to ?t] (or (path ?t ?y) [?t :via ?y])]]",
    "cyclic call": "[[(path ?x ?y) [?x :to ?y]] [(path ?x ?y) (path ?x ?t) (path ?y ?t)]]",
}
CALLS = [
    "[:find ?x ?y :in $ $e % :where (path ?x ?y)]",
    "[:find ?y :in $ $e % :where (path 1 ?y)]",
    "[:find ?x :in $ $e % :where (path ?x 2)]",
    "[:find ?x :in $ $e % :where (path ?x ?x)]",
    "[:find ?x :in $ $e % :where (path ?x _)]",
    "[:find ?z :in $ $e % :where [(ground 1) ?z] (path ?z 3)]",
    "[:find ?z ?y :in $ $e % :where [(ground [1 2 9]) [?z ...]] (path ?z ?y)]",
    "[:find ?z ?y :in $ $e % :where [(ground [1 2 9]) [?z ...]] (path ?y ?z)]",
    "[:find ?z ?y :in $ $e % :where [(ground [[1 2] [2 1] [3 3]]) [[?z ?y]]] (path ?z ?y)]",
    "[:find ?x ?y :in $ $e % :where [?x :to ?y] (not (path ?y ?x))]",
    '[:find ?y :in $ $e % :where (path "a" ?y)]',
    "[:find ?y :in $ $e % :where (path 1.0 ?y)]",
]
EDGES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=14)


def _database(to: Any, via: Any, names: Any, extra: Any = ()) -> Any:
    conn = d.connect(None, SCHEMA, sync=False)
    tx = [[":db/add", a, ":to", b] for a, b in to] + [[":db/add", a, ":via", b] for a, b in via]
    tx += [[":db/add", a, ":name", "abcd"[b % 4]] for a, b in names]
    tx += [[":db/add", a, ":any", b if b % 3 else "a"] for a, b in extra]
    if tx:
        conn.transact(tx)
    return conn


@pytest.mark.parametrize("limits", ["as they are", "arrays", "no walk", "plans"])
@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(FORMS)), EDGES, EDGES, EDGES, EDGES)
def test_every_form_and_call_equals_the_reference(
    limits: str, form: str, to: Any, via: Any, names: Any, extra: Any
) -> None:
    """Cycles, loops, bound ends, values of several kinds, strings as nodes: by each of the ways there are."""
    kept = hops._FEW, closure.MOST_WALKED, closure.hops_of
    if limits == "arrays":
        hops._FEW = 0
    elif limits == "no walk":
        closure.MOST_WALKED = 0
    elif limits == "plans":
        closure.hops_of = lambda *_: None  # type: ignore[assignment]
    try:
        with _database(to, via, names, extra) as conn:
            db = conn.db()
            if via:
                db = db.with_([[":db/retract", via[0][0], ":via", via[0][1]], [":db/add", 9, ":to", 1]]).db_after
            pairs = [*to, (1, "x"), ("x", 2.5)]
            for call in CALLS:
                expected = set(d.q(call, db, pairs, FORMS[form], engine="naive"))
                assert set(d.q(call, db, pairs, FORMS[form])) == expected, (form, call)
    finally:
        hops._FEW, closure.MOST_WALKED, closure.hops_of = kept


@pytest.mark.parametrize("form", FORMS)
def test_closures_are_recognised(form: str) -> None:
    """The plan of each form has a closure in it, and explain shows where it starts."""
    with _database([(1, 2)], [(2, 3)], [(1, 1)]) as conn:
        assert "closure (path ?x ?y)" in d.explain(CALLS[0], conn.db(), [], FORMS[form])
        assert "closure from 1 (path 1 ?y)" in d.explain(CALLS[1], conn.db(), [], FORMS[form])


@pytest.mark.parametrize("form", NO_CLOSURE)
def test_what_only_looks_like_a_closure_is_none(form: str) -> None:
    """Rules that differ in anything but names keep the general fixpoint, and give the reference's answer."""
    to, via = [(1, 2), (2, 3), (3, 1), (3, 3), (4, 1)], [(1, 3), (2, 4), (3, 3)]
    with _database(to, via, to) as conn:
        for call in CALLS[:9]:
            assert set(d.q(call, conn.db(), to, NO_CLOSURE[form])) == set(
                d.q(call, conn.db(), to, NO_CLOSURE[form], engine="naive")
            )
            assert "closure" not in d.explain(call, conn.db(), to, NO_CLOSURE[form])


def test_large_closures_stay_within_limits() -> None:
    """A closure that would have too many pairs is refused, whether all or only some are asked for."""
    n = 3000
    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.load({":to": (list(range(1, n)), list(range(2, n + 1)))})
        rules = FORMS["right"]
        with pytest.raises(QueryError, match="limit of 100000 derivations"):
            d.q(CALLS[0], conn.db(), [], rules, limits=d.Limits(derivations=100_000))
        with pytest.raises(QueryError, match="limit of 500 derivations"):
            d.q(CALLS[1], conn.db(), [], rules, limits=d.Limits(derivations=500))
        assert len(d.q(CALLS[1], conn.db(), [], rules)) == n - 1


def test_closures_see_each_transaction() -> None:
    """Tables kept between queries belong to one state of the data."""
    with _database([(i, i + 1) for i in range(1, 60)], [], []) as conn:
        rules = FORMS["right"]
        before = conn.db()
        assert len(d.q(CALLS[1], before, [], rules)) == 59
        conn.transact([[":db/retract", 30, ":to", 31], [":db/add", 5, ":to", 500]])
        assert len(d.q(CALLS[1], conn.db(), [], rules)) == 30
        assert len(d.q(CALLS[1], before, [], rules)) == 59


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("kept", [60, 59])
def test_hops_over_keys_that_are_there_once(few: int, kept: int) -> None:
    """A table in which each key has one value is addressed directly; what lies outside of it leads nowhere."""
    n = 60
    before, hops._FEW = hops._FEW, few
    try:
        with d.connect(None, SCHEMA, sync=False) as conn:
            people = list(range(1, n + 1))
            papers = [n + 1 + (i * 7) % n for i in people]  # each paper once, in no order
            conn.load(
                {
                    ":to": (people[:kept], papers[:kept]),
                    ":via": (papers + papers, [i // 2 + 1 for i in people] + [i + 55 for i in people]),
                }
            )
            for call in CALLS[1:4]:
                for inputs in ([], [(1, 2)]):
                    expected = set(d.q(call, conn.db(), inputs, FORMS["two steps"], engine="naive"))
                    assert set(d.q(call, conn.db(), inputs, FORMS["two steps"])) == expected
                    assert expected
            places = conn.db().snapshot.places(conn.db().snapshot.schema.by_name()[":to"].aid, "aevt")
            assert places is not None
            assert places.each_once
    finally:
        hops._FEW = before
