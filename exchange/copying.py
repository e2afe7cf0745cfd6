"""Copying: a database directory copied while it is in use, consistent as of one commit.

LMDB copies the pages of one read transaction; writers go on meanwhile. The copy is made beside its place and moved there
when it is whole and on the disk.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from exchange.files import sync_path
from store.errors import UserError
from store.store import find_open, open_store

__all__ = ["copy_database"]


def copy_database(source: Path, target: Path, *, compact: bool = False) -> dict[str, int]:
    """Copies a database; `compact` leaves free pages out. Returns the transaction it is as of, and its bytes.

    Raises:
        UserError: `copy/target` when the target exists. StorageError: as when a database is opened; nothing is left behind.
    """
    if target.exists():
        raise UserError("copy/target", f"{target} is there already.", hint="name a directory that does not exist yet")
    if not target.parent.is_dir():
        raise UserError("copy/target", f"{target.parent} is no directory.", hint="make it first, or name another place")
    # a process opens a directory once: with a connection open, that one's way counts
    store = open_store(source, read_only=find_open(source) is None)
    beside: Path | None = None
    try:
        try:
            beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as e:
            raise UserError("copy/target", f"{target} cannot be made: {e.strerror}.", hint="check the path") from e
        store.env.copy(beside, compact=compact)
        # opened once: the identity file is made, and the copy proves that it can be read
        with_identity = open_store(beside, read_only=False)
        basis = with_identity.newest().basis_tx
        with_identity.release()
        (beside / "lock.mdb").unlink(missing_ok=True)
        for made in (*beside.iterdir(), beside):
            sync_path(made)
        beside.rename(target)
        sync_path(target.parent)
    except BaseException:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        store.release()
    return {"basis_tx": basis, "bytes": (target / "data.mdb").stat().st_size}
