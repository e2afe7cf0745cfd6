"""Are both sides equal? By digests, by changes since the last time, by a sample, or key by key; and repair.

Takes an open `MemoryStore`; both sides are looked at as of one moment, with nothing on the way. Findings are those of
`verify.py`, with the last writer of each key. Changes nothing but `repair`, and nothing there with `dry_run`.

- `compare_digests`: the bucket sums of both sides, one comparison for each bucket. The database keeps its sums by
  transaction; the EDN side's digests are made once and kept with each save.
- `check_memory(how="full")`: every value is rebuilt from the database and compared.
- `how="incremental"`: digests of everything, and the values of the keys that either side has written since the last check.
- `how="sample"`: the values of some keys.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from migration.buckets import Sums, add_digest, digest_bucket, scanned_sums
from migration.database_side import total_of
from migration.entities import fetch_one, key_states
from migration.entry import Entry, entry_of
from migration.telemetry import Event
from migration.verify import Finding, Verification, verify, verify_keys
from store.edn import Keyword, Map
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datalog import Db
    from migration.memory import MemoryStore

__all__ = ["DigestCheck", "Repair", "check_memory", "compare_digests", "repair"]

_NO_PROGRESS: Callable[[str, int, int], None] = lambda _s, _d, _o: None  # noqa: E731


@dataclass(slots=True)
class DigestCheck:
    """What the digests of both sides say.

    Attributes:
        equal: True when every bucket's sum and count agree.
        keys: keys on the EDN side that both sides are to hold.
        digest: hexadecimal digest of the EDN side; of the database, `database_digest`.
        buckets: buckets that differ, with both counts.
        seconds: time of the comparison; `prepared_s` is what it took to make digests that were not known yet.
    """

    equal: bool
    keys: int
    digest: str
    database_digest: str
    buckets: dict[str, tuple[int, int]] = field(default_factory=dict)
    kinds: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    prepared_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "equal": self.equal,
            "keys": self.keys,
            "digest": self.digest,
            "database_digest": self.database_digest,
            "kinds": self.kinds,
            "buckets_that_differ": {b: {"edn": e, "database": d} for b, (e, d) in sorted(self.buckets.items())},
            "seconds": round(self.seconds, 4),
            "prepared_s": round(self.prepared_s, 3),
        }


def _held_by_both(memory: MemoryStore) -> Callable[[Keyword], bool]:
    """True for the keys that both sides are to hold."""
    record, data_of = memory.record, memory.keymap.data_of
    whole = {k: record.of(k).modes[0].writes == "both" for k in memory.keymap.data_kinds if record.of(k).percent >= 100}
    return lambda key: whole[k] if (k := data_of(key)) in whole else record.of(k).mode_of(key).writes == "both"


def _parts(memory: MemoryStore) -> tuple[set[str], list[Keyword]]:
    """(names of the kinds that both sides hold whole, kinds of which both hold a share)."""
    record, kinds = memory.record, memory.keymap.data_kinds
    parts = [k for k in kinds if len({m.writes for m in record.of(k).used_modes}) > 1]
    whole = {k.name for k in kinds if k not in parts and record.of(k).used_modes[0].writes == "both"}
    return whole, parts


def _edn_sums(memory: MemoryStore) -> Sums:
    """The kept sums of kinds that are held whole; those of a share of the keys are added up."""
    edn, keymap = memory.edn, memory.keymap
    if edn is None:
        return {}
    whole, parts = _parts(memory)
    kept = edn.keep_sums(lambda key: digest_bucket(keymap, key))
    sums: Sums = {b: v for b, v in kept.items() if b.rpartition("/")[0] in whole and v != (0, 0)}
    if parts:
        both = _held_by_both(memory)
        for key in edn.values:
            if keymap.data_of(key) in parts and both(key):
                add_digest(sums, digest_bucket(keymap, key), edn.digest(key), 1)
    return sums


def _database_sums(memory: MemoryStore, db: Db) -> Sums:
    """The kept sums of kinds that are held whole; those of a share of the keys are added up."""
    keymap = memory.keymap
    kept = memory.side.sums(db)
    whole, parts = _parts(memory)
    sums: Sums = {b: v for b, v in kept.items() if b.rpartition("/")[0] in whole}
    if parts:
        both = _held_by_both(memory)
        for key, state in key_states(db).items():
            if not state.deleted and state.digest is not None and keymap.data_of(key) in parts and both(key):
                add_digest(sums, digest_bucket(keymap, key), state.digest, 1)
    return sums


def compare_digests(memory: MemoryStore, *, recount: bool = False) -> DigestCheck:
    """Compares the bucket sums of both sides, with nothing on the way.

    Args:
        memory: the memory.
        recount: do not believe the kept sums, add up the keys' digests.

    Raises:
        StorageError: a side failed.
    """
    memory.open()
    _prepare = time.perf_counter()
    if memory.edn is not None:
        for key in list(memory.edn.values):  # without the lock: the first time this takes seconds
            if key not in memory.edn.digests:
                _known_digest(memory, key)
    began = time.perf_counter()
    with memory.still():
        db = memory.side.conn.db()
        ours = _edn_sums(memory)
        theirs = scanned_sums(db, memory.keymap, _held_by_both(memory)) if recount else _database_sums(memory, db)
    differ = {
        b: (ours.get(b, (0, 0))[1], theirs.get(b, (0, 0))[1])
        for b in ours.keys() | theirs.keys()
        if ours.get(b, (0, 0)) != theirs.get(b, (0, 0))
    }
    kinds = {k.name: not any(b.rpartition("/")[0] == k.name for b in differ) for k in memory.keymap.data_kinds}
    (our_sum, keys), (their_sum, _) = total_of(ours), total_of(theirs)
    out = DigestCheck(not differ, keys, f"{our_sum % (1 << 64):016x}", f"{their_sum % (1 << 64):016x}", differ, kinds)
    out.seconds, out.prepared_s = time.perf_counter() - began, began - _prepare
    memory.telemetry.emit(Event("digests", ns=int(out.seconds * 1e9), data={"equal": out.equal, "keys": keys}))
    return out


def _known_digest(memory: MemoryStore, key: Keyword) -> None:
    with memory.lock:
        if memory.edn is not None and key in memory.edn.values:
            memory.edn.digest(key)


def check_memory(
    memory: MemoryStore, how: str = "full", *, sample: int = 1_000, seed: int | None = None,
    progress: Callable[[str, int, int], None] = _NO_PROGRESS,
) -> Verification:  # fmt: skip
    """Compares the values of both sides.

    Args:
        memory: the memory; it goes on being used meanwhile, what is compared is of one moment.
        how: "full", "incremental" or "sample".
        sample: keys of a sample.
        seed: repeats a sample.
        progress: called with (step, done, of).

    Raises:
        UserError: `memory/verify` for another `how`. StorageError: a side failed.
    """
    if how not in ("full", "incremental", "sample"):
        raise UserError("memory/verify", f"There is no verification {how!r}.", expected="full, incremental or sample")
    memory.open()
    both = _held_by_both(memory)
    with memory.still():
        values = dict(memory.edn.values) if memory.edn is not None else {}
        sequence = memory.edn.sequence if memory.edn is not None else 0
        db = memory.side.conn.db()
    with db:
        wanted = {k: v for k, v in values.items() if both(k)}
        if how == "full":
            out = verify(db, memory.keymap, wanted, progress=progress, among=both)
        else:
            keys = _changed_keys(memory, db, wanted, both) if how == "incremental" else _sampled(wanted, sample, seed)
            out = verify_keys(db, memory.keymap, wanted, keys, progress=progress)
        _name_writers(db, memory, out.findings)
    if how != "sample" and out.equal:
        memory.side.update_notes(
            lambda notes: notes.update(
                {Keyword("verified"): Map({Keyword("basis"): out.basis_tx, Keyword("sequence"): sequence,
                                           Keyword("at"): datetime.now(UTC), Keyword("keys"): out.keys})}
            )
        )  # fmt: skip
    if not out.equal:
        memory.telemetry.alert("verification", how=how, counts=dict(out.counts))
    memory.telemetry.emit(
        Event("verify", ns=int(out.seconds * 1e9), data={"how": how, "equal": out.equal, "keys": out.keys})
    )
    return out


def _sampled(wanted: Mapping[Keyword, Any], n: int, seed: int | None) -> list[Keyword]:
    keys = list(wanted)
    return random.Random(seed).sample(keys, min(n, len(keys)))  # noqa: S311 - no secret hangs on it


def _changed_keys(
    memory: MemoryStore, db: Db, wanted: Mapping[Keyword, Any], both: Callable[[Keyword], bool]
) -> list[Keyword]:
    """Keys that the database was given since it was last verified, and those in buckets whose digests differ."""
    verified = memory.side.notes().get(Keyword("verified"), {})
    basis = verified.get(Keyword("basis"), 0)
    changed = set(
        db.q(
            "[:find [?key ...] :in $ ?basis :where [?k :memory/version _ ?tx] [(> ?tx ?basis)] [?k :memory/key ?key]]",
            basis,
        )
    )
    digests = compare_digests(memory)
    if not digests.equal:
        states = key_states(db)
        names = set(digests.buckets)
        changed |= {k for k in wanted.keys() | states.keys() if digest_bucket(memory.keymap, k) in names}
    return [k for k in changed if both(k)]


def _name_writers(db: Db, memory: MemoryStore, findings: Iterable[Finding]) -> None:
    """Adds to each finding when and by which transaction the database's side was last written."""
    for finding in findings:
        stored = fetch_one(db, memory.keymap, finding.key)
        if stored is None:
            continue
        txs = [datom.tx for eid in (stored.state.eid, *stored.entities) for datom in db.datoms("eavt", eid)]
        tx = max(txs)
        at = db.q("[:find ?at . :in $ ?tx :where [?tx :db/txInstant ?at]]", tx)
        finding.last_writer.update(tx=tx, at=at.isoformat() if at is not None else None, version=stored.state.version)


