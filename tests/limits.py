"""Hostile queries against their limits: products, endless recursion, growing values, sorts, pulls, regular expressions.

    python tests/limits.py --timeout 0.5              time of each, by both engines, and how far over the limit
    python tests/limits.py --memory 64 --engine none  peak memory of each (tracemalloc, which numpy reports to)

prints a line for each shape. `test_limits.py` runs the same shapes with slack for noisy machines.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import datalog as d
from store.errors import DatalogError

ENTITIES = 200_000
SCHEMA = """{:n/num {:db/valueType :db.type/long} :n/str {:db/valueType :db.type/string}
             :n/ref {:db/valueType :db.type/ref :db/cardinality :db.cardinality/many}}"""
CLOSURE = "[[(t ?x ?y) [?x :n/ref ?y]] [(t ?x ?y) (t ?x ?z) (t ?z ?y)]]"
COUNT = "[[(c ?n) [(ground 0) ?n]] [(c ?n) (c ?m) [(inc ?m) ?n]]]"
DOUBLE = '[[(c ?n) [(ground "a") ?n]] [(c ?n) (c ?m) [(str ?m ?m) ?n]]]'
BETTER = "[[(c (max ?n)) [(ground 0) ?n]] [(c (max ?n)) (c ?m) [(max ?m 1) ?k] [(+ ?k 1) ?n]]]"
TEXT = "a" * 30_000


def doubled(function: str, times: int) -> str:
    """A query that applies a function of two arguments to its own result again and again."""
    clauses = " ".join(f"[({function} ?v{i} ?v{i}) ?v{i + 1}]" for i in range(times))
    return f"[:find ?z . :in ?v0 :where {clauses} [(identity ?v{times}) ?z]]"


def shapes(db: Any) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Name -> query and inputs."""
    three = (range(3000), range(3000), range(3000))
    strings = [f"s{i}" for i in range(2000)]
    return {
        "product": ("[:find ?x ?y ?z :in [?x ...] [?y ...] [?z ...]]", three),
        "product, counted": ("[:find (count ?x) . :with ?y ?z :in [?x ...] [?y ...] [?z ...]]", three),
        "product, filtered": ("[:find ?x ?y ?z :in [?x ...] [?y ...] [?z ...] :where [(< ?x ?y ?z)]]", three),
        "product, computed": ("[:find (sum ?z) . :in [?x ...] [?y ...] :where [(* ?x ?y) ?z]]", three[:2]),
        "product, strings": ("[:find ?z :in [?x ...] [?y ...] :where [(str ?x ?y) ?z]]", three[:2]),
        "product of patterns": ("[:find ?x ?y :where [?x :n/num] [?y :n/num]]", (db,)),
        "product in not": ("[:find ?x :in [?x ...] [?y ...] :where (not-join [?x ?y] [(+ ?x ?y) ?z] [(< ?z 5)])]", three[:2]),
        "self join": ("[:find ?x ?y :where [?x :n/num ?v] [?y :n/num ?v]]", (db,)),
        "self join, sorted": ("[:find ?x ?y :where [?x :n/num ?v] [?y :n/num ?v] :order-by [?y ?x]]", (db,)),
        "collections taken apart": ("[:find ?x ?z :in [?x ...] :where [(range 1000) [?y ...]] [(range 1000) [?z ...]]]", (range(1000),)),
        "closure": ("[:find ?x ?y :in $ % :where (t ?x ?y)]", (db, CLOSURE)),
        "endless count": ("[:find ?x :in % :where (c ?x)]", (COUNT,)),
        "endless strings": ("[:find ?x :in % :where (c ?x)]", (DOUBLE,)),
        "endless maximum": ("[:find ?x :in % :where (c ?x)]", (BETTER,)),
        "regular expression": ('[:find ?x :in $ ?t :where [(re-find "(a|aa)+b" ?t) ?x]]', (db, "a" * 3_000_000)),
        "many regular expressions": ('[:find ?x :where [_ :n/str ?s] [(re-seq "(s|1|2)*(3|4|.)*" ?s) ?x]]', (db,)),
        "replace": ('[:find (count ?x) . :in ?a ?b :where [(replace ?a "a" ?b) ?x]]', (TEXT, TEXT)),
        "replace by pattern": ('[:find (count ?x) . :in ?a ?b :where [(re-pattern "a") ?p] [(replace ?a ?p ?b) ?x]]', (TEXT, TEXT)),
        "join of strings": ("[:find (count ?x) . :in ?a :where [(range 1000000) ?r] [(join ?a ?r) ?x]]", (TEXT,)),
        "long str": (f"[:find (count ?x) . :in ?a :where [(str {'?a ' * 20_000}) ?x]]", (TEXT,)),
        "split": ('[:find (count ?x) . :in ?t :where [(split ?t "") ?x]]', ("a" * 3_000_000,)),
        "vectors doubled": (doubled("vector", 60), (1,)),
        "integers squared": (doubled("*", 60), (10**30,)),
        "sort of strings": ("[:find ?x ?y :in [?x ...] [?y ...] :order-by [?y]]", (strings, strings)),
        "sets": ("[:find ?x (distinct ?y) :in [?x ...] [?y ...]]", (strings, strings)),
        "medians": ("[:find ?x (median ?y) :in [?x ...] [?y ...]]", three[:2]),
        "callable": ("[:find ?x ?y :in ?f [?x ...] [?y ...] :where [(?f ?x ?y)]]", (lambda a, b: a + b, *three[:2])),
        "pull along references": ("[:find (pull ?x [:n/num :n/str {:n/ref ...}]) :where [?x :n/num 1]]", (db,)),
        "pull of everything": ("[:find (pull ?x [*]) :where [?x :n/num]]", (db,)),
    }  # fmt: skip


