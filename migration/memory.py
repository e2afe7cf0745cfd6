"""The memory interface that an application calls: the same behaviour in every stage.

    from migration.memory import MemoryStore
    with MemoryStore("memory.edn", "memory.db") as memory:
        memory.save_value(kw("presence/s1"), {...})
        memory.get_value(kw("presence/s1"))

Takes keys and values; performs what `modes.py` says for the stage of the key. Holds no global state: file, database, mapping
and settings are arguments, both sides are opened when first needed and closed with the object.

What is durable when an operation returns:

- a save in a stage that writes EDN: the journal's entry, synced. It stands for both stores: the database is given the key
  within `lag` saves or a few milliseconds of rest (`follower.py`), and whoever opens the memory after a crash goes on with that.
- a save in `datalog-only`: the database's commit, synced.
- nothing that a read has returned is ever taken back, for a value is seen only when it is durable.

Who decides: in stages whose reads name the database first, a save is refused when the database refuses it. With `lag` saves
on the way at most, the first ones after it began to fail are already acknowledged; they are durable, on the pending list,
and answered from it. From then on every save waits for the database. `lag=0` makes every save wait.

Locks, always taken in this order: `turnstile`, `edn.rewriting`, `follower.draining`, `self._lock`, the database's own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import datalog as d
from migration.database_side import DELETED, UNKNOWN, DatabaseSide
from migration.entry import Entry, entry_of
from migration.files import FileLock
from migration.follower import Follower
from migration.keymap import builtin
from migration.locks import FairLock, Turnstile
from migration.record_keeper import newest, read_stage_file, write_record
from migration.search import Search, search_edn
from migration.stages import BUCKETS, StageRecord, bucket_of
from migration.telemetry import Event, Telemetry
from store.edn import Keyword, strict_equal
from store.errors import DatalogError, ForkedConnection, StorageError, StoreCorrupt, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datalog import Connection
    from migration.edn_side import EdnSide
    from migration.keymap import KeyMap
    from migration.modes import Mode
    from migration.stages import KindStage

__all__ = ["MemoryStore", "Reading", "Saved", "Settings"]

_MISSING: Final = object()
_TICK_S: Final = 0.02  # how often the keeper looks round while there is something to do
_REST_S: Final = 0.1  # and while there is not
_MISMATCHES: Final = 1_000  # kept


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen; every field has a default that is safe.

    Attributes:
        journal: False: saves count when the file is next rewritten, with the loss that has; `edn-only` only.
        debounce_s: seconds from a save to the rewrite of the file.
        backups, backup_every_s: how many older files are kept, and how far apart at least.
        lag: how many saves may be on the way to the database at a time; 0: each waits for it.
        idle_s: after so many seconds without a save what is on the way is taken there.
        sync: False: the database's commits do not wait for the disk; for measuring only.
    """

    journal: bool = True
    debounce_s: float = 0.1
    backups: int = 3
    backup_every_s: float = 600.0
    lag: int = 128
    idle_s: float = 0.005
    sync: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read found.

    Attributes:
        found: False for a key that is not there or was deleted. `nil` and `false` are found.
        value: the value; None when nothing was found.
        store: the store that answered, "edn" or "datalog".
        stage: the stage of the key.
        ns: how long it took.
        fell_back: why the second store answered: "pending", "unknown", "error"; "" when it did not.
        error: the first store's error, when the second answered for it.
    """

    found: bool
    value: Any
    store: str
    stage: str
    ns: int = 0
    fell_back: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did.

    Attributes:
        stage: the stage of the key.
        written: the stores that have it, durably.
        pending: the stores that will be given it; the journal stands for them meanwhile.
        changed: False when a deletion found nothing to delete.
        value: what is there now; None after a deletion.
    """

    stage: str
    written: tuple[str, ...]
    pending: tuple[str, ...] = ()
    changed: bool = True
    value: Any = None


@dataclass(frozen=True, slots=True)
class _Route:
    """The modes of a kind as they are now: reads go to EDN while what the database holds of it cannot be trusted."""

    stage: str
    below: str
    percent: int
    upper: Mode
    lower: Mode
    complete: bool

    def of(self, key: Keyword) -> tuple[Mode, str]:
        if self.percent >= BUCKETS or bucket_of(key) < self.percent:
            return self.upper, self.stage
        return self.lower, self.below


@dataclass(slots=True)
class Counters:
    """What was counted since the memory was opened."""

    compared: int = 0
    mismatched: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    read_errors: int = 0
    saves: int = 0
    save_errors: int = 0


