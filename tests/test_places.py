"""Places: how many there are, who may have how many, and who gets one that comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ducktower.engine.places import Places
from ducktower.engine.shares import Share
from ducktower.errors import Overloaded
from support.waiting import SECONDS_MAX, until


def taken(places: Places, share: Share | None) -> int:
    """Take places until one is refused; return how many there were."""
    number = 0
    while True:
        try:
            places.take(share)
        except Overloaded:
            return number
        number += 1


def test_one_without_a_name_takes_all() -> None:
    """And is refused by a text that says what of."""
    places = Places("read", 3, 1, 0)
    assert taken(places, None) == 3
    with pytest.raises(Overloaded, match="no place for another read"):
        places.take(None)
    places.give_back(None)
    places.take(None)


def test_who_has_a_name_leaves_as_many_as_it_has() -> None:
    """One has half, the next ones parts of the rest; the last place is anybody's."""
    places = Places("read", 12, None, 0)
    names = [Share(name) for name in "abcd"]
    assert [taken(places, share) for share in names] == [6, 3, 2, 1]
    assert taken(places, Share("e")) == 0
    with pytest.raises(Overloaded, match="no place"):
        places.take(names[0])
    for _ in range(3):
        places.give_back(names[0])
    with pytest.raises(Overloaded, match='"a" has all of its places for a read'):
        places.take(names[0])
    assert taken(places, Share("f")) == 2


def test_a_limit_of_ones_own_may_be_lower() -> None:
    """Then it is met first."""
    places = Places("read", 12, 2, 0)
    assert taken(places, Share("a")) == 2
    assert taken(places, None) == 10


def test_those_who_wait_get_places_by_turns() -> None:
    """Five calls of one principal came first; the one of another does not wait for all of them."""
    places = Places("execute", 1, None, SECONDS_MAX)
    greedy, modest, got = Share("greedy"), Share("modest"), []
    lock = threading.Lock()

    def call(share: Share) -> None:
        places.take(share)
        with lock:
            got.append(share.name)

    with ThreadPoolExecutor(8) as pool:
        places.take(greedy)
        for number, share in enumerate((*[greedy] * 5, modest), 1):
            pool.submit(call, share)
            until(lambda number=number: sum(map(len, list(places._waiting.values()))) == number, "a call that waits")
        for number in range(6):
            places.give_back(modest if got[-1:] == ["modest"] else greedy)
            until(lambda number=number: len(got) == number + 1, "the next")
    assert got == ["greedy", "modest", "greedy", "greedy", "greedy", "greedy"]


def test_who_waited_long_enough_leaves_the_queue() -> None:
    """And takes nothing of what comes back later."""
    places = Places("execute", 1, None, 0.01)
    greedy, modest = Share("greedy"), Share("modest")
    places.take(greedy)
    for share in (greedy, modest, None):
        with pytest.raises(Overloaded, match=r"0\.01 seconds"):
            places.take(share)
    assert places._waiting == {}
    places.give_back(greedy)
    places.take(modest)


def test_whoever_waits_makes_room_when_none_is_free() -> None:
    """Not when its own are used up: others would lose what they have for it."""
    places = Places("read", 2, None, SECONDS_MAX)
    greedy = Share("greedy")
    asked: list[str] = []

    def make_room() -> None:
        asked.append("room")
        places.give_back(None)

    places.make_room = make_room
    places.take(None)
    places.take(None)
    places.take(greedy)
    assert asked == ["room"]
    slow = Places("read", 4, None, 0.05)
    slow.make_room = make_room
    assert taken(slow, greedy) == 2
    assert asked == ["room"]


def test_a_failure_while_it_waits_takes_nothing() -> None:
    """Whether a place came in that moment or not."""
    places = Places("read", 1, None, SECONDS_MAX)
    places.take(None)

    def fail(first: Callable[[], None]) -> None:
        first()
        raise KeyError("mine")

    for first in (lambda: None, lambda: places.give_back(None)):
        places.make_room = partial(fail, first)
        with pytest.raises(KeyError):
            places.take(Share("a"))
        assert places._waiting == {}
    assert places._free == 1


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80), most=st.integers(1, 9))
def test_the_count_holds(steps: list[tuple[int, bool]], most: int) -> None:
    """Never more than there are, nobody more than was free, and whoever has none finds one unless none is left."""
    places = Places("read", most, None, 0)
    shares = [None, *map(Share, "abc")]
    held = [0, 0, 0, 0]
    for one, takes in steps:
        if takes:
            free = most - sum(held)
            may = free > 0 if one == 0 else held[one] < free
            try:
                places.take(shares[one])
                assert may
                held[one] += 1
            except Overloaded:
                assert not may
        elif held[one]:
            places.give_back(shares[one])
            held[one] -= 1
    assert places._free == most - sum(held)
