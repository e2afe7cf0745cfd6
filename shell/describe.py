"""The commands that describe: `schema`, `stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shell.arguments import (
    add_json,
    add_path,
    command_parser,
    existing,
    read_text,
    terminal_width,
    write_figures,
    write_out,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA_FORMATS: Final = ("edn", "table", "json", "mermaid", "dot")


def run(command: str, arguments: list[str]) -> int:
    """Runs one of the commands of this module."""
    return {"schema": _schema, "stats": _stats}[command](arguments)


def _schema(arguments: list[str]) -> int:
    parser = command_parser(
        "schema",
        "Prints the schema of a database, or draws it: a box for each namespace, an arrow for each reference.",
        """schema people.db --format table
schema people.db > schema.edn
schema other.db --apply schema.edn
schema people.db --format dot | dot -Tsvg > schema.svg
schema people.db --format mermaid""",
    )
    add_path(parser)
    parser.add_argument(
        "--format", choices=SCHEMA_FORMATS, default="edn", help="default: edn, as connect and --apply take it"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument(
        "--apply", metavar="FILE", help="first declare what this file says, EDN; - reads standard input"
    )
    given = parser.parse_args(arguments)

    import datalog  # noqa: PLC0415 - help does not wait for numpy

    wanted = read_text(given.apply, "The schema") if given.apply else None
    with datalog.connect(given.path, wanted, read_only=given.apply is None) as conn, conn.db() as db:
        write_out(schema_text(db, given.format, terminal_width()))
    return 0


def schema_text(db: Any, form: str, width: int | None = None) -> Iterator[str]:
    """The schema of a database as EDN, table, JSON, Mermaid or DOT."""
    from datalog.pictures import ATTRIBUTE_HEADS, attribute_rows, reference_targets, schema_picture  # noqa: PLC0415
    from datalog.render import json_text, text_table  # noqa: PLC0415

    schema = db.schema
    if form == "edn":
        yield schema_edn(schema)
    elif form == "json":
        yield json_text(schema) + "\n"
    elif form == "table":
        yield from text_table(
            ATTRIBUTE_HEADS, attribute_rows(db), [head == "datoms" for head in ATTRIBUTE_HEADS], width
        )
    else:
        yield schema_picture(schema, reference_targets(db), form)


def schema_edn(schema: Mapping[str, Mapping[str, Any]]) -> str:
    """A schema as an EDN map, an attribute a line, as `connect` takes it."""
    from store.edn import Keyword, write_edn  # noqa: PLC0415 - as above

    lines = [
        f"{write_edn(Keyword(ident))} {write_edn({Keyword(k): v for k, v in properties.items()})}"
        for ident, properties in schema.items()
    ]
    return "{" + "\n ".join(lines) + "}\n"


def _stats(arguments: list[str]) -> int:
    parser = command_parser(
        "stats", "Prints sizes and counts of a database.", "stats people.db\nstats people.db --json"
    )
    add_path(parser)
    add_json(parser, "print them as JSON")
    given = parser.parse_args(arguments)

    from store.backup import stats  # noqa: PLC0415 - as above

    existing(given.path)
    write_figures(stats(given.path), as_json=given.json)
    return 0
