"""The dictionary: interned values <-> codes, stored in blocks, read through bounded caches.

Codes are handed out in order, inside a write transaction only, from the counter in the meta record; they are never given
out twice. A block holds the values of neighbouring codes; small transactions append to the last block while it still fits
in an LMDB page, bulk loads write large compressed ones. What a transaction adds enters the caches after its commit.

Block, under D + first code:

    0   4   crc32 of everything from byte 4 on
    4   1   flags: 1 = body compressed with zlib, 2 = explicit codes
    5   3   zero
    8   4   number of values n
    12  4   length of the body before compression
    16  ..  body: [n * u32 code - first code, if flag 2]  n * u32 end offsets  the values' byte forms, one after another

Reverse entries, under Z + the byte form when it has at most 64 bytes, else Z + its first 64 bytes + 16 bytes of BLAKE2b:
i64 code, then its crc32. As byte forms order as values do, walking Z walks all values in order; long ones that share
their beginning are put in order when they are read. A longer prefix only makes the file larger: 256 bytes took a
quarter of the file of a memory with many JSON texts.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import count, repeat
from sys import byteorder
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zlib import compress, crc32, decompress

import numpy as np

from store.columns import is_rising
from store.edn import Keyword, Symbol
from store.segment import corrupt
from store.value import Kind, decode_inline, decode_value, encode_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from store.environment import Environment, ReadTxn
    from store.writing import WriteTxn

    Codes = NDArray[np.int64]

FIRST_TEMPORARY: Final = 1 << 62
LONGEST_KEY: Final = 64
_HASH_BYTES: Final = 16
_OWN: Final = frozenset((str, Keyword))  # types whose own equality is strict and whose hash costs little
_REMEMBERED: Final = 256  # longer values are not worth a place in the cache
_APPEND_BYTES: Final = 1800  # a block below this stays inside an LMDB page when appended to
_BLOCK_BYTES: Final = 32768
_CACHE_BYTES: Final = 128 << 20  # of blocks, where nobody says otherwise
_FIND_ENTRIES: Final = 1 << 19
_DECODED_ENTRIES: Final = 1 << 15
_MANY: Final = 64  # values of a block from which on each is short, half a kilobyte in the mean at most
_HEAD: Final = struct.Struct("<IBxxxII")
_CODE: Final = struct.Struct("<qI")
_Q: Final = struct.Struct(">Q")


def reverse_key(data: bytes) -> bytes:
    """The key under which a byte form's code is found."""
    if len(data) <= LONGEST_KEY:
        return b"Z" + data
    from hashlib import blake2b  # noqa: PLC0415 - 4 ms, and most values are short

    return b"Z" + data[:LONGEST_KEY] + blake2b(data, digest_size=_HASH_BYTES).digest()


def reverse_value(code: int) -> bytes:
    """The bytes of a reverse entry's value."""
    raw = code.to_bytes(8, "little", signed=True)
    return raw + crc32(raw).to_bytes(4, "little")


def read_reverse_value(data: bytes, key: bytes) -> int:
    """The code of a reverse entry's value; StoreCorrupt when it is damaged."""
    if len(data) != 12 or crc32(data[:8]) != int.from_bytes(data[8:], "little"):
        raise corrupt(key)
    return int.from_bytes(data[:8], "little", signed=True)


def block_key(first: int) -> bytes:
    """The key of the block whose first code this is."""
    return b"D" + _Q.pack(first)


def pack_block(codes: Sequence[int], values: Sequence[bytes]) -> bytes:
    """The bytes of a block of these codes (ascending) and byte forms."""
    first, n = codes[0], len(codes)
    dense = codes[-1] - first + 1 == n
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=n)).astype("<u4").tobytes()
    heads = b"" if dense else (np.asarray(codes, dtype=np.int64) - first).astype("<u4").tobytes()
    body = b"".join((heads, ends, *values))
    flags = 0 if dense else 2
    raw_length = len(body)
    if raw_length > _APPEND_BYTES:
        small = compress(body, 1)
        if len(small) < raw_length * 7 // 8:
            body, flags = small, flags | 1
    rest = struct.pack("<BxxxII", flags, n, raw_length) + body
    return struct.pack("<I", crc32(rest)) + rest


