r"""Regular expressions that cannot backtrack for ever: time grows with the text times the pattern, whatever either says.

Syntax: literals, `.`, classes `[a-z^]`, `\d \w \s \D \W \S \b \B`, groups `( )`, `(?: )`, `(?P<n> )`, alternatives `|`,
`* + ? {m,n}` and their lazy forms, anchors `^ $ \A \Z`, and the flags `(?i)`, `(?s)`, `(?m)` at the start. Back references
and look-around cannot be had in linear time and are refused. Python's parser of patterns is used, never its matcher.

The matcher is Pike's: all alternatives advance together, one character at a time, each with its own groups; the first in
priority wins (R. Cox, "Regular Expression Matching: the Virtual Machine Approach").
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

try:
    from re import _constants as constants
    from re import _parser as sre_parser
except ImportError:  # pragma: no cover - the names before Python 3.11
    import sre_constants as constants
    import sre_parse as sre_parser

import re

from datalog.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_STEPS = 20_000  # instructions of a compiled pattern
_MOST_REPEATS = 1_000


class Regex(Record):
    """A compiled pattern: instructions (op, argument, argument)."""

    pattern: str
    program: tuple[tuple[Any, ...], ...]
    groups: int
    literal: str  # what every match starts with, "" when that is not known


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Regex:
    """The compiled pattern.

    Raises:
        ValueError: the pattern is malformed, too large, or needs back references or look-around.
    """
    try:
        tree = sre_parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"malformed regular expression: {error}") from error
    flags = tree.state.flags
    compiler = _Compiler(
        ignore_case=bool(flags & re.IGNORECASE), dot_all=bool(flags & re.DOTALL), multiline=bool(flags & re.MULTILINE)
    )
    compiler.emit("save", 0)
    compiler.sequence(tree)
    compiler.emit("save", 1)
    compiler.emit("match")
    literal = "" if flags & re.IGNORECASE else _prefix(tree)
    return Regex(pattern, tuple(map(tuple, compiler.program)), tree.state.groups, literal)


def _prefix(tree: Any) -> str:
    """The literal that every match starts with."""
    found = []
    for op, argument in tree:
        if op is not constants.LITERAL:
            break
        found.append(chr(argument))
    return "".join(found)


class _Compiler:
    """Emits instructions: char test, split (first preferred), jump, save, assert, match."""

    def __init__(self, *, ignore_case: bool, dot_all: bool, multiline: bool) -> None:
        self.program: list[list[Any]] = []
        self.ignore_case = ignore_case
        self.dot_all = dot_all
        self.multiline = multiline

    def emit(self, *instruction: Any) -> int:
        if len(self.program) >= _MOST_STEPS:
            raise ValueError("the regular expression is too large")
        self.program.append(list(instruction))
        return len(self.program) - 1

    def sequence(self, tree: Any) -> None:
        for op, argument in tree:
            self.item(op, argument)

    def item(self, op: Any, argument: Any) -> None:
        if op is constants.LITERAL:
            self.emit("char", self.literal(argument))
        elif op is constants.NOT_LITERAL:
            literal = self.literal(argument)
            self.emit("char", lambda c: not literal(c))
        elif op is constants.ANY:
            self.emit("char", (lambda _c: True) if self.dot_all else (lambda c: c != "\n"))
        elif op is constants.IN:
            self.emit("char", self.charset(argument))
        elif op is constants.CATEGORY:
            self.emit("char", _CATEGORIES[argument])
        elif op is constants.AT:
            self.anchor(argument)
        elif op is constants.SUBPATTERN:
            group, _, _, inner = argument
            if group is not None:
                self.emit("save", 2 * group)
            self.sequence(inner)
            if group is not None:
                self.emit("save", 2 * group + 1)
        elif op is constants.BRANCH:
            self.branch(argument[1])
        elif op in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            self.repeat(*argument, lazy=op is constants.MIN_REPEAT)
        else:
            raise ValueError(f"a regular expression here cannot use {str(op).lower().replace('_', ' ')}")

    def literal(self, code: int) -> Callable[[str], bool]:
        character = chr(code)
        if self.ignore_case:
            folded = character.lower()
            return lambda c: c.lower() == folded
        return lambda c: c == character

    def charset(self, items: Any) -> Callable[[str], bool]:
        negate = bool(items) and items[0][0] is constants.NEGATE
        tests: list[Callable[[str], bool]] = []
        for op, argument in items[1:] if negate else items:
            if op is constants.LITERAL:
                tests.append(self.literal(argument))
            elif op is constants.RANGE:
                tests.append(self.interval(*argument))
            elif op is constants.CATEGORY:
                tests.append(_CATEGORIES[argument])
            else:
                raise ValueError("a regular expression here cannot use this class")
        return lambda c: any(t(c) for t in tests) is not negate

    def interval(self, low: int, high: int) -> Callable[[str], bool]:
        if self.ignore_case:
            return lambda c: (
                low <= ord(c) <= high
                or low <= ord(c.lower()) <= high
                or (len(c.upper()) == 1 and low <= ord(c.upper()) <= high)
            )
        return lambda c: low <= ord(c) <= high

    def anchor(self, where: Any) -> None:
        if where is constants.AT_BEGINNING:
            self.emit("assert", "line start" if self.multiline else "start")
        elif where is constants.AT_BEGINNING_STRING:
            self.emit("assert", "start")
        elif where is constants.AT_END:
            self.emit("assert", "line end" if self.multiline else "end or last newline")
        elif where is constants.AT_END_STRING:
            self.emit("assert", "end")
        elif where is constants.AT_BOUNDARY:
            self.emit("assert", "boundary")
        elif where is constants.AT_NON_BOUNDARY:
            self.emit("assert", "no boundary")
        else:
            raise ValueError("a regular expression here cannot use this anchor")

    def branch(self, branches: Any) -> None:
        ends = []
        for inner in branches[:-1]:
            split = self.emit("split", 0, 0)
            self.program[split][1] = len(self.program)
            self.sequence(inner)
            ends.append(self.emit("jump", 0))
            self.program[split][2] = len(self.program)
        self.sequence(branches[-1])
        for end in ends:
            self.program[end][1] = len(self.program)

    def repeat(self, least: int, most: Any, inner: Any, *, lazy: bool) -> None:
        unbounded = most is constants.MAXREPEAT
        if least > _MOST_REPEATS or (not unbounded and most > _MOST_REPEATS):
            raise ValueError(f"a regular expression repeats at most {_MOST_REPEATS} times")
        for _ in range(least):
            self.sequence(inner)
        if unbounded:
            split = self.emit("split", 0, 0)
            self.sequence(inner)
            self.emit("jump", split)
            self.fork(split, split + 1, len(self.program), lazy=lazy)
            return
        splits = []
        for _ in range(most - least):
            splits.append(self.emit("split", 0, 0))
            self.sequence(inner)
        for split in splits:
            self.fork(split, split + 1, len(self.program), lazy=lazy)

    def fork(self, split: int, go: int, leave: int, *, lazy: bool) -> None:
        self.program[split][1:] = [leave, go] if lazy else [go, leave]


def _is_word(c: str) -> bool:
    return c.isalnum() or c == "_"


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    constants.CATEGORY_DIGIT: str.isdecimal,
    constants.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    constants.CATEGORY_SPACE: str.isspace,
    constants.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    constants.CATEGORY_WORD: _is_word,
    constants.CATEGORY_NOT_WORD: lambda c: not _is_word(c),
}


def _holds(what: str, text: str, at: int) -> bool:
    if what == "start":
        return at == 0
    if what == "end":
        return at == len(text)
    if what == "end or last newline":
        return at == len(text) or (at == len(text) - 1 and text[at] == "\n")
    if what == "line start":
        return at == 0 or text[at - 1] == "\n"
    if what == "line end":
        return at == len(text) or text[at] == "\n"
    before = at > 0 and _is_word(text[at - 1])
    after = at < len(text) and _is_word(text[at])
    return (before != after) is (what == "boundary")


def _no_check(_size: int = 0) -> None:
    """The check that never raises."""


def _run(
    regex: Regex, text: str, start: int, check: Callable[[], None], *, anchored: bool, whole: bool
) -> tuple[int, ...] | None:
    """The places of the best match from `start` on: (start, end, start of group 1, ...), -1 for groups not reached."""
    program = regex.program
    width = 2 * regex.groups
    none = (-1,) * width
    best: tuple[int, ...] | None = None
    threads: list[tuple[int, tuple[int, ...]]] = []
    at = start
    length = len(text)
    while at <= length:
        if not at % 256:
            check()
        if best is None and (at == start or not anchored):
            if not threads and not anchored and regex.literal:
                at = text.find(regex.literal, at)
                if at < 0:
                    return None
            threads.append((0, none))
        elif not threads:
            break
        seen: set[int] = set()
        steps: list[tuple[int, tuple[int, ...]]] = []
        for origin, saved in threads:
            if _follow(program, origin, saved, text, at, seen, steps, whole=whole):
                break
        threads = []
        character = text[at] if at < length else None
        for pc, saved in steps:
            instruction = program[pc]
            if instruction[0] == "match":
                best = saved
                break
            if character is not None and instruction[1](character):
                threads.append((pc + 1, saved))
        at += 1
    return best


def _follow(
    program: tuple[tuple[Any, ...], ...],
    origin: int,
    saved: tuple[int, ...],
    text: str,
    at: int,
    seen: set[int],
    steps: list[tuple[int, tuple[int, ...]]],
    *,
    whole: bool,
) -> bool:
    """Add the character tests reachable from an instruction, in priority; True when a match cuts off what is less preferred."""
    pending = [(origin, saved)]
    while pending:
        pc, places = pending.pop()
        if pc in seen:
            continue
        seen.add(pc)
        instruction = program[pc]
        op = instruction[0]
        if op == "jump":
            pending.append((instruction[1], places))
        elif op == "split":
            pending.append((instruction[2], places))
            pending.append((instruction[1], places))
        elif op == "save":
            slot = instruction[1]
            pending.append((pc + 1, (*places[:slot], at, *places[slot + 1 :])))
        elif op == "assert":
            if _holds(instruction[1], text, at):
                pending.append((pc + 1, places))
        elif op == "match":
            if whole and at != len(text):
                continue
            steps.append((pc, places))
            return True
        else:
            steps.append((pc, places))
    return False


def _texts(text: str, places: tuple[int, ...]) -> tuple[str | None, ...]:
    return tuple(text[a:b] if a >= 0 and b >= 0 else None for a, b in zip(places[::2], places[1::2], strict=True))


def find(regex: Regex, text: str, check: Callable[[], None] = _no_check) -> tuple[str | None, ...] | None:
    """(match, group 1, ...) of the first match, or None."""
    places = _run(regex, text, 0, check, anchored=False, whole=False)
    return None if places is None else _texts(text, places)


def fullmatch(regex: Regex, text: str, check: Callable[[], None] = _no_check) -> tuple[str | None, ...] | None:
    """(match, group 1, ...) when the whole text matches, or None."""
    places = _run(regex, text, 0, check, anchored=True, whole=True)
    return None if places is None else _texts(text, places)


def _places(regex: Regex, text: str, check: Callable[[], None]) -> Iterator[tuple[int, ...]]:
    at = 0
    while at <= len(text):
        places = _run(regex, text, at, check, anchored=False, whole=False)
        if places is None:
            return
        yield places
        at = places[1] if places[1] > places[0] else places[1] + 1


def find_all(regex: Regex, text: str, check: Callable[[], None] = _no_check) -> list[tuple[str | None, ...]]:
    """(match, group 1, ...) of all matches that do not overlap."""
    return [_texts(text, p) for p in _places(regex, text, check)]


def split(regex: Regex, text: str, limit: int = 0, check: Callable[[], None] = _no_check) -> list[str]:
    """The parts between matches; at most `limit` parts when it is not 0."""
    parts: list[str] = []
    at = 0
    for places in _places(regex, text, check):
        if limit and len(parts) == limit - 1:
            break
        if places[1] == places[0] and places[0] in (0, len(text)):
            continue
        parts.append(text[at : places[0]])
        at = places[1]
    parts.append(text[at:])
    return parts


def replace(regex: Regex, text: str, new: str, check: Callable[..., None] = _no_check) -> str:
    """The text with every match replaced by a plain string; its size is told to `check` before it is made."""
    parts: list[str] = []
    at = 0
    for places in _places(regex, text, check):
        parts += [text[at : places[0]], new]
        at = places[1]
    check(len(text) + len(parts) // 2 * len(new))
    return "".join([*parts, text[at:]])
