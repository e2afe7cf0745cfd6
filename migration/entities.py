"""Mapped keys in the database: fetched in bulk or for some keys, written as new columns, as differences, or deleted.

Takes a `Mapped` (keymap.py) and gives columns for `conn.load` (`NewKeys`) or operations for `conn.transact` (`Changes`);
takes a database and gives `Stored`, from which a rule rebuilds the value. Decides nothing about files and chunks: that is
importer.py.

How a key stands in the database::

    key entity       :memory/key /kind /version /digest [/rest] [/deleted?]   and :memory/entity -> each mapped entity
    mapped entity    the rule's attributes
    shared entity    one that keys of several kinds refer to (`:session/id`): each kind owns its attributes of it, and the
                     entity goes when its last key does
    owner, entries   owner -> entries by :children (component), entries -> owner by :parent

Every write of an existing key is guarded by a `:db/cas` of its `:memory/version`: two writers cannot both build on the
same state. Eids of new entities are reserved by a transaction function, inside the write transaction, before columns are
loaded into them: no other writer can be given them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from migration.buckets import UNSETTLED, Sums, add_digest, bucket_operations, digest_bucket
from migration.rules import DELETED, DIGEST, ENTITY, KEY, KIND, REST, VERSION, Mapped, Rule
from store.edn import strict_equal, strict_key
from store.errors import TransactionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datalog import Connection, Db
    from migration.keymap import KeyMap
    from store.edn import Keyword

__all__ = ["Changes", "KeyState", "NewKeys", "Stored", "fetch", "fetch_one", "key_states", "load_new"]

_FEW: Final = 300  # keys; above this many whole columns are read

Facts = dict[str, Any]


@dataclass(slots=True)
class KeyState:
    """What a key's entity says without its value."""

    eid: int
    kind: Keyword
    version: int
    digest: int | None
    deleted: bool


@dataclass(slots=True)
class Stored:
    """A key as the database holds it: its own entity, and the mapped entities (eid -> attribute -> value or list)."""

    state: KeyState
    rest: str | None
    entities: dict[int, Facts] = field(default_factory=dict)

    def value(self, keymap: KeyMap) -> Any:
        """The value, rebuilt.

        Raises:
            KeyMapError: the mapping has no rule of the key's kind, or the JSON is damaged.
        """
        rule = keymap.rule_named(self.state.kind)
        return rule.decoded(self.rest, self.mapped(rule).values())

    def mapped(self, rule: Rule) -> dict[int, Facts]:
        """The entities without the owner of entries."""
        if rule.entry is None:
            return self.entities
        attr = rule.entry.attr
        return {eid: facts for eid, facts in self.entities.items() if attr in facts}

    def owner(self, rule: Rule) -> int | None:
        """The eid of the owner of the entries."""
        if rule.owner is None:
            return None
        identity = rule.owner.identity
        return next((eid for eid, facts in self.entities.items() if identity in facts), None)


# ---------------------------------------------------------------------------------------------------------------------
# database -> keys


def _column(db: Db, attr: str) -> tuple[list[int], list[Any]]:
    """Entities and values of an attribute."""
    found = db.q(f"[:find ?e ?v :where [?e {attr} ?v]]")
    return found.column(0), found.column(1)


def _pairs(db: Db, attr: str) -> dict[int, Any]:
    return dict(zip(*_column(db, attr), strict=True))


def key_states(db: Db, keys: Sequence[Keyword] | None = None) -> dict[Keyword, KeyState]:
    """The state of every key in the database, deleted ones included; of `keys` only when they are given.

    Cost: five column scans; for at most 300 keys, two point lookups each.
    """
    if db.snapshot.schema.find(KEY) is None:
        return {}
    if keys is not None and len(keys) <= _FEW:
        found = ((key, _own_facts(db, key)) for key in dict.fromkeys(keys))
        return {key: _state(*own) for key, own in found if own is not None}
    names, kinds, versions, digests, deleted = (_pairs(db, a) for a in (KEY, KIND, VERSION, DIGEST, DELETED))
    wanted = None if keys is None else set(keys)
    return {
        key: KeyState(eid, kinds[eid], versions.get(eid, 0), digests.get(eid), deleted.get(eid, False))
        for eid, key in names.items()
        if eid in kinds and (wanted is None or key in wanted)
    }


