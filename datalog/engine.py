"""Engine: runs a Plan over column arrays. One function for each node: (run, node) -> Relation.

Place on the path: takes a `plan.Plan` and the inputs, gives the root's Relation; `find` makes the answer of it.

What keeps it fast: columns are shared, never copied without need; a scan on the right side of a join probes an index for
the rows there are (scan.py); calls run in column form or once for each distinct row (calls.py); values are decoded at the
very end. What keeps it safe: every join charges the budget with its size before it allocates, every loop looks at the clock.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import calls, closure, fixpoint, kernels, scan
from datalog.ast import BindBlank, BindCollection, BindTuple, BindVariable, InputBinding, InputName, InputSource
from datalog.errors import QueryError, query_error, show
from datalog.lower import is_lookup
from datalog.plan import (
    AntiJoin,
    Closure,
    Const,
    Derived,
    Extend,
    Filter,
    Fixpoint,
    Input,
    Join,
    Param,
    Project,
    Scan,
    Shared,
    Tuples,
    Union,
    Unit,
    Var,
    binding_text,
    term_text,
)
from datalog.relation import UNIT, Column, LocalCodes, Relation, concat, empty, encode_column
from store.edn import Keyword
from store.value import Kind, canonical, encode_inline, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from datalog.ast import Binding
    from datalog.fixpoint import Predicates
    from datalog.limits import Budget
    from datalog.plan import CallTree, Node, Plan
    from datalog.relation import Codes

    Array = NDArray[np.int64]


_NANOSECONDS_TO_SORT = 80  # a row
_FIRST_PART = 1024  # rows of the first leaf that a limit is looked for in at first


class SourceView:
    """One source of a run: a snapshot, and whether its codes are another space than the run's; or rows of a collection."""

    __slots__ = ("codes", "foreign", "rows", "snapshot")

    def __init__(self, snapshot: Any, rows: list[Any] | None) -> None:
        self.snapshot = snapshot
        self.rows = rows
        self.foreign = False
        self.codes: Any = None


