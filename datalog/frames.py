"""Frames: the columns of an answer as a pandas or polars data frame.

Takes the names and columns of a `Result`, gives a frame of whichever library is installed; neither is a dependency, both are
imported when asked for. Long, double, boolean and instant columns become typed columns without a Python object for each
value; what a library has no type for stays a Python object in pandas, and becomes EDN text in polars.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from store.edn import write_edn
from store.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LIBRARIES", "frame"]

LIBRARIES: Final = ("pandas", "polars")
_OWN_TYPES: Final = ({str}, {int}, {float}, {bool})


def frame(names: Sequence[str], arrays: Sequence[Any], library: str | None) -> Any:
    """A data frame of numpy arrays; `library` chooses, None takes the first that is installed.

    Raises:
        UserError: `result/frame` for another library, or when it is not installed.
    """
    if library not in (None, *LIBRARIES):
        raise UserError("result/frame", f"There is no data frame of {library!r}.", expected=" or ".join(LIBRARIES))
    wanted = LIBRARIES if library is None else (library,)
    found = next((name for name in wanted if find_spec(name) is not None), None)
    if found is None:
        raise UserError(
            "result/frame",
            f"df() needs {' or '.join(wanted)}, and it is not installed.",
            hint=f"pip install {wanted[0]}; or take to_dicts(), column(name), array(name)",
        )
    make = _pandas if found == "pandas" else _polars
    return make(import_module(found), names, arrays)


def _pandas(pandas: Any, names: Sequence[str], arrays: Sequence[Any]) -> Any:
    columns = {}
    for name, array in zip(names, arrays, strict=True):
        columns[name] = pandas.DatetimeIndex(array).tz_localize("UTC") if array.dtype.kind == "M" else array
    return pandas.DataFrame(columns)


def _polars(polars: Any, names: Sequence[str], arrays: Sequence[Any]) -> Any:
    columns = []
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind == "O":
            columns.append(polars.Series(name, _plain(array.tolist())))
        elif array.dtype.kind == "M":
            columns.append(polars.Series(name, array).dt.replace_time_zone("UTC"))
        else:
            columns.append(polars.Series(name, array))
    return polars.DataFrame(columns)


def _plain(values: list[Any]) -> list[Any]:
    """Values of one type that polars has; else all of them as EDN text, strings as they are."""
    types = {type(v) for v in values if v is not None}
    small = types != {int} or all(v is None or -(2**63) <= v < 2**63 for v in values)
    if types in _OWN_TYPES and small:
        return values
    return [v if v is None or isinstance(v, str) else write_edn(v) for v in values]
