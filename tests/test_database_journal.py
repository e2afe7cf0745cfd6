"""The journal of the database side: what it holds is durable, seen, and taken to the database; others are let in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from staged import Images, climb, command, edn, opened

import datalog as d
from datalog import kw
from migration.cutover import move, roll_back
from migration.database_journal import DatabaseJournal, journal_base, saves_ahead
from migration.database_side import DatabaseSide
from migration.edn_side import EdnSide
from migration.entities import fetch
from migration.entry import entry_of
from migration.journal import journal_files
from migration.locks import FairLock
from migration.memory import MemoryStore, Settings
from store.errors import StorageError, StoreCorrupt, StoreFull, StoreLocked

ROOT = Path(__file__).parent.parent
SLOW = Settings(sync=False, idle_s=60)  # nothing is taken to the database by itself


def alone(folder, **options):
    """A memory in datalog-only whose keeper does nothing."""
    memory = climb(opened(folder, settings=options.pop("settings", SLOW), **options), "datalog-only")
    assert memory.journal is not None
    return memory


def stopped(memory):
    """The same, with nobody at work behind it."""
    memory._stop.set()
    memory._wake.set()
    memory._keeper.join()
    return memory


def in_database(memory):
    """What the database holds by itself."""
    return {k: v for k, v in memory.side.read_all().items() if not memory.is_absent(v)}


def test_saves_are_seen_before_the_database_has_them(tmp_path):
    """Every read sees what is in the journal only; a deletion too; and `changed` is told right."""
    with alone(tmp_path) as memory:
        a, b, c = kw("collab-session/a"), kw("k/b"), kw("k/c")
        assert memory.save_value(a, {kw("owner"): kw("ada")}).written == ("datalog",)
        memory.save_value(b, None)
        memory.save_value(c, 1)
        assert memory.update(c, lambda n: n + 1).value == 2
        assert memory.delete_value(b).changed
        assert not memory.delete_value(b).changed
        assert not memory.delete_value(kw("never/there")).changed
        assert in_database(memory) == {}
        assert memory.get_value(c) == 2
        assert memory.get_instrumented(c).store == "datalog"
        assert not memory.get_instrumented(b).found
        assert memory.migration_status()["pending"] == 3
        assert memory.search(where={":session/owner": kw("ada")}) == [a]
        assert memory.get_all() == {
            a: {kw("owner"): kw("ada")},
            c: 2,
        }  # the whole takes all of it to the database first
        assert in_database(memory) == memory.get_all()
        assert memory.journal.values == {}
        memory.save_value(c, 3)
        memory.save_now()
        assert in_database(memory)[c] == 3


def test_a_crash_at_every_step_of_saving(tmp_path, monkeypatch):
    """Whatever step a crash comes at, what was acknowledged is there, in a journal that went on to new generations too."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr("migration.database_journal._LARGE", 150)
    memory = stopped(alone(folder))
    images = Images(monkeypatch, folder, tmp_path, most=120)
    expected = {}
    with images.taking():
        for n in range(14):
            key = kw(f"k/{n % 4}")
            if n % 5 == 3:
                memory.delete_value(key)
                expected.pop(key, None)
            else:
                memory.save_value(key, n)
                expected[key] = n
            images.acknowledged = dict(expected)
            if n % 3 == 2:
                memory.ahead.drain(most=2)
        memory.share()
        assert memory.journal is None
        memory.save_value(kw("k/0"), "a commit")
        expected[kw("k/0")] = "a commit"
        images.acknowledged = dict(expected)
        memory.clear_memory()
        images.acknowledged = {}
        images.take()
    generations = set()
    before = None
    for image, acknowledged in images.taken:
        generations |= {p.name for p in journal_files(journal_base(image / "memory.db"))}
        with opened(image, settings=SLOW) as again:
            found = again.get_all()
            if acknowledged is not None:  # what comes after it may have been begun, one save at most
                assert sum(found.get(k) != acknowledged.get(k) for k in found.keys() | acknowledged.keys()) <= 1 or (
                    found == {} and acknowledged == expected
                ), (image, found, acknowledged, before)
            assert in_database(again) == found
        before = acknowledged
    assert len(generations) > 2
    assert len(images.taken) > 40
    memory.close()


