"""A client process with three append streams that writes to each and never reads an acknowledgement.

Run as: python -m support.stuck_reader URL TABLE. Prints `writing` once for each stream, and goes on.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import pyarrow as pa
import pyarrow.flight as flight

STREAMS = 3


def write(url: str, table: str) -> None:
    """Write one-row batches until killed."""
    client = flight.connect(url)
    command = json.dumps({"append": {"table": table}}).encode()
    writer, _reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    batch = pa.record_batch([pa.nulls(1, pa.int64())], names=["i"])
    writer.begin(batch.schema)
    for sequence in range(1, 10_000_000):
        writer.write_with_metadata(batch, b"%d" % sequence)
        if sequence == 100:
            os.write(1, b"writing\n")


if __name__ == "__main__":
    for _ in range(STREAMS):
        threading.Thread(target=write, args=sys.argv[1:3]).start()
