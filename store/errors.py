"""The errors of every part, and the one place that draws a caret.

Three families: `UserError` (mend your input), `StorageError` (mend the machine; `retryable` says whether trying again
can help) and `InternalError` (our bug). Each error has a code `area/what`, says what the user wrote, what was expected
and how to mend it. Nothing here knows EDN, datoms or queries: values are printed by `store.edn.show_form`.

The text of an error, each part but the first optional::

    QueryError [query/unbound-variable]: (> ?age 18) needs ?age, which no clause binds.
      line 4, column 13
        |         [(> ?age 18)]]
        |             ^^^^
      Bound here: ?e, ?name.
      Expected: a clause that binds ?age.
      Mend: add a clause such as [?e :person/age ?age], or pass ?age through :in.

The first line of `message` follows the code; its further lines stand below the carets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DatalogError",
    "EdnError",
    "ForkedConnection",
    "InternalError",
    "KeyMapError",
    "PullError",
    "QueryError",
    "SchemaError",
    "Span",
    "StorageError",
    "StoreClosed",
    "StoreCorrupt",
    "StoreFull",
    "StoreLocked",
    "TransactionError",
    "UserError",
    "cells",
    "nearest",
    "span_at",
]

_SHOWN_WIDTH = 100  # characters of a source line that are shown
_LEAD = 30  # of them before the span, when the line has to be cut
_CLOSE_ENOUGH = 0.6  # difflib's ratio from which a name is worth suggesting


class Span(NamedTuple):
    """A part of a text: line and column of its first character, from 1; `start` and `end` are offsets from 0."""

    line: int
    column: int
    start: int
    end: int


def span_at(text: str, start: int, end: int) -> Span:
    r"""Return the span of `text[start:end]`; a line ends at `\n`, and columns count code points.

    >>> span_at("a\nbc", 3, 4)
    Span(line=2, column=2, start=3, end=4)
    """
    line_start = text.rfind("\n", 0, start) + 1
    return Span(text.count("\n", 0, start) + 1, start - line_start + 1, start, end)


class DatalogError(Exception):
    """What all errors of the library derive from.

    Args:
        code: `area/what`, stable, for programs.
        message: what the user wrote and what is wrong with it; further lines are printed below the carets.
        expected: what would have been accepted, printed as `Expected: ...`.
        hint: how to mend it, printed as `Mend: ...`.
        span: where in `source`.
        source: the text that `span` points into.
        data: what a program may want to know, by name.
        file: the name of the file that `source` was read from.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        expected: str | None = None,
        hint: str | None = None,
        span: Span | None = None,
        source: str | None = None,
        data: Mapping[str, Any] | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.expected = expected
        self.hint = hint
        self.span = span
        self.source = source
        self.data: Mapping[str, Any] = {} if data is None else data
        self.file = file

    def __str__(self) -> str:
        first, *further = self.message.split("\n")
        lines = [f"{type(self).__name__} [{self.code}]: {first}"]
        if self.span is not None:
            of_file = f" of {self.file}" if self.file else ""
            lines.append(f"  line {self.span.line}, column {self.span.column}{of_file}")
            if self.source is not None:
                lines += _drawn(self.source, self.span)
        elif self.file:
            lines.append(f"  file {self.file}")
        lines += [f"  {line}" for line in further]
        if self.expected:
            lines.append(f"  Expected: {self.expected}")
        if self.hint:
            lines.append(f"  Mend: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Callable[..., DatalogError], tuple[Any, ...]]:
        # Exception's own __reduce__ calls the class with args only and would lose nothing today, but subclasses
        # add keyword arguments: the state is carried whole instead.
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(cls: type[DatalogError], args: tuple[Any, ...], state: dict[str, Any]) -> DatalogError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UserError(DatalogError):
    """The input has to be mended."""


class QueryError(UserError):
    """A query, a rule or an input of a query is wrong."""


class SchemaError(UserError):
    """A schema or a schema change is wrong."""


class TransactionError(UserError):
    """Transaction data is wrong, or a constraint refuses it."""


class PullError(UserError):
    """A pull pattern is wrong."""


class KeyMapError(UserError):
    """A key mapping is wrong, or a key or value does not fit it."""


class EdnError(UserError):
    """A text is not EDN, or a value cannot be written as EDN."""


class StorageError(DatalogError):
    """The machine has to be mended; `retryable` says whether the same call may succeed later as it is."""

    retryable: bool = False

    def __init__(self, code: str, message: str, *, retryable: bool | None = None, **parts: Any) -> None:
        super().__init__(code, message, **parts)
        if retryable is not None:
            self.retryable = retryable


class StoreFull(StorageError):  # noqa: N818  the names of this family are public and say what is the matter
    """The map or the disk has no room left."""


class StoreLocked(StorageError):  # noqa: N818
    """Another process or connection holds what is needed."""


class StoreCorrupt(StorageError):  # noqa: N818
    """Stored bytes are not what was written."""


class StoreClosed(StorageError):  # noqa: N818
    """The connection or the database value was closed."""


class ForkedConnection(StorageError):  # noqa: N818
    """The connection belongs to the parent process."""


class InternalError(DatalogError):
    """A bug in this library: the text asks for a report."""

    def __init__(self, code: str, message: str, *, hint: str | None = None, **parts: Any) -> None:
        asks = hint or "this is a bug in datalog-lmdb; please report it with this text."
        super().__init__(code, message, hint=asks, **parts)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name`, or None when none is close; for "did you mean".

    >>> nearest(":person/nmae", [":person/name", ":person/age"])
    ':person/name'
    """
    known = list(dict.fromkeys(candidates))
    folded = name.casefold()
    for candidate in known:
        if candidate.casefold() == folded and candidate != name:
            return candidate
    import difflib  # noqa: PLC0415 - for messages only

    found = difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE_ENOUGH)
    return found[0] if found else None


def _drawn(source: str, span: Span) -> list[str]:
    """The source line of the span and the carets below it, cut to width, one cell of caret for one cell of text."""
    line_start = span.start - span.column + 1
    line_end = source.find("\n", span.start)
    line_end = len(source) if line_end < 0 else line_end
    if line_end > line_start and source[line_end - 1 : line_end] == "\r":
        line_end -= 1
    low, high = line_start, line_end
    if line_end - line_start > _SHOWN_WIDTH:
        low = max(line_start, min(span.start - _LEAD, line_end - _SHOWN_WIDTH))
        high = min(line_end, low + _SHOWN_WIDTH)
    marked_from = max(min(span.start, high), low)
    marked_to = max(min(span.end, high), marked_from)
    before, marked = _shown(source[low:marked_from]), _shown(source[marked_from:marked_to])
    after = _shown(source[marked_to:high])
    head, tail = ("…" if low > line_start else ""), ("…" if high < line_end else "")
    carets = " " * (len(head) + cells(before)) + "^" * max(1, cells(marked))
    return [f"    | {head}{before}{marked}{after}{tail}".rstrip(), f"    | {carets}"]


def _shown(text: str) -> str:
    """The text with tabs as one blank and what a terminal cannot or should not show as a dot."""
    return "".join(" " if c.isspace() else c if c.isprintable() else "·" for c in text)


def cells(text: str) -> int:
    """How many terminal cells a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415 - most texts are ASCII

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
