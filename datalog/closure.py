"""Closure: the transitive closure of one relation, as a search from the nodes asked for or from all of them.

Place on the path: the engine calls `run_closure` for a `plan.Closure`. The general fixpoint keeps pairs of codes, makes them
distinct in each round and joins them again; a search keeps a set of nodes for each start.

    bound to one value       nodes reached, level by level: the plan of one step is run with the frontier as its left side
    bound to several values  the same with (start, node) pairs; a step is run once for each distinct node of the frontier
    not bound, few edges     a depth-first walk over strongly connected components; each shares one Python set
    not bound, many edges    the general fixpoint, which is columnar

Values of several kinds, and starts of another kind than the edges, are left to the general fixpoint, too.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from datalog import kernels
from datalog.hops import hops_of, reach
from datalog.plan import Const, Param, Var
from datalog.predicate import KeySet
from datalog.relation import EMPTY, Column, Relation, empty
from datalog.scan import join_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Closure, Derived, Node
    from store.value import Kind

    Array = NDArray[np.int64]
    Evaluate = Callable[[Run, Node], Relation]

MOST_WALKED = 1 << 15  # edges up to which the walk in Python beats the columnar fixpoint
_LOOKED_AT = 256  # components between two looks at the clock


class Frontier:
    """The nodes whose edges the next step asks for: what the plan of a step sees as its recursive relation."""

    __slots__ = ("column",)

    def __init__(self, column: Column) -> None:
        self.column = column

    def rows(self, _run: Run, node: Derived) -> Relation:
        """The frontier as a relation of one column."""
        (name,) = node.variables
        return Relation({name: self.column}, self.column.codes.size, frozenset((name,)))

    def probe(self, run: Run, left: Relation, node: Derived) -> Any:
        """The join of a relation with the frontier."""
        return join_with(run, left, self.rows(run, node))


def run_closure(run: Run, node: Closure, evaluate: Evaluate) -> Relation:
    """The pairs of the closure under the call's terms, restricted to the bound ones."""
    if node.bound is None:
        pairs = _from_all(run, node, evaluate)
    else:
        starts = _starts(run, node, evaluate)
        if starts is None or not starts.codes.size:
            return empty(node.variables)
        pairs = (_from_one if starts.codes.size == 1 else _from_many)(run, node, starts, evaluate)
    if pairs is None:
        return evaluate(run, node.general)
    return _under_terms(run, node, *pairs)


def _starts(run: Run, node: Closure, evaluate: Evaluate) -> Column | None:
    """The distinct values at the bound position; None when no row asks for any."""
    assert node.bound is not None
    assert node.seed is not None
    term = node.terms[node.bound]
    seeds = evaluate(run, node.seed)
    if not seeds.length:
        return None
    if isinstance(term, Const | Param):
        kind, code = run.operand(term)
        return Column(np.array([code], dtype=np.int64), kind)
    assert isinstance(term, Var)
    column = seeds.columns[term.name]
    return Column(kernels.distinct_sorted(column.codes), column.kind)


def _from_one(run: Run, node: Closure, starts: Column, evaluate: Evaluate) -> tuple[Column, Column] | None:
    """What one value reaches: a search by levels."""
    kind = starts.kind
    hops = hops_of(run, node, kind)
    if hops is not None:
        ends = reach(run, hops, int(starts.codes[0]))
        if ends is not None:
            return Column(np.full(ends.size, starts.codes[0], dtype=np.int64), kind), Column(ends, kind)
    reached: list[Array] = []
    known: list[Array] = []  # sorted runs, each at least twice as long as the next
    frontier = starts.codes
    state = Frontier(starts)
    outer = run.derived.get(node.key)
    run.derived[node.key] = state  # type: ignore[assignment]
    try:
        while frontier.size:
            run.budget.check()
            run.round_memo = {}
            state.column = Column(frontier, kind)
            step = evaluate(run, node.edges)
            if not step.length:
                break
            found = step.columns[node.ends[1]]
            if found.kind is not kind:
                return None
            frontier = kernels.distinct_sorted(found.codes)
            for old in known:
                frontier = frontier[~kernels.member_sorted(frontier, old)]
            if frontier.size:
                run.budget.charge(frontier.size, 2)
                reached.append(frontier)
                _push(known, frontier)
    finally:
        if outer is not None:
            run.derived[node.key] = outer
    ends = np.concatenate(reached) if reached else EMPTY
    return Column(np.full(ends.size, starts.codes[0], dtype=np.int64), kind), Column(ends, kind)


def _push(runs: list[Array], keys: Array) -> None:
    runs.append(keys)
    while len(runs) > 1 and runs[-2].size < 2 * runs[-1].size:
        merged = np.concatenate((runs[-2], runs[-1]))
        merged.sort()
        runs[-2:] = [merged]


