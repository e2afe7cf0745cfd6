"""The commands of this layer: `datalog memory import | verify | export`, and `datalog demo`.

`datalog.cli` loads this module by name when one of them is given, and calls `run`. The commands put together source,
importer, verify and report; they decide nothing. Exit codes are those of `datalog.cli`: 1 when a verification finds a
difference. Reports go to standard output, progress to standard error.
"""

# ruff: noqa: T201 - commands print

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datalog as d
from datalog.progress import Bar
from migration import report
from migration.database_journal import saves_ahead
from migration.entities import fetch
from migration.importer import import_memory, paused_gc
from migration.keymap import KeyMap, builtin
from migration.memory_commands import STAGED, ask, run_staged
from migration.memory_model import uses_database
from migration.record_keeper import stage_file
from migration.rules import KEY
from migration.source import read_memory, write_memory
from migration.stages import StageRecord
from migration.subcommands import overview
from migration.verify import verify
from store.errors import KeyMapError, StoreLocked, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["EXAMPLE", "run"]

FOUND: Final = 1
#: the memory of the examples; `examples/memory.edn` is a copy of it
EXAMPLE: Final = Path(__file__).parent / "data" / "memory.edn"

_COMPACT_FROM: Final = 10_000  # keys added


def run(command: str, arguments: list[str]) -> int:
    """Runs `memory` or `demo` with the arguments after it; returns the exit code."""
    if command == "demo":
        return _demo(arguments)
    first = arguments[0] if arguments else None
    if first in _MEMORY:
        return _MEMORY[first][0](arguments[1:])
    if first in STAGED:
        return run_staged(first, arguments[1:], _keymap, Bar)
    known = {**{name: text for name, (_, text) in _MEMORY.items()}, **STAGED}
    return overview(
        "memory", "Moves an EDN memory file into a database, and proves that nothing was lost.", known, arguments
    )


def _parser(name: str, description: str, *, file: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"datalog memory {name}", description=description)
    if file:
        parser.add_argument("file", type=Path, metavar="FILE", help="the EDN memory file; it is only read")
    parser.add_argument("--db", required=True, type=Path, metavar="PATH", help="the database's directory")
    parser.add_argument(
        "--keymap", type=Path, metavar="EDN", help="rules and schema put in front of the built-in mapping"
    )
    return parser


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, default=None, help="show progress; default: on a terminal"
    )


def _keymap(path: Path | None) -> KeyMap:
    if path is None:
        return builtin()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise KeyMapError("keymap/unreadable", f"The key mapping cannot be read: {e}.", file=str(path)) from e
    return builtin().extended(text, source=str(path))


def _import(arguments: list[str]) -> int:
    parser = _parser("import", "Brings a database to what a memory file holds; writes differences only.", file=True)
    parser.add_argument("--full", action="store_true", help="try the mapping on every key first, not on a sample")
    parser.add_argument("--keep-missing", action="store_true", help="keep keys that the file no longer has")
    _report_options(parser)
    given = parser.parse_args(arguments)
    keymap = _keymap(given.keymap)
    with Bar(sys.stderr, shown=given.progress) as bar:
        bar("read the file", 0, 0)
        memory = read_memory(given.file)
        with d.connect(given.db) as conn:
            _check_unstaged(conn, keymap)
            done = import_memory(
                conn, memory, keymap, progress=bar, full_check=given.full, delete_missing=not given.keep_missing
            )
        if done.added >= _COMPACT_FROM:
            # a large import leaves pages behind that LMDB freed on the way: a third of the file
            bar("compact", 0, 0)
            with contextlib.suppress(StoreLocked):  # somebody else has it open: it stays as it is
                d.compact(given.db)
    print(report.as_json(done.as_dict()) if given.json else report.import_text(done))
    return 0


def _check_unstaged(conn: d.Connection, keymap: KeyMap) -> None:
    """Raises `memory/staged` when saves reach the database through the stages: an older file must not be put over them."""
    if ":memory.state/record" not in conn.schema:
        return
    text = conn.q("[:find ?r . :where [_ :memory.state/record ?r]]")
    record = StageRecord.read(text, "the database") if text else None
    if record is not None and uses_database(record, keymap):
        raise UserError(
            "memory/staged",
            "The database is part of a memory that moves in stages; an import would put the file's state over newer saves.",
            hint="fill it with `datalog memory backfill`, or roll back to edn-only first: `datalog memory rollback`.",
        )


