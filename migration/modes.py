"""Stages as tables: what each one reads and writes, for every operation, and where it leads.

Pure data and lookups: no store is touched here. `memory.py` performs what stands here, `stages.py` persists it; a test
holds that both know the same operations and stages.

======================  ===============  ================  =====================================================
stage                   reads            writes            what it is for
======================  ===============  ================  =====================================================
``edn-only``            edn              edn               before; the database is neither needed nor opened
``dual-write``          edn              both              the database is filled, and kept up with
``shadow``              shadow           both              EDN answers, the database is asked too and compared
``datalog-first``       datalog-first    both              the database answers, EDN steps in
``rampdown``            datalog          both              the database alone answers; EDN is kept as the way back
``datalog-only``        datalog          datalog           after; EDN is not touched any more
======================  ===============  ================  =====================================================

Reads:

=================  ==================================================================================================
``edn``            the EDN side answers
``shadow``         the EDN side answers; the database is asked too, and a difference is counted and reported
``datalog-first``  the database answers; EDN answers for keys that the database does not have yet or has not written yet,
                   and when the database fails. A key that is deleted in the database is not looked for in EDN
``datalog``        the database answers, or the operation fails; a key that it has not written yet is written first
=================  ==================================================================================================

Writes:

============  =====================================================================================================
``edn``       the journal and the EDN memory
``both``      the journal, the EDN memory, and the database: the journal's entry is what makes a save durable, and it
              stands for both stores until both have it. The store that the reads name first leads: see `leads`
``datalog``   one transaction of the database, or an entry of its own journal and a transaction for many of them
============  =====================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "DEFAULTS",
    "OPERATIONS",
    "READS",
    "STAGES",
    "WRITES",
    "Access",
    "Mode",
    "access",
    "allowed_reads",
    "is_move",
    "mode_of",
]

STAGES: Final = ("edn-only", "dual-write", "shadow", "datalog-first", "rampdown", "datalog-only")
READS: Final = ("edn", "shadow", "datalog-first", "datalog")
WRITES: Final = ("edn", "both", "datalog")


@dataclass(frozen=True, slots=True)
class Mode:
    """Where a key is read from and written to; one of `READS`, one of `WRITES`."""

    reads: str
    writes: str

    @property
    def uses_database(self) -> bool:
        """True when the database is needed."""
        return self.writes != "edn"

    @property
    def uses_edn(self) -> bool:
        """True when the EDN side is written."""
        return self.writes != "datalog"

    @property
    def leads(self) -> str:
        """The store whose refusal refuses a save: "edn" or "datalog"."""
        return "datalog" if self.reads in ("datalog-first", "datalog") else "edn"


#: stage -> mode, unless a read preference or write destination is set apart
DEFAULTS: Final[dict[str, Mode]] = {
    "edn-only": Mode("edn", "edn"),
    "dual-write": Mode("edn", "both"),
    "shadow": Mode("shadow", "both"),
    "datalog-first": Mode("datalog-first", "both"),
    "rampdown": Mode("datalog", "both"),
    "datalog-only": Mode("datalog", "datalog"),
}

#: reads that go with a destination of writes
_READS_WITH: Final[dict[str, tuple[str, ...]]] = {"edn": ("edn",), "both": READS, "datalog": ("datalog",)}


def allowed_reads(writes: str) -> tuple[str, ...]:
    """The read preferences that go with a destination of writes: nothing is read from where it is not written."""
    return _READS_WITH[writes]


def mode_of(stage: str, reads: str | None = None, writes: str | None = None) -> Mode | None:
    """The mode of a stage with read preference and write destination set apart; None when these do not go together.

    >>> mode_of("datalog-first", reads="edn")
    Mode(reads='edn', writes='both')
    >>> mode_of("edn-only", reads="datalog") is None
    True
    """
    default = DEFAULTS[stage]
    mode = Mode(reads or default.reads, writes or default.writes)
    if mode.writes != default.writes and (default.writes, mode.writes) != ("both", "edn"):
        return None  # a stage never writes more than its own destination
    return mode if mode.reads in _READS_WITH[mode.writes] else None


def is_move(source: str, target: str) -> bool:
    """True when a stage may follow another: one step up, or any number of steps down.

    >>> is_move("dual-write", "shadow"), is_move("edn-only", "shadow"), is_move("datalog-only", "edn-only")
    (True, False, True)
    """
    step = STAGES.index(target) - STAGES.index(source)
    return step == 1 or step < 0


@dataclass(frozen=True, slots=True)
class Access:
    """What an operation does in a mode.

    Attributes:
        asks: the stores asked, the one that answers first.
        falls_back: True when the second one may answer instead.
        compares: True when both answers are compared.
        writes: the stores written.
        leads: the store whose refusal refuses the operation; None when nothing is written.
    """

    asks: tuple[str, ...] = ()
    falls_back: bool = False
    compares: bool = False
    writes: tuple[str, ...] = ()
    leads: str | None = None


_ASKS: Final[dict[str, Access]] = {
    "edn": Access(("edn",)),
    "shadow": Access(("edn", "datalog"), compares=True),
    "datalog-first": Access(("datalog", "edn"), falls_back=True),
    "datalog": Access(("datalog",)),
}
_STORES: Final[dict[str, tuple[str, ...]]] = {"edn": ("edn",), "both": ("edn", "datalog"), "datalog": ("datalog",)}

#: operation -> does it read, does it write
OPERATIONS: Final[dict[str, tuple[bool, bool]]] = {
    "get_value": (True, False),
    "get_all": (True, False),
    "keys": (True, False),
    "search": (True, False),
    "get_instrumented": (True, False),
    "save_value": (False, True),
    "delete_value": (False, True),
    "clear_memory": (False, True),
    "update": (True, True),
    "save_now": (False, True),
    "init": (False, False),
    "health": (False, False),
    "migration_status": (False, False),
}


def access(operation: str, mode: Mode) -> Access:
    """What an operation does in a mode.

    `update` reads where saves become durable, so that no save is missed: from EDN as long as it is written, else from
    the database. Listings are never compared: `verify` does that better.

    >>> access("get_value", DEFAULTS["shadow"])
    Access(asks=('edn', 'datalog'), falls_back=False, compares=True, writes=(), leads=None)
    >>> access("update", DEFAULTS["rampdown"])
    Access(asks=('edn',), falls_back=False, compares=False, writes=('edn', 'datalog'), leads='datalog')
    """
    reads, writes = OPERATIONS[operation]
    asks = Access()
    if reads and writes:
        asks = Access((_STORES[mode.writes][0],))
    elif reads:
        asks = _ASKS[mode.reads]
        if asks.compares and operation not in ("get_value", "get_instrumented"):
            asks = _ASKS["edn"]
    if not writes:
        return asks
    return Access(asks.asks, writes=_STORES[mode.writes], leads=mode.leads)
