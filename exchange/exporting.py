"""Exporting: rows, or the entities of a namespace, as a file that is whole or not there.

    rows of a query                -> csv, json, ndjson, edn, markdown, parquet, arrow
    entities of a namespace        -> the same, a column for each attribute; several values as an EDN vector (CSV) or an array

What is exported as EDN or NDJSON imports again as it was; CSV and JSON do where types are given, but for empty strings in
CSV: an empty field is no fact.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from datalog.pictures import is_many, namespace_of
from datalog.render import MODES, edn_text, render
from exchange.parquet_files import write_arrow
from store.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from datalog import Db

__all__ = ["WRITTEN", "entity_rows", "write_rows"]

#: format -> suffixes
WRITTEN: Final[dict[str, tuple[str, ...]]] = {
    "csv": (".csv",),
    "json": (".json",),
    "ndjson": (".ndjson", ".jsonl"),
    "edn": (".edn",),
    "markdown": (".md",),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
}


def entity_rows(db: Db, space: str, *, eids: bool = False) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(attribute names, rows) of all entities that have an attribute of a namespace, by entity id; None where one is missing.

    Attributes with cardinality many give tuples of values, in their order. With `eids` the first column is `:db/id`.

    Raises:
        UserError: `export/namespace` when no attribute is in it.
    """
    schema = db.schema
    idents = [i for i in schema if namespace_of(i) == space]
    if not idents:
        spaces = sorted({namespace_of(i) for i in schema})
        close = nearest(space, spaces)
        raise UserError(
            "export/namespace",
            f"No attribute is in the namespace {space!r}." + (f" Did you mean {close!r}?" if close else ""),
            expected=", ".join(spaces) or "a database with attributes",
        )
    maps: list[dict[int, Any]] = []
    for ident in idents:
        if not is_many(schema[ident]):
            maps.append(dict(db.q("[:find ?e ?v :in $ ?a :where [?e ?a ?v]]", ident)))
            continue
        rows = db.q("[:find ?e ?v :in $ ?a :where [?e ?a ?v] :order-by [?e ?v]]", ident)
        maps.append({e: tuple(v for _, v in facts) for e, facts in groupby(rows, key=itemgetter(0))})
    everyone = sorted(set().union(*maps))
    columns = [list(map(m.get, everyone)) for m in maps]
    names = [*([":db/id"] if eids else []), *idents]
    return names, list(zip(*([everyone] if eids else []), *columns, strict=True))


def write_rows(
    out: BinaryIO,
    form: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    step: Callable[[str, int, int], None] | None = None,
    maps: bool = False,
) -> None:
    """Rows to a binary file in a format of `WRITTEN`; with `maps` EDN has a map for each row, without what is missing.

    Raises:
        UserError: `import/pyarrow` without the extra `parquet`.
    """
    if form in ("parquet", "arrow"):
        write_arrow(out, f".{form}", columns, rows)
        return
    if form == "edn" and maps:
        for i, row in enumerate(rows):
            pairs = ((c, edn_text(v)) for c, v in zip(columns, row, strict=True) if v is not None)
            out.write(("{" + " ".join(f"{c} {v}" for c, v in pairs) + "}\n").encode("utf-8", "surrogatepass"))
            if step is not None and i % 10_000 == 0:
                step("export", i, len(rows))
        return
    assert form in MODES
    if form in ("json", "ndjson"):
        rows = [tuple(list(v) if type(v) is tuple else v for v in row) for row in rows]
    done = 0
    for piece in render(form, columns, rows):
        out.write(piece.encode("utf-8", "surrogatepass"))
        done += piece.count("\n")
        if step is not None:
            step("export", min(done, len(rows)), len(rows))
