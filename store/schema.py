"""Attributes and the schema: what an attribute may hold, and what a schema change may do to data that exists.

The schema is data: every attribute is an entity (2^41 + aid) with datoms of the built-in attributes below, whose aids
are fixed for ever. A `Schema` is an immutable value computed from those datoms; transactions that touch them give a
new one. Attribute ids never change, so that a rename is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from store.datom import FIRST_ATTRIBUTE
from store.edn import Keyword, Map, Vector, read_edn, show_form
from store.errors import SchemaError, UserError, nearest
from store.value import COERCE, INLINE, KIND_OF_TYPE, TYPES, Kind, check_untyped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from store.snapshot import Snapshot

FIRST_USER_AID = 64


@dataclass(frozen=True, slots=True)
class Attribute:
    """The schema of one attribute. `ident` is ":ns/name"; `type` is "long", "string", ... or None when untyped."""

    aid: int
    ident: str
    type: str | None = None
    many: bool = False
    unique: str | None = None  # "identity" or "value"
    component: bool = False
    index: bool | None = None
    no_history: bool = False
    doc: str | None = None
    tuple_attrs: tuple[str, ...] = ()
    tuple_types: tuple[str, ...] = ()
    tuple_type: str | None = None
    declared: bool = True
    keyword: Keyword = field(init=False, compare=False)
    kind: Kind = field(init=False, compare=False)
    log_kind: int = field(init=False, compare=False)  # the kind as the operation of a log row holds it
    is_ref: bool = field(init=False, compare=False)
    indexed: bool = field(init=False, compare=False)
    system: bool = field(init=False, compare=False)
    plain: bool = field(init=False, compare=False)  # values need no look before they are coerced
    coerce: Callable[[Any], Any] = field(init=False, compare=False, repr=False)  # the value as it is kept, or UserError
    inline: Callable[[Any], int] | None = field(init=False, compare=False, repr=False)  # code of a coerced value

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "keyword", Keyword(self.ident))
        put(self, "kind", KIND_OF_TYPE.get(self.type, Kind.INTERNED))
        put(self, "log_kind", int(self.kind) << 1)
        put(self, "is_ref", self.type == "ref")
        put(self, "indexed", self.index is not False or self.unique is not None or self.type == "ref")
        put(self, "system", self.aid < FIRST_USER_AID)
        put(self, "plain", not (self.is_ref or self.system or self.type == "tuple"))
        put(self, "coerce", self._coerce_tuple if self.type == "tuple" else COERCE.get(self.type or "", check_untyped))
        put(self, "inline", INLINE.get(self.kind))

    def _coerce_tuple(self, value: Any) -> Any:
        coerced = COERCE["tuple"](value)
        self._check_tuple(coerced)
        return coerced

    def _check_tuple(self, value: Vector) -> None:
        types = self.tuple_types or ((self.tuple_type,) * len(value) if self.tuple_type else ())
        if self.tuple_types and len(value) != len(types):
            raise UserError(
                "value/wrong-type",
                f"{show_form(value)} has {len(value)} members, the tuple has {len(types)}.",
                expected=f"a vector of {', '.join(types)}",
            )
        for member, name in zip(value, types, strict=False):
            if member is not None:
                COERCE[name](member)


def _builtin(aid: int, name: str, type_name: str, **more: Any) -> Attribute:
    return Attribute(aid=aid, ident=f":db/{name}", type=type_name, **more)


BUILTINS: tuple[Attribute, ...] = (
    _builtin(1, "ident", "keyword", unique="identity", doc="The name of an entity or attribute."),
    _builtin(2, "valueType", "keyword", doc="The type of an attribute's values, such as :db.type/long."),
    _builtin(3, "cardinality", "keyword", doc=":db.cardinality/one or :db.cardinality/many."),
    _builtin(4, "unique", "keyword", doc=":db.unique/identity (upserts) or :db.unique/value (refuses)."),
    _builtin(5, "index", "boolean", doc="false keeps an attribute out of AVET."),
    _builtin(6, "isComponent", "boolean", doc="true: the entities referred to belong to the one that refers."),
    _builtin(7, "noHistory", "boolean", doc="true: the log does not keep old values."),
    _builtin(8, "doc", "string", doc="What an attribute or entity means."),
    _builtin(9, "tupleType", "keyword", doc="The type of all members of a homogeneous tuple."),
    _builtin(10, "tupleTypes", "tuple", tuple_type="keyword", doc="The types of a heterogeneous tuple's members."),
    _builtin(11, "tupleAttrs", "tuple", tuple_type="keyword", doc="The attributes that a composite tuple is made of."),
    _builtin(12, "txInstant", "instant", doc="When a transaction was committed."),
)
(
    IDENT,
    VALUE_TYPE,
    CARDINALITY,
    UNIQUE,
    INDEX,
    COMPONENT,
    NO_HISTORY,
    DOC,
    TUPLE_TYPE,
    TUPLE_TYPES,
    TUPLE_ATTRS,
    TX_INSTANT,
) = range(1, 13)
SCHEMA_AIDS = frozenset(range(IDENT, TUPLE_ATTRS + 1))
MEANING_AIDS = SCHEMA_AIDS - {IDENT, DOC}  # a map with one of these declares an attribute
PROPERTY_KEYS = {a.ident: a.aid for a in BUILTINS if a.aid in SCHEMA_AIDS}


class Schema:
    """The attributes of a database at one moment, found by ident or aid. Immutable; `version` changes when it does."""

    __slots__ = ("_by_aid", "_by_ident", "composites", "has_declared", "memo", "version")

    def __init__(self, attributes: Iterable[Attribute] = (), version: int = 0) -> None:
        self._by_aid: dict[int, Attribute] = {a.aid: a for a in BUILTINS}
        self._by_aid.update((a.aid, a) for a in attributes)
        self._by_ident: dict[str | Keyword, Attribute] = {}
        for a in self._by_aid.values():
            self._by_ident[a.ident] = a
            self._by_ident[a.keyword] = a
        self.version = version
        self.memo: dict[
            Any, Any
        ] = {}  # what other layers worked out from these attributes, such as parsed pull patterns
        user = self.user_attributes()
        self.has_declared = any(a.declared for a in user)
        # aid of a source attribute -> the composite tuples it is part of
        self.composites: dict[int, tuple[Attribute, ...]] = {}
        for a in user:
            for ident in a.tuple_attrs:
                source = self._by_ident.get(ident)
                if source is not None:
                    self.composites[source.aid] = (*self.composites.get(source.aid, ()), a)

    def find(self, ident: str | Keyword) -> Attribute | None:
        """The attribute of this ident (":ns/name" or Keyword), or None."""
        return self._by_ident.get(ident)

    def by_aid(self, aid: int) -> Attribute:
        """The attribute of this id; KeyError is a fault of ours."""
        return self._by_aid[aid]

    def has_aid(self, aid: int) -> bool:
        """True when an attribute of this id exists."""
        return aid in self._by_aid

    def by_name(self) -> dict[str | Keyword, Attribute]:
        """All attributes by ident, as string and as Keyword; not to be changed."""
        return self._by_ident

    def idents(self) -> list[str]:
        """All idents, built-in ones too, in order of their aids."""
        return [a.ident for _, a in sorted(self._by_aid.items())]

    def user_attributes(self) -> list[Attribute]:
        """The attributes that are not built in, in order of their aids."""
        return [a for aid, a in sorted(self._by_aid.items()) if aid >= FIRST_USER_AID]

    def all_attributes(self) -> list[Attribute]:
        """All attributes, in order of their aids."""
        return [a for _, a in sorted(self._by_aid.items())]

    def nearest(self, ident: str) -> str | None:
        """The known ident nearest to a misspelt one, or None."""
        return nearest(ident, [i for i in self.idents() if isinstance(i, str)])

    def max_aid(self) -> int:
        """The highest attribute id in use."""
        return max(self._by_aid)

    def with_attributes(self, attributes: Iterable[Attribute], version: int, drop: Iterable[int] = ()) -> Schema:
        """This schema with attributes added or replaced, and some dropped."""
        merged = {a.aid: a for a in self.user_attributes()}
        merged.update((a.aid, a) for a in attributes)
        for aid in drop:
            merged.pop(aid, None)
        return Schema(merged.values(), version)

    def as_map(self) -> dict[str, dict[str, Any]]:
        """The user's attributes as a map of ident to properties, as `connect(schema=...)` takes it."""
        return {a.ident: properties(a) for a in self.user_attributes()}


