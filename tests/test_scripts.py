"""Migration scripts: applied once, never by half, taken back exactly; wrong input refused with how to mend it."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import datalog as d
from datalog.cli import main
from migration import script_checks, scripts
from migration.script_checks import same_data
from migration.script_draft import draft
from migration.script_folder import read_folder
from migration.script_history import is_record, read_applied
from migration.script_schema import differences, plain_schema, read_declared
from migration.script_values import ValueReport, converter, pick
from store.errors import UserError

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
SHOP = ROOT / "examples" / "shop"


def folder(path: Path, *texts: str) -> Path:
    """A folder of scripts: EDN texts, and Python where `def up` is in them."""
    path.mkdir(exist_ok=True)
    for number, text in enumerate(texts, 1):
        kind = "py" if "def up" in text else "edn"
        (path / f"{number:04}_s{number}.{kind}").write_text(text, encoding="utf-8")
    return path


def state(conn: d.Connection) -> tuple[Any, Any]:
    """Datoms of the application with typed values, and the schema."""
    db = conn.db()
    names = [n for n in conn.schema if not is_record(n)]
    return {(x.e, x.a, type(x.v).__name__, repr(x.v)) for n in names for x in db.datoms("aevt", n)}, plain_schema(
        conn.schema
    )


USERS = "{:up [{:schema {:user/name {:db/valueType :db.type/string} :user/age {:db/valueType :db.type/string}}}]}"
AGES = "{:up [{:retype {:user/age {:to :db.type/long}}}]}"


# ---------------------------------------------------------------------------------------------------------------------
# the example


def test_the_example_scripts_pass_the_four_checks() -> None:
    """The shop's scripts are one line, run on nothing, go up and back with data between them, and give the schema."""
    script_checks.check_single_head(SHOP / "migrations")
    script_checks.check_up_from_empty(SHOP / "migrations")
    script_checks.check_up_revert_up(SHOP / "migrations", SHOP / "data")
    script_checks.check_declared_schema(SHOP / "migrations", SHOP / "schema.edn")


def test_the_example_applied_and_reverted_has_equal_data(tmp_path: Path) -> None:
    """Six scripts up and back in one go: the same datoms, the same schema, and a database without findings."""
    shop = read_folder(SHOP / "migrations")
    assert len(shop) == 6
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, shop, to=1)
        conn.transact((SHOP / "data" / "0001.edn").read_text(encoding="utf-8"))
        before = state(conn)
        scripts.apply(conn, shop)
        assert scripts.check(shop, conn=conn, declared=read_declared(SHOP / "schema.edn")[0]) == []
        assert conn.q('[:find ?f . :where [?e :customer/email "ada.0@example.org"] [?e :customer/given ?f]]') == "Ada"
        assert conn.q("[:find (count ?t) . :where [_ :customer/tags ?t]]") == 5
        assert {type(p).__name__ for p in conn.q("[:find [?p ...] :where [_ :product/price ?p]]")} == {"Decimal"}
        after = state(conn)
        planned = scripts.plan_revert(conn, to=1)
        done = scripts.revert(conn, to=1)
        assert [(p.number, p.changes) for p in planned] == [(p.number, p.changes) for p in done]
        assert state(conn) == before
        scripts.apply(conn, shop)
        assert state(conn) == after
    assert d.check(tmp_path / "db") == []


# ---------------------------------------------------------------------------------------------------------------------
# the folder


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        ({"0001_a.edn": USERS, "0003_c.edn": USERS}, "script/gap", "no script of number 2"),
        (
            {"0001_a.edn": USERS, "0002_b.edn": USERS, "0002_c.py": "def up(conn): pass"},
            "script/two-heads",
            "0003_its_name.py",
        ),
        ({"0000_a.edn": USERS, "0001_b.edn": USERS}, "script/gap", "number 0"),
        ({"1.edn": USERS}, "script/name", "0007_split_names.edn"),
        ({"0001_a b.edn": USERS}, "script/name", "not named as one"),
        ({"0001_a.sql": USERS}, "script/name", "not named as one"),
        ({"0001_a.edn": "{:up ["}, "script/form", "no EDN"),
        ({"0001_a.edn": "[1 2]"}, "script/form", "no map"),
        ({"0001_a.edn": "{:up {}}"}, "script/form", ":up is no vector"),
        ({"0001_a.edn": "{:doc 1 :up []}"}, "script/form", "is no vector"),
        ({"0001_a.edn": "{:up [] :down []}"}, "script/form", ":down is no key"),
        ({"0001_a.py": "def up(conn:"}, "script/form", "line 1"),
        ({"0001_a.py": "def down(conn): pass"}, "script/form", "no function `up`"),
        ({"0001_a.py": b"\xff\xfe"}, "script/unreadable", "cannot be read"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, files: dict[str, Any], code: str, says: str) -> None:
    """Names, numbers and forms that are wrong: an error that says which and how to mend it."""
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path)
    assert caught.value.code == code
    assert says in str(caught.value)


