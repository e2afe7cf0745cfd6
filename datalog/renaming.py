"""Renaming: the clauses of a rule's body or of a nested scope under other names.

Place on the path: the planner uses a rule's branch for one call; rules.py and monotone.py look at bodies the same way. No
schema, no evaluation.

The rules that keep it honest:
- renaming is hygienic: variables of a body that are not in its head get fresh names at every use, and so do variables inside
  `not-join` and `or-join` that the join does not name;
- the default source `$` inside a body means the source of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from datalog.ast import (
    BindCollection,
    BindTuple,
    BindVariable,
    Call,
    Constant,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    SourceArgument,
    Variable,
    clause_variables,
    iter_clauses,
)
from datalog.record import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from datalog.ast import Argument, Binding, Branch, Clause, Term

Mapping: TypeAlias = "dict[str, Variable | Constant]"


class Renaming:
    """One use of a body: old variable -> new variable or constant, fresh ones as they turn up."""

    __slots__ = ("extra", "fresh", "mapping", "source")

    def __init__(self, mapping: Mapping, fresh: Callable[[str], str], source: str) -> None:
        self.mapping = mapping
        self.fresh = fresh
        self.source = source
        self.extra: list[Clause] = []  # equalities that a constant in a binding position leaves behind

    def clauses(self, clauses: Iterable[Clause]) -> tuple[Clause, ...]:
        """The clauses under this renaming, with what they leave behind."""
        for variable in sorted(_scope_variables(clauses), key=_name_of):
            self.variable(variable)  # by name, so that new names do not depend on the order of the clauses
        kept, self.extra = self.extra, []
        renamed = tuple(self.clause(c) for c in clauses)
        result = renamed + tuple(self.extra)
        self.extra = kept
        return result

    def clause(self, clause: Clause) -> Clause:
        """One clause under this renaming."""
        if isinstance(clause, Pattern):
            terms = tuple(self.term(t) for t in clause.terms)
            return replace(clause, source=self.source_name(clause.source), terms=terms)
        if isinstance(clause, RuleCall):
            arguments = tuple(self.term(t) for t in clause.arguments)
            return replace(clause, source=self.source_name(clause.source), arguments=arguments)
        if isinstance(clause, Predicate):
            return replace(clause, call=self.call(clause.call))
        if isinstance(clause, Function):
            return replace(clause, call=self.call(clause.call), binding=self.binding(clause.binding))
        if isinstance(clause, Not):
            return replace(
                clause, join=self.joined(clause.join), clauses=self.inner(clause.join).clauses(clause.clauses)
            )
        inner = self.inner(clause.join)
        return replace(
            clause,
            required=self.joined(clause.required) or (),
            join=self.joined(clause.join),
            branches=tuple(inner.inner_branch(clause.join).clauses(b) for b in clause.branches),
        )

    def inner(self, join: tuple[Variable, ...] | None) -> Renaming:
        """The renaming inside a `not` or `or`: the same one, or with `join` one that knows the joined variables only."""
        if join is None:
            return self
        return Renaming({v.name: self.variable(v) for v in join}, self.fresh, self.source)

    def inner_branch(self, join: tuple[Variable, ...] | None) -> Renaming:
        """The renaming of one branch of `or-join`: what the join does not name is the branch's own."""
        return self if join is None else Renaming(dict(self.mapping), self.fresh, self.source)

    def joined(self, join: tuple[Variable, ...] | None) -> tuple[Variable, ...] | None:
        """The variables of a join list that are still variables."""
        if join is None:
            return None
        found = [self.variable(v) for v in join]
        return tuple(dict.fromkeys(v for v in found if isinstance(v, Variable)))

    def variable(self, variable: Variable) -> Variable | Constant:
        """What stands for a variable."""
        found = self.mapping.get(variable.name)
        if found is None:
            found = self.mapping[variable.name] = Variable(self.fresh(variable.name), variable.at)
        return replace(found, at=variable.at) if isinstance(found, Variable) else found

    def term(self, term: Term) -> Term:
        """What stands for a term of a pattern."""
        return self.variable(term) if isinstance(term, Variable) else term

    def call(self, call: Call) -> Call:
        """What stands for a call."""
        name = call.name
        if name.startswith("?"):
            found = self.variable(Variable(name, call.at))
            name = found.name if isinstance(found, Variable) else name
        return Call(name, tuple(self.argument(a) for a in call.arguments), call.at)

    def argument(self, argument: Argument) -> Argument:
        """What stands for an argument of a call."""
        if isinstance(argument, Variable):
            return self.variable(argument)
        if isinstance(argument, Call):
            return self.call(argument)
        if isinstance(argument, SourceArgument):
            return replace(argument, name=self.source_name(argument.name))
        return argument

    def binding(self, binding: Binding) -> Binding:
        """What stands for a binding; a constant in its place becomes a fresh variable and an equality."""
        if isinstance(binding, BindVariable):
            found = self.variable(binding.variable)
            if isinstance(found, Variable):
                return replace(binding, variable=found)
            new = Variable(self.fresh(binding.variable.name), binding.at)
            self.extra.append(Predicate(Call("=", (new, found), binding.at), binding.at))
            return replace(binding, variable=new)
        if isinstance(binding, BindTuple):
            return replace(binding, items=tuple(self.binding(b) for b in binding.items))
        if isinstance(binding, BindCollection):
            return replace(binding, item=self.binding(binding.item))
        return binding

    def source_name(self, name: str) -> str:
        """What stands for a source."""
        return self.source if name == "$" else name


def rename_scopes(clauses: tuple[Clause, ...], fresh: Callable[[str], str]) -> tuple[Clause, ...]:
    """The clauses of a query with fresh names for variables local to `not-join` and `or-join`; all others keep theirs."""
    if not any(isinstance(c, Not | Or) and c.join is not None for c in iter_clauses(clauses)):
        return clauses
    identity: Mapping = {}
    for variable in _scope_variables(clauses):
        identity[variable.name] = variable
    return Renaming(identity, fresh, "$").clauses(clauses)


def _name_of(variable: Variable) -> str:
    return variable.name


def _scope_variables(clauses: Iterable[Clause]) -> list[Variable]:
    found: list[Variable] = []
    for clause in clauses:
        found.extend(clause_variables(clause))
    return found


def use_branch(
    branch: Branch, arguments: tuple[object, ...], fresh: Callable[[str], str], source: str
) -> tuple[Clause, ...]:
    """The clauses of a rule's branch for one call: head variables replaced by the arguments, all others fresh."""
    mapping: Mapping = {}
    for head, argument in zip(branch.head, arguments, strict=True):
        if isinstance(argument, Variable | Constant):
            mapping[head.name] = argument
    return Renaming(mapping, fresh, source).clauses(branch.clauses)


def expand_or(clauses: tuple[Clause, ...], needs_expanding: Callable[[Or], bool]) -> list[tuple[Clause, ...]]:
    """The alternatives of a body with the chosen `or` clauses multiplied out."""
    bodies: list[tuple[Clause, ...]] = [()]
    for clause in clauses:
        if isinstance(clause, Or) and needs_expanding(clause):
            choices = [b for branch in clause.branches for b in expand_or(branch, needs_expanding)]
        else:
            choices = [(clause,)]
        bodies = [body + choice for body in bodies for choice in choices]
    return bodies
