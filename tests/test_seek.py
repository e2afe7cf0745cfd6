"""The datoms API: order, seek, reverse seek and ranges, against a sorted list."""

from __future__ import annotations

import random
from typing import Any

import pytest

import datalog as d
from store.value import encode_value

SCHEMA = {
    ":s/name": {":db/valueType": ":db.type/string"},
    ":b": {":db/valueType": ":db.type/long"},
    ":a/x": {":db/valueType": ":db.type/double"},
    ":m": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":u": {":db/cardinality": ":db.cardinality/many"},
    ":r": {":db/valueType": ":db.type/ref"},
}


def _name(a: str) -> tuple[str, str]:
    k = d.kw(a)
    return k.ns or "", k.name


KEYS: dict[str, Any] = {
    "eavt": lambda x: (x.e, _name(x.a), encode_value(x.v)),
    "aevt": lambda x: (_name(x.a), x.e, encode_value(x.v)),
    "avet": lambda x: (_name(x.a), encode_value(x.v), x.e),
}


@pytest.fixture(scope="module", params=["novelty", "segments", "both"])
def db(request: pytest.FixtureRequest) -> Any:
    """A database with values of several kinds, in novelty, in segments, or in both."""
    r = random.Random(8)
    conn = d.connect(None, SCHEMA)

    def some(n: int) -> list[Any]:
        return [
            {":s/name": f"n{r.randrange(30)}", ":b": r.randrange(-9, 9), ":a/x": r.choice([-1.5, 0.0, 2.5]), ":m": [f"{r.randrange(9)}", "\0"],
             ":u": [r.choice([1, 1.0, True, "1", d.kw("k")]), r.randrange(5)], ":r": r.randrange(1, 20)}
            for _ in range(n)
        ]  # fmt: skip

    conn.transact(some(40))
    if request.param != "novelty":
        conn.store.transactor.merge()
    if request.param == "both":
        conn.transact([*some(10), [":db/retractEntity", 3], [":db/retract", 5, ":m"]])
    yield conn.db()
    conn.close()


@pytest.mark.parametrize("index", ["eavt", "aevt", "avet"])
def test_a_whole_index_is_in_order(db: Any, index: str) -> None:
    """All datoms come in the order of the index, each once, the same in every index."""
    found = list(db.datoms(index))
    assert [KEYS[index](x) for x in found] == sorted(KEYS[index](x) for x in found)
    assert len({(x.e, x.a, encode_value(x.v)) for x in found}) == len(found) == len(db)
    assert db.datoms(index)[0] == found[0]
    assert db.datoms(index)[-1] == found[-1]


@pytest.mark.parametrize("index", ["eavt", "aevt", "avet"])
def test_leading_components_narrow(db: Any, index: str) -> None:
    """One, two and three components give what a filter of the whole index gives."""
    every = list(db.datoms(index))
    r = random.Random(2)
    for _ in range(40):
        x = r.choice(every)
        parts = {"eavt": (x.e, x.a, x.v), "aevt": (x.a, x.e, x.v), "avet": (x.a, x.v, x.e)}[index]
        for n in (1, 2, 3):
            wanted = parts[:n]
            expected = [
                y for y in every
                if [{"eavt": y.e, "aevt": y.a, "avet": y.a}[index], {"eavt": y.a, "aevt": y.e, "avet": encode_value(y.v)}[index],
                    {"eavt": encode_value(y.v), "aevt": encode_value(y.v), "avet": y.e}[index]][:n]
                == [encode_value(p) if (index, i) in (("avet", 1), ("eavt", 2), ("aevt", 2)) else p for i, p in enumerate(wanted)]
            ]  # fmt: skip
            assert list(db.datoms(index, *wanted)) == expected


