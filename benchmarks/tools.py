"""How long the command line takes to start and to answer, and how fast tables, dumps and copies go in and out.

    python benchmarks/tools.py start [RUNS]      wall time of whole processes, medians, in turns; beside plain imports
    python benchmarks/tools.py move [ROWS]       a CSV of so many rows and 5 columns: import, export, dump, load, copy

`start` measures the installed `datalog` of the Python that runs it. Start-up depends on what else the machine does: the load is
printed, and the least time beside the median.
"""

from __future__ import annotations

import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERY = "[:find ?name :in $ ?n :where [?p :p/n ?n] [?p :p/name ?name]]"


def start(runs: int) -> None:
    command = Path(sys.executable).parent / "datalog"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        data = " ".join(f'{{:p/n {i} :p/name "n{i}"}}' for i in range(1000))
        subprocess.run(
            [command, "transact", "-", "--db", path], input=f"[{data}]".encode(), check=True, stdout=subprocess.DEVNULL
        )
        cases = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import numpy, lmdb'": [sys.executable, "-c", "import numpy, lmdb"],
            "datalog --help": [command, "--help"],
            "datalog q --help": [command, "q", "--help"],
            "datalog q": [command, "q", QUERY, "17", "--db", path],
        }
        taken: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(runs):
            for name, arguments in cases.items():
                begin = time.perf_counter()
                subprocess.run(
                    arguments, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                taken[name].append(time.perf_counter() - begin)
    print(f"{runs} runs in turns, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, seconds in taken.items():
        print(f"{name:<34} median {statistics.median(seconds) * 1000:4.0f} ms   least {min(seconds) * 1000:4.0f} ms")


def move(rows: int) -> None:
    random.seed(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "p.csv").open("w", newline="") as f:
            out = csv.writer(f)
            out.writerow(["id", "name", "age", "score", "joined"])
            for i in range(rows):
                day = f"20{random.randint(10, 24)}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"
                out.writerow([i, f"person {i % 50000}", random.randint(1, 99), round(random.random() * 1000, 3), day])
        steps = {
            "import CSV": ["import", folder / "p.csv", "--db", folder / "db", "--yes"],
            "export CSV": ["export", folder / "x.csv", "--ns", "p", "--db", folder / "db"],
            "dump": ["dump", folder / "db", folder / "x.dump"],
            "load": ["load", folder / "x.dump", folder / "db2"],
            "copy": ["copy", folder / "db", folder / "db3"],
        }
        print(f"{rows:,} rows of 5 columns, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for step, arguments in steps.items():
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "datalog.cli", *map(str, arguments)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            took = time.perf_counter() - begin
            print(f"{step:<12} {took:6.1f} s   {rows / took:>12,.0f} rows/s   {5 * rows / took:>12,.0f} facts/s")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["start"]
    {"start": start, "move": move}[what](int(rest[0]) if rest else {"start": 25, "move": 1_000_000}[what])
