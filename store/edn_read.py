r"""EDN text to values: one tokeniser, one state machine, two ways of making values.

`read_edn` makes values only, from chunks of tokens, and is fast; `read_node` makes a parallel tree of `Node`, which
keeps for each form where it stands. Both run the same state machine (`_Machine.run`) with an explicit stack. A fault
found by the fast way that needs the place of one member (a duplicate key) is found again by the slow way.

    text       = { gap | form } ;
    gap        = white space | "," | ";" line | "#!" line | "#_" form | byte order mark at the start ;
    form       = "(" forms ")" | "[" forms "]" | "{" pairs "}" | "#{" forms "}" | "#:ns" "{" pairs "}"
               | "#" tag form | "^" form form | string | character | number | keyword | symbol
               | "nil" | "true" | "false" | "##Inf" | "##-Inf" | "##NaN" ;
    string     = '"' { any | "\t" "\r" "\n" "\\" "\"" "\b" "\f" "\uXXXX" } '"' ;
    character  = "\" ( any | newline return space tab formfeed backspace | uXXXX | oNNN ) ;
    integer    = [ "+" | "-" ] ( "0" | 1-9 { 0-9 } ) [ "N" ] ;
    float      = [ "+" | "-" ] ( "0" | 1-9 { 0-9 } ) [ "." 0-9 { 0-9 } ] [ e [ "+" | "-" ] 0-9 { 0-9 } ] [ "M" ] ;
    ratio      = [ "+" | "-" ] integer "/" integer ;

What is refused, so that nothing is lost or guessed: a name with two slashes, leading zeros, radix numbers, floats
that overflow to infinity or vanish to zero, instants finer than a microsecond, duplicate keys and members, Clojure's
reader macros. Depth, digits and exponents are limited before any work is done on them. Follows the EDN specification
(github.com/edn-format/edn) and, where it is silent, Clojure's EdnReader.
"""

from __future__ import annotations

import gc
import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

from store.edn_model import Char, DuplicateError, Keyword, List, Map, Set, Symbol, Tagged, Vector, meta_of, with_meta
from store.errors import EdnError, Span, span_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

__all__ = [
    "DEPTH_LIMIT",
    "DIGIT_LIMIT",
    "KEYWORD_TEXT",
    "SYMBOL_TEXT",
    "Node",
    "read_all",
    "read_edn",
    "read_edn_file",
    "read_node",
    "read_nodes",
]

DEPTH_LIMIT = 512  # collections, tags, #_ and ^ within each other
DIGIT_LIMIT = 4096  # digits of a number; also the largest exponent of a decimal

_CHUNK = (
    1 << 17
)  # characters tokenised at once: a list of all tokens of a big text would take more memory than its values
_CACHED_TOKEN = 20  # tokens up to this length are kept and looked up
_CACHED_TOKENS = 1 << 18  # so many at once
_SHORT_INTEGER = 19  # digits; fits int64
_PAUSE_GC_FROM = 1 << 16  # characters; below, the collector has hardly time to run

# The group is empty only where nothing but white space is left, so findall covers the text and never searches.
# A cut text can change its last token only: an unclosed string or a lone backslash is still one token.
# White space is spelt out: a set with \s in it is tried item by item, one without becomes a table.
_WHITE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000,"
_RUN = rf"""[^{_WHITE}()\[\]{{}}"\\;]*+"""
_TOKEN = re.compile(
    rf"""[{_WHITE}]*+(
        :{_RUN}
      | [\[\](){{}}^]
      | "[^"\\]*+(?:\\.?[^"\\]*+)*+"?
      | [^{_WHITE}()\[\]{{}}"\\;\#^]{_RUN}
      | \#(?:[{{_]|![^\r\n]*+|{_RUN})
      | \\(?:.{_RUN})?
      | ;[^\r\n]*+
      |
    )""",
    re.VERBOSE | re.DOTALL,
)

# The same with a tagged instant as one token, for `_quick_values`; cut at the end of a chunk it is still read again, as the
# last two tokens then are the tag and a part of the string.
_QUICK_TOKEN = re.compile(
    _TOKEN.pattern.replace("\n        :", '\n        \\#inst[ ]"[0-9T:.+Z-]*+"\n      | :', 1), re.VERBOSE | re.DOTALL
)

