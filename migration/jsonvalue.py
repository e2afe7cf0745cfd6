r"""EDN values as JSON text and back, without loss: `encode`/`write_json` and `decode`/`read_json` are exact inverses.

Plain JSON says whatever it can: null, true and false, integers of 64 bits, finite floats (`-0.0` too), strings, vectors
as arrays, maps with scalar keys as objects. Where it cannot, a string or the head of an array carries a tag. The tags
are those of Transit (https://github.com/cognitect/transit-format), extended where Transit has none::

    string   = text                 a string; one that begins with ~ ^ ` has one more ~ in front
             | "~:" keyword         ":a/b" is "~:a/b"
             | "~$" symbol          | "~c" character      | "~u" uuid        | "~b" base64 of bytes
             | "~m" milliseconds    an instant since 1970 UTC; | "~t" ISO text, when it has microseconds
             | "~n" integer         beyond 64 bits        | "~f" decimal, its exact text: 1.50M is "~f1.50"
             | "~z" NaN | INF | -INF
             | "~i" integer | "~d" float | "~?t" | "~?f" | "~_"      as keys of objects only
             | "~x" text            a string (tags and all) with lone surrogates: they and \ are escaped
    array    = [value ...]                                a vector
             | ["~#set" [...]] | ["~#list" [...]] | ["~#cmap" [key value ...]]      cmap: a map with a collection as key
             | ["~#ratio" [numerator denominator]] | ["~#with-meta" [value metadata]]
             | ["~#tag" value]                            a tagged value of EDN, `#my/tag {:x 1}`
             | ["~#tagged" ["tag" value]]                 one whose tag is a word of this table
    object   = {string value ...}   a map whose keys are all strings, keywords or other scalars

Sets are written in order of their text. With `canonical=True` the entries of maps are, too: equal values with equal
metadata then have equal text, which is what digests are made of.

Depth is bounded by the EDN reader's: 512 levels, which are at most 1,024 of JSON. The first levels are walked by recursion,
because that is twice as fast; what lies deeper with an explicit stack.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, meta_of, show_form, with_meta
from store.errors import KeyMapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["decode", "encode", "key_text", "read_json", "to_text", "write_json"]

_LONG: Final = 1 << 63
_ESCAPED: Final = frozenset("~^`")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_UNSAFE: Final = re.compile("[\\\\\ud800-\udfff]")
_ESCAPE: Final = re.compile(r"\\(\\|u[0-9a-f]{4})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_RECURSION: Final = 40  # levels walked by recursion: a frame each, far below Python's limit
_DEEPEST: Final = 1024  # levels that orjson reads
_KNOWN_TEXTS: Final = 1 << 16
_WORDS: Final = frozenset({"set", "list", "cmap", "ratio", "with-meta", "tagged", "lacks"})
_PLAIN: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME
_SORTED: Final = _PLAIN | orjson.OPT_SORT_KEYS


def write_json(value: Any, *, canonical: bool = False) -> str:
    """The JSON text of an EDN value; plain Python collections count as the model's.

    Args:
        value: what `read_edn` gives, or the same as Python data.
        canonical: sort the entries of maps, so that equal values have equal text.

    Raises:
        KeyMapError: `json/unsupported` for a value EDN has not, such as a naive datetime; `json/too-deep`.

    Example:
        >>> write_json(Map([(Keyword("a"), Set([Decimal("1.50")])), ("b", [1, 1.0, None])]))
        '{"~:a":["~#set",["~f1.50"]],"b":[1,1.0,null]}'
    """
    return to_text(encode(value, canonical=canonical), canonical=canonical).decode()


def read_json(text: str | bytes) -> Any:
    """The EDN value of a text that `write_json` made.

    Raises:
        KeyMapError: `json/malformed` for any other text.
    """
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise _malformed(text, f"is not JSON: {e}") from e
    return decode(raw)


def to_text(encoded: Any, *, canonical: bool = False) -> bytes:
    """The UTF-8 text of what `encode` gave, or of lists and dicts of such.

    Raises:
        KeyMapError: `json/too-deep` beyond 1,024 levels, more than could be read back.
    """
    try:
        return orjson.dumps(encoded, option=_SORTED if canonical else _PLAIN)
    except orjson.JSONEncodeError:
        return _deep_text(encoded, canonical=canonical)


def _deep_text(encoded: Any, *, canonical: bool) -> bytes:
    """`to_text` with an explicit stack, for what is nested deeper than orjson writes (254 levels).

    NB orjson.Fragment, the obvious way to put finished text into more text, corrupts the heap (orjson 3.13.0).
    """
    out: list[bytes] = []
    stack: list[tuple[Any, bytes]] = [(iter([(b"", encoded)]), b"")]
    while stack:
        left, closing = stack[-1]
        for lead, member in left:
            out.append(lead)
            kind = member.__class__
            if kind is list:
                stack.append((_with_leads([b""] * len(member), member), b"]"))
                out.append(b"[")
            elif kind is dict:
                keys = sorted(member) if canonical else list(member)
                stack.append((_with_leads([orjson.dumps(k) + b":" for k in keys], [member[k] for k in keys]), b"}"))
                out.append(b"{")
            else:
                out.append(orjson.dumps(member))
                continue
            if len(stack) > _DEEPEST + 1:
                raise KeyMapError("json/too-deep", f"The value is nested more than {_DEEPEST:,} levels deep in JSON.")
            break
        else:
            stack.pop()
            out.append(closing)
    return b"".join(out)


def _with_leads(leads: list[bytes], members: list[Any]) -> Iterator[tuple[bytes, Any]]:
    commas = [b"", *[b","] * (len(leads) - 1)]
    return iter([(comma + lead, member) for comma, lead, member in zip(commas, leads, members, strict=False)])


# ---------------------------------------------------------------------------------------------------------------------
# values -> what orjson writes


def encode(value: Any, *, canonical: bool = False) -> Any:
    """The value as the dicts, lists, strings and numbers whose JSON text is the value's; for `to_text`.

    A map with scalar keys gives a dict in the map's order, keyed by the keys' texts, so that a caller can take
    entries out before it makes text.

    Raises:
        KeyMapError: as `write_json`.
    """
    return _encode(value, canonical, _RECURSION)


def _encode(value: Any, canonical: bool, levels: int) -> Any:
    kind = value.__class__
    leaf = _LEAF.get(kind)
    if leaf is not None:
        return leaf(value)
    if levels == 0:
        return _encode_deep(value, canonical)
    levels -= 1
    if kind is Map and value.meta is None:
        out: dict[str, Any] = {}
        for key, member in value.pairs():
            text = _KEYS[key] if key.__class__ is Keyword else key_text(key)
            if text is None:
                break
            of = member.__class__
            if of is str:
                out[text] = member if member.isascii() and member[:1] not in _ESCAPED else _string_text(member)
            elif of is int:
                out[text] = member if -_LONG <= member < _LONG else f"~n{member}"
            else:
                leaf = _LEAF.get(of)
                out[text] = leaf(member) if leaf is not None else _encode(member, canonical, levels)
        else:
            return out
    elif kind is Vector and value.meta is None:
        return _members(value, canonical, levels)
    members, build = _open(value, canonical)
    return build(_members(members, canonical, levels))


def _members(members: Iterable[Any], canonical: bool, levels: int) -> list[Any]:
    out = []
    for member in members:
        leaf = _LEAF.get(member.__class__)
        out.append(leaf(member) if leaf is not None else _encode(member, canonical, levels))
    return out


def _encode_deep(root: Any, canonical: bool) -> Any:
    """`_encode` with an explicit stack."""
    stack: list[tuple[Any, Any, list[Any]]] = []
    members, build = _open(root, canonical)
    stack.append((iter(members), build, []))
    while True:
        left, build, done = stack[-1]
        for member in left:
            leaf = _LEAF.get(member.__class__)
            if leaf is None:
                if len(stack) > _DEEPEST:  # a Python list may hold itself
                    raise KeyMapError("json/too-deep", f"The value is nested more than {_DEEPEST:,} levels deep.")
                members, build = _open(member, canonical)
                stack.append((iter(members), build, []))
                break
            done.append(leaf(member))
        else:
            made = build(done)
            stack.pop()
            if not stack:
                return made
            stack[-1][2].append(made)


def _open(value: Any, canonical: bool) -> tuple[Iterable[Any], Any]:
    """The members of a collection and what makes its JSON of theirs."""
    kind = value.__class__
    if kind not in _COLLECTIONS:
        value = _model(value)
        kind = value.__class__
    meta = meta_of(value)
    if meta is not None:
        return (with_meta(value, None), meta), _head("~#with-meta")
    if kind is Vector:
        return value, _same
    if kind is Map:
        texts = [key_text(key) for key in value]
        if None not in texts:
            return [v for _, v in value.pairs()], lambda done: dict(zip(texts, done, strict=True))
        return [part for pair in value.pairs() for part in pair], (_sorted_cmap if canonical else _head("~#cmap"))
    if kind is Set:
        return value, _sorted_set
    if kind is List:
        return value, _head("~#list")
    if kind is Tagged:
        tag = str(value.tag)
        if tag in _WORDS or value.tag.meta is not None or _SURROGATE.search(tag):
            return (value.tag if value.tag.meta is not None else tag, value.value), _head("~#tagged")
        return (value.value,), lambda done: [f"~#{tag}", done[0]]
    return (str(value),), _symbol_with_meta  # a symbol whose metadata was taken off


def _head(word: str) -> Any:
    return lambda done: [word, done]


def _same(done: list[Any]) -> list[Any]:
    return done


def _symbol_with_meta(done: list[Any]) -> Any:
    return f"~${done[0]}"


def _sort_text(encoded: Any) -> bytes:
    return to_text(encoded, canonical=True)


def _sorted_set(done: list[Any]) -> list[Any]:
    if len(done) > 1:
        if {type(member) for member in done} == {str}:
            done.sort()
        else:
            done.sort(key=_sort_text)
    return ["~#set", done]


def _sorted_cmap(done: list[Any]) -> list[Any]:
    pairs = list(zip(done[::2], done[1::2], strict=True))
    if len(pairs) > 1:
        pairs.sort(key=lambda pair: _sort_text(pair[0]))
    return ["~#cmap", [part for pair in pairs for part in pair]]


def _model(value: Any) -> Any:
    """A plain Python collection as the model's; anything else has no place here."""
    if isinstance(value, dict):
        return Map(value)
    if isinstance(value, list | tuple):
        return Vector(value)
    if isinstance(value, set | frozenset):
        return Set(value)
    raise KeyMapError(
        "json/unsupported",
        f"A value of the Python type {type(value).__name__} has no place in EDN.",
        expected="nil, booleans, numbers, strings, keywords, symbols, instants, uuids and collections of these",
        hint="turn it into one of these first.",
    )


