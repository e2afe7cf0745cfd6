"""Transactions of several steps, and taking one back: equal to the steps one by one, and exact."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

import datalog as d

SCHEMA = {
    ":p/name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":p/age": {":db/valueType": ":db.type/long"},
    ":p/tags": {":db/valueType": ":db.type/keyword", ":db/cardinality": ":db.cardinality/many"},
    ":p/friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":p/any": {},
    ":p/born": {":db/valueType": ":db.type/long"},
    ":p/both": {":db/tupleAttrs": [":p/age", ":p/born"]},
}
TYPES = {":p/age": ("long", "string", None), ":p/any": (None, "string", "long", "ref"), ":p/born": ("long", "double")}


def state(db: d.Db) -> tuple[Any, Any]:
    """Datoms of entities with typed values, and the schema."""
    datoms = {(x.e, x.a, type(x.v).__name__, repr(x.v)) for x in db.datoms("eavt") if x.e < 1 << 40}
    return datoms, db.schema


def random_step(r: random.Random, conn: Any) -> Any:
    """One step: what to call, with what, chosen from what the database holds now."""
    kind = r.random()
    schema = conn.schema
    names = list(schema)
    if kind < 0.6:
        ops: list[Any] = []
        for _ in range(r.randrange(1, 5)):
            e = r.randrange(1, 12)
            a = r.choice([n for n in names if not schema[n].get(":db/tupleAttrs")])
            type_name = str(schema[a].get(":db/valueType", ":db.type/any")).rpartition("/")[2]
            n = r.randrange(5)
            value = {"string": f"{n}", "long": n, "keyword": d.kw(f"k{n}"), "ref": n + 1, "double": n / 2}.get(
                type_name, n
            )
            if r.random() < 0.3:
                ops.append([":db/retract", e, a, value] if r.random() < 0.5 else [":db/retract", e, a])
            else:
                ops.append([":db/add", e, a, value])
        return "transact", ops
    if kind < 0.7:
        return "transact", [[":db/retractEntity", r.randrange(1, 12)]]
    if kind < 0.8:
        a = r.choice(names)
        return "rename", {a: a.rstrip("x") if a.endswith("x") else a + "x"}
    if kind < 0.9:
        a = r.choice([n for n in names if n.rstrip("x") in TYPES])
        t = r.choice(TYPES[a.rstrip("x")])
        return "update", {a: {":db/valueType": f":db.type/{t}" if t else None}}
    if kind < 0.95:
        return "update", {f":n/a{r.randrange(4)}": {":db/valueType": ":db.type/string", ":db/index": r.random() < 0.5}}
    return "drop", r.choice(names)


def carry_out(target: Any, step: Any) -> str | None:
    """Does a step; the code of the error when it is refused."""
    what, argument = step
    try:
        if what == "transact":
            target.transact(argument)
        elif what == "rename":
            target.update_schema(rename=argument)
        elif what == "update":
            target.update_schema(argument)
        else:
            target.transact([[":db/retract", x.e, argument, x.v] for x in target.db().datoms("aevt", argument)])
            target.update_schema(delete=[argument])
    except d.DatalogError as e:
        return e.code
    return None


@pytest.mark.parametrize("seed", range(25))
def test_steps_are_equal_to_transactions_and_undo_is_exact(tmp_path: Path, seed: int, monkeypatch: Any) -> None:
    """Random steps in one transaction give what they give one by one; undone, all is as it was; nothing is damaged."""
    r = random.Random(seed)
    monkeypatch.setattr("store.store.LEAST_NOVELTY", r.choice([1, 20, 5000]))
    one, many = d.connect(tmp_path / "one", schema=SCHEMA), d.connect(tmp_path / "many", schema=SCHEMA)
    for _ in range(r.randrange(8)):
        step = random_step(r, many)
        assert carry_out(one, step) == carry_out(many, step)
    txs = []
    for _ in range(3):
        before = state(one.db())
        with one.atomic() as work:
            for _ in range(r.randrange(1, 10)):
                step = random_step(r, many)
                assert carry_out(work, step) == carry_out(many, step), step
            assert state(work.db()) == state(many.db())
        assert work.report is not None
        assert state(work.report.db_after) == state(one.db()) == state(many.db())
        txs.append((work.report.tx, before, work.report.db_before is not None and before != state(one.db())))
    one.close()
    assert d.check(tmp_path / "one") == []
    one = d.connect(tmp_path / "one")
    assert state(one.db()) == state(many.db())
    for tx, before, changed in reversed(txs):
        if changed:
            with one.atomic() as work:
                work.undo(tx)
        assert state(one.db()) == before
    one.close()
    many.close()
    assert d.check(tmp_path / "one") == []


def test_an_exception_abandons_all_steps() -> None:
    """Nothing of a block that raises is written, and the next transaction is none the wiser."""
    with d.connect(None, schema=SCHEMA) as conn:
        basis = conn.db().basis_tx
        with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117 - the block is what is tested
            with conn.atomic() as work:
                work.transact([{":p/name": "Ada"}])
                work.update_schema({":new": {":db/valueType": ":db.type/long"}})
                _ = 1 / 0
        assert conn.db().basis_tx == basis
        assert ":new" not in conn.schema
        conn.transact([{":p/name": "Ada", ":p/age": 1}])
        with pytest.raises(d.DatalogError, match="over"):
            work.transact([{":p/name": "Bob"}])


def test_a_dry_run_writes_nothing_and_tells_the_changes() -> None:
    """`changes` counts what is net: a value put and taken away is none."""
    with d.connect(None, schema=SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":p/name": "Ada", ":p/age": 1}])
        basis = conn.db().basis_tx
        with conn.atomic(dry_run=True) as work:
            work.transact([[":db/add", 1, ":p/age", 2], [":db/add", 2, ":p/tags", d.kw("a")]])
            work.transact([[":db/add", 1, ":p/age", 3], [":db/retract", 2, ":p/tags"]])
            assert [(c.attribute, c.asserted, c.retracted) for c in work.changes()] == [
                (":p/age", 1, 1),
                (":p/both", 1, 1),
            ]
        assert work.report is None
        assert conn.db().basis_tx == basis


def test_a_write_past_the_steps_is_refused_and_others_wait() -> None:
    """Inside the block the connection reads but does not write; another thread reads at once and writes after it."""
    with d.connect(None, schema=SCHEMA) as conn:
        seen: list[Any] = []

        def other() -> None:
            seen.append(len(conn.db()))
            conn.transact([{":p/name": "Other"}])

        thread = threading.Thread(target=other)
        with conn.atomic() as work:
            work.transact([{":p/name": "Ada"}])
            with pytest.raises(d.DatalogError, match="not a step of it"):
                conn.transact([{":p/name": "Bob"}])
            with pytest.raises(d.DatalogError, match="cannot be closed meanwhile"):
                conn.close()
            assert len(conn.db()) == 0
            thread.start()
            while not seen:
                pass
        thread.join()
        assert seen == [0]
        assert sorted(conn.q("[:find [?n ...] :where [_ :p/name ?n]]")) == ["Ada", "Other"]


def test_listeners_hear_one_report() -> None:
    """All steps are one transaction to those who listen."""
    with d.connect(None, schema=SCHEMA) as conn:
        heard: list[d.TxReport] = []
        conn.listen(heard.append)
        with conn.atomic() as work:
            work.transact([{":p/name": "Ada", ":p/age": 1}])
            work.transact([{":p/name": "Ada", ":p/age": 2}])
        assert [r.tx for r in heard] == [work.tx]
        assert {(x.a, x.v) for x in heard[0].tx_data} == {
            (":p/name", "Ada"),
            (":p/age", 2),
            (":p/both", d.Vector([2, None])),
        }


def undo_error(conn: d.Connection, tx: int, *, force: bool = False) -> Any:
    """The conflicts that an undo reports."""
    with pytest.raises(d.DatalogError) as caught, conn.atomic() as work:
        work.undo(tx, force=force)
    assert caught.value.code == "tx/undo-conflict"
    return [(c["kind"], c["attribute"], c["entities"]) for c in caught.value.data["conflicts"]]


def test_undo_names_what_was_changed_since_and_forced_loses_only_that() -> None:
    """A value changed again is a conflict; facts that are none of the transaction's stay, forced or not."""
    with d.connect(None, schema=SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":p/name": "Ada", ":p/age": 1}, {":db/id": 2, ":p/name": "Bob", ":p/age": 2}])
        tx = conn.transact([[":db/add", 1, ":p/age", 11], [":db/add", 2, ":p/age", 22]]).tx
        conn.transact(
            [[":db/add", 1, ":p/age", 111], [":db/add", 3, ":p/age", 3], [":db/add", 2, ":p/tags", d.kw("t")]]
        )
        assert undo_error(conn, tx) == [("changed", ":p/age", [1])]
        with conn.atomic() as work:
            undone = work.undo(tx, force=True)
        assert [c.entities for c in undone.conflicts] == [(1,)]
        assert dict(conn.q("[:find ?e ?a :where [?e :p/age ?a]]")) == {1: 1, 2: 2, 3: 3}
        assert conn.q("[:find ?e . :where [?e :p/tags :t]]") == 2


