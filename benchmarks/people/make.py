"""Seeded persons, and the eight queries; what else is timed is in tasks.py."""

from __future__ import annotations

import random

from workload import Query, Table, Workload

from people.tasks import TASKS

FIRST = ["Ivan", "Petr", "Sergei", "Oleg", "Yuri", "Dmitry", "Fedor", "Denis"]
LAST = ["Ivanov", "Petrov", "Sidorov", "Kovalev", "Kuznetsov", "Voronoi"]
SEX = ["male", "female"]
COUNT = 20_000
SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":last-name": {":db/valueType": ":db.type/string"},
    ":sex": {":db/valueType": ":db.type/keyword"},
    ":age": {":db/valueType": ":db.type/long"},
    ":salary": {":db/valueType": ":db.type/long"},
    ":number": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
}
COZO = {
    "q1": "?[id] := *person{id, name: 'Ivan'}",
    "q2": "?[id, age] := *person:by_name{name: 'Ivan', id}, *person{id, age}",
    "q2-switch": "?[id, age] := *person{id, age, name}, name == 'Ivan'",
    "q3": "?[id, age] := *person:by_name{name: 'Ivan', id}, *person{id, age, sex: 'male'}",
    "q4": "?[id, last_name, age] := *person:by_name{name: 'Ivan', id}, *person{id, last_name, age, sex: 'male'}",
    "qpred1": "?[id, salary] := *person{id, salary}, salary > 50000",
    "qpred2": "?[id, salary] := *person{id, salary}, salary > $p0",
    "star": "?[id, name, last_name, sex, age, salary] := *person{id, name, last_name, sex, age, salary}",
}


def people(n: int, seed: int = 17) -> list[tuple[int, str, str, str, int, int, int]]:
    """N rows (id, name, last name, sex, age, salary, number)."""
    r = random.Random(seed)
    numbers = r.sample(range(10 * n), n)
    return [
        (i + 1, r.choice(FIRST), r.choice(LAST), r.choice(SEX), r.randrange(100), r.randrange(100_000), numbers[i])
        for i in range(n)
    ]


def make(scale: float = 1.0) -> Workload:
    """The workload."""
    rows = people(max(50, int(COUNT * scale)))
    ids, names, lasts, sexes, ages, salaries, numbers = map(list, zip(*rows, strict=True))
    columns = {
        ":name": (ids, names),
        ":last-name": (ids, lasts),
        ":sex": (ids, [":" + s for s in sexes]),
        ":age": (ids, ages),
        ":salary": (ids, salaries),
        ":number": (ids, numbers),
    }
    table = Table(
        "person",
        {
            "id": ("integer", ids),
            "name": ("text", names),
            "last_name": ("text", lasts),
            "sex": ("text", sexes),
            "age": ("integer", ages),
            "salary": ("integer", salaries),
            "number": ("integer", numbers),
        },
        key=("id",),
        indexes=("name", "last_name", "sex", "age", "salary", "number"),
    )
    queries = [
        Query("q1", '[:find ?e :where [?e :name "Ivan"]]', "select id from person where name = 'Ivan'"),
        Query(
            "q2",
            '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]',
            "select id, age from person where name = 'Ivan'",
        ),
        Query(
            "q2-switch",
            '[:find ?e ?a :where [?e :age ?a] [?e :name "Ivan"]]',
            "select id, age from person where name = 'Ivan'",
        ),
        Query(
            "q3",
            '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a] [?e :sex :male]]',
            "select id, age from person where name = 'Ivan' and sex = 'male'",
        ),
        Query(
            "q4",
            '[:find ?e ?l ?a :where [?e :name "Ivan"] [?e :last-name ?l] [?e :age ?a] [?e :sex :male]]',
            "select id, last_name, age from person where name = 'Ivan' and sex = 'male'",
        ),
        Query(
            "qpred1",
            "[:find ?e ?s :where [?e :salary ?s] [(> ?s 50000)]]",
            "select id, salary from person where salary > 50000",
        ),
        Query(
            "qpred2",
            "[:find ?e ?s :in $ ?min :where [?e :salary ?s] [(> ?s ?min)]]",
            "select id, salary from person where salary > ?",
            inputs=(50_000,),
        ),
        Query(
            "star",
            "[:find ?e ?n ?l ?x ?a ?s :where [?e :name ?n] [?e :last-name ?l] [?e :sex ?x] [?e :age ?a] [?e :salary ?s]]",
            "select id, name, last_name, sex, age, salary from person",
        ),
    ]
    for query in queries:
        query.peers["cozo"] = COZO[query.name]
    return Workload("people", SCHEMA, columns, [table], queries, tuple(TASKS))
