"""What a workload is made of: data as columns, tables as a good engineer would make them in SQL, and questions in both.

A workload's module gives `make(scale) -> Workload`. Peers read it: ours loads `columns`, SQL databases make `tables`.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass
class Table:
    """A typed table. `columns`: name -> (SQL type, values); `key`: the primary key's columns; `indexes`: column lists."""

    name: str
    columns: dict[str, tuple[str, list[Any]]]
    key: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as tuples of Python values."""
        return list(zip(*(values for _, values in self.columns.values()), strict=True))


@dataclass
class Query:
    """One question. `sql` is asked of SQLite and DuckDB unless `duckdb` is given; inputs are bound in their order."""

    name: str
    datalog: str
    sql: str
    inputs: tuple[Any, ...] = ()
    rules: str | None = None
    duckdb: str | None = None
    sql_inputs: tuple[Any, ...] | None = None
    peers: dict[str, str] = field(default_factory=dict)  # other dialects


@dataclass
class Workload:
    """A data set with its questions. `columns`: attribute -> (entity ids, values), as `conn.load` takes them."""

    name: str
    schema: dict[str, Any]
    columns: dict[str, tuple[Any, Any]]
    tables: list[Table]
    queries: list[Query]
    tasks: tuple[str, ...] = ()  # names in the workload's module `tasks`: what is timed besides queries

    def query(self, name: str) -> Query:
        """The question of this name."""
        return next(q for q in self.queries if q.name == name)


class LeftOut(Exception):  # noqa: N818 - no fault: a peer has no such question, or not in bearable time
    """Raised by a peer that leaves a question or a task out; says why."""


def plain(values: Any) -> list[Any]:
    """A column as Python objects."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def timed(f: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call, without the collector's pauses."""
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    result = f()
    seconds = time.perf_counter() - started
    gc.enable()
    return seconds, result


def show(value: Any) -> str:
    """One text for the same value whoever returned it: keywords and strings alike, floats to nine digits."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return f"{float(value):.9g}" if float(value) != int(value) else str(int(value))
    text = str(value)
    return text.removeprefix(":")


def checksum(rows: Iterable[Any]) -> int:
    """A sum over the rows that does not depend on their order."""
    total = 0
    for row in rows:
        cells = row if isinstance(row, tuple | list) else (row,)
        total += crc32("\x1f".join(map(show, cells)).encode())
    return total
