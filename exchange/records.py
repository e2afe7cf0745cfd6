"""Records - JSON, NDJSON and EDN maps - as a `Source`.

The keys of a map are its columns. nil says nothing, a list or set is several values, an object inside is an entity of its
own that the outer one refers to as a component. Types come from the values; a column of several types has none, and keeps
every value as it is. JSON text that is a string stays a string, whatever it looks like.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np

from datalog.render import edn_text
from exchange.files import decoded, read_file
from exchange.source import Column, Source, check_named, ident_of
from store.edn import Keyword, Map, Node, Set, Symbol, read_nodes
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["from_records", "read_edn_records", "read_json"]

_TYPES: Final[dict[type, str]] = {
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    Keyword: "keyword",
    Symbol: "symbol",
    datetime: "instant",
    UUID: "uuid",
    Decimal: "bigdec",
    bytes: "bytes",
}
_DEEPEST: Final = 50
_LONG_NUMBER: Final = re.compile(r"[0-9]{19}")


def read_json(path: Path, space: str, *, names: dict[str, str] | None = None, skip: Sequence[str] = ()) -> Source:
    """The objects of a JSON array, or of a file with one object a line.

    Raises:
        UserError: `import/json` with the line for what is no JSON, `import/record` for what is no object.
    """
    import orjson  # noqa: PLC0415 - for this format

    raw = read_file(path, "The file")
    text = decoded(raw, path)
    if not text.strip():
        raise UserError("import/empty", f"{path} is empty.", expected="an array of objects, or an object a line")
    lines: list[int] | None = None
    try:
        data = _loaded(text)
    except orjson.JSONDecodeError as whole:
        if text.lstrip()[:1] != "{":
            raise UserError(
                "import/json", f"{path}, line {whole.lineno}, column {whole.colno}: {whole.msg}.",
                expected="an array of objects, or an object a line",
            ) from whole  # fmt: skip
        data, lines = [], []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    data.append(_loaded(line))
                except orjson.JSONDecodeError as e:
                    raise UserError(
                        "import/json", f"{path}, line {number}, column {e.colno}: {e.msg}.", expected="an object a line"
                    ) from e
                lines.append(number)
    records = data if isinstance(data, list) else [data]

    def place(row: int) -> str:
        return f"{path}, line {lines[row]}" if lines is not None else f"{path}, object {row + 1}"

    return from_records(records, space, place, names or {}, skip, str(path))


def _loaded(text: str) -> Any:
    """What a JSON text says. orjson makes a float of an integer beyond 64 bits: a text that may hold one is read again."""
    import orjson  # noqa: PLC0415 - for this format

    data = orjson.loads(text)
    if not _LONG_NUMBER.search(text):
        return data
    try:
        return json.loads(text)
    except ValueError as e:
        raise orjson.JSONDecodeError("an integer has more than 4,300 digits", text, 0) from e


def read_edn_records(
    path: Path, space: str, *, names: dict[str, str] | None = None, skip: Sequence[str] = ()
) -> Source:
    """The maps of an EDN file: one after another, or in a vector.

    Raises:
        EdnError: with the place; UserError: `import/record` for what is no map.
    """
    text = decoded(read_file(path, "The file"), path)
    nodes = read_nodes(text, source=str(path))
    if len(nodes) == 1 and isinstance(nodes[0].value, list | tuple):
        nodes = [n for n in nodes[0].items if isinstance(n, Node)]
    if not nodes:
        raise UserError(
            "import/empty", f"{path} holds no maps.", expected="maps one after another, or a vector of maps"
        )
    starts = [n.start for n in nodes]

    def place(row: int) -> str:
        return f"{path}, line {text.count(chr(10), 0, starts[row]) + 1}"

    return from_records([n.value for n in nodes], space, place, names or {}, skip, str(path))


class _Growing:
    """A column while its values come in."""

    __slots__ = ("component", "entities", "ident", "local", "many", "name", "values")

    def __init__(self, name: str, ident: str) -> None:
        self.name, self.ident = name, ident
        self.entities: list[int] = []
        self.values: list[Any] = []
        self.many = self.local = self.component = False


def from_records(
    records: Sequence[Any],
    space: str,
    place: Callable[[int], str],
    names: Mapping[str, str],
    skip: Sequence[str] = (),
    where: str = "The table",
) -> Source:
    """The columns of maps.

    Raises:
        UserError: `import/record` for what is no map, and for a column that has objects and other values; `import/column` for
            a name in `names` or `skip` that no map has.
    """
    columns: dict[tuple[str, str], _Growing] = {}
    entities = len(records)
    # a keyword is named with its colon or without
    skipped = frozenset(map(_bare, skip))
    given = {_bare(name): ident for name, ident in names.items()}
    outer: dict[str, None] = {}  # the columns of the records themselves

    def column(key: Any, inside: str) -> _Growing:
        found = columns.get((inside, key))
        if found is None:
            name = str(key)
            ident = given.get(_bare(name)) if inside == space else None
            found = columns[inside, key] = _Growing(name, ident or ident_of(name, inside))
        return found

    def take(record: Any, number: int, inside: str, row: int, depth: int) -> None:
        nonlocal entities
        if depth > _DEEPEST:
            raise UserError("import/record", f"{place(row)}: objects are nested deeper than {_DEEPEST}.")
        for key, value in record.items():
            if depth == 0:
                bare = _bare(str(key))
                outer[bare] = None
                if bare in skipped:
                    continue
            if value is None:
                continue
            target = column(key, inside)
            items = value
            if isinstance(value, list | tuple | set | frozenset | Set):
                target.many = True
            else:
                items = (value,)
            for item in items:
                if item is None:
                    continue
                is_object = isinstance(item, dict | Map)
                if target.values and is_object != target.component:
                    raise UserError(
                        "import/record",
                        f"{place(row)}: {target.name} is {'an object' if is_object else 'a value'} here, and "
                        f"{'a value' if is_object else 'an object'} in a row before.",
                        hint=f"write one or the other in the file, or leave it out: --skip '{target.name}'",
                    )
                target.entities.append(number)
                if not is_object:
                    target.values.append(item)
                    continue
                target.component = target.local = True
                target.values.append(entities)
                entities += 1
                child = entities - 1
                take(item, child, f"{inside}.{target.ident.rpartition('/')[2]}", row, depth + 1)

    for row, record in enumerate(records):
        if not isinstance(record, dict | Map):
            shown = edn_text(record)
            raise UserError(
                "import/record",
                f"{place(row)}: {shown if len(shown) <= 60 else shown[:59] + '…'} is no object.",
                expected='objects such as {"name": "Ada", "age": 36}',
            )
        take(record, row, space, row, 0)
    check_named(list(outer), map(_bare, (*skip, *names)), where)
    notes: list[str] = []
    made = [_column(c, notes) for c in columns.values() if c.values]
    _check_idents(made, space)
    return Source(made, len(records), entities, place, notes)


def _bare(name: str) -> str:
    return name.removeprefix(":")


def _column(column: _Growing, notes: list[str]) -> Column:
    type_name, values = ("ref", np.array(column.values)) if column.local else _typed(column, notes)
    entities = np.array(column.entities, dtype=np.int64)
    return Column(column.name, column.ident, entities, values, type_name, column.many, column.component, column.local)


def _typed(column: _Growing, notes: list[str]) -> tuple[str, list[Any]]:
    values = column.values
    kinds = {type(v) for v in values}
    if kinds == {int} and not all(-(2**63) <= v < 2**63 for v in values):
        return "bigint", values
    if kinds == {int, float}:
        return "double", [float(v) for v in values]
    if kinds == {int, Decimal}:
        return "bigdec", [Decimal(v) for v in values]
    if len(kinds) == 1:
        found = _TYPES.get(next(iter(kinds)))
        if found is not None:
            return found, values
    if len(kinds) > 1:
        shown = ", ".join(sorted(_TYPES.get(k, k.__name__) for k in kinds))
        notes.append(f"{column.name} holds values of several types ({shown}): {column.ident} takes any value")
    return "any", values


def _check_idents(columns: list[Column], space: str) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        if column.ident in seen:
            raise UserError(
                "import/columns",
                f"The keys {seen[column.ident]!r} and {column.name!r} would both be the attribute {column.ident}.",
                hint=f"give one another name: --column '{column.name}=:{space}/other', or leave it out",
            )
        seen[column.ident] = column.name
