"""Data in and out: types are inferred without losing anything, faults are told with their place, and nothing is half-written."""

import builtins
import csv
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datalog as d
from exchange.exporting import entity_rows, write_rows
from exchange.files import whole_file
from exchange.importing import format_of, plan_import, read_source, run_import
from exchange.source import ident_of
from exchange.types import convert, infer
from store.check import check_path

AT = datetime(2024, 5, 1, 10, 30, tzinfo=UTC)


def bring(conn, path, space="t", *, types=None, key=None, dry_run=False, **options):
    """Import a file; returns the figures."""
    return run_import(
        conn, plan_import(conn.db(), read_source(path, space, **options), types=types, key=key), dry_run=dry_run
    )


def written(path, text):
    """A file with a text."""
    path.write_text(text, encoding="utf-8", newline="")
    return path


# -- types


@pytest.mark.parametrize(
    ("cells", "type_name", "values"),
    [
        (["1", "-2", "0"], "long", [1, -2, 0]),
        (["9223372036854775807"], "long", [2**63 - 1]),
        (["9223372036854775808", "1"], "bigint", [2**63, 1]),
        (["007", "1"], "string", ["007", "1"]),
        (["+1"], "double", [1.0]),
        (["1_000"], "string", ["1_000"]),
        ([" 1"], "string", [" 1"]),
        (["-0"], "double", [-0.0]),
        (["1.5", "2"], "double", [1.5, 2.0]),
        (["1e3", ".5", "-.5"], "double", [1000.0, 0.5, -0.5]),
        (["nan", "1.0"], "string", ["nan", "1.0"]),
        (["inf"], "string", ["inf"]),
        (["1e999"], "string", ["1e999"]),
        (["01.5"], "string", ["01.5"]),
        (["1.5\n"], "string", ["1.5\n"]),
        (["true", "FALSE"], "boolean", [True, False]),
        (["true", "yes"], "string", ["true", "yes"]),
        (["2024-05-01", "2024-05-01T10:30Z"], "instant", [datetime(2024, 5, 1, tzinfo=UTC), AT]),
        (["2024-05-01 10:30:00+00:00"], "instant", [AT]),
        (["2024-02-30"], "string", ["2024-02-30"]),
        (["20240501"], "long", [20240501]),
        (["6ba7b810-9dad-11d1-80b4-00c04fd430c8"], "uuid", [UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")]),
        (["6BA7B810-9DAD-11D1-80B4-00C04FD430C8"], "string", ["6BA7B810-9DAD-11D1-80B4-00C04FD430C8"]),
        ([":a", ":b/c"], "keyword", [d.kw("a"), d.kw("b/c")]),
        ([":a", ": b"], "string", [":a", ": b"]),
        (["a", "1"], "string", ["a", "1"]),
    ],
)
def test_infer(cells, type_name, values):
    """The narrowest type that loses nothing; the same for a column in which every cell stands many times."""
    for times in (1, 7):
        found = infer(cells * times)
        assert (found.type, found.values) == (type_name, values * times)


@given(
    st.lists(
        st.one_of(st.integers().map(str), st.floats().map(str), st.text(min_size=1, max_size=6), st.dates().map(str)),
        min_size=1,
        max_size=4,
    )
)
def test_nothing_is_lost_by_inference(cells):
    """Integers, keywords, uuids and strings are written back as they were; doubles and instants stand for the same value."""
    found = infer(cells)
    if found.type in ("string", "long", "bigint", "keyword", "uuid"):
        assert [v if isinstance(v, str) else str(v) for v in found.values] == cells
    elif found.type == "double":
        assert found.values == [float(c) for c in cells]


def test_a_spoilt_column_is_told(tmp_path):
    """One cell that is no number among many makes the column text, and the note says which one it was."""
    rows = "\n".join(f"{i},{i / 2}" for i in range(70_000))
    file = written(tmp_path / "t.csv", f"id,price\n{rows}\n70000,n/a\n")
    with d.connect(None) as conn:
        plan = plan_import(conn.db(), read_source(file, "t"))
        assert plan.notes == [f"price is text, because of 'n/a' in {file}, line 70002: most of it is double"]
        plan = plan_import(conn.db(), read_source(file, "t", missing=["n/a"]))
        assert str(plan.schema[":t/price"][":db/valueType"]) == ":db.type/double"
        with pytest.raises(d.DatalogError) as caught:
            plan_import(conn.db(), read_source(file, "t"), types={"price": "double"})
        assert caught.value.code == "import/value"
        assert "line 70002, column price: 'n/a' is no double" in str(caught.value)
        assert conn.schema == {}


def test_convert_takes_what_people_write():
    """Declared types read more spellings than inference takes for granted."""
    assert convert(["yes", "0"], "boolean") == [True, False]
    assert convert(["007"], "long") == [7]
    assert convert(["active", ":b"], "keyword") == [d.kw("active"), d.kw("b")]
    assert convert(["0a"], "bytes") == [b"\n"]
    with pytest.raises(d.DatalogError, match="'maybe' is no boolean"):
        convert(["true", "maybe"], "boolean")


@pytest.mark.parametrize(
    ("name", "ident"),
    [
        ("age", ":t/age"),
        ("First Name", ":t/first-name"),
        (" E-Mail ", ":t/e-mail"),
        (":a/b", ":a/b"),
        ("person/age", ":person/age"),
        ("größe", ":t/größe"),
        ("%", ":t/value"),
        ("a/b/c", ":a-b/c"),
    ],
)
def test_names(name, ident):
    """Names of columns become names of attributes."""
    assert ident_of(name, "t") == ident
    d.read_edn(ident)


# -- formats


COLUMNS = ["s", "n", "x", "b", "at"]
ROWS = [
    ('Ada, "x"\nü', 1, 1.5, True, AT),
    ("b", -(2**63), -2.0, False, datetime(1999, 1, 1, tzinfo=UTC)),
    ("c", 3, 0.25, True, AT),
]


def files(folder):
    """The same table in every format."""
    with (folder / "t.csv").open("w", newline="", encoding="utf-8-sig") as f:
        csv.writer(f).writerows([COLUMNS, *[[s, n, x, str(b).lower(), at.isoformat()] for s, n, x, b, at in ROWS]])
    dicts = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    texts = [{**r, "at": r["at"].isoformat()} for r in dicts]
    written(folder / "t.json", json.dumps(texts))
    written(folder / "t.ndjson", "\n".join(map(json.dumps, texts)) + "\n\n")
    written(folder / "t.edn", d.write_edn(dicts))
    table = pyarrow.Table.from_pylist(dicts)
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    pyarrow.feather.write_feather(table, folder / "t.arrow")
    (folder / "z.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    return sorted(p for p in folder.iterdir() if p.is_file())


def test_all_formats_are_one_table(tmp_path):
    """A table gives the same facts and schema from every format; JSON's times are text unless a type is given."""
    found = []
    for file in files(tmp_path):
        types = {"at": "instant"} if file.suffix in (".json", ".ndjson") else None
        with d.connect(tmp_path / f"{file.name}.db") as conn:
            figures = bring(conn, file, types=types)
            assert (figures["rows"], figures["facts"], figures["updated"]) == (3, 15, 0)
            found.append(
                (
                    conn.schema,
                    sorted(
                        conn.q(
                            "[:find ?s ?n ?x ?b ?at :where [?e :t/s ?s] [?e :t/n ?n] [?e :t/x ?x] [?e :t/b ?b] [?e :t/at ?at]]"
                        )
                    ),
                )
            )
        assert check_path(tmp_path / f"{file.name}.db")[0] == []
    assert len(found) == 7
    assert all(one == found[0] for one in found)
    assert found[0][1] == sorted(ROWS)


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "edn", "parquet", "arrow"])
def test_what_is_exported_imports_again(tmp_path, form):
    """Entities exported in any format and imported into a database with the schema are the same facts."""
    schema = {
        f":t/{c}": {":db/valueType": f":db.type/{t}"}
        for c, t in zip(COLUMNS, ("string", "long", "double", "boolean", "instant"), strict=True)
    }
    schema |= {":t/k": {":db/valueType": ":db.type/keyword"}, ":t/u": {":db/valueType": ":db.type/uuid"}}
    with d.connect(None, schema) as conn, d.connect(None, schema) as other:
        conn.transact(
            [
                {**{f":t/{c}": v for c, v in zip(COLUMNS, row, strict=True)}, ":t/u": UUID(int=i)}
                for i, row in enumerate(ROWS)
            ]
        )
        conn.transact([{":t/k": d.kw("only/this")}])
        columns, rows = entity_rows(conn.db(), "t")
        with whole_file(tmp_path / f"x.{form}") as out:
            write_rows(out, form, columns, rows, maps=True)
        bring(other, tmp_path / f"x.{form}")
        question = "[:find ?i ?a ?v :where [?e ?a ?v] [?e :t/n ?i]]"
        assert set(other.q(question)) == set(conn.q(question))
        assert other.q("[:find ?k . :where [?e :t/k ?k]]") == d.kw("only/this")


def test_missing_values(tmp_path):
    """Empty cells, null, and what --null names are no facts; an empty column is declared as text."""
    with d.connect(None) as conn:
        figures = bring(conn, written(tmp_path / "t.csv", "a,b,c\n1,,\nNA,x,\n\n3,NA,\n"), missing=["NA"])
        assert (figures["rows"], figures["facts"]) == (3, 3)
        assert sorted(conn.q("[:find ?a :where [_ :t/a ?a]]")) == [(1,), (3,)]
        assert str(conn.schema[":t/c"][":db/valueType"]) == ":db.type/string"


def test_nested_objects_and_lists(tmp_path):
    """Objects inside become components, lists several values; a column of several types holds any value."""
    data = [
        {"name": "Ada", "tags": ["x", "y"], "address": {"city": "London", "geo": {"lat": 51.5}}, "odd": 1},
        {"name": "Bob", "tags": [], "phones": [{"no": "1"}, {"no": "2"}], "odd": "two", "none": None},
    ]
    with d.connect(tmp_path / "db") as conn:
        bring(conn, written(tmp_path / "t.json", json.dumps(data)))
        assert conn.q('[:find ?c . :where [?e :t/name "Ada"] [?e :t/address ?a] [?a :t.address/city ?c]]') == "London"
        ada = conn.q(
            '[:find (pull ?e [:t/tags {:t/address [:t.address/city {:t.address/geo [:t.address.geo/lat]}]}]) . :where [?e :t/name "Ada"]]'
        )
        assert ada == {
            ":t/tags": ["x", "y"],
            ":t/address": {":t.address/city": "London", ":t.address/geo": {":t.address.geo/lat": 51.5}},
        }
        assert set(conn.q('[:find [?n ...] :where [?e :t/name "Bob"] [?e :t/phones ?p] [?p :t.phones/no ?n]]')) == {
            "1",
            "2",
        }
        assert set(conn.q("[:find [?o ...] :where [_ :t/odd ?o]]")) == {1, "two"}
    assert check_path(tmp_path / "db")[0] == []


def test_a_key_updates(tmp_path):
    """Rows with a known key change that entity; new keys make new ones; the key becomes unique."""
    with d.connect(tmp_path / "db", {":other/x": {":db/valueType": ":db.type/long"}}) as conn:
        conn.transact([{":other/x": 1}])
        assert bring(conn, written(tmp_path / "1.csv", "id,v\n1,a\n2,b\n"), key="id")["updated"] == 0
        before = dict(conn.q("[:find ?i ?e :where [?e :t/id ?i]]"))
        figures = bring(conn, written(tmp_path / "2.csv", "v,id\nB,2\nc,3\n"), key="id")
        assert (figures["updated"], figures["declared"]) == (1, 0)
        assert dict(conn.q("[:find ?i ?v :where [?e :t/id ?i] [?e :t/v ?v]]")) == {1: "a", 2: "B", 3: "c"}
        after = dict(conn.q("[:find ?i ?e :where [?e :t/id ?i]]"))
        assert {k: after[k] for k in before} == before
        assert after[3] > max(before.values())
        assert bring(conn, tmp_path / "2.csv", key="id")["tx"] is None
        assert conn.pull("[*]", [":t/id", 3]) == {":db/id": after[3], ":t/id": 3, ":t/v": "c"}
    assert check_path(tmp_path / "db")[0] == []


def test_entities_are_new_even_while_others_write(tmp_path):
    """Ids are taken while other writers wait: a plan made before another transaction gives nobody else's id away."""
    file = written(tmp_path / "t.csv", "v\na\nb\n")
    with d.connect(None, {":o/v": {":db/valueType": ":db.type/string"}}) as conn:
        plan = plan_import(conn.db(), read_source(file, "t"))
        mine = conn.transact([{":db/id": "x", ":o/v": "mine"}]).tempids["x"]
        run_import(conn, plan)
        assert conn.pull("[*]", mine) == {":db/id": mine, ":o/v": "mine"}


# -- faults


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("t.csv", b"", "import/empty", "is empty"),
        ("t.csv", b" \n \n", "import/empty", "is empty"),
        ("t.csv", b"a,b\n1,2\n3\n", "import/ragged", "line 3: 1 field, but the first line names 2 columns"),
        ("t.csv", b'a,b\n"x\ny",2\n3,4,5\n', "import/ragged", "line 4: 3 fields"),
        ("t.csv", b"a,b,a\n1,2,3\n", "import/columns", "columns 1 and 3 are both named 'a'"),
        ("t.csv", b"a,,b\n1,2,3\n", "import/columns", "column 2 has no name"),
        ("t.csv", b"a b,A-B\n1,2\n", "import/columns", "'a b' and 'A-B' would both be the attribute :t/a-b"),
        ("t.csv", b'a,b\n1,"2\n3,4\n', "import/csv", "unexpected end of data"),
        ("t.csv", b'a,b\n1,"2"x\n', "import/csv", "line 2"),
        ("t.csv", b"a,b\n1,\x002\n", "import/csv", "line 2: there is a NUL character"),
        ("t.csv", b"a,b\n1,\xff\n", "file/encoding", "byte 6 (line 2) is 0xff"),
        ("t.json", b"", "import/empty", "is empty"),
        ("t.json", b"[{]", "import/json", "line 1, column"),
        ("t.json", b'[{"a": 1}, 2]', "import/record", "object 2: 2 is no object"),
        ("t.json", b'[{"a": 1}, {"a": {"b": 1}}]', "import/record", "a is an object here, and a value in a row before"),
        ("t.json", b'[{"a": 1, "A": 2}]', "import/columns", "would both be the attribute :t/a"),
        ("t.ndjson", b'{"a": 1}\n{"a": }\n', "import/json", "line 2, column 7"),
        ("t.edn", b"{:a 1", "edn/", "line 1"),
        ("t.edn", b"; nothing", "import/empty", "holds no maps"),
        ("t.edn", b"[{:a 1}\n 7]", "import/record", "line 2: 7 is no object"),
        ("t.parquet", b"PAR1 no", "import/arrow", "cannot be read"),
        ("t.arrow", b"no", "import/arrow", "cannot be read"),
        ("t.xyz", b"", "import/format", "does not tell the format"),
        ("t.csv.gz", b"no gzip", "file/read", "cannot be read"),
        ("none.csv", None, "file/read", "No such file"),
        ("none.parquet", None, "file/read", "it is no file"),
        ("dir.csv", "dir", "file/read", "Is a directory"),
    ],
)
def test_faults_of_files(tmp_path, name, content, code, words):
    """What is wrong with a file is told with its place, and nothing of it is written."""
    path = tmp_path / name
    if content == "dir":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with d.connect(None) as conn:
        with pytest.raises(d.DatalogError) as caught:
            bring(conn, path)
        assert caught.value.code.startswith(code), caught.value
        assert words in str(caught.value)
        assert conn.schema == {}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"types": {"nmae": "long"}}, "import/column", "Did you mean 'name'?"),
        ({"types": {"name": "strng"}}, "import/type", "Did you mean string?"),
        ({"types": {"name": "long"}}, "import/value", "line 2, column name: 'Ada' is no long"),
        ({"key": "city"}, "import/key", "line 4: the key city is 'Rome' here and in"),
        ({"key": "age"}, "import/key", "line 3: the key age has no value"),
        ({"skip": ["x"]}, "import/column", "has no column 'x'"),
        ({"encoding": "latin-9000"}, "file/encoding", "There is no encoding"),
        ({"names": {"age": ":t/name"}}, "import/columns", "'name' and 'age' would both be"),
    ],
)
def test_faults_of_options(tmp_path, options, code, words):
    """What is wrong with the options is told by name, with the nearest that there is."""
    file = written(tmp_path / "t.csv", "name,age,city\nAda,36,Rome\nBob,,Oslo\nCy,7,Rome\n")
    with d.connect(None) as conn:
        with pytest.raises(d.DatalogError) as caught:
            bring(conn, file, **options)
        assert caught.value.code == code
        assert words in str(caught.value)
        assert conn.schema == {}


