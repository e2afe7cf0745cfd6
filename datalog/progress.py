"""Bar: progress of long work on a stream, as `step(name, done, of)` calls tell it.

On a terminal one line redraws itself, with the time that is left; elsewhere each step is one line, or nothing at all. It
needs no package: a bar that looks the same with and without the extras is one thing less to wonder about.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_BAR: Final = 30  # cells of the bar
_REDRAW_S: Final = 0.1
_LEFT_FROM_S: Final = 2.0  # before that nobody can say how long it takes


class Bar:
    """Progress on a stream: a bar that redraws itself on a terminal, a line for each step elsewhere.

    Call it with (step, done, of); `of` 0: nobody knows how much there is. `shown=None`: on a terminal only.
    """

    def __init__(self, out: TextIO, *, shown: bool | None = None) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._shown = self._terminal if shown is None else shown
        self._step = ""
        self._drawn_at = 0.0
        self._width = 0
        self._began = time.perf_counter()

    def __call__(self, step: str, done: int, of: int) -> None:
        """So much of a step is done."""
        if not self._shown:
            return
        now = time.perf_counter()
        if step != self._step:
            self._finish_line()
            self._step, self._began = step, now
            if not self._terminal:
                self._out.write(f"{step} ...\n")
        elif self._terminal and done < of and now - self._drawn_at < _REDRAW_S:
            return
        if self._terminal:
            self._draw(done, of, now - self._began)
            self._drawn_at = now

    def _draw(self, done: int, of: int, seconds: float) -> None:
        filled = _BAR * min(done, of) // of if of else 0
        count = f" {done:,} of {of:,}" if of else f" {done:,}" if done else ""
        left = ""
        if 0 < done < of and seconds > _LEFT_FROM_S:
            left = f", {seconds * (of - done) / done:,.0f} s left"
        line = f"{self._step:<20} [{'#' * filled}{'.' * (_BAR - filled)}]{count}  {seconds:.1f} s{left}"
        self._out.write(f"\r{line:<{self._width}}")
        self._width = len(line)
        self._out.flush()

    def _finish_line(self) -> None:
        if self._terminal and self._step:
            self._out.write("\n")
            self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self._shown:
            self._finish_line()
            self._out.flush()
