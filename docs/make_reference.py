"""Writes docs/reference.md from the docstrings: every public name of `datalog`, with its signature and what it says of itself.

    python docs/make_reference.py

A test compares the page with what this makes. Nothing of a page is written by hand but the headings below.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

#: heading -> (module to name in front, names); classes are shown with their public methods
PARTS: dict[str, tuple[str, list[str]]] = {
    "Connect": ("datalog", ["connect", "Connection", "Db", "TxReport", "check", "compact"]),
    "Ask": ("datalog", ["q", "prepare", "Prepared", "Result", "explain", "register", "Limits", "Stop"]),
    "Write in steps": ("datalog", ["Atomic", "Change"]),
    "Dataclasses": ("datalog", ["attribute", "eid", "schema_of"]),
    "Values": ("datalog", [
        "Keyword", "Symbol", "Char", "Tagged", "List", "Vector", "Map", "Set", "Datom", "read_edn", "write_edn",
    ]),
    "Errors": ("datalog", ["DatalogError"]),
    "The query builder": ("datalog.query", []),
    "asyncio": ("datalog.aio", ["connect", "AsyncConnection", "AsyncDb"]),
    "pytest": ("datalog.pytest_fixtures", ["datalog_db", "datalog_schema"]),
}  # fmt: skip
SPECIAL = ("__call__", "__arrow_c_stream__")


def page() -> str:
    """The text of docs/reference.md."""
    lines = [
        "# Reference",
        "",
        "Made from the docstrings by `docs/make_reference.py`; a test holds it against them. Errors: [errors.md](errors.md).",
        "",
    ]
    lines += [f"- [{heading}](#{heading.lower().replace(' ', '-')})" for heading in PARTS]
    for heading, (module_name, names) in PARTS.items():
        module = import_module(module_name)
        lines += ["", f"## {heading}", ""]
        for name in names or sorted(n for n in module.__all__ if n not in ("ANY", "RULES")):
            space = module_name.removeprefix("datalog").removeprefix(".")
            lines += entry(f"{space}.{name}" if space else name, getattr(module, name))
    return "\n".join(lines).rstrip() + "\n"


def entry(name: str, value: Any) -> list[str]:
    """A function, or a class with its methods."""
    value = getattr(value, "_fixture_function", value)
    if not inspect.isclass(value):
        return [f"### {name}", "", *signature(name.rpartition(".")[2], value), *prose(value)]
    shown = [f"### {name}", "", *prose(value)]
    for member, found in vars(value).items():
        if (member.startswith("_") and member not in SPECIAL) or not inspect.getdoc(_plain(found)):
            continue
        plain = _plain(found)
        if isinstance(found, property):
            shown += [f"**`.{member}`** {'  '.join(prose(plain)).strip()}", ""]
        elif inspect.isfunction(plain):
            shown += [*signature(f".{member}", plain), *prose(plain)]
    return shown


def _plain(found: Any) -> Any:
    """The function behind a property, class method or static method."""
    if isinstance(found, property):
        return found.fget
    return getattr(found, "__func__", found)


def signature(name: str, value: Any) -> list[str]:
    """The call, as a block; nothing for what has no signature. Types are in the source."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    parameters = [
        p.replace(annotation=p.empty)
        for i, p in enumerate(found.parameters.values())
        if not (i == 0 and p.name in ("self", "cls"))
    ]
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    back = found.return_annotation
    arrow = f" -> {back}" if isinstance(back, str) else ""
    return [f"```text\n{name}{text}{arrow}\n```", ""]


def prose(value: Any) -> list[str]:
    """The docstring as Markdown: sections in bold, examples as blocks, arguments as lists."""
    text = inspect.cleandoc(value.__doc__ or "")
    out: list[str] = []
    section = code = False
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Raises|Example|Returns|Attributes):", line)
        indented = line.startswith("    ")
        is_code = (
            (indented and not section) or line.lstrip().startswith((">>> ", "... ")) or (code and line.strip() != "")
        )
        if heading:
            section = heading[1] != "Example"
            out += [*_fence(code), "", f"**{heading[1]}**", ""]
            code = False
            continue
        if line and not indented and section:
            section = False
        if is_code and not code:
            out += ["", "```text"]
            code = True
        elif code and not is_code:
            out += ["```"]
            code = False
        if not code and section and line.strip():
            deeper = line.startswith("        ")
            out.append(f"  {line.strip()}" if deeper else f"- {line.strip()}")
        else:
            out.append(line[4:] if code and indented else line)
    out += _fence(code)
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n")
    return [joined, ""] if joined else []


def _fence(code: bool) -> list[str]:
    """The end of a block that is open."""
    return ["```"] if code else []


if __name__ == "__main__":
    (HERE / "reference.md").write_text(page(), encoding="utf-8")
