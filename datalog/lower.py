"""Lowering: clauses -> atoms, the units that the planner orders. Names become aids, constants are checked.

Place on the path: takes ast clauses and the schema of each source, gives `Atom`s: what each needs bound and what it can
bind. Everything that a query can get wrong without looking at the data is found here, with its place: unknown attributes and
functions, constants of the wrong type, arities, unknown rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from datalog.ast import (
    Blank,
    Call,
    Constant,
    Function,
    NameArgument,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    SourceArgument,
    Variable,
    binding_variables,
    clause_variables,
)
from datalog.builtins import find_function, function_names
from datalog.errors import counted, did_you_mean, names, query_error, show
from datalog.plan import Bound, CallTree, Const, Name, Param, Scan, Source, Tuples, Var, term_text
from datalog.record import Record, replace
from store.edn import Keyword, List, Symbol, Vector, strict_equal
from store.errors import UserError
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datalog.ast import At, Binding, Clause, Term
    from datalog.plan import Node
    from datalog.rules import RuleSet

RANGE_OPERATORS = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CHAINED = {"<", ">", "<=", ">=", "=", "=="}


@dataclass(slots=True, eq=False, repr=False)
class Atom:
    """A unit of a conjunction. `needs` must be bound before it runs; `gives` is what it can bind; all variables are in `seen`."""

    kind: str  # scan, tuples, input, filter, extend, not, or, rule, derived, star
    needs: frozenset[str]
    gives: frozenset[str]
    text: str
    at: At
    node: Any = None  # Scan, Tuples, Input or Derived: a leaf ready to join
    call: CallTree | None = None
    binding: Binding | None = None
    body: tuple[tuple[Clause, ...], ...] = ()  # of not (one) and or (several)
    join: tuple[str, ...] | None = None  # what a join list names
    rule: RuleCall | None = None
    parts: tuple[Atom, ...] = ()  # of a star
    size: Any = None  # of a star, once estimated
    fanouts: dict[frozenset[str], float] = field(default_factory=dict)  # the planner's estimates, by what is bound

    @property
    def seen(self) -> frozenset[str]:
        """All variables that the surroundings can see."""
        return self.needs | self.gives


class SourceInfo(Record):
    """What the planner knows about a source: a snapshot, or the size of a collection."""

    snapshot: Any = None
    length: int = 0


class Lowering:
    """Turns the clauses of one query into atoms."""

    def __init__(
        self,
        sources: Mapping[str, SourceInfo],
        params: frozenset[str],
        inputs: frozenset[str],
        rules: RuleSet | None,
        callables: frozenset[str],
        text: str,
    ) -> None:
        self.query_text = text
        self.sources = sources
        self.params = params
        self.input_variables = inputs
        self.rules = rules
        self.callables = callables
        self.entities: dict[str, str] = {}  # inputs in entity position of a pattern of the query itself, not of a rule
        self.references: dict[
            str, str
        ] = {}  # inputs passed to a rule: lookup refs among them are resolved, idents are not
        self.attributes: dict[str, str] = {}
        self._fresh = 0

    def fresh(self, name: str) -> str:
        """A variable name that no query can write."""
        self._fresh += 1
        return f"{name.split('~', maxsplit=1)[0]}~{self._fresh}"

    # terms ----------------------------------------------------------------------------------------------------------

    def term(self, term: Term | Any) -> Any:
        """A plan term for a term of the ast."""
        if isinstance(term, Variable):
            return Param(term.name) if term.name in self.params else Var(term.name)
        return None if isinstance(term, Blank) else Const(term.value)

    def call(self, call: Call, text: str) -> CallTree:
        """A call with its function found and its number of arguments checked."""
        arguments = tuple(self.argument(a, text) for a in call.arguments)
        name = call.name
        if name in self.callables or (name.startswith("?") and name in self.params):
            return CallTree(name, None, name, arguments, call.at, text)
        builtin = find_function(name)
        if builtin is None:
            self.unknown_function(call, text)
        count = len(arguments)
        if builtin.source and not (arguments and isinstance(arguments[0], Source)):
            raise query_error(
                "query/syntax", f"The first argument of {name} is a source.", text, call.at, expected=f"({name} $ ...)"
            )
        if count < builtin.least or (builtin.most is not None and count > builtin.most):
            least, most = builtin.least, builtin.most
            takes = f"at least {counted(least, 'argument')}" if most is None else f"{least} to {most} arguments"
            raise query_error(
                "query/arity",
                f"{name} takes {counted(least, 'argument') if least == most else takes}, not {count}.",
                text,
                call.at,
                hint=f"{name}: {builtin.doc}",
            )
        if builtin.source:
            self.source_call(name, call, arguments, text)
        return CallTree(name, builtin, None, arguments, call.at, text)

    def unknown_function(self, call: Call, text: str) -> NoReturn:
        """Raise the error for a name that is no function, aggregate names and rules included in the suggestion."""
        known = [*function_names(), *self.callables]
        hint = did_you_mean(call.name, known)
        if self.rules is not None and call.name in self.rules.branches:
            hint = f"{call.name} is a rule: call it without the brackets, ({call.name} ...)"
        raise query_error(
            "query/unknown-function",
            f"There is no function {call.name}.",
            text,
            call.at,
            hint=hint or f"pass a callable through :in, or d.register({call.name!r}, ...)",
        )

    def source_call(self, name: str, call: Call, arguments: tuple[Any, ...], text: str) -> None:
        """Check the entity and the attributes of get-else, get-some and missing?."""
        source = self.sources.get(arguments[0].name)
        if source is None or source.snapshot is None:
            raise query_error("query/unknown-source", f"{name} needs a database.", text, call.at)
        attributes = arguments[2:3] if name != "get-some" else arguments[2:]
        for given, argument in zip(call.arguments[2:], attributes, strict=False):
            if isinstance(argument, Const):
                self.attribute(arguments[0].name, argument.value, text, given.at)
        if text is self.query_text:
            self.note_entity(arguments[1], arguments[0].name)

    def argument(self, argument: Any, text: str) -> Any:
        """A plan argument for an argument of the ast."""
        if isinstance(argument, Call):
            return self.call(argument, text)
        if isinstance(argument, SourceArgument):
            return Source(argument.name)
        if isinstance(argument, NameArgument):
            return Name(argument.name)
        return self.term(argument)

    # atoms ----------------------------------------------------------------------------------------------------------

    def atoms(self, clauses: tuple[Clause, ...], text: str) -> list[Atom]:
        """The atoms of a conjunction; calls of rules stay calls, the planner decides how they run."""
        found: list[Atom] = []
        for clause in clauses:
            if isinstance(clause, Pattern):
                found.extend(self.pattern(clause, text))
            elif isinstance(clause, Predicate):
                found.extend(self.predicate(clause, text))
            elif isinstance(clause, Function):
                found.extend(self.function(clause, text))
            elif isinstance(clause, RuleCall):
                clause, extra = self.looked_up(clause)  # noqa: PLW2901 - the same call, its lookup refs bound before it
                found.extend(a for pattern in extra for a in self.pattern(pattern, text))
                found.append(self.rule_call(clause, text))
            else:
                found.append(self.nested(clause, text))
        return found

    def visible(self, names: Any) -> frozenset[str]:
        """The names that are columns, not scalar inputs."""
        return frozenset(names) - self.params

    def pattern(self, clause: Pattern, text: str) -> list[Atom]:
        """A scan, with an equality for each variable that stands in it twice."""
        source = self.sources.get(clause.source)
        if source is None:
            raise query_error(
                "query/unknown-source",
                f":in names no source {clause.source}.",
                text,
                clause.at,
                expected=f"one of {names(sorted(self.sources))}",
            )
        extra: list[Atom] = []
        terms: list[Any] = []
        seen: set[str] = set()
        for given in clause.terms:
            term = self.term(given)
            if isinstance(term, Var):
                if term.name in seen:
                    again = Var(self.fresh(term.name))
                    extra.append(self.equality(Var(term.name), again, text, clause.at))
                    term = again
                else:
                    seen.add(term.name)
            terms.append(term)
        label = self.label(clause)
        variables = tuple(t.name for t in terms if isinstance(t, Var))
        if source.snapshot is None:
            leaf: Node = Tuples(variables, float(source.length), clause.source, tuple(terms), label, clause.at)
            return [Atom("tuples", frozenset(), frozenset(variables), text, clause.at, node=leaf), *extra]
        leaf = self.scan(clause, terms, variables, label, text)
        return [Atom("scan", frozenset(), frozenset(variables), text, clause.at, node=leaf), *extra]

    @staticmethod
    def label(clause: Pattern) -> str:
        """The pattern as written, its source included when it is not `$`."""
        written = " ".join(
            t.name if isinstance(t, Variable) else "_" if isinstance(t, Blank) else show(t.value) for t in clause.terms
        )
        return f"[{written}]" if clause.source == "$" else f"[{clause.source} {written}]"

    def scan(self, clause: Pattern, terms: list[Any], variables: tuple[str, ...], label: str, text: str) -> Scan:
        """The scan of a pattern over a database."""
        if len(terms) > 5:
            raise query_error(
                "query/syntax", "A pattern over a database has at most five terms.", text, clause.terms[5].at,
                expected="[?e ?a ?v ?tx ?added]",
            )  # fmt: skip
        filled: list[Any] = terms + [None] * (5 - len(terms))
        entity, attribute, value, tx, added = filled
        at = [t.at for t in clause.terms] + [clause.at] * 5
        found = None
        aid: Any = attribute
        if isinstance(attribute, Const):
            found = self.attribute(clause.source, attribute.value, text, at[1])
            aid = -1 if found is None else found.aid
        elif (
            text is self.query_text
            and isinstance(attribute, Param | Var)
            and attribute.name in self.input_variables | self.params
        ):
            self.attributes.setdefault(attribute.name, clause.source)
        if isinstance(entity, Const):
            self.check_entity(clause.source, entity.value, text, at[0])
        if found is not None and isinstance(value, Const):
            value = Const(self.constant(clause.source, found, value.value, text, at[2]))
        if text is self.query_text:
            self.note_entity(entity, clause.source)
            self.note_entity(tx, clause.source)
            if found is not None and found.is_ref:
                self.note_entity(value, clause.source)
        return Scan(
            variables=variables,
            rows=0.0,
            source=clause.source,
            entity=entity,
            attribute=aid,
            value=value,
            tx=tx,
            added=added,
            bounds=(),
            label=label,
            many=found is None or found.many,
            unique=found is not None and found.unique is not None,
            ref=found is not None and found.is_ref,
            at=clause.at,
        )

    def note_entity(self, term: Any, source: str) -> None:
        """Remember that an input stands in entity position: lookup refs and idents passed for it are resolved."""
        if isinstance(term, Param | Var) and (term.name in self.params or term.name in self.input_variables):
            self.entities.setdefault(term.name, source)

    def attribute(self, source: str, ident: Any, text: str, at: At) -> Any:
        """The attribute of an ident; None when nobody declared attributes and nobody used this one."""
        schema = self.sources[source].snapshot.schema
        if not isinstance(ident, Keyword | str) or (isinstance(ident, str) and not ident.startswith(":")):
            near = did_you_mean(f":{ident}", schema.idents()) if isinstance(ident, Symbol | str) else None
            raise query_error(
                "query/wrong-type",
                f"{show(ident)} is no attribute.",
                text,
                at,
                expected="a keyword such as :person/name",
                hint=near,
            )
        found = schema.find(str(ident))
        if found is None and schema.has_declared:
            near = did_you_mean(str(ident), schema.idents())
            raise query_error(
                "query/unknown-attribute",
                f"There is no attribute {ident}.",
                text,
                at,
                hint=near or "declare it in the schema, or correct its name",
            )
        return found

    def check_entity(self, source: str, value: Any, text: str, at: At) -> None:
        """Raise unless a constant can stand for an entity: eid, ident or lookup ref."""
        if isinstance(value, Vector) and len(value) == 2 and isinstance(value[0], Keyword | str):
            found = self.attribute(source, value[0], text, at)
            if found is not None and found.unique is None:
                raise query_error(
                    "query/lookup-not-unique",
                    f"{show(value)} cannot be looked up: {found.ident} is not unique.",
                    text,
                    at,
                    hint=f"declare it with :db/unique :db.unique/identity, or query for it: [?e {found.ident} ?v]",
                )
        elif not (type(value) is int or isinstance(value, Keyword)):
            raise query_error(
                "query/wrong-type",
                f"{show(value)} cannot stand for an entity.",
                text,
                at,
                expected='an entity id, an ident such as :status/open, or a lookup ref such as [:person/email "x"]',
            )

    def constant(self, source: str, attribute: Any, value: Any, text: str, at: At) -> Any:
        """A constant in value position as its attribute keeps it."""
        if value is None or attribute.type is None:
            return value
        if attribute.is_ref:
            if isinstance(value, Keyword | Vector) or type(value) is int:
                self.check_entity(source, value, text, at)
                return value
        else:
            try:
                coerced = attribute.coerce(value)
            except UserError as error:
                raise query_error(
                    "query/wrong-type",
                    f"{attribute.ident} cannot have the value {show(value)}.",
                    text,
                    at,
                    expected=error.expected or f"a value of the type :db.type/{attribute.type}",
                ) from error
            if strict_equal(coerced, value) or (attribute.type == "keyword" and isinstance(value, str)):
                return coerced
            if isinstance(value, float) and value == coerced:
                return coerced  # -0.0
        raise query_error(
            "query/wrong-type",
            f"{attribute.ident} cannot have the value {show(value)}.",
            text,
            at,
            expected=f"a value of the type :db.type/{attribute.type}",
            hint=f"write {float(value)!r}" if attribute.type == "double" and type(value) is int else None,
        )

    def equality(self, left: Any, right: Any, text: str, at: At) -> Atom:
        """The atom that two terms are equal."""
        call = CallTree("=", find_function("="), None, (left, right), at, text)
        return Atom("filter", self.call_needs(call), frozenset(), text, at, call=call)

    def predicate(self, clause: Predicate, text: str) -> list[Atom]:
        """A filter; a chain (< ?a ?b ?c) is cut into its pairs, so that each can become a range."""
        call = self.call(clause.call, text)
        if call.name in _CHAINED and call.builtin is not None and len(call.arguments) > 2:
            pairs = zip(call.arguments, call.arguments[1:], strict=False)
            calls = [CallTree(call.name, call.builtin, None, pair, call.at, text) for pair in pairs]
        else:
            calls = [call]
        return [Atom("filter", self.call_needs(c), frozenset(), text, clause.at, call=c) for c in calls]

    def function(self, clause: Function, text: str) -> list[Atom]:
        """An extension; variables that are bound before it, or twice in its binding, become equalities."""
        call = self.call(clause.call, text)
        variables = [v.name for v in binding_variables(clause.binding)]
        atom = Atom(
            "extend",
            self.call_needs(call),
            self.visible(variables),
            text,
            clause.at,
            call=call,
            binding=clause.binding,
        )
        return [atom]

    def call_needs(self, call: CallTree) -> frozenset[str]:
        """The columns that a call reads."""
        found: set[str] = set()
        for argument in call.arguments:
            if isinstance(argument, Var):
                found.add(argument.name)
            elif isinstance(argument, CallTree):
                found |= self.call_needs(argument)
        if call.callable_input is not None and call.callable_input.startswith("?"):
            found.discard(call.callable_input)
        return frozenset(found)

    def looked_up(self, clause: RuleCall) -> tuple[RuleCall, list[Pattern]]:
        """The call with variables for its lookup refs, and the patterns that find their entities."""
        source = self.sources.get(clause.source)
        if source is None or source.snapshot is None:
            return clause, []
        extra: list[Pattern] = []
        arguments: list[Term] = []
        for given in clause.arguments:
            argument = given
            if isinstance(given, Constant) and isinstance(given.value, Vector) and is_lookup(given.value):
                found = source.snapshot.schema.find(str(given.value[0]))
                if found is not None and found.unique is not None:
                    argument = Variable(self.fresh("?ref"), given.at)
                    terms = (argument, Constant(given.value[0], given.at), Constant(given.value[1], given.at))
                    extra.append(Pattern(clause.source, terms, given.at))
            arguments.append(argument)
        return (replace(clause, arguments=tuple(arguments)), extra) if extra else (clause, [])

    def rule_call(self, clause: RuleCall, text: str) -> Atom:
        """The call of a rule, checked."""
        if self.rules is None:
            raise query_error(
                "query/unknown-rule",
                f"({clause.name} ...) calls a rule, but no rules were passed.",
                text,
                clause.at,
                hint=f"add % to :in and pass the rules; a predicate or function is written [({clause.name} ...)]",
            )
        self.rules.check_call(clause, text)
        given = [t.name for t in clause.arguments if isinstance(t, Variable)]
        if text is self.query_text:
            for name in given:
                if name in self.params or name in self.input_variables:
                    self.references.setdefault(name, clause.source)
        return Atom("rule", frozenset(), self.visible(given), text, clause.at, rule=clause)

    def nested(self, clause: Not | Or, text: str) -> Atom:
        """A `not` or an `or`."""
        join = None if clause.join is None else tuple(v.name for v in clause.join)
        if isinstance(clause, Not):
            seen = self.visible(v.name for v in clause_variables(clause))
            return Atom("not", seen, frozenset(), text, clause.at, body=(clause.clauses,), join=join)
        seen = self.visible(v.name for v in clause_variables(clause))
        required = self.visible(v.name for v in clause.required)
        return Atom("or", required, seen, text, clause.at, body=clause.branches, join=join)


def bound_from(call: CallTree, variable: str) -> Bound | None:
    """The range condition that a comparison puts on a variable; None when it is none."""
    if call.builtin is None or call.name not in RANGE_OPERATORS or len(call.arguments) != 2:
        return None
    left, right = call.arguments
    if isinstance(left, Var) and left.name == variable and isinstance(right, Const | Param):
        return Bound(call.name, right, call)
    if isinstance(right, Var) and right.name == variable and isinstance(left, Const | Param):
        return Bound(RANGE_OPERATORS[call.name], left, call)
    return None


def takes_range(kind: Kind) -> bool:
    """Whether codes of a kind are in the order of their values."""
    return kind is not Kind.INTERNED


def unbound_error(missing: list[str], bound: list[str], atom: Atom) -> Exception:
    """The error for a clause whose variables nothing binds."""
    what = term_text(atom.call) if atom.call is not None else atom.text[atom.at[0] : atom.at[1]] or "This clause"
    if len(what) > 60:
        what = what[:57] + "..."
    shown = [b for b in bound if "~" not in b]
    at = atom.call.at if atom.call is not None else atom.at
    return query_error(
        "query/unbound-variable",
        f"{what} needs {names(missing)}, which no clause binds.\nBound here: {names(shown)}.",
        atom.text,
        at,
        hint=did_you_mean(missing[0], shown) or f"add a clause that binds {missing[0]}, or pass it through :in",
    )


def is_lookup(value: Any) -> bool:
    """Whether an input value has the shape of an ident or a lookup ref."""
    if isinstance(value, Keyword):
        return True
    return (
        isinstance(value, tuple | list)
        and not isinstance(value, List)
        and len(value) == 2
        and (isinstance(value[0], Keyword) or (isinstance(value[0], str) and value[0].startswith(":")))
    )
