"""The datoms API over a snapshot: datoms, seek, reverse seek and index range, in the order users see.

Order: attributes by name, values by the one total order (value.py), entities by id:

    eavt  e, attribute, value        aevt  attribute, e, value        avet  attribute, value, e

Storage orders attributes by aid and interned values by code; both are put right here, over arrays, attribute by
attribute. A `DatomRows` is lazy: attributes are loaded, and datoms made, as far as iteration goes.
Meaning of seek as in DataScript: it starts at the first datom not below the components and goes on to the index's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from store.columns import EMPTY, order_rows, order_stable
from store.datom import FIRST_ATTRIBUTE, FIRST_TX, INDEXES, Datom
from store.edn import Keyword, show_form
from store.errors import QueryError, TransactionError, UserError, nearest
from store.schema import FIRST_USER_AID, unknown_attribute
from store.snapshot import Datoms
from store.value import INT64_MAX, INT64_MIN, Kind, encode_inline, encode_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from store.schema import Attribute
    from store.snapshot import Snapshot

    Codes = NDArray[np.int64]

Chunk = Callable[[], Datoms]
_SLICE = 1024


class DatomRows(Sequence[Datom]):
    """A lazy sequence of datoms: iterate, slice, `len`; compares equal to a list of the same datoms."""

    __slots__ = ("_chunks", "_loaded", "_snapshot")

    def __init__(self, snapshot: Snapshot, chunks: list[Chunk]) -> None:
        self._snapshot = snapshot
        self._chunks = chunks
        self._loaded: list[Datoms | None] = [None] * len(chunks)

    def _chunk(self, i: int) -> Datoms:
        loaded = self._loaded[i]
        if loaded is None:
            loaded = self._loaded[i] = self._chunks[i]()
        return loaded

    def __len__(self) -> int:
        return sum(len(self._chunk(i).e) for i in range(len(self._chunks)))

    def __iter__(self) -> Iterator[Datom]:
        for i in range(len(self._chunks)):
            chunk = self._chunk(i)
            for start in range(0, len(chunk.e), _SLICE):
                yield from self._make(chunk, start, start + _SLICE)

    def _make(self, chunk: Datoms, start: int, end: int) -> list[Datom]:
        e, a, v, tx = (column[start:end] for column in chunk)
        values: list[Any] = [None] * len(e)
        names: list[str] = [""] * len(e)
        for aid in dict.fromkeys(a.tolist()):
            attribute = self._snapshot.schema.by_aid(aid)
            places = np.flatnonzero(a == aid)
            for place, value in zip(places.tolist(), self._snapshot.decode(attribute, v[places]), strict=True):
                values[place] = value
                names[place] = attribute.ident
        return [Datom(*row) for row in zip(e.tolist(), names, values, tx.tolist(), strict=True)]

    @overload
    def __getitem__(self, at: int) -> Datom: ...

    @overload
    def __getitem__(self, at: slice) -> list[Datom]: ...

    def __getitem__(self, at: int | slice) -> Datom | list[Datom]:
        if isinstance(at, slice):
            return list(self)[at]
        if at < 0:
            at += len(self)
        if at >= 0:
            for i in range(len(self._chunks)):
                chunk = self._chunk(i)
                if at < len(chunk.e):
                    return self._make(chunk, at, at + 1)[0]
                at -= len(chunk.e)
        raise IndexError("there are not so many datoms")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list | tuple | DatomRows):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown: list[str] = []
        for datom in self:
            if len(shown) == 10:
                shown.append("...")
                break
            shown.append(str(tuple(datom)))
        return f"DatomRows([{', '.join(shown)}])"


# ---------------------------------------------------------------------------------------------------------------------
# order


def named_attributes(snapshot: Snapshot) -> list[Attribute]:
    """The attributes that have datoms, in order of their names; the built-in ones only where the user set them."""
    return sorted(
        (a for a in snapshot.schema.all_attributes() if snapshot.count(a.aid)),
        key=lambda a: (a.keyword.ns or "", a.keyword.name),
    )


def value_ranks(snapshot: Snapshot, attribute: Attribute, codes: Codes) -> Codes:
    """Numbers that order as the values of codes do, int64 (n,)."""
    if attribute.kind is not Kind.INTERNED or len(codes) < 2:
        return codes
    order = np.sort(codes)
    distinct = order[np.concatenate(([True], order[1:] != order[:-1]))]
    source = snapshot.codes()
    raws = [source.raw(c) for c in distinct.tolist()]
    ranks = np.empty(len(distinct), dtype=np.int64)
    ranks[np.array(sorted(range(len(raws)), key=raws.__getitem__), dtype=np.int64)] = np.arange(len(raws))
    return ranks[np.searchsorted(distinct, codes)]


def _take(datoms: Datoms, order: Codes | None) -> Datoms:
    return datoms if order is None else Datoms(*(column[order] for column in datoms))


def _attribute_rows(snapshot: Snapshot, attribute: Attribute, index: str) -> Datoms:
    """All datoms of one attribute in the order of an index, without the system's own."""
    columns = snapshot.columns(attribute.aid, tx=True)
    assert columns.tx is not None
    e, v, tx = columns.e, columns.v, columns.tx
    if attribute.aid < FIRST_USER_AID:
        keep = e < FIRST_TX
        e, v, tx = e[keep], v[keep], tx[keep]
    datoms = Datoms(e, np.full(len(e), attribute.aid, dtype=np.int64), v, tx)
    if index == "avet":
        return _take(datoms, order_stable(value_ranks(snapshot, attribute, v)))
    if attribute.many and attribute.kind is Kind.INTERNED:
        return _take(datoms, order_rows(e, value_ranks(snapshot, attribute, v)))
    return datoms


