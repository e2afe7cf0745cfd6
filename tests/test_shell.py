"""The shell without a terminal: what is scanned, completed and run, as scripts and piece by piece."""

import io
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import datalog as d
from datalog import cli
from shell.commands import COMMANDS
from shell.scan import form_end, indent_of, is_complete, statements, tokens
from shell.session import Session, Settings
from shell.start import take
from store.edn import read_all

ROOT = Path(__file__).parent.parent
PEOPLE = """[{:db/ident :person/name :db/valueType :db.type/string :db/unique :db.unique/identity}
 {:db/ident :person/age :db/valueType :db.type/long}
 {:db/ident :person/friend :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 {:db/id 9 :db/ident :state/open}]"""


class Recorder:
    """A terminal that keeps what is printed, and answers what it is told to."""

    def __init__(self, *, interactive=False, answers=(), size=(80, None)):
        self.out = io.StringIO()
        self.interactive = interactive
        self.answers = list(answers)
        self.asked = []
        self.size = size

    def width(self):
        """Columns."""
        return self.size[0]

    def height(self):
        """Lines."""
        return self.size[1]

    def note(self, text):
        """A line."""
        self.out.write(f"{text}\n")

    def ask(self, question):
        """The next answer."""
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else ""


@pytest.fixture
def people(tmp_path):
    """A directory with three people."""
    with d.connect(tmp_path / "people.db") as conn:
        conn.transact(PEOPLE)
        conn.transact(
            '[{:db/id 1 :person/name "Ada" :person/age 36 :person/friend [2 3]} {:db/id 2 :person/name "Bob" :person/age 7} {:db/id 3 :person/name "Cy"}]'
        )
    return tmp_path / "people.db"


@pytest.fixture
def shell(people):
    """A session on them that writes without asking."""
    session = Session.opened(people, Recorder(), Settings(write=True, timing=False))
    yield session
    session.close()


def said(session, text):
    """What a text makes the session print."""
    session.terminal.out = io.StringIO()
    session.run(text)
    return session.terminal.out.getvalue()


# -- scan


@given(st.text(alphabet='[](){}#"\\;:a?1. \n^_', max_size=30))
def test_tokens_are_the_text(text):
    """Whatever is typed, the tokens together are the text, and each has its place."""
    found = list(tokens(text))
    assert "".join(t.text for t in found) == text
    assert all(text[t.start : t.end] == t.text for t in found)
    places = list(statements(text))
    assert all(a[1] <= b[0] for a, b in pairwise(places))
    indent_of(text)


@given(
    st.recursive(
        st.one_of(st.integers(), st.text(max_size=4), st.booleans()),
        lambda x: st.lists(x, max_size=3).map(d.Vector),
        max_leaves=6,
    )
)
def test_statements_are_forms(value):
    """Two forms in a text are two statements, as the reader reads them; each of them is complete."""
    text = f" {d.write_edn(value)} ; note ]\n {d.write_edn([value])}"
    places = list(statements(text))
    assert [text[a:b] for a, b in places] == [d.write_edn(value), d.write_edn([value])]
    assert is_complete(text)
    assert len(read_all(text)) == 2


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("[:find", False),
        ("[:find ?x]", True),
        ('"a', False),
        ('"a\\"', False),
        ('["]"', False),
        ("]", True),
        ("[)]", True),
        ("; [", True),
        ("\\[", True),
        ("#{1", False),
        (".mode json", True),
        ('["a\nb"]', True),
    ],
)
def test_is_complete(text, complete):
    """An entry is complete when nothing is open; a wrong bracket is left to the reader to tell."""
    assert is_complete(text) is complete


@pytest.mark.parametrize(
    ("text", "column"), [("[:find ?x", 1), ("[:find ?x\n :where [?a", 9), ("[1 2]", 0), ("{:a #{1", 6), ("(or", 1)]
)
def test_indent(text, column):
    """A new line begins below the first member of what is open."""
    assert indent_of(text) == column


def test_statements_of_a_script():
    """Dot commands end with their line, or where their brackets close; a dot inside a form is none."""
    text = ".mode edn\n[:find ?x .\n :in $ ?x] 1\n.explain [:find ?x\n :where [?x]]\n{:a 1.5}"
    assert [text[a:b] for a, b in statements(text)] == [
        ".mode edn",
        "[:find ?x .\n :in $ ?x]",
        "1",
        ".explain [:find ?x\n :where [?x]]",
        "{:a 1.5}",
    ]
    assert form_end('#inst "2020-01-01" x', 0) == 18


# -- completion


