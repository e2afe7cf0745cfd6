"""Schema-driven migration scripts: a folder of them brought into a database, planned, taken back, checked.

    scripts = read_folder(Path("migrations"))
    plan(conn, scripts)          what would happen: really run, in a transaction that is never written
    apply(conn, scripts)         each script and its record in one transaction, in order
    revert(conn, to=3)           back to script 3, from the before-images in the log; the files are not needed
    status(conn, scripts)        applied, pending, edited, missing
    check(scripts, conn=conn)    checksums, one line, and that all scripts on an empty database give this schema
    baseline(conn, scripts, to=3)   an existing database is at script 3 already

Rules that keep it honest:
 1. A script and its record are one transaction: a kill leaves both or neither, and `apply` goes on where it ended.
 2. What is applied is read again under the write lock: two processes that apply at once apply each script once.
 3. Nothing is applied while an applied script was edited, is missing, or the database is ahead of the folder.
 4. What `revert` would lose it names, and does only when forced (decision 0005).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datalog as d
from migration.script_history import Applied, begin, has_records, read_applied, record
from migration.script_schema import Plain, differences, plain_schema
from migration.script_steps import run_script
from store.errors import DatalogError, TransactionError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from migration.script_folder import Script

__all__ = [
    "Finding",
    "Planned",
    "Standing",
    "apply",
    "baseline",
    "check",
    "empty_schema",
    "find_problems",
    "plan",
    "plan_revert",
    "revert",
    "status",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a script did, or would do: `changes` by attribute; `error` why it cannot."""

    number: int
    name: str
    action: str  # "apply", "revert", "baseline"
    changes: tuple[d.Change, ...] = ()
    error: DatalogError | None = None
    tx: int = 0  # 0 in a plan
    lost: tuple[str, ...] = ()  # what a forced revert gives up

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        out: dict[str, Any] = {
            "number": self.number, "name": self.name, "action": self.action, "tx": self.tx, "lost": list(self.lost),
            "changes": [{"attribute": c.attribute, "asserted": c.asserted, "retracted": c.retracted} for c in self.changes],
        }  # fmt: skip
        if self.error is not None:
            out["error"] = {"code": self.error.code, "message": self.error.message, "hint": self.error.hint,
                            "data": _plain(self.error.data)}  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class Standing:
    """How one script stands: `state` is applied, baseline, pending, edited or missing (no file)."""

    number: int
    name: str
    state: str
    tx: int = 0
    at: str = ""
    by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {name: getattr(self, name) for name in ("number", "name", "state", "tx", "at", "by")}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: a code of docs/errors.md, what it is, how to mend it."""

    code: str
    message: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": _plain(self.data)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# how scripts and database stand to each other


def status(conn: d.Connection, scripts: Sequence[Script]) -> list[Standing]:
    """How each script stands, by number; also those that the database knows and the folder does not."""
    applied = read_applied(conn.db())
    files = {s.number: s for s in scripts}
    out = []
    for number in sorted(files.keys() | applied.keys()):
        script, known = files.get(number), applied.get(number)
        if known is None:
            assert script is not None
            out.append(Standing(number, script.name, "pending"))
            continue
        state = known.event
        if script is None:
            state = "missing"
        elif script.checksum != known.checksum:
            state = "edited"
        out.append(Standing(number, known.name, state, known.tx, known.at.isoformat(timespec="seconds"), known.by))
    return out


def find_problems(applied: dict[int, Applied], scripts: Sequence[Script]) -> list[Finding]:
    """Why nothing may be applied: edited or missing scripts, a database ahead of the folder, a gap in the records."""
    files = {s.number: s for s in scripts}
    found = []
    last = max(files, default=0)
    for number, known in applied.items():
        script = files.get(number)
        if script is None:
            newer = number > last
            found.append(
                Finding(
                    "script/newer-database" if newer else "script/missing",
                    f"The database has script {number} ({known.name}) applied, which the folder does not have"
                    + (f": its last one is {last}." if newer else "."),
                    "take the newer folder, or go back with it: datalog migrate revert --to " + str(last),
                    {"number": number, "name": known.name},
                )
            )
        elif script.checksum != known.checksum:
            found.append(
                Finding(
                    "script/edited",
                    f"{script.title} was edited after it was applied on {known.at:%Y-%m-%d}.",
                    f"bring back the file as it was; or revert --to {number - 1} and apply the new one; or, if its effect is "
                    f"the same, accept it: datalog migrate baseline --accept {number}",
                    {"number": number, "applied": known.checksum, "now": script.checksum},
                )
            )
    absent = [n for n in range(1, max(applied, default=0)) if n not in applied]
    if absent:
        found.append(
            Finding("script/records", f"The database has script {max(applied)} applied, but not {absent[0]}.",
                    f"mark it with datalog migrate baseline, or revert --to {absent[0] - 1}", {"absent": absent})
        )  # fmt: skip
    return found


def _refuse(problems: list[Finding]) -> None:
    if problems:
        first = problems[0]
        more = "".join(f"\n{p.message}" for p in problems[1:20])
        raise UserError(first.code, first.message + more, hint=first.hint, data=first.data)


def _target(scripts: Sequence[Script], to: int | None) -> list[Script]:
    last = len(scripts)
    if to is None:
        return list(scripts)
    if not 0 <= to <= last:
        raise UserError("script/number", f"There is no script {to}.", expected=f"a number from 0 to {last}")
    return [s for s in scripts if s.number <= to]


# ---------------------------------------------------------------------------------------------------------------------
# forward


def plan(conn: d.Connection, scripts: Sequence[Script], *, to: int | None = None) -> list[Planned]:
    """What `apply` would do: the pending scripts, run for true in a transaction that is never written.

    The first script that cannot be applied ends the plan, with its error.
    """
    wanted = _target(scripts, to)
    out: list[Planned] = []
    with conn.atomic(dry_run=True) as work:
        applied = read_applied(work.db())
        _refuse(find_problems(applied, scripts))
        for script in wanted:
            if script.number in applied:
                continue
            mark = work.mark()
            try:
                run_script(script, work)
            except DatalogError as e:
                out.append(Planned(script.number, script.name, "apply", error=e))
                break
            out.append(Planned(script.number, script.name, "apply", tuple(work.changes(mark))))
    return out


def apply(
    conn: d.Connection,
    scripts: Sequence[Script],
    *,
    to: int | None = None,
    progress: Callable[[Planned], None] | None = None,
) -> list[Planned]:
    """Applies the pending scripts, each with its record in one transaction; returns what was done.

    `progress` is called after each commit. What was committed before an error stays, and the next call goes on there.

    Raises:
        UserError: `script/failed` and what caused it; `script/edited`, `script/missing`, `script/newer-database`.
    """
    wanted = _target(scripts, to)
    _begin(conn)
    out: list[Planned] = []
    while True:
        with conn.atomic() as work:
            applied = read_applied(work.db())  # under the lock: another process may have been here
            _refuse(find_problems(applied, scripts))
            script = next((s for s in wanted if s.number not in applied), None)
            if script is None:
                return out
            run_script(script, work)
            changes = tuple(work.changes())
            record(work, "applied", script.number, script.name, script.checksum, counted=True)
        assert work.report is not None
        out.append(Planned(script.number, script.name, "apply", changes, tx=work.report.tx))
        if progress is not None:
            progress(out[-1])


def _begin(conn: d.Connection) -> None:
    if has_records(conn.db()):
        return
    with conn.atomic() as work:
        if not has_records(work.db()):
            begin(work)


# ---------------------------------------------------------------------------------------------------------------------
# back


def revert(
    conn: d.Connection, *, to: int, force: bool = False, progress: Callable[[Planned], None] | None = None
) -> list[Planned]:
    """Takes back all scripts above number `to`, the newest first, each with its record in one transaction.

    Comes from the transaction log, so that what was there comes back exactly; the scripts' files are not needed.

    Raises:
        UserError: `script/baseline` for a script that was never run here; `script/lost` when the log no longer has all
            of it; TransactionError `tx/undo-conflict` when later transactions changed the same facts, `tx/unlogged`.
            `force` gives up what is in the way, and names it in the result.
    """
    out: list[Planned] = []
    while True:
        with conn.atomic() as work:
            applied = read_applied(work.db())
            newest = _newest_above(applied, to)
            if newest is None:
                return out
            lost = _take_back(work, newest, force=force)
            changes = tuple(work.changes())
            record(work, "reverted", newest.number, newest.name, newest.checksum, counted=True)
        assert work.report is not None
        out.append(Planned(newest.number, newest.name, "revert", changes, tx=work.report.tx, lost=lost))
        if progress is not None:
            progress(out[-1])


def plan_revert(conn: d.Connection, *, to: int, force: bool = False) -> list[Planned]:
    """What `revert` would do, and where it would stop; nothing is written."""
    out: list[Planned] = []
    with conn.atomic(dry_run=True) as work:
        applied = read_applied(work.db())
        while (newest := _newest_above(applied, to)) is not None:
            del applied[newest.number]
            mark = work.mark()
            try:
                lost = _take_back(work, newest, force=force)
            except DatalogError as e:
                out.append(Planned(newest.number, newest.name, "revert", error=e))
                break
            out.append(Planned(newest.number, newest.name, "revert", tuple(work.changes(mark)), lost=lost))
    return out


def _newest_above(applied: dict[int, Applied], to: int) -> Applied | None:
    if to < 0:
        raise UserError(
            "script/number", f"There is no script {to}.", expected="0, for before the first, or a number above"
        )
    newest = max(applied, default=0)
    return applied[newest] if newest > to else None


def _take_back(work: d.Atomic, script: Applied, *, force: bool) -> tuple[str, ...]:
    """Undoes a script's transaction; what is lost by it, which is nothing unless it is forced."""
    label = f"Script {script.number} ({script.name})"
    if script.event == "baseline":
        raise UserError(
            "script/baseline",
            f"{label} was marked by `baseline`, not run here: there is nothing in the log to take back.",
            hint="restore a backup from before it, or write a new script that undoes it",
        )
    try:
        undone = work.undo(script.tx, force=force)
    except TransactionError as e:
        raise TransactionError(e.code, f"{label}: {e.message}", hint=e.hint, data=e.data) from e
    lost = [c.message for c in undone.conflicts]
    names = {c.eid: c.attribute for c in work.changes()}
    gone = []
    for eid, (_, retracted) in script.changes.items():
        has = undone.logged.get(eid, (0, 0))
        # a value that the script asserted and that is no longer current needs no before-image: only retractions count
        missing = retracted - has[1]
        if missing > 0:
            name = names.get(eid) or next((k for k, v in _eids(work).items() if v == eid), str(eid))
            gone.append(f"{name}: {missing:,} old values are no longer in the log (:db/noHistory, dropped by compact)")
    if gone and not force:
        raise UserError(
            "script/lost", f"{label} can be taken back only in part.\n" + "\n".join(gone),
            hint="restore a backup; or force it, and these values stay away", data={"lost": gone},
        )  # fmt: skip
    return (*lost, *gone)


