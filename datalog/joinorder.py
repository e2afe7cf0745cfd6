"""The order of a conjunction: which atom runs next, by what it costs and how many rows it leaves.

Place on the path: the last pass of the planner over atoms (planner.py, `PASSES`), before nodes are made of them. Sizes and
distinct counts come from cost.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from datalog.ast import BindCollection, BindTuple
from datalog.cost import SELECTIVITY, Size, State, joined
from datalog.lower import Atom, unbound_error
from datalog.plan import Scan, Var

if TYPE_CHECKING:
    from datalog.ast import Binding
    from datalog.cost import Sizes

_REDUCERS = ("filter", "not")
_MOST_STARTS = 8  # first atoms tried
_MOST_LOOKS = 2_000  # estimates of a search through all orders: some 10 ms
_CLEARLY = 0.8  # estimates are what they are: an order that is hardly cheaper is no reason to leave the other
_STAR_WORK = 0.25  # of a probe: a star alone is filled by gathering whole columns, in order


class _Reached(NamedTuple):
    """The cheapest way found to have run a set of atoms: what it costs, what it gives, its order."""

    cost: float
    rows: float
    distinct: dict[str, float]
    order: list[Atom]


class JoinOrder:
    """Orders atoms; the planner is one. A base and not a part of it, as two objects that know each other outlive their use."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def fanout(self, atom: Atom, bound: frozenset[str]) -> float:
        """Rows of an `or` or a rule for one binding of the variables that are bound."""
        raise NotImplementedError

    def arrange(self, atoms: list[Atom], start: State) -> list[Atom]:
        """The atoms in the order of the cheapest plan found: greedy from each possible first atom, then all orders against it."""
        makers = [a for a in atoms if a.kind not in _REDUCERS]
        if len(makers) <= 1:
            return self.greedy(atoms, start, None, [])[1]
        stars = self.stars(atoms)
        bound = set(start.distinct)
        firsts = [a for a in makers if a.needs <= bound]
        if start.distinct or start.rows != 1.0:
            firsts = [a for a in firsts if a.seen & bound] or firsts
        most = _MOST_STARTS if len(makers) <= 30 else 1
        if len(firsts) > most:
            firsts = sorted(firsts, key=lambda a: self.estimate(a, start)[1])[:most]
        best: tuple[float, list[Atom]] | None = None
        choices: list[Atom | None] = [*firsts] or [None]
        for first in choices:
            cost, order = self.greedy(atoms, start, first, stars)
            if best is None or cost < best[0]:
                best = cost, order
        assert best is not None
        order = self.with_late_lookups(best[1], start) if len(best[1]) > 3 else best[1]
        return self.cheapest(atoms, start, order, stars) if len(makers) > 2 else order

    def cheapest(self, atoms: list[Atom], start: State, found: list[Atom], stars: list[Atom]) -> list[Atom]:
        """The cheapest of all orders where it is clearly cheaper than the one found, else that one.

        Dynamic programming over sets of atoms, as System R does it: of all orders of a set only the cheapest is gone on from. A
        set that costs as much as the whole order found is dropped, so that little is looked at where greed did well. Steps
        that share no variable with what is bound are left to those sets that have no others.
        """
        units = [a for a in atoms if a.kind not in _REDUCERS]
        bits = {id(a): 1 << i for i, a in enumerate(units)}
        sets = [(a, bits[id(a)]) for a in units] + [(s, sum(bits[id(p)] for p in s.parts)) for s in stars]
        most = self.cost_of(found, start) * _CLEARLY
        first = _Reached(0.0, start.rows, dict(start.distinct), [])
        by_size: list[dict[int, _Reached]] = [{} for _ in range(len(units) + 1)]
        by_size[0][0] = self.reduced(first, atoms)
        looks = 0
        for done in by_size[:-1]:
            for mask, here in done.items():
                state = State(rows=here.rows, distinct=here.distinct)
                able = [(a, b) for a, b in sets if not b & mask and a.needs <= here.distinct.keys()]
                joined_ones = [(a, b) for a, b in able if not a.seen.isdisjoint(here.distinct)]
                for atom, bit in joined_ones or able:
                    looks += 1
                    if looks > _MOST_LOOKS:
                        return found
                    work, rows, distinct = self.estimate(atom, state)
                    cost = here.cost + work + rows
                    following = by_size[(mask | bit).bit_count()]
                    known = following.get(mask | bit)
                    if cost < most and (known is None or cost < known.cost):
                        reached = _Reached(cost, rows, distinct, [*here.order, atom])
                        following[mask | bit] = self.reduced(reached, atoms)
        whole = by_size[-1].get((1 << len(units)) - 1)
        return found if whole is None else whole.order

    def reduced(self, here: _Reached, atoms: list[Atom]) -> _Reached:
        """The same after the filters and anti-joins that can run now."""
        for atom in atoms:
            if atom.kind in _REDUCERS and atom.needs <= here.distinct.keys() and atom not in here.order:
                work, rows, distinct = self.estimate(atom, State(rows=here.rows, distinct=here.distinct))
                here = _Reached(here.cost + work + rows, rows, distinct, [*here.order, atom])
        return here

    def with_late_lookups(self, order: list[Atom], start: State) -> list[Atom]:
        """The order with patterns that only fetch a value for the answer put last, where that costs less.

        The next step is always the cheapest one, and such a pattern is cheap: it would be asked for rows that a later join drops.
        """
        cost = self.cost_of(order, start)
        for atom in [a for a in order if a.kind == "scan"]:
            at = order.index(atom)
            before = frozenset(start.distinct).union(*(a.gives for a in order[:at]))
            later = order[at + 1 :]
            new = atom.gives - before
            if at == 0 or not later or atom.gives <= before or any(new & a.seen for a in later):
                continue
            moved = [*order[:at], *later, atom]
            found = self.cost_of(moved, start)
            if found < cost:
                order, cost = moved, found
        return order

    def cost_of(self, order: list[Atom], start: State) -> float:
        """What an order costs, as `greedy` counts it."""
        state = State(rows=start.rows, distinct=dict(start.distinct))
        total = 0.0
        for atom in order:
            work, state.rows, state.distinct = self.estimate(atom, state)
            total += work + state.rows
        return total

    def greedy(
        self, atoms: list[Atom], start: State, first: Atom | None, stars: list[Atom]
    ) -> tuple[float, list[Atom]]:
        """(cost, order): the cheapest next atom again and again, filters and anti-joins as soon as they can run."""
        state = State(rows=start.rows, distinct=dict(start.distinct))
        left = list(atoms)
        order: list[Atom] = []
        total = 0.0
        while left:
            best: tuple[float, float, dict[str, float], Atom] | None = None
            for atom in left:
                if atom.needs and not all(n in state.distinct for n in atom.needs):
                    continue
                if first is not None and not order and atom is not first and atom.kind not in _REDUCERS:
                    continue
                cost, rows, distinct = self.estimate(atom, state)
                rank = -1.0 / (1.0 + cost) if atom.kind in _REDUCERS else cost + rows
                if best is None or rank < best[0]:
                    best = rank, cost + rows, distinct, atom
                    found_rows = rows
            if order and first is None and stars:
                best, found_rows = self.best_star(stars, left, state, best, found_rows if best else 0.0)
            if best is None:
                stuck = left[0]
                missing = sorted(stuck.needs - set(state.distinct))
                raise unbound_error(missing, sorted(state.distinct), stuck)
            atom = best[3]
            left = [a for a in left if a is not atom and a not in atom.parts]
            order.append(atom)
            if atom.kind not in _REDUCERS:
                first = None
            total += best[1]
            state.rows, state.distinct = found_rows, best[2]
        return total, order

    def stars(self, atoms: list[Atom]) -> list[Atom]:
        """Patterns on one entity variable as units of their own, so that two stars can be joined whole.

        A chain of index probes meets two selective stars only through all rows in between; joining the finished stars on
        everything they share does not.
        """
        by_entity: dict[str, list[Atom]] = {}
        for atom in atoms:
            node = atom.node
            if isinstance(node, Scan) and isinstance(node.entity, Var) and isinstance(node.attribute, int):
                by_entity.setdefault(node.entity.name, []).append(atom)
        found: list[Atom] = []
        for parts in by_entity.values():
            if 2 <= len(parts) < len(atoms):
                gives = frozenset().union(*(p.gives for p in parts))
                found.append(Atom("star", frozenset(), gives, parts[0].text, parts[0].at, parts=tuple(parts)))
        return found if len(found) > 1 or (found and len(atoms) > len(found[0].parts) + 1) else []

    def star_size(self, star: Atom) -> tuple[float, Size]:
        """(work, size) of a star on its own."""
        if star.size is None:
            work, order = self.greedy(list(star.parts), State(), None, [])
            state = State()
            for atom in order:
                _, state.rows, state.distinct = self.estimate(atom, state)
            star.size = work, Size(state.rows, state.distinct)
        found: tuple[float, Size] = star.size
        return found

    def best_star(
        self, stars: list[Atom], left: list[Atom], state: State, best: Any, best_rows: float
    ) -> tuple[Any, float]:
        """The better of the best atom and the best star that is still whole and touches what is bound."""
        for star in stars:
            if not all(p in left for p in star.parts) or not any(v in state.distinct for v in star.gives):
                continue
            cost, rows, distinct = self.estimate(star, state)
            if best is None or cost + rows < best[0]:
                best, best_rows = (cost + rows, cost + rows, distinct, star), rows
        return best, best_rows

    def estimate(self, atom: Atom, state: State) -> tuple[float, float, dict[str, float]]:
        """(work, rows, distinct values) of running an atom after a state."""
        rows = state.rows
        if atom.kind in ("scan", "tuples", "input", "derived"):
            size = self.sizes.leaf(atom)
            after, distinct = joined(state, size)
            connected = any(v in state.distinct for v in size.distinct) or not size.distinct
            work = min(rows, size.rows) + 1.0 if connected else size.rows
            return work, after, distinct
        if atom.kind == "star":
            work, size = self.star_size(atom)
            after, distinct = joined(state, size)
            return work * _STAR_WORK + size.rows * 0.5 + rows * 0.5, after, distinct
        if atom.kind == "filter":
            assert atom.call is not None
            after = rows * SELECTIVITY.get(atom.call.name, 0.5)
            return 1.0, max(after, 0.01), state.distinct
        if atom.kind == "not":
            after = rows * 0.7
            return rows, max(after, 0.01), state.distinct
        if atom.kind == "extend":
            after = rows * (5.0 if has_collection(atom.binding) else 1.0)
            return rows, after, {**state.distinct, **dict.fromkeys(atom.gives - state.distinct.keys(), max(after, 1.0))}
        bound = frozenset(v for v in atom.seen if v in state.distinct)
        after = max(rows * self.fanout(atom, bound), 0.01)
        new = dict.fromkeys(atom.gives - state.distinct.keys(), max(after, 0.1))
        return min(rows, 1e6) + after, after, {**state.distinct, **new}


def has_collection(binding: Binding | None) -> bool:
    """Whether a binding takes a collection apart, so that one row becomes several."""
    if isinstance(binding, BindTuple):
        return any(map(has_collection, binding.items))
    return isinstance(binding, BindCollection)
