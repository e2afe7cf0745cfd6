"""What a transaction did and what a check found, as lines and figures; shared by the commands and the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from datalog.render import cut, edn_text, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from datalog import TxReport
    from store.check import Finding

MOST: Final = 20  # datoms shown
_WIDTH: Final = 100


def report_figures(report: TxReport) -> dict[str, Any]:
    """The transaction's id, how many datoms it asserted and retracted, and the ids of its tempids."""
    asserted = sum(1 for datom in report.tx_data if datom.added)
    return {
        "tx": report.tx,
        "asserted": asserted,
        "retracted": len(report.tx_data) - asserted,
        "tempids": {str(k): v for k, v in report.tempids.items()},
    }


def change_lines(report: TxReport, most: int = MOST) -> Iterator[str]:
    """A line for each datom, the first `most` of them: + [17 :person/name "Ada"]."""
    datoms = report.tx_data
    for datom in datoms[:most]:
        yield cut(f"{'+' if datom.added else '-'} [{datom.e} {datom.a} {plain(edn_text(datom.v))}]", _WIDTH) + "\n"
    if len(datoms) > most:
        yield f"  ... {len(datoms) - most:,} more\n"


def finding_lines(findings: Sequence[Finding], counts: Mapping[str, int]) -> Iterator[str]:
    """A line for each finding, and one that says how many there are and what was looked at."""
    for found in findings:
        yield f"{found.code}: {found.message}" + (f" ({found.place})" if found.place else "") + "\n"
    checked = "".join(f"; {n:,} {what}" if i == 0 else f", {n:,} {what}" for i, (what, n) in enumerate(counts.items()))
    yield f"{f'{len(findings):,}' if findings else 'no'} finding{'' if len(findings) == 1 else 's'}{checked}\n"
