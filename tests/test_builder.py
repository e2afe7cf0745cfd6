"""The query builder: every case of the case files built with it gives the text's answer; a type checker accepts and refuses what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_query_cases import ask, inputs_of, load_cases

import datalog as d
from datalog import query as q
from store.edn import Keyword, List, Map, Symbol, Vector, strict_equal
from store.errors import DatalogError

BINDINGS = {"not", "not-join", "or", "or-join", "and"}


def term(form: Any) -> Any:
    """A term, argument or find element of the builder."""
    if isinstance(form, Symbol):
        name = str(form)
        return q.ANY if name == "_" else q.var(name[1:]) if name.startswith("?") else q.symbol(name)
    if isinstance(form, List) and form and isinstance(form[0], Symbol) and str(form[0]) == "pull":
        return q.pull(
            term(form[-2]),
            term(form[-1]) if isinstance(form[-1], Symbol) else form[-1],
            of=q.source(str(form[1])) if len(form) == 4 else None,
        )
    if isinstance(form, List) and form and isinstance(form[0], Symbol):
        head = str(form[0])
        return q.call(q.var(head[1:]) if head.startswith("?") else head, *map(term, form[1:]))
    return form


def binding(form: Any) -> Any:
    """A pattern that takes a value apart, or an input."""
    if isinstance(form, Symbol):
        name = str(form)
        return q.RULES if name == "%" else q.source(name) if name.startswith("$") else term(form)
    if isinstance(form, Vector):
        if len(form) == 2 and str(form[1]) == "...":
            return q.collection(binding(form[0]))
        if len(form) == 1 and isinstance(form[0], Vector):
            return q.relation(*map(binding, form[0]))
        return q.tuple_(*map(binding, form))
    return form


def clause(form: Any) -> q.Clause:
    """A clause."""
    if isinstance(form, List):
        of = None
        parts = list(form)
        if str(parts[0]).startswith("$"):
            of = q.source(str(parts.pop(0)))
        head = str(parts[0])
        if head not in BINDINGS:
            return q.rule(head)(*map(term, parts[1:]), of=of)
        if head == "and":
            return q.and_(*map(clause, parts[1:]))
        if head in ("not", "or"):
            make: Any = q.not_ if head == "not" else q.or_
            return make(*map(clause, parts[1:]), of=of)
        join = list(parts[1])
        required = [term(v) for v in join.pop(0)] if join and isinstance(join[0], Vector) else []
        variables = [term(v) for v in join]
        if head == "not-join":
            return q.not_(*map(clause, parts[2:]), join=variables, of=of)
        return q.or_(*map(clause, parts[2:]), join=variables, required=required, of=of)
    if isinstance(form[0], List):
        made = term(form[0])
        if len(form) == 1:
            return q.pred(
                term(form[0][0]) if str(form[0][0]).startswith("?") else str(form[0][0]), *map(term, form[0][1:])
            )
        target = binding(form[1])
        return made.as_(target) if isinstance(target, q.Var) else made.into(target)
    parts = list(form)
    of = q.source(str(parts.pop(0))) if str(parts[0]).startswith("$") else None
    rest = [q.attr(str(x)) if i == 0 and isinstance(x, Keyword) else term(x) for i, x in enumerate(parts[1:])]
    return q.fact(term(parts[0]), *rest, of=of)


def built(form: Any) -> Any:
    """A query form through the builder."""
    parts: dict[str, list[Any]] = {}
    for item in form:
        if (
            isinstance(item, Keyword)
            and item.name
            in (
                "find",
                "in",
                "where",
                "with",
                "having",
                "order-by",
                "limit",
                "offset",
                "keys",
                "strs",
                "syms",
                "timeout",
            )
            and not item.ns
        ):
            part = parts.setdefault(item.name, [])
        else:
            part.append(item)
    found = parts.pop("find")
    shape = None
    if len(found) == 1 and isinstance(found[0], Vector):
        inner = list(found[0])
        shape = "collection" if str(inner[-1]) == "..." else "tuple"
        found = inner[:-1] if shape == "collection" else inner
    elif str(found[-1]) == ".":
        shape, found = "scalar", found[:-1]
    query: Any = q.find(*map(term, found))
    if shape:
        query = getattr(query, shape)()
    for name, values in parts.items():
        if name == "in":
            query = query.in_(*map(binding, values))
        elif name == "with":
            query = query.with_(*map(term, values))
        elif name in ("where", "having"):
            query = getattr(query, name)(*map(clause, values))
        elif name == "order-by":
            query = query.order_by(*order_keys(values[0]))
        elif name in ("keys", "strs", "syms"):
            query = getattr(query, name)(*map(str, values))
        else:
            value = values[0]
            query = getattr(query, name)(term(value) if isinstance(value, Symbol) else value)
    return query


def order_keys(form: Any) -> list[Any]:
    """The keys of an `:order-by`."""
    items = list(form) if isinstance(form, Vector) else [form]
    keys: list[Any] = []
    for item in items:
        if isinstance(item, Keyword):
            last = keys.pop()
            keys.append(q.Key(last if isinstance(last, int) else last.form, item.name))
        else:
            keys.append(term(item))
    return keys


def rules_of(form: Any) -> q.RuleSet:
    """Rules through the builder."""
    branches = []
    for branch in d.read_edn(form) if isinstance(form, str) else form:
        head = [binding(a) if isinstance(a, Vector) else term(a) for a in branch[0][1:]]
        branches.append((q.rule(str(branch[0][0]))(*head), [clause(c) for c in branch[1:]]))
    return q.rules(*branches)


@pytest.fixture(scope="module")
def databases():
    """Databases by what they hold."""
    made: dict[str, Any] = {}

    def database(schema: Any, tx: Any) -> Any:
        key = repr((schema, tx))
        if key not in made:
            made[key] = d.connect(None, schema, sync=False)
            if tx:
                made[key].transact(tx)
        return made[key].db()

    yield database
    for conn in made.values():
        conn.close()


def test_all_cases_through_the_builder(databases) -> None:
    """Queries and rules of the case files, built, have the same form and the same answer as their text."""
    compared = 0
    for parameters in load_cases():
        fixture, case = parameters.values
        form = case.get("query")
        if "error" in case or form is None:
            continue
        text = form if isinstance(form, str) else d.write_edn(form)
        form = d.read_edn(text)
        if isinstance(form, Map) or str(form[0]) != ":find":
            continue
        query = built(form)
        if '":' not in text:  # attributes written as strings become keywords
            assert sorted(map(repr, d.read_edn(str(query)))) == sorted(map(repr, normal(form))), parameters.id
        inputs = inputs_of(case, databases, fixture)
        try:
            expected = ask(case, inputs, None)
        except DatalogError:
            continue
        if "rand" in text or "sample" in text:
            continue
        given = [rules_of(i) if looks_like_rules(i) else i for i in inputs]
        found = query.run(*given)
        assert shown(found) == shown(expected), parameters.id
        compared += 1
    assert compared > 450


def normal(form: Any) -> Any:
    """A query form as the builder writes it: `:order-by` always with a vector."""
    items = list(form)
    for i, item in enumerate(items):
        if isinstance(item, Keyword) and str(item) == ":order-by" and not isinstance(items[i + 1], Vector):
            items[i + 1] = Vector([items[i + 1]])
    return items


def looks_like_rules(value: Any) -> bool:
    """Whether an input is a list of rules."""
    form = d.read_edn(value) if isinstance(value, str) and value.lstrip().startswith("[[(") else value
    return (
        isinstance(form, Vector)
        and bool(form)
        and all(isinstance(b, Vector) and b and isinstance(b[0], List) for b in form)
    )


def shown(answer: Any) -> Any:
    """An answer in comparable form."""
    if hasattr(answer, "columns"):
        return sorted(map(repr, answer))
    return sorted(map(repr, answer)) if isinstance(answer, list) else repr(answer)


def test_queries_are_values(databases) -> None:
    """A query with more to it is another one; the builder's queries go wherever a query's text does."""
    db = databases({":n": {":db/valueType": ":db.type/long"}}, [{":n": i} for i in range(5)])
    e, n = q.var("e", int), q.var("n", int)
    base = q.find(n).where(q.fact(e, q.attr(":n", int), n))
    few = base.where(n > 2)
    assert str(base) == "[:find ?n :where [?e :n ?n]]"
    assert str(few) == "[:find ?n :where [?e :n ?n] [(> ?n 2)]]"
    assert set(base.run(db)) == {(i,) for i in range(5)}
    assert set(few.run(db)) == {(3,), (4,)} == set(db.q(few)) == set(d.prepare(few)(db))
    assert "scan" in few.explain(db)
    assert "scan" in d.explain(few, db)
    assert few.order_by(n.desc()).limit(1).collection().run(db) == [4]
    assert strict_equal(q.find(q.sum_(n)).with_(e).where(q.fact(e, ":n", n)).scalar().run(db), 10)
    with pytest.raises(TypeError, match="no truth"):
        bool(n > 2)
    assert str(q.find(n).where(1 + n > 5 - n)) == "[:find ?n :where [(> (+ 1 ?n) (- 5 ?n))]]"
    assert str(q.pred("<", 2 * n, 9 / n)) == "[(< (* 2 ?n) (/ 9 ?n))]"
    assert str(q.fact(e, ":n", n, added=True)) == "[?e :n ?n _ true]"
    anything: Any = n
    for wrong in (
        lambda: q.find(n).where(anything == 3),
        lambda: q.not_(anything == 3),
        lambda: q.fact(e, ":n", value=n),
        lambda: q.fact(e, ":n", a=":m"),
    ):
        with pytest.raises(TypeError, match=r"x\.eq|fact\(\) takes"):
            wrong()
    with pytest.raises(DatalogError, match="There is no attribute :m"):
        q.find(n).where(q.fact(e, ":m", n)).run(db)


RIGHT = """
from collections.abc import Sequence
from datalog import query as q
e, name, age = q.var("e", int), q.var("name", str), q.var("age", int)
NAME, AGE = q.attr(":name", str), q.attr(":age", int)
both = q.find(name, age).where(q.fact(e, NAME, name), q.fact(e, AGE, age), age > 3, (age + 1) < 9, q.fact(e, NAME, "Ann"))
rows: Sequence[tuple[str, int]] = both.order_by(age.desc()).limit(3).run()
one: int | None = q.find(q.count(e)).where(q.fact(e, NAME)).scalar().run()
several: list[str] = q.find(name).where(q.fact(e, NAME, name)).collection().run()
pair: tuple[str, int] | None = both.tuple().run()
untyped = q.fact(e, ":anything", 5)
bound = q.call("inc", age).as_(q.var("next", int))
"""
WRONG = [
    "q.fact(e, AGE, name)",
    'q.fact(e, AGE, "old")',
    'age > "x"',
    "name < 5",
    "age.eq(name)",
    "rows: Sequence[tuple[int, int]] = q.find(name, age).run()",
    "one: str | None = q.find(age).scalar().run()",
    "q.find(name, age).scalar()",
    "q.find(5)",
    'both.where("text")',
    'both.limit("3")',
]


def test_a_type_checker_follows(tmp_path: Path) -> None:
    """Mypy takes the right uses and finds a fault in each of the wrong ones."""
    head = RIGHT.split("both =", maxsplit=1)[0] + "both = q.find(name, age)\n"
    lines = head + "\n".join(WRONG) + "\n"
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(lines)
    # the builder's module alone is followed: the rest of the library would take ten times as long
    root = Path(d.__file__).parent.parent
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=skip",
        "--allow-subclassing-any",
        "--explicit-package-bases",
    ]
    files = ["right.py", "wrong.py", str(root / "datalog" / "query.py")]
    environment = {"MYPYPATH": str(root), "PATH": "/usr/bin:/bin"}
    command += ["--no-error-summary", "--cache-dir", str(tmp_path / "cache"), *files]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment).stdout
    assert "right.py" not in found, found
    first = len(head.splitlines()) + 1
    missed = [wrong for i, wrong in enumerate(WRONG) if f"wrong.py:{first + i}:" not in found]
    assert not missed, found
