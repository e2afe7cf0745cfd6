"""The overlay: what was asserted and retracted after the segments' generation, in memory, over the base.

Two uses of one type: the *novelty*, transactions that are in the log but not yet merged into segments, and the datoms of
a speculative transaction (`with_`). Rows are only ever appended; a view is an overlay and a number of rows, so that
every transaction gives a new immutable view for the price of its own rows, and all snapshots share the rest.

Each row is an *effective* change: an add only where the datom was absent, a retraction only where it was present. So for
one (e, a, v) the rows alternate, the last one decides, and the first one tells whether the base has the datom.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from store.columns import EMPTY
from store.datom import AID_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]

Row = tuple[int, int, int, int, int]  # e, aid, v, tx, 1 added or 0 retracted


_SHORT = 8  # places that are quicker walked than searched


class Changes(NamedTuple):
    """Net changes of one attribute against the base, each int64 (n,), sorted by (e, v)."""

    add_e: Codes
    add_v: Codes
    add_tx: Codes
    drop_e: Codes
    drop_v: Codes


NO_CHANGES = Changes(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY)


class Overlay:
    """Rows appended by transactions, found by entity, by attribute, and by (attribute, value).

    Only the index by entity is kept up with every row; the others take in what came since when they are asked: a stream of
    transactions that nobody reads pays nothing for them.
    """

    __slots__ = ("_by_a", "_by_av", "_indexed", "_lock", "_totals", "by_e", "growing", "rows")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.by_e: dict[int, list[int]] = {}
        self._by_a: dict[int, list[int]] = {}
        self._totals: dict[int, list[int]] = {}  # beside by_a: adds less retractions up to and with each row
        self._by_av: dict[tuple[int, int], list[int]] = {}
        self._indexed = 0  # so many rows are in the three above
        self._lock = threading.Lock()  # of the indexes that are caught up
        self.growing = threading.Lock()  # of who appends

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows at the end. For one thread at a time: `OverlayView.extended` sees to it where there are several."""
        by_e, out = self.by_e, self.rows
        n = len(out)
        for row in rows:
            out.append(row)
            places = by_e.get(row[0])
            if places is None:
                by_e[row[0]] = [n]
            else:
                places.append(n)
            n += 1

    def _catch_up(self) -> None:
        with self._lock:
            rows, by_a, by_av, totals = self.rows, self._by_a, self._by_av, self._totals
            start = self._indexed
            # an interrupt may leave a row half way: so each is noted when it is done, and what is there already is left alone
            for n, (_, a, v, _, added) in enumerate(rows[start:], start):
                change = 1 if added else -1
                places = by_a.get(a)
                if places is None:
                    totals[a] = [change]
                    by_a[a] = [n]
                elif places[-1] < n:
                    total = totals[a]
                    del total[len(places) :]
                    total.append(total[-1] + change)
                    places.append(n)
                same = by_av.get((a, v))
                if same is None:
                    by_av[a, v] = [n]
                elif same[-1] < n:
                    same.append(n)
                self._indexed = n + 1

    def by_a(self) -> dict[int, list[int]]:
        """The places of the rows of each attribute, ascending."""
        if self._indexed != len(self.rows):
            self._catch_up()
        return self._by_a

    def by_av(self) -> dict[tuple[int, int], list[int]]:
        """The places of the rows of each attribute and value, ascending."""
        if self._indexed != len(self.rows):
            self._catch_up()
        return self._by_av

    def totals(self, a: int) -> list[int]:
        """Adds less retractions of an attribute, up to and with each place in `by_a`."""
        return self._totals[a]

    def view(self) -> OverlayView:
        """The view of all rows so far."""
        return OverlayView(self, len(self.rows))


