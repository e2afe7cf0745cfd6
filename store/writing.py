"""Writing into LMDB: the one write transaction, and small commits of a private database that LMDB gets later.

`begin_write` begins LMDB's write transaction. `begin_small` is for commits of little: a log entry and the meta record. In most
databases it is the same. A *private* database (an ephemeral one: no other process may open it, and it is deleted when
it closes) has nobody who would look into LMDB for such a commit, and LMDB takes a third of its time. So it is kept in
memory (`Held`) until somebody reads the log there or LMDB is written for another reason; see decision 0010.

Only log entries and the meta record are ever held. Whatever else a transaction turns out to need (a value that the dictionary's
cache does not have, a merge) begins LMDB's transaction after all, and what was put before goes there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from store.environment import META_KEY, LmdbError, ReadTxn, convert_error
from store.errors import StoreFull

if TYPE_CHECKING:
    from collections.abc import Iterable

    from store.environment import Environment, Meta


def begin_write(env: Environment) -> WriteTxn:
    """LMDB's write transaction, for a `with` block: committed when it ends, aborted when it raises or wrote nothing."""
    if env.held is None:
        return WriteTxn(env, env.begin_write_raw())
    txn = PrivateTxn(env, env.held)
    txn.begin()
    return txn


def begin_small(env: Environment) -> WriteTxn:
    """As `begin_write`, for a commit that is likely to be small: one of a private database need not reach LMDB at once."""
    if env.held is None:
        return WriteTxn(env, env.begin_write_raw())
    env.check_usable()
    return PrivateTxn(env, env.held)


def make_private(env: Environment) -> None:
    """Keeps other processes out, where that can be done, and lets small commits be held from now on."""
    if env.lock_exclusive():
        env.held = Held(env)


class WriteTxn(ReadTxn):
    """The one write transaction of the environment, for a `with` block. Of one thread, so that its reads need no lock."""

    __slots__ = ("touched",)

    def __init__(self, env: Environment, txn: Any) -> None:
        super().__init__(env, txn)
        self.touched = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        env, raw = self._env, self._txn
        if error is not None or not self.touched:
            raw.abort()
            if isinstance(error, LmdbError):
                raise convert_error(error, env.path) from error
            return
        try:
            raw.commit()
        except LmdbError as e:
            converted = convert_error(e, env.path)
            if not isinstance(converted, StoreFull) or converted.code == "store/disk-full":
                env.poisoned = str(e)
            raise converted from e

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        try:
            value: bytes | None = self._txn.get(key)
        except LmdbError as e:
            raise convert_error(e, self._env.path) from e
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Sets the value under a key."""
        self.touched = True
        self._txn.put(key, value)

    def put_log(self, key: bytes, value: bytes) -> None:
        """Sets an entry of the log."""
        self.put(key, value)

    def put_meta(self, meta: Meta) -> bytes:
        """Sets the meta record; its bytes."""
        data = meta.encode()
        self.put(META_KEY, data)
        return data

    def delete(self, key: bytes) -> None:
        """Removes a key."""
        self.touched = True
        self._txn.delete(key)

    def put_sorted(self, items: Iterable[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Sets many values; the keys come in order, which saves LMDB most of the search.

        With `append` they are above all keys there are: pages are then filled instead of being split in halves.
        """
        self.touched = True
        with self._txn.cursor() as cursor:
            cursor.putmulti(items, append=append)


class Held:
    """Small commits of a private database that LMDB has not got: their log entries, and the meta record after the last.

    `meta` is that of the newest commit, wherever it is; None from a commit of LMDB until its meta record has been read again.
    Added to by whoever holds the store's lock; put into LMDB by any thread that reads the log there.
    """

    __slots__ = ("_entries", "_env", "_lock", "commits", "meta")

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._entries: dict[bytes, bytes] = {}
        self.meta: Meta | None = None
        self.commits = 0  # of LMDB, since somebody set this to 0

    def add(self, key: bytes, entry: bytes, meta: Meta) -> None:
        """One more commit."""
        with self._lock:
            self._entries[key] = entry
            self.meta = meta  # no call between the two, so no interrupt

    def settle(self) -> None:
        """Brings LMDB up to date."""
        if not self._entries:
            return
        self._env.check_usable()  # in a forked child a thread of the parent may have the lock for ever
        with self._lock:
            # nobody is in LMDB's write transaction: before it begins there is nothing left here, and nothing comes until it ends
            meta = self.meta
            if self._entries and meta is not None:
                try:
                    with WriteTxn(self._env, self._env.begin_write_raw()) as txn:
                        txn.put_sorted(list(self._entries.items()))
                        txn.put_meta(meta)
                except BaseException:
                    self._env.end_write()  # an interrupt may have come before the block that ends it
                    raise
                self._entries = {}
                self.commits += 1


class PrivateTxn(WriteTxn):
    """A commit of a private database: held if it is one log entry and the meta record, else LMDB's write transaction.

    That begins when it is asked for: whatever the base does asks for `_txn`, which is not there before.
    """

    __slots__ = ("_begun", "_entry", "_held", "_key", "_meta")

    def __init__(self, env: Environment, held: Held) -> None:  # the base's is called by `begin`
        self._env = env
        self._held = held
        self._begun = False
        self._key: bytes | None = None
        self._meta: Meta | None = None
        self.touched = False

    def __getattr__(self, name: str) -> Any:
        if name not in ("_txn", "_lock") or self._begun:
            raise AttributeError(name)
        self.begin()
        return getattr(self, name)

    def begin(self) -> None:
        """Begins LMDB's write transaction, before its first use."""
        self._held.settle()
        touched = self.touched
        super().__init__(self._env, self._env.begin_write_raw())
        self.touched = touched
        self._begun = True
        self._held.commits += 1
        if self._key is not None:
            self.put(self._key, self._entry)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._begun:
            if error is None and self.touched:
                self._held.meta = None  # whoever is interrupted after the commit does not know of it
            super().__exit__(kind, error, trace)
        elif error is None and self._key is not None and self._meta is not None:
            self._held.add(self._key, self._entry, self._meta)

    def put_log(self, key: bytes, value: bytes) -> None:
        """Sets an entry of the log; the second one begins LMDB's transaction."""
        if self._begun or self._key is not None:
            self.put(key, value)
        else:
            self._key, self._entry = key, value

    def put_meta(self, meta: Meta) -> bytes:
        """Sets the meta record; its bytes, none where they are not needed yet."""
        if self._begun:
            return super().put_meta(meta)
        self._meta = meta
        return b""
