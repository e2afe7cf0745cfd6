"""Commands with commands of their own: what `datalog memory` and `datalog migrate` say when none of theirs is named."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["USER", "overview"]

USER: Final = 2


def overview(
    name: str, description: str, known: Mapping[str, str], arguments: Sequence[str], epilog: str | None = None
) -> int:
    """Prints the help with the commands (`known`: name -> text), or what is wrong with the arguments; returns the exit code."""
    width = max(map(len, known)) + 1
    lines = "\n".join(f"  {command:<{width}}{text}" for command, text in known.items())
    parser = argparse.ArgumentParser(
        prog=f"datalog {name}",
        usage=f"datalog {name} COMMAND ...",
        description=f"{description}\n\ncommands:\n{lines}",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(known), metavar="COMMAND", help=argparse.SUPPRESS)
    if not arguments:
        parser.print_help()
        return USER
    parser.parse_args(arguments)
    return 0
