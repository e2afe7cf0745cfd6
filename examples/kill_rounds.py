"""Kills an application at random moments while its memory moves through every stage and back, and checks its history.

    python examples/kill_rounds.py --rounds 200 [--seed 1] [--folder DIR]

A process runs the application on a `MemoryStore`. This process, which is not killed, sends it operations over sockets, one
at a time for each client, and logs the answer before it sends the next. One more client moves the stage: up from `edn-only` to
each stage in turn, with backfills, and back again. After a random time the application is killed with SIGKILL and started anew.

What is checked, key by key:

- a key that one client has to itself: each read gives what the last acknowledged operation left; after a kill, the operation that
  was not answered has happened or has not, and what the first read then finds stays;
- counters that all clients raise with `update`: never lower than what was acknowledged, never higher than that and what was
  not answered;
- at the end of every tenth round and of the run: everything at once, by `get_all`, `keys` and `search`; the digests of both
  sides; and `datalog.check` of the database.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datalog as d
from datalog import kw
from migration.backfill import Backfill
from migration.checking import check_memory, compare_digests
from migration.cutover import move, roll_back
from migration.gates import Limits
from migration.jsonvalue import read_json, write_json
from migration.memory import MemoryStore, Settings
from migration.modes import STAGES

ROOT = Path(__file__).parent.parent
CLIENTS = 3
KEYS = 12  # of each client
COUNTERS = 2
_ABSENT = "absent"


# ---------------------------------------------------------------------------------------------------------------------
# the application: a process that carries out what its clients ask for


def serve(file: str, database: str, sockets: list[int], lag: int) -> None:
    """Opens the memory, and serves each socket with a thread until it is killed."""
    memory = MemoryStore(file, database, settings=Settings(lag=lag, backup_every_s=1.0))
    memory.init()
    threads = [threading.Thread(target=_serve_one, args=(memory, socket.socket(fileno=fd))) for fd in sockets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory.close()


def _serve_one(memory: MemoryStore, client: socket.socket) -> None:
    with client, client.makefile("rw") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                answer = {"ok": _carry_out(memory, request)}
            except d.DatalogError as e:
                answer = {"error": str(e)}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


def _carry_out(memory: MemoryStore, request: dict[str, Any]) -> Any:
    do = request["do"]
    key = kw(request["key"]) if "key" in request else kw("none")
    if do == "save":
        memory.save_value(key, read_json(request["value"]))
    elif do == "delete":
        memory.delete_value(key)
    elif do == "count":
        return memory.update(key, lambda n: n + 1, default=0).value
    elif do == "get":
        reading = memory.get_instrumented(key)
        return _text(reading.value) if reading.found else _ABSENT
    elif do == "all":
        return {str(k): _text(v) for k, v in memory.get_all().items()}
    elif do == "keys":
        return sorted(map(str, memory.keys()))
    elif do == "search":
        return sorted(map(str, memory.search(request["text"])))
    elif do == "stage":
        return memory.stage_name()
    elif do == "move":
        no_latencies = Limits(read_ratio=None, query_ratio=None, save_ratio=None)
        move(memory, request["to"], percent=request.get("percent", 100), who="kill rounds", limits=no_latencies)
    elif do == "fill":
        return Backfill(memory, chunk=5).run().complete
    elif do == "back":
        roll_back(memory, request["to"], who="kill rounds")
    elif do == "share":
        return memory.share()
    elif do == "verify":
        return _verified(memory)
    return None


def _text(value: Any) -> str:
    """A value as text that equal values share, whatever the order of their entries."""
    return write_json(value, canonical=True)


def _verified(memory: MemoryStore) -> dict[str, Any]:
    stage = memory.stage_name()
    if stage in ("edn-only", "datalog-only"):
        return {"stage": stage, "equal": True}
    if any(k["database"] == "stale" for k in memory.migration_status()["kinds"].values()):
        return {"stage": stage, "equal": True, "filled": False}  # told of itself, and not asked
    digests, recount, values = compare_digests(memory), compare_digests(memory, recount=True), check_memory(memory)
    findings = [f.as_dict() for f in values.findings[:3]]
    return {"stage": stage, "equal": digests.equal and recount.equal and values.equal, "findings": findings,
            "digests": digests.as_dict()}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# outside of it: clients with logs


class Gone(Exception):  # noqa: N818
    """The application was killed before it answered."""


@dataclass
class Connection:
    """One socket to the application."""

    lines: Any

    def ask(self, **request: Any) -> Any:
        """Sends a request and returns the answer; raises Gone when none comes, AssertionError when it is an error."""
        try:
            self.lines.write(json.dumps(request) + "\n")
            self.lines.flush()
            line = self.lines.readline()
        except (OSError, ValueError) as e:
            raise Gone from e
        if not line.endswith("\n"):
            raise Gone
        answer = json.loads(line)
        assert "ok" in answer, f"{request} failed: {answer['error']}"
        return answer["ok"]


@dataclass
class Client:
    """One client: what it knows of its keys, and the operation that was not answered."""

    number: int
    log: Any
    random: random.Random
    known: dict[str, str] = field(default_factory=dict)
    maybe: dict[str, str] = field(default_factory=dict)  # key -> what it may be as well, since a kill
    counted: dict[str, list[int]] = field(default_factory=dict)  # counter -> [acknowledged, not answered]
    highest: dict[str, int] = field(default_factory=dict)
    operations: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, *what: Any) -> None:
        """Writes to the log, so that it is there whatever happens next."""
        self.log.write(json.dumps(what) + "\n")
        self.log.flush()

    def live(self, to: Connection) -> None:
        """Goes on until the application is gone."""
        with contextlib.suppress(Gone):
            while True:
                self.one(to)

    def one(self, to: Connection) -> None:
        """One operation, checked."""
        r = self.random
        namespace = r.choice(["collab-session", "presence", "learning", "webhook", "misc"])
        key = f"{namespace}/c{self.number}-{r.randrange(KEYS)}"
        what = r.random()
        if what < 0.45:
            self._change(to, key, _value(r))
        elif what < 0.55:
            self._change(to, key, _ABSENT)
        elif what < 0.9:
            self.check(key, to.ask(do="get", key=key))
        else:
            self._count(to, f"counter/n{r.randrange(COUNTERS)}")
        self.operations += 1

    def _change(self, to: Connection, key: str, value: str) -> None:
        self.note("begin", key, value)
        before = {self.known.get(key, _ABSENT), self.maybe.get(key, self.known.get(key, _ABSENT))}
        if len(before) > 1:  # settle what a kill has left open first
            self.check(key, to.ask(do="get", key=key))
        self.maybe[key] = value
        if value == _ABSENT:
            to.ask(do="delete", key=key)
        else:
            to.ask(do="save", key=key, value=value)
        self.known[key] = value
        del self.maybe[key]
        self.note("done", key, value)

    def _count(self, to: Connection, key: str) -> None:
        of = self.counted.setdefault(key, [0, 0])
        of[1] += 1
        self.note("count", key)
        n = to.ask(do="count", key=key)
        of[0] += 1
        of[1] -= 1
        if n <= self.highest.get(key, 0):
            self.wrong.append(f"{key} counted {n} after {self.highest[key]}")
        self.highest[key] = n
        self.note("counted", key, n)

    def check(self, key: str, found: str) -> None:
        """Compares what was read with what may be there, and settles it."""
        known = self.known.get(key, _ABSENT)
        allowed = {known, self.maybe.get(key, known)}
        self.note("read", key, found)
        if found not in allowed:
            self.wrong.append(f"{key} is {found}; acknowledged {known}, begun {self.maybe.get(key)}")
        self.known[key] = found
        self.maybe.pop(key, None)


def _value(r: random.Random) -> str:
    """A value as canonical JSON text, in the form in which it comes back."""
    choice = r.randrange(8)
    if choice < 2:
        return r.choice(["null", "false", "[]", "0", '""', "1.0"])
    if choice < 4:
        users = {kw(f"u{n}"): d.Map({kw("user-name"): f"U{n}", kw("last-seen"): r.randrange(9**9)}) for n in range(3)}
        return _text(d.Map(users))
    owner = {kw("owner"): kw(f"u{r.randrange(5)}"), kw("n"): r.randrange(9**9), kw("created-at"): r.randrange(9**9)}
    return _text(d.Map(owner))


@dataclass
class Tour:
    """The client that moves the stage: up to each stage in turn, and back to each in turn."""

    random: random.Random
    top: int = 1
    down: bool = False
    moves: int = 0
    visited: set[str] = field(default_factory=set)

    def live(self, to: Connection) -> None:
        """Goes on until the application is gone."""
        with contextlib.suppress(Gone):
            while True:
                self.one(to)
                time.sleep(self.random.uniform(0, 0.05))

    def one(self, to: Connection) -> None:
        """One step of the tour."""
        stage = to.ask(do="stage")
        if stage == "mixed":  # killed in the middle of a roll-back, kind by kind
            to.ask(do="back", to="edn-only")
            return
        at = STAGES.index(stage)
        self.visited.add(stage)
        if at not in (0, len(STAGES) - 1):
            to.ask(do="fill")
        if at == len(STAGES) - 1 and self.random.random() < 0.5:
            to.ask(do="share")  # as another process does that wants to come in: from the journal to commits
            time.sleep(self.random.uniform(0, 0.1))
        if not self.down and at < self.top:
            to.ask(do="move", to=STAGES[at + 1])
        elif not self.down:
            self.down = True
        elif at > 0:
            to.ask(do="back", to=STAGES[self.random.randrange(at)])
        else:
            self.down = False
            self.top = self.top % (len(STAGES) - 1) + 1
        self.moves += 1


# ---------------------------------------------------------------------------------------------------------------------
# rounds


class Application:
    """The process, started and killed."""

    def __init__(self, folder: Path, lag: int) -> None:
        pairs = [socket.socketpair() for _ in range(CLIENTS + 2)]
        theirs = [b.detach() for _, b in pairs]
        arguments = [str(folder / "memory.edn"), str(folder / "memory.db"), json.dumps(theirs), str(lag)]
        with (folder / "errors.txt").open("ab") as errors:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, "--serve", *arguments], pass_fds=theirs, stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        for fd in theirs:
            os.close(fd)
        self._sockets = [a for a, _ in pairs]
        self.connections = [Connection(a.makefile("rw")) for a, _ in pairs]

    def kill(self) -> None:
        """SIGKILL; what its sockets still hold is lost to nobody."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Closes this side's sockets; an application that lives ends then."""
        for connection, of in zip(self.connections, self._sockets, strict=True):
            with contextlib.suppress(OSError):
                connection.lines.close()
            of.close()
        self.process.wait()


