"""The four checks that every folder of scripts should pass, as functions: for the pytest plugin, and for your own tests.

Each returns None, or raises: what the scripts raise, or AssertionError with what is not equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datalog as d
from migration.script_folder import Script, read_folder
from migration.script_history import is_record
from migration.script_schema import differences, plain_schema, read_declared
from migration.scripts import apply, empty_schema, revert
from store.edn import show_form
from store.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_declared_schema", "check_single_head", "check_up_from_empty", "check_up_revert_up", "same_data"]


def check_single_head(folder: Path) -> None:
    """The scripts are one line: numbers from 1 on, each once."""
    read_folder(folder)


def check_up_from_empty(folder: Path) -> None:
    """All scripts run on an empty database."""
    empty_schema(read_folder(folder))


def check_declared_schema(folder: Path, schema: Path) -> None:
    """The scripts on an empty database give the schema that the application declares."""
    found = differences(empty_schema(read_folder(folder)), read_declared(schema)[0])
    assert not found, "\n".join(x.text("the scripts", schema.name) for x in found)


def check_up_revert_up(folder: Path, data: Path | None = None) -> None:
    """Each script, taken back, leaves data and schema as they were; applied again, as it left them the first time.

    `data` is a folder of EDN files of tx data, named by numbers: `0003.edn` is transacted after script 3, so that the scripts
    after it have something to work on.
    """
    scripts = read_folder(folder)
    with d.connect(None) as conn:
        _add_data(conn, data, 0)
        for script in scripts:
            _one_script(conn, scripts, script)
            _add_data(conn, data, script.number)


def _one_script(conn: d.Connection, scripts: list[Script], script: Script) -> None:
    before, schema_before = _state(conn)
    apply(conn, scripts[: script.number])
    after, schema_after = _state(conn)
    revert(conn, to=script.number - 1)
    back, schema_back = _state(conn)
    assert schema_back == schema_before, f"{script.title}: the schema is another after up and revert"
    assert back == before, f"{script.title}: {_first_difference(before, back)} after up and revert"
    apply(conn, scripts[: script.number])
    again, schema_again = _state(conn)
    assert schema_again == schema_after, f"{script.title}: the schema is another the second time"
    assert same_data(after, again, new_from=_highest(before)), f"{script.title}: the data is other the second time"


def _add_data(conn: d.Connection, data: Path | None, number: int) -> None:
    for path in sorted(data.glob("*.edn")) if data is not None else ():
        if path.stem.isdecimal() and int(path.stem) == number:
            try:
                conn.transact(path.read_text(encoding="utf-8"))
            except UserError as e:
                e.file = e.file or str(path)
                raise


def _state(conn: d.Connection) -> tuple[set[tuple[Any, ...]], dict[str, Any]]:
    """Datoms (e, a, v with its type) of the application, and the schema."""
    db = conn.db()
    names = [name for name in conn.schema if not is_record(name)]
    datoms = {(x.e, x.a, type(x.v).__name__, _hashable(x.v)) for name in names for x in db.datoms("aevt", name)}
    return datoms, plain_schema(conn.schema)


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return show_form(value)
    return value


def _highest(datoms: set[tuple[Any, ...]]) -> int:
    return max((row[0] for row in datoms if row[0] < 1 << 40), default=0)


def _first_difference(before: set[tuple[Any, ...]], after: set[tuple[Any, ...]]) -> str:
    lost, new = before - after, after - before
    e, a, _, v = min(lost or new, key=str)
    return f"[{e} {a} {show_form(v)}] {'is gone' if lost else 'is new'}, one of {len(lost) + len(new)} differences,"


def same_data(left: set[tuple[Any, ...]], right: set[tuple[Any, ...]], *, new_from: int) -> bool:
    """Whether two sets of datoms (e, a, type, v) are equal but for the ids of entities above `new_from`.

    Entities that a script makes have new ids each time. They are told apart by what they hold and what refers to them,
    round by round, until a round tells no more of them apart.
    """
    return left == right or _canonical(left, new_from) == _canonical(right, new_from)


def _canonical(datoms: set[tuple[Any, ...]], new_from: int) -> list[tuple[Any, ...]]:
    fresh = {row[0] for row in datoms if new_from < row[0] < 1 << 40}
    label: dict[int, Any] = dict.fromkeys(fresh, 0)
    kinds = 1
    while True:
        signs: dict[int, list[str]] = {e: [] for e in fresh}
        for e, a, kind, v in datoms:
            target = label.get(v) if kind == "int" and v in fresh else None
            if e in fresh:
                signs[e].append(f"{a} {kind} {show_form(v) if target is None else f'new {target}'}")
            if target is not None:
                signs[v].append(f"{a} of {label.get(e, e)}")
        texts = {e: f"{label[e]}|" + "\n".join(sorted(s)) for e, s in signs.items()}
        ranks = {text: i for i, text in enumerate(sorted(set(texts.values())))}
        label = {e: ranks[text] for e, text in texts.items()}
        if len(ranks) <= kinds:
            break
        kinds = len(ranks)
    return sorted(
        (
            ("new", label[e]) if e in fresh else ("old", e), a, kind,
            f"new {label[v]}" if kind == "int" and v in fresh else show_form(v),
        )
        for e, a, kind, v in datoms
    )  # fmt: skip
