"""Monotone: where `min` and `max` may stand in the head of a recursive rule.

Place on the path: rules.py asks before a rule set is used. No evaluation.

    [(path ?a ?b (min ?d)) [?x :from ?a] [?x :to ?b] [?x :length ?d]]
    [(path ?a ?b (min ?d)) (path ?a ?c ?n) [?x :from ?c] [?x :to ?b] [?x :length ?m] [(+ ?n ?m) ?d]]

means: of all rows that the same rules give without the aggregate, for each ?a and ?b the least ?d. The fixpoint keeps only the
best row it has for each group, which is the same exactly when a better row never leads to a worse one, and is never in the way
of one. That holds when the minimum that a recursive call gives (a *cost*: ?n) only

- goes through functions that grow with it: `+`, the first argument of `-`, `inc`, `dec`, `max`, `min`, `identity`, `*` with what
  is known not to be negative, `/` and `quot` by a positive constant;
- is compared so that a better one passes where a worse one does: `<` and `<=` for min, `>` and `>=` for max;
- ends in the aggregate of the head.

Everything else is an error: a join on a cost, a constant in its place, another function, a rule without aggregate that hands it
on. The condition is that of pre-mappability (Zaniolo et al., "Fixpoint semantics and optimization of recursive Datalog programs
with aggregates", 2017), read off the text.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NoReturn

from datalog.ast import (
    BindVariable,
    Call,
    Constant,
    Function,
    Predicate,
    RuleCall,
    Variable,
    argument_variables,
    binding_variables,
    clause_variables,
)
from datalog.builtins import is_number
from datalog.errors import query_error
from datalog.renaming import expand_or, use_branch

if TYPE_CHECKING:
    from datalog.ast import Argument, At, Best, Branch, Clause, Rules

_GROWING = {"+", "inc", "dec", "max", "min", "identity"}  # with each of their arguments
_SUMS = {"+", "-", "inc", "dec", "identity"}
_PASSING = {"min": ({"<", "<="}, {">", ">="}), "max": ({">", ">="}, {"<", "<="})}  # a cost on the left, on the right


def check_aggregates(rules: Rules, component: dict[str, int]) -> set[int]:
    """The strata whose minimum or maximum is a sum all the way; `component` numbers the strata.

    Raises:
        QueryError: `query/unsound-aggregate` unless every min and max in a head is sound.
    """
    sums: dict[int, bool] = {}
    for name, branches in rules.branches.items():
        best = {n: b[0].best for n, b in rules.branches.items() if component[n] == component[name]}
        found = {n: b for n, b in best.items() if b is not None}
        if not found:
            continue
        own = best[name]
        for branch in branches:
            body = _Body(rules.text, name, branch, own, found)
            body.check()
            sums[component[name]] = sums.get(component[name], True) and body.is_sum
    return {number for number, is_sum in sums.items() if is_sum}


class _Body:
    """One branch of a rule whose stratum has aggregates: `best` says which rules of the stratum have which."""

    def __init__(self, text: str, name: str, branch: Branch, own: Best | None, best: dict[str, Best]) -> None:
        self.text = text
        self.name = name
        self.branch = branch
        self.own = own
        self.best = best
        self.way = next(iter(best.values())).name
        self.costs: set[str] = set()
        self.guarded: set[str] = set()
        self.is_sum = True

    def check(self) -> None:
        """Raise unless the costs of every alternative of the body are used soundly."""
        if len({b.name for b in self.best.values()}) > 1:
            self.fail(self.branch.at, f"The rule {self.name} leads back to itself through both min and max")
        numbers = count()
        head = tuple(Variable(f"{v.name}~h{next(numbers)}", v.at) for v in self.branch.head)
        clauses = use_branch(self.branch, head, lambda n: f"{n.split('~')[0]}~{next(numbers)}", "$")
        for body in expand_or(clauses, lambda _: True):
            self.costs = set()
            self.guarded = {v for clause in body for v in _not_negative(clause)}
            self.body(body)
            for position, variable in enumerate(head):
                if variable.name in self.costs and (self.own is None or self.own.position != position):
                    shown = self.branch.head[position]
                    what = "is no aggregate" if self.own is None else "is one of the arguments that make the groups"
                    self.fail(
                        shown.at,
                        f"{shown.name} comes from the {self.way} of a recursive call, but in the head it {what}",
                    )

    def body(self, body: tuple[Clause, ...]) -> None:
        """Find the costs of one alternative, and check each clause that uses one."""
        calls = [c for c in body if isinstance(c, RuleCall) and c.name in self.best]
        for call in calls:
            self.recursive_call(call)
        pending: list[Clause] = [c for c in body if not any(c is call for call in calls)]
        grown = True
        while grown:
            grown = False
            for clause in pending:
                if isinstance(clause, Function) and self.names_cost(argument_variables(clause.call)):
                    self.function(clause)
                    pending = [c for c in pending if c is not clause]
                    grown = True
                    break
        for clause in pending:
            if isinstance(clause, Predicate) and self.names_cost(argument_variables(clause.call)):
                self.predicate(clause)
            elif self.names_cost(clause_variables(clause)):
                self.clause_fails(clause.at, "joins on it")
        for call in calls:
            position = self.best[call.name].position
            others = [t for i, t in enumerate(call.arguments) if i != position and isinstance(t, Variable)]
            if self.names_cost(others):
                self.clause_fails(call.at, "calls a rule with it")

    def recursive_call(self, call: RuleCall) -> None:
        """The cost that a recursive call gives."""
        term = call.arguments[self.best[call.name].position]
        if isinstance(term, Constant):
            self.clause_fails(call.at, "compares it with a constant")
        if isinstance(term, Variable):
            self.add(term.name, call.at)

    def add(self, name: str, at: At) -> None:
        """A variable that holds a cost: nothing else may give it a value."""
        if name in self.costs:
            self.clause_fails(at, "joins on it")
        self.costs.add(name)

    def names_cost(self, variables: list[Variable]) -> bool:
        """Whether one of the variables is a cost."""
        return any(v.name in self.costs for v in variables)

    def function(self, clause: Function) -> None:
        """A function of a cost: growing with it, its result a cost again."""
        self.growing(clause.call)
        if not isinstance(clause.binding, BindVariable):
            self.clause_fails(clause.at, "takes it apart")
        for variable in binding_variables(clause.binding):
            self.add(variable.name, clause.at)

    def growing(self, argument: Argument) -> bool:
        """Whether an argument holds a cost; raises unless it grows with it."""
        if isinstance(argument, Variable):
            return argument.name in self.costs
        if not isinstance(argument, Call):
            return False
        if not self.names_cost(argument_variables(argument)):
            return False
        held = [self.growing(a) for a in argument.arguments]
        first, *rest = argument.arguments
        self.is_sum = self.is_sum and argument.name in _SUMS
        if argument.name in _GROWING:
            sound = True
        elif argument.name == "-":
            sound = bool(rest) and not any(held[1:])
        elif argument.name == "*":
            sound = sum(held) == 1 and all(
                h or self.is_not_negative(a) for h, a in zip(held, argument.arguments, strict=True)
            )
        elif argument.name in ("/", "quot"):
            sound = (
                bool(rest)
                and held[0]
                and all(isinstance(a, Constant) and is_number(a.value) and a.value > 0 for a in rest)
            )
        else:
            sound = False
        if not sound:
            hint = None
            if argument.name == "*" and sum(held) == 1:
                factor = next(a for a, h in zip((first, *rest), held, strict=True) if not h)
                if isinstance(factor, Variable):
                    hint = f"add [(>= {factor.name.split('~')[0]} 0)] if that is so"
            self.clause_fails(argument.at, f"uses it in {self.written(argument.at)}, which need not grow with it", hint)
        return True

    def is_not_negative(self, argument: Argument) -> bool:
        """Whether a factor is a constant from 0 on, or a variable that a clause keeps from being negative."""
        if isinstance(argument, Constant):
            return is_number(argument.value) and argument.value >= 0
        return isinstance(argument, Variable) and argument.name in self.guarded

    def predicate(self, clause: Predicate) -> None:
        """A comparison of a cost: a better one must pass where a worse one does."""
        call = clause.call
        left, right = _PASSING[self.way]
        held = [self.growing(a) for a in call.arguments]
        if len(held) == 2 and (
            (call.name in left and held == [True, False]) or (call.name in right and held == [False, True])
        ):
            return
        better = "smaller" if self.way == "min" else "greater"
        self.clause_fails(clause.at, f"tests it with {self.written(clause.at)}, which a {better} one may fail")

    def written(self, at: At) -> str:
        """The text of a place."""
        return " ".join(self.text[at[0] : at[1]].split())

    def clause_fails(self, at: At, what: str, hint: str | None = None) -> NoReturn:
        """Raise for a clause that uses a cost otherwise."""
        self.fail(at, f"The rule {self.name} takes the {self.way} of a recursive call and {what}", hint)

    def fail(self, at: At, message: str, hint: str | None = None) -> NoReturn:
        """Raise: the answer would depend on the order of evaluation."""
        bound = "[(< ?d ?most)]" if self.way == "min" else "[(> ?d ?least)]"
        raise query_error(
            "query/unsound-aggregate",
            f"{message}: the {self.way} would depend on the order of evaluation.",
            self.text,
            at,
            expected=f"that it goes through functions such as [(+ ?d ?w) ?e] into the head's ({self.way} ...), or {bound}",
            hint=hint or "use the rule's result in another rule or in :where: there every comparison is allowed",
        )


def _not_negative(clause: Clause) -> list[str]:
    """The variables that a clause keeps from being negative: [(>= ?w 0)], [(< 0 ?w)], [(pos? ?w)], [(<= 0 ?w 1)]."""
    if not isinstance(clause, Predicate):
        return []
    name, arguments = clause.call.name, clause.call.arguments
    if name == "pos?" and isinstance(arguments[0], Variable):
        return [arguments[0].name]
    if name in (">", ">="):
        arguments, name = arguments[::-1], "<"
    if name not in ("<", "<=") or not isinstance(arguments[0], Constant) or not is_number(arguments[0].value):
        return []
    return [a.name for a in arguments[1:] if isinstance(a, Variable)] if arguments[0].value >= 0 else []
