"""The records of scripts in a database: who was applied when, with which checksum; what was taken back.

A record is a few datoms of the transaction itself that carried a script out, so that there is never the one without the
other. The attributes `:migration.script/...` are not declared: a database without a schema stays one. Records are only
added; what is applied now is what the records say from first to last:

    :applied   the script of this number was applied by this transaction
    :reverted  ... was taken back
    :baseline  ... was marked as applied without being run
    :accepted  ... was edited since, and the new checksum was accepted
    :begun     the first record, which brings the attributes about
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from store.edn import Keyword, Map, read_edn, write_edn

if TYPE_CHECKING:
    import datetime as dt

    import datalog as d

__all__ = ["RECORDS", "Applied", "begin", "has_records", "is_record", "read_applied", "read_reverts", "record"]

RECORDS: Final = ":migration.script/"
_QUERY: Final = """[:find ?tx ?number ?name ?sum ?event ?by ?changes ?at
  :where [?tx :migration.script/number ?number] [?tx :migration.script/name ?name]
         [?tx :migration.script/checksum ?sum] [?tx :migration.script/event ?event]
         [?tx :migration.script/by ?by] [?tx :migration.script/changes ?changes] [?tx :db/txInstant ?at]]"""


@dataclass(frozen=True, slots=True)
class Applied:
    """A script that is applied now. `changes` counts datoms by attribute entity: {eid: (asserted, retracted)}."""

    number: int
    name: str
    checksum: str
    event: str  # "applied" or "baseline"
    tx: int
    at: dt.datetime
    by: str
    changes: dict[int, tuple[int, int]]


def is_record(attribute: str) -> bool:
    """Whether an attribute belongs to the records of scripts."""
    return attribute.startswith(RECORDS)


def has_records(db: d.Db) -> bool:
    """Whether any script, or a baseline, was ever recorded."""
    return f"{RECORDS}number" in db.schema


def read_applied(db: d.Db) -> dict[int, Applied]:
    """The scripts that are applied, by number, ascending."""
    applied: dict[int, Applied] = {}
    if not has_records(db):
        return applied
    for tx, number, name, checksum, event, by, changes, at in sorted(db.q(_QUERY), key=lambda row: int(row[0])):
        what = str(event)[1:]
        if what == "reverted":
            applied.pop(number, None)
        elif what in ("applied", "baseline"):
            counts = {int(eid): (int(n), int(m)) for eid, (n, m) in read_edn(changes).items()}
            applied[number] = Applied(number, name, checksum, what, tx, at, by, counts)
        elif what == "accepted" and number in applied:
            old = applied[number]
            applied[number] = Applied(number, name, checksum, old.event, old.tx, old.at, old.by, old.changes)
    return dict(sorted(applied.items()))


def read_reverts(db: d.Db) -> list[int]:
    """The transactions that took a script back."""
    if not has_records(db):
        return []
    return list(db.q("[:find [?tx ...] :where [?tx :migration.script/event :reverted]]"))


def begin(work: d.Atomic) -> None:
    """The first record: brings the attributes about, apart from any script's own transaction."""
    record(work, "begun", 0, "", "")


def record(work: d.Atomic, event: str, number: int, name: str, checksum: str, *, counted: bool = False) -> None:
    """Notes an event with the transaction that is being made; `counted` adds what it changes so far."""
    changes = [(c.eid, [c.asserted, c.retracted]) for c in work.changes()] if counted else []
    datoms: dict[Any, Any] = {
        ":db/id": ":db/current-tx",
        f"{RECORDS}number": number,
        f"{RECORDS}name": name,
        f"{RECORDS}checksum": checksum,
        f"{RECORDS}event": Keyword(event),
        f"{RECORDS}by": _user(),
        f"{RECORDS}changes": write_edn(Map(changes)),
    }
    work.transact([datoms], strict=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