@pytest.mark.parametrize(
    ("before", "wanted", "not_wanted"),
    [
        ("[:find ?n :where [?p :person/n", ":person/name", ":person/age"),
        ("[:find ?n :where [?p :na", ":person/name", ":person/age"),
        ("[:fi", ":find", ":where"),
        ("[:find ?name :where [?p :person/name ?n", "?name", "?p"),
        ("[:find (cou", "count", "sum"),
        ("[:find ?x :where (gro", "grown", "ground-no"),
        ("[:find ?x :where (not-", "not-join", "not"),
        ("[[:db/re", ":db/retract", ":db/add"),
        ("[{:db/ident :a :db/valueType :db.type/in", ":db.type/instant", ":db.type/long"),
        ("[:find ?e :where [?e :door/state :state/o", ":state/open", ":person/name"),
        ("[:find (pull ?e [:person/_", ":person/_friend", ":person/name"),
        (".an", ".analyze", ".open"),
    ],
)
def test_completion(shell, before, wanted, not_wanted):
    """Attributes, idents, variables, rules, functions, clauses, sections and commands are offered where they can stand."""
    shell.run("[(grown ?p) [?p :person/age ?a] [(>= ?a 18)]]")
    found = [c.text for c in shell.words().complete(before)]
    assert wanted in found
    assert not_wanted not in found


def test_no_completion_inside_strings(shell):
    """Text inside a string or a comment is the user's own."""
    assert shell.words().complete('[:find ?x :where [?x :person/name "per') == []
    assert shell.words().complete("; pers") == []


def test_completion_follows_the_schema(shell):
    """A new attribute is offered at once."""
    shell.run("[{:db/ident :person/zip :db/valueType :db.type/string}]")
    assert ":person/zip" in [c.text for c in shell.words().complete("[:person/z")]


# -- what is typed


def test_queries_with_inputs_and_rules(shell):
    """Forms after a query are its inputs; rules of the session are passed, with and without :in."""
    assert said(shell, "[:find ?n . :in $ ?a :where [?p :person/age ?a] [?p :person/name ?n]] 36").split() == [
        "value",
        "-----",
        '"Ada"',
    ]
    assert said(shell, "[(grown ?p) [?p :person/age ?a] [(>= ?a 18)]]") == "defined grown\n"
    assert '"Ada"' in said(shell, "[:find ?n :where (grown ?p) [?p :person/name ?n]]")
    assert '"Ada"' in said(shell, "[:find ?n :in $ % ?x :where (grown ?p) [?p :person/name ?n] [(= ?x 1)]] 1")
    assert '"Ada"' in said(shell, "{:find [?n] :in [$ %] :where [(grown ?p) [?p :person/name ?n]]}")
    with pytest.raises(d.DatalogError, match="query/input-count"):
        shell.run("[:find ?n :in $ ?a :where [?n :person/age ?a]]")
    with pytest.raises(d.DatalogError):
        shell.run("[[(bad ?x) [?y :person/age]]]")
    assert list(shell.rules) == ["grown"]


