"""Query: the pipeline from a query text to its answer, and what is kept between calls.

    text or forms -> parser.parse_query -> rules.RuleSet -> planner.plan -> engine.run_plan -> find.shape

A prepared query keeps its plans. A plan depends on the query, the rules, the schema of each source and, for its order only,
on sizes; it is made anew when a schema is another object, when a database has grown or shrunk by more than a factor of
eight, or when a relation input has another order of magnitude. Plans never hold data.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from datalog import engine, find
from datalog.ast import InputBinding, InputName, InputRules, InputSource, Query
from datalog.builtins import REGISTERED
from datalog.errors import QueryError, counted, names, query_error
from datalog.limits import Budget, Limits
from datalog.lower import SourceInfo
from datalog.notebook import PlanText
from datalog.parser import nesting_of, parse_query, parse_rules
from datalog.plan import Node, Plan, Step, plan_steps, plan_text
from datalog.planner import plan as make_plan
from datalog.planner import scalar_names
from datalog.rules import RuleSet
from datalog.small import TOO_MANY, SmallPlan, compile_small
from store.edn import read_node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Limits", "Prepared", "explain", "prepare", "q", "register"]

_MOST_QUERIES = 256
_MOST_PLANS = 16  # of one query, for different schemas, rules and sizes
_GROWTH = 8

Value = TypeVar("Value")


def q(query: Any, *inputs: Any, limits: Limits | None = None, engine: str | None = None) -> Any:
    """The answer of a query: a `Result`, list, tuple, value or dicts, by the form of its `:find`.

    Args:
        query: EDN text, the same as Python data (a map, or a vector with keywords), or a query of the builder (query.py).
        inputs: In the order of `:in`: databases, collections, values, rules (EDN text or data), pull patterns, callables.
        limits: What the query may cost; without them it may run as long as it likes.
        engine: `"naive"` asks the reference evaluator instead: no index, no planner, for anyone who doubts an answer.

    Raises:
        QueryError: the query is wrong (`query/...` with its place), or over its limits.
        EdnError: the text is not EDN.

    Example:
        >>> q("[:find ?x . :in [?x ...] :where [(> ?x 2)]]", [1, 2, 3])
        3
    """
    if limits is not None and isinstance(query, str):
        _check_length(query, limits)
    return prepare(query)(*inputs, limits=limits, engine=engine)


def prepare(query: Any) -> Prepared:
    """The query parsed and ready to be called with inputs; it keeps its plans. Takes what `q` takes."""
    if isinstance(query, str):
        found = _PREPARED.get(query)
        if found is None:
            found = _PREPARED.put(query, Prepared(query))
        return found
    if isinstance(query, Prepared):
        return query
    built = getattr(query, "edn_text", None)  # of the builder
    return Prepared(query) if built is None else prepare(built)


def explain(query: Any, *inputs: Any, analyze: bool = False) -> PlanText:
    """The plan of a query as text, with estimated rows; with `analyze` it is run, and the rows found stand beside them.

    A string that a notebook draws as a tree.
    """
    return prepare(query).explain(*inputs, analyze=analyze)


def register(name: str, function: Callable[..., Any]) -> None:
    """Make a Python callable known by name to all queries of this process, as predicate, function, aggregate and :xform.

    Raises:
        ValueError: the name is a built-in's, or cannot be written as a symbol.
    """
    REGISTERED.register(name, function)


class Bounded(Generic[Value]):
    """A small map from text to value that forgets the oldest entries. Safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[Any, Value] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Value | None:
        """The value kept for a key, or None."""
        return self._found.get(key)

    def put(self, key: Any, value: Value) -> Value:
        """Keep a value."""
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.pop(next(iter(self._found)))
        return value


# Module state, and why: `d.q` is a free function that gets no object to keep things in, and the same texts come again and
# again. What is kept depends on the text alone (a parsed query; its plans check schema and sizes at each use), is bounded,
# and holds no data, so that nothing but time depends on it.
_PREPARED: Bounded[Prepared] = Bounded(_MOST_QUERIES)
_RULES: Bounded[RuleSet] = Bounded(_MOST_QUERIES)


