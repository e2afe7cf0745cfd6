"""Transactions, stages 2 and 3: values -> codes, then nodes -> eids (upserts to a fixed point, before anything is written).

Takes an `Expansion`; gives operations, or columns, with eids and codes only. Lookup refs of entities that exist were
resolved while expanding; here a lookup ref meets the entity of this transaction that asserts its value.

How nodes are resolved:
 1. Every assertion of a unique value by an entity is a fact (attribute, value) -> entity. An entity of the database that
    has the value already is the same entity; two nodes that assert the same unique identity are one.
 2. A ref value may itself be a node, so this is repeated until nothing changes.
 3. What is left are new entities: eids above the highest in use, in order of appearance.
Two different eids for one node is a conflicting upsert, an error that names both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from uuid import UUID

import numpy as np

from store.datom import FIRST_TX, MAX_EID
from store.edn import Keyword, Symbol, show_form
from store.errors import DatalogError, SchemaError, TransactionError, UserError
from store.txdata import ADD, CAS, RETRACT_ATTRIBUTE
from store.value import Kind, encode_inline, show_python, uniform_column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from store.schema import Attribute
    from store.snapshot import Snapshot
    from store.txdata import AttributeColumn, Expansion

    Codes = NDArray[np.int64]


class CodeSource(Protocol):
    """What gives interned codes: NewCodes in a transaction, OverlayCodes in a speculative one."""

    def encode(self, value: Any) -> int:
        """The code of a value, a new one if need be."""
        ...

    def encode_many(self, values: list[Any]) -> Codes:
        """The codes of many values."""
        ...

    def encode_all_of(self, kind: type, values: list[Any]) -> Codes | None:
        """The codes of many values of one type; None when one is of another."""
        ...

    def decode(self, code: int) -> Any:
        """The value of a code."""
        ...


# An operation with eids and codes: code, e, attribute, v (None where a value does not matter), place, expect.
ResolvedOp = tuple[int, int, "Attribute | None", "int | None", int, "int | None"]


class ResolvedColumn(NamedTuple):
    """Adds of one attribute: int64 (n,) each, in the order given."""

    attribute: Attribute
    e: Codes
    v: Codes


@dataclass(slots=True)
class Resolved:
    """The result: `ops`, or `columns` for a batch."""

    ops: list[ResolvedOp] = field(default_factory=list)
    columns: list[ResolvedColumn] | None = None
    tempids: dict[Any, int] = field(default_factory=dict)
    max_eid: int = 0
    first_new_eid: int = 0


class _Fact(NamedTuple):
    e: int
    attribute: Attribute
    v: int


def _named(error: UserError, attribute: Attribute, place: int) -> DatalogError:
    kind = type(error) if isinstance(error, TransactionError | SchemaError) else TransactionError
    return kind(
        error.code,
        f"{attribute.ident}: {error.message} In form {place + 1}.",
        expected=error.expected,
        hint=error.hint,
        data={"attribute": attribute.ident},
    )


def encode(attribute: Attribute, value: Any, codes: CodeSource) -> int:
    """The code of a value in an attribute's columns; UserError when it is of the wrong type."""
    inline = attribute.inline
    if inline is None:
        return codes.encode(attribute.coerce(value))
    return inline(attribute.coerce(value))


def resolve(expansion: Expansion, snapshot: Snapshot, codes: CodeSource, max_eid: int) -> Resolved:
    """The operations of an expansion with eids and codes; faults are added to `expansion.errors`.

    Where there are faults already, values are still checked, so that all faults come together.
    """
    resolved = Resolved(max_eid=max_eid, first_new_eid=max_eid + 1)
    if expansion.columns is not None:
        return _resolve_columns(expansion, snapshot, codes, resolved)
    coded: list[tuple[Any, ...]] = []
    facts: list[_Fact] = []
    intern = codes.encode
    for op in expansion.ops:
        code, e, attribute, v, place, expect = op
        if attribute is not None and code != RETRACT_ATTRIBUTE:
            if not attribute.is_ref:
                try:
                    inline = attribute.inline
                    v = intern(attribute.coerce(v)) if inline is None else inline(attribute.coerce(v))
                    if expect is not None:
                        expect = encode(attribute, expect, codes)
                except UserError as error:
                    expansion.errors.append(_named(error, attribute, place))
                    continue
                op = (code, e, attribute, v, place, expect)  # noqa: PLW2901 - the same operation, coded
            if attribute.unique is not None and code in (ADD, CAS):
                facts.append(_Fact(e, attribute, v))
        coded.append(op)
    if expansion.errors:
        return resolved
    if expansion.nodes:
        eids = _resolve_nodes(expansion, snapshot, codes, facts, resolved)
        coded = [_substitute(op, eids) for op in coded]
    top = resolved.max_eid
    for code, e, attribute, v, _, _ in coded:
        if code in (ADD, CAS):
            if MAX_EID >= e > top:
                top = e
            if attribute.is_ref and MAX_EID >= v > top:
                top = v
    resolved.max_eid = top
    resolved.ops = coded
    return resolved


