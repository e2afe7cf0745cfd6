"""What the pages about the language say is so: mistakes are told as shown, and every error code is listed."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import datalog as d

ROOT = Path(__file__).parent.parent
NO_AREAS = ("a", "datalog", "db", "learning", "person")  # of names in examples and of the database's own


def mistakes() -> list[tuple[str, str, str]]:
    """(heading, query, message) of each mistake on its page."""
    text = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    return re.findall(r"^## (\d+\. .*?)\n\n```edn\n(.*?)\n```\n\n```\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("heading", "query", "message"), mistakes(), ids=[m[0] for m in mistakes()])
def test_mistakes_are_told_as_shown(heading: str, query: str, message: str) -> None:
    """Each query on the page of mistakes gets the error that stands below it."""
    page = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    schema = re.findall(r"^```edn\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    rules = re.findall(r"they are `(.*?)`", page)[0]
    with d.connect(None, schema) as conn:
        conn.transact('[{:person/name "Ann" :person/age 30 :person/height 1.7} {:person/name "Bob" :person/age 17}]')
        with pytest.raises(d.DatalogError) as raised:
            d.q(query, conn.db(), *([rules] if "%" in query else []))
    assert str(raised.value) == message, heading


def test_there_are_twenty_mistakes() -> None:
    """The page has at least twenty, and the test found each of its headings."""
    page = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    assert len(mistakes()) == len(re.findall(r"^## ", page, re.MULTILINE)) >= 20


@pytest.mark.parametrize("module", ["query", "limits"])
def test_doctests_run(module: str) -> None:
    """The examples in docstrings hold."""
    import importlib

    assert doctest.testmod(importlib.import_module(f"datalog.{module}")).failed == 0


def codes_of_the_source() -> set[str]:
    """Every code `area/what` that stands in a string of the packages, those put together included."""
    files = [
        f
        for package in ("store", "datalog", "exchange", "shell", "migration")
        for f in sorted((ROOT / package).glob("*.py"))
    ]
    source = "\n".join(f.read_text(encoding="utf-8") for f in files)
    found = {c for c in re.findall(r'"([a-z]+/[a-z-]+)"', source) if c.split("/")[0] not in NO_AREAS}
    assert set(re.findall(r'f"([a-z]+/[a-z-]+)\{', source)) == {"edn/bad-"}, "list here how such a code is put together"
    return found | {f"edn/bad-{kind}" for kind in re.findall(r'_bad_name\("([a-z]+)"', source)}


def test_error_codes_are_listed() -> None:
    """docs/errors.md has one row for each code of the packages, and for no other."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z]+/[a-z-]+)` \|", page, re.MULTILINE)
    source = codes_of_the_source()
    assert len(source) > 150
    assert sorted(source - set(listed)) == [], "missing on the page"
    assert sorted(set(listed) - source) == [], "no longer in the source"
    assert len(listed) == len(set(listed)), "listed twice"
