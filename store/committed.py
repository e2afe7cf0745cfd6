"""What a transaction did, as the store tells it: snapshots before and after, the changed rows, the new eids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from store.datom import Datom
from store.schema import TX_INSTANT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.effects import BulkChange
    from store.snapshot import Snapshot


@dataclass(slots=True)
class Committed:
    """What a transaction did. `rows` are (e, aid, v code, ..., added); bulk changes are in `bulk`."""

    before: Snapshot
    after: Snapshot
    tx: int
    tempids: dict[Any, int]
    rows: Sequence[tuple[int, ...]] = field(default_factory=list)
    bulk: list[BulkChange] = field(default_factory=list)
    old_schema_rows: frozenset[int] = frozenset()

    def datoms(self) -> list[Datom]:
        """The datoms asserted and retracted, without the transaction's own :db/txInstant."""
        out: list[Datom] = []
        rows = [r for r in self.rows if not (r[1] == TX_INSTANT and r[0] == self.tx and self._automatic)]
        by_aid: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(rows):
            by_aid.setdefault((row[1], row[-1]), []).append(i)
        made: dict[int, Datom] = {}
        for (aid, added), places in by_aid.items():
            # a value retracted by a change of type is still coded as the old schema had it
            snapshot = self.before if not added and aid in self.old_schema_rows else self.after
            if not snapshot.schema.has_aid(aid):
                snapshot = self.before
            attribute = snapshot.schema.by_aid(aid)
            values = snapshot.decode(attribute, np.array([rows[i][2] for i in places], dtype=np.int64))
            for i, value in zip(places, values, strict=True):
                made[i] = Datom(rows[i][0], attribute.ident, value, self.tx, bool(added))
        out.extend(made[i] for i in range(len(rows)))
        for change in self.bulk:
            ident = change.attribute.ident
            for e_column, v_column, added_ in (
                (change.drop_e, change.drop_v, False),
                (change.add_e, change.add_v, True),
            ):
                values = self.after.decode(change.attribute, v_column)
                out.extend(Datom(e, ident, v, self.tx, added_) for e, v in zip(e_column.tolist(), values, strict=True))
        return out

    _automatic: bool = True
