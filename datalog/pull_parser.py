"""Pull patterns: text or forms -> `PullPattern`, checked against the schema.

    pattern   = [ spec+ ]
    spec      = attribute | * | [attribute option*] | { (attribute | [attribute option*]) (pattern | depth) }
              | (limit attribute n) | (default attribute value)
    attribute = :ns/name | :ns/_name (reverse) | :db/id
    option    = :as key | :limit n|nil | :default value | :xform f
    depth     = n | ...

Attributes, `*` and `...` may be strings in patterns given as Python data. An unknown attribute is an error with the nearest name,
as in queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from datalog.builtins import find_function, function_names
from datalog.errors import PullError, did_you_mean, show, span_of
from datalog.record import Record, replace
from store.edn import Keyword, List, Map, Node, Symbol, Vector, node_of, read_node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_LIMIT = 1000
_MOST_KEPT = 256  # parsed patterns of a schema
ENDLESS = -1
_OPTIONS = (":as", ":limit", ":default", ":xform")


class PullAttribute(Record):
    """One attribute of a pattern."""

    ident: str
    attribute: Any  # its schema entry; None when nobody used this attribute
    reverse: bool
    key: Any  # under which the value stands in the result
    limit: int | None = DEFAULT_LIMIT
    default: Any = None
    has_default: bool = False
    xform: Callable[..., Any] | None = None
    pattern: PullPattern | None = None
    depth: int | None = None  # of a recursion: levels, or ENDLESS


class PullPattern(Record):
    """What to pull of an entity."""

    wildcard: bool
    eid: Any  # the key of :db/id, or None
    attributes: tuple[PullAttribute, ...]
    flat: bool  # every attribute has one plain value, or a reference that is not followed


def _is_flat(attributes: Sequence[PullAttribute]) -> bool:
    return all(
        s.attribute is not None
        and not (s.reverse or s.attribute.many or s.attribute.component)
        and s.pattern is None
        and s.depth is None
        and s.xform is None
        for s in attributes
    )


def parse_pattern(pattern: Any, schema: Any) -> PullPattern:
    """The checked pattern of an EDN text or of the same form as Python data.

    Raises:
        PullError: `pull/syntax`, `pull/unknown-attribute`, with the place in the pattern.
        EdnError: the text is not EDN.
    """
    if isinstance(pattern, PullPattern):
        return pattern
    if isinstance(pattern, str):
        kept: PullPattern | None = schema.memo.get(("pull", pattern))
        if kept is None:
            parser = _PatternParser(pattern, schema, {})
            kept = parser.pattern(read_node(pattern))
            if not parser.calls and len(schema.memo) < _MOST_KEPT:  # a function may be registered anew
                schema.memo["pull", pattern] = kept
        return kept
    callables: dict[str, Callable[..., Any]] = {}
    node = node_of(_named(pattern, callables))
    return _PatternParser(node.text, schema, callables).pattern(node)


def _named(form: Any, callables: dict[str, Callable[..., Any]]) -> Any:
    """The form with Python callables, which EDN cannot print, replaced by symbols that stand for them."""
    if isinstance(form, dict | Map):
        return Map((_named(k, callables), _named(v, callables)) for k, v in form.items())
    if isinstance(form, List):
        return List(_named(v, callables) for v in form)
    if isinstance(form, list | tuple):
        return Vector(_named(v, callables) for v in form)
    if callable(form) and not isinstance(form, Keyword | Symbol):
        name = f"callable-{len(callables)}"
        callables[name] = form
        return Symbol(name)
    return form


class _PatternParser:
    """The parser of one pattern."""

    __slots__ = ("callables", "calls", "schema", "text")

    def __init__(self, text: str, schema: Any, callables: dict[str, Callable[..., Any]]) -> None:
        self.text = text
        self.schema = schema
        self.callables = callables
        self.calls = False

    def pattern(self, node: Node) -> PullPattern:
        if not isinstance(node.value, Vector) or not node.items:
            self.fail(node, "This is no pull pattern.", "[:a/b ...] or [*]")
        wildcard = False
        eid: Any = None
        found: list[PullAttribute] = []
        for item in node.items:
            if _text_of(item.value) == "*":
                wildcard = True
            elif isinstance(item.value, Map):
                for key, value in zip(item.items[::2], item.items[1::2], strict=True):
                    found.append(self.nested(key, value))
            else:
                spec = self.spec(item)
                if spec.ident == ":db/id":
                    eid = spec.key
                else:
                    found.append(spec)
        if wildcard and eid is None:
            eid = ":db/id"
        return PullPattern(wildcard, eid, tuple(found), flat=not wildcard and _is_flat(found))

    def nested(self, key: Node, value: Node) -> PullAttribute:
        spec = self.spec(key)
        if spec.attribute is not None and not spec.attribute.is_ref:
            self.fail(
                key, f"{spec.ident} is no reference, so nothing can be pulled through it.", "a :db.type/ref attribute"
            )
        if _text_of(value.value) == "...":
            return replace(spec, depth=ENDLESS)
        if type(value.value) is int:
            if value.value < 1:
                self.fail(value, "A recursion goes at least one level deep.", "a number from 1 on, or ...")
            return replace(spec, depth=value.value)
        return replace(spec, pattern=self.pattern(value))

    def spec(self, node: Node) -> PullAttribute:
        if isinstance(node.value, List):
            return self.legacy(node)
        if isinstance(node.value, Vector):
            if not node.items:
                self.fail(node, "An attribute is expected here.", "[:a/b :limit 10]")
            return self.options(self.attribute(node.items[0]), node.items[1:])
        return self.attribute(node)

    def legacy(self, node: Node) -> PullAttribute:
        """`(limit :a n)` and `(default :a v)`."""
        name = _text_of(node.items[0].value) if node.items else None
        if name not in ("limit", "default") or len(node.items) != 3:
            self.fail(node, "This is no attribute expression.", "[:a/b :limit 10] or [:a/b :default 0]")
        head = node.items[0]
        option = Node(Keyword(str(name)), head.start, head.end, (), head.text, head.source)
        return self.options(self.attribute(node.items[1]), [option, node.items[2]])

    def options(self, spec: PullAttribute, nodes: Sequence[Node]) -> PullAttribute:
        if len(nodes) % 2:
            self.fail(nodes[-1], "An option needs a value.", ":limit 10")
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            name = _text_of(key.value)
            if name == ":as":
                spec = replace(spec, key=_key(value.value))
            elif name == ":limit":
                if value.value is not None and (type(value.value) is not int or value.value < 1):
                    self.fail(value, "A limit is a number from 1 on, or nil.", ":limit 10")
                spec = replace(spec, limit=value.value)
            elif name == ":default":
                spec = replace(spec, default=value.value, has_default=True)
            elif name == ":xform":
                spec = replace(spec, xform=self.callable(value))
            else:
                self.fail(
                    key,
                    f"There is no option {show(key.value)}.",
                    ", ".join(_OPTIONS),
                    did_you_mean(str(name), _OPTIONS),
                )
        return spec

    def callable(self, node: Node) -> Callable[..., Any]:
        self.calls = True
        name = _text_of(node.value)
        if name is None:
            self.fail(node, "The name of a function is expected here.", ":xform upper-case")
        given = self.callables.get(name)
        if given is not None:
            return given
        found = find_function(name)
        if found is None or found.source:
            self.fail(node, f"There is no function {name}.", None, did_you_mean(name, function_names()))
        return found.scalar

    def attribute(self, node: Node) -> PullAttribute:
        text = _text_of(node.value)
        if text is None or not text.startswith(":"):
            self.fail(node, f"{show(node.value)} is no attribute.", ":a/b, :a/_b or *")
        if text == ":db/id":
            return PullAttribute(text, None, reverse=False, key=text)
        found = self.schema.find(text)
        if found is not None:
            return PullAttribute(text, found, reverse=False, key=text)
        ns, _, name = text.rpartition("/")
        if name.startswith("_") or (not ns and name.startswith(":_")):
            forward = f"{ns}/{name[1:]}" if ns else f":{name[2:]}"
            found = self.schema.find(forward)
            if found is not None and not found.is_ref and found.type is not None:
                self.fail(
                    node, f"{forward} is no reference, so nothing points back through it.", "a :db.type/ref attribute"
                )
            if found is not None or not self.schema.has_declared:
                return PullAttribute(forward, found, reverse=True, key=text)
        elif not self.schema.has_declared:
            return PullAttribute(text, None, reverse=False, key=text)
        hint = did_you_mean(text, self.schema.idents()) or "declare it in the schema, or correct its name"
        return self.fail(node, f"There is no attribute {text}.", None, hint, code="pull/unknown-attribute")

    def fail(
        self, node: Node, message: str, expected: str | None = None, hint: str | None = None, code: str = "pull/syntax"
    ) -> NoReturn:
        raise PullError(
            code,
            message,
            expected=expected,
            hint=hint,
            span=span_of(self.text, (node.start, node.end)),
            source=self.text,
        )


def _text_of(value: Any) -> str | None:
    return str(value) if isinstance(value, Keyword | Symbol | str) else None


def _key(value: Any) -> Any:
    """A result key: keywords are given as ":ns/name" strings, as everywhere in map keys."""
    return str(value) if isinstance(value, Keyword) else value
