"""The pages of the documentation as tests see them: their fenced blocks, and a runner that carries them out in order.

    ```python    executed, all blocks of a page in one namespace
    ```pycon     a session: what it prints is compared
    ```sh        commands; a ```text block behind it is what they print, standard error last
    ```csv, json, edn, text    behind `<!-- file: NAME -->` written to that file

`# exit code N` behind a command says how it ends. `<!-- not run: why -->` before a block leaves it out, and says why.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from datalog.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
RUN_LANGUAGES = {"python", "pycon", "sh"}
OTHER_LANGUAGES = {
    "",
    "text",
    "csv",
    "json",
    "edn",
    "toml",
    "clojure",
    "sql",
}  # output, files, other programs' languages
_FENCE = re.compile(r"^( *)```+ *([\w+-]*) *$")
_MARK = re.compile(r"<!-- (.*?) -->")
_SHELL = re.compile(r"<<|[|>]")


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment in the line before it."""

    language: str
    text: str
    line: int
    mark: str

    @property
    def is_left_out(self) -> bool:
        """Whether the page says that this is not run."""
        return self.mark.startswith("not run: ") or self.mark == "the test command"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A fence that is not closed is an error."""
    found: list[Block] = []
    opened: tuple[str, int, str] | None = None
    lines: list[str] = []
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if opened is not None:
                lines.append(line)
            elif line.strip():
                before = line
        elif opened is None:
            mark = _MARK.fullmatch(before.strip())
            opened, lines = (fence[2], number, mark[1] if mark else ""), []
        else:
            assert not fence[2], f"{page.name}:{number}: a fence inside a block"
            found.append(Block(opened[0], "".join(f"{text}\n" for text in lines), opened[1], opened[2]))
            opened, before = None, ""
    assert opened is None, f"{page.name}:{opened[1]}: this block is not closed"
    return found


def commands(text: str) -> list[str]:
    """The commands of a block; one goes on while a quote is open."""
    found: list[str] = []
    open_quote = False
    for line in text.strip().splitlines():
        found[-1:] = [f"{found[-1]}\n{line}"] if open_quote else [*found[-1:], line]
        try:
            shlex.split(found[-1], comments=True)
            open_quote = False
        except ValueError:
            open_quote = True
    return found


def plain(text: str) -> str:
    """Output without what differs between machines and runs: sizes, counts of entries, times, users."""
    text = re.sub(r"\(\d{4}-\d\d-\d\dT[\d:+]+ by [^,]+,", "(WHEN by WHO,", text)
    text = re.sub(r"^(bytes) +[\d,]+$", r"\1                                   BYTES", text, flags=re.MULTILINE)
    text = re.sub(r"no findings; .*", "no findings; COUNTS", text)
    text = re.sub(r"^\d+ rows?, [\d.,]+ ms\n", "", text, flags=re.MULTILINE)  # to standard error, with times
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


class Runner:
    """Carries out the blocks of one page in a folder of its own, with the examples in it."""

    def __init__(self, page: Path, folder: Path, capsys: Any, monkeypatch: Any) -> None:
        self.page = page
        self.folder = folder
        self.capsys = capsys
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.printed: str | None = None
        self.ran = 0
        self.compared = 0
        program = folder / "bin" / "datalog"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datalog.cli "$@"\n')
        program.chmod(0o755)
        shutil.copytree(ROOT / "examples", folder / "examples")
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT),
            "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        monkeypatch.chdir(folder)
        monkeypatch.setitem(sys.modules, "__page__", type(sys)("__page__"))  # dataclasses look their module up
        sys.modules["__page__"].__dict__.update(self.namespace)
        self.namespace = sys.modules["__page__"].__dict__

    def run(self) -> None:
        """All blocks."""
        for block in blocks(self.page):
            if block.mark.startswith("file: "):
                Path(self.folder / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
            elif block.is_left_out:
                self.printed = None
            elif block.language in RUN_LANGUAGES:
                getattr(self, f"run_{block.language}")(block)
                self.ran += 1
            elif block.language == "text" and self.printed is not None:
                assert plain(self.printed) == plain(block.text), f"{self.page.name}:{block.line}"
                self.printed = None
                self.compared += 1

    def run_python(self, block: Block) -> None:
        """Executes a block; what it prints may be compared."""
        out = StringIO()
        with redirect_stdout(out):
            # line numbers of an error are those of the page
            exec(compile("\n" * block.line + block.text, str(self.page), "exec", dont_inherit=True), self.namespace)
        self.printed = out.getvalue() or None

    def run_pycon(self, block: Block) -> None:
        """Runs a session and compares what it prints."""
        name = self.page.name
        test = doctest.DocTestParser().get_doctest(block.text, {}, name, name, block.line)
        test.globs = self.namespace
        report: list[str] = []
        runner = doctest.DocTestRunner()
        runner.run(test, out=report.append, clear_globs=False)
        assert not runner.failures, "\n".join(report)

    def run_sh(self, block: Block) -> None:
        """Runs commands: those of `datalog` alone in this process, for they start at once there."""
        lines = commands(block.text)
        simple = all(ln.startswith("datalog ") and not _SHELL.search(re.sub(r"'[^']*'|#.*", "", ln)) for ln in lines)
        if not simple:
            done = subprocess.run(
                ["sh", "-ec", block.text],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
            self.printed = done.stdout + done.stderr
            return
        self.capsys.readouterr()
        for line in lines:
            wanted = re.search(r"# exit code (\d)", line)
            code = main(shlex.split(line, comments=True)[1:])
            assert code == (int(wanted[1]) if wanted else 0), line + "".join(self.capsys.readouterr())
        self.printed = "".join(self.capsys.readouterr())

    def close(self) -> None:
        """Closes the connections that the page left open."""
        for value in list(self.namespace.values()):
            if type(value).__name__ == "Connection":
                value.close()


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = 0
        while (name := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
