"""Pictures: every plan and schema is drawn, and what is drawn is well-formed; nothing of the data gets out of its label."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

import datalog as d
from datalog import cli
from datalog.charts import bar_svg, bar_text
from datalog.pictures import PLAN_FORMATS, SCHEMA_FORMATS, plan_picture, reference_targets, schema_picture
from datalog.prepared import prepare

QUERIES = [
    ("[:find ?n :where [?p :person/name ?n]]", []),
    ("[:find ?c (count ?p) :where [?p :person/city ?c] (not [?p :person/age 7]) :order-by [?c :desc] :limit 5]", []),
    (
        '[:find ?n :in $ ?x :where [?p :person/name ?n] (or-join [?p ?x] [?p :person/age ?x] [?p :person/city "a\\"]->b;<x>&|{%"])]',
        [7],
    ),
    (
        "[:find ?b :in $ % ?a :where (far ?a ?b)]",
        ["[[(far ?a ?b) [?a :person/friend ?b]] [(far ?a ?b) [?a :person/friend ?c] (far ?c ?b)]]", 1],
    ),
    ("[:find ?x :in $ % :where (n ?x)]", ["[[(n ?x) [(ground 1) ?x]] [(n ?x) (n ?y) [(+ ?y 1) ?x] [(< ?x 9)]]]"]),
    ("[:find (pull ?p [*]) :in $ [[?p ?n]] :where [?p :person/name ?n]]", [[[1, "Ada"]]]),
]
NASTY = [":x-y/a?", ':x-y/b"', ":ü.ß/ñ", ":a/%<b>", ":plain"]


@pytest.fixture(scope="module")
def db():
    """Ten people."""
    with d.connect(None, {":person/name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"}, ":person/age": {":db/valueType": ":db.type/long"},
                          ":person/city": {":db/valueType": ":db.type/string"}, ":person/friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
                          ":person/home": {":db/valueType": ":db.type/ref"}, ":house/street": {":db/valueType": ":db.type/string"}}) as conn:  # fmt: skip
        conn.transact(
            [
                {
                    ":db/id": i,
                    ":person/name": f"P{i}",
                    ":person/age": i,
                    ":person/city": "Rome",
                    ":person/friend": [i % 10 + 1],
                    ":person/home": 20,
                }
                for i in range(1, 11)
            ]
        )
        conn.transact([{":db/id": 20, ":house/street": "Via"}])
        yield conn.db()


class Tags(HTMLParser):
    """Checks that tags are closed in their order; keeps the text of code elements."""

    def __init__(self):
        super().__init__()
        self.open, self.codes = [], []

    def handle_starttag(self, tag, _):
        """One more."""
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        """The last one."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Text."""
        if self.open and self.open[-1] == "code":
            self.codes.append(data)


def check_flowchart(text, nodes):
    """A Mermaid flowchart of quoted labels and edges between declared nodes."""
    lines = text.splitlines()
    assert lines[0] == "flowchart BT"
    declared, edges = set(), 0
    for line in lines[1:]:
        node = re.fullmatch(r'  (n\d+)\["((?:[\w ?.,:/~+*=()-]|#\d+;|<br/>)*)"\]', line)
        edge = re.fullmatch(r"  (n\d+) --> (n\d+)", line)
        if node:
            declared.add(node[1])
        elif edge:
            assert {edge[1], edge[2]} <= declared
            edges += 1
        else:
            assert re.fullmatch(r"  (classDef off fill:#\w+,stroke:#\w+|class n\d+(,n\d+)* off)", line), line
    assert len(declared) == nodes
    assert edges == nodes - 1


DOT_STATEMENT = re.compile(
    r'  (?:(?:rankdir=\w+;)|(?:(?:node|edge) \[[^\]]*\];)|(?P<node>[a-z]\d+) \[label=(?:"(?:[^"\\]|\\.)*"|<(?P<html>.*)>)(?:, \w+="?[#\w]+"?)*\];'
    r'|(?P<a>[a-z]\d+) -> (?P<b>[a-z]\d+)(?: \[label="(?:[^"\\]|\\.)*"\])?;)'
)


def check_dot(text, nodes):
    """A DOT digraph of labelled nodes and edges between them; labels in HTML are well-formed."""
    lines = text.splitlines()
    assert re.fullmatch(r"digraph \w+ \{", lines[0])
    assert lines[-1] == "}"
    declared = set()
    for line in lines[1:-1]:
        found = DOT_STATEMENT.fullmatch(line)
        assert found, line
        if found["html"]:
            ET.fromstring(found["html"])
        if found["node"]:
            declared.add(found["node"])
        if found["a"]:
            assert {found["a"], found["b"]} <= declared
    assert len(declared) == nodes


