"""Given and family names beside the full name; customers of one word have no family name."""

import datalog as d
from migration.script_steps import ScriptConnection

TEXT = d.kw("db.type/string")


def up(conn: ScriptConnection) -> None:
    """Splits at the last space: "Ada King Lovelace" is Lovelace, Ada King."""
    conn.update_schema({":customer/given": {":db/valueType": TEXT}, ":customer/family": {":db/valueType": TEXT}})
    names = conn.q("[:find ?e ?name :where [?e :customer/full-name ?name]]")
    facts = []
    for e, name in names:
        given, space, family = name.rpartition(" ")
        facts.append([":db/add", e, ":customer/given", given if space else family])
        if space:
            facts.append([":db/add", e, ":customer/family", family])
    conn.transact(facts)
