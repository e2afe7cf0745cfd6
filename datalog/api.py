"""The door: connect, Connection, Db, TxReport. Thin: what is done here is done by the store and the query modules.

A `Connection` is the thing that changes; a `Db` is an immutable value at one basis tx. Both are context managers.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from datalog.builtins import REGISTERED
from datalog.prepared import explain, q
from store import seek
from store.edn import read_edn
from store.errors import PullError, QueryError, SchemaError, StorageError, StoreClosed, TransactionError
from store.filtered import FilteredSnapshot
from store.schema import properties, read_schema
from store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from datalog.atomic import Atomic
    from datalog.entity import Entity
    from store.committed import Committed
    from store.datom import Datom
    from store.schema import Schema
    from store.seek import DatomRows
    from store.snapshot import Snapshot
    from store.store import Store

T = TypeVar("T")


class Db:
    """The database as of one transaction: an immutable value.

    Asking it the same thing always gives the same answer, whatever is transacted meanwhile. It holds on to what it needs;
    let it go, or `close()` it, when it is no longer needed.
    """

    __slots__ = ("_owner", "_snapshot", "_strict")

    def __init__(self, snapshot: Snapshot, strict: bool | None = None, owner: Connection | None = None) -> None:
        self._snapshot: Snapshot | None = snapshot
        self._strict = strict
        self._owner = owner  # a connection that is only forgotten, not closed, lives as long as its values do

    @property
    def snapshot(self) -> Snapshot:
        """The store's view underneath; what queries run on."""
        if self._snapshot is None:
            raise StoreClosed("store/closed", "This database value was closed.", hint="take a new one: conn.db()")
        return self._snapshot

    @property
    def basis_tx(self) -> int:
        """The eid of the newest transaction that this value includes."""
        return self.snapshot.basis_tx

    @property
    def max_eid(self) -> int:
        """The highest entity id in use, 0 when there is none: a new entity gets the next one."""
        return self.snapshot.max_eid

    @property
    def schema(self) -> dict[str, dict[str, Any]]:
        """The user's attributes: {":ns/name": {":db/valueType": ...}}."""
        return self.snapshot.schema.as_map()

    def q(self, query: Any, *inputs: Any, limits: Any = None, engine: str | None = None) -> Any:
        """The answer to a query whose first input is this database."""
        return q(query, self, *inputs, limits=limits, engine=engine)

    def explain(self, query: Any, *inputs: Any, analyze: bool = False) -> Any:
        """The plan of a query whose first input is this database."""
        return explain(query, self, *inputs, analyze=analyze)

    def pull(self, pattern: Any, eid: Any) -> Any:
        """The attributes of an entity that a pull pattern names, as a dict; None when it has none of them."""
        from datalog.pull import pull  # noqa: PLC0415 - pull patterns are parsed on first use only

        return pull(self.snapshot, pattern, eid)

    def pull_many(self, pattern: Any, eids: Iterable[Any]) -> list[Any]:
        """`pull` of many entities, in their order; one index walk for each level of the pattern."""
        from datalog.pull import pull_many  # noqa: PLC0415 - the same

        if isinstance(eids, str) or not hasattr(eids, "__iter__"):
            raise PullError(
                "pull/eids",
                f"pull_many takes a list of entities, not {eids!r}.",
                hint="db.pull(pattern, eid) takes one",
            )
        return pull_many(self.snapshot, pattern, list(eids))

    def entity(self, eid: Any) -> Entity | None:
        """A lazy view of an entity, or None when the reference names none."""
        from datalog.entity import entity  # noqa: PLC0415 - the same

        return entity(self, eid)

    def load(self, cls: type[T], ref: Any) -> T:
        """The object of a dataclass that an entity holds, with all it refers to; see objects.py.

        Raises:
            UserError: `object/not-found` when there is no such entity, `object/missing` when it lacks a value that a field needs.
        """
        from datalog.objects import load  # noqa: PLC0415 - few programs map objects

        return load(self, cls, ref)

    def load_all(self, cls: type[T]) -> list[T]:
        """The objects of all entities that have every field of the dataclass that has no default, by entity id."""
        from datalog.objects import load_all  # noqa: PLC0415 - the same

        return load_all(self, cls)

    def entid(self, ref: Any) -> int | None:
        """The eid of an eid, ident or lookup ref, or None when there is no such entity."""
        return self.snapshot.entid(ref)

    def datoms(self, index: str, *components: Any) -> DatomRows:
        """The datoms whose leading components are those given, in the order of the index ("eavt", "aevt", "avet")."""
        return seek.datoms(self.snapshot, index, *components)

    def seek_datoms(self, index: str, *components: Any) -> DatomRows:
        """The datoms from the components on to the end of the index."""
        return seek.seek_datoms(self.snapshot, index, *components)

    def rseek_datoms(self, index: str, *components: Any) -> DatomRows:
        """The datoms from the components back to the beginning of the index."""
        return seek.rseek_datoms(self.snapshot, index, *components)

    def index_range(self, attr: Any, start: Any, end: Any) -> DatomRows:
        """The datoms of an attribute with start <= value <= end, by value; None leaves an end open."""
        return seek.index_range(self.snapshot, attr, start, end)

    def with_(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> TxReport:
        """The report of a transaction that is not made: all checks, a `db_after` to ask, nothing written."""
        from store.speculation import speculate  # noqa: PLC0415 - as all that writing needs: readers do not wait for it

        snapshot = self.snapshot
        if isinstance(snapshot, FilteredSnapshot):  # what would happen to the whole, seen through the same filter
            committed = speculate(snapshot.source, tx_data, tx_meta, self._strict, self._call)
            committed.before, committed.after = snapshot, snapshot.refilter(committed.after)
        else:
            committed = speculate(snapshot, tx_data, tx_meta, self._strict, self._call)
        return TxReport(committed, self._strict, self._owner)

    def filter(self, pred: Callable[..., Any]) -> Db:
        """This database with the datoms for which `pred(datom)`, or `pred(db, datom)`, is true."""
        if not callable(pred):
            raise QueryError("filter/predicate", f"filter takes a function of a datom, not {pred!r}.",
                             hint='db.filter(lambda datom: datom.a != ":user/password")')  # fmt: skip
        return Db(FilteredSnapshot(self.snapshot, _datom_predicate(self, pred)), self._strict, self._owner)

    def _call(self, snapshot: Snapshot, f: Any, args: list[Any]) -> Iterable[Any]:
        return call_function(Db(snapshot, self._strict), f, args)

    def __len__(self) -> int:
        return self.snapshot.count_all()

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        """Lets go of the view."""
        self._snapshot = None
        self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Db) and other._snapshot is self._snapshot

    def __hash__(self) -> int:
        return id(self._snapshot)

    def _repr_html_(self) -> str:
        from datalog.notebook import database_html  # noqa: PLC0415 - only notebooks show it

        return "<p>Database, closed</p>" if self._snapshot is None else database_html(self)

    def __repr__(self) -> str:
        if self._snapshot is None:
            return "<Db closed>"
        schema = self._snapshot.schema
        return f"<Db basis_tx={self.basis_tx} datoms={len(self)} attributes={len(schema.user_attributes())}>"


