"""Coverage, imports and verifications as text, EDN or JSON. Takes their plain data; opens no database and no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from store.edn import Keyword, Map, write_edn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from migration.importer import ImportReport
    from migration.keymap import Coverage
    from migration.verify import Verification

__all__ = ["as_edn", "as_json", "coverage_text", "import_text", "verification_text"]

_SHOWN: Final = 20


def as_json(data: Mapping[str, Any]) -> str:
    """The data of a report's `as_dict` as JSON text, indented."""
    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def as_edn(data: Mapping[str, Any]) -> str:
    """The data of a report's `as_dict` as EDN text: names become keywords, `by_kind` :by-kind."""
    return write_edn(_keyed(data))


def _keyed(data: Any) -> Any:
    if isinstance(data, dict):
        return Map([(_name(str(k)), _keyed(v)) for k, v in data.items()])
    return [_keyed(v) for v in data] if isinstance(data, list) else data


def _name(text: str) -> Any:
    """A keyword where the name is one; what people have named, such as `query :session/owner`, stays a string."""
    return Keyword(text.replace("_", "-")) if text.isidentifier() or text.replace("-", "_").isidentifier() else text


def coverage_text(coverage: Coverage) -> str:
    """Which rule caught how many keys, a rule a line; what fell to the generic rule, and what would be lost."""
    lines = [f"{coverage.keys:,} keys, {coverage.tried:,} of them mapped and rebuilt on trial"]
    width = max((len(str(kind)) for kind in coverage.by_kind), default=0)
    lines += [f"  {kind!s:<{width}}  {n:>9,}" for kind, n in sorted(coverage.by_kind.items(), key=lambda kn: -kn[1])]
    lines += [
        f"  {n:,} of {kind} have another shape than its rule expects: kept by the generic rule"
        for kind, n in sorted(coverage.fell.items())
    ]
    return "\n".join(lines)


def import_text(report: ImportReport) -> str:
    """What an import did, in a few lines."""
    rate = report.keys / report.seconds if report.seconds else 0
    done = f"added {report.added:,}, changed {report.changed:,}, deleted {report.deleted:,}, unchanged {report.unchanged:,}"
    took = f"{report.seconds:.2f} s ({rate:,.0f} keys/s, {report.cpu_seconds:.2f} s CPU, {report.commits} commits)"
    return f"{coverage_text(report.coverage)}\n{done} in {took}"


def verification_text(outcome: Verification) -> str:
    """The outcome of a verification: one line when all is equal, else the first findings with their paths."""
    took = f"{outcome.seconds:.2f} s"
    if outcome.equal:
        return f"{outcome.same:,} of {outcome.keys:,} keys equal, digest {outcome.memory_digest:016x} on both sides ({took})"
    counts = ", ".join(f"{n:,} {what}" for what, n in sorted(outcome.counts.items()))
    lines = [f"{outcome.same:,} of {outcome.keys:,} keys equal; {counts or 'digests differ'} ({took})"]
    for finding in outcome.findings[:_SHOWN]:
        data = finding.as_dict()
        lines.append(f"  {finding.what} {finding.key}: {finding.message}")
        if "path" in data:
            where = " ".join(data["path"]) or "the whole value"
            lines += [f"    at {where}", f"      memory   {data['wanted']}", f"      database {data['found']}"]
    more = sum(outcome.counts.values()) - _SHOWN
    return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])
