"""What can be done to a memory from outside, by name: the commands of `datalog memory`, for whoever has it open.

Takes an open `MemoryStore`, a name and plain arguments, gives plain data. The same for a command that opens the memory
itself and for one that is sent to the process which has it open (control.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from migration import finish
from migration.backfill import Backfill
from migration.checking import check_memory, compare_digests, repair
from migration.cutover import move, plan, prefer, roll_back
from migration.gates import Limits
from migration.modes import STAGES
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from migration.memory import MemoryStore

    Progress = Callable[[str, int, int], None]

__all__ = ["OPERATIONS", "carry_out"]


def carry_out(memory: MemoryStore, name: str, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Carries out an operation and returns its plain data; `found` in it says whether something was found.

    Raises:
        UserError: `memory/command` for an unknown name. What the operation raises.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise UserError("memory/command", f"There is no command {name!r}.", expected=", ".join(OPERATIONS))
    return operation(memory, dict(arguments), progress)


def _limits(given: Mapping[str, Any]) -> Limits:
    return Limits(**(given.get("limits") or {}))


def _status(memory: MemoryStore, _: dict[str, Any], __: Progress) -> dict[str, Any]:
    return memory.migration_status()


def _next_stage(memory: MemoryStore) -> str:
    lowest = min((memory.record.of(k).stage for k in memory.keymap.data_kinds), key=STAGES.index)
    return STAGES[min(STAGES.index(lowest) + 1, len(STAGES) - 1)]


def _plan(memory: MemoryStore, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    memory.open()
    target = given.get("to") or _next_stage(memory)
    gate = plan(
        memory,
        target,
        kinds=given.get("kinds"),
        percent=given.get("percent", 100),
        limits=_limits(given),
        progress=progress,
    )
    return {**gate.as_dict(), "from": memory.stage_name(), "found": not gate.passed}


def _stage(memory: MemoryStore, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    if given.get("reads") or given.get("writes") or given.get("to") is None:
        prefer(memory, reads=given.get("reads"), writes=given.get("writes"), kinds=given.get("kinds"), who=given.get("who"),
               why=given.get("why") or "")  # fmt: skip
        return {"stage": memory.stage_name(), "reads": given.get("reads"), "writes": given.get("writes")}
    gate = move(
        memory, given["to"], kinds=given.get("kinds"), percent=given.get("percent", 100), who=given.get("who"),
        why=given.get("why") or "", force=bool(given.get("force")), limits=_limits(given), progress=progress,
    )  # fmt: skip
    return {"stage": memory.stage_name(), "sequence": memory.record.sequence, "gate": gate.as_dict()}


def _rollback(memory: MemoryStore, given: dict[str, Any], _: Progress) -> dict[str, Any]:
    moved = roll_back(
        memory,
        given.get("to") or "edn-only",
        kinds=given.get("kinds"),
        who=given.get("who"),
        why=given.get("why") or "",
    )
    return {"stage": memory.stage_name(), "moved": moved}


def _backfill(memory: MemoryStore, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    options = {n: given[n] for n in ("chunk", "keys_per_s", "share") if given.get(n) is not None}
    filled = Backfill(memory, given.get("kinds"), progress=progress, **options).run()
    return {**filled.as_dict(), "found": not filled.complete}


def _verify(memory: MemoryStore, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    how = given.get("how") or "full"
    if how == "digests":
        check = compare_digests(memory, recount=bool(given.get("recount")))
        return {**check.as_dict(), "found": not check.equal}
    out = check_memory(memory, how, sample=given.get("sample") or 1_000, seed=given.get("seed"), progress=progress)
    return {**out.as_dict(), "found": not out.equal}


def _repair(memory: MemoryStore, given: dict[str, Any], progress: Progress) -> dict[str, Any]:
    done = repair(
        memory, source=given.get("source") or "edn", dry_run=bool(given.get("dry_run")), how=given.get("how") or "full",
        progress=progress,
    )  # fmt: skip
    return {**done.as_dict(), "found": bool(done.keys) and (done.dry_run or not done.equal_after)}


def _archive(memory: MemoryStore, given: dict[str, Any], _: Progress) -> dict[str, Any]:
    return finish.archive(memory, who=given.get("who") or "", why=given.get("why") or "")


def _report(memory: MemoryStore, given: dict[str, Any], _: Progress) -> dict[str, Any]:
    if given.get("folder"):
        return finish.write_report(memory, Path(given["folder"]))
    return finish.completion(memory)


def _share(memory: MemoryStore, _: dict[str, Any], __: Progress) -> dict[str, Any]:
    """Asked by a process that opens the memory while another one has it alone."""
    return {"shared": memory.share()}


OPERATIONS: Final[dict[str, Callable[[MemoryStore, dict[str, Any], Progress], dict[str, Any]]]] = {
    "status": _status, "plan": _plan, "backfill": _backfill, "verify": _verify, "repair": _repair, "stage": _stage,
    "rollback": _rollback, "archive": _archive, "report": _report, "share": _share,
}  # fmt: skip