def test_a_missing_folder_and_other_files(tmp_path: Path) -> None:
    """No folder is an error; an empty one has no scripts; a README is none; line ends do not change the checksum."""
    with pytest.raises(UserError, match="no folder"):
        read_folder(tmp_path / "none")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "__init__.py").write_text("")
    assert read_folder(tmp_path) == []
    (tmp_path / "0001_a.edn").write_bytes(b"{:up\n []}")
    one = read_folder(tmp_path)[0].checksum
    (tmp_path / "0001_a.edn").write_bytes(b"{:up\r\n []}")
    assert read_folder(tmp_path)[0].checksum == one


# ---------------------------------------------------------------------------------------------------------------------
# apply, and what refuses it


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{:up [{:schema {:a {:db/valueType :db.type/nope}}}]}", ":db.type/"),
        ("{:up [{:shema {}}]}", "did you mean :schema?"),
        ("{:up [{:schema {} :rename {}}]}", "A step has one key"),
        ("{:up [1]}", "1 is no map"),
        ("{:up [{:rename {:no/such :x/y}}]}", "no attribute :no/such"),
        ("{:up [{:retype {:user/nmae {:to :db.type/long}}}]}", "did you mean :user/name?"),
        ("{:up [{:retype {:user/age {:too :db.type/long}}}]}", ":too is unknown"),
        ("{:up [{:make-one {:user/age :best}}]}", ":latest, :min, :max"),
        ("{:up [{:add [:user/name]}]}", "an attribute and a query"),
        ("{:up [{:add [:user/name [:find ?e :where [?e :user/name]]]}]}", "does not find pairs"),
        ('{:up [{:require [[:find ?e :where [?e :user/age "0"]] "Somebody is new-born."]}]}', "Somebody is new-born."),
        ("{:up [{:transact [[:db/add 1 :user/nick 1]]}]}", ":user/nick is not declared"),
        ("{:up [{:delete [:user/age]}]}", ":drop retracts them, too"),
        ("{:up [{:schema {:user/age {:db/valueType :db.type/long}}}]}", ":retype converts the values"),
        ("{:up [{:transact [[:db/add 1 :migration.script/number 7]]}]}", "records of scripts"),
        ("{:up [{:drop [:migration.script/number]}]}", "records of scripts"),
        (
            "def up(conn):\n    conn.transact([[':db/add', 1, ':user/name', 'x']])\n    1 / 0\n",
            "ZeroDivisionError: division by zero, line 3",
        ),
        ("def up(conn):\n    conn.transact([[':db/add', 1, ':user/nick', 'x']])\n", "stopped at line 2"),
        ("raise ValueError('early')\ndef up(conn): pass\n", "ValueError: early, line 1"),
        ("import no_such_module\ndef up(conn): pass\n", "no_such_module"),
        ("def up(): pass\n", "TypeError"),
    ],
)
def test_a_script_that_fails_leaves_nothing(tmp_path: Path, text: str, says: str) -> None:
    """Whatever goes wrong, the error names script and place, and the database is what it was."""
    known = read_folder(folder(tmp_path / "s", USERS, text))
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, known, to=1)
        conn.transact([{":user/name": "Ada", ":user/age": "36 years"}])
        before, basis = state(conn), conn.db().basis_tx
        planned = scripts.plan(conn, known)
        assert planned[-1].error is not None
        with pytest.raises(UserError) as caught:
            scripts.apply(conn, known)
        assert caught.value.code == "script/failed"
        assert "0002_s2" in str(caught.value)
        assert says in str(caught.value), str(caught.value)
        assert says in str(planned[-1].error)
        assert (state(conn), conn.db().basis_tx) == (before, basis)
        assert list(read_applied(conn.db())) == [1]