def _substitute(op: tuple[Any, ...], eids: list[int]) -> tuple[Any, ...]:
    code, e, attribute, v, place, expect = op
    if e < 0:
        e = eids[-1 - e]
    if attribute is not None and attribute.is_ref:
        if v is not None and v < 0:
            v = eids[-1 - v]
        if expect is not None and expect < 0:
            expect = eids[-1 - expect]
    return code, e, attribute, v, place, expect


# ---------------------------------------------------------------------------------------------------------------------
# batches


_AS_THEY_ARE: Final[dict[str | None, type]] = {
    "string": str,
    "keyword": Keyword,
    "symbol": Symbol,
    "uuid": UUID,
    "bytes": bytes,
}


def encode_column(attribute: Attribute, values: list[Any], codes: CodeSource) -> Codes:
    """The codes of a list of values, int64 (n,): as an array where all have the one right type, else one by one.

    Raises:
        UserError: for the first value that the attribute cannot hold, with its place in `data["row"]`.
    """
    as_is = _AS_THEY_ARE.get(attribute.type)
    if as_is is not None:
        interned = codes.encode_all_of(as_is, values)
        if interned is not None:
            return interned
        if as_is is Keyword:
            of_texts = _keywords_of_texts(attribute, values, codes)
            if of_texts is not None:
                return of_texts
    else:
        uniform = uniform_column(attribute.type, values)
        if uniform is not None:
            return uniform[1]
    coerced = []
    for row, value in enumerate(values):
        try:
            coerced.append(attribute.coerce(value))
        except UserError as e:
            e.data = {**(e.data or {}), "row": row}
            raise
    if attribute.kind is Kind.INTERNED:
        return codes.encode_many(coerced)
    kind = attribute.kind
    return np.fromiter((encode_inline(kind, v) for v in coerced), dtype=np.int64, count=len(coerced))


def _keywords_of_texts(attribute: Attribute, values: list[Any], codes: CodeSource) -> Codes | None:
    """The codes of keywords that are given as text, each text looked at once; None when there is anything else among them."""
    if set(map(type, values)) != {str}:
        return None
    texts = list(dict.fromkeys(values))
    try:
        keywords = [attribute.coerce(text) for text in texts]
    except UserError:  # which row it is the caller finds
        return None
    table = dict(zip(texts, codes.encode_many(keywords).tolist(), strict=True))
    return np.fromiter(map(table.__getitem__, values), dtype=np.int64, count=len(values))


def _resolve_columns(expansion: Expansion, snapshot: Snapshot, codes: CodeSource, resolved: Resolved) -> Resolved:
    assert expansion.columns is not None
    encoded: list[tuple[AttributeColumn, Codes, Codes]] = []
    facts: list[_Fact] = []
    known: dict[tuple[int, int], int] = {}
    for column in expansion.columns.values():
        if not column.es:
            continue
        attribute = column.attribute
        v = _encode_or_collect(expansion, column, codes)
        if v is None:
            continue
        e = np.array(column.es, dtype=np.int64)
        encoded.append((column, e, v))
        if attribute.unique is not None:
            facts.extend(map(_Fact._make, zip(column.es, [attribute] * len(column.es), v.tolist(), strict=True)))
            if snapshot.count(attribute.aid):
                rows, holders = snapshot.lookup(attribute.aid, v)[:2]
                for code, holder in zip(v[rows].tolist(), holders.tolist(), strict=True):
                    known[attribute.aid, code] = holder
    if expansion.errors:
        return resolved
    eids = np.array(
        _resolve_nodes(expansion, snapshot, codes, facts, resolved, known) if expansion.nodes else [], dtype=np.int64
    )
    resolved.columns = []
    for column, e, v in encoded:
        new_e = _put_eids(e, eids)
        new_v = _put_eids(v, eids) if column.attribute.is_ref else v
        resolved.columns.append(ResolvedColumn(column.attribute, new_e, new_v))
        for part in (new_e, new_v) if column.attribute.is_ref else (new_e,):
            plain = part[part <= MAX_EID]
            if len(plain):
                resolved.max_eid = max(resolved.max_eid, int(plain.max()))
    return resolved


