"""Dataclasses as entities: saved, loaded, and what is said when that cannot be."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest

import datalog as d

DAY = datetime(1815, 12, 10, tzinfo=UTC)


@dataclass
class Place:
    """Without an identity: each save of a new one is a new entity."""

    city: str
    eid: int | None = field(default=None, metadata=d.eid())


@dataclass
class Person:
    """Every type, references, circles."""

    name: str = field(metadata=d.attribute(":person/name", unique=True, doc="Full name"))
    born: datetime | None = None
    height: float | None = None
    children: int = 0
    alive: bool | None = None
    key: uuid.UUID | None = None
    money: Decimal | None = None
    role: d.Keyword | None = None
    big: Annotated[int | None, d.attribute(type="bigint")] = None
    tags: set[d.Keyword] = field(default_factory=set)
    marks: list[int] = field(default_factory=list)
    home: Place | None = field(default=None, metadata=d.attribute(component=True))
    parents: list[Person] = field(default_factory=list)
    best_friend: Person | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """Frozen, hashable."""

    name: Annotated[str, d.attribute(unique="identity")]


@dataclass
class Post:
    """With a set of objects."""

    title: Annotated[str, d.attribute(":post/title", unique=True)]
    tags: frozenset[Tag] = frozenset()


@pytest.fixture
def conn():
    """A database with the schema of the classes."""
    with d.connect(None, d.schema_of(Person, Post)) as opened:
        yield opened


def test_the_schema_is_derived() -> None:
    """Names, types, cardinalities and properties come from annotations and metadata; referred classes are included."""
    schema = d.schema_of(Person)
    assert schema[":person/name"] == {
        ":db/valueType": d.kw("db.type/string"), ":db/cardinality": d.kw("db.cardinality/one"),
        ":db/unique": d.kw("db.unique/identity"), ":db/doc": "Full name",
    }  # fmt: skip
    types = {k.split("/")[1]: str(v[":db/valueType"]).split("/")[1] for k, v in schema.items()}
    assert types == {
        "name": "string", "born": "instant", "height": "double", "children": "long", "alive": "boolean", "key": "uuid",
        "money": "bigdec", "role": "keyword", "big": "bigint", "tags": "keyword", "marks": "long", "home": "ref",
        "parents": "ref", "best-friend": "ref", "city": "string",
    }  # fmt: skip
    assert schema[":person/home"][":db/isComponent"] is True
    assert str(schema[":person/parents"][":db/cardinality"]) == ":db.cardinality/many"
    assert ":place/city" in schema
    assert d.schema_of(Tag) == {k: v for k, v in d.schema_of(Post).items() if k == ":tag/name"}


def test_there_and_back(conn) -> None:
    """An object with a value of every type, nested objects and a circle comes back equal."""
    ada = Person(
        "Ada", DAY, 1.65, 3, False, uuid.UUID(int=7), Decimal("1.50"), d.kw("poet"), 10**30, {d.kw("math"), d.kw("verse")},
        [3, 1, 2], Place("London"), [Person("Byron", home=Place("Venice")), Person("Anne")],
    )  # fmt: skip
    ada.best_friend = Person("Charles")
    eid = conn.save(ada)
    assert ada.home is not None
    assert ada.home.eid is not None
    db = conn.db()
    found = db.load(Person, eid)
    ada.marks = [1, 2, 3]  # values of a collection are a set, in their order
    found.parents.sort(key=lambda p: p.name, reverse=True)
    assert found == ada
    assert found.parents[0].home == Place("Venice", found.parents[0].home.eid)
    assert db.load(Person, [":person/name", "Ada"]).money == Decimal("1.50")
    assert [p.name for p in db.load_all(Person)] != []
    assert {p.name for p in db.load_all(Person)} == {"Ada", "Byron", "Anne", "Charles"}


def test_a_circle(conn) -> None:
    """Objects that refer to each other are one object each, after loading too."""
    a, b = Person("A"), Person("B")
    a.best_friend, b.best_friend = b, a
    a.parents = [a, b]
    conn.save(a)
    found = conn.db().load(Person, [":person/name", "A"])
    assert found.best_friend.best_friend is found
    assert found in [p for p in found.parents if p is found]
    everyone = conn.db().load_all(Person)
    assert everyone[0].best_friend is everyone[1]


def test_saving_again_updates(conn) -> None:
    """The identity finds the entity; what is None, and members that are gone, are retracted; nothing new is made."""
    first = conn.save(Person("Ada", DAY, 1.6, tags={d.kw("a"), d.kw("b")}, parents=[Person("X"), Person("Y")]))
    again = conn.save(Person("Ada", None, 1.7, tags={d.kw("b"), d.kw("c")}, parents=[Person("Y")]))
    assert again == first
    found = conn.db().load(Person, first)
    assert (found.born, found.height, found.tags) == (None, 1.7, {d.kw("b"), d.kw("c")})
    assert [p.name for p in found.parents] == ["Y"]
    assert len(conn.db().load_all(Person)) == 3
    before = conn.db().basis_tx
    conn.save(found)
    assert conn.db().basis_tx == before  # nothing changed, nothing written


def test_the_eid_field(conn) -> None:
    """A class without an identity is updated through its eid field."""
    place = Place("Rome")
    eid = conn.save(place)
    assert place.eid == eid
    place.city = "Ostia"
    assert conn.save(place) == eid
    assert conn.db().load_all(Place) == [Place("Ostia", eid)]
    assert conn.save(Place("Ostia")) != eid


def test_sets_of_frozen_objects(conn) -> None:
    """Frozen dataclasses with slots in a set; equal ones are one entity; many objects in one transaction."""
    eids = conn.save_all([Post("p1", frozenset({Tag("x"), Tag("y")})), Post("p2", frozenset({Tag("x")})), Tag("z")])
    assert len(set(eids)) == 3
    posts = conn.db().load_all(Post)
    assert [p.tags for p in posts] == [{Tag("x"), Tag("y")}, {Tag("x")}]
    assert {t.name for t in conn.db().load_all(Tag)} == {"x", "y", "z"}


@dataclass
class Odd:
    """A type that is none."""

    what: dict[str, int]


@dataclass
class Later:
    """A required attribute."""

    name: Annotated[str, d.attribute(":person/name", unique=True)]
    height: Annotated[float, d.attribute(":person/height")]


@dataclass
class Bag:
    """A set of what cannot be hashed."""

    parents: Annotated[set[Person], d.attribute(":person/parents")]


def test_what_cannot_be(conn) -> None:
    """Every fault has its code and says how to mend it; nothing is written."""
    eid = conn.save(Person("Ada", parents=[Person("Byron")]))
    before = conn.db().basis_tx
    wrong: Any = Person("X", tags=5)  # type: ignore[arg-type]
    calls = {
        "object/class": lambda: conn.save("Ada"),
        "object/type": lambda: d.schema_of(Odd),
        "object/not-found": lambda: conn.db().load(Person, [":person/name", "Nobody"]),
        "object/missing": lambda: conn.db().load(Later, eid),
        "object/value": lambda: conn.save(wrong),
        "object/empty": lambda: conn.save(Bag(set())),
        "object/schema": lambda: d.schema_of(Person, Bag, Later),
        "object/attribute": lambda: d.attribute(unique="maybe"),
    }
    for code, call in calls.items():
        with pytest.raises(d.DatalogError) as raised:
            call()
        assert raised.value.code == code
    with pytest.raises(d.DatalogError, match="cannot be hashed"):
        conn.db().load(Bag, eid)
    for no_eid in ("17", 1.7, True):
        with pytest.raises(d.DatalogError, match=r"Place\.eid is"):
            conn.save(Place("Rome", no_eid))  # type: ignore[arg-type]
    with pytest.raises(d.DatalogError, match="holds None"):
        conn.save(Person("X", parents=[None]))  # type: ignore[list-item]
    with d.connect(None, {":a": {":db/valueType": ":db.type/long"}}) as other:
        with pytest.raises(d.DatalogError, match=r"object/undeclared(.|\n)*schema_of\(Tag\)"):
            other.save(Tag("x"))
        assert other.db().load_all(Tag) == []
    assert conn.db().basis_tx == before


@dataclass
class Offer:
    """Prices of several scales."""

    name: str = field(metadata=d.attribute(unique=True))
    prices: list[Decimal] = field(default_factory=list)


def test_what_is_gone_is_compared_strictly() -> None:
    """A price of another scale takes the place of the one before: the database tells them apart."""
    with d.connect(None, d.schema_of(Offer)) as conn:
        conn.save(Offer("a", [Decimal("1.0"), Decimal(2)]))
        conn.save(Offer("a", [Decimal("1.00"), Decimal(2)]))
        assert set(map(str, conn.q("[:find [?p ...] :where [_ :offer/prices ?p]]"))) == {"1.00", "2"}
