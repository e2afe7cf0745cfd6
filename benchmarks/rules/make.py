"""Seeded graphs and a genealogy of 250,000 dissertations; every graph has an edge attribute of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from workload import Query, Table, Workload

REF = {":db/valueType": ":db.type/ref"}
REFS = {**REF, ":db/cardinality": ":db.cardinality/many"}
STRING = {":db/valueType": ":db.type/string"}
LONG = {":db/valueType": ":db.type/long"}
TREES = [(3, 6), (7, 3), (4, 6), (5, 7)]  # depth, width: every node has `width` children
CHAINS = [(10, 3), (30, 3), (30, 5)]  # depth, width: so many chains of so many edges


def tree(depth: int, width: int) -> tuple[Any, Any]:
    """Edges (parent, child), numbered from 1 breadth first."""
    parents, children, level, following = [], [], [1], 2
    for _ in range(depth):
        below = []
        for parent in level:
            for _ in range(width):
                parents.append(parent)
                children.append(following)
                below.append(following)
                following += 1
        level = below
    return np.array(parents), np.array(children)


def chains(depth: int, width: int) -> tuple[Any, Any]:
    """Edges of disjoint chains."""
    starts = np.arange(width) * (depth + 1) + 1
    a = (starts[:, None] + np.arange(depth)).ravel()
    return a, a + 1


def make(scale: float = 1.0) -> Workload:
    """The workload."""
    r = np.random.default_rng(41)
    made = Workload("rules", {}, {}, [], [])
    schema, columns, tables, queries = made.schema, made.columns, made.tables, made.queries
    offset = 0

    def edges(name: str, pair: tuple[Any, Any]) -> int:
        nonlocal offset
        a, b = pair[0].astype(np.int64) + offset, pair[1].astype(np.int64) + offset
        before = offset
        offset = max(int(a.max()), int(b.max()))
        schema[f":{name}"] = REFS
        columns[f":{name}"] = (a, b)
        tables.append(
            Table(
                name.replace("-", "_"),
                {"a": ("integer", a.tolist()), "b": ("integer", b.tolist())},
                ("a", "b"),
                ("b, a",),
            )
        )
        return before

    def closure(name: str) -> None:
        t = name.replace("-", "_")
        queries.append(
            Query(
                f"closure {name}",
                "[:find ?x ?y :in $ % :where (follows ?x ?y)]",
                f"with recursive f(a, b) as (select a, b from {t} union select f.a, t.b from f join {t} t on t.a = f.b) select a, b from f",
                rules=f"[[(follows ?x ?y) [?x :{name} ?y]] [(follows ?x ?y) [?x :{name} ?t] (follows ?t ?y)]]",
                peers={"cozo": f"f[a, b] := *{t}{{a, b}}\nf[a, b] := f[a, t], *{t}{{a: t, b}}\n?[a, b] := f[a, b]"},
            )
        )

    for depth, width in TREES:
        edges(f"wide-{depth}x{width}", tree(depth, width))
        closure(f"wide-{depth}x{width}")
    for depth, width in CHAINS:
        edges(f"long-{depth}x{width}", chains(depth, width))
        closure(f"long-{depth}x{width}")

    # a random recursive tree of 10^5 edges: 1.1 million pairs in its closure
    n = max(200, int(100_000 * scale))
    child = np.arange(2, n + 1)
    parent = (r.random(n - 1) * (child - 1)).astype(np.int64) + 1
    base = edges("graph", (parent, child))
    closure("graph")
    sizes = np.ones(n + 1, dtype=np.int64)
    for c, p in zip(child[::-1].tolist(), parent[::-1].tolist(), strict=True):
        sizes[p] += sizes[c]
    source = base + int(np.argmin(np.abs(sizes[1:] - 0.4 * n))) + 1
    rule = "[[(follows ?x ?y) [?x :graph ?y]] [(follows ?x ?y) [?x :graph ?t] (follows ?t ?y)]]"
    queries += [
        Query(
            "closure from one source",
            "[:find ?y :in $ % ?x :where (follows ?x ?y)]",
            "with recursive f(b) as (select b from graph where a = ? union select g.b from f join graph g on g.a = f.b) select b from f",
            inputs=(source,),
            rules=rule,
            peers={"cozo": "f[b] := *graph{a: $p0, b}\nf[b] := f[t], *graph{a: t, b}\n?[b] := f[b]"},
        ),
        Query(
            "closure to one target",
            "[:find ?x :in $ % ?y :where (follows ?x ?y)]",
            "with recursive f(a) as (select a from graph where b = ? union select g.a from f join graph g on g.b = f.a) select a from f",
            inputs=(base + n,),
            rules=rule,
        ),
        Query(
            "non-linear closure",
            "[:find ?x ?y :in $ % :where (follows ?x ?y)]",
            "with recursive f(a, b) as (select a, b from wide_5x7 union select f.a, t.b from f join wide_5x7 t on t.a = f.b) select a, b from f",
            rules="[[(follows ?x ?y) [?x :wide-5x7 ?y]] [(follows ?x ?y) (follows ?x ?t) (follows ?t ?y)]]",
        ),
        Query(
            "mutual recursion",
            "[:find ?x ?y :in $ % :where (odd ?x ?y)]",
            """with recursive f(a, b, parity) as (select a, b, 1 from wide_5x7
               union select f.a, t.b, 1 - f.parity from f join wide_5x7 t on t.a = f.b) select a, b from f where parity = 1""",
            rules="""[[(odd ?x ?y) [?x :wide-5x7 ?y]] [(odd ?x ?y) [?x :wide-5x7 ?t] (even ?t ?y)]
                      [(even ?x ?y) [?x :wide-5x7 ?t] (odd ?t ?y)]]""",
        ),
    ]
    # same generation: pairs of nodes as far below a common ancestor
    edges("family", tree(6, 3))
    queries.append(
        Query(
            "same generation",
            "[:find ?x ?y :in $ % :where (same ?x ?y)]",
            """with recursive s(x, y) as (
                 select l.b, r.b from family l join family r on r.a = l.a where l.b <> r.b
                 union select l.b, r.b from s join family l on l.a = s.x join family r on r.a = s.y) select x, y from s""",
            rules="""[[(same ?x ?y) [?p :family ?x] [?p :family ?y] [(!= ?x ?y)]]
                      [(same ?x ?y) [?p :family ?x] (same ?p ?q) [?q :family ?y]]]""",
            peers={
                "cozo": """s[x, y] := *family{a: p, b: x}, *family{a: p, b: y}, x != y
                           s[x, y] := s[p, q], *family{a: p, b: x}, *family{a: q, b: y}
                           ?[x, y] := s[x, y]"""
            },
        )
    )
    _roads(made, r, offset, max(3, int(20 * scale)))
    offset += 20_000
    _genealogy(made, r, offset, max(300, int(250_000 * scale)))
    return made


def _roads(made: Workload, r: Any, offset: int, layers: int) -> None:
    """Roads with lengths between layers of 100 places, five from each: least distances from one place."""
    places = np.arange(layers * 100).reshape(layers, 100) + 1 + offset
    start = np.repeat(places[:-1], 5)
    end = (places[1:, r.integers(0, 100, 500)]).ravel()
    start, end = _distinct(start, end)
    length = r.integers(1, 10, len(start))
    road = np.arange(len(start)) + int(places[-1, -1]) + 1
    made.schema.update({":road/from": REF, ":road/to": REF, ":road/length": LONG})
    made.columns.update({":road/from": (road, start), ":road/to": (road, end), ":road/length": (road, length)})
    made.tables.append(
        Table(
            "road",
            {"a": ("integer", start.tolist()), "b": ("integer", end.tolist()), "length": ("integer", length.tolist())},
            ("a", "b"),
        )
    )
    made.queries.append(
        Query(
            "least distances",
            "[:find ?y ?d :in $ % ?x :where (far ?x ?y ?d)]",
            """with recursive far(b, d) as (select b, length from road where a = ?
                 union select road.b, far.d + road.length from far join road on road.a = far.b)
               select b, min(d) from far group by b""",
            inputs=(int(places[0, 7]),),
            rules="""[[(far ?x ?y (min ?d)) [?r :road/from ?x] [?r :road/to ?y] [?r :road/length ?d]]
                      [(far ?x ?y (min ?d)) (far ?x ?z ?c) [?r :road/from ?z] [?r :road/to ?y] [?r :road/length ?l] [(+ ?c ?l) ?d]]]""",
        )
    )


def _distinct(a: Any, b: Any) -> tuple[Any, Any]:
    """The distinct pairs."""
    packed = np.unique(a.astype(np.int64) << 32 | b)
    return packed >> 32, packed & ((1 << 32) - 1)


def _genealogy(made: Workload, r: Any, offset: int, n: int) -> None:
    """One dissertation for each person, with one or two advisors among the older ones, near in time."""
    person = np.arange(1, n + 1) + offset
    thesis = person + n
    names = [f"Scholar {i}" for i in range(n)]
    univ = [f"University {i}" for i in np.minimum(r.geometric(0.01, n), 600).tolist()]
    area = [f"Area {i}" for i in np.minimum(r.geometric(0.08, n), 63).tolist()]
    year = np.sort(1700 + (324 * np.sqrt(r.random(n))).astype(np.int64))
    back = np.minimum(1 + r.exponential(n / 25, (2, n)).astype(np.int64), np.arange(n))
    first = np.flatnonzero(back[0] > 0)
    second = np.flatnonzero((back[1] > 0) & (back[1] != back[0]) & (r.random(n) < 0.2))
    # sons of a university stay there often
    for i in first.tolist():
        if i % 3 == 0:
            univ[i] = univ[i - int(back[0][i])]
        if i % 2:
            area[i] = area[i - int(back[0][i])]
    advisor = np.concatenate((person[first - back[0][first]], person[second - back[1][second]]))
    advised = np.concatenate((thesis[first], thesis[second]))
    made.schema.update({
        ":person/name": STRING, ":person/advised": REFS, ":dissertation/cid": REF, ":dissertation/univ": STRING,
        ":dissertation/area": STRING, ":dissertation/year": LONG,
    })  # fmt: skip
    made.columns.update({
        ":person/name": (person, names), ":person/advised": (advisor, advised), ":dissertation/cid": (thesis, person),
        ":dissertation/univ": (thesis, univ), ":dissertation/area": (thesis, area), ":dissertation/year": (thesis, year),
    })  # fmt: skip
    made.tables += [
        Table("scholar", {"id": ("integer", person.tolist()), "name": ("text", names)}, ("id",), ("name",)),
        Table(
            "dissertation",
            {
                "id": ("integer", thesis.tolist()), "cid": ("integer", person.tolist()), "univ": ("text", univ),
                "area": ("text", area), "year": ("integer", year.tolist()),
            },
            ("id",), ("cid", "univ", "area"),
        ),
        Table("advised", {"person": ("integer", advisor.tolist()), "thesis": ("integer", advised.tolist())}, ("person", "thesis"), ("thesis, person",)),
    ]  # fmt: skip
    rules = """[[(author ?d ?c) [?d :dissertation/cid ?c]]
                [(adv ?x ?y) [?x :person/advised ?d] (author ?d ?y)]
                [(univ ?c ?u) [?d :dissertation/cid ?c] [?d :dissertation/univ ?u]]
                [(area ?c ?a) [?d :dissertation/cid ?c] [?d :dissertation/area ?a]]
                [(anc ?x ?y) (adv ?x ?y)] [(anc ?x ?y) (adv ?x ?z) (anc ?z ?y)]]"""
    who = names[-7]
    adv = "select a.person as x, d.cid as y from advised a join dissertation d on d.id = a.thesis"
    made.queries += [
        Query(
            "genealogy 1, grand-advisors",
            "[:find [?n ...] :in $ % ?who :where [?d :person/name ?who] (adv ?x ?d) (adv ?y ?x) [?y :person/name ?n]]",
            f"""select distinct s3.name from scholar s1 join ({adv}) a1 on a1.y = s1.id join ({adv}) a2 on a2.y = a1.x
                join scholar s3 on s3.id = a2.x where s1.name = ?""",
            inputs=(who,),
            rules=rules,
        ),
        Query(
            "genealogy 2, same university",
            "[:find [?n ...] :in $ % :where (adv ?x ?y) (univ ?x ?u) (univ ?y ?u) [?y :person/name ?n]]",
            f"""select distinct s.name from ({adv}) a join dissertation d1 on d1.cid = a.x join dissertation d2 on d2.cid = a.y
                join scholar s on s.id = a.y where d1.univ = d2.univ""",
            rules=rules,
        ),
        Query(
            "genealogy 3, another area",
            "[:find [?n ...] :in $ % :where (adv ?x ?y) (area ?x ?a1) (area ?y ?a2) [(!= ?a1 ?a2)] [?y :person/name ?n]]",
            f"""select distinct s.name from ({adv}) a join dissertation d1 on d1.cid = a.x join dissertation d2 on d2.cid = a.y
                join scholar s on s.id = a.y where d1.area <> d2.area""",
            rules=rules,
        ),
        Query(
            "genealogy 4, academic ancestors",
            "[:find [?n ...] :in $ % ?who :where [?x :person/name ?who] (anc ?y ?x) [?y :person/name ?n]]",
            """with recursive anc(p) as (
                 select a.person from scholar s join dissertation d on d.cid = s.id join advised a on a.thesis = d.id where s.name = ?
                 union select a.person from anc join dissertation d on d.cid = anc.p join advised a on a.thesis = d.id)
               select distinct s.name from anc join scholar s on s.id = anc.p""",
            inputs=(who,),
            rules=rules,
        ),
    ]
