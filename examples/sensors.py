"""A week of sensor facts: bulk load, ranges of time, averages by the hour, gaps, and a correction that can be looked behind.

$ python examples/sensors.py
30,170 readings of 3 sensors
warmest hour of attic:  Thursday 15:00, 29.4 degrees on average
hours over 28 degrees:  attic 37
silent for more than ten minutes: cellar from 2024-06-05 02:59 to 2024-06-05 04:10
the faulty reading:     cellar 85.0 at 2024-06-06 12:00
maximum of cellar:      85.0 before, 13.0 after the correction
"""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import datalog as d

START = datetime(2024, 6, 3, tzinfo=UTC)  # a Monday
MINUTES = 7 * 24 * 60
SENSORS = {"attic": (24.0, 5.0), "kitchen": (21.0, 2.0), "cellar": (12.0, 1.0)}  # mean, swing over a day
SILENT = range(2 * 1440 + 180, 2 * 1440 + 250)  # minutes in which the cellar said nothing
FAULT = 3 * 1440 + 720  # the minute of a wrong reading

SCHEMA = """{
  :sensor/name   {:db/valueType :db.type/string :db/unique :db.unique/identity}
  :reading/of    {:db/valueType :db.type/ref}
  :reading/at    {:db/valueType :db.type/instant}
  :reading/value {:db/valueType :db.type/double}}"""


def readings(name: str) -> list[tuple[datetime, float]]:
    """One reading a minute: a wave over the day, warmer on Thursday; deterministic."""
    mean, swing = SENSORS[name]
    found = []
    for minute in range(MINUTES):
        if name == "cellar" and minute in SILENT:
            continue
        day = minute // 1440
        value = (
            mean
            + swing * math.sin((minute % 1440 / 1440 - 0.395) * 2 * math.pi)
            + (0.4 if day == 3 else 0.0) * (swing > 1)
        )
        found.append(
            (START + timedelta(minutes=minute), 85.0 if (name, minute) == ("cellar", FAULT) else round(value, 1))
        )
    return found


def load(conn: d.Connection) -> int:
    """All readings as columns in one transaction; returns how many there are."""
    names = conn.transact([{":db/id": name, ":sensor/name": name} for name in SENSORS]).tempids
    rows = [(names[name], at, value) for name in SENSORS for at, value in readings(name)]
    first = conn.db().max_eid + 1
    eids = range(first, first + len(rows))
    of, at, values = zip(*rows, strict=True)
    conn.load({
        ":reading/of": (list(eids), list(of)),
        ":reading/at": (list(eids), list(at)),
        ":reading/value": (list(eids), list(values)),
    })  # fmt: skip
    return len(rows)


def main() -> None:
    """Loads, asks, corrects."""
    with d.connect(None, SCHEMA) as conn:
        print(f"{load(conn):,} readings of {len(SENSORS)} sensors")
        db = conn.db()

        # A day is a range of :reading/at, which is sorted by value: only its readings are looked at.
        hours: dict[int, list[float]] = {}
        for at, value in db.q(
            """[:find ?at ?v :in $ ?name ?from ?to
                :where [?s :sensor/name ?name] [?r :reading/of ?s] [?r :reading/at ?at] [(<= ?from ?at)] [(< ?at ?to)]
                       [?r :reading/value ?v]]""",
            "attic", START + timedelta(days=3), START + timedelta(days=4),
        ):  # fmt: skip
            hours.setdefault(at.hour, []).append(value)
        hour = max(hours, key=lambda h: sum(hours[h]))
        print(
            f"warmest hour of attic:  {(START + timedelta(days=3)):%A} {hour}:00, {sum(hours[hour]) / 60:.1f} degrees on average"
        )

        # Your own functions in a query: passed by name, called once for each distinct value.
        warm = db.q(
            """[:find ?name (count-distinct ?hour) :in $ ?whole-hour
                :where [?r :reading/value ?v] [(> ?v 28)] [(< ?v 50)] [?r :reading/at ?at] [(?whole-hour ?at) ?hour]
                       [?r :reading/of ?s] [?s :sensor/name ?name] :order-by ?name]""",
            lambda at: at.replace(minute=0),
        )  # fmt: skip
        print("hours over 28 degrees: ", ", ".join(f"{name} {count}" for name, count in warm))

        for name in SENSORS:
            times = db.q(
                """[:find [?at ...] :in $ ?name
                    :where [?s :sensor/name ?name] [?r :reading/of ?s] [?r :reading/at ?at] :order-by ?at]""",
                name,
            )
            for before, after in pairwise(times):
                if after - before > timedelta(minutes=10):
                    print(f"silent for more than ten minutes: {name} from {before:%F %H:%M} to {after:%F %H:%M}")

        faulty, name, value, at = db.q(
            """[:find ?r ?name ?v ?at :where [?r :reading/value ?v] [(> ?v 50)] [?r :reading/of ?s]
                [?s :sensor/name ?name] [?r :reading/at ?at]]""").one()  # fmt: skip
        print(f"the faulty reading:     {name} {value} at {at:%F %H:%M}")

        # The correction is a transaction with a reason; the database value from before still says what it said.
        conn.transact([[":db/retractEntity", faulty]], {":db/doc": "no cellar has 85 degrees"})
        highest = '[:find (max ?v) . :where [?s :sensor/name "cellar"] [?r :reading/of ?s] [?r :reading/value ?v]]'
        print(f"maximum of cellar:      {db.q(highest)} before, {conn.q(highest)} after the correction")


if __name__ == "__main__":
    main()
