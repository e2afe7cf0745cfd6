"""The LMDB environment: open, check, read and write transactions, fork and reader care. The only file that imports lmdb.

One LMDB tree holds everything; the first byte of a key names the table:

    M                      the meta record (below)
    S aid                  count and last tx of an attribute's datoms in the segments
    E e a v  /  A a e v  /  V a v e      segments of EAVT, AEVT, AVET under the key of their first datom
    L tx part              the transaction log;  G tx: ranges of it that a compaction left out
    D code                 dictionary blocks, code -> value
    Z bytes                dictionary, value -> code; last, as LMDB fills pages only at the end of its tree (a sorted
                           batch of 380,000 entries takes 24 MB there, 60 MB in the middle)

Meta record, little end first: u32 crc32 of the rest, u32 format, 16 bytes database id, then i64 basis_tx, merged_tx (the
segments hold all transactions up to it, the log's tail after it is the novelty), generation (of the segments),
next_code, max_eid, max_aid, schema_tx, log_base (first tx of the log, 0 for all of it), datoms in the segments.

What LMDB does not do is done here: a file shorter than its pages is refused before it is mapped (reading past its end is
a SIGBUS), a forked child is refused, a failed commit poisons the environment until it is reopened (LMDB accepts commits
after a failed fdatasync), dead readers' slots are freed at open. Source: lmdb.h, "Caveats"; py-lmdb 3 documentation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4
from zlib import crc32

import lmdb

from store.errors import ForkedConnection, StorageError, StoreClosed, StoreCorrupt, StoreFull, StoreLocked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.writing import Held

    StrPath = str | os.PathLike[str]  # paths are text here: `pathlib` takes longer to import than this module

LmdbError = lmdb.Error
FORMAT: Final = 1
MAP_SIZE_BYTES: Final = 1 << 40
MIN_MAP_SIZE_BYTES: Final = 64 << 20
MAX_READERS: Final = 4096
DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
IDENTITY_FILE: Final = "DATALOG"
OPEN_FILE: Final = "open.lock"
ATTEMPT_FILE: Final = "exclusive.lock"
META_KEY: Final = b"M"
_META: Final = struct.Struct("<I16s9q")
_SLICE: Final = (
    32  # entries read at once under the lock: segments of half a megabyte, which stay in the processor's cache
)
_META_MAGIC: Final = 0xBEEFC0DE
_HEAD_BYTES: Final = 2 * 65536  # two meta pages of the largest size


class Meta(NamedTuple):
    """The meta record: counters and positions that every commit brings up to date."""

    id: UUID
    basis_tx: int
    merged_tx: int
    generation: int
    next_code: int
    max_eid: int
    max_aid: int
    schema_tx: int
    log_base: int
    datoms: int

    def encode(self) -> bytes:
        """The record's bytes, checksum first."""
        body = _META.pack(
            FORMAT, self.id.bytes, self.basis_tx, self.merged_tx, self.generation, self.next_code, self.max_eid,
            self.max_aid, self.schema_tx, self.log_base, self.datoms,
        )  # fmt: skip
        return crc32(body).to_bytes(4, "little") + body

    def after(self, tx: int, next_code: int, max_eid: int) -> Meta:
        """The record after a transaction that changed no schema and merged nothing."""
        return Meta(self.id, tx, self.merged_tx, self.generation, next_code, max_eid, self.max_aid, self.schema_tx,
                    self.log_base, self.datoms)  # fmt: skip


def decode_meta(data: bytes) -> Meta:
    """The meta record of its bytes.

    Raises:
        StoreCorrupt: `store/checksum` for damaged bytes, `store/format` for a format this version does not read.
    """
    if len(data) != _META.size + 4 or int.from_bytes(data[:4], "little") != crc32(data[4:]):
        raise StoreCorrupt("store/checksum", "The meta record is damaged: its checksum does not fit its bytes.",
                           hint="restore a backup; the file cannot be trusted")  # fmt: skip
    fields = _META.unpack_from(data, 4)
    if fields[0] != FORMAT:
        raise StoreCorrupt(
            "store/format",
            f"The database has the file format {fields[0]}; this version reads format {FORMAT}.",
            hint="open it with the version that wrote it, or install a newer version of datalog-lmdb",
        )
    return Meta(UUID(bytes=fields[1]), *fields[2:])


