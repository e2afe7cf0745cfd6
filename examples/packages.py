"""What this machine's Python packages need: the closure of their requirements, read from the installed metadata.

    $ python examples/packages.py numpy
    44 packages installed, 35 requirements among them
    needed by most:        typing-extensions 4, numpy 2, opentelemetry-api 2
    without numpy these break: datalog-lmdb, pandas
    numpy needs, in the end: nothing
    furthest apart:        pytest-xdist needs iniconfig in 2 steps
    in a circle:           none

Requirements of extras, and those of packages that are not installed, are left out.
"""

import re
import sys
from importlib import metadata

import datalog as d

SCHEMA = {
    ":package/name": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":package/version": {":db/valueType": ":db.type/string"},
    ":package/needs": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
}

RULES = """[
  [(needs ?p ?q) [?p :package/needs ?q]]
  [(needs ?p ?q) [?p :package/needs ?x] (needs ?x ?q)]

  [(steps ?p ?q (min ?n)) [?p :package/needs ?q] [(ground 1) ?n]]
  [(steps ?p ?q (min ?n)) (steps ?p ?x ?m) [?x :package/needs ?q] [(inc ?m) ?n]]]"""


def normal(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, tuple[str, set[str]]]:
    """Name -> (version, names of the installed packages it requires)."""
    found = {}
    for package in metadata.distributions():
        name = package.metadata["Name"]
        if name:
            wanted = [line for line in package.requires or [] if "extra ==" not in line]
            needs = {normal(match[0]) for line in wanted if (match := re.match(r"[\w.-]+", line))}
            found[normal(name)] = (package.version, needs)
    return {name: (version, needs & found.keys()) for name, (version, needs) in found.items()}


def load(conn: d.Connection) -> None:
    """All packages and their requirements, as one transaction."""
    conn.transact([
        {":package/name": name, ":package/version": version, ":package/needs": [{":package/name": n} for n in needs]}
        for name, (version, needs) in installed().items()
    ])  # fmt: skip


def broken_without(db: d.Db, name: str) -> list[str]:
    """What needs a package, directly or through others."""
    found: list[str] = db.q(
        """[:find [?n ...] :in $ % ?name
            :where [?gone :package/name ?name] (needs ?p ?gone) [?p :package/name ?n] :order-by ?n]""",
        RULES, name,
    )  # fmt: skip
    return found


def needed_by(db: d.Db, name: str) -> list[str]:
    """What a package needs, directly or through others."""
    found: list[str] = db.q(
        """[:find [?n ...] :in $ % ?name
            :where [?p :package/name ?name] (needs ?p ?q) [?q :package/name ?n] :order-by ?n]""",
        RULES, name,
    )  # fmt: skip
    return found


def main() -> None:
    """Asks about the package named on the command line."""
    name = normal(sys.argv[1]) if len(sys.argv) > 1 else "numpy"
    with d.connect(None, SCHEMA) as conn:
        load(conn)
        db = conn.db()
        count = db.q("[:find (count ?p) . :where [?p :package/name]]")
        print(f"{count} packages installed, {len(list(db.datoms('aevt', ':package/needs')))} requirements among them")
        top = db.q("""[:find ?n (count ?p) :where [?p :package/needs ?q] [?q :package/name ?n]
                       :order-by [1 :desc 0] :limit 3]""")
        print("needed by most:       ", ", ".join(f"{n} {times}" for n, times in top))
        print(f"without {name} these break:", ", ".join(broken_without(db, name)) or "none")
        print(f"{name} needs, in the end:", ", ".join(needed_by(db, name)) or "nothing")
        far = db.q(
            """[:find ?from ?to ?n :in $ % :where (steps ?p ?q ?n) [?p :package/name ?from] [?q :package/name ?to]
                       :order-by [?n :desc ?from ?to] :limit 1]""",
            RULES,
        ).first()
        print("furthest apart:       ", f"{far[0]} needs {far[1]} in {far[2]} steps" if far else "none")
        circles = db.q("[:find [?n ...] :in $ % :where [?p :package/name ?n] (needs ?p ?p) :order-by ?n]", RULES)
        print("in a circle:          ", ", ".join(circles) or "none")


if __name__ == "__main__":
    main()
