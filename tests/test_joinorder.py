"""The order of a conjunction and what is left out of it: no order is much cheaper, nothing is multiplied that nobody asks for."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

import datalog as d
from datalog.joinorder import JoinOrder
from datalog.prepared import Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 3_000
SCHEMA = {
    ":who/in": {":db/valueType": ":db.type/ref"},
    ":who/likes": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":who/age": {":db/valueType": ":db.type/long"},
    ":town/name": {":db/valueType": ":db.type/string"},
}
LITTLE = d.Limits(derivations=60 * MANY)  # three patterns on a town of 1,000 would make a thousand million rows


@contextmanager
def people_of(n: int) -> Iterator[Any]:
    """People in three towns; everybody likes two of them; ages from 0 to 99."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        towns, people = [1, 2, 3], list(range(10, 10 + n))
        conn.load(
            {
                ":town/name": (towns, ["Ada", "Bree", "Coll"]),
                ":who/in": (people, [1 + i % 3 for i in people]),
                ":who/likes": (people * 2, [1 + i % 3 for i in people] + [1 + (i + 1) % 3 for i in people]),
                ":who/age": (people, [i % 100 for i in people]),
            }
        )
        yield conn.db()


@pytest.fixture(scope="module")
def db() -> Iterator[Any]:
    """Enough people for a wrong order to be seen."""
    with people_of(MANY) as made:
        yield made


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("[:find (count-distinct ?a) . :where [?a :who/in ?t] [?b :who/in ?t] [?c :who/in ?t] [?e :who/likes ?t]]", MANY),
        ("[:find (count-distinct ?a) . :where [?a :who/in ?t] [?b :who/in ?t] [?b :who/age 7]]", MANY),
        ("[:find [?n ...] :where [?a :who/likes ?t] [?t :town/name ?n] [?b :who/in ?t] [?b :who/age ?y] [(> ?y 98)]]",
         ["Ada", "Bree", "Coll"]),
        ("[:find (count ?y) . :where [?a :who/in ?t] [?b :who/likes ?t] [?b :who/age ?y] [?c :who/in ?t] [?c :who/age 3]]", 100),
        ("[:find (count ?a) . :where [?a :who/likes ?t] [_ :who/in ?t ?tx] [?b :who/in ?t] (not [?b :who/age 101])]", MANY),
    ],
)  # fmt: skip
def test_what_nobody_asks_for_multiplies_nothing(db: Any, query: str, answer: Any) -> None:
    """The people of a town who only have to be there are not paired with each other."""
    found = db.q(query, limits=LITTLE)
    assert (sorted(found) if isinstance(found, list) else found) == answer


@pytest.mark.parametrize("people", [4, 90])
def test_few_rows_and_every_kind_of_place(people: int) -> None:
    """The same as the reference evaluator where one value, no value, or a value of no datom is looked for."""
    small = "[(ground [1 3 77]) [?t ...]]"
    for clauses in (
        f"{small} [?a :who/in ?t]",
        f"{small} [?a :who/in ?t] [?b :who/likes ?t]",
        f"{small} [_ :who/in ?t] [?t :town/name ?n]",
        f'{small} [?a :who/in ?t ?tx] [?t :town/name "Ada"]',
        f"{small} (or-join [?t] [?a :who/in ?t] [?t :town/name ?n])",
        f"{small} (not [?a :who/in ?t])",
        "[?a :who/age 101] [?b :who/in ?t]",
        "[?t :town/name _] [?a :who/likes ?t] [?b :who/age ?y] [(= ?y 5)]",
    ):
        query = f"[:find ?t :where {clauses}]"
        with people_of(people) as db:
            assert set(db.q(query)) == set(db.q(query, engine="naive")), clauses


def test_a_pattern_is_asked_once(db: Any) -> None:
    """Written twice, or twice after the names that nobody uses are gone."""
    plan = db.explain("[:find ?a :where [?a :who/in ?t] [?a :who/in ?t] [?a :who/likes ?x] [?a :who/likes ?y]]")
    assert plan.count(":who/in") == 1
    assert plan.count(":who/likes") == 1


def test_repeated_rows_go_before_the_next_join(db: Any) -> None:
    """Three towns are joined, not the pairs of those who live there and those who like them."""
    plan = db.explain(
        "[:find (count-distinct ?y) . :where [?a :who/in ?t] [?a :who/age ?x] [?b :who/likes ?t] [?b :who/age ?y] [(< ?x 90)]]"
    )
    assert "distinct ?t" in plan


@pytest.mark.parametrize(
    "clauses",
    [
        '[?a :who/in ?t] [?t :town/name "Ada"] [?a :who/likes ?u] [?u :town/name ?n] [?a :who/age 5]',
        "[?a :who/in ?t] [?b :who/likes ?t] [?b :who/age ?y] [?a :who/age ?y] [(> ?y 90)] [?t :town/name ?n]",
        '[?t :town/name "Bree"] [?u :town/name "Coll"] [?a :who/likes ?t] [?a :who/likes ?u] [?a :who/age ?y]',
        "[?a :who/age 3] [?b :who/age 4] [?a :who/in ?t] [?b :who/in ?t] (not [?a :who/likes ?t])",
    ],
)
def test_no_order_is_clearly_cheaper(db: Any, clauses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the planner's own count, against every order there is."""
    arrange = JoinOrder.arrange
    checked = 0

    def arranged(self: Any, atoms: Any, start: Any) -> Any:
        nonlocal checked
        order = arrange(self, atoms, start)
        given = frozenset(start.distinct)
        for other in permutations(atoms):
            bound = given
            for atom in other:
                if not atom.needs <= bound:
                    break
                bound |= atom.gives
            else:
                assert self.cost_of(order, start) * 0.8 <= self.cost_of(list(other), start)
                checked += 1
        return order

    monkeypatch.setattr(JoinOrder, "arrange", arranged)
    Prepared(f"[:find ?a ?t :where {clauses}]").plan((db,))
    assert checked > 20


def test_patterns_of_values_that_look_alike_are_not_one() -> None:
    """1 and 1.0, a string and a keyword, and integers of more digits than Python writes are told apart."""
    schema = {":any/is": {":db/cardinality": ":db.cardinality/many"}}
    huge = 10**5000
    pairs = [(1, 1.0), ("a/b", d.kw("a/b")), (huge, huge + 1), (d.Vector([1, 2]), d.Vector([1, 2.0]))]
    with d.connect(None, schema, sync=False) as conn:
        conn.transact([[":db/add", 1, ":any/is", v] for pair in pairs for v in pair])
        conn.transact([[":db/add", 2, ":any/is", v] for v, _ in pairs])
        for pair in pairs:
            clauses = [d.Vector([d.Symbol("?e"), d.kw("any/is"), v]) for v in pair]
            query = d.Vector([d.kw("find"), d.Vector([d.Symbol("?e"), d.Symbol("...")]), d.kw("where"), *clauses])
            assert conn.q(query) == [1]
            assert sorted(conn.q(d.Vector([*query[:3], clauses[0], clauses[0]]))) == [1, 2]
