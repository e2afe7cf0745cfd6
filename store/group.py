"""Group commit: transactions that wait for the writer's turn together are carried out by whoever has it, in one commit.

A commit that reaches the disk takes as long as the disk's sync, whatever is in it. So a thread that finds the store busy leaves
its wish in a queue and waits; who has the turn carries out what waits, plain transactions that follow each other in
one commit, wakes those it was for, and passes the turn on to one who has come meanwhile. Alone, a thread takes its turn at once
and there is no queue. `Writer` is a thread that does this for those who do not want to wait (`transact_async`).

The turn is not the store's lock: that is taken inside the turn, and by others (readers, loads) for a moment of their own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from store.errors import StorageError, StoreClosed, TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from store.committed import Committed
    from store.snapshot import Snapshot
    from store.transactor import Store

MOST_IN_GROUP: Final = 256  # transactions in one commit
MOST_WAITING: Final = 8192  # wishes in the queue of a writer; whoever brings more waits until some are carried out
_GATHER_S: Final = 0.0001  # how long the turn waits, before a sync of the disk, for those whom it has just answered


class Wish:
    """A transaction that was asked for, and what came of it."""

    __slots__ = ("_woken", "call", "committed", "error", "forms", "strict", "tell", "tx_meta")

    def __init__(
        self,
        forms: list[Any],
        tx_meta: Mapping[Any, Any] | None,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
        tell: Callable[[Wish], Any] | None = None,
    ) -> None:
        self.forms = forms
        self.tx_meta = tx_meta
        self.strict = strict
        self.call = call
        self.committed: Committed | None = None
        self.error: BaseException | None = None
        self.tell = tell  # for a wish that no thread waits for
        self._woken = threading.Lock()
        self._woken.acquire()

    @property
    def done(self) -> bool:
        """True when it was carried out or has failed."""
        return self.committed is not None or self.error is not None

    def wait(self) -> None:
        """Until `wake`, which may have come before."""
        self._woken.acquire()

    def wake(self) -> None:
        """Lets the thread that waits look again."""
        with suppress(RuntimeError):  # woken already
            self._woken.release()

    def result(self) -> Committed:
        """What the transaction did; raises what it failed with."""
        if self.error is not None:
            raise self.error
        assert self.committed is not None
        return self.committed


class Turns:
    """Whose turn it is to write, and what waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._holder: int | None = None  # the thread whose turn it is
        self._together = 1  # transactions in the last commit
        self.waiting: deque[Wish] = deque()
        self.untold: deque[Wish] = deque()  # done, and nobody waits for them: `Writer` tells

    def transact(
        self,
        forms: list[Any],
        tx_meta: Mapping[Any, Any] | None,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
    ) -> Committed:
        """Carries out a transaction: at once when nobody else is at it, else together with those who wait."""
        if not self.waiting and (self._together == 1 or not self._store.env.sync) and self._take():
            try:
                return self._store.transact_alone(forms, tx_meta, strict, call)
            finally:
                self._pass_on()
        wish = Wish(forms, tx_meta, strict, call)
        self.waiting.append(wish)
        while not wish.done:
            if self._take():
                try:
                    self._carry_out(wish)
                finally:
                    self._pass_on()
            else:
                wish.wait()
        return wish.result()

    def carry_out_all(self) -> None:
        """Carries out what waits now, when the turn comes."""
        with self._turn:
            self._holder = threading.get_ident()
            try:
                while self.waiting:
                    self._carry_out(self.waiting[-1])
            finally:
                self._holder = None
        self._wake_next()

    def check_not_mine(self) -> None:
        """Raises `tx/nested` in the thread whose turn it is: a transaction inside one would wait for itself."""
        if self._holder == threading.get_ident():
            raise TransactionError(
                "tx/nested",
                "This transaction was begun by a function that runs inside another one.",
                hint="let the function return what it wants to be added",
            )

    def _take(self) -> bool:
        if not self._turn.acquire(blocking=False):
            return False
        self._holder = threading.get_ident()
        return True

    def _pass_on(self) -> None:
        self._holder = None
        self._turn.release()
        if self.waiting:
            self._wake_next()

    def _wake_next(self) -> None:
        # what the writer's thread brought it comes for itself: whoever waits in person must not depend on it
        wish = next((w for w in list(self.waiting) if w.tell is None), None)
        if wish is not None:
            wish.wake()

    def _settle(self, wish: Wish, committed: Committed | None, error: BaseException | None) -> None:
        wish.committed, wish.error = committed, error
        if wish.tell is not None:
            self.untold.append(wish)
        else:
            wish.wake()

    def _carry_out(self, last: Wish) -> None:
        """Carries out what waits, in order, up to a wish and what is committed with it."""
        waiting = self.waiting
        while waiting and not last.done:
            if len(waiting) < self._together and self._store.env.sync:
                time.sleep(_GATHER_S)
            if self._commit_plain():
                continue
            wish = waiting.popleft()
            self._together = 1
            try:
                committed = self._store.transact_alone(wish.forms, wish.tx_meta, wish.strict, wish.call)
            except BaseException as e:  # noqa: BLE001  it is raised where the wish came from
                self._settle(wish, None, e)
            else:
                self._settle(wish, committed, None)

    def _commit_plain(self) -> bool:
        """One commit of the plain transactions at the head of the queue; False when there was none."""
        taken: list[tuple[Wish, Committed]] = []
        waiting = self.waiting
        try:
            with self._store.plain_commits() as group:
                while waiting and not waiting[0].tx_meta and len(taken) < MOST_IN_GROUP:
                    committed = group.take(waiting[0].forms)
                    if committed is None:
                        break
                    taken.append((waiting.popleft(), committed))
        except BaseException as e:
            # nothing was committed; but an interrupt of this thread is not the others', and may have come after the commit
            error = e if isinstance(e, Exception) else _interrupted()
            for wish, _ in taken:
                self._settle(wish, None, error)
            if not isinstance(e, Exception):
                raise
            return bool(taken)
        for wish, committed in taken:
            self._settle(wish, committed, None)
        self._together = max(1, len(taken))
        return bool(taken)


