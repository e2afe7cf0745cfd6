"""The commands of a memory on its way: `datalog memory status`, `plan`, `backfill`, `stage`, `rollback` and their like.

Each opens the memory, or sends itself to the process that has it open, prints what came back, and exits with 0, or with 1
when something was found: a refused plan, an unfinished backfill, a difference. They decide nothing: operations.py does.
"""

# ruff: noqa: T201 - commands print

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from migration import report
from migration.control import send
from migration.memory import MemoryStore
from migration.modes import READS, STAGES, WRITES
from migration.operations import carry_out
from store.errors import StoreLocked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from migration.keymap import KeyMap

__all__ = ["STAGED", "ask", "run_staged"]

_LIMITS: Final = ("read_ratio", "read_slack_us", "query_ratio", "save_ratio", "error_rate", "shadow_reads")

STAGED: Final[dict[str, str]] = {
    "status": "where every kind of data stands, counted in the stores; --watch goes on showing it",
    "plan": "what the gate of the next move says, with its figures; changes nothing",
    "backfill": "fill the database with what the file has held all along; goes on where it stopped",
    "repair": "bring keys that differ to what one side holds; --dry-run only says so",
    "stage": "move kinds of data to a stage, or set read preference and write destination apart",
    "rollback": "move down to an earlier stage, from any; loses no save",
    "archive": "put the EDN side away after the last stage",
    "report": "the completion report; --to DIR writes Markdown, EDN, JSON and plots",
}


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"datalog memory {name}", description=STAGED[name].capitalize() + ".")
    parser.add_argument("file", type=Path, metavar="FILE", help="the EDN memory file")
    parser.add_argument("--db", required=True, type=Path, metavar="PATH", help="the database's directory")
    parser.add_argument(
        "--keymap", type=Path, metavar="EDN", help="rules and schema put in front of the built-in mapping"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, default=None, help="show progress; default: on a terminal"
    )
    if name in ("plan", "stage", "rollback", "backfill"):
        parser.add_argument(
            "--kind", action="append", dest="kinds", metavar="KIND", help="only this kind of data; may be repeated"
        )
    if name in ("plan", "stage"):
        parser.add_argument(
            "--percent", type=int, default=100, metavar="N", help="the share of the keys that moves; default: 100"
        )
        for limit in _LIMITS:
            parser.add_argument(
                f"--{limit.replace('_', '-')}", type=_limit, metavar="X", help="limit of the gate; none: leave it out"
            )
    if name in ("stage", "rollback", "archive"):
        parser.add_argument("--who", help="for the history; default: the user")
        parser.add_argument("--why", default="", help="for the history")
    if name in _FURTHER:
        _FURTHER[name](parser)
    return parser


def _limit(text: str) -> float | None:
    return None if text == "none" else float(text)


def _of_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="show it again and again")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two views; default: 1")
    parser.add_argument("--count", type=int, metavar="N", help="end after N views")


def _of_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", nargs="?", choices=STAGES, help="the stage; default: the next one")


def _of_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", nargs="?", choices=STAGES, help="the stage")
    parser.add_argument("--reads", choices=READS, help="read preference, instead of the stage's own")
    parser.add_argument("--writes", choices=WRITES, help="write destination, instead of the stage's own")
    parser.add_argument("--force", action="store_true", help="move although the gate refuses; recorded")


def _of_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=STAGES[:-1], default=STAGES[0], help=f"the stage; default: {STAGES[0]}")


def _of_backfill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunk", type=int, metavar="N", help="keys written at a time")
    parser.add_argument("--keys-per-s", type=float, metavar="X", help="no faster than this")
    parser.add_argument("--share", type=float, metavar="X", help="share of the time it may work, up to 1")


def _of_repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", choices=("edn", "database"), default="edn", help="the side that is right"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--how", choices=("full", "incremental", "sample"), default="full", help="how to look")


def _of_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", dest="folder", type=Path, metavar="DIR", help="write the report and its plots there")


_FURTHER: Final[dict[str, Callable[[argparse.ArgumentParser], None]]] = {
    "status": _of_status, "plan": _of_plan, "stage": _of_stage, "rollback": _of_rollback, "backfill": _of_backfill,
    "repair": _of_repair, "report": _of_report,
}  # fmt: skip