class _Kept:
    """A plan, and what it was made for."""

    __slots__ = ("basis", "plan", "registered", "rows", "schemas", "small")

    def __init__(self, plan: Plan, schemas: list[Any], basis: list[int], rows: list[int]) -> None:
        self.plan = plan
        self.registered = REGISTERED.version
        self.small: SmallPlan | None = compile_small(plan, schemas[0]) if len(basis) == 1 else None
        self.schemas = schemas  # held, so that their ids stay theirs
        self.basis = basis
        self.rows = rows


class Prepared:
    """A parsed query: call it with inputs. Keeps its plans; safe between threads.

    Example:
        >>> p = prepare("[:find [?x ...] :in [?x ...] :where [(even? ?x)]]")
        >>> sorted(p([1, 2, 3, 4]))
        [2, 4]
    """

    __slots__ = ("_database", "_last", "_plans", "_source", "query")

    def __init__(self, query: Any) -> None:
        self._source = query
        self.query: Query = parse_query(query)
        self._plans: Bounded[_Kept] = Bounded(_MOST_PLANS)
        self._last: _Kept | None = None
        self._database = _lone_database(self.query)

    def __call__(self, *inputs: Any, limits: Limits | None = None, engine: str | None = None) -> Any:
        """The answer for these inputs; see `q`."""
        if limits is None and engine is None and self._last is not None and self._database is not None:
            found = self._point(self._last, inputs)
            if found is not TOO_MANY:
                return found
        if limits is not None:
            self._check_text(limits)
        self._check_inputs(inputs)
        budget = Budget(limits, None if self.query.timeout_ms is None else self.query.timeout_ms / 1000)
        if engine is not None:
            return self._other_engine(engine, inputs, budget)
        run = _engine.Run(self.plan(inputs), inputs, budget)
        return find.shape(run, _engine.run_plan(run))

    def _point(self, kept: _Kept, inputs: Sequence[Any]) -> Any:
        """The answer by the small plan used last, when it still fits; else TOO_MANY."""
        small = kept.small
        if small is None or len(inputs) != len(self.query.inputs) or kept.registered != REGISTERED.version:
            return TOO_MANY
        snapshot = _engine.snapshot_of(inputs[small.source])
        if snapshot is None or snapshot.schema is not kept.schemas[0]:
            return TOO_MANY
        if snapshot.basis_tx != kept.basis[0] and not _still_fits(kept, [snapshot]):
            return TOO_MANY
        return small.run(inputs, snapshot)

    def _other_engine(self, name: str, inputs: Sequence[Any], budget: Budget) -> Any:
        if name != "naive":
            raise QueryError("query/engine", f"There is no engine {name!r}.", expected='engine="naive", or none')
        from datalog import naive  # noqa: PLC0415 - few ask for it, all would wait for its import

        return naive.answer(self._source, inputs, budget)

    def explain(self, *inputs: Any, analyze: bool = False) -> PlanText:
        """The plan as text; see `explain`."""
        steps = self.steps(*inputs, analyze=analyze)
        return PlanText(plan_text(steps), steps, self.query.text)

    def steps(self, *inputs: Any, analyze: bool = False, limits: Limits | None = None) -> list[Step]:
        """The plan line by line, for pictures of it; with `analyze` it is run, and each line has the rows found."""
        self._check_inputs(inputs)
        plan = self.plan(inputs)
        if not analyze:
            return plan_steps(plan)
        run = _engine.Run(plan, inputs, Budget(limits), analyze=True)
        find.shape(run, _engine.run_plan(run))
        assert run.actual is not None
        actual = run.actual

        def found(node: Node) -> int | None:
            return actual.get(id(node))

        return plan_steps(plan, found)

    def plan(self, inputs: Sequence[Any]) -> Plan:
        """The plan for these inputs, a kept one when it still fits."""
        query = self.query
        key: list[Any] = [REGISTERED.version]
        schemas: list[Any] = []
        snapshots: list[Any] = []
        rules: RuleSet | None = None
        for given, value in zip(query.inputs, inputs, strict=True):
            if isinstance(given, InputSource):
                snapshot = _engine.snapshot_of(value)
                if snapshot is None:
                    key.append(_magnitude(value))
                else:
                    key.append(id(snapshot.schema))
                    schemas.append(snapshot.schema)
                    snapshots.append(snapshot)
            elif isinstance(given, InputRules):
                rules = _rule_set(value)
                key.append(id(rules))
                schemas.append(rules)
            elif isinstance(given, InputBinding) and scalar_names(given.binding) is None:
                key.append(_magnitude(value))
        kept = self._plans.get(tuple(key))
        if kept is None or not _still_fits(kept, snapshots):
            made = _plan(query, inputs, rules)
            basis = [s.basis_tx for s in snapshots]
            rows = [s.count_all() for s in snapshots]
            kept = self._plans.put(tuple(key), _Kept(made, schemas, basis, rows))
        self._last = kept
        return kept.plan

    def _check_inputs(self, inputs: Sequence[Any]) -> None:
        wanted = self.query.inputs
        if len(inputs) == len(wanted):
            return
        shown = [getattr(i, "name", None) or ("%" if isinstance(i, InputRules) else "a binding") for i in wanted]
        extra, missing = len(inputs) - len(wanted), len(wanted) - len(inputs)
        raise query_error(
            "query/input-count",
            f":in takes {counted(len(wanted), 'input')} ({names(shown)}), but {len(inputs) or 'none'} "
            f"{'was' if len(inputs) == 1 else 'were'} passed.",
            self.query.text,
            wanted[len(inputs)].at if missing > 0 else (-1, -1),
            hint=f"pass {missing} more" if missing > 0 else f"name the other {extra} in :in, for example :in $ ?x",
        )

    def _check_text(self, limits: Limits) -> None:
        text = self.query.text
        _check_length(text, limits)
        if limits.nesting is not None and nesting_of(read_node(text)) > limits.nesting:
            raise QueryError("query/limit", f"The query is nested deeper than its limit of {limits.nesting}.")

    def __repr__(self) -> str:
        return f"<Prepared {' '.join(self.query.text.split())[:80]}>"


