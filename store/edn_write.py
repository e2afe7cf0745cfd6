"""Values to EDN text: iterative, deterministic, refusing what would not read back as the same value.

Maps are written in their order, sets in a stable one: members of one simple type by value, others by their text.
`write_edn` refuses, `show_form` (for messages) shows what it can and cuts, `node_of` prints a form given as Python
data and keeps where each part stands in the text.
"""

from __future__ import annotations

import reprlib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from store.edn_model import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, meta_of, with_meta
from store.edn_read import DEPTH_LIMIT, DIGIT_LIMIT, Node, is_keyword, is_symbol
from store.errors import EdnError
from store.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["node_of", "show_form", "write_edn"]

# What cannot stand in a string as it is. A carriage return is escaped: some programs translate line ends.
_SPECIAL = Pattern('["\\\\\n\r\t\b\f\ud800-\udfff]')
_PAIR = Pattern("[\ud800-\udbff][\udc00-\udfff]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_CHAR_TEXTS = {"\n": "newline", "\r": "return", " ": "space", "\t": "tab", "\f": "formfeed", "\b": "backspace"}
_TAG_TEXT = Pattern(r"[^\W\d_]")
_READ_TAGS = frozenset({"inst", "uuid"})
_LARGEST_BITS = 13_607  # an integer of more bits has more than DIGIT_LIMIT digits
_EXPONENT = Pattern(r"E([+-][0-9]+)\Z")
_TEXT_OF = attrgetter("_text")
_SORTED_AS_THEY_ARE = frozenset({str, int, UUID})
_SORTED_FOR_SHOW = 1_000  # members; a larger set is shown in any order, since only the first few are seen


def _cannot(message: str, hint: str) -> EdnError:
    return EdnError("edn/cannot-write", message, hint=hint)


def _string_text(value: str) -> str:
    # Three scans in C; what is not printable (line ends, surrogates, but much else, too) is looked at closely.
    if value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    return f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    if _PAIR.search(value):
        raise _cannot(
            f"The string {show_form(value)} holds a surrogate pair as two characters, which would be read back as one.",
            'join them: s.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass").',
        )
    return _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", value)


def _int_text(value: int) -> str:
    if value.bit_length() >= _LARGEST_BITS:
        raise _cannot(
            f"An integer of {value.bit_length()} bits has too many digits.", f"write at most {DIGIT_LIMIT} digits."
        )
    return str(value)


def _float_text(value: float) -> str:
    text = repr(value)
    return _UNUSUAL_FLOATS.get(text, text)


_UNUSUAL_FLOATS = {"inf": "##Inf", "-inf": "##-Inf", "nan": "##NaN"}


def _decimal_text(value: Decimal) -> str:
    text = str(value)
    if not value.is_finite():
        raise _cannot(f"A decimal cannot be {text} in EDN.", f'write the double float("{text}").')
    exponent = _EXPONENT.search(text)
    if sum(map(text.count, "0123456789")) > DIGIT_LIMIT or (exponent and abs(int(exponent[1])) > DIGIT_LIMIT):
        raise _cannot(
            f"The decimal {text[:40]}… has too many digits or too large an exponent.",
            f"keep digits and exponent below {DIGIT_LIMIT}.",
        )
    return f"{text}M"


def _fraction_text(value: Fraction) -> str:
    if value.numerator.bit_length() + value.denominator.bit_length() >= _LARGEST_BITS:
        raise _cannot("A ratio has too many digits.", f"write at most {DIGIT_LIMIT} digits.")
    return f"{value.numerator}/{value.denominator}"


def _char_text(value: Char) -> str:
    char = value.text
    if char in _CHAR_TEXTS:
        return f"\\{_CHAR_TEXTS[char]}"
    if char.isspace() or (not char.isprintable() and ord(char) <= 0xFFFF):
        return f"\\u{ord(char):04x}"
    return f"\\{char}"


def _instant_text(value: datetime) -> str:
    if value.tzinfo is None:
        raise _cannot(
            f"The datetime {value.isoformat()} has no time zone, so it is no instant.",
            "give it one: value.replace(tzinfo=datetime.UTC) if it is in UTC.",
        )
    try:
        at = value.astimezone(UTC)
    except OverflowError:
        raise _cannot(
            f"The datetime {value.isoformat()} is outside the years 1 to 9999 in UTC.", "use a later or earlier one."
        ) from None
    fine = "microseconds" if at.microsecond % 1000 else "milliseconds"
    return f'#inst "{at.replace(tzinfo=None).isoformat(timespec=fine)}-00:00"'


def _keyword_text(value: Keyword) -> str:
    text = str(value)
    if not is_keyword(text):
        raise _cannot(
            f"The keyword {text!r} would not read back.",
            "take the characters out that EDN names cannot have, or use a string.",
        )
    return text


def _symbol_text(value: Symbol) -> str:
    text = str(value)
    if not is_symbol(text):
        raise _cannot(
            f"The symbol {text!r} would not read back.",
            "take the characters out that EDN names cannot have, or use a string.",
        )
    return text


class _KeywordTexts(dict[Keyword, str]):
    """Keyword -> its text, checked once a call."""

    def __missing__(self, keyword: Keyword) -> str:
        text = self[keyword] = _keyword_text(keyword)
        return text


_CARRY_META = frozenset({Symbol, Vector, List, Map, Set, Tagged})
_LEAVES: dict[type, Callable[[Any], str]] = {
    str: _string_text,
    Keyword: _keyword_text,
    int: _int_text,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "nil",
    float: _float_text,
    datetime: _instant_text,
    UUID: lambda value: f'#uuid "{value}"',
    Decimal: _decimal_text,
    Fraction: _fraction_text,
    Char: _char_text,
}

_NOTHING = object()
_ONLY_KEYWORDS = frozenset({Keyword}).issuperset

_Opened = tuple["Iterable[Any]", str, str, bool]  # members, opening text, closing text, sort the members' texts


def _opened(value: Any) -> _Opened:
    """The parts of what is no leaf; they can be gone through more than once."""
    kind = type(value)
    if kind in _CARRY_META and value.meta is not None:
        return (meta_of(value), with_meta(value, None)), "^", "", False
    if kind is Map:
        return [part for pair in value.pairs() for part in pair], "{", "}", False
    if kind is List:
        return value, "(", ")", False
    if isinstance(value, (tuple, list)):
        return value, "[", "]", False
    if isinstance(value, (set, frozenset)):
        members, is_sorted = _in_order(value)
        return members, "#{", "}", not is_sorted
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair], "{", "}", False
    if kind is Symbol:
        return (), _symbol_text(value), "", False
    if kind is Tagged:
        tag = _symbol_text(value.tag)
        if tag in _READ_TAGS or _TAG_TEXT.match(tag) is None:
            raise _cannot(
                f"A value tagged #{tag} would not read back as it is.",
                "give the datetime or the UUID itself." if tag in _READ_TAGS else "let the tag begin with a letter.",
            )
        return (value.value,), f"#{tag} ", "", False
    raise _cannot(f"A {_type_name(kind)} is no EDN value: {show_form(value)}.", _MENDS.get(kind.__name__, _ANY_MEND))


