"""What a script can do: the connection that `up(conn)` is given, and the steps of an EDN script, which are its methods.

    step      = {:schema {attr {property value}}}          declares or changes; a property of nil is taken away
              | {:rename {old new}}                        exact: the attribute's id, and so its datoms, stay
              | {:retype {attr {:to type [:using {old new}]}}}    converts every value; nil in :using leaves one out
              | {:make-one {attr keep}}                    cardinality one; keep is :latest, :min, :max or nil
              | {:delete [attr ...]}                       attributes without datoms
              | {:drop [attr ...]}                         with their datoms
              | {:transact tx-data}                        as in conn.transact
              | {:add [attr query]} | {:retract [attr query]}    the query finds pairs ?e ?v
              | {:require [query text]}                    stops with the text when the query finds nothing, or false

All of it goes to one `conn.atomic()`: a script is one transaction, or nothing. The records of applied scripts
(`:migration.script/...`) are out of a script's reach.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

from migration.script_history import RECORDS, read_reverts
from migration.script_values import LEFT_OUT, ValueReport, convert, converter, pick
from store.edn import Keyword, show_form
from store.errors import DatalogError, UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import datalog as d
    from migration.script_folder import Script

__all__ = ["LEFT_OUT", "RECORDS", "ScriptConnection", "run_script"]


class ScriptConnection:
    """The connection of a script. It reads and writes like any other, and everything it writes is one transaction.

    What a script sees is the database after its own steps so far. It can not open another transaction: there is none.
    """

    def __init__(self, work: d.Atomic) -> None:
        self._work = work

    # -- as a connection

    @property
    def schema(self) -> dict[str, dict[str, Any]]:
        """The user's attributes after the steps so far."""
        return self._work.schema

    def db(self) -> d.Db:
        """The database after the steps so far."""
        return self._work.db()

    def q(self, query: Any, *inputs: Any, limits: Any = None) -> Any:
        """The answer to a query on the database after the steps so far."""
        return self._work.q(query, *inputs, limits=limits)

    def pull(self, pattern: Any, eid: Any) -> Any:
        """`Db.pull` on the database after the steps so far."""
        return self._work.pull(pattern, eid)

    def entity(self, eid: Any) -> Any:
        """`Db.entity` on the database after the steps so far."""
        return self._work.entity(eid)

    def transact(self, tx_data: Any) -> d.TxReport:
        """One step of EDN text or Python data."""
        return self._work.transact(tx_data)

    def load(self, columns: Mapping[Any, Any]) -> d.TxReport:
        """One step of columns: {":attr": (eids, values), ...}."""
        return self._work.load(columns)

    def update_schema(
        self, update: Any = None, delete: Iterable[Any] | None = None, rename: Mapping[Any, Any] | None = None
    ) -> d.TxReport:
        """One step that declares or changes, deletes and renames attributes."""
        try:
            return self._work.update_schema(update, delete, rename)
        except UserError as e:
            better = {"schema/type": ":retype converts the values", "schema/cardinality": ":make-one chooses the value",
                      "schema/in-use": ":drop retracts them, too"}.get(e.code)  # fmt: skip
            if better and (e.code != "schema/in-use" or e.data):
                e.hint = f"{e.hint}; {better}" if e.hint else better
            raise

    # -- more than a connection

    def rename(self, old: Any, new: Any) -> None:
        """Gives an attribute another name; ids and datoms stay."""
        self.update_schema(rename={old: new})

    def retype(
        self,
        attribute: Any,
        to: Any,
        *,
        using: Mapping[Any, Any] | None = None,
        convert_by: Callable[[Any], Any] | None = None,
    ) -> None:
        """Gives an attribute another type and converts its values.

        Args:
            attribute: its name.
            to: the type, ":db.type/long".
            using: new values for some of the old ones; None leaves one out.
            convert_by: the conversion of the others, instead of the built-in one; it raises for what it cannot convert.

        Raises:
            UserError: `script/values` with every value that does not fit; nothing of the script is written.
        """
        ident, type_name = _ident(attribute), _ident(to)
        self._known(ident)
        report = ValueReport(ident, type_name)
        datoms = [(x.e, x.v) for x in self.db().datoms("aevt", ident)]
        function = convert_by or converter(type_name.partition("/")[2])
        eids, values = convert(datoms, report, function, using)
        report.raise_if_any("give them in :using, or change them first")
        self._work.transact([[":db/retract", e, ident, v] for e, v in datoms])
        self.update_schema({ident: {":db/valueType": Keyword(type_name)}})
        if eids:
            self._work.load({ident: (eids, values)})

    def make_one(self, attribute: Any, keep: str | Callable[[list[Any]], Any] | None = None) -> None:
        """Gives an attribute cardinality one; of several values `keep` says which one stays.

        Raises:
            UserError: `script/values` with every entity for which that cannot be said.
        """
        ident = _ident(attribute)
        self._known(ident)
        choice = keep if keep is None or callable(keep) else str(keep).lstrip(":")
        if isinstance(choice, str) and choice not in ("latest", "min", "max"):
            raise UserError(
                "script/step", f"{choice} is no way to keep one value.", expected=":latest, :min, :max or nil"
            )
        report = ValueReport(ident, "one for each entity")
        # what a revert brought back has the revert's time; the latest is the one that was written last
        gone = pick(self._work.origins(ident, read_reverts(self.db())), choice, report)
        report.raise_if_any("say which one to keep: :latest, :min or :max; or retract the others first")
        self._work.transact([[":db/retract", e, ident, v] for e, v in gone])
        self.update_schema({ident: {":db/cardinality": Keyword("db.cardinality/one")}})

    def drop(self, attribute: Any) -> None:
        """Retracts all datoms of an attribute and deletes it. `revert` brings both back."""
        ident = _ident(attribute)
        self._known(ident)
        self._work.transact([[":db/retract", x.e, ident, x.v] for x in self.db().datoms("aevt", ident)])
        self.update_schema(delete=[ident])

    def add_from(self, attribute: Any, query: Any, *inputs: Any) -> None:
        """Asserts (e, v) of each row that a query finds."""
        ident = _ident(attribute)
        self._work.transact([[":db/add", e, ident, v] for e, v in self._pairs(query, inputs)])

    def retract_from(self, attribute: Any, query: Any, *inputs: Any) -> None:
        """Retracts (e, v) of each row that a query finds."""
        ident = _ident(attribute)
        self._work.transact([[":db/retract", e, ident, v] for e, v in self._pairs(query, inputs)])

    def require(self, query: Any, text: str = "") -> None:
        """Stops the script with `script/require` when a query finds nothing, or false."""
        found = self.q(query)
        if found is None or found is False or (hasattr(found, "__len__") and not len(found)):
            raise UserError("script/require", text or f"The database is not as the script requires: {show_form(query)}.",
                            hint="bring the database to that state first, then apply again")  # fmt: skip

    def _pairs(self, query: Any, inputs: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        rows = list(self.q(query, *inputs))
        if rows and (not isinstance(rows[0], list | tuple) or len(rows[0]) != 2):
            raise UserError("script/step", "The query does not find pairs of an entity and a value.",
                            expected="[:find ?e ?v :where ...]")  # fmt: skip
        return [(e, v) for e, v in rows]

    def _known(self, ident: str) -> None:
        known = self._work.schema
        if ident not in known:
            near = nearest(ident, known)
            raise UserError("schema/unknown-attribute", f"There is no attribute {ident}.",
                            hint=f"did you mean {near}?" if near else None)  # fmt: skip


def _ident(value: Any) -> str:
    text = str(value)
    if not text.startswith(":") or len(text) < 2:
        raise UserError("script/step", f"{show_form(value)} is not the name of an attribute or type.",
                        expected="a keyword such as :user/name")  # fmt: skip
    return text


# ---------------------------------------------------------------------------------------------------------------------
# steps of EDN scripts


def _retype(conn: ScriptConnection, form: Any) -> None:
    for attribute, how in _map(form, "{:user/age {:to :db.type/long}}").items():
        options = _map(how, "{:to :db.type/long :using {old new}}")
        unknown = [k for k in options if k not in (Keyword("to"), Keyword("using"))]
        if unknown or Keyword("to") not in options:
            raise UserError("script/step", f"{attribute}: {f'{unknown[0]} is unknown' if unknown else ':to is missing'}.",
                            expected="{:to :db.type/long}, and :using {old new} if need be")  # fmt: skip
        conn.retype(attribute, options[Keyword("to")], using=options.get(Keyword("using")))


def _make_one(conn: ScriptConnection, form: Any) -> None:
    for attribute, keep in _map(form, "{:user/phone :latest}").items():
        conn.make_one(attribute, keep)


def _rename(conn: ScriptConnection, form: Any) -> None:
    conn.update_schema(rename=_map(form, "{:user/name :user/nick}"))


def _drop(conn: ScriptConnection, form: Any) -> None:
    for attribute in _vector(form, "[:user/name]"):
        conn.drop(attribute)


def _from(method: Callable[..., None]) -> Callable[[ScriptConnection, Any], None]:
    def step(conn: ScriptConnection, form: Any) -> None:
        pair = _vector(form, "[:user/nick [:find ?e ?v :where [?e :user/name ?v]]]")
        if len(pair) != 2:
            raise UserError("script/step", "There has to be an attribute and a query.",
                            expected="[:user/nick [:find ?e ?v :where ...]]")  # fmt: skip
        method(conn, pair[0], pair[1])

    return step


def _require(conn: ScriptConnection, form: Any) -> None:
    pair = _vector(form, '[[:find ?e :where [?e :user/name]] "There are users."]')
    if len(pair) != 2 or not isinstance(pair[1], str):
        raise UserError("script/step", "There has to be a query and a text.", expected='[[:find ...] "text"]')
    conn.require(pair[0], pair[1])


def _map(form: Any, example: str) -> Any:
    if not hasattr(form, "items"):
        raise UserError("script/step", f"{show_form(form)} is no map.", expected=example)
    return form


def _vector(form: Any, example: str) -> Any:
    if not isinstance(form, list | tuple):
        raise UserError("script/step", f"{show_form(form)} is no vector.", expected=example)
    return form


STEPS: Final[dict[str, Callable[[ScriptConnection, Any], Any]]] = {
    "schema": lambda conn, form: conn.update_schema(form),
    "rename": _rename,
    "retype": _retype,
    "make-one": _make_one,
    "delete": lambda conn, form: conn.update_schema(delete=_vector(form, "[:user/name]")),
    "drop": _drop,
    "transact": lambda conn, form: conn.transact(_vector(form, '[{:user/name "Ada"}]')),
    "add": _from(ScriptConnection.add_from),
    "retract": _from(ScriptConnection.retract_from),
    "require": _require,
}  # fmt: skip


def run_script(script: Script, work: d.Atomic) -> None:
    """Runs a script's steps on a transaction of several steps.

    Raises:
        UserError: `script/failed` with the script, the step or line, and what is wrong; the caller abandons the transaction.
    """
    conn = ScriptConnection(work)
    before = _records(work)
    if script.steps is None:
        _run_python(script, conn)
    else:
        for place, step in enumerate(script.steps, 1):
            try:
                _run_step(conn, step)
            except DatalogError as e:
                raise _failed(script, f"step {place}, {show_form(step)}", e) from e
    if _records(work) != before:
        raise UserError("script/failed", f"{script.title} touches {RECORDS}..., where the records of scripts are kept.",
                        file=str(script.path), hint="leave these attributes alone")  # fmt: skip


def _records(work: d.Atomic) -> list[Any]:
    names = sorted(name for name in work.schema if name.startswith(RECORDS))
    db = work.db()
    return [
        (name, tuple(map(str, sorted(work.schema[name].items(), key=str))), list(db.datoms("aevt", name)))
        for name in names
    ]


def _run_step(conn: ScriptConnection, step: Any) -> None:
    form = _map(step, "{:schema {...}}")
    if len(form) != 1:
        raise UserError("script/step", f"A step has one key, this one has {len(form)}.",
                        expected="one of " + ", ".join(f":{name}" for name in STEPS))  # fmt: skip
    (key, argument) = next(iter(form.items()))
    function = STEPS.get(str(key).lstrip(":"))
    if function is None or not isinstance(key, Keyword):
        near = nearest(str(key), [f":{name}" for name in STEPS])
        raise UserError("script/step", f"{show_form(key)} is no step.", expected="one of " + ", ".join(f":{n}" for n in STEPS),
                        hint=f"did you mean {near}?" if near else None)  # fmt: skip
    function(conn, argument)


def _run_python(script: Script, conn: ScriptConnection) -> None:
    path = str(script.path)
    namespace: dict[str, Any] = {"__name__": f"migration_script_{script.number}", "__file__": path}
    try:
        exec(compile(script.text, path, "exec"), namespace)  # noqa: S102 - a script of the user's own folder
        namespace["up"](conn)
    except DatalogError as e:
        raise _failed(script, _line(path, e), e) from e
    except Exception as e:
        raise UserError(
            "script/failed",
            f"{script.title} raised {type(e).__name__}: {e}, {_line(path, e)}. Nothing of it was written.",
            file=path, hint="mend the script, then apply again",
        ) from e  # fmt: skip


def _line(path: str, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"line {lines[-1]}" if lines else "when it was loaded"


def _failed(script: Script, where: str, error: DatalogError) -> UserError:
    return UserError(
        "script/failed",
        f"{script.title} stopped at {where}; nothing of it was written.\n{type(error).__name__} [{error.code}]: {error.message}",
        expected=error.expected, hint=error.hint, file=str(script.path),
        data={"script": script.title, "code": error.code, "cause": dict(error.data)},
    )  # fmt: skip
