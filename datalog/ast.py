"""The query as data: what the parser gives and the planner takes. No evaluation, no schema, no names of Python.

Every node knows where it stands in the query text: `at` is (start, end), offsets into `Query.text`. `and` leaves no node: its
clauses are spliced into their surroundings, a branch of `or` is a tuple of clauses. Default sources are filled in: a pattern
inside `($x not ...)` carries `$x` itself.

The vocabulary follows DataScript's parser.cljc: clause, pattern, binding, source, rule, branch.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from datalog.record import Record

At: TypeAlias = tuple[int, int]
NOWHERE: At = (-1, -1)


# terms ---------------------------------------------------------------------------------------------------------------


class Variable(Record):
    """`?x`. Equal to another of the same name."""

    name: str
    at: At = NOWHERE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Blank(Record):
    """`_`: matches anything, binds nothing."""

    at: At = NOWHERE


class Constant(Record):
    """A value written in the query."""

    value: Any
    at: At = NOWHERE


class SourceArgument(Record):
    """`$x` as an argument of a function such as `get-else`."""

    name: str
    at: At = NOWHERE


class NameArgument(Record):
    """A plain symbol of `:in` as an argument: the raw value passed there."""

    name: str
    at: At = NOWHERE


class Call(Record):
    """`(f a b)`: a built-in function, a registered one, or a callable passed through `:in`."""

    name: str
    arguments: tuple[Argument, ...]
    at: At = NOWHERE


Term: TypeAlias = Variable | Blank | Constant
Argument: TypeAlias = "Variable | Constant | SourceArgument | NameArgument | Call"


# bindings ------------------------------------------------------------------------------------------------------------


class BindVariable(Record):
    """`?x`."""

    variable: Variable
    at: At = NOWHERE


class BindBlank(Record):
    """`_`."""

    at: At = NOWHERE


class BindTuple(Record):
    """`[?a ?b]`."""

    items: tuple[Binding, ...]
    at: At = NOWHERE


class BindCollection(Record):
    """`[?a ...]`; a relation `[[?a ?b]]` is a collection of tuples."""

    item: Binding
    at: At = NOWHERE


Binding: TypeAlias = "BindVariable | BindBlank | BindTuple | BindCollection"


def binding_variables(binding: Binding) -> list[Variable]:
    """The variables of a binding, left to right, with repetitions."""
    if isinstance(binding, BindVariable):
        return [binding.variable]
    if isinstance(binding, BindTuple):
        return [v for item in binding.items for v in binding_variables(item)]
    if isinstance(binding, BindCollection):
        return binding_variables(binding.item)
    return []


# inputs --------------------------------------------------------------------------------------------------------------


class InputSource(Record):
    """`$` or `$name` in `:in`: a database, or a collection of tuples."""

    name: str
    at: At = NOWHERE


class InputRules(Record):
    """`%` in `:in`."""

    at: At = NOWHERE


class InputName(Record):
    """A plain symbol in `:in`: a pull pattern, a callable, or a value handed to functions as it is."""

    name: str
    at: At = NOWHERE


class InputBinding(Record):
    """A binding form in `:in`."""

    binding: Binding
    at: At = NOWHERE


Input: TypeAlias = InputSource | InputRules | InputName | InputBinding


# clauses -------------------------------------------------------------------------------------------------------------


class Pattern(Record):
    """`[$src e a v tx added]`, one to five terms (a source that is a collection takes any number)."""

    source: str
    terms: tuple[Term, ...]
    at: At = NOWHERE


class Predicate(Record):
    """`[(f ...)]`: keeps the rows for which the call is neither false nor nil."""

    call: Call
    at: At = NOWHERE


class Function(Record):
    """`[(f ...) binding]`."""

    call: Call
    binding: Binding
    at: At = NOWHERE


class RuleCall(Record):
    """`($src rule ?a 1 _)`."""

    source: str
    name: str
    arguments: tuple[Term, ...]
    at: At = NOWHERE


class Not(Record):
    """`(not ...)`, or `(not-join [?x] ...)` when `join` is given."""

    join: tuple[Variable, ...] | None
    clauses: tuple[Clause, ...]
    at: At = NOWHERE


class Or(Record):
    """`(or ...)`, or `(or-join [[?required] ?x] ...)` when `join` is given (`join` then includes the required ones)."""

    required: tuple[Variable, ...]
    join: tuple[Variable, ...] | None
    branches: tuple[tuple[Clause, ...], ...]
    at: At = NOWHERE


Clause: TypeAlias = "Pattern | Predicate | Function | RuleCall | Not | Or"


class Best(Record):
    """`(min ?d)` or `(max ?d)` in a rule's head: of all rows that agree on the other arguments the one with the best ?d."""

    name: str  # "min" or "max"
    position: int  # of ?d in the head

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Best) and (other.name, other.position) == (self.name, self.position)

    def __hash__(self) -> int:
        return hash((self.name, self.position))


