"""Files that are whole or not there: written beside their place and put there when complete; read with clear errors.

A name that ends in `.gz` is compressed text.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["decoded", "open_file", "read_file", "sync_path", "whole_file"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place, and that of an older one, when the block ends; nothing is left of a failure.

    Raises:
        UserError: `file/write` when the directory cannot be written to.
    """
    if path.is_dir():
        raise UserError("file/write", f"{path} is a directory.", hint="give the name of a file")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        raise UserError(
            "file/write",
            f"{path} cannot be written: {e.strerror}.",
            hint="give a file in a directory that may be written to",
        ) from e
    try:
        with os.fdopen(descriptor, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # noqa: PTH101 - what open() would have made
        os.replace(name, path)  # noqa: PTH105 - the name is text
        sync_path(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - the same
        raise


def sync_path(path: Path) -> None:
    """Makes the content of a file, or the names in a directory, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_file(path: Path, what: str = "The file") -> BinaryIO:
    """A file to read, unpacked if its name ends in `.gz`.

    Raises:
        UserError: `file/read` when it is not there, is a directory, or may not be read.
    """
    try:
        return cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))
    except OSError as e:
        raise UserError("file/read", f"{what} {path} cannot be read: {e.strerror}.", hint="check the path") from e


def read_file(path: Path, what: str = "The file") -> bytes:
    """The bytes of a file; raises as `open_file`, and `file/read` for one that is not what gzip wrote."""
    try:
        with open_file(path, what) as file:
            return file.read()
    except (OSError, EOFError) as e:
        raise UserError("file/read", f"{what} {path} cannot be read: {e}.", hint="write or fetch the file again") from e


def decoded(
    raw: bytes,
    where: Path | str,
    encoding: str = "utf-8",
    hint: str = "name its encoding, for example --encoding latin-1, or write it as UTF-8",
) -> str:
    """The text of bytes; a byte order mark at the beginning is left out. `where` they are from is for the error.

    Raises:
        UserError: `file/encoding`, with the byte and the line.
    """
    try:
        return raw.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise UserError(
            "file/encoding",
            f"{where} is not {encoding}: byte {e.start} (line {line}) is 0x{raw[e.start]:02x}.",
            hint=hint,
            data={"byte": e.start, "line": line},
        ) from e
    except (LookupError, ValueError) as e:
        raise UserError(
            "file/encoding", f"There is no encoding of texts {encoding!r}.", expected="utf-8, latin-1, cp1252, ..."
        ) from e
