"""The portable dump: what was dumped is loaded, exactly; what is damaged is refused; what was killed goes on."""

import gzip
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datalog as d
from exchange import dump as dumping
from exchange.copying import copy_database
from exchange.dump import pack, unpack, write_dump
from exchange.files import whole_file
from exchange.restore import NOTE, load_dump
from store.check import check_path
from store.edn import Char, List, Map, strict_equal

ROOT = Path(__file__).parent.parent
TYPES = {
    "string": st.text(max_size=12),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False).map(lambda x: x + 0.0),
    "boolean": st.booleans(),
    "instant": st.datetimes(timezones=st.just(UTC)),
    "keyword": st.sampled_from(["a", "a/b", "x.y/z?", "ü/ß", "1st"]).map(d.kw),
    "symbol": st.sampled_from(["a", "a/b", "+", "x.y/z"]).map(d.Symbol),
    "uuid": st.uuids(),
    "bytes": st.binary(max_size=8),
    "bigint": st.integers(-(2**90), 2**90),
    "bigdec": st.decimals(allow_nan=False, allow_infinity=False, places=3),
    "ref": st.integers(1, 50),
}
SIMPLE = st.one_of(
    *(TYPES[t] for t in ("string", "long", "double", "boolean", "keyword", "uuid", "bytes", "bigdec")),
    st.characters().map(Char),
)
ANY = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(d.Vector),
        st.lists(inner, max_size=3).map(List),
        st.dictionaries(st.text(max_size=3), inner, max_size=2).map(Map),
        st.builds(d.Tagged, st.sampled_from(["my/tag", "datalog/bytes", "datalog/tagged"]).map(d.Symbol), inner),
    ),
    max_leaves=5,
)


def schema():
    """One and many of every type, an attribute of any value, tuples, a composite, unique attributes."""
    attributes = {
        f":{count}/{t}": {":db/valueType": f":db.type/{t}", ":db/cardinality": f":db.cardinality/{count}"}
        for t in TYPES
        for count in ("one", "many")
    }
    return {
        **attributes,
        ":any/value": {},
        ":tuple/pair": {":db/valueType": ":db.type/tuple", ":db/tupleTypes": [":db.type/long", ":db.type/string"]},
        ":key/a": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity", ":db/doc": 'a "key"'},
        ":key/both": {":db/tupleAttrs": [":key/a", ":one/string"]},
    }


def facts(db):
    """Everything about entities, without transactions."""
    rows = [(x.e, x.a, x.v) for x in db.datoms("eavt")]
    return sorted(rows, key=lambda r: (r[0], r[1], repr(r[2])))


def dumped(db, path):
    """The header of a dump written to a file."""
    with whole_file(path) as out:
        return write_dump(db, out)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    """A database with values of all types is loaded as it was dumped: facts, entity ids, schema; and it is sound."""
    folder = tmp_path_factory.mktemp("dump")
    with d.connect(None, schema()) as conn:
        for _ in range(data.draw(st.integers(1, 3))):
            tx = []
            for e in data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True)):
                tx += [
                    [":db/add", e, f":{c}/{t}", data.draw(TYPES[t])]
                    for t in data.draw(st.sets(st.sampled_from(list(TYPES)), max_size=4))
                    for c in ("one", "many")
                ]
                tx.append([":db/add", e, ":any/value", data.draw(ANY)])
                tx.append([":db/add", e, ":key/a", e])
            conn.transact(tx)
        conn.transact([[":db/add", 7, ":tuple/pair", [1, "x"]], [":db/add", 8, ":db/ident", d.kw("state/open")], [":db/add", 8, ":db/doc", "why"],
                       [":db/add", 9, ":many/ref", ":key/a"]])  # fmt: skip
        db = conn.db()
        dumped(db, folder / "d.dump.gz")
        assert load_dump(folder / "d.dump.gz", folder / "db")["resumed_after"] == 0
        with d.connect(folder / "db", read_only=True) as loaded:
            mine, theirs = facts(db), facts(loaded.db())
            named = loaded.db().entid(":key/a")
            theirs = [
                (e, a, v if (e, a) != (9, ":many/ref") or v < 2**41 else db.entid(":key/a")) for e, a, v in theirs
            ]
            assert named is not None
            assert len(mine) == len(theirs)
            assert all(strict_equal(a, b) for a, b in zip(mine, theirs, strict=True))
            assert loaded.schema == conn.schema
            assert loaded.db().entid(":state/open") == 8
            assert loaded.pull("[:db/doc]", 8) == {":db/doc": "why"}
            written = BytesIO()
            write_dump(loaded.db(), written)
    assert check_path(folder / "db")[0] == []


