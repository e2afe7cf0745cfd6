"""The command `shell`: a session at a terminal, over a script, or for one command line.

At a terminal the prompt is that of `prompt` (with the extra `shell`) or a plain one. Without a terminal standard input is a
script: the first error ends it, with the exit code of `datalog.cli`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Final, TextIO

from datalog.cli import INTERRUPTED, USER, exit_code, in_words
from shell.arguments import FORMATS, check_timeout, command_parser, read_text
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell.session import Session
    from store.errors import DatalogError

_HALF: Final = 2  # of the machine's memory is what one query may take


def run(_: str, arguments: list[str]) -> int:
    """Runs a shell and returns its exit code."""
    parser = command_parser(
        "shell",
        "Asks and changes a database interactively: queries, transaction data, rules, and commands that begin with a dot.\n"
        "Without a terminal it runs standard input as a script, and ends at the first error.",
        """shell people.db
shell people.db --read-only --mode markdown
shell people.db -c '.attrs' -c '[:find (count ?p) . :where [?p :person/name]]'
shell people.db --write < changes.edn""",
    )
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        help="the database's directory; without one an empty database that goes with the shell",
    )
    parser.add_argument("-c", "--command", action="append", metavar="TEXT", help="run this and leave; several times")
    parser.add_argument("--mode", choices=FORMATS, default="table", help="how answers are shown; default: table")
    parser.add_argument("--json", action="store_const", const="json", dest="mode", help="the same as --mode json")
    parser.add_argument("--write", action="store_true", help="write transaction data without asking")
    parser.add_argument("--read-only", action="store_true", help="open for reading; transactions are refused")
    parser.add_argument("--timeout", type=float, metavar="S", help="give queries up after so many seconds")
    parser.add_argument("--plain", action="store_true", help="a plain prompt, without colours and completion")
    given = parser.parse_args(arguments)
    if given.write and given.read_only:
        parser.error("--write and --read-only exclude each other")
    check_timeout(parser, given)

    from shell.session import Session, Settings  # noqa: PLC0415 - help does not wait for numpy

    interactive = not given.command and sys.stdin.isatty() and sys.stdout.isatty()
    terminal = Screen() if interactive else Pipe()
    settings = Settings(
        mode=given.mode,
        timeout_s=given.timeout,
        memory_bytes=_half_the_memory(),
        timing=interactive,
        write=given.write,
        read_only=given.read_only,
        limit=1000 if interactive else None,
    )
    session = Session.opened(given.path, terminal, settings)
    code = USER
    try:
        code = _interact(session, plain=given.plain) if interactive else _script(session, given.command)
    finally:
        sys.stdout.flush()
        if not session.close():  # a stopped query is still in one large step: it cannot be waited for, nor closed under
            os._exit(code)
    return code


class Pipe:
    """Standard output without a screen."""

    interactive = False

    def __init__(self) -> None:
        self.out: TextIO = sys.stdout

    def width(self) -> int | None:
        """The width of the terminal if answers go to one."""
        return get_terminal_size().columns if sys.stdout.isatty() else None

    def height(self) -> int | None:
        """None: nothing is paged."""
        return None

    def note(self, text: str) -> None:
        """To standard error: standard output has answers."""
        print(text, file=sys.stderr)

    def ask(self, question: str) -> str:
        """Nothing: nobody is there."""
        del question
        return ""


class Screen(Pipe):
    """A terminal with somebody at it."""

    interactive = True

    def height(self) -> int | None:
        """The lines of the screen."""
        return get_terminal_size().lines

    def note(self, text: str) -> None:
        """To the screen, among the answers."""
        self.out.write(f"{text}\n")

    def ask(self, question: str) -> str:
        """The line typed in answer; "q" at the end of the input."""
        sys.stdout.flush()
        try:
            return input(question)
        except EOFError:
            self.out.write("\n")
            return "q"
        except KeyboardInterrupt:
            self.out.write("\n")
            return "q"


def _script(session: Session, texts: list[str] | None) -> int:
    for text in texts if texts is not None else [read_text("-", "The script")]:
        _run_statements(session, text)
        if session.over:
            break
    return 0


def _run_statements(session: Session, text: str) -> None:
    from shell.running import Interrupted  # noqa: PLC0415 - as above

    try:
        session.run(text)
    except Interrupted:
        raise KeyboardInterrupt from None


def _interact(session: Session, *, plain: bool) -> int:
    from shell.commands import greeting  # noqa: PLC0415 - as above

    session.say(greeting(session) + "\n.help shows what can be typed; Ctrl-D leaves.")
    read = _prompt(session, plain=plain)
    while not session.over:
        try:
            _entries(session, read)
        except KeyboardInterrupt:  # between two entries: an interrupt that was noted twice, or a key held down
            session.say("")
    try:  # noqa: SIM105 - a function's first instruction is where a noted interrupt would be raised
        sys.stdout.flush()
    except KeyboardInterrupt:  # noted before the end was, and there is nothing left to interrupt
        pass
    return 0


def _entries(session: Session, read: Callable[[], str]) -> None:
    while not session.over:
        try:
            text = read()
        except KeyboardInterrupt:  # a new line, as in any shell
            continue
        except EOFError:
            session.over = True
            break
        if text.strip():
            session.typed.append(text)
            take(session, text)


def take(session: Session, text: str) -> int:
    """Runs what was typed and prints what it raises; returns the exit code that this would be. The session goes on."""
    from shell.running import Interrupted  # noqa: PLC0415 - as above

    try:
        session.run(text)
    except Interrupted as e:
        session.say("\nstopped" if e.ended else "\nstopped; its last step is still ending in the background")
        return INTERRUPTED
    except KeyboardInterrupt:
        session.say("\nstopped")
        return INTERRUPTED
    except MemoryError:
        return _told(
            session, UserError("shell/memory", "The machine has no memory left for this.", hint="ask for less")
        )
    except Exception as e:
        error = in_words(e)
        if error is None:
            raise
        return _told(session, error)
    return 0


def _told(session: Session, error: DatalogError) -> int:
    text = str(error)
    if _has_colour():
        first, _, rest = text.partition("\n")
        text = f"\x1b[1;31m{first}\x1b[0m" + (f"\n{rest}" if rest else "")
    session.say(text)
    return exit_code(error)


def _has_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _prompt(session: Session, *, plain: bool) -> Callable[[], str]:
    if not plain:
        try:
            from shell.prompt import Prompt  # noqa: PLC0415 - the extra `shell`
        except ImportError:
            session.say("A plain prompt. For completion and colours: pip install 'datalog-lmdb[shell]'")
        else:
            return Prompt(session).read
    from shell.plain import read_entry  # noqa: PLC0415 - as above

    return lambda: read_entry(session.prompt())


def _half_the_memory() -> int | None:
    """Half the machine's memory in bytes, None where that is not known."""
    names: Any = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _HALF