_ANY_MEND = "convert it to a type that EDN has, or wrap such a value as Tagged(Symbol(...), value)."
_MENDS = {
    "bytes": 'write Tagged(Symbol("base64"), base64.b64encode(value).decode()).',
    "date": "write a datetime with a time zone, or a string.",
    "ndarray": "write value.tolist().",
}


def _type_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _in_order(members: Iterable[Any]) -> tuple[Iterable[Any], bool]:
    """The members of a set sorted by value when they are of one simple type, else as they come and False."""
    kinds = set(map(type, members))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is Keyword:
            return sorted(members, key=_TEXT_OF), True
        if kind in _SORTED_AS_THEY_ARE:
            return sorted(members), True
    return members, False


def write_edn(value: Any, *, depth_limit: int = DEPTH_LIMIT) -> str:
    r"""Return the EDN text of a value; reading it gives an equal value. Plain tuples and lists are written as vectors.

    Raises EdnError `edn/cannot-write` for a value that EDN has no text for, `edn/too-deep` beyond `depth_limit`.

    >>> write_edn({Keyword("a/b"): [1, 2.5, None, {"y", "x"}]})
    '{:a/b [1 2.5 nil #{"x" "y"}]}'
    """
    keyword_text = _KeywordTexts().__getitem__
    find_leaf = {**_LEAVES, Keyword: keyword_text}.get
    texts: list[str] = []
    append = texts.append
    # The entries of a map with keyword keys are taken as pairs, "key value" at a time; all else member by member.
    keyed = False
    members: Iterator[Any] = iter((value,))
    opening = closing = ""
    sort_texts = False
    stack: list[tuple[bool, Iterator[Any], list[str], str, str, bool]] = []
    while True:
        lead = ""
        if keyed:
            for key, member in members:
                leaf = find_leaf(member.__class__)
                if leaf is None:
                    lead = keyword_text(key) + " "
                    break
                append(f"{keyword_text(key)} {leaf(member)}")
            else:
                member = _NOTHING
        else:
            for member in members:
                leaf = find_leaf(member.__class__)
                if leaf is None:
                    break
                append(leaf(member))
            else:
                member = _NOTHING
        if member is not _NOTHING:
            stack.append((keyed, members, texts, opening, closing, sort_texts))
            if len(stack) > depth_limit and type(member) is not Symbol:
                raise EdnError(
                    "edn/too-deep",
                    f"The value is nested more than {depth_limit} deep, or holds itself.",
                    hint="raise depth_limit, on reading too.",
                )
            keyed = member.__class__ is Map and member.meta is None and _ONLY_KEYWORDS(map(type, member))
            if keyed:
                members, opening, closing, sort_texts = iter(member.pairs()), lead + "{", "}", False
            else:
                parts, opening, closing, sort_texts = _opened(member)
                members, opening = iter(parts), lead + opening
            texts = []
            append = texts.append
            continue
        if not stack:
            return texts[0]
        if sort_texts:
            texts.sort()
        text = f"{opening}{' '.join(texts)}{closing}"
        keyed, members, texts, opening, closing, sort_texts = stack.pop()
        append = texts.append
        append(text)


