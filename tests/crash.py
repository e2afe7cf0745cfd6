"""Kills a writing process at random moments, many times, and looks whether anything was lost or torn.

    python tests/crash.py --rounds 200

Each round starts a writer on the same database. For every transaction the writer notes its number in a file of its own,
with fsync, *after* `transact` returned; the parent kills it with SIGKILL after a random time. Then the database is
opened: every noted transaction must be there, at most those under way besides and none of these without those before it,
each of them whole (a sum over its datoms says so), and `check` must find nothing. Rounds mix small transactions, groups of them in
one commit, merges, bulk loads, retractions and schema changes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MOST_AT_ONCE = 40  # transactions that a writer may have under way

WRITER = """
import os, random, sys
sys.path.insert(0, sys.argv[4])
import datalog as d
import store.store
path, notes, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
r = random.Random(seed)
store.store.LEAST_NOVELTY = r.choice([50, 500, 5000])
conn = d.connect(path, schema={
    ":tx/n": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
    ":tx/m": {":db/valueType": ":db.type/long"},
    ":tx/size": {":db/valueType": ":db.type/long"},
    ":row/of": {":db/valueType": ":db.type/long"},
    ":row/text": {":db/valueType": ":db.type/string"},
    ":last": {":db/valueType": ":db.type/long"},
})
n = conn.q("[:find (max ?n) . :where (or [_ :tx/n ?n] [_ :tx/m ?n])]") or 0
out = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print("ready", flush=True)
def rows_of(n, size):
    return [{":row/of": n, ":row/text": f"{n} {i} " + "x" * r.randrange(40)} for i in range(size)]
while seed % 2:  # plain transactions in groups, each noted when its future is done
    bunch = []
    for n in range(n + 1, n + 1 + r.randrange(1, 40)):
        size = r.randrange(1, 6)
        bunch.append((n, conn.transact_async([*rows_of(n, size), {":tx/m": n, ":tx/size": size}, [":db/add", 1, ":last", n]])))
    for n, future in bunch:
        future.result()
        os.write(out, f"{n}\\n".encode())
    os.fsync(out)
while True:
    n += 1
    kind = r.random()
    size = r.randrange(1, 6) if kind < 0.9 else r.randrange(300, 6000)
    conn.transact([*rows_of(n, size), {":tx/n": n, ":tx/size": size}, [":db/add", 1, ":last", n]])
    os.write(out, f"{n}\\n".encode())
    os.fsync(out)
    if kind < 0.05:
        victim = conn.q("[:find ?e . :in $ ?n :where [?e :tx/n ?n]]", r.randrange(1, n + 1))
        if victim:
            conn.transact([[":db/add", victim, ":tx/size", conn.q("[:find ?s . :in $ ?e :where [?e :tx/size ?s]]", victim)]])
    if kind > 0.98:
        conn.update_schema({f":extra/a{n}": {":db/valueType": ":db.type/string"}})
"""


def run_round(path: Path, notes: Path, seed: int) -> None:
    """One writer, killed after a random time."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(notes), str(seed), str(ROOT)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.0, 0.12))
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


def verify(path: Path, notes: Path) -> dict[str, Any]:
    """What the database holds against what was noted; raises AssertionError on any difference."""
    import datalog as d
    from store.check import check_path

    noted = [int(line) for line in notes.read_bytes().split()] if notes.exists() else []
    with d.connect(path) as conn:
        sizes = dict(conn.q("[:find ?n ?s :where (or [?e :tx/n ?n] [?e :tx/m ?n]) [?e :tx/size ?s]]"))
        rows = dict(conn.q("[:find ?n (count ?e) :where [?e :row/of ?n]]"))
        last = conn.q("[:find ?l . :where [1 :last ?l]]")
    acknowledged = max(noted, default=0)
    assert noted == sorted(set(noted)) or len(set(noted)) == len(noted), "a number was noted twice"
    missing = [n for n in noted if n not in sizes]
    assert not missing, f"acknowledged transactions are lost: {missing[:5]}"
    assert sorted(sizes) == list(range(1, len(sizes) + 1)), "a transaction is missing among others"
    assert len(sizes) <= acknowledged + MOST_AT_ONCE, "transactions nobody made"
    assert sizes == rows, "a torn transaction"
    assert last == max(sizes, default=None), "a torn transaction"
    findings, counts = check_path(path)
    assert findings == [], findings[:3]
    return {"acknowledged": acknowledged, "held": len(sizes), **counts}


def run(rounds: int, seed: int, *, every: int = 1, progress: bool = False) -> dict[str, Any]:
    """Many rounds on one database; verified after every `every` rounds and at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path, notes = Path(folder) / "db", Path(folder) / "notes"
        result: dict[str, Any] = {}
        for i in range(rounds):
            run_round(path, notes, seed + i)
            if i % every == every - 1 or i == rounds - 1:
                result = verify(path, notes)
                if progress:
                    print(f"round {i + 1}: {result}", flush=True)
        return {"rounds": rounds, "seed": seed, **result}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=os.getpid())
    arguments = parser.parse_args()
    print(run(arguments.rounds, arguments.seed, every=10, progress=True))
