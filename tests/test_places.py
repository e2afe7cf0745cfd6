"""Direct-address tables: they find what a search finds, whatever keys there are and whatever is wanted."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from store import places as places_module
from store.places import Places, places_of, walk_of
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


EDGES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30)


def table(edges: list[tuple[int, int]]) -> Places:
    """The table of some edges."""
    keys, others = np.array(sorted(edges), dtype=np.int64).T
    made = places_of(np.ascontiguousarray(keys), np.ascontiguousarray(others))
    assert made is not None
    return made


@pytest.mark.parametrize("most", [1 << 16, 3])
@settings(deadline=None)
@given(EDGES, EDGES, st.lists(st.integers(-3, 15), max_size=40))
def test_walks_lead_where_the_edges_do(
    most: int, first: list[tuple[int, int]], second: list[tuple[int, int]], keys: list[int]
) -> None:
    """One hop and two, asked again, also where the notes are thrown away now and then; what a walk says is not its tables' order."""
    a, b = table(first), table(second)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(places_module, "_MOST_NOTED", most)
        for key in keys * 2:
            one = {y for x, y in first if x == key}
            assert set(walk_of([a])[key]) == one
            found = walk_of([a, b])[key]
            assert set(found) == {z for y in one for x, z in second if x == y}
            assert len(set(found)) == len(found)


def test_a_walk_is_kept_with_its_first_table_and_forgets_those_out_of_date() -> None:
    """The same tables give the same walk; others give another, and only a few are held."""
    first = table([(1, 2), (2, 3)])
    second = table([(2, 5), (3, 6)])
    assert walk_of([first, second]) is walk_of([first, second])
    assert walk_of([first, second])[1] == (5,)
    for n in range(10):
        assert walk_of([first, table([(2, n)])])[1] == (n,)
    assert len(first.walks) <= 4
    assert walk_of([first, second])[1] == (5,)
