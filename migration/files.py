"""Files that survive a crash: atomic replacement, locks between processes, and the errors of both.

Nothing here knows what the files hold. A file is replaced by writing a temporary one beside it, fsync, rename, fsync of
the directory: whatever happens, the name leads to the old content or the new one, whole. New files are made for their
owner alone (0600), or with the mode of the file they replace.

A lock is `flock` on a file of its own that is never removed: removing it would let two processes lock two files of one
name. The operating system lets go of it when a process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from store.errors import StorageError, StoreFull, StoreLocked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileLock", "replace_file", "storage_error", "sync_directory", "write_all"]

_SLICE = 1 << 20  # bytes


def storage_error(e: OSError, path: Path, what: str) -> StorageError:
    """The error that says what the operating system refused: `memory/disk-full`, `memory/permission` or `memory/io`."""
    text = e.strerror or str(e)
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(
            "memory/disk-full",
            f"{what} failed: {text}.",
            hint="free some space, then try again; what was acknowledged before is safe.",
            file=str(path),
            retryable=True,
        )
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            "memory/permission",
            f"{what} failed: {text}.",
            expected="a directory and file that this user may write",
            hint="check owner and mode, or open it with read_only=True.",
            file=str(path),
        )
    return StorageError(
        "memory/io", f"{what} failed: {text}.", hint="check the disk, then open it anew.", file=str(path)
    )


def write_all(fd: int, data: bytes) -> None:
    """Writes all of the bytes, however few of them the system takes at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def sync_directory(path: Path) -> None:
    """Makes names made or removed in a directory reach the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, parts: Iterable[bytes], *, mode: int | None = None) -> None:
    """Replaces the content of a file, or makes it, atomically.

    Args:
        path: the file.
        parts: the new content, piece by piece.
        mode: its permissions; default: those it had, 0600 for a new file.

    Raises:
        OSError: the old content is untouched, and the temporary file is gone.
    """
    if mode is None:
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            mode = 0o600
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        try:
            for part in parts:
                write_all(fd, part)
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


class FileLock:
    """A lock between processes, held from `take` to `release`; `shared` holders exclude exclusive ones only.

    The file names the process that last took it exclusively, for messages. Not reentrant.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self.shared = False

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._fd is not None

    def take(self, *, shared: bool = False) -> None:
        """Takes the lock, or changes from one form to the other.

        Raises:
            StoreLocked: `memory/locked`, with the process that has it; retryable. A lock held already stays as it was.
            StorageError: the lock file cannot be made.
        """
        fd = self._fd
        if fd is None:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as e:
                raise storage_error(e, self.path, "Making the lock file") from e
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as e:
            if self._fd is None:
                holder = _holder(fd)
                os.close(fd)
            else:  # changing a lock lets go of it first
                holder = None
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, (fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if e.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise storage_error(e, self.path, "Locking") from e
            by = f" by process {holder}" if holder else ""
            raise StoreLocked(
                "memory/locked",
                f"The memory is in use{by}.",
                hint="stages that write the EDN file allow one process: close the other one, or send it a command "
                "with `datalog memory`.",
                data={"pid": holder},
                file=str(self.path),
                retryable=True,
            ) from None
        self._fd, self.shared = fd, shared
        if not shared:
            with contextlib.suppress(OSError):  # for messages only: a full disk must not keep anybody out
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Lets go; releasing twice is no fault."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _holder(fd: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(os.pread(fd, 32, 0))
    return None