def _interrupted() -> StorageError:
    return StorageError(
        "store/interrupted", "The thread that was writing this transaction with its own was interrupted.",
        hint="look whether it is there before you try again", retryable=True,
    )  # fmt: skip


class Writer:
    """The thread that carries out wishes nobody waits for, in their order. Begun with the first, ended by `stop`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._changed = threading.Condition()
        self._idle = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def bring(self, wish: Wish) -> None:
        """Leaves a wish; waits when too many are there already, save in the writer's own thread."""
        turns = self._turns
        if len(turns.waiting) >= MOST_WAITING and threading.current_thread() is not self._thread:
            with self._changed:
                while len(turns.waiting) >= MOST_WAITING and not self._stopped:
                    self._changed.wait()
        turns.waiting.append(wish)
        if self._stopped:
            with suppress(ValueError):  # the thread took it before it ended
                turns.waiting.remove(wish)
                raise StoreClosed("store/closed", "The database was closed.", hint="connect to it again")
        if self._idle or self._thread is None:  # the writer looks at the queue after it says that it is idle
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="datalog-writer", daemon=True)
                    self._thread.start()
                self._changed.notify_all()

    def _serve(self) -> None:
        turns, changed = self._turns, self._changed
        while True:
            with changed:
                self._idle = True
                while not (turns.waiting or turns.untold or self._stopped):
                    changed.wait()
                self._idle = False
                if not turns.waiting and not turns.untold:
                    return
            turns.carry_out_all()
            while turns.untold:
                wish = turns.untold.popleft()
                assert wish.tell is not None
                wish.tell(wish)
            with changed:
                changed.notify_all()

    def stop(self) -> None:
        """Carries out what waits, then ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


def answer(future: Future[Any], make: Callable[[Committed], Any]) -> Callable[[Wish], None]:
    """What resolves a future with what `make` says of a wish that was carried out."""

    def tell(wish: Wish) -> None:
        try:
            result = make(wish.result())
        except BaseException as e:  # noqa: BLE001  it is the future's to raise
            future.set_exception(e)
        else:
            future.set_result(result)

    return tell
