"""The language by cases: every map in tests/cases/{query,rules,pull,errors}/*.edn is one test, run with both engines.

A file is a sequence of maps. A map without :name sets what the following cases start from (:schema, :tx, :rules); a case
has :name and :query (text, or the form itself), or :pull and :eid. :args are its inputs, where `$` stands for the database,
`%` for the rules and `$2` for a second database made by :tx2; default is what :in asks for. :expect is the answer: a set
where order does not matter; `?x` in it matches anything, the same thing each time. Or :error is the code and :message the
exact text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import datalog as d
from store.edn import Keyword, List, Map, Set, Symbol, Vector, read_all, strict_equal
from store.errors import DatalogError
from store.value import canonical

ROOT = Path(__file__).parent / "cases"
ENGINES = (None, "naive")


def load_cases() -> list[Any]:
    """(file and name as id, fixture, case) of every case."""
    found = []
    for path in sorted(p for kind in ("query", "rules", "pull", "errors") for p in (ROOT / kind).glob("*.edn")):
        fixture: dict[str, Any] = {}
        for form in read_all(path.read_text(encoding="utf-8"), source=path.name):
            case = {k.name: v for k, v in form.items()}
            if "name" not in case:
                fixture = {**fixture, **case}
                continue
            found.append(pytest.param(fixture, case, id=f"{path.parent.name}/{path.stem}: {case['name']}"))
    return found


@pytest.fixture(scope="module")
def databases():
    """Databases by the text of what they hold, so that cases of one file share theirs."""
    made: dict[str, Any] = {}
    connections = []

    def database(schema: Any, tx: Any) -> Any:
        key = repr((schema, tx))
        if key not in made:
            conn = d.connect(None, schema, sync=False)
            connections.append(conn)
            if tx:
                conn.transact(tx)
            made[key] = conn.db()
        return made[key]

    yield database
    made.clear()
    for conn in connections:
        conn.close()


def inputs_of(case: dict[str, Any], database: Any, fixture: dict[str, Any]) -> list[Any]:
    """The inputs of a case."""
    settings = {**fixture, **case}
    db = database(settings.get("schema"), settings.get("tx"))
    rules = settings.get("rules")
    names = {"$": db, "%": rules}
    if "tx2" in settings:
        names["$2"] = database(settings.get("schema2", settings.get("schema")), settings["tx2"])
    takes_rules = re.search(r":in[^:]*%", d.write_edn(case.get("query")))
    default = [Symbol("$"), Symbol("%")] if takes_rules else [Symbol("$")]
    return [names.get(str(a), a) if isinstance(a, Symbol) else a for a in settings.get("args", default)]


def plain(value: Any) -> Any:
    """An answer or an expectation in comparable form: map keys as strings where they are keywords."""
    if isinstance(value, dict | Map):
        return Map((str(k) if isinstance(k, Keyword) else k, plain(v)) for k, v in value.items())
    if isinstance(value, Set | set | frozenset):
        return Set(plain(v) for v in value)
    if isinstance(value, list | tuple) and not isinstance(value, List):
        return Vector(plain(v) for v in value)
    return canonical(value)


def matches(expected: Any, found: Any, seen: dict[str, Any]) -> bool:
    """Whether an answer is what was expected; variables in the expectation match anything, once bound the same."""
    if isinstance(expected, Symbol) and str(expected).startswith("?"):
        return strict_equal(seen.setdefault(str(expected), found), found)
    if isinstance(expected, Vector) and isinstance(found, Vector):
        return len(expected) == len(found) and all(matches(a, b, seen) for a, b in zip(expected, found, strict=True))
    if isinstance(expected, Map) and isinstance(found, Map):
        return set(expected) == set(found) and all(matches(v, found[k], seen) for k, v in expected.items())
    return strict_equal(expected, found)


def check(expected: Any, answer: Any) -> None:
    """Assert that an answer is the expected one."""
    found = plain(
        list(answer) if not isinstance(answer, dict | str | bytes | tuple) and hasattr(answer, "columns") else answer
    )
    wanted = plain(expected)
    if isinstance(expected, Set) and isinstance(found, Vector):
        assert len(found) == len(Set(found)), f"rows repeat: {found}"
        found = Set(found)
    assert matches(wanted, found, {}), f"expected {d.write_edn(expected)}\nfound    {found}"


@pytest.mark.parametrize("engine", ENGINES, ids=["engine", "naive"])
@pytest.mark.parametrize(("fixture", "case"), load_cases())
def test_case(fixture: dict[str, Any], case: dict[str, Any], engine: str | None, databases: Any) -> None:
    """The case gives its expected answer, or its exact error."""
    if engine == "naive" and ("error" in case or "pull" in case or case.get("engine") == Keyword("only")):
        pytest.skip("the reference evaluator does not check queries, and leaves pull to the engine")
    inputs = inputs_of(case, databases, fixture)
    if "error" in case:
        with pytest.raises(DatalogError) as raised:
            ask(case, inputs, engine)
        assert raised.value.code == str(case["error"])[1:]
        if "message" in case:
            assert str(raised.value) == case["message"].strip("\n")
        return
    check(case["expect"], ask(case, inputs, engine))
    if engine is None and "pull" not in case:
        check(case["expect"], ask(case, inputs, engine))  # a point query goes another way once its plan is known


def ask(case: dict[str, Any], inputs: list[Any], engine: str | None) -> Any:
    """The answer of a case's query or pull."""
    if "pull" in case:
        eid = case["eid"]
        if isinstance(eid, Set | List):
            return inputs[0].pull_many(case["pull"], list(eid))
        return inputs[0].pull(case["pull"], eid)
    return d.q(case["query"], *inputs, engine=engine)
