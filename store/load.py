"""Bulk import: columns of eids and values to the checked effects of one transaction. Arrays or lists in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from store.columns import EMPTY
from store.datom import MAX_EID
from store.effects import apply_columns
from store.errors import SchemaError, TransactionError, UserError
from store.prepare import Prepared, define_all
from store.resolve import ResolvedColumn, encode_column
from store.schema import Attribute, unknown_attribute
from store.schema_change import SchemaChanger, read_names
from store.txdata import raise_collected
from store.value import INT64_MAX, INT64_MIN, check_instants, encode_doubles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from store.dictionary import NewCodes, OverlayCodes
    from store.environment import Meta
    from store.snapshot import Snapshot

    Codes = NDArray[np.int64]


def prepare_load(
    before: Snapshot,
    columns: Mapping[Any, Any],
    codes: NewCodes | OverlayCodes,
    meta: Meta,
    strict: bool | None,
    schema: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Prepared:
    """The checked effects of a bulk import, which may declare new attributes: `schema` has (ident, properties) pairs."""
    if not hasattr(columns, "items"):
        raise TransactionError(
            "load/form",
            "load takes a map of attribute to (eids, values).",
            hint='conn.load({":person/name": (eids, names)})',
        )
    tx = meta.basis_tx + 1
    changer = SchemaChanger(before, meta.max_aid, tx)
    resolved: list[ResolvedColumn] = []
    errors: list[Any] = []
    _declare(changer, schema, errors)
    max_eid = meta.max_eid
    read: dict[int, tuple[Any, Codes]] = {}
    for name, pair in columns.items():
        try:
            column = _load_column(before, changer, name, pair, codes, strict, read)
        except UserError as e:
            errors.append(e)
            continue
        if column is not None:
            resolved.append(column)
            max_eid = max(max_eid, int(column.e.max()))
            if column.attribute.is_ref:
                refs = column.v[column.v <= MAX_EID]
                max_eid = max(max_eid, int(refs.max()) if len(refs) else 0)
    raise_collected(errors)
    after = changer.schema
    change = changer.finish(codes) if after is not before.schema else None
    effects = apply_columns(resolved, before, after, codes, meta.max_eid + 1, errors)
    raise_collected(errors)
    return Prepared(before, tx, effects, change, {}, max_eid)


def _declare(changer: SchemaChanger, schema: Sequence[tuple[str, Mapping[str, Any]]], errors: list[Any]) -> None:
    """Declares attributes that are new; one that exists has data, whose change is a matter of its own."""
    for ident, _ in schema:
        if changer.find(ident) is not None:
            raise SchemaError(
                "load/schema",
                f"{ident} exists already; load only declares new attributes.",
                hint="change it before: conn.update_schema(...)",
            )
    define_all(changer, schema, errors)


def _load_column(
    before: Snapshot,
    changer: SchemaChanger,
    name: Any,
    pair: Any,
    codes: NewCodes | OverlayCodes,
    strict: bool | None,
    read: dict[int, tuple[Any, Codes]],
) -> ResolvedColumn | None:
    """One column; `read` holds the eids that were read before, by the id of what was given: often all columns have the same."""
    (ident,) = read_names([name])
    attribute = changer.find(ident)
    if attribute is None:
        if before.schema.has_declared if strict is None else strict:
            raise unknown_attribute(changer.schema, ident)
        attribute = changer.create_undeclared(ident)
    if attribute.system:
        raise TransactionError("load/built-in", f"{ident} is built in and cannot be loaded.")
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TransactionError(
            "load/form", f"{ident}: give a pair (eids, values).", hint=f'{{"{ident}": (eids, values)}}'
        )
    given, values = pair
    e = read[id(given)][1] if id(given) in read else _load_eids(ident, given)
    read[id(given)] = (given, e)  # held, so that its id stays its own
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        values = _from_arrow(values)
    try:
        n = len(values)
    except TypeError as x:
        raise TransactionError("load/form", f"{ident}: the values are no array or list.") from x
    if n != len(e):
        raise TransactionError(
            "load/length", f"{ident}: {len(e)} eids, but {n} values.", hint="give one eid for each value"
        )
    if n == 0:
        return None
    try:
        v = _load_values(attribute, values, codes)
    except UserError as x:
        row = (x.data or {}).get("row")
        where = f" In row {row} (entity {int(e[row])})." if row is not None else ""
        raise TransactionError(
            x.code,
            f"{ident}: {x.message}{where}",
            expected=x.expected,
            hint=x.hint,
            data={"attribute": ident, "row": row},
        ) from x
    return ResolvedColumn(attribute, e, v)


def _from_arrow(values: Any) -> Any:
    try:
        import nanoarrow  # noqa: PLC0415 - the extra `arrow`
    except ImportError as e:
        raise TransactionError(
            "load/arrow", "Arrow columns need the package nanoarrow.", hint="pip install 'datalog-lmdb[arrow]'"
        ) from e
    return (
        nanoarrow.Array(values).to_pylist()
        if hasattr(values, "__arrow_c_array__")
        else list(nanoarrow.ArrayStream(values).read_all().to_pylist())
    )


def _load_eids(ident: str, eids: Any) -> Codes:
    if hasattr(eids, "__arrow_c_array__") or hasattr(eids, "__arrow_c_stream__"):
        eids = _from_arrow(eids)
    try:
        raw = np.asarray(eids)
    except ValueError as e:
        raise TransactionError("load/eids", f"{ident}: the eids are no list of integers.") from e
    if raw.ndim == 1 and len(raw) == 0:
        return EMPTY
    if raw.ndim != 1 or raw.dtype.kind not in "iu":
        raise TransactionError("load/eids", f"{ident}: the eids are no array of integers, but of {raw.dtype}.",
                               expected="entity ids from 1 to 2^40 - 1")  # fmt: skip
    low, high = int(raw.min()), int(raw.max())
    if low < 1 or high > MAX_EID:
        raise TransactionError("load/eids", f"{ident}: {low if low < 1 else high} is no entity id.",
                               expected="entity ids from 1 to 2^40 - 1")  # fmt: skip
    return raw.astype(np.int64)


def _load_values(attribute: Attribute, values: Any, codes: NewCodes | OverlayCodes) -> Codes:
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise UserError("load/form", f"the values have {values.ndim} dimensions, not one.")
        fast = _array_codes(attribute, values)
        if fast is not None:
            return fast
        if values.dtype.kind == "M":
            raise UserError(
                "value/wrong-type",
                "datetime64 values have no time zone.",
                hint="give an attribute of :db.type/instant microseconds as datetime64[us], taken as UTC",
            )
        values = values.tolist()
    elif not isinstance(values, list):
        values = list(values)
    return encode_column(attribute, values, codes)


def _array_codes(attribute: Attribute, values: NDArray[Any]) -> Codes | None:
    """Codes of a numeric array straight from its memory; None where each value needs a look."""
    kind = values.dtype.kind
    if attribute.type in ("long", "ref") and kind in "iu":
        if kind == "u" and len(values) and int(values.max()) > INT64_MAX:
            return None
        codes = values.astype(np.int64)
        if attribute.type == "ref" and len(codes) and (int(codes.min()) < 1 or int(codes.max()) >= 1 << 42):
            return None
        return codes
    if attribute.type == "double" and kind == "f":
        return encode_doubles(values.astype(np.float64))
    if attribute.type == "boolean" and kind == "b":
        return values.astype(np.int64)
    if attribute.type == "instant" and kind == "M":
        codes = values.astype("datetime64[us]").astype(np.int64)
        if len(codes) and int(codes.min()) == INT64_MIN:
            raise UserError(
                "value/nil", "NaT is not a value: a fact that is not known is left out.", hint="drop the row"
            )
        check_instants(codes)
        return codes
    return None
