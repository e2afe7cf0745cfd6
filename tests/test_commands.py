"""The commands that move and keep data: what they print, what they refuse, and that nothing is half-written."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import datalog as d
from datalog import cli
from shell.completion_script import SHELLS, script, words_of
from store.edn import read_edn

ROOT = Path(__file__).parent.parent
CSV = "name,age\nAda,36\nBob,7\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table and a database made of it."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(CSV)
    assert cli.main(["import", "t.csv", "--db", "db", "--yes"]) == 0
    return tmp_path


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    capsys.readouterr()
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_newcomer(capsys, tmp_path, monkeypatch):
    """A key may be named as its attribute will be; a new database is announced; a dry run makes none; no plural of one."""
    monkeypatch.chdir(tmp_path)
    Path("b.csv").write_text("Title,Year Made\nMort,1987\n")
    for key in ("Title", "title", ":b/title"):
        assert run(capsys, "import", "b.csv", "--db", "b.db", "--key", key, "--type", "year-made=long", "--yes")[0] == 0
    with d.connect("b.db", read_only=True) as conn:
        assert conn.pull("[:b/year-made]", [":b/title", "Mort"]) == {":b/year-made": 1987}
        assert len(conn.db()) == 2
    assert run(capsys, "export", "o.csv", "[:find ?t :where [_ :b/title ?t]]", "--db", "b.db")[2] == "1 row, 1 column\n"
    assert run(capsys, "transact", "[{:a 1}]", "--db", "typo.db", "--dry-run")[0] == 0
    assert not Path("typo.db").exists()
    assert "typo.db is a new database" in run(capsys, "transact", "[{:a 1}]", "--db", "typo.db")[2]


@pytest.mark.usefixtures("here")
def test_import_asks(capsys):
    """Without a terminal an import with a new schema needs --yes; a dry run writes nothing, not even a directory."""
    code, out, err = run(capsys, "import", "t.csv", "--db", "new")
    assert (code, out) == (2, "")
    assert ":t/age {:db/valueType :db.type/long" in err
    assert "cli/confirm" in err
    code, out, _ = run(capsys, "import", "t.csv", "--db", "new", "--dry-run", "--json")
    assert (code, json.loads(out)["dry_run"], json.loads(out)["facts"]) == (0, True, 4)
    assert not Path("new").exists()
    code, out, err = run(capsys, "import", "t.csv", "--db", "db")  # nothing to declare: nothing to ask
    assert code == 0
    assert run(capsys, "import", "t.csv", "--db", "db", "--dry-run")[0] == 0
    with d.connect("db", read_only=True) as conn:
        assert conn.q("[:find (count ?e) . :where [?e :t/name]]") == 4


@pytest.mark.parametrize(("answer", "made"), [("y\n", True), ("n\n", False), ("\n", False)])
@pytest.mark.usefixtures("here")
def test_import_asks_at_a_terminal(answer, made):
    """At a terminal the schema is shown, and the answer decides."""
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "datalog.cli", "import", "t.csv", "--db", "new"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(slave)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(master, 4096)
    os.write(master, answer.encode())
    out, _ = child.communicate(timeout=30)
    os.close(master)
    assert b":t/name {:db/valueType :db.type/string" in shown
    assert child.returncode == 0
    assert Path("new").exists() == made
    assert (b"rows" in out) == made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "none.csv", "--db", "db"], "No such file"),
        (["import", "folder", "--db", "db"], "does not tell the format"),
        (["import", "folder", "--format", "csv", "--db", "db"], "Is a directory"),
        (["import", "t.csv", "--db", "db", "--type", "age"], "--type takes NAME=VALUE"),
        (["import", "t.csv", "--db", "db", "--delimiter", "ab"], "--delimiter takes one character"),
        (["import", "t.csv", "--db", "t.csv", "--yes"], "is a file"),
        (["import", "t.csv"], "--db"),
        (["export", "x.csv", "--db", "db"], "give a query, or --ns"),
        (["export", "x.csv", "--ns", "tt", "--db", "db"], "Did you mean 't'?"),
        (["export", "x", "--ns", "t", "--db", "db"], "does not tell the format"),
        (["export", "no/x.csv", "--ns", "t", "--db", "db"], "file/write"),
        (["export", "folder", "--format", "csv", "--ns", "t", "--db", "db"], "is a directory"),
        (["export", "x.csv", "[:find ?x", "--db", "db"], "EdnError"),
        (["export", "x.csv", "--ns", "t", "--db", "none"], "holds no database"),
        (["transact", "--db", "db"], "give the data, or --file"),
        (["transact", '[{:t/age "x"}]', "--db", "db"], "wrong-type"),
        (["transact", "--file", "none.edn", "--db", "db"], "No such file"),
        (["transact", "--file", "latin.edn", "--db", "db"], "is not utf-8: byte 3"),
        (["pull", "[*]", "--db", "db"], "entity"),
        (["pull", "[*", "1", "--db", "db"], "EdnError"),
        (["explain", "--db", "db"], "the query is missing"),
        (["explain", "[:find ?x]", "--db", "db", "--format", "png"], "invalid choice"),
        (["schema", "none"], "holds no database"),
        (["schema", "db", "--apply", "none.edn"], "No such file"),
        (["dump", "none", "x.dump"], "is no directory"),
        (["dump", "db", "no/x.dump"], "file/write"),
        (["load", "none.dump", "new"], "No such file"),
        (["load", "t.csv", "new"], "dump/format"),
        (["load", "t.csv", "db"], "dump/format"),
        (["load", "empty", "new"], "it is empty"),
        (["copy", "db", "folder"], "is there already"),
        (["copy", "none", "new"], "is no directory"),
        (["copy", "db", "no/where"], "is no directory"),
        (["q", "--db", "db"], "the query is missing"),
        (
            ["q", "[:find ?x :where [?x :t/age]]", "--rules", "rules.edn", "--db", "db", "--limit", "-1"],
            "--limit takes",
        ),
        (["q", "[:find ?x :in $ ?x]", "--rules", "rules.edn", "--db", "db"], ":in has no %"),
        (["q", "[:find ?x :where [?x :t/age]]", "--db", "db", "--plot", "no/x.svg"], "file/write"),
        (["completion", "tcsh"], "invalid choice"),
        (["q", "[:find ?x :where [?x :t/age]]", "--db", "db", "--plot", "x.png"], "ends in .svg, not 'x.png'"),
        (["q", "[:find ?x :where [?x :t/age]]", "--db", "db", "--timeout", "nan"], "--timeout takes seconds above 0"),
        (["explain", "[:find ?x :where [?x :t/age]]", "--db", "db", "--timeout", "-1"], "--timeout takes seconds"),
        (["explain", "[:find ?x :where [?x :t/age]]", "--db", "db", "--limit", "3"], "unrecognized arguments"),
        (["q", '[:find ?x . :where [(str "\\ud800") ?x]]', "--format", "csv", "--db", "db"], "has no '\\ud800'"),
        (["q", "[:find ?x :in $ % :where (r ?x)]", "--rules", "t.csv", "--db", "db"], "These are no rules"),
        (["import", "t.csv", "--ns", "a b", "--db", "db", "--yes"], "import/namespace"),
        (["shell", "db", "-c", ".limit ²"], ".limit cannot be '²'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_faults(capsys, arguments, words):
    """What is wrong is told in the library's words, exit code 2, nothing on standard output, nothing left behind."""
    Path("folder").mkdir()
    Path("empty").touch()
    Path("latin.edn").write_bytes(b'["\xe4"]'.replace(b'["', b'[ "'))
    Path("rules.edn").write_text("[[(r ?x) [?x :t/age]]]")
    before = sorted(p.name for p in Path().iterdir())
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, ""), err
    assert words in err
    assert "Traceback" not in err
    assert sorted(p.name for p in Path().iterdir()) == before
    with d.connect("db", read_only=True) as conn:
        assert conn.q("[:find (count ?e) . :where [?e :t/name]]") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("here")