def test_the_report_of_values_that_do_not_fit(tmp_path: Path) -> None:
    """A type change names each distinct value, how many have it, and why; what `:using` maps is converted."""
    texts = (USERS, AGES)
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(folder(tmp_path / "s", *texts)), to=1)
        conn.transact([{":db/id": i + 1, ":user/age": a} for i, a in enumerate(["1", "old", " 3 ", "old", "", "5.5"])])
        (planned,) = scripts.plan(conn, read_folder(tmp_path / "s"))
        assert planned.error is not None
        report = planned.error.data["cause"]
        assert (report["attribute"], report["wanted"]) == (":user/age", ":db.type/long")
        assert [(v["value"], v["count"], v["entities"]) for v in report["values"]] == [
            ('"old"', 2, [2, 4]), ('""', 1, [5]), ('"5.5"', 1, [6]),
        ]  # fmt: skip
        better = '{:up [{:retype {:user/age {:to :db.type/long :using {"old" 99 "" nil "5.5" 5}}}}]}'
        scripts.apply(conn, read_folder(folder(tmp_path / "s", USERS, better)))
        assert dict(conn.q("[:find ?e ?a :where [?e :user/age ?a]]")) == {1: 1, 2: 99, 3: 3, 4: 99, 6: 5}


def test_one_value_of_several(tmp_path: Path) -> None:
    """Cardinality one: refused with every entity named when nothing says which value stays, else the one that was said."""
    many = "{:up [{:schema {:u/phone {:db/valueType :db.type/string :db/cardinality :db.cardinality/many}}}]}"
    s = folder(tmp_path / "s", many, "{:up [{:make-one {:u/phone nil}}]}")
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(s), to=1)
        conn.transact([[":db/add", 1, ":u/phone", "b"], [":db/add", 2, ":u/phone", "z"]])
        conn.transact([[":db/add", 1, ":u/phone", "a"]])
        (planned,) = scripts.plan(conn, read_folder(s))
        assert planned.error is not None
        assert [v["entities"] for v in planned.error.data["cause"]["values"]] == [[1]]
        for keep, left in ((":latest", "a"), (":min", "a"), (":max", "b")):
            folder(s, many, f"{{:up [{{:make-one {{:u/phone {keep}}}}}]}}")
            scripts.apply(conn, read_folder(s))
            assert dict(conn.q("[:find ?e ?p :where [?e :u/phone ?p]]")) == {1: left, 2: "z"}
            scripts.revert(conn, to=1)
            assert sorted(conn.q("[:find [?p ...] :where [1 :u/phone ?p]]")) == ["a", "b"]


def test_edited_missing_and_newer(tmp_path: Path) -> None:
    """An applied script that was edited or is gone stops everything, with three ways to mend it; each of them works."""
    s = folder(tmp_path / "s", USERS, AGES)
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(s))
        (s / "0002_s2.edn").write_text(AGES + " ; a comment")
        with pytest.raises(UserError, match="was edited after it was applied") as caught:
            scripts.apply(conn, read_folder(s))
        assert (caught.value.code, "--accept 2" in str(caught.value)) == ("script/edited", True)
        assert [f.code for f in scripts.check(read_folder(s), conn=conn)] == ["script/edited"]
        assert [x.state for x in scripts.status(conn, read_folder(s))] == ["applied", "edited"]
        assert len(scripts.baseline(conn, read_folder(s), to=2, accept=True)) == 1
        assert scripts.check(read_folder(s), conn=conn) == []
        (s / "0002_s2.edn").unlink()
        with pytest.raises(UserError, match="its last one is 1") as caught:
            scripts.apply(conn, read_folder(s))
        assert caught.value.code == "script/newer-database"
        assert [x.state for x in scripts.status(conn, read_folder(s))] == ["applied", "missing"]
        scripts.revert(conn, to=1)  # without the file
        assert scripts.check(read_folder(s), conn=conn) == []


