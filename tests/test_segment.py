"""Segments and runs: exact inverses, damage is found, merging equals doing it by hand."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from store import merge
from store.columns import contains, expand, insert_rows, is_sorted, order_rows, order_stable, positions, remove_rows
from store.errors import StoreCorrupt
from store.merge import _eavt_blocks, _eavt_rows, _star
from store.segment import check, pack, pack_many, rows_of, unpack, unpack_into
from store.value import INT64_MAX, INT64_MIN

_INT64 = (
    st.integers(INT64_MIN, INT64_MAX) | st.integers(-3, 3) | st.sampled_from([INT64_MIN, INT64_MAX, 0, 2**62, -(2**62)])
)
_SMALL = st.integers(0, 6)


def _array(values: list[int]) -> Any:
    return np.array(values, dtype=np.int64)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 40).flatmap(lambda n: st.lists(st.lists(_INT64, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_unpack_is_the_inverse_of_pack(columns: list[list[int]]) -> None:
    """Columns of any int64 come back exactly, whole or written into larger arrays."""
    arrays = [_array(c) for c in columns]
    data = pack(arrays)
    assert rows_of(data) == len(columns[0])
    assert [c.tolist() for c in unpack(data)] == columns
    outs = [np.full(len(columns[0]) + 3, 7, dtype=np.int64) if i % 2 == 0 else None for i in range(len(columns))]
    assert unpack_into(data, outs, 2) == len(columns[0])
    for out, column in zip(outs, columns, strict=True):
        if out is not None:
            assert out.tolist() == [7, 7, *column, 7]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40).flatmap(lambda n: st.lists(st.lists(_INT64, min_size=n, max_size=n), min_size=1, max_size=4)),
    st.sets(st.integers(1, 39)),
)
def test_many_segments_at_once_are_the_same_bytes(columns: list[list[int]], inner: set[int]) -> None:
    """Columns cut into segments together give what packing each piece gives."""
    arrays = [_array(c) for c in columns]
    n = len(columns[0])
    cuts = [0, *sorted(c for c in inner if c < n), n]
    pieces = [[a[cuts[i] : cuts[i + 1]] for a in arrays] for i in range(len(cuts) - 1)]
    assert pack_many(arrays, cuts) == [pack(piece) for piece in pieces]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 6), min_size=1, max_size=6), min_size=1, max_size=4),
    st.booleans(),
    st.integers(1, 12),
)
def test_eavt_rows_of_stars_and_others_are_sorted(entities: list[set[int]], alike: bool, block_rows: int) -> None:
    """Rows of several attributes come in EAVT order, whether all have the same entities or not, transactions last."""
    if alike:
        entities = [entities[0]] * len(entities)
    parts = [
        (aid, _array(sorted(es)), _array([aid] * len(es)), _array([e + aid for e in sorted(es)]))
        for aid, es in enumerate(entities, 3)
    ]
    parts.append((2, _array([2**40 + 7]), _array([5]), _array([9])))
    expected = sorted(
        (e << 21 | aid, v, t)
        for aid, es, vs, ts in parts
        for e, v, t in zip(es.tolist(), vs.tolist(), ts.tolist(), strict=True)
    )
    assert list(zip(*(c.tolist() for c in _eavt_rows(parts)), strict=True)) == expected
    kept, merge._BLOCK_ROWS = merge._BLOCK_ROWS, block_rows
    try:
        blocks = list(_eavt_blocks(parts))
    finally:
        merge._BLOCK_ROWS = kept
    assert [row for b in blocks for row in zip(*(c.tolist() for c in b), strict=True)] == expected
    assert (_star(parts) is not None) == (len(entities) > 1 and all(es == entities[0] for es in entities))


@pytest.mark.parametrize(
    "spread", [0, 1, 255, 256, 65535, 65536, 2**24 - 1, 2**24, 2**32, 2**40 - 1, 2**48, 2**56 - 1, 2**63]
)
def test_every_width_is_exact(spread: int) -> None:
    """Each column width, from no byte to eight, keeps its extremes."""
    for low in (0, -1, INT64_MIN, INT64_MAX - min(spread, INT64_MAX)):
        if low + spread <= INT64_MAX:
            values = [low, low + spread, low + spread // 2] * 5
            assert unpack(pack([_array(values)]))[0].tolist() == values


def test_every_flipped_bit_is_found() -> None:
    """A segment with any one bit changed is refused."""
    data = pack([_array([1, 5, 70000]), _array([2**40, 3, -9]), _array([7, 7, 7])])
    check(data)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(StoreCorrupt):
                unpack(bytes(damaged))
    for length in range(len(data)):
        with pytest.raises(StoreCorrupt):
            unpack(data[:length])


_ROWS = st.lists(st.tuples(_SMALL | _INT64, _SMALL | _INT64), max_size=30, unique=True)


def _columns(rows: list[tuple[int, int]]) -> Any:
    return _array([r[0] for r in rows]), _array([r[1] for r in rows])


@settings(max_examples=150, deadline=None)
@given(_ROWS, _ROWS)
def test_merging_runs_equals_merging_sets(base: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    """Removing and inserting rows keeps a run sorted and gives the set difference and union."""
    base, others = sorted(base), sorted(others)
    k1, k2 = _columns(base)
    q1, q2 = _columns(others)
    assert positions(k1, k2, q1, q2).tolist() == [sum(b < o for b in base) for o in others]
    assert contains(k1, k2, q1, q2).tolist() == [o in base for o in others]
    left = remove_rows((k1, k2, k1), q1, q2)
    expected = [b for b in base if b not in others]
    assert list(zip(left[0].tolist(), left[1].tolist(), strict=True)) == expected
    joined = insert_rows(left, (q1, q2, q1))
    assert list(zip(joined[0].tolist(), joined[1].tolist(), strict=True)) == sorted(set(base) | set(others))


def test_many_ties_are_searched_together() -> None:
    """A run with thousands of equal first keys gives the right places."""
    rng = random.Random(5)
    rows = sorted({(rng.randrange(3), rng.randrange(5000)) for _ in range(4000)})
    wanted = sorted({(rng.randrange(4), rng.randrange(5000)) for _ in range(900)})
    k1, k2 = _columns(rows)
    q1, q2 = _columns(wanted)
    import bisect

    assert positions(k1, k2, q1, q2).tolist() == [bisect.bisect_left(rows, w) for w in wanted]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(_SMALL | _INT64, _SMALL | _INT64), max_size=40))
def test_orders_are_stable_sorts(rows: list[tuple[int, int]]) -> None:
    """The order of keys of any spread, and of pairs of them, is the stable one."""
    k1, k2 = _columns(rows)
    assert order_stable(k1).tolist() == sorted(range(len(rows)), key=lambda i: rows[i][0])
    order = order_rows(k1, k2)
    assert (order is None) == (len(rows) < 2 or is_sorted(k1, k2))
    if order is not None:
        assert order.tolist() == sorted(range(len(rows)), key=lambda i: rows[i])


def test_expand_concatenates_ranges() -> None:
    """Ranges given by starts and counts, empty ones among them, are laid end to end."""
    assert expand(_array([5, 0, 9]), _array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert expand(_array([5]), _array([0])).tolist() == []
