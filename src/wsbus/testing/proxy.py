"""A TCP proxy with faults: what networks and frozen servers do to a connection, on demand.

::

    async with FaultProxy("127.0.0.1", 6379) as proxy:
        bus = Bus(broker=RedisBroker(f"redis://127.0.0.1:{proxy.port}"))
        ...
        proxy.black_hole()
        ...
        proxy.heal()
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    Event,
    create_memory_object_stream,
    create_task_group,
    current_time,
    getaddrinfo,
    move_on_after,
    notify_closing,
    wait_readable,
    wait_writable,
)
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ["FaultProxy", "ProxiedConnection"]

_CHUNK: Final = 16_384
_CHUNKS: Final = 16
"""The proxy holds so many for one direction: 256 KiB. After that the sender has to wait."""

_LINGER: Final = struct.pack("ii", 1, 0)
_PIECES: Final = 20
"""A trickle comes in so many pieces a second, if it has as many bytes."""


class _Faults:
    """The faults of one connection, or of the next ones."""

    def __init__(self) -> None:
        self._is_hole = False
        self._seconds = 0.0
        self._rate: float | None = None
        self._changed = Event()

    def black_hole(self) -> None:
        """Keep the sockets open, and let nothing through, until healed: then all of it comes."""
        self._is_hole = True
        self._change()

    def delay(self, seconds: float) -> None:
        """Let bytes arrive that many seconds later, each way."""
        self._seconds = seconds
        self._change()

    def trickle(self, rate: float) -> None:
        """Let at most that many bytes a second through, each way."""
        self._rate = rate
        self._change()

    def heal(self) -> None:
        """Let everything through again, at once."""
        self._is_hole, self._seconds, self._rate = False, 0.0, None
        self._change()

    def now(self) -> tuple[bool, float, float | None]:
        """Return whether it is a black hole, the delay, and the rate."""
        return self._is_hole, self._seconds, self._rate

    def _change(self) -> None:
        self._changed.set()
        self._changed = Event()


class _Cuts:
    """The places at which connections end: each takes the next count after a text."""

    def __init__(self) -> None:
        self.put((), b"")

    def put(self, counts: Iterable[int], since: bytes) -> None:
        """Take other counts, and the text."""
        self._counts: Iterator[int] = iter(counts)
        self._since = since

    def find(self, seen: bytes) -> int | None:
        """Return how many of these bytes pass, if the text is in them; it may exceed them."""
        at = seen.find(self._since)
        count = None if at < 0 else next(self._counts, None)
        return None if count is None else at + len(self._since) + count

    def rest(self, seen: bytes) -> bytes:
        """Return the end of these bytes that may be a part of the text."""
        return seen[len(seen) - len(self._since) + 1 :] if len(self._since) > 1 else b""


class ProxiedConnection(_Faults):
    """One connection through the proxy; see :attr:`FaultProxy.connections`."""

    def __init__(self, client: socket.socket, faults: _Faults, cuts: _Cuts) -> None:
        super().__init__()
        self._cuts: Final = cuts
        self._is_hole, self._seconds, self._rate = faults.now()
        self._seen = b""
        self._left: int | None = None
        self._client: Final = client
        self._sockets: Final = [client]
        self._scope: Final = CancelScope()

    def cut(self) -> None:
        """End it as a peer that closes does (FIN), both ways. Idempotent."""
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # It is closed already.
        self._close()

    def reset(self) -> None:
        """Break it as a network that fails does (RST), both ways. Idempotent."""
        for each in self._sockets:
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._close()

    def _close(self) -> None:
        for each in self._sockets:
            if each.fileno() >= 0:
                notify_closing(each)
                each.close()
        self._scope.cancel()

    async def _run(self, host: str, port: int) -> None:
        """Connect to the server, and carry bytes until one side ends it."""
        try:
            with self._scope:
                await self._until(0.0)
                server = await _dial(host, port)
                self._sockets.append(server)
                async with create_task_group() as tasks:
                    for source, target in ((self._client, server), (server, self._client)):
                        chunks = create_memory_object_stream[tuple[float, bytes | None]](_CHUNKS)
                        tasks.start_soon(self._take, source, chunks[0])
                        tasks.start_soon(self._give, target, chunks[1])
        except* (OSError, BrokenResourceError, ClosedResourceError, ValueError):
            self.reset()  # ValueError: a socket was closed when a task was about to wait for it.
        finally:
            self.cut()

    async def _take(
        self, source: socket.socket, chunks: MemoryObjectSendStream[tuple[float, bytes | None]]
    ) -> None:
        with chunks:
            data: bytes | None = b"-"
            while data:
                await wait_readable(source)
                try:
                    data = source.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except OSError:
                    data = None  # A reset. A black hole holds that back, too.
                await chunks.send((current_time(), data))

    async def _give(
        self, target: socket.socket, chunks: MemoryObjectReceiveStream[tuple[float, bytes | None]]
    ) -> None:
        with chunks:
            async for at, chunk in chunks:
                await self._until(at + self._seconds)
                if chunk is None:
                    raise ConnectionResetError
                data = self._part_of(chunk) if target is self._client else chunk
                if not chunk:
                    target.shutdown(socket.SHUT_WR)
                while data:
                    await self._until(at + self._seconds)
                    rate = self._rate
                    piece = data if rate is None else data[: max(int(rate / _PIECES), 1)]
                    await wait_writable(target)
                    try:
                        sent = target.send(piece)
                    except BlockingIOError:
                        continue
                    data = data[sent:]
                    if rate is not None:
                        await self._until(current_time() + sent / rate)
                if self._left == 0 and target is self._client:
                    self.cut()

    def _part_of(self, chunk: bytes) -> bytes:
        """Return the part of what the server says that passes before the connection is cut."""
        if self._left is None:
            cuts, seen = self._cuts, self._seen + chunk
            count = cuts.find(seen)
            self._left = None if count is None else count - len(self._seen)
            self._seen = cuts.rest(seen)
        if self._left is None:
            return chunk
        part = chunk[: self._left]
        self._left -= len(part)
        return part

    async def _until(self, moment: float) -> None:
        """Wait while it is a black hole, and until a moment; a change of the faults ends that."""
        changed = self._changed
        if not self._is_hole:
            with move_on_after(max(moment - current_time(), 0)):
                await changed.wait()
        while self._is_hole:
            await self._changed.wait()


class FaultProxy(_Faults):
    """A TCP proxy in front of an address, whose connections fail when a test says so.

    It listens on a free port of the loopback interface while its ``async with`` lasts. Without
    faults it passes everything on, a close (FIN) and a reset (RST) too. Its methods act on all
    connections, those to come included; each of :attr:`connections` has its own. It runs on asyncio
    and trio.

    Args:
        host: The host of the server.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._server: Final = (host, port)
        self._listener: socket.socket | None = None
        self._connections: Final[dict[ProxiedConnection, None]] = {}
        self._tasks: Final[TaskGroup] = create_task_group()
        self._cuts: Final = _Cuts()
        self.host: Final = "127.0.0.1"
        """The host to connect to."""
        self.port: int = 0
        """The port to connect to."""

    @property
    def connections(self) -> list[ProxiedConnection]:
        """The connections that are open, oldest first."""
        return [*self._connections]

    def cut(self) -> None:
        """End all connections as a peer that closes does (FIN); new ones are taken."""
        for connection in self.connections:
            connection.cut()

    def cut_after(self, counts: Iterable[int], *, since: bytes = b"") -> None:
        """Cut connections at chosen bytes of what the server says.

        The first connection over which it says ``since`` is cut so many bytes later as the first
        count says, the next one as the second count says, and so on; then no more is cut. All
        bytes before that pass, and none after it. It takes the place of the counts before.

        Args:
            counts: Bytes, from 0.
            since: What they are counted from; empty: the next byte that comes. A connection of
                HTTP may bring other answers first.
        """
        self._cuts.put(counts, since)

    def reset(self) -> None:
        """Break all connections as a network that fails does (RST); new ones are taken."""
        for connection in self.connections:
            connection.reset()

    def refuse(self) -> None:
        """Refuse new connections, until healed; those that are open go on. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            notify_closing(listener)
            listener.close()

    def black_hole(self, *, new: bool = True) -> None:
        """Keep all sockets open, and let nothing through.

        Args:
            new: Whether new connections are held, too. False: those pass, as where one route fails
                and another takes over.
        """
        for connection in self.connections:
            connection.black_hole()
        if new:
            super().black_hole()

    def delay(self, seconds: float) -> None:
        """Let bytes arrive that many seconds later, each way."""
        super().delay(seconds)
        for connection in self.connections:
            connection.delay(seconds)

    def trickle(self, rate: float) -> None:
        """Let at most that many bytes a second through, each way of each connection."""
        super().trickle(rate)
        for connection in self.connections:
            connection.trickle(rate)

    def heal(self) -> None:
        """End all faults: what was held comes through, and new connections are taken again."""
        super().heal()
        for connection in self.connections:
            connection.heal()
        if self._listener is None:
            self._listen()

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._tasks.__aenter__()
        self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut all connections, and listen no more."""
        self.refuse()
        self.cut()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    def _listen(self) -> None:
        listener = socket.create_server((self.host, self.port), backlog=128)
        listener.settimeout(0)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._tasks.start_soon(self._accept, listener)

    async def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                await wait_readable(listener)
                client, _ = listener.accept()
            except BlockingIOError:
                continue
            except (OSError, ClosedResourceError, ValueError):
                return  # It was closed meanwhile.
            client.settimeout(0)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tasks.start_soon(self._serve, client)

    async def _serve(self, client: socket.socket) -> None:
        connection = ProxiedConnection(client, self, self._cuts)
        self._connections[connection] = None
        try:
            await connection._run(*self._server)  # noqa: SLF001  # users have no call for it
        finally:
            del self._connections[connection]


async def _dial(host: str, port: int) -> socket.socket:
    ((family, kind, protocol, _, address), *_) = await getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )
    dialled = socket.socket(family, kind, protocol)
    try:
        dialled.settimeout(0)
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialled.connect_ex(address)
        await wait_writable(dialled)
        error = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "the server cannot be reached")
    except BaseException:
        dialled.close()
        raise
    return dialled