def fetch(db: Db, keymap: KeyMap, keys: Sequence[Keyword] | None = None) -> dict[Keyword, Stored]:
    """Every key in the database with what its value is rebuilt from; of `keys` only when they are given.

    Deleted keys are among them, without entities. Cost: one scan of each attribute of the mapping; for at most 300 keys,
    a lookup for each key and each of its entities.
    """
    if keys is not None and len(keys) <= _FEW:
        found = ((key, fetch_one(db, keymap, key)) for key in dict.fromkeys(keys))
        return {key: one for key, one in found if one is not None}
    states = key_states(db, keys)
    rests = _pairs(db, REST)
    stored = {key: Stored(state, rests.get(state.eid)) for key, state in states.items()}
    facts: dict[int, Facts] = {}
    of_key = {s.state.eid: s.entities for s in stored.values()}
    for key_eid, eid in zip(*_column(db, ENTITY), strict=True):
        if key_eid in of_key:
            of_key[key_eid][eid] = facts.setdefault(eid, {})
    _fill(db, keymap, facts)
    return stored


def fetch_one(db: Db, keymap: KeyMap, key: Keyword) -> Stored | None:
    """One key with what its value is rebuilt from, or None when the database never had it."""
    own = _own_facts(db, key) if db.snapshot.schema.find(KEY) is not None else None
    if own is None:
        return None
    stored = Stored(_state(*own), own[1].get(REST))
    attributes = keymap.mapped_attributes
    for eid in own[1].get(ENTITY, ()):
        stored.entities[eid] = {a: v for a, v in _facts(db, eid).items() if a in attributes}
    return stored


def _own_facts(db: Db, key: Keyword) -> tuple[int, Facts] | None:
    """(eid, attributes) of a key's own entity."""
    eid = db.entid([KEY, key])
    if eid is None:
        return None
    facts = _facts(db, eid)
    return (eid, facts) if KIND in facts else None


def _facts(db: Db, eid: int) -> Facts:
    """The attributes of an entity; of cardinality many, as lists. `db.datoms` says the same, and takes twice as long."""
    snapshot = db.snapshot
    found = snapshot.entity(eid)
    by_attribute: dict[int, list[int]] = {}
    for place, aid in enumerate(found.a.tolist()):
        by_attribute.setdefault(aid, []).append(place)
    facts: Facts = {}
    for aid, places in by_attribute.items():
        attribute = snapshot.schema.by_aid(aid)
        values = snapshot.decode(attribute, found.v[places[0] : places[-1] + 1])
        facts[attribute.ident] = values if attribute.many else values[0]
    return facts


def _state(eid: int, facts: Facts) -> KeyState:
    return KeyState(eid, facts[KIND], facts.get(VERSION, 0), facts.get(DIGEST), facts.get(DELETED, False))


def _fill(db: Db, keymap: KeyMap, facts: dict[int, Facts]) -> None:
    find = facts.get
    known = db.schema
    for attr in sorted(a for a in keymap.mapped_attributes if a in known):
        many = keymap.is_many(attr)
        for eid, value in zip(*_column(db, attr), strict=True):
            of = find(eid)
            if of is None:
                continue
            if many:
                held = of.get(attr)
                if held is None:
                    of[attr] = [value]
                else:
                    held.append(value)
            else:
                of[attr] = value


# ---------------------------------------------------------------------------------------------------------------------
# new keys, as columns


def load_new(conn: Connection, keymap: KeyMap, mapped: Sequence[Mapped], note: Mapping[str, Any]) -> None:
    """Loads keys that the database does not have: three commits.

    1. Eids are reserved, and `note` is kept with the block, marked as unsettled. 2. The columns are loaded. 3. Their digests
    join the bucket sums, and the mark goes. Killed after 1 it leaves unused eids, after 2 sums that say of themselves that
    they do not count.

    Raises:
        TransactionError: `tx/unique` when another writer has added one of the keys meanwhile; nothing was loaded.
    """
    new = NewKeys(keymap)
    new.prepare(conn.db(), mapped)
    for m in mapped:
        new.add(m)
    first = _reserve(conn, new.count, {**note, UNSETTLED: True})
    mark = first + new.count

    def settle(db: Db) -> list[Any]:
        if not any(datom.a == UNSETTLED for datom in db.datoms("eavt", mark)):
            return []  # a recount saw the rows and counted them
        return [*bucket_operations(db, new.sums), [":db/retract", mark, UNSETTLED, True]]

    try:
        conn.load(new.columns(first))
    except TransactionError:
        conn.transact([[":db/retract", mark, UNSETTLED, True]])
        raise
    conn.transact([[":db.fn/call", settle]])


