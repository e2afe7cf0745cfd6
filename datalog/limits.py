"""Limits: what one query may cost, and the budget that counts it down.

Place on the path: `query.q` makes a `Budget` from the caller's `Limits`; engine, kernels' callers, fixpoint, pull and the
naive evaluator charge it. Sizes are charged *before* the arrays are allocated, time is looked at between kernels and
inside every loop over rows, so that an exceeded budget raises instead of exhausting the machine. Nothing is undone by the
raise: a query never writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from store.errors import QueryError


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
    memory_bytes: int | None = None  # of the columns made by one step
    text_bytes: int | None = None  # of the query text
    nesting: int | None = None  # of forms in the query text

    @classmethod
    def untrusted(cls) -> Limits:
        """Limits for a query text that came from outside: 1 s, 10^5 rows, 10^6 derivations, 256 MiB, 64 KiB, depth 64."""
        return cls(
            timeout_s=1.0, rows=100_000, derivations=1_000_000, memory_bytes=256 << 20, text_bytes=64 << 10, nesting=64
        )


MOST_ROWS = 10**9  # of one step, when no memory limit says otherwise: beyond any machine that this runs on
_MOST_CODES_A_SECOND = 2 * 10**8  # written by one step: about what one core does


class Budget:
    """The running account of one query against its `Limits`. Confined to one thread.

    1. made when the query starts (the clock runs from here);
    2. `check` between steps, `charge` before a step allocates rows;
    3. thrown away with the query.
    """

    __slots__ = ("_deadline", "_left", "_limits", "_timeout_s", "unlimited")

    def __init__(self, limits: Limits | None, timeout_s: float | None = None) -> None:
        self._limits = limits
        given = limits.timeout_s if limits is not None else None
        self._timeout_s = min((t for t in (given, timeout_s) if t is not None), default=None)
        self._deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        self._left = limits.derivations if limits is not None else None
        self.unlimited = limits is None and self._deadline is None

    def check(self) -> None:
        """Raise `query/timeout` when the time is over."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise QueryError(
                "query/timeout",
                f"The query was stopped after {self._timeout_s:g} s.",
                hint="bind more variables, add a clause that selects, or allow more time with Limits(timeout_s=...)",
            )

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
        self._check_limits(rows, width)
        self._check_pace(rows * (width + 3))

    def _check_limits(self, rows: int, width: int) -> None:
        limits = self._limits
        if limits is None:
            return
        if self._left is not None:
            self._left -= rows
            if self._left < 0:
                raise self._over("derivations", limits.derivations)
        # 3 columns: a join holds its two sides' row numbers and one gathered column at the same time
        if limits.memory_bytes is not None and rows * 8 * (width + 3) > limits.memory_bytes:
            raise self._over("memory_bytes", limits.memory_bytes)

    def _check_pace(self, codes: int) -> None:
        """Raise `query/timeout` now for a step that no machine ends in the time that is left."""
        if (
            self._deadline is not None
            and codes > _MOST_CODES_A_SECOND * max(self._deadline - time.monotonic(), 0.0) + 10**7
        ):
            raise QueryError(
                "query/timeout",
                f"The query was stopped: one step of it would last longer than the {self._timeout_s:g} s it has.",
                hint="bind more variables, add a clause that selects, or allow more time with Limits(timeout_s=...)",
            )

    def charge_values(self, values: list[Any]) -> None:
        """Count the characters and members of values that a function made; raise `query/limit` when they are too many."""
        limits = self._limits
        if limits is None or limits.memory_bytes is None:
            return
        size = 0
        for value in values:
            if isinstance(value, str | bytes | tuple):
                size += len(value)
        if size > limits.memory_bytes // 4:  # a value may be held a few times over while it is worked on
            raise self._over("memory_bytes", limits.memory_bytes)

    def charge_rows(self, rows: int) -> None:
        """Raise `query/limit` when an answer of so many rows is over the limit."""
        limits = self._limits
        if limits is not None and limits.rows is not None and rows > limits.rows:
            raise self._over("rows", limits.rows)

    @staticmethod
    def _over(name: str, limit: int | None) -> QueryError:
        return QueryError(
            "query/limit",
            f"The query needs more than its limit of {limit} {name.replace('_', ' ')}.",
            hint=f"bind more variables, add a clause that selects, or allow more with Limits({name}=...)",
        )
