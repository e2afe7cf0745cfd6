"""Notebook: what a notebook shows of a plan and of a database, as HTML.

`PlanText` is what `explain` returns: text like any other, that a notebook draws. `database_html` counts the datoms of each
attribute; nothing is read but counts. Results show themselves (result.py). Everything that comes from data is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datalog.plan import Step

__all__ = ["PlanText", "database_html"]


class PlanText(str):
    """A plan as text; in a notebook a tree with a bar for the rows of each step."""

    __slots__ = ("query", "steps")
    steps: Sequence[Step]
    query: str

    def __new__(cls, text: str, steps: Sequence[Step] = (), query: str = "") -> PlanText:  # noqa: PYI034 - final enough
        """The text with the steps that it shows."""
        made = super().__new__(cls, text)
        made.steps = steps
        made.query = query
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)

    def _repr_html_(self) -> str:
        from datalog.pictures import plan_fragment  # noqa: PLC0415 - only notebooks draw

        return plan_fragment(self.steps, self.query)


def database_html(db: Any) -> str:
    """A database: its basis and number of datoms, and a table of its attributes with type, cardinality, uniqueness and count."""
    from html import escape  # noqa: PLC0415 - 3 ms that only notebooks need

    from datalog.pictures import ATTRIBUTE_HEADS, attribute_rows  # noqa: PLC0415 - as above

    heads = "".join(f"<th>{head}</th>" for head in ATTRIBUTE_HEADS)
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in attribute_rows(db)]
    head = f"<p>Database with {len(db):,} datoms, basis tx {db.basis_tx}</p>"
    return f"{head}<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
