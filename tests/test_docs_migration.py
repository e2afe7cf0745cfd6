"""The pages of the migration are true: their commands run as they stand, one after another, on the example memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from staged import EXAMPLE, climb, opened

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: what these tests leave out of the gates: machines that run tests are noisy
UNTIMED = " --read-ratio none --query-ratio none --save-ratio none"


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(script, folder):
    """Runs a block of shell commands in a folder; `datalog` is this checkout's."""
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "datalog"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datalog.cli "$@"\n')
    command.chmod(0o755)
    script = re.sub(r"^(datalog memory (?:stage|plan) .*)$", rf"\1{UNTIMED}", script, flags=re.MULTILINE)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_the_tutorial_runs(tmp_path):
    """From a file to the archive, by the commands of the page."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    said = [run(block, tmp_path) for block in blocks("migration.md", "sh")]
    assert len(said) == 5
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


def test_the_runbook_runs(tmp_path):
    """Each scenario's commands, from a stage in which the database answers."""
    shutil.copy(EXAMPLE, tmp_path / "memory.edn")
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        before = memory.get_all()
    scripts = blocks("runbook.md", "sh")
    assert len(scripts) == 8
    for script in scripts:
        run(script, tmp_path)
    with opened(tmp_path) as memory:
        assert memory.get_all() == before
        assert memory.stage_name() == "dual-write"


def test_the_pages_name_every_command():
    """What `datalog memory` can do stands on the pages."""
    text = (DOCS / "migration.md").read_text() + (DOCS / "runbook.md").read_text()
    for name in ("status", "plan", "backfill", "verify", "repair", "stage", "rollback", "archive", "report", "export"):
        assert f"datalog memory {name}" in text