# --- for messages: what cannot be written is shown all the same ------------------------------------------------------

_OPEN, _LEAF, _CLOSE = 0, 1, 2


def _shown_leaf(value: Any) -> str | None:
    """The text of what has no parts, whatever it is; None for a collection."""
    kind = type(value)
    if kind is Keyword or (kind is Symbol and value.meta is None):
        return str(value)
    if kind is str:
        return '"' + _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", value) + '"'
    leaf = _LEAVES.get(kind)
    if leaf is not None:
        try:
            return leaf(value)
        except EdnError:
            return _python_text(value)
    if isinstance(value, (tuple, list, dict, set, frozenset)) or kind in (Map, Tagged, Symbol):
        return None
    return _python_text(value)


_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxlong = 60


def _python_text(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return f'#py/int "{value.bit_length()} bits"'
    name = getattr(value, "__qualname__", None) if callable(value) else None
    try:
        shown = name if isinstance(name, str) else _REPR.repr(value)
    except Exception:  # noqa: BLE001  a message about a value must not fail because the value's own repr does
        shown = "?"
    escaped = _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", shown)
    return f'#py/{kind.__name__} "{escaped}"'


def _shown_parts(value: Any) -> tuple[Iterable[Any], str, str]:
    kind = type(value)
    if kind is Tagged:
        return (value.value,), f"#{value.tag} ", ""
    if isinstance(value, (set, frozenset)):
        members, is_sorted = _in_order(value) if len(value) <= _SORTED_FOR_SHOW else (value, True)
        if not is_sorted:
            members = sorted(members, key=lambda m: _shown_leaf(m) or f"{type(m).__name__}")
        return members, "#{", "}"
    parts, opening, closing, _ = _opened(value)
    return parts, opening, closing


def _events(value: Any, depth_limit: int) -> Iterator[tuple[int, str, Any]]:
    """Opening, leaf and closing texts of a value in order, each with the value it belongs to."""
    stack: list[tuple[Iterator[Any], str, Any]] = []
    members: Iterator[Any] = iter((value,))
    while True:
        for member in members:
            text = _shown_leaf(member)
            if text is not None:
                yield _LEAF, text, member
                continue
            if len(stack) >= depth_limit:
                yield _LEAF, "…", member
                continue
            parts, opening, closing = _shown_parts(member)
            yield _OPEN, opening, member
            stack.append((members, closing, member))
            members = iter(parts)
            break
        else:
            if not stack:
                return
            members, closing, member = stack.pop()
            yield _CLOSE, closing, member


def _spaced(value: Any, depth_limit: int) -> Iterator[tuple[int, str, Any, str]]:
    """Events with the blank that stands before each."""
    fresh = True
    for event, text, part in _events(value, depth_limit):
        yield event, text, part, "" if fresh or event == _CLOSE else " "
        fresh = event == _OPEN


def show_form(value: Any, limit: int = 80) -> str:
    """Return the value as EDN for a message, at most `limit` characters; what EDN cannot say is shown as `#py/type`.

    Characters that a terminal would not show are escaped. Reads no further into the value than it shows.

    >>> show_form([1, "a", Keyword("b"), print])
    '[1 "a" :b #py/builtin_function_or_method "print"]'
    """
    shown: list[str] = []
    room = limit
    for _, text, _, blank in _spaced(value, DEPTH_LIMIT):
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in (blank + text)[: room + 1])  # noqa: PLW2901
        shown.append(text)
        room -= len(text)
        if room < 0:
            return "".join(shown)[: max(limit - 1, 0)] + "…"
    return "".join(shown)


