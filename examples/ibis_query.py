"""Ask with an Ibis expression instead of SQL. Needs `pip install ducktower[ibis]`.

Run `python examples/ibis_query.py`. It serves a database of its own unless DUCKTOWER_URL names a server.
"""

import contextlib
import os
import random

from ibis import _

import ducktower

TABLE = "ibis_example_measurements"


def main() -> None:
    with contextlib.ExitStack() as stack:
        url = os.environ.get("DUCKTOWER_URL") or stack.enter_context(ducktower.serve()).url
        client = stack.enter_context(ducktower.connect(url))

        cities = ("Berlin", "Lagos", "Lima")
        rows = [
            {"id": number, "city": cities[number % 3], "celsius": random.gauss(20.0, 5.0)} for number in range(9_000)
        ]
        client.ingest(TABLE, rows, mode="replace")

        # The table's columns and types come from the server; nothing runs until the expression is sent.
        measured = client.table(TABLE)
        warm = (
            measured.filter(_.celsius > 25)
            .group_by("city")
            .agg(warm_days=_.count(), hottest=_.celsius.max().round(1))
            .order_by("city")
        )
        for row in client.query(warm).to_pylist():
            print(row)


if __name__ == "__main__":
    main()