def _datom_predicate(db: Db, pred: Callable[..., Any]) -> Callable[[Datom], bool]:
    import inspect  # noqa: PLC0415 - slow to import, rarely needed

    try:
        parameters = [
            p for p in inspect.signature(pred).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]  # fmt: skip
    except (TypeError, ValueError):
        parameters = []
    if len(parameters) == 2:
        return lambda datom: bool(pred(db, datom))
    return lambda datom: bool(pred(datom))


def call_function(db: Db, f: Any, args: list[Any]) -> Iterable[Any]:
    """What a transaction function gives: a Python callable, or one registered by name, called with (db, *args)."""
    function = f
    if not callable(f) or not hasattr(f, "__call__"):  # noqa: B004 - symbols and keywords of ours are no functions
        registered = REGISTERED.find(str(f).lstrip(":"))
        if registered is None:
            raise TransactionError(
                "tx/unknown-function",
                f"There is no registered function {f}.",
                hint='register it: datalog.register("name", fn), or pass the callable itself',
            )
        function = registered.scalar
    try:
        produced = function(db, *args)
    except Exception as e:
        from store.errors import DatalogError  # noqa: PLC0415

        if isinstance(e, DatalogError):
            raise
        raise TransactionError(
            "tx/function-failed",
            f"The transaction function {getattr(function, '__name__', f)} raised {type(e).__name__}: {e}. Nothing was written.",
            hint="mend the function, or its arguments",
        ) from e
    return produced if produced is not None else []