class Block:
    """A decoded block: values are made when first asked for, then kept."""

    __slots__ = ("_body", "_codes", "_ends", "_start", "first", "made", "n", "size")

    def __init__(self, key: bytes, data: bytes) -> None:
        if len(data) < _HEAD.size or crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
            raise corrupt(key)
        _, flags, n, raw_length = _HEAD.unpack_from(data)
        body = decompress(data[_HEAD.size :]) if flags & 1 else data[_HEAD.size :]
        if len(body) != raw_length:
            raise corrupt(key)
        self.first: int = _Q.unpack(key[1:])[0]
        self.n: int = n
        at = 0
        self._codes: list[int] | None = None
        if flags & 2:
            self._codes = np.frombuffer(body, "<u4", n).tolist()
            at = 4 * n
        # a list of them would cost more than the few values that are asked for of most blocks
        self._ends: Sequence[int] = (
            memoryview(body)[at : at + 4 * n].cast("I")
            if byteorder == "little"
            else np.frombuffer(body, "<u4", n, at).tolist()
        )
        self._start = at + 4 * n
        self._body = body
        self.made: list[Any] = [_MISSING] * n  # values, where they were asked for
        self.size = 2 * raw_length + 75 * n + 500  # with all values made

    def position(self, code: int) -> int:
        """The place of a code in this block, or -1."""
        at = code - self.first
        if self._codes is not None:
            place = bisect_right(self._codes, at) - 1
            return place if place >= 0 and self._codes[place] == at else -1
        return at if 0 <= at < self.n else -1

    def raw(self, place: int) -> bytes:
        """The byte form at a place."""
        low = self._ends[place - 1] if place else 0
        return self._body[self._start + low : self._start + self._ends[place]]

    def value(self, place: int) -> Any:
        """The value at a place."""
        value = self.made[place]
        if value is _MISSING:
            value = self.made[place] = decode_value(self.raw(place))
        return value

    def values(self) -> list[Any]:
        """All values of the block."""
        values = self.made
        if _MISSING in values[:1] or _MISSING in values:
            for place in range(self.n):
                if values[place] is _MISSING:
                    values[place] = decode_value(self.raw(place))
        return values

    @property
    def is_dense(self) -> bool:
        """True when the codes are first, first + 1, ..."""
        return self._codes is None

    def codes(self) -> list[int]:
        """The codes of the block, ascending."""
        if self._codes is None:
            return list(range(self.first, self.first + self.n))
        return [self.first + c for c in self._codes]

    def raws(self) -> list[bytes]:
        """The byte forms of the block."""
        return [self.raw(place) for place in range(self.n)]


_STRICT: Final = frozenset(
    (str, Keyword, Symbol, UUID, bytes)
)  # types whose own equality is strict: dicts may hold them


#: no value: compared in C, as looking for it in a list compares it with every value there
_MISSING: Any = object()


