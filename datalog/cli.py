"""The command `datalog`: questions and care of a database from a terminal. Over the api and the store; no logic of its own.

    datalog q QUERY --db PATH [INPUT ...]     check PATH     compact PATH     stats PATH     memory ...     demo

Exit codes: 0 all is well; 1 something was found (`check`, `memory verify`) or two sides differ; 2 the input has to be
mended (query, arguments, file); 3 the storage failed; 4 a fault of this library; 130 interrupted; 141 the reader of the
output went away. Errors are printed to standard error as the library words them, without a traceback.

Answers go to standard output, progress and timings to standard error. What a command needs is imported when it runs.

`memory` and `demo` belong to the migration layer, which stands above this package and is not imported by it: `EXTENSIONS`
names the module of each, and `main` loads it by that name when the command is given. Such a module has a function
`run(command, arguments) -> exit code`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from store.errors import DatalogError, InternalError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FOUND: Final = 1
USER: Final = 2
STORAGE: Final = 3
INTERNAL: Final = 4
INTERRUPTED: Final = 130
NO_READER: Final = 141

_WIDEST: Final = 60  # characters of a cell in a table
_NOTE: Final = (
    "Exit codes: 0 well, 1 findings or differences, 2 mend the input, 3 storage failed, 4 our fault, 130 interrupted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the console script."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # what is left in the buffer has no reader: without this the interpreter complains when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except DatalogError as e:
        print(e, file=sys.stderr)
        return _exit_code(e)
    return code


def _exit_code(error: DatalogError) -> int:
    if isinstance(error, StorageError) and error.code != "store/path":  # a wrong path is the user's to mend
        return STORAGE
    return INTERNAL if isinstance(error, InternalError) else USER


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else None
    if first in COMMANDS:
        return COMMANDS[first][0](arguments[1:])
    if first in EXTENSIONS:
        module = importlib.import_module(EXTENSIONS[first][0])
        return int(module.run(first, arguments[1:]))
    if first == "--version":
        print(_version())
        return 0
    parser = _overview()
    if first is None:
        parser.print_help()
        return USER
    parser.parse_args(arguments)  # --help, or an unknown command: both leave
    return 0


def _overview() -> argparse.ArgumentParser:
    known = {name: text for table in (COMMANDS, EXTENSIONS) for name, (_, text) in table.items()}
    lines = "\n".join(f"  {name:<9}{text}" for name, text in known.items())
    parser = argparse.ArgumentParser(
        prog="datalog",
        description=f"A Datalog database in a directory.\n\ncommands:\n{lines}\n\nHelp of one: datalog COMMAND --help",
        epilog=_NOTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="datalog COMMAND ...",
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    parser.add_argument("command", choices=list(known), metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"datalog-lmdb {version('datalog-lmdb')}"
    except PackageNotFoundError:
        return "datalog-lmdb, not installed"


def command_parser(name: str, description: str, **more: Any) -> argparse.ArgumentParser:
    """A parser for one command; also for those of extensions."""
    return argparse.ArgumentParser(
        prog=f"datalog {name}",
        description=description,
        epilog=more.pop("epilog", _NOTE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )


# ---------------------------------------------------------------------------------------------------------------------
# commands


def _q(arguments: list[str]) -> int:
    parser = command_parser("q", "Asks a query of a database and prints the answer.")
    parser.add_argument("query", help="the query, EDN text; - reads it from standard input")
    parser.add_argument("input", nargs="*", help="further inputs of :in, each one EDN form")
    parser.add_argument("--db", required=True, type=Path, metavar="PATH", help="the database's directory")
    parser.add_argument("--format", choices=("table", "edn", "json", "csv"), default="table", help="default: table")
    parser.add_argument("--explain", action="store_true", help="print the plan with estimated and actual rows instead")
    given = parser.parse_intermixed_args(arguments)

    from time import perf_counter

    import datalog

    text = sys.stdin.read() if given.query == "-" else given.query
    inputs = [datalog.read_edn(form) for form in given.input]
    with datalog.connect(given.db, read_only=True) as conn, conn.db() as db:
        if given.explain:
            print(db.explain(text, *inputs, analyze=True))
            return 0
        began = perf_counter()
        answer = db.q(text, *inputs)
        columns, rows = _rows(answer)
        took = perf_counter() - began
        _PRINTERS[given.format](columns, rows)
    if given.format == "table":
        sys.stdout.flush()
        print(f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}, {took * 1000:.1f} ms", file=sys.stderr)
    return 0


def _check(arguments: list[str]) -> int:
    parser = command_parser("check", "Verifies every checksum, index, count, value and log entry of a database.")
    parser.add_argument("path", type=Path, help="the database's directory")
    parser.add_argument("--rebuild", action="store_true", help="first make the indexes anew from the log")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    given = parser.parse_args(arguments)

    from store.backup import rebuild
    from store.check import check_path

    _existing(given.path)
    rebuilt = rebuild(given.path) if given.rebuild else None
    findings, counts = check_path(given.path)
    if given.json:
        _print_json({"findings": [f.as_dict() for f in findings], "counts": counts, "rebuilt": rebuilt})
    else:
        for f in findings:
            print(f"{f.code}: {f.message}" + (f" ({f.place})" if f.place else ""))
        checked = ", ".join(f"{n:,} {what}" for what, n in counts.items())
        print(f"{len(findings):,} findings; {checked}" if findings else f"no findings; {checked}")
    return FOUND if findings else 0


def _compact(arguments: list[str]) -> int:
    parser = command_parser("compact", "Writes a database anew without what it no longer needs.")
    parser.add_argument("path", type=Path, help="the database's directory")
    parser.add_argument("--to", type=Path, metavar="DIR", help="write there instead of in place")
    parser.add_argument("--drop-log-before", type=int, metavar="TX", help="forget the log before this transaction")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args(arguments)

    from store.backup import compact

    _existing(given.path)
    figures = compact(given.path, given.to, drop_log_before=given.drop_log_before)
    _print_figures(figures, as_json=given.json)
    return 0


def _stats(arguments: list[str]) -> int:
    parser = command_parser("stats", "Prints sizes and counts of a database.")
    parser.add_argument("path", type=Path, help="the database's directory")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    given = parser.parse_args(arguments)

    from store.backup import stats

    _existing(given.path)
    _print_figures(stats(given.path), as_json=given.json)
    return 0


#: name -> (function, help)
COMMANDS: Final[dict[str, tuple[Callable[[list[str]], int], str]]] = {
    "q": (_q, "ask a query"),
    "check": (_check, "verify a database; --rebuild makes its indexes anew from the log"),
    "compact": (_compact, "write a database anew without what it no longer needs"),
    "stats": (_stats, "sizes and counts of a database"),
}
#: name -> (module with `run(command, arguments)`, help)
EXTENSIONS: Final[dict[str, tuple[str, str]]] = {
    "memory": ("migration.commands", "import, verify and export an EDN memory file"),
    "migrate": ("migration.script_commands", "numbered scripts of schema and data changes: plan, apply, revert, check"),
    "demo": ("migration.commands", "migrate the example memory, verify it, and ask it questions"),
}


def _existing(path: Path) -> None:
    from store.errors import UserError

    if not path.is_dir():
        raise UserError("cli/no-database", f"{path} is no directory.", expected="the directory of a database")


# ---------------------------------------------------------------------------------------------------------------------
# printing


def _rows(answer: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(column names, rows) of an answer of any find spec."""
    from datalog.result import Result

    if isinstance(answer, Result):
        return list(answer.columns), list(answer)
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return [str(k) for k in answer[0]], [tuple(row.values()) for row in answer]
    if isinstance(answer, list):
        return ["value"], [(value,) for value in answer]
    if isinstance(answer, tuple):
        return [str(i) for i in range(len(answer))], [answer]
    return ["value"], [] if answer is None else [(answer,)]


