"""Speculation: what a transaction would do to a snapshot. The same checks and effects as in a transaction, written nowhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from store.cache import ColumnCache
from store.committed import Committed
from store.overlay import Overlay
from store.prepare import all_rows, bulk_rows, prepare
from store.schema import TX_INSTANT
from store.snapshot import Snapshot
from store.txdata import read_tx_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


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
