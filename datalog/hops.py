"""Hops: one step of a closure as a walk over direct-address tables, when the step is a chain of plain patterns.

Place on the path: closure.py asks for the hops of a step; what is no such chain (a predicate, a negation, another database's
codes, keys too far apart) is run as a plan. `[?x :advised ?d] [?d :by ?y]` is two hops. A few nodes are followed by a dictionary
that notes where each leads (0.1 us a node, 2 the first time), many at once with arrays (25 us a level).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import kernels
from datalog.plan import Derived, Join, Scan, Var
from store.columns import expand
from store.places import walk_of
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Closure, Node
    from store.places import Places

    Array = NDArray[np.int64]

_FEW = 128  # nodes of a frontier up to which Python is faster than arrays
_WIDEST = 1 << 26  # the longest bitmap of reached nodes


def hops_of(run: Run, node: Closure, kind: Kind) -> list[Places] | None:
    """The tables that lead from a node to the next ones, in order; None when the step is no chain of plain patterns."""
    steps: list[Scan] = []
    inner: Node = node.edges
    while isinstance(inner, Join):
        if not isinstance(inner.right, Scan):
            return None
        steps.append(inner.right)
        inner = inner.left
    if not isinstance(inner, Derived) or not steps:
        return None
    found: list[Places] = []
    started = kind
    here = inner.variables[0]
    last = node.ends[1]
    for scan in reversed(steps):
        view = run.view(scan.source)
        plain = (
            isinstance(scan.attribute, int)
            and isinstance(scan.entity, Var)
            and isinstance(scan.value, Var)
            and scan.tx is None
            and scan.added is None
            and not scan.bounds
            and view.snapshot is not None
            and not view.foreign
            and hasattr(view.snapshot, "places")
        )
        if not plain:
            return None
        assert isinstance(scan.entity, Var)
        assert isinstance(scan.value, Var)
        assert isinstance(scan.attribute, int)
        attribute = view.snapshot.schema.by_aid(scan.attribute)
        if scan.entity.name == here and kind is Kind.LONG and scan.value.name != here:
            order, here, kind = "aevt", scan.value.name, attribute.kind
        elif scan.value.name == here and attribute.kind is kind and scan.entity.name != here:
            order, here, kind = "avet", scan.entity.name, Kind.LONG
        else:
            return None
        places = view.snapshot.places(attribute.aid, order)
        if places is None:
            return None
        found.append(places)
    return found if here == last and kind is started else None


def reach(run: Run, hops: list[Places], start: int) -> Array | None:
    """The distinct nodes reached from a node by one step or more; None when they lie too far apart for a bitmap."""
    charge = run.charge(2)
    follow = walk_of(hops).__getitem__
    seen: set[int] = set()
    here = [start]
    while here and len(here) <= _FEW:
        new = set(chain.from_iterable(map(follow, here)))
        new -= seen
        seen |= new
        charge(len(new))
        here = list(new)
    reached = np.fromiter(seen, dtype=np.int64, count=len(seen))
    if not here:
        reached.sort()  # neighbours have neighbouring names
        return reached
    last = hops[-1]
    low, span = last.least, last.most - last.least + 1  # all that can be reached
    if span > _WIDEST:
        return None
    known = np.zeros(span, dtype=np.bool_)
    known[reached - low] = True
    parts = [reached]
    nodes = np.array(here, dtype=np.int64)
    while nodes.size:
        for hop in hops:
            nodes = _follow(hop, nodes, charge)
        offset = nodes - low
        offset = offset[~known[offset]]
        known[offset] = True
        nodes = kernels.distinct_sorted(offset) + low
        parts.append(nodes)
    return np.concatenate(parts)


def _follow(hop: Places, nodes: Array, charge: Callable[[int], None]) -> Array:
    """All that nodes lead to, with repetitions."""
    at = nodes - hop.low
    span = len(hop.starts) - 1
    if at.size and (int(at.min()) < 0 or int(at.max()) >= span):
        at = at[(at >= 0) & (at < span)]
    if hop.each_once:
        charge(at.size)
        return hop.others[at]
    first: Any = hop.starts[at]
    count = hop.starts[at + 1] - first
    charge(int(count.sum()))
    found: Array = hop.others[expand(first, count)]
    return found
