"""The short path of plain transactions does what the general one does: rows, ids, tempids, data, and the same errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import datalog as d
from store import commit
from store.plain import MOST_FORMS, plain_rows

SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":age": {":db/valueType": ":db.type/long"},
    ":size": {":db/valueType": ":db.type/double"},
    ":at": {":db/valueType": ":db.type/instant"},
    ":kind": {":db/valueType": ":db.type/keyword"},
    ":tags": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":email": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":badge": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/value"},
    ":first": {":db/valueType": ":db.type/string"},
    ":both": {":db/valueType": ":db.type/tuple", ":db/tupleAttrs": [":first", ":kind"]},
    ":free": {},
}
NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
VALUES = {
    ":name": ["a", "b", 7, None, ["x"]],
    ":age": [1, 2, 2**63, True, "x", 1.0],
    ":size": [1.5, 2, float("nan"), "x"],
    ":at": [NOW, NOW.replace(tzinfo=None), "2024"],
    ":kind": [d.kw("k"), ":k", "k"],
    ":tags": ["t", "u", ["t", "v"], {"w"}, None],
    ":friend": [1, 2, 900, -1, [1, 2], {":name": "nested"}, [":email", "a@b"], 2**40],
    ":email": ["a@b", "c@d", 5],
    ":badge": [1, 2],
    ":first": ["f", "g"],
    ":free": [1, "1", d.kw("x"), d.Vector([1, "a"]), 1.5],
    ":nope": [1],
    ":db/doc": ["text"],
    ":_friend": [1],
}
ENTITIES = st.sampled_from([1, 1, 2, 3, 4, 50, 51, 0, -1, "temp", ":db/current-tx", [":email", "a@b"], 2**40, True])
ATTRIBUTE = st.sampled_from([":name", ":age", ":tags", ":friend", ":email", ":first", *VALUES])
FACT = ATTRIBUTE.flatmap(lambda a: st.tuples(st.just(a), st.sampled_from(VALUES[a])))
NAME = st.sampled_from([str, d.kw])


@st.composite
def maps(draw: Any) -> Any:
    """A map of some facts, perhaps with an id, keys as strings or keywords."""
    form: dict[Any, Any] = {draw(NAME)(a): v for a, v in draw(st.lists(FACT, max_size=4))}
    if draw(st.booleans()):
        form[draw(st.sampled_from([":db/id", ":db/id", d.kw("db/id")]))] = draw(ENTITIES)
    return form


OPERATION = st.sampled_from([":db/add", ":db/add", ":db/add", d.kw("db/add"), ":db/retract", ":db/nope"])
VECTORS = st.tuples(OPERATION, ENTITIES, FACT, NAME).map(lambda x: [x[0], x[1], x[3](x[2][0]), x[2][1]])
TRANSACTIONS = st.lists(st.lists(VECTORS | maps(), min_size=1, max_size=4), min_size=1, max_size=6)


def _run(transactions: Any) -> list[Any]:
    """What each transaction gave or how it failed, and what is in the database at the end."""
    seen: list[Any] = []
    with d.connect(None, SCHEMA, sync=False) as conn:
        for forms in transactions:
            try:
                report = conn.transact(forms)
            except d.DatalogError as e:
                seen.append((e.code, str(e)))
            else:
                data = [(x.e, x.a, repr(x.v), x.added) for x in report.tx_data]
                seen.append((report.tx, report.tempids, data))
        seen.append([(x.e, x.a, repr(x.v), x.tx) for x in conn.db().datoms("eavt")])
        seen.append((conn.store.meta.max_eid, conn.store.meta.basis_tx))
        from store.check import check_path

        path = conn.path
        assert check_path(path)[0] == []
    return seen


@settings(max_examples=60, deadline=None)
@given(TRANSACTIONS)
def test_both_paths_do_the_same(transactions: Any) -> None:
    """Any transactions, wrong ones among them, through the short path where it takes them and through the general one alone."""
    expected_of = commit.plain_rows
    found = _run(transactions)
    commit.plain_rows = lambda *_: None  # type: ignore[assignment]
    try:
        assert found == _run(transactions)
    finally:
        commit.plain_rows = expected_of


PLAIN = [
    [{":name": "a", ":age": 1}],
    [{":name": "a"}, {":name": "b", ":tags": "t"}],
    [[":db/add", 1, ":name", "z"], (":db/add", 2, ":age", 3)],
    [{":email": "a@b", ":name": "again"}],
    [{":db/id": 1, ":friend": 1}],
    [{":db/id": -1, ":name": "a"}],
    [[":db/add", "new", ":name", "a"], {":db/id": "new", ":age": 1}, {":db/id": -7, ":age": 2}],
    [{":db/id": "again", ":email": "a@b", ":name": "c"}],
    [[":db/add", 1, ":free", "anything"]],
]
OTHERS = [
    [{":tags": ["a", "b"]}],
    [{":email": "a@b"}, {":email": "c@d"}],
    [{":badge": 1}],
    [{":first": "f"}],
    [{":name": 5}],
    [{}],
    [[":db/retract", 1, ":name", "a"]],
    [[":db/add", 1, ":name", "a"], [":db/add", 1, ":name", "b"]],
    [{":db/id": 90, ":name": "a"}, {":name": "b"}],
    [{":name": "a"}] * (MOST_FORMS + 1),
]


class Strange:
    """Compares with nothing."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ([Strange(), 1, ":age", 2], "tx/operation"),
        ([":db/add", 1, ":at", datetime.max.replace(tzinfo=timezone(timedelta(hours=-23)))], "value/unsupported"),
        ({":at": datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))}, "value/unsupported"),
    ],
)
def test_what_cannot_be_kept_is_refused(form: Any, code: str) -> None:
    """A head that compares with nothing and an instant that UTC cannot show are errors of ours; nothing is written."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        with pytest.raises(d.DatalogError) as caught:
            conn.transact([form])
        assert caught.value.code == code
        assert conn.store.meta.basis_tx == 1 + (1 << 40)


@pytest.mark.parametrize("forms", [*PLAIN, *OTHERS])
def test_what_is_plain(forms: Any) -> None:
    """The forms meant for the short path go there, and no others."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.transact([{":db/id": 1, ":name": "x", ":email": "a@b"}])
        snapshot = conn.db().snapshot
        assert (plain_rows(forms, snapshot, snapshot.codes(), 1, snapshot.basis_tx + 1) is not None) == (forms in PLAIN)
