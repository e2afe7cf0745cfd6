"""Sorting and merging of int64 rows by two keys: what indexes and overlays share. Arrays in, arrays out.

A *run* is rows (k1, k2) in ascending order without duplicates. Measured with numpy 2.4: packing a key and a row number
into one int64 and sorting that is the fastest way to an order (10^6 rows: 25 ms; a stable argsort 90, lexsort 180).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int64]
    Rows = tuple[Codes, ...]

EMPTY: Codes = np.empty(0, dtype=np.int64)
EMPTY.flags.writeable = False


def is_sorted(k1: Codes, k2: Codes) -> bool:
    """True when the rows are in ascending order of (k1, k2); equal neighbours are allowed."""
    before, after = k1[:-1], k1[1:]
    if bool((before < after).all()):
        return True
    if bool((before > after).any()):
        return False
    ties = before == after
    return not bool((k2[:-1][ties] > k2[1:][ties]).any())


def is_rising(key: Codes) -> bool:
    """True when the keys ascend and are distinct."""
    return len(key) < 2 or bool((key[1:] > key[:-1]).all())


def order_stable(key: Codes) -> Codes:
    """The order that sorts `key` and keeps the given order among equal keys, int64 (n,)."""
    n = len(key)
    if n < 2:
        return np.arange(n)
    low, high = int(key.min()), int(key.max())
    row_bits = (n - 1).bit_length()
    if (high - low).bit_length() + row_bits <= 32:  # half the bytes, twice the speed
        short = (key - np.int64(low)).astype(np.uint32)
        short <<= np.uint32(row_bits)
        short |= np.arange(n, dtype=np.uint32)
        short.sort()
        short &= np.uint32((1 << row_bits) - 1)
        return short.astype(np.int64)
    rows = np.arange(n)
    if (high - low).bit_length() + row_bits <= 63:
        packed = (key - np.int64(low)) << np.int64(row_bits) | rows
        packed.sort()
        return packed & np.int64((1 << row_bits) - 1)
    order = np.argsort(key)
    ranked = key[order]
    run = np.empty(n, dtype=np.int64)
    run[0] = 0
    np.cumsum(ranked[1:] != ranked[:-1], out=run[1:])
    packed = run << np.int64(row_bits) | order
    packed.sort()
    return packed & np.int64((1 << row_bits) - 1)


def order_rows(k1: Codes, k2: Codes) -> Codes | None:
    """The order that sorts rows by (k1, k2) and keeps the given order among equal rows; None when they are sorted."""
    if len(k1) < 2 or is_sorted(k1, k2):
        return None
    first = order_stable(k2)
    return first[order_stable(k1[first])]


def positions(k1: Codes, k2: Codes, q1: Codes, q2: Codes) -> Codes:
    """For each (q1, q2) the first place in a run whose row is not below it, int64 (len(q1),)."""
    left = np.searchsorted(k1, q1, "left")
    right = np.searchsorted(k1, q1, "right")
    ties = np.flatnonzero(left < right)
    if len(ties) == 0:
        return left
    if len(ties) <= 256:
        for i in ties.tolist():
            low, high = int(left[i]), int(right[i])
            left[i] = low + int(np.searchsorted(k2[low:high], q2[i]))
        return left
    # many ties: halve all open intervals at once
    lows, highs, want = left[ties], right[ties], q2[ties]
    for _ in range(int((highs - lows).max()).bit_length()):
        middle = (lows + highs) >> 1
        open_ = lows < highs
        below = k2[np.minimum(middle, len(k2) - 1)] < want
        lows = np.where(open_ & below, middle + 1, lows)
        highs = np.where(open_ & ~below, middle, highs)
    left[ties] = lows
    return left


def contains(k1: Codes, k2: Codes, q1: Codes, q2: Codes) -> NDArray[np.bool_]:
    """For each (q1, q2) whether the run has it, bool (len(q1),)."""
    if len(k1) == 0 or len(q1) == 0:
        return np.zeros(len(q1), dtype=bool)
    at = positions(k1, k2, q1, q2)
    inside = at < len(k1)
    at[~inside] = 0
    found: NDArray[np.bool_] = inside & (k1[at] == q1) & (k2[at] == q2)
    return found


def remove_rows(rows: Rows, q1: Codes, q2: Codes) -> Rows:
    """A run without the rows (q1, q2); those that it does not have are passed over."""
    if len(q1) == 0 or len(rows[0]) == 0:
        return rows
    at = positions(rows[0], rows[1], q1, q2)
    inside = at < len(rows[0])
    at, q1, q2 = at[inside], q1[inside], q2[inside]
    keep = np.ones(len(rows[0]), dtype=bool)
    keep[at[(rows[0][at] == q1) & (rows[1][at] == q2)]] = False
    return tuple(column[keep] for column in rows)


def insert_rows(rows: Rows, adds: Rows) -> Rows:
    """A run with the rows of another run put in their places; the two share no row."""
    if len(adds[0]) == 0:
        return rows
    n, m = len(rows[0]), len(adds[0])
    if n == 0:
        return adds
    if rows[0][-1] < adds[0][0]:
        return tuple(np.concatenate(pair) for pair in zip(rows, adds, strict=True))
    at = positions(rows[0], rows[1], adds[0], adds[1]) + np.arange(m)
    old = np.ones(n + m, dtype=bool)
    old[at] = False
    out = []
    for column, added in zip(rows, adds, strict=True):
        merged = np.empty(n + m, dtype=np.int64)
        merged[at] = added
        merged[old] = column
        out.append(merged)
    return tuple(out)


def expand(starts: Codes, counts: Codes) -> Codes:
    """The concatenation of the ranges start .. start+count, int64 (counts.sum(),)."""
    total = int(counts.sum())
    if total == 0:
        return EMPTY
    ends = np.cumsum(counts)
    places: Codes = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return places
