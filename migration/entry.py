"""A key and a value in the form in which both stores keep them: checked once, when it is saved.

Takes what an application gives, plain Python or values of the EDN model; gives an `Entry`. What cannot be kept is refused
here, before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from migration.jsonvalue import decode, encode, to_text
from migration.rules import digest_of
from store.edn import Keyword, show_form
from store.errors import KeyMapError

__all__ = ["Entry", "entry_of"]

_SCALARS: Final = frozenset({str, int, float, bool, type(None), Keyword})


@dataclass(slots=True)
class Entry:
    """A key and a value in the form in which both stores keep them.

    Attributes:
        key: the key.
        value: the value as reading it back from either store would give it.
        text: its canonical JSON.
        digest: 64 bits of key and text.
    """

    key: Keyword
    value: Any
    text: bytes
    digest: int


def entry_of(key: Any, value: Any) -> Entry:
    """The entry of a key and a value of plain Python or of the EDN model.

    Raises:
        KeyMapError: `memory/key` when the key is no keyword; `json/unsupported` for a value that EDN has not.
    """
    if key.__class__ is not Keyword:
        raise KeyMapError(
            "memory/key",
            f"The key {show_form(key) if key.__class__ is not str else repr(key)} is no keyword.",
            expected='a Keyword, such as datalog.kw("presence/s1")',
        )
    text = to_text(encode(value, canonical=True), canonical=True)
    if value.__class__ not in _SCALARS:
        value = decode(orjson.loads(text))  # plain collections become the model's, and nobody else holds on to them
    return Entry(key, value, text, digest_of(key, text))
