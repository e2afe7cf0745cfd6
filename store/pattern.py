"""Patterns: regular expressions that are compiled when they are first used.

Compiling one takes up to 2 ms, and a module may name many of which one text needs few. After the first use the methods of a
`Pattern` are those of the compiled one; looking one up still takes 30 to 50 ns more on Python 3.11, so what is matched for
each of a million tokens is compiled at once instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Method:
    """A method of the compiled pattern, until it is asked for: then the pattern has its own, which is found at once."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, pattern: Any, _: type) -> Any:
        if pattern is None:
            return self
        method = getattr(re.compile(pattern.text, pattern.flags), self._name)
        pattern.__dict__[self._name] = method
        return method


class Pattern:
    """A regular expression by its text. Two threads may compile it at once: each puts a method of the same in place."""

    if TYPE_CHECKING:
        findall: Callable[..., list[Any]]
        finditer: Callable[..., Iterator[re.Match[str]]]
        match: Callable[..., re.Match[str] | None]
        search: Callable[..., re.Match[str] | None]
        sub: Callable[..., str]
    else:
        findall = _Method()
        finditer = _Method()
        match = _Method()
        search = _Method()
        sub = _Method()

    def __init__(self, text: str, flags: int = 0) -> None:
        self.text = text
        self.flags = flags
