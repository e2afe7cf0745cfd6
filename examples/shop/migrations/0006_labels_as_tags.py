"""The comma-separated labels of customers become tags, one keyword each; the old attribute goes."""

import datalog as d
from migration.script_steps import ScriptConnection


def up(conn: ScriptConnection) -> None:
    """`drop` retracts what is left of the labels; `revert` brings them back as they were."""
    conn.update_schema(
        {":customer/tags": {":db/valueType": d.kw("db.type/keyword"), ":db/cardinality": d.kw("db.cardinality/many")}}
    )
    for e, labels in conn.q("[:find ?e ?labels :where [?e :customer/labels ?labels]]"):
        tags = [d.kw(word.strip().lower().replace(" ", "-")) for word in labels.split(",") if word.strip()]
        conn.transact([[":db/add", e, ":customer/tags", tag] for tag in tags])
    conn.drop(":customer/labels")
