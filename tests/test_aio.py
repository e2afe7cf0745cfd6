"""The asyncio wrapper and the pytest fixture."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import datalog as d
from datalog import aio
from store.store import find_open

pytest_plugins = ["pytester"]
SCHEMA = {":n": {":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"}}
ENDLESS = "[:find (count ?x) . :in $ [?x ...] [?y ...] [?z ...] :where [(< ?x ?y ?z)]]"


def test_many_at_once() -> None:
    """Transactions of many tasks are all made, in the order they were begun; queries see them; errors come to their task."""

    async def program() -> None:
        async with aio.connect(None, SCHEMA) as conn:
            reports = await asyncio.gather(*(conn.transact([{":n": i}]) for i in range(200)))
            assert [r.tx for r in reports] == sorted(r.tx for r in reports)
            before = conn.db()
            with pytest.raises(d.DatalogError, match="value/wrong-type"):
                await conn.transact([{":n": "x"}])
            await conn.transact("[" + "{:n 1000} " * 10_000 + "]")
            counts = await asyncio.gather(*(conn.q("[:find (count ?e) . :where [?e :n _]]") for _ in range(20)))
            assert counts == [201] * 20
            assert await before.q("[:find (count ?e) . :where [?e :n _]]") == 200
            assert await before.q("[:find ?e . :in $ $2 :where [?e :n 3] [$2 ?e :n 3]]", conn.db())
            assert await conn.pull("[:n]", [":n", 7]) == {":n": 7}
            assert await before.pull_many("[:n]", [[":n", 7]]) == [{":n": 7}]
            await conn.load({":n": ([900], [9000])})
        assert repr(conn) == "<AsyncConnection closed>"
        with pytest.raises(d.DatalogError, match="store/closed"):
            await conn.q("[:find ?e :where [?e :n _]]")
        with pytest.raises(d.DatalogError, match="store/closed"):
            await before.q("[:find ?e :where [?e :n _]]")
        await conn.close()

    asyncio.run(program())


def test_cancelling_stops_the_query() -> None:
    """A task that times out stops its query in its thread: the only worker is free for the next one at once."""

    async def program() -> None:
        conn = await aio.connect(None, SCHEMA, workers=1)
        many = range(3000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await conn.q(ENDLESS, many, many, many)
        waiting = asyncio.create_task(conn.q(ENDLESS, many, many, many))
        await asyncio.sleep(0.05)
        queued = asyncio.create_task(conn.q("[:find ?e :where [?e :n 1]]"))
        waiting.cancel()
        assert list(await asyncio.wait_for(queued, 60)) == []  # without the stop it would wait for hours
        switch = d.Stop()
        stopped = asyncio.create_task(conn.q(ENDLESS, many, many, many, limits=d.Limits(stop=switch)))
        await asyncio.sleep(0.05)
        switch.stop()
        with pytest.raises(d.DatalogError, match="query/stopped"):
            await stopped
        left = asyncio.create_task(conn.q(ENDLESS, many, many, many))
        await asyncio.sleep(0.05)
        await conn.close()
        with pytest.raises(d.DatalogError, match="query/stopped"):
            await left

    asyncio.run(program())


def test_opening_twice_at_once(tmp_path: Path) -> None:
    """Tasks that open one connection at the same time share it; closing while it is opened closes it."""

    async def program() -> None:
        conn = aio.connect(tmp_path / "db", SCHEMA)
        await asyncio.gather(conn.open(), conn.open(), conn.open())
        assert (await conn.transact([{":n": 1}])).tx
        await conn.close()
        assert find_open(tmp_path / "db") is None
        conn = aio.connect(tmp_path / "db")
        await asyncio.gather(conn.open(), conn.close())
        assert find_open(tmp_path / "db") is None
        with pytest.raises(d.DatalogError, match="store/closed"):
            await conn.q("[:find ?e :where [?e :n]]")
        conn = aio.connect(tmp_path / "db")
        opening, closing = asyncio.ensure_future(conn.open()), asyncio.ensure_future(conn.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing.cancel()  # while it waits for the opening
        await asyncio.gather(opening, closing, return_exceptions=True)
        await conn.close()
        assert find_open(tmp_path / "db") is None

    asyncio.run(program())


def test_cancelling_while_opening(tmp_path: Path) -> None:
    """A connection whose opener was cancelled is closed once it is open."""
    opened: list[d.Connection] = []

    def slowly() -> d.Connection:
        time.sleep(0.2)
        opened.append(d.connect(tmp_path / "db"))
        return opened[0]

    async def program() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await aio.AsyncConnection(slowly, 1)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if opened and find_open(tmp_path / "db") is None:
                break

    asyncio.run(program())
    assert len(opened) == 1
    assert find_open(tmp_path / "db") is None


@dataclass
class Item:
    """A saved thing."""

    n: int = field(metadata=d.attribute(":n", unique=True))


def test_objects() -> None:
    """Objects are saved and loaded."""

    async def program() -> None:
        async with aio.connect(None, d.schema_of(Item)) as conn:
            eids = [await conn.save(Item(1)), *await conn.save_all([Item(2)])]
            assert await conn.db().load(Item, eids[0]) == Item(1)
            assert await conn.db().load_all(Item) == [Item(1), Item(2)]

    asyncio.run(program())


def test_the_fixture(pytester: pytest.Pytester) -> None:
    """`datalog_db` is an empty database for each test, with the schema that `datalog_schema` gives; unused it loads nothing."""
    pytester.makepyfile(
        test_one="""
import sys
def test_unused():
    assert "numpy" not in sys.modules
def test_empty(datalog_db):
    datalog_db.transact([{":any": 1}])
    assert datalog_db.q("[:find ?v . :where [_ :any ?v]]") == 1
def test_empty_again(datalog_db):
    assert len(datalog_db.db()) == 0
""",
        test_two="""
import pytest
@pytest.fixture
def datalog_schema():
    return "{:p/name {:db/valueType :db.type/string}}"
def test_schema(datalog_db):
    assert list(datalog_db.schema) == [":p/name"]
""",
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=4)
