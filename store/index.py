"""EAVT, AEVT and AVET over segments: directories, scans, lookups, and merging a batch of changes into them.

Three tables of runs, each run cut into segments:

    table  prefix        k1                k2   segment columns
    EAVT   E             e << 21 | aid     v    e, aid, v, tx
    AEVT   A aid         e                 v    e, v, tx
    AVET   V aid         v                 e    v, e, tx

The key of a segment is its prefix and the order-preserving bytes of its first (k1, k2); no two rows of a run are equal, so
no two segments share a key. AVET orders interned values by code: order by value is the dictionary's (decision 0002).

A `Base` is these tables at one LMDB read transaction. Changes are merged into many segments at once, never one by one.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np

from store.columns import EMPTY, insert_rows, order_stable, positions, remove_rows
from store.datom import AID_BITS
from store.segment import TARGET_ROWS, corrupt, pack, pack_many, unpack, unpack_into

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from store.environment import Meta, ReadTxn
    from store.writing import WriteTxn

    Codes = NDArray[np.int64]
    Rows = tuple[Codes, Codes, Codes]

EAVT: Final = b"E"
_U4: Final = struct.Struct(">I")
_ROW: Final = struct.Struct(">QQ")
_EAV: Final = struct.Struct(">QIQ")
_SIGN: Final = 1 << 63
_AID_MASK: Final = (1 << AID_BITS) - 1
_STATS: Final = struct.Struct("<Iqq")
NO_ROWS: Rows = (EMPTY, EMPTY, EMPTY)
SEGMENT_CACHE_BYTES: Final = 96 << 20


def aevt(aid: int) -> bytes:
    """The prefix of an attribute's AEVT run."""
    return b"A" + _U4.pack(aid)


def avet(aid: int) -> bytes:
    """The prefix of an attribute's AVET run."""
    return b"V" + _U4.pack(aid)


def segment_key(prefix: bytes, k1: int, k2: int) -> bytes:
    """The key of the segment whose first row is (k1, k2)."""
    if prefix == EAVT:
        return EAVT + _EAV.pack(k1 >> AID_BITS, k1 & _AID_MASK, k2 + _SIGN)
    return prefix + _ROW.pack(k1 + _SIGN, k2 + _SIGN)


def read_segment_key(prefix: bytes, key: bytes) -> tuple[int, int]:
    """The (k1, k2) of a segment's key."""
    if prefix == EAVT:
        e, a, v = _EAV.unpack(key[1:])
        return e << AID_BITS | a, v - _SIGN
    k1, k2 = _ROW.unpack(key[len(prefix) :])
    return k1 - _SIGN, k2 - _SIGN


def pack_rows(prefix: bytes, rows: Rows) -> bytes:
    """The bytes of a segment with these rows."""
    return pack(_columns(prefix, rows))


def _columns(prefix: bytes, rows: Rows) -> tuple[Codes, ...]:
    """The columns of a segment with these rows."""
    if prefix != EAVT:
        return rows
    k1, k2, tx = rows
    return k1 >> np.int64(AID_BITS), k1 & np.int64(_AID_MASK), k2, tx


def unpack_rows(prefix: bytes, data: bytes, key: bytes) -> Rows:
    """The rows of a segment's bytes; StoreCorrupt when they are damaged."""
    columns = unpack(data, key=key)
    if prefix == EAVT and len(columns) == 4:
        e, a, v, tx = columns
        return e << np.int64(AID_BITS) | a, v, tx
    if len(columns) != 3:
        raise corrupt(key)
    return columns[0], columns[1], columns[2]


class Directory:
    """The first rows of a run's segments, in order."""

    __slots__ = ("k1", "k2", "keys")

    def __init__(self, prefix: bytes, keys: list[bytes]) -> None:
        self.keys = keys
        firsts = [read_segment_key(prefix, k) for k in keys]
        self.k1 = [f[0] for f in firsts]
        self.k2 = [f[1] for f in firsts]


def stats_key(aid: int) -> bytes:
    """The key of an attribute's counts."""
    return b"S" + _U4.pack(aid)


