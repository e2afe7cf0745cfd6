"""Restore: a database made of a portable dump, which goes on where a killed run ended.

The dump is verified as a whole before anything is written. Each block is one transaction, so how far a run came is the
number of transactions; which dump it was loading stands in the file `load.edn` of the database's directory until all is in:

    1. {:dump digest}               written first, in the new directory
    2. the schema is declared       one transaction, if there is any
    3. {:dump digest :base tx}      the basis after it
    4. block n                      transaction base + n
    5. the counts are compared      and the file is removed

A run that finds the file with the digest of its own dump begins after the last block that is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exchange.dump import check_dump, read_blocks
from exchange.files import open_file, whole_file
from store.datom import MAX_EID
from store.edn import Keyword, read_edn
from store.errors import EdnError, StorageError, StoreCorrupt, UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from datalog import Connection
    from exchange.dump import Block, Header

__all__ = ["NOTE", "load_dump"]

NOTE: Final = "load.edn"
_DATA: Final = "data.mdb"


def load_dump(
    dump: Path, target: Path, step: Callable[[str, int, int], None] | None = None, *, sync: bool = True
) -> dict[str, Any]:
    """Makes the database `target` of a dump; returns its figures. Goes on with a load of the same dump that was killed.

    Raises:
        UserError: `dump/...` for a file that is no dump, `load/not-empty` for a target that holds something else.
        StoreCorrupt: `dump/damaged`, before anything is written; `load/mismatch` when the database is not what was dumped.
    """
    import datalog  # noqa: PLC0415 - the door loads what it needs

    with open_file(dump, "The dump") as file:
        header = _verified(file, dump, step)
    base = _claim(target, header, dump)
    schema = [_definition(m) for m in header.schema if Keyword("datalog/undeclared") not in m]
    strict = False if len(schema) < len(header.schema) else None
    with datalog.connect(target, schema, strict=strict, sync=sync) as conn:
        if base is None:
            base = conn.db().basis_tx
            _note(target, header, base)
        there = conn.db().basis_tx - base
        with open_file(dump, "The dump") as file:
            for block in read_blocks(file, dump, there + 1):
                _load(conn, block)
                if step is not None:
                    step("load", block.number, header.blocks)
        _compare(conn, header, target)
    (target / NOTE).unlink()
    return {"datoms": header.datoms, "blocks": header.blocks, "resumed_after": there, **header.left_out}


def _verified(file: Any, dump: Path, step: Callable[[str, int, int], None] | None) -> Header:
    try:
        return check_dump(file, dump, step)
    except (OSError, EOFError) as e:  # what gzip says of a damaged file
        raise StoreCorrupt(
            "dump/damaged", f"{dump} cannot be unpacked: {e}.", hint="fetch or write the dump again"
        ) from e


def _claim(target: Path, header: Header, dump: Path) -> int | None:
    """The basis after the schema of a load that is under way, or None for a new one."""
    note = target / NOTE
    if note.exists():
        try:
            said = {str(k): v for k, v in read_edn(note.read_text(encoding="utf-8")).items()}
        except (EdnError, AttributeError, UnicodeDecodeError) as e:
            raise UserError("load/note", f"{note} cannot be read.", hint=f"remove {target} and load again") from e
        if said.get(":dump") == header.digest:
            base: int | None = said.get(":base")
            return base
        raise UserError(
            "load/not-empty", f"{target} holds part of another dump than {dump}.",
            hint="go on with that dump, or remove the directory",
        )  # fmt: skip
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = (
            "is a file"
            if not target.is_dir()
            else "is a database already"
            if (target / _DATA).exists()
            else "is not empty"
        )
        raise UserError("load/not-empty", f"{target} {what}.", hint="name a new directory: load makes the database")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError("store/path", f"{target} cannot be made: {e.strerror}.", hint="check the path") from e
    _note(target, header, None)
    return None


def _note(target: Path, header: Header, base: int | None) -> None:
    with whole_file(target / NOTE) as out:
        out.write(f'{{:dump "{header.digest}"{"" if base is None else f" :base {base}"}}}\n'.encode())


def _definition(entry: Any) -> dict[str, Any]:
    return {str(k): v for k, v in entry.items()}


def _load(conn: Connection, block: Block) -> None:
    attribute = conn.db().snapshot.schema.find(block.attribute)
    if attribute is not None and attribute.system:  # :db/ident and :db/doc of entities
        conn.transact([[":db/add", e, block.attribute, v] for e, v in zip(block.eids, block.values, strict=True)])
        return
    values: Any = block.values
    if attribute is not None and attribute.is_ref and any(type(v) is Keyword for v in values):
        db = conn.db()
        values = [db.entid(v) if type(v) is Keyword else v for v in values]
    conn.load({block.attribute: (np.array(block.eids, dtype=np.int64), values)})


def _compare(conn: Connection, header: Header, target: Path) -> None:
    """Raise unless the database has as many facts as the dump."""
    snapshot = conn.db().snapshot
    found = 0
    for attribute in snapshot.schema.all_attributes():
        if not attribute.tuple_attrs and snapshot.count(attribute.aid):
            found += int(np.count_nonzero(snapshot.columns(attribute.aid).e <= MAX_EID))
    if found != header.datoms:
        raise StoreCorrupt(
            "load/mismatch",
            f"{target} has {found:,} facts, but the dump has {header.datoms:,}: something else was written meanwhile.",
            hint="remove the directory and load again, with nobody writing to it",
        )
