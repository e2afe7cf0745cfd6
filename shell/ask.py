"""The commands that ask: `q`, `pull`, `explain`."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from shell.arguments import (
    add_database,
    add_formats,
    add_json,
    check_timeout,
    command_parser,
    read_text,
    terminal_width,
    write_out,
)
from store.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from shell.arguments import Parser

_BARS: Final = "-"  # --plot without a file


def run(command: str, arguments: list[str]) -> int:
    """Runs one of the commands of this module."""
    return {"q": _q, "pull": _pull, "explain": _explain}[command](arguments)


def _q(arguments: list[str]) -> int:
    parser = command_parser(
        "q",
        "Asks a query of a database and prints the answer.",
        """q '[:find ?n ?a :where [?p :person/name ?n] [?p :person/age ?a]]' --db people.db
q '[:find ?n :in $ ?a :where [?p :person/name ?n] [?p :person/age ?a]]' 36 --db people.db --format csv
q '[:find ?c (count ?p) :where [?p :person/city ?c]]' --db people.db --plot
q '[:find ?c (count ?p) :where [?p :person/city ?c]]' --db people.db --plot cities.svg
q '[:find ?x :in $ % :where (ancestor "Ada" ?x)]' --rules family.edn --db people.db
echo '[:find (count ?p) . :where [?p :person/name]]' | datalog q - --db people.db""",
    )
    parser.add_argument(
        "query", nargs="*", help="the query, EDN text; - reads it from standard input; then the inputs of :in"
    )
    add_database(parser)
    add_formats(parser)
    _query_options(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="print at most so many rows")
    parser.add_argument("--explain", action="store_true", help="print the plan with estimated and actual rows instead")
    parser.add_argument(
        "--plot", nargs="?", const=_BARS, metavar="FILE.svg", help="draw the answer's numbers as bars, or into a file"
    )
    given = parser.parse_intermixed_args(arguments)
    if given.plot not in (None, _BARS) and not given.plot.endswith(".svg"):
        if given.plot.lstrip()[:1] not in ("[", "{"):
            parser.error(f"--plot takes the name of a file that ends in .svg, not {given.plot!r}")
        given.query.insert(0, given.plot)  # `--plot QUERY`: the word was the query
        given.plot = _BARS
    if given.limit is not None and given.limit < 0:
        parser.error("--limit takes a number from 0 on")
    text, inputs = _query(parser, given)

    import datalog  # noqa: PLC0415 - help and wrong arguments do not wait for numpy

    with datalog.connect(given.db, read_only=True) as conn, conn.db() as db:
        values = _values(given, text, inputs)
        if given.explain:
            print(db.explain(text, *values, analyze=True))
            return 0
        began = perf_counter()
        answer = db.q(text, *values, limits=_limits(given))
        from datalog.render import answer_rows, render  # noqa: PLC0415 - the same

        columns, rows = answer_rows(answer)
        found = len(rows)
        took = perf_counter() - began
        if given.limit is not None:
            rows = rows[: given.limit]
        if given.plot is not None:
            _plot(given.plot, columns, rows, text)
        else:
            write_out(render(given.format or "table", columns, rows, terminal_width()))
    if (given.format or "table") == "table":
        sys.stdout.flush()
        of = f" of {found:,}" if len(rows) < found else ""
        print(f"{len(rows):,}{of} {'row' if found == 1 else 'rows'}, {took * 1000:.1f} ms", file=sys.stderr)
    return 0


def _plot(target: str, columns: list[str], rows: Any, title: str) -> None:
    from datalog.charts import bar_svg, bar_text  # noqa: PLC0415 - few draw

    if target == _BARS:
        write_out([bar_text(columns, rows, terminal_width() or 80)])
        return
    picture = bar_svg(columns, rows, " ".join(title.split())[:100])
    from pathlib import Path  # noqa: PLC0415 - the same

    from exchange.files import whole_file  # noqa: PLC0415 - the same

    with whole_file(Path(target)) as out:
        out.write(picture.encode())
    print(f"wrote {target}", file=sys.stderr)


def _pull(arguments: list[str]) -> int:
    parser = command_parser(
        "pull",
        "Prints the attributes of entities that a pull pattern names.",
        """pull '[*]' 17 --db people.db
