"""What tests of the Laicai stream need: its clients, its server in the test, and a bad network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import websockets
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin

from examples.laicai_stream import PATH, EventBus, announce_connections, make_endpoint
from tests.adapters.serving import serving
from tests.examples.peer import PATIENCE, Message, Peer
from wsbus import Bus, Endpoint
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.adapters.uvicorn import uvicorn_options


@dataclass
class Stream:
    """The example without its market, served inside the test."""

    bus: Bus
    endpoint: Endpoint
    event_bus: EventBus
    url: str = ""

    @asynccontextmanager
    async def connect(self, query: str = "", **options: Any) -> AsyncIterator[Peer]:
        """Connect a client that does nothing by itself."""
        async with websockets.connect(
            self.url + query, proxy=None, ping_interval=None, close_timeout=1, **options
        ) as socket:
            yield Peer(socket)


@asynccontextmanager
async def stream(
    server_ping: float | None = None, prepare: Callable[[Stream], object] = lambda _: None
) -> AsyncIterator[Stream]:
    """Serve it; ``prepare`` may add hooks behind the example's own."""
    bus = Bus()
    endpoint = make_endpoint(bus, server_ping)
    made = Stream(bus, endpoint, EventBus(bus))
    announce_connections(bus, endpoint, made.event_bus)
    prepare(made)
    app = Starlette(routes=[websocket_route(PATH, endpoint)], lifespan=lifespan(bus))
    async with serving(app, **uvicorn_options(endpoint)) as (port, _):
        made.url = f"ws://127.0.0.1:{port}{PATH}"
        yield made


class FrontEnd:
    """Does what the web front end does: pings, gives up without a pong, and comes back.

    Args:
        url: Where to connect; asked for anew each time.
        interval: Seconds between pings.
        timeout: Seconds in which each ping must be answered.
        delay: Seconds before it connects again.
    """

    def __init__(
        self, url: str, interval: float = 15, timeout: float = 20, delay: float = 2
    ) -> None:
        self._url: Final = url
        self._interval: Final = interval
        self._timeout: Final = timeout
        self._delay: Final = delay
        self._socket: ClientConnection | None = None
        self._pong_timer: asyncio.TimerHandle | None = None
        self.connected: Final[list[float]] = []
        """When it connected; seconds of the loop."""
        self.attempts = 0
        self.lost: Final[list[tuple[float, int | None]]] = []
        """When it gave up for want of a pong (None), or was closed, with the code."""
        self._pongs: Final[asyncio.Queue[None]] = asyncio.Queue()
        self.heard: Final[asyncio.Queue[Message]] = asyncio.Queue()
        """Events: all but heartbeats."""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            self.attempts += 1
            with contextlib.suppress(OSError, InvalidHandshake, TimeoutError):
                async with websockets.connect(
                    self._url,
                    proxy=None,
                    origin=Origin("http://localhost:3000"),
                    ping_interval=None,
                    open_timeout=5,
                    close_timeout=0.1,
                ) as socket:
                    self._socket = socket
                    self.connected.append(time.monotonic())
                    await self._converse(socket)
            await asyncio.sleep(self._delay)

    async def _converse(self, socket: ClientConnection) -> None:
        gave_up = asyncio.Event()
        jobs = [
            asyncio.create_task(job)
            for job in (self._beat(socket, gave_up), self._read(socket), gave_up.wait())
        ]
        try:
            await asyncio.wait(jobs[1:], return_when=asyncio.FIRST_COMPLETED)
            self.lost.append((time.monotonic(), None if gave_up.is_set() else socket.close_code))
        finally:
            self._clear_timer()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _beat(self, socket: ClientConnection, gave_up: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(ConnectionClosed):
                await socket.send('{"type":"ping"}')
            if not gave_up.is_set():  # As written by its team: an older timer is left alone.
                self._pong_timer = loop.call_later(self._timeout, gave_up.set)

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                message: Message = json.loads(text)
                if message["type"] == "ping":
                    await socket.send('{"type":"pong"}')
                elif message["type"] == "pong":
                    self._pongs.put_nowait(None)
                    self._clear_timer()
                else:
                    self.heard.put_nowait(message)

    def _clear_timer(self) -> None:
        if self._pong_timer is not None:
            self._pong_timer.cancel()
            self._pong_timer = None

    async def answered(self, times: int, patience: float = PATIENCE) -> None:
        """Wait for so many pongs that this was not told of yet."""
        async with asyncio.timeout(patience):
            for _ in range(times):
                await self._pongs.get()

    async def hear(self, kind: str, **wanted: Any) -> Message:
        """Wait for an event of this type, with these values; all else is passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self.heard.get()
                if message["type"] == kind and wanted.items() <= message.items():
                    return message


@asynccontextmanager
async def running(*clients: FrontEnd) -> AsyncIterator[None]:
    """Run clients."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Network:
    """Stands between clients and a server, and can be cut: nothing passes, nothing is closed."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("ws://").removesuffix(PATH).partition(":")
        self._server: Final = (host, int(port))
        self._cuts = 0
        self._writers: Final[list[asyncio.StreamWriter]] = []
        self.url = ""

    def cut(self) -> None:
        """Cut what is connected; who connects from now on finds another way."""
        self._cuts += 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Network]:
        """Take connections."""
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(*self._server)
        self._writers.extend((writer, to_writer))
        await asyncio.gather(self._pass(reader, to_writer), self._pass(to_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cuts = self._cuts
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._cuts == cuts:
                    writer.write(data)
                    await writer.drain()
            if self._cuts == cuts:
                writer.close()
