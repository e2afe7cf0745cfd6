"""What has to hold before a kind of data may move a stage up, measured when it is asked.

Takes an open `MemoryStore` and the record that the move would make; gives a `Gate`: one `Check` for each demand with the
figure found and its limit. Changes nothing.

=================  ================================================================================================
to                 demands
=================  ================================================================================================
``dual-write``     the mapping takes every key without collision and gives every value back; the database can be opened
``shadow``         filled; nothing pending; no errors of the database
``datalog-first``  the same; both sides equal by digest; shadow reads without mismatch; latencies
``rampdown``       the same; no read had to fall back for want of a key
``datalog-only``   the same
=================  ================================================================================================

Latencies are measured on both sides in the same run, on this data, in turns: point reads, the mapping's queries, and durable
saves. The EDN side's durable save is timed on a scratch journal beside the memory file, with values of the memory; so is,
for ``datalog-only``, the database side's as it will be made there.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from migration.checking import compare_digests
from migration.database_journal import DatabaseJournal
from migration.database_side import DatabaseSide
from migration.edn_side import EdnSide
from migration.entry import Entry, entry_of
from migration.importer import check_coverage
from migration.locks import FairLock
from migration.modes import STAGES
from migration.search import Search, search_edn
from migration.telemetry import Histogram
from store.edn import Keyword
from store.errors import DatalogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from migration.memory import MemoryStore
    from migration.stages import KindStage, StageRecord

__all__ = [
    "Check",
    "Gate",
    "Limits",
    "check_gate",
    "measure_next_saves",
    "measure_queries",
    "measure_reads",
    "measure_saves",
]

_READS: Final = 400  # point reads of each side
_QUERIES: Final = 7
_SAVES: Final = 60
_ENOUGH: Final = 50  # saves from which a stage's own histogram counts


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of gates; None leaves a demand out.

    Attributes:
        read_ratio, read_slack_us: point read p95 of the database at most the larger of EDN x ratio and EDN + slack.
        query_ratio: queries at most the EDN scan x this.
        save_ratio: durable save p95 of the stage at most the EDN side's x this.
        error_rate: errors of the database in all operations since the memory was opened.
        shadow_reads: how many reads must have been compared before the database may answer.
        sample: keys of each kind whose mapping is tried.
    """

    read_ratio: float | None = 1.10
    read_slack_us: float = 100.0
    query_ratio: float | None = 1.10
    save_ratio: float | None = 1.20
    error_rate: float | None = 0.0
    shadow_reads: int = 0
    sample: int = 400


@dataclass(frozen=True, slots=True)
class Check:
    """One demand of a gate: what was found, what was wanted; `must`: cannot be forced."""

    name: str
    passed: bool
    found: Any
    wanted: str
    must: bool = False

    def text(self) -> str:
        """One line."""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.found} (wanted: {self.wanted})"


@dataclass(slots=True)
class Gate:
    """The outcome: `passed` when every check did."""

    target: str
    checks: list[Check] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [c for c in self.checks if not c.passed]

    @property
    def passed(self) -> bool:
        """True when the move may be made."""
        return not self.failed

    @property
    def may_be_forced(self) -> bool:
        """True when nothing that failed would lose a save."""
        return not any(c.must for c in self.failed)

    def figures(self) -> dict[str, Any]:
        """Name -> what was found."""
        return {c.name: c.found for c in self.checks}

    def as_dict(self) -> dict[str, Any]:
        """The gate as plain data."""
        return {
            "target": self.target,
            "passed": self.passed,
            "checks": [{"name": c.name, "passed": c.passed, "found": c.found, "wanted": c.wanted, "must": c.must}
                       for c in self.checks],
        }  # fmt: skip