def properties(a: Attribute) -> dict[str, Any]:
    """The schema map of one attribute, without its ident."""
    out: dict[str, Any] = {}
    if a.type:
        out[":db/valueType"] = Keyword(f"db.type/{a.type}")
    if a.declared:
        out[":db/cardinality"] = Keyword("db.cardinality/many" if a.many else "db.cardinality/one")
    if a.unique:
        out[":db/unique"] = Keyword(f"db.unique/{a.unique}")
    if a.index is not None:
        out[":db/index"] = a.index
    if a.component:
        out[":db/isComponent"] = True
    if a.no_history:
        out[":db/noHistory"] = True
    if a.tuple_type:
        out[":db/tupleType"] = Keyword(f"db.type/{a.tuple_type}")
    if a.tuple_types:
        out[":db/tupleTypes"] = Vector(Keyword(f"db.type/{t}") for t in a.tuple_types)
    if a.tuple_attrs:
        out[":db/tupleAttrs"] = Vector(Keyword(i) for i in a.tuple_attrs)
    if a.doc is not None:
        out[":db/doc"] = a.doc
    return out


# ---------------------------------------------------------------------------------------------------------------------
# from maps to attributes


def _keyword_text(value: Any) -> str | None:
    if isinstance(value, Keyword):
        return str(value)
    if isinstance(value, str):
        return value if value.startswith(":") else f":{value}"
    return None


