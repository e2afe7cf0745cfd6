"""DuckDB with typed tables and indexes on keys."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

if TYPE_CHECKING:
    from workload import Query, Workload

_TYPES = {"integer": "bigint", "text": "varchar", "double": "double"}


class Peer:
    """A file in a temporary directory; all cores, as a user gets it."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.db = duckdb.connect(str(self.folder / "duck.db"))

    def load(self) -> None:
        """Tables from columns, then the indexes."""
        for table in self.workload.tables:
            columns = ", ".join(f"{name} {_TYPES[kind]}" for name, (kind, _) in table.columns.items())
            self.db.execute(f"create table {table.name} ({columns})")
            source = {
                name: np.array(values, dtype=object if kind == "text" else None)
                for name, (kind, values) in table.columns.items()
            }
            self.db.register("incoming", source)
            self.db.execute(f"insert into {table.name} select * from incoming")
            self.db.unregister("incoming")
            for i, index in enumerate(table.indexes):
                if "," not in index:
                    self.db.execute(f"create index {table.name}_{i} on {table.name} ({index})")
        self.db.execute("analyze")

    def figures(self) -> dict[str, Any]:
        """Bytes of the file."""
        self.db.execute("checkpoint")
        return {"file_bytes": (self.folder / "duck.db").stat().st_size}

    def rows(self, query: Query) -> list[Any]:
        """The answer as Python objects."""
        inputs = query.inputs if query.sql_inputs is None else query.sql_inputs
        return list(self.db.execute(query.duckdb or query.sql, list(inputs)).fetchall())

    def columnar(self, query: Query) -> Any:
        """The answer as an Arrow table."""
        inputs = query.inputs if query.sql_inputs is None else query.sql_inputs
        return self.db.execute(query.duckdb or query.sql, list(inputs)).to_arrow_table()

    def close(self) -> None:
        """Removes the directory."""
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)
