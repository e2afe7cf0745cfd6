"""EDN is read and written without loss, or refused with a place and a way to mend it."""

import copy
import gc
import pickle
import threading
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from edn_conformance import DEVIATIONS, ERRORS, VALUES
from hypothesis import given, settings
from hypothesis import strategies as st

from store import edn_quick, edn_read
from store.edn import (
    Char,
    Keyword,
    List,
    Map,
    Set,
    Symbol,
    Tagged,
    Vector,
    meta_of,
    node_of,
    read_all,
    read_edn,
    read_edn_bytes,
    read_edn_file,
    read_node,
    read_nodes,
    show_form,
    strict_equal,
    strict_key,
    with_meta,
    write_edn,
)
from store.errors import EdnError


def short(text):
    """A test id that fits a line."""
    return repr(text)[:40]


def read_in_small_chunks(text):
    """The bulk reader with chunks so small that tokens are cut everywhere."""
    size, edn_read._CHUNK = edn_read._CHUNK, 3
    piece, edn_quick._PIECE = edn_quick._PIECE, 3
    try:
        return read_edn(text)
    finally:
        edn_read._CHUNK = size
        edn_quick._PIECE = piece


READERS = {"values": read_edn, "nodes": lambda text: read_node(text).value, "chunks": read_in_small_chunks}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("text", "value"), VALUES, ids=[short(text) for text, _ in VALUES])
def test_value(text, value, reader):
    """A text means exactly its value, whichever way it is read."""
    read = reader(text)
    assert type(read) is type(value)
    assert strict_equal(read, value), read
    assert hash(strict_key(read)) == hash(strict_key(value))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("text", "code"), ERRORS, ids=[short(text) for text, _ in ERRORS])
def test_error(text, code, reader):
    """A wrong text is refused with its code, in a text of moderate length, whichever way it is read."""
    with pytest.raises(EdnError) as caught:
        reader(text)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


@pytest.mark.parametrize("text", [text for text, _ in ERRORS], ids=[short(text) for text, _ in ERRORS])
def test_readers_agree_on_the_place(text):
    """Both ways of reading put an error at the same place with the same words."""
    with pytest.raises(EdnError) as fast:
        read_edn(text)
    with pytest.raises(EdnError) as slow:
        read_node(text)
    assert str(fast.value) == str(slow.value)


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[short(text) for text, _ in VALUES])
def test_round_trip_of_the_table(text, value):
    """Writing and reading again gives the same value, and the text is then stable."""
    written = write_edn(value)
    again = read_edn(written)
    assert strict_equal(again, value)
    assert write_edn(again) == written
    assert strict_equal(read_edn(text), again)


# --- any value -------------------------------------------------------------------------------------------------------

names = st.text(st.sampled_from("abzAZ09äλ*+!-_?$%&=<>.'|#:"), min_size=1, max_size=6)
surrogate_free_pairs = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from('\\"\n\r\t\b\f\x00\x1c\u2028\ud83d'))
)
keywords = (
    st.builds(lambda ns, name: f":{ns}/{name}" if ns else f":{name}", st.none() | names, names)
    .filter(edn_read.is_keyword)
    .map(Keyword)
)
symbols = (
    st.builds(lambda ns, name: f"{ns}/{name}" if ns else name, st.none() | names, names)
    .filter(edn_read.is_symbol)
    .map(Symbol)
)
tags = symbols.filter(lambda s: str(s)[0].isalpha() and str(s) not in {"inst", "uuid"})
zones = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.integers(-(10**300), 10**300),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0, float("nan")]),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.fractions(),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones),  # noqa: DTZ001  the zone is added
    st.uuids(),
    surrogate_free_pairs,
    st.characters().map(Char),
    keywords,
    symbols,
)


def collections_of(inner):
    """Every collection of these members."""
    members = st.lists(inner, max_size=4)
    flat = st.lists(st.tuples(inner, inner), max_size=4)
    return st.one_of(
        members.map(Vector),
        members.map(List),
        members.map(Set),
        flat.map(Map),
        st.builds(Tagged, tags, inner),
        st.builds(with_meta, members.map(Vector), flat.map(Map)),
    )


