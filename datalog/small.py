"""Small: the path of point queries, over a few lookups and Python lists instead of arrays.

A plan that is a chain of lookups from a known value is compiled to a few steps. Arrays pay from some tens of rows on, so a
run that finds more hands over to the engine.

Place on the path: `query.Prepared` tries it before engine.run_plan and find.shape, when no limits are asked for. It takes
only what it can do exactly: scans of one database with constant attributes, each reached from a constant, a scalar input
or a column already there; plain variables in `:find`; nothing to sort, aggregate or compute.

The answer is that of the engine; tests run every case through both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datalog.ast import BindVariable, InputBinding, InputSource
from datalog.lower import is_lookup
from datalog.plan import Const, Join, Param, Plan, Project, Scan, Var
from datalog.record import Record
from datalog.result import Result, ResultColumn
from store.datom import END_OF_EIDS
from store.value import INT64_MAX, INT64_MIN, Kind, canonical, decode_one, encode_inline, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datalog.plan import Node

_MOST_ROWS = 64
_MOST_START = 16.0  # estimated entities of a value that the first step may start from
TOO_MANY = object()


class Step(Record):
    """One lookup for each row. `key` and `check` are slots of the row, or constants: what is looked up, what must be found.

    forward: the values of the entity `key`; else the entities that have the value `key`. The found code is appended to the
    row, or compared with `check`; with `exists` a row passes once, whatever is found.
    """

    forward: bool
    aid: int
    kind: Kind
    is_ref: bool
    key: int | Const | Param
    check: int | Const | Param | None
    exists: bool


class SmallPlan(Record):
    """The steps of a plan, and which slots make its columns; a Param stands for itself in the answer."""

    source: int  # which input is the database
    scalars: tuple[tuple[str, int, bool], ...]  # scalar inputs: name, index, in entity position
    steps: tuple[Step, ...]
    slots: tuple[tuple[int | str, Kind], ...]
    shape: str
    names: tuple[str, ...]
    distinct: bool

    def run(self, inputs: Sequence[Any], snapshot: Any) -> Any:
        """The answer, or TOO_MANY when the engine should make it."""
        # only what a query makes needs an overlay of its own, and nothing is made here
        codes = snapshot.dictionary if snapshot.overlay_codes is None else snapshot.codes()
        params: dict[str, Any] = {}
        for name, index, entity in self.scalars:
            value = inputs[index]
            if entity and type(value) is not int and is_lookup(value):
                found = snapshot.entid(value)
                value = value if found is None else found
            params[name] = value
        rows: list[tuple[int, ...]] = [()]
        for step in self.steps:
            rows = _stepped(step, rows, params, snapshot, codes)
            if len(rows) > _MOST_ROWS:
                return TOO_MANY
            if not rows:
                break
        return self.answer(rows, params, codes)

    def answer(self, rows: list[tuple[int, ...]], params: dict[str, Any], codes: Any) -> Any:
        """The rows in the shape of the query."""
        if self.distinct and len(rows) > 1:
            wanted = [s for s, _ in self.slots if isinstance(s, int)]
            rows = list({tuple([r[s] for s in wanted]): r for r in rows}.values())
        shape = self.shape
        if shape in ("scalar", "tuple"):
            if not rows:
                return None
            rows = rows[:1]
        columns: list[list[Any]] = []
        for slot, kind in self.slots:
            if isinstance(slot, str):
                columns.append([canonical(params[slot])] * len(rows))
            elif kind is Kind.LONG:
                columns.append([r[slot] for r in rows])
            elif kind is Kind.INTERNED:
                columns.append([codes.decode(r[slot]) for r in rows])
            else:
                columns.append([decode_one(kind, r[slot]) for r in rows])
        if shape == "scalar":
            return columns[0][0]
        if shape == "collection":
            return columns[0]
        if shape == "tuple":
            return tuple([c[0] for c in columns])
        return Result(self.names, [ResultColumn(None, None, c) for c in columns], len(rows))


def _stepped(
    step: Step, rows: list[tuple[int, ...]], params: dict[str, Any], snapshot: Any, codes: Any
) -> list[tuple[int, ...]]:
    """The rows after one step."""
    fixed = None
    key = step.key
    if not isinstance(key, int):
        fixed = _code(step, key, params, snapshot, codes, entity=step.forward)
        if fixed is None:
            return []
    check = step.check
    wanted = None
    if check is not None and not isinstance(check, int):
        wanted = _code(step, check, params, snapshot, codes, entity=not step.forward)
        if wanted is None:
            return []
    made: list[tuple[int, ...]] = []
    for row in rows:
        at = row[key] if fixed is None else fixed  # type: ignore[index]
        found = snapshot.values(at, step.aid) if step.forward else snapshot.holders(step.aid, at)
        if check is not None:
            if (row[check] if wanted is None else wanted) in found:  # type: ignore[index]
                made.append(row)
        elif step.exists:
            if found:
                made.append(row)
        else:
            made += [(*row, code) for code in found]
    return made


def _code(
    step: Step, term: Const | Param | Any, params: dict[str, Any], snapshot: Any, codes: Any, *, entity: bool
) -> Any:
    """The code of a constant or input in entity or value position; None when nothing can match it."""
    value = params[term.name] if isinstance(term, Param) else term.value
    if entity or step.is_ref:
        if type(value) is int:
            return value if 0 < value < END_OF_EIDS else None
        return snapshot.entid(value) if is_lookup(value) else None
    if value is None:
        return None
    if type(value) is int and step.kind is Kind.LONG:
        return value if INT64_MIN <= value <= INT64_MAX else None
    if step.kind is not Kind.INTERNED:
        return encode_inline(step.kind, value) if kind_of(value) is step.kind else None
    return codes.find(value if type(value) is str else canonical(value))


def compile_small(plan: Plan, schema: Any) -> SmallPlan | None:
    """The small plan of a plan, or None when it is none."""
    query = plan.query
    if (
        plan.group is not None
        or plan.having
        or plan.order
        or query.with_
        or query.keys is not None
        or query.limit is not None
        or query.offset is not None
        or plan.attributes
        or plan.references
    ):
        return None
    scalars: list[tuple[str, int, bool]] = []
    source: int | None = None
    for index, given in enumerate(query.inputs):
        if isinstance(given, InputSource) and source is None:
            source = index
        elif isinstance(given, InputBinding) and isinstance(given.binding, BindVariable):
            name = given.binding.variable.name
            scalars.append((name, index, name in plan.entities))
        else:
            return None
    if source is None or not isinstance(plan.root, Project):
        return None
    compiler = _Compiler(schema)
    if not compiler.node(plan.root.child) or not compiler.steps:
        return None
    slots: list[tuple[int | str, Kind]] = []
    for output in plan.outputs:
        if output.expression is not None or output.pull_source is not None:
            return None
        if isinstance(output.term, Param):
            slots.append((output.term.name, Kind.INTERNED))
        elif output.term.name in compiler.slots:
            slots.append(compiler.slots[output.term.name])
        else:
            return None
    return SmallPlan(
        source=source,
        scalars=tuple(scalars),
        steps=tuple(compiler.steps),
        slots=tuple(slots),
        shape=query.shape,
        names=tuple(o.name for o in plan.outputs),
        distinct=compiler.repeats or len(slots) < compiler.width,
    )


class _Compiler:
    """Turns a chain of joins into steps; `slots` says where each variable's code stands in a row."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.steps: list[Step] = []
        self.slots: dict[str, tuple[int, Kind]] = {}
        self.width = 0
        self.repeats = False

    def node(self, node: Node) -> bool:
        """Whether a node could be taken; its steps are then added."""
        if isinstance(node, Project) and not node.distinct:
            return self.node(node.child)
        if isinstance(node, Join):
            return self.node(node.left) and isinstance(node.right, Scan) and self.scan(node.right)
        return isinstance(node, Scan) and self.scan(node)

    def scan(self, scan: Scan) -> bool:
        """One pattern as a step, if its entity or its value is known before it."""
        if not isinstance(scan.attribute, int) or scan.attribute < 0 or scan.bounds:
            return False
        if scan.tx is not None or scan.added is not None or not self.schema.has_aid(scan.attribute):
            return False
        attribute = self.schema.by_aid(scan.attribute)
        entity, value = self.known(scan.entity, Kind.LONG), self.known(scan.value, attribute.kind)
        if entity is not None:
            return self.step(scan, attribute, entity, value, forward=True)
        if value is not None and attribute.indexed and (attribute.unique is not None or scan.rows <= _MOST_START):
            return self.step(scan, attribute, value, None, forward=False)
        return False

    def known(self, term: Any, kind: Kind) -> int | Const | Param | None:
        """The slot or constant of a term that is known; None for one that is free."""
        if isinstance(term, Const | Param):
            return term
        if isinstance(term, Var) and term.name in self.slots:
            slot, found = self.slots[term.name]
            return slot if found is kind else None
        return None

    def step(self, scan: Scan, attribute: Any, key: Any, check: Any, *, forward: bool) -> bool:
        """Add a step; False when the free side is a column of another kind."""
        free = scan.value if forward else scan.entity
        if isinstance(free, Var) and free.name in self.slots and check is None:
            return False
        wanted = isinstance(free, Var) and free.name in scan.variables
        exists = check is None and not wanted
        self.steps.append(Step(forward, attribute.aid, attribute.kind, attribute.is_ref, key, check, exists))
        if wanted and check is None:
            assert isinstance(free, Var)
            self.slots[free.name] = (self.width, attribute.kind if forward else Kind.LONG)
            self.width += 1
        return True