class TxReport:
    """What a transaction did: `tx`, `tempids`, `tx_data` (the datoms), `db_before`, `db_after`."""

    __slots__ = ("_committed", "_datoms", "_owner", "_strict", "tempids", "tx")

    def __init__(self, committed: Committed, strict: bool | None, owner: Connection | None) -> None:
        self._committed = committed
        self._strict = strict
        self._owner = owner
        self._datoms: list[Datom] | None = None
        self.tx: int = committed.tx
        self.tempids: dict[Any, int] = committed.tempids

    @property
    def tx_data(self) -> list[Datom]:
        """The datoms asserted and retracted; without the transaction's own :db/txInstant."""
        if self._datoms is None:
            self._datoms = self._committed.datoms()
        return self._datoms

    @property
    def db_before(self) -> Db:
        """The database before the transaction."""
        return Db(self._committed.before, self._strict, self._owner)

    @property
    def db_after(self) -> Db:
        """The database after the transaction."""
        return Db(self._committed.after, self._strict, self._owner)

    def __repr__(self) -> str:
        return f"<TxReport tx={self.tx} datoms={len(self.tx_data)} tempids={self.tempids}>"


class Connection:
    """An open database that can change. Make one with `connect`; close it when done, or use it in a `with` block."""

    def __init__(self, store: Store, *, strict: bool | None, temporary: str | None = None) -> None:
        self._store: Store | None = store
        self._strict = strict
        self._listeners: dict[Any, Callable[[TxReport], Any]] = {}
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close_store, store, temporary)

    @property
    def store(self) -> Store:
        """The store underneath."""
        if self._store is None:
            raise StoreClosed("store/closed", "This connection is closed.", hint="connect again: datalog.connect(path)")
        return self._store

    @property
    def path(self) -> Path:
        """The directory of the database."""
        from pathlib import Path  # noqa: PLC0415 - 4 ms that a query need not wait for

        return Path(self.store.path)

    @property
    def schema(self) -> dict[str, dict[str, Any]]:
        """The user's attributes: {":ns/name": {":db/valueType": ...}}."""
        return self.store.newest().schema.as_map()

    def db(self) -> Db:
        """The database as it is now: an immutable value."""
        return Db(self.store.newest(), self._strict, self)

    def q(self, query: Any, *inputs: Any, limits: Any = None, engine: str | None = None) -> Any:
        """The answer to a query whose first input is the database as it is now."""
        return q(query, self.db(), *inputs, limits=limits, engine=engine)

    def explain(self, query: Any, *inputs: Any, analyze: bool = False) -> Any:
        """The plan of a query whose first input is the database as it is now."""
        return explain(query, self.db(), *inputs, analyze=analyze)

    def transact(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> TxReport:
        """Makes a transaction of EDN text or Python data; returns its report once it is committed.

        Raises:
            TransactionError, SchemaError, EdnError: what is wrong with the data, all of it; nothing was written.
            StorageError: the disk or the environment failed; nothing was written.
        """
        return self._report(self.store.transactor.transact(tx_data, tx_meta, strict=self._strict, call=self._call))

    def transact_async(self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None) -> Future[TxReport]:
        """Hands a transaction to the writer's thread; the future has its report once it is committed, or its error.

        Transactions of one thread are carried out in the order they were given. Those that wait together are committed
        together, with one sync of the disk: many small durable transactions are several times as fast this way. The
        future cannot be cancelled; `close` waits for all. Listeners are called in the writer's thread, and must not wait there
        for a future of their own.

        Raises:
            TransactionError, EdnError: when tx_data is nothing that could be a transaction; other faults are in the future.
        """
        return self.store.transactor.transact_async(tx_data, tx_meta, self._strict, self._call, self._report)

    def load(self, columns: Mapping[Any, Any] | Callable[[Db], Mapping[Any, Any]], schema: Any = None) -> TxReport:
        """Bulk import of columns as one transaction: {":attr": (eids, values), ...}, arrays or lists.

        Args:
            columns: the columns, or a function that makes them of the database as it then is: other writers wait while
                it runs, so that what it sees, such as `db.max_eid`, is so when the columns are written.
            schema: attributes to declare in the same transaction, as `connect` takes them; they have to be new.

        Raises:
            TransactionError, SchemaError: two values for one eid of a cardinality-one attribute, a unique value held
                twice, a wrong type, None; nothing was written.
        """
        if callable(columns):
            make = columns
            return self._report(
                self.store.transactor.load(
                    lambda snapshot: make(self._view(snapshot)), strict=self._strict, schema=schema
                )
            )
        return self._report(self.store.transactor.load(columns, strict=self._strict, schema=schema))

    def update_schema(
        self, update: Any = None, delete: Iterable[Any] | None = None, rename: Mapping[Any, Any] | None = None
    ) -> TxReport:
        """Declares or changes (`update`, as in `connect`), deletes and renames attributes, in one transaction.

        Raises:
            SchemaError: for a change that is malformed, or that existing data does not allow; nothing was written.
        """
        return self._report(self.store.transactor.update_schema(update, delete, rename))

    def save(self, thing: Any) -> int:
        """Saves an object of a dataclass with all it refers to, in one transaction; returns its entity id.

        The entity is the one that a unique field or the `eid()` field names, else a new one. What the object does not have
        (None, members of a collection that are gone) is retracted.

        Raises:
            UserError: `object/...` for what cannot be mapped; TransactionError, SchemaError as `transact`. Nothing was written.
        """
        return self.save_all([thing])[0]

    def save_all(self, things: Iterable[Any]) -> list[int]:
        """`save` of many objects in one transaction; returns their entity ids."""
        from datalog.objects import save  # noqa: PLC0415 - few programs map objects

        return save(self, list(things))

    @contextmanager
    def atomic(self, *, dry_run: bool = False) -> Iterator[Atomic]:
        """A transaction of several steps: each sees what those before it did, all are committed as one when the block ends.

        Schema changes and changes of the data they concern may follow each other. An exception in the block abandons it:
        nothing is written. Other writers wait meanwhile, readers go on. With `dry_run` nobody waits, and nothing is ever
        written: `changes()` tells what would have been.

        Raises:
            TransactionError, SchemaError: from the step that is at fault, and `tx/nested` for a write past the steps.

        Example:
            with conn.atomic() as work:
                work.update_schema({":user/years": {":db/valueType": ":db.type/long"}})
                work.transact([[":db/add", e, ":user/years", a] for e, a in work.q("[:find ?e ?a :where [?e :user/age ?a]]")])
            print(work.report.tx)
        """
        from datalog.atomic import Atomic  # noqa: PLC0415 - few programs take several steps

        with self.store.transactor.compose(strict=self._strict, call=self._call, dry_run=dry_run) as composition:
            work = Atomic(composition, self._view, self._told, self.store.env.read)
            yield work
        if composition.committed is not None:
            work.report = self._report(composition.committed)

    def _view(self, snapshot: Snapshot) -> Db:
        return Db(snapshot, self._strict, self)

    def _told(self, committed: Committed) -> TxReport:
        return TxReport(committed, self._strict, self)

    def _report(self, committed: Committed) -> TxReport:
        report = TxReport(committed, self._strict, self)
        if committed.before is not committed.after:
            for listener in list(self._listeners.values()):
                listener(report)
        return report

    def _call(self, snapshot: Snapshot, f: Any, args: list[Any]) -> Iterable[Any]:
        return call_function(Db(snapshot, self._strict), f, args)

    def listen(self, fn: Callable[[TxReport], Any], key: Any = None) -> Any:
        """Calls `fn(report)` after each transaction of this connection; returns the key for `unlisten`."""
        with self._lock:
            if key is None:
                key = object()
            self._listeners[key] = fn
            return key

    def unlisten(self, key: Any) -> None:
        """Ends what `listen` began."""
        with self._lock:
            self._listeners.pop(key, None)

    def pull(self, pattern: Any, eid: Any) -> Any:
        """`Db.pull` on the database as it is now."""
        return self.db().pull(pattern, eid)

    def entity(self, eid: Any) -> Entity | None:
        """`Db.entity` on the database as it is now."""
        return self.db().entity(eid)

    def close(self) -> None:
        """Closes the connection; the last one of a directory closes the files. Closing twice is no fault."""
        if self._store is not None:
            self._store.check_not_composing("it cannot be closed meanwhile")
            self._store = None
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Connection closed>" if self._store is None else f"<Connection {str(self.path)!r}>"


def _close_store(store: Store, temporary: str | None) -> None:
    store.release()
    if temporary is not None:
        _remove(temporary)


def _remove(directory: str) -> None:
    import shutil  # noqa: PLC0415 - ephemeral databases only

    shutil.rmtree(directory, ignore_errors=True)


def connect(
    path: str | Path | None = None,
    schema: Any = None,
    *,
    sync: bool = True,
    read_only: bool = False,
    strict: bool | None = None,
) -> Connection:
    """A connection to the database in a directory, which is made if need be; None for an ephemeral one.

    Args:
        path: the directory; None for a private temporary one that `close` removes.
        schema: EDN text, map of maps, or list of `:db/ident` maps; declared if the database does not say the same already.
        sync: True: a commit has reached the disk when `transact` returns. False: faster, the last ones may be lost in a
            power failure.
        read_only: opens an existing database for reading.
        strict: None: undeclared attributes are refused once any is declared; True: always; False: accepted, untyped.

    Raises:
        SchemaError: for a malformed schema, or one that existing data does not allow.
        StorageError: when the directory cannot be opened; see docs/errors.md.
    """
    if strict not in (None, True, False):
        raise SchemaError("connect/option", f"strict cannot be {strict!r}.", expected="None, True or False")
    if path is not None and not (isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)):
        raise StorageError("connect/path", f"{path!r} is not a path.", hint="give the name of a directory, or None")
    temporary = None
    if path is None:
        import tempfile  # noqa: PLC0415 - ephemeral databases only

        temporary = tempfile.mkdtemp(prefix="datalog-")
        path, sync = temporary, False
    definitions = read_schema(read_edn(schema) if isinstance(schema, str) else schema)
    try:
        store = open_store(os.fspath(path) or ".", read_only=read_only, sync=sync, private=temporary is not None)
    except BaseException:
        if temporary is not None:
            _remove(temporary)
        raise
    conn = Connection(store, strict=strict, temporary=temporary)
    if definitions:
        try:
            _declare(conn, store.newest().schema, definitions, read_only=read_only)
        except BaseException:
            conn.close()
            raise
    return conn


