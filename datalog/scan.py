"""Scans: a pattern over one database -> columns, alone or by probing an index for each row of a relation.

Place on the path: called by the engine for `plan.Scan`; reads the snapshot, gives row numbers and columns. Which index is
read is decided here, with the true sizes at hand: the plan only says what joins with what.

    entity bound      gather (AEVT): aligned columns as they are, a dense run by address, few rows by search, many by join
    value bound       lookup (AVET)
    range             range (AVET), or a comparison of codes after a gather
    attribute free    the datoms of the entity, or all datoms

A column of values of several attributes mixes kinds: it is brought to interned codes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import kernels
from datalog.lower import is_lookup
from datalog.plan import Param, Scan, Var
from datalog.relation import EMPTY, Column, Relation, interned, longs, same_kind
from store.datom import END_OF_EIDS, FIRST_TX
from store.edn import Keyword
from store.errors import UserError
from store.schema import FIRST_USER_AID
from store.value import INT64_MAX, INT64_MIN, Kind, encode_inline, kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datalog.engine import Run, SourceView
    from datalog.plan import Bound

    Array = NDArray[np.int64]
    Rows = NDArray[np.intp]
    # rows of the left side (None: all, once each), new columns, what these add to the left side's key (None: not known)
    Found = tuple["Rows | None", dict[str, Column], "frozenset[str] | None"]

_NOTHING: Rows = np.empty(0, dtype=np.intp)
_FEW_PROBES = 64  # always searched
_FEW = 16  # a search is cheaper than a join below one probe for so many datoms
_FEW_OF_ALL = 4  # a table is cheaper than a join below one entity for so many


class Missing(Exception):  # noqa: N818 - no error: it says that nothing can match
    """A constant of the pattern refers to nothing in the database."""


# constants -----------------------------------------------------------------------------------------------------------


def eid_of(view: SourceView, value: Any) -> int:
    """The eid that a constant or input in entity position stands for; Missing when there is none."""
    if type(value) is int:
        if 0 < value < END_OF_EIDS:
            return value
        raise Missing
    if is_lookup(value):
        found = view.snapshot.entid(value)
        if found is not None:
            return int(found)
    raise Missing


def code_of(run: Run, view: SourceView, attribute: Any, value: Any) -> int:
    """The code of a constant in an attribute's value column; Missing when no datom can have it."""
    if value is None:
        raise Missing
    if attribute.is_ref:
        return eid_of(view, value)
    if attribute.kind is not Kind.INTERNED:
        if kind_of(value) is not attribute.kind:
            raise Missing
        return encode_inline(attribute.kind, value)
    return run.stored_code(view, value)


def attribute_of(run: Run, scan: Scan, view: SourceView) -> Any:
    """The attribute of a scan; None when it is a variable or blank; Missing when it does not exist."""
    given = scan.attribute
    if isinstance(given, Param):
        ident = run.param(given.name)
        found = view.snapshot.schema.find(str(ident)) if isinstance(ident, Keyword) else None
        if found is None:
            raise Missing
        return found
    if not isinstance(given, int):
        return None
    if given < 0 or not view.snapshot.schema.has_aid(given):
        raise Missing
    return view.snapshot.schema.by_aid(given)


class Limits:
    """The range that a scan's bounds put on codes, and the bounds that codes cannot say."""

    __slots__ = ("high", "low", "rest")

    def __init__(self, run: Run, bounds: tuple[Bound, ...], kind: Kind) -> None:
        self.low: int | None = None
        self.high: int | None = None
        self.rest: list[Bound] = []
        for bound in bounds:
            code = _bound_code(kind, bound.op, run.value_of(bound.term))
            if code is None:
                self.rest.append(bound)
            elif bound.op[0] == ">":
                self.low = code if self.low is None else max(self.low, code)
            else:
                self.high = code if self.high is None else min(self.high, code)

    def mask(self, codes: Array) -> NDArray[np.bool_] | None:
        """Which codes are in the range; None for all."""
        if self.low is None and self.high is None:
            return None
        result = np.ones(codes.size, dtype=np.bool_)
        if self.low is not None:
            result &= codes >= self.low if self.low <= INT64_MAX else False
        if self.high is not None:
            result &= codes <= self.high if self.high >= INT64_MIN else False
        return result


