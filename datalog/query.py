"""A query builder: queries as Python objects that a type checker follows, equal to their EDN text.

    from datalog import query as q

    e, name, age = q.var("e", int), q.var("name", str), q.var("age", int)
    NAME, AGE = q.attr(":person/name", str), q.attr(":person/age", int)

    adults = q.find(name, age).where(q.fact(e, NAME, name), q.fact(e, AGE, age), age >= 18).order_by(age.desc())
    for n, a in adults.run(db):        # n is a str and a an int, for the checker too
        ...
    print(adults)                      # the query as EDN text; `conn.q(adults)` and `d.prepare(adults)` take it as well

Objects are immutable; every method gives a new query. Nothing is looked up here: what is wrong with a query is said when it is
asked, with a caret under the text that was built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from store.edn import Keyword, List, Symbol, Vector, write_edn

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
Row = TypeVar("Row")
Answer = TypeVar("Answer")

__all__ = [
    "ANY", "RULES", "Attr", "Call", "Clause", "Input", "Key", "Query", "Rule", "RuleSet", "Term", "Var", "aggregate", "and_",
    "attr", "avg", "call", "collection", "count", "count_distinct", "database", "distinct", "fact", "find", "max_", "median",
    "min_", "not_", "or_", "pred", "pull", "relation", "required", "rule", "rules", "source", "stddev", "sum_", "symbol",
    "tuple_", "var", "variance",
]  # fmt: skip


class Clause:
    """One clause of `:where` or `:having`."""

    __slots__ = ("form",)

    def __init__(self, form: Any) -> None:
        self.form = form

    def __repr__(self) -> str:
        return write_edn(self.form)

    def __bool__(self) -> bool:
        raise TypeError("a clause has no truth of its own: put it into .where(...), and use q.and_, q.or_, q.not_")


class Term(Generic[T]):
    """Something with values of type T in every row: a variable, or a call. Comparisons make clauses, arithmetic makes calls."""

    __slots__ = ("form",)
    __hash__ = object.__hash__

    def __init__(self, form: Any) -> None:
        self.form = form

    def __lt__(self, other: Term[T] | T) -> Clause:
        return pred("<", self, other)

    def __le__(self, other: Term[T] | T) -> Clause:
        return pred("<=", self, other)

    def __gt__(self, other: Term[T] | T) -> Clause:
        return pred(">", self, other)

    def __ge__(self, other: Term[T] | T) -> Clause:
        return pred(">=", self, other)

    def eq(self, other: Term[T] | T) -> Clause:
        """Both are equal: `(= a b)`."""
        return pred("=", self, other)

    def ne(self, other: Term[T] | T) -> Clause:
        """They differ: `(!= a b)`."""
        return pred("!=", self, other)

    def __add__(self, other: Term[T] | T) -> Call[T]:
        return call("+", self, other)

    def __sub__(self, other: Term[T] | T) -> Call[T]:
        return call("-", self, other)

    def __mul__(self, other: Term[T] | T) -> Call[T]:
        return call("*", self, other)

    def __truediv__(self, other: Term[T] | T) -> Call[Any]:
        return call("/", self, other)

    def __radd__(self, other: T) -> Call[T]:
        return call("+", other, self)

    def __rsub__(self, other: T) -> Call[T]:
        return call("-", other, self)

    def __rmul__(self, other: T) -> Call[T]:
        return call("*", other, self)

    def __rtruediv__(self, other: T) -> Call[Any]:
        return call("/", other, self)

    def asc(self) -> Key:
        """This, smallest first, for `order_by`."""
        return Key(self.form, "asc")

    def desc(self) -> Key:
        """This, largest first, for `order_by`."""
        return Key(self.form, "desc")

    def __repr__(self) -> str:
        return write_edn(self.form)


class Var(Term[T]):
    """A variable."""

    __slots__ = ()


class Call(Term[T]):
    """The call of a function or aggregate."""

    __slots__ = ()

    def as_(self, target: Var[T]) -> Clause:
        """Binds the result to a variable: `[(f x) ?y]`."""
        return Clause(Vector([self.form, target.form]))

    def into(self, target: Input) -> Clause:
        """Takes the result apart: `[(f x) [?a ?b]]`, `[?a ...]` or `[[?a ?b]]`; see `tuple_`, `collection`, `relation`."""
        return Clause(Vector([self.form, target.form]))


class Attr(Generic[T]):
    """An attribute whose values are of type T."""

    __slots__ = ("form", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.form = Keyword(name)

    def __repr__(self) -> str:
        return self.name


class Key:
    """What to order by, and which way."""

    __slots__ = ("form", "way")

    def __init__(self, form: Any, way: str) -> None:
        self.form = form
        self.way = way


class Input:
    """One form of `:in`, or a pattern that takes a value apart."""

    __slots__ = ("form",)

    def __init__(self, form: Any) -> None:
        self.form = form


RULES = Input(Symbol("%"))
ANY: Var[Any] = Var(Symbol("_"))


def form_of(value: Any) -> Any:
    """The EDN form of a part of a query; plain values stand for themselves."""
    if isinstance(value, Term | Attr | Input | Clause):
        return value.form
    return value


def symbol(name: str) -> Input:
    """A plain symbol, such as a callable that is passed through `:in`."""
    return Input(Symbol(name))


@overload
def var(name: str, kind: type[T]) -> Var[T]: ...
@overload
def var(name: str) -> Var[Any]: ...
def var(name: str, kind: Any = None) -> Var[Any]:  # noqa: ARG001 - for the checker
    """A variable: `var("age", int)` is `?age`."""
    return Var(Symbol(name if name.startswith("?") else f"?{name}"))


@overload
def attr(name: str, kind: type[T]) -> Attr[T]: ...
@overload
def attr(name: str) -> Attr[Any]: ...
def attr(name: str, kind: Any = None) -> Attr[Any]:  # noqa: ARG001 - for the checker
    """An attribute: `attr(":person/age", int)`."""
    return Attr(name)


# clauses -------------------------------------------------------------------------------------------------------------


@overload
def fact(
    e: Any, a: Attr[T], v: Term[T] | T = ..., tx: Any = ..., added: Any = ..., *, of: Input | None = ...
) -> Clause: ...
@overload
def fact(
    e: Any, a: str | Term[Any] = ..., v: Any = ..., tx: Any = ..., added: Any = ..., *, of: Input | None = ...
) -> Clause: ...
def fact(e: Any, *rest: Any, of: Input | None = None, **named: Any) -> Clause:
    """A pattern: the datoms of entity `e` with attribute `a` and value `v`. `ANY` fits anything; `of` names another source.

    The attribute is an `Attr`, whose type the value has to have, or its name, or a variable.
    """
    parts = [*rest]
    for name in ("a", "v", "tx", "added")[len(rest) :]:
        if name in named:
            parts.append(named.pop(name))
        elif named:
            parts.append(ANY)
    if named:
        raise TypeError(f"fact() takes e, a, v, tx and added, each once, and of; not {', '.join(named)}")
    if parts and isinstance(parts[0], str):
        parts[0] = Attr(parts[0])
    form = [form_of(e), *map(form_of, parts)]
    return Clause(Vector(form if of is None else [of.form, *form]))


def pred(name: str | Var[Any], *arguments: Any) -> Clause:
    """A predicate: `pred("even?", x)`."""
    return Clause(Vector([call(name, *arguments).form]))


def call(name: str | Var[Any], *arguments: Any) -> Call[Any]:
    """The call of a function: `call("str", a, b).as_(c)` binds its result."""
    head = name.form if isinstance(name, Var) else Symbol(name)
    return Call(List([head, *map(form_of, arguments)]))


def and_(*clauses: Clause) -> Clause:
    """All of them: a branch of `or_`."""
    return Clause(List([Symbol("and"), *_forms(clauses)]))


def not_(*clauses: Clause, join: Sequence[Var[Any]] | None = None, of: Input | None = None) -> Clause:
    """None of the rows that all of them hold for; with `join`, only these variables are those outside (`not-join`)."""
    return _nested("not", clauses, None if join is None else [v.form for v in join], of)


def or_(
    *branches: Clause,
    join: Sequence[Var[Any]] | None = None,
    required: Sequence[Var[Any]] = (),
    of: Input | None = None,
) -> Clause:
    """The rows of any branch; with `join` (and `required`, which have to be bound before) only these are those outside."""
    shared: list[Any] | None
    if required:
        shared = [Vector(v.form for v in required), *(v.form for v in join or ())]
    else:
        shared = None if join is None else [v.form for v in join]
    return _nested("or", branches, shared, of)


def _forms(clauses: Sequence[Clause]) -> list[Any]:
    for clause in clauses:
        if not isinstance(clause, Clause):
            raise TypeError(
                f"{clause!r} is no clause; equality is x.eq(y) and x.ne(y), for Python decides what == gives"
            )
    return [clause.form for clause in clauses]


def _nested(name: str, clauses: Sequence[Clause], join: list[Any] | None, of: Input | None) -> Clause:
    head = [Symbol(name)] if join is None else [Symbol(f"{name}-join"), Vector(join)]
    form = [*head, *_forms(clauses)]
    return Clause(List(form if of is None else [of.form, *form]))


# rules ---------------------------------------------------------------------------------------------------------------


class Rule:
    """A rule by name: calling it makes a clause."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any, of: Input | None = None) -> Clause:
        """The call of the rule: `(ancestor ?x ?y)`."""
        form = [Symbol(self.name), *map(form_of, arguments)]
        return Clause(List(form if of is None else [of.form, *form]))


