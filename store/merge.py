"""Novelty and bulk changes merged into the three indexes, inside a write transaction; columns all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from store.columns import EMPTY, contains, insert_rows, order_rows, order_stable, remove_rows
from store.datom import AID_BITS, FIRST_TX
from store.index import EAVT, NO_ROWS, Base, Merge, aevt, avet, concatenate, pack_stats, stats_key, to_avet
from store.overlay import OverlayView, net_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from store.effects import BulkChange
    from store.schema import Schema
    from store.schema_change import SchemaChange
    from store.writing import WriteTxn

    Codes = NDArray[np.int64]
    Rows = tuple[Codes, Codes, Codes]
    Part = tuple[int, Codes, Codes, Codes]  # aid, e, v, tx


_BLOCK_ROWS = 1 << 17  # of EAVT made at once: 1 MB for each column


@dataclass(slots=True)
class Merged:
    """What a merge did: the keys of the segments it wrote, and by how much the number of datoms grew."""

    touched: set[bytes]
    growth: int


def merge_changes(
    txn: WriteTxn,
    base: Base,
    novelty: OverlayView,
    bulk: list[BulkChange],
    schema: Schema,
    change: SchemaChange | None,
    tx: int,
) -> Merged:
    """Merges novelty and bulk changes into the three indexes; columns all the way."""
    rows = novelty.all_rows()
    add_ea, add_v, add_tx, drop_ea, drop_v, add_a, drop_a = net_changes(rows)
    last_tx: dict[int, int] = {}
    for row in rows:
        last_tx[row[1]] = row[3]
    parts: dict[int, tuple[Codes, Codes, Codes, Codes, Codes]] = {}
    shift = np.int64(AID_BITS)
    for aid in sorted(set(add_a.tolist()) | set(drop_a.tolist())):
        mine, gone = add_a == aid, drop_a == aid
        parts[aid] = (add_ea[mine] >> shift, add_v[mine], add_tx[mine], drop_ea[gone] >> shift, drop_v[gone])
    for item in bulk:
        aid = item.attribute.aid
        last_tx[aid] = tx
        parts[aid] = _join_bulk(parts.get(aid), item, tx)
    merge = Merge(txn, base)
    growth = 0
    build = change.build_avet if change is not None else set()
    drop = change.drop_avet if change is not None else set()
    for aid in sorted(set(parts) | build | drop):
        e, v, t, gone_e, gone_v = parts.get(aid, (EMPTY, EMPTY, EMPTY, EMPTY, EMPTY))
        if len(e) or len(gone_e):
            merge.run(aevt(aid), (e, v, t), (gone_e, gone_v))
        indexed = schema.by_aid(aid).indexed if schema.has_aid(aid) else False
        if aid in build:
            old = base.scan(aevt(aid))
            now = insert_rows(remove_rows(old, gone_e, gone_v), (e, v, t))
            merge.replace(avet(aid), to_avet(now[0], now[1], now[2]))
        elif aid in drop or not schema.has_aid(aid):  # a deleted attribute, whose last datoms are merged only now
            merge.replace(avet(aid), NO_ROWS)
        elif indexed and (len(e) or len(gone_e)):
            order = order_stable(gone_v)
            merge.run(avet(aid), to_avet(e, v, t), (gone_v[order], gone_e[order]))
        count, _ = base.stats(aid)
        if len(e) or len(gone_e):
            txn.put(stats_key(aid), pack_stats(count + len(e) - len(gone_e), last_tx[aid]))
            growth += len(e) - len(gone_e)
        elif aid in last_tx:
            txn.put(stats_key(aid), pack_stats(count, last_tx[aid]))
    for aid, newest in last_tx.items():
        if aid not in parts:  # changes that cancelled out: the columns are the same, but the cache key moves on
            txn.put(stats_key(aid), pack_stats(base.stats(aid)[0], newest))
    added = [(aid, p[0], p[1], p[2]) for aid, p in parts.items() if len(p[0])]
    removed = [(aid, p[3], p[4], p[4]) for aid, p in parts.items() if len(p[3])]
    if added and not removed and not base.directory(EAVT).keys:
        for rows_of_block in _eavt_blocks(added):
            merge.append(EAVT, rows_of_block)
    elif added or removed:
        adds, drops = _eavt_rows(added), _eavt_rows(removed)
        merge.run(EAVT, adds, (drops[0], drops[1]))
    return Merged(merge.touched, growth)


def _join_bulk(
    part: tuple[Codes, Codes, Codes, Codes, Codes] | None, item: BulkChange, tx: int
) -> tuple[Codes, Codes, Codes, Codes, Codes]:
    """Net changes of novelty followed by a bulk change of the same attribute."""
    t = np.full(len(item.add_e), tx, dtype=np.int64)
    if part is None:
        return item.add_e, item.add_v, t, item.drop_e, item.drop_v
    e, v, old_t, gone_e, gone_v = part
    order = order_rows(item.drop_e, item.drop_v)
    drop_e, drop_v = (item.drop_e, item.drop_v) if order is None else (item.drop_e[order], item.drop_v[order])
    in_novelty = contains(e, v, drop_e, drop_v)
    kept = remove_rows((e, v, old_t), drop_e[in_novelty], drop_v[in_novelty])
    # a value that the novelty had put back over the base's own is dropped from both
    in_drops = contains(gone_e, gone_v, drop_e, drop_v)
    extra = ~in_novelty & ~in_drops
    new_gone = insert_rows((gone_e, gone_v), (drop_e[extra], drop_v[extra]))
    new_adds = insert_rows(kept, (item.add_e, item.add_v, t))
    return new_adds[0], new_adds[1], new_adds[2], new_gone[0], new_gone[1]


def _eavt_rows(parts: list[Part]) -> tuple[Codes, Codes, Codes]:
    """Rows (ea, v, tx) in EAVT order of AEVT parts (aid, e, v, tx) in order of their aids."""
    if not parts:
        return NO_ROWS
    parts = sorted(parts, key=lambda p: p[0])
    star = _star(parts)
    if star is not None:
        near, far = star
        return concatenate([_star_rows(near), _eavt_rows(far)] if far else [_star_rows(near)])
    ea = np.concatenate([p[1] << np.int64(AID_BITS) | np.int64(p[0]) for p in parts])
    v = np.concatenate([p[2] for p in parts])
    t = np.concatenate([p[3] for p in parts])
    if len(parts) == 1:
        return ea, v, t
    e = np.concatenate([p[1] for p in parts])
    rank = np.repeat(np.arange(len(parts)), [len(p[1]) for p in parts])
    # e and the attribute's rank, packed: fewer bits than e and aid, so that the row number fits beside them. Transactions
    # and attributes have eids so far from the entities' that the two are sorted apart.
    beyond = e >= FIRST_TX
    orders = []
    for places in (np.flatnonzero(~beyond), np.flatnonzero(beyond)):
        if len(places):
            mine = e[places] if len(places) < len(e) else e
            packed = (mine - np.int64(mine.min())) * np.int64(len(parts)) + rank[places]
            orders.append(places[order_stable(packed)])
    order = np.concatenate(orders)
    return ea[order], v[order], t[order]


def _eavt_blocks(parts: list[Part]) -> Iterator[Rows]:
    """The rows of `_eavt_rows` in order, in blocks where that is easy.

    Arrays of all rows at once would not fit the processor's cache, and the kernel would have to clear as much memory again.
    """
    star = _star(sorted(parts, key=lambda p: p[0]))
    if star is None:
        yield _eavt_rows(parts)
        return
    near, far = star
    step = max(1, _BLOCK_ROWS // len(near))
    for i in range(0, len(near[0][1]), step):
        yield _star_rows([(aid, e[i : i + step], v[i : i + step], t[i : i + step]) for aid, e, v, t in near])
    if far:
        yield _eavt_rows(far)


def _star(parts: list[Part]) -> tuple[list[Part], list[Part]] | None:
    """(parts of entities, parts of transactions and attributes) when the first, two at least, have the same entities, each once.

    Then their EAVT order needs no sorting, and the others come after all of them.
    """
    near = [p for p in parts if p[1][-1] < FIRST_TX]
    far = [p for p in parts if p[1][0] >= FIRST_TX]
    if len(near) < 2 or len(near) + len(far) < len(parts):
        return None
    e = near[0][1]
    same = (
        all(len(p[1]) == len(e) for p in near[1:])
        and bool((e[1:] > e[:-1]).all())
        and all(p[1] is e or np.array_equal(p[1], e) for p in near[1:])
    )
    return (near, far) if same else None


def _star_rows(parts: list[Part]) -> Rows:
    """Rows (ea, v, tx) in EAVT order of parts with the same entities, each once."""
    shape = (len(parts[0][1]), len(parts))
    ea, v, t = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    for i, (aid, e, values, txs) in enumerate(parts):
        np.bitwise_or(e << np.int64(AID_BITS), np.int64(aid), out=ea[:, i])
        v[:, i] = values
        t[:, i] = txs
    return ea.reshape(-1), v.reshape(-1), t.reshape(-1)
