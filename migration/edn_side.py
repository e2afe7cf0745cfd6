"""The EDN side at work: a memory file that is loaded, saved to with a journal, and rewritten behind the application's back.

Takes keys and values that are already in the model's form (`Entry`), keeps them in a dictionary, and has them on the disk
when a save returns. Knows nothing of stages and databases; the owner holds `lock` round every change.

Files, for a memory file `memory.edn`::

    memory.edn                  one EDN map, a key a line; only ever replaced as a whole
    memory.edn.journal.<n>      entries since then (journal.py)
    memory.edn.backup.<n>       older states of the file, 1 the newest
    memory.edn.lock             the owner's lock (files.py)

Entries of the journal::

    ["put", sequence, key, value, key, value ...]   one save, or several that count together
    ["delete", sequence, key ...]
    ["pending", {key: sequence}]                    carried over: keys that another store still lacks
    ["stage", text]                                 the stage record (stages.py)
    ["applied", sequence]                           another store has everything up to here, but for later "pending"
    ["folded", digest]                              a rewrite is about to take the file's place

A save: 1. the entry is appended and synced; 2. whoever has to decide with us decides (`decide`), or the entry is taken back;
3. the dictionary changes. A reader therefore never sees what a crash could take away.

A rewrite: 1. later saves go to a new generation of the journal; 2. the new file is written beside the old one and synced;
3. its digest is noted in the new generation; 4. it is renamed; 5. older generations are removed. A crash between any two
leaves a file and generations that, replayed in order, give the same memory: entries say what a key is, never how it changes.

With `journal=False` a save counts when the next rewrite is done: a crash loses what was saved in the last `debounce_s` seconds
or the duration of a rewrite, whichever is longer. That is what the file's owner had before, and offered for comparison only.
"""

from __future__ import annotations

import contextlib
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from migration.buckets import add_digest
from migration.entry import Entry
from migration.files import replace_file, storage_error, sync_directory
from migration.journal import Journal, read_journal
from migration.jsonvalue import decode, encode, to_text
from migration.locks import FairLock
from migration.rules import digest_of
from migration.source import read_memory
from store.edn import write_edn
from store.errors import StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from migration.buckets import Sums
    from migration.journal import Generation
    from store.edn import Keyword

__all__ = ["EdnSide"]

_REST: Final = 20.0  # a rewrite that took one second is followed by at least this many without one
_SLICE: Final = 2_000  # lines written at a time


def _key_json(key: Keyword) -> bytes:
    return to_text(encode(key))


