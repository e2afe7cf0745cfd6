"""Search for keys: by a part of their name, by kind, and by attributes of the mapping, the same on both sides.

Takes a `Search`, checked against the mapping. On the EDN side every value is looked at the way the mapping would; in the
database it is a query. An attribute that is written once (a creation time) cannot be searched for: the database keeps its first
value, the memory the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from store.edn import Keyword, strict_equal
from store.errors import KeyMapError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from migration.database_side import DatabaseSide
    from migration.keymap import KeyMap

__all__ = ["Search", "search_edn"]


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; make one with `checked`."""

    text: str | None
    where: tuple[tuple[str, Any], ...]
    kind: Keyword | None
    keymap: KeyMap

    @classmethod
    def checked(cls, keymap: KeyMap, text: str | None, where: Any, kind: Any) -> Search:
        """The search, or an error that says what cannot be searched for.

        Raises:
            KeyMapError: `memory/search`.
        """
        if kind is not None and Keyword(str(kind)) not in keymap.data_kinds:
            raise _wrong(f"There is no kind of data {kind}.", ", ".join(map(str, keymap.data_kinds)))
        if text is not None and not isinstance(text, str):
            raise _wrong(f"{text!r} is no text.", "a string")
        if where is not None and not isinstance(where, Mapping):
            raise _wrong(f"{where!r} is no map of attributes.", '{":session/owner": kw("ada")}')
        found = []
        for attr, value in (where or {}).items():
            name = str(attr)
            if name not in keymap.searchable:
                close = nearest(name, sorted(keymap.searchable))
                raise _wrong(
                    f"{name} is no attribute that can be searched for." + (f" Did you mean {close}?" if close else ""),
                    "an attribute of the mapping that is neither written once nor text of JSON",
                )
            found.append((name, value))
        return cls(text, tuple(found), None if kind is None else Keyword(str(kind)), keymap)

    def ask(self, side: DatabaseSide) -> Iterable[Keyword]:
        """The keys that the database finds."""
        if not self.where and self.text is not None:
            text, kind = self.text, self.kind
            found = [key for name, key in side.texts() if text in name]
            return found if kind is None else [k for k in found if self.keymap.data_of(k) is kind]
        if not self.where:
            return [k for k, there in side.known().items() if there and self.takes(k)]
        db = side.conn.db()
        names = [f"?v{n}" for n in range(len(self.where))]
        clauses = []
        for n, (attr, _) in enumerate(self.where):
            clauses.append(f"[?e{n} {attr} ?v{n}] [?k :memory/entity ?e{n}]")
        kinds = _kinds_with(self.keymap, [attr for attr, _ in self.where])
        query = (
            f"[:find [?key ...] :in $ {' '.join(names)} [?kind ...] :where {' '.join(clauses)} "
            "[?k :memory/kind ?kind] [?k :memory/key ?key]]"
        )
        return [k for k in db.q(query, *(v for _, v in self.where), kinds) if self.takes(k)]

    def takes(self, key: Keyword) -> bool:
        """True when name and kind fit."""
        if self.text is not None and self.text not in str(key):
            return False
        return self.kind is None or self.keymap.data_of(key) is self.kind


def _wrong(message: str, expected: str) -> KeyMapError:
    return KeyMapError("memory/search", message, expected=expected)


def _kinds_with(keymap: KeyMap, attrs: list[str]) -> list[Keyword]:
    """The kinds whose own attributes these are: a session's attributes are not found through who is present in it."""
    return [rule.kind for rule in keymap.rules if all(rule.getter(a) is not None for a in attrs)]


def search_edn(keymap: KeyMap, wanted: Search, values: Mapping[Keyword, Any]) -> list[Keyword]:
    """The keys of a memory that a search finds."""
    if not wanted.where:
        return [k for k in values if wanted.takes(k)]
    of_rule: dict[Keyword, list[tuple[Callable[..., Any], Any]] | None] = {}
    for rule in keymap.rules:
        getters = [(rule.getter(attr), value) for attr, value in wanted.where]
        of_rule[rule.kind] = None if any(g is None for g, _ in getters) else [(g, v) for g, v in getters if g]
    out = []
    for key, value in values.items():
        if not wanted.takes(key):
            continue
        rule = keymap.rule_of(key, value)[0]
        getters_of = of_rule[rule.kind]
        if getters_of is not None and all(_has(getter(key, value), looked_for) for getter, looked_for in getters_of):
            out.append(key)
    return out


def _has(found: Iterable[Any], value: Any) -> bool:
    return any(strict_equal(f, value) for f in found)