class Run:
    """One evaluation of a plan: its inputs, code space and budget. Confined to one thread, thrown away with the answer."""

    __slots__ = (
        "_operands", "_params", "actual", "budget", "codes", "derived", "inputs", "memo", "names", "plan",
        "round_memo", "rows_scanned", "sources",
    )  # fmt: skip

    def __init__(self, plan: Plan, inputs: Sequence[Any], budget: Budget, *, analyze: bool = False) -> None:
        self.plan = plan
        self.budget = budget
        self.inputs = inputs
        self.sources: dict[str, SourceView] = {}
        self.names: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._operands: dict[int | str, tuple[Kind, int]] = {}
        self.memo: dict[int, Relation] = {}
        self.round_memo: dict[int, Relation] = {}
        self.derived: dict[int, Predicates] = {}
        self.actual: dict[int, int] | None = {} if analyze else None
        self.rows_scanned = 0
        self.codes: Codes
        self._take_inputs()

    # inputs ---------------------------------------------------------------------------------------------------------

    def _take_inputs(self) -> None:
        first: SourceView | None = None
        for given, value in zip(self.plan.query.inputs, self.inputs, strict=True):
            if isinstance(given, InputSource):
                snapshot = snapshot_of(value)
                view = SourceView(snapshot, None if snapshot is not None else collection_rows(value, given.name))
                self.sources[given.name] = view
                if snapshot is not None:
                    first = self._code_space(view, first)
            elif isinstance(given, InputName):
                self.names[given.name] = value
        if first is None:
            self.codes = LocalCodes()
        for given, value in zip(self.plan.query.inputs, self.inputs, strict=True):
            if isinstance(given, InputBinding):
                self._bind_scalars(given.binding, value)

    def _code_space(self, view: SourceView, first: SourceView | None) -> SourceView:
        """The first database's codes are the run's; another dictionary's codes are translated."""
        if first is None:
            view.codes = self.codes = view.snapshot.codes()
            return view
        mine, other = first.snapshot, view.snapshot
        dictionary = getattr(other, "dictionary", None)
        shared = dictionary is not None and dictionary is getattr(mine, "dictionary", None)
        layer = getattr(other, "overlay_codes", None)
        if mine is other or (shared and (layer is None or layer is getattr(mine, "overlay_codes", None))):
            view.codes = self.codes
        else:
            view.codes, view.foreign = other.codes(), True
        return first

    def _bind_scalars(self, binding: Binding, value: Any) -> None:
        """Scalar inputs by name; a tuple binding takes its value apart."""
        if isinstance(binding, BindVariable):
            name = binding.variable.name
            if name in self.plan.params:
                self._params[name] = self.entity_value(name, value)
        elif isinstance(binding, BindTuple):
            items = tuple_items(value, len(binding.items))
            for item, part in zip(binding.items, items, strict=True):
                self._bind_scalars(item, part)

    def entity_value(self, name: str, value: Any) -> Any:
        """An input's value: the eid for a lookup ref or ident passed where an entity is meant, a keyword for an attribute."""
        if name in self.plan.attributes:
            return Keyword(value) if isinstance(value, str) and value.startswith(":") else value
        source = self.plan.entities.get(name)
        if source is None and isinstance(value, tuple | list) and name in self.plan.references and is_lookup(value):
            found = self.sources[self.plan.references[name]].snapshot
            attribute = None if found is None else found.schema.find(str(value[0]))
            if attribute is not None and attribute.unique is not None:
                source = self.plan.references[name]
        if source is not None and is_lookup(value) and self.sources[source].snapshot is not None:
            found = self.sources[source].snapshot.entid(value)
            return value if found is None else int(found)
        return value

    # what nodes ask for ---------------------------------------------------------------------------------------------

    def view(self, name: str) -> SourceView:
        """The source of a name."""
        return self.sources[name]

    def param(self, name: str) -> Any:
        """The value of a scalar input."""
        return self._params[name]

    def name(self, name: str) -> Any:
        """The value passed for a plain symbol of :in."""
        return self.names[name]

    def value_of(self, term: Const | Param | Any) -> Any:
        """The value of a constant or scalar input."""
        return self._params[term.name] if isinstance(term, Param) else term.value

    def raw(self, argument: Any) -> Any:
        """The value of any argument that is the same for all rows."""
        return calls.raw_argument(self, argument)

    def operand(self, term: Const | Param) -> tuple[Kind, int]:
        """(kind, code) of a constant or scalar input."""
        key = term.name if isinstance(term, Param) else id(term)
        found = self._operands.get(key)
        if found is None:
            value = self.value_of(term)
            kind = kind_of(value)
            code = self.codes.encode(canonical(value)) if kind is Kind.INTERNED else encode_inline(kind, value)
            found = self._operands[key] = (kind, code)
        return found

    def function(self, call: CallTree) -> Callable[..., Any]:
        """The Python callable of a call."""
        builtin = call.builtin
        if builtin is not None:
            if builtin.source:
                return calls.source_function(self, call)
            return partial(builtin.scalar, check=self.budget.check) if builtin.checked else builtin.scalar
        assert call.callable_input is not None
        name = call.callable_input
        found = self._params[name] if name.startswith("?") else self.names[name]
        if not callable(found):
            raise QueryError("query/not-callable", f"The input {name} is called, but it is {show(found)}.")
        return found  # type: ignore[no-any-return]

    def truth(self, call: CallTree, relation: Relation) -> NDArray[np.bool_]:
        """The rows for which a call holds."""
        return calls.truth(self, call, relation)

    def charge(self, width: int) -> Callable[[int], None]:
        """What a kernel calls with the number of rows it is about to make."""
        budget = self.budget

        def charge(rows: int) -> None:
            budget.charge(rows, width)

        return charge

    def scanned(self, rows: int) -> None:
        """Count rows read from an index, and look at the clock."""
        self.rows_scanned += rows
        if not self.budget.unlimited:
            self.budget.check()

    # codes of other dictionaries ------------------------------------------------------------------------------------

    def local(self, view: SourceView, column: Column) -> Column:
        """A column read from a source, in the run's codes."""
        if not view.foreign or column.kind is not Kind.INTERNED:
            return column
        unique, position = kernels.inverse(column.codes)
        own = self.codes.encode_many(view.codes.decode_many(unique)) if unique.size else unique
        return Column(own[position], Kind.INTERNED)

    def foreign_codes(self, view: SourceView, column: Column) -> Array:
        """The codes that a source has for the values of an interned column."""
        unique, position = kernels.inverse(column.codes)
        theirs: Array = view.codes.encode_many(self.codes.decode_many(unique)) if unique.size else unique
        return theirs[position]

    def stored_code(self, view: SourceView, value: Any) -> int:
        """The code of a constant in a source's dictionary; Missing when it has none."""
        found = view.codes.find(canonical(value))
        if found is None:
            raise scan.Missing
        return int(found)


