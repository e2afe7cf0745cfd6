"""Values: exact inverses, and byte order = value order for every type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, strict_equal
from store.errors import UserError
from store.value import (
    Kind,
    decode_doubles,
    decode_inline,
    decode_one,
    decode_value,
    encode_doubles,
    encode_inline,
    encode_value,
    kind_of,
)

_TEXT = st.text(max_size=12) | st.sampled_from(["", "\0", "\0\0", "\0\xff", "a\0b", "\ud800", "\U0010ffff", "\xff" * 5])
_NAME = st.text(alphabet="abz0-*", min_size=1, max_size=4).filter(lambda s: not s[0].isdigit())
_FLOATS = st.floats(allow_nan=False).map(lambda x: x + 0.0)
_INTS = (
    st.integers()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**63, -(2**63), 2**63 - 1, -(2**63) - 1, 0, 255, 256, -1])
)
_DECIMALS = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [
        Decimal(x)
        for x in ("1.0", "1.00", "1", "10", "-1.0", "-1.00", "0", "0.0", "-0.5", "0.001", "123456", "1E+5", "-1E+5")
    ]
)
_INSTANTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
_TYPES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": _INTS,
    "double": _FLOATS,
    "decimal": _DECIMALS,
    "instant": _INSTANTS,
    "string": _TEXT,
    "keyword": st.builds(lambda a, b: Keyword(f"{a}/{b}" if a else b), st.just("") | _NAME, _NAME),
    "symbol": st.builds(lambda a, b: Symbol(f"{a}/{b}" if a else b), st.just("") | _NAME, _NAME),
    "uuid": st.uuids(),
    "bytes": st.binary(max_size=12),
}
_KEYS: dict[str, Any] = {
    "decimal": lambda d: (d, d.as_tuple().exponent),
    "string": lambda s: [ord(c) for c in s],
    "keyword": lambda k: (k.ns or "", k.name),
    "symbol": lambda k: (k.ns or "", k.name),
    "uuid": lambda u: u.bytes,
}


@pytest.mark.parametrize("name", sorted(_TYPES))
def test_byte_order_is_value_order(name: str) -> None:
    """The byte forms of two values of one type compare as the values do."""
    key = _KEYS.get(name, lambda v: v)

    @settings(max_examples=120, deadline=None)
    @given(_TYPES[name], _TYPES[name])
    def run(a: Any, b: Any) -> None:
        if name == "decimal" and a == b == 0:
            return  # zeros of other scales are neighbours in some order
        assert (encode_value(a) < encode_value(b)) == (key(a) < key(b))
        assert (encode_value(a) == encode_value(b)) == (key(a) == key(b))
        # the same inside a tuple, whatever follows
        assert (encode_value(Vector([a, 1])) < encode_value(Vector([b, 1]))) == (key(a) < key(b))
        assert (encode_value(Vector([a])) < encode_value(Vector([a, b]))) is True

    run()


_ANY = st.recursive(
    st.none() | st.one_of(list(_TYPES.values())) | st.builds(Char, st.characters()) | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=4).map(Vector)
        | st.lists(inner, max_size=4).map(List)
        | st.lists(inner, max_size=4).map(Set)
        | st.lists(st.tuples(inner, inner), max_size=3).map(Map)
        | st.builds(Tagged, st.just(Symbol("my/tag")), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(_ANY)
def test_decode_is_the_inverse_of_encode(value: Any) -> None:
    """Every value comes back from its bytes, type-strictly equal."""
    back = decode_value(encode_value(value))
    assert strict_equal(back, value) or (isinstance(value, Fraction) and value.denominator == 1 and back == value)


@settings(max_examples=120, deadline=None)
@given(_ANY, _ANY)
def test_equal_bytes_mean_equal_values(a: Any, b: Any) -> None:
    """Two values have one byte form exactly if they are type-strictly equal."""
    assert (encode_value(a) == encode_value(b)) == strict_equal(a, b)


def test_types_order_by_rank() -> None:
    """Values of different types have one total order: nil, booleans, integers, doubles, and so on."""
    ordered = [
        None, False, True, -(2**80), -(2**63), -1, 0, 1, 2**63, float("-inf"), 0.5, Fraction(1, 3), Decimal("1.0"),
        datetime(2020, 1, 1, tzinfo=UTC), "", "a", Keyword("a"), Symbol("a"), UUID(int=1), b"x", Char("c"),
        Vector([1]), List([1]), Set([1]), Map({1: 2}), Tagged(Symbol("t"), 1),
    ]  # fmt: skip
    encoded = [encode_value(v) for v in ordered]
    assert encoded == sorted(encoded)
    assert len(set(encoded)) == len(encoded)


@settings(max_examples=120, deadline=None)
@given(st.lists(_FLOATS, min_size=1, max_size=20))
def test_codes_of_doubles_keep_their_order(values: list[float]) -> None:
    """Codes of doubles are exact and compare as the doubles do, one by one and as arrays."""
    array = np.array(values)
    codes = encode_doubles(array)
    assert decode_doubles(codes).tolist() == array.tolist()
    assert codes.tolist() == [encode_inline(Kind.DOUBLE, v) for v in values]
    assert [decode_one(Kind.DOUBLE, c) for c in codes.tolist()] == values
    assert np.array_equal(np.argsort(codes, kind="stable"), np.argsort(array, kind="stable"))


@settings(max_examples=100, deadline=None)
@given(_INSTANTS, st.integers(-14 * 60, 14 * 60))
def test_instants_keep_the_microsecond_in_any_zone(at: datetime, minutes: int) -> None:
    """An instant's code does not depend on the zone it is written in, and decodes to the microsecond."""
    shifted = at.astimezone(timezone(timedelta(minutes=minutes))) if 2 < at.year < 9998 else at
    code = encode_inline(Kind.INSTANT, shifted)
    assert decode_one(Kind.INSTANT, code) == at
    assert decode_inline(Kind.INSTANT, np.array([code])) == [at]


def test_minus_zero_is_stored_as_zero() -> None:
    """-0.0 and 0.0 have one code and one byte form."""
    assert encode_inline(Kind.DOUBLE, -0.0) == encode_inline(Kind.DOUBLE, 0.0) == 0
    assert encode_value(-0.0) == encode_value(0.0)


@pytest.mark.parametrize(
    "value",
    [float("nan"), datetime(2020, 1, 1), object(), Decimal("NaN"), Keyword("a\0b"), 1 << (8 * 5000)],  # noqa: DTZ001
    ids=["nan", "naive datetime", "object", "decimal nan", "NUL in a keyword", "giant integer"],
)
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    """Values that have no place in the order, or no type here, are errors that say so."""
    with pytest.raises(UserError):
        encode_value(value)


def test_deep_values_are_refused_without_a_recursion_error() -> None:
    """A value nested beyond the limit is an error, not a crash."""
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(UserError, match="nested deeper"):
        encode_value(value)


def test_numbers_and_booleans_are_of_their_own_kind() -> None:
    """True is a boolean, 1 a long, 1.0 a double, 2^63 interned."""
    assert [kind_of(v) for v in (True, 1, 1.0, 2**63, "x")] == [
        Kind.BOOLEAN, Kind.LONG, Kind.DOUBLE, Kind.INTERNED, Kind.INTERNED,
    ]  # fmt: skip