def test_transactions_ask(people):
    """Data is shown and asked about; only yes writes. Without anybody to ask it is refused, read-only always."""
    terminal = Recorder(interactive=True, answers=["n", "yes"])
    session = Session.opened(people, terminal, Settings())
    session.run('{:person/name "Dan"}')
    assert '+ [10 :person/name "Dan"]' in terminal.out.getvalue()
    assert "nothing was written" in terminal.out.getvalue()
    assert session.conn.db().entid([":person/name", "Dan"]) is None
    session.run('{:person/name "Dan"}')
    assert terminal.asked == ["Write it, 1 asserted, 0 retracted? [y/N] "] * 2
    assert session.conn.db().entid([":person/name", "Dan"]) == 10
    session.run('{:person/name "Dan"}')
    assert "nothing would change" in terminal.out.getvalue()
    session.close()
    for settings, code in ((Settings(), "shell/write"), (Settings(read_only=True, write=True), "shell/read-only")):
        session = Session.opened(people, Recorder(), settings)
        with pytest.raises(d.DatalogError) as caught:
            session.run("[[:db/retract 1 :person/age]]")
        assert caught.value.code == code
        assert session.conn.pull("[:person/age]", 1) == {":person/age": 36}
        session.close()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (".help", ".analyze"),
        (".help tx", ".tx [N | ID]"),
        (".schema", ":person/friend  ref     many"),
        (".schema edn", ":db/valueType :db.type/ref"),
        (".schema mermaid", "erDiagram"),
        (".schema dot", "digraph schema"),
        (".attrs age", ":person/age  long"),
        (".entity 1", ':person/name    "Ada"'),
        ('.entity [:person/name "Bob"]', ":person/_friend  1 referring"),
        ("1", "4 facts"),
        (".entity 999", "no facts about 999"),
        (
            ".pull [:person/name {:person/friend [:person/name]}] 1",
            '{:person/name "Ada" :person/friend [{:person/name "Bob"} {:person/name "Cy"}]}',
        ),
        (".tx", "1099511627778"),
        (".tx 1099511627778", ':person/name    "Ada"'),
        (".rules", "no rules"),
        (".rules define [(r ?x) [?x :person/age]]\n.rules list", "[(r ?x) [?x :person/age]]"),
        (".explain [:find ?n :where [?p :person/name ?n]]", "scan [?p :person/name ?n]"),
        (".explain dot [:find ?n :where [?p :person/name ?n]]", "digraph plan"),
        (".analyze [:find ?n\n :where [?p :person/name ?n]]", "3 found"),
        (".explain [:find ?n :in $ ?a :where [?p :person/age ?a] [?p :person/name ?n]] 36", "find ?n"),
        (".mode json\n[:find ?n :where [_ :person/name ?n]]", '"n": "Ada"'),
        (".mode markdown\n[:find ?a :where [_ :person/age ?a]]", "| a |\n|---:|"),
        (".mode csv\n[:find ?a :where [_ :person/age ?a] :order-by ?a]", "a\n7\n36\n"),
        (".limit 1\n.timing on\n[:find ?n :where [_ :person/name ?n]]", "1 of 3 rows"),
        (".limit off", "limit off"),
        (".timeout 1.5", "timeout 1.5 s"),
        (".timeout off", "timeout off"),
        (".timing off", "timing off"),
        (".stats", "datoms"),
        (".check", "no findings"),
        (".doc count", "aggregate:"),
        (".doc :person/age", ":db/valueType :db.type/long"),
        (":person/age", "attribute:"),
        ("not-join", "clause"),
        (".doc :where", "The clauses"),
    ],
)
def test_commands(shell, text, wanted):
    """Every dot command does what its help says."""
    assert wanted in said(shell, text)


def test_every_command_is_tried():
    """The table above leaves out only those with tests of their own."""
    texts = " ".join(case[0] for mark in test_commands.pytestmark for case in mark.args[1])
    untried = {".open", ".read", ".dump", ".exit", ".quit", ".history"}
    assert {name for name in COMMANDS if name not in texts} == untried


@pytest.mark.parametrize("leave", [".quit", ".exit", ".qu"])
def test_leaving(shell, leave):
    """What stands after a command that leaves is not run; the beginning of a name is enough."""
    assert said(shell, f".mod\n{leave}\n.mode") == "mode table\n"
    assert shell.over


def test_history(shell):
    """What was typed last, the newest at the end."""
    shell.typed += ["1", "[:find\n ?x]", ".mode"]
    assert said(shell, ".history 2") == "[:find\n ?x]\n.mode\n"
    assert said(shell, ".history") == "1\n[:find\n ?x]\n.mode\n"


def test_open_read_dump(shell, tmp_path):
    """A dump is written, another database opened, a script read; the prompt names the database."""
    assert "7 facts" not in said(shell, f".dump {tmp_path / 'x.dump'}")
    assert (tmp_path / "x.dump").read_bytes().startswith(b"{:datalog/dump 1")
    script = tmp_path / "script.edn"
    script.write_text("[{:db/ident :a/b :db/valueType :db.type/long}]\n[{:a/b 1}]\n[:find ?b :where [_ :a/b ?b]]\n")
    assert "other.db: 0 facts" in said(shell, f".open {tmp_path / 'other.db'}")
    assert shell.prompt() == "other.db> "
    assert said(shell, f".read {script}").endswith("b\n-\n1\n")
    rules = tmp_path / "rules.edn"
    rules.write_text("[[(r ?x) [?x :a/b]] [(s ?x) (r ?x)]]")
    assert said(shell, f".rules load {rules}") == "defined r, s\n"
    shell.run(".rules clear")
    assert shell.rules == {}
    itself = tmp_path / "itself.edn"
    itself.write_text(f".read {itself}")
    with pytest.raises(d.DatalogError, match="reads itself"):
        shell.run(f".read {itself}")
    assert shell.reading == []
    with pytest.raises(d.DatalogError, match="cannot be read"):
        shell.run(f".read {tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (".xyz", "shell/unknown-command"), (".mode jsn", "shell/argument"), (".limit -1", "shell/argument"), (".timeout x", "shell/argument"),
        (".timeout nan", "shell/argument"), (".timing maybe", "shell/argument"), (".open", "shell/argument"), (".pull [*]", "shell/argument"),
        (".entity", "shell/argument"), (".rules foo", "shell/argument"), (".explain", "shell/argument"), (".doc", "shell/argument"), (".doc cuont", "shell/unknown-name"),
        (".dump", "shell/argument"), (".read", "shell/argument"), (".tx x", "shell/argument"), ("(a b)", "shell/form"), ("]", "edn/"), ('"x"', "shell/form"), ("[:find", "edn/"),
        ("[:find ?x :where [?x :person/nme]]", "query/unknown-attribute"), ('[{:person/age "x"}]', "value/wrong-type"), (".entity [", "edn/"),
    ],
)  # fmt: skip
def test_faults(shell, text, code):
    """What is wrong is told as an error of the library; the session goes on."""
    with pytest.raises(d.DatalogError) as caught:
        shell.run(text)
    assert caught.value.code.startswith(code) or code in str(caught.value)
    assert '"Ada"' in said(shell, "[:find ?n :where [_ :person/name ?n]]")