def convert_error(error: lmdb.Error, path: str) -> StorageError:
    """Our error for one of LMDB's, so that no raw LMDB error reaches a user."""
    text = str(error)
    if isinstance(error, lmdb.MapFullError):
        return StoreFull("store/full", f"The memory map of {path} is full.", retryable=True,
                         hint="close old snapshots and reopen; under a memory limit (ulimit -v) raise the limit")  # fmt: skip
    if (
        isinstance(error, lmdb.DiskError)
        or "No space" in text
        or "Disk quota" in text
        or (
            "Input/output" in text and _is_disk_full(path)  # what a short write is reported as
        )
    ):
        return StoreFull("store/disk-full", f"The disk that holds {path} is full; the transaction was not made.",
                         retryable=True, hint="free some space, then try again")  # fmt: skip
    if isinstance(error, lmdb.ReadersFullError):
        return StoreFull("store/readers-full", f"All {MAX_READERS} reader slots of {path} are taken.", retryable=True,
                         hint="close databases (db.close()) and connections that are no longer needed")  # fmt: skip
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.PanicError):
        return StoreCorrupt("store/damaged", f"{path} is damaged: {text}.",
                            hint="run `datalog check PATH`, and restore a backup if it says so")  # fmt: skip
    if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError):
        return StoreCorrupt("store/foreign", f"{path} is not a database of this library: {text}.",
                            hint="give the directory of a datalog database, or a new one")  # fmt: skip
    if isinstance(error, lmdb.ReadonlyError):
        return StorageError("store/read-only", f"{path} is open for reading only.", hint="open it without read_only")
    if "closed" in text or "deleted" in text:
        return StoreClosed("store/closed", "The database was closed; this value of it can no longer be read.",
                           hint="read what you need before closing the connection")  # fmt: skip
    return StorageError("store/io", f"{path}: {text}.", retryable=True, hint="reopen the database and try again")


def _is_disk_full(path: str) -> bool:
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 1 << 20


class ReadTxn:
    """One LMDB read transaction: everything read through it is of one moment. Bytes are copied out under a lock."""

    __slots__ = ("__weakref__", "_env", "_lock", "_txn")

    def __init__(self, env: Environment, txn: Any) -> None:
        self._env = env
        self._txn = txn
        self._lock = threading.Lock()

    @property
    def txnid(self) -> int:
        """LMDB's number of the commit that is read; of a write transaction, of the one that it will be."""
        number: int = self._txn.id()
        return number

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        if self._env.pid != os.getpid():
            raise self._env.forked()
        try:
            with self._lock:
                value: bytes | None = self._txn.get(key)
                return value
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e

    def is_empty(self) -> bool:
        """True when there is no entry at all."""
        try:
            with self._lock, self._txn.cursor() as cursor:
                return not cursor.first()
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys with a prefix, in order."""
        return [k for k, _ in self._walk(prefix, prefix, values=False)]

    def keys_from(self, prefix: bytes, start: bytes) -> list[bytes]:
        """All keys with a prefix from `start` on, in order."""
        return [k for k, _ in self._walk(prefix, start, values=False)]

    def items(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The entries with a prefix, in order, from `start` on; read in slices, so that other threads get their turn."""
        at = prefix if start is None else start
        while True:
            rows = self._walk(prefix, at, values=True, most=_SLICE)
            yield from rows
            if len(rows) < _SLICE:
                return
            at = rows[-1][0] + b"\x00"

    def last_key(self, prefix: bytes) -> bytes | None:
        """The greatest key with a prefix, or None."""
        if self._env.pid != os.getpid():
            raise self._env.forked()
        try:
            with self._lock, self._txn.cursor() as cursor:
                found = cursor.set_range(_next_prefix(prefix))
                found = cursor.prev() if found else cursor.last()
                if not found:
                    return None
                key: bytes = cursor.key()
                return key if key.startswith(prefix) else None
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e

    def _walk(self, prefix: bytes, start: bytes, *, values: bool, most: int | None = None) -> list[tuple[bytes, bytes]]:
        if self._env.pid != os.getpid():
            raise self._env.forked()
        rows: list[tuple[bytes, bytes]] = []
        try:
            with self._lock, self._txn.cursor() as cursor:
                if not cursor.set_range(start):
                    return rows
                if values:
                    for item in cursor.iternext(True, True):
                        if not item[0].startswith(prefix) or (most is not None and len(rows) == most):
                            break
                        rows.append(item)
                else:
                    for key in cursor.iternext(True, False):
                        if not key.startswith(prefix):
                            break
                        rows.append((key, b""))
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e
        return rows

    def close(self) -> None:
        """Releases the reader slot."""
        with self._lock, contextlib.suppress(lmdb.Error):
            self._txn.abort()

    def refresh(self) -> None:
        """Moves this transaction to the newest commit."""
        try:
            with self._lock:
                self._txn.abort()
                self._txn = self._env.begin_raw()
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e

    def advance(self, generation: int, expected: bytes | None = None) -> None:
        """Moves on to the newest commit if the segments there are still of a generation.

        A read transaction keeps LMDB from reusing all pages freed after it. The segments change only with the generation,
        so the reader of a base may move along with the commits that merge nothing. `expected` is the meta record of a
        commit known to be of that generation.
        """
        try:
            newer = self._env.begin_raw()
            data = newer.get(META_KEY)
            if data is None or (data != expected and decode_meta(data).generation != generation):
                newer.abort()
                return
            with self._lock:
                self._txn, older = newer, self._txn
            older.abort()
        except lmdb.Error as e:
            raise convert_error(e, self._env.path) from e

    def park(self) -> None:
        """Gives up the moment, so that no page is held; py-lmdb keeps the slot. `refresh` before the next read."""
        with self._lock, contextlib.suppress(lmdb.Error):
            self._txn.abort()


