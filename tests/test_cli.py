"""The command line: what it prints, its exit codes, and that it behaves in pipes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from io import StringIO
from pathlib import Path

import pytest

import datalog as d
from datalog import cli
from datalog.progress import Bar
from migration.commands import EXAMPLE
from migration.source import read_memory
from store.edn import read_edn, strict_equal

ROOT = Path(__file__).parent.parent
OWNED = "[:find ?id ?type :in $ ?o :where [?s :session/owner ?o] [?s :session/id ?id] [?s :session/type ?type] :order-by ?id]"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A directory with the example memory imported; not to be changed."""
    path = tmp_path_factory.mktemp("cli") / "db"
    assert cli.main(["memory", "import", str(EXAMPLE), "--db", str(path), "--no-progress"]) == 0
    return path


@pytest.fixture
def own(database, tmp_path):
    """A copy of that database for one test."""
    return Path(shutil.copytree(database, tmp_path / "db"))


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def spawn(*arguments, **more):
    """A child process that runs the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "datalog.cli", *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True, **more
    )


# -- overview


def test_help(capsys):
    """Help lists every command and the exit codes; each command has help of its own."""
    code, shown, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in shown for name in cli.COMMANDS)
    assert "130 interrupted" in shown
    for name, (module, _) in cli.COMMANDS.items():
        with pytest.raises(SystemExit) as left:
            cli.main([name, "--help"])
        assert left.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith("usage: datalog")
        if module.startswith("shell."):
            assert "examples:\n  datalog " in shown, name
            assert "--json" in shown or name == "completion", name
    with pytest.raises(SystemExit):
        cli.main(["help", "q"])
    assert "usage: datalog q" in capsys.readouterr().out


def test_no_command(capsys):
    """Without a command, or with an unknown one, the overview is shown and the exit code is 2."""
    assert run(capsys)[0] == 2
    assert run(capsys, "memory")[0] == 2
    code, out, err = run(capsys, "chek")
    assert (code, out) == (2, "")
    assert "Did you mean check?" in err
    code, out, err = run(capsys, "check", "--rebuidl", "x")
    assert (code, out) == (2, "")
    assert "Did you mean --rebuild?" in err


def test_version(capsys):
    """The version is printed."""
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("datalog-lmdb")


# -- q


def test_q_table(capsys, database):
    """A relation is printed as an aligned table; rows and time go to standard error."""
    code, out, err = run(capsys, "q", OWNED, "--db", database, ":ada")
    assert code == 0
    head, rule, *rows = out.splitlines()
    assert head.split() == ["id", "type"]
    assert set(rule) == {"-", " "}
    assert rows
    assert all(row.index(":") == head.index("type") for row in rows)
    assert f"{len(rows)} rows" in err


def test_q_formats(capsys, database):
    """The same answer as EDN, JSON and CSV."""
    _, edn, err = run(capsys, "q", OWNED, ":ada", "--db", database, "--format", "edn")
    assert err == ""
    rows = [tuple(read_edn(line)) for line in edn.splitlines()]
    with d.connect(database, read_only=True) as conn:
        assert rows == list(conn.q(OWNED, d.kw("ada")))
    _, text, _ = run(capsys, "q", OWNED, ":ada", "--db", database, "--format", "json")
    assert [(row["id"], d.kw(row["type"])) for row in json.loads(text)] == rows
    _, csv, _ = run(capsys, "q", OWNED, ":ada", "--db", database, "--format", "csv")
    assert csv.splitlines()[0] == "id,type"
    assert csv.splitlines()[1] == f"{rows[0][0]},{rows[0][1]}"


@pytest.mark.parametrize(
    ("query", "inputs", "shown"),
    [
        ("[:find (count ?k) . :where [?k :memory/key]]", [], ["439"]),
        ("[:find ?x . :where [?k :memory/key :no-such-key] [?k :memory/kind ?x]]", [], []),
        ("[:find [?x ...] :in [?x ...]]", ["[1 2.0]"], ["1", "2.0"]),
        ("[:find [?x ?y] :in ?x ?y]", ["-1", '"a b"'], ['-1  "a b"']),
        ("[:find ?x :keys number :in [?x ...]]", ["[1]"], ["1"]),
        ("[:find ?x . :in ?x]", ['#inst "2020-01-01"'], ['#inst "2020-01-01T00:00:00.000-00:00"']),
    ],
)
def test_q_finds(capsys, database, query, inputs, shown):
    """Every find spec is printed; inputs are EDN, negative numbers included."""
    if ":in" in query and "$" not in query:
        query = query.replace(":in", ":in $")
    code, out, _ = run(capsys, "q", query, *inputs, "--db", database)
    assert code == 0
    assert [line.strip() for line in out.splitlines()[2:]] == shown


def test_q_explain(capsys, database):
    """The plan is printed instead of the answer."""
    code, out, _ = run(capsys, "q", OWNED, ":ada", "--db", database, "--explain")
    assert code == 0
    assert "session/owner" in out


def test_q_from_standard_input(database):
    """A dash takes the query from standard input."""
    child = spawn("q", "-", "--db", database, "--format", "edn", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = child.communicate("[:find (count ?k) . :where [?k :memory/key]]")
    assert (child.returncode, out) == (0, "[439]\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["q", "[:find ?x :where [?x :tag/nam]]", "--db", "DB"], 2, "did you mean :tag/name?"),
        (["q", "[:find", "--db", "DB"], 2, "EdnError"),
        (["q", "[:find ?x :in $ ?x]", "[", "--db", "DB"], 2, "EdnError"),
        (["q", "[:find ?x :in $ ?x]", "--db", "NONE"], 2, "holds no database"),
        (["stats", "NONE"], 2, "is no directory"),
        (["check", "NONE"], 2, "is no directory"),
        (["compact", "NONE"], 2, "is no directory"),
        (["memory", "verify", "NONE", "--db", "DB"], 2, "memory/unreadable"),
        (["memory", "import", "NONE", "--db", "NONE"], 2, "memory/unreadable"),
        (["memory", "export", "--db", "NONE"], 2, "holds no database"),
        (["memory", "import", "EXAMPLE", "--db", "DB", "--keymap", "NONE"], 2, "keymap/unreadable"),
    ],
)
def test_errors(capsys, database, tmp_path, arguments, code, message):
    """What the user has to mend is printed as the library words it, without a traceback, with exit code 2."""
    places = {"DB": str(database), "NONE": str(tmp_path / "none"), "EXAMPLE": str(EXAMPLE)}
    got, out, err = run(capsys, *[places.get(a, a) for a in arguments])
    assert got == code
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "none").exists()


# -- care of a database


def test_check(capsys, own):
    """A sound database has no findings; a damaged one has some, and exit code 1; a rebuild from the log mends indexes."""
    code, out, _ = run(capsys, "check", own)
    assert (code, out.startswith("no findings; ")) == (0, True)
    code, out, _ = run(capsys, "check", own, "--rebuild", "--json")
    data = json.loads(out)
    assert (code, data["findings"]) == (0, [])
    assert data["rebuilt"]
    file = own / "data.mdb"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 :: 4096] = bytes(b ^ 0xFF for b in raw[len(raw) // 2 :: 4096])
    file.write_bytes(raw)
    code, out, err = run(capsys, "check", own)
    assert code in (1, 3)
    assert out or err


def test_stats(capsys, database):
    """Sizes and counts, as text and as JSON."""
    code, out, _ = run(capsys, "stats", database)
    assert code == 0
    assert ":memory/key" in out
    data = json.loads(run(capsys, "stats", database, "--json")[1])
    assert data["attributes"][":memory/key"] == 439


def test_compact(capsys, own, tmp_path):
    """A compacted copy answers the same; in place, too."""
    code, out, _ = run(capsys, "compact", own, "--to", tmp_path / "copy", "--json")
    assert code == 0
    assert json.loads(out)
    assert run(capsys, "compact", own)[0] == 0
    for path in (own, tmp_path / "copy"):
        assert run(capsys, "memory", "verify", EXAMPLE, "--db", path)[0] == 0


# -- memory


def test_import_again(capsys, own):
    """An import says what it did; the same file again changes nothing."""
    code, out, err = run(capsys, "memory", "import", EXAMPLE, "--db", own, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert (data["keys"], data["added"], data["changed"], data["unchanged"]) == (439, 0, 0, 439)
    assert data["coverage"]["by_kind"]["session"] > 10


def test_import_text_and_progress(capsys, tmp_path):
    """Off a terminal progress is a line for each step, on standard error."""
    code, out, err = run(capsys, "memory", "import", EXAMPLE, "--db", tmp_path / "db", "--progress", "--full")
    assert code == 0
    assert "added 439" in out
    assert "\r" not in err
    assert "load new keys ..." in err


def test_verify(capsys, own, tmp_path):
    """Equal sides: exit code 0; a difference: 1, with the key and the path."""
    code, out, _ = run(capsys, "memory", "verify", EXAMPLE, "--db", own)
    assert code == 0
    assert out.startswith("439 of 439 keys equal")
    changed = tmp_path / "changed.edn"
    changed.write_text(
        EXAMPLE.read_text(encoding="utf-8").replace(':version "1.0.0"', ':version "1.0.1"'), encoding="utf-8"
    )
    code, out, _ = run(capsys, "memory", "verify", changed, "--db", own)
    assert code == 1
    assert "different :config" in out
    assert 'at :version\n      memory   "1.0.1"\n      database "1.0.0"' in out
    code, out, _ = run(capsys, "memory", "verify", changed, "--db", own, "--json")
    assert code == 1
    assert json.loads(out)["findings"][0]["key"] == ":config"


def test_keep_missing(capsys, own, tmp_path):
    """Keys that the file lacks are deleted, unless they are to be kept."""
    part = tmp_path / "part.edn"
    part.write_text("{:config 1}", encoding="utf-8")
    assert "deleted 0" in run(capsys, "memory", "import", part, "--db", own, "--keep-missing")[1]
    assert "deleted 438" in run(capsys, "memory", "import", part, "--db", own)[1]
    assert run(capsys, "memory", "export", "--db", own)[1] == "{:config 1}\n"


def test_export(capsys, database, tmp_path):
    """The export is a memory file, a key a line, equal to the one imported."""
    code, out, _ = run(capsys, "memory", "export", "--db", database)
    assert code == 0
    exported = tmp_path / "exported.edn"
    exported.write_text(out, encoding="utf-8", newline="")
    assert strict_equal(read_memory(exported).values_by_key, read_memory(EXAMPLE).values_by_key)
    assert len(out.split("\n :")) >= 400


def test_own_keymap(capsys, tmp_path):
    """A mapping in a file stands in front of the built-in one; without it the database cannot be read back."""
    own = tmp_path / "own.edn"
    own.write_text(
        """{:schema [{:db/ident :user/theme :db/valueType :db.type/keyword}]
            :rules [{:kind :user :data :user :match {:namespace "user"} :entity {:given {} :parts {:theme :user/theme}}}]}"""
    )
    file = tmp_path / "memory.edn"
    file.write_text("{:user/ada {:theme :dark}}")
    options = ["--db", tmp_path / "db", "--keymap", own]
    assert run(capsys, "memory", "import", file, *options)[0] == 0
    assert run(capsys, "memory", "verify", file, *options)[0] == 0
    assert run(capsys, "memory", "verify", file, "--db", tmp_path / "db")[0] == 1
    code, _, err = run(capsys, "memory", "export", "--db", tmp_path / "db")
    assert (code, "--keymap FILE" in err) == (2, True)


# -- demo


def test_demo(capsys):
    """The demo migrates, verifies every key, answers, and leaves nothing behind."""
    code, out, err = run(capsys, "demo")
    assert code == 0
    assert "439 of 439 keys equal" in out
    assert out.count(" ms)") == 6
    assert "\r" not in err
    directory = out.splitlines()[0].removeprefix("1. The memory: ")
    assert not Path(directory).exists()


def test_demo_keeps(capsys, tmp_path):
    """--db names the database, --keep keeps the copy of the memory."""
    code, out, _ = run(capsys, "demo", "--db", tmp_path / "db", "--keep")
    assert code == 0
    kept = Path(out.splitlines()[-1].removeprefix("kept: "))
    assert (kept / "memory.edn").read_bytes() == EXAMPLE.read_bytes()
    shutil.rmtree(kept)
    assert run(capsys, "memory", "verify", EXAMPLE, "--db", tmp_path / "db")[0] == 0


def test_example_is_the_packaged_memory():
    """examples/memory.edn and the file in the package are the same."""
    assert (ROOT / "examples" / "memory.edn").read_bytes() == EXAMPLE.read_bytes()


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """Yes."""
        return True


def test_bar_on_a_terminal():
    """On a terminal the bar redraws its line, and each step leaves one line behind."""
    out = Terminal()
    with Bar(out) as bar:
        bar("one", 0, 2)
        bar("one", 1, 2)
        bar("one", 2, 2)
        bar("two", 0, 0)
    lines = out.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[0].count("\r") >= 2
    assert "[##############################] 2 of 2" in lines[0]
    assert lines[1].startswith("\rtwo")
    quiet = StringIO()
    with Bar(quiet) as bar:
        bar("one", 0, 2)
    assert quiet.getvalue() == ""


def test_questions_in_the_docs(capsys, database):
    """Every `datalog q` of docs/memory.md runs."""
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    questions = [
        shlex.split(q) for q in re.findall(r"^datalog (q '.*?--db memory.db)$", text, re.MULTILINE | re.DOTALL)
    ]
    assert len(questions) >= 5
    for question in questions:
        code, out, err = run(capsys, *[str(database) if word == "memory.db" else word for word in question])
        assert (code, "rows" in err) == (0, True), question
        assert out


# -- pipes and signals


def test_broken_pipe(database):
    """A reader that goes away ends the command quietly."""
    child = spawn(
        "q", "[:find ?k :where [_ :memory/key ?k]]", "--db", database, "--format", "edn", stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert (child.wait(), err) == (cli.NO_READER, "")


def test_interrupt(tmp_path):
    """Ctrl-C ends a command with exit code 130 and no traceback."""
    file = tmp_path / "fifo"
    os.mkfifo(file)
    child = spawn("memory", "import", file, "--db", tmp_path / "db", "--progress", stdout=subprocess.PIPE)
    assert child.stderr is not None
    assert child.stderr.readline() == "read the file ...\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130
    assert "Traceback" not in err


def test_a_database_without_a_memory(capsys, tmp_path):
    """Export and verify say that a database holds no memory; one of a memory without keys does."""
    file = tmp_path / "memory.edn"
    file.write_text("{}")
    with d.connect(tmp_path / "other") as conn:
        conn.transact([{":a": 1}])
    for arguments in (["export"], ["verify", file]):
        code, out, err = run(capsys, "memory", *arguments, "--db", tmp_path / "other")
        assert (code, out) == (2, "")
        assert "memory/none" in err
    assert run(capsys, "memory", "import", file, "--db", tmp_path / "db")[0] == 0
    assert run(capsys, "memory", "export", "--db", tmp_path / "db")[:2] == (0, "{}\n")
    assert run(capsys, "memory", "verify", file, "--db", tmp_path / "db")[0] == 0


def test_numpy_loads_without_its_texts() -> None:
    """What commands that end at once leave out of numpy is texts and types alone; who asks for the types gets them after all."""
    code = """
        from datalog import cli
        cli._leave_out_numpy_texts()
        import sys
        import numpy as np
        assert np.ndarray.sort.__doc__ is None, "numpy keeps its texts elsewhere now"
        from numpy._core._add_newdocs import whatever
        assert whatever(1, a=2) is None
        assert not hasattr(sys.modules["numpy._typing"], "__file__"), "numpy asks for more types now"
        table = np.arange(6, dtype=np.int64).reshape(2, 3)
        print(int(np.sort(table.ravel())[::-1].sum()), np.dtype("f8").name, np.linalg.solve(np.eye(2), [1, 2]).tolist())
        from numpy.typing import ArrayLike, NDArray
        assert NDArray[np.int64] is not None
        import numpy._typing._array_like
        assert sys.modules["numpy._typing"].ArrayLike is ArrayLike
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.split() == ["15", "float64", "[1.0,", "2.0]"], done.stderr
