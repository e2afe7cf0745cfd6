"""SQLite with typed tables and the indexes a good engineer would give them."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from workload import Query, Workload

_COLUMNS = "name, last_name, sex, age, salary"
_TYPED = "name text, last_name text, sex text, age integer, salary integer"


class Peer:
    """A file in a temporary directory, without syncing, with statistics; or, for transactions, a database in memory."""

    def __init__(self, workload: Workload, *, memory: bool = False) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.db = sqlite3.connect(":memory:" if memory else self.folder / "typed.db", isolation_level=None)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute("pragma synchronous=off")
        self.db.execute("pragma cache_size=-262144")
        self.db.execute("pragma mmap_size=2000000000")
        self.tables = [(t, t.rows()) for t in workload.tables]

    def load(self) -> None:
        """Tables, rows, indexes, statistics."""
        for table, rows in self.tables:
            columns = ", ".join(f"{name} {kind}" for name, (kind, _) in table.columns.items())
            one = len(table.key) == 1
            columns = columns.replace("id integer", "id integer primary key", 1) if one else columns
            key = "" if one or not table.key else f", primary key ({', '.join(table.key)})"
            self.db.execute(
                f"create table {table.name} ({columns}{key}){'' if one or not table.key else ' without rowid'}"
            )
            marks = ", ".join("?" * len(table.columns))
            self.db.execute("begin")
            self.db.executemany(f"insert into {table.name} values ({marks})", rows)
            for i, index in enumerate(table.indexes):
                self.db.execute(f"create index {table.name}_{i} on {table.name} ({index})")
            self.db.execute("commit")
        self.db.execute("analyze")
        self.tables = []

    def figures(self) -> dict[str, Any]:
        """Bytes of the file."""
        pages, size = self.db.execute("select * from pragma_page_count(), pragma_page_size()").fetchone()
        return {"file_bytes": pages * size}

    def rows(self, query: Query) -> list[Any]:
        """The answer as Python objects."""
        inputs = query.inputs if query.sql_inputs is None else query.sql_inputs
        return self.db.execute(query.sql, inputs).fetchall()

    columnar = rows

    # -- tasks of *people*

    def pull_many(self, ids: list[int]) -> list[Any]:
        """Rows of entities, in one call."""
        marks = ", ".join("?" * len(ids))
        return self.db.execute(f"select id, {_COLUMNS} from person where id in ({marks})", ids).fetchall()

    def pull(self, e: int) -> Any:
        """The row of one entity."""
        return self.db.execute(f"select id, {_COLUMNS} from person where id = ?", (e,)).fetchone()

    def lookup(self, number: int) -> Any:
        """The age of who has a number."""
        return self.db.execute("select age from person where number = ?", (number,)).fetchone()[0]

    def empty(self) -> Peer:
        """A database in memory, with the table and its indexes."""
        fresh = Peer(self.workload, memory=True)
        table = self.workload.tables[0]
        fresh.db.execute(f"create table person (id integer primary key, {_TYPED})")
        for i, index in enumerate(table.indexes):
            if index != "number":
                fresh.db.execute(f"create index person_{i} on person ({index})")
        return fresh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entity(self, row: dict[str, Any]) -> Any:
        """A row as this peer takes it."""
        return tuple(row.values())

    def add(self, e: int, attribute: str, value: Any) -> None:
        """One value: a new row for the first, then an update."""
        if attribute == "name":
            self.db.execute("insert into person (id, name) values (?, ?)", (e, value))
        else:
            self.db.execute(f"update person set {attribute} = ? where id = ?", (value, e))

    def add_entity(self, entity: Any) -> None:
        """One row."""
        self.db.execute(f"insert into person (id, {_COLUMNS}) values (?, ?, ?, ?, ?, ?)", entity)

    def add_all(self, entities: list[Any]) -> None:
        """Many rows."""
        self.db.execute("begin")
        self.db.executemany(f"insert into person (id, {_COLUMNS}) values (?, ?, ?, ?, ?, ?)", entities)
        self.db.execute("commit")

    def retract(self, e: int) -> None:
        """One row less."""
        self.db.execute("delete from person where id = ?", (e,))

    def init(self) -> None:
        """All rows."""
        self.add_all([row[:6] for row in self.workload.tables[0].rows()])

    def left(self) -> list[Any]:
        """All names, ages and salaries."""
        return self.db.execute("select id, name, age, salary from person").fetchall()

    def close(self) -> None:
        """Removes the directory."""
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)