values = st.recursive(scalars, collections_of, max_leaves=20)


def meta_tree(value):
    """The metadata of the value, as far as its own level goes."""
    meta = meta_of(value)
    return None if meta is None else meta


@settings(max_examples=150, deadline=None)
@given(values)
def test_write_then_read_is_identity(value):
    """Any value survives, type-strictly, with its hash, its metadata, by every reader."""
    text = write_edn(value)
    for reader in READERS.values():
        again = reader(text)
        assert strict_equal(again, value)
        assert hash(strict_key(again)) == hash(strict_key(value))
        assert strict_equal(meta_tree(again), meta_tree(value))
        assert write_edn(again) == text


@settings(max_examples=120, deadline=None)
@given(values, values)
def test_equality_is_the_written_text(a, b):
    """Two values are strictly equal exactly when their strict keys are, and equal ones hash the same."""
    equal = strict_equal(a, b)
    assert equal == strict_equal(b, a)
    assert equal == (strict_key(a) == strict_key(b))
    if equal:
        assert hash(strict_key(a)) == hash(strict_key(b))
    if isinstance(a, (Vector, List, Map, Set, Tagged)):
        assert (a == b) is equal
        assert (a != b) is not equal
    assert strict_equal(pickle.loads(pickle.dumps(a)), a)


@settings(max_examples=120, deadline=None)
@given(st.text(st.sampled_from("[](){}#_^:;\"\\ \n,a1/.+-MNe@'!u0")))
def test_any_text_is_read_or_refused(text):
    """No text brings anything but forms or an EdnError, and the readers agree on which."""
    refused = []
    for reader in (read_all, read_nodes):
        try:
            forms = reader(text)
        except EdnError as error:
            refused.append(str(error))
    if refused:
        assert len(refused) == 2
        assert refused[0] == refused[1]
        return
    forms, nodes = read_all(text), read_nodes(text)
    assert strict_equal(forms, [node.value for node in nodes])
    assert strict_equal(read_all(" ".join(map(write_edn, forms))), forms)


@settings(max_examples=100, deadline=None)
@given(values)
def test_nodes_point_at_their_forms(value):
    """The text of each node reads as the node's value."""
    stack = [read_node(write_edn(value))]
    while stack:
        node = stack.pop()
        assert strict_equal(read_edn(node.text[node.start : node.end]), node.value)
        stack += node.items


# --- the model -------------------------------------------------------------------------------------------------------


