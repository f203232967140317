"""permessage-deflate over real sockets, with clients that know no wsbus."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from anyio import connect_tcp, fail_after
from anyio.abc import SocketStream
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.adapters.servers import ADAPTERS
from tests.adapters.serving import serving
from wsbus import Bus, Compression, Endpoint, Grants, Identity, Limits
from wsbus.adapters import asgi
from wsbus.testing.frames import Opcode, client_frame

RAW: Final = ["websockets", "aiohttp", "starlette"]
"""Adapters that write to the socket themselves; `starlette` is uvicorn with its protocol class."""
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
ANY: Final = Compression(minimum=0)
TAIL: Final = b"\x00\x00\xff\xff"


@asynccontextmanager
async def served(adapter: str, **options: Any) -> AsyncIterator[tuple[Bus, Endpoint, str]]:
    """Run a bus, serve an endpoint of it, and yield both with the address."""
    bus = Bus()
    endpoint = bus.endpoint(**{"compression": ANY} | options)
    async with bus, ADAPTERS[adapter].serve(endpoint) as (host, port):
        yield bus, endpoint, f"ws://{host}:{port}/ws"


def lines(frame: str | bytes) -> list[dict[str, Any]]:
    """Return the messages of a frame."""
    return [json.loads(line) for line in str(frame).split("\n")]


async def hear(peer: ClientConnection, kind: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the next messages of a kind."""
    found: list[dict[str, Any]] = []
    with fail_after(20):
        while len(found) < count:
            found += [line for line in lines(await peer.recv()) if line["type"] == kind]
    return found


async def subscribe(peer: ClientConnection) -> None:
    """Subscribe to everything, and wait for the answer."""
    await peer.send(json.dumps({"type": "subscribe", "channels": ["*"], "id": "x" * 300}))
    await hear(peer, "subscribed")


