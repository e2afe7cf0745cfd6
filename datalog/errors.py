"""Errors of the language: how a place in a query text becomes part of a message.

The classes live in `store.errors`; here is the one way to raise them with a place. Codes used by this package are listed
in docs/errors.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store.edn import show_form
from store.errors import DatalogError, InternalError, PullError, QueryError, Span, nearest, span_at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datalog.ast import At

__all__ = [
    "DatalogError",
    "InternalError",
    "PullError",
    "QueryError",
    "did_you_mean",
    "names",
    "nearest",
    "query_error",
    "show",
    "span_of",
]


def span_of(text: str, at: At) -> Span | None:
    """The span of offsets into a text; None for a node that has no place."""
    start, end = at
    return span_at(text, start, max(end, start + 1)) if start >= 0 and text else None


def query_error(
    code: str, message: str, text: str, at: At, *, expected: str | None = None, hint: str | None = None
) -> QueryError:
    """The QueryError for a place in a query text."""
    span = span_of(text, at)
    return QueryError(code, message, expected=expected, hint=hint, span=span, source=text if span else None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """`did you mean :a/b?` for the nearest candidate, or None when nothing is near."""
    if name.startswith("?"):  # the mark says nothing about how near two names are
        near = nearest(name[1:], [c[1:] for c in candidates if c.startswith("?") and len(c) > 2])
        return None if near is None else f"did you mean ?{near}?"
    near = nearest(name, candidates)
    return None if near is None else f"did you mean {near}{'' if near.endswith('?') else '?'}"


def names(items: Iterable[str]) -> str:
    """Names in their order of appearance, once each, cut at twelve: `?a, ?b`."""
    unique = list(dict.fromkeys(items))
    shown = ", ".join(unique[:12])
    return f"{shown} and {len(unique) - 12} more" if len(unique) > 12 else shown or "nothing"


def show(value: Any) -> str:
    """A value as EDN cut at 80 characters; the Python repr, cut, of what is no EDN."""
    try:
        return show_form(value)
    except DatalogError:
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."


def counted(number: int, what: str) -> str:
    """`1 argument`, `2 arguments`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
