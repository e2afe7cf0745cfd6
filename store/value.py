"""Values: the types an attribute may have, their kinds and codes, and the one total order over all of them.

Place on the path: transactions and queries hand in Python values; the rest of the store sees only int64 codes.

A value is either *inline* (its code is computed from it: long, double, instant, boolean; a ref is a long) or
*interned* (its code is given out by the dictionary, see dictionary.py). The byte form below is what the dictionary
keeps; it is an exact inverse pair, and **byte order equals value order** across all types:

    rank  value                     payload
    0x05  nil                       -
    0x08  boolean                   00 | 01
    0x10  integer below -2^63       u32 length complemented, magnitude complemented (big end first)
    0x11  long                      u64, sign bit flipped
    0x12  integer from 2^63         u32 length, magnitude
    0x18  double                    u64, order-preserving bits (-0.0 is stored as 0.0; NaN is refused)
    0x1c  ratio                     its double (0x18 payload), then numerator and denominator as integers
    0x20  decimal                   sign, adjusted exponent, digits, exponent (1.0M and 1.00M are neighbours, not equal)
    0x28  instant                   i64 microseconds since 1970 UTC, sign bit flipped
    0x30  string                    UTF-8 (lone surrogates pass)
    0x38  keyword   0x39 symbol     namespace, 00, name
    0x40  uuid                      16 bytes
    0x48  bytes                     as they are
    0x50  character                 u32
    0x60  vector or tuple           members, then 00
    0x61  list      0x62 set (members in order)    0x63 map (keys in order, each with its value)
    0x64  tagged                    tag, value

Inside a collection the open-ended payloads (strings, names, bytes) are written with 00 as 00 FF and end with 00 01, so
that a shorter member sorts first. Every rank is above 01, so 00 can close a collection.

Sources: the tuple layer of FoundationDB for the escape, Cozo's memcomparable encoding for the idea of ranks.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, show_form
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_DEPTH = 200  # of collections inside one attribute value; nested further, a value belongs into JSON text
MAX_INTEGER_BYTES = 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIRST_INSTANT = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
LAST_INSTANT = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_SIGN = 1 << 63
_U64 = struct.Struct(">Q")
_U32 = struct.Struct(">I")
_F64 = struct.Struct(">d")
_MASK = (1 << 64) - 1


class Kind(IntEnum):
    """How a column's int64 codes are to be read. Refs and eids are LONG: an eid is a plain integer."""

    LONG = 0
    DOUBLE = 1
    INSTANT = 2
    BOOLEAN = 3
    INTERNED = 4


def bad_value(message: str, hint: str | None = None) -> UserError:
    """The error for a value that the database cannot keep."""
    return UserError("value/unsupported", message, hint=hint)


# ---------------------------------------------------------------------------------------------------------------------
# inline codes


def encode_double(value: float) -> int:
    """The signed int64 code of a double: codes compare as the doubles do; -0.0 gives the code of 0.0, NaN is refused."""
    if value != value:  # noqa: PLR0124 - the test for NaN
        raise bad_value("NaN cannot be stored: it has no place in an order and equals nothing, not even itself.")
    bits: int = _U64.unpack(_F64.pack(value + 0.0))[0]
    return bits if bits < _SIGN else (bits ^ _MASK ^ _SIGN) - (1 << 64)


def encode_doubles(values: NDArray[np.float64]) -> Codes:
    """The codes of an array of doubles, float64 (n,) -> int64 (n,)."""
    if bool(np.isnan(values).any()):
        raise bad_value("NaN cannot be stored: it has no place in an order and equals nothing, not even itself.")
    bits = (values + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(INT64_MAX), bits)


def decode_doubles(codes: Codes) -> NDArray[np.float64]:
    """The doubles of their codes, int64 (n,) -> float64 (n,): the exact inverse of `encode_doubles`."""
    return np.where(codes < 0, codes ^ np.int64(INT64_MAX), codes).view(np.float64)