def test_keyword_is_one_object():
    """A keyword is interned, with or without its colon, through pickle and copies, in every thread."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append([Keyword(f"t/k{n}") for n in range(500)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for column in zip(*found, strict=True) for a in column for b in column)
    k = Keyword("a/b")
    assert k is Keyword(":a/b") is pickle.loads(pickle.dumps(k)) is copy.deepcopy(k) is copy.copy(k) is read_edn(":a/b")
    assert (k.ns, k.name, str(k), repr(k)) == ("a", "b", ":a/b", 'Keyword(":a/b")')
    assert sorted([Keyword("b/a"), Keyword("z"), Keyword("a/z")]) == [Keyword("z"), Keyword("a/z"), Keyword("b/a")]
    with pytest.raises(AttributeError):
        k.name = "c"
    with pytest.raises(TypeError):
        Keyword(1)


def test_unused_keywords_are_forgotten():
    """Reading random keywords does not fill the memory for ever."""
    for n in range(1000):
        Keyword(f"forgotten/k{n}")
    gc.collect()
    assert not any(text.startswith(":forgotten/") for text in list(Keyword._known))


def test_numbers_are_not_confused():
    """Lookup and membership tell 1, 1.0, true and 1M apart, and plain Python collections count as the model's."""
    m = Map([(1, "long"), (1.0, "double"), (True, "boolean"), (Decimal(1), "decimal"), ((1, 2), "vector")])
    assert [m[1], m[1.0], m[True], m[Decimal(1)], m[Vector([1, 2])], m[[1, 2]]] == [
        "long", "double", "boolean", "decimal", "vector", "vector",
    ]  # fmt: skip
    assert len(m) == 5
    assert Fraction(1) not in m
    assert m.get(2, "none") == "none"
    assert Map({1: 2}) != Map({1.0: 2})
    assert Map({1: 2}) == {1: 2}
    assert Map({1: 2}) != {True: 2}
    s = Set([1, 1.0, True])
    assert len(s) == 3
    assert 1.0 not in Set([1])
    assert Set([1]) == {1}
    assert Set([1]) != {1.0}
    assert Set([1]) <= s
    assert Set([1, 2]) | {1.0} == Set([1, 1.0, 2])
    assert Set([1, 2]) - {1.0} == Set([1, 2])
    assert Set([1, 2]) & {1.0, 2} == Set([2])
    assert Set([1]) ^ {1.0} == Set([1, 1.0])
    assert isinstance(s, frozenset)
    assert Vector([1]) == (1,) != Vector([1.0])
    assert (1,) == Vector([1])  # noqa: SIM300  the order is what is tested
    assert Vector([1]) != List([1])
    assert Vector([float("nan")]) == Vector([float("nan")])
    assert hash(Vector([float("nan")])) == hash(Vector([float("nan")]))
    assert Vector([-0.0]) != Vector([0.0])
    assert hash(Vector([1, "a"])) == hash((1, "a"))
    assert Char("a") != "a"
    assert strict_equal([1, {"a": {2}}], Vector([1, Map({"a": Set([2])})]))
    assert not strict_equal([1], [1.0])


def test_collections_do_not_change():
    """The model's collections cannot be set, and sets and maps made of lists hold vectors."""
    for value in (Vector([1]), List([1]), Map({1: 2}), Set([1]), Tagged("a", 1), Char("a"), Symbol("a")):
        with pytest.raises(AttributeError):
            value.meta = 1
        with pytest.raises(AttributeError):
            value.other = 1
        assert strict_equal(copy.deepcopy(value), value)
    assert Set([[1], (1,)]) == Set([Vector([1])])


def test_metadata_is_kept_and_not_compared():
    """Metadata is read, written and merged, and changes no equality."""
    v = read_edn("^:a ^{:b 2 :a 3} [1]")
    assert v == Vector([1])
    assert meta_of(v) == {Keyword("a"): True, Keyword("b"): 2}
    assert write_edn(v) == "^{:b 2 :a true} [1]"
    s = read_edn("^:a x")
    assert s == Symbol("x")
    assert hash(s) == hash(Symbol("x"))
    assert meta_of(Symbol("x")) is None
    assert write_edn([s, Symbol("x")]) == "[^{:a true} x x]"
    assert meta_of(with_meta(v, None)) is None
    for text in ("^:a {:b 1}", "^:a #{1 1.0}", "^:a (1)", "^:a #t 1", "^:a x"):
        assert meta_of(pickle.loads(pickle.dumps(read_edn(text)))) == {Keyword("a"): True}


@pytest.mark.parametrize(
    ("opening", "closing", "depth"),
    [
        ("[", "]", 1),
        ("(", ")", 1),
        ("#{", "}", 1),
        ("{1 ", "}", 1),
        ("{", " 1}", 1),
        ("{[", "] 1}", 2),
        ("#t [", "]", 2),
        ("#{#t ", "}", 2),
        ("#{2 1.0 ", "}", 1),
        ("^:a [", "]", 2),
    ],
)
def test_deep_values_need_no_stack(opening, closing, depth):
    """A value at the depth limit is built, hashed, compared, shown, written and read without recursion."""
    n = 512 // depth
    text = opening * n + ":k" + closing * n
    a, b = read_edn(text), read_edn(text)
    assert a == b
    assert hash(a) == hash(b)
    assert Set([a, b]) == Set([a])
    assert {a: 1}[b] == 1
    assert write_edn(a) == write_edn(b)
    assert strict_equal(read_edn(write_edn(a)), a)
    assert len(show_form(a)) <= 80
    assert repr(a)
    assert read_node(text).value == a
    assert node_of(a).value == a


