"""Importing: a `Source` becomes attributes and facts of a database, in one transaction.

    read_source (by the file's name) -> plan_import (types, schema: shown before anything is written) -> run_import

A column takes the type of its attribute when the database has it, the type given for it, or the one that all its values
have. Everything is written by columns in one transaction: a file is in the database or it is not. Rows are new entities,
save those whose key - a column made `:db.unique/identity` - is there already: these are brought up to date.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exchange.csv_files import read_csv
from exchange.parquet_files import read_arrow
from exchange.records import read_edn_records, read_json
from exchange.source import check_named, ident_of
from exchange.types import TYPES, convert, infer
from store.composition import quiet_collector
from store.edn import Keyword, read_edn, strict_key
from store.errors import EdnError, UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from datalog import Connection, Db, TxReport
    from exchange.source import Column, Source

__all__ = ["FORMATS", "ImportPlan", "default_space", "format_of", "plan_import", "read_source", "run_import"]

#: format -> suffixes of file names
FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "csv": (".csv", ".tsv", ".txt"),
    "json": (".json",),
    "ndjson": (".ndjson", ".jsonl"),
    "edn": (".edn",),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
}
_MANY: Final = Keyword("db.cardinality/many")
_ONE: Final = Keyword("db.cardinality/one")


def format_of(path: Path, given: str | None = None) -> str:
    """The format of a file: the one given, or by its name, `.gz` aside.

    Raises:
        UserError: `import/format` for a name that tells none.
    """
    if given is not None:
        return given
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    for name, suffixes in FORMATS.items():
        if suffix in suffixes:
            return name
    raise UserError(
        "import/format", f"The name {path.name} does not tell the format of the file.",
        hint=f"name it: --format {' | '.join(FORMATS)}",
    )  # fmt: skip


def read_source(
    path: Path,
    space: str | None = None,
    *,
    form: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    missing: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
) -> Source:
    """The columns of a file; `space` is the namespace of its attributes, by default the file's name.

    Raises:
        UserError: `file/...`, `import/...`, with the place in the file.
    """
    with quiet_collector():
        return _read(path, space, form, encoding, delimiter, missing, names, skip)


def _read(
    path: Path,
    space: str | None,
    form: str | None,
    encoding: str,
    delimiter: str | None,
    missing: Sequence[str],
    names: Mapping[str, str] | None,
    skip: Sequence[str],
) -> Source:
    kind = format_of(path, form)
    inside = default_space(path) if space is None else _checked_space(space)
    given = {column: ident_of(ident, inside) for column, ident in (names or {}).items()}
    if kind == "csv":
        tab = "\t" if path.suffix.lower() == ".tsv" else None
        return read_csv(
            path, inside, encoding=encoding, delimiter=delimiter or tab, missing=missing, names=given, skip=skip
        )
    if kind in ("json", "ndjson"):
        return read_json(path, inside, names=given, skip=skip)
    if kind == "edn":
        return read_edn_records(path, inside, names=given, skip=skip)
    return read_arrow(path, inside, kind, names=given, skip=skip)


def default_space(path: Path) -> str:
    """The namespace that a file's name gives: "people" for data/People.csv.gz."""
    stem = path.with_suffix("").stem if path.suffix == ".gz" else path.stem
    return ident_of(stem, "x").rpartition("/")[2]


def _checked_space(space: str) -> str:
    name = space.removeprefix(":")
    try:
        read_edn(f":{name}/x")
    except EdnError as e:
        raise UserError(
            "import/namespace", f"{space!r} cannot be the namespace of attributes.", expected="a name such as person"
        ) from e
    return name


@dataclass(slots=True)
class ImportPlan:
    """What an import will do: `schema` is what it declares, `columns` are typed, `notes` is what a reader should know."""

    source: Source
    columns: list[Column]
    schema: dict[str, dict[str, Any]]
    key: Column | None
    notes: list[str]

    @property
    def facts(self) -> int:
        """How many facts the file has."""
        return sum(len(c.entities) for c in self.columns)