@pytest.mark.parametrize("index", ["eavt", "aevt", "avet"])
def test_seek_goes_on_to_the_end_and_reverse_seek_to_the_beginning(db: Any, index: str) -> None:
    """Seek starts at the first datom not below the components; reverse seek at the last not above them."""
    every = list(db.datoms(index))
    r = random.Random(3)
    for _ in range(30):
        x = r.choice(every)
        parts = {"eavt": (x.e, x.a, x.v), "aevt": (x.a, x.e, x.v), "avet": (x.a, x.v, x.e)}[index]
        for n in (0, 1, 2, 3):
            key = KEYS[index](x)[:n]
            assert list(db.seek_datoms(index, *parts[:n])) == [y for y in every if KEYS[index](y)[:n] >= key]
            assert list(db.rseek_datoms(index, *parts[:n])) == [y for y in reversed(every) if KEYS[index](y)[:n] <= key]


def test_seek_between_values(db: Any) -> None:
    """A component that no datom has is a place between them."""
    every = list(db.datoms("avet"))
    assert list(db.seek_datoms("avet", ":s/name", "n1zzz")) == [
        y for y in every if (_name(y.a), y.v) >= (_name(":s/name"), "n1zzz") or _name(y.a) > _name(":s/name")
    ]
    assert list(db.seek_datoms("eavt", 10_000)) == []
    assert list(db.datoms("eavt", 10_000)) == []
    assert list(db.datoms("avet", ":s/name", "nobody")) == []


@pytest.mark.parametrize(
    ("attribute", "low", "high"),
    [
        (":b", -3, 4),
        (":b", None, 0),
        (":b", 5, None),
        (":a/x", -1.5, 0.0),
        (":s/name", "n1", "n2"),
        (":s/name", "n", None),
        (":m", "\0", "3"),
        (":b", 4, -4),
        (":r", 2, 7),
    ],
)
def test_index_range(db: Any, attribute: str, low: Any, high: Any) -> None:
    """A range has the values between its bounds, both included, in order."""
    every = list(db.datoms("avet", attribute))
    expected = [x for x in every if (low is None or x.v >= low) and (high is None or x.v <= high)]
    assert list(db.index_range(attribute, low, high)) == expected


def test_ten_thousand_strings_with_a_long_common_prefix() -> None:
    """Strings that differ after 600 characters, with NUL and astral characters, are found and ordered in AVET."""
    r = random.Random(1)
    alphabet = ["\0", "a", "b", "\x7f", "é", "\uffff", "\U0001f98a", "\U0010ffff"]
    values = sorted({"p" * 600 + "".join(r.choice(alphabet) for _ in range(r.randrange(12))) for _ in range(16_000)})[
        :10_000
    ]
    assert len(values) == 10_000
    shuffled = values[:]
    r.shuffle(shuffled)
    with d.connect(None, {":s": {":db/valueType": ":db.type/string"}}) as conn:
        conn.load({":s": (range(1, 9001), shuffled[:9000])})
        conn.transact([{":s": v} for v in shuffled[9000:]])
        db = conn.db()
        assert [x.v for x in db.datoms("avet", ":s")] == values
        for i in (0, 1, 4999, 9998, 9999):
            assert [x.v for x in db.datoms("avet", ":s", values[i])] == [values[i]]
            assert db.q("[:find (count ?e) . :in $ ?v :where [?e :s ?v]]", values[i]) == 1
        assert [x.v for x in db.index_range(":s", values[3000], values[3100])] == values[3000:3101]
        assert [x.v for x in db.seek_datoms("avet", ":s", values[9990])] == values[9990:]


@pytest.mark.parametrize(
    "call",
    [
        lambda db: db.datoms("eav"), lambda db: db.datoms("avet", ":nobody"), lambda db: db.datoms("avet", ":b", "x"), lambda db: db.datoms("eavt", "x", 5),
        lambda db: db.datoms("eavt", 1, 2, 3, 4), lambda db: list(db.index_range(":b", "x", None)), lambda db: db.index_range(":nobody", 1, 2),
        lambda db: list(db.seek_datoms("avet", ":b", object())),
    ],
)  # fmt: skip
def test_wrong_arguments_are_errors_of_ours(db: Any, call: Any) -> None:
    """An unknown index or attribute, and a value of the wrong type, are told."""
    with pytest.raises(d.DatalogError):
        list(call(db))
