"""Pull: maps of what entities hold, one index walk for each attribute and level, however many entities there are.

Place on the path: `Db.pull`, `pull_many` and the `(pull ...)` of a find spec; reads a snapshot directly, no planner, no engine.

How it goes, without recursion (a list of a million friends is a deep pattern):
1. a batch is a pattern and the tree nodes that want it; the first holds the entities asked for;
2. for each attribute of the pattern the values of all entities of the batch are fetched at once; references with a pattern
   of their own make child nodes, gathered into new batches;
3. when no batch is left, children are put into their parents, last made first, so that empty ones vanish on the way up.

Result keys are ":ns/name" strings; references without a pattern are {":db/id" eid}; components without a pattern are
expanded whole; an entity that was seen on the way down a recursion is {":db/id" eid}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import pull_flat
from datalog.errors import PullError, show
from datalog.limits import Budget
from datalog.pull_parser import ENDLESS, PullAttribute, PullPattern, parse_pattern
from store.datom import END_OF_EIDS
from store.value import Kind, decode_inline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WHOLE = PullPattern(wildcard=True, eid=":db/id", attributes=(), flat=False)


def pull(snapshot: Any, pattern: Any, eid: Any) -> dict[Any, Any] | None:
    """The attributes of an entity that a pattern names, as a dict; None when it has none of them.

    Args:
        snapshot: The read view.
        pattern: EDN text or the same as Python data.
        eid: An eid, ident or lookup ref.

    Raises:
        PullError: `pull/syntax`, `pull/unknown-attribute`.
    """
    found: dict[Any, Any] | None = pull_many(snapshot, pattern, [eid])[0]
    return found


def pull_many(snapshot: Any, pattern: Any, eids: Iterable[Any]) -> list[Any]:
    """`pull` of many entities, in their order; one index walk for each attribute and level of the pattern."""
    return pull_values(snapshot, parse_pattern(pattern, snapshot.schema), list(eids), Budget(None))


def pull_values(snapshot: Any, pattern: PullPattern, refs: Sequence[Any], budget: Budget) -> list[Any]:
    """`pull_many` with a parsed pattern, inside a budget."""
    eids: list[int | None]
    if set(map(type, refs)) == {int} and min(refs) > 0 and max(refs) < END_OF_EIDS:
        eids = present = list(refs)
    else:
        eids = [r if type(r) is int and 0 < r < END_OF_EIDS else _resolved(snapshot, r) for r in refs]
        present = [e for e in eids if e is not None]
    if pattern.flat:
        _charge(budget, pattern, len(present))
        if len(present) == len(eids):
            return (
                pull_flat.few(snapshot, pattern, present)
                if len(eids) <= pull_flat.FEW
                else pull_flat.many(snapshot, pattern, present)
            )
        made = iter(pull_flat.many(snapshot, pattern, present))
        return [None if e is None else next(made) for e in eids]
    puller = _Puller(snapshot, budget)
    roots = [None if e is None else _Node(e) for e in eids]
    puller.work(pattern, [r for r in roots if r is not None])
    return [None if r is None else puller.finished(r) for r in roots]


def _charge(budget: Budget, pattern: PullPattern, nodes: int) -> None:
    width = 60 + 12 * len(pattern.attributes)  # a node, its dict, a value for each attribute: kept to the end
    budget.charge(nodes, width)
    budget.hold(nodes * 8 * width)


def _resolved(snapshot: Any, ref: Any) -> int | None:
    if ref is None or isinstance(ref, bool | float):
        raise PullError(
            "pull/entity", f"{show(ref)} does not refer to an entity.", expected="an eid, ident or lookup ref"
        )
    found = snapshot.entid(ref)
    return None if found is None else int(found)


class _Node:
    """One map of the result while it is made: its entity, what it holds, and where each recursion stands."""

    __slots__ = ("depths", "eid", "family", "held", "real", "seen")

    def __init__(self, eid: int) -> None:
        self.eid = eid
        self.held: dict[Any, Any] = {}
        self.real = False  # holds something of the database, not only its id and defaults
        self.depths: dict[int, int] = {}
        self.seen: dict[int, set[int]] = {}
        self.family: set[int] | None = None  # the components expanded below one entity asked for, each once


class _Puller:
    """One pull: its snapshot, code space, and the batches that are left."""

    def __init__(self, snapshot: Any, budget: Budget) -> None:
        self.snapshot = snapshot
        self.budget = budget
        self.codes = snapshot.codes()
        self.batches: list[tuple[PullPattern, list[_Node]]] = []
        self.links: list[tuple[_Node, PullAttribute, list[_Node], bool]] = []  # parent, attribute, children, one value

    def work(self, pattern: PullPattern, roots: list[_Node]) -> None:
        """1. and 2.: all batches; then 3."""
        self.batches.append((pattern, roots))
        at = 0
        while at < len(self.batches):
            next_pattern, nodes = self.batches[at]
            at += 1
            self.batch(next_pattern, nodes)
        for parent, spec, children, single in reversed(self.links):
            values = [c.held for c in children if c.held]
            if values:
                self.put(parent, spec, values[0] if single else values)
            elif spec.has_default:
                parent.held[spec.key] = spec.default
            else:
                parent.held.pop(spec.key, None)

    def batch(self, pattern: PullPattern, nodes: list[_Node]) -> None:
        """2. Fetch every attribute of a pattern for the nodes of a batch."""
        if not nodes:
            return
        _charge(self.budget, pattern, len(nodes))
        if pattern.eid is not None:
            for node in nodes:
                node.held[pattern.eid] = node.eid
        eids = np.array(sorted({n.eid for n in nodes}), dtype=np.int64)
        if pattern.wildcard:
            self.everything(pattern, nodes, eids)
        for spec in pattern.attributes:
            if spec.attribute is None:
                values: dict[int, list[int]] = {}
            else:
                values = self.fetch(spec, eids)
            self.attribute(pattern, spec, nodes, values)

    def fetch(self, spec: PullAttribute, eids: Any) -> dict[int, list[int]]:
        """Eid -> codes of an attribute's values (of the entities that refer to it, for a reverse one), up to the limit."""
        read = self.snapshot.lookup if spec.reverse else self.snapshot.gather
        rows, codes = read(spec.attribute.aid, eids)[:2]
        self.budget.charge(int(rows.size), 2)
        return _grouped(eids[rows].tolist(), codes.tolist(), spec.limit)

    def everything(self, pattern: PullPattern, nodes: list[_Node], eids: Any) -> None:
        """The attributes that a wildcard adds to those named."""
        rows, aids, codes, _ = self.snapshot.entities(eids)
        self.budget.charge(int(rows.size), 20)
        self.budget.hold(int(rows.size) * 8 * 20)
        named = {s.ident for s in pattern.attributes if not s.reverse}
        by_aid: dict[int, tuple[list[int], list[int]]] = {}
        for eid, aid, code in zip(eids[rows].tolist(), aids.tolist(), codes.tolist(), strict=True):
            found = by_aid.setdefault(aid, ([], []))
            found[0].append(eid)
            found[1].append(code)
        for aid in sorted(by_aid):
            attribute = self.snapshot.schema.by_aid(aid)
            if attribute.ident in named:
                continue
            spec = PullAttribute(attribute.ident, attribute, reverse=False, key=attribute.ident)
            self.attribute(pattern, spec, nodes, _grouped(*by_aid[aid], spec.limit))

    def attribute(
        self, pattern: PullPattern, spec: PullAttribute, nodes: list[_Node], values: dict[int, list[int]]
    ) -> None:
        """Give each node its value of one attribute, or children to be pulled."""
        attribute = spec.attribute
        single = attribute is not None and (attribute.component if spec.reverse else not attribute.many)
        inner = spec.pattern
        if spec.depth is not None:
            inner = pattern
        elif inner is None and attribute is not None and attribute.component and not spec.reverse:
            inner = _WHOLE
        if attribute is not None and inner is not None and (spec.reverse or attribute.is_ref):
            self.children(spec, inner, nodes, values, single=single)
            return
        decoded = self.decoded(spec, values)
        for node in nodes:
            found = decoded.get(node.eid)
            if found is not None:
                self.put(node, spec, found[0] if single else list(found))
            elif spec.has_default:
                node.held[spec.key] = spec.default

    def decoded(self, spec: PullAttribute, values: dict[int, list[int]]) -> dict[int, list[Any]]:
        """The same with values: references as {":db/id" eid}."""
        attribute = spec.attribute
        if attribute is None or not values:
            return {}
        if spec.reverse or attribute.is_ref:
            return {e: [{":db/id": c} for c in codes] for e, codes in values.items()}
        flat = np.array([c for codes in values.values() for c in codes], dtype=np.int64)
        if attribute.kind is Kind.INTERNED:
            found = iter(self.codes.decode_many(flat))
        else:
            found = iter(decode_inline(attribute.kind, flat))
        return {e: [next(found) for _ in codes] for e, codes in values.items()}

    def children(
        self, spec: PullAttribute, inner: PullPattern, nodes: list[_Node], values: dict[int, list[int]], *, single: bool
    ) -> None:
        """Child nodes for the references of an attribute, gathered into one batch."""
        made: list[_Node] = []
        for node in nodes:
            eids = values.get(node.eid)
            depth = node.depths.get(id(spec), spec.depth) if spec.depth is not None else None
            if not eids or depth == 0:
                if spec.has_default and not eids:
                    node.held[spec.key] = spec.default
                continue
            node.held[spec.key] = None  # keeps the pattern's order of keys
            if inner is _WHOLE:
                children = [self.component(node, eid) for eid in eids]
            else:
                # a chain hands its set of seen entities on; a fork, or a second recursion, needs copies
                alone = len(eids) == 1 and sum(s.depth is not None for s in inner.attributes) == 1
                children = [self.child(spec, node, eid, depth, alone=alone) for eid in eids]
            self.links.append((node, spec, children, single))
            made.extend(c for c in children if not c.held)
        if made:
            self.batches.append((inner, made))

    @staticmethod
    def component(parent: _Node, eid: int) -> _Node:
        """The node of a component; one already expanded holds its id and is done, so that cycles and nets end."""
        if parent.family is None:
            parent.family = {parent.eid}
        node = _Node(eid)
        node.family = parent.family
        if eid in parent.family:
            node.held[":db/id"] = eid
        parent.family.add(eid)
        return node

    def child(self, spec: PullAttribute, parent: _Node, eid: int, depth: int | None, *, alone: bool) -> _Node:
        """The node of a referred entity; one already seen by this recursion holds its id and is done."""
        node = _Node(eid)
        if depth is None:
            return node
        key = id(spec)
        seen = parent.seen.get(key)
        if seen is None or not alone:
            seen = set(seen or ())
            self.budget.check()
            self.budget.hold(60 * (len(seen) + 1))
        seen.add(parent.eid)
        if eid in seen:
            node.held[":db/id"] = eid
            return node
        node.seen = {**parent.seen, key: seen}
        node.depths = {**parent.depths, key: depth if depth == ENDLESS else depth - 1}
        return node

    @staticmethod
    def put(node: _Node, spec: PullAttribute, value: Any) -> None:
        """Store a value under its key, through the attribute's :xform."""
        if spec.xform is not None:
            try:
                value = spec.xform(value)
            except Exception as error:
                raise PullError(
                    "pull/xform", f"The :xform of {spec.ident} failed for {show(value)}: {error}."
                ) from error
        node.held[spec.key] = value
        node.real = True

    def finished(self, node: _Node) -> dict[Any, Any] | None:
        """The map of an entity asked for; None when nothing of the pattern is there, or no such entity."""
        if not node.real and not len(self.snapshot.entity(node.eid).a):
            return None
        return node.held or None


def _grouped(keys: list[int], codes: list[int], limit: int | None) -> dict[int, list[int]]:
    """Key -> its codes, at most `limit` of them."""
    found: dict[int, list[int]] = {}
    for key, code in zip(keys, codes, strict=True):
        group = found.get(key)
        if group is None:
            found[key] = [code]
        elif limit is None or len(group) < limit:
            group.append(code)
    return found