def test_undo_of_an_attribute_with_later_data() -> None:
    """An attribute that would go with datoms written since is a conflict; forced, they go too."""
    with d.connect(None, schema=SCHEMA) as conn:
        tx = conn.update_schema({":q/new": {":db/valueType": ":db.type/string"}}).tx
        conn.transact([[":db/add", 5, ":q/new", "x"]])
        assert undo_error(conn, tx) == [("written", ":q/new", [5])]
        with conn.atomic() as work:
            work.undo(tx, force=True)
        assert ":q/new" not in conn.schema
        assert len(conn.db()) == 0


def test_undo_that_no_force_can_do() -> None:
    """A unique value that another entity took since, and an attribute changed since, cannot be forced."""
    with d.connect(None, schema=SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":p/name": "Ada"}])
        tx = conn.transact([[":db/add", 1, ":p/name", "Eve"]]).tx
        conn.transact([{":db/id": 2, ":p/name": "Ada"}])
        assert undo_error(conn, tx, force=True) == [("unique", ":p/name", [1])]
        tx = conn.update_schema(rename={":p/any": ":p/some"}).tx
        conn.update_schema(rename={":p/some": ":p/other"})
        assert undo_error(conn, tx, force=True) == [("schema", ":p/other", [])]


def test_undo_of_a_type_with_values_that_do_not_fit_the_old_one() -> None:
    """Values written under the new type come over when they fit the old one, else they are named."""
    with d.connect(None, schema={":x": {":db/valueType": ":db.type/string"}}) as conn:
        conn.transact([[":db/add", 1, ":x", "a"]])
        tx = conn.update_schema({":x": {":db/valueType": None}}).tx
        conn.transact([[":db/add", 2, ":x", "b"]])
        with conn.atomic(dry_run=True) as work:
            work.undo(tx)
            assert dict(work.q("[:find ?e ?v :where [?e :x ?v]]")) == {1: "a", 2: "b"}
        conn.transact([[":db/add", 3, ":x", 3]])
        assert undo_error(conn, tx) == [("type", ":x", [3])]
        with conn.atomic() as work:
            work.undo(tx, force=True)
        assert dict(conn.q("[:find ?e ?v :where [?e :x ?v]]")) == {1: "a", 2: "b"}
        assert str(conn.schema[":x"][":db/valueType"]) == ":db.type/string"


