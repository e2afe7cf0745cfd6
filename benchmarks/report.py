"""Tables and plots of `compare.py` from its JSON, as docs/performance.md shows them.

    python benchmarks/compare.py people rules joins --peers ours,sqlite,duckdb,... --json run.json
    python benchmarks/report.py run.json [more.json ...]      # writes between the marks of docs/performance.md, and plots

A table for each workload and scale; a plot beside it in docs/pictures/.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from html import escape
from pathlib import Path
from typing import Any

from people.tasks import UNITS

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- tables of compare.py -->", "<!-- end of the tables -->"
NAMES = {
    "ours": "ours", "sqlite": "SQLite", "duckdb": "DuckDB", "triple": "triples", "cozo": "Cozo",
    "datascript": "DataScript", "datalevin": "Datalevin",
}  # fmt: skip
COLOURS = {
    "ours": "#1b5e9b", "sqlite": "#c4622d", "duckdb": "#e0b020", "triple": "#999999", "cozo": "#7a5aa6",
    "datascript": "#4a8f4a", "datalevin": "#c2487d",
}  # fmt: skip


def shown(seconds: float | None) -> str:
    """Milliseconds."""
    return "" if seconds is None else f"{seconds * 1e3:,.2f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def table(result: dict[str, Any], kind: str) -> list[str]:
    """The rows of a workload's questions or tasks."""
    peers = list(result["load"])
    others = [p for p in peers if p != "ours"]
    head = ["question" if kind == "queries" else "task", "rows", "ours, ms", *(NAMES[p] for p in others), "ratio"]
    head += ["cold, ms"] if kind == "queries" else ["ours, us each"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, figures in result[kind].items():
        rows = next((figures[p]["rows"] for p in peers if "rows" in figures[p]), 0)
        ratio = figures["ratio"]
        ours = figures["ours"]
        each = f"{ours['median'] * 1e6 / UNITS[name][0]:,.1f}" if kind == "tasks" and result["scale"] == 1 else ""
        last = shown(ours["cold"]) if kind == "queries" else each
        cells = [name, f"{rows:,}", shown(ours["median"]), *(shown(figures[p]["median"]) for p in others)]
        lines.append(f"| {' | '.join([*cells, '' if ratio is None else f'{ratio:.2f}', last])} |")
    return lines


def sentence(result: dict[str, Any]) -> str:
    """The means."""
    ratios = [f["ratio"] for f in result["queries"].values() if f["ratio"] is not None]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    text = f"Ours to the faster SQL peer: geometric mean {mean:.2f}, median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}."
    for peer in result["load"]:
        if peer in ("ours", "sqlite", "duckdb"):
            continue
        speed = [f[peer]["median"] / f["ours"]["median"] for f in result["queries"].values() if f[peer]["median"]]
        if speed:
            mean = math.exp(sum(map(math.log, speed)) / len(speed))
            text += (
                f" {NAMES[peer]} to ours: geometric mean {mean:.0f}, least {min(speed):.1f} ({len(speed)} questions)."
            )
    return text


def loading(result: dict[str, Any]) -> str:
    """Seconds to load, and the peak of memory."""
    parts = []
    for peer, figures in result["load"].items():
        if "seconds" in figures:
            memory = f", {figures['peak_mb']:,} MB at most" if "peak_mb" in figures else ""
            parts.append(f"{NAMES[peer]} {figures['seconds']:.1f} s{memory}")
    datoms = result["load"]["ours"]["datoms"]
    return f"{datoms:,} datoms; loaded in: {'; '.join(parts)} (the benchmark's own lists included)."


def plot(result: dict[str, Any]) -> str:
    """A dot for each peer and question on a logarithmic axis."""
    peers = [p for p in result["load"] if any(f[p]["median"] for f in result["queries"].values())]
    times = [f[p]["median"] for f in result["queries"].values() for p in peers if f[p]["median"]]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    width, left = 860, 230

    def x(seconds: float) -> float:
        return left + (width - left - 45) * (math.log10(seconds) - low) / (high - low)

    height = 60 + 20 * len(result["queries"])
    body = [f'<text x="10" y="20" font-size="14">{escape(result["workload"])}, scale {result["scale"]:g}</text>']
    for i, peer in enumerate(peers):
        at = left + 88 * i
        body.append(f'<circle cx="{at}" cy="16" r="5" fill="{COLOURS[peer]}"/>')
        body.append(f'<text x="{at + 9}" y="20">{NAMES[peer]}</text>')
    for power in range(low, high + 1):
        at, unit = x(10.0**power), 10.0 ** (power + 3)
        body.append(f'<path d="M{at:.1f} 30 V{height - 22}" stroke="#ddd"/>')
        body.append(f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle" fill="#666">{unit:g} ms</text>')
    for i, (name, figures) in enumerate(result["queries"].items()):
        y = 44 + 20 * i
        body.append(f'<text x="10" y="{y + 4}">{escape(name)}</text>')
        for peer in reversed(peers):
            if figures[peer]["median"]:
                radius = 5.5 if peer == "ours" else 4
                body.append(
                    f'<circle cx="{x(figures[peer]["median"]):.1f}" cy="{y}" r="{radius}" fill="{COLOURS[peer]}"/>'
                )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    style = 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head + style, *body, "</svg>"]) + "\n"


def section(result: dict[str, Any]) -> list[str]:
    """One workload's part of the page."""
    times = f"{result['scale']:g}"
    scale = "" if times == "1" else f", {times} times the size"
    file = f"compare-{result['workload']}{'' if times == '1' else f'-{times}'}.svg"
    (DOCS / "pictures").mkdir(exist_ok=True)
    (DOCS / "pictures" / file).write_text(plot(result), encoding="utf-8")
    lines = [f"### {result['workload']}{scale}", "", *table(result, "queries"), "", sentence(result), ""]
    if result["tasks"]:
        lines += [*table(result, "tasks"), ""]
    lines += [loading(result), "", f"![{result['workload']}](pictures/{file})", ""]
    return lines


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    results = [r for path in parser.parse_args().runs for r in json.loads(path.read_text())]
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = "\n".join(line for r in results for line in section(r))
    page.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