@dataclass(slots=True)
class Repair:
    """What a repair did, or would do."""

    dry_run: bool
    source: str
    keys: list[dict[str, Any]] = field(default_factory=list)
    written: int = 0
    equal_after: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "dry_run": self.dry_run, "source": self.source, "differences": len(self.keys), "written": self.written,
            "equal_after": self.equal_after, "keys": self.keys,
        }  # fmt: skip


def repair(
    memory: MemoryStore, *, source: str = "edn", dry_run: bool = False, how: str = "full",
    progress: Callable[[str, int, int], None] = _NO_PROGRESS,
) -> Repair:  # fmt: skip
    """Brings the keys that a verification finds to what the source holds, and verifies these again.

    Args:
        memory: the memory.
        source: "edn": the database is mended; "database": the EDN side is.
        dry_run: say what would be done, and do nothing.
        how: how to look: see `check_memory`.
        progress: called with (step, done, of).

    Raises:
        UserError: `memory/repair`. StorageError: a side failed.
    """
    if source not in ("edn", "database"):
        raise UserError("memory/repair", f"There is no source {source!r}.", expected="edn or database")
    found = check_memory(memory, how, progress=progress)
    out = Repair(dry_run, source, [f.as_dict() for f in found.findings])
    if not dry_run and found.findings:
        keys = list(dict.fromkeys(f.key for f in found.findings))
        with memory.still():
            for start in range(0, len(keys), 200):
                out.written += _mend(memory, keys[start : start + 200], source)
        out.equal_after = check_memory(memory, "full" if how == "full" else "incremental", progress=progress).equal
    elif not found.findings:
        out.equal_after = found.equal
    memory.telemetry.emit(
        Event("repair", data={"source": source, "dry_run": dry_run, "found": len(out.keys), "written": out.written})
    )
    return out


def _mend(memory: MemoryStore, keys: list[Keyword], source: str) -> int:
    edn, follower = memory.edn, memory.follower
    assert edn is not None
    assert follower is not None
    if source == "edn":
        wanted: dict[Keyword, Entry | None] = dict(follower.saves.entries_of(keys))
        return memory.side.bring(wanted, distrust=True).written
    answers = memory.side.read_all(keys)
    put = [entry_of(k, v) for k, v in answers.items() if not memory.is_absent(v)]
    gone = [k for k in keys if k not in answers or memory.is_absent(answers[k])]
    if put:
        follower.add([e.key for e in put], edn.put(put))  # their digests in the database may be wrong, too
    if gone:
        edn.delete(gone)
    return len(put) + len(gone)
