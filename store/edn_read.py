r"""EDN text to values: one tokeniser, a short loop for values and a state machine that knows the places.

`read_edn` makes values only, by the loop of `edn_quick`; where that finds anything wrong, the state machine here
(`_Machine.run`, an explicit stack) reads again and says what and where. `read_node` makes a parallel tree of `Node`, which
keeps for each form where it stands.

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
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from store.edn_quick import pieces, quick_values
from store.edn_tokens import (
    DEPTH_LIMIT,
    DIGIT_LIMIT,
    DISCARD,
    LEAF_TAGS,
    META,
    QUICK_FAULTS,
    TOP,
    Fault,
    LeafFault,
    Leaves,
    Mark,
    cut,
    is_keyword,
    is_symbol,
    no_map,
    token_pattern,
    too_deep,
)
from store.errors import EdnError, Span, span_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

__all__ = [
    "DEPTH_LIMIT",
    "DIGIT_LIMIT",
    "Node",
    "is_keyword",
    "is_symbol",
    "read_all",
    "read_edn",
    "read_edn_file",
    "read_node",
    "read_nodes",
]

_CHUNK = 1 << 17  # characters tokenised at once
_PAUSE_GC_FROM = 1 << 16  # characters; below, the collector has hardly time to run
_SETTLE_FROM = 1 << 22  # characters; below, walking the values once costs little


class Node:
    """A form and where it stands: `text[start:end]`. Not to be changed.

    `items` are the nodes of a collection's members in the order of the text (of a map: key, value, key, value), or the
    one node of a tagged value. `source` names the text, for errors.
    """

    __slots__ = ("end", "items", "source", "start", "text", "value")

    def __init__(
        self, value: Any, start: int, end: int, items: tuple[Node, ...], text: str, source: str | None = None
    ) -> None:
        self.value = value
        self.start = start
        self.end = end
        self.items = items
        self.text = text
        self.source = source

    def __repr__(self) -> str:
        return f"Node({self.text[self.start : self.end]})"

    @property
    def span(self) -> Span:
        """The place of the form, with line and column."""
        return span_at(self.text, self.start, self.end)


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
            with _gc_paused(len(self.text)):
                found = quick_values(pieces(self.text), self.depth_limit)
            if found is not None:
                return found
        except QUICK_FAULTS:
            pass
        # something is wrong: read again, counting tokens, to say where
        self.chunks.clear()
        number = 0
        leaf = Leaves().__getitem__

        def stream() -> Iterator[Any]:
            nonlocal number
            for tokens in self._token_chunks():
                yield enumerate(map(leaf, tokens), number)
                number += len(tokens)

        with _gc_paused(len(self.text)):
            return self.run(stream(), None)

    def nodes(self, begin: int, *, shallow: bool = False) -> list[Any]:
        """All forms from the offset as nodes; `shallow` keeps no nodes below them."""
        leaf = Leaves().__getitem__
        text, source = self.text, self.source

        def stream() -> Iterator[tuple[int, Any]]:
            for match in token_pattern(text).finditer(text, begin):
                start, self.end = match.span(1)
                if start == self.end:
                    return
                try:
                    value = leaf(match[1])
                except LeafFault as fault:
                    raise self._error(fault, start, self.end) from None
                yield start, (value if value.__class__ is Mark else Node(value, start, self.end, (), text, source))

        def make(mark: Mark, items: list[Node], start: int) -> Node:
            assert mark.build is not None
            try:
                value = mark.build([node.value for node in items])
            except Fault as fault:
                if fault.index is not None and fault.index < len(items):
                    raise self._error(fault, items[fault.index].start, items[fault.index].end) from None
                raise self._error(fault, start, self.end) from None
            below = () if shallow else tuple(items)
            if mark is META:
                below = items[1].items
            elif mark.name == "namespaced map":
                below = tuple(
                    Node(key, node.start, node.end, node.items, text, source)
                    for node, key in zip(items[0].items, chain.from_iterable(value.pairs()), strict=False)
                )
            return Node(value, start, self.end, below, text, source)

        return self.run(iter([stream()]), make)

    def run(self, stream: Iterator[Any], make: Callable[[Mark, list[Any], int], Any] | None) -> list[Any]:
        """The state machine: runs of (place, value or mark) to forms.

        A place is a token's number when values are made and an offset when nodes are made.
        """
        mark_class = Mark  # a local name: it is compared with once for each token
        items: list[Any] = []
        append = items.append
        mark, opened_at, needs = TOP, -1, 0
        stack: list[tuple[list[Any], Mark, int]] = []
        depth_limit = self.depth_limit
        place = -1
        try:
            for run in stream:
                for place, form in run:
                    if form.__class__ is not mark_class:
                        append(form)
                        if not needs:
                            continue
                    elif form.opens is not None or form.needs:
                        if mark.name == "namespaced map" and form.text != "{":
                            raise no_map(mark.text)
                        stack.append((items, mark, opened_at))
                        if len(stack) > depth_limit + (form.text in LEAF_TAGS):
                            raise too_deep(depth_limit)
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
                        kept = mark is not DISCARD
                        if kept:
                            made = mark.build(items) if make is None else make(mark, items, opened_at)  # type: ignore[misc]
                        items, mark, opened_at = stack.pop()
                        append = items.append
                        needs = mark.needs
                        if kept:
                            append(made)
        except LeafFault as fault:
            raise self._located(fault, place + 1, -1, as_nodes=False) from None
        except Fault as fault:
            raise self._located(fault, place, opened_at, as_nodes=make is not None) from None
        if stack:
            raise self._unfinished(mark, opened_at, make is not None)
        return items

    def _token_chunks(self) -> Iterator[list[str]]:
        """All tokens, a chunk at a time; the last token of a chunk may be cut short and is read again."""
        text = self.text
        size, at, number = len(text), self.begin, 0
        step, find_all = _CHUNK, token_pattern(text).findall
        while at < size:
            stop = min(at + step, size)
            tokens: list[str] = find_all(text, at, stop)
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
        pattern = token_pattern(self.text)
        if as_nodes:
            match = pattern.match(self.text, place)
        else:
            first, at = next(chunk for chunk in reversed(self.chunks) if chunk[0] <= place)
            match = next(m for n, m in enumerate(pattern.finditer(self.text, at), first) if n == place)
        assert match is not None
        return match.span(1)

    def _located(self, fault: Fault, place: int, opened_at: int, as_nodes: bool) -> EdnError:
        if fault.index is not None and not as_nodes:
            # A member is at fault: read the collection again, with places.
            start, _ = self._span_of(opened_at, as_nodes)
            try:
                self.nodes(start, shallow=True)
            except EdnError as error:
                return error
        return self._error(fault, *self._span_of(place, as_nodes))

    def _error(self, fault: Fault, start: int, end: int) -> EdnError:
        if fault.at is not None:
            start, end = start + fault.at[0], start + fault.at[1]
        return self._edn_error(fault.code, fault.message, start, end, expected=fault.expected, hint=fault.hint)

    def _edn_error(self, code: str, message: str, start: int, end: int, **parts: str | None) -> EdnError:
        return EdnError(
            code, message, span=span_at(self.text, start, end), source=self.text, file=self.source,
            expected=parts.get("expected"), hint=parts.get("hint"),
        )  # fmt: skip

    def _mismatch(self, closer: Mark, mark: Mark, opened_at: int, as_nodes: bool) -> Fault:
        if mark is TOP:
            return Fault(
                "edn/unmatched", f"{closer.text} closes nothing.", hint="take it out, or open what it is to close."
            )
        start, end = self._span_of(opened_at, as_nodes)
        where = span_at(self.text, start, end)
        what = f"the {mark.name} opened at line {where.line}, column {where.column}"
        if mark.opens is None:
            what = f"the {mark.name} at line {where.line}, column {where.column}"
            message = f"{closer.text} stands where a form is needed: {what} has none."
            return Fault("edn/missing-form", message, expected="a form")
        return Fault("edn/unmatched", f"{closer.text} cannot close {what}.", expected=mark.opens)

    def _unfinished(self, mark: Mark, opened_at: int, as_nodes: bool) -> EdnError:
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
                "edn/trailing", f"The text goes on after its one form, with {cut(second.value)}.",
                second.start, second.end,
                hint="put the forms into a vector, or read them with read_all.",
            )  # fmt: skip
        return forms[0]


@contextmanager
def _gc_paused(size: int) -> Iterator[None]:
    """Without the cyclic collector, if the text is long: values make no cycles, and it would walk them again and again.

    After a very long text what was made joins the oldest generation at once (frozen and thawed, which only relinks
    lists): the next collections of young objects would walk hundreds of thousands of values for nothing, a fifth of the
    whole time of reading them.
    """
    if size < _PAUSE_GC_FROM or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if size >= _SETTLE_FROM and gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()
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


def read_edn_bytes(raw: bytes, *, depth_limit: int = DEPTH_LIMIT, source: str | None = None) -> Any:
    """Return the one form of UTF-8 bytes, as `read_edn` does of their text; bytes that are not UTF-8 are an EdnError."""
    try:
        with _gc_paused(len(raw)):
            forms = quick_values(pieces(raw), depth_limit)
        if forms is not None and len(forms) == 1:
            return forms[0]
    except QUICK_FAULTS:
        pass
    return read_edn(decoded(raw, source), depth_limit=depth_limit, source=source)  # to say what is wrong, and where


def decoded(raw: bytes, source: str | None = None) -> str:
    """The text of UTF-8 bytes; EdnError `edn/bad-encoding`, with the place, when they are none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise EdnError(
            "edn/bad-encoding",
            f"The file is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}, in line {line}, is none.",
            expected="UTF-8",
            hint="convert the file to UTF-8, or mend the damaged bytes.",
            data={"offset": error.start},
            file=source,
        ) from None


def read_edn_file(path: str | PathLike[str], *, depth_limit: int = DEPTH_LIMIT) -> Any:
    """Return the one form of a UTF-8 file. Errors name the file; bytes that are not UTF-8 are one, too."""
    with open(path, "rb") as file:  # noqa: PTH123  any path-like is taken
        raw = file.read()
    return read_edn_bytes(raw, depth_limit=depth_limit, source=str(path))
