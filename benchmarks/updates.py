"""Queries between small transactions: what a query costs after one datom of another attribute, or of its own, has changed.

    python benchmarks/updates.py [--scale 1] [--repeats 15]

For each question of *people* and *joins*, medians of: the warm query; the query right after a one-datom transaction that touches
an attribute which it does not ask for; the same for one that it does ask for. Every answer is compared with the warm one
(the transactions change nothing that the questions see, save where they must). Then ten readers hold snapshots of
different transactions while a writer goes on, and each must go on seeing its own state.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent))

from joins.make import make as make_joins
from people.make import make as make_people

import datalog as d

# an attribute that the question asks for, a fresh entity that has it with a value that no question selects
OWN: dict[str, list[tuple[str, Any]]] = {
    "people": [(":salary", 0), (":name", "Nobody"), (":age", 1)],
    "joins": [(":credit/role", "extra"), (":movie/rating", 1.0), (":person/born", 2000)],
}


def seconds(f: Any) -> tuple[float, Any]:
    """Time and answer of a call."""
    started = time.perf_counter()
    found = f()
    return time.perf_counter() - started, found


def measure(workload: Any, repeats: int) -> list[tuple[str, float, float, float]]:
    """(question, warm, after another attribute, after its own) in seconds, medians."""
    conn = d.connect(None, {**workload.schema, ":other": {":db/valueType": ":db.type/long"}})
    conn.load(workload.columns)
    rows = []
    fresh = 1 << 39
    for query in workload.queries:
        rules = () if query.rules is None else (query.rules,)

        def ask(query: Any = query, rules: Any = rules) -> Any:
            return list(conn.q(query.datalog, *rules, *query.inputs))

        expected = sorted(map(repr, ask()))
        times: dict[str, list[float]] = {"warm": [], "other": [], "own": []}
        own = [(a, v) for a, v in OWN[workload.name] if a in query.datalog]
        for i in range(repeats):
            ask()
            times["warm"].append(seconds(ask)[0])
            conn.transact([[":db/add", fresh, ":other", i]])
            spent, found = seconds(ask)
            times["other"].append(spent)
            assert sorted(map(repr, found)) == expected, query.name
            for attribute, value in own[:1]:
                fresh += 1
                conn.transact([[":db/add", fresh, attribute, value]])
                spent, found = seconds(ask)
                times["own"].append(spent)
                conn.transact([[":db/retract", fresh, attribute, value]])
                assert abs(len(found) - len(expected)) <= 1, query.name
        rows.append((query.name, *(statistics.median(t) if t else float("nan") for t in times.values())))
    hold_snapshots(conn)
    conn.close()
    return rows


def hold_snapshots(conn: Any) -> None:
    """Ten snapshots taken while a writer goes on: each goes on seeing its own state."""
    held = []
    for i in range(10):
        held.append((i, conn.db()))
        for j in range(200):
            conn.transact([{":other": i * 1000 + j}])
    before = held[0][1].q("[:find (count ?e) . :where [?e :other]]") or 0
    for i, db in held:
        assert db.q("[:find (count ?e) . :where [?e :other]]") == before + 200 * i


def main() -> None:
    """Prints a table for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    for make in (make_people, make_joins):
        workload = make(arguments.scale)
        print(f"\n{workload.name}: {'':22} warm ms   other   own attribute (times the warm query)")
        for name, warm, other, own in measure(workload, arguments.repeats):
            print(f"  {name:30} {warm * 1e3:8.2f} {other / warm:7.2f} {own / warm:7.2f}")


if __name__ == "__main__":
    main()
