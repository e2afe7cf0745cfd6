"""Shapes of rules that have a better way than the general fixpoint: transitive closure of one relation.

Place on the path: rules.py asks when it checks a rule set, the planner makes a `plan.Closure` of what is found. Syntax only:

    (follows ?x ?y) <- E(?x, ?y)
    (follows ?x ?y) <- E(?x, ?t), (follows ?t ?y)      or  (follows ?x ?t), E(?t, ?y)      or  (follows ?x ?t), (follows ?t ?y)

where E stands for the same clauses both times, save for the names of variables. All three mean the same relation, E's
transitive closure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datalog.ast import RuleCall, Variable, iter_clauses
from datalog.record import Record
from store.edn import strict_equal

if TYPE_CHECKING:
    from datalog.ast import Branch, Clause


def closure_edges(name: str, branches: tuple[Branch, ...]) -> Branch | None:
    """The branch that gives E, when the rule is the transitive closure of it; None for every other rule."""
    if len(branches) != 2 or any(len(b.head) != 2 or b.required or b.best is not None for b in branches):
        return None
    plain = [b for b in branches if not _calls(name, b.clauses)]
    if len(plain) != 1:
        return None
    (edges,) = plain
    step = branches[1] if branches[0] is edges else branches[0]
    calls = [c for c in step.clauses if isinstance(c, RuleCall) and c.name == name]
    if len(calls) != _calls(name, step.clauses) or any(c.source != "$" for c in calls):
        return None
    pairs = [_names(c) for c in calls]
    start, end = (v.name for v in step.head)
    if start == end or edges.head[0].name == edges.head[1].name:
        return None
    rest = tuple(c for c in step.clauses if not any(c is found for found in calls))
    if len(calls) == 2:
        (a, b), (c, d) = pairs if pairs[0][0] == start else reversed(pairs)
        return edges if not rest and (a, d) == (start, end) and b == c and b not in (None, start, end) else None
    if len(calls) != 1:
        return None
    a, b = pairs[0]
    if a is None or b is None:
        return None
    if b == end and a not in (start, end):
        ends = (start, a)
    elif a == start and b not in (start, end):
        ends = (b, end)
    else:
        return None
    pairing = _Pairing()
    alike = (
        pairing.pair(edges.head[0].name, ends[0])
        and pairing.pair(edges.head[1].name, ends[1])
        and pairing.alike(edges.clauses, rest)
    )
    return edges if alike else None


def _calls(name: str, clauses: tuple[Clause, ...]) -> int:
    """How many calls of a rule there are in clauses, nested ones included."""
    return sum(isinstance(c, RuleCall) and c.name == name for c in iter_clauses(clauses))


def _names(call: RuleCall) -> tuple[str | None, str | None]:
    """The variables that a call of two arguments passes; None for a constant or blank."""
    a, b = (v.name if isinstance(v, Variable) else None for v in call.arguments)
    return a, b


class _Pairing:
    """Two forms compared up to a one-to-one renaming of variables."""

    def __init__(self) -> None:
        self._there: dict[str, str] = {}
        self._back: dict[str, str] = {}

    def pair(self, a: str, b: str) -> bool:
        """Whether the variable `a` may stand for `b`, from now on and nowhere else."""
        return self._there.setdefault(a, b) == b and self._back.setdefault(b, a) == a

    def alike(self, a: Any, b: Any) -> bool:
        """Whether two clauses, terms or tuples of them are the same."""
        if type(a) is not type(b):
            return False
        if isinstance(a, Variable):
            return self.pair(a.name, b.name)
        if isinstance(a, Record):
            return all(self.alike(getattr(a, f, None), getattr(b, f, None)) for f in a._fields if f != "at")
        if isinstance(a, tuple):
            return len(a) == len(b) and all(map(self.alike, a, b))
        return strict_equal(a, b)