class Environment:
    """An open LMDB environment of our format. Made by `open_environment`; one for each directory in a process."""

    def __init__(self, path: str, env: Any, *, read_only: bool, sync: bool, open_file: int | None) -> None:
        self.path = path
        self.read_only = read_only
        self.sync = sync
        self.pid = os.getpid()
        self.closed = False
        self.poisoned: str | None = None
        self.held: Held | None = None  # of a private database: see writing.py
        self._writing: Any = None  # LMDB's newest write transaction, perhaps ended
        self._writes_in: int | None = None  # the thread that began it
        self._env = env
        self._open_file = open_file

    def forked(self) -> ForkedConnection:
        """The error for a child process that uses its parent's environment."""
        return ForkedConnection(
            "store/forked",
            "This connection was opened before a fork; a child process must not use its parent's.",
            hint="open the database in the child: datalog.connect(path)",
        )

    def check_usable(self) -> None:
        """Returns if transactions may begin.

        Raises:
            ForkedConnection, StoreClosed, StorageError: in a forked child, after close, after a failed commit.
        """
        if self.pid != os.getpid():
            raise self.forked()
        if self.closed:
            raise StoreClosed("store/closed", f"The database {self.path} is closed.", hint="connect to it again")
        if self.poisoned is not None:
            raise StorageError(
                "store/poisoned",
                f"An earlier commit to {self.path} failed ({self.poisoned}); what it wrote cannot be trusted.",
                hint="close the connection and connect again: the last good commit is intact",
                retryable=True,
            )

    def read(self) -> ReadTxn:
        """A read transaction on the newest commit."""
        self.check_usable()
        self._settle()
        try:
            return ReadTxn(self, self._env.begin())
        except lmdb.ReadersFullError:
            try:
                self._env.reader_check()
                return ReadTxn(self, self._env.begin())
            except lmdb.Error as e:
                raise convert_error(e, self.path) from e
        except lmdb.Error as e:
            raise convert_error(e, self.path) from e

    def _settle(self) -> None:
        if self.held is not None:
            self.held.settle()

    def begin_raw(self) -> Any:
        """A bare LMDB read transaction, for `ReadTxn.refresh`; it does not see the log entries that a private database holds."""
        return self._env.begin()

    def last_txnid(self) -> int:
        """LMDB's number of the newest commit, by whatever process; takes no lock and no reader slot."""
        try:
            number: int = self._env.info()["last_txnid"]
        except lmdb.Error as e:
            raise convert_error(e, self.path) from e
        return number

    def begin_write_raw(self) -> Any:
        """LMDB's write transaction, bare, for `WriteTxn`; waits for whoever writes."""
        self.check_usable()
        self.end_write()
        me = threading.get_ident()
        try:
            self._writing = self._env.begin(write=True)
            self._writes_in = me  # no call between the two, so no interrupt
        except lmdb.Error as e:
            raise convert_error(e, self.path) from e
        return self._writing

    def end_write(self) -> None:
        """Ends a write transaction of this thread that an interrupt kept from ending: LMDB's lock would stay taken."""
        if self._writing is not None and self._writes_in == threading.get_ident():
            self._writing.abort()  # nothing where it has ended
            self._writing = None

    def stat(self) -> dict[str, int]:
        """Pages, page size, entries, map size, readers and file size, in bytes where a size."""
        self._settle()
        stat, info = self._env.stat(), self._env.info()
        held = _stat(os.path.join(self.path, DATA_FILE))
        return {
            "page_size": stat["psize"],
            "depth": stat["depth"],
            "branch_pages": stat["branch_pages"],
            "leaf_pages": stat["leaf_pages"],
            "overflow_pages": stat["overflow_pages"],
            "entries": stat["entries"],
            "map_size_bytes": info["map_size"],
            "readers": info["num_readers"],
            "file_bytes": held.st_size if held is not None else 0,
            "disk_bytes": held.st_blocks * 512 if held is not None else 0,
        }

    def force_sync(self) -> None:
        """Makes all commits reach the disk; for environments opened with sync=False."""
        self._env.sync(True)

    def copy(self, target: StrPath, *, compact: bool) -> None:
        """A consistent copy of the file as it is now, into an existing directory."""
        self._settle()
        try:
            self._env.copy(os.fspath(target), compact=compact)
        except lmdb.Error as e:
            raise convert_error(e, os.fspath(target)) from e

    def lock_exclusive(self) -> bool:
        """True when no other process has the database open, and none can open it until this one closes.

        Raises:
            StorageError: `store/permission`.
        """
        if self._open_file is None:
            return False
        import fcntl  # noqa: PLC0415 - not on Windows

        # A refused attempt loses the shared lock for a moment (flock(2)). So only one process at a time may attempt it: another
        # could succeed in that moment, and put a new file in place while this one still has the old one's lock table.
        try:
            attempt = os.open(
                os.path.join(self.path, ATTEMPT_FILE), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as e:
            raise _no_permission(self.path, e) from e
        try:
            fcntl.flock(attempt, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(self._open_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                fcntl.flock(self._open_file, fcntl.LOCK_SH)
                return False
        except OSError:
            return False
        finally:
            os.close(attempt)
        return True

    def abandon(self) -> None:
        """In a forked child: lets go of the parent's environment, so that the child can open its own.

        Closing an inherited environment clears the parent's slots in the shared reader table, after which the parent's
        snapshots are not safe any more (measured). So the child first puts a private copy in the table's place.

        Raises:
            ForkedConnection: where that is not possible (systems without /proc).
        """
        if not _make_private(os.path.join(self.path, LOCK_FILE)):
            raise ForkedConnection(
                "store/forked",
                f"{self.path} was opened before a fork; this child process cannot open it.",
                hint="open databases after the fork, or start processes with the spawn method",
            )
        self.closed = True
        self._env.close()
        if self._open_file is not None:
            os.close(self._open_file)
            self._open_file = None

    def close(self) -> None:
        """Closes the environment; transactions still open are ended."""
        if self.closed:
            return
        if self.pid != os.getpid():
            self.closed = True  # the parent's; `abandon` is for who wants to open it here
            return
        self.closed = True
        if not self.read_only and not self.sync and self.poisoned is None and self.held is None:
            with contextlib.suppress(lmdb.Error):
                self._env.sync(True)
        self._env.close()
        if self._open_file is not None:
            if not self.read_only:
                self._note_size()
            os.close(self._open_file)
            self._open_file = None

    def _note_size(self) -> None:
        """Leaves the file's size behind: a data file never shrinks, so a smaller one was cut."""
        assert self._open_file is not None
        with contextlib.suppress(OSError):
            size = os.stat(os.path.join(self.path, DATA_FILE)).st_size
            os.pwrite(self._open_file, b"%020d" % size, 0)  # always as long: another process may read or write it, too


# ---------------------------------------------------------------------------------------------------------------------
# opening


def open_environment(
    directory: StrPath, *, read_only: bool = False, sync: bool = True
) -> tuple[Environment, Meta | None]:
    """The environment of a directory and its meta record; None for a directory where a database is yet to be made.

    Raises:
        StorageError: `store/path`, `store/permission`; StoreCorrupt: `store/truncated`, `store/foreign`,
            `store/format`, `store/checksum`; StoreLocked: `store/exclusive`.
    """
    path = os.fspath(directory)
    # before the file is looked at, so that no other process puts a compacted one in its place meanwhile
    open_file = _take_open_file(path, read_only=read_only, create=False)
    try:
        is_new = _check_directory(path, read_only=read_only)
        if open_file is None:
            open_file = _take_open_file(path, read_only=read_only)
        raw = _open_lmdb(path, read_only=read_only, sync=sync)
        env = Environment(path, raw, read_only=read_only, sync=sync, open_file=open_file)
        try:
            raw.reader_check()
            meta = _read_meta(env, is_new=is_new)
        except lmdb.Error as e:
            env.close()
            open_file = None
            raise convert_error(e, path) from e
        except BaseException:
            env.close()
            open_file = None
            raise
    except BaseException:
        if open_file is not None:
            os.close(open_file)
        raise
    return env, meta


def write_identity(path: StrPath, database_id: UUID) -> None:
    """Leaves the identity file, which tells an emptied database from a new directory."""
    file = os.path.join(path, IDENTITY_FILE)
    if _stat(file) is None:
        temporary = f"{file}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as out:
            out.write(f'{{:datalog/format {FORMAT} :datalog/id #uuid "{database_id}"}}\n')
        os.replace(temporary, file)


def new_meta() -> Meta:
    """The meta record of a new database."""
    return Meta(uuid4(), (1 << 40), (1 << 40), 0, 1, 0, 63, 0, 0, 0)


def with_meta(meta: Meta, **changes: Any) -> Meta:
    """The record with some fields changed."""
    return meta._replace(**changes)


def _no_permission(path: str, e: OSError) -> StorageError:
    return StorageError("store/permission", f"{path} cannot be opened: {e.strerror}.", hint="check its owner and mode")


def _path_error(path: str, message: str, hint: str) -> StorageError:
    return StorageError("store/path", f"{path} {message}", hint=hint)


def _check_directory(path: str, *, read_only: bool) -> bool:
    """True when a new database is to be made here."""
    file, identity = os.path.join(path, DATA_FILE), os.path.join(path, IDENTITY_FILE)
    try:
        if _stat(path) is not None and not os.path.isdir(path):
            raise _path_error(
                path, "is a file.", "a database is a directory: give a directory, or a name not yet in use"
            )
        # the identity first, as it is made last: another process may be making the database just now
        had_identity = _stat(identity) is not None
        data = _stat(file)
        if data is None:
            if had_identity:
                raise StoreCorrupt(
                    "store/truncated",
                    f"{path} held a database, but its {DATA_FILE} is gone.",
                    hint=f"restore {DATA_FILE} from a backup, or remove the directory to begin anew",
                )
            if read_only:
                mend = "check the path; `datalog import`, `transact` and `shell` make one, and so does connect without read_only"
                raise _path_error(path, "holds no database.", mend)
            os.makedirs(path, mode=0o700, exist_ok=True)
            return True
        if data.st_size == 0 and _stat(identity) is None:
            if read_only:  # a file that is made just now, or never was
                raise _path_error(path, "holds no database yet.", "connect without read_only to make one")
            return True
        check_file(file, _noted_size(path))
    except PermissionError as e:
        raise _no_permission(path, e) from e
    except OSError as e:
        raise StorageError("store/path", f"{path} cannot be opened: {e.strerror}.", hint="check the path") from e
    return _stat(identity) is None


def _stat(path: str) -> os.stat_result | None:
    """What the system knows of a file; None when there is none. Whatever else is wrong is raised."""
    try:
        return os.stat(path)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _noted_size(path: str) -> int:
    """The size that the data file had when it was last closed, 0 when that is not known."""
    try:
        with open(os.path.join(path, OPEN_FILE), "rb") as noted:
            text = noted.read(20)
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def forget_size(path: StrPath) -> None:
    """For who puts a smaller file in the place of the data file: it is not a cut one."""
    with contextlib.suppress(OSError):
        os.truncate(os.path.join(path, OPEN_FILE), 0)


def check_file(file: str, noted_size: int = 0) -> None:
    """Returns if the file is an LMDB file with all its pages; looked at before it is mapped.

    The pages that the newest meta page reaches must be there, and what was there when the file was last closed.

    Raises:
        StoreCorrupt: `store/foreign` for another kind of file, `store/truncated` for a short one.
    """
    with open(file, "rb") as f:
        head = f.read(_HEAD_BYTES)
        # after the meta pages, not before: another process may write, and a file only grows
        size = os.fstat(f.fileno()).st_size
        if len(head) < min(size, _HEAD_BYTES):  # it grew in between, from nothing perhaps
            f.seek(0)
            head = f.read(_HEAD_BYTES)
        metas = list(_lmdb_metas(head))
        if size < 4096 or not metas:
            if size < 4096:
                raise _truncated(file, size, 8192)
            raise StoreCorrupt(
                "store/foreign",
                f"{file} is not an LMDB file.",
                hint="give the directory of a datalog database, or a new one",
            )
        page_size, last_page, version = max(metas, key=lambda m: m[3])[:3]
        if version != 1:
            raise StoreCorrupt(
                "store/foreign",
                f"{file} is an LMDB file of format {version}, this library writes format 1.",
                hint="give the directory of a datalog database, or a new one",
            )
        needed = page_size * (last_page + 1)
        if size < noted_size or size % page_size:
            raise _truncated(file, size, max(needed, noted_size))
        if size < needed and not _tail_is_free(f, page_size, size, max(metas, key=lambda m: m[3])):
            raise _truncated(file, size, needed)
    if size < needed:
        # LMDB never wrote the last pages, as the transaction that took them also freed them: give them their place
        with contextlib.suppress(OSError):
            _lengthen(file, needed)


def _lengthen(file: str, size: int) -> None:
    """Makes a file at least so long; never shorter, as truncating might where another process writes meanwhile."""
    with open(file, "r+b") as f:
        now = os.fstat(f.fileno()).st_size
        if now >= size:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(f.fileno(), now, size - now)
        else:
            os.ftruncate(f.fileno(), size)


def _truncated(file: str, size: int, needed: int) -> StoreCorrupt:
    return StoreCorrupt(
        "store/truncated",
        f"{file} is truncated: it has {size} bytes, its pages need {needed}.",
        hint="restore a backup; a part of the file is gone",
    )


def _lmdb_metas(head: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(page size, last page, version, txnid, main root, free list's root) of each readable LMDB meta page."""
    second = 4096
    for first in (True, False):
        at = 0 if first else second
        if len(head) < at + 16 + 136:
            return
        magic, version = struct.unpack_from("<II", head, at + 16)
        if magic != _META_MAGIC:
            continue
        # page header 16, magic 4, version 4, address 8, map size 8, then two db records of 48, last page 8, txnid 8
        free_db = at + 16 + 24
        page_size = struct.unpack_from("<I", head, free_db)[0]
        main_db = free_db + 48
        free_root = struct.unpack_from("<Q", head, free_db + 40)[0]
        root = struct.unpack_from("<Q", head, main_db + 40)[0]
        last_page, txnid = struct.unpack_from("<QQ", head, free_db + 96)
        second = page_size if first else second
        if page_size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            yield page_size, last_page, version & 0xFFFF, txnid, root, free_root


def _tail_is_free(f: Any, page_size: int, size: int, meta: tuple[int, int, int, int, int, int]) -> bool:
    """True when every page that the main tree and the free list reach lies inside the file."""
    pages = size // page_size
    stack = [root for root in meta[4:6] if root != (1 << 64) - 1]
    seen = 0
    while stack:
        number = stack.pop()
        seen += 1
        if number >= pages or seen > pages:
            return False
        f.seek(number * page_size)
        page = f.read(page_size)
        flags, lower = struct.unpack_from("<HH", page, 10)
        count = (lower - 16) // 2
        for i in range(count):
            node = struct.unpack_from("<H", page, 16 + 2 * i)[0]
            low, high, node_flags, key_size = struct.unpack_from("<HHHH", page, node)
            if flags & 0x01:  # a branch: the child's page number
                stack.append(low | high << 16 | node_flags << 32)
            elif flags & 0x02 and node_flags & 0x01:  # a leaf with a value on overflow pages
                first = struct.unpack_from("<Q", page, node + 8 + key_size)[0]
                length = low | high << 16
                if first + (length + 16 + page_size - 1) // page_size > pages:
                    return False
    return True


def _take_open_file(path: str, *, read_only: bool, create: bool = True) -> int | None:
    """A shared lock on the open file: `compact` in place needs to know that nobody else has the database open.

    None where there is no such file and none can be made, or is to be made.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    file = os.path.join(path, OPEN_FILE)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        handle = os.open(file, flags, 0o600)
    except OSError as e:
        if read_only or not create:
            return None
        if e.errno == errno.ELOOP:
            raise _path_error(file, "is a symbolic link.", "remove it") from e
        raise _no_permission(path, e) from e
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as e:
        os.close(handle)
        raise StoreLocked(
            "store/exclusive",
            f"{path} is used by another process that needs it for itself: it is being compacted or rebuilt, or is ephemeral.",
            retryable=True,
            hint="wait until it is done; to share a database between processes give it a path",
        ) from e
    return handle


def _make_private(lock_file: str) -> bool:
    """Puts a private copy over the shared mapping of LMDB's lock file; False where that cannot be done."""
    import ctypes  # noqa: PLC0415 - only in a forked child

    real = os.path.realpath(lock_file)
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as mapped:
            maps = mapped.read().splitlines()
        handle = os.open(real, os.O_RDWR)
    except OSError:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    found = False
    try:
        for line in maps:
            if line.endswith(real):
                start, end = (int(part, 16) for part in line.split(None, 1)[0].split("-"))
                private_fixed, read_write = 0x02 | 0x10, 0x1 | 0x2
                at = libc.mmap(start, end - start, read_write, private_fixed, handle, int(line.split()[2], 16))
                found = at == start
    finally:
        os.close(handle)
    return found


def _open_lmdb(path: str, *, read_only: bool, sync: bool) -> Any:
    map_size = MAP_SIZE_BYTES
    while True:
        try:
            return lmdb.open(
                path, map_size=map_size, readonly=read_only, create=not read_only, sync=sync, metasync=sync,
                max_readers=MAX_READERS, max_spare_txns=4, lib_version=0, mode=0o600, subdir=True, lock=True,
            )  # fmt: skip
        except lmdb.Error as e:
            no_memory = isinstance(e, lmdb.MemoryError) or "allocate memory" in str(e)
            if not no_memory or map_size // 2 < MIN_MAP_SIZE_BYTES:
                raise _open_error(e, path) from e
        except MemoryError as e:
            if map_size // 2 < MIN_MAP_SIZE_BYTES:
                raise StorageError("store/memory", f"{path}: not enough address space to map the file.",
                                   hint="raise the memory limit (ulimit -v)") from e  # fmt: skip
        map_size //= 2


def _open_error(e: lmdb.Error, path: str) -> StorageError:
    text = str(e)
    if "already open" in text:
        return StoreLocked("store/open-twice", f"{path} is open in this process already, outside this library.",
                           hint="close the other environment first")  # fmt: skip
    if "Permission denied" in text or "Read-only" in text:
        return StorageError("store/permission", f"{path} cannot be opened: {text}.",
                            hint="check its owner and mode, or open it with read_only=True")  # fmt: skip
    return convert_error(e, path)


def _read_meta(env: Environment, *, is_new: bool) -> Meta | None:
    txn = env.read()
    try:
        data = txn.get(META_KEY)
        if data is not None:
            return decode_meta(data)
        # asked of the same moment: another process may be making the database just now
        if not is_new or not txn.is_empty():
            raise StoreCorrupt(
                "store/foreign",
                f"{env.path} is an LMDB environment, but not a datalog database.",
                hint="give the directory of a datalog database, or a new one",
            )
        if env.read_only:
            raise _path_error(env.path, "holds no database yet.", "connect without read_only to make one")
        return None
    finally:
        txn.close()


def _next_prefix(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])
