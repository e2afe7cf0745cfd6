"""Locks between threads that are fair: who waited longest is next.

Python's own locks are not: a thread that saves in a loop takes the lock again before those that wait for it have woken up, and a
stage move behind four busy threads waited for minutes (measured). Here the one who lets go hands the lock over.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FairLock", "Turnstile"]


class FairLock:
    """A reentrant lock that is handed over in the order of asking; a context manager."""

    __slots__ = ("_depth", "_inner", "_owner", "_waiting")

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self._owner = 0
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def acquire(self) -> None:
        """Waits until it is this thread's turn."""
        me = threading.get_ident()
        with self._inner:
            if self._owner == me:
                self._depth += 1
                return
            if not self._owner:
                self._owner, self._depth = me, 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()  # opened by the one who hands over
        except BaseException:  # interrupted: leave the queue, or pass on what was handed over meanwhile
            with self._inner:
                with contextlib.suppress(ValueError):
                    self._waiting.remove((me, turn))
                mine = self._owner == me
            if mine:
                self.release()
            raise

    def release(self) -> None:
        """Lets go, and hands over to who has waited longest."""
        with self._inner:
            self._depth -= 1
            if self._depth:
                return
            if self._waiting:
                self._owner, turn = self._waiting.popleft()
                self._depth = 1
                turn.release()
            else:
                self._owner = 0

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Turnstile:
    """Lets any number pass, and holds them back while it is closed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """One who passes; waits while it is closed."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody is inside, and nobody comes in."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._closed = True
            while self._inside:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()
