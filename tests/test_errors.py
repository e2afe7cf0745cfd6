"""Errors say what is wrong, where, what was expected and how to mend it, in one layout."""

import copy
import pickle

import pytest

from store import errors
from store.errors import DatalogError, EdnError, InternalError, QueryError, StoreLocked, nearest, span_at

QUERY = "[:find ?e\n :where\n [?e :person/name]\n        [(> ?age 18)]]"


def error_at(text, start, end):
    """The lines that an error shows of the text."""
    return str(QueryError("query/x", "m", span=span_at(text, start, end), source=text)).split("\n")[1:]


def test_layout():
    """The text has the first line, the place, the source line with carets, further lines, expected and mend."""
    start = QUERY.index("?age")
    error = QueryError(
        "query/unbound-variable",
        "(> ?age 18) needs ?age, which no clause binds.\nBound here: ?e.",
        expected="a clause that binds ?age",
        hint="add a clause such as [?e :person/age ?age], or pass ?age through :in.",
        span=span_at(QUERY, start, start + 4),
        source=QUERY,
    )
    assert str(error) == (
        "QueryError [query/unbound-variable]: (> ?age 18) needs ?age, which no clause binds.\n"
        "  line 4, column 13\n"
        "    |         [(> ?age 18)]]\n"
        "    |             ^^^^\n"
        "  Bound here: ?e.\n"
        "  Expected: a clause that binds ?age\n"
        "  Mend: add a clause such as [?e :person/age ?age], or pass ?age through :in."
    )


def test_least():
    """Code and message alone are one line; a file without a place is named."""
    assert str(EdnError("edn/x", "Wrong.")) == "EdnError [edn/x]: Wrong."
    assert str(EdnError("edn/x", "Wrong.", file="m.edn")) == "EdnError [edn/x]: Wrong.\n  file m.edn"
    assert EdnError("edn/x", "Wrong.").data == {}


@pytest.mark.parametrize(
    ("text", "part", "shown", "carets"),
    [
        ("abc", "b", "abc", " ^"),
        ("abc", "", "abc", "^"),
        ("\tab\r\nc", "b", " ab", "  ^"),
        ("日本 x", "x", "日本 x", "     ^"),
        ("日本 x", "日本", "日本 x", "^^^^"),
        ("e\u0301 x", "x", "e\u0301 x", "  ^"),
        ("a\x1b\u202eb x", "x", "a··b x", "     ^"),
        ("a\ud83d x", "x", "a· x", "   ^"),
        ("a [b\nc]", "[b\nc]", "a [b", "  ^^"),
    ],
)
def test_caret_stands_under_its_text(text, part, shown, carets):
    """Carets count terminal cells: tabs, wide and combining characters, unprintable ones, many lines."""
    start = text.index(part)
    lines = error_at(text, start, start + len(part))
    assert lines[1:] == [f"    | {shown}", f"    | {carets}"]
    "\n".join(lines).encode()


def test_long_line_is_cut_around_the_place():
    """A line of a megabyte shows a hundred characters, the place among them."""
    text = "a" * 500_000 + "HERE" + "b" * 500_000
    place, line, carets = error_at(text, 500_000, 500_004)
    assert place == "  line 1, column 500001"
    assert len(line) < 120
    assert line[carets.index("^") :].startswith("HERE")
    assert carets.count("^") == 4
    _, line, carets = error_at(text, 999_999, 1_000_004)
    assert carets.count("^") == 5
    assert not line.endswith("…")


def test_end_of_text():
    """A place behind the last character is shown, too."""
    assert error_at("ab", 2, 2)[1:] == ["    | ab", "    |   ^"]
    assert error_at("", 0, 0)[1:] == ["    |", "    | ^"]


def test_errors_are_pickled_and_copied_whole():
    """An error keeps all its parts through pickle and copy."""
    error = StoreLocked("store/locked", "Locked.", retryable=True, hint="wait.", data={"pid": 1}, file="f")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is StoreLocked
        assert (str(again), again.retryable, again.data, again.args) == (str(error), True, {"pid": 1}, error.args)


def test_families():
    """Every error belongs to one of the three families."""
    classes = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    found = [c for c in classes if issubclass(c, DatalogError) and c is not DatalogError]
    families = (errors.UserError, errors.StorageError, errors.InternalError)
    assert len(found) == 14
    assert all(sum(issubclass(c, family) for family in families) == 1 for c in found)
    assert not StoreLocked("store/locked", "Locked.").retryable
    assert "please report" in str(InternalError("internal/x", "Oh."))


def test_nearest():
    """A slip of the fingers or of the case finds the name; a stranger finds none."""
    names = [":person/name", ":person/age", ":Person/Name"]
    assert nearest(":person/nmae", names) == ":person/name"
    assert nearest(":PERSON/AGE", names) == ":person/age"
    assert nearest("zzz", names) is None
    assert nearest("x", []) is None
