"""The page on migration scripts is true: its commands and Python run in order, and print what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pages import ROOT, Runner


def test_the_page_runs(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Each `sh` block prints the `text` block after it; Python blocks run between; all in the folder of the example."""
    runner = Runner(ROOT / "docs" / "scripts.md", tmp_path, capsys, monkeypatch)
    monkeypatch.chdir(tmp_path / "examples" / "shop")
    runner.run()
    assert runner.compared >= 11


def test_the_folder_that_the_page_shows_is_there() -> None:
    """The listing of the folder, and the script in it, are those of the example."""
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    listing = re.findall(r"^```text\nmigrations/\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0].split()
    assert listing == sorted(p.name for p in (ROOT / "examples" / "shop" / "migrations").iterdir())
    shown = re.findall(r"^```edn\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    assert shown == (ROOT / "examples" / "shop" / "migrations" / "0003_prices_as_decimals.edn").read_text(
        encoding="utf-8"
    )