class Dictionary:
    """Stored values and codes of one environment, for reading; shared by all its snapshots and threads.

    The dictionary only grows, so reading it at the newest commit is right for every snapshot.
    """

    def __init__(self, env: Environment, cache_bytes: int = _CACHE_BYTES) -> None:
        self._env = env
        self._cache_bytes = cache_bytes
        self._lock = threading.RLock()
        self._txn: ReadTxn | None = None
        self._firsts: list[int] = []
        self._known_end = 0  # codes below this have their block in _firsts
        self._blocks: dict[int, Block] = {}
        self._bytes = 0
        self._find_own: dict[str | Keyword, int] = {}
        self._find_raw: dict[bytes, int] = {}
        self._decoded: dict[int, Any] = {}  # values asked for one by one, or from here and there

    # -- value -> code

    def find(self, value: Any) -> int | None:
        """The stored code of a value, or None."""
        if type(value) in _OWN:
            code = self._find_own.get(value)
            if code is not None:
                return code
        return self.find_raw(encode_value(value), value)

    def find_raw(self, data: bytes, value: Any = None) -> int | None:
        """The stored code of a byte form, or None."""
        code = self._find_raw.get(data)
        if code is not None:
            return code
        with self._lock:
            txn = self._begin()
            try:
                key = reverse_key(data)
                found = txn.get(key)
            finally:
                txn.park()
        if found is None:
            return None
        code = read_reverse_value(found, key)
        self._remember(data, value, code)
        return code

    def find_in(self, txn: ReadTxn, data: bytes, value: Any) -> int | None:
        """The code of a byte form as a write transaction sees it, or None."""
        code = self._find_raw.get(data)
        if code is None:
            key = reverse_key(data)
            found = txn.get(key)
            if found is None:
                return None
            code = read_reverse_value(found, key)
            self._remember(data, value, code)
        return code

    def find_many(self, values: list[Any]) -> list[int | None]:
        """The stored codes of many values, None where there is none; one read transaction for all."""
        out: list[int | None] = [None] * len(values)
        left: list[tuple[bytes, int]] = []
        known = self._find_own
        for i, value in enumerate(values):
            code = known.get(value) if type(value) in _OWN else None
            if code is None:
                data = encode_value(value)
                code = self._find_raw.get(data)
                if code is None:
                    left.append((data, i))
            out[i] = code
        if not left:
            return out
        left.sort()
        with self._lock:
            txn = self._begin()
            try:
                for data, i in left:
                    key = reverse_key(data)
                    found = txn.get(key)
                    if found is not None:
                        out[i] = code = read_reverse_value(found, key)
                        self._remember(data, values[i], code)
            finally:
                txn.park()
        return out

    def _remember(self, data: bytes, value: Any, code: int) -> None:
        if type(value) in _OWN:
            if len(data) <= _REMEMBERED:
                if len(self._find_own) >= _FIND_ENTRIES:
                    self._find_own.clear()
                self._find_own[value] = code
        elif len(data) <= _REMEMBERED:
            if len(self._find_raw) >= _FIND_ENTRIES:
                self._find_raw.clear()
            self._find_raw[data] = code

    # -- code -> value

    def decode(self, code: int) -> Any:
        """The value of a stored code."""
        value = self._decoded.get(code, _MISSING)
        if value is _MISSING:
            block, place = self._find_place(code)
            value = block.value(place)
            if block.n >= _MANY:
                self._note_decoded((code,), (value,))
        return value

    def _note_decoded(self, codes: Sequence[int], values: Sequence[Any]) -> None:
        if len(self._decoded) + len(codes) > _DECODED_ENTRIES:
            self._decoded.clear()
        self._decoded.update(zip(codes, values, strict=True))

    def raw(self, code: int) -> bytes:
        """The byte form of a stored code."""
        block, place = self._find_place(code)
        return block.raw(place)

    def _find_place(self, code: int) -> tuple[Block, int]:
        at = bisect_right(self._firsts, code) - 1
        if at >= 0:
            block = self._blocks.get(self._firsts[at])
            if block is not None:
                place = block.position(code)
                if place >= 0:
                    return block, place
        with self._lock:
            block = self._block_of(code)
            place = block.position(code)
            if place < 0:
                raise corrupt(block_key(code))
            return block, place

    def decode_many(self, codes: Codes) -> list[Any]:
        """The values of stored codes, int64 (n,), in their order; each distinct code is decoded once."""
        n = len(codes)
        if n <= 32:
            return [self.decode(c) for c in codes.tolist()]
        low, high = int(codes.min()), int(codes.max())
        if high - low < 4 * n + 1024:
            table: list[Any] = [_MISSING] * (high - low + 1)
            self._fill(table, low, high)
            # a list's __getitem__ over int objects beats an object array's take: no boxing of a second array
            values = list(map(table.__getitem__, (codes - low).tolist()))
            if _MISSING in values:
                raise corrupt(block_key(int(codes[values.index(_MISSING)])))
            return values
        if n <= _DECODED_ENTRIES // 4:
            values = list(map(self._decoded.get, codes.tolist(), repeat(_MISSING)))
            if _MISSING not in values:
                return values
        if is_rising(codes):
            return self._decode_sorted(codes.tolist())
        distinct = np.sort(codes)
        distinct = distinct[np.concatenate(([True], distinct[1:] != distinct[:-1]))].tolist()
        found = dict(zip(distinct, self._decode_sorted(distinct), strict=True))
        return list(map(found.__getitem__, codes.tolist()))

    def _decode_sorted(self, distinct: list[int]) -> list[Any]:
        """The values of ascending codes; a block is found once for all of its codes that are wanted."""
        values: list[Any] = []
        at, n = 0, len(distinct)
        noted = n <= _DECODED_ENTRIES // 4
        while at < n:
            block, place = self._find_place(distinct[at])
            if not block.is_dense:
                values.append(block.value(place))
                at += 1
                continue
            start, first, made = at, block.first, block.made
            at = bisect_left(distinct, first + block.n, at)
            part = [made[code - first] for code in distinct[start:at]]
            if _MISSING in part:
                part = [block.value(code - first) for code in distinct[start:at]]
            if noted and block.n >= _MANY:
                self._note_decoded(distinct[start:at], part)
            values += part
        return values

    def _fill(self, table: list[Any], low: int, high: int) -> None:
        """Puts the values of the codes low..high into a table; codes that were never given a value are left alone."""
        with self._lock:
            if high >= self._known_end:
                self._refresh()
            at = max(bisect_right(self._firsts, low) - 1, 0)
            for first in self._firsts[at : bisect_right(self._firsts, high)]:
                block = self._blocks.get(first) or self._load(first)
                if block.is_dense:
                    start, end = max(block.first, low), min(block.first + block.n, high + 1)
                    if start < end:
                        table[start - low : end - low] = block.values()[start - block.first : end - block.first]
                else:
                    for code, value in zip(block.codes(), block.values(), strict=True):
                        if low <= code <= high:
                            table[code - low] = value

    # The list of blocks (`_firsts`) is right for codes below `_known_end`. Above it, blocks may have been added, and the last
    # one appended to, by this process or another.

    def _block_of(self, code: int) -> Block:
        """The block that a code belongs to; the list of blocks is brought up to date if need be. Under the lock."""
        if code >= self._known_end:
            self._refresh()
        at = bisect_right(self._firsts, code) - 1
        if at < 0:
            raise corrupt(block_key(code))
        first = self._firsts[at]
        return self._blocks.get(first) or self._load(first)

    def _refresh(self) -> None:
        """Brings the list of blocks up to the newest commit."""
        txn = self._begin()
        try:
            start = 0
            if self._firsts:
                start = self._firsts[-1]
                self._forget(start)
            # in one step: `_find_place` looks into the list without the lock, which must never be shorter for a moment
            self._firsts[-1:] = [_Q.unpack(key[1:])[0] for key in txn.keys_from(b"D", block_key(start))]
        finally:
            txn.park()
        if self._firsts:
            last = self._load(self._firsts[-1])
            self._known_end = last.codes()[-1] + 1

    def _load(self, first: int) -> Block:
        txn = self._begin()
        try:
            data = txn.get(block_key(first))
        finally:
            txn.park()
        if data is None:
            raise corrupt(block_key(first))
        block = Block(block_key(first), data)
        self._forget(first)
        self._bytes += block.size
        while self._bytes > self._cache_bytes and self._blocks:
            self._forget(next(iter(self._blocks)))
        self._blocks[first] = block
        return block

    def _forget(self, first: int) -> None:
        block = self._blocks.pop(first, None)
        if block is not None:
            self._bytes -= block.size

    def _begin(self) -> ReadTxn:
        if self._txn is None:
            self._txn = self._env.read()
        else:
            self._env.check_usable()
            self._txn.refresh()
        return self._txn

    # -- value order

    def codes_between(self, low: bytes | None, high: bytes | None, most: int) -> list[tuple[bytes, int]] | None:
        """(reverse key, code) of the values from byte form `low` to `high`, in order of the keys; None above `most`.

        Long values that share their first 64 bytes come in the order of their hashes: the caller puts them right.
        """
        start = b"Z" if low is None else b"Z" + low[:LONGEST_KEY]
        stop = None if high is None else b"Z" + high[:LONGEST_KEY] + b"\xff" * (_HASH_BYTES + 1)
        rows: list[tuple[bytes, int]] = []
        with self._lock:
            txn = self._begin()
            try:
                for key, value in txn.items(b"Z", start):
                    if stop is not None and key > stop:
                        break
                    if len(rows) >= most:
                        return None
                    rows.append((key, read_reverse_value(value, key)))
            finally:
                txn.park()
        return rows

    def adopt(self, added: dict[bytes, int], values: dict[bytes, Any]) -> None:
        """Takes what a committed transaction added into the caches."""
        for data, code in added.items():
            self._remember(data, values.get(data), code)

    def forget_tail(self, first: int) -> None:
        """Drops a cached block that was appended to."""
        with self._lock:
            self._forget(first)
            self._known_end = min(self._known_end, first)

    def close(self) -> None:
        """Releases the reader slot and the caches."""
        with self._lock:
            if self._txn is not None:
                self._txn.close()
                self._txn = None
            self._blocks.clear()
            self._decoded.clear()


