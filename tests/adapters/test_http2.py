"""WebSockets over HTTP/2 (RFC 8441): several of them, and other requests, share one connection."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio import fail_after
from anyio.abc import ByteStream

from tests.adapters.test_servers import running
from wsbus import Bus
from wsbus.adapters._asgi import transport
from wsbus.transport import WriteNow

h2 = pytest.importorskip("h2.connection", reason="pip install -e '.[servers]'")
config = pytest.importorskip("h2.config")
events = pytest.importorskip("h2.events")
settings = pytest.importorskip("h2.settings")
wsproto = pytest.importorskip("wsproto.connection")
frames = pytest.importorskip("wsproto.events")

SERVERS: Final = {
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} served:app",
    "hypercorn-trio": "hypercorn -k trio --bind 127.0.0.1:{port} served:app",
}


class Shared:
    """One connection of HTTP/2, without TLS, and what its streams have received."""

    def __init__(self, stream: ByteStream, port: int) -> None:
        self._stream: Final = stream
        self._port: Final = port
        self._http: Final = h2.H2Connection(config=config.H2Configuration(client_side=True))
        self._sockets: Final[dict[int, Any]] = {}
        self._heard: Final[dict[int, deque[Any]]] = {}
        self.statuses: Final[dict[int, str]] = {}
        self.is_open = True

    async def begin(self) -> None:
        """Open it; wait until the server says that it speaks RFC 8441."""
        self._http.initiate_connection()
        allows = settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        while not self._http.remote_settings.get(allows):
            await self._turn()

    async def open(self, path: str, *, is_socket: bool = True) -> int:
        """Send a request on a stream of its own; wait for the status."""
        number: int = self._http.get_next_available_stream_id()
        authority = f"127.0.0.1:{self._port}"
        headers = [(":scheme", "http"), (":authority", authority), (":path", path)]
        if is_socket:
            headers = [(":method", "CONNECT"), (":protocol", "websocket"), *headers]
            headers.append(("sec-websocket-version", "13"))
            self._sockets[number] = wsproto.Connection(wsproto.ConnectionType.CLIENT)
        else:
            headers = [(":method", "GET"), *headers]
        self._heard[number] = deque()
        self._http.send_headers(number, headers, end_stream=not is_socket)
        while number not in self.statuses:
            await self._turn()
        return number

    async def say(self, number: int, kind: str, **fields: Any) -> None:
        """Send a message on a WebSocket."""
        text = json.dumps({"type": kind, **fields})
        data = self._sockets[number].send(frames.TextMessage(data=text))
        self._http.send_data(number, data)

    async def hear(self, number: int, kind: str) -> dict[str, Any]:
        """Return the next message of a type."""
        while True:
            while not self._heard[number]:
                await self._turn()
            heard = self._heard[number].popleft()
            if heard.get("type") == kind:
                found: dict[str, Any] = heard
                return found

    async def _turn(self) -> None:
        """Send what is due, and act on what comes."""
        await self._stream.send(self._http.data_to_send())
        for event in self._http.receive_data(await self._stream.receive()):
            number = getattr(event, "stream_id", None)
            if isinstance(event, events.ResponseReceived):
                self.statuses[event.stream_id] = dict(event.headers)[b":status"].decode()
            elif isinstance(event, events.DataReceived):
                self._http.acknowledge_received_data(event.flow_controlled_length, number)
                self._take(event.stream_id, event.data)
            elif isinstance(event, events.ConnectionTerminated):
                self.is_open = False

    def _take(self, number: int, data: bytes) -> None:
        socket = self._sockets.get(number)
        if socket is None:
            return
        socket.receive_data(data)
        for event in socket.events():
            if isinstance(event, frames.TextMessage):
                self._heard[number] += map(json.loads, event.data.splitlines())
            elif isinstance(event, frames.CloseConnection):
                self._heard[number].append({"type": "closed", "code": event.code})


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Shared]:
    """Connect with HTTP/2."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        shared = Shared(stream, port)
        await shared.begin()
        yield shared


@pytest.mark.parametrize("name", SERVERS)
async def test_an_end_costs_the_others_of_its_connection_nothing(name: str, tmp_path: Path) -> None:
    """Raw writes and resets are for a socket of one's own; a stream goes by the server's `send`.

    One WebSocket is closed by the server and one is left in the middle of a frame; the third one,
    and requests over HTTP, go on over the same connection.
    """
    async with running(name, tmp_path, SERVERS) as server:
        with fail_after(30):
            async with connected(server.port) as shared:
                first, second, third = [await shared.open("/ws") for _ in range(3)]
                for number in (first, second, third):
                    assert shared.statuses[number] == "200"
                    await shared.hear(number, "connected")
                    await shared.say(number, "subscribe", channels=["said"], id="s")
                    await shared.hear(number, "subscribed")
                await shared.say(first, "command", action="leave", id="1")
                assert (await shared.hear(first, "closed"))["code"] == 4511
                page = await shared.open("/ws", is_socket=False)
                assert shared.statuses[page] == "404"
                await shared.say(second, "command", action="say", params={"what": "hi"}, id="2")
                for number in (second, third):
                    assert (await shared.hear(number, "event"))["data"] == "hi"
                assert shared.is_open
        await server.stop()


@pytest.mark.parametrize(("version", "is_raw"), [("1.1", True), ("2", False), ("3", False)])
async def test_only_a_socket_of_its_own_is_written_to(version: str, *, is_raw: bool) -> None:
    """A server that offers its socket over HTTP/2, too, is not taken at its word."""

    async def called(*_args: object) -> Any:
        raise AssertionError

    def never(*_args: object) -> None:
        raise AssertionError

    names = ("abort", "end_within", "write_now", "wait_writable", "unsent", "round_trip")
    raw = {**dict.fromkeys(names, never), "bound": lambda _bytes: None}
    scope = {"http_version": version, "extensions": {"wsbus": raw}}
    made = transport(Bus().endpoint(), scope, called, called)
    assert isinstance(made, WriteNow) == is_raw
