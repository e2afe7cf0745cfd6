"""The bytes of a segment: columns of int64, each contiguous, with a checksum. Nobody else packs bytes of columns.

    at  size  what
    0   4     crc32 of everything from byte 4 on
    4   1     magic 0xD7
    5   1     number of columns
    6   2     zero
    8   4     rows
    12  9*c   for each column: i64 base, u8 width in bytes (0 to 8)
    ..        the columns, each rows*width bytes: value - base, little end first

A width of 0 is a constant column and takes no bytes. Frame of reference keeps eids of a run, codes of one attribute and
the tx of a bulk load to one to four bytes; widths of 3, 5, 6 and 7 are worth their slower decoding (3 ns a value
instead of 1) for a fifth of the file.

The checksum covers the whole segment. Segments are decoded into a cache, so that a point lookup pays for it once for each
segment, not once for each lookup (4,096 rows: about 12 us); see docs/decisions/0003.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np

from store.errors import StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]

MAGIC: Final = 0xD7
HEAD: Final = struct.Struct("<IBBHI")
COLUMN: Final = struct.Struct("<qB")
TARGET_ROWS: Final = 4096  # a bulk-loaded segment; merged segments split above twice this
_DTYPES: Final = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<i8")}


def _width(spread: int) -> int:
    return (spread.bit_length() + 7) // 8


def pack(columns: Sequence[Codes]) -> bytes:
    """The bytes of a segment with these columns, each int64 (rows,); the exact inverse of `unpack`."""
    rows = len(columns[0])
    parts = [b"", b""]
    heads = []
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if rows else (0, 0)
        width = _width(high - low)
        heads.append(COLUMN.pack(low, width))
        if width:
            parts.append(_pack_column(column, low, width))
    body = b"".join([*heads, *parts])
    head = HEAD.pack(0, MAGIC, len(columns), 0, rows)[4:]
    return struct.pack("<I", crc32(body, crc32(head))) + head + body


def _pack_column(column: Codes, low: int, width: int) -> bytes:
    if width == 8:
        with np.errstate(over="ignore"):
            return (column - np.int64(low)).astype("<i8").tobytes()
    offsets = column - np.int64(low)
    if width in _DTYPES:
        return offsets.astype(_DTYPES[width]).tobytes()
    raw = offsets.astype("<i8").view(np.uint8).reshape(len(column), 8)
    return np.ascontiguousarray(raw[:, :width]).tobytes()


def rows_of(data: bytes | memoryview) -> int:
    """The number of rows of a segment, read from its head alone."""
    return int.from_bytes(data[8:12], "little")


def unpack(data: bytes | memoryview, *, key: bytes = b"") -> list[Codes]:
    """The columns of a segment as new int64 arrays (rows,); the checksum is verified first.

    Raises:
        StoreCorrupt: `store/checksum` when the bytes are not what was written.
    """
    check(data, key=key)
    _, _, count, _, rows = HEAD.unpack_from(data)
    at = HEAD.size + COLUMN.size * count
    columns = []
    for i in range(count):
        low, width = COLUMN.unpack_from(data, HEAD.size + COLUMN.size * i)
        columns.append(_unpack_column(data, at, rows, low, width))
        at += rows * width
    return columns


def _unpack_column(data: bytes | memoryview, at: int, rows: int, low: int, width: int) -> Codes:
    if width == 0:
        return np.full(rows, low, dtype=np.int64)
    dtype = _DTYPES.get(width)
    if dtype is not None:
        offsets = np.frombuffer(data, dtype, rows, at)
    else:
        wide = np.zeros((rows, 8), dtype=np.uint8)
        wide[:, :width] = np.frombuffer(data, np.uint8, rows * width, at).reshape(rows, width)
        offsets = wide.view("<i8").reshape(rows)
    return np.add(offsets, np.int64(low), dtype=np.int64, casting="unsafe")


def check(data: bytes | memoryview, *, key: bytes = b"") -> None:
    """Returns if the segment is whole.

    Raises:
        StoreCorrupt: `store/checksum`, naming the entry's key.
    """
    if len(data) < HEAD.size or data[4] != MAGIC or int.from_bytes(data[:4], "little") != crc32(data[4:]):
        raise corrupt(key)


def corrupt(key: bytes) -> StoreCorrupt:
    """The error for an entry whose bytes are not those that were written."""
    return StoreCorrupt(
        "store/checksum",
        f"The entry {key[:40].hex()} is damaged: its checksum does not fit its bytes.",
        hint="run `datalog check PATH`; `datalog check --rebuild PATH` makes the indexes anew from the log, "
        "otherwise restore a backup",
    )
