"""Rules: who calls whom, and the checks that make a rule set safe to run.

Place on the path: takes `ast.Rules`, gives the planner what it needs to inline a rule or to build its fixpoint. No schema,
no evaluation.

The rules that keep it honest:
- rules that call each other form one stratum (a strongly connected component); `not` may only reach strata below its own;
- `min` and `max` in a head are let into recursion only where monotone.py finds them sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datalog.ast import Branch, Not, RuleCall, Rules, clause_variables, iter_clauses
from datalog.errors import counted, did_you_mean, names, query_error
from datalog.monotone import check_aggregates
from datalog.shapes import closure_edges

if TYPE_CHECKING:
    from datalog.ast import Best, Clause


class RuleSet:
    """A checked rule set: which rules are recursive and with whom.

    Raises on construction:
        QueryError: `query/unsafe-rule`, `query/unknown-rule`, `query/rule-arity`, `query/unstratified`,
            `query/unsound-aggregate`.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.text = rules.text
        self.branches = rules.branches
        calls = {name: self._calls(branches) for name, branches in rules.branches.items()}
        self.component = _components(calls)
        self._check_heads()
        for name, branches in rules.branches.items():
            self._check_negation(name, branches)
        self.additive = check_aggregates(rules, self.component)
        # an aggregated rule is a fixpoint, too: of one round when nothing leads back to it
        self.recursive = {
            n
            for n in calls
            if n in calls[n]
            or self.best(n) is not None
            or sum(c == self.component[n] for c in self.component.values()) > 1
        }

        self.closures = {n: closure_edges(n, b) for n, b in rules.branches.items() if n in self.recursive}

    def best(self, name: str) -> Best | None:
        """What a rule takes the minimum or maximum of; all its branches agree on it."""
        return self.branches[name][0].best

    def _calls(self, branches: tuple[Branch, ...]) -> set[str]:
        found: set[str] = set()
        for branch in branches:
            for clause in iter_clauses(branch.clauses):
                if isinstance(clause, RuleCall):
                    self.check_call(clause, self.text)
                    found.add(clause.name)
        return found

    def check_call(self, call: RuleCall, text: str) -> None:
        """Raise unless a rule of this name and number of arguments exists."""
        branches = self.branches.get(call.name)
        if branches is None:
            raise query_error(
                "query/unknown-rule",
                f"There is no rule {call.name}.",
                text,
                call.at,
                expected=f"one of {names(sorted(self.branches))}" if self.branches else None,
                hint=did_you_mean(call.name, self.branches)
                or f"a predicate or function is written [({call.name} ...)]",
            )
        if len(call.arguments) != len(branches[0].head):
            raise query_error(
                "query/rule-arity",
                f"The rule {call.name} takes {counted(len(branches[0].head), 'argument')}, not {len(call.arguments)}.",
                text,
                call.at,
                expected=f"({call.name} {' '.join(v.name for v in branches[0].head)})",
            )

    def _check_heads(self) -> None:
        """Every head variable must occur in the body of its branch."""
        for name, branches in self.branches.items():
            for branch in branches:
                used = {v.name for c in branch.clauses for v in clause_variables(c)}
                for variable in branch.head:
                    if variable.name not in used:
                        raise query_error(
                            "query/unsafe-rule",
                            f"The rule {name} has {variable.name} in its head, but no clause of this branch has it.",
                            self.text,
                            variable.at,
                            hint=did_you_mean(variable.name, used) or f"add a clause that binds {variable.name}",
                        )

    def _check_negation(self, name: str, branches: tuple[Branch, ...]) -> None:
        """`not` must not reach the rule's own stratum."""
        for branch in branches:
            for clause in iter_clauses(branch.clauses):
                if not isinstance(clause, Not):
                    continue
                for inner in iter_clauses(clause.clauses):
                    if isinstance(inner, RuleCall) and self.component[inner.name] == self.component[name]:
                        cycle = " -> ".join(self._path(inner.name, name))
                        raise query_error(
                            "query/unstratified",
                            f"The rule {name} depends on its own negation: {name} -> not {cycle}.",
                            self.text,
                            inner.at,
                            hint="negate only rules that do not lead back to this one",
                        )

    def _path(self, start: str, goal: str) -> list[str]:
        """The shortest chain of calls from one rule to another."""
        chains = [[start]]
        seen = {start}
        for chain in chains:
            if chain[-1] == goal:
                return chain
            for called in sorted(self._calls(self.branches[chain[-1]])):
                if called not in seen:
                    seen.add(called)
                    chains.append([*chain, called])
        return [start, goal]

    def reaches(self, clauses: tuple[Clause, ...], component: int) -> bool:
        """Whether clauses call a rule of a component directly (nested clauses included)."""
        return any(isinstance(c, RuleCall) and self.component[c.name] == component for c in iter_clauses(clauses))


def _components(calls: dict[str, set[str]]) -> dict[str, int]:
    """Rule -> number of its strongly connected component (Tarjan's algorithm with an explicit stack)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    component: dict[str, int] = {}
    stack: list[str] = []
    for root, called_there in calls.items():
        if root in index:
            continue
        work = [(root, iter(sorted(called_there)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            node, pending = work[-1]
            for called in pending:
                if called not in calls:
                    continue
                if called not in index:
                    index[called] = low[called] = len(index)
                    stack.append(called)
                    work.append((called, iter(sorted(calls[called]))))
                    break
                if called not in component:
                    low[node] = min(low[node], index[called])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    while True:
                        member = stack.pop()
                        component[member] = index[node]
                        if member == node:
                            break
    return component
