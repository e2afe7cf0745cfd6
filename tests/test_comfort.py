"""What makes answers pleasant in Python: one, first, data frames, and what a notebook shows."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

import datalog as d
from datalog import frames

NOW = datetime(2024, 5, 1, 10, 30, tzinfo=UTC)
SCHEMA = """{:p/name {:db/valueType :db.type/string :db/doc "<b>name</b>"} :p/age {:db/valueType :db.type/long}
             :p/seen {:db/valueType :db.type/instant} :p/mass {:db/valueType :db.type/double}
             :p/role {:db/valueType :db.type/keyword} :p/live {:db/valueType :db.type/boolean}}"""
ALL = """[:find ?n ?a ?s ?m ?r ?l :where [?p :p/name ?n] [?p :p/age ?a] [?p :p/seen ?s] [?p :p/mass ?m] [?p :p/role ?r]
          [?p :p/live ?l] :order-by ?n]"""


@pytest.fixture(scope="module")
def db():
    """Two persons."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([
            {":p/name": n, ":p/age": a, ":p/seen": NOW, ":p/mass": m, ":p/role": d.kw(r), ":p/live": a < 40}
            for n, a, m, r in [("Ann", 30, 60.5, "admin"), ("Bob <i>", 41, 80.0, "staff")]
        ])  # fmt: skip
        yield conn.db()


def test_one_and_first(db) -> None:
    """`one` gives the only row or says how many there are; `first` gives a row or None."""
    ages = "[:find ?n ?a :in $ ?least :where [?p :p/name ?n] [?p :p/age ?a] [(>= ?a ?least)] :order-by ?a]"
    assert db.q(ages, 40).one() == ("Bob <i>", 41)
    assert db.q(ages, 0).first() == ("Ann", 30)
    assert db.q(ages, 99).first() is None
    with pytest.raises(d.DatalogError, match=r"result/one.*exactly one row, and there are 2: \[\"Ann\" 30\]"):
        db.q(ages, 0).one()
    with pytest.raises(d.DatalogError, match="and there are none"):
        db.q(ages, 99).one()


def test_pandas(db) -> None:
    """A pandas frame has typed columns, and keeps values that pandas has no type for."""
    pandas = pytest.importorskip("pandas")
    frame = db.q(ALL).df("pandas")
    assert list(frame.columns) == ["n", "a", "s", "m", "r", "l"]
    assert frame["a"].dtype == "int64"
    assert frame["m"].sum() == 140.5
    assert frame["s"][0] == pandas.Timestamp(NOW)
    assert frame["r"][0] == d.kw("admin")
    assert frame["l"].tolist() == [True, False]
    assert len(db.q("[:find ?p :where [?p :p/age 99]]").df()) == 0


def test_polars(db) -> None:
    """A polars frame has typed columns; keywords are EDN text."""
    polars = pytest.importorskip("polars")
    frame = db.q(ALL).df("polars")
    assert frame.schema["s"] == polars.Datetime("us", "UTC")
    assert frame.rows()[0] == ("Ann", 30, NOW, 60.5, ":admin", True)
    assert db.q("[:find ?n (max ?n) :where [?p :p/name ?n]]").df("polars").shape == (2, 2)


def test_no_frame_library(db, monkeypatch) -> None:
    """Without a library the error says what to install; a library of another name is refused."""
    monkeypatch.setattr(frames, "find_spec", lambda _: None)
    with pytest.raises(d.DatalogError, match=r"result/frame(.|\n)*pip install pandas"):
        db.q(ALL).df()
    with pytest.raises(d.DatalogError, match="pip install polars"):
        db.q(ALL).df("polars")
    with pytest.raises(d.DatalogError, match="pandas or polars"):
        db.q(ALL).df("excel")


class Tags(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = set()

    def handle_starttag(self, tag, _):
        """Opened."""
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        """Closed: the last one that was opened."""
        assert self.open.pop() == tag


@pytest.mark.parametrize("what", ["database", "plan", "result"])
def test_notebook(db, what: str) -> None:
    """A database, a plan and a result are well-formed HTML with everything from data escaped."""
    query = '[:find ?n :where [?p :p/name ?n] [?p :p/name "<i>"]]'
    shown = {"database": db, "plan": db.explain(query, analyze=True), "result": db.q(ALL)}[what]._repr_html_()
    tags = Tags()
    tags.feed(shown)
    assert tags.open == []
    assert not tags.seen & {"b", "i"}
    assert {"database": "&lt;b&gt;name", "plan": 'class="datalog-plan"', "result": "Bob &lt;i&gt;"}[what] in shown


def test_a_plan_is_text(db) -> None:
    """What `explain` returns is a str, printed, compared and pickled as one."""
    plan = db.explain(ALL)
    assert isinstance(plan, str)
    assert plan.startswith("find ?n")
    assert type(pickle.loads(pickle.dumps(plan))) is str
    assert "scan" in d.explain(ALL, db)
