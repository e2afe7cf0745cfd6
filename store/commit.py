"""A transaction on its way into LMDB: what is put into the write transaction, and what moves on after the commit.

`Commit` is one transaction of any kind. `PlainCommits` are plain ones (plain.py), any number of them in one commit: each sees
those before it, and all get one sync of the disk. Until the commit nothing of the store has changed: the rows that the
newest overlay has beyond its view's count are nobody's, and are left behind when a commit fails.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from store.committed import Committed
from store.environment import with_meta
from store.errors import SchemaError
from store.log import LogWriter, log_key, pack_columns, pack_one
from store.merge import Merged, merge_changes
from store.overlay import Overlay, OverlayView, Row
from store.plain import plain_rows
from store.prepare import Prepared, all_rows, bulk_rows
from store.schema import SCHEMA_AIDS, TX_INSTANT

if TYPE_CHECKING:
    from store.dictionary import NewCodes
    from store.snapshot import Snapshot
    from store.store import Store
    from store.writing import WriteTxn

BULK_ROWS: Final = 4096  # from this many rows on a transaction goes into the segments at once


class Commit:
    """One transaction on its way into LMDB: `write` inside the write transaction, `finish` after it."""

    def __init__(self, store: Store, txn: WriteTxn, prepared: Prepared, codes: NewCodes) -> None:
        self._store = store
        self._txn = txn
        self._prepared = prepared
        self._codes = codes
        self._rows, self._recoded = all_rows(prepared)
        self._instant: int | None = None
        self._automatic = not any(r[0] == prepared.tx and r[1] == TX_INSTANT for r in self._rows)
        if self._automatic:
            self._instant = next_instant(store.last_instant, prepared.before)
            self._rows.append((prepared.tx, TX_INSTANT, self._instant, 1))
        self._meta = store.meta
        self._data = b""
        self._merged: Merged | None = None
        self._appended: int | None = None
        change = prepared.change
        self._schema = change.schema if change is not None else prepared.before.schema

    def write(self) -> None:
        """Puts log, dictionary, merge and meta record into the write transaction."""
        store, prepared, txn = self._store, self._prepared, self._txn
        tx, change, bulk = prepared.tx, prepared.change, prepared.effects.bulk
        self._write_log()
        self._appended = self._codes.write(txn)
        meta = store.meta
        changes: dict[str, Any] = {"basis_tx": tx, "next_code": self._codes.next_code, "max_eid": prepared.max_eid}
        if change is not None:
            changes["max_aid"] = max(meta.max_aid, change.max_aid)
            changes["schema_tx"] = tx
        elif any(r[1] in SCHEMA_AIDS and r[0] >= 1 << 41 for r in self._rows):
            raise SchemaError("schema/direct", "Attributes are changed by declarations, not by single datoms.")
        rows_in_all = store.novelty.n + len(self._rows)
        index_work = change is not None and (change.build_avet or change.drop_avet)
        if bulk or index_work or len(self._rows) >= BULK_ROWS or rows_in_all > store.novelty_limit():
            novelty = store.novelty
            if self._rows:
                full = [(e, a, v, tx, added) for e, a, v, added in self._rows]
                pending = OverlayView(_joined(novelty, full), novelty.n + len(full))
            else:
                pending = novelty
            self._merged = merge_changes(txn, store.base, pending, bulk, self._schema, change, tx)
            changes.update(merged_tx=tx, generation=meta.generation + 1, datoms=meta.datoms + self._merged.growth)
        self._meta = with_meta(meta, **changes)
        self._data = txn.put_meta(self._meta)

    def _write_log(self) -> None:
        schema, old = self._schema, self._prepared.before.schema
        writer = LogWriter(self._txn, self._prepared.tx)
        rows = self._rows[:-1] if self._automatic else self._rows
        if self._prepared.change is None:
            by_aid = schema.by_aid
            writer.rows([(e, aid, v, added | by_aid(aid).log_kind) for e, aid, v, added in rows], self._instant)
        else:
            kinds = {
                aid: (old if aid in self._recoded or not schema.has_aid(aid) else schema).by_aid(aid).log_kind
                for aid in {row[1] for row in self._rows}
            }
            new_kinds = {aid: schema.by_aid(aid).log_kind for aid in self._recoded}
            writer.rows(
                [
                    (e, aid, v, added | (new_kinds[aid] if added and aid in new_kinds else kinds[aid]))
                    for e, aid, v, added in rows
                ],
                self._instant,
            )
        for change in self._prepared.effects.bulk:
            kind = int(change.attribute.kind) << 1
            for e_column, v_column, added in ((change.drop_e, change.drop_v, 0), (change.add_e, change.add_v, 1)):
                n = len(e_column)
                if n:
                    aids = np.full(n, change.attribute.aid, dtype=np.int64)
                    writer.columns(e_column, aids, v_column, np.full(n, kind | added, dtype=np.int64))

    def _full_rows(self) -> list[Row]:
        """All changes as overlay rows."""
        tx = self._prepared.tx
        return [(e, a, v, tx, added) for e, a, v, added in (*self._rows, *bulk_rows(self._prepared))]

    def finish(self) -> Committed:
        """After the commit: caches and the newest snapshot move on."""
        store, prepared = self._store, self._prepared
        self._codes.adopt(self._appended)
        store.last_instant = self._instant if self._automatic else None
        if self._merged is not None:
            after = store.move_on(self._meta, self._data, self._schema, self._merged.touched, self._full_rows)
        else:
            after = store.append_novelty(self._meta, self._data, self._schema, self._full_rows())
        committed = Committed(
            prepared.before,
            after,
            prepared.tx,
            prepared.tempids,
            self._rows,
            prepared.effects.bulk,
            frozenset(self._recoded),
        )
        committed._automatic = self._automatic  # noqa: SLF001 - its own module
        return committed


class PlainCommits:
    """Plain transactions in one commit: `take` each, `write` inside the write transaction, `finish` after it."""

    __slots__ = ("_appended", "_codes", "_data", "_instant", "_left", "_store", "_txn", "meta", "newest", "novelty")

    def __init__(self, store: Store, txn: WriteTxn, codes: NewCodes) -> None:
        self._store = store
        self._txn = txn
        self._codes = codes
        self._instant = store.last_instant
        self.meta = store.meta
        self.newest = store.newest_seen
        self.novelty = store.novelty
        self._left = store.novelty_limit() - self.novelty.n
        self._appended: int | None = None
        self._data = b""

    def take(self, forms: list[Any]) -> Committed | None:
        """What a transaction of these forms does after those taken before; None when it is not plain, or a merge is due."""
        before, meta = self.newest, self.meta
        tx = meta.basis_tx + 1
        codes = self._codes
        plain = plain_rows(forms, before, codes, meta.max_eid, tx)
        if plain is None or self._left <= len(plain.rows):
            codes.back_to(meta.next_code)
            return None
        rows, operations, max_eid, tempids = plain
        if not rows:
            codes.back_to(meta.next_code)
            return Committed(before, before, meta.basis_tx, tempids)
        self._left -= len(rows) + 1
        instant = next_instant(self._instant, before)
        if len(rows) == 1:
            ((e, aid, v, _, _),) = rows
            entry = pack_one(e, aid, v, operations[0], instant)
        else:
            es, aids, vs, _, _ = zip(*rows, strict=True)
            entry = pack_columns(len(rows), (es, aids, vs, operations), instant)
        self._txn.put_log(log_key(tx), entry)
        rows.append((tx, TX_INSTANT, instant, tx, 1))
        self._instant = instant
        self.novelty = self.novelty.extended(rows)
        self.meta = meta.after(tx, codes.next_code, max_eid)
        self.newest = after = before.followed(self.novelty, tx, max_eid)
        return Committed(before, after, tx, tempids, rows)

    def write(self) -> None:
        """Puts the new codes and the meta record."""
        if self.meta is not self._store.meta:
            self._appended = self._codes.write(self._txn)
            self._data = self._txn.put_meta(self.meta)

    def finish(self) -> None:
        """After the commit: caches and the newest snapshot move on."""
        if self.meta is not self._store.meta:
            self._codes.adopt(self._appended)
            self._store.last_instant = self._instant
            self._store.follow(self.meta, self._data, self.newest, self.novelty)


def next_instant(last: int | None, before: Snapshot) -> int:
    """The time in microseconds, never before the transaction before; `last` is its instant where that is known."""
    now = time.time_ns() // 1000
    if last is None:
        last = max(before.values(before.basis_tx, TX_INSTANT), default=0)
    return max(now, last)


def _joined(view: OverlayView, rows: list[tuple[int, int, int, int, int]]) -> Overlay:
    """An overlay that only has rows: enough for `net_changes`, without the dictionaries."""
    joined = Overlay()
    joined.rows = [*view.all_rows(), *rows]
    return joined