def _check_memory(db: d.Db, path: Path) -> None:
    """Raises `memory/none` when no memory was ever brought into a database."""
    if KEY not in db.schema:
        raise UserError(
            "memory/none", f"{path} holds no memory.", hint="`datalog memory import` brings one in; is it this one?"
        )


def _verify(arguments: list[str]) -> int:
    parser = _parser(
        "verify", "Compares every key of a memory file with a database. Exit code 1: they differ.", file=True
    )
    parser.add_argument(
        "--how", choices=("full", "incremental", "sample", "digests"), help="of a memory that has stages: how to look"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="keys of a sample")
    parser.add_argument("--seed", type=int, metavar="N", help="repeats a sample")
    parser.add_argument(
        "--recount", action="store_true", help="digests: do not believe the sums that the database keeps"
    )
    _report_options(parser)
    given = parser.parse_args(arguments)
    keymap = _keymap(given.keymap)
    if given.how or stage_file(given.file).exists():
        return _verify_staged(given, keymap)
    with Bar(sys.stderr, shown=given.progress) as bar:
        bar("read the file", 0, 0)
        memory = read_memory(given.file)
        with d.connect(given.db, read_only=True) as conn, conn.db() as db:
            _check_memory(db, given.db)
            outcome = verify(db, keymap, memory, progress=bar)
    print(report.as_json(outcome.as_dict()) if given.json else report.verification_text(outcome))
    return 0 if outcome.equal else FOUND


def _verify_staged(given: argparse.Namespace, keymap: KeyMap) -> int:
    """A memory with stages: the file alone is not the whole of it, the journal and the running process count."""
    asked = {"how": given.how or "full", "sample": given.sample, "seed": given.seed, "recount": given.recount}
    with Bar(sys.stderr, shown=given.progress) as bar:
        found = ask(given.file, given.db, keymap, "verify", asked, bar)
    equal = not found["found"]
    what = "equal" if equal else "different"
    if equal and not found["keys"]:
        what = "nothing to compare; only what both sides hold is, see datalog memory status"
    print(report.as_json(found) if given.json else f"{found['keys']:,} keys: {what} ({found['seconds']} s)")
    if not given.json:
        for finding in found.get("findings", [])[:20]:
            print(f"  {finding['what']} {finding['key']}: {finding['message']}")
    return 0 if equal else FOUND


def _export(arguments: list[str]) -> int:
    parser = _parser("export", "Writes all keys and values of a database as one EDN map, a key a line.", file=False)
    given = parser.parse_args(arguments)
    keymap = _keymap(given.keymap)
    ahead = saves_ahead(given.db) if given.db.is_dir() else []
    with d.connect(given.db, read_only=True) as conn, conn.db() as db, paused_gc():
        _check_memory(db, given.db)
        stored = fetch(db, keymap)
        # what a process that has the memory alone, or was killed, has saved and not taken to the database yet
        known = ":memory.state/applied" in db.schema  # of the same moment as the facts: it goes on while we read
        applied = (db.q("[:find ?n . :where [_ :memory.state/applied ?n]]") or 0) if known else 0
        saved = {key: entry for n, key, entry in ahead if n > applied}
        # in the order in which the keys came
        there = [(k, s) for k, s in sorted(stored.items(), key=_by_eid) if not s.state.deleted and k not in saved]
        write_memory(
            [*((k, s.value(keymap)) for k, s in there), *((k, e.value) for k, e in saved.items() if e is not None)],
            sys.stdout,
        )
    return 0


def _by_eid(item: tuple[Any, Any]) -> int:
    return int(item[1].state.eid)


_MEMORY: Final[dict[str, tuple[Callable[[list[str]], int], str]]] = {
    "import": (_import, "bring a database to what a memory file holds"),
    "verify": (_verify, "compare every key of a memory file with a database"),
    "export": (_export, "write all keys of a database as EDN to standard output"),
}


# ---------------------------------------------------------------------------------------------------------------------
# demo

