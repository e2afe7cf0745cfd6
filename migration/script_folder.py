r"""A folder of numbered scripts: names, texts, checksums, and that they are one line. No database here.

    0001_create_users.edn        {:doc "..." :up [step ...]}        the steps are in script_steps.py
    0002_split_names.py          def up(conn): ...                  conn is the ScriptConnection of script_steps.py

A name is digits, an underscore, words of letters, digits, `_` and `-`, and `.edn` or `.py`. Numbers begin at 1 and have no
gaps; a number that two scripts have is what two branches leave behind when they are merged. Other files, such as a README or
`__init__.py`, are no scripts; one that begins with a digit and is not named as above is an error, not passed over.

The checksum is SHA-256 over the text with line ends as `\n`, so that a checkout on another system does not change it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from store.edn import Keyword, read_edn
from store.errors import DatalogError, UserError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Script", "file_name", "read_folder"]

_NAME: Final = re.compile(r"(\d{1,9})_([A-Za-z0-9][A-Za-z0-9_-]*)\.(edn|py)\Z")
_DIGITS: Final = 4
_KEYS: Final = frozenset((Keyword("doc"), Keyword("up")))


@dataclass(frozen=True, slots=True)
class Script:
    """One script. `steps` are the forms of an EDN script's :up; None for Python, whose text is run when it is applied."""

    number: int
    name: str
    path: Path
    text: str
    checksum: str
    doc: str
    steps: tuple[Any, ...] | None

    @property
    def title(self) -> str:
        """The file's name."""
        return self.path.name


def file_name(number: int, name: str, kind: str) -> str:
    """The file name of a script.

    >>> file_name(7, "Split names", "edn")
    '0007_split_names.edn'

    Raises:
        UserError: `script/name` when nothing of the name can stand in a file name.
    """
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not words:
        raise UserError("script/name", f"{name!r} has no letter or digit to make a file name of.",
                        hint="give a short name such as split_names")  # fmt: skip
    return f"{number:0{_DIGITS}}_{words}.{kind}"


def read_folder(folder: Path) -> list[Script]:
    """The scripts of a folder in their order; a folder without any gives an empty list.

    Raises:
        UserError: `script/folder` when it is none, `script/name`, `script/two-heads`, `script/gap` when they are not one
            line, `script/form` for an EDN script of another form, `script/unreadable`.
    """
    if not folder.is_dir():
        raise UserError(
            "script/folder", f"{folder} is no folder of scripts.", expected="a directory",
            hint=f'make the first script, and the folder with it: datalog migrate new "first" --scripts {folder}',
        )  # fmt: skip
    paths: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name[:1].isdigit() and path.is_file():
            found = _NAME.match(path.name)
            if found is None:
                raise UserError(
                    "script/name", f"{path.name} begins like a script but is not named as one.",
                    expected="a name such as 0007_split_names.edn or 0007_split_names.py",
                    hint="rename it, or move it out of the folder",
                )  # fmt: skip
            paths.setdefault(int(found[1]), []).append(path)
    _check_line(folder, paths)
    return [_read_script(number, path) for number, (path,) in sorted(paths.items())]


def _check_line(folder: Path, paths: dict[int, list[Path]]) -> None:
    last = max(paths, default=0)
    for number, same in sorted(paths.items()):
        if len(same) > 1:
            raise UserError(
                "script/two-heads",
                f"Two scripts of {folder} have the number {number}: {' and '.join(p.name for p in same)}.",
                expected="one line of numbers: 1, 2, 3 ...",
                hint=f"let the one that no database has yet be {file_name(last + 1, 'its_name', same[-1].suffix[1:])}",
                data={"number": number, "files": [p.name for p in same]},
            )
    missing = [n for n in range(1, last + 1) if n not in paths]
    if missing or 0 in paths:
        what = "0" if not missing else ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise UserError(
            "script/gap",
            f"{folder} has {'a script of number 0' if not missing else f'no script of number {what}, but one of {last}'}.",
            expected="numbers from 1 on without gaps",
            hint="bring the missing file back, for example from version control, or renumber those after it",
            data={"missing": missing},
        )


def _read_script(number: int, path: Path) -> Script:
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError("script/unreadable", f"{path.name} cannot be read: {e}.", file=str(path),
                        hint="check its permissions, and that it is UTF-8") from e  # fmt: skip
    checksum = hashlib.sha256(text.encode()).hexdigest()
    stem = path.stem.partition("_")[2]
    if path.suffix == ".py":
        return Script(number, stem, path, text, checksum, _python_doc(text, path), None)
    doc, steps = _read_edn_script(text, path)
    return Script(number, stem, path, text, checksum, doc, steps)


def _python_doc(text: str, path: Path) -> str:
    import ast  # noqa: PLC0415 - Python scripts only

    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as e:
        raise UserError(
            "script/form",
            f"{path.name} is no Python: {e.msg}, line {e.lineno}.",
            file=str(path),
            hint="mend the syntax",
        ) from e
    if not any(isinstance(node, ast.FunctionDef) and node.name == "up" for node in tree.body):
        raise UserError("script/form", f"{path.name} has no function `up`.", file=str(path),
                        expected="def up(conn): ...", hint="define it at the top level of the file")  # fmt: skip
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _read_edn_script(text: str, path: Path) -> tuple[str, tuple[Any, ...]]:
    try:
        form = read_edn(text)
    except DatalogError as e:
        raise UserError(
            "script/form",
            f"{path.name} is no EDN: {e.message}",
            span=e.span,
            source=e.source,
            file=str(path),
            hint=e.hint,
        ) from e
    example = '{:doc "What it is for." :up [{:schema {:user/nick {:db/valueType :db.type/string}}}]}'
    if not hasattr(form, "items"):
        raise UserError("script/form", f"{path.name} is no map.", file=str(path), expected=example)
    unknown = [k for k in form if k not in _KEYS]
    steps, doc = form.get(Keyword("up")), form.get(Keyword("doc"), "")
    if unknown or not isinstance(steps, list | tuple) or not isinstance(doc, str):
        wrong = f"{unknown[0]} is no key of a script" if unknown else ":up is no vector of steps"
        raise UserError("script/form", f"{path.name}: {wrong}.", file=str(path), expected=example)
    return doc, tuple(steps)