def test_taken_up_by_who_comes_next(tmp_path):
    """After a kill another process, or a command, finds every save; a torn end is no fault, a damaged middle is."""
    memory = stopped(alone(tmp_path))
    for n in range(5):
        memory.save_value(kw(f"k/{n}"), n)
    image = shutil.copytree(tmp_path, tmp_path / "image", ignore=shutil.ignore_patterns("image"))
    (path,) = journal_files(journal_base(image / "memory.db"))
    with path.open("ab") as file:
        file.write(b'00000000 30 ["put"')
    other = shutil.copytree(image, tmp_path / "other")
    with opened(image, commands=False) as again:  # as a command does: it leaves no journal behind
        again.init()
        assert again.journal is None
        assert in_database(again) == {kw(f"k/{n}"): n for n in range(5)}
        assert journal_files(journal_base(image / "memory.db")) == []
    (path,) = journal_files(journal_base(other / "memory.db"))
    data = path.read_bytes()
    assert data.count(b"k/2") == 1
    path.write_bytes(data.replace(b"k/2", b"k/9"))
    with opened(other) as again, pytest.raises(StoreCorrupt, match="memory/journal-damaged"):
        again.keys()
    path.write_bytes(data.replace(memory.record.store.encode(), b"x" * len(memory.record.store)))
    with opened(other) as again, pytest.raises(StoreCorrupt):
        again.keys()
    memory.close()


def test_an_export_has_what_is_ahead_of_the_database(tmp_path):
    """Of a running memory and of one that was killed: no acknowledged save is missing, no deleted key there."""
    memory = stopped(alone(tmp_path))
    for n in range(4):
        memory.save_value(kw(f"k/{n}"), n)
    memory.save_now()
    memory.save_value(kw("k/1"), "later")
    memory.delete_value(kw("k/2"))
    memory.save_value(kw("k/9"), 9)
    code, out, errors = command("memory", "export", "--db", tmp_path / "memory.db")
    assert code == 0, errors
    assert edn(out) == {kw("k/0"): 0, kw("k/1"): "later", kw("k/3"): 3, kw("k/9"): 9} == memory.get_all()
    memory.close()


def test_no_import_over_a_memory_in_stages(tmp_path):
    """The file of a memory that writes both is older than its journal: an import would take saves back from readers."""
    with opened(tmp_path) as memory:
        memory.save_value(kw("a"), 1)
        climb(memory, "datalog-first")
        memory.save_now()
        memory.save_value(kw("a"), 2)
        memory.follower.drain()
        code, _, errors = command("memory", "import", memory.file, "--db", memory.side.path)
        assert (code, "memory/staged" in errors) == (2, True)
        assert memory.get_all() == {kw("a"): 2}
        roll_back(memory)
        memory.save_now()
    assert command("memory", "import", tmp_path / "memory.edn", "--db", tmp_path / "memory.db")[0] == 0


def test_a_journal_of_another_store_is_refused(tmp_path):
    """A journal that came with another database is not replayed into this one."""
    DatabaseJournal(tmp_path, FairLock(), store="one", applied=0).save(kw("a"), entry_of(kw("a"), 1))
    with pytest.raises(StoreCorrupt, match="memory/journal-foreign"):
        DatabaseJournal(tmp_path, FairLock(), store="two", applied=0)


