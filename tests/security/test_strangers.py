"""Strangers who send much lose their connections: a request is in memory before anybody can be asked who sends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.server.connections import connected, received
from ducktower.server.token_file import TokenFile
from support.waiting import until

MIB = 1024 * 1024
Stranger = Callable[..., flight.FlightClient]

pytestmark = pytest.mark.skipif(received(0) is None, reason="this system does not tell how much came in")


@pytest.fixture
def guarded(owner: str, database: Path) -> Iterator[ducktower.FlightServer]:
    """Serve to whoever has a token, and take little from others."""
    with ducktower.serve(
        str(database),
        token_look_seconds=0.05,
        login_pause_seconds=0.05,
        stranger_bytes_max=MIB,
        all_strangers_bytes_max=3 * MIB,
    ) as server:
        yield server


@pytest.fixture
def connect(guarded: ducktower.FlightServer) -> Iterator[Stranger]:
    """Return a function that opens a connection of its own."""
    with ExitStack() as stack:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        yield lambda: stack.enter_context(flight.connect(guarded.url, generic_options=alone))


def clients(server: ducktower.FlightServer) -> int:
    """Return how many connections there are."""
    return len(connected(server.port) or ())


def send(client: flight.FlightClient, nbytes: int, token: str = "dtk_a_b") -> str:
    """Call with a body of so many bytes; return what is wrong with it."""
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
    with pytest.raises((flight.FlightError, pa.ArrowException)) as caught:
        list(client.do_action(flight.Action("nosuch", b"x" * nbytes), options))
    return str(caught.value)


def test_a_stranger_who_sends_much_is_cut(
    guarded: ducktower.FlightServer, connect: Stranger, owner: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether its call was answered meanwhile or not; one who sends little is told, and stays."""
    with ducktower.connect(guarded.url, token=owner, retry_seconds=0) as known:
        known.health()
        small, large = connect(), connect()
        assert "UNAUTHENTICATED" in send(small, MIB // 2)
        assert clients(guarded) == 2
        send(large, 8 * MIB)
        until(lambda: "before it proved who it is" in caplog.text, "the cut")
        until(lambda: clients(guarded) == 2, "its end")
        assert "UNAUTHENTICATED" in send(small, 1)
        assert known.health()["status"] == "serving"
        assert caplog.text.count("cut the connection") == 1


def test_many_strangers_share_one_limit(guarded: ducktower.FlightServer, connect: Stranger, owner: str) -> None:
    """The largest go first, so that who sends little stays."""
    newcomer = connect()
    assert "UNAUTHENTICATED" in send(newcomer, 1)
    for _ in range(6):
        send(connect(), MIB * 7 // 8)
    until(lambda: clients(guarded) <= 4, "the end of the largest")
    assert "nosuch" in send(newcomer, 1, owner)


def test_who_is_known_may_send_much_for_as_long_as_the_token_is_good(
    guarded: ducktower.FlightServer, connect: Stranger, owner: str, tokens: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    """From the first call on, and no more once the token is revoked."""
    client = connect()
    assert "nosuch" in send(client, 1, owner)
    for _ in range(3):
        assert "nosuch" in send(client, 4 * MIB, owner)
    with ducktower.connect(guarded.url, token=owner) as another:
        another.ingest("t", pa.table({"n": range(4 * MIB // 8)}), mode="create")
        assert another.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [4 * MIB // 8]
    assert "cut the connection" not in caplog.text
    tokens.revoke("olga")
    until(lambda: "UNAUTHENTICATED" in send(client, 1, owner), "the end of the token")
    send(client, 4 * MIB, owner)
    until(lambda: "cut the connection" in caplog.text, "the cut")


def test_a_flood_is_noticed_and_its_end(guarded: ducktower.FlightServer, connect: Stranger, owner: str) -> None:
    """Meanwhile refusals do not wait, with the requests that they refuse; whoever is known goes on."""
    visits = guarded._visits
    assert visits is not None
    strangers = visits.strangers
    over = threading.Event()

    def flood(_: int) -> None:
        client = connect()
        while not over.is_set():
            send(client, MIB * 3 // 4)

    with ThreadPoolExecutor(4) as pool, ducktower.connect(guarded.url, token=owner, retry_seconds=0) as known:
        floods = [pool.submit(flood, number) for number in range(4)]
        try:
            until(lambda: strangers.flooded, "the flood")
            assert known.query("SELECT 1 AS n").num_rows == 1
        finally:
            over.set()
        for one in floods:
            one.result(30)
    until(lambda: not strangers.flooded, "its end")


def test_where_nobody_is_asked_nobody_is_a_stranger(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An open server lets everybody send."""
    with (
        ducktower.serve(str(database), stranger_bytes_max=1, all_strangers_bytes_max=1) as server,
        flight.connect(server.url) as client,
    ):
        assert received(server.port) is not None
        send(client, 4 * MIB)
        until(lambda: any((received(server.port) or {}).values()), "a look of ours")
        send(client, 1)
    assert "cut the connection" not in caplog.text
