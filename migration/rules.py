"""Rules of a mapping at work: one key and its value to attributes and JSON, and back.

Takes a key and its value, gives a `Mapped`; takes attributes and JSON, gives the value. `keymap.py` reads rules from EDN
and chooses among them; here nothing is read or checked any more.

The value is rebuilt from the JSON first, then from the attributes for the parts that the JSON does not name. Parts that the
value lacks although an attribute would give them are named in a `["~#lacks" [part ...] {...}]` round the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from migration.jsonvalue import decode, encode, key_text, to_text
from store.edn import Keyword, Map, Set, strict_equal, strict_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DELETED",
    "DIGEST",
    "ENTITY",
    "KEY",
    "KEY_ATTRIBUTES",
    "KIND",
    "REST",
    "VERSION",
    "Given",
    "Mapped",
    "Owner",
    "Part",
    "Rule",
    "digest_of",
]

KEY: Final = ":memory/key"
KIND: Final = ":memory/kind"
VERSION: Final = ":memory/version"
DIGEST: Final = ":memory/digest"
DELETED: Final = ":memory/deleted?"
REST: Final = ":memory/rest"
ENTITY: Final = ":memory/entity"
KEY_ATTRIBUTES: Final = (KEY, KIND, VERSION, DIGEST, DELETED, REST, ENTITY)


_MISSING: Final = object()


@dataclass(slots=True)
class Mapped:
    """What a key and its value become.

    `entities` and `owner` map attributes to values; of cardinality many, to lists. References between owner and entries,
    and from the key's entity to these, are not among them: they follow from the rule.
    """

    key: Keyword
    rule: Rule
    digest: int
    rest: str | None
    owner: dict[str, Any] | None
    entities: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a map value and the attribute that holds it."""

    part: Keyword
    text: str  # the part's key in JSON
    attr: str
    fits: Callable[[Any], bool]
    many: bool
    once: bool


