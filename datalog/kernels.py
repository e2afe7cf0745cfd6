"""Kernels: join, semi-join, distinct, difference and grouping over int64 arrays. Arrays in, arrays out.

Nothing here knows variables, kinds or snapshots; the engine brings columns to a common kind and calls these. Sizes are
told to `charge` before the arrays are allocated.

What was measured (numpy 2.4, 2 cores) and therefore holds throughout:
- keys and row numbers packed into one int64 and sorted by `np.sort` beat every other join and distinct of numpy's;
  `np.unique` on integers is 4 to 40 times slower, `kind="stable"` 17 times, `argsort` 3 to 6 times;
- ids that lie densely are addressed directly, not searched; the probe side of a search is sorted first;
- at ten rows a Python dict beats all of them.
Columns that do not fit 63 bits together are replaced by their dense ranks first; widths are computed with Python integers,
because int64 differences overflow.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from store.columns import is_rising

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]
    Rows = NDArray[np.intp]
    Mask = NDArray[np.bool_]

SMALL = 24  # rows up to which a Python dict is the faster join
_DENSE_FACTOR = 6  # a range up to so many times the rows is addressed directly
_BLOCK = 1 << 21  # pairs of a join made between two looks at the clock, about 20 ms
_EMPTY_ROWS = np.empty(0, dtype=np.intp)


def nothing(_rows: int) -> None:
    """The charge that never refuses."""


# packing -------------------------------------------------------------------------------------------------------------


def pack(columns: Sequence[Codes]) -> Codes:
    """One int64 key for each row, equal exactly where the rows are equal: int64 (n,). Order is that of the columns."""
    if len(columns) == 1:
        return columns[0]
    return pack_together([list(columns)])[0]


def pack_together(sides: Sequence[Sequence[Codes]]) -> list[Codes]:
    """The packed keys of several relations' columns, comparable with each other."""
    width = len(sides[0])
    if width == 1:
        return [side[0] for side in sides]
    filled = [side for side in sides if side[0].size]
    if not filled:
        return [side[0] for side in sides]
    lows = [min(int(side[i].min()) for side in filled) for i in range(width)]
    spans = [max(int(side[i].max()) for side in filled) - lows[i] + 1 for i in range(width)]
    total = 1
    for span in spans:
        total *= span
    if total >= 2**63:
        return _pack_ranks(sides)
    packed = []
    for side in sides:
        key = side[0] - lows[0]
        for i in range(1, width):
            key = key * spans[i] + (side[i] - lows[i])
        packed.append(key)
    return packed


def _pack_ranks(sides: Sequence[Sequence[Codes]]) -> list[Codes]:
    """The same with each column replaced by dense ranks; columns are folded in one at a time so that ranks stay small."""
    lengths = np.cumsum([0] + [side[0].size for side in sides])
    key, _ = ranks(np.concatenate([side[0] for side in sides]))
    for i in range(1, len(sides[0])):
        column, count = ranks(np.concatenate([side[i] for side in sides]))
        key, _ = ranks(key * count + column)
    return [key[a:b] for a, b in pairwise(lengths)]


def ranks(codes: Codes) -> tuple[Codes, int]:
    """(dense ranks in the order of the codes, number of distinct codes)."""
    if not codes.size:
        return codes, 0
    keys, rows = sort_rows(codes)
    fresh = np.empty(keys.size, dtype=np.int64)
    fresh[0] = 0
    fresh[1:] = keys[1:] != keys[:-1]
    np.cumsum(fresh, out=fresh)
    result = np.empty(codes.size, dtype=np.int64)
    result[rows] = fresh
    return result, int(fresh[-1]) + 1


def sort_rows(codes: Codes) -> tuple[Codes, Rows]:
    """(sorted codes, the row each came from); rows of equal codes ascend."""
    n = codes.size
    if n < 2:
        return codes, np.zeros(n, dtype=np.intp)
    low, high = int(codes.min()), int(codes.max())
    bits = (n - 1).bit_length()
    if (high - low).bit_length() + bits <= 63:
        packed = codes - low
        packed <<= bits
        packed |= np.arange(n, dtype=np.int64)
        packed.sort()
        rows = packed & ((1 << bits) - 1)
        packed >>= bits
        packed += low
        return packed, rows
    rows = np.lexsort((np.arange(n), codes))
    return codes[rows], rows


def is_sorted(codes: Codes) -> bool:
    """Whether codes ascend (equal neighbours allowed)."""
    return codes.size < 2 or bool((codes[1:] >= codes[:-1]).all())


# distinct and grouping -----------------------------------------------------------------------------------------------


def distinct_sorted(codes: Codes) -> Codes:
    """The distinct codes, ascending."""
    if codes.size < 2:
        return codes
    keys = codes if is_sorted(codes) else np.sort(codes)
    mask = np.empty(keys.size, dtype=np.bool_)
    mask[0] = True
    np.not_equal(keys[1:], keys[:-1], out=mask[1:])
    return keys[mask]


