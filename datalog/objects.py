"""Objects: dataclasses saved as entities and loaded again.

    @dataclass
    class Person:
        name: str = field(metadata=d.attribute(":person/name", unique=True))
        born: int | None = None                                    # :person/born, absent when None
        parents: list[Person] = field(default_factory=list)        # references, cardinality many

Takes classes and their instances, gives schemas, transaction data and instances. Nothing is kept with an object but what
its fields hold: an entity is found again by a unique attribute, or by the id in a field that `eid()` marks. A class is
read once for each call; there is no registry.

1. `schema_of` says what to declare;
2. `save` makes transaction data inside the transaction, so that what is compared with the object is what is there;
3. `load` reads attribute by attribute, each entity once, so that objects that refer to each other in circles come back so.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union
from uuid import UUID

from store.edn import Keyword, Set, Symbol, show_form
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

__all__ = ["attribute", "eid", "load", "load_all", "save", "schema_of"]

_KEY: Final = "datalog"
_TYPES: Final[dict[Any, str]] = {
    str: "string", int: "long", float: "double", bool: "boolean", datetime: "instant", UUID: "uuid",
    Decimal: "bigdec", Keyword: "keyword", Symbol: "symbol", bytes: "bytes",
}  # fmt: skip
_MANY: Final = (list, set, frozenset, tuple)


@dataclass(frozen=True, slots=True)
class Declared:
    """What `attribute` and `eid` say of a field."""

    name: str | None = None
    properties: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_eid: bool = False


def attribute(
    name: str | None = None,
    *,
    unique: bool | str = False,
    type: str | None = None,  # noqa: A002 - the word of the schema
    component: bool = False,
    index: bool | None = None,
    no_history: bool = False,
    doc: str | None = None,
) -> dict[str, Declared]:
    """The metadata of a dataclass field: `field(metadata=attribute(":person/name", unique=True))`.

    Args:
        name: the attribute; without it `:class/field`, in lower case, with hyphens for underscores.
        unique: True or "identity": the attribute finds the entity again; "value": no two entities may share a value.
        type: what the annotation does not say: "bigint" for an int, "ref" for an int that is an entity id.
        component: what is referred to goes when this goes.
        index: False keeps it out of the index by value.
        no_history: old values are not kept in the log.
        doc: what it means.
    """
    if unique not in (True, False, "identity", "value"):
        raise UserError(
            "object/attribute", f"unique cannot be {unique!r}.", expected='True, False, "identity" or "value"'
        )
    if name is not None and not (isinstance(name, str) and name.startswith(":") and len(name) > 1):
        raise UserError("object/attribute", f"{name!r} is no attribute.", expected='a name such as ":person/name"')
    properties: dict[str, Any] = {}
    if unique:
        properties[":db/unique"] = Keyword(f"db.unique/{'value' if unique == 'value' else 'identity'}")
    if type is not None:
        properties[":db/valueType"] = Keyword(f"db.type/{type}")
    if component:
        properties[":db/isComponent"] = True
    if index is not None:
        properties[":db/index"] = index
    if no_history:
        properties[":db/noHistory"] = True
    if doc is not None:
        properties[":db/doc"] = doc
    return {_KEY: Declared(name, properties)}


def eid() -> dict[str, Declared]:
    """The metadata of the field that holds the entity id: `eid: int | None = field(default=None, metadata=d.eid())`."""
    return {_KEY: Declared(is_eid=True)}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class: its attribute, the container of its values (None for one value), the class it refers to."""

    name: str
    ident: str
    container: type | None
    target: type | None
    required: bool
    optional: bool
    default: dataclasses.Field[Any]
    schema: Mapping[str, Any]

    @property
    def is_identity(self) -> bool:
        """Whether a value finds the entity."""
        return str(self.schema.get(":db/unique")) == ":db.unique/identity"


@dataclass(frozen=True, slots=True)
class Shape:
    """A class as it is mapped."""

    cls: type
    fields: tuple[Field, ...]
    eid: str | None


