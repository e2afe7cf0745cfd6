"""Built-in functions: the closed list of what a query text can call, and the callables that programs register by name.

Place on the path: the planner looks names up here (arity, nearest name), the engine and the naive evaluator call what they
find. Nothing else can be reached from a query text: no attribute access, no import, no name of Python.

Each function has a scalar form over Python values. Comparison and arithmetic also have a column form over codes
(`Operand`s), which may decline by returning None: then the scalar form runs once for each distinct row of arguments.

Rules that keep it honest:
- `=` is Clojure's: type-strict, `(= 1 1.0)` is false; `==` compares numbers by magnitude. `<` and its kin compare numbers by
  magnitude and everything else by the one total order over all values, so they never fail.
- Arithmetic on longs that leaves 64 bits is an error, `/` is exact (a ratio), a result NaN is an error.
- A predicate holds when its result is neither false nor nil; a function whose result is nil drops the row.
- A scalar form raises TypeError, ValueError or ArithmeticError; who calls it names the clause and the arguments.
"""

from __future__ import annotations

import math
import operator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from datalog import regex
from datalog.record import Record
from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, strict_key, write_edn
from store.value import INT64_MAX, INT64_MIN, Kind, canonical, decode_doubles, encode_doubles, order_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]
    Operand = tuple[Kind, Codes | int]  # a column of codes, or one code for all rows
    ColumnForm = Callable[..., "tuple[Kind, Codes] | None"]


_MOST_BITS = 8 * 4096  # of an integer, as of a :db.type/bigint


class Builtin(Record):
    """One callable of the query language."""

    name: str
    least: int  # arguments
    most: int | None
    scalar: Callable[..., Any]
    doc: str
    column: ColumnForm | None = None
    pure: bool = True  # the same arguments give the same result: rand is not
    source: bool = False  # takes a source as its first argument and is evaluated by the engine against it
    checked: bool = False  # takes `check`, to be called now and then while it works: it may take long


# equality and order --------------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float | Decimal | Fraction) and not isinstance(value, bool)


def strict_equal(a: Any, b: Any) -> bool:
    """Clojure's `=`: equal and of the same type; 1, 1.0, 1M and true are four values, 0.0 and -0.0 one."""
    kind = type(a)
    if kind is type(b) and kind in (int, str, float, bool, Keyword):
        return bool(a == b)
    return bool(strict_key(canonical(a)) == strict_key(canonical(b)))


def _exact(value: Any) -> Any:
    """A number as one that Python compares exactly with every other (a Decimal does not meet a Fraction)."""
    return Fraction(value) if isinstance(value, Decimal) and value.is_finite() else value


def numeric_equal(a: Any, b: Any) -> bool:
    """Clojure's `==`: numbers by magnitude; other values as `=`."""
    if is_number(a) and is_number(b):
        return bool(_exact(a) == _exact(b))
    return strict_equal(a, b)


def less(a: Any, b: Any) -> bool:
    """Whether a stands before b: numbers by magnitude, everything else by the total order of all values."""
    kind = type(a)
    if kind is type(b) and kind in (int, str, float, datetime):
        if kind is str:
            return bool(a.encode("utf-8", "surrogatepass") < b.encode("utf-8", "surrogatepass"))
        return bool(a < b)
    if is_number(a) and is_number(b):
        return bool(_exact(a) < _exact(b))
    return order_key(a) < order_key(b)