class Branch(Record):
    """One body of a rule, with the names of its own head."""

    required: tuple[Variable, ...]
    head: tuple[Variable, ...]  # the required ones first
    clauses: tuple[Clause, ...]
    at: At = NOWHERE
    best: Best | None = None  # of a head such as (path ?a ?b (min ?d))


class Rules(Record):
    """A rule set: name -> branches, and the text that their places refer to."""

    text: str
    branches: dict[str, tuple[Branch, ...]]


# find ----------------------------------------------------------------------------------------------------------------


class FindVariable(Record):
    """`?x` in `:find`."""

    variable: Variable
    at: At = NOWHERE


class FindExpression(Record):
    """An aggregate, a call, or a call over aggregates: `(/ (sum ?x) (count ?y))`."""

    expression: Call
    at: At = NOWHERE


class FindPull(Record):
    """`(pull $src ?e pattern)`: the pattern is a form, or the name of an input."""

    source: str
    variable: Variable
    pattern: Any  # the raw form: pull_parser reads it against the schema
    input_name: str | None = None
    at: At = NOWHERE


FindElement: TypeAlias = FindVariable | FindExpression | FindPull


class OrderKey(Record):
    """One key of `:order-by`: a variable, or the index of a column (also for an expression that `:find` repeats)."""

    column: int | None
    variable: Variable | None
    ascending: bool
    at: At = NOWHERE


class Query(Record):
    """A whole query. `shape` is "relation", "collection", "tuple" or "scalar"."""

    text: str
    find: tuple[FindElement, ...]
    shape: str
    where: tuple[Clause, ...]
    inputs: tuple[Input, ...]
    with_: tuple[Variable, ...] = ()
    keys: tuple[Any, ...] | None = None  # keys of the maps that :keys, :strs or :syms ask for
    having: tuple[Predicate, ...] = ()
    order: tuple[OrderKey, ...] = ()
    limit: int | Variable | None = None
    offset: int | Variable | None = None
    timeout_ms: int | None = None

    def variable_at(self, name: str) -> At:
        """Where a variable stands in :find, :with or :order-by."""
        used = [*self.with_, *(k.variable for k in self.order if k.variable)]
        for element in self.find:
            used += (
                argument_variables(element.expression) if isinstance(element, FindExpression) else [element.variable]
            )
        return next((v.at for v in used if v.name == name), NOWHERE)


# walks ---------------------------------------------------------------------------------------------------------------


def argument_variables(argument: Argument) -> list[Variable]:
    """The variables of a call's argument, nested calls included, left to right. The function position counts too."""
    if isinstance(argument, Variable):
        return [argument]
    if isinstance(argument, Call):
        head = [Variable(argument.name, argument.at)] if argument.name.startswith("?") else []
        return head + [v for a in argument.arguments for v in argument_variables(a)]
    return []


def clause_variables(clause: Clause) -> list[Variable]:
    """The variables of a clause that its surroundings can see, in order of appearance, with repetitions."""
    if isinstance(clause, Pattern):
        return [t for t in clause.terms if isinstance(t, Variable)]
    if isinstance(clause, RuleCall):
        return [t for t in clause.arguments if isinstance(t, Variable)]
    if isinstance(clause, Predicate):
        return argument_variables(clause.call)
    if isinstance(clause, Function):
        return argument_variables(clause.call) + binding_variables(clause.binding)
    if clause.join is not None:
        return list(clause.join)
    bodies = (clause.clauses,) if isinstance(clause, Not) else clause.branches
    return [v for body in bodies for c in body for v in clause_variables(c)]


def iter_clauses(clauses: tuple[Clause, ...]) -> list[Clause]:
    """All clauses, nested ones included, parents first."""
    found: list[Clause] = []
    pending = list(reversed(clauses))
    while pending:
        clause = pending.pop()
        found.append(clause)
        if isinstance(clause, Not):
            pending.extend(reversed(clause.clauses))
        elif isinstance(clause, Or):
            pending.extend(c for body in reversed(clause.branches) for c in reversed(body))
    return found
