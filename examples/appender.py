"""Many small rows a second, each with a durable acknowledgement, over one open stream.

Run `python examples/appender.py`. It serves a database of its own unless DUCKTOWER_URL names a server.
"""

import contextlib
import os
import time

import pyarrow as pa

import ducktower

TABLE = "appender_example"
SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.float64())])
ROWS = 50_000


def main() -> None:
    with contextlib.ExitStack() as stack:
        url = os.environ.get("DUCKTOWER_URL") or stack.enter_context(ducktower.serve()).url
        client = stack.enter_context(ducktower.connect(url))
        client.create_table(TABLE, SCHEMA, if_not_exists=True)

        with client.appender(TABLE) as rows:
            # One row, waited for: it is durable when `result` returns.
            receipt = rows.append({"id": 0, "value": 0.0}).result()
            print(f"the first row is in commit {receipt.commit}")

            # Many rows, not waited for one by one: the appender forms the writes and keeps several in flight.
            started = time.monotonic()
            for number in range(1, ROWS):
                rows.append({"id": number, "value": number / 7})
            rows.flush()
            seconds = time.monotonic() - started
            print(f"{rows.acknowledged_rows:,} rows acknowledged, {ROWS / seconds:,.0f} a second")

            # A batch that is one write: all of its rows or none.
            batch = pa.RecordBatch.from_pydict({"id": [-1, -2], "value": [0.1, 0.2]}, schema=SCHEMA)
            print(f"{rows.write(batch).result().rows} rows in one write")


if __name__ == "__main__":
    main()