def snapshot_of(value: Any) -> Any:
    """The snapshot of a database value; None for a plain collection."""
    found = getattr(value, "snapshot", None)
    if found is not None and not callable(found):
        return found
    return value if hasattr(value, "basis_tx") and hasattr(value, "gather") else None


def collection_rows(value: Any, name: str) -> list[Any]:
    """The rows of a plain collection used as a source."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise QueryError(
            "query/input",
            f"The source {name} is {show(value)}.",
            expected="a database, or a collection of tuples",
        )
    if hasattr(value, "items"):
        return [tuple(item) for item in value.items()]
    return list(value)


def tuple_items(value: Any, count: int) -> list[Any]:
    """The items of a value under a tuple binding; surplus items are ignored as in Clojure."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise QueryError("query/input", f"{show(value)} cannot be taken apart.", expected=f"a tuple of {count} values")
    items = list(value)
    if len(items) < count:
        raise QueryError("query/input", f"{show(value)} has {len(items)} items.", expected=f"a tuple of {count} values")
    return items[:count]


def bind_rows(binding: Binding, value: Any, names: list[str]) -> list[tuple[Any, ...]]:
    """The rows of values that a binding makes of one value; columns in the order of `names`."""
    if isinstance(binding, BindVariable):
        return [(value,)]
    if isinstance(binding, BindBlank):
        return [()]
    if isinstance(binding, BindCollection):
        if value is None:
            return []
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise QueryError("query/input", f"{show(value)} is no collection.", expected="a list, set or tuple")
        items = value.items() if hasattr(value, "items") else value
        return [row for item in items for row in bind_rows(binding.item, item, names)]
    rows: list[tuple[Any, ...]] = [()]
    for item, part in zip(binding.items, tuple_items(value, len(binding.items)), strict=True):
        inner = bind_rows(item, part, names)
        rows = [row + more for row in rows for more in inner]
    return rows


def binding_names(binding: Binding) -> list[str]:
    """The variables of a binding in the order of `bind_rows`' columns."""
    if isinstance(binding, BindVariable):
        return [binding.variable.name]
    if isinstance(binding, BindTuple):
        return [n for item in binding.items for n in binding_names(item)]
    return binding_names(binding.item) if isinstance(binding, BindCollection) else []


# nodes ---------------------------------------------------------------------------------------------------------------


def evaluate(run: Run, node: Node) -> Relation:
    """The rows of a node. Chains of joins are walked, not recursed into: a query may have hundreds of clauses."""
    spine: list[Any] = []
    relation: Relation | None = None
    while relation is None:
        kind = type(node)
        if kind in _STEPS:
            spine.append(node)
            node = node.left if kind in (Join, AntiJoin) else node.child  # type: ignore[union-attr]
        elif kind is Shared:
            relation = (run.round_memo if node.volatile else run.memo).get(node.key)  # type: ignore[union-attr]
            if relation is None:
                spine.append(node)
                node = node.child  # type: ignore[union-attr]
        else:
            relation = _LEAVES[kind](run, node)
            _count(run, node, relation)
    for step in reversed(spine):
        if type(step) is Shared:
            (run.round_memo if step.volatile else run.memo)[step.key] = relation
            run.budget.hold(0 if step.volatile else _bytes(relation))
        else:
            relation = _step(run, step, relation)
        _count(run, step, relation)
    return relation


