"""Broken and hostile query texts: each gets an answer or an error of ours, nothing else happens."""

from __future__ import annotations

import random
import sys

import pytest
from differential import RULES, SCHEMA, Generator
from test_query_cases import load_cases

import datalog as d
from store.errors import DatalogError

PIECES = [
    "?x", "?e", "_", "$", "%", "$2", ":n/num", ":n/nope", ":find", ":where", ":in", "nil", "1", "-1.5", '"a"', "#{1}", "{}", "[]", "()", "(not ?x)",
    "(or)", "[?x ...]", "[[?x]]", "(pull ?e [*])", "(count ?x)", "...", ".", "*", '#inst "2020-01-01T00:00:00Z"', "(reach ?e ?x)", "[(< ?x 1)]",
    "[(str ?x) ?y]", "[?e :n/num ?x]", '(open "x")', "[(eval 1) ?x]", "1/2", "99999999999999999999", "\\a", "#tag 5", ":order-by", ":limit",
]  # fmt: skip


def broken(text: str, source: random.Random) -> str:
    """A text with some of its tokens dropped, doubled, swapped or replaced."""
    tokens = text.replace("[", " [ ").replace("]", " ] ").replace("(", " ( ").replace(")", " ) ").split()
    for _ in range(source.randint(1, 3)):
        at = source.randrange(len(tokens))
        kind = source.randint(0, 3)
        if kind == 0:
            del tokens[at]
        elif kind == 1:
            tokens.insert(at, tokens[at])
        elif kind == 2:
            tokens[at] = source.choice(PIECES)
        else:
            other = source.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        if not tokens:
            return ""
    return " ".join(tokens)


@pytest.fixture(scope="module")
def db():
    """Random data."""
    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.transact(Generator(7).transaction())
        yield conn.db()


def test_broken_texts_end_in_our_errors(db) -> None:
    """3,000 texts broken at random give an answer or a DatalogError, and touch no file, module, socket or process."""
    source = random.Random(11)
    texts = [d.write_edn(c["query"]) for _, c in (p.values for p in load_cases()) if "query" in c and "error" not in c]
    texts += [Generator(seed).query() or "[:find ?x :in ?x]" for seed in range(200)]
    events: list[str] = []
    answered = 0
    active = False

    def hook(event: str, _arguments: object) -> None:
        if active and event.split(".", maxsplit=1)[0] in ("open", "socket", "subprocess", "os", "exec"):
            events.append(event)

    sys.addaudithook(hook)
    for round_ in range(3000):
        text = broken(source.choice(texts), source)
        active = round_ > 500  # by then all that is imported when first needed is there
        try:
            found = d.q(text, db, RULES, limits=d.Limits.untrusted()) if "%" in text else None
            found = d.q(text, db, limits=d.Limits.untrusted()) if found is None else found
            answered += 1
        except DatalogError:
            pass
        except Exception as error:
            active = False
            raise AssertionError(f"{text}\n{error!r}") from error
        active = False
    assert not events
    assert answered > 50


def test_broken_pull_patterns_end_in_our_errors(db) -> None:
    """Pull patterns broken at random give a map, nothing, or a DatalogError."""
    source = random.Random(11)
    patterns = [
        "[*]",
        "[:n/num {:n/ref [:n/str]} :n/_ref]",
        "[[:n/num :default 1 :as :x] {:n/up ...}]",
        "[{:n/ref 3} :n/tag]",
    ]
    for _ in range(500):
        text = broken(source.choice(patterns), source)
        try:
            db.pull(text, 1)
        except DatalogError:
            continue
        except Exception as error:
            raise AssertionError(f"{text}\n{error!r}") from error
