r"""The journal beside the memory file: what was saved since the file was last written, each entry on the disk before it counts.

Takes entries (lists that JSON can say), gives them back when it is read. What they mean is `edn_side.py`'s business.

A journal is the files `<memory>.journal.<generation>`, at most two of them: while the file is rewritten, entries already go
to the next generation, and the older one is removed when the file is in place. Each is::

    journal  = header entry*
    header   = frame of {"format": 1, "generation": n, "sequence": n, ...}
    entry    = frame of [operation ...]                       the operations are listed at the head of edn_side.py
    frame    = crc32 of text, 8 hexadecimal digits | " " | length of text in bytes, decimal | " " | text | "\n"
    text     = JSON

The rules that keep it honest:

 1. `append` returns when fdatasync did. An entry that was not wholly written is cut off again, so that the journal never
    holds an entry that its writer was told had failed; only after a failed fdatasync, which leaves that open, the journal
    refuses everything until it is opened anew.
 2. A journal file comes into being whole: written under another name with its header, synced, renamed.
 3. A last entry that is torn was never acknowledged, and is dropped. A damaged entry with whole ones after it, or in a
    generation that has a successor, is damage, and stops everything.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from migration.files import replace_file, storage_error, sync_directory, write_all
from store.errors import StorageError, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Generation", "Journal", "journal_files", "read_journal"]

_FORMAT: Final = 1
_HEAD: Final = re.compile(rb"([0-9a-f]{8}) ([0-9]{1,12}) ")


@dataclass(slots=True)
class Generation:
    """One file of a journal as it was read.

    Attributes:
        path: the file.
        number: its generation.
        header: the header's map.
        entries: the entries, in order.
        size: bytes up to the end of the last whole entry.
        torn: bytes after it, of an entry that was never acknowledged.
    """

    path: Path
    number: int
    header: dict[str, Any]
    entries: list[list[Any]] = field(default_factory=list)
    size: int = 0
    torn: int = 0


def journal_files(base: Path) -> list[Path]:
    """The journal's files of a memory file, oldest generation first."""
    prefix = f"{base.name}.journal."
    found = [
        (int(p.name[len(prefix) :]), p)
        for p in base.parent.iterdir()
        if p.name.startswith(prefix) and p.name[len(prefix) :].isdecimal()
    ]
    return [path for _, path in sorted(found)]


def read_journal(base: Path) -> list[Generation]:
    """The generations of a memory file's journal, oldest first; nothing is changed.

    Raises:
        StoreCorrupt: `memory/journal-damaged` with the file and the offset.
        StorageError: a file cannot be read.
    """
    while True:
        found: list[Generation] = []
        paths = journal_files(base)
        for path in paths:
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # read while its owner went over to a new generation, which has everything
                break
            except OSError as e:
                raise storage_error(e, path, "Reading the journal") from e
            found.append(_read(path, data, last=path is paths[-1]))
        else:
            return found


def _read(path: Path, data: bytes, *, last: bool) -> Generation:
    texts, size = _frames(data)
    if size < len(data) and (not last or not texts or _frame_after(data, size)):
        raise _damaged(path, f"byte {size:,} is no whole entry")
    try:
        header, *entries = [orjson.loads(t) for t in texts]
    except (orjson.JSONDecodeError, ValueError) as e:
        raise _damaged(path, "it has no header, or an entry is no JSON") from e
    if header.__class__ is not dict or header.get("format") != _FORMAT:
        raise _damaged(path, "its header is none that this version writes")
    return Generation(path, int(header["generation"]), header, entries, size, len(data) - size)


def _frames(data: bytes) -> tuple[list[bytes], int]:
    """(the texts of all whole frames from the beginning on, the offset after them)."""
    texts: list[bytes] = []
    at = 0
    while (found := _frame(data, at)) is not None:
        text, at = found
        texts.append(text)
    return texts, at


def _frame(data: bytes, at: int) -> tuple[bytes, int] | None:
    head = _HEAD.match(data, at)
    if head is None:
        return None
    start, end = head.end(), head.end() + int(head[2])
    text = data[start:end]
    if data[end : end + 1] != b"\n" or f"{zlib.crc32(text):08x}".encode() != head[1]:
        return None
    return text, end + 1


