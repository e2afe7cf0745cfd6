"""The portable dump: a database's schema and current facts as text, in blocks with digests.

The format, one EDN form a line, UTF-8, `.gz` packed if the name says so:

    {:datalog/dump 1 :basis-tx n :blocks n :datoms n :left-out {...} :schema [{:db/ident ...} ...]}
    {:block 1 :attribute :person/name :datoms n :sha256 "..."}           the digest of the two lines below
    [eid ...]
    [value ...]                                                          as many as eids
    ...
    {:end true :sha256 "..."}                                            the digest of all lines above

Blocks are at most 20,000 facts of one attribute, in the order of the schema, references last: what they name is there before
them. Memory holds the eids and codes of one attribute, and the values of one block.
Entity ids are kept. Values are EDN; what EDN has no form for is tagged (`packed`). What a dump leaves out: history, what
was said about transactions and references to them (their ids belong to the log; `datalog copy` keeps both), and the values of
composite tuples, which make themselves. The header counts what was left out.

`write_dump` takes one database value, so writers go on meanwhile; `check_dump` reads a file through and verifies it;
`exchange.restore` makes a database of it.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from store.datom import FIRST_ATTRIBUTE, FIRST_TX, MAX_EID
from store.edn import Keyword, List, Map, Set, Symbol, Tagged, Vector, read_edn, write_edn
from store.errors import EdnError, StoreCorrupt, UserError
from store.schema import properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from datalog import Db
    from store.schema import Attribute
    from store.snapshot import Snapshot

__all__ = ["VERSION", "Block", "Header", "check_dump", "pack", "read_blocks", "unpack", "write_dump"]

VERSION: Final = 1
BLOCK: Final = 20_000  # facts
_BYTES, _QUOTED = Symbol("datalog/bytes"), Symbol("datalog/tagged")
_MAGIC: Final = b"{:datalog/dump "


class Header(NamedTuple):
    """What the first line says. `digest` is of the line itself: it names the dump."""

    blocks: int
    datoms: int
    schema: tuple[Any, ...]
    left_out: dict[str, int]
    basis_tx: int
    digest: str


class Block(NamedTuple):
    """Facts of one attribute; `number` counts from 1."""

    number: int
    attribute: str
    eids: list[int]
    values: list[Any]


# values ---------------------------------------------------------------------------------------------------------------


def pack(value: Any) -> Any:
    """The value with what EDN cannot write tagged: #datalog/bytes "base64", #datalog/keyword ":a b"; the inverse of `unpack`."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _NAMES:
        return value if _reads_back(value) else Tagged(_NAMES[kind], str(value))
    if isinstance(value, bytes):
        return Tagged(_BYTES, b64encode(value).decode("ascii"))
    if isinstance(value, Tagged):
        inner = Tagged(value.tag, pack(value.value))
        return (
            Tagged(_QUOTED, Vector([str(value.tag), inner.value])) if str(value.tag).startswith("datalog/") else inner
        )
    return _mapped(value, pack)


def unpack(value: Any) -> Any:
    """The value that `pack` was given."""
    kind = type(value)
    if kind in _PLAIN or kind in _NAMES:
        return value
    if isinstance(value, Tagged):
        for made, tag in _NAMES.items():
            if value.tag == tag:
                return made(value.value)
        if value.tag == _BYTES:
            return b64decode(value.value, validate=True)
        if value.tag == _QUOTED:
            return Tagged(Symbol(value.value[0]), unpack(value.value[1]))
        return Tagged(value.tag, unpack(value.value))
    return _mapped(value, unpack)


_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
_NAMES: Final[dict[type, Symbol]] = {Keyword: Symbol("datalog/keyword"), Symbol: Symbol("datalog/symbol")}


@lru_cache(maxsize=4096)
def _reads_back(name: Keyword | Symbol) -> bool:
    """Whether EDN has a form for a name: Python may make one of any text."""
    try:
        write_edn(name)
    except EdnError:
        return False
    return True