def _reserve(conn: Connection, n: int, note: Mapping[str, Any]) -> int:
    """Reserves `n` eids and returns the first; `note` is kept as the last of them, which marks the block as taken.

    One small transaction: the highest eid in use is read inside the write transaction.
    """
    found: list[int] = []

    def block(db: Db) -> list[dict[str, Any]]:
        found[:] = [db.snapshot.max_eid + 1]
        return [{":db/id": found[0] + n, **note}]

    conn.transact([[":db.fn/call", block]])
    return found[0]


class NewKeys:
    """Keys that the database does not have, gathered into columns for `conn.load`.

    Lifecycle: 1. `prepare` and `add` keys; 2. `count` eids are reserved; 3. `columns(first)` gives the columns, with the
    eids from `first` on. Until then an entity is numbered from 0; one that exists already stands as -1 - its eid.
    """

    def __init__(self, keymap: KeyMap) -> None:
        self._keymap = keymap
        self._columns: dict[str, tuple[list[int], list[Any]]] = {}
        self._links: dict[str, tuple[list[int], list[int]]] = {}
        self._shared: dict[tuple[str, Any], int] = {}
        self.count = 0
        self.keys = 0
        self.sums: Sums = {}

    def prepare(self, db: Db, mapped: Sequence[Mapped]) -> None:
        """Finds the shared entities that exist already, for all these keys at once."""
        wanted: dict[str, list[Any]] = {}
        for m in mapped:
            identity, facts = _shared_facts(m)
            if identity is not None and facts is not None:
                wanted.setdefault(identity, []).append(facts[identity])
        for attr, values in wanted.items():
            for value, eid in _find_shared(db, attr, values).items():
                self._shared.setdefault((attr, value), -1 - eid)

    def add(self, mapped: Mapped) -> None:
        """Adds a key; `prepare` has seen it."""
        key = self._number()
        self.keys += 1
        add_digest(self.sums, digest_bucket(self._keymap, mapped.key), mapped.digest, 1)
        self._put(key, {KEY: mapped.key, KIND: mapped.rule.kind, VERSION: 1, DIGEST: mapped.digest})
        if mapped.rest is not None:
            self._put(key, {REST: mapped.rest})
        rule = mapped.rule
        owner = None
        if rule.owner is not None and mapped.owner is not None:
            owner = self._entity(mapped.owner, rule.owner.identity)
            self._link(ENTITY, key, owner)
        for facts in mapped.entities:
            entity = self._entity(facts, rule.identity)
            self._link(ENTITY, key, entity)
            if owner is not None and rule.owner is not None:
                self._link(rule.owner.children, owner, entity)
                self._link(rule.owner.parent, entity, owner)

    def _number(self) -> int:
        self.count += 1
        return self.count - 1

    def _entity(self, facts: Facts, identity: str | None) -> int:
        if identity is None:
            entity = self._number()
            self._put(entity, facts)
            return entity
        known = self._shared.get((identity, facts[identity]))
        if known is None:
            known = self._shared[identity, facts[identity]] = self._number()
            self._put(known, facts)
        else:
            self._put(known, {a: v for a, v in facts.items() if a != identity})
        return known

    def _put(self, entity: int, facts: Facts) -> None:
        columns = self._columns
        for attr, value in facts.items():
            column = columns.get(attr)
            if column is None:
                column = columns[attr] = ([], [])
            if value.__class__ is list:
                column[0].extend([entity] * len(value))
                column[1].extend(value)
            else:
                column[0].append(entity)
                column[1].append(value)

    def _link(self, attr: str, source: int, target: int) -> None:
        column = self._links.setdefault(attr, ([], []))
        column[0].append(source)
        column[1].append(target)

    def columns(self, first: int) -> dict[str, tuple[list[int], list[Any]]]:
        """The columns for `conn.load`, for a block of eids that begins with `first`."""

        def eids(numbers: list[int]) -> list[int]:
            return [first + n if n >= 0 else -1 - n for n in numbers]

        out: dict[str, tuple[list[int], list[Any]]] = {a: (eids(e), v) for a, (e, v) in self._columns.items()}
        out.update((a, (eids(source), eids(target))) for a, (source, target) in self._links.items())
        return out


def _shared_facts(mapped: Mapped) -> tuple[str | None, Facts | None]:
    """(identity attribute, facts) of the shared entity of a key, if it has one."""
    if mapped.rule.owner is not None:
        return mapped.rule.owner.identity, mapped.owner
    return mapped.rule.identity, mapped.entities[0] if mapped.entities else None


