"""A family, and everything about it that follows from who is whose parent.

$ python examples/family.py
ancestors of Elizabeth II: Albert, Alexandra, Christian IX, Edward VII, George V, George VI, Victoria
first cousins of George V: Nicholas II, Wilhelm II
Nicholas II and Elizabeth II descend both from: Christian IX
generations from Victoria to Charles III: 5
kings among the descendants of Victoria: Charles III, Edward VII, George V, George VI
"""

import datalog as d

SCHEMA = {
    ":person/name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":person/title": {":db/valueType": ":db.type/keyword"},
    ":person/parent": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
}

# child: parents; only what the questions need of a large family
PARENTS = {
    "Edward VII": ["Victoria", "Albert"],
    "Vicky": ["Victoria", "Albert"],
    "Alexandra": ["Christian IX"],
    "Dagmar": ["Christian IX"],
    "George V": ["Edward VII", "Alexandra"],
    "Wilhelm II": ["Vicky"],
    "Nicholas II": ["Dagmar"],
    "George VI": ["George V"],
    "Elizabeth II": ["George VI"],
    "Charles III": ["Elizabeth II"],
}
KINGS = ["Edward VII", "George V", "George VI", "Charles III", "Christian IX"]

# One fact is stored, `parent`; these five words are all made of it.
RULES = """[
  [(ancestor ?a ?x) [?x :person/parent ?a]]
  [(ancestor ?a ?x) [?x :person/parent ?p] (ancestor ?a ?p)]

  [(sibling ?x ?y)  [?x :person/parent ?p] [?y :person/parent ?p] [(!= ?x ?y)]]
  [(cousin ?x ?y)   [?x :person/parent ?p] [?y :person/parent ?q] (sibling ?p ?q)]

  [(generations ?a ?x (min ?n)) [?x :person/parent ?a] [(ground 1) ?n]]
  [(generations ?a ?x (min ?n)) (generations ?a ?p ?m) [?x :person/parent ?p] [(inc ?m) ?n]]]"""


def main() -> None:
    """Asks five questions."""
    with d.connect(None, SCHEMA) as conn:
        conn.transact([
            # a nested map with a unique name is that person, new or known
            {":person/name": child, ":person/parent": [{":person/name": name} for name in parents]}
            for child, parents in PARENTS.items()
        ])  # fmt: skip
        conn.transact([{":person/name": name, ":person/title": d.kw("king")} for name in KINGS])
        db = conn.db()

        def ask(query: str, *inputs: str) -> str:
            return ", ".join(db.q(query, RULES, *inputs))

        print(
            "ancestors of Elizabeth II:",
            ask(
                """[:find [?name ...] :in $ % ?of
                :where [?x :person/name ?of] (ancestor ?a ?x) [?a :person/name ?name] :order-by ?name]""",
                "Elizabeth II",
            ),
        )
        print(
            "first cousins of George V:",
            ask(
                """[:find [?name ...] :in $ % ?of
                :where [?x :person/name ?of] (cousin ?x ?y) [?y :person/name ?name] :order-by ?name]""",
                "George V",
            ),
        )
        print(
            "Nicholas II and Elizabeth II descend both from:",
            ask(
                """[:find [?name ...] :in $ % ?one ?other
                :where [?x :person/name ?one] [?y :person/name ?other] (ancestor ?a ?x) (ancestor ?a ?y)
                       [?a :person/name ?name] :order-by ?name]""",
                "Nicholas II",
                "Elizabeth II",
            ),
        )
        print(
            "generations from Victoria to Charles III:",
            db.q(
                """[:find ?n . :in $ % ?one ?other
                :where [?a :person/name ?one] [?x :person/name ?other] (generations ?a ?x ?n)]""",
                RULES,
                "Victoria",
                "Charles III",
            ),
        )
        print("kings among the descendants of Victoria:", ask(
            """[:find [?name ...] :in $ % ?of
                :where [?a :person/name ?of] (ancestor ?a ?x) [?x :person/title :king] [?x :person/name ?name]
                :order-by ?name]""", "Victoria"))  # fmt: skip


if __name__ == "__main__":
    main()