def plan_import(
    db: Db, source: Source, *, types: Mapping[str, str] | None = None, key: str | None = None
) -> ImportPlan:
    """The plan of an import into a database: the type of every column, and the schema to be declared.

    Args:
        db: the database as it is.
        source: what the file holds.
        types: column -> type, instead of the inferred one.
        key: the column whose value tells which entity a row is.

    Raises:
        UserError: `import/column`, `import/type` for a name that there is not, `import/value` for a cell that is no value of
            its column's type, with its place, `import/key` for a key that is missing in a row or stands in two.
    """
    with quiet_collector():
        return _planned(db, source, dict(types or {}), key)


def _planned(db: Db, source: Source, wanted: dict[str, str], key: str | None) -> ImportPlan:
    wanted = {_column_name(source, name): type_name for name, type_name in wanted.items()}
    key = None if key is None else _column_name(source, key)
    _check_names(source, wanted, key)
    notes = list(source.notes)
    schema: dict[str, dict[str, Any]] = {}
    known = db.schema
    keyed = None
    for column in source.columns:
        declared = known.get(column.ident)
        type_name = wanted.get(column.name)
        if declared is not None and ":db/valueType" in declared:
            type_name = str(declared[":db/valueType"]).rpartition("/")[2]
        _type_column(column, type_name, source, notes)
        is_key = column.name == key
        if is_key:
            keyed = column
            _check_key(column, source)
        if declared is None:
            schema[column.ident] = _properties(column, unique=is_key)
        elif is_key and ":db/unique" not in declared:
            schema[column.ident] = {":db/unique": Keyword("db.unique/identity")}
        if declared is not None and column.many and str(declared.get(":db/cardinality")) != str(_MANY):
            notes.append(
                f"{column.name} has several values in a row; {column.ident} holds one: it becomes :db.cardinality/many"
            )
            schema.setdefault(column.ident, {})[":db/cardinality"] = _MANY
    return ImportPlan(source, source.columns, schema, keyed, notes)


def _column_name(source: Source, name: str) -> str:
    """The column that is meant: by its name, or by that of its attribute, `title` or `:books/title` for `Title`."""
    if any(c.name == name for c in source.columns):
        return name
    meant = [c.name for c in source.columns if name.removeprefix(":") in (c.ident[1:], c.ident.rpartition("/")[2])]
    return meant[0] if len(meant) == 1 else name


def _check_names(source: Source, types: Mapping[str, str], key: str | None) -> None:
    check_named([c.name for c in source.columns], (*types, *([key] if key else [])), "The table")
    for name, type_name in types.items():
        if type_name not in TYPES:
            close = nearest(type_name, TYPES)
            raise UserError(
                "import/type",
                f"{name}: there is no type {type_name!r}." + (f" Did you mean {close}?" if close else ""),
                expected=", ".join(TYPES),
            )


def _type_column(column: Column, type_name: str | None, source: Source, notes: list[str]) -> None:
    """Give a column its type and values."""
    if column.local:
        return
    if type_name is not None and type_name != column.type:
        column.values = _converted(column, type_name, source)
        column.type = type_name
    elif column.type is None:
        if len(column.values) == 0:
            column.type = "string"
            return
        found = infer(column.values)
        column.type, column.values = found.type, found.values
        if found.spoilt is not None:
            other, at = found.spoilt
            row = int(column.entities[at])
            text = found.values[at]
            shown = repr(text) if len(text) <= 40 else repr(text[:39] + "…")
            notes.append(f"{column.name} is text, because of {shown} in {source.place(row)}: most of it is {other}")


def _converted(column: Column, type_name: str, source: Source) -> Any:
    values = column.values
    if isinstance(values, np.ndarray):
        if type_name == "double" and values.dtype.kind in "iu":
            return values.astype(np.float64)
        if type_name == "ref" and values.dtype.kind in "iu":
            return values
        values = values.tolist() if values.dtype.kind != "M" else values
        if not isinstance(values, list):
            return values
    if type_name in ("any", "tuple"):
        return values
    if type_name == "double" and column.type == "long":
        return [float(v) for v in values]
    if type_name == "bigint" and column.type == "long":
        return values
    try:
        return convert(values, type_name)
    except UserError as e:
        at = int((e.data or {})["row"])
        row = int(column.entities[at])
        place = source.place(row) if row < source.rows else "an object inside"
        raise UserError(
            e.code,
            f"{place}, column {column.name}: {e.message}",
            expected=e.expected,
            hint=f"mend the cell, say what means no value (--null), or take the column as text: --type '{column.name}=string'",
            data={"row": row, "column": column.name},
        ) from e