def test_undo_does_not_bring_back_references_to_what_is_gone() -> None:
    """A reference whose entity was retracted since is a conflict; forced, it stays away."""
    with d.connect(None, schema=SCHEMA) as conn:
        conn.transact([{":db/id": 1, ":p/name": "Ada", ":p/friend": [2]}, {":db/id": 2, ":p/name": "Bob"}])
        tx = conn.transact([[":db/retract", 1, ":p/friend", 2]]).tx
        conn.transact([[":db/retractEntity", 2]])
        assert undo_error(conn, tx) == [("dangling", ":p/friend", [1])]
        with conn.atomic() as work:
            work.undo(tx, force=True)
        assert conn.q("[:find ?f . :where [1 :p/friend ?f]]") is None


def test_undo_of_what_the_log_lost(tmp_path: Path) -> None:
    """A transaction that the log does not have is named, not guessed."""
    with d.connect(tmp_path / "db", schema=SCHEMA) as conn:
        tx = conn.transact([[":db/add", 1, ":p/age", 1]]).tx
        last = conn.transact([[":db/add", 1, ":p/age", 2]]).tx
    d.compact(tmp_path / "db", drop_log_before=last)
    with d.connect(tmp_path / "db") as conn:
        for missing in (tx, last + 100):
            with conn.atomic(dry_run=True) as work, pytest.raises(d.DatalogError) as caught:
                work.undo(missing)
            assert caught.value.code == "tx/unlogged"


def test_values_of_earlier_steps_are_found_by_later_queries() -> None:
    """New strings of one step meet inputs, functions and other databases in the queries of the next."""
    with d.connect(None, schema=SCHEMA) as conn, conn.atomic() as work:
        for i in range(20):
            work.transact([{":p/name": f"n{i}", ":p/any": f"v{i}"}])
            q = "[:find ?v . :in $ ?n ?w :where [?e :p/name ?n] [?e :p/any ?v] [(str ?n ?w) ?x] [(!= ?x ?v)]]"
            assert work.q(q, f"n{i}", "never seen") == f"v{i}"
        assert work.db().with_([{":p/name": "more"}]).db_after.entid([":p/name", "more"]) == 21
        assert work.q("[:find (count ?n) . :where [_ :p/name ?n]]") == 20
