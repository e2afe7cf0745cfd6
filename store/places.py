"""Direct-address tables: where each key of a sorted column stands, and what it goes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from store.columns import expand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]

SPREAD: Final = 8  # a range of keys up to so many times their number has a table
_MOST_NOTED: Final = 1 << 16  # keys and what they go with: about 8 MB
_LONGEST_NOTED: Final = 1 << 12
_MOST_WALKS: Final = 4


class Places(NamedTuple):
    """Where each key of a sorted column stands: keys k from `low` on are at starts[k - low] up to starts[k - low + 1].

    `least` and `most` are the bounds of the other column, so that a set of its values can be a bitmap. With `each_once` no key
    from `low` on is left out or there twice: what k goes with is others[k - low]. `walks` are those that begin here.
    """

    low: int
    starts: Codes
    others: Codes
    least: int
    most: int
    each_once: bool
    walks: dict[tuple[int, ...], Walk]

    def find(self, wanted: Codes) -> tuple[Codes, Codes]:
        """Where the `wanted` keys stand: (row numbers in `wanted` ascending, places in the column), int64 (n,) each."""
        at = wanted - np.int64(self.low)
        inside = (at >= 0) & (at < len(self.starts) - 1)
        rows: Codes = np.arange(len(wanted)) if bool(inside.all()) else np.flatnonzero(inside)
        at = at[rows]
        if self.each_once:
            return rows, at
        first: Any = self.starts[at]
        counts = self.starts[at + 1] - first
        return np.repeat(rows, counts), expand(first, counts)


class Walk(dict[int, tuple[int, ...]]):
    """Where a chain of tables leads from single keys, noted when it is first asked for.

    For a walk from key to key a dictionary beats arrays while the keys are few. `walk[key]` never fails: a key that is not there
    leads nowhere. Beyond a number of notes it begins anew.
    """

    __slots__ = ("_held", "_hops", "_rest")

    def __init__(self, chain: Sequence[Places]) -> None:
        super().__init__()
        self._rest = chain[1:]  # held, so that their ids stay theirs: see `walk_of`
        self._hops: list[tuple[int, int, Any, Any]] = [
            (p.low, len(p.starts) - 1, memoryview(p.starts), memoryview(p.others))  # type: ignore[arg-type]
            for p in chain
        ]
        self._held = 0

    def __missing__(self, key: int) -> tuple[int, ...]:
        keys = [key]
        for low, span, starts, others in self._hops:
            following: list[int] = []
            for each in keys:
                at = each - low
                if 0 <= at < span:
                    following += others[starts[at] : starts[at + 1]]
            keys = following
        found = tuple(dict.fromkeys(keys))
        if len(found) <= _LONGEST_NOTED:
            self._held += 1 + len(found)
            if self._held > _MOST_NOTED:
                self.clear()
                self._held = 1 + len(found)
            self[key] = found
        return found


def walk_of(chain: Sequence[Places]) -> Walk:
    """The walk along a chain of tables: what one leads to are the keys of the next. Kept with the first of them."""
    kept = chain[0].walks
    key = tuple(map(id, chain[1:]))
    walk = kept.get(key)
    if walk is None:
        if len(kept) >= _MOST_WALKS:  # most lead to tables that are out of date
            kept.clear()
        walk = kept[key] = Walk(chain)
    return walk


def places_of(keys: Codes, others: Codes) -> Places | None:
    """The table over a sorted column and the one beside it; None when there are no keys or they lie too far apart."""
    if len(keys) == 0:
        return None
    low, high = int(keys[0]), int(keys[-1])
    if high - low > SPREAD * len(keys) + 1024:
        return None
    starts = np.zeros(high - low + 2, dtype=np.int64)
    counts = np.bincount(keys - np.int64(low), minlength=high - low + 1)
    np.cumsum(counts, out=starts[1:])
    each_once = len(counts) == len(keys) and bool(counts.all())
    return Places(low, starts, others, int(others.min()), int(others.max()), each_once, {})