def _eavt_rows(snapshot: Snapshot, datoms: Datoms) -> Datoms:
    """Datoms in storage order of EAVT, put into the users' order."""
    if len(datoms.e) < 2:
        return datoms
    names = {a.aid: rank for rank, a in enumerate(_by_name(snapshot))}
    aids = np.sort(datoms.a)
    aids = aids[np.concatenate(([True], aids[1:] != aids[:-1]))]
    name_ranks = np.array([names[a] for a in aids.tolist()], dtype=np.int64)[np.searchsorted(aids, datoms.a)]
    v = datoms.v
    for aid in aids.tolist():
        attribute = snapshot.schema.by_aid(aid)
        if attribute.many and attribute.kind is Kind.INTERNED:
            mine = datoms.a == aid
            v = v.copy() if v is datoms.v else v
            v[mine] = value_ranks(snapshot, attribute, v[mine])
    return _take(datoms, order_rows(datoms.e << np.int64(21) | name_ranks, v))


def _by_name(snapshot: Snapshot) -> list[Attribute]:
    return sorted(snapshot.schema.all_attributes(), key=lambda a: (a.keyword.ns or "", a.keyword.name))


# ---------------------------------------------------------------------------------------------------------------------
# components


def _check_index(index: Any) -> str:
    name = str(index).lstrip(":")
    if name not in INDEXES:
        near = nearest(name, list(INDEXES))
        raise QueryError(
            "datoms/index", f"{index!r} is not an index.", expected="eavt, aevt or avet",
            hint=f"did you mean {near}?" if near else None,
        )  # fmt: skip
    return name


def find_attribute(snapshot: Snapshot, name: Any) -> Attribute:
    """The attribute of a component; an error with the nearest name when it is unknown."""
    if isinstance(name, int) and not isinstance(name, bool) and snapshot.schema.has_aid(name - FIRST_ATTRIBUTE):
        return snapshot.schema.by_aid(name - FIRST_ATTRIBUTE)
    if not isinstance(name, str | Keyword):
        raise QueryError(
            "datoms/attribute",
            f"{show_form(name)} is not the name of an attribute.",
            expected='a name such as ":person/name"',
        )
    text = str(name)
    attribute = snapshot.schema.find(text if text.startswith(":") else f":{text}")
    if attribute is None:
        raise unknown_attribute(snapshot.schema, text)
    return attribute


def _code(snapshot: Snapshot, attribute: Attribute, value: Any) -> int | None:
    """The code of a component in value position, None when no datom can have it."""
    if attribute.is_ref:
        return snapshot.entid(value)
    try:
        value = attribute.coerce(value)
    except UserError as e:
        raise TransactionError(e.code, f"{attribute.ident}: {e.message}", expected=e.expected, hint=e.hint) from e
    if attribute.kind is not Kind.INTERNED:
        return encode_inline(attribute.kind, value)
    return snapshot.find_code(attribute, value)