def _step(run: Run, step: Any, relation: Relation) -> Relation:
    """What a step makes of a relation, which is held until then."""
    size = _bytes(relation)
    run.budget.check()
    run.budget.hold(size)
    relation = _STEPS[type(step)](run, step, relation)
    run.budget.hold(-size)
    return relation


def _bytes(relation: Relation) -> int:
    """What the columns of a relation take; shared ones are counted as if they were not."""
    return relation.length * 8 * len(relation.columns)


def _count(run: Run, node: Node, relation: Relation) -> None:
    """Note the actual rows of a node, for `explain`."""
    if run.actual is not None:
        run.actual[id(node)] = run.actual.get(id(node), 0) + relation.length


def _unit(_run: Run, _node: Unit) -> Relation:
    return UNIT


def _input(run: Run, node: Input) -> Relation:
    names = binding_names(node.binding)
    rows = bind_rows(node.binding, run.inputs[node.index], names)
    run.budget.charge(len(rows), len(names))
    if not names:
        return Relation({}, min(len(rows), 1), frozenset())
    if not rows:
        return empty(node.variables)
    columns = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        written = name.split("~", 1)[0]  # a variable that :in has twice stands here under a fresh name
        if written in run.plan.entities or written in run.plan.references or written in run.plan.attributes:
            columns[name] = encode_column([run.entity_value(written, v) for v in values], run.codes)
        else:
            columns[name] = encode_column(values, run.codes)
    return Relation({n: columns[n] for n in node.variables}, len(rows), None).distinct()


def _scan(run: Run, node: Scan) -> Relation:
    relation = scan.alone(run, node)
    run.budget.charge(relation.length, len(relation.columns))
    return relation


def _tuples(run: Run, node: Tuples) -> Relation:
    """Rows of a collection: too short ones do not match, longer ones match by their first positions."""
    rows = run.view(node.source).rows
    assert rows is not None
    width = len(node.terms)
    usable = []
    for row in rows:
        if isinstance(row, str | bytes) or not hasattr(row, "__len__"):
            raise QueryError("query/input", f"{show(row)} in the source {node.source} is no tuple.")
        if len(row) >= width:
            usable.append(tuple(row))
    run.budget.charge(len(usable), width)
    if not usable:
        return empty(node.variables)
    columns: dict[str, Column] = {}
    mask = np.ones(len(usable), dtype=np.bool_)
    for term, values in zip(node.terms, list(zip(*(r[:width] for r in usable), strict=True)), strict=True):
        if isinstance(term, Var):
            if term.name in node.variables:
                columns[term.name] = encode_column(values, run.codes)
        elif term is not None:
            kind, code = run.operand(term)
            column = encode_column(values, run.codes)
            mask &= _equals(run, column, kind, code)
    relation = Relation({n: columns[n] for n in node.variables}, len(usable), None)
    return relation.keep(mask).distinct()


def _equals(run: Run, column: Column, kind: Kind, code: int) -> NDArray[np.bool_]:
    """Which values of a column equal a constant."""
    if column.kind is kind:
        return kernels.equal(column.codes, np.int64(code))
    if column.kind is not Kind.INTERNED:
        return np.zeros(column.codes.size, dtype=np.bool_)
    wanted = int(run.codes.to_interned(kind, np.array([code], dtype=np.int64))[0])
    return kernels.equal(column.codes, np.int64(wanted))


