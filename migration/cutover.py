"""Moves kinds of data from stage to stage: checks, brings both sides to where the new stage needs them, writes the record.

Takes an open `MemoryStore`. A move, in this order, with every save held back from step 2 on:

 1. Its gate is checked (gates.py); a refusal has the figures. Saves go on meanwhile.
 2. Keys that come back to EDN are brought to what the database holds: nothing that was saved in `datalog-only` is lost.
 3. Keys that leave EDN have to be in the database: the pending list is drained, or the move is refused, forced or not.
 4. A database that comes into use is given the id of the store, and told what it may say of itself: nothing, until it is filled.
 5. The record is written: file, journal, database.

A crash before 5 leaves the old stage, with an EDN side that may hold more than it needs to, never less; one after the file
was written leaves the new stage.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from migration.entities import fetch, key_states
from migration.entry import Entry
from migration.gates import Gate, Limits, check_gate
from migration.jsonvalue import encode, to_text
from migration.memory_model import is_database_only
from migration.modes import STAGES
from migration.stages import BUCKETS, KindStage
from migration.telemetry import Event
from store.edn import Keyword
from store.errors import DatalogError, StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from migration.memory import MemoryStore
    from migration.modes import Mode
    from migration.stages import StageRecord

__all__ = ["kinds_of", "move", "plan", "prefer", "remember_latencies", "roll_back"]

_PART: Final = 500  # keys in one entry of the journal


def kinds_of(memory: MemoryStore, names: Iterable[str | Keyword] | None) -> tuple[Keyword, ...]:
    """The kinds of data of these names; all of them for None.

    Raises:
        UserError: `memory/kind`.
    """
    known = memory.keymap.data_kinds
    if names is None:
        return known
    found = tuple(Keyword(str(n)) for n in names)
    for kind in found:
        if kind not in known:
            raise UserError(
                "memory/kind",
                f"The mapping has no kind of data {kind}.",
                expected="one of " + ", ".join(map(str, known)),
            )
    return found


def _who(who: str | None) -> str:
    if who is not None:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def plan(
    memory: MemoryStore, target: str, *, kinds: Iterable[str | Keyword] | None = None, percent: int = 100,
    limits: Limits | None = None, progress: Callable[[str, int, int], None] = lambda _s, _d, _o: None,
) -> Gate:  # fmt: skip
    """What the gate of a move says, with its figures; nothing is changed.

    Raises:
        UserError: `stage/move`, `stage/percent`: there is no such move.
    """
    memory.open()
    of = kinds_of(memory, kinds)
    new = memory.record.moved(of, target, percent, who="", why="", at=datetime.now(UTC))
    return check_gate(memory, of, new, limits or Limits(), progress)


def move(
    memory: MemoryStore, target: str, *, kinds: Iterable[str | Keyword] | None = None, percent: int = 100,
    who: str | None = None, why: str = "", force: bool = False, limits: Limits | None = None,
    progress: Callable[[str, int, int], None] = lambda _s, _d, _o: None,
) -> Gate:  # fmt: skip
    """Moves kinds to a stage, and returns what its gate said.

    Args:
        memory: the memory; it goes on being used meanwhile.
        target: the stage.
        kinds: kinds of data; all by default.
        percent: the share of their keys that moves; the others stay in the stage before.
        who: for the history; the user by default.
        why: for the history.
        force: move although the gate refuses; recorded. What would lose a save is refused all the same.
        limits: the gate's limits.
        progress: called with (step, done, of).

    Raises:
        UserError: `stage/move`, `stage/percent`; `stage/gate` with the figures when the gate refuses.
        StorageError: a side failed; the stage is as it was.
    """
    gate = plan(memory, target, kinds=kinds, percent=percent, limits=limits, progress=progress)
    of = kinds_of(memory, kinds)
    memory.telemetry.emit(
        Event("gate", stage=target, data={"passed": gate.passed, "forced": force, "figures": gate.figures()})
    )
    if not gate.passed and not (force and gate.may_be_forced):
        memory.telemetry.alert("gate-refused", target=target, failed=[c.name for c in gate.failed])
        raise _refusal(gate, target, forced=force)
    progress("move", 0, 0)

    def new_of(kind: Keyword) -> KindStage:
        return memory.record.moved([kind], target, percent, who="", why="", at=_now()).of(kind)

    try:
        if any(_comes_back(memory.record.of(k), new_of(k)) for k in of):
            with memory.lock:
                memory.open_edn()
            _bring_back(memory, of, new_of)
        _held_still(memory, of, target, percent, _who(who), why, forced=force and not gate.passed, gate=gate)
    finally:
        memory.leave_edn()  # a move that failed must not keep other processes out
    return gate


def _now() -> datetime:
    return datetime.now(UTC)


def _refusal(gate: Gate, target: str, *, forced: bool) -> UserError:
    lines = "\n".join(c.text() for c in gate.failed)
    return UserError(
        "stage/gate",
        f"The gate to {target} refuses.\n{lines}",
        hint="these cannot be forced: a save would be lost." if forced else
        "mend what is named, raise a limit, or move with force=True (--force), which is recorded.",
        data={"figures": gate.figures(), "failed": [c.name for c in gate.failed]},
    )  # fmt: skip


def _held_still(
    memory: MemoryStore,
    kinds: tuple[Keyword, ...],
    target: str,
    percent: int,
    who: str,
    why: str,
    *,
    forced: bool,
    gate: Gate,
) -> None:
    """Steps 2 to 5, with every save held back."""
    with memory.held():
        old = memory.record
        new = old.moved(kinds, target, percent, who=who, why=why, at=_now(), forced=forced, figures=gate.figures())
        if any(_comes_back(old.of(k), new.of(k)) for k in kinds):
            memory.settle_journal()
            memory.open_edn()
            _bring_back(memory, kinds, new.of)
            _bring_journal(memory, new)
        if any(_leaves(old.of(k), new.of(k)) for k in kinds):
            _leave_edn(memory)
        fresh = [k for k in kinds if new.of(k).epoch != old.of(k).epoch]
        if fresh and not new.store:
            new = _with_store(memory, new)
        remember_latencies(memory)
        error = memory.set_record(new)
        if error is not None and fresh:
            memory.telemetry.alert("database-unavailable", error=error.code)
        _settle(memory, old, new, kinds, fresh)
    memory.telemetry.emit(
        Event("stage", stage=target, data={"kinds": [str(k) for k in kinds], "percent": percent, "who": who, "why": why,
                                           "sequence": new.sequence, "forced": forced})
    )  # fmt: skip


def remember_latencies(memory: MemoryStore) -> None:
    """Keeps the latencies and resources of the stages so far with the database, for the report at the end."""
    if not memory.side.is_open:
        return
    summary = memory.telemetry.summary()

    def changed(notes: dict[Any, Any]) -> None:
        kept = json.loads(notes.get(Keyword("latencies"), "{}"))
        kept.update({stage: of for stage, of in summary["latencies"].items() if stage in STAGES})
        notes[Keyword("latencies")] = json.dumps(kept)
        used = json.loads(notes.get(Keyword("resources"), "{}"))
        used.update(summary["resources"])
        notes[Keyword("resources")] = json.dumps(used)

    try:
        memory.side.update_notes(changed)
    except DatalogError as e:
        memory.telemetry.alert("database-unavailable", error=e.code)


def _with_store(memory: MemoryStore, record: StageRecord) -> StageRecord:
    from dataclasses import replace  # noqa: PLC0415

    held = memory.side.state().get("store") if memory.side.exists else None
    return replace(record, store=held or memory.new_store_id())


def _settle(
    memory: MemoryStore, old: StageRecord, new: StageRecord, kinds: tuple[Keyword, ...], fresh: list[Keyword]
) -> None:
    """What follows from a record that is written: the pending list, what the database may say, what is closed."""
    if memory.follower is not None and memory.edn is not None:
        memory.follower.drop(lambda key: new.mode_of(memory.keymap.data_of(key), key).writes != "both")
        came_back = [k for k in kinds if _comes_back(old.of(k), new.of(k))]
        try:
            if fresh or came_back:
                memory.side.set_state(applied=memory.follower.applied_now())
            counts = memory.side.counts() if fresh else {}
            for kind in fresh:
                empty = not counts.get(kind.name)
                memory.side.set_kind_note(
                    kind, epoch=new.of(kind).epoch, state=Keyword("clean" if empty else "stale"), cursor=None
                )
        except DatalogError as e:
            memory.telemetry.alert("database-unavailable", error=e.code)
        memory.reroute()
    if memory.edn is not None and not is_database_only(new, memory.keymap):
        memory.leave_journal()  # the EDN side is written again, and has everything
    memory.leave_edn(moved=True)
    if not any(m.uses_database for m in new.used_modes(memory.keymap.data_kinds)):
        memory.side.close()


def _modes(stage: KindStage) -> list[Mode]:
    upper, lower = stage.modes
    return [upper if b < stage.percent else lower for b in range(BUCKETS)]


def _comes_back(old: KindStage, new: KindStage) -> bool:
    return any(n.uses_edn and not o.uses_edn for o, n in zip(_modes(old), _modes(new), strict=True))


def _leaves(old: KindStage, new: KindStage) -> bool:
    return any(o.uses_edn and not n.uses_edn for o, n in zip(_modes(old), _modes(new), strict=True))


def _leave_edn(memory: MemoryStore) -> None:
    """Step 3: everything is in the database, and the file as it stands is the way back."""
    follower, edn = memory.follower, memory.edn
    assert follower is not None
    assert edn is not None
    follower.drain(retry_refused=True)
    if follower.pending:
        raise StorageError(
            "memory/pending",
            f"{len(follower.pending)} saves are not in the database yet; {next(iter(follower.pending))} is one of them.",
            hint="see `datalog memory status` for what the database refuses.",
            retryable=True,
        )
    edn.rewrite()
    edn.back_up()


def _bring_back(memory: MemoryStore, kinds: tuple[Keyword, ...], new_of: Callable[[Keyword], KindStage]) -> None:
    """Step 2: brings keys that EDN was not given to what the database holds. Done twice: with saves going on, then held back."""
    edn, side, record = memory.edn, memory.side, memory.record
    assert edn is not None
    db = side.conn.db()
    back = []
    gone = []
    for key, state in key_states(db).items():
        kind = memory.keymap.data_of(key)
        if kind not in kinds or record.of(kind).mode_of(key).uses_edn or not new_of(kind).mode_of(key).uses_edn:
            continue
        if state.deleted:
            if key in edn.values:
                gone.append(key)
        elif key not in edn.values or edn.digest(key) != state.digest:
            back.append(key)
    for start in range(0, len(back), _PART):
        stored = fetch(db, memory.keymap, back[start : start + _PART])
        entries = []
        for key, one in stored.items():
            value = side.value_of(one)
            text = to_text(encode(value, canonical=True), canonical=True)
            entries.append(Entry(key, value, text, one.state.digest or 0))
        with memory.lock:
            edn.put(entries)
    for start in range(0, len(gone), _PART):
        with memory.lock:
            edn.delete(gone[start : start + _PART])


def _bring_journal(memory: MemoryStore, new: StageRecord) -> None:
    """Brings what the database refuses, and only its journal has, to the EDN side, which writes all of it from now on."""
    journal, edn, follower = memory.journal, memory.edn, memory.follower
    if journal is None or not journal.values:
        return
    assert edn is not None
    assert follower is not None
    data_of = memory.keymap.data_of
    if not all(new.mode_of(data_of(key), key).uses_edn for key in journal.values):
        raise StorageError(
            "memory/pending",
            f"{len(journal.values)} saves are not in the database; {next(iter(journal.values))} is one of them.",
            hint="move all kinds: then the EDN side has these saves. `datalog memory status` says what the database refuses.",
        )
    for key, entry in journal.values.items():
        follower.add((key,), edn.put([entry]) if entry is not None else edn.delete([key]))


def prefer(
    memory: MemoryStore, *, reads: str | None = None, writes: str | None = None,
    kinds: Iterable[str | Keyword] | None = None, who: str | None = None, why: str = "",
) -> None:  # fmt: skip
    """Sets read preference and write destination apart from the stage's own; None gives the stage's own back.

    `reads="edn"` in a stage that reads the database is the first scenario of a roll-back: EDN answers again, and both are
    still written. `writes="edn"` leaves the database alone; what it holds is void until it is filled again.

    Raises:
        UserError: `stage/preference`.
    """
    memory.open()
    of = kinds_of(memory, kinds)
    with memory.held():
        old = memory.record
        new = old.adjusted(of, reads=reads, writes=writes, who=_who(who), why=why, at=_now())
        fresh = [k for k in of if new.of(k).epoch != old.of(k).epoch]
        memory.set_record(new)
        _settle(memory, old, new, of, fresh)
    memory.telemetry.emit(Event("preference", data={"reads": reads, "writes": writes, "kinds": [str(k) for k in of]}))


def roll_back(
    memory: MemoryStore, target: str = "edn-only", *, kinds: Iterable[str | Keyword] | None = None,
    who: str | None = None, why: str = "",
) -> list[str]:  # fmt: skip
    """Moves kinds down to a stage, from wherever each is; those that are below it already stay. Returns the kinds moved.

    No save is lost: what was saved in `datalog-only` is brought back to EDN first.

    Raises:
        UserError: `stage/unknown`. StorageError: the EDN side could not take what the database holds; nothing is moved.
    """
    if target not in STAGES:
        raise UserError("stage/unknown", f"There is no stage {target}.", expected="one of " + ", ".join(STAGES))
    memory.open()
    above = [k for k in kinds_of(memory, kinds) if STAGES.index(memory.record.of(k).stage) > STAGES.index(target)]
    if above:
        move(memory, target, kinds=above, who=who, why=why or "roll-back")
    return [k.name for k in above]