class RuleSet:
    """Rules to pass where a query has `RULES` among its inputs."""

    __slots__ = ("form",)

    def __init__(self, form: Any) -> None:
        self.form = form

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet(Vector([*self.form, *other.form]))

    @property
    def edn_text(self) -> str:
        """The rules as EDN text."""
        return write_edn(self.form)

    def __str__(self) -> str:
        return self.edn_text

    __repr__ = __str__


def rule(name: str) -> Rule:
    """What makes the clauses of a rule: with `ancestor = q.rule("ancestor")`, they are `ancestor(x, y)`."""
    return Rule(name)


def required(*variables: Var[Any]) -> Input:
    """Arguments of a rule's head that have to be bound when it is called: `[?x ?y]`."""
    return Input(Vector(v.form for v in variables))


def rules(*branches: tuple[Clause, Sequence[Clause]]) -> RuleSet:
    """Rules of branches (head, clauses): `rules((ancestor(x, y), [fact(x, PARENT, y)]), (ancestor(x, y), [...]))`."""
    return RuleSet(Vector(Vector([*_forms([head]), *_forms(body)]) for head, body in branches))


# inputs --------------------------------------------------------------------------------------------------------------


def source(name: str = "$") -> Input:
    """A database or collection among the inputs: `$`, `$2`."""
    return Input(Symbol(name))


