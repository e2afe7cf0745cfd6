"""A transaction's checked effects before anything is written: expand, resolve, effects, in one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from store.edn import Keyword
from store.effects import Effects, apply_columns, apply_ops
from store.errors import SchemaError, TransactionError, UserError
from store.resolve import resolve
from store.schema import Attribute, Schema, read_schema, unknown_attribute
from store.schema_change import SchemaChange, SchemaChanger, read_names
from store.txdata import Expander, Expansion, raise_collected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from store.dictionary import NewCodes, OverlayCodes
    from store.snapshot import Snapshot


@dataclass(slots=True)
class Prepared:
    """A checked transaction, ready to be written."""

    before: Snapshot
    tx: int
    effects: Effects
    change: SchemaChange | None
    tempids: dict[Any, int]
    max_eid: int


def define_all(changer: SchemaChanger, definitions: Iterable[tuple[str, Mapping[str, Any]]], errors: list[Any]) -> None:
    """Declares or changes the attributes of a schema; faults are added to `errors`."""
    for ident, props in definitions:
        try:
            changer.define(ident, props)
        except UserError as e:
            errors.append(e)


class SchemaWish(NamedTuple):
    """A schema change as it was asked for, read but not yet checked against a database."""

    renames: list[list[str]]  # pairs old, new
    definitions: list[tuple[str, Any]]
    deletes: list[str]


def read_schema_change(update: Any, delete: Any, rename: Any) -> SchemaWish:
    """The parts of a schema change; SchemaError `schema/form` when one of them has a wrong shape."""
    definitions = read_schema(update)
    renames = {} if rename is None else rename
    if not hasattr(renames, "items"):
        raise SchemaError("schema/form", f"rename is a {type(rename).__name__}, not a map of old names to new ones.",
                          hint='rename={":old/name": ":new/name"}')  # fmt: skip
    if delete is not None and (isinstance(delete, str) or not hasattr(delete, "__iter__")):
        raise SchemaError("schema/form", f"delete is a {type(delete).__name__}, not a list of names.",
                          hint='delete=[":some/name"]')  # fmt: skip
    return SchemaWish([read_names(pair) for pair in renames.items()], definitions, read_names(delete or ()))


def prepare_schema(
    before: Snapshot, wish: SchemaWish, codes: NewCodes | OverlayCodes, tx: int, max_eid: int, max_aid: int
) -> Prepared:
    """The checked effects of a schema change, in this order: rename, update, delete."""
    changer = SchemaChanger(before, max_aid, tx)
    for old, new in wish.renames:
        changer.rename(old, new)
    errors: list[Any] = []
    define_all(changer, wish.definitions, errors)
    raise_collected(errors)
    for name in wish.deletes:
        changer.delete(name)
    return Prepared(before, tx, Effects(), changer.finish(codes), {}, max_eid)


def prepare(
    before: Snapshot,
    forms: list[Any],
    tx_meta: Mapping[Any, Any] | None,
    codes: NewCodes | OverlayCodes,
    tx: int,
    max_eid: int,
    max_aid: int,
    strict: bool | None,
    call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
) -> Prepared:
    """The checked effects of tx data on a snapshot: expand, resolve, apply; raises with all faults."""
    changer = SchemaChanger(before, max_aid, tx)
    errors: list[Any] = []
    if tx_meta is not None and not hasattr(tx_meta, "items"):
        raise TransactionError("tx/meta", f"tx_meta is a {type(tx_meta).__name__}, not a map of attributes to values.",
                               hint='for example {":source/name": "import"}')  # fmt: skip
    if tx_meta:
        forms = [*forms, {**{str(k): v for k, v in tx_meta.items()}, ":db/id": ":db/current-tx"}]
    definitions_seen = False

    def attribute_of(ident: str) -> Attribute:
        found = changer.find(ident)
        if found is not None:
            return found
        strictly = (before.schema.has_declared or definitions_seen) if strict is None else strict
        if strictly:
            raise unknown_attribute(changer.schema, ident)
        return changer.create_undeclared(ident)

    def call_function(f: Any, args: list[Any]) -> Iterable[Any]:
        if call is None:
            raise TransactionError("tx/call", ":db.fn/call cannot be used here.")
        return call(before, f, args)

    # declarations first, so that the same transaction may use them
    schema = before.schema
    expander = Expander(before, schema, tx, attribute_of, call_function)
    declaring = [f for f in forms if _declares(f)]
    if declaring:
        definitions_seen = True
        declared = Expander(before, schema, tx, attribute_of, call_function).expand(declaring)
        errors.extend(declared.errors)
        define_all(changer, declared.definitions, errors)
        forms = [f for f in forms if not _declares(f)]
        schema = changer.schema
        expander = Expander(before, schema, tx, attribute_of, call_function)
    expansion = expander.expand(forms)
    expansion.errors[:0] = errors
    define_all(changer, expansion.definitions, expansion.errors)
    schema = changer.schema
    change: SchemaChange | None = None
    resolved = resolve(expansion, before, codes, max_eid)  # also after faults: it finds the wrong values as well
    raise_collected(expansion.errors)
    if schema is not before.schema:
        change = changer.finish(codes)
        _refuse_mixture(change, changer, expansion, schema)
    faults: list[Any] = []
    first_new = resolved.first_new_eid
    if resolved.columns is not None:
        effects = apply_columns(resolved.columns, before, schema, codes, first_new, faults)
    else:
        effects = apply_ops(resolved.ops, before, schema, codes, first_new, faults)
    raise_collected(faults)
    if expansion.uses_tx:
        for name in (":db/current-tx",):
            resolved.tempids.setdefault(name, tx)
    return Prepared(before, tx, effects, change, resolved.tempids, resolved.max_eid)


def _refuse_mixture(change: SchemaChange, changer: SchemaChanger, expansion: Expansion, schema: Schema) -> None:
    """One transaction may not both change what an attribute's data is and touch that data.

    Declarations given as maps come first, so new attributes may be used at once. But operations are read with the schema
    that they were expanded with, and checked against the data as it was before.
    """
    affected = {row[1] for row in change.data_rows} | change.build_avet | change.drop_avet
    if expansion.definitions:
        affected |= changer.changed()
    for aid in list(affected):
        if schema.has_aid(aid):
            members = [schema.find(ident) for ident in schema.by_aid(aid).tuple_attrs]
            affected.update(member.aid for member in members if member is not None)
    if not affected:
        return
    used = {op[2].aid if op[2] is not None else -1 for op in expansion.ops} | set(expansion.columns or ())
    touched = used & affected or (-1 in used)
    if touched:
        names = [schema.by_aid(a).ident for a in sorted(used & affected) if schema.has_aid(a)]
        raise SchemaError(
            "schema/mixed",
            f"This transaction changes attributes that have data, and touches that data: {', '.join(names) or 'whole entities'}.",
            hint="make the schema change in a transaction of its own, before the others",
        )


_SCHEMA_KEYS: Final = frozenset(
    (":db/valueType", ":db/cardinality", ":db/unique", ":db/index", ":db/isComponent", ":db/noHistory",
     ":db/tupleType", ":db/tupleTypes", ":db/tupleAttrs")
)  # fmt: skip


_DB_IDENT: Final = Keyword("db/ident")


def _declares(form: Any) -> bool:
    if not hasattr(form, "keys") or not (":db/ident" in form or _DB_IDENT in form):
        return False
    return any(str(k) in _SCHEMA_KEYS for k in form)


def all_rows(prepared: Prepared) -> tuple[list[tuple[int, int, int, int]], set[int]]:
    """The rows of schema, recoded data and effects, and the attributes that were recoded."""
    rows: list[tuple[int, int, int, int]] = []
    recoded: set[int] = set()
    if prepared.change is not None:
        rows += prepared.change.rows
        rows += prepared.change.data_rows
        recoded = prepared.change.recoded
    rows += prepared.effects.rows
    return rows, recoded


def bulk_rows(prepared: Prepared) -> list[tuple[int, int, int, int]]:
    """The changes that are columns, as rows (e, aid, v, added)."""
    rows: list[tuple[int, int, int, int]] = []
    for change in prepared.effects.bulk:
        aid = change.attribute.aid
        rows.extend((e, aid, v, 0) for e, v in zip(change.drop_e.tolist(), change.drop_v.tolist(), strict=True))
        rows.extend((e, aid, v, 1) for e, v in zip(change.add_e.tolist(), change.add_v.tolist(), strict=True))
    return rows
