"""A small collaborative application on a migrating memory: who is in a session, what was learnt, how often it happened.

    python examples/collaboration.py --seconds 5

It runs `Collaboration` with a few users at once, takes its memory from the EDN file to the database and back while they go
on, and prints what each stage cost. `kill_rounds.py` runs the same class in a process that it kills again and again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalog import Map, kw
from migration.backfill import Backfill
from migration.checking import compare_digests
from migration.cutover import move, roll_back
from migration.gates import Limits
from migration.memory import MemoryStore
from migration.modes import STAGES

if TYPE_CHECKING:
    from datalog import Keyword

NO_LATENCIES = Limits(read_ratio=None, query_ratio=None, save_ratio=None)


class Collaboration:
    """The application: everything it remembers is in its memory, under the keys that it always had."""

    def __init__(self, memory: MemoryStore) -> None:
        self.memory = memory

    def open_session(self, session: str, owner: str) -> None:
        """Saves a session."""
        now = time.time_ns() // 1_000_000
        value = {kw("owner"): kw(owner), kw("session/type"): kw("review"), kw("created-at"): now, kw("open?"): True}
        self.memory.save_value(kw(f"collab-session/{session}"), value)

    def heartbeat(self, session: str, user: str) -> int:
        """Counts a sign of life of a user, atomically, and returns how many there were."""

        def beat(present: Any) -> Any:
            held = dict(present or {})
            mine = dict(held.get(kw(user), {}))
            mine[kw("user-name")] = user
            mine[kw("last-seen")] = time.time_ns() // 1_000_000
            mine[kw("beats")] = mine.get(kw("beats"), 0) + 1
            held[kw(user)] = Map(mine)
            return Map(held)

        value = self.memory.update(kw(f"presence/{session}"), beat).value
        return int(value[kw(user)][kw("beats")])

    def beats(self, session: str, user: str) -> int:
        """How many signs of life there were."""
        present = self.memory.get_value(kw(f"presence/{session}"), {})
        return int(present.get(kw(user), {}).get(kw("beats"), 0))

    def learn(self, title: str, tags: set[str]) -> Keyword:
        """Saves a learning, and returns its key."""
        key = kw(f"learning/l{abs(hash((title, time.time_ns()))):x}")
        self.memory.save_value(key, {kw("learning/title"): title, kw("learning/tags"): frozenset(tags)})
        return key


def _live(app: Collaboration, user: str, stop: threading.Event, wrong: list[str]) -> None:
    """One user: beats, reads what it wrote, learns something now and then."""
    own = random.Random(user)  # noqa: S311 - an example
    while not stop.is_set():
        count = app.heartbeat("s1", user)
        if app.beats("s1", user) < count:
            wrong.append(f"{user} counted {count}, and read less")
        if own.random() < 0.1:
            app.learn(f"{user} at {count}", {"joins", own.choice(["index", "merge"])})
        time.sleep(own.random() / 200)


def _stay(memory: MemoryStore, seconds: float) -> str:
    time.sleep(seconds)
    latencies = memory.telemetry.summary()["latencies"].get(memory.stage_name(), {})
    found = {name: f["p95_us"] for name, f in latencies.items() if name.startswith(("get_value", "update"))}
    return f"{memory.stage_name():<14} p95 in microseconds: {found}"


def main() -> None:
    """Up through every stage and back again, with four users at work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long in all")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryStore(Path(folder) / "memory.edn", Path(folder) / "memory.db") as memory,
    ):
        app = Collaboration(memory)
        app.open_session("s1", "ada")
        stop, wrong = threading.Event(), list[str]()
        users = [threading.Thread(target=_live, args=(app, f"u{n}", stop, wrong)) for n in range(4)]
        for user in users:
            user.start()
        each = given.seconds / (2 * len(STAGES))
        print(_stay(memory, each))
        for stage in STAGES[1:]:
            move(memory, stage, why="example", limits=NO_LATENCIES)
            if stage == "dual-write":
                Backfill(memory).run()
            print(_stay(memory, each))
        roll_back(memory, "rampdown", why="example")
        print("equal:", compare_digests(memory).equal)
        roll_back(memory, "edn-only", why="example")
        print(_stay(memory, each))
        stop.set()
        for user in users:
            user.join()
        print("wrong reads:", wrong or "none")


if __name__ == "__main__":
    main()
