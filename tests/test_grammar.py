"""grammar.lark, the documented grammar, accepts what the hand-written parsers accept."""

from __future__ import annotations

import pytest
from test_query_cases import load_cases

import datalog as d
from datalog.parser import expected_there, grammar

CASES = [{**p.values[0], **p.values[1]} for p in load_cases()]


def texts(key: str) -> list[str]:
    """The texts of all cases under a key, those of wrong queries left out."""
    found = [c[key] for c in CASES if key in c and "error" not in c]
    return sorted({t if isinstance(t, str) else d.write_edn(t) for t in found})


@pytest.mark.parametrize(("key", "start"), [("query", "query"), ("rules", "rules"), ("pull", "pull")])
def test_grammar_accepts_the_cases(key: str, start: str) -> None:
    """Every text that a parser accepts is in the language of the grammar."""
    found = texts(key)
    assert found
    for text in found:
        grammar(start).parse(text)


def test_grammar_names_what_it_expected() -> None:
    """Where a text leaves the grammar, the grammar says what could have stood there."""
    assert (
        expected_there("[:find ?e :in $ :where 5]", 22)
        == "(, [, ], :having, :in, :keys, :limit, :offset, :order-by, :strs, :syms, :timeout, :where, :with"
    )
