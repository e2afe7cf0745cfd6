"""The commands that move data: `transact`, `import`, `export`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shell.arguments import (
    add_database,
    add_json,
    add_progress,
    command_parser,
    confirm,
    holds_database,
    read_text,
    write_figures,
    write_out,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from exchange.importing import ImportPlan
    from shell.arguments import Parser


def run(command: str, arguments: list[str]) -> int:
    """Runs one of the commands of this module."""
    return {"transact": _transact, "import": _import, "export": _export}[command](arguments)


def _transact(arguments: list[str]) -> int:
    parser = command_parser(
        "transact",
        "Writes transaction data: all of it, or nothing. EDN text, as an argument, from a file, or from standard input.",
        """transact '[{:person/name "Ada" :person/age 36}]' --db people.db
transact --file changes.edn --db people.db --dry-run
transact '[[:db/add 17 :person/age 37]]' --db people.db --json
cat changes.edn | datalog transact - --db people.db""",
    )
    parser.add_argument("data", nargs="?", help="the transaction data, EDN text; - reads it from standard input")
    parser.add_argument("--file", metavar="FILE", help="read it from a file")
    add_database(parser)
    parser.add_argument("--dry-run", action="store_true", help="check it and say what would change; write nothing")
    add_json(parser, "the report as JSON")
    given = parser.parse_args(arguments)
    if (given.data is None) == (given.file is None):
        parser.error("give the data, or --file")
    text = given.data if given.data not in (None, "-") else read_text(given.file or "-", "The data")

    import datalog  # noqa: PLC0415 - help does not wait for numpy
    from datalog.render import json_text  # noqa: PLC0415 - the same
    from shell.reports import change_lines, report_figures  # noqa: PLC0415 - the same

    fresh = not holds_database(given.db)
    with datalog.connect(None if fresh and given.dry_run else given.db) as conn:
        report = conn.db().with_(text) if given.dry_run else conn.transact(text)
        if fresh and not given.dry_run:
            print(f"{given.db} is a new database", file=sys.stderr)
        figures = report_figures(report)
        if given.json:
            write_out([json_text({**figures, "dry_run": given.dry_run}) + "\n"])
        else:
            write_out(change_lines(report))
            what = "would be made; nothing was written" if given.dry_run else "written"
            print(
                f"transaction {report.tx} {what}: {figures['asserted']:,} asserted, {figures['retracted']:,} retracted"
            )
    return 0


# import --------------------------------------------------------------------------------------------------------------


def _import(arguments: list[str]) -> int:
    parser = _import_parser()
    given = parser.parse_args(arguments)
    types = dict(_pair(parser, "--type", t) for t in given.type)
    names = dict(_pair(parser, "--column", c) for c in given.column)

    import datalog  # noqa: PLC0415 - as above
    from datalog.progress import Bar  # noqa: PLC0415 - as above
    from exchange.importing import plan_import, read_source, run_import  # noqa: PLC0415 - as above

    delimiter = {"tab": "\t", "\\t": "\t"}.get(given.delimiter, given.delimiter)
    if delimiter is not None and len(delimiter) != 1:
        parser.error("--delimiter takes one character, or tab")
    with Bar(sys.stderr, shown=given.progress) as bar:
        bar("read", 0, 0)
        source = read_source(
            given.file,
            given.ns,
            form=given.format,
            encoding=given.encoding,
            delimiter=delimiter,
            missing=given.null,
            names=names,
            skip=given.skip,
        )
        bar("infer the types", 0, 0)
        fresh = not holds_database(given.db)
        with datalog.connect(None if fresh else given.db, read_only=not fresh) as conn:
            # a database that is not there yet is made only when it is to be written to
            plan = plan_import(conn.db(), source, types=types, key=given.key)
            if given.dry_run and fresh:
                figures = run_import(conn, plan, dry_run=True)
    _show_plan(plan, given)
    if given.dry_run:
        if not fresh:
            with datalog.connect(given.db) as conn:
                figures = run_import(conn, plan, dry_run=True)
        figures["dry_run"] = True
        write_figures(figures, as_json=given.json)
        return 0
    if plan.schema and not confirm("Import with this schema?", yes=given.yes):
        print("nothing was written", file=sys.stderr)
        return 0
    with Bar(sys.stderr, shown=given.progress) as bar, datalog.connect(given.db) as conn:
        figures = run_import(conn, plan, step=bar)
    write_figures(figures, as_json=given.json)
    return 0


def _import_parser() -> Parser:
    parser = command_parser(
        "import",
        "Brings a table or records into a database, as one transaction. The schema is inferred, and shown before it is\n"
        "applied. Columns become attributes of a namespace, by default the file's name: people.csv -> :people/name.",
        """import people.csv --db people.db
