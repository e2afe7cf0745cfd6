"""Closure: the transitive closure of one relation, as a search from the nodes asked for or from all of them.

Place on the path: the engine calls `run_closure` for a `plan.Closure`. The general fixpoint keeps pairs of codes, makes them
distinct in each round and joins them again; a search keeps a set of nodes for each start.

    bound to one value       when a step is a chain of patterns: level by level over direct-address tables (hops.py)
    bound to some values     (start, node) pairs, level by level; a step's plan is run once for each distinct node
    not bound, few edges     a depth-first walk over strongly connected components; each shares one Python set
    not bound, many edges    the general fixpoint, which is columnar; so, too, when those sets grow large

Values of several kinds, and starts of another kind than the edges, are left to the general fixpoint, too.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from datalog import kernels
from datalog.hops import hops_of, reach
from datalog.plan import Const, Param, Var
from datalog.predicate import Predicate
from datalog.relation import EMPTY, Column, Relation, empty
from datalog.scan import join_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Closure, Derived, Node

    Array = NDArray[np.int64]
    Evaluate = Callable[[Run, Node], Relation]

MOST_WALKED = 1 << 15  # edges up to which the walk in Python beats the columnar fixpoint
MOST_HELD = 1 << 21  # members of all its sets at which it gives up: a set takes four times the memory of a column
_CHARGED_AT = 1 << 12  # pairs between two looks at clock and limits


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
        pairs = _from_some(run, node, starts, evaluate)
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


def _from_some(run: Run, node: Closure, starts: Column, evaluate: Evaluate) -> tuple[Column, Column] | None:
    """What some values reach: by hops from one, else (start, node) pairs level by level, a step once for each distinct node."""
    kind = starts.kind
    if starts.codes.size == 1:
        hops = hops_of(run, node, kind)
        ends = None if hops is None else reach(run, hops, int(starts.codes[0]))
        if ends is not None:
            return Column(np.full(ends.size, starts.codes[0], dtype=np.int64), kind), Column(ends, kind)
    reached = Predicate(2)
    origin, here = starts.codes, starts.codes
    while here.size:
        run.budget.check()
        run.round_memo = {}
        run.derived[node.key] = Frontier(Column(kernels.distinct_sorted(here), kind))  # type: ignore[assignment]
        step = evaluate(run, node.edges)
        if not step.length:
            break
        sources, targets = step.columns[node.ends[0]], step.columns[node.ends[1]]
        if sources.kind is not kind or targets.kind is not kind:
            return None
        lefts, rights = kernels.join(here, sources.codes, run.charge(2))
        reached.add([Column(origin[lefts], kind), targets.take(rights)])
        reached.advance(run.budget, run.codes)
        origin, here = (reached.column(i, delta=True).codes for i in (0, 1))
    if not reached.size(delta=False):
        return Column(EMPTY, kind), Column(EMPTY, kind)
    return reached.column(0, delta=False), reached.column(1, delta=False)


def _from_all(run: Run, node: Closure, evaluate: Evaluate) -> tuple[Column, Column] | None:
    """The whole closure by a walk, when there are few edges of one kind."""
    edges = evaluate(run, node.edges)
    sources, targets = edges.columns[node.ends[0]], edges.columns[node.ends[1]]
    if edges.length > MOST_WALKED or sources.kind is not targets.kind:
        return None
    following: dict[int, list[int]] = {}
    for a, b in zip(sources.codes.tolist(), targets.codes.tolist(), strict=True):
        following.setdefault(a, []).append(b)
    charge = run.charge(2)
    nodes: list[int] = []
    sets: list[set[int]] = []
    held = uncharged = 0
    for members, reached in _components(following):
        held += len(reached)
        uncharged += len(members) * len(reached) + 1
        if uncharged > _CHARGED_AT:
            charge(uncharged)
            uncharged = 0
        if held > MOST_HELD:
            return None
        nodes.extend(members)
        sets.extend([reached] * len(members))
    charge(uncharged)
    sizes = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
    starts = np.repeat(np.array(nodes, dtype=np.int64), sizes)
    ends = np.fromiter(chain.from_iterable(sets), dtype=np.int64, count=int(sizes.sum()))
    return Column(starts, sources.kind), Column(ends, sources.kind)


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
                    members = [waiting.pop()]
                    while members[-1] != here:
                        members.append(waiting.pop())
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
