"""Queries between small transactions: what a query costs after one datom of another attribute, or of its own, has changed.

    python benchmarks/updates.py [--scale 1] [--repeats 15]

For each question of *people* and *joins*, medians of: the warm query; the query right after a one-datom transaction that touches
an attribute which it does not ask for; the same for each attribute that it does ask for, of which the slowest is shown.
Every answer is compared with the warm one (the transactions change nothing that the questions see, save where they must).
Then ten readers hold snapshots of different transactions while a writer goes on, and each must go on seeing its own state.
"""

from __future__ import annotations

import argparse
import re
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

# values for a fresh entity with one attribute, such that no question of several patterns selects it
OWN: dict[str, dict[str, Any]] = {
    "people": {":salary": 0, ":name": "Nobody", ":age": 1, ":last-name": "Nobody", ":sex": ":sex/none"},
    "joins": {
        ":credit/role": "extra", ":credit/movie": 1, ":credit/person": 1, ":movie/rating": 1.0, ":movie/year": 1800,
        ":movie/kind": "none", ":movie/votes": 0, ":movie/title": "Nothing", ":movie/genre": 1, ":movie/company": 1,
        ":person/born": 2000, ":person/name": "Nobody", ":company/country": "none", ":company/name": "None",
        ":genre/name": "none",
    },
}  # fmt: skip


def seconds(f: Any) -> tuple[float, Any]:
    """Time and answer of a call."""
    started = time.perf_counter()
    found = f()
    return time.perf_counter() - started, found


def measure(workload: Any, repeats: int) -> list[tuple[str, float, float, float, str]]:
    """(question, warm, after another attribute, after its own, which) in seconds, medians."""
    conn = d.connect(None, {**workload.schema, ":other": {":db/valueType": ":db.type/long"}})
    conn.load(workload.columns)
    rows = []
    fresh = 1 << 39
    for query in workload.queries:
        rules = () if query.rules is None else (query.rules,)

        def ask(query: Any = query, rules: Any = rules) -> Any:
            return list(conn.q(query.datalog, *rules, *query.inputs))

        expected = sorted(map(repr, ask()))
        own = [a for a in OWN[workload.name] if re.search(rf"{a}(?![\w-])", query.datalog)]
        warm, other = [], []
        after: dict[str, list[float]] = {a: [] for a in own}
        for i in range(repeats):
            ask()
            warm.append(seconds(ask)[0])
            conn.transact([[":db/add", fresh, ":other", i]])
            spent, found = seconds(ask)
            other.append(spent)
            assert sorted(map(repr, found)) == expected, query.name
            for attribute in own:
                fresh += 1
                datom = [fresh, attribute, OWN[workload.name][attribute]]
                conn.transact([[":db/add", *datom]])
                spent, found = seconds(ask)
                after[attribute].append(spent)
                conn.transact([[":db/retract", *datom]])
                assert abs(len(found) - len(expected)) <= 1, query.name
                assert sorted(map(repr, ask())) == expected, query.name
        slowest, which = max((statistics.median(times), a) for a, times in after.items())
        rows.append((query.name, statistics.median(warm), statistics.median(other), slowest, which))
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
        for name, warm, other, own, which in measure(workload, arguments.repeats):
            print(f"  {name:30} {warm * 1e3:8.2f} {other / warm:7.2f} {own / warm:7.2f} {which}")


if __name__ == "__main__":
    main()