def _string_text(value: str) -> str:
    return _clean(f"~{value}" if value[:1] in _ESCAPED else value)


def _clean(text: str) -> str:
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return "~x" + _UNSAFE.sub(lambda m: "\\\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", text)


class _KeywordTexts(dict[Keyword, str]):
    """Keyword -> "~:a/b". Module state that only saves time: what is in it follows from the keyword; bounded."""

    def __missing__(self, keyword: Keyword) -> str:
        if len(self) >= _KNOWN_TEXTS:
            self.clear()
        text = self[keyword] = _clean(f"~{keyword}")
        return text


_KEYS: Final = _KeywordTexts()


def _int_json(value: int) -> int | str:
    return value if -_LONG <= value < _LONG else f"~n{value}"


def _float_json(value: float) -> float | str:
    if value - value == 0.0:
        return value
    return "~zNaN" if value != value else "~zINF" if value > 0 else "~z-INF"  # noqa: PLR0124 - the test for NaN


def _instant_text(value: datetime) -> str:
    if value.tzinfo is None:
        raise KeyMapError(
            "json/unsupported",
            f"The datetime {value.isoformat()} has no time zone.",
            hint="give it one: value.replace(tzinfo=datetime.UTC).",
        )
    micros = (value - _EPOCH) // _MICROSECOND
    if micros % 1000 == 0:
        return f"~m{micros // 1000}"
    return f"~t{value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _ratio(value: Fraction) -> list[Any]:
    return ["~#ratio", [_int_json(value.numerator), _int_json(value.denominator)]]


