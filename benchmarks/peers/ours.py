"""This project."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datalog as d

if TYPE_CHECKING:
    from workload import Query, Workload


class Peer:
    """A database in a temporary directory, without syncing."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.conn = d.connect(self.folder / "db", schema=workload.schema, sync=False)
        self.prepared: dict[str, tuple[Any, tuple[Any, ...]]] = {}

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

    def close(self) -> None:
        """Removes the directory."""
        self.conn.close()
        shutil.rmtree(self.folder, ignore_errors=True)
