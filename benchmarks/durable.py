"""Durable transactions of one datom: one thread, eight threads that wait, and eight that leave theirs to the writer.

    python benchmarks/durable.py [--transactions 4000] [--rounds 5] [--json FILE]

Every transaction is on the disk before it is acknowledged. `sync` is what the disk needs for one: a write of 4 KB and fdatasync.
The same in memory (`sync=False`, ephemeral) stands beside it. Medians of the rounds, all kinds in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import datalog as d

SCHEMA = {":age": {":db/valueType": ":db.type/long"}}
AT_ONCE = 100  # futures that a thread has open


def waiting(conn: Any, first: int, count: int) -> None:
    """Transactions, one after the other."""
    for i in range(first, first + count):
        conn.transact([[":db/add", i, ":age", i % 100]])


def leaving(conn: Any, first: int, count: int) -> None:
    """Transactions left to the writer, a hundred at once."""
    open_ones = []
    for i in range(first, first + count):
        open_ones.append(conn.transact_async([[":db/add", i, ":age", i % 100]]))
        if len(open_ones) == AT_ONCE:
            for future in open_ones:
                future.result()
            open_ones.clear()
    for future in open_ones:
        future.result()


def rate(work: Any, threads: int, transactions: int, *, durable: bool) -> float:
    """Transactions a second; all of them must be there in the end."""
    with tempfile.TemporaryDirectory() as folder:
        each = transactions // threads
        with d.connect(Path(folder) / "db" if durable else None, SCHEMA, sync=durable) as conn:
            workers = [threading.Thread(target=work, args=(conn, 1 + k * each, each)) for k in range(threads)]
            started = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            seconds = time.perf_counter() - started
            assert conn.q("[:find (count ?e) . :where [?e :age]]") == each * threads
        return each * threads / seconds


def syncs(count: int) -> float:
    """Writes of 4 KB with fdatasync, a second."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.open(Path(folder) / "file", os.O_RDWR | os.O_CREAT)
        block = b"x" * 4096
        started = time.perf_counter()
        for i in range(count):
            os.pwrite(file, block, 4096 * (i % 64))
            os.fdatasync(file)
        seconds = time.perf_counter() - started
        os.close(file)
    return count / seconds


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    n = given.transactions
    kinds: dict[str, Any] = {
        "sync": lambda: syncs(n // 4),
        "durable, 1 thread": lambda: rate(waiting, 1, n // 4, durable=True),
        "durable, 8 threads that wait": lambda: rate(waiting, 8, n, durable=True),
        "durable, 8 threads with futures": lambda: rate(leaving, 8, 4 * n, durable=True),
        "in memory, 1 thread": lambda: rate(waiting, 1, 4 * n, durable=False),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, measure in kinds.items():
            found[name].append(measure())
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name, median in medians.items():
        print(f"{name:34} {median:10,.0f}/s   {median / medians['durable, 1 thread']:6.2f} x one durable thread")
    if given.json:
        given.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