def _less_equal(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        return bool(_exact(a) <= _exact(b))
    return not less(b, a)


def _chain(holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def test(*values: Any) -> bool:
        return all(holds(a, b) for a, b in pairwise(values))

    return test


def _not_equal(*values: Any) -> bool:
    return not all(strict_equal(values[0], v) for v in values[1:])


def _same_halves(*values: Any) -> bool:
    half = len(values) // 2
    return strict_equal(Vector(values[:half]), Vector(values[half:]))


def compare(a: Any, b: Any) -> int:
    """-1, 0 or 1 by the order of `<`."""
    return -1 if less(a, b) else 1 if less(b, a) else 0


def _compared(operation: Callable[[Any, Any], Any], *, equality: bool = False, strict: bool = False) -> ColumnForm:
    """The column form of a binary comparison over inline kinds of one sort."""

    def column(*operands: Operand) -> tuple[Kind, Codes] | None:
        if len(operands) != 2:
            return None
        (left_kind, left), (right_kind, right) = operands
        if left_kind is not right_kind:
            if strict or {left_kind, right_kind} != {Kind.LONG, Kind.DOUBLE}:
                return None
            pair = _as_doubles(left_kind, left), _as_doubles(right_kind, right)
            if pair[0] is None or pair[1] is None:
                return None
            return Kind.BOOLEAN, np.asarray(operation(pair[0], pair[1])).astype(np.int64)
        if left_kind is Kind.INTERNED and not equality:
            return None
        return Kind.BOOLEAN, np.asarray(operation(left, right)).astype(np.int64)

    return column


def _as_doubles(kind: Kind, codes: Codes | int) -> Any:
    """The doubles of codes; None when a long among them has no exact double."""
    array = np.asarray(codes, dtype=np.int64)
    if kind is Kind.DOUBLE:
        return decode_doubles(array)
    if array.size and (int(array.max()) > 2**53 or int(array.min()) < -(2**53)):
        return None
    return array.astype(np.float64)


# arithmetic ----------------------------------------------------------------------------------------------------------


def _numbers(values: Iterable[Any]) -> None:
    for value in values:
        if not is_number(value):
            raise TypeError(f"needs numbers, not {a_type(value)}")


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"needs an integer, not {a_type(value)}")
    return value


def _settle(value: Any, operands: tuple[Any, ...]) -> Any:
    """A result in its type: whole ratios are integers, longs must stay in 64 bits, NaN is refused."""
    if isinstance(value, Fraction):
        value = value.numerator if value.denominator == 1 else value
    if type(value) is int and not INT64_MIN <= value <= INT64_MAX:
        if all(type(v) is not int or INT64_MIN <= v <= INT64_MAX for v in operands):
            raise OverflowError("integer overflow: the result does not fit 64 bits")
        if value.bit_length() > _MOST_BITS:
            raise OverflowError(f"integer overflow: the result has more than {_MOST_BITS // 8} bytes")
    elif isinstance(value, Fraction) and value.numerator.bit_length() + value.denominator.bit_length() > _MOST_BITS:
        raise OverflowError(f"the ratio has more than {_MOST_BITS // 8} bytes")
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError("the result is not a number (NaN)")
    return value


def _pairwise(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if type(a) is int and type(b) is int:
            return _settle(operation(a, b), (a, b))
        _numbers((a, b))
        if isinstance(a, float) or isinstance(b, float):
            return _settle(operation(float(a), float(b)), ())
        if isinstance(a, Decimal) or isinstance(b, Decimal):
            return _settle(operation(_decimal(a), _decimal(b)), ())
        return _settle(operation(a, b), (a, b))

    return apply


def _decimal(value: Any) -> Decimal:
    if isinstance(value, Fraction):
        return Decimal(value.numerator) / Decimal(value.denominator)
    return Decimal(value)


_add2, _subtract2, _multiply2 = _pairwise(operator.add), _pairwise(operator.sub), _pairwise(operator.mul)


def _divide_raw(a: Any, b: Any) -> Any:
    if isinstance(a, float):
        if b == 0.0:
            if a == 0.0:
                return math.nan
            return math.copysign(math.inf, a) * math.copysign(1.0, b)
        return a / b
    if b == 0:
        raise ZeroDivisionError("divide by zero")
    return a / b if isinstance(a, Decimal) else Fraction(a) / Fraction(b)


_divide2 = _pairwise(_divide_raw)


def _fold(pair: Callable[[Any, Any], Any], unit: int) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        if len(values) == 1:
            _numbers(values)
        total = values[0] if values else unit
        for value in values[1:]:
            total = pair(total, value)
        return total

    return apply


def _subtract(*values: Any) -> Any:
    return _subtract2(0, values[0]) if len(values) == 1 else _fold(_subtract2, 0)(*values)


def _divide(*values: Any) -> Any:
    return _divide2(1, values[0]) if len(values) == 1 else _fold(_divide2, 1)(*values)


def _quotient_raw(a: Any, b: Any) -> Any:
    if b == 0:
        raise ZeroDivisionError("divide by zero")
    if isinstance(a, float):
        return float(math.trunc(a / b))
    if isinstance(a, Decimal):
        return Decimal(math.trunc(a / b))
    quotient = abs(Fraction(a)) // abs(Fraction(b))
    return -quotient if (a < 0) != (b < 0) else quotient


_quot = _pairwise(_quotient_raw)


def _rem(a: Any, b: Any) -> Any:
    return _subtract2(a, _multiply2(_quot(a, b), b))


def _mod(a: Any, b: Any) -> Any:
    remainder = _rem(a, b)
    return _add2(remainder, b) if remainder != 0 and (remainder < 0) != (b < 0) else remainder


def _abs(value: Any) -> Any:
    _numbers((value,))
    return _settle(abs(value), (value,))


def _extreme(*, smallest: bool) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        best = values[0]
        for value in values[1:]:
            if less(value, best) if smallest else less(best, value):
                best = value
        return best

    return apply


def _arithmetic(operation: Callable[[Any, Any], Any]) -> ColumnForm:
    """The column form of + - *: longs with an overflow test through doubles, and doubles."""

    def column(*operands: Operand) -> tuple[Kind, Codes] | None:
        if len(operands) != 2:
            return None
        (left_kind, left), (right_kind, right) = operands
        if left_kind is Kind.LONG and right_kind is Kind.LONG:
            near = operation(np.asarray(left).astype(np.float64), np.asarray(right).astype(np.float64))
            if near.size and float(np.abs(near).max()) > 9.2e18:
                return None  # the scalar form decides, and names the row that overflows
            return Kind.LONG, np.asarray(operation(np.asarray(left), np.asarray(right)), dtype=np.int64)
        if {left_kind, right_kind} <= {Kind.LONG, Kind.DOUBLE}:
            pair = _as_doubles(left_kind, left), _as_doubles(right_kind, right)
            if pair[0] is None or pair[1] is None:
                return None
            with np.errstate(all="ignore"):
                result = np.asarray(operation(pair[0], pair[1]))
            return None if bool(np.isnan(result).any()) else (Kind.DOUBLE, np.atleast_1d(encode_doubles(result)))
        return None

    return column


# strings and names ---------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Char):
        raise TypeError(f"needs a string, not {a_type(value)}")
    return value


def to_text(value: Any) -> str:
    """Clojure's `str` of one value: strings as they are, nil as nothing, the rest as EDN."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | Keyword | Symbol) else write_edn(value)


def _no_check(size: int = 0) -> None:
    """The check that never raises; `size` is that of a value about to be made."""


_LARGE = 1 << 20  # characters from which on a text is counted before it is made


def _joined(separator: str, parts: list[str], check: Callable[..., None]) -> str:
    """The parts as one string, counted before it is made."""
    size = sum(map(len, parts)) + len(separator) * len(parts)
    if size > _LARGE:
        check(size)
    return separator.join(parts)


def _str(*values: Any, check: Callable[..., None] = _no_check) -> str:
    return _joined("", _texts(values, check), check)


def _subs(text: Any, start: Any, end: Any = None) -> str:
    text = _text(text)
    end = len(text) if end is None else end
    if not 0 <= start <= end <= len(text):
        raise ValueError(f"index {start} to {end} is outside a string of {len(text)} characters")
    return str(text[start:end])


def _join(*arguments: Any, check: Callable[..., None] = _no_check) -> str:
    separator, items = ("", arguments[0]) if len(arguments) == 1 else arguments
    return _joined(to_text(separator), _texts(items, check), check)


def _texts(values: Iterable[Any], check: Callable[..., None]) -> list[str]:
    """Each value as text, with a look at the clock now and then."""
    found: list[str] = []
    for value in values:
        found.append(to_text(value))
        if not len(found) % 4096:
            check()
    return found


def _split(text: Any, separator: Any, limit: int = 0, *, check: Callable[..., None] = _no_check) -> Vector:
    """Split by a regular expression; as in Clojure empty strings at the end go unless a limit is given."""
    parts = regex.split(_pattern(separator), _text(text), limit, check)
    while limit == 0 and len(parts) > 1 and parts[-1] == "":
        parts.pop()
    return Vector(parts)


def _replace(text: Any, old: Any, new: Any, *, check: Callable[..., None] = _no_check) -> str:
    if _is_pattern(old):
        return regex.replace(_pattern(old), _text(text), _text(new), check)
    text, old, new = _text(text), to_text(old), to_text(new)
    if (len(text) + 1) * len(new) > _LARGE:
        check(len(text) + text.count(old) * len(new))
    return str(text.replace(old, new))


def _name(value: Any) -> str:
    return str(value) if isinstance(value, str) else str(_named(value).name)


def _named(value: Any) -> Any:
    if isinstance(value, Keyword | Symbol):
        return value
    raise TypeError(f"needs a keyword or symbol, not {a_type(value)}")


def _keyword(*parts: Any) -> Keyword:
    if len(parts) == 1:
        return parts[0] if isinstance(parts[0], Keyword) else Keyword(str(parts[0]))
    return Keyword(f"{_text(parts[0])}/{_text(parts[1])}")


def like(text: Any, pattern: Any, *, check: Callable[..., None] = _no_check) -> bool:
    """SQL's LIKE: `%` stands for any characters, `_` for one, a backslash takes the next character as it is.

    Time grows with the product of the two lengths at worst.
    """
    text, pattern = _text(text), _text(pattern)
    tokens: list[str | None] = []  # None is %, "" is _
    escaped = False
    for character in pattern:
        if escaped or character not in "%_\\":
            tokens.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            tokens.append(None if character == "%" else "")
    at = token = 0
    retry_at = retry_token = -1
    while at < len(text):
        if token < len(tokens) and tokens[token] is None:
            retry_at, retry_token, token = at, token, token + 1
        elif token < len(tokens) and tokens[token] in ("", text[at]):
            at, token = at + 1, token + 1
        elif retry_token >= 0:
            retry_at += 1
            at, token = retry_at, retry_token + 1
            if not retry_at % 1024:
                check()
        else:
            return False
    return all(t is None for t in tokens[token:])


def _not_like(text: Any, pattern: Any, *, check: Callable[..., None] = _no_check) -> bool:
    return not like(text, pattern, check=check)


def _member(value: Any, items: Any) -> bool:
    return any(strict_equal(value, item) for item in items)


# regular expressions -------------------------------------------------------------------------------------------------


_REGEX = Symbol("regex")


def _re_pattern(value: Any) -> Tagged:
    """A checked pattern as a value: `#regex "a+"`."""
    _pattern(value)
    return value if isinstance(value, Tagged) else Tagged(_REGEX, value)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, Tagged) and value.tag == _REGEX


def _pattern(value: Any) -> regex.Regex:
    return regex.compile_pattern(_text(value.value if _is_pattern(value) else value))


def _groups(found: tuple[str | None, ...] | None) -> Any:
    """As Clojure's re-find: the match, or a vector of it and its groups."""
    if found is None:
        return None
    return found[0] if len(found) == 1 else Vector(found)


def _re_find(pattern: Any, text: Any, *, check: Callable[..., None] = _no_check) -> Any:
    return _groups(regex.find(_pattern(pattern), _text(text), check))


def _re_matches(pattern: Any, text: Any, *, check: Callable[..., None] = _no_check) -> Any:
    return _groups(regex.fullmatch(_pattern(pattern), _text(text), check))


def _re_seq(pattern: Any, text: Any, *, check: Callable[..., None] = _no_check) -> Any:
    found = [_groups(m) for m in regex.find_all(_pattern(pattern), _text(text), check)]
    return Vector(found) if found else None


# collections ---------------------------------------------------------------------------------------------------------


def _count(value: Any) -> int:
    return 0 if value is None else len(value)


def _get(collection: Any, key: Any, default: Any = None) -> Any:
    if isinstance(collection, Map | dict):
        return collection.get(key, default)
    if isinstance(collection, Set | frozenset | set):
        return key if key in collection else default
    if isinstance(collection, tuple | list | str) and type(key) is int:
        return collection[key] if 0 <= key < len(collection) else default
    return default


def _contains(collection: Any, key: Any) -> bool:
    if isinstance(collection, tuple | list | str):
        return type(key) is int and 0 <= key < len(collection)
    return collection is not None and key in collection


def _nth(collection: Any, index: Any) -> Any:
    if type(index) is not int or not 0 <= index < len(collection):
        raise ValueError(f"index {index} is outside a collection of {len(collection)}")
    return collection[index]


def _get_in(value: Any, *path: Any) -> Any:
    """The value at a path of keys and indexes inside nested data; text is read as JSON first; nil where it ends."""
    if isinstance(value, str):
        import orjson  # noqa: PLC0415 - only queries over JSON text need it

        value = canonical(orjson.loads(value))
    steps = path[0] if len(path) == 1 and isinstance(path[0], tuple | list) else path
    for step in steps:
        if isinstance(value, Map) and step not in value and isinstance(step, Keyword):
            step = str(step)[1:]  # noqa: PLW2901 - :a reaches the JSON key "a"
        value = _get(value, step)
        if value is None:
            return None
    return value


def _range(*bounds: Any) -> Vector:
    found = range(*bounds)
    if len(found) > 1_000_000:
        raise ValueError(f"a range of {len(found)} is longer than 1000000")
    return Vector(found)


def _hash_map(*items: Any) -> Map:
    if len(items) % 2:
        raise TypeError("needs keys and values in pairs")
    return Map(zip(items[::2], items[1::2], strict=True))


def _first(value: Any) -> Any:
    return next(iter(value), None) if value is not None else None


def _last(value: Any) -> Any:
    return value[-1] if value else None


def _and(*values: Any) -> Any:
    result: Any = True
    for result in values:
        if result is None or result is False:
            return result
    return result


def _or(*values: Any) -> Any:
    result: Any = None
    for result in values:
        if result is not None and result is not False:
            return result
    return result


def _falsy(value: Any) -> bool:
    return value is None or value is False


def _type(value: Any) -> Keyword:
    for test, name in _TYPE_NAMES:
        if test(value):
            return Keyword(name)
    return Keyword("other")


_TYPE_NAMES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda v: v is None, "nil"),
    (lambda v: isinstance(v, bool), "boolean"),
    (lambda v: isinstance(v, int), "integer"),
    (lambda v: isinstance(v, float), "double"),
    (lambda v: isinstance(v, Decimal), "decimal"),
    (lambda v: isinstance(v, Fraction), "ratio"),
    (lambda v: isinstance(v, Char), "character"),
    (lambda v: isinstance(v, str), "string"),
    (lambda v: isinstance(v, Keyword), "keyword"),
    (lambda v: isinstance(v, Symbol), "symbol"),
    (lambda v: isinstance(v, datetime), "instant"),
    (lambda v: isinstance(v, UUID), "uuid"),
    (lambda v: isinstance(v, bytes), "bytes"),
    (lambda v: isinstance(v, List), "list"),
    (lambda v: isinstance(v, tuple), "vector"),
    (lambda v: isinstance(v, Set), "set"),
    (lambda v: isinstance(v, Map), "map"),
    (lambda v: isinstance(v, Tagged), "tagged"),
)


