"""Compares a memory with the database, key by key: values rebuilt from attributes and JSON, type-strictly; and digests.

Takes a database value, a mapping and a memory; gives a `Verification` with findings as data. Changes nothing.

A key is `missing` (the memory has it, the database does not, or has it deleted), `extra` (the other way round),
`different` (the values are not strictly equal, or not their metadata: with the path of the first difference), `stale`
(the values are equal, but the digest that the database keeps is not that of the value) or `damaged` (the value cannot be
rebuilt). The digests of both sides are the sums of their keys' digests modulo 2^64, so that equality of everything is
one comparison.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from migration.entities import fetch, fetch_one
from migration.importer import paused_gc
from migration.jsonvalue import encode, to_text
from migration.rules import digest_of
from store.edn import Keyword, List, Map, Set, Tagged, Vector, show_form, strict_equal, strict_key
from store.errors import KeyMapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datalog import Db
    from migration.entities import Stored
    from migration.keymap import KeyMap

__all__ = ["Difference", "Finding", "Verification", "first_difference", "verify", "verify_keys"]

_STEP: Final = 5_000
_SUM: Final = 1 << 64
MOST_FINDINGS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two values part: the path of keys, indexes and members to it, and what stands there on each side."""

    path: tuple[Any, ...]
    wanted: Any
    found: Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One key that is not as it should be; `what` is missing, extra, different, stale or damaged."""

    what: str
    key: Keyword
    message: str
    difference: Difference | None = None
    last_writer: dict[str, Any] = field(default_factory=dict, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data; values as EDN text, cut."""
        out: dict[str, Any] = {"what": self.what, "key": str(self.key), "message": self.message}
        if self.difference is not None:
            out["path"] = [show_form(p) for p in self.difference.path]
            out["wanted"] = show_form(self.difference.wanted, 200)
            out["found"] = show_form(self.difference.found, 200)
        if self.last_writer:
            out["last_writer"] = dict(self.last_writer)
        return out


@dataclass(slots=True)
class Verification:
    """The outcome: `equal` is True when there is no finding.

    Attributes:
        keys: keys in the memory.
        stored: keys in the database that are not deleted.
        same: keys whose values are equal and whose digest is right.
        findings: what is wrong, at most 10,000 of them; `counts` has them all.
        counts: what -> how many.
        memory_digest, database_digest: of everything; equal when all keys and values are.
        by_kind: kind -> keys compared.
    """

    keys: int = 0
    stored: int = 0
    same: int = 0
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    memory_digest: int = 0
    database_digest: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    basis_tx: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """True when the database holds exactly what the memory does."""
        return not self.counts and self.memory_digest == self.database_digest

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {
            "equal": self.equal,
            "keys": self.keys,
            "stored": self.stored,
            "same": self.same,
            "counts": dict(sorted(self.counts.items())),
            "by_kind": dict(sorted(self.by_kind.items())),
            "memory_digest": f"{self.memory_digest:016x}",
            "database_digest": f"{self.database_digest:016x}",
            "basis_tx": self.basis_tx,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "findings": [f.as_dict() for f in self.findings],
        }


def verify(
    db: Db,
    keymap: KeyMap,
    memory: Mapping[Keyword, Any],
    *,
    progress: Callable[[str, int, int], None] = lambda _step, _done, _of: None,
    among: Callable[[Keyword], bool] = lambda _: True,
) -> Verification:
    """The comparison of every key of the memory and of the database; of the database's, only those `among` which it is.

    Cost: one scan of each attribute of the mapping, then one rebuild, one comparison and one digest for each key.
    """
    began, cpu = time.perf_counter(), time.process_time()
    out = Verification(keys=len(memory), basis_tx=db.basis_tx)
    with paused_gc():
        progress("read the database", 0, len(memory))
        stored = {k: s for k, s in fetch(db, keymap).items() if not s.state.deleted and among(k)}
        out.stored = len(stored)
        for n, (key, value) in enumerate(memory.items()):
            if n % _STEP == 0:
                progress("compare", n, len(memory))
            _compare_one(out, keymap, key, value, stored.pop(key, None))
        progress("compare", len(memory), len(memory))
        for key, left in stored.items():
            out.database_digest = (out.database_digest + (left.state.digest or 0)) % _SUM
            _add(out, Finding("extra", key, "The memory does not have the key."))
    out.seconds = time.perf_counter() - began
    out.cpu_seconds = time.process_time() - cpu
    return out


