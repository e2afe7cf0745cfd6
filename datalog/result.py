"""Result: the answer of a query that asks for rows. Columnar inside, Python objects made on demand.

A result holds no snapshot: the distinct interned values that reached the answer are decoded when it is made, rows are
zipped together when someone looks at them. It is a sequence of tuples, immutable, and offers its columns to polars, pandas,
DuckDB and pyarrow through the Arrow PyCapsule interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from datalog import kernels
from datalog.maps import maps_of
from store.edn import show_form, strict_key, write_edn
from store.errors import QueryError
from store.value import Kind, canonical, decode_doubles, decode_inline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datalog.relation import Codes, Column

_SHOWN_ROWS = 12
_HTML_ROWS = 50


class ResultColumn:
    """One column: inline codes; or positions in a table of values; or a list of values."""

    __slots__ = ("_codes", "_kind", "_list", "_position", "_table")

    def __init__(self, column: Column | None, codes: Codes | None, values: list[Any] | None = None) -> None:
        self._list = values
        self._codes: Any = None
        self._kind = Kind.INTERNED
        self._table: list[Any] = []
        self._position: Any = None
        if column is None:
            return
        self._kind = column.kind
        self._codes = column.codes
        if column.kind is Kind.INTERNED:
            assert codes is not None
            if column.codes.size < 64:
                self._list = codes.decode_many(column.codes)
            else:
                unique, self._position = kernels.inverse(column.codes)
                self._table = codes.decode_many(unique)
            self._codes = None

    def values(self) -> list[Any]:
        """The values, made once."""
        if self._list is None:
            if self._codes is not None:
                self._list = decode_inline(self._kind, self._codes)
            else:
                self._list = list(map(self._table.__getitem__, self._position.tolist()))
        return self._list

    def array(self) -> Any:
        """The column as numpy: int64, float64, bool, datetime64[us], or objects."""
        if self._codes is None:
            result = np.empty(len(self.values()), dtype=object)
            result[:] = self.values()
            return result
        if self._kind is Kind.DOUBLE:
            return decode_doubles(self._codes)
        if self._kind is Kind.INSTANT:
            return self._codes.view("datetime64[us]")
        return self._codes != 0 if self._kind is Kind.BOOLEAN else self._codes.copy()

    def arrow(self) -> Any:
        """(nanoarrow schema, values) of the column: strings stay strings, values Arrow has no type for become EDN text."""
        import nanoarrow  # noqa: PLC0415 - the extra `arrow`

        if self._codes is not None:
            schema = {
                Kind.LONG: nanoarrow.int64(),
                Kind.DOUBLE: nanoarrow.float64(),
                Kind.BOOLEAN: nanoarrow.bool_(),
                Kind.INSTANT: nanoarrow.timestamp("us", timezone="UTC"),
            }[self._kind]
            if self._kind in (Kind.LONG, Kind.INSTANT):
                return nanoarrow.c_array(np.ascontiguousarray(self._codes).view(np.int64), nanoarrow.int64()), schema
            return nanoarrow.c_array(self.array(), schema), schema
        values = self.values()
        types = {type(v) for v in values if v is not None}
        if types <= {str}:
            return nanoarrow.c_array(values, nanoarrow.string()), nanoarrow.string()
        if types == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
            return nanoarrow.c_array(values, nanoarrow.int64()), nanoarrow.int64()
        if types == {float}:
            return nanoarrow.c_array(values, nanoarrow.float64()), nanoarrow.float64()
        texts = [v if v is None or isinstance(v, str) else write_edn(v) for v in values]
        return nanoarrow.c_array(texts, nanoarrow.string()), nanoarrow.string()


class Result(Sequence[tuple[Any, ...]]):
    """The rows of an answer, distinct (but see :with), as a sequence of tuples.

    Order is that of `:order-by`, else any. `columns` names the columns: variables without their question mark, expressions
    as written. Equality is type-strict: 1, 1.0 and True differ; against a set, and against a list when the query has no
    `:order-by`, order does not matter.
    """

    __slots__ = ("_columns", "_length", "_ordered", "_rows", "columns")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, names: tuple[str, ...], columns: list[ResultColumn], length: int, *, ordered: bool = False
    ) -> None:
        self.columns = names
        self._columns = columns
        self._length = length
        self._ordered = ordered
        self._rows: list[tuple[Any, ...]] | None = None

    def _all(self) -> list[tuple[Any, ...]]:
        if self._rows is None:
            self._rows = list(zip(*(c.values() for c in self._columns), strict=True)) if self._length else []
        return self._rows

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        return self._all()[index]

    def __contains__(self, row: object) -> bool:
        wanted = _strict(row)
        return any(_strict(r) == wanted for r in self._all())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AbstractSet):
            mine = {_strict(r) for r in self._all()}
            return len(mine) == len(other) and mine == {_strict(r) for r in other}
        if not isinstance(other, Result | list | tuple):
            return NotImplemented
        if len(other) != self._length:
            return False
        if self._ordered or (isinstance(other, Result) and other._ordered):
            return all(_strict(a) == _strict(b) for a, b in zip(self._all(), other, strict=True))
        counts: dict[Any, int] = {}
        for row in self._all():
            key = _strict(row)
            counts[key] = counts.get(key, 0) + 1
        for row in other:
            key = _strict(row)
            counts[key] = counts.get(key, 0) - 1
        return not any(counts.values())

    def column(self, name: str | int) -> list[Any]:
        """The values of one column, by name or number."""
        return list(self._columns[self._number(name)].values())

    def array(self, name: str | int) -> Any:
        """One column as a numpy array: int64, float64, bool, datetime64[us] (UTC), or objects."""
        return self._columns[self._number(name)].array()

    def _number(self, name: str | int) -> int:
        if isinstance(name, int):
            return name
        return self.columns.index(name.removeprefix("?"))

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as dicts from column names to values."""
        if not self.columns:
            return [{} for _ in self._all()]
        return maps_of(self.columns, [column.values() for column in self._columns])

    def one(self) -> tuple[Any, ...]:
        """The only row.

        Raises:
            QueryError: `result/one` when there are none or several; the message says how many.
        """
        if self._length != 1:
            shown = "; ".join(show_form(row) for row in self._all()[:2])
            raise QueryError(
                "result/one",
                f"one() needs exactly one row, and there are {self._length or 'none'}"
                + (f": {shown}, ..." if shown else "."),
                hint="first() gives the first row or None; :limit 1 asks for no more"
                if self._length
                else "first() gives None when there is no row",
            )
        return self._all()[0]

    def first(self) -> tuple[Any, ...] | None:
        """The first row, or None when there is none. Without `:order-by` any row may be the first."""
        return self._all()[0] if self._length else None

    def df(self, library: str | None = None) -> Any:
        """The rows as a data frame of pandas or polars, whichever is installed; `df("polars")` chooses.

        Numbers, booleans and instants (UTC) become typed columns. pandas keeps other values as Python objects; polars gets
        strings as they are and everything else as EDN text.

        Raises:
            UserError: `result/frame` when there is no such library, or it is not installed.
        """
        from datalog.frames import frame  # noqa: PLC0415 - only who asks for frames pays for them

        return frame(_unique(self.columns), [c.array() for c in self._columns], library)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows as an Arrow stream of one batch; needs the extra `arrow` (nanoarrow)."""
        import nanoarrow  # noqa: PLC0415 - as said
        from nanoarrow.c_array import c_array_from_buffers  # noqa: PLC0415 - as above

        arrays = [c.arrow() for c in self._columns]
        schema = nanoarrow.struct(dict(zip(_unique(self.columns), (s for _, s in arrays), strict=True)))
        batch = c_array_from_buffers(schema, self._length, [None], children=[a for a, _ in arrays])
        stream = nanoarrow.c_array_stream(batch)
        return stream.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        shown = [repr(row) for row in self._all()[:_SHOWN_ROWS]]
        head = f"<Result {self._length} row{'' if self._length == 1 else 's'}: {', '.join(self.columns)}>"
        lines = [f"  {row}" for row in shown]
        if self._length > _SHOWN_ROWS:
            lines.append(f"  ... {self._length - _SHOWN_ROWS} more")
        return "\n".join([head, *lines])

    def _repr_html_(self) -> str:
        import html  # noqa: PLC0415 - 3 ms that only notebooks need

        head = "".join(f"<th>{html.escape(n)}</th>" for n in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>"
            for row in self._all()[:_HTML_ROWS]
        )
        more = f"<p>{self._length - _HTML_ROWS} more rows</p>" if self._length > _HTML_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class KeyedRow(dict[Any, Any]):
    """A row under `:keys`: keys are ":name" strings; a Keyword or the bare name finds them too."""

    def __missing__(self, key: Any) -> Any:
        text = _key_text(key)
        if dict.__contains__(self, text):
            return self[text]
        raise KeyError(key)

    def __contains__(self, key: Any) -> bool:
        return dict.__contains__(self, key) or dict.__contains__(self, _key_text(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key in any of its forms, or the default."""
        return dict.get(self, key, dict.get(self, _key_text(key), default))


def _key_text(key: Any) -> str:
    text = str(key)
    return text if text[:1] == ":" else f":{text}"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _unique(names: tuple[str, ...]) -> list[str]:
    """The names with a number behind those that stood before."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _strict(row: Any) -> Any:
    """A key of a row that equals another exactly when all values are of the same type and equal."""
    if isinstance(row, tuple | list):
        return tuple(strict_key(canonical(v)) for v in row)
    return strict_key(row)
