"""Render: the rows of an answer as text, in one of six modes: table, json, ndjson, csv, edn, markdown.

Takes any answer of `q` (`answer_rows` gives its columns and rows), gives text, piece by piece; nothing is printed here. Modes
for people (table, markdown) show values as EDN and never write a control character to a terminal; a table cuts its cells to
a width. Modes for programs (json, ndjson, csv, edn) cut nothing: JSON has what JSON can say and the rest as EDN text, CSV
(RFC 4180) has strings as they are and other values as EDN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from store.edn import Keyword, List, Map, Set, Symbol, Tagged, Vector, write_edn
from store.errors import EdnError, cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Row = Sequence[Any]

__all__ = ["MODES", "answer_rows", "as_csv", "as_edn", "as_json", "as_markdown", "as_ndjson", "as_table", "cells", "cut",
           "edn_text", "json_text", "keyed", "plain", "render", "text_table"]  # fmt: skip

WIDEST: Final = 60  # cells of a table's column where no width is given
_LEAST: Final = 4  # cells a column keeps when a table is made to fit
_GAP: Final = 2
_MANY: Final = 10_000  # rows turned into text at a time


def answer_rows(answer: Any) -> tuple[list[str], Sequence[Row]]:
    """(column names, rows) of an answer of any find spec; a scalar without an answer has no rows."""
    from datalog.result import Result  # noqa: PLC0415 - numpy, which writing help does not need

    if isinstance(answer, Result):
        return list(answer.columns), answer
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        names = list(dict.fromkeys(k for row in answer for k in row))
        return [str(k) for k in names], [tuple(row.get(k) for k in names) for row in answer]
    if isinstance(answer, list):
        return ["value"], [(value,) for value in answer]
    if isinstance(answer, tuple):
        return [str(i) for i in range(len(answer))], [answer]
    return ["value"], [] if answer is None else [(answer,)]


def edn_text(value: Any) -> str:
    """The value as EDN text, whatever it is: bytes as #base64, what a function of the program returned as its repr."""
    kind = type(value)
    if kind is int:  # most cells of large answers
        return str(value)
    if kind in _PULLED:
        value = keyed(value)
    try:
        return write_edn(value)
    except EdnError:
        return write_edn(_writable(value))


_PULLED: Final = (dict, list)


def keyed(value: Any) -> Any:
    """What a pull gives, with its keys as the keywords they stand for: {":person/name": ...} is {:person/name ...}."""
    if type(value) is dict:
        return {Keyword(k) if type(k) is str and len(k) > 1 and k[0] == ":" else k: keyed(v) for k, v in value.items()}
    return list(map(keyed, value)) if type(value) is list else value


def _writable(value: Any) -> Any:
    """The same with members that EDN cannot write replaced."""
    if isinstance(value, bytes):
        from base64 import b64encode  # noqa: PLC0415 - few values are bytes

        return Tagged(Symbol("base64"), b64encode(value).decode())
    if isinstance(value, dict | Map):
        return Map((_writable(k), _writable(v)) for k, v in value.items())
    if isinstance(value, set | frozenset | Set):
        return Set(map(_writable, value))
    if isinstance(value, tuple | list):
        return (List if isinstance(value, List) else Vector)(map(_writable, value))
    try:
        write_edn(value)
    except EdnError:
        return repr(value)
    return value


def render(mode: str, columns: Sequence[str], rows: Sequence[Row], width: int | None = None) -> Iterator[str]:
    """The text of rows in a mode of `MODES`, piece by piece; `width` is for tables."""
    if mode == "table":
        return as_table(columns, rows, width)
    return MODES[mode](columns, rows)


# people --------------------------------------------------------------------------------------------------------------


def as_table(columns: Sequence[str], rows: Sequence[Row], width: int | None = None) -> Iterator[str]:
    """The rows as a `text_table`: values as EDN, columns of numbers to the right."""
    right = [bool(rows) and all(type(row[i]) in _NUMBERS for row in rows) for i in range(len(columns))]
    return text_table(columns, [[edn_text(v) for v in row] for row in rows], right, width)


def text_table(
    heads: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[bool], width: int | None = None
) -> Iterator[str]:
    """Aligned columns of texts. With a `width` the table fits it; without one cells are cut at 60.

    When even narrow columns do not fit, the last ones are left out, and a line says how many.
    """
    shown = [[plain(text) for text in line] for line in lines]
    heads = [plain(c) for c in heads]
    widths = [max(map(cells, column)) for column in zip(heads, *shown, strict=True)] if heads else []
    if width is None:
        widths, left_out = [min(w, WIDEST) for w in widths], 0
    else:
        widths, left_out = fit(widths, width)
    n = len(widths)

    def joined(parts: Iterable[str]) -> str:
        padded = (aligned(p, w, right=r) for p, w, r in zip(parts, widths, right, strict=False))
        return (" " * _GAP).join(padded).rstrip() + "\n"

    yield joined(heads[:n])
    yield (" " * _GAP).join("-" * w for w in widths) + "\n"
    for line in shown:
        yield joined(line[:n])
    if left_out:
        yield f"({left_out} more column{'' if left_out == 1 else 's'}: widen the terminal, or ask for fewer)\n"


