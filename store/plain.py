"""Plain transactions: adds of plain values to few entities, from forms to rows in one short loop.

Most small transactions are of this kind, and the stages of the general path (txdata, resolve, effects) cost more than what
there is to do. Whatever is not plain gives None, without judging it: lookup refs, retractions, functions, nested maps,
collections of values, composites, unique values in company, tempids as values, wrong values. The general path then says what it
means, or what is wrong. Both give the same rows; tests run transactions through both.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from store.datom import MAX_EID
from store.edn import Keyword, Symbol
from store.errors import UserError
from store.txdata import CURRENT_TX

if TYPE_CHECKING:
    from store.dictionary import NewCodes
    from store.overlay import Row
    from store.schema import Attribute
    from store.snapshot import Snapshot

MOST_FORMS: Final = 32
_NAMES: Final = frozenset((str, Keyword))
_ADD: Final = (":db/add", Keyword("db/add"))
_SCALARS: Final = frozenset((str, int, float, bool, bytes, Keyword, Symbol, datetime, UUID, Decimal))


class PlainRows(NamedTuple):
    """What plain forms come to: rows with the retractions first, and beside each the operation as the log has it."""

    rows: list[Row]
    operations: list[int]
    max_eid: int
    tempids: dict[Any, int]


def plain_rows(forms: list[Any], before: Snapshot, codes: NewCodes, max_eid: int, tx: int) -> PlainRows | None:
    """The rows of plain forms in transaction `tx`; None for others."""
    if len(forms) > MOST_FORMS:
        return None
    schema = before.schema
    find = schema.by_name().get
    composites = schema.composites
    alone = len(forms) == 1
    retracts: list[Row] = []
    retract_operations: list[int] = []
    adds: list[Row] = []
    operations: list[int] = []
    tempids: dict[Any, int] = {}
    seen: set[tuple[int, int]] = set()
    newest = top = max_eid
    for form in forms:
        kind = type(form)
        name: Any = None
        unique = False
        if kind is dict:
            e = form.get(":db/id")
            facts = []
            for key, value in form.items():
                attribute = find(key)
                if attribute is None:
                    if key == ":db/id":
                        continue
                    return None
                code = _code(attribute, value, codes, max_eid)
                if code is None or attribute.aid in composites:
                    return None
                if attribute.unique is not None:
                    if not alone or unique or attribute.unique != "identity":
                        return None
                    unique = True
                    holders = before.holders(attribute.aid, code)
                facts.append((attribute, code))
            if not facts:
                return None
        elif (kind is list or kind is tuple) and len(form) == 4 and type(form[0]) in _NAMES and form[0] in _ADD:
            e = form[1]
            if e is None:
                return None
            attribute = find(form[2]) if type(form[2]) in _NAMES else None
            if attribute is None or attribute.unique is not None or attribute.aid in composites:
                return None
            code = _code(attribute, form[3], codes, max_eid)
            if code is None:
                return None
            facts = [(attribute, code)]
        else:
            return None
        # the entity: an id, a new one, or a tempid
        if type(e) is int and e > 0:
            if unique or e > MAX_EID:
                return None
            top = max(top, e)
        else:
            if e is not None:
                if not (type(e) is int and e < 0) and not (type(e) is str and e[:1] != ":" and e not in CURRENT_TX):
                    return None
                name, e = e, tempids.get(e)
            if unique and holders:
                e = holders[0]
            if e is None:
                newest += 1
                e = newest
            if name is not None:
                tempids[name] = e
        for attribute, code in facts:
            aid = attribute.aid
            place = (e, aid)
            if place in seen:  # two values for one, or one given twice: not for here
                return None
            seen.add(place)
            if e <= max_eid:
                old = before.values(e, aid)
                if old:
                    if code in old:
                        continue
                    if not attribute.many:
                        for v in old:
                            retracts.append((e, aid, v, tx, 0))
                            retract_operations.append(attribute.log_kind)
            adds.append((e, aid, code, tx, 1))
            operations.append(attribute.log_kind | 1)
    if newest > max_eid and (top > max_eid or newest > MAX_EID):
        return None  # explicit ids above all others come before new ones
    if retracts:
        adds = retracts + adds
        operations = retract_operations + operations
    return PlainRows(adds, operations, max(top, newest), tempids)


def _code(attribute: Attribute, value: Any, codes: NewCodes, max_eid: int) -> int | None:
    """The code of a plain value; None for anything else."""
    if not attribute.plain:
        if attribute.is_ref and not attribute.system and type(value) is int and 0 < value <= max_eid:
            return value
        return None
    if type(value) not in _SCALARS:
        return None
    try:
        inline = attribute.inline
        return codes.encode(attribute.coerce(value)) if inline is None else inline(attribute.coerce(value))
    except UserError:
        return None