def check_gate(
    memory: MemoryStore, kinds: tuple[Keyword, ...], new: StageRecord, limits: Limits,
    progress: Callable[[str, int, int], None],
) -> Gate:  # fmt: skip
    """What the gate of a move says; a move down has no demands."""
    target = new.of(kinds[0]).stage
    gate = Gate(target)
    step = STAGES.index(target)
    if not any(_rises(memory.record.of(k), new.of(k)) for k in kinds):
        return gate
    add = gate.checks.append
    if target == "dual-write":
        progress("check the mapping", 0, 0)
        _add_mapping(memory, kinds, limits, add)
        _add_openable(memory, add)
        return gate
    must = target == "datalog-only"
    _add_filled(memory, kinds, add, must=must)
    _add_pending(memory, kinds, add, must=must)
    _add_errors(memory, limits, add)
    if target == "shadow" or gate.failed:
        return gate
    progress("compare digests", 0, 0)
    _add_digests(memory, kinds, add)
    _add_shadow(memory, limits, target, add)
    if step >= STAGES.index("rampdown"):
        missed = memory.counters.fallbacks.get("unknown", 0)
        add(Check("reads that only EDN could answer", missed == 0, missed, "0"))
    _add_latencies(memory, kinds, limits, target, add, progress)
    return gate


def _rises(old: KindStage, new: KindStage) -> bool:
    """True when some key comes to a higher stage."""
    before, after = STAGES.index(old.stage), STAGES.index(new.stage)
    return after > before or (after == before and new.percent > old.percent)


def _add_mapping(memory: MemoryStore, kinds: tuple[Keyword, ...], limits: Limits, add: Callable[[Check], None]) -> None:
    with memory.lock:
        values = dict(memory.edn.values) if memory.edn is not None else {}
    data_of = memory.keymap.data_of
    coverage = memory.keymap.checked({k: v for k, v in values.items() if data_of(k) in kinds}, sample=limits.sample)
    try:
        check_coverage(coverage)
    except DatalogError as e:
        add(Check("mapping", passed=False, found=str(e).splitlines()[0], wanted="no collision, every value comes back"))
        return
    add(Check("mapping", True, f"{coverage.keys} keys, {coverage.tried} tried", "no collision, every value comes back"))


def _add_openable(memory: MemoryStore, add: Callable[[Check], None]) -> None:
    try:
        memory.side.conn.db()
    except DatalogError as e:
        add(Check("database", passed=False, found=str(e).splitlines()[0], wanted="can be opened", must=True))
        return
    add(Check("database", True, str(memory.side.path), "can be opened", must=True))
    if memory.edn is not None and not memory.edn.journaling:
        add(Check("journal", False, "journal=False", "a journal", must=True))


def _add_filled(memory: MemoryStore, kinds: tuple[Keyword, ...], add: Callable[[Check], None], *, must: bool) -> None:
    notes = memory.side.notes()
    for kind in kinds:
        note = memory.side.kind_note(kind, notes)
        at = memory.record.of(kind)
        current = note.get(Keyword("epoch")) == at.epoch
        state = note.get(Keyword("state"), Keyword("stale")).name if current else "stale"
        add(Check(f"filled: {kind.name}", state == "complete", state, "complete", must=must))


def _add_pending(memory: MemoryStore, kinds: tuple[Keyword, ...], add: Callable[[Check], None], *, must: bool) -> None:
    follower = memory.follower
    if follower is None:
        return
    with contextlib.suppress(DatalogError):
        follower.drain(retry_refused=True)
    # a refused save of another kind does not concern this one; one that came in just now is only on its way
    stuck = follower.refused.keys() if follower.failing is None else follower.pending.keys()
    n = sum(memory.keymap.data_of(k) in kinds for k in list(stuck))
    add(Check("pending", n == 0, n, "0", must=must))


def _add_errors(memory: MemoryStore, limits: Limits, add: Callable[[Check], None]) -> None:
    counters = memory.counters
    if limits.error_rate is None:
        return
    operations = max(1, counters.reads + counters.saves)
    rate = (counters.read_errors + counters.save_errors) / operations
    add(Check("error rate", rate <= limits.error_rate, round(rate, 6), f"at most {limits.error_rate}"))


def _add_digests(memory: MemoryStore, kinds: tuple[Keyword, ...], add: Callable[[Check], None]) -> None:
    check = compare_digests(memory)
    wrong = [k.name for k in kinds if not check.kinds.get(k.name, True)]
    found = f"{check.keys} keys, {check.digest}" if not wrong else "differ: " + ", ".join(wrong)
    add(Check("digests", not wrong, found, "equal on both sides"))