def test_a_database_without_schema_stays_one(tmp_path: Path) -> None:
    """The records declare nothing: attributes that nobody declared are accepted before and after."""
    s = folder(tmp_path / "s", '{:up [{:transact [{:any/thing "x"}]}]}')
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(s))
        conn.transact([{":another/thing": 1}])
        scripts.revert(conn, to=0)
        assert conn.q("[:find [?v ...] :where [_ :any/thing ?v]]") == [] if ":any/thing" in conn.schema else True
        assert conn.q("[:find ?v . :where [_ :another/thing ?v]]") == 1


# ---------------------------------------------------------------------------------------------------------------------
# revert


def test_revert_names_what_was_changed_since(tmp_path: Path) -> None:
    """A fact that a later transaction changed stops a revert, a plan of it says the same; forced, it is named as lost."""
    s = folder(tmp_path / "s", USERS, AGES)
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(s), to=1)
        conn.transact([{":db/id": 1, ":user/age": "1"}, {":db/id": 2, ":user/age": "2"}])
        scripts.apply(conn, read_folder(s))
        conn.transact([[":db/add", 1, ":user/age", 11]])
        (planned,) = scripts.plan_revert(conn, to=1)
        assert planned.error is not None
        assert planned.error.code == "tx/undo-conflict"
        with pytest.raises(d.DatalogError, match=r"Script 2 \(s2\).*changed the same facts"):
            scripts.revert(conn, to=1)
        (done,) = scripts.revert(conn, to=1, force=True)
        assert "11" in done.lost[0]
        assert dict(conn.q("[:find ?e ?a :where [?e :user/age ?a]]")) == {1: "1", 2: "2"}


def test_revert_without_the_old_values(tmp_path: Path) -> None:
    """Old values of a :db/noHistory attribute that `compact` dropped are named; forced, they stay away."""
    seen = "{:up [{:schema {:u/seen {:db/valueType :db.type/long :db/noHistory true}}} {:transact [[:db/add 1 :u/seen 1]]}]}"
    s = folder(tmp_path / "s", seen, "{:up [{:transact [[:db/add 1 :u/seen 2]]}]}")
    with d.connect(tmp_path / "db") as conn:
        scripts.apply(conn, read_folder(s))
        (planned,) = scripts.plan_revert(conn, to=1)
        assert planned.error is None
    d.compact(tmp_path / "db")
    with d.connect(tmp_path / "db") as conn:
        with pytest.raises(
            UserError, match=r":u/seen: 1 old values are no longer in the log \(:db/noHistory"
        ) as caught:
            scripts.revert(conn, to=1)
        assert caught.value.code == "script/lost"
        (done,) = scripts.revert(conn, to=1, force=True)
        assert len(done.lost) == 1
        assert conn.q("[:find ?v . :where [1 :u/seen ?v]]") is None


def test_a_dropped_log_and_a_baseline_cannot_be_reverted(tmp_path: Path) -> None:
    """What was never run here, or is out of the log, is refused with the reason."""
    s = folder(tmp_path / "s", USERS, AGES)
    with d.connect(tmp_path / "db", schema=read_declared_schema()) as conn:
        with pytest.raises(UserError, match="differences") as caught:
            scripts.baseline(conn, read_folder(s), to=2)
        assert caught.value.code == "script/drift"
        assert [p.action for p in scripts.baseline(conn, read_folder(s), to=1)] == ["baseline"]
        assert scripts.baseline(conn, read_folder(s), to=1) == []
        (done,) = scripts.apply(conn, read_folder(s))
        with pytest.raises(UserError, match="marked by `baseline`") as caught:
            scripts.revert(conn, to=0)
        assert caught.value.code == "script/baseline"
        assert list(read_applied(conn.db())) == [1]  # script 2 was taken back before
        (done,) = scripts.apply(conn, read_folder(s))
        conn.transact([{":user/name": "x"}])
        basis = conn.db().basis_tx
    d.compact(tmp_path / "db", drop_log_before=basis)
    with d.connect(tmp_path / "db") as conn, pytest.raises(d.DatalogError, match=f"no transaction {done.tx}"):
        scripts.revert(conn, to=1)


