"""One peer with one workload in a process of its own: reads requests as JSON lines, answers as JSON lines.

{"op": "load"}                          -> {"seconds": ...}
{"op": "run", "query": "q1"}            -> {"seconds": ..., "rows": n}            fully turned into Python objects
{"op": "run", ..., "columnar": true}    -> the same, left as the peer's own columns
{"op": "run", ..., "check": true}       -> the same, with "checksum"
{"op": "run", "task": "add-1"}          -> {"seconds": ..., "rows": n, "checksum": ...}
{"op": "memory"}                        -> {"peak_mb": ...}

A question that the peer leaves out: {"left out": "why"}. What a peer raises: {"error": "..."}, and its traceback on standard error.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from workload import LeftOut, checksum, timed


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
            if request["op"] == "load":
                peer = importlib.import_module(f"peers.{peer_name}").Peer(workload)
            answer = serve(peer, workload, request)
        except LeftOut as e:
            answer = {"left out": str(e)}
        except Exception as e:  # noqa: BLE001  every product raises errors of its own; the driver counts each as a fault
            traceback.print_exc()
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
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return {"peak_mb": peer.peak_mb() if hasattr(peer, "peak_mb") else own}  # a peer in another process
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
    tasks = importlib.import_module(f"{workload.name}.tasks")
    found: tuple[float, Any]
    if hasattr(peer, "task"):
        found = peer.task(name)
    elif hasattr(peer, tasks.NEEDS[name]):
        found = tasks.TASKS[name](peer)
    else:
        raise LeftOut(f"it has no {tasks.NEEDS[name]}")
    return found


if __name__ == "__main__":
    main()
