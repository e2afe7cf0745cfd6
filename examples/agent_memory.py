"""The memory of an agent: what it learnt, from whom, how sure it is, and what has taken the place of what.

$ python examples/agent_memory.py
about deploy: Deploys go out on Tuesdays.
corrected:    Deploys go out daily. (0.9, said by ops-handbook)
about deploy: Deploys go out daily. | Ask Mara before a deploy on Fridays.
since June:   2
it came from: Deploys go out daily. <- Deploys go out on Tuesdays.
by source:    chat 2, ops-handbook 1, web 1
all about it: {':fact/text': 'Deploys go out daily.', ':fact/source': {':source/name': 'ops-handbook', ':source/trust': 0.9}}
forgotten:    1, and 3 are left
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import datalog as d


@dataclass
class Source:
    """Where facts come from, and how far it is trusted."""

    name: str = field(metadata=d.attribute(unique=True))
    trust: float = 0.5


@dataclass
class Fact:
    """Something learnt. Nothing is overwritten: what is no longer so is superseded by another fact."""

    text: str
    source: Source
    at: datetime
    tags: set[str] = field(default_factory=set)
    supersedes: Fact | None = None
    eid: int | None = field(default=None, metadata=d.eid())


RULES = """[
  [(current ?f) [?f :fact/text] (not [_ :fact/supersedes ?f])]
  [(replaces ?new ?old) [?new :fact/supersedes ?old]]
  [(replaces ?new ?old) [?new :fact/supersedes ?x] (replaces ?x ?old)]]"""


class Memory:
    """What an agent calls: `learn`, `recall`, `origins`, `forget_source`."""

    def __init__(self, conn: d.Connection) -> None:
        self.conn = conn

    def learn(self, text: str, source: Source, at: datetime, tags: set[str], supersedes: Fact | None = None) -> Fact:
        """A new fact, saved."""
        fact = Fact(text, source, at, tags, supersedes)
        self.conn.save(fact)
        return fact

    def recall(self, tag: str) -> list[str]:
        """What is held true about something, the most trusted first."""
        found: list[tuple[str, float, datetime]] = self.conn.q(
            """[:find ?text ?trust ?at :in $ % ?tag
                :where [?f :fact/tags ?tag] (current ?f) [?f :fact/text ?text] [?f :fact/at ?at]
                       [?f :fact/source ?s] [?s :source/trust ?trust]
                :order-by [?trust :desc ?at :desc]]""",
            RULES, tag,
        )  # fmt: skip
        return [text for text, _, _ in found]

    def origins(self, fact: Fact) -> list[str]:
        """The texts that a fact has taken the place of, the latest first."""
        found: list[tuple[str, datetime]] = self.conn.q(
            """[:find ?text ?at :in $ % ?new
                :where (replaces ?new ?old) [?old :fact/text ?text] [?old :fact/at ?at] :order-by [?at :desc]]""",
            RULES, fact.eid,
        )  # fmt: skip
        return [text for text, _ in found]

    def forget_source(self, name: str) -> int:
        """Takes back all that one source said, in one transaction with a reason; returns how many facts that were."""
        eids = self.conn.q("[:find [?f ...] :in $ ?n :where [?s :source/name ?n] [?f :fact/source ?s]]", name)
        self.conn.transact([[":db/retractEntity", e] for e in eids], {":db/doc": f"{name} is not to be trusted"})
        return len(eids)


def main() -> None:
    """A few days in the life of an agent."""
    with d.connect(None, d.schema_of(Fact)) as conn:
        memory = Memory(conn)
        chat, handbook, web = Source("chat", 0.6), Source("ops-handbook", 0.9), Source("web", 0.3)
        first = memory.learn("Deploys go out on Tuesdays.", chat, datetime(2024, 5, 2, tzinfo=UTC), {"deploy"})
        memory.learn("The moon is made of cheese.", web, datetime(2024, 5, 3, tzinfo=UTC), {"moon"})
        print("about deploy:", " | ".join(memory.recall("deploy")))

        now = memory.learn("Deploys go out daily.", handbook, datetime(2024, 6, 1, tzinfo=UTC), {"deploy"}, first)
        print(f"corrected:    {now.text} ({now.source.trust}, said by {now.source.name})")
        memory.learn("Ask Mara before a deploy on Fridays.", chat, datetime(2024, 6, 4, tzinfo=UTC), {"deploy", "mara"})
        print("about deploy:", " | ".join(memory.recall("deploy")))

        db = conn.db()
        june = datetime(2024, 6, 1, tzinfo=UTC)
        print("since June:  ", db.q("[:find (count ?f) . :in $ ?t :where [?f :fact/at ?at] [(>= ?at ?t)]]", june))
        print("it came from:", " <- ".join([now.text, *memory.origins(now)]))
        counts = db.q("[:find ?n (count ?f) :where [?f :fact/source ?s] [?s :source/name ?n] :order-by [1 :desc 0]]")
        print("by source:   ", ", ".join(f"{name} {count}" for name, count in counts))
        print("all about it:", db.pull("[:fact/text {:fact/source [:source/name :source/trust]}]", now.eid))
        print(f"forgotten:    {memory.forget_source('web')}, and {len(conn.db().load_all(Fact))} are left")


if __name__ == "__main__":
    main()
