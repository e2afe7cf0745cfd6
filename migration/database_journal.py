"""The journal of the database side: in `datalog-only`, saves that are on the disk before the database has been given them.

A commit of the database takes two waits for the disk and the mapping's work; an entry appended to a file takes one wait. So
a process that has a memory to itself appends its saves here, and the follower takes them to the database in batches.
docs/decisions/0007 has the measurements and the reasons.

Takes entries, keeps those that the database has not been given yet, in memory and on the disk. Files and frames are those of
journal.py, in the database's directory: `saves.journal.<n>`. Its entries::

    ["put", sequence, key, value]      ["delete", sequence, key]

The rules that keep it honest:

 1. An entry is on the disk before anybody sees its value, and stays there until the database has committed it, synced.
 2. `:memory.state/applied`, written by the transaction that writes the keys, says up to which number the database has
    everything. What is above it is taken up again when the journal is opened. Entries say what a key is, never how it
    changes: taking one up twice changes nothing.
 3. Only who holds the memory's lock alone may have a journal. A process that shares the memory with others finds none: it
    is emptied and removed before the lock is shared.
 4. A new generation comes into being whole, with everything the database lacks, before older ones go.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from migration.entry import Entry, entry_of
from migration.files import sync_directory
from migration.journal import Journal, journal_files, read_journal
from migration.jsonvalue import decode, encode, to_text
from store.errors import StorageError, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from migration.journal import Generation
    from store.edn import Keyword

__all__ = ["DatabaseJournal", "journal_base", "remove_journal", "saves_ahead"]

_LARGE: Final = 1 << 20  # bytes from which a new generation is begun


def journal_base(database: Path) -> Path:
    """The name that the journal's files of a database directory begin with."""
    return database / "saves"


def remove_journal(database: Path) -> None:
    """Removes what a journal has left behind whose saves are elsewhere by now."""
    if database.is_dir():
        for path in journal_files(journal_base(database)):
            path.unlink(missing_ok=True)


def saves_ahead(database: Path) -> list[tuple[int, Keyword, Entry | None]]:
    """(number, key, entry or None) of the saves that the journal of a database directory holds, oldest first; only read.

    Those whose number is above `:memory.state/applied` the database may lack.

    Raises:
        StoreCorrupt: `memory/journal-damaged`. StorageError: it cannot be read.
    """
    return [save for generation in read_journal(journal_base(database)) for save in _saves(generation)]


def _saves(generation: Generation) -> Iterator[tuple[int, Keyword, Entry | None]]:
    for operation, n, key_json, *value in generation.entries:
        key = decode(key_json)
        yield n, key, entry_of(key, decode(value[0])) if operation == "put" else None


def _text(key: Keyword, entry: Entry | None, sequence: int) -> bytes:
    name = to_text(encode(key))
    return (
        b'["delete",%d,%b]' % (sequence, name) if entry is None else b'["put",%d,%b,%b]' % (sequence, name, entry.text)
    )


class DatabaseJournal:
    """The saves that a database has not been given yet; opened by who has the memory alone.

    Args:
        database: the database's directory.
        lock: held round every change.
        store: the id that database and stage record share.
        applied: the number up to which the database has everything.

    Attributes:
        values: key -> entry, or None for a deleted key: what the database is to be given. For reading, without the lock.
        sequence: the number of the last save.
        applied: as above, kept by the follower.
        pending: key -> number, of what was taken up when it was opened.

    Raises:
        StoreCorrupt: `memory/journal-damaged`, `memory/journal-foreign`. StorageError: it cannot be read or written.
    """

    def __init__(self, database: Path, lock: AbstractContextManager[Any], *, store: str, applied: int) -> None:
        self.lock = lock
        self.values: dict[Keyword, Entry | None] = {}
        self.pending: dict[Keyword, int] = {}
        self.sequence = self.applied = applied
        self._numbers: dict[Keyword, int] = {}
        self._base = journal_base(database)
        self._store = store
        self._journal = self._take_up(read_journal(self._base))

    def _take_up(self, found: list[Generation]) -> Journal:
        for generation in found:
            if generation.header.get("store") != self._store:
                raise StoreCorrupt(
                    "memory/journal-foreign",
                    "The journal in the database's directory is of another memory.",
                    expected=f"the journal of the store {self._store}",
                    hint="restore database and journal from one copy; without the journal, what was saved last is lost.",
                    file=str(generation.path),
                )
            self.sequence = max(self.sequence, generation.header["sequence"])
            for n, key, entry in _saves(generation):
                self.sequence = max(self.sequence, n)
                if n > self.applied:
                    self.values[key] = entry
                    self._numbers[key] = n
        self.pending = dict(self._numbers)
        if found:
            Journal.resume(found[-1]).close()  # cuts a torn end off: this generation is about to have a successor
        journal = self._generation(found[-1].number + 1 if found else 1)
        if found:
            for generation in found:
                generation.path.unlink(missing_ok=True)
            sync_directory(self._base.parent)
        return journal

    def _generation(self, number: int) -> Journal:
        entries = [
            _text(key, self.values[key], n) for key, n in sorted(self._numbers.items(), key=lambda item: item[1])
        ]
        made = Journal.create(self._base, number, {"sequence": self.sequence, "store": self._store}, entries)
        self._due = max(_LARGE, 2 * made.size)  # what the database refuses is not written anew with every batch
        return made

    def save(self, key: Keyword, entry: Entry | None, decide: Callable[[int], None] | None = None) -> int:
        """Saves an entry, or with None a deletion, and returns its number; the lock is held.

        Args:
            key: the key.
            entry: what it is to be.
            decide: gives it to the database, with this number, before it counts; what it raises takes the entry back.

        Raises:
            StorageError: it is not saved; `memory/journal-broken`: that is not known.
        """
        journal, mark = self._journal, self._journal.size
        n = self.sequence + 1
        journal.append(_text(key, entry, n))
        self.sequence = n  # never given again: a database that says it has failed may have taken it all the same
        if decide is None:
            self._numbers[key] = n
            self.values[key] = entry
            return n
        try:
            decide(n)
        except BaseException:
            if journal is self._journal:  # else a generation was begun meanwhile, which never had the entry
                journal.cut(mark)
            raise
        self._forget(key)
        return n

    def entries_of(self, keys: Iterable[Keyword]) -> dict[Keyword, Entry | None]:
        """What keys are to be that the database lacks; the lock is held."""
        return {key: self.values[key] for key in keys if key in self.values}

    def note(self, entry: list[Any], *, sync: bool = True) -> None:
        """Notes nothing: the database says itself what it has been given."""

    def taken(self, keys: Iterable[Keyword]) -> None:
        """These keys are in the database, durably, as `values` has them; the lock is held."""
        for key in keys:
            self._forget(key)
        if self._journal.size > self._due:
            with contextlib.suppress(StorageError):  # tried again with the next batch
                self.renew()

    def _forget(self, key: Keyword) -> None:
        self.values.pop(key, None)
        self._numbers.pop(key, None)

    def renew(self) -> None:
        """Begins a generation that holds only what the database lacks; the lock is held.

        Raises:
            StorageError: the older generation goes on.
        """
        older = self._journal
        self._journal = self._generation(older.number + 1)
        older.remove()

    def remove(self) -> None:
        """Closes and removes the journal; the database has everything, or another store has."""
        self._journal.remove()

    def close(self) -> None:
        """Closes the journal, and removes it when the database has everything. Closing twice is no fault."""
        with self.lock:
            if self.values:
                self._journal.close()
            else:
                self._journal.remove()
