"""Writing a database anew: compact, rebuild from the log, hot copy, and the figures of `stats`.

Compact and rebuild write a fresh file from columns, entry by entry in key order, and put it in the place of the old one
only when it is whole, and only while no other process has the database open.

What a rewrite keeps: the datoms with their transactions, the codes of values (so the log stays readable), ids, the log. What
it leaves out: dictionary entries that neither datoms nor log refer to, old values of `:db/noHistory` attributes, and, if
asked, the log before a transaction, in whose place a baseline of what was current then is written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from store.check import replay
from store.columns import EMPTY, contains, order_rows
from store.datom import AID_BITS, FIRST_TX
from store.dictionary import Block, iter_blocks, reverse_key, reverse_value
from store.environment import (
    DATA_FILE,
    META_KEY,
    Meta,
    decode_meta,
    forget_size,
    open_environment,
    with_meta,
    write_identity,
)
from store.errors import StorageError, StoreCorrupt, StoreLocked
from store.index import EAVT, aevt, avet, pack_stats, packed, stats_key, to_avet
from store.log import PART_ROWS, gap_key, log_key, pack_gap, pack_part, read_gaps, read_log_key, unpack_part
from store.schema import FIRST_USER_AID, TX_INSTANT, Schema, read_attributes
from store.segment import pack
from store.store import Store, find_open, open_store
from store.value import Kind
from store.writing import begin_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from store.environment import Environment, ReadTxn

    Codes = NDArray[np.int64]
    State = dict[int, tuple[Codes, Codes, Codes]]  # aid -> e, v, tx sorted by (e, v)

_BATCH_BYTES = 256 << 20  # put in one commit


def _no_step(_name: str, _done: int, _of: int) -> None:
    return


def compact(
    path: Path,
    target: Path | None = None,
    *,
    drop_log_before: int | None = None,
    step: Callable[[str, int, int], None] = _no_step,
) -> dict[str, int]:
    """Writes the database anew without what it no longer needs; in place, or into a new directory `target`.

    Args:
        path: the database's directory.
        target: a directory that holds no database; None to replace the file of `path`.
        drop_log_before: a tx; the log before it is replaced by one baseline of what was current then.
        step: called with (what, done, of) as the work goes on.

    Returns:
        bytes before and after, values kept and dropped.

    Raises:
        StoreLocked: in place, while another connection or process has the database open.
    """
    path = Path(path)
    if target is None:
        _refuse_open(path)
    store = open_store(path, read_only=target is not None)
    try:
        if target is None and not store.env.lock_exclusive():
            raise _in_use(path)
        before = store.env.stat()["file_bytes"]
        snapshot = store.newest()
        state: State = {}
        for attribute in snapshot.schema.all_attributes():
            columns = snapshot.columns(attribute.aid, tx=True)
            if len(columns.e):
                assert columns.tx is not None
                state[attribute.aid] = (columns.e, columns.v, columns.tx)
        directory = target if target is not None else Path(tempfile.mkdtemp(prefix="compact-", dir=path))
        txn = store.env.read()
        try:
            kept, dropped = _write(
                directory,
                store.meta,
                state,
                snapshot.schema,
                txn,
                drop_log_before=drop_log_before,
                step=step,
                prune=True,
            )
        except BaseException:
            if target is None:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            txn.close()
        after = (directory / DATA_FILE).stat().st_size
        if target is None:
            _replace(directory, path)
    finally:
        store.release()
    return {"bytes_before": before, "bytes_after": after, "values_kept": kept, "values_dropped": dropped}


def rebuild(path: Path, *, step: Callable[[str, int, int], None] = _no_step) -> dict[str, int]:
    """Makes the three indexes, the counts and the reverse dictionary anew from the log and the dictionary's blocks.

    Raises:
        StoreCorrupt: when the log or the dictionary itself is damaged; nothing was changed.
        StoreLocked: while another connection or process has the database open.
    """
    path = Path(path)
    _refuse_open(path)
    env, _ = open_environment(path)
    try:
        if not env.lock_exclusive():
            raise _in_use(path)
        txn = env.read()
        try:
            data = txn.get(META_KEY)
            if data is None:
                raise StoreCorrupt("store/meta", f"{path} has no meta record.", hint="restore a backup")
            meta = decode_meta(data)
            state = _state_of_log(txn, step)
            schema = _schema_of(env, txn, state, meta)
            directory = Path(tempfile.mkdtemp(prefix="rebuild-", dir=path))
            try:
                kept, _ = _write(directory, meta, state, schema, txn, drop_log_before=None, step=step, prune=False)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        finally:
            txn.close()
        _replace(directory, path)
    finally:
        env.close()
    return {"datoms": sum(len(s[0]) for s in state.values()), "values": kept}


def _refuse_open(path: Path) -> None:
    if find_open(path) is not None:
        raise StoreLocked(
            "store/exclusive", f"{path} is open in this process.", retryable=True, hint="close its connections first"
        )


def _in_use(path: Path) -> StoreLocked:
    return StoreLocked(
        "store/exclusive",
        f"{path} is open in another process.",
        retryable=True,
        hint="close it there first, or compact into another directory",
    )


def _replace(directory: Path, path: Path) -> None:
    """Puts the finished file in the place of the old one."""
    with (directory / DATA_FILE).open("rb+") as f:
        os.fsync(f.fileno())
    forget_size(path)
    (directory / DATA_FILE).replace(path / DATA_FILE)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    shutil.rmtree(directory, ignore_errors=True)


def _state_of_log(txn: ReadTxn, step: Callable[[str, int, int], None]) -> State:
    parts: list[tuple[Codes, ...]] = []
    for i, (key, data) in enumerate(txn.items(b"L")):
        columns = unpack_part(data, key)
        tx = read_log_key(key)[0]
        e, a, v, operation = columns[:4]
        txs = columns[4] if len(columns) == 5 else np.full(len(e), tx, dtype=np.int64)
        parts.append((e << np.int64(AID_BITS) | a, v, txs, operation & 1))
        if i % 10_000 == 0:
            step("reading the log", i, 0)
    ea, v, tx_column = replay(parts)
    aids = ea & np.int64((1 << AID_BITS) - 1)
    e = ea >> np.int64(AID_BITS)
    state: State = {}
    for aid in sorted(set(aids.tolist())):
        mine = aids == aid
        state[aid] = (e[mine], v[mine], tx_column[mine])
    return state


class _StateSnapshot:
    """As much of a snapshot as `read_attributes` needs, over a state."""

    def __init__(self, state: State, values: dict[int, Any]) -> None:
        self._state = state
        self._values = values

    def count(self, aid: int) -> int:
        return len(self._state[aid][0]) if aid in self._state else 0

    def columns(self, aid: int) -> Any:
        from store.snapshot import Columns  # noqa: PLC0415

        e, v, _ = self._state[aid]
        return Columns(e, v)

    def decode(self, attribute: Any, codes: Codes) -> list[Any]:
        from store.value import decode_inline  # noqa: PLC0415

        if attribute.kind is not Kind.INTERNED:
            return decode_inline(attribute.kind, codes)
        return [self._values[c] for c in codes.tolist()]


def _schema_of(_env: Environment, txn: ReadTxn, state: State, meta: Meta) -> Schema:
    wanted = {int(c) for aid in range(1, FIRST_USER_AID) if aid in state for c in state[aid][1].tolist()}
    values: dict[int, Any] = {}
    for key, data in txn.items(b"D"):
        block = Block(key, data)
        for place, code in enumerate(block.codes()):
            if code in wanted:
                values[code] = block.value(place)
    return read_attributes(_StateSnapshot(state, values), meta.schema_tx)  # type: ignore[arg-type]


def _write(
    directory: Path,
    meta: Meta,
    state: State,
    schema: Schema,
    source: ReadTxn,
    *,
    drop_log_before: int | None,
    step: Callable[[str, int, int], None],
    prune: bool,
) -> tuple[int, int]:
    """Writes a whole database into a directory that has none; (values kept, values dropped)."""
    env, existing = open_environment(directory, sync=False)
    try:
        if existing is not None:
            raise StorageError("store/exists", f"{directory} holds a database already.", hint="give a new directory")
        used = _UsedCodes(meta.next_code) if prune else None
        log_base = meta.log_base
        cut = drop_log_before if drop_log_before is not None and drop_log_before > max(log_base, FIRST_TX + 1) else None
        if cut is not None and cut > meta.basis_tx + 1:
            cut = meta.basis_tx + 1
        gaps = read_gaps(source)
        if prune:
            emptied = _emptied(source, state, schema, meta.basis_tx)
            if emptied:
                state = {**state, TX_INSTANT: _without(state[TX_INSTANT], emptied)}
                gaps = _ranges([t for first, last in gaps for t in range(first, last + 1)] + emptied)
        else:
            emptied = []
        if cut is not None:
            gaps = [(max(first, cut), last) for first, last in gaps if last >= cut]
        # the tables in the order of their first bytes, each in the order of its keys: every put appends
        out = _Writer(env)
        for aid, (e, v, tx) in sorted(state.items()):
            out.put_all(packed(aevt(aid), (e, v, tx)))
            if used is not None and schema.has_aid(aid) and schema.by_aid(aid).kind is Kind.INTERNED:
                used.add(v)
        step("indexes", 1, 3)
        log = _log_entries(source, state, schema, cut, used, set(emptied), prune=prune)
        entries = list(log) if used is not None else None  # only the whole log says which values are used
        reverse, kept, dropped = _write_dictionary(out, source, used)
        step("dictionary", 1, 1)
        out.put_all(packed(EAVT, _eavt(state)))
        step("indexes", 2, 3)
        out.put_all((gap_key(first), pack_gap(last)) for first, last in gaps)
        out.put_all(entries if entries is not None else log)
        step("log", 1, 1)
        new = with_meta(
            meta, merged_tx=meta.basis_tx, generation=meta.generation + 1,
            datoms=sum(len(s[0]) for s in state.values()), log_base=cut - 1 if cut is not None else log_base,
        )  # fmt: skip
        out.put_all([(META_KEY, new.encode())])
        out.put_all((stats_key(aid), pack_stats(len(s[0]), int(s[2].max()))) for aid, s in sorted(state.items()))
        for aid, (e, v, tx) in sorted(state.items()):
            if schema.has_aid(aid) and schema.by_aid(aid).indexed:
                out.put_all(packed(avet(aid), to_avet(e, v, tx)))
        step("indexes", 3, 3)
        reverse.sort()
        out.put_all((key, reverse_value(code)) for key, code in reverse)
        out.flush()
        write_identity(directory, meta.id)
        env.force_sync()
    finally:
        env.close()
    return kept, dropped


class _Writer:
    """Collects entries in key order and appends them in batches, each its own commit.

    Nobody reads the file before it is whole. The batches are large, as each leaves pages of the tree's rim behind.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._items: list[tuple[bytes, bytes]] = []
        self._bytes = 0

    def put_all(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Appends entries."""
        for item in items:
            self._items.append(item)
            self._bytes += len(item[1]) + 100
            if self._bytes > _BATCH_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes what was collected."""
        if self._items:
            with begin_write(self._env) as txn:
                txn.put_sorted(self._items, append=True)
            self._items = []
            self._bytes = 0


class _UsedCodes:
    """Which codes are referred to; a bit for each."""

    def __init__(self, next_code: int) -> None:
        self._used = np.zeros(next_code + 1, dtype=bool)

    def add(self, codes: Codes) -> None:
        self._used[codes] = True

    def has(self, code: int) -> bool:
        return code < len(self._used) and bool(self._used[code])


def _eavt(state: State) -> tuple[Codes, Codes, Codes]:
    if not state:
        return EMPTY, EMPTY, EMPTY
    items = sorted(state.items())
    ea = np.concatenate([e << np.int64(AID_BITS) | np.int64(aid) for aid, (e, _, _) in items])
    v = np.concatenate([s[1] for _, s in items])
    tx = np.concatenate([s[2] for _, s in items])
    order = order_rows(ea, v)
    return (ea, v, tx) if order is None else (ea[order], v[order], tx[order])


def _log_entries(
    source: ReadTxn,
    state: State,
    schema: Schema,
    cut: int | None,
    used: _UsedCodes | None,
    emptied: set[int],
    *,
    prune: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """The log to be written: as it is, without old values of noHistory attributes, and with a baseline before `cut`."""
    forgetful = {a.aid for a in schema.user_attributes() if a.no_history} if prune else set()
    current = {aid: (state[aid][0], state[aid][1]) for aid in forgetful if aid in state}
    before_cut: list[tuple[Codes, ...]] = []
    baseline_written = cut is None
    for key, data in source.items(b"L"):
        tx, _ = read_log_key(key)
        if tx in emptied:
            continue
        columns = unpack_part(data, key)
        forgets = bool(forgetful) and bool(np.isin(columns[1], list(forgetful)).any())
        if forgets:
            columns = _forget(columns, forgetful, current)
        if cut is not None and tx < cut:
            e, a, v, operation = columns[:4]
            txs = columns[4] if len(columns) == 5 else np.full(len(e), tx, dtype=np.int64)
            before_cut.append((e << np.int64(AID_BITS) | a, v, txs, operation))
            continue
        if not baseline_written and cut is not None:
            yield from _baseline(before_cut, cut - 1, used)
            baseline_written = True
        if forgets:
            data = pack_part(columns, tx)  # noqa: PLW2901 - the same entry, shorter
        _mark(columns[2], columns[3], used)
        yield key, data
    if not baseline_written and cut is not None:
        yield from _baseline(before_cut, cut - 1, used)


def _emptied(source: ReadTxn, state: State, schema: Schema, basis_tx: int) -> list[int]:
    """The transactions of which nothing is left but their instant, once old values of noHistory attributes are gone."""
    forgetful = {a.aid for a in schema.user_attributes() if a.no_history}
    if not forgetful:
        return []
    current = {aid: (state[aid][0], state[aid][1]) for aid in forgetful if aid in state}
    found: list[int] = []
    for key, data in source.items(b"L"):
        tx, part = read_log_key(key)
        if part or tx == basis_tx:
            if found and found[-1] == tx:
                found.pop()  # a transaction of several parts stays
            continue
        columns = unpack_part(data, key)
        if len(columns) == 4 and bool(np.isin(columns[1], list(forgetful)).any()):
            left = _forget(columns, forgetful, current)
            if len(left[0]) == 1 and int(left[0][0]) == tx and int(left[1][0]) == TX_INSTANT:
                found.append(tx)
    return found


def _without(rows: tuple[Codes, Codes, Codes], eids: list[int]) -> tuple[Codes, Codes, Codes]:
    keep = ~np.isin(rows[0], np.array(eids, dtype=np.int64))
    return rows[0][keep], rows[1][keep], rows[2][keep]


def _ranges(txs: list[int]) -> list[tuple[int, int]]:
    """The ranges (first, last) that cover transactions."""
    out: list[tuple[int, int]] = []
    for tx in sorted(set(txs)):
        if out and out[-1][1] == tx - 1:
            out[-1] = (out[-1][0], tx)
        else:
            out.append((tx, tx))
    return out


def _mark(v: Codes, operation: Codes, used: _UsedCodes | None) -> None:
    if used is not None:
        used.add(v[operation >> 1 == int(Kind.INTERNED)])


def _forget(
    columns: tuple[Codes, ...], forgetful: set[int], current: dict[int, tuple[Codes, Codes]]
) -> tuple[Codes, ...]:
    """Log columns without the values of noHistory attributes that are no longer current, and without their retractions."""
    e, a, v, operation = columns[:4]
    keep = np.ones(len(e), dtype=bool)
    for aid in forgetful:
        mine = np.flatnonzero(a == aid)
        if len(mine):
            held = current.get(aid, (EMPTY, EMPTY))
            alive = contains(held[0], held[1], e[mine], v[mine]) & ((operation[mine] & 1) == 1)
            keep[mine[~alive]] = False
    return tuple(column[keep] for column in columns)


def _baseline(parts: list[tuple[Codes, ...]], tx: int, used: _UsedCodes | None) -> Iterator[tuple[bytes, bytes]]:
    if not parts:
        return
    kinds = [(p[0], p[1], p[2], p[3]) for p in parts]
    ea, v, txs, operation = (np.concatenate([p[i] for p in kinds]) for i in range(4))
    order = order_rows(ea, v)
    if order is not None:
        ea, v, txs, operation = ea[order], v[order], txs[order], operation[order]
    last = np.concatenate(((ea[1:] != ea[:-1]) | (v[1:] != v[:-1]), [True])) & ((operation & 1) == 1)
    ea, v, txs, operation = ea[last], v[last], txs[last], operation[last]
    _mark(v, operation, used)
    e, a = ea >> np.int64(AID_BITS), ea & np.int64((1 << AID_BITS) - 1)
    for part, start in enumerate(range(0, len(e), PART_ROWS)):
        end = start + PART_ROWS
        columns = [np.ascontiguousarray(c[start:end]) for c in (e, a, v, operation, txs)]
        yield log_key(tx, part), pack(columns)


def _write_dictionary(
    out: _Writer, source: ReadTxn, used: _UsedCodes | None
) -> tuple[list[tuple[bytes, int]], int, int]:
    """Writes the blocks of the values that are used; (reverse keys with codes, values kept, values dropped)."""
    reverse: list[tuple[bytes, int]] = []
    dropped = 0
    codes: list[int] = []
    raws: list[bytes] = []
    size = 0
    for key, data in source.items(b"D"):
        block = Block(key, data)
        for code, raw in zip(block.codes(), block.raws(), strict=True):
            if used is not None and not used.has(code):
                dropped += 1
                continue
            codes.append(code)
            raws.append(raw)
            reverse.append((reverse_key(raw), code))
            size += len(raw)
        if size > 8 << 20:
            out.put_all(iter_blocks(codes, raws))
            codes, raws, size = [], [], 0
    if codes:
        out.put_all(iter_blocks(codes, raws))
    return reverse, len(reverse), dropped


def stats(path: Path) -> dict[str, Any]:
    """The figures of a database: sizes, counts by attribute, log, novelty, readers."""
    store = open_store(Path(path), read_only=True) if find_open(Path(path)) is None else open_store(Path(path))
    try:
        return store_stats(store)
    finally:
        store.release()


def store_stats(store: Store) -> dict[str, Any]:
    """The figures of an open store."""
    snapshot, meta = store.newest(), store.meta
    table_bytes: dict[str, int] = {}
    entries: dict[str, int] = {}
    names = {b"E": "eavt", b"A": "aevt", b"V": "avet", b"L": "log", b"D": "dictionary", b"Z": "reverse dictionary"}
    txn = store.env.read()
    try:
        for prefix, name in names.items():
            for key, data in txn.items(prefix):
                table_bytes[name] = table_bytes.get(name, 0) + len(key) + len(data)
                entries[name] = entries.get(name, 0) + 1
    finally:
        txn.close()
    environment = store.env.stat()
    attributes = {a.ident: snapshot.count(a.aid) for a in snapshot.schema.user_attributes() if snapshot.count(a.aid)}
    datoms = sum(attributes.values())
    return {
        "path": str(store.path),
        "basis_tx": meta.basis_tx,
        "transactions": meta.basis_tx - FIRST_TX,
        "datoms": datoms,
        "attributes": attributes,
        "values": meta.next_code - 1,
        "max_eid": meta.max_eid,
        "novelty_rows": store.novelty.n,
        "generation": meta.generation,
        "log_from_tx": meta.log_base or FIRST_TX + 1,
        "file_bytes": environment["file_bytes"],
        "disk_bytes": environment["disk_bytes"],
        "bytes_per_datom": round(environment["file_bytes"] / datoms, 1) if datoms else None,
        "table_bytes": table_bytes,
        "table_entries": entries,
        "map_size_bytes": environment["map_size_bytes"],
        "readers": environment["readers"],
        "oldest_snapshot_tx": store.oldest_snapshot_tx(),
    }
