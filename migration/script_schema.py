"""Two schemas compared, and a declared schema read: plain data in, plain data out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from migration.script_history import is_record
from store.edn import Keyword, read_edn, show_form
from store.errors import DatalogError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Difference", "Plain", "differences", "plain_schema", "read_declared"]

Plain = dict[str, dict[str, Any]]  # attribute -> property -> value, as a database tells it

_DEFAULTS: Final[dict[str, Any]] = {":db/cardinality": Keyword("db.cardinality/one")}
_KEYWORDS: Final = (":db/valueType", ":db/cardinality", ":db/unique", ":db/tupleType")
_LISTS: Final = (":db/tupleTypes", ":db/tupleAttrs")
WAS: Final = ":migration/was"


@dataclass(frozen=True, slots=True)
class Difference:
    """One property of one attribute that two schemas differ in; None stands for one that is not there."""

    attribute: str
    prop: str
    left: Any
    right: Any

    def text(self, left: str, right: str) -> str:
        """The difference in words, with names for both sides."""
        if self.prop == ":db/ident":
            return f"{self.attribute} is {'in' if self.left else 'not in'} {left} and {'in' if self.right else 'not in'} {right}"
        return f"{self.attribute} {self.prop} is {_shown(self.left)} in {left} and {_shown(self.right)} in {right}"

    def as_dict(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {
            "attribute": self.attribute,
            "property": self.prop,
            "left": _shown(self.left),
            "right": _shown(self.right),
        }


def _shown(value: Any) -> str:
    return "nothing" if value is None else show_form(value)


def plain_schema(schema: Mapping[str, Mapping[str, Any]]) -> Plain:
    """A schema in one form: defaults filled in, what says nothing left out, without the records of scripts.

    Undeclared attributes (no property at all) are no part of a schema.
    """
    out: Plain = {}
    for ident, given in schema.items():
        if is_record(ident) or not given:
            continue
        props = {
            k: v for k, v in given.items() if v is not None and v is not False and not (k == ":db/index" and v is True)
        }
        if ":db/tupleAttrs" in props or ":db/tupleTypes" in props or ":db/tupleType" in props:
            props.setdefault(":db/valueType", Keyword("db.type/tuple"))
        if given.get(":db/index") is False:
            props[":db/index"] = False
        out[ident] = {**_DEFAULTS, **props}
    return out


def differences(left: Plain, right: Plain) -> list[Difference]:
    """What two schemas differ in, by attribute."""
    out: list[Difference] = []
    for ident in sorted(left.keys() | right.keys()):
        if ident not in left or ident not in right:
            out.append(Difference(ident, ":db/ident", ident in left or None, ident in right or None))
            continue
        a, b = left[ident], right[ident]
        out += [Difference(ident, k, a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
    return out


def read_declared(path: Path) -> tuple[Plain, dict[str, str]]:
    """The schema of an EDN file, and its hints {new name: old name} from `:migration/was`.

    Raises:
        UserError: `script/schema` when it cannot be read or is no schema.
    """
    import datalog as d  # noqa: PLC0415 - checked by declaring it, in an empty database

    try:
        form = read_edn(path.read_text(encoding="utf-8"))
        attributes = _by_ident(form)
        with d.connect(None, schema=[{":db/ident": k, **_without_hints(v)} for k, v in attributes.items()]) as conn:
            declared = conn.schema
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            "script/schema", f"The schema cannot be read: {e}.", file=str(path), hint="check the path"
        ) from e
    except DatalogError as e:
        raise UserError("script/schema", f"{path.name} is no schema: {e.message}", expected=e.expected, hint=e.hint,
                        span=e.span, source=e.source, file=str(path)) from e  # fmt: skip
    hints = {ident: str(props[WAS]) for ident, props in attributes.items() if WAS in props}
    return plain_schema(declared), hints


def _by_ident(form: Any) -> dict[str, dict[str, Any]]:
    if hasattr(form, "items"):
        return {str(k): _named(v) for k, v in form.items()}
    if isinstance(form, list | tuple) and all(hasattr(item, "items") for item in form):
        maps = [_named(item) for item in form]
        if all(":db/ident" in m for m in maps):
            return {str(m.pop(":db/ident")): m for m in maps}
    raise UserError("script/schema", "A schema is a map of attributes, or a vector of maps with :db/ident.",
                    expected="{:user/name {:db/valueType :db.type/string}}")  # fmt: skip


def _named(props: Any) -> dict[str, Any]:
    if props is not None and not hasattr(props, "items"):
        raise UserError("script/schema", f"{show_form(props)} is no map of properties.",
                        expected="{:db/valueType :db.type/string}")  # fmt: skip
    return {str(k): v for k, v in (props or {}).items()}


def _without_hints(props: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in props.items() if k != WAS}
