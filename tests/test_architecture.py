"""The order of the modules: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

ORDER = {
    "store": [
        "errors", "pattern", "edn_model", "edn_tokens", "edn_quick", "edn_read", "edn_write", "edn", "value", "datom", "schema", "columns", "segment", "environment", "writing",
        "dictionary", "log", "index", "overlay", "cache", "places", "snapshot", "filtered", "seek", "txdata", "resolve", "effects",
        "schema_change", "plain", "prepare", "load", "merge", "committed", "commit", "group", "undo", "composition", "transactor", "speculation", "store", "check", "backup",
    ],
    "datalog": [
        "errors", "progress", "record", "limits", "regex", "ast", "kernels", "maps", "relation", "frames", "result", "render", "charts", "builtins", "aggregates", "parser", "pull_parser",
        "renaming", "monotone", "shapes", "rules", "plan", "pictures", "notebook", "cost", "lower", "joinorder", "outputs", "program", "planner", "entity", "calls", "scan", "small", "predicate", "best", "fixpoint", "hops", "closure", "engine", "pull_flat", "pull", "find",
        "naive", "prepared", "query", "atomic", "objects", "api", "__init__", "aio", "pytest_fixtures", "cli",
    ],
    "exchange": [
        "files", "types", "source", "csv_files", "records", "parquet_files", "importing", "exporting", "dump", "restore", "copying",
    ],
    "shell": [
        "arguments", "scan", "running", "words", "reports", "describe", "commands", "session", "plain", "prompt", "start",
        "ask", "care", "move", "keep", "completion_script",
    ],
    "migration": [
        "jsonvalue", "plots", "report", "source", "files", "locks", "journal", "modes", "stages", "telemetry", "rules", "entry", "keymap",
        "buckets", "edn_side", "entities", "writing", "importer", "verify", "database_side", "database_journal", "follower", "search", "record_keeper", "status",
        "control", "memory_model", "memory_core", "memory_reads", "memory_saves", "memory", "checking", "gates", "cutover", "backfill", "finish", "operations", "memory_commands", "subcommands", "commands",
        "script_folder", "script_values", "script_history", "script_steps", "script_schema", "scripts", "script_draft", "script_checks",
        "script_commands", "pytest_scripts",
    ],
}  # fmt: skip
MAY_SEE = {
    "store": set(),
    "datalog": {"store"},
    "exchange": {"datalog", "store"},
    "shell": {"datalog", "exchange", "store"},
    "migration": {"datalog", "store.edn", "store.errors"},
}
# in a function, to show a value in an error: the writer is below the reader
ALLOWED = {
    ("store/edn_tokens.py", "store.edn_write"),
    ("migration/control.py", "migration.operations"),
}  # and a request, when it comes


def _imports(file: Path) -> list[str]:
    """The modules of ours that a file imports when it runs, wherever in the file; not those for annotations only."""
    found = []
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            package = ROOT / node.module.replace(".", "/")
            if package.is_dir():
                found += [
                    f"{node.module}.{alias.name}" for alias in node.names if (package / f"{alias.name}.py").exists()
                ] or [node.module]
            else:
                found.append(node.module)
    return [name for name in found if name.split(".")[0] in MAY_SEE]


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree outside of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _running(node)


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


@pytest.mark.parametrize("package", sorted(MAY_SEE))
def test_packages_look_down_only(package: str) -> None:
    """A package imports itself and the packages below it."""
    for file in _files(package):
        for name in _imports(file):
            top = name.split(".")[0]
            allowed = top == package or top in MAY_SEE[package] or name in MAY_SEE[package]
            assert allowed, f"{file.name} imports {name}"


@pytest.mark.parametrize("package", sorted(ORDER))
def test_modules_import_only_what_is_listed_above_them(package: str) -> None:
    """Inside a package the imports follow the list, and every module is on it."""
    order = ORDER[package]
    for file in _files(package):
        if file.stem == "__init__":
            continue
        assert file.stem in order, f"{package}/{file.name} is not on the list"
        for name in _imports(file):
            top, _, module = name.partition(".")
            module = module or "__init__"
            if top != package or (f"{package}/{file.name}", name) in ALLOWED:
                continue
            assert order.index(module) < order.index(file.stem), (
                f"{package}/{file.name} imports {name}, which is below it"
            )


@pytest.mark.parametrize("package", sorted(MAY_SEE))
def test_no_package_has_a_cycle(package: str) -> None:
    """Imports inside a package, those in functions included, never come round."""
    graph = {
        file.stem: {n.partition(".")[2] for n in _imports(file) if n.startswith(f"{package}.")} - {file.stem}
        for file in _files(package)
    }
    for source, target in ALLOWED:
        if source.startswith(f"{package}/"):
            graph[Path(source).stem].discard(target.partition(".")[2])
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for below in graph.get(module, ()):
                walk(below, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_only_the_environment_knows_lmdb() -> None:
    """One file imports lmdb."""
    users = [f.name for p in MAY_SEE for f in _files(p) if "lmdb" in {n.split(".")[0] for n in _all_imports(f)}]
    assert users == ["environment.py"]


def _all_imports(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