def read_declared_schema() -> Any:
    """The schema that USERS declares, as an application would."""
    return {":user/name": {":db/valueType": ":db.type/string"}, ":user/age": {":db/valueType": ":db.type/string"}}


# ---------------------------------------------------------------------------------------------------------------------
# processes


APPLY = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import datalog as d
from migration import scripts
from migration.script_folder import read_folder
with d.connect(sys.argv[1]) as conn:
    print("ready", flush=True)
    done = scripts.apply(conn, read_folder(Path(sys.argv[2]))) if sys.argv[3] == "apply" else scripts.revert(conn, to=1)
    print(len(done))
"""

STEP = """
import datalog as d
def up(conn):
    conn.update_schema({{":n/a{i}": {{":db/valueType": d.kw("db.type/long")}}}})
    conn.load({{":n/a{i}": (list(range(1, 2001)), list(range(2000)))}})
    conn.transact([[":db/add", 1, ":n/last", {i}]])
"""


def start(tmp_path: Path, what: str = "apply") -> subprocess.Popen[str]:
    """A process that applies all scripts, or reverts all but the first."""
    command = [sys.executable, "-c", APPLY.format(root=str(ROOT)), str(tmp_path / "db"), str(tmp_path / "s"), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def long_folder(tmp_path: Path, n: int) -> Path:
    """Scripts that take a while, each of which leaves a trace."""
    first = "{:up [{:schema {:n/last {:db/valueType :db.type/long}}}]}"
    return folder(tmp_path / "s", first, *(STEP.format(i=i) for i in range(2, n + 1)))


def test_two_processes_apply_each_script_once(tmp_path: Path) -> None:
    """Two that apply at the same time share the scripts between them; none is applied twice."""
    s = long_folder(tmp_path, 12)
    with start(tmp_path) as one, start(tmp_path) as other:
        said = [p.communicate(timeout=120)[0] for p in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0]
    assert sum(int(text.split()[-1]) for text in said) == 12
    with d.connect(tmp_path / "db") as conn:
        assert list(read_applied(conn.db())) == list(range(1, 13))
        assert scripts.check(read_folder(s), conn=conn) == []
        events = conn.q("[:find ?tx ?n :where [?tx :migration.script/number ?n]]")
        assert sorted(n for _, n in events) == list(range(13))


@pytest.mark.parametrize("what", ["apply", "revert"])
def test_killed_at_random_points_it_goes_on_where_it_ended(tmp_path: Path, what: str) -> None:
    """After each kill every script is there whole with its record, or not at all; in the end all are, or none, and nothing is damaged.

    The long form: SCRIPT_KILL_ROUNDS=200 pytest -n 0 tests/test_scripts.py -k killed
    """
    rounds = int(os.environ.get("SCRIPT_KILL_ROUNDS", "3"))
    n = 30 if what == "apply" else 20
    s = long_folder(tmp_path, n)
    r = random.Random(4)
    stopped = []

    def begin() -> None:
        """The state that is the farthest from the end."""
        with d.connect(tmp_path / "db") as conn:
            if what == "apply":
                scripts.revert(conn, to=0)
            else:
                scripts.apply(conn, read_folder(s))

    begin()
    for _ in range(rounds):
        process = start(tmp_path, what)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(r.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with d.connect(tmp_path / "db") as conn:
            applied = list(read_applied(conn.db()))
            assert applied == list(range(1, len(applied) + 1))
            made = [name for name in conn.schema if name.startswith(":n/a")]
            assert len(made) == max(0, len(applied) - 1)
            for name in made:
                assert len(conn.db().datoms("aevt", name)) == 2000
            if len(applied) > 1:
                assert conn.q("[:find ?l . :where [1 :n/last ?l]]") == len(applied)
        stopped.append(len(applied))
        if stopped[-1] == (n if what == "apply" else 1):
            begin()
    with d.connect(tmp_path / "db") as conn:
        if what == "apply":
            scripts.apply(conn, read_folder(s))
            assert scripts.check(read_folder(s), conn=conn) == []
        else:
            scripts.revert(conn, to=0)
            assert list(read_applied(conn.db())) == []
            assert not [name for name in conn.schema if name.startswith(":n/")]
    assert d.check(tmp_path / "db") == []
    print(f"{what}: {rounds} kills, {sum(1 < k < n for k in stopped)} of them half way")


# ---------------------------------------------------------------------------------------------------------------------
# autogenerate


def test_autogenerate_writes_what_is_missing(tmp_path: Path) -> None:
    """A rename by hint, a type, a cardinality, a drop marked as destructive, a composite: applied, nothing is missing."""
    declared = tmp_path / "schema.edn"
    declared.write_text("""
      {:u/nick  {:db/valueType :db.type/string :migration/was :u/name}
       :u/age   {:db/valueType :db.type/long :db/doc "In years."}
       :u/phone {:db/valueType :db.type/string}
       :u/place {:db/tupleAttrs [:u/nick :u/age]}
       :u/born  {:db/valueType :db.type/instant}}""")
    have = {":u/name": {":db/valueType": ":db.type/string"}, ":u/age": {":db/valueType": ":db.type/string"},
            ":u/phone": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
            ":u/birth": {":db/valueType": ":db.type/instant"}, ":u/old": {":db/valueType": ":db.type/string"}}  # fmt: skip
    with d.connect(tmp_path / "db", schema=have) as conn:
        conn.transact([{":db/id": 1, ":u/name": "Ada", ":u/age": "36", ":u/phone": ["1"], ":u/old": "x"}])
        wanted, hints = read_declared(declared)
        assert hints == {":u/nick": ":u/name"}
        text = draft(conn.db(), wanted, hints, "tidy")
        assert text is not None
        assert "{:rename {:u/name :u/nick}}" in text
        assert "; destructive: 1 datoms of :u/old" in text
        assert "or was it renamed? then instead: {:rename {:u/birth :u/born}}" in text
        s = read_folder(folder(tmp_path / "s", text))
        scripts.apply(conn, s)
        assert differences(plain_schema(conn.schema), wanted) == []
        assert draft(conn.db(), wanted, hints, "again") is None
        assert conn.pull("[:u/nick :u/age :u/place]", 1) == {
            ":u/nick": "Ada",
            ":u/age": 36,
            ":u/place": d.Vector(["Ada", 36]),
        }
        scripts.revert(conn, to=0)
        assert conn.pull("[:u/name :u/age :u/old]", 1) == {":u/name": "Ada", ":u/age": "36", ":u/old": "x"}


def random_schema(r: random.Random) -> dict[str, Any]:
    """A schema of a few attributes."""
    out: dict[str, Any] = {}
    for name in r.sample("abcdef", r.randrange(1, 6)):
        props: dict[str, Any] = {
            ":db/valueType": f":db.type/{r.choice(['string', 'long', 'keyword', 'ref', 'boolean'])}"
        }
        if r.random() < 0.3:
            props[":db/unique"] = f":db.unique/{r.choice(['value', 'identity'])}"
        if r.random() < 0.3:
            props[":db/cardinality"] = ":db.cardinality/many"
        if r.random() < 0.2:
            props[":db/doc"] = r.choice(["one", "two"])
        if r.random() < 0.2:
            props[":db/index"] = False
        if props[":db/valueType"] == ":db.type/ref" and r.random() < 0.5:
            props[":db/isComponent"] = True
        out[f":x/{name}"] = props
    single = sorted(n for n, p in out.items() if ":db/cardinality" not in p)
    if len(single) > 1 and r.random() < 0.5:
        out[":x/tuple"] = {":db/tupleAttrs": single[:2]}
    return out


@pytest.mark.parametrize("seed", range(40))
def test_a_drafted_script_leads_to_any_schema(tmp_path: Path, seed: int) -> None:
    """From any schema to any other, on an empty database: the draft applied, nothing differs; taken back, all is as it was."""
    r = random.Random(seed)
    with d.connect(None, schema=random_schema(r)) as conn, d.connect(None, schema=random_schema(r)) as other:
        wanted = plain_schema(other.schema)
        before = plain_schema(conn.schema)
        text = draft(conn.db(), wanted, {}, "x")
        if text is None:
            assert before == wanted
            return
        scripts.apply(conn, read_folder(folder(tmp_path / "s", text)))
        assert differences(plain_schema(conn.schema), wanted) == [], text
        scripts.revert(conn, to=0)
        assert plain_schema(conn.schema) == before


# ---------------------------------------------------------------------------------------------------------------------
# commands


def run(capsys: Any, *arguments: str) -> tuple[int, str]:
    """The exit code and output of `datalog migrate`."""
    code = main(["migrate", *arguments])
    out = capsys.readouterr()
    return code, out.out + out.err


def test_commands_from_new_to_revert(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Every command, with --json, and its exit code."""
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "status", "--db", "a.db")[0] == 2  # no folder
    code, out = run(capsys, "new", "Create users", "--json")
    assert (code, json.loads(out)) == (0, {"path": "migrations/0001_create_users.edn", "number": 1})
    assert run(capsys, "new", "more", "--python")[1] == "migrations/0002_more.py\n"
    assert run(capsys, "new", "!!")[0] == 2
    Path("migrations/0001_create_users.edn").write_text(USERS)
    code, out = run(capsys, "plan", "--db", "a.db", "--json")
    assert (code, [x["number"] for x in json.loads(out)["scripts"]]) == (0, [1, 2])
    assert not Path("a.db").exists()
    code, out = run(capsys, "apply", "--db", "a.db", "--json")
    assert (code, [x["name"] for x in json.loads(out)["scripts"]]) == (0, ["create_users", "more"])
    assert run(capsys, "apply", "--db", "a.db") == (0, "nothing to apply\n")
    assert run(capsys, "plan", "--db", "a.db") == (0, "nothing to apply\n")
    code, out = run(capsys, "status", "--db", "a.db", "--json")
    assert [x["state"] for x in json.loads(out)["scripts"]] == ["applied", "applied"]
    assert run(capsys, "check", "--db", "a.db") == (0, "no findings; 2 scripts\n")
    assert json.loads(run(capsys, "check", "--db", "a.db", "--json")[1]) == {"findings": []}
    Path("schema.edn").write_text(
        "{:user/name {:db/valueType :db.type/string} :user/age {:db/valueType :db.type/long}}"
    )
    code, out = run(capsys, "check", "--db", "a.db", "--schema", "schema.edn")
    assert (code, "script/declared" in out, out.endswith("\n1 finding\n")) == (1, True, True)
    code, out = run(capsys, "autogenerate", "--db", "a.db", "--schema", "schema.edn", "--check", "--json")
    assert (code, json.loads(out)["path"]) == (1, None)
    code, out = run(capsys, "autogenerate", "ages", "--db", "a.db", "--schema", "schema.edn")
    assert (code, out.splitlines()[0]) == (0, "migrations/0003_ages.edn")
    assert run(capsys, "autogenerate", "--db", "a.db", "--schema", "schema.edn")[0] == 2  # not applied yet
    with d.connect("a.db") as conn:
        conn.transact([{":user/age": "x"}])
    code, out = run(capsys, "apply", "--db", "a.db")
    assert (code, "script/values" in out, '"x"' in out) == (2, True, True)
    with d.connect("a.db") as conn:
        conn.transact([[":db/retractAttribute", 1, ":user/age"]])
    assert run(capsys, "apply", "--db", "a.db")[0] == 0
    assert run(capsys, "check", "--db", "a.db", "--schema", "schema.edn")[0] == 0