import people.csv --db people.db --dry-run
import people.csv --db people.db --ns person --key email --type zip=string --yes
import log.ndjson --db log.db --skip raw --column 'user=:person/email' --yes
import prices.parquet --db prices.db --yes --json""",
    )
    parser.add_argument("file", type=Path, help="CSV, TSV, JSON, NDJSON, EDN, Parquet or Arrow; .gz is unpacked")
    add_database(parser)
    parser.add_argument(
        "--format", choices=("csv", "json", "ndjson", "edn", "parquet", "arrow"), help="default: by the file's name"
    )
    parser.add_argument("--ns", metavar="NAME", help="the namespace of the attributes; default: the file's name")
    parser.add_argument("--key", metavar="COLUMN", help="rows with a value that is there already update that entity")
    parser.add_argument(
        "--type", action="append", default=[], metavar="COLUMN=TYPE", help="instead of the inferred one; several times"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="COLUMN=:NS/NAME",
        help="the attribute of a column; several times",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="COLUMN", help="leave it out; several times")
    parser.add_argument(
        "--null", action="append", default=[], metavar="TEXT", help="means no value, e.g. NA; several times"
    )
    parser.add_argument("--encoding", default="utf-8", help="of a CSV file; default: utf-8")
    parser.add_argument("--delimiter", metavar="CHAR", help="of a CSV file; default: the most frequent of , ; tab |")
    parser.add_argument("--yes", action="store_true", help="apply the schema without asking")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the schema; write nothing")
    add_json(parser, "the figures as JSON")
    add_progress(parser)
    return parser


def _pair(parser: Parser, option: str, text: str) -> tuple[str, str]:
    name, found, value = text.rpartition("=")
    if not found or not name or not value:
        parser.error(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value


def _show_plan(plan: ImportPlan, given: Namespace) -> None:
    """The schema to be declared and the notes, for the eyes of whoever is asked."""
    if given.json:
        return
    from shell.describe import schema_edn  # noqa: PLC0415 - as above

    rows = plan.source.rows
    print(f"{given.file}: {rows:,} row{'' if rows == 1 else 's'}, {plan.facts:,} facts", file=sys.stderr)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if plan.schema:
        print(schema_edn(plan.schema), end="", file=sys.stderr)


# export --------------------------------------------------------------------------------------------------------------


def _export(arguments: list[str]) -> int:
    parser = command_parser(
        "export",
        "Writes the answer of a query, or all entities of a namespace, to a file that is whole or not there.",
        """export people.csv --db people.db --ns person
export cities.json '[:find ?c (count ?p) :where [?p :person/city ?c]]' --db people.db
export people.parquet --ns person --ids --db people.db
export - --ns person --format ndjson --db people.db | gzip > people.ndjson.gz""",
    )
    parser.add_argument("file", help="its name tells the format; - is standard output; .gz is packed")
    parser.add_argument("query", nargs="*", help="the query, EDN text; then the inputs of :in")
    add_database(parser)
    parser.add_argument(
        "--ns", metavar="NAME", help="all entities with an attribute of this namespace, a column for each"
    )
    parser.add_argument("--ids", action="store_true", help="with --ns: the entity ids, too, as :db/id")
    parser.add_argument(
        "--format",
        choices=("csv", "json", "ndjson", "edn", "markdown", "parquet", "arrow"),
        help="default: by the file's name, csv on standard output",
    )
    add_json(parser, "print figures as JSON")
    add_progress(parser)
    given = parser.parse_intermixed_args(arguments)
    if bool(given.query) == (given.ns is not None):
        parser.error("give a query, or --ns")

    import datalog  # noqa: PLC0415 - as above
    from datalog.progress import Bar  # noqa: PLC0415 - as above
    from datalog.render import answer_rows  # noqa: PLC0415 - as above
    from exchange.exporting import entity_rows, write_rows  # noqa: PLC0415 - as above
    from exchange.files import whole_file  # noqa: PLC0415 - as above

    form = _written_format(parser, given)
    with datalog.connect(given.db, read_only=True) as conn, conn.db() as db:
        columns: Sequence[str]
        rows: Sequence[Sequence[Any]]
        if given.ns is not None:
            columns, rows = entity_rows(db, given.ns, eids=given.ids)
        else:
            inputs = [datalog.read_edn(form) for form in given.query[1:]]
            columns, rows = answer_rows(db.q(given.query[0], *inputs))
    to_stdout = given.file == "-"
    target = nullcontext(sys.stdout.buffer) if to_stdout else whole_file(Path(given.file))
    with Bar(sys.stderr, shown=given.progress) as bar, target as out:
        write_rows(out, form, columns, rows, step=bar, maps=given.ns is not None)
    if given.json and not to_stdout:
        write_figures({"rows": len(rows), "columns": len(columns), "file": given.file, "format": form}, as_json=True)
    else:
        print(
            f"{len(rows):,} row{'' if len(rows) == 1 else 's'}, {len(columns)} column{'' if len(columns) == 1 else 's'}",
            file=sys.stderr,
        )
    return 0


def _written_format(parser: Parser, given: Namespace) -> str:
    from exchange.exporting import WRITTEN  # noqa: PLC0415 - as above

    if given.format:
        return str(given.format)
    if given.file == "-":
        return "csv"
    path = Path(given.file)
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    found = next((name for name, suffixes in WRITTEN.items() if suffix in suffixes), None)
    if found is None:
        parser.error(f"the name {path.name} does not tell the format: add --format {' | '.join(WRITTEN)}")
    return found
