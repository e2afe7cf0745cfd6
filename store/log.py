"""The transaction log: what each transaction asserted and retracted. It alone suffices to rebuild the three indexes.

Entries lie under L + tx (8 bytes) + part (2 bytes), big end first. A small transaction is one entry:

    at  size  what
    0   4     crc32 of everything from byte 4 on
    4   1     magic 0xD8
    5   3     zero
    8   4     rows
    12  8     i64 :db/txInstant of the transaction in microseconds: one more assertion, implied
    20  36    for each of the columns e, aid, v code, operation: i64 base, u8 width (0, 1, 2, 4, 8)
    56  ..    the columns, rows*width bytes each: value - base, little end first

A larger part is a segment (segment.py) with the same columns. The operation is 1 for an assertion and 0 for a
retraction, plus twice the kind of the code. After a compaction that dropped history the log begins with a *baseline*:
segments with a fifth column, the tx of each datom that was current then. A compaction leaves out transactions of which
nothing is left but their instant (all else was old values of :db/noHistory attributes); their ranges are noted under
G + first tx (8 bytes) + 00 00: crc32, last tx.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import numpy as np

from store.schema import TX_INSTANT
from store.segment import MAGIC, corrupt, pack, unpack
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from store.environment import ReadTxn
    from store.writing import WriteTxn

    Codes = NDArray[np.int64]

RAW_MAGIC: Final = 0xD8
PART_ROWS: Final = 1 << 16
_RAW_MOST: Final = 256
_KEY: Final = struct.Struct(">QH")
_COLUMN: Final = struct.Struct("<qB")
_SMALL_HEAD: Final = struct.Struct("<Iq")
_ONE_ROW: Final = struct.Struct("<BxxxIq" + 4 * "qB")  # magic, rows, instant, base and width of each column
_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


def log_key(tx: int, part: int = 0) -> bytes:
    """The key of a part of a transaction's log."""
    return b"L" + _KEY.pack(tx, part)


def read_log_key(key: bytes) -> tuple[int, int]:
    """(tx, part) of a log key."""
    tx, part = _KEY.unpack(key[1:])
    return tx, part


def pack_small(rows: list[tuple[int, int, int, int]], instant: int) -> bytes:
    """The entry of a small transaction; plain struct packing, as numpy's cost for each call would be most of it."""
    return pack_columns(len(rows), zip(*rows, strict=True), instant)


def pack_one(e: int, aid: int, v: int, operation: int, instant: int) -> bytes:
    """The entry of a transaction of one row: its columns take no bytes."""
    body = _ONE_ROW.pack(RAW_MAGIC, 1, instant, e, 0, aid, 0, v, 0, operation, 0)
    return crc32(body).to_bytes(4, "little") + body


def pack_columns(n: int, columns: Iterable[Sequence[int]], instant: int) -> bytes:
    """The entry of a small transaction of n rows, from its columns e, aid, v, operation."""
    if n == 1:
        (e,), (a,), (v,), (operation,) = columns
        return pack_one(e, a, v, operation, instant)
    if n == 0:
        columns = ((0,),) * 4
    heads: list[int] = []
    bodies: list[bytes] = []
    for column in columns:
        low = min(column)
        spread = max(column) - low
        if not spread:
            heads += (low, 0)
        elif spread < 256:
            heads += (low, 1)
            bodies.append(bytes([x - low for x in column]))
        else:
            width = 2 if spread < 65536 else 4 if spread < 1 << 32 else 8
            heads += (low, width)
            bodies.append(struct.pack(f"<{n}{_FORMATS[width]}", *[x - low for x in column]))
    body = b"".join((_ONE_ROW.pack(RAW_MAGIC, n, instant, *heads), *bodies))
    return crc32(body).to_bytes(4, "little") + body


