"""The bytes of a segment: columns of int64, each contiguous, with a checksum. Nobody else packs bytes of columns.

    at  size  what
    0   4     crc32 of everything from byte 4 on
    4   1     magic 0xD7
    5   1     number of columns
    6   2     zero
    8   4     rows
    12  9*c   for each column: i64 base, u8 width in bytes (0 to 8)
    ..        the columns, each rows*width bytes: value - base, little end first

If any width is 3, 5, 6 or 7, eight zero bytes follow, so that the last value can be read as a wider one.

A width of 0 is a constant column and takes no bytes. Frame of reference keeps eids of a run, codes of one attribute and
the tx of a bulk load to one to four bytes; widths of 3, 5, 6 and 7 save a
fifth of the file, and reading them as overlapping wider integers costs 1.5 ns a value instead of 0.8.

The checksum covers the whole segment. Segments are decoded into a cache, so that a point lookup pays for it once for each
segment, not once for each lookup (4,096 rows: about 12 us); see docs/decisions/0003.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING, Any, Final
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
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<i8"),
}

_WIDER: Final[dict[int, tuple[np.dtype[Any], np.int64]]] = {
    3: (np.dtype("<u4"), np.int64(0xFFFFFF)),
    5: (np.dtype("<i8"), np.int64((1 << 40) - 1)),
    6: (np.dtype("<i8"), np.int64((1 << 48) - 1)),
    7: (np.dtype("<i8"), np.int64((1 << 56) - 1)),
}
_PADDING: Final = bytes(8)


def _width(spread: int) -> int:
    return (spread.bit_length() + 7) // 8


def pack(columns: Sequence[Codes]) -> bytes:
    """The bytes of a segment with these columns, each int64 (rows,); the exact inverse of `unpack`."""
    if len(columns[0]) == 0:
        return _assemble(columns, [0] * len(columns), [0] * len(columns))
    return _assemble(columns, [int(column.min()) for column in columns], [int(column.max()) for column in columns])


def pack_many(columns: Sequence[Codes], cuts: Sequence[int]) -> list[bytes]:
    """The bytes of the segments that columns, int64 (n,), make when cut at `cuts` (0 first, n last, ascending).

    The same as `pack` on each piece, but the ranges of all pieces are found at once.
    """
    starts = np.array(cuts[:-1])
    lows = [np.minimum.reduceat(column, starts).tolist() for column in columns]
    highs = [np.maximum.reduceat(column, starts).tolist() for column in columns]
    return [
        _assemble([column[cuts[i] : cuts[i + 1]] for column in columns], [x[i] for x in lows], [x[i] for x in highs])
        for i in range(len(cuts) - 1)
    ]


def _assemble(columns: Sequence[Codes], lows: Sequence[int], highs: Sequence[int]) -> bytes:
    rows = len(columns[0])
    parts: list[bytes] = []
    heads: list[bytes] = []
    odd = False
    for column, low, high in zip(columns, lows, highs, strict=True):
        width = _width(high - low)
        heads.append(COLUMN.pack(low, width))
        if width:
            odd = odd or width in _WIDER
            parts.append(_pack_column(column, low, width))
    body = b"".join([*heads, *parts, _PADDING if odd else b""])
    head = HEAD.pack(0, MAGIC, len(columns), 0, rows)[4:]
    return struct.pack("<I", crc32(body, crc32(head))) + head + body


def _pack_column(column: Codes, low: int, width: int) -> bytes:
    if width == 8:
        with np.errstate(over="ignore"):
            return (column - np.int64(low)).astype("<i8").tobytes()
    offsets = column - np.int64(low)
    if width in _DTYPES:
        return offsets.astype(_DTYPES[width]).tobytes()
    # wide values one after another, each over the zero bytes at the end of the one before
    wide = _WIDER[width][0]
    raw = bytearray(len(column) * width + wide.itemsize - width)
    np.ndarray((len(column),), wide, raw, 0, (width,))[:] = offsets
    return bytes(memoryview(raw)[: len(column) * width])


def rows_of(data: bytes | memoryview) -> int:
    """The number of rows of a segment, read from its head alone."""
    return int.from_bytes(data[8:12], "little")


def unpack(data: bytes, *, key: bytes = b"") -> list[Codes]:
    """The columns of a segment as new int64 arrays (rows,); the checksum is verified first.

    Raises:
        StoreCorrupt: `store/checksum` when the bytes are not what was written.
    """
    check(data, key=key)
    rows = rows_of(data)
    columns = [np.empty(rows, dtype=np.int64) for _ in range(data[5])]
    _read(data, columns, 0, rows)
    return columns


def unpack_into(data: bytes, outs: Sequence[Codes | None], at: int, *, key: bytes = b"", verified: bool = False) -> int:
    """Writes the columns of a segment into arrays from place `at` on; None for a column that nobody needs.

    Returns the number of rows; raises as `unpack` does, also when the arrays are too short. `verified` says that these bytes
    were checked before.
    """
    if not verified:
        check(data, key=key)
    rows = rows_of(data)
    if data[5] != len(outs):
        raise corrupt(key)
    for out in outs:
        if out is not None and at + rows > len(out):
            raise corrupt(key)
    _read(data, outs, at, rows)
    return rows


def _read(data: bytes, outs: Sequence[Codes | None], at: int, rows: int) -> None:
    columns = len(outs)
    heads = _heads(columns).unpack_from(data, HEAD.size)
    start = HEAD.size + COLUMN.size * columns
    for i, out in enumerate(outs):
        low, width = heads[2 * i], heads[2 * i + 1]
        if out is not None:
            part = out[at : at + rows]
            dtype = _DTYPES.get(width)
            if dtype is not None:
                np.add(np.frombuffer(data, dtype, rows, start), np.int64(low), out=part)
            elif width == 0:
                part.fill(low)
            else:
                wide, mask = _WIDER[width]
                part[:] = np.ndarray((rows,), wide, data, start, (width,))
                part &= mask
                if low:
                    part += np.int64(low)
        start += rows * width


@cache
def _heads(columns: int) -> struct.Struct:
    """Base and width of each column, all at once."""
    return struct.Struct("<" + "qB" * columns)


def check(data: bytes | memoryview, *, key: bytes = b"") -> None:
    """Returns if the segment is whole.

    Raises:
        StoreCorrupt: `store/checksum`, naming the entry's key.
    """
    if len(data) < HEAD.size or data[4] != MAGIC or int.from_bytes(data[:4], "little") != crc32(memoryview(data)[4:]):
        raise corrupt(key)


def corrupt(key: bytes) -> StoreCorrupt:
    """The error for an entry whose bytes are not those that were written."""
    return StoreCorrupt(
        "store/checksum",
        f"The entry {key[:40].hex()} is damaged: its checksum does not fit its bytes.",
        hint="run `datalog check PATH`; `datalog check --rebuild PATH` makes the indexes anew from the log, "
        "otherwise restore a backup",
    )
