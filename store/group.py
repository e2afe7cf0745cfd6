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
    from store.environment import Environment
    from store.snapshot import Snapshot
    from store.transactor import Transactor

MOST_IN_GROUP: Final = 256  # transactions in one commit
MOST_WAITING: Final = 8192  # wishes in the queue of a writer; whoever brings more waits until some are carried out
_GATHER_S: Final = 0.0001  # how long the turn waits, before a sync of the disk, for those whom it has just answered


class Wish:
    """A transaction that was asked for, and what came of it."""

    __slots__ = ("_woken", "call", "committed", "error", "forms", "strict", "tell", "tx_meta", "withdrawn")

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
        self.withdrawn = False  # by its thread, which was interrupted while it waited
        self._woken = threading.Lock()
        self._woken.acquire()

    @property
    def done(self) -> bool:
        """True when it was carried out or has failed."""
        return self.committed is not None or self.error is not None

    @property
    def over(self) -> bool:
        """True when there is nothing to do for it."""
        return self.withdrawn or self.done

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

    def __init__(self, transactor: Transactor, env: Environment) -> None:
        self._transactor = transactor
        self._env = env
        self._turn = threading.RLock()  # never taken twice: it is one that knows whose it is
        self._holder: int | None = None  # the thread whose turn it is
        self._together = 1  # transactions in the last commit
        self.waiting: deque[Wish] = deque()
        self.untold: deque[Wish] = deque()  # done, and nobody waits for them: `Writer` tells
        self.on_untold: Callable[[], None] | None = None  # called after a turn that left some

    def transact(
        self,
        forms: list[Any],
        tx_meta: Mapping[Any, Any] | None,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
    ) -> Committed:
        """Carries out a transaction: at once when nobody else is at it, else together with those who wait."""
        # An interrupt comes when a function begins or a call has ended. So the lock is taken and released right here, and
        # where it is released it may be that nobody noted any more that it was taken.
        me, turn = threading.get_ident(), self._turn
        wish: Wish | None = None
        try:
            if self.waiting or (self._together > 1 and self._env.sync):
                wish = Wish(forms, tx_meta, strict, call)
                self.waiting.append(wish)
            while wish is None or not wish.done:
                taken = False
                try:
                    if turn.acquire(blocking=False):
                        taken = True
                        self._holder = me
                        if wish is None:
                            return self._transactor.transact_alone(forms, tx_meta, strict, call)
                        self._carry_out(wish)
                finally:
                    if self._holder == me:
                        self._holder = None
                    try:  # noqa: SIM105 - a call more
                        turn.release()
                    except RuntimeError:  # it is another's
                        pass
                    if taken:
                        self._turn_over()
                if wish is None:
                    wish = Wish(forms, tx_meta, strict, call)
                    self.waiting.append(wish)
                elif not taken:
                    wish.wait()
        except BaseException as e:
            if wish is not None:
                wish.withdrawn = True
            if not isinstance(e, Exception):
                self._env.end_write()
            self._turn_over()  # this thread may have been woken to take the next turn, or stopped on its way to wake another
            raise
        return wish.result()

    def carry_out_all(self) -> None:
        """Carries out what waits now, when the turn comes."""
        with self._turn:
            self._holder = threading.get_ident()
            try:
                self._carry_out(None)
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

    def _turn_over(self) -> None:
        if self.waiting:
            self._wake_next()
        if self.untold and self.on_untold is not None:
            self.on_untold()

    def _wake_next(self) -> None:
        # what the writer's thread brought it comes for itself: whoever waits in person must not depend on it
        wish = next((w for w in list(self.waiting) if w.tell is None and not w.over), None)
        if wish is not None:
            wish.wake()

    def _settle(self, wish: Wish, committed: Committed | None, error: BaseException | None) -> None:
        wish.committed, wish.error = committed, error
        if wish.tell is not None:
            self.untold.append(wish)
        else:
            wish.wake()

    def _carry_out(self, last: Wish | None) -> None:
        """Carries out what waits, in order, up to a wish and what is committed with it; None for all."""
        waiting = self.waiting
        while waiting and not (last is not None and last.done):
            if len(waiting) < self._together and self._env.sync:
                time.sleep(_GATHER_S)
            if self._commit_plain() or not waiting:
                continue
            wish = waiting.popleft()
            self._together = 1
            try:
                committed = self._transactor.transact_alone(wish.forms, wish.tx_meta, wish.strict, wish.call)
            except BaseException as e:
                # an error is raised where the wish came from; an interrupt is this thread's
                if isinstance(e, Exception) or last is None or wish is last:
                    self._settle(wish, None, e)
                else:
                    self._settle(wish, None, _interrupted())
                    raise
            else:
                self._settle(wish, committed, None)

    def _commit_plain(self) -> bool:
        """One commit of the plain transactions at the head of the queue; False when there was none."""
        taken: list[tuple[Wish, Committed]] = []
        waiting = self.waiting
        try:
            with self._transactor.plain_commits() as group:
                while waiting and len(taken) < MOST_IN_GROUP:
                    wish = waiting[0]
                    if not wish.over:
                        committed = None if wish.tx_meta else group.take(wish.forms)
                        if committed is None:
                            break
                        taken.append((wish, committed))
                    waiting.popleft()
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
        turns.on_untold = self._look

    def bring(self, wish: Wish) -> None:
        """Leaves a wish; waits when too many are there already, save in the writer's own thread."""
        waiting = self._turns.waiting
        with self._changed:
            while len(waiting) >= MOST_WAITING and threading.current_thread() is not self._thread and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise StoreClosed("store/closed", "The database was closed.", hint="connect to it again")
            waiting.append(wish)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="datalog-writer", daemon=True)
                self._thread.start()
            if self._idle:
                self._changed.notify_all()

    def _look(self) -> None:
        if self._idle:  # the writer says so before it looks
            with self._changed:
                self._changed.notify_all()

    def _serve(self) -> None:
        turns, changed = self._turns, self._changed
        stopped = False
        while not stopped:
            with changed:
                self._idle = True
                while not (turns.waiting or turns.untold or self._stopped):
                    changed.wait()
                self._idle = False
                stopped = self._stopped  # then nothing more is brought
            turns.carry_out_all()  # and after this turn all is done that was, by whoever
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
