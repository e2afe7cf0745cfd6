"""Relation: named int64 columns with kinds, what every step of the engine takes and gives.

A relation is a bag of rows during evaluation; `key` names columns on which its rows are known to be distinct, so that the
end of the query can skip the dedupe where keys prove distinctness. Columns are never written to: a step that keeps a
column shares it.

Codes of one query live in one space, that of the first database (`Codes`, an overlay over its dictionary that dies with
the query); a query without a database uses `LocalCodes`. A column that holds values of several kinds is INTERNED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from datalog import kernels
from store.columns import is_rising
from store.edn import strict_key
from store.value import Kind, canonical, decode_inline, encode_inline, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.int64]
    Rows = NDArray[np.intp]

EMPTY: Array = np.empty(0, dtype=np.int64)


class Codes(Protocol):
    """The code space of one query: values <-> INTERNED codes. Implemented by the store's overlay and by `LocalCodes`."""

    def encode(self, value: Any) -> int:
        """The code of a value, a temporary one when it is not stored."""

    def encode_many(self, values: list[Any]) -> Array:
        """The codes of many values."""

    def decode_many(self, codes: Array) -> list[Any]:
        """The values of many codes."""

    def to_interned(self, kind: Kind, codes: Array) -> Array:
        """The canonical interned codes of inline values."""


class LocalCodes:
    """A code space of its own, for queries over plain collections."""

    def __init__(self) -> None:
        self._codes: dict[Any, int] = {}
        self._values: list[Any] = []

    def encode(self, value: Any) -> int:
        """The code of a value; a new one at its first use."""
        value = canonical(value)
        key = strict_key(value)
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = len(self._values)
            self._values.append(value)
        return code

    def encode_many(self, values: list[Any]) -> Array:
        """The codes of many values, int64 (n,)."""
        return np.array([self.encode(v) for v in values], dtype=np.int64)

    def decode_many(self, codes: Array) -> list[Any]:
        """The values of many codes."""
        values = self._values
        return [values[c] for c in codes.tolist()]

    def to_interned(self, kind: Kind, codes: Array) -> Array:
        """The interned codes of inline values."""
        return self.encode_many(decode_inline(kind, codes))


class Column:
    """Codes of one kind."""

    __slots__ = ("codes", "kind")

    def __init__(self, codes: Array, kind: Kind) -> None:
        self.codes = codes
        self.kind = kind

    def take(self, rows: Rows) -> Column:
        """The column of some of its rows."""
        return Column(self.codes[rows], self.kind)

    def __repr__(self) -> str:
        return f"Column({self.codes!r}, {self.kind.name})"


@dataclass(slots=True, eq=False, repr=False)
class Relation:
    """Columns of one length; `key`: the rows are known to be distinct on these columns (None: not known)."""

    columns: dict[str, Column]
    length: int
    key: frozenset[str] | None = None

    def take(self, rows: Rows) -> Relation:
        """Some of the rows, each at most once."""
        return Relation({n: c.take(rows) for n, c in self.columns.items()}, len(rows), self.key)

    def first(self, count: int) -> Relation:
        """The first rows."""
        columns = {n: Column(c.codes[:count], c.kind) for n, c in self.columns.items()}
        return Relation(columns, min(count, self.length), self.key)

    def keep(self, mask: NDArray[np.bool_]) -> Relation:
        """The rows where the mask holds."""
        if bool(mask.all()):
            return self
        return self.take(np.flatnonzero(mask))

    def only(self, names: Iterable[str]) -> Relation:
        """Some of the columns, in the order given; rows may repeat after it."""
        columns = {n: self.columns[n] for n in names}
        key = self.key if self.key is not None and self.key <= columns.keys() else None
        return Relation(columns, self.length, key)

    def distinct(self) -> Relation:
        """The distinct rows."""
        if self.key is not None or self.length < 2:
            return Relation(self.columns, self.length, frozenset(self.columns))
        if not self.columns:
            return Relation({}, min(self.length, 1), frozenset())
        rows = kernels.distinct_rows([c.codes for c in self.columns.values()])
        kept = self if rows is None else self.take(rows)
        return Relation(kept.columns, kept.length, frozenset(self.columns))


