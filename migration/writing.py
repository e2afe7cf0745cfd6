"""Brings keys of the database to what they are to be, whatever they are now: the one way in which values get there.

Takes entries (or None for a key that is not to be there), gives what became of them. One call is one transaction for up to a
few hundred keys, built inside the write transaction from what is stored then: two writers, also of two processes, follow
each other, and doing the same again writes nothing. `bring_many` is for backfills: new keys in bulk, the rest by `bring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from migration.entities import Changes, fetch, key_states, load_new
from migration.rules import KEY
from store.errors import TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datalog import Connection, Db
    from migration.entities import Stored
    from migration.entry import Entry
    from migration.keymap import KeyMap
    from store.edn import Keyword

__all__ = ["Brought", "bring", "bring_many", "change"]

_BULK: Final = 200  # new keys from which a bulk load pays
_PART: Final = 250  # keys in one transaction
_NO_OPERATIONS: Final[Callable[[Any], list[Any]]] = lambda _db: []  # noqa: E731


@dataclass(slots=True)
class Brought:
    """What became of the keys; `basis` is (before, after) of the transaction, (0, 0) when there were several."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    basis: tuple[int, int] = (0, 0)

    def add(self, other: Brought) -> None:
        """Adds the counts of another."""
        self.added += other.added
        self.changed += other.changed
        self.deleted += other.deleted
        self.unchanged += other.unchanged

    @property
    def written(self) -> int:
        """Keys that were not as they had to be."""
        return self.added + self.changed + self.deleted


def bring(
    conn: Connection,
    keymap: KeyMap,
    wanted: Mapping[Keyword, Entry | None],
    *,
    note: Callable[[Db], list[Any]] = _NO_OPERATIONS,
    distrust: bool = False,
) -> Brought:
    """Brings keys to their entries, those with None to deletion, in one transaction.

    Args:
        conn: the database, which has the mapping's schema.
        keymap: the mapping.
        wanted: key -> entry, or None.
        note: gives operations for the same transaction.
        distrust: look at the attributes of keys whose digest is right, too; for repairs.

    Raises:
        KeyMapError, TransactionError: a key cannot be written as it is; nothing was.
        StorageError: the database failed; nothing was written.
    """
    out = Brought()

    def operations(db: Db) -> list[Any]:
        stored = fetch(db, keymap, list(wanted))
        changes = Changes(db, keymap)
        for key, entry in wanted.items():
            _bring_one(changes, out, stored.get(key), key, entry, distrust=distrust)
        return [*changes.finished(), *note(db)]

    report = conn.transact([[":db.fn/call", operations]])
    out.basis = (report.db_before.basis_tx, report.tx)
    return out


def _bring_one(
    changes: Changes, out: Brought, stored: Stored | None, key: Keyword, entry: Entry | None, *, distrust: bool
) -> None:
    if entry is None:
        if stored is not None and changes.delete(stored, key):
            out.deleted += 1
        else:
            out.unchanged += 1
    elif stored is None:
        changes.new(key, entry.value)
        out.added += 1
    elif not distrust and not stored.state.deleted and stored.state.digest == entry.digest:
        out.unchanged += 1
    elif changes.put(stored, key, entry.value):
        out.changed += 1
    else:
        out.unchanged += 1


def change(
    conn: Connection, keymap: KeyMap, key: Keyword, changed: Callable[[Stored | None], Entry | None]
) -> tuple[int, int]:
    """Changes a key by a function of what is stored, inside the write transaction; returns (basis before, after).

    What `changed` raises goes on to the caller as it is, and nothing is written.
    """
    raised: list[Exception] = []

    def operations(db: Db) -> list[Any]:
        stored = fetch(db, keymap, [key]).get(key)
        try:
            entry = changed(stored)
        except Exception as e:
            raised.append(e)
            raise
        changes = Changes(db, keymap)
        _bring_one(changes, Brought(), stored, key, entry, distrust=False)
        return changes.finished()

    try:
        report = conn.transact([[":db.fn/call", operations]])
    except TransactionError as e:
        if raised:
            raise raised[0] from None
        raise e from e.__cause__
    return report.db_before.basis_tx, report.tx


def bring_many(
    conn: Connection,
    keymap: KeyMap,
    wanted: Mapping[Keyword, Entry | None],
    *,
    note: Callable[[Db], list[Any]] = _NO_OPERATIONS,
    block: Mapping[str, Any] | None = None,
) -> Brought:
    """`bring` for many keys, in as many transactions as it takes; `note` goes with the last one.

    New keys go in bulk, and must not be written by anybody else meanwhile: a backfill has the memory to itself.
    """
    out = Brought()
    db = conn.db()
    there = list(db.q(f"[:find [?k ...] :in $ [?k ...] :where [?e {KEY} ?k]]", list(wanted)))
    # one by one: whole columns, read for every chunk of a backfill, would make it quadratic
    states = {
        k: s for start in range(0, len(there), _PART) for k, s in key_states(db, there[start : start + _PART]).items()
    }
    new = [entry for key, entry in wanted.items() if entry is not None and key not in states]
    if len(new) >= _BULK:
        mapped = [keymap.encoded(e.key, e.value) for e in new]
        load_new(conn, keymap, mapped, block or {})
        out.added += len(new)
        loaded = {e.key for e in new}
        wanted = {key: entry for key, entry in wanted.items() if key not in loaded}
    # what is as it has to be needs no transaction
    left = {}
    for key, entry in wanted.items():
        state = states.get(key)
        if entry is None:
            same = state is None or state.deleted
        else:
            same = state is not None and not state.deleted and state.digest == entry.digest
        if same:
            out.unchanged += 1
        else:
            left[key] = entry
    for part in _parts(left):
        out.add(bring(conn, keymap, part))
    last = note(conn.db())
    if last:
        conn.transact(last)
    return out


def _parts(wanted: Mapping[Keyword, Entry | None]) -> Iterable[dict[Keyword, Entry | None]]:
    items = list(wanted.items())
    for start in range(0, len(items), _PART):
        yield dict(items[start : start + _PART])