def _bound_code(kind: Kind, op: str, value: Any) -> int | None:
    """The inclusive bound in codes of a comparison; None when the kind's codes cannot say it."""
    if kind_of(value) is kind and kind is not Kind.INTERNED:
        if isinstance(value, float) and math.isnan(value):
            return None
        code = encode_inline(kind, value)
    elif kind is Kind.DOUBLE and type(value) is int and abs(value) <= 2**53:
        code = encode_inline(kind, float(value))
    elif kind is Kind.LONG and isinstance(value, float) and math.isfinite(value):
        below = math.floor(value)
        code = below if op in (">", "<=") else math.ceil(value)
    else:
        return None
    return code + 1 if op == ">" else code - 1 if op == "<" else code


# alone ---------------------------------------------------------------------------------------------------------------


def alone(run: Run, scan: Scan) -> Relation:
    """All rows of a pattern. Rows repeat only when `key` is None."""
    view = run.view(scan.source)
    try:
        attribute = attribute_of(run, scan, view)
        if attribute is None:
            return _any_attribute(run, scan, view)
        return _one_attribute(run, scan, view, attribute)
    except Missing:
        return Relation({n: Column(EMPTY, Kind.LONG) for n in scan.variables}, 0, frozenset(scan.variables))


def _one_attribute(run: Run, scan: Scan, view: SourceView, attribute: Any) -> Relation:
    snapshot = view.snapshot
    aid = attribute.aid
    tx = scan.tx is not None
    entity = None if scan.entity is None or isinstance(scan.entity, Var) else eid_of(view, run.value_of(scan.entity))
    code = None
    if scan.value is not None and not isinstance(scan.value, Var):
        code = code_of(run, view, attribute, run.value_of(scan.value))
    limits = Limits(run, scan.bounds, attribute.kind) if scan.bounds else None
    tx_codes: Array | None = None
    value_wanted = limits is not None or (isinstance(scan.value, Var) and scan.value.name in scan.variables)
    entity_wanted = isinstance(scan.entity, Var) and scan.entity.name in scan.variables
    by_value = value_wanted and not entity_wanted
    if entity is not None:
        _, v, *rest = snapshot.gather(aid, np.array([entity], dtype=np.int64), tx=tx)
        e = np.full(v.size, entity, dtype=np.int64)
        tx_codes = rest[0] if rest else None
    elif code is not None:
        _, e, *rest = snapshot.lookup(aid, np.array([code], dtype=np.int64), tx=tx)
        v = np.full(e.size, code, dtype=np.int64)
        tx_codes = rest[0] if rest else None
    elif limits is not None and (limits.low is not None or limits.high is not None):
        e, v, tx_codes = snapshot.range(aid, limits.low, limits.high, tx=tx)
    else:
        e, v, tx_codes = snapshot.columns(aid, "avet" if by_value else "aevt", tx=tx)
    mask: Any = None
    if entity is not None:
        if code is not None:
            mask = v == code
        elif limits is not None:
            mask = limits.mask(v)
    if mask is not None and not bool(mask.all()):
        e, v = e[mask], v[mask]
        tx_codes = None if tx_codes is None else tx_codes[mask]
    run.scanned(e.size)
    columns = _columns(run, scan, view, e, Column(v, attribute.kind), tx_codes)
    relation = Relation(columns, int(e.size), None)
    if limits is not None and limits.rest:
        relation = _rest_of_bounds(run, scan, relation, Column(v, attribute.kind), limits)
    relation = _fixed_tail(run, scan, relation, tx_codes, view)
    return _keyed(run, scan, relation, attribute, fixed_e=entity is not None, fixed_v=code is not None)


def _columns(run: Run, scan: Scan, view: SourceView, e: Array, v: Column, tx: Array | None) -> dict[str, Column]:
    """The columns of the variables of a scan."""
    columns: dict[str, Column] = {}
    wanted = scan.variables
    if isinstance(scan.entity, Var) and scan.entity.name in wanted:
        columns[scan.entity.name] = Column(e, Kind.LONG)
    if isinstance(scan.value, Var) and scan.value.name in wanted:
        columns[scan.value.name] = run.local(view, v)
    if isinstance(scan.tx, Var) and scan.tx.name in wanted:
        assert tx is not None
        columns[scan.tx.name] = Column(tx, Kind.LONG)
    if isinstance(scan.added, Var) and scan.added.name in wanted:
        columns[scan.added.name] = Column(np.ones(e.size, dtype=np.int64), Kind.BOOLEAN)
    return columns


