"""Planner: a query and what it will run against -> Plan.

Place on the path: takes `ast.Query`, the rules, the schema and counts of each source; gives a `plan.Plan`. Nothing is read
but counts and idents; the answer never depends on an estimate.

How a conjunction is planned: lower.py makes atoms of its clauses, then they go through `PASSES`:
1. `in_fixed_order`: where two atoms cost the same, the plan does not depend on who was written first;
2. `expand_rules`: non-recursive rules are inlined, a rule with one branch into the conjunction itself; then order again;
3. `push_ranges`: comparisons with a constant or input move into the scan of their variable as a range;
4. `once_each`: a pattern that is there twice is asked once;
5. `settle_nested`: what each `not`, `or` and recursive rule needs from outside, and that something binds it.
Then `without_lone` takes away variables that nobody asks for, `arrange` (joinorder.py) finds the cheapest order, and `build`
makes nodes of it: columns that nothing later needs are dropped where they arise, and repeated rows with them where that
leaves few.

`or`, `not` and rules that cannot (or should not) be evaluated on their own start from the distinct bindings of what stands
before them: that subplan is `Shared`, so it runs once and feeds both sides of the join.

Recursive rules become one Fixpoint for a call (program.py); what `find` makes of the rows is in outputs.py.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from datalog.ast import (
    BindBlank,
    BindCollection,
    BindTuple,
    BindVariable,
    InputBinding,
    InputName,
    RuleCall,
    Variable,
    binding_variables,
    clause_variables,
)
from datalog.cost import Sizes, State
from datalog.errors import QueryError, did_you_mean, names, query_error
from datalog.joinorder import JoinOrder
from datalog.lower import Atom, Lowering, bound_from, takes_range, unbound_error
from datalog.outputs import Outputs, has_aggregate
from datalog.plan import (
    AntiJoin,
    Bound,
    Closure,
    Const,
    Derived,
    Extend,
    Filter,
    Fixpoint,
    Input,
    Join,
    Order,
    Param,
    Plan,
    Project,
    Scan,
    Shared,
    Union,
    Unit,
    Var,
    same_node,
)
from datalog.program import Program
from datalog.record import replace
from datalog.renaming import rename_scopes, use_branch
from store.edn import strict_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from datalog.ast import Binding, Branch, Query
    from datalog.lower import SourceInfo
    from datalog.plan import Node
    from datalog.rules import RuleSet

_MOST_INLINED = 400  # uses of rules in one plan; beyond it a rule is evaluated once and shared
_WORTH_THINNING = 2_000.0  # rows: below it repeated ones are cheaper carried along than looked for
_THINNER = 4.0  # times fewer rows without the repeated ones, by the estimates
_SEED_SHARE = 0.05  # of the base rows: up to so many bindings restrict a recursive rule


def plan(query: Query, sources: Mapping[str, SourceInfo], rules: RuleSet | None, input_rows: Mapping[int, int]) -> Plan:
    """The plan of a query against sources; `input_rows` gives the sizes of collection and relation inputs.

    Raises:
        QueryError: what lower.py finds, and `query/unbound-variable`, `query/insufficient-binding`.
    """
    return Planner(query, sources, rules, input_rows).plan()


def scalar_names(binding: Binding) -> list[str] | None:
    """The variables of a binding without collections: scalars and tuples of them; None when it holds a collection."""
    if isinstance(binding, BindCollection):
        return None
    if isinstance(binding, BindTuple):
        found: list[str] = []
        for item in binding.items:
            inner = scalar_names(item)
            if inner is None:
                return None
            found.extend(inner)
        return found
    return [binding.variable.name] if isinstance(binding, BindVariable) else []


class Planner(JoinOrder):
    """Plans one query. Fields are the same for all its conjunctions, nested ones included."""

    def __init__(
        self, query: Query, sources: Mapping[str, SourceInfo], rules: RuleSet | None, input_rows: Mapping[int, int]
    ) -> None:
        self.query = query
        self.sources = sources
        self.rules = rules
        self.input_rows = input_rows
        scalars = [scalar_names(i.binding) or [] for i in query.inputs if isinstance(i, InputBinding)]
        self.params = frozenset(n for s in scalars for n in s)
        inputs = {v.name for i in query.inputs if isinstance(i, InputBinding) for v in binding_variables(i.binding)}
        callables = frozenset(i.name for i in query.inputs if isinstance(i, InputName))
        self.lowering = Lowering(sources, self.params, frozenset(inputs) - self.params, rules, callables, query.text)
        super().__init__(Sizes(sources))
        self.keys = 0
        self.inlined = 0

    # the whole ------------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The plan: root over the variables that `find` needs, and what `find` does with them."""
        query = self.query
        for count in (query.limit, query.offset):
            if isinstance(count, Variable) and count.name not in self.params:
                message = f"{count.name} is no scalar input: how many rows to give cannot come from the data."
                raise query_error(
                    "query/unbound-variable", message, query.text, count.at, hint=f"pass {count.name} through :in"
                )
        find = Outputs(query, self.sources, self.params, self.lowering)
        outputs = tuple(find.output(f) for f in query.find)
        having = tuple(find.find_call(h.call) for h in query.having)
        needed = find.variables()
        aggregated = any(o.aggregated for o in outputs) or any(map(has_aggregate, having))
        order = tuple(Order(k.column, k.variable.name if k.variable else None, k.ascending) for k in query.order)
        group = None
        if aggregated:
            group = find.group(outputs, order)
        clauses = rename_scopes(query.where, self.lowering.fresh)
        atoms = [*self.inputs(), *self.lowering.atoms(clauses, query.text)]
        self.check_callables(atoms)
        state = self.body(atoms, State(), frozenset(needed) - self.params)
        for name in needed:
            if name not in self.params and name not in state.node.variables:
                raise query_error(
                    "query/unbound-variable",
                    f"No clause and no input binds {name}.",
                    query.text,
                    query.variable_at(name),
                )
        root = Project(tuple(v for v in needed if v not in self.params), state.rows, state.node, distinct=True)
        return Plan(
            query=query,
            root=root,
            outputs=outputs,
            having=having,
            order=order,
            group=group,
            params=self.params,
            entities={n: s for n, s in self.lowering.entities.items() if n not in self.lowering.attributes},
            references=self.lowering.references,
            attributes=self.lowering.attributes,
        )

    def check_callables(self, atoms: Iterable[Atom]) -> None:
        """A variable in function position must be an input: a callable cannot come from the data."""
        for atom in atoms:
            if atom.call is not None and atom.call.name.startswith("?") and atom.call.callable_input is None:
                raise query_error("query/unknown-function", f"{atom.call.name} is no scalar input.", atom.text, atom.at)

    def inputs(self) -> list[Atom]:
        """Atoms for the inputs that are relations."""
        atoms: list[Atom] = []
        for index, given in enumerate(self.query.inputs):
            if not isinstance(given, InputBinding) or scalar_names(given.binding) is not None:
                continue
            binding, extra = self.distinct_binding(given.binding, self.params, self.query.text)
            variables = tuple(v.name for v in binding_variables(binding))
            node = Input(variables, float(self.input_rows.get(index, 10)), index, binding)
            atoms.append(Atom("input", frozenset(), frozenset(variables), self.query.text, given.at, node=node))
            atoms.extend(extra)
        return atoms

    def distinct_binding(self, binding: Binding, taken: Iterable[str], text: str) -> tuple[Binding, list[Atom]]:
        """The binding with every variable new and once; equalities for those that were not."""
        extra: list[Atom] = []
        return self.renamed(binding, set(taken), extra, text), extra

    def renamed(self, part: Binding, seen: set[str], extra: list[Atom], text: str) -> Binding:
        """A part of `distinct_binding`. A method: a function that calls itself would keep planner and snapshots alive."""
        if isinstance(part, BindVariable):
            name = part.variable.name
            if name not in seen:
                seen.add(name)
                return part
            new = self.lowering.fresh(name)
            old = Param(name) if name in self.params else Var(name)
            extra.append(self.lowering.equality(old, Var(new), text, part.at))
            return replace(part, variable=Variable(new, part.at))
        if isinstance(part, BindTuple):
            return replace(part, items=tuple(self.renamed(p, seen, extra, text) for p in part.items))
        if isinstance(part, BindCollection):
            return replace(part, item=self.renamed(part.item, seen, extra, text))
        assert isinstance(part, BindBlank)
        return part

    # conjunctions ---------------------------------------------------------------------------------------------------

    def body(self, atoms: Sequence[Atom], start: State, keep: frozenset[str]) -> State:
        """The plan of a conjunction that starts from a state; `keep` are the variables wanted from it."""
        ordered = list(atoms)
        for one_pass in PASSES:
            ordered = one_pass(self, ordered, start)
        ordered = self.once_each(self.without_lone(ordered, start, keep), start)
        ordered = self.arrange(ordered, start)
        return self.build(ordered, start, keep)

    def in_fixed_order(self, atoms: list[Atom], start: State) -> list[Atom]:  # noqa: ARG002 - a pass
        """The atoms by their text: where two cost the same, the plan must not depend on who was written first."""
        return sorted(atoms, key=_text_of)

    def expand_rules(self, atoms: list[Atom], start: State) -> list[Atom]:
        """Calls of non-recursive rules replaced by their bodies: spliced in when there is one branch, else as an `or`."""
        result: list[Atom] = []
        pending = list(reversed(atoms))
        while pending:
            atom = pending.pop()
            call = atom.rule
            if call is None or self.rules is None or call.name in self.rules.recursive or self.inlined > _MOST_INLINED:
                result.append(atom)
                continue
            self.inlined += 1
            branches = self.rules.branches[call.name]
            bodies = [use_branch(b, call.arguments, self.lowering.fresh, call.source) for b in branches]
            required = self.required_names(call)
            if len(bodies) == 1:
                others = [a for a in atoms if a is not atom]
                self.check_required(required, atom, others, start)
                pending.extend(reversed(self.lowering.atoms(bodies[0], self.rules.text)))
                continue
            join = tuple(dict.fromkeys(t.name for t in call.arguments if isinstance(t, Variable)))
            visible = frozenset(join) - self.params
            result.append(
                Atom("or", required, visible, self.rules.text, atom.at, body=tuple(bodies), join=join, rule=call)
            )
        return result

    def required_names(self, call: RuleCall) -> frozenset[str]:
        """The variables passed for required arguments."""
        assert self.rules is not None
        count = len(self.rules.branches[call.name][0].required)
        return frozenset(t.name for t in call.arguments[:count] if isinstance(t, Variable)) - self.params

    def check_required(self, required: frozenset[str], atom: Atom, others: Iterable[Atom], start: State) -> None:
        """Raise unless the required arguments of a rule call are bound by something else."""
        bound = set(start.distinct).union(*(a.gives for a in others))
        missing = sorted(required - bound)
        if missing:
            raise unbound_error(missing, sorted(bound), atom)

    def push_ranges(self, atoms: list[Atom], start: State) -> list[Atom]:
        """Comparisons of a scanned value with a constant become a range of that scan."""
        for atom in atoms:
            node = atom.node
            if not isinstance(node, Scan) or not isinstance(node.value, Var) or not isinstance(node.attribute, int):
                continue
            if node.attribute < 0:
                continue
            kind = self.sources[node.source].snapshot.schema.by_aid(node.attribute).kind
            if not takes_range(kind):
                continue
            taken: list[Atom] = []
            bounds: list[Bound] = []
            for other in atoms:
                bound = bound_from(other.call, node.value.name) if other.kind == "filter" and other.call else None
                if bound is not None:
                    taken.append(other)
                    bounds.append(bound)
            if bounds:
                scan = same_node(node, bounds=tuple(bounds))
                moved = replace(atom, node=scan)
                return self.push_ranges([moved if a is atom else a for a in atoms if a not in taken], start)
        return atoms

    def settle_nested(self, atoms: list[Atom], start: State) -> list[Atom]:
        """Work out what each `not`, `or` and rule call needs from its surroundings, and check that something binds it."""
        for atom in atoms:
            if atom.kind == "or":
                atom.needs = atom.needs | self.or_needs(atom)
            elif atom.kind == "rule":
                atom.needs = self.rule_needs(atom)
        given = frozenset(start.distinct).union(*(a.gives for a in atoms))
        for atom in atoms:
            if atom.kind == "not":
                self.settle_not(atom, given)
            missing = sorted(atom.needs - given)
            if missing:
                raise unbound_error(missing, sorted(given), atom)
        return atoms

    def once_each(self, atoms: list[Atom], start: State) -> list[Atom]:  # noqa: ARG002 - a pass
        """The atoms without patterns that say what another one says."""
        known: set[tuple[Any, ...]] = set()
        found: list[Atom] = []
        for atom in atoms:
            if isinstance(atom.node, Scan):
                said = _said_by(atom.node)
                if said in known:
                    continue
                known.add(said)
            found.append(atom)
        return found

    def without_lone(self, atoms: list[Atom], start: State, keep: frozenset[str]) -> list[Atom]:
        """Patterns without those variables that are nowhere else: they say that there is something, not what.

        So such a pattern does not multiply the rows it is joined with (a semi-join), and its size is that of what is left.
        """
        named = Counter(name for atom in atoms for name in atom.seen)
        elsewhere = keep.union(start.distinct)
        found: list[Atom] = []
        for atom in atoms:
            node = atom.node
            lone = frozenset(v for v in atom.gives if named[v] == 1 and v not in elsewhere)
            if lone and isinstance(node, Scan) and isinstance(node.attribute, int):
                places = ("entity", "tx", "added") if node.bounds else ("entity", "value", "tx", "added")
                blank = {p: None for p in places if isinstance(t := getattr(node, p), Var) and t.name in lone}
                left = tuple(v for v in node.variables if v not in lone)
                atom = replace(atom, node=same_node(node, variables=left, **blank), gives=atom.gives - lone)  # noqa: PLW2901
            found.append(atom)
        return found

    def settle_not(self, atom: Atom, given: frozenset[str]) -> None:
        """What a `not` shares with its surroundings must be bound there before it runs."""
        mentioned = {v.name for c in atom.body[0] for v in clause_variables(c)} if atom.join is None else set(atom.join)
        if atom.join is None:
            atom.needs = atom.needs & given
        if mentioned and not mentioned & (given | self.params):
            raise query_error(
                "query/insufficient-binding",
                f"No variable of this not is bound outside of it: {names(sorted(mentioned))}.",
                atom.text,
                atom.at,
                hint=did_you_mean(min(mentioned), given) or "use a variable that another clause binds",
            )

    def or_needs(self, atom: Atom) -> frozenset[str]:
        """The visible variables that some branch cannot bind, or reads before anything in it binds them."""
        needs: set[str] = set()
        for clauses in atom.body:
            inner = self.expand_rules(
                self.lowering.atoms(clauses, atom.text), State(distinct=dict.fromkeys(atom.gives, 1.0))
            )
            given = frozenset().union(*(a.gives for a in inner))
            read = frozenset().union(*(a.needs for a in inner if a.kind in ("filter", "extend", "or")))
            needs |= (atom.gives - given) | ((read - given) & atom.gives)
        return frozenset(needs)

    def rule_needs(self, atom: Atom) -> frozenset[str]:
        """The variables of a recursive rule call that must be bound before it."""
        call = atom.rule
        assert call is not None
        assert self.rules is not None
        positions = self.needed_positions(call)
        return (
            frozenset(t.name for i, t in enumerate(call.arguments) if i in positions and isinstance(t, Variable))
            - self.params
        )

    def needed_positions(self, call: RuleCall) -> frozenset[int]:
        """The argument positions of a recursive rule that its own clauses cannot bind."""
        assert self.rules is not None
        found: set[int] = set()
        for branch in self.rules.branches[call.name]:
            found.update(range(len(branch.required)))
            clauses = use_branch(branch, tuple(branch.head), self.lowering.fresh, call.source)
            atoms = self.lowering.atoms(clauses, self.rules.text)
            given: frozenset[str] = frozenset()
            for atom in atoms:
                if atom.kind != "extend" or not atom.needs & {v.name for v in branch.head}:
                    given |= atom.gives
            read = frozenset().union(*(a.needs for a in atoms if a.kind in ("filter", "extend")))
            given |= frozenset(g for a in atoms if a.kind == "extend" and a.needs <= given for g in a.gives)
            found.update(i for i, v in enumerate(branch.head) if v.name in read and v.name not in given)
        return frozenset(found)

    # sizes --------------------------------------------------------------------------------------------------------

    def fanout(self, atom: Atom, bound: frozenset[str]) -> float:
        """Rows of an `or` or a rule for one binding of the variables that are bound."""
        found = atom.fanouts.get(bound)
        if found is None:
            if atom.kind == "rule":
                free = len(atom.seen - bound)
                found = self.rule_rows(atom) / (20.0 if bound else 1.0) if free else 0.5
                if bound and free:
                    found = min(found, 30.0)
            else:
                inlined, keys = self.inlined, self.keys
                found = 0.0
                for clauses in atom.body:
                    start = State(distinct=dict.fromkeys(bound, 1.0))
                    atoms = self.lowering.atoms(clauses, atom.text)
                    found += self.body(atoms, start, atom.gives).rows
                self.inlined, self.keys = inlined, keys
            atom.fanouts[bound] = found
        return found

    def rule_rows(self, atom: Atom) -> float:
        """A guess at the rows of a recursive rule: a few times its largest scan."""
        assert atom.rule is not None
        assert self.rules is not None
        largest = 10.0
        for branch in self.rules.branches[atom.rule.name]:
            clauses = use_branch(branch, tuple(branch.head), self.lowering.fresh, atom.rule.source)
            for inner in self.lowering.atoms(clauses, self.rules.text):
                if inner.kind in ("scan", "tuples"):
                    largest = max(largest, self.sizes.leaf(inner).rows)
        return largest * 5.0

    # nodes ----------------------------------------------------------------------------------------------------------

    def build(self, order: Sequence[Atom], start: State, keep: frozenset[str]) -> State:
        """The nodes of ordered atoms."""
        later: list[frozenset[str]] = [keep]
        for atom in reversed(order):
            later.append(later[-1] | atom.seen)
        later.reverse()
        state = start
        for i, (atom, needed) in enumerate(zip(order, later[1:], strict=True), 1):
            before = state
            state = self.step(state, atom, needed)
            if i < len(order):
                state = self.thinned(state, atom.gives.union(before.node.variables))
        if start is state and set(state.distinct) - keep:
            variables = tuple(v for v in state.node.variables if v in keep)
            state = State(
                Project(variables, state.rows, state.node, distinct=False), state.rows, state.distinct, state.volatile
            )
        return state

    def thinned(self, state: State, before: frozenset[str]) -> State:
        """The distinct rows of a state, where the variables that are dropped now leave few of them."""
        if before <= set(state.node.variables) or state.rows < _WORTH_THINNING:
            return state
        rows = 1.0
        for name in state.node.variables:
            rows *= state.distinct.get(name, 1.0)
        if rows * _THINNER > state.rows:
            return state
        node = Project(state.node.variables, rows, state.node, distinct=True)
        return State(node, rows, state.distinct, state.volatile)

    def step(self, state: State, atom: Atom, needed: frozenset[str]) -> State:
        """The state after one atom."""
        _, rows, distinct = self.estimate(atom, state)
        if atom.kind in ("scan", "tuples", "input", "derived"):
            return self.join_leaf(state, atom, needed, rows, distinct)
        if atom.kind == "filter":
            assert atom.call is not None
            variables = _kept(state.node.variables, needed)
            return State(
                Filter(variables, rows, state.node, atom.call), rows, _only(distinct, variables), state.volatile
            )
        if atom.kind == "star":
            keep = atom.gives & (needed | set(state.node.variables))
            inner = self.build(self.greedy(list(atom.parts), State(), None, [])[1], State(), keep)
            inner = self.thinned(inner, atom.gives)
            return self.join_node(state, inner.node, needed, rows, distinct)
        if atom.kind == "extend":
            return self.extend(state, atom, needed, rows, distinct)
        if atom.kind == "not":
            return self.negate(state, atom, needed, rows, distinct)
        if atom.kind == "or":
            return self.disjoin(state, atom, needed, rows, distinct)
        return self.recurse(state, atom, needed, rows, distinct)

    def join_leaf(
        self, state: State, atom: Atom, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The state joined with a scan, an input or a predicate of the fixpoint."""
        bound = state.node.variables
        leaf = atom.node
        kept = tuple(v for v in leaf.variables if v in needed or v in bound)
        volatile = state.volatile or isinstance(leaf, Derived)
        leaf = same_node(leaf, variables=kept, rows=self.sizes.leaf(atom).rows)
        if isinstance(state.node, Unit):
            return State(leaf, rows, _only(distinct, kept), volatile)
        variables = (*_kept(bound, needed), *(v for v in kept if v not in bound))
        return State(Join(variables, rows, state.node, leaf), rows, _only(distinct, variables), volatile)

    def extend(
        self, state: State, atom: Atom, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The state with the result of a function bound."""
        assert atom.binding is not None
        assert atom.call is not None
        taken = {*state.node.variables, *self.params}
        binding, extra = self.distinct_binding(atom.binding, taken, atom.text)
        wanted = needed.union(*(a.needs for a in extra))
        new = tuple(v.name for v in binding_variables(binding) if v.name in wanted)
        variables = (*_kept(state.node.variables, wanted), *new)
        node: Node = Extend(variables, rows, state.node, atom.call, binding)
        for i, equality in enumerate(extra):
            assert equality.call is not None
            still = needed.union(*(a.needs for a in extra[i + 1 :]))
            node = Filter(_kept(node.variables, still), rows, node, equality.call)
        return State(node, rows, _only(distinct, node.variables), state.volatile)

    def share(self, state: State) -> State:
        """The state with its node shared, so that it can be used on both sides of a join."""
        if isinstance(state.node, Shared | Unit):
            return state
        self.keys += 1
        node = Shared(state.node.variables, state.rows, state.node, self.keys, state.volatile)
        return State(node, state.rows, state.distinct, state.volatile)

    def seed(self, state: State, on: tuple[str, ...]) -> State:
        """The distinct bindings of some variables of a shared state."""
        if not on:
            return State(volatile=False)
        rows = 1.0
        for name in on:
            rows *= state.distinct.get(name, 1.0)
        rows = max(0.1, min(rows, state.rows))
        node = Project(on, rows, state.node, distinct=True)
        return State(node, rows, {n: min(state.distinct.get(n, rows), rows) for n in on}, state.volatile)

    def negate(
        self, state: State, atom: Atom, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The state without the rows for which the body of a `not` has an answer."""
        on = tuple(v for v in state.node.variables if v in atom.needs)
        inner = self.expand_rules(self.lowering.atoms(atom.body[0], atom.text), State(distinct=dict.fromkeys(on, 1.0)))
        inner = self.push_ranges(inner, state)
        volatile = state.volatile
        if len(inner) == 1 and inner[0].kind in ("scan", "tuples", "derived"):
            leaf = inner[0].node
            kept = tuple(v for v in leaf.variables if v in on)
            right: Node = same_node(leaf, variables=kept, rows=self.sizes.leaf(inner[0]).rows)
            volatile = volatile or isinstance(leaf, Derived)
        else:
            right, state = self.dependent(state, inner, on, frozenset(on))
        variables = _kept(state.node.variables, needed)
        return State(AntiJoin(variables, rows, state.node, right, on), rows, _only(distinct, variables), volatile)

    def dependent(
        self, state: State, inner: list[Atom], on: tuple[str, ...], keep: frozenset[str]
    ) -> tuple[Node, State]:
        """(a nested body's node, the state): on its own when that is possible and small, else from the bindings outside."""
        given = frozenset().union(*(a.gives for a in inner))
        needs = frozenset().union(*(a.needs for a in inner if a.kind != "not"))
        alone = keep <= given and needs <= given and not any(a.kind == "not" and not a.needs <= given for a in inner)
        if alone and self.standalone(inner):
            found = self.try_alone(inner, keep, state.rows)
            if found is not None:
                return self.named(found, tuple(sorted(keep))), state
        state = self.share(state)
        found = self.body(inner, self.seed(state, on), keep)
        return self.named(found, tuple(sorted(keep))), state

    def standalone(self, inner: list[Atom]) -> bool:
        """Whether a body's rule calls can run without bindings from outside."""
        return not any(a.kind == "rule" and self.rule_needs(a) for a in inner)

    def try_alone(self, inner: list[Atom], keep: frozenset[str], limit: float) -> State | None:
        """The body on its own, when its variables all bind inside and it gives no more rows than the outside has."""
        keys = self.keys
        try:
            found = self.body([replace(a) for a in inner], State(), keep)
        except QueryError:
            self.keys = keys
            return None
        if found.rows > limit * 2 + 16:
            self.keys = keys
            return None
        return found

    @staticmethod
    def named(state: State, variables: tuple[str, ...]) -> Node:
        """The node of a state with exactly these columns."""
        if state.node.variables == variables:
            return state.node
        return Project(variables, state.rows, state.node, distinct=False)

    def disjoin(
        self, state: State, atom: Atom, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The state joined with the union of the branches of an `or`."""
        visible = tuple(sorted(atom.seen))
        on = tuple(v for v in state.node.variables if v in atom.seen)
        branches = [self.lowering.atoms(clauses, atom.text) for clauses in atom.body]
        whole = frozenset(visible)
        nodes: list[Node] = []
        if not atom.needs & set(on) and self.fanout(atom, frozenset()) <= 2 * state.rows + 16:
            nodes = [self.named(self.body(b, State(), whole), visible) for b in branches]
        else:
            state = self.share(state)
            seed = self.seed(state, on)
            nodes = [self.named(self.body(b, seed, whole), visible) for b in branches]
        union = Union(visible, sum(n.rows for n in nodes), tuple(nodes))
        return self.join_node(state, union, needed, rows, distinct)

    def join_node(
        self, state: State, node: Node, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The state joined with a finished node."""
        bound = state.node.variables
        if isinstance(state.node, Unit):
            return State(node, rows, _only(distinct, node.variables), state.volatile)
        variables = (*_kept(bound, needed), *(v for v in node.variables if v not in bound and v in needed))
        return State(Join(variables, rows, state.node, node), rows, _only(distinct, variables), state.volatile)

    # recursion ------------------------------------------------------------------------------------------------------

    def recurse(
        self, state: State, atom: Atom, needed: frozenset[str], rows: float, distinct: dict[str, float]
    ) -> State:
        """The fixpoint of a recursive rule, restricted to the bindings at its call where that pays."""
        call = atom.rule
        assert call is not None
        assert self.rules is not None
        terms = tuple(self.lowering.term(t) for t in call.arguments)
        must = self.needed_positions(call)
        best = self.rules.best(call.name)
        bound = set(state.node.variables)
        few = state.rows <= max(64.0, self.rule_rows(atom) * _SEED_SHARE)
        pattern = "".join(
            "b"
            if (best is None or best.position != i)
            and (isinstance(t, Const | Param) or (isinstance(t, Var) and t.name in bound and (few or i in must)))
            else "f"
            for i, t in enumerate(terms)
        )
        on = tuple(
            dict.fromkeys(t.name for t, p in zip(terms, pattern, strict=True) if p == "b" and isinstance(t, Var))
        )
        seed: State | None = None
        if "b" in pattern:
            if on:
                state = self.share(state)
            seed = self.seed(state, on)
        program = Program(self, atom, pattern)
        general = program.fixpoint(seed, terms, self.rule_rows(atom) if not on else rows)
        edges = self.rules.closures.get(call.name)
        node: Node = general if edges is None or must else self.closure(call, edges, pattern, seed, general)
        if seed is None and not state.volatile and program.volatile is False:
            self.keys += 1
            node = Shared(node.variables, node.rows, node, self.keys)
        return self.join_node(state, node, needed, rows, distinct)

    def closure(self, call: RuleCall, edges: Branch, pattern: str, seed: State | None, general: Fixpoint) -> Closure:
        """The call as a transitive closure of what the branch `edges` gives; see shapes.py."""
        assert self.rules is not None
        self.keys += 1
        ends = self.lowering.fresh(edges.head[0].name), self.lowering.fresh(edges.head[1].name)
        clauses = use_branch(edges, tuple(map(Variable, ends)), self.lowering.fresh, call.source)
        bound = pattern.find("b") if seed is not None else None
        start = State()
        if bound is not None:
            here = ends[bound]
            frontier = Derived((here,), 50.0, "frontier", delta=True, terms=(Var(here),), fixpoint=self.keys)
            start = State(frontier, 50.0, {here: 50.0}, volatile=True)
        key = self.keys
        step = self.body(self.lowering.atoms(clauses, self.rules.text), start, frozenset(ends))
        way = ends if bound != 1 else (ends[1], ends[0])
        return Closure(
            general.variables, general.rows, key, step.node, way, bound, None if seed is None else seed.node,
            general.terms, general, general.label,
        )  # fmt: skip


def _kept(variables: Sequence[str], needed: frozenset[str]) -> tuple[str, ...]:
    return tuple(v for v in variables if v in needed)


def _only(distinct: dict[str, float], variables: Sequence[str]) -> dict[str, float]:
    return {v: distinct.get(v, 1.0) for v in variables}


def _said_by(scan: Scan) -> tuple[Any, ...]:
    """What a pattern says, for comparing: that of another one when both find the same."""
    places = (scan.entity, scan.attribute, scan.value, scan.tx, scan.added, *(b.term for b in scan.bounds))
    terms = (
        (type(t), strict_key(t.value) if isinstance(t, Const) else t.name) if isinstance(t, Const | Var | Param) else t
        for t in places
    )
    return (scan.source, *terms, *(b.op for b in scan.bounds))


def _text_of(atom: Atom) -> tuple[str, str]:
    start, end = atom.at
    if start >= 0:
        return atom.kind, atom.text[start:end]
    return atom.kind, repr(atom.node) if atom.node is not None else repr(atom.call)


#: what a conjunction goes through before it is arranged, in this order
PASSES: Final[tuple[Callable[[Planner, list[Atom], State], list[Atom]], ...]] = (
    Planner.in_fixed_order,
    Planner.expand_rules,
    Planner.in_fixed_order,
    Planner.push_ranges,
    Planner.once_each,
    Planner.settle_nested,
)