def a_type(value: Any) -> str:
    """The type of a value in words: `a string`, `an integer`."""
    name = _type(value).name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if value is not None else "nil"


def _is(*names: str) -> Callable[[Any], bool]:
    return lambda value: _type(value).name in names


def _engine_only(*_arguments: Any) -> Any:
    raise TypeError("this function needs a database as its first argument")


def _rand_int(n: Any) -> int:
    import random  # noqa: PLC0415 - 2 ms that few queries need

    return random.randrange(n)  # noqa: S311 - no secret depends on it


def _rand(n: Any = 1) -> float:
    import random  # noqa: PLC0415 - as above

    return float(random.random() * n)  # noqa: S311 - no secret depends on it


# the registry --------------------------------------------------------------------------------------------------------

_EQUAL = _compared(operator.eq, equality=True, strict=True)

_TABLE: tuple[Builtin, ...] = (
    Builtin("=", 1, None, _chain(strict_equal), "equal and of the same type", _EQUAL),
    Builtin("==", 1, None, _chain(numeric_equal), "numbers equal by magnitude", _compared(operator.eq)),
    Builtin("not=", 1, None, _not_equal, "not =", _compared(operator.ne, equality=True, strict=True)),
    Builtin("!=", 1, None, _not_equal, "not =", _compared(operator.ne, equality=True, strict=True)),
    Builtin("<", 1, None, _chain(less), "in ascending order", _compared(operator.lt)),
    Builtin(">", 1, None, _chain(lambda a, b: less(b, a)), "in descending order", _compared(operator.gt)),
    Builtin("<=", 1, None, _chain(_less_equal), "ascending or equal", _compared(operator.le)),
    Builtin(">=", 1, None, _chain(lambda a, b: _less_equal(b, a)), "descending or equal", _compared(operator.ge)),
    Builtin("compare", 2, 2, compare, "-1, 0 or 1"),
    Builtin("-differ?", 0, None, lambda *v: not _same_halves(*v), "the two halves of the arguments differ"),
    Builtin("-identical?", 0, None, _same_halves, "the two halves are equal"),
    Builtin("identical?", 2, 2, strict_equal, "the same as ="),
    Builtin("+", 0, None, _fold(_add2, 0), "sum", _arithmetic(operator.add)),
    Builtin("-", 1, None, _subtract, "difference", _arithmetic(operator.sub)),
    Builtin("*", 0, None, _fold(_multiply2, 1), "product", _arithmetic(operator.mul)),
    Builtin("/", 1, None, _divide, "exact quotient"),
    Builtin("quot", 2, 2, _quot, "quotient, toward zero"),
    Builtin("rem", 2, 2, _rem, "remainder with the dividend's sign"),
    Builtin("mod", 2, 2, _mod, "remainder with the divisor's sign"),
    Builtin("inc", 1, 1, lambda v: _add2(v, 1), "plus one"),
    Builtin("dec", 1, 1, lambda v: _subtract2(v, 1), "minus one"),
    Builtin("abs", 1, 1, _abs, "magnitude"),
    Builtin("max", 1, None, _extreme(smallest=False), "the greatest argument"),
    Builtin("min", 1, None, _extreme(smallest=True), "the smallest argument"),
    Builtin("zero?", 1, 1, lambda v: is_number(v) and v == 0, "is 0"),
    Builtin("pos?", 1, 1, lambda v: is_number(v) and v > 0, "is above 0"),
    Builtin("neg?", 1, 1, lambda v: is_number(v) and v < 0, "is below 0"),
    Builtin("even?", 1, 1, lambda v: _integer(v) % 2 == 0, "is even"),
    Builtin("odd?", 1, 1, lambda v: _integer(v) % 2 == 1, "is odd"),
    Builtin("rand", 0, 1, _rand, "a random double from 0 to n", pure=False),
    Builtin("rand-int", 1, 1, _rand_int, "a random integer from 0 to n - 1", pure=False),
    Builtin("true?", 1, 1, lambda v: v is True, "is true"),
    Builtin("false?", 1, 1, lambda v: v is False, "is false"),
    Builtin("nil?", 1, 1, lambda v: v is None, "is nil"),
    Builtin("some?", 1, 1, lambda v: v is not None, "is not nil"),
    Builtin("not", 1, 1, _falsy, "is false or nil"),
    Builtin("and", 0, None, _and, "the first false or nil, else the last"),
    Builtin("or", 0, None, _or, "the first that is neither false nor nil"),
    Builtin("identity", 1, 1, lambda v: v, "its argument"),
    Builtin("ground", 1, 1, lambda v: v, "its argument"),
    Builtin("tuple", 0, None, lambda *v: Vector(v), "a vector of its arguments"),
    Builtin("untuple", 1, 1, lambda v: v, "the vector, to be bound by [?a ?b]"),
    Builtin("vector", 0, None, lambda *v: Vector(v), "a vector"),
    Builtin("list", 0, None, lambda *v: List(v), "a list"),
    Builtin("set", 0, 1, lambda v=(): Set(v or ()), "a set of a collection's members"),
    Builtin("hash-map", 0, None, _hash_map, "a map"),
    Builtin("array-map", 0, None, _hash_map, "a map"),
    Builtin("count", 1, 1, _count, "number of members or characters"),
    Builtin("empty?", 1, 1, lambda v: _count(v) == 0, "has no members"),
    Builtin("not-empty", 1, 1, lambda v: v if _count(v) else None, "its argument, nil when that is empty"),
    Builtin("contains?", 2, 2, _contains, "has the key, member or index"),
    Builtin("get", 2, 3, _get, "the value of a key or index"),
    Builtin("get-in", 2, None, _get_in, "the value at a path; text is read as JSON"),
    Builtin("json-get", 2, None, _get_in, "the value at a path inside JSON text"),
    Builtin("nth", 2, 2, _nth, "the member at an index"),
    Builtin("first", 1, 1, _first, "the first member"),
    Builtin("last", 1, 1, _last, "the last member"),
    Builtin("range", 1, 3, _range, "a vector of integers"),
    Builtin("in", 2, 2, _member, "is a member of the collection"),
    Builtin("not-in", 2, 2, lambda v, items: not _member(v, items), "is no member"),
    Builtin("like", 2, 2, like, "SQL's LIKE with % and _", checked=True),
    Builtin("not-like", 2, 2, _not_like, "not like", checked=True),
    Builtin("str", 0, None, _str, "the arguments as one string", checked=True),
    Builtin("pr-str", 0, None, lambda *v: " ".join(map(write_edn, v)), "the arguments as EDN"),
    Builtin("subs", 2, 3, _subs, "part of a string"),
    Builtin("upper-case", 1, 1, lambda v: _text(v).upper(), "in capitals"),
    Builtin("lower-case", 1, 1, lambda v: _text(v).lower(), "in small letters"),
    Builtin("capitalize", 1, 1, lambda v: _text(v).capitalize(), "first letter large, others small"),
    Builtin("trim", 1, 1, lambda v: _text(v).strip(), "without white space at both ends"),
    Builtin("triml", 1, 1, lambda v: _text(v).lstrip(), "without white space at the start"),
    Builtin("trimr", 1, 1, lambda v: _text(v).rstrip(), "without white space at the end"),
    Builtin("trim-newline", 1, 1, lambda v: _text(v).rstrip("\r\n"), "without line ends at the end"),
    Builtin("reverse", 1, 1, lambda v: _text(v)[::-1], "characters in reverse"),
    Builtin("blank?", 1, 1, lambda v: v is None or not _text(v).strip(), "is nil, empty or white space"),
    Builtin("starts-with?", 2, 2, lambda t, p: _text(t).startswith(_text(p)), "starts with"),
    Builtin("ends-with?", 2, 2, lambda t, p: _text(t).endswith(_text(p)), "ends with"),
    Builtin("includes?", 2, 2, lambda t, p: _text(p) in _text(t), "has the part"),
    Builtin(
        "index-of", 2, 2, lambda t, p: i if (i := _text(t).find(_text(p))) >= 0 else None, "first position, or nil"
    ),
    Builtin("split", 2, 3, _split, "parts between matches of a regular expression", checked=True),
    Builtin("split-lines", 1, 1, lambda v: Vector(_text(v).splitlines()), "the lines"),
    Builtin("join", 1, 2, _join, "members as one string, with a separator", checked=True),
    Builtin("replace", 3, 3, _replace, "with every occurrence replaced", checked=True),
    Builtin("keyword", 1, 2, _keyword, "a keyword of a name, or of namespace and name"),
    Builtin("name", 1, 1, _name, "the name of a keyword or symbol"),
    Builtin("namespace", 1, 1, lambda v: _named(v).ns, "the namespace, or nil"),
    Builtin("type", 1, 1, _type, "the type as a keyword"),
    Builtin("re-pattern", 1, 1, _re_pattern, "a compiled regular expression"),
    Builtin("re-find", 2, 2, _re_find, "the first match", checked=True),
    Builtin("re-matches", 2, 2, _re_matches, "the match of the whole string", checked=True),
    Builtin("re-seq", 2, 2, _re_seq, "all matches", checked=True),
    Builtin("number?", 1, 1, is_number, "is a number"),
    Builtin("integer?", 1, 1, _is("integer"), "is an integer"),
    Builtin("int?", 1, 1, _is("integer"), "is an integer"),
    Builtin("float?", 1, 1, _is("double"), "is a double"),
    Builtin("double?", 1, 1, _is("double"), "is a double"),
    Builtin("decimal?", 1, 1, _is("decimal"), "is a decimal"),
    Builtin("ratio?", 1, 1, _is("ratio"), "is a ratio"),
    Builtin("string?", 1, 1, _is("string"), "is a string"),
    Builtin("keyword?", 1, 1, _is("keyword"), "is a keyword"),
    Builtin("symbol?", 1, 1, _is("symbol"), "is a symbol"),
    Builtin("boolean?", 1, 1, _is("boolean"), "is true or false"),
    Builtin("char?", 1, 1, _is("character"), "is a character"),
    Builtin("uuid?", 1, 1, _is("uuid"), "is a uuid"),
    Builtin("inst?", 1, 1, _is("instant"), "is an instant"),
    Builtin("bytes?", 1, 1, _is("bytes"), "is bytes"),
    Builtin("vector?", 1, 1, _is("vector"), "is a vector"),
    Builtin("list?", 1, 1, _is("list"), "is a list"),
    Builtin("map?", 1, 1, _is("map"), "is a map"),
    Builtin("set?", 1, 1, _is("set"), "is a set"),
    Builtin("coll?", 1, 1, _is("vector", "list", "map", "set"), "is a collection"),
    Builtin("sequential?", 1, 1, _is("vector", "list"), "is a vector or list"),
    Builtin("get-else", 4, 4, _engine_only, "the value of an attribute, or a default", source=True),
    Builtin("get-some", 3, None, _engine_only, "[attribute value] of the first attribute there", source=True),
    Builtin("missing?", 3, 3, _engine_only, "the entity has no such attribute", source=True),
)

