"""The environment: what is opened, what is refused, and what several users of one directory see."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import datalog as d
from store.errors import ForkedConnection, StorageError, StoreClosed, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SCHEMA = {":n": {":db/valueType": ":db.type/long"}, ":s": {":db/valueType": ":db.type/string"}}


def run_python(
    code: str, *args: str, prefix: tuple[str, ...] = (), timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """A fresh Python process that runs some code."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False,
    )  # fmt: skip


def _fill(path: Path, n: int = 2000) -> None:
    with d.connect(path, schema=SCHEMA, sync=False) as conn:
        conn.load({":n": (range(1, n + 1), list(range(n))), ":s": (range(1, n + 1), [f"text {i}" for i in range(n)])})


def test_an_existing_database_opens_again(tmp_path: Path) -> None:
    """What was written is there after closing and opening, also read-only, also in a path with spaces and umlauts."""
    path = tmp_path / "my däta" / "base"
    _fill(path)
    for read_only in (False, True):
        with d.connect(path, read_only=read_only) as conn:
            assert conn.q("[:find (count ?e) . :where [?e :n]]") == 2000
            assert conn.schema[":n"][":db/valueType"] == d.kw("db.type/long")


def test_a_read_only_connection_does_not_write(tmp_path: Path) -> None:
    """A read-only connection refuses transactions, and refuses to make a database."""
    with pytest.raises(StorageError, match="holds no database"):
        d.connect(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    _fill(tmp_path / "db")
    with d.connect(tmp_path / "db", read_only=True) as conn, pytest.raises(StorageError, match="reading only"):
        conn.transact([{":n": 1}])


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_not_a_signal(tmp_path: Path, part: float) -> None:
    """A short file is refused when it is opened, in a process that lives on to say so."""
    _fill(tmp_path / "db", 20_000)
    file = tmp_path / "db" / "data.mdb"
    size = file.stat().st_size
    with file.open("r+b") as f:
        f.truncate(int(size * part))
    done = run_python(
        """
        import sys, datalog as d
        try:
            conn = d.connect(sys.argv[1])
            print(len(conn.q("[:find ?e ?s :where [?e :s ?s]]")), sum(1 for _ in conn.db().datoms("eavt")))
        except d.DatalogError as e:
            print(e.code)
        """,
        str(tmp_path / "db"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "store/truncated"


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    """A file in place of a directory, text, zeros, an SQLite file and a foreign LMDB file are each refused by name."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        d.connect(tmp_path / "file")
    with pytest.raises(StorageError, match="too long") as caught:
        d.connect(tmp_path / ("x" * 300))
    assert caught.value.code == "store/path"
    for name, content in {
        "text": b"hello " * 5000,
        "zeros": bytes(20_000),
        "sqlite": b"SQLite format 3\0" + bytes(20_000),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").write_bytes(content)
        with pytest.raises(StoreCorrupt) as caught:
            d.connect(tmp_path / name)
        assert caught.value.code == "store/foreign"
        assert (tmp_path / name / "data.mdb").read_bytes() == content
    foreign = lmdb.open(str(tmp_path / "lmdb"), lib_version=0)
    with foreign.begin(write=True) as txn:
        txn.put(b"k", b"v")
    foreign.close()
    with pytest.raises(StoreCorrupt, match="not a datalog database"):
        d.connect(tmp_path / "lmdb")


def test_an_emptied_database_is_not_a_new_one(tmp_path: Path) -> None:
    """A data file that was emptied or removed beside its identity file is refused."""
    _fill(tmp_path / "db")
    file = tmp_path / "db" / "data.mdb"
    file.write_bytes(b"")
    with pytest.raises(StoreCorrupt, match="truncated"):
        d.connect(tmp_path / "db")
    file.unlink()
    with pytest.raises(StoreCorrupt, match="is gone"):
        d.connect(tmp_path / "db")


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    """A database of another format says which."""
    _fill(tmp_path / "db")
    env = lmdb.open(str(tmp_path / "db"), lib_version=0)
    import struct
    from zlib import crc32

    with env.begin(write=True) as txn:
        body = struct.pack("<I", 99) + txn.get(b"M")[8:]
        txn.put(b"M", struct.pack("<I", crc32(body)) + body)
    env.close()
    with pytest.raises(StoreCorrupt, match="format 99"):
        d.connect(tmp_path / "db")


def test_two_connections_of_a_process_share_the_store(tmp_path: Path) -> None:
    """Connecting twice, also through a symbolic link, gives two connections to one store; the last one closes it."""
    first = d.connect(tmp_path / "db", schema=SCHEMA, sync=False)
    (tmp_path / "link").symlink_to(tmp_path / "db")
    second = d.connect(tmp_path / "link")
    first.transact([{":n": 1}])
    assert second.q("[:find ?n . :where [_ :n ?n]]") == 1
    first.close()
    second.transact([{":n": 2}])
    assert sorted(second.q("[:find [?n ...] :where [_ :n ?n]]")) == [1, 2]
    second.close()
    second.close()
    with pytest.raises(StoreClosed):
        second.db()


def test_a_value_of_a_closed_database_says_so(tmp_path: Path) -> None:
    """Reading a Db after its connection closed is an error of ours, not a crash."""
    conn = d.connect(tmp_path / "db", schema=SCHEMA, sync=False)
    conn.load({":n": (range(1, 10_001), range(10_000))})
    db = conn.db()
    conn.close()
    with pytest.raises(StoreClosed):
        list(db.datoms("eavt"))


def test_a_forked_child_is_told(tmp_path: Path) -> None:
    """A forked child cannot use its parent's connection, can open its own, and the parent is unharmed."""
    done = run_python(
        """
        import os, sys, datalog as d
        conn = d.connect(sys.argv[1], schema={":n": {":db/valueType": ":db.type/long"}}, sync=False)
        conn.transact([{":n": 1}])
        db = conn.db()
        pid = os.fork()
        if pid == 0:
            codes = []
            for f in (lambda: conn.transact([{":n": 2}]), lambda: conn.db(), lambda: db.snapshot.base.txn.get(b"M")):
                try:
                    f()
                    codes.append("ran")
                except d.DatalogError as e:
                    codes.append(e.code)
            own = d.connect(sys.argv[1])
            own.transact([{":n": 3}])
            codes.append(str(sorted(own.q("[:find [?n ...] :where [_ :n ?n]]"))))
            own.close()
            print("child", codes, flush=True)
            os._exit(0)
        print("status", os.waitpid(pid, 0)[1])
        conn.transact([{":n": 4}])
        print("parent", sorted(conn.q("[:find [?n ...] :where [_ :n ?n]]")))
        conn.close()
        """,
        str(tmp_path / "db"),
    )
    assert done.returncode == 0, done.stderr
    assert "child ['store/forked', 'store/forked', 'store/forked', '[1, 3]']" in done.stdout
    assert "status 0" in done.stdout
    assert "parent [1, 3, 4]" in done.stdout
    assert issubclass(ForkedConnection, StorageError)


def test_two_processes_writing_in_turn_agree(tmp_path: Path) -> None:
    """With warm caches on both sides, new values, attributes, entities and merges of one process are seen by the other."""
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, datalog as d
                conn = d.connect(sys.argv[1], sync=False)
                for line in sys.stdin:
                    i = int(line)
                    conn.transact([{":s": f"other {i}", ":n": i}, {":s": f"shared {i}"}])
                    if i % 7 == 0:
                        conn.update_schema({f":new{i}": {":db/valueType": ":db.type/string"}})
                        conn.transact([{f":new{i}": f"shared {i}"}])
                    if i % 5 == 0:
                        conn.store.transactor.merge()
                    print(conn.q("[:find (count ?e) . :where [?e :s]]"), flush=True)
                """
            ),
            str(tmp_path / "db"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        expected = 0
        for i in range(1, 41):
            conn.transact([{":s": f"mine {i}", ":n": i}, {":s": f"shared {i}"}])
            expected += 2
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write(f"{i}\n")
            other.stdin.flush()
            expected += 2
            assert int(other.stdout.readline()) == expected
            assert conn.q("[:find (count ?e) . :where [?e :s]]") == expected
            assert conn.q("[:find (count ?e) . :in $ ?s :where [?e :s ?s]]", f"shared {i}") == 2
            if i % 7 == 0:
                assert conn.q(f"[:find ?s . :where [_ :new{i} ?s]]") == f"shared {i}"
            if i % 9 == 0:
                conn.store.transactor.merge()
        other.stdin.close()
        other.wait(timeout=30)
        other.stdout.close()
    from store.check import check_path

    assert check_path(tmp_path / "db")[0] == []


def test_an_aborted_transaction_leaves_no_codes(tmp_path: Path) -> None:
    """The values of a refused transaction are not found, and their codes go to others."""
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        before = conn.store.meta.next_code
        for i in range(5):
            with pytest.raises(d.DatalogError):
                conn.transact([{":s": f"ghost {i}"}, {":n": "no number"}])
        assert conn.store.meta.next_code == before
        assert conn.store.dictionary.find("ghost 0") is None
        conn.transact([{":s": "real"}])
        assert conn.q("[:find ?s . :where [_ :s ?s]]") == "real"
        assert conn.q('[:find ?e . :where [?e :s "ghost 1"]]') is None


def test_snapshots_hold_while_the_database_grows(tmp_path: Path) -> None:
    """Ten snapshots taken on the way still answer as they did, after merges and many commits."""
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        held = []
        for i in range(10):
            conn.load({":n": (range(1 + i * 1000, 1001 + i * 1000), range(1000))})
            conn.transact([[":db/add", 1, ":s", f"now {i}"]])
            held.append(conn.db())
        for i, db in enumerate(held):
            assert db.q("[:find (count ?e) . :where [?e :n]]") == 1000 * (i + 1)
            assert db.q("[:find ?s . :where [1 :s ?s]]") == f"now {i}"
        assert conn.store.oldest_snapshot_tx() < conn.store.meta.basis_tx
        del held, db
        gc.collect()


def test_thousands_of_reports_can_be_kept(tmp_path: Path) -> None:
    """Five thousand reports, each with its two databases, are kept and still right."""
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        reports = [conn.transact([[":db/add", 1, ":n", i]]) for i in range(5000)]
        dbs = [(r.db_before, r.db_after) for r in reports]
        for i in (1, 17, 2500, 4999):
            assert dbs[i][0].q("[:find ?n . :where [1 :n ?n]]") == i - 1
            assert dbs[i][1].q("[:find ?n . :where [1 :n ?n]]") == i


def test_it_opens_under_a_limit_of_address_space(tmp_path: Path) -> None:
    """Under `ulimit -v` of 8 GB the map is halved until it fits, and the database works."""
    done = run_python(
        """
        import sys, resource
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        import datalog as d
        conn = d.connect(sys.argv[1], schema={":n": {":db/valueType": ":db.type/long"}})
        conn.load({":n": (range(1, 100001), range(100000))})
        print(conn.q("[:find (sum ?n) . :where [_ :n ?n]]"), conn.store.env.stat()["map_size_bytes"] < 8 << 30)
        """,
        str(tmp_path / "db"),
    )
    assert done.stdout.split() == ["4999950000", "True"], done.stderr


def test_a_full_map_is_a_clear_error_and_the_data_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the map is full the transaction is refused, and what was there is still there."""
    from store import environment

    monkeypatch.setattr(environment, "MAP_SIZE_BYTES", 1 << 20)
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        conn.transact([{":n": 1}])
        with pytest.raises(StorageError) as caught:
            conn.load({":s": (range(1, 50_001), [f"{i}" * 20 for i in range(50_000)])})
        assert caught.value.code == "store/full"
        assert conn.q("[:find ?n . :where [_ :n ?n]]") == 1
        conn.transact([{":n": 2}])
        assert conn.q("[:find (count ?e) . :where [?e :n]]") == 2


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a disk that fills up the transaction is refused, the data stays, and work goes on when space is freed."""
    done = run_python(
        """
        import os, sys, datalog as d
        path = sys.argv[1]
        if os.system(f"mount -t tmpfs -o size=4m none {path}") != 0:
            print("no mount"); raise SystemExit
        with open(f"{path}/ballast", "wb") as f:
            f.write(bytes(1 << 20))
        conn = d.connect(f"{path}/db", schema={":s": {":db/valueType": ":db.type/string"}})
        made, codes = 0, set()
        for i in range(200):
            try:
                conn.transact([{":s": str(i) + os.urandom(20000).hex()}])
                made += 1
            except d.DatalogError as e:
                codes.add(e.code)
                break
        os.remove(f"{path}/ballast")
        conn.close()
        conn = d.connect(f"{path}/db")
        assert conn.q("[:find (count ?e) . :where [?e :s]]") == made, made
        conn.transact([{":s": "after"}])
        print(sorted(codes), conn.q("[:find (count ?e) . :where [?e :s]]") == made + 1)
        """,
        str(tmp_path),
        prefix=("unshare", "-m"),
    )
    if "no mount" in done.stdout or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.stdout.strip() == "['store/disk-full'] True", done.stdout + done.stderr


def test_import_is_light() -> None:
    """Importing the package loads no heavy module."""
    done = run_python(
        """
        import sys, datalog
        heavy = {"numpy", "lmdb", "lark", "orjson", "rich", "prompt_toolkit", "nanoarrow", "pandas", "polars", "pyarrow", "hypothesis", "asyncio"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_reading_loads_nothing_that_writes(tmp_path: Path) -> None:
    """A program that asks a query loads neither the way of a transaction nor what few queries need; the first write loads it."""
    with d.connect(tmp_path / "db", {":s": {":db/valueType": ":db.type/string"}}) as conn:
        conn.transact([{":s": "a"}])
    done = run_python(
        """
        import sys, datalog as d
        conn = d.connect(sys.argv[1])
        assert conn.q("[:find ?s . :where [_ :s ?s]]") == "a"
        late = {"transactor", "speculation", "txdata", "resolve", "effects", "prepare", "plain", "commit", "group", "merge", "load",
                "composition", "undo", "schema_change"}
        names = {f"store.{name}" for name in late} | {"datalog.atomic", "datalog.naive", "lark", "orjson", "pathlib", "shutil"}
        print(sorted(names & set(sys.modules)))
        conn.transact([{":s": "b"}])
        print(sorted(names - set(sys.modules)), len(conn.db()))
        """,
        str(tmp_path / "db"),
    )
    first, second = done.stdout.splitlines()
    assert first == "[]", done.stderr
    assert "store." not in second.replace("store.speculation", "")
    assert second.endswith(" 2")


def test_every_public_name_is_loaded_when_it_is_used() -> None:
    """The table of lazily loaded names is the public list, each name resolves, and a misspelt one is an AttributeError."""
    done = run_python(
        """
        import datalog as d
        assert d._MODULE_OF.keys() | {"kw"} == set(d.__all__), set(d.__all__) ^ d._MODULE_OF.keys()
        assert set(d.__all__) <= set(dir(d))
        from datalog import *
        assert all(getattr(d, name) is globals()[name] for name in d.__all__) and d.kw is d.Keyword
        try:
            d.conect
        except AttributeError as e:
            print(e)
        """
    )
    assert done.stdout.strip() == "module 'datalog' has no attribute 'conect'", done.stderr


def test_ephemeral_databases_leave_nothing() -> None:
    """A database without a path has a private directory that is gone after close."""
    conn = d.connect(None, schema=SCHEMA)
    path = conn.path
    assert path.exists()
    conn.close()
    assert not path.exists()


def test_a_reader_does_not_wait_for_a_transaction(tmp_path: Path) -> None:
    """While a transaction function runs, other threads read what was there before; right after it, what it wrote."""
    with d.connect(tmp_path / "db", schema=SCHEMA, sync=False) as conn:
        conn.transact([{":db/id": 1, ":n": 1}])
        seen: list[int] = []

        def slow(_: d.Db) -> list[Any]:
            reader = threading.Thread(target=lambda: seen.append(conn.q("[:find ?n . :where [1 :n ?n]]")))
            reader.start()
            reader.join(20)
            assert seen, "the reader waits"
            return [[":db/add", 1, ":n", 2]]

        conn.transact([[":db.fn/call", slow]])
        assert seen == [1]
        assert conn.q("[:find ?n . :where [1 :n ?n]]") == 2
        # another process commits: whoever reads after it sees that, also while a transaction here waits for its turn
        code = "import sys, datalog as d\nwith d.connect(sys.argv[1]) as c: c.transact([[':db/add', 1, ':n', 3]])"
        run_python(code, str(tmp_path / "db")).check_returncode()
        with conn.store.lock:  # a transaction that has not got LMDB's lock yet
            reader = threading.Thread(target=lambda: seen.append(conn.q("[:find ?n . :where [1 :n ?n]]")))
            reader.start()
            reader.join(0.1)
            assert seen == [1], "an older state was read"
        reader.join(20)
        assert seen == [1, 3]


@pytest.fixture
def _busy_threads() -> Iterator[None]:
    """Threads take turns a hundred times as often: what two of them can do to each other happens."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_busy_threads")
def test_threads_read_while_one_writes(tmp_path: Path) -> None:
    """Readers in other threads always see whole transactions while a writer goes on."""
    faults: list[Any] = []
    stop = threading.Event()
    with d.connect(tmp_path / "db", schema={**SCHEMA, ":m": {":db/valueType": ":db.type/long"}}, sync=False) as conn:
        conn.transact([{":db/id": 1, ":n": 0, ":m": 0}])

        def read() -> None:
            while not stop.is_set():
                try:
                    row = conn.q("[:find [?n ?m] :where [1 :n ?n] [1 :m ?m]]")
                    if row is None or row[0] != -row[1]:
                        faults.append(row)
                except Exception as e:  # noqa: BLE001 - whatever goes wrong is what the test is about
                    faults.append(e)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for t in threads:
            t.start()
        for i in range(400):
            conn.transact([{":db/id": 1, ":n": i, ":m": -i}])
            if i % 100 == 50:
                conn.store.transactor.merge()
        stop.set()
        for t in threads:
            t.join()
    assert faults == []
