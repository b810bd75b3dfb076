"""One DuckDB, two writers, one reader: each writer and the reader a process of its own.

Run `python examples/one_duckdb_two_writers_one_reader.py`. It serves a database of its own unless
DUCKTOWER_URL names a server, and takes about five seconds.
"""

import contextlib
import multiprocessing
import os
import random
import time

import pyarrow as pa

import ducktower

TABLE = "concurrent_test"
SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.string())])
SECONDS = 3


def write(url: str, name: str) -> None:
    end = time.monotonic() + SECONDS
    with ducktower.connect(url) as client, client.appender(TABLE) as rows:
        while time.monotonic() < end:
            rows.append({"id": time.time_ns(), "value": f"{random.random():.6f}"})
            time.sleep(0.001)
        rows.flush()  # returns when each of them is durable
        print(f"{name}: {rows.acknowledged_rows} rows acknowledged")


def read(url: str) -> None:
    end = time.monotonic() + SECONDS
    with ducktower.connect(url) as client:
        while time.monotonic() < end:
            count = client.query(f"SELECT count(*) AS rows FROM {TABLE}")["rows"][0]
            print(f"reader: {count} rows")
            time.sleep(0.5)


def main() -> None:
    with contextlib.ExitStack() as stack:
        url = os.environ.get("DUCKTOWER_URL") or stack.enter_context(ducktower.serve()).url
        client = stack.enter_context(ducktower.connect(url))
        client.create_table(TABLE, SCHEMA, if_not_exists=True)

        start = multiprocessing.get_context("spawn").Process
        people = [
            start(target=write, args=(url, "writer 1")),
            start(target=write, args=(url, "writer 2")),
            start(target=read, args=(url,)),
        ]
        for person in people:
            person.start()
        for person in people:
            person.join()
        sql = f"SELECT count(*) AS rows, min(id) AS first, max(id) AS last FROM {TABLE}"
        print(client.query(sql).to_pylist()[0])


if __name__ == "__main__":
    main()
