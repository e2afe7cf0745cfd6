"""Transactions, stage 4: resolved operations -> the datoms that really change, checked.

Two ways to the same result. Operations go one after another against a working state, which is read from the snapshot
where first touched: retractions and adds take effect in the order given, two different adds for one value of cardinality
one are a contradiction and refused. A batch of adds goes attribute by attribute over arrays. In both, what is already
there is no change, and uniqueness is checked on the state *after* the transaction, so that values may be swapped.

`tests/model.py` holds the naive reading of these rules that both are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from store.columns import EMPTY, contains, order_rows
from store.datom import FIRST_ATTRIBUTE, MAX_EID
from store.edn import Vector, show_form
from store.errors import DatalogError, TransactionError, UserError
from store.resolve import CodeSource, ResolvedColumn, ResolvedOp, encode, show_code
from store.txdata import ADD, CAS, RETRACT, RETRACT_ATTRIBUTE, RETRACT_ENTITY
from store.value import Kind, decode_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from store.schema import Attribute, Schema
    from store.snapshot import Snapshot

    Codes = NDArray[np.int64]


@dataclass(slots=True)
class BulkChange:
    """Net changes of one attribute: int64 (n,) each, sorted by (e, v)."""

    attribute: Attribute
    add_e: Codes
    add_v: Codes
    drop_e: Codes = field(default_factory=lambda: EMPTY)
    drop_v: Codes = field(default_factory=lambda: EMPTY)


@dataclass(slots=True)
class Effects:
    """The changes of a transaction: rows (e, aid, v, added) with retractions first, or bulk columns."""

    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    bulk: list[BulkChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows) or any(len(b.add_e) or len(b.drop_e) for b in self.bulk)


# ---------------------------------------------------------------------------------------------------------------------
# one after another


class Working:
    """The state that operations work on: value codes of each touched (eid, aid), as they were and as they are."""

    __slots__ = ("_codes", "_fresh_from", "_given", "_refs", "_schema", "_snapshot", "after", "before", "errors")

    def __init__(
        self, snapshot: Snapshot, schema: Schema, codes: CodeSource, first_new_eid: int, errors: list[DatalogError]
    ) -> None:
        self._snapshot = snapshot
        self._schema = schema
        self._codes = codes
        self._fresh_from = first_new_eid  # entities from here on have no datoms yet
        self._given: dict[tuple[int, int], int] = {}  # explicit adds of cardinality one
        self._refs: list[Attribute] | None = None
        self.before: dict[tuple[int, int], tuple[int, ...]] = {}
        self.after: dict[tuple[int, int], dict[int, None]] = {}
        self.errors = errors

    def values(self, e: int, aid: int) -> dict[int, None]:
        """The codes of (e, aid) now."""
        key = (e, aid)
        state = self.after.get(key)
        if state is None:
            found = () if self._fresh_from <= e <= MAX_EID else tuple(self._snapshot.values(e, aid))
            self.before[key] = found
            state = self.after[key] = dict.fromkeys(found)
        return state

    def apply(self, op: ResolvedOp) -> None:
        """Carries out one operation."""
        code, e, attribute, v, place, expect = op
        if code == RETRACT_ENTITY or attribute is None:
            self._retract_entity(e, set())
        elif code == RETRACT_ATTRIBUTE or v is None:
            self.values(e, attribute.aid).clear()
            self._given.pop((e, attribute.aid), None)
        elif code == ADD:
            self.add(e, attribute, v, place)
        elif code == RETRACT:
            self.values(e, attribute.aid).pop(v, None)
            self._given.pop((e, attribute.aid), None)
        elif code == CAS:
            self._compare_and_set(e, attribute, v, place, expect)

    def add(self, e: int, attribute: Attribute, v: int, place: int) -> None:
        """Asserts one datom."""
        state = self.values(e, attribute.aid)
        if not attribute.many:
            key = (e, attribute.aid)
            given = self._given.get(key)
            if given is not None and given != v:
                self.errors.append(
                    TransactionError(
                        "tx/contradiction",
                        f"Entity {e} cannot have two values of {attribute.ident}, which has cardinality one: "
                        f"{self.show(attribute, given)} and {self.show(attribute, v)}. In form {place + 1}.",
                        hint="drop one of them, or declare the attribute with :db/cardinality :db.cardinality/many",
                    )
                )
                return
            self._given[key] = v
            if v not in state:
                state.clear()
        state[v] = None

    def show(self, attribute: Attribute, code: int) -> str:
        """A code as EDN, for messages."""
        return show_code(attribute, code, self._codes)

    def _retract_entity(self, e: int, seen: set[int]) -> None:
        todo = [e]
        while todo:
            e = todo.pop()
            if e in seen or e >= FIRST_ATTRIBUTE:
                continue
            seen.add(e)
            datoms = self._snapshot.entity(e)
            aids = set(datoms.a.tolist()) | {aid for (eid, aid) in self.after if eid == e}
            for aid in aids:
                state = self.values(e, aid)
                attribute = self._schema.by_aid(aid)
                if attribute.component:
                    todo.extend(state)
                if aid != 12 or e <= MAX_EID:  # a transaction keeps its :db/txInstant
                    state.clear()
                self._given.pop((e, aid), None)
            if self._refs is None:
                self._refs = [a for a in self._schema.all_attributes() if a.is_ref]
            for attribute in self._refs:
                for holder in (
                    self._snapshot.holders(attribute.aid, e) if self._snapshot.schema.has_aid(attribute.aid) else []
                ):
                    self.values(holder, attribute.aid).pop(e, None)
                    self._given.pop((holder, attribute.aid), None)
                for (eid, aid), state in self.after.items():
                    if aid == attribute.aid and e in state:
                        del state[e]
                        self._given.pop((eid, aid), None)

    def _compare_and_set(self, e: int, attribute: Attribute, v: int, place: int, expect: int | None) -> None:
        state = self.values(e, attribute.aid)
        matches = expect in state if expect is not None else not state
        if not matches:
            found = ", ".join(self.show(attribute, held) for held in state) or "no value"
            wanted = self.show(attribute, expect) if expect is not None else "no value"
            self.errors.append(
                TransactionError(
                    "tx/cas",
                    f":db/cas failed: entity {e} has {found} of {attribute.ident}, not {wanted}. In form {place + 1}.",
                    hint="read the entity again, and repeat with what it holds now",
                    data={"e": e, "attribute": attribute.ident},
                )
            )
            return
        if expect is not None:
            del state[expect]
        elif not attribute.many:
            state.clear()
        state[v] = None
        self._given[e, attribute.aid] = v

    # -- composite tuples

    def fill_composites(self) -> None:
        """Brings the composite tuples of touched entities up to date."""
        composites = self._schema.composites
        if not composites:
            return
        touched: dict[tuple[int, int], Attribute] = {}
        for e, aid in list(self.after):
            for composite in composites.get(aid, ()):
                touched[e, composite.aid] = composite
            attribute = self._schema.by_aid(aid)
            if attribute.tuple_attrs:
                touched[e, aid] = attribute
        for (e, aid), composite in touched.items():
            state = self.values(e, aid)
            given = self._given.get((e, aid))
            member_codes = []
            for ident in composite.tuple_attrs:
                source = self._schema.find(ident)
                held = list(self.values(e, source.aid)) if source is not None else []
                member_codes.append((source, held[0]) if held else None)
            state.clear()
            if any(m is not None for m in member_codes):
                members = [None if m is None else self._value(m[0], m[1]) for m in member_codes]
                code = self._codes.encode(Vector(members))
                state[code] = None
                if given is not None and given != code:
                    self.errors.append(
                        TransactionError(
                            "tx/composite",
                            f"Entity {e}: {composite.ident} is made of {', '.join(composite.tuple_attrs)}, which give "
                            f"{show_form(Vector(members))}, not {self.show(composite, given)}.",
                            hint="set the attributes it is made of; the tuple follows",
                        )
                    )
            elif given is not None:
                self._spread_composite(e, composite, given, state)

    def _spread_composite(self, e: int, composite: Attribute, given: int, state: dict[int, None]) -> None:
        self.errors.append(
            TransactionError(
                "tx/composite",
                f"Entity {e}: {composite.ident} is made of {', '.join(composite.tuple_attrs)}; "
                f"it cannot be set by itself to {self.show(composite, given)}.",
                hint="set the attributes it is made of; the tuple follows",
            )
        )
        state.clear()

    def _value(self, attribute: Attribute | None, code: int) -> Any:
        assert attribute is not None
        return self._codes.decode(code) if attribute.kind is Kind.INTERNED else decode_one(attribute.kind, code)

    # -- the result

    def effects(self) -> Effects:
        """The net changes, retractions first; uniqueness violations are added to `errors`."""
        retracts: list[tuple[int, int, int, int]] = []
        adds: list[tuple[int, int, int, int]] = []
        unique: list[tuple[int, Attribute, int]] = []
        for (e, aid), state in self.after.items():
            before = self.before[e, aid]
            if not before:
                if not state:
                    continue
                adds.extend((e, aid, v, 1) for v in state)
                new = list(state)
            else:
                retracts.extend((e, aid, v, 0) for v in before if v not in state)
                new = [v for v in state if v not in before]
                adds.extend((e, aid, v, 1) for v in new)
            attribute = self._schema.by_aid(aid)
            if attribute.unique is not None:
                unique.extend((e, attribute, v) for v in new)
        if unique:
            self._check_unique(unique)
        return Effects(rows=retracts + adds)

    def _check_unique(self, added: list[tuple[int, Attribute, int]]) -> None:
        seen: dict[tuple[int, int], int] = {}
        for e, attribute, v in added:
            if attribute.tuple_attrs and None in self._value(attribute, v):
                continue  # a partial composite is not unique
            aid = attribute.aid
            other = seen.setdefault((aid, v), e)
            if other == e:
                holders = self._snapshot.holders(aid, v) if self._snapshot.schema.has_aid(aid) else []
                other = next((h for h in holders if h != e and v in self.values(h, aid)), e)
            if other != e:
                self.errors.append(not_unique(attribute, self.show(attribute, v), other, e))


def not_unique(attribute: Attribute, shown: str, holder: int, e: int) -> TransactionError:
    """The error for a unique value that two entities would have."""
    return TransactionError(
        "tx/unique",
        f"{attribute.ident} {shown} is unique; entity {holder} has it, entity {e} cannot have it too.",
        hint=f"use entity {holder}, retract its value in the same transaction, or give another value",
        data={"attribute": attribute.ident, "holder": holder, "e": e},
    )


def apply_ops(
    ops: list[ResolvedOp],
    snapshot: Snapshot,
    schema: Schema,
    codes: CodeSource,
    first_new_eid: int,
    errors: list[DatalogError],
) -> Effects:
    """The effects of operations, in their order; faults are added to `errors`."""
    working = Working(snapshot, schema, codes, first_new_eid, errors)
    for op in ops:
        working.apply(op)
    working.fill_composites()
    return working.effects()


# ---------------------------------------------------------------------------------------------------------------------
# batches


def apply_columns(
    columns: list[ResolvedColumn],
    snapshot: Snapshot,
    schema: Schema,
    codes: CodeSource,
    first_new_eid: int,
    errors: list[DatalogError],
) -> Effects:
    """The effects of a batch of adds; faults are added to `errors`. The same result as `apply_ops`, over arrays."""
    touched = {c.attribute.aid for c in columns}
    if touched & set(schema.composites) or any(c.attribute.tuple_attrs for c in columns):
        ops: list[ResolvedOp] = [
            (ADD, e, c.attribute, v, 0, None) for c in columns for e, v in zip(c.e.tolist(), c.v.tolist(), strict=True)
        ]
        return apply_ops(ops, snapshot, schema, codes, first_new_eid, errors)
    effects = Effects()
    for attribute, e, v in columns:
        change = _change_of(attribute, e, v, snapshot, first_new_eid, codes, errors)
        if change is not None:
            effects.bulk.append(change)
    return effects


def _change_of(
    attribute: Attribute,
    e: Codes,
    v: Codes,
    snapshot: Snapshot,
    first_new_eid: int,
    codes: CodeSource,
    errors: list[DatalogError],
) -> BulkChange | None:
    order = order_rows(e, v)
    if order is not None:
        e, v = e[order], v[order]
    same_e = e[1:] == e[:-1]
    if bool(same_e.any()):
        repeated = same_e & (v[1:] == v[:-1])
        keep = np.concatenate(([True], ~repeated))
        e, v = e[keep], v[keep]
        if not attribute.many:
            twice = np.flatnonzero(e[1:] == e[:-1])
            for i in twice[:20].tolist():
                first, second = (show_code(attribute, int(v[j]), codes) for j in (i, i + 1))
                errors.append(
                    TransactionError(
                        "tx/contradiction",
                        f"Entity {int(e[i])} cannot have two values of {attribute.ident}, which has cardinality one: "
                        f"{first} and {second}.",
                        hint="drop one of them, or declare the attribute with :db/cardinality :db.cardinality/many",
                    )
                )
            if len(twice):
                return None
    drop_e, drop_v = EMPTY, EMPTY
    if snapshot.schema.has_aid(attribute.aid) and snapshot.count(attribute.aid) and int(e[0]) < first_new_eid:
        old = int(np.searchsorted(e, first_new_eid))
        rows, found = snapshot.gather(attribute.aid, e[:old])[:2]
        if len(rows):
            e, v, drop_e, drop_v = _against_old(attribute, e, v, rows, found)
    if attribute.unique is not None and len(e):
        _check_unique_column(attribute, e, v, drop_e, drop_v, snapshot, codes, errors)
    return BulkChange(attribute, e, v, drop_e, drop_v)


def _against_old(
    attribute: Attribute, e: Codes, v: Codes, rows: Codes, found: Codes
) -> tuple[Codes, Codes, Codes, Codes]:
    """Adds that are new, and for cardinality one the old values that they replace."""
    if attribute.many:
        old_e = e[rows]
        order = order_rows(old_e, found)
        if order is not None:
            old_e, found = old_e[order], found[order]
        keep = ~contains(old_e, found, e, v)
        return e[keep], v[keep], EMPTY, EMPTY
    same = v[rows] == found
    keep = np.ones(len(e), dtype=bool)
    keep[rows[same]] = False
    drop_e, drop_v = e[rows[~same]], found[~same]
    return e[keep], v[keep], drop_e, drop_v


def _check_unique_column(
    attribute: Attribute,
    e: Codes,
    v: Codes,
    drop_e: Codes,
    drop_v: Codes,
    snapshot: Snapshot,
    codes: CodeSource,
    errors: list[DatalogError],
) -> None:
    order = order_rows(v, e)
    by_v, by_e = (v, e) if order is None else (v[order], e[order])
    twice = np.flatnonzero(by_v[1:] == by_v[:-1])
    errors.extend(
        not_unique(attribute, show_code(attribute, int(by_v[i]), codes), int(by_e[i]), int(by_e[i + 1]))
        for i in twice[:20].tolist()
    )
    if not snapshot.schema.has_aid(attribute.aid) or not snapshot.count(attribute.aid):
        return
    rows, holders = snapshot.lookup(attribute.aid, by_v)[:2]
    if len(rows) == 0:
        return
    order = order_rows(drop_e, drop_v)
    dropped = contains(*((drop_e, drop_v) if order is None else (drop_e[order], drop_v[order])), holders, by_v[rows])
    for i in np.flatnonzero((holders != by_e[rows]) & ~dropped)[:20].tolist():
        row = int(rows[i])
        errors.append(
            not_unique(attribute, show_code(attribute, int(by_v[row]), codes), int(holders[i]), int(by_e[row]))
        )


__all__ = ["BulkChange", "Effects", "UserError", "Working", "apply_columns", "apply_ops", "encode"]
