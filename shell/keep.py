"""The commands that keep a database: `dump`, `load`, `copy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO, cast

from shell.arguments import add_json, add_path, add_progress, command_parser, existing, write_figures


def run(command: str, arguments: list[str]) -> int:
    """Runs one of the commands of this module."""
    return {"dump": _dump, "load": _load, "copy": _copy}[command](arguments)


def _dump(arguments: list[str]) -> int:
    parser = command_parser(
        "dump",
        "Writes the schema and the current facts of a database as text that any release can load; with digests, entity\n"
        "ids kept. The database may be in use. History and facts about transactions stay behind: `datalog copy` has them.",
        """dump people.db people.dump
dump people.db people.dump.gz
dump people.db - | ssh elsewhere 'cat > people.dump'""",
    )
    add_path(parser)
    parser.add_argument("file", help="the file to write, packed if it ends in .gz; - is standard output")
    add_json(parser)
    add_progress(parser)
    given = parser.parse_args(arguments)

    import datalog  # noqa: PLC0415 - help does not wait for numpy
    from datalog.progress import Bar  # noqa: PLC0415 - the same
    from exchange.dump import write_dump  # noqa: PLC0415 - the same
    from exchange.files import whole_file  # noqa: PLC0415 - the same

    with (
        Bar(sys.stderr, shown=given.progress) as bar,
        datalog.connect(existing(given.path), read_only=True) as conn,
        conn.db() as db,
    ):
        if given.file == "-":
            header = write_dump(db, cast("BinaryIO", sys.stdout.buffer), bar)
        else:
            with whole_file(Path(given.file)) as out:
                header = write_dump(db, out, bar)
    for what, n in header.left_out.items():
        if n:
            print(f"note: left out: {n:,} {what.replace('-', ' ')}", file=sys.stderr)
    if given.file != "-":
        figures = {"datoms": header.datoms, "blocks": header.blocks, "basis_tx": header.basis_tx, **header.left_out}
        write_figures(figures, as_json=given.json)
    return 0


def _load(arguments: list[str]) -> int:
    parser = command_parser(
        "load",
        "Makes a database of a dump. The whole file is verified before anything is written. A load that was killed goes on\n"
        "where it ended when the same command is given again.",
        "load people.dump people.db\nload people.dump.gz people.db --json",
    )
    parser.add_argument("file", type=Path, help="a file of `datalog dump`")
    parser.add_argument("path", type=Path, help="the directory of the database to be made")
    add_json(parser)
    add_progress(parser)
    given = parser.parse_args(arguments)

    from datalog.progress import Bar  # noqa: PLC0415 - as above
    from exchange.restore import load_dump  # noqa: PLC0415 - as above

    with Bar(sys.stderr, shown=given.progress) as bar:
        figures = load_dump(given.file, given.path, bar)
    write_figures(figures, as_json=given.json)
    return 0


def _copy(arguments: list[str]) -> int:
    parser = command_parser(
        "copy",
        "Copies a database, history and all, consistent as of one commit, while it is in use.",
        "copy people.db backup.db\ncopy people.db backup.db --compact --json",
    )
    add_path(parser)
    parser.add_argument("target", type=Path, help="the directory to make")
    parser.add_argument("--compact", action="store_true", help="leave out free pages: smaller, slower")
    add_json(parser)
    given = parser.parse_args(arguments)

    from exchange.copying import copy_database  # noqa: PLC0415 - as above

    write_figures(copy_database(existing(given.path), given.target, compact=given.compact), as_json=given.json)
    return 0
