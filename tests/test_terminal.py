"""A recorded run of the shell at a terminal: what somebody sees who types, step by step. Nothing here measures time."""

import sys
from pathlib import Path

import pytest

import datalog as d
from shell.running import Runner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from terminal import Terminal

SCHEMA = """[{:db/ident :person/name :db/valueType :db.type/string :db/unique :db.unique/identity}
 {:db/ident :person/age :db/valueType :db.type/long} {:db/ident :person/city :db/valueType :db.type/string}
 {:db/ident :person/friend :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}]"""
WITHOUT_EXTRA = "import sys; sys.modules['prompt_toolkit'] = None; from datalog.cli import console; sys.argv = ['datalog', 'shell', {path!r}]; console()"


@pytest.fixture
def people(tmp_path):
    """A directory with three hundred people."""
    with d.connect(tmp_path / "people.db") as conn:
        conn.transact(SCHEMA)
        conn.transact(
            [
                {":person/name": f"Person {i}", ":person/age": i % 90, ":person/city": ["Oslo", "Rome"][i % 2]}
                for i in range(300)
            ]
        )
    return tmp_path / "people.db"


def shell(people, *options, code=None):
    """A terminal with a shell in it, whose history is its own."""
    start = ["-c", code] if code else ["-m", "datalog.cli", "shell", str(people), *options]
    return Terminal(start, env={"XDG_STATE_HOME": str(people.parent / "state")})


def test_a_session(people):
    """Completion, an entry of several lines, a table, an error with a caret, a plan, Ctrl-C in an endless query, and a way out."""
    with shell(people) as t:
        t.wait_for("900 facts, 4 attr")
        t.wait_for_end("people.db>")
        # completion: one candidate is put in, several are offered
        t.type("[:find ?n ?a :where [?p :person/na\t")
        t.wait_for("[?p :person/name")
        t.type(" ?n] [?p :person/\t")
        t.wait_for(":person/friend")
        t.type("\x03")
        t.wait_for_end("people.db>")
        # several lines, indented below what is open
        t.type("[:find ?n ?a\r:where [?p :person/name ?n]\r[?p :person/age ?a]\r[(< ?a 2)]\r:order-by ?n]")
        screen = t.wait_for(":order-by ?n]")
        assert ".........  :where [?p :person/name ?n]" in screen
        assert ".........  [(< ?a 2)]" in screen
        screen = t.enter("", "8 rows")
        assert f"\nn{' ' * 13}a\n" in screen
        assert '\n"Person 180"  0\n' in screen
        # an error, with the place under what was typed
        screen = t.enter("[:find ?n :where [?p :person/nmae ?n]]", "Mend: did you mean :person/name?")
        lines = screen.splitlines()
        at = next(i for i, line in enumerate(lines) if "^^^^" in line)
        assert lines[at].index("^") == lines[at - 1].index(":person/nmae")
        assert t.enter(".analyze [:find ?n :where [?p :person/name ?n] [?p :person/age 7]]", "4 found")
        t.wait_for_end("people.db>")
        # endless: a rule that counts on and on
        t.enter("[[(n ?x) [(ground 1) ?x]] [(n ?x) (n ?y) [(+ ?y 1) ?x]]]", "defined n")
        t.wait_for_end("people.db>")
        t.type("[:find (count ?x) . :where (n ?x)]\r")
        t.wait_for_end(":where (n ?x)]")
        for _ in range(10):
            t.read(0.02)
        t.type("\x03")
        t.wait_for("stopped")
        # a product of 300 * 300 * 300 * 300 rows
        t.wait_for_end("people.db>")
        t.enter(".history 2", "[:find (count ?x) . :where (n ?x)]", times=2)
        t.wait_for_end("people.db>")
        t.type("[:find ?a ?b ?c ?d :where [?a :person/age] [?b :person/age] [?c :person/age] [?d :person/age]]\r")
        for _ in range(10):
            t.read(0.02)
        t.type("\x03")
        t.wait_for("stopped", times=2)
        t.wait_for_end("people.db>")
        # alive: a transaction that asks
        t.enter('{:person/name "Zoe"}', "Write it, 1 asserted, 0 retracted? [y/N]")
        t.enter("y", "transaction 1099511627779: 1 asserted")
        t.type(".quit\r")
        assert t.ended() == 0
    with d.connect(people, read_only=True) as conn:
        assert conn.db().entid([":person/name", "Zoe"]) is not None
    history = people.parent / "state" / "datalog" / "shell_history"
    assert ':person/name "Zoe"' in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_history_comes_back(people):
    """What was typed in one session is offered by the next."""
    for wanted in (1, 2):
        with shell(people) as t:
            t.wait_for_end("people.db>")
            if wanted == 1:
                t.enter("[:find (count ?p) . :where [?p :person/name]]", "300")
            else:
                t.type("\x1b[A")
                t.wait_for("[:find (count ?p) . :where [?p :person/name]]")
                t.enter("", "300")
            t.wait_for_end("people.db>")  # before, Ctrl-D would end the input of nobody
            t.type("\x04")
            assert t.ended() == 0


def test_paging(people):
    """An answer longer than the screen stops until somebody wants more."""
    with shell(people) as t:
        t.wait_for_end("people.db>")
        t.enter(
            "[:find ?n ?a :where [?p :person/name ?n] [?p :person/age ?a] :order-by ?n]",
            "-- Enter: more, a: all, q: enough --",
        )
        t.type("q\r")
        t.wait_for("300 rows")
        t.type("\x04")
        assert t.ended() == 0


def test_without_the_extra(people):
    """Without prompt_toolkit there is a plain prompt, which takes entries of several lines and survives Ctrl-C."""
    with shell(people, code=WITHOUT_EXTRA.format(path=str(people))) as t:
        t.wait_for("pip install 'datalog-lmdb[shell]'")
        t.wait_for_end("people.db>")
        t.type("[:find (count ?p) .\r")
        t.wait_for("\n.........")
        t.enter(":where [?p :person/name]]", "300")
        t.enter("[:find ?n :where [?p :person/nmae ?n]]", "did you mean :person/name?")
        t.type("[:find")
        t.wait_for("> [:find")
        t.type("\x03")
        t.wait_for_end("people.db>")
        t.type("\x04")
        assert t.ended() == 0


def test_a_stopped_step_is_left_behind():
    """Work that cannot be ended is left to end by itself, and the runner says that it is not idle."""
    import threading

    runner, over = Runner(), threading.Event()

    def deaf():
        while not over.is_set():
            try:
                over.wait()
            except BaseException:  # noqa: BLE001 - that is what makes it deaf
                continue

    thread = threading.Thread(target=deaf)
    thread.start()
    interrupted = runner._stopped(thread, d.Stop())
    assert not interrupted.ended
    assert not runner.is_idle()
    over.set()
    thread.join()
    assert runner.is_idle()


def test_a_transaction_that_was_begun_is_made():
    """Ctrl-C is not heard while a transaction is written, and is again afterwards."""
    import os
    import signal

    def work():
        os.kill(os.getpid(), signal.SIGINT)
        return 42

    assert Runner.finish(work) == 42
    with pytest.raises(KeyboardInterrupt):
        work()
