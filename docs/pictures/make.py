"""Makes the pictures of docs/shell.md: runs the shell at a terminal without a window, and draws its screens.

    python docs/pictures/make.py              writes NAME.svg and, where a renderer is found, NAME.png beside this file
    python docs/pictures/make.py --check      draws the pictures of plans and schemas with real renderers: Graphviz (`dot`),
                                              Mermaid (with --mermaid FILE, the package's dist/mermaid.min.js, in Chromium)

PNGs need cairosvg (`pip install cairosvg`), in this or, with --python, in another environment. The screens are those of
`RUNS`: what is typed, what is waited for, and how many lines are drawn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from terminal import Terminal  # noqa: E402 - after the path is set

import datalog as d  # noqa: E402 - the same
from datalog.pictures import plan_picture, reference_targets, schema_picture  # noqa: E402 - the same

COLUMNS, LINES = 84, 36
SCHEMA = """[{:db/ident :person/name :db/valueType :db.type/string :db/unique :db.unique/identity :db/doc "What others call them."}
 {:db/ident :person/born :db/valueType :db.type/long} {:db/ident :person/city :db/valueType :db.type/string}
 {:db/ident :person/parent :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 {:db/ident :book/title :db/valueType :db.type/string} {:db/ident :book/author :db/valueType :db.type/ref}]"""
DATA = """[{:db/id "b" :person/name "Lord Byron" :person/born 1788 :person/city "London"}
 {:db/id "i" :person/name "Annabella Milbanke" :person/born 1792 :person/city "Seaham"}
 {:db/id "a" :person/name "Ada Lovelace" :person/born 1815 :person/city "London" :person/parent ["b" "i"]}
 {:db/id "r" :person/name "Ralph King" :person/born 1839 :person/city "London" :person/parent "a"}
 {:db/id "m" :person/name "Mary Lytton" :person/born 1873 :person/city "Crabbet" :person/parent "r"}
 {:book/title "Notes on the Analytical Engine" :book/author "a"} {:book/title "Don Juan" :book/author "b"}]"""
RULES = "[[(ancestor ?a ?b) [?b :person/parent ?a]] [(ancestor ?a ?b) [?b :person/parent ?p] (ancestor ?a ?p)]]"

#: name -> (keys and what to wait for after each)
RUNS: dict[str, list[tuple[str, str]]] = {
    "completion": [
        ("[:find ?name ?born\r:where [?p :person/name ?name]\r[?p :person/", ":person/"),
        ("\t", "string"),
    ],
    "table": [
        ("[:find ?name ?born ?city\r:where [?p :person/name ?name]\r[?p :person/born ?born]\r[?p :person/city ?city]\r:order-by ?born]\r", "rows, "),
        ("[:find ?city (count ?p) (min ?born)\r:where [?p :person/city ?city] [?p :person/born ?born]\r:order-by [1 :desc]]\r", "3 rows, "),
    ],
    "error": [
        ("[:find ?name\r:where [?p :person/nmae ?name]]\r", "did you mean"),
        ("[:find ?name\r:where [?p :person/name ?name] [(> ?age 18)]]\r", "?age"),
    ],
    "rules": [
        (RULES + "\r", "defined"),
        ('[:find ?name\r:where (ancestor ?a ?b) [?a :person/name "Lord Byron"]\r[?b :person/name ?name]]\r', "3 rows, "),
        (".analyze [:find ?name\r:where (ancestor ?a ?b) [?a :person/name \"Lord Byron\"]\r[?b :person/name ?name]]\r", " ms"),
    ],
    "stop": [
        ("[[(n ?x) [(ground 1) ?x]] [(n ?x) (n ?y) [(+ ?y 1) ?x]]]\r", "defined"),
        ("[:find (count ?x) . :where (n ?x)]\r", ". :where (n ?x)]"),
        ("\x03", "stopped"),
        ('[[:db/add [:person/name "Mary Lytton"] :person/city "Paris"]]\r', "[y/N]"),
        ("y\r", "transaction"),
        ('.entity [:person/name "Mary Lytton"]\r', "facts"),
    ],
}  # fmt: skip
COLOURS = {
    "default": "#d8dee9", "black": "#2e3440", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#d8dee9", "brightblack": "#7f8899", "brightblue": "#82b8ff",
    "brightred": "#ff7b86", "brightgreen": "#b5e890", "brightbrown": "#ffd68a", "brightmagenta": "#e29bff",
    "brightcyan": "#7fdfea", "brightwhite": "#ffffff",
}  # fmt: skip
PAPER = "#22262e"
CELL, ROW, FONT = 8.43, 18, 14


def database(path: Path) -> Path:
    """The database of the pictures."""
    with d.connect(path) as conn:
        conn.transact(SCHEMA)
        conn.transact(DATA)
    return path


def screen_svg(terminal: Terminal) -> str:
    """The screen as SVG: a cell is CELL by ROW pixels."""
    buffer = terminal.screen.buffer
    used = max((y for y in range(LINES) if terminal.screen.display[y].strip()), default=0) + 1
    width, height = COLUMNS * CELL + 24, used * ROW + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" '
        f'font-family="\'DejaVu Sans Mono\', Menlo, Consolas, monospace" font-size="{FONT}">',
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for y in range(used):
        x = 0
        while x < COLUMNS:
            cell = buffer[y][x]
            end = x + 1
            while end < COLUMNS and style(buffer[y][end]) == style(cell):
                end += 1
            text = "".join(buffer[y][i].data for i in range(x, end))
            front, back = colours(cell)
            left, top = 12 + x * CELL, 12 + y * ROW
            if back != PAPER:
                parts.append(
                    f'<rect x="{left:.1f}" y="{top}" width="{(end - x) * CELL:.1f}" height="{ROW}" fill="{back}"/>'
                )
            if text.strip():
                more = ' font-weight="bold"' if cell.bold else ""
                more += ' font-style="italic"' if cell.italics else ""
                more += ' text-decoration="underline"' if cell.underscore else ""
                for i, c in enumerate(text):  # letter by letter: every renderer keeps the cells
                    if c.strip():
                        parts.append(
                            f'<text x="{left + i * CELL:.2f}" y="{top + 14}" fill="{front}"{more}>{escape(c)}</text>'
                        )
            x = end
    return "\n".join([*parts, "</svg>"]) + "\n"


def style(cell: object) -> tuple[object, ...]:
    """What two cells have to share to be drawn together."""
    return tuple(getattr(cell, name) for name in ("fg", "bg", "bold", "italics", "underscore", "reverse"))


def colours(cell: object) -> tuple[str, str]:
    """(front, back) of a cell."""
    fg, bg = getattr(cell, "fg", "default"), getattr(cell, "bg", "default")
    front = COLOURS.get(fg) or f"#{fg}"
    back = PAPER if bg == "default" else COLOURS.get(bg) or f"#{bg}"
    return (back, front) if getattr(cell, "reverse", False) else (front, back)


def record(name: str, folder: Path) -> str:
    """The last screen of a run."""
    path = database(folder / name / "family.db")
    start = ["-m", "datalog.cli", "shell", "family.db"]
    os.chdir(path.parent)
    environment = {"XDG_STATE_HOME": str(folder / name), "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS)}
    with Terminal(start, COLUMNS, LINES, environment, folder=path.parent) as terminal:
        terminal.wait_for_end("family.db>")
        for keys, wanted in RUNS[name]:
            terminal.type(keys)
            terminal.wait_for(wanted)
            for _ in range(10):  # what comes after the words that were waited for
                terminal.read(0.05)
        return screen_svg(terminal)


def check(mermaid: Path | None) -> None:
    """Draw plans and schemas with Graphviz and Mermaid; raises where one refuses."""
    with tempfile.TemporaryDirectory() as folder, d.connect(database(Path(folder) / "db")) as conn, conn.db() as db:
        query = '[:find ?n (count ?b) :in $ % :where (ancestor ?a ?b) [?a :person/name ?n] (not [?b :person/city "a\\"]<b>"])]'
        steps = d.prepare(query).steps(db, RULES, analyze=True)
        drawn = {
            "plan": lambda form: plan_picture(steps, form),
            "schema": lambda form: schema_picture(db.schema, reference_targets(db), form),
        }
        for name, draw in drawn.items():
            target = HERE / f"{name}.svg"
            subprocess.run(["dot", "-Tsvg", "-o", str(target)], input=draw("dot"), text=True, check=True)
            print(f"graphviz draws the {name}: {target.name}")
            if mermaid is not None:
                target = Path(tempfile.gettempdir()) / f"{name}-mermaid.png"
                draw_mermaid(draw("mermaid"), mermaid, target, Path(folder))
                print(f"mermaid draws the {name}: {target}")


PAGE = """<!DOCTYPE html><meta charset="utf-8"><pre class="mermaid">{text}</pre><script src="{script}"></script>
<script>mermaid.initialize({{startOnLoad: false}}); mermaid.run().catch(e => document.title = e.message);</script>"""
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000", "--window-size=1100,1400",
]  # fmt: skip


def draw_mermaid(text: str, script: Path, target: Path, folder: Path) -> None:
    """A picture of what Mermaid draws in a browser; RuntimeError where it draws none."""
    page = folder / "page.html"
    page.write_text(PAGE.format(text=escape(text, quote=False), script=script.resolve().as_uri()), encoding="utf-8")
    command = [*CHROMIUM, f"--user-data-dir={folder / 'chromium'}"]
    drawn = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True).stdout
    if "<svg" not in drawn or "Syntax error" in drawn or "<title>" in drawn:
        raise RuntimeError(f"mermaid does not draw this:\n{text}\n{drawn[:2000]}")
    subprocess.run([*command, f"--screenshot={target}", page.as_uri()], capture_output=True, check=True)


def main() -> None:
    """Makes the pictures, or checks with other renderers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--mermaid", type=Path)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    if given.check:
        check(given.mermaid)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            svg = Path(folder) / f"{name}.svg"
            svg.write_text(record(name, Path(folder)), encoding="utf-8")
            png = HERE / f"shell-{name}.png"
            code = f"import cairosvg; cairosvg.svg2png(url={str(svg)!r}, write_to={str(png)!r})"
            subprocess.run([given.python, "-c", code], check=True)
            print(f"{png.name}: {png.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
