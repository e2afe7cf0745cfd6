"""Parser: query and rule forms -> ast. Knows the grammar (grammar.lark says it in one page), no schema and no names of functions.

Place on the path: takes EDN text, or the same forms as Python data (which are printed first, so that an error can underline
its place), gives `ast.Query` or `ast.Rules`.

The functions below walk the nodes of `store.edn.read_node` by hand, one for each construct, because a query text is parsed
on the way to every unprepared answer (about 50 us; lark alone takes a millisecond). lark is imported only when a form is
malformed, to say what the grammar expected there.

    query   = [ :find element+ (. | nothing)  section* ]  |  { :find [...] ... }
    element = ?var | (pull $src? ?var pattern) | (function-or-aggregate argument*)       or one [element ...] or [element+]
    section = :in input* | :with ?var+ | :keys|:strs|:syms symbol+ | :where clause* | :having predicate+
            | :order-by key+ | :limit n | :offset n | :timeout ms
    clause  = [$src? term{1,5}] | [(f argument*)] | [(f argument*) binding] | ($src? rule term*)
            | ($src? not clause+) | ($src? not-join [?var*] clause+)
            | ($src? or branch+) | ($src? or-join [[?required*]? ?var*] branch+)      branch = clause | (and clause+)
    binding = ?var | _ | [binding+] | [binding ...] | [[binding+]]
    rules   = [ [(name [?required+]? argument*) clause+]+ ]     argument = ?var | (min ?var) | (max ?var), one of these at most
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from datalog.ast import (
    Argument,
    Best,
    BindBlank,
    BindCollection,
    Binding,
    BindTuple,
    BindVariable,
    Blank,
    Branch,
    Call,
    Clause,
    Constant,
    FindElement,
    FindExpression,
    FindPull,
    FindVariable,
    Function,
    Input,
    InputBinding,
    InputName,
    InputRules,
    InputSource,
    NameArgument,
    Not,
    Or,
    OrderKey,
    Pattern,
    Predicate,
    Query,
    RuleCall,
    Rules,
    SourceArgument,
    Term,
    Variable,
    argument_variables,
    binding_variables,
    clause_variables,
    iter_clauses,
)
from datalog.errors import did_you_mean, names, query_error
from store.edn import Keyword, List, Map, Symbol, Vector, node_of, read_node
from store.errors import EdnError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.edn import Node

SECTIONS = (
    "find", "in", "with", "keys", "strs", "syms", "where", "having", "order-by", "limit", "offset", "timeout",
)  # fmt: skip
_DEEPEST = 100
_CONNECTIVES = {"and", "or", "or-join", "not", "not-join"}


def parse_query(query: Any) -> Query:
    """The `Query` of an EDN text, or of the same form as Python data (vector with keywords, or map).

    Raises:
        QueryError: `query/syntax` and the other codes of the parser, with line, column and what was expected.
        EdnError: the text is not EDN.
    """
    if isinstance(query, Query):
        return query
    text, root = _read(query)
    _check_nesting(text, root)
    return _QueryParser(text).query(root)


def parse_rules(rules: Any) -> Rules:
    """The `Rules` of an EDN text or of the same form as Python data: a vector of `[(name ?arg ...) clause ...]`."""
    if isinstance(rules, Rules):
        return rules
    text, root = _read(rules, "These are no rules: rules are one vector.", "[[(name ?x) clause ...] ...]")
    _check_nesting(text, root)
    return _QueryParser(text).rules(root)


def nesting_of(node: Node) -> int:
    """How deep the forms of a text are nested."""
    deepest, pending = 0, [(node, 1)]
    while pending:
        current, depth = pending.pop()
        deepest = max(deepest, depth)
        pending.extend((child, depth + 1) for child in current.items)
    return deepest


def _check_nesting(text: str, root: Node) -> None:
    """The parser goes down with the forms: deeper ones than any real query has are refused."""
    if text.count("(") + text.count("[") + text.count("{") > _DEEPEST and nesting_of(root) > _DEEPEST:
        raise query_error("query/syntax", f"The text is nested deeper than {_DEEPEST} forms.", text, (0, 1))


def _read(
    query: Any,
    not_one: str = "This is no query: a query is one form in brackets.",
    expected: str = "[:find ?x :where [?x :some/attribute]]",
) -> tuple[str, Node]:
    if isinstance(query, str):
        try:
            return query, read_node(query)
        except EdnError as e:
            if e.code == "edn/trailing" and not query.lstrip().startswith(("[", "{", "(", ";", "#")):
                raise query_error("query/syntax", not_one, query, (0, 1), expected=expected) from e
            raise
    node = node_of(_keyed(query))
    return node.text, node


def _keyed(query: Any) -> Any:
    """A query map of Python data with its keys as keywords: `{"find": ...}` and `{":find": ...}` mean `{:find ...}`."""
    if isinstance(query, dict) and any(isinstance(k, str) for k in query):
        return {Keyword(k.lstrip(":")) if isinstance(k, str) else k: v for k, v in query.items()}
    return query


class _QueryParser:
    """The parser of one text. Fields: the text, for messages, and what `:in` declared."""

    __slots__ = ("names", "sources", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self.sources: set[str] = set()

    # the whole ------------------------------------------------------------------------------------------------------

    def query(self, root: Node) -> Query:
        sections = self.sections(root)
        if "find" not in sections:
            self.fail(root, "A query needs :find.", "[:find ?x :where ...]")
        inputs = self.inputs(sections.get("in"))
        self.names = {i.name for i in inputs if isinstance(i, InputName)}
        self.sources = {i.name for i in inputs if isinstance(i, InputSource)}
        find_nodes, shape = self.shape(sections["find"][1])
        find = tuple(self.find_element(n) for n in find_nodes)
        where = tuple(self.clauses(sections["where"][1], "$")) if "where" in sections else ()
        result = Query(
            text=self.text,
            find=find,
            shape=shape,
            where=where,
            inputs=inputs,
            with_=tuple(self.variable(n) for n in sections["with"][1]) if "with" in sections else (),
            keys=self.keys(sections, find, shape),
            having=self.having(sections),
            order=self.order(sections, find_nodes, find),
            limit=self.count(sections, "limit"),
            offset=self.count(sections, "offset"),
            timeout_ms=self.timeout(sections),
        )
        self.check_names(result)
        return result

    def sections(self, root: Node) -> dict[str, tuple[Node, Sequence[Node]]]:
        """Section name -> (keyword node, nodes of its body)."""
        if isinstance(root.value, Map):
            found: dict[str, tuple[Node, Sequence[Node]]] = {}
            for key, body in zip(root.items[::2], root.items[1::2], strict=True):
                listed = isinstance(body.value, Vector | List) and key.value != Keyword("limit")
                found[self.section_name(key, found)] = (key, body.items if listed else [body])
            return found
        if not isinstance(root.value, Vector | List):
            self.fail(root, "A query is a vector or a map.", "[:find ...] or {:find [...] ...}")
        found = {}
        body_nodes: list[Node] | None = None
        for node in root.items:
            if isinstance(node.value, Keyword) and (body_nodes is None or node.value.name in SECTIONS or not found):
                body_nodes = []
                found[self.section_name(node, found)] = (node, body_nodes)
            elif body_nodes is None:
                self.fail(node, "A query starts with :find.", ":find")
            elif isinstance(node.value, Keyword) and not self.keyword_allowed(node, found):
                self.section_name(node, found)
            else:
                body_nodes.append(node)
        return found

    @staticmethod
    def keyword_allowed(node: Node, found: dict[str, tuple[Node, Sequence[Node]]]) -> bool:
        """Only :order-by takes keywords among its members: :asc and :desc."""
        return next(reversed(found)) == "order-by" and node.value.name in ("asc", "desc")

    def section_name(self, node: Node, found: dict[str, Any]) -> str:
        name = node.value.name if isinstance(node.value, Keyword) and node.value.ns is None else None
        if name not in SECTIONS:
            near = did_you_mean(str(node.value), [f":{s}" for s in SECTIONS])
            self.fail(node, f"A query has no section {node.value}.", names(f":{s}" for s in SECTIONS), near)
        if name in found:
            self.fail(node, f"The section :{name} stands twice in the query.")
        return str(name)

    def keys(self, sections: dict[str, Any], find: tuple[FindElement, ...], shape: str) -> tuple[Any, ...] | None:
        given = [s for s in ("keys", "strs", "syms") if s in sections]
        if not given:
            return None
        node, body = sections[given[0]]
        if len(given) > 1:
            self.fail(sections[given[1]][0], f":{given[0]} and :{given[1]} exclude each other.")
        if shape not in ("relation", "tuple"):
            self.fail(node, f":{given[0]} needs a find of whole rows.", "[:find ?a ?b ...] or [:find [?a ?b] ...]")
        if len(body) != len(find):
            self.fail(node, f":{given[0]} names {len(body)} columns, :find has {len(find)}.")
        symbols = [self.symbol(n, "a plain symbol") for n in body]
        if given[0] == "keys":
            return tuple(Keyword(str(s)) for s in symbols)
        return tuple(str(s) for s in symbols) if given[0] == "strs" else tuple(symbols)

    def having(self, sections: dict[str, Any]) -> tuple[Predicate, ...]:
        if "having" not in sections:
            return ()
        found = []
        for clause in self.clauses(sections["having"][1], "$"):
            if not isinstance(clause, Predicate):
                self.fail_at(clause.at, "A clause of :having is a predicate.", "[(> (sum ?x) 10)]")
            found.append(clause)
        return tuple(found)

    def order(
        self, sections: dict[str, Any], find_nodes: Sequence[Node], find: tuple[FindElement, ...]
    ) -> tuple[OrderKey, ...]:
        if "order-by" not in sections:
            return ()
        flat = [m for n in sections["order-by"][1] for m in (n.items if isinstance(n.value, Vector) else (n,))]
        keys: list[OrderKey] = []
        for node in flat:
            value = node.value
            at = (node.start, node.end)
            if isinstance(value, Keyword):
                if value.name not in ("asc", "desc") or value.ns is not None or not keys:
                    self.fail(node, f"{value} has no place in :order-by.", "[?x :desc ?y :asc], or column numbers")
                last = keys[-1]
                keys[-1] = OrderKey(last.column, last.variable, value.name == "asc", last.at)
            elif type(value) is int:
                if not 0 <= value < len(find):
                    self.fail(node, f":find has no column {value}.", f"a column from 0 to {len(find) - 1}")
                keys.append(OrderKey(value, None, ascending=True, at=at))
            elif isinstance(value, List):
                columns = [i for i, n in enumerate(find_nodes) if n.value == value]
                if not columns:
                    self.fail(node, "This expression of :order-by is none of :find.", "an element of :find")
                keys.append(OrderKey(columns[0], None, ascending=True, at=at))
            else:
                variable = self.variable(node)
                column = next(
                    (i for i, f in enumerate(find) if isinstance(f, FindVariable) and f.variable == variable), None
                )
                keys.append(OrderKey(column, variable, ascending=True, at=at))
        return tuple(keys)

    def count(self, sections: dict[str, Any], name: str) -> int | Variable | None:
        if name not in sections:
            return None
        node, body = sections[name]
        if len(body) != 1:
            self.fail(node, f":{name} takes one number.")
        value = body[0].value
        if isinstance(value, Symbol):
            return self.variable(body[0])
        if value is None:
            return None
        if type(value) is not int or value < 0:
            self.fail(body[0], f":{name} takes a number from 0 on.")
        return int(value)

    def timeout(self, sections: dict[str, Any]) -> int | None:
        value = self.count(sections, "timeout")
        if isinstance(value, Variable):
            self.fail_at(value.at, ":timeout takes a number of milliseconds.")
        return value

    def check_names(self, query: Query) -> None:
        """Sources, rules and find variables that are used must be declared or bound somewhere."""
        clauses = iter_clauses(query.where)
        bound = {v.name for i in query.inputs if isinstance(i, InputBinding) for v in binding_variables(i.binding)}
        bound.update(v.name for c in query.where if not isinstance(c, Not) for v in clause_variables(c))
        for clause in clauses:
            if isinstance(clause, Pattern) or (isinstance(clause, RuleCall) and clause.source != "$"):
                self.check_source(clause.source, clause.at)
            call = clause.call if isinstance(clause, Predicate | Function) else None
            if call is not None:
                self.check_call(call, bound)
            if isinstance(clause, RuleCall) and not any(isinstance(i, InputRules) for i in query.inputs):
                self.no_rules(clause)
        used = [*query.with_, *(k.variable for k in query.order if k.variable), *self.find_variables(query.find)]
        used += [v for h in query.having for v in argument_variables(h.call)]
        used += [n for n in (query.limit, query.offset) if isinstance(n, Variable)]
        for variable in used:
            if variable.name not in bound:
                raise query_error(
                    "query/unbound-variable",
                    f"No clause and no input binds {variable.name}.",
                    self.text,
                    variable.at,
                    expected=f"one of {names(sorted(bound))}" if bound else None,
                    hint=did_you_mean(variable.name, bound),
                )

    def find_variables(self, find: tuple[FindElement, ...]) -> list[Variable]:
        found: list[Variable] = []
        for element in find:
            if isinstance(element, FindExpression):
                found.extend(argument_variables(element.expression))
            else:
                found.append(element.variable)
                if isinstance(element, FindPull):
                    self.check_source(element.source, element.at)
        return found

    def check_source(self, source: str, at: tuple[int, int]) -> None:
        if source not in self.sources:
            raise query_error(
                "query/unknown-source",
                f":in names no source {source}.",
                self.text,
                at,
                expected=f"one of {names(sorted(self.sources))}" if self.sources else None,
                hint=f"add {source} to :in, and pass a database or a collection for it",
            )

    def check_call(self, call: Call, bound: set[str]) -> None:
        for argument in call.arguments:
            if isinstance(argument, SourceArgument):
                self.check_source(argument.name, argument.at)
            elif isinstance(argument, Call):
                self.check_call(argument, bound)
            elif isinstance(argument, Constant) and isinstance(argument.value, Symbol):
                near = f"?{argument.value}"
                if near in bound:
                    raise query_error(
                        "query/unbound-variable",
                        f"{argument.value} is a plain symbol, not a variable.",
                        self.text,
                        argument.at,
                        hint=f"did you mean {near}?",
                    )

    def no_rules(self, call: RuleCall) -> NoReturn:
        raise query_error(
            "query/unknown-rule",
            f"({call.name} ...) calls a rule, but :in has no %.",
            self.text,
            call.at,
            hint=f"add % to :in and pass the rules; a predicate or function is written [({call.name} ...)]",
        )

    # find -----------------------------------------------------------------------------------------------------------

    def shape(self, nodes: Sequence[Node]) -> tuple[Sequence[Node], str]:
        if not nodes:
            raise query_error("query/syntax", ":find is empty.", self.text, (0, 1), expected=":find ?x")
        first = nodes[0]
        if isinstance(first.value, Vector):
            if len(nodes) > 1:
                self.fail(nodes[1], "Nothing can follow the vector of :find.", "[?x ...] or [?a ?b]")
            inner = first.items
            if len(inner) == 2 and _is_symbol(inner[1], "..."):
                return inner[:1], "collection"
            if not inner:
                self.fail(first, ":find is empty.", "[?a ?b]")
            return inner, "tuple"
        if _is_symbol(nodes[-1], "."):
            if len(nodes) != 2:
                self.fail(nodes[-1], "The dot of :find follows exactly one element.", ":find ?x .")
            return nodes[:1], "scalar"
        return nodes, "relation"

    def find_element(self, node: Node) -> FindElement:
        at = (node.start, node.end)
        value = node.value
        if isinstance(value, List):
            head = self.head(node)
            if str(head) == "pull":
                return self.find_pull(node)
            call = self.call(node)
            if str(head) == "aggregate":  # DataScript's spelling of a custom aggregate: (aggregate ?f ?x)
                if len(call.arguments) < 2 or not isinstance(call.arguments[0], Variable | NameArgument):
                    self.fail(node, "aggregate takes a callable and an argument.", "(aggregate ?f ?x)")
                call = Call(call.arguments[0].name, call.arguments[1:], at)
            return FindExpression(call, at)
        return FindVariable(self.variable(node), at)

    def find_pull(self, node: Node) -> FindPull:
        items = list(node.items[1:])
        source = "$"
        if items and isinstance(items[0].value, Symbol) and str(items[0].value).startswith("$"):
            source = str(items.pop(0).value)
        if len(items) != 2:
            self.fail(node, "pull takes a variable and a pattern.", "(pull ?e [:a/b ...])")
        variable = self.variable(items[0])
        pattern = items[1].value
        if isinstance(pattern, Symbol) and str(pattern) != "*":
            if str(pattern) not in self.names and not str(pattern).startswith("?"):
                self.fail(items[1], f":in does not name the pattern {pattern}.", "a pull pattern, or a name of :in")
            return FindPull(source, variable, None, str(pattern), (node.start, node.end))
        return FindPull(source, variable, pattern, None, (node.start, node.end))

    # inputs ---------------------------------------------------------------------------------------------------------

    def inputs(self, section: tuple[Node, Sequence[Node]] | None) -> tuple[Input, ...]:
        if section is None:
            return (InputSource("$"),)
        found = tuple(self.input(n) for n in section[1])
        seen: set[str] = set()
        for node, item in zip(section[1], found, strict=True):
            name = "%" if isinstance(item, InputRules) else getattr(item, "name", None)
            if name in seen:
                self.fail(node, f":in names {name} twice.")
            if name is not None:
                seen.add(name)
        return found

    def input(self, node: Node) -> Input:
        at = (node.start, node.end)
        if isinstance(node.value, Symbol):
            name = str(node.value)
            if name.startswith("$"):
                return InputSource(name, at)
            if name == "%":
                return InputRules(at)
            if name != "_" and not name.startswith("?"):
                return InputName(name, at)
        return InputBinding(self.binding(node), at)

    def binding(self, node: Node) -> Binding:
        at = (node.start, node.end)
        if isinstance(node.value, Symbol):
            return BindBlank(at) if str(node.value) == "_" else BindVariable(self.variable(node), at)
        if not isinstance(node.value, Vector) or not node.items:
            self.fail(node, "This is no binding.", "?x, _, [?a ?b], [?x ...] or [[?a ?b]]")
        items = node.items
        if len(items) == 2 and _is_symbol(items[1], "..."):
            return BindCollection(self.binding(items[0]), at)
        if len(items) == 1 and isinstance(items[0].value, Vector):
            return BindCollection(self.binding(items[0]), at)
        return BindTuple(tuple(self.binding(n) for n in items), at)

    # clauses --------------------------------------------------------------------------------------------------------

    def clauses(self, nodes: Sequence[Node], source: str) -> list[Clause]:
        found: list[Clause] = []
        for node in nodes:
            value = node.value
            if isinstance(value, Vector):
                found.append(self.vector_clause(node, source))
            elif isinstance(value, List):
                if _is_symbol(node.items[0] if node.items else node, "and"):
                    found.extend(self.clauses(node.items[1:], source))
                else:
                    found.append(self.list_clause(node, source))
            else:
                self.fail(node, "This is no clause.", "[?e :a ?v], [(f ?x) ?y], (rule ?x), (not ...) or (or ...)")
        return found

    def vector_clause(self, node: Node, source: str) -> Clause:
        items = node.items
        if not items:
            self.fail(node, "A clause cannot be empty.", "[?e :a ?v]")
        if isinstance(items[0].value, List):
            call = self.call(items[0])
            at = (node.start, node.end)
            if len(items) == 1:
                return Predicate(call, at)
            if len(items) > 2:
                self.fail(items[2], "A function clause has one binding.", "[(f ?x) ?y]")
            return Function(call, self.binding(items[1]), at)
        first = items[0].value
        if isinstance(first, Symbol) and str(first).startswith("$"):
            source, items = str(first), items[1:]
        if not items:
            self.fail(node, "A pattern needs at least one term.", "[$ ?e :a ?v]")
        return Pattern(source, tuple([self.term(n) for n in items]), (node.start, node.end))

    def list_clause(self, node: Node, source: str) -> Clause:
        items = node.items
        if items and isinstance(items[0].value, Symbol) and str(items[0].value).startswith("$"):
            source, items = str(items[0].value), items[1:]
        if not items or not isinstance(items[0].value, Symbol):
            self.fail(node, "A clause in parentheses starts with a name.", "(rule ?x), (not ...) or (or ...)")
        head = str(items[0].value)
        at = (node.start, node.end)
        if head in ("not", "not-join"):
            return self.negation(node, items, source, joined=head == "not-join")
        if head in ("or", "or-join"):
            return self.disjunction(node, items, source, joined=head == "or-join")
        if head == "and":
            self.fail(node, "and takes no source: give one to each clause in it.", "(and clause ...)")
        if head.startswith("?"):
            self.fail(items[0], "A rule is called by its name, not through a variable.", "(rule ?x)")
        return RuleCall(source, head, tuple(self.term(n) for n in items[1:]), at)

    def negation(self, node: Node, items: Sequence[Node], source: str, *, joined: bool) -> Not:
        join = None
        rest = items[1:]
        if joined:
            if not rest or not isinstance(rest[0].value, Vector):
                self.fail(node, "not-join starts with its variables.", "(not-join [?x] clause ...)")
            join, rest = tuple(self.variable(n) for n in rest[0].items), rest[1:]
        clauses = tuple(self.clauses(rest, source))
        if not clauses:
            self.fail(node, f"{items[0].value} needs at least one clause.", "(not [?e :a ?v])")
        return Not(join, clauses, (node.start, node.end))

    def disjunction(self, node: Node, items: Sequence[Node], source: str, *, joined: bool) -> Or:
        required: tuple[Variable, ...] = ()
        join = None
        rest = items[1:]
        if joined:
            if not rest or not isinstance(rest[0].value, Vector):
                self.fail(node, "or-join starts with its variables.", "(or-join [?x] clause ...)")
            required, free = self.rule_variables(rest[0].items)
            join, rest = required + free, rest[1:]
        branches = tuple(tuple(self.clauses([n], source)) for n in rest)
        if not branches or not all(branches):
            self.fail(node, f"{items[0].value} needs clauses.", "(or [?e :a 1] [?e :a 2])")
        clause = Or(required, join, branches, (node.start, node.end))
        if join is None:
            self.check_branches(clause)
        return clause

    def check_branches(self, clause: Or) -> None:
        """All branches of a plain `or` must speak of the same variables."""
        sets = [{v.name for c in body for v in clause_variables(c)} for body in clause.branches]
        for body, found in zip(clause.branches, sets, strict=True):
            odd = sets[0] ^ found
            if odd:
                raise query_error(
                    "query/or-variables",
                    f"The branches of or use different variables; not in all of them: {names(sorted(odd))}.",
                    self.text,
                    body[0].at,
                    hint=f"name what leaves it: (or-join [{' '.join(sorted(set.intersection(*sets))) or '?x'}] ...)",
                )

    def rule_variables(self, nodes: Sequence[Node]) -> tuple[tuple[Variable, ...], tuple[Variable, ...]]:
        """(required, free) of `[?required]? ?free*`."""
        required: tuple[Variable, ...] = ()
        if nodes and isinstance(nodes[0].value, Vector):
            required, nodes = tuple(self.variable(n) for n in nodes[0].items), nodes[1:]
        free = tuple(self.variable(n) for n in nodes)
        seen: set[str] = set()
        for variable in required + free:
            if variable.name in seen:
                self.fail_at(variable.at, f"{variable.name} is named twice here.")
            seen.add(variable.name)
        return required, free

    # terms ----------------------------------------------------------------------------------------------------------

    def term(self, node: Node) -> Term:
        value = node.value
        at = (node.start, node.end)
        if isinstance(value, Symbol):
            name = str(value)
            if name.startswith("?"):
                return Variable(name, at)
            if name == "_":
                return Blank(at)
            if name.startswith("$"):
                self.fail(node, f"The source {name} stands first in its clause.", f"[{name} ?e :a ?v]")
        return Constant(self.constant(node), at)

    def constant(self, node: Node) -> Any:
        """The value of a node that must not hold variables: one inside a vector would never be bound."""
        if node.items:
            pending = list(node.items)
            while pending:
                inner = pending.pop()
                pending.extend(inner.items)
                if isinstance(inner.value, Symbol) and str(inner.value).startswith("?"):
                    self.fail(
                        inner,
                        f"{inner.value} stands inside a value.",
                        "a constant",
                        "build values with [(tuple ...) ?t]",
                    )
        return node.value

    def call(self, node: Node) -> Call:
        head = self.head(node)
        return Call(str(head), tuple([self.argument(n) for n in node.items[1:]]), (node.start, node.end))

    def head(self, node: Node) -> Symbol:
        if not node.items:
            self.fail(node, "A call needs a function.", "(f ?x)")
        return self.symbol(node.items[0], "the name of a function")

    def argument(self, node: Node) -> Argument:
        value = node.value
        at = (node.start, node.end)
        if isinstance(value, Symbol):
            name = str(value)
            if name.startswith("?"):
                return Variable(name, at)
            if name.startswith("$"):
                return SourceArgument(name, at)
            if name in ("_", "%"):
                self.fail(node, f"{name} cannot be an argument.", "a variable or a constant")
            if name in self.names:
                return NameArgument(name, at)
        elif isinstance(value, List) and node.items and isinstance(node.items[0].value, Symbol):
            return self.call(node)
        return Constant(self.constant(node), at)

    def variable(self, node: Node) -> Variable:
        if isinstance(node.value, Symbol) and str(node.value).startswith("?"):
            return Variable(str(node.value), (node.start, node.end))
        hint = f"did you mean ?{node.value}?" if isinstance(node.value, Symbol) else None
        return self.fail(node, "A variable is expected here.", "?name", hint)

    def symbol(self, node: Node, expected: str) -> Symbol:
        if isinstance(node.value, Symbol):
            return node.value
        return self.fail(node, "A name is expected here.", expected)

    # rules ----------------------------------------------------------------------------------------------------------

    def rules(self, root: Node) -> Rules:
        if not isinstance(root.value, Vector | List):
            self.fail(root, "A rule set is a vector of rules.", "[[(name ?x) clause ...] ...]")
        found: dict[str, list[Branch]] = {}
        for node in root.items:
            name, branch = self.branch(node)
            others = found.setdefault(name, [])
            if others and len(others[0].head) != len(branch.head):
                self.fail_at(
                    branch.at,
                    f"The branches of the rule {name} take {len(others[0].head)} and {len(branch.head)} arguments.",
                    code="query/rule-arity",
                )
            if others and others[0].best != branch.best:
                self.fail_at(
                    branch.at,
                    f"The branches of the rule {name} differ in what they take the minimum or maximum of.",
                    expected="the same (min ?x) or (max ?x) in the same place of each head",
                    code="query/rule-aggregate",
                )
            others.append(branch)
        return Rules(self.text, {name: tuple(branches) for name, branches in found.items()})

    def branch(self, node: Node) -> tuple[str, Branch]:
        items = node.items
        if not isinstance(node.value, Vector | List) or not items or not isinstance(items[0].value, List):
            self.fail(node, "This is no rule.", "[(name ?x) clause ...]")
        head = self.head(items[0])
        if str(head) in _CONNECTIVES or str(head)[0] in "?$%":
            self.fail(items[0], f"{head} cannot be the name of a rule.", "another name")
        arguments, best = self.best(items[0].items[1:])
        required, free = self.rule_variables(arguments)
        if best is not None:
            best = Best(best.name, best.position + max(len(required) - 1, 0))
        if not required and not free:
            self.fail(items[0], f"The rule {head} has no arguments.", f"({head} ?x)")
        clauses = tuple(self.clauses(items[1:], "$"))
        if not clauses:
            self.fail(node, f"The rule {head} has no clauses.", f"[({head} ?x) [?x :a ?v]]")
        return str(head), Branch(required, required + free, clauses, (node.start, node.end), best)

    def best(self, nodes: Sequence[Node]) -> tuple[list[Node], Best | None]:
        """(the arguments of a head with plain variables only, its aggregate); positions count the required ones as one."""
        plain: list[Node] = []
        best: Best | None = None
        for position, node in enumerate(nodes):
            if not isinstance(node.value, List):
                plain.append(node)
                continue
            name = str(self.head(node))
            if name not in ("min", "max"):
                self.fail_at(
                    (node.start, node.end),
                    f"{name} cannot stand in the head of a rule, which may call itself: only min and max are sound there.",
                    expected="(min ?x) or (max ?x)",
                    hint=f"aggregate over the rule in :find, as in [:find ?x ({name} ?y) :in $ % :where (rule ?x ?y)]",
                    code="query/rule-aggregate",
                )
            if best is not None:
                self.fail_at(
                    (node.start, node.end),
                    "The head of a rule has two aggregates.",
                    expected="one (min ?x) or (max ?x)",
                    hint="write a rule for each",
                    code="query/rule-aggregate",
                )
            if len(node.items) != 2:
                self.fail(node, f"{name} in the head of a rule takes one variable.", f"({name} ?x)")
            best = Best(name, position)
            plain.append(node.items[1])
        return plain, best

    # errors ---------------------------------------------------------------------------------------------------------

    def fail(self, node: Node, message: str, expected: str | None = None, hint: str | None = None) -> NoReturn:
        self.fail_at((node.start, node.end), message, expected, hint)

    def fail_at(
        self,
        at: tuple[int, int],
        message: str,
        expected: str | None = None,
        hint: str | None = None,
        code: str = "query/syntax",
    ) -> NoReturn:
        if expected is None and code == "query/syntax":
            expected = expected_there(self.text, at[0])
        raise query_error(code, message, self.text, at, expected=expected, hint=hint)


def _is_symbol(node: Node, text: str) -> bool:
    return isinstance(node.value, Symbol) and str(node.value) == text


@cache
def grammar(start: str = "query") -> Any:
    """The lark parser of grammar.lark ("query", "rules" or "pull"): documentation, and the source of "expected" in messages."""
    from pathlib import Path  # noqa: PLC0415 - for malformed texts only, as the next

    from lark import Lark  # noqa: PLC0415

    return Lark(Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8"), start=start, parser="lalr")


_SHOWN = {
    "VARIABLE": "a variable",
    "NAME": "a name",
    "SOURCE": "a source",
    "KEYWORD": "a keyword",
    "NUMBER": "a number",
    "STRING": "a string",
    "LSQB": "[",
    "RSQB": "]",
    "LPAR": "(",
    "RPAR": ")",
    "LBRACE": "{",
    "RBRACE": "}",
}


def expected_there(text: str, start: int, what: str = "query") -> str | None:
    """What the grammar accepts where it first stops in a text, if that is the place `start` or behind it; else None."""
    from lark.exceptions import UnexpectedInput  # noqa: PLC0415 - as above

    try:
        grammar(what).parse(text)
    except UnexpectedInput as stop:
        if stop.pos_in_stream is None or stop.pos_in_stream < start:
            return None
        allowed = (
            getattr(stop, "accepts", None) or getattr(stop, "allowed", None) or getattr(stop, "expected", None) or ()
        )
        names_there = [str(a) for a in allowed if str(a) != "$END"]
        shown = sorted(_SHOWN.get(n, n.lower().replace("_", "-")) for n in names_there)
        sections = [f":{n}" for n in shown if n in SECTIONS]
        others = [n for n in shown if n not in SECTIONS]
        return ", ".join([*others[:6], *sections]) or None
    return None
