"""This project."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import datalog as d

if TYPE_CHECKING:
    from workload import Query, Workload

PERSON = "[:db/id :name :last-name :sex :age :salary]"
KEYS = (":db/id", ":name", ":last-name", ":sex", ":age", ":salary")
NAMES = {"name": ":name", "last_name": ":last-name", "sex": ":sex", "age": ":age", "salary": ":salary", "id": ":db/id"}


class Peer:
    """A database in a temporary directory, without syncing; or, for transactions, an ephemeral one."""

    def __init__(self, workload: Workload, *, ephemeral: bool = False) -> None:
        self.workload = workload
        self.folder = None if ephemeral else Path(tempfile.mkdtemp(prefix="bench-"))
        path = None if self.folder is None else self.folder / "db"
        self.conn = d.connect(path, schema=workload.schema, sync=False)
        self.db: Any = None  # a snapshot held while others are made keeps the pages of its time
        self._by_number = d.prepare("[:find ?a . :in $ ?n :where [?e :number ?n] [?e :age ?a]]")

    def load(self) -> None:
        """The columns at once."""
        self.conn.load(self.workload.columns)
        self.db = self.conn.db()

    def figures(self) -> dict[str, Any]:
        """Datoms and bytes."""
        datoms = sum(len(e) for e, _ in self.workload.columns.values())
        return {"datoms": datoms, "file_bytes": self.conn.store.env.stat()["file_bytes"]}

    def _ask(self, query: Query) -> Any:
        rules = () if query.rules is None else (query.rules,)
        return d.q(query.datalog, self.db, *rules, *query.inputs)

    def rows(self, query: Query) -> list[Any]:
        """The answer as Python objects."""
        found = self._ask(query)
        return found if isinstance(found, list) else list(found)

    def columnar(self, query: Query) -> Any:
        """The answer as a Result."""
        return self._ask(query)

    # -- tasks of *people*

    def pull_many(self, ids: list[int]) -> list[Any]:
        """Entities, in one call."""
        found: list[Any] = self.db.pull_many(PERSON, ids)
        return found

    def pull(self, e: int) -> Any:
        """One entity."""
        return self.db.pull(PERSON, e)

    def row(self, found: Any) -> tuple[Any, ...]:
        """A pulled entity as a row, to be compared with the others'."""
        return tuple(map(found.get, KEYS))

    def lookup(self, number: int) -> Any:
        """The age of who has a number."""
        return self._by_number(self.db, number)

    def empty(self) -> Peer:
        """A database in memory."""
        return Peer(self.workload, ephemeral=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entity(self, row: dict[str, Any]) -> Any:
        """A row as this peer takes it."""
        return {NAMES[k]: ":" + v if k == "sex" else v for k, v in row.items()}

    def add(self, e: int, attribute: str, value: Any) -> None:
        """One datom."""
        self.conn.transact([[":db/add", e, NAMES[attribute], ":" + value if attribute == "sex" else value]])

    def add_entity(self, entity: Any) -> None:
        """One entity."""
        self.conn.transact([entity])

    def add_all(self, entities: list[Any]) -> None:
        """Many entities."""
        self.conn.transact(entities)

    def retract(self, e: int) -> None:
        """One entity less."""
        self.conn.transact([[":db/retractEntity", e]])

    def init(self) -> None:
        """The columns at once."""
        self.conn.load({k: v for k, v in self.workload.columns.items() if k != ":number"})

    def left(self) -> list[Any]:
        """All names, ages and salaries."""
        return list(self.conn.q("[:find ?e ?n ?a ?s :where [?e :name ?n] [?e :age ?a] [?e :salary ?s]]"))

    def close(self) -> None:
        """Removes the directory."""
        self.conn.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
