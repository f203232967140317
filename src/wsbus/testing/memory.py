"""A transport without a socket, whose peer decides when it is writable."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from anyio import Event, WouldBlock
from anyio.lowlevel import checkpoint

from ..core.errors import CloseCode, TransportClosed
from ..core.frame import Frame
from .frames import FrameReader

__all__ = ["DirectMemoryTransport", "MemoryPeer", "MemoryTransport"]


class MemoryPeer:
    """The client's side of a :class:`MemoryTransport`."""

    def __init__(self) -> None:
        self.received: Final[deque[str | bytes]] = deque()
        """Messages that have arrived, and that :meth:`receive` has not returned yet."""
        self.is_reading: bool = True
        """Whether the transport is writable; see :meth:`stop_reading`."""
        self.answers_close: bool = True
        """Whether it answers a close frame; if not, only an abort ends the connection."""
        self.closed: TransportClosed | None = None
        """How the connection ended."""
        self._sent: Final[deque[str | bytes]] = deque()
        self._changed = Event()

    def send(self, message: str | bytes) -> None:
        """Send one message; never waits."""
        self._sent.append(message)
        self._wake()

    @property
    def unread(self) -> int:
        """Number of messages that it has sent and the server has not read."""
        return len(self._sent)

    async def receive(self) -> str | bytes:
        """Wait for the next message.

        Raises:
            TransportClosed: The connection has ended; 1006: it was aborted.
        """
        while not self.received:
            if self.closed is not None:
                raise self.closed
            await self._changed.wait()
        await checkpoint()
        return self.received.popleft()

    async def wait_closed(self) -> TransportClosed:
        """Wait for the end of the connection, and return it."""
        while self.closed is None:
            await self._changed.wait()
        return self.closed

    def stop_reading(self) -> None:
        """Make the transport not writable."""
        self.is_reading = False

    def read_on(self) -> None:
        """Make the transport writable again."""
        self.is_reading = True
        self._wake()

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the connection after the messages sent before. Idempotent."""
        if self.closed is None:
            self.closed = TransportClosed(code, reason)
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


class MemoryTransport:
    """A transport that can only send by awaiting, as that of plain ASGI."""

    def __init__(self) -> None:
        self.peer: Final = MemoryPeer()
        self._is_aborted = False

    async def receive(self) -> str | bytes:
        """Wait for the peer's next message; see :meth:`.Transport.receive`."""
        await checkpoint()
        peer = self.peer
        while not peer._sent or self._is_aborted:  # noqa: SLF001  # two halves of one thing
            if peer.closed is not None:
                raise peer.closed
            await peer._changed.wait()  # noqa: SLF001
        return peer._sent.popleft()  # noqa: SLF001

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send, once the peer reads; see :meth:`.Transport.send`."""
        await checkpoint()
        await self._wait_for_room()
        for frame in frames:
            self._arrive(frame.text if frame.is_text else frame.payload)

    async def close(self, code: int, reason: str) -> None:
        """End the connection, or abort it if the peer does not read."""
        await checkpoint()
        peer = self.peer
        if not peer.is_reading:
            self.abort()
        elif peer.answers_close:
            peer.close(code, reason)
        while peer.closed is None:
            await peer._changed.wait()  # noqa: SLF001

    def abort(self) -> None:
        """Cut the connection. Idempotent."""
        self._is_aborted = True
        self.peer.close(CloseCode.ABNORMAL)
        self.peer._wake()  # noqa: SLF001

    async def _wait_for_room(self) -> None:
        peer = self.peer
        while not peer.is_reading and peer.closed is None:
            await peer._changed.wait()  # noqa: SLF001
        if peer.closed is not None:
            raise TransportClosed

    def _arrive(self, message: str | bytes) -> None:
        self.peer.received.append(message)
        self.peer._wake()  # noqa: SLF001


class DirectMemoryTransport(MemoryTransport):
    """A transport that can also write without waiting; see :class:`.WriteNow`."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: int = 0
        """Number of writes."""
        self._frames: Final = FrameReader()

    def write_now(self, wire: bytes) -> None:
        """Write frames, or raise; see :meth:`.WriteNow.write_now`."""
        if self.peer.closed is not None:
            raise TransportClosed
        if not self.peer.is_reading:
            raise WouldBlock
        self.writes += 1
        for frame in self._frames.feed(wire):
            is_text = frame.opcode == 1
            self._arrive(frame.payload.decode() if is_text else frame.payload)

    async def wait_writable(self) -> None:
        """Wait until the peer reads; see :meth:`.WriteNow.wait_writable`."""
        await self._wait_for_room()

    def unsent(self) -> int:
        """Return 0: written bytes arrive at once."""
        return 0
