from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice

import msgspec
import pytest
from websockets.http11 import Response
from websockets.sync.server import ServerConnection, serve

from tests.client.servers import HOST, Server
from wsbus.client import CommandError, ConnectError, Unauthenticated, UsageError
from wsbus.client.sync import connect


class Price(msgspec.Struct):
    value: float


def test_it_commands_publishes_and_subscribes(server: Server) -> None:
    """Without an event loop: commands, publications and events, typed as in the other client."""
    with connect(server.url, token="ada") as client:
        assert client.is_connected
        assert client.subject == "ada"
        assert client.command("add", {"a": 1, "b": 2}, returns=float) == 3.0
        with client.subscribe("prices.*", Price) as events:
            receipt = client.publish("prices.btc", {"value": 1.5}, event="tick")
            assert receipt.local_accepted == 1
            event = events.get(timeout=5)
            assert (event.channel, event.event, event.data) == ("prices.btc", "tick", Price(1.5))
            assert client.status().subscriptions == ("prices.*",)
        with pytest.raises(CommandError, match="the shop is closed"):
            client.command("refuse")
    with pytest.raises(UsageError, match="closed"):
        client.command("add", {"a": 1, "b": 2})
    client.close()


def test_waiting_for_an_event_has_an_end(server: Server) -> None:
    """``wait`` ends a loop over events when nothing comes; ``get`` raises TimeoutError."""
    with connect(server.url, token="ada") as client:
        with client.subscribe("a", wait=0.05) as events:
            for number in range(3):
                client.publish("a", number)
            assert [event.data for event in events] == [0, 1, 2]
            with pytest.raises(TimeoutError):
                events.get(timeout=0.01)
            client.publish("a", 3)
            assert [event.data for event in events] == [3]
        with pytest.raises(EOFError):
            events.get()
        with pytest.raises(UsageError, match="positive"):
            client.subscribe("a", wait=0)


def test_what_cannot_be_connected_is_raised_and_leaves_nothing(
    server: Server, free_tcp_port: int
) -> None:
    """The reason is raised by connect(), and no thread is left."""
    before = threading.active_count()
    with pytest.raises(ConnectError, match="nothing listens"):
        connect(f"ws://{HOST}:{free_tcp_port}/ws")
    with pytest.raises(Unauthenticated):
        connect(server.url, token="bad")
    with pytest.raises(UsageError, match="begins with ws://"):
        connect("nonsense")
    assert threading.active_count() <= before  # Those of other tests may end meanwhile.


def test_a_wrong_path_is_told() -> None:
    """A path that the server does not have raises the words of the other client."""

    def refuse(connection: ServerConnection, request: object) -> Response:
        return connection.respond(403, "")

    with serve(ServerConnection.close, HOST, 0, process_request=refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with pytest.raises(ConnectError, match="no such path, or refused: Starlette and Fast"):
            connect(f"ws://{HOST}:{port}/wss")
        server.shutdown()
        thread.join()


def test_any_thread_may_use_it(server: Server) -> None:
    """Threads share one client: each command gets its own answer."""
    with connect(server.url, token="ada") as client, ThreadPoolExecutor(8) as pool:

        def add(number: int) -> float:
            return client.command("add", {"a": number, "b": 1}, returns=float)

        assert list(pool.map(add, range(16))) == [number + 1 for number in range(16)]


def test_closing_ends_who_waits_elsewhere(server: Server) -> None:
    """A thread that iterates ends when another closes the client."""
    with ExitStack() as stack:
        client = stack.enter_context(connect(server.url, token="ada"))
        events = stack.enter_context(client.subscribe("a"))
        client.publish("a", 1)
        got: list[object] = []
        has_begun = threading.Event()

        def iterate() -> None:
            for event in events:
                got.append(event.data)
                has_begun.set()

        thread = threading.Thread(target=iterate)
        thread.start()
        assert has_begun.wait(10)
        events.__exit__(None, None, None)
        thread.join(10)
        assert not thread.is_alive()
        assert got == [1]


def test_it_connects_again(server: Server) -> None:
    """A subscription of the other client's outlives a restart of the server; so does this one."""
    with connect(server.url, token="ada") as client, client.subscribe("a") as events:
        server.stop()
        server.start()
        assert client.command("add", {"a": 1, "b": 1}) == 2
        while ["a"] not in server.held():
            pass
        server.publish("a", 1, 2)
        first, second = islice(events, 2)
        assert first.gap is not None
        assert (first.data, second.data) == (1, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no os.fork, which this is about")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused(server: Server) -> None:
    """A client is of no use after a fork: it says so in place of waiting for ever."""
    with connect(server.url, token="ada") as client:
        child = os.fork()
        if child == 0:
            try:
                client.command("add", {"a": 1, "b": 1})
            except UsageError as exc:
                os._exit(0 if "forked" in str(exc) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_watches_presence(server: Server) -> None:
    """First all that are there, then each join and leave; it ends with its block."""
    with connect(server.url, token="ada") as client, connect(server.url, token="bob") as other:
        with pytest.raises(CommandError, match="NO_PRESENCE"), client.watch_presence("a.b"):
            pass
        with client.watch_presence("here.a") as watch:
            assert watch.get(timeout=5).members == ()
            with pytest.raises(TimeoutError):
                watch.get(timeout=0)
            with other.subscribe("here.a"):
                change = next(watch)
                assert [each.subject for each in change.joined] == ["bob"]
                assert watch.roster.members == change.members
            assert [each.subject for each in watch.get(timeout=5).left] == ["bob"]
        assert list(watch) == []
