"""Fills the database with what the memory file has held all along, while the application goes on.

Takes an open `MemoryStore`; kinds of data in the order of their priority (`Backfill.order`), keys in order of their text, in
chunks. After each chunk the last key is noted in the database: a run that was paused or killed goes on behind it.

A chunk is what the EDN side holds when the chunk is written, not when the run began, and nothing else is taken to the
database at the same time (`follower.draining`): a save made meanwhile is on the pending list and follows, so that a late
chunk never overwrites a newer save. Keys whose digest is right already are not written: doing it again is idempotent.

At the end of a kind, keys that only the database has are deleted there, and it may call itself complete.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from migration.cutover import kinds_of
from migration.telemetry import Event
from store.edn import Keyword, Map
from store.errors import DatalogError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from migration.entry import Entry
    from migration.memory import MemoryStore

__all__ = ["Backfill", "Filled"]

_CHUNK: Final = 1_000  # keys written at a time; saves that wait for the database wait for one chunk at most
_STATE: Final = Keyword("state")
_COMPLETE: Final = Keyword("complete")
_PROGRESS: Final = Keyword("progress")


@dataclass(slots=True)
class Filled:
    """What a run did.

    Attributes:
        kinds: kind -> "complete", "paused", or why there was nothing to do.
        keys: keys looked at; of these `added`, `changed`, `deleted`, `unchanged`.
        seconds: how long it took; `throttled_s` of it was rest.
        resumed: kinds that went on behind a checkpoint.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    keys: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    chunks: int = 0
    seconds: float = 0.0
    throttled_s: float = 0.0
    resumed: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True when no kind was left unfinished."""
        return "paused" not in self.kinds.values()

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, with the rate in keys a second."""
        rate = self.keys / self.seconds if self.seconds else 0.0
        return {
            "kinds": self.kinds, "complete": self.complete, "keys": self.keys, "added": self.added, "changed": self.changed,
            "deleted": self.deleted, "unchanged": self.unchanged, "chunks": self.chunks,
            "seconds": round(self.seconds, 3), "throttled_s": round(self.throttled_s, 3),
            "keys_per_s": round(rate), "resumed": self.resumed,
        }  # fmt: skip