def pack_stats(count: int, last_tx: int) -> bytes:
    """The bytes of an attribute's counts."""
    body = _STATS.pack(0, count, last_tx)[4:]
    return struct.pack("<I", crc32(body)) + body


def unpack_stats(data: bytes, key: bytes) -> tuple[int, int]:
    """(count, last tx) of an attribute; StoreCorrupt when damaged."""
    if len(data) != _STATS.size or crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        raise corrupt(key)
    _, count, last_tx = _STATS.unpack(data)
    return count, last_tx


class Base:
    """The segments as of one LMDB read transaction; immutable, shared by the snapshots of its generation."""

    __slots__ = ("__weakref__", "_bytes", "_directories", "_segments", "_stats", "_verified", "_views", "meta", "txn")

    def __init__(self, txn: ReadTxn, meta: Meta) -> None:
        self.txn = txn
        self.meta = meta
        self._directories: dict[bytes, Directory] = {}
        self._segments: dict[bytes, Rows] = {}
        # of k1 and k2, of segments where single keys are looked up
        self._views: dict[bytes, tuple[memoryview, memoryview]] = {}
        self._bytes = 0
        self._stats: dict[int, tuple[int, int]] = {}
        self._verified: set[bytes] = set()  # segments whose checksum a scan of this process has verified
        for key, data in txn.items(b"S"):
            self._stats[_U4.unpack(key[1:])[0]] = unpack_stats(data, key)

    def inherit(self, older: Base, touched: set[bytes]) -> None:
        """Takes over the decoded segments of the generation before that the merge did not touch."""
        for key, rows in older._segments.items():
            if key not in touched:
                self._segments[key] = rows
        self._verified = older._verified - touched
        self._bytes = sum(24 * len(r[0]) for r in self._segments.values())

    def stats(self, aid: int) -> tuple[int, int]:
        """(number of datoms, last tx) of an attribute in the segments."""
        return self._stats.get(aid, (0, 0))

    def aids(self) -> list[int]:
        """The attributes that have datoms in the segments, ascending."""
        return sorted(a for a, (count, _) in self._stats.items() if count)

    def directory(self, prefix: bytes) -> Directory:
        """The directory of a run."""
        directory = self._directories.get(prefix)
        if directory is None:
            directory = self._directories[prefix] = Directory(prefix, self.txn.keys(prefix))
        return directory

    def segment(self, prefix: bytes, key: bytes) -> Rows:
        """The rows of a segment, through the bounded cache."""
        rows = self._segments.get(key)
        if rows is None:
            data = self.txn.get(key)
            if data is None:
                raise corrupt(key)
            rows = unpack_rows(prefix, data, key)
            self._bytes += 24 * len(rows[0])
            while self._bytes > SEGMENT_CACHE_BYTES:
                try:
                    oldest = next(iter(self._segments))
                    self._bytes -= 24 * len(self._segments.pop(oldest)[0])
                    self._views.pop(oldest, None)
                except (StopIteration, RuntimeError, KeyError):  # emptied, or another thread was faster
                    break
            self._segments[key] = rows
        return rows

    def _view(self, prefix: bytes, key: bytes) -> tuple[memoryview, memoryview]:
        k1, k2, _ = self.segment(prefix, key)
        view = memoryview(k1), memoryview(k2)  # type: ignore[arg-type]
        if key in self._segments:  # not evicted already
            self._views[key] = view
        return view

    def slice(self, prefix: bytes, low: int, high: int) -> Rows:
        """The rows of a run with low <= k1 <= high: (k1, k2, tx), each int64 (n,), in order."""
        directory = self.directory(prefix)
        at = bisect_left(directory.k1, low) - 1
        parts: list[Rows] = []
        for i in range(max(at, 0), len(directory.keys)):
            if directory.k1[i] > high:
                break
            k1, k2, tx = self.segment(prefix, directory.keys[i])
            start, end = int(k1.searchsorted(low)), int(k1.searchsorted(high, "right"))
            if start < end:
                parts.append((k1[start:end], k2[start:end], tx[start:end]))
        if not parts:
            return NO_ROWS
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def find(self, prefix: bytes, k1: int) -> list[int]:
        """The k2 of the rows with this k1, ascending: the point lookup."""
        directory = self._directories.get(prefix) or self.directory(prefix)
        starts = directory.k1
        at = bisect_left(starts, k1)
        goes_on = at < len(starts) and starts[at] == k1  # the next segment begins with it
        if at:
            key = directory.keys[at - 1]
            # numpy's search of one key, and its numbers one by one, take twice the time of these
            column, others = self._views.get(key) or self._view(prefix, key)
            start, size = bisect_left(column, k1), len(column)
            if start < size:
                if column[start] != k1:
                    return []
                if column[start + 1] != k1 if start + 1 < size else not goes_on:
                    return [others[start]]
            elif not goes_on:
                return []
        elif not goes_on:
            return []
        return [int(v) for v in self.slice(prefix, k1, k1)[1]]

    def count(self, prefix: bytes, low: int, high: int) -> int:
        """The number of rows of a run with low <= k1 <= high; whole segments are counted from their heads."""
        directory = self.directory(prefix)
        first = max(bisect_left(directory.k1, low) - 1, 0)
        total = 0
        last = len(directory.keys) - 1
        for i in range(first, last + 1):
            if directory.k1[i] > high:
                break
            inside = directory.k1[i] >= low and i < last and directory.k1[i + 1] <= high
            if inside and directory.keys[i] not in self._segments:
                data = self.txn.get(directory.keys[i])
                total += int.from_bytes((data or b"")[8:12], "little")
            else:
                k1 = self.segment(prefix, directory.keys[i])[0]
                total += int(k1.searchsorted(high, "right")) - int(k1.searchsorted(low))
        return total

    def scan(self, prefix: bytes, *, tx: bool = True) -> Rows:
        """All rows of a run: (k1, k2, tx), in order; without tx that column is empty, which is quicker."""
        if prefix == EAVT:
            parts = list(self.iter_segments(prefix))
            return concatenate(parts) if parts else NO_ROWS
        total = self.stats(_U4.unpack(prefix[1:])[0])[0]
        k1, k2 = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        tx_column = np.empty(total, dtype=np.int64) if tx else None
        outs = (k1, k2, tx_column)
        at = 0
        verified = self._verified
        for key, data in self.txn.items(prefix):
            at += unpack_into(data, outs, at, key=key, verified=key in verified)
            verified.add(key)
        if at == 0:
            return NO_ROWS
        if at != total:
            raise corrupt(prefix)
        return k1, k2, tx_column if tx_column is not None else EMPTY

    def iter_segments(self, prefix: bytes, start: int | None = None) -> Iterator[Rows]:
        """The rows of a run segment by segment, in order, from the one that may hold k1 = `start` on."""
        if start is not None:
            directory = self.directory(prefix)
            for key in directory.keys[max(bisect_left(directory.k1, start) - 1, 0) :]:
                yield self.segment(prefix, key)
            return
        for key, data in self.txn.items(prefix):
            rows = self._segments.get(key)
            yield rows if rows is not None else unpack_rows(prefix, data, key)

    def sample(self, prefix: bytes, most: int) -> tuple[list[Rows], list[int]]:
        """(up to `most` segments spread over a run, the first k1 of all its segments)."""
        directory = self.directory(prefix)
        step = max(1, len(directory.keys) // most)
        return [self.segment(prefix, k) for k in directory.keys[::step][:most]], directory.k1


def concatenate(parts: list[Rows]) -> Rows:
    """The rows of all parts, one after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return (
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
    )


# ---------------------------------------------------------------------------------------------------------------------
# writing


class Merge:
    """One batch of changes on its way into the segments, inside a write transaction.

    `touched` collects the keys of segments that were rewritten, for the caches.
    """

    __slots__ = ("_base", "_txn", "touched")

    def __init__(self, txn: WriteTxn, base: Base) -> None:
        self._txn = txn
        self._base = base
        self.touched: set[bytes] = set()

    def run(self, prefix: bytes, adds: Rows, removes: tuple[Codes, Codes]) -> None:
        """Merges sorted changes into a run: rows removed (k1, k2), then rows added (k1, k2, tx)."""
        directory = self._base.directory(prefix)
        if not directory.keys:
            self._write(prefix, adds)
            return
        starts1 = np.array(directory.k1[1:], dtype=np.int64)
        starts2 = np.array(directory.k2[1:], dtype=np.int64)
        add_cuts = _cuts(adds[0], adds[1], starts1, starts2)
        remove_cuts = _cuts(removes[0], removes[1], starts1, starts2)
        changed = np.flatnonzero((np.diff(add_cuts) > 0) | (np.diff(remove_cuts) > 0)).tolist()
        add_list, remove_list = add_cuts.tolist(), remove_cuts.tolist()
        carried: Rows | None = None
        carried_from = -2
        for i in changed:
            if carried is not None and i != carried_from + 1:
                self._settle(prefix, carried, carried_from + 1)
                carried = None
            key = directory.keys[i]
            rows = self._base.segment(prefix, key)
            low, high = remove_list[i], remove_list[i + 1]
            if low < high:
                rows = _as_rows(remove_rows(rows, removes[0][low:high], removes[1][low:high]))
            low, high = add_list[i], add_list[i + 1]
            if low < high:
                rows = _as_rows(insert_rows(rows, (adds[0][low:high], adds[1][low:high], adds[2][low:high])))
            self._txn.delete(key)
            self.touched.add(key)
            if carried is not None:
                rows = concatenate([carried, rows])
                carried = None
            if len(rows[0]) < TARGET_ROWS // 4:
                carried, carried_from = rows, i
            else:
                self._write(prefix, rows)
        if carried is not None:
            self._settle(prefix, carried, carried_from + 1)

    def _settle(self, prefix: bytes, rows: Rows, following: int) -> None:
        """Writes a segment that became small, together with the untouched one that follows it."""
        keys = self._base.directory(prefix).keys
        if len(rows[0]) and following < len(keys):
            key = keys[following]
            rows = concatenate([rows, self._base.segment(prefix, key)])
            self._txn.delete(key)
            self.touched.add(key)
        self._write(prefix, rows)

    def replace(self, prefix: bytes, rows: Rows) -> None:
        """Puts other rows in the place of a whole run."""
        for key in self._base.directory(prefix).keys:
            self._txn.delete(key)
            self.touched.add(key)
        self._write(prefix, rows)

    def append(self, prefix: bytes, rows: Rows) -> None:
        """Puts sorted rows behind all rows that a run has, or has been given by `append`."""
        self._write(prefix, rows)

    def _write(self, prefix: bytes, rows: Rows) -> None:
        items = packed(prefix, rows)
        self.touched.update(key for key, _ in items)
        self._txn.put_sorted(items)


def packed(prefix: bytes, rows: Rows, target: int = TARGET_ROWS) -> list[tuple[bytes, bytes]]:
    """The (key, bytes) of the segments that hold these sorted rows."""
    n = len(rows[0])
    if n <= 2 * target:
        return [(segment_key(prefix, int(rows[0][0]), int(rows[1][0])), pack_rows(prefix, rows))] if n else []
    pieces = n // target
    cuts = [n * i // pieces for i in range(pieces + 1)]
    firsts = zip(rows[0][cuts[:-1]].tolist(), rows[1][cuts[:-1]].tolist(), strict=True)
    return list(zip((segment_key(prefix, *f) for f in firsts), pack_many(_columns(prefix, rows), cuts), strict=True))


def _as_rows(rows: tuple[Codes, ...]) -> Rows:
    return rows[0], rows[1], rows[2]


def _cuts(k1: Codes, k2: Codes, starts1: Codes, starts2: Codes) -> Codes:
    """Where sorted rows are cut so that each piece belongs to one segment, int64 (segments + 1,)."""
    inner = positions(k1, k2, starts1, starts2) if len(k1) else np.zeros(len(starts1), dtype=np.int64)
    return np.concatenate(([0], inner, [len(k1)]))


def to_avet(e: Codes, v: Codes, tx: Codes) -> Rows:
    """Rows of AEVT (sorted by e, v) as rows of AVET."""
    order = order_stable(v)
    same_tx = len(tx) > 0 and bool((tx == tx[0]).all())
    return v.take(order), e.take(order), tx if same_tx else tx.take(order)
