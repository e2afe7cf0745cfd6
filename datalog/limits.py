"""Limits: what one query may cost, and the budget that counts it down.

Place on the path: `query.q` makes a `Budget` from the caller's `Limits`; engine, kernels' callers, fixpoint, pull and the
naive evaluator charge it. Sizes are charged *before* the arrays are allocated, time is looked at between kernels and
inside every loop over rows, so that an exceeded budget raises instead of exhausting the machine. Nothing is undone by the
raise: a query never writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from store.errors import QueryError


class Stop:
    """A switch that ends a query from another thread: pass it as `Limits(stop=...)`, call `stop()` when it is no longer wanted.

    The query raises `query/stopped` at its next step; a step in the midst of its arrays ends first.
    """

    __slots__ = ("stopped",)

    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        """End the queries that have this switch, now and from now on."""
        self.stopped = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a query may cost; None means without limit.

    Example:
        >>> Limits.untrusted().rows
        100000
    """

    timeout_s: float | None = None  # wall time of one call
    rows: int | None = None  # rows of the answer
    derivations: int | None = None  # rows made by all joins, functions and rules together
    memory_bytes: int | None = None  # of columns and values held at one time, as counted before they are made
    text_bytes: int | None = None  # of the query text
    nesting: int | None = None  # of forms in the query text
    stop: Stop | None = None  # a switch that ends it from another thread

    @classmethod
    def untrusted(cls) -> Limits:
        """Limits for a query text that came from outside: 1 s, 10^5 rows, 10^6 derivations, 256 MiB, 64 KiB, depth 64."""
        return cls(
            timeout_s=1.0, rows=100_000, derivations=1_000_000, memory_bytes=256 << 20, text_bytes=64 << 10, nesting=64
        )


MOST_ROWS = 10**9  # of one step, when no memory limit says otherwise: beyond any machine that this runs on
_NANOSECONDS_A_CODE = 4  # to make one of a step: what one core does
_SLACK_S = 0.02
_BYTES_A_VALUE = 200  # of an object, its key and its entry in the query's dictionary
_BYTES_A_MEMBER = 60
_LARGE_VALUE = 1 << 16
_NANOSECONDS_A_BYTE = 20  # to encode a value that has members
_INLINE = (bool, float, int)


class Budget:
    """The running account of one query against its `Limits`. Confined to one thread.

    1. made when the query starts (the clock runs from here);
    2. `check` between steps, `charge` before a step allocates rows;
    3. thrown away with the query.
    """

    __slots__ = ("_deadline", "_held", "_left", "_limits", "_made", "_stop", "_timeout_s", "unlimited")

    def __init__(self, limits: Limits | None, timeout_s: float | None = None) -> None:
        self._limits = limits
        given = limits.timeout_s if limits is not None else None
        self._timeout_s = min((t for t in (given, timeout_s) if t is not None), default=None)
        self._deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        self._stop = limits.stop if limits is not None else None
        self._left = limits.derivations if limits is not None else None
        self._held = 0  # bytes of columns that are kept while others are made
        self._made = 0  # bytes of values that functions made: the query's dictionary keeps them to its end
        self.unlimited = limits is None and self._deadline is None

    def check(self, size: int = 0) -> None:
        """Raise `query/timeout` when the time is over, `query/limit` when a value of `size` bytes would be too large.

        And `query/stopped` when somebody asked for it.
        """
        if self._stop is not None and self._stop.stopped:
            raise QueryError("query/stopped", "The query was stopped.", hint="ask it again, or ask for less")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise QueryError(
                "query/timeout",
                f"The query was stopped after {self._timeout_s:g} s.",
                hint="bind more variables, add a clause that selects, or allow more time with Limits(timeout_s=...)",
            )
        if size:
            self._check_memory(size)

    def charge(self, rows: int, width: int = 1) -> None:
        """Count rows about to be made, `width` columns each; raise `query/limit` when that is over a limit."""
        if rows > MOST_ROWS and (self._limits is None or self._limits.memory_bytes is None):
            raise QueryError(
                "query/limit",
                f"One step of the query would make {rows:,} rows, more than {MOST_ROWS:,}.",
                hint="join the clauses on a variable, or allow it with Limits(memory_bytes=...)",
            )
        if self.unlimited:
            return
        self.check()
        if self._left is not None:
            self._left -= rows
            if self._left < 0:
                raise self._over("derivations")
        # 3 columns: a join holds its two sides' row numbers and one gathered column at the same time
        self._check_memory(rows * 8 * (width + 3))
        self._check_pace(rows * (width + 3) * _NANOSECONDS_A_CODE)

    def reserve(self, rows: int, width: int, nanoseconds: int) -> None:
        """Raise unless a step over rows, such as a sort, fits: `width` codes of memory and so much time for each of them."""
        if self.unlimited:
            return
        self.check(rows * 8 * width)
        self._check_pace(rows * nanoseconds)

    def hold(self, size: int) -> None:
        """Count bytes that are kept from now on; a negative size gives them back."""
        self._held += size

    def _check_memory(self, size: int) -> None:
        limits = self._limits
        if limits is None or limits.memory_bytes is None:
            return
        if self._held + self._made + size > limits.memory_bytes:
            raise self._over("memory_bytes")

    def _check_pace(self, nanoseconds: int) -> None:
        """Raise `query/timeout` now for a step that cannot end in the time that is left."""
        if self._deadline is None:
            return
        left = max(self._deadline - time.monotonic(), 0.0)
        if nanoseconds > (left + _SLACK_S) * 1e9:
            raise QueryError(
                "query/timeout",
                f"The query was stopped: one step of it would last longer than the {self._timeout_s:g} s it has.",
                hint="bind more variables, add a clause that selects, or allow more time with Limits(timeout_s=...)",
            )

    def charge_values(self, values: list[Any]) -> None:
        """Count values that a function made; raise `query/limit` when all of them together are too large."""
        if self.unlimited:
            return
        limits = self._limits
        most = None if limits is None else limits.memory_bytes
        for value in values:
            if value is None or type(value) in _INLINE:
                continue
            size = _size_of(value, most)
            self._made += _BYTES_A_VALUE + size
            if most is not None and self._held + self._made > most:
                raise self._over("memory_bytes")
            if size > _LARGE_VALUE:
                self._check_pace(size * _NANOSECONDS_A_BYTE)

    def charge_rows(self, rows: int) -> None:
        """Raise `query/limit` when an answer of so many rows is over the limit."""
        limits = self._limits
        if limits is not None and limits.rows is not None and rows > limits.rows:
            raise self._over("rows")

    def _over(self, name: str) -> QueryError:
        limit = getattr(self._limits, name)
        return QueryError(
            "query/limit",
            f"The query needs more than its limit of {limit} {name.replace('_', ' ')}.",
            hint=f"bind more variables, add a clause that selects, or allow more with Limits({name}=...)",
        )


def _size_of(value: Any, most: int | None) -> int:
    """About how many bytes a value takes, its members included as often as they occur; the count stops above `most`."""
    if isinstance(value, str | bytes):
        return len(value)
    size, pending = 0, [value]
    while pending and (most is None or size <= most):
        found = pending.pop()
        size += _BYTES_A_MEMBER
        if isinstance(found, str | bytes):
            size += len(found)
        elif isinstance(found, int):
            size += found.bit_length() // 8
        elif isinstance(found, Mapping):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, tuple | list | AbstractSet):
            pending += found
    return size