def run(rounds: int, seed: int, folder: Path, *, tell: bool = False) -> dict[str, Any]:
    """Runs the rounds and returns what was counted; raises AssertionError on anything wrong."""
    r = random.Random(seed)  # noqa: S311 - an example
    with (folder / "log.jsonl").open("w") as log:
        clients = [Client(n, log, random.Random(seed * 100 + n)) for n in range(CLIENTS)]  # noqa: S311
        tour = Tour(random.Random(seed + 7))  # noqa: S311
        for n in range(rounds):
            app = Application(folder, lag=r.choice([0, 2, 128]))
            last = n == rounds - 1
            try:
                app.connections[CLIENTS + 1].ask(do="stage")  # up: what follows is killed in the middle of work
                if n % 10 == 9 or last:
                    _check_everything(app.connections[CLIENTS + 1], clients)
                _live(app, [*clients, tour], r.uniform(0.02, 0.6))
            except Gone as e:
                text = (folder / "errors.txt").read_text()[-3000:]
                raise AssertionError(f"round {n}, seed {seed}: the application ended by itself\n{text}") from e
            finally:
                app.close()
            wrong = [w for c in clients for w in c.wrong]
            assert not wrong, f"round {n}, seed {seed}: {wrong[:5]}"
            if tell and n % 10 == 9:
                print(
                    f"round {n + 1}: {sum(c.operations for c in clients):,} operations, {tour.moves} moves", flush=True
                )
        app = Application(folder, lag=128)
        _check_everything(app.connections[0], clients)
        app.close()
        assert app.process.returncode == 0
    findings = d.check(folder / "memory.db") if (folder / "memory.db").exists() else []
    assert not findings, findings[:3]
    return {
        "rounds": rounds, "seed": seed, "operations": sum(c.operations for c in clients), "moves": tour.moves,
        "stages": sorted(tour.visited, key=STAGES.index), "lost": 0, "wrong": 0,
    }  # fmt: skip


