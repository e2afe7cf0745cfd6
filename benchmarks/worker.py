"""One peer with one workload in a process of its own: reads requests as JSON lines, answers as JSON lines.

{"op": "load"}                          -> {"seconds": ...}
{"op": "run", "query": "q1"}            -> {"seconds": ..., "rows": n}            fully turned into Python objects
{"op": "run", ..., "columnar": true}    -> the same, left as the peer's own columns
{"op": "run", ..., "check": true}       -> the same, with "checksum"
{"op": "run", "task": "add-1"}          -> {"seconds": ..., "rows": n, "checksum": ...}
{"op": "memory"}                        -> {"peak_mb": ...}
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from workload import checksum, timed


def main() -> None:
    """Serves requests until the input ends."""
    peer_name, workload_name, scale = sys.argv[1], sys.argv[2], float(sys.argv[3])
    out = sys.stdout
    sys.stdout = sys.stderr  # what a peer prints must not look like an answer
    workload = importlib.import_module(f"{workload_name}.make").make(scale)
    peer: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if peer is None:
                peer = importlib.import_module(f"peers.{peer_name}").Peer(workload)
            answer = serve(peer, workload, request)
        except Exception as e:  # noqa: BLE001  the driver prints it
            answer = {"error": f"{type(e).__name__}: {e}"[:2000]}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    if peer is not None:
        peer.close()


def serve(peer: Any, workload: Any, request: dict[str, Any]) -> dict[str, Any]:
    """One answer."""
    op = request["op"]
    if op == "load":
        return {"seconds": timed(peer.load)[0], **peer.figures()}
    if op == "memory":
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if "task" in request:
        seconds, rows = run_task(peer, workload, request["task"])
        return {"seconds": seconds, "rows": len(rows), "checksum": checksum(rows)}
    query = workload.query(request["query"])
    if hasattr(peer, "timed_rows"):  # a peer with a clock of its own, in another process
        seconds, rows = peer.timed_rows(query, whole=bool(request.get("check")))
    else:
        seconds, rows = timed(lambda: peer.columnar(query) if request.get("columnar") else peer.rows(query))
    answer = {"seconds": seconds, "rows": len(rows)}
    return {**answer, "checksum": checksum(rows)} if request.get("check") else answer


def run_task(peer: Any, workload: Any, name: str) -> tuple[float, Any]:
    """A task of the workload, by the peer itself where it has tasks of its own."""
    if hasattr(peer, "task"):
        return peer.task(name)  # type: ignore[no-any-return]
    tasks = importlib.import_module(f"{workload.name}.tasks").TASKS
    return tasks[name](peer)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
