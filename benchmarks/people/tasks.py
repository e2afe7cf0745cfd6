"""What is timed on *people* besides the queries: pulls, lookups and transactions.

A task is a function of a peer; it returns (seconds, rows): the rows are what it got or left behind, for comparing. `NEEDS` names
the method that a peer has when it takes part; who has `empty` has all that belongs to transactions, which go to an empty
database in memory.
"""

from __future__ import annotations

import random
from typing import Any

from workload import timed

ATTRIBUTES = ("name", "last_name", "sex", "age", "salary")
FEW = 4_000  # persons for transactions of one datom; there are five of them for each


def persons(peer: Any, most: int | None = None) -> list[dict[str, Any]]:
    """The rows as dicts."""
    table = peer.workload.tables[0]
    names = list(table.columns)
    return [dict(zip(names, row, strict=True)) for row in table.rows()[:most]]


def some(peer: Any, column: str) -> list[Any]:
    """1,000 values of a column, at random."""
    values = peer.workload.tables[0].columns[column][1]
    return random.Random(5).sample(values, min(1000, len(values)))


def pull_many(peer: Any) -> tuple[float, list[Any]]:
    """1,000 entities in one call."""
    ids = some(peer, "id")
    return _as_rows(peer, *timed(lambda: peer.pull_many(ids)))


def pull_each(peer: Any) -> tuple[float, list[Any]]:
    """1,000 entities, a call for each."""
    ids, pull = some(peer, "id"), peer.pull
    return _as_rows(peer, *timed(lambda: [pull(e) for e in ids]))


def _as_rows(peer: Any, seconds: float, found: list[Any]) -> tuple[float, list[Any]]:
    """What was pulled as rows, which is not part of the call that is timed: a library gives rows or maps."""
    row = getattr(peer, "row", None)
    return seconds, found if row is None else [row(one) for one in found]


def lookups(peer: Any) -> tuple[float, list[Any]]:
    """1,000 ages by a unique value."""
    numbers, lookup = some(peer, "number"), peer.lookup
    lookup(numbers[0])
    return timed(lambda: [(lookup(n),) for n in numbers])


def add_1(peer: Any) -> tuple[float, list[Any]]:
    """A transaction for each datom."""
    with peer.empty() as fresh:
        given = [(row["id"], a, row[a]) for row in persons(peer, FEW) for a in ATTRIBUTES]
        add = fresh.add

        def run() -> None:
            for e, a, v in given:
                add(e, a, v)

        return timed(run)[0], fresh.left()


def add_5(peer: Any) -> tuple[float, list[Any]]:
    """A transaction for each entity of five datoms."""
    with peer.empty() as fresh:
        given = [{k: row[k] for k in ("id", *ATTRIBUTES)} for row in persons(peer)]
        given = [fresh.entity(row) for row in given]
        add = fresh.add_entity

        def run() -> None:
            for row in given:
                add(row)

        return timed(run)[0], fresh.left()


def add_all(peer: Any) -> tuple[float, list[Any]]:
    """All entities in one transaction."""
    with peer.empty() as fresh:
        given = [fresh.entity({k: row[k] for k in ("id", *ATTRIBUTES)}) for row in persons(peer)]
        return timed(lambda: fresh.add_all(given))[0], fresh.left()


def retract_5(peer: Any) -> tuple[float, list[Any]]:
    """A transaction for each entity that goes; a tenth of them stays."""
    with peer.empty() as fresh:
        rows = persons(peer, FEW)
        fresh.add_all([fresh.entity({k: row[k] for k in ("id", *ATTRIBUTES)}) for row in rows])
        ids, retract = [row["id"] for row in rows[len(rows) // 10 :]], fresh.retract

        def run() -> None:
            for e in ids:
                retract(e)

        return timed(run)[0], fresh.left()


def bulk_init(peer: Any) -> tuple[float, list[Any]]:
    """A database from columns, or whatever a peer has for it."""
    with peer.empty() as fresh:
        return timed(fresh.init)[0], fresh.left()


TASKS = {
    "pull 1,000 in one call": pull_many,
    "pull 1,000, a call each": pull_each,
    "1,000 lookups by unique value": lookups,
    "add-1": add_1,
    "add-5": add_5,
    "add-all": add_all,
    "retract-5": retract_5,
    "bulk init": bulk_init,
}
#: task -> the method that a peer has which takes part
NEEDS = {
    "pull 1,000 in one call": "pull_many",
    "pull 1,000, a call each": "pull",
    "1,000 lookups by unique value": "lookup",
    **dict.fromkeys(("add-1", "add-5", "add-all", "retract-5", "bulk init"), "empty"),
}
#: task -> units that it is made of, for 20,000 persons: (number, name)
UNITS = {
    "pull 1,000 in one call": (1000, "entities"),
    "pull 1,000, a call each": (1000, "entities"),
    "1,000 lookups by unique value": (1000, "lookups"),
    "add-1": (5 * FEW, "transactions"),
    "add-5": (20_000, "transactions"),
    "add-all": (100_000, "datoms"),
    "retract-5": (FEW - FEW // 10, "transactions"),
    "bulk init": (100_000, "datoms"),
}
