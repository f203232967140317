"""Laws of frames: those that RFC 6455 allows, and those that it forbids."""

from __future__ import annotations

from ...core.errors import CloseCode
from ...core.frame import Frame
from ...core.instant import Instant
from ...core.messages import Publication, Request, ServerMessage
from ...core.protocol import WireProtocol
from ...protocols.native import Native
from ..adapters import Adapter, JsonPeer, open_site, require
from ..frames import Opcode

__all__ = [
    "binary_dialects",
    "binary_where_text_is_spoken",
    "fragments",
    "invalid_utf8",
    "oversized_messages",
    "pings",
    "text",
]


async def text(adapter: Adapter) -> None:
    """Text goes both ways as UTF-8, whatever the script."""
    async with open_site(adapter) as site:
        client = await site.connect()
        await client.subscribe("行情.*")
        await site.bus.publish("行情.茅台", {"名": "贵州茅台 🥃 \x00"}, event="更新")
        message = await client.hear("event")

        require(message["channel"] == "行情.茅台", "a channel arrives as it was published")
        require(message["data"] == {"名": "贵州茅台 🥃 \x00"}, "data arrive as they were published")


async def fragments(adapter: Adapter) -> None:
    """A message in fragments is one message; a ping between them is answered."""
    async with open_site(adapter) as site:
        client = await site.connect()
        message = '{"type":"ping","id":"雀"}'.encode()
        cut = message.index("雀".encode()) + 1  # within a character
        peer = client.peer
        await peer.send_frame(Opcode.TEXT, message[:cut], is_final=False)
        await peer.send_frame(Opcode.PING, b"between")
        await peer.send_frame(Opcode.CONTINUATION, b"", is_final=False)
        await peer.send_frame(Opcode.CONTINUATION, message[cut:])
        pong = await client.hear("pong")

        require(pong["id"] == "雀", "fragments are put together before they are decoded")
        require(peer.pongs == [b"between"], "a ping between fragments is answered")


async def pings(adapter: Adapter) -> None:
    """Every ping of RFC 6455 is answered with its payload, in order."""
    async with open_site(adapter) as site:
        client = await site.connect()
        payloads = [b"", b"\xff\x00", b"x" * 125]
        for payload in payloads:
            await client.peer.send_frame(Opcode.PING, payload)
        await client.ping("after")

        require(client.peer.pongs == payloads, f"pings came back as {client.peer.pongs!r}")


async def oversized_messages(adapter: Adapter) -> None:
    """A message of exactly the limit passes; one byte more ends the connection with 1009."""
    async with open_site(adapter) as site:
        limit = site.endpoint.limits.max_message_bytes
        fits = _ping_of(limit)
        largest = await site.connect()
        await largest.peer.send(fits)
        pong = await largest.hear("pong")
        require(len(pong["id"].encode()) > limit - 30, "a message of the limit passes")

        whole = await site.connect()
        await whole.peer.send(_ping_of(limit + 1))
        pieces = await site.connect()
        await pieces.peer.send_frame(Opcode.TEXT, fits.encode(), is_final=False)
        await pieces.peer.send_frame(Opcode.CONTINUATION, b" ")
        announced = await site.connect()
        await announced.peer.send_raw(b"\x81\xff" + (1 << 40).to_bytes(8) + b"mask")
        for client in (whole, pieces, announced):
            await _closes(client, CloseCode.MESSAGE_TOO_BIG)


async def binary_where_text_is_spoken(adapter: Adapter) -> None:
    """A binary message to a dialect of text ends the connection with 1003."""
    async with open_site(adapter) as site:
        client = await site.connect()
        await client.peer.send(b'{"type":"ping"}')
        await _closes(client, CloseCode.UNSUPPORTED_DATA)


async def binary_dialects(adapter: Adapter) -> None:
    """A dialect of bytes gets bytes, and sends bytes."""
    async with open_site(adapter, protocols=[_Bytes()]) as site:
        client = await site.connect(subprotocols=["check-bytes"])
        await client.peer.receive()  # `connected`
        await client.peer.send(b'{"type":"subscribe","channels":["a"]}')
        require(b"subscribed" in _bytes(await client.peer.receive()), "bytes come in")
        await site.bus.publish("a", "x" * 100_000)
        require(len(_bytes(await client.peer.receive())) > 100_000, "bytes go out, many too")


async def invalid_utf8(adapter: Adapter) -> None:
    """Text that is not UTF-8 ends the connection with 1007."""
    async with open_site(adapter) as site:
        for bad in (b'{"data":{"x":"\xff"}}', b"\xed\xa0\x80", b"\xe9\x9b"):
            client = await site.connect()
            await client.peer.send_frame(Opcode.TEXT, bad)
            await _closes(client, CloseCode.INVALID_PAYLOAD)


async def _closes(client: JsonPeer, code: CloseCode) -> None:
    closed = await client.peer.wait_closed()
    require(closed.code == code, f"closed with {closed.code}, not {code}")


def _ping_of(size: int) -> str:
    head, tail = '{"type":"ping","id":"', '"}'
    room = size - len(head) - len(tail)
    return head + "雀" * (room // 3) + "x" * (room % 3) + tail


def _bytes(message: str | bytes) -> bytes:
    require(isinstance(message, bytes), "text came where bytes were sent")
    return message if isinstance(message, bytes) else b""


class _Bytes(WireProtocol):
    """``wsbus.v1``, its JSON in binary messages."""

    name = "check-bytes"
    binary = True

    def __init__(self) -> None:
        self._text = Native()

    def decode(self, frame: str | bytes) -> tuple[Request, ...]:
        return (self._text.understand(_bytes(frame).decode()),)

    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        frame = self._text.encode(reply, at)
        return None if frame is None else Frame(frame.payload, is_text=False)

    def encode_publication(self, publication: Publication) -> Frame:
        return Frame(self._text.encode_publication(publication).payload, is_text=False)
