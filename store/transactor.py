"""The single writer of a store. Transactions end here, in one LMDB commit.

A small transaction commits one log entry, its new dictionary entries and the meta record, and joins the novelty: the
overlay of what is in the log but not in the segments yet. When the novelty is large enough, or a transaction is, all of it
is merged into the segments within the same commit (decision 0001). So a commit costs what it says, not what it touches. In
an ephemeral database even such a commit may wait (writing.py).

Lifecycle of a transaction:
 1. The in-process lock, then LMDB's write lock; what other processes committed meanwhile is taken in.
 2. expand -> resolve -> effects (txdata, resolve, effects): no writing, all faults collected.
 3. log, dictionary, and if due the merge, then the meta record; LMDB commits.
 4. Only now caches, schema and the newest snapshot move on (store.py). An abort leaves them as they were.

Everything a transaction needs is imported from here, and this module with the first write: see `Store.transactor`.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from store.commit import Commit, PlainCommits
from store.committed import Committed
from store.composition import Composition, quiet_collector
from store.dictionary import NewCodes
from store.environment import with_meta
from store.errors import StorageError
from store.group import Turns, Wish, Writer, answer
from store.load import prepare_load
from store.merge import merge_changes
from store.prepare import prepare, prepare_schema, read_schema_change
from store.schema import read_schema
from store.txdata import read_tx_data
from store.writing import begin_small, begin_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from store.snapshot import Snapshot
    from store.store import Store

Told = TypeVar("Told")


class Transactor:
    """What writes into a store; the one of a store is `Store.transactor`. Each method makes one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.turns = Turns(self, store.env)
        self._writer: Writer | None = None

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
        return self.turns.transact(forms, tx_meta, strict, call)

    def transact_async(
        self,
        tx_data: Any,
        tx_meta: Mapping[Any, Any] | None,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
        tell: Callable[[Committed], Told],
    ) -> Future[Told]:
        """Has the writer's thread carry out a transaction; the future has what `tell` says of it, called in that thread."""
        from concurrent.futures import Future  # noqa: PLC0415 - it loads logging: 5 ms that most programs never need

        self._check_writable()
        store = self._store
        future: Future[Told] = Future()
        future.set_running_or_notify_cancel()
        wish = Wish(read_tx_data(tx_data), tx_meta, strict, call, answer(future, tell))
        if self._writer is None:  # looked at first without the lock, which a commit holds as long as the disk takes
            with store.lock:
                store.env.check_usable()
                if self._writer is None:
                    self._writer = Writer(self.turns)
        self._writer.bring(wish)
        return future

    def stop(self) -> None:
        """Writes what waits, then ends the writer's thread, if there is one."""
        if self._writer is not None:
            self._writer.stop()

    @contextmanager
    def plain_commits(self) -> Iterator[PlainCommits]:
        """Plain transactions that the block takes, in one commit when it ends; for `Turns`."""
        store = self._store
        with store.lock:
            with begin_write(store.env) as txn:
                store.catch_up(txn)
                group = PlainCommits(store, txn, NewCodes(store.dictionary, store.meta.next_code, txn))
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
        store = self._store
        with store.lock:
            with begin_small(store.env) as txn:
                store.catch_up(txn)
                before, meta = store.newest_seen, store.meta
                codes = NewCodes(store.dictionary, meta.next_code, txn)
                plain = PlainCommits(store, txn, codes)
                committed = None if tx_meta else plain.take(forms)
                if committed is not None:
                    plain.write()
                else:
                    tx = meta.basis_tx + 1
                    prepared = prepare(before, forms, tx_meta, codes, tx, meta.max_eid, meta.max_aid, strict, call)
                    if not prepared.effects and not prepared.change:
                        return Committed(before, before, before.basis_tx, prepared.tempids)
                    commit = Commit(store, txn, prepared, codes)
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
        store = self._store
        self._check_writable()
        definitions = read_schema(schema)
        with store.lock:
            with begin_write(store.env) as txn:
                store.catch_up(txn)
                before, meta = store.newest_seen, store.meta
                codes = NewCodes(store.dictionary, meta.next_code, txn)
                given = columns(before) if callable(columns) else columns
                prepared = prepare_load(before, given, codes, meta, strict, definitions)
                if not prepared.effects and not prepared.change:
                    return Committed(before, before, before.basis_tx, {})
                commit = Commit(store, txn, prepared, codes)
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
        store = self._store
        self._check_writable()
        wanted = read_schema_change(update, delete, rename)
        with store.lock:
            with begin_write(store.env) as txn:
                store.catch_up(txn)
                before, meta = store.newest_seen, store.meta
                codes = NewCodes(store.dictionary, meta.next_code, txn)
                prepared = prepare_schema(before, wanted, codes, meta.basis_tx + 1, meta.max_eid, meta.max_aid)
                if not prepared.change:
                    return Committed(before, before, before.basis_tx, {})
                commit = Commit(store, txn, prepared, codes)
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
        store = self._store
        if dry_run:
            composition = Composition(store.newest(), store.meta, store.cache, strict, call)
            try:
                yield composition
            finally:
                composition.finished = True
            return
        self._check_writable()
        with store.lock, ExitStack() as collector:
            with begin_write(store.env) as txn:
                store.catch_up(txn)
                composition = Composition(store.newest_seen, store.meta, store.cache, strict, call)
                store.composing = threading.get_ident()
                try:
                    yield composition
                finally:
                    store.composing = None
                    composition.finished = True
                collector.enter_context(quiet_collector())
                codes = NewCodes(store.dictionary, store.meta.next_code, txn)
                prepared = composition.prepared(codes)
                if not prepared.effects and not prepared.change:
                    composition.committed = Committed(
                        prepared.before, prepared.before, prepared.before.basis_tx, prepared.tempids
                    )
                    return
                commit = Commit(store, txn, prepared, codes)
                commit.write()

            composition.committed = commit.finish()

    def merge(self) -> None:
        """Merges the novelty into the segments, in a commit of its own that changes no fact."""
        store = self._store
        self._check_writable()
        with store.lock:
            with begin_write(store.env) as txn:
                store.catch_up(txn)
                if not store.novelty.n:
                    return
                merged = merge_changes(txn, store.base, store.novelty, [], store.newest_seen.schema, None, 0)
                meta = with_meta(
                    store.meta, merged_tx=store.meta.basis_tx, generation=store.meta.generation + 1,
                    datoms=store.meta.datoms + merged.growth,
                )  # fmt: skip
                data = txn.put_meta(meta)
            store.move_on(meta, data, store.newest_seen.schema, merged.touched, list)

    def _check_writable(self) -> None:
        store = self._store
        if store.read_only:
            raise StorageError(
                "store/read-only", f"{store.path} is open for reading only.", hint="connect without read_only=True"
            )
        store.check_not_composing("this write is not a step of it")
        self.turns.check_not_mine()
