"""`datalog migrate COMMAND`: migration scripts from a terminal. Over `migration.scripts`; no logic of its own.

Exit codes: 0 all is well; 1 something was found (`check`, `status` with problems, a `plan` that cannot be carried out,
`autogenerate` with a difference when `--check` is given); 2 the input has to be mended; 3 the storage failed.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datalog as d
from migration import report, scripts
from migration.script_draft import draft, new_script, write_script
from migration.script_folder import Script, read_folder
from migration.script_history import read_applied
from migration.script_schema import read_declared
from migration.subcommands import overview
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from migration.scripts import Planned

__all__ = ["run"]

FOUND: Final = 1
_FOLDER: Final = Path("migrations")


def run(_command: str, arguments: list[str]) -> int:
    """Runs `migrate` with the arguments after it; returns the exit code."""
    first = arguments[0] if arguments else None
    if first in _COMMANDS:
        return _COMMANDS[first][0](arguments[1:])
    return overview(
        "migrate",
        "Brings numbered scripts of schema and data changes into a database.",
        {name: text for name, (_, text) in _COMMANDS.items()},
        arguments,
        "example: datalog migrate plan --db app.db --scripts migrations\n"
        "Exit codes: 0 well, 1 findings, 2 mend the input, 3 storage failed.",
    )


def _parser(name: str, description: str, example: str, *, db: bool | None = True) -> argparse.ArgumentParser:
    """The parser of one command; `db`: needed, or optional (None), or unknown to it."""
    parser = argparse.ArgumentParser(
        prog=f"datalog migrate {name}", description=description, epilog=f"example: datalog migrate {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if db is not False:
        parser.add_argument("--db", required=db is True, type=Path, metavar="PATH", help="the database's directory")
    parser.add_argument(
        "--scripts", type=Path, default=_FOLDER, metavar="DIR", help="the scripts' folder; default: migrations"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[d.Connection]:
    """A connection that only reads; an empty database in place of one that is not there yet."""
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        with d.connect(path, read_only=True) as conn:
            yield conn
    else:
        with d.connect(None) as conn:
            yield conn


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise UserError("cli/no-database", f"{path} is no directory.", expected="the directory of a database")
    return path


def _print(data: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    print(report.as_json(data) if as_json else "\n".join(lines))


def _done_lines(done: list[Planned], verb: str) -> list[str]:
    lines = []
    for item in done:
        tx = f", transaction {item.tx}" if item.tx else ""
        lines.append(f"{verb} {item.number:04} {item.name}{tx}")
        lines += [f"    {c.attribute:<28} +{c.asserted:,} -{c.retracted:,}" for c in item.changes]
        lines += [f"    lost: {text}" for text in item.lost]
        if item.error is not None:
            lines += ["    cannot:", *(f"    {line}" for line in str(item.error).splitlines())]
    return lines


def _result(done: list[Planned], verb: str, nothing: str, *, as_json: bool) -> int:
    failed = any(item.error is not None for item in done)
    _print(
        {"scripts": [i.as_dict() for i in done], "ok": not failed},
        _done_lines(done, verb) or [nothing],
        as_json=as_json,
    )
    return FOUND if failed else 0


# ---------------------------------------------------------------------------------------------------------------------
# commands


def _new(arguments: list[str]) -> int:
    parser = _parser("new", "Makes the next script, without steps.", 'new "split names" --scripts migrations', db=False)
    parser.add_argument("name", help="what it is for, in a few words")
    parser.add_argument("--python", action="store_true", help="a Python script instead of an EDN one")
    given = parser.parse_args(arguments)
    known = read_folder(given.scripts) if given.scripts.exists() else []
    path = new_script(given.scripts, known, given.name, python=given.python)
    _print({"path": str(path), "number": len(known) + 1}, [str(path)], as_json=given.json)
    return 0


def _plan(arguments: list[str]) -> int:
    parser = _parser(
        "plan", "Runs the pending scripts in a transaction that is never written, and tells what they change.",
        "plan --db app.db        or, for the way back: plan --db app.db --revert-to 3",
    )  # fmt: skip
    parser.add_argument("--to", type=int, metavar="NUMBER", help="up to this script; default: the last one")
    parser.add_argument("--revert-to", type=int, metavar="NUMBER", help="plan `revert --to NUMBER` instead")
    parser.add_argument("--force", action="store_true", help="with --revert-to: as `revert --force` would")
    given = parser.parse_args(arguments)
    with _reading(given.db) as conn:
        if given.revert_to is not None:
            done = scripts.plan_revert(conn, to=given.revert_to, force=given.force)
            return _result(done, "would revert", "nothing to revert", as_json=given.json)
        done = scripts.plan(conn, read_folder(given.scripts), to=given.to)
    return _result(done, "would apply", "nothing to apply", as_json=given.json)


def _apply(arguments: list[str]) -> int:
    parser = _parser(
        "apply", "Applies the pending scripts, each in one transaction with its record.", "apply --db app.db"
    )
    parser.add_argument("--to", type=int, metavar="NUMBER", help="up to this script; default: the last one")
    given = parser.parse_args(arguments)
    folder = read_folder(given.scripts)
    with d.connect(given.db) as conn:
        done = scripts.apply(conn, folder, to=given.to, progress=None if given.json else _tell("applied"))
    return _finished(done, "nothing to apply", as_json=given.json)


def _revert(arguments: list[str]) -> int:
    parser = _parser(
        "revert", "Takes back all scripts above a number, from the transaction log; their files are not needed.",
        "revert --db app.db --to 3",
    )  # fmt: skip
    parser.add_argument("--to", type=int, required=True, metavar="NUMBER", help="the script to go back to; 0 for none")
    parser.add_argument(
        "--force", action="store_true", help="what was changed since, and values no longer in the log, are given up"
    )
    given = parser.parse_args(arguments)
    with d.connect(_existing(given.db)) as conn:
        done = scripts.revert(conn, to=given.to, force=given.force, progress=None if given.json else _tell("reverted"))
    return _finished(done, "nothing to revert", as_json=given.json)


def _tell(verb: str) -> Callable[[Planned], None]:
    return lambda item: print("\n".join(_done_lines([item], verb)), flush=True)


def _finished(done: list[Planned], nothing: str, *, as_json: bool) -> int:
    if as_json:
        print(report.as_json({"scripts": [i.as_dict() for i in done], "ok": True}))
    elif not done:
        print(nothing)
    return 0


def _status(arguments: list[str]) -> int:
    parser = _parser(
        "status", "Lists the scripts and how they stand. Exit code 1: something is wrong.", "status --db app.db"
    )
    given = parser.parse_args(arguments)
    folder = read_folder(given.scripts)
    with _reading(given.db) as conn:
        standing = scripts.status(conn, folder)
        problems = scripts.find_problems(read_applied(conn.db()), folder)
    lines = [
        f"{s.number:04} {s.state:<9} {s.name}" + (f"  ({s.at} by {s.by}, transaction {s.tx})" if s.tx else "")
        for s in standing
    ] or ["no scripts"]
    for f in problems:
        lines += [f"{f.code}: {f.message}", f"  Mend: {f.hint}"]
    data = {"scripts": [s.as_dict() for s in standing], "findings": [f.as_dict() for f in problems]}
    _print(data, lines, as_json=given.json)
    return FOUND if problems else 0


def _check(arguments: list[str]) -> int:
    parser = _parser(
        "check",
        "Verifies that the scripts are one line, fit the database's records, run on an empty database, and that\n"
        "scripts, database and declared schema agree. Exit code 1: they do not.",
        "check --db app.db --schema schema.edn        or, for files only: check --schema schema.edn", db=None,
    )  # fmt: skip
    parser.add_argument("--schema", type=Path, metavar="EDN", help="the declared schema, an EDN file")
    given = parser.parse_args(arguments)
    declared = read_declared(given.schema)[0] if given.schema else None
    try:
        folder = read_folder(given.scripts)
    except UserError as e:
        if e.code not in ("script/two-heads", "script/gap", "script/form", "script/name"):
            raise
        return _findings([scripts.Finding(e.code, e.message, e.hint or "", dict(e.data))], [], as_json=given.json)
    with contextlib.ExitStack() as stack:
        conn = stack.enter_context(_reading(_existing(given.db))) if given.db is not None else None
        found = scripts.check(folder, conn=conn, declared=declared)
    return _findings(found, folder, as_json=given.json)


def _findings(found: list[scripts.Finding], folder: list[Script], *, as_json: bool) -> int:
    lines = [text for f in found for text in (f"{f.code}: {f.message}", f"  Mend: {f.hint}")]
    some = "1 finding" if len(found) == 1 else f"{len(found)} findings"
    last = some if found else f"no findings; {len(folder)} scripts"
    _print({"findings": [f.as_dict() for f in found]}, [*lines, last], as_json=as_json)
    return FOUND if found else 0


def _autogenerate(arguments: list[str]) -> int:
    parser = _parser(
        "autogenerate", "Compares a declared schema with the database and writes the script that is missing.",
        'autogenerate "tidy users" --db app.db --schema schema.edn --rename :user/name=:user/nick',
    )  # fmt: skip
    parser.add_argument("name", nargs="?", default="schema", help="what it is for, in a few words")
    parser.add_argument("--schema", type=Path, required=True, metavar="EDN", help="the declared schema, an EDN file")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="an attribute that was renamed"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a script is missing")
    given = parser.parse_args(arguments)
    declared, hints = read_declared(given.schema)
    hints.update(_rename_hint(text) for text in given.rename)
    known = read_folder(given.scripts) if given.scripts.exists() else []
    with _reading(given.db) as conn:
        pending = [s.number for s in known if s.number not in read_applied(conn.db())]
        if pending:
            raise UserError("script/pending", f"Script {pending[0]} is not applied to {given.db} yet: the difference would be "
                            "written twice.", hint=f"datalog migrate apply --db {given.db}")  # fmt: skip
        text = draft(conn.db(), declared, hints, given.name)
    if text is None:
        _print({"path": None, "text": None}, ["nothing is missing"], as_json=given.json)
        return 0
    path = None if given.check else write_script(given.scripts, known, given.name, text)
    lines = [text.rstrip("\n")] if path is None else [str(path), text.rstrip("\n")]
    _print({"path": None if path is None else str(path), "text": text}, lines, as_json=given.json)
    return FOUND if given.check else 0


def _rename_hint(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old.startswith(":") or not new.startswith(":"):
        raise UserError("script/rename", f"{text!r} is no renaming.", expected=":old/name=:new/name")
    return new, old


def _baseline(arguments: list[str]) -> int:
    parser = _parser(
        "baseline", "Marks scripts as applied, without running them, in a database that is there already.",
        "baseline --db app.db --to 3        or, for a script edited without effect: baseline --db app.db --accept 3",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--to", type=int, metavar="NUMBER", help="mark the scripts up to this one")
    which.add_argument(
        "--accept", type=int, metavar="NUMBER", help="take the checksum that this applied script has now"
    )
    parser.add_argument(
        "--force", action="store_true", help="also when the schema is not the one that the scripts give"
    )
    given = parser.parse_args(arguments)
    folder = read_folder(given.scripts)
    accept = given.accept is not None
    with d.connect(_existing(given.db)) as conn:
        done = scripts.baseline(conn, folder, to=given.accept if accept else given.to, accept=accept, force=given.force)
    return _result(done, "accepted" if accept else "marked", "nothing to mark", as_json=given.json)


_COMMANDS: Final[dict[str, tuple[Callable[[list[str]], int], str]]] = {
    "new": (_new, "make the next script"),
    "plan": (_plan, "what apply (or revert) would do: really run, never written"),
    "apply": (_apply, "apply the pending scripts"),
    "revert": (_revert, "take scripts back, from the transaction log"),
    "status": (_status, "which scripts are applied"),
    "check": (_check, "verify scripts, records and schemas against each other"),
    "autogenerate": (_autogenerate, "write the script from the database to a declared schema"),
    "baseline": (_baseline, "mark scripts as applied in an existing database"),
}
