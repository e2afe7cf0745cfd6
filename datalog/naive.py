"""The reference evaluator behind `engine="naive"`: what a query means, written down as plainly as possible.

No index, no planner, no columns, and its own reading of the forms: a shared parser is a shared mistake. Every database is a
list of tuples (e, attribute, value, tx, true); a partial answer is a dict from variable to value; a pattern is tried against
every tuple by the one `unify`. It shares with the engine only the scalar forms of built-in functions and aggregates.

It is slow, and says "unsupported" rather than guess: pull expressions are the engine's alone.

How a conjunction is solved: patterns, functions and predicates whose variables are known, as they are written; then `or`
and rules; `not` last. How rules are solved: a table for each call with its known arguments, all tables computed again and
again until none grows. A `not` gets tables of its own, complete before it is believed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from datalog.aggregates import find_aggregate
from datalog.builtins import find_function, less
from datalog.errors import DatalogError, QueryError, show
from datalog.result import KeyedRow, Result, ResultColumn
from store.edn import Keyword, List, Map, Symbol, Vector, read_edn, strict_equal, strict_key
from store.errors import UserError
from store.value import Kind, canonical, decode_inline, order_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from datalog.limits import Budget

    Env = dict[str, Any]
    Row = tuple[Any, ...]

_WIDTH = 60  # codes that an environment takes the memory of
_BYTES_A_TUPLE = 320
_PART = 1024  # datoms made into tuples between two looks at the clock
_SECTIONS = {"find", "in", "with", "keys", "strs", "syms", "where", "having", "order-by", "limit", "offset", "timeout"}
_WORDS = {"not", "not-join", "or", "or-join", "and"}


def answer(query: Any, inputs: Sequence[Any], budget: Budget) -> Any:
    """The answer of a query by the reference evaluator; the shapes are those of `q`."""
    form = read_edn(query) if isinstance(query, str) else canonical(query)
    return _Evaluator(_sections(form), inputs, budget).answer()


def _unsupported(what: str) -> NoReturn:
    raise QueryError("query/unsupported", f"The reference evaluator does not support {what}.")


def _sections(form: Any) -> dict[str, Any]:
    """Section name -> its forms."""
    if isinstance(form, Map):
        found = {str(k).lstrip(":"): v for k, v in form.items()}
        return {k: v if isinstance(v, Vector | List) else [v] for k, v in found.items()}
    found = {}
    current: list[Any] = []
    for item in form:
        if isinstance(item, Keyword) and item.name in _SECTIONS:
            current = found[item.name] = []
        else:
            current.append(item)
    return found


def _is_variable(form: Any) -> bool:
    return isinstance(form, Symbol) and str(form).startswith("?")


def _is_blank(form: Any) -> bool:
    return isinstance(form, Symbol) and str(form) == "_"


def _is_source(form: Any) -> bool:
    return isinstance(form, Symbol) and str(form).startswith("$")


def _head(form: Any) -> str:
    return str(form[0]) if isinstance(form, List) and form and isinstance(form[0], Symbol) else ""


def _truthy(value: Any) -> bool:
    return value is not None and value is not False


class _Facts:
    """A source as tuples: all datoms of a database, or the rows of a collection."""

    def __init__(self, value: Any, budget: Budget) -> None:
        self.budget = budget
        snapshot = getattr(value, "snapshot", None)
        if snapshot is None and hasattr(value, "basis_tx"):
            snapshot = value
        self.snapshot = snapshot
        self._system: dict[Any, list[Row]] = {}
        if snapshot is None:
            rows = value.items() if hasattr(value, "items") else value
            self.tuples = [tuple(canonical(v) for v in row) for row in rows]
        else:
            e, a, v, tx = snapshot.all_datoms()
            self.budget.check(6 * e.nbytes)  # the columns, and what was sorted to make them
            self.budget.hold(6 * e.nbytes)
            self.tuples = self._rows(e, a, v, tx)

    def _rows(self, e: Any, a: Any, v: Any, tx: Any) -> list[Row]:
        """The tuples of columns; made in parts, so that the budget sees them grow."""
        assert self.snapshot is not None
        codes = self.snapshot.codes()
        rows: list[Row] = []
        for start in range(0, len(e), _PART):
            self.budget.check(_PART * _BYTES_A_TUPLE)
            self.budget.hold(_PART * _BYTES_A_TUPLE)
            part = [column[start : start + _PART].tolist() for column in (e, a, v, tx)]
            for eid, aid, code, tx_eid in zip(*part, strict=True):
                attribute = self.snapshot.schema.by_aid(aid)
                one = np.array([code], dtype=np.int64)
                value = (
                    codes.decode_many(one)[0]
                    if attribute.kind is Kind.INTERNED
                    else decode_inline(attribute.kind, one)[0]
                )
                rows.append((eid, attribute.keyword, value, tx_eid, True))
        return rows

    def matching(self, attribute: Any) -> list[Row]:
        """All tuples, or those of the one attribute that a pattern names: only these show built-in attributes."""
        if self.snapshot is None or not isinstance(attribute, Keyword | str):
            return self.tuples
        found = self._system.get(attribute)
        if found is None:
            entry = self.snapshot.schema.find(str(attribute))
            found = []
            if entry is not None:
                e, v, tx = self.snapshot.columns(entry.aid, tx=True)
                found = self._rows(e, np.full(len(e), entry.aid), v, tx)
            self._system[attribute] = found
        return found

    def is_ref(self, attribute: Any) -> bool:
        """Whether values of an attribute are entities."""
        if self.snapshot is None or not isinstance(attribute, Keyword | str):
            return False
        entry = self.snapshot.schema.find(str(attribute))
        return entry is not None and entry.is_ref

    def entity(self, value: Any) -> Any:
        """The eid of an ident or lookup ref, or the value itself."""
        lookup = isinstance(value, Vector) and len(value) == 2 and isinstance(value[0], Keyword | str)
        if self.snapshot is None or not (isinstance(value, Keyword) or lookup):
            return value
        try:
            found = self.snapshot.entid(value)
        except UserError:
            return value  # it only looks like a lookup ref
        return value if found is None else int(found)

    def reference(self, value: Any) -> Any:
        """The eid of a lookup ref over a unique attribute, or the value itself."""
        if self.snapshot is None or not isinstance(value, Vector) or len(value) != 2:
            return value
        entry = self.snapshot.schema.find(str(value[0])) if isinstance(value[0], Keyword | str) else None
        return self.entity(value) if entry is not None and entry.unique is not None else value


class _Evaluator:
    """One query under evaluation."""

    def __init__(self, sections: dict[str, Any], inputs: Sequence[Any], budget: Budget) -> None:
        self.sections = sections
        self.budget = budget
        self.sources: dict[str, _Facts] = {}
        self.rules: dict[str, list[tuple[list[str], int, list[Any]]]] = {}
        self.best: dict[str, tuple[int, str]] = {}  # rule -> place of its (min ?x) or (max ?x), and which of the two
        self.named: dict[str, Any] = {}
        self.tables: dict[Any, dict[Any, Row]] = {}
        self.calls: dict[Any, tuple[str, str, tuple[Any, ...]]] = {}
        self.resolving: dict[str, Any] = {}  # how inputs become eids or attributes, while they are bound
        self.where = list(sections.get("where", ()))
        self.envs: list[Env] = [{}]
        self.take_inputs(inputs)

    # inputs ---------------------------------------------------------------------------------------------------------

    def take_inputs(self, inputs: Sequence[Any]) -> None:
        forms = self.sections.get("in", [Symbol("$")])
        pairs = list(zip(forms, inputs, strict=True))
        for form, value in pairs:
            if _is_source(form):
                self.sources[str(form)] = _Facts(value, self.budget)
        entities = self.entity_variables(self.where, "$")
        references = self.rule_arguments(self.where, "$")
        attributes = self.attribute_variables()
        self.resolving = {
            **{n: self.sources[s].reference for n, s in references.items() if s in self.sources},
            **{n: self.sources[s].entity for n, s in entities.items()},
            **dict.fromkeys(attributes, _attribute),
        }
        for form, value in pairs:
            if isinstance(form, Symbol) and str(form) == "%":
                self.read_rules(value)
            elif isinstance(form, Symbol) and not _is_source(form) and not _is_variable(form) and not _is_blank(form):
                self.named[str(form)] = value
            elif not _is_source(form):
                if _is_variable(form) and callable(value) and not isinstance(value, Keyword | Symbol):
                    self.named[str(form)] = value
                    continue
                envs = self.envs
                self.envs = []
                for env in envs:
                    self.budget.check()
                    made = self.bind(form, self.plain(value), env)
                    self.budget.charge(len(made), _WIDTH)
                    self.budget.hold(len(made) * 8 * _WIDTH)
                    self.envs += made
        self.resolving = {}

    @staticmethod
    def plain(value: Any) -> Any:
        """An input in the types of the model, but lazily made collections as they are."""
        if isinstance(value, str | bytes | Map | dict | set | frozenset | list | tuple) or not hasattr(
            value, "__iter__"
        ):
            return canonical(value)
        return Vector(canonical(v) for v in value) if hasattr(value, "__next__") or hasattr(value, "__len__") else value

    def read_rules(self, rules: Any) -> None:
        for rule in read_edn(rules) if isinstance(rules, str) else canonical(rules):
            head, *body = rule
            name, *arguments = head
            required: list[Any] = []
            if arguments and isinstance(arguments[0], Vector):
                required, arguments = list(arguments[0]), arguments[1:]
            names = [str(a) for a in (*required, *arguments)]
            for i, argument in enumerate((*required, *arguments)):
                if isinstance(argument, List):
                    self.best[str(name)] = (i, _head(argument))
                    names[i] = str(argument[1])
            self.rules.setdefault(str(name), []).append((names, len(required), body))

    def entity_variables(self, clauses: Iterable[Any], source: str) -> dict[str, str]:
        """Variables in entity position of a pattern over a database, whose inputs may be idents or lookup refs."""
        found: dict[str, str] = {}
        attributes: set[str] = set()
        self.note_entities(clauses, source, found, attributes)
        return {n: s for n, s in found.items() if n not in attributes}

    def attribute_variables(self) -> set[str]:
        """Variables in attribute position, whose inputs may be strings."""
        attributes: set[str] = set()
        self.note_entities(self.where, "$", {}, attributes)
        return attributes

    def rule_arguments(self, clauses: Iterable[Any], source: str) -> dict[str, str]:
        """Variables passed to rules by the query itself, whose inputs may be lookup refs."""
        found: dict[str, str] = {}
        for clause in clauses:
            if isinstance(clause, List):
                word, items, given = self.word(clause)
                if word in ("not-join", "or-join"):
                    seen = _variables(items[0])
                    inner = self.rule_arguments(items[1:], given or source)
                    found = {**{n: s for n, s in inner.items() if n in seen}, **found}
                elif word in _WORDS:
                    found = {**self.rule_arguments(items, given or source), **found}
                else:
                    for argument in items:
                        if _is_variable(argument):
                            found.setdefault(str(argument), given or source)
        return found

    def note_entities(self, clauses: Iterable[Any], source: str, found: dict[str, str], attributes: set[str]) -> None:
        for clause in clauses:
            if isinstance(clause, List):
                here, items = source, list(clause)
                if _is_source(items[0]):
                    here, items = str(items[0]), items[1:]
                if str(items[0]) in ("not-join", "or-join"):
                    inner: tuple[dict[str, str], set[str]] = {}, set()
                    self.note_entities(items[2:], here, *inner)
                    seen = _variables(items[1])
                    attributes |= inner[1] & seen
                    for name, source_there in inner[0].items():
                        if name in seen:
                            found.setdefault(name, source_there)
                elif str(items[0]) in _WORDS:
                    self.note_entities(items[1:], here, found, attributes)
                continue
            if not isinstance(clause, Vector) or not clause:
                continue
            if isinstance(clause[0], List):
                call = clause[0]
                if str(call[0]) in ("get-else", "get-some", "missing?") and len(call) > 2 and _is_variable(call[2]):
                    found.setdefault(str(call[2]), str(call[1]))
                continue
            here, terms = source, list(clause)
            if _is_source(terms[0]):
                here, terms = str(terms[0]), terms[1:]
            facts = self.sources.get(here)
            if facts is None or facts.snapshot is None:
                continue
            if len(terms) > 1 and _is_variable(terms[1]):
                attributes.add(str(terms[1]))
            places = [0, 3] + ([2] if len(terms) > 2 and facts.is_ref(terms[1]) else [])
            for place in places:
                if place < len(terms) and _is_variable(terms[place]):
                    found.setdefault(str(terms[place]), here)

    def bind(self, form: Any, value: Any, env: Env) -> list[Env]:
        """The environments that a binding form makes of a value."""
        if _is_blank(form):
            return [env]
        if _is_variable(form):
            resolve = self.resolving.get(str(form))
            extended = self.unify(form, value if resolve is None else resolve(value), env)
            return [] if extended is None else [extended]
        assert isinstance(form, Vector)
        if len(form) == 2 and str(form[1]) == "...":
            items = [] if value is None else value.items() if isinstance(value, Map) else value
            return [e for item in items for e in self.bind(form[0], canonical(item), env)]
        if len(form) == 1 and isinstance(form[0], Vector):
            items = [] if value is None else value.items() if isinstance(value, Map) else value
            return [e for item in items for e in self.bind(form[0], canonical(item), env)]
        items = list(value)
        if len(items) < len(form):
            raise QueryError("query/input", f"{show(value)} has {len(items)} items.", expected=f"{len(form)} values")
        envs = [env]
        for part, item in zip(form, items, strict=False):
            envs = [e for one in envs for e in self.bind(part, canonical(item), one)]
        return envs

    # the one unification --------------------------------------------------------------------------------------------

    @staticmethod
    def unify(term: Any, value: Any, env: Env) -> Env | None:
        """The environment in which a term equals a value, or None."""
        if _is_blank(term):
            return env
        if _is_variable(term):
            name = str(term)
            if name in env:
                return env if strict_equal(env[name], value) else None
            return {**env, name: value}
        return env if strict_equal(term, value) else None

    # clauses --------------------------------------------------------------------------------------------------------

    def solve(self, clauses: Sequence[Any], envs: list[Env], source: str) -> list[Env]:
        """The environments in which all clauses hold."""
        pending = [c for clause in clauses for c in self.flat(clause)]
        while pending and envs:
            self.budget.check()
            known = set.intersection(*(set(e) for e in envs))
            clause = self.next_clause(pending, known, source)
            pending = [c for c in pending if c is not clause]
            envs = self.distinct(e for env in envs for e in self.step(clause, env, source))
            self.budget.charge(len(envs), _WIDTH)
        return envs

    def distinct(self, envs: Iterable[Env]) -> list[Env]:
        """Each environment once, counted while they are made."""
        found: dict[Any, Env] = {}
        for env in envs:
            found[tuple(sorted((n, strict_key(v)) for n, v in env.items()))] = env
            if not len(found) % 1024:
                self.budget.check(len(found) * 8 * _WIDTH)
        return list(found.values())

    def flat(self, clause: Any) -> list[Any]:
        """A clause, or those of an `and`."""
        return [c for part in clause[1:] for c in self.flat(part)] if _head(clause) == "and" else [clause]

    def next_clause(self, pending: list[Any], known: set[str], source: str) -> Any:
        """The clause to take now: see the head of this module."""
        for clause in pending:
            if self.rank(clause) == 0 and self.needs(clause, source) <= known:
                return clause
        for clause in pending:
            if self.rank(clause) == 1 and self.needs(clause, source) <= known:
                return clause
        if all(self.rank(c) == 2 for c in pending):
            return pending[0]
        stuck = next(c for c in pending if self.rank(c) < 2)
        missing = sorted(self.needs(stuck, source) - known)
        raise QueryError("query/unbound-variable", f"{show(stuck)} needs {', '.join(missing)}, which no clause binds.")

    @staticmethod
    def word(clause: Any) -> tuple[str, list[Any], str | None]:
        """(first word, what follows it, source) of a clause in parentheses."""
        items = list(clause)
        source = str(items.pop(0)) if _is_source(items[0]) else None
        return str(items[0]), items[1:], source

    def rank(self, clause: Any) -> int:
        if not isinstance(clause, List):
            return 0
        return 2 if self.word(clause)[0] in ("not", "not-join") else 1

    def needs(self, clause: Any, source: str) -> set[str]:
        """The variables that must be known before a clause can be taken."""
        if isinstance(clause, Vector):
            return _variables(clause[0]) - set(self.named) if isinstance(clause[0], List) else set()
        word, items, _ = self.word(clause)
        if word in ("or", "or-join"):
            visible = self.visible(clause)
            branches = items[1:] if word == "or-join" else items
            required: set[str] = set()
            if word == "or-join" and items[0] and isinstance(items[0][0], Vector):
                required = {str(v) for v in items[0][0]}
            return required.union(*(self.unbindable(visible, self.flat(b), source, required) for b in branches))
        if word in ("not", "not-join"):
            return set()
        found: set[str] = set()
        for names, count, body in self.rules.get(word, ()):
            clauses = [c for b in body for c in self.flat(b)]
            needed = self.unbindable(set(names), clauses, source, set(names[:count]))
            for i, (name, argument) in enumerate(zip(names, items, strict=True)):
                if (i < count or name in needed) and _is_variable(argument):
                    found.add(str(argument))
        return found

    def unbindable(self, names: set[str], clauses: list[Any], source: str, known: set[str]) -> set[str]:
        """The names that clauses cannot find values for, even when the others of them are known."""
        lacking = names - self.binds(clauses, source, known)
        return {n for n in lacking if n not in self.binds(clauses, source, known | (lacking - {n}))}

    def binds(self, clauses: Iterable[Any], source: str, known: set[str]) -> set[str]:
        """The variables that clauses can find values for, those `known` included."""
        bound = set(known)
        waiting = list(clauses)
        while True:
            grown = set(bound)
            for clause in waiting:
                if isinstance(clause, Vector):
                    if not isinstance(clause[0], List):
                        grown |= _variables(clause)
                    elif len(clause) > 1 and _variables(clause[0]) - set(self.named) <= bound:
                        grown |= _variables(clause[1])
                elif self.rank(clause) == 1:
                    word, items, _ = self.word(clause)
                    if word in ("or", "or-join"):
                        grown |= self.visible(clause) - self.needs(clause, source)
                    else:
                        grown |= {str(a) for a in items if _is_variable(a)}
            if grown == bound:
                return bound
            bound = grown

    def visible(self, clause: Any) -> set[str]:
        """The variables of a nested clause that its surroundings can see."""
        word, items, _ = self.word(clause)
        if word in ("or-join", "not-join"):
            return _variables(items[0])
        if word in ("or", "not", "and"):
            found: set[str] = set()
            for item in items:
                found |= self.visible(item) if isinstance(item, List) else _variables(item)
            return found
        return _variables(Vector(items))

    def step(self, clause: Any, env: Env, source: str) -> list[Env]:
        """The environments that extend one so that a clause holds."""
        self.budget.check()
        if isinstance(clause, Vector):
            return self.call(clause, env) if isinstance(clause[0], List) else self.pattern(clause, env, source)
        word, items, given = self.word(clause)
        source = given or source
        if word == "not":
            return [] if self.holds(items, env, source) else [env]
        if word == "not-join":
            return [] if self.holds(items[1:], _only(env, items[0]), source) else [env]
        if word == "or":
            return [e for branch in items for e in self.solve([branch], [env], source)]
        if word == "or-join":
            names = _variables(items[0])
            found = []
            for branch in items[1:]:
                solved = self.solve([branch], [_only(env, items[0])], source)
                found += [{**env, **{n: v for n, v in e.items() if n in names}} for e in solved]
            return found
        return self.rule(word, items, env, source)

    def holds(self, clauses: Sequence[Any], env: Env, source: str) -> bool:
        """Whether clauses have an answer, with rule tables that are complete."""
        outer = self.tables, self.calls
        self.tables, self.calls = {}, {}
        found = self.closed(clauses, [env], source)
        self.tables, self.calls = outer
        return bool(found)

    def pattern(self, clause: Any, env: Env, source: str) -> list[Env]:
        terms = list(clause)
        if _is_source(terms[0]):
            source, terms = str(terms[0]), terms[1:]
        facts = self.sources[source]
        attribute = terms[1] if len(terms) > 1 else None
        if facts.snapshot is not None:
            if isinstance(attribute, str):
                attribute = terms[1] = Keyword(attribute)
            terms[0] = facts.entity(terms[0])
            if len(terms) > 2 and facts.is_ref(attribute):
                terms[2] = facts.entity(terms[2])
            if len(terms) > 3:
                terms[3] = facts.entity(terms[3])
            if _is_variable(attribute) and str(attribute) in env and isinstance(env[str(attribute)], Keyword):
                attribute = env[str(attribute)]
            if len(terms) > 2 and isinstance(terms[2], float) and terms[2] == 0:
                terms[2] = 0.0
        found: list[Env] = []
        for i, row in enumerate(facts.matching(attribute)):
            if not i % 1024:
                self.budget.check(len(found) * 8 * _WIDTH)
            if len(row) < len(terms):
                continue
            extended: Env | None = env
            for term, value in zip(terms, row, strict=False):
                extended = self.unify(term, value, extended) if extended is not None else None
            if extended is not None:
                found.append(extended)
        return found

    # calls ----------------------------------------------------------------------------------------------------------

    def call(self, clause: Any, env: Env) -> list[Env]:
        value = self.value(clause[0], env)
        if len(clause) == 1:
            return [env] if _truthy(value) else []
        return [] if value is None else self.bind(clause[1], canonical(value), env)

    def value(self, form: Any, env: Env) -> Any:
        """The value of a call or of one of its arguments."""
        if _is_variable(form):
            return env[str(form)]
        if isinstance(form, Symbol) and str(form) in self.named:
            return self.named[str(form)]
        if not _head(form):
            return form
        name, *arguments = form
        if str(name) in ("get-else", "get-some", "missing?"):
            return self.from_source(str(name), arguments, env)
        values = [self.value(a, env) for a in arguments]
        try:
            made = self.function(str(name))(*values)
        except DatalogError:
            raise
        except Exception as error:
            raise QueryError("query/function-failed", f"{show(form)} failed: {error}.") from error
        self.budget.charge_values([made])
        return made

    def function(self, name: str) -> Any:
        if name in self.named:
            return self.named[name]
        found = find_function(name)
        if found is None:
            raise QueryError("query/unknown-function", f"There is no function {name}.")
        return partial(found.scalar, check=self.budget.check) if found.checked else found.scalar

    def from_source(self, name: str, arguments: list[Any], env: Env) -> Any:
        facts = self.sources[str(arguments[0])]
        entity = facts.entity(self.value(arguments[1], env))
        default = self.value(arguments[3], env) if name == "get-else" else None
        for form in arguments[2:] if name == "get-some" else arguments[2:3]:
            attribute = self.value(form, env)
            attribute = Keyword(attribute) if isinstance(attribute, str) else attribute
            values = [r[2] for r in facts.matching(attribute) if strict_equal(r[0], entity)]
            if values:
                least = values[0]
                for value in values[1:]:
                    least = value if less(value, least) else least
                return Vector([attribute, least]) if name == "get-some" else least if name == "get-else" else False
        return {"get-else": default, "missing?": True}.get(name)

    # rules ----------------------------------------------------------------------------------------------------------

    def rule(self, name: str, arguments: list[Any], env: Env, source: str) -> list[Env]:
        """The environments in which a rule's table, as far as it goes, has a row that fits."""
        if name not in self.rules:
            raise QueryError("query/unknown-rule", f"There is no rule {name}.")
        facts = self.sources.get(source)
        if facts is not None:
            arguments = [facts.reference(a) for a in arguments]
        known = tuple(
            env.get(str(a), _UNKNOWN) if _is_variable(a) else _UNKNOWN if _is_blank(a) else a for a in arguments
        )
        if name in self.best:  # the best row of a group is known only when all of them are
            place = self.best[name][0]
            known = (*known[:place], _UNKNOWN, *known[place + 1 :])
        key = (name, source, tuple(None if k is _UNKNOWN else (strict_key(k),) for k in known))
        if key not in self.tables:
            self.tables[key] = {}
            self.calls[key] = (name, source, known)
        found = []
        for row in self.tables[key].values():
            extended: Env | None = env
            for argument, value in zip(arguments, row, strict=True):
                extended = self.unify(argument, value, extended) if extended is not None else None
            if extended is not None:
                found.append(extended)
        return found

    def grow(self) -> bool:
        """Compute every table once more; whether one has grown or got a better row, or a new call has turned up."""
        before = len(self.tables), sum(map(len, self.tables.values()))
        better = False
        for key, (name, source, known) in list(self.calls.items()):
            for names, _, body in self.rules[name]:
                env = {n: k for n, k in zip(names, known, strict=True) if k is not _UNKNOWN}
                for found in self.solve(body, [env], source):
                    row = tuple(found[n] for n in names)
                    better = self.keep(name, self.tables[key], row) or better
        return better or before != (len(self.tables), sum(map(len, self.tables.values())))

    def keep(self, name: str, table: dict[Any, Row], row: Row) -> bool:
        """Put a row into a table; whether it took the place of a worse one."""
        if name not in self.best:
            table[strict_key(Vector(row))] = row
            return False
        place, which = self.best[name]
        group = strict_key(Vector(row[:place] + row[place + 1 :]))
        old = table.get(group)
        if old is None or _is_better(which, row[place], old[place]):
            table[group] = row
        return old is not None and table[group] is row

    def closed(self, clauses: Sequence[Any], envs: list[Env], source: str) -> list[Env]:
        """The environments in which clauses hold once no table grows any more."""
        while True:
            found = self.solve(clauses, envs, source)
            if not self.grow():
                return found

    # the answer -----------------------------------------------------------------------------------------------------

    def answer(self) -> Any:
        elements, shape = self.find_shape()
        if any(_head(e) == "pull" for e in elements):
            _unsupported("pull expressions")
        envs = self.closed(self.where, self.envs, "$")
        wanted = self.answer_variables(elements)
        envs = self.distinct(_only(e, Vector(map(Symbol, wanted))) for e in envs)
        having = [c[0] for c in self.sections.get("having", ())]
        if any(self.is_aggregate(e) for e in (*elements, *having)):
            rows = self.aggregated(elements, having, envs)
        else:
            envs = [e for e in envs if all(_truthy(self.value(h, e)) for h in having)]
            rows = [(e, tuple(self.value(x, e) for x in elements)) for e in envs]
        found = [row for _, row in self.ordered(elements, rows)]
        if "with" not in self.sections or any(map(self.is_aggregate, elements)):
            found = list({strict_key(Vector(map(canonical, r))): r for r in reversed(found)}.values())[::-1]
        offset, limit = self.count("offset") or 0, self.count("limit")
        return self.shaped(elements, shape, found[offset : None if limit is None else offset + limit])

    def find_shape(self) -> tuple[list[Any], str]:
        find = list(self.sections["find"])
        if isinstance(find[0], Vector):
            inner = list(find[0])
            return (inner[:1], "collection") if str(inner[-1]) == "..." else (inner, "tuple")
        return (find[:1], "scalar") if str(find[-1]) == "." else (find, "relation")

    def answer_variables(self, elements: list[Any]) -> list[str]:
        found = dict.fromkeys(n for e in elements for n in sorted(_variables(e)))
        found.update((str(v), None) for v in self.sections.get("with", ()))
        found.update((n, None) for h in self.sections.get("having", ()) for n in sorted(_variables(h)))
        found.update((str(k), None) for k in self.order_forms() if _is_variable(k))
        return [n for n in found if n not in self.named]

    def is_aggregate(self, form: Any) -> bool:
        name = _head(form)
        if not name:
            return False
        return (
            name == "aggregate"
            or name in self.named
            or find_aggregate(name) is not None
            or any(map(self.is_aggregate, form[1:]))
        )

    def aggregated(self, elements: list[Any], having: list[Any], envs: list[Env]) -> list[tuple[Env, Row]]:
        by = sorted({n for e in elements for n in self.outside(e)})
        groups: dict[Any, list[Env]] = {}
        for env in envs:
            groups.setdefault(tuple(strict_key(env[n]) for n in by), []).append(env)
        return [
            (group[0], tuple(self.group_value(e, group) for e in elements))
            for group in groups.values()
            if all(_truthy(self.group_value(h, group)) for h in having)
        ]

    def outside(self, form: Any) -> set[str]:
        """The variables of a find element that stand outside of aggregates."""
        name = _head(form)
        if name and (name == "aggregate" or name in self.named or find_aggregate(name) is not None):
            return set()
        return {n for part in form[1:] for n in self.outside(part)} if name else _variables(form)

    def group_value(self, form: Any, group: list[Env]) -> Any:
        name = _head(form)
        if not name:
            return self.value(form, group[0])
        arguments = list(form[1:])
        if name == "aggregate":
            name, *arguments = str(arguments[0]), *arguments[1:]
        if name in self.named or find_aggregate(name) is not None:
            *parameters, last = arguments
            values = [self.value(last, e) for e in group]
            aggregate = find_aggregate(name)
            function = self.named.get(name, aggregate.scalar if aggregate else None)
            assert function is not None
            try:
                return function(*(self.value(p, group[0]) for p in parameters), values)
            except DatalogError:
                raise
            except Exception as error:
                raise QueryError("query/function-failed", f"{show(form)} failed: {error}.") from error
        return self.function(name)(*(self.group_value(a, group) for a in arguments))

    def order_forms(self) -> list[Any]:
        return [k for f in self.sections.get("order-by", ()) for k in (f if isinstance(f, Vector) else [f])]

    def ordered(self, elements: list[Any], rows: list[tuple[Env, Row]]) -> list[tuple[Env, Row]]:
        keys: list[tuple[Any, bool]] = []
        for form in self.order_forms():
            if isinstance(form, Keyword):
                keys[-1] = (keys[-1][0], form.name == "desc")
            else:
                keys.append((form, False))
        for form, descending in reversed(keys):

            def key(row: tuple[Env, Row], form: Any = form) -> bytes:
                if type(form) is int:
                    return order_key(row[1][form])
                if isinstance(form, List):
                    return order_key(row[1][elements.index(form)])
                return order_key(row[0][str(form)])

            rows = sorted(rows, key=key, reverse=descending)
        return rows

    def count(self, name: str) -> Any:
        given = self.sections.get(name)
        if not given:
            return None
        return self.envs[0][str(given[0])] if _is_variable(given[0]) else given[0]

    def shaped(self, elements: list[Any], shape: str, rows: list[Row]) -> Any:
        if shape == "scalar":
            return rows[0][0] if rows else None
        if shape == "collection":
            return [r[0] for r in rows]
        for section, make in (("keys", lambda s: f":{s}"), ("strs", str), ("syms", lambda s: s)):
            if section in self.sections:
                names = [make(s) for s in self.sections[section]]
                maps = [KeyedRow(zip(names, r, strict=True)) for r in rows]
                return maps if shape == "relation" else maps[0] if maps else None
        if shape == "tuple":
            return rows[0] if rows else None
        columns = [ResultColumn(None, None, [r[i] for r in rows]) for i in range(len(elements))]
        heads = tuple(str(e).removeprefix("?") if isinstance(e, Symbol) else show(e) for e in elements)
        return Result(heads, columns, len(rows), ordered="order-by" in self.sections)


_UNKNOWN = object()


def _is_better(which: str, new: Any, old: Any) -> bool:
    """Whether a new value is below (for max: above) an old one; numbers of one size by the total order."""
    if which == "max":
        new, old = old, new
    return less(new, old) or (not less(old, new) and order_key(new) < order_key(old))


def _attribute(value: Any) -> Any:
    """The keyword of an attribute given as a string."""
    return Keyword(value) if isinstance(value, str) and value.startswith(":") else value


def _variables(form: Any) -> set[str]:
    """All variables in a form."""
    if _is_variable(form):
        return {str(form)}
    return set().union(*map(_variables, form)) if isinstance(form, Vector | List) else set()


def _only(env: Env, names: Any) -> Env:
    kept = _variables(names)
    return {n: v for n, v in env.items() if n in kept}
