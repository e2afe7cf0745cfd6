"""Where the stage record is kept: beside the memory file, in its journal, in the database; the newest of them counts.

Written in this order: file, journal, database. A crash between any two leaves an older record in the later places; whoever
opens the memory takes the one with the highest sequence number and brings the others up to it. Three places, so that the loss
of any one - the database's directory, the file, the journal with the memory file - does not change what is read and written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migration.files import replace_file, storage_error
from migration.stages import StageRecord
from store.errors import DatalogError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from migration.database_side import DatabaseSide
    from migration.edn_side import EdnSide

__all__ = ["newest", "read_stage_file", "stage_file", "write_record"]


def stage_file(memory_file: Path) -> Path:
    """The path of the stage record beside a memory file."""
    return memory_file.with_name(f"{memory_file.name}.stage")


def read_stage_file(memory_file: Path) -> StageRecord | None:
    """The record beside a memory file, or None when there is none.

    Raises:
        StoreCorrupt: `stage/damaged`. StorageError: it cannot be read.
    """
    path = stage_file(memory_file)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise storage_error(e, path, "Reading the stage record") from e
    return StageRecord.read(text.decode("utf-8", "replace"), str(path))


def newest(records: Iterable[StageRecord | None]) -> StageRecord | None:
    """The record with the highest sequence number; of equals the first."""
    found = [r for r in records if r is not None]
    return max(found, key=lambda r: r.sequence) if found else None


def write_record(
    memory_file: Path, record: StageRecord, edn: EdnSide | None, side: DatabaseSide | None
) -> DatalogError | None:
    """Writes a record to all its places; returns the error of journal or database, if one of them has failed.

    Raises:
        StorageError: the file was not written, and so nothing was.
    """
    text = record.text()
    path = stage_file(memory_file)
    try:
        replace_file(path, [text.encode()])
    except OSError as e:
        raise storage_error(e, path, "Writing the stage record") from e
    failed: DatalogError | None = None
    if edn is not None:
        try:  # from here on the record counts: that a copy of it could not be written must not say otherwise
            edn.note(["stage", text])
        except StorageError as e:
            failed = e
        edn.stage_text = text
    if side is not None:
        try:
            side.set_state(record=text, sequence=record.sequence, store=record.store)
        except DatalogError as e:
            failed = e
    return failed
