"""The driver of the comparisons: what a peer leaves out is no fault, what it raises is one, and neither ends the run."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from compare import Worker, one_query, one_task

ASKED = argparse.Namespace(warmup=1, repeats=2, columnar=True)


class Answers:
    """A worker that gives the answers it was made with, the last one again and again."""

    def __init__(self, peer, *answers):
        self.peer = peer
        self.answers = list(answers)

    def ask(self, **_):
        """The next answer."""
        return dict(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def test_questions():
    """Times are of those that answered; a fault after the first answer is noted; different answers are a fault."""
    good = {"seconds": 0.5, "rows": 3, "checksum": 7}
    faults = []
    workers = [
        Answers("ours", good),
        Answers("sqlite", good, {"error": "OperationalError: gone"}),
        Answers("triple", {"left out": "rules"}),
    ]
    figures = one_query("q1", workers, ASKED, faults)
    assert figures["ours"]["times"] == figures["ours"]["columnar"] == [0.5, 0.5]
    assert (figures["sqlite"]["times"], figures["triple"]["median"], figures["ratio"]) == ([], None, None)
    assert set(faults) == {"q1: sqlite: OperationalError: gone"}
    faults.clear()
    one_query("q2", [Answers("ours", good), Answers("sqlite", {**good, "rows": 4})], ASKED, faults)
    assert len(faults) == 1
    assert "different answers" in faults[0]


def test_tasks():
    """A task that a peer leaves out has no time and is no fault; one that fails is."""
    faults = []
    workers = [
        Answers("ours", {"left out": "it has no pull"}),
        Answers("sqlite", {"error": "AttributeError: no attribute"}),
    ]
    figures = one_task("pull", workers, ASKED, faults)
    assert figures["ours"]["left out"] == "it has no pull"
    assert faults == ["pull: sqlite: AttributeError: no attribute"]


def test_a_peer_in_its_process():
    """A peer loads, answers, leaves out what it has not, and tells a fault without ending; all over JSON lines."""
    worker = Worker("triple", "people", 0.005, sys.executable, 60.0)
    try:
        assert worker.ask(op="load")["seconds"] > 0
        assert worker.ask(op="run", query="q1", check=True)["rows"] > 0
        assert worker.ask(op="run", task="add-1") == {"left out": "it has no empty"}
        assert "StopIteration" in worker.ask(op="run", query="none")["error"]
        assert worker.ask(op="memory")["peak_mb"] > 0
        worker.out = "tired"
        assert worker.ask(op="memory") == {"left out": "tired"}
    finally:
        worker.close()
