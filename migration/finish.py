"""The end of a migration: the EDN side put away, and the report that says what was moved and how that was proved.

Takes an open `MemoryStore`.

`archive`, in this order: 1. every kind has to be in `datalog-only`; 2. the file, its backups and its journal are moved to
`<memory>.archive/`, an EDN export of the database beside them; 3. the record says archived; 4. the manifest, with the SHA-256
of each file, is written last: a folder with a manifest is whole. Killed in between, run it again. After a roll-back the next one
goes to `<memory>.archive.2/`: what was put away before stays as it is.

Afterwards the EDN side is neither opened nor imported. The way back in an emergency: any move down brings everything from the
database to a new file.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from migration.cutover import remember_latencies
from migration.files import replace_file, storage_error, sync_directory
from migration.journal import journal_files
from migration.modes import STAGES
from migration.plots import bars, lines
from migration.report import as_edn, as_json
from migration.source import write_memory
from migration.telemetry import Event
from store.edn import Keyword, Vector
from store.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from migration.memory import MemoryStore

__all__ = ["archive", "completion", "completion_text", "learning_index", "write_report"]

_MANIFEST: Final = "manifest.json"


def archive(memory: MemoryStore, *, who: str = "", why: str = "") -> dict[str, Any]:
    """Puts the EDN side away and returns the manifest.

    Raises:
        UserError: `memory/archive` when a kind still uses the EDN side. StorageError: a file could not be moved.
    """
    memory.open()
    still = [k.name for k in memory.keymap.data_kinds if any(m.uses_edn for m in memory.record.of(k).used_modes)]
    if still:
        raise UserError(
            "memory/archive",
            f"The EDN side is still in use, by {', '.join(still)}.",
            hint="move every kind to datalog-only first: datalog memory stage datalog-only ...",
        )
    files = [
        memory.file,
        *sorted(memory.file.parent.glob(f"{memory.file.name}.backup.*")),
        *journal_files(memory.file),
    ]
    files = [path for path in files if path.exists()]
    folder = _folder(memory, files)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        values = memory.get_all()
        out = io.StringIO()
        keys = write_memory(values.items(), out)
        replace_file(folder / "database.edn", [out.getvalue().encode("utf-8", "surrogatepass")], mode=0o600)
        for path in files:
            path.replace(folder / path.name)
        sync_directory(folder)
        sync_directory(memory.file.parent)
        with memory.turnstile.closed(), memory.lock:
            if not memory.record.archived:
                memory.set_record(
                    memory.record.put_away(folder.name, who=who, why=why or "archive", at=datetime.now(UTC))
                )
        described = {p.name: _described(p) for p in sorted(folder.iterdir()) if p.name != _MANIFEST}
        manifest: dict[str, Any] = {
            "memory": str(memory.file),
            "database": str(memory.side.path),
            "at": datetime.now(UTC).isoformat(),
            "keys": keys,
            "files": described,
        }
        replace_file(folder / _MANIFEST, [json.dumps(manifest, indent=2).encode()], mode=0o600)
    except OSError as e:
        raise storage_error(e, folder, "Archiving") from e
    memory.telemetry.emit(Event("archive", data={"files": len(described), "keys": keys}))
    return manifest


def _folder(memory: MemoryStore, files: list[Path]) -> Path:
    """Where to: the folder of this archive, also of one that was not finished; never where files of before a roll-back are."""
    first = f"{memory.file.name}.archive"
    if memory.record.archived:
        return memory.file.with_name(memory.record.archive_folder() or first)
    number = 1
    while True:
        folder = memory.file.with_name(first if number == 1 else f"{first}.{number}")
        # not one that is whole, nor one begun before a roll-back, which made files of these names anew
        if not (folder / _MANIFEST).exists() and not any((folder / path.name).exists() for path in files):
            return folder
        number += 1


def _described(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def learning_index(memory: MemoryStore) -> dict[str, Any]:
    """How much of `:learning/index`, user -> ids, the learning entities give back by themselves.

    {"users": in the index, "equal": users whose ids are those of their entities, "rebuilt": the whole is the same set of ids}.
    An index that is equal need not be kept: it is the query `[?l :learning/user ?u] [?l :learning/id ?id]`.
    """
    db = memory.side.conn.db()
    held: Any = memory.side.read(Keyword("learning/index"))
    entities: dict[Any, set[Any]] = {}
    for user, one in db.q("[:find ?u ?id :where [?l :learning/user ?u] [?l :learning/id ?id]]"):
        entities.setdefault(user, set()).add(one)
    if memory.is_absent(held) or not hasattr(held, "pairs"):
        return {"users": 0, "equal": 0, "rebuilt": not entities}
    index = {user: set(ids) for user, ids in held.pairs() if isinstance(ids, Vector)}
    users = len(list(held.pairs()))
    equal = sum(ids == entities.get(user, set()) for user, ids in index.items())
    return {"users": users, "equal": equal, "rebuilt": equal == users and index.keys() == entities.keys()}


def completion(memory: MemoryStore) -> dict[str, Any]:
    """What was migrated, what proves it, and what it cost, as plain data."""
    memory.open()
    remember_latencies(memory)
    notes = memory.side.notes()
    status = memory.migration_status()
    verified = notes.get(Keyword("verified"), {})
    return {
        "at": datetime.now(UTC).isoformat(),
        "file": status["file"],
        "database": status["database"]["path"],
        "stage": status["stage"],
        "complete": status["stage"] == STAGES[-1],
        "archived": status["archived"],
        "kinds": {name: {"stage": k["stage"], "keys": k["database_keys"]} for name, k in status["kinds"].items()},
        "verified": {k.name: v if not isinstance(v, datetime) else v.isoformat() for k, v in dict(verified).items()},
        "learning_index": learning_index(memory),
        "pending": status["pending"],
        "latencies": json.loads(notes.get(Keyword("latencies"), "{}")),
        "resources": json.loads(notes.get(Keyword("resources"), "{}")),
        "progress": [
            [n.name, [list(point) for point in points]]
            for n, points in dict(notes.get(Keyword("progress"), {})).items()
        ],
        "history": [m.as_dict() for m in memory.record.history],
    }


def completion_text(report: dict[str, Any]) -> str:
    """The completion report as Markdown."""
    archived = ", archived" if report["archived"] else ""
    out = [
        "# Migration report", "",
        f"{report['at']}: `{report['file']}` to `{report['database']}`, stage **{report['stage']}**{archived}.", "",
        "## What was migrated", "", "| kind | stage | keys |", "|---|---|---|",
        *(f"| {name} | {k['stage']} | {k['keys']:,} |" for name, k in report["kinds"].items()), "",
        "## Proofs", "",
        f"- saves on the way: {report['pending']}",
    ]  # fmt: skip
    verified = report["verified"]
    if verified:
        out.append(
            f"- verified at {verified['at']}: {verified['keys']:,} keys equal, database basis {verified['basis']}"
        )
    index = report["learning_index"]
    out += [f"- `:learning/index`: {index['equal']:,} of {index['users']:,} users equal to the learning entities", ""]
    out += [
        "## Latencies",
        "",
        "| stage | operation and store | count | p50 us | p95 us | p99 us |",
        "|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        for name, h in report["latencies"].get(stage, {}).items():
            out.append(f"| {stage} | {name} | {h['count']:,} | {h['p50_us']} | {h['p95_us']} | {h['p99_us']} |")
    out += ["", "## Resources", "", "| stage | memory MB | CPU s | read MB | written MB |", "|---|---|---|---|---|"]
    for stage, used in report["resources"].items():
        mb = [used[n] / 1e6 for n in ("rss_bytes", "read_bytes", "written_bytes")]
        out.append(f"| {stage} | {mb[0]:.0f} | {used['cpu_s']} | {mb[1]:.1f} | {mb[2]:.1f} |")
    out += ["", "## Moves", "", "| when | who | what | why |", "|---|---|---|---|"]
    for m in report["history"]:
        what = f"{', '.join(m['kinds'])}: {m['from']} to {m['to']}, {m['percent']} %{', forced' if m['forced'] else ''}"
        out.append(f"| {m['at']} | {m['who']} | {what} | {m['why']} |")
    return "\n".join(out) + "\n"


def write_report(memory: MemoryStore, folder: Path) -> dict[str, Any]:
    """Writes `report.md`, `report.edn`, `report.json` and the plots as SVG to a folder; returns the report.

    Raises:
        StorageError: a file could not be written.
    """
    report = completion(memory)
    p95 = {
        stage: {
            name: h["p95_us"] for name, h in found.items() if name.split()[0] in ("get_value", "save_value", "update")
        }
        for stage, found in report["latencies"].items()
    }
    files = {
        "report.md": completion_text(report),
        "report.json": as_json(report) + "\n",
        "report.edn": as_edn(report) + "\n",
        "latency.svg": bars("p95 by stage", {s: g for s, g in p95.items() if g}, "us"),
    }
    for kind, points in report["progress"]:
        pairs = [(float(x), float(y)) for x, y in points]
        files[f"progress-{kind}.svg"] = lines(f"Backfill of {kind}", pairs, "s", "keys")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(folder / name, [text.encode("utf-8", "replace")])
    except OSError as e:
        raise storage_error(e, folder, "Writing the report") from e
    return {**report, "files": sorted(files)}
