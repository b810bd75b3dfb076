"""A client process that opens an append stream, writes to it and never reads an acknowledgement.

Run as: python -m support.stuck_reader URL TABLE. Prints `writing` once its stream is open, and goes on.
"""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pyarrow.flight as flight


def main(url: str, table: str) -> None:
    """Write one-row batches until killed."""
    client = flight.connect(url)
    command = json.dumps({"append": {"table": table}}).encode()
    writer, _reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    batch = pa.record_batch({"i": pa.array([-1], pa.int64())})
    writer.begin(batch.schema)
    for sequence in range(1, 10_000_000):
        writer.write_with_metadata(batch, b"%d" % sequence)
        if sequence == 100:
            sys.stdout.write("writing\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
