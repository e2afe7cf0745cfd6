"""The commands that care for a database: `check`, `compact`."""

from __future__ import annotations

import sys
from pathlib import Path

from datalog.cli import FOUND
from shell.arguments import add_json, add_path, add_progress, command_parser, existing, write_figures, write_out


def run(command: str, arguments: list[str]) -> int:
    """Runs one of the commands of this module."""
    return {"check": _check, "compact": _compact}[command](arguments)


def _check(arguments: list[str]) -> int:
    parser = command_parser(
        "check",
        "Verifies every checksum, index, count, value and log entry of a database. Exit code 1: something was found.",
        "check people.db\ncheck people.db --json\ncheck people.db --rebuild",
    )
    add_path(parser)
    parser.add_argument("--rebuild", action="store_true", help="first make the indexes anew from the log")
    add_json(parser, "print findings as JSON")
    add_progress(parser)
    given = parser.parse_args(arguments)

    from datalog.progress import Bar  # noqa: PLC0415 - help does not wait for numpy
    from datalog.render import json_text  # noqa: PLC0415 - the same
    from shell.reports import finding_lines  # noqa: PLC0415 - the same
    from store.backup import rebuild  # noqa: PLC0415 - the same
    from store.check import check_path  # noqa: PLC0415 - the same

    existing(given.path)
    with Bar(sys.stderr, shown=given.progress) as bar:
        rebuilt = rebuild(given.path, step=bar) if given.rebuild else None
        bar("check", 0, 0)
        findings, counts = check_path(given.path)
    if given.json:
        found = {"findings": [f.as_dict() for f in findings], "counts": counts, "rebuilt": rebuilt}
        write_out([json_text(found) + "\n"])
    else:
        write_out(finding_lines(findings, counts))
    return FOUND if findings else 0


def _compact(arguments: list[str]) -> int:
    parser = command_parser(
        "compact",
        "Writes a database anew without what it no longer needs.",
        "compact people.db\ncompact people.db --to smaller.db\ncompact people.db --drop-log-before 1099511627900 --json",
    )
    add_path(parser)
    parser.add_argument("--to", type=Path, metavar="DIR", help="write there instead of in place")
    parser.add_argument("--drop-log-before", type=int, metavar="TX", help="forget the log before this transaction")
    add_json(parser)
    add_progress(parser)
    given = parser.parse_args(arguments)

    from datalog.progress import Bar  # noqa: PLC0415 - as above
    from store.backup import compact  # noqa: PLC0415 - as above

    existing(given.path)
    with Bar(sys.stderr, shown=given.progress) as bar:
        figures = compact(given.path, given.to, drop_log_before=given.drop_log_before, step=bar)
    write_figures(figures, as_json=given.json)
    return 0