def ask(
    file: Path, database: Path, keymap: KeyMap, name: str, arguments: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """What an operation gives: on the memory opened here, or in the process that has it open."""
    try:
        with MemoryStore(file, database, keymap=keymap, commands=False) as memory:
            return carry_out(memory, name, arguments, progress)
    except StoreLocked as e:
        if e.code != "memory/locked":
            raise
        return send(file, name, arguments, progress)


def run_staged(
    name: str, arguments: list[str], keymap_of: Callable[[Path | None], KeyMap], bar: Callable[..., Any]
) -> int:
    """Runs one of `STAGED`; returns the exit code."""
    given = _parser(name).parse_intermixed_args(arguments)
    keymap = keymap_of(given.keymap)
    if name == "status" and given.watch:
        return _watch(given, keymap)
    left = {"file", "db", "keymap", "json", "progress", "watch", "every", "count", *_LIMITS}
    asked = {n: str(v) if isinstance(v, Path) else v for n, v in vars(given).items() if n not in left}
    if asked.get("folder"):
        asked["folder"] = str(Path(asked["folder"]).absolute())  # another process may write it
    limits = {n: getattr(given, n, None) for n in _LIMITS}
    spoken = {word.partition("=")[0] for word in arguments}
    asked["limits"] = {n: v for n, v in limits.items() if f"--{n.replace('_', '-')}" in spoken}
    with bar(sys.stderr, shown=given.progress) as shown:
        found = ask(given.file, given.db, keymap, name, asked, shown)
    print(report.as_json(found) if given.json else _TEXTS.get(name, _plain)(found))
    return 1 if found.get("found") is True else 0


def _watch(given: argparse.Namespace, keymap: KeyMap) -> int:
    """The running migration: progress, rates, what is on the way, mismatches, latencies; a view every second."""
    before: dict[str, Any] | None = None
    n = 0
    while given.count is None or n < given.count:
        if n:
            time.sleep(given.every)
        status = ask(given.file, given.db, keymap, "status", {}, lambda _s, _d, _o: None)
        if given.json:
            print(report.as_json(status), flush=True)
        else:
            clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
            print(f"{clear}{_status_text(status)}\n{_rates(before, status, given.every)}", flush=True)
        before = status
        n += 1
    return 0


def _rates(before: dict[str, Any] | None, now: dict[str, Any], seconds: float) -> str:
    if before is None:
        return ""

    def rate(name: str) -> float:
        return float(now[name] - before[name]) / seconds

    def keys(status: dict[str, Any]) -> int:
        return sum(k["database_keys"] for k in status["kinds"].values())

    return (
        f"rates: {rate('reads'):,.0f} reads/s, {rate('saves'):,.0f} saves/s, {rate('drained'):,.0f} drained/s, "
        f"{(keys(now) - keys(before)) / seconds:,.0f} keys filled/s"
    )


def _status_text(s: dict[str, Any]) -> str:
    out = [f"stage {s['stage']}, sequence {s['sequence']}{', archived' if s['archived'] else ''}, process {s['pid']}"]
    out.append(
        f"{'kind':<10} {'stage':<14} {'share':>5}  {'reads':<14} {'writes':<8} {'EDN':>9} {'database':>9}  filled"
    )
    for name, k in s["kinds"].items():
        reads = k["reads"] if k["reads"] == k["reads_now"] else f"{k['reads_now']} ({k['reads']})"
        out.append(
            f"{name:<10} {k['stage']:<14} {k['percent']:>4}%  {reads:<14} {k['writes']:<8} {k['edn_keys']:>9,} "
            f"{k['database_keys']:>9,}  {k['database']}"
        )
    failing = f", failing: {s['failing']}" if s["failing"] else ""
    out.append(f"pending {s['pending']:,}{failing}; refused {len(s['refused'])}; drained {s['drained']:,}")
    shadow = s["shadow"]
    out.append(f"shadow reads compared {shadow['compared']:,}, mismatched {shadow['mismatched']:,}")
    out += [f"  {m['key']}: EDN {m['edn']}, database {m['datalog']}" for m in shadow["mismatches"][:5]]
    for stage, found in s["telemetry"]["latencies"].items():
        for name, h in found.items():
            out.append(
                f"  {stage:<14} {name:<24} {h['count']:>9,}  p50 {h['p50_us']:>9,.1f}  p95 {h['p95_us']:>9,.1f} us"
            )
    return "\n".join(out)


def _gate_text(found: dict[str, Any]) -> str:
    lines = [f"to {found['target']}: {'may move' if found['passed'] else 'refused'}"]
    lines += [
        f"  {'ok  ' if c['passed'] else 'FAIL'} {c['name']}: {c['found']} (wanted: {c['wanted']})"
        for c in found["checks"]
    ]
    return "\n".join(lines)


def _stage_text(found: dict[str, Any]) -> str:
    if "gate" not in found:
        return f"stage {found['stage']}, reads {found['reads'] or 'as the stage'}, writes {found['writes'] or 'as the stage'}"
    return f"{_gate_text(found['gate'])}\nstage {found['stage']}, sequence {found['sequence']}"


def _plain(found: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in found.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", _plain(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{name}:", *(f"{indent}  {_one_line(v)}" for v in value[:20])]
            if len(value) > 20:
                lines.append(f"{indent}  and {len(value) - 20} more")
        elif name != "found" or not isinstance(value, bool):
            lines.append(f"{indent}{name}: {value:,}" if type(value) is int else f"{indent}{name}: {value}")
    return "\n".join(lines)


def _one_line(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {v}" for n, v in value.items())


def _report_text(found: dict[str, Any]) -> str:
    from migration.finish import completion_text  # noqa: PLC0415

    return completion_text(found).rstrip()


_TEXTS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "status": _status_text, "plan": _gate_text, "stage": _stage_text, "report": _report_text,
}  # fmt: skip
