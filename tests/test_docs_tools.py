"""The pages of the command line and the shell are true: their commands run in order and print what the pages show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datalog.cli import COMMANDS, main
from shell.commands import COMMANDS as DOTS

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def plain(text: str) -> str:
    """Output without what differs between machines."""
    text = re.sub(r"^(bytes) +[\d,]+$", r"\1                                   BYTES", text, flags=re.MULTILINE)
    text = re.sub(r"no findings; .*", "no findings; COUNTS", text)
    text = re.sub(r"^\d+ rows?, [\d.,]+ ms\n", "", text, flags=re.MULTILINE)  # to standard error, with times
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


@pytest.mark.parametrize(("page", "least"), [("shell.md", 1), ("commands.md", 8)])
def test_the_commands_run(page: str, least: int, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Each `sh` block prints the `text` block after it, standard error last; `# exit code n` says how a command ends."""
    (tmp_path / "datalog").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datalog.cli "$@"\n')
    (tmp_path / "datalog").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    monkeypatch.chdir(tmp_path)
    compared, printed = 0, None
    for kind, block in blocks(page):
        if kind == "csv":
            (tmp_path / "people.csv").write_text(block, encoding="utf-8")
        elif kind == "sh":
            if "<<" not in block:
                for line in block.strip().splitlines():
                    wanted = re.search(r"# exit code (\d)", line)
                    assert main(shlex.split(line, comments=True)[1:]) == (int(wanted[1]) if wanted else 0), line
                printed = "".join(capsys.readouterr())
                continue
            done = subprocess.run(
                ["sh", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
            printed = done.stdout + done.stderr
        elif kind == "text":
            assert printed is not None
            assert plain(printed) == plain(block)
            printed = None
            compared += 1
    assert compared >= least


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