def database() -> Any:
    """A connection to a graph of 200,000 entities, each with a number, a string and a reference."""
    conn = d.connect(None, SCHEMA, sync=False)
    eids = np.arange(1, ENTITIES + 1)
    refs = (eids * 7919) % ENTITIES + 1
    conn.load(
        {":n/num": (eids, eids % 1000), ":n/str": (eids, [f"s{i}" for i in range(ENTITIES)]), ":n/ref": (eids, refs)}
    )
    return conn


def run(query: str, inputs: tuple[Any, ...], limits: d.Limits, engine: str | None) -> tuple[float, str]:
    """(seconds, "answer" or the code of the error) of one query."""
    started = time.perf_counter()
    try:
        d.q(query, *inputs, limits=limits, engine=engine)
        outcome = "answer"
    except DatalogError as error:
        outcome = error.code
    return time.perf_counter() - started, outcome


def peak(query: str, inputs: tuple[Any, ...], limits: d.Limits, engine: str | None) -> tuple[int, str]:
    """(bytes at the peak above what was there before, outcome) of one query; tracemalloc must run."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    outcome = run(query, inputs, limits, engine)[1]
    return tracemalloc.get_traced_memory()[1] - before, outcome


def main() -> None:
    """Print what each shape took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=0.5)
    parser.add_argument("--memory", type=int, default=0, help="MiB; measure memory instead of time")
    parser.add_argument("--engine", choices=["both", "none", "naive"], default="both")
    options = parser.parse_args()
    memory = options.memory << 20
    worst = 0.0
    with database() as conn:
        if memory:
            tracemalloc.start()
        for name, (query, inputs) in shapes(conn.db()).items():
            for engine in {"both": (None, "naive"), "none": (None,), "naive": ("naive",)}[options.engine]:
                if memory:
                    limits = d.Limits(timeout_s=max(options.timeout, 5.0), memory_bytes=memory)
                    found, outcome = peak(query, inputs, limits, engine)
                    over = found / memory - 1
                    print(f"{name:26} {engine or 'engine':7} {found >> 20:5} MiB {over:+7.0%}  {outcome}", flush=True)
                else:
                    limits = d.Limits(timeout_s=options.timeout, memory_bytes=256 << 20)
                    seconds, outcome = run(query, inputs, limits, engine)
                    over = seconds - options.timeout
                    print(f"{name:26} {engine or 'engine':7} {seconds:6.2f} s {over:+6.2f}  {outcome}", flush=True)
                worst = max(worst, over)
    print(f"worst: {worst:+.2f}")


if __name__ == "__main__":
    main()