def _text(value: Any) -> str:
    from datalog import write_edn

    return write_edn(value)


def _print_table(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Columns aligned, numbers to the right; cells cut at 60 characters."""
    cells = [[_cut(_text(v)) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [all(type(row[i]) in (int, float) for row in rows) and bool(rows) for i in range(len(columns))]

    def line(parts: Iterable[str]) -> str:
        aligned = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    print(line(columns))
    print("  ".join("-" * w for w in widths))
    for row in cells:
        print(line(row))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _print_edn(_: list[str], rows: list[tuple[Any, ...]]) -> None:
    """One vector a line."""
    for row in rows:
        print(_text(row))


def _print_csv(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """RFC 4180 with a head line; strings as they are, other values as EDN."""
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    out.writerows([[v if isinstance(v, str) else _text(v) for v in row] for row in rows])


def _print_json_rows(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    _print_json([dict(zip(columns, row, strict=True)) for row in rows])


_PRINTERS: Final[dict[str, Callable[[list[str], list[tuple[Any, ...]]], None]]] = {
    "table": _print_table,
    "edn": _print_edn,
    "csv": _print_csv,
    "json": _print_json_rows,
}


def _print_json(data: Any) -> None:
    """What JSON can say as JSON, the rest as EDN text: for programs that look, not for keeping."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
    options |= orjson.OPT_PASSTHROUGH_SUBCLASS
    print(orjson.dumps(data, default=_jsonable, option=options).decode())


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k if isinstance(k, str) else _text(k): v for k, v in value.items()}
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return _text(value)


def _print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(figures)
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name.replace('_', ' ')}:")
            for key, n in sorted(value.items(), key=lambda kn: -kn[1]):
                print(f"  {key:<28}{n:>16,}")
        else:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            print(f"{name.replace('_', ' '):<30}{shown:>16}")


if __name__ == "__main__":
    sys.exit(main())
