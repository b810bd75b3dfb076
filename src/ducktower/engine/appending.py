"""One open stream of small writes to one table: what is the same for all of its writes is found out once.

Owns nothing but that. Must never wait for a commit: outcomes go to `done`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrow_types import plain_schema
from ..config import EngineConfig
from ..errors import InvalidArgument, LimitExceeded
from .commit_queue import CommitQueue
from .ledger import fingerprint
from .shares import Share
from .trail import Trail
from .trails import counted
from .uploads import Arriving, counted_bytes
from .words import Claim, Outcome, PlanKey, Target, Write
from .writers import Term

__all__ = ["Appending"]


class Appending:
    """Used by one thread, the stream's. Raises LimitExceeded when the rows have too many columns.

    With a writer's `term` every write has a sequence, and takes effect once.
    """

    def __init__(
        self,
        queue: CommitQueue,
        config: EngineConfig,
        target: Target,
        schema: Any,
        arriving: Arriving,
        share: Share | None = None,
        trail: Trail | None = None,
        term: Term | None = None,
    ) -> None:
        if len(schema) > config.queue_columns_max:
            raise LimitExceeded(
                f"a stream of writes may have {config.queue_columns_max} columns, not {len(schema)}; "
                "send the rows as a write of its own"
            )
        self._queue = queue
        self._config = config
        self._bytes_max = min(config.group_bytes_max, config.row_bytes_max)  # what is larger is looked at row by row
        self._write_bytes_max = config.upload_bytes_max
        self._arriving = arriving
        self._share = share
        self._name = "" if share is None else share.name
        self._trail = trail
        self._term = term
        self._schema = plain_schema(schema)
        self._key = PlanKey(target, self._schema)
        self._cast = self._schema != schema.remove_metadata()
        self._strip = schema.metadata is not None

    def submit(
        self, batch: Any, done: Callable[[Outcome], None], parts: tuple[int, ...] = (), sequence: int = 0
    ) -> None:
        """Queue a record batch as one write and return; `done` is called after its COMMIT and must not block.

        With `parts` the batch is several writes of so many rows each. They cost no more than one, unless one of
        them fails: then each is stored or refused by itself, and `done` gets Divided. `sequence` is the writer's, of
        the first of them; it counts where the stream has a writer.

        Waits for room in the queue for at most `queue_wait_seconds`. Raises Overloaded when there was none, or too
        much arrives at once, LimitExceeded for a batch larger than a group or with a write past `upload_bytes_max`
        (a stream has no end, so each write of it is an upload), Unavailable when the server stops,
        InvalidArgument when the writer was resumed elsewhere; `done` is not called then.
        """
        nbytes = counted_bytes(batch)
        if nbytes > self._bytes_max:
            raise LimitExceeded(
                f"a write of a stream has {nbytes} bytes, the limit is {self._bytes_max}; send it as a write of its own"
            )
        if self._write_bytes_max is not None and nbytes > self._write_bytes_max:
            self._check_writes(batch, parts, self._write_bytes_max)
        if self._cast:
            batch = batch.cast(self._schema)
        elif self._strip:
            batch = batch.replace_schema_metadata(None)
        if self._trail is not None:
            done = counted(self._trail, done)
        write = Write(self._key, [batch], batch.num_rows, nbytes, done, parts, self._share)
        self._arriving.add(self._name, nbytes)
        try:
            if self._term is None:
                self._queue.submit(write, wait_seconds=self._config.queue_wait_seconds)
                return
            write.claims = self._claims(self._term, batch, parts or (batch.num_rows,), sequence)
            with self._term.held():
                self._queue.submit(write, wait_seconds=self._config.queue_wait_seconds)
        finally:
            self._arriving.take_away(self._name, nbytes)

    @staticmethod
    def _check_writes(batch: Any, parts: tuple[int, ...], most: int) -> None:
        start = 0
        for rows in parts or (batch.num_rows,):
            nbytes = counted_bytes(batch.slice(start, rows))
            if nbytes > most:
                raise LimitExceeded(f"a write of a stream has {nbytes} bytes, the limit of an upload is {most}")
            start += rows

    def _claims(self, term: Term, batch: Any, parts: tuple[int, ...], sequence: int) -> tuple[Claim, ...]:
        if not 1 <= sequence <= 2**63 - len(parts):
            raise InvalidArgument(f"a writer's sequences go from 1 to 2^63 - 1; {sequence} is none")
        claims, start = [], 0
        for offset, rows in enumerate(parts):
            content = [batch.slice(start, rows)] if rows else []
            seen = fingerprint(self._key.target, self._schema, content)
            claims.append(Claim(*term.key, sequence + offset, seen))
            start += rows
        return tuple(claims)
