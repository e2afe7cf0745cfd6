"""Lookups of many keys between transactions: by columns of now, or by older ones and the changes since, always the same."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import datalog as d
from store import snapshot as snapshots
from store.snapshot import match

SCHEMA = {
    ":one": {":db/valueType": ":db.type/long"},
    ":many": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/value"},
}
EID = st.integers(1, 12)
CHANGE = st.one_of(
    st.tuples(st.sampled_from([":db/add", ":db/retract"]), EID, st.just(":one"), st.integers(0, 4)),
    st.tuples(st.sampled_from([":db/add", ":db/retract"]), EID, st.just(":many"), EID),
    st.tuples(st.just(":db/retractEntity"), EID),
    st.tuples(st.just(":db/add"), EID, st.just(":name"), st.text("abc", min_size=1, max_size=1)),
)
WANTED = st.lists(st.integers(-1, 14), max_size=12)


def expected(snapshot: Any, aid: int, order: str, wanted: Any) -> list[list[int]]:
    """What a search in columns made anew of the segments and all changes finds."""
    columns = snapshot._make_columns(aid, order, tx=True)
    keys, others = (columns.e, columns.v) if order == "aevt" else (columns.v, columns.e)
    rows, at = match(keys, wanted, unique=False)
    return [rows.tolist(), others[at].tolist()]


@pytest.mark.parametrize("tables", [False, True])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(CHANGE, min_size=1, max_size=4), WANTED), min_size=1, max_size=8))
def test_lookups_between_transactions(tables: bool, steps: list[tuple[list[Any], list[int]]]) -> None:
    """Cold, exact and older columns; keys that changed and keys that did not; older snapshots go on finding their own."""
    kept = snapshots._FEW, snapshots._FEW_ADDRESSED, snapshots._WORTH_A_TABLE
    snapshots._FEW = 0
    if tables:
        snapshots._FEW_ADDRESSED, snapshots._WORTH_A_TABLE = 0, 10**9
    held = []
    try:
        with d.connect(None, SCHEMA, sync=False) as conn:
            conn.load(
                {
                    ":one": (list(range(1, 11)), [i % 3 for i in range(10)]),
                    ":many": ([1, 1, 2, 3, 3, 3], [2, 3, 2, 4, 5, 6]),
                }
            )
            for changes, wanted in steps:
                try:
                    conn.transact([list(c) for c in changes])
                except d.DatalogError:
                    continue  # two values for one, a name that is taken
                if len(held) % 3 == 2:
                    conn.store.transactor.merge()  # into new segments: older columns are then of another base
                held.append((conn.db(), np.array(wanted, dtype=np.int64)))
                for db, keys in (held[-1], held[len(held) // 2]):
                    view = db.snapshot
                    for ident in (":one", ":many"):
                        aid = view.schema.by_name()[ident].aid
                        assert [a.tolist() for a in view.gather(aid, keys)] == expected(view, aid, "aevt", keys)
                        assert [a.tolist() for a in view.lookup(aid, keys)] == expected(view, aid, "avet", keys)
                    name = view.schema.by_name()[":name"].aid
                    codes = view.columns(name).v
                    assert [a.tolist() for a in view.lookup(name, codes)] == expected(view, name, "avet", codes)
    finally:
        snapshots._FEW, snapshots._FEW_ADDRESSED, snapshots._WORTH_A_TABLE = kept


def test_older_columns_serve_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few changes make no column anew; many do."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        n = 5_000
        conn.load({":one": (list(range(1, n + 1)), [i % 7 for i in range(n)])})
        aid = conn.db().snapshot.schema.by_name()[":one"].aid
        wanted = np.arange(1, n, 3)
        conn.db().snapshot.gather(aid, wanted)
        made: list[int] = []
        make = snapshots.Snapshot._make_columns

        def counted(self: Any, aid: int, order: str, *, tx: bool) -> Any:
            made.append(aid)
            return make(self, aid, order, tx=tx)

        monkeypatch.setattr(snapshots.Snapshot, "_make_columns", counted)
        for i in range(1, 31):  # two rows each: what goes and what comes
            conn.transact([[":db/add", 3 * i + 1, ":one", 100 + i]])
            rows, values = conn.db().snapshot.gather(aid, wanted)
            assert values[rows.tolist().index(i)] == 100 + i
        assert made == []
        for i in range(31, 40):
            conn.transact([[":db/add", 3 * i + 1, ":one", 100 + i]])
        rows, values = conn.db().snapshot.gather(aid, wanted)
        assert (values[1:40] == np.arange(101, 140)).all()
        assert made == [aid]
