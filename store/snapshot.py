"""The read view at one basis tx: base segments plus overlay views. Every scan, seek, gather, count and lookup is here.

A snapshot is immutable. Whole-attribute columns come through a bounded cache keyed by (index, attribute, last tx of the
attribute), which old and new snapshots share where nothing changed. All arrays are int64 and must not be written to.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from store.columns import EMPTY, expand, insert_rows, order_stable, remove_rows
from store.datom import AID_BITS, END_OF_EIDS, FIRST_ATTRIBUTE, FIRST_TX, MAX_EID
from store.dictionary import OverlayCodes
from store.edn import Keyword, show_form
from store.errors import TransactionError
from store.index import EAVT, aevt, avet
from store.overlay import changes_of
from store.places import Places, places_of
from store.schema import DOC, FIRST_USER_AID, IDENT, unknown_attribute
from store.value import INT64_MAX, INT64_MIN, Kind, encode_inline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from store.cache import ColumnCache
    from store.dictionary import Dictionary
    from store.index import Base
    from store.overlay import OverlayView, Row
    from store.schema import Attribute, Schema

    Codes = NDArray[np.int64]

_FEW_DATOMS = 2048  # more than that are not put into lists
_FEW_ADDRESSED = 256  # keys: fewer are searched
_WORTH_A_TABLE = 64  # datoms for each key wanted, up to which a table is made that serves more than once
_WORTH_A_TABLE_AT_ONCE = 8
_MOST_PATCHED = 64  # changes since older columns up to which keys are looked up there
_FEW = 24  # below this many keys point lookups beat loading a column that nobody has cached
_AID_MASK = np.int64((1 << AID_BITS) - 1)


class Columns(NamedTuple):
    """Datoms of one attribute: e, v codes, and tx where it was asked for; int64 (n,) each."""

    e: Codes
    v: Codes
    tx: Codes | None = None


class Datoms(NamedTuple):
    """Datoms of many attributes: int64 (n,) each; codes of v are of the kind of their attribute."""

    e: Codes
    a: Codes
    v: Codes
    tx: Codes


class Snapshot:
    """The database at `basis_tx`, as columns and codes."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_cache",
        "_counts",
        "_local",
        "basis_tx",
        "dictionary",
        "layers",
        "max_eid",
        "overlay_codes",
        "schema",
        "unbuilt",
    )

    def __init__(
        self,
        base: Base,
        layers: tuple[OverlayView, ...],
        schema: Schema,
        dictionary: Dictionary,
        cache: ColumnCache,
        basis_tx: int,
        overlay_codes: OverlayCodes | None = None,
    ) -> None:
        self._base = base
        self.layers = layers
        self.schema = schema
        self.dictionary = dictionary
        self._cache = cache
        self.basis_tx = basis_tx
        self.overlay_codes = overlay_codes  # of a speculative view: its new values have temporary codes
        self._local: dict[Any, Any] | None = {} if overlay_codes is not None else None
        self._counts: dict[Any, Any] = {}
        self.unbuilt: frozenset[int] = frozenset()  # attributes that a speculative schema puts into AVET
        self.max_eid = 0  # the highest entity id in use, set by who makes the snapshot

    def followed(self, novelty: OverlayView, basis_tx: int, max_eid: int) -> Snapshot:
        """The snapshot after a transaction that changed no schema: the same base, this one layer."""
        after = Snapshot(self._base, (novelty,), self.schema, self.dictionary, self._cache, basis_tx)
        after.max_eid = max_eid
        return after

    @property
    def base(self) -> Base:
        """The segments underneath."""
        return self._base

    def codes(self) -> OverlayCodes:
        """A view of the dictionary for one query."""
        return OverlayCodes(self.dictionary, self.overlay_codes)

    def find_code(self, attribute: Attribute, value: Any) -> int | None:
        """The code of a (coerced) value in this attribute's columns, or None when no datom can have it."""
        if attribute.kind is not Kind.INTERNED:
            return encode_inline(attribute.kind, value)
        return self.dictionary.find(value) if self.overlay_codes is None else self.overlay_codes.find(value)

    def decode(self, attribute: Attribute, codes: Codes) -> list[Any]:
        """The values of an attribute's codes."""
        from store.value import decode_inline  # noqa: PLC0415

        if attribute.kind is not Kind.INTERNED:
            return decode_inline(attribute.kind, codes)
        if self.overlay_codes is not None:
            return self.overlay_codes.decode_many(codes)
        return self.dictionary.decode_many(codes)

    def last_tx(self, aid: int) -> int:
        """The tx that last changed an attribute's datoms, 0 when none did."""
        for layer in reversed(self.layers):
            tx = layer.last_tx(aid)
            if tx:
                return tx
        return self._base.stats(aid)[1]

    # -- whole columns

    def columns(self, aid: int, order: str = "aevt", *, tx: bool = False) -> Columns:
        """All datoms of an attribute: "aevt" sorted by (e, v code), "avet" by (v code, e)."""
        local = self._local is not None and any(layer.touches(aid) for layer in self.layers[1:])
        key = (order, tx, aid, -1 if local else self.last_tx(aid))
        if local:
            assert self._local is not None
            found = self._local.get(key)
        else:
            found = self._cache.get(key)
        if found is None:
            found = self._make_columns(aid, order, tx=tx)
            if local:
                assert self._local is not None
                self._local[key] = found
            else:
                self._cache.put(key, found, 8 * len(found.e) * (3 if tx else 2) + 200)
                self._cache.note_newest((order, tx, aid), key[3])
        return found

    def places(self, aid: int, order: str) -> Places | None:
        """A direct-address table over the first column of `columns(aid, order)`; None when its keys lie too far apart.

        For "aevt" keys are entities and the others values, for "avet" the other way round. Cached like columns.
        """
        if self._local is not None and any(layer.touches(aid) for layer in self.layers[1:]):
            key = ("places", order, aid)
            if key not in self._local:
                self._local[key] = places_of(*_keys_first(self.columns(aid, order), order))
            mine: Places | None = self._local[key]
            return mine
        tx = self.last_tx(aid)
        kept = self._cache.get(("places", order, aid, tx))
        if kept is None:
            return self._table(aid, order, tx, *_keys_first(self.columns(aid, order), order))
        found: Places | None = kept[0]
        return found

    def _table(self, aid: int, order: str, tx: int, keys: Codes, others: Codes) -> Places | None:
        """The table over columns as of a transaction; that there can be none is kept, too."""
        key = ("places", order, aid, tx)
        kept = self._cache.get(key)
        if kept is None:
            made = places_of(keys, others)
            kept = [made]
            self._cache.put(key, kept, 200 if made is None else 200 + 8 * len(made.starts))
        found: Places | None = kept[0]
        return found

    def _make_columns(self, aid: int, order: str, *, tx: bool) -> Columns:
        attribute = self.schema.by_aid(aid) if self.schema.has_aid(aid) else None
        # an index that a speculative schema change would build is not there yet
        if order == "avet" and (attribute is None or not self._in_avet(aid) or self.overlay_codes is not None):
            by_e = self.columns(aid, tx=True)
            o = order_stable(by_e.v)
            assert by_e.tx is not None
            return Columns(by_e.e[o], by_e.v[o], by_e.tx[o] if tx else None)
        merged, changed = self._nearest_rows(aid, order, tx=tx)
        if changed:
            net = changes_of(changed)
            width = len(merged)
            if order == "avet":
                o = order_stable(net.drop_v)
                merged = remove_rows(merged, net.drop_v[o], net.drop_e[o])
                o = order_stable(net.add_v)
                merged = insert_rows(merged, (net.add_v[o], net.add_e[o], net.add_tx[o])[:width])
            else:
                merged = remove_rows(merged, net.drop_e, net.drop_v)
                merged = insert_rows(merged, (net.add_e, net.add_v, net.add_tx)[:width])
        k1, k2 = merged[0], merged[1]
        tx_column = merged[2] if tx else None
        return Columns(k2, k1, tx_column) if order == "avet" else Columns(k1, k2, tx_column)

    def _nearest_rows(self, aid: int, order: str, *, tx: bool) -> tuple[tuple[Codes, ...], list[Row]]:
        """(k1, k2 [, tx]) of an attribute at some earlier point, and the changes that are between it and this snapshot.

        The point is the newest whose columns are in the cache, so that a query after a transaction pays for the rows of
        that transaction; failing that, the segments.
        """
        width = 3 if tx else 2
        base_tx = self._base.stats(aid)[1]
        if self._local is None and self.layers:
            key = (order, tx, aid)
            older = self._cache.newest(key)
            known = self._cache.get((*key, older)) if base_tx <= older < self.last_tx(aid) else None
            if known is not None:
                rows = (known.v, known.e, known.tx) if order == "avet" else known
                return rows[:width], [row for layer in self.layers for row in layer.of_attribute(aid, older)]
        changed = [row for layer in self.layers for row in layer.of_attribute(aid)]
        return self._base.scan(avet(aid) if order == "avet" else aevt(aid), tx=tx)[:width], changed

    def _has_columns(self, aid: int, order: str, *, tx: bool) -> bool:
        if self._local is not None and any(layer.touches(aid) for layer in self.layers[1:]):
            return (order, tx, aid, -1) in self._local
        return self._cache.peek((order, tx, aid, self.last_tx(aid)))

    # -- point lookups

    def values(self, e: int, aid: int) -> list[int]:
        """The value codes of one entity and attribute."""
        base = self._base
        found = base.find(aevt(aid), e) if e <= base.meta.max_eid or e > MAX_EID else []
        for layer in self.layers:
            for row in layer.of_entity(e):
                if row[1] == aid:
                    if row[4]:
                        found.append(row[2])
                    else:
                        found.remove(row[2])
        return found

    def holders(self, aid: int, code: int) -> list[int]:
        """The eids that have this value code of an attribute, ascending."""
        if not self._in_avet(aid):
            columns = self.columns(aid)
            return [int(e) for e in columns.e[columns.v == code]]
        found = self._base.find(avet(aid), code)
        changed = False
        for layer in self.layers:
            for row in layer.of_value(aid, code):
                changed = True
                if row[4]:
                    found.append(row[0])
                else:
                    found.remove(row[0])
        if changed:
            found.sort()
        return found

    def entity(self, e: int) -> Datoms:
        """All datoms of an entity, sorted by (a, v code)."""
        k1, v, tx = self._base.slice(EAVT, e << AID_BITS, (e << AID_BITS) | int(_AID_MASK))
        changed = [row for layer in self.layers for row in layer.of_entity(e)]
        if changed:
            state = {(a, c): t for a, c, t in zip((k1 & _AID_MASK).tolist(), v.tolist(), tx.tolist(), strict=True)}
            for _, a, c, t, added in changed:
                if added:
                    state[a, c] = t
                else:
                    del state[a, c]
            rows = sorted((a, c, t) for (a, c), t in state.items())
            table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
            return Datoms(np.full(len(rows), e, dtype=np.int64), table[:, 0], table[:, 1], table[:, 2])
        return Datoms(np.full(len(v), e, dtype=np.int64), k1 & _AID_MASK, v, tx)

    def entities(self, eids: Codes) -> tuple[Codes, Codes, Codes, Codes]:
        """(row numbers in `eids`, a, v, tx) of all datoms of many entities, in the order of `eids`, then (a, v code)."""
        if len(eids) == 0:
            return EMPTY, EMPTY, EMPTY, EMPTY
        if len(eids) > 2000:
            datoms = self._all_datoms()
            left = np.searchsorted(datoms.e, eids)
            counts = np.searchsorted(datoms.e, eids, "right") - left
            at = expand(left, counts)
            return np.repeat(np.arange(len(eids)), counts), datoms.a[at], datoms.v[at], datoms.tx[at]
        parts = [self.entity(e) for e in eids.tolist()]
        counts = np.array([len(p.e) for p in parts], dtype=np.int64)
        rows = np.repeat(np.arange(len(eids)), counts)
        return (
            rows,
            np.concatenate([p.a for p in parts]),
            np.concatenate([p.v for p in parts]),
            np.concatenate([p.tx for p in parts]),
        )

    # -- many at once

    def gather(self, aid: int, eids: Codes, *, tx: bool = False) -> tuple[Codes, ...]:
        """The values of many entities: (row numbers in `eids` ascending, v codes [, tx]); entities without one are left out."""
        if not tx and self._is_few(aid, "aevt", eids, unique=not self._many(aid)):
            return self._gather_few(self.values, eids.tolist(), aid)
        return self._found(aid, "aevt", eids, tx=tx, unique=not self._many(aid))

    def lookup(self, aid: int, codes: Codes, *, tx: bool = False) -> tuple[Codes, ...]:
        """The entities of many values: (row numbers in `codes` ascending, e [, tx]); values nobody has are left out."""
        unique = self.schema.by_aid(aid).unique is not None
        if not tx and self._is_few(aid, "avet", codes, unique=unique):
            return self._gather_few(lambda code, a: self.holders(a, code), codes.tolist(), aid)
        return self._found(aid, "avet", codes, tx=tx, unique=unique)

    def _found(self, aid: int, order: str, wanted: Codes, *, tx: bool, unique: bool) -> tuple[Codes, ...]:
        """(row numbers in `wanted` ascending, the other column [, tx]) of the datoms with wanted keys."""
        older = None if tx else self._older_columns(aid, order)
        if older is not None:
            return self._patched(aid, order, *older, wanted, unique=unique)
        columns = self.columns(aid, order, tx=tx)
        keys, others = _keys_first(columns, order)
        rows, at = self._match(aid, order, self.last_tx(aid), keys, others, wanted, unique=unique)
        return (rows, others[at], columns.tx[at]) if columns.tx is not None else (rows, others[at])

    def _older_columns(self, aid: int, order: str) -> tuple[int, Columns, list[Row]] | None:
        """(tx, columns as of it, the few changes since), where the columns of now are not made: a look up need not make them."""
        if self._local is not None or not self.layers or self._has_columns(aid, order, tx=False):
            return None
        older = self._cache.newest((order, False, aid))
        if not self._base.stats(aid)[1] <= older < self.last_tx(aid):
            return None
        changed = [row for layer in self.layers for row in layer.of_attribute(aid, older)]
        known = self._cache.get((order, False, aid, older)) if len(changed) <= _MOST_PATCHED else None
        return None if known is None else (older, known, changed)

    def _patched(
        self, aid: int, order: str, tx: int, older: Columns, changed: list[Row], wanted: Codes, *, unique: bool
    ) -> tuple[Codes, Codes]:
        """`_found` by columns as of a transaction, with the changes since then to those keys that are wanted."""
        keys, others = _keys_first(older, order)
        rows, at = self._match(aid, order, tx, keys, others, wanted, unique=unique)
        found = others[at]
        key_of, other_of = (0, 2) if order == "aevt" else (2, 0)
        by_key: dict[int, dict[int, int]] = {}
        for row in changed:
            by_key.setdefault(row[key_of], {})[row[other_of]] = row[4]  # the last one decides
        touched = np.isin(wanted, np.array(list(by_key), dtype=np.int64))
        if not touched.any():
            return rows, found
        keep = ~touched[rows]
        row_parts, found_parts = [rows[keep]], [found[keep]]
        for key, states in by_key.items():
            here = np.flatnonzero(wanted == key)
            if len(here):
                start, end = np.searchsorted(keys, key), np.searchsorted(keys, key, "right")
                now = others[start:end]
                now = now[~np.isin(now, list(states))]
                now = np.sort(np.append(now, [o for o, added in states.items() if added]).astype(np.int64))
                row_parts.append(np.repeat(here, len(now)))
                found_parts.append(np.tile(now, len(here)))
        rows, found = np.concatenate(row_parts), np.concatenate(found_parts)
        order_of = np.argsort(rows, kind="stable")
        return rows[order_of], found[order_of]

    def _match(
        self, aid: int, order: str, tx: int, keys: Codes, others: Codes, wanted: Codes, *, unique: bool
    ) -> tuple[Codes, Codes]:
        """`match`, by a table where many are wanted: at once when it pays for this once, else from the second time on."""
        n, m = len(keys), len(wanted)
        dense = unique and n and int(keys[-1]) - int(keys[0]) + 1 == n
        if m >= _FEW_ADDRESSED and m * _WORTH_A_TABLE >= n and not dense and self._local is None:
            key = ("searched", order, aid, tx)
            if m * _WORTH_A_TABLE_AT_ONCE >= n or self._cache.get(key):
                places = self._table(aid, order, tx, keys, others)
                if places is not None:
                    return places.find(wanted)
            else:
                self._cache.put(key, True, 100)
        return match(keys, wanted, unique=unique)

    def _is_few(self, aid: int, order: str, keys: Codes, *, unique: bool) -> bool:
        """Whether point lookups of some keys cost less than a column that nobody has read yet: few keys, of few datoms."""
        n = len(keys)
        if n > _FEW or self._has_columns(aid, order, tx=False) or self.count(aid) <= 64 * n:
            return False
        if unique or (order == "avet" and not self._in_avet(aid)):
            return True
        run = avet(aid) if order == "avet" else aevt(aid)
        return sum(self._base.count(run, k, k) for k in keys.tolist()) <= _FEW_DATOMS

    @staticmethod
    def _gather_few(find: Any, keys: list[int], aid: int) -> tuple[Codes, Codes]:
        rows: list[int] = []
        out: list[int] = []
        for i, key in enumerate(keys):
            for found in find(key, aid):
                rows.append(i)
                out.append(found)
        return np.array(rows, dtype=np.int64), np.array(out, dtype=np.int64)

    def _in_avet(self, aid: int) -> bool:
        """True when the segments hold an AVET run of the attribute."""
        return self.schema.by_aid(aid).indexed and aid not in self.unbuilt

    def _many(self, aid: int) -> bool:
        return not self.schema.has_aid(aid) or self.schema.by_aid(aid).many

    def range(
        self,
        aid: int,
        low: int | None,
        high: int | None,
        *,
        low_inclusive: bool = True,
        high_inclusive: bool = True,
        tx: bool = False,
    ) -> Columns:
        """The datoms of an inline attribute with codes in a range, sorted by (v, e); None leaves an end open."""
        first = INT64_MIN if low is None else low + (not low_inclusive)
        last = INT64_MAX if high is None else high - (not high_inclusive)
        if first > last or first > INT64_MAX or last < INT64_MIN:
            return Columns(EMPTY, EMPTY, EMPTY if tx else None)
        narrow = (
            self._in_avet(aid)
            and not self._has_columns(aid, "avet", tx=tx)
            and not any(layer.touches(aid) for layer in self.layers)
        )
        if narrow:
            v, e, tx_column = self._base.slice(avet(aid), first, last)
            return Columns(e, v, tx_column if tx else None)
        columns = self.columns(aid, "avet", tx=tx)
        start = int(np.searchsorted(columns.v, first))
        end = int(np.searchsorted(columns.v, last, "right"))
        return Columns(
            columns.e[start:end], columns.v[start:end], columns.tx[start:end] if columns.tx is not None else None
        )

    def all_datoms(self) -> Datoms:
        """All datoms in EAVT order, without the system's own (built-in attributes of transactions and attributes)."""
        datoms = self._all_datoms()
        first = int(np.searchsorted(datoms.e, FIRST_TX))
        if first == len(datoms.e):
            return datoms
        keep = np.ones(len(datoms.e), dtype=bool)
        keep[first:] = datoms.a[first:] >= FIRST_USER_AID
        return Datoms(datoms.e[keep], datoms.a[keep], datoms.v[keep], datoms.tx[keep])

    def _all_datoms(self) -> Datoms:
        key = ("eavt", self.basis_tx)
        found = self._local.get(key) if self._local is not None else self._cache.get(key)
        if found is None:
            found = self._make_all()
            if self._local is not None:
                self._local[key] = found
            else:
                self._cache.put(key, found, 32 * len(found.e) + 200)
        return found

    def _make_all(self) -> Datoms:
        from store.overlay import net_changes  # noqa: PLC0415

        rows: tuple[Codes, ...] = self._base.scan(EAVT)
        changed = [row for layer in self.layers for row in layer.all_rows()]
        if changed:
            add_ea, add_v, add_tx, drop_ea, drop_v, _, _ = net_changes(changed)
            rows = insert_rows(remove_rows(rows, drop_ea, drop_v), (add_ea, add_v, add_tx))
        ea, v, tx = rows
        return Datoms(ea >> np.int64(AID_BITS), ea & _AID_MASK, v, tx)

    # -- counts

    def count(self, aid: int) -> int:
        """The number of datoms of an attribute."""
        found = self._counts.get(aid)
        if found is None:
            found = self._base.stats(aid)[0] + sum(layer.count_delta(aid) for layer in self.layers)
            self._counts[aid] = found
        return found

    def count_all(self) -> int:
        """The number of datoms, without the system's own."""
        aids = set(self._base.aids())
        for layer in self.layers:
            aids.update(layer.aids())
        total = sum(self.count(aid) for aid in aids if aid >= FIRST_USER_AID)
        # idents and docs of plain entities are the user's, those of attributes are the schema's
        return total + sum(int(np.searchsorted(self.columns(aid).e, FIRST_TX)) for aid in aids if aid in (IDENT, DOC))

    def count_value(self, aid: int, code: int) -> int:
        """The number of entities that have a value code of an attribute."""
        if self._has_columns(aid, "avet", tx=False) or not self._in_avet(aid):
            v = self.columns(aid, "avet").v
            return int(v.searchsorted(code, "right")) - int(v.searchsorted(code))
        total = self._base.count(avet(aid), code, code)
        for layer in self.layers:
            for row in layer.of_value(aid, code):
                total += 1 if row[4] else -1
        return total

    def count_range(self, aid: int, low: int | None, high: int | None) -> int:
        """The number of datoms of an inline attribute with low <= code <= high; None leaves an end open."""
        first = INT64_MIN if low is None else low
        last = INT64_MAX if high is None else high
        if first > last:
            return 0
        if self._has_columns(aid, "avet", tx=False) or not self._in_avet(aid):
            v = self.columns(aid, "avet").v
            return int(v.searchsorted(last, "right")) - int(v.searchsorted(first))
        total = self._base.count(avet(aid), first, last)
        for layer in self.layers:
            for row in layer.of_attribute(aid):
                if first <= row[2] <= last:
                    total += 1 if row[4] else -1
        return total

    def spread(self, aid: int) -> tuple[int, float]:
        """(about how many distinct values, skew): how many times more datoms the value of a random datom has than the average.

        1.0 means that all values are as frequent; exact for unique attributes, small ones and those whose column is cached,
        else from a sample of segments.
        """
        attribute = self.schema.by_aid(aid)
        total = self.count(aid)
        if attribute.unique is not None or total == 0:
            return total, 1.0
        found: tuple[int, float] | None = self._counts.get(("spread", aid))
        if found is None:
            if not self._in_avet(aid) or total <= 50_000 or self._has_columns(aid, "avet", tx=False):
                found = _spread(self.columns(aid, "avet").v)
            else:
                parts, firsts = self._base.sample(avet(aid), 8)
                found = _spread_of_sample([p[0] for p in parts], firsts, total / len(firsts))
            found = min(total, found[0]), found[1]
            self._counts["spread", aid] = found
        return found

    # -- references

    def entid(self, ref: Any) -> int | None:
        """The eid of an entity reference (eid, ident, lookup ref), or None when there is no such entity.

        Raises:
            UserError: for something that is no reference, or a lookup ref of an attribute that is not unique.
        """
        if (isinstance(ref, int) and not isinstance(ref, bool)) or isinstance(ref, np.integer):
            return int(ref) if 0 < ref < END_OF_EIDS else None
        if isinstance(ref, Keyword):
            return self._entid_of_ident(ref)
        if isinstance(ref, str) and ref[:1] == ":":
            return self._entid_of_ident(Keyword(ref))
        if isinstance(ref, list | tuple) and len(ref) == 2 and isinstance(ref[0], Keyword | str):
            return self._entid_of_lookup(ref)
        raise TransactionError(
            "entity/reference",
            f"{show_form(ref)} does not refer to an entity.",
            expected='an entity id, an ident such as :color/red, or a lookup ref such as [:person/email "a@b.c"]',
        )

    def _entid_of_ident(self, ident: Keyword) -> int | None:
        attribute = self.schema.find(ident)
        if attribute is not None:
            return FIRST_ATTRIBUTE + attribute.aid
        ident_attribute = self.schema.by_aid(IDENT)
        code = self.find_code(ident_attribute, ident)
        found = self.holders(IDENT, code) if code is not None else []
        return found[0] if found else None

    def _entid_of_lookup(self, ref: Any) -> int | None:
        name = str(ref[0])
        attribute = self.schema.find(name if name.startswith(":") else f":{name}")
        if attribute is None:
            raise unknown_attribute(self.schema, name)
        if attribute.unique is None:
            raise TransactionError(
                "entity/lookup-not-unique",
                f"{show_form(ref)} cannot be looked up: {attribute.ident} is not unique.",
                hint=f"declare it with :db/unique :db.unique/identity, or query for it: [?e {attribute.ident} ?v]",
            )
        value = ref[1]
        if value is None:
            return None
        if attribute.is_ref and not isinstance(value, int):
            value = self.entid(value)
            if value is None:
                return None
        code = self.find_code(attribute, attribute.coerce(value))
        found = self.holders(attribute.aid, code) if code is not None else []
        return found[0] if found else None


