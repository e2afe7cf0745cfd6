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
- a save in `datalog-only`: an entry of the database side's own journal, synced, while this process has the memory alone; the
  database's commit, synced, when others have it open, too.
- nothing that a read has returned is ever taken back, for a value is seen only when it is durable.

Who decides: in stages whose reads name the database first, a save is refused when the database refuses it. With `lag` saves
on the way at most, the first ones after it began to fail are already acknowledged; they are durable, on the pending list,
and answered from it. From then on every save waits for the database. `lag=0` makes every save wait.

The life of a memory is in memory_core.py, reads and saves are in memory_reads.py and memory_saves.py.
"""

from __future__ import annotations

import time
from typing import Any

from migration.memory_model import Reading, Saved, Settings, uses_database
from migration.memory_saves import MemorySaves
from migration.status import status_of
from store.errors import DatalogError

__all__ = ["MemoryStore", "Reading", "Saved", "Settings"]


class MemoryStore(MemorySaves):
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

    def init(self) -> dict[str, Any]:
        """Opens the memory now, not at the first operation, and returns its status.

        Raises:
            StoreLocked: another process has it. StorageError, StoreCorrupt, EdnError, KeyMapError: a side cannot be used.
        """
        self.open()
        return self.migration_status()

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
        if uses_database(self.record, self.keymap):
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
        for follower in self.followers[-1:]:
            out["pending"] = len(follower.pending)
            out["failing"] = follower.failing.code if follower.failing is not None else None
        out["ok"] = all(part.get("ok", True) for part in (out["edn"], out["database"])) and not out.get("failing")
        return out

    def migration_status(self) -> dict[str, Any]:
        """Where every kind stands, counted in the stores at this moment; see status.py."""
        self.open()
        return status_of(self)
