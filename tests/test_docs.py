"""Docs that are not true fail: the Python blocks of a page run one after another, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import datalog as d

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUN = ["README.md", "docs/transactions.md"]


@pytest.mark.parametrize("name", RUN)
def test_python_blocks_run(name: str) -> None:
    """The examples of a page run from top to bottom in one namespace."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    conn = namespace.get("conn")
    if conn is not None:
        conn.close()


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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
