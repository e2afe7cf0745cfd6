"""Planner: a query and what it will run against -> Plan.

Place on the path: takes `ast.Query`, the rules, the schema and counts of each source; gives a `plan.Plan`. Nothing is read
but counts and idents; the answer never depends on an estimate.

How a conjunction is planned:
1. lower.py makes atoms of its clauses; non-recursive rules are inlined, a rule with one branch into the conjunction itself;
2. comparisons with a constant or input move into the scan of their variable as a range;
3. `arrange` orders the atoms: filters and anti-joins as soon as their variables are bound, then the atom that gives the
   fewest rows for the least work; every atom is tried as the first, the cheapest whole order wins;
4. `build` makes nodes of the order; columns that nothing later needs are dropped where they arise.

`or`, `not` and rules that cannot (or should not) be evaluated on their own start from the distinct bindings of what stands
before them: that subplan is `Shared`, so it runs once and feeds both sides of the join.

Recursive rules become one Fixpoint for a call. Arguments that are bound at the call restrict it (magic sets): a predicate
`wanted p^bf` holds the bindings asked for, the rules of p start from it, and rule calls inside bodies ask for more. When the
recursive call passes the free arguments on unchanged (tail recursion), the bindings travel instead of the answers, so that
"all ancestors of x" costs what it returns; so do sums of longs under `min` and `max`, added up on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datalog.aggregates import AGGREGATES, find_aggregate
from datalog.ast import (
    BindBlank,
    BindCollection,
    BindTuple,
    BindVariable,
    Call,
    FindExpression,
    FindPull,
    InputBinding,
    InputName,
    NameArgument,
    RuleCall,
    Variable,
    argument_variables,
    binding_variables,
    clause_variables,
)
from datalog.builtins import find_function
from datalog.cost import SELECTIVITY, Size, Sizes, State, joined
from datalog.errors import QueryError, did_you_mean, names, query_error
from datalog.lower import Atom, Lowering, bound_from, takes_range, unbound_error
from datalog.plan import (
    AggregateTree,
    AntiJoin,
    Best,
    Bound,
    CallTree,
    Closure,
    Const,
    Derived,
    Extend,
    Filter,
    Fixpoint,
    Input,
    Join,
    Order,
    Output,
    Param,
    Plan,
    Project,
    RulePlan,
    Scan,
    Shared,
    Union,
    Unit,
    Var,
    same_node,
    term_text,
)
from datalog.record import Record, replace
from datalog.renaming import expand_or, rename_scopes, use_branch
from store.value import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datalog.ast import Binding, Branch, Query
    from datalog.lower import SourceInfo
    from datalog.plan import Node
    from datalog.rules import RuleSet

_REDUCERS = ("filter", "not")
_MOST_STARTS = 8  # first atoms tried
_MOST_INLINED = 400  # uses of rules in one plan; beyond it a rule is evaluated once and shared
_STAR_WORK = 0.25  # of a probe: a star alone is filled by gathering whole columns, in order
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


class Planner:
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
        self.sizes = Sizes(sources)
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
        outputs = tuple(self.output(f) for f in query.find)
        having = tuple(self.find_call(h.call) for h in query.having)
        needed = self.found_variables()
        aggregated = any(o.aggregated for o in outputs) or any(map(_has_aggregate, having))
        order = tuple(Order(k.column, k.variable.name if k.variable else None, k.ascending) for k in query.order)
        group = None
        if aggregated:
            group = self.group(outputs, order)
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

    def found_variables(self) -> list[str]:
        """The variables of :find, :with, :having and :order-by, once each."""
        found: dict[str, None] = {}
        for element in self.query.find:
            if isinstance(element, FindExpression):
                found.update((v.name, None) for v in argument_variables(element.expression))
                for name in self.aggregate_inputs(element.expression):
                    found.pop(name, None)
            else:
                found[element.variable.name] = None
        found.update((v.name, None) for v in self.query.with_)
        found.update((v.name, None) for h in self.query.having for v in argument_variables(h.call))
        found.update((k.variable.name, None) for k in self.query.order if k.variable is not None)
        return list(found)

    def aggregate_inputs(self, call: Call) -> list[str]:
        """Variables in function position: callables, not columns."""
        here = [call.name] if call.name.startswith("?") else []
        return here + [n for a in call.arguments if isinstance(a, Call) for n in self.aggregate_inputs(a)]

    def group(self, outputs: Sequence[Output], order: Sequence[Order]) -> tuple[str, ...]:
        """The variables to group by: those of the outputs that do not aggregate."""
        found: dict[str, None] = {}
        for output in outputs:
            if not output.aggregated:
                for name in _free_variables(output.expression if output.expression is not None else output.term):
                    found[name] = None
        for key in order:
            if key.variable is not None and key.variable not in found:
                raise query_error(
                    "query/order",
                    f":order-by {key.variable} is not among the columns that are grouped by.",
                    self.query.text,
                    next(k.at for k in self.query.order if k.variable and k.variable.name == key.variable),
                    hint="order by an element of :find",
                )
        return tuple(found)

    def output(self, element: Any) -> Output:
        """One column of the answer."""
        if isinstance(element, FindPull):
            term = self.lowering.term(element.variable)
            source = self.sources.get(element.source)
            if source is None or source.snapshot is None:
                raise query_error("query/unknown-source", "pull needs a database.", self.query.text, element.at)
            return Output(
                element.variable.name[1:],
                term=term,
                pull_source=element.source,
                pull_pattern=element.pattern,
                pull_input=element.input_name,
            )
        if isinstance(element, FindExpression):
            tree = self.find_call(element.expression)
            name = " ".join(self.query.text[element.at[0] : element.at[1]].split()) or term_text(tree)
            return Output(name, expression=tree, aggregated=_has_aggregate(tree))
        return Output(element.variable.name[1:], term=self.lowering.term(element.variable))

    def find_call(self, call: Call) -> Any:
        """A call in :find or :having: an aggregate where the name is one, else a function over such calls."""
        text = self.query.text
        aggregate = find_aggregate(call.name)
        custom = call.name in self.lowering.callables or (call.name.startswith("?") and call.name in self.params)
        if aggregate is None and not custom:
            function = self.function_or_fail(call)
            arguments = tuple(
                self.find_call(a) if isinstance(a, Call) else self.lowering.argument(a, text) for a in call.arguments
            )
            return CallTree(call.name, function, None, arguments, call.at, text)
        if not call.arguments:
            raise query_error(
                "query/arity", f"{call.name} needs a variable.", text, call.at, expected=f"({call.name} ?x)"
            )
        *parameters, last = call.arguments
        if aggregate is not None and len(parameters) > aggregate.parameters:
            takes = f"{aggregate.parameters + 1} arguments at most" if aggregate.parameters else "one argument"
            raise query_error("query/arity", f"The aggregate {call.name} takes {takes}.", text, call.at)
        inner = [self.lowering.argument(p, text) for p in parameters]
        if any(isinstance(p, Var | CallTree) for p in inner):
            raise query_error("query/syntax", f"The parameters of {call.name} are constants or inputs.", text, call.at)
        if isinstance(last, NameArgument):
            raise query_error("query/syntax", f"{call.name} takes a variable.", text, call.at)
        return AggregateTree(
            call.name,
            aggregate,
            call.name if custom else None,
            tuple(inner),
            self.lowering.argument(last, text),
            call.at,
        )

    def function_or_fail(self, call: Call) -> Any:
        """The function of a call outside of aggregates."""
        found = find_function(call.name)
        if found is None:
            near = did_you_mean(call.name, AGGREGATES)
            if near is None:
                self.lowering.unknown_function(call, self.query.text)
            raise query_error(
                "query/unknown-function", f"There is no aggregate {call.name}.", self.query.text, call.at, hint=near
            )
        if not any(isinstance(a, Call) for a in call.arguments):
            self.lowering.call(call, self.query.text)  # checks the number of arguments
        return found

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
        ready = self.push_ranges(self.expand_rules(list(atoms), start))
        self.settle_nested(ready, start)
        return self.build(self.arrange(ready, start), start, keep)

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

    def push_ranges(self, atoms: list[Atom]) -> list[Atom]:
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
                return self.push_ranges([moved if a is atom else a for a in atoms if a not in taken])
        return atoms

    def settle_nested(self, atoms: list[Atom], start: State) -> None:
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

    # order ----------------------------------------------------------------------------------------------------------

    def arrange(self, atoms: list[Atom], start: State) -> list[Atom]:
        """The atoms in the order of the cheapest plan found: greedy from each possible first atom."""
        makers = [a for a in atoms if a.kind not in _REDUCERS]
        if len(makers) <= 1:
            return self.greedy(atoms, start, None)[1]
        bound = set(start.distinct)
        firsts = [a for a in makers if a.needs <= bound]
        if start.distinct or start.rows != 1.0:
            firsts = [a for a in firsts if a.seen & bound] or firsts
        most = _MOST_STARTS if len(makers) <= 30 else 1
        if len(firsts) > most:
            firsts = sorted(firsts, key=lambda a: self.estimate(a, start)[1])[:most]
        best: tuple[float, list[Atom]] | None = None
        choices: list[Atom | None] = [*firsts] or [None]
        for first in choices:
            cost, order = self.greedy(atoms, start, first)
            if best is None or cost < best[0]:
                best = cost, order
        assert best is not None
        return best[1]

    def greedy(self, atoms: list[Atom], start: State, first: Atom | None) -> tuple[float, list[Atom]]:
        """(cost, order): the cheapest next atom again and again, filters and anti-joins as soon as they can run."""
        state = State(rows=start.rows, distinct=dict(start.distinct))
        left = list(atoms)
        stars = self.stars(atoms)
        order: list[Atom] = []
        total = 0.0
        while left:
            best: tuple[float, float, dict[str, float], Atom] | None = None
            for atom in left:
                if atom.needs and not all(n in state.distinct for n in atom.needs):
                    continue
                if first is not None and not order and atom is not first and atom.kind not in _REDUCERS:
                    continue
                cost, rows, distinct = self.estimate(atom, state)
                rank = -1.0 / (1.0 + cost) if atom.kind in _REDUCERS else cost + rows
                if best is None or rank < best[0]:
                    best = rank, cost + rows, distinct, atom
                    found_rows = rows
            if order and first is None and stars:
                best, found_rows = self.best_star(stars, left, state, best, found_rows if best else 0.0)
            if best is None:
                stuck = left[0]
                missing = sorted(stuck.needs - set(state.distinct))
                raise unbound_error(missing, sorted(state.distinct), stuck)
            atom = best[3]
            left = [a for a in left if a is not atom and a not in atom.parts]
            order.append(atom)
            if atom.kind not in _REDUCERS:
                first = None
            total += best[1]
            state.rows, state.distinct = found_rows, best[2]
        return total, order

    def stars(self, atoms: list[Atom]) -> list[Atom]:
        """Patterns on one entity variable as units of their own, so that two stars can be joined whole.

        A chain of index probes meets two selective stars only through all rows in between; joining the finished stars on
        everything they share does not.
        """
        by_entity: dict[str, list[Atom]] = {}
        for atom in atoms:
            node = atom.node
            if isinstance(node, Scan) and isinstance(node.entity, Var) and isinstance(node.attribute, int):
                by_entity.setdefault(node.entity.name, []).append(atom)
        found: list[Atom] = []
        for parts in by_entity.values():
            if 2 <= len(parts) < len(atoms):
                gives = frozenset().union(*(p.gives for p in parts))
                found.append(Atom("star", frozenset(), gives, parts[0].text, parts[0].at, parts=tuple(parts)))
        return found if len(found) > 1 or (found and len(atoms) > len(found[0].parts) + 1) else []

    def star_size(self, star: Atom) -> tuple[float, Size]:
        """(work, size) of a star on its own."""
        if star.size is None:
            work, order = self.greedy(list(star.parts), State(), None)
            state = State()
            for atom in order:
                _, state.rows, state.distinct = self.estimate(atom, state)
            star.size = work, Size(state.rows, state.distinct)
        found: tuple[float, Size] = star.size
        return found

    def best_star(
        self, stars: list[Atom], left: list[Atom], state: State, best: Any, best_rows: float
    ) -> tuple[Any, float]:
        """The better of the best atom and the best star that is still whole and touches what is bound."""
        for star in stars:
            if not all(p in left for p in star.parts) or not any(v in state.distinct for v in star.gives):
                continue
            cost, rows, distinct = self.estimate(star, state)
            if best is None or cost + rows < best[0]:
                best, best_rows = (cost + rows, cost + rows, distinct, star), rows
        return best, best_rows

    def estimate(self, atom: Atom, state: State) -> tuple[float, float, dict[str, float]]:
        """(work, rows, distinct values) of running an atom after a state."""
        rows = state.rows
        if atom.kind in ("scan", "tuples", "input", "derived"):
            size = self.sizes.leaf(atom)
            after, distinct = joined(state, size)
            connected = any(v in state.distinct for v in size.distinct) or not size.distinct
            work = min(rows, size.rows) + 1.0 if connected else size.rows
            return work, after, distinct
        if atom.kind == "star":
            work, size = self.star_size(atom)
            after, distinct = joined(state, size)
            return work * _STAR_WORK + size.rows * 0.5 + rows * 0.5, after, distinct
        if atom.kind == "filter":
            assert atom.call is not None
            after = rows * SELECTIVITY.get(atom.call.name, 0.5)
            return 1.0, max(after, 0.01), state.distinct
        if atom.kind == "not":
            after = rows * 0.7
            return rows, max(after, 0.01), state.distinct
        if atom.kind == "extend":
            after = rows * (5.0 if _has_collection(atom.binding) else 1.0)
            return rows, after, {**state.distinct, **dict.fromkeys(atom.gives - state.distinct.keys(), max(after, 1.0))}
        bound = frozenset(v for v in atom.seen if v in state.distinct)
        after = max(rows * self.fanout(atom, bound), 0.01)
        new = dict.fromkeys(atom.gives - state.distinct.keys(), max(after, 0.1))
        return min(rows, 1e6) + after, after, {**state.distinct, **new}

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
        for atom, needed in zip(order, later[1:], strict=True):
            state = self.step(state, atom, needed)
        if start is state and set(state.distinct) - keep:
            variables = tuple(v for v in state.node.variables if v in keep)
            state = State(
                Project(variables, state.rows, state.node, distinct=False), state.rows, state.distinct, state.volatile
            )
        return state

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
            inner = self.build(self.greedy(list(atom.parts), State(), None)[1], State(), keep)
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
        inner = self.push_ranges(inner)
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


class SumTail(Record):
    """A body of tail recursion with a sum: its recursive call, the clause that adds, what it adds; all None without recursion."""

    call: Atom | None
    extend: Atom | None
    step: Any


class Program:
    """The rules of one fixpoint: predicates with their bindings patterns, found from one call on.

    1. `fixpoint` asks for the predicate of the call;
    2. each predicate asked for gets its rules, whose recursive calls ask for more;
    3. when nothing more is asked for, each rule is planned once for each of its recursive atoms as the driver.
    """

    def __init__(self, planner: Planner, atom: Atom, pattern: str) -> None:
        call = atom.rule
        assert call is not None
        assert planner.rules is not None
        self.planner = planner
        self.rules = planner.rules
        self.component = self.rules.component[call.name]
        self.first = (call.name, call.source, pattern)
        self.asked = [self.first]
        self.bodies: list[tuple[str, tuple[Any, ...], list[Atom]]] = []
        self.widths: dict[str, int] = {}
        self.bests: list[Best] = []
        planner.keys += 1
        self.key = planner.keys
        self.volatile = False
        self.rows = planner.rule_rows(atom)

    def fixpoint(self, seed: State | None, terms: tuple[Any, ...], rows: float) -> Fixpoint:
        """The Fixpoint node of the call, its columns named by the call's terms."""
        for asked in self.asked:  # grows while it is walked
            self.define(asked)
        plans: list[RulePlan] = []
        if seed is not None:
            plans.append(self.seeded(seed, terms))
        for predicate, head, atoms in self.bodies:
            plans.extend(self.drive(predicate, head, atoms))
        variables = tuple(dict.fromkeys(t.name for t in terms if isinstance(t, Var)))
        name, _, _ = self.first
        label = f"({' '.join([name, *map(term_text, terms)])})"
        return Fixpoint(
            variables,
            rows,
            self.key,
            tuple(self.widths.items()),
            tuple(plans),
            self.symbol(self.first),
            terms,
            label,
            tuple(self.bests),
            self.component in self.rules.additive,
        )

    @staticmethod
    def symbol(asked: tuple[str, str, str]) -> str:
        """The name of a predicate: rule, source when it is not `$`, bound and free arguments."""
        name, source, pattern = asked
        where = "" if source == "$" else f" {source}"
        return f"{name}{where}^{pattern}" if "b" in pattern else f"{name}{where}"

    def wanted(self, asked: tuple[str, str, str]) -> str:
        """The name of the predicate that holds the bindings asked for."""
        return f"wanted {self.symbol(asked)}"

    def seeded(self, seed: State, terms: tuple[Any, ...]) -> RulePlan:
        """The rule that puts the call's own bindings into `wanted`."""
        pattern = self.first[2]
        head = tuple(t for t, p in zip(terms, pattern, strict=True) if p == "b")
        self.widths[self.wanted(self.first)] = len(head)
        return RulePlan(self.wanted(self.first), head, seed.node, None)

    def derived(self, predicate: str, terms: tuple[Any, ...], atom_text: str, at: tuple[int, int], width: int) -> Atom:
        """The atom of a predicate inside the fixpoint."""
        self.widths[predicate] = width
        variables = tuple(dict.fromkeys(t.name for t in terms if isinstance(t, Var)))
        rows = 20.0 if predicate.startswith(("wanted ", "reached ")) else self.rows
        node = Derived(variables, rows, predicate, delta=False, terms=terms, fixpoint=self.key)
        return Atom("derived", frozenset(), frozenset(variables), atom_text, at, node=node)

    def define(self, asked: tuple[str, str, str]) -> None:
        """The rules of one predicate."""
        name, source, pattern = asked
        planner = self.planner
        self.widths[self.symbol(asked)] = len(pattern)
        best = self.rules.best(name)
        if best is not None:
            self.bests.append(Best(self.symbol(asked), best.position, best.name == "max"))
        bodies: list[tuple[tuple[str, ...], list[Atom]]] = []
        for branch in self.rules.branches[name]:
            head = tuple(Variable(planner.lowering.fresh(v.name), v.at) for v in branch.head)
            clauses = use_branch(branch, head, planner.lowering.fresh, source)
            for body in expand_or(clauses, lambda o: self.rules.reaches((o,), self.component)):
                atoms = planner.expand_rules(planner.lowering.atoms(body, self.rules.text), State())
                bodies.append((tuple(v.name for v in head), atoms))
        if "b" in pattern and "f" in pattern:
            if all(self.is_tail(h, a, asked) for h, a in bodies):
                self.define_tail(asked, bodies)
                return
            tails = [] if best is None else [self.sum_tail(h, a, asked, best.position) for h, a in bodies]
            if best is not None and all(t is not None for t in tails):
                self.define_sum_tail(asked, bodies, [t for t in tails if t is not None], best)
                return
        for head_names, atoms in bodies:
            self.define_body(asked, head_names, atoms)

    def is_recursive(self, atom: Atom) -> bool:
        """Whether an atom calls a rule of this fixpoint."""
        return atom.kind == "rule" and atom.rule is not None and self.rules.component[atom.rule.name] == self.component

    def define_body(self, asked: tuple[str, str, str], head: tuple[str, ...], atoms: list[Atom]) -> None:
        """One rule, with its recursive calls as atoms of the predicates they ask for."""
        planner = self.planner
        pattern = asked[2]
        bound_head = tuple(Var(h) for h, p in zip(head, pattern, strict=True) if p == "b")
        body: list[Atom] = []
        start = State()
        if bound_head:
            wanted = self.derived(self.wanted(asked), bound_head, self.rules.text, (-1, -1), len(bound_head))
            body.append(wanted)
            start = State(wanted.node, 20.0, {v.name: 20.0 for v in bound_head}, volatile=True)
        atoms = planner.push_ranges(atoms)
        planner.settle_nested(atoms, start)
        bound = {v.name for v in bound_head}
        for atom in planner.arrange(atoms, start):
            body.append(self.ask(atom, bound, body, everything="b" in pattern) if self.is_recursive(atom) else atom)
            bound |= atom.gives
        self.bodies.append((self.symbol(asked), tuple(Var(h) for h in head), body))

    def ask(self, atom: Atom, bound: set[str], before: list[Atom], *, everything: bool) -> Atom:
        """The atom of a recursive call, after asking for its predicate and passing it the bindings."""
        call = atom.rule
        assert call is not None
        planner = self.planner
        terms = tuple(planner.lowering.term(t) for t in call.arguments)
        must = planner.needed_positions(call)
        best = self.rules.best(call.name)
        pattern = "".join(
            "b"
            if (everything or i in must)
            and (best is None or best.position != i)
            and (isinstance(t, Const | Param) or (isinstance(t, Var) and t.name in bound))
            else "f"
            for i, t in enumerate(terms)
        )
        asked = (call.name, call.source, pattern)
        if asked not in self.asked:
            self.asked.append(asked)
        if "b" in pattern:
            head = tuple(t for t, p in zip(terms, pattern, strict=True) if p == "b")
            if not self.is_own(asked, head, before):
                self.widths[self.wanted(asked)] = len(head)
                self.bodies.append((self.wanted(asked), head, list(before)))
        return self.derived(self.symbol(asked), terms, atom.text, atom.at, len(terms))

    def is_own(self, asked: tuple[str, str, str], head: tuple[Any, ...], before: list[Atom]) -> bool:
        """Whether a body asks for what it was asked for itself: nothing new."""
        node = before[0].node if before else None
        return isinstance(node, Derived) and node.predicate == self.wanted(asked) and node.terms == head

    def is_tail(self, head: tuple[str, ...], atoms: list[Atom], asked: tuple[str, str, str]) -> bool:
        """Whether a body is no recursion, or passes the free arguments on unchanged in its one recursive call."""
        calls = [a for a in atoms if self.is_recursive(a)]
        if not calls:
            return True
        call = calls[0].rule
        assert call is not None
        name, source, pattern = asked
        if len(calls) > 1 or call.name != name or call.source != source:
            return False
        others = frozenset().union(*(a.seen for a in atoms if a is not calls[0]))
        bound = {h for h, p in zip(head, pattern, strict=True) if p == "b"}
        if any(a.kind == "not" for a in atoms):
            return False
        for h, p, argument in zip(head, pattern, call.arguments, strict=True):
            if p == "f":
                if not isinstance(argument, Variable) or argument.name != h or h in others:
                    return False
            elif isinstance(argument, Variable) and argument.name not in others | bound:
                return False
        return True

    def define_tail(self, asked: tuple[str, str, str], bodies: list[tuple[tuple[str, ...], list[Atom]]]) -> None:
        """Tail recursion: `reached` holds (binding asked for, binding it leads to); answers come from the plain branches."""
        planner = self.planner
        pattern = asked[2]
        width = pattern.count("b")
        reached = f"reached {self.symbol(asked)}"
        text = self.rules.text
        seeds = tuple(Var(planner.lowering.fresh(f"?seed{i}")) for i in range(width))
        wanted = self.derived(self.wanted(asked), seeds, text, (-1, -1), width)
        self.bodies.append((reached, seeds + seeds, [wanted]))
        for head, atoms in bodies:
            here = tuple(Var(h) for h, p in zip(head, pattern, strict=True) if p == "b")
            start = self.derived(reached, seeds + here, text, (-1, -1), 2 * width)
            rest = [a for a in atoms if not self.is_recursive(a)]
            if len(rest) < len(atoms):
                call = next(a.rule for a in atoms if self.is_recursive(a))
                assert call is not None
                passed = (planner.lowering.term(t) for t, p in zip(call.arguments, pattern, strict=True) if p == "b")
                self.bodies.append((reached, (*seeds, *passed), [start, *rest]))
                continue
            bound = iter(seeds)
            result = tuple(next(bound) if p == "b" else Var(h) for h, p in zip(head, pattern, strict=True))
            self.bodies.append((self.symbol(asked), result, [start, *rest]))

    def sum_tail(
        self, head: tuple[str, ...], atoms: list[Atom], asked: tuple[str, str, str], position: int
    ) -> SumTail | None:
        """How a body adds to the cost of its one recursive call, when that is all that keeps it from tail recursion.

        Only sums of longs are taken: they may be added up from the other end and stay the same.
        """
        calls = [a for a in atoms if self.is_recursive(a)]
        if not calls:
            return SumTail(None, None, None) if self.is_long(head[position], atoms) else None
        call = calls[0].rule
        assert call is not None
        cost = call.arguments[position]
        for atom in atoms:
            if atom.kind != "extend" or not isinstance(cost, Variable) or not isinstance(atom.binding, BindVariable):
                continue
            step = self.step_of(atom.call, cost.name)
            if step is None or atom.binding.variable.name != head[position]:
                continue
            if isinstance(step, Var) and not self.is_long(step.name, atoms):
                return None
            rest = [a for a in atoms if a is not atom and a is not calls[0]]
            if any({cost.name, head[position]} & a.seen for a in rest):
                return None
            # what is left is tail recursion when the cost is handed on unchanged
            handed = tuple(Variable(head[position]) if i == position else a for i, a in enumerate(call.arguments))
            tail = replace(calls[0], rule=replace(call, arguments=handed))
            if not self.is_tail(head, [*rest, tail], asked):
                return None
            return SumTail(calls[0], atom, step)
        return None

    @staticmethod
    def step_of(call: CallTree | None, cost: str) -> Any:
        """What a call adds to a cost: the other summand of `+`, 1 for `inc`; None when it is no such call."""
        if call is None or call.builtin is None or Var(cost) not in call.arguments:
            return None
        if call.name == "inc":
            return Const(1)
        if call.name != "+" or len(call.arguments) != 2:
            return None
        left, right = call.arguments
        step = right if left == Var(cost) else left
        is_long = isinstance(step, Const) and type(step.value) is int and kind_of(step.value) is Kind.LONG
        return step if is_long or (isinstance(step, Var) and step.name != cost) else None

    def is_long(self, name: str, atoms: list[Atom]) -> bool:
        """Whether a clause of a body shows that a variable holds longs only."""
        for atom in atoms:
            node = atom.node
            if (
                isinstance(node, Scan)
                and node.value == Var(name)
                and type(node.attribute) is int
                and node.attribute >= 0
            ):
                snapshot = self.planner.sources[node.source].snapshot
                return bool(snapshot.schema.by_aid(node.attribute).kind is Kind.LONG)
            if atom.kind == "extend" and atom.call is not None and atom.call.name in ("ground", "identity"):
                given = atom.call.arguments[0] if atom.call.builtin is not None else None
                if isinstance(atom.binding, BindVariable) and atom.binding.variable.name == name:
                    return isinstance(given, Const) and type(given.value) is int and kind_of(given.value) is Kind.LONG
        return False

    def define_sum_tail(
        self,
        asked: tuple[str, str, str],
        bodies: list[tuple[tuple[str, ...], list[Atom]]],
        tails: list[SumTail],
        best: Any,
    ) -> None:
        """Tail recursion with a sum: `reached` also holds the best sum of the steps from one binding to the other."""
        lowering = self.planner.lowering
        pattern = asked[2]
        width = pattern.count("b")
        reached = f"reached {self.symbol(asked)}"
        text = self.rules.text
        seeds = tuple(Var(lowering.fresh(f"?seed{i}")) for i in range(width))
        wanted = self.derived(self.wanted(asked), seeds, text, (-1, -1), width)
        self.bodies.append((reached, (*seeds, *seeds, Const(0)), [wanted]))
        self.bests.append(Best(reached, 2 * width, best.name == "max"))
        for (head, atoms), tail in zip(bodies, tails, strict=True):
            here = tuple(Var(h) for h, p in zip(head, pattern, strict=True) if p == "b")
            sum_so_far, total = Var(lowering.fresh("?sum")), lowering.fresh("?sum")
            start = self.derived(reached, (*seeds, *here, sum_so_far), text, (-1, -1), 2 * width + 1)
            step = Var(head[best.position]) if tail.call is None else tail.step
            call = CallTree("+", find_function("+"), None, (sum_so_far, step), (-1, -1), text)
            needs = frozenset(t.name for t in call.arguments if isinstance(t, Var))
            add = Atom(
                "extend", needs, frozenset((total,)), text, (-1, -1), call=call, binding=BindVariable(Variable(total))
            )
            rest = [a for a in atoms if a is not tail.call and a is not tail.extend]
            if tail.call is not None:
                assert tail.call.rule is not None
                arguments = zip(tail.call.rule.arguments, pattern, strict=True)
                passed = (lowering.term(t) for t, p in arguments if p == "b")
                self.bodies.append((reached, (*seeds, *passed, Var(total)), [start, *rest, add]))
                continue
            bound = iter(seeds)
            result = tuple(
                next(bound) if p == "b" else Var(total if i == best.position else h)
                for i, (h, p) in enumerate(zip(head, pattern, strict=True))
            )
            self.bodies.append((self.symbol(asked), result, [start, *rest, add]))

    def drive(self, predicate: str, head: tuple[Any, ...], atoms: list[Atom]) -> list[RulePlan]:
        """The plans of one rule: one for each recursive atom whose new rows can drive it."""
        planner = self.planner
        keep = frozenset(t.name for t in head if isinstance(t, Var))
        drivers = [a for a in atoms if a.kind == "derived"]
        if not drivers:
            state = planner.body([replace(a) for a in atoms], State(), keep)
            self.volatile = self.volatile or state.volatile
            return [RulePlan(predicate, head, state.node, None)]
        plans = []
        for driver in drivers:
            rest = [replace(a) for a in atoms if a is not driver]
            delta = same_node(driver.node, delta=True)
            start = State(delta, 50.0, dict.fromkeys(delta.variables, 50.0), volatile=True)
            extra = [a for a in rest if a.node is not driver.node]
            state = planner.body(extra, start, keep)
            plans.append(RulePlan(predicate, head, state.node, driver.node.predicate))
        return plans


def _kept(variables: Sequence[str], needed: frozenset[str]) -> tuple[str, ...]:
    return tuple(v for v in variables if v in needed)


def _only(distinct: dict[str, float], variables: Sequence[str]) -> dict[str, float]:
    return {v: distinct.get(v, 1.0) for v in variables}


def _has_collection(binding: Binding | None) -> bool:
    if isinstance(binding, BindTuple):
        return any(map(_has_collection, binding.items))
    return isinstance(binding, BindCollection)


def _has_aggregate(tree: Any) -> bool:
    if isinstance(tree, AggregateTree):
        return True
    return isinstance(tree, CallTree) and any(map(_has_aggregate, tree.arguments))


def _free_variables(tree: Any) -> list[str]:
    """The columns that a find expression reads outside of aggregates."""
    if isinstance(tree, Var):
        return [tree.name]
    if isinstance(tree, CallTree):
        return [n for a in tree.arguments for n in _free_variables(a)]
    return []
