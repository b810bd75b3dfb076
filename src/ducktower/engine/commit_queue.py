"""Group commit: a bounded queue of small writes and the one thread that commits them, a group at a time.

A lone write is committed at once: the thread never waits for company. While it commits, further writes gather
and become the next group, so the group grows with the load. A write's `done` is called after COMMIT returned.

Each principal's writes wait in a lane of their own, in their order, and a group is taken from the lanes by turns: who
writes little is not behind all that somebody greedy has waiting. Nor does anybody fill the queue: who has a name may
have no more waiting than is left free for others.

Owns the queue, its bounds and the thread. Knows neither DuckDB nor Flight: what a commit is comes in as a
function. Must never call `done` under its lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from .. import cores
from ..config import EngineConfig
from ..errors import InternalError, LimitExceeded, Overloaded, Unavailable
from ..monitor import Counter, Histogram
from .shares import Lane, Share
from .words import Outcome, Write

__all__ = ["CommitQueue"]

log = logging.getLogger(__name__)

_COMMIT_SECONDS_MIN = 0.01
"""So long at least a group is taken to last when a refused write is told when to come back."""


class CommitQueue:
    """The queue; `submit` is safe from any thread.

    `commit` gets one group, what is in it of one principal in the order of arrival, and returns an outcome for each
    member. It runs in the committing thread alone. `admit` raises for a write that may not begin now.
    """

    def __init__(
        self,
        config: EngineConfig,
        commit: Callable[[Sequence[Write]], Sequence[Outcome]],
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._share_bytes_max = min(config.queue_bytes_max, config.principal_queue_bytes_max)
        self._commit = commit
        self._admit = admit
        self.groups = Counter()
        self.writes = Counter()
        self.refused = Counter()
        self.commit_seconds = Histogram()
        # Guarded by _lock: everything below. _work wakes the committing thread, _room those who wait to submit.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._turns: deque[Lane] = deque()  # the lanes in which something waits; whose turn is next comes first
        self._nobodys = Lane()  # of those who have no name
        self._waiting_writes = 0  # a message that carries several counts for so many
        self._waiting_bytes = 0
        self._flushed = threading.Condition(self._lock)
        self._idle = False
        self._closing = False
        # Written by the committing thread alone, without the lock: since when a group is in commit, and how long the
        # last one took.
        self._committing_since: float | None = None
        self._last_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="ducktower-commit", daemon=True)
        self._thread.start()

    def submit(self, write: Write, *, wait_seconds: float = 0.0) -> None:
        """Queue a write; its `done` will be called once.

        Waits at most `wait_seconds` for room. Raises Overloaded when there is none, LimitExceeded when the
        write is larger than the whole queue, Unavailable after `close`. Then `done` is not called.
        """
        self._admit()
        share = write.share
        most = self._config.queue_bytes_max if share is None else self._share_bytes_max
        if write.nbytes > most:
            raise LimitExceeded(f"the write has {write.nbytes} bytes, the commit queue holds {most}")
        with self._lock:
            if not self._fits(write) and not self._closing:
                fits = wait_seconds > 0 and self._room.wait_for(
                    lambda: self._closing or self._fits(write), wait_seconds
                )
                if not fits:
                    self.refused.add()
                    raise Overloaded(
                        f"{self._waiting_writes} writes with {self._waiting_bytes} bytes wait for their commit already"
                        if share is None or not self._has_room(write)
                        else f'{share.lane.count} writes of "{share.name}" with {share.lane.nbytes} bytes wait already',
                        retry_after_seconds=self._emptied_in(),
                    )
            if self._closing:
                raise Unavailable("the server is stopping; nothing was stored")
            lane = self._nobodys if share is None else share.lane
            count, nbytes = write.count, write.nbytes
            if not lane.waiting:
                self._turns.append(lane)
            lane.waiting.append(write)
            lane.queued += 1
            lane.count += count
            lane.nbytes += nbytes
            self._waiting_writes += count
            self._waiting_bytes += nbytes
            if self._idle:
                self._idle = False
                self._work.notify()

    def flush(self, share: Share | None, wait_seconds: float) -> None:
        """Wait until all that a principal has in the queue now was answered. Raises Overloaded after `wait_seconds`."""
        lane = self._nobodys if share is None else share.lane
        with self._lock:
            queued = lane.queued
            if not self._flushed.wait_for(lambda: lane.answered >= queued, wait_seconds):
                raise Overloaded(
                    f"{queued - lane.answered} writes still wait after {wait_seconds:g} seconds",
                    retry_after_seconds=self._emptied_in(),
                )

    def depth(self) -> tuple[int, int]:
        """Return how many writes wait, and their bytes."""
        with self._lock:
            return self._waiting_writes, self._waiting_bytes

    @property
    def running(self) -> bool:
        """Whether the committing thread is there, or was told to end."""
        return self._thread.is_alive() or self._closing

    def committing_seconds(self) -> float:
        """Return for how long the group that is in commit has been; 0 when there is none."""
        since = self._committing_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, wait_seconds: float) -> bool:
        """Refuse new writes and commit those that wait; False when that took longer than `wait_seconds`."""
        with self._lock:
            self._closing = True
            self._work.notify()
            self._room.notify_all()
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _fits(self, write: Write) -> bool:
        if not self._has_room(write):
            return False
        share = write.share
        if share is None or not share.lane.waiting:  # also what carries more writes than may wait
            return True
        config, lane = self._config, share.lane
        writes_max = min(config.principal_queue_writes_max, config.queue_writes_max - self._waiting_writes)
        bytes_max = min(config.principal_queue_bytes_max, config.queue_bytes_max - self._waiting_bytes)
        return lane.count + write.count <= writes_max and lane.nbytes + write.nbytes <= bytes_max

    def _has_room(self, write: Write) -> bool:
        if not self._turns:
            return True  # also what carries more writes than may wait
        return (
            self._waiting_writes + write.count <= self._config.queue_writes_max
            and self._waiting_bytes + write.nbytes <= self._config.queue_bytes_max
        )

    def _emptied_in(self) -> float:
        """Guess in how many seconds what waits will be committed."""
        groups = 1 + self._waiting_writes // self._config.group_writes_max
        groups += self._waiting_bytes // self._config.group_bytes_max
        return groups * max(self._last_seconds, _COMMIT_SECONDS_MIN)

    def _next_group(self) -> list[Write]:
        """Take what waits, up to the bounds of a group; an empty list ends the thread."""
        turns, writes_max, bytes_max = self._turns, self._config.group_writes_max, self._config.group_bytes_max
        with self._lock:
            while not turns:
                if self._closing:
                    return []
                self._idle = True
                self._work.wait()
                self._idle = False
            group: list[Write] = []
            size = count = 0
            while turns:
                lane = turns[0]
                write = lane.waiting[0]
                writes, nbytes = write.count, write.nbytes
                if group and (count + writes > writes_max or size + nbytes > bytes_max):
                    break  # it keeps its turn
                group.append(lane.waiting.popleft())
                lane.count -= writes
                lane.nbytes -= nbytes
                count += writes
                size += nbytes
                if not lane.waiting:
                    turns.popleft()
                elif len(turns) > 1:
                    turns.rotate(-1)
            self._waiting_bytes -= size
            self._waiting_writes -= count
            self._room.notify_all()
            return group

    def _run(self) -> None:
        cores.stay()  # those that it wakes are there
        while group := self._next_group():
            self._committing_since = started = time.monotonic()
            try:
                outcomes = self._commit(group)
            except Exception as error:
                log.exception("the commit of %d writes failed", len(group))
                outcomes = [InternalError(f"the commit failed: {type(error).__name__}")] * len(group)
            self._last_seconds = time.monotonic() - started
            self.commit_seconds.record(self._last_seconds)
            self.groups.add()
            self.writes.add(sum(write.count for write in group))
            for write, outcome in zip(group, outcomes, strict=True):
                try:
                    write.done(outcome)
                except Exception:
                    log.exception("cannot hand on the outcome of a write")
            self._committing_since = None
            with self._lock:
                for write in group:
                    lane = self._nobodys if write.share is None else write.share.lane
                    lane.answered += 1
                self._flushed.notify_all()