def read_ident(value: Any) -> str:
    """The ident ":ns/name" of a keyword or string in attribute position.

    Raises:
        SchemaError: `schema/ident` when it is neither.
    """
    if isinstance(value, Keyword):
        return str(value)
    if isinstance(value, str) and len(value) > 1 and value[0] == ":":
        return value
    raise SchemaError(
        "schema/ident",
        f"{show_form(value) if not callable(value) else value!r} is not the name of an attribute.",
        expected='a keyword such as :person/name, or the string ":person/name"',
    )


def _one_of(ident: str, key: str, value: Any, prefix: str, allowed: Iterable[str]) -> str:
    allowed = tuple(allowed)
    text = _keyword_text(value)
    name = text[len(prefix) + 2 :] if text is not None and text.startswith(f":{prefix}/") else None
    if prefix == "db.type" and name == "float":
        name = "double"  # Datomic's and Datalevin's :db.type/float: kept as a double
    if name in allowed and name is not None:
        return name
    near = nearest(text or "", [f":{prefix}/{n}" for n in allowed])
    raise SchemaError(
        "schema/value",
        f"{ident}: {key} cannot be {show_form(value)}.",
        expected=", ".join(f":{prefix}/{n}" for n in allowed),
        hint=f"did you mean {near}?" if near else None,
    )