class NewCodes:
    """Codes given out in one write transaction: found in the dictionary, or new from the counter on.

    1. `encode` while the transaction is put together; 2. `write` before the commit; 3. `adopt` after it. Dropped on abort.
    """

    __slots__ = ("_dictionary", "_txn", "_values", "added", "next_code")

    def __init__(self, dictionary: Dictionary, next_code: int, txn: WriteTxn) -> None:
        self._dictionary = dictionary
        self._txn = txn
        self.next_code = next_code
        self.added: dict[bytes, int] = {}
        self._values: dict[bytes, Any] = {}

    def encode(self, value: Any) -> int:
        """The interned code of a value, a new one if it has none."""
        if type(value) in _OWN:
            code = self._dictionary._find_own.get(value)  # noqa: SLF001 - the hot path of every transaction
            if code is not None:
                return code
        data = encode_value(value)
        code = self.added.get(data)
        if code is None:
            code = self._dictionary.find_in(self._txn, data, value)
            if code is None:
                code = self.next_code
                self.next_code += 1
                self.added[data] = code
                self._values[data] = value
        return code

    def back_to(self, next_code: int) -> None:
        """Forgets the codes given out from `next_code` on: what wanted them is not done."""
        if next_code != self.next_code:
            for data in [data for data, code in self.added.items() if code >= next_code]:
                del self.added[data], self._values[data]
            self.next_code = next_code

    def encode_many(self, values: list[Any]) -> Codes:
        """The interned codes of many values, int64 (n,): each distinct value is looked up once."""
        if values and type(values[0]) in _STRICT:
            codes = self.encode_all_of(type(values[0]), values)
            if codes is not None:
                return codes
        raws = [encode_value(v) for v in values]
        firsts: dict[bytes, Any] = {}
        for data, value in zip(raws, values, strict=True):
            firsts.setdefault(data, value)
        table_raw = dict(zip(firsts, self._codes_of(list(firsts.values())), strict=True))
        return np.fromiter(map(table_raw.__getitem__, raws), dtype=np.int64, count=len(raws))

    def encode_all_of(self, kind: type, values: list[Any]) -> Codes | None:
        """As `encode_many` where all values are of one type whose own equality is strict (str, Keyword ...); else None."""
        # one pass: the first time a value is seen it gets the next number, without a step of Python
        numbers: dict[Any, int] = defaultdict(count().__next__)
        try:
            places = np.fromiter(map(numbers.__getitem__, values), dtype=np.int64, count=len(values))
        except TypeError:  # something unhashable among them
            return None
        if set(map(type, numbers)) != {kind}:
            return None
        return np.array(self._codes_of(list(numbers)), dtype=np.int64)[places]

    def _codes_of(self, distinct: list[Any]) -> list[int]:
        found = self._dictionary.find_many(distinct) if self._dictionary_has_codes() else [None] * len(distinct)
        out = []
        for value, known in zip(distinct, found, strict=True):
            if known is None:
                data = encode_value(value)
                code = self.added.get(data)
                if code is None:
                    code = self.next_code
                    self.next_code += 1
                    self.added[data] = code
                    self._values[data] = value
                out.append(code)
            else:
                out.append(known)
        return out

    def _dictionary_has_codes(self) -> bool:
        return self.next_code - len(self.added) > 1

    def find(self, value: Any) -> int | None:
        """The code of a value that is stored or was given out in this transaction."""
        data = encode_value(value)
        code = self.added.get(data)
        return self._dictionary.find_raw(data, value) if code is None else code

    def decode(self, code: int) -> Any:
        """The value of a code, stored or new."""
        first_new = self.next_code - len(self.added)
        if code < first_new:
            return self._dictionary.decode(code)
        raw = next(d for d, c in self.added.items() if c == code)
        return decode_value(raw)

    def decode_many(self, codes: Codes) -> list[Any]:
        """The values of codes, stored or new."""
        first_new = self.next_code - len(self.added)
        if len(codes) == 0 or int(codes.max()) < first_new:
            return self._dictionary.decode_many(codes)
        fresh = {c: d for d, c in self.added.items()}
        return [decode_value(fresh[c]) if c >= first_new else self._dictionary.decode(c) for c in codes.tolist()]

    def write(self, txn: WriteTxn) -> int | None:
        """Writes the new entries; returns the first code of a block that was appended to, or None."""
        if not self.added:
            return None
        codes, raws = list(self.added.values()), list(self.added)
        appended = self._append(txn, codes, raws) if len(codes) <= 64 else None
        if appended is None:
            self._write_blocks(txn, codes, raws)
        if len(codes) < 64:
            for data, code in self.added.items():
                txn.put(reverse_key(data), reverse_value(code))
        else:
            txn.put_sorted(sorted((reverse_key(d), reverse_value(c)) for d, c in self.added.items()))
        return appended

    def _append(self, txn: WriteTxn, codes: list[int], raws: list[bytes]) -> int | None:
        key = txn.last_key(b"D")
        if key is None or sum(map(len, raws)) > _APPEND_BYTES:
            return None
        data = txn.get(key)
        if data is None or len(data) > _APPEND_BYTES:
            return None
        _, flags, n, _ = _HEAD.unpack_from(data)
        first = _Q.unpack(key[1:])[0]
        if flags or crc32(data[4:]) != int.from_bytes(data[:4], "little"):
            return None
        if first + n != codes[0] or len(data) + 4 * len(codes) + sum(map(len, raws)) > _APPEND_BYTES:
            return None
        start = _HEAD.size + 4 * n
        end = len(data) - start
        ends = []
        for raw in raws:
            end += len(raw)
            ends.append(end)
        body = b"".join((data[_HEAD.size : start], struct.pack(f"<{len(ends)}I", *ends), data[start:], *raws))
        rest = struct.pack("<BxxxII", 0, n + len(ends), len(body)) + body
        txn.put(key, struct.pack("<I", crc32(rest)) + rest)
        return int(first)

    @staticmethod
    def _write_blocks(txn: WriteTxn, codes: list[int], raws: list[bytes]) -> None:
        for key, data in iter_blocks(codes, raws):
            txn.put(key, data)

    def adopt(self, appended: int | None) -> None:
        """After the commit: the new codes enter the caches."""
        if appended is not None:
            self._dictionary.forget_tail(appended)
        if self.added:
            self._dictionary.adopt(self.added, self._values)


