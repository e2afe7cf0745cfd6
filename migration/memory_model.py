"""What the memory interface is made of: its settings, its answers, its counters, and where a key goes.

Plain data; nothing here opens or asks anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from migration.stages import BUCKETS, bucket_of

if TYPE_CHECKING:
    from migration.keymap import KeyMap
    from migration.modes import Mode
    from migration.stages import StageRecord
    from store.edn import Keyword

__all__ = [
    "MISSING",
    "Counters",
    "Reading",
    "Route",
    "Saved",
    "Settings",
    "is_database_only",
    "used_modes",
    "uses_database",
]

#: what a lookup gives for a key that is not there
MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen; every field has a default that is safe.

    Attributes:
        journal: False: saves count when the file is next rewritten, with the loss that has; `edn-only` only.
        debounce_s: seconds from a save to the rewrite of the file.
        backups, backup_every_s: how many older files are kept, and how far apart at least.
        lag: how many saves may be on the way to the database at a time; 0: each waits for it.
        idle_s: after so many seconds without a save what is on the way is taken there.
        sync: False: the database's commits do not wait for the disk; for measuring only.
        alone: in `datalog-only`, a process that has the memory to itself appends its saves to a journal in the database's
            directory and takes them to the database in batches, until another process asks to come in. False: each save
            is a commit of its own, as it is among several processes.
    """

    journal: bool = True
    debounce_s: float = 0.1
    backups: int = 3
    backup_every_s: float = 600.0
    lag: int = 128
    idle_s: float = 0.005
    sync: bool = True
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read found.

    Attributes:
        found: False for a key that is not there or was deleted. `nil` and `false` are found.
        value: the value; None when nothing was found.
        store: the store that answered, "edn" or "datalog".
        stage: the stage of the key.
        ns: how long it took.
        fell_back: why the second store answered: "pending", "unknown", "error"; "" when it did not.
        error: the first store's error, when the second answered for it.
    """

    found: bool
    value: Any
    store: str
    stage: str
    ns: int = 0
    fell_back: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did.

    Attributes:
        stage: the stage of the key.
        written: the stores that have it, durably: in their files, or in the journal that belongs to them.
        pending: the other stores that will be given it; that journal stands for them meanwhile.
        changed: False when a deletion found nothing to delete.
        value: what is there now; None after a deletion.
    """

    stage: str
    written: tuple[str, ...]
    pending: tuple[str, ...] = ()
    changed: bool = True
    value: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """The modes of a kind as they are now: reads go to EDN while what the database holds of it cannot be trusted."""

    stage: str
    below: str
    percent: int
    upper: Mode
    lower: Mode
    complete: bool

    def of(self, key: Keyword) -> tuple[Mode, str]:
        """(mode, stage) of a key of the kind."""
        if self.percent >= BUCKETS or bucket_of(key) < self.percent:
            return self.upper, self.stage
        return self.lower, self.below


@dataclass(slots=True)
class Counters:
    """What was counted since the memory was opened."""

    compared: int = 0
    mismatched: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    read_errors: int = 0
    saves: int = 0
    save_errors: int = 0


def used_modes(route: Route) -> tuple[Mode, ...]:
    """The modes that some key of the kind can be in."""
    if route.percent >= BUCKETS:
        return (route.upper,)
    return (route.lower,) if route.percent <= 0 else (route.upper, route.lower)


def uses_database(record: StageRecord, keymap: KeyMap) -> bool:
    """True when some key is read from or written to the database."""
    return any(m.uses_database for m in record.used_modes(keymap.data_kinds))


def is_database_only(record: StageRecord, keymap: KeyMap) -> bool:
    """True when no key is written to the EDN side."""
    return not any(m.uses_edn for m in record.used_modes(keymap.data_kinds))