def _check_key(column: Column, source: Source) -> None:
    if len(column.entities) < source.rows:
        present = np.zeros(source.rows, dtype=bool)
        present[column.entities[column.entities < source.rows]] = True
        row = int(np.flatnonzero(~present)[0])
        raise UserError(
            "import/key", f"{source.place(row)}: the key {column.name} has no value.",
            hint="give every row a value, or choose another --key",
        )  # fmt: skip
    seen: dict[Any, int] = {}
    for row, value in zip(column.entities.tolist(), _plain(column), strict=True):
        first = seen.setdefault(strict_key(value), row)
        if first != row:
            raise UserError(
                "import/key",
                f"{source.place(row)}: the key {column.name} is {value!r} here and in {source.place(first)}.",
                hint="a key names one row; choose another --key, or none",
            )


def _plain(column: Column) -> list[Any]:
    """The values of a column as the database gives them back."""
    if not isinstance(column.values, np.ndarray):
        return list(column.values)
    values: list[Any] = column.values.tolist()
    return [v.replace(tzinfo=UTC) for v in values] if column.values.dtype.kind == "M" else values


def _properties(column: Column, *, unique: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if column.type not in (None, "any"):
        out[":db/valueType"] = Keyword(f"db.type/{column.type}")
    out[":db/cardinality"] = _MANY if column.many else _ONE
    if unique:
        out[":db/unique"] = Keyword("db.unique/identity")
    if column.component:
        out[":db/isComponent"] = True
    return out


def run_import(
    conn: Connection, plan: ImportPlan, *, dry_run: bool = False, step: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Writes what a plan says as one transaction; returns its figures.

    With `dry_run` everything is checked and nothing is written.

    Raises:
        TransactionError, SchemaError: for data that the database does not allow; nothing was written.
    """
    tell = step or _quiet
    known = conn.schema
    changes = any(ident in known for ident in plan.schema)
    source = plan.source
    found = 0

    def columns(db: Db) -> dict[str, Any]:
        nonlocal found
        eids, found = _number(db, plan)
        tell("load", 0, 0)
        return {c.ident: (eids[c.entities], eids[c.values] if c.local else c.values) for c in plan.columns}

    report: TxReport | None
    with quiet_collector():
        if dry_run or changes:
            with conn.atomic(dry_run=dry_run) as work:
                tell("change the schema", 0, 0)
                work.update_schema(plan.schema)
                work.load(columns(work.db()))
            report = work.report
        else:
            tell("number the entities", 0, 0)
            report = conn.load(columns, plan.schema)
    tx = report.tx if report is not None and report.db_after != report.db_before else None
    return {
        "rows": source.rows,
        "entities": source.entities,
        "updated": found,
        "facts": plan.facts,
        "attributes": len(plan.columns),
        "declared": len(plan.schema),
        "tx": tx,
    }


def _quiet(_step: str, _done: int, _of: int) -> None:
    return


def _number(db: Db, plan: ImportPlan) -> tuple[Any, int]:
    """The entity id of each entity of the source, and how many of them were there already by their key."""
    source = plan.source
    first = db.max_eid + 1
    eids = np.arange(first, first + source.entities, dtype=np.int64)
    if plan.key is None:
        return eids, 0
    there = {strict_key(v): e for v, e in db.q("[:find ?v ?e :in $ ?a :where [?e ?a ?v]]", plan.key.ident)}
    found = 0
    for row, value in zip(plan.key.entities.tolist(), _plain(plan.key), strict=True):
        eid = there.get(strict_key(value))
        if eid is not None:
            eids[row] = eid
            found += 1
    return eids, found