def verify_keys(
    db: Db,
    keymap: KeyMap,
    memory: Mapping[Keyword, Any],
    keys: Iterable[Keyword],
    *,
    progress: Callable[[str, int, int], None] = lambda _step, _done, _of: None,
) -> Verification:
    """The comparison of some keys, of the memory or of the database alone.

    Cost: a few lookups for each key.
    """
    began, cpu = time.perf_counter(), time.process_time()
    chosen = list(keys)
    out = Verification(keys=len(chosen), basis_tx=db.basis_tx)
    for n, key in enumerate(chosen):
        if n % _STEP == 0:
            progress("compare", n, len(chosen))
        stored = fetch_one(db, keymap, key)
        found = None if stored is None or stored.state.deleted else stored
        out.stored += found is not None
        if key in memory:
            _compare_one(out, keymap, key, memory[key], found)
        elif found is not None:
            out.database_digest = (out.database_digest + (found.state.digest or 0)) % _SUM
            _add(out, Finding("extra", key, "The memory does not have the key."))
        else:
            out.same += 1
    progress("compare", len(chosen), len(chosen))
    out.seconds = time.perf_counter() - began
    out.cpu_seconds = time.process_time() - cpu
    return out


def _compare_one(out: Verification, keymap: KeyMap, key: Keyword, value: Any, found: Stored | None) -> None:
    text = to_text(encode(value, canonical=True), canonical=True)
    digest = digest_of(key, text)
    out.memory_digest = (out.memory_digest + digest) % _SUM
    if found is None:
        _add(out, Finding("missing", key, "The database does not have the key."))
        return
    kind = found.state.kind.name
    out.by_kind[kind] = out.by_kind.get(kind, 0) + 1
    out.database_digest = (out.database_digest + (found.state.digest or 0)) % _SUM
    finding = _compared(key, value, text, digest, found, keymap)
    if finding is None:
        out.same += 1
    else:
        _add(out, finding)


def _add(out: Verification, finding: Finding) -> None:
    out.counts[finding.what] = out.counts.get(finding.what, 0) + 1
    if len(out.findings) < MOST_FINDINGS:
        out.findings.append(finding)


def _compared(key: Keyword, value: Any, text: bytes, digest: int, found: Stored, keymap: KeyMap) -> Finding | None:
    try:
        rebuilt = found.value(keymap)
    except (KeyMapError, KeyError, ValueError, TypeError, AssertionError) as e:
        # whatever was done to the entities behind the mapping's back: the key is named, and the others are compared
        return Finding(
            "damaged", key, f"The value cannot be rebuilt: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
        )
    if not strict_equal(value, rebuilt):
        difference = first_difference(value, rebuilt)
        return Finding("different", key, "The values differ.", difference)
    if b"~#with-meta" in text and to_text(encode(rebuilt, canonical=True), canonical=True) != text:
        return Finding("different", key, "The values are equal, their metadata is not.")
    if found.state.digest != digest:
        return Finding("stale", key, "The values are equal, but the digest kept with the key is not that of its value.")
    return None


_ABSENT: Final = Tagged("absent", None)  # an object of its own: it is told by identity


def first_difference(wanted: Any, found: Any) -> Difference | None:
    """Where two values part, or None when they are strictly equal; entries are walked in the order of `wanted`.

    >>> from store.edn import read_edn
    >>> first_difference(read_edn("{:a [1 2]}"), read_edn("{:a [1 2.0]}"))
    Difference(path=(Keyword(":a"), 1), wanted=2, found=2.0)
    """
    path: list[Any] = []
    while True:
        if strict_equal(wanted, found):
            return None
        step = _step_to_difference(wanted, found)
        if step is None:
            return Difference(tuple(path), wanted, found)
        name, wanted, found = step
        path.append(name)
        if wanted is _ABSENT or found is _ABSENT:
            return Difference(tuple(path), wanted, found)


def _step_to_difference(wanted: Any, found: Any) -> tuple[Any, Any, Any] | None:
    """(step, wanted, found) of the first members that differ, or None when the values themselves are the difference."""
    if wanted.__class__ is not found.__class__:
        return None
    if isinstance(wanted, Map):
        for key, member in wanted.pairs():
            if key not in found:
                return key, member, _ABSENT
            if not strict_equal(member, found[key]):
                return key, member, found[key]
        return next(((key, _ABSENT, member) for key, member in found.pairs() if key not in wanted), None)
    if isinstance(wanted, Vector | List):
        for i in range(max(len(wanted), len(found))):
            here = wanted[i] if i < len(wanted) else _ABSENT
            there = found[i] if i < len(found) else _ABSENT
            if here is _ABSENT or there is _ABSENT or not strict_equal(here, there):
                return i, here, there
    if isinstance(wanted, Set):
        there_keys = {strict_key(m) for m in found}
        for member in wanted:
            if strict_key(member) not in there_keys:
                return member, member, _ABSENT
        return next(((m, _ABSENT, m) for m in found if m not in wanted), None)
    if isinstance(wanted, Tagged) and wanted.tag == found.tag:
        return wanted.tag, wanted.value, found.value
    return None
