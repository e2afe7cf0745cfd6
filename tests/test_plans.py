"""Plans: those of the benchmarks' questions are written down, and no plan depends on the order in which clauses are written.

python tests/test_plans.py      writes tests/cases/plans/*.txt anew; look at the difference before you commit it
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.path.insert(0, str(ROOT / "tests"))

from importlib import import_module

from test_query_cases import inputs_of, load_cases

import datalog as d
from store.errors import DatalogError

FILES = ROOT / "tests" / "cases" / "plans"
SCALES = {"people": 0.05, "joins": 0.02, "rules": 0.01}


def questions(workload: str) -> Any:
    """(connection, [(name, query, inputs)]) of a workload, small."""
    made = import_module(f"{workload}.make").make(SCALES[workload])
    conn = d.connect(None, made.schema, sync=False)
    conn.load(made.columns)
    db = conn.db()
    asked = [(q.name, q.datalog, (db, *(() if q.rules is None else (q.rules,)), *q.inputs)) for q in made.queries]
    return conn, asked


def shape(plan: str) -> str:
    """A plan without its estimates."""
    return re.sub(r"  \[[^\[\]]*(rows|datoms|above)\]$", "", plan, flags=re.MULTILINE)


def written(workload: str) -> str:
    """The plans of a workload as they are written down."""
    conn, asked = questions(workload)
    with conn:
        return "\n".join(f"# {name}\n{shape(d.explain(query, *inputs))}\n" for name, query, inputs in asked)


@pytest.mark.parametrize("workload", SCALES)
def test_plans_are_those_written_down(workload: str) -> None:
    """A plan that changes is looked at by somebody: `python tests/test_plans.py` writes the files anew."""
    assert written(workload) == (FILES / f"{workload}.txt").read_text(encoding="utf-8")


def shuffled(query: Any, source: random.Random) -> Any:
    """A query with the clauses of its `:where` in another order."""
    form = list(d.read_edn(query) if isinstance(query, str) else query)
    at = [str(x) for x in form].index(":where") + 1
    end = next((i for i in range(at, len(form)) if isinstance(form[i], d.Keyword)), len(form))
    clauses = form[at:end]
    source.shuffle(clauses)
    return d.Vector([*form[:at], *clauses, *form[end:]])


def shuffled_rules(rules: str, source: random.Random) -> Any:
    """Rules with the clauses of each branch in another order."""

    def branch(form: Any) -> Any:
        body = list(form[1:])
        source.shuffle(body)
        return d.Vector([form[0], *body])

    return d.Vector(map(branch, d.read_edn(rules)))


@pytest.mark.parametrize("workload", SCALES)
def test_clause_order_changes_no_plan_of_the_benchmarks(workload: str) -> None:
    """The clauses of questions and of rules in any order have the same plan, estimates and all."""
    conn, asked = questions(workload)
    with conn:
        for name, query, inputs in asked:
            expected = d.explain(query, *inputs)
            for seed in range(4):
                source = random.Random(seed)
                other = [shuffled_rules(i, source) if isinstance(i, str) and i.startswith("[[(") else i for i in inputs]
                assert d.explain(shuffled(query, source), *other) == expected, name


def test_clause_order_changes_no_plan_of_the_cases() -> None:
    """The same for the queries of the case files that have a plan."""
    compared = 0
    kept: dict[str, Any] = {}

    def database(schema: Any, tx: Any) -> Any:
        key = repr((schema, tx))
        if key not in kept:
            kept[key] = d.connect(None, schema, sync=False)
            if tx:
                kept[key].transact(tx)
        return kept[key].db()

    for parameters in load_cases():
        fixture, case = parameters.values
        form = case.get("query")
        if "error" in case or form is None or isinstance(form, d.Map):
            continue
        query = form if isinstance(form, str) else d.write_edn(form)
        if ":where" not in query or not query.lstrip().startswith("["):
            continue
        inputs = inputs_of(case, database, fixture)
        try:
            expected = d.explain(query, *inputs)
        except DatalogError:
            continue
        for seed in range(1 + len(parameters.id) % 2):
            compared += 1
            assert d.explain(shuffled(query, random.Random(seed)), *inputs) == expected, parameters.id
    for conn in kept.values():
        conn.close()
    assert compared > 500


def test_wrong_estimates_are_shown() -> None:
    """Where a plan's estimate was off by ten or more, `explain` with `analyze` says so."""
    with d.connect(None, {":a": {":db/valueType": ":db.type/long"}, ":b": {":db/valueType": ":db.type/long"}}) as conn:
        conn.load(
            {
                ":a": (range(1, 5001), [i % 70 for i in range(5000)]),
                ":b": (range(1, 5001), [i % 70 for i in range(5000)]),
            }
        )
        # values that go together are estimated as if they did not
        text = conn.explain("[:find ?e ?f :where [?e :a ?x] [?e :b ?x] [?f :a 3] [?f :b ?x] [(= ?x 3)]]", analyze=True)
    assert re.search(r"~\d+ rows, [\d,]+ found  \(estimate off by more than ten\)", text), text


if __name__ == "__main__":
    for each in SCALES:
        (FILES / f"{each}.txt").write_text(written(each), encoding="utf-8")