class OverlayView:
    """The first `n` rows of an overlay: immutable."""

    __slots__ = ("n", "overlay")

    def __init__(self, overlay: Overlay, n: int) -> None:
        self.overlay = overlay
        self.n = n

    def extended(self, rows: list[Row]) -> OverlayView:
        """A view with more rows: appended in place when this is the newest view, else to a copy.

        Safe between threads: a speculative view is a value, which several may go on from at once.
        """
        overlay = self.overlay
        with overlay.growing:
            if len(overlay.rows) == self.n:
                overlay.append(rows)
                return overlay.view()
        copied = Overlay()
        copied.append(overlay.rows[: self.n])
        copied.append(rows)
        return copied.view()

    def _visible(self, places: list[int] | None) -> list[Row]:
        if not places:
            return []
        # NB: the writer may append to `places` at any moment, also between a look at its end and a walk over it
        rows, n = self.overlay.rows, self.n
        return (
            [rows[i] for i in places.copy() if i < n]
            if len(places) < _SHORT
            else [rows[i] for i in places[: bisect_left(places, n)]]
        )

    def of_entity(self, e: int) -> list[Row]:
        """The rows of an entity, oldest first."""
        return self._visible(self.overlay.by_e.get(e))

    def of_value(self, a: int, v: int) -> list[Row]:
        """The rows of an attribute and value, oldest first."""
        return self._visible(self.overlay.by_av().get((a, v)))

    def of_attribute(self, a: int, after_tx: int = 0) -> list[Row]:
        """The rows of an attribute, oldest first; with `after_tx` those of later transactions alone."""
        places = self.overlay.by_a().get(a)
        if places and after_tx:
            rows = self.overlay.rows
            places = places[bisect_right(places, after_tx, key=lambda place: rows[place][3]) :]
        return self._visible(places)

    def touches(self, a: int) -> bool:
        """True when an attribute has rows here."""
        places = self.overlay.by_a().get(a)
        return bool(places) and places[0] < self.n  # type: ignore[index]

    def aids(self) -> list[int]:
        """The attributes that have rows here."""
        return [a for a, places in list(self.overlay.by_a().items()) if places[0] < self.n]

    def last_tx(self, a: int) -> int:
        """The newest tx of an attribute's rows, 0 when it has none."""
        places = self.overlay.by_a().get(a)
        if not places or places[0] >= self.n:
            return 0
        return self.overlay.rows[places[bisect_left(places, self.n) - 1]][3]

    def count_delta(self, a: int) -> int:
        """How many datoms more than the base an attribute has."""
        places = self.overlay.by_a().get(a)
        if not places or places[0] >= self.n:
            return 0
        return self.overlay.totals(a)[bisect_left(places, self.n) - 1]

    def all_rows(self) -> list[Row]:
        """All rows, oldest first."""
        return self.overlay.rows[: self.n]


def net_changes(rows: list[Row]) -> tuple[Codes, Codes, Codes, Codes, Codes, Codes, Codes]:
    """What rows, oldest first, change against the base.

    Returns:
        add_ea, add_v, add_tx, drop_ea, drop_v sorted by (ea, v), where ea is e << 21 | aid, and the aids of adds and
        drops; a datom that was retracted and added again is in both, so that it gets its new tx.
    """
    if not rows:
        return EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY
    table = np.array(rows, dtype=np.int64)
    ea = table[:, 0] << np.int64(AID_BITS) | table[:, 1]
    order = np.lexsort((table[:, 2], ea))  # stable: equal datoms keep their time order
    ea, table = ea[order], table[order]
    v = table[:, 2]
    changes = (ea[1:] != ea[:-1]) | (v[1:] != v[:-1])
    first = np.concatenate(([True], changes))
    last = np.concatenate((changes, [True]))
    adds = last & (table[:, 4] == 1)
    drops = first & (table[:, 4] == 0)
    return ea[adds], v[adds], table[adds, 3], ea[drops], v[drops], table[adds, 1], table[drops, 1]


def changes_of(rows: list[Row]) -> Changes:
    """The net changes of rows that are all of one attribute, oldest first."""
    if not rows:
        return NO_CHANGES
    if len(rows) == 1:
        e, _, v, tx, added = rows[0]
        one_e, one_v = np.array([e], dtype=np.int64), np.array([v], dtype=np.int64)
        if added:
            return Changes(one_e, one_v, np.array([tx], dtype=np.int64), EMPTY, EMPTY)
        return Changes(EMPTY, EMPTY, EMPTY, one_e, one_v)
    add_ea, add_v, add_tx, drop_ea, drop_v, _, _ = net_changes(rows)
    shift = np.int64(AID_BITS)
    return Changes(add_ea >> shift, add_v, add_tx, drop_ea >> shift, drop_v)