def _encode_or_collect(expansion: Expansion, column: AttributeColumn, codes: CodeSource) -> Codes | None:
    attribute = column.attribute
    if attribute.is_ref:
        return np.array(column.vs, dtype=np.int64)
    try:
        return encode_column(attribute, column.vs, codes)
    except UserError as first:
        before = len(expansion.errors)
        for value, place in zip(column.vs, column.places, strict=True):
            try:
                encode(attribute, value, codes)
            except UserError as e:
                expansion.errors.append(_named(e, attribute, place))
        if len(expansion.errors) == before:
            expansion.errors.append(_named(first, attribute, column.places[0]))
        return None


def _put_eids(column: Codes, eids: Codes) -> Codes:
    nodes = column < 0
    if not bool(nodes.any()):
        return column
    if bool(nodes.all()):
        return eids[-1 - column]
    out = column.copy()
    out[nodes] = eids[-1 - column[nodes]]
    return out


# ---------------------------------------------------------------------------------------------------------------------
# nodes


class _Unify:
    """Union-find over nodes, each class with at most one eid and the fact that gave it."""

    __slots__ = ("because", "eid", "parent")

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))
        self.eid: dict[int, int] = {}
        self.because: dict[int, _Fact | None] = {}

    def find(self, i: int) -> int:
        parent = self.parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def assign(self, i: int, eid: int, fact: _Fact | None) -> tuple[int, int] | None:
        """Gives a class its eid; the two eids when it has another one."""
        root = self.find(i)
        old = self.eid.get(root)
        if old is None:
            self.eid[root] = eid
            self.because[root] = fact
            return None
        return None if old == eid else (old, eid)

    def union(self, i: int, j: int) -> tuple[int, int] | None:
        """Makes two classes one; the two eids when they have different ones."""
        a, b = self.find(i), self.find(j)
        if a == b:
            return None
        a, b = min(a, b), max(a, b)
        self.parent[b] = a
        if b in self.eid:
            eid, because = self.eid.pop(b), self.because.pop(b)
            return self.assign(a, eid, because)
        return None


def _resolve_nodes(
    expansion: Expansion,
    snapshot: Snapshot,
    codes: CodeSource,
    facts: list[_Fact],
    resolved: Resolved,
    known: dict[tuple[int, int], int] | None = None,
) -> list[int]:
    """The eid of each node; new ones are given out, `resolved.tempids` and `.max_eid` are set."""
    nodes = expansion.nodes
    unify = _Unify(len(nodes))
    lookups: list[_Fact] = []
    for i, node in enumerate(nodes):
        if node.lookup is not None:
            attribute, value = node.lookup
            v = value if attribute.is_ref else encode(attribute, value, codes)
            lookups.append(_Fact(-1 - i, attribute, v))
    if facts or lookups:
        _unify_facts(expansion, snapshot, codes, facts, lookups, unify, known)
    return _give_eids(expansion, unify, resolved)


def _unify_facts(
    expansion: Expansion,
    snapshot: Snapshot,
    codes: CodeSource,
    facts: list[_Fact],
    lookups: list[_Fact],
    unify: _Unify,
    known: dict[tuple[int, int], int] | None,
) -> None:
    holders: dict[tuple[int, int], int | None] = {}

    def holder(attribute: Attribute, v: int) -> int | None:
        key = (attribute.aid, v)
        if known is not None:
            return known.get(key)
        if key not in holders:
            found = snapshot.holders(attribute.aid, v) if snapshot.schema.has_aid(attribute.aid) else []
            holders[key] = found[0] if found else None
        return holders[key]

    has_ref_nodes = any(f.attribute.is_ref and f.v < 0 for f in facts) or any(
        f.attribute.is_ref and f.v < 0 for f in lookups
    )
    while True:
        before = (dict(unify.eid), list(unify.parent)) if has_ref_nodes else None
        table: dict[tuple[int, int, bool], int] = {}
        by_value: dict[tuple[int, int, bool], int] = {}
        for fact in facts:
            e, attribute, v = fact
            as_node = False
            if attribute.is_ref and v < 0:
                root = unify.find(-1 - v)
                as_node = root not in unify.eid
                v = -1 - root if as_node else unify.eid[root]
            key = (attribute.aid, v, as_node)
            if attribute.unique == "value":
                by_value.setdefault(key, e)
                continue
            if e < 0 and not as_node:
                found = holder(attribute, v)
                if found is not None:
                    _report(expansion, snapshot, codes, unify, -1 - e, unify.assign(-1 - e, found, fact), fact)
            other = table.setdefault(key, e)
            if other != e:
                _join(expansion, snapshot, codes, unify, e, other, fact)
        for fact in lookups:
            e, attribute, v = fact
            as_node = False
            if attribute.is_ref and v < 0:
                root = unify.find(-1 - v)
                as_node = root not in unify.eid
                v = -1 - root if as_node else unify.eid[root]
            key = (attribute.aid, v, as_node)
            other_e = table.get(key, by_value.get(key))
            if other_e is not None:
                _join(expansion, snapshot, codes, unify, e, other_e, fact)
        if before is None or before == (unify.eid, unify.parent):
            return


