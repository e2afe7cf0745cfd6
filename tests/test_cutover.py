"""Moves between stages: gates, crashes at every step, ways back that lose nothing; backfill, verification, repair, the end."""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest
from staged import EXAMPLE, UNTIMED, Images, climb, command, edn, opened

import datalog as d
from datalog import kw
from datalog.api import Connection
from migration import entities, finish, writing
from migration.backfill import Backfill
from migration.buckets import are_settled, bucket_sums, scanned_sums
from migration.checking import check_memory, compare_digests, repair
from migration.cutover import move, plan, roll_back
from migration.entry import entry_of
from migration.finish import archive, completion, learning_index, write_report
from migration.gates import Limits
from migration.memory import MemoryStore
from migration.modes import STAGES
from migration.source import read_memory
from migration.stages import StageRecord
from migration.telemetry import Histogram, to_json_lines, to_logging, to_opentelemetry, to_prometheus
from migration.verify import verify
from store.errors import StorageError, StoreCorrupt, UserError

ROOT = Path(__file__).parent.parent


def example(folder):
    """A folder with the example memory; returns what it holds."""
    shutil.copy(EXAMPLE, folder / "memory.edn")
    return dict(read_memory(EXAMPLE).pairs())


# -- crashes


EDGES = [(STAGES[n], STAGES[n + 1]) for n in range(5)] + [
    ("datalog-only", "rampdown"), ("datalog-only", "edn-only"), ("rampdown", "dual-write"), ("datalog-first", "edn-only"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), EDGES, ids=lambda s: s)
