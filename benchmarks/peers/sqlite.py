"""SQLite with typed tables and the indexes a good engineer would give them."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workload import Query, Workload


class Peer:
    """A file in a temporary directory, without syncing, with statistics."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.db = sqlite3.connect(self.folder / "typed.db", isolation_level=None)
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

    def close(self) -> None:
        """Removes the directory."""
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)
