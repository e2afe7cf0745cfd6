"""Predicate: the rows of one recursive rule while its fixpoint grows.

Place on the path: fixpoint.py makes one for each predicate of a `plan.Fixpoint`; best.py has the kind that aggregates.

A predicate's rows pass through three places, and the code carries these numbers:
1. pending: what the bodies of this round gave;
2. delta: the pending rows that were not known, once each; they drive the next round;
3. stable: all known rows, the delta among them. Rows and indexes only grow.

Nothing is rebuilt in a round: known rows are kept as sorted runs of packed keys, each at least twice as long as the next,
so that a run is merged a logarithmic number of times; an index on a column is the same with row numbers.
Source for the split: datafrog's `Variable` (recent, stable, to_add).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datalog import kernels
from datalog.relation import EMPTY, Column, interned
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from datalog.limits import Budget
    from datalog.relation import Codes

    Array = NDArray[np.int64]
    Rows = NDArray[np.intp]

_LONGEST_KEY = 2**63
NANOSECONDS_TO_SORT = 150  # and to find among the known ones, a row


class KeySet:
    """The known rows of a predicate as sorted runs of packed keys."""

    __slots__ = ("_lows", "_names", "_runs", "_spans", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self._runs: list[Array] = []
        self._lows: list[int] = []
        self._spans: list[int] = []
        self._names: list[tuple[Array, Array]] | None = None  # per column (sorted codes, their dense ids)

    def add(self, columns: list[Array], known: list[Array]) -> Rows:
        """The rows of `columns` that are new, once each; they are known from now on. `known` are all rows so far."""
        keys = self._keys(columns, known)
        ordered, rows = kernels.sort_rows(keys)
        fresh = np.empty(ordered.size, dtype=np.bool_)
        fresh[:1] = True
        np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
        for run in self._runs:
            fresh &= ~kernels.member_sorted(ordered, run)
        new = ordered[fresh]
        if new.size:
            self._push(new)
        return np.sort(rows[fresh])

    def _push(self, keys: Array) -> None:
        self._runs.append(keys)
        while len(self._runs) > 1 and self._runs[-2].size < 2 * self._runs[-1].size:
            merged = np.concatenate((self._runs[-2], self._runs[-1]))
            merged.sort()
            self._runs[-2:] = [merged]

    def _keys(self, columns: list[Array], known: list[Array]) -> Array:
        if self.width == 1:
            return columns[0]
        if self._names is None and not self._fits(columns):
            self._widen(columns, known)
        if self._names is not None:
            columns = [self._named(i, c) for i, c in enumerate(columns)]
            if not self._fits(columns):
                self._widen(columns, [self._named(i, c) for i, c in enumerate(known)])
        return self._pack(columns)

    def _fits(self, columns: list[Array]) -> bool:
        return bool(self._lows) and all(
            int(c.min()) >= low and int(c.max()) < low + span
            for c, low, span in zip(columns, self._lows, self._spans, strict=True)
        )

    def _widen(self, columns: list[Array], known: list[Array]) -> None:
        """Make room for codes outside of the packed ranges, with slack; known rows are packed anew."""
        lows, spans = [], []
        for column, old in zip(columns, known, strict=True):
            low, high = int(column.min()), int(column.max())
            if old.size:
                low, high = min(low, int(old.min())), max(high, int(old.max()))
            slack = (high - low) // 4 + 16
            lows.append(max(low - slack, -(2**63)))
            spans.append(high + slack - lows[-1] + 1)
        total = 1
        for span in spans:
            total *= span
        if total >= _LONGEST_KEY:
            if self._names is None:
                self._names = [(EMPTY, EMPTY) for _ in range(self.width)]
                self._lows, self._spans = [], []
                known_named = [self._named(i, c) for i, c in enumerate(known)]
                self._widen([self._named(i, c) for i, c in enumerate(columns)], known_named)
                return
            raise OverflowError("a rule has too many distinct values in too many columns")
        self._lows, self._spans = lows, spans
        self._runs = []
        if known[0].size:
            self._repack(self._pack(known))

    def _repack(self, keys: Array) -> None:
        """Take the keys of all known rows, in the order of the rows."""
        self._push(np.sort(keys))

    def _named(self, position: int, column: Array) -> Array:
        """Dense ids for codes that are too far apart to pack; new codes get the next ids."""
        assert self._names is not None
        codes, ids = self._names[position]
        unique, place = kernels.inverse(column)
        if not unique.size:
            return column
        at = np.searchsorted(codes, unique)
        known = np.zeros(unique.size, dtype=np.bool_)
        inside = at < codes.size
        known[inside] = codes[at[inside]] == unique[inside]
        found = np.empty(unique.size, dtype=np.int64)
        found[known] = ids[at[known]]
        fresh = np.flatnonzero(~known)
        found[fresh] = np.arange(codes.size, codes.size + fresh.size, dtype=np.int64)
        if fresh.size:
            merged, order = kernels.sort_rows(np.concatenate((codes, unique[fresh])))
            self._names[position] = (merged, np.concatenate((ids, found[fresh]))[order])
        return found[place]

    def _pack(self, columns: list[Array]) -> Array:
        key = columns[0] - self._lows[0]
        for column, low, span in zip(columns[1:], self._lows[1:], self._spans[1:], strict=True):
            key = key * span + (column - low)
        return key


class Index:
    """Row numbers by the codes of one column, as sorted runs."""

    __slots__ = ("_runs", "size")

    def __init__(self) -> None:
        self._runs: list[tuple[Array, Rows]] = []
        self.size = 0

    def extend(self, codes: Array) -> None:
        """Add the rows from `size` on."""
        keys, rows = kernels.sort_rows(codes)
        self._runs.append((keys, rows + self.size))
        self.size += codes.size
        while len(self._runs) > 1 and self._runs[-2][0].size < 2 * self._runs[-1][0].size:
            (a, a_rows), (b, b_rows) = self._runs[-2:]
            merged, order = kernels.sort_rows(np.concatenate((a, b)))
            self._runs[-2:] = [(merged, np.concatenate((a_rows, b_rows))[order])]

    def find(self, probe: Array, charge: Callable[[int], None]) -> tuple[Rows, Rows]:
        """(rows of the probe, rows of the predicate) of all equal pairs, the probe's ascending."""
        lefts: list[Rows] = []
        rights: list[Rows] = []
        for keys, rows in self._runs:
            start, count = kernels.search(keys, probe)
            left, right = kernels.expand(start, count, rows, charge)
            lefts.append(left)
            rights.append(right)
        if len(lefts) == 1:
            return lefts[0], rights[0]
        left, right = np.concatenate(lefts), np.concatenate(rights)
        order = kernels.sort_rows(left)[1]
        return left[order], right[order]