def _runs(v: Codes) -> Codes:
    """The lengths of the runs of equal values in a sorted column."""
    return np.diff(np.flatnonzero(np.concatenate(([True], v[1:] != v[:-1], [True]))))


def _spread(v: Codes) -> tuple[int, float]:
    """(distinct values, skew) of a sorted column."""
    if not len(v):
        return 1, 1.0
    lengths = _runs(v).astype(np.float64)
    return len(lengths), float((lengths**2).sum()) * len(lengths) / len(v) ** 2


def _spread_of_sample(samples: list[Codes], firsts: list[int], rows: float) -> tuple[int, float]:
    """(about how many distinct values, skew) of a sorted run from some of its segments and the first value of each.

    A value that fills segments is the first of as many as it fills; the others begin and end inside one. `rows` are those
    of a segment.
    """
    runs = [_runs(v) for v in samples]
    scale = len(firsts) / len(samples)
    inner = np.concatenate([r[1:-1] for r in runs]).astype(np.float64)
    edge = float(np.mean([r[0] + (r[-1] if len(r) > 1 else 0) for r in runs]))  # of a value that is once a first
    filled = np.fromiter(Counter(firsts).values(), dtype=np.float64)
    sizes = (filled - 1) * rows + edge
    distinct = len(filled) + len(inner) * scale
    counted = float(sizes.sum()) + float(inner.sum()) * scale
    squares = float((sizes**2).sum()) + float((inner**2).sum()) * scale
    return max(1, int(distinct)), max(1.0, squares * distinct / counted**2)


def _keys_first(columns: Columns, order: str) -> tuple[Codes, Codes]:
    """(the sorted column, the other one) of columns in an order."""
    return (columns.e, columns.v) if order == "aevt" else (columns.v, columns.e)


def match(keys: Codes, wanted: Codes, *, unique: bool) -> tuple[Codes, Codes]:
    """Where sorted `keys` equal the `wanted`: (row numbers in `wanted` ascending, places in `keys`), int64 (n,) each."""
    n = len(keys)
    if n == 0 or len(wanted) == 0:
        return EMPTY, EMPTY
    first, last = int(keys[0]), int(keys[-1])
    if unique:
        if last - first + 1 == n:  # a dense run is addressed, not searched
            at = wanted - np.int64(first)
            rows = np.flatnonzero((wanted >= first) & (wanted <= last))
            return rows, at[rows]
        at = np.searchsorted(keys, wanted)
        at[at == n] = 0
        rows = np.flatnonzero(keys[at] == wanted)
        return rows, at[rows]
    left = np.searchsorted(keys, wanted)
    counts = np.searchsorted(keys, wanted, "right") - left
    return np.repeat(np.arange(len(wanted)), counts), expand(left, counts)
