"""The pending list: keys whose last save is durable in a journal and not in the database yet, and who takes them there.

A save is in the journal before it is on this list, so that the list can be made anew after a crash: it is all keys of the
journal above the number that the database says it has applied, and those that were carried over from older generations.
It holds keys, not values: what is written is what the memory holds when it is written, so that a late attempt never
overwrites a newer save, and many saves of one key cost one write.

`drain` takes batches to the database. A key that the database refuses for what it is (not for the machine's sake) is put
aside as `refused`, stays on the list, and does not hold up the others.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from migration.jsonvalue import encode, to_text
from migration.locks import FairLock
from store.errors import DatalogError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from migration.database_side import DatabaseSide
    from migration.entry import Entry
    from migration.telemetry import Telemetry
    from store.edn import Keyword

__all__ = ["Follower", "Journaled"]

_BATCH: Final = 128  # keys in one transaction
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 5.0


class Journaled(Protocol):
    """Where saves are durable that the database is given later: the EDN side, or the database's own journal.

    Attributes:
        lock: guards it and the list.
        sequence: the number of the last save.
        applied: the number up to which everything is in the database.
    """

    lock: AbstractContextManager[Any]
    sequence: int
    applied: int

    def entries_of(self, keys: Iterable[Keyword]) -> dict[Keyword, Entry | None]:
        """What keys are to be now; the lock is held."""

    def note(self, entry: list[Any], *, sync: bool = True) -> None:
        """Appends an entry to the journal that changes no key; the lock is held."""

    def taken(self, keys: Iterable[Keyword]) -> None:
        """These keys are in the database as they are to be; the lock is held."""


class Follower:
    """Takes what was saved to the database, later.

    Args:
        saves: where the saves are.
        database: called for the database side; may raise.
        telemetry: told of drains and failures.
        believed: what was written is not read back for the cache of values: no other store is compared with it.

    Attributes:
        pending: key -> sequence number of its last save.
        failing: the error of the last attempt, None when it went well.
        refused: key -> why the database refuses it.
    """

    def __init__(
        self,
        saves: Journaled,
        database: Callable[[], DatabaseSide],
        telemetry: Telemetry,
        *,
        believed: bool = False,
    ) -> None:
        self.saves = saves
        self._believed = believed
        self._database = database
        self._telemetry = telemetry
        self.pending: dict[Keyword, int] = {}
        self.failing: DatalogError | None = None
        self.refused: dict[Keyword, str] = {}
        self.attempts = 0
        self.failures = 0
        self.drained = 0
        self._wait_s = 0.0
        self._not_before = 0.0
        self.draining = FairLock()

    def add(self, keys: Iterable[Keyword], sequence: int) -> None:
        """Puts keys on the list, saved with this number; the lock is held."""
        for key in keys:
            self.pending[key] = sequence

    def drop(self, gone: Callable[[Keyword], bool]) -> None:
        """Takes keys off the list that are no longer to be written to the database."""
        with self.saves.lock:
            self.pending = {k: n for k, n in self.pending.items() if not gone(k)}
            self.refused = {k: w for k, w in self.refused.items() if k in self.pending}

    @property
    def due(self) -> bool:
        """True when there is something to drain and it is time for it."""
        return len(self.pending) > len(self.refused) and time.monotonic() >= self._not_before

    def prelude(self) -> list[Any]:
        """Entries that carry the list over to a new generation of the journal."""
        carried = {to_text(encode(key)).decode()[1:-1]: n for key, n in self.pending.items()}
        entries: list[Any] = [["applied", self.saves.applied]]
        return [*entries, ["pending", carried]] if carried else entries

    def drain(
        self, *, most: int | None = None, keys: Iterable[Keyword] | None = None, retry_refused: bool = False
    ) -> int:
        """Takes the list to the database and returns how many keys it took; one thread at a time.

        Args:
            most: stop after this many keys.
            keys: only these.
            retry_refused: try those again that the database has refused.

        Raises:
            DatalogError: the database failed; what it did not take stays on the list.
        """
        done = 0
        with self.draining:
            if retry_refused:
                self.refused.clear()
            only = None if keys is None else set(keys)
            until = (
                None  # what is saved after the beginning is left for the next time: else a busy key keeps us for ever
            )
            while most is None or done < most:
                with self.saves.lock:
                    if until is None:
                        until = self.saves.sequence
                    batch = self._batch(only, until)
                    if not batch:
                        return done
                    wanted = self.saves.entries_of(batch)
                    applied = self._applied_after(batch)
                done += self._take(batch, wanted, applied)
        return done

    def _batch(self, only: set[Keyword] | None, until: int) -> dict[Keyword, int]:
        batch: dict[Keyword, int] = {}
        for key, n in self.pending.items():
            if n <= until and key not in self.refused and (only is None or key in only):
                batch[key] = n
                if len(batch) == _BATCH:
                    break
        return batch

    def applied_now(self) -> int:
        """The number up to which everything is in the database; the lock is held."""
        return self._applied_after({})

    def _applied_after(self, batch: Mapping[Keyword, int]) -> int:
        left = [n for key, n in self.pending.items() if key not in batch]
        return min(left) - 1 if left else self.saves.sequence

    def _take(self, batch: dict[Keyword, int], wanted: Mapping[Keyword, Entry | None], applied: int) -> int:
        began = time.perf_counter_ns()
        self.attempts += 1
        try:
            self._database().bring(wanted, applied=applied, believed=self._believed)
        except DatalogError as e:
            if isinstance(e, StorageError) or self._is_machine(e):
                self._has_failed(e)
                raise
            return self._one_by_one(batch, e)
        except OSError as e:  # what a database side that is not ours may raise
            error = StorageError("memory/database", f"The database failed: {e}.", retryable=True)
            self._has_failed(error)
            raise error from e
        with self.saves.lock:
            done = [key for key, n in batch.items() if self.pending.get(key) == n]
            for key in done:
                del self.pending[key]
            self.saves.taken(done)
            self.saves.applied = applied
            with contextlib.suppress(StorageError):  # it saves work after a crash, no more
                self.saves.note(["applied", applied], sync=False)
        if self.failing is not None:
            self._telemetry.alert("second-store-recovered", pending=len(self.pending))
        self.failing = None
        self._wait_s = self._not_before = 0.0
        self.drained += len(batch)
        self._telemetry.took("drain", "", "datalog", time.perf_counter_ns() - began)
        return len(batch)

    @staticmethod
    def _is_machine(e: DatalogError) -> bool:
        return e.code.startswith(("store/", "internal/"))

    def _one_by_one(self, batch: dict[Keyword, int], e: DatalogError) -> int:
        """A batch was refused for one of its keys: each is tried alone, and the culprit put aside."""
        if len(batch) == 1:
            ((key, _),) = batch.items()
            self.refused[key] = str(e).splitlines()[0]
            self.failures += 1
            self._telemetry.alert("refused", key=str(key), error=e.code)
            return 0
        done = 0
        for key, n in batch.items():
            with self.saves.lock:
                wanted = self.saves.entries_of([key])
                applied = self._applied_after({key: n})
            done += self._take({key: n}, wanted, applied)
        return done

    def _has_failed(self, e: DatalogError) -> None:
        self.failures += 1
        first = self.failing is None
        self.failing = e
        self._wait_s = min(max(self._wait_s * 2, _FIRST_WAIT_S), _LONGEST_WAIT_S)
        self._not_before = time.monotonic() + self._wait_s
        if first:
            self._telemetry.alert("second-store-fails", error=e.code, pending=len(self.pending))