database = source


def tuple_(*parts: Any) -> Input:
    """A tuple taken apart: `[?a ?b]`."""
    return Input(Vector(map(form_of, parts)))


def collection(part: Any) -> Input:
    """Each item of a collection: `[?a ...]`."""
    return Input(Vector([form_of(part), Symbol("...")]))


def relation(*parts: Any) -> Input:
    """Each tuple of a collection, taken apart: `[[?a ?b]]`."""
    return Input(Vector([Vector(map(form_of, parts))]))


# what is found -------------------------------------------------------------------------------------------------------


def aggregate(name: str, *arguments: Any) -> Call[Any]:
    """An aggregate by name, your own ones too: `aggregate("sample", 3, x)`."""
    return call(name, *arguments)


def count(of: Term[Any]) -> Call[int]:
    """The number of values."""
    return call("count", of)


def count_distinct(of: Term[Any]) -> Call[int]:
    """The number of distinct values."""
    return call("count-distinct", of)


def distinct(of: Term[T]) -> Call[frozenset[T]]:
    """The set of values."""
    return call("distinct", of)


def sum_(of: Term[T]) -> Call[T]:
    """The sum."""
    return call("sum", of)


def min_(of: Term[T]) -> Call[T]:
    """The smallest value."""
    return call("min", of)


def max_(of: Term[T]) -> Call[T]:
    """The largest value."""
    return call("max", of)


def avg(of: Term[Any]) -> Call[float]:
    """The mean."""
    return call("avg", of)


def median(of: Term[Any]) -> Call[Any]:
    """The value in the middle."""
    return call("median", of)


def variance(of: Term[Any]) -> Call[float]:
    """The variance of the population."""
    return call("variance", of)


def stddev(of: Term[Any]) -> Call[float]:
    """The standard deviation of the population."""
    return call("stddev", of)


def pull(e: Term[Any], pattern: Any, *, of: Input | None = None) -> Term[dict[str, Any]]:
    """The attributes of an entity that a pattern names; the pattern as Python data, EDN data, or an input."""
    given = form_of(pattern)
    parts = [e.form, Vector(given) if isinstance(given, list) else given]
    return Term(List([Symbol("pull"), *([] if of is None else [of.form]), *parts]))