def iter_blocks(codes: Sequence[int], raws: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The (key, bytes) of the blocks that hold these codes (ascending) and byte forms."""
    start, size = 0, 0
    for i, data in enumerate(raws):
        size += len(data) + 4
        if size >= _BLOCK_BYTES or i - start >= 65535:
            yield block_key(codes[start]), pack_block(codes[start : i + 1], raws[start : i + 1])
            start, size = i + 1, 0
    if start < len(raws):
        yield block_key(codes[start]), pack_block(codes[start:], raws[start:])


class OverlayCodes:
    """A view of the dictionary that gives values without a stored code a temporary one (2^62 and above).

    It dies with its query or speculative view: reading never writes. For one thread at a time. `parent` is the overlay of
    the view underneath, whose temporary codes stay valid here: they are copied, unless the parent is `growing`. That one
    belongs to a composition and is looked into, so that a query costs nothing for what earlier steps have added.
    """

    __slots__ = ("_dictionary", "_values", "added", "below", "growing", "next_code")

    def __init__(self, dictionary: Dictionary, parent: OverlayCodes | None = None, *, growing: bool = False) -> None:
        self._dictionary = dictionary
        self.growing = growing
        copied = parent if parent is not None and not parent.growing else None
        self.below: OverlayCodes | None = parent if copied is None else copied.below
        self.added: dict[bytes, int] = dict(copied.added) if copied is not None else {}
        self._values: dict[int, Any] = dict(zip(self.added.values(), map(decode_value, self.added), strict=True))
        self.next_code: int = FIRST_TEMPORARY if parent is None else parent.next_code

    def find(self, value: Any) -> int | None:
        """The code of a value that has one already, or None."""
        if self.added or self.below is not None:
            code = self._find_temporary(encode_value(value))
            if code is not None:
                return code
        return self._dictionary.find(value)

    def _find_temporary(self, data: bytes) -> int | None:
        code = self.added.get(data)
        return self.below.added.get(data) if code is None and self.below is not None else code

    def encode(self, value: Any) -> int:
        """The interned code of a value: the stored one, or a temporary one."""
        code = self._dictionary.find(value)
        return self._temporary(value) if code is None else code

    def _temporary(self, value: Any) -> int:
        data = encode_value(value)
        code = self._find_temporary(data)
        if code is None:
            code = self.next_code
            self.next_code += 1
            self.added[data] = code
            self._values[code] = decode_value(data)  # as it would come back from the store
        return code

    def _temporary_value(self, code: int) -> Any:
        # NB: own codes first: the one below may have given the same code to another value since
        if code in self._values or self.below is None:
            return self._values[code]
        return self.below.decode(code)

    def encode_many(self, values: list[Any]) -> Codes:
        """The interned codes of many values, int64 (n,)."""
        found = self._dictionary.find_many(values)
        return np.fromiter(
            (self._temporary(v) if c is None else c for v, c in zip(values, found, strict=True)),
            dtype=np.int64,
            count=len(values),
        )

    def encode_all_of(self, kind: type, values: list[Any]) -> Codes | None:
        """As `encode_many` where all values are of this type; else None."""
        return self.encode_many(values) if set(map(type, values)) == {kind} else None

    def decode(self, code: int) -> Any:
        """The value of a code."""
        return self._temporary_value(code) if code >= FIRST_TEMPORARY else self._dictionary.decode(code)

    def decode_many(self, codes: Codes) -> list[Any]:
        """The values of codes, int64 (n,), in their order."""
        if len(codes) == 0 or int(codes.max()) < FIRST_TEMPORARY:
            return self._dictionary.decode_many(codes)
        stored = codes < FIRST_TEMPORARY
        out: list[Any] = [None] * len(codes)
        for i, v in zip(np.flatnonzero(stored).tolist(), self._dictionary.decode_many(codes[stored]), strict=True):
            out[i] = v
        for i in np.flatnonzero(~stored).tolist():
            out[i] = self._temporary_value(int(codes[i]))
        return out

    def raw(self, code: int) -> bytes:
        """The byte form of a code: an order key."""
        return encode_value(self._temporary_value(code)) if code >= FIRST_TEMPORARY else self._dictionary.raw(code)

    def to_interned(self, kind: Kind, codes: Codes) -> Codes:
        """The canonical interned codes of inline values, so that columns of different kinds can meet."""
        if kind is Kind.INTERNED or len(codes) == 0:
            return codes
        distinct = np.sort(codes)
        distinct = distinct[np.concatenate(([True], distinct[1:] != distinct[:-1]))]
        interned = self.encode_many(decode_inline(kind, distinct))
        return interned[np.searchsorted(distinct, codes)]
