"""Brings the database to what a memory file holds: chunks, progress, resume, differences only.

Takes a connection, a mapping and a `Memory`; gives an `ImportReport`. The steps of `run`, in this order:

 1. The mapping is checked on all keys (coverage, collisions) and tried on a sample (round trip); nothing is written
    when two keys would meet or a value would not be read back.
 2. The schema is declared where the database lacks it.
 3. New keys are loaded in chunks, one commit each: a run that was killed goes on where it stopped, because the keys it
    committed are no longer new.
 4. Keys whose digest differs are brought up to date by differences, in chunks, guarded by their versions.
 5. Keys that the file no longer has are deleted (tombstones), unless that was not wanted.

Importing the same file again finds equal digests and writes nothing. An import of a file that was mapped with another
mapping compares every key instead of trusting digests.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from migration.buckets import BUCKET_SCHEMA
from migration.entities import Changes, fetch, key_states, load_new
from migration.jsonvalue import encode, to_text
from migration.rules import digest_of
from store.edn import Keyword, write_edn
from store.errors import KeyMapError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from datalog import Connection
    from migration.entities import KeyState
    from migration.keymap import Coverage, KeyMap
    from migration.rules import Mapped

__all__ = ["BOOKKEEPING", "ImportReport", "Progress", "declare", "import_memory", "paused_gc"]

_CHUNK: Final = 25_000  # new keys in one commit
_CHANGED: Final = 1_000  # changed keys in one commit
_TRIES: Final = 5  # how often a chunk is taken up again that another writer came across

#: One entity for each run that wrote something, and one for each block of eids it reserved.
BOOKKEEPING: Final[dict[str, dict[str, Any]]] = {
    **BUCKET_SCHEMA,
    ":import/source": {":db/valueType": ":db.type/string", ":db/doc": "SHA-256 of the file."},
    ":import/mapping": {":db/valueType": ":db.type/string", ":db/doc": "Digest of the mapping."},
    ":import/started": {":db/valueType": ":db.type/instant"},
    ":import/finished": {":db/valueType": ":db.type/instant"},
    ":import/run": {":db/valueType": ":db.type/ref", ":db/doc": "From a reserved block to its run."},
    ":import/keys": {":db/valueType": ":db.type/long", ":db/doc": "Keys that were to be loaded into the block."},
}

Progress = "Callable[[str, int, int], None]"


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        coverage: what the mapping does with the file's keys.
        keys: keys in the file.
        added, changed, deleted, unchanged: what became of them; deleted ones are no longer in the file.
        commits: transactions made.
        seconds, cpu_seconds: time of the whole run.
        source_bytes, source_digest: size and SHA-256 of the file.
    """

    coverage: Coverage
    keys: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    commits: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    source_bytes: int = 0
    source_digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "keys": self.keys,
            "added": self.added,
            "changed": self.changed,
            "deleted": self.deleted,
            "unchanged": self.unchanged,
            "commits": self.commits,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "source_bytes": self.source_bytes,
            "source_sha256": self.source_digest,
            "coverage": self.coverage.as_dict(),
        }


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pauses the cyclic garbage collector, which would walk millions of live values again and again.

    What exists already is put out of its sight meanwhile, so that `gc.collect(0)` between chunks costs only what is new:
    a database value caught in a cycle would otherwise keep pages of the file from being used again.
    """
    was, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        if was:
            gc.enable()


def declare(conn: Connection, keymap: KeyMap) -> None:
    """Declares the attributes of the mapping and of the bookkeeping that the database lacks.

    Raises:
        KeyMapError: `keymap/schema` when the database has an attribute of the name with another type.
    """
    has = conn.schema
    wanted: dict[str, Mapping[Any, Any]] = {str(a[Keyword("db/ident")]): a for a in keymap.schema}
    new: dict[str, Any] = {}
    for ident, declared in {**BOOKKEEPING, **wanted}.items():
        if ident not in has:
            new[ident] = {str(k): v for k, v in declared.items() if str(k) != ":db/ident"}
            continue
        for name in (":db/valueType", ":db/cardinality", ":db/unique"):
            default = ":db.cardinality/one" if name == ":db/cardinality" else None
            said = {str(k): v for k, v in declared.items()}.get(name, default)
            found = has[ident].get(name, default)
            if str(said) != str(found):
                raise KeyMapError(
                    "keymap/schema",
                    f"The database has {ident} with {name} {found}; the mapping declares {said}.",
                    hint="rename or delete the database's attribute, or use another database.",
                )
    if new:
        conn.update_schema(new)


def import_memory(
    conn: Connection,
    memory: Mapping[Keyword, Any],
    keymap: KeyMap,
    *,
    progress: Callable[[str, int, int], None] = lambda _step, _done, _of: None,
    delete_missing: bool = True,
    full_check: bool = False,
    chunk: int = _CHUNK,
) -> ImportReport:
    """Brings the database to what the memory holds; the report says what was done.

    Args:
        conn: the database; it may hold other data, too.
        memory: key -> value; a `Memory`, or any mapping.
        keymap: how keys become entities.
        progress: called with (step, done, of) as the work goes on.
        delete_missing: keys that the memory lacks are deleted from the database.
        full_check: the mapping is tried on every key before the first write, not on a sample.
        chunk: new keys in one commit.

    Raises:
        KeyMapError: `keymap/collision`, `keymap/lossy` before anything is written; `keymap/schema`.
        TransactionError: a unique value is held by an entity that is no part of the memory.
    """
    return _Import(conn, memory, keymap, progress, chunk).run(delete_missing=delete_missing, full_check=full_check)


@dataclass(slots=True)
class _Import:
    conn: Connection
    memory: Mapping[Keyword, Any]
    keymap: KeyMap
    progress: Callable[[str, int, int], None]
    chunk: int
    report: ImportReport = field(init=False)
    run_eid: int | None = None

    def run(self, *, delete_missing: bool, full_check: bool) -> ImportReport:
        began, cpu = time.perf_counter(), time.process_time()
        with paused_gc():
            self.progress("check the mapping", 0, len(self.memory))
            coverage = self.keymap.checked(self.memory, sample=0 if full_check else 400)
            check_coverage(coverage)
            self.report = ImportReport(coverage, keys=len(self.memory))
            self.report.source_bytes = getattr(self.memory, "size_bytes", 0)
            self.report.source_digest = getattr(self.memory, "digest", "")
            declare(self.conn, self.keymap)
            states = key_states(self.conn.db())
            self._load_new([key for key in self.memory if key not in states])
            self._bring_up_to_date(states)
            if delete_missing:
                self._delete([key for key, s in states.items() if not s.deleted and key not in self.memory])
            if self.run_eid is not None:
                self._commit([[":db/add", self.run_eid, ":import/finished", datetime.now(UTC)]])
        self.report.seconds = time.perf_counter() - began
        self.report.cpu_seconds = time.process_time() - cpu
        return self.report

    def _commit(self, operations: list[Any]) -> Any:
        self.report.commits += 1
        return self.conn.transact(operations)

    def _begin(self) -> int:
        """The run's entity, made before its first write."""
        if self.run_eid is None:
            made = self._commit(
                [
                    {
                        ":db/id": "run",
                        ":import/source": self.report.source_digest or "none",
                        ":import/mapping": self.keymap.digest,
                        ":import/started": datetime.now(UTC),
                    }
                ]
            )
            self.run_eid = made.tempids["run"]
        return self.run_eid

    def _load_new(self, keys: Sequence[Keyword]) -> None:
        for start in range(0, len(keys), self.chunk):
            self.progress("load new keys", start, len(keys))
            part = keys[start : start + self.chunk]
            for attempt in range(_TRIES):
                try:
                    self._load(part)
                    break
                except TransactionError as e:
                    # a unique value appeared between reading and writing: another writer added one of these keys
                    known = key_states(self.conn.db(), part)
                    if e.code != "tx/unique" or not known or attempt == _TRIES - 1:
                        raise
                    part = [key for key in part if key not in known]
        if keys:
            self.progress("load new keys", len(keys), len(keys))

    def _load(self, keys: Sequence[Keyword]) -> None:
        mapped: list[Mapped] = [self.keymap.encoded(key, self.memory[key]) for key in keys]
        if not mapped:
            return
        run = self._begin()
        load_new(self.conn, self.keymap, mapped, {":import/run": run, ":import/keys": len(mapped)})
        self.report.commits += 3
        self.report.added += len(keys)
        del mapped
        gc.collect(0)

    def _bring_up_to_date(self, states: Mapping[Keyword, KeyState]) -> None:
        present = [key for key in self.memory if key in states]
        remap = bool(present) and self._mapped_otherwise()
        changed = []
        for n, key in enumerate(present):
            if n % self.chunk == 0:
                self.progress("compare digests", n, len(present))
            text = to_text(encode(self.memory[key], canonical=True), canonical=True)
            state = states[key]
            if remap or state.deleted or state.digest != digest_of(key, text):
                changed.append(key)
        if present:
            self.progress("compare digests", len(present), len(present))
        for start in range(0, len(changed), _CHANGED):
            self.progress("write changes", start, len(changed))
            self._change(changed[start : start + _CHANGED])
        if changed:
            self.progress("write changes", len(changed), len(changed))
        self.report.unchanged = len(present) - self.report.changed

    def _mapped_otherwise(self) -> bool:
        found = self.conn.q("[:find [?m ...] :where [?r :import/mapping ?m]]")
        return any(m != self.keymap.digest for m in found)

    def _change(self, keys: Sequence[Keyword]) -> None:
        def changes(of: Changes, stored: Mapping[Keyword, Any]) -> int:
            return sum(of.put(stored[key], key, self.memory[key]) for key in keys)

        self.report.changed += self._guarded(keys, changes)

    def _delete(self, keys: Sequence[Keyword]) -> None:
        for start in range(0, len(keys), _CHANGED):
            part = keys[start : start + _CHANGED]
            self.progress("delete keys", start, len(keys))
            self.report.deleted += self._guarded(
                part,
                lambda of, stored, part=part: sum(of.delete(stored[k], k) for k in part),  # type: ignore[misc]
            )
        if keys:
            self.progress("delete keys", len(keys), len(keys))

    def _guarded(self, keys: Sequence[Keyword], add: Callable[[Changes, Mapping[Keyword, Any]], int]) -> int:
        """Commits the changes of some keys; builds them anew when another writer was faster."""
        for attempt in range(_TRIES):
            db = self.conn.db()
            changes = Changes(db, self.keymap)
            n = add(changes, fetch(db, self.keymap, keys))
            operations = changes.finished()
            if not operations:
                return 0
            self._begin()
            try:
                self._commit(operations)
            except TransactionError as e:
                if e.code != "tx/cas" or attempt == _TRIES - 1:
                    raise
                continue
            finally:
                gc.collect(0)
            return n
        raise AssertionError("the last attempt returns or raises")


def check_coverage(coverage: Coverage) -> None:
    """Refuses a mapping that would lose something.

    Raises:
        KeyMapError: `keymap/collision` when two keys would meet in one entity, `keymap/lossy` when a value would not be
            read back equal.
    """
    if coverage.collisions:
        shown = [f"{attr} {write_edn(value)}: {a} and {b}" for attr, value, a, b in coverage.collisions[:20]]
        more = len(coverage.collisions) - len(shown)
        raise KeyMapError(
            "keymap/collision",
            f"{len(coverage.collisions)} pairs of keys would meet in one entity; nothing was written.\n"
            + "\n".join(shown + ([f"and {more} more"] if more else [])),
            hint="give their rules attributes that are not unique, or one shared :identity.",
            data={"collisions": coverage.collisions},
        )
    if coverage.unequal:
        raise KeyMapError(
            "keymap/lossy",
            f"{len(coverage.unequal)} values would not be read back equal, that of {coverage.unequal[0]} first; "
            "nothing was written.",
            hint="this is a fault of the mapping: use the built-in one for these keys, and report it.",
            data={"keys": coverage.unequal},
        )
