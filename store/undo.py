"""Taking back one transaction from its before-images in the log, exactly, or saying why that is not possible.

Everything here is a comparison of three states: before the transaction, right after it, and now. The log entry of the
transaction gives the first difference, the entries after it the second (net: what was changed and changed back is no
change). What the transaction added is retracted, what it retracted is asserted, attributes included; they are entities with
datoms of their own, so a rename, a type or a deleted attribute comes back by its id, and old values by their old codes.

Where a later transaction changed the same fact there is a `Conflict`. `force` decides those in favour of the state before:
what was written later to these facts is lost, and named. Composite tuples are never compared: they are made again.
Datoms of transaction entities (what was noted about a transaction) are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from store.cache import ColumnCache
from store.columns import EMPTY, contains, order_rows
from store.datom import FIRST_ATTRIBUTE, FIRST_TX
from store.edn import Vector, show_form
from store.errors import TransactionError, UserError
from store.log import log_key, read_log_key, unpack_part
from store.overlay import Overlay
from store.resolve import encode, show_code
from store.schema import IDENT, read_attributes
from store.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from store.committed import Committed
    from store.dictionary import OverlayCodes
    from store.environment import ReadTxn
    from store.schema import Attribute, Schema

    Codes = NDArray[np.int64]
    Row = tuple[int, int, int, int]

_SHOWN: Final = 20
_FORCEABLE: Final = frozenset(("changed", "written", "type", "dangling"))


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a fact cannot simply go back. `kind`: changed, written, type, dangling, schema, cardinality, unique, name."""

    kind: str
    attribute: str
    message: str
    entities: tuple[int, ...] = ()
    tx: int = 0  # the newest transaction that is in the way
    count: int = 1

    @property
    def forceable(self) -> bool:
        """Whether `force` overrules it."""
        return self.kind in _FORCEABLE

    def as_dict(self) -> dict[str, Any]:
        """The conflict as plain data."""
        return {
            "kind": self.kind, "attribute": self.attribute, "message": self.message, "entities": list(self.entities),
            "tx": self.tx, "count": self.count, "forceable": self.forceable,
        }  # fmt: skip


