"""Digests of everything, kept by transaction: for each kind of data, 64 buckets with the sum of their keys' digests.

A key's digest is added to its bucket's sum, modulo 2^64, by the very transaction that writes the key, and taken off by the
one that deletes or changes it. Two sides hold the same when their sums and counts agree: 64 comparisons for each kind, however
many keys there are; where they do not, the bucket names the sixty-fourth of the keys to look at.

A bulk load cannot be guarded like a transaction. It is marked as unsettled by the transaction that reserves its eids, and
the transaction after it adds its sums and takes the mark away. A mark that is left over says that the sums do not count;
`recount` makes them anew.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from migration.rules import DELETED, DIGEST, KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datalog import Connection, Db
    from migration.keymap import KeyMap
    from store.edn import Keyword

__all__ = ["BUCKET_SCHEMA", "UNSETTLED", "Sums", "add_digest", "are_settled", "bucket_operations", "bucket_sums", "digest_bucket",
           "recount", "scanned_sums", "signed"]  # fmt: skip

ID: Final = ":memory.bucket/id"
SUM: Final = ":memory.bucket/sum"
COUNT: Final = ":memory.bucket/count"
UNSETTLED: Final = ":memory.bucket/unsettled?"
_BUCKETS: Final = 64
_MODULUS: Final = 1 << 64

BUCKET_SCHEMA: Final[dict[str, dict[str, Any]]] = {
    ID: {
        ":db/valueType": ":db.type/string",
        ":db/unique": ":db.unique/identity",
        ":db/doc": "Kind of data and number of the bucket: session/17.",
    },
    SUM: {":db/valueType": ":db.type/long", ":db/index": False, ":db/doc": "Sum of the digests, modulo 2^64."},
    COUNT: {":db/valueType": ":db.type/long", ":db/index": False, ":db/doc": "How many keys."},
    UNSETTLED: {
        ":db/valueType": ":db.type/boolean",
        ":db/doc": "On a block of eids whose load is not in the sums yet.",
    },
}

#: bucket -> (sum of digests as a signed 64-bit number, number of keys)
Sums = dict[str, tuple[int, int]]


def signed(n: int) -> int:
    """A number modulo 2^64, as a signed one."""
    n %= _MODULUS
    return n - _MODULUS if n >= _MODULUS >> 1 else n


def digest_bucket(keymap: KeyMap, key: Keyword) -> str:
    """The bucket of a key: "session/17"."""
    number = zlib.crc32(str(key).encode("utf-8", "surrogatepass"), 1) % _BUCKETS
    return f"{keymap.data_of(key).name}/{number}"


def add_digest(sums: Sums, bucket: str, digest: int, keys: int) -> None:
    """Adds a digest, or with `keys=-1` takes it off."""
    total, count = sums.get(bucket, (0, 0))
    sums[bucket] = (signed(total + keys * digest), count + keys)


def bucket_sums(db: Db) -> Sums:
    """The sums as the database keeps them; empty buckets are left out."""
    if db.snapshot.schema.find(ID) is None:
        return {}
    rows = db.q(f"[:find ?i ?s ?n :where [?b {ID} ?i] [?b {SUM} ?s] [?b {COUNT} ?n]]")
    return {bucket: (total, count) for bucket, total, count in rows if count or total}


def are_settled(db: Db) -> bool:
    """True when no load was left between its rows and its sums."""
    known = db.snapshot.schema.find(UNSETTLED) is not None
    return not known or not db.q(f"[:find [?b ...] :where [?b {UNSETTLED} true]]")


def bucket_operations(db: Db, changes: Mapping[str, tuple[int, int]]) -> list[Any]:
    """Operations that add these sums to the database's, guarded against another writer."""
    if db.snapshot.schema.find(ID) is None:
        return []
    operations: list[Any] = []
    for bucket, (total, count) in changes.items():
        eid = db.entid([ID, bucket])
        held = {datom.a: datom.v for datom in db.datoms("eavt", eid)} if eid is not None else {}
        old_sum, old_count = held.get(SUM), held.get(COUNT)
        new_sum, new_count = signed((old_sum or 0) + total), (old_count or 0) + count
        subject: Any = eid
        if eid is None:
            subject = f"bucket {bucket}"
            operations.append({":db/id": subject, ID: bucket})
        if new_sum != old_sum:
            operations.append([":db/cas", subject, SUM, old_sum, new_sum])
        if new_count != old_count:
            operations.append([":db/cas", subject, COUNT, old_count, new_count])
    return operations


def scanned_sums(db: Db, keymap: KeyMap, among: Callable[[Keyword], bool] = lambda _: True) -> Sums:
    """The sums made anew from every key's digest, or from those `among` which it is: what the kept ones should be."""
    sums: Sums = {}
    if db.snapshot.schema.find(DIGEST) is None:
        return sums
    deleted = set(db.q(f"[:find [?e ...] :where [?e {DELETED} true]]")) if db.snapshot.schema.find(DELETED) else set()
    for eid, key, digest in db.q(f"[:find ?e ?k ?d :where [?e {KEY} ?k] [?e {DIGEST} ?d]]"):
        if eid not in deleted and among(key):
            add_digest(sums, digest_bucket(keymap, key), digest, 1)
    return sums


def recount(conn: Connection, keymap: KeyMap) -> None:
    """Makes the sums anew, in one transaction, and settles every load."""

    def anew(db: Db) -> Iterable[Any]:
        right, held = scanned_sums(db, keymap), bucket_sums(db)
        changes = {
            bucket: (
                signed(right.get(bucket, (0, 0))[0] - held.get(bucket, (0, 0))[0]),
                right.get(bucket, (0, 0))[1] - held.get(bucket, (0, 0))[1],
            )
            for bucket in right.keys() | held.keys()
        }
        marks = db.q(f"[:find [?b ...] :where [?b {UNSETTLED} true]]")
        return [
            *bucket_operations(db, {b: c for b, c in changes.items() if c != (0, 0)}),
            *([":db/retract", mark, UNSETTLED, True] for mark in marks),
        ]

    conn.transact([[":db.fn/call", anew]])
