"""Plan: relational nodes, engine-neutral, and the text that `explain` prints.

Place on the path: the planner gives a `Plan`, the engine runs it, `find` finishes it. A node holds names, constants and
estimates; no arrays, no snapshots, nothing of LMDB, so that another engine can run the same plan. Values are Python values;
attributes are aids of the schema that the plan was made for.

Node = what it means (bag semantics in between, the root's rows are made distinct at the end):

    Unit            one row without columns
    Input           the rows of a collection or relation input
    Scan            datoms of a source that match a pattern; alone, or as the right side of a Join, where the engine may
                    probe an index for each row of the left side instead of scanning
    Tuples          rows of a plain Python collection used as a source
    Join            natural join on the shared variables
    AntiJoin        rows of the left side without a partner on the right
    Filter          rows for which a call holds
    Extend          rows with a call's result bound to variables
    Union           rows of several bodies with the same variables
    Project         some of the columns, optionally distinct
    Shared          a subplan used in several places: evaluated once for each run (`key` tells which one it is)
    Derived         rows of a predicate inside a fixpoint: all of them, or those new in this round
    Closure         the transitive closure of one relation, from bound values or from all
    Fixpoint        the least relations closed under rules (semi-naive), and which of them is the result

Nodes compare by identity. `variables` are the columns that leave a node, `rows` is the planner's estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from datalog.ast import BindBlank, BindCollection, BindTuple, BindVariable
from datalog.errors import show
from datalog.record import Record, replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from datalog.ast import At, Binding, Query
    from datalog.builtins import Builtin


# terms ---------------------------------------------------------------------------------------------------------------


class Var(Record):
    """A column."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Var) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Const(Record):
    """A value of the query text."""

    value: Any