def _add_shadow(memory: MemoryStore, limits: Limits, target: str, add: Callable[[Check], None]) -> None:
    counters = memory.counters
    add(Check("mismatches of shadow reads", counters.mismatched == 0, counters.mismatched, "0"))
    if limits.shadow_reads and target == "datalog-first":
        n = counters.compared
        add(Check("shadow reads", n >= limits.shadow_reads, n, f"at least {limits.shadow_reads}"))


# ---------------------------------------------------------------------------------------------------------------------
# latencies


def _add_latencies(
    memory: MemoryStore, kinds: tuple[Keyword, ...], limits: Limits, target: str, add: Callable[[Check], None],
    progress: Callable[[str, int, int], None],
) -> None:  # fmt: skip
    if limits.read_ratio is not None:
        progress("measure reads", 0, 0)
        edn, database = measure_reads(memory, kinds)
        if edn is not None and database is not None:
            limit = max(edn * limits.read_ratio, edn + limits.read_slack_us)
            found = f"{database:.1f} us, EDN {edn:.1f} us"
            add(Check("point read p95", database <= limit, found, f"at most {limit:.1f} us"))
    if limits.query_ratio is not None:
        progress("measure queries", 0, 0)
        for name, (edn, database) in measure_queries(memory, kinds).items():
            limit = max(edn * limits.query_ratio, edn + limits.read_slack_us)
            add(
                Check(
                    f"query {name}",
                    database <= limit,
                    f"{database:.0f} us, EDN {edn:.0f} us",
                    f"at most {limit:.0f} us",
                )
            )
    if limits.save_ratio is not None:
        progress("measure saves", 0, 0)
        measured = measure_next_saves(memory) if target == STAGES[-1] else measure_saves(memory)
        if measured is not None:
            edn, stage = measured
            limit = edn * limits.save_ratio
            add(
                Check(
                    "durable save p95", stage <= limit, f"{stage:.0f} us, EDN {edn:.0f} us", f"at most {limit:.0f} us"
                )
            )


def measure_reads(
    memory: MemoryStore, kinds: tuple[Keyword, ...], n: int = _READS
) -> tuple[float | None, float | None]:
    """(p95 of point reads of EDN, of the database) in microseconds, on keys of these kinds, in turns; None without keys."""
    edn, side = memory.edn, memory.side
    if edn is None:
        return None, None
    data_of = memory.keymap.data_of
    with memory.lock:
        keys = [k for k in edn.values if data_of(k) in kinds]
    if not keys:
        return None, None
    chosen = random.Random(len(keys)).choices(keys, k=n)  # noqa: S311 - no secret hangs on it
    for key in chosen:  # both sides warm: the value cache is part of what is measured
        side.read(key)
    ours, theirs = Histogram(), Histogram()
    for key in chosen:
        began = time.perf_counter_ns()
        edn.values.get(key)
        ours.add(time.perf_counter_ns() - began)
        began = time.perf_counter_ns()
        side.read(key)
        theirs.add(time.perf_counter_ns() - began)
    return (ours.quantile(0.95) or 0) / 1000, (theirs.quantile(0.95) or 0) / 1000