def node_of(form: Any) -> Node:
    """Return a form given as Python data as a tree of nodes with places in its printed text (`.text` of each node).

    Plain collections become the model's; what is no EDN value (a function, say) keeps its value and is printed as
    `#py/type "..."`. A form nested deeper than DEPTH_LIMIT, or holding itself, is an EdnError.
    """
    drafts: list[tuple[Any, int, int, list[Any]]] = []
    frames: list[tuple[Any, int, list[Any]]] = []
    items: list[Any] = drafts
    parts: list[str] = []
    at = 0
    for event, text, value, blank in _spaced(form, DEPTH_LIMIT):
        parts += (blank, text)
        at += len(blank)
        if event == _OPEN:
            frames.append((value, at, items))
            items = []
        elif event == _LEAF:
            if text == "…" and _shown_leaf(value) is None:
                raise EdnError("edn/too-deep", f"The form is nested more than {DEPTH_LIMIT} deep, or holds itself.")
            items.append((value, at, at + len(text), []))
        else:
            below = items
            value, start, items = frames.pop()  # noqa: PLW2901
            items.append((value, start, at + len(text), below))
        at += len(text)
    return _nodes("".join(parts), drafts[0])


def _nodes(text: str, root: tuple[Any, int, int, list[Any]]) -> Node:
    """Drafts to nodes, those below first; the values of plain collections are made again from the nodes below."""
    order: list[tuple[Any, int, int, list[Any]]] = []
    open_ = [root]
    while open_:
        draft = open_.pop()
        order.append(draft)
        open_ += draft[3]
    made: dict[int, Node] = {}
    for draft in reversed(order):
        value, start, end, below = draft
        nodes = tuple(made[id(b)] for b in below)
        made[id(draft)] = Node(_remade(value, [n.value for n in nodes]), start, end, nodes, text)
    return made[id(root)]


def _remade(value: Any, parts: list[Any]) -> Any:
    """A collection of these parts, of the model's type for it."""
    if getattr(value, "meta", None) is not None:
        return value
    if isinstance(value, List):
        return List(parts)
    if isinstance(value, (tuple, list)):
        return Vector(parts)
    if isinstance(value, (dict, Map)):
        return Map.of_flat(parts)
    if isinstance(value, (set, frozenset)):
        return Set(parts)
    return Tagged(value.tag, parts[0]) if type(value) is Tagged else value