def _flag(ident: str, key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise SchemaError("schema/value", f"{ident}: {key} cannot be {show_form(value)}.", expected="true or false")


def change_attribute(a: Attribute, changes: Mapping[str, Any]) -> Attribute:
    """The attribute with the properties of a schema map put over its own.

    Raises:
        SchemaError: `schema/key` for an unknown property, `schema/value` for a value it cannot have.
    """
    new: dict[str, Any] = {"declared": True}
    for raw_key, value in changes.items():
        key = read_ident(raw_key)
        if key == ":db/ident":
            continue
        if key not in PROPERTY_KEYS:
            if key.startswith(":db/"):
                near = nearest(key, list(PROPERTY_KEYS))
                raise SchemaError(
                    "schema/key",
                    f"{a.ident}: {key} is not a property of an attribute.",
                    expected=", ".join(PROPERTY_KEYS),
                    hint=f"did you mean {near}?" if near else None,
                )
            continue
        _read_property(a.ident, key, value, new)
    changed = replace(a, **new)
    _check_attribute(changed)
    return changed


def _read_property(ident: str, key: str, value: Any, new: dict[str, Any]) -> None:
    if key == ":db/valueType":
        new["type"] = None if value is None else _one_of(ident, key, value, "db.type", TYPES)
    elif key == ":db/cardinality":
        new["many"] = _one_of(ident, key, value, "db.cardinality", ("one", "many")) == "many"
    elif key == ":db/unique":
        new["unique"] = None if value is None else _one_of(ident, key, value, "db.unique", ("identity", "value"))
    elif key == ":db/index":
        new["index"] = None if value is None else _flag(ident, key, value)
    elif key == ":db/isComponent":
        new["component"] = bool(value is not None and _flag(ident, key, value))
    elif key == ":db/noHistory":
        new["no_history"] = bool(value is not None and _flag(ident, key, value))
    elif key == ":db/doc":
        if value is not None and not isinstance(value, str):
            raise SchemaError("schema/value", f"{ident}: :db/doc cannot be {show_form(value)}.", expected="a string")
        new["doc"] = value
    elif key == ":db/tupleType":
        new["tuple_type"] = None if value is None else _one_of(ident, key, value, "db.type", TYPES)
        new.setdefault("type", "tuple")
    elif key == ":db/tupleTypes":
        new["tuple_types"] = tuple(_one_of(ident, key, v, "db.type", TYPES) for v in _members(ident, key, value))
        new.setdefault("type", "tuple")
    elif key == ":db/tupleAttrs":
        new["tuple_attrs"] = tuple(read_ident(v) for v in _members(ident, key, value))
        new.setdefault("type", "tuple")


def _members(ident: str, key: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list | tuple) and 1 <= len(value) <= 64:
        return list(value)
    raise SchemaError("schema/value", f"{ident}: {key} cannot be {show_form(value)}.", expected="a vector of keywords")


def _check_attribute(a: Attribute) -> None:
    if a.component and not a.is_ref:
        raise SchemaError(
            "schema/component",
            f"{a.ident}: only a ref can be a component.",
            hint="add :db/valueType :db.type/ref, or drop :db/isComponent",
        )
    if a.unique and a.many and a.tuple_attrs:
        raise SchemaError("schema/tuple", f"{a.ident}: a composite tuple has one value for each entity.")
    if (a.tuple_attrs or a.tuple_types or a.tuple_type) and a.type != "tuple":
        raise SchemaError(
            "schema/tuple", f"{a.ident}: tuple properties need :db/valueType :db.type/tuple.", hint="add it"
        )
    if sum(map(bool, (a.tuple_attrs, a.tuple_types, a.tuple_type))) > 1:
        raise SchemaError(
            "schema/tuple", f"{a.ident}: give one of :db/tupleAttrs, :db/tupleTypes and :db/tupleType, not several."
        )
    if a.tuple_attrs and a.many:
        raise SchemaError("schema/tuple", f"{a.ident}: a composite tuple has cardinality one.")


def read_schema(schema: Any) -> list[tuple[str, Map | dict[str, Any]]]:
    """The (ident, properties) pairs of a schema given as EDN text, map of maps, or list of `:db/ident` maps.

    Raises:
        SchemaError: `schema/form` when it is none of these.
    """
    if isinstance(schema, str):
        schema = read_edn(schema)
    if schema is None:
        return []
    if hasattr(schema, "items"):
        pairs = []
        for key, value in schema.items():
            if value is not None and not hasattr(value, "items"):
                raise _bad_schema(f"The properties of {show_form(key)} are {show_form(value)}.", "a map of properties")
            pairs.append((read_ident(key), value if value is not None else {}))
        return pairs
    if isinstance(schema, list | tuple):
        pairs = []
        for item in schema:
            name = None
            if hasattr(item, "items"):
                entries = {read_ident(k): v for k, v in item.items()}
                name = entries.get(":db/ident")
            if name is None:
                raise _bad_schema(f"{show_form(item)} does not name its attribute.", "a map with :db/ident")
            pairs.append((read_ident(name), entries))
        return pairs
    raise _bad_schema(
        f"A schema cannot be {show_form(schema)}.",
        "EDN text, a map of ident to properties, or a list of :db/ident maps",
    )


def _bad_schema(message: str, expected: str) -> SchemaError:
    return SchemaError(
        "schema/form",
        message,
        expected=expected,
        hint='for example {":person/name" {":db/unique" :db.unique/identity}}',
    )


def unknown_attribute(schema: Schema, ident: str) -> SchemaError:
    """The error for an attribute that nobody declared, with the nearest known name."""
    near = schema.nearest(ident)
    return SchemaError(
        "schema/unknown-attribute",
        f"The attribute {ident} is not declared.",
        hint=(f"did you mean {near}? Otherwise " if near else "")
        + f"declare it, for example {{:db/ident {ident} :db/valueType :db.type/string}}, or connect with strict=False",
        data={"attribute": ident, "nearest": near},
    )


def read_attributes(snapshot: Snapshot, version: int) -> Schema:
    """The schema that the datoms of a snapshot's attribute entities say, whatever the snapshot itself takes for its schema."""
    found: dict[int, dict[str, Any]] = {}
    for built_in in BUILTINS[:11]:
        if not snapshot.count(built_in.aid):
            continue
        columns = snapshot.columns(built_in.aid)
        start = int(columns.e.searchsorted(FIRST_ATTRIBUTE))
        values = snapshot.decode(built_in, columns.v[start:])
        for e, value in zip(columns.e[start:].tolist(), values, strict=True):
            found.setdefault(e - FIRST_ATTRIBUTE, {})[built_in.ident] = value
    attributes = []
    for aid, props in found.items():
        ident = props.pop(":db/ident", None)
        if not isinstance(ident, Keyword):
            continue
        declared = ":db/cardinality" in props
        bare = Attribute(aid=aid, ident=str(ident), declared=declared)
        attributes.append(change_attribute(bare, props) if props else bare)
    return Schema(attributes, version)