def _eids(work: d.Atomic) -> dict[str, int]:
    db = work.db()
    return {name: eid for name in work.schema if (eid := db.entid(name)) is not None}


# ---------------------------------------------------------------------------------------------------------------------
# checks, and databases that were there before


def empty_schema(scripts: Sequence[Script]) -> Plain:
    """The schema that scripts give on an empty database; raises what the failing script raises."""
    with d.connect(None) as conn:
        apply(conn, scripts)
        return plain_schema(conn.schema)


def check(
    scripts: Sequence[Script], *, conn: d.Connection | None = None, declared: Plain | None = None
) -> list[Finding]:
    """What is wrong with scripts, a database, and a declared schema; an empty list when they agree.

    That the scripts are one line was checked when the folder was read. Checked here: that they run on an empty database;
    that the database's records fit the files; that scripts, database and declaration have one schema.
    """
    applied = read_applied(conn.db()) if conn is not None else {}
    found = find_problems(applied, scripts)
    try:
        by_scripts = empty_schema(scripts)
        to_head = [s for s in scripts if s.number <= max(applied, default=0)]
        at_head = by_scripts if len(to_head) == len(scripts) else empty_schema(to_head)
    except DatalogError as e:
        return [
            *found,
            Finding("script/empty", f"The scripts do not run on an empty database. {e.message}", e.hint or ""),
        ]
    if conn is not None and not found:
        found += [
            Finding("script/drift", x.text("the scripts", "the database"), "write a script for it, or change the database back",
                    x.as_dict())
            for x in differences(at_head, plain_schema(conn.schema))
        ]  # fmt: skip
    if declared is not None:
        found += [
            Finding("script/declared", x.text("the scripts", "the declared schema"),
                    "datalog migrate autogenerate writes the script that is missing", x.as_dict())
            for x in differences(by_scripts, declared)
        ]  # fmt: skip
    return found