@dataclass(slots=True)
class Undone:
    """What taking a transaction back means. `logged` counts what the log has of it: {attribute's eid: (asserted, retracted)}."""

    tx: int
    steps: list[tuple[list[Row], Schema]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    logged: dict[int, tuple[int, int]] = field(default_factory=dict)
    committed: Committed | None = None
    recoded: frozenset[int] = frozenset()

    def blocked(self, *, force: bool) -> bool:
        """True when a conflict forbids it."""
        return any(not (force and c.forceable) for c in self.conflicts)

    def rows(self) -> list[Row]:
        """The rows of all steps."""
        return [row for rows, _ in self.steps for row in rows]


def read_transaction(log: ReadTxn, tx: int) -> Codes:
    """The log of one transaction, int64 (n, 4): e, aid, v code, operation; without its own datoms.

    Raises:
        TransactionError: `tx/unlogged` when the log does not have it.
    """
    parts = []
    for key, data in log.items(b"L", log_key(tx)):
        if read_log_key(key)[0] != tx:
            break
        columns = unpack_part(data, key)
        if len(columns) == 5:  # a baseline: what was current at a compaction, not what one transaction did
            break
        parts.append(np.column_stack(columns))
    if not parts:
        raise TransactionError(
            "tx/unlogged",
            f"The log has no transaction {tx}: it was never made, or `compact` dropped it with what lies before it.",
            hint="restore a backup from before it, or write a transaction that puts right what it did",
        )
    table = np.concatenate(parts)
    done: Codes = table[(table[:, 0] < FIRST_TX) | (table[:, 0] >= FIRST_ATTRIBUTE)]
    return done


def read_later(log: ReadTxn, tx: int, newest: Codes) -> Codes:
    """The net changes since a transaction, int64 (n, 5): e, aid, v code, operation, last tx; without transactions' own.

    `newest` are rows of the same form that are not in the log yet.
    """
    parts = []
    for at, data in log.items(b"L", log_key(tx + 1)):
        e, a, v, operation = unpack_part(data, at)[:4]
        keep = (e < FIRST_TX) | (e >= FIRST_ATTRIBUTE)
        if keep.any():
            txs = np.full(len(e), read_log_key(at)[0], dtype=np.int64)
            parts.append(np.column_stack((e, a, v, operation, txs))[keep])
    parts.append(newest[(newest[:, 0] < FIRST_TX) | (newest[:, 0] >= FIRST_ATTRIBUTE)])
    table = np.concatenate(parts)
    if not len(table):
        return table
    table = table[np.lexsort((table[:, 2], table[:, 3] >> 1, table[:, 1], table[:, 0]))]
    key = np.column_stack((table[:, :3], table[:, 3] >> 1))
    differs = (key[1:] != key[:-1]).any(axis=1)
    first, last = np.concatenate(([True], differs)), np.concatenate((differs, [True]))
    began = table[first, 3][np.cumsum(first) - 1]
    net: Codes = table[last & (table[:, 3] == began)]
    return net


def read_origins(log: ReadTxn, aid: int, passing: frozenset[int]) -> dict[tuple[int, int], int]:
    """The transaction that asserted each (e, v code) of an attribute last, those `passing` left out where there is another.

    What an undo brings back has the undo's own tx; with it in `passing` this tells when a datom was really written. A datom
    is in the result only when a transaction of `passing` asserted it again.
    """
    known: dict[tuple[int, int, int], int] = {}
    again: dict[tuple[int, int], int] = {}
    for key, data in log.items(b"L", log_key(0)):
        columns = unpack_part(data, key)
        mine = columns[1] == aid
        if not mine.any():
            continue
        tx = read_log_key(key)[0]
        txs = columns[4][mine].tolist() if len(columns) == 5 else [tx] * int(mine.sum())
        e, v, operation = (columns[i][mine].tolist() for i in (0, 2, 3))
        for at, eid, code, op in zip(txs, e, v, operation, strict=True):
            if not op & 1:
                continue
            if at in passing and (eid, op >> 1, code) in known:
                again[eid, code] = known[eid, op >> 1, code]
            else:
                known[eid, op >> 1, code] = at
                again.pop((eid, code), None)
    return again


def undo(now: Snapshot, codes: OverlayCodes, tx: int, log: ReadTxn, newest: Codes, new_tx: int) -> Undone:
    """What takes transaction `tx` back from the state `now`: rows and schemas in steps, conflicts, what the log has.

    Raises:
        TransactionError: `tx/unlogged` when the log does not have the transaction.
    """
    return _Undo(now, codes, read_transaction(log, tx), read_later(log, tx, newest), tx, new_tx).run()


class _Undo:
    """The work of `undo`: schema first, then attribute by attribute, then composites, then the checks."""

    def __init__(self, now: Snapshot, codes: OverlayCodes, done: Codes, later: Codes, tx: int, new_tx: int) -> None:
        self._now, self._codes, self._new_tx = now, codes, new_tx
        self._done, self._later = done, later
        self._result = Undone(tx)
        self._conflicts = self._result.conflicts

    def run(self) -> Undone:
        done, result = self._done, self._result
        for aid in np.unique(done[:, 1]).tolist():
            added = done[done[:, 1] == aid, 3] & 1
            result.logged[FIRST_ATTRIBUTE + aid] = (int(added.sum()), int(len(added) - added.sum()))
        of_schema = done[:, 0] >= FIRST_ATTRIBUTE
        schema_rows = self._schema_rows(done[of_schema])
        old = self._now.schema
        new = self._schema_after(schema_rows) if schema_rows else old
        data = done[~of_schema]
        rows: list[Row] = []
        retyped = {
            a.aid for a in new.user_attributes()
            if old.has_aid(a.aid) and _shape(old.by_aid(a.aid)) != _shape(a) and not a.tuple_attrs
        }  # fmt: skip
        gone = {a.aid for a in old.user_attributes() if not new.has_aid(a.aid)}
        touched: set[int] = set()
        for aid in sorted(set(data[:, 1].tolist()) | retyped | gone):
            if _is_composite(old, aid) or _is_composite(new, aid):
                continue
            more = self._attribute_rows(aid, data[data[:, 1] == aid], old, new)
            touched.update([aid] if more else [])
            rows += more
        result.recoded = frozenset(
            a.aid for a in new.user_attributes() if old.has_aid(a.aid) and old.by_aid(a.aid).kind is not a.kind
        )
        for a in old.user_attributes():  # a composite that goes, or is no composite any more
            if a.tuple_attrs and not _is_composite(new, a.aid):
                rows += [(e, a.aid, v, 0) for e, v in _pairs(self._now, a.aid)]
                was_plain = data[(data[:, 1] == a.aid) & ((data[:, 3] & 1) == 0)] if new.has_aid(a.aid) else data[:0]
                rows += [(e, a.aid, v, 1) for e, _, v, _ in was_plain.tolist()]
        rows.sort(key=lambda row: row[3])  # retractions first
        result.steps.append((schema_rows + rows, new))
        after = self._view(schema_rows + rows, new)
        composite_rows = self._composites(after, old, new, touched | retyped)
        if composite_rows:
            result.steps.append((composite_rows, new))
            after = self._view(schema_rows + rows + composite_rows, new)
        self._check(after, old, new, touched | {row[1] for row in composite_rows})
        return result

    # -- schema

    def _schema_rows(self, done: Codes) -> list[Row]:
        """The inverse of the transaction's datoms about attributes."""
        later = self._later[self._later[:, 0] >= FIRST_ATTRIBUTE]
        rows: list[Row] = []
        names = done[done[:, 1] == IDENT]
        created = set(names[(names[:, 3] & 1) == 1, 0].tolist()) - set(names[(names[:, 3] & 1) == 0, 0].tolist())
        for e, aid in dict.fromkeys(map(tuple, done[:, :2].tolist())):
            mine = done[(done[:, 0] == e) & (done[:, 1] == aid)]
            # an attribute that goes must not leave behind what was said about it since
            changed = later[(later[:, 0] == e) & ((later[:, 1] == aid) | ((e in created) & (aid == IDENT)))]
            if len(changed):
                known = self._now.schema.has_aid(e - FIRST_ATTRIBUTE)
                name = self._now.schema.by_aid(e - FIRST_ATTRIBUTE).ident if known else "an attribute deleted since"
                newest = int(changed[:, 4].max())
                what = self._now.schema.by_aid(aid).ident
                self._add("schema", name, f"{name}: transaction {newest} changed {what} of it later.", tx=newest)
                continue
            rows += [(e, aid, v, 1 - (operation & 1)) for _, _, v, operation in mine.tolist()]
        return sorted(rows, key=lambda row: row[3])

    def _schema_after(self, rows: list[Row]) -> Schema:
        """The schema that the attributes' datoms say with these rows."""
        names: dict[str, int] = {}
        schema = read_attributes(self._view(rows, self._now.schema), self._new_tx)
        for a in schema.user_attributes():
            if a.ident in names:
                self._add("name", a.ident, f"{a.ident} would be the name of two attributes: one was given it later.")
            names[a.ident] = a.aid
        return schema

    def _view(self, rows: list[Row], schema: Schema) -> Snapshot:
        now, tx = self._now, self._new_tx
        overlay = Overlay()
        overlay.append([(e, a, v, tx, added) for e, a, v, added in rows])
        layers = (*(now.layers or (Overlay().view(),)), overlay.view())
        view = Snapshot(now.base, layers, schema, now.dictionary, ColumnCache(0), tx, self._codes)
        view.unbuilt = frozenset(a.aid for a in schema.all_attributes() if a.indexed)  # columns, not indexes
        return view

    # -- data

    def _attribute_rows(self, aid: int, done: Codes, old: Schema, new: Schema) -> list[Row]:
        """The rows that bring one attribute's datoms back."""
        later = self._later[(self._later[:, 1] == aid) & (self._later[:, 0] < FIRST_TX)]
        added, retracted = done[(done[:, 3] & 1) == 1], done[(done[:, 3] & 1) == 0]
        later_added = later[(later[:, 3] & 1) == 1]
        goes, comes = not new.has_aid(aid), not old.has_aid(aid)
        attribute = new.by_aid(aid) if not goes else old.by_aid(aid)
        if comes:  # deleted by the transaction: nothing can have been written since
            return [(e, aid, v, 1) for e, _, v, _ in retracted.tolist()]
        held_e, held_v = self._held(aid)
        removed = _in(held_e, held_v, added[:, 0], added[:, 2])
        drops = {(e, v) for e, v in added[removed][:, [0, 2]].tolist()}
        before = retracted
        if goes:
            if len(later_added):
                self._conflict("written", old.by_aid(aid), later_added,
                               "the attribute would go, but {n} of its datoms were written since")  # fmt: skip
            return [(e, aid, v, 0) for e, v in zip(held_e.tolist(), held_v.tolist(), strict=True)]
        if len(later):
            before, lost = self._compare(attribute, added, retracted, later, later_added)
            drops |= lost
        recodes = _shape(old.by_aid(aid)) != _shape(attribute)
        adds = {(e, v) for e, v in before[:, [0, 2]].tolist()}
        if recodes:
            more_drops, more_adds = self._recode(old.by_aid(aid), attribute, held_e, held_v, drops)
            drops |= more_drops
            adds |= more_adds
        if not (recodes and old.by_aid(aid).kind is not attribute.kind):
            # codes of one space: what is there already, and stays, is no change
            present = set(zip(held_e.tolist(), held_v.tolist(), strict=True)) if adds else set()
            stays = drops & adds
            drops, adds = drops - stays, {row for row in adds - stays if row not in present}
        if attribute.is_ref and adds:
            adds = self._without_dangling(attribute, adds)
        return [(e, aid, v, 0) for e, v in sorted(drops)] + [(e, aid, v, 1) for e, v in sorted(adds)]

    def _compare(
        self, attribute: Attribute, added: Codes, retracted: Codes, later: Codes, later_added: Codes
    ) -> tuple[Codes, set[tuple[int, int]]]:
        """What may be restored, and what was written later and is to go, of an attribute that was changed since."""
        if attribute.many:
            # values of one entity are facts of their own: only one that was removed later is in the way of nothing
            return retracted, set()
        ours = np.unique(np.concatenate((added[:, 0], retracted[:, 0])))
        was = set(map(tuple, retracted[:, [0, 2]].tolist()))
        rewritten = later_added[np.isin(later_added[:, 0], ours)]
        rewritten = rewritten[[(e, v) not in was for e, v in rewritten[:, [0, 2]].tolist()]]  # put back by somebody
        emptied = later[np.isin(later[:, 0], retracted[:, 0]) & ~np.isin(later[:, 0], later_added[:, 0])]
        if len(rewritten):
            self._conflict("changed", attribute, rewritten, "{n} values were changed again since")
        if len(emptied):
            self._conflict("changed", attribute, emptied, "{n} values that would come back were retracted since")
        return retracted, {(e, v) for e, v in rewritten[:, [0, 2]].tolist()}

    def _recode(
        self, old: Attribute, new: Attribute, held_e: Codes, held_v: Codes, drops: set[tuple[int, int]]
    ) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Datoms that the transaction did not write, under the old type: those that fit it come over."""
        left = [(e, v) for e, v in zip(held_e.tolist(), held_v.tolist(), strict=True) if (e, v) not in drops]
        if not left:
            return set(), set()
        values = self._now.decode(old, np.array([v for _, v in left], dtype=np.int64))
        gone, come = set(), set()
        unfit: list[tuple[int, Any]] = []
        for (e, v), value in zip(left, values, strict=True):
            try:
                code = encode(new, value, self._codes)
            except UserError:
                unfit.append((e, value))
                gone.add((e, v))
                continue
            if code != v or old.kind is not new.kind:
                gone.add((e, v))
                come.add((e, code))
        if unfit:
            shown = ", ".join(f"[{e} {new.ident} {show_form(value)}]" for e, value in unfit[:5])
            message = f"{new.ident}: {len(unfit)} values written since do not fit {_type_name(new)}: {shown}."
            self._add("type", new.ident, message, [e for e, _ in unfit], len(unfit))
        return gone, come

    def _without_dangling(self, attribute: Attribute, adds: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Refs whose entity was retracted since are a conflict; forced, they stay away."""
        erased = self._later[(self._later[:, 3] & 1 == 0) & (self._later[:, 0] < FIRST_TX)]
        suspects = set(erased[:, 0].tolist())
        ours = set(self._done[(self._done[:, 3] & 1) == 0][:, 0].tolist())
        dangling = [
            (e, v) for e, v in adds if v in suspects and v not in ours and not len(self._now.entity(v).e)
        ]  # fmt: skip
        if dangling:
            shown = ", ".join(str(v) for _, v in sorted(dangling)[:5])
            message = (
                f"{attribute.ident}: {len(dangling)} references would come back to entities retracted since: {shown}."
            )
            self._add("dangling", attribute.ident, message, sorted(e for e, _ in dangling), len(dangling))
        return adds - set(dangling)

    def _held(self, aid: int) -> tuple[Codes, Codes]:
        if not self._now.count(aid):
            return EMPTY, EMPTY
        columns = self._now.columns(aid)
        end = int(np.searchsorted(columns.e, FIRST_TX))
        return columns.e[:end], columns.v[:end]

    def _conflict(self, kind: str, attribute: Attribute, rows: Codes, text: str) -> None:
        of_now = self._now.schema.by_aid(attribute.aid)
        eids = list(dict.fromkeys(rows[:, 0].tolist()))
        newest = int(rows[:, 4].max())
        e, _, v, operation, _ = rows[0].tolist()
        example = ""
        if operation & 1 and (operation >> 1) == int(of_now.kind):
            example = f", for example [{e} {of_now.ident} {show_code(of_now, v, self._codes)}]"
        message = f"{attribute.ident}: {text.format(n=len(rows))}, last by transaction {newest}{example}."
        self._add(kind, attribute.ident, message, eids, len(rows), newest)

    def _add(
        self, kind: str, attribute: str, message: str, eids: Iterable[int] = (), count: int = 1, tx: int = 0
    ) -> None:
        self._conflicts.append(Conflict(kind, attribute, message, tuple(islice(eids, _SHOWN)), tx, count))

    # -- composites and checks

    def _composites(self, after: Snapshot, old: Schema, new: Schema, touched: set[int]) -> list[Row]:
        """The rows that make composite tuples again whose members, or definition, changed."""
        rows: list[Row] = []
        for composite in new.user_attributes():
            members = [new.find(ident) for ident in composite.tuple_attrs]
            if not members or None in members:
                continue
            was = old.by_aid(composite.aid) if old.has_aid(composite.aid) else None
            known = [m for m in members if m is not None]
            same = was is not None and [a.aid if (a := old.find(i)) else 0 for i in was.tuple_attrs] == [
                m.aid for m in known
            ]
            if same and not any(m.aid in touched for m in known):
                continue
            rows += self._fill(after, composite, known)
        return sorted(rows, key=lambda row: row[3])

    def _fill(self, after: Snapshot, composite: Attribute, members: list[Attribute]) -> Iterator[Row]:
        values: list[dict[int, Any]] = []
        for member in members:
            columns = after.columns(member.aid)
            values.append(dict(zip(columns.e.tolist(), after.decode(member, columns.v), strict=True)))
        eids = sorted(set().union(*values))
        wanted_codes = self._codes.encode_many([Vector([v.get(e) for v in values]) for e in eids]) if eids else EMPTY
        wanted = set(zip(eids, wanted_codes.tolist(), strict=True))
        held = set(_pairs(after, composite.aid))
        yield from ((e, composite.aid, v, 0) for e, v in sorted(held - wanted))
        yield from ((e, composite.aid, v, 1) for e, v in sorted(wanted - held))

    def _check(self, after: Snapshot, old: Schema, new: Schema, touched: set[int]) -> None:
        """Cardinality and uniqueness, of what changed, in the state after."""
        for a in new.user_attributes():
            was = old.by_aid(a.aid) if old.has_aid(a.aid) else None
            if a.aid not in touched and was is not None and (was.many, was.unique) == (a.many, a.unique):
                continue
            if not after.count(a.aid):
                continue
            columns = after.columns(a.aid)
            twice = np.flatnonzero(columns.e[1:] == columns.e[:-1])
            if not a.many and len(twice):
                eids = columns.e[twice].tolist()
                shown = ", ".join(map(str, eids[:5]))
                message = f"{a.ident} would have cardinality one again, but {len(twice)} entities got several values: {shown}."
                self._add("cardinality", a.ident, message, eids, len(twice))
            if a.unique is not None:
                self._check_unique(a, after, columns.e, columns.v)

    def _check_unique(self, a: Attribute, after: Snapshot, e: Codes, v: Codes) -> None:
        order = order_rows(v, e)
        if order is not None:
            e, v = e[order], v[order]
        twice = np.flatnonzero(v[1:] == v[:-1])
        if a.tuple_attrs and len(twice):  # a partial composite is not unique
            whole = [None not in value for value in after.decode(a, v[twice])]
            twice = twice[np.array(whole, dtype=bool)]
        if len(twice):
            i = int(twice[0])
            shown = f"{show_code(a, int(v[i]), self._codes)} by {int(e[i])} and {int(e[i + 1])}"
            message = f"{a.ident} is unique, but {len(twice)} values would be held twice: {shown}."
            self._add("unique", a.ident, message, e[twice].tolist(), len(twice))


def _pairs(snapshot: Snapshot, aid: int) -> list[tuple[int, int]]:
    if not snapshot.count(aid):
        return []
    columns = snapshot.columns(aid)
    return list(zip(columns.e.tolist(), columns.v.tolist(), strict=True))


def _in(held_e: Codes, held_v: Codes, e: Codes, v: Codes) -> NDArray[np.bool_]:
    order = order_rows(e, v)
    if order is None:
        return contains(held_e, held_v, e, v)
    found = np.empty(len(e), dtype=bool)
    found[order] = contains(held_e, held_v, e[order], v[order])
    return found


def _is_composite(schema: Schema, aid: int) -> bool:
    return schema.has_aid(aid) and bool(schema.by_aid(aid).tuple_attrs)


def _shape(a: Attribute) -> tuple[str | None, tuple[str, ...], str | None]:
    return a.type, a.tuple_types, a.tuple_type


def _type_name(a: Attribute) -> str:
    return f":db.type/{a.type}" if a.type else "an untyped attribute"
