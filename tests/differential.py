"""Random data and queries: the engine and the reference evaluator must give the same answers.

    python tests/differential.py --count 100000 --seed 1

prints how many queries were compared, how many had answers, recursion, negation, and every disagreement with the seed that
makes it again. The generator is seeded and draws nothing from anywhere else.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datalog as d
from store.edn import Vector, strict_key
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
 [(either ?a ?b) (or-join [?a ?b] [?a :n/ref ?b] (and [?a :n/up ?c] (either ?c ?b)))]
]"""
ARITY = {
    "reach": 2, "back": 2, "twice": 2, "kin": 2, "odd": 2, "even": 2, "big": 1, "plain": 2, "far": 2, "steps": 3, "either": 2,
}  # fmt: skip
RECURSIVE = {"reach", "back", "twice", "kin", "odd", "even", "far", "steps", "down", "either"}
ENTITIES = ["?e", "?f", "?g"]
PLAIN = ["?x", "?y", "?z"]
# codes that say the query itself is wrong, which the reference evaluator does not look for
STATIC = {
    "query/unbound-variable",
    "query/insufficient-binding",
    "query/or-variables",
    "query/wrong-type",
    "query/syntax",
}


class Generator:
    """Random data and queries from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.values: list[Any] = []
        self.features: set[str] = set()

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
                    many = attribute in (":n/tag", ":n/ref", ":n/any")
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
                v = self.pick([*PLAIN, *PLAIN, *PLAIN, "_", self.pick(VALUES[attribute])])
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
        if name in ("plain", "steps"):
            arguments[-1] = self.pick([*PLAIN, "1", "2"])
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
            if r < 0.5 or not clauses:
                made = self.pattern(depth) if self.random.random() < 0.85 else self.rule()
            elif r < 0.62:
                text = self.predicate(bound)
                made = None if text is None else (text, set())
            elif r < 0.72:
                made = self.function(bound)
            elif r < 0.8 and depth < 2:
                made = self.negation(bound, depth)
            elif r < 0.9 and depth < 2:
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
        if self.random.random() < 0.4 and bound:
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
        clauses, bound = self.body(given, 0, 5)
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
        text = " ".join(find)
        if self.random.random() < 0.15:
            self.features.add("aggregate")
            which = self.pick(["count", "count-distinct", "min", "max", "distinct"])
            text = " ".join([*find[1:], f"({which} {find[0]})"])
        more = ""
        if self.random.random() < 0.15:
            self.features.add("order")
            more = f" :order-by [{self.pick(find)} {self.pick([':asc', ':desc'])}]" if "(" not in text else ""
        return f"[:find {text} :in $ % {inputs}{more} :where {' '.join(clauses)}]"

    def inputs(self) -> tuple[str, set[str]]:
        """Bindings for more inputs, whose values are kept in `self.values`, and their variables."""
        self.values = []
        forms: list[str] = []
        bound: set[str] = set()
        while self.random.random() < 0.3 and len(forms) < 3:
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
        found = d.q(query, db, RULES, *(inputs or ()), engine=engine, limits=d.Limits(timeout_s=4))
    except DatalogError as error:
        return "error", error.code
    except Exception as error:  # noqa: BLE001 - a disagreement of the worst kind: the text says which query
        return "crash", repr(error)
    return "rows", frozenset(Counter(strict_key(Vector(map(canonical, r))) for r in found).items())


def compare(seed: int, queries: int, counts: Counter[str]) -> list[str]:
    """Disagreements of one database's queries, as texts."""
    generator = Generator(seed)
    tx = generator.transaction()
    found = []
    with d.connect(None, SCHEMA, sync=False) as conn:
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
                    f"seed {seed}\n  {query}\n  inputs {inputs}\n  tx {tx}\n  engine {kind} {mine}\n  naive  {other_kind} {other}"
                )
    return found


def main() -> int:
    """Run many and print what was found; exit code 1 on a disagreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, default=3, help="disagreements after which to stop")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    found: list[str] = []
    started = time.perf_counter()
    seed = options.seed
    while counts["made"] < options.count and len(found) < options.stop:
        found += compare(seed, 40, counts)
        seed += 1
    print(f"{time.perf_counter() - started:.1f} s, seeds {options.seed} to {seed - 1}")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    for text in found:
        print(text)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
