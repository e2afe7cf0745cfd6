"""The transaction log: what each transaction asserted and retracted. It alone suffices to rebuild the three indexes.

Entries lie under L + tx (8 bytes) + part (2 bytes), big end first. A small transaction is one entry:

    0  4  crc32 of everything from byte 4 on      4  1  magic 0xD8      5  3  zero
    8  .. rows of four i64, little end first: e, aid, v code, operation

A larger part is a segment (segment.py) with the columns e, aid, v code, operation. The operation is 1 for an assertion and 0
for a retraction, plus twice the kind of the code. The first log entry after a compaction that dropped history is a
*baseline*: segments with a fifth column, the tx of each datom that was current then.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np

from store.segment import MAGIC, corrupt, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from store.environment import ReadTxn, WriteTxn

    Codes = NDArray[np.int64]

RAW_MAGIC: Final = 0xD8
PART_ROWS: Final = 1 << 16
_RAW_MOST: Final = 256
_KEY: Final = struct.Struct(">QH")


def log_key(tx: int, part: int = 0) -> bytes:
    """The key of a part of a transaction's log."""
    return b"L" + _KEY.pack(tx, part)


def read_log_key(key: bytes) -> tuple[int, int]:
    """(tx, part) of a log key."""
    tx, part = _KEY.unpack(key[1:])
    return tx, part


def pack_small(rows: list[tuple[int, int, int, int]]) -> bytes:
    """The entry of a small transaction."""
    body = b"\xd8\x00\x00\x00" + struct.pack(f"<{4 * len(rows)}q", *chain.from_iterable(rows))
    return struct.pack("<I", crc32(body)) + body


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
    if len(data) < 8 or data[4] != RAW_MAGIC or crc32(data[4:]) != int.from_bytes(data[:4], "little") or len(data) % 32 != 8:
        raise corrupt(key)
    table = np.frombuffer(data, "<i8", offset=8).reshape(-1, 4)
    return tuple(np.ascontiguousarray(table[:, i], dtype=np.int64) for i in range(4))


class LogWriter:
    """Writes the log of one transaction, part by part."""

    __slots__ = ("_part", "_tx", "_txn")

    def __init__(self, txn: WriteTxn, tx: int) -> None:
        self._txn = txn
        self._tx = tx
        self._part = 0

    def rows(self, rows: list[tuple[int, int, int, int]]) -> None:
        """Writes rows (e, aid, v, operation)."""
        if len(rows) <= _RAW_MOST:
            if rows:
                self._put(pack_small(rows))
            return
        table = np.array(rows, dtype=np.int64)
        self.columns(table[:, 0], table[:, 1], table[:, 2], table[:, 3])

    def columns(self, *columns: Codes) -> None:
        """Writes columns e, aid, v, operation [, tx]."""
        for start in range(0, len(columns[0]), PART_ROWS):
            self._put(pack([np.ascontiguousarray(c[start : start + PART_ROWS]) for c in columns]))

    def _put(self, data: bytes) -> None:
        self._txn.put(log_key(self._tx, self._part), data)
        self._part += 1


def iter_log(txn: ReadTxn, after_tx: int) -> Iterator[tuple[int, tuple[Codes, ...]]]:
    """(tx, columns) of the log's parts after a transaction, in order."""
    for key, data in txn.items(b"L", log_key(after_tx + 1)):
        yield read_log_key(key)[0], unpack_part(data, key)
