"""Small plots as SVG text: bars on a logarithmic scale, and lines. No dependency, no file."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["bars", "lines"]

_WIDTH: Final = 720
_COLOURS: Final = ("#2a6fb0", "#c4622d", "#4a8f4a", "#7a5aa6")


def _svg(height: int, title: str, body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, f'<text x="10" y="20" font-size="14">{escape(title)}</text>', *body, "</svg>"]) + "\n"


def bars(title: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Horizontal bars, a group for each key and a bar for each of its series, on a logarithmic scale with the figures."""
    values = [v for g in groups.values() for v in g.values() if v > 0]
    low, high = (min(values) / 2, max(values)) if values else (1.0, 10.0)
    span = math.log(high / low) or 1.0
    names = list(dict.fromkeys(n for g in groups.values() for n in g))
    body, y = [], 40
    for group, series in groups.items():
        body.append(f'<text x="10" y="{y + 12}">{escape(group)}</text>')
        for name, value in series.items():
            width = max(1.0, 380 * math.log(max(value, low) / low) / span)
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            body.append(f'<rect x="130" y="{y}" width="{width:.1f}" height="14" fill="{colour}"/>')
            body.append(f'<text x="{135 + width:.1f}" y="{y + 12}">{escape(name)} {value:,.1f} {escape(unit)}</text>')
            y += 18
        y += 8
    return _svg(y + 10, title, body)


def lines(title: str, points: Sequence[tuple[float, float]], x_unit: str, y_unit: str) -> str:
    """One line through points, from the origin to the largest."""
    right, top = (max((p[i] for p in points), default=1.0) or 1.0 for i in (0, 1))
    path = " ".join(f"{60 + 620 * x / right:.1f},{230 - 180 * y / top:.1f}" for x, y in points)
    body = [
        '<path d="M60 50 V230 H680" fill="none" stroke="#888"/>',
        f'<polyline points="{path}" fill="none" stroke="{_COLOURS[0]}" stroke-width="2"/>',
        f'<text x="62" y="46">{top:,.0f} {escape(y_unit)}</text>',
        f'<text x="600" y="246">{right:,.1f} {escape(x_unit)}</text>',
    ]
    return _svg(260, title, body)
