"""The rules of one fixpoint: which predicates a recursive call needs, with which arguments bound, and their plans.

Place on the path: made by planner.py for each call of a recursive rule; gives a `plan.Fixpoint`.

Arguments that are bound at the call restrict it (magic sets): a predicate `wanted p^bf` holds the bindings asked for, the rules
of p start from it, and rule calls inside bodies ask for more. When the recursive call passes the free arguments on
unchanged (tail recursion), the bindings travel instead of the answers, so that "all ancestors of x" costs what it
returns; so do sums of longs under `min` and `max`, added up on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datalog.ast import BindVariable, Variable
from datalog.builtins import find_function
from datalog.cost import State
from datalog.lower import Atom
from datalog.plan import Best, CallTree, Const, Derived, Fixpoint, Param, RulePlan, Scan, Var, same_node, term_text
from datalog.record import Record, replace
from datalog.renaming import expand_or, use_branch
from store.value import Kind, kind_of

if TYPE_CHECKING:
    from datalog.planner import Planner


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
        atoms = planner.in_fixed_order(planner.push_ranges(atoms, start), start)
        planner.settle_nested(atoms, start)
        bound = {v.name for v in bound_head}
        # the order says what is bound when a call is asked; how the patterns are joined is seen to when the body is planned
        ordered = [part for atom in planner.arrange(atoms, start) for part in atom.parts or (atom,)]
        for atom in ordered:
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
