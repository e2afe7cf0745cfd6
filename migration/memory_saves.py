"""Saves of a memory: durable when they return, in the stores that the mode of the key names.

In stages that write EDN a save is an entry of the journal first; the database is given the key later, or decides before the
save counts. In `datalog-only` it is the same with the database's own journal, or, among several processes, one transaction.
A save that a stage move overtook is done in the new stage.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from migration.database_side import DELETED, UNKNOWN
from migration.entry import Entry, entry_of
from migration.memory_model import MISSING, Saved, used_modes
from migration.memory_reads import MemoryReads
from store.edn import Keyword
from store.errors import DatalogError, StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from migration.database_journal import DatabaseJournal
    from migration.edn_side import EdnSide
    from migration.follower import Follower

__all__ = ["MemorySaves"]


class MemorySaves(MemoryReads):
    """`save_value delete_value update clear_memory save_now`."""

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
                return entry_of(key, f(default if value is MISSING else value))
            finally:
                self._in_update.key = None

        return self._saved("update", key, began, changed)

    def _saved(self, operation: str, key: Keyword, began: int, changed: Callable[[Any], Entry | None]) -> Saved:
        """Saves or deletes; `changed` is given the value, or MISSING, and gives the entry, or None to delete."""
        if getattr(self._in_update, "key", None) is not None:
            raise UserError(
                "memory/nested-update",
                f"{operation} was called inside the function of an update of {self._in_update.key}.",
                hint="return the new value from the function, and save other keys after it.",
            )
        self.counters.saves += 1
        saved = None
        try:
            while saved is None:  # None: the stage was moved between looking and saving, or the memory closed
                self.open()
                mode = self._routes[self.keymap.data_of(key)].of(key)[0]
                if mode.writes != "datalog":
                    saved = self._saved_in_edn(key, changed)
                elif self.journal is not None:
                    saved = self._saved_ahead(key, changed, blind=operation == "save_value")
                else:
                    saved = self._saved_in_database(key, changed)
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
            entry = changed(value if there else MISSING)
            result.update(changed=there or entry is not None, value=None if entry is None else entry.value)
            return entry

        with self.turnstile.passing(), self._database_lock:
            mode, stage = self._routes[self.keymap.data_of(key)].of(key)
            if mode.writes != "datalog" or self.journal is not None:
                return None
            self.side.change(key, apply)
        return Saved(stage, ("datalog",), (), **result)

    def _saved_ahead(self, key: Keyword, changed: Callable[[Any], Entry | None], *, blind: bool) -> Saved | None:
        """Saves in the journal of the database side; with `blind` what is there now makes no difference."""
        strict = False
        while True:
            journal, ahead = self.journal, self.ahead
            if journal is None or ahead is None:
                return None
            with ahead.draining if strict else contextlib.nullcontext(), self._lock:
                mode, stage = self._routes[self.keymap.data_of(key)].of(key)
                if journal is not self.journal or mode.writes != "datalog":
                    return None
                if ahead.failing is not None and not strict:
                    strict = True  # it has begun to fail: from now on it decides
                    continue
                value = MISSING if blind else self._value_ahead(journal, key)
                entry = changed(value)
                if entry is None and value is MISSING:
                    return Saved(stage, ("datalog",), (), changed=False)
                sequence = journal.save(key, entry, self._decided(ahead, key, entry) if strict else None)
                self._last_save = time.monotonic()
                if strict:
                    ahead.pending.pop(key, None)
                else:
                    ahead.add((key,), sequence)
            break
        if not strict:
            self._pass_on(ahead, key)
        return Saved(stage, ("datalog",), (), value=None if entry is None else entry.value)

    def _value_ahead(self, journal: DatabaseJournal, key: Keyword) -> Any:
        """The value of a key, or MISSING; the lock is held."""
        if key in journal.values:
            entry = journal.values[key]
            return MISSING if entry is None else entry.value
        value = self.side.read(key)
        return MISSING if self.is_absent(value) else value

    def _decided(self, ahead: Follower, key: Keyword, entry: Entry | None) -> Callable[[int], None]:
        """The database decides: takes what is on the way and then this key, or raises."""

        def decide(sequence: int) -> None:
            ahead.drain()
            left = [n for k, n in ahead.pending.items() if k != key]
            self.side.bring({key: entry}, applied=min(left) - 1 if left else sequence, believed=True)
            ahead.failing = None

        return decide

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
                old = edn.values.get(key, MISSING)
                entry = changed(old)
                if entry is None and old is MISSING:
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
        n = 0
        with self.turnstile.closed(), self.drains(), self._lock:
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
            if any(m.writes == "datalog" for r in routes.values() for m in used_modes(r)):
                n += self._clear_journal(writes)
                gone = [k for k, there in self.side.known().items() if there and writes(k) == "datalog"]
                if gone:
                    self.side.bring(dict.fromkeys(gone))
                n += len(gone)
        self._wake.set()
        return n

    def _clear_journal(self, writes: Callable[[Keyword], str]) -> int:
        """Takes what is on the way to the database, so that it is cleared there; what it refuses is deleted here."""
        journal, ahead = self.journal, self.ahead
        if journal is None or ahead is None:
            return 0
        ahead.drain(retry_refused=True)
        journal.renew()  # or, after a crash, keys that are long in the database would come back from the journal
        refused = [key for key, entry in journal.values.items() if entry is not None and writes(key) == "datalog"]
        for key in refused:
            ahead.add((key,), journal.save(key, None))
        return len([k for k in refused if self.is_absent(self.side.read(k))])  # the others are counted there

    def save_now(self) -> None:
        """Takes everything that is on the way to the database and writes the memory file anew.

        Raises:
            StorageError: one of them failed; what was saved stays durable in the journal.
        """
        began = time.perf_counter_ns()
        self.open()
        error = ""
        try:
            for follower in self.followers:
                follower.drain()
            if self.edn is not None:
                self.edn.rewrite()
        except DatalogError as e:
            error = e.code
            raise
        finally:
            self.telemetry.done("save_now", None, self.stage_name(), "", began, error=error)
