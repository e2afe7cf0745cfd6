"""Source: what a file holds, as columns of facts about entities that are numbered from 0.

Place on the path: the readers (`csv_files`, `records`, `parquet_files`) make it, `importing` turns it into attributes and
loads it. Rows of the file are the entities 0 to `rows` - 1; objects inside objects are the entities after them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from store.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Column", "Source", "check_named", "ident_of", "unique_idents"]

_NOT_NAME: Final = re.compile(r"[^\w?!*+<>=.&-]+")


@dataclass(slots=True)
class Column:
    """The values of one attribute: `values[i]` belongs to the entity `entities[i]`; what is missing is left out.

    `type` is None for text whose type is yet to be inferred. `local`: the values are entities of this source.
    """

    name: str  # in the file
    ident: str
    entities: NDArray[np.int64]
    values: Any  # a list, or an array
    type: str | None = None
    many: bool = False
    component: bool = False
    local: bool = False


@dataclass(slots=True)
class Source:
    """The columns of a file; `place(row)` tells where a row stands in it."""

    columns: list[Column]
    rows: int
    entities: int
    place: Callable[[int], str]
    notes: list[str]


def ident_of(name: str, space: str) -> str:
    """The attribute ":space/name" for the name of a column; a name that is a keyword or has a namespace stays as it is.

    >>> ident_of("First name", "people"), ident_of("person/age", "people"), ident_of(":db/doc", "people")
    (':people/first-name', ':person/age', ':db/doc')
    """
    bare = name.strip().removeprefix(":")
    if "/" in bare.strip("/"):
        before, _, after = bare.rpartition("/")
        return f":{_word(before)}/{_word(after) or 'value'}"
    return f":{space}/{_word(bare) or 'value'}"


def _word(text: str) -> str:
    """Lower case (unless it is a name already), what cannot stand in a name as a hyphen."""
    text = text.strip()
    if _NOT_NAME.search(text) or text != text.lower():
        text = _NOT_NAME.sub("-", text).strip("-").lower()
    return text


def check_named(columns: Sequence[str], named: Iterable[str], where: str) -> None:
    """Looks whether a file has the columns that options name.

    Raises:
        UserError: `import/column`.
    """
    for name in named:
        if name not in columns:
            close = nearest(name, columns)
            raise UserError(
                "import/column",
                f"{where} has no column {name!r}." + (f" Did you mean {close!r}?" if close else ""),
                expected=", ".join(columns) or "a file with columns",
            )


def unique_idents(names: Iterable[str], space: str, given: dict[str, str], where: str) -> dict[str, str]:
    """The attribute of each column: the one given by name, else the one its name makes.

    Raises:
        UserError: `import/columns` when two columns would be one attribute.
    """
    found: dict[str, str] = {}
    by_ident: dict[str, str] = {}
    for name in names:
        ident = given.get(name) or ident_of(name, space)
        if ident in by_ident:
            raise UserError(
                "import/columns",
                f"{where}: the columns {by_ident[ident]!r} and {name!r} would both be the attribute {ident}.",
                hint=f"give one another name: --column '{name}=:{space}/other', or leave it out: --skip '{name}'",
            )
        by_ident[ident] = name
        found[name] = ident
    return found
