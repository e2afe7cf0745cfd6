"""Schema: how it is given, what a change does to data, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import datalog as d
from store.check import check_path

STRING = {":db/valueType": ":db.type/string"}
LONG = {":db/valueType": ":db.type/long"}


def test_three_ways_to_give_a_schema() -> None:
    """EDN text, a map of maps and a list of maps declare the same; so does transacting the maps."""
    text = '{:a/b {:db/valueType :db.type/string :db/cardinality :db.cardinality/many :db/doc "x"} :c {}}'
    as_map = {
        ":a/b": {":db/valueType": d.kw("db.type/string"), ":db/cardinality": ":db.cardinality/many", ":db/doc": "x"},
        ":c": {},
    }
    as_list = [{":db/ident": ":a/b", **as_map[":a/b"]}, {":db/ident": d.kw("c")}]
    seen = []
    for given in (text, as_map, as_list, d.read_edn(text)):
        with d.connect(None, given) as conn:
            seen.append(conn.schema)
    with d.connect(None) as conn:
        conn.transact(
            [{":db/ident": ":a/b", **as_map[":a/b"]}, {":db/ident": ":c", ":db/cardinality": ":db.cardinality/one"}]
        )
        seen.append(conn.schema)
        conn.transact("[{:db/ident :e :db/valueType :db.type/long} {:e 5}]")
        assert conn.q("[:find ?v . :where [_ :e ?v]]") == 5
    assert all(s == seen[0] for s in seen)
    assert seen[0][":a/b"][":db/valueType"] == d.kw("db.type/string")


def test_the_schema_is_data() -> None:
    """Attributes can be asked for like anything else."""
    with d.connect(None, {":a": STRING, ":b": {**LONG, ":db/unique": ":db.unique/identity"}}) as conn:
        assert conn.q("[:find ?i ?t :where [?e :db/ident ?i] [?e :db/valueType ?t]]") == {
            (d.kw("a"), d.kw("db.type/string")), (d.kw("b"), d.kw("db.type/long")),
        }  # fmt: skip
        assert conn.q("[:find [?i ...] :where [?e :db/unique] [?e :db/ident ?i]]") == [d.kw("b")]
        assert conn.pull("[:db/ident]", ":a") == {":db/ident": d.kw("a")}


def test_connecting_again_with_the_same_schema_writes_nothing(tmp_path: Path) -> None:
    """A second connect with the schema it has makes no transaction; a changed one does."""
    schema: dict[str, Any] = {
        ":a": STRING,
        ":r": {":db/valueType": ":db.type/ref", ":db/isComponent": True},
        ":t": {":db/tupleAttrs": [":a", ":r"]},
    }
    with d.connect(tmp_path / "db", schema, sync=False) as conn:
        tx = conn.db().basis_tx
    with d.connect(tmp_path / "db", schema, sync=False) as conn:
        assert conn.db().basis_tx == tx
    with d.connect(tmp_path / "db", {":a": {**STRING, ":db/doc": "new"}}, sync=False) as conn:
        assert conn.db().basis_tx == tx + 1
        assert conn.schema[":a"][":db/doc"] == "new"


def test_rename_keeps_everything() -> None:
    """A renamed attribute keeps its data, its indexes and its place in tuples; the old name is unknown."""
    with d.connect(None, {":a": LONG, ":b": STRING, ":t": {":db/tupleAttrs": [":a", ":b"]}}) as conn:
        conn.transact([{":a": 1, ":b": "x"}])
        conn.update_schema(rename={":a": ":renamed/a"})
        assert conn.q("[:find ?v . :where [_ :renamed/a ?v]]") == 1
        with pytest.raises(d.DatalogError):
            conn.q("[:find ?v . :where [_ :a ?v]]")
        conn.transact([[":db/add", 1, ":renamed/a", 2]])
        assert conn.pull("[:t]", 1) == {":t": d.Vector([2, "x"])}
        with pytest.raises(d.DatalogError, match="exists already"):
            conn.update_schema(rename={":b": ":renamed/a"})


def test_delete_refuses_while_data_exists() -> None:
    """An attribute with datoms is not deleted; without them it is, and its name is free again."""
    with d.connect(None, {":a": LONG, ":b": STRING}) as conn:
        conn.transact([{":db/id": 3, ":a": 1}])
        with pytest.raises(d.DatalogError, match=r"1 datoms use it, of the entities 3"):
            conn.update_schema(delete=[":a"])
        conn.transact([[":db/retract", 3, ":a"]])
        conn.update_schema(delete=[":a"])
        assert set(conn.schema) == {":b"}
        conn.update_schema({":a": STRING})
        conn.transact([{":a": "text now"}])
        assert conn.q("[:find ?v . :where [_ :a ?v]]") == "text now"


@pytest.mark.parametrize("merged", [False, True])
def test_an_added_index_is_filled(tmp_path: Path, merged: bool) -> None:
    """An index switched on later, or off and on, answers as if it had always been there."""
    with d.connect(
        tmp_path / "db", {":a": {**LONG, ":db/index": False}, ":s": {**STRING, ":db/index": False}}, sync=False
    ) as conn:
        conn.transact([{":a": i % 7, ":s": f"t{i % 5}"} for i in range(100)])
        if merged:
            conn.store.transactor.merge()
        conn.transact([{":a": 3, ":s": "late"}])
        for on in (True, False, True):
            conn.update_schema({":a": {":db/index": on}, ":s": {":db/index": on}})
            assert conn.q("[:find (count ?e) . :where [?e :a 3]]") == 15
            assert len(list(conn.db().datoms("avet", ":s", "late"))) == 1
            assert [x.v for x in conn.db().index_range(":a", 6, 9)] == [6] * 14
            assert check_path(tmp_path / "db")[0] == []


def test_a_type_may_be_given_to_untyped_data(tmp_path: Path) -> None:
    """Values that fit are recoded in the same commit, in all indexes and for old snapshots too; others are named."""
    with d.connect(tmp_path / "db", {":a": {}, ":b": {}}, sync=False) as conn:
        conn.transact([{":a": i, ":b": i or "zero"} for i in range(5)])
        before = conn.db()
        report = conn.update_schema({":a": LONG})
        assert sorted(conn.q("[:find [?v ...] :where [_ :a ?v]]")) == [0, 1, 2, 3, 4]
        assert conn.q("[:find ?e . :where [?e :a 3]]") == 4
        assert sorted(before.q("[:find [?v ...] :where [_ :a ?v]]")) == [0, 1, 2, 3, 4]
        assert {x.v for x in report.tx_data if x.a == ":a" and not x.added} == {0, 1, 2, 3, 4}
        with pytest.raises(d.DatalogError, match=r'1 of its datoms do not fit: \[1 :b "zero"\]'):
            conn.update_schema({":b": LONG})
        conn.update_schema({":a": {":db/valueType": ":db.type/double"}})
        assert conn.q("[:find ?e . :where [?e :a 3.0]]") == 4
        conn.store.transactor.merge()
    assert check_path(tmp_path / "db")[0] == []


def test_uniqueness_and_cardinality_are_checked_against_the_data() -> None:
    """Doubles under a new uniqueness, and several values under cardinality one, are refused by name."""
    with d.connect(None, {":a": LONG, ":m": {**STRING, ":db/cardinality": ":db.cardinality/many"}}) as conn:
        conn.transact([{":db/id": 1, ":a": 5, ":m": ["x", "y"]}, {":db/id": 2, ":a": 5}])
        with pytest.raises(d.DatalogError, match=r"1 values are held by several entities: \[1 :a 5\] and \[2"):
            conn.update_schema({":a": {":db/unique": ":db.unique/identity"}})
        with pytest.raises(d.DatalogError, match=r"several values of it: 1"):
            conn.update_schema({":m": {":db/cardinality": ":db.cardinality/one"}})
        conn.transact([[":db/retract", 1, ":m", "x"], [":db/retract", 2, ":a", 5]])
        conn.update_schema(
            {":a": {":db/unique": ":db.unique/identity"}, ":m": {":db/cardinality": ":db.cardinality/one"}}
        )
        conn.transact([{":a": 5, ":m": "z"}])
        assert conn.pull("[*]", 1) == {":db/id": 1, ":a": 5, ":m": "z"}


def test_a_composite_added_later_is_filled() -> None:
    """A composite tuple over existing data is filled in the same commit, and refused where it would not be unique."""
    with d.connect(None, {":a": LONG, ":b": STRING}) as conn:
        conn.transact([{":a": 1, ":b": "x"}, {":a": 1}, {":a": 1, ":b": "y"}, {":b": "only"}])
        conn.update_schema({":ab": {":db/tupleAttrs": [":a", ":b"], ":db/unique": ":db.unique/identity"}})
        assert conn.q("[:find ?e ?t :where [?e :ab ?t]]") == {
            (1, d.Vector([1, "x"])), (2, d.Vector([1, None])), (3, d.Vector([1, "y"])), (4, d.Vector([None, "only"])),
        }  # fmt: skip
        assert conn.db().entid((":ab", [1, "y"])) == 3
        conn.transact([{":a": 9, ":b": "same"}, {":a": 8, ":b": "same"}])
        with pytest.raises(d.DatalogError, match="cannot be unique"):
            conn.update_schema({":bb": {":db/tupleAttrs": [":b"], ":db/unique": ":db.unique/value"}})


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ("{:a {:db/valueType :db.type/strnig}}", "schema/value"),
        ("{:a {:db/valueTyp :db.type/string}}", "schema/key"),
        ("{:a {:db/cardinality 5}}", "schema/value"),
        ("{:a {:db/index 1}}", "schema/value"),
        ("{:a {:db/isComponent true}}", "schema/component"),
        ("{:a {:db/tupleAttrs [:b :c]}}", "schema/tuple"),
        ("{:a {:db/tupleType :db.type/long :db/tupleTypes [:db.type/long]}}", "schema/tuple"),
        ("{:a {:db/valueType :db.type/long :db/tupleTypes [:db.type/long]}}", "schema/tuple"),
        ("{:a 5}", "schema/form"),
        ("[5]", "schema/form"),
        ("7", "schema/form"),
        ("{5 {}}", "schema/ident"),
        ("{:db/mine {}}", "schema/reserved"),
        ('{:db/ident {:db/doc "x"}}', "schema/built-in"),
        ("{:a", "edn/unclosed"),
    ],
)
def test_malformed_schemas_are_refused(schema: str, code: str) -> None:
    """Each mistake in a schema has its error, and leaves no database half-declared."""
    with pytest.raises(d.DatalogError) as caught:
        d.connect(None, schema)
    assert caught.value.code == code, str(caught.value)
    with d.connect(None) as conn:
        with pytest.raises(d.DatalogError):
            conn.update_schema(schema)
        assert conn.schema == {}


@pytest.mark.parametrize(
    "kind",
    [
        "long",
        "double",
        "boolean",
        "instant",
        "string",
        "keyword",
        "symbol",
        "uuid",
        "bytes",
        "bigint",
        "bigdec",
        "ref",
        "tuple",
        None,
    ],
)
def test_every_type_keeps_its_values(tmp_path: Path, kind: str | None) -> None:
    """Values of every type, extremes among them, come back equal and in order, before and after reopening."""
    from datetime import UTC, datetime
    from decimal import Decimal
    from uuid import UUID

    values: dict[str | None, list[Any]] = {
        "long": [-(2**63), -1, 0, 1, 2**63 - 1],
        "double": [float("-inf"), -1.5, 0.0, 5e-324, 1e308, float("inf")],
        "boolean": [False, True],
        "instant": [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        ],
        "string": ["", "\0", "a", "a\0b", "z" * 3000, "é", "\U0001f98a"],
        "keyword": [d.kw("a"), d.kw("b"), d.kw("a/a"), d.kw("b/a")],
        "symbol": [d.Symbol("a"), d.Symbol("x/y")],
        "uuid": [UUID(int=0), UUID(int=2**128 - 1)],
        "bytes": [b"", b"\0", b"\0\xff", b"a" * 600],
        "bigint": [-(10**40), -(2**63) - 1, -(2**63), 0, 2**63, 10**40],
        "bigdec": [
            Decimal("-1E+5"),
            Decimal("-0.5"),
            Decimal("0.001"),
            Decimal("1.00"),
            Decimal("1.0"),
            Decimal("12345678901234567890.5"),
        ],
        "ref": [1, 2, 3, 500],
        "tuple": [d.Vector([-1, "a"]), d.Vector([1, None]), d.Vector([1, "b"])],
        None: [None, True, 1, 2**70, 1.0, Decimal(1), "1", d.kw("k"), d.Vector([1, d.Map({1: d.Set([1.0])})])][1:],
    }
    schema = {
        ":v": {":db/cardinality": ":db.cardinality/many", **({":db/valueType": f":db.type/{kind}"} if kind else {})}
    }
    path = tmp_path / "db"
    for again in (False, True):
        with d.connect(path, schema, sync=False) as conn:
            if not again:
                conn.transact([[":db/add", 7, ":v", v] for v in reversed(values[kind])])
            found = [x.v for x in conn.db().datoms("avet", ":v")]
            assert [repr(v) for v in found] == [repr(v) for v in values[kind]]
            for v in values[kind]:
                assert len(conn.db().datoms("eavt", 7, ":v", v)) == 1
    assert check_path(path)[0] == []


def test_a_schema_change_and_its_data_do_not_mix() -> None:
    """A transaction that changes what data is and touches that data is refused; new attributes may be used at once."""
    with d.connect(None, {":x": {}, ":y": LONG}) as conn:
        conn.transact([{":db/id": 1, ":x": 1, ":y": 2}])
        change = {":db/ident": ":x", ":db/valueType": ":db.type/double"}
        for other in ({":db/id": 1, ":x": 2.0}, [":db/retract", 1, ":x", 1], [":db/retractEntity", 1]):
            with pytest.raises(d.DatalogError, match="transaction of its own"):
                conn.transact([change, other])
        with pytest.raises(d.DatalogError, match="transaction of its own"):
            conn.transact([{":db/ident": ":xy", ":db/tupleAttrs": [":x", ":y"]}, {":db/id": 1, ":y": 5}])
        with pytest.raises(d.DatalogError, match="transaction of its own"):
            conn.transact([[":db/add", ":y", ":db/valueType", ":db.type/double"], {":db/id": 2, ":y": 3}])
        conn.transact(
            [change, {":db/ident": ":z", ":db/valueType": ":db.type/long"}, {":db/id": 1, ":z": 9, ":y": 3}],
            {":db/doc": "why"},
        )
        assert conn.pull("[*]", 1) == {":db/id": 1, ":x": 1.0, ":y": 3, ":z": 9}


def test_renaming_a_member_keeps_a_composite() -> None:
    """A composite tuple keeps its values and its uniqueness when one of its attributes is renamed."""
    schema = {":x": LONG, ":y": LONG, ":xy": {":db/tupleAttrs": [":x", ":y"], ":db/unique": ":db.unique/identity"}}
    with d.connect(None, schema) as conn:
        conn.transact([{":db/id": 1, ":x": 1, ":y": 2}])
        conn.update_schema(rename={":x": ":z"})
        assert conn.db().entid([":xy", [1, 2]]) == 1
        with pytest.raises(d.DatalogError, match="is unique"):
            conn.transact([{":db/id": 2, ":z": 1, ":y": 2}])


def test_a_composite_follows_a_changed_member() -> None:
    """A member that gets a type recodes the tuples; a member cannot become cardinality many."""
    with d.connect(
        None, {":x": {}, ":y": LONG, ":xy": {":db/tupleAttrs": [":x", ":y"], ":db/unique": ":db.unique/identity"}}
    ) as conn:
        conn.transact([{":db/id": 1, ":x": 1, ":y": 2}])
        conn.update_schema({":x": {":db/valueType": ":db.type/double"}})
        assert conn.db().entid([":xy", [1.0, 2]]) == 1
        assert conn.db().entid([":xy", [1, 2]]) is None
        with pytest.raises(d.DatalogError, match="cardinality many"):
            conn.update_schema({":x": {":db/cardinality": ":db.cardinality/many"}})


@pytest.mark.parametrize("merged", [False, True])
def test_an_index_switched_while_empty_is_right_later(tmp_path: Path, merged: bool) -> None:
    """Datoms that were retracted before an index went off and on do not come back with it."""
    with d.connect(tmp_path / "db", {":u": LONG}, sync=False) as conn:
        conn.transact([{":db/id": 1, ":u": 1}])
        conn.store.transactor.merge()
        conn.transact([[":db/retract", 1, ":u", 1]])
        conn.update_schema({":u": {":db/index": False}})
        if merged:
            conn.store.transactor.merge()
        conn.update_schema({":u": {":db/index": True}})
        assert list(conn.db().datoms("avet", ":u", 1)) == []
        conn.update_schema({":u": {":db/unique": ":db.unique/identity"}})
        assert conn.db().entid([":u", 1]) is None
        conn.store.transactor.merge()
    assert check_path(tmp_path / "db")[0] == []


def test_a_type_that_makes_values_equal() -> None:
    """Values of one entity that become equal become one datom; of two entities, under uniqueness, they are refused."""
    with d.connect(
        None, {":u": {":db/unique": ":db.unique/identity"}, ":m": {":db/cardinality": ":db.cardinality/many"}}
    ) as conn:
        conn.transact([{":db/id": 1, ":u": 1, ":m": [1, 1.0, 2]}, {":db/id": 2, ":u": 1.0}])
        with pytest.raises(d.DatalogError, match="would hold one value"):
            conn.update_schema({":u": {":db/valueType": ":db.type/double"}})
        conn.update_schema({":m": {":db/valueType": ":db.type/double"}})
        assert len(conn.db()) == 4
        conn.transact([[":db/retract", 1, ":m", 1.0]])
        assert conn.pull("[:m]", 1) == {":m": [2.0]}


def test_a_speculative_index_finds_what_is_there() -> None:
    """Uniqueness and indexes that only a view has find merged data."""
    with d.connect(None, {":x": {**LONG, ":db/index": False}}) as conn:
        conn.load({":x": (range(1, 2001), range(2000))})
        view = conn.db().with_([{":db/ident": ":x", ":db/unique": ":db.unique/identity"}]).db_after
        assert view.entid([":x", 7]) == 8
        assert view.q("[:find ?e . :where [?e :x 7]]") == 8
        assert view.q("[:find (count ?e) . :where [?e :x ?v] [(< ?v 10)]]") == 10
        assert view.with_([{":x": 1, ":db/doc": "q"}]).db_after.entity(2)[":db/doc"] == "q"