def test_take_prints_the_error_with_a_caret(shell):
    """At the prompt an error is printed with the place under the text, and the session goes on."""
    shell.terminal.out = io.StringIO()
    assert take(shell, "[:find ?n :where [?p :person/nme ?n]]") == 2
    shown = shell.terminal.out.getvalue().splitlines()
    assert shown[2].index(":person/nme") == shown[3].index("^^^^^^^^^^^")
    assert "did you mean :person/name?" in shown[4]


def test_pages(people):
    """On a screen an answer stops when it is full; q is enough, a is all."""
    for answers, lines in ((["q"], 17), (["", "q"], 34), (["a"], 52)):
        terminal = Recorder(interactive=True, answers=answers, size=(80, 20))
        session = Session.opened(people, terminal, Settings(timing=False))
        session.run("[:find ?x :in $ [?x ...]] [" + " ".join(map(str, range(50))) + "]")
        shown = terminal.out.getvalue().splitlines()
        assert (
            sum(line.strip().isdigit() or set(line.strip()) == {"-"} or line.strip() == "x" for line in shown) == lines
        )
        session.close()


def test_tables_fit(shell):
    """However narrow the screen, no line is wider; numbers are to the right; control characters do not get through."""
    for width in (10, 20, 33, 80):
        shell.terminal.size = (width, None)
        shown = said(
            shell,
            '[:find ?a ?b ?c :in $ [[?a ?b ?c]]] [["long long long text" 1 "日本語日本語"] ["\\u001b[31m" 22 ""]]',
        )
        assert all(len(line) <= width or line.startswith("(") for line in shown.splitlines())
        assert "\x1b" not in shown
    assert "  1  " in shown
    assert " 22  " in shown


# -- scripts


def run(*arguments, text="", **env):
    """(exit code, output, errors) of a shell without a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "datalog.cli", "shell", *map(str, arguments)],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    return done.returncode, done.stdout, done.stderr


def test_scripts(people, tmp_path):
    """Standard input is a script; the first error ends it with its exit code, and what stands before it is done."""
    code, out, err = run(
        people, "--write", text='.mode edn\n{:person/name "Dan"}\n[:find (count ?p) . :where [?p :person/name]]\n'
    )
    assert (code, out) == (0, "[4]\n")
    assert err == "mode edn\ntransaction 1099511627779: 1 asserted, 0 retracted\n"
    code, out, err = run(
        people, text="[:find (count ?p) . :where [?p :person/name]]\n[:find ?x :where [?x :nope]]\n[:find ?y .]"
    )
    assert code == 2
    assert out.splitlines()[-1].strip() == "4"
    assert "query/unknown-attribute" in err
    assert "^^^^^" in err
    assert run(people, "--read-only", text='{:person/name "Eve"}')[0] == 2
    assert run(tmp_path / "none", "--read-only", text="1")[0] == 2
    assert run(people, "-c", ".quit", "-c", ".nonsense")[0] == 0
    code, out, _ = run("--json", "-c", "[:find [?x ...] :in $ [?x ...]] [1 2]")
    assert (code, out.split()) == (0, ["[", "{", '"value":', "1", "},", "{", '"value":', "2", "}", "]"])


def test_options_that_exclude_each_other(capsys, people):
    """Wrong options are told before anything is opened."""
    assert cli.main(["shell", str(people), "--write", "--read-only"]) == 2
    assert cli.main(["shell", str(people), "--timeout", "0"]) == 2
    assert "exclude each other" in capsys.readouterr().err
