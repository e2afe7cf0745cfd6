"""Words: what can be completed where in a query, transaction or command, and what `.doc` says about each.

The words are those of the open database - attributes, idents, rules - and of the language: clauses, functions, aggregates,
sections. `Words` is asked with a text and a place in it; it knows no terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from datalog.aggregates import AGGREGATES
from datalog.builtins import BUILTINS, REGISTERED
from datalog.parser import SECTIONS
from shell.scan import Token, open_brackets, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["Candidate", "Words"]

#: clauses that are no functions -> what `.doc` says
CLAUSES: Final = {
    "and": "(and clause ...)  All of the clauses; inside or.",
    "or": "(or clause ...)  Rows of any of the clauses; each binds the same variables.",
    "or-join": "(or-join [?v ...] clause ...)  Like or, sharing only the variables named with the rest of the query.",
    "not": "(not clause ...)  Rows for which the clauses have no answer.",
    "not-join": "(not-join [?v ...] clause ...)  Like not, sharing only the variables named.",
    "pull": "(pull ?e [pattern])  In :find: the attributes of an entity that a pull pattern names.",
}
#: sections of a query -> what `.doc` says
SECTION_DOCS: Final = {
    ":find": "What the answer has: ?v, (aggregate ?v), (pull ?v [...]); [?v ...] for a list, ?v . for one value.",
    ":in": "The inputs: $ the database, ?v a value, [?v ...] many, [[?a ?b]] rows, % rules. Default: $ (and %).",
    ":with": "Variables that keep rows apart for aggregates.",
    ":keys": "Names of the columns: rows become maps.",
    ":strs": "The same with strings as keys.",
    ":syms": "The same with symbols as keys.",
    ":where": "The clauses: [?e :attribute ?v], [(function ?x) ?y], (rule ?x), (or ...), (not ...).",
    ":having": "Conditions on aggregates: [(> (count ?x) 3)].",
    ":order-by": "?v, or several: [?v :desc ?w].",
    ":limit": "At most so many rows.",
    ":offset": "Leave so many rows out first.",
    ":timeout": "Give up after so many milliseconds.",
}
_TX_WORDS: Final = {
    ":db/add": "[:db/add e a v]  Asserts one fact.",
    ":db/retract": "[:db/retract e a v]  Takes one fact back; without v all values.",
    ":db/retractEntity": "[:db/retractEntity e]  Takes back all facts of an entity, and references to it.",
    ":db/retractAttribute": "[:db/retractAttribute e a]  Takes back all values of one attribute.",
    ":db/cas": "[:db/cas e a old new]  Sets new if the value is old.",
    ":db/current-tx": "The transaction itself, as an entity.",
    ":db/id": "The entity id, in a map of transaction data.",
}
_SCHEMA_WORDS: Final = (
    ":db/ident", ":db/valueType", ":db/cardinality", ":db/unique", ":db/isComponent", ":db/index", ":db/doc", ":db/noHistory",
    ":db/tupleAttrs", ":db/tupleType", ":db/tupleTypes", ":db/txInstant",
    ":db.cardinality/one", ":db.cardinality/many", ":db.unique/identity", ":db.unique/value",
    *(f":db.type/{t}" for t in ("string", "long", "double", "boolean", "instant", "keyword", "symbol", "uuid", "bytes",
                                "bigint", "bigdec", "ref", "tuple")),
)  # fmt: skip
_MOST: Final = 300


class Candidate(NamedTuple):
    """A word that could stand at the cursor; it replaces the `length` characters before it."""

    text: str
    length: int
    kind: str


class Words:
    """The words of one moment: what the database has, and what the session defined."""

    def __init__(
        self,
        attributes: Mapping[str, Mapping[str, Any]],
        idents: Iterable[str],
        rules: Mapping[str, str],
        commands: Sequence[str],
    ) -> None:
        self.attributes = attributes
        self.idents = sorted(set(idents) - set(attributes))
        self.rules = rules
        self.commands = commands

    def complete(self, before: str, after: str = "") -> list[Candidate]:
        """The candidates for the word before the cursor, the likeliest first."""
        if before.startswith(".") and " " not in before:
            return [Candidate(c, len(before), "command") for c in self.commands if c.startswith(before)]
        last = _last_token(before)
        if last is None or last.kind in ("string", "comment", "char"):
            return []
        word = "" if last.kind in ("space", "open", "close") else last.text
        found = list(self._matching(word, before, after))
        return [Candidate(text, len(word), kind) for text, kind in dict(found).items()][:_MOST]

    def _matching(self, word: str, before: str, after: str) -> Iterator[tuple[str, str]]:
        in_list = _is_head_of_list(before, word)
        known: Iterable[tuple[str, str]]
        if word[:1] == ":":
            known = self._keywords()
        elif word[:1] in ("?", "$", "%"):
            texts = {
                t.text for t in (*tokens(before[: len(before) - len(word)]), *tokens(after)) if t.kind == "variable"
            }
            known = [(t, "variable") for t in sorted(texts)]
        elif in_list or word:
            known = self._callables()
        else:
            return
        folded = word.casefold()
        rest = []
        for text, kind in known:
            if text.startswith(word):
                yield text, kind
            elif word[:1] == ":" and len(word) > 2 and folded[1:] in text.casefold():
                rest.append((text, kind))  # :name finds :person/name
        yield from rest

    def _keywords(self) -> Iterator[tuple[str, str]]:
        for ident, properties in self.attributes.items():
            yield ident, str(properties.get(":db/valueType", ":any")).rpartition("/")[2]
        for section in SECTIONS:
            yield f":{section}", "section"
        for ident in self.idents:
            yield ident, "ident"
        for name in _TX_WORDS:
            yield name, "transaction"
        for name in _SCHEMA_WORDS:
            yield name, "schema"
        # reverse references, in patterns of pull and in maps
        for ident, properties in self.attributes.items():
            if str(properties.get(":db/valueType")) == ":db.type/ref" and "/" in ident:
                space, _, name = ident.rpartition("/")
                yield f"{space}/_{name}", "reverse"

    def _callables(self) -> Iterator[tuple[str, str]]:
        for name in self.rules:
            yield name, "rule"
        for name in CLAUSES:
            yield name, "clause"
        for name in AGGREGATES:
            yield name, "aggregate"
        for name in (*BUILTINS, *REGISTERED.names()):
            yield name, "function"

    def doc(self, name: str) -> str | None:
        """What is known about a word, or None."""
        if name in self.attributes:
            properties = " ".join(f"{k} {v}" for k, v in self.attributes[name].items())
            return f"{name}  attribute: {properties or 'any value'}"
        if name in self.rules:
            return f"{name}  rule of this session:\n{self.rules[name]}"
        for table in (CLAUSES, SECTION_DOCS, _TX_WORDS):
            if name in table:
                return f"{name}  {table[name]}"
        lines = []
        builtin = BUILTINS.get(name) or REGISTERED.find(name)
        if builtin is not None:
            lines.append(f"{name}  function of {_arity(builtin.least, builtin.most)}: {builtin.doc}")
        aggregate = AGGREGATES.get(name)
        if aggregate is not None:
            lines.append(f"{name}  aggregate: {aggregate.doc}")
        return "\n".join(lines) or None

    def all_names(self) -> list[str]:
        """Every word that `doc` knows."""
        return [*self.attributes, *self.rules, *CLAUSES, *SECTION_DOCS, *_TX_WORDS, *AGGREGATES, *BUILTINS]


def _arity(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more arguments"
    return f"{least} argument{'' if least == 1 else 's'}" if least == most else f"{least} to {most} arguments"


def _last_token(text: str) -> Token | None:
    found = None
    for found in tokens(text):  # noqa: B007 - the last one is wanted
        pass
    return found


def _is_head_of_list(before: str, word: str) -> bool:
    """Whether the word is the first of a list: (wor|."""
    rest = before[: len(before) - len(word)]
    stack = open_brackets(rest)
    return bool(stack) and stack[-1].text == "(" and not rest[stack[-1].end :].strip()
