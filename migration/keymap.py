"""The mapping of memory keys to entities, as data: read, checked, and asked which rule takes a key.

Takes EDN, gives a `KeyMap`: rules that are checked against their schema and each other, the rule for a key, and what the
mapping would do with a whole memory. rules.py carries rules out; entities.py knows the database. `keymap.edn` beside
this file is the built-in mapping; an application may bring its own, or put rules in front of the built-in ones
(`KeyMap.extended`).

The grammar of a mapping, EDN::

    keymap  = {:schema [{:db/ident ...} ...] :rules [rule ...]}      the last rule takes every key and every value
    rule    = {:kind keyword           unique; kept as :memory/kind, so that the value can be rebuilt
               :data keyword           the kind of data that moves together: :session, :project, :learning, :cache
               :match match
               (:entity entity | [:owner owner] :entries entries)}
    match   = {} | {:keys #{key ...}} | {:namespace string [:or-part key]} | {:or-part key}
              :or-part: also any key whose value is a map with this key
    entity  = {:given {attr given ...} [:parts {part part-attr ...}] [:identity attr] [:rest attr]}
              the value is a map, its parts become attributes of one entity. :identity: a unique attribute by which keys of
              different kinds share the entity. :rest: what is left stands in this attribute of the entity and not in
              :memory/rest of the key; then the value may be anything
    entries = {:given {attr given ...} ([:parts {part part-attr ...}] | :members attr)}
              the value is a map, each entry becomes an entity: one of its given attributes is the entry's key. :members:
              the entry's value is a set, and these are its members
    owner   = {:identity attr :given {attr given ...} :children attr :parent attr}
              the entity that the entries belong to, shared by its identity; references both ways
    given   = {:from (:name | :name-keyword | :key | :entry | :count)} or {:always value}, and [:part part] [:prefer :part]
              an attribute that follows from the key; :part: the part of the value that usually says the same, and is then
              not stored twice; :prefer :part: the part is taken, the key's name only when there is none
    part-attr = attr | {:attr attr :once true}
              :once: written once, for creation times; a later value stands in the JSON and is read back from there

A part becomes an attribute only when its value has exactly the attribute's type (for cardinality many: a non-empty set
of such); otherwise it stays in the JSON. So every value is rebuilt exactly, whatever it is: JSON first, then the
attributes for the parts that the JSON does not name (rules.py).

A value whose shape its rule does not expect goes to the last rule. The rule of a key depends on namespace and name, never
on the text: `:presence.5/x` is no presence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from migration.jsonvalue import key_text
from migration.rules import KEY_ATTRIBUTES, Given, Mapped, Owner, Part, Rule
from store.edn import Keyword, Map, Set, Vector, read_edn, show_form, strict_equal, write_edn
from store.errors import KeyMapError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Coverage", "KeyMap", "builtin"]

_LONG: Final = 1 << 63
_SOURCES: Final = ("name", "name-keyword", "key", "entry", "count")


@dataclass(slots=True)
class Coverage:
    """What the mapping does with a memory: keys by rule, and what it cannot take as it is.

    Attributes:
        keys: how many keys there are.
        by_kind: kind -> keys that its rule maps.
        fell: kind -> keys whose value has a shape that the rule does not expect, and that the last rule took.
        collisions: (attribute, value, key, key): two keys that would meet in one entity.
        unequal: keys whose value would not be read back equal.
        tried: how many keys were mapped and rebuilt.
    """

    keys: int = 0
    by_kind: Counter[Keyword] = field(default_factory=Counter)
    fell: Counter[Keyword] = field(default_factory=Counter)
    collisions: list[tuple[str, Any, Keyword, Keyword]] = field(default_factory=list)
    unequal: list[Keyword] = field(default_factory=list)
    tried: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "keys": self.keys,
            "by_kind": {k.name: n for k, n in sorted(self.by_kind.items())},
            "fell_to_generic": {k.name: n for k, n in sorted(self.fell.items())},
            "collisions": [
                {"attribute": a, "value": write_edn(v), "keys": [str(k), str(other)]}
                for a, v, k, other in self.collisions
            ],
            "unequal": [str(k) for k in self.unequal],
            "round_trips": self.tried,
        }


class KeyMap:
    """A checked mapping. Make one with `builtin`, `KeyMap.read`, or from the other with `extended`.

    Raises:
        KeyMapError: `keymap/rule` for rules that are not of the grammar, do not fit the schema or each other, all at once.
    """

    def __init__(self, schema: Iterable[Mapping[Any, Any]], rules: Iterable[Mapping[Any, Any]]) -> None:
        self.form = Map([(Keyword("schema"), Vector(schema)), (Keyword("rules"), Vector(rules))])
        self.schema: tuple[Mapping[Any, Any], ...] = tuple(self.form[Keyword("schema")])
        self._types = _types_of(self.schema)
        problems: list[str] = []
        self.rules: tuple[Rule, ...] = tuple(
            r for n, form in enumerate(self.form[Keyword("rules")]) if (r := self._rule(form, n, problems)) is not None
        )
        if not problems:
            self._check_together(problems)
        if problems:
            shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
            raise KeyMapError(
                "keymap/rule",
                "The key mapping is not right.\n" + "\n".join(shown),
                hint="the grammar stands at the head of migration/keymap.py.",
                data={"problems": problems},
            )
        self.last = self.rules[-1]
        self.by_kind = {rule.kind: rule for rule in self.rules}
        #: attributes of mapped entities, without the references between owners and entries, which follow
        self.mapped_attributes = frozenset(
            a
            for a in self.attributes_used()
            - {link for r in self.rules if r.owner for link in (r.owner.children, r.owner.parent)}
            if not a.startswith(":memory/")
        )
        self._data: dict[Keyword | str | None, Keyword] = {}
        for rule in reversed(self.rules):  # the first rule of a key or namespace has the last word
            self._data.update(dict.fromkeys(rule.keys or (), rule.data))
            if rule.namespace is not None:
                self._data[rule.namespace] = rule.data
        #: attributes by which keys can be searched for on both sides
        self.searchable = frozenset(a for a in self.mapped_attributes if any(r.getter(a) for r in self.rules))
        self._candidates: dict[str | None, tuple[Rule, ...]] = {}
        #: a digest of the whole mapping: values mapped under another one are mapped anew by an import
        self.digest = blake2b(write_edn(self.form).encode(), digest_size=8).hexdigest()

    @classmethod
    def read(cls, text: str, *, source: str | None = None) -> KeyMap:
        """The mapping of an EDN text.

        Raises:
            EdnError: the text is not EDN. KeyMapError: it is no mapping.
        """
        form = read_edn(text, source=source)
        if not isinstance(form, Map) or not all(isinstance(form.get(Keyword(k)), Vector) for k in ("schema", "rules")):
            raise KeyMapError(
                "keymap/rule",
                f"{show_form(form)} is no key mapping.",
                expected="a map {:schema [...] :rules [...]}",
                file=source,
            )
        return cls(form[Keyword("schema")], form[Keyword("rules")])

    def extended(self, text: str, *, source: str | None = None) -> KeyMap:
        """This mapping with the schema and rules of an EDN text in front; a rule of a known kind replaces that one."""
        form = read_edn(text, source=source)
        if not isinstance(form, Map):
            raise KeyMapError("keymap/rule", f"{show_form(form)} is no key mapping.", expected="a map", file=source)
        new = [r for r in form.get(Keyword("rules"), ()) if isinstance(r, Map)]
        kinds = {r.get(Keyword("kind")) for r in new}
        old = [r for r in self.form[Keyword("rules")] if r.get(Keyword("kind")) not in kinds]
        idents = {str(a.get(Keyword("db/ident"))) for a in form.get(Keyword("schema"), ()) if isinstance(a, Map)}
        kept = [a for a in self.schema if str(a[Keyword("db/ident")]) not in idents]
        return KeyMap([*form.get(Keyword("schema"), ()), *kept], [*new, *old])

    # -- use

    def rule_of(self, key: Keyword, value: Any) -> tuple[Rule, Rule]:
        """(the rule that maps the key, the rule it belongs to): they differ when the value's shape is not expected."""
        candidates = self._candidates.get(key.ns)
        if candidates is None:
            candidates = self._candidates[key.ns] = tuple(
                r for r in self.rules if r.namespace in (None, key.ns) or r.or_part is not None
            )
        for rule in candidates:
            if rule.takes(key, value):
                return (rule, rule) if rule.expects(value) else (self.last, rule)
        raise AssertionError("the last rule takes every key")

    def data_of(self, key: Keyword) -> Keyword:
        """The kind of data a key moves with: that of the first rule that takes it by its namespace or name alone.

        The value has no say, so that a key never changes sides with its value: a learning record under another
        namespace moves with the last rule's kind.
        """
        by_name = self._data.get(key)
        if by_name is None:
            by_name = self._data.get(key.ns, self.last.data) if key.ns is not None else self.last.data
        return by_name

    @property
    def data_kinds(self) -> tuple[Keyword, ...]:
        """The kinds of data, in the order of the rules: the order in which a backfill takes them."""
        return tuple(dict.fromkeys(r.data for r in self.rules))

    def encoded(self, key: Keyword, value: Any, kept: Mapping[Any, Mapping[str, Any]] = {}) -> Mapped:
        """What a key and its value become; see `Rule.encoded`."""
        return self.rule_of(key, value)[0].encoded(key, value, kept)

    def decoded(self, mapped: Mapped) -> Any:
        """The value of what `encoded` gave."""
        return mapped.rule.decoded(mapped.rest, mapped.entities)

    def rule_named(self, kind: Keyword) -> Rule:
        """The rule of a kind found in the database.

        Raises:
            KeyMapError: `keymap/kind` when this mapping has no such rule.
        """
        rule = self.by_kind.get(kind)
        if rule is None:
            close = nearest(str(kind), [str(k) for k in self.by_kind])
            raise KeyMapError(
                "keymap/kind",
                f"The database holds keys of the kind {kind}, for which this mapping has no rule.",
                hint=f"did you mean {close}? Else use the mapping of the import: --keymap FILE."
                if close
                else "use the mapping of the import: --keymap FILE.",
            )
        return rule

    def checked(self, memory: Mapping[Keyword, Any], *, sample: int = 400) -> Coverage:
        """What the mapping would do with a memory: coverage, collisions, round trips; nothing is written.

        Args:
            memory: key -> value.
            sample: how many keys of each kind are mapped and rebuilt, spread evenly; 0 for all.
        """
        found = Coverage(len(memory))
        taken: dict[tuple[str, Any, str], Keyword] = {}
        keys: dict[Rule, list[Keyword]] = {rule: [] for rule in self.rules}
        for key, value in memory.items():
            rule, wanted = self.rule_of(key, value)
            keys[rule].append(key)
            if rule is not wanted:
                found.fell[wanted.kind] += 1
            for attr, identity, owner in self._identities(rule, key, value):
                other = taken.setdefault((attr, identity, str(rule.kind) if owner else ""), key)
                if other is not key:
                    found.collisions.append((attr, identity, other, key))
        found.by_kind.update({rule.kind: len(of) for rule, of in keys.items() if of})
        for rule, of in keys.items():
            step = max(1, len(of) // sample) if sample else 1
            for key in of[::step]:
                value = memory[key]
                mapped = rule.encoded(key, value)
                found.tried += 1
                if not strict_equal(self.decoded(mapped), value):
                    found.unequal.append(key)
        return found

    def _identities(self, rule: Rule, key: Keyword, value: Any) -> Iterable[tuple[str, Any, bool]]:
        """(unique attribute, value, may keys of other kinds share it) that mapping this key would write."""
        for given, shared in self._unique_given(rule):
            if rule.entries and given in rule.given:
                for name, member in value.pairs():
                    if rule.fits_entry(name, member):
                        yield given.attr, rule.given_facts((given,), key, member, name)[given.attr], shared
            else:
                yield given.attr, rule.given_facts((given,), key, value, None)[given.attr], shared

    def _unique_given(self, rule: Rule) -> list[tuple[Given, bool]]:
        own = [(g, g.attr == rule.identity) for g in rule.given if self._types[g.attr].unique]
        of_owner = [(g, True) for g in rule.owner.given if self._types[g.attr].unique] if rule.owner else []
        return own + of_owner

    # -- reading rules

    def attributes_used(self) -> set[str]:
        """The attributes that the mapping writes."""
        used = set(KEY_ATTRIBUTES)
        for rule in self.rules:
            used |= {g.attr for g in rule.given} | {p.attr for p in rule.parts}
            used |= {a for a in (rule.rest, rule.members.attr if rule.members else None) if a}
            if rule.owner:
                used |= {g.attr for g in rule.owner.given} | {rule.owner.children, rule.owner.parent}
        return used

    def is_many(self, attr: str) -> bool:
        """True for an attribute of cardinality many."""
        return self._types[attr].many

    def _check_together(self, problems: list[str]) -> None:
        kinds = Counter(rule.kind for rule in self.rules)
        problems += [
            f"The kind {kind} has {n} rules; :memory/kind could not tell them apart."
            for kind, n in kinds.items()
            if n > 1
        ]
        if not self.rules:
            problems.append("There are no rules.")
            return
        last = self.rules[-1]
        if last.keys is not None or last.namespace is not None or last.or_part is not None or last.rest is None:
            problems.append(
                f"The last rule, {last.kind}, does not take every key and value: give it :match {{}} and :entity with :rest."
            )
        problems += [
            f"The schema lacks {a}, which every mapping needs." for a in KEY_ATTRIBUTES if a not in self._types
        ]

    def _rule(self, form: Any, n: int, problems: list[str]) -> Rule | None:
        where = f"Rule {n}"
        if not isinstance(form, Map):
            problems.append(f"{where}: {show_form(form)} is no map.")
            return None
        kind, data, match = (form.get(Keyword(k)) for k in ("kind", "data", "match"))
        if not isinstance(kind, Keyword) or not isinstance(data, Keyword) or not isinstance(match, Map):
            problems.append(f"{where}: :kind and :data must be keywords and :match a map, in {show_form(form)}.")
            return None
        where = f"Rule {kind}"
        before = len(problems)
        _known(form, ("kind", "data", "match", "entity", "owner", "entries"), where, problems)
        _known(match, ("keys", "namespace", "or-part"), f"{where}, :match", problems)
        entity, entries, owner = (form.get(Keyword(k)) for k in ("entity", "entries", "owner"))
        body = entity if entries is None else entries
        if (entity is None) == (entries is None) or not isinstance(body, Map):
            problems.append(f"{where}: give either :entity or :entries, a map.")
            return None
        if owner is not None and entries is None:
            problems.append(f"{where}: :owner goes with :entries.")
        _known(
            body,
            ("given", "parts", "identity", "rest") if entries is None else ("given", "parts", "members"),
            where,
            problems,
        )
        reader = _RuleReader(self._types, where, problems)
        given = reader.given(body.get(Keyword("given"), Map()))
        parts = reader.parts(body.get(Keyword("parts"), Map()))
        rest = reader.attr(body.get(Keyword("rest")), "string")
        members = reader.members(body.get(Keyword("members")))
        entry = next((g for g in given if g.source == "entry"), None)
        if entries is not None and entry is None:
            problems.append(
                f"{where}: none of the given attributes is {{:from :entry}}, so the entries' keys would be lost."
            )
        identity = reader.identity(body.get(Keyword("identity")), given)
        found_owner = reader.owner(owner) if isinstance(owner, Map) else None
        texts = Counter([p.text for p in parts] + [g.text for g in given if g.part is not None])
        problems += [f"{where}: two attributes for the part {text[1:]}." for text, count in texts.items() if count > 1]
        attrs = Counter([p.attr for p in parts] + [g.attr for g in given] + [a for a in (rest,) if a])
        problems += [f"{where}: {attr} is given two values." for attr, count in attrs.items() if count > 1]
        if len(problems) > before:
            return None
        keys = match.get(Keyword("keys"))
        return Rule(
            kind, data, None if keys is None else frozenset(keys), match.get(Keyword("namespace")), match.get(Keyword("or-part")),
            given, parts, identity, rest, entries is not None, members, entry, found_owner,
            frozenset(attrs) - ({identity} if identity else set()),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Type:
    """What the mapping needs to know of an attribute."""

    name: str
    many: bool
    unique: bool


def _types_of(schema: Iterable[Mapping[Any, Any]]) -> dict[str, _Type]:
    types = {}
    for a in schema:
        if not isinstance(a, Map) or not isinstance(a.get(Keyword("db/ident")), Keyword):
            raise KeyMapError("keymap/schema", f"{show_form(a)} declares no attribute.", expected="{:db/ident ...}")
        value_type = a.get(Keyword("db/valueType"))
        types[str(a[Keyword("db/ident")])] = _Type(
            value_type.name if isinstance(value_type, Keyword) else "",
            a.get(Keyword("db/cardinality")) is Keyword("db.cardinality/many"),
            a.get(Keyword("db/unique")) is not None,
        )
    return types


def _known(form: Map, names: tuple[str, ...], where: str, problems: list[str]) -> None:
    for key in form:
        if not isinstance(key, Keyword) or key.ns is not None or key.name not in names:
            close = nearest(str(key), [f":{name}" for name in names])
            problems.append(
                f"{where}: {show_form(key)} is not known here" + (f"; did you mean {close}?" if close else ".")
            )


class _RuleReader:
    """Reads the attributes of one rule; problems are collected."""

    def __init__(self, types: Mapping[str, _Type], where: str, problems: list[str]) -> None:
        self._types = types
        self._where = where
        self._problems = problems

    def attr(self, form: Any, wanted: str | None = None, *, many: bool = False) -> str | None:
        """The ident of an attribute of the schema; None, and a problem, when there is none."""
        if form is None:
            return None
        found = self._types.get(str(form))
        if found is None or not isinstance(form, Keyword):
            close = nearest(str(form), self._types)
            self._say(
                f"{show_form(form)} is no attribute of the schema" + (f"; did you mean {close}?" if close else ".")
            )
        elif wanted is not None and found.name != wanted:
            self._say(f"{form} must be of :db.type/{wanted}.")
        elif many and not found.many:
            self._say(f"{form} must have :db.cardinality/many.")
        else:
            return str(form)
        return None

    def given(self, form: Any) -> tuple[Given, ...]:
        """The given attributes of a rule."""
        out = []
        for name, how in form.items() if isinstance(form, Map) else ():
            attr = self.attr(name)
            if attr is None or not isinstance(how, Map):
                continue
            _known(how, ("from", "always", "part", "prefer"), f"{self._where}, {attr}", self._problems)
            source, part = how.get(Keyword("from")), how.get(Keyword("part"))
            always = Keyword("always") in how
            if always == (source is not None) or not (
                always or (isinstance(source, Keyword) and source.name in _SOURCES)
            ):
                self._say(
                    f"{attr}: give :always and a value, or :from one of " + ", ".join(f":{s}" for s in _SOURCES) + "."
                )
                continue
            if part is not None and not isinstance(part, Keyword):
                self._say(f"{attr}: :part must be a keyword.")
                continue
            fits = self._fits(attr)
            if fits is None:
                continue
            value = how.get(Keyword("always"))
            if always and not fits(value):
                self._say(f"{attr}: {show_form(value)} is not of its type.")
            text = "" if part is None else key_text(part) or ""
            prefer = how.get(Keyword("prefer")) is Keyword("part")
            out.append(Given(attr, "always" if always else source.name, value, fits, part, text, prefer))
        return tuple(out)

    def parts(self, form: Any) -> tuple[Part, ...]:
        """The parts of a rule."""
        out = []
        for part, how in form.items() if isinstance(form, Map) else ():
            once = False
            name = how
            if isinstance(how, Map):
                _known(how, ("attr", "once"), f"{self._where}, {show_form(part)}", self._problems)
                name, once = how.get(Keyword("attr")), how.get(Keyword("once")) is True
            attr = self.attr(name)
            if not isinstance(part, Keyword):
                self._say(f"{show_form(part)}: a part must be a keyword.")
            elif attr is not None:
                fits = self._fits(attr)
                if fits is not None:
                    many = self._types[attr].many
                    if many and once:
                        self._say(f"{attr}: an attribute of cardinality many cannot be written once.")
                    out.append(Part(part, key_text(part) or "", attr, _each(fits) if many else fits, many, once))
        return tuple(out)

    def members(self, form: Any) -> Part | None:
        """The attribute for the members of sets."""
        attr = self.attr(form, many=True)
        fits = self._fits(attr) if attr else None
        return Part(Keyword("members"), "", attr, _each(fits), True, False) if attr and fits else None

    def identity(self, form: Any, given: tuple[Given, ...]) -> str | None:
        """The attribute by which an entity is shared."""
        attr = self.attr(form)
        if attr is not None and (not self._types[attr].unique or attr not in {g.attr for g in given}):
            self._say(f"{attr}: an :identity must be unique, and one of the given attributes.")
        return attr

    def owner(self, form: Map) -> Owner | None:
        """The owner of a rule's entries."""
        _known(form, ("identity", "given", "children", "parent"), f"{self._where}, :owner", self._problems)
        given = self.given(form.get(Keyword("given"), Map()))
        identity = self.identity(form.get(Keyword("identity")), given)
        children = self.attr(form.get(Keyword("children")), "ref", many=True)
        parent = self.attr(form.get(Keyword("parent")), "ref")
        if identity is None or children is None or parent is None:
            self._say(":owner needs :identity, :children and :parent.")
            return None
        return Owner(identity, given, children, parent)

    def _fits(self, attr: str) -> Callable[[Any], bool] | None:
        fits = _FITS.get(self._types[attr].name)
        if fits is None:
            self._say(
                f"{attr}: parts cannot be of :db.type/{self._types[attr].name or '?'}; "
                f"expected one of {', '.join(sorted(_FITS))}."
            )
        return fits

    def _say(self, problem: str) -> None:
        self._problems.append(f"{self._where}: {problem}")


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def all_fit(value: Any) -> bool:
        return value.__class__ is Set and value.meta is None and len(value) > 0 and all(map(fits, value))

    return all_fit


def _is_long(value: Any) -> bool:
    return value.__class__ is int and -_LONG <= value < _LONG


def _is_double(value: Any) -> bool:
    # the database stores -0.0 as 0.0 and refuses NaN: these stay in the JSON
    return value.__class__ is float and value == value and repr(value) != "-0.0"  # noqa: PLR0124


_FITS: Final[dict[str, Callable[[Any], bool]]] = {
    "keyword": lambda v: v.__class__ is Keyword,
    "string": lambda v: v.__class__ is str,
    "long": _is_long,
    "double": _is_double,
    "boolean": lambda v: v.__class__ is bool,
    "instant": lambda v: v.__class__ is datetime,
    "uuid": lambda v: v.__class__ is UUID,
}


def builtin() -> KeyMap:
    """The mapping that comes with the package."""
    path = Path(__file__).with_name("keymap.edn")
    return KeyMap.read(path.read_text(encoding="utf-8"), source=str(path))
