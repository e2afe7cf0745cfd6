"""Schema changes: definitions -> a new schema, the datoms that say it, and what it does to data that exists.

A change that existing data does not allow is refused with the offending datoms named, before anything is written. What a
change asks of the data happens in the same commit: an attribute that gets a type has its values recoded, a new composite
tuple is filled, an index is built or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from store.columns import order_rows, order_stable
from store.datom import FIRST_ATTRIBUTE, MAX_AID
from store.edn import Vector, show_form
from store.errors import SchemaError, UserError
from store.resolve import CodeSource, encode, encode_column, show_code
from store.schema import (
    BUILTINS,
    FIRST_USER_AID,
    IDENT,
    Attribute,
    Schema,
    change_attribute,
    properties,
    read_ident,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from store.snapshot import Snapshot

_PROPERTY_AID = {a.ident: a for a in BUILTINS}


@dataclass(slots=True)
class SchemaChange:
    """A schema change, ready to be written. `rows` are (e, aid, v, added)."""

    schema: Schema
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    data_rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    recoded: set[int] = field(default_factory=set)  # aids whose old codes are of another kind
    build_avet: set[int] = field(default_factory=set)
    drop_avet: set[int] = field(default_factory=set)
    max_aid: int = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.data_rows or self.build_avet or self.drop_avet)


class SchemaChanger:
    """Collects changes to a schema; `finish` gives the `SchemaChange`."""

    def __init__(self, snapshot: Snapshot, max_aid: int, version: int) -> None:
        self._snapshot = snapshot
        self._old = snapshot.schema
        self._version = version
        self._new: dict[int, Attribute] = {}
        self._by_ident: dict[str, int] = {}
        self._dropped: set[int] = set()
        self._max_aid = max_aid

    @property
    def schema(self) -> Schema:
        """The schema with the changes so far."""
        if not self._new and not self._dropped:
            return self._old
        return self._old.with_attributes(self._new.values(), self._version, self._dropped)

    def find(self, ident: str) -> Attribute | None:
        """The attribute of this ident with the changes so far, or None."""
        aid = self._by_ident.get(ident)
        if aid is not None:
            return self._new[aid]
        found = self._old.find(ident)
        if found is None or found.aid in self._dropped:
            return None
        changed = self._new.get(found.aid)
        if changed is not None:
            return changed if changed.ident == ident else None
        return found

    def define(self, ident: str, changes: Mapping[str, Any]) -> Attribute:
        """Declares an attribute, or changes one that exists."""
        found = self.find(ident)
        if found is not None and found.system:
            raise SchemaError("schema/built-in", f"{ident} is built in and cannot be changed.")
        if found is None:
            if ident.startswith((":db/", ":db.")):
                raise SchemaError(
                    "schema/reserved", f"{ident} cannot be declared: the names :db/... are the database's own.",
                    hint="use a namespace of your own",
                )  # fmt: skip
            found = self._create(ident, declared=True)
        changed = change_attribute(found, changes)
        self._put(changed)
        return changed

    def create_undeclared(self, ident: str) -> Attribute:
        """A new attribute without a declaration, for databases that are not strict."""
        if ident.startswith((":db/", ":db.")):
            raise SchemaError(
                "schema/reserved", f"{ident} is not an attribute: the names :db/... are the database's own."
            )
        created = self._create(ident, declared=False)
        self._put(created)
        return created

    def _create(self, ident: str, *, declared: bool) -> Attribute:
        if self._max_aid >= MAX_AID:
            raise SchemaError("schema/too-many", f"A database has at most {MAX_AID} attributes.")
        if len(ident.encode()) > 400:
            raise SchemaError("schema/ident", f"The name {ident[:60]}... is too long: at most 400 bytes.")
        self._max_aid += 1
        return Attribute(aid=max(self._max_aid, FIRST_USER_AID), ident=ident, declared=declared)

    def _put(self, attribute: Attribute) -> None:
        self._new[attribute.aid] = attribute
        self._by_ident[attribute.ident] = attribute.aid
        self._max_aid = max(self._max_aid, attribute.aid)

    def rename(self, old: str, new: str) -> None:
        """Gives an attribute another name; its id, and so its datoms, stay."""
        found = self.find(old)
        if found is None:
            raise self._unknown(old)
        if found.system or new.startswith((":db/", ":db.")):
            raise SchemaError(
                "schema/built-in", f"{old} cannot be renamed to {new}: :db/... names are the database's own."
            )
        if self.find(new) is not None:
            raise SchemaError(
                "schema/exists", f"{old} cannot be renamed: {new} exists already.", hint="choose another name"
            )
        self._by_ident.pop(old, None)
        self._put(replace(found, ident=new))
        for other in self.schema.user_attributes():
            if old in other.tuple_attrs:
                self._put(replace(other, tuple_attrs=tuple(new if i == old else i for i in other.tuple_attrs)))

    def delete(self, ident: str) -> None:
        """Removes an attribute that no datom uses."""
        found = self.find(ident)
        if found is None:
            raise self._unknown(ident)
        if found.system:
            raise SchemaError("schema/built-in", f"{ident} is built in and cannot be deleted.")
        count = self._snapshot.count(found.aid)
        if count:
            columns = self._snapshot.columns(found.aid)
            raise SchemaError(
                "schema/in-use",
                f"{ident} cannot be deleted: {count} datoms use it, of the entities {_some(columns.e)}.",
                hint=f"retract them first: [:db/retract e {ident}]",
                data={"entities": columns.e[:20].tolist()},
            )
        for other in self.schema.user_attributes():
            if ident in other.tuple_attrs:
                raise SchemaError("schema/in-use", f"{ident} cannot be deleted: the tuple {other.ident} is made of it.")
        self._new.pop(found.aid, None)
        self._by_ident.pop(ident, None)
        self._dropped.add(found.aid)

    def _unknown(self, ident: str) -> SchemaError:
        near = self._old.nearest(ident)
        return SchemaError(
            "schema/unknown-attribute",
            f"There is no attribute {ident}.",
            hint=f"did you mean {near}?" if near else None,
        )

    def changed(self) -> set[int]:
        """The ids of existing attributes that are another than before."""
        return {a.aid for a in self._new.values() if self._old.has_aid(a.aid) and self._old.by_aid(a.aid) != a}

    # -- the result

    def finish(self, codes: CodeSource) -> SchemaChange:
        """The change, checked against the data."""
        change = SchemaChange(self.schema, max_aid=self._max_aid)
        for attribute in self._new.values():
            old = self._old.by_aid(attribute.aid) if self._old.has_aid(attribute.aid) else None
            if old == attribute:
                continue
            change.rows.extend(_schema_rows(old, attribute, codes))
            if old is None:
                continue
            if self._snapshot.count(attribute.aid):
                self._check_data(old, attribute)
                self._change_type(old, attribute, change, codes)
            if attribute.indexed and not old.indexed:
                change.build_avet.add(attribute.aid)
            elif old.indexed and not attribute.indexed:
                change.drop_avet.add(attribute.aid)
        for composite in self.schema.user_attributes():
            if composite.tuple_attrs:
                self._follow_members(composite, change, codes)
        for aid in self._dropped:
            change.rows.extend(_schema_rows(self._old.by_aid(aid), None, codes))
        return change

    def _follow_members(self, composite: Attribute, change: SchemaChange, codes: CodeSource) -> None:
        """Checks and fills a composite that is new, or whose attributes changed; a rename changes nothing."""
        members = [self.find(ident) for ident in composite.tuple_attrs]
        touched = composite.aid in self._new or any(m is None or m.aid in self._new for m in members)
        if not touched:
            return
        self._check_tuple_attrs(composite)
        old = self._old.by_aid(composite.aid) if self._old.has_aid(composite.aid) else None
        before = [self._old.find(ident) for ident in old.tuple_attrs] if old is not None else []
        same = [m.aid for m in members if m is not None] == [m.aid for m in before if m is not None]
        if not same or any(m is not None and m.aid in change.recoded for m in members):
            self._fill_composite(old, composite, change, codes)

    def _check_tuple_attrs(self, attribute: Attribute) -> None:
        for ident in attribute.tuple_attrs:
            source = self.find(ident)
            if source is None:
                raise SchemaError(
                    "schema/tuple",
                    f"{attribute.ident}: :db/tupleAttrs names {ident}, which is not declared.",
                    hint="declare it before, or in the same schema",
                )
            if source.many or source.tuple_attrs:
                raise SchemaError(
                    "schema/tuple",
                    f"{attribute.ident}: {ident} cannot be part of a tuple: "
                    + ("it has cardinality many." if source.many else "it is a composite tuple itself."),
                )

    def _check_data(self, old: Attribute, new: Attribute) -> None:
        columns = self._snapshot.columns(new.aid)
        if old.many and not new.many:
            twice = np.flatnonzero(columns.e[1:] == columns.e[:-1])
            if len(twice):
                raise SchemaError(
                    "schema/cardinality",
                    f"{new.ident} cannot become :db.cardinality/one: entities have several values of it: "
                    f"{_some(columns.e[twice])}.",
                    hint="retract all but one value of each",
                    data={"entities": sorted(set(columns.e[twice].tolist()))[:20]},
                )
        if new.unique is not None and old.unique is None:
            order = order_stable(columns.v)
            v, e = columns.v[order], columns.e[order]
            twice = np.flatnonzero(v[1:] == v[:-1])
            if len(twice):
                shown = ", ".join(
                    f"[{int(e[i])} {new.ident} {self._show(old, int(v[i]))}] and [{int(e[i + 1])} ...]"
                    for i in twice[:5].tolist()
                )
                raise SchemaError(
                    "schema/unique",
                    f"{new.ident} cannot become unique: {len(twice)} values are held by several entities: {shown}.",
                    hint="change or retract the doubles first",
                    data={"entities": e[twice][:20].tolist()},
                )

    def _show(self, attribute: Attribute, code: int) -> str:
        return show_code(attribute, code, self._snapshot.codes())

    def _change_type(self, old: Attribute, new: Attribute, change: SchemaChange, codes: CodeSource) -> None:
        """Recodes the values of an attribute that gets another type; equal values of one entity become one datom."""
        if old.type == new.type and (old.tuple_types, old.tuple_type) == (new.tuple_types, new.tuple_type):
            return
        columns = self._snapshot.columns(new.aid)
        values = self._snapshot.decode(old, columns.v)
        coerced = self._coerce_all(new, columns.e.tolist(), values)
        recoded = encode_column(new, coerced, codes)
        if old.kind is new.kind and np.array_equal(recoded, columns.v):
            return
        change.recoded.add(new.aid)
        before = list(zip(columns.e.tolist(), columns.v.tolist(), strict=True))
        after = list(dict.fromkeys(zip(columns.e.tolist(), recoded.tolist(), strict=True)))
        if new.unique is not None:
            holder: dict[int, int] = {}
            for e, v in after:
                if holder.setdefault(v, e) != e:
                    raise SchemaError(
                        "schema/unique",
                        f"{new.ident} is unique; as :db.type/{new.type} the entities {holder[v]} and {e} would hold one value.",
                        hint="change or retract one of them first",
                        data={"entities": [holder[v], e]},
                    )
        if old.kind is new.kind:  # codes of one space: what stays is no change
            kept = set(before) & set(after)
            before = [row for row in before if row not in kept]
            after = [row for row in after if row not in kept]
        change.data_rows.extend((e, new.aid, v, 0) for e, v in before)
        change.data_rows.extend((e, new.aid, v, 1) for e, v in after)

    def _coerce_all(self, new: Attribute, eids: list[int], values: list[Any]) -> list[Any]:
        coerced: list[Any] = []
        bad: list[str] = []
        bad_eids: list[int] = []
        for e, value in zip(eids, values, strict=True):
            try:
                coerced.append(new.coerce(value))
            except UserError:
                bad.append(f"[{e} {new.ident} {show_form(value)}]")
                bad_eids.append(e)
        if bad:
            raise SchemaError(
                "schema/type",
                f"{new.ident} cannot get the type :db.type/{new.type}: {len(bad)} of its datoms do not fit: "
                f"{', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}.",
                hint="change or retract them first",
                data={"entities": bad_eids[:20]},
            )
        return coerced

    def _fill_composite(self, old: Attribute | None, new: Attribute, change: SchemaChange, codes: CodeSource) -> None:
        """The datoms of a composite tuple for all entities that have one of its attributes."""
        snapshot = self._snapshot
        members: list[dict[int, Any]] = []
        for ident in new.tuple_attrs:
            member = self.find(ident)
            if member is None or not self._old.has_aid(member.aid) or not snapshot.count(member.aid):
                members.append({})
                continue
            source = self._old.by_aid(member.aid)
            columns = snapshot.columns(source.aid)
            values = map(member.coerce, snapshot.decode(source, columns.v))
            members.append(dict(zip(columns.e.tolist(), values, strict=True)))
        held: set[tuple[int, int]] = set()
        if old is not None and snapshot.count(old.aid):
            columns = snapshot.columns(old.aid)
            held = set(zip(columns.e.tolist(), columns.v.tolist(), strict=True))
        eids = sorted(set().union(*members)) if members else []
        tuples = [Vector([m.get(e) for m in members]) for e in eids]
        filled = codes.encode_many(list(tuples)) if tuples else np.empty(0, dtype=np.int64)
        if new.unique is not None:
            whole = [i for i, t in enumerate(tuples) if None not in t]
            v, e = filled[whole], np.array(eids, dtype=np.int64)[whole]
            order = order_rows(v, e)
            if order is not None:
                v, e = v[order], e[order]
            twice = np.flatnonzero(v[1:] == v[:-1])
            if len(twice):
                raise SchemaError(
                    "schema/unique",
                    f"{new.ident} cannot be unique: {len(twice)} tuples would be held by several entities, "
                    f"among them {int(e[twice[0]])} and {int(e[twice[0] + 1])}.",
                    hint="change the attributes it is made of first",
                    data={"entities": e[twice][:20].tolist()},
                )
        wanted = set(zip(eids, filled.tolist(), strict=True))
        change.data_rows.extend((e, new.aid, v, 0) for e, v in sorted(held - wanted))
        change.data_rows.extend((e, new.aid, v, 1) for e, v in sorted(wanted - held))


def _schema_rows(old: Attribute | None, new: Attribute | None, codes: CodeSource) -> list[tuple[int, int, int, int]]:
    attribute = new or old
    assert attribute is not None
    e = FIRST_ATTRIBUTE + attribute.aid
    before = _coded(old, codes) if old is not None else {}
    after = _coded(new, codes) if new is not None else {}
    rows = [(e, aid, v, 0) for aid, v in before.items() if after.get(aid) != v]
    rows += [(e, aid, v, 1) for aid, v in after.items() if before.get(aid) != v]
    return rows


def _coded(attribute: Attribute, codes: CodeSource) -> dict[int, int]:
    out = {IDENT: codes.encode(attribute.keyword)}
    for key, value in properties(attribute).items():
        built_in = _PROPERTY_AID[key]
        out[built_in.aid] = encode(built_in, value, codes)
    return out


def _some(eids: Any) -> str:
    distinct = list(dict.fromkeys(eids[:200].tolist()))
    return ", ".join(map(str, distinct[:10])) + (" ..." if len(distinct) > 10 else "")


def read_names(names: Iterable[Any]) -> list[str]:
    """The idents of a list of attribute names."""
    return [read_ident(n) for n in names]
