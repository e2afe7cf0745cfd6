"""What the pages about the language say is so: their examples run, and every error code is listed."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import datalog as d

ROOT = Path(__file__).parent.parent
PAGES = ("query.md", "pull.md")


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str) -> None:
    """The examples of a page, run in their order, print what the page says."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```pycon\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page, page, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL & 0)
    runner.run(test, out=report.append)
    assert not runner.failures, "\n".join(report)


@pytest.mark.parametrize("module", ["query", "limits"])
def test_doctests_run(module: str) -> None:
    """The examples in docstrings hold."""
    import importlib

    assert doctest.testmod(importlib.import_module(f"datalog.{module}")).failed == 0


def test_error_codes_are_listed() -> None:
    """docs/errors.md lists exactly the codes of queries and pulls that the package raises."""
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "datalog").glob("*.py"))
    raised = set(re.findall(r'"((?:query|pull)/[a-z-]+)"', source))
    listed = set(re.findall(r"`((?:query|pull)/[a-z-]+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    assert raised == listed
    assert d.DatalogError
