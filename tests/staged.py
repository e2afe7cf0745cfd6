"""What tests of the migrating memory share: a memory in a stage, both sides compared, images of the disk at every step."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import threading
from pathlib import Path

from datalog import cli, kw
from migration.backfill import Backfill
from migration.cutover import move, roll_back
from migration.gates import Limits
from migration.memory import MemoryStore, Settings
from migration.modes import STAGES
from store.edn import read_edn

#: no figures of time: tests never depend on them
UNTIMED = Limits(read_ratio=None, query_ratio=None, save_ratio=None)
EXAMPLE = Path(__file__).parent.parent / "examples" / "memory.edn"


def edn(text):
    """The value of an EDN text."""
    return read_edn(text)


def opened(folder, **options):
    """A memory in a folder; `settings` and `sinks` as for MemoryStore."""
    options.setdefault("settings", Settings(sync=False, backups=2))
    return MemoryStore(folder / "memory.edn", folder / "memory.db", **options)


def climb(memory, stage, **options):
    """Moves all kinds to a stage, step by step from where they are, filling the database on the way."""
    memory.init()
    at = STAGES.index(memory.stage_name())
    for step in STAGES[at + 1 : STAGES.index(stage) + 1]:
        move(memory, step, limits=UNTIMED, who="test", **options)
        if step == "dual-write":
            Backfill(memory).run()
    if STAGES.index(stage) < at:
        roll_back(memory, stage, who="test")
    return memory


def command(*arguments):
    """(exit code, standard output, standard error) of `datalog ...`, carried out in this process: no start to wait for."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as e:  # argparse leaves this way
            code = e.code
    return code, out.getvalue(), errors.getvalue()


def keys_of(*names):
    """Keywords of these names."""
    return [kw(n) for n in names]


class Images:
    """Copies a folder before each step that changes the disk: what a crash there would leave."""

    def __init__(self, monkeypatch, folder, images, most=400):
        self.taken = []
        self._folder, self._images, self._most = folder, images, most
        self._patch = monkeypatch
        self._lock = threading.RLock()  # no other thread changes the folder while it is copied
        self._busy = False

    @contextlib.contextmanager
    def taking(self):
        """Meanwhile images are taken; each with what was acknowledged by then (`acknowledged`)."""
        self.acknowledged = None
        with self._patch.context() as patch:
            for module, name in (
                (os, "write"),
                (os, "fsync"),
                (os, "fdatasync"),
                (os, "ftruncate"),
                (os, "rename"),
                (os, "replace"),
                (os, "unlink"),
                (os, "link"),
            ):
                patch.setattr(module, name, self._wrapped(getattr(module, name)))
            yield self

    def _wrapped(self, real):
        def call(*args, **kwargs):
            with self._lock:
                self.take()
                return real(*args, **kwargs)

        return call

    def take(self):
        """One image, if there is still room."""
        with self._lock:
            self._take()

    def _take(self):
        if self._busy or len(self.taken) >= self._most:
            return
        self._busy = True
        try:
            image = self._images / str(len(self.taken))
            shutil.copytree(self._folder, image)
            self.taken.append((image, self.acknowledged))
        finally:
            self._busy = False
