"""The overlay: views of one overlay that several threads go on from."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from store.overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.overlay import Row


class Slow(list):
    """Rows that take their time, so that another thread comes between."""

    def __init__(self, rows: list[Row], begun: threading.Event, go: threading.Event) -> None:
        super().__init__(rows)
        self.begun, self.go = begun, go

    def __iter__(self) -> Iterator[Row]:
        self.begun.set()
        self.go.wait(0.2)
        return super().__iter__()


def test_two_threads_go_on_from_one_view() -> None:
    """Each gets its own rows after the common ones, in every index: a speculative view is a value."""
    common = Overlay().view().extended([(1, 70, 5, 9, 1)])
    begun, go = threading.Event(), threading.Event()
    found = {}

    def extend(k: int, rows: list[Row]) -> None:
        found[k] = common.extended(rows)

    first = threading.Thread(target=extend, args=(2, Slow([(2, 71, 2, 10, 1)], begun, go)))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=extend, args=(3, [(3, 71, 3, 10, 1), (2, 71, 3, 10, 1)]))
    second.start()
    second.join(0.1)
    go.set()
    first.join()
    second.join()
    assert common.all_rows() == [(1, 70, 5, 9, 1)]
    assert found[2].all_rows() == [(1, 70, 5, 9, 1), (2, 71, 2, 10, 1)]
    assert found[3].all_rows() == [(1, 70, 5, 9, 1), (3, 71, 3, 10, 1), (2, 71, 3, 10, 1)]
    assert found[2].of_entity(2) == [(2, 71, 2, 10, 1)]
    assert found[3].of_entity(2) == [(2, 71, 3, 10, 1)]
    assert found[2].count_delta(71) == 1
    assert found[3].of_value(71, 3) == [(3, 71, 3, 10, 1), (2, 71, 3, 10, 1)]
