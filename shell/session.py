"""Session: an open database, the settings, and what happens to each thing that is typed.

    text -> statements -> dot command | query (and its inputs) | rules | transaction data | a word to be explained

It knows no terminal: `Terminal` is what it asks for its width, for an answer to a question, and for a key to go on. Errors
are raised as the library words them; `start` prints them and decides whether the session ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import datalog as d
from datalog.limits import Limits
from datalog.render import answer_rows, edn_text, render
from shell.commands import COMMANDS, find_command
from shell.reports import change_lines, report_figures
from shell.running import Runner
from shell.scan import form_end, statements, tokens
from shell.words import Words
from store.edn import read_edn
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from datalog import Connection, Db, TxReport

__all__ = ["Session", "Settings", "Terminal"]

_MOST_IDENTS: Final = 5000  # entities with a :db/ident that completion offers


class Terminal(Protocol):
    """Where a session prints and whom it asks; a file or a pipe has nobody."""

    out: TextIO
    interactive: bool

    def width(self) -> int | None:
        """Columns of the screen, None when there is none."""

    def height(self) -> int | None:
        """Lines of the screen, None when there is none."""

    def note(self, text: str) -> None:
        """A line that is no answer: to the screen, or to standard error, where a script's answers are not."""

    def ask(self, question: str) -> str:
        """The line that somebody typed in answer; empty when nobody is there."""


@dataclass(slots=True)
class Settings:
    """What dot commands and options change."""

    mode: str = "table"
    limit: int | None = 1000  # rows shown
    timeout_s: float | None = None
    memory_bytes: int | None = None
    timing: bool = True
    write: bool = False  # transactions without asking
    read_only: bool = False


@dataclass(slots=True)
class _Cache:
    basis: int = -1
    path: object = None
    rules: int = -1
    words: Words | None = None


