"""The engine gives the answers of the reference evaluator, on random data and queries, in whatever order clauses stand."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from differential import RULES, SCHEMA, Generator, compare, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

import datalog as d
from datalog import planner, scan
from store import snapshot

QUERIES = 1000


@pytest.mark.parametrize("seed", [0, 1000])
def test_engine_equals_reference_evaluator(seed: int) -> None:
    """Twice 1,000 random queries have the same answers by both engines; enough of them have answers, recursion and negation."""
    counts: Counter[str] = Counter()
    while counts["compared"] < QUERIES:
        found = compare(seed, 40, counts)
        assert not found, "\n".join(found)
        seed += 1
    print(dict(counts))
    assert counts["with answers"] >= QUERIES / 2
    assert counts["recursion"] >= QUERIES / 5
    assert counts["negation"] >= QUERIES / 5
    assert counts["best"] >= QUERIES / 20


def test_ways_for_much_data_on_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done only where there are many rows (tables, members, early distinct rows) gives the same answers."""
    monkeypatch.setattr(snapshot, "_FEW_ADDRESSED", 0)
    monkeypatch.setattr(snapshot, "_WORTH_A_TABLE", 10**9)
    monkeypatch.setattr(snapshot, "_WORTH_A_TABLE_AT_ONCE", 10**9)
    monkeypatch.setattr(snapshot, "_FEW", 0)
    monkeypatch.setattr(scan, "_FEW_PROBES", 0)
    monkeypatch.setattr(scan, "_FEW", 10**9)
    monkeypatch.setattr(scan, "_FEW_OF_ALL", 0)
    monkeypatch.setattr(planner, "_WORTH_THINNING", 0.0)
    monkeypatch.setattr(planner, "_THINNER", 0.1)
    counts: Counter[str] = Counter()
    seed = 500_000
    while counts["compared"] < QUERIES / 2:
        found = compare(seed, 40, counts)
        assert not found, "\n".join(found)
        seed += 1


@settings(max_examples=25, deadline=None)
@given(st.integers(10**6, 10**9))
def test_clause_order_does_not_matter(seed: int) -> None:
    """A query whose clauses are shuffled has the same answer."""
    generator = Generator(seed)
    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.transact(generator.transaction())
        db = conn.db()
        for _ in range(6):
            clauses, bound = generator.body(set(), 0, 5)
            if not bound:
                continue
            find = f"[:find {' '.join(sorted(bound)[:2])} :in $ % :where "
            first = outcome(f"{find}{' '.join(clauses)}]", db, None)
            random.Random(seed).shuffle(clauses)
            other = outcome(f"{find}{' '.join(clauses)}]", db, None)
            if "query/function-failed" not in (first[1], other[1]):
                assert first == other, clauses
    assert RULES
