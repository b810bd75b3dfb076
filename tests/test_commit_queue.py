"""The queue alone: its bounds, its order, its groups, its end. No DuckDB, no Flight."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ducktower.config import EngineConfig
from ducktower.engine.commit_queue import CommitQueue
from ducktower.engine.shares import Share
from ducktower.engine.words import Outcome, PlanKey, Receipt, Target, Write
from ducktower.errors import Conflict, InternalError, LimitExceeded, Overloaded, Unavailable
from support.threads import together
from support.waiting import SECONDS_MAX, until


class Committer:
    """A commit function that a test can hold: `gate` is open unless the test closes it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.groups: list[list[Write]] = []
        self.answer: Callable[[Write], Outcome] = lambda write: Receipt(write.rows, len(self.groups))

    def __call__(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        self.groups.append(list(writes))
        assert self.gate.wait(SECONDS_MAX)
        return [self.answer(write) for write in writes]


class Outcomes:
    """Collects what writes were answered with."""

    def __init__(self) -> None:
        self.of: dict[int, list[Outcome]] = {}

    def write(
        self, number: int, nbytes: int = 1, rows: int = 1, parts: tuple[int, ...] = (), share: Share | None = None
    ) -> Write:
        self.of[number] = []
        return Write(PlanKey(Target("t"), None), [number], rows, nbytes, self.of[number].append, parts, share)

    def all_answered(self) -> bool:
        return all(self.of.values())


@pytest.fixture
def committer() -> Iterator[Committer]:
    """Return a commit function whose gate is open again at the end."""
    function = Committer()
    yield function
    function.gate.set()


def held_queue(committer: Committer, outcomes: Outcomes, **limits: int) -> CommitQueue:
    """Return a queue whose committing thread is held in the commit of write 0."""
    queue = CommitQueue(EngineConfig(**limits), committer)
    committer.gate.clear()
    queue.submit(outcomes.write(0))
    until(lambda: committer.groups, "the first commit")
    return queue


def test_a_lone_write_is_committed_at_once(committer: Committer) -> None:
    """Nothing waits for company: one write, one group of one."""
    outcomes = Outcomes()
    queue = CommitQueue(EngineConfig(), committer)
    queue.submit(outcomes.write(7, rows=3))
    until(outcomes.all_answered, "the answer")
    assert outcomes.of[7] == [Receipt(3, 1)]
    assert queue.close(SECONDS_MAX)


def test_writes_that_come_during_a_commit_form_the_next_group(committer: Committer) -> None:
    """What gathers while a commit runs is committed together, in the order of arrival."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes)
    for number in range(1, 21):
        queue.submit(outcomes.write(number, nbytes=10))
    assert queue.depth() == (20, 200)
    committer.gate.set()
    until(outcomes.all_answered, "all answers")
    assert [[write.batches[0] for write in group] for group in committer.groups] == [[0], list(range(1, 21))]
    assert (queue.groups.value, queue.writes.value) == (2, 21)
    assert queue.depth() == (0, 0)
    assert queue.close(SECONDS_MAX)


def test_a_message_counts_for_the_writes_that_it_carries(committer: Committer) -> None:
    """In the queue, in a group, and where they are told; one with more than there is room for goes alone."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_writes_max=10, group_writes_max=6)
    for number, writes in enumerate((4, 2, 1, 3), 1):
        queue.submit(outcomes.write(number, rows=writes, parts=(1,) * writes))
    assert queue.depth() == (10, 4)
    with pytest.raises(Overloaded, match="10 writes"):
        queue.submit(outcomes.write(5))
    committer.gate.set()
    until(lambda: queue.writes.value == 11, "the commits")
    committer.gate.clear()
    queue.submit(outcomes.write(6))
    until(lambda: len(committer.groups) == 4, "the commit that is held")
    queue.submit(outcomes.write(7, rows=50, parts=(1,) * 50))
    with pytest.raises(Overloaded, match="50 writes"):
        queue.submit(outcomes.write(8))
    committer.gate.set()
    assert queue.close(SECONDS_MAX)
    assert [[write.batches[0] for write in group] for group in committer.groups] == [[0], [1, 2], [3, 4], [6], [7]]


def test_nobody_is_answered_before_the_commit_returned(committer: Committer) -> None:
    """A waiter hears nothing while its commit runs."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes)
    assert outcomes.of[0] == []
    committer.gate.set()
    until(outcomes.all_answered, "the answer")
    assert queue.close(SECONDS_MAX)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    writes_max=st.integers(1, 20),
    bytes_max=st.integers(1, 100),
)
def test_every_group_keeps_its_bounds_and_is_as_large_as_they_allow(
    sizes: list[int], writes_max: int, bytes_max: int
) -> None:
    """Groups never pass writes or bytes (but for one large write alone), lose nothing and keep the order."""
    committer, outcomes = Committer(), Outcomes()
    queue = held_queue(committer, outcomes, group_writes_max=writes_max, group_bytes_max=bytes_max)
    for number, size in enumerate(sizes, start=1):
        queue.submit(outcomes.write(number, nbytes=size))
    committer.gate.set()
    assert queue.close(SECONDS_MAX)
    assert all(len(answers) == 1 for answers in outcomes.of.values())
    groups = committer.groups[1:]
    assert [write.batches[0] for group in groups for write in group] == list(range(1, len(sizes) + 1))
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        size = sum(write.nbytes for write in group)
        assert len(group) <= writes_max
        assert size <= bytes_max or len(group) == 1
        if following is not None:
            assert len(group) == writes_max or size + following[0].nbytes > bytes_max


def test_principals_take_turns(committer: Committer) -> None:
    """Who writes little is not behind all that somebody greedy has waiting; each one's own order is kept."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, group_writes_max=4)
    greedy, modest = Share("greedy"), Share("modest")
    for number in range(1, 9):
        queue.submit(outcomes.write(number, share=greedy))
    for number in (101, 102):
        queue.submit(outcomes.write(number, share=modest))
    queue.submit(outcomes.write(201))
    committer.gate.set()
    assert queue.close(SECONDS_MAX)
    groups = [[write.batches[0] for write in group] for group in committer.groups]
    assert groups == [[0], [1, 101, 201, 2], [102, 3, 4, 5], [6, 7, 8]]


@settings(max_examples=60, deadline=None)
@given(whose=st.lists(st.integers(0, 3), min_size=1, max_size=60), sizes=st.randoms(use_true_random=False))
def test_turns_lose_nothing_and_leave_nobody_out(whose: list[int], sizes: random.Random) -> None:
    """Each write is in one group, each lane in its order, and in every group whoever waits before it was full."""
    committer, outcomes = Committer(), Outcomes()
    queue = held_queue(committer, outcomes, group_writes_max=4, group_bytes_max=20)
    shares = [None, *map(Share, "abc")]
    for number, one in enumerate(whose, 1):
        queue.submit(outcomes.write(number, nbytes=sizes.randint(0, 20), share=shares[one]))
    committer.gate.set()
    assert queue.close(SECONDS_MAX)
    assert queue.depth() == (0, 0)
    assert all(len(answers) == 1 for answers in outcomes.of.values())
    done = [write.batches[0] for group in committer.groups[1:] for write in group]
    for one in range(4):
        mine = [number for number, owner in enumerate(whose, 1) if owner == one]
        assert [number for number in done if whose[number - 1] == one] == mine
    for place, number in enumerate(done):  # between two of one lane every other that waits has had a turn
        mine = [later for later in done[place + 1 :] if whose[later - 1] == whose[number - 1]]
        if mine:
            between = done[place + 1 : done.index(mine[0])]
            left = {whose[later - 1] for later in done[place + 1 :]} - {whose[number - 1]}
            assert {whose[later - 1] for later in between} == left
            assert len(between) == len(left)


def test_to_wait_for_ones_own_is_not_to_wait_for_others(committer: Committer) -> None:
    """`flush` knows whose writes it waits for, whoever else's are answered first."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes)
    greedy, modest = Share("greedy"), Share("modest")
    queue.submit(outcomes.write(1, share=greedy))
    queue.flush(modest, 0)
    with pytest.raises(Overloaded, match="1 writes still wait"):
        queue.flush(greedy, 0.01)
    committer.gate.set()
    queue.flush(greedy, SECONDS_MAX)
    assert outcomes.of[1] == [Receipt(1, 2)]
    assert queue.close(SECONDS_MAX)


def test_one_outcome_is_not_anothers(committer: Committer) -> None:
    """Each member of a group gets its own outcome, whatever the others got."""
    outcomes = Outcomes()
    committer.answer = lambda write: Conflict("no") if write.batches[0] == 2 else Receipt(write.rows, 1)
    queue = held_queue(committer, outcomes)
    for number in (1, 2, 3):
        queue.submit(outcomes.write(number))
    committer.gate.set()
    until(outcomes.all_answered, "all answers")
    assert outcomes.of[1] == outcomes.of[3] == [Receipt(1, 1)]
    assert isinstance(outcomes.of[2][0], Conflict)
    assert queue.close(SECONDS_MAX)


def test_a_full_queue_refuses_at_once_by_writes(committer: Committer) -> None:
    """Past its number of writes the queue says OVERLOADED, and has not taken the write."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_writes_max=3)
    for number in (1, 2, 3):
        queue.submit(outcomes.write(number))
    refused = Outcomes()
    with pytest.raises(Overloaded, match="3 writes with 3 bytes") as refusal:
        queue.submit(refused.write(4))
    assert refusal.value.retry_after_seconds
    assert queue.refused.value == 1
    committer.gate.set()
    until(outcomes.all_answered, "all answers")
    assert refused.of[4] == []
    assert queue.close(SECONDS_MAX)


def test_a_full_queue_refuses_at_once_by_bytes(committer: Committer) -> None:
    """Past its bytes the queue says OVERLOADED; a write that still fits is taken."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_bytes_max=100)
    queue.submit(outcomes.write(1, nbytes=90))
    with pytest.raises(Overloaded):
        queue.submit(Outcomes().write(2, nbytes=11))
    queue.submit(outcomes.write(3, nbytes=10))
    committer.gate.set()
    until(outcomes.all_answered, "all answers")
    assert queue.close(SECONDS_MAX)


def test_a_write_larger_than_the_queue_is_refused_for_good(committer: Committer) -> None:
    """LIMIT_EXCEEDED, not OVERLOADED: trying again would not help."""
    queue = CommitQueue(EngineConfig(queue_bytes_max=100), committer)
    with pytest.raises(LimitExceeded, match="101 bytes"):
        queue.submit(Outcomes().write(1, nbytes=101), wait_seconds=5)
    assert queue.close(SECONDS_MAX)


def test_a_writer_may_wait_for_room(committer: Committer) -> None:
    """With a wait the write is taken as soon as a group left the queue."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_writes_max=1)
    queue.submit(outcomes.write(1))
    waiting = outcomes.write(2)
    thread = threading.Thread(target=lambda: queue.submit(waiting, wait_seconds=SECONDS_MAX))
    thread.start()
    committer.gate.set()
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()
    until(outcomes.all_answered, "all answers")
    assert queue.close(SECONDS_MAX)


def test_a_wait_for_room_ends_in_overloaded(committer: Committer) -> None:
    """The wait is bounded."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_writes_max=1)
    queue.submit(outcomes.write(1))
    with pytest.raises(Overloaded):
        queue.submit(Outcomes().write(2), wait_seconds=0.05)
    committer.gate.set()
    assert queue.close(SECONDS_MAX)


def test_close_commits_what_waits_and_refuses_what_comes(committer: Committer) -> None:
    """A closing queue loses nothing that it took, and says UNAVAILABLE to the rest."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes)
    for number in range(1, 6):
        queue.submit(outcomes.write(number))
    assert not queue.close(0.05), "the commit is still held"
    with pytest.raises(Unavailable, match="nothing was stored"):
        queue.submit(Outcomes().write(9))
    committer.gate.set()
    assert queue.close(SECONDS_MAX)
    assert outcomes.all_answered()


def test_close_wakes_those_who_wait_for_room(committer: Committer) -> None:
    """Who waits for room when the queue closes hears UNAVAILABLE at once, not at the end of the wait."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes, queue_writes_max=1)
    queue.submit(outcomes.write(1))
    failures: list[BaseException] = []

    def submit() -> None:
        try:
            queue.submit(Outcomes().write(2), wait_seconds=600)
        except Unavailable as error:
            failures.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    queue.close(0.05)
    thread.join(SECONDS_MAX)
    assert len(failures) == 1
    committer.gate.set()
    assert queue.close(SECONDS_MAX)


def test_done_may_submit_again(committer: Committer) -> None:
    """`done` is called without the lock: it can hand the queue its next write, and look at its depth."""
    queue = CommitQueue(EngineConfig(), committer)
    rounds: list[int] = []

    def again(outcome: Outcome) -> None:
        rounds.append(queue.depth()[0])
        if len(rounds) < 5:
            queue.submit(Write(PlanKey(Target("t"), None), [0], 1, 1, again))

    queue.submit(Write(PlanKey(Target("t"), None), [0], 1, 1, again))
    until(lambda: len(rounds) == 5, "five rounds")
    assert queue.close(SECONDS_MAX)


def test_a_done_that_fails_harms_nobody_else(committer: Committer, caplog: pytest.LogCaptureFixture) -> None:
    """An error in one waiter's callback is logged, and the other waiters are answered."""
    outcomes = Outcomes()
    queue = held_queue(committer, outcomes)

    def bad(_: Outcome) -> None:
        raise RuntimeError("mine")

    queue.submit(Write(PlanKey(Target("t"), None), [0], 1, 1, bad))
    queue.submit(outcomes.write(1))
    committer.gate.set()
    until(outcomes.all_answered, "the other answers")
    queue.submit(outcomes.write(2))
    until(outcomes.all_answered, "a later answer")
    assert "cannot hand on the outcome" in caplog.text
    assert queue.close(SECONDS_MAX)


def test_a_commit_that_raises_answers_its_group_and_goes_on(
    committer: Committer, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect below costs one group an INTERNAL error, not the committing thread its life."""
    outcomes = Outcomes()

    def broken(write: Write) -> Outcome:
        if write.batches[0] == 1:
            raise ValueError("a defect")
        return Receipt(1, 1)

    committer.answer = broken
    queue = CommitQueue(EngineConfig(), committer)
    queue.submit(outcomes.write(1))
    until(outcomes.all_answered, "the answer to the failed write")
    assert isinstance(outcomes.of[1][0], InternalError)
    assert "ValueError" in outcomes.of[1][0].message
    queue.submit(outcomes.write(2))
    until(outcomes.all_answered, "the later answer")
    assert outcomes.of[2] == [Receipt(1, 1)]
    assert queue.close(SECONDS_MAX)


def test_many_threads_lose_nothing(committer: Committer) -> None:
    """Sixteen threads, two hundred writes each: every write answered once, each thread's order kept."""
    queue = CommitQueue(EngineConfig(group_writes_max=7), committer)
    boxes = [Outcomes() for _ in range(16)]

    def work(number: int) -> None:
        for i in range(200):
            write = boxes[number].write(i)
            write.batches = [(number, i)]
            queue.submit(write)

    together(16, work)
    assert queue.close(SECONDS_MAX)
    for number, box in enumerate(boxes):
        assert all(len(answers) == 1 for answers in box.of.values())
        seen = [w.batches[0][1] for group in committer.groups for w in group if w.batches[0][0] == number]
        assert seen == list(range(200))
