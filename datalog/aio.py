"""aio: a database in a program of asyncio. Nothing here blocks the event loop.

    from datalog import aio

    async with aio.connect("people.db") as conn:
        await conn.transact([{":person/name": "Ada"}])
        rows = await conn.q("[:find ?n :where [_ :person/name ?n]]")

- Transactions go to the writer's thread of the store, in the order in which they were begun; those that wait together share
  a commit, so a server with many small ones needs one sync of the disk for all of them. A task that is cancelled while it
  waits does not take its transaction back.
- Queries run in a pool of `workers` threads; more wait for their turn. A task that is cancelled, or times out
  (`asyncio.timeout`), stops its query: in the queue at once, on its way at its next step.
- Leaving the block stops queries, waits for transactions, closes the connection.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from datalog import api
from datalog.limits import Limits, Stop
from store.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")

__all__ = ["AsyncConnection", "AsyncDb", "connect"]

_MOST_BEGUN = 4096  # transactions that are in the hands of the writer; half of what would make it block
_LONG_TEXT = 1 << 16  # characters of a transaction's text that the loop reads itself


class _Linked(Stop):
    """The switch of one query, which ends when the caller's own switch is thrown too."""

    __slots__ = ("_mine", "_other")

    def __init__(self, other: Stop | None) -> None:
        self._mine = False
        self._other = other

    @property
    def stopped(self) -> bool:  # type: ignore[override]
        """Whether either was thrown."""
        return self._mine or (self._other is not None and self._other.stopped)

    def stop(self) -> None:
        """End this query."""
        self._mine = True


class AsyncDb:
    """A database value whose questions are awaited; `value` is the `Db` itself."""

    __slots__ = ("_conn", "value")

    def __init__(self, value: api.Db, conn: AsyncConnection) -> None:
        self.value = value
        self._conn = conn

    async def q(self, query: Any, *inputs: Any, limits: Limits | None = None) -> Any:
        """The answer to a query whose first input is this database; cancelling the task stops it."""
        return await self._conn.ask(self.value.q, query, *inputs, limits=limits)

    async def pull(self, pattern: Any, eid: Any) -> Any:
        """`Db.pull`."""
        return await self._conn.run(self.value.pull, pattern, eid)

    async def pull_many(self, pattern: Any, eids: Iterable[Any]) -> list[Any]:
        """`Db.pull_many`."""
        return await self._conn.run(self.value.pull_many, pattern, list(eids))

    async def load(self, cls: type[T], ref: Any) -> T:
        """`Db.load`: the object of a dataclass."""
        return await self._conn.run(self.value.load, cls, ref)

    async def load_all(self, cls: type[T]) -> list[T]:
        """`Db.load_all`."""
        return await self._conn.run(self.value.load_all, cls)

    def __repr__(self) -> str:
        return f"<AsyncDb {self.value!r}>"


class AsyncConnection:
    """A connection whose calls are awaited. Made by `connect`; belongs to the event loop in which it was opened."""

    def __init__(self, open_it: Callable[[], api.Connection], workers: int) -> None:
        self._open_it = open_it
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="datalog-aio")
        self._conn: api.Connection | None = None
        self._closed = False
        self._opening = asyncio.Lock()  # one task opens, others wait for it; so does who closes
        self._begun = asyncio.Semaphore(_MOST_BEGUN)
        self._running: set[_Linked] = set()

    @property
    def connection(self) -> api.Connection:
        """The connection underneath, for what has no coroutine; its calls block."""
        if self._conn is None:
            raise _not_open()
        return self._conn

    async def open(self) -> Self:
        """Opens the connection; `async with` does it."""
        async with self._opening:
            if self._conn is None and not self._closed:
                opening = asyncio.get_running_loop().run_in_executor(self._pool, self._open_it)
                try:
                    conn = await asyncio.shield(opening)
                except asyncio.CancelledError:
                    opening.add_done_callback(_close_unused)
                    raise
                if self._closed:  # while it was opened
                    await asyncio.to_thread(conn.close)
                else:
                    self._conn = conn
        return self

    async def close(self) -> None:
        """Stops queries, waits for transactions, closes the connection. Closing twice is no fault."""
        self._closed = True
        for stop in self._running:
            stop.stop()
        try:
            async with self._opening:
                conn, self._conn = self._conn, None
            if conn is not None:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._pool, conn.close))
        finally:
            self._pool.shutdown(wait=False)  # what it was given is done

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The result of a blocking call, made in the pool: `await conn.run(conn.connection.update_schema, {...})`."""
        if self._closed:
            raise _not_open()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*arguments, **named))

    async def ask(self, ask: Callable[..., T], *inputs: Any, limits: Limits | None = None) -> T:
        """The result of a call that takes `limits`, made in the pool and stopped when the task is cancelled."""
        stop = _Linked(limits.stop if limits is not None else None)
        bounded = replace(limits or Limits(), stop=stop)
        given = [i.value if isinstance(i, AsyncDb) else i for i in inputs]
        self._running.add(stop)
        try:
            return await self.run(ask, *given, limits=bounded)
        finally:
            stop.stop()  # without effect on a query that has ended
            self._running.discard(stop)

    def db(self) -> AsyncDb:
        """The database as it is now: an immutable value whose questions are awaited."""
        return AsyncDb(self.connection.db(), self)

    async def q(self, query: Any, *inputs: Any, limits: Limits | None = None) -> Any:
        """The answer to a query whose first input is the database as it is now; cancelling the task stops it."""
        return await self.db().q(query, *inputs, limits=limits)

    async def pull(self, pattern: Any, eid: Any) -> Any:
        """`Db.pull` on the database as it is now."""
        return await self.db().pull(pattern, eid)

    async def transact(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> api.TxReport:
        """Makes a transaction; returns its report once it is committed. Cancelling the task does not take it back.

        Raises:
            TransactionError, SchemaError, EdnError, StorageError: as `Connection.transact`.
        """
        conn = self.connection
        async with self._begun:
            if isinstance(tx_data, str) and len(tx_data) > _LONG_TEXT:
                future = await self.run(conn.transact_async, tx_data, tx_meta)
            else:
                future = conn.transact_async(tx_data, tx_meta)
            return await asyncio.wrap_future(future)

    async def load(self, columns: Any, schema: Any = None) -> api.TxReport:
        """`Connection.load`: bulk import of columns."""
        return await self.run(self.connection.load, columns, schema)

    async def save(self, thing: Any) -> int:
        """`Connection.save`: an object of a dataclass."""
        return await self.run(self.connection.save, thing)

    async def save_all(self, things: Iterable[Any]) -> list[int]:
        """`Connection.save_all`."""
        return await self.run(self.connection.save_all, list(things))

    def __repr__(self) -> str:
        return f"<AsyncConnection {'closed' if self._conn is None else repr(str(self._conn.path))}>"


def _close_unused(opening: asyncio.Future[api.Connection]) -> None:
    """Closes a connection whose opener was cancelled while it was opened."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _not_open() -> StoreClosed:
    return StoreClosed("store/closed", "This connection is not open.", hint="async with aio.connect(path) as conn: ...")


def connect(path: str | Path | None = None, schema: Any = None, *, workers: int = 4, **options: Any) -> AsyncConnection:
    """A connection for `async with`, or to be awaited: opened there, in a thread of its own.

    Args:
        path: as `datalog.connect` takes it; None for an ephemeral database.
        schema: the same.
        workers: queries that run at the same time; the others wait.
        options: `sync`, `read_only`, `strict` of `datalog.connect`.
    """
    return AsyncConnection(lambda: api.connect(path, schema, **options), workers)