def _mapped(value: Any, f: Callable[[Any], Any]) -> Any:
    """A collection with its members mapped, of the same type."""
    if isinstance(value, Map | dict):
        return Map((f(k), f(v)) for k, v in value.items())
    if isinstance(value, Set | set | frozenset):
        return Set(map(f, value))
    if isinstance(value, List):
        return List(map(f, value))
    if isinstance(value, list | tuple):
        return Vector(map(f, value))
    return value


# writing --------------------------------------------------------------------------------------------------------------


def write_dump(db: Db, out: BinaryIO, step: Callable[[str, int, int], None] | None = None) -> Header:
    """Writes the dump of a database value to a binary file; returns what its header says."""
    snapshot = db.snapshot
    sizes = [len(part.e) for part in _parts(snapshot)]
    left = _left_out(snapshot)
    blocks = sum(-(-size // BLOCK) for size in sizes)
    datoms = sum(sizes)
    schema = Vector(
        Map({Keyword(k): v for k, v in {":db/ident": a.keyword, **_declaration(a)}.items()})
        for a in snapshot.schema.user_attributes()
    )
    head = {
        "datalog/dump": VERSION,
        "basis-tx": snapshot.basis_tx,
        "blocks": blocks,
        "datoms": datoms,
        "left-out": Map({Keyword(k): n for k, n in left.items()}),
        "schema": schema,
    }
    line = ("{" + " ".join(f":{k} {write_edn(v)}" for k, v in head.items()) + "}\n").encode()
    whole = hashlib.sha256(line)
    out.write(line)
    number = done = 0
    for part in _parts(snapshot):
        for start in range(0, len(part.e), BLOCK):
            number += 1
            e, v = part.e[start : start + BLOCK], part.v[start : start + BLOCK]
            values = part.values(snapshot, v)
            body = f"[{' '.join(map(str, e.tolist()))}]\n{write_edn(Vector(values))}\n".encode("utf-8", "surrogatepass")
            digest = hashlib.sha256(body).hexdigest()
            entry = (
                f'{{:block {number} :attribute {part.attribute.ident} :datoms {len(e)} :sha256 "{digest}"}}\n'.encode()
            )
            for piece in (entry, body):
                whole.update(piece)
                out.write(piece)
            done += len(e)
            if step is not None:
                step("dump", done, datoms)
    out.write(f'{{:end true :sha256 "{whole.hexdigest()}"}}\n'.encode())
    return Header(blocks, datoms, tuple(schema), left, snapshot.basis_tx, hashlib.sha256(line).hexdigest())


class _Part(NamedTuple):
    """The facts of one attribute that a dump keeps: int64 (n,) each, sorted by entity."""

    attribute: Attribute
    e: Any
    v: Any

    def values(self, snapshot: Snapshot, codes: Any) -> list[Any]:
        """The values of codes as EDN can write them; a reference to an attribute is its name."""
        if self.attribute.is_ref:
            return [
                snapshot.schema.by_aid(c - FIRST_ATTRIBUTE).keyword if c >= FIRST_ATTRIBUTE else c
                for c in codes.tolist()
            ]
        return list(map(pack, snapshot.decode(self.attribute, codes)))


def _parts(snapshot: Snapshot) -> Iterator[_Part]:
    for attribute in sorted(snapshot.schema.all_attributes(), key=lambda a: a.is_ref):
        if attribute.tuple_attrs or not snapshot.count(attribute.aid):
            continue
        columns = snapshot.columns(attribute.aid)
        keep = columns.e <= MAX_EID
        if attribute.is_ref:
            keep &= (columns.v <= MAX_EID) | (columns.v >= FIRST_ATTRIBUTE)
        if keep.any():
            yield _Part(attribute, columns.e[keep], columns.v[keep])


def _left_out(snapshot: Snapshot) -> dict[str, int]:
    """How many facts the dump does not have, by reason."""
    about = references = 0
    for attribute in snapshot.schema.all_attributes():
        if not snapshot.count(attribute.aid) or attribute.ident == ":db/txInstant":
            continue
        columns = snapshot.columns(attribute.aid)
        of_tx = (columns.e >= FIRST_TX) & (columns.e < FIRST_ATTRIBUTE)
        about += int(np.count_nonzero(of_tx))
        if attribute.is_ref:
            references += int(np.count_nonzero(~of_tx & (columns.v >= FIRST_TX) & (columns.v < FIRST_ATTRIBUTE)))
    return {"facts-about-transactions": about, "references-to-transactions": references}


def _declaration(attribute: Attribute) -> dict[str, Any]:
    return properties(attribute) if attribute.declared else {":datalog/undeclared": True}


# reading --------------------------------------------------------------------------------------------------------------


def _damaged(path: Path, message: str) -> StoreCorrupt:
    return StoreCorrupt(
        "dump/damaged", f"{path}: {message}.", hint="fetch or write the dump again: nothing was taken from it"
    )


def read_header(file: BinaryIO, path: Path) -> tuple[Header, bytes]:
    """The header of an open dump, and its line.

    Raises:
        UserError: `dump/format` for a file that is no dump, `dump/version` for one of another version.
        StoreCorrupt: `dump/damaged`.
    """
    line = file.read(len(_MAGIC))
    if line == _MAGIC:
        line += file.readline()
    else:
        shown = "it is empty" if not line else "its first line is none of a dump"
        raise UserError(
            "dump/format", f"{path} is no dump of a database: {shown}.", expected="a file of `datalog dump`"
        )
    try:
        head = {str(k): v for k, v in read_edn(line.decode()).items()}
        version = head[":datalog/dump"]
        if version != VERSION:
            raise UserError(
                "dump/version", f"{path} is of version {version}; this release reads version {VERSION}.",
                hint="load it with the release that wrote it, or a later one",
            )  # fmt: skip
        left = {str(k)[1:]: _count(n) for k, n in head[":left-out"].items()}
        digest = hashlib.sha256(line).hexdigest()
        schema = tuple(head[":schema"])
        blocks, datoms, basis = (_count(head[name]) for name in (":blocks", ":datoms", ":basis-tx"))
        for attribute in schema:
            attribute.items()  # a map
        return Header(blocks, datoms, schema, left, basis, digest), line
    except (EdnError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as e:
        raise _damaged(path, "the first line cannot be read") from e


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("no number")
    return value


def check_dump(file: BinaryIO, path: Path, step: Callable[[str, int, int], None] | None = None) -> Header:
    """Reads a dump through and compares every digest; returns its header. `file` is at its beginning.

    Raises:
        UserError: as `read_header`. StoreCorrupt: `dump/damaged`, with the block, for anything changed, lost or cut off.
    """
    header, line = read_header(file, path)
    whole = hashlib.sha256(line)
    for number in range(1, header.blocks + 1):
        entry = file.readline()
        body = file.readline() + file.readline()
        if not body.endswith(b"\n") or body.count(b"\n") != 2:
            raise _damaged(path, f"it ends in block {number} of {header.blocks}")
        try:
            said = {str(k): v for k, v in read_edn(entry.decode()).items()}
            number_said, digest = said[":block"], said[":sha256"]
        except (EdnError, UnicodeDecodeError, KeyError, AttributeError) as e:
            raise _damaged(path, f"the head of block {number} cannot be read") from e
        if number_said != number or digest != hashlib.sha256(body).hexdigest():
            raise _damaged(path, f"block {number} of {header.blocks} is not what was written: its digest differs")
        whole.update(entry)
        whole.update(body)
        if step is not None:
            step("verify", number, header.blocks)
    last = file.readline()
    if last != f'{{:end true :sha256 "{whole.hexdigest()}"}}\n'.encode():
        raise _damaged(path, "its last line is missing, or its digest differs")
    if file.read(1):
        raise _damaged(path, "there is more after its last line")
    return header


def read_blocks(file: BinaryIO, path: Path, first: int = 1) -> Iterator[Block]:
    """The blocks of a verified dump from number `first` on. `file` is at its beginning."""
    header, _ = read_header(file, path)
    for number in range(1, header.blocks + 1):
        entry, eids, values = file.readline(), file.readline(), file.readline()
        if number < first:
            continue
        said = {str(k): v for k, v in read_edn(entry.decode()).items()}
        read = read_edn(values.decode("utf-8", "surrogatepass"))
        yield Block(number, str(said[":attribute"]), list(map(int, eids[1:-2].split())), list(map(unpack, read)))
