"""The database side at work: opened when it is first needed, read through a cache, written by `writing.py`.

Takes keys and entries, gives answers that know found, deleted and unknown apart. Knows nothing of stages and of EDN.

State that has to be in one transaction with the keys, on the entity `:memory.state/id "memory"`::

    :memory.state/store      the id that this database and the stage record share
    :memory.state/record     the stage record, EDN text         :memory.state/sequence   its sequence number
    :memory.state/applied    the journal's sequence number up to which all saves are in the database
    :memory.state/notes      EDN text: per kind, the epoch and whether it is clean, stale or complete; checkpoints; what was
                             verified when

The cache holds values by key for one basis. A transaction of ours carries it to its own basis, less the keys it wrote; when
anybody else has written, what the database says now is another basis, and all of the cache goes: what it answers is
always what the database would.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datalog as d
from migration.buckets import are_settled, bucket_sums, recount, signed
from migration.entities import fetch, fetch_one
from migration.importer import declare
from migration.writing import bring, bring_many, change
from store.edn import Keyword, Map, read_edn, write_edn
from store.errors import DatalogError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from datalog import Connection, Db
    from migration.buckets import Sums
    from migration.entities import Stored
    from migration.entry import Entry
    from migration.keymap import KeyMap
    from migration.writing import Brought

__all__ = ["DELETED", "UNKNOWN", "DatabaseSide", "total_of"]

STATE_SCHEMA: Final[dict[str, dict[str, Any]]] = {
    ":memory.state/id": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":memory.state/store": {":db/valueType": ":db.type/string", ":db/doc": "Shared with the stage record."},
    ":memory.state/record": {":db/valueType": ":db.type/string", ":db/index": False, ":db/noHistory": True},
    ":memory.state/sequence": {":db/valueType": ":db.type/long"},
    ":memory.state/applied": {":db/valueType": ":db.type/long", ":db/index": False, ":db/noHistory": True},
    ":memory.state/notes": {":db/valueType": ":db.type/string", ":db/index": False, ":db/noHistory": True},
}
_CACHED: Final = 100_000  # keys
_NOTHING: Final[Mapping[Keyword, Any]] = {}


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: answers of `read`: the key was deleted; the database never had it
DELETED: Final = _Mark("DELETED")
UNKNOWN: Final = _Mark("UNKNOWN")


class DatabaseSide:
    """The database of a memory.

    Args:
        database: a directory, opened when first needed and closed by `close`; or a connection, which stays the caller's.
        keymap: the mapping.
        sync: False for commits that a power failure may take away; for measuring only.

    Safe between threads.
    """

    def __init__(self, database: str | Path | Connection, keymap: KeyMap, *, sync: bool = True) -> None:
        self.keymap = keymap
        self.path = database.path if isinstance(database, d.Connection) else Path(database)
        self._given = database if isinstance(database, d.Connection) else None
        self._sync = sync
        self._conn: Connection | None = None
        self._lock = threading.RLock()
        self._cache: dict[Keyword, Any] = {}
        self._cache_basis = 0
        self._cache_lock = threading.Lock()
        self._writing = 0  # transactions of ours that are committed before the cache is carried over them
        self._state_eid = 0
        self._shut = False
        self._known: tuple[int, dict[Keyword, bool]] = (0, {})
        self._texts: tuple[Mapping[Keyword, bool], list[tuple[str, Keyword]]] = ({}, [])

    @property
    def is_open(self) -> bool:
        """True once it was needed."""
        return self._conn is not None

    @property
    def exists(self) -> bool:
        """True when there is a database to open; opens nothing."""
        return self._given is not None or (self.path / "data.mdb").exists()

    @property
    def conn(self) -> Connection:
        """The connection; opened, and given its schema, if need be.

        Raises:
            StorageError: it cannot be opened.
        """
        conn = self._conn
        return conn if conn is not None else self._open()

    def _open(self) -> Connection:
        with self._lock:
            if self._conn is not None:
                return self._conn
            if self._shut:
                raise StorageError("memory/closed", "This memory is closed.", hint="make a new MemoryStore.")
            conn = self._given or d.connect(self.path, sync=self._sync)
            try:
                declare(conn, self.keymap)
                conn_schema = conn.schema
                missing = {a: p for a, p in STATE_SCHEMA.items() if a not in conn_schema}
                if missing:
                    conn.update_schema(missing)
                eid = conn.db().entid([":memory.state/id", "memory"])
                if eid is None:
                    eid = conn.transact([{":db/id": "state", ":memory.state/id": "memory"}]).tempids["state"]
                if not are_settled(conn.db()):
                    recount(conn, self.keymap)
            except BaseException:
                if self._given is None:
                    conn.close()
                raise
            self._state_eid = eid
            self._conn = conn
            return conn

    def close(self, *, for_good: bool = False) -> None:
        """Closes the connection, unless it was given; it is opened again when needed, but not after `for_good`."""
        with self._lock:
            self._shut = self._shut or for_good
            conn, self._conn = self._conn, None
            with self._cache_lock:
                self._cache = {}
                self._cache_basis = 0
            if conn is not None and self._given is None:
                conn.close()

    def failed(self, e: Exception) -> None:
        """Takes note of an error: after one that makes the environment useless the next use opens it anew."""
        if (
            isinstance(e, StorageError)
            and e.code in ("store/poisoned", "store/io", "store/closed")
            and self._given is None
        ):
            self.close()

    # -- reading

    def read(self, key: Keyword) -> Any:
        """The value of a key, `DELETED`, or `UNKNOWN` when the database never had it.

        Cost: a dictionary lookup when it was read since anybody last wrote it; else about 0.2 ms.
        """
        db = self.conn.db()
        basis = db.basis_tx
        if basis == self._cache_basis:
            found = self._cache.get(key, _MISSING)
            if found is not _MISSING:
                return found
        value = self.value_of(fetch_one(db, self.keymap, key))
        with self._cache_lock:
            if self._cache_basis < basis and not self._writing:  # somebody else has written
                self._cache = {}
                self._cache_basis = basis
            if self._cache_basis == basis:
                self._keep(key, value)
        return value

    def _keep(self, key: Keyword, value: Any) -> None:
        if len(self._cache) >= _CACHED:
            self._cache.pop(next(iter(self._cache)), None)
        self._cache[key] = value

    def value_of(self, stored: Stored | None) -> Any:
        """The value of what is stored of a key, or `DELETED`, `UNKNOWN`."""
        if stored is None:
            return UNKNOWN
        return DELETED if stored.state.deleted else stored.value(self.keymap)

    def read_all(self, keys: Iterable[Keyword] | None = None, db: Db | None = None) -> dict[Keyword, Any]:
        """Every key the database ever had, or some, with its value or `DELETED`."""
        of = db if db is not None else self.conn.db()
        stored = fetch(of, self.keymap, None if keys is None else list(keys))
        return {key: self.value_of(one) for key, one in stored.items()}

    def known(self) -> Mapping[Keyword, bool]:
        """Every key the database ever had, in the order in which they came: True when it is there, False when deleted.

        Not to be changed. Cost: two column scans when anybody has written since.
        """
        db = self.conn.db()
        basis, known = self._known
        if basis != db.basis_tx:
            rows = db.q("[:find ?e ?k :where [?e :memory/key ?k] [?e :memory/kind]]")
            deleted = set(db.q("[:find [?e ...] :where [?e :memory/deleted? true]]"))
            pairs = zip(rows.column(0), rows.column(1), strict=True)
            known = {key: eid not in deleted for eid, key in sorted(pairs, key=_eid)}
            self._known = (db.basis_tx, known)
        return known

    def texts(self) -> list[tuple[str, Keyword]]:
        """(text, key) of the keys that are there; not to be changed."""
        known = self.known()
        of, texts = self._texts
        if of is not known:
            texts = [(str(key), key) for key, there in known.items() if there]
            self._texts = (known, texts)
        return texts

    def sums(self, db: Db | None = None) -> Sums:
        """The bucket sums, kept by transaction."""
        return bucket_sums(db if db is not None else self.conn.db())

    def counts(self) -> dict[str, int]:
        """Keys by kind of data."""
        out: dict[str, int] = {}
        for bucket, (_, count) in self.sums().items():
            kind = bucket.rpartition("/")[0]
            out[kind] = out.get(kind, 0) + count
        return out

    # -- writing

    def bring(
        self,
        wanted: Mapping[Keyword, Entry | None],
        *,
        applied: int | None = None,
        distrust: bool = False,
        believed: bool = False,
    ) -> Brought:
        """Brings keys to their entries in one transaction; see `writing.bring`.

        Args:
            wanted: key -> entry, or None.
            applied: the journal's number that goes with it.
            distrust: look at the attributes of keys whose digest is right, too.
            believed: the cache takes the values that were written; else those that were in it are read back.
        """
        state, conn = self._state_of(), self.conn

        def note(_: Db) -> list[Any]:
            return [] if applied is None else [[":db/add", state, ":memory.state/applied", applied]]

        with self._writes():
            brought = bring(conn, self.keymap, wanted, note=note, distrust=distrust)
            self._carried(brought.basis, wanted, refresh=not believed, known=wanted if believed else {})
        return brought

    def bring_many(self, wanted: Mapping[Keyword, Entry | None]) -> Brought:
        """Brings many keys in several transactions; see `writing.bring_many`."""
        try:
            return bring_many(self.conn, self.keymap, wanted)
        except StorageError as e:
            self.failed(e)
            raise

    def change(self, key: Keyword, changed: Callable[[Any], Entry | None]) -> None:
        """Changes a key by a function of its value (`DELETED`, `UNKNOWN` when there is none), atomically."""
        known: dict[Keyword, Entry | None] = {}

        def noted(stored: Stored | None) -> Entry | None:
            entry = changed(self.value_of(stored))
            if entry is not None or stored is not None:
                known[key] = entry
            return entry

        with self._writes():
            basis = change(self.conn, self.keymap, key, noted)
            self._carried(basis, (key,), known=known)

    @contextlib.contextmanager
    def _writes(self) -> Iterator[None]:
        """A transaction of ours and what follows it: a reader that comes in between does not take it for somebody else's."""
        with self._cache_lock:
            self._writing += 1
        try:
            yield
        except StorageError as e:
            self.failed(e)
            raise
        finally:
            with self._cache_lock:
                self._writing -= 1

    def _carried(
        self,
        basis: tuple[int, int],
        keys: Iterable[Keyword],
        *,
        refresh: bool = False,
        known: Mapping[Keyword, Entry | None] = _NOTHING,
    ) -> None:
        """Carries the cache from before a transaction of ours to after it.

        What was written of `known` is in it then; with `refresh` what was in it is read again.
        """
        before, after = basis
        was_cached: list[Keyword] = []
        with self._cache_lock:
            if self._cache_basis == before:
                was_cached = [key for key in keys if self._cache.pop(key, self) is not self]
                for key, entry in known.items():
                    self._keep(key, DELETED if entry is None else entry.value)
                self._cache_basis = after
            elif self._cache_basis < after:  # somebody else has written before us
                self._cache = {}
                self._cache_basis = after
        if refresh:
            with contextlib.suppress(DatalogError):  # the transaction is made; a reader will be told
                for key in was_cached:  # what was asked for is asked for again: here it costs no reader anything
                    self.read(key)

    # -- state

    def _state_of(self) -> int:
        _ = self.conn
        return self._state_eid

    def state(self) -> dict[str, Any]:
        """store, record, sequence, applied and notes; those that were never written are absent."""
        held = {datom.a.rpartition("/")[2]: datom.v for datom in self.conn.db().datoms("eavt", self._state_of())}
        if "notes" in held:
            held["notes"] = dict(read_edn(held["notes"]).items())
        return held

    def set_state(self, **values: Any) -> None:
        """Writes some of the state in one transaction; `notes` is a mapping that takes the place of the old one."""
        state = self._state_of()
        if "notes" in values:
            values["notes"] = write_edn(Map(values["notes"]))
        with self._writes():
            report = self.conn.transact(
                [[":db/add", state, f":memory.state/{n}", value] for n, value in values.items()]
            )
            self._carried((report.db_before.basis_tx, report.tx), ())

    def notes(self) -> dict[Any, Any]:
        """The notes, a copy to be changed and given to `set_notes`."""
        return dict(self.state().get("notes", {}))

    def update_notes(self, changed: Callable[[dict[Any, Any]], None]) -> None:
        """Changes the notes; calls follow each other."""
        with self._lock:
            notes = self.notes()
            changed(notes)
            self.set_state(notes=notes)

    def kind_note(self, kind: Keyword, notes: Mapping[Any, Any] | None = None) -> Mapping[Any, Any]:
        """What the database says of a kind: {:epoch n :state :clean | :stale | :complete ...}."""
        held: Mapping[Any, Any] = (notes if notes is not None else self.notes()).get(_KINDS, {}).get(kind, {})
        return held

    def set_kind_note(self, kind: Keyword, **values: Any) -> None:
        """Changes what the database says of a kind."""

        def changed(notes: dict[Any, Any]) -> None:
            kinds = dict(notes.get(_KINDS, {}))
            kinds[kind] = Map({**dict(kinds.get(kind, {})), **{Keyword(n): v for n, v in values.items()}})
            notes[_KINDS] = Map(kinds)

        self.update_notes(changed)


def _eid(pair: tuple[int, Any]) -> int:
    return pair[0]


_MISSING: Final = object()
_KINDS: Final = Keyword("kinds")


def total_of(sums: Sums, kind: str | None = None) -> tuple[int, int]:
    """(sum, count) of all buckets, or of those of a kind."""
    chosen = [v for bucket, v in sums.items() if kind is None or bucket.rpartition("/")[0] == kind]
    return signed(sum(s for s, _ in chosen)), sum(n for _, n in chosen)