@dataclass(frozen=True, slots=True)
class Given:
    """An attribute that follows from the key, or is constant."""

    attr: str
    source: str  # one of _SOURCES, or "always"
    value: Any
    fits: Callable[[Any], bool]
    part: Keyword | None
    text: str
    prefer_part: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """The entity that entries belong to."""

    identity: str
    given: tuple[Given, ...]
    children: str
    parent: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a mapping; see the module's head."""

    kind: Keyword
    data: Keyword
    keys: frozenset[Keyword] | None
    namespace: str | None
    or_part: Keyword | None
    given: tuple[Given, ...]
    parts: tuple[Part, ...]
    identity: str | None = None  # :entity: keys of other kinds may share the entity by this attribute
    rest: str | None = None  # :entity: the attribute of the entity for what is left
    entries: bool = False
    members: Part | None = None  # entries: the attribute for the members of a set
    entry: Given | None = None  # entries: the attribute that is the entry's key
    owner: Owner | None = None
    owned: frozenset[str] = field(default=frozenset(), compare=False)  # attributes this rule writes on a shared entity

    def takes(self, key: Keyword, value: Any) -> bool:
        """True when the rule is the one for the key, whatever the shape of the value."""
        if self.keys is not None:
            return key in self.keys
        if self.namespace is not None and key.ns == self.namespace:
            return True
        if self.or_part is not None:
            return value.__class__ is Map and self.or_part in value
        return self.namespace is None

    def expects(self, value: Any) -> bool:
        """True when the rule can map a value of this shape."""
        if self.rest is not None:
            return True
        if value.__class__ is not Map or value.meta is not None or not _has_scalar_keys(value):
            return False
        return not self.entries or not len(value) or any(self.fits_entry(k, v) for k, v in value.pairs())

    def fits_entry(self, key: Any, value: Any) -> bool:
        """True when an entry of the value can become an entity."""
        assert self.entry is not None
        if not self.entry.fits(key):
            return False
        if self.members is not None:
            return value.__class__ is Set and value.meta is None and (not len(value) or self.members.fits(value))
        return value.__class__ is Map and value.meta is None and _has_scalar_keys(value)

    # -- value -> attributes

    def encoded(self, key: Keyword, value: Any, kept: Mapping[Any, Mapping[str, Any]] = {}) -> Mapped:
        """The key and its value as attributes and JSON; the rule expects the value.

        Args:
            key: the key.
            value: its value.
            kept: what the database holds of write-once attributes: strict key of the entry (None for `:entity`) ->
                attribute -> value.
        """
        json = encode(value, canonical=True)
        digest = digest_of(key, to_text(json, canonical=True))
        if not self.entries:
            entity = self.given_facts(self.given, key, value, None)
            if json.__class__ is dict and value.__class__ is Map:
                left: Any = self._take(entity, self.given, value, json, kept.get(None))
            else:
                left = json
            text = None if left == {} and self.rest is None else to_text(left, canonical=True).decode()
            if self.rest is not None:
                entity[self.rest] = text
                text = None
            return Mapped(key, self, digest, text, None, [entity])
        left = {}
        entities = []
        for (name, member), text in zip(value.pairs(), json, strict=True):
            if not self.fits_entry(name, member):
                left[text] = json[text]
                continue
            entity = self.given_facts(self.given, key, member, name)
            entities.append(entity)
            if self.members is not None:
                if len(member):
                    entity[self.members.attr] = list(member)
                continue
            less = self._take(entity, self.given, member, json[text], kept.get(strict_key(name)) if kept else None)
            if less != {}:
                left[text] = less
        owner = self.given_facts(self.owner.given, key, value, None) if self.owner is not None else None
        rest = to_text(left, canonical=True).decode() if left else None
        return Mapped(key, self, digest, rest, owner, entities)

    @staticmethod
    def given_facts(given: tuple[Given, ...], key: Keyword, value: Any, entry: Any) -> dict[str, Any]:
        """The given attributes of an entity: `entry` is the entry's key, `value` that of the entity."""
        found: dict[str, Any] = {}
        for g in given:
            if g.prefer_part and value.__class__ is Map:
                part = value.get(g.part, _MISSING)
                if part is not _MISSING and g.fits(part):
                    found[g.attr] = part
                    continue
            source = g.source
            if source == "always":
                found[g.attr] = g.value
            elif source == "name":
                found[g.attr] = key.name
            elif source == "entry":
                found[g.attr] = entry
            elif source == "key":
                found[g.attr] = key
            elif source == "count":
                found[g.attr] = len(value)
            else:
                found[g.attr] = Keyword(key.name)
        return found

    def _take(
        self,
        entity: dict[str, Any],
        given: tuple[Given, ...],
        value: Map,
        json: dict[str, Any],
        kept: Mapping[str, Any] | None,
    ) -> Any:
        """Moves the parts that attributes can hold from `json` to `entity`; returns what is left, with what is lacking."""
        lacks = []
        get = value.get
        for g in given:
            if g.part is None:
                continue
            found = get(g.part, _MISSING)
            if found is _MISSING:
                lacks.append(g.text)
            elif g.fits(found) and found == entity[g.attr]:
                del json[g.text]
        for part in self.parts:
            found = get(part.part, _MISSING)
            if part.once and kept is not None and part.attr in kept:
                entity[part.attr] = kept[part.attr]
                if found is _MISSING:
                    lacks.append(part.text)
                elif strict_equal(found, kept[part.attr]):
                    del json[part.text]
                continue
            if found is not _MISSING and part.fits(found):
                entity[part.attr] = list(found) if part.many else found
                del json[part.text]
        return ["~#lacks", lacks, json] if lacks else json

    def getter(self, attr: str) -> Callable[[Keyword, Any], list[Any]] | None:
        """A function of key and value that gives the values an attribute would be written, None when it is not the rule's.

        None also for attributes that are written once: their stored value need not be the value's.
        """
        members = self.members
        if members is not None and members.attr == attr:
            return lambda _, value: [m for n, s in value.pairs() if self.fits_entry(n, s) for m in s]
        given = next((g for g in self.given if g.attr == attr), None)
        part = next((p for p in self.parts if p.attr == attr and not p.once), None)
        if given is not None:
            facts = (given,)

            def of(key: Keyword, value: Any, entry: Any) -> list[Any]:
                return [self.given_facts(facts, key, value, entry)[attr]]

        elif part is not None:

            def of(key: Keyword, value: Any, entry: Any) -> list[Any]:  # noqa: ARG001 - the same form as above
                found: Any = value.get(part.part, _MISSING) if value.__class__ is Map else _MISSING
                if found is _MISSING or not part.fits(found):
                    return []
                return list(found) if part.many else [found]
        else:
            return None
        if not self.entries:
            return lambda key, value: of(key, value, None)
        return lambda key, value: [v for n, m in value.pairs() if self.fits_entry(n, m) for v in of(key, m, n)]

    # -- attributes -> value

    def decoded(self, rest: str | None, entities: Iterable[Mapping[str, Any]]) -> Any:
        """The value, from the key's `:memory/rest` and the attributes of its entities (without the owner)."""
        if not self.entries:
            (entity,) = entities
            text = rest if self.rest is None else entity[self.rest]
            return self._rebuilt(entity, {} if text is None else orjson.loads(text))
        assert self.entry is not None
        raw = {} if rest is None else orjson.loads(rest)
        flat: list[Any] = []
        for entity in entities:
            name = entity[self.entry.attr]
            flat.append(name)
            if self.members is not None:
                flat.append(Set(entity.get(self.members.attr, ())))
                continue
            text = key_text(name)
            assert text is not None
            flat.append(self._rebuilt(entity, raw.pop(text, None) or {}))
        for name, member in decode(raw).pairs():
            flat += (name, member)
        return Map.of_flat(flat)

    def _rebuilt(self, entity: Mapping[str, Any], raw: Any) -> Any:
        lacks: Any = ()
        if raw.__class__ is list:
            if not raw or raw[0] != "~#lacks":
                return decode(raw)
            _, lacks, raw = raw
        if raw.__class__ is not dict:
            return decode(raw)
        flat: list[Any] = []
        for p in self.parts:
            found = entity.get(p.attr, _MISSING)
            if found is not _MISSING and p.text not in raw and p.text not in lacks:
                flat += (p.part, Set(found) if p.many else found)
        for g in self.given:
            if g.part is not None and g.text not in raw and g.text not in lacks:
                flat += (g.part, entity[g.attr])
        if not flat:
            return decode(raw)
        for name, member in decode(raw).pairs():
            flat += (name, member)
        return Map.of_flat(flat)


def _has_scalar_keys(value: Map) -> bool:
    """True when JSON says the map as an object."""
    return all(k.__class__ is Keyword or k.__class__ is str or key_text(k) is not None for k in value)


def digest_of(key: Keyword, text: bytes) -> int:
    """The digest of a key and the canonical JSON of its value: 64 bits as a signed integer.

    Short on purpose: it is an inline column of eight bytes, so that the digests of millions of keys are added up in
    milliseconds. A difference goes unnoticed with a chance of 2^-64; who may want to forge one is no concern of a
    migration, and values are compared member by member besides.
    """
    digest = blake2b(str(key).encode("utf-8", "surrogatepass") + b"\0", digest_size=8)
    digest.update(text)
    return int.from_bytes(digest.digest(), "big", signed=True)
