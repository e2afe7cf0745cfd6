"""Types of columns of text: which type all cells of a column have, and the values they stand for.

A type is inferred only when nothing is lost by it: every cell, written back, is the cell again, or (double, instant) an
equal one. So `007` and `+1` stay strings, and so does a column in which one cell of a million is no number; `infer` tells
which cell that was. Empty cells say nothing.

    boolean    true false (any case)
    long       as Python writes integers, within 64 bits; beyond them bigint
    double     digits with a point or an exponent, no leading zeros; no nan, no inf
    instant    2024-05-01, 2024-05-01T10:30 (:ss .ffffff, Z or an offset); without an offset UTC
    uuid       8-4-4-4-12 hexadecimal digits, lower case
    keyword    :name or :space/name
    string     anything
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from store.edn import Keyword, Symbol, read_edn
from store.errors import EdnError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TYPES", "Inferred", "convert", "infer", "of_text"]

_NUMBER_CHARS: Final = frozenset("0123456789+-.eE\n")
_LEADING_ZERO: Final = re.compile(r"^[+-]?0[0-9]", re.MULTILINE)
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?\Z"
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_SAMPLE: Final = 20_000  # cells that tell whether texts are repeated
_NEARLY: Final = 0.9  # of the cells fit a type: then the first that does not is worth a word


class Inferred(NamedTuple):
    """The type of a column and its values; `spoilt` tells why a type that most cells have was not taken."""

    type: str
    values: list[Any]
    spoilt: tuple[str, int] | None = None  # (the type, position of the first cell that does not fit)


def infer(column: Sequence[str]) -> Inferred:
    """The narrowest type that all cells (none of them empty) of a column have, and their values."""
    sample = column[:_SAMPLE]
    few = len(set(sample)) * 2 <= len(sample)
    # dates and categories come again and again: each text is looked at once
    cells = list(dict.fromkeys(column)) if few else column
    for name in _ORDER:
        values = _ALL[name](cells)
        if values is not None:
            if few:
                of = dict(zip(cells, values, strict=True))
                values = [of[cell] for cell in column]
            return Inferred(name, values)
    return Inferred("string", list(column), _spoilt(column))


def _spoilt(column: Sequence[str]) -> tuple[str, int] | None:
    """The type that nearly all cells have, and the first cell that has not."""
    step = max(len(column) // 200, 1)
    sample = column[::step][:200]
    for name in _ORDER:
        fits = sum(_ALL[name]([cell]) is not None for cell in sample)
        if len(sample) > 1 and fits >= _NEARLY * len(sample):
            return name, next(i for i, cell in enumerate(column) if _ALL[name]([cell]) is None)
    return None


def _booleans(column: Sequence[str]) -> list[Any] | None:
    words = {cell: cell.lower() for cell in set(column[:100])}
    if not all(word in ("true", "false") for word in words.values()):
        return None
    lowered = [cell.lower() for cell in column]
    return [cell == "true" for cell in lowered] if set(lowered) <= {"true", "false"} else None


def _integers(column: Sequence[str]) -> list[int] | None:
    try:
        values = list(map(int, column))
    except ValueError:
        return None
    return values if list(map(str, values)) == list(column) else None


def _longs(column: Sequence[str]) -> list[Any] | None:
    values = _integers(column)
    return values if values is None or (min(values) >= -(2**63) and max(values) < 2**63) else None


def _doubles(column: Sequence[str]) -> list[Any] | None:
    try:
        values = list(map(float, column))
    except ValueError:
        return None
    text = "\n".join(column)
    if not _NUMBER_CHARS.issuperset(text) or _LEADING_ZERO.search(text) or text.count("\n") >= len(column):
        return None
    return None if any(v in (float("inf"), float("-inf")) for v in values) else values


def _instants(column: Sequence[str]) -> list[Any] | None:
    if not all(map(_INSTANT.match, column)):
        return None
    try:
        return list(map(_instant, column))
    except ValueError:  # February 30
        return None


def _instant(cell: str) -> datetime:
    found = datetime.fromisoformat(cell)
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError as e:  # the year 0 or 10000 in UTC
        raise ValueError(cell) from e


def _uuids(column: Sequence[str]) -> list[Any] | None:
    return list(map(UUID, column)) if all(map(_UUID.match, column)) else None


def _keywords(column: Sequence[str]) -> list[Any] | None:
    if not all(cell[:1] == ":" for cell in column):
        return None
    try:
        values = {cell: read_edn(cell) for cell in set(column)}
    except EdnError:
        return None
    return [values[cell] for cell in column] if all(type(v) is Keyword for v in values.values()) else None


_ALL: Final[dict[str, Callable[[Sequence[str]], list[Any] | None]]] = {
    "boolean": _booleans,
    "long": _longs,
    "bigint": _integers,
    "double": _doubles,
    "instant": _instants,
    "uuid": _uuids,
    "keyword": _keywords,
}
_ORDER: Final = tuple(_ALL)


# declared types ------------------------------------------------------------------------------------------------------


def convert(column: Sequence[Any], type_name: str) -> list[Any]:
    """The values of a column whose type is declared; cells that are no text are left as they are.

    Raises:
        UserError: `import/value` for the first cell that is no value of the type; `data["row"]` is its position.
    """
    if all(type(cell) is str for cell in column):
        quick = _ALL.get(type_name)
        values = quick(column) if quick is not None else list(column) if type_name == "string" else None
        if values is not None:
            return values
    found = []
    for row, cell in enumerate(column):
        try:
            found.append(of_text(cell, type_name) if isinstance(cell, str) else cell)
        except (ValueError, InvalidOperation, EdnError) as e:
            raise UserError(
                "import/value",
                f"{_shown(cell)} is no {type_name}.",
                expected=_EXPECTED.get(type_name),
                data={"row": row},
            ) from e
    return found


def of_text(cell: str, type_name: str) -> Any:
    """The value of a type that a text stands for; raises ValueError, InvalidOperation or EdnError when there is none."""
    parse = _PARSE.get(type_name)
    return read_edn(cell) if parse is None else parse(cell)


def _boolean(cell: str) -> bool:
    word = cell.strip().lower()
    if word not in ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"):
        raise ValueError(cell)
    return word in ("true", "yes", "t", "y", "1")


def _double(cell: str) -> float:
    value = float(cell)
    if value != value or value in (float("inf"), float("-inf")) or "_" in cell:  # noqa: PLR0124 - NaN
        raise ValueError(cell)
    return value


def _integer(cell: str) -> int:
    if "_" in cell:
        raise ValueError(cell)
    return int(cell.removesuffix("N"))


def _decimal(cell: str) -> Decimal:
    value = Decimal(cell.removesuffix("M"))
    if "_" in cell or not value.is_finite():
        raise ValueError(cell)
    return value


def _any_instant(cell: str) -> Any:
    return read_edn(cell) if cell.startswith("#inst") else _instant(cell.strip())


def _uuid(cell: str) -> Any:
    return read_edn(cell) if cell.startswith("#uuid") else UUID(cell.strip())


def _keyword(cell: str) -> Any:
    found = read_edn(cell if cell.startswith(":") else f":{cell}")
    if type(found) is not Keyword:
        raise ValueError(cell)
    return found


def _symbol(cell: str) -> Any:
    found = read_edn(cell)
    if type(found) is not Symbol:
        raise ValueError(cell)
    return found


def _bytes(cell: str) -> Any:
    return read_edn(cell) if cell.startswith("#") else bytes.fromhex(cell)


_PARSE: Final[dict[str, Callable[[str], Any]]] = {
    "string": str,
    "boolean": _boolean,
    "long": _integer,
    "bigint": _integer,
    "ref": _integer,
    "double": _double,
    "bigdec": _decimal,
    "instant": _any_instant,
    "uuid": _uuid,
    "keyword": _keyword,
    "symbol": _symbol,
    "bytes": _bytes,
}
TYPES: Final = (*_PARSE, "tuple", "any")
_EXPECTED: Final = {
    "boolean": "true or false",
    "long": "an integer such as -12",
    "double": "a number such as 1.5",
    "bigdec": "a decimal such as 1.50",
    "instant": "a time such as 2024-05-01 or 2024-05-01T10:30:00Z",
    "keyword": "a keyword such as :active",
    "ref": "an entity id",
}


def _shown(cell: object) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else text[:59] + "…"