def shape_of(cls: Any) -> Shape:
    """The mapping of a dataclass.

    Raises:
        UserError: `object/class` for anything else, `object/type` for an annotation that has no type in the database.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(
            "object/class", f"{getattr(cls, '__name__', cls)!r} is not a dataclass.",
            hint="decorate the class with @dataclasses.dataclass",
        )  # fmt: skip
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as e:
        raise UserError(
            "object/type", f"An annotation of {cls.__name__} cannot be read: {e}.",
            hint="define the classes that it names at the top level of a module",
        ) from e  # fmt: skip
    found: list[Field] = []
    key = None
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        declared = _declared(field, annotation)
        if declared.is_eid:
            key = field.name
        else:
            found.append(_field(cls, field, annotation, declared))
    return Shape(cls, tuple(found), key)


def _declared(field: dataclasses.Field[Any], annotation: Any) -> Declared:
    if _KEY in field.metadata:
        return typing.cast("Declared", field.metadata[_KEY])
    for extra in getattr(annotation, "__metadata__", ()):  # Annotated[str, attribute(...)]
        if isinstance(extra, dict) and _KEY in extra:
            return typing.cast("Declared", extra[_KEY])
    return Declared()


def _field(cls: type, field: dataclasses.Field[Any], annotation: Any, declared: Declared) -> Field:
    kind, optional = _without_none(annotation)
    container: type | None = None
    origin = typing.get_origin(kind)
    arguments = [a for a in typing.get_args(kind) if a is not Ellipsis]
    if origin in _MANY and len(arguments) == 1:
        container = origin
        kind = _without_none(arguments[0])[0]
    schema: dict[str, Any] = {}
    target = kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
    if target is not None:
        schema[":db/valueType"] = Keyword("db.type/ref")
    elif kind in _TYPES:
        schema[":db/valueType"] = Keyword(f"db.type/{_TYPES[kind]}")
    elif ":db/valueType" not in declared.properties:
        raise UserError(
            "object/type",
            f"{cls.__name__}.{field.name} has the type {_shown(kind)}, which is none of the database.",
            expected=", ".join(t.__name__ for t in _TYPES)
            + ", a dataclass, a list or set of these, or one of them | None",
            hint='or say which type its values have: field(metadata=attribute(type="..."))',
        )
    many = Keyword("db.cardinality/many" if container is not None else "db.cardinality/one")
    schema |= {":db/cardinality": many, **declared.properties}
    given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    space = cls.__dict__.get("__namespace__") or _kebab(cls.__name__)
    ident = declared.name or f":{space}/{field.name.replace('_', '-')}"
    return Field(field.name, ident, container, target, not (optional or container or given), optional, field, schema)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """An annotation without `Annotated` and `| None`, and whether None was in it."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if typing.get_origin(annotation) in (Union, types.UnionType):
        others = [a for a in typing.get_args(annotation) if a is not types.NoneType]
        if len(others) == 1 and len(others) < len(typing.get_args(annotation)):
            return _without_none(others[0])[0], True
    return annotation, False


def _kebab(name: str) -> str:
    """`BlogPost` -> `blog-post`."""
    parts = [("-" if i and c.isupper() and not name[i - 1].isupper() else "") + c.lower() for i, c in enumerate(name)]
    return "".join(parts).strip("_").replace("_", "-")


