"""Broken and hostile query texts under an audit hook: each gets an answer or an error of ours, nothing else happens.

    python tests/hostile.py --count 10000 --seed 11

Every text runs with `Limits.untrusted()` and with names that try to get out of the language. After the first texts, which
load what is imported when first needed, any import, file, socket, process or code event of the interpreter is a fault.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from differential import RULES, SCHEMA, Generator

import datalog as d
from store.edn import read_all
from store.errors import DatalogError

WATCHED = (
    "import",
    "open",
    "socket",
    "subprocess",
    "os",
    "exec",
    "compile",
    "ctypes",
    "shutil",
    "pty",
    "marshal",
    "pickle",
    "tempfile",
    "urllib",
    "code",
)
# names that other languages, or a careless implementation, would follow
HOSTILE = [
    '[(__import__ "os") ?x]', '[(eval "1") ?x]', '[(exec "import os") ?x]', '[(open "/etc/passwd") ?x]', '[(slurp "/etc/passwd") ?x]',
    '[(clojure.core/slurp "/etc/passwd") ?x]', '[(clojure.java.shell/sh "id") ?x]', "[(.getClass ?e) ?x]", "[(System/exit 1)]", "[(os.system ?e)]",
    "[(java.lang.Runtime/getRuntime) ?x]", "[(str.__class__ ?e) ?x]", "[(clojure.core/eval ?e) ?x]", '[(getattr ?e "x") ?x]', "[(datalog.api/connect ?e)]",
    '[(str/__class__ "a") ?x]', '[(clojure.string/__init__ "a") ?x]', "#py/object 1", "#=(+ 1 2)", '#inst "x"', "[(ground #eval 1) ?x]", "[(. ?e x)]",
    '[(re-find "(a+)+$" "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab") ?x]', "[(range 1000000) [?x ...]]", '[(even? "%999999999d")]',
    '[(get-in "{\\"a\\": [1]}" "a" 0) ?x]', "(pull ?e [(:n/num :xform os.system)])", "(pull ?e [:n/num {:n/ref ...}])", "[(rand-int 5) ?x]",
]  # fmt: skip
PIECES = [
    "?x", "?e", "_", "$", "%", "$2", ":n/num", ":n/nope", ":find", ":where", ":in", "nil", "1", "-1.5", '"a"', "#{1}", "{}", "[]", "()", "(not ?x)",
    "(or)", "[?x ...]", "[[?x]]", "(pull ?e [*])", "(count ?x)", "...", ".", "*", '#inst "2020-01-01T00:00:00Z"', "(reach ?e ?x)", "[(< ?x 1)]",
    "[(str ?x) ?y]", "[?e :n/num ?x]", '(open "x")', "[(eval 1) ?x]", "1/2", "99999999999999999999", "\\a", "#tag 5", ":order-by", ":limit",
]  # fmt: skip


def broken(text: str, source: random.Random) -> str:
    """A text with some of its tokens dropped, doubled, swapped or replaced."""
    tokens = text.replace("[", " [ ").replace("]", " ] ").replace("(", " ( ").replace(")", " ) ").split()
    for _ in range(source.randint(0, 2)):
        inner = [i for i, t in enumerate(tokens) if t not in ("[", "]", "(", ")")]
        at = source.choice(inner) if inner and source.random() < 0.85 else source.randrange(len(tokens))
        kind = source.randint(0, 3)
        if kind == 0:
            del tokens[at]
        elif kind == 1:
            tokens.insert(at, tokens[at])
        elif kind == 2:
            tokens[at] = source.choice(PIECES)
        else:
            other = source.choice(inner) if inner and source.random() < 0.85 else source.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        if not tokens:
            return ""
    return " ".join(tokens)


def sources() -> list[str]:
    """Query texts to start from: those of the cases, and generated ones."""
    cases = Path(__file__).parent / "cases"
    texts = []
    for kind in ("query", "rules", "pull"):
        for path in sorted((cases / kind).glob("*.edn")):
            for form in read_all(path.read_text(encoding="utf-8")):
                case = {k.name: v for k, v in form.items()}
                if "query" in case and "error" not in case:
                    texts.append(d.write_edn(case["query"]))
    return texts + [Generator(seed).query() or "[:find ?x :in ?x]" for seed in range(300)]


def made(texts: list[str], source: random.Random) -> str:
    """A broken text, with a hostile clause in some."""
    text = broken(source.choice(texts), source)
    if source.random() < 0.25:
        at = text.rfind("]")
        text = f"{text[:at]} {source.choice(HOSTILE)} {text[at:]}"
    return text


def ask(text: str, db: Any, source: random.Random) -> str:
    """What a text comes to: an answer, or the code of the error."""
    try:
        if source.random() < 0.1:
            db.pull(text, 1)
        elif "%" in text:
            d.q(text, db, RULES, limits=d.Limits.untrusted())
        else:
            d.q(text, db, limits=d.Limits.untrusted())
    except DatalogError as error:
        return error.code
    return "answer"


def run(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """(how often each outcome, events and exceptions that must not be) of many texts."""
    source = random.Random(seed)
    texts = sources()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    active = False
    text = ""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event.split(".", maxsplit=1)[0] in WATCHED:
            faults.append(f"{event} {str(arguments)[:100]} in {text}")

    with d.connect(None, SCHEMA, sync=False) as conn:
        conn.transact(Generator(7).transaction())
        db = conn.db()
        d.q('[:find ?x ?y :in :where [(get-in "{}" "a" 0) ?x] [(rand-int 5) ?y]]')  # what they import
        for _ in range(300):
            ask(made(texts, source), db, source)
        sys.addaudithook(hook)
        for _ in range(count):
            text = made(texts, source)
            active = True
            try:
                outcomes[ask(text, db, source)] += 1
            except Exception as error:  # noqa: BLE001 - what is looked for: an exception that is not ours
                faults.append(f"{error!r} in {text}")
            active = False
    return outcomes, faults


def main() -> int:
    """Run many and print what they came to; exit code 1 on a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    started = time.perf_counter()
    outcomes, faults = run(options.count, options.seed)
    print(f"{time.perf_counter() - started:.1f} s, {sum(outcomes.values())} texts, seed {options.seed}")
    for name, count in outcomes.most_common():
        print(f"  {name}: {count}")
    print("\n".join(faults[:20]))
    print(f"faults: {len(faults)}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