class Backfill:
    """One run; make it, then `run` it, or `start` it in a thread and `wait`.

    Args:
        memory: the memory.
        kinds: kinds of data in the order in which they are filled; by default all, in the order of the mapping's rules.
        chunk: keys written at a time.
        keys_per_s: no faster than this; None for as fast as it goes.
        share: the share of the time that it may work; the rest is for the application.
        progress: called with (step, done, of).
    """

    def __init__(
        self, memory: MemoryStore, kinds: Iterable[str | Keyword] | None = None, *, chunk: int = _CHUNK,
        keys_per_s: float | None = None, share: float = 1.0,
        progress: Callable[[str, int, int], None] = lambda _s, _d, _o: None,
    ) -> None:  # fmt: skip
        if chunk < 1 or not 0 < share <= 1 or (keys_per_s is not None and keys_per_s <= 0):
            raise UserError("memory/backfill", "chunk and keys_per_s must be above 0, share above 0 and at most 1.")
        memory.open()
        self.memory = memory
        self.order = kinds_of(memory, kinds)
        self.filled = Filled()
        self.error: DatalogError | None = None
        self._chunk = chunk
        self._keys_per_s = keys_per_s
        self._share = share
        self._progress = progress
        self._pause = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Backfill:
        """Runs in a thread of its own."""
        self._thread = threading.Thread(target=self._run_quietly, name="backfill", daemon=True)
        self._thread.start()
        return self

    def pause(self) -> None:
        """Stops after the chunk at hand; another run goes on from there."""
        self._pause.set()

    def wait(self, timeout_s: float | None = None) -> Filled:
        """Waits for the thread; returns what was done so far.

        Raises:
            DatalogError: what stopped the run.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.error is not None:
            raise self.error
        return self.filled

    def _run_quietly(self) -> None:
        try:
            self.run()
        except DatalogError as e:
            self.error = e
            self.memory.telemetry.alert("backfill-stopped", error=str(e).splitlines()[0])

    def run(self) -> Filled:
        """Fills kind after kind; returns when all are complete or the run was paused.

        Raises:
            DatalogError: a side failed, or a value cannot be written; what was filled so far stays.
        """
        began = time.perf_counter()
        try:
            for kind in self.order:
                self.filled.kinds[kind.name] = self._fill(kind)
                if self._pause.is_set():
                    break
        finally:
            self.filled.seconds = time.perf_counter() - began
            self.memory.reroute()
        self.memory.telemetry.emit(Event("backfill", ns=int(self.filled.seconds * 1e9), data=self.filled.as_dict()))
        return self.filled

    def _fill(self, kind: Keyword) -> str:
        memory = self.memory
        at = memory.record.of(kind)
        if not any(m.writes == "both" for m in at.used_modes):
            return f"nothing to do in {at.stage}"
        note = memory.side.kind_note(kind)
        same_epoch = note.get(Keyword("epoch")) == at.epoch
        if same_epoch and note.get(_STATE) == _COMPLETE:
            return "complete"
        if not same_epoch:
            memory.side.set_kind_note(kind, epoch=at.epoch, state=Keyword("stale"), cursor=None)
        cursor = note.get(Keyword("cursor")) if same_epoch else None
        if cursor is not None:
            self.filled.resumed.append(kind.name)
        keys = self._keys(kind)
        left = [k for k in keys if cursor is None or str(k) > cursor]
        step = f"fill {kind.name}"
        began = time.perf_counter()
        points = [(0.0, float(len(keys) - len(left)))]
        done = len(keys) - len(left)
        for start in range(0, len(left), self._chunk):
            self._progress(step, done + start, len(keys))
            if self._pause.is_set():
                return "paused"
            if memory.record.of(kind).epoch != at.epoch:
                return "paused"  # the stage was moved meanwhile
            self._take(kind, left[start : start + self._chunk], at.epoch)
            points.append((round(time.perf_counter() - began, 3), float(done + min(start + self._chunk, len(left)))))
        self._progress(step, len(keys), len(keys))
        self._keep_progress(kind, points)
        return self._finish(kind, at.epoch)

    def _keep_progress(self, kind: Keyword, points: list[tuple[float, float]]) -> None:
        """Keeps at most a hundred points of (seconds, keys) with the database, for the report."""
        thin = points[:: max(1, len(points) // 100)] + points[-1:]

        def changed(notes: dict[Any, Any]) -> None:
            notes[_PROGRESS] = Map({**dict(notes.get(_PROGRESS, {})), kind: [list(p) for p in thin]})

        self.memory.side.update_notes(changed)

    def _keys(self, kind: Keyword) -> list[Keyword]:
        memory = self.memory
        with memory.lock:
            names = list(memory.edn.values) if memory.edn is not None else []
        at, data_of = memory.record.of(kind), memory.keymap.data_of
        return sorted((k for k in names if data_of(k) is kind and at.mode_of(k).writes == "both"), key=str)

    def _take(self, kind: Keyword, keys: list[Keyword], epoch: int) -> None:
        memory = self.memory
        began = time.perf_counter()
        with memory.drains():
            follower = memory.follower
            if follower is None:
                return
            with memory.lock:
                wanted: dict[Keyword, Entry | None] = dict(follower.saves.entries_of(keys))
            # a key that was deleted since the list was made needs no tombstone if the database never had it: see `bring`
            brought = memory.side.bring_many(wanted)
            memory.side.set_kind_note(kind, epoch=epoch, cursor=str(keys[-1]))
        self.filled.keys += len(keys)
        self.filled.added += brought.added
        self.filled.changed += brought.changed
        self.filled.deleted += brought.deleted
        self.filled.unchanged += brought.unchanged
        self.filled.chunks += 1
        self._rest(time.perf_counter() - began, len(keys))

    def _rest(self, worked_s: float, keys: int) -> None:
        rest = worked_s * (1 / self._share - 1)
        if self._keys_per_s is not None:
            rest = max(rest, keys / self._keys_per_s - worked_s)
        if rest > 0:
            self.filled.throttled_s += rest
            self._pause.wait(rest)

    def _finish(self, kind: Keyword, epoch: int) -> str:
        """Deletes what only the database has, and lets it call itself complete."""
        memory = self.memory
        with memory.drains(), memory.lock:
            edn = memory.edn
            at = memory.record.of(kind)
            if edn is None or at.epoch != epoch:
                return "paused"
            data_of = memory.keymap.data_of
            extra = [
                key
                for key, there in memory.side.known().items()
                if there and key not in edn.values and data_of(key) is kind and at.mode_of(key).writes == "both"
            ]
            self.filled.deleted += memory.side.bring_many(dict.fromkeys(extra)).deleted if extra else 0
            memory.side.set_kind_note(kind, epoch=epoch, state=_COMPLETE, cursor=None)
            memory.reroute()
        return "complete"
