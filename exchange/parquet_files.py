"""Parquet and Arrow files, read as a `Source` and written from rows; needs the extra `parquet` (pyarrow).

Columns of numbers and times go from Arrow's memory to the database as arrays. A NaN is no value: it is left out, and a note
says how many there were.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from exchange.files import read_file
from exchange.records import from_records
from exchange.source import Column, Source, check_named, unique_idents
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["read_arrow", "write_arrow"]


def _pyarrow() -> Any:
    try:
        import pyarrow  # noqa: ICN001, PLC0415 - the extra `parquet`
    except ImportError as e:
        raise UserError(
            "import/pyarrow",
            "Parquet and Arrow files need the package pyarrow.",
            hint="pip install 'datalog-lmdb[parquet]'",
        ) from e
    return pyarrow


def read_arrow(
    path: Path, space: str, form: str, *, names: dict[str, str] | None = None, skip: Sequence[str] = ()
) -> Source:
    """The columns of a Parquet file, or of an Arrow IPC file, as `form` says: "parquet" or "arrow". `.gz` is unpacked.

    Raises:
        UserError: `import/pyarrow` without the extra, `import/arrow` for a file that is not of its format, `import/column`
            for a name in `names` or `skip` that it does not have, `import/value` for a time that is out of range.
    """
    arrow = _pyarrow()
    import pyarrow.feather  # noqa: PLC0415 - as said
    import pyarrow.parquet  # noqa: PLC0415 - the same

    if not path.is_file():
        raise UserError("file/read", f"The table {path} cannot be read: it is no file.", hint="check the path")
    packed = io.BytesIO(read_file(path, "The table")) if path.suffix == ".gz" else str(path)
    try:
        reader = pyarrow.parquet.read_table if form == "parquet" else pyarrow.feather.read_table
        table = reader(packed)
    except (arrow.ArrowException, OSError, ValueError) as e:
        raise UserError(
            "import/arrow", f"{path} cannot be read: {str(e).splitlines()[0]}", expected="a Parquet or Arrow IPC file"
        ) from e
    check_named(table.column_names, (*skip, *(names or ())), str(path))
    columns = [name for name in table.column_names if name not in skip]
    idents = unique_idents(columns, space, names or {}, str(path))

    def place(row: int) -> str:
        return f"{path}, row {row + 1}"

    notes: list[str] = []
    found: list[Column] = []
    nested: list[str] = []
    for name in columns:
        made = _column(name, idents[name], table.column(name).combine_chunks(), arrow, notes)
        if made is None:
            nested.append(name)
        elif len(made.entities):
            found.append(made)
    source = Source(found, table.num_rows, table.num_rows, place, notes)
    if nested and table.num_rows:  # lists, structs: value by value
        more = from_records(table.select(nested).to_pylist(), space, place, {name: idents[name] for name in nested})
        source.columns += more.columns
        source.entities = more.entities
        source.notes += more.notes
    return source


def _column(name: str, ident: str, data: Any, arrow: Any, notes: list[str]) -> Column | None:
    """One column; None for types whose values have parts."""
    kind, types = data.type, arrow.types
    if types.is_dictionary(kind):
        data = data.dictionary_decode()
        kind = data.type
    if types.is_nested(kind):
        return None
    entities = np.arange(len(data), dtype=np.int64)
    if types.is_floating(kind):
        whole = data.to_numpy(zero_copy_only=False).astype(np.float64)
        valid = ~np.isnan(whole)
        lost = int(np.count_nonzero(~valid)) - data.null_count
        if lost:
            notes.append(f"{name}: {lost:,} values are NaN, which is no value: they are left out")
        return Column(name, ident, entities[valid], whole[valid], "double")
    if data.null_count:
        entities = entities[data.is_valid().to_numpy(zero_copy_only=False)]
        data = data.drop_null()
    if types.is_null(kind):
        return Column(name, ident, entities, [], "any")
    if types.is_boolean(kind):
        return Column(name, ident, entities, data.to_numpy(zero_copy_only=False).astype(bool), "boolean")
    if types.is_integer(kind):
        numbers = data.to_numpy(zero_copy_only=False)
        if numbers.dtype == np.uint64 and len(numbers) and int(numbers.max()) >= 2**63:
            return Column(name, ident, entities, numbers.tolist(), "bigint")
        return Column(name, ident, entities, numbers.astype(np.int64), "long")
    if types.is_timestamp(kind) or types.is_date(kind):
        fine = types.is_timestamp(kind) and kind.unit == "ns"
        try:
            micro = data.cast(arrow.timestamp("us", tz=getattr(kind, "tz", None)), safe=not fine)
        except arrow.ArrowInvalid as e:
            raise UserError(
                "import/value", f"{name} has a time that is too far away: {e}.", expected="the years 1 to 9999"
            ) from e
        if fine and not micro.cast(kind, safe=False).equals(data):
            notes.append(f"{name}: nanoseconds are cut to microseconds")
        times = micro.cast(arrow.int64()).to_numpy(zero_copy_only=False).view("datetime64[us]")
        return Column(name, ident, entities, times, "instant")
    if types.is_string(kind) or types.is_large_string(kind):
        return Column(name, ident, entities, data.to_pylist(), "string")
    if types.is_decimal(kind):
        return Column(name, ident, entities, data.to_pylist(), "bigdec")
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return Column(name, ident, entities, data.to_pylist(), "bytes")
    notes.append(f"{name}: values of the type {kind} are kept as text")
    return Column(name, ident, entities, [str(v) for v in data.to_pylist()], "string")


def write_arrow(out: BinaryIO, suffix: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows as a Parquet or Arrow IPC file; values that Arrow has no type for become EDN text.

    Raises:
        UserError: `import/pyarrow` without the extra.
    """
    arrow = _pyarrow()
    import pyarrow.feather  # noqa: PLC0415 - as said
    import pyarrow.parquet  # noqa: PLC0415 - the same

    data = [_arrow_column(arrow, [row[i] for row in rows]) for i in range(len(columns))]
    table = arrow.table(data, names=list(columns))
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, out)
    else:
        pyarrow.feather.write_feather(table, out)


def _arrow_column(arrow: Any, values: list[Any]) -> Any:
    from datetime import datetime  # noqa: PLC0415 - as said
    from decimal import Decimal  # noqa: PLC0415 - the same

    from datalog.render import edn_text  # noqa: PLC0415 - the same

    kinds = {type(v) for v in values if v is not None}
    try:
        if kinds == {datetime}:
            return arrow.array(values, arrow.timestamp("us", tz="UTC"))
        if len(kinds) <= 1 and kinds <= {bool, float, bytes, str, Decimal}:
            return arrow.array(values)
        if kinds == {int}:
            return arrow.array(values, arrow.int64())
    except (arrow.ArrowInvalid, OverflowError, UnicodeEncodeError):  # an integer or decimal too long, half a character
        pass
    texts = (v if v is None or isinstance(v, str) else edn_text(v) for v in values)
    return arrow.array([v if v is None else v.encode("utf-8", "replace").decode() for v in texts], arrow.string())