def measure_queries(memory: MemoryStore, kinds: tuple[Keyword, ...]) -> dict[str, tuple[float, float]]:
    """Query -> (median of the EDN scan, of the database) in microseconds: by name, and by each attribute the values have."""
    edn = memory.edn
    if edn is None:
        return {}
    with memory.lock:
        values: Mapping[Keyword, Any] = dict(edn.values)
    searches: dict[str, Search] = {}
    for attr in (":session/owner", ":learning/tags", ":project/status"):
        found = _some_value(memory, values, attr, kinds)
        if found is not None:
            searches[attr] = Search.checked(memory.keymap, None, {attr: found}, None)
    if values:
        first = next(iter(values))
        searches["by name"] = Search.checked(memory.keymap, str(first)[:6], None, None)
    out: dict[str, tuple[float, float]] = {}
    for name, search in searches.items():
        search.ask(memory.side)  # plans and columns warm, as they are from the second call on
        ours, theirs = [], []
        for _ in range(_QUERIES):
            began = time.perf_counter_ns()
            search_edn(memory.keymap, search, values)
            middle = time.perf_counter_ns()
            list(search.ask(memory.side))
            ours.append(middle - began)
            theirs.append(time.perf_counter_ns() - middle)
        out[name] = (sorted(ours)[_QUERIES // 2] / 1000, sorted(theirs)[_QUERIES // 2] / 1000)
    return out


def _some_value(memory: MemoryStore, values: Mapping[Keyword, Any], attr: str, kinds: tuple[Keyword, ...]) -> Any:
    if attr not in memory.keymap.searchable:
        return None
    for n, (key, value) in enumerate(values.items()):
        if n > 20_000:
            return None
        rule = memory.keymap.rule_of(key, value)[0]
        getter = rule.getter(attr) if rule.data in kinds else None
        found = getter(key, value) if getter is not None else None
        if found:
            return found[0]
    return None


def measure_saves(memory: MemoryStore) -> tuple[float, float] | None:
    """(p95 of durable saves of the EDN side, of the stage as it is) in microseconds; None when the stage has saved too little."""
    own = Histogram()
    stages = {memory.record.of(k).stage for k in memory.keymap.data_kinds}
    for (operation, stage, _), h in list(memory.telemetry.histograms.items()):
        if operation in ("save_value", "update") and stage in stages:
            for bucket, n in list(h.counts.items()):
                own.counts[bucket] = own.counts.get(bucket, 0) + n
                own.count += n
    if own.count < _ENOUGH or memory.edn is None:
        return None
    return _scratch(memory, _time_edn)[0], (own.quantile(0.95) or 0) / 1000


def measure_next_saves(memory: MemoryStore) -> tuple[float, float] | None:
    """(p95 of durable saves of the EDN side, of the database side as `datalog-only` makes them) in microseconds, in turns."""
    if memory.edn is None:
        return None
    edn, database = _scratch(memory, _time_edn, _time_journal if memory.goes_alone else _time_commits)
    return edn, database


def _scratch(
    memory: MemoryStore, *timed: Callable[[MemoryStore, Path], Iterator[Callable[[Entry], None]]]
) -> list[float]:
    """p95 of each way to save values of the memory, in turns, in a directory of its own beside the memory file."""
    assert memory.edn is not None
    with memory.lock:
        items = [item for item, _ in zip(memory.edn.values.items(), range(_SAVES), strict=False)] or [(Keyword("x"), 0)]
    folder = Path(tempfile.mkdtemp(prefix=f".{memory.file.name}.gate-", dir=memory.file.parent))
    took = [Histogram() for _ in timed]
    try:
        with contextlib.ExitStack() as stack:
            ways = [stack.enter_context(contextlib.contextmanager(way)(memory, folder)) for way in timed]
            for n in range(_SAVES):
                key, value = items[n % len(items)]
                for way, histogram in zip(ways, took, strict=True):
                    began = time.perf_counter_ns()
                    way(entry_of(key, value))
                    histogram.add(time.perf_counter_ns() - began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [(h.quantile(0.95) or 0) / 1000 for h in took]


def _time_edn(_: MemoryStore, folder: Path) -> Iterator[Callable[[Entry], None]]:
    scratch = EdnSide(folder / "scratch.edn", FairLock())
    try:
        yield lambda entry: _ignored(scratch.put([entry]))
    finally:
        scratch.close(rewrite=False)


def _time_journal(_: MemoryStore, folder: Path) -> Iterator[Callable[[Entry], None]]:
    scratch = DatabaseJournal(folder, FairLock(), store="scratch", applied=0)
    try:
        yield lambda entry: _ignored(scratch.save(entry.key, entry))
    finally:
        scratch.close()


def _time_commits(memory: MemoryStore, folder: Path) -> Iterator[Callable[[Entry], None]]:
    scratch = DatabaseSide(folder / "scratch.db", memory.keymap)
    try:
        yield lambda entry: scratch.change(entry.key, lambda _: entry)
    finally:
        scratch.close()


def _ignored(_: int) -> None:
    """For who only wants to know how long it took."""