def test_exit_codes_of_what_cannot_be(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """A plan that cannot be carried out is 1, wrong input 2."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "migrations", USERS, "{:up [{:rename {:a/b :c/d}}]}")
    code, out = run(capsys, "plan", "--db", "a.db")
    assert (code, "cannot:" in out) == (1, True)
    code, out = run(capsys, "apply", "--db", "a.db")
    assert (code, "applied 0001" in out, "stopped at step 1" in out) == (2, True, True)
    assert run(capsys, "apply", "--db", "a.db", "--to", "7")[0] == 2
    assert run(capsys, "revert", "--db", "none.db", "--to", "0")[0] == 2
    assert run(capsys, "revert", "--db", "a.db", "--to", "-1")[0] == 2
    code, out = run(capsys, "revert", "--db", "a.db", "--to", "0", "--json")
    assert (code, json.loads(out)["scripts"][0]["action"]) == (0, "revert")
    assert run(capsys, "revert", "--db", "a.db", "--to", "0") == (0, "nothing to revert\n")
    shutil.copy("migrations/0001_s1.edn", "migrations/0002_again.edn")
    code, out = run(capsys, "check")
    assert (code, "script/two-heads" in out) == (1, True)
    assert run(capsys, "check", "--schema", "none.edn")[0] == 2
    assert main(["migrate"]) == 2
    for name in ("new", "plan", "apply", "revert", "status", "check", "autogenerate", "baseline"):
        with pytest.raises(SystemExit) as left:
            main(["migrate", name, "--help"])
        assert left.value.code == 0
        assert "example: datalog migrate " + name in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# the pytest plugin


def test_the_plugin_runs_four_tests(pytester: pytest.Pytester) -> None:
    """With a folder configured the four tests are there and pass; a script that does not fit makes one fail in words."""

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:hypothesispytest", *arguments)

    shop = shutil.copytree(SHOP, pytester.path / "shop")
    pytester.makeini(
        "[pytest]\ndatalog_scripts = shop/migrations\ndatalog_scripts_schema = shop/schema.edn\ndatalog_scripts_data = shop/data\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:hypothesispytest")
    assert (result.ret, result.parseoutcomes()) == (0, {"passed": 4})
    (shop / "migrations" / "0007_more.edn").write_text("{:up [{:schema {:x/y {}}}]}")
    result = run()
    assert (result.ret, result.parseoutcomes()) == (1, {"failed": 1, "passed": 3})
    result.stdout.fnmatch_lines(["*:x/y is in the scripts and not in schema.edn*"])
    pytester.makeini("[pytest]\n")
    result = run("--datalog-scripts", "shop/migrations")
    assert (result.ret, result.parseoutcomes()) == (0, {"passed": 3})
    assert run().ret == 5  # nothing was asked for


def test_same_data_sees_through_new_ids_only() -> None:
    """Entities above a limit may have other ids; what they hold, and how they hang together, may not."""
    left = {(1, ":a", "int", 10), (10, ":b", "str", "x"), (11, ":b", "str", "y"), (10, ":c", "int", 11)}
    right = {(1, ":a", "int", 20), (20, ":b", "str", "x"), (21, ":b", "str", "y"), (20, ":c", "int", 21)}
    assert same_data(left, right, new_from=5)
    assert not same_data(left, right, new_from=15)
    crossed = {(1, ":a", "int", 21), (20, ":b", "str", "x"), (21, ":b", "str", "y"), (20, ":c", "int", 21)}
    assert not same_data(left, crossed, new_from=5)


@pytest.mark.parametrize("milliseconds", [0, 1, -1, 1_714_521_600_001, 4_398_046_511_103, 1_000_000_000_123])
def test_instants_become_the_very_milliseconds(milliseconds: int) -> None:
    """There and back an instant is the same; what has a part of a millisecond does not fit, and neither do names of any text."""
    instant = converter("instant")(milliseconds)
    assert converter("long")(instant) == milliseconds
    with pytest.raises(ValueError, match="part of a millisecond"):
        converter("long")(instant + dt.timedelta(microseconds=1))
    for kind in ("keyword", "symbol"):
        with pytest.raises(d.DatalogError, match="would not read back"):
            converter(kind)("a(b")


def test_one_of_values_that_python_thinks_equal() -> None:
    """Of decimals of several scales one is kept, and the others go."""
    report = ValueReport(":a", "one")
    assert pick([(1, Decimal("1.0"), 5), (1, Decimal("1.00"), 6)], "latest", report) == [(1, Decimal("1.0"))]


def test_a_byte_order_mark_is_no_part_of_a_script(tmp_path: Path) -> None:
    """Scripts of either kind may begin with one; the checksum is that of the text."""
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    for folder, mark in ((plain, b""), (marked, b"\xef\xbb\xbf")):
        folder.mkdir()
        (folder / "0001_a.edn").write_bytes(mark + b'{:doc "x" :up []}')
        (folder / "0002_b.py").write_bytes(mark + b"def up(conn):\n    pass\n")
    assert [s.checksum for s in read_folder(marked)] == [s.checksum for s in read_folder(plain)]
