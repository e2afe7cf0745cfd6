"""Datoms and the three spaces of entity ids.

1 .. 2^40-1          entities: chosen by the caller, or given above the highest in use
2^40 .. 2^41-1       transactions
2^41 + aid           attributes, as entities that carry their schema
"""

from __future__ import annotations

from typing import Any, NamedTuple

FIRST_TX = 1 << 40
FIRST_ATTRIBUTE = 1 << 41
MAX_EID = FIRST_TX - 1
END_OF_EIDS = 1 << 42
AID_BITS = 21  # an eid of 42 bits and an aid fit one int64 together
MAX_AID = (1 << AID_BITS) - 1

INDEXES = ("eavt", "aevt", "avet")


class Datom(NamedTuple):
    """One fact: entity `e` has the value `v` of attribute `a` since transaction `tx`; `added` is False for a retraction."""

    e: int
    a: str
    v: Any
    tx: int
    added: bool = True
