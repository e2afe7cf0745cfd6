"""fsck: is everything in the file what was written, and do the indexes, the log and the dictionary agree?

`check` reads every entry and returns findings as data; it changes nothing. What it verifies:
 1. checksums of segments, dictionary, log, counts and meta record; the shape of every key
 2. order of every run, within segments and between them, and that a segment's key is its first row
 3. EAVT = AEVT, and AEVT = AVET for indexed attributes; the counts
 4. values: the type of every attribute, cardinality, uniqueness, codes that exist
 5. the dictionary both ways: every code's value finds the code, and nothing else is there
 6. the log: every transaction is there, and replaying it gives exactly the datoms of the indexes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from store.columns import EMPTY, order_rows, order_stable
from store.datom import AID_BITS, END_OF_EIDS, FIRST_TX
from store.dictionary import Block, read_reverse_value, reverse_key
from store.environment import META_KEY, decode_meta, open_environment
from store.errors import DatalogError, StorageError, StoreCorrupt
from store.index import EAVT, aevt, avet, read_segment_key, unpack_rows, unpack_stats
from store.log import read_gaps, read_log_key, unpack_part
from store.schema import TX_INSTANT
from store.store import find_open, open_store
from store.value import Kind, decode_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from store.environment import Environment, Meta, ReadTxn
    from store.schema import Attribute
    from store.store import Store

    Codes = NDArray[np.int64]
    Rows = tuple[Codes, Codes, Codes]

MOST_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a code such as "check/order", what was found, and where."""

    code: str
    message: str
    place: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as plain data."""
        return {"code": self.code, "message": self.message, "place": self.place}


class Checker:
    """Verifies one database; `run` returns the findings."""

    def __init__(self, txn: ReadTxn, meta: Meta) -> None:
        self._txn = txn
        self._meta = meta
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = {}
        self._values: dict[int, bytes] = {}  # code -> byte form

    def run(self) -> list[Finding]:
        """All findings; an empty list means that everything agrees."""
        for step in (self._keys, self._dictionary, self._indexes, self._log):
            if len(self.findings) < MOST_FINDINGS:
                try:
                    step()
                except StoreCorrupt as e:
                    self._find("check/damaged", e.message)
        return self.findings

    def _find(self, code: str, message: str, place: str = "") -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(code, message, place))

    def _keys(self) -> None:
        """Every key belongs to a table."""
        known = b"MSEAVLDZG"
        for key in self._txn.keys(b""):
            if key[:1] not in [known[i : i + 1] for i in range(len(known))]:
                self._find("check/key", "An entry of no table.", key.hex())

    # -- dictionary

    def _dictionary(self) -> None:
        last = 0
        for key, data in self._txn.items(b"D"):
            try:
                block = Block(key, data)
                for code, raw in zip(block.codes(), block.raws(), strict=True):
                    if code <= last or code >= self._meta.next_code:
                        self._find("check/code-order", f"Code {code} is out of order or not given out yet.", key.hex())
                    last = code
                    decode_value(raw)
                    self._values[code] = raw
            except StoreCorrupt as e:
                self._find("check/dictionary", e.message, key.hex())
            except (ValueError, IndexError, UnicodeDecodeError, DatalogError) as e:
                self._find("check/dictionary-value", f"A value cannot be read: {e}.", key.hex())
        self.counts["values"] = len(self._values)
        wanted = {reverse_key(raw): code for code, raw in self._values.items()}
        for key, data in self._txn.items(b"Z"):
            try:
                code = read_reverse_value(data, key)
            except StoreCorrupt as e:
                self._find("check/reverse", e.message, key[:40].hex())
                wanted.pop(key, None)
                continue
            if wanted.pop(key, None) != code:
                self._find(
                    "check/reverse", f"An entry leads to code {code}, which does not have its value.", key[:40].hex()
                )
        for code in list(wanted.values())[:20]:
            self._find("check/reverse", f"The value of code {code} cannot be found.")

    # -- indexes

    def _run_rows(self, prefix: bytes) -> Rows:
        parts: list[Rows] = []
        before: tuple[int, int] | None = None
        for key, data in self._txn.items(prefix):
            try:
                rows = unpack_rows(prefix, data, key)
            except StoreCorrupt as e:
                self._find("check/segment", e.message, key.hex())
                continue
            k1, k2, _ = rows
            if len(k1) == 0 or read_segment_key(prefix, key) != (int(k1[0]), int(k2[0])):
                self._find("check/segment-key", "A segment's key is not its first row.", key.hex())
                continue
            ascending = (k1[1:] > k1[:-1]) | ((k1[1:] == k1[:-1]) & (k2[1:] > k2[:-1]))
            if not bool(ascending.all()) or (before is not None and before >= (int(k1[0]), int(k2[0]))):
                self._find("check/order", "Rows are out of order.", key.hex())
            before = int(k1[-1]), int(k2[-1])
            parts.append(rows)
        if not parts:
            return EMPTY, EMPTY, EMPTY
        return (
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] for p in parts]),
            np.concatenate([p[2] for p in parts]),
        )

    def _indexes(self) -> None:
        ea, ev, etx = self._run_rows(EAVT)
        self.counts["datoms"] = len(ea)
        aids = ea & np.int64((1 << AID_BITS) - 1)
        e = ea >> np.int64(AID_BITS)
        present = (
            set(np.sort(aids)[np.concatenate(([True], np.diff(np.sort(aids)) != 0))].tolist()) if len(aids) else set()
        )
        present |= {int.from_bytes(k[1:5], "big") for table in (b"A", b"V", b"S") for k in self._txn.keys(table)}
        stats = {}
        for key, data in self._txn.items(b"S"):
            try:
                stats[int.from_bytes(key[1:], "big")] = unpack_stats(data, key)
            except StoreCorrupt as x:
                self._find("check/counts", x.message, key.hex())
        self._segments: dict[int, Rows] = {}
        order = order_stable(aids)
        bounds_a = aids[order]
        for aid in sorted(present):
            low, high = int(np.searchsorted(bounds_a, aid)), int(np.searchsorted(bounds_a, aid, "right"))
            mine = order[low:high]
            of_e = (e[mine], ev[mine], etx[mine])
            of_a = self._run_rows(aevt(aid))
            self._segments[aid] = of_a
            if not _same(of_e, of_a):
                self._find(
                    "check/eavt-aevt",
                    f"EAVT has {len(mine)} datoms of attribute {aid}, AEVT {len(of_a[0])}, or others.",
                )
            of_v = self._run_rows(avet(aid))
            if len(of_v[0]) or len(self._txn.keys(avet(aid))):
                back = order_rows(of_v[1], of_v[0])
                turned = (of_v[1], of_v[0], of_v[2])
                if back is not None:
                    turned = (turned[0][back], turned[1][back], turned[2][back])
                if not _same(of_a, turned):
                    self._find(
                        "check/aevt-avet",
                        f"AEVT has {len(of_a[0])} datoms of attribute {aid}, AVET {len(of_v[0])}, or others.",
                    )
            if stats.get(aid, (0, 0))[0] != len(of_a[0]):
                self._find(
                    "check/counts",
                    f"Attribute {aid} has {len(of_a[0])} datoms, its count says {stats.get(aid, (0, 0))[0]}.",
                )
        self._avet_present = {aid for aid in present if self._txn.keys(avet(aid))}
        if sum(len(r[0]) for r in self._segments.values()) != self._meta.datoms:
            self._find(
                "check/counts", f"The meta record counts {self._meta.datoms} datoms, the segments hold {len(ea)}."
            )

    # -- log

    def _log(self) -> None:
        parts: list[tuple[Codes, ...]] = []
        tail: list[tuple[Codes, ...]] = []
        gaps = dict(read_gaps(self._txn))
        left_out = {tx for first, last in gaps.items() for tx in range(first, min(last, self._meta.basis_tx) + 1)}
        expected_tx, expected_part = max(self._meta.log_base, FIRST_TX + 1), 0
        while expected_tx in left_out:
            expected_tx += 1
        instants: set[int] = set()
        for key, data in self._txn.items(b"L"):
            tx, part = read_log_key(key)
            try:
                columns = unpack_part(data, key)
            except StoreCorrupt as x:
                self._find("check/log", x.message, key.hex())
                expected_tx, expected_part = tx, part + 1
                continue
            following = expected_tx + 1
            while following in left_out:
                following += 1
            if tx in left_out:
                self._find("check/log-gap", f"Transaction {tx} is noted as left out, but it is in the log.", key.hex())
            if (tx, part) not in ((expected_tx, expected_part), (following, 0)) and not (
                (tx, part) == (expected_tx, 0) and expected_part == 0
            ):
                self._find(
                    "check/log-gap",
                    f"The log of transaction {expected_tx} is followed by {tx}, part {part}.",
                    key.hex(),
                )
            expected_tx, expected_part = tx, part + 1
            e, a, v, operation = columns[:4]
            own = (a == TX_INSTANT) & (e == tx)
            if bool(own.any()):
                instants.add(tx)
            txs = columns[4] if len(columns) == 5 else np.full(len(e), tx, dtype=np.int64)
            rows = (e << np.int64(AID_BITS) | a, v, txs, operation & 1)
            parts.append(rows)
            if tx > self._meta.merged_tx:
                tail.append(rows)
        first = max(self._meta.log_base, FIRST_TX + 1)
        missing = [t for t in range(first, self._meta.basis_tx + 1) if t not in instants and t not in left_out][:20]
        if missing and not (self._meta.log_base and missing == [self._meta.log_base]):
            self._find("check/log-gap", f"The log lacks transactions, such as {missing[0]}.")
        if expected_tx != self._meta.basis_tx and parts:
            self._find(
                "check/log-gap", f"The log ends with transaction {expected_tx}, the newest is {self._meta.basis_tx}."
            )
        self.counts["transactions"] = max(0, self._meta.basis_tx - FIRST_TX)
        self._compare_log(parts, tail)

    def _compare_log(self, parts: list[tuple[Codes, ...]], tail: list[tuple[Codes, ...]]) -> None:
        merged = [p for p in parts if not any(p is t for t in tail)]
        from_log = replay(merged)
        rows = [
            (e << np.int64(AID_BITS) | np.int64(aid), v, tx)
            for aid, (e, v, tx) in getattr(self, "_segments", {}).items()
            if len(e)
        ]
        held = tuple(np.concatenate([r[i] for r in rows]) for i in range(3)) if rows else (EMPTY, EMPTY, EMPTY)
        order = order_rows(held[0], held[1])
        if order is not None:
            held = tuple(column[order] for column in held)
        if not _same(from_log, held):  # type: ignore[arg-type]
            self._find(
                "check/log-index",
                f"The log gives {len(from_log[0])} datoms, the indexes hold {len(held[0])}, or others.",
            )

    # -- values, with the schema at hand

    def check_values(self, store: Store) -> None:
        """Types, cardinality, uniqueness and codes of the newest snapshot."""
        snapshot = store.newest()
        meta = store.meta
        for attribute in snapshot.schema.all_attributes():
            columns = snapshot.columns(attribute.aid, tx=True)
            if not len(columns.e):
                continue
            assert columns.tx is not None
            top = columns.e[columns.e < FIRST_TX]
            if int(columns.e[0]) < 1 or int(columns.e[-1]) >= END_OF_EIDS or (len(top) and int(top[-1]) > meta.max_eid):
                self._find(
                    "check/eid", f"{attribute.ident}: an entity id is out of range or above the highest given out."
                )
            if int(columns.tx.max()) > meta.basis_tx or int(columns.tx.min()) <= FIRST_TX:
                self._find("check/tx", f"{attribute.ident}: a datom's transaction does not exist.")
            if not attribute.many and bool((columns.e[1:] == columns.e[:-1]).any()):
                self._find("check/cardinality", f"{attribute.ident}: an entity has two values, the cardinality is one.")
            order = np.sort(columns.v)
            distinct = order[np.concatenate(([True], order[1:] != order[:-1]))]
            self._check_codes(attribute, distinct)
            if attribute.unique is not None and len(distinct) < len(columns.v):
                self._check_unique(attribute, order)
            if attribute.indexed and len(store.base.scan(aevt(attribute.aid))[0]) != len(
                store.base.scan(avet(attribute.aid))[0]
            ):
                self._find("check/aevt-avet", f"{attribute.ident}: AVET does not have what AEVT has.")

    def _check_unique(self, attribute: Attribute, ordered: Codes) -> None:
        doubles = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
        if attribute.tuple_attrs:
            doubles = [c for c in doubles if c in self._values and None not in decode_value(self._values[c])]
        if doubles:
            self._find("check/unique", f"{attribute.ident}: {len(doubles)} values are held by several entities.")

    def _check_codes(self, attribute: Attribute, distinct: Codes) -> None:
        if attribute.kind is Kind.INTERNED:
            unknown = [c for c in distinct.tolist() if c not in self._values]
            if unknown:
                self._find("check/code", f"{attribute.ident}: code {unknown[0]} has no value ({len(unknown)} such).")
                return
            for c in distinct.tolist():
                value: Any = None
                try:
                    value = decode_value(self._values[c])
                    if attribute.coerce(value) != value:
                        raise StorageError("check/type", "")
                except DatalogError:
                    self._find("check/type", f"{attribute.ident}: code {c} is not of its type: {value!r:.60}.")
                    return
        elif attribute.kind is Kind.BOOLEAN and not set(distinct.tolist()) <= {0, 1}:
            self._find("check/type", f"{attribute.ident}: a boolean is neither true nor false.")
        elif attribute.is_ref and (int(distinct[0]) < 1 or int(distinct[-1]) >= END_OF_EIDS):
            self._find("check/type", f"{attribute.ident}: a ref is no entity id.")


def replay(parts: list[tuple[Codes, ...]]) -> Rows:
    """The datoms that log parts (ea, v, tx, added), oldest first, leave behind: (ea, v, tx) sorted by (ea, v)."""
    if not parts:
        return EMPTY, EMPTY, EMPTY
    ea, v, tx, added = (np.concatenate([p[i] for p in parts]) for i in range(4))
    order = order_rows(ea, v)
    if order is not None:
        ea, v, tx, added = ea[order], v[order], tx[order], added[order]
    last = np.concatenate(((ea[1:] != ea[:-1]) | (v[1:] != v[:-1]), [True]))
    keep = last & (added == 1)
    return ea[keep], v[keep], tx[keep]


def _same(a: Rows, b: Rows) -> bool:
    return all(len(x) == len(y) and bool((x == y).all()) for x, y in zip(a, b, strict=True))


def check_path(path: Path) -> tuple[list[Finding], dict[str, int]]:
    """(findings, counts) of a database directory, read only; a file that cannot even be opened is a finding too."""
    path = Path(path)
    store = find_open(path)
    if store is not None:
        return _check_environment(path, store.env, store)
    try:
        env, meta = open_environment(path, read_only=True)
    except StoreCorrupt as e:
        return [_as_finding(e, path)], {}
    try:
        if meta is None:
            return [Finding("check/empty", "There is no database here.", str(path))], {}
        findings, counts = _check_environment(path, env, None)
    finally:
        env.close()
    if not findings:
        store = open_store(path, read_only=True)
        try:
            findings, counts = _check_environment(path, store.env, store)
        finally:
            store.release()
    return findings, counts


def _check_environment(path: Path, env: Environment, store: Store | None) -> tuple[list[Finding], dict[str, int]]:
    checker: Checker | None = None
    try:
        txn = env.read()
        try:
            data = txn.get(META_KEY)
            if data is None:
                return [Finding("check/empty", "There is no meta record.", str(path))], {}
            checker = Checker(txn, decode_meta(data))
            checker.run()
        finally:
            txn.close()
        if store is not None and not checker.findings:
            checker.check_values(store)
    except StoreCorrupt as e:
        found = checker.findings if checker is not None else []
        return [*found, _as_finding(e, path)], {}
    return checker.findings, checker.counts


def _as_finding(error: StoreCorrupt, path: Path) -> Finding:
    return Finding(error.code.replace("store/", "check/"), error.message, str(path))
