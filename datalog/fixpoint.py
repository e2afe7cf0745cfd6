"""Fixpoint: the semi-naive loop over recursive rules. Takes the evaluator of bodies as an argument.

Place on the path: the engine calls `run_fixpoint` for a `plan.Fixpoint`; bodies reach back through `plan.Derived`. What a
predicate keeps of its rows, and which of them are new in a round, is predicate.py's and best.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datalog.best import BestPredicate
from datalog.errors import QueryError
from datalog.plan import Const, Derived, Fixpoint, Param, Var
from datalog.predicate import Predicate
from datalog.relation import EMPTY, Column, Relation, empty, same_kind
from datalog.scan import join_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Best, Node


class Predicates:
    """All predicates of one fixpoint while it runs."""

    __slots__ = ("found",)

    def __init__(self, widths: tuple[tuple[str, int], ...], best: tuple[Best, ...] = ()) -> None:
        self.found = {name: Predicate(width) for name, width in widths}
        for b in best:
            self.found[b.predicate] = BestPredicate(self.found[b.predicate].width, b.position, greatest=b.greatest)

    def rows(self, run: Run, node: Derived | Fixpoint, name: str | None = None, *, delta: bool = False) -> Relation:
        """The rows of a predicate under terms, as a relation."""
        if isinstance(node, Derived):
            name, delta = node.predicate, node.delta
        assert name is not None
        predicate = self.found[name]
        length = predicate.size(delta=delta)
        if not length:
            return empty(node.variables)
        columns: dict[str, Column] = {}
        mask: Any = None
        exact = True
        for i, term in enumerate(node.terms):
            column = predicate.column(i, delta=delta)
            held = None
            if isinstance(term, Var):
                if term.name in columns:
                    held = _agree(run, columns[term.name], column)
                else:
                    columns[term.name] = column
                    exact = exact and term.name in node.variables
            elif term is not None:
                held = _is(run, term, column)
            else:
                exact = False
            if held is not None:
                mask = held if mask is None else mask & held
        relation = Relation(columns, length, None)
        if mask is not None:
            relation = relation.keep(mask)
        relation = relation.only(node.variables)
        relation.key = frozenset(node.variables) if exact else None
        return relation

    def probe(self, run: Run, left: Relation, node: Derived) -> Any:
        """The join of a relation with a predicate: rows of `left`, new columns, what they add to its key."""
        predicate = self.found[node.predicate]
        shared = [i for i, t in enumerate(node.terms) if isinstance(t, Var) and t.name in left.columns]
        if node.delta or not shared or not predicate.length or left.length * 4 > predicate.length:
            return join_with(run, left, self.rows(run, node))
        first = shared[0]
        term = node.terms[first]
        assert isinstance(term, Var)
        pair = same_kind(left.columns[term.name], Column(EMPTY, predicate.kinds[first]), run.codes)
        if pair is None or pair[0].kind is not predicate.kinds[first]:
            return join_with(run, left, self.rows(run, node))
        lefts, rights = predicate.index(first).find(pair[0].codes, run.charge(len(left.columns) + predicate.width))
        mask: Any = None
        columns: dict[str, Column] = {}
        for i, other in enumerate(node.terms):
            if i == first or other is None:
                continue
            column = Column(predicate.columns[i][rights], predicate.kinds[i])
            held = None
            if not isinstance(other, Var):
                held = _is(run, other, column)
            elif other.name in left.columns:
                held = _agree(run, left.columns[other.name].take(lefts), column)
            elif other.name in columns:
                held = _agree(run, columns[other.name], column)
            else:
                columns[other.name] = column
            if held is not None:
                mask = held if mask is None else mask & held
        if mask is not None and not bool(mask.all()):
            kept = np.flatnonzero(mask)
            lefts = lefts[kept]
            columns = {n: c.take(kept) for n, c in columns.items()}
        adds = None if any(t is None for t in node.terms) else frozenset(columns)
        return lefts, columns, adds


def _agree(run: Run, a: Column, b: Column) -> NDArray[np.bool_]:
    pair = same_kind(a, b, run.codes)
    return np.zeros(b.codes.size, dtype=np.bool_) if pair is None else pair[0].codes == pair[1].codes


def _is(run: Run, term: Const | Param, column: Column) -> NDArray[np.bool_]:
    kind, code = run.operand(term)
    return _agree(run, Column(np.full(column.codes.size, code, dtype=np.int64), kind), column)


def run_fixpoint(run: Run, node: Fixpoint, evaluate: Callable[[Run, Node], Relation]) -> Relation:
    """The rows of the wanted predicate in the least fixpoint of the rules."""
    predicates = Predicates(node.predicates, node.best)
    rounds = 0
    run.derived[node.key] = predicates
    outer = run.round_memo
    try:
        drivers: set[str] | None = None
        while True:
            run.round_memo = {}
            run.budget.check()
            for rule in node.rules:
                if (rule.driver in drivers) if drivers is not None else (rule.driver is None):
                    _derive(run, predicates, rule, evaluate(run, rule.body))
            drivers = {name for name, p in predicates.found.items() if p.advance(run.budget, run.codes)}
            if not drivers:
                break
            rounds += 1
            if node.additive and rounds > sum(p.length for p in predicates.found.values()) + 1:
                raise _endless(node)
    finally:
        run.round_memo = outer
    return predicates.rows(run, node, node.result)


def _derive(run: Run, predicates: Predicates, rule: Any, relation: Relation) -> None:
    """1. The rows that a body gave become pending rows of its predicate."""
    if not relation.length:
        return
    columns: list[Column] = []
    for term in rule.head:
        if isinstance(term, Var):
            columns.append(relation.columns[term.name])
        else:
            kind, code = run.operand(term)
            columns.append(Column(np.full(relation.length, code, dtype=np.int64), kind))
    predicates.found[rule.predicate].add(columns)


def _endless(node: Fixpoint) -> QueryError:
    """The error for sums that get better for ever.

    A row of round n comes from a chain of n rows, each new or better in its round. A chain longer than there are rows comes
    twice through one group, which then made itself better by a sum: it will again, every time round.
    """
    name, worse = ("maximum", "larger") if node.best[0].greatest else ("minimum", "smaller")
    return QueryError(
        "query/endless-aggregate",
        f"The {name} in {node.label} has no end: a cycle makes it {worse} every time round.",
        hint="leave out the weights that make it so, with a clause such as [(>= ?w 0)], or count the steps and bound them",
    )
