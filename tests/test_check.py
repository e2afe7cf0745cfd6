"""fsck finds damage in every table; rebuild, compact and stats do what they say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lmdb
import pytest

import datalog as d
from store.backup import compact, rebuild, stats
from store.check import check_path
from store.errors import StorageError, StoreLocked

SCHEMA: dict[str, Any] = {
    ":name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":age": {":db/valueType": ":db.type/long"},
    ":score": {":db/valueType": ":db.type/double"},
    ":tags": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":blob": {":db/valueType": ":db.type/string", ":db/index": False, ":db/noHistory": True},
    ":any": {},
}

READER = """
    import ast, sys, datalog as d
    expected = set(ast.literal_eval(open(sys.argv[1]).read()))
    try:
        conn = d.connect(sys.argv[2], read_only=True)
        found = {(x.e, x.a, repr(x.v), x.tx) for x in conn.db().datoms("eavt")}
        print("same" if found == expected else "other")
    except d.DatalogError as e:
        print(e.code)
    """


def _make(path: Path, seed: int = 1, transactions: int = 300) -> set[Any]:
    r = random.Random(seed)
    with d.connect(path, schema=SCHEMA, sync=False) as conn:
        n = 500
        conn.load(
            {
                ":age": (range(1, n + 1), [r.randrange(90) for _ in range(n)]),
                ":name": (range(1, n + 1), [f"n{i}" for i in range(n)]),
            }
        )
        for i in range(transactions):
            conn.transact(
                [
                    {":name": f"n{r.randrange(800)}", ":age": i, ":score": i / 7, ":tags": [f"t{r.randrange(9)}", "all"],
                     ":friend": r.randrange(1, n), ":blob": f"{i} " + "b" * 300, ":any": r.choice([1, 1.0, "x", d.kw("k")])},
                    [":db/retract", r.randrange(1, n), ":age"],
                ]
            )  # fmt: skip
        return _facts(conn)


def _facts(conn: Any) -> set[Any]:
    return {(x.e, x.a, repr(x.v), x.tx) for x in conn.db().datoms("eavt")}


def _entries(path: Path) -> list[tuple[bytes, bytes]]:
    env = lmdb.open(str(path), lib_version=0, readonly=True, lock=False)
    with env.begin() as txn:
        rows = list(txn.cursor())
    env.close()
    return rows


def _put(path: Path, key: bytes, value: bytes | None, new_key: bytes | None = None) -> None:
    env = lmdb.open(str(path), lib_version=0, map_size=1 << 30)
    with env.begin(write=True) as txn:
        txn.delete(key)
        if value is not None:
            txn.put(new_key or key, value)
    env.close()


def test_a_sound_database_checks_clean(tmp_path: Path) -> None:
    """Nothing is found in a sound database, also while it is open with much novelty."""
    _make(tmp_path / "db")
    findings, counts = check_path(tmp_path / "db")
    assert findings == []
    assert counts["transactions"] == 302
    with d.connect(tmp_path / "db") as conn:
        conn.transact([{":name": "one more"}])
        assert check_path(tmp_path / "db")[0] == []


def test_every_flipped_byte_of_every_table_is_found(tmp_path: Path) -> None:
    """A flipped bit in any value or key of segments, counts, log, dictionary or meta record is a finding."""
    _make(tmp_path / "db", transactions=60)
    r = random.Random(3)
    by_table: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for key, value in _entries(tmp_path / "db"):
        by_table.setdefault(key[:1], []).append((key, value))
    assert set(by_table) == {b"MSEAVLDZ"[i : i + 1] for i in range(8)}
    tried = 0
    for rows in by_table.values():
        for _ in range(14):
            key, value = r.choice(rows)
            at = r.randrange(len(value))
            flipped = bytearray(value)
            flipped[at] ^= 1 << r.randrange(8)
            _put(tmp_path / "db", key, bytes(flipped))
            findings, _ = check_path(tmp_path / "db")
            assert findings, f"byte {at} of {key!r} was flipped and not found"
            _put(tmp_path / "db", key, value)
            tried += 1
        for _ in range(6):
            key, value = r.choice(rows)
            if len(key) == 1:
                continue
            changed = bytearray(key)
            changed[r.randrange(1, len(key))] ^= 1 << r.randrange(8)
            if any(bytes(changed) == k for k, _ in rows):
                continue
            _put(tmp_path / "db", key, value, bytes(changed))
            findings, _ = check_path(tmp_path / "db")
            assert findings, f"the key {key!r} became {bytes(changed)!r}, which was not found"
            _put(tmp_path / "db", bytes(changed), None)
            _put(tmp_path / "db", key, value)
            tried += 1
    assert tried > 100
    assert check_path(tmp_path / "db")[0] == []


def test_a_missing_entry_is_found(tmp_path: Path) -> None:
    """An entry taken out of any table is a finding."""
    _make(tmp_path / "db", transactions=40)
    r = random.Random(4)
    rows = _entries(tmp_path / "db")
    for table in b"MSEAVLDZ":
        key, value = r.choice([row for row in rows if row[0][0] == table])
        _put(tmp_path / "db", key, None)
        assert check_path(tmp_path / "db")[0], f"{key!r} is missing and was not found"
        _put(tmp_path / "db", key, value)
    assert check_path(tmp_path / "db")[0] == []


def test_flipped_bytes_of_the_file_never_kill_and_never_lie(tmp_path: Path) -> None:
    """After random damage to the file itself, opening and reading ends with the right facts or an error of ours."""
    expected = _make(tmp_path / "db", transactions=100)
    file = tmp_path / "db" / "data.mdb"
    sound = file.read_bytes()
    r = random.Random(9)
    told = 0
    from test_environment import run_python

    (tmp_path / "facts").write_text(repr(sorted(expected)))
    for i in range(16):
        damaged = bytearray(sound)
        for _ in range(r.choice([1, 20])):
            damaged[r.randrange(len(damaged))] ^= 1 << r.randrange(8)
        (tmp_path / f"d{i}").mkdir()
        (tmp_path / f"d{i}" / "data.mdb").write_bytes(damaged)
        done = run_python(READER, str(tmp_path / "facts"), str(tmp_path / f"d{i}"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "same" or done.stdout.startswith("store/"), done.stdout
        told += done.stdout.startswith("store/")
    assert told > 3


def test_rebuild_makes_the_indexes_from_the_log(tmp_path: Path) -> None:
    """With every index entry lost, rebuild gives the same facts, and check is clean again."""
    expected = _make(tmp_path / "db")
    env = lmdb.open(str(tmp_path / "db"), lib_version=0, map_size=1 << 30)
    with env.begin(write=True) as txn:
        for key in [k for k, _ in txn.cursor() if k[:1] in (b"E", b"A", b"V", b"S", b"Z")]:
            txn.delete(key)
    env.close()
    assert check_path(tmp_path / "db")[0]
    rebuild(tmp_path / "db")
    assert check_path(tmp_path / "db")[0] == []
    with d.connect(tmp_path / "db") as conn:
        assert _facts(conn) == expected
        conn.transact([{":name": "n1", ":age": 1}])
    assert check_path(tmp_path / "db")[0] == []


def test_compact_keeps_the_facts_and_drops_the_rest(tmp_path: Path) -> None:
    """A compacted database, in place or as a copy, holds the same facts and works on; old noHistory values are gone."""
    expected = _make(tmp_path / "db")
    result = compact(tmp_path / "db", tmp_path / "copy")
    assert result["values_dropped"] > 30
    for path in (tmp_path / "db", tmp_path / "copy"):
        if path.name == "db":
            compact(path)
        assert check_path(path)[0] == []
        with d.connect(path) as conn:
            assert _facts(conn) == expected
            conn.transact([{":name": "n1", ":age": 77}])
        assert check_path(path)[0] == []
        rebuild(path)
        assert check_path(path)[0] == []


def test_compact_can_cut_the_log(tmp_path: Path) -> None:
    """The log before a transaction gives way to a baseline from which the indexes can still be rebuilt."""
    expected = _make(tmp_path / "db")
    before = stats(tmp_path / "db")["table_bytes"]["log"]
    compact(tmp_path / "db", drop_log_before=(1 << 40) + 250)
    assert check_path(tmp_path / "db")[0] == []
    assert stats(tmp_path / "db")["table_bytes"]["log"] < before
    rebuild(tmp_path / "db")
    assert check_path(tmp_path / "db")[0] == []
    with d.connect(tmp_path / "db") as conn:
        assert _facts(conn) == expected
        conn.transact([{":name": "n2", ":age": 5}])
    compact(tmp_path / "db", drop_log_before=1 << 41)
    assert check_path(tmp_path / "db")[0] == []


def test_transactions_without_a_trace_are_left_out(tmp_path: Path) -> None:
    """Updates of a noHistory attribute cost nothing after compact, and check and rebuild know of the gap."""
    with d.connect(tmp_path / "db", SCHEMA, sync=False) as conn:
        conn.transact([{":name": "a", ":age": 1}])
        for i in range(500):
            conn.transact([{":name": "a", ":blob": f"{i} " + "x" * 500}])
            if i % 100 == 0:
                conn.transact([{":name": "a", ":age": i}])
    compact(tmp_path / "db")
    assert check_path(tmp_path / "db")[0] == []
    with d.connect(tmp_path / "db") as conn:
        assert conn.pull("[:age :blob]", [":name", "a"]) == {":age": 400, ":blob": "499 " + "x" * 500}
        assert len(conn.q("[:find ?tx :where [?tx :db/txInstant]]")) < 15
        conn.transact([{":name": "a", ":blob": "last"}])
        conn.transact([{":name": "b"}])
    for again in (compact, rebuild, compact):
        again(tmp_path / "db")
        assert check_path(tmp_path / "db")[0] == []
    gaps = [(k, v) for k, v in _entries(tmp_path / "db") if k[:1] == b"G"]
    assert 1 < len(gaps) < 9
    for key, value in gaps:
        _put(tmp_path / "db", key, None)
        assert check_path(tmp_path / "db")[0], "a lost gap was not found"
        _put(tmp_path / "db", key, value[:-1] + bytes([value[-1] ^ 1]))
        assert check_path(tmp_path / "db")[0], "a damaged gap was not found"
        _put(tmp_path / "db", key, value)
    assert check_path(tmp_path / "db")[0] == []


def test_compact_refuses_an_open_database(tmp_path: Path) -> None:
    """In place, a database that is open here or elsewhere is left alone; an existing target is refused."""
    _make(tmp_path / "db", transactions=5)
    with d.connect(tmp_path / "db"), pytest.raises(StoreLocked):
        compact(tmp_path / "db")
    import subprocess
    import sys

    from test_environment import ROOT

    other = subprocess.Popen(
        [sys.executable, "-c", "import sys, datalog as d; c = d.connect(sys.argv[1]); print('open', flush=True); input()",
         str(tmp_path / "db")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(StoreLocked):
        compact(tmp_path / "db")
    with pytest.raises(StoreLocked):
        rebuild(tmp_path / "db")
    compact(tmp_path / "db", tmp_path / "copy")
    other.communicate("\n", timeout=20)
    with pytest.raises(StorageError):
        compact(tmp_path / "db", tmp_path / "copy")
    compact(tmp_path / "db")


def test_stats_count(tmp_path: Path) -> None:
    """The figures agree with the facts."""
    expected = _make(tmp_path / "db")
    found = stats(tmp_path / "db")
    assert found["datoms"] == len(expected)
    assert found["transactions"] == 302
    assert sum(found["attributes"].values()) == len(expected)
    assert found["file_bytes"] > sum(found["table_bytes"].values())


def test_an_attribute_emptied_in_the_novelty_and_deleted_leaves_no_index(tmp_path: Path) -> None:
    """Retractions that are merged after the attribute was deleted take its value index along."""
    with d.connect(tmp_path / "db", schema={":a/x": {":db/valueType": ":db.type/long"}}) as conn:
        conn.load({":a/x": ([1, 2, 3], [4, 5, 6])})
        conn.store.transactor.merge()
        conn.transact([[":db/retract", e, ":a/x"] for e in (1, 2, 3)])
        conn.update_schema(delete=[":a/x"])
        conn.store.transactor.merge()
    assert d.check(tmp_path / "db") == []