@pytest.mark.parametrize("analyze", [False, True])
@pytest.mark.parametrize(("query", "inputs"), QUERIES)
def test_plans(db, query, inputs, analyze):
    """Every kind of plan is well-formed in every format, with each of its steps."""
    steps = prepare(query).steps(db, *inputs, analyze=analyze)
    assert plan_picture(steps, "text") == db.explain(query, *inputs, analyze=analyze) + "\n"
    check_flowchart(plan_picture(steps, "mermaid"), len(steps))
    check_dot(plan_picture(steps, "dot"), len(steps))
    tags = Tags()
    tags.feed(plan_picture(steps, "html", query))
    tags.close()
    assert tags.open == []
    assert tags.codes == [s.label for s in steps]
    with pytest.raises(d.DatalogError, match="explain/format"):
        plan_picture(steps, "png")


def check_er(text, boxes, arrows):
    """A Mermaid entity diagram: boxes with attributes, and relations between them."""
    lines = text.splitlines()
    assert lines[0] == "erDiagram"
    declared, related, inside = set(), 0, False
    for line in lines[1:]:
        if inside:
            inside = line != "  }"
            assert not inside or re.fullmatch(r'    [a-z]+(\[\])? [A-Za-z][\w-]*( UK)? "[^"%]*"', line), line
        elif box := re.fullmatch(r'  (e\d+)\["[^"%]+"\] \{', line):
            declared.add(box[1])
            inside = True
        else:
            relation = re.fullmatch(r'  (e\d+) \}o--o[{|] (e\d+) : "[^"%]+"', line)
            assert relation, line
            assert {relation[1], relation[2]} <= declared
            related += 1
    assert (len(declared), related) == (boxes, arrows)


def test_schema(db):
    """Boxes are namespaces; arrows are references, to where they lead in the data."""
    targets = reference_targets(db)
    assert targets == {":person/friend": ["person"], ":person/home": ["house"]}
    check_er(schema_picture(db.schema, targets, "mermaid"), 2, 2)
    check_dot(schema_picture(db.schema, targets, "dot"), 2)
    with pytest.raises(d.DatalogError, match="schema/format"):
        schema_picture(db.schema, targets, "png")


@pytest.mark.parametrize("form", SCHEMA_FORMATS)
def test_nasty_names(form):
    """Names with quotes, brackets and other scripts stay inside their labels; an empty schema is drawn, too."""
    schema = {name: {":db/valueType": ":db.type/ref"} for name in NASTY}
    text = schema_picture(schema, {name: ["ü.ß"] for name in NASTY}, form)
    check = check_er if form == "mermaid" else lambda t, n, _: check_dot(t, n)
    check(text, 4, 5)
    check(schema_picture({}, {}, form), 0, 0)


def test_bars():
    """Bars are as long as their numbers, in text and in SVG; labels are escaped; what is no number is refused."""
    columns, rows = (
        ["city", "n"],
        [("Rome <&>\x1b", 10), ("Oslo", 5), ("Bern", 0), ("Minus", -3), ("Far", float("inf"))],
    )
    lines = bar_text(columns, rows, 60).splitlines()
    assert lines[0].count("█") == 2 * lines[1].count("█") > 10
    assert lines[2].split() == ["Bern", "0"]
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b" not in "".join(lines)
    root = ET.fromstring(bar_svg(columns, rows, "Cities & <more>"))
    widths = [float(r.get("width")) for r in root.findall(".//{*}rect")[1:]]
    assert widths[0] == 2 * widths[1] == 420
    assert widths[2:] == [0, 0, 0]
    assert "Rome <&>·" in [t.text for t in root.findall(".//{*}text")]
    assert "no rows" in bar_text(columns, [])
    ET.fromstring(bar_svg(columns, []))
    for wrong, code in (
        ([("a", "b")], "plot/columns"),
        ([("a", 10**400)], "plot/columns"),
        ([("a", i) for i in range(101)], "plot/rows"),
    ):
        with pytest.raises(d.DatalogError) as caught:
            bar_text(columns, wrong)
        assert caught.value.code == code


def test_from_the_command_line(capsys, tmp_path):
    """The commands draw: explain, schema, q --plot, into a file and to the screen."""
    path = str(tmp_path / "db")
    with d.connect(path, {":p/c": {":db/valueType": ":db.type/string"}}) as conn:
        conn.transact([{":p/c": "Rome"}, {":p/c": "Rome"}, {":p/c": "Oslo"}])
    query = "[:find ?c (count ?p) :where [?p :p/c ?c] :order-by ?c]"
    for form in PLAN_FORMATS:
        assert cli.main(["explain", query, "--db", path, "--format", form]) == 0
        assert "scan" in capsys.readouterr().out
    for form in ("edn", "table", "json", "mermaid", "dot"):
        assert cli.main(["schema", path, "--format", form]) == 0
        assert "c" in capsys.readouterr().out
    assert cli.main(["q", query, "--plot", "--db", path]) == 0
    assert "█ 2" in capsys.readouterr().out
    assert cli.main(["q", "--plot", query, "--db", path]) == 0
    assert "█ 2" in capsys.readouterr().out
    assert cli.main(["q", query, "--db", path, "--plot", str(tmp_path / "bars.svg")]) == 0
    ET.parse(tmp_path / "bars.svg")
    assert cli.main(["q", "[:find ?c :where [_ :p/c ?c]]", "--db", path, "--plot"]) == 2
