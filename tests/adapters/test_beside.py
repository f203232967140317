from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.adapters.serving import client, serving
from wsbus import Bus, UsageError
from wsbus.adapters.beside import beside


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


class Other:
    """An application with a lifespan, which publishes in it, and an answer to everything else."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.ran: list[bool] = []
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                self.ran.append(self.bus.is_running)
                await send({"type": f"lifespan.{step}.complete"})
            return
        self.paths.append(scope["path"])
        await send({"type": "websocket.close", "code": 1000})


class Server:
    """A server's lifespan, in memory; it notes whether the bus runs with each message."""

    def __init__(self, bus: Bus, *messages: str) -> None:
        self.bus = bus
        self.messages = deque(messages)
        self.sent: list[tuple[str, bool]] = []

    async def receive(self) -> Any:
        return {"type": f"lifespan.{self.messages.popleft()}"}

    async def send(self, message: Any) -> None:
        self.sent.append((message["type"].removeprefix("lifespan."), self.bus.is_running))


async def test_one_path_is_the_bus_and_all_others_are_not() -> None:
    """Clients of the path get the bus; other paths get the application, the bus's prefix too."""
    other = Other(bus := Bus())
    async with serving(beside(other, "/ws", bus)) as (port, _):
        async with client(port, "/ws") as peer:
            assert '"connected"' in str(await peer.recv())
        for path in ("/", "/ws/", "/ws/more"):
            with pytest.raises(InvalidStatus, match="403"):
                async with connect(f"ws://127.0.0.1:{port}{path}"):
                    pass

    assert other.paths == ["/", "/ws/", "/ws/more"]


async def test_the_path_is_below_the_root_path() -> None:
    """A server that serves the application below a prefix finds the same path."""
    async with (
        serving(beside(Other(bus := Bus()), "/ws", bus), root_path="/api") as (port, _),
        client(port, "/ws") as peer,
    ):
        assert '"connected"' in str(await peer.recv())


async def test_the_bus_runs_around_the_lifespan_of_the_other() -> None:
    """It runs before the application starts, and is stopped before the server hears the end."""
    other = Other(bus := Bus())
    server = Server(bus, "startup", "shutdown")
    await beside(other, "/ws", bus)({"type": "lifespan"}, server.receive, server.send)

    assert other.ran == [True, True]
    assert server.sent == [("startup.complete", True), ("shutdown.complete", False)]


async def no_lifespan(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("only http, as Django has it")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    return


@pytest.mark.parametrize("other", [no_lifespan, silent])
async def test_an_application_without_a_lifespan_gets_one(other: Any) -> None:
    """The bus has the lifespan for itself."""
    bus = Bus()
    server = Server(bus, "startup", "shutdown")
    await beside(other, "/ws", bus)({"type": "lifespan"}, server.receive, server.send)

    assert server.sent == [("startup.complete", True), ("shutdown.complete", False)]


async def test_a_start_that_fails_leaves_no_bus_running() -> None:
    """What the application raises reaches the server, and the bus is stopped."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    bus = Bus()
    server = Server(bus, "startup")
    with pytest.raises(RuntimeError, match="no database"):
        await beside(failing, "/ws", bus)({"type": "lifespan"}, server.receive, server.send)

    assert not bus.is_running


async def test_a_bus_that_runs_already_is_left_alone() -> None:
    """An application that runs the bus itself is not disturbed."""
    async with Bus() as bus:
        server = Server(bus, "startup", "shutdown")
        await beside(Other(bus), "/ws", bus)({"type": "lifespan"}, server.receive, server.send)

        assert bus.is_running


async def test_a_server_without_a_lifespan_starts_it_with_the_first_client() -> None:
    """Under daphne, for one, the bus starts when somebody comes."""
    bus = Bus()
    async with (
        serving(beside(no_lifespan, "/ws", bus), lifespan="off") as (port, _),
        client(port, "/ws") as peer,
    ):
        assert '"connected"' in str(await peer.recv())
        await bus.aclose()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(peer.recv(), 5)


def test_a_path_begins_with_a_slash() -> None:
    """What could never match is refused when it is written."""
    with pytest.raises(UsageError, match="'/ws'"):
        beside(silent, "ws", Bus())
