"""Turns at starting: bounded, in order, handed on when their time is over, and never lost."""

import threading
import time

import pytest

import ducktower
from ducktower.engine.starting import Starting
from support.waiting import until


def test_no_more_start_at_once_than_may() -> None:
    """Eight threads, two turns."""
    starting = Starting(at_once=2, start_seconds=60)
    lock = threading.Lock()
    inside, most = 0, 0

    def start() -> None:
        nonlocal inside, most
        for _ in range(200):
            with starting.turn():
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 2


def test_who_takes_long_holds_nobody_up() -> None:
    """A turn goes on to the next when its time is over, though nobody left."""
    starting = Starting(at_once=1, start_seconds=0.01)
    done = threading.Event()

    def start() -> None:
        with starting.turn():
            done.set()

    with starting.turn(), starting.turn():  # the second is admitted when the first one's time is over
        other = threading.Thread(target=start)
        other.start()
        assert done.wait(60)
        other.join(60)


def test_turns_come_in_the_order_of_arrival() -> None:
    """First come, first served."""
    starting = Starting(at_once=1, start_seconds=60)
    order: list[int] = []

    def start(number: int) -> None:
        with starting.turn():
            order.append(number)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(5)]
    with starting.turn():
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda: len(starting._waiting) == number + 1, "the next one waits")  # noqa: B023 - called at once
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4]


def test_a_failure_gives_its_turn_back() -> None:
    """The next one is admitted at once."""
    starting = Starting(at_once=1, start_seconds=60)
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"), starting.turn():
            raise ValueError("mine")


def test_short_queries_get_through_beside_long_ones(client: ducktower.FlightClient) -> None:
    """More long queries than may start at once: a short one is answered while they run."""
    threads = [threading.Thread(target=_cancelled, args=(client,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(client.sessions()) == 8, "all of them run")
    assert client.query("SELECT 42 AS answer")["answer"].to_pylist() == [42]
    running = client.sessions()
    assert len(running) == 8
    assert all(client.cancel(call["id"]) for call in running)
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def _cancelled(client: ducktower.FlightClient) -> None:
    with pytest.raises(ducktower.Cancelled):
        client.query("SELECT count(*) FROM range(100000000) a, range(100000000) b")
