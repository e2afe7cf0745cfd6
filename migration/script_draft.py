"""New scripts: an empty one, and one written from the differences between a database and a declared schema.

What cannot be known is not guessed: an attribute that went and one that came is a rename only when a hint says so
(`:migration/was :old/name` in the declared schema, or `renames`); likely pairs are named in a comment. Steps that retract
data are marked `; destructive:` with the number of datoms, and nothing is applied: a drafted script is to be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from migration.script_folder import file_name
from migration.script_schema import plain_schema
from store.edn import Keyword, Map, Vector, write_edn
from store.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import datalog as d
    from migration.script_folder import Script
    from migration.script_schema import Plain

__all__ = ["draft", "new_script", "write_script"]

_MADE_OF: Final = ":db/tupleAttrs"
_EDN: Final = """{{:doc "{doc}"
 :up [; each step is a map of one key: :schema :rename :retype :make-one :delete :drop :transact :add :retract :require
      ]}}
"""
_PYTHON: Final = '''"""{doc}"""


def up(conn):
    """`conn` reads and writes as a connection does; all that it writes is one transaction. May be run more than once."""
'''


def new_script(folder: Path, scripts: Sequence[Script], name: str, *, python: bool = False) -> Path:
    """The path of a new script with the next number, written without steps; makes the folder if need be."""
    kind = "py" if python else "edn"
    doc = name.replace("\\", "").replace('"', "'")
    return write_script(folder, scripts, name, (_PYTHON if python else _EDN).format(doc=doc), kind)


def write_script(folder: Path, scripts: Sequence[Script], name: str, text: str, kind: str = "edn") -> Path:
    """Writes a script with the next number; never over a file.

    Raises:
        UserError: `script/folder` when it cannot be written.
    """
    path = folder / file_name(len(scripts) + 1, name, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        raise UserError(
            "script/folder", f"{path} cannot be written: {e}.", hint="check the folder's permissions"
        ) from e
    return path


def draft(db: d.Db, declared: Plain, renames: Mapping[str, str], doc: str) -> str | None:
    """The text of the EDN script that brings a database to a declared schema; None when it is there.

    Args:
        db: the database, for its schema and for how many datoms a step concerns.
        declared: the schema to reach.
        renames: {new name: old name}; pairs whose new name is there already, or whose old one is not, say nothing.
        doc: the script's :doc.

    Raises:
        UserError: `script/rename` when two hints contradict each other.
    """
    have = plain_schema(db.schema)
    _check_renames(renames)
    real = {old: new for new, old in renames.items() if old in have and new in declared and new not in have}
    steps: list[tuple[str, str]] = []  # EDN of a step, its comment
    if real:
        steps.append((_step("rename", Map([(Keyword(o), Keyword(n)) for o, n in real.items()])), ""))
        have = {real.get(ident, ident): _renamed(props, real) for ident, props in have.items()}
    # a composite of other members is made again: dropped before its members change, declared when they have
    remade = {i for i in have.keys() & declared.keys() if have[i].get(_MADE_OF) != declared[i].get(_MADE_OF)}
    gone = sorted(have.keys() - declared.keys() | remade)
    come = sorted(declared.keys() - have.keys() | remade)
    old_name = {new: old for old, new in real.items()}
    # a composite goes before what it is made of, and comes after it
    for ident in sorted(gone, key=lambda i: _MADE_OF not in have[i]):
        composite = _MADE_OF in have[ident]
        n = _count(db, old_name.get(ident, ident))
        note = f"; {ident} is made again of other members" if ident in remade else ""
        note = f"; destructive: {n:,} datoms of {ident}" if n and not composite else note
        likely = nearest(ident, [c for c in come if declared[c] == have[ident]])
        if likely:
            note += f"\n      ; or was it renamed? then instead: {{:rename {{{ident} {likely}}}}}"
        steps.append((_step("drop", Vector([Keyword(ident)])), note.removeprefix("\n      ")))
    plain = [i for i in come if _MADE_OF not in declared[i]]
    composites = [i for i in come if _MADE_OF in declared[i]]
    steps += _schema_step({i: declared[i] for i in plain})
    for ident in sorted((have.keys() & declared.keys()) - remade):
        steps += _changes(ident, have[ident], declared[ident], _count(db, old_name.get(ident, ident)))
    steps += _schema_step({i: declared[i] for i in composites})
    if not steps:
        return None
    lines = [f"{note}\n      {text}" if note else text for text, note in steps]
    return f"{{:doc {write_edn(doc)}\n :up [" + "\n      ".join(lines) + "]}\n"


def _check_renames(renames: Mapping[str, str]) -> None:
    olds = list(renames.values())
    twice = next((old for old in olds if olds.count(old) > 1), None)
    if twice is not None:
        names = " and ".join(new for new, old in renames.items() if old == twice)
        raise UserError("script/rename", f"{twice} cannot become {names}.", hint="give each old name one new name")


def _renamed(props: dict[str, Any], real: Mapping[str, str]) -> dict[str, Any]:
    members = props.get(":db/tupleAttrs")
    if members is None:
        return props
    return {**props, ":db/tupleAttrs": Vector([Keyword(real.get(str(m), str(m))) for m in members])}


def _count(db: d.Db, ident: str) -> int:
    return len(db.datoms("aevt", ident)) if ident in db.schema else 0


def _schema_step(attributes: Plain) -> list[tuple[str, str]]:
    if not attributes:
        return []
    pairs = [
        f"{ident} {write_edn(Map([(Keyword(k), v) for k, v in props.items()]))}" for ident, props in attributes.items()
    ]
    return [("{:schema {" + "\n                ".join(pairs) + "}}", "")]


def _changes(ident: str, have: dict[str, Any], want: dict[str, Any], n: int) -> list[tuple[str, str]]:
    """The steps for one attribute that is there and is to be another."""
    changed = {k: want.get(k) for k in sorted(have.keys() | want.keys()) if have.get(k) != want.get(k)}
    steps: list[tuple[str, str]] = []
    first = {k: v for k, v in changed.items() if v is None and k != ":db/valueType"}
    if first:  # what is taken away goes first: a unique or a component attribute may not allow the rest
        steps.append(_property_step(ident, first))
        changed = {k: v for k, v in changed.items() if k not in first}
    # by steps that convert data also where there is none: the script will meet databases that have some
    if changed.get(":db/valueType") is not None and ":db/tupleType" not in changed and ":db/tupleTypes" not in changed:
        to = changed.pop(":db/valueType")
        note = f"; converts {n:,} values of {ident}; `plan` reports each that does not fit"
        steps.append((_step("retype", Map([(Keyword(ident), Map([(Keyword("to"), to)]))])), note))
    if changed.get(":db/cardinality") == Keyword("db.cardinality/one"):
        changed.pop(":db/cardinality")
        note = f"; {ident} becomes one for each entity: say which value stays instead of nil: :latest, :min or :max"
        steps.append((_step("make-one", Map([(Keyword(ident), None)])), note))
    if changed:
        steps.append(_property_step(ident, changed))
    return steps


def _property_step(ident: str, props: dict[str, Any]) -> tuple[str, str]:
    return _step("schema", Map([(Keyword(ident), Map([(Keyword(k), v) for k, v in props.items()]))])), ""


def _step(name: str, argument: Any) -> str:
    return write_edn(Map([(Keyword(name), argument)]))
