"""The values EDN has and Python lacks, and type-strict equality over all of them.

`1`, `1.0`, `true` and `1M` are four values, `-0.0` is not `0.0`, `NaN` is `NaN`, `(1)` is not `[1]`: Python's own
`==` says otherwise for most of these, so nothing here relies on it. Two functions carry the rule: `strict_key` (a
hashable that is equal exactly when the values are) and `strict_equal`. Both, and all hashing, run without recursion, so
that a hostile nesting cannot exhaust the stack.

Collections are immutable and hashable. Members and keys of simple types (`ATOMS`) go straight into a dict or a
frozenset, where Python's equality is already strict; any other member goes by its `strict_key`.
Plain `tuple`/`list`, `dict` and `set`/`frozenset` count as vector, map and set wherever values are compared.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial, total_ordering
from itertools import chain
from typing import Any, ClassVar, NoReturn, Self, TypeVar, cast
from uuid import UUID
from weakref import WeakValueDictionary, ref

__all__ = [
    "ATOMS",
    "Char",
    "DuplicateError",
    "Keyword",
    "List",
    "Map",
    "Set",
    "Symbol",
    "Tagged",
    "Vector",
    "meta_of",
    "strict_equal",
    "strict_key",
    "with_meta",
]

_LOCK = threading.RLock()  # a keyword may die, and be forgotten, while its thread makes another


def _split(text: str) -> tuple[str | None, str]:
    """The namespace and the name of `ns/name`; `/` alone is a name, `a//` is the name `/` in `a`."""
    ns, slash, name = text.partition("/")
    return (ns, name) if slash and ns and name else (None, text)


class _Immutable:
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")


_put = object.__setattr__


@total_ordering
class Keyword(_Immutable):
    """A keyword: `Keyword("a/b")`, or with its colon `Keyword(":a/b")`.

    One object for one text, so `is`, `==` and hashing cost nothing; ordered by namespace (none first), then name.
    The text is not checked here: `write_edn` refuses what would not read back.

    >>> Keyword("a/b") is Keyword(":a/b"), Keyword("a/b").ns, Keyword("a/b").name, str(Keyword("a/b"))
    (True, 'a', 'b', ':a/b')
    """

    __slots__ = ("__weakref__", "_text", "name", "ns")
    ns: str | None
    name: str
    _text: str
    # By hand what a WeakValueDictionary does: a memory file brings a hundred thousand of them, in a third of the time.
    _known: ClassVar[dict[str, ref[Keyword]]] = {}

    def __new__(cls, text: str) -> Self:
        """Return the one keyword of this text."""
        if type(text) is not str:
            if isinstance(text, cls):
                return text
            raise TypeError(f"Keyword takes a str, not {type(text).__name__}")
        full = text if text[:1] == ":" else ":" + text
        found = cls._known.get(full)
        if found is not None:
            known = found()
            if known is not None:
                return cast("Self", known)
        with _LOCK:
            found = cls._known.get(full)
            known = None if found is None else found()
            if known is None:
                known = object.__new__(cls)
                ns, name = _split(full[1:])
                _put_ns(known, ns)
                _put_name(known, name)
                _put_text(known, full)
                cls._known[full] = ref(known, partial(cls._forget, full))
            return cast("Self", known)

    @staticmethod
    def _forget(full: str, dead: ref[Keyword], lock: Any = _LOCK) -> None:
        """Takes out the entry of a keyword that is gone, unless another of its text has come since."""
        with lock:
            if Keyword._known.get(full) is dead:
                del Keyword._known[full]

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f'Keyword("{self._text}")'

    def __lt__(self, other: object) -> bool:
        if type(other) is not Keyword:
            return NotImplemented
        return (self.ns or "", self.name) < (other.ns or "", other.name)

    def __reduce__(self) -> tuple[type[Keyword], tuple[str]]:
        return Keyword, (self._text,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


_put_ns, _put_name, _put_text = (
    getattr(Keyword, slot).__set__ for slot in ("ns", "name", "_text")
)  # a third of the time of object.__setattr__


@total_ordering
class Symbol(_Immutable):
    """A symbol: `Symbol("a/b")`, `Symbol("?x")`, `Symbol("/")`.

    One object for one text, save for a symbol that carries metadata, which equals the one that does not:
    compare by `==`. Ordered like keywords.
    """

    __slots__ = ("__weakref__", "_kept_hash", "_text", "meta", "name", "ns")
    ns: str | None
    name: str
    meta: Map | None
    _kept_hash: int
    _text: str
    _known: ClassVar[WeakValueDictionary[str, Symbol]] = WeakValueDictionary()

    def __new__(cls, text: str) -> Self:
        """Return the one symbol of this text."""
        if type(text) is not str:
            if isinstance(text, cls):
                return text
            raise TypeError(f"Symbol takes a str, not {type(text).__name__}")
        known = cls._known.get(text)
        if known is not None:
            return cast("Self", known)
        with _LOCK:
            known = cls._known.get(text)
            if known is None:
                known = cls._fresh(text, None)
                cls._known[text] = known
            return cast("Self", known)

    @classmethod
    def _fresh(cls, text: str, meta: Map | None) -> Symbol:
        made = object.__new__(cls)
        ns, name = _split(text)
        _put(made, "ns", ns)
        _put(made, "name", name)
        _put(made, "meta", meta)
        _put(made, "_kept_hash", hash(("symbol", text)))
        _put(made, "_text", text)
        return made

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f'Symbol("{self._text}")'

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not Symbol:
            return NotImplemented
        return self._text == other._text

    def __hash__(self) -> int:
        return self._kept_hash

    def __lt__(self, other: object) -> bool:
        if type(other) is not Symbol:
            return NotImplemented
        return (self.ns or "", self.name) < (other.ns or "", other.name)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.meta is None:
            return Symbol, (self._text,)
        return with_meta, (Symbol(self._text), self.meta)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


@total_ordering
class Char(_Immutable):
    r"""One character, written `\a` or `\newline`; never equal to the string of one character."""

    __slots__ = ("text",)
    text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or len(text) != 1:
            raise ValueError(f"Char takes a str of one character, not {text!r}")
        _put(self, "text", str(text))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Char({self.text!r})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not Char:
            return NotImplemented
        return self.text == other.text

    def __hash__(self) -> int:
        return hash(("char", self.text))

    def __lt__(self, other: object) -> bool:
        if type(other) is not Char:
            return NotImplemented
        return self.text < other.text

    def __reduce__(self) -> tuple[type[Char], tuple[str]]:
        return Char, (self.text,)


class _Sequence(tuple[Any, ...]):  # noqa: SLOT001  see below
    """What vectors and lists share: strict equality and hashing, and metadata."""

    # No __slots__: those of a tuple's subclass must be empty, and metadata needs a place that is free when unused.
    meta: Map | None = None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return self is other or strict_equal(self, other)

    def __ne__(self, other: object) -> bool:
        return not (self is other or strict_equal(self, other))

    def __hash__(self) -> int:
        if _UNTROUBLED.issuperset(map(type, self)):
            return tuple.__hash__(self)
        return _deep_hash(self)

    def __repr__(self) -> str:
        return _repr_of(self, list(self))


class Vector(_Sequence):
    """A vector, `[1 2]`: a tuple that equals another vector or plain tuple member by member, type-strictly."""


class List(_Sequence):
    """A list, `(1 2)`: a tuple that equals only another `List`."""


class Tagged(_Immutable):
    """A value under a tag that the reader does not know, `#my/tag {:x 1}`, kept and written back as it is."""

    __slots__ = ("_kept_hash", "meta", "tag", "value")
    tag: Symbol
    value: Any
    meta: Map | None
    _kept_hash: int | None

    def __init__(self, tag: Symbol | str, value: Any) -> None:
        _put(self, "tag", Symbol(cast("str", tag)))
        _put(self, "value", value)
        _put(self, "meta", None)
        _put(self, "_kept_hash", None)

    def __eq__(self, other: object) -> bool:
        return self is other or strict_equal(self, other)

    def __hash__(self) -> int:
        return _deep_hash(self) if self._kept_hash is None else self._kept_hash

    def __repr__(self) -> str:
        return _repr_of(self, self.tag, self.value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (Tagged, (self.tag, self.value), self.meta)


class DuplicateError(ValueError):
    """A key or a member was given twice; `index` is the place of the second among the keys or members given."""

    def __init__(self, value: Any, index: int) -> None:
        super().__init__(value, index)
        self.value = value
        self.index = index


_Value = TypeVar("_Value")


class Map(Mapping[Any, Any]):
    """A map, `{:a 1}`: immutable, hashable, in insertion order, type-strict in lookup and equality.

    Made from a mapping or from pairs; a later pair replaces an equal key's value, like `dict`.

    >>> Map([(1, "long"), (1.0, "double"), (True, "boolean")])[1.0]
    'double'
    """

    # _plain: all keys are ATOMS, and _data is key -> value; else _data is strict key -> (key, value).
    __slots__ = ("_data", "_kept_hash", "_meta", "_plain")
    _data: dict[Any, Any]
    _plain: bool
    _kept_hash: int | None
    _meta: Map | None

    def __init__(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        plain = ATOMS.issuperset([type(key) for key, _ in pairs])
        self._data = dict(pairs) if plain else {strict_key(k): (_frozen_key(k), v) for k, v in pairs}
        self._plain = plain
        self._kept_hash = None
        self._meta = None

    @classmethod
    def of_flat(cls, flat: list[Any]) -> Self:
        """Return the map of `[key, value, key, value, ...]`; a key given twice: DuplicateError. The reader's door."""
        entries = iter(flat)
        data = dict(zip(entries, entries, strict=False))
        plain = _ALL_ATOMS(map(type, data))
        if not plain:
            entries = iter(flat)
            data = {strict_key(key): (key, value) for key, value in zip(entries, entries, strict=False)}
        if 2 * len(data) != len(flat):
            raise ValueError("a key has no value") if len(flat) % 2 else _duplicate_among(flat[::2])
        made = object.__new__(cls)
        made._data = data
        made._plain = plain
        made._kept_hash = None
        made._meta = None
        return made

    @property
    def meta(self) -> Map | None:
        """The metadata it was read with, or None."""
        return self._meta

    def __getitem__(self, key: Any) -> Any:
        try:
            if self._plain:
                return self._data[key]
            return self._data[strict_key(key)][1]
        except TypeError:  # an unhashable key, such as a plain list
            if not self._plain:
                raise
            raise KeyError(key) from None  # a collection is no key of a plain map

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of the key, or `default`."""
        if self._plain and type(key) in ATOMS:
            return self._data.get(key, default)
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        if self._plain and type(key) in ATOMS:
            return key in self._data
        try:
            self[key]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._plain:
            return iter(self._data)
        return iter([key for key, _ in self._data.values()])

    def __len__(self) -> int:
        return len(self._data)

    def pairs(self) -> Iterable[tuple[Any, Any]]:
        """Return the entries in order, as pairs; faster than `items()`."""
        return self._data.items() if self._plain else self._data.values()

    def __eq__(self, other: object) -> bool:
        return self is other or strict_equal(self, other)

    def __hash__(self) -> int:
        return _deep_hash(self) if self._kept_hash is None else self._kept_hash

    def __or__(self, other: Mapping[Any, Any]) -> Map:
        return Map(chain(self.pairs(), other.items())) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        if self._plain:
            return _repr_of(self, self._data)
        return _repr_of(self, list(self._data.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (Map, (list(self.pairs()),), self._meta)


class Set(frozenset[Any]):
    """A set, `#{:a 1 1.0}`: a frozenset in which 1, 1.0 and True are three members.

    As a plain frozenset (`set(s)`, C code) it holds what Python's equality leaves of the members.

    >>> 1.0 in Set([1]), len(Set([1, 1.0, True]))
    (False, 3)
    """

    # _strict: strict key -> member when some member is not of ATOMS; else None and the frozenset itself is strict.
    __slots__ = ("_kept_hash", "_meta", "_strict")
    _strict: dict[Any, Any] | None
    _kept_hash: int | None
    _meta: Map | None

    def __new__(cls, members: Iterable[Any] = ()) -> Self:
        """Return the set of the members."""
        given = list(members)
        if ATOMS.issuperset(map(type, given)):
            return cls._made(given, None)
        strict = {strict_key(m): _frozen_key(m) for m in given}
        return cls._made(strict.values(), strict)

    @classmethod
    def _made(cls, members: Iterable[Any], strict: dict[Any, Any] | None) -> Self:
        made = frozenset.__new__(cls, members)
        made._strict = strict  # noqa: SLF001  made here
        made._kept_hash = None  # noqa: SLF001
        made._meta = None  # noqa: SLF001
        return made

    @classmethod
    def of_distinct(cls, members: list[Any]) -> Self:
        """Return the set of the members; one given twice raises DuplicateError. The reader's door."""
        made = cls(members)
        if len(made) != len(members):
            raise _duplicate_among(members)
        return made

    @property
    def meta(self) -> Map | None:
        """The metadata it was read with, or None."""
        return self._meta

    def __contains__(self, member: object) -> bool:
        if self._strict is not None:
            return strict_key(member) in self._strict
        return frozenset.__contains__(self, member) if type(member) in ATOMS else False

    def __len__(self) -> int:
        return frozenset.__len__(self) if self._strict is None else len(self._strict)

    def __iter__(self) -> Iterator[Any]:
        return frozenset.__iter__(self) if self._strict is None else iter(self._strict.values())

    def __bool__(self) -> bool:
        return len(self) > 0

    def __eq__(self, other: object) -> bool:
        return self is other or strict_equal(self, other)

    def __ne__(self, other: object) -> bool:
        return not (self is other or strict_equal(self, other))

    def __hash__(self) -> int:
        return _deep_hash(self) if self._kept_hash is None else self._kept_hash

    def __le__(self, other: object) -> bool:
        if not isinstance(other, (set, frozenset)):
            return NotImplemented
        return all(map(_as_set(other).__contains__, self))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, (set, frozenset)):
            return NotImplemented
        return len(self) < len(other) and self <= other

    def __ge__(self, other: object) -> bool:
        if not isinstance(other, (set, frozenset)):
            return NotImplemented
        return _as_set(other) <= self

    def __gt__(self, other: object) -> bool:
        if not isinstance(other, (set, frozenset)):
            return NotImplemented
        return _as_set(other) < self

    def issubset(self, other: Iterable[Any]) -> bool:
        """Return whether every member is in `other`."""
        return self <= _as_set(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Return whether every member of `other` is here."""
        return _as_set(other) <= self

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Return whether no member is in `other`."""
        return not any(map(self.__contains__, other))

    def union(self, *others: Iterable[Any]) -> Set:
        """Return the members of this set and of the others."""
        return Set(chain(self, *others))

    def intersection(self, *others: Iterable[Any]) -> Set:
        """Return the members that all the others have, too."""
        sets = [_as_set(other) for other in others]
        return Set(m for m in self if all(m in other for other in sets))

    def difference(self, *others: Iterable[Any]) -> Set:
        """Return the members that none of the others has."""
        sets = [_as_set(other) for other in others]
        return Set(m for m in self if not any(m in other for other in sets))

    def symmetric_difference(self, other: Iterable[Any]) -> Set:
        """Return the members that are in one of the two sets only."""
        return (self - _as_set(other)) | (_as_set(other) - self)

    def __or__(self, other: Iterable[Any]) -> Set:
        return self.union(other) if isinstance(other, (set, frozenset)) else NotImplemented

    def __and__(self, other: Iterable[Any]) -> Set:
        return self.intersection(other) if isinstance(other, (set, frozenset)) else NotImplemented

    def __sub__(self, other: Iterable[Any]) -> Set:
        return self.difference(other) if isinstance(other, (set, frozenset)) else NotImplemented

    def __xor__(self, other: Iterable[Any]) -> Set:
        return self.symmetric_difference(other) if isinstance(other, (set, frozenset)) else NotImplemented

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def __rsub__(self, other: Iterable[Any]) -> Set:
        return _as_set(other).difference(self) if isinstance(other, (set, frozenset)) else NotImplemented

    def copy(self) -> Self:
        """Return the set itself: it cannot change."""
        return self

    def __repr__(self) -> str:
        return _repr_of(self, list(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (Set, (list(self),), self._meta)


def _as_set(other: Iterable[Any]) -> Set:
    return other if type(other) is Set else Set(other)


def _remade(cls: Any, args: tuple[Any, ...], meta: Map | None) -> Any:
    made = cls(*args)
    return made if meta is None else with_meta(made, meta)


def _repr_of(value: object, *parts: Any) -> str:
    try:
        return f"{type(value).__name__}({', '.join(map(repr, parts))})"
    except RecursionError:
        return f"{type(value).__name__}(...)"


def meta_of(value: Any) -> Map | None:
    """Return the metadata that was read with the value (`^{:a 1} [2]`), or None."""
    return getattr(value, "meta", None) if type(value) in _CARRY_META else None


def with_meta(value: _Value, meta: Map | None) -> _Value:
    """Return a copy of a collection, symbol or tagged value that carries the metadata; equality does not change."""
    made: Any
    kind = type(value)
    if kind is Symbol:
        symbol = cast("Symbol", value)
        return cast("_Value", Symbol(str(symbol)) if meta is None else Symbol._fresh(str(symbol), meta))  # noqa: SLF001
    if kind in (Vector, List):
        made = kind(value)  # type: ignore[call-arg]
    elif kind is Set:
        given = cast("Set", value)
        made = Set._made(frozenset.__iter__(given), given._strict)  # noqa: SLF001
    elif kind is Map:
        made = object.__new__(Map)
        for slot in ("_data", "_plain", "_kept_hash"):
            setattr(made, slot, getattr(value, slot))
    elif kind is Tagged:
        tagged = cast("Tagged", value)
        made = Tagged(tagged.tag, tagged.value)
    else:
        raise TypeError(f"a {kind.__name__} cannot carry metadata")
    _put(made, "_meta" if kind is Map or kind is Set else "meta", meta)
    return cast("_Value", made)


# Types whose own equality is strict: none of their values equals a value of another type.
ATOMS = frozenset({Keyword, Symbol, str, type(None), UUID, Char, datetime, bytes})
_ALL_ATOMS = ATOMS.issuperset
_CARRY_META = frozenset({Symbol, Vector, List, Map, Set, Tagged})
_NUMBERS = frozenset({int, bool, float, Decimal, Fraction})
# Members of these types hash by tuple.__hash__ as they are: bool equals int, but unequal values may share a hash.
_UNTROUBLED = ATOMS | {bool, Fraction}
_EXACT = ATOMS | {int, bool}  # between two values of one of these types, Python's == is strict
_LONG_LIMIT = 1 << 63


def strict_key(value: Any) -> Any:
    """Return a hashable that equals another value's exactly when the two values are type-strictly equal.

    Simple values, integers and the model's collections are their own keys; other numbers are wrapped, and plain
    collections stand for vector, map and set.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is int:
        # Python hashes integers modulo 2^61-1, unseeded: big ones go by text, or a file could flood a set.
        return value if -_LONG_LIMIT <= value < _LONG_LIMIT else (int, hex(value))
    if kind is float:
        return (float, repr(value))
    if kind is bool:
        return (bool, value)
    if kind is Decimal:
        return (Decimal, str(value))
    if kind is Fraction:
        return (Fraction, value.numerator, value.denominator)
    if kind in _CARRY_META:
        return value
    model = _as_model(value)
    return (kind, value) if model is value else model


def _as_model(value: Any) -> Any:
    """A plain collection as the model's; any other value as it is."""
    if isinstance(value, (list, tuple)) and not isinstance(value, _Sequence):
        return Vector(value)
    if isinstance(value, dict):
        return Map(value)
    if isinstance(value, (set, frozenset)) and not isinstance(value, Set):
        return Set(value)
    return value


def _frozen_key(value: Any) -> Any:
    """A key or member as it is kept: plain collections become the model's, or they could change underneath."""
    return value if type(value) in ATOMS or type(value) in _NUMBERS else _as_model(value)


def _duplicate_among(values: Sequence[Any]) -> DuplicateError:
    seen = set()
    for index, value in enumerate(values):
        key = strict_key(value)
        if key in seen:
            return DuplicateError(value, index)
        seen.add(key)
    raise AssertionError("no duplicate")


class _Hashed:
    """Stands in a tuple or frozenset for a member whose hash is known: Python's own mixing without its recursion."""

    __slots__ = ("_known",)

    def __init__(self, known: int) -> None:
        self._known = known

    def __hash__(self) -> int:
        return self._known


_NAN_HASH = hash("##NaN")


def _deep_hash(root: Any) -> int:
    """The hash of a collection, each level after those below it; maps, sets and tagged values remember theirs."""
    order: list[Any] = []
    open_: list[Any] = [root]
    while open_:
        node = _as_model(open_.pop())
        order.append(node)
        open_ += [m for m in _members(node) if type(m) not in _UNTROUBLED and _needs_hash(m)]
    known: dict[int, int] = {}
    models: dict[int, Any] = {}  # keeps stand-ins of plain collections alive, so that no id is used twice
    for node in reversed(order):
        known[id(node)] = _mixed(node, known)
        models[id(node)] = node
    return known[id(root)]


def _needs_hash(value: Any) -> bool:
    kind = type(value)
    if kind in _NUMBERS:
        return False
    return kind in (Vector, List) or getattr(value, "_kept_hash", None) is None


def _members(node: Any) -> Iterable[Any]:
    kind = type(node)
    if kind is Map:
        return chain.from_iterable(node.pairs())
    return (node.value,) if kind is Tagged else node if isinstance(node, (_Sequence, Set)) else ()


def _mixed(node: Any, known: dict[int, int]) -> int:
    def hashed(member: Any) -> Any:
        kind = type(member)
        if kind in ATOMS or kind is bool or kind is Fraction:
            return member
        if kind is int:
            return member if -_LONG_LIMIT <= member < _LONG_LIMIT else _Hashed(hash(hex(member)))
        if kind is float:
            return _Hashed(_NAN_HASH) if member != member else member  # noqa: PLR0124
        if kind is Decimal:
            return _Hashed(hash(str(member)))
        found = known.get(id(member))
        return _Hashed(hash(member) if found is None else found)

    kind = type(node)
    if isinstance(node, _Sequence):
        return hash(tuple(map(hashed, node)))
    if kind is Map:
        mixed = hash(frozenset((hashed(k), hashed(v)) for k, v in node.pairs()))
    elif kind is Set:
        mixed = hash(frozenset(map(hashed, node)))
    elif kind is Tagged:
        mixed = hash(("tagged", node.tag, hashed(node.value)))
    else:
        return hash(node)
    _put(node, "_kept_hash", mixed)
    return mixed


def strict_equal(a: Any, b: Any) -> bool:
    """Return whether two values are equal, type-strictly, at every depth; runs without recursion."""
    pairs = [(a, b)]
    while pairs:
        a, b = pairs.pop()
        if a is b:
            continue
        kind = a.__class__
        if kind is b.__class__ and kind in _EXACT:
            if a != b:
                return False
        elif kind in _NUMBERS:
            if kind is not b.__class__ or strict_key(a) != strict_key(b):
                return False
        elif not _open_pair(a, b, pairs):
            return False
    return True


def _open_pair(a: Any, b: Any, pairs: list[tuple[Any, Any]]) -> bool:
    """Compare two collections by shape and leave their members to be compared; False when they differ already."""
    kind = type(a)
    if kind is not type(b) or kind not in _CARRY_META:
        a, b = _as_model(a), _as_model(b)
        kind = type(a)
    if kind is not type(b):
        return False
    if kind is Vector or kind is List:
        if len(a) != len(b):
            return False
        pairs += [
            (x, y)
            for x, y in zip(a, b, strict=True)
            if x is not y and not (x.__class__ is y.__class__ and x.__class__ in _EXACT and x == y)
        ]
        return True
    if kind is Tagged:
        pairs.append((a.value, b.value))
        return bool(a.tag == b.tag)
    if kind is Map:
        return len(a) == len(b) and _open_maps(a, b, pairs)
    if kind is Set:
        return len(a) == len(b) and _open_sets(a, b, pairs)
    return bool(a == b)


def _open_maps(a: Map, b: Map, pairs: list[tuple[Any, Any]]) -> bool:
    if a._plain != b._plain:  # noqa: SLF001
        return False
    mine, theirs = a._data, b._data  # noqa: SLF001
    if a._plain:  # noqa: SLF001
        try:
            pairs += [
                (x, y)
                for key, x in mine.items()
                if (y := theirs[key]) is not x and not (x.__class__ is y.__class__ and x.__class__ in _EXACT and x == y)
            ]
        except KeyError:
            return False
        return True
    return _pair_up(
        {key: entry[1] for key, entry in mine.items()}, {key: entry[1] for key, entry in theirs.items()}, pairs
    )


def _open_sets(a: Set, b: Set, pairs: list[tuple[Any, Any]]) -> bool:
    if a._strict is None or b._strict is None:  # noqa: SLF001
        return a._strict is b._strict and bool(frozenset.__eq__(a, b))  # noqa: SLF001
    return _pair_up(dict.fromkeys(a._strict), dict.fromkeys(b._strict), pairs)  # noqa: SLF001


def _pair_up(mine: dict[Any, Any], theirs: dict[Any, Any], pairs: list[tuple[Any, Any]]) -> bool:
    """Pair keys by their hashes and leave keys and values to be compared.

    A lookup would compare keys inside the lookup, one Python frame for each level of keys within keys. Where several
    keys share a hash, the lookup is used: that needs colliding hashes at each level to go deep.
    """
    by_hash: dict[int, Any] = {}
    for key in theirs:
        by_hash[hash(key)] = key
    if len(by_hash) != len(theirs):
        if mine.keys() != theirs.keys():
            return False
        pairs.extend((value, theirs[key]) for key, value in mine.items())
        return True
    for key, value in mine.items():
        other = by_hash.pop(hash(key), _MISSING)
        if other is _MISSING:
            return False
        if type(key) is tuple or type(other) is tuple:  # the wrapped numbers of strict_key: flat
            if type(key) is not type(other) or key != other:
                return False
        else:
            pairs.append((key, other))
        pairs.append((value, theirs[other]))
    return True


_MISSING = object()