def _join(
    expansion: Expansion, snapshot: Snapshot, codes: CodeSource, unify: _Unify, e: int, other: int, fact: _Fact
) -> None:
    if e < 0 and other < 0:
        conflict = unify.union(-1 - e, -1 - other)
    elif e < 0 or other < 0:
        node, eid = (e, other) if e < 0 else (other, e)
        conflict = unify.assign(-1 - node, eid, fact)
    else:
        return  # two eids with one unique value: the uniqueness check says so
    _report(expansion, snapshot, codes, unify, -1 - (e if e < 0 else other), conflict, fact)


def _report(
    expansion: Expansion,
    snapshot: Snapshot,  # noqa: ARG001 - kept beside codes, as both show values
    codes: CodeSource,
    unify: _Unify,
    node: int,
    conflict: tuple[int, int] | None,
    fact: _Fact,
) -> None:
    if conflict is None:
        return
    named = expansion.nodes[node]
    who = f"The tempid {show_form(named.name)}" if named.name is not None else f"The map in form {named.place + 1}"
    root = unify.find(node)
    earlier = unify.because.get(root)
    first = f" by {show_fact(earlier, codes)}" if earlier is not None else ""
    error = TransactionError(
        "tx/conflicting-upserts",
        f"{who} would be two entities: {conflict[0]}{first}, and {conflict[1]} by {show_fact(fact, codes)}.",
        hint="drop one of the two unique values, or use two entities",
        data={"eids": conflict},
    )
    if all(e.message != error.message for e in expansion.errors):
        expansion.errors.append(error)


def show_fact(fact: _Fact, codes: CodeSource) -> str:
    """`:attribute value` of a fact, for messages."""
    return f"{fact.attribute.ident} {show_code(fact.attribute, fact.v, codes)}"


def show_code(attribute: Attribute, code: int, codes: CodeSource) -> str:
    """A code as EDN, for messages."""
    from store.value import decode_one  # noqa: PLC0415

    value = codes.decode(code) if attribute.kind is Kind.INTERNED else decode_one(attribute.kind, code)
    try:
        return show_form(value)
    except DatalogError:
        return show_python(value)


def _give_eids(expansion: Expansion, unify: _Unify, resolved: Resolved) -> list[int]:
    nodes = expansion.nodes
    usable: dict[int, bool] = {}
    for i, node in enumerate(nodes):
        if node.as_entity and node.lookup is None:
            usable[unify.find(i)] = True
    next_eid = resolved.max_eid + 1
    # explicit eids above the highest in use come first: a new entity must not meet them
    top = 0
    if expansion.columns is not None:
        for column in expansion.columns.values():
            top = max(top, max((e for e in column.es if e < FIRST_TX), default=0))
            if column.attribute.is_ref:
                top = max(top, max((v for v in column.vs if v < FIRST_TX), default=0))
    else:
        for code, e, attribute, v, _, _ in expansion.ops:
            if code in (ADD, CAS) and attribute is not None:
                if FIRST_TX > e > top:
                    top = e
                if attribute.is_ref and FIRST_TX > v > top:
                    top = v
    next_eid = max(next_eid, top + 1)
    resolved.first_new_eid = next_eid
    eids: list[int] = []
    find, known = unify.find, unify.eid
    for i, node in enumerate(nodes):
        root = find(i)
        eid = known.get(root)
        if eid is None:
            if not usable.get(root):
                eid = 0
                _unusable(expansion, node)
            else:
                eid = next_eid
                next_eid += 1
            known[root] = eid
        eids.append(eid)
        if node.name is not None:
            resolved.tempids[node.name] = eid
    if next_eid - 1 > MAX_EID:
        raise TransactionError("tx/eids-exhausted", "No entity ids are left below 2^40.", hint="use lower explicit ids")
    resolved.max_eid = max(resolved.max_eid, next_eid - 1)
    return eids


def _unusable(expansion: Expansion, node: Any) -> None:
    if node.lookup is not None:
        attribute, value = node.lookup
        what = show_form(value) if attribute.aid != 1 else None
        shown = f"[{attribute.ident} {what}]" if what is not None else show_form(value)
        expansion.errors.append(
            TransactionError(
                "entity/missing",
                f"There is no entity {shown}, and this transaction makes none. In form {node.place + 1}.",
                hint="check the value, or add the entity in the same transaction",
            )
        )
    else:
        expansion.errors.append(
            TransactionError(
                "tx/tempid-only-value",
                f"The tempid {show_form(node.name)} is used only as a value. In form {node.place + 1}.",
                hint="give the entity at least one attribute, or check the tempid for a slip",
            )
        )