# What a symbol may consist of: all but white space, control characters, brackets and the characters with a meaning.
_NAME_CHAR = rf"""[^{_WHITE}()\[\]{{}}"\\;@^`~/\x00-\x1f\x7f-\x9f\ud800-\udfff]"""
_NOT_NAME_CHAR = re.compile(rf"(?!/|{_NAME_CHAR}).", re.DOTALL)
_NOT_FIRST = r"""(?![0-9:#']|[+-][0-9])"""
_NAME = rf"{_NOT_FIRST}{_NAME_CHAR}++"
SYMBOL_TEXT = re.compile(rf"(?!(?:nil|true|false)\Z)(?:/|{_NAME}(?:/(?:/|{_NAME}))?)\Z")
# A keyword's parts may begin with a digit, which the specification leaves open and applications rely on.
_KEYWORD_NAME = rf"(?![:#']){_NAME_CHAR}++"
KEYWORD_TEXT = re.compile(rf":(?:/|{_KEYWORD_NAME}(?:/(?:/|{_KEYWORD_NAME}))?)\Z")

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*+)(N?)\Z")
_FLOAT = re.compile(r"[+-]?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE]([+-]?[0-9]++))?(M?)\Z")
_RATIO = re.compile(r"([+-]?(?:0|[1-9][0-9]*+))/(0|[1-9][0-9]*+)\Z")
_CLOSED_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"\Z', re.DOTALL)
_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([tnrbf"\\])|(.?))""", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_CHAR_NAMES = {"newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b"}
_CHAR_HEX = re.compile(r"u[0-9a-fA-F]{4}\Z")
_CHAR_OCTAL = re.compile(r"o[0-3]?[0-7]{1,2}\Z")
_INSTANT = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:[Tt]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?)?)?)?)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))?\Z"
)
_WHOLE_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?(?:Z|[+-]00:00)\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_INST, _UUID_TAG = Symbol("inst"), Symbol("uuid")