class Query(Generic[Row, Answer]):
    """A query. `Row` is the type of one row, `Answer` that of the whole answer, for type checkers."""

    __slots__ = ("_find", "_parts", "_text")

    def __init__(self, found: list[Any], parts: dict[str, list[Any]]) -> None:
        self._find = found
        self._parts = parts
        self._text: str | None = None

    def _with(self, name: str, forms: list[Any], *, more: bool = False) -> Self:
        parts = dict(self._parts)
        parts[name] = [*(parts.get(name, ()) if more else ()), *forms]
        return type(self)(self._find, parts)

    def where(self, *clauses: Clause) -> Self:
        """More clauses."""
        return self._with("where", _forms(clauses), more=True)

    def in_(self, *inputs: Input | Var[Any]) -> Self:
        """The inputs, in the order in which `run` is given them; without it, one database."""
        return self._with("in", [form_of(i) for i in inputs])

    def with_(self, *variables: Var[Any]) -> Self:
        """Variables that keep equal rows apart."""
        return self._with("with", [v.form for v in variables])

    def having(self, *predicates: Clause) -> Self:
        """Predicates on the groups."""
        return self._with("having", _forms(predicates), more=True)

    def order_by(self, *keys: Term[Any] | Key | int) -> Self:
        """The keys to sort by: variables, calls of `find`, numbers of columns; `x.desc()` for the largest first."""
        forms: list[Any] = []
        for key in keys:
            forms += [key.form, Keyword(key.way)] if isinstance(key, Key) else [form_of(key)]
        return self._with("order-by", [Vector(forms)])

    def limit(self, rows: int | Var[int]) -> Self:
        """At most so many rows."""
        return self._with("limit", [form_of(rows)])

    def offset(self, rows: int | Var[int]) -> Self:
        """Without so many rows at the beginning."""
        return self._with("offset", [form_of(rows)])

    def timeout(self, milliseconds: int) -> Self:
        """An error after this time."""
        return self._with("timeout", [milliseconds])

    def keys(self, *names: str) -> Query[dict[str, Any], list[dict[str, Any]]]:
        """Rows as dicts with keys ":name"."""
        return Query(self._find, {**self._parts, "keys": [Symbol(n) for n in names]})

    def strs(self, *names: str) -> Query[dict[str, Any], list[dict[str, Any]]]:
        """Rows as dicts with keys "name"."""
        return Query(self._find, {**self._parts, "strs": [Symbol(n) for n in names]})

    def syms(self, *names: str) -> Query[dict[Any, Any], list[dict[Any, Any]]]:
        """Rows as dicts with symbols for keys."""
        return Query(self._find, {**self._parts, "syms": [Symbol(n) for n in names]})

    def scalar(self: Query[tuple[A], Any]) -> Query[tuple[A], A | None]:
        """One value, as `:find ?x .` has it."""
        return Query([*self._find, Symbol(".")], self._parts)

    def collection(self: Query[tuple[A], Any]) -> Query[tuple[A], list[A]]:
        """The values of one column: `:find [?x ...]`."""
        return Query([Vector([*self._find, Symbol("...")])], self._parts)

    def tuple(self) -> Query[Row, Row | None]:
        """One row: `:find [?x ?y]`."""
        return Query([Vector(self._find)], self._parts)

    @property
    def form(self) -> Any:
        """The query as EDN data."""
        form: list[Any] = [Keyword("find"), *self._find]
        for name in ("keys", "strs", "syms", "in", "with", "where", "having", "order-by", "limit", "offset", "timeout"):
            if name in self._parts:
                form += [Keyword(name), *self._parts[name]]
        return Vector(form)

    @property
    def edn_text(self) -> str:
        """The query as EDN text, made once."""
        if self._text is None:
            self._text = write_edn(self.form)
        return self._text

    def __str__(self) -> str:
        return self.edn_text

    __repr__ = __str__

    def run(self, *inputs: Any, limits: Any = None) -> Answer:
        """The answer; the inputs as `datalog.q` takes them, a connection counts as its database."""
        from datalog.prepared import q  # noqa: PLC0415 - the engine is loaded when something is asked

        given = (i.db() if hasattr(i, "transact") else i for i in inputs)
        return cast("Answer", q(self, *given, limits=limits))

    def explain(self, *inputs: Any, analyze: bool = False) -> str:
        """The plan as text."""
        from datalog.prepared import explain  # noqa: PLC0415 - as above

        return explain(self, *(i.db() if hasattr(i, "transact") else i for i in inputs), analyze=analyze)


@overload
def find(a: Term[A], /) -> Query[tuple[A], Sequence[tuple[A]]]: ...
@overload
def find(a: Term[A], b: Term[B], /) -> Query[tuple[A, B], Sequence[tuple[A, B]]]: ...
@overload
def find(a: Term[A], b: Term[B], c: Term[C], /) -> Query[tuple[A, B, C], Sequence[tuple[A, B, C]]]: ...
@overload
def find(
    a: Term[A], b: Term[B], c: Term[C], d: Term[D], /
) -> Query[tuple[A, B, C, D], Sequence[tuple[A, B, C, D]]]: ...
@overload
def find(
    a: Term[A], b: Term[B], c: Term[C], d: Term[D], e: Term[E], /
) -> Query[tuple[A, B, C, D, E], Sequence[tuple[A, B, C, D, E]]]: ...
@overload
def find(
    a: Term[A], b: Term[B], c: Term[C], d: Term[D], e: Term[E], f: Term[F], /
) -> Query[tuple[A, B, C, D, E, F], Sequence[tuple[A, B, C, D, E, F]]]: ...
@overload
def find(*terms: Term[Any]) -> Query[tuple[Any, ...], Sequence[tuple[Any, ...]]]: ...
def find(*terms: Term[Any]) -> Query[Any, Any]:
    """A query for rows of these terms: variables, calls, aggregates, pulls."""
    return Query([t.form for t in terms], {})