def test_others_are_let_in(tmp_path):
    """Who comes second asks, and is let in when the journal is empty: from then on each save is a commit, seen at once."""
    with alone(tmp_path) as one:
        one.save_value(kw("a"), 1)
        with opened(tmp_path) as two:
            assert two.get_value(kw("a")) == 1
            assert one.journal is None
            assert two.journal is None
            assert journal_files(journal_base(tmp_path / "memory.db")) == []
            one.save_value(kw("b"), 2)
            assert two.get_value(kw("b")) == 2
            two.update(kw("b"), lambda n: n + 1)
            assert one.get_value(kw("b")) == 3
        with opened(tmp_path, commands=False) as three:
            assert three.get_all() == {kw("a"): 1, kw("b"): 3}
    with opened(tmp_path) as again:
        again.save_value(kw("c"), 3)
        assert again.journal is not None
        code = (
            "import sys; from migration.memory import MemoryStore; from datalog import kw; "
            "m = MemoryStore(sys.argv[1], sys.argv[2]); print(m.update(kw('c'), lambda n: n + 1).value); m.close()"
        )
        files = [str(tmp_path / "memory.edn"), str(tmp_path / "memory.db")]
        out = subprocess.run([sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, check=True)
        assert out.stdout == "4\n"
        assert again.get_value(kw("c")) == 4


def test_alone_again(tmp_path, monkeypatch):
    """When the others have gone, who is left saves to a journal again; while one is there, it does not."""
    monkeypatch.setattr("migration.memory_core._AGAIN_S", 0.4)
    with alone(tmp_path) as one:
        with opened(tmp_path) as two:
            for n in range(40):
                one.update(kw("a"), lambda v: v + 1, default=0)
                assert two.get_value(kw("a")) == n + 1
            assert one.journal is None
            assert two.journal is None
            time.sleep(0.6)  # one has looked meanwhile
            assert one.journal is None
        until = time.monotonic() + 20
        while one.journal is None and time.monotonic() < until:
            one.update(kw("a"), lambda v: v + 1)
        assert one.journal is not None
        n = one.update(kw("a"), lambda v: v + 1).value
        with opened(tmp_path) as two:
            assert two.get_value(kw("a")) == n


def test_who_takes_no_commands_has_no_journal(tmp_path):
    """A process that nobody can ask shares the memory from the beginning; so does one that is told to."""
    with alone(tmp_path) as memory:
        memory.save_value(kw("a"), 1)
    for options in ({"commands": False}, {"settings": Settings(alone=False)}, {"settings": Settings(lag=0)}):
        with opened(tmp_path, **options) as memory:
            memory.update(kw("a"), lambda n: n + 1)
            assert memory.journal is None
            with opened(tmp_path, commands=False) as other:
                assert other.get_value(kw("a")) == memory.get_value(kw("a"))


def test_another_file_that_names_the_same_database(tmp_path):
    """Its lock is another one; the journal in the database's directory is not taken from under who has it."""
    with alone(tmp_path) as one:
        one.save_value(kw("a"), 1)
        with MemoryStore(tmp_path / "other.edn", tmp_path / "memory.db") as two, pytest.raises(StoreLocked):
            two.save_value(kw("a"), 2)
        one.save_value(kw("b"), 2)
        image = shutil.copytree(tmp_path, tmp_path / "image")
        one.share()
        with MemoryStore(tmp_path / "other.edn", tmp_path / "memory.db") as two, pytest.raises(StoreLocked):
            two.keys()
    with opened(image) as again:
        assert again.get_all() == {kw("a"): 1, kw("b"): 2}


def test_not_let_in_while_the_database_fails(tmp_path, monkeypatch):
    """What the database does not take keeps others out, and is lost to nobody."""
    monkeypatch.setattr("migration.memory_core._GIVE_UP_S", 0.6)
    with alone(tmp_path) as one:
        one.save_value(kw("a"), 1)
        with monkeypatch.context() as patch:
            _fail(patch)
            with opened(tmp_path) as two, pytest.raises(StoreLocked, match="memory/locked"):
                two.keys()
            assert one.get_value(kw("a")) == 1
        with opened(tmp_path) as two:
            assert two.get_all() == {kw("a"): 1}


def _fail(patch):
    def bring(*_, **__):
        raise StoreFull("store/disk-full", "no space")

    patch.setattr(DatabaseSide, "bring", bring)


def test_a_database_that_fails_decides(tmp_path, monkeypatch):
    """The first saves after it began to fail are durable and answered; from then on none is accepted that it refuses."""
    with alone(tmp_path, settings=Settings(lag=4, idle_s=60, sync=False)) as memory:
        memory.save_value(kw("x/0"), 0)
        memory.save_now()
        acknowledged = {kw("x/0"): 0}
        with monkeypatch.context() as patch:
            _fail(patch)
            for n in range(12):
                try:
                    memory.save_value(kw(f"x/{n % 7}"), n)
                except StoreFull:
                    continue
                acknowledged[kw(f"x/{n % 7}")] = n
            assert 4 <= len(acknowledged) < 7
            assert {k: memory.get_value(k) for k in acknowledged} == acknowledged
            with pytest.raises(StoreFull):
                memory.get_all()
            with pytest.raises(StoreFull):
                memory.clear_memory()
            with pytest.raises(StoreFull):
                roll_back(memory, "rampdown")
            with pytest.raises(StoreFull):
                memory.delete_value(kw("x/0"))
            assert memory.health()["ok"] is False
        assert memory.get_all() == acknowledged
        memory.save_value(kw("y"), 1)
        roll_back(memory, "edn-only")
        assert memory.get_all() == {**acknowledged, kw("y"): 1}
        assert not journal_files(journal_base(tmp_path / "memory.db"))


def test_closed_while_the_database_fails(tmp_path, monkeypatch):
    """The journal stays, and the next one takes it up."""
    memory = alone(tmp_path)
    memory.save_value(kw("a"), 1)
    with monkeypatch.context() as patch:
        _fail(patch)
        memory.close()
    with opened(tmp_path, settings=SLOW) as again:
        assert again.get_value(kw("a")) == 1
        assert in_database(again) == {}
        assert again.get_all() == in_database(again) == {kw("a"): 1}


def test_a_save_after_one_that_failed_late_is_not_taken_for_it(tmp_path, monkeypatch):
    """A commit that is reported as failed and was made: the number is not given again, or the next save would count as applied."""
    real = DatabaseSide.bring

    def bring(side, wanted, **options):
        real(side, wanted, **options)
        raise StorageError("store/io", "the disk says no, and has it")

    for stage in ("datalog-only", "datalog-first"):
        folder = tmp_path / stage
        folder.mkdir()
        memory = stopped(climb(opened(folder, settings=SLOW), stage))
        follower = memory.ahead or memory.follower
        with monkeypatch.context() as patch:
            follower.failing = StorageError("store/io", "it began")  # so that saves wait for the database
            patch.setattr(DatabaseSide, "bring", bring)
            with pytest.raises(StorageError):
                memory.save_value(kw("a"), 1)
        follower.failing = None
        memory.save_value(kw("b"), 2)
        image = shutil.copytree(folder, tmp_path / f"image of {stage}")
        memory.close()
        with opened(image, settings=SLOW) as again:
            assert again.get_value(kw("b")) == 2
            again.save_now()
            assert in_database(again)[kw("b")] == 2


def test_what_the_database_refuses_comes_back_to_edn(tmp_path):
    """A value that a foreign entity holds: read as it was saved, named by the status, and not lost on the way back."""
    with alone(tmp_path) as memory:
        conn = memory.side.conn
        conn.transact([{":db/id": "x", ":cache/key": kw("k/taken")}])
        conn.update_schema({":cache/key": {":db/unique": ":db.unique/value"}})
        for n in range(6):
            memory.save_value(kw(f"k/{'taken' if n == 3 else n}"), n)
        memory.save_now()
        expected = {kw(f"k/{'taken' if n == 3 else n}"): n for n in range(6)}
        assert list(memory.migration_status()["refused"]) == [":k/taken"]
        assert memory.get_all() == expected
        assert set(memory.keys()) == set(expected)
        assert memory.search("taken") == [kw("k/taken")]
        assert memory.get_value(kw("k/taken")) == 3
        with pytest.raises(StorageError, match="memory/pending"):
            memory.share()
        with pytest.raises(StorageError, match="memory/pending"):
            move(memory, "rampdown", kinds=["session"])
        assert memory.stage_name() == "datalog-only"
        memory.save_value(kw("k/5"), 50)
        roll_back(memory, "dual-write")
        assert memory.get_all() == {**expected, kw("k/5"): 50}
        assert list(memory.follower.pending) == [kw("k/taken")]
        assert memory.edn.values == memory.get_all()


def test_cleared_with_something_refused(tmp_path):
    """Nothing of it comes back, in the database, in the journal, or after a restart."""
    with alone(tmp_path) as memory:
        memory.side.conn.transact([{":db/id": "x", ":cache/key": kw("k/taken")}])
        memory.side.conn.update_schema({":cache/key": {":db/unique": ":db.unique/value"}})
        for n in range(6):
            memory.save_value(kw(f"k/{'taken' if n == 3 else n}"), n)
        assert memory.clear_memory() == 6
        assert memory.get_all() == {}
        again = DatabaseJournal(
            shutil.copytree(tmp_path / "memory.db", tmp_path / "image"),
            FairLock(),
            store=memory.record.store,
            applied=0,
        )
        assert again.values == {kw("k/taken"): None}


def test_a_journal_left_behind_by_a_killed_move(tmp_path):
    """In a stage that writes EDN it is void: nothing of it comes back, then or in a later datalog-only."""
    with alone(tmp_path) as memory:
        memory.save_value(kw("a"), 1)
        kept = {p: p.read_bytes() for p in journal_files(journal_base(tmp_path / "memory.db"))}
        roll_back(memory, "rampdown")
        memory.save_value(kw("a"), 2)
    for path, data in kept.items():
        path.write_bytes(data)
    with opened(tmp_path) as memory:
        climb(memory, "datalog-only")
        assert memory.get_all() == {kw("a"): 2}


def test_numbers_go_on_between_the_journals(tmp_path):
    """Up and down again and again: every save is numbered above all before it, whichever journal it went to."""
    with opened(tmp_path) as memory:
        memory.init()
        for n in range(3):
            climb(memory, "datalog-only")
            for i in range(3):
                memory.save_value(kw(f"k/{i}"), (n, i))
            roll_back(memory, "rampdown" if n % 2 else "edn-only")
            assert memory.edn.sequence >= memory.edn.applied
            memory.save_value(kw("k/0"), n)
            assert memory.get_value(kw("k/0")) == n
            assert memory.get_value(kw("k/2")) == [n, 2]


def test_moves_and_newcomers_while_threads_save(tmp_path):
    """Threads save and read while the stage goes down and up, and while others come in: no read is older than the save before it."""
    with opened(tmp_path, settings=Settings(sync=False, lag=8)) as memory:
        climb(memory, "datalog-only")
        stop, wrong, counts = threading.Event(), [], {}

        def work(name):
            key, n = kw(f"k/{name}"), 0
            while not stop.is_set():
                n = memory.update(key, lambda v: v + 1, default=0).value
                if memory.get_value(key) != n:
                    wrong.append((name, n))
            counts[key] = n

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                roll_back(memory, "rampdown")
                climb(memory, "datalog-only")
                with opened(tmp_path) as other:
                    other.update(kw("k/other"), lambda n: n + 1, default=0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert memory.get_all() == {**counts, kw("k/other"): 3}
        assert d.check(memory.side.path) == []


def test_the_gate_measures_what_comes(tmp_path):
    """For datalog-only the gate times saves as they will be made there: to the journal, or each one a commit."""
    from migration.gates import measure_next_saves

    with opened(tmp_path) as memory:
        climb(memory, "rampdown")
        for n in range(5):
            memory.save_value(kw(f"k/{n}"), {kw("n"): n})
        edn, database = measure_next_saves(memory)
        assert edn > 0
        assert database > 0
        assert [p.name for p in tmp_path.iterdir() if "gate" in p.name] == []
    assert json.dumps([edn, database])


def test_both_sides_of_the_protocol():
    """The EDN side and the database's journal are the same to who takes saves to the database."""
    for name in ("entries_of", "note", "taken"):
        assert callable(getattr(EdnSide, name))
        assert callable(getattr(DatabaseJournal, name))
    assert MemoryStore.share.__doc__


def test_an_export_while_saves_go_on(tmp_path, monkeypatch):
    """An export is of one moment: what the journal gives the database meanwhile is in it, and so is a journal begun anew."""
    with stopped(alone(tmp_path)) as memory:
        memory.save_value(kw("k/a"), 1)

        def fetched_late(db, keymap):
            found = fetch(db, keymap)
            memory.ahead.drain()
            return found

        monkeypatch.setattr("migration.commands.fetch", fetched_late)
        code, out, _ = command("memory", "export", "--db", memory.side.path)
        assert (code, d.read_edn(out)[kw("k/a")]) == (0, 1)
        memory.save_value(kw("k/b"), 2)
        listed = journal_files

        def listed_early(base):
            found = listed(base)
            monkeypatch.setattr("migration.journal.journal_files", listed)
            memory.journal.renew()
            return found

        monkeypatch.setattr("migration.journal.journal_files", listed_early)
        assert [(str(key), entry.value) for _, key, entry in saves_ahead(memory.side.path)] == [(":k/b", 2)]


def test_what_is_refused_is_not_written_again_and_again(tmp_path, monkeypatch):
    """A journal that is mostly what the database lacks is begun anew when it has doubled, not with every batch."""
    monkeypatch.setattr("migration.database_journal._LARGE", 100)
    journal = DatabaseJournal(tmp_path, FairLock(), store="x", applied=0)
    for n in range(20):
        journal.save(kw(f"refused/{n}"), entry_of(kw(f"refused/{n}"), "x" * 50))
    before = int(journal_files(journal_base(tmp_path))[0].suffix[1:])
    for n in range(40):
        journal.save(kw("k/a"), entry_of(kw("k/a"), n))
        journal.taken([kw("k/a")])
    after = int(journal_files(journal_base(tmp_path))[0].suffix[1:])
    assert 1 <= after - before < 4
    assert len(journal.values) == 20
    journal.close()


@pytest.mark.parametrize("left", [1, 30])
def test_a_refusal_after_a_new_generation(tmp_path, monkeypatch, left):
    """The database takes what was waiting, so that a generation is begun, and then refuses a key: the others stay as they are."""
    monkeypatch.setattr("migration.database_journal._LARGE", 100)
    journal = DatabaseJournal(tmp_path, FairLock(), store="x", applied=0)
    keys = [kw(f"k/{n}") for n in range(20 + left)]
    for key in keys:
        journal.save(key, entry_of(key, "v"))

    def decide(_):
        journal.taken(keys[:20])
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        journal.save(kw("k/bad"), entry_of(kw("k/bad"), 1), decide)
    journal.save(kw("k/after"), entry_of(kw("k/after"), 2))
    held = [str(key) for _, key, _ in saves_ahead(tmp_path)]
    assert held == [*map(str, keys[20:]), ":k/after"]
    journal.close()