def _split(index: str, components: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """(e, a, v) of the components, None where not given."""
    if len(components) > 3:
        raise QueryError("datoms/components", f"An index has three components, here are {len(components)}.")
    given = (*components, None, None, None)[:3]
    if index == "eavt":
        return given
    if index == "aevt":
        return given[1], given[0], given[2]
    return given[2], given[0], given[1]


# ---------------------------------------------------------------------------------------------------------------------
# the four functions


def datoms(snapshot: Snapshot, index: Any, *components: Any) -> DatomRows:
    """The datoms whose first components are those given, in the order of the index."""
    name = _check_index(index)
    raw_e, raw_a, raw_v = _split(name, components)
    if raw_a is None and raw_e is None:
        if name == "eavt":
            return DatomRows(snapshot, [lambda: _eavt_rows(snapshot, snapshot.all_datoms())])
        return DatomRows(snapshot, [_all_of(snapshot, a, name) for a in named_attributes(snapshot)])
    e = None if raw_e is None else snapshot.entid(raw_e)
    if raw_e is not None and e is None:
        return DatomRows(snapshot, [])
    if raw_a is None:
        assert e is not None
        return DatomRows(snapshot, [lambda: _eavt_rows(snapshot, snapshot.entity(e))])
    attribute = find_attribute(snapshot, raw_a)
    code = None if raw_v is None else _code(snapshot, attribute, raw_v)
    if raw_v is not None and code is None:
        return DatomRows(snapshot, [])
    return DatomRows(snapshot, [lambda: _matching(snapshot, attribute, name, e, code)])


def _all_of(snapshot: Snapshot, attribute: Attribute, index: str) -> Chunk:
    return lambda: _attribute_rows(snapshot, attribute, index)


def _matching(snapshot: Snapshot, attribute: Attribute, index: str, e: int | None, code: int | None) -> Datoms:
    aid = attribute.aid
    if e is not None:
        rows = snapshot.entity(e)
        keep = rows.a == aid if code is None else (rows.a == aid) & (rows.v == code)
        found = Datoms(*(column[keep] for column in rows))
        return _eavt_rows(snapshot, found)
    if code is not None:
        key = np.array([code], dtype=np.int64)
        _, held, tx = snapshot.lookup(aid, key, tx=True)
        n = len(held)
        return Datoms(held, np.full(n, aid, dtype=np.int64), np.full(n, code, dtype=np.int64), tx)
    columns = snapshot.columns(aid, tx=True)
    assert columns.tx is not None
    every = Datoms(columns.e, np.full(len(columns.e), aid, dtype=np.int64), columns.v, columns.tx)
    if index == "avet":
        return _take(every, order_stable(value_ranks(snapshot, attribute, columns.v)))
    if attribute.many and attribute.kind is Kind.INTERNED:
        return _take(every, order_rows(every.e, value_ranks(snapshot, attribute, every.v)))
    return every


def _bounds(snapshot: Snapshot, attribute: Attribute, rows: Datoms, value: Any, side: str) -> int:
    """Where a value begins ("left") or ends ("right") in rows of one attribute sorted by value."""
    if attribute.is_ref:
        code = snapshot.entid(value)
        return int(np.searchsorted(rows.v, code if code is not None else INT64_MAX, side))  # type: ignore[call-overload]
    try:
        value = attribute.coerce(value)
    except UserError as e:
        raise TransactionError(e.code, f"{attribute.ident}: {e.message}", expected=e.expected, hint=e.hint) from e
    if attribute.kind is not Kind.INTERNED:
        return int(np.searchsorted(rows.v, encode_inline(attribute.kind, value), side))  # type: ignore[call-overload]
    wanted = encode_value(value)
    source = snapshot.codes()
    low, high = 0, len(rows.v)
    while low < high:
        middle = (low + high) // 2
        raw = source.raw(int(rows.v[middle]))
        if raw < wanted or (side == "right" and raw == wanted):
            low = middle + 1
        else:
            high = middle
    return low


def index_range(snapshot: Snapshot, name: Any, start: Any, end: Any) -> DatomRows:
    """The datoms of an attribute with start <= value <= end, in AVET order; None leaves an end open."""
    attribute = find_attribute(snapshot, name)

    def rows() -> Datoms:
        found = _narrow(snapshot, attribute, start, end) or _attribute_rows_all(snapshot, attribute)
        low = 0 if start is None else _bounds(snapshot, attribute, found, start, "left")
        high = len(found.e) if end is None else _bounds(snapshot, attribute, found, end, "right")
        return Datoms(*(column[low : max(low, high)] for column in found))

    return DatomRows(snapshot, [rows])


def _narrow(snapshot: Snapshot, attribute: Attribute, start: Any, end: Any) -> Datoms | None:
    """The datoms of a short range of an interned attribute, found through the dictionary's order; None for a long one."""
    if attribute.kind is not Kind.INTERNED or start is None or end is None or not attribute.indexed:
        return None
    if snapshot.overlay_codes is not None:
        return None
    try:
        low, high = encode_value(attribute.coerce(start)), encode_value(attribute.coerce(end))
    except UserError:
        return None  # the bounds say what is wrong
    most = max(256, snapshot.count(attribute.aid) // 16)
    found = snapshot.dictionary.codes_between(low, high, most)
    if found is None:
        return None
    codes = np.array([code for _, code in found], dtype=np.int64)
    if len(codes) == 0:
        return Datoms(EMPTY, EMPTY, EMPTY, EMPTY)
    rows, e, tx = snapshot.lookup(attribute.aid, codes, tx=True)
    v = codes[rows]
    datoms_ = Datoms(e, np.full(len(e), attribute.aid, dtype=np.int64), v, tx)
    return _take(datoms_, order_stable(value_ranks(snapshot, attribute, v)))


def _attribute_rows_all(snapshot: Snapshot, attribute: Attribute) -> Datoms:
    return _matching(snapshot, attribute, "avet", None, None)


def seek_datoms(snapshot: Snapshot, index: Any, *components: Any) -> DatomRows:
    """The datoms from the first one not below the components to the end of the index."""
    return DatomRows(snapshot, _seek(snapshot, index, components, reverse=False))


def rseek_datoms(snapshot: Snapshot, index: Any, *components: Any) -> DatomRows:
    """The datoms from the last one not above the components back to the beginning of the index."""
    return DatomRows(snapshot, _seek(snapshot, index, components, reverse=True))


def _seek(snapshot: Snapshot, index: Any, components: tuple[Any, ...], *, reverse: bool) -> list[Chunk]:
    name = _check_index(index)
    raw_e, raw_a, raw_v = _split(name, components)
    side = "right" if reverse else "left"

    def cut(rows: Datoms, at: int) -> Datoms:
        if reverse:
            return Datoms(*(column[:at][::-1] for column in rows))
        return Datoms(*(column[at:] for column in rows))

    if name == "eavt":

        def eavt() -> Datoms:
            rows = _eavt_rows(snapshot, snapshot.all_datoms())
            return cut(rows, _seek_eavt(snapshot, rows, raw_e, raw_a, raw_v, side))

        return [eavt]
    attributes = named_attributes(snapshot)
    if reverse:
        attributes.reverse()
    if raw_a is None:
        return [_cut_all(snapshot, a, name, cut, reverse=reverse) for a in attributes]
    attribute = find_attribute(snapshot, raw_a)
    key = (attribute.keyword.ns or "", attribute.keyword.name)

    def first() -> Datoms:
        rows = _attribute_rows(snapshot, attribute, name)
        return cut(rows, _seek_attribute(snapshot, attribute, rows, name, raw_e, raw_v, side))

    def beyond(a: Attribute) -> bool:
        other = (a.keyword.ns or "", a.keyword.name)
        return other < key if reverse else other > key

    return [first, *(_cut_all(snapshot, a, name, cut, reverse=reverse) for a in attributes if beyond(a))]


def _cut_all(
    snapshot: Snapshot, attribute: Attribute, index: str, cut: Callable[[Datoms, int], Datoms], *, reverse: bool
) -> Chunk:
    def rows() -> Datoms:
        found = _attribute_rows(snapshot, attribute, index)
        return cut(found, len(found.e) if reverse else 0)

    return rows


def _seek_attribute(
    snapshot: Snapshot, attribute: Attribute, rows: Datoms, index: str, raw_e: Any, raw_v: Any, side: str
) -> int:
    e = None if raw_e is None else snapshot.entid(raw_e)
    if index == "avet":
        low = 0 if side == "left" else len(rows.e)
        if raw_v is None:
            return low
        low = _bounds(snapshot, attribute, rows, raw_v, side)
        if e is None:
            return low
        start, end = (
            _bounds(snapshot, attribute, rows, raw_v, "left"),
            _bounds(snapshot, attribute, rows, raw_v, "right"),
        )
        return start + int(np.searchsorted(rows.e[start:end], e, side))  # type: ignore[call-overload]
    if e is None:
        return 0 if side == "left" else len(rows.e)
    if raw_v is None:
        return int(np.searchsorted(rows.e, e, side))  # type: ignore[call-overload]
    start, end = int(np.searchsorted(rows.e, e)), int(np.searchsorted(rows.e, e, "right"))
    inner = Datoms(*(column[start:end] for column in rows))
    return start + _bounds(snapshot, attribute, inner, raw_v, side)


def _seek_eavt(snapshot: Snapshot, rows: Datoms, raw_e: Any, raw_a: Any, raw_v: Any, side: str) -> int:
    if raw_e is None:
        return 0 if side == "left" else len(rows.e)
    e = snapshot.entid(raw_e)
    if e is None:
        e = INT64_MAX if side == "left" else INT64_MIN
    if raw_a is None:
        return int(np.searchsorted(rows.e, e, side))  # type: ignore[call-overload]
    attribute = find_attribute(snapshot, raw_a)
    start, end = int(np.searchsorted(rows.e, e)), int(np.searchsorted(rows.e, e, "right"))
    names = {a.aid: rank for rank, a in enumerate(_by_name(snapshot))}
    wanted = names[attribute.aid]
    ranks = np.array([names[a] for a in rows.a[start:end].tolist()], dtype=np.int64)
    first = start + int(np.searchsorted(ranks, wanted))
    last = start + int(np.searchsorted(ranks, wanted, "right"))
    if raw_v is None:
        return first if side == "left" else last
    inner = Datoms(*(column[first:last] for column in rows))
    return first + _bounds(snapshot, attribute, inner, raw_v, side)
