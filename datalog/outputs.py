"""Outputs: what `:find`, `:having` and `:order-by` make of the rows that a plan's root gives.

Place on the path: part of the planner; find.py carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datalog.aggregates import AGGREGATES, find_aggregate
from datalog.ast import Call, FindExpression, FindPull, NameArgument, argument_variables
from datalog.builtins import find_function
from datalog.errors import did_you_mean, query_error
from datalog.plan import AggregateTree, CallTree, Output, Var, term_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datalog.ast import Query
    from datalog.lower import Lowering, SourceInfo
    from datalog.plan import Order


class Outputs:
    """The columns of one query."""

    def __init__(
        self, query: Query, sources: Mapping[str, SourceInfo], params: frozenset[str], lowering: Lowering
    ) -> None:
        self._query = query
        self._sources = sources
        self._params = params
        self._lowering = lowering

    def variables(self) -> list[str]:
        """The variables of :find, :with, :having and :order-by, once each."""
        found: dict[str, None] = {}
        for element in self._query.find:
            if isinstance(element, FindExpression):
                found.update((v.name, None) for v in argument_variables(element.expression))
                for name in self.aggregate_inputs(element.expression):
                    found.pop(name, None)
            else:
                found[element.variable.name] = None
        found.update((v.name, None) for v in self._query.with_)
        found.update((v.name, None) for h in self._query.having for v in argument_variables(h.call))
        found.update((k.variable.name, None) for k in self._query.order if k.variable is not None)
        return list(found)

    def aggregate_inputs(self, call: Call) -> list[str]:
        """Variables in function position: callables, not columns."""
        here = [call.name] if call.name.startswith("?") else []
        return here + [n for a in call.arguments if isinstance(a, Call) for n in self.aggregate_inputs(a)]

    def group(self, outputs: Sequence[Output], order: Sequence[Order]) -> tuple[str, ...]:
        """The variables to group by: those of the outputs that do not aggregate."""
        found: dict[str, None] = {}
        for output in outputs:
            if not output.aggregated:
                for name in _free_variables(output.expression if output.expression is not None else output.term):
                    found[name] = None
        for key in order:
            if key.variable is not None and key.variable not in found:
                raise query_error(
                    "query/order",
                    f":order-by {key.variable} is not among the columns that are grouped by.",
                    self._query.text,
                    next(k.at for k in self._query.order if k.variable and k.variable.name == key.variable),
                    hint="order by an element of :find",
                )
        return tuple(found)

    def output(self, element: Any) -> Output:
        """One column of the answer."""
        if isinstance(element, FindPull):
            term = self._lowering.term(element.variable)
            source = self._sources.get(element.source)
            if source is None or source.snapshot is None:
                raise query_error("query/unknown-source", "pull needs a database.", self._query.text, element.at)
            return Output(
                element.variable.name[1:],
                term=term,
                pull_source=element.source,
                pull_pattern=element.pattern,
                pull_input=element.input_name,
            )
        if isinstance(element, FindExpression):
            tree = self.find_call(element.expression)
            name = " ".join(self._query.text[element.at[0] : element.at[1]].split()) or term_text(tree)
            return Output(name, expression=tree, aggregated=has_aggregate(tree))
        return Output(element.variable.name[1:], term=self._lowering.term(element.variable))

    def find_call(self, call: Call) -> Any:
        """A call in :find or :having: an aggregate where the name is one, else a function over such calls."""
        text = self._query.text
        aggregate = find_aggregate(call.name)
        custom = call.name in self._lowering.callables or (call.name.startswith("?") and call.name in self._params)
        if aggregate is None and not custom:
            function = self.function_or_fail(call)
            arguments = tuple(
                self.find_call(a) if isinstance(a, Call) else self._lowering.argument(a, text) for a in call.arguments
            )
            return CallTree(call.name, function, None, arguments, call.at, text)
        if not call.arguments:
            raise query_error(
                "query/arity", f"{call.name} needs a variable.", text, call.at, expected=f"({call.name} ?x)"
            )
        *parameters, last = call.arguments
        if aggregate is not None and len(parameters) > aggregate.parameters:
            takes = f"{aggregate.parameters + 1} arguments at most" if aggregate.parameters else "one argument"
            raise query_error("query/arity", f"The aggregate {call.name} takes {takes}.", text, call.at)
        inner = [self._lowering.argument(p, text) for p in parameters]
        if any(isinstance(p, Var | CallTree) for p in inner):
            raise query_error("query/syntax", f"The parameters of {call.name} are constants or inputs.", text, call.at)
        if isinstance(last, NameArgument):
            raise query_error("query/syntax", f"{call.name} takes a variable.", text, call.at)
        return AggregateTree(
            call.name,
            aggregate,
            call.name if custom else None,
            tuple(inner),
            self._lowering.argument(last, text),
            call.at,
        )

    def function_or_fail(self, call: Call) -> Any:
        """The function of a call outside of aggregates."""
        found = find_function(call.name)
        if found is None:
            near = did_you_mean(call.name, AGGREGATES)
            if near is None:
                self._lowering.unknown_function(call, self._query.text)
            raise query_error(
                "query/unknown-function", f"There is no aggregate {call.name}.", self._query.text, call.at, hint=near
            )
        if not any(isinstance(a, Call) for a in call.arguments):
            self._lowering.call(call, self._query.text)  # checks the number of arguments
        return found


def has_aggregate(tree: Any) -> bool:
    """Whether an aggregate is somewhere in an expression."""
    if isinstance(tree, AggregateTree):
        return True
    return isinstance(tree, CallTree) and any(map(has_aggregate, tree.arguments))


def _free_variables(tree: Any) -> list[str]:
    """The columns that a find expression reads outside of aggregates."""
    if isinstance(tree, Var):
        return [tree.name]
    if isinstance(tree, CallTree):
        return [n for a in tree.arguments for n in _free_variables(a)]
    return []
