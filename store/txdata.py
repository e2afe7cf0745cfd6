"""Transactions, stage 1: what the user gave -> flat operations with attributes found and tempids numbered.

Takes EDN forms or Python data: maps (nested, with reverse attributes), vectors (`:db/add`, `:db/retract`, ...), datoms.
Gives an `Expansion`: operations in order, or, for a large batch of plain maps, columns for each attribute. In both an
entity is an integer: an eid from 1 on, or a *node*, -1 - (its place in `nodes`), for an entity that resolve.py will find or
create. Lookup refs and idents that exist are looked up here; a lookup ref that does not may name an entity of this very
transaction and becomes a node.

Forms are not looked at again after this stage. Faults are collected, so that they can be mended together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from store.datom import END_OF_EIDS, FIRST_ATTRIBUTE, Datom
from store.edn import Keyword, Map, Set, Symbol, read_edn, show_form
from store.errors import DatalogError, SchemaError, TransactionError, UserError, nearest
from store.schema import MEANING_AIDS, SCHEMA_AIDS, Attribute, read_ident
from store.value import show_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from store.schema import Schema
    from store.snapshot import Snapshot

ADD, RETRACT, RETRACT_ATTRIBUTE, RETRACT_ENTITY, CAS = range(5)
MOST_ERRORS: Final = 20
BATCH: Final = 256  # from this many maps on, columns pay

_OPERATIONS: Final = {
    ":db/add": "add",
    ":db/retract": "retract",
    ":db/retractEntity": "retract_entity",
    ":db.fn/retractEntity": "retract_entity",
    ":db/retractAttribute": "retract_attribute",
    ":db.fn/retractAttribute": "retract_attribute",
    ":db/cas": "cas",
    ":db.fn/cas": "cas",
    ":db.fn/call": "call",
}
CURRENT_TX: Final = frozenset((":db/current-tx", "db/current-tx", "datomic.tx", "datascript.tx"))


# One flat operation: code, e, attribute, v (a Python value, or an entity for a ref), place of the form in tx_data, and the
# old value of a CAS. A bare tuple: making a NamedTuple costs ten times as much, and there is one for every datom.
Op = tuple[int, int, "Attribute | None", Any, int, Any]


@dataclass(slots=True)
class Node:
    """An entity to be found or created: a tempid of the user, an entity without id, or a lookup ref."""

    name: Any  # int or str tempid, None for an entity without id
    lookup: tuple[Attribute, Any] | None = None
    as_entity: bool = False  # has it been used in entity position?
    place: int = 0


@dataclass(slots=True)
class AttributeColumn:
    """Adds of one attribute: entities (eids and nodes) and values, one for each datom."""

    attribute: Attribute
    es: list[int] = field(default_factory=list)
    vs: list[Any] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Expansion:
    """The result of this stage. `columns` is used instead of `ops` for a batch of plain adds."""

    tx: int
    ops: list[Op] = field(default_factory=list)
    columns: dict[int, AttributeColumn] | None = None
    nodes: list[Node] = field(default_factory=list)
    by_name: dict[Any, int] = field(default_factory=dict)
    definitions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    errors: list[DatalogError] = field(default_factory=list)
    uses_tx: bool = False


def read_tx_data(tx_data: Any) -> list[Any]:
    """The forms of a transaction given as EDN text, a list of forms, or one map.

    Raises:
        TransactionError: `tx/form` when it is none of these; EdnError for text that is not EDN.
    """
    if type(tx_data) is list and tx_data and type(tx_data[0]) in (dict, list, tuple):
        return tx_data
    if isinstance(tx_data, str):
        tx_data = read_edn(tx_data)
    if isinstance(tx_data, dict | Map):
        return [tx_data]
    if isinstance(tx_data, Datom):
        return [tx_data]
    if isinstance(tx_data, list | tuple):
        if tx_data and isinstance(tx_data[0], str | Keyword) and str(tx_data[0]) in _OPERATIONS:
            raise TransactionError(
                "tx/form",
                f"{_show(tx_data)} is one operation, not a list of them.",
                hint="put it into a list: [[:db/add ...]]",
            )
        return tx_data if isinstance(tx_data, list) else list(tx_data)
    if isinstance(tx_data, str | bytes | int | float | bool | None | Keyword | Symbol):
        raise TransactionError(
            "tx/form",
            f"A transaction cannot be {_show(tx_data)}.",
            expected="EDN text, or a list of maps and operations",
        )
    if hasattr(tx_data, "__iter__"):
        return list(tx_data)
    raise TransactionError(
        "tx/form", f"A transaction cannot be {_show(tx_data)}.", expected="a list of maps and operations"
    )


def _show(form: Any) -> str:
    try:
        return show_form(form)
    except DatalogError:
        return show_python(form)


def _empty_map() -> TransactionError:
    return TransactionError("tx/empty-map", "An empty map says nothing.", hint="give it attributes, or leave it out")


def raise_collected(errors: list[DatalogError]) -> None:
    """Raises the faults that were found, several as one error that lists them (at most 20)."""
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    lines = [
        f"  {i + 1}. {e.message}" + (f" Mend: {e.hint}." if e.hint else "") for i, e in enumerate(errors[:MOST_ERRORS])
    ]
    if len(errors) > MOST_ERRORS:
        lines.append(f"  and {len(errors) - MOST_ERRORS} more")
    codes = {e.code for e in errors}
    kind = type(errors[0]) if len({type(e) for e in errors}) == 1 else TransactionError
    raise kind(
        errors[0].code if len(codes) == 1 else "tx/several",
        f"{len(errors)} things are wrong with this transaction; nothing was written.\n" + "\n".join(lines),
        data={"errors": errors},
    )


class Expander:
    """Turns forms into an `Expansion`; one for each transaction."""

    def __init__(
        self,
        snapshot: Snapshot,
        schema: Schema,
        tx: int,
        attribute_of: Callable[[str], Attribute],
        call: Callable[[Any, list[Any]], Iterable[Any]],
    ) -> None:
        self._snapshot = snapshot
        self._schema = schema
        self._attribute_of = attribute_of  # finds or, without a strict schema, creates
        self._call = call
        self._idents = schema.by_name()
        self._reverse: dict[Any, Attribute] = {}
        self.out = Expansion(tx=tx)
        self._place = 0
        self._depth = 0

    def expand(self, forms: list[Any]) -> Expansion:
        """The expansion of all forms.

        Raises:
            TransactionError, SchemaError: with all faults that were found.
        """
        out = self.out
        if len(forms) >= BATCH and all(type(f) is dict or type(f) is Map for f in forms):
            out.columns = {}
        for place, form in enumerate(forms):
            self._place = place
            try:
                self._form(form)
            except UserError as e:
                out.errors.append(self._placed(e, form))
                if len(out.errors) > 1000:
                    break
        return out

    def _placed(self, error: DatalogError, form: Any) -> DatalogError:
        message = f"{error.message} In form {self._place + 1}: {_show(form)}"
        if isinstance(error, TransactionError | SchemaError):
            error.message = message
            return type(error)(error.code, message, expected=error.expected, hint=error.hint, data=error.data)
        return TransactionError(error.code, message, expected=error.expected, hint=error.hint, data=error.data)

    def _form(self, form: Any) -> None:
        if isinstance(form, dict | Map):
            self._map(form)
        elif isinstance(form, Datom):
            self._datom(form)
        elif isinstance(form, list | tuple) and form:
            self._vector(form)
        elif form is None:
            return
        else:
            raise TransactionError(
                "tx/form", f"{_show(form)} is no operation.", expected="a map, or a vector such as [:db/add e a v]"
            )

    # -- vectors

    def _vector(self, form: Any) -> None:
        head = form[0]
        name = str(head) if isinstance(head, str | Keyword) else None
        operation = _OPERATIONS.get(name or "")
        if operation is None:
            near = nearest(name, list(_OPERATIONS)) if name else None
            raise TransactionError(
                "tx/operation",
                f"{_show(head)} is no operation.",
                expected=", ".join(sorted(_OPERATIONS)),
                hint=f"did you mean {near}?" if near else None,
            )
        getattr(self, f"_op_{operation}")(form)

    @staticmethod
    def _arity(form: Any, *sizes: int) -> None:
        if len(form) - 1 not in sizes:
            wanted = " or ".join(str(s) for s in sizes)
            raise TransactionError(
                "tx/arity",
                f"{_show(form[0])} takes {wanted} arguments, here are {len(form) - 1}.",
                hint="see docs/transactions.md",
            )

    def _op_add(self, form: Any) -> None:
        self._arity(form, 3)
        attribute = self._attribute(form[2])
        e = self._entity(form[1])
        self._add(e, attribute, form[3])

    def _op_retract(self, form: Any) -> None:
        self._arity(form, 2, 3)
        attribute = self._attribute(form[2])
        e = self._existing(form[1])
        if e is None:
            return
        if self._is_schema(e, attribute):
            self._define_by_eid(e, {attribute.ident: None})
        elif len(form) == 3:
            self._emit(RETRACT_ATTRIBUTE, e, attribute, None)
        else:
            v = form[3]
            if attribute.is_ref:
                v = self._existing(v)
                if v is None:
                    return
            self._emit(RETRACT, e, attribute, v)

    def _op_retract_attribute(self, form: Any) -> None:
        self._arity(form, 2)
        attribute = self._attribute(form[2])
        e = self._existing(form[1])
        if e is not None:
            self._emit(RETRACT_ATTRIBUTE, e, attribute, None)

    def _op_retract_entity(self, form: Any) -> None:
        self._arity(form, 1)
        e = self._existing(form[1])
        if e is None:
            return
        if e >= FIRST_ATTRIBUTE:
            raise TransactionError(
                "tx/retract-attribute",
                f"{_show(form[1])} is an attribute.",
                hint='delete attributes with conn.update_schema(delete=[":ns/name"])',
            )
        self._emit(RETRACT_ENTITY, e, None, None)

    def _op_cas(self, form: Any) -> None:
        self._arity(form, 4)
        attribute = self._attribute(form[2])
        e = self._entity(form[1])
        old, new = form[3], form[4]
        if attribute.is_ref:
            old = None if old is None else self._ref(old)
            new = self._ref(new)
        self._emit(CAS, e, attribute, new, old)

    def _op_call(self, form: Any) -> None:
        if len(form) < 2:
            raise TransactionError("tx/arity", ":db.fn/call needs a function.", expected="[:db.fn/call f & args]")
        if self._depth > 20:
            raise TransactionError("tx/call-depth", "Transaction functions call each other more than 20 deep.")
        produced = self._call(form[1], list(form[2:]))
        self._depth += 1
        try:
            for inner in read_tx_data(produced if produced is not None else []):
                self._form(inner)
        finally:
            self._depth -= 1

    def _datom(self, form: Datom) -> None:
        attribute = self._attribute(form.a)
        if form.added:
            self._add(self._entity(form.e), attribute, form.v)
        else:
            self._emit(RETRACT, form.e, attribute, form.v)

    # -- maps

    def _map(self, form: Any) -> None:
        if ":db/ident" in form or _IDENT in form:
            names = {str(k): v for k, v in form.items()}
            if self._is_definition(names):
                ident = names.pop(":db/ident")
                names.pop(":db/id", None)
                self._define(ident, names)
                return
        columns = self.out.columns
        if columns is None or self._depth:
            self._entity_map(form)
            return
        # the batch path: one short step for each plain value of a plain attribute
        idents = self._idents
        place = self._place
        raw_id = form.get(":db/id")
        if raw_id is None and type(form) is not dict:
            raw_id = form.get(_DB_ID)
        if not form:
            raise _empty_map()
        e = self._new_node(None) if raw_id is None else self._entity(raw_id)
        for key, value in form.items():
            attribute = idents.get(key)
            if attribute is not None and attribute.plain:
                column = columns.get(attribute.aid)
                if column is None:
                    column = columns[attribute.aid] = AttributeColumn(attribute)
                if not attribute.many or type(value) in _SCALARS:
                    column.es.append(e)
                    column.vs.append(value)
                    column.places.append(place)
                    continue
            self._entry(e, key, value)

    def _is_definition(self, names: dict[str, Any]) -> bool:
        for name in names:
            attribute = self._schema.find(name)
            if attribute is not None and attribute.aid in MEANING_AIDS:
                return True
        ident = names[":db/ident"]
        found = self._schema.find(str(ident)) if isinstance(ident, str | Keyword) else None
        return found is not None and ":db/id" not in names

    def _define(self, ident: Any, properties: dict[str, Any]) -> None:
        unknown = [k for k in properties if k not in _PROPERTY_NAMES]
        if unknown:
            raise SchemaError(
                "schema/key",
                f"{_show(ident)}: {unknown[0]} is not a property of an attribute.",
                expected=", ".join(sorted(_PROPERTY_NAMES)),
            )
        self.out.definitions.append((read_ident(ident), properties))

    def _define_by_eid(self, e: int, properties: dict[str, Any]) -> None:
        attribute = self._schema.by_aid(e - FIRST_ATTRIBUTE)
        self.out.definitions.append((attribute.ident, properties))

    def _is_schema(self, e: int, attribute: Attribute) -> bool:
        return attribute.aid in SCHEMA_AIDS and e >= FIRST_ATTRIBUTE and self._schema.has_aid(e - FIRST_ATTRIBUTE)

    def _entity_map(self, form: Any) -> int:
        raw_id = form.get(":db/id")
        if raw_id is None:
            raw_id = form.get(_DB_ID)
        e = self._new_node(None) if raw_id is None else self._entity(raw_id)
        idents, columns, ops, place = self._idents, self.out.columns, self.out.ops, self._place
        for key, value in form.items():
            attribute = idents.get(key)
            if (
                attribute is not None
                and attribute.plain
                and columns is None
                and (not attribute.many or type(value) in _SCALARS)
            ):
                ops.append((ADD, e, attribute, value, place, None))
            else:
                self._entry(e, key, value)
        if len(form) == (raw_id is not None) and e < 0 and self.out.nodes[-1 - e].name is None:
            raise _empty_map()
        return e

    def _entry(self, e: int, key: Any, value: Any) -> None:
        if key == ":db/id" or key is _DB_ID:
            return
        attribute = self._idents.get(key)
        if attribute is None:
            reverse = self._reverse_of(key)
            if reverse is not None:
                self._reverse_entry(e, reverse, value)
                return
            attribute = self._attribute(key)
        if attribute.many and self._is_collection(attribute, value):
            for member in value:
                self._add(e, attribute, member)
        else:
            self._add(e, attribute, value)

    def _is_collection(self, attribute: Attribute, value: Any) -> bool:
        if isinstance(value, set | frozenset | Set):
            return True
        if not isinstance(value, list | tuple):
            if isinstance(value, str | bytes | dict | Map) or not hasattr(value, "__iter__"):
                return False
            return not isinstance(value, Keyword | Symbol)
        if attribute.is_ref:
            return not self._is_lookup(value)
        if attribute.type == "tuple":
            return all(isinstance(m, list | tuple) for m in value)
        return True

    def _reverse_of(self, key: Any) -> Attribute | None:
        found = self._reverse.get(key)
        if found is not None:
            return found
        text = str(key) if isinstance(key, str | Keyword) else ""
        name = text.rpartition("/")[2] if "/" in text else text[1:]
        if not name.startswith("_") or len(name) < 2 or self._schema.find(text) is not None:
            return None
        straight = f"{text[: len(text) - len(name)]}{name[1:]}"
        attribute = self._attribute_of(straight)
        if not attribute.is_ref:
            raise TransactionError(
                "tx/reverse",
                f"{text} is not allowed: {straight} is not a ref.",
                hint=f"declare {straight} with :db/valueType :db.type/ref",
            )
        self._reverse[key] = attribute
        return attribute

    def _reverse_entry(self, e: int, attribute: Attribute, value: Any) -> None:
        many = isinstance(value, set | frozenset | Set | list | tuple) and not self._is_lookup(value)
        for source in value if many else (value,):
            if isinstance(source, dict | Map):
                self._depth += 1
                try:
                    holder = self._nested(source)
                finally:
                    self._depth -= 1
            else:
                holder = self._entity(source)
            self._emit(ADD, holder, attribute, e)

    def _nested(self, form: Any) -> int:
        if self._depth > 200:
            raise TransactionError("tx/depth", "Maps are nested more than 200 deep.", hint="use tempids instead")
        return self._entity_map(form)

    # -- parts

    def _attribute(self, name: Any) -> Attribute:
        if isinstance(name, Keyword | str):
            text = str(name)
            if len(text) > 1 and text[0] == ":":
                return self._attribute_of(text)
        if isinstance(name, int) and not isinstance(name, bool) and self._schema.has_aid(name - FIRST_ATTRIBUTE):
            return self._schema.by_aid(name - FIRST_ATTRIBUTE)
        raise TransactionError(
            "tx/attribute",
            f"{_show(name)} is not the name of an attribute.",
            expected='a keyword such as :person/name, or the string ":person/name"',
        )

    def _add(self, e: int, attribute: Attribute, value: Any) -> None:
        if attribute.is_ref:
            value = self._ref(value, attribute)
        if self._is_schema(e, attribute):
            self._define_by_eid(e, {attribute.ident: value})
            return
        self._emit(ADD, e, attribute, value)

    def _emit(self, code: int, e: int, attribute: Attribute | None, v: Any, expect: Any = None) -> None:
        columns = self.out.columns
        if columns is not None:
            if code == ADD and attribute is not None:
                column = columns.get(attribute.aid)
                if column is None:
                    column = columns[attribute.aid] = AttributeColumn(attribute)
                column.es.append(e)
                column.vs.append(v)
                column.places.append(self._place)
                return
            raise AssertionError("a batch of maps only adds")
        self.out.ops.append((code, e, attribute, v, self._place, expect))

    def _ref(self, value: Any, attribute: Attribute | None = None) -> int:
        if isinstance(value, dict | Map):
            self._depth += 1
            try:
                return self._nested(value)
            finally:
                self._depth -= 1
        try:
            return self._entity(value, as_entity=False)
        except UserError as e:
            if attribute is not None and e.code == "tx/entity":
                raise TransactionError(
                    "value/wrong-type",
                    f"{_show(value)} is not a value for {attribute.ident}, which refers to entities.",
                    expected="an entity id, a tempid, an ident, a lookup ref, or a nested map",
                ) from e
            raise

    def _is_lookup(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], str | Keyword):
            return False
        if isinstance(value[0], str) and not value[0].startswith(":"):
            return False
        attribute = self._schema.find(str(value[0]))
        return attribute is not None and attribute.unique is not None

    def _entity(self, ref: Any, *, as_entity: bool = True) -> int:
        """The eid or node of an entity reference."""
        kind = type(ref)
        if kind is int:
            if ref > 0:
                if ref >= END_OF_EIDS:
                    raise TransactionError("tx/entity", f"{ref} is beyond the highest entity id, 2^40 - 1.")
                return int(ref)
            if ref < 0:
                return self._node(ref, as_entity=as_entity)
            raise TransactionError(
                "tx/entity", "0 is not an entity id.", expected="an id from 1 on, or a tempid below 0"
            )
        if kind is str:
            if ref in CURRENT_TX:
                self.out.uses_tx = True
                return self.out.tx
            if ref[:1] != ":":
                return self._node(ref, as_entity=as_entity)
        if kind is Keyword and str(ref) in CURRENT_TX:
            self.out.uses_tx = True
            return self.out.tx
        if isinstance(ref, list | tuple) and len(ref) == 2:
            return self._lookup(ref, as_entity=as_entity)
        if kind in (str, Keyword):
            found = self._snapshot.entid(ref)
            if found is None:
                attribute = self._schema.find(str(ref))
                if attribute is not None:
                    return FIRST_ATTRIBUTE + attribute.aid
                return self._ident_node(str(ref), as_entity=as_entity)
            return found
        if hasattr(ref, "eid") and isinstance(ref.eid, int):
            return int(ref.eid)
        if hasattr(ref, "item") and isinstance(ref.item(), int) and not isinstance(ref.item(), bool):
            return self._entity(ref.item(), as_entity=as_entity)
        raise TransactionError(
            "tx/entity",
            f"{_show(ref)} does not name an entity.",
            expected="an entity id, a tempid (negative number or string), an ident, or a lookup ref",
        )

    def _lookup(self, ref: Any, *, as_entity: bool) -> int:
        if not isinstance(ref[0], str | Keyword):
            raise TransactionError(
                "tx/entity", f"{_show(ref)} does not name an entity.", expected="a lookup ref [attribute value]"
            )
        found = self._snapshot.entid(ref)
        if found is not None:
            return found
        attribute = self._attribute(ref[0])
        value = ref[1]
        if value is None:
            raise TransactionError("tx/entity", f"{_show(ref)} looks up nil.", expected="a lookup ref with a value")
        value = self._ref(value) if attribute.is_ref else attribute.coerce(value)
        name = ("lookup", attribute.aid, show_form(value) if not attribute.is_ref else value)
        return self._named_node(name, Node(None, (attribute, value), as_entity, self._place))

    def _ident_node(self, ident: str, *, as_entity: bool) -> int:
        attribute = self._schema.by_aid(1)
        name = ("lookup", 1, ident)
        return self._named_node(name, Node(None, (attribute, Keyword(ident)), as_entity, self._place))

    def _named_node(self, name: Any, node: Node) -> int:
        at = self.out.by_name.get(name)
        if at is None:
            at = len(self.out.nodes)
            self.out.nodes.append(node)
            self.out.by_name[name] = at
        return -1 - at

    def _node(self, name: Any, *, as_entity: bool) -> int:
        at = self.out.by_name.get(name)
        if at is None:
            at = len(self.out.nodes)
            self.out.nodes.append(Node(name, None, as_entity, self._place))
            self.out.by_name[name] = at
        elif as_entity:
            self.out.nodes[at].as_entity = True
        return -1 - at

    def _new_node(self, name: Any) -> int:
        nodes = self.out.nodes
        nodes.append(Node(name, None, True, self._place))
        return -len(nodes)

    def _existing(self, ref: Any) -> int | None:
        """The eid of something to be retracted; None when there is no such entity, for then there is nothing to do."""
        if isinstance(ref, list | tuple) and len(ref) == 2 and isinstance(ref[0], str | Keyword):
            return self._snapshot.entid(ref)
        if isinstance(ref, Keyword) and str(ref) not in CURRENT_TX:
            return self._snapshot.entid(ref)
        e = self._entity(ref)
        if e < 0 and self.out.nodes[-1 - e].lookup is not None:
            return None
        return e


_DB_ID = Keyword("db/id")
_IDENT = Keyword("db/ident")
_SCALARS: Final = frozenset((str, int, float, bool, bytes, Keyword, Symbol, datetime, UUID, Decimal, type(None)))
_PROPERTY_NAMES: Final = frozenset(
    (":db/valueType", ":db/cardinality", ":db/unique", ":db/index", ":db/isComponent", ":db/noHistory", ":db/doc",
     ":db/tupleType", ":db/tupleTypes", ":db/tupleAttrs")
)  # fmt: skip
