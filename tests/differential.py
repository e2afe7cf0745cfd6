"""Random data and queries: the engine and the reference evaluator must give the same answers.

    python tests/differential.py --count 100000 --seed 1 --jobs 2

prints how many queries were compared, how many had answers, recursion, negation, and every disagreement with the seed that
makes it again. The generator is seeded and draws nothing from anywhere else.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datalog as d
from store.edn import Vector, read_edn, strict_key
from store.errors import DatalogError
from store.value import canonical

SCHEMA = """{
 :n/str {:db/valueType :db.type/string}
 :n/num {:db/valueType :db.type/long}
 :n/dbl {:db/valueType :db.type/double}
 :n/tag {:db/valueType :db.type/keyword :db/cardinality :db.cardinality/many}
 :n/ref {:db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 :n/up {:db/valueType :db.type/ref}
 :n/flag {:db/valueType :db.type/boolean}
 :n/uid {:db/valueType :db.type/string :db/unique :db.unique/identity}
 :n/inst {:db/valueType :db.type/instant}
 :n/uuid {:db/valueType :db.type/uuid}
 :n/big {:db/valueType :db.type/bigint}
 :n/dec {:db/valueType :db.type/bigdec}
 :n/tup {:db/tupleTypes [:db.type/long :db.type/string]}
 :n/any {:db/cardinality :db.cardinality/many}}"""
VALUES: dict[str, list[str]] = {
    ":n/str": ['"a"', '"b"', '"ab"', '""'],
    ":n/num": ["0", "1", "2", "3", "-1", "9223372036854775807"],
    ":n/dbl": ["0.0", "1.0", "2.5", "-1.5"],
    ":n/tag": [":t/a", ":t/b", ":c"],
    ":n/ref": ["1", "2", "3", "4", "5", "6"],
    ":n/up": ["1", "2", "3", "4", "5", "6"],
    ":n/flag": ["true", "false"],
    ":n/uid": ['"u1"', '"u2"', '"u3"'],
    ":n/inst": ['#inst "2020-01-01T00:00:00Z"', '#inst "1969-12-31T23:59:59Z"'],
    ":n/uuid": ['#uuid "00000000-0000-0000-0000-000000000001"', '#uuid "ffffffff-0000-0000-0000-000000000001"'],
    ":n/big": ["1", "99999999999999999999", "-99999999999999999999"],
    ":n/dec": ["1M", "1.0M", "2.5M", "-3M"],
    ":n/tup": ['[1 "a"]', '[-1 "a"]', '[2 ""]'],
    ":n/any": ["1", "1.0", "true", '"a"', ":c", "2", "[1 2]", "1M"],
}
RULES = """[
 [(reach ?a ?b) [?a :n/ref ?b]]
 [(reach ?a ?b) [?a :n/ref ?c] (reach ?c ?b)]
 [(back ?a ?b) [?a :n/ref ?b]]
 [(back ?a ?b) (back ?a ?c) [?c :n/ref ?b]]
 [(twice ?a ?b) [?a :n/up ?b]]
 [(twice ?a ?b) (twice ?a ?c) (twice ?c ?b)]
 [(kin ?a ?b) [?a :n/up ?p] [?b :n/up ?p]]
 [(kin ?a ?b) [?a :n/up ?p] (kin ?p ?q) [?b :n/up ?q]]
 [(odd ?a ?b) [?a :n/ref ?b]]
 [(odd ?a ?b) [?a :n/ref ?c] (even ?c ?b)]
 [(even ?a ?b) [?a :n/ref ?c] (odd ?c ?b)]
 [(big ?e) [?e :n/num ?n] [(> ?n 0)]]
 [(big ?e) [?e :n/dbl ?n] [(> ?n 1.0)]]
 [(plain ?e ?v) [?e :n/num ?v] (not [?e :n/tag :c])]
 [(far ?a ?b) (reach ?a ?b) (not [?a :n/ref ?b])]
 [(steps ?a ?b ?n) [?a :n/up ?b] [(ground 1) ?n]]
 [(steps ?a ?b ?n) [?a :n/up ?c] (steps ?c ?b ?m) [(< ?m 4)] [(+ ?m 1) ?n]]
 [(down [?n] ?m) [(identity ?n) ?m]]
 [(down [?n] ?m) [(> ?n 0)] [(< ?n 9)] [(dec ?n) ?k] (down ?k ?m)]
 [(hops ?a ?b (min ?d)) [?a :n/ref ?b] [(ground 1) ?d]]
 [(hops ?a ?b (min ?d)) (hops ?a ?c ?n) [?c :n/ref ?b] [(inc ?n) ?d]]
 [(cost ?a ?b (min ?d)) [?a :n/ref ?b] [?a :n/num ?d] [(<= 0 ?d 9)]]
 [(cost ?a ?b (min ?d)) [?a :n/ref ?c] [?a :n/num ?m] [(<= 0 ?m 9)] (cost ?c ?b ?n) [(+ ?m ?n) ?d]]
 [(top ?a (max ?v)) [?a :n/any ?v]]
 [(top ?a (max ?v)) [?a :n/up ?b] (top ?b ?v)]
 [(wide ?a ?b (max ?w)) [?a :n/ref ?b] [?a :n/dbl ?w]]
 [(wide ?a ?b (max ?w)) (wide ?a ?c ?u) (wide ?c ?b ?v) [(min ?u ?v) ?w]]
 [(least ?a (min ?v)) [?a :n/num ?v]]
 [(either ?a ?b) (or-join [?a ?b] [?a :n/ref ?b] (and [?a :n/up ?c] (either ?c ?b)))]
]"""
BEST = {"hops", "cost", "top", "wide", "least"}
ARITY = {
    "hops": 3, "cost": 3, "top": 2, "wide": 3, "least": 2,
    "reach": 2, "back": 2, "twice": 2, "kin": 2, "odd": 2, "even": 2, "big": 1, "plain": 2, "far": 2, "steps": 3, "either": 2,
}  # fmt: skip
RECURSIVE = {
    "hops",
    "cost",
    "top",
    "wide",
    "reach",
    "back",
    "twice",
    "kin",
    "odd",
    "even",
    "far",
    "steps",
    "down",
    "either",
}
ENTITIES = ["?e", "?f", "?g"]
PLAIN = ["?x", "?y", "?z"]
# a variable for each type, so that joins on values find some
TYPED = {
    ":n/str": "?s",
    ":n/uid": "?s",
    ":n/num": "?n",
    ":n/dbl": "?r",
    ":n/tag": "?k",
    ":n/any": "?v",
    ":n/flag": "?b",
}
# codes that say the query itself is wrong, which the reference evaluator does not look for
STATIC = {
    "query/unbound-variable",
    "query/insufficient-binding",
    "query/or-variables",
    "query/wrong-type",
    "query/syntax",
}


_RULE_FORMS = read_edn(RULES)


class Generator:
    """Random data and queries from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.values: list[Any] = []
        self.features: set[str] = set()
        self.many = {":n/tag", ":n/ref", ":n/any"}

    def schema(self) -> str:
        """The schema, with the cardinality and index of some attributes left to chance."""
        text = SCHEMA
        self.many = {":n/tag", ":n/ref", ":n/any"}
        for attribute in (":n/str", ":n/dbl", ":n/inst", ":n/dec", ":n/big", ":n/tup"):
            if self.random.random() < 0.3:
                self.many.add(attribute)
                text = text.replace(f" {attribute} {{", f" {attribute} {{:db/cardinality :db.cardinality/many ")
            if self.random.random() < 0.2:
                text = text.replace(f" {attribute} {{", f" {attribute} {{:db/index false ")
        return text

    def transaction(self) -> str:
        """Datoms of up to eight entities."""
        ops = []
        for eid in range(1, self.random.randint(4, 8)):
            for attribute, values in VALUES.items():
                if attribute == ":n/uid":
                    if eid <= 3 and self.random.random() < 0.5:
                        ops.append(f"[:db/add {eid} :n/uid {values[eid - 1]}]")
                    continue
                if self.random.random() < 0.8:
                    many = attribute in self.many
                    chosen = self.random.sample(values, self.random.randint(1, 2) if many else 1)
                    ops += [f"[:db/add {eid} {attribute} {value}]" for value in chosen]
        return f"[{' '.join(ops)}]"

    def pick(self, items: list[str]) -> str:
        """One of them."""
        return self.random.choice(items)

    def pattern(self, depth: int) -> tuple[str, set[str]]:
        """A pattern, and the variables it binds."""
        r = self.random.random()
        e = self.pick([*ENTITIES, *ENTITIES, "_", "1", "2", '[:n/uid "u1"]'])
        if r < 0.08:
            terms = [e, self.pick(["?a", "?a", "_"]), self.pick([*PLAIN, "_", "1", ":c"])]
            self.features.add("attribute variable")
        else:
            attribute = self.pick(list(VALUES))
            if attribute in (":n/ref", ":n/up"):
                v = self.pick([*ENTITIES, *ENTITIES, "_", "2", '[:n/uid "u2"]', e])
            else:
                typed = TYPED.get(attribute, "?o")
                v = self.pick([*PLAIN, typed, typed, typed, typed, "_", "_", self.pick(VALUES[attribute])])
            terms = [e, attribute, v]
        if self.random.random() < 0.1:
            terms.append(self.pick(["_", "?t"]))
        if self.random.random() < 0.04:
            terms = terms[:2]
        del depth
        return f"[{' '.join(terms)}]", {t for t in terms if t.startswith("?")}

    def predicate(self, bound: set[str]) -> str | None:
        """A predicate over bound variables."""
        names = sorted(bound)
        if not names:
            return None
        op = self.pick(["<", ">", "<=", ">=", "=", "not=", "==", "!="])
        left = self.pick(names)
        right = self.pick([*names, "1", "0", "2.5", '"a"', ":c", "true"])
        if self.random.random() < 0.3:
            left, right = right, left
        if self.random.random() < 0.1:
            return f"[({op} {left} {right} {self.pick(names)})]"
        if self.random.random() < 0.1:
            return f"[({self.pick(['string?', 'number?', 'keyword?', 'true?', 'integer?'])} {self.pick(names)})]"
        if self.random.random() < 0.1:
            return f'[(in {left} [1 "a" :c 2])]'
        return f"[({op} {left} {right})]"

    def function(self, bound: set[str]) -> tuple[str, set[str]] | None:
        """A function clause, and the variables it binds."""
        names = sorted(bound)
        if not names:
            return None
        x, new = self.pick(names), self.pick([*PLAIN, "?w"])
        e = self.pick([n for n in names if n in ENTITIES] or names)
        call, binding = self.random.choice(
            [
                (f"(str {x})", new),
                (f"(identity {x})", new),
                (f"(tuple {x} 1)", f"[{new} _]"),
                (f"(vector {x} {x})", f"[{new} ...]"),
                ('(ground [1 2 "a"])', f"[{new} ...]"),
                ("(ground [[1 2] [2 3]])", f"[[{new} ?u]]"),
                (f"(get-else $ {e} :n/num 0)", new),
                (f'(get-else $ {e} :n/str "none")', new),
                (f"(get-some $ {e} :n/num :n/str)", f"[?b {new}]"),
                (f"(type {x})", new),
                (f"(count (str {x}))", new),
            ]
        )
        return f"[{call} {binding}]", {v for v in binding.replace("[", " ").replace("]", " ").split() if v[0] == "?"}

    def rule(self, source: str = "") -> tuple[str, set[str]]:
        """A rule call, and the variables it binds."""
        name = self.pick(list(ARITY))
        arguments = [self.pick([*ENTITIES, *ENTITIES, "1", "2", "_"]) for _ in range(ARITY[name])]
        if name in ("plain", "steps") or name in BEST:
            arguments[-1] = self.pick(["?n", "?n", "?n", *PLAIN, "1", "2"])
        if name in BEST:
            self.features.add("best")
        self.features.add("rule")
        if name in RECURSIVE:
            self.features.add("recursion")
        if name in ("plain", "far"):
            self.features.add("negation")
        return f"({source}{name} {' '.join(arguments)})", {a for a in arguments if a.startswith("?")}

    def body(self, bound: set[str], depth: int, most: int) -> tuple[list[str], set[str]]:
        """Clauses, and all variables bound after them."""
        clauses: list[str] = []
        bound = set(bound)
        for _ in range(self.random.randint(1, most)):
            r = self.random.random()
            made: tuple[str, set[str]] | None
            if r < 0.46 or not clauses:
                made = self.pattern(depth) if self.random.random() < 0.85 else self.rule()
            elif r < 0.57:
                text = self.predicate(bound)
                made = None if text is None else (text, set())
            elif r < 0.65:
                made = self.function(bound)
            elif r < 0.84 and depth < 2:
                made = self.negation(bound, depth)
            elif r < 0.93 and depth < 2:
                made = self.disjunction(bound, depth)
            else:
                made = self.rule()
            if made is not None:
                clauses.append(made[0])
                bound |= made[1]
        return clauses, bound

    def negation(self, bound: set[str], depth: int) -> tuple[str, set[str]]:
        """A not or not-join."""
        self.features.add("negation")
        clauses, _ = self.body(bound, depth + 1, 2)
        if self.random.random() < 0.5 and bound:
            join = self.random.sample(sorted(bound), min(len(bound), self.random.randint(1, 2)))
            inner, found = self.body(set(), depth + 1, 2)
            if found & set(join):
                return f"(not-join [{' '.join(join)}] {' '.join(inner)})", set()
        return f"(not {' '.join(clauses)})", set()

    def disjunction(self, bound: set[str], depth: int) -> tuple[str, set[str]]:
        """An or or or-join, and the variables it binds."""
        self.features.add("disjunction")
        join = sorted({self.pick([*sorted(bound), *ENTITIES]), self.pick([*ENTITIES, *PLAIN])})
        branches = []
        for _ in range(self.random.randint(2, 3)):
            clauses, _ = self.body(set(), depth + 1, 2)
            branches.append(clauses[0] if len(clauses) == 1 else f"(and {' '.join(clauses)})")
        if self.random.random() < 0.3:
            e, attribute = self.pick(ENTITIES), self.pick([":n/num", ":n/str", ":n/dbl"])
            other = self.pick([":n/num", ":n/any", ":n/tag"])
            x = self.pick(PLAIN)
            return f"(or [{e} {attribute} {x}] [{e} {other} {x}])", {e, x}
        return f"(or-join [{' '.join(join)}] {' '.join(branches)})", set(join)

    def query(self) -> str:
        """A query over $ and %."""
        inputs, given = self.inputs()
        clauses, bound = self.body(given, 0, 4)
        if self.random.random() < 0.05:
            n = self.pick(PLAIN)
            clauses += [f"[(ground {self.random.randint(0, 4)}) {n}]", f"(down {n} ?m)"]
            bound |= {n, "?m"}
            self.features.add("recursion")
        self.random.shuffle(clauses)
        names = sorted(bound)
        find = self.random.sample(names, min(len(names), self.random.randint(1, 3))) if names else []
        if not find:
            return ""
        text, more = self.find(find, names)
        return f"[:find {text} :in $ % {inputs}{more} :where {' '.join(clauses)}]"

    def find(self, find: list[str], names: list[str]) -> tuple[str, str]:
        """The find spec, and sections that go with it."""
        text = " ".join(find)
        r = self.random.random()
        if r < 0.18:
            self.features.add("aggregate")
            which = self.pick(
                [
                    "count",
                    "count-distinct",
                    "min",
                    "max",
                    "distinct",
                    "sum",
                    "avg",
                    "median",
                    "variance",
                    "min 2",
                    "max 2",
                ]
            )
            aggregate = f"({which} {find[0]})"
            if self.random.random() < 0.2:
                aggregate = f"(str (count {find[0]}) {aggregate})"
            more = f" :with {self.pick(names)}" if self.random.random() < 0.3 else ""
            if self.random.random() < 0.2:
                more += f" :having [(> (count {find[0]}) 1)]"
            return " ".join([*find[1:], aggregate]), more
        if r < 0.3:
            self.features.add("order")
            keys = " ".join(f"{v} {self.pick([':asc', ':desc', ''])}" for v in find)
            more = f" :order-by [{keys}]"
            if self.random.random() < 0.5:
                more += f" :limit {self.random.randint(0, 4)} :offset {self.random.randint(0, 2)}"
            return text, more
        if r < 0.36:
            return f"[{find[0]} ...]", ""
        if r < 0.4:
            return text, f" :with {self.pick(names)}"
        if r < 0.44:
            return f"{text} (str {find[0]})", ""
        return text, ""

    def inputs(self) -> tuple[str, set[str]]:
        """Bindings for more inputs, whose values are kept in `self.values`, and their variables."""
        self.values = []
        forms: list[str] = []
        bound: set[str] = set()
        while self.random.random() < 0.2 and len(forms) < 3:
            e, x = self.pick(ENTITIES), self.pick(PLAIN)
            entities = [1, 2, 3, 5, 99, d.Vector([d.kw("n/uid"), "u1"])]
            plain = [0, 1, 1.0, "a", "", d.kw("c"), True, None, 2.5, d.Vector([1, 2]), Decimal(1)]
            sort = self.random.randint(0, 4)
            if sort == 0 and x not in bound:
                forms.append(x)
                self.values.append(self.random.choice(plain))
                bound.add(x)
            elif sort == 1 and e not in bound:
                forms.append(e)
                self.values.append(self.random.choice(entities))
                bound.add(e)
            elif sort == 2:
                forms.append(f"[{e} ...]")
                self.values.append(self.random.sample(entities, 3))
                bound.add(e)
            elif sort == 3:
                forms.append(f"[{x} ...]")
                self.values.append(self.random.sample(plain, 4))
                bound.add(x)
            elif sort == 4:
                forms.append(f"[[{e} {x}]]")
                self.values.append([(self.random.choice(entities[:5]), self.random.choice(plain)) for _ in range(4)])
                bound |= {e, x}
        if forms:
            self.features.add("inputs")
        return " ".join(forms), bound


def outcome(query: str, db: Any, engine: str | None, inputs: list[Any] | None = None) -> tuple[str, Any]:
    """("rows", comparable answer) or ("error", code)."""
    try:
        rules = _RULE_FORMS if engine == "naive" else RULES  # read once: the reference evaluator keeps nothing
        found = d.q(query, db, rules, *(inputs or ()), engine=engine, limits=d.Limits(timeout_s=4))
    except DatalogError as error:
        return "error", error.code
    except Exception as error:  # noqa: BLE001 - a disagreement of the worst kind: the text says which query
        return "crash", repr(error)
    rows = [(v,) for v in found] if isinstance(found, list) else found
    return "rows", frozenset(Counter(strict_key(Vector(map(canonical, r))) for r in rows).items())


def compare(seed: int, queries: int, counts: Counter[str]) -> list[str]:
    """Disagreements of one database's queries, as texts."""
    generator = Generator(seed)
    schema = generator.schema()
    tx = generator.transaction()
    found = []
    with d.connect(None, schema, sync=False) as conn:
        conn.transact(tx)
        db = conn.db()
        for _ in range(queries):
            generator.features = set()
            query = generator.query()
            if not query:
                continue
            counts["made"] += 1
            inputs = list(generator.values)
            kind, mine = outcome(query, db, None, inputs)
            if kind == "error" and mine in STATIC:
                counts["refused"] += 1
                continue
            other_kind, other = outcome(query, db, "naive", inputs)
            if "error" in (kind, other_kind) and "query/function-failed" in (mine, other):
                counts["failed functions"] += 1
                continue
            if "query/timeout" in (mine, other):
                counts[f"timeouts {'engine' if mine == 'query/timeout' else 'naive'}"] += 1
                continue
            counts["compared"] += 1
            counts["with answers"] += kind == "rows" and bool(mine)
            for feature in generator.features:
                counts[feature] += 1
            if (kind, mine) != (other_kind, other):
                found.append(
                    f"seed {seed}\n  {query}\n  schema {schema}\n  inputs {inputs}\n  tx {tx}\n  engine {kind} {mine}\n  naive  {other_kind} {other}"
                )
    return found


def _counted(seed: int) -> tuple[int, list[str], Counter[str]]:
    """(seed, disagreements, counts) of one database's queries."""
    counts: Counter[str] = Counter()
    return seed, compare(seed, 40, counts), counts


def runs(first: int, jobs: int) -> Iterator[tuple[int, list[str], Counter[str]]]:
    """One database after the other, in as many processes as asked for."""
    if jobs == 1:
        yield from map(_counted, itertools.count(first))
        return
    with ProcessPoolExecutor(jobs) as pool:
        pending = {pool.submit(_counted, first + i) for i in range(2 * jobs)}
        following = first + len(pending)
        while True:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                pending.add(pool.submit(_counted, following))
                following += 1
                yield future.result()


def main() -> int:
    """Run many and print what was found; exit code 1 on a disagreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="queries to compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", type=int, default=3, help="disagreements after which to stop")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    found: list[str] = []
    started = time.perf_counter()
    last = options.seed
    for seed, disagreements, more in runs(options.seed, options.jobs):
        counts += more
        found += disagreements
        last = max(last, seed)
        if disagreements:
            print("\n".join(disagreements), flush=True)
        if counts["compared"] >= options.count or len(found) >= options.stop:
            break
    print(f"{time.perf_counter() - started:.1f} s, seeds {options.seed} to {last}")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    print(f"disagreements: {len(found)}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
