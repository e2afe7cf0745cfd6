"""A pytest plugin: a temporary database for a test. It comes with the package; what it needs is imported when it is asked for.

    def test_something(datalog_db):
        datalog_db.transact([{":person/name": "Ada"}])
        assert datalog_db.q("[:find ?n . :where [_ :person/name ?n]]") == "Ada"

`datalog_db` is a connection to an empty database of the test's own, gone when the test ends. Its schema is what the fixture
`datalog_schema` gives: None, until a test module or `conftest.py` overrides it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datalog.api import Connection


@pytest.fixture
def datalog_schema() -> Any:
    """The schema of `datalog_db`, in any form that `connect` takes; override it."""
    return None


@pytest.fixture
def datalog_db(datalog_schema: Any) -> Iterator[Connection]:
    """A connection to an empty temporary database, closed and removed after the test."""
    from datalog.api import connect  # noqa: PLC0415 - who does not ask for it does not wait for numpy

    with connect(None, datalog_schema) as conn:
        yield conn
