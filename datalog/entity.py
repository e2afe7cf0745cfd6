"""Entity: a lazy, read-only map of one entity, navigable both ways.

Place on the path: `Db.entity`; reads a snapshot directly, an attribute when it is first looked at. The entity sees the
database it came from, whatever is transacted later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from store.edn import Keyword, Set
from store.value import Kind, decode_inline

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = object()


def entity(db: Any, ref: Any) -> Entity | None:
    """The entity of an eid, ident or lookup ref; None when the reference names none."""
    found = db.snapshot.entid(ref)
    return None if found is None else Entity(db, int(found))


class Entity(Mapping[str, Any]):
    """An entity as a mapping from ":ns/name" to values.

    References are entities again, many-valued attributes are sets, ":ns/_name" gives the entities that refer to this one
    (the one entity, for a component). `":db/id"` and `.eid` give the eid. Equal to an entity with the same eid of the same
    database, at whatever basis.
    """

    __slots__ = ("_cache", "_codes", "_db", "_whole", "eid")

    def __init__(self, db: Any, eid: int) -> None:
        self._db = db
        self.eid = eid
        self._cache: dict[str, Any] = {}
        self._codes: Any = None
        self._whole = False

    @property
    def db(self) -> Any:
        """The database value that this entity reads."""
        return self._db

    def touch(self) -> Self:
        """This entity with all its attributes read, components touched too."""
        pending = [self]
        seen: set[int] = set()
        while pending:
            current = pending.pop()
            if current.eid in seen:
                continue
            seen.add(current.eid)
            for ident in current:
                value = current[ident]
                attribute = self._db.snapshot.schema.find(ident)
                if attribute is not None and attribute.component:
                    pending.extend(value if attribute.many else [value])
        return self

    def _load(self) -> None:
        if self._whole:
            return
        snapshot = self._db.snapshot
        found = snapshot.entity(self.eid)
        by_aid: dict[int, list[int]] = {}
        for aid, code in zip(found.a.tolist(), found.v.tolist(), strict=True):
            by_aid.setdefault(aid, []).append(code)
        for aid, codes in by_aid.items():
            attribute = snapshot.schema.by_aid(aid)
            if attribute.ident not in self._cache:
                self._cache[attribute.ident] = self._value(attribute, codes)
        self._whole = True

    def _value(self, attribute: Any, codes: list[int]) -> Any:
        if attribute.is_ref:
            entities = [Entity(self._db, c) for c in codes]
            return frozenset(entities) if attribute.many else entities[0]
        array = np.array(codes, dtype=np.int64)
        if attribute.kind is Kind.INTERNED:
            if self._codes is None:
                self._codes = self._db.snapshot.codes()
            values = self._codes.decode_many(array)
        else:
            values = decode_inline(attribute.kind, array)
        return Set(values) if attribute.many else values[0]

    def _look(self, ident: str) -> Any:
        if ident == ":db/id":
            return self.eid
        found = self._cache.get(ident, _ABSENT)
        if found is _ABSENT and not self._whole:
            found = self._read(ident)
        return found

    def _read(self, ident: str) -> Any:
        snapshot = self._db.snapshot
        attribute = snapshot.schema.find(ident)
        if attribute is None:
            return self._reverse(ident)
        codes = snapshot.values(self.eid, attribute.aid)
        if not codes:
            return _ABSENT
        found = self._cache[ident] = self._value(attribute, codes)
        return found

    def _reverse(self, ident: str) -> Any:
        ns, slash, name = ident.rpartition("/")
        if not (name.startswith("_") or (not slash and name.startswith(":_"))):
            return _ABSENT
        forward = f"{ns}/{name[1:]}" if slash else f":{name[2:]}"
        attribute = self._db.snapshot.schema.find(forward)
        if attribute is None or not attribute.is_ref:
            return _ABSENT
        found = [Entity(self._db, e) for e in self._db.snapshot.holders(attribute.aid, self.eid)]
        if not found:
            return _ABSENT
        return found[0] if attribute.component else frozenset(found)

    def __getitem__(self, key: str | Keyword) -> Any:
        name = str(key)
        found = self._look(name)
        if found is _ABSENT and self._whole and "/_" in name:
            found = self._reverse(name)
        if found is _ABSENT:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._cache)

    def __len__(self) -> int:
        self._load()
        return len(self._cache)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entity):
            return NotImplemented
        mine, theirs = self._db.snapshot, other._db.snapshot
        same = mine is theirs or getattr(mine, "dictionary", mine) is getattr(theirs, "dictionary", theirs)
        return self.eid == other.eid and same

    def __hash__(self) -> int:
        return hash(self.eid)

    def __repr__(self) -> str:
        shown = "".join(f", {k}: {_shown(v)}" for k, v in self._cache.items())
        return f"<Entity {self.eid}{shown}>"


def _shown(value: Any) -> str:
    return f"<Entity {value.eid}>" if isinstance(value, Entity) else repr(value)