def _join(run: Run, node: Join, left: Relation) -> Relation:
    if not left.length:
        return empty(node.variables)
    right = node.right
    if isinstance(right, Scan) and left.columns:
        rows, columns, adds = scan.probe(run, left, right)
        if run.actual is not None:
            run.actual[id(right)] = run.actual.get(id(right), 0) + (left.length if rows is None else len(rows))
    elif isinstance(right, Derived):
        rows, columns, adds = run.derived[right.fixpoint].probe(run, left, right)
    else:
        rows, columns, adds = scan.join_with(run, left, evaluate(run, right))
    key = None if left.key is None or adds is None else left.key | adds
    found: dict[str, Column] = {}
    for name in node.variables:
        if name in left.columns:
            column = left.columns[name]
            found[name] = column if rows is None else column.take(rows)
        else:
            found[name] = columns[name]
    length = left.length if rows is None else len(rows)
    return Relation(found, length, key if key is not None and key <= found.keys() else None)


def _anti_join(run: Run, node: AntiJoin, left: Relation) -> Relation:
    if not left.length:
        return empty(node.variables)
    right = node.right
    if isinstance(right, Scan) and node.on:
        rows, _, _ = scan.probe(run, left, right)
    elif not node.on:
        found = evaluate(run, right)
        return empty(node.variables) if found.length else left.only(node.variables)
    elif isinstance(right, Derived):
        rows, _, _ = run.derived[right.fixpoint].probe(run, left, right)
    else:
        rows, _, _ = scan.join_with(run, left, evaluate(run, right).only(node.on))
    if rows is None:
        return empty(node.variables)
    mask = np.ones(left.length, dtype=np.bool_)
    mask[rows] = False
    return left.keep(mask).only(node.variables)


def _filter(run: Run, node: Filter, child: Relation) -> Relation:
    if not child.length:
        return empty(node.variables)
    run.budget.reserve(child.length, len(node.variables) + 3, 10)
    return child.keep(calls.truth(run, node.call, child)).only(node.variables)


def _extend(run: Run, node: Extend, child: Relation) -> Relation:
    if not child.length:
        return empty(node.variables)
    binding = node.binding
    if isinstance(binding, BindVariable):
        name = binding.variable.name
        column = calls.column_of(run, node.call, child)
        extended = Relation({**child.columns, name: column}, child.length, child.key)
        if column.kind is Kind.INTERNED:
            nil = run.codes.encode(None)
            extended = extended.keep(column.codes != nil)
        return extended.only(node.variables)
    if isinstance(binding, BindBlank):
        values, position = calls.distinct_values(run, node.call, child)
        kept = np.array([v is not None for v in values], dtype=np.bool_)
        return child.keep(kept if position is None else kept[position]).only(node.variables)
    return _extend_structure(run, node, child)


def _extend_structure(run: Run, node: Extend, child: Relation) -> Relation:
    """The rows that a tuple, collection or relation binding makes of each result."""
    values, position = calls.distinct_values(run, node.call, child)
    names = binding_names(node.binding)
    made: list[tuple[Any, ...]] = []
    counts: list[int] = []
    for value in values:
        try:
            rows = [] if value is None else bind_rows(node.binding, value, names)
        except QueryError as error:
            message = (
                f"{term_text(node.call)} gives {show(value)}, which {binding_text(node.binding)} cannot take apart."
            )
            call = node.call
            raise query_error("query/binding", message, call.text, call.at, expected=error.expected) from error
        counts.append(len(rows))
        made.extend(rows)
        run.budget.charge(len(rows), len(names))
    ends = np.cumsum(np.array(counts, dtype=np.intp))
    count = np.array(counts, dtype=np.intp)
    start = ends - count
    if position is not None:
        start, count = start[position], count[position]
    lefts, rights = kernels.expand(start, count, None, run.charge(len(names) + len(child.columns)))
    columns = {n: child.columns[n].take(lefts) for n in node.variables if n in child.columns}
    if made:
        for name, items in zip(names, zip(*made, strict=True), strict=True):
            if name in node.variables:
                columns[name] = encode_column(items, run.codes).take(rights)
    else:
        return empty(node.variables)
    return Relation({n: columns[n] for n in node.variables}, len(lefts), None)


def _union(run: Run, node: Union) -> Relation:
    return concat([evaluate(run, c) for c in node.children], node.variables, run.codes)