async def shake_hands(url: str, offer: str, status: int = 101) -> tuple[SocketStream, str]:
    """Return a socket after the handshake, and the extensions that the server agreed on."""
    host, port = url.removeprefix("ws://").removesuffix("/ws").split(":")
    stream = await connect_tcp(host, int(port))
    key = base64.b64encode(os.urandom(16)).decode()
    await stream.send(
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive(1)
    assert int(head.split()[1]) == status
    fields = [line.partition(": ") for line in head.decode().split("\r\n")]
    agreed = [text for name, _, text in fields if name.lower() == "sec-websocket-extensions"]
    return stream, ", ".join(agreed)


def deflated(payload: bytes) -> bytes:
    """Return the content of a compressed message."""
    compressor = zlib.compressobj(wbits=-12)
    body = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return body.removesuffix(TAIL)


def marked(frame: bytes) -> bytes:
    """Set RSV1 of a frame."""
    return bytes((frame[0] | 0x40,)) + frame[1:]


class Raw:
    """Reads a server's frames from a socket."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream: Final = stream
        self._data = b""

    async def _take(self, size: int) -> bytes:
        with fail_after(20):
            while len(self._data) < size:
                self._data += await self.stream.receive()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def frame(self) -> tuple[int, bytes]:
        """Return the first byte of the next frame, and its payload as it was sent."""
        first, size = await self._take(2)
        if size > 125:
            size = int.from_bytes(await self._take(2 if size == 126 else 8))
        return first, await self._take(size)

    async def message(self) -> tuple[int, str]:
        """Return the first byte of the next message, and its text, inflated by itself."""
        first, body = await self.frame()
        if first & 0x40:
            body = zlib.decompressobj(-15).decompress(body + TAIL)
        return first, body.decode()

    async def until(self, word: str) -> tuple[int, str]:
        """Return the next message that holds a word."""
        while True:
            first, text = await self.message()
            if word in text:
                return first, text

    async def close_code(self) -> int:
        """Read on to the close frame."""
        while True:
            first, body = await self.frame()
            if first & 0x0F == Opcode.CLOSE:
                return int.from_bytes(body[:2])


@pytest.mark.parametrize("adapter", RAW)
async def test_clients_with_and_without_it_get_the_same(adapter: str) -> None:
    """Each decodes what it gets with the extension of its own library, in order."""
    async with (
        served(adapter) as (bus, _, url),
        connect(url, proxy=None) as packed,
        connect(url, proxy=None, compression=None) as plain,
        connect(url, proxy=None) as other,
    ):
        for peer in (packed, plain, other):
            await subscribe(peer)
        for n in range(20):
            await bus.publish(f"prices.{n % 3}", {"n": n, "pad": "ab" * 200})
            if n % 4 == 0:  # Some turns owe some clients more than others.
                await packed.send(json.dumps({"type": "ping", "id": f"{n}"}))
        every = [await hear(peer, "event", 20) for peer in (packed, plain, other)]

    assert [event["data"]["n"] for event in every[1]] == [*range(20)]
    assert every[0] == every[1] == every[2]


@pytest.mark.parametrize("adapter", RAW)
async def test_what_is_written_is_compressed_and_stands_alone(adapter: str) -> None:
    """The server promises it in the handshake, and marks the message with RSV1."""
    async with served(adapter) as (bus, _, url):
        stream, agreed = await shake_hands(url, "permessage-deflate; client_max_window_bits")
        async with stream:
            names = {part.strip() for part in agreed.split(";")}
            assert {"permessage-deflate", "server_no_context_takeover"} <= names
            request = json.dumps({"type": "subscribe", "channels": ["a"]}).encode()
            await stream.send(marked(client_frame(Opcode.TEXT, deflated(request))))
            raw = Raw(stream)
            await raw.until("subscribed")
            await bus.publish("a", {"text": "a" * 500})
            first, text = await raw.until("aaaa")
            assert first == 0xC1
            assert json.loads(text)["data"] == {"text": "a" * 500}


@pytest.mark.parametrize("adapter", RAW)
async def test_a_client_with_a_small_window_gets_it_uncompressed(adapter: str) -> None:
    """The shared bytes do not fit it, and RFC 7692 allows messages that are not compressed."""
    small = ClientPerMessageDeflateFactory(server_max_window_bits=10, client_max_window_bits=True)
    async with (
        served(adapter) as (bus, _, url),
        connect(url, proxy=None, compression=None, extensions=[small]) as peer,
    ):
        assert [each.name for each in peer.protocol.extensions] == ["permessage-deflate"]
        await subscribe(peer)
        await bus.publish("a", "x" * 5000)
        (event,) = await hear(peer, "event")

    assert event["data"] == "x" * 5000


@pytest.mark.parametrize("adapter", [*RAW, "asgi"])
async def test_it_is_off_unless_asked_for(adapter: str) -> None:
    """Plain ASGI leaves it to the server, which wsbus's options forbid it, too."""
    options = {"compression": adapter == "asgi"}
    async with (
        served(adapter, **options) as (bus, _, url),
        connect(url, proxy=None) as peer,
    ):
        assert peer.protocol.extensions == []
        await subscribe(peer)
        await bus.publish("a", "x" * 5000)
        (event,) = await hear(peer, "event")

    assert event["data"] == "x" * 5000


@pytest.mark.parametrize("adapter", RAW)
@pytest.mark.parametrize("offer", ["permessage-deflate; nonsense=3", "x-other", "a b c"])
async def test_offers_that_make_no_sense_are_declined(adapter: str, offer: str) -> None:
    """The connection is plain; what is no header of this kind is a bad request to `websockets`."""
    status = 400 if adapter == "websockets" and offer == "a b c" else 101
    async with served(adapter) as (_, _, url):
        stream, agreed = await shake_hands(url, offer, status)
        async with stream:
            assert agreed == ""


@pytest.mark.parametrize("adapter", RAW)
@pytest.mark.parametrize("has_token", [True, False])
async def test_a_bomb_is_refused_before_it_is_in_memory(adapter: str, *, has_token: bool) -> None:
    """The limit counts after inflating, for a client without a token, too."""

    async def judge(token: str | None, _handshake: object) -> Identity | None:
        return None if token is None else Identity("ada", Grants.open())

    authenticator = None if has_token else judge
    limits = Limits(max_message_bytes=64 * 1024)
    async with served(adapter, authenticator=authenticator, limits=limits) as (_, _, url):
        stream, _ = await shake_hands(url, "permessage-deflate")
        async with stream:
            bomb = deflated(b"0" * 20_000_000)
            assert len(bomb) < 32 * 1024
            await stream.send(marked(client_frame(Opcode.TEXT, bomb)))
            assert await Raw(stream).close_code() == 1009


@pytest.mark.parametrize("compression", [True, False])
async def test_uvicorn_of_ones_own_keeps_to_the_limit(*, compression: bool) -> None:
    """Its default is 16 MiB a message, and a bomb of 20 KB would be as large in memory."""
    bus = Bus()
    endpoint = bus.endpoint(compression=compression, limits=Limits(max_message_bytes=64 * 1024))
    ws = "wsbus.adapters.uvicorn:WebSocketProtocol"
    async with bus, serving(asgi.app(endpoint), ws=ws) as (port, _):
        stream, _ = await shake_hands(f"ws://127.0.0.1:{port}/ws", "permessage-deflate")
        async with stream:
            if compression:  # A fragment: without its end, only the server library sees it.
                frame = marked(client_frame(Opcode.TEXT, deflated(b"0" * 10_000_000)))
                await stream.send(bytes((frame[0] & 0x7F,)) + frame[1:])
            else:  # The head of a frame is enough.
                await stream.send(client_frame(Opcode.TEXT, b"0" * 10_000_000)[:14])
            assert await Raw(stream).close_code() == 1009


@pytest.mark.parametrize("adapter", RAW)
async def test_broken_data_end_the_connection_and_no_other(adapter: str) -> None:
    """What cannot be inflated is a fault of the protocol; RSV1 on a ping is, but for aiohttp."""
    frames = [marked(client_frame(Opcode.TEXT, b"\xff\xff\xff\xff\xff"))]
    if adapter != "aiohttp":
        frames.append(marked(client_frame(Opcode.PING, b"x")))
    async with served(adapter) as (bus, _, url), connect(url, proxy=None) as other:
        await subscribe(other)
        for frame in frames:
            stream, _ = await shake_hands(url, "permessage-deflate")
            async with stream:
                await stream.send(frame)
                assert await Raw(stream).close_code() in (1002, 1007)
        await bus.publish("a", 1)
        (event,) = await hear(other, "event")

    assert event["data"] == 1


@pytest.mark.parametrize("adapter", RAW)
async def test_fragments_of_a_compressed_message_are_joined(adapter: str) -> None:
    """Only the first has RSV1 (RFC 7692, section 6.1)."""
    async with served(adapter) as (_, _, url):
        stream, _ = await shake_hands(url, "permessage-deflate")
        async with stream:
            body = deflated(json.dumps({"type": "ping", "id": "7"}).encode())
            half = len(body) // 2
            await stream.send(
                marked(client_frame(Opcode.TEXT, body[:half], is_final=False))
                + client_frame(Opcode.CONTINUATION, body[half:])
            )
            _, text = await Raw(stream).until("pong")
            assert json.loads(text)["id"] == "7"


@pytest.mark.parametrize("adapter", RAW)
async def test_a_slow_reader_is_sent_whole_messages_and_a_gap(adapter: str) -> None:
    """What waits in its queue is compressed when it is written, each message by itself."""
    limits = Limits(queue_messages=50)
    async with (
        served(adapter, limits=limits) as (bus, _, url),
        connect(url, proxy=None, max_queue=1) as slow,
    ):
        await subscribe(slow)
        text = os.urandom(20_000).hex()
        for n in range(400):
            bus.publish_soon("a", {"n": n, "text": text})
        events: list[dict[str, Any]] = []
        lost = 0
        with fail_after(30):
            while not events or events[-1]["data"]["n"] < 399:
                for message in lines(await slow.recv()):
                    if message["type"] == "event":
                        events.append(message)
                    elif message["type"] == "gap":
                        lost += message["data"]["lost"]

    numbers = [event["data"]["n"] for event in events]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + lost == 400
    assert lost > 0
    assert all(event["data"]["text"] == text for event in events)


@pytest.mark.parametrize("adapter", RAW)
async def test_a_client_that_closes_while_it_is_written_to_is_gone(adapter: str) -> None:
    """The close frame is not compressed."""
    async with served(adapter) as (bus, endpoint, url):
        peer = await connect(url, proxy=None)
        await subscribe(peer)
        await bus.publish("a", "x" * 5000)
        await peer.close(1000)
        assert peer.close_code == 1000
        await endpoint.drain(deadline=1)
        assert endpoint.connection_count == 0
