"""Workloads beside the peers, in one run: a table of medians and ratios, and JSON.

    python benchmarks/setup_peers.py                          # once: the peers, in an environment of their own
    python benchmarks/compare.py people rules joins           # beside SQLite and DuckDB
    python benchmarks/compare.py joins --peers ours,sqlite --scale 0.1 --repeats 3
    python benchmarks/compare.py joins --scale 10 --peers ours,duckdb --json joins10.json

Every peer is a process of its own and holds the data of one workload; for each question they are asked in turn, so that a
machine that changes its speed changes it for all. One rule for all: the first answer is reported as cold and checked (counts
and checksums must agree, or the run fails), `--warmup` answers are not counted, `--repeats` are. A time is taken inside
the peer's process, around the call, with the whole answer turned into Python objects.
Ratios are to the fastest SQL peer, with 0.5 ms as the floor of its time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import select
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FLOOR = 0.0005
SLOW_S = 10.0  # whoever needs longer for the first answer is not asked again
SQL = ("sqlite", "duckdb")
DEFAULT = ("ours", "sqlite", "duckdb")


class Worker:
    """A peer's process."""

    def __init__(self, peer: str, workload: str, scale: float, python: str, patience_s: float) -> None:
        self.peer = peer
        self.patience_s = patience_s
        self.out = ""  # why it takes no part
        command = [python, str(HERE / "worker.py"), peer, workload, str(scale)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request."""
        if self.out:
            return {"left out": self.out}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        if request["op"] == "run" and not select.select([self.process.stdout], [], [], self.patience_s)[0]:
            self.process.kill()
            self.out = f"more than {self.patience_s:.0f} s for a question before"
            return {"left out": f"more than {self.patience_s:.0f} s"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended"}

    def close(self) -> None:
        """Ends the process; a Java machine inside may not want to."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def compare(workload: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One workload with all peers: the figures, and whether the answers agree."""
    sys.path.insert(0, str(HERE))
    from importlib import import_module

    made = import_module(f"{workload}.make").make(0.01)
    wanted = [part for part in arguments.only.split(",") if part]
    names = [q.name for q in made.queries if not wanted or any(part in q.name for part in wanted)]
    tasks = [n for n in made.tasks if not wanted or any(part in n for part in wanted)]
    peers = arguments.peers.split(",")
    workers = [Worker(p, workload, arguments.scale, arguments.python, arguments.patience) for p in peers]
    result: dict[str, Any] = {
        "workload": workload,
        "scale": arguments.scale,
        "load": {},
        "queries": {},
        "tasks": {},
        "faults": [],
    }
    for w in workers:
        result["load"][w.peer] = loaded = w.ask(op="load")
        note_fault("load", w.peer, loaded, result["faults"])
        if "seconds" not in loaded:
            w.out = loaded.get("left out", "it was not loaded")
        print(f"  {w.peer:10} loaded: {result['load'][w.peer]}", flush=True)
    for name in names:
        result["queries"][name] = one_query(name, workers, arguments, result["faults"])
        print(line(name, result["queries"][name], peers), flush=True)
    for name in tasks:
        result["tasks"][name] = one_task(name, workers, arguments, result["faults"])
        print(line(name, result["tasks"][name], peers), flush=True)
    for w in workers:
        result["load"][w.peer].update(w.ask(op="memory"))
        w.close()
    return result


def one_query(name: str, workers: list[Worker], arguments: argparse.Namespace, faults: list[str]) -> dict[str, Any]:
    """Cold time, check, and warm times of one question, the peers in turn."""
    figures: dict[str, Any] = {}
    for w in workers:
        first = w.ask(op="run", query=name, check=True)
        note_fault(name, w.peer, first, faults)
        figures[w.peer] = {"cold": first.pop("seconds", None), "times": [], "columnar": [], **first}
    compare_answers(name, figures, faults)
    for i in range(arguments.warmup + arguments.repeats):
        for w in workers:
            figure = figures[w.peer]
            if "rows" not in figure or figure["cold"] > SLOW_S:
                continue
            kinds = {"times": False, "columnar": True} if arguments.columnar else {"times": False}
            for kind, columnar in kinds.items():
                found = w.ask(op="run", query=name, columnar=columnar)
                note_fault(name, w.peer, found, faults)
                if i >= arguments.warmup and "seconds" in found:
                    figure[kind].append(found["seconds"])
    for figure in figures.values():
        if figure["cold"] is not None and figure["cold"] > SLOW_S:
            figure["times"].append(figure["cold"])
    for figure in figures.values():
        figure["columnar_median"] = statistics.median(figure["columnar"]) if figure["columnar"] else None
    return with_ratio(figures)


def one_task(name: str, workers: list[Worker], arguments: argparse.Namespace, faults: list[str]) -> dict[str, Any]:
    """Times of a task, the peers in turn; what each time is left must be the same."""
    figures: dict[str, Any] = {w.peer: {"times": []} for w in workers}
    for _ in range(min(3, arguments.repeats)):
        for w in workers:
            figure = figures[w.peer]
            if figure.get("left out") or (figure["times"] and figure["times"][0] > SLOW_S):
                continue
            found = w.ask(op="run", task=name)
            note_fault(name, w.peer, found, faults)
            if "seconds" not in found:
                figure["left out"] = found.get("left out", "it failed")
                continue
            figure["times"].append(found.pop("seconds"))
            figure.update(found)
    compare_answers(name, figures, faults)
    return with_ratio(figures)


def note_fault(name: str, peer: str, found: dict[str, Any], faults: list[str]) -> None:
    """Remembers an error; a peer that leaves a question out has none."""
    if "error" in found:
        faults.append(f"{name}: {peer}: {found['error']}")


def compare_answers(name: str, figures: dict[str, Any], faults: list[str]) -> None:
    """Remembers when counts or checksums differ."""
    answers = {(f["rows"], f["checksum"]) for f in figures.values() if "rows" in f}
    if len(answers) > 1:
        faults.append(
            f"{name}: different answers: " + ", ".join(f"{p} {f.get('rows')} rows" for p, f in figures.items())
        )


def with_ratio(figures: dict[str, Any]) -> dict[str, Any]:
    """Medians, and ours to the fastest SQL peer."""
    for figure in figures.values():
        figure["median"] = statistics.median(figure["times"]) if figure["times"] else None
    best = [figures[p]["median"] for p in SQL if p in figures and figures[p]["median"] is not None]
    ours = figures.get("ours", {}).get("median")
    figures["ratio"] = ours / max(FLOOR, min(best)) if best and ours is not None else None
    return figures


def line(name: str, figures: dict[str, Any], peers: list[str]) -> str:
    """One row of the table."""
    cells = []
    for p in peers:
        median = figures[p]["median"]
        cells.append(f"{'-' if median is None else f'{median * 1e3:.2f}':>11}")
    rows = next((figures[p]["rows"] for p in peers if "rows" in figures[p]), 0)
    ratio = figures["ratio"]
    return f"  {name:32} {rows:>9,} {' '.join(cells)}  {'' if ratio is None else f'{ratio:6.2f}'}"


def summary(result: dict[str, Any], peers: list[str]) -> None:
    """Means of the ratios."""
    ratios = [f["ratio"] for f in result["queries"].values() if f["ratio"] is not None]
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(
            f"  ours to the fastest SQL peer: geometric mean {mean:.2f}, median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}"
        )
    for peer in peers:
        if peer not in ("ours", *SQL):
            speed = [
                f[peer]["median"] / f["ours"]["median"]
                for f in result["queries"].values()
                if f[peer].get("median") and f.get("ours", {}).get("median")
            ]
            if speed:
                mean = math.exp(sum(map(math.log, speed)) / len(speed))
                print(f"  {peer} to ours: geometric mean {mean:.1f}, least {min(speed):.1f}")


def main() -> int:
    """Runs what was asked for; 1 when answers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=["people", "rules", "joins"])
    parser.add_argument("--peers", default=",".join(DEFAULT))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--only", default="", help="parts of the questions' names, with commas")
    parser.add_argument(
        "--patience", type=float, default=100.0, help="seconds; a peer that needs more takes no part from there on"
    )
    parser.add_argument("--columnar", action="store_true", help="also time answers left as columns")
    parser.add_argument("--json", type=Path)
    here = HERE / ".peers" / "bin" / "python"
    parser.add_argument(
        "--python", default=str(here) if here.exists() else sys.executable, help="the peers' interpreter"
    )
    arguments = parser.parse_args()
    peers = arguments.peers.split(",")
    results = []
    for workload in arguments.workloads:
        heads = " ".join(f"{p} ms".rjust(11) for p in peers)
        print(f"\n{workload}, scale {arguments.scale:g}\n  {'':32} {'rows':>9} {heads}   ratio")
        results.append(compare(workload, arguments))
        summary(results[-1], peers)
        for fault in results[-1]["faults"]:
            print(f"  FAULT {fault}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return 1 if any(r["faults"] for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
