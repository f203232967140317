from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from anyio import Event, connect_tcp, create_task_group, fail_after, wait_all_tasks_blocked
from starlette.applications import Starlette
from websockets.exceptions import ConnectionClosed

from tests.adapters.serving import client, receive, subscribe
from wsbus import Bus
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.server.connection import driver_of


@asynccontextmanager
async def served(bus: Bus, **options: Any) -> AsyncIterator[str]:
    """Serve; yields what `ready` was told. Whoever enters must see to it that it ends."""
    application = Starlette(
        routes=[websocket_route("/ws", bus.default_endpoint)], lifespan=lifespan(bus)
    )
    told: list[str] = []
    up = Event()

    def ready(address: str) -> None:
        told.append(address)
        up.set()

    run = partial(serve, application, bus.default_endpoint, port=0, ready=ready, **options)
    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(run)
            await up.wait()
            yield told[0]


@pytest.mark.parametrize("has_handlers", [True, False], ids=["loop", "as on Windows"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_a_signal(
    number: signal.Signals, has_handlers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At either signal clients get what they are owed, and 1001; then it returns.

    The loops of Windows take no handlers, and ``signal.signal`` does it there.
    """
    if not has_handlers:

        def refuse(*_: object) -> None:
            raise NotImplementedError  # As asyncio's loops do there.

        for name in ("add_signal_handler", "remove_signal_handler"):
            monkeypatch.setattr(asyncio.get_running_loop(), name, refuse)
    former = signal.getsignal(number)
    bus = Bus()
    async with served(bus) as address:
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        async with client(int(port)) as peer:
            await subscribe(peer, "a")
            bus.publish_soon("a", 1)
            os.kill(os.getpid(), number)
            assert (await receive(peer))["data"] == 1
            with pytest.raises(ConnectionClosed) as closed:
                await receive(peer)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert not bus.is_running
    if not has_handlers:
        assert signal.getsignal(number) is former


async def test_ipv6_addresses_stand_in_brackets() -> None:
    """So that they can be put into a URL."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with served(Bus(), host="::1") as address:
        assert address.startswith("[::1]:")
        os.kill(os.getpid(), signal.SIGTERM)


async def test_a_port_that_is_taken_is_said() -> None:
    """Before anything runs."""
    bus = Bus()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await serve(Starlette(), bus.default_endpoint, port=port)
    assert not bus.is_running


async def test_it_stops_though_a_client_that_closes_does_not_read() -> None:
    """The answer to its close frame waits behind what it has not read; nobody waits for it."""
    bus = Bus()
    async with AsyncExitStack() as stack:
        async with served(bus) as address:
            host, _, port = address.rpartition(":")
            stream = await stack.enter_async_context(await connect_tcp(host, int(port)))
            await stream.send(
                f"GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            while b"connected" not in await stream.receive():
                pass
            (connection,) = bus.connections()
            peer = bus.connection(connection.connection_id)
            assert peer is not None
            gone = Event()
            bus.on_disconnect(lambda _: gone.set())
            # Once all have settled, that is: it is full below, too.
            while driver_of(peer).member.queue.is_empty:
                for _ in range(50):
                    await bus.send("a", "x" * 60_000, to=peer)
                await wait_all_tasks_blocked()
            await stream.send(b"\x88\x82\x00\x00\x00\x00\x03\xe8")  # close, 1000
            await gone.wait()
            os.kill(os.getpid(), signal.SIGTERM)
        assert not bus.is_running