def fit(widths: list[int], width: int) -> tuple[list[int], int]:
    """The widths made to fit `width` cells, the widest first made narrower; and how many columns had to be left out."""
    kept = list(widths)
    while len(kept) > 1 and sum(min(w, _LEAST) for w in kept) + _GAP * (len(kept) - 1) > width:
        kept.pop()
    room = max(width - _GAP * (len(kept) - 1), _LEAST)
    if sum(kept) > room:
        level, rest = 0, room  # the common width that the wide columns are cut to: narrow ones keep theirs
        for i, w in enumerate(sorted(kept)):
            level = rest // (len(kept) - i)
            if w > level:
                break
            rest -= w
        kept = [min(w, max(level, 1)) for w in kept]
    return kept, len(widths) - len(kept)


def as_markdown(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table, numbers to the right."""
    right = [bool(rows) and all(type(row[i]) in _NUMBERS for row in rows) for i in range(len(columns))]
    yield "| " + " | ".join(map(_escaped, columns)) + " |\n"
    yield "|" + "|".join("---:" if r else "---" for r in right) + "|\n"
    for row in rows:
        yield "| " + " | ".join(_escaped(v if isinstance(v, str) else edn_text(v)) for v in row) + " |\n"


_NUMBERS: Final = (int, float)


def _escaped(text: str) -> str:
    return plain(text.replace("\n", "<br>")).replace("\\", "\\\\").replace("|", "\\|")


def plain(text: str) -> str:
    """The text with characters that would move the cursor or switch the terminal shown as a dot."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)


def cut(text: str, width: int) -> str:
    """The text in at most `width` cells; an ellipsis stands for what was cut."""
    if cells(text) <= width:
        return text
    taken, room = [], width - 1
    for c in text:
        room -= cells(c)
        if room < 0:
            break
        taken.append(c)
    return "".join(taken) + "…"


def aligned(text: str, width: int, *, right: bool = False) -> str:
    """The text cut and padded to exactly `width` cells."""
    text = cut(text, width)
    padding = " " * (width - cells(text))
    return padding + text if right else text + padding


# programs ------------------------------------------------------------------------------------------------------------


def as_edn(_: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """One vector a line."""
    for row in rows:
        yield edn_text(tuple(row)) + "\n"


def as_csv(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """RFC 4180 with a head line; strings as they are, nil as nothing, other values as EDN."""
    import csv  # noqa: PLC0415 - for one mode
    from io import StringIO  # noqa: PLC0415 - the same

    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for start in range(0, len(rows), _MANY):
        writer.writerows(
            [v if type(v) is str else "" if v is None else edn_text(v) for v in row]
            for row in rows[start : start + _MANY]
        )
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def as_json(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """An array of objects."""
    yield json_text([dict(zip(columns, row, strict=True)) for row in rows]) + "\n"


def as_ndjson(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """One object a line."""
    for row in rows:
        yield json_text(dict(zip(columns, row, strict=True)), indent=False) + "\n"


def json_text(data: Any, *, indent: bool = True) -> str:
    """What JSON can say as JSON, the rest as EDN text: for programs that look, not for keeping."""
    import orjson  # noqa: PLC0415 - for one mode

    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
    try:
        return orjson.dumps(data, default=_jsonable, option=options | (orjson.OPT_INDENT_2 if indent else 0)).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, a lone surrogate, a key that is no text
        return orjson.dumps(_spelt(data), option=options | (orjson.OPT_INDENT_2 if indent else 0)).decode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k if isinstance(k, str) else edn_text(k): v for k, v in value.items()}
    if isinstance(value, tuple | set | frozenset | list):
        return list(value)
    return edn_text(value)


def _spelt(value: Any) -> Any:
    """The same with every value that JSON has no word for as EDN text."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else edn_text(k): _spelt(v) for k, v in value.items()}
    if isinstance(value, tuple | set | frozenset | list):
        return [_spelt(v) for v in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else edn_text(value)


#: name -> function (columns, rows) -> pieces of text
MODES: Final[dict[str, Callable[[Sequence[str], Sequence[Row]], Iterator[str]]]] = {
    "table": as_table,
    "json": as_json,
    "ndjson": as_ndjson,
    "csv": as_csv,
    "edn": as_edn,
    "markdown": as_markdown,
}