@dataclass(slots=True)
class Session:
    """One shell: `run` takes what was typed."""

    terminal: Terminal
    settings: Settings
    conn: Connection
    rules: dict[str, str] = field(default_factory=dict)  # name -> its definitions, EDN text
    typed: list[str] = field(default_factory=list)
    runner: Runner = field(default_factory=Runner)
    over: bool = False
    reading: list[Path] = field(default_factory=list)  # scripts that are being read, the innermost last
    _cache: _Cache = field(default_factory=_Cache)

    # -- life

    @classmethod
    def opened(cls, path: Path | None, terminal: Terminal, settings: Settings) -> Session:
        """A session on the database of a directory, which is made if need be; None: an empty one that goes with the session."""
        return cls(terminal, settings, d.connect(path, read_only=settings.read_only and path is not None))

    def prompt(self) -> str:
        """What the prompt says: "people.db> "."""
        return f"{self.conn.path.name[:24]}> "

    def reopen(self, path: Path, *, read_only: bool) -> None:
        """Goes over to another database; the old one is closed once the new one is open."""
        conn = d.connect(path, read_only=read_only)
        self._release()
        self.conn = conn
        self.settings.read_only = read_only

    def close(self) -> bool:
        """Closes the database. False when a stopped query is still in it: then the process has to end without more ado."""
        return self._release()

    def _release(self) -> bool:
        if self.runner.is_idle():
            self.conn.close()
            return True
        return False  # a thread still reads in the old one's memory: it stays open

    # -- what was typed

    def run(self, text: str) -> None:
        """Runs all statements of a text, one after another.

        Raises:
            DatalogError: from the first that fails; those before it are done, those after it are not begun.
        """
        done = 0
        for start, end in statements(text):
            if start < done or self.over:
                continue  # an input of the query before it
            done = end
            if text[start] == "." and not text[text.rfind("\n", 0, start) + 1 : start].strip():
                self.command(text[start:end].strip())
            else:
                done = self._form(text, start, end)

    def command(self, line: str) -> None:
        """Runs a dot command."""
        name, _, rest = line.partition(" ") if " " in line.split("\n", 1)[0] else _cut(line)
        find_command(name).run(self, rest.strip())

    def _form(self, text: str, start: int, end: int) -> int:
        """Does what a form asks for; returns the end of what was used, its inputs included."""
        form = text[start:end]
        words = [t for t in tokens(form) if t.kind not in ("space", "comment")]
        if not words:
            return end
        heads = [t.text for t in words[:3]]
        if heads[:2] == ["[", ":find"] or (heads[0] == "{" and ":find" in _keys(form)):
            return self._query(text, start, end)
        if heads[:2] == ["[", "("] or heads == ["[", "[", "("]:
            self.define(form)
        elif heads[0] in ("[", "{"):
            self.transact(form)
        elif heads[0] in ("]", ")", "}"):
            read_edn(form)  # raises, with the place
        elif words[0].kind == "number":
            self.command(f".entity {form}")
        elif words[0].kind in ("keyword", "symbol") and heads[0] != "(":
            self.command(f".doc {form}")
        else:
            raise UserError(
                "shell/form",
                f"{form if len(form) < 60 else form[:59] + '…'} is neither a query nor transaction data.",
                expected="[:find ...], {:attribute value ...}, [[:db/add ...] ...], a rule [(name ?x) ...], or a dot command",
                hint=".help shows what can be typed",
            )
        return end

    # -- queries

    def _query(self, text: str, start: int, end: int) -> int:
        query = self.with_rules(text[start:end])
        prepared = d.prepare(query)
        forms, used = self._inputs(prepared, text, end)
        began = perf_counter()
        answer = self.ask(lambda db, limits: prepared(*self.arguments(prepared, db, forms), limits=limits))
        columns, rows = answer_rows(answer)
        len(rows)
        self.show(columns, rows, perf_counter() - began)
        return used

    def with_rules(self, query: str) -> str:
        """The query with `:in $ %` when it uses a rule of the session and names no inputs; places in it stay as they are."""
        if not query.startswith("[") or not self.rules:
            return query
        words = {t.text for t in tokens(query)}
        if ":in" in words or not words & set(self.rules):
            return query
        return query[: query.rstrip().rfind("]")] + " :in $ %]"

    def _inputs(self, prepared: Any, text: str, end: int) -> tuple[list[Any], int]:
        """The forms after a query that are its inputs, and where they end."""
        from datalog.ast import InputRules  # noqa: PLC0415 - the tree of the language, for this alone

        given: list[Any] = []
        wanted = [i for i in prepared.query.inputs if not (isinstance(i, InputRules) and self.rules)][1:]
        at = end
        for _ in wanted:
            span = next(iter(statements(text[at:])), None)
            if span is None or text[at + span[0]] == ".":
                break
            begin = at + span[0]
            at = form_end(text, begin)
            given.append(read_edn(text[begin:at]))
        return given, at

    def arguments(self, prepared: Any, db: Db, forms: Sequence[Any]) -> list[Any]:
        """The inputs in the order of `:in`: the database, the rules of the session, the forms that follow the query."""
        from datalog.ast import InputRules, InputSource  # noqa: PLC0415 - as above

        rest = list(forms)
        found: list[Any] = []
        database = False
        for wanted in prepared.query.inputs:
            if isinstance(wanted, InputSource) and not database:
                found.append(db)
                database = True
            elif isinstance(wanted, InputRules) and self.rules:
                found.append(self.rules_text())
            elif rest:
                found.append(rest.pop(0))
        return found

    def query_of(self, text: str, what: str) -> tuple[Any, list[Any], str]:
        """(the prepared query, its input forms, its text) of the argument of a dot command."""
        if not text:
            raise UserError(
                "shell/argument", f"{what} takes a query.", hint=f"{what} [:find ?e :where [?e :person/name]]"
            )
        end = form_end(text, 0)
        query = self.with_rules(text[:end])
        prepared = d.prepare(query)
        return prepared, self._inputs(prepared, text, end)[0], query

    def ask(self, question: Callable[[Db, Limits], Any]) -> Any:
        """What a question to the database as it is now gives; Ctrl-C ends it."""
        stop = d.Stop()
        limits = Limits(timeout_s=self.settings.timeout_s, memory_bytes=self.settings.memory_bytes, stop=stop)
        db = self.conn.db()
        return self.runner.run(lambda: question(db, limits), stop)

    def show(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], seconds: float | None = None) -> None:
        """Rows in the mode of the session, the first `limit` of them; then how many there are, and the time."""
        found = len(rows)
        most = self.settings.limit
        shown = rows if most is None or found <= most else rows[:most]
        width = self.terminal.width()
        # turning values into text may take as long as finding them
        pieces = self.ask(lambda _db, _limits: list(render(self.settings.mode, columns, shown, width)))
        self.page(pieces)
        if self.settings.mode == "table" and (self.terminal.interactive or self.settings.timing):
            of = f" of {found:,}" if len(shown) < found else ""
            took = f", {seconds * 1000:,.1f} ms" if seconds is not None and self.settings.timing else ""
            more = "  (.limit shows more)" if of else ""
            self.say(f"{len(shown):,}{of} {'row' if found == 1 else 'rows'}{took}{more}")

    # -- rules

    def define(self, text: str) -> None:
        """Adds rules: one `[(name ?x) clause ...]` or a vector of them. A name that is there already is replaced.

        Raises:
            QueryError: for what is no rule, or rules that cannot stand together; nothing is changed.
        """
        body = text.strip()
        inner = [t.text for t in tokens(body) if t.kind not in ("space", "comment")][:3]
        listed = [body] if inner[:2] == ["[", "("] else [body[s:e] for s, e in _members(body)]
        grouped: dict[str, list[str]] = {}
        for rule in listed:
            form = read_edn(rule)
            name = (
                str(form[0][0]) if isinstance(form, tuple) and form and isinstance(form[0], tuple) and form[0] else ""
            )
            grouped.setdefault(name, []).append(rule)
        wanted = {**self.rules, **{name: "\n".join(rules) for name, rules in grouped.items()}}
        d.prepare("[:find ?shell :in % ?shell]")("[" + "\n".join(wanted.values()) + "]", 1)  # checks them
        self.rules = wanted
        self.terminal.note(f"defined {', '.join(grouped)}")

    def rules_text(self) -> str:
        """All rules of the session as one vector."""
        return "[" + "\n".join(self.rules.values()) + "]"

    # -- transactions

    def transact(self, text: str) -> None:
        """Writes transaction data, after showing what it would change and asking, unless the session may write."""
        data = text if text.lstrip().startswith("[") else f"[{text}]"
        if self.settings.read_only:
            raise UserError(
                "shell/read-only", "The database is open for reading only; nothing was written.",
                hint="open it again without --read-only, or with .open PATH",
            )  # fmt: skip
        if not self.settings.write:
            planned: TxReport = self.ask(lambda db, _: db.with_(data))
            if not planned.tx_data:
                self.terminal.note("nothing would change")
                return
            self.write("".join(change_lines(planned)))
            figures = report_figures(planned)
            asked = f"Write it, {figures['asserted']:,} asserted, {figures['retracted']:,} retracted? [y/N] "
            if not self.terminal.interactive:
                raise UserError(
                    "shell/write", "The session may not write without asking, and nobody is there to ask.",
                    hint="start it with --write",
                )  # fmt: skip
            if self.terminal.ask(asked).strip().lower() not in ("y", "yes"):
                self.say("nothing was written")
                return
        report = self.runner.finish(lambda: self.conn.transact(data))
        figures = report_figures(report)
        ids = ", ".join(f"{k} is {v}" for k, v in figures["tempids"].items() if not k.startswith("#"))
        self.terminal.note(
            f"transaction {report.tx}: {figures['asserted']:,} asserted, {figures['retracted']:,} retracted"
            + (f"; {ids}" if ids and len(figures["tempids"]) <= 8 else "")
        )

    # -- words

    def words(self) -> Words:
        """What can be completed now."""
        cache = self._cache
        db = self.conn.db()
        rules = hash(tuple(self.rules.items()))
        if cache.words is None or (cache.basis, cache.path, cache.rules) != (db.basis_tx, self.conn.path, rules):
            idents = [edn_text(v) for v in db.q(f"[:find [?i ...] :where [?e :db/ident ?i] :limit {_MOST_IDENTS}]")]
            cache.words = Words(db.schema, idents, self.rules, list(COMMANDS))
            cache.basis, cache.path, cache.rules = db.basis_tx, self.conn.path, rules
        return cache.words

    # -- printing

    def write(self, text: str) -> None:
        """Text as it is."""
        self.terminal.out.write(text)

    def say(self, text: str) -> None:
        """A line."""
        self.write(f"{text}\n")

    def page(self, pieces: Iterable[str]) -> None:
        """Text piece by piece; on a screen it stops when the screen is full until somebody wants more."""
        height = self.terminal.height()
        lines = 0
        for piece in pieces:
            self.write(piece)
            lines += piece.count("\n")
            if height is not None and lines >= height - 3:
                answer = self.terminal.ask("-- Enter: more, a: all, q: enough -- ").strip().lower()
                if answer == "q":
                    return
                height = None if answer == "a" else height
                lines = 0


def _cut(line: str) -> tuple[str, str, str]:
    name, _, rest = line.partition("\n")
    return name, "", rest


def _keys(form: str) -> set[str]:
    """The keywords that stand directly in a map's text; without reading it, it may be wrong."""
    depth, found = 0, set()
    for token in tokens(form):
        depth += (token.kind == "open") - (token.kind == "close")
        if depth == 1 and token.kind == "keyword":
            found.add(token.text)
    return found


def _members(vector: str) -> list[tuple[int, int]]:
    """The places of the members of a vector's text."""
    inner = vector.find("[") + 1
    close = form_end(vector, 0) - 1
    return [(inner + s, inner + e) for s, e in statements(vector[inner:close])]
