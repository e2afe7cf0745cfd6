"""What the commands share: their parsers, questions before writing, where answers go.

A parser raises what is wrong with the arguments as an error of the library, so that it looks like every other; help has
examples. Answers are written to standard output piece by piece, so that a reader who goes away ends the command.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from datalog.cli import NOTE
from store.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FORMATS: Final = ("table", "json", "ndjson", "csv", "edn", "markdown")


class Parser(argparse.ArgumentParser):
    """The parser of one command."""

    takes_path = False  # the database, by itself or with --db
    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments, as argparse reads them; all its ways to read them end here."""
        self.given = args or ()
        found, rest = super().parse_known_args(args, namespace)
        if self.takes_path:
            from pathlib import Path  # noqa: PLC0415 - `q`, which is to start at once, needs none

            if not hasattr(found, "path"):
                self.error("the following arguments are required: path")
            found.path = Path(found.path)
        return found, rest

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments, options among the others; argparse would first write a usage for messages that are not its own here."""
        if self.usage is not None or not {"-h", "--help"}.isdisjoint(args or ()):
            return super().parse_known_intermixed_args(args, namespace)
        self.usage = self.prog
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self.usage = None

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments; a misspelt option names the nearest."""
        wrong = next((w for w in message.split() if w.startswith("--")), "").partition("=")[0]
        close = nearest(wrong, self._option_string_actions) if "unrecognized" in message and wrong else None
        if message.endswith("required: --db"):
            path = next((a for a in self.given if holds_database(a)), None)
            close = f"--db {path}" if path else None
        raise UserError(
            "cli/arguments",
            f"{self.prog}: {message}." + (f" Did you mean {close}?" if close else ""),
            hint=f"{self.prog} --help shows the arguments, with examples",
        )


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal. One is made for each argument that is added; argparse's own asks `shutil` how wide."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, width=columns_of(sys.__stdout__) - 2, **more)


def columns_of(out: IO[str] | None) -> int:
    """How many characters a line of a terminal holds: COLUMNS, or what the terminal says, or 80.

    As `shutil.get_terminal_size`, which takes 4 ms to import: with it come the formats of all archives.
    """
    with suppress(ValueError):
        wanted = int(os.environ.get("COLUMNS", "0"))
        if wanted > 0:
            return wanted
    with suppress(AttributeError, ValueError, OSError):  # it is closed, or no terminal
        return os.get_terminal_size(out.fileno()).columns or 80  # type: ignore[union-attr]
    return 80


def command_parser(name: str, description: str, examples: str) -> Parser:
    """A parser for one command; `examples` is a line for each, without `datalog`."""
    lines = "\n".join(
        f"  {line}" if "| datalog " in line else f"  datalog {line}" for line in examples.strip().splitlines()
    )
    return Parser(
        prog=f"datalog {name}",
        description=description,
        epilog=f"examples:\n{lines}\n\n{NOTE}",
        formatter_class=_Help,
        allow_abbrev=False,
    )


def add_database(parser: Parser) -> None:
    """The option --db."""
    parser.add_argument("--db", required=True, metavar="PATH", help="the database's directory")


def add_path(parser: Parser) -> None:
    """The argument PATH, which may be written --db PATH as well: that is how other commands take it."""
    parser.takes_path = True
    # a type would be asked to convert what is suppressed
    parser.add_argument("path", nargs="?", default=argparse.SUPPRESS, help="the database's directory")
    parser.add_argument("--db", dest="path", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_json(parser: Parser, what: str = "print the figures as JSON") -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help=what)


def add_formats(parser: Parser) -> None:
    """The options --format and --json."""
    parser.add_argument("--format", "--mode", choices=FORMATS, default=None, help="of the answer; default: table")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def add_progress(parser: Parser) -> None:
    """The option --progress."""
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, default=None, help="show progress; default: on a terminal"
    )


def check_timeout(parser: Parser, given: argparse.Namespace) -> None:
    """Raises unless --timeout, if it was given, is a time to wait."""
    if given.timeout is not None and not given.timeout > 0:
        parser.error("--timeout takes seconds above 0")


def holds_database(path: str) -> bool:
    """Whether a directory holds a database: one is not made anew there."""
    return os.path.exists(os.path.join(path, "data.mdb"))


def existing(path: Path) -> Path:
    """The path when it is a directory.

    Raises:
        UserError: `cli/no-database`.
    """
    if not path.is_dir():
        raise UserError("cli/no-database", f"{path} is no directory.", expected="the directory of a database")
    return path


def read_text(name: str, what: str) -> str:
    """The text of a file, or of standard input for "-"; a byte order mark at its beginning is left out.

    Raises:
        UserError: `cli/file` when it cannot be read, `file/encoding` when it is not UTF-8, with the place.
    """
    where = f"{what} on standard input" if name == "-" else f"{what} {name}"
    try:
        if name == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                raw = file.read()
    except OSError as e:
        raise UserError("cli/file", f"{where} cannot be read: {e.strerror}.", hint="check the path") from e
    from exchange.files import decoded  # noqa: PLC0415 - for those that read

    return decoded(raw, where, hint="write it as UTF-8, for example with iconv -f latin1 -t utf-8")


def confirm(question: str, *, yes: bool) -> bool:
    """Whether to go on: by --yes, or by the answer of whoever sits at the terminal.

    Raises:
        UserError: `cli/confirm` when nobody can be asked.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(
            "cli/confirm", f"{question} Nobody is at a terminal to say so. Nothing was written.",
            hint="add --yes to go on without asking, --dry-run to only look",
        )  # fmt: skip
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def write_out(pieces: Iterable[str]) -> None:
    """Text to standard output, piece by piece."""
    for piece in pieces:
        sys.stdout.write(piece)


def terminal_width() -> int | None:
    """The width of the terminal that answers go to; None when they go elsewhere."""
    return columns_of(sys.__stdout__) if sys.stdout.isatty() else None


def figures_text(figures: Mapping[str, Any]) -> str:
    """Named figures as lines; a map inside becomes lines of its own."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines.append(f"{name.replace('_', ' ')}:")
            lines += [f"  {key:<28}{n:>16,}" for key, n in sorted(value.items(), key=lambda kn: -kn[1])]
        else:
            shown = _figure(name, value)
            lines.append(f"{name.replace('_', ' '):<30}{shown:>16}")
    return "\n".join(lines) + "\n"


def _figure(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and not name.endswith("tx") else str(value)


def write_figures(figures: Mapping[str, Any], *, as_json: bool) -> None:
    """Named figures to standard output."""
    from datalog.render import json_text  # noqa: PLC0415 - the rest of that module is for answers

    write_out([json_text(figures) + "\n" if as_json else figures_text(figures)])