@given(ANY)
def test_pack(value):
    """Every value is unpacked as it was packed, tags of the dump itself included."""
    text = d.write_edn(pack(value))
    assert strict_equal(unpack(d.read_edn(text)), value)


def test_undeclared_and_empty(tmp_path):
    """A database without declarations, and one without anything, come back as they were."""
    with d.connect(None) as conn:
        conn.transact([{":u/a": 1, ":u/b": [1, "two"]}, {":u/a": "x"}])
        dumped(conn.db(), tmp_path / "u.dump")
        load_dump(tmp_path / "u.dump", tmp_path / "u")
        with d.connect(tmp_path / "u") as loaded:
            assert facts(loaded.db()) == facts(conn.db())
            assert loaded.schema == conn.schema
    with d.connect(None) as conn:
        dumped(conn.db(), tmp_path / "e.dump")
        load_dump(tmp_path / "e.dump", tmp_path / "e")
        assert check_path(tmp_path / "e")[0] == []


def test_what_is_left_out_is_counted(tmp_path):
    """Facts about transactions and references to them are not in a dump, and its header says how many."""
    with d.connect(
        None, {":note/of": {":db/valueType": ":db.type/ref"}, ":note/by": {":db/valueType": ":db.type/string"}}
    ) as conn:
        conn.transact(
            [
                {":db/id": ":db/current-tx", ":note/by": "me"},
                [":db/add", 5, ":note/of", ":db/current-tx"],
                [":db/add", 5, ":note/by", "you"],
            ]
        )
        header = dumped(conn.db(), tmp_path / "d.dump")
    assert header.left_out == {"facts-about-transactions": 1, "references-to-transactions": 1}
    assert load_dump(tmp_path / "d.dump", tmp_path / "db")["datoms"] == 1


@pytest.fixture
def sound(tmp_path, monkeypatch):
    """A dump of several blocks."""
    monkeypatch.setattr(dumping, "BLOCK", 10)
    with d.connect(
        None, {":n/x": {":db/valueType": ":db.type/long"}, ":n/s": {":db/valueType": ":db.type/string"}}
    ) as conn:
        conn.load({":n/x": (range(1, 96), range(95)), ":n/s": (range(1, 42), [f"line\n{i}" for i in range(41)])})
        dumped(conn.db(), tmp_path / "sound.dump")
    return tmp_path / "sound.dump"


