"""The cache of whole columns: what queries read stays decoded, within a share of the machine's memory."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, Final

LEAST_BYTES: Final = 256 << 20
MOST_BYTES: Final = 4 << 30
_SHARE: Final = 8  # of the memory this process may have
_CGROUP: Final = "/sys/fs/cgroup/memory.max"


def default_bytes() -> int:
    """For columns an eighth of the memory that this process may have, between 256 MB and 4 GB; for values half of that."""
    limits = []
    with suppress(ValueError, OSError, AttributeError):  # not on every system
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on every system

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    with suppress(ValueError, OSError), open(_CGROUP, encoding="ascii") as limit:
        limits.append(int(limit.read()))  # "max" where there is no limit
    return max(LEAST_BYTES, min(MOST_BYTES, min(limits, default=0) // _SHARE))


class ColumnCache:
    """Columns of whole attributes, bounded in bytes; the least recently used go first. Safe between threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._entries: dict[Any, Any] = {}
        self._newest: dict[Any, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        """The cached value, or None."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return None
            self._entries[key] = entry
            return entry[0]

    def peek(self, key: Any) -> bool:
        """True when the key is cached."""
        return key in self._entries

    def put(self, key: Any, value: Any, size: int) -> None:
        """Adds a value of `size` bytes; one larger than a quarter of the cache is not kept."""
        if size > self._limit // 4:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self._bytes += size - (old[1] if old else 0)
            self._entries[key] = (value, size)
            while self._bytes > self._limit:
                self._bytes -= self._entries.pop(next(iter(self._entries)))[1]

    def note_newest(self, key: Any, tx: int) -> None:
        """Remembers up to which transaction the columns of a key (order, with tx, aid) were made."""
        if tx > self._newest.get(key, 0):
            self._newest[key] = tx

    def newest(self, key: Any) -> int:
        """The newest transaction for which columns of a key were made, -1 when none were."""
        return self._newest.get(key, -1)

    @property
    def size_bytes(self) -> int:
        """The bytes held now."""
        return self._bytes