class Param(Record):
    """A scalar input, known when the plan runs."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Param) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


Term: TypeAlias = "Var | Const | Param | None"  # None: anything


class CallTree(Record):
    """A call with its function resolved; `callable_input` names the input that holds the callable instead."""

    name: str
    builtin: Builtin | None
    callable_input: str | None
    arguments: tuple[Any, ...]  # Var | Const | Param | CallTree | Source | Name
    at: At
    text: str  # the query or rule text that `at` points into


class Source(Record):
    """`$x` as an argument."""

    name: str


class Name(Record):
    """A plain symbol of `:in` as an argument."""

    name: str


# nodes ---------------------------------------------------------------------------------------------------------------


class Unit(Record):
    """One row without columns."""

    variables: tuple[str, ...] = ()
    rows: float = 1.0


class Input(Record):
    """The rows of the input number `index` under a binding."""

    variables: tuple[str, ...]
    rows: float
    index: int
    binding: Binding


class Bound(Record):
    """A range condition on the value of a scan: `op` is one of < <= > >=."""

    op: str
    term: Const | Param
    call: CallTree  # the predicate it came from, for values that do not fit the attribute's kind


class Scan(Record):
    """Datoms of a database. `attribute` is an aid, or a term in attribute position that is not a constant."""

    variables: tuple[str, ...]
    rows: float
    source: str
    entity: Term
    attribute: int | Var | Param | None
    value: Term
    tx: Term
    added: Term
    bounds: tuple[Bound, ...]
    label: str  # the pattern as written
    many: bool  # cardinality many, or not known
    unique: bool
    ref: bool
    at: At


class Tuples(Record):
    """Rows of a Python collection; a term for each position."""

    variables: tuple[str, ...]
    rows: float
    source: str
    terms: tuple[Term, ...]
    label: str
    at: At


class Join(Record):
    """Natural join; `variables` says which columns are kept."""

    variables: tuple[str, ...]
    rows: float
    left: Node
    right: Node


class AntiJoin(Record):
    """Rows of `left` that agree with no row of `right` on the variables `on`."""

    variables: tuple[str, ...]
    rows: float
    left: Node
    right: Node
    on: tuple[str, ...]


class Filter(Record):
    """Rows for which the call is neither false nor nil."""

    variables: tuple[str, ...]
    rows: float
    child: Node
    call: CallTree


class Extend(Record):
    """Rows with the result of a call bound; variables of the binding are new."""

    variables: tuple[str, ...]
    rows: float
    child: Node
    call: CallTree
    binding: Binding


class Union(Record):
    """All rows of all children."""

    variables: tuple[str, ...]
    rows: float
    children: tuple[Node, ...]


class Project(Record):
    """Some of the columns; with `distinct` each row once."""

    variables: tuple[str, ...]
    rows: float
    child: Node
    distinct: bool


class Shared(Record):
    """A subplan evaluated once for each run."""

    variables: tuple[str, ...]
    rows: float
    child: Node
    key: int
    volatile: bool = False  # depends on a Derived: evaluated once for each round, not once for each run


class Derived(Record):
    """Rows of a predicate inside its fixpoint; columns are renamed by position to `terms`."""

    variables: tuple[str, ...]
    rows: float
    predicate: str
    delta: bool
    terms: tuple[Term, ...]
    fixpoint: int


class RulePlan(Record):
    """One rule of a fixpoint: `body` gives the columns of `predicate`, in the order of `head`.

    `driver` is the predicate whose new rows drive this body; None: the body runs once, in the first round.
    """

    predicate: str
    head: tuple[Term, ...]
    body: Node
    driver: str | None


class Best(Record):
    """A predicate that keeps one row for each group: the one whose column `position` is least, or `greatest`."""

    predicate: str
    position: int
    greatest: bool


class Fixpoint(Record):
    """The least relations closed under `rules`; `predicates` gives the width of each, `result` is the one wanted.

    `terms` binds the result's columns by position, as in `Derived`; `best` names the predicates that aggregate.
    """

    variables: tuple[str, ...]
    rows: float
    key: int
    predicates: tuple[tuple[str, int], ...]
    rules: tuple[RulePlan, ...]
    result: str
    terms: tuple[Term, ...]
    label: str
    best: tuple[Best, ...] = ()
    additive: bool = False  # the best rows are sums: one that keeps getting better has no end


class Closure(Record):
    """The transitive closure of the relation that `edges` gives as the columns `ends`, under the call's `terms`.

    `bound` is the position of the argument that the rows of `seed` bind; then `edges` is the plan of one step from there, over
    the nodes of a `Derived` of this `key`. Without it `edges` gives all pairs. `general` is the same as a fixpoint.
    """

    variables: tuple[str, ...]
    rows: float
    key: int
    edges: Node
    ends: tuple[str, str]
    bound: int | None
    seed: Node | None
    terms: tuple[Term, ...]
    general: Fixpoint
    label: str


Node: TypeAlias = (
    "Unit | Input | Scan | Tuples | Join | AntiJoin | Filter | Extend | Union | Project | Shared | Derived | Fixpoint"
    " | Closure"
)


# find ----------------------------------------------------------------------------------------------------------------


class AggregateTree(Record):
    """An aggregate over a column, in a find expression."""

    name: str
    function: Any  # aggregates.Aggregate, or None for a callable input
    callable_input: str | None
    parameters: tuple[Any, ...]
    argument: Any  # Var | Const | Param | CallTree
    at: At


class Output(Record):
    """One column of the answer: exactly one of the three is given, save that a pull also has its variable."""

    name: str
    term: Any = None  # Var | Param
    expression: Any = None  # CallTree | AggregateTree, over variables and aggregates
    aggregated: bool = False
    pull_source: str | None = None
    pull_pattern: Any = None
    pull_input: str | None = None


class Order(Record):
    """A sort key: an output column, or a variable that is not in `:find`."""

    column: int | None
    variable: str | None
    ascending: bool


class Plan(Record):
    """What runs: the root gives the distinct rows over its variables, the rest is for `find`."""

    query: Query
    root: Node
    outputs: tuple[Output, ...]
    having: tuple[CallTree, ...]
    order: tuple[Order, ...]
    group: tuple[str, ...] | None  # variables to group by when something is aggregated
    params: frozenset[str]  # scalar inputs
    entities: dict[str, str]  # input variable in entity position -> source: lookup refs and idents are resolved
    references: dict[str, str]  # input variable passed to a rule -> source: lookup refs are resolved
    attributes: dict[str, str]  # input variable in attribute position -> source


# explain -------------------------------------------------------------------------------------------------------------


def children(node: Node) -> tuple[Node, ...]:
    """The nodes below a node."""
    if isinstance(node, Join | AntiJoin):
        return node.left, node.right
    if isinstance(node, Union):
        return node.children
    if isinstance(node, Fixpoint):
        return tuple(r.body for r in node.rules)
    if isinstance(node, Filter | Extend | Project | Shared):
        return (node.child,)
    if isinstance(node, Closure):
        return (node.edges,) if node.seed is None else (node.seed, node.edges)
    return ()


def term_text(term: Any) -> str:
    """A term, call or binding as it would be written."""
    if term is None:
        return "_"
    if isinstance(term, Var | Param | Source | Name):
        return term.name
    if isinstance(term, CallTree | AggregateTree):
        inner = term.arguments if isinstance(term, CallTree) else (*term.parameters, term.argument)
        return f"({' '.join([term.name, *map(term_text, inner)])})"
    return show(term.value)


def binding_text(binding: Binding) -> str:
    """A binding form as it would be written."""
    if isinstance(binding, BindVariable):
        return binding.variable.name
    if isinstance(binding, BindTuple):
        return f"[{' '.join(map(binding_text, binding.items))}]"
    if isinstance(binding, BindCollection):
        inner = binding_text(binding.item)
        return f"[{inner}]" if isinstance(binding.item, BindTuple) else f"[{inner} ...]"
    assert isinstance(binding, BindBlank)
    return "_"


def describe(node: Node) -> str:
    """One line about a node, without its children and without numbers."""
    if isinstance(node, Scan):
        bounds = "".join(f" {b.op} {term_text(b.term)}" for b in node.bounds)
        return f"scan {node.label}{bounds}"
    if isinstance(node, Tuples):
        return f"tuples {node.label}"
    if isinstance(node, Input):
        return f"input {binding_text(node.binding)}"
    if isinstance(node, Join):
        on = [v for v in node.right.variables if v in node.left.variables]
        return f"join on {' '.join(on)}" if on else "product"
    if isinstance(node, AntiJoin):
        return f"anti-join on {' '.join(node.on)}" if node.on else "anti-join"
    if isinstance(node, Filter):
        return f"filter {term_text(node.call)}"
    if isinstance(node, Extend):
        return f"extend {term_text(node.call)} {binding_text(node.binding)}"
    if isinstance(node, Project):
        return f"{'distinct' if node.distinct else 'project'} {' '.join(node.variables)}"
    if isinstance(node, Shared):
        return f"shared #{node.key}"
    if isinstance(node, Derived):
        which = "new rows of" if node.delta else "rows of"
        return f"{which} ({' '.join([node.predicate, *map(term_text, node.terms)])})"
    if isinstance(node, Fixpoint):
        kept = "".join(f", {'greatest' if b.greatest else 'least'} {b.position} of {b.predicate}" for b in node.best)
        return f"fixpoint {node.label}{kept}"
    if isinstance(node, Closure):
        way = "" if node.bound is None else f" from {term_text(node.terms[node.bound])}"
        return f"closure{way} {node.label}"
    return "union" if isinstance(node, Union) else "one row"


class Step(Record):
    """One line of a plan as it is shown: what is done, at which depth, with the rows expected and (when it ran) found.

    `label` is what `describe` says, or a heading without rows of its own. `probed`: an index is looked up for each row of
    the left side, so `rows` counts datoms. `again`: a shared subplan that stands further up.
    """

    depth: int
    label: str
    rows: float | None = None
    found: int | None = None
    probed: bool = False
    again: bool = False

    def note(self) -> str:
        """The numbers of the line, or nothing."""
        if self.again:
            return "see above"
        if self.rows is None:
            return ""
        if self.probed:  # how many of the datoms matched says nothing of the estimate
            return f"~{self.rows:,.0f} datoms" + ("" if self.found is None else f", {self.found:,} matched")
        text = f"~{self.rows:,.0f} rows"
        return text if self.found is None else f"{text}, {self.found:,} found"

    def is_off(self) -> bool:
        """Whether the estimate is wrong by more than a factor of ten."""
        if self.found is None or self.rows is None or self.probed:
            return False
        return not 0.1 <= max(self.found, 1) / max(self.rows, 1.0) <= 10


def plan_steps(plan: Plan, actual: Callable[[Node], int | None] | None = None) -> list[Step]:
    """The lines of a plan, children below their parents; `actual` tells the rows that a node gave when it ran."""
    steps: list[Step] = []
    seen: set[int] = set()

    def walk(node: Node, depth: int, *, probed: bool = False) -> None:
        if isinstance(node, Shared):
            if node.key in seen:
                steps.append(Step(depth, describe(node), again=True))
                return
            seen.add(node.key)
        found = actual(node) if actual is not None else None
        steps.append(Step(depth, describe(node), node.rows, found, probed))
        if isinstance(node, Fixpoint):
            for rule in node.rules:
                head = " ".join([rule.predicate, *map(term_text, rule.head)])
                steps.append(Step(depth + 1, f"({head}) {'once' if rule.driver is None else 'each round'}"))
                walk(rule.body, depth + 2)
            return
        for child in children(node):
            walk(
                child,
                depth + 1,
                probed=isinstance(node, Join | AntiJoin) and child is node.right and type(child) is Scan,
            )

    headings = [f"find {' '.join(_output_text(o) for o in plan.outputs)}"]
    if plan.query.limit is not None or plan.query.offset is not None:
        headings.append(f"limit {_count_text(plan.query.limit)} offset {_count_text(plan.query.offset)}")
    if plan.order:
        keys = [f"{o.variable or o.column}{'' if o.ascending else ' descending'}" for o in plan.order]
        headings.append(f"order by {', '.join(keys)}")
    if plan.group is not None:
        headings.append(f"aggregate by {' '.join(plan.group) or 'nothing'}")
    steps += [Step(depth, heading) for depth, heading in enumerate(headings)]
    walk(plan.root, len(headings))
    return steps


def plan_text(steps: list[Step]) -> str:
    """The plan as indented lines, with estimated and (when known) actual rows."""
    lines = []
    for step in steps:
        note = step.note()
        off = "  (estimate off by more than ten)" if step.is_off() else ""
        lines.append(f"{'  ' * step.depth}{step.label}" + (f"  [{note}{off}]" if note else ""))
    return "\n".join(lines)


def _count_text(count: Any) -> str:
    return "none" if count is None else getattr(count, "name", None) or str(count)


def _output_text(output: Output) -> str:
    if output.pull_source is not None:
        return f"(pull {term_text(output.term)} ...)"
    return term_text(output.expression if output.expression is not None else output.term)


def same_node(node: Node, **changes: Any) -> Any:
    """The node with some of its fields replaced."""
    return replace(node, **changes)