def compact(
    path: str | Path, target: str | Path | None = None, *, drop_log_before: int | None = None
) -> dict[str, int]:
    """Writes a database anew without what it no longer needs, in place or into `target`; returns bytes before and after.

    Raises:
        StoreLocked: in place, while a connection of this or another process has the database open.
    """
    from pathlib import Path  # noqa: PLC0415 - as in `Connection.path`

    from store.backup import compact as write_anew  # noqa: PLC0415 - rarely needed

    return write_anew(Path(path), None if target is None else Path(target), drop_log_before=drop_log_before)


def check(path: str | Path) -> list[Any]:
    """What is wrong with a database directory, as a list of findings; empty when everything agrees (fsck)."""
    from pathlib import Path  # noqa: PLC0415 - as in `Connection.path`

    from store.check import check_path  # noqa: PLC0415 - rarely needed

    return list(check_path(Path(path))[0])


def _declare(conn: Connection, known: Schema, definitions: Sequence[tuple[str, Any]], *, read_only: bool) -> None:
    """Declares what the database does not say already, so that connecting again writes nothing."""
    new: dict[str, Any] = {}
    for ident, wanted in definitions:
        attribute = known.find(ident)
        if attribute is not None and not attribute.system and attribute.declared:
            has = {k: str(v) for k, v in properties(attribute).items()}
            if all(
                has.get(str(k)) == str(v) or (v in (None, False) and str(k) not in has)
                for k, v in wanted.items()
                if str(k) != ":db/ident"
            ):
                continue
        new[ident] = wanted
    if new and not read_only:
        conn.update_schema(new)
