"""Scan: what stands where in a text that somebody is typing. EDN that is not finished, or wrong, is scanned, too.

Takes text, gives tokens with their places; from them whether an entry is complete, where its forms and commands end, how far
the next line is to be indented, and the words for completion and colours. The reader of `store.edn` decides what a text
means; this module only helps to type it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Token", "form_end", "indent_of", "is_complete", "open_brackets", "statements", "tokens"]

_TOKEN: Final = re.compile(
    r"""(?P<space>[\s,]+)
      | (?P<comment>;[^\n]*|\#![^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*"?)
      | (?P<char>\\(?:[^\s\[\](){}"',;]+|.)?)
      | (?P<open>\#\{|[\[({])
      | (?P<close>[\])}])
      | (?P<tag>\#_|\#[^\s\[\](){}",;]*|\^)
      | (?P<keyword>:[^\s\[\](){}",;]*)
      | (?P<variable>[?%$][^\s\[\](){}",;]*)
      | (?P<number>[+-]?[0-9][^\s\[\](){}",;]*)
      | (?P<symbol>[^\s\[\](){}",;]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS: Final = {"]": "[", ")": "(", "}": "{"}


class Token(NamedTuple):
    """A piece of text: `kind` is the name of a group of the pattern above."""

    kind: str
    text: str
    start: int
    end: int


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens of a text from an offset on; together they are the text."""
    for found in _TOKEN.finditer(text, start):
        assert found.lastgroup is not None
        yield Token(found.lastgroup, found.group(), found.start(), found.end())


def open_brackets(text: str) -> list[Token]:
    """The brackets that nothing closes yet, the innermost last."""
    stack: list[Token] = []
    for token in tokens(text):
        if token.kind == "open":
            stack.append(token)
        elif token.kind == "close" and stack:
            stack.pop()
    return stack


def is_complete(text: str) -> bool:
    """Whether nothing is open: no bracket, no string. A bracket that closes nothing is complete, too: it is an error."""
    depth = 0
    for token in tokens(text):
        if token.kind == "open":
            depth += 1
        elif token.kind == "close":
            depth -= 1
            if depth < 0:
                return True
        elif token.kind == "string" and not _is_closed(token.text):
            return False
    return depth == 0


def _is_closed(string: str) -> bool:
    return (
        len(string) > 1 and string.endswith('"') and re.fullmatch(r'"(?:[^"\\]|\\.)*"', string, re.DOTALL) is not None
    )


def indent_of(text: str) -> int:
    """How many blanks the line after this text begins with: below the first member of what is open."""
    stack = open_brackets(text)
    if not stack:
        return 0
    bracket = stack[-1]
    line_start = text.rfind("\n", 0, bracket.start) + 1
    return bracket.end - line_start


def form_end(text: str, start: int) -> int:
    """The end of the form that begins at an offset: of its closing bracket, or of its token."""
    depth = 0
    for token in tokens(text, start):
        if token.kind == "open":
            depth += 1
        elif token.kind == "close":
            depth -= 1
        elif token.kind in ("space", "comment", "tag"):
            continue
        if depth <= 0:
            return token.end
    return len(text)


def statements(text: str) -> Iterator[tuple[int, int]]:
    """The places of dot commands and forms in a text, one after another.

    A dot command begins a line and ends with it, or, when brackets are open, with the line that closes them.
    """
    at = 0
    while True:
        while at < len(text):
            token = next(tokens(text, at))
            if token.kind not in ("space", "comment"):
                break
            at = token.end
        if at >= len(text):
            return
        if text[at] == "." and not text[text.rfind("\n", 0, at) + 1 : at].strip():
            end = _command_end(text, at)
        else:
            end = form_end(text, at)
        yield at, end
        at = end


def _command_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    while end >= 0:
        if is_complete(text[start:end]):
            return end
        end = text.find("\n", end + 1)
    return len(text)
