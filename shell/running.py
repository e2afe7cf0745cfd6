"""Running a query so that Ctrl-C ends it: the work in a thread of its own, the terminal's thread waiting.

A signal reaches only the main thread, and only between two steps of Python; a join over arrays may take seconds. The kernels
of numpy let other threads run, so the waiting thread hears Ctrl-C at once and

    1. sets the query's `Stop`: it ends at its next step;
    2. after a moment raises `Stopped` in it, for loops of Python that look at no budget;
    3. when it is still in one large step, gives the terminal back and lets the step end in the background.
"""

from __future__ import annotations

import ctypes
import signal
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


class _Piece:
    """Work in a thread of its own, with what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._outcome: Any = None
        self._failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="work", daemon=True)

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as e:  # noqa: BLE001 - carried over to the thread that waits
            self._failure = e

    def wait(self) -> None:
        """Until the work is over, hearing Ctrl-C meanwhile."""
        while self.thread.is_alive():
            self.thread.join(_TICK_S)

    def result(self) -> Any:
        """What the work returned; raises what it raised."""
        if self._failure is not None:
            raise self._failure
        return self._outcome


class Runner:
    """Runs pieces of work one after another, each in a thread. `lingering` are those that did not end when asked to."""

    def __init__(self) -> None:
        self.lingering: list[threading.Thread] = []

    def run(self, work: Callable[[], Any], stop: Stop) -> Any:
        """What `work()` returns or raises; `stop` is the switch that it watches.

        Raises:
            Interrupted: Ctrl-C came first.
        """
        piece = _Piece(work)
        try:
            piece.thread.start()
            piece.wait()
        except KeyboardInterrupt:
            raise self._stopped(piece.thread, stop) from None
        return piece.result()

    @staticmethod
    def finish(work: Callable[[], Any]) -> Any:
        """What `work()` returns or raises; Ctrl-C is not heard until it is over: a transaction that was begun is made."""
        if threading.current_thread() is not threading.main_thread():
            return work()  # signals come to the main thread alone
        before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
        try:
            return work()
        finally:
            signal.signal(signal.SIGINT, before)

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