def distinct_rows(columns: Sequence[Codes]) -> Rows | None:
    """Row numbers of one row for each distinct one, ascending; None when all rows are distinct."""
    n = columns[0].size
    if n < 2:
        return None
    key = pack(columns)
    if is_rising(key):
        return None
    span = int(key.max()) - int(key.min()) + 1
    if span <= _DENSE_FACTOR * n:
        return _distinct_dense(key, span)
    keys, rows = sort_rows(key)
    mask = np.empty(n, dtype=np.bool_)
    mask[0] = True
    np.not_equal(keys[1:], keys[:-1], out=mask[1:])
    if bool(mask.all()):
        return None
    return np.sort(rows[mask])


def _distinct_dense(key: Codes, span: int) -> Rows | None:
    first = np.full(span, -1, dtype=np.intp)
    offset = key - int(key.min())
    first[offset[::-1]] = np.arange(key.size - 1, -1, -1, dtype=np.intp)  # the last write wins: the first row
    found = first[first >= 0]
    if found.size == key.size:
        return None
    found.sort()
    return found


def inverse(codes: Codes) -> tuple[Codes, Rows]:
    """(distinct codes ascending, for each row the position of its code among them)."""
    n = codes.size
    if not n:
        return codes, _EMPTY_ROWS
    if is_rising(codes):
        return codes, np.arange(n, dtype=np.intp)
    low = int(codes.min())
    span = int(codes.max()) - low + 1
    if span <= _DENSE_FACTOR * n:
        present = np.zeros(span, dtype=np.bool_)
        offset = codes - low
        present[offset] = True
        unique = np.flatnonzero(present)
        position = np.empty(span, dtype=np.intp)
        position[unique] = np.arange(unique.size, dtype=np.intp)
        return unique + low, position[offset]
    keys, rows = sort_rows(codes)
    mask = np.empty(n, dtype=np.bool_)
    mask[0] = True
    np.not_equal(keys[1:], keys[:-1], out=mask[1:])
    positions = np.empty(n, dtype=np.intp)
    positions[rows] = np.cumsum(mask) - 1
    return keys[mask], positions


def group_rows(columns: Sequence[Codes]) -> tuple[Rows, Rows]:
    """(rows ordered so that equal ones are neighbours, start of each group in that order); groups in key order."""
    keys, rows = sort_rows(pack(columns))
    mask = np.empty(keys.size, dtype=np.bool_)
    mask[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=mask[1:])
    return rows, np.flatnonzero(mask)


# joins ---------------------------------------------------------------------------------------------------------------


def join(left: Codes, right: Codes, charge: Callable[[int], None] = nothing) -> tuple[Rows, Rows]:
    """Row numbers of all pairs with equal codes: (rows of left, rows of right), the left ones ascending."""
    if not left.size or not right.size:
        return _EMPTY_ROWS, _EMPTY_ROWS
    if left.size == 1 or right.size == 1:  # compared, not searched
        found = np.flatnonzero(left == right)
        charge(found.size)
        one = np.zeros(found.size, dtype=np.intp)
        return (one, found) if left.size == 1 else (found, one)
    if left.size <= SMALL and right.size <= SMALL:
        return _join_small(left, right)
    low = int(right.min())
    span = int(right.max()) - low + 1
    if span <= max(_DENSE_FACTOR * right.size, 4 * left.size):
        return _join_dense(left, right, low, span, charge)
    keys, rows = (right, None) if is_sorted(right) else sort_rows(right)
    start, count = search(keys, left)
    return expand(start, count, rows, charge)


def _join_small(left: Codes, right: Codes) -> tuple[Rows, Rows]:
    table: dict[int, list[int]] = {}
    for row, code in enumerate(right.tolist()):
        table.setdefault(code, []).append(row)
    lefts: list[int] = []
    rights: list[int] = []
    for row, code in enumerate(left.tolist()):
        for other in table.get(code, ()):
            lefts.append(row)
            rights.append(other)
    return np.array(lefts, dtype=np.intp), np.array(rights, dtype=np.intp)


def _join_dense(left: Codes, right: Codes, low: int, span: int, charge: Callable[[int], None]) -> tuple[Rows, Rows]:
    """The join by a table over the range of the right codes."""
    offset = right - low
    high = low + span - 1
    probe = left - low if int(left.min()) >= low and int(left.max()) <= high else None
    if span >= right.size:
        table = np.full(span, -1, dtype=np.intp)
        rows = np.arange(right.size, dtype=np.intp)
        table[offset] = rows
        if bool((table[offset] == rows).all()):  # each code once
            if probe is not None:
                found = table[probe]
                hit = found >= 0
                if bool(hit.all()):
                    charge(left.size)
                    return np.arange(left.size, dtype=np.intp), found
                lefts = np.flatnonzero(hit)
            else:
                inside = np.flatnonzero((left >= low) & (left <= high))
                found = table[left[inside] - low]
                hit = found >= 0
                lefts = inside[hit]
            charge(lefts.size)
            return lefts, found[hit]
    counts = np.bincount(offset, minlength=span)
    starts = np.cumsum(counts) - counts
    order = None if is_sorted(right) else sort_rows(right)[1]
    if probe is not None:
        return expand(starts[probe], counts[probe], order, charge)
    inside = np.flatnonzero((left >= low) & (left <= high))
    probe = left[inside] - low
    lefts, rights = expand(starts[probe], counts[probe], order, charge)
    return inside[lefts], rights


