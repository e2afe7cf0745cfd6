"""The store against an LMDB tree of single datoms and against SQLite, in one run, as ratios of medians.

    python benchmarks/store.py                     # the whole table, about ten minutes
    python benchmarks/store.py --scale 0.02        # a quick look
    python benchmarks/store.py --only load,scan

Workloads (all counts and checksums are compared before any time is printed):

    load      columns of 5 x 1,000,000 datoms into three indexes and the log
    maps      one transaction of 100,000 maps with 5 attributes
    tx1, tx5  transactions of one datom, and of one entity with 5, on an ephemeral database
    scan      one attribute, 1,000,000 datoms, into arrays (columns cold in our cache, the file warm in the system's)
    lookup    by unique value, then one attribute
    soak      200,000 transactions of one entity in random key order: rate of the first and last 10,000, file size
    nohistory 50,000 updates of one 1 KB JSON value under :db/noHistory, then compact

Peers: `dupsort`, the same datoms in three DUPSORT/DUPFIXED trees through py-lmdb (key a, or e, or a+v; 16-byte
duplicates), without dictionary or log; `sqlite`, a typed table with an index on every column, as a query needs them; `triple`,
a table (e, a, v) with the three indexes. All with synchronous writing off, on the same disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import datalog as d
from store.backup import compact
from store.check import check_path

NAMES = ["Ivan", "Petr", "Sergei", "Oleg", "Yuri", "Dmitry", "Fedor", "Denis"]
SCHEMA = {
    ":p/name": {":db/valueType": ":db.type/string"},
    ":p/last": {":db/valueType": ":db.type/string"},
    ":p/sex": {":db/valueType": ":db.type/keyword"},
    ":p/age": {":db/valueType": ":db.type/long"},
    ":p/salary": {":db/valueType": ":db.type/long"},
}
ATTRIBUTES = list(SCHEMA)
SEX = [d.kw("male"), d.kw("female")]


class People:
    """Seeded columns of n people, five attributes each."""

    def __init__(self, n: int, seed: int = 7) -> None:
        r = np.random.default_rng(seed)
        self.n = n
        self.eids = np.arange(1, n + 1)
        self.name = [NAMES[i] for i in r.integers(0, 8, n).tolist()]
        self.last = [f"Family{i}" for i in r.integers(0, 5000, n).tolist()]
        self.sex = r.integers(0, 2, n).tolist()
        self.age = r.integers(0, 100, n)
        self.salary = r.integers(0, 100_000, n)

    def columns(self) -> dict[str, Any]:
        """As `conn.load` takes them."""
        return {
            ":p/name": (self.eids, self.name),
            ":p/last": (self.eids, self.last),
            ":p/sex": (self.eids, [SEX[i] for i in self.sex]),
            ":p/age": (self.eids, self.age),
            ":p/salary": (self.eids, self.salary),
        }

    def rows(self) -> list[tuple[Any, ...]]:
        """As SQLite takes them."""
        sex = ["male", "female"]
        return list(
            zip(
                range(1, self.n + 1),
                self.name,
                self.last,
                [sex[i] for i in self.sex],
                self.age.tolist(),
                self.salary.tolist(),
                strict=True,
            )
        )

    def maps(self) -> list[dict[str, Any]]:
        """As `transact` takes them."""
        return [
            {":p/name": n, ":p/last": la, ":p/sex": SEX[s], ":p/age": a, ":p/salary": sa}
            for n, la, s, a, sa in zip(
                self.name, self.last, self.sex, self.age.tolist(), self.salary.tolist(), strict=True
            )
        ]


class Clock:
    """Seconds of a block."""

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start
        gc.enable()


def folder() -> Path:
    """A new temporary directory."""
    return Path(tempfile.mkdtemp(prefix="bench-"))


def ours(schema: Any = None) -> Any:
    """A connection to a new database of ours."""
    return d.connect(folder() / "db", schema=schema or SCHEMA, sync=False)


def close(conn: Any) -> None:
    """Closes one of ours and removes it."""
    path = conn.path
    conn.close()
    shutil.rmtree(path.parent, ignore_errors=True)


def sqlite_typed(path: Path) -> sqlite3.Connection:
    """The typed table, with what a good engineer would index."""
    db = sqlite3.connect(path / "typed.db", isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=off")
    db.execute("create table p (id integer primary key, name text, last text, sex text, age integer, salary integer)")
    return db


def index_typed(db: sqlite3.Connection) -> None:
    """An index on every column: what our AVET gives."""
    for column in ("name", "last", "sex", "age", "salary"):
        db.execute(f"create index p_{column} on p ({column})")


# ---------------------------------------------------------------------------------------------------------------------


def bench_load(scale: float, repeats: int) -> dict[str, Any]:
    """Bulk load from columns."""
    people = People(int(1_000_000 * scale))
    columns, rows = people.columns(), people.rows()
    times: dict[str, list[float]] = {"ours": [], "sqlite plain": [], "sqlite indexed": [], "triple": [], "dupsort": []}
    figures: dict[str, Any] = {}
    for i in range(repeats + 1):  # one rule for all: a run to warm up, then the counted ones, peer after peer
        conn = ours()
        with Clock() as c:
            conn.load(columns)
        if i:
            times["ours"].append(c.seconds)
        figures["checksum ours"] = int(conn.q("[:find (sum ?s) . :with ?e :where [?e :p/salary ?s]]"))
        figures["bytes a datom, three indexes, log and dictionary"] = round(
            conn.store.env.stat()["file_bytes"] / (5 * people.n), 1
        )
        close(conn)
    for i in range(repeats + 1):
        path = folder()
        db = sqlite_typed(path)
        with Clock() as c:
            db.execute("begin")
            db.executemany("insert into p values (?,?,?,?,?,?)", rows)
            db.execute("commit")
        plain = c.seconds
        with Clock() as c:
            index_typed(db)
        if i:
            times["sqlite plain"].append(plain)
            times["sqlite indexed"].append(plain + c.seconds)
        figures["checksum sqlite"] = db.execute("select sum(salary) from p").fetchone()[0]
        db.close()
        shutil.rmtree(path)
    for _ in range(max(1, repeats - 2)):
        path = folder()
        with Clock() as c:
            load_triple(path, rows)
        times["triple"].append(c.seconds)
        shutil.rmtree(path)
        path = folder()
        with Clock() as c:
            load_dupsort(path, people)
        times["dupsort"].append(c.seconds)
        shutil.rmtree(path)
    assert figures["checksum ours"] == figures["checksum sqlite"] == int(people.salary.sum())
    datoms = 5 * people.n
    return {"datoms": datoms, "rate": "datoms/s", "times": times, "per": datoms, **figures}


def load_triple(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """The same into a triple table with three indexes."""
    db = sqlite3.connect(path / "triple.db", isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=off")
    db.execute("create table t (e integer, a integer, v, primary key (e, a, v)) without rowid")
    db.execute("begin")
    db.executemany("insert into t values (?,?,?)", ((r[0], a, r[a]) for r in rows for a in range(1, 6)))
    db.execute("commit")
    db.execute("create index aev on t (a, e, v)")
    db.execute("create index ave on t (a, v, e)")
    db.close()


def load_dupsort(path: Path, people: People) -> None:
    """The same as fixed-size duplicates in three LMDB trees; values are given codes first."""
    env = lmdb.open(str(path), map_size=1 << 36, max_dbs=4, sync=False, lib_version=0)
    trees = [env.open_db(n, dupsort=True, dupfixed=True) for n in (b"eavt", b"aevt", b"avet")]
    codes: dict[str, int] = {}

    def code(values: list[str]) -> np.ndarray:
        return np.array([codes.setdefault(v, len(codes)) for v in values])

    columns = [code(people.name), code(people.last), np.array(people.sex), people.age, people.salary]
    n = people.n
    with env.begin(write=True) as txn:
        aev = np.empty((n, 2), dtype=">u8")
        for a, column in enumerate(columns):
            aev[:, 0], aev[:, 1] = people.eids, column
            raw = aev.tobytes()
            key = a.to_bytes(8, "big")
            with txn.cursor(trees[1]) as cursor:
                cursor.putmulti(((key, raw[i : i + 16]) for i in range(0, 16 * n, 16)), append=True)
            order = np.argsort(column, kind="stable")
            ave = column[order].astype(">u8").tobytes()
            eids = people.eids[order].astype(">u8").tobytes()
            with txn.cursor(trees[2]) as cursor:
                cursor.putmulti(((key + ave[i : i + 8], eids[i : i + 8]) for i in range(0, 8 * n, 8)), append=True)
        with txn.cursor(trees[0]) as cursor:
            lists = [c.tolist() for c in columns]
            cursor.putmulti(
                (
                    (e.to_bytes(8, "big"), a.to_bytes(8, "big") + lists[a][e - 1].to_bytes(8, "big"))
                    for e in range(1, n + 1)
                    for a in range(5)
                ),
                append=True,
            )
    env.close()


def bench_maps(scale: float, repeats: int) -> dict[str, Any]:
    """One transaction of many maps."""
    people = People(int(100_000 * scale))
    maps, rows = people.maps(), people.rows()
    times: dict[str, list[float]] = {"ours": [], "sqlite indexed": []}
    for _ in range(repeats):
        conn = ours()
        with Clock() as c:
            conn.transact(maps)
        times["ours"].append(c.seconds)
        assert conn.q("[:find (count ?e) . :where [?e :p/salary]]") == people.n
        assert conn.q("[:find (sum ?s) . :with ?e :where [?e :p/salary ?s]]") == int(people.salary.sum())
        close(conn)
        path = folder()
        db = sqlite_typed(path)
        index_typed(db)
        with Clock() as c:
            db.execute("begin")
            db.executemany("insert into p values (?,?,?,?,?,?)", rows)
            db.execute("commit")
        times["sqlite indexed"].append(c.seconds)
        db.close()
        shutil.rmtree(path)
    return {"rate": "datoms/s", "times": times, "per": 5 * people.n}


def bench_tx(scale: float, repeats: int, datoms: int) -> dict[str, Any]:
    """Small transactions on an ephemeral database."""
    n = max(200, int(20_000 * scale))
    people = People(n)
    maps = (
        people.maps() if datoms == 5 else [[":db/add", i + 1, ":p/age", a] for i, a in enumerate(people.age.tolist())]
    )
    rows = people.rows()
    times: dict[str, list[float]] = {"ours": [], "sqlite indexed": [], "dupsort": []}
    for _ in range(repeats):
        conn = d.connect(None, schema=SCHEMA)
        with Clock() as c:
            for form in maps:
                conn.transact([form])
        times["ours"].append(c.seconds)
        assert conn.q("[:find (sum ?s) . :with ?e :where [?e :p/age ?s]]") == int(people.age.sum())
        conn.close()
        path = folder()
        db = sqlite_typed(path)
        index_typed(db)
        with Clock() as c:
            for row in rows:
                db.execute(
                    "insert into p values (?,?,?,?,?,?)" if datoms == 5 else "insert into p (id, age) values (?,?)",
                    row if datoms == 5 else (row[0], row[4]),
                )
        times["sqlite indexed"].append(c.seconds)
        db.close()
        shutil.rmtree(path)
        path = folder()
        with Clock() as c:
            tx_dupsort(path, n, datoms)
        times["dupsort"].append(c.seconds)
        shutil.rmtree(path)
    return {"rate": "transactions/s", "times": times, "per": n}


def tx_dupsort(path: Path, n: int, datoms: int) -> None:
    """The bare writes of such transactions into three DUPSORT trees: no checks, no dictionary, no log."""
    env = lmdb.open(str(path), map_size=1 << 34, max_dbs=4, sync=False, lib_version=0)
    trees = [env.open_db(name, dupsort=True, dupfixed=True) for name in (b"eavt", b"aevt", b"avet")]
    for e in range(1, n + 1):
        with env.begin(write=True) as txn:
            key = e.to_bytes(8, "big")
            for a in range(datoms):
                attribute, value = a.to_bytes(8, "big"), (e * 7919 % 1000).to_bytes(8, "big")
                txn.put(key, attribute + value, db=trees[0])
                txn.put(attribute, key + value, db=trees[1])
                txn.put(attribute + value, key, db=trees[2])
    env.close()


def bench_scan(scale: float, repeats: int) -> dict[str, Any]:
    """One attribute into arrays of e and v."""
    people = People(int(1_000_000 * scale))
    conn = ours()
    conn.load({":p/salary": (people.eids, people.salary)})
    path = folder()
    env = lmdb.open(str(path), map_size=1 << 34, max_dbs=2, sync=False, lib_version=0)
    tree = env.open_db(b"aevt", dupsort=True, dupfixed=True)
    pairs = np.empty((people.n, 2), dtype=">u8")
    pairs[:, 0], pairs[:, 1] = people.eids, people.salary
    raw = pairs.tobytes()
    with env.begin(write=True) as txn, txn.cursor(tree) as cursor:
        cursor.putmulti(((b"a", raw[i : i + 16]) for i in range(0, len(raw), 16)), append=True)
    db = sqlite_typed(path)
    db.executemany(
        "insert into p (id, salary) values (?,?)", zip(people.eids.tolist(), people.salary.tolist(), strict=True)
    )
    snapshot = conn.db().snapshot
    aid = snapshot.schema.find(":p/salary").aid
    times: dict[str, list[float]] = {"ours": [], "dupsort": [], "sqlite": []}
    total = int(people.salary.sum())
    for _ in range(repeats * 3):
        with Clock() as c:
            e, v, _ = snapshot.base.scan(b"A" + aid.to_bytes(4, "big"), tx=False)
        times["ours"].append(c.seconds)
        assert int(v.sum()) == total
        assert int(e[-1]) == people.n
        with Clock() as c, env.begin() as txn, txn.cursor(tree) as cursor:
            found = np.frombuffer(
                cursor.getmulti([b"a"], dupdata=True, dupfixed_bytes=16, keyfixed=True), dtype=np.uint8
            )
            rows = found.reshape(-1, 17)[:, 1:]
            e = rows[:, :8].copy().view(">u8").astype(np.int64)
            v = rows[:, 8:].copy().view(">u8").astype(np.int64)
        times["dupsort"].append(c.seconds)
        assert int(v.sum()) == total
        with Clock() as c:
            table = np.array(db.execute("select id, salary from p").fetchall(), dtype=np.int64)
        times["sqlite"].append(c.seconds)
        assert int(table[:, 1].sum()) == total
    env.close()
    db.close()
    shutil.rmtree(path)
    close(conn)
    return {"rate": "ns a datom", "times": times, "per": people.n}


def bench_lookup(scale: float, repeats: int) -> dict[str, Any]:
    """By unique value to the entity, then one attribute, as values in and out."""
    n = int(1_000_000 * scale)
    conn = ours(
        {
            ":u/mail": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
            ":u/age": {":db/valueType": ":db.type/long"},
        }
    )
    mails = [f"user{i}@example.org" for i in range(n)]
    ages = [i % 97 for i in range(n)]
    conn.load({":u/mail": (range(1, n + 1), mails), ":u/age": (range(1, n + 1), ages)})
    path = folder()
    db = sqlite3.connect(path / "u.db")
    db.execute("create table u (id integer primary key, mail text unique, age integer)")
    db.executemany("insert into u values (?,?,?)", zip(range(1, n + 1), mails, ages, strict=True))
    r = random.Random(3)
    wanted = [r.randrange(n) for _ in range(20_000)]
    query = d.prepare("[:find ?a . :in $ ?m :where [?e :u/mail ?m] [?e :u/age ?a]]")
    view = conn.db()
    snapshot = view.snapshot
    aid = snapshot.schema.find(":u/age").aid
    times: dict[str, list[float]] = {"ours, store": [], "ours, prepared query": [], "ours, pull": [], "sqlite": []}
    for _ in range(repeats):
        with Clock() as c:
            found = [snapshot.values(snapshot.entid((":u/mail", mails[i])), aid)[0] for i in wanted]
        times["ours, store"].append(c.seconds)
        assert found == [ages[i] for i in wanted]
        with Clock() as c:
            found = [query(view, mails[i]) for i in wanted[:5000]]
        times["ours, prepared query"].append(c.seconds * 4)
        assert found == [ages[i] for i in wanted[:5000]]
        with Clock() as c:
            found = [view.pull("[:u/age]", [":u/mail", mails[i]])[":u/age"] for i in wanted[:5000]]
        times["ours, pull"].append(c.seconds * 4)
        assert found == [ages[i] for i in wanted[:5000]]
        with Clock() as c:
            found = [db.execute("select age from u where mail = ?", (mails[i],)).fetchone()[0] for i in wanted]
        times["sqlite"].append(c.seconds)
        assert found == [ages[i] for i in wanted]
    db.close()
    shutil.rmtree(path)
    close(conn)
    return {"rate": "us a lookup", "times": times, "per": len(wanted)}


def bench_soak(scale: float, _repeats: int) -> dict[str, Any]:
    """Many one-entity transactions in random key order."""
    n = max(3000, int(200_000 * scale))
    part = max(500, int(10_000 * scale))
    r = random.Random(5)
    keys = r.sample(range(10 * n), n)
    conn = ours({":k/id": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
                 ":k/name": {":db/valueType": ":db.type/string"}, ":k/at": {":db/valueType": ":db.type/instant"},
                 ":k/size": {":db/valueType": ":db.type/long"}, ":k/score": {":db/valueType": ":db.type/double"}})  # fmt: skip
    import datetime

    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    seconds: list[float] = []
    gc.collect()
    for i, key in enumerate(keys):
        form = {
            ":k/id": key,
            ":k/name": f"name {key % 5000}",
            ":k/at": start + datetime.timedelta(seconds=key),
            ":k/size": key % 1000,
            ":k/score": key / 7,
        }
        if i % part == 0:
            seconds.append(time.perf_counter())
        conn.transact([form])
    seconds.append(time.perf_counter())
    spans = [b - a for a, b in pairwise(seconds)]
    assert conn.q("[:find (count ?e) . :where [?e :k/id]]") == n
    assert conn.q("[:find (sum ?k) . :with ?e :where [?e :k/id ?k]]") == sum(keys)
    path = conn.path
    conn.close()
    size = (path / "data.mdb").stat().st_size
    compact(path, path.parent / "compacted")
    small = (path.parent / "compacted" / "data.mdb").stat().st_size
    assert check_path(path)[0] == []
    shutil.rmtree(path.parent)
    return {
        "rate": "transactions/s",
        "times": {"first part": [spans[0]], "median part": [statistics.median(spans)], "last part": [spans[-1]]},
        "per": part,
        "transactions": n,
        "last rate / first rate": round(spans[0] / spans[-1], 2),
        "file / compacted copy": round(size / small, 2),
        "bytes a datom": round(size / (5 * n), 1),
    }


def bench_nohistory(scale: float, _repeats: int) -> dict[str, Any]:
    """One 1 KB JSON value, updated again and again."""
    n = max(500, int(50_000 * scale))
    schema = {":j/id": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
              ":j/json": {":db/valueType": ":db.type/string", ":db/index": False, ":db/noHistory": True}}  # fmt: skip
    conn = ours(schema)
    others = [{":j/id": f"k{i}", ":j/json": json.dumps({"k": i, "text": "x" * 980})} for i in range(1000)]
    conn.transact(others)
    with Clock() as c:
        for i in range(n):
            conn.transact([{":j/id": "k7", ":j/json": json.dumps({"k": 7, "turn": i, "text": "y" * 970})}])
    path = conn.path
    conn.close()
    before = (path / "data.mdb").stat().st_size
    compact(path)
    after = (path / "data.mdb").stat().st_size
    assert check_path(path)[0] == []
    fresh = ours(schema)
    fresh.transact(
        [*others[:7], {":j/id": "k7", ":j/json": json.dumps({"k": 7, "turn": n - 1, "text": "y" * 970})}, *others[8:]]
    )
    fresh_path = fresh.path
    fresh.close()
    size = (fresh_path / "data.mdb").stat().st_size
    shutil.rmtree(fresh_path.parent)
    shutil.rmtree(path.parent)
    return {
        "rate": "updates/s",
        "times": {"ours": [c.seconds]},
        "per": n,
        "bytes before compact": before,
        "bytes after compact": after,
        "bytes of a fresh import": size,
        "after / fresh": round(after / size, 2),
    }


WORKLOADS: dict[str, Any] = {
    "load": bench_load,
    "maps": bench_maps,
    "tx1": lambda s, r: bench_tx(s, r, 1),
    "tx5": lambda s, r: bench_tx(s, r, 5),
    "scan": bench_scan,
    "lookup": bench_lookup,
    "soak": bench_soak,
    "nohistory": bench_nohistory,
}


def show(name: str, result: dict[str, Any]) -> None:
    """One workload's part of the table."""
    per, unit = result["per"], result["rate"]
    medians = {who: statistics.median(t) for who, t in result["times"].items()}
    base = next(iter(medians.values()))
    print(f"\n{name}: {unit}")
    for who, seconds in medians.items():
        if unit.endswith("/s"):
            figure = f"{per / seconds:14,.0f}"
        else:
            figure = f"{seconds / per * (1e9 if unit.startswith('ns') else 1e6):14,.1f}"
        print(f"  {who:24} {figure}   {seconds:9.3f} s   {seconds / base:6.2f} x ours   n={len(result['times'][who])}")
    for key, value in result.items():
        if key not in ("rate", "times", "per"):
            print(f"  {key}: {value}")


def main() -> None:
    """Runs the workloads that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = [n for n in arguments.only.split(",") if n] or list(WORKLOADS)
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, py-lmdb {lmdb.version()}, sqlite {sqlite3.sqlite_version}"
    )
    results = {}
    for name in names:
        results[name] = WORKLOADS[name](arguments.scale, arguments.repeats)
        show(name, results[name])
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
