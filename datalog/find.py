"""Find: the root's relation -> what the caller gets. Expressions, aggregates, :having, :order-by, :limit, pulls, shape.

Place on the path: the last step of a query. Takes the distinct rows over the variables of `:find`, `:with`, `:having` and
`:order-by`; gives a `Result`, a list, a tuple, a value or maps, by the find spec.

Order of work: group and aggregate, keep what `:having` holds for, sort, make distinct, cut, and only then decode and pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datalog import calls, kernels
from datalog.aggregates import Groups
from datalog.engine import row_count, rows_are_shown
from datalog.errors import DatalogError, QueryError, query_error, show
from datalog.plan import AggregateTree, CallTree, Param, Var, term_text
from datalog.pull import pull_values
from datalog.pull_parser import parse_pattern
from datalog.relation import Column, Relation, decode_column
from datalog.result import KeyedRow, Result, ResultColumn
from store.edn import Keyword
from store.value import Kind, order_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datalog.engine import Run
    from datalog.plan import Output

    Rows = NDArray[np.intp]

    Made = Column | list[Any]  # a column of codes, or values that no column holds (pulled maps, sets)


_NANOSECONDS_TO_SORT = 100  # a row
_NANOSECONDS_TO_DECODE = 150  # a value


def shape(run: Run, relation: Relation) -> Any:
    """The answer in the shape that `:find` asks for."""
    plan = run.plan
    columns, relation = _grouped(run, relation) if plan.group is not None else _plain(run, relation)
    run.budget.check()
    columns, relation = _ordered(run, columns, relation)
    columns = _cut(run, columns)
    run.budget.check()
    length = _length(columns[0])
    run.budget.charge_rows(length)
    return _shaped(run, [_finished(run, o, c) for o, c in zip(plan.outputs, columns, strict=True)], length)


# rows ----------------------------------------------------------------------------------------------------------------


def _plain(run: Run, relation: Relation) -> tuple[list[Made], Relation]:
    """The output columns when nothing is aggregated."""
    for call in run.plan.having:
        relation = relation.keep(calls.truth(run, call, relation))
    return [_column(run, o, relation) for o in run.plan.outputs], relation


def _column(run: Run, output: Output, relation: Relation) -> Column:
    """The column of a variable, an input or an expression over them."""
    if output.expression is not None:
        return calls.column_of(run, output.expression, relation)
    if isinstance(output.term, Param):
        kind, code = run.operand(output.term)
        return Column(np.full(relation.length, code, dtype=np.int64), kind)
    return relation.columns[output.term.name]


def _grouped(run: Run, relation: Relation) -> tuple[list[Made], Relation]:
    """The output columns of groups; the relation that comes back holds the grouped variables, a row for each group."""
    plan = run.plan
    by = [n for n in plan.group or () if n in relation.columns]
    if not relation.length:  # an aggregate over no rows gives no row, as in Datomic
        return [[] for _ in plan.outputs], Relation({}, 0, None)
    if by:
        run.budget.reserve(relation.length, len(relation.columns) + 4, _NANOSECONDS_TO_SORT)
        order, starts = kernels.group_rows([relation.columns[n].codes for n in by])
        relation = relation.take(order)
    else:
        starts = np.zeros(1, dtype=np.intp)
    groups = Groups(starts, relation.length)
    heads = Relation({n: relation.columns[n].take(starts) for n in by}, int(starts.size), None)
    kept: Rows | None = None
    for call in plan.having:
        values = _group_values(run, call, relation, groups, heads)
        held = np.array([v is not None and v is not False for v in _listed(run, values)], dtype=np.bool_)
        kept = np.flatnonzero(held) if kept is None else kept[held[kept]]
    columns: list[Made] = []
    for output in plan.outputs:
        tree = output.expression
        made = _group_values(run, tree, relation, groups, heads) if tree is not None else _column(run, output, heads)
        columns.append(made if kept is None else _take(made, kept))
    return columns, heads if kept is None else heads.take(kept)


def _group_values(run: Run, tree: Any, relation: Relation, groups: Groups, heads: Relation) -> Made:
    """The value of an expression over aggregates for each group."""
    if isinstance(tree, AggregateTree):
        return _aggregate(run, tree, relation, groups)
    if isinstance(tree, Var):
        return heads.columns[tree.name]
    if isinstance(tree, CallTree):
        if not any(_aggregates(a) for a in tree.arguments):
            return calls.column_of(run, tree, heads)
        arguments = [_listed(run, _group_values(run, a, relation, groups, heads)) for a in tree.arguments]
        function = run.function(tree)
        return [_called(tree, function, row) for row in zip(*arguments, strict=True)]
    return [run.raw(tree)] * heads.length


def _called(tree: CallTree, function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except DatalogError:
        raise
    except Exception as error:
        shown = " ".join(map(show, arguments))
        message = f"{term_text(tree)} failed for {shown}: {error or type(error).__name__}."
        raise query_error("query/function-failed", message, tree.text, tree.at) from error


def _aggregates(tree: Any) -> bool:
    if isinstance(tree, AggregateTree):
        return True
    return isinstance(tree, CallTree) and any(map(_aggregates, tree.arguments))


def _aggregate(run: Run, tree: AggregateTree, relation: Relation, groups: Groups) -> Made:
    """An aggregate over each group, by its column form where it has one."""
    if isinstance(tree.argument, CallTree):
        column = calls.column_of(run, tree.argument, relation)
    elif isinstance(tree.argument, Var):
        column = relation.columns[tree.argument.name]
    else:
        kind, code = run.operand(tree.argument)
        column = Column(np.full(relation.length, code, dtype=np.int64), kind)
    form = tree.function.column if tree.function is not None else None
    if form is not None and not tree.parameters:
        found = form(groups, column.kind, column.codes)
        if found is not None:
            return Column(found[1], found[0])
    if tree.name == "count-distinct" and tree.callable_input is None:
        return _count_distinct(column, groups)
    run.budget.reserve(column.codes.size, 8, _NANOSECONDS_TO_DECODE)
    values = decode_column(column, run.codes)
    parameters = [run.raw(p) for p in tree.parameters]
    function = tree.function.scalar if tree.function is not None else _callable(run, tree)
    ends = [*groups.starts.tolist()[1:], groups.length]
    made: list[Any] = []
    for start, end in zip(groups.starts.tolist(), ends, strict=True):
        run.budget.check()
        made.append(_applied(run, tree, function, parameters, values[start:end]))
    return made


def _callable(run: Run, tree: AggregateTree) -> Any:
    name = tree.callable_input or ""
    found = run.param(name) if name.startswith("?") else run.name(name)
    if not callable(found):
        raise QueryError("query/not-callable", f"The input {name} is called, but it is {show(found)}.")
    return found


def _applied(run: Run, tree: AggregateTree, function: Any, parameters: list[Any], values: list[Any]) -> Any:
    try:
        return function(*parameters, values)
    except DatalogError:
        raise
    except Exception as error:
        message = f"{term_text(tree)} failed: {error or type(error).__name__}."
        raise query_error("query/function-failed", message, run.plan.query.text, tree.at) from error


def _count_distinct(column: Column, groups: Groups) -> Column:
    """Distinct codes of each group."""
    group = np.repeat(np.arange(groups.starts.size, dtype=np.int64), groups.counts())
    rows = kernels.distinct_rows([group, column.codes])
    found = group if rows is None else group[rows]
    return Column(np.bincount(found, minlength=groups.starts.size).astype(np.int64), Kind.LONG)


# order and cut -------------------------------------------------------------------------------------------------------


def _ordered(run: Run, columns: list[Made], relation: Relation) -> tuple[list[Made], Relation]:
    """Rows sorted by :order-by, each distinct row once."""
    plan = run.plan
    length = _length(columns[0])
    if plan.order and length > 1:
        keys = []
        for key in plan.order:
            made = columns[key.column] if key.column is not None else _order_column(run, key.variable, relation)
            run.budget.reserve(length, 4, _NANOSECONDS_TO_SORT)
            ranked = _ranks(run, made)
            keys.append(ranked if key.ascending else ~ranked)
        run.budget.reserve(length, len(columns) + len(keys) + 2, _NANOSECONDS_TO_SORT * len(keys))
        rows = kernels.sort_rows(keys[0])[1] if len(keys) == 1 else np.lexsort(keys[::-1])
        columns = [_take(c, rows) for c in columns]
        relation = relation.take(rows)
    if plan.group is None and not plan.query.with_ and not rows_are_shown(plan):
        codes = [c.codes for c in columns if isinstance(c, Column)]
        run.budget.reserve(length, len(codes) + 4, _NANOSECONDS_TO_SORT)
        rows_or_all = kernels.distinct_rows(codes) if codes and length > 1 else None
        if rows_or_all is not None:
            columns = [_take(c, rows_or_all) for c in columns]
    return columns, relation


def _order_column(run: Run, variable: str | None, relation: Relation) -> Made:
    assert variable is not None
    if variable in relation.columns:
        return relation.columns[variable]
    return [run.param(variable)] * relation.length


def _ranks(run: Run, made: Made) -> Any:
    """Integers that sort as the values do, by the total order."""
    if isinstance(made, Column) and made.kind is not Kind.INTERNED:
        return made.codes
    if isinstance(made, Column):
        unique, position = kernels.inverse(made.codes)
        run.budget.reserve(unique.size, 30, _NANOSECONDS_TO_DECODE)
        values = run.codes.decode_many(unique)
    else:
        values, position = made, np.arange(len(made), dtype=np.intp)
    run.budget.reserve(len(values), 20, _NANOSECONDS_TO_DECODE)
    keys = [order_key(v) for v in values]
    table: dict[bytes, int] = {k: i for i, k in enumerate(sorted(set(keys)))}
    ranks = np.array([table[k] for k in keys], dtype=np.int64)
    return ranks[position]


def _cut(run: Run, columns: list[Made]) -> list[Made]:
    """The rows that :offset and :limit leave."""
    query = run.plan.query
    offset, limit = row_count(run, query.offset, "offset") or 0, row_count(run, query.limit, "limit")
    if query.shape in ("scalar", "tuple"):
        limit = 1 if limit is None else min(limit, 1)
    if not offset and limit is None:
        return columns
    end = None if limit is None else offset + limit
    return [Column(c.codes[offset:end], c.kind) if isinstance(c, Column) else c[offset:end] for c in columns]


# values --------------------------------------------------------------------------------------------------------------


def _length(made: Made) -> int:
    return int(made.codes.size) if isinstance(made, Column) else len(made)


def _take(made: Made, rows: Rows) -> Made:
    return made.take(rows) if isinstance(made, Column) else [made[r] for r in rows.tolist()]


def _listed(run: Run, made: Made) -> list[Any]:
    return decode_column(made, run.codes) if isinstance(made, Column) else made


def _finished(run: Run, output: Output, made: Made) -> Made:
    """A pulled column as its maps, others as they are."""
    if output.pull_source is None:
        return made
    view = run.view(output.pull_source)
    raw = output.pull_pattern if output.pull_input is None else _pattern_input(run, output.pull_input)
    pattern = parse_pattern(raw, view.snapshot.schema)
    return pull_values(view.snapshot, pattern, _listed(run, made), run.budget)


def _pattern_input(run: Run, name: str) -> Any:
    return run.param(name) if name.startswith("?") else run.name(name)


def _shaped(run: Run, columns: list[Made], length: int) -> Any:
    plan = run.plan
    query = plan.query
    if query.shape != "relation" or query.keys is not None:
        run.budget.reserve(length, 8 * len(columns), _NANOSECONDS_TO_DECODE * len(columns))
    else:
        run.budget.reserve(length, 3 * len(columns), _NANOSECONDS_TO_SORT * len(columns))
    if query.shape == "scalar":
        return _listed(run, columns[0])[0] if length else None
    if query.shape == "collection":
        return list(_listed(run, columns[0]))
    if query.keys is not None:
        keys = [str(k) if isinstance(k, Keyword) else k for k in query.keys]
        rows = zip(*(_listed(run, c) for c in columns), strict=True)
        maps = [KeyedRow(zip(keys, row, strict=True)) for row in rows]
        return (maps[0] if maps else None) if query.shape == "tuple" else maps
    if query.shape == "tuple":
        return tuple(_listed(run, c)[0] for c in columns) if length else None
    made = [ResultColumn(c, run.codes) if isinstance(c, Column) else ResultColumn(None, None, c) for c in columns]
    return Result(tuple(o.name for o in plan.outputs), made, length, ordered=bool(plan.order))
