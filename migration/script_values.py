"""Values of an attribute brought to another type, or to one for each entity: what goes where, and a report of what does not.

Takes values, gives values; writes nothing. A report names every distinct value that does not fit, how many entities have
it, some of them, and why. `using` maps old values to new ones, and to nil those that are to be left out.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from store.edn import Keyword, Map, Symbol, show_form, strict_key, write_edn
from store.errors import DatalogError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LEFT_OUT", "ValueReport", "convert", "converter", "pick"]

_SHOWN: Final = 20
_EIDS: Final = 5
_EPOCH: Final = dt.datetime.fromtimestamp(0, dt.UTC)


class _LeftOut:
    """The marker for a value that a conversion leaves out."""


LEFT_OUT: Final = _LeftOut()


@dataclass(slots=True)
class ValueReport:
    """Values that do not fit, by their EDN: how many, of which entities, why. Raised as one error when there are any."""

    attribute: str
    wanted: str
    rows: dict[str, tuple[int, list[int], str]] = field(default_factory=dict)

    def add(self, e: int, value: Any, why: str) -> None:
        """Notes that entity `e` has a value that does not fit."""
        shown = show_form(value)
        count, eids, first = self.rows.get(shown, (0, [], why))
        self.rows[shown] = (count + 1, [*eids, e] if len(eids) < _EIDS else eids, first)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "attribute": self.attribute,
            "wanted": self.wanted,
            "values": [
                {"value": value, "count": count, "entities": eids, "why": why}
                for value, (count, eids, why) in self.rows.items()
            ],
        }

    def raise_if_any(self, hint: str) -> None:
        """Raises `script/values` with all rows, if there are any."""
        if not self.rows:
            return
        total = sum(count for count, _, _ in self.rows.values())
        lines = [
            f"  {value}  x {count:,}, of {', '.join(map(str, eids))}{' ...' if count > len(eids) else ''}: {why}"
            for value, (count, eids, why) in list(self.rows.items())[:_SHOWN]
        ]
        if len(self.rows) > _SHOWN:
            lines.append(f"  and {len(self.rows) - _SHOWN:,} more values")
        first = f"{self.attribute}: {total:,} datoms of {len(self.rows):,} values cannot become {self.wanted}."
        raise UserError("script/values", "\n".join((first, *lines)), hint=hint, data=self.as_dict())


def _to_long(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return int(value.strip().replace("_", "")) if value.strip() else _unfit()
    if isinstance(value, float | Decimal | Fraction):
        return int(value) if value == int(value) else _unfit("it has a fraction")
    if isinstance(value, int):
        return value
    if isinstance(value, dt.datetime):
        milliseconds, rest = divmod(value - _EPOCH, dt.timedelta(milliseconds=1))
        return _unfit("it has a part of a millisecond") if rest else milliseconds
    return _unfit()


def _to_double(value: Any) -> Any:
    if isinstance(value, str):
        return float(value.strip())
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if int(float(value)) == value else _unfit("a double cannot hold it exactly")
    return float(value) if isinstance(value, float | Decimal | Fraction) else _unfit()


def _to_decimal(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return _unfit()
    return Decimal(value.strip() if isinstance(value, str) else value)


def _to_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    text = value.strip().lower() if isinstance(value, str) else str(value) if type(value) is int else ""
    return known[text] if text in known else _unfit("neither true, yes, 1 nor false, no, 0")


def _to_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Keyword):
        return str(value)[1:]
    if isinstance(value, UUID | Symbol | Decimal):
        return str(value)
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return write_edn(value)


def _to_instant(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, str):
        read = dt.datetime.fromisoformat(value.strip())
        return read if read.tzinfo is not None else read.replace(tzinfo=dt.UTC)
    if isinstance(value, int) and not isinstance(value, bool):
        return _EPOCH + dt.timedelta(milliseconds=value)
    return _unfit()


def _to_keyword(value: Any) -> Any:
    if isinstance(value, Keyword):
        return value
    text = str(value).strip().lstrip(":").replace(" ", "-") if isinstance(value, str | Symbol) else ""
    return _readable(Keyword(text)) if text else _unfit()


def _readable(name: Keyword | Symbol) -> Any:
    """The name, when it is one that text can hold; else EdnError."""
    write_edn(name)
    return name


def _unfit(why: str = "there is no conversion from this kind of value") -> Any:
    raise ValueError(why)


_TO: Final[dict[str, Callable[[Any], Any]]] = {
    "long": _to_long,
    "bigint": _to_long,
    "double": _to_double,
    "bigdec": _to_decimal,
    "boolean": _to_boolean,
    "string": _to_string,
    "instant": _to_instant,
    "keyword": _to_keyword,
    "symbol": lambda v: _readable(Symbol(_to_string(v))),
    "uuid": lambda v: v if isinstance(v, UUID) else UUID(_to_string(v)),
    "ref": lambda v: v if type(v) is int and v > 0 else _unfit("no entity id"),
}


def converter(type_name: str) -> Callable[[Any], Any]:
    """The built-in conversion to a type ("long"): value in, value out, ValueError when there is none."""
    return _TO.get(type_name, lambda value: value)


def convert(
    datoms: Iterable[tuple[int, Any]],
    report: ValueReport,
    function: Callable[[Any], Any],
    using: Mapping[Any, Any] | None = None,
) -> tuple[list[int], list[Any]]:
    """(eids, new values) of (eid, value) pairs; what does not fit is added to the report, what is left out is dropped."""
    eids: list[int] = []
    values: list[Any] = []
    table = using if using is None or isinstance(using, Map) else Map(using.items())  # type-strict: 1 is not true
    for e, value in datoms:
        if table is not None and value in table:
            new = table[value]
        else:
            try:
                new = function(value)
            except (ValueError, TypeError, ArithmeticError, InvalidOperation, DatalogError, LookupError) as x:
                report.add(e, value, str(x).partition("\n")[0] or type(x).__name__)
                continue
        if new is not None and new is not LEFT_OUT:
            eids.append(e)
            values.append(new)
    return eids, values


def pick(
    datoms: Iterable[tuple[int, Any, int]], keep: str | Callable[[list[Any]], Any] | None, report: ValueReport
) -> list[tuple[int, Any]]:
    """The (eid, value) pairs to be retracted so that one value of each entity is left.

    `keep`: "latest" (by transaction), "min", "max", or a function of the values, oldest first; None: nothing is chosen,
    every entity with several values goes into the report.
    """
    of: dict[int, list[tuple[int, Any]]] = {}
    for e, value, tx in datoms:
        of.setdefault(e, []).append((tx, value))
    out: list[tuple[int, Any]] = []
    for e, held in of.items():
        if len(held) == 1:
            continue
        held.sort(key=lambda pair: pair[0])
        values = [value for _, value in held]
        if keep is None:
            report.add(e, values, "several values, and nothing says which one to keep")
            continue
        if keep == "latest":
            if held[-1][0] == held[-2][0]:
                report.add(e, values, "the latest two came with one transaction")
                continue
            kept = values[-1]
        elif callable(keep):
            kept = keep(values)
        else:
            try:
                kept = min(values) if keep == "min" else max(values)
            except TypeError:
                report.add(e, values, "these values have no order")
                continue
        key = strict_key(kept)
        if all(strict_key(v) != key for v in values):
            report.add(e, values, f"{show_form(kept)} is none of them")
            continue
        out += [(e, v) for v in values if strict_key(v) != key]
    return out