def _rest_of_bounds(run: Run, scan: Scan, relation: Relation, v: Column, limits: Limits) -> Relation:
    """The rows that hold the comparisons which codes cannot say."""
    assert isinstance(scan.value, Var)
    name = scan.value.name
    with_value = Relation({**relation.columns, name: v}, relation.length, relation.key)
    for bound in limits.rest:
        with_value = with_value.keep(run.truth(bound.call, with_value))
    if name in relation.columns:
        return with_value
    return Relation({n: c for n, c in with_value.columns.items() if n != name}, with_value.length, relation.key)


def _fixed_tail(run: Run, scan: Scan, relation: Relation, tx: Array | None, view: SourceView) -> Relation:
    """The rows that agree with a constant tx and a constant `added`."""
    if scan.added is not None and not isinstance(scan.added, Var) and run.value_of(scan.added) is not True:
        raise Missing
    if tx is None or scan.tx is None or isinstance(scan.tx, Var):
        return relation
    wanted = eid_of(view, run.value_of(scan.tx))
    return relation.keep(tx == wanted) if relation.length == tx.size else relation


def _keyed(run: Run, scan: Scan, relation: Relation, attribute: Any, *, fixed_e: bool, fixed_v: bool) -> Relation:
    """The relation with the key that the attribute's cardinality and uniqueness prove; duplicates of a lone column go."""
    del run
    names = relation.columns.keys()
    e = scan.entity.name if isinstance(scan.entity, Var) and scan.entity.name in names else None
    v = scan.value.name if isinstance(scan.value, Var) and scan.value.name in names else None
    if e is not None and (not attribute.many or fixed_v):
        key: frozenset[str] | None = frozenset({e})
    elif v is not None and (attribute.unique is not None or fixed_e):
        key = frozenset({v})
    elif e is not None and v is not None:
        key = frozenset({e, v})
    elif len(names) == 1 and (e is not None or v is not None):
        name = e or v or ""
        column = relation.columns[name]
        unique = kernels.distinct_sorted(column.codes)
        return Relation({name: Column(unique, column.kind)}, int(unique.size), frozenset({name}))
    elif not names:
        return Relation({}, min(relation.length, 1), frozenset())
    else:
        key = None
    relation.key = key
    return relation


def _any_attribute(run: Run, scan: Scan, view: SourceView) -> Relation:
    """The rows of a pattern whose attribute is a variable or blank."""
    snapshot = view.snapshot
    if scan.entity is not None and not isinstance(scan.entity, Var):
        entity = eid_of(view, run.value_of(scan.entity))
        e, a, v, tx = snapshot.entity(entity)
        if entity >= FIRST_TX:
            user = a >= FIRST_USER_AID
            e, a, v, tx = e[user], a[user], v[user], tx[user]
    else:
        e, a, v, tx = snapshot.all_datoms()
    run.scanned(e.size)
    if scan.value is not None and not isinstance(scan.value, Var):
        mask = _has_value(run, view, a, v, run.value_of(scan.value))
        e, a, v, tx = e[mask], a[mask], v[mask], tx[mask]
    wants_value = isinstance(scan.value, Var) and scan.value.name in scan.variables
    mixed = mixed_values(run, view, a, v) if wants_value else Column(v, Kind.INTERNED)
    columns = _columns(run, scan, view, e, Column(v, Kind.LONG) if not wants_value else mixed, tx)
    if wants_value:
        assert isinstance(scan.value, Var)
        columns[scan.value.name] = mixed
    if isinstance(scan.attribute, Var) and scan.attribute.name in scan.variables:
        columns[scan.attribute.name] = attribute_column(run, view, a)
    relation = _fixed_tail(run, scan, Relation(columns, int(e.size), None), tx, view)
    if not columns:
        return Relation({}, min(relation.length, 1), frozenset())
    return relation


def attribute_column(run: Run, view: SourceView, aids: Array) -> Column:
    """Attribute ids as a column of keywords."""
    unique, position = kernels.inverse(aids)
    keywords = [view.snapshot.schema.by_aid(a).keyword for a in unique.tolist()]
    if not keywords:
        return Column(EMPTY, Kind.INTERNED)
    return Column(run.codes.encode_many(keywords)[position], Kind.INTERNED)


