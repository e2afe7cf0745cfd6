"""The dictionary: codes and values through blocks that grow, in one process and seen from another connection."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

import datalog as d
from store.dictionary import Dictionary, NewCodes
from store.edn import Keyword
from store.environment import ReadTxn
from store.store import open_store
from store.writing import begin_write


def test_values_of_later_blocks_are_found_by_warm_caches(tmp_path: Path) -> None:
    """Codes given out after a cache was filled, in new blocks and in the appended last one, decode in bulk and one by one."""
    r = random.Random(4)
    store = open_store(tmp_path / "db", sync=False)
    store.transactor.update_schema({":s": {":db/cardinality": ":db.cardinality/many"}})
    aid = store.newest().schema.find(":s").aid  # type: ignore[union-attr]
    other = Dictionary(store.env)  # a second reader with caches of its own, as another process has
    made: list[str] = []
    for _ in range(120):
        new = [f"{len(made) + i} " + "v" * r.randrange(40) for i in range(r.choice([1, 2, 3, 70, 900]))]
        made += new
        store.transactor.transact([{":s": v} for v in new])
        snapshot = store.newest()
        codes = snapshot.columns(aid).v
        assert sorted(store.dictionary.decode_many(codes)) == sorted(made)
        assert sorted(other.decode_many(codes)) == sorted(made)
        few = codes[np.array([r.randrange(len(codes)) for _ in range(5)])]
        assert other.decode_many(few) == store.dictionary.decode_many(few)
        some = r.choice(made)
        assert other.decode(other.find(some) or -1) == some
    other.close()
    store.release()
    store = open_store(tmp_path / "db", sync=False)
    assert sorted(store.dictionary.decode_many(store.newest().columns(aid).v)) == sorted(made)
    store.release()


def test_long_values_are_found_by_their_hash(tmp_path: Path) -> None:
    """Values of many lengths around the limit of a key, with long common prefixes, keep their own codes."""
    values = ["x" * n + tail for n in (0, 1, 253, 254, 255, 256, 257, 300, 600) for tail in ("", "a", "b", "\0", "é")]
    values = list(dict.fromkeys(values))
    with d.connect(
        tmp_path / "db", {":s": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"}}, sync=False
    ) as conn:
        conn.transact([{":s": v} for v in values])
        conn.transact([{":s": v} for v in values])
        assert len(conn.db()) == len(values)
        for v in values:
            assert conn.q("[:find ?s . :in $ ?s :where [_ :s ?s]]", v) == v


def test_a_column_of_one_type_is_coded_at_once_and_a_mixed_one_is_not(tmp_path: Path) -> None:
    """`encode_all_of` gives the codes that single values get; another type among them, hashable or not, is noticed."""
    store = open_store(tmp_path / "db")
    try:
        with begin_write(store.env) as txn:
            codes = NewCodes(store.dictionary, store.meta.next_code, txn)
            values = ["b", "a", "b", "", "a"]
            column = codes.encode_all_of(str, values)
            assert column is not None
            assert column.tolist() == [codes.encode(v) for v in values]
            assert codes.encode_all_of(str, ["a", 1]) is None
            assert codes.encode_all_of(str, ["a", ["b"]]) is None
            assert codes.encode_all_of(Keyword, ["a"]) is None
    finally:
        store.release()


def test_the_list_of_blocks_never_shrinks(tmp_path: Path, monkeypatch) -> None:
    """Readers look into it without the lock while another thread brings it up to date."""
    with d.connect(tmp_path / "db", {":s": {":db/valueType": ":db.type/string"}}, sync=False) as conn:
        conn.transact([{":s": "first"}])
        dictionary = conn.store.dictionary
        assert conn.q("[:find ?s . :where [?e :s ?s]]") == "first"
        known = len(dictionary._firsts)
        seen: list[int] = []
        keys_from = ReadTxn.keys_from

        def looked(txn: ReadTxn, prefix: bytes, start: bytes) -> list[bytes]:
            seen.append(len(dictionary._firsts))
            return keys_from(txn, prefix, start)

        monkeypatch.setattr(ReadTxn, "keys_from", looked)
        conn.transact([{":s": "second"}])
        assert set(conn.q("[:find [?s ...] :where [?e :s ?s]]")) == {"first", "second"}
        assert seen
        assert min(seen) >= known > 0
