"""The EDN memory file: read, walked in its order, measured, and written anew as an export.

Takes a path, gives a `Memory`: key -> value in file order, with the file's size and digest. Reading never changes the
file. A file that cannot be read, is no EDN, or holds anything but one map with keyword keys stops everything: no part of
it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.edn import Keyword, Map, decoded, read_edn_bytes, read_nodes, show_form, write_edn
from store.errors import EdnError, KeyMapError

if TYPE_CHECKING:
    from os import PathLike
    from typing import TextIO

    from store.edn import Node

__all__ = ["Memory", "read_memory", "write_memory"]


@dataclass(frozen=True, slots=True)
class Memory(Mapping[Keyword, Any]):
    """What a memory file holds: a mapping of keys to values, in file order.

    Attributes:
        values_by_key: the map read.
        path: where it was read from; None for text.
        size_bytes: the size of the file.
        digest: its SHA-256, in hexadecimal.
    """

    values_by_key: Map
    path: Path | None
    size_bytes: int
    digest: str

    def __getitem__(self, key: Keyword) -> Any:
        return self.values_by_key[key]

    def __iter__(self) -> Iterator[Keyword]:
        return iter(self.values_by_key)

    def __len__(self) -> int:
        return len(self.values_by_key)

    def pairs(self) -> Iterable[tuple[Keyword, Any]]:
        """The entries in file order; faster than `items()`."""
        return self.values_by_key.pairs()

    def __repr__(self) -> str:
        return f"<Memory {str(self.path)!r} keys={len(self)} bytes={self.size_bytes}>"


def read_memory(path: str | PathLike[str]) -> Memory:
    """The memory of a file: UTF-8 EDN, one map whose keys are keywords.

    Raises:
        EdnError: the file is not UTF-8 or not EDN, with line and column; `memory/unreadable` when it cannot be opened.
        KeyMapError: `memory/no-map`, `memory/key` when it is EDN of another shape, with the place.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise EdnError(
            "memory/unreadable",
            f"The memory file cannot be read: {e.strerror or e}.",
            expected="a file of EDN that this user may read",
            file=str(path),
        ) from e
    return Memory(_checked(read_edn_bytes(raw, source=str(path)), raw, path), path, len(raw), sha256(raw).hexdigest())


def _checked(value: Any, raw: bytes, path: Path) -> Map:
    if not isinstance(value, Map):
        raise _wrong("memory/no-map", f"The file holds {show_form(value)}.", "one map of keys and values", raw, path, 0)
    for n, key in enumerate(value):
        if key.__class__ is not Keyword:
            raise _wrong(
                "memory/key", f"The key {show_form(key)} is no keyword.", "keywords as keys", raw, path, 1 + 2 * n
            )
    return value


def _wrong(code: str, message: str, expected: str, raw: bytes, path: Path, place: int) -> KeyMapError:
    """The error with the place of the form: 0 the whole, 1 the first key, 2 the first value ..."""
    text = decoded(raw)
    (node,) = read_nodes(text)
    found: Node = node.items[place - 1] if place else node
    return KeyMapError(code, message, expected=expected, span=found.span, source=text, file=str(path))


def write_memory(pairs: Iterable[tuple[Keyword, Any]], out: TextIO) -> int:
    """Writes keys and values as one EDN map, a key a line; returns how many there were."""
    n = 0
    out.write("{")
    for key, value in pairs:
        out.write(f"{chr(10) + ' ' if n else ''}{write_edn(key)} {write_edn(value)}")
        n += 1
    out.write("}\n")
    return n
