"""Direct-address tables: they find what a search finds, whatever keys there are and whatever is wanted."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from store.places import places_of
from store.snapshot import match

KEYS = st.lists(st.integers(-40, 90), min_size=1, max_size=60)
WANTED = st.lists(st.integers(-60, 120), max_size=40)


@settings(deadline=None)
@given(KEYS, WANTED)
def test_a_table_finds_what_a_search_finds(keys: list[int], wanted: list[int]) -> None:
    """Repeated keys, keys that are missing, wanted keys in any order, twice, and outside of the table."""
    sorted_keys = np.sort(np.array(keys, dtype=np.int64))
    places = places_of(sorted_keys, np.arange(len(keys)))
    assert places is not None
    found = places.find(np.array(wanted, dtype=np.int64))
    expected = match(sorted_keys, np.array(wanted, dtype=np.int64), unique=False)
    assert [a.tolist() for a in found] == [a.tolist() for a in expected]


@settings(deadline=None)
@given(st.integers(-5, 5), st.integers(1, 30), WANTED)
def test_keys_that_are_there_once_each(low: int, n: int, wanted: list[int]) -> None:
    """A table without gaps and repetitions is addressed without its starts."""
    keys = np.arange(low, low + n)
    places = places_of(keys, keys * 2)
    assert places is not None
    assert places.each_once
    found = places.find(np.array(wanted, dtype=np.int64))
    expected = match(keys, np.array(wanted, dtype=np.int64), unique=True)
    assert [a.tolist() for a in found] == [a.tolist() for a in expected]


def test_no_table_where_keys_lie_far_apart() -> None:
    """A table of a range a thousand times as long as its keys is not made; nor one of nothing."""
    assert places_of(np.array([1, 10**9]), np.array([1, 2])) is None
    assert places_of(np.array([], dtype=np.int64), np.array([], dtype=np.int64)) is None
