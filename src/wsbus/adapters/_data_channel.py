"""A transport over one data channel of aiortc, and the peer connection that is there for it."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription
from anyio import CancelScope, Event, fail_after, move_on_after
from anyio.lowlevel import checkpoint

from ..core.errors import CloseCode, TransportClosed, is_sendable
from ..core.frame import Frame
from ..core.limits import Limits
from ._aiortc import Inflow

__all__ = ["BadOffer", "DataChannelTransport", "Unopened"]

_MOST_SDP: Final = 16 * 1024
_CANDIDATES: Final = re.compile(r"^a=(?:candidate:|end-of-candidates).*(?:\r?\n|\Z)", re.MULTILINE)
_GOODBYE: Final = re.compile(r"close (\d{4})(?: (.{0,123}))?", re.DOTALL)
"""The last message of either side, since a data channel is closed without a code or a reason. No
dialect has such a text: those of JSON begin with a bracket."""


class BadOffer(Exception):
    """The offer is not as it should be; the text is for the client."""


class Unopened(Exception):
    """The peer has not opened the data channel; the text is for the log."""


class DataChannelTransport:
    """One data channel; a context that closes the peer connection.

    Args:
        configuration: STUN servers.
        limits: The largest message, and how long to wait for the peer at the end.
    """

    def __init__(self, configuration: RTCConfiguration, limits: Limits) -> None:
        self.peer: Final = RTCPeerConnection(configuration)
        """For this data channel alone."""
        self._limits: Final = limits
        self._channel: RTCDataChannel | None = None
        self._inflow: Inflow | None = None
        self._messages: Final[deque[str | bytes]] = deque()
        self._end: tuple[int, str] | None = None
        self._is_leaving = False
        self._changed = Event()
        self._closing: asyncio.Task[None] | None = None
        self.peer.on("datachannel", self._take_channel)
        self.peer.on("connectionstatechange", self._look_at_state)

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Free the sockets."""
        self.abort()
        with CancelScope(shield=True), move_on_after(self._limits.close_timeout):
            await self.peer.close()

    # --- the beginning ---------------------------------------------------------------------------

    async def answer(self, offer: str) -> str:
        """Return the answer to the peer's offer.

        Raises:
            BadOffer: It cannot be read, or is about something else.
        """
        try:
            await self.peer.setRemoteDescription(_description_of(offer))
            answer: Any = await self.peer.createAnswer()
            await self.peer.setLocalDescription(answer)
        except BadOffer:
            raise
        except Exception as exc:  # aiortc fails in many ways over what peers send.
            raise BadOffer("the offer (SDP) cannot be read") from exc
        assert self.peer.sctp is not None
        self._inflow = Inflow(self.peer.sctp, self._cut_off)
        return self.peer.localDescription.sdp

    async def opened(self, seconds: float) -> None:
        """Wait until the peer has opened the data channel.

        Raises:
            Unopened: It has not, or another kind of channel.
        """
        try:
            with fail_after(seconds):
                while self._channel is None and self._end is None:
                    await self._changed.wait()
        except TimeoutError:
            raise Unopened(f"the client did not open it within {seconds:g} s") from None
        if self._channel is None:
            assert self._end is not None
            raise Unopened(self._end[1] or "the client cannot be reached")

    def _take_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            self._cut_off("it opens a second data channel")
            return
        is_lossy = channel.maxRetransmits is not None or channel.maxPacketLifeTime is not None
        if is_lossy or not channel.ordered:
            self._cut_off("its data channel is not ordered and reliable")
            return
        channel.on("message", self._take_message)
        channel.on("bufferedamountlow", self._change)
        channel.on("close", self._note_close)
        self._channel = channel
        self._change()

    def _look_at_state(self) -> None:
        if self.peer.connectionState in {"failed", "closed"}:
            self._finish(CloseCode.ABNORMAL)

    # --- messages --------------------------------------------------------------------------------

    def _take_message(self, message: str | bytes) -> None:
        if self._end is not None or self._is_leaving:
            return
        if isinstance(message, str) and (goodbye := _GOODBYE.fullmatch(message)):
            code = int(goodbye[1])
            if not is_sendable(code):
                code = CloseCode.PROTOCOL_ERROR
            self._finish(code, goodbye[2] or "")
            self._close_channel()
            return
        assert self._inflow is not None
        self._inflow.hold(_size(message))
        self._messages.append(message)
        self._change()

    async def receive(self) -> str | bytes:
        """Wait for the next message; see :class:`.Transport`."""
        while not self._messages:
            if self._end is not None:
                raise TransportClosed(*self._end)
            await self._changed.wait()
        message = self._messages.popleft()
        assert self._inflow is not None
        await self._inflow.free(_size(message))
        if _size(message) > self._limits.max_message_bytes:
            self._messages.clear()
            await self.close(CloseCode.MESSAGE_TOO_BIG, "the message is too large")
            raise TransportClosed(CloseCode.MESSAGE_TOO_BIG)
        return message

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send in order; see :class:`.Transport`."""
        for frame in frames:
            await self._wait_for_room()
            assert self._channel is not None
            try:
                self._channel.send(frame.text if frame.is_text else frame.payload)
            except ValueError:  # The client has said how large messages may be.
                await self.close(CloseCode.MESSAGE_TOO_BIG, "larger than the client takes")
                raise TransportClosed(CloseCode.MESSAGE_TOO_BIG) from None
        await self._wait_for_room()
        await checkpoint()

    async def _wait_for_room(self) -> None:
        while self._is_open and not self._has_room:
            await self._changed.wait()
        if not self._is_open:
            raise TransportClosed

    @property
    def _is_open(self) -> bool:
        is_ours = self._end is None and not self._is_leaving
        return is_ours and self._channel is not None and self._channel.readyState == "open"

    @property
    def _has_room(self) -> bool:
        # What waits in the queue of the member is joined; what waits in aiortc is not, and each
        # message of its own is a packet of its own there.
        return self._channel is not None and self._channel.bufferedAmount == 0

    # --- the end ---------------------------------------------------------------------------------

    async def close(self, code: int, reason: str) -> None:
        """Say why, and close the data channel; see :class:`.Transport`."""
        if self._channel is None or not self._has_room:
            self.abort()
        elif self._is_open:
            with suppress(ValueError):  # The client has said that it takes less than this.
                self._channel.send(f"close {code} {reason}".rstrip())
            self._is_leaving = True
            self._channel.close()
            self._change()
        with move_on_after(self._limits.close_timeout):
            while self._end is None:
                await self._changed.wait()

    def abort(self) -> None:
        """Free the sockets; see :class:`.Transport`."""
        self._messages.clear()
        self._finish(CloseCode.ABNORMAL)
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.peer.close())

    def _cut_off(self, why: str) -> None:
        self._finish(CloseCode.RATE_ABUSE, why)
        self.abort()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def _note_close(self) -> None:
        assert self._channel is not None
        is_broken = self._channel.transport.state == "closed"
        self._finish(CloseCode.ABNORMAL if is_broken else CloseCode.NO_STATUS)

    def _finish(self, code: int, reason: str = "") -> None:
        if self._end is None:
            self._end = code, reason
            self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


def _description_of(offer: str) -> RTCSessionDescription:
    if len(offer) > _MOST_SDP:
        raise BadOffer(f"the offer (SDP) is larger than {_MOST_SDP} characters")
    # Else a client could have the server send packets to any address.
    offer = _CANDIDATES.sub("", offer)
    if [media.kind for media in SessionDescription.parse(offer).media] != ["application"]:
        raise BadOffer("the offer (SDP) must be of one data channel, and of nothing else")
    return RTCSessionDescription(sdp=offer, type="offer")


def _size(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) else len(message.encode())