def test_a_refused_import_leaves_nothing(tmp_path):
    """A unique value held twice refuses all: neither facts nor schema are written, and the error names the holder."""
    file = written(tmp_path / "t.csv", "new,mail\n1,a@x\n2,b@x\n")
    with d.connect(None, {":t/mail": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/value"}}) as conn:
        conn.transact([{":t/mail": "b@x"}])
        basis = conn.db().basis_tx
        with pytest.raises(d.DatalogError, match="b@x"):
            bring(conn, file)
        assert conn.db().basis_tx == basis
        assert list(conn.schema) == [":t/mail"]
        figures = bring(conn, file, dry_run=True, skip=["mail"])
        assert (figures["facts"], figures["tx"]) == (2, None)
        assert conn.db().basis_tx == basis


def test_without_pyarrow(tmp_path, monkeypatch):
    """Without the extra Parquet files are refused with the way to get it."""
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(d.DatalogError, match=r"pip install 'datalog-lmdb\[parquet\]'"):
        read_source(tmp_path / "t.parquet")


def test_parquet_details(tmp_path):
    """NaN is left out and told, nanoseconds are cut and told, lists are several values, nulls are no facts."""
    table = pyarrow.table(
        {
            "x": [1.0, float("nan"), None],
            "at": pyarrow.array([1, 2_000, None], pyarrow.timestamp("ns")),
            "day": pyarrow.array([1, 2, None], pyarrow.date32()),
            "tags": [["a", "b"], [], None],
            "big": pyarrow.array([2**64 - 1, 1, None], pyarrow.uint64()),
            "word": pyarrow.array(["u", "v", None]).dictionary_encode(),
            "raw": [b"\x00", b"", None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with d.connect(None) as conn:
        source = read_source(tmp_path / "t.parquet", "t")
        assert len(source.notes) == 2
        run_import(conn, plan_import(conn.db(), source))
        assert conn.q("[:find [?x ...] :where [_ :t/x ?x]]") == [1.0]
        assert set(conn.q("[:find [?x ...] :where [_ :t/tags ?x]]")) == {"a", "b"}
        assert set(conn.q("[:find [?x ...] :where [_ :t/big ?x]]")) == {2**64 - 1, 1}
        assert set(conn.q("[:find [?x ...] :where [_ :t/raw ?x]]")) == {b"\x00", b""}
        assert set(conn.q("[:find [?x ...] :where [_ :t/day ?x]]")) == {
            datetime(1970, 1, 2, tzinfo=UTC),
            datetime(1970, 1, 3, tzinfo=UTC),
        }


def test_whole_files(tmp_path):
    """A file that fails half-way leaves the old one, and nothing beside it."""
    target = written(tmp_path / "x.csv", "old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as out:
        out.write(b"half" * (1 // 0))
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
    with pytest.raises(d.DatalogError, match="file/write"), whole_file(tmp_path / "no" / "x"):
        pass
    with pytest.raises(d.DatalogError, match="is a directory"), whole_file(tmp_path):
        pass


def test_formats_by_name():
    """The name tells the format, packed or not."""
    assert format_of(Path("A.TSV")) == "csv"
    assert format_of(Path("a.ndjson.gz")) == "ndjson"
    assert format_of(Path("a"), "edn") == "edn"


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "name,age\nAda,36\n"), ("t.json", '[{"name": "Ada", "age": 36}]'), ("t.edn", '{:name "Ada" :age 36}')],
)
def test_columns_named_by_options(tmp_path, name, text):
    """--skip and --column mean the same in every format, and a name that the file does not have is a fault."""
    file = written(tmp_path / name, text)
    with d.connect(None) as conn:
        bring(conn, file, skip=["name"], names={"age": ":x/y"})
        assert set(conn.schema) == {":x/y"}
    with d.connect(None) as conn:
        for wrong in ({"skip": ["nmae"]}, {"names": {"nmae": ":x/y"}}):
            with pytest.raises(d.DatalogError, match="nmae"):
                bring(conn, file, **wrong)


def test_integers_of_json_are_kept(tmp_path):
    """An integer beyond 64 bits is a bigint, digit for digit; one that no program reads is told, not a traceback."""
    file = written(tmp_path / "t.ndjson", '{"n": 123456789012345678901}\n{"n": 1}\n')
    with d.connect(None) as conn:
        bring(conn, file)
        assert conn.schema[":t/n"][":db/valueType"] == d.kw("db.type/bigint")
        assert set(conn.q("[:find [?n ...] :where [_ :t/n ?n]]")) == {123456789012345678901, 1}
        with pytest.raises(d.DatalogError, match="import/json"):
            bring(conn, written(tmp_path / "u.json", '[{"n": %s}]' % ("1" * 5000)))


@pytest.mark.parametrize("encoding", ["UTF-8", "utf8", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, encoding):
    """However UTF-8 is spelt."""
    file = tmp_path / "t.csv"
    file.write_bytes(b"\xef\xbb\xbfname,age\nAda,36\n")
    assert [c.name for c in read_source(file, "t", encoding=encoding).columns] == ["name", "age"]


@pytest.mark.parametrize("encoding", ["undefined", "hex"])
def test_encodings_that_are_none(tmp_path, encoding):
    """A codec of Python that is no encoding of texts is told as one that is not there."""
    with pytest.raises(d.DatalogError, match="file/encoding"):
        read_source(written(tmp_path / "t.csv", "name\nAda\n"), "t", encoding=encoding)


def test_instants_beyond_the_calendar_are_text(tmp_path):
    """What the database could not hold as an instant is not taken for one; asked for, it is told with its place."""
    assert infer(["9999-12-31T23:59:59-23:59"]).type == "string"
    with d.connect(None) as conn, pytest.raises(d.DatalogError, match="line 2, column at"):
        bring(conn, written(tmp_path / "t.csv", "at\n0001-01-01T00:00+01:00\n"), types={"at": "instant"})


@pytest.mark.parametrize("cell", ["NaN", "Infinity", "1_0", "sNaN"])
def test_decimals_that_are_none(cell):
    """What is no number with digits is no decimal."""
    with pytest.raises(d.DatalogError, match="is no bigdec"):
        convert([cell], "bigdec")


def test_keys_of_all_types(tmp_path):
    """A key finds its entity whatever its type; decimals of different scale are two."""
    table = pyarrow.table({"at": [AT, AT.replace(year=2025)], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with d.connect(None) as conn:
        bring(conn, tmp_path / "t.parquet", key="at")
        assert bring(conn, tmp_path / "t.parquet", key="at")["updated"] == 2
    file = written(tmp_path / "d.csv", "price,n\n1.0,1\n1.00,2\n")
    with d.connect(None) as conn:
        bring(conn, file, types={"price": "bigdec"}, key="price")
        assert bring(conn, file, types={"price": "bigdec"}, key="price")["updated"] == 2


def test_schema_and_facts_are_one(tmp_path):
    """An import that has to change an attribute and fails leaves the attribute as it was; one that succeeds is one transaction."""
    with d.connect(None, {":t/name": {":db/valueType": ":db.type/string"}}) as conn:
        conn.transact([{":t/name": "Ada"}, {":t/name": "Bob"}])
        before, basis = conn.schema, conn.db().basis_tx
        file = written(tmp_path / "t.csv", "name,tags\nAda,x\n")
        source = read_source(file, "t")
        plan = plan_import(conn.db(), source, key="name")
        conn.transact([{":t/name": "Ada"}])  # twice now: it cannot be unique
        with pytest.raises(d.DatalogError):
            run_import(conn, plan)
        assert conn.schema == before
        conn.transact([[":db/retractEntity", conn.db().max_eid]])
        assert run_import(conn, plan)["updated"] == 1
        assert conn.db().basis_tx == basis + 3


@pytest.mark.parametrize("space", ["a b", "", "x)"])
def test_namespaces_that_are_none(tmp_path, space):
    """A namespace that no keyword can have is told before anything is read; a colon before it is left out."""
    file = written(tmp_path / "t.csv", "name\nAda\n")
    with pytest.raises(d.DatalogError, match="import/namespace"):
        read_source(file, space)
    assert read_source(file, ":person").columns[0].ident == ":person/name"


def test_arrow_files_by_format(tmp_path):
    """The format that was given counts, and the case of a suffix does not; packed files are unpacked."""
    table = pyarrow.table({"n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "t.dat")
    pyarrow.parquet.write_table(table, tmp_path / "T.PARQUET")
    with gzip.open(tmp_path / "t.parquet.gz", "wb") as out:
        pyarrow.parquet.write_table(table, out)
    for name, form in (("t.dat", "parquet"), ("T.PARQUET", None), ("t.parquet.gz", None)):
        assert read_source(tmp_path / name, "t", form=form).columns[0].values.tolist() == [1, 2], name


def test_times_out_of_range_are_told(tmp_path):
    """A time that microseconds cannot say is a fault, never another time."""
    far = pyarrow.table({"at": pyarrow.array([2**62], pyarrow.timestamp("s"))})
    pyarrow.feather.write_feather(far, tmp_path / "t.arrow")
    with pytest.raises(d.DatalogError, match="at has a time that is too far away"):
        read_source(tmp_path / "t.arrow", "t")


@pytest.mark.parametrize(("value", "text"), [(2**70, str(2**70)), (Decimal("1" * 90), "1" * 90 + "M"), ("\ud800", "?")])
def test_what_arrow_has_no_type_for_is_text(tmp_path, value, text):
    """Values beyond Arrow's types are written as text."""
    with whole_file(tmp_path / "t.parquet") as out:
        write_rows(out, "parquet", ["v"], [(value,), (None,)])
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").column("v").to_pylist() == [text, None]