def _symbol(value: Symbol) -> Any:
    plain = _clean(f"~${value}")
    return plain if value.meta is None else ["~#with-meta", [plain, _encode(value.meta, True, _RECURSION // 2)]]


_LEAF: Final[dict[type, Callable[[Any], Any]]] = {
    str: _string_text,
    Keyword: _KEYS.__getitem__,
    int: _int_json,
    bool: lambda value: value,
    type(None): lambda _: None,
    float: _float_json,
    datetime: _instant_text,
    UUID: lambda value: f"~u{value}",
    Decimal: lambda value: f"~f{value}",
    Fraction: _ratio,
    Char: lambda value: _clean(f"~c{value.text}"),
    bytes: lambda value: "~b" + base64.b64encode(value).decode("ascii"),
    Symbol: _symbol,
}
_COLLECTIONS: Final = frozenset({Map, Vector, List, Set, Tagged, Symbol})


def key_text(key: Any) -> str | None:
    """The text of a scalar key, or None for a collection, a ratio, or a symbol with metadata."""
    kind = key.__class__
    if kind is Keyword:
        return _KEYS[key]
    if kind is str:
        return key if key.isascii() and key[:1] not in _ESCAPED else _string_text(key)
    if key is None:
        return "~_"
    if kind is bool:
        return "~?t" if key else "~?f"
    leaf = _LEAF.get(kind)
    found = leaf(key) if leaf is not None else None
    if isinstance(found, str):
        return found
    if isinstance(found, int):
        return f"~i{found}"
    return f"~d{found!r}" if isinstance(found, float) else None


# ---------------------------------------------------------------------------------------------------------------------
# what orjson reads -> values


def decode(raw: Any) -> Any:
    """The EDN value of what `orjson.loads` gives for a text of `write_json`.

    Raises:
        KeyMapError: `json/malformed`.
    """
    return _decode(raw, _RECURSION)


def _decode(raw: Any, levels: int) -> Any:
    kind = raw.__class__
    if kind is str:
        return raw if raw[:1] != "~" else _untagged(raw)
    if kind is not dict and kind is not list:
        return raw
    if levels == 0:
        return _decode_deep(raw)
    levels -= 1
    if kind is dict:
        flat = []
        for text, member in raw.items():
            of = member.__class__
            flat.append(_NAMES[text] if text[:1] == "~" else text)
            if of is str:
                flat.append(member if member[:1] != "~" else _untagged(member))
            else:
                flat.append(_decode(member, levels) if of is dict or of is list else member)
        return _map_of(flat, raw)
    if raw and raw[0].__class__ is str and raw[0][:2] == "~#":
        members, build = _open_raw(raw)
        return build([_decode(member, levels) for member in members])
    return Vector([_decode(member, levels) for member in raw])


def _decode_deep(root: Any) -> Any:
    """`_decode` with an explicit stack."""
    members, build = _open_raw(root)
    stack: list[tuple[Any, Any, list[Any]]] = [(iter(members), build, [])]
    while True:
        left, build, done = stack[-1]
        for member in left:
            if member.__class__ is dict or member.__class__ is list:
                members, build = _open_raw(member)
                stack.append((iter(members), build, []))
                break
            done.append(_decode(member, 1))
        else:
            made = build(done)
            stack.pop()
            if not stack:
                return made
            stack[-1][2].append(made)


def _open_raw(raw: Any) -> tuple[Iterable[Any], Any]:
    """The members of an object or array and what makes the EDN collection of their values."""
    if raw.__class__ is dict:
        keys = [_NAMES[text] if text[:1] == "~" else text for text in raw]
        return raw.values(), lambda done: _map_of([p for pair in zip(keys, done, strict=True) for p in pair], raw)
    head = raw[0] if raw else None
    if head.__class__ is not str or head[:2] != "~#":
        return raw, Vector
    if len(raw) != 2:
        raise _malformed(raw, "has a tag without its one value")
    build = _BUILD.get(head[2:])
    if build is None:
        return raw[1:], lambda done: Tagged(Symbol(head[2:]), done[0])
    if raw[1].__class__ is not list:
        raise _malformed(raw, "has a tag that stands before an array only")
    return raw[1], lambda done: _built(build, done, raw)


def _built(build: Callable[[list[Any]], Any], done: list[Any], raw: Any) -> Any:
    try:
        return build(done)
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as e:
        raise _malformed(raw, f"holds what its tag does not allow: {e}") from e


def _map_of(flat: list[Any], raw: Any) -> Map:
    try:
        return Map.of_flat(flat)
    except ValueError as e:
        raise _malformed(raw, "has one key twice") from e


def _pair(done: list[Any]) -> tuple[Any, Any]:
    first, second = done
    return first, second


def _tagged(done: list[Any]) -> Tagged:
    tag, value = _pair(done)
    return Tagged(tag, value)


_BUILD: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "set": Set.of_distinct,
    "list": List,
    "cmap": Map.of_flat,
    "ratio": lambda done: Fraction(*_pair(done)),
    "with-meta": lambda done: with_meta(*_pair(done)),
    "tagged": _tagged,
}


def _untagged(text: str) -> Any:
    """The value of a string that begins with ~."""
    if text[1:2] == ":":
        return _NAMES[text]
    make = _SCALARS.get(text[1:2])
    if make is None:
        raise _malformed(text, "begins with a tag that is none")
    try:
        return make(text[2:])
    except (ValueError, OverflowError, InvalidOperation, binascii.Error) as e:
        raise _malformed(text, f"does not hold what its tag says: {e}") from e


class _Names(dict[str, Any]):
    """Text of a key -> the key. Module state that only saves time: what is in it follows from the text; bounded."""

    def __missing__(self, text: str) -> Any:
        if text[:2] != "~:":
            return _untagged(text)
        if len(self) >= _KNOWN_TEXTS:
            self.clear()
        keyword = self[text] = Keyword(text[1:])
        return keyword


_NAMES: Final = _Names()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _special(text: str) -> float:
    if text not in ("NaN", "INF", "-INF"):
        raise ValueError(text)
    return float(text)


def _flag(text: str) -> bool:
    if text not in ("t", "f"):
        raise ValueError(text)
    return text == "t"


def _unescaped(text: str) -> Any:
    plain = _ESCAPE.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)
    return plain if plain[:1] != "~" else _untagged(plain)


_SCALARS: Final[dict[str, Callable[[str], Any]]] = {
    "~": lambda text: f"~{text}",
    "^": lambda text: f"^{text}",
    "`": lambda text: f"`{text}",
    "$": Symbol,
    "c": Char,
    "u": UUID,
    "b": lambda text: base64.b64decode(text, validate=True),
    "m": lambda text: _EPOCH + timedelta(milliseconds=int(text)),
    "t": _instant,
    "n": int,
    "i": int,
    "d": float,
    "f": Decimal,
    "z": _special,
    "?": _flag,
    "_": lambda _: None,
    "x": _unescaped,
}


def _malformed(raw: Any, why: str) -> KeyMapError:
    shown = raw if isinstance(raw, str) else show_form(raw if isinstance(raw, list | dict) else repr(raw))
    return KeyMapError(
        "json/malformed",
        f"The text {shown[:80]!r} {why}.",
        expected="JSON as migration.jsonvalue writes it",
        hint="the value was changed by another program, or the database is damaged: run `datalog check`.",
    )
