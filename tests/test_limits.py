"""Limits hold: hostile queries stop near their time and within their memory, and the database goes on."""

from __future__ import annotations

import tracemalloc

import limits as shapes_of
import pytest

import datalog as d

TIMEOUT_S = 0.25
SLACK_S = 3.0  # for machines that do other things too; `python tests/limits.py` measures
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def shapes():
    """The hostile queries, over one database."""
    with shapes_of.database() as conn:
        yield shapes_of.shapes(conn.db())
        assert conn.q("[:find (count ?e) . :where [?e :n/num 1]]") == shapes_of.ENTITIES // 1000


@pytest.mark.parametrize("engine", [None, "naive"], ids=["engine", "naive"])
def test_time_limits_hold(shapes, engine: str | None) -> None:
    """Each hostile query ends soon after its time is over."""
    stopped = 0
    limits = d.Limits(timeout_s=TIMEOUT_S if engine is None else TIMEOUT_S / 5, memory_bytes=256 << 20)
    for name, (query, inputs) in shapes.items():
        seconds, outcome = shapes_of.run(query, inputs, limits, engine)
        assert seconds < TIMEOUT_S + SLACK_S, name
        stopped += outcome in ("query/timeout", "query/limit")
    assert stopped >= len(shapes) - 3


def test_memory_limits_hold(shapes) -> None:
    """No hostile query takes more than its memory and a fifth, as tracemalloc sees it."""
    limits = d.Limits(timeout_s=2.0, memory_bytes=MEMORY)
    tracemalloc.start()
    try:
        for name in ("product", "closure", "endless strings", "collections taken apart"):
            query, inputs = shapes[name]
            found, outcome = shapes_of.peak(query, inputs, limits, None)
            assert outcome in ("query/limit", "query/timeout"), name
            assert found < MEMORY * 1.2, name
    finally:
        tracemalloc.stop()


def test_time_without_memory_limit(shapes) -> None:
    """A product is refused at once when it could not end in its time, also when memory is not limited."""
    query, inputs = shapes["product of patterns"]
    assert shapes_of.run(query, inputs, d.Limits(timeout_s=TIMEOUT_S), None)[0] < TIMEOUT_S + SLACK_S