class Predicate:
    """One predicate of a fixpoint; 1. pending, 2. delta, 3. stable as at the head of this module."""

    __slots__ = ("_delta", "_indexes", "_keys", "_pending", "columns", "kinds", "length", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.kinds: list[Kind] = []
        self.columns: list[Array] = [EMPTY] * width  # 3. buffers, filled up to `length`
        self.length = 0
        self._delta = 0  # 2. the rows from here on are new in this round
        self._pending: list[list[Column]] = []  # 1.
        self._keys = KeySet(width)
        self._indexes: dict[int, Index] = {}

    def add(self, columns: list[Column]) -> None:
        """1. Take rows that a body gave."""
        self._pending.append(columns)

    def advance(self, budget: Budget, codes: Codes) -> int:
        """2. and 3. Make the delta of the pending rows; its length."""
        self._delta = self.length
        pending, self._pending = self._pending, []
        for columns in pending:
            self._settle(self._aligned(columns, codes), budget)
        return self.size(delta=True)

    def size(self, *, delta: bool) -> int:
        """How many rows the delta has, or all."""
        return self.length - self._delta if delta else self.length

    def _settle(self, codes: list[Array], budget: Budget) -> None:
        if not self.width:
            self.length = 1
            return
        budget.reserve(codes[0].size, self.width + 4, NANOSECONDS_TO_SORT)
        rows = self._keys.add(codes, [c[: self.length] for c in self.columns])
        if rows.size:
            budget.charge(int(rows.size), self.width)
            budget.hold(int(rows.size) * 8 * (2 * self.width + 3))  # buffers with room to grow, keys, an index
            self._append([c[rows] for c in codes])

    def _aligned(self, columns: list[Column], codes: Codes) -> list[Array]:
        """The codes of pending columns, of the kinds that the stable ones have."""
        if not self.kinds:
            self.kinds = [c.kind for c in columns]
        for i, column in enumerate(columns):
            if column.kind is not self.kinds[i] and self.kinds[i] is not Kind.INTERNED:
                self._intern(i, codes)
        return [c.codes if c.kind is k else interned(c, codes).codes for c, k in zip(columns, self.kinds, strict=True)]

    def _append(self, columns: list[Array]) -> None:
        """3. Put new rows behind the known ones."""
        end = self.length + columns[0].size
        for i, codes in enumerate(columns):
            if self.columns[i].size < end:
                buffer = np.empty(max(2 * self.columns[i].size, end, 64), dtype=np.int64)
                buffer[: self.length] = self.columns[i][: self.length]
                self.columns[i] = buffer
            self.columns[i][self.length : end] = codes
        self.length = end

    def _intern(self, position: int, codes: Codes) -> None:
        """A value of another kind came: the column becomes interned, keys and indexes are made anew."""
        old = Column(self.columns[position][: self.length].copy(), self.kinds[position])
        self.columns[position] = interned(old, codes).codes.copy()
        self.kinds[position] = Kind.INTERNED
        self._indexes.pop(position, None)
        self._rekey()

    def _rekey(self) -> None:
        """Make the keys of all known rows anew."""
        self._keys = KeySet(self.width)
        if self.length:
            self._keys.add([c[: self.length] for c in self.columns], [EMPTY] * self.width)

    def column(self, position: int, *, delta: bool) -> Column:
        """A column of the delta, or of all rows."""
        start = self._delta if delta else 0
        return Column(self.columns[position][start : self.length], self.kinds[position])

    def index(self, position: int) -> Index:
        """The index of a column, brought up to date."""
        found = self._indexes.setdefault(position, Index())
        if found.size < self.length:
            found.extend(self.columns[position][found.size : self.length])
        return found