class MemoryStore:
    """The memory of an application: an EDN file, a database, or both, as the stage says.

    Args:
        file: the memory file; it need not exist.
        database: the database's directory, or a connection, which stays the caller's.
        keymap: the mapping; the built-in one by default.
        settings: see `Settings`.
        sinks, alerts: see `telemetry.Telemetry`.
        commands: look for commands of other processes (`datalog memory stage ...`) and carry them out.

    A context manager. Safe between threads; one process at a time while the EDN file is written, any number in
    `datalog-only`. After a fork the child opens its own.

    Example:
        >>> import tempfile, pathlib
        >>> from datalog import kw
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with MemoryStore(folder / "memory.edn", folder / "memory.db") as memory:
        ...     _ = memory.save_value(kw("webhook/w1"), {"url": "https://example.org"})
        ...     memory.get_value(kw("webhook/w1"))
        Map({'url': 'https://example.org'})
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        database: str | os.PathLike[str] | Connection,
        *,
        keymap: KeyMap | None = None,
        settings: Settings | None = None,
        sinks: Iterable[Callable[[Event], Any]] = (),
        alerts: Iterable[Callable[[Event], Any]] = (),
        commands: bool = True,
    ) -> None:
        self.file = Path(file)
        self.keymap = keymap or builtin()
        self.settings = settings or Settings()
        self.telemetry = Telemetry(sinks, alerts)
        self.side = DatabaseSide(
            database if isinstance(database, d.Connection) else Path(database), self.keymap, sync=self.settings.sync
        )
        self.counters = Counters()
        self.mismatches: dict[Keyword, dict[str, Any]] = {}
        self.record = StageRecord()
        self.edn: EdnSide | None = None
        self.follower: Follower | None = None
        self.tasks: list[Callable[[], Any]] = []  # called by the keeper now and then
        self.distrusted: dict[Keyword, str] = {}
        self._commands = commands
        self._serving: Any = None
        self._routes: dict[Keyword, _Route] = {}
        self._lock = FairLock()
        self._database_lock = FairLock()  # the database's own lock is not fair
        self.turnstile = Turnstile()
        self._file_lock = FileLock(self.file.with_name(f"{self.file.name}.lock"))
        self._opened = False
        self._closed = False
        self._pid = os.getpid()
        self._in_update = threading.local()
        self._last_save = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

    # -- life

    def init(self) -> dict[str, Any]:
        """Opens the memory now, not at the first operation, and returns its status.

        Raises:
            StoreLocked: another process has it. StorageError, StoreCorrupt, EdnError, KeyMapError: a side cannot be used.
        """
        self.open()
        return self.migration_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes to the database what is on the way, writes the file, and lets go of everything. Closing twice is no fault.

        Raises:
            StorageError: the file could not be written; everything that was saved is in the journal.
        """
        if self._pid != os.getpid():
            return
        if self._serving is not None:
            self._serving.close()
        self._closed = True
        self._stop.set()
        self._wake.set()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join()
        try:
            if self.follower is not None and self.follower.pending:
                with contextlib.suppress(DatalogError):
                    self.follower.drain()
            if self.edn is not None:
                self.edn.close()
        finally:
            self.edn = None
            self.side.close()
            self._file_lock.release()
            self._opened = False

    def open(self) -> None:
        """Opens the memory if it is not; every operation does so first.

        Raises:
            StoreLocked: another process has it. StorageError, StoreCorrupt, EdnError, KeyMapError: a side cannot be used.
        """
        if self._opened:
            if self._pid == os.getpid():
                return
            raise ForkedConnection(
                "memory/forked",
                "This memory was opened before a fork.",
                hint="open a memory of its own in the child process.",
            )
        with self._lock:
            if self._opened:
                return
            if self._closed:
                raise StorageError("memory/closed", "This memory is closed.", hint="make a new MemoryStore.")
            self._pid = os.getpid()
            try:
                self._open_both()
            except BaseException:
                if self.edn is not None:
                    self.edn.close(rewrite=False)
                    self.edn = None
                self.side.close()
                self._file_lock.release()
                raise
            self._opened = True
            if self._commands:
                from migration.control import Serving  # noqa: PLC0415 - written against this class

                self._serving = Serving(self)
                self.tasks.append(self._serving)
            self._keeper = threading.Thread(target=self._keep, name="memory keeper", daemon=True)
            self._keeper.start()

    def _open_both(self) -> None:
        """Locks, opens, finds the record, and mends what a crash or a loss has left; see docs/decisions/0005."""
        record = read_stage_file(self.file)
        while True:  # another process may move the stage between our looking and our locking
            self._file_lock.take(shared=record is not None and _is_database_only(record, self.keymap))
            again = read_stage_file(self.file)
            if again == record:
                break
            self._file_lock.release()
            record = again
        of_journal = None
        if record is None or not _is_database_only(record, self.keymap):
            edn = self.edn = self._edn_side()
            of_journal = StageRecord.read(edn.stage_text, "the journal") if edn.stage_text else None
        of_database = None
        known = newest((record, of_journal))
        if known is None or _uses_database(known, self.keymap):
            of_database = self._record_of_database(known)
        found = newest((record, of_journal, of_database)) or StageRecord()
        if self.edn is not None and _is_database_only(found, self.keymap):
            self.edn.close(rewrite=False)  # the stage file was lost, and the database knew better
            self.edn = None
        self.record = found
        if self.edn is not None:
            self.follower = Follower(self.edn, lambda: self.side, self.telemetry)
            self.edn.prelude = self._prelude
        self._mend(found)
        if self.record is not found or not found.sequence:
            pass  # written already, or nothing to write
        elif found != record or (_uses_database(found, self.keymap) and found != of_database):
            write_record(self.file, found, self.edn, self._side_in_use())
        elif self.edn is not None and found != of_journal:
            self.edn.note(["stage", found.text()])
            self.edn.stage_text = found.text()
        self._reroute()
        self.telemetry.stage_begins(self.stage_name())

    def _edn_side(self) -> EdnSide:
        from migration.edn_side import EdnSide  # noqa: PLC0415 - an archived memory has no EDN side

        s = self.settings
        return EdnSide(
            self.file, self._lock, journal=s.journal, debounce_s=s.debounce_s, backups=s.backups,
            backup_every_s=s.backup_every_s,
        )  # fmt: skip

    def _prelude(self) -> list[Any]:
        entries = self.follower.prelude() if self.follower is not None else []
        return [*entries, *([["stage", self.record.text()]] if self.record.sequence else [])]

    def _side_in_use(self) -> DatabaseSide | None:
        return self.side if _uses_database(self.record, self.keymap) or self.side.is_open else None

    def _record_of_database(self, known: StageRecord | None) -> StageRecord | None:
        if not self.side.exists:
            return None
        try:
            text = self.side.state().get("record")
        except StorageError as e:
            if known is None or any(not m.uses_edn for m in known.used_modes(self.keymap.data_kinds)):
                raise
            # EDN has everything: reads that may fall back do, saves wait on the pending list
            self.telemetry.alert("database-unavailable", error=e.code)
            return None
        return StageRecord.read(text, f"the database {self.side.path}") if text else None

    def _mend(self, record: StageRecord) -> None:
        """Compares what file, journal and database say of each other."""
        edn, follower = self.edn, self.follower
        if edn is None or follower is None:
            self._check_identity(record)
            return
        state: dict[str, Any] | None = None
        void = ""
        if _uses_database(record, self.keymap):
            try:
                self._check_identity(record)
                state = self.side.state()
            except StorageError as e:
                if e.code == "memory/database-lost":
                    if any(not m.uses_edn for m in record.used_modes(self.keymap.data_kinds)):
                        raise
                    void = "the database was lost or replaced"
                else:
                    self.telemetry.alert("database-unavailable", error=e.code)
        applied = edn.applied
        if state is not None:
            applied = state.get("applied", 0)
            edn.sequence = max(edn.sequence, applied)
            if applied < edn.applied:
                void = "the database is older than the journal says"
        if edn.changed_outside:
            void = "the memory file was changed by somebody else"
        behind = {key: n for key, n in edn.replayed.items() if n > applied}
        for key, n in {**edn.carried, **behind}.items():
            if self._mode_of(record, key).writes == "both":
                follower.pending[key] = max(n, follower.pending.get(key, 0))
        if void:
            kinds = [k for k in self.keymap.data_kinds if any(m.writes == "both" for m in record.of(k).used_modes)]
            if kinds:
                self.telemetry.alert("database-void", why=void)
                self.record = record.renewed(kinds, who="memory", why=void, at=datetime.now(UTC))
                write_record(self.file, self.record, edn, self.side)
                with contextlib.suppress(DatalogError):
                    self.side.set_state(applied=edn.sequence)

    def _check_identity(self, record: StageRecord) -> None:
        if not _uses_database(record, self.keymap):
            return
        if not self.side.exists or self.side.state().get("store") != record.store:
            raise StoreCorrupt(
                "memory/database-lost",
                "The database is not the one that the stage record speaks of: it was lost, replaced, or is another's.",
                expected=f"the database of the store {record.store}",
                hint="restore it from a backup of its directory; see docs/runbook.md.",
                file=str(self.side.path),
            )

    def _mode_of(self, record: StageRecord, key: Keyword) -> Mode:
        return record.of(self.keymap.data_of(key)).mode_of(key)

    def _reroute(self) -> None:
        """Makes the table of modes anew: after a move, and when what is known of the database has changed."""
        notes: Any = None
        if _uses_database(self.record, self.keymap):
            try:
                notes = self.side.notes()
            except DatalogError as e:
                self.telemetry.alert("database-unavailable", error=e.code)
        routes: dict[Keyword, _Route] = {}
        distrusted: dict[Keyword, str] = {}
        for kind in self.keymap.data_kinds:
            at = self.record.of(kind)
            upper, lower = at.modes
            trusted = complete = True
            if any(m.writes == "both" for m in at.used_modes):
                trusted, complete = self._trust(kind, at, notes)
                if not trusted:
                    distrusted[kind] = "no answer of the database" if notes is None else "it has not been filled yet"
                    upper, lower = (replace(m, reads="edn") if m.writes == "both" else m for m in (upper, lower))
                elif not complete and notes is not None and "datalog" in (upper.reads, lower.reads):
                    # what it does not know must not count as absent where EDN may not step in
                    distrusted[kind] = "it has not been filled yet"
                    upper, lower = (
                        replace(m, reads="datalog-first") if m.writes == "both" and m.reads == "datalog" else m
                        for m in (upper, lower)
                    )
            routes[kind] = _Route(at.stage, at.below, at.percent, upper, lower, complete)
        self.distrusted = distrusted
        self._routes = routes

    def _trust(self, kind: Keyword, at: KindStage, notes: Any) -> tuple[bool, bool]:
        """(may it answer, is it complete)."""
        if notes is None:
            # it cannot be asked now. What was complete stays so: reads fall back to EDN, or fail, as the stage says
            return at.stage in ("datalog-first", "rampdown", "datalog-only"), False
        note = self.side.kind_note(kind, notes)
        if note.get(Keyword("epoch")) != at.epoch:
            return False, False
        state = note.get(Keyword("state"))
        return state in (Keyword("clean"), Keyword("complete")), state == Keyword("complete")

    # -- the keeper: everything that is done behind the application's back

    def _keep(self) -> None:
        while not self._stop.is_set():
            busy = False
            for task in (self._keep_draining, self._keep_rewriting, *self.tasks):
                try:
                    busy = bool(task()) or busy
                except DatalogError as e:
                    self.telemetry.alert(
                        "keeper", task=getattr(task, "__name__", str(task)), error=str(e).splitlines()[0]
                    )
            self._wake.wait(_TICK_S if busy or self._has_work() else _REST_S)
            self._wake.clear()

    def _has_work(self) -> bool:
        follower, edn = self.follower, self.edn
        return bool(follower is not None and follower.pending) or bool(edn is not None and edn.unsaved)

    def _keep_draining(self) -> bool:
        follower = self.follower
        if follower is None or not follower.due:
            return False
        if time.monotonic() - self._last_save < self.settings.idle_s and len(follower.pending) < self.settings.lag:
            return True
        with contextlib.suppress(DatalogError):  # told by the follower; tried again
            follower.drain()
        return bool(follower.pending)

    def _keep_rewriting(self) -> bool:
        edn = self.edn
        due = edn.due_in() if edn is not None else None
        if edn is None or due is None:
            return False
        if due <= 0:
            began = time.perf_counter_ns()
            edn.rewrite()
            self.telemetry.took("rewrite", "", "edn", time.perf_counter_ns() - began)
        return True

    # -- reads

    def get_value(self, key: Keyword, default: Any = None) -> Any:
        """The value of a key, or `default` when it is not there. `nil` and `false` are values.

        Raises:
            KeyMapError: the key is no keyword. StorageError: no store that may answer could.
        """
        reading = self._read("get_value", key)
        return reading.value if reading.found else default

    def get_instrumented(self, key: Keyword) -> Reading:
        """The value with what there is to know of the read: found, which store answered, how long it took, why it fell back."""
        return self._read("get_instrumented", key)

    def _read(self, operation: str, key: Keyword) -> Reading:
        began = time.perf_counter_ns()
        if not self._opened or self._pid != os.getpid():
            self.open()
            began = time.perf_counter_ns()
        if key.__class__ is not Keyword:
            entry_of(key, None)  # raises
        self.counters.reads += 1
        while True:
            edn = self.edn  # first: when the stage was moved after it, all is looked at again
            routes = self._routes
            route = routes[self.keymap.data_of(key)]
            mode, stage = route.of(key)
            store = "edn" if mode.reads in ("edn", "shadow") else "datalog"
            fell_back = error = ""
            try:
                if store == "datalog":
                    value, store, fell_back, error = self._read_database(key, mode)
                elif edn is not None:
                    value = edn.values.get(key, _MISSING)
            except DatalogError as e:
                if self._routes is not routes:
                    continue
                self.counters.read_errors += 1
                self.telemetry.done(operation, key, stage, store, began, error=e.code)
                raise
            if self._routes is routes:
                break
        found = value is not _MISSING
        ns = time.perf_counter_ns() - began
        self.telemetry.done(operation, key, stage, store, began, found=found, error=error)
        if mode.reads == "shadow" and route.complete:
            self._compare(key, value, stage)
        if fell_back:
            self.counters.fallbacks[fell_back] = self.counters.fallbacks.get(fell_back, 0) + 1
        return Reading(found, value if found else None, store, stage, ns, fell_back, error)

    def _read_database(self, key: Keyword, mode: Mode) -> tuple[Any, str, str, str]:
        """(value or _MISSING, store that answered, why it fell back, error)."""
        follower, edn = self.follower, self.edn
        if follower is not None and key in follower.pending:
            if mode.reads == "datalog-first" and edn is not None:
                return edn.values.get(key, _MISSING), "edn", "pending", ""
            follower.drain(keys=[key], retry_refused=True)
            if key in follower.refused:
                raise StorageError(
                    "memory/refused",
                    f"The database refuses the last value of {key}: {follower.refused[key]}",
                    hint="mend what it names, or move the stage down to datalog-first.",
                )
        try:
            value = self.side.read(key)
        except DatalogError as e:
            self.side.failed(e)
            if mode.reads == "datalog-first" and edn is not None:
                self.counters.read_errors += 1
                return edn.values.get(key, _MISSING), "edn", "error", e.code
            raise
        if value is DELETED:
            return _MISSING, "datalog", "", ""
        if value is UNKNOWN:
            if mode.reads == "datalog-first" and edn is not None:
                value = edn.values.get(key, _MISSING)
                if value is not _MISSING:  # saved while the database was asked, or really not known to it
                    why = "pending" if follower is not None and key in follower.pending else "unknown"
                    return value, "edn", why, ""
            return _MISSING, "datalog", "", ""
        return value, "datalog", "", ""

    def _compare(self, key: Keyword, value: Any, stage: str) -> None:
        """Asks the database too; a difference is looked at again with the world held still before it counts."""
        follower, edn = self.follower, self.edn
        if follower is None or edn is None or key in follower.pending:
            return
        began = time.perf_counter_ns()
        try:
            other = self.side.read(key)
        except DatalogError as e:
            self.counters.read_errors += 1
            self.telemetry.done("shadow_get", key, stage, "datalog", began, error=e.code)
            return
        self.telemetry.done(
            "shadow_get", key, stage, "datalog", began, found=other is not DELETED and other is not UNKNOWN
        )
        self.counters.compared += 1
        if _agree(value, other):
            return
        with follower.draining, self._lock:
            if key in follower.pending:
                return
            value, other = edn.values.get(key, _MISSING), self.side.read(key)
            if _agree(value, other):
                return
        self.counters.mismatched += 1
        if len(self.mismatches) < _MISMATCHES:
            self.mismatches[key] = {"edn": None if value is _MISSING else value, "datalog": other}
        self.telemetry.alert("mismatch", key=str(key))

    def get_all(self) -> dict[Keyword, Any]:
        """Every key with its value, as of one moment."""
        found: dict[Keyword, Any] = self._whole("get_all", self._all)
        return found

    def keys(self) -> list[Keyword]:
        """Every key, as of one moment."""
        found: list[Keyword] = self._whole("keys", self._keys)
        return found

    def search(self, text: str | None = None, *, where: Any = None, kind: Keyword | str | None = None) -> list[Keyword]:
        """The keys that have `text` in their name, and whose entities have all these attributes: sorted.

        Args:
            text: part of the key as it is written, `:presence/s`.
            where: attribute of the mapping -> value: {":session/owner": kw("ada")}.
            kind: a kind of data, such as :session.

        Raises:
            KeyMapError: `memory/search` for an attribute that cannot be searched for.
        """
        wanted = Search.checked(self.keymap, text, where, kind)
        found: list[Keyword] = self._whole("search", lambda: self._found(wanted))
        return found

    def _whole(self, operation: str, answer: Callable[[], tuple[Any, str]]) -> Any:
        began = time.perf_counter_ns()
        self.open()
        store = ""
        try:
            while True:
                routes = self._routes
                result, store = answer()
                if self._routes is routes:  # else the stage was moved meanwhile
                    break
        except DatalogError as e:
            self.counters.read_errors += 1
            self.telemetry.done(operation, None, self.stage_name(), store, began, error=e.code)
            raise
        self.telemetry.done(operation, None, self.stage_name(), store, began, found=bool(result))
        return result

    def _readers(self) -> tuple[bool, bool]:
        """(does some key's answer come from EDN, from the database)."""
        modes = [m for r in self._routes.values() for m in _used(r)]
        return any(m.reads in ("edn", "shadow") for m in modes), any(
            m.reads in ("datalog-first", "datalog") for m in modes
        )

    def _all(self) -> tuple[dict[Keyword, Any], str]:
        return self._gathered(
            lambda: dict(self.edn.values) if self.edn is not None else {},
            lambda db: self.side.read_all(db=db),
        )

    def _keys(self) -> tuple[list[Keyword], str]:
        found, store = self._gathered(
            lambda: dict.fromkeys(self.edn.values) if self.edn is not None else {},
            lambda _: {key: None if there else DELETED for key, there in self.side.known().items()},
        )
        return list(found), store

    def _gathered(
        self, of_edn: Callable[[], dict[Keyword, Any]], of_database: Callable[[Any], dict[Keyword, Any]],
    ) -> tuple[dict[Keyword, Any], str]:  # fmt: skip
        """What is there, key by key from the store that its mode reads; as of one moment."""
        from_edn, from_database = self._readers()
        if not from_database:
            with self._lock:
                return of_edn(), "edn"
        try:
            with self.still():
                answers = of_database(self.side.conn.db())
                if self.edn is None:
                    return {k: v for k, v in answers.items() if v is not DELETED}, "datalog"
                return self._merged(of_edn(), answers), "edn+datalog" if from_edn else "datalog"
        except DatalogError as e:
            self.side.failed(e)
            modes = [m for r in self._routes.values() for m in _used(r)]
            if any(m.reads == "datalog" for m in modes):
                raise
            self.counters.read_errors += 1
            self.counters.fallbacks["error"] = self.counters.fallbacks.get("error", 0) + 1
            with self._lock:
                return of_edn(), "edn"

    def _merged(self, edn: dict[Keyword, Any], answers: dict[Keyword, Any]) -> dict[Keyword, Any]:
        out: dict[Keyword, Any] = {}
        pending = self.follower.pending if self.follower is not None else {}
        routes, data_of = self._routes, self.keymap.data_of
        for key, value in edn.items():
            reads = routes[data_of(key)].of(key)[0].reads
            if reads in ("edn", "shadow") or (reads == "datalog-first" and key not in answers) or key in pending:
                out[key] = value
        for key, value in answers.items():
            if value is DELETED or key in pending:
                continue
            if routes[data_of(key)].of(key)[0].reads in ("datalog-first", "datalog"):
                out[key] = value
        return out

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nothing on the way, and nobody saving: both stores as of one moment."""
        follower = self.follower
        if follower is None:
            yield
            return
        with follower.draining, self._lock:
            if follower.pending:
                try:
                    follower.drain()
                except DatalogError:
                    if any(m.reads == "datalog" for r in self._routes.values() for m in _used(r)):
                        raise
            yield

    def _found(self, wanted: Search) -> tuple[list[Keyword], str]:
        from_edn, from_database = self._readers()
        with self._lock:
            snapshot = dict(self.edn.values) if self.edn is not None and (from_edn or not from_database) else {}
        if not from_database:
            return sorted(search_edn(self.keymap, wanted, snapshot)), "edn"
        try:
            with self.still():
                found = wanted.ask(self.side)
                pending = set(self.follower.pending) if self.follower is not None else set()
                edn = dict(self.edn.values) if self.edn is not None else {}
                # a key that the database was never given, which only datalog-first and a mixture can have
                unknown = edn.keys() - self.side.known().keys() if edn and not self._all_complete() else set()
        except DatalogError as e:
            self.side.failed(e)
            if self.edn is None or any(m.reads == "datalog" for r in self._routes.values() for m in _used(r)):
                raise
            self.counters.read_errors += 1
            with self._lock:
                return sorted(search_edn(self.keymap, wanted, dict(self.edn.values))), "edn"
        if self.edn is None:
            return sorted(found), "datalog"
        routes, data_of = self._routes, self.keymap.data_of

        def reads(key: Keyword) -> str:
            return routes[data_of(key)].of(key)[0].reads

        out = {k for k in found if reads(k) in ("datalog-first", "datalog") and k not in pending}
        ours = {k: v for k, v in edn.items() if reads(k) in ("edn", "shadow")} if from_edn else {}
        ours.update({k: edn[k] for k in (pending | unknown) & edn.keys() if reads(k) == "datalog-first"})
        out |= set(search_edn(self.keymap, wanted, ours))
        return sorted(out), "edn+datalog" if from_edn else "datalog"

    def _all_complete(self) -> bool:
        return all(r.complete for r in self._routes.values())

    # -- saves

    def save_value(self, key: Keyword, value: Any) -> Saved:
        """Saves a value under a key; it is durable when this returns.

        Raises:
            KeyMapError: the key is no keyword, or the value has no place in EDN. StorageError: it was not saved.
        """
        began = time.perf_counter_ns()
        self.open()
        entry = entry_of(key, value)
        return self._saved("save_value", key, began, lambda _: entry)

    def delete_value(self, key: Keyword) -> Saved:
        """Deletes a key; it stays deleted whatever the other store still holds. `changed` is False when it was not there."""
        began = time.perf_counter_ns()
        self.open()
        if key.__class__ is not Keyword:
            entry_of(key, None)  # raises
        return self._saved("delete_value", key, began, lambda _: None)

    def update(self, key: Keyword, f: Callable[[Any], Any], default: Any = None) -> Saved:
        """Saves `f(value)` under a key, atomically between threads and processes; `default` stands in when it is not there.

        `f` is called while nobody else can save the key, once; it must be quick and must not use this memory. What it raises
        goes on to the caller, and nothing is saved.
        """
        began = time.perf_counter_ns()
        self.open()
        if key.__class__ is not Keyword:
            entry_of(key, None)  # raises

        def changed(value: Any) -> Entry:
            self._in_update.key = key
            try:
                return entry_of(key, f(default if value is _MISSING else value))
            finally:
                self._in_update.key = None

        return self._saved("update", key, began, changed)

    def _saved(self, operation: str, key: Keyword, began: int, changed: Callable[[Any], Entry | None]) -> Saved:
        """Saves or deletes; `changed` is given the value, or _MISSING, and gives the entry, or None to delete."""
        if getattr(self._in_update, "key", None) is not None:
            raise UserError(
                "memory/nested-update",
                f"{operation} was called inside the function of an update of {self._in_update.key}.",
                hint="return the new value from the function, and save other keys after it.",
            )
        self.counters.saves += 1
        saved = None
        try:
            while saved is None:  # None: the stage was moved between looking and saving
                mode = self._routes[self.keymap.data_of(key)].of(key)[0]
                saved = (self._saved_in_database if mode.writes == "datalog" else self._saved_in_edn)(key, changed)
        except DatalogError as e:
            self.counters.save_errors += 1
            stage = self._routes[self.keymap.data_of(key)].of(key)[1]
            self.telemetry.done(operation, key, stage, "", began, error=e.code)
            raise
        self.telemetry.done(operation, key, saved.stage, "+".join(saved.written), began, found=saved.changed)
        return saved

    def _saved_in_database(self, key: Keyword, changed: Callable[[Any], Entry | None]) -> Saved | None:
        result: dict[str, Any] = {}

        def apply(value: Any) -> Entry | None:
            there = value is not DELETED and value is not UNKNOWN
            entry = changed(value if there else _MISSING)
            result.update(changed=there or entry is not None, value=None if entry is None else entry.value)
            return entry

        with self.turnstile.passing(), self._database_lock:
            mode, stage = self._routes[self.keymap.data_of(key)].of(key)
            if mode.writes != "datalog":
                return None
            self.side.change(key, apply)
        return Saved(stage, ("datalog",), (), **result)

    def _saved_in_edn(self, key: Keyword, changed: Callable[[Any], Entry | None]) -> Saved | None:
        strict = False
        while True:
            follower = self.follower
            if follower is None:
                return None
            with follower.draining if strict else contextlib.nullcontext(), self._lock:
                edn = self.edn
                mode, stage = self._routes[self.keymap.data_of(key)].of(key)
                if edn is None or follower is not self.follower or mode.writes == "datalog":
                    return None
                both = mode.writes == "both"
                waits = both and mode.leads == "datalog" and (self.settings.lag == 0 or follower.failing is not None)
                if waits and not strict:
                    strict = True
                    continue
                old = edn.values.get(key, _MISSING)
                entry = changed(old)
                if entry is None and old is _MISSING:
                    return Saved(stage, ("edn", "datalog") if both else ("edn",), (), changed=False)
                self._put(edn, follower, key, entry, both=both, waits=waits)
            break
        value = None if entry is None else entry.value
        if not both:
            return Saved(stage, ("edn",), (), value=value)
        if not waits:
            self._pass_on(follower, key)
        if key in follower.pending:
            return Saved(stage, ("edn",), ("datalog",), value=value)
        return Saved(stage, ("edn", "datalog"), (), value=value)

    def _put(
        self, edn: EdnSide, follower: Follower, key: Keyword, entry: Entry | None, *, both: bool, waits: bool
    ) -> None:
        decide = (lambda n: self._database_first({key: entry}, n)) if waits else None
        sequence = edn.put([entry], decide) if entry is not None else edn.delete([key], decide)
        self._last_save = time.monotonic()
        if waits:
            follower.pending.pop(key, None)
        elif both:
            follower.add((key,), sequence)

    def _pass_on(self, follower: Follower, key: Keyword) -> None:
        lag = self.settings.lag
        if lag == 0 and follower.failing is None:
            with contextlib.suppress(DatalogError):  # told by the follower; it stays on the list
                follower.drain(keys=[key])
        elif len(follower.pending) - len(follower.refused) > lag and follower.due:
            with contextlib.suppress(DatalogError):
                follower.drain()
        elif not self._wake.is_set():
            self._wake.set()

    def _database_first(self, wanted: dict[Keyword, Entry | None], sequence: int) -> None:
        """The database decides: takes what is on the way and then these keys, or raises."""
        follower = self.follower
        assert follower is not None
        follower.drain()
        left = [n for key, n in follower.pending.items() if key not in wanted]
        try:
            self.side.bring(wanted, applied=min(left) - 1 if left else sequence)
        except StorageError:
            # whether it was written is not known: the list sees to it that the database comes to hold what EDN does
            follower.add(wanted, self.edn.sequence if self.edn is not None else 0)
            with contextlib.suppress(DatalogError):
                assert self.edn is not None
                self.edn.note(follower.prelude()[-1])
            raise
        follower.failing = None

    def clear_memory(self, kind: Keyword | str | None = None) -> int:
        """Deletes every key, or every key of a kind of data, all at once; returns how many there were."""
        began = time.perf_counter_ns()
        self.open()
        only = None if kind is None else Keyword(str(kind))
        if only is not None and only not in self.keymap.data_kinds:
            raise self._no_kind(only)
        try:
            n = self._cleared(only)
        except DatalogError as e:
            self.counters.save_errors += 1
            self.telemetry.done("clear_memory", None, self.stage_name(), "", began, error=e.code)
            raise
        self.telemetry.done("clear_memory", None, self.stage_name(), "", began, found=n > 0)
        return n

    def _no_kind(self, kind: Keyword) -> UserError:
        return UserError(
            "memory/kind", f"The mapping has no kind of data {kind}.",
            expected="one of " + ", ".join(map(str, self.keymap.data_kinds)),
        )  # fmt: skip

    def _cleared(self, only: Keyword | None) -> int:
        edn, follower = self.edn, self.follower
        n = 0
        with (
            self.turnstile.closed(),
            follower.draining if follower is not None else contextlib.nullcontext(),
            self._lock,
        ):
            edn, follower = self.edn, self.follower
            data_of, routes = self.keymap.data_of, self._routes

            def writes(key: Keyword) -> str:
                kind = data_of(key)
                return "" if only is not None and kind is not only else routes[kind].of(key)[0].writes

            if edn is not None and follower is not None:
                keys = [k for k in edn.values if writes(k) in ("edn", "both")]
                both = [k for k in keys if writes(k) == "both"]
                waits = bool(both) and (self.settings.lag == 0 or follower.failing is not None) and any(
                    routes[data_of(k)].of(k)[0].leads == "datalog" for k in both
                )  # fmt: skip
                if keys:
                    decide = (lambda n: self._database_first(dict.fromkeys(both), n)) if waits else None
                    sequence = edn.delete(keys, decide)
                    if not waits:
                        follower.add(both, sequence)
                n += len(keys)
            if any(m.writes == "datalog" for r in routes.values() for m in _used(r)):
                gone = [k for k, there in self.side.known().items() if there and writes(k) == "datalog"]
                if gone:
                    self.side.bring(dict.fromkeys(gone))
                n += len(gone)
        self._wake.set()
        return n

    def save_now(self) -> None:
        """Takes everything that is on the way to the database and writes the memory file anew.

        Raises:
            StorageError: one of them failed; what was saved stays durable in the journal.
        """
        began = time.perf_counter_ns()
        self.open()
        error = ""
        try:
            if self.follower is not None:
                self.follower.drain()
            if self.edn is not None:
                self.edn.rewrite()
        except DatalogError as e:
            error = e.code
            raise
        finally:
            self.telemetry.done("save_now", None, self.stage_name(), "", began, error=error)

    # -- what it is like

    def stage_name(self) -> str:
        """The stage of all kinds, or "mixed"."""
        stages = {self.record.of(k).stage for k in self.keymap.data_kinds}
        return stages.pop() if len(stages) == 1 else "mixed"

    def health(self) -> dict[str, Any]:
        """Whether each side that the stage needs works: {"ok": bool, "edn": {...}, "database": {...}}."""
        out: dict[str, Any] = {"ok": True, "stage": "", "edn": {}, "database": {}}
        try:
            self.open()
        except DatalogError as e:
            return {**out, "ok": False, "error": e.code, "message": str(e)}
        out["stage"] = self.stage_name()
        if self.edn is not None:
            out["edn"] = {"ok": True, "keys": len(self.edn.values), "unsaved": self.edn.unsaved}
        if _uses_database(self.record, self.keymap):
            began = time.perf_counter_ns()
            try:
                state = self.side.state()
                same = state.get("store") == self.record.store
                out["database"] = {
                    "ok": same,
                    "ns": time.perf_counter_ns() - began,
                    "basis_tx": self.side.conn.db().basis_tx,
                }
            except DatalogError as e:
                out["database"] = {"ok": False, "error": e.code}
        if self.follower is not None:
            failing = self.follower.failing
            out["pending"] = len(self.follower.pending)
            out["failing"] = failing.code if failing is not None else None
        out["ok"] = all(part.get("ok", True) for part in (out["edn"], out["database"])) and not out.get("failing")
        return out

    def migration_status(self) -> dict[str, Any]:
        """Where every kind stands, counted in the stores at this moment; see status.py."""
        from migration.status import status_of  # noqa: PLC0415 - status.py is written against this class

        self.open()
        return status_of(self)

    # -- for those who move stages

    @contextlib.contextmanager
    def drains(self) -> Iterator[None]:
        """Nobody else takes keys to the database meanwhile."""
        with self.follower.draining if self.follower is not None else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody saves, drains or rewrites meanwhile: for moves."""
        with (
            self.turnstile.closed(),
            self.edn.rewriting if self.edn is not None else contextlib.nullcontext(),
            self.drains(),
            self._lock,
        ):
            yield

    @property
    def lock(self) -> Any:
        """The lock round every save of the EDN side."""
        return self._lock

    def set_record(self, record: StageRecord) -> DatalogError | None:
        """Makes a record the one that counts, durably; the locks are held. Returns the database's error, if it failed."""
        error = write_record(self.file, record, self.edn, self._side_in_use() or self._side_for(record))
        self.record = record
        self._reroute()
        self.telemetry.stage_begins(self.stage_name())
        return error

    def _side_for(self, record: StageRecord) -> DatabaseSide | None:
        return self.side if _uses_database(record, self.keymap) else None

    def open_edn(self) -> None:
        """Opens the EDN side again when a move needs it; takes the file for this process alone.

        Raises:
            StoreLocked: other processes have the memory open.
        """
        if self.edn is not None:
            return
        self._file_lock.take(shared=False)
        try:
            self.edn = self._edn_side()
        except BaseException:
            self._file_lock.take(shared=True)
            raise
        self.edn.sequence = max(self.edn.sequence, self.side.state().get("applied", 0))
        self.follower = Follower(self.edn, lambda: self.side, self.telemetry)
        self.edn.prelude = self._prelude

    def leave_edn(self) -> None:
        """Closes the EDN side when no kind writes it any more, and lets other processes in."""
        edn = self.edn
        if edn is None or not _is_database_only(self.record, self.keymap):
            return
        edn.close()
        self.edn = self.follower = None
        self._file_lock.take(shared=True)

    def mode_now(self, kind: Keyword) -> Mode:
        """The mode of a kind as it is carried out: reads go to EDN while the database has not been filled."""
        return self._routes[kind].upper

    def reroute(self) -> None:
        """Looks again at what the database says of itself."""
        self._reroute()

    @staticmethod
    def is_absent(answer: Any) -> bool:
        """True for the answers of the database side that say: not there."""
        return answer is DELETED or answer is UNKNOWN

    def new_store_id(self) -> str:
        """An id for a database that is taken into use."""
        return str(uuid.uuid4())


def _used(route: _Route) -> tuple[Mode, ...]:
    if route.percent >= BUCKETS:
        return (route.upper,)
    return (route.lower,) if route.percent <= 0 else (route.upper, route.lower)


def _agree(value: Any, other: Any) -> bool:
    if value is _MISSING or other is DELETED or other is UNKNOWN:
        return value is _MISSING and (other is DELETED or other is UNKNOWN)
    return strict_equal(value, other)


def _uses_database(record: StageRecord, keymap: KeyMap) -> bool:
    return any(m.uses_database for m in record.used_modes(keymap.data_kinds))


def _is_database_only(record: StageRecord, keymap: KeyMap) -> bool:
    return not any(m.uses_edn for m in record.used_modes(keymap.data_kinds))
