"""Pictures of plans and schemas as text of other programs: Mermaid, Graphviz DOT, and one HTML page that needs neither.

Takes the steps of a plan (`Prepared.steps`) or a schema (`db.schema`), gives text. Every label is escaped for the language
it stands in: names and constants come from data. Entity graphs show a box for each namespace of attributes and an arrow for
each reference; where a reference leads is not declared, so the caller tells it as found in the data (`reference_targets`).
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from datalog.plan import plan_text
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datalog.plan import Step

__all__ = ["ATTRIBUTE_HEADS", "PLAN_FORMATS", "SCHEMA_FORMATS", "attribute_rows", "is_many", "key_name", "namespace_of",
           "plan_fragment", "plan_picture", "reference_targets", "schema_picture", "type_name"]  # fmt: skip

ATTRIBUTE_HEADS: Final = ("attribute", "type", "values", "unique", "datoms", "doc")  # of `attribute_rows`

_LABEL: Final = 120  # characters of a label
_SAMPLE: Final = 1000  # references of an attribute that are looked at


def plan_picture(steps: Sequence[Step], form: str, query: str = "") -> str:
    """The plan in one of `PLAN_FORMATS`; rows flow from the leaves to the root, a wrong estimate is marked.

    Raises:
        UserError: `explain/format` for another format.
    """
    drawn = _PLAN.get(form)
    if drawn is None:
        raise UserError("explain/format", f"A plan cannot be shown as {form!r}.", expected=", ".join(PLAN_FORMATS))
    return drawn(list(steps), query)


def _parents(steps: list[Step]) -> list[int | None]:
    """For each step the number of the one it belongs to."""
    last: dict[int, int] = {}
    found: list[int | None] = []
    for i, step in enumerate(steps):
        found.append(last.get(step.depth - 1))
        last[step.depth] = i
    return found


def _plan_mermaid(steps: list[Step], _: str) -> str:
    lines = ["flowchart BT"]
    for i, step in enumerate(steps):
        note = step.note()
        label = _mermaid_text(step.label) + (f"<br/>{_mermaid_text(note)}" if note else "")
        lines.append(f'  n{i}["{label}"]')
    lines += [f"  n{i} --> n{parent}" for i, parent in enumerate(_parents(steps)) if parent is not None]
    off = [f"n{i}" for i, step in enumerate(steps) if step.is_off()]
    if off:
        lines += ["  classDef off fill:#fbe3d6,stroke:#c4622d", f"  class {','.join(off)} off"]
    return "\n".join(lines) + "\n"


def _mermaid_text(text: str) -> str:
    """Text inside a quoted Mermaid label: what could end it or be read as markup becomes an entity code."""
    return "".join(c if c.isalnum() or c in " ?_-.,:/~+*=()" else f"#{ord(c)};" for c in _short(text))


def _plan_dot(steps: list[Step], _: str) -> str:
    lines = ["digraph plan {", "  rankdir=BT;", '  node [shape=box, fontname="sans-serif", fontsize=11];']
    for i, step in enumerate(steps):
        note = step.note()
        label = _dot_text(step.label) + (f"\\n{_dot_text(note)}" if note else "")
        off = ', style=filled, fillcolor="#fbe3d6", color="#c4622d"' if step.is_off() else ""
        lines.append(f'  n{i} [label="{label}"{off}];')
    lines += [f"  n{i} -> n{parent};" for i, parent in enumerate(_parents(steps)) if parent is not None]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_text(text: str) -> str:
    return _short(text).replace("\\", "\\\\").replace('"', '\\"')


def _plan_html(steps: list[Step], query: str) -> str:
    """A page that needs nothing from elsewhere."""
    return _PAGE.format(plan=plan_fragment(steps, query))


def plan_fragment(steps: Sequence[Step], query: str = "") -> str:
    """The plan as a part of an HTML page: nested lists, with a bar for the rows of each step; its styles touch nothing else."""
    most = max([max(s.found if s.found is not None else s.rows or 0, 1) for s in steps], default=1)
    body: list[str] = []
    depth = -1
    for step in steps:
        if step.depth > depth:
            body.append("<ul>" * (step.depth - depth))
        else:
            body.append("</li>" + "</ul></li>" * (depth - step.depth))
        depth = step.depth
        rows = step.found if step.found is not None else step.rows
        bar = "" if rows is None else f'<meter min="0" max="{most:.0f}" value="{rows:.0f}"></meter>'
        note = f' <span class="rows">{escape(step.note())}</span>' if step.note() else ""
        off = ' class="off" title="the estimate is off by more than ten"' if step.is_off() else ""
        body.append(f"<li><div{off}><code>{escape(_clean(step.label))}</code>{note}{bar}</div>")
    body.append("</li></ul>" * (depth + 1))
    shown = f"<pre>{escape(_clean(query, keep=chr(10)))}</pre>" if query else ""
    return f'<div class="datalog-plan"><style>{_STYLE}</style>{shown}\n{"".join(body)}</div>'


_STYLE: Final = """
.datalog-plan { font: 14px/1.5 sans-serif; color: #222; background: #fff }
.datalog-plan ul { list-style: none; margin: 0; padding-left: 1.6em; border-left: 1px solid #ccc }
.datalog-plan > ul { padding-left: 0; border: 0 }
.datalog-plan li > div { padding: .1em .5em }
.datalog-plan div.off { background: #fbe3d6 }
.datalog-plan .rows { color: #666; margin: 0 .8em }
.datalog-plan meter { width: 10em; height: .7em }
.datalog-plan pre { background: #f5f5f5; padding: .8em }
"""
_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Query plan</title></head>
<body style="margin: 2em; background: #fff"><h1 style="font-family: sans-serif">Query plan</h1>
{plan}
</body></html>
"""


def _plan_text(steps: list[Step], _: str) -> str:
    return plan_text(steps) + "\n"


_PLAN: Final[dict[str, Callable[[list[Step], str], str]]] = {
    "text": _plan_text,
    "mermaid": _plan_mermaid,
    "dot": _plan_dot,
    "html": _plan_html,
}
PLAN_FORMATS: Final = tuple(_PLAN)


# schemas -------------------------------------------------------------------------------------------------------------


def reference_targets(db: Any) -> dict[str, list[str]]:
    """For each attribute of references the namespaces that what it refers to has attributes of, most frequent first.

    Looks at up to 1,000 references of each attribute, evenly over all of them.
    """
    found: dict[str, list[str]] = {}
    for ident, properties in db.schema.items():
        if str(properties.get(":db/valueType")) != ":db.type/ref":
            continue
        targets = [int(v) for v in dict.fromkeys(db.q("[:find [?v ...] :in $ ?a :where [_ ?a ?v]]", ident))]
        step = max(len(targets) // _SAMPLE, 1)
        counts: dict[str, int] = {}
        names = db.q("[:find ?v ?a :in $ [?v ...] :where [?v ?a _]]", targets[::step])
        for _, attribute in names:
            space = namespace_of(str(attribute))
            counts[space] = counts.get(space, 0) + 1
        found[ident] = sorted(counts, key=lambda space: (-counts[space], space))
    return found


def namespace_of(ident: str) -> str:
    """The namespace of ":person/name": "person"; of a name without one: ""."""
    return ident[1:].rpartition("/")[0] if "/" in ident[1:] else ""


def schema_picture(schema: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Sequence[str]], form: str) -> str:
    """The entity graph of a schema in one of `SCHEMA_FORMATS`: a box for each namespace, an arrow for each reference.

    `targets` tells where the references of each attribute lead; the first namespace counts.

    Raises:
        UserError: `schema/format` for another format.
    """
    drawn = _SCHEMA.get(form)
    if drawn is None:
        raise UserError("schema/format", f"A schema cannot be drawn as {form!r}.", expected=", ".join(SCHEMA_FORMATS))
    boxes: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for ident, properties in schema.items():
        boxes.setdefault(namespace_of(ident), []).append((ident, properties))
    arrows = []
    for ident, spaces in targets.items():
        for space in spaces[:1]:
            boxes.setdefault(space, [])
            arrows.append((namespace_of(ident), space, ident))
    return drawn(boxes, arrows)


Boxes = dict[str, list[tuple[str, "Mapping[str, Any]"]]]
Arrows = list[tuple[str, str, str]]


def type_name(properties: Mapping[str, Any]) -> str:
    """The type of an attribute as one word: "string", "ref", or "any"."""
    value_type = properties.get(":db/valueType")
    if value_type is None:
        return "tuple" if ":db/tupleAttrs" in properties else "any"
    return str(value_type).rpartition("/")[2]


def is_many(properties: Mapping[str, Any]) -> bool:
    """Whether an attribute may have several values."""
    return str(properties.get(":db/cardinality")) == ":db.cardinality/many"


def key_name(properties: Mapping[str, Any]) -> str:
    """How an attribute is unique: "identity", "value", or nothing."""
    return str(properties.get(":db/unique", "")).rpartition("/")[2]


def attribute_rows(db: Any) -> list[list[str]]:
    """A row for each attribute of a database: name, type, one or many values, uniqueness, number of datoms, doc."""
    counts = {a.ident: db.snapshot.count(a.aid) for a in db.snapshot.schema.user_attributes()}
    return [
        [
            ident,
            type_name(p),
            "many" if is_many(p) else "one",
            key_name(p),
            f"{counts.get(ident, 0):,}",
            str(p.get(":db/doc", "")),
        ]
        for ident, p in db.schema.items()
    ]


def _local(ident: str) -> str:
    return ident[1:].rpartition("/")[2]


def _schema_mermaid(boxes: Boxes, arrows: Arrows) -> str:
    """An entity-relationship diagram; names that Mermaid cannot write become words, with the name beside them in quotes."""
    number = {space: f"e{i}" for i, space in enumerate(boxes)}
    lines = ["erDiagram"]
    for space, attributes in boxes.items():
        lines.append(f'  {number[space]}["{_er_text(space or "(no namespace)")}"] {{')
        for ident, properties in attributes:
            many = "[]" if is_many(properties) else ""
            key = " UK" if key_name(properties) else ""
            lines.append(f'    {type_name(properties)}{many} {_er_word(_local(ident))}{key} "{_er_text(ident)}"')
        lines.append("  }")
    for source, target, ident in arrows:
        properties = dict(boxes.get(source, ())).get(ident, {})
        end = "o{" if is_many(properties) else "o|"
        lines.append(f'  {number[source]} }}o--{end} {number[target]} : "{_er_text(_local(ident))}"')
    return "\n".join(lines) + "\n"


def _er_word(name: str) -> str:
    """A name of letters, digits, hyphens and underscores that begins with a letter."""
    word = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return word if word[:1].isalpha() else f"a{word}"


def _er_text(text: str) -> str:
    return _short(text).replace('"', "'").replace("%", "")


def _schema_dot(boxes: Boxes, arrows: Arrows) -> str:
    number = {space: f"e{i}" for i, space in enumerate(boxes)}
    lines = [
        "digraph schema {",
        "  rankdir=LR;",
        '  node [shape=plain, fontname="sans-serif", fontsize=11];',
        '  edge [fontname="sans-serif", fontsize=10];',
    ]
    for space, attributes in boxes.items():
        title = escape(_short(space) or "(no namespace)")
        rows = [f'<TR><TD BGCOLOR="#2a6fb0" COLSPAN="2"><FONT COLOR="white">{title}</FONT></TD></TR>']
        for ident, properties in attributes:
            more = " many" if is_many(properties) else ""
            more += " unique" if key_name(properties) else ""
            rows.append(
                f'<TR><TD ALIGN="LEFT">{escape(_short(_local(ident)))}</TD>'
                f'<TD ALIGN="LEFT"><FONT COLOR="#666666">{type_name(properties)}{more}</FONT></TD></TR>'
            )
        table = f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0">{"".join(rows)}</TABLE>'
        lines.append(f"  {number[space]} [label=<{table}>];")
    for source, target, ident in arrows:
        lines.append(f'  {number[source]} -> {number[target]} [label="{_dot_text(_local(ident))}"];')
    return "\n".join([*lines, "}"]) + "\n"


_SCHEMA: Final[dict[str, Callable[[Boxes, Arrows], str]]] = {"mermaid": _schema_mermaid, "dot": _schema_dot}
SCHEMA_FORMATS: Final = tuple(_SCHEMA)


def _short(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _clean(text: str, keep: str = "") -> str:
    """The text with control characters as blanks."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)
