"""The page on migration scripts is true: its commands and Python run in order, and print what it says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from datalog.cli import main

ROOT = Path(__file__).parent.parent


def plain(text: str) -> str:
    """Output without what differs from run to run: times and users."""
    text = re.sub(r"\(\d{4}-\d\d-\d\dT[\d:+]+ by [^,]+,", "(WHEN by WHO,", text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def test_the_page_runs(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Each `sh` block prints the `text` block after it; `# exit code n` says how a command ends; Python blocks run between."""
    shutil.copytree(ROOT / "examples" / "shop", tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|text|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    printed: str | None = None
    compared = 0
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, "docs/scripts.md", "exec"), namespace)
        elif kind == "sh":
            for line in block.strip().splitlines():
                wanted = re.search(r"# exit code (\d)", line)
                words = shlex.split(line, comments=True)
                assert words[0] == "datalog"
                assert main(words[1:]) == (int(wanted[1]) if wanted else 0), line
            out = capsys.readouterr()
            printed = out.out + out.err
        elif printed is not None:
            assert plain(printed) == plain(block)
            printed = None
            compared += 1
    assert compared >= 11


def test_the_folder_that_the_page_shows_is_there() -> None:
    """The listing of the folder, and the script in it, are those of the example."""
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    listing = re.findall(r"^```text\nmigrations/\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0].split()
    assert listing == sorted(p.name for p in (ROOT / "examples" / "shop" / "migrations").iterdir())
    shown = re.findall(r"^```edn\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    assert shown == (ROOT / "examples" / "shop" / "migrations" / "0003_prices_as_decimals.edn").read_text(
        encoding="utf-8"
    )