def _check_length(text: str, limits: Limits) -> None:
    """Raise for a text over its limit, before anything reads it."""
    if limits.text_bytes is not None and len(text.encode("utf-8", "surrogatepass")) > limits.text_bytes:
        raise QueryError("query/limit", f"The query text is longer than its limit of {limits.text_bytes} bytes.")


_engine = engine  # the parameter `engine` of calls hides the module


def _lone_database(query: Query) -> int | None:
    """The position of the one source among the inputs, when all others are bindings."""
    found = [i for i, given in enumerate(query.inputs) if isinstance(given, InputSource)]
    others = all(isinstance(given, InputSource | InputBinding) for given in query.inputs)
    return found[0] if len(found) == 1 and others else None


def _rule_set(rules: Any) -> RuleSet:
    """The checked rules of an input: EDN text (kept by its text), data, or nothing."""
    if isinstance(rules, RuleSet):
        return rules
    rules = getattr(rules, "edn_text", rules)  # of the builder
    if not isinstance(rules, str):
        return RuleSet(parse_rules(rules))
    found = _RULES.get(rules)
    return found if found is not None else _RULES.put(rules, RuleSet(parse_rules(rules)))


def _magnitude(value: Any) -> int:
    length = _length(value)
    return 4 if length is None else length.bit_length()


def _length(value: Any) -> int | None:
    """How many items an input has; None when it has no length. A class such as `str`, passed as a callable, has none."""
    return len(value) if hasattr(type(value), "__len__") else None


def _still_fits(kept: _Kept, snapshots: list[Any]) -> bool:
    """Whether no database has grown or shrunk by more than a factor since the plan was made; counted once for each basis."""
    for i, snapshot in enumerate(snapshots):
        if snapshot.basis_tx == kept.basis[i]:
            continue
        rows, then = snapshot.count_all() + 100, kept.rows[i] + 100
        if not then / _GROWTH < rows < then * _GROWTH:
            return False
        kept.basis[i] = snapshot.basis_tx
    return True


def _plan(query: Query, inputs: Sequence[Any], rules: RuleSet | None) -> Plan:
    """The plan of a query for these inputs."""
    sources: dict[str, SourceInfo] = {}
    rows: dict[int, int] = {}
    for index, (given, value) in enumerate(zip(query.inputs, inputs, strict=True)):
        if isinstance(given, InputSource):
            snapshot = _engine.snapshot_of(value)
            length = _length(value) if snapshot is None else None
            sources[given.name] = SourceInfo(snapshot, 10 if length is None else length)
        elif isinstance(given, InputBinding) and not isinstance(given, InputName):
            length = _length(value)
            if length is not None:
                rows[index] = length
    return make_plan(query, sources, rules, rows)
