"""Record: the base of the many small classes of ast.py and plan.py.

They are frozen dataclasses in all but the making: `dataclasses` writes and compiles code for each class, which for these two
modules took 40 of the 130 ms of `import datalog`; a Record shares one `__init__`. Type checkers see dataclasses.

Fields are the annotations of the class; those with a value have it as their default. Records compare by identity unless they
say otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar, dataclass_transform

Value = TypeVar("Value")


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations of a class itself, by whatever way this Python keeps them; `inspect` would take 10 ms to import."""
    found: dict[str, Any] | None = cls.__dict__.get("__annotations__")  # noqa: RUF063 - as said
    if found is None:  # from 3.14 on they are made when asked for
        found = getattr(cls, "__annotations__", {})
    return found


@dataclass_transform(frozen_default=True, eq_default=False)
class Record:
    """An immutable object with named fields."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(own_annotations(cls))

    def __init__(self, *values: Any, **named: Any) -> None:
        held = self.__dict__
        held.update(zip(self._fields, values, strict=False))
        held.update(named)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")

    def __repr__(self) -> str:
        shown = ", ".join(f"{n}={getattr(self, n)!r}" for n in self._fields if n not in ("at", "text"))
        return f"{type(self).__name__}({shown})"


def replace(value: Value, /, **changes: Any) -> Value:
    """The record (or dataclass) with some of its fields changed."""
    if not isinstance(value, Record):
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    made = object.__new__(type(value))
    made.__dict__.update(value.__dict__)
    made.__dict__.update(changes)
    return made
