"""The EDN side: what is acknowledged survives every crash; files that cannot be used are refused and left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from staged import Images, edn

from datalog import kw
from migration import edn_side as edn_side_module
from migration import journal as journal_module
from migration.edn_side import EdnSide
from migration.entry import entry_of
from migration.files import FileLock
from migration.journal import read_journal
from migration.locks import FairLock
from store.errors import EdnError, KeyMapError, StorageError, StoreCorrupt, StoreFull, StoreLocked, UserError

ROOT = Path(__file__).parent.parent


def side_of(folder, **options):
    """The EDN side of memory.edn in a folder."""
    return EdnSide(folder / "memory.edn", FairLock(), **options)


def put(side, **values):
    """Saves values under :x/<name>."""
    side.put([entry_of(kw(f"x/{name}"), value) for name, value in values.items()])


def held(side):
    """{name: value} of the side."""
    return {key.name: value for key, value in side.values.items()}


def test_saved_without_closing_is_there_again(tmp_path):
    """What was saved is found by the next who opens, though the file was never written."""
    put(side_of(tmp_path), a=1, b=None, c=False, d=[1, {"x": 1.0}])
    assert not (tmp_path / "memory.edn").exists()
    assert held(side_of(tmp_path)) == {"a": 1, "b": None, "c": False, "d": edn('[1 {"x" 1.0}]')}


def test_rewrite_keeps_everything_and_empties_the_journal(tmp_path):
    """After a rewrite the file alone says everything; deleted keys stay deleted."""
    side = side_of(tmp_path)
    put(side, a=1, b=2, c=3)
    side.delete([kw("x/b")])
    assert side.rewrite()
    assert not side.rewrite()
    assert edn((tmp_path / "memory.edn").read_text()) == edn("{:x/a 1 :x/c 3}")
    side.close()
    assert held(side_of(tmp_path)) == {"a": 1, "c": 3}
    assert [len(g.entries) for g in read_journal(tmp_path / "memory.edn")] == [1]  # "folded" alone


def test_lines_of_an_own_file_are_taken_over(tmp_path):
    """A file that this class wrote is not made anew line by line; another's is, and both are right."""
    side = side_of(tmp_path)
    put(side, a="x\n :x/b 5", b=[1, 2])
    side.close()
    again = side_of(tmp_path)
    assert len(again._lines) == 2
    put(again, c=3)
    again.close()
    assert held(side_of(tmp_path)) == {"a": "x\n :x/b 5", "b": edn("[1 2]"), "c": 3}


def test_every_crash_leaves_what_was_acknowledged(tmp_path, monkeypatch):
    """At every write, sync, rename and removal of saves and rewrites: all that was acknowledged, at most the save at hand more."""
    folder = tmp_path / "live"
    folder.mkdir()
    side = side_of(folder, backup_every_s=0)
    images = Images(monkeypatch, folder, tmp_path / "images")
    history = [{}]
    with images.taking():
        images.acknowledged = 0
        for n in range(14):
            if n % 4 == 3:
                side.delete([kw(f"x/k{n % 3}")])
                history.append({k: v for k, v in history[-1].items() if k != f"k{n % 3}"})
            else:
                put(side, **{f"k{n % 5}": n})
                history.append({**history[-1], f"k{n % 5}": n})
            images.acknowledged = n + 1
            if n in (4, 5, 9, 13):
                side.rewrite()
    assert len(images.taken) > 60
    for image, acknowledged in images.taken:
        found = held(side_of(image))
        assert found in history[acknowledged : acknowledged + 2], (image.name, acknowledged, found)


def test_torn_end_is_dropped_and_damage_is_not(tmp_path):
    """An entry cut off at its end was never acknowledged; a damaged one before others stops everything."""
    put(side_of(tmp_path), a=1)
    side = side_of(tmp_path)
    put(side, b=2)
    side.close(rewrite=False)
    (path,) = tmp_path.glob("*.journal.*")
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        assert held(side_of(tmp_path)) == {"a": 1}
        assert path.read_bytes() == whole[:last]
    path.write_bytes(whole.replace(b'"~:x/a"', b'"~:x/z"'))
    with pytest.raises(StoreCorrupt, match="journal-damaged"):
        side_of(tmp_path)
    assert b'"~:x/z"' in path.read_bytes()