def mixed_values(run: Run, view: SourceView, aids: Array, codes: Array) -> Column:
    """Values of several attributes as one column of the query's codes."""
    unique, position = kernels.inverse(aids)
    kinds = np.array([int(view.snapshot.schema.by_aid(a).kind) for a in unique.tolist()], dtype=np.int64)
    found = kernels.distinct_sorted(kinds).tolist()
    if len(found) == 1:
        return run.local(view, Column(codes, Kind(found[0])))
    result = np.empty(codes.size, dtype=np.int64)
    of_row = kinds[position]
    for kind in found:
        rows = np.flatnonzero(of_row == kind)
        local = run.local(view, Column(codes[rows], Kind(kind)))
        result[rows] = interned(local, run.codes).codes
    return Column(result, Kind.INTERNED)


def _has_value(run: Run, view: SourceView, aids: Array, codes: Array, value: Any) -> NDArray[np.bool_]:
    """Which datoms have a value, whatever their attribute."""
    unique, position = kernels.inverse(aids)
    wanted = np.zeros(unique.size, dtype=np.int64)
    usable = np.zeros(unique.size, dtype=np.bool_)
    for i, aid in enumerate(unique.tolist()):
        try:
            wanted[i] = code_of(run, view, view.snapshot.schema.by_aid(aid), value)
            usable[i] = True
        except (Missing, UserError):
            continue
    return usable[position] & kernels.equal(codes, wanted[position])


# probing -------------------------------------------------------------------------------------------------------------


def probe(run: Run, left: Relation, scan: Scan) -> Found:
    """The rows of `left` that match a pattern, once for each match, ascending, and the columns that the matches add."""
    view = run.view(scan.source)
    try:
        attribute = attribute_of(run, scan, view)
        if attribute is not None:
            if isinstance(scan.entity, Var) and scan.entity.name in left.columns:
                return _by_entity(run, left, scan, view, attribute)
            fixed = scan.entity is not None and not isinstance(scan.entity, Var)
            if isinstance(scan.value, Var) and scan.value.name in left.columns and not fixed:
                return _by_value(run, left, scan, view, attribute)
    except Missing:
        return _NOTHING, {n: Column(EMPTY, Kind.LONG) for n in scan.variables if n not in left.columns}, None
    return join_with(run, left, alone(run, scan))


def join_with(run: Run, left: Relation, right: Relation) -> Found:
    """The natural join as rows of `left` and new columns."""
    shared = [n for n in right.columns if n in left.columns]
    fresh = [n for n in right.columns if n not in left.columns]
    if not left.length or not right.length:
        return _NOTHING, {n: Column(EMPTY, right.columns[n].kind) for n in fresh}, None
    charge = run.charge(len(fresh) + len(left.columns))
    if not shared:
        lefts, rights = kernels.product(left.length, right.length, charge)
        return lefts, {n: right.columns[n].take(rights) for n in fresh}, right.key
    pairs = [same_kind(left.columns[n], right.columns[n], run.codes) for n in shared]
    if any(p is None for p in pairs):
        return _NOTHING, {n: Column(EMPTY, right.columns[n].kind) for n in fresh}, None
    sides = kernels.pack_together([[p[0].codes for p in pairs if p], [p[1].codes for p in pairs if p]])
    if not fresh:
        mask = kernels.member(sides[0], sides[1])
        return (None if bool(mask.all()) else np.flatnonzero(mask)), {}, frozenset()
    lefts, rights = kernels.join(sides[0], sides[1], charge)
    adds = None if right.key is None else frozenset() if right.key <= set(shared) else right.key
    return lefts, {n: right.columns[n].take(rights) for n in fresh}, adds


def _by_entity(run: Run, left: Relation, scan: Scan, view: SourceView, attribute: Any) -> Found:
    """Matches by gathering an attribute of bound entities."""
    assert isinstance(scan.entity, Var)
    eids, places = longs(left.columns[scan.entity.name], run.codes)
    rows, v, tx = _gather(run, view, attribute, eids, tx=scan.tx is not None)
    if places is not None:
        rows = places if rows is None else places[rows]
    value = Column(v, attribute.kind)
    mask: Any = None
    if scan.value is not None and not isinstance(scan.value, Var):
        mask = v == code_of(run, view, attribute, run.value_of(scan.value))
    elif isinstance(scan.value, Var) and scan.value.name in left.columns:
        mask = _agree(run, left.columns[scan.value.name], rows, run.local(view, value))
    if scan.bounds:
        mask = _within(run, scan, value, mask)
    return _finish(run, left, scan, view, rows, mask, value, tx, "value", single=not attribute.many)


