"""Running a query so that Ctrl-C ends it: the work in a thread of its own, the terminal's thread waiting.

A signal reaches only the main thread, and only between two steps of Python; a join over arrays may take seconds. The kernels
of numpy let other threads run, so the waiting thread hears Ctrl-C at once and

    1. sets the query's `Stop`: it ends at its next step;
    2. after a moment raises `Stopped` in it, for loops of Python that look at no budget;
    3. when it is still in one large step, gives the terminal back and lets the step end in the background.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from datalog.limits import Stop

__all__ = ["Interrupted", "Runner"]

_TICK_S: Final = 0.02
_PATIENCE_S: Final = 0.08  # for each of the steps 1 and 2


class Stopped(BaseException):
    """Raised inside the work, so that it ends."""


class Interrupted(Exception):  # noqa: N818 - it is what somebody wanted, not an error
    """Ctrl-C ended the work; `ended` says whether its thread is over."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__("interrupted")
        self.ended = ended


class Runner:
    """Runs pieces of work one after another, each in a thread. `lingering` are those that did not end when asked to."""

    def __init__(self) -> None:
        self.lingering: list[threading.Thread] = []

    def run(self, work: Callable[[], Any], stop: Stop) -> Any:
        """What `work()` returns or raises; `stop` is the switch that it watches.

        Raises:
            Interrupted: Ctrl-C came first.
        """
        outcome: list[Any] = []
        failure: list[BaseException] = []

        def target() -> None:
            try:
                outcome.append(work())
            except BaseException as e:  # noqa: BLE001 - carried over to the thread that waits
                failure.append(e)

        thread = threading.Thread(target=target, name="query", daemon=True)
        try:
            thread.start()
            while thread.is_alive():
                thread.join(_TICK_S)
        except KeyboardInterrupt:
            raise self._stopped(thread, stop) from None
        if failure:
            raise failure[0]
        return outcome[0]

    def _stopped(self, thread: threading.Thread, stop: Stop) -> Interrupted:
        try:
            stop.stop()
            thread.join(_PATIENCE_S)
            if thread.is_alive() and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
                thread.join(_PATIENCE_S)
        except KeyboardInterrupt:  # pressed again: all the same
            pass
        if thread.is_alive():
            self.lingering.append(thread)
        return Interrupted(ended=not thread.is_alive())

    def is_idle(self) -> bool:
        """Whether everything that was stopped has ended."""
        self.lingering = [t for t in self.lingering if t.is_alive()]
        return not self.lingering
