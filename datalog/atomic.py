"""`Atomic`: what `conn.atomic()` gives, a connection whose writes are the steps of one transaction. Thin, over a composition.

It reads and writes like a connection. Each step is checked where it stands; what is committed at the end is the net change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from datalog.prepared import q
from store.datom import FIRST_ATTRIBUTE
from store.errors import TransactionError
from store.schema import FIRST_USER_AID, unknown_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from datalog.api import Db, TxReport
    from datalog.entity import Entity
    from store.committed import Committed
    from store.composition import Composition
    from store.environment import ReadTxn
    from store.snapshot import Snapshot
    from store.undo import Undone

_SHOWN: Final = 20


class Change(NamedTuple):
    """What a transaction did to one attribute: its name and entity id, datoms asserted and retracted."""

    attribute: str
    eid: int
    asserted: int
    retracted: int


class Atomic:
    """A transaction of several steps; made by `conn.atomic()`, over when its block is. `report` is set after the commit."""

    __slots__ = ("_composition", "_read", "_tell", "_view", "report")

    def __init__(
        self,
        composition: Composition,
        view: Callable[[Snapshot], Db],
        tell: Callable[[Committed], TxReport],
        read: Callable[[], ReadTxn],
    ) -> None:
        self._composition = composition
        self._view = view
        self._tell = tell
        self._read = read
        self.report: TxReport | None = None

    @property
    def tx(self) -> int:
        """The eid that the transaction has, or would have."""
        return self._composition.tx

    @property
    def schema(self) -> dict[str, dict[str, Any]]:
        """The user's attributes after the steps so far: {":ns/name": {":db/valueType": ...}}."""
        return self._composition.now.schema.as_map()

    def db(self) -> Db:
        """The database after the steps so far: an immutable value."""
        return self._view(self._composition.now)

    @property
    def db_before(self) -> Db:
        """The database that the steps began with."""
        return self._view(self._composition.before)

    def q(self, query: Any, *inputs: Any, limits: Any = None, engine: str | None = None) -> Any:
        """The answer to a query whose first input is the database after the steps so far."""
        return q(query, self.db(), *inputs, limits=limits, engine=engine)

    def pull(self, pattern: Any, eid: Any) -> Any:
        """`Db.pull` on the database after the steps so far."""
        return self.db().pull(pattern, eid)

    def entity(self, eid: Any) -> Entity | None:
        """`Db.entity` on the database after the steps so far."""
        return self.db().entity(eid)

    def transact(
        self, tx_data: Any, tx_meta: Mapping[Any, Any] | None = None, *, strict: bool | None = None
    ) -> TxReport:
        """One step of EDN text or Python data; `strict` overrules the connection's for this step.

        Raises:
            TransactionError, SchemaError, EdnError: what is wrong with it; the step did nothing, earlier ones stand.
        """
        return self._tell(self._composition.transact(tx_data, tx_meta, strict=strict))

    def load(self, columns: Mapping[Any, Any]) -> TxReport:
        """One step of columns: {":attr": (eids, values), ...}, as `Connection.load` takes them."""
        return self._tell(self._composition.load(columns))

    def update_schema(
        self, update: Any = None, delete: Iterable[Any] | None = None, rename: Mapping[Any, Any] | None = None
    ) -> TxReport:
        """One step that declares or changes, deletes and renames attributes."""
        return self._tell(self._composition.update_schema(update, delete, rename))

    def undo(self, tx: int, *, force: bool = False) -> Undone:
        """One step that takes back what transaction `tx` did, exactly, from the before-images in the log.

        Attributes go back, too: names, types, deleted ones. What was noted about the transaction itself stays.

        Raises:
            TransactionError: `tx/undo-conflict` when later transactions changed the same facts (`data["conflicts"]` has
                them; `force` lets the state before win where that is possible), `tx/unlogged` when the log has lost it.
        """
        read = self._read()
        try:
            undone = self._composition.undo(tx, read, force=force)
        finally:
            read.close()
        if undone.blocked(force=force):
            in_the_way = [c for c in undone.conflicts if not (force and c.forceable)]
            shown = "\n".join(c.message for c in in_the_way[:_SHOWN])
            more = f"\nand {len(in_the_way) - _SHOWN} more" if len(in_the_way) > _SHOWN else ""
            raise TransactionError(
                "tx/undo-conflict",
                f"Transaction {tx} cannot be taken back: later transactions changed the same facts.\n{shown}{more}",
                hint="force it, and what was written later to these facts is lost"
                if all(c.forceable for c in in_the_way)
                else "undo those transactions first, or change these facts with a transaction; this cannot be forced",
                data={"tx": tx, "conflicts": [c.as_dict() for c in undone.conflicts]},
            )
        return undone

    def origins(self, attribute: Any, passing: Iterable[int]) -> list[tuple[int, Any, int]]:
        """(e, v, tx) of an attribute's datoms, with the tx that really wrote them: those in `passing`, undos, are seen through.

        Raises:
            SchemaError: `schema/unknown-attribute`.
        """
        schema = self._composition.now.schema
        found = schema.find(attribute)
        if found is None:
            raise unknown_attribute(schema, str(attribute))
        read = self._read()
        try:
            return self._composition.origins(found.aid, read, frozenset(passing))
        finally:
            read.close()

    def mark(self) -> int:
        """Where the steps stand now, for `changes(since)`."""
        return self._composition.steps

    def changes(self, since: int = 0) -> list[Change]:
        """What the steps (since a mark) change in all, attribute by attribute; of the schema under `:db/...`, at the end."""
        net = self._composition.net(since)
        now, before = self._composition.now.schema, self._composition.before.schema
        out = []
        for aid in np.unique(net[:, 1]).tolist():
            added = net[net[:, 1] == aid, 4]
            ident = (now if now.has_aid(aid) else before).by_aid(aid).ident
            asserted = int(added.sum())
            out.append(Change(ident, FIRST_ATTRIBUTE + aid, asserted, len(added) - asserted))
        return sorted(out, key=lambda c: (c.eid - FIRST_ATTRIBUTE < FIRST_USER_AID, c.attribute))

    def __repr__(self) -> str:
        return f"<Atomic tx={self.tx}>"
