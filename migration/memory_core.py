"""The life of a memory: opened, mended, routed, kept, closed; and the hooks that stage moves need.

Takes file, database, mapping and settings; gives both sides and, for each kind of data, the mode that counts now. What a
crash or a loss can leave, and who wins, is decided in `MemoryCore._open_both` and `_mend`; docs/decisions/0005 has the table.

Locks, always taken in this order: `turnstile`, `edn.rewriting`, `follower.draining`, `ahead.draining`, `lock`, the database's
own.

In `datalog-only` a process has the memory alone, with a journal of the database side (`journal`, and `ahead` for its
follower), or beside others, each save a commit. Who comes second asks the first one to share (`_take_place`, `share`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import datalog as d
from migration.control import ask_to_share
from migration.database_journal import DatabaseJournal, journal_base, remove_journal
from migration.database_side import DELETED, UNKNOWN, DatabaseSide
from migration.files import FileLock
from migration.follower import Follower
from migration.journal import journal_files
from migration.keymap import builtin
from migration.locks import FairLock, Turnstile
from migration.memory_model import Counters, Route, Settings, is_database_only, used_modes, uses_database
from migration.record_keeper import newest, read_stage_file, write_record
from migration.stages import StageRecord
from migration.telemetry import Event, Telemetry
from store.edn import Keyword
from store.errors import DatalogError, ForkedConnection, StorageError, StoreCorrupt, StoreLocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datalog import Connection
    from migration.edn_side import EdnSide
    from migration.keymap import KeyMap
    from migration.modes import Mode
    from migration.stages import KindStage

__all__ = ["MemoryCore"]

_TICK_S: Final = 0.02  # how often the keeper looks round while there is something to do
_REST_S: Final = 0.1  # and while there is not
_PATIENCE_S: Final = 0.2  # after which a process that has the memory alone is asked to share it
_GIVE_UP_S: Final = 10.0
_AGAIN_S: Final = 5.0  # between two looks whether the others have gone


class MemoryCore:
    """What reads and saves stand on; see `memory.MemoryStore` for the arguments."""

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
        self.file = Path(os.path.realpath(file))  # whoever comes through a link meets the same lock
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
        self.journal: DatabaseJournal | None = None
        self.ahead: Follower | None = None  # of the journal: set and taken away together with it
        self.tasks: list[Callable[[], Any]] = []  # called by the keeper now and then
        self.distrusted: dict[Keyword, str] = {}
        self._commands = commands
        self._serving: Any = None
        self._routes: dict[Keyword, Route] = {}
        self._lock = FairLock()
        self._database_lock = FairLock()  # the database's own lock is not fair
        self.turnstile = Turnstile()
        self._file_lock = FileLock(self.file.with_name(f"{self.file.name}.lock"))
        # in datalog-only held in the same form: another memory file that names this database has a lock of its own
        self._side_lock = FileLock(self.side.path / "saves.lock")
        self._opened = False
        self._closed = False
        self._pid = os.getpid()
        self._in_update = threading.local()
        self._last_save = 0.0
        self._looked_at = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

    # -- life

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
            for follower in self.followers:
                if follower.pending:
                    with contextlib.suppress(DatalogError):
                        follower.drain()
            if self.edn is not None:
                self.edn.close()
        finally:
            if self.journal is not None:
                # NB: it stays where savers find it: without one they would commit past what it still holds
                self.journal.close()
            self._side_lock.release()
            self.edn = None
            self.side.close(for_good=True)
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
                self._let_journal_be()
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
            if record is not None and is_database_only(record, self.keymap):
                self._take_place()
            else:
                self._file_lock.take()
            again = read_stage_file(self.file)
            if again == record:
                break
            self._file_lock.release()
            record = again
        of_journal = None
        if record is None or not is_database_only(record, self.keymap):
            edn = self.edn = self._edn_side()
            of_journal = StageRecord.read(edn.stage_text, "the journal") if edn.stage_text else None
        of_database = None
        known = newest((record, of_journal))
        if known is None or uses_database(known, self.keymap):
            of_database = self._record_of_database(known)
        found = newest((record, of_journal, of_database)) or StageRecord()
        if self.edn is not None and is_database_only(found, self.keymap):
            self.edn.close(rewrite=False)  # the stage file was lost, and the database knew better
            self.edn = None
        self.record = found
        if self.edn is not None:
            self.follower = Follower(self.edn, lambda: self.side, self.telemetry)
            self.edn.prelude = self._prelude
        self._mend(found)
        if self.edn is None:
            self._begin_alone()
        elif self.side.path.is_dir():
            remove_journal(self.side.path)  # of a move down that was killed at its end: the EDN side has it all
        if self.record is not found or not found.sequence:
            pass  # written already, or nothing to write
        elif found != record or (uses_database(found, self.keymap) and found != of_database):
            write_record(self.file, found, self.edn, self._side_in_use())
        elif self.edn is not None and found != of_journal:
            self.edn.note(["stage", found.text()])
            self.edn.stage_text = found.text()
        self._reroute()
        self.telemetry.stage_begins(self.stage_name())

    def _take_place(self) -> None:
        """In `datalog-only`: takes the memory alone, or beside others when they have no journal.

        Raises:
            StoreLocked: a process that has it alone does not share it.
        """
        began = time.monotonic()
        while True:
            with contextlib.suppress(StoreLocked):
                self._file_lock.take()
                return
            try:
                self._file_lock.take(shared=True)
            except StoreLocked:
                waited = time.monotonic() - began
                if waited > (_GIVE_UP_S if self._commands else _PATIENCE_S):
                    raise
                if self._commands and waited > _PATIENCE_S:
                    ask_to_share(self.file)
                time.sleep(_TICK_S)
                continue
            if not journal_files(journal_base(self.side.path)):
                return
            self._file_lock.release()  # who had it alone was killed just now: its journal has to be taken up first
            time.sleep(_TICK_S)

    def _begin_alone(self, *, fresh: bool = False) -> None:
        """Takes up the journal of the database side, and keeps it, or takes all of it to the database and shares the memory.

        With `fresh` there is nothing to be taken up: everything is in the database.
        """
        if self._file_lock.shared:
            self._side_lock.take(shared=True)
            return
        self._side_lock.take()
        wanted = self.goes_alone
        if fresh:
            remove_journal(self.side.path)
        if wanted or journal_files(journal_base(self.side.path)):
            applied = self.side.state().get("applied", 0)
            journal = DatabaseJournal(self.side.path, self._lock, store=self.record.store or "", applied=applied)
            ahead = Follower(journal, lambda: self.side, self.telemetry, believed=True)
            ahead.pending.update(journal.pending)
            self.journal, self.ahead = journal, ahead
        if not wanted:
            self._share_now()

    @property
    def goes_alone(self) -> bool:
        """True when this process may keep a journal of the database side: somebody has to answer who wants to come in."""
        return self.settings.alone and self.settings.lag > 0 and self._commands

    def share(self) -> bool:
        """Lets other processes in: from now on each save is a commit. False when the stage does not allow it.

        Raises:
            StorageError: the database does not take what the journal holds.
        """
        with self.held():
            if not is_database_only(self.record, self.keymap):
                return False
            self._share_now()
            return True

    def _share_now(self) -> None:
        """`share`, when nobody saves."""
        if self.journal is not None:
            self.settle_journal()
            if self.journal.values:
                raise self._unsettled()
            self.leave_journal()
        if not self._file_lock.shared:
            self._share_lock()
        self._looked_at = time.monotonic()  # who asked has to have time to come in

    def _share_lock(self) -> None:
        """Shares the lock of the file, then that of the database.

        The system lets go of a lock for a moment when its form changes. Who takes the file's in that moment does not get the
        database's, and gives up.
        """
        until = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                self._file_lock.take(shared=True)
                self._side_lock.take(shared=True)
            except StoreLocked:
                if time.monotonic() > until:
                    self._opened, self._closed = False, True  # without a lock nothing may be read or written any more
                    raise
                time.sleep(_TICK_S)
            else:
                return

    def _keep_alone(self) -> bool:
        """Goes on alone, with a journal, when those who shared the memory have gone."""
        if self.edn is not None or self.journal is not None or not self.goes_alone:
            return False
        if time.monotonic() - self._looked_at < _AGAIN_S:
            return False
        self._looked_at = time.monotonic()
        with self.held():
            if self.edn is None and self.journal is None and self._opened:
                try:
                    self._file_lock.take()
                    self._begin_alone(fresh=True)
                except DatalogError:  # somebody is there; or a full disk
                    self._share_lock()
        return False

    def settle_journal(self) -> None:
        """Takes all of the journal to the database, but for what it refuses; nobody saves meanwhile.

        Raises:
            StorageError: the database failed.
        """
        if self.ahead is not None:
            self.ahead.drain(retry_refused=True)

    def _unsettled(self) -> StorageError:
        held = self.journal.values if self.journal is not None else {}
        return StorageError(
            "memory/pending",
            f"{len(held)} saves are not in the database yet; {next(iter(held), '')} is one of them.",
            hint="see `datalog memory status` for what the database refuses.",
            retryable=True,
        )

    def leave_journal(self) -> None:
        """Removes the journal of the database side, whose saves are elsewhere by now."""
        journal, self.journal, self.ahead = self.journal, None, None
        if journal is not None:
            journal.remove()
        self._side_lock.release()

    def _let_journal_be(self) -> None:
        """Closes the journal as it is: what it holds is taken up by who opens the memory next."""
        journal, self.journal, self.ahead = self.journal, None, None
        if journal is not None:
            journal.close()
        self._side_lock.release()

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Those who take saves to the database: of the EDN side, and of the database's own journal."""
        return tuple(f for f in (self.follower, self.ahead) if f is not None)

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
        return self.side if uses_database(self.record, self.keymap) or self.side.is_open else None

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
        if uses_database(record, self.keymap):
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
        if not uses_database(record, self.keymap):
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
        if uses_database(self.record, self.keymap):
            try:
                notes = self.side.notes()
            except DatalogError as e:
                self.telemetry.alert("database-unavailable", error=e.code)
        routes: dict[Keyword, Route] = {}
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
            routes[kind] = Route(at.stage, at.below, at.percent, upper, lower, complete)
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
            for task in (self._keep_draining, self._keep_rewriting, self._keep_alone, *self.tasks):
                try:
                    busy = bool(task()) or busy
                except DatalogError as e:
                    self.telemetry.alert(
                        "keeper", task=getattr(task, "__name__", str(task)), error=str(e).splitlines()[0]
                    )
            self._wake.wait(_TICK_S if busy or self._has_work() else _REST_S)
            self._wake.clear()

    def _has_work(self) -> bool:
        edn = self.edn
        return any(f.pending for f in self.followers) or bool(edn is not None and edn.unsaved)

    def _keep_draining(self) -> bool:
        busy = False
        for follower in self.followers:
            if not follower.due:
                continue
            busy = True
            if time.monotonic() - self._last_save < self.settings.idle_s and len(follower.pending) < self.settings.lag:
                continue
            with contextlib.suppress(DatalogError):  # told by the follower; tried again
                follower.drain()
        return busy

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

    def stage_name(self) -> str:
        """The stage of all kinds, or "mixed"."""
        stages = {self.record.of(k).stage for k in self.keymap.data_kinds}
        return stages.pop() if len(stages) == 1 else "mixed"

    # -- for those who move stages

    @contextlib.contextmanager
    def drains(self) -> Iterator[None]:
        """Nobody else takes keys to the database meanwhile."""
        with contextlib.ExitStack() as stack:
            for follower in self.followers:
                stack.enter_context(follower.draining)
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

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nothing on the way, and nobody saving: both stores as of one moment."""
        if not self.followers:
            yield
            return
        with self.drains(), self._lock:
            for follower in self.followers:
                if follower.pending:
                    try:
                        follower.drain()
                    except DatalogError:
                        if any(m.reads == "datalog" for r in self._routes.values() for m in used_modes(r)):
                            raise
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
        return self.side if uses_database(record, self.keymap) else None

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
            if self.journal is None:
                self._share_lock()
            raise
        given = self.journal.sequence if self.journal is not None else 0
        self.edn.sequence = max(self.edn.sequence, self.side.state().get("applied", 0), given)
        self.follower = Follower(self.edn, lambda: self.side, self.telemetry)
        self.edn.prelude = self._prelude

    def leave_edn(self, *, moved: bool = False) -> None:
        """Closes the EDN side when no kind writes it any more; what it had to give the database has been given.

        After a move (`moved`: nobody saves meanwhile) this process goes on alone, with a journal, if it may.
        """
        edn = self.edn
        if edn is None or not is_database_only(self.record, self.keymap):
            return
        edn.close()
        self.edn = self.follower = None
        if moved:
            with contextlib.suppress(DatalogError):  # a full disk: then each save is a commit
                self._begin_alone(fresh=True)
        if self.journal is None and not self._file_lock.shared:
            self._share_lock()

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
