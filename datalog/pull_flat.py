"""Flat pulls: patterns that name attributes of one value each and go no deeper, which most patterns are.

Place on the path: `pull.pull_values` takes it for a pattern that the parser found flat. A few entities are looked up value
by value; many are columns, gathered and decoded attribute by attribute and zipped into maps. The answer is that of the
general way; tests pull such patterns both ways.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from datalog.kernels import distinct_sorted, inverse
from datalog.maps import maps_of
from store.value import Kind, decode_inline, decode_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datalog.pull_parser import PullAttribute, PullPattern

FEW = 8  # entities that are looked up one by one
_MISSING = object()


def few(snapshot: Any, pattern: PullPattern, eids: list[int]) -> list[Any]:
    """The maps of a few entities, each None when nothing of the pattern is there."""
    codes = snapshot.codes()
    made: list[Any] = []
    for e in eids:
        held: dict[Any, Any] = {} if pattern.eid is None else {pattern.eid: e}
        real = False
        for spec in pattern.attributes:
            attribute = spec.attribute
            found = snapshot.values(e, attribute.aid)
            if found:
                real = True
                code = found[0]
                if attribute.is_ref:
                    held[spec.key] = {":db/id": code}
                elif attribute.kind is Kind.INTERNED:
                    held[spec.key] = codes.decode(code)
                else:
                    held[spec.key] = decode_one(attribute.kind, code)
            elif spec.has_default:
                held[spec.key] = spec.default
        made.append(held or None if real or len(snapshot.entity(e).a) else None)
    return made


def many(snapshot: Any, pattern: PullPattern, eids: list[int]) -> list[Any]:
    """The same for many entities, column by column."""
    codes = snapshot.codes()
    given = np.array(eids, dtype=np.int64)
    distinct = distinct_sorted(given)
    size = len(distinct)
    columns: list[Sequence[Any]] = []
    keys: list[Any] = []
    whole = True
    real = np.zeros(size, dtype=bool)
    for spec in pattern.attributes:
        rows, found = snapshot.gather(spec.attribute.aid, distinct)[:2]
        values = _decoded(spec, codes, found)
        real[rows] = True
        if len(rows) != size:
            missing = spec.default if spec.has_default else _MISSING
            whole = whole and spec.has_default
            full = [missing] * size
            for row, value in zip(rows.tolist(), values, strict=True):
                full[row] = value
            values = full
        keys.append(spec.key)
        columns.append(values)
    if pattern.eid is not None:
        keys.insert(0, pattern.eid)
        columns.insert(0, distinct.tolist())
    absent = {int(i) for i in np.flatnonzero(~real).tolist() if not len(snapshot.entity(int(distinct[i])).a)}
    if whole and not absent and keys:
        if size != len(eids) or not bool((given == distinct).all()):
            in_order = itemgetter(*distinct.searchsorted(given).tolist())
            columns = [in_order(column) for column in columns]
        return maps_of(keys, columns)
    table = list(zip(*columns, strict=True)) if columns else [()] * size
    places = distinct.searchsorted(given).tolist()
    return [
        None if i in absent else {k: v for k, v in zip(keys, table[i], strict=True) if v is not _MISSING} or None
        for i in places
    ]


def _decoded(spec: PullAttribute, codes: Any, found: Any) -> list[Any]:
    attribute = spec.attribute
    if attribute.is_ref:
        return [{":db/id": e} for e in found.tolist()]
    if attribute.kind is not Kind.INTERNED:
        return decode_inline(attribute.kind, found)
    if found.size < 64:
        return list(codes.decode_many(found))
    unique, position = inverse(found)
    return list(map(codes.decode_many(unique).__getitem__, position.tolist()))
