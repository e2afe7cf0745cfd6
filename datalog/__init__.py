"""A Datalog database to embed: open a directory, transact facts, ask questions.

    import datalog as d
    conn = d.connect("people.db", schema={":person/name": {":db/valueType": ":db.type/string"}})
    conn.transact([{":person/name": "Ada"}])
    conn.q('[:find ?n . :where [_ :person/name ?n]]')

This is the only public door: what is not named in `__all__` may change.
"""

from datalog.api import Connection, Db, TxReport, check, compact, connect
from datalog.query import Limits, Prepared, explain, prepare, q, register
from datalog.result import Result
from store.datom import Datom
from store.edn import Char, Keyword, List, Map, Set, Symbol, Tagged, Vector, read_edn, write_edn
from store.errors import DatalogError

kw = Keyword

__all__ = [
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
    "Symbol",
    "Tagged",
    "TxReport",
    "Vector",
    "check",
    "compact",
    "connect",
    "explain",
    "kw",
    "prepare",
    "q",
    "read_edn",
    "register",
    "write_edn",
]