def test_colliding_hashes_do_not_flood():
    """Integers that Python hashes alike stay apart in maps, in time that is not quadratic."""
    prime = 2**61 - 1
    members = [prime * n for n in range(1, 20_000)]
    assert len(read_edn(f"#{{{' '.join(map(str, members))}}}")) == len(members)
    assert len({hash(Vector([m])) for m in members}) > len(members) // 2


# --- reading ---------------------------------------------------------------------------------------------------------


def test_depth_limit_is_a_parameter():
    """The limit counts collections and can be moved."""
    assert read_edn("[" * 512 + "]" * 512)
    assert read_edn("[" * 600 + "]" * 600, depth_limit=600)
    with pytest.raises(EdnError, match="nested more than 2 deep"):
        read_edn("[[[]]]", depth_limit=2)
    inside = [datetime(2020, 1, 1, tzinfo=UTC)]
    for _ in range(511):
        inside = [inside]
    assert strict_equal(read_edn(write_edn(inside)), inside)


def test_collector_is_restored():
    """A big read pauses the cyclic collector and puts it back, also after an error."""
    assert gc.isenabled()
    read_edn("[" + "1 " * 50_000 + "]")
    assert gc.isenabled()
    with pytest.raises(EdnError):
        read_edn("[" + "1 " * 50_000)
    assert gc.isenabled()
    gc.disable()
    try:
        read_edn("[" + "1 " * 50_000 + "]")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_error_far_into_a_big_text():
    """The place of an error is right when many chunks were read before it."""
    text = "[\n" + '{:a "b" :c [1 2.5]}\n' * 20_000 + "  {:a 1 :a 2}]"
    with pytest.raises(EdnError) as caught:
        read_edn(text)
    assert str(caught.value) == (
        "EdnError [edn/duplicate-key]: The map has the key :a twice.\n"
        "  line 20002, column 9\n"
        "    |   {:a 1 :a 2}]\n"
        "    |         ^^\n"
        "  Mend: keep one of the two entries."
    )
    with pytest.raises(EdnError) as caught:
        read_edn(text.replace(":a 1 :a 2", ":a 007"))
    assert (caught.value.span.line, caught.value.span.column) == (20002, 7)


def test_unclosed_names_where_it_was_opened():
    """A text cut off says which collection is open, and where."""
    with pytest.raises(EdnError) as caught:
        read_edn('{:a 1\n :b [1 2\n :c "x"}')
    assert str(caught.value) == (
        "EdnError [edn/unmatched]: } cannot close the vector opened at line 2, column 5.\n"
        "  line 3, column 8\n"
        '    |  :c "x"}\n'
        "    |        ^\n"
        "  Expected: ]"
    )


def test_read_all():
    """All forms come in order; none is an empty list."""
    assert read_all("1 :a ; x\n [2]") == [1, Keyword("a"), Vector([2])]
    assert read_all(" ; nothing") == []
    with pytest.raises(TypeError):
        read_edn(b"1")


def test_file(tmp_path):
    """A file's errors name the file; bytes that are not UTF-8 are named with their offset."""
    path = tmp_path / "memory.edn"
    path.write_bytes('\ufeff{:a "ü"}\r\n'.encode())
    assert read_edn_file(path) == {Keyword("a"): "ü"}
    path.write_bytes(b'{:a 1\n :b "\xff"}')
    with pytest.raises(EdnError) as caught:
        read_edn_file(path)
    assert caught.value.code == "edn/bad-encoding"
    assert caught.value.data["offset"] == 11
    assert str(path) in str(caught.value)
    path.write_bytes(b"{:a")
    with pytest.raises(EdnError, match=r"line 1, column 1 of .*memory\.edn"):
        read_edn_file(path)