def _gather(
    run: Run, view: SourceView, attribute: Any, eids: Array, *, tx: bool
) -> tuple[Rows | None, Array, Array | None]:
    """(rows of `eids` or None for all in order, v, tx) of an attribute's datoms."""
    snapshot = view.snapshot
    total = snapshot.count(attribute.aid)
    charge = run.charge(3)
    if eids.size * _FEW_OF_ALL < total or eids.size < _FEW_PROBES or not total:
        rows, v, *rest = snapshot.gather(attribute.aid, eids, tx=tx)
        charge(rows.size)
        if rows.size == eids.size and not attribute.many:
            rows = None
        return rows, v, rest[0] if rest else None
    columns = snapshot.columns(attribute.aid, tx=tx)
    run.scanned(columns.e.size)
    if not attribute.many:
        if columns.e.size == eids.size and (eids is columns.e or bool(np.array_equal(eids, columns.e))):
            return None, columns.v, columns.tx
        low = int(columns.e[0])
        if int(columns.e[-1]) - low + 1 == columns.e.size:
            at = eids - low
            inside = (eids >= low) & (at < columns.e.size)
            found = None if bool(inside.all()) else np.flatnonzero(inside)
            at = at if found is None else at[found]
            charge(at.size)
            return found, columns.v[at], None if columns.tx is None else columns.tx[at]
    lefts, at = kernels.join(eids, columns.e, charge)
    everyone = lefts.size == eids.size and not attribute.many
    return None if everyone else lefts, columns.v[at], None if columns.tx is None else columns.tx[at]


def _agree(run: Run, bound: Column, rows: Rows | None, found: Column) -> NDArray[np.bool_]:
    """Where a bound column equals the value found for its row."""
    pair = same_kind(bound if rows is None else bound.take(rows), found, run.codes)
    if pair is None:
        return np.zeros(found.codes.size, dtype=np.bool_)
    return kernels.equal(pair[0].codes, pair[1].codes)


def _within(run: Run, scan: Scan, value: Column, mask: Any) -> Any:
    """The mask with the scan's bounds added."""
    limits = Limits(run, scan.bounds, value.kind)
    inside = limits.mask(value.codes)
    if inside is not None:
        mask = inside if mask is None else mask & inside
    if limits.rest:
        assert isinstance(scan.value, Var)
        relation = Relation({scan.value.name: value}, int(value.codes.size), None)
        for bound in limits.rest:
            held = run.truth(bound.call, relation)
            mask = held if mask is None else mask & held
    return mask


def _by_value(run: Run, left: Relation, scan: Scan, view: SourceView, attribute: Any) -> Found:
    """Matches by looking up entities that have the bound values."""
    assert isinstance(scan.value, Var)
    column = left.columns[scan.value.name]
    wanted, places = _codes_for(run, view, column, attribute)
    tx = scan.tx is not None
    charge = run.charge(3)
    snapshot = view.snapshot
    few = wanted.size * _FEW < snapshot.count(attribute.aid) or wanted.size < _FEW_PROBES
    if wanted.size > 1 and _only_exists(scan):
        held = _held_by_somebody(snapshot, attribute.aid, wanted, few=few)
        return held if places is None else places[held], {}, frozenset()
    if few:
        rows, e, *rest = snapshot.lookup(attribute.aid, wanted, tx=tx)
        tx_codes = rest[0] if rest else None
        charge(rows.size)
    else:
        columns = snapshot.columns(attribute.aid, "avet", tx=tx)
        run.scanned(columns.e.size)
        rows, at = kernels.join(wanted, columns.v, charge)
        e, tx_codes = columns.e[at], None if columns.tx is None else columns.tx[at]
    mask = _within(run, scan, Column(wanted[rows], attribute.kind), None) if scan.bounds else None
    rows = rows if places is None else places[rows]
    return _finish(
        run, left, scan, view, rows, mask, Column(e, Kind.LONG), tx_codes, "entity", single=attribute.unique is not None
    )