UNIT = Relation({}, 1, frozenset())


def empty(names: Iterable[str]) -> Relation:
    """The relation without rows."""
    return Relation({n: Column(EMPTY, Kind.LONG) for n in names}, 0, frozenset())


def encode_column(values: Sequence[Any], codes: Codes) -> Column:
    """The column of Python values: inline when all are of one inline kind, else interned.

    Raises:
        UserError: `value/unsupported` for a NaN, a naive datetime, or an object that is no value.
    """
    types = set(map(type, values))
    if types == {int}:
        try:
            return Column(np.array(values, dtype=np.int64), Kind.LONG)
        except OverflowError:
            pass
    kinds = {kind_of(v) for v in values}
    if len(kinds) == 1:
        kind = kinds.pop()
        if kind is not Kind.INTERNED:
            return Column(np.array([encode_inline(kind, v) for v in values], dtype=np.int64), kind)
    if not values:
        return Column(EMPTY, Kind.LONG)
    return Column(codes.encode_many([canonical(v) for v in values]), Kind.INTERNED)


def decode_column(column: Column, codes: Codes) -> list[Any]:
    """The Python values of a column; interned codes are decoded once for each distinct one."""
    if column.kind is not Kind.INTERNED:
        return decode_inline(column.kind, column.codes)
    if column.codes.size < 64 or is_rising(column.codes):
        return codes.decode_many(column.codes)
    unique, position = kernels.inverse(column.codes)
    values = codes.decode_many(unique)
    if unique.size == column.codes.size:
        return [values[p] for p in position.tolist()]
    return list(map(values.__getitem__, position.tolist()))


def interned(column: Column, codes: Codes) -> Column:
    """The column with interned codes, whatever its kind was."""
    if column.kind is Kind.INTERNED:
        return column
    if column.codes.size < 64:
        return Column(codes.to_interned(column.kind, column.codes), Kind.INTERNED)
    unique, position = kernels.inverse(column.codes)
    return Column(codes.to_interned(column.kind, unique)[position], Kind.INTERNED)


def same_kind(left: Column, right: Column, codes: Codes) -> tuple[Column, Column] | None:
    """Both columns with comparable codes; None when no value of one can equal a value of the other."""
    if left.kind is right.kind:
        return left, right
    if left.kind is not Kind.INTERNED and right.kind is not Kind.INTERNED:
        return None
    return interned(left, codes), interned(right, codes)


def longs(column: Column, codes: Codes) -> tuple[Array, Rows | None]:
    """(the longs of a column, the rows they stand in or None for all): what can be an eid among its values."""
    if column.kind is Kind.LONG:
        return column.codes, None
    if column.kind is not Kind.INTERNED:
        return EMPTY, np.empty(0, dtype=np.intp)
    unique, position = kernels.inverse(column.codes)
    values = codes.decode_many(unique)
    usable = np.array([type(v) is int and kind_of(v) is Kind.LONG for v in values], dtype=np.bool_)
    table = np.array([v if ok else 0 for v, ok in zip(values, usable.tolist(), strict=True)], dtype=np.int64)
    rows = np.flatnonzero(usable[position]) if len(values) else np.empty(0, dtype=np.intp)
    return table[position[rows]], rows


def concat(parts: Sequence[Relation], names: Sequence[str], codes: Codes) -> Relation:
    """The rows of all parts one after the other; columns of different kinds become interned."""
    filled = [p for p in parts if p.length]
    if not filled:
        return empty(names)
    if len(filled) == 1:
        return filled[0].only(names)
    columns: dict[str, Column] = {}
    for name in names:
        found = [p.columns[name] for p in filled]
        kinds = {c.kind for c in found}
        if len(kinds) > 1:
            found = [interned(c, codes) for c in found]
        columns[name] = Column(np.concatenate([c.codes for c in found]), found[0].kind)
    return Relation(columns, sum(p.length for p in filled), None)
