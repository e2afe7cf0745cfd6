"""The pages of the command line and the shell name what there is; their blocks run with those of the other pages."""

from __future__ import annotations

import re
from pathlib import Path

from datalog.cli import COMMANDS
from shell.commands import COMMANDS as DOTS

ROOT = Path(__file__).parent.parent


def test_every_command_is_on_the_page() -> None:
    """docs/commands.md names every command."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in page and f"datalog {name}" not in page] == []


def test_the_table_of_dot_commands() -> None:
    """docs/shell.md has the table of the shell's commands as the shell has it."""
    page = (ROOT / "docs" / "shell.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- commands -->\n(.*?)<!-- end of commands -->", page, re.DOTALL)[0]
    rows = [f"| `{f'{name} {c.takes}'.strip().replace('|', chr(92) + '|')}` | {c.help} |" for name, c in DOTS.items()]
    assert shown.splitlines() == ["| command | what it does |", "|---|---|", *rows]


def test_the_pictures_are_there_and_small() -> None:
    """Every picture of the shell's page is a PNG of less than 100 kB, and each is shown."""
    page = (ROOT / "docs" / "shell.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(pictures/(shell-\w+\.png)\)", page))
    files = {f.name for f in (ROOT / "docs" / "pictures").glob("*.png")}
    assert shown == files
    for name in files:
        data = (ROOT / "docs" / "pictures" / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 100_000