def test_no_permission(capsys):
    """A directory that may not be written to is told, not a traceback."""
    Path("closed").mkdir(mode=0o500)
    for arguments in (["export", "closed/x.csv", "--ns", "t"], ["import", "t.csv", "--yes"]):
        code, _, err = run(capsys, *arguments, "--db", "db" if arguments[0] == "export" else "closed/db")
        assert code in (2, 3)
        assert "Traceback" not in err


@pytest.mark.usefixtures("here")
def test_export_to_a_pipe_that_ends():
    """A reader who goes away ends an export quietly."""
    with d.connect("db") as conn:
        conn.load({":t/age": (range(100, 50_100), range(50_000))})
    child = subprocess.Popen(
        [sys.executable, "-m", "datalog.cli", "export", "-", "--ns", "t", "--db", "db"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (cli.NO_READER, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
@pytest.mark.usefixtures("here")
def test_closed_streams(closed):
    """A stream that was closed before the start is empty, or goes nowhere; nothing breaks."""
    query = "'[:find ?n :where [_ :t/name ?n]]'"
    command = f"{sys.executable} -m datalog.cli q {query} --db db --format csv {closed}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if closed == ">&-" else b"n\nAda\nBob\n")


@pytest.mark.usefixtures("here")
def test_an_empty_directory_becomes_a_database(capsys):
    """Import and transact make a database in a directory that is there and empty, dry runs nothing."""
    Path("made").mkdir()
    assert run(capsys, "import", "t.csv", "--db", "made", "--dry-run")[0] == 0
    assert run(capsys, "transact", "[{:a 1}]", "--db", "made", "--dry-run")[0] == 0
    assert list(Path("made").iterdir()) == []
    assert run(capsys, "import", "t.csv", "--db", "made", "--yes")[0] == 0
    with d.connect("made", read_only=True) as conn:
        assert conn.q("[:find (count ?e) . :where [?e :t/name]]") == 2


@pytest.mark.usefixtures("here")
def test_json_everywhere(capsys):
    """What commands print with --json is JSON."""
    query = "[:find ?n ?a :where [?p :t/name ?n] [?p :t/age ?a] :order-by ?n]"
    found = {}
    for arguments in (
        ["q", query, "--db", "db"],
        ["explain", query, "--db", "db"],
        ["pull", "[*]", "1", "--db", "db"],
        ["schema", "db"],
        ["stats", "db"],
        ["transact", '[{:db/id "x" :t/name "Cy"}]', "--db", "db"],
        ["export", "x.csv", "--ns", "t", "--db", "db"],
        ["dump", "db", "x.dump"],
        ["load", "x.dump", "db2"],
        ["copy", "db", "db3"],
        ["check", "db3"],
        ["compact", "db3"],
        ["import", "t.csv", "--yes", "--db", "db4"],
        ["shell", "db", "-c", query],
    ):
        code, out, _ = run(capsys, *arguments, "--json")
        assert code == 0
        found[arguments[0]] = json.loads(out)
    assert found["q"] == [{"n": "Ada", "a": 36}, {"n": "Bob", "a": 7}]
    assert found["shell"] == found["q"]
    assert found["explain"][0]["label"] == "find ?n ?a"
    assert found["pull"] == [{":db/id": 1, ":t/name": "Ada", ":t/age": 36}]
    assert found["schema"][":t/age"][":db/valueType"] == ":db.type/long"
    assert found["transact"]["tempids"] == {"x": 3}
    assert found["load"]["datoms"] == 5
    assert run(capsys, "q", "[:find (count ?p) . :where [?p :t/name]]", "--db", "db2", "--format", "edn")[1] == "[3]\n"


@pytest.mark.usefixtures("here")
def test_transact(capsys):
    """Data from an argument, a file and standard input; a dry run shows and writes nothing."""
    Path("more.edn").write_text('\ufeff[{:t/name "Dan"}]', encoding="utf-8")
    code, out, _ = run(capsys, "transact", "--file", "more.edn", "--db", "db", "--dry-run")
    assert code == 0
    assert '+ [3 :t/name "Dan"]' in out
    assert "nothing was written" in out
    assert run(capsys, "transact", "--file", "more.edn", "--db", "db")[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "datalog.cli", "transact", "-", "--db", "db"],
        input='[{:t/name "Eve"}]',
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0
    with d.connect("db", read_only=True) as conn:
        assert set(conn.q("[:find [?n ...] :where [_ :t/name ?n]]")) == {"Ada", "Bob", "Dan", "Eve"}


@pytest.mark.usefixtures("here")
def test_rules_and_limits(capsys):
    """Rules come from a file, in their place among the inputs; rows can be limited, time, too."""
    Path("rules.edn").write_text("[[(old ?p ?a) [?p :t/age ?x] [(>= ?x ?a)]]]")
    for query in (
        "[:find ?n :in $ % ?a :where (old ?p ?a) [?p :t/name ?n]]",
        "[:find ?n :in $ ?a % :where (old ?p ?a) [?p :t/name ?n]]",
        "{:find [?n] :in [$ ?a %] :where [(old ?p ?a) [?p :t/name ?n]]}",
    ):
        assert run(capsys, "q", query, "18", "--rules", "rules.edn", "--db", "db", "--format", "csv")[1] == "n\nAda\n"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[:find ?n :in $ ?a % :where (old ?p ?a) [?p :t/name ?n]]"))
        )
        assert run(capsys, "q", "-", "18", "--rules", "rules.edn", "--db", "db", "--format", "csv")[1] == "n\nAda\n"
    code, out, err = run(capsys, "q", "[:find ?x :in $ [?x ...]]", "[1 2 3]", "--limit", "2", "--db", "db")
    assert (code, len(out.splitlines())) == (0, 4)
    assert "2 of 3 rows" in err
    endless = "[:find ?x :in $ % :where (n ?x)]"
    Path("n.edn").write_text("[[(n ?x) [(ground 1) ?x]] [(n ?x) (n ?y) [(+ ?y 1) ?x]]]")
    code, _, err = run(capsys, "q", endless, "--rules", "n.edn", "--timeout", "0.2", "--db", "db")
    assert (code, "query/timeout" in err) == (2, True)


@pytest.mark.usefixtures("here")
def test_schema_applies(capsys):
    """The schema that one database prints, another declares."""
    Path("schema.edn").write_text(run(capsys, "schema", "db")[1])
    code, out, _ = run(capsys, "schema", "other", "--apply", "schema.edn")
    assert code == 0
    with d.connect("db", read_only=True) as one, d.connect("other", read_only=True) as two:
        assert one.schema == two.schema
    assert read_edn(out) == read_edn(Path("schema.edn").read_text())


# -- completion


#: what is written, and what of it may follow; the shells also offer files where a value may be one
COMPLETED = [
    (["co"], "compact completion copy"),
    (["import", "--dr"], "--dry-run"),
    (["check", "--re"], "--rebuild"),
    (["q", "--format", "t"], "table"),
    (["explain", "--format", ""], "dot html mermaid text"),
    (["migrate", "a"], "apply autogenerate"),
    (["migrate", "apply", "--t"], "--to"),
    (["memory", "import", "--co"], ""),  # not those of `import`
    (["memory", "import", "--dr"], ""),  # nor one of `memory repair`
    (["memory", "repair", "--dr"], "--dry-run"),
    (["memory", "stage", "m.edn", "sh"], "shadow"),
    (["completion", "f"], "fish"),
]
COMPLETE = {
    "bash": """source "$0"; COMP_WORDS=(datalog "$@"); COMP_CWORD=$#; _datalog; echo "${COMPREPLY[@]}" """,
    "zsh": """_files() { : }; compadd() { shift; for w in "$@"; do [[ "$w" == "$PREFIX"* ]] && print -r -- "$w"; done; return 0 }
              _describe() { for w in "${(@P)2}"; do w="${w%%:*}"; [[ "$w" == "$PREFIX"* ]] && print -r -- "$w"; done; return 0 }
              words=(datalog "$@"); CURRENT=$#words; PREFIX="${words[CURRENT]}"; eval "_ask() { $(<"$0") }"; _ask""",
    "fish": """source $argv[1]; set -e argv[1]; complete -C "datalog $argv" | string replace -r "\t.*" "" """,
}


def test_completion_scripts_name_every_command():
    """And the options and values that its help names, as deep as commands go."""
    assert "--dry-run" in words_of("import").options
    assert words_of("q").choices["--format"] == ["table", "json", "ndjson", "csv", "edn", "markdown"]
    assert set(words_of("migrate").commands) > {"plan", "apply", "revert"}
    for shell in SHELLS:
        text = script(shell)
        for name in cli.COMMANDS:
            assert name in text
            assert all(inner in text for inner in words_of(name).commands)


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_from_their_script(tmp_path, shell):
    """Each shell that is there reads its script and finds what may follow."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell}")
    file = tmp_path / f"datalog.{shell}"
    file.write_text(script(shell))
    # a folder without files of its own, and a home without settings
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    (tmp_path / "empty").mkdir()
    for words, wanted in COMPLETED:
        done = subprocess.run(
            [program, "-c", COMPLETE[shell], str(file), *words],
            capture_output=True,
            text=True,
            env=home,
            cwd=tmp_path / "empty",
            check=False,
        )
        assert done.stderr == ""
        assert sorted(done.stdout.split()) == sorted(wanted.split()), words
    (tmp_path / "empty" / "a b.edn").touch()
    if shell != "zsh":  # there `_files` does it
        done = subprocess.run(
            [program, "-c", COMPLETE[shell].replace("[@]", "[0]"), str(file), "stats", "a"],
            capture_output=True, text=True, env=home, cwd=tmp_path / "empty", check=False,
        )  # fmt: skip
        assert done.stdout.replace("\\", "").strip() == "a b.edn"
    for word in ("!", "-n", "("):
        done = subprocess.run(
            [program, "-c", COMPLETE[shell], str(file), word, ""] if shell != "fish" else
            [program, "-c", f"source {file}; complete -C 'datalog \"{word}\" '"],
            capture_output=True, text=True, env=home, cwd=tmp_path / "empty", check=False,
        )  # fmt: skip
        assert done.stderr == ""


@pytest.mark.usefixtures("here")
def test_where_the_database_may_stand(capsys):
    """By itself or with --db where it is all there is to give; a question that lacks --db names the database it was given."""
    for command in ("schema", "stats", "check"):
        by_itself, named = run(capsys, command, "db"), run(capsys, command, "--db", "db")
        assert by_itself[:2] == named[:2]
        assert by_itself[0] == 0
        code, out, err = run(capsys, command)
        assert (code, out) == (2, "")
        assert "required: path" in err
    code, out, err = run(capsys, "q", "[:find ?n :where [_ :t/name ?n]]", "db")
    assert (code, out) == (2, "")
    assert "Did you mean --db db?" in err
    assert "Did you mean" not in run(capsys, "q", "[:find ?n :where [_ :t/name ?n]]", "nothing")[2]
