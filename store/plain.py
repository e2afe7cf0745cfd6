"""Plain transactions: adds of plain values to few entities, from forms to rows in one short loop.

Most small transactions are of this kind, and the stages of the general path (txdata, resolve, effects) cost more than what
there is to do. Whatever is not plain gives None, without judging it: tempids, lookup refs, retractions, functions, nested
maps, collections of values, composites, unique values in company, wrong values. The general path then says what it means,
or what is wrong. Both give the same rows; tests run transactions through both.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from store.datom import MAX_EID
from store.edn import Keyword, Symbol
from store.errors import UserError

if TYPE_CHECKING:
    from store.dictionary import NewCodes
    from store.schema import Attribute
    from store.snapshot import Snapshot

MOST_FORMS: Final = 32
_ADD: Final = (":db/add", Keyword("db/add"))
_SCALARS: Final = frozenset((str, int, float, bool, bytes, Keyword, Symbol, datetime, UUID, Decimal))

PlainRows = tuple[list[tuple[int, int, int, int]], int]


def plain_rows(forms: list[Any], before: Snapshot, codes: NewCodes, max_eid: int) -> PlainRows | None:
    """(rows (e, aid, v, added) with the retractions first, the highest eid in use) of plain forms; None for others."""
    if len(forms) > MOST_FORMS:
        return None
    find = before.schema.by_name().get
    composites = before.schema.composites
    alone = len(forms) == 1
    retracts: list[tuple[int, int, int, int]] = []
    adds: list[tuple[int, int, int, int]] = []
    seen: set[tuple[int, int]] = set()
    newest = top = max_eid
    for form in forms:
        kind = type(form)
        facts: list[tuple[Attribute, int]] = []
        if kind is dict:
            e = form.get(":db/id")
            unique = False
            for key, value in form.items():
                if key == ":db/id":
                    continue
                attribute = find(key)
                code = None if attribute is None else _code(attribute, value, codes, max_eid)
                if attribute is None or code is None or attribute.aid in composites:
                    return None
                if attribute.unique is not None:
                    if not alone or unique or e is not None or attribute.unique != "identity":
                        return None
                    unique = True
                    holders = before.holders(attribute.aid, code)
                    e = holders[0] if holders else None
                facts.append((attribute, code))
            if e is None:
                newest += 1
                e = newest
            elif type(e) is not int or not 0 < e <= MAX_EID:
                return None
            else:
                top = max(top, e)
            if not facts:
                return None
        elif (kind is list or kind is tuple) and len(form) == 4 and form[0] in _ADD:
            e = form[1]
            attribute = find(form[2]) if type(form[2]) in (str, Keyword) else None
            if attribute is None or type(e) is not int or not 0 < e <= MAX_EID:
                return None
            code = _code(attribute, form[3], codes, max_eid)
            if code is None or attribute.unique is not None or attribute.aid in composites:
                return None
            facts.append((attribute, code))
            top = max(top, e)
        else:
            return None
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
                        retracts.extend((e, aid, v, 0) for v in old)
            adds.append((e, aid, code, 1))
    if newest > max_eid and (top > max_eid or newest > MAX_EID):
        return None  # explicit ids above all others come before new ones
    return retracts + adds, max(newest, top)


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