def test_nodes():
    """Nodes carry places, the text and the nodes below, with maps as key, value, key, value."""
    node = read_node('[:find ?x\n {:a (f ?x)} #t "z" #:n{:k 1}]', source="q.edn")
    assert [node.text[n.start : n.end] for n in node.items] == [":find", "?x", "{:a (f ?x)}", '#t "z"', "#:n{:k 1}"]
    assert (node.items[2].span.line, node.items[2].span.column) == (2, 2)
    assert node.items[2].items[1].items[1].value is Symbol("?x")
    assert node.items[3].items[0].value == "z"
    assert node.items[4].items[0].value is Keyword("n/k")
    assert node.source == "q.edn"


def test_node_of_python_data():
    """A form given as Python data is printed, whatever is in it, and each part knows its place."""
    node = node_of([":find", Symbol("?x"), {"k": {3, 2, 1}}, print, Tagged("a", [1]), datetime(2020, 1, 1)])  # noqa: DTZ001
    assert node.text == (
        '[":find" ?x {"k" #{1 2 3}} #py/builtin_function_or_method "print" #a [1]'
        ' #py/datetime "datetime.datetime(2020, 1, 1, 0, 0)"]'
    )
    assert node.items[3].value is print
    assert node.value[2] == Map({"k": Set([1, 2, 3])})
    assert node.items[2].items[1].text[node.items[2].items[1].start :].startswith("#{1")
    endless = []
    endless.append(endless)
    with pytest.raises(EdnError, match="holds itself"):
        node_of(endless)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_plain_python_is_written():
    """Lists and tuples are vectors, dicts maps, sets sets, in a stable order."""
    assert write_edn([1, (2, 3), {"a": None}, OrderedDict(b=True), set(), frozenset("zya")]) == (
        '[1 [2 3] {"a" nil} {"b" true} #{} #{"a" "y" "z"}]'
    )
    assert write_edn({10, 9, -1}) == "#{-1 9 10}"
    assert write_edn(Set([Keyword("b"), Keyword("a"), 1, "x", None])) == '#{"x" 1 :a :b nil}'
    assert write_edn(1e16) == "1e+16"
    assert write_edn(datetime(2020, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))) == (
        '#inst "2020-01-01T00:00:00.000-00:00"'
    )
    assert write_edn(UUID(int=1)) == '#uuid "00000000-0000-0000-0000-000000000001"'
    assert write_edn("a\rb\u2028\ud83d") == '"a\\rb\u2028\\ud83d"'
    assert [write_edn(Char(c)) for c in "a\n \u00a0\u200b,("] == [
        r"\a", r"\newline", r"\space", r"\u00a0", r"\u200b", r"\,", r"\(",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"x",
        date(2020, 1, 1),
        datetime(2020, 1, 1),  # noqa: DTZ001
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        Keyword("a b"),
        Keyword("a/b/c"),
        Keyword(""),
        Symbol("1a"),
        Symbol("nil"),
        Symbol("a\n"),
        Symbol(":a"),
        Tagged("inst", "2020"),
        Tagged("_a", 1),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1e5000"),
        Decimal("1" * 5000),
        10**4096,
        Fraction(1, 10**4000) + 10**200,
        "\ud83d\ude00",
        {"a": [object()]},
        3j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_read_back_is_refused(value):
    """A value that EDN cannot say faithfully is refused with a way to mend it, and can be shown all the same."""
    with pytest.raises(EdnError) as caught:
        write_edn(value)
    assert caught.value.code == "edn/cannot-write"
    assert caught.value.hint
    assert show_form(value)


def test_endless_value_is_refused():
    """A list that holds itself is refused by the depth limit."""
    endless = []
    endless.append(endless)
    with pytest.raises(EdnError) as caught:
        write_edn(endless)
    assert caught.value.code == "edn/too-deep"
    assert len(show_form(endless)) == 80


def test_show_form():
    """Values are cut at the limit, unprintable characters escaped, and only what is shown is looked at."""
    assert show_form(list(range(10**6))) == f"[{' '.join(map(str, range(40)))}"[:79] + "…"
    assert show_form("a\x1b\u202e\ud83d") == r'"a\u001b\u202e\ud83d"'
    assert show_form({"a": 1}, limit=5) == '{"a"…'
    assert show_form(10**5000) == '#py/int "16610 bits"'
    assert show_form(Keyword("a b")) == ":a b"


def test_reprs_can_be_read_by_python():
    """The repr of a value makes the value again."""
    value = read_edn('[:a b/c (1) {:k #{1.5}} #t \\x {1 2} "s"]')
    assert eval(repr(value)) == value


def test_second_reader_agrees():
    """edn_format gives the same value for every text but those on which it is known to be wrong, and is wrong there."""
    edn_format = pytest.importorskip("edn_format")
    deviating = {text for texts in DEVIATIONS.values() for text in texts}
    agreed = set()
    for text, value in VALUES:
        try:
            theirs = from_edn_format(edn_format.loads(text, write_ply_tables=False))
        except (edn_format.EDNDecodeError, NotImplementedError, ValueError):
            continue
        if strict_equal(theirs, value):
            agreed.add(text)
    assert agreed == {text for text, _ in VALUES} - deviating
    assert len(agreed) > 80


def from_edn_format(value):
    """A value of edn_format in our model."""
    import edn_format

    if isinstance(value, edn_format.Keyword):
        return Keyword(value.name)
    if isinstance(value, edn_format.Symbol):
        return Symbol(value.name)
    if isinstance(value, edn_format.Char):
        return Char(str(value))
    if isinstance(value, edn_format.ImmutableDict):
        return Map([(from_edn_format(k), from_edn_format(v)) for k, v in value.items()])
    if isinstance(value, edn_format.ImmutableList):
        return Vector(map(from_edn_format, value))
    if isinstance(value, tuple):
        return List(map(from_edn_format, value))
    if isinstance(value, frozenset):
        return Set(map(from_edn_format, value))
    return value


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    "text",
    [
        '{:a [1 -2.5 "täxt \\" \\n 🎉" #{x y/z}] :b #inst "2020-02-29T12:00:00.123Z" :c #_ #foo [1 2] nil}',
        '\ufeff; a comment\n[\\a \\newline \\u0041 #uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6" ##Inf 1/2 3M 99999999999999999999]',
        '#:ns{:a 1 :_/b ^{:doc "m"} [x] , :c #my/tag "a very long string that is longer than any piece, with \\\\ in it"}',
        "  ( ) ; nothing more",
    ],
)
def test_pieces_of_any_size_give_the_same_values(monkeypatch, text, piece):
    """Where a text or its bytes are cut makes no difference: within tokens, escapes, instants, characters of four bytes."""
    expected = read_edn(text)
    monkeypatch.setattr(edn_quick, "_PIECE", piece)
    for source in (text, text.encode()):
        found = edn_quick.quick_values(edn_quick.pieces(source), 512)
        assert found is not None
        assert write_edn(found[0]) == write_edn(expected)
    assert write_edn(read_edn_bytes(text.encode())) == write_edn(expected)
    for wrong in (text + "\n)", text + "\n\\", text + '\n"cut'):
        with pytest.raises(EdnError):
            read_edn_bytes(wrong.encode())


def test_a_very_long_text_leaves_the_collector_as_it_was():
    """The collector is on afterwards, what is frozen stays so, and a collector that was off stays off."""
    text = "[" + '{:a "some text to make it long" :b [1 2 3]} ' * 120_000 + "]"
    frozen = gc.get_freeze_count()
    assert len(read_edn(text)) == 120_000
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    gc.disable()
    try:
        read_edn(text[: 1 << 17].rpartition("}")[0] + "}]")
        assert not gc.isenabled()
    finally:
        gc.enable()
