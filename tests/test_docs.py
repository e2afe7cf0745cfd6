"""Docs that are not true fail: every block of every page runs, links and anchors lead somewhere, the reference is what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from pages import OTHER_LANGUAGES, PAGES, ROOT, RUN_LANGUAGES, Runner, anchors, blocks

import datalog as d

# Pages that the general runner runs, and those whose commands need a stage of their own: the test that sets it.
RUN = [
    "README.md", "docs/transactions.md", "docs/python.md", "docs/tutorial.md", "docs/from-sqlite.md", "docs/from-datomic.md",
    "docs/from-json.md", "docs/commands.md", "docs/memory.md", "docs/query.md", "docs/rules.md", "docs/pull.md", "docs/shell.md",
]  # fmt: skip
ELSEWHERE = {
    "docs/migration.md": ("test_docs_migration.py", {"sh", "python"}),
    "docs/runbook.md": ("test_docs_migration.py", {"sh"}),
    "docs/scripts.md": ("test_docs_scripts.py", {"sh", "python"}),
}


def name_of(page: Path) -> str:
    """The path from the root."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """All blocks of a page, in their order, do and print what the page says."""
    runner = Runner(ROOT / name, tmp_path, capsys, monkeypatch)
    try:
        runner.run()
    finally:
        runner.close()
    wanted = [b for b in blocks(ROOT / name) if b.language in RUN_LANGUAGES and not b.is_left_out]
    assert runner.ran == len(wanted) > 0


def test_no_block_is_left_out() -> None:
    """Every block with Python or commands, on every page, is run by some test, or says why it is not."""
    counted = {"run": 0, "left out": 0}
    for page in PAGES:
        for block in blocks(page):
            where = f"{name_of(page)}:{block.line}"
            assert block.language in RUN_LANGUAGES | OTHER_LANGUAGES, f"{where}: what is {block.language!r}?"
            if block.language not in RUN_LANGUAGES:
                continue
            counted["left out" if block.is_left_out else "run"] += 1
            if not block.is_left_out and name_of(page) not in RUN:
                test, languages = ELSEWHERE[name_of(page)]
                assert block.language in languages, where
                assert page.name in (ROOT / "tests" / test).read_text(encoding="utf-8")
    assert counted["run"] > 90
    assert counted["left out"] <= 5, "only what installs, and checks for developers"


def test_the_readme_answer_is_right() -> None:
    """The query that the README shows gives the rows it says, and the error it shows is the one raised."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    start = block.index("conn.q(")
    namespace: dict[str, Any] = {}
    exec(block[:start], namespace)
    found = eval(block[start : block.rindex(")") + 1].split("     # rows")[0].strip(), namespace)
    assert list(found) == [("Ada", 35), ("Ralph", 11)]
    with pytest.raises(d.DatalogError) as caught:
        namespace["conn"].q("[:find ?name\n   :where [?p :person/nme ?name]]")
    shown = re.findall(r"^```\n(QueryError.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    assert str(caught.value).rstrip() == shown.rstrip()
    namespace["conn"].close()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there, every anchor a heading."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


def test_every_page_is_listed() -> None:
    """The index names every page."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "index.md" and f"({p.name})" not in index]
    assert missing == []


def test_the_reference_is_what_the_code_says() -> None:
    """docs/reference.md is what docs/make_reference.py makes of the docstrings."""
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["page"]()
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == made, "run: python docs/make_reference.py"
