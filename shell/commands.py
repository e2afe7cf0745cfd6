"""The dot commands of the shell: a table of name, arguments, help and function. `.help` prints the table."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from datalog.pictures import ATTRIBUTE_HEADS, PLAN_FORMATS, attribute_rows, plan_picture, type_name
from datalog.render import MODES, edn_text, text_table
from shell.arguments import figures_text, read_text
from shell.describe import SCHEMA_FORMATS, schema_text
from shell.reports import finding_lines
from shell.scan import form_end
from store.edn import read_edn
from store.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell.session import Session

__all__ = ["COMMANDS", "Command", "find_command"]

_MOST_TX: Final = 20


class Command(NamedTuple):
    """One dot command: what it takes, what it does, and the function (session, argument)."""

    takes: str
    help: str
    run: Callable[[Session, str], None]


def find_command(name: str) -> Command:
    """The command of this name, or the only one that begins so.

    Raises:
        UserError: `shell/unknown-command`.
    """
    found = COMMANDS.get(name)
    if found is not None:
        return found
    begin = [known for known in COMMANDS if known.startswith(name)]
    if len(begin) == 1 and len(name) > 1:
        return COMMANDS[begin[0]]
    close = begin[0] if begin and len(name) > 1 else nearest(name, COMMANDS)
    raise UserError(
        "shell/unknown-command",
        f"There is no command {name}." + (f" Did you mean {close}?" if close else ""),
        hint=".help lists all commands",
    )


# the session ---------------------------------------------------------------------------------------------------------


def _help(session: Session, name: str) -> None:
    if name:
        command = find_command(name if name.startswith(".") else f".{name}")
        full = next(n for n, c in COMMANDS.items() if c is command)
        session.say(f"{full} {command.takes}\n  {command.help}")
        return
    width = max(len(f"{n} {c.takes}") for n, c in COMMANDS.items())
    session.say(
        "Type a query, its inputs behind it:   [:find ?n :in $ ?a :where [?p :person/name ?n] [?p :person/age ?a]] 36\n"
        'transaction data, which asks first:   {:person/name "Ada"}   [[:db/retract 17 :person/age]]\n'
        "a rule, for later queries:            [(grown ?p) [?p :person/age ?a] [(>= ?a 18)]]\n"
        "an entity id, or a name, to look at:  17   :person/name   count\n"
    )
    session.page(f"{f'{n} {c.takes}':<{width}}  {c.help}\n" for n, c in COMMANDS.items())


def _open(session: Session, rest: str) -> None:
    words = rest.split()
    read_only = "--read-only" in words
    paths = [w for w in words if w != "--read-only"]
    if len(paths) != 1:
        raise _argument(".open", "a directory")
    session.reopen(Path(paths[0]).expanduser(), read_only=read_only)
    session.terminal.note(greeting(session))


def greeting(session: Session) -> str:
    """One line about the open database."""
    db = session.conn.db()
    more = ", read only" if session.settings.read_only else ""
    return f"{session.conn.path}: {len(db):,} facts, {len(db.schema)} attributes{more}"


def _history(session: Session, rest: str) -> None:
    most = _number(".history", rest, least=1) if rest else 20
    for text in session.typed[-most:]:
        session.say(text)


def _read(session: Session, rest: str) -> None:
    if not rest:
        raise _argument(".read", "a file")
    path = Path(rest).expanduser().resolve()
    if path in session.reading:
        raise UserError("shell/argument", f"{path} reads itself.", hint="take the .read out of it")
    text = read_text(str(path), "The script")
    session.reading.append(path)
    try:
        session.run(text)
    finally:
        session.reading.pop()


def _quit(session: Session, _: str) -> None:
    session.over = True


def _mode(session: Session, rest: str) -> None:
    if rest:
        session.settings.mode = _one_of(".mode", rest, MODES)
    session.terminal.note(f"mode {session.settings.mode}")


def _limit(session: Session, rest: str) -> None:
    if rest:
        session.settings.limit = None if rest == "off" else _number(".limit", rest, least=0)
    limit = session.settings.limit
    session.terminal.note(f"limit {'off' if limit is None else f'{limit:,} rows'}")


def _timeout(session: Session, rest: str) -> None:
    if rest == "off":
        session.settings.timeout_s = None
    elif rest:
        try:
            seconds = float(rest)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e9:
            raise UserError("shell/argument", f".timeout cannot be {rest!r}.", expected="seconds above 0, or off")
        session.settings.timeout_s = seconds
    timeout = session.settings.timeout_s
    session.terminal.note(f"timeout {'off' if timeout is None else f'{timeout:g} s'}")


def _timing(session: Session, rest: str) -> None:
    if rest:
        session.settings.timing = _one_of(".timing", rest, ("on", "off")) == "on"
    session.terminal.note(f"timing {'on' if session.settings.timing else 'off'}")


# the database --------------------------------------------------------------------------------------------------------


def _schema(session: Session, rest: str) -> None:
    form = _one_of(".schema", rest or "table", SCHEMA_FORMATS)
    width = session.terminal.width()
    session.page(session.ask(lambda db, _: list(schema_text(db, form, width))))


def _attrs(session: Session, rest: str) -> None:
    rows = sorted(cells[:-1] for cells in attribute_rows(session.conn.db()) if rest in cells[0])
    heads = ATTRIBUTE_HEADS[:-1]
    session.page(text_table(heads, rows, [h == "datoms" for h in heads], session.terminal.width()))


def _entity(session: Session, rest: str) -> None:
    ref = _one_form(".entity", rest, "an entity id, ident or lookup ref")

    def look(db: Any, limits: Any) -> tuple[Any, list[list[str]], int]:
        eid = db.entid(ref)
        if eid is None:
            return None, [], 0
        facts = db.q("[:find ?a ?v :in $ ?e :where [?e ?a ?v] :order-by [?a ?v]]", eid, limits=limits)
        referring = [i for i, p in db.schema.items() if type_name(p) == "ref"]
        back = db.q(
            "[:find ?a (count ?o) :in $ ?e [?a ...] :where [?o ?a ?e] :order-by ?a]", eid, referring, limits=limits
        )
        rows = [[edn_text(i), edn_text(v)] for i, v in facts]
        return eid, rows + [[_reverse(edn_text(i)), f"{n:,} referring"] for i, n in back], len(facts)

    eid, rows, facts = session.ask(look)
    if not rows:
        session.say(f"no facts about {rest}")
        return
    session.say(f":db/id {eid}")
    session.page(text_table(["attribute", "value"], rows, [False, False], session.terminal.width()))
    session.say(f"{facts:,} fact{'' if facts == 1 else 's'}")


def _reverse(ident: str) -> str:
    space, _, name = ident.rpartition("/")
    return f"{space}/_{name}" if space else f":_{name[1:]}"


def _pull(session: Session, rest: str) -> None:
    end = form_end(rest, 0) if rest else 0
    if not rest[end:].strip():
        raise _argument(".pull", "a pattern and an entity, for example .pull [*] 17")
    ref = read_edn(rest[end:])
    found = session.ask(lambda db, _: db.pull(rest[:end], ref))
    session.say(_laid_out(found, session.terminal.width() or 80))


def _laid_out(value: Any, width: int, indent: int = 0) -> str:
    """EDN over several lines where one is too narrow."""
    flat = edn_text(value)
    if len(flat) + indent <= width or not isinstance(value, dict | list) or not value:
        return flat
    inner = indent + 1
    if isinstance(value, list):
        return "[" + ("\n" + " " * inner).join(_laid_out(v, width, inner) for v in value) + "]"
    lines = []
    for key, v in value.items():
        name = str(key)
        lines.append(f"{name} {_laid_out(v, width, inner + len(name) + 1)}")
    return "{" + ("\n" + " " * inner).join(lines) + "}"


def _tx(session: Session, rest: str) -> None:
    number = _number(".tx", rest, least=1) if rest else _MOST_TX
    began = perf_counter()
    if number > 1 << 40:
        answer = session.ask(
            lambda db, limits: db.q(
                "[:find ?e ?a ?v :in $ ?tx :where [?e ?a ?v ?tx] :order-by [?e ?a]]",
                number,
                limits=limits,
            )
        )
        session.show(["e", "attribute", "value"], answer, perf_counter() - began)
        return
    answer = session.ask(
        lambda db, limits: db.q(
            "[:find ?tx ?at :in $ :where [?tx :db/txInstant ?at] :order-by [?tx :desc]]", limits=limits
        )
    )
    session.show(["tx", "at"], list(answer[:number]), perf_counter() - began)


def _rules(session: Session, rest: str) -> None:
    word, _, body = rest.partition(" ")
    if word == "load" and body.strip():
        session.define(read_text(str(Path(body.strip()).expanduser()), "The rules"))
    elif word == "define" and body.strip():
        session.define(body)
    elif word == "clear":
        session.rules = {}
        session.say("no rules")
    elif word in ("", "list"):
        session.say("\n".join(session.rules.values()) or "no rules: type one, or .rules load FILE")
    else:
        raise UserError(
            "shell/argument", f".rules cannot be {rest!r}.", expected="list, define [(name ?x) ...], load FILE, clear"
        )


def _explain(session: Session, rest: str) -> None:
    _show_plan(session, rest, ".explain", analyze=False)


def _analyze(session: Session, rest: str) -> None:
    _show_plan(session, rest, ".analyze", analyze=True)


def _show_plan(session: Session, rest: str, name: str, *, analyze: bool) -> None:
    first, _, query = rest.partition(" ")
    form = first if first in PLAN_FORMATS else "text"
    prepared, forms, text = session.query_of(query.strip() if first in PLAN_FORMATS else rest, name)
    began = perf_counter()
    steps = session.ask(
        lambda db, limits: prepared.steps(*session.arguments(prepared, db, forms), analyze=analyze, limits=limits)
    )
    took = perf_counter() - began
    session.page([plan_picture(steps, form, text)])
    if analyze and session.settings.timing and form == "text":
        session.say(f"{took * 1000:,.1f} ms")


def _stats(session: Session, _: str) -> None:
    from store.backup import store_stats  # noqa: PLC0415 - for this command

    session.page([figures_text(store_stats(session.conn.store))])


def _check(session: Session, _: str) -> None:
    from store.check import check_path  # noqa: PLC0415 - for this command

    findings, counts = session.ask(lambda _db, _limits: check_path(session.conn.path))
    session.page(finding_lines(findings, counts))


def _dump(session: Session, rest: str) -> None:
    from exchange.dump import write_dump  # noqa: PLC0415 - for this command
    from exchange.files import whole_file  # noqa: PLC0415 - the same

    if not rest:
        raise _argument(".dump", "a file")
    path = Path(rest).expanduser()

    def work(db: Any, _: Any) -> Any:
        with whole_file(path) as out:
            return write_dump(db, out)

    header = session.ask(work)
    session.say(f"{path}: {header.datoms:,} facts in {header.blocks:,} blocks")


def _doc(session: Session, rest: str) -> None:
    words = session.words()
    if not rest:
        raise _argument(".doc", "a name, for example .doc count")
    found = words.doc(rest)
    if found is None:
        close = nearest(rest, words.all_names())
        raise UserError(
            "shell/unknown-name",
            f"Nothing is known about {rest}." + (f" Did you mean {close}?" if close else ""),
            hint=".attrs lists the attributes, .help the commands",
        )
    session.say(found)


# arguments -----------------------------------------------------------------------------------------------------------


def _argument(name: str, what: str) -> UserError:
    return UserError("shell/argument", f"{name} takes {what}.", hint=f"{name} {COMMANDS[name].takes}")


def _one_form(name: str, rest: str, what: str) -> Any:
    if not rest:
        raise _argument(name, what)
    return read_edn(rest)


def _number(name: str, rest: str, *, least: int) -> int:
    if not (rest.isdecimal() and len(rest) < 19 and int(rest) >= least):
        raise UserError("shell/argument", f"{name} cannot be {rest!r}.", expected=f"a number from {least} on")
    return int(rest)


def _one_of(name: str, word: str, allowed: Any) -> str:
    if word not in allowed:
        close = nearest(word, allowed)
        raise UserError(
            "shell/argument",
            f"{name} cannot be {word!r}." + (f" Did you mean {close}?" if close else ""),
            expected=", ".join(allowed),
        )
    return word


COMMANDS: Final[dict[str, Command]] = {
    ".help": Command("[NAME]", "what can be typed, or what one command does", _help),
    ".open": Command("PATH [--read-only]", "go over to another database, which is made if need be", _open),
    ".schema": Command("[edn | table | json | mermaid | dot]", "the schema", _schema),
    ".attrs": Command("[PART]", "attributes, with types and counts; those that have the part in their name", _attrs),
    ".entity": Command("ID | IDENT | [ATTR VALUE]", "all facts about an entity, and what refers to it", _entity),
    ".pull": Command("PATTERN ENTITY", "what a pull pattern names of an entity", _pull),
    ".tx": Command("[N | ID]", "the newest transactions, or the facts that one asserted", _tx),
    ".rules": Command(
        "[list | define RULE | load FILE | clear]", "the rules that queries of this session may use", _rules
    ),
    ".explain": Command("[FORMAT] QUERY", f"how a query would be answered; {', '.join(PLAN_FORMATS)}", _explain),
    ".analyze": Command("[FORMAT] QUERY", "the same after running it, with the rows found at each step", _analyze),
    ".mode": Command("[NAME]", f"how answers are shown: {', '.join(MODES)}", _mode),
    ".limit": Command("[N | off]", "how many rows of an answer are shown", _limit),
    ".timeout": Command("[SECONDS | off]", "after which time a query is given up", _timeout),
    ".timing": Command("[on | off]", "whether the time of a query is shown", _timing),
    ".doc": Command("NAME", "what an attribute, function, aggregate, clause or rule is", _doc),
    ".read": Command("FILE", "run a script of queries, data and commands", _read),
    ".dump": Command("FILE", "write a portable dump of the database", _dump),
    ".stats": Command("", "sizes and counts", _stats),
    ".check": Command("", "verify the database", _check),
    ".history": Command("[N]", "what was typed last", _history),
    ".quit": Command("", "leave; so does Ctrl-D", _quit),
    ".exit": Command("", "the same", _quit),
}
