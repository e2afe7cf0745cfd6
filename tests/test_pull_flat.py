"""Flat pulls give what the general way gives: missing values, defaults, renamed keys, doubled and unknown entities."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import datalog as d
from datalog import pull_flat
from datalog.limits import Budget
from datalog.pull import pull_values
from datalog.pull_parser import parse_pattern
from datalog.record import replace

SCHEMA = {
    ":a": {":db/valueType": ":db.type/long"},
    ":s": {":db/valueType": ":db.type/string"},
    ":f": {":db/valueType": ":db.type/double"},
    ":k": {":db/valueType": ":db.type/keyword"},
    ":r": {":db/valueType": ":db.type/ref"},
    ":u": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":free": {},
    ":many": {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/many"},
}
SPECS = [
    ":db/id",
    ":a",
    ":s",
    "[:s :as :text]",
    "[:f :default 0.5]",
    ":k",
    ":r",
    "[:a :default nil]",
    ":free",
    "[:db/id :as :me]",
    ":u",
    ":a",
]
REFS: list[Any] = [*range(1, 90), 500, 1 << 40, [":u", "u3"], [":u", "none"], d.kw("a")]


@pytest.fixture(scope="module", params=["novelty", "segments", "filtered"])
def db(request):
    """Entities that have some of the attributes."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        forms: list[dict[str, Any]] = []
        for e in range(1, 80):
            values = {
                ":a": e,
                ":s": f"s{e % 7}",
                ":f": e / 4,
                ":k": d.kw(f"k{e % 3}"),
                ":r": 1 + e % 9,
                ":u": f"u{e}",
                ":free": [e, str(e), e / 2][e % 3],
                ":many": e,
            }
            forms.append({":db/id": e, **{k: v for i, (k, v) in enumerate(values.items()) if (e * 7 + i * e) % 5}})
        conn.transact(forms)
        conn.transact([[":db/retract", 3, ":a", 3], {":db/id": 4, ":s": "new"}])
        if request.param == "segments":
            conn.store.transactor.merge()
        found = conn.db()
        yield found.filter(lambda _, datom: datom.e % 5 != 0) if request.param == "filtered" else found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(SPECS), min_size=1, max_size=5), st.lists(st.sampled_from(REFS), max_size=30))
def test_flat_pulls_equal_the_general_way(db, specs: list[str], refs: list[Any]) -> None:
    """Any flat pattern, any entities, looked up or as columns."""
    text = f"[{' '.join(specs)}]"
    pattern = parse_pattern(text, db.snapshot.schema)
    assert pattern.flat
    general = pull_values(db.snapshot, replace(pattern, flat=False), refs, Budget(None))
    assert db.pull_many(text, refs) == general
    assert [list(m) for m in db.pull_many(text, refs) if m] == [list(m) for m in general if m]  # order of keys
    eids = [e for e in map(db.entid, refs) if e is not None]
    expected = pull_values(db.snapshot, replace(pattern, flat=False), eids, Budget(None))
    assert pull_flat.few(db.snapshot, pattern, eids) == expected
    assert pull_flat.many(db.snapshot, pattern, eids) == expected
    assert [db.pull(text, e) for e in eids] == expected


def test_other_patterns_are_not_flat(db) -> None:
    """What goes deeper, backwards, or has several values takes the general way; a registered function is found anew."""
    for text in ("[*]", "[:many]", "[{:r [:a]}]", "[:_r]", "[{:r ...}]", "[[:a :xform inc]]"):
        assert not parse_pattern(text, db.snapshot.schema).flat
    d.register("test/twice", lambda v: v * 2)
    assert db.pull("[[:a :xform test/twice]]", 7) == {":a": 14}
    d.register("test/twice", lambda v: v * 3)
    assert db.pull("[[:a :xform test/twice]]", 7) == {":a": 21}