pull '[:person/name {:person/friend [:person/name]}]' '[:person/email "ada@x.org"]' --db people.db --json""",
    )
    parser.add_argument("pattern", help="the pull pattern, EDN text")
    parser.add_argument("entity", nargs="+", help="entity ids, idents or lookup refs, each one EDN form")
    add_database(parser)
    add_json(parser, "print JSON instead of EDN")
    given = parser.parse_intermixed_args(arguments)

    import datalog  # noqa: PLC0415 - as above

    with datalog.connect(given.db, read_only=True) as conn, conn.db() as db:
        found = db.pull_many(given.pattern, [datalog.read_edn(e) for e in given.entity])
    if given.json:
        from datalog.render import json_text  # noqa: PLC0415 - as above

        write_out([json_text(found) + "\n"])
    else:
        from datalog.render import edn_text  # noqa: PLC0415 - as above

        write_out(f"{edn_text(entity)}\n" for entity in found)
    return 0


def _explain(arguments: list[str]) -> int:
    from datalog.pictures import PLAN_FORMATS  # noqa: PLC0415 - as above

    parser = command_parser(
        "explain",
        "Shows how a query would be answered: which scans and joins, in which order, with how many rows.",
        """explain '[:find ?n :where [?p :person/name ?n] [?p :person/age 36]]' --db people.db
explain '[:find ?n :where [?p :person/name ?n]]' --db people.db --analyze --format html > plan.html
explain '[:find ?n :where [?p :person/name ?n]]' --db people.db --format dot | dot -Tsvg > plan.svg""",
    )
    parser.add_argument("query", nargs="*", help="the query, EDN text, or - ; then the inputs of :in")
    add_database(parser)
    _query_options(parser)
    parser.add_argument("--analyze", action="store_true", help="run it, too, and show the rows found")
    parser.add_argument("--format", choices=PLAN_FORMATS, default="text", help="default: text")
    add_json(parser, "the steps as JSON")
    given = parser.parse_intermixed_args(arguments)
    text, inputs = _query(parser, given)

    import datalog  # noqa: PLC0415 - as above
    from datalog.pictures import plan_picture  # noqa: PLC0415 - as above
    from datalog.render import json_text  # noqa: PLC0415 - as above

    with datalog.connect(given.db, read_only=True) as conn, conn.db() as db:
        values = _values(given, text, inputs)
        steps = datalog.prepare(text).steps(db, *values, analyze=given.analyze, limits=_limits(given))
    if given.json:
        names = ("depth", "label", "rows", "found", "probed", "again")
        write_out([json_text([{name: getattr(step, name) for name in names} for step in steps]) + "\n"])
    else:
        write_out([plan_picture(steps, given.format, text)])
    return 0


# arguments of queries ------------------------------------------------------------------------------------------------


def _query_options(parser: Parser) -> None:
    parser.add_argument("--rules", metavar="FILE", help="rules for the input %% of :in, EDN")
    parser.add_argument("--timeout", type=float, metavar="S", help="give up after so many seconds")


def _query(parser: Parser, given: Namespace) -> tuple[str, list[str]]:
    """The query text and the texts of the inputs."""
    if not given.query:
        parser.error("the query is missing")
    check_timeout(parser, given)
    text, *inputs = given.query
    return (read_text("-", "The query") if text == "-" else text), inputs


def _values(given: Namespace, text: str, inputs: list[str]) -> list[Any]:
    """The inputs read, in the order of :in; --rules stands where % does."""
    from store.edn import read_edn, write_edn  # noqa: PLC0415 - as above

    values = [read_edn(form) for form in inputs]
    if given.rules is None:
        return values
    rules = read_text(given.rules, "The rules")
    values.insert(_place_of_rules(read_edn(text), write_edn), rules)
    return values


def _place_of_rules(query: Any, written: Any) -> int:
    """How many inputs, without the database, stand before % in :in; 0 when that cannot be seen."""
    from store.edn import Map  # noqa: PLC0415 - as above

    names: list[str] = []
    if isinstance(query, dict | Map):
        names = [written(item) for key, items in query.items() if str(key) == ":in" for item in items]
    elif isinstance(query, tuple | list):
        inside = False
        for item in query:
            if str(item)[:1] == ":":
                inside = str(item) == ":in"
            elif inside:
                names.append(written(item))
    if names and "%" not in names:
        raise UserError("cli/rules", "--rules was given, but :in has no %.", hint="write :in $ % in the query")
    return sum(1 for name in names[: names.index("%")] if name != "$") if names else 0


def _limits(given: Namespace) -> Any:
    if given.timeout is None:
        return None
    from datalog.limits import Limits  # noqa: PLC0415 - as above

    return Limits(timeout_s=given.timeout)