def _project(run: Run, node: Project, child: Relation) -> Relation:
    child = child.only(node.variables)
    if not node.distinct:
        return child
    run.budget.charge(child.length, len(node.variables))
    run.budget.reserve(child.length, len(node.variables) + 3, _NANOSECONDS_TO_SORT)
    return child.distinct()


def _derived(run: Run, node: Derived) -> Relation:
    return run.derived[node.fixpoint].rows(run, node)


def _fixpoint(run: Run, node: Fixpoint) -> Relation:
    return fixpoint.run_fixpoint(run, node, evaluate)


def _closure(run: Run, node: Closure) -> Relation:
    outer = run.round_memo
    try:
        return closure.run_closure(run, node, evaluate)
    finally:
        run.round_memo = outer


_LEAVES: dict[type, Callable[[Run, Any], Relation]] = {
    Unit: _unit,
    Input: _input,
    Scan: _scan,
    Tuples: _tuples,
    Union: _union,
    Derived: _derived,
    Fixpoint: _fixpoint,
    Closure: _closure,
}
_STEPS: dict[type, Callable[[Run, Any, Relation], Relation]] = {
    Join: _join,
    AntiJoin: _anti_join,
    Filter: _filter,
    Extend: _extend,
    Project: _project,
}


def run_plan(run: Run) -> Relation:
    """The distinct rows of a plan's root; where `:limit` asks for a few and nothing for an order, perhaps not all of them."""
    wanted = _wanted(run)
    if wanted is not None and run.actual is None:  # `explain` counts all rows
        spine = _plain_spine(run.plan.root)
        if spine is not None:
            return _in_parts(run, *spine, wanted)
    return evaluate(run, run.plan.root)


def row_count(run: Run, given: Any, name: str) -> int | None:
    """The number that `:limit` or `:offset` gives, itself or by an input; None for none."""
    if given is None or type(given) is int:
        return given
    value = run.param(given.name)
    if value is not None and (type(value) is not int or value < 0):
        raise QueryError("query/input", f":{name} is {show(value)}.", expected="a number from 0 on")
    return value


def _wanted(run: Run) -> int | None:
    """How many distinct rows suffice; None when all are needed: to sort, to group, to choose from."""
    plan, query = run.plan, run.plan.query
    if plan.order or plan.group is not None or plan.having:
        return None
    limit = 1 if query.shape in ("scalar", "tuple") else row_count(run, query.limit, "limit")
    if limit is None:
        return None
    wanted = limit + (row_count(run, query.offset, "offset") or 0)
    return wanted if wanted <= 1 or query.with_ or rows_are_shown(plan) else None


def rows_are_shown(plan: Plan) -> bool:
    """Whether the output columns hold every column on which the root's rows are distinct: then they are distinct, too."""
    return {o.term.name for o in plan.outputs if isinstance(o.term, Var) and o.expression is None}.issuperset(
        plan.root.variables
    )


def _plain_spine(root: Node) -> tuple[list[Any], Node] | None:
    """The steps of a plan down to its first leaf, when each works row by row and what it looks up is a plain scan."""
    steps: list[Any] = []
    node: Any = root
    while type(node) in _STEPS:
        steps.append(node)
        if type(node) in (Join, AntiJoin):
            if type(node.right) is not Scan:
                return None
            node = node.left
        else:
            node = node.child
    return (steps, node) if type(node) is Scan and len(steps) > 1 else None


def _in_parts(run: Run, steps: list[Any], leaf: Node, wanted: int) -> Relation:
    """The rows that the first rows of the leaf lead to, of more of them until that is enough: `:limit` stops early."""
    whole = _LEAVES[type(leaf)](run, leaf)
    size = max(_FIRST_PART, 4 * wanted)
    while True:
        relation = whole if size >= whole.length else whole.first(size)
        for step in reversed(steps):
            relation = _step(run, step, relation)
        if size >= whole.length or relation.length >= wanted:
            return relation
        size *= 8