def _frame_after(data: bytes, at: int) -> bool:
    """True when a whole frame begins on a later line: then what stands at `at` is damage, not a torn end."""
    while (at := data.find(b"\n", at) + 1) > 0:
        if _frame(data, at) is not None:
            return True
    return False


def _damaged(path: Path, why: str) -> StoreCorrupt:
    return StoreCorrupt(
        "memory/journal-damaged",
        f"The journal is damaged: {why}.",
        hint="restore it from a backup; or move it away, and lose what was saved since the memory file was last written.",
        file=str(path),
    )


def _framed(entry: Any) -> bytes:
    text = entry if entry.__class__ is bytes else orjson.dumps(entry)
    return b"%08x %d %b\n" % (zlib.crc32(text), len(text), text)


class Journal:
    """A journal that is written to. Not safe between threads: its owner has a lock.

    Lifecycle: 1. `create` a generation, or `resume` the last one that was read; 2. `append`; 3. `close`.
    """

    def __init__(self, path: Path, number: int, fd: int, size: int) -> None:
        self.path = path
        self.number = number
        self.size = size
        self.entries = 0
        self._fd = fd
        self._broken: OSError | None = None

    @classmethod
    def create(cls, base: Path, number: int, header: Mapping[str, Any], entries: Iterable[Any] = ()) -> Journal:
        """A new generation with a header and first entries, on the disk when this returns.

        Raises:
            StorageError: nothing was made.
        """
        path = base.with_name(f"{base.name}.journal.{number}")
        whole = {"format": _FORMAT, "generation": number, **header}
        data = b"".join([_framed(whole), *map(_framed, entries)])
        try:
            replace_file(path, [data], mode=0o600)
            return cls(path, number, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), len(data))
        except OSError as e:
            raise storage_error(e, path, "Making the journal") from e

    @classmethod
    def resume(cls, last: Generation) -> Journal:
        """The journal that goes on where the last generation ends; a torn entry is cut off."""
        try:
            fd = os.open(last.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            if last.torn:
                os.ftruncate(fd, last.size)
                os.fsync(fd)
        except OSError as e:
            raise storage_error(e, last.path, "Opening the journal") from e
        journal = cls(last.path, last.number, fd, last.size)
        journal.entries = len(last.entries)
        return journal

    def append(self, entry: Any, *, sync: bool = True) -> None:
        """Appends an entry: a list that JSON can say, or its JSON text in bytes.

        Raises:
            StorageError: `memory/disk-full`, `memory/io`: the journal is as it was before.
                `memory/journal-broken`: whether the entry is on the disk is not known; so for all later ones.
        """
        if self._broken is not None:
            raise self._refusal()
        if self._fd < 0:
            raise StorageError("memory/closed", "This memory is closed.", hint="make a new MemoryStore.")
        data = _framed(entry)
        try:
            write_all(self._fd, data)
        except OSError as e:
            self.cut(self.size)
            raise storage_error(e, self.path, "Writing the journal") from e
        if sync:
            try:
                os.fdatasync(self._fd)
            except OSError as e:
                self._broken = e
                raise self._refusal() from e
        self.size += len(data)
        self.entries += 1

    def cut(self, size: int) -> None:
        """Takes back what was appended after `size` bytes; needs no room on the disk."""
        try:
            os.ftruncate(self._fd, size)
            os.fdatasync(self._fd)
        except OSError as e:
            self._broken = e
            raise self._refusal() from e
        self.size = size

    def _refusal(self) -> StorageError:
        return StorageError(
            "memory/journal-broken",
            f"An entry of the journal may not have reached the disk: {self._broken}.",
            hint="close the memory and open it anew: the operation that failed is then there or not; all earlier ones are.",
            file=str(self.path),
        )

    def remove(self) -> None:
        """Closes the file and removes it: what it holds is in the memory file."""
        self.close()
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def close(self) -> None:
        """Closes the file; closing twice is no fault."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