def _find_shared(db: Db, attr: str, values: Sequence[Any]) -> dict[Any, int]:
    """The entities that have these values of a unique attribute: value -> eid."""
    if attr not in db.schema:
        return {}
    found = db.q(f"[:find ?v ?e :in $ [?v ...] :where [?e {attr} ?v]]", list(values))
    return dict(zip(found.column(0), found.column(1), strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# keys that exist: differences


class Changes:
    """Operations for `conn.transact` that bring keys from what is stored to what they are to be.

    Only differences are written. One `Changes` is one transaction: shared entities are judged for all its keys together.
    """

    def __init__(self, db: Db, keymap: KeyMap) -> None:
        self._db = db
        self._keymap = keymap
        self._leaving: dict[int, set[int]] = {}  # shared entity -> keys of this transaction that leave it
        self._left: list[tuple[int, int, Rule, tuple[str, Any]]] = []
        self._joining: set[tuple[str, Any]] = set()
        self._tempids = 0
        self._sums: Sums = {}
        self.operations: list[Any] = []
        self.keys = 0

    def put(self, stored: Stored, key: Keyword, value: Any) -> bool:
        """Adds what changes an existing key to a new value; False when nothing does."""
        rule = self._keymap.rule_of(key, value)[0]
        state = stored.state
        old_rule = None if state.deleted else self._keymap.rule_named(state.kind)
        same = old_rule is rule
        mapped = rule.encoded(key, value, _kept(rule, stored) if same else {})
        ops: list[Any] = []
        facts = {KIND: rule.kind, DIGEST: mapped.digest, REST: mapped.rest}
        held = {KIND: state.kind, DIGEST: state.digest, REST: stored.rest}
        self._diff(ops, state.eid, held, facts)
        if state.deleted:
            ops.append([":db/retract", state.eid, DELETED, True])
        if not same and old_rule is not None:
            self._leave(ops, stored, old_rule)
        self._entities(ops, state.eid, stored if same else None, mapped)
        if not ops:
            return False
        self._guarded(state, ops)
        self._recount(key, state, mapped.digest)
        return True

    def new(self, key: Keyword, value: Any) -> None:
        """Adds a key that the database does not have."""
        mapped = self._keymap.encoded(key, value)
        eid = self._tempid()
        ops: list[Any] = [
            [":db/cas", eid, VERSION, None, 1],  # fails when another writer has added the key meanwhile
            {":db/id": eid, KEY: key, KIND: mapped.rule.kind, DIGEST: mapped.digest},
        ]
        if mapped.rest is not None:
            ops.append([":db/add", eid, REST, mapped.rest])
        self._entities(ops, eid, None, mapped)
        self.operations += ops
        self.keys += 1
        add_digest(self._sums, digest_bucket(self._keymap, key), mapped.digest, 1)

    def delete(self, stored: Stored, key: Keyword) -> bool:
        """Adds what makes a key deleted: its entities go, the key stays as a tombstone; False when it is one already."""
        state = stored.state
        if state.deleted:
            return False
        ops: list[Any] = [[":db/add", state.eid, DELETED, True]]
        self._diff(ops, state.eid, {DIGEST: state.digest, REST: stored.rest}, {DIGEST: None, REST: None})
        self._leave(ops, stored, self._keymap.rule_named(state.kind))
        self._guarded(state, ops)
        self._recount(key, state, None)
        return True

    def finished(self) -> list[Any]:
        """The operations, with what becomes of the shared entities that were left."""
        gone: set[int] = set()
        for entity, key, rule, identity in self._left:
            others = self._db.q(f"[:find [?k ...] :in $ ?e :where [?k {ENTITY} ?e]]", entity)
            if identity not in self._joining and set(others) <= self._leaving[entity]:
                gone.add(entity)
                continue
            self.operations.append([":db/retract", key, ENTITY, entity])
            owned = rule.owned if rule.owner is None else frozenset()
            known = self._db.schema
            self.operations += [[":db/retractAttribute", entity, a] for a in sorted(owned) if a in known]
        self.operations += [[":db/retractEntity", entity] for entity in sorted(gone)]
        self._left.clear()
        self.operations += bucket_operations(
            self._db, {b: change for b, change in self._sums.items() if change != (0, 0)}
        )
        self._sums.clear()
        return self.operations

    def _recount(self, key: Keyword, state: KeyState, digest: int | None) -> None:
        bucket = digest_bucket(self._keymap, key)
        if state.digest is not None and not state.deleted:
            add_digest(self._sums, bucket, state.digest, -1)
        if digest is not None:
            add_digest(self._sums, bucket, digest, 1)

    def _guarded(self, state: KeyState, ops: list[Any]) -> None:
        self.operations.append([":db/cas", state.eid, VERSION, state.version or None, state.version + 1])
        self.operations += ops
        self.keys += 1

    def _tempid(self) -> str:
        self._tempids += 1
        return f"new-{self._tempids}"

    @staticmethod
    def _diff(ops: list[Any], eid: int, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Adds and retracts, attribute by attribute; None and absence say the same."""
        for attr in held.keys() | wanted.keys():
            old, new = held.get(attr), wanted.get(attr)
            if old.__class__ is list or new.__class__ is list:
                had, has = ({strict_key(v): v for v in values or ()} for values in (old, new))
                ops += [[":db/retract", eid, attr, v] for k, v in had.items() if k not in has]
                ops += [[":db/add", eid, attr, v] for k, v in has.items() if k not in had]
            elif new is None:
                if old is not None:
                    ops.append([":db/retract", eid, attr, old])
            elif not strict_equal(old, new):
                ops.append([":db/add", eid, attr, new])

    def _entities(self, ops: list[Any], key: int | str, stored: Stored | None, mapped: Mapped) -> None:
        rule = mapped.rule
        owner: Any = None
        if rule.owner is not None and mapped.owner is not None:
            owner = stored.owner(rule) if stored is not None else None
            if owner is None:
                owner = self._joined(ops, key, rule.owner.identity, mapped.owner)
        held = {} if stored is None else stored.mapped(rule)
        if not rule.entries:
            (facts,) = mapped.entities
            if held:
                ((eid, old),) = held.items()
                self._diff(ops, eid, {a: v for a, v in old.items() if a in rule.owned}, _without(facts, rule.identity))
            elif rule.identity is not None:
                self._joined(ops, key, rule.identity, facts)
            else:
                self._added(ops, key, facts, None, None)
            return
        assert rule.entry is not None
        by_entry = {strict_key(old[rule.entry.attr]): (eid, old) for eid, old in held.items()}
        for facts in mapped.entities:
            found = by_entry.pop(strict_key(facts[rule.entry.attr]), None)
            if found is None:
                self._added(ops, key, facts, rule, owner)
            else:
                self._diff(ops, found[0], found[1], facts)
        ops += [[":db/retractEntity", eid] for eid, _ in by_entry.values()]

    def _added(self, ops: list[Any], key: int | str, facts: Facts, rule: Rule | None, owner: Any) -> None:
        entity = self._tempid()
        ops.append({":db/id": entity, **facts})
        ops.append([":db/add", key, ENTITY, entity])
        if rule is not None and rule.owner is not None and owner is not None:
            ops.append([":db/add", owner, rule.owner.children, entity])
            ops.append([":db/add", entity, rule.owner.parent, owner])

    def _joined(self, ops: list[Any], key: int | str, identity: str, facts: Facts) -> str:
        """A shared entity, found by its identity or made: the transaction's upsert decides."""
        self._joining.add((identity, facts[identity]))
        entity = f"shared {identity} {facts[identity]}"  # one tempid for all keys of this transaction that share it
        ops.append({":db/id": entity, **facts})
        ops.append([":db/add", key, ENTITY, entity])
        return entity

    def _leave(self, ops: list[Any], stored: Stored, rule: Rule) -> None:
        for eid in stored.mapped(rule):
            if rule.identity is None:
                ops.append([":db/retractEntity", eid])
            else:
                self._leave_shared(stored, eid, rule)
        owner = stored.owner(rule)
        if owner is not None:
            self._leave_shared(stored, owner, rule)

    def _leave_shared(self, stored: Stored, eid: int, rule: Rule) -> None:
        self._leaving.setdefault(eid, set()).add(stored.state.eid)
        identity = rule.identity if rule.owner is None else rule.owner.identity
        assert identity is not None
        self._left.append((eid, stored.state.eid, rule, (identity, stored.entities[eid].get(identity))))


def _without(facts: Facts, attr: str | None) -> Facts:
    return {a: v for a, v in facts.items() if a != attr}


def _kept(rule: Rule, stored: Stored) -> dict[Any, dict[str, Any]]:
    """What is stored of the rule's write-once attributes, by entry."""
    once = [p.attr for p in rule.parts if p.once]
    if not once:
        return {}
    return {
        (strict_key(facts[rule.entry.attr]) if rule.entry is not None else None): {
            a: facts[a] for a in once if a in facts
        }
        for facts in stored.mapped(rule).values()
    }
