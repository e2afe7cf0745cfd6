"""Bar charts of an answer: the last column of numbers as bars, the other columns as their labels.

For a terminal as text, for a page as SVG. No dependency, no file. Bars start at zero; negative values have none.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from datalog.render import aligned, cells, cut, edn_text, plain
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bar_svg", "bar_text", "labelled"]

MOST_BARS: Final = 100
_LABEL: Final = 30  # cells
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_WIDTH: Final = 720  # of the SVG, in pixels
_ROW: Final = 22


def labelled(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[str, list[tuple[str, float]]]:
    """(name of the number, (label, number) for each row) of an answer with one column of numbers and labels beside it.

    Raises:
        UserError: `plot/columns` when there is no column of numbers, `plot/rows` for more than 100 rows.
    """
    numbers = [i for i in range(len(columns)) if rows and all(map(_is_drawn, [row[i] for row in rows]))]
    if rows and not numbers:
        raise UserError(
            "plot/columns",
            f"No column of the answer ({', '.join(columns)}) holds only numbers, so there is nothing to draw.",
            hint="ask for a count, for example [:find ?city (count ?p) :where [?p :person/city ?city]]",
        )
    if len(rows) > MOST_BARS:
        raise UserError(
            "plot/rows",
            f"The answer has {len(rows):,} rows; a chart shows at most {MOST_BARS}.",
            hint="take the largest: add :order-by [?n :desc] :limit 20 to the query",
        )
    if not rows:
        return (columns[-1] if columns else "value"), []
    value = numbers[-1]
    found = []
    for row in rows:
        label = " ".join(v if isinstance(v, str) else edn_text(v) for i, v in enumerate(row) if i != value)
        found.append((plain(label), float(row[value])))
    return columns[value], found


def _is_drawn(value: Any) -> bool:
    """Whether a value is a number that a double can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 1000)


def bar_text(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int = 80) -> str:
    """A horizontal bar for each row, in block characters, with its label and number."""
    _, bars = labelled(columns, rows)
    if not bars:
        return "nothing to draw: the answer has no rows\n"
    label = min(max(cells(name) for name, _ in bars), _LABEL)
    figures = [_figure(n) for _, n in bars]
    room = max(width - label - max(map(len, figures)) - 4, 8)
    top = max((n for _, n in bars if isfinite(n)), default=0.0)
    lines = []
    for (name, n), figure in zip(bars, figures, strict=True):
        eighths = round(8 * room * n / top) if isfinite(n) and top > 0 and n > 0 else 0
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        lines.append(f"{aligned(name, label)}  {bar or ('▏' if n > 0 else '')} {figure}\n")
    return "".join(lines)


def bar_svg(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> str:
    """The same as one SVG picture."""
    name, bars = labelled(columns, rows)
    top = max((n for _, n in bars if isfinite(n)), default=0.0)
    head = 34
    height = head + _ROW * max(len(bars), 1) + 10
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(_safe(title or name))}">'
    )
    body = [
        opening,
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(_safe(title or name))}</text>',
    ]
    for i, (label, n) in enumerate(bars):
        y = head + i * _ROW
        wide = max(1.0, 420 * n / top) if isfinite(n) and top > 0 and n > 0 else 0.0
        body += [
            f'<text x="190" y="{y + 14}" text-anchor="end">{escape(_safe(cut(label, _LABEL)))}</text>',
            f'<rect x="200" y="{y + 2}" width="{wide:.1f}" height="16" fill="#2a6fb0"/>',
            f'<text x="{206 + wide:.1f}" y="{y + 14}">{_figure(n)}</text>',
        ]
    if not bars:
        body.append(f'<text x="10" y="{head + 14}">nothing to draw: the answer has no rows</text>')
    return "\n".join([*body, "</svg>"]) + "\n"


def _safe(text: str) -> str:
    """The text without what XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)


def _figure(n: float) -> str:
    return f"{int(n):,}" if n.is_integer() and abs(n) < 1e15 else f"{n:,.4g}"