def _from_many(run: Run, node: Closure, starts: Column, evaluate: Evaluate) -> tuple[Column, Column] | None:
    """What several values reach: (start, node) pairs, one step for all."""
    kind = starts.kind
    origin, here = starts.codes, starts.codes
    known = KeySet(2)
    all_origins: list[Array] = []
    all_ends: list[Array] = []
    state = Frontier(starts)
    run.derived[node.key] = state  # type: ignore[assignment]
    while here.size:
        run.budget.check()
        run.round_memo = {}
        state.column = Column(kernels.distinct_sorted(here), kind)
        step = evaluate(run, node.edges)
        if not step.length:
            break
        sources, targets = step.columns[node.ends[0]], step.columns[node.ends[1]]
        if sources.kind is not kind or targets.kind is not kind:
            return None
        lefts, rights = kernels.join(here, sources.codes, run.charge(2))
        columns = [origin[lefts], targets.codes[rights]]
        if not lefts.size:
            break
        before = [np.concatenate(all_origins), np.concatenate(all_ends)] if all_origins else [EMPTY, EMPTY]
        rows = known.add(columns, before)
        origin, here = columns[0][rows], columns[1][rows]
        all_origins.append(origin)
        all_ends.append(here)
    if not all_origins:
        return Column(EMPTY, kind), Column(EMPTY, kind)
    return Column(np.concatenate(all_origins), kind), Column(np.concatenate(all_ends), kind)


def _from_all(run: Run, node: Closure, evaluate: Evaluate) -> tuple[Column, Column] | None:
    """The whole closure by a walk, when there are few edges of one kind."""
    edges = evaluate(run, node.edges)
    if not edges.length:
        return Column(EMPTY, _any_kind(edges, node)), Column(EMPTY, _any_kind(edges, node))
    sources, targets = edges.columns[node.ends[0]], edges.columns[node.ends[1]]
    if edges.length > MOST_WALKED or sources.kind is not targets.kind:
        return None
    following: dict[int, list[int]] = {}
    for a, b in zip(sources.codes.tolist(), targets.codes.tolist(), strict=True):
        following.setdefault(a, []).append(b)
    charge = run.charge(2)
    nodes: list[int] = []
    sets: list[set[int]] = []
    made = 0
    for count, (members, reached) in enumerate(_components(following)):
        made += len(members) * len(reached)
        if count % _LOOKED_AT == 0 or made > 1 << 16:
            charge(made)
            made = 0
        nodes.extend(members)
        sets.extend([reached] * len(members))
    charge(made)
    sizes = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
    starts = np.repeat(np.array(nodes, dtype=np.int64), sizes)
    ends = np.fromiter(chain.from_iterable(sets), dtype=np.int64, count=int(sizes.sum()))
    return Column(starts, sources.kind), Column(ends, sources.kind)


def _any_kind(edges: Relation, node: Closure) -> Kind:
    return edges.columns[node.ends[0]].kind


def _components(following: dict[int, list[int]]) -> Any:
    """(nodes of a strongly connected component, what they reach by one edge or more), those reached before those that reach.

    Tarjan's algorithm with an explicit stack. Nodes without edges are left out: they reach nothing.
    """
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    reaches: dict[int, set[int]] = {}
    waiting: list[int] = []
    for root, children in following.items():
        if root in number:
            continue
        number[root] = low[root] = len(number)
        waiting.append(root)
        work = [(root, iter(children))]
        while work:
            here, pending = work[-1]
            for child in pending:
                if child in number:
                    if child not in reaches and number[child] < low[here]:
                        low[here] = number[child]
                elif child in following:
                    number[child] = low[child] = len(number)
                    waiting.append(child)
                    work.append((child, iter(following[child])))
                    break
            else:
                work.pop()
                if work and low[here] < low[work[-1][0]]:
                    low[work[-1][0]] = low[here]
                if low[here] == number[here]:
                    at = waiting.index(here) if waiting[-1] != here else len(waiting) - 1
                    members = waiting[at:]
                    del waiting[at:]
                    reached: set[int] = set()
                    for member in members:
                        reached.update(following[member])
                    for child in tuple(reached):
                        further = reaches.get(child)
                        if further:
                            reached |= further
                    for member in members:
                        reaches[member] = reached
                    yield members, reached


def _under_terms(run: Run, node: Closure, starts: Column, others: Column) -> Relation:
    """The pairs as a relation: the call's terms may name columns, one variable twice, a constant, or nothing."""
    first, second = (starts, others) if node.bound != 1 else (others, starts)
    columns: dict[str, Column] = {}
    mask: Any = None
    exact = True
    for term, column in zip(node.terms, (first, second), strict=True):
        held = None
        if isinstance(term, Var):
            if term.name in columns:
                held = columns[term.name].codes == column.codes
            else:
                columns[term.name] = column
                exact = exact and term.name in node.variables
        elif isinstance(term, Const | Param):
            kind, code = run.operand(term)
            if kind is not column.kind:
                return empty(node.variables)
            held = column.codes == code
        else:
            exact = False
        if held is not None:
            mask = held if mask is None else mask & held
    relation = Relation(columns, first.codes.size, None)
    if mask is not None:
        relation = relation.keep(mask)
    relation = relation.only(node.variables)
    relation.key = frozenset(node.variables) if exact else None
    return relation
