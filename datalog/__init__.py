"""A Datalog database to embed: open a directory, transact facts, ask questions.

    import datalog as d
    conn = d.connect("people.db", schema={":person/name": {":db/valueType": ":db.type/string"}})
    conn.transact([{":person/name": "Ada"}])
    conn.q('[:find ?n . :where [_ :person/name ?n]]')

This is the only public door: what is not named in `__all__` may change.

A name is loaded when it is first used (PEP 562), so that `import datalog` costs a program nothing until it opens a
database: numpy alone takes longer to import than everything here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datalog.api import Connection, Db, TxReport, check, compact, connect
    from datalog.atomic import Atomic, Change
    from datalog.limits import Stop
    from datalog.objects import attribute, eid, schema_of
    from datalog.prepared import Limits, Prepared, explain, prepare, q, register
    from datalog.result import Result
    from store.datom import Datom
    from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, read_edn, write_edn
    from store.edn import Keyword as kw  # noqa: N813 -- the short form users write: d.kw("a/b")
    from store.errors import DatalogError

# The module that holds each public name; a test holds this table against `__all__` and the imports above.
_HOME = {
    "datalog.atomic": ("Atomic", "Change"),
    "datalog.api": ("Connection", "Db", "TxReport", "check", "compact", "connect"),
    "datalog.limits": ("Stop",),
    "datalog.objects": ("attribute", "eid", "schema_of"),
    "datalog.prepared": ("Limits", "Prepared", "explain", "prepare", "q", "register"),
    "datalog.result": ("Result",),
    "store.datom": ("Datom",),
    "store.edn": ("Char", "Keyword", "List", "Map", "Set", "Symbol", "Tagged", "Vector", "read_edn", "write_edn"),
    "store.errors": ("DatalogError",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Atomic",
    "Change",
    "Char",
    "Connection",
    "DatalogError",
    "Datom",
    "Db",
    "Keyword",
    "Limits",
    "List",
    "Map",
    "Prepared",
    "Result",
    "Set",
    "Stop",
    "Symbol",
    "Tagged",
    "TxReport",
    "Vector",
    "attribute",
    "check",
    "compact",
    "connect",
    "eid",
    "explain",
    "kw",
    "prepare",
    "q",
    "read_edn",
    "register",
    "schema_of",
    "write_edn",
]


if not TYPE_CHECKING:  # a checker sees the imports above, and so the misspelt names of a program

    def __getattr__(name: str) -> object:
        """The public name, imported now and kept, so that the next use of it is a plain attribute."""
        home = _MODULE_OF.get("Keyword" if name == "kw" else name)
        if home is None:
            message = f"module 'datalog' has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=import_module("datalog"))
        value: object = getattr(import_module(home), "Keyword" if name == "kw" else name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, loaded or not, for completion."""
    return sorted({*globals(), *__all__})
