"""CSV and TSV files as a `Source`: columns of text, with the line of each row for messages.

RFC 4180: fields in quotes may hold delimiters, line breaks and doubled quotes. The first line has the names. An empty field
is no fact; a line without anything is no row.
"""

from __future__ import annotations

import csv
import io
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exchange.files import decoded, read_file
from exchange.source import Column, Source, check_named, unique_idents
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["read_csv"]

_DELIMITERS: Final = ",;\t|"


def read_csv(
    path: Path,
    space: str,
    *,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    missing: Sequence[str] = (),
    names: dict[str, str] | None = None,
    skip: Sequence[str] = (),
) -> Source:
    """The columns of a file, all of them text.

    Args:
        path: the file.
        space: the namespace of the attributes.
        encoding: of the file.
        delimiter: one character; None: the most frequent of , ; tab | in the first line.
        missing: texts that mean "no value", besides the empty one.
        names: column -> attribute, for those that are to have another than their name makes.
        skip: columns to leave out.

    Raises:
        UserError: `file/...`, `import/csv` for a malformed line, `import/ragged`, `import/columns`, `import/column`,
            `import/empty`.
    """
    text = decoded(read_file(path, "The table"), path, encoding)
    if not text.strip():
        raise UserError("import/empty", f"{path} is empty.", expected="a first line with the names of the columns")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError("import/csv", f"{path}, line {line}: there is a NUL character, so this is no text table.",
                        hint="check that it is a CSV file, and its --encoding (utf-16?)")  # fmt: skip
    separator = delimiter or _delimiter(text)
    rows = _rows(text, separator, path)
    head = [name.strip() for name in rows[0]]
    _check_head(head, path)
    body = rows[1:]
    _check_lengths(body, len(head), text, separator, path)
    columns = list(zip(*body, strict=True)) if body else [()] * len(head)
    del rows, body
    check_named(head, (*skip, *(names or ())), str(path))
    kept = [name for name in head if name not in skip]
    idents = unique_idents(kept, space, names or {}, str(path))
    everyone = np.arange(len(columns[0]), dtype=np.int64)
    made = [
        _column(name, idents[name], values, everyone, ("", *missing))
        for name, values in zip(head, columns, strict=True)
        if name in idents
    ]

    def place(row: int) -> str:
        return f"{path}, line {_line_of(text, separator, row + 1)}"

    return Source(made, len(everyone), len(everyone), place, [])


def _column(name: str, ident: str, values: Sequence[str], everyone: Any, missing: tuple[str, ...]) -> Column:
    if not any(text in values for text in missing):  # a quick look: most columns are full
        return Column(name, ident, everyone, values)
    absent = frozenset(missing)
    present = np.array([value not in absent for value in values], dtype=bool)
    return Column(name, ident, everyone[present], [value for value in values if value not in absent])


def _delimiter(text: str) -> str:
    first = text[: text.find("\n")] if "\n" in text else text
    outside = "".join(first.split('"')[::2])
    return max(_DELIMITERS, key=outside.count)


def _reader(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _rows(text: str, separator: str, path: Path) -> list[list[str]]:
    """All rows that are not empty."""
    limit = csv.field_size_limit(sys.maxsize)  # of the whole process: put back below
    reader = _reader(text, separator)
    try:
        return [row for row in reader if row]
    except csv.Error as e:
        raise UserError(
            "import/csv",
            f"{path}, line {reader.line_num}: {e}.",
            hint="a quote inside a quoted field is written twice; a field that begins with a quote ends with one",
            data={"line": reader.line_num},
        ) from e
    finally:
        csv.field_size_limit(limit)


def _check_head(head: list[str], path: Path) -> None:
    for i, name in enumerate(head):
        if not name:
            raise UserError(
                "import/columns", f"{path}: column {i + 1} has no name.", hint="name it in the first line of the file"
            )
        if name in head[:i]:
            raise UserError(
                "import/columns",
                f"{path}: the columns {head.index(name) + 1} and {i + 1} are both named {name!r}.",
                hint="give each column its own name in the first line",
            )


def _check_lengths(body: list[list[str]], width: int, text: str, separator: str, path: Path) -> None:
    wrong = next((i for i, row in enumerate(body) if len(row) != width), None)
    if wrong is None:
        return
    found = len(body[wrong])
    line = _line_of(text, separator, wrong + 1)
    raise UserError(
        "import/ragged",
        f"{path}, line {line}: {found} field{'' if found == 1 else 's'}, but the first line names {width} columns.",
        hint="a delimiter inside a field needs quotes around the field; or name another one: --delimiter ';'",
        data={"line": line},
    )


def _line_of(text: str, separator: str, row: int) -> int:
    """The line in which a row begins, the names being row 0; the text is read again up to there."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return _walked(_reader(text, separator), row)
    finally:
        csv.field_size_limit(limit)


def _walked(reader: Any, row: int) -> int:
    before, seen = 0, -1
    for fields in _or_end(reader):
        seen += bool(fields)
        if seen == row:
            return before + 1
        before = reader.line_num
    return before + 1


def _or_end(reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error:
        return