def _live(app: Application, who: list[Any], seconds: float) -> None:
    failures: list[BaseException] = []

    def life(of: Any, to: Connection) -> None:
        try:
            of.live(to)
        except BaseException as e:  # noqa: BLE001 - raised by the thread that waits for this one
            failures.append(e)

    threads = [threading.Thread(target=life, args=pair) for pair in zip(who, app.connections, strict=False)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    alive = app.process.poll() is None
    app.kill()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    if not alive:
        raise Gone


def _check_everything(to: Connection, clients: list[Client]) -> None:
    found = to.ask(do="all")
    assert sorted(found) == to.ask(do="keys")
    assert sorted(k for k in found if ":presence/" in k) == to.ask(do="search", text=":presence/")
    for client in clients:
        for key in sorted(client.known.keys() | client.maybe.keys()):
            value = found.get(f":{key}", _ABSENT)
            client.check(key, value)
            client.check(key, to.ask(do="get", key=key))
    for n in range(COUNTERS):
        key = f"counter/n{n}"
        acknowledged = sum(c.counted.get(key, [0, 0])[0] for c in clients)
        open_ = sum(c.counted.get(key, [0, 0])[1] for c in clients)
        value = int(found.get(f":{key}", "0"))
        assert acknowledged <= value <= acknowledged + open_, f"{key} is {value}, acknowledged {acknowledged} + {open_}"
    verified = to.ask(do="verify")
    assert verified["equal"], verified


def main() -> None:
    """The rounds, from a terminal."""
    if sys.argv[1:2] == ["--serve"]:
        file, database, sockets, lag = sys.argv[2:]
        serve(file, database, json.loads(sockets), int(lag))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="keep memory, database and log here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(run(given.rounds, given.seed, folder, tell=True)))


if __name__ == "__main__":
    main()
