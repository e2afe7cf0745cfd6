"""Aggregates: name -> what it makes of the values of a group.

Place on the path: the planner finds them by name, find.py applies them to grouped columns.

Each has a scalar form over the list of a group's values. `count`, `sum`, `avg`, `min` and `max` over inline kinds also have a
column form over all groups at once (`Groups`). Values are those of the distinct rows over the variables of `:find` and
`:with`, so equal values count as often as such rows have them.

Results: `sum` is exact (an integer of any size), `avg`, `variance` and `stddev` (of the population) are doubles, `median` of
an even number of values is a double, `min` and `max` use the order of `<`.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

import numpy as np

from datalog.builtins import REGISTERED, a_type, compare, is_number
from datalog.record import Record
from store.edn import Set, Vector, strict_key
from store.value import Kind, decode_doubles, encode_doubles, order_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.int64]


class Groups(Record):
    """Rows brought together: `starts` of each group in the ordered rows, and how many rows there are."""

    starts: NDArray[np.intp]
    length: int

    def counts(self) -> Array:
        """Rows of each group, int64 (n_groups,)."""
        return np.diff(np.append(self.starts, self.length)).astype(np.int64)


class Aggregate(Record):
    """One aggregate; `parameters` is how many arguments it takes before its column at most."""

    name: str
    parameters: int
    scalar: Callable[..., Any]
    doc: str
    column: Callable[[Groups, Kind, Array], tuple[Kind, Array] | None] | None = None


_PLAIN_NUMBERS = frozenset((int, float))


def _exact(values: list[Any]) -> Any:
    """The sum of numbers: exact for integers, ratios and decimals, a double when one is among them."""
    if not set(map(type, values)) <= _PLAIN_NUMBERS:
        for value in values:
            if not is_number(value):
                raise TypeError(f"needs numbers, not {a_type(value)}")
    if any(isinstance(v, float) for v in values):
        return math.fsum(float(v) for v in values)
    if any(isinstance(v, Decimal) for v in values):
        total = Decimal(0)
        for value in values:
            total += (
                value if isinstance(value, Decimal) else Decimal(int(value)) if value == int(value) else _ratio(value)
            )
        return total
    result = sum(values)
    return result.numerator if isinstance(result, Fraction) and result.denominator == 1 else result


def _ratio(value: Any) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


_by_size = cmp_to_key(compare)


def _in_order(value: Any) -> tuple[Any, bytes]:
    """A key in the order of `<`; numbers of one size, such as 1 and 1.0, in the total order, so that min has one answer."""
    return _by_size(value), order_key(value)


def _average(values: list[Any]) -> float:
    total = _exact(values)
    return total / len(values) if isinstance(total, float) else float(Fraction(total) / len(values))


def _median(values: list[Any]) -> Any:
    kinds = set(map(type, values))
    ordered = sorted(values) if kinds in ({int}, {float}) else sorted(values, key=_in_order)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else _average(ordered[middle - 1 : middle + 1])


def _variance(values: list[Any]) -> float:
    mean = _average(values)
    return math.fsum((float(v) - mean) ** 2 for v in values) / len(values)


def _least(*arguments: Any) -> Any:
    *parameters, values = arguments
    if not parameters:
        return min(values, key=_in_order)
    return Vector(sorted(values, key=_in_order)[: _size(parameters[0])])


def _greatest(*arguments: Any) -> Any:
    *parameters, values = arguments
    if not parameters:
        return max(values, key=_in_order)
    count = _size(parameters[0])
    return Vector(sorted(values, key=_in_order)[-count:] if count else ())


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("needs a number from 0 on")
    return value


def _rand(*arguments: Any) -> Any:
    import random  # noqa: PLC0415 - 2 ms that few queries need

    *parameters, values = arguments
    if not parameters:
        return random.choice(values)  # noqa: S311 - no secret depends on it
    return Vector(random.choices(values, k=_size(parameters[0])))  # noqa: S311 - as above


def _sample(*arguments: Any) -> Any:
    import random  # noqa: PLC0415 - as above

    *parameters, values = arguments
    distinct = list({strict_key(v): v for v in values}.values())
    if not parameters:
        return random.choice(distinct)  # noqa: S311 - as above
    return Vector(random.sample(distinct, min(_size(parameters[0]), len(distinct))))


# column forms --------------------------------------------------------------------------------------------------------


def _count_column(groups: Groups, _kind: Kind, _codes: Array) -> tuple[Kind, Array]:
    return Kind.LONG, groups.counts()


def _sum_column(groups: Groups, kind: Kind, codes: Array) -> tuple[Kind, Array] | None:
    if kind is Kind.LONG:
        largest = max(abs(int(codes.max())), abs(int(codes.min())))
        if largest * codes.size > 2**62:
            return None
        return Kind.LONG, np.add.reduceat(codes, groups.starts)
    if kind is Kind.DOUBLE:
        sums = _sums_of_doubles(groups, codes)
        return None if sums is None else (Kind.DOUBLE, encode_doubles(sums))
    return None


def _sums_of_doubles(groups: Groups, codes: Array) -> NDArray[np.float64] | None:
    """The sums of groups without loss, as the scalar form makes them; None where that raises."""
    values = decode_doubles(codes).tolist()
    ends = [*groups.starts[1:].tolist(), groups.length]
    try:
        sums = [math.fsum(values[start:end]) for start, end in zip(groups.starts.tolist(), ends, strict=True)]
    except (ValueError, OverflowError):
        return None
    return np.array(sums) + 0.0  # no negative zero


def _average_column(groups: Groups, kind: Kind, codes: Array) -> tuple[Kind, Array] | None:
    if kind is Kind.DOUBLE:
        sums = _sums_of_doubles(groups, codes)
        return None if sums is None else (Kind.DOUBLE, encode_doubles(sums / groups.counts()))
    found = _sum_column(groups, kind, codes)
    if found is None or int(np.abs(found[1]).max()) > 2**53:
        return None
    return Kind.DOUBLE, encode_doubles(found[1] / groups.counts())


def _extreme_column(reduce: Any) -> Callable[[Groups, Kind, Array], tuple[Kind, Array] | None]:
    def column(groups: Groups, kind: Kind, codes: Array) -> tuple[Kind, Array] | None:
        return None if kind is Kind.INTERNED else (kind, reduce(codes, groups.starts))

    return column


AGGREGATES: dict[str, Aggregate] = {
    a.name: a
    for a in (
        Aggregate("count", 0, len, "number of values", _count_column),
        Aggregate("count-distinct", 0, lambda v: len({strict_key(x) for x in v}), "number of distinct values"),
        Aggregate("distinct", 0, lambda v: Set(v), "the set of values"),  # noqa: PLW0108 - a class is no function
        Aggregate("sum", 0, _exact, "sum", _sum_column),
        Aggregate("avg", 0, _average, "mean, as a double", _average_column),
        Aggregate("median", 0, _median, "middle value"),
        Aggregate("variance", 0, _variance, "variance of the population"),
        Aggregate("stddev", 0, lambda v: math.sqrt(_variance(v)), "standard deviation of the population"),
        Aggregate(
            "min", 1, _least, "smallest value, or vector of the n smallest", _extreme_column(np.minimum.reduceat)
        ),
        Aggregate(
            "max", 1, _greatest, "greatest value, or vector of the n greatest", _extreme_column(np.maximum.reduceat)
        ),
        Aggregate("rand", 1, _rand, "a random value, or n with repetition"),
        Aggregate("sample", 1, _sample, "a random value, or n distinct ones"),
    )
}


def find_aggregate(name: str) -> Aggregate | None:
    """The built-in aggregate of a name, or the registered callable, or None."""
    found = AGGREGATES.get(name)
    if found is None:
        registered = REGISTERED.find(name)
        if registered is not None:
            return Aggregate(name, 8, registered.scalar, registered.doc)
    return found
