"""EDN values by the shortest loop: text or bytes a piece at a time, nothing but values, no places.

`quick_values` is what reads a file of tens of megabytes. It gives up (None, or an exception) where anything is wrong; `edn_read`
then reads again, slower, and says what and where. Bytes are decoded piece by piece: one astral character would make
a text of four bytes a character out of the whole file.
"""

from __future__ import annotations

import codecs
from itertools import repeat
from typing import TYPE_CHECKING, Any

from store.edn_tokens import (
    CACHED_TOKENS,
    CONSTANTS,
    DISCARD,
    MARKS,
    NEW,
    PARSERS,
    PLAIN_FLOAT,
    SHORT_INTEGER,
    TOP,
    Mark,
    instant,
    quick_token_pattern,
    string,
    symbol,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KNOWN_NAME = 24  # keywords, symbols and odd tokens up to this length are kept and looked up
_KNOWN_VALUE = 8  # strings and integers
_PIECE = 1 << 17  # characters tokenised at once: a list of all tokens would take more memory than the values


def pieces(source: str | bytes) -> Callable[[int], str]:
    """A function that takes the next characters of a text or of UTF-8 bytes, about so many; "" at the end.

    It raises UnicodeDecodeError where the bytes are no UTF-8. A byte order mark at the start is passed over.
    """
    at = 0
    if isinstance(source, str):
        at = 1 if source.startswith("\ufeff") else 0

        def take_text(n: int) -> str:
            nonlocal at
            start, at = at, at + n
            return source[start:at]

        return take_text
    at = 3 if source.startswith(codecs.BOM_UTF8) else 0
    decode = codecs.getincrementaldecoder("utf-8")().decode
    view = memoryview(source)

    def take_bytes(n: int) -> str:
        nonlocal at
        while at < len(view):
            start, at = at, at + n
            text = decode(view[start:at], final=at >= len(view))
            if text:
                return text
        return ""

    return take_bytes


def _token_lists(take: Callable[[int], str]) -> Iterator[list[str]]:
    """All tokens, a list for each piece; the last token of a piece may be cut short and is read again with the next."""
    rest = ""
    step = _PIECE
    while True:
        piece = take(step)
        text = rest + piece
        tokens: list[str] = quick_token_pattern(text).findall(text)
        while tokens and not tokens[-1]:
            tokens.pop()
        if not piece:
            yield tokens
            return
        if not tokens:
            rest = ""
        elif len(tokens) == 1:  # a token longer than a piece, perhaps: the next piece is as long as all so far
            rest = text
            step = max(2 * step, len(text))
        else:
            last = tokens.pop()
            rest = text[text.rindex(last) :]
            step = _PIECE
            yield tokens


def _leaf(token: str, known: dict[str, Any]) -> Any:
    """The value or mark of a token that is not known yet, the commonest kinds first.

    A quarter of a memory file's tokens come once: times, identifiers, texts. They are not kept: the fewer tokens are
    known, the more of them stay in the processor's cache.
    """
    first = token[0]
    if first == '"':
        made: Any = token[1:-1] if len(token) > 1 and token[-1] == '"' and "\\" not in token else string(token)
    elif first in "123456789" and len(token) < SHORT_INTEGER and token.isdigit() and token.isascii():
        made = int(token)
    elif first == "#" and token[-1] == '"' and len(token) > 7 and token.startswith("#inst "):
        return instant(token[7:-1])
    elif PLAIN_FLOAT(token) is not None:
        return float(token)
    else:
        made = PARSERS.get(first, symbol)(token)
        if len(token) <= _KNOWN_NAME:
            known[token] = made
        return made
    if len(token) <= _KNOWN_VALUE:
        known[token] = made
    return made


def quick_values(take: Callable[[int], str], depth_limit: int) -> list[Any] | None:
    """All forms as values; None, or an exception of QUICK_FAULTS, where something is wrong.

    What a token stands for decides: most are values and are appended; brackets open and close; the rare prefixes run
    through `needs`. A tagged instant is one token here.
    """
    items: list[Any] = []
    append = items.append
    mark = TOP
    stack: list[tuple[list[Any], Mark]] = []
    known: dict[str, Any] = {**MARKS, **CONSTANTS}
    new = repeat(NEW)
    mark_class = Mark  # a local name: it is compared with once for each token
    for tokens in _token_lists(take):
        if len(known) > CACHED_TOKENS:
            known = {**MARKS, **CONSTANTS}
        for token, form in zip(tokens, map(known.get, tokens, new)):  # noqa: B905  the second has no end
            if form is NEW:
                form = _leaf(token, known)  # noqa: PLW2901  known or new, it is one form
            if form.__class__ is not mark_class:
                append(form)
                if not mark.needs:
                    continue
            elif form.closes:
                if mark.opens != form.text:
                    return None
                made = mark.quick(items)  # type: ignore[misc]
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
                continue  # a comment
            while mark.needs and len(items) == mark.needs:
                if mark is DISCARD:
                    items, mark = stack.pop()
                    append = items.append
                else:
                    made = mark.quick(items)  # type: ignore[misc]
                    items, mark = stack.pop()
                    append = items.append
                    append(made)
    return None if stack else items
