"""SQLite with one table (e, a, v) and its three indexes: what a program without a database of facts would write first.

Questions are translated from Datalog: patterns become self-joins, comparisons conditions. Rules, negation, disjunction and aggregates
are left out: nobody should have to write those by hand over triples.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workload import LeftOut, plain

import datalog as d

if TYPE_CHECKING:
    from workload import Query, Workload

MOST_S = 20  # of one question
_COMPARISONS = {"<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "<>", "=": "="}


class Peer:
    """A file in a temporary directory, without syncing, with statistics."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.db = sqlite3.connect(self.folder / "triple.db", isolation_level=None)
        for pragma in ("journal_mode=wal", "synchronous=off", "cache_size=-262144", "mmap_size=4000000000"):
            self.db.execute(f"pragma {pragma}")
        self.numbers = {a: i for i, a in enumerate(workload.columns)}
        self.translated: dict[str, tuple[str, list[Any]]] = {}

    def load(self) -> None:
        """The triples, then the indexes, as they are made fastest."""
        self.db.execute("create table t (e integer, a integer, v)")
        self.db.execute("begin")
        for a, (es, vs) in self.workload.columns.items():
            number = self.numbers[a]
            rows = ((e, number, v) for e, v in zip(plain(es), plain(vs), strict=True))
            self.db.executemany("insert into t values (?, ?, ?)", rows)
        for order in ("e, a, v", "a, e, v", "a, v, e"):
            self.db.execute(f"create index t_{order[0]}{order[3]}{order[6]} on t ({order})")
        self.db.execute("commit")
        self.db.execute("analyze")

    def figures(self) -> dict[str, Any]:
        """Bytes of the file."""
        pages, size = self.db.execute("select * from pragma_page_count(), pragma_page_size()").fetchone()
        return {"file_bytes": pages * size}

    def rows(self, query: Query) -> list[Any]:
        """The answer as Python objects."""
        if query.name not in self.translated:
            self.translated[query.name] = self._translate(query)
        ends = time.monotonic() + MOST_S
        self.db.set_progress_handler(lambda: time.monotonic() > ends, 100_000)
        try:
            return self.db.execute(*self.translated[query.name]).fetchall()
        except sqlite3.OperationalError as e:
            if str(e) != "interrupted":
                raise
            raise LeftOut(f"more than {MOST_S} s") from e
        finally:
            self.db.set_progress_handler(None, 0)

    columnar = rows

    def _translate(self, query: Query) -> tuple[str, list[Any]]:
        if query.rules is not None:
            raise LeftOut("rules")
        form = list(d.read_edn(query.datalog))
        parts: dict[str, list[Any]] = {}
        for item in form:
            if isinstance(item, d.Keyword):
                part = parts.setdefault(str(item), [])
            else:
                part.append(item)
        if set(parts) - {":find", ":in", ":where"}:
            raise LeftOut("more than :find, :in and :where")
        columns: dict[str, str] = {}  # variable -> the first column that has it
        conditions: list[str] = []
        given: list[Any] = []
        scalars = [str(x) for x in parts.get(":in", []) if str(x) != "$"]
        values = dict(zip(scalars, query.inputs, strict=True))

        def term(x: Any) -> str:
            if isinstance(x, d.Symbol):
                if str(x) in values:
                    given.append(values[str(x)])
                    return "?"
                return columns[str(x)]
            given.append(str(x) if isinstance(x, d.Keyword) else x)
            return "?"

        tables = 0
        later: list[Any] = []
        for clause in parts[":where"]:
            if isinstance(clause, d.List):
                raise LeftOut("or, not and their kin")
            if isinstance(clause[0], d.List):
                later.append(clause)
                continue
            e, a, v = clause
            conditions.append(f"t{tables}.a = {self.numbers[str(a)]}")
            for x, column in ((e, "e"), (v, "v")):
                name = str(x)
                if isinstance(x, d.Symbol) and name not in columns and name not in values:
                    columns[name] = f"t{tables}.{column}"
                else:
                    conditions.append(f"t{tables}.{column} = {term(x)}")
            tables += 1
        for clause in later:
            if len(clause) != 1 or str(clause[0][0]) not in _COMPARISONS:
                raise LeftOut("functions")
            operator, terms = _COMPARISONS[str(clause[0][0])], list(clause[0])[1:]
            conditions += [f"{term(x)} {operator} {term(y)}" for x, y in pairwise(terms)]
        if not all(isinstance(x, d.Symbol) for x in parts[":find"]):
            raise LeftOut("aggregates and other shapes")
        found = ", ".join(columns[str(x)] for x in parts[":find"])
        joined = ", ".join(f"t t{i}" for i in range(tables))
        return f"select distinct {found} from {joined} where {' and '.join(conditions)}", given

    def close(self) -> None:
        """Removes the directory."""
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)