class _Fault(Exception):  # noqa: N818  it never leaves this module: it becomes an EdnError where the place is known
    """What is wrong with a token or form; `at` is a part of the token, `index` a member of the collection."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        expected: str | None = None,
        hint: str | None = None,
        at: tuple[int, int] | None = None,
        index: int | None = None,
        opener: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.expected = expected
        self.hint = hint
        self.at = at
        self.index = index
        self.opener = opener


class _LeafFault(_Fault):
    """A fault of the token that comes next: `map` has not handed it on."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A form and where it stands: `text[start:end]`.

    `items` are the nodes of a collection's members in the order of the text (of a map: key, value, key, value), or the
    one node of a tagged value. `source` names the text, for errors.
    """

    value: Any
    start: int
    end: int
    items: tuple[Node, ...]
    text: str
    source: str | None = None

    @property
    def span(self) -> Span:
        """The place of the form, with line and column."""
        return span_at(self.text, self.start, self.end)


class _Mark:
    """A token that is not a form of its own: an opening or closing bracket, a prefix, a comment."""

    __slots__ = ("build", "closes", "name", "needs", "opens", "text")

    def __init__(
        self,
        text: str,
        name: str,
        *,
        opens: str | None = None,
        closes: bool = False,
        needs: int = 0,
        build: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.text = text
        self.name = name
        self.opens = opens  # the text of the closing bracket
        self.closes = closes
        self.needs = needs  # how many forms a prefix takes
        self.build = build


def _no_map(text: str, index: int | None = None) -> _Fault:
    return _Fault("edn/bad-tag", f"{text} stands before no map.", expected="{", index=index)


def _too_deep(limit: int) -> _Fault:
    return _Fault(
        "edn/too-deep",
        f"The forms are nested more than {limit} deep.",
        hint="raise depth_limit if the text is to be trusted.",
    )


def _build_map(flat: list[Any]) -> Map:
    try:
        return Map.of_flat(flat)
    except DuplicateError as error:
        raise _Fault(
            "edn/duplicate-key",
            f"The map has the key {_cut(error.value)} twice.",
            hint="keep one of the two entries.",
            index=2 * error.index,
        ) from None
    except ValueError:
        raise _Fault(
            "edn/odd-map",
            f"The map ends with the key {_cut(flat[-1])}, which has no value.",
            expected="a value",
            hint="give the key a value, or take it out.",
            index=len(flat) - 1,
        ) from None


def _build_set(members: list[Any]) -> Set:
    try:
        return Set.of_distinct(members)
    except DuplicateError as error:
        twice = error
    raise _Fault(
        "edn/duplicate-member",
        f"The set has the member {_cut(twice.value)} twice.",
        hint="write it once.",
        index=twice.index,
    )


def _build_tagged(tag: Symbol) -> Callable[[list[Any]], Any]:
    if tag == _INST:
        return lambda items: _instant(items[0])
    if tag == _UUID_TAG:
        return lambda items: _uuid(items[0])
    return lambda items: Tagged(tag, items[0])


def _build_meta(items: list[Any]) -> Any:
    meta, form = items
    if type(meta) is Keyword:
        meta = Map({meta: True})
    elif type(meta) in (Symbol, str):
        meta = Map({Keyword("tag"): meta})
    elif type(meta) is not Map:
        raise _Fault(
            "edn/bad-metadata",
            f"{_cut(meta)} cannot be metadata.",
            expected="a map, a keyword, a symbol or a string",
            index=0,
        )
    try:
        return with_meta(form, Map(chain((meta_of(form) or Map()).pairs(), meta.pairs())))
    except TypeError:
        raise _Fault(
            "edn/bad-metadata",
            f"{_cut(form)} cannot carry metadata.",
            expected="a collection, a symbol or a tagged value after the metadata",
            hint="take the ^ form out.",
            index=1,
        ) from None


def _build_namespaced(ns: str) -> Callable[[list[Any]], Any]:
    def build(items: list[Any]) -> Any:
        if type(items[0]) is not Map:
            raise _no_map(f"#:{ns}", index=0)
        flat: list[Any] = []
        for key, value in items[0].pairs():
            flat += (_qualified(key, ns), value)
        return _build_map(flat)

    return build


def _qualified(key: Any, ns: str) -> Any:
    kind = type(key)
    if (kind is Keyword or kind is Symbol) and (key.ns is None or key.ns == "_"):
        return kind(f"{ns}/{key.name}" if key.ns is None else key.name)
    return key


_LEAF_TAGS = frozenset({"#inst", "#uuid"})  # they make leaves, so they do not count as a level
_DISCARD = _Mark("#_", "discarded form", needs=1)
_META = _Mark("^", "metadata", needs=2, build=_build_meta)
_COMMENT = _Mark(";", "comment")
_TOP = _Mark("", "text")
_MARKS = {
    "[": _Mark("[", "vector", opens="]", build=Vector),
    "(": _Mark("(", "list", opens=")", build=List),
    "{": _Mark("{", "map", opens="}", build=_build_map),
    "#{": _Mark("#{", "set", opens="}", build=_build_set),
    "]": _Mark("]", "closing bracket", closes=True),
    ")": _Mark(")", "closing bracket", closes=True),
    "}": _Mark("}", "closing bracket", closes=True),
    "#_": _DISCARD,
    "^": _META,
}
_CONSTANTS = {
    "nil": None,
    "true": True,
    "false": False,
    "##Inf": float("inf"),
    "##-Inf": float("-inf"),
    "##NaN": float("nan"),
}


class _Leaves(dict[str, Any]):
    """Token -> value or mark; what is not there yet is parsed and, when short, kept."""

    def __init__(self) -> None:
        super().__init__(_MARKS)
        self.update(_CONSTANTS)

    def __missing__(self, token: str) -> Any:
        first = token[0]
        if first == '"' and "\\" not in token and token[-1] == '"' and len(token) > 1:
            value: Any = token[1:-1]
        elif first in "123456789" and len(token) < _SHORT_INTEGER and token.isascii() and token.isdigit():
            return int(token)  # identifiers and times, mostly: hardly one twice
        else:
            value = _PARSERS.get(first, _symbol)(token)
        if len(token) <= _CACHED_TOKEN:
            if len(self) >= _CACHED_TOKENS:
                self.clear()
                self.__init__()  # type: ignore[misc]
            self[token] = value
        return value


class _QuickLeaves(_Leaves):
    """The same, with the instants that `_QUICK_TOKEN` keeps whole."""

    def __missing__(self, token: str) -> Any:
        first = token[0]
        if first == '"':
            if "\\" not in token and token[-1] == '"' and len(token) > 1:
                if len(token) > _CACHED_TOKEN:
                    return token[1:-1]
                return super().__missing__(token)
        elif first in "123456789":
            if len(token) < _SHORT_INTEGER and token.isdigit() and token.isascii():
                return int(token)
        elif first == "#" and token.startswith("#inst ") and token[-1] == '"' and len(token) > 7:
            return _instant(token[7:-1])  # hardly one twice
        return super().__missing__(token)


# --- tokens ----------------------------------------------------------------------------------------------------------


def _string(token: str) -> str:
    if "\\" not in token:
        if len(token) > 1 and token[-1] == '"':
            return token[1:-1]
        raise _unclosed_string()
    return _unescaped(token)


def _unclosed_string() -> _LeafFault:
    return _LeafFault(
        "edn/unclosed",
        "The text ends inside the string that begins here.",
        expected='"',
        hint="close the string.",
        at=(0, 1),
    )


def _unescaped(token: str) -> str:
    if _CLOSED_STRING.match(token) is None:
        raise _unclosed_string()
    parts: list[str] = []
    at = 1
    surrogates = False
    for match in _ESCAPE.finditer(token):
        parts.append(token[at : match.start()])
        at = match.end()
        code, letter, _ = match.groups()
        if code is not None:
            parts.append(chr(int(code, 16)))
            surrogates = surrogates or code[0] in "dD"
        elif letter is not None:
            parts.append(_ESCAPED[letter])
        else:
            raise _LeafFault(
                "edn/bad-string",
                f"A string has no escape {match.group()}.",
                expected=r"one of \t \r \n \b \f \\ \" or \u and four hexadecimal digits",
                hint=r"write \\ for a backslash.",
                at=match.span(),
            )
    parts.append(token[at:-1])
    text = "".join(parts)
    if surrogates:
        text = _SURROGATE_PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return text


def _keyword(token: str) -> Keyword:
    if KEYWORD_TEXT.match(token) is None:
        raise _bad_name("keyword", token, token[1:])
    return Keyword(token)


def _symbol(token: str) -> Symbol:
    if SYMBOL_TEXT.match(token) is None:
        raise _bad_name("symbol", token, token)
    return Symbol(token)


def _bad_name(kind: str, token: str, body: str) -> _LeafFault:
    shown = _cut_text(token)
    code = f"edn/bad-{kind}"
    if token[0] in "'`@~" and kind == "symbol":
        return _LeafFault(
            "edn/unsupported",
            f"EDN has no {token[0]} before a form.",
            hint="EDN is data and is not evaluated: leave it out.",
            at=(0, 1),
        )
    if not body:
        return _LeafFault(code, f"{shown} is not a {kind}: it has no name.", expected=f"a {kind} such as :a or :a/b")
    if body[0] == ":":
        return _LeafFault(
            code, f"{shown} is not a {kind}: EDN has no aliases.", hint="write the full namespace after one colon."
        )
    if body.count("/") > 1 and not body.endswith("//"):
        return _LeafFault(
            code,
            f"{shown} is not a {kind}: it has more than one slash.",
            expected="at most one slash, between namespace and name",
            hint="write dots inside the namespace, as in a.b/c.",
        )
    if body[0] == "/" or body[-1] == "/":
        return _LeafFault(code, f"{shown} is not a {kind}: the slash needs a namespace before it and a name after it.")
    wrong = _NOT_NAME_CHAR.search(token)
    if wrong is not None:
        return _LeafFault(
            code, f"{shown} is not a {kind}: {_named(wrong.group())} cannot stand in one.", at=wrong.span()
        )
    return _LeafFault(code, f"{shown} is not a {kind}: a name cannot begin this way.")


def _named(char: str) -> str:
    return char if char.isprintable() else f"the character U+{ord(char):04X}"


def _number(token: str) -> Any:
    if len(token) > DIGIT_LIMIT:
        digits = sum(map(token.count, "0123456789"))
        if digits > DIGIT_LIMIT:
            raise _LeafFault(
                "edn/too-big",
                f"The number {_cut_text(token)} has {digits} digits.",
                expected=f"at most {DIGIT_LIMIT} digits",
                hint="write it as a string.",
            )
    match = _INTEGER.match(token)
    if match is not None:
        return _int(token[:-1] if match[1] else token)
    match = _FLOAT.match(token)
    if match is not None:
        return _decimal(token, match[1]) if match[2] else _float(token)
    match = _RATIO.match(token)
    if match is not None:
        below = _int(match[2])
        if below == 0:
            raise _LeafFault("edn/bad-number", f"The ratio {_cut_text(token)} has the denominator 0.")
        return Fraction(_int(match[1]), below)
    raise _bad_number(token)


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # the process has set a limit of its own below ours
        raise _LeafFault("edn/too-big", f"This Python process refuses a number of {len(digits)} digits.") from None


def _float(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise _LeafFault(
            "edn/too-big",
            f"{_cut_text(token)} is larger than any double.",
            hint="write a decimal, with M at the end, or ##Inf.",
        )
    if value == 0 and any(c in "123456789" for c in token.lower().partition("e")[0]):
        raise _LeafFault(
            "edn/too-big",
            f"{_cut_text(token)} is so small that a double would hold 0.",
            hint="write a decimal, with M at the end, or 0.0.",
        )
    return value


def _decimal(token: str, exponent: str | None) -> Decimal:
    if exponent is not None and (len(exponent.lstrip("+-0")) > 5 or abs(int(exponent)) > DIGIT_LIMIT):
        raise _LeafFault(
            "edn/too-big",
            f"The decimal {_cut_text(token)} has the exponent {_cut_text(exponent)}.",
            expected=f"an exponent between -{DIGIT_LIMIT} and {DIGIT_LIMIT}",
        )
    return Decimal(token[:-1])


def _bad_number(token: str) -> _LeafFault:
    shown = _cut_text(token)
    body = token.lstrip("+-")
    if re.match(r"0[0-9]", body):
        return _LeafFault(
            "edn/bad-number",
            f"{shown} is not a number: it has leading zeros.",
            hint="leave the zeros out, or write a string.",
        )
    if re.match(r"0[xX]|[0-9]+[rR]", body):
        return _LeafFault(
            "edn/bad-number", f"{shown} is not a number: EDN has decimal digits only.", hint="write it in base ten."
        )
    if re.match(r"[0-9]+\.(?![0-9])", body):
        return _LeafFault(
            "edn/bad-number", f"{shown} is not a number: the point needs a digit after it.", hint="write 1.0, not 1."
        )
    return _LeafFault(
        "edn/bad-number", f"{shown} is not a number.", expected="a number such as 1, -2.5, 1e9, 3N, 4.50M or 22/7"
    )


def _signed(token: str) -> Any:
    return _number(token) if len(token) > 1 and token[1] in "0123456789" else _symbol(token)


def _char(token: str) -> Char:
    body = token[1:]
    if len(body) == 1 and not body.isspace():
        return Char(body)
    if body in _CHAR_NAMES:
        return Char(_CHAR_NAMES[body])
    if _CHAR_HEX.match(body):
        return Char(chr(int(body[1:], 16)))
    if _CHAR_OCTAL.match(body):
        return Char(chr(int(body[1:], 8)))
    raise _LeafFault(
        "edn/bad-character",
        f"{_cut_text(token)} is not a character.",
        expected=r"\a, \newline, \return, \space, \tab, \formfeed, \backspace, \uXXXX or \oNNN",
    )


def _dispatch(token: str) -> Any:
    if token[1:2] == "!":
        return _COMMENT
    if token[1:2] == ":":
        ns = token[2:]
        if KEYWORD_TEXT.match(":" + ns) is None or "/" in ns:
            raise _LeafFault(
                "edn/bad-tag",
                f"{_cut_text(token)} names no namespace for a map.",
                expected="#:ns{...}",
                hint="write the full namespace; EDN has no aliases.",
            )
        return _Mark(token, "namespaced map", needs=1, build=_build_namespaced(ns))
    if token[1:2] == "#":
        raise _LeafFault("edn/unsupported", f"{_cut_text(token)} is no EDN value.", expected="##Inf, ##-Inf or ##NaN")
    name = token[1:]
    if not name or not name[0].isalpha():
        raise _LeafFault(
            "edn/unsupported",
            f"EDN has no {_cut_text(token)} form.",
            expected="#{ for a set, #_ to leave out a form, or # and a tag's name",
            hint="EDN is data: write the value that the reader macro would make.",
        )
    if SYMBOL_TEXT.match(name) is None:
        raise _bad_name("tag", token, name)
    return _Mark(token, f"tag {_cut_text(token)}", needs=1, build=_build_tagged(Symbol(name)))


_PARSERS: dict[str, Callable[[str], Any]] = {
    '"': _string,
    ":": _keyword,
    "\\": _char,
    "#": _dispatch,
    ";": lambda _: _COMMENT,
    "+": _signed,
    "-": _signed,
    **dict.fromkeys("0123456789", _number),
}


def _instant(value: Any) -> datetime:
    if type(value) is not str:
        raise _Fault(
            "edn/bad-inst",
            f"#inst takes a string, not {_cut(value)}.",
            hint='write #inst "2020-02-29T12:00:00Z".',
            index=0,
        )
    if _WHOLE_INSTANT.match(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise _bad_instant(value, str(error)) from None
    match = _INSTANT.match(value)
    if match is None:
        raise _bad_instant(value, "it is not of the form of RFC 3339")
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    if fraction is not None and fraction[6:].strip("0"):
        raise _Fault(
            "edn/bad-inst",
            f"#inst {_cut(value)} is finer than a microsecond.",
            hint="round it to six digits, or keep it under a tag of your own.",
            index=0,
        )
    try:
        at = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=UTC,
        )
        if sign and (off_hours != "00" or off_minutes != "00"):
            if int(off_hours) > 23 or int(off_minutes) > 59:
                raise _bad_instant(value, "its offset is not between -23:59 and +23:59")
            at = datetime.fromisoformat(
                f"{at:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f".{at.microsecond:06d}{sign}{off_hours}:{off_minutes}"
            ).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _bad_instant(value, str(error)) from None
    return at


def _bad_instant(value: str, why: str) -> _Fault:
    return _Fault(
        "edn/bad-inst",
        f"#inst {_cut(value)} is no instant: {why}.",
        expected='"yyyy-mm-ddThh:mm:ss.fff+hh:mm", which may end after each part; years 0001 to 9999',
        index=0,
    )


def _uuid(value: Any) -> UUID:
    if type(value) is not str or _UUID.match(value) is None:
        raise _Fault(
            "edn/bad-uuid",
            f"#uuid takes a string of 32 hexadecimal digits in five groups, not {_cut(value)}.",
            hint='write #uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".',
            index=0,
        )
    return UUID(value)


def _cut_text(text: str) -> str:
    shown = "".join(c if c.isprintable() else "·" for c in text[:60])
    return shown if len(text) <= 60 else shown + "…"


def _cut(value: Any) -> str:
    from store.edn_write import show_form  # noqa: PLC0415

    return show_form(value, 60)


# --- the state machine -----------------------------------------------------------------------------------------------


class _Machine:
    """Reads the forms of one text. `run` is the state machine; the rest tells where a fault stands."""

    def __init__(self, text: str, depth_limit: int, source: str | None) -> None:
        self.text = text
        self.begin = 1 if text.startswith("\ufeff") else 0
        self.depth_limit = depth_limit
        self.source = source
        self.chunks: list[tuple[int, int]] = []  # number of the first token, offset
        self.end = self.begin  # nodes: the end of the newest token

    def values(self) -> list[Any]:
        """All forms as values."""
        try:
            with _gc_paused(len(self.text) >= _PAUSE_GC_FROM):
                found = self._quick_values()
            if found is not None:
                return found
        except _Fault:
            pass
        # something is wrong: read again, counting tokens, to say where
        self.chunks.clear()
        number = 0
        leaf = _Leaves().__getitem__

        def stream() -> Iterator[Any]:
            nonlocal number
            for tokens in self._token_chunks():
                yield enumerate(map(leaf, tokens), number)
                number += len(tokens)

        with _gc_paused(len(self.text) >= _PAUSE_GC_FROM):
            return self.run(stream(), None)

    def _quick_values(self) -> list[Any] | None:
        """All forms as values by the shortest loop; None, or a fault without its place, where something is wrong.

        What a token stands for decides: most are values and are appended; brackets open and close; the rare prefixes run
        through `needs`. A tagged instant is one token here.
        """
        Mark = _Mark  # noqa: N806  a local name: it is compared with once for each token
        items: list[Any] = []
        append = items.append
        mark = _TOP
        stack: list[tuple[list[Any], _Mark]] = []
        depth_limit = self.depth_limit
        leaf = _QuickLeaves().__getitem__
        for tokens in self._token_chunks(_QUICK_TOKEN):
            for form in map(leaf, tokens):
                if form.__class__ is not Mark:
                    append(form)
                    if not mark.needs:
                        continue
                elif form.closes:
                    if mark.opens != form.text:
                        return None
                    made = mark.build(items)  # type: ignore[misc]
                    items, mark = stack.pop()
                    append = items.append
                    append(made)
                    if not mark.needs:
                        continue
                elif form.opens is not None or form.needs:
                    if mark.name == "namespaced map" and form.text != "{":
                        return None
                    stack.append((items, mark))
                    if len(stack) > depth_limit:
                        return None
                    items = []
                    append = items.append
                    mark = form
                    continue
                else:
                    continue
                while mark.needs and len(items) == mark.needs:
                    if mark is _DISCARD:
                        items, mark = stack.pop()
                        append = items.append
                    else:
                        made = mark.build(items)  # type: ignore[misc]
                        items, mark = stack.pop()
                        append = items.append
                        append(made)
        return None if stack else items

    def nodes(self, begin: int, *, shallow: bool = False) -> list[Any]:
        """All forms from the offset as nodes; `shallow` keeps no nodes below them."""
        leaf = _Leaves().__getitem__
        text, source = self.text, self.source

        def stream() -> Iterator[tuple[int, Any]]:
            for match in _TOKEN.finditer(text, begin):
                start, self.end = match.span(1)
                if start == self.end:
                    return
                try:
                    value = leaf(match[1])
                except _LeafFault as fault:
                    raise self._error(fault, start, self.end) from None
                yield start, (value if value.__class__ is _Mark else Node(value, start, self.end, (), text, source))

        def make(mark: _Mark, items: list[Node], start: int) -> Node:
            assert mark.build is not None
            try:
                value = mark.build([node.value for node in items])
            except _Fault as fault:
                if fault.index is not None and fault.index < len(items):
                    raise self._error(fault, items[fault.index].start, items[fault.index].end) from None
                raise self._error(fault, start, self.end) from None
            below = () if shallow else tuple(items)
            if mark is _META:
                below = items[1].items
            elif mark.name == "namespaced map":
                below = tuple(
                    Node(key, node.start, node.end, node.items, text, source)
                    for node, key in zip(items[0].items, chain.from_iterable(value.pairs()), strict=False)
                )
            return Node(value, start, self.end, below, text, source)

        return self.run(iter([stream()]), make)

    def run(self, stream: Iterator[Any], make: Callable[[_Mark, list[Any], int], Any] | None) -> list[Any]:
        """The state machine: runs of (place, value or mark) to forms.

        A place is a token's number when values are made and an offset when nodes are made.
        """
        Mark = _Mark  # noqa: N806  a local name: it is compared with once for each token
        items: list[Any] = []
        append = items.append
        mark, opened_at, needs = _TOP, -1, 0
        stack: list[tuple[list[Any], _Mark, int]] = []
        depth_limit = self.depth_limit
        place = -1
        try:
            for run in stream:
                for place, form in run:
                    if form.__class__ is not Mark:
                        append(form)
                        if not needs:
                            continue
                    elif form.opens is not None or form.needs:
                        if mark.name == "namespaced map" and form.text != "{":
                            raise _no_map(mark.text)
                        stack.append((items, mark, opened_at))
                        if len(stack) > depth_limit + (form.text in _LEAF_TAGS):
                            raise _too_deep(depth_limit)
                        items = []
                        append = items.append
                        mark, opened_at, needs = form, place, form.needs
                        continue
                    elif form.closes:
                        if mark.opens != form.text:
                            raise self._mismatch(form, mark, opened_at, make is not None)
                        made = mark.build(items) if make is None else make(mark, items, opened_at)  # type: ignore[misc]
                        items, mark, opened_at = stack.pop()
                        append = items.append
                        needs = mark.needs
                        append(made)
                    else:
                        continue
                    while needs and len(items) == needs:
                        kept = mark is not _DISCARD
                        if kept:
                            made = mark.build(items) if make is None else make(mark, items, opened_at)  # type: ignore[misc]
                        items, mark, opened_at = stack.pop()
                        append = items.append
                        needs = mark.needs
                        if kept:
                            append(made)
        except _LeafFault as fault:
            raise self._located(fault, place + 1, -1, as_nodes=False) from None
        except _Fault as fault:
            raise self._located(fault, place, opened_at, as_nodes=make is not None) from None
        if stack:
            raise self._unfinished(mark, opened_at, make is not None)
        return items

    def _token_chunks(self, pattern: re.Pattern[str] = _TOKEN) -> Iterator[list[str]]:
        """All tokens, a chunk at a time; the last token of a chunk may be cut short and is read again."""
        text = self.text
        size, at, number = len(text), self.begin, 0
        step = _CHUNK
        while at < size:
            stop = min(at + step, size)
            tokens: list[str] = pattern.findall(text, at, stop)
            while tokens and not tokens[-1]:
                tokens.pop()
            next_at = stop
            if stop < size and tokens:
                last = tokens.pop()
                next_at = text.rfind(last, at, stop)
                if not tokens:
                    step *= 2
                    continue
            step = _CHUNK
            self.chunks.append((number, at))
            number += len(tokens)
            at = next_at
            yield tokens

    # --- where a fault stands ---

    def _span_of(self, place: int, as_nodes: bool) -> tuple[int, int]:
        """Start and end of the token of a place."""
        if as_nodes:
            match = _TOKEN.match(self.text, place)
        else:
            first, at = next(chunk for chunk in reversed(self.chunks) if chunk[0] <= place)
            match = next(m for n, m in enumerate(_TOKEN.finditer(self.text, at), first) if n == place)
        assert match is not None
        return match.span(1)

    def _located(self, fault: _Fault, place: int, opened_at: int, as_nodes: bool) -> EdnError:
        if fault.index is not None and not as_nodes:
            # A member is at fault: read the collection again, with places.
            start, _ = self._span_of(opened_at, as_nodes)
            try:
                self.nodes(start, shallow=True)
            except EdnError as error:
                return error
        return self._error(fault, *self._span_of(place, as_nodes))

    def _error(self, fault: _Fault, start: int, end: int) -> EdnError:
        if fault.at is not None:
            start, end = start + fault.at[0], start + fault.at[1]
        return self._edn_error(fault.code, fault.message, start, end, expected=fault.expected, hint=fault.hint)

    def _edn_error(self, code: str, message: str, start: int, end: int, **parts: str | None) -> EdnError:
        return EdnError(
            code, message, span=span_at(self.text, start, end), source=self.text, file=self.source,
            expected=parts.get("expected"), hint=parts.get("hint"),
        )  # fmt: skip

    def _mismatch(self, closer: _Mark, mark: _Mark, opened_at: int, as_nodes: bool) -> _Fault:
        if mark is _TOP:
            return _Fault(
                "edn/unmatched", f"{closer.text} closes nothing.", hint="take it out, or open what it is to close."
            )
        start, end = self._span_of(opened_at, as_nodes)
        where = span_at(self.text, start, end)
        what = f"the {mark.name} opened at line {where.line}, column {where.column}"
        if mark.opens is None:
            what = f"the {mark.name} at line {where.line}, column {where.column}"
            message = f"{closer.text} stands where a form is needed: {what} has none."
            return _Fault("edn/missing-form", message, expected="a form")
        return _Fault("edn/unmatched", f"{closer.text} cannot close {what}.", expected=mark.opens)

    def _unfinished(self, mark: _Mark, opened_at: int, as_nodes: bool) -> EdnError:
        start, end = self._span_of(opened_at, as_nodes)
        if mark.opens is None:
            return self._edn_error(
                "edn/missing-form", f"The text ends where {mark.text} needs a form.", start, end, expected="a form"
            )
        return self._edn_error(
            "edn/unclosed", f"The text ends inside the {mark.name} opened here.", start, end,
            expected=mark.opens, hint=f"close it with {mark.opens}, or look whether the text was cut off.",
        )  # fmt: skip

    def one(self, forms: list[Any], nodes: Callable[[], list[Any]]) -> Any:
        """The one form of the text; none, or more, is an error."""
        if not forms:
            raise EdnError(
                "edn/empty", "The text holds no form, only white space and comments.", expected="one form",
                hint="write nil for nothing.", file=self.source,
            )  # fmt: skip
        if len(forms) > 1:
            second = nodes()[1]
            raise self._edn_error(
                "edn/trailing", f"The text goes on after its one form, with {_cut(second.value)}.",
                second.start, second.end,
                hint="put the forms into a vector, or read them with read_all.",
            )  # fmt: skip
        return forms[0]


@contextmanager
def _gc_paused(wanted: bool) -> Iterator[None]:
    """Without the cyclic collector: values make no cycles, and it would walk them again and again."""
    was = wanted and gc.isenabled()
    if was:
        gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _checked_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"EDN is read from a str, not {type(text).__name__}")
    return text


def read_edn(text: str, *, depth_limit: int = DEPTH_LIMIT, source: str | None = None) -> Any:
    """Return the one form of the text; no form, or text after it, is an EdnError. `source` names the text, for errors.

    >>> read_edn('{:a [1 2.5 #{"x"}]}')
    Map({Keyword(":a"): Vector([1, 2.5, Set(['x'])])})
    """
    machine = _Machine(_checked_text(text), depth_limit, source)
    return machine.one(machine.values(), lambda: machine.nodes(machine.begin, shallow=True))


def read_all(text: str, *, depth_limit: int = DEPTH_LIMIT, source: str | None = None) -> list[Any]:
    """Return all forms of the text, in order.

    >>> read_all("1 :a ; two forms")
    [1, Keyword(":a")]
    """
    return _Machine(_checked_text(text), depth_limit, source).values()


def read_node(text: str, *, depth_limit: int = DEPTH_LIMIT, source: str | None = None) -> Node:
    """Return the one form of the text as a tree of nodes with places; like `read_edn`, several times slower."""
    machine = _Machine(_checked_text(text), depth_limit, source)
    nodes = machine.nodes(machine.begin)
    node: Node = machine.one(nodes, lambda: nodes)
    return node


def read_nodes(text: str, *, depth_limit: int = DEPTH_LIMIT, source: str | None = None) -> list[Node]:
    """Return all forms of the text as trees of nodes, in order."""
    machine = _Machine(_checked_text(text), depth_limit, source)
    return machine.nodes(machine.begin)


def read_edn_file(path: str | PathLike[str], *, depth_limit: int = DEPTH_LIMIT) -> Any:
    """Return the one form of a UTF-8 file. Errors name the file; bytes that are not UTF-8 are one, too."""
    with open(path, "rb") as file:  # noqa: PTH123  any path-like is taken
        raw = file.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise EdnError(
            "edn/bad-encoding",
            f"The file is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}, in line {line}, is none.",
            expected="UTF-8",
            hint="convert the file to UTF-8, or mend the damaged bytes.",
            data={"offset": error.start},
            file=str(path),
        ) from None
    del raw
    return read_edn(text, depth_limit=depth_limit, source=str(path))