def encode_instant(value: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    if value.tzinfo is None:
        raise bad_value(
            f"The datetime {value.isoformat()} has no time zone.", "give it one: value.replace(tzinfo=datetime.UTC)"
        )
    code = (value - EPOCH) // MICROSECOND
    if not FIRST_INSTANT <= code <= LAST_INSTANT:  # by its zone: in UTC nobody could read it back
        raise _beyond_years(value.isoformat())
    return code


def check_instants(codes: Codes) -> None:
    """Raises UserError when one of these codes is of no instant that could be read back."""
    wrong = (codes < FIRST_INSTANT) | (codes > LAST_INSTANT)
    if bool(wrong.any()):
        raise _beyond_years(str(codes[wrong][:1].view("datetime64[us]")[0]))


def _beyond_years(shown: str) -> UserError:
    return bad_value(f"The instant {shown} is not within the years 1 to 9999 in UTC.", "give an earlier or later one")


def decode_instant(code: int) -> datetime:
    """The aware UTC datetime of a code."""
    return EPOCH + timedelta(microseconds=code)


def kind_of(value: Any) -> Kind:
    """The kind that holds a value alone: an integer beyond int64 is interned, a bool is a boolean."""
    kind = _KIND_OF.get(type(value))
    if kind is None:
        return _kind_of_subclass(value)
    if kind is Kind.LONG and not INT64_MIN <= value <= INT64_MAX:
        return Kind.INTERNED
    return kind


def _kind_of_subclass(value: Any) -> Kind:
    if isinstance(value, bool | np.bool_):
        return Kind.BOOLEAN
    if isinstance(value, int | np.integer):
        return Kind.LONG if INT64_MIN <= int(value) <= INT64_MAX else Kind.INTERNED
    if isinstance(value, float | np.floating):
        return Kind.DOUBLE
    if isinstance(value, datetime):
        return Kind.INSTANT
    return Kind.INTERNED


_KIND_OF: dict[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.LONG,
    float: Kind.DOUBLE,
    datetime: Kind.INSTANT,
    str: Kind.INTERNED,
    Keyword: Kind.INTERNED,
    UUID: Kind.INTERNED,
    Decimal: Kind.INTERNED,
}


def encode_inline(kind: Kind, value: Any) -> int:
    """The code of a value of an inline kind."""
    if kind is Kind.LONG:
        return int(value)
    if kind is Kind.DOUBLE:
        return encode_double(float(value))
    if kind is Kind.INSTANT:
        return encode_instant(value)
    if kind is Kind.BOOLEAN:
        return int(bool(value))
    raise ValueError(f"{kind!r} is not inline")


def decode_inline(kind: Kind, codes: Codes) -> list[Any]:
    """The Python values of inline codes, in their order."""
    if kind is Kind.LONG:
        return list(codes.tolist())
    if kind is Kind.DOUBLE:
        return list(decode_doubles(codes).tolist())
    if kind is Kind.INSTANT:
        return [EPOCH + timedelta(microseconds=c) for c in codes.tolist()]
    if kind is Kind.BOOLEAN:
        return list((codes != 0).tolist())
    raise ValueError(f"{kind!r} is not inline")


def decode_one(kind: Kind, code: int) -> Any:
    """The Python value of one inline code."""
    if kind is Kind.LONG:
        return code
    if kind is Kind.DOUBLE:
        bits = code if code >= 0 else (code ^ INT64_MAX) & _MASK
        return _F64.unpack(_U64.pack(bits))[0]
    if kind is Kind.INSTANT:
        return EPOCH + timedelta(microseconds=code)
    return code != 0


# ---------------------------------------------------------------------------------------------------------------------
# the byte form


def encode_value(value: Any) -> bytes:
    """The byte form of a value (table at the head of this module): equal bytes exactly for equal values.

    Raises:
        UserError: `value/unsupported` for NaN, naive datetimes, types the database does not know, deep nesting.
    """
    if type(value) is str:
        return b"\x30" + value.encode("utf-8", "surrogatepass")
    return _encode(value, nested=False, depth=0)


def decode_value(data: bytes) -> Any:
    """The value of a byte form: the exact inverse of `encode_value`."""
    if data[0] == 0x30:
        return data[1:].decode("utf-8", "surrogatepass")
    return _decode(data, 0, nested=False)[0]


def _text(rank: bytes, payload: bytes, *, nested: bool) -> bytes:
    if not nested:
        return rank + payload
    return rank + payload.replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def _encode(value: Any, *, nested: bool, depth: int) -> bytes:
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = _encoder_of_subclass(value)
    return encoder(value, nested, depth)


def _encode_integer(value: int) -> bytes:
    if INT64_MIN <= value <= INT64_MAX:
        return b"\x11" + _U64.pack(value + _SIGN)
    magnitude = abs(value)
    size = (magnitude.bit_length() + 7) // 8
    if size > MAX_INTEGER_BYTES:
        raise bad_value(f"An integer of {size} bytes is too large: at most {MAX_INTEGER_BYTES} are kept.")
    body = magnitude.to_bytes(size, "big")
    if value > 0:
        return b"\x12" + _U32.pack(size) + body
    return b"\x10" + _complement(_U32.pack(size) + body)


def _complement(data: bytes) -> bytes:
    return bytes(255 - b for b in data)


def _encode_double_bytes(value: float) -> bytes:
    return _U64.pack(encode_double(value) + _SIGN)


def _encode_ratio(value: Fraction) -> bytes:
    try:
        near = _encode_double_bytes(float(value))
    except OverflowError:
        near = _encode_double_bytes(float("inf") if value > 0 else float("-inf"))
    return b"\x1c" + near + _encode_integer(value.numerator) + _encode_integer(value.denominator)


def _encode_decimal(value: Decimal) -> bytes:
    if not value.is_finite():
        raise bad_value(f"The decimal {value} is not finite.")
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    exponent_bytes = _U64.pack(exponent + _SIGN)
    if not any(digits):
        return b"\x20\x01" + _U64.pack(_SIGN) + b"\x00" + exponent_bytes + bytes([len(digits) % 256, sign])
    text = "".join(map(str, digits))
    lead = len(text) - len(text.lstrip("0"))
    stripped = text[lead:].rstrip("0").encode()
    body = _U64.pack(value.adjusted() + _SIGN) + stripped + b"\x00"
    return b"\x20" + (b"\x00" + _complement(body) if sign else b"\x02" + body) + exponent_bytes


def _decode_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    sign_byte = data[at]
    if sign_byte == 1:
        end = at + 10
        exponent = _U64.unpack_from(data, end)[0] - _SIGN
        count, sign = data[end + 8], data[end + 9]
        return Decimal((sign, (0,) * max(1, count), exponent)), end + 10
    negative = sign_byte == 0
    adjusted_bytes = data[at + 1 : at + 9]
    close = data.index(b"\xff" if negative else b"\x00", at + 9)
    digit_bytes = data[at + 9 : close]
    if negative:
        adjusted_bytes, digit_bytes = _complement(adjusted_bytes), _complement(digit_bytes)
    exponent = _U64.unpack_from(data, close + 1)[0] - _SIGN
    adjusted = _U64.unpack(adjusted_bytes)[0] - _SIGN
    digits = tuple(b - 48 for b in digit_bytes)
    digits += (0,) * (adjusted - exponent + 1 - len(digits))
    return Decimal((int(negative), digits, exponent)), close + 9


def _name(value: Keyword | Symbol) -> bytes:
    if "\x00" in (value.ns or "") or "\x00" in value.name:
        raise bad_value("A keyword or symbol with a NUL character cannot be stored.")
    return f"{value.ns or ''}\x00{value.name}".encode("utf-8", "surrogatepass")


def _encode_members(rank: bytes, members: list[bytes]) -> bytes:
    return rank + b"".join(members) + b"\x00"


def _check_depth(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise bad_value(
            f"A value nested deeper than {MAX_DEPTH} collections cannot be an attribute's value.",
            "store it as text, for example with write_edn(value)",
        )
    return depth + 1


def _encode_vector(value: Any, depth: int, rank: bytes = b"\x60") -> bytes:
    depth = _check_depth(depth)
    return _encode_members(rank, [_encode(v, nested=True, depth=depth) for v in value])


def _encode_set(value: Any, depth: int) -> bytes:
    depth = _check_depth(depth)
    return _encode_members(b"\x62", sorted(_encode(v, nested=True, depth=depth) for v in value))


def _encode_map(value: Any, depth: int) -> bytes:
    depth = _check_depth(depth)
    pairs = sorted(
        (_encode(k, nested=True, depth=depth), _encode(v, nested=True, depth=depth)) for k, v in value.items()
    )
    return _encode_members(b"\x63", [k + v for k, v in pairs])


def _encode_tagged(value: Tagged, depth: int) -> bytes:
    depth = _check_depth(depth)
    return b"\x64" + _text(b"\x39", _name(value.tag), nested=True) + _encode(value.value, nested=True, depth=depth)


_ENCODERS: dict[type, Callable[[Any, bool, int], bytes]] = {
    type(None): lambda _v, _n, _d: b"\x05",
    bool: lambda v, _n, _d: b"\x08\x01" if v else b"\x08\x00",
    int: lambda v, _n, _d: _encode_integer(v),
    float: lambda v, _n, _d: b"\x18" + _encode_double_bytes(v),
    Fraction: lambda v, _n, _d: _encode_ratio(v),
    Decimal: lambda v, _n, _d: _encode_decimal(v),
    datetime: lambda v, _n, _d: b"\x28" + _U64.pack(encode_instant(v) + _SIGN),
    str: lambda v, n, _d: _text(b"\x30", v.encode("utf-8", "surrogatepass"), nested=n),
    Keyword: lambda v, n, _d: _text(b"\x38", _name(v), nested=n),
    Symbol: lambda v, n, _d: _text(b"\x39", _name(v), nested=n),
    UUID: lambda v, _n, _d: b"\x40" + v.bytes,
    bytes: lambda v, n, _d: _text(b"\x48", v, nested=n),
    Char: lambda v, _n, _d: b"\x50" + _U32.pack(ord(str(v))),
    Vector: lambda v, _n, d: _encode_vector(v, d),
    tuple: lambda v, _n, d: _encode_vector(v, d),
    list: lambda v, _n, d: _encode_vector(v, d),
    List: lambda v, _n, d: _encode_vector(v, d, b"\x61"),
    Set: lambda v, _n, d: _encode_set(v, d),
    set: lambda v, _n, d: _encode_set(v, d),
    frozenset: lambda v, _n, d: _encode_set(v, d),
    Map: lambda v, _n, d: _encode_map(v, d),
    dict: lambda v, _n, d: _encode_map(v, d),
    Tagged: lambda v, _n, d: _encode_tagged(v, d),
}


def _encoder_of_subclass(value: Any) -> Callable[[Any, bool, int], bytes]:
    if isinstance(value, np.generic):
        return lambda v, n, d: _encode(v.item(), nested=n, depth=d)
    if isinstance(value, bytearray | memoryview):
        return lambda v, n, _d: _text(b"\x48", bytes(v), nested=n)
    for base in (bool, int, float, Fraction, Decimal, datetime, Char, str, UUID, bytes, List, Set, Map, tuple, list):
        if isinstance(value, base):
            return _ENCODERS[base]
    raise bad_value(
        f"A value of the Python type {type(value).__name__} cannot be stored: {show_python(value)}.",
        "give a number, string, keyword, symbol, datetime, UUID, bytes, or a list, set or map of these",
    )


def show_python(value: Any) -> str:
    """The `repr` of any object, cut at 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unescape(data: bytes, at: int, *, nested: bool) -> tuple[bytes, int]:
    if not nested:
        return data[at:], len(data)
    end = data.index(b"\x00\x01", at)
    return data[at:end].replace(b"\x00\xff", b"\x00"), end + 2


def _decode_integer(data: bytes, at: int) -> tuple[int, int]:
    rank = data[at]
    if rank == 0x11:
        return _U64.unpack_from(data, at + 1)[0] - _SIGN, at + 9
    size_bytes = data[at + 1 : at + 5]
    size = _U32.unpack(size_bytes if rank == 0x12 else _complement(size_bytes))[0]
    body = data[at + 5 : at + 5 + size]
    end = at + 5 + size
    return (int.from_bytes(body, "big") if rank == 0x12 else -int.from_bytes(_complement(body), "big")), end


def _decode_name(data: bytes, at: int, *, nested: bool) -> tuple[str, int]:
    if nested:
        end = data.index(b"\x00\x01", at)
        ns, name = data[at:end].split(b"\x00\xff", 1)
        end += 2
    else:
        ns, name = data[at:].split(b"\x00", 1)
        end = len(data)
    prefix = f"{ns.decode('utf-8', 'surrogatepass')}/" if ns else ""
    return prefix + name.decode("utf-8", "surrogatepass"), end


def _decode(data: bytes, at: int, *, nested: bool) -> tuple[Any, int]:
    rank = data[at]
    if rank == 0x05:
        return None, at + 1
    if rank == 0x08:
        return data[at + 1] == 1, at + 2
    if rank in (0x10, 0x11, 0x12):
        return _decode_integer(data, at)
    if rank == 0x18:
        return decode_one(Kind.DOUBLE, _U64.unpack_from(data, at + 1)[0] - _SIGN), at + 9
    if rank == 0x1C:
        numerator, at = _decode_integer(data, at + 9)
        denominator, at = _decode_integer(data, at)
        return Fraction(numerator, denominator), at
    if rank == 0x20:
        return _decode_decimal(data, at + 1)
    if rank == 0x28:
        return decode_instant(_U64.unpack_from(data, at + 1)[0] - _SIGN), at + 9
    if rank in (0x30, 0x48):
        raw, end = _unescape(data, at + 1, nested=nested)
        return (raw.decode("utf-8", "surrogatepass") if rank == 0x30 else raw), end
    if rank in (0x38, 0x39):
        text, end = _decode_name(data, at + 1, nested=nested)
        return (Keyword(text) if rank == 0x38 else Symbol(text)), end
    if rank == 0x40:
        return UUID(bytes=data[at + 1 : at + 17]), at + 17
    if rank == 0x50:
        return Char(chr(_U32.unpack_from(data, at + 1)[0])), at + 5
    if rank == 0x64:
        tag, at = _decode(data, at + 1, nested=True)
        inner, at = _decode(data, at, nested=True)
        return Tagged(tag, inner), at
    return _decode_collection(rank, data, at + 1)


def _decode_collection(rank: int, data: bytes, at: int) -> tuple[Any, int]:
    members: list[Any] = []
    while data[at] != 0:
        member, at = _decode(data, at, nested=True)
        members.append(member)
    at += 1
    if rank == 0x60:
        return Vector(members), at
    if rank == 0x61:
        return List(members), at
    if rank == 0x62:
        return Set(members), at
    if rank == 0x63:
        return Map(zip(members[::2], members[1::2], strict=True)), at
    raise ValueError(f"unknown rank byte {rank:#x}")


def order_key(value: Any) -> bytes:
    """A key whose `<` is the one total order over all values: nil, booleans, integers, doubles, ... (type rank first)."""
    return encode_value(value)


def canonical(value: Any) -> Any:
    """The value as the model's types: lists and tuples as Vector, dicts as Map, sets as Set, numpy scalars as Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if kind in (list, tuple):
        return Vector([canonical(v) for v in value])
    if kind is dict:
        return Map((canonical(k), canonical(v)) for k, v in value.items())
    if kind in (set, frozenset):
        return Set(canonical(v) for v in value)
    return value


# ---------------------------------------------------------------------------------------------------------------------
# types of attributes


def nil_value() -> UserError:
    """The error for nil as a value."""
    return UserError("value/nil", "nil is not a value: a fact that is not known is left out.", hint="drop the entry")


def _wrong(type_name: str, value: Any, hint: str | None = None) -> UserError:
    if value is None:
        return nil_value()
    try:
        shown = show_form(value)
    except UserError:
        shown = show_python(value)
    return UserError(
        "value/wrong-type",
        f"{shown} ({type(value).__name__}) is not of the type :db.type/{type_name}.",
        expected=EXPECTED.get(type_name),
        hint=hint,
    )


def _coerce_long(value: Any) -> int:
    number = value if type(value) is int else int(value) if isinstance(value, np.integer) else None
    if number is None:
        raise _wrong("long", value)
    if not INT64_MIN <= number <= INT64_MAX:
        raise _wrong("long", value, "declare the attribute as :db.type/bigint for integers beyond 64 bits")
    return number


def _coerce_ref(value: Any) -> int:
    if isinstance(value, np.integer):
        value = int(value)
    if type(value) is not int or not 0 < value < 2**42:
        raise _wrong("ref", value)
    return value


def _coerce_double(value: Any) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) is int:
        try:
            near = float(value)
        except OverflowError:
            near = float("inf")
        if near != value:
            raise _wrong("double", value, "this integer has no exact double")
        return near
    if not isinstance(value, float):
        raise _wrong("double", value)
    if value != value:  # noqa: PLR0124 - the test for NaN
        raise _wrong("double", value, "NaN cannot be stored: leave the attribute out instead")
    return float(value) + 0.0


def _coerce_boolean(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise _wrong("boolean", value)


def _coerce_instant(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise _wrong("instant", value)
    if value.tzinfo is None:
        raise _wrong("instant", value, "give the datetime a time zone: value.replace(tzinfo=datetime.UTC)")
    return value


def _coerce_keyword(value: Any) -> Keyword:
    if isinstance(value, Keyword):
        return value
    if type(value) is str and len(value) > 1 and value[0] == ":":
        return Keyword(value)
    raise _wrong("keyword", value, 'a keyword is Keyword("a/b"), or the string ":a/b"')


def _coerce_bigint(value: Any) -> int:
    if isinstance(value, np.integer):
        value = int(value)
    if type(value) is not int:
        raise _wrong("bigint", value)
    return value


def _coerce_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _wrong("bytes", value)


def _coerce_tuple(value: Any) -> Vector:
    if isinstance(value, list | tuple) and not isinstance(value, List):
        return Vector(canonical(v) for v in value)
    raise _wrong("tuple", value)


def _exactly(type_name: str, python: type) -> Callable[[Any], Any]:
    def coerce(value: Any) -> Any:
        if isinstance(value, python) and not isinstance(value, Char):
            return value
        raise _wrong(type_name, value)

    return coerce


EXPECTED = {
    "long": "an integer from -2^63 to 2^63-1",
    "ref": "an entity: its id, a tempid, a lookup ref or an ident",
    "double": "a floating-point number",
    "boolean": "true or false",
    "instant": 'an instant such as #inst "2026-01-31T12:00:00Z", or an aware datetime',
    "keyword": "a keyword such as :a/b",
    "symbol": "a symbol such as a/b",
    "string": "a string",
    "uuid": 'a uuid such as #uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"',
    "bytes": "bytes",
    "bigint": "an integer",
    "bigdec": "a decimal such as 1.50M",
    "tuple": "a vector",
}

COERCE: dict[str, Callable[[Any], Any]] = {
    "long": _coerce_long,
    "ref": _coerce_ref,
    "double": _coerce_double,
    "boolean": _coerce_boolean,
    "instant": _coerce_instant,
    "keyword": _coerce_keyword,
    "symbol": _exactly("symbol", Symbol),
    "string": _exactly("string", str),
    "uuid": _exactly("uuid", UUID),
    "bytes": _coerce_bytes,
    "bigint": _coerce_bigint,
    "bigdec": _exactly("bigdec", Decimal),
    "tuple": _coerce_tuple,
}

KIND_OF_TYPE: dict[str | None, Kind] = {
    "long": Kind.LONG,
    "ref": Kind.LONG,
    "double": Kind.DOUBLE,
    "boolean": Kind.BOOLEAN,
    "instant": Kind.INSTANT,
}
TYPES = tuple(COERCE)
INLINE: dict[Kind, Callable[[Any], int]] = {
    Kind.LONG: int,
    Kind.DOUBLE: encode_double,
    Kind.INSTANT: encode_instant,
    Kind.BOOLEAN: int,
}
_SCALARS = frozenset((str, int, float, bool, Keyword, datetime, UUID, Decimal))


def check_untyped(value: Any) -> Any:
    """The value as the database keeps it under an attribute without a type; nil is refused."""
    if value is None:
        raise nil_value()
    if type(value) in _SCALARS:
        return value
    return canonical(value)


def uniform_column(type_name: str | None, values: Sequence[Any]) -> tuple[Kind, Codes] | None:
    """Kind and codes of a list whose members all have the one right Python type; None when a closer look is needed."""
    types = set(map(type, values))
    if type_name in ("long", "ref") and types == {int}:
        try:
            codes = np.array(values, dtype=np.int64)
        except OverflowError:
            return None
        if type_name == "ref" and (int(codes.min()) <= 0 or int(codes.max()) >= 2**42):
            return None
        return Kind.LONG, codes
    if type_name == "double" and types == {float}:
        doubles = np.array(values, dtype=np.float64)
        return None if bool(np.isnan(doubles).any()) else (Kind.DOUBLE, encode_doubles(doubles))
    if type_name == "boolean" and types == {bool}:
        return Kind.BOOLEAN, np.array(values, dtype=np.int64)
    return None
