"""Data channels in the tests: served with a way to ask for them, and clients, aiortc's own."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSctpTransport,
    RTCSessionDescription,
)
from anyio import Event
from anyio.lowlevel import checkpoint

from wsbus import Bus, Connection, Endpoint
from wsbus.adapters import websockets
from wsbus.adapters.webrtc import DataChannels
from wsbus.core.errors import CommandError, TransportClosed
from wsbus.testing import Adapter, Peer
from wsbus.testing.adapters import JsonPeer

__all__ = ["ADAPTER", "DataChannelPeer", "ask", "new_peer", "serve_data_channels"]

HOST: Final = "127.0.0.1"
GOODBYE: Final = re.compile(r"close (\d{4})(?: (.*))?", re.DOTALL)


@asynccontextmanager
async def serve_data_channels(endpoint: Endpoint, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve an endpoint over data channels; yields where WebSockets ask for them."""
    signalling, channels = Bus(), DataChannels(endpoint, **options)

    @signalling.command("webrtc.offer")
    async def offer(connection: Connection, sdp: str, protocol: str | None = None) -> str:
        return await channels.answer(connection, sdp, protocol)

    way_in = signalling.endpoint(
        authenticator=endpoint.authenticator,
        query_token=endpoint.query_token,
        cookie_token=endpoint.cookie_token,
    )
    async with signalling, websockets.serve(way_in, HOST, 0) as server, channels:
        yield HOST, next(iter(server.sockets)).getsockname()[1]


def new_peer() -> RTCPeerConnection:
    """Return a peer connection that asks nobody on the internet."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def ask(signal: JsonPeer, sdp: str, protocol: str | None = None) -> str:
    """Return the server's answer to an offer.

    Raises:
        CommandError: It refuses.
    """
    await signal.say(
        "command", id="1", action="webrtc.offer", params={"sdp": sdp, "protocol": protocol}
    )
    answer = await signal.hear("response")
    if not answer["success"]:
        raise CommandError(answer["error"]["code"], answer["error"]["message"])
    return str(answer["data"])


class DataChannelPeer(Peer):
    """A client on a data channel; it has the address of the WebSocket that has asked for it."""

    rtc: RTCPeerConnection
    channel: RTCDataChannel

    @property
    def association(self) -> RTCSctpTransport:
        """What its data channel is on."""
        assert self.rtc.sctp is not None
        return self.rtc.sctp

    @property
    def stream(self) -> int:
        """The number of its data channel."""
        assert self.channel.id is not None
        return self.channel.id

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        target: str = "/ws",
        *,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        receive_buffer: int | None = None,
    ) -> Peer:
        """Ask for a data channel over a WebSocket; with ``receive_buffer`` it reads when it must.

        Args:
            address: Where the WebSocket goes.
            target: The same.
            subprotocols: One, or none: that of the data channel.
            headers: Those of the WebSocket.
            receive_buffer: Not None: what is not received, is not acknowledged.
        """
        signal = await Peer.connect(address, target, headers=headers)
        if signal.status != 101:
            return signal
        peer = cls(signal._socket, signal.status, signal.headers)
        await peer._open(JsonPeer(signal), subprotocols[0] if subprotocols else None)
        signal.hang_up()  # The data channel goes on without it.
        if receive_buffer is not None:
            peer._read_by_hand()
        return peer

    async def _open(self, signal: JsonPeer, protocol: str | None) -> None:
        self._heard: deque[str | bytes] = deque()
        self._goodbye: TransportClosed | None = None
        self._is_gone = False
        self._changed = Event()
        self._gate: asyncio.Event | None = None
        self.rtc = new_peer()
        self.channel = self.rtc.createDataChannel("wsbus", protocol=protocol or "")
        self.channel.on("open", self._change)
        self.channel.on("message", self._note)
        self.channel.on("close", self._note_close)
        await self.rtc.setLocalDescription(await self.rtc.createOffer())
        answer = await ask(signal, self.rtc.localDescription.sdp, protocol)
        await self.rtc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        while self.channel.readyState != "open":
            await self._changed.wait()

    def _read_by_hand(self) -> None:
        association, self._gate = self.association, asyncio.Event()
        handle, gate = association._handle_data, self._gate

        async def wait(packet: bytes) -> None:
            await gate.wait()
            await handle(packet)

        setattr(association, "_handle_data", wait)  # noqa: B010  # for mypy

    def _note(self, message: str | bytes) -> None:
        if isinstance(message, str) and (found := GOODBYE.fullmatch(message)):
            self._goodbye = TransportClosed(int(found[1]), found[2] or "")
            self.channel.close()
        else:
            self._heard.append(message)
        self._change()

    def _note_close(self) -> None:
        self._is_gone = True
        if self._goodbye is None:
            is_broken = self.channel.transport.state == "closed"
            self._goodbye = TransportClosed(1006 if is_broken else 1005)
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()

    async def send(self, message: str | bytes) -> None:
        """Send one message."""
        self.channel.send(message)
        while self.channel.bufferedAmount > 64 * 1024 and not self._is_gone:
            await checkpoint()
        await checkpoint()

    async def receive(self) -> str | bytes:
        """Wait for the next message."""
        if self._gate is not None:
            self._gate.set()
        while not self._heard:
            if self._goodbye is not None and self._is_gone:
                raise self._goodbye
            await self._changed.wait()
        await checkpoint()
        if self._gate is not None:
            self._gate.clear()
        return self._heard.popleft()

    async def was_reset(self) -> bool:
        """Read to the end, and tell whether the server left without a word."""
        return (await self.wait_closed()).code == 1006

    async def close(self, code: int | None = 1000, reason: str = "") -> TransportClosed:
        """Say goodbye, and wait until the data channel is closed."""
        if code is not None:
            self.channel.send(f"close {code} {reason}".rstrip())
        self.channel.close()
        closed = await self.wait_closed()
        return closed if code is None else TransportClosed(code, reason)

    def reset(self) -> None:
        """Leave without a word."""
        if self.status == 101:
            self._closing = asyncio.get_running_loop().create_task(self.rtc.close())
        super().reset()


ADAPTER: Final = Adapter(serve=serve_data_channels, connect=DataChannelPeer.connect)
