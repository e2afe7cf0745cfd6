"""What a memory is like now: counted in the stores, never kept by hand.

Takes an open `MemoryStore`, gives plain data: stage, percentage and preferences of each kind, keys on both sides, what is
pending, how far the backfill is, mismatches, what the reads fell back for, latencies, resources.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from store.edn import Keyword, show_form
from store.errors import DatalogError

if TYPE_CHECKING:
    from migration.memory import MemoryStore

__all__ = ["status_of"]

_SHOWN = 20


def status_of(memory: MemoryStore) -> dict[str, Any]:
    """The status as plain data; asks the database only when a stage uses it."""
    record, keymap = memory.record, memory.keymap
    edn_counts = dict.fromkeys((k.name for k in keymap.data_kinds), 0)
    if memory.edn is not None:
        with memory.lock:
            keys = list(memory.edn.values)
        for key in keys:
            edn_counts[keymap.data_of(key).name] += 1
    uses = any(m.uses_database for m in record.used_modes(keymap.data_kinds))
    database: dict[str, Any] = {"used": uses, "path": str(memory.side.path)}
    counts: dict[str, int] = {}
    notes: dict[Any, Any] = {}
    if uses:
        try:
            counts, notes = memory.side.counts(), memory.side.notes()
            state = memory.side.state()
            database |= {"ok": True, "basis_tx": memory.side.conn.db().basis_tx, "applied": state.get("applied", 0)}
        except DatalogError as e:
            database |= {"ok": False, "error": e.code}
    kinds = {}
    for kind in keymap.data_kinds:
        at = record.of(kind)
        note = memory.side.kind_note(kind, notes)
        upper, _ = at.modes
        current = note.get(Keyword("epoch")) == at.epoch
        state_of = note.get(Keyword("state"), Keyword("stale")).name if current else "stale"
        kinds[kind.name] = {
            "stage": at.stage,
            "percent": at.percent,
            "below": at.below,
            "reads": upper.reads,
            "writes": upper.writes,
            "reads_now": memory.mode_now(kind).reads,
            "edn_keys": edn_counts[kind.name],
            "database_keys": counts.get(kind.name, 0),
            "database": state_of if uses and upper.uses_database else "unused",
        }
    follower, edn, counters = memory.follower or memory.ahead, memory.edn, memory.counters
    return {
        "file": str(memory.file),
        "pid": os.getpid(),
        "stage": memory.stage_name(),
        "sequence": record.sequence,
        "archived": record.archived,
        "kinds": kinds,
        "database": database,
        "edn": None
        if edn is None
        else {
            "keys": len(edn.values),
            "sequence": edn.sequence,
            "unsaved": edn.unsaved,
            "rewrites": edn.rewrites,
            "rewrite_s": round(edn.rewrite_s, 4),
        },
        "pending": 0 if follower is None else len(follower.pending),
        "refused": {} if follower is None else {str(k): why for k, why in list(follower.refused.items())[:_SHOWN]},
        "failing": None if follower is None or follower.failing is None else follower.failing.code,
        "drained": 0 if follower is None else follower.drained,
        "drain_failures": 0 if follower is None else follower.failures,
        "shadow": {
            "compared": counters.compared,
            "mismatched": counters.mismatched,
            "mismatches": [
                {"key": str(k), "edn": show_form(m["edn"]), "datalog": show_form(m["datalog"])}
                for k, m in list(memory.mismatches.items())[:_SHOWN]
            ],
        },
        "fallbacks": dict(counters.fallbacks),
        "reads": counters.reads,
        "read_errors": counters.read_errors,
        "saves": counters.saves,
        "save_errors": counters.save_errors,
        "history": [m.as_dict() for m in record.history[-_SHOWN:]],
        "telemetry": memory.telemetry.summary(),
    }