def test_damage_is_refused(sound, tmp_path):
    """Any byte changed, any cut, anything lost, moved or added is found before anything is written."""
    whole = sound.read_bytes()
    lines = whole.splitlines(keepends=True)
    places = range(0, len(whole), 97)
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    damaged += [whole[:i] for i in places] + [whole + b"\n", whole[:-1]]
    damaged += [b"".join(lines[:4] + lines[7:]), b"".join(lines[:1] + lines[4:7] + lines[1:4] + lines[7:])]
    file = tmp_path / "damaged.dump"
    for i, content in enumerate(damaged):
        file.write_bytes(content)
        with pytest.raises(d.DatalogError) as caught:
            load_dump(file, tmp_path / "db")
        assert caught.value.code in ("dump/damaged", "dump/format", "dump/version"), i
        assert not (tmp_path / "db").exists(), i
    packed = gzip.compress(whole)
    (tmp_path / "cut.dump.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(d.DatalogError, match="dump/damaged"):
        load_dump(tmp_path / "cut.dump.gz", tmp_path / "db")


def test_another_version(sound, tmp_path):
    """A dump of a version that this release does not know is told so."""
    other = tmp_path / "other.dump"
    other.write_bytes(sound.read_bytes().replace(b"{:datalog/dump 1 ", b"{:datalog/dump 2 ", 1))
    with pytest.raises(d.DatalogError, match="dump/version"):
        load_dump(other, tmp_path / "db")


def test_a_target_that_holds_something_is_refused(sound, tmp_path):
    """Load makes databases; it never writes into one, nor into a directory with files, nor over a file."""
    load_dump(sound, tmp_path / "db")
    with pytest.raises(d.DatalogError, match="is a database already"):
        load_dump(sound, tmp_path / "db")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(d.DatalogError, match="is not empty"):
        load_dump(sound, tmp_path / "full")
    with pytest.raises(d.DatalogError, match="is a file"):
        load_dump(sound, tmp_path / "full" / "x")


KILLED = """
import os, signal, sys
from pathlib import Path
from exchange.restore import load_dump
def step(what, done, of):
    if what == "load" and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
load_dump(Path(sys.argv[1]), Path(sys.argv[2]), step)
"""


def test_a_killed_load_goes_on(sound, tmp_path):
    """A load killed between two blocks, again and again, ends with all facts, each loaded once."""
    target = tmp_path / "db"
    for block in (1, 4, 9):
        child = subprocess.run(
            [sys.executable, "-c", KILLED, sound, target, str(block)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert child.returncode == -signal.SIGKILL
        assert (target / NOTE).exists()
    other = tmp_path / "other.dump"
    with d.connect(None) as conn:
        dumped(conn.db(), other)
    with pytest.raises(d.DatalogError, match="part of another dump"):
        load_dump(other, target)
    assert load_dump(sound, target)["resumed_after"] == 9
    assert not (target / NOTE).exists()
    with d.connect(target, read_only=True) as conn:
        assert conn.q("[:find (count ?e) . :where [?e :n/x]]") == 95
        assert dict(conn.q("[:find ?e ?s :where [?e :n/s ?s]]"))[41] == "line\n40"
    assert check_path(target)[0] == []


def test_copy_while_written_to(tmp_path):
    """A copy of a database under writing has a whole number of transactions, and history with them."""
    with d.connect(
        tmp_path / "db", {":n/x": {":db/valueType": ":db.type/long"}, ":n/y": {":db/valueType": ":db.type/long"}}
    ) as conn:
        over = threading.Event()

        def write():
            n = 0
            while not over.is_set():
                n += 1
                conn.transact([[":db/add", 1, ":n/x", n], [":db/add", 1, ":n/y", -n]])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i in range(5):
                copy_database(tmp_path / "db", tmp_path / f"copy{i}")
        finally:
            over.set()
            writer.join()
    for i in range(5):
        with d.connect(tmp_path / f"copy{i}", read_only=True) as copy:
            values = copy.pull("[:n/x :n/y]", 1) or {":n/x": 0, ":n/y": 0}
            assert values[":n/x"] == -values[":n/y"]
        assert check_path(tmp_path / f"copy{i}")[0] == []
    with pytest.raises(d.DatalogError, match="copy/target"):
        copy_database(tmp_path / "db", tmp_path / "copy0")


@pytest.mark.parametrize(
    ("old", "new"), [(b":blocks ", b':blocks "x" :b '), (b"-transactions 0", b'-transactions "x"'), (b"[{", b"[1 {")]
)
def test_a_header_that_says_nonsense(sound, tmp_path, old, new):
    """A first line that can be read, but is none of a dump, is damage, not a traceback."""
    other = tmp_path / "other.dump"
    other.write_bytes(sound.read_bytes().replace(old, new, 1))
    with pytest.raises(d.DatalogError, match="the first line cannot be read"):
        load_dump(other, tmp_path / "db")


def test_references_to_undeclared_attributes(tmp_path):
    """A fact that refers to an attribute comes back when the attribute was never declared, too."""
    with d.connect(None, {":r/to": {":db/valueType": ":db.type/ref"}}, strict=False) as conn:
        conn.transact([{":z/x": 5}])
        conn.transact([[":db/add", 1, ":r/to", ":z/x"]])
        dumped(conn.db(), tmp_path / "r.dump")
    load_dump(tmp_path / "r.dump", tmp_path / "r")
    with d.connect(tmp_path / "r") as loaded:
        assert loaded.q("[:find ?i . :where [_ :r/to ?a] [?a :db/ident ?i]]") == d.kw("z/x")


@pytest.mark.parametrize(
    "value", [d.kw("a b/c"), d.kw("a("), d.Symbol("x y"), d.Symbol("1"), d.Vector([d.kw("a b"), 1])]
)
def test_names_that_edn_cannot_write(tmp_path, value):
    """Keywords and symbols that Python made of any text are in the dump, and come back."""
    with d.connect(None, strict=False) as conn:
        conn.transact([[":db/add", 1, ":v", value]])
        dumped(conn.db(), tmp_path / "n.dump")
    load_dump(tmp_path / "n.dump", tmp_path / "n")
    with d.connect(tmp_path / "n") as loaded:
        assert strict_equal(loaded.q("[:find ?v . :where [1 :v ?v]]"), value)


def test_copies_and_files_are_on_the_disk(tmp_path, monkeypatch):
    """A copy is synced, with the directory that names it, before it is said to be there; so is a file written whole."""
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle))[1])
    with d.connect(tmp_path / "db") as conn:
        conn.transact([{":a": 1}])
    copy_database(tmp_path / "db", tmp_path / "copy")
    assert {p.stat().st_ino for p in (tmp_path / "copy" / "data.mdb", tmp_path / "copy", tmp_path)} <= set(synced)
    synced.clear()
    with whole_file(tmp_path / "file") as out:
        out.write(b"x")
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
