"""Cozo, embedded, in memory: a stored relation for each table, questions in CozoScript where the workload has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycozo.client import Client
from workload import LeftOut

if TYPE_CHECKING:
    from workload import Query, Workload

_CHUNK = 20_000


class Peer:
    """A database in memory."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.db = Client("mem", dataframe=False)

    def load(self) -> None:
        """Relations, then rows in chunks; an index where a table of pairs is asked from its second column."""
        for table in self.workload.tables:
            names = list(table.columns)
            keys = list(table.key) or names
            rest = [n for n in names if n not in keys]
            columns = ", ".join(keys) + (f" => {', '.join(rest)}" if rest else "")
            self.db.run(f":create {table.name} {{{columns}}}")
            rows = [list(row) for row in table.rows()]
            for at in range(0, len(rows), _CHUNK):
                self.db.import_relations({table.name: {"headers": names, "rows": rows[at : at + _CHUNK]}})
            for index in table.indexes:
                parts = [part.strip() for part in index.split(",")]
                if parts != keys[: len(parts)]:
                    self.db.run(f"::index create {table.name}:by_{'_'.join(parts)} {{{', '.join(parts)}}}")

    def figures(self) -> dict[str, Any]:
        """Nothing is kept in a file."""
        return {}

    def rows(self, query: Query) -> list[Any]:
        """The answer as lists."""
        if "cozo" not in query.peers:
            raise LeftOut("not asked of Cozo")
        found = self.db.run(query.peers["cozo"], {f"p{i}": v for i, v in enumerate(query.inputs)})
        return list(found["rows"])

    columnar = rows

    def close(self) -> None:
        """Frees it."""
        self.db.close()