def baseline(
    conn: d.Connection, scripts: Sequence[Script], *, to: int, accept: bool = False, force: bool = False
) -> list[Planned]:
    """Marks the scripts up to `to` as applied without running them; with `accept` takes the new checksum of script `to`.

    Raises:
        UserError: `script/drift` when the database's schema is not the one that these scripts give, unless forced;
            `script/number` for a number that is none.
    """
    wanted = _target(scripts, to)
    if accept:
        return _accept(conn, wanted, to)
    if not force:
        wrong = differences(empty_schema(wanted), plain_schema(conn.schema))
        if wrong:
            lines = "\n".join(x.text("the scripts", "the database") for x in wrong[:20])
            raise UserError(
                "script/drift",
                f"The database is not where the scripts up to {to} lead: {len(wrong)} differences.\n{lines}",
                hint="baseline at another number, change scripts or database, or force it",
                data={"differences": [x.as_dict() for x in wrong]},
            )
    _begin(conn)
    out = []
    for script in wanted:
        with conn.atomic() as work:
            if script.number in read_applied(work.db()):
                continue
            record(work, "baseline", script.number, script.name, script.checksum)
        assert work.report is not None
        out.append(Planned(script.number, script.name, "baseline", tx=work.report.tx))
    return out


def _accept(conn: d.Connection, scripts: list[Script], number: int) -> list[Planned]:
    script = next((s for s in scripts if s.number == number), None)
    with conn.atomic() as work:
        known = read_applied(work.db()).get(number)
        if script is None or known is None:
            raise UserError("script/number", f"Script {number} is not applied: there is no checksum to accept.",
                            hint="datalog migrate status shows what is applied")  # fmt: skip
        if known.checksum == script.checksum:
            return []
        record(work, "accepted", number, script.name, script.checksum)
    assert work.report is not None
    return [Planned(number, script.name, "accept", tx=work.report.tx)]