def test_a_crash_at_every_step_of_a_move(tmp_path, monkeypatch, source, target):
    """Whatever step a move is killed at: nothing is lost, the stage is the old or the new one, and it can go on from there."""
    folder = tmp_path / "live"
    folder.mkdir()
    expected = {kw(f"k/{n}"): n for n in range(12)} | {
        kw("nothing"): None,
        kw("presence/p"): edn('{:ada {:user-name "A"}}'),
    }
    images = Images(monkeypatch, folder, tmp_path / "images")
    with opened(folder) as memory:
        climb(memory, "dual-write")
        climb(memory, source)
        for key, value in expected.items():
            memory.save_value(key, value)
        memory.save_value(kw("gone"), 1)
        memory.delete_value(kw("gone"))
        real = Connection.transact
        monkeypatch.setattr(Connection, "transact", lambda *a, **k: (images.take(), real(*a, **k))[1])
        with images.taking():
            if STAGES.index(target) > STAGES.index(source):
                move(memory, target, limits=UNTIMED)
            else:
                roll_back(memory, target)
        monkeypatch.setattr(Connection, "transact", real)
    assert len(images.taken) > 2
    stages = set()
    for image, _ in images.taken[:: 1 + len(images.taken) // 12]:  # evenly spread: all of them take minutes
        with opened(image) as memory:
            assert memory.get_all() == expected, image
            stages |= {memory.record.of(k).stage for k in memory.keymap.data_kinds}
            memory.save_value(kw("k/0"), "after")
            assert memory.get_all() == {**expected, kw("k/0"): "after"}
            roll_back(memory, "edn-only")
            assert memory.get_all() == {**expected, kw("k/0"): "after"}
        shutil.rmtree(image)
    assert stages <= {source, target}


def test_saves_during_a_move(tmp_path):
    """A save that waits for a move in either direction happens once, in the new stage, and is seen."""
    with opened(tmp_path) as memory:
        climb(memory, "rampdown")
        stop, last = threading.Event(), {}

        def save(name):
            n = 0
            while not stop.is_set():
                n += 1
                memory.update(kw(f"n/{name}"), lambda old: old + 1, default=0)
                last[name] = n

        threads = [threading.Thread(target=save, args=(name,)) for name in "ab"]
        for t in threads:
            t.start()
        for _ in range(6):
            move(memory, "datalog-only", limits=UNTIMED)
            roll_back(memory, "rampdown")
        stop.set()
        for t in threads:
            t.join()
        assert memory.get_all() == {kw(f"n/{name}"): n for name, n in last.items()}


# -- gates


def test_a_gate_refuses_with_figures_and_force_is_recorded(tmp_path):
    """An unfilled kind stops the move; forced, it is made and said so; what would lose a save is never forced."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        gate = plan(memory, "shadow", limits=UNTIMED)
        assert not gate.passed
        assert gate.figures()["filled: session"] == "clean"
        with pytest.raises(UserError, match="stage/gate") as caught:
            move(memory, "shadow", limits=UNTIMED)
        assert "filled: session" in caught.value.data["failed"]
        assert memory.stage_name() == "dual-write"
        before = memory.get_all()
        for stage in ("shadow", "datalog-first", "rampdown"):
            move(memory, stage, limits=UNTIMED, force=True, who="ada", why="try")
            last = memory.record.history[-1]
            assert (last.forced, last.who, last.why, last.target) == (True, "ada", "try", stage)
            assert memory.get_all() == before
        with pytest.raises(UserError, match="cannot be forced"):
            move(memory, "datalog-only", limits=UNTIMED, force=True)
        Backfill(memory).run()
        move(memory, "datalog-only", limits=UNTIMED)
        assert memory.get_all() == before


def test_a_difference_stops_the_gate(tmp_path):
    """Digests that differ are named by kind."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "shadow")
        some = next(k for k in memory.keys() if k.ns == "collab-session")
        memory.side.conn.transact([[":db/add", [":memory/key", some], ":memory/digest", 5]])
        gate = plan(memory, "datalog-first", limits=UNTIMED)
        # a digest changed by hand is not in the kept sums: the full verification is what finds it
        assert gate.passed
        assert check_memory(memory).counts == {"stale": 1}
        assert repair(memory).equal_after
        memory.edn.put([entry_of(kw("presence/x"), {})])
        gate = plan(memory, "datalog-first", limits=UNTIMED)
        assert [c.name for c in gate.failed] == ["digests"]
        assert gate.figures()["digests"] == "differ: session"


def test_latency_gates_are_measured_and_have_limits(tmp_path):
    """Reads, queries and saves are measured on both sides; a limit that cannot be met refuses with both figures."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "shadow")
        for n in range(60):
            memory.save_value(kw(f"k/{n}"), n)
        never = Limits(read_ratio=1e-9, read_slack_us=-1e9, query_ratio=1e-9, save_ratio=1e-9)
        gate = plan(memory, "datalog-first", limits=never)
        failed = {c.name.split(" ")[0] for c in gate.failed}
        assert failed == {"point", "query", "durable"}
        always = Limits(read_ratio=1e9, query_ratio=1e9, save_ratio=1e9)
        assert plan(memory, "datalog-first", limits=always).passed
        assert "EDN" in gate.figures()["point read p95"]
        assert not list(tmp_path.glob(".*gate*"))


def test_moves_that_there_are_not(tmp_path):
    """Only one step up, from a whole kind, to a stage that there is."""
    with opened(tmp_path) as memory:
        for target, code in (("shadow", "stage/move"), ("nowhere", "stage/unknown")):
            with pytest.raises(UserError, match=code):
                move(memory, target)
        with pytest.raises(UserError, match="memory/kind"):
            move(memory, "dual-write", kinds=["nobody"])
        move(memory, "dual-write", percent=50, limits=UNTIMED)
        with pytest.raises(UserError, match="stage/percent"):
            move(memory, "shadow")
        with pytest.raises(UserError, match="stage/unknown"):
            roll_back(memory, "nowhere")
        assert roll_back(memory, "rampdown") == []


def test_a_mapping_that_collides_is_found_before_the_first_write(tmp_path):
    """Two keys that would meet in one entity stop the move to dual-write; the database is not filled."""
    bad = '{:rules [{:kind :user :data :user :match {:namespace "user"} :entity {:identity :cache/key :given {:cache/key {:always :same}} :parts {}}}]}'
    keymap = opened(tmp_path).keymap.extended(bad)
    (tmp_path / "memory.edn").write_text("{:user/a {} :user/b {}}")
    with opened(tmp_path, keymap=keymap) as memory, pytest.raises(UserError, match="stage/gate") as caught:
        move(memory, "dual-write")
    assert "pairs of keys would meet" in str(caught.value)


def test_a_record_is_text_and_back(tmp_path):
    """A stage record survives its text; damaged text is refused with its place."""
    with opened(tmp_path) as memory:
        climb(memory, "rampdown")
        record = memory.record
    assert StageRecord.read(record.text(), "x") == record
    (tmp_path / "memory.edn.stage").write_text("{:format 2}")
    with opened(tmp_path) as memory, pytest.raises(StoreCorrupt, match="stage/damaged"):
        memory.keys()


@pytest.mark.parametrize("source", STAGES[1:])
@pytest.mark.parametrize("target", STAGES[:-1])
def test_every_way_back_keeps_every_save(tmp_path, source, target):
    """From each stage to each below it: what was saved, deleted and made again is there."""
    with opened(tmp_path) as memory:
        climb(memory, "dual-write")
        memory.save_value(kw("a"), 1)
        memory.save_value(kw("b"), 1)
        climb(memory, source)
        memory.save_value(kw("a"), False)
        memory.delete_value(kw("b"))
        memory.save_value(kw("c"), None)
        roll_back(memory, target)
        assert memory.get_all() == {kw("a"): False, kw("c"): None}
    with opened(tmp_path) as memory:
        assert memory.get_all() == {kw("a"): False, kw("c"): None}
        if memory.stage_name() not in ("edn-only", "datalog-only"):
            assert check_memory(memory).equal


# -- backfill


def test_backfill_in_order_and_idempotent(tmp_path):
    """Kinds in the order of the rules; a second run finds nothing to do; everything is equal."""
    everything = example(tmp_path)
    steps = []
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        filled = Backfill(memory, chunk=37, progress=lambda step, done, of: steps.append((step, done, of))).run()
        assert list(filled.kinds) == ["session", "project", "learning", "cache"]
        assert (filled.keys, filled.added, filled.complete) == (len(everything), len(everything), True)
        assert list(dict.fromkeys(s for s, _, _ in steps)) == [
            "fill session",
            "fill project",
            "fill learning",
            "fill cache",
        ]
        again = Backfill(memory).run()
        assert (again.keys, again.added, again.complete) == (0, 0, True)
        assert check_memory(memory).equal
        assert verify(memory.side.conn.db(), memory.keymap, everything).equal


def test_backfill_paused_and_killed_goes_on(tmp_path):
    """Paused after some chunks, opened anew, it goes on behind the last one."""
    everything = example(tmp_path)
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        fill = Backfill(memory, ["cache", "session"], chunk=10)
        fill._progress = lambda _step, done, _of: fill.pause() if done >= 30 else None
        first = fill.run()
        assert not first.complete
        assert list(first.kinds) == ["cache"]
    with opened(tmp_path) as memory:
        second = Backfill(memory).start().wait()
        assert second.resumed == ["cache"]
        assert second.complete
        assert first.keys + second.keys == len(everything)
        assert check_memory(memory).equal


def test_backfill_never_overwrites_a_newer_save(tmp_path, monkeypatch):
    """Saves made while a chunk is on its way to the database win, whatever the chunk held."""
    (tmp_path / "memory.edn").write_text("{" + " ".join(f":k/{n} 0" for n in range(300)) + "}")
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        real = Connection.load
        saved = []

        def load(conn, columns):
            for n in range(0, 300, 7):
                memory.save_value(kw(f"k/{n}"), "newer")
                saved.append(n)
            memory.delete_value(kw("k/1"))
            return real(conn, columns)

        monkeypatch.setattr(Connection, "load", load)
        Backfill(memory).run()
        assert saved
        memory.save_now()
        wanted = {kw(f"k/{n}"): "newer" if n % 7 == 0 else 0 for n in range(300) if n != 1}
        assert memory.get_all() == wanted
        assert check_memory(memory).equal
        assert {k: v for k, v in memory.side.read_all().items() if not memory.is_absent(v)} == wanted


def test_backfill_takes_its_time(tmp_path):
    """A rate and a share of the time are kept to by rest, which is counted."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        filled = Backfill(memory, ["session"], chunk=20, keys_per_s=1_000, share=0.9).run()
        assert filled.throttled_s > 0
        assert filled.keys / filled.seconds < 1_100
        for wrong in ({"chunk": 0}, {"share": 0}, {"keys_per_s": -1}):
            with pytest.raises(UserError, match="memory/backfill"):
                Backfill(memory, **wrong)


def test_backfill_after_the_database_was_left_alone(tmp_path):
    """What was changed and deleted in edn-only reaches the database when it is taken up again, and does not come back."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        roll_back(memory)
        keys = memory.keys()
        for key in keys[:20]:
            memory.delete_value(key)
        for key in keys[20:40]:
            memory.save_value(key, "changed")
        wanted = memory.get_all()
        climb(memory, "rampdown")
        assert memory.get_all() == wanted
        assert check_memory(memory).equal


# -- digests, verification, repair


def test_bucket_sums_are_those_of_the_keys(tmp_path):
    """After any saves, deletions and fills the kept sums are what adding up gives."""
    example(tmp_path)
    own = random.Random(3)
    with opened(tmp_path) as memory:
        climb(memory, "datalog-first")
        keys = memory.keys()
        for n in range(300):
            key = own.choice(keys)
            if own.random() < 0.3:
                memory.delete_value(key)
            else:
                memory.save_value(key, own.choice([n, None, edn("{:owner :x}")]))
        memory.save_now()
        db = memory.side.conn.db()
        assert bucket_sums(db) == {b: v for b, v in scanned_sums(db, memory.keymap).items() if v != (0, 0)}
        climb(memory, "datalog-only")
        memory.clear_memory()
        assert bucket_sums(memory.side.conn.db()) == {}


def test_a_load_that_was_killed_before_its_sums(tmp_path, monkeypatch):
    """Rows without sums say so, and the next who opens adds them up."""
    everything = example(tmp_path)
    with opened(tmp_path) as memory:
        move(memory, "dual-write", limits=UNTIMED)
        monkeypatch.setattr(entities, "bucket_operations", lambda *_: 1 / 0)
        monkeypatch.setattr(writing, "_BULK", 1)
        with pytest.raises(d.DatalogError):
            Backfill(memory, chunk=1000).run()
        monkeypatch.undo()
        assert not are_settled(memory.side.conn.db())
    with opened(tmp_path) as memory:
        assert are_settled(memory.side.conn.db())
        Backfill(memory).run()
        assert compare_digests(memory).equal
        assert compare_digests(memory, recount=True).equal
        assert compare_digests(memory).keys == len(everything)


@pytest.mark.parametrize("how", ["full", "incremental"])
def test_verification_finds_and_repair_mends(tmp_path, how):
    """What was changed past the mapping is found with its path and last writer; a dry run writes nothing; a repair mends."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "shadow")
        assert check_memory(memory, how).equal
        memory.save_value(kw("collab-session/s"), {kw("owner"): kw("ada"), kw("n"): 1})
        memory.save_value(kw("k/extra"), 1)
        memory.save_value(kw("k/missing"), 1)
        memory.save_now()
        conn = memory.side.conn
        conn.transact([{":session/id": "s", ":session/owner": kw("mallory")}])
        with memory.lock:
            memory.edn.delete([kw("k/extra")])
        memory.side.bring({kw("k/missing"): None})
        found = check_memory(memory, how)
        assert found.counts == {"different": 1, "extra": 1, "missing": 1}
        one = next(f for f in found.findings if f.what == "different")
        assert one.difference.path == (kw("owner"),)
        assert one.as_dict()["last_writer"]["tx"] > 0
        basis = conn.db().basis_tx
        dry = repair(memory, dry_run=True, how=how)
        assert (len(dry.keys), dry.written, conn.db().basis_tx) == (3, 0, basis)
        done = repair(memory, how=how)
        assert (done.written, done.equal_after) == (3, True)
        assert check_memory(memory).equal
        assert compare_digests(memory, recount=True).equal


def test_repair_from_the_database(tmp_path):
    """The EDN side is brought to what the database holds."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "rampdown")
        wanted = memory.get_all()
        with memory.lock:
            memory.edn.delete([next(iter(wanted))])
            memory.edn.put([entry_of(kw("k/alien"), 1)])
        assert not check_memory(memory).equal
        assert repair(memory, source="database").equal_after
        roll_back(memory)
        assert memory.get_all() == wanted
        with pytest.raises(UserError, match="memory/repair"):
            repair(memory, source="nobody")
        with pytest.raises(UserError, match="memory/verify"):
            check_memory(memory, "badly")


def test_a_sample_is_repeated_by_its_seed(tmp_path):
    """A sample compares so many keys; the same seed the same ones."""
    example(tmp_path)
    with opened(tmp_path) as memory:
        climb(memory, "shadow")
        a, b = (check_memory(memory, "sample", sample=50, seed=4) for _ in range(2))
        assert a.keys == a.same == 50
        assert a.memory_digest == b.memory_digest


# -- the end


def test_archive_and_report(tmp_path, monkeypatch):
    """The EDN side is put away with a manifest of digests; the report is written as Markdown, EDN, JSON and SVG."""
    everything = example(tmp_path)
    with opened(tmp_path) as memory:
        with pytest.raises(UserError, match="memory/archive"):
            archive(memory)
        climb(memory, "rampdown")
        assert check_memory(memory).equal
        climb(memory, "datalog-only")
        memory.save_value(kw("k/late"), 1)
        manifest = archive(memory, who="ada")
        folder = tmp_path / "memory.edn.archive"
        assert json.loads((folder / "manifest.json").read_text()) == manifest
        assert {"memory.edn", "database.edn"} <= set(manifest["files"])
        for name, of in manifest["files"].items():
            assert sha256((folder / name).read_bytes()).hexdigest() == of["sha256"]
        assert dict(read_memory(folder / "memory.edn").pairs()) == everything
        assert dict(read_memory(folder / "database.edn").pairs()) == {**everything, kw("k/late"): 1}
        assert not (tmp_path / "memory.edn").exists()
        assert memory.migration_status()["archived"]
        report = write_report(memory, tmp_path / "report")
        assert report["complete"]
        assert sum(k["keys"] for k in report["kinds"].values()) == len(everything) + 1
        assert [m["to"] for m in report["history"]] == [*STAGES[1:], "archived"]
        text = (tmp_path / "report" / "report.md").read_text()
        assert "| session | datalog-only |" in text
        assert json.loads((tmp_path / "report" / "report.json").read_text())["stage"] == "datalog-only"
        edn((tmp_path / "report" / "report.edn").read_text())
        plots = list((tmp_path / "report").glob("*.svg"))
        assert len(plots) == 5
        for plot in plots:
            ElementTree.fromstring(plot.read_text())
        assert archive(memory)["keys"] == len(everything) + 1  # again, after a kill: the same
        with monkeypatch.context() as patched:  # a record of before the folder was noted in it
            patched.setattr(type(memory.record), "archive_folder", lambda _: None)
            archive(memory)
        assert not (tmp_path / "memory.edn.archive.2").exists()
    code = (
        "import sys; from datalog import kw; from migration.memory import MemoryStore\n"
        "with MemoryStore(sys.argv[1], sys.argv[2]) as m:\n"
        "    assert m.get_value(kw('k/late')) == 1; m.save_value(kw('k/late'), 2)\n"
        "assert not {'migration.edn_side', 'migration.source'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "memory.edn", tmp_path / "memory.db"], check=True, cwd=ROOT)
    assert not (tmp_path / "memory.edn").exists()
    with opened(tmp_path) as memory:  # the emergency: back to a file
        roll_back(memory)
        assert memory.get_all() == {**everything, kw("k/late"): 2}
        assert not memory.record.archived
    assert dict(read_memory(tmp_path / "memory.edn").pairs()) == {**everything, kw("k/late"): 2}
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with opened(tmp_path) as memory:  # and there again: what was put away first stays as it was
        climb(memory, "datalog-only")
        second = archive(memory)
        assert archive(memory)["files"].keys() == second["files"].keys()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    folder = tmp_path / "memory.edn.archive.2"
    assert dict(read_memory(folder / "memory.edn").pairs()) == {**everything, kw("k/late"): 2}
    assert json.loads((folder / "manifest.json").read_text())["keys"] == len(everything) + 1
    assert not (tmp_path / "memory.edn.archive.3").exists()


def test_archives_never_overwrite_each_other(tmp_path, monkeypatch):
    """Not one that was killed before its manifest and rolled back; nor another when the newest one was taken elsewhere."""
    example(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with opened(tmp_path) as memory:
        climb(memory, "datalog-only")
        monkeypatch.setattr(finish, "sync_directory", killed)
        with pytest.raises(KeyboardInterrupt):
            archive(memory)
        monkeypatch.undo()
    first = tmp_path / "memory.edn.archive"
    assert "manifest.json" not in {p.name for p in first.iterdir()}
    before = {p.name: p.read_bytes() for p in first.iterdir()}
    assert "memory.edn" in before
    with opened(tmp_path) as memory:
        roll_back(memory)
        memory.save_value(kw("k/late"), 5)
    with opened(tmp_path) as memory:
        climb(memory, "datalog-only")
        archive(memory)
        (tmp_path / "memory.edn.archive.2").rename(tmp_path / "elsewhere")
        archive(memory)
    assert {p.name: p.read_bytes() for p in first.iterdir()} == before
    assert read_memory(tmp_path / "elsewhere" / "memory.edn").get(kw("k/late")) == 5
    assert {p.name for p in (tmp_path / "memory.edn.archive.2").iterdir()} == {"database.edn", "manifest.json"}


def test_the_learning_index_from_its_entities(tmp_path):
    """An index that says what the learnings say is known to be derivable; one that does not is not."""
    with opened(tmp_path) as memory:
        climb(memory, "dual-write")
        for n in range(4):
            memory.save_value(kw(f"learning/l{n}"), {kw("learning/id"): f"l{n}", kw("learning/user"): kw(f"u{n % 2}")})
        memory.save_value(kw("learning/index"), {kw("u0"): ["l0", "l2"], kw("u1"): ["l1", "l3"]})
        memory.save_now()
        assert learning_index(memory) == {"users": 2, "equal": 2, "rebuilt": True}
        memory.save_value(kw("learning/index"), {kw("u0"): ["l0"], kw("u1"): ["l3", "l1"]})
        memory.save_now()
        assert learning_index(memory) == {"users": 2, "equal": 1, "rebuilt": False}
        assert completion(memory)["learning_index"]["equal"] == 1


# -- telemetry


def test_every_operation_and_move_is_an_event(tmp_path, caplog):
    """Sinks are given each operation with what it did; one that raises is dropped and harms nobody."""
    events = []

    def bad(_):
        raise RuntimeError("sink")

    lines = to_json_lines(tmp_path / "events.jsonl")
    with opened(
        tmp_path, sinks=[bad, events.append, lines, to_logging(logging.getLogger("memory"), logging.INFO)]
    ) as memory:
        with caplog.at_level(logging.INFO, "memory"):
            memory.save_value(kw("a"), 1)
            memory.get_value(kw("a"))
            memory.get_value(kw("b"))
            climb(memory, "shadow")
        memory.get_value(kw("a"))
        memory.side.close()
        memory.side.path = tmp_path / "events.jsonl"  # a file, which is no database
        with pytest.raises(StorageError):
            memory.side.bring({})
        assert memory.telemetry.errors["sink dropped"] == 1
    of = [(e.operation, e.key, e.found, e.store) for e in events if e.operation in ("save_value", "get_value")]
    assert of[:3] == [
        ("save_value", ":a", True, "edn"),
        ("get_value", ":a", True, "edn"),
        ("get_value", ":b", False, "edn"),
    ]
    assert [e.stage for e in events if e.operation == "stage"] == ["dual-write", "shadow"]
    assert {"gate", "backfill", "sink-dropped"} <= {e.operation for e in events}
    assert all(e.ns > 0 for e in events if e.operation == "get_value")
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == len(events)
    assert any("get_value :a" in r.message for r in caplog.records)


def test_histograms_know_quantiles():
    """Quantiles are within a bucket's width of the true ones."""
    own = random.Random(1)
    values = sorted(int(own.lognormvariate(10, 2)) for _ in range(20_000))
    h = Histogram()
    for v in values:
        h.add(v)
    for q in (0.01, 0.5, 0.95, 0.999):
        assert abs(h.quantile(q) / values[int(q * len(values))] - 1) < 0.08
    assert Histogram().quantile(0.5) is None
    assert h.as_dict()["count"] == 20_000


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    """Packages are imported when a sink is made, and a missing one is named."""
    code = "import sys, migration.memory; assert not {'prometheus_client', 'opentelemetry'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(UserError, match="prometheus_client"):
        to_prometheus()
    with pytest.raises(UserError, match="opentelemetry"):
        to_opentelemetry()


def test_opentelemetry(tmp_path):
    """Its own reader finds the operations of a memory, by stage and store, errors among them."""
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider(metric_readers=[reader])
    with opened(tmp_path, sinks=[to_opentelemetry(provider.get_meter("test"))]) as memory:
        _work_for_sinks(memory)
    found = {}
    (resource,) = reader.get_metrics_data().resource_metrics
    for metric in resource.scope_metrics[0].metrics:
        for point in metric.data.data_points:
            at = tuple(point.attributes[n] for n in ("operation", "stage", "store", "error"))
            found[metric.name, at] = point
    assert found["datalog.memory.operations", ("save_value", "edn-only", "edn", "")].value == 3
    duration = found["datalog.memory.duration", ("get_value", "dual-write", "edn", "")]
    assert duration.count == 2
    assert 0 < duration.sum < 1e6  # microseconds
    assert found["datalog.memory.operations", ("clear_memory", "dual-write", "", "memory/broken")].value == 1
    assert ("datalog.memory.operations", ("stage", "dual-write", "", "")) in found
    provider.shutdown()


def test_prometheus(tmp_path):
    """What it would be scraped for: counts and durations by operation, stage and store, errors by code."""
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    with opened(tmp_path, sinks=[to_prometheus(registry)]) as memory:
        _work_for_sinks(memory)

    def value(name, *labels, **more):
        named = dict(zip(("operation", "stage", "store"), labels, strict=True))
        return registry.get_sample_value(name, {**named, **more})

    assert value("datalog_memory_seconds_count", "save_value", "edn-only", "edn") == 3
    assert value("datalog_memory_seconds_count", "get_value", "dual-write", "edn") == 2
    assert 0 < value("datalog_memory_seconds_sum", "get_value", "dual-write", "edn") < 1
    assert value("datalog_memory_errors_total", "clear_memory", "dual-write", "", error="memory/broken") == 1
    assert b"datalog_memory_seconds_bucket" in client.generate_latest(registry)


def _work_for_sinks(memory):
    """Three saves, a stage move, two reads, an error."""
    for n in range(3):
        memory.save_value(kw(f"k/{n}"), n)
    climb(memory, "dual-write")
    assert (memory.get_value(kw("k/1")), memory.get_value(kw("no/such"))) == (1, None)

    def broken(*_):
        raise StorageError("memory/broken", "for the sinks")

    cleared, memory._cleared = memory._cleared, broken
    with pytest.raises(StorageError):
        memory.clear_memory()
    memory._cleared = cleared


# -- commands


def memory_command(name, *rest, folder, check=True):
    """(exit code, output) of `datalog memory ...` on the memory of a folder."""
    code, out, errors = command("memory", name, folder / "memory.edn", "--db", folder / "memory.db", *rest)
    if check:
        assert code == 0, errors + out
    return code, out + errors


def test_a_migration_by_commands(tmp_path):
    """From a file to the archive by commands alone, with exit codes and JSON."""
    everything = example(tmp_path)
    untimed = ["--read-ratio", "none", "--query-ratio", "none", "--save-ratio", "none"]
    assert "edn-only" in memory_command("status", folder=tmp_path)[1]
    assert json.loads(memory_command("plan", "--json", folder=tmp_path)[1])["passed"]
    memory_command("stage", "dual-write", "--why", "begin", folder=tmp_path)
    code, text = memory_command("plan", folder=tmp_path, check=False)
    assert (code, "FAIL filled: session" in text) == (1, True)
    code, text = memory_command("stage", "shadow", folder=tmp_path, check=False)
    assert code == 2
    assert "UserError [stage/gate]" in text
    assert json.loads(memory_command("backfill", "--json", "--chunk", "100", folder=tmp_path)[1])["added"] == len(
        everything
    )
    for stage in STAGES[2:5]:
        memory_command("stage", stage, *untimed, folder=tmp_path)
    assert "equal" in memory_command("verify", "--how", "digests", folder=tmp_path)[1]
    assert json.loads(memory_command("verify", "--json", folder=tmp_path)[1])["same"] == len(everything)
    memory_command("stage", "--reads", "edn", folder=tmp_path)
    assert json.loads(memory_command("status", "--json", folder=tmp_path)[1])["kinds"]["session"]["reads_now"] == "edn"
    memory_command("stage", "--reads", "datalog", folder=tmp_path)
    assert "differences: 0" in memory_command("repair", "--dry-run", folder=tmp_path)[1]
    memory_command("stage", "datalog-only", *untimed, folder=tmp_path)
    memory_command("rollback", "--to", "rampdown", folder=tmp_path)
    memory_command("stage", "datalog-only", *untimed, folder=tmp_path)
    for how in ("full", "digests"):
        assert "nothing to compare" in memory_command("verify", "--how", how, folder=tmp_path)[1]
    memory_command("archive", folder=tmp_path)
    assert "# Migration report" in memory_command("report", folder=tmp_path)[1]
    memory_command("report", "--to", str(tmp_path / "out"), folder=tmp_path)
    assert (tmp_path / "out" / "report.md").exists()


def test_commands_to_a_running_application(tmp_path):
    """While an application has the memory open, commands are carried out in it: it sees the new stage at once."""
    example(tmp_path)
    with MemoryStore(tmp_path / "memory.edn", tmp_path / "memory.db") as memory:
        memory.init()
        files = [str(tmp_path / "memory.edn"), "--db", str(tmp_path / "memory.db")]
        subprocess.run(  # once from a process of its own; to the memory they are all the same, by the lock of the file
            [sys.executable, "-m", "datalog.cli", "memory", "stage", *files, "dual-write"],
            check=True, cwd=ROOT, capture_output=True,
        )  # fmt: skip
        assert memory.stage_name() == "dual-write"
        assert json.loads(memory_command("backfill", "--json", folder=tmp_path)[1])["complete"]
        code, text = memory_command("stage", "rampdown", folder=tmp_path, check=False)
        assert (code, "stage/move" in text) == (2, True)
        assert "Expected: one step up" in text  # all of the message comes over
        text = memory_command("status", "--watch", "--count", "2", "--every", "0.1", folder=tmp_path)[1]
        assert "rates:" in text
        memory_command("rollback", folder=tmp_path)
        assert memory.stage_name() == "edn-only"
        assert [p.name for p in (tmp_path / "memory.edn.commands").iterdir()] == []
    with MemoryStore(tmp_path / "memory.edn", tmp_path / "memory.db", commands=False) as memory:
        memory.init()
        for path in (tmp_path / "memory.edn.commands").iterdir():
            path.unlink()
        (tmp_path / "memory.edn.commands").rmdir()
        code, text = memory_command("status", folder=tmp_path, check=False)
        assert (code, "memory/no-answer" in text) == (3, True)