BUILTINS: dict[str, Builtin] = {b.name: b for b in _TABLE}


class Registry:
    """Callables that a program registered by name, looked up after the built-ins. A name may be registered anew.

    Attributes:
        version: grows with every registration; a plan that holds callables is right for one version.
    """

    def __init__(self) -> None:
        self._found: dict[str, Builtin] = {}
        self.version = 0

    def register(self, name: str, function: Callable[..., Any]) -> None:
        """Make a callable known to query texts, as predicate, function, aggregate and `:xform`.

        Raises:
            ValueError: the name is a built-in's, or is no plain symbol.
        """
        if name in BUILTINS:
            raise ValueError(f"{name} is a built-in function")
        if not name or name[0] in "?$%:" or any(c.isspace() or c in '()[]{}"' for c in name):
            raise ValueError(f"{name!r} cannot be written as the name of a function in a query")
        self._found = {**self._found, name: Builtin(name, 0, None, function, function.__doc__ or "")}
        self.version += 1

    def find(self, name: str) -> Builtin | None:
        """The registered callable of a name (its `scalar`), or None."""
        return self._found.get(name)

    def names(self) -> list[str]:
        """All registered names."""
        return list(self._found)


# The one piece of module state in this package: `d.register` is a free function by contract, and a registered name must be
# known to every later query of the process. It is only ever added to, by replacing the dictionary as a whole.
REGISTERED = Registry()


def find_function(name: str) -> Builtin | None:
    """The built-in or registered callable of a name, or None; `clojure.string/x` and `clojure.core/x` mean `x`."""
    found = BUILTINS.get(name) or REGISTERED.find(name)
    if found is None and name.startswith(("clojure.string/", "clojure.core/", "str/")):
        return BUILTINS.get(name.split("/", 1)[1])
    return found


def function_names() -> list[str]:
    """Every name that a query text can call."""
    return [*BUILTINS, *REGISTERED.names()]
