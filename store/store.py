"""The store of one directory: its environment, its newest snapshot, what it does not keep in segments yet. Reading ends here.

A `Store` opens the environment, gives the snapshot of the newest commit, by whatever process, and moves on when a commit has
been made. It writes nothing itself: `store.transactor` does, which is loaded with the first write, so that a program that only
reads never loads what transactions need (a third of this package).

What is in the log but not in the segments yet is the *novelty*, an overlay; see transactor.py for how it grows and is merged.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

from store.cache import ColumnCache, default_bytes
from store.dictionary import Dictionary
from store.environment import META_KEY, Meta, decode_meta, new_meta, open_environment, write_identity
from store.errors import StorageError, TransactionError
from store.index import Base
from store.log import iter_log_rows
from store.overlay import Overlay, OverlayView, Row
from store.schema import Schema, read_attributes
from store.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from store.environment import ReadTxn, StrPath
    from store.transactor import Transactor

MOST_NOVELTY: Final = 16384
LEAST_NOVELTY: Final = 8192
_ADVANCE_EVERY: Final = (
    16  # transactions after which the base's reader moves on, so that LMDB can use freed pages again
)
FOLD_AT_CLOSE: Final = 512  # novelty rows worth a merge when the store closes, so that the next open is quick


_OPEN: weakref.WeakValueDictionary[str, Store]  # LMDB forbids a second environment of one file in a process


class Store:
    """An open database directory. Shared by all connections to it in this process; counted by `retain` and `release`.

    `meta`, `base`, `novelty` and `newest_seen` are what this process knows of the newest commit: the meta record, the segments,
    the rows that are not in them yet, the snapshot. The store alone moves them on, all four at once, holding `lock`.
    """

    def __init__(self, path: str, *, read_only: bool = False, sync: bool = True, private: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._users = 0
        self.last_instant: int | None = None  # of the newest transaction, when this process made it
        self.lock = threading.RLock()
        self._transactor: Transactor | None = None
        self.composing: int | None = None  # the thread inside `compose`
        self.env, meta = open_environment(path, read_only=read_only, sync=sync)
        try:
            if meta is None:
                meta = self._create()
            elif not read_only:
                write_identity(path, meta.id)
            if private:
                from store.writing import make_private  # noqa: PLC0415 - ephemeral databases only

                make_private(self.env)
            cache_bytes = default_bytes()
            self.dictionary = Dictionary(self.env, cache_bytes // 2)
            self.cache = ColumnCache(cache_bytes)
            self._watch = self.env.read()
            self._bases: weakref.WeakSet[Base] = weakref.WeakSet()
            self.base, self.meta, self._meta_bytes = self._new_base()
            self.novelty: OverlayView = self._read_tail(self.base, self.meta)
            self.newest_seen = self._first_snapshot(self.meta)
            #: LMDB's number of a commit, and the snapshot of it; replaced as one, read without the lock
            self._seen: tuple[int, Snapshot] = (-1, self.newest_seen)
        except BaseException:
            self.env.close()
            raise
        self._watch.park()

    # -- opening

    def _create(self) -> Meta:
        from store.writing import begin_write  # noqa: PLC0415 - a program that only reads has no need of it

        with begin_write(self.env) as txn:
            data = txn.get(META_KEY)
            meta = decode_meta(data) if data is not None else new_meta()
            if data is None:
                txn.put_meta(meta)
        write_identity(self.path, meta.id)
        return meta

    def _new_base(self) -> tuple[Base, Meta, bytes]:
        """The segments of the newest commit, and its meta record, read in one transaction."""
        read = self.env.read()
        data = read.get(META_KEY)
        if data is None:
            raise StorageError("store/meta", f"{self.path} has lost its meta record.", hint="restore a backup")
        meta = decode_meta(data)
        base = Base(read, meta)
        self._bases.add(base)
        return base, meta, data

    def _read_tail(self, base: Base, meta: Meta) -> OverlayView:
        """The novelty that the log's tail holds."""
        overlay = Overlay()
        self._take_log(base.txn, meta.merged_tx, overlay)
        return overlay.view()

    @staticmethod
    def _take_log(txn: ReadTxn, after_tx: int, overlay: Overlay) -> None:
        for tx, rows in iter_log_rows(txn, after_tx):
            overlay.append([(e, a, v, tx, operation & 1) for e, a, v, operation in rows])

    def _first_snapshot(self, meta: Meta) -> Snapshot:
        bare = self._snapshot(meta, self.base, self.novelty, Schema())
        return self._snapshot(meta, self.base, self.novelty, read_attributes(bare, meta.schema_tx))

    def _snapshot(self, meta: Meta, base: Base, novelty: OverlayView, schema: Schema) -> Snapshot:
        layers = (novelty,) if novelty.n else ()
        snapshot = Snapshot(base, layers, schema, self.dictionary, self.cache, meta.basis_tx)
        snapshot.max_eid = meta.max_eid
        return snapshot

    # -- sharing

    def retain(self) -> None:
        """One more connection uses this store."""
        self._users += 1

    def release(self) -> None:
        """One connection less; the last one closes the store."""
        with self.lock:
            self._users -= 1
            last = self._users <= 0
        if last:
            self.close()

    def close(self) -> None:
        """Closes the store; snapshots of it can no longer be read. What waits to be written is written first."""
        if self._transactor is not None and self.env.pid == os.getpid():
            self._transactor.stop()
        with self.lock:
            if self.env.closed:
                return
            forked = self.env.pid != os.getpid()
            reopened = self.env.poisoned is None and self.env.held is None  # a private database never is
            if not forked and not self.read_only and reopened and self.novelty.n >= FOLD_AT_CLOSE:
                self.transactor.merge()
            if forked:
                return
            forget_open(self)
            self.dictionary.close()
            self.env.close()

    # -- reading

    def newest(self) -> Snapshot:
        """The snapshot of the newest commit, by whatever process."""
        self.env.check_usable()
        if self.composing is not None:
            return self.newest_seen  # whoever composes holds the write lock: nobody can have committed since
        # another thread may be at a transaction, which may take long: what it began with is the newest until it commits
        held = self.env.held
        if held is not None:
            if held.meta is self.meta:
                return self.newest_seen
        else:
            txnid, snapshot = self._seen
            if self.env.last_txnid() == txnid:
                return snapshot
        with self.lock:
            self.catch_up(self._watch, refresh=True)
            return self.newest_seen

    def catch_up(self, txn: ReadTxn, *, refresh: bool = False) -> None:
        """Moves on to the newest commit as a transaction sees it, a write transaction or the one that is refreshed for it."""
        held = self.env.held
        if held is not None:
            if held.meta is self.meta:
                return
            held.settle()
            txn, refresh = self._watch, True  # asking the write transaction would begin it
        if refresh:
            txn.refresh()
        try:
            data = txn.get(META_KEY)
            if data is None:
                raise StorageError("store/meta", f"{self.path} has lost its meta record.", hint="restore a backup")
            if data == self._meta_bytes or decode_meta(data) == self.meta:
                # a write transaction has a number of its own, above that of the commit it sees
                self._seen = (txn.txnid if refresh else txn.txnid - 1, self.newest_seen)
                if held is not None:
                    held.meta = self.meta
                return
            meta = decode_meta(data)
        finally:
            if refresh:
                txn.park()
        self._take_in(meta)

    def _take_in(self, _hint: Meta) -> None:
        """Moves on to what another process committed."""
        read = self.env.read()
        data = read.get(META_KEY)
        assert data is not None
        meta = decode_meta(data)
        txnid = read.txnid
        if meta.generation == self.meta.generation and meta.id == self.meta.id:
            overlay = Overlay()
            self._take_log(read, self.meta.basis_tx, overlay)
            read.close()
            novelty = self.novelty.extended(overlay.rows)
            base = self.base
            base.txn.advance(meta.generation)
        else:
            base = Base(read, meta)
            self._bases.add(base)
            novelty = self._read_tail(base, meta)
        schema = self.newest_seen.schema
        snapshot = self._snapshot(meta, base, novelty, schema)
        if meta.schema_tx != self.meta.schema_tx:
            snapshot = self._snapshot(meta, base, novelty, read_attributes(snapshot, meta.schema_tx))
        self.meta, self.base, self.novelty, self.newest_seen = meta, base, novelty, snapshot
        self._seen = (txnid, snapshot)
        self.last_instant = None
        self._meta_bytes = data
        if self.env.held is not None:
            self.env.held.meta = meta

    # -- writing

    @property
    def transactor(self) -> Transactor:
        """What writes into this store; made and imported by whoever writes first."""
        if self._transactor is None:
            # imported before the lock is taken: another thread may be at the same import, and want the lock
            from store.transactor import Transactor  # noqa: PLC0415 - a program that only reads has no need of it

            with self.lock:
                if self._transactor is None:
                    self._transactor = Transactor(self)
        return self._transactor

    def check_not_composing(self, why: str) -> None:
        """Raises `tx/nested` in the thread that is inside `compose`: whatever it wants of the store now would wait for itself."""
        if self.composing == threading.get_ident():
            raise TransactionError(
                "tx/nested",
                f"{self.path} is being changed by a transaction of several steps, and {why}.",
                hint="use the object that `conn.atomic()` gave, not the connection, and close that after the block",
            )

    def novelty_limit(self) -> int:
        """How many rows the novelty may have before it is merged."""
        return min(MOST_NOVELTY, max(LEAST_NOVELTY, self.meta.datoms // 8))

    def move_on(
        self, meta: Meta, data: bytes, schema: Schema, touched: set[bytes], rows: Callable[[], list[Row]]
    ) -> Snapshot:
        """After a commit that merged: a new base, an empty novelty.

        Another process may merge once more before the new base's reader begins. Then the snapshot of this commit is the old
        base with all its changes as novelty (`rows` gives them), and the store moves on to what the other process made.
        """
        older, novelty = self.base, self.novelty
        base, newest, newest_data = self._new_base()
        if newest.generation == meta.generation:
            base.inherit(older, touched)
            self.base, self.novelty = base, Overlay().view()
            self.meta, self._meta_bytes = meta, data
            self.newest_seen = self._snapshot(meta, base, self.novelty, schema)
            self._seen = (-1, self.newest_seen)  # the older one must not be held on to
            return self.newest_seen
        mine = self._snapshot(meta, older, novelty.extended(rows()), schema)
        self.base, self.novelty = base, self._read_tail(base, newest)
        self.meta, self._meta_bytes = newest, newest_data
        bare = self._snapshot(newest, base, self.novelty, schema)
        self.newest_seen = self._snapshot(newest, base, self.novelty, read_attributes(bare, newest.schema_tx))
        self._seen = (-1, self.newest_seen)
        return mine

    def append_novelty(
        self, meta: Meta, data: bytes, schema: Schema, rows: list[tuple[int, int, int, int, int]]
    ) -> Snapshot:
        """After a commit that did not merge: the same base, more novelty."""
        novelty = self.novelty.extended(rows)
        newest = self._snapshot(meta, self.base, novelty, schema)
        self.follow(meta, data, newest, novelty)
        return newest

    def follow(self, meta: Meta, data: bytes, newest: Snapshot, novelty: OverlayView) -> None:
        """After a commit that merged nothing: the same base, more novelty, the newest snapshot."""
        held = self.env.held
        if held is None:  # a commit may have many transactions
            due = meta.basis_tx // _ADVANCE_EVERY > self.meta.basis_tx // _ADVANCE_EVERY
        else:
            due = held.commits >= _ADVANCE_EVERY
        self.novelty, self.meta, self._meta_bytes, self.newest_seen = novelty, meta, data, newest
        self._seen = (-1, newest)
        if due:
            if held is not None:
                held.commits = 0
            self.base.txn.advance(meta.generation, data)

    def oldest_snapshot_tx(self) -> int:
        """The newest transaction in the oldest segments that a snapshot of this process still holds on to."""
        held = [base.meta.basis_tx for base in list(self._bases)]
        return min(held, default=self.meta.basis_tx)


_OPEN = weakref.WeakValueDictionary()
_OPEN_LOCK = threading.Lock()


def open_store(path: StrPath, *, read_only: bool = False, sync: bool = True, private: bool = False) -> Store:
    """The store of a directory: the one that is open already, or a new one. Call `release` when done.

    A `private` one is of a directory that is removed when it closes; other processes are kept out.
    """
    with _OPEN_LOCK:
        key = os.path.realpath(path)
        store = _OPEN.get(key)
        if store is not None and store.env.pid != os.getpid():
            store.env.abandon()  # inherited by a fork: a child must not use it, but may open its own
            _OPEN.pop(key, None)
            store = None
        if store is not None and not store.env.closed:
            if store.read_only and not read_only:
                raise StorageError(
                    "store/read-only",
                    f"{path} is open for reading only in this process.",
                    hint="close that connection before opening one that writes",
                )
            store.env.check_usable()
        else:
            store = Store(os.fspath(path), read_only=read_only, sync=sync, private=private)
            _OPEN[key] = store
        store.retain()
        return store


def find_open(path: StrPath) -> Store | None:
    """The store of a directory if this process has it open, else None."""
    store = _OPEN.get(os.path.realpath(path))
    return store if store is not None and not store.env.closed and store.env.pid == os.getpid() else None


def forget_open(store: Store) -> None:
    """Takes a closing store out of the registry."""
    for key, known in list(_OPEN.items()):
        if known is store:
            _OPEN.pop(key, None)
