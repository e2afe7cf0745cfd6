"""Reads of a memory: one key, or the whole as of one moment, from the store that the mode of the key names.

Found, absent and error are three things. A read that a stage move overtook is done again in the new stage.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from migration.database_side import DELETED, UNKNOWN
from migration.entry import entry_of
from migration.memory_core import MemoryCore
from migration.memory_model import MISSING, Reading, used_modes
from migration.search import Search, search_edn
from store.edn import Keyword, strict_equal
from store.errors import DatalogError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from migration.modes import Mode

__all__ = ["MemoryReads"]

_MISMATCHES: Final = 1_000  # kept


class MemoryReads(MemoryCore):
    """`get_value get_instrumented get_all keys search`."""

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
                    value = edn.values.get(key, MISSING)
                else:  # the stage was moved between the two, or the memory closed
                    self.open()
                    continue
            except DatalogError as e:
                if self._routes is not routes:
                    continue
                self.counters.read_errors += 1
                self.telemetry.done(operation, key, stage, store, began, error=e.code)
                raise
            if self._routes is routes:
                break
        found = value is not MISSING
        ns = time.perf_counter_ns() - began
        self.telemetry.done(operation, key, stage, store, began, found=found, error=error)
        if mode.reads == "shadow" and route.complete:
            self._compare(key, value, stage)
        if fell_back:
            self.counters.fallbacks[fell_back] = self.counters.fallbacks.get(fell_back, 0) + 1
        return Reading(found, value if found else None, store, stage, ns, fell_back, error)

    def _read_database(self, key: Keyword, mode: Mode) -> tuple[Any, str, str, str]:
        """(value or MISSING, store that answered, why it fell back, error)."""
        follower, edn, journal = self.follower, self.edn, self.journal
        if journal is not None:
            entry: Any = journal.values.get(key, MISSING)
            if entry is not MISSING:  # saved, and on its way into the database's own files
                return MISSING if entry is None else entry.value, "datalog", "", ""
        elif follower is not None and key in follower.pending:
            if mode.reads == "datalog-first" and edn is not None:
                return edn.values.get(key, MISSING), "edn", "pending", ""
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
                return edn.values.get(key, MISSING), "edn", "error", e.code
            raise
        if value is DELETED:
            return MISSING, "datalog", "", ""
        if value is UNKNOWN:
            if mode.reads == "datalog-first" and edn is not None:
                value = edn.values.get(key, MISSING)
                if value is not MISSING:  # saved while the database was asked, or really not known to it
                    why = "pending" if follower is not None and key in follower.pending else "unknown"
                    return value, "edn", why, ""
            return MISSING, "datalog", "", ""
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
            value, other = edn.values.get(key, MISSING), self.side.read(key)
            if _agree(value, other):
                return
        self.counters.mismatched += 1
        if len(self.mismatches) < _MISMATCHES:
            self.mismatches[key] = {"edn": None if value is MISSING else value, "datalog": other}
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
        modes = [m for r in self._routes.values() for m in used_modes(r)]
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
                if self.journal is not None:  # what the database refuses, and so was not taken there just now
                    answers = dict(answers) | {
                        k: DELETED if entry is None else entry.value for k, entry in self.journal.values.items()
                    }
                if self.edn is None:
                    return {k: v for k, v in answers.items() if v is not DELETED}, "datalog"
                return self._merged(of_edn(), answers), "edn+datalog" if from_edn else "datalog"
        except DatalogError as e:
            self.side.failed(e)
            modes = [m for r in self._routes.values() for m in used_modes(r)]
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

    def _found(self, wanted: Search) -> tuple[list[Keyword], str]:
        from_edn, from_database = self._readers()
        with self._lock:
            snapshot = dict(self.edn.values) if self.edn is not None and (from_edn or not from_database) else {}
        if not from_database:
            return sorted(search_edn(self.keymap, wanted, snapshot)), "edn"
        try:
            with self.still():
                found = wanted.ask(self.side)
                if self.journal is not None and self.journal.values:
                    held = self.journal.values
                    ours = {k: entry.value for k, entry in held.items() if entry is not None}
                    found = {k for k in found if k not in held} | set(search_edn(self.keymap, wanted, ours))
                pending = set(self.follower.pending) if self.follower is not None else set()
                edn = dict(self.edn.values) if self.edn is not None else {}
                # a key that the database was never given, which only datalog-first and a mixture can have
                unknown = edn.keys() - self.side.known().keys() if edn and not self._all_complete() else set()
        except DatalogError as e:
            self.side.failed(e)
            if self.edn is None or any(m.reads == "datalog" for r in self._routes.values() for m in used_modes(r)):
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


def _agree(value: Any, other: Any) -> bool:
    if value is MISSING or other is DELETED or other is UNKNOWN:
        return value is MISSING and (other is DELETED or other is UNKNOWN)
    return strict_equal(value, other)