def unpack_small(data: bytes, key: bytes) -> list[tuple[int, int, int, int]]:
    """The rows (e, aid, v, operation) of a small entry, the :db/txInstant among them.

    Raises:
        StoreCorrupt: when the bytes are not what was written.
    """
    if len(data) < 56 or data[4] != RAW_MAGIC or crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        raise corrupt(key)
    n, instant = _SMALL_HEAD.unpack_from(data, 8)
    at = 56
    columns: list[Any] = []
    for i in range(4):
        low, width = _COLUMN.unpack_from(data, 20 + 9 * i)
        if width:
            columns.append([x + low for x in struct.unpack_from(f"<{n}{_FORMATS[width]}", data, at)])
            at += n * width
        else:
            columns.append([low] * n)
    rows = list(zip(*columns, strict=True))
    rows.append((read_log_key(key)[0], TX_INSTANT, instant, 1 | Kind.INSTANT << 1))
    return rows


def unpack_part(data: bytes, key: bytes) -> tuple[Codes, ...]:
    """The columns e, aid, v, operation [, tx] of an entry, int64 (n,) each.

    Raises:
        StoreCorrupt: when the bytes are not what was written.
    """
    if len(data) > 4 and data[4] == MAGIC:
        columns = unpack(data, key=key)
        if len(columns) not in (4, 5):
            raise corrupt(key)
        return tuple(columns)
    table = np.array(unpack_small(data, key), dtype=np.int64)
    return tuple(np.ascontiguousarray(table[:, i]) for i in range(4))


def pack_part(columns: tuple[Codes, ...], tx: int) -> bytes:
    """The entry that holds these columns again, in the small form where that is possible."""
    own = np.flatnonzero((columns[1] == TX_INSTANT) & (columns[0] == tx))
    if len(columns) == 4 and len(own) == 1 and len(columns[0]) <= _RAW_MOST:
        instant = int(columns[2][own[0]])
        rest = [np.delete(c, own[0]).tolist() for c in columns]
        return pack_small(list(zip(*rest, strict=True)), instant)
    return pack(columns)


def gap_key(first: int) -> bytes:
    """The key of a range of transactions that a compaction left out of the log."""
    return b"G" + _KEY.pack(first, 0)


def pack_gap(last: int) -> bytes:
    """The value of such a range: its last transaction."""
    raw = last.to_bytes(8, "little")
    return crc32(raw).to_bytes(4, "little") + raw


def read_gaps(txn: ReadTxn) -> list[tuple[int, int]]:
    """The ranges (first, last) of transactions that compactions left out, in order; StoreCorrupt when damaged."""
    gaps = []
    for key, data in txn.items(b"G"):
        if len(data) != 12 or len(key) != 11 or crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            raise corrupt(key)
        gaps.append((_KEY.unpack(key[1:])[0], int.from_bytes(data[4:], "little")))
    return gaps


class LogWriter:
    """Writes the log of one transaction, part by part."""

    __slots__ = ("_part", "_tx", "_txn")

    def __init__(self, txn: WriteTxn, tx: int) -> None:
        self._txn = txn
        self._tx = tx
        self._part = 0

    def rows(self, rows: list[tuple[int, int, int, int]], instant: int | None) -> None:
        """Writes rows (e, aid, v, operation), and the transaction's :db/txInstant unless it is among the rows."""
        if len(rows) <= _RAW_MOST and instant is not None:
            self._put(pack_small(rows, instant))
            return
        if instant is not None:
            rows = [*rows, (self._tx, TX_INSTANT, instant, 1 | Kind.INSTANT << 1)]
        table = np.array(rows, dtype=np.int64)
        self.columns(table[:, 0], table[:, 1], table[:, 2], table[:, 3])

    def columns(self, *columns: Codes) -> None:
        """Writes columns e, aid, v, operation [, tx]."""
        for start in range(0, len(columns[0]), PART_ROWS):
            self._put(pack([np.ascontiguousarray(c[start : start + PART_ROWS]) for c in columns]))

    def _put(self, data: bytes) -> None:
        self._txn.put_log(log_key(self._tx, self._part), data)
        self._part += 1


def iter_log_rows(txn: ReadTxn, after_tx: int) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
    """(tx, rows) of the log's parts after a transaction, in order: the quick way for many small ones."""
    for key, data in txn.items(b"L", log_key(after_tx + 1)):
        if len(data) > 4 and data[4] == RAW_MAGIC:
            yield read_log_key(key)[0], unpack_small(data, key)
        else:
            e, a, v, operation = (column.tolist() for column in unpack_part(data, key)[:4])
            yield read_log_key(key)[0], list(zip(e, a, v, operation, strict=True))
