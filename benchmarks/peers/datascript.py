"""DataScript in a process of Node, as JavaScript programs use it: attributes are strings without a colon, keywords are strings."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workload import LeftOut, plain

if TYPE_CHECKING:
    from workload import Query, Workload

HOME = Path(__file__).parent.parent / ".peers"
MOST_DATOMS = 1_500_000  # more do not fit into Node's memory
NAME = re.compile(r"(?<=[\s\[({]):(?!find|where|in\b|with|db/id)([\w./-]+)")


class Peer:
    """A database in Node's memory."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        datoms = [
            [int(e), a[1:], v.removeprefix(":") if isinstance(v, str) else v if isinstance(v, int | float) else int(v)]
            for a, (es, vs) in workload.columns.items()
            for e, v in zip(plain(es), plain(vs), strict=True)
        ]
        if len(datoms) > MOST_DATOMS:
            raise LeftOut("too many datoms for Node's memory")
        keep = {
            ":db/valueType": (":db.type/ref",),
            ":db/cardinality": (":db.cardinality/many",),
            ":db/unique": (":db.unique/identity",),
        }
        schema = {
            a[1:]: {k: v for k, v in properties.items() if v in keep.get(k, ())}
            for a, properties in workload.schema.items()
        }
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        given = Path(self.folder.name) / "given.json"
        given.write_text(json.dumps({"schema": schema, "datoms": datoms}))
        script = Path(__file__).with_suffix(".js")
        command = [
            "node",
            "--expose-gc",
            "--max-old-space-size=6000",
            str(script),
            str(HOME / "node_modules" / "datascript"),
            str(given),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "node ended"}
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    def load(self) -> None:
        """All datoms at once."""
        self._ask(op="load")

    def figures(self) -> dict[str, Any]:
        """Nothing is kept in a file."""
        return {}

    def peak_mb(self) -> int:
        """The most that Node took."""
        return int(self._ask(op="memory")["kilobytes"]) // 1024

    def _query(self, query: Query) -> dict[str, Any]:
        text = query.datalog if query.rules is None else f"{query.datalog}\n{query.rules}"
        if re.search(r"\(avg|count-distinct|:with|\(min ", text):
            raise LeftOut("another dialect")
        return {
            "datalog": NAME.sub(r'"\1"', query.datalog),
            "rules": None if query.rules is None else NAME.sub(r'"\1"', query.rules),
            "inputs": query.inputs,
        }

    def timed_rows(self, query: Query, *, whole: bool) -> tuple[float, Any]:
        """Seconds by Node's clock, and the rows, or as many numbers as there are."""
        found = self._ask(op="query", query=self._query(query), rows=whole)
        return found["seconds"], found["rows"] if whole else range(found["count"])

    def task(self, name: str) -> tuple[float, Any]:
        """A task of *people*, done in Node."""
        from people.tasks import FEW, persons, some

        if name == "bulk init":
            raise LeftOut("its load is that")
        given = {
            "ids": some(self, "id"),
            "numbers": some(self, "number"),
            "few": persons(self, FEW),
            "rows": persons(self),
        }
        found = self._ask(op="task", name=name, given=given)
        return found["seconds"], found["rows"]

    def close(self) -> None:
        """Ends Node."""
        self.process.communicate()
        self.folder.cleanup()
