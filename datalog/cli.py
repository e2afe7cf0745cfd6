"""The command `datalog`: finds the module of a command, runs it, and turns what it raises into an exit code.

    datalog COMMAND ...      datalog --help      datalog --version

Nothing is decided here, and next to nothing is imported: help and version are printed before numpy is needed, a command
imports what it uses when it runs. The commands themselves stand above this package (`shell`, `migration`), which never
imports them: `COMMANDS` names the module of each, and `main` loads it by that name. Such a module has a function
`run(command, arguments) -> exit code`.

Exit codes: 0 all is well; 1 something was found (`check`, `memory verify`) or two sides differ; 2 the input has to be
mended (query, arguments, file); 3 the storage failed; 4 a fault of this library; 130 interrupted; 141 the reader of the
output went away. Errors are printed to standard error as the library words them, without a traceback. Answers go to
standard output, progress and timings to standard error.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from store.errors import DatalogError

FOUND = 1
USER = 2
STORAGE = 3
INTERNAL = 4
INTERRUPTED = 130
NO_READER = 141

NOTE = (
    "Exit codes: 0 well, 1 findings or differences, 2 mend the input, 3 storage failed, 4 our fault, 130 interrupted."
)

#: name -> (module with `run(command, arguments)`, help), by subject
COMMANDS = {
    "q": ("shell.ask", "ask a query; as a table, EDN, JSON, NDJSON, CSV or Markdown, or as a bar chart"),
    "pull": ("shell.ask", "print entities by a pull pattern"),
    "explain": ("shell.ask", "show the plan of a query; as text, Mermaid, DOT or HTML"),
    "schema": ("shell.describe", "print the schema, or draw it; --apply declares one from a file"),
    "stats": ("shell.describe", "sizes and counts of a database"),
    "shell": ("shell.start", "ask and change a database interactively, or run a script"),
    "transact": ("shell.move", "write transaction data: EDN maps and lists of facts"),
    "import": ("shell.move", "bring CSV, JSON, NDJSON, EDN or Parquet in; the schema is inferred and shown first"),
    "export": ("shell.move", "write an answer or entities as CSV, JSON, NDJSON, EDN or Parquet"),
    "dump": ("shell.keep", "write a portable dump: text, versioned, with digests"),
    "load": ("shell.keep", "make a database from a dump; goes on where a killed load ended"),
    "copy": ("shell.keep", "copy a database while it is in use"),
    "check": ("shell.care", "verify a database; --rebuild makes its indexes anew from the log"),
    "compact": ("shell.care", "write a database anew without what it no longer needs"),
    "memory": ("migration.commands", "import, verify and export an EDN memory file"),
    "migrate": ("migration.script_commands", "numbered scripts of schema and data changes: plan, apply, revert, check"),
    "demo": ("migration.commands", "migrate the example memory, verify it, and ask it questions"),
    "completion": ("shell.completion_script", "print a completion script for bash, zsh or fish"),
}
#: commands that only read and end at once: nothing is left to tidy up when they have printed
QUICK = ("q", "pull", "explain", "schema", "stats", "completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
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
    except Exception as e:
        code = _told(e)
        if not code:
            raise
    return code


def _open_streams() -> None:
    """Makes streams that were closed before the start: their input is empty, their output goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - open while the process runs


def console() -> NoReturn:
    """The console script: `main` in a process of its own, which is set up to start and end quickly."""
    # numpy's linear algebra makes a thread for each core when it is loaded, a third of its import; nothing here uses it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import gc

    # modules make objects that stay: at the standard threshold they are looked through again and again while they load
    gc.set_threshold(50_000, 20, 50)
    quick = len(sys.argv) > 1 and sys.argv[1] in QUICK
    if quick:
        _leave_out_numpy_texts()
    code = main()
    if code == 0 and quick:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking apart what was loaded would take 20 ms; a command closes what it opens
    sys.exit(code)


def _leave_out_numpy_texts() -> None:
    """Lets numpy load without the texts of its functions and the types of its annotations: a quarter of its import.

    numpy runs the modules of texts for what they do to others, and takes nothing from them. Of the module of types it takes one
    name while it loads; whoever asks it for another gets the real module (not for one inside it). Where they have other names
    nothing is left out.
    """
    stubs = {
        "numpy._core._add_newdocs": _nothing_of,
        "numpy._core._add_newdocs_scalars": _nothing_of,
        "numpy._typing": _type_of,
    }
    for name, attribute_of in stubs.items():
        stub = type(sys)(name)
        stub.__getattr__ = attribute_of  # type: ignore[method-assign]
        sys.modules.setdefault(name, stub)


def _nothing_of(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_, **__: None


def _type_of(name: str) -> object:
    if name == "NDArray":
        return list
    if name.startswith("__"):
        raise AttributeError(name)
    from importlib import import_module

    sys.modules.pop("numpy._typing", None)
    return getattr(import_module("numpy._typing"), name)


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else None
    if first in COMMANDS:
        from importlib import import_module

        return int(import_module(COMMANDS[first][0]).run(first, arguments[1:]))
    if first == "--version":
        print(_version())
        return 0
    if first in ("--help", "-h", "help"):
        rest = arguments[1:]
        if first == "help" and rest and rest[0] in COMMANDS:
            return _dispatch([rest[0], "--help"])
        print(_overview())
        return 0
    if first is None:
        print(_overview())
        return USER
    from store.errors import UserError, nearest

    close = nearest(first, COMMANDS)
    raise UserError(
        "cli/unknown-command",
        f"There is no command {first!r}." + (f" Did you mean {close}?" if close else ""),
        hint="datalog --help lists all of them",
    )


def _told(error: Exception) -> int:
    """Print an error of the library and return its exit code; 0 for any other."""
    worded = in_words(error)
    if worded is None:
        return 0
    print(worded, file=sys.stderr)
    return exit_code(worded)


def in_words(error: BaseException) -> DatalogError | None:
    """The error as the library words it: of a file or stream, too; None for a fault of a program."""
    from store.errors import DatalogError, UserError

    if isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        return UserError("cli/file", f"The file{place} cannot be used: {error.strerror or error}.",
                         hint="give another path, or see to its permissions and to the disk")  # fmt: skip
    if isinstance(error, UnicodeEncodeError):
        return UserError("cli/encoding", f"The output's encoding {error.encoding} has no {error.object[error.start]!a}.",
                         hint="set PYTHONIOENCODING=utf-8; --format edn writes half characters as escapes")  # fmt: skip
    return error if isinstance(error, DatalogError) else None


def exit_code(error: DatalogError) -> int:
    """The exit code that says whose an error is to mend."""
    from store.errors import InternalError, StorageError

    if isinstance(error, StorageError) and error.code != "store/path":  # a wrong path is the user's to mend
        return STORAGE
    return INTERNAL if isinstance(error, InternalError) else USER


def _overview() -> str:
    lines = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: datalog COMMAND ...\n\nA Datalog database in a directory.\n\n"
        f"commands:\n{lines}\n\n"
        "examples:\n"
        "  datalog import people.csv --db people.db        a table becomes facts\n"
        "  datalog q '[:find ?n :where [_ :people/name ?n]]' --db people.db\n"
        "  datalog shell people.db                         the same, interactively\n\n"
        f"Help of one, with examples: datalog COMMAND --help\n{NOTE}"
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"datalog-lmdb {version('datalog-lmdb')}"
    except PackageNotFoundError:
        return "datalog-lmdb, not installed"


if __name__ == "__main__":
    console()
