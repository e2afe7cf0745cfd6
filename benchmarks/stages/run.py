"""A memory of 100,000 keys through every stage: latencies against the EDN side, backfill under load, digests.

    python benchmarks/stages/run.py memory.edn [--seconds 5]

Origin: the limits that the stages' gates have. The memory file is one that an application has, or a generated one. For each
stage one thread works in a closed loop, 80 reads to 20 saves on keys of the file, after a warm-up; what is printed are the
p50 and p95 that the memory itself counts. The baseline are the same operations on a second memory that stays in edn-only (a save:
an entry of the journal with one fdatasync), each beside its like: a disk is not the same from minute to minute. Which of the two
goes first is drawn each time: a sync right after another one is the cheaper of the two. The row `edn-only` compares like with
like, and says how far two figures of one row can be apart by chance.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

from datalog import Map, kw
from migration.backfill import Backfill
from migration.checking import check_memory, compare_digests
from migration.cutover import move
from migration.gates import Limits, measure_queries, measure_reads
from migration.memory import MemoryStore, Settings
from migration.modes import STAGES
from migration.telemetry import Histogram

UNLIMITED = Limits(read_ratio=None, query_ratio=None, save_ratio=None)


def work(memory, keys, seconds, rest_s, beside=None):
    """80 reads to 20 saves, in turns with another memory; returns how many there were of both."""
    memories = [m for m in (beside, memory) if m is not None]
    own, until, n = random.Random(5), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        key = own.choice(keys)
        reads = own.random() < 0.8
        for each in own.sample(memories, len(memories)):
            if reads:
                each.get_value(key)
            else:
                each.update(key, lambda v, n=n: Map({**v, kw("bench/n"): n}) if isinstance(v, Map) else v)
        n += 1
        if rest_s:
            time.sleep(rest_s)
    return n


def quantiles(histogram):
    """p50 and p95 in microseconds."""
    return tuple(round((histogram.quantile(q) or 0) / 1000, 1) for q in (0.5, 0.95))


def figures(memory, stage):
    """(reads, saves) of a stage: all stores together."""
    out = []
    for name in ("get_value", "update"):
        of = Histogram()
        for (operation, at, _), h in memory.telemetry.histograms.items():
            if operation == name and at == stage:
                for bucket, n in h.counts.items():
                    of.counts[bucket] = of.counts.get(bucket, 0) + n
        out.append(quantiles(of))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of work in each stage")
    parser.add_argument("--rest-ms", type=float, default=1.0, help="between two operations; 0: a closed loop")
    given = parser.parse_args()
    rest_s = given.rest_ms / 1000
    with tempfile.TemporaryDirectory(dir=given.file.parent) as folder:
        shutil.copy(given.file, Path(folder) / "memory.edn")
        began = time.perf_counter()
        with (
            MemoryStore(Path(folder) / "memory.edn", Path(folder) / "memory.db") as memory,
            MemoryStore(
                Path(folder) / "beside.edn", Path(folder) / "none.db", settings=Settings(debounce_s=3600)
            ) as beside,
        ):
            keys = memory.keys()
            print(f"opened {len(keys):,} keys in {time.perf_counter() - began:.1f} s")
            own = random.Random(1)
            hot = own.sample(keys, min(2_000, len(keys)))
            for key in hot:
                beside.save_value(key, memory.get_value(key))
            rows = []
            for stage in STAGES:
                if stage != STAGES[0]:
                    began = time.perf_counter()
                    move(memory, stage, limits=UNLIMITED)
                    print(f"moved to {stage} in {time.perf_counter() - began:.2f} s", flush=True)
                if stage == "dual-write":
                    fill = Backfill(memory).start()
                    n = work(memory, hot, 10, rest_s)
                    print(f"under load: {n / 10:,.0f} operations/s in the first 10 s", flush=True)
                    print("backfill", json.dumps(fill.wait().as_dict()), flush=True)
                    for _ in range(2):
                        print("digests", json.dumps(compare_digests(memory).as_dict()), flush=True)
                    found = check_memory(memory)
                    print(
                        f"full verification: equal {found.equal}, {found.same:,} keys in {found.seconds:.1f} s",
                        flush=True,
                    )
                    memory.telemetry.histograms.clear()
                if stage == "datalog-first":
                    print("reads p95 us (EDN, database):", measure_reads(memory, memory.keymap.data_kinds, 2_000))
                    for name, pair in measure_queries(memory, memory.keymap.data_kinds).items():
                        print(f"query {name}: EDN {pair[0]:,.0f} us, database {pair[1]:,.0f} us", flush=True)
                for key in hot:  # both sides warm, as in an application that has run for a while
                    memory.get_value(key)
                work(memory, hot, given.seconds / 4, rest_s, beside)
                for at in [k for k in memory.telemetry.histograms if k[1] == stage]:
                    del memory.telemetry.histograms[at]
                beside.telemetry.histograms.clear()
                work(memory, hot, given.seconds, rest_s, beside)
                rows.append((stage, figures(memory, stage), figures(beside, STAGES[0])))
        print("| stage | read p50 us | p95 | EDN p95 | save p50 us | EDN p50 | save p95 | EDN p95 | save p95 / EDN |")
        print("|---|---|---|---|---|---|---|---|---|")
        for stage, (read, save), (edn_read, edn_save) in rows:
            cells = (stage, *read, edn_read[1], save[0], edn_save[0], save[1], edn_save[1])
            print(f"| {' | '.join(map(str, cells))} | {save[1] / max(edn_save[1], 0.1):.2f} |")


if __name__ == "__main__":
    main()
