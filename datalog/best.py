"""Best: the rows of a recursive rule with `min` or `max` in its head, one row for each group.

Place on the path: fixpoint.py makes one for each `plan.Best`. The interface is `predicate.Predicate`'s; what differs:
2. delta: the rows of this round whose group is new, or whose value got better;
3. stable: a row for each group, in its place for good; a better value is written over the old one.

A body of the same round may still hold the column that is written to: it then sees the better value early, which is a value
that the group has all the same. After the last round nothing is written any more.
"""

from __future__ import annotations

from functools import cmp_to_key
from typing import TYPE_CHECKING

import numpy as np

from datalog import kernels
from datalog.builtins import compare
from datalog.predicate import NANOSECONDS_TO_SORT, KeySet, Predicate
from datalog.relation import EMPTY, Column
from store.value import Kind, order_key

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from datalog.limits import Budget
    from datalog.relation import Codes

    Array = NDArray[np.int64]
    Rows = NDArray[np.intp]


class GroupSet(KeySet):
    """The groups of a predicate and the row where each stands, as sorted runs of packed keys with row numbers."""

    __slots__ = ("_rows",)

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._rows: list[Rows] = []

    def find(self, columns: list[Array], known: list[Array]) -> tuple[Array, Rows]:
        """(packed keys, row of each group or -1). Keys hold until the next call."""
        keys = self._keys(columns, known)
        at = np.full(keys.size, -1, dtype=np.intp)
        for run, rows in zip(self._runs, self._rows, strict=True):
            place = np.searchsorted(run, keys)
            place[place == run.size] = 0
            hit = run[place] == keys
            at[hit] = rows[place[hit]]
        return keys, at

    def put(self, keys: Array, rows: Rows) -> None:
        """Take new groups: their keys, ascending, and the rows where they stand."""
        self._runs.append(keys)
        self._rows.append(rows)
        while len(self._runs) > 1 and self._runs[-2].size < 2 * self._runs[-1].size:
            merged, order = kernels.sort_rows(np.concatenate(self._runs[-2:]))
            self._rows[-2:] = [np.concatenate(self._rows[-2:])[order]]
            self._runs[-2:] = [merged]

    def _repack(self, keys: Array) -> None:
        ordered, rows = kernels.sort_rows(keys)
        self._rows = []
        self.put(ordered, rows)


class BestPredicate(Predicate):
    """A predicate that keeps the row of each group whose column `position` is least, or greatest."""

    __slots__ = ("_changed", "_codes", "_greatest", "_groups", "_position")

    def __init__(self, width: int, position: int, *, greatest: bool) -> None:
        super().__init__(width)
        self._position = position
        self._greatest = greatest
        self._groups = GroupSet(max(width - 1, 1))
        self._changed: list[Rows] = []  # 2. the rows that are new or better in this round
        self._codes: Any = None

    def advance(self, budget: Budget, codes: Codes) -> int:
        """2. and 3. Take the pending rows that are new or better; how many these are."""
        self._changed = []
        self._codes = codes
        super().advance(budget, codes)
        if len(self._changed) > 1:
            self._changed = [kernels.distinct_sorted(np.concatenate(self._changed))]
        return self.size(delta=True)

    def size(self, *, delta: bool) -> int:
        """How many rows the delta has, or all."""
        return sum(c.size for c in self._changed) if delta else self.length

    def column(self, position: int, *, delta: bool) -> Column:
        """A column of the delta, or of all rows."""
        codes = self.columns[position][: self.length]
        if delta:
            codes = codes[self._changed[0]] if self._changed else EMPTY
        return Column(codes, self.kinds[position])

    def _settle(self, codes: list[Array], budget: Budget) -> None:
        if not codes[0].size:
            return
        budget.reserve(codes[0].size, self.width + 6, NANOSECONDS_TO_SORT)
        others = self._others(codes)
        keys, at = self._groups.find(others, self._others([c[: self.length] for c in self.columns]))
        ranks, now, by_rank = self._ranked(codes[self._position], at)
        ordered, rows = kernels.sort_rows(keys)
        fresh = np.empty(ordered.size, dtype=np.bool_)
        fresh[:1] = True
        np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
        starts = np.flatnonzero(fresh)
        best = np.minimum.reduceat(ranks[rows], starts)
        first = rows[starts]
        at = at[first]
        better = (at >= 0) & (best < now[first])
        new = np.flatnonzero(at < 0)
        budget.charge(int(better.sum()) + int(new.size), self.width)
        self.columns[self._position][at[better]] = by_rank(best[better])
        changed = at[better]
        if new.size:
            made = [c[first[new]] for c in codes]
            made[self._position] = by_rank(best[new])
            budget.hold(int(new.size) * 8 * (2 * self.width + 3))
            places = np.arange(self.length, self.length + new.size, dtype=np.intp)
            self._append(made)
            self._groups.put(ordered[starts[new]], places)
            changed = np.concatenate((changed, places))
        if changed.size:
            self._changed.append(changed)

    def _others(self, columns: list[Array]) -> list[Array]:
        """The columns that make the groups; one of zeros when there are none."""
        found = [c for i, c in enumerate(columns) if i != self._position]
        return found or [np.zeros(columns[0].size, dtype=np.int64)]

    def _ranked(self, codes: Array, at: Rows) -> tuple[Array, Array, Any]:
        """(ranks of pending values, the smaller the better; of the values their groups have now; ranks -> codes)."""
        held = self.columns[self._position]
        now = held[np.maximum(at, 0)] if held.size else np.zeros(at.size, dtype=np.int64)
        if self.kinds[self._position] is not Kind.INTERNED:  # codes are in the order of their values
            return (~codes, ~now, np.invert) if self._greatest else (codes, now, _same)
        used = np.concatenate((codes, now[at >= 0]))
        unique, place = kernels.inverse(used)
        values = self._codes.decode_many(unique)
        order = sorted(range(len(values)), key=lambda i: (_by_size(values[i]), order_key(values[i])))
        if self._greatest:
            order.reverse()
        ranks = np.empty(len(values), dtype=np.int64)
        ranks[order] = np.arange(len(values), dtype=np.int64)
        of_now = np.zeros(at.size, dtype=np.int64)
        of_now[at >= 0] = ranks[place[codes.size :]]
        in_order = unique[order]
        return ranks[place[: codes.size]], of_now, in_order.__getitem__

    def _rekey(self) -> None:
        self._groups = GroupSet(max(self.width - 1, 1))
        if self.length:
            others = self._others([c[: self.length] for c in self.columns])
            keys, _ = self._groups.find(others, [EMPTY] * len(others))
            ordered, rows = kernels.sort_rows(keys)
            self._groups.put(ordered, rows)


_by_size = cmp_to_key(compare)


def _same(ranks: Array) -> Array:
    return ranks
