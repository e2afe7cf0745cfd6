"""EDN tokens: what the text is cut into, and the value or mark that each token stands for.

Neither of the two readers is here: `edn_quick` makes values only, `edn_read` knows where each form stands. A fault is
raised without its place, which the readers find.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

from store.edn_model import Char, DuplicateError, Keyword, List, Map, Set, Symbol, Tagged, Vector, meta_of, with_meta
from store.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable

DEPTH_LIMIT = 512  # collections, tags, #_ and ^ within each other
DIGIT_LIMIT = 4096  # digits of a number; also the largest exponent of a decimal

CACHED_TOKEN = 20  # tokens up to this length are kept and looked up
CACHED_TOKENS = 1 << 18  # so many at once
SHORT_INTEGER = 19  # digits; fits int64

# The group is empty only where nothing but white space is left, so findall covers the text and never searches.
# A cut text can change its last token only: an unclosed string or a lone backslash is still one token.
# White space is spelt out: a set with \s in it is tried item by item, one without becomes a table. The table of a set with
# characters beyond ASCII takes ten times as long to make, so that texts without any have patterns of their own.
_ASCII_WHITE = "\\t-\\r\\x1c-\\x20,"
_WHITE = rf"{_ASCII_WHITE}\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def _token(white: str, *, quick: bool = False) -> Pattern:
    run = rf"""[^{white}()\[\]{{}}"\\;]*+"""
    # for `edn_quick` a tagged instant is one token; cut at the end of a chunk it is still read again, as the last two
    # tokens then are the tag and a part of the string
    instant = '\\#inst[ ]"[0-9T:.+Z-]*+" |' if quick else ""
    return Pattern(
        rf"""[{white}]*+(
            {instant}
            :{run}
          | [\[\](){{}}^]
          | "[^"\\]*+(?:\\.?[^"\\]*+)*+"?
          | [^{white}()\[\]{{}}"\\;\#^]{run}
          | \#(?:[{{_]|![^\r\n]*+|{run})
          | \\(?:.{run})?
          | ;[^\r\n]*+
          |
        )""",
        re.VERBOSE | re.DOTALL,
    )


_TOKENS = _token(_WHITE), _token(_ASCII_WHITE)
_QUICK_TOKENS = _token(_WHITE, quick=True), _token(_ASCII_WHITE, quick=True)


def token_pattern(text: str) -> Pattern:
    """What finds the tokens of a text."""
    return _TOKENS[text.isascii()]


def quick_token_pattern(text: str) -> Pattern:
    """The same with a tagged instant as one token."""
    return _QUICK_TOKENS[text.isascii()]


# What a symbol may consist of: all but white space, control characters, brackets and the characters with a meaning.
_ASCII_NAME_CHAR = r"""[^\x00-\x20()\[\]{}"\\;@^`~/,\x7f]"""
_NAME_CHAR = rf"""[^{_WHITE}()\[\]{{}}"\\;@^`~/\x00-\x1f\x7f-\x9f\ud800-\udfff]"""
_NOT_NAME_CHAR = Pattern(rf"(?!/|{_NAME_CHAR}).", re.DOTALL)
_NOT_FIRST = r"""(?![0-9:#']|[+-][0-9])"""
_NOT_FIRST_OF_KEYWORD = r"(?![:#'])"  # its parts may begin with a digit, which the specification leaves open


def _of_symbol(char: str) -> str:
    name = rf"{_NOT_FIRST}{char}++"
    return rf"(?!(?:nil|true|false)\Z)(?:/|{name}(?:/(?:/|{name}))?)\Z"


def _of_keyword(char: str) -> str:
    name = rf"{_NOT_FIRST_OF_KEYWORD}{char}++"
    return rf":(?:/|{name}(?:/(?:/|{name}))?)\Z"


_ASCII_SYMBOL, _SYMBOL = re.compile(_of_symbol(_ASCII_NAME_CHAR)), Pattern(_of_symbol(_NAME_CHAR))
_ASCII_KEYWORD, _KEYWORD = re.compile(_of_keyword(_ASCII_NAME_CHAR)), Pattern(_of_keyword(_NAME_CHAR))


def is_symbol(text: str) -> bool:
    """Whether a text reads as a symbol."""
    return (_ASCII_SYMBOL if text.isascii() else _SYMBOL).match(text) is not None


def is_keyword(text: str) -> bool:
    """Whether a text reads as a keyword."""
    return (_ASCII_KEYWORD if text.isascii() else _KEYWORD).match(text) is not None


# Compiled at once: what long texts hold many of. The others wait until a text needs them.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*+)(N?)\Z")
_FLOAT = re.compile(r"[+-]?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE]([+-]?[0-9]++))?(M?)\Z")
PLAIN_FLOAT = re.compile(r"(?:0|[1-9][0-9]{0,14})\.[0-9]{1,15}\Z").match  # neither overflows nor vanishes
_RATIO = Pattern(r"([+-]?(?:0|[1-9][0-9]*+))/(0|[1-9][0-9]*+)\Z")
_CLOSED_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"\Z', re.DOTALL)
_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([tnrbf"\\])|(.?))""", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}
_SURROGATE_PAIR = Pattern("[\ud800-\udbff][\udc00-\udfff]")
_CHAR_NAMES = {"newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b"}
_CHAR_HEX = Pattern(r"u[0-9a-fA-F]{4}\Z")
_CHAR_OCTAL = Pattern(r"o[0-3]?[0-7]{1,2}\Z")
_INSTANT = Pattern(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:[Tt]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?)?)?)?)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))?\Z"
)
_WHOLE_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?(?:Z|[+-]00:00)\Z")
_UUID = Pattern(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_INST, _UUID_TAG = Symbol("inst"), Symbol("uuid")


class Fault(Exception):  # noqa: N818  it never leaves the readers: it becomes an EdnError where the place is known
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


QUICK_FAULTS = (Fault, ValueError)  # DuplicateError and UnicodeDecodeError are ValueErrors


class LeafFault(Fault):
    """A fault of the token that comes next: `map` has not handed it on."""


class Mark:
    """A token that is not a form of its own: an opening or closing bracket, a prefix, a comment."""

    __slots__ = ("build", "closes", "name", "needs", "opens", "quick", "text")

    def __init__(
        self,
        text: str,
        name: str,
        *,
        opens: str | None = None,
        closes: bool = False,
        needs: int = 0,
        build: Callable[[list[Any]], Any] | None = None,
        quick: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.text = text
        self.name = name
        self.opens = opens  # the text of the closing bracket
        self.closes = closes
        self.needs = needs  # how many forms a prefix takes
        self.build = build  # makes the form of its members; raises a Fault
        self.quick = quick or build  # the same; raises anything of QUICK_FAULTS


def no_map(text: str, index: int | None = None) -> Fault:
    """The fault of a `#:ns` that stands before something else than a map."""
    return Fault("edn/bad-tag", f"{text} stands before no map.", expected="{", index=index)


def too_deep(limit: int) -> Fault:
    """The fault of forms nested deeper than the limit."""
    return Fault(
        "edn/too-deep",
        f"The forms are nested more than {limit} deep.",
        hint="raise depth_limit if the text is to be trusted.",
    )


def _build_map(flat: list[Any]) -> Map:
    try:
        return Map.of_flat(flat)
    except DuplicateError as error:
        raise Fault(
            "edn/duplicate-key",
            f"The map has the key {cut(error.value)} twice.",
            hint="keep one of the two entries.",
            index=2 * error.index,
        ) from None
    except ValueError:
        raise Fault(
            "edn/odd-map",
            f"The map ends with the key {cut(flat[-1])}, which has no value.",
            expected="a value",
            hint="give the key a value, or take it out.",
            index=len(flat) - 1,
        ) from None


def _build_set(members: list[Any]) -> Set:
    try:
        return Set.of_distinct(members)
    except DuplicateError as error:
        twice = error
    raise Fault(
        "edn/duplicate-member",
        f"The set has the member {cut(twice.value)} twice.",
        hint="write it once.",
        index=twice.index,
    )


def _build_tagged(tag: Symbol) -> Callable[[list[Any]], Any]:
    if tag == _INST:
        return lambda items: instant(items[0])
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
        raise Fault(
            "edn/bad-metadata",
            f"{cut(meta)} cannot be metadata.",
            expected="a map, a keyword, a symbol or a string",
            index=0,
        )
    try:
        return with_meta(form, Map(chain((meta_of(form) or Map()).pairs(), meta.pairs())))
    except TypeError:
        raise Fault(
            "edn/bad-metadata",
            f"{cut(form)} cannot carry metadata.",
            expected="a collection, a symbol or a tagged value after the metadata",
            hint="take the ^ form out.",
            index=1,
        ) from None


def _build_namespaced(ns: str) -> Callable[[list[Any]], Any]:
    def build(items: list[Any]) -> Any:
        if type(items[0]) is not Map:
            raise no_map(f"#:{ns}", index=0)
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


LEAF_TAGS = frozenset({"#inst", "#uuid"})  # they make leaves, so they do not count as a level
DISCARD = Mark("#_", "discarded form", needs=1)
META = Mark("^", "metadata", needs=2, build=_build_meta)
COMMENT = Mark(";", "comment")
TOP = Mark("", "text")
NEW = Mark("", "token not seen before")
MARKS = {
    "[": Mark("[", "vector", opens="]", build=Vector),
    "(": Mark("(", "list", opens=")", build=List),
    "{": Mark("{", "map", opens="}", build=_build_map, quick=Map.of_flat),
    "#{": Mark("#{", "set", opens="}", build=_build_set, quick=Set.of_distinct),
    "]": Mark("]", "closing bracket", closes=True),
    ")": Mark(")", "closing bracket", closes=True),
    "}": Mark("}", "closing bracket", closes=True),
    "#_": DISCARD,
    "^": META,
}
CONSTANTS = {
    "nil": None,
    "true": True,
    "false": False,
    "##Inf": float("inf"),
    "##-Inf": float("-inf"),
    "##NaN": float("nan"),
}


class Leaves(dict[str, Any]):
    """Token -> value or mark; what is not there yet is parsed and, when short, kept."""

    def __init__(self) -> None:
        super().__init__(MARKS)
        self.update(CONSTANTS)

    def __missing__(self, token: str) -> Any:
        first = token[0]
        if first == '"' and "\\" not in token and token[-1] == '"' and len(token) > 1:
            value: Any = token[1:-1]
        elif first in "123456789" and len(token) < SHORT_INTEGER and token.isascii() and token.isdigit():
            return int(token)  # identifiers and times, mostly: hardly one twice
        else:
            value = PARSERS.get(first, symbol)(token)
        if len(token) <= CACHED_TOKEN:
            if len(self) >= CACHED_TOKENS:
                self.clear()
                self.__init__()  # type: ignore[misc]
            self[token] = value
        return value


# --- tokens ----------------------------------------------------------------------------------------------------------


def string(token: str) -> str:
    """The string of a token that begins with a double quote."""
    if "\\" not in token:
        if len(token) > 1 and token[-1] == '"':
            return token[1:-1]
        raise _unclosed_string()
    return _unescaped(token)


def _unclosed_string() -> LeafFault:
    return LeafFault(
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
            raise LeafFault(
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
    if (_ASCII_KEYWORD if token.isascii() else _KEYWORD).match(token) is None:  # `is_keyword`, without the call
        raise _bad_name("keyword", token, token[1:])
    return Keyword(token)


def symbol(token: str) -> Symbol:
    """The symbol of a token."""
    if not is_symbol(token):
        raise _bad_name("symbol", token, token)
    return Symbol(token)


def _bad_name(kind: str, token: str, body: str) -> LeafFault:
    shown = _cut_text(token)
    code = f"edn/bad-{kind}"
    if token[0] in "'`@~" and kind == "symbol":
        return LeafFault(
            "edn/unsupported",
            f"EDN has no {token[0]} before a form.",
            hint="EDN is data and is not evaluated: leave it out.",
            at=(0, 1),
        )
    if not body:
        return LeafFault(code, f"{shown} is not a {kind}: it has no name.", expected=f"a {kind} such as :a or :a/b")
    if body[0] == ":":
        return LeafFault(
            code, f"{shown} is not a {kind}: EDN has no aliases.", hint="write the full namespace after one colon."
        )
    if body.count("/") > 1 and not body.endswith("//"):
        return LeafFault(
            code,
            f"{shown} is not a {kind}: it has more than one slash.",
            expected="at most one slash, between namespace and name",
            hint="write dots inside the namespace, as in a.b/c.",
        )
    if body[0] == "/" or body[-1] == "/":
        return LeafFault(code, f"{shown} is not a {kind}: the slash needs a namespace before it and a name after it.")
    wrong = _NOT_NAME_CHAR.search(token)
    if wrong is not None:
        return LeafFault(
            code, f"{shown} is not a {kind}: {_named(wrong.group())} cannot stand in one.", at=wrong.span()
        )
    return LeafFault(code, f"{shown} is not a {kind}: a name cannot begin this way.")


def _named(char: str) -> str:
    return char if char.isprintable() else f"the character U+{ord(char):04X}"


def _number(token: str) -> Any:
    if len(token) > DIGIT_LIMIT:
        digits = sum(map(token.count, "0123456789"))
        if digits > DIGIT_LIMIT:
            raise LeafFault(
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
            raise LeafFault("edn/bad-number", f"The ratio {_cut_text(token)} has the denominator 0.")
        return Fraction(_int(match[1]), below)
    raise _bad_number(token)


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # the process has set a limit of its own below ours
        raise LeafFault("edn/too-big", f"This Python process refuses a number of {len(digits)} digits.") from None


def _float(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise LeafFault(
            "edn/too-big",
            f"{_cut_text(token)} is larger than any double.",
            hint="write a decimal, with M at the end, or ##Inf.",
        )
    if value == 0 and any(c in "123456789" for c in token.lower().partition("e")[0]):
        raise LeafFault(
            "edn/too-big",
            f"{_cut_text(token)} is so small that a double would hold 0.",
            hint="write a decimal, with M at the end, or 0.0.",
        )
    return value


def _decimal(token: str, exponent: str | None) -> Decimal:
    if exponent is not None and (len(exponent.lstrip("+-0")) > 5 or abs(int(exponent)) > DIGIT_LIMIT):
        raise LeafFault(
            "edn/too-big",
            f"The decimal {_cut_text(token)} has the exponent {_cut_text(exponent)}.",
            expected=f"an exponent between -{DIGIT_LIMIT} and {DIGIT_LIMIT}",
        )
    return Decimal(token[:-1])


def _bad_number(token: str) -> LeafFault:
    shown = _cut_text(token)
    body = token.lstrip("+-")
    if re.match(r"0[0-9]", body):
        return LeafFault(
            "edn/bad-number",
            f"{shown} is not a number: it has leading zeros.",
            hint="leave the zeros out, or write a string.",
        )
    if re.match(r"0[xX]|[0-9]+[rR]", body):
        return LeafFault(
            "edn/bad-number", f"{shown} is not a number: EDN has decimal digits only.", hint="write it in base ten."
        )
    if re.match(r"[0-9]+\.(?![0-9])", body):
        return LeafFault(
            "edn/bad-number", f"{shown} is not a number: the point needs a digit after it.", hint="write 1.0, not 1."
        )
    return LeafFault(
        "edn/bad-number", f"{shown} is not a number.", expected="a number such as 1, -2.5, 1e9, 3N, 4.50M or 22/7"
    )


def _signed(token: str) -> Any:
    return _number(token) if len(token) > 1 and token[1] in "0123456789" else symbol(token)


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
    raise LeafFault(
        "edn/bad-character",
        f"{_cut_text(token)} is not a character.",
        expected=r"\a, \newline, \return, \space, \tab, \formfeed, \backspace, \uXXXX or \oNNN",
    )


def _dispatch(token: str) -> Any:
    if token[1:2] == "!":
        return COMMENT
    if token[1:2] == ":":
        ns = token[2:]
        if not is_keyword(":" + ns) or "/" in ns:
            raise LeafFault(
                "edn/bad-tag",
                f"{_cut_text(token)} names no namespace for a map.",
                expected="#:ns{...}",
                hint="write the full namespace; EDN has no aliases.",
            )
        return Mark(token, "namespaced map", needs=1, build=_build_namespaced(ns))
    if token[1:2] == "#":
        raise LeafFault("edn/unsupported", f"{_cut_text(token)} is no EDN value.", expected="##Inf, ##-Inf or ##NaN")
    name = token[1:]
    if not name or not name[0].isalpha():
        raise LeafFault(
            "edn/unsupported",
            f"EDN has no {_cut_text(token)} form.",
            expected="#{ for a set, #_ to leave out a form, or # and a tag's name",
            hint="EDN is data: write the value that the reader macro would make.",
        )
    if not is_symbol(name):
        raise _bad_name("tag", token, name)
    return Mark(token, f"tag {_cut_text(token)}", needs=1, build=_build_tagged(Symbol(name)))


PARSERS: dict[str, Callable[[str], Any]] = {
    '"': string,
    ":": _keyword,
    "\\": _char,
    "#": _dispatch,
    ";": lambda _: COMMENT,
    "+": _signed,
    "-": _signed,
    **dict.fromkeys("0123456789", _number),
}


def instant(value: Any) -> datetime:
    """The instant, with its zone, of the string after `#inst`."""
    if type(value) is not str:
        raise Fault(
            "edn/bad-inst",
            f"#inst takes a string, not {cut(value)}.",
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
        raise Fault(
            "edn/bad-inst",
            f"#inst {cut(value)} is finer than a microsecond.",
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


def _bad_instant(value: str, why: str) -> Fault:
    return Fault(
        "edn/bad-inst",
        f"#inst {cut(value)} is no instant: {why}.",
        expected='"yyyy-mm-ddThh:mm:ss.fff+hh:mm", which may end after each part; years 0001 to 9999',
        index=0,
    )


def _uuid(value: Any) -> UUID:
    if type(value) is not str or _UUID.match(value) is None:
        raise Fault(
            "edn/bad-uuid",
            f"#uuid takes a string of 32 hexadecimal digits in five groups, not {cut(value)}.",
            hint='write #uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".',
            index=0,
        )
    return UUID(value)


def _cut_text(text: str) -> str:
    shown = "".join(c if c.isprintable() else "·" for c in text[:60])
    return shown if len(text) <= 60 else shown + "…"


def cut(value: Any) -> str:
    """A value as a message shows it, at most 60 characters."""
    from store.edn_write import show_form  # noqa: PLC0415

    return show_form(value, 60)
