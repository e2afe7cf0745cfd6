"""The store of one directory: its newest snapshot and its single writer. Transactions end here, in one LMDB commit.

A small transaction commits one log entry, its new dictionary entries and the meta record, and joins the novelty: the
overlay of what is in the log but not in the segments yet. When the novelty is large enough, or a transaction is, all of it
is merged into the segments within the same commit (decision 0001). So a commit costs what it says, not what it touches.

Lifecycle of a transaction:
 1. The in-process lock, then LMDB's write lock; what other processes committed meanwhile is taken in.
 2. expand -> resolve -> effects (txdata, resolve, effects): no writing, all faults collected.
 3. log, dictionary, and if due the merge, then the meta record; LMDB commits.
 4. Only now caches, schema and the newest snapshot move on. An abort leaves them as they were.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from store.cache import ColumnCache, default_bytes
from store.commit import Commit, PlainCommits
from store.committed import Committed
from store.composition import Composition, quiet_collector
from store.dictionary import Dictionary, NewCodes
from store.environment import META_KEY, Meta, decode_meta, new_meta, open_environment, with_meta, write_identity
from store.errors import StorageError, TransactionError
from store.group import Turns, Writer
from store.index import Base
from store.load import prepare_load
from store.log import iter_log_rows
from store.merge import merge_changes
from store.overlay import Overlay, OverlayView, Row
from store.prepare import all_rows, bulk_rows, prepare, prepare_schema, read_schema_change
from store.schema import TX_INSTANT, Schema, read_schema
from store.schema_change import read_attributes
from store.snapshot import Snapshot
from store.txdata import read_tx_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from store.environment import ReadTxn
    from store.group import Wish

MOST_NOVELTY: Final = 16384
LEAST_NOVELTY: Final = 8192
_ADVANCE_EVERY: Final = (
    16  # transactions after which the base's reader moves on, so that LMDB can use freed pages again
)
FOLD_AT_CLOSE: Final = 512  # novelty rows worth a merge when the store closes, so that the next open is quick


_OPEN: weakref.WeakValueDictionary[str, Store]  # LMDB forbids a second environment of one file in a process


class Store:
    """An open database directory. Shared by all connections to it in this process; counted by `retain` and `release`."""

    def __init__(self, path: Path, *, read_only: bool = False, sync: bool = True) -> None:
        self.path = path
        self.read_only = read_only
        self._users = 0
        self.last_instant: int | None = None  # of the newest transaction, when this process made it
        self._lock = threading.RLock()
        self._turns = Turns(self)
        self._writer: Writer | None = None
        self._composing: int | None = None  # the thread inside `compose`
        self.env, meta = open_environment(path, read_only=read_only, sync=sync)
        try:
            if meta is None:
                meta = self._create()
            elif not read_only:
                write_identity(path, meta.id)
            cache_bytes = default_bytes()
            self.dictionary = Dictionary(self.env, cache_bytes // 2)
            self.cache = ColumnCache(cache_bytes)
            self._watch = self.env.read()
            self._bases: weakref.WeakSet[Base] = weakref.WeakSet()
            self._base, self._meta, self._meta_bytes = self._new_base()
            self._novelty = self._read_tail(self._base, self._meta)
            self._newest = self._first_snapshot(self._meta)
            #: LMDB's number of a commit, and the snapshot of it; replaced as one, read without the lock
            self._seen: tuple[int, Snapshot] = (-1, self._newest)
        except BaseException:
            self.env.close()
            raise
        self._watch.park()

    # -- opening

    def _create(self) -> Meta:
        with self.env.write() as txn:
            data = txn.get(META_KEY)
            meta = decode_meta(data) if data is not None else new_meta()
            if data is None:
                txn.put(META_KEY, meta.encode())
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
        bare = self._snapshot(meta, self._base, self._novelty, Schema())
        return self._snapshot(meta, self._base, self._novelty, read_attributes(bare, meta.schema_tx))

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
        with self._lock:
            self._users -= 1
            last = self._users <= 0
        if last:
            self.close()

    def close(self) -> None:
        """Closes the store; snapshots of it can no longer be read. What waits to be written is written first."""
        if self._writer is not None and self.env.pid == os.getpid():
            self._writer.stop()
        with self._lock:
            if self.env.closed:
                return
            forked = self.env.pid != os.getpid()
            if not forked and not self.read_only and self.env.poisoned is None and self._novelty.n >= FOLD_AT_CLOSE:
                self.merge()
            if forked:
                return
            forget_open(self)
            self.dictionary.close()
            self.env.close()

    # -- reading

    def newest(self) -> Snapshot:
        """The snapshot of the newest commit, by whatever process."""
        self.env.check_usable()
        if self._composing is not None:
            return self._newest  # whoever composes holds the write lock: nobody can have committed since
        # another thread may be at a transaction, which may take long: what it began with is the newest until it commits
        txnid, snapshot = self._seen
        if self.env.last_txnid() == txnid:
            return snapshot
        with self._lock:
            self._catch_up(self._watch)
            return self._newest

    def _catch_up(self, txn: ReadTxn, *, refresh: bool = True) -> None:
        if refresh:
            txn.refresh()
        try:
            data = txn.get(META_KEY)
            if data is None:
                raise StorageError("store/meta", f"{self.path} has lost its meta record.", hint="restore a backup")
            if data == self._meta_bytes or decode_meta(data) == self._meta:
                # a write transaction has a number of its own, above that of the commit it sees
                self._seen = (txn.txnid if refresh else txn.txnid - 1, self._newest)
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
        if meta.generation == self._meta.generation and meta.id == self._meta.id:
            overlay = Overlay()
            self._take_log(read, self._meta.basis_tx, overlay)
            read.close()
            novelty = self._novelty.extended(overlay.rows)
            base = self._base
            base.txn.advance(meta.generation)
        else:
            base = Base(read, meta)
            self._bases.add(base)
            novelty = self._read_tail(base, meta)
        schema = self._newest.schema
        snapshot = self._snapshot(meta, base, novelty, schema)
        if meta.schema_tx != self._meta.schema_tx:
            snapshot = self._snapshot(meta, base, novelty, read_attributes(snapshot, meta.schema_tx))
        self._meta, self._base, self._novelty, self._newest = meta, base, novelty, snapshot
        self._seen = (txnid, snapshot)
        self.last_instant = None
        self._meta_bytes = data

    # -- writing

    def transact(
        self,
        tx_data: Any,
        tx_meta: Mapping[Any, Any] | None = None,
        *,
        strict: bool | None = None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None = None,
    ) -> Committed:
        """Carries out one transaction.

        Raises:
            TransactionError, SchemaError, EdnError: what is wrong with it, all of it; nothing was written.
            StorageError: the disk's or the environment's fault; nothing was written.
        """
        self._check_writable()
        forms = read_tx_data(tx_data)
        return self._turns.transact(forms, tx_meta, strict, call)

    def transact_later(self, wish: Wish) -> None:
        """Has the writer's thread carry out a wish; its `tell` is called afterwards, in that thread."""
        self._check_writable()
        if self._writer is None:  # looked at first without the lock, which a commit holds as long as the disk takes
            with self._lock:
                self.env.check_usable()
                if self._writer is None:
                    self._writer = Writer(self._turns)
        self._writer.bring(wish)

    @contextmanager
    def plain_commits(self) -> Iterator[PlainCommits]:
        """Plain transactions that the block takes, in one commit when it ends; for `Turns`."""
        with self._lock:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                group = PlainCommits(self, txn, NewCodes(self.dictionary, self._meta.next_code, txn))
                yield group
                group.write()
            group.finish()

    def transact_alone(
        self,
        forms: list[Any],
        tx_meta: Mapping[Any, Any] | None,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
    ) -> Committed:
        """One transaction in a commit of its own; for `Turns`."""
        with self._lock:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                before, meta = self._newest, self._meta
                codes = NewCodes(self.dictionary, meta.next_code, txn)
                plain = PlainCommits(self, txn, codes)
                committed = None if tx_meta else plain.take(forms)
                if committed is not None:
                    plain.write()
                else:
                    tx = meta.basis_tx + 1
                    prepared = prepare(before, forms, tx_meta, codes, tx, meta.max_eid, meta.max_aid, strict, call)
                    if not prepared.effects and not prepared.change:
                        return Committed(before, before, before.basis_tx, prepared.tempids)
                    commit = Commit(self, txn, prepared, codes)
                    commit.write()
            # still under the lock: nobody may take in this commit from the log
            if committed is None:
                return commit.finish()
            plain.finish()
            return committed

    def load(
        self,
        columns: Mapping[Any, Any] | Callable[[Snapshot], Mapping[Any, Any]],
        *,
        strict: bool | None = None,
        schema: Any = None,
    ) -> Committed:
        """Bulk import: {":attr": (eids, values)}, arrays or lists, as one transaction.

        `columns` may be a function of the newest snapshot, called while other writers wait; `schema` declares attributes
        that are new.

        Raises:
            TransactionError, SchemaError: columns of different lengths, wrong types, two values for one eid of a
                cardinality-one attribute, values that are not unique; nothing was written.
        """
        self._check_writable()
        definitions = read_schema(schema)
        with self._lock:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                before, meta = self._newest, self._meta
                codes = NewCodes(self.dictionary, meta.next_code, txn)
                given = columns(before) if callable(columns) else columns
                prepared = prepare_load(before, given, codes, meta, strict, definitions)
                if not prepared.effects and not prepared.change:
                    return Committed(before, before, before.basis_tx, {})
                commit = Commit(self, txn, prepared, codes)
                commit.write()

            return commit.finish()  # still under the lock: nobody may take in this commit from the log

    def update_schema(
        self,
        update: Any = None,
        delete: Iterable[Any] | None = None,
        rename: Mapping[Any, Any] | None = None,
    ) -> Committed:
        """Declares, changes, renames and deletes attributes, in this order: rename, update, delete; one transaction.

        Raises:
            SchemaError: for a change that is malformed or that existing data does not allow; nothing was written.
        """
        self._check_writable()
        wanted = read_schema_change(update, delete, rename)
        with self._lock:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                before, meta = self._newest, self._meta
                codes = NewCodes(self.dictionary, meta.next_code, txn)
                prepared = prepare_schema(before, wanted, codes, meta.basis_tx + 1, meta.max_eid, meta.max_aid)
                if not prepared.change:
                    return Committed(before, before, before.basis_tx, {})
                commit = Commit(self, txn, prepared, codes)
                commit.write()

            return commit.finish()  # still under the lock: nobody may take in this commit from the log

    @contextmanager
    def compose(
        self,
        *,
        strict: bool | None = None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None = None,
        dry_run: bool = False,
    ) -> Iterator[Composition]:
        """A transaction of several steps, each of which sees what those before it did; committed when the block ends.

        An exception in the block abandons it: nothing is written. The write lock is held meanwhile: other writers wait,
        readers go on. With `dry_run` nothing is locked and nothing is ever written.

        Raises:
            TransactionError: `tx/nested` when the block writes past the composition: it would wait for itself.
        """
        if dry_run:
            composition = Composition(self.newest(), self._meta, self.cache, strict, call)
            try:
                yield composition
            finally:
                composition.finished = True
            return
        self._check_writable()
        with self._lock, ExitStack() as collector:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                composition = Composition(self._newest, self._meta, self.cache, strict, call)
                self._composing = threading.get_ident()
                try:
                    yield composition
                finally:
                    self._composing = None
                    composition.finished = True
                collector.enter_context(quiet_collector())
                codes = NewCodes(self.dictionary, self._meta.next_code, txn)
                prepared = composition.prepared(codes)
                if not prepared.effects and not prepared.change:
                    composition.committed = Committed(
                        prepared.before, prepared.before, prepared.before.basis_tx, prepared.tempids
                    )
                    return
                commit = Commit(self, txn, prepared, codes)
                commit.write()

            composition.committed = commit.finish()

    def merge(self) -> None:
        """Merges the novelty into the segments, in a commit of its own that changes no fact."""
        self._check_writable()
        with self._lock:
            with self.env.write() as txn:
                self._catch_up(txn, refresh=False)
                if not self._novelty.n:
                    return
                merged = merge_changes(txn, self._base, self._novelty, [], self._newest.schema, None, 0)
                meta = with_meta(
                    self._meta, merged_tx=self._meta.basis_tx, generation=self._meta.generation + 1,
                    datoms=self._meta.datoms + merged.growth,
                )  # fmt: skip
                data = meta.encode()
                txn.put(META_KEY, data)
            self.move_on(meta, data, self._newest.schema, merged.touched, list)

    def _check_writable(self) -> None:
        if self.read_only:
            raise StorageError(
                "store/read-only", f"{self.path} is open for reading only.", hint="connect without read_only=True"
            )
        self.check_not_composing("this write is not a step of it")
        self._turns.check_not_mine()

    def check_not_composing(self, why: str) -> None:
        """Raises `tx/nested` in the thread that is inside `compose`: whatever it wants of the store now would wait for itself."""
        if self._composing == threading.get_ident():
            raise TransactionError(
                "tx/nested",
                f"{self.path} is being changed by a transaction of several steps, and {why}.",
                hint="use the object that `conn.atomic()` gave, not the connection, and close that after the block",
            )

    def novelty_limit(self) -> int:
        """How many rows the novelty may have before it is merged."""
        return min(MOST_NOVELTY, max(LEAST_NOVELTY, self._meta.datoms // 8))

    def move_on(
        self, meta: Meta, data: bytes, schema: Schema, touched: set[bytes], rows: Callable[[], list[Row]]
    ) -> Snapshot:
        """After a commit that merged: a new base, an empty novelty.

        Another process may merge once more before the new base's reader begins. Then the snapshot of this commit is the old
        base with all its changes as novelty (`rows` gives them), and the store moves on to what the other process made.
        """
        older, novelty = self._base, self._novelty
        base, newest, newest_data = self._new_base()
        if newest.generation == meta.generation:
            base.inherit(older, touched)
            self._base, self._novelty = base, Overlay().view()
            self._meta, self._meta_bytes = meta, data
            self._newest = self._snapshot(meta, base, self._novelty, schema)
            self._seen = (-1, self._newest)  # the older one must not be held on to
            return self._newest
        mine = self._snapshot(meta, older, novelty.extended(rows()), schema)
        self._base, self._novelty = base, self._read_tail(base, newest)
        self._meta, self._meta_bytes = newest, newest_data
        bare = self._snapshot(newest, base, self._novelty, schema)
        self._newest = self._snapshot(newest, base, self._novelty, read_attributes(bare, newest.schema_tx))
        self._seen = (-1, self._newest)
        return mine

    def append_novelty(
        self, meta: Meta, data: bytes, schema: Schema, rows: list[tuple[int, int, int, int, int]]
    ) -> Snapshot:
        """After a commit that did not merge: the same base, more novelty."""
        novelty = self._novelty.extended(rows)
        newest = self._snapshot(meta, self._base, novelty, schema)
        self.follow(meta, data, newest, novelty)
        return newest

    def follow(self, meta: Meta, data: bytes, newest: Snapshot, novelty: OverlayView) -> None:
        """After a commit that merged nothing: the same base, more novelty, the newest snapshot."""
        due = (
            meta.basis_tx // _ADVANCE_EVERY > self._meta.basis_tx // _ADVANCE_EVERY
        )  # a commit may have many transactions
        self._novelty, self._meta, self._meta_bytes, self._newest = novelty, meta, data, newest
        self._seen = (-1, newest)
        if due:
            self._base.txn.advance(meta.generation, data)

    def oldest_snapshot_tx(self) -> int:
        """The newest transaction in the oldest segments that a snapshot of this process still holds on to."""
        held = [base.meta.basis_tx for base in list(self._bases)]
        return min(held, default=self._meta.basis_tx)

    @property
    def meta(self) -> Meta:
        """The newest meta record this process has seen."""
        return self._meta

    @property
    def newest_seen(self) -> Snapshot:
        """The newest snapshot this process has seen."""
        return self._newest

    @property
    def novelty(self) -> OverlayView:
        """The rows that are not merged yet."""
        return self._novelty

    @property
    def base(self) -> Base:
        """The segments of the newest generation."""
        return self._base


_OPEN = weakref.WeakValueDictionary()
_OPEN_LOCK = threading.Lock()


def open_store(path: Path, *, read_only: bool = False, sync: bool = True) -> Store:
    """The store of a directory: the one that is open already, or a new one. Call `release` when done."""
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
            store = Store(path, read_only=read_only, sync=sync)
            _OPEN[key] = store
        store.retain()
        return store


def find_open(path: Path) -> Store | None:
    """The store of a directory if this process has it open, else None."""
    store = _OPEN.get(os.path.realpath(path))
    return store if store is not None and not store.env.closed and store.env.pid == os.getpid() else None


def forget_open(store: Store) -> None:
    """Takes a closing store out of the registry."""
    for key, known in list(_OPEN.items()):
        if known is store:
            _OPEN.pop(key, None)


# ---------------------------------------------------------------------------------------------------------------------
# speculation


def speculate(
    snapshot: Snapshot,
    tx_data: Any,
    tx_meta: Mapping[Any, Any] | None,
    strict: bool | None,
    call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
) -> Committed:
    """What a transaction would do to a snapshot: the same checks and effects, written nowhere."""
    codes = snapshot.codes()
    tx = snapshot.basis_tx + 1
    max_aid = snapshot.schema.max_aid()
    prepared = prepare(snapshot, read_tx_data(tx_data), tx_meta, codes, tx, snapshot.max_eid, max_aid, strict, call)
    rows, recoded = all_rows(prepared)
    rows.append((tx, TX_INSTANT, time.time_ns() // 1000, 1))
    rows += bulk_rows(prepared)
    full = [(e, a, v, tx, added) for e, a, v, added in rows]
    if len(snapshot.layers) > 1:
        layers = (*snapshot.layers[:-1], snapshot.layers[-1].extended(full))
    else:
        first = snapshot.layers or (Overlay().view(),)
        layers = (*first, Overlay().view().extended(full))
    schema = prepared.change.schema if prepared.change else snapshot.schema
    after = Snapshot(snapshot.base, layers, schema, snapshot.dictionary, ColumnCache(0), tx, codes)
    after.max_eid = prepared.max_eid
    after.unbuilt = snapshot.unbuilt | (frozenset(prepared.change.build_avet) if prepared.change else frozenset())
    return Committed(snapshot, after, tx, prepared.tempids, rows, old_schema_rows=frozenset(recoded))