def search(keys: Codes, probe: Codes) -> tuple[Rows, Rows]:
    """(start, count) of the run of equal codes in sorted `keys`, for each probe code."""
    if probe.size > 2000 and not is_sorted(probe):
        ordered, rows = sort_rows(probe)
        start, count = search(keys, ordered)
        starts, counts = np.empty_like(start), np.empty_like(count)
        starts[rows] = start
        counts[rows] = count
        return starts, counts
    start = np.searchsorted(keys, probe, side="left")
    return start, np.searchsorted(keys, probe, side="right") - start


def expand(start: Rows, count: Rows, order: Rows | None, charge: Callable[[int], None]) -> tuple[Rows, Rows]:
    """Pairs (probe row, build row) of runs; `order` maps positions of the sorted build side back to its rows."""
    total = int(count.sum())
    charge(total)
    n = count.size
    if total == n and bool((count == 1).all()):
        lefts, rights = np.arange(n, dtype=np.intp), start
    elif total <= _BLOCK:
        lefts = np.repeat(np.arange(n, dtype=np.intp), count)
        ends = np.cumsum(count)
        rights = np.arange(total, dtype=np.intp) + np.repeat(start - (ends - count), count)
    else:
        lefts, rights = _expand_blocks(start, count, total, charge)
    return lefts, rights if order is None else order[rights]


def _expand_blocks(start: Rows, count: Rows, total: int, charge: Callable[[int], None]) -> tuple[Rows, Rows]:
    """`expand` of many pairs in blocks: between them `charge` may see that the time is over."""
    ends = np.cumsum(count)
    shift = start - (ends - count)
    lefts, rights = np.empty(total, dtype=np.intp), np.empty(total, dtype=np.intp)
    at = done = 0
    while done < total:
        upto = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), at + 1)
        block = slice(done, int(ends[upto - 1]))
        lefts[block] = np.repeat(np.arange(at, upto, dtype=np.intp), count[at:upto])
        rights[block] = np.arange(block.start, block.stop, dtype=np.intp)
        rights[block] += np.repeat(shift[at:upto], count[at:upto])
        at, done = upto, block.stop
        charge(0)
    return lefts, rights


def equal(left: Codes, right: Codes | np.int64) -> Mask:
    """Where codes are equal, bool (n,)."""
    mask: Mask = left == right
    return mask


def member(left: Codes, right: Codes) -> Mask:
    """Which left codes occur among the right ones, bool (n,)."""
    if not left.size or not right.size:
        return np.zeros(left.size, dtype=np.bool_)
    if right.size == 1:
        return equal(left, right[0])
    low = int(right.min())
    span = int(right.max()) - low + 1
    if span <= max(_DENSE_FACTOR * right.size, 4 * left.size):
        present = np.zeros(span, dtype=np.bool_)
        present[right - low] = True
        if int(left.min()) >= low and int(left.max()) < low + span:
            return present[left - low]
        inside = (left >= low) & (left < low + span)
        result = np.zeros(left.size, dtype=np.bool_)
        result[inside] = present[left[inside] - low]
        return result
    keys = right if is_sorted(right) else np.sort(right)
    return member_sorted(left, keys)


def member_sorted(left: Codes, keys: Codes) -> Mask:
    """The same for sorted, non-empty `keys`."""
    at = np.searchsorted(keys, left)
    at[at == keys.size] = 0
    return equal(keys[at], left)


def product(left_size: int, right_size: int, charge: Callable[[int], None] = nothing) -> tuple[Rows, Rows]:
    """Row numbers of all pairs."""
    total = left_size * right_size
    charge(total)
    if total <= _BLOCK:
        return (
            np.repeat(np.arange(left_size, dtype=np.intp), right_size),
            np.tile(np.arange(right_size, dtype=np.intp), left_size),
        )
    lefts, rights = np.empty(total, dtype=np.intp), np.empty(total, dtype=np.intp)
    step = max(1, _BLOCK // right_size)
    for at in range(0, left_size, step):
        upto = min(at + step, left_size)
        block = slice(at * right_size, upto * right_size)
        lefts[block] = np.repeat(np.arange(at, upto, dtype=np.intp), right_size)
        rights[block] = np.tile(np.arange(right_size, dtype=np.intp), upto - at)
        charge(0)
    return lefts, rights
