"""A pytest plugin: four tests for a folder of migration scripts. It comes with the package, and does nothing until asked.

In `pyproject.toml`:

    [tool.pytest.ini_options]
    datalog_scripts = "migrations"                # the folder; with it the tests are collected
    datalog_scripts_schema = "schema.edn"         # what the application declares; without it that test is left out
    datalog_scripts_data = "tests/script_data"    # tx data to transact between scripts, 0003.edn after script 3

or on the command line `--datalog-scripts DIR`, `--datalog-scripts-schema FILE`, `--datalog-scripts-data DIR`. Paths are relative
to the folder of pytest's configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OPTIONS = {
    "datalog_scripts": "folder of migration scripts to test",
    "datalog_scripts_schema": "EDN file of the schema that the scripts lead to",
    "datalog_scripts_data": "folder of EDN files of tx data, 0003.edn for after script 3",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin, on the command line and in the configuration."""
    group = parser.getgroup("datalog", "migration scripts of datalog")
    for name, text in _OPTIONS.items():
        group.addoption("--" + name.replace("_", "-"), default=None, help=text)
        parser.addini(name, text)


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds the tests when a folder is given."""
    folder, schema, data = (_path(config, name) for name in _OPTIONS)
    if folder is None:
        return
    # imported only now: a program that has the plugin installed and does not use it pays nothing
    from migration import script_checks  # noqa: PLC0415

    tests: dict[str, Callable[[], None]] = {
        "single_head": lambda: script_checks.check_single_head(folder),
        "up_from_empty": lambda: script_checks.check_up_from_empty(folder),
        "up_revert_up": lambda: script_checks.check_up_revert_up(folder, data),
    }
    if schema is not None:
        tests["declared_schema"] = lambda: script_checks.check_declared_schema(folder, schema)
    for name, test in tests.items():
        items.append(ScriptTest.from_parent(session, name=f"datalog_scripts::{name}", test=test, folder=folder))


def _path(config: pytest.Config, name: str) -> Path | None:
    given = config.getoption(name) or config.getini(name)
    return config.rootpath / str(given) if given else None


class ScriptTest(pytest.Item):
    """One of the four tests."""

    def __init__(self, *, test: Callable[[], None], folder: Path, **more: Any) -> None:
        super().__init__(**more)
        self._test = test
        self._folder = folder

    def runtest(self) -> None:
        """Runs the check."""
        self._test()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The error as the library words it, without the library's own frames."""
        from store.errors import DatalogError  # noqa: PLC0415 - as above

        if isinstance(excinfo.value, DatalogError | AssertionError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the test is said to be."""
        return self._folder, None, self.name