def _shown(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


def schema_of(*classes: type) -> dict[str, dict[str, Any]]:
    """The schema of dataclasses, and of those they refer to: in the form that `connect` takes.

    Raises:
        UserError: `object/schema` when two fields give one attribute different properties.
    """
    schema: dict[str, dict[str, Any]] = {}
    pending, seen = list(classes), set()
    while pending:
        cls = pending.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        for field in shape_of(cls).fields:
            properties = dict(field.schema)
            if schema.setdefault(field.ident, properties) != properties:
                raise UserError(
                    "object/schema", f"{field.ident} of {cls.__name__} is declared differently by another class.",
                    hint="give one of the fields another attribute",
                )  # fmt: skip
            if field.target is not None:
                pending.append(field.target)
    return schema


# saving --------------------------------------------------------------------------------------------------------------


class _Saving:
    """The transaction data of some objects and of all that they refer to; made inside the transaction."""

    def __init__(self, db: Any, names: dict[int, Any]) -> None:
        self.db = db
        self.names = names  # id of an object -> its eid or tempid
        self.data: list[Any] = []
        self.shapes: dict[type, Shape] = {}

    def collect(self, roots: Iterable[Any]) -> list[Any]:
        """The objects that can be reached, each once; gives each its name."""
        found = list(_reached(roots, self.shapes))
        schema = self.db.schema
        for cls, shape in self.shapes.items():
            unknown = [f.ident for f in shape.fields if f.ident not in schema]
            if unknown:
                raise UserError(
                    "object/undeclared",
                    f"The database has no attribute {', '.join(unknown)} for {cls.__name__}.",
                    hint=f"declare them: conn.update_schema(datalog.schema_of({cls.__name__}))",
                )
        for i, thing in enumerate(found):
            self.names[id(thing)] = self.find(thing, self.shapes[type(thing)]) or f"object-{i}"
        return found

    def find(self, thing: Any, shape: Shape) -> int | None:
        """The entity of an object, when there is one."""
        if shape.eid is not None and getattr(thing, shape.eid) is not None:
            known = getattr(thing, shape.eid)
            if type(known) is not int:
                raise UserError(
                    "object/value",
                    f"{type(thing).__name__}.{shape.eid} is {known!r}.",
                    expected="an entity id, or None",
                )
            return known
        for field in shape.fields:
            if field.is_identity and field.target is None:
                for value in _values(thing, field):
                    known = self.db.entid([field.ident, value])
                    if known is not None:
                        return int(known)
        return None

    def write(self, thing: Any) -> None:
        name, empty = self.names[id(thing)], True
        for field in self.shapes[type(thing)].fields:
            values = _values(thing, field)
            if field.target is not None:
                values = [self.names[id(v)] for v in values]
            if isinstance(name, int):
                there = [datom.v for datom in self.db.datoms("eavt", name, field.ident)]
                if field.container is not None or not values:
                    kept = Set(values)  # which tells 1.0M from 1.00M
                    self.data += [[":db/retract", name, field.ident, v] for v in there if v not in kept]
            self.data += [[":db/add", name, field.ident, v] for v in values]
            empty = empty and not values
        if empty and not isinstance(name, int):
            raise UserError(
                "object/empty", f"{type(thing).__name__} has nothing to save: all its fields are None or empty.",
                hint="give it a value; an entity is nothing but its facts",
            )  # fmt: skip


def _values(thing: Any, field: Field) -> list[Any]:
    """The values of a field as a list; checked for what would go unnoticed.

    Raises:
        UserError: `object/value` for a collection that is none, None in it, or an object of another class.
    """
    value = getattr(thing, field.name)
    where = f"{type(thing).__name__}.{field.name}"
    if value is None:
        values = []
    elif field.container is None:
        values = [value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        values = list(value)
    else:
        raise UserError("object/value", f"{where} is {value!r}.", expected=f"a {field.container.__name__}")
    for each in values:
        if each is None or (field.target is not None and not isinstance(each, field.target)):
            wanted = field.target.__name__ if field.target is not None else "a value"
            raise UserError("object/value", f"{where} holds {each!r}.", expected=wanted)
    return values


def _save_data(things: Sequence[Any], names: dict[int, Any]) -> list[Any]:
    """Transaction data that saves objects, with what they refer to; `names` is filled with id(object) -> eid or tempid."""
    for cls in dict.fromkeys(map(type, things)):
        shape_of(cls)  # a fault of the class is told before the transaction begins

    def make(db: Any) -> list[Any]:
        names.clear()
        saving = _Saving(db, names)
        for thing in saving.collect(things):
            saving.write(thing)
        return saving.data

    return [[":db.fn/call", make]]


def save(conn: Any, things: Sequence[Any]) -> list[int]:
    """Saves objects with what they refer to, in one transaction; returns their entity ids, and fills their eid fields."""
    names: dict[int, Any] = {}
    report = conn.transact(_save_data(things, names))
    eids = {key: report.tempids.get(name, name) for key, name in names.items()}
    shapes: dict[type, Shape] = {}
    for thing in _reached(things, shapes):
        key = shapes[type(thing)].eid
        if key is not None:
            object.__setattr__(thing, key, eids[id(thing)])
    return [eids[id(thing)] for thing in things]


def _reached(roots: Iterable[Any], shapes: dict[type, Shape]) -> Iterator[Any]:
    """The objects that can be reached, each once; `shapes` is filled with their classes, each read once."""
    seen: set[int] = set()
    pending = deque(roots)
    while pending:
        thing = pending.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        cls = type(thing)
        if cls not in shapes:
            shapes[cls] = shape_of(cls)
        yield thing
        for field in shapes[cls].fields:
            if field.target is not None:
                pending += _values(thing, field)


# loading -------------------------------------------------------------------------------------------------------------

_ONE_COLUMN: Final = "[:find ?e ?v :in $ [?e ...] ?a :where [?e ?a ?v]]"


def load(db: Any, cls: type[T], ref: Any) -> T:
    """The object of an entity, with all that it refers to.

    Raises:
        UserError: `object/not-found` when the reference names no entity, `object/missing` when a field without default has no
            value, `object/class` and `object/type` for a class that cannot be mapped.
    """
    found = db.entid(ref)
    shape = shape_of(cls)
    if found is None or not any(db.datoms("eavt", found, f.ident) for f in shape.fields if f.ident in db.schema):
        raise UserError(
            "object/not-found", f"There is no {cls.__name__} {show_form(ref)}.",
            hint="db.entid(ref) tells whether there is such an entity",
        )  # fmt: skip
    made: T = _load(db, [(cls, int(found))])[cls, int(found)]
    return made


def load_all(db: Any, cls: type[T]) -> list[T]:
    """The objects of all entities that have every field without default (or, when all have one, any field), by entity id."""
    shape = shape_of(cls)
    needed = [f.ident for f in shape.fields if f.required]
    known = [ident for ident in needed or [f.ident for f in shape.fields] if ident in db.schema]
    if not known or (needed and len(known) < len(needed)):
        return []
    sets = [{int(e) for e in db.q("[:find [?e ...] :in $ ?a :where [?e ?a _]]", Keyword(ident))} for ident in known]
    eids = sorted(set.intersection(*sets) if needed else set.union(*sets))
    made = _load(db, [(cls, e) for e in eids])
    return [made[cls, e] for e in eids]


def _load(db: Any, wanted: list[tuple[type, int]]) -> dict[tuple[type, int], Any]:
    """Objects by (class, eid), with all that they refer to; level by level, one query for each attribute of a level."""
    shapes: dict[type, Shape] = {}
    values: dict[tuple[type, int], dict[str, list[Any]]] = {}
    level = list(dict.fromkeys(wanted))
    while level:
        values.update({key: {} for key in level})
        following: dict[tuple[type, int], None] = {}
        for cls in dict.fromkeys(cls for cls, _ in level):
            shape = shapes.setdefault(cls, shape_of(cls))
            eids = [e for c, e in level if c is cls]
            for field in shape.fields:
                if field.ident not in db.schema:
                    continue
                for e, v in db.q(_ONE_COLUMN, eids, Keyword(field.ident)):
                    values[cls, e].setdefault(field.name, []).append(v)
                    if field.target is not None:
                        following[field.target, v] = None
        level = [key for key in following if key not in values]
    return _make(shapes, values)


def _make(
    shapes: dict[type, Shape], values: dict[tuple[type, int], dict[str, list[Any]]]
) -> dict[tuple[type, int], Any]:
    """The objects; made empty first, so that they can refer to each other, collections of objects filled last."""
    made: dict[tuple[type, int], Any] = {key: object.__new__(key[0]) for key in values}
    later: list[tuple[Any, Field, list[Any]]] = []
    for (cls, e), thing in made.items():
        shape = shapes[cls]
        if shape.eid is not None:
            object.__setattr__(thing, shape.eid, e)
        for field in shape.fields:
            found = values[cls, e].get(field.name, [])
            if field.target is not None:
                found = [made[field.target, v] for v in found]
            if field.container is not None:
                later.append((thing, field, found))
            elif found:
                object.__setattr__(thing, field.name, found[0])
            else:
                object.__setattr__(thing, field.name, _default(cls, e, field))
    for thing, field, found in reversed(
        later
    ):  # what is further away comes first: a set needs whole objects to hash them
        assert field.container is not None
        try:
            object.__setattr__(thing, field.name, field.container(_in_order(found, field)))
        except TypeError as cause:
            raise UserError(
                "object/value", f"{type(thing).__name__}.{field.name} is a set of objects that cannot be hashed.",
                hint="make it a list, or its class @dataclass(frozen=True) or eq=False",
            ) from cause  # fmt: skip
    for thing in reversed(made.values()):
        if hasattr(thing, "__post_init__"):
            thing.__post_init__()
    return made


def _in_order(found: list[Any], field: Field) -> list[Any]:
    """Values of one type by their order; objects as they came, by entity id."""
    if field.target is not None:
        return found
    return sorted(found, key=str if isinstance(found[0], Keyword | Symbol) else None) if found else found


def _default(cls: type, e: int, field: Field) -> Any:
    """What a field is when the entity has no value for it."""
    if field.required:
        raise UserError(
            "object/missing",
            f"Entity {e} has no {field.ident}, and {cls.__name__}.{field.name} has no default.",
            hint=f"give the entity a value, or the field a default: {field.name}: ... | None = None",
        )
    if field.optional:
        return None
    if field.default.default_factory is not dataclasses.MISSING:
        return field.default.default_factory()
    return None if field.default.default is dataclasses.MISSING else field.default.default