class EdnSide:
    """A memory file and its journal, opened for writing or, `read_only`, for looking.

    Args:
        path: the memory file; it need not exist.
        lock: held round every change.
        journal: False: plain debounce, with its loss.
        debounce_s: how long after a save the file is rewritten; longer when rewriting takes long.
        backups: how many older states of the file are kept.
        backup_every_s: how far apart they are at least.

    Attributes:
        values: the memory; for reading.
        digests: digest of each key, as far as known; `digest` makes the others.
        sequence: the number of the last save.
        replayed: key -> sequence of what the journal held when it was opened.
        carried: key -> sequence of "pending" entries in it.
        applied: the sequence of the last "applied" entry.
        stage_text: the newest stage record in the journal.
        changed_outside: True when somebody else has changed the file since it was last written.

    Raises:
        StorageError, KeyMapError, EdnError: the file or its journal cannot be used; nothing is changed then.
    """

    def __init__(
        self,
        path: Path,
        lock: AbstractContextManager[Any],
        *,
        journal: bool = True,
        debounce_s: float = 0.1,
        backups: int = 3,
        backup_every_s: float = 600.0,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.lock = lock
        self.journaling = journal
        self.values: dict[Keyword, Any] = {}
        self.digests: dict[Keyword, int] = {}
        self.sums: Sums | None = None
        self._bucket: Callable[[Keyword], str] = str
        self.sequence = 0
        self.replayed: dict[Keyword, int] = {}
        self.carried: dict[Keyword, int] = {}
        self.applied = 0
        self.stage_text: str | None = None
        self.changed_outside = False
        self.prelude: Callable[[], Iterable[Any]] = lambda: ()
        self.rewrites = 0
        self.rewrite_s = 0.0
        self._debounce_s = debounce_s
        self._backups = backups
        self._backup_every_s = backup_every_s
        self._backed_up_at = float("-inf")
        self._lines: dict[Keyword, str] = {}
        self._base: str | None = None  # the digest of the file as it lies there
        self._own = False  # whether this class wrote it
        self._dirty_since: float | None = None
        self._rewritten_at = float("-inf")
        #: held while the file is rewritten; whoever wants it and `lock` takes this one first
        self.rewriting = FairLock()
        self._journal: Journal | None = None
        self._old: list[Journal] = []
        self._load(read_only=read_only)

    # -- opening

    def _load(self, *, read_only: bool) -> None:
        generations = read_journal(self.path)
        if self.path.exists():
            memory = read_memory(self.path)
            self.values.update(memory.pairs())
            self._base = memory.digest
        elif generations and not (generations[0].number == 1 and generations[0].header.get("base") is None):
            # only the first generation of a memory that had no file yet holds all of it
            raise StorageError(
                "memory/file-lost",
                "The memory file is gone, but its journal is there.",
                hint=f"restore {self.path.name} from a backup beside it, or from the database with "
                "`datalog memory repair --from database`.",
                file=str(self.path),
            )
        self._check_base(generations)
        for generation in generations:
            self._replay(generation)
        if read_only:
            return
        if self.journaling:
            self._old = [Journal.resume(g) for g in generations[:-1]]
            self._journal = Journal.resume(generations[-1]) if generations else self._new_journal(1)
            if generations and self.replayed:
                self._touch()
        elif generations:
            raise UserError(
                "memory/journal-there",
                "The memory has a journal, and was opened with journal=False.",
                hint="open it with a journal and close it; then remove the empty journal.",
                file=str(self.path),
            )

    def _check_base(self, generations: Sequence[Generation]) -> None:
        known = {g.header.get("base") for g in generations}
        folded = {e[1] for g in generations for e in g.entries if e[0] == "folded"}
        own = folded | {g.header.get("base") for g in generations if g.header.get("own")}
        self._own = self._base is not None and self._base in own
        if self._own:
            self._take_lines()
        if generations and self._base not in known | folded:
            self.changed_outside = True
            if any(e[0] in ("put", "delete") for g in generations for e in g.entries):
                raise StorageError(
                    "memory/file-changed",
                    "The memory file was changed by somebody else, while its journal holds saves that are not in it.",
                    hint="put the file back as it was; or remove the journal files beside it, and lose these saves.",
                    file=str(self.path),
                )

    def _take_lines(self) -> None:
        """The lines of a file that this class wrote, so that the next rewrite need not make them again."""
        lines = self.path.read_text(encoding="utf-8")[1:-2].split("\n ")
        if len(lines) == len(self.values):
            self._lines = dict(zip(self.values, lines, strict=True))

    def _replay(self, generation: Generation) -> None:
        self.sequence = max(self.sequence, int(generation.header.get("sequence", 0)))
        for entry in generation.entries:
            operation = entry[0]
            if operation == "put":
                for key_json, json in zip(entry[2::2], entry[3::2], strict=True):
                    self._set(decode(key_json), decode(json), None)
                    self.replayed[decode(key_json)] = entry[1]
            elif operation == "delete":
                for key_json in entry[2:]:
                    self._unset(decode(key_json))
                    self.replayed[decode(key_json)] = entry[1]
            elif operation == "pending":
                self.carried.update((decode(k), n) for k, n in entry[1].items())
            elif operation == "stage":
                self.stage_text = entry[1]
            elif operation == "applied":
                self.applied = max(self.applied, entry[1])
            if operation in ("put", "delete"):
                self.sequence = max(self.sequence, entry[1])

    def _new_journal(self, number: int) -> Journal:
        header = {"sequence": self.sequence, "base": self._base, "own": self._own}
        return Journal.create(self.path, number, header, self.prelude())

    # -- saving

    def put(self, entries: Sequence[Entry], decide: Callable[[int], None] | None = None) -> int:
        """Saves entries, all or none, and returns the sequence number.

        Args:
            entries: what to save.
            decide: called with the sequence number when the entries are on the disk, before they are seen; what it
                raises takes them back and goes on to the caller.

        Raises:
            StorageError: they are not saved; `memory/journal-broken`: that is not known.
        """
        parts = [b'["put",%d' % (self.sequence + 1)]
        for e in entries:
            parts += (_key_json(e.key), e.text)
        self._commit(b",".join(parts) + b"]", decide)
        for e in entries:
            self._set(e.key, e.value, e.digest)
        return self.sequence

    def delete(self, keys: Sequence[Keyword], decide: Callable[[int], None] | None = None) -> int:
        """Deletes keys, all or none; as `put`."""
        parts = [b'["delete",%d' % (self.sequence + 1), *map(_key_json, keys)]
        self._commit(b",".join(parts) + b"]", decide)
        for key in keys:
            self._unset(key)
        return self.sequence

    def _commit(self, entry: bytes, decide: Callable[[int], None] | None) -> None:
        journal = self._journal
        mark = 0
        if journal is not None:
            mark = journal.size
            journal.append(entry)
        self.sequence += 1  # never given again: a database that says it has failed may have taken it all the same
        if decide is not None:
            try:
                decide(self.sequence)
            except BaseException:
                if journal is not None:
                    journal.cut(mark)
                raise
        self._touch()

    def entries_of(self, keys: Iterable[Keyword]) -> dict[Keyword, Entry | None]:
        """What it holds of keys now, None for those that are not there; the lock is held."""
        values = self.values
        return {k: Entry(k, values[k], b"", self.digest(k)) if k in values else None for k in keys}

    def taken(self, keys: Iterable[Keyword]) -> None:
        """Another store has these keys as they are here: nothing to do, for here they stay."""

    def note(self, entry: list[Any], *, sync: bool = True) -> None:
        """Appends an entry that changes no key."""
        if self._journal is not None:
            self._journal.append(entry, sync=sync)

    def _set(self, key: Keyword, value: Any, digest: int | None) -> None:
        if self.sums is not None and digest is not None:
            if key in self.values:
                add_digest(self.sums, self._bucket(key), self.digest(key), -1)
            add_digest(self.sums, self._bucket(key), digest, 1)
        self.values[key] = value
        self._lines.pop(key, None)
        if digest is None:
            self.digests.pop(key, None)
        else:
            self.digests[key] = digest

    def _unset(self, key: Keyword) -> None:
        if self.sums is not None and key in self.values:
            add_digest(self.sums, self._bucket(key), self.digest(key), -1)
        self.values.pop(key, None)
        self._lines.pop(key, None)
        self.digests.pop(key, None)

    def keep_sums(self, bucket: Callable[[Keyword], str]) -> Sums:
        """The sums of the keys' digests by bucket, kept with each save from the first call on; the lock is held."""
        if self.sums is None:
            self._bucket = bucket
            sums: Sums = {}
            for key in self.values:
                add_digest(sums, bucket(key), self.digest(key), 1)
            self.sums = sums
        return self.sums

    def _touch(self) -> None:
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()

    def digest(self, key: Keyword) -> int:
        """The digest of a key that is there; made when it is not known."""
        known = self.digests.get(key)
        if known is None:
            known = self.digests[key] = digest_of(
                key, to_text(encode(self.values[key], canonical=True), canonical=True)
            )
        return known

    def line(self, key: Keyword, value: Any) -> str:
        """The line of a key in the file."""
        text = self._lines.get(key)
        if text is None:
            text = f"{write_edn(key)} {write_edn(value)}"
            with self.lock:
                if self.values.get(key) is value:
                    self._lines[key] = text
        return text

    # -- rewriting the file

    @property
    def unsaved(self) -> bool:
        """True when something was saved since the file was last written."""
        return self._dirty_since is not None

    def due_in(self) -> float | None:
        """Seconds until the file is to be rewritten; None when there is nothing to write."""
        since = self._dirty_since
        if since is None:
            return None
        rest = self._rewritten_at + _REST * self.rewrite_s
        return max(since + self._debounce_s, rest) - time.monotonic()

    def rewrite(self) -> bool:
        """Writes the file anew if anything was saved since; True if it did. Safe while others save.

        Raises:
            StorageError: the file is as it was; what was saved is in the journal.
        """
        with self.rewriting:
            with self.lock:
                if self._dirty_since is None:
                    return False
                began = time.monotonic()
                snapshot = list(self.values.items())
                again = bool(self._old)  # a rewrite failed, and there are two generations already
                if self._journal is not None and not again:
                    new = self._new_journal(self._journal.number + 1)
                    self._old.append(self._journal)
                    self._journal = new
                since, self._dirty_since = self._dirty_since, None
            try:
                parts = list(self._parts(snapshot))
                digest = sha256()
                for part in parts:
                    digest.update(part)
                with self.lock:
                    self.note(["folded", digest.hexdigest()])
                self._replace(parts)
            except BaseException as e:
                with self.lock:
                    self._dirty_since = since
                self._rewritten_at, self.rewrite_s = time.monotonic(), max(self.rewrite_s, 0.05)
                if isinstance(e, OSError):
                    raise storage_error(e, self.path, "Writing the memory file") from e
                raise
            with self.lock:
                self._base, self._own = digest.hexdigest(), True
                old, self._old = self._old, []
                if again:
                    self._touch()  # the newest generation still holds what is in the file now
            for journal in old:
                journal.remove()
            self.rewrites += 1
            self._rewritten_at = time.monotonic()
            self.rewrite_s = self._rewritten_at - began
            return True

    def _parts(self, snapshot: list[tuple[Keyword, Any]]) -> Iterator[bytes]:
        lead = "{"
        for start in range(0, len(snapshot), _SLICE):
            lines = [self.line(key, value) for key, value in snapshot[start : start + _SLICE]]
            yield (lead + "\n ".join(lines)).encode()
            lead = "\n "
        yield b"}\n" if snapshot else b"{}\n"

    def _replace(self, parts: list[bytes]) -> None:
        if self._backups and time.monotonic() - self._backed_up_at >= self._backup_every_s and self.path.exists():
            self.back_up()
        replace_file(self.path, parts)

    def back_up(self) -> Path | None:
        """Keeps the file as it lies there as the newest backup, and drops the oldest; returns its path."""
        if not self._backups or not self.path.exists():
            return None
        names = [self.path.with_name(f"{self.path.name}.backup.{n}") for n in range(1, self._backups + 1)]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if newer.exists():
                newer.replace(older)
        with contextlib.suppress(FileNotFoundError):
            names[0].unlink()
        names[0].hardlink_to(self.path)
        sync_directory(self.path.parent)
        self._backed_up_at = time.monotonic()
        return names[0]

    def close(self, *, rewrite: bool = True) -> None:
        """Writes the file if need be, and closes the journal."""
        try:
            if rewrite:
                self.rewrite()
        finally:
            with self.lock:  # nobody writes to a descriptor that is closed, and may be another file's by then
                for journal in (*self._old, self._journal):
                    if journal is not None:
                        journal.close()