#: title, query, further inputs
_QUESTIONS: Final[tuple[tuple[str, str, tuple[Any, ...]], ...]] = (
    (
        "Sessions that :ada owns, the latest first",
        """[:find ?id ?type ?open ?at
            :in $ ?owner
            :where [?s :session/owner ?owner] [?s :session/id ?id] [?s :session/type ?type]
                   [?s :session/open? ?open] [?s :session/last-active ?at]
            :order-by [?at :desc] :limit 5]""",
        (d.kw("ada"),),
    ),
    (
        "Who is present in a session without being a member of it",
        """[:find ?id ?user ?name
            :where [?p :presence/session ?s] [?p :presence/user ?user] [?p :presence/user-name ?name]
                   [?s :session/id ?id] [?s :session/owner]
                   (not [?s :session/members ?user])
            :order-by [?id :asc ?user :asc] :limit 5]""",
        (),
    ),
    (
        'Insight and wisdom tagged "joins"',
        """[:find ?level ?title ?user
            :in $ ?tag [?level ...]
            :where [?l :learning/tags ?tag] [?l :learning/level ?level] [?l :learning/title ?title]
                   [?l :learning/user ?user] (not [?l :learning/status :deleted])
            :order-by [?level :asc ?title :asc] :limit 5]""",
        ("joins", [d.kw("insight"), d.kw("wisdom")]),
    ),
    (
        "Tags by count",
        """[:find ?tag ?count
            :where [?t :tag/name ?tag] [?t :tag/count ?count]
            :order-by [?count :desc ?tag :asc] :limit 5]""",
        (),
    ),
    (
        "Embed tokens that had expired by the middle of 2025",
        """[:find ?key ?expires
            :in $ ?now
            :where [?c :cache/type :embed-token] [?c :cache/expires ?expires] [(< ?expires ?now)] [?c :cache/key ?key]
            :order-by [?expires :asc] :limit 5]""",
        (datetime(2025, 7, 1, tzinfo=UTC),),
    ),
    (
        "Whom news from :ada reaches, from member to member of open sessions (a recursive rule)",
        """[:find ?user (count ?s)
            :in $ % ?from
            :where (reaches ?from ?user) [?s :session/members ?user]
            :order-by [(count ?s) :desc ?user :asc] :limit 5]""",
        (
            """[[(meets ?a ?b) [?s :session/open? true] [?s :session/members ?a] [?s :session/members ?b]]
                [(reaches ?a ?b) (meets ?a ?b)]
                [(reaches ?a ?c) (reaches ?a ?b) (meets ?b ?c)]]""",
            d.kw("ada"),
        ),
    ),
)


def _demo(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="datalog demo", description="Migrates the example memory, verifies every key, and asks it a few questions."
    )
    parser.add_argument("--db", type=Path, metavar="PATH", help="the database's directory; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory")
    given = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="datalog-demo-"))
    try:
        return _demonstrate(directory, given.db or directory / "memory.db")
    finally:
        if given.keep:
            print(f"\nkept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _demonstrate(directory: Path, path: Path) -> int:
    file = directory / "memory.edn"
    shutil.copyfile(EXAMPLE, file)
    keymap = builtin()
    print(f"1. The memory: {file}")
    memory = read_memory(file)
    print(f"   {len(memory):,} keys, {memory.size_bytes:,} bytes, SHA-256 {memory.digest[:16]}...\n")
    with d.connect(path) as conn:
        print(f"2. Migrated to {path}", flush=True)
        with Bar(sys.stderr, shown=True) as bar:
            done = import_memory(conn, memory, keymap, progress=bar, full_check=True)
        print(_indented(report.import_text(done)))
        print("\n3. Verified, key by key", flush=True)
        outcome = verify(conn.db(), keymap, memory)
        print(_indented(report.verification_text(outcome)))
        print("\n4. Asked")
        for title, query, inputs in _QUESTIONS:
            _ask(conn, title, query, inputs)
    return 0 if outcome.equal else FOUND


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())


def _ask(conn: d.Connection, title: str, query: str, inputs: Sequence[Any]) -> None:
    began = time.perf_counter()
    rows = list(conn.q(query, *inputs))
    took = (time.perf_counter() - began) * 1000
    print(f"\n   {title}  ({len(rows)} rows, {took:.1f} ms)")
    cells = [[d.write_edn(v) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("     " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