def _held_by_somebody(snapshot: Any, aid: int, wanted: Array, *, few: bool) -> Rows:
    """The rows of `wanted` whose value some entity has; nobody asks which, so each value is looked up once."""
    if not few:
        return np.flatnonzero(kernels.member(wanted, snapshot.columns(aid, "avet").v))
    unique, position = kernels.inverse(wanted)
    there = np.zeros(unique.size, dtype=np.bool_)
    there[snapshot.lookup(aid, unique, tx=False)[0]] = True
    return np.flatnonzero(there[position])


def _only_exists(scan: Scan) -> bool:
    """Whether a pattern whose value is bound says nothing but that somebody has the value."""
    adds = isinstance(scan.entity, Var) and scan.entity.name in scan.variables
    return not adds and scan.tx is None and scan.added is None and not scan.bounds


def _codes_for(run: Run, view: SourceView, column: Column, attribute: Any) -> tuple[Array, Rows | None]:
    """(the codes of an attribute's column that equal a bound column's values, the rows they stand in or None for all)."""
    if column.kind is attribute.kind:
        if column.kind is not Kind.INTERNED or not view.foreign:
            return column.codes, None
        return run.foreign_codes(view, column), None
    if column.kind is not Kind.INTERNED and attribute.kind is not Kind.INTERNED:
        return EMPTY, _NOTHING
    if attribute.kind is Kind.INTERNED:
        own = interned(column, run.codes)
        return (run.foreign_codes(view, own) if view.foreign else own.codes), None
    if attribute.kind is Kind.LONG:
        return longs(column, run.codes)
    return _inline_codes(run, column, attribute.kind)


def _inline_codes(run: Run, column: Column, kind: Kind) -> tuple[Array, Rows]:
    """(inline codes, rows) of the interned values that are of an inline kind."""
    unique, position = kernels.inverse(column.codes)
    values = run.codes.decode_many(unique)
    usable = np.array([kind_of(v) is kind for v in values], dtype=np.bool_)
    table = np.array([encode_inline(kind, v) if kind_of(v) is kind else 0 for v in values], dtype=np.int64)
    rows = np.flatnonzero(usable[position]) if len(values) else _NOTHING
    return table[position[rows]], rows


def _finish(
    run: Run,
    left: Relation,
    scan: Scan,
    view: SourceView,
    rows: Rows | None,
    mask: Any,
    found: Column,
    tx: Array | None,
    which: str,
    *,
    single: bool,
) -> Found:
    """Apply what is left to check, and name the new columns."""
    if scan.added is not None and not isinstance(scan.added, Var) and run.value_of(scan.added) is not True:
        raise Missing
    if tx is not None and scan.tx is not None:
        if isinstance(scan.tx, Var):
            if scan.tx.name in left.columns:
                held = _agree(run, left.columns[scan.tx.name], rows, Column(tx, Kind.LONG))
                mask = held if mask is None else mask & held
        else:
            held = tx == eid_of(view, run.value_of(scan.tx))
            mask = held if mask is None else mask & held
    added = scan.added
    if isinstance(added, Var) and added.name in left.columns:
        held = _agree(run, left.columns[added.name], rows, Column(np.ones(found.codes.size, np.int64), Kind.BOOLEAN))
        mask = held if mask is None else mask & held
    if mask is not None and not bool(mask.all()):
        kept = np.flatnonzero(mask)
        rows = kept if rows is None else rows[kept]
        found = found.take(kept)
        tx = None if tx is None else tx[kept]
    columns: dict[str, Column] = {}
    term = scan.value if which == "value" else scan.entity
    if isinstance(term, Var) and term.name in scan.variables and term.name not in left.columns:
        columns[term.name] = run.local(view, found)
    if isinstance(scan.tx, Var) and scan.tx.name in scan.variables and scan.tx.name not in left.columns:
        assert tx is not None
        columns[scan.tx.name] = Column(tx, Kind.LONG)
    if isinstance(added, Var) and added.name in scan.variables and added.name not in left.columns:
        columns[added.name] = Column(np.ones(found.codes.size, dtype=np.int64), Kind.BOOLEAN)
    if not columns and not single and rows is not None and rows.size > 1:
        first = np.empty(rows.size, dtype=np.bool_)
        first[0] = True
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        rows = rows[first]
    new = term.name if isinstance(term, Var) and term.name in columns else None
    adds = frozenset() if single or not columns else None if new is None else frozenset({new})
    return rows, columns, adds
