"""Transactions against the naive model, and what must hold after any sequence of them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from model import SCHEMA, Model, Refused

from store import txdata
from store.check import check_path
from store.edn import strict_key
from store.errors import UserError
from store.seek import datoms
from store.snapshot import Snapshot
from store.speculation import speculate
from store.store import Store, open_store

_EIDS = st.integers(1, 6)
_TEMPS = st.sampled_from([-1, -2, -3, "a", "b"])
_STRINGS = st.sampled_from(["", "x", "y", "\0z", "\U0001f98a"])
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    ":one": _STRINGS,
    ":many": _STRINGS,
    ":long": st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]),
    ":double": st.sampled_from([0.0, 1.0, -1.5, float("inf")]),
    ":any": st.sampled_from([1, 1.0, True, "1", 2**70, (1, 2.0)]),
    ":id": st.sampled_from(["k", "l", "m"]),
    ":id2": st.sampled_from([7, 8]),
    ":value": st.sampled_from([1, 2, 3]),
    ":ref": _EIDS | _TEMPS,
    ":refs": _EIDS | _TEMPS,
    ":part": _EIDS | _TEMPS,
}
_ENTITY = _EIDS | _TEMPS


_REFS = (":ref", ":refs", ":part")
_OLD = {name: (_EIDS if name in _REFS else values) for name, values in _VALUES.items()}  # what exists can be retracted


def _members(name: str) -> st.SearchStrategy[Any]:
    values = _VALUES[name]
    return values | st.lists(values, min_size=2, max_size=2) if "cardinality" in str(SCHEMA[name]) else values


def _each(make: Any) -> st.SearchStrategy[Any]:
    return st.one_of([make(name) for name in sorted(_VALUES)])


_MAP = st.fixed_dictionaries({}, optional={":db/id": _ENTITY, **{name: _members(name) for name in _VALUES}}).filter(
    lambda form: set(form) - {":db/id"}
)
_ADD = _each(lambda a: st.tuples(st.just(":db/add"), _ENTITY, st.just(a), _VALUES[a]))
_RETRACT = _each(lambda a: st.tuples(st.just(":db/retract"), _EIDS, st.just(a), _OLD[a]))
_RETRACT_ALL = st.tuples(
    st.sampled_from([":db/retract", ":db/retractAttribute"]), _EIDS, st.sampled_from(sorted(_VALUES))
)
_RETRACT_ENTITY = st.tuples(st.just(":db/retractEntity"), _EIDS)
_CAS = _each(lambda a: st.tuples(st.just(":db/cas"), _EIDS, st.just(a), st.none() | _OLD[a], _VALUES[a]))
_TX = st.lists(st.one_of(_MAP, _MAP, _ADD, _ADD, _RETRACT, _RETRACT_ALL, _RETRACT_ENTITY, _CAS), min_size=1, max_size=5)


def _facts(snapshot: Snapshot) -> set[tuple[int, str, Any]]:
    return {(d.e, d.a, strict_key(d.v)) for d in datoms(snapshot, "eavt")}


def _all_ways(snapshot: Snapshot) -> set[tuple[int, str, Any]]:
    """The facts by every index and every way of reading, which must agree."""
    facts = _facts(snapshot)
    assert {(d.e, d.a, strict_key(d.v)) for d in datoms(snapshot, "aevt")} == facts
    assert {(d.e, d.a, strict_key(d.v)) for d in datoms(snapshot, "avet")} == facts
    assert snapshot.count_all() == len(facts)
    for attribute in snapshot.schema.user_attributes():
        columns = snapshot.columns(attribute.aid)
        assert snapshot.count(attribute.aid) == len(columns.e)
        for e, v in zip(columns.e.tolist(), columns.v.tolist(), strict=True):
            assert v in snapshot.values(e, attribute.aid)
            assert e in snapshot.holders(attribute.aid, v)
            assert e in snapshot.holders(attribute.aid, v)
    return facts


def _open(tmp: Any) -> Store:
    store = open_store(tmp, sync=False)
    store.transactor.update_schema(SCHEMA)
    return store


@pytest.mark.parametrize("novelty", [0, 10, 10_000], ids=["merged at once", "merged often", "all novelty"])
@pytest.mark.parametrize("batch", [1, 256], ids=["as columns", "one by one"])
def test_transactions_do_what_the_model_does(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, novelty: int, batch: int
) -> None:
    """After any sequence of transactions the store holds what the model holds, refuses what it refuses, and checks clean."""
    monkeypatch.setattr("store.store.MOST_NOVELTY", novelty)
    monkeypatch.setattr("store.store.LEAST_NOVELTY", 0)
    monkeypatch.setattr("store.store.FOLD_AT_CLOSE", 20)
    monkeypatch.setattr(txdata, "BATCH", batch)
    outcomes = {"made": 0, "refused": 0}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(_TX, min_size=1, max_size=6))
    def run(transactions: list[Any]) -> None:
        path = tmp_path_factory.mktemp("db")
        store = _open(path)
        model = Model(SCHEMA)
        held: list[tuple[Snapshot, set[Any]]] = []
        try:
            for forms in transactions:
                before = store.newest()
                try:
                    expected: Model | None = model.transact(forms)
                except Refused:
                    expected = None
                speculated: set[Any] | None = None
                try:
                    speculated = _facts(speculate(before, forms, None, None, None).after)
                except UserError:
                    assert expected is None, f"with_ refuses what the model takes: {forms}"
                try:
                    committed = store.transactor.transact(forms)
                except UserError as e:
                    assert expected is None, f"{e} but the model takes {forms}"
                    assert _facts(store.newest()) == model.as_set()
                    outcomes["refused"] += 1
                    continue
                assert expected is not None, f"the model refuses {forms}"
                outcomes["made"] += 1
                model = expected
                assert _all_ways(committed.after) == model.as_set()
                assert speculated == model.as_set()
                for datom in committed.datoms():
                    assert ((datom.e, datom.a, strict_key(datom.v)) in model.as_set()) == datom.added
                held.append((committed.after, model.as_set()))
            for snapshot, facts in held:
                assert _facts(snapshot) == facts, "a snapshot changed"
        finally:
            store.release()
        findings, _ = check_path(path)
        assert findings == []
        store = open_store(path, sync=False)
        try:
            assert _all_ways(store.newest()) == model.as_set()
        finally:
            store.release()

    run()
    assert outcomes["made"] > 30
    assert outcomes["refused"] > 5
