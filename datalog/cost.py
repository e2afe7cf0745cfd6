"""Cost: how many rows a step will give, from counts of the index. Estimates choose an order, they never decide an answer.

The formulas are System R's: the join of R and S on x has |R||S| / max(distinct x in R, distinct x in S) rows, where the
distinct values are those *before* any selection: a selection on other columns leaves as large a part of the join as of the
relation. What the index counts exactly is taken from it: datoms of an attribute, of a value, of a value range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datalog.plan import Const, Input, Scan, Tuples, Unit, Var
from datalog.record import Record
from store.datom import END_OF_EIDS
from store.errors import UserError
from store.value import Kind, encode_inline, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datalog.lower import Atom, SourceInfo
    from datalog.plan import Node

_MOST_KNOWN = 4.0  # entities of a constant that are looked up while planning
_UNKNOWN_FANOUT = 6.0  # datoms of an entity whose attribute is a variable
SELECTIVITY = {"=": 0.1, "==": 0.1, "<": 0.33, ">": 0.33, "<=": 0.33, ">=": 0.33, "not=": 0.9, "!=": 0.9}


class Domain(float):
    """The number of distinct values that a variable has, and where they come from.

    column: the (source, attribute) whose values they are; skew: how many times more datoms of it a random datom's value has
        than the average. A column joined with itself meets its frequent values that much oftener.
    known: the codes themselves, when a constant leads to a few of them.
    count: datoms of the column that have one of some codes; None when the scan selects otherwise, too.
    """

    column: tuple[str, int] | None = None
    skew: float = 1.0
    known: tuple[int, ...] | None = None
    count: Callable[[tuple[int, ...]], float] | None = None


@dataclass(slots=True, eq=False, repr=False)
class State:
    """A partial plan: its node, its estimated rows, and for each bound variable the distinct values of its domain."""

    node: Node = field(default_factory=Unit)
    rows: float = 1.0
    distinct: dict[str, float] = field(default_factory=dict)
    volatile: bool = False


class Size(Record):
    """A leaf seen as a relation: rows, and for each variable the distinct values of its domain."""

    rows: float
    distinct: dict[str, float]


class Sizes:
    """Sizes of leaves, each counted once for a plan."""

    def __init__(self, sources: Mapping[str, SourceInfo]) -> None:
        self._sources = sources
        self._known: dict[int, tuple[Node, Size]] = {}  # the node is held, so that its id stays its own

    def leaf(self, atom: Atom) -> Size:
        """The size of a scan, tuples, input or derived atom."""
        known = self._known.get(id(atom.node))
        if known is not None:
            return known[1]
        node = atom.node
        if isinstance(node, Scan):
            found = self._scan(node)
        elif isinstance(node, Tuples | Input):
            found = Size(max(node.rows, 0.1), dict.fromkeys(node.variables, max(node.rows, 0.1)))
        else:
            found = Size(node.rows, dict.fromkeys(node.variables, max(1.0, node.rows**0.75)))
        self._known[id(node)] = (node, found)
        return found

    def _scan(self, scan: Scan) -> Size:
        snapshot = self._sources[scan.source].snapshot
        if isinstance(scan.attribute, int):
            if scan.attribute < 0:
                return Size(0.1, dict.fromkeys(scan.variables, 0.1))
            return self._attribute_scan(scan, snapshot, scan.attribute)
        total = float(snapshot.count_all())
        rows = total
        entities = max(1.0, total / _UNKNOWN_FANOUT)
        if scan.entity is not None and not isinstance(scan.entity, Var):
            rows, entities = min(total, _UNKNOWN_FANOUT), 1.0
        if scan.value is not None and not isinstance(scan.value, Var):
            rows = max(1.0, rows / 50)
        if not isinstance(scan.attribute, Var) and scan.attribute is not None:
            rows = max(1.0, rows / _UNKNOWN_FANOUT)
        distinct = dict.fromkeys(scan.variables, max(rows, 0.1))
        if isinstance(scan.entity, Var):
            distinct[scan.entity.name] = min(entities, max(rows, 0.1))
        if isinstance(scan.attribute, Var):
            distinct[scan.attribute.name] = min(max(rows, 0.1), 20.0)
        return Size(max(rows, 0.1), distinct)

    def _attribute_scan(self, scan: Scan, snapshot: Any, aid: int) -> Size:
        total = float(snapshot.count(aid))
        distinct_values, skew = snapshot.spread(aid)
        values = float(max(1, distinct_values)) if total else 1.0
        entities = total if not scan.many else max(1.0, total / 2)
        rows = total
        if scan.value is not None and not isinstance(scan.value, Var):
            rows = self._value_rows(scan, snapshot, aid, total / values)
        elif scan.bounds:
            rows = self._range_rows(scan, snapshot, aid, total)
        if scan.entity is not None and not isinstance(scan.entity, Var):
            rows = min(rows, max(1.0, total / max(entities, 1.0)) if scan.many else 1.0)
        has_value = isinstance(scan.value, Var) and scan.value.name in scan.variables
        has_entity = isinstance(scan.entity, Var) and scan.entity.name in scan.variables
        if len(scan.variables) == has_value + has_entity:  # what nobody asks for makes no rows of its own
            if not has_entity and (scan.entity is None or isinstance(scan.entity, Var)):
                rows = min(rows, values if has_value else 1.0)
            if not has_value and (scan.value is None or isinstance(scan.value, Var)):
                rows = min(rows, entities if has_entity else 1.0)
        rows = max(rows, 0.1)
        distinct = dict.fromkeys(scan.variables, rows)
        if isinstance(scan.value, Var) and has_value:
            distinct[scan.value.name] = domain = Domain(values)
            domain.column = (scan.source, aid)
            if has_entity:  # else each value is there once
                domain.skew = skew
                domain.count = self._counter(scan, snapshot, aid)
        if isinstance(scan.entity, Var) and has_entity:
            distinct[scan.entity.name] = domain = Domain(max(1.0, entities))
            if isinstance(scan.value, Const) and rows <= _MOST_KNOWN:
                domain.known = self._holders(scan, snapshot, aid)
        return Size(rows, distinct)

    @staticmethod
    def _counter(scan: Scan, snapshot: Any, aid: int) -> Callable[[tuple[int, ...]], float] | None:
        """How many datoms have some codes, for a scan that selects by nothing else."""
        if scan.bounds or not scan.ref:
            return None
        return lambda codes: float(sum(snapshot.count_value(aid, c) for c in codes))

    @staticmethod
    def _holders(scan: Scan, snapshot: Any, aid: int) -> tuple[int, ...] | None:
        """The few entities that have a constant value."""
        assert isinstance(scan.value, Const)
        attribute = snapshot.schema.by_aid(aid)
        value = scan.value.value
        if attribute.is_ref or not hasattr(snapshot, "holders"):
            return None
        if attribute.kind is Kind.INTERNED:
            code = snapshot.codes().find(value)
        else:
            code = encode_inline(attribute.kind, value) if kind_of(value) is attribute.kind else None
        return None if code is None else tuple(snapshot.holders(aid, code))

    @staticmethod
    def _value_rows(scan: Scan, snapshot: Any, aid: int, average: float) -> float:
        """Datoms with a constant value: counted, or the average for an input whose value changes from run to run."""
        if not isinstance(scan.value, Const):
            return average
        attribute = snapshot.schema.by_aid(aid)
        value = scan.value.value
        if attribute.is_ref and type(value) is not int:
            try:
                value = snapshot.entid(value)
            except UserError:
                return average
        if value is None or (attribute.is_ref and not 0 < value < END_OF_EIDS):
            return 0.1
        if attribute.kind is not Kind.INTERNED:
            return float(snapshot.count_value(aid, encode_inline(attribute.kind, value)))
        code = snapshot.codes().find(value)
        return 0.1 if code is None else float(snapshot.count_value(aid, code))

    @staticmethod
    def _range_rows(scan: Scan, snapshot: Any, aid: int, total: float) -> float:
        kind = snapshot.schema.by_aid(aid).kind
        low = high = None
        guessed = 1.0
        for bound in scan.bounds:
            if isinstance(bound.term, Const) and kind_of(bound.term.value) is kind and kind is not Kind.INTERNED:
                code = encode_inline(kind, bound.term.value)
                if bound.op[0] == ">":
                    low = code if low is None else max(low, code)
                else:
                    high = code if high is None else min(high, code)
            else:
                guessed *= SELECTIVITY[bound.op]
        rows = total if low is None and high is None else float(snapshot.count_range(aid, low, high))
        return rows * guessed


def joined(state: State, size: Size) -> tuple[float, dict[str, float]]:
    """Rows and distinct values after joining a state with a leaf."""
    rows = state.rows * size.rows
    for name, here in size.distinct.items():
        there = state.distinct.get(name)
        if there is None:
            continue
        known, count = getattr(there, "known", None), getattr(here, "count", None)
        if known is not None and count is not None and size.rows > 0:
            rows *= max(count(known), 0.1) / size.rows / max(1, len(known))
            continue
        rows /= max(here, there, 1.0)
        column = getattr(here, "column", None)
        if column is not None and column == getattr(there, "column", None):
            rows *= here.skew  # type: ignore[attr-defined]
    distinct = dict(state.distinct)
    for name, here in size.distinct.items():
        there = distinct.get(name)
        distinct[name] = here if there is None else min(here, there)
    return max(rows, 0.01), distinct
