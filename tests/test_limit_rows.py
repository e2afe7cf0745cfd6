"""`:limit` without an order stops early: as many rows as asked for, each of them in the whole answer, none twice."""

from __future__ import annotations

import pytest

import datalog as d
from datalog import engine

SCHEMA = {
    ":a": {":db/valueType": ":db.type/long"},
    ":b": {":db/valueType": ":db.type/long"},
    ":c": {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/many"},
}
QUERIES = [
    "[:find ?e ?b :where [?e :a ?x] [?e :b ?b]]",
    "[:find ?x ?c :where [?e :a ?x] [?e :b ?b] [(> ?b 40)] [?e :c ?c]]",
    "[:find ?x :where [?e :a ?x] [?e :c 3] (not [?e :b 7])]",
    "[:find ?x ?y :where [?e :a ?x] [?e :b ?b] [(+ ?x ?b) ?y]]",
    "[:find ?x :with ?e :where [?e :a ?x] [?e :b ?b]]",
    "[:find [?x ...] :where [?e :a ?x] [?e :b ?b] [(even? ?b)]]",
    "[:find ?e :where [?e :a ?x] [?e :b ?b] [(= ?b 20011)]]",
    "[:find (quot ?b 9000) :where [?e :a ?x] [?e :b ?b]]",  # many rows for one answer
    "[:find [(quot ?b 9000) ...] :where [?e :a ?x] [?e :b ?b] [(> ?b 40)]]",
    "[:find ?e :where [?e :a ?x] [?e :b ?b] [(< ?b 0)]]",
]


@pytest.fixture(scope="module")
def db():
    """Twenty thousand entities, so that an answer takes several parts."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        n = 20_000
        ids = range(1, n + 1)
        conn.load(
            {
                ":a": (ids, [i % 97 for i in ids]),
                ":b": (ids, [i + 11 for i in ids]),
                ":c": ([*ids, *ids], [*(i % 5 for i in ids), *(7 + i % 3 for i in ids)]),
            }
        )
        yield conn.db()


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    "rest", [":limit 10", ":limit 1", ":limit 0", ":limit 3000", ":limit 5 :offset 4000", ":limit 100000", ":offset 3"]
)
def test_limits_give_rows_of_the_whole_answer(db, query: str, rest: str, monkeypatch) -> None:
    """Whatever the parts, as many rows as there are up to the limit, all of them right."""
    whole = list(db.q(query))
    numbers = [int(x) for x in rest.split() if x.isdigit()]
    limit = numbers[0] if ":limit" in rest else len(whole)
    offset = numbers[-1] if ":offset" in rest else 0
    for first in (1, 100, 1024):
        monkeypatch.setattr(engine, "_FIRST_PART", first)
        found = list(db.q(f"{query[:-1]} {rest}]"))
        assert len(found) == max(0, min(limit, len(whole) - offset))
        if ":with" not in query:
            assert len(set(found)) == len(found)
        assert set(found) <= set(whole)


def test_a_scalar_needs_one_row(db) -> None:
    """A single value is one of the answer's."""
    assert db.q("[:find ?b . :where [?e :a 5] [?e :b ?b]]") in {
        b for (b,) in db.q("[:find ?b :where [?e :a 5] [?e :b ?b]]")
    }
    assert db.q("[:find [?e ?b] :where [?e :a ?x] [?e :b ?b] [(< ?b 0)]]") is None