def test_a_full_disk_takes_nothing_back(tmp_path, monkeypatch):
    """A save that found no room raises, leaves no trace, and the next one goes on."""
    side = side_of(tmp_path)
    put(side, a=1)
    real = os.write
    left = [10]

    def full(fd, data):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        n = real(fd, bytes(data)[: left[0]])
        left[0] -= n
        return n

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFull, match="disk-full"):
        put(side, b=2)
    with pytest.raises(StoreFull):
        side.rewrite()
    assert held(side) == {"a": 1}
    monkeypatch.undo()
    put(side, c=3)
    assert held(side_of(tmp_path)) == {"a": 1, "c": 3}
    side.rewrite()
    assert held(side_of(tmp_path)) == {"a": 1, "c": 3}


def test_a_file_size_limit_is_a_full_disk(tmp_path):
    """With a real limit of the system: saves raise, and everything acknowledged is there."""
    code = """
import resource, sys
from datalog import kw
from migration.edn_side import EdnSide
from migration.entry import entry_of
from migration.locks import FairLock
from store.errors import StoreFull
side = EdnSide(__import__("pathlib").Path(sys.argv[1]), FairLock())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
n = 0
try:
    while True:
        side.put([entry_of(kw(f"x/k{n}"), "v" * 100)])
        n += 1
except StoreFull:
    print(n)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "memory.edn")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert len(held(side_of(tmp_path))) == int(ran.stdout) > 50
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_a_failed_sync_is_not_believed_again(tmp_path, monkeypatch):
    """After a failed fdatasync the journal refuses, for whether the entry is there is not known; opened anew it goes on."""
    side = side_of(tmp_path)
    put(side, a=1)

    def fails(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module.os, "fdatasync", fails)
    with pytest.raises(StorageError, match="journal-broken"):
        put(side, b=2)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="journal-broken"):
        put(side, c=3)
    assert held(side) == {"a": 1}
    again = held(side_of(tmp_path))
    assert again in ({"a": 1}, {"a": 1, "b": 2})


def test_a_failed_rewrite_leaves_the_file_and_is_tried_again(tmp_path, monkeypatch):
    """However often rewriting fails, there are two generations at most, and the next one that works ends it."""
    side = side_of(tmp_path)
    put(side, a=1)
    side.rewrite()
    before = (tmp_path / "memory.edn").read_bytes()

    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(edn_side_module, "replace_file", fails)
    for n in range(3):
        put(side, b=n)
        with pytest.raises(StorageError, match="memory/io"):
            side.rewrite()
        assert side.unsaved
    assert (tmp_path / "memory.edn").read_bytes() == before
    assert len(list(tmp_path.glob("*.journal.*"))) == 2
    monkeypatch.undo()
    assert held(side_of(tmp_path)) == {"a": 1, "b": 2}
    side.close()
    assert held(side_of(tmp_path)) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("{:a 1", EdnError, "edn/unclosed"),
        ("[:a 1]", KeyMapError, "memory/no-map"),
        ("", EdnError, "edn/empty"),
        ("{:a 1} {:b 2}", EdnError, "edn/trailing"),
        ('{"a" 1}', KeyMapError, "memory/key"),
        ("{:a 1 :a 2}", EdnError, "edn/duplicate-key"),
        ("nil", KeyMapError, "memory/no-map"),
    ],
)
def test_a_file_that_is_no_memory_is_refused_and_left_alone(tmp_path, text, error, code):
    """Unreadable, truncated or of another shape: an error with the place; nothing is written."""
    (tmp_path / "memory.edn").write_text(text)
    with pytest.raises(error) as caught:
        side_of(tmp_path)
    assert caught.value.code == code
    assert (tmp_path / "memory.edn").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["memory.edn"]


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    """Bytes that are no UTF-8 are named by their place."""
    (tmp_path / "memory.edn").write_bytes(b'{:a "\xff"}')
    with pytest.raises(EdnError, match="edn/bad-encoding"):
        side_of(tmp_path)


def test_a_lost_file_is_no_empty_memory(tmp_path):
    """A journal without its file is an error, never a new memory."""
    side = side_of(tmp_path)
    put(side, a=1)
    side.close()
    (tmp_path / "memory.edn").unlink()
    with pytest.raises(StorageError, match="memory/file-lost"):
        side_of(tmp_path)


def test_a_file_changed_by_somebody_else(tmp_path):
    """With nothing in the journal the change is taken, and said; with saves in it, refused."""
    side = side_of(tmp_path)
    put(side, a=1)
    side.close()
    (tmp_path / "memory.edn").write_text("{:x/a 5}")
    changed = side_of(tmp_path)
    assert changed.changed_outside
    assert held(changed) == {"a": 5}
    put(changed, b=2)
    changed.close(rewrite=False)
    (tmp_path / "memory.edn").write_text("{:x/a 6}")
    with pytest.raises(StorageError, match="memory/file-changed"):
        side_of(tmp_path)


def test_backups_are_the_states_before(tmp_path):
    """The newest backups are kept, each a whole file."""
    side = side_of(tmp_path, backups=2, backup_every_s=0)
    for n in range(4):
        put(side, a=n)
        side.rewrite()
    names = sorted(p.name for p in tmp_path.glob("*.backup.*"))
    assert names == ["memory.edn.backup.1", "memory.edn.backup.2"]
    assert [(tmp_path / n).read_text() for n in names] == ["{:x/a 2}\n", "{:x/a 1}\n"]


def test_without_a_journal_a_save_counts_when_the_file_is_written(tmp_path):
    """`journal=False` is plain debounce: a crash takes what was saved since the last rewrite."""
    side = side_of(tmp_path, journal=False)
    put(side, a=1)
    side.rewrite()
    put(side, b=2)
    assert held(side_of(tmp_path, journal=False)) == {"a": 1}
    assert not list(tmp_path.glob("*.journal.*"))
    side_of(tmp_path).close()
    with pytest.raises(UserError, match="memory/journal-there"):
        side_of(tmp_path, journal=False)


def test_modes_of_files(tmp_path):
    """New files are their owner's alone; a rewritten one keeps its mode."""
    (tmp_path / "memory.edn").write_text("{}")
    (tmp_path / "memory.edn").chmod(0o640)
    side = side_of(tmp_path)
    put(side, a=1)
    side.close()
    assert (tmp_path / "memory.edn").stat().st_mode & 0o777 == 0o640
    (journal,) = tmp_path.glob("*.journal.*")
    assert journal.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_directory(tmp_path):
    """A directory that cannot be written is a clear error."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="memory/permission"):
        side_of(tmp_path)


def test_locks_exclude_and_share(tmp_path):
    """One exclusive holder or many shared ones; a change that is refused leaves the lock as it was."""
    a, b, c = (FileLock(tmp_path / "lock") for _ in range(3))
    a.take()
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        b.take(shared=True)
    a.take(shared=True)
    b.take(shared=True)
    with pytest.raises(StoreLocked):
        b.take()
    assert b.shared
    with pytest.raises(StoreLocked):
        c.take()
    a.release()
    a.release()
    b.take()
    with pytest.raises(StoreLocked):
        c.take(shared=True)
    b.release()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "lock")
    with pytest.raises(StorageError):
        FileLock(tmp_path / "elsewhere").take()


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_small_disk_that_is_really_full(tmp_path):
    """On a disk of one megabyte: refused when full, nothing lost, goes on when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        side = side_of(disk)
        (disk / "ballast").write_bytes(b"x" * 700_000)
        n = 0
        with contextlib.suppress(StoreFull):
            while n < 10_000:
                put(side, **{f"k{n}": "v" * 1000})
                n += 1
        assert 0 < n < 10_000
        with pytest.raises(StoreFull):
            side.rewrite()
        assert len(held(side_of(disk))) == n
        (disk / "ballast").unlink()
        put(side, after=1)
        side.rewrite()
        assert len(held(side_of(disk))) == n + 1
        side.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
