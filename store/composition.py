"""A transaction of several steps: each sees what those before it did, all of them become one transaction.

Schema changes and data changes that one transaction cannot mix (a value that is read, converted and written back, an
attribute emptied and then deleted) follow each other here as steps. A step is checked and carried out as a speculation
over the one before. What is committed is the *net* change from first to last: one log entry, one tx, all or nothing.

Lifecycle:
 1. The store makes it over the newest snapshot, holding the write lock (or not, for a dry run).
 2. `transact`, `load`, `update_schema`, `undo`: each appends rows to one overlay; `now` is the view after the last step.
 3. `prepared`: rows that cancelled out are dropped, temporary codes become stored ones; the store commits the result.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from store.committed import Committed
from store.datom import FIRST_ATTRIBUTE
from store.dictionary import FIRST_TEMPORARY, OverlayCodes
from store.effects import Effects
from store.errors import TransactionError
from store.load import prepare_load
from store.overlay import Overlay, OverlayView
from store.prepare import Prepared, all_rows, bulk_rows, prepare, prepare_schema, read_schema_change
from store.schema import Schema
from store.schema_change import SchemaChange
from store.snapshot import Snapshot
from store.txdata import read_tx_data
from store.undo import Undone, read_origins, undo
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from store.cache import ColumnCache
    from store.dictionary import NewCodes
    from store.environment import Meta, ReadTxn

    Codes = NDArray[np.int64]
    Row = tuple[int, int, int, int]


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keeps the cyclic garbage collector from walking hundreds of thousands of rows again and again: a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Composition:
    """The steps so far. `before` is the snapshot they began with, `now` the view after them, `tx` their transaction."""

    def __init__(
        self,
        before: Snapshot,
        meta: Meta,
        cache: ColumnCache,
        strict: bool | None,
        call: Callable[[Snapshot, Any, list[Any]], Iterable[Any]] | None,
    ) -> None:
        self.before = before
        self.tx = before.basis_tx + 1
        self.finished = False
        self.committed: Committed | None = None  # set by the store after the commit
        self.tempids: dict[Any, int] = {}
        self._meta = meta
        self._cache = cache
        self._strict = strict
        self._call = call
        self._codes = OverlayCodes(before.dictionary, growing=True)
        self._layers = before.layers or (Overlay().view(),)
        self._view: OverlayView = Overlay().view()
        self._max_aid = meta.max_aid
        self._max_eid = meta.max_eid
        self._unbuilt: frozenset[int] = frozenset()
        self._table: list[Codes] = []  # of each step int64 (n, 5): e, aid, kind, v code, added
        self.now = self._snapshot(before.schema)

    def _snapshot(self, schema: Schema) -> Snapshot:
        before = self.before
        layers = (*self._layers, self._view)
        made = Snapshot(before.base, layers, schema, before.dictionary, self._cache, self.tx, self._codes)
        made.max_eid = self._max_eid
        made.unbuilt = self._unbuilt
        return made

    # -- steps

    def transact(
        self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None, *, strict: bool | None = None
    ) -> Committed:
        """One step of tx data, as in a transaction of its own; the report of what it did.

        Raises:
            TransactionError, SchemaError, EdnError: what is wrong with it; the step did nothing, earlier ones stand.
        """
        lenient = self._strict if strict is None else strict
        forms = read_tx_data(tx_data)
        with quiet_collector():
            return self._take(
                prepare(
                    self.now, forms, tx_meta, self._codes, self.tx, self._max_eid, self._max_aid, lenient, self._call
                )
            )

    def load(self, columns: Mapping[Any, Any]) -> Committed:
        """One step of columns, as `Store.load` takes them."""
        meta = self._meta._replace(basis_tx=self.tx - 1, max_aid=self._max_aid, max_eid=self._max_eid)
        with quiet_collector():
            return self._take(prepare_load(self.now, columns, self._codes, meta, self._strict))

    def update_schema(self, update: Any = None, delete: Any = None, rename: Any = None) -> Committed:
        """One step that declares, changes, renames and deletes attributes."""
        wish = read_schema_change(update, delete, rename)
        with quiet_collector():
            return self._take(prepare_schema(self.now, wish, self._codes, self.tx, self._max_eid, self._max_aid))

    def undo(self, tx: int, log: ReadTxn, *, force: bool = False) -> Undone:
        """One step that takes back what an earlier transaction did; see `undo`. Conflicts are in the result.

        With conflicts that `force` does not cover nothing is done.
        """
        with quiet_collector():
            return self._undo(tx, log, force=force)

    def _undo(self, tx: int, log: ReadTxn, *, force: bool) -> Undone:
        net = self.net()  # what the steps before this one changed comes later than the log
        newest = np.column_stack(
            (net[:, 0], net[:, 1], net[:, 3], net[:, 2] << 1 | net[:, 4], np.full(len(net), self.tx, dtype=np.int64))
        )
        undone = undo(self.now, self._codes, tx, log, newest, self.tx)
        if undone.blocked(force=force):
            return undone
        before = self.now
        for rows, schema in undone.steps:
            self._append(rows, schema)
        undone.committed = Committed(before, self.now, self.tx, {}, undone.rows(), old_schema_rows=undone.recoded)
        return undone

    def origins(self, aid: int, log: ReadTxn, passing: frozenset[int]) -> list[tuple[int, Any, int]]:
        """(e, value, tx) of an attribute's datoms; where tx is one of `passing`, the one that had asserted it before."""
        if not self.now.count(aid):
            return []
        columns = self.now.columns(aid, tx=True)
        assert columns.tx is not None
        e, v, txs = columns.e.tolist(), columns.v.tolist(), columns.tx.tolist()
        again = read_origins(log, aid, passing) if not passing.isdisjoint(txs) else {}
        values = self.now.decode(self.now.schema.by_aid(aid), columns.v)
        return [
            (eid, value, again.get((eid, code), tx) if tx in passing else tx)
            for eid, code, value, tx in zip(e, v, values, txs, strict=True)
        ]

    def _take(self, prepared: Prepared) -> Committed:
        before = self.now
        rows, recoded = all_rows(prepared)
        rows += bulk_rows(prepared)
        self._max_eid = max(self._max_eid, prepared.max_eid)
        change = prepared.change
        if change is not None:
            self._max_aid = max(self._max_aid, change.max_aid)
        self.tempids.update(prepared.tempids)
        self._append(rows, change.schema if change is not None else before.schema)
        return Committed(before, self.now, self.tx, prepared.tempids, rows, old_schema_rows=frozenset(recoded))

    def _append(self, rows: list[Row], schema: Schema) -> None:
        old = self.now.schema
        if self.finished:
            raise TransactionError("tx/finished", "This transaction of several steps is over.",
                                   hint="begin another one: with conn.atomic() as work")  # fmt: skip
        if rows:
            table = np.array(rows, dtype=np.int64)
            kinds = np.empty(len(rows), dtype=np.int64)
            for aid in set(table[:, 1].tolist()):
                mine = table[:, 1] == aid
                # what is retracted is coded as the step found it, what is added as the step leaves it
                had, has = ((s.by_aid(aid).kind if s.has_aid(aid) else None) for s in (old, schema))
                kinds[mine & (table[:, 3] == 0)] = int(had if had is not None else has)  # type: ignore[arg-type]
                kinds[mine & (table[:, 3] == 1)] = int(has if has is not None else had)  # type: ignore[arg-type]
            self._table.append(np.column_stack((table[:, 0], table[:, 1], kinds, table[:, 2], table[:, 3])))
            tx = self.tx
            self._view = self._view.extended([(e, a, v, tx, added) for e, a, v, added in rows])
        if schema is not old:
            self._unbuilt = frozenset(
                a.aid
                for a in schema.all_attributes()
                if a.indexed and self.before.schema.has_aid(a.aid) and not self.before.schema.by_aid(a.aid).indexed
            )
        self.now = self._snapshot(schema)

    # -- the result

    @property
    def steps(self) -> int:
        """How many steps have changed datoms so far: a mark for `net`."""
        return len(self._table)

    def net(self, since: int = 0) -> Codes:
        """The net change of all steps from a mark on, int64 (n, 5): e, aid, kind, v code, added; retractions first."""
        if len(self._table) <= since:
            return np.empty((0, 5), dtype=np.int64)
        table = np.concatenate(self._table[since:])
        table = table[np.lexsort((table[:, 3], table[:, 2], table[:, 1], table[:, 0]))]  # stable: in time order
        differs = (table[1:, :4] != table[:-1, :4]).any(axis=1)
        first, last = np.concatenate(([True], differs)), np.concatenate((differs, [True]))
        began = table[first, 4][np.cumsum(first) - 1]
        # a datom that was added first was absent before, so that it is new only if it is there at the end, and so on
        net: Codes = table[last & (table[:, 4] == began)]
        return net[np.argsort(net[:, 4], kind="stable")]

    def prepared(self, codes: NewCodes) -> Prepared:
        """The net change with stored codes, ready to be committed."""
        net = self.net()
        temporary = (net[:, 2] == int(Kind.INTERNED)) & (net[:, 3] >= FIRST_TEMPORARY)
        if temporary.any():
            wanted = net[temporary, 3]
            distinct = np.sort(wanted)
            distinct = distinct[np.concatenate(([True], distinct[1:] != distinct[:-1]))]
            stored = codes.encode_many(self._codes.decode_many(distinct))
            net[temporary, 3] = stored[np.searchsorted(distinct, wanted)]
        about_schema = net[:, 0] >= FIRST_ATTRIBUTE
        rows = list(map(tuple, net[:, [0, 1, 3, 4]].tolist()))
        schema_rows = [row for row, of_schema in zip(rows, about_schema.tolist(), strict=True) if of_schema]
        data_rows = [row for row, of_schema in zip(rows, about_schema.tolist(), strict=True) if not of_schema]
        return Prepared(
            self.before, self.tx, Effects(rows=data_rows), self._change(schema_rows), self.tempids, self._max_eid
        )

    def _change(self, rows: list[Row]) -> SchemaChange | None:
        old = {a.aid: a for a in self.before.schema.user_attributes()}
        new = {a.aid: a for a in self.now.schema.user_attributes()}
        if old == new:
            return None
        change = SchemaChange(Schema(new.values(), self.tx), rows, max_aid=self._max_aid)
        change.recoded = {aid for aid in old.keys() & new.keys() if old[aid].kind is not new[aid].kind}
        change.build_avet = {aid for aid in old.keys() & new.keys() if new[aid].indexed and not old[aid].indexed}
        # an attribute that was emptied and deleted in one transaction leaves its index behind: drop it
        change.drop_avet = {aid for aid, a in old.items() if a.indexed and not (aid in new and new[aid].indexed)}
        return change
