"""Calls: predicates and functions over the columns of a relation.

Place on the path: used by the engine for Filter and Extend, by find for expressions. A call runs in its column form where
the built-in has one that takes the operands; else once for each distinct row of arguments, whose values alone are decoded.

Errors of a function, built-in or the caller's, become a QueryError here: clause and arguments named, the cause kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import kernels
from datalog.builtins import less
from datalog.errors import DatalogError, query_error, show
from datalog.lower import is_lookup
from datalog.plan import CallTree, Const, Name, Param, Source, Var, term_text
from datalog.relation import EMPTY, Column, decode_column, encode_column, interned
from store.edn import Keyword
from store.errors import UserError
from store.value import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.relation import Relation

    Rows = NDArray[np.intp]
    Mask = NDArray[np.bool_]

_BLOCK = 1 << 14  # results made at a time: their memory is counted between
_NANOSECONDS_TO_SORT = 80
_CHECK_EVERY = 1024  # scalar calls between two looks at the clock
_FEW = 16


def truth(run: Run, call: CallTree, relation: Relation) -> Mask:
    """The rows for which a call is neither false nor nil, bool (n,)."""
    if not relation.length:
        return np.zeros(0, dtype=np.bool_)
    if call.name == "missing?" and call.builtin is not None and call.builtin.source:
        found = _missing(run, call, relation)
        if found is not None:
            return found
    column = _column_form(run, call, relation)
    if column is not None:
        held: Mask = _spread(column.codes != 0, relation.length)
        return held
    blocks, position = _blocks(run, call, relation)
    held = np.concatenate([np.array([v is not None and v is not False for v in b], dtype=np.bool_) for b in blocks])
    mask: Mask = held if position is None else held[position]
    return mask


def column_of(run: Run, call: CallTree, relation: Relation) -> Column:
    """The result of a call for each row; nil is the interned nil."""
    if not relation.length:
        return Column(EMPTY, Kind.LONG)
    column = _column_form(run, call, relation)
    if column is not None:
        return Column(_spread(column.codes, relation.length), column.kind)
    if call.name == "get-else" and call.builtin is not None and call.builtin.source:
        found = _get_else(run, call, relation)
        if found is not None:
            return found
    blocks, position = _blocks(run, call, relation)
    parts: list[Column] = []
    for values in blocks:
        try:
            parts.append(encode_column(values, run.codes))
        except DatalogError as error:
            raise _failed(call, None, error) from error
    if len(parts) == 1:
        column = parts[0]
    else:
        if len({p.kind for p in parts}) > 1:
            parts = [interned(p, run.codes) for p in parts]
        column = Column(np.concatenate([p.codes for p in parts]), parts[0].kind)
    return column if position is None else column.take(position)


def distinct_values(run: Run, call: CallTree, relation: Relation) -> tuple[list[Any], Rows | None]:
    """(results for distinct rows of arguments, for each row the position of its result or None: one for each row)."""
    blocks, position = _blocks(run, call, relation)
    return [v for block in blocks for v in block], position


def _blocks(run: Run, call: CallTree, relation: Relation) -> tuple[Iterable[list[Any]], Rows | None]:
    """The same with the results in blocks, made one after the other; at least one block."""
    function = run.function(call)
    operands = [_operand(run, a, relation) for a in call.arguments]
    columns = [o for o in operands if isinstance(o, Column)]
    pure = call.builtin is None or call.builtin.pure
    if not columns:
        fixed = [o[0] for o in operands]  # type: ignore[index]
        values = [_apply(call, function, fixed) for _ in range(1 if pure else relation.length)]
        run.budget.charge_values(values)
        return [values], np.zeros(relation.length, dtype=np.intp) if pure else None
    position = None
    if relation.length > _FEW and pure:
        run.budget.reserve(relation.length, 4, _NANOSECONDS_TO_SORT)
        key = kernels.pack([c.codes for c in columns])
        unique, inverse = kernels.inverse(key)
        if unique.size < relation.length:
            first = np.empty(unique.size, dtype=np.intp)
            first[inverse[::-1]] = np.arange(relation.length - 1, -1, -1, dtype=np.intp)
            operands = [o.take(first) if isinstance(o, Column) else o for o in operands]
            position = inverse
    length = relation.length if position is None else next(o for o in operands if isinstance(o, Column)).codes.size
    return _called(run, call, function, operands, length), position


def _called(
    run: Run, call: CallTree, function: Callable[..., Any], operands: list[Any], length: int
) -> Iterator[list[Any]]:
    """Blocks of results of a call over columns and constants."""
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        lists = [
            decode_column(Column(o.codes[start:end], o.kind), run.codes)
            if isinstance(o, Column)
            else [o[0]] * (end - start)
            for o in operands
        ]
        results: list[Any] = []
        for i, arguments in enumerate(zip(*lists, strict=True)):
            if not i % _CHECK_EVERY:
                run.budget.check()
            try:
                results.append(function(*arguments))
            except DatalogError:
                raise
            except Exception as error:
                raise _failed(call, arguments, error) from error
        run.budget.charge_values(results)
        yield results


def scalar(run: Run, call: CallTree, values: dict[str, Any]) -> Any:
    """The result of a call for one row given as Python values."""
    arguments: list[Any] = []
    for argument in call.arguments:
        if isinstance(argument, Var):
            arguments.append(values[argument.name])
        elif isinstance(argument, CallTree):
            arguments.append(scalar(run, argument, values))
        else:
            arguments.append(run.raw(argument))
    return _apply(call, run.function(call), arguments)


def _apply(call: CallTree, function: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return function(*arguments)
    except DatalogError:
        raise
    except Exception as error:
        raise _failed(call, tuple(arguments), error) from error


def _failed(call: CallTree, arguments: tuple[Any, ...] | None, error: Exception) -> Exception:
    """The error for a function that failed, with the clause and the arguments shown."""
    shown = "" if arguments is None else f" for {' '.join(show(a) for a in arguments)}"
    reason = getattr(error, "message", None) or str(error) or type(error).__name__
    what = "query/bad-value" if isinstance(error, DatalogError) else "query/function-failed"
    return query_error(what, f"{term_text(call)} failed{shown}: {reason}.".replace("..", "."), call.text, call.at)


def _operand(run: Run, argument: Any, relation: Relation) -> Column | tuple[Any]:
    """A column, or a one-tuple with the value that is the same for all rows."""
    if isinstance(argument, Var):
        return relation.columns[argument.name]
    if isinstance(argument, CallTree):
        return column_of(run, argument, relation)
    return (run.raw(argument),)


def _spread(codes: Any, length: int) -> Any:
    """An array of one element made as long as the relation."""
    array = np.atleast_1d(codes)
    return np.full(length, array[0], dtype=array.dtype) if array.size == 1 and length != 1 else array


def _column_form(run: Run, call: CallTree, relation: Relation) -> Column | None:
    """The result by the built-in's column form, or None when it has none for these operands."""
    form = call.builtin.column if call.builtin is not None else None
    if form is None or not relation.length:
        return None
    operands: list[Any] = []
    for argument in call.arguments:
        if isinstance(argument, Var):
            column = relation.columns[argument.name]
            operands.append((column.kind, column.codes))
        elif isinstance(argument, CallTree):
            inner = _column_form(run, argument, relation)
            if inner is None:
                return None
            operands.append((inner.kind, inner.codes))
        elif isinstance(argument, Const | Param):
            operands.append(run.operand(argument))
        else:
            return None
    found = form(*operands)
    if found is None and len(operands) == 2:
        found = _interned_form(run, call, operands)
    return None if found is None else Column(found[1], found[0])


