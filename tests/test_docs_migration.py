"""The pages of the migration are true: their commands run as they stand, one after another, on the example memory."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from staged import EXAMPLE, climb, command, opened

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: what these tests leave out of the gates: machines that run tests are noisy
UNTIMED = ("--read-ratio", "none", "--query-ratio", "none", "--save-ratio", "none")


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(script, folder, monkeypatch):
    """Runs a block of shell commands in a folder, each one in this process."""
    monkeypatch.chdir(folder)
    for line in script.strip().splitlines():
        words, _, target = (part.strip() for part in line.partition(" > "))
        name, *arguments = shlex.split(words)
        if name == "mv":
            shutil.move(*arguments)
            continue
        assert name == "datalog", line
        code, out, errors = command(*arguments, *(UNTIMED if arguments[1] in ("stage", "plan") else ()))
        assert code == 0, f"{line}\n{out}\n{errors}"
        if target:
            Path(target).write_text(out, encoding="utf-8")


def run_in_shell(script, folder):
    """Runs a block of commands as a terminal does; `datalog` is this checkout's."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "datalog"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datalog.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"


def test_the_tutorial_runs(tmp_path, monkeypatch):
    """From a file to the archive, by the commands of the page."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    scripts = blocks("migration.md", "sh")
    assert len(scripts) == 5
    for script in scripts:
        run(script, tmp_path, monkeypatch)
    assert (tmp_path / "report" / "report.md").exists()
    assert (tmp_path / "memory.edn.archive" / "manifest.json").exists()
    with opened(tmp_path) as memory:
        assert memory.init()["archived"]


def test_the_python_of_the_tutorial_runs(tmp_path, monkeypatch):
    """The first section's example does what its comments say."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("migration.md", "python")
    namespace = {}
    exec(compile(block.replace("memory.close()\n", ""), "migration.md", "exec"), namespace)
    memory, kw = namespace["memory"], namespace["kw"]
    assert memory.get_value(kw("visits")) == 1
    assert memory.search(where={":session/owner": kw("ada")}) == [kw("collab-session/s1")]
    assert memory.get_instrumented(kw("visits")).store == "edn"
    memory.close()


def test_the_runbook_runs(tmp_path, monkeypatch):
    """Each scenario's commands, from a stage in which the database answers."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        before = memory.get_all()
    scripts = blocks("runbook.md", "sh")
    assert len(scripts) == 8
    run_in_shell(scripts[0], tmp_path)
    for script in scripts[1:]:
        run(script, tmp_path, monkeypatch)
    with opened(tmp_path) as memory:
        assert memory.get_all() == before
        assert memory.stage_name() == "dual-write"


def test_the_pages_name_every_command():
    """What `datalog memory` can do stands on the pages."""
    text = (DOCS / "migration.md").read_text() + (DOCS / "runbook.md").read_text()
    for name in ("status", "plan", "backfill", "verify", "repair", "stage", "rollback", "archive", "report", "export"):
        assert f"datalog memory {name}" in text
