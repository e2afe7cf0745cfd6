"""Maps with the same keys, from columns of values: the rows of a pull or an answer as dicts.

A dict display with its keys in place (`{a: x, b: y}`) takes a third of the time of `dict(zip(...))`, and most rows have few
keys. So there is a maker for each small number of keys; more of them are zipped.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Maker = Callable[..., dict[Any, Any]]


def _of_1(a: Any) -> Maker:
    return lambda x: {a: x}


def _of_2(a: Any, b: Any) -> Maker:
    return lambda x, y: {a: x, b: y}


def _of_3(a: Any, b: Any, c: Any) -> Maker:
    return lambda x, y, z: {a: x, b: y, c: z}


def _of_4(a: Any, b: Any, c: Any, d: Any) -> Maker:
    return lambda x, y, z, u: {a: x, b: y, c: z, d: u}


def _of_5(a: Any, b: Any, c: Any, d: Any, e: Any) -> Maker:
    return lambda x, y, z, u, v: {a: x, b: y, c: z, d: u, e: v}


def _of_6(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Maker:
    return lambda x, y, z, u, v, w: {a: x, b: y, c: z, d: u, e: v, f: w}


_MAKERS: Final[tuple[Callable[..., Maker], ...]] = (_of_1, _of_2, _of_3, _of_4, _of_5, _of_6)


def maps_of(keys: Sequence[Any], columns: Sequence[Sequence[Any]]) -> list[dict[Any, Any]]:
    """A map for each row of the columns, which are of one length and as many as the keys."""
    if not keys:
        return []
    if len(keys) <= len(_MAKERS):
        return list(map(_MAKERS[len(keys) - 1](*keys), *columns))
    return list(map(dict, map(zip, repeat(keys), zip(*columns, strict=True))))