def _interned_form(run: Run, call: CallTree, operands: list[Any]) -> Any:
    """Comparisons of interned columns with each other: equality by code, order by the ranks of the distinct values."""
    (left_kind, left), (right_kind, right) = operands
    if call.name in ("=", "not=", "!="):
        if left_kind is not Kind.INTERNED and right_kind is not Kind.INTERNED:
            same: Any = np.zeros(1, dtype=np.int64) if left_kind is not right_kind else None
        else:
            codes = [
                interned(Column(np.atleast_1d(np.asarray(c, dtype=np.int64)), k), run.codes).codes for k, c in operands
            ]
            same = (codes[0] == codes[1]).astype(np.int64)
        if same is None:
            return None
        return Kind.BOOLEAN, same if call.name == "=" else 1 - same
    if left_kind is Kind.INTERNED and right_kind is Kind.INTERNED and call.name in ("<", ">", "<=", ">="):
        return _by_rank(run, call.name, left, right)
    return None


def _by_rank(run: Run, name: str, left: Any, right: Any) -> Any:
    """Order comparison of interned codes; numbers among the values are left to the scalar form."""
    both = [np.atleast_1d(np.asarray(c, dtype=np.int64)) for c in (left, right)]
    unique, position = kernels.inverse(np.concatenate(both))
    values = run.codes.decode_many(unique)
    if not all(isinstance(v, str | Keyword) for v in values):
        return None
    order = sorted(range(len(values)), key=lambda i: _Ordered(values[i]))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values), dtype=np.int64)
    row = ranks[position]
    a, b = row[: both[0].size], row[both[0].size :]
    result = {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[name]
    return Kind.BOOLEAN, result.astype(np.int64)


class _Ordered:
    """A value that sorts by the order of `<`."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Ordered) -> bool:
        return less(self.value, other.value)


# functions that read the database ------------------------------------------------------------------------------------


def _constant_attribute(run: Run, call: CallTree, position: int) -> Any:
    """(view, attribute or None) of a source function whose attribute is a constant; None when it is not."""
    source, given = call.arguments[0], call.arguments[position]
    assert isinstance(source, Source)
    if not isinstance(given, Const | Param):
        return None
    view = run.view(source.name)
    return view, view.snapshot.schema.find(str(run.value_of(given)))


def _entities(call: CallTree, relation: Relation) -> Column | None:
    """The entity column of a source function, when it is a column of longs."""
    given = call.arguments[1]
    column = relation.columns[given.name] if isinstance(given, Var) else None
    return column if column is not None and column.kind is Kind.LONG else None


def _missing(run: Run, call: CallTree, relation: Relation) -> Mask | None:
    found, column = _constant_attribute(run, call, 2), _entities(call, relation)
    if found is None or column is None:
        return None
    view, attribute = found
    if attribute is None:
        return np.ones(relation.length, dtype=np.bool_)
    rows = view.snapshot.gather(attribute.aid, column.codes)[0]
    result = np.ones(relation.length, dtype=np.bool_)
    result[rows] = False
    return result


def _get_else(run: Run, call: CallTree, relation: Relation) -> Column | None:
    found, column = _constant_attribute(run, call, 2), _entities(call, relation)
    default = call.arguments[3]
    if found is None or column is None or not isinstance(default, Const | Param):
        return None
    view, attribute = found
    if attribute is None or attribute.many:
        return None
    kind, code = run.operand(default)
    rows, v, *_ = view.snapshot.gather(attribute.aid, column.codes)
    value = run.local(view, Column(v, attribute.kind))
    if value.kind is not kind:
        value = interned(value, run.codes)
        code = int(interned(Column(np.array([code], dtype=np.int64), kind), run.codes).codes[0])
        kind = Kind.INTERNED
    codes = np.full(relation.length, code, dtype=np.int64)
    codes[rows] = value.codes
    return Column(codes, kind)


def source_function(run: Run, call: CallTree) -> Callable[..., Any]:
    """The scalar form of get-else, get-some and missing? against its source."""
    source = call.arguments[0]
    assert isinstance(source, Source)
    view = run.view(source.name)
    snapshot = view.snapshot

    def values(entity: Any, ident: Any) -> list[Any]:
        eid = entity if type(entity) is int else None
        if eid is None and is_lookup(entity):
            try:
                eid = snapshot.entid(entity)
            except UserError:
                return []  # a value from the data that only looks like a lookup ref
        attribute = snapshot.schema.find(str(ident)) if isinstance(ident, Keyword | str) else None
        if eid is None or attribute is None:
            return []
        codes = snapshot.values(eid, attribute.aid)
        column = run.local(view, Column(np.array(codes, dtype=np.int64), attribute.kind))
        return decode_column(column, run.codes)

    def least(found: list[Any]) -> Any:
        return min(map(_Ordered, found)).value

    def get_else(_source: Any, entity: Any, ident: Any, default: Any) -> Any:
        found = values(entity, ident)
        return least(found) if found else default

    def get_some(_source: Any, entity: Any, *idents: Any) -> Any:
        for ident in idents:
            found = values(entity, ident)
            if found:
                return (Keyword(str(ident)), least(found))
        return None

    def missing(_source: Any, entity: Any, ident: Any) -> bool:
        return not values(entity, ident)

    return {"get-else": get_else, "get-some": get_some, "missing?": missing}[call.name]


def raw_argument(run: Run, argument: Any) -> Any:
    """The Python value of an argument that is the same for all rows."""
    if isinstance(argument, Const):
        return argument.value
    if isinstance(argument, Param):
        return run.param(argument.name)
    if isinstance(argument, Name):
        return run.name(argument.name)
    return None  # a source: the function knows its own
