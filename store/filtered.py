"""A snapshot with only the datoms that a predicate lets through.

The predicate is called for each datom of an attribute when that attribute is first read; the result is kept for the
life of the view. Built-in attributes pass, so that the schema stays visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from store.cache import ColumnCache
from store.columns import EMPTY, expand, order_stable
from store.datom import AID_BITS, Datom
from store.schema import FIRST_USER_AID
from store.snapshot import Columns, Datoms, Snapshot, match

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Codes = NDArray[np.int64]


class FilteredSnapshot(Snapshot):
    """The datoms of another snapshot for which a predicate is true."""

    __slots__ = ("_columns", "_keep", "_source")

    def __init__(self, source: Snapshot, keep: Callable[[Datom], bool]) -> None:
        super().__init__(
            source.base,
            source.layers,
            source.schema,
            source.dictionary,
            ColumnCache(0),
            source.basis_tx,
            source.overlay_codes,
        )
        self.max_eid = source.max_eid
        self.unbuilt = source.unbuilt
        self._source = source
        self._keep = keep
        self._columns: dict[Any, Any] = {}

    @property
    def source(self) -> Snapshot:
        """The snapshot underneath."""
        return self._source

    def refilter(self, snapshot: Snapshot) -> FilteredSnapshot:
        """Another snapshot through the same predicate."""
        return FilteredSnapshot(snapshot, self._keep)

    def columns(self, aid: int, order: str = "aevt", *, tx: bool = False) -> Columns:
        """As `Snapshot.columns`, of the datoms that pass."""
        key = (order, aid)
        found = self._columns.get(key)
        if found is None:
            if order == "avet":
                by_e = self.columns(aid, tx=True)
                o = order_stable(by_e.v)
                assert by_e.tx is not None
                found = Columns(by_e.e[o], by_e.v[o], by_e.tx[o])
            else:
                found = self._filter(aid, self._source.columns(aid, tx=True))
            self._columns[key] = found
        return found if tx else Columns(found.e, found.v)

    def _filter(self, aid: int, columns: Columns) -> Columns:
        if aid < FIRST_USER_AID or not len(columns.e):
            return columns
        assert columns.tx is not None
        attribute = self.schema.by_aid(aid)
        values = self.decode(attribute, columns.v)
        rows = zip(columns.e.tolist(), values, columns.tx.tolist(), strict=True)
        mask = np.fromiter((self._keep(Datom(e, attribute.ident, v, t)) for e, v, t in rows), bool, len(columns.e))
        return Columns(columns.e[mask], columns.v[mask], columns.tx[mask])

    def _has_columns(self, aid: int, order: str, *, tx: bool) -> bool:  # noqa: ARG002 - as the base class
        return True

    def values(self, e: int, aid: int) -> list[int]:
        """As `Snapshot.values`, of the datoms that pass."""
        columns = self.columns(aid)
        start, end = np.searchsorted(columns.e, e), np.searchsorted(columns.e, e, "right")
        return [int(v) for v in columns.v[start:end]]

    def holders(self, aid: int, code: int) -> list[int]:
        """As `Snapshot.holders`, of the datoms that pass."""
        columns = self.columns(aid, "avet")
        start, end = np.searchsorted(columns.v, code), np.searchsorted(columns.v, code, "right")
        return [int(e) for e in columns.e[start:end]]

    def entity(self, e: int) -> Datoms:
        """As `Snapshot.entity`, of the datoms that pass."""
        datoms = self._all_datoms()
        start, end = int(np.searchsorted(datoms.e, e)), int(np.searchsorted(datoms.e, e, "right"))
        return Datoms(*(column[start:end] for column in datoms))

    def entities(self, eids: Codes) -> tuple[Codes, Codes, Codes, Codes]:
        """As `Snapshot.entities`, of the datoms that pass."""
        datoms = self._all_datoms()
        left = np.searchsorted(datoms.e, eids)
        counts = np.searchsorted(datoms.e, eids, "right") - left
        at = expand(left, counts)
        return np.repeat(np.arange(len(eids)), counts), datoms.a[at], datoms.v[at], datoms.tx[at]

    def _all_datoms(self) -> Datoms:
        found = self._columns.get("eavt")
        if found is None:
            parts = []
            for attribute in self.schema.all_attributes():
                columns = self.columns(attribute.aid, tx=True)
                assert columns.tx is not None
                parts.append((columns.e, np.full(len(columns.e), attribute.aid, dtype=np.int64), columns.v, columns.tx))
            e, a, v, tx = (np.concatenate([p[i] for p in parts]) if parts else EMPTY for i in range(4))
            order = order_stable(e << np.int64(AID_BITS) | a)
            found = self._columns["eavt"] = Datoms(e[order], a[order], v[order], tx[order])
        return found

    def count(self, aid: int) -> int:
        """As `Snapshot.count`, of the datoms that pass."""
        return len(self.columns(aid).e)

    def count_all(self) -> int:
        """As `Snapshot.count_all`, of the datoms that pass."""
        return len(self.all_datoms().e)

    def count_value(self, aid: int, code: int) -> int:
        """As `Snapshot.count_value`, of the datoms that pass."""
        return len(match(self.columns(aid, "avet").v, np.array([code], dtype=np.int64), unique=False)[0])

    def last_tx(self, aid: int) -> int:
        """Never equal to another snapshot's: what was computed for one filter is not for another."""
        return -id(self) - aid
