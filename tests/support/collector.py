"""A collector in a process of its own: it appends the numbers of an endless source, each once, until it is killed.

    python -m support.collector URL WRITER ROWS_PER_WRITE

Its place in the source is the number of rows that its writer has stored. It says so when it begins, then the number of
rows that were acknowledged, now and then.
"""

from __future__ import annotations

import os
import sys

import ducktower


def _main(url: str, writer: str, rows_per_write: str) -> None:
    with (
        ducktower.connect(url) as client,
        client.appender("t", writer=writer, rows_per_write=int(rows_per_write), linger_seconds=0.0) as rows,
    ):
        assert rows.resumed is not None
        os.write(1, b"resumed %d\n" % rows.resumed.rows)
        number = rows.resumed.rows
        while True:
            pending = rows.append({"i": number})
            number += 1
            if number % 50 == 0:
                pending.result()
                os.write(1, b"stored %d\n" % (rows.resumed.rows + rows.acknowledged_rows))


if __name__ == "__main__":
    _main(*sys.argv[1:])
