"""Fixpoint: the semi-naive loop over recursive rules. Takes the evaluator of bodies as an argument.

Place on the path: the engine calls `run_fixpoint` for a `plan.Fixpoint`; bodies reach back through `plan.Derived`.

A predicate's rows pass through three places, and the code carries these numbers:
1. pending: what the bodies of this round gave;
2. delta: the pending rows that were not known, once each; they drive the next round;
3. stable: all known rows, the delta among them. Rows and indexes only grow.

Nothing is rebuilt in a round: known rows are kept as sorted runs of packed keys, each at least twice as long as the next,
so that a run is merged a logarithmic number of times; an index on a column is the same with row numbers.
Source for the split: datafrog's `Variable` (recent, stable, to_add).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import kernels
from datalog.plan import Const, Derived, Fixpoint, Param, Var
from datalog.relation import EMPTY, Column, Relation, empty, interned, same_kind
from datalog.scan import join_with
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Node

    Array = NDArray[np.int64]
    Rows = NDArray[np.intp]

_LONGEST_KEY = 2**63


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
            self._push(np.sort(self._pack(known)))

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

    __slots__ = ("_indexes", "_keys", "_pending", "_start", "columns", "delta", "kinds", "length", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.kinds: list[Kind] = []
        self.columns: list[Array] = [EMPTY] * width  # 3. buffers, filled up to `length`
        self.length = 0
        self.delta = 0  # 2. the rows from here on are new in this round
        self._start = 0
        self._pending: list[list[Column]] = []  # 1.
        self._keys = KeySet(width)
        self._indexes: dict[int, Index] = {}

    def add(self, columns: list[Column]) -> None:
        """1. Take rows that a body gave."""
        self._pending.append(columns)

    def advance(self, run: Run) -> int:
        """2. and 3. Make the delta of the pending rows; its length."""
        self.delta = self.length
        pending, self._pending = self._pending, []
        for columns in pending:
            self._settle(run, columns)
        return self.length - self.delta

    def _settle(self, run: Run, columns: list[Column]) -> None:
        if not self.width:
            self.length = 1
            return
        if not self.kinds:
            self.kinds = [c.kind for c in columns]
        for i, column in enumerate(columns):
            if column.kind is not self.kinds[i] and self.kinds[i] is not Kind.INTERNED:
                self._intern(run, i)
        codes = [
            c.codes if c.kind is k else interned(c, run.codes).codes for c, k in zip(columns, self.kinds, strict=True)
        ]
        rows = self._keys.add(codes, [c[: self.length] for c in self.columns])
        if not rows.size:
            return
        run.budget.charge(int(rows.size), self.width)
        end = self.length + rows.size
        for i, column_codes in enumerate(codes):
            if self.columns[i].size < end:
                buffer = np.empty(max(2 * self.columns[i].size, end, 64), dtype=np.int64)
                buffer[: self.length] = self.columns[i][: self.length]
                self.columns[i] = buffer
            self.columns[i][self.length : end] = column_codes[rows]
        self.length = end

    def _intern(self, run: Run, position: int) -> None:
        """A value of another kind came: the column becomes interned, keys and indexes are made anew."""
        old = Column(self.columns[position][: self.length].copy(), self.kinds[position])
        self.columns[position] = interned(old, run.codes).codes.copy()
        self.kinds[position] = Kind.INTERNED
        self._indexes.pop(position, None)
        self._keys = KeySet(self.width)
        if self.length:
            self._keys.add([c[: self.length] for c in self.columns], [EMPTY] * self.width)

    def column(self, position: int, *, delta: bool) -> Column:
        """A column of the delta, or of all rows."""
        start = self.delta if delta else 0
        return Column(self.columns[position][start : self.length], self.kinds[position])

    def index(self, position: int) -> Index:
        """The index of a column, brought up to date."""
        found = self._indexes.setdefault(position, Index())
        if found.size < self.length:
            found.extend(self.columns[position][found.size : self.length])
        return found


class Predicates:
    """All predicates of one fixpoint while it runs."""

    __slots__ = ("found",)

    def __init__(self, widths: tuple[tuple[str, int], ...]) -> None:
        self.found = {name: Predicate(width) for name, width in widths}

    def rows(self, run: Run, node: Derived | Fixpoint, name: str | None = None, *, delta: bool = False) -> Relation:
        """The rows of a predicate under terms, as a relation."""
        if isinstance(node, Derived):
            name, delta = node.predicate, node.delta
        assert name is not None
        predicate = self.found[name]
        length = predicate.length - predicate.delta if delta else predicate.length
        if not length:
            return empty(node.variables)
        columns: dict[str, Column] = {}
        mask: Any = None
        exact = True
        for i, term in enumerate(node.terms):
            column = predicate.column(i, delta=delta)
            held = None
            if isinstance(term, Var):
                if term.name in columns:
                    held = _agree(run, columns[term.name], column)
                else:
                    columns[term.name] = column
                    exact = exact and term.name in node.variables
            elif term is not None:
                held = _is(run, term, column)
            else:
                exact = False
            if held is not None:
                mask = held if mask is None else mask & held
        relation = Relation(columns, length, None)
        if mask is not None:
            relation = relation.keep(mask)
        relation = relation.only(node.variables)
        relation.key = frozenset(node.variables) if exact else None
        return relation

    def probe(self, run: Run, left: Relation, node: Derived) -> Any:
        """The join of a relation with a predicate: rows of `left`, new columns, what they add to its key."""
        predicate = self.found[node.predicate]
        shared = [i for i, t in enumerate(node.terms) if isinstance(t, Var) and t.name in left.columns]
        if node.delta or not shared or not predicate.length or left.length * 4 > predicate.length:
            return join_with(run, left, self.rows(run, node))
        first = shared[0]
        term = node.terms[first]
        assert isinstance(term, Var)
        pair = same_kind(left.columns[term.name], Column(EMPTY, predicate.kinds[first]), run.codes)
        if pair is None or pair[0].kind is not predicate.kinds[first]:
            return join_with(run, left, self.rows(run, node))
        lefts, rights = predicate.index(first).find(pair[0].codes, run.charge(len(left.columns) + predicate.width))
        mask: Any = None
        columns: dict[str, Column] = {}
        for i, other in enumerate(node.terms):
            if i == first or other is None:
                continue
            column = Column(predicate.columns[i][rights], predicate.kinds[i])
            held = None
            if not isinstance(other, Var):
                held = _is(run, other, column)
            elif other.name in left.columns:
                held = _agree(run, left.columns[other.name].take(lefts), column)
            elif other.name in columns:
                held = _agree(run, columns[other.name], column)
            else:
                columns[other.name] = column
            if held is not None:
                mask = held if mask is None else mask & held
        if mask is not None and not bool(mask.all()):
            kept = np.flatnonzero(mask)
            lefts = lefts[kept]
            columns = {n: c.take(kept) for n, c in columns.items()}
        adds = None if any(t is None for t in node.terms) else frozenset(columns)
        return lefts, columns, adds


def _agree(run: Run, a: Column, b: Column) -> NDArray[np.bool_]:
    pair = same_kind(a, b, run.codes)
    return np.zeros(b.codes.size, dtype=np.bool_) if pair is None else pair[0].codes == pair[1].codes


def _is(run: Run, term: Const | Param, column: Column) -> NDArray[np.bool_]:
    kind, code = run.operand(term)
    return _agree(run, Column(np.full(column.codes.size, code, dtype=np.int64), kind), column)


def run_fixpoint(run: Run, node: Fixpoint, evaluate: Callable[[Run, Node], Relation]) -> Relation:
    """The rows of the wanted predicate in the least fixpoint of the rules."""
    predicates = Predicates(node.predicates)
    run.derived[node.key] = predicates
    outer = run.round_memo
    try:
        drivers: set[str] | None = None
        while True:
            run.round_memo = {}
            run.budget.check()
            for rule in node.rules:
                if (rule.driver in drivers) if drivers is not None else (rule.driver is None):
                    _derive(run, predicates, rule, evaluate(run, rule.body))
            drivers = {name for name, p in predicates.found.items() if p.advance(run)}
            if not drivers:
                break
    finally:
        run.round_memo = outer
    return predicates.rows(run, node, node.result)


def _derive(run: Run, predicates: Predicates, rule: Any, relation: Relation) -> None:
    """1. The rows that a body gave become pending rows of its predicate."""
    if not relation.length:
        return
    columns: list[Column] = []
    for term in rule.head:
        if isinstance(term, Var):
            columns.append(relation.columns[term.name])
        else:
            kind, code = run.operand(term)
            columns.append(Column(np.full(relation.length, code, dtype=np.int64), kind))
    predicates.found[rule.predicate].add(columns)
