"""EDN values as JSON text: exact texts, exact inverses, canonical order, refusals."""

import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_edn import meta_tree, values

from migration.jsonvalue import read_json, write_json
from store.edn import Keyword, List, Map, Set, Symbol, Tagged, Vector, read_edn, read_edn_file, strict_equal
from store.errors import KeyMapError

EXAMPLE = Path(__file__).parent.parent / "examples" / "memory.edn"

# EDN, JSON: plain wherever JSON can say it, tagged where it cannot
TEXTS = [
    ("nil", "null"),
    ("true", "true"),
    ("-9223372036854775808", "-9223372036854775808"),
    ("9223372036854775808", '"~n9223372036854775808"'),
    ("5N", "5"),
    ("1.0", "1.0"),
    ("-0.0", "-0.0"),
    ("5e-324", "5e-324"),
    ("##NaN", '"~zNaN"'),
    ("##Inf", '"~zINF"'),
    ("##-Inf", '"~z-INF"'),
    ("1.50M", '"~f1.50"'),
    ("1E+3M", '"~f1E+3"'),
    ("22/7", '["~#ratio",[22,7]]'),
    ('"text"', '"text"'),
    ('""', '""'),
    ('"~:not-a-keyword"', '"~~:not-a-keyword"'),
    ('"^"', '"~^"'),
    ('"`"', '"~`"'),
    ('":colon"', '":colon"'),
    ('"\\ud800\\\\"', '"~x\\\\ud800\\\\\\\\"'),
    ("\\a", '"~ca"'),
    (":a/b", '"~:a/b"'),
    ("a/b", '"~$a/b"'),
    ('#uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"', '"~uf81d4fae-7dec-11d0-a765-00a0c91e6bf6"'),
    ('#inst "2020-02-29T00:00:00.123-00:00"', '"~m1582934400123"'),
    ('#inst "2020-02-29T05:30:00.123456+05:30"', '"~t2020-02-29T00:00:00.123456Z"'),
    ('[1 "a" [nil]]', '[1,"a",[null]]'),
    ("(1 2)", '["~#list",[1,2]]'),
    ("#{2 1}", '["~#set",[1,2]]'),
    ("#{1 1.0 1M true}", '["~#set",["~f1",1,1.0,true]]'),
    ('{:b 1 "a" 2}', '{"~:b":1,"a":2}'),
    (
        "{1 :long 1.0 :double true :boolean nil :nil}",
        '{"~i1":"~:long","~d1.0":"~:double","~?t":"~:boolean","~_":"~:nil"}',
    ),
    ("{[1] 2}", '["~#cmap",[[1],2]]'),
    ("#my/tag {:x 1}", '["~#my/tag",{"~:x":1}]'),
    ("#set [1]", '["~#tagged",["set",[1]]]'),
    ('["~#set" [1]]', '["~~#set",[1]]'),
    ("^{:a 1} [2]", '["~#with-meta",[[2],{"~:a":1}]]'),
]


@pytest.mark.parametrize(("edn", "text"), TEXTS, ids=[edn for edn, _ in TEXTS])
def test_text(edn, text):
    """Each kind of value has exactly this text, and the text exactly this value."""
    value = read_edn(edn)
    assert write_json(value) == text
    back = read_json(text)
    assert strict_equal(back, value)
    assert meta_tree(back) == meta_tree(value)


@given(values)
def test_round_trip(value):
    """What is written is JSON, and is read back strictly equal, metadata included."""
    for canonical in (False, True):
        text = write_json(value, canonical=canonical)
        json.loads(text)
        back = read_json(text)
        assert strict_equal(back, value)
        assert meta_tree(back) == meta_tree(value)


def plain(value):
    """The value without metadata, with the members of sets and maps in another order."""
    if isinstance(value, Map):
        pairs = [(plain(k), plain(v)) for k, v in value.pairs()]
        random.Random(1).shuffle(pairs)
        return Map(pairs)
    if isinstance(value, Set):
        return Set(sorted(map(plain, value), key=lambda _: random.random()))
    if isinstance(value, Vector | List):
        return type(value)(map(plain, value))
    if isinstance(value, Tagged):
        return Tagged(str(value.tag), plain(value.value))
    return Symbol(str(value)) if isinstance(value, Symbol) else value


@given(values, values)
def test_canonical_text_is_equality(a, b):
    """Without metadata two values have the same canonical text exactly when they are strictly equal, in any order."""
    a, b = plain(a), plain(b)
    assert (write_json(a, canonical=True) == write_json(b, canonical=True)) == strict_equal(a, b)
    assert write_json(plain(a), canonical=True) == write_json(a, canonical=True)


def test_every_example_value():
    """All values of the example memory come back, and their canonical text is a fixed point."""
    for key, value in read_edn_file(EXAMPLE).items():
        text = write_json(value, canonical=True)
        back = read_json(text)
        assert strict_equal(back, value), key
        assert write_json(back, canonical=True) == text


@pytest.mark.parametrize(
    "wrap", [lambda v: Vector([v]), lambda v: Set([v]), lambda v: Map([(v, None)]), lambda v: Map([(1, v)])]
)
def test_as_deep_as_edn(wrap):
    """512 levels, what the EDN reader takes, go there and back without a deep stack."""
    value = Keyword("core")
    for _ in range(512):
        value = wrap(value)
    text = write_json(value, canonical=True)
    assert strict_equal(read_json(text), value)


def test_too_deep():
    """What could not be read back is refused."""
    value = Vector()
    for _ in range(1100):
        value = Vector([value])
    with pytest.raises(KeyMapError) as caught:
        write_json(value)
    assert caught.value.code == "json/too-deep"


@pytest.mark.parametrize("value", [object(), datetime(2020, 1, 1), [object()], {"a": {"b": object()}}])  # noqa: DTZ001
def test_what_edn_has_not(value):
    """Values without a place in EDN are refused by name, at any depth."""
    with pytest.raises(KeyMapError) as caught:
        write_json(value)
    assert caught.value.code == "json/unsupported"


def test_python_collections():
    """Plain lists, tuples, dicts and sets count as the model's."""
    value = {"a": [1, (2,)], "b": {3}, Keyword("c"): datetime(2020, 1, 1, tzinfo=UTC), "d": Decimal("1.0")}
    assert strict_equal(read_json(write_json(value)), value)


MALFORMED = [
    "",
    "{",
    '"~"',
    '"~q1"',
    '"~n1x"',
    '"~zinf"',
    '"~fone"',
    '"~cab"',
    '"~unot"',
    '"~t2020"x',
    '["~#set",[1],2]',
    '["~#set",1]',
    '["~#set",[1,1]]',
    '["~#set"]',
    '["~#ratio",[1,0]]',
    '["~#ratio",[1]]',
    '["~#cmap",[1]]',
    '["~#with-meta",[1]]',
    '{"~i1":1,"~n1":2}',
]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed(text):
    """A text that was not written here is refused with a KeyMapError, never with another exception."""
    with pytest.raises(KeyMapError) as caught:
        read_json(text)
    assert caught.value.code == "json/malformed"


raw_json = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from("~#:$cnfmtx1a\\u"), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["~:a", "~i1", "~#set", "a", "~"]), inner, max_size=3)
    ),
)


@given(raw_json)
def test_any_json_is_read_or_refused(raw):
    """Any JSON gives a value that can be written, or a KeyMapError."""
    try:
        value = read_json(json.dumps(raw))
    except KeyMapError:
        return
    assert strict_equal(read_json(write_json(value)), value)
