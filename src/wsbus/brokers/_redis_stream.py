"""One connection to a server of Redis, which redis-py has dialled: commands out, replies in.

The socket's callback feeds the parser (hiredis, as in redis-py), and passes each reply on at once.
redis-py would wake a task for that, and each of its replies passes through several coroutines: a
message that comes alone costs 2 loop turns there, and 1 here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias, cast

import hiredis
from anyio import CancelScope
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from typing_extensions import override

__all__ = ["ErrorReply", "RedisStream", "Words", "drop"]

Words: TypeAlias = tuple[bytes, ...]
"""A command and its arguments."""

_READ_BYTES: Final = 16_384
"""Bytes that are read, parsed and passed on before other tasks run: some 80 small messages."""

_MORE: Final = object()
_pack: Final = cast("Callable[[Words], bytes]", hiredis.pack_command)


class ErrorReply(Exception):
    """An error that a server replies with, as the server spelled it."""


class RedisStream(asyncio.BufferedProtocol):
    """A connection that is logged in; it takes it over from redis-py.

    Args:
        connection: No reply is due on it.

    Raises:
        redis.exceptions.ConnectionError: The server has closed it already.
    """

    def __init__(self, connection: Connection | UnixDomainSocketConnection) -> None:
        inside: Any = connection
        if inside._reader.at_eof():  # noqa: SLF001
            raise RedisConnectionError
        self._connection: Final = connection
        self._transport: Final[asyncio.WriteTransport] = inside._writer.transport  # noqa: SLF001
        self._buffer: Final = bytearray(_READ_BYTES)
        self._parser: Final = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ErrorReply, notEnoughData=_MORE
        )
        self._calls: Final[deque[_Call]] = deque()
        self._take: Callable[[Any], None] | None = None
        self._tell_end: Callable[[Exception], None] | None = None
        self._end: Exception | None = None
        self._context: Final = _context_of_asyncio()
        # redis-py waits for its own protocol when it closes the connection.
        self._former: Final = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def peer(self) -> object:
        """The address of the server, as the socket has it."""
        return self._transport.get_extra_info("peername")

    def listen(
        self, take: Callable[[Any], None] | None, tell_end: Callable[[Exception], None]
    ) -> None:
        """Have functions called from now on; they must not raise.

        Args:
            take: Called with each reply that no call waits for; None: such a reply is an error.
            tell_end: Called once, when the connection has ended before :meth:`close`.
        """
        self._take, self._tell_end = take, tell_end
        if self._end is not None:
            tell_end(self._end)

    def send(self, *commands: Words) -> None:
        """Send commands in one write.

        Raises:
            OSError, redis.exceptions.RedisError: The connection has ended.
        """
        if self._end is not None:
            raise self._end
        self._transport.write(b"".join([_pack(command) for command in commands]))

    async def call(self, *commands: Words) -> list[Any]:
        """Send commands in one write, and return their replies; errors are items.

        Raises:
            OSError, redis.exceptions.RedisError: The connection has ended.
        """
        self.send(*commands)
        call = _Call(len(commands))
        self._calls.append(call)
        await call.answered
        return call.replies

    async def close(self) -> None:
        """Drop the connection; what was not sent yet is lost."""
        self._tell_end = None
        await drop(self._connection)

    # --- called by the event loop ------------------------------------------------------------

    @override
    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self._context.run(self._read, nbytes)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._former.connection_lost(exc)
        self._finish(exc or RedisConnectionError())

    def _read(self, nbytes: int) -> None:
        parser = self._parser
        try:
            parser.feed(cast("bytes", self._buffer), 0, nbytes)
            while (reply := parser.gets()) is not _MORE and self._end is None:
                self._pass_on(reply)
        except InvalidResponse as exc:
            self._finish(exc)

    def _pass_on(self, reply: Any) -> None:
        if self._calls:
            call = self._calls[0]
            call.replies.append(reply)
            if len(call.replies) == call.count:
                self._calls.popleft()
                if not call.answered.done():
                    call.answered.set_result(None)
        elif self._take is not None:
            self._take(reply)
        else:
            text = str(reply) if isinstance(reply, ErrorReply) else "it answers without a question"
            self._finish(RedisConnectionError(text))

    def _finish(self, exc: Exception) -> None:
        if self._end is not None:
            return
        self._end = exc
        for call in self._calls:
            if not call.answered.done():
                call.answered.set_exception(exc)
        self._calls.clear()
        if self._tell_end is not None:
            self._tell_end(exc)


async def drop(connection: Connection | UnixDomainSocketConnection) -> None:
    """Close a connection at once, even in a task that is cancelled."""
    if connection._writer is not None:  # noqa: SLF001
        connection._writer.transport.abort()  # noqa: SLF001  # TLS would wait for the other side
    with CancelScope(shield=True), suppress(RedisError):
        await connection.disconnect()


def _context_of_asyncio() -> Context:
    """Return a context in which anyio knows its event loop where there is no task, too.

    anyio asks sniffio if that is installed, and sniffio looks for a task.
    """
    context = copy_context()
    with suppress(ModuleNotFoundError):
        from sniffio import current_async_library_cvar

        context.run(current_async_library_cvar.set, "asyncio")
    return context


class _Call:
    """Commands whose replies are due."""

    __slots__ = ("answered", "count", "replies")

    def __init__(self, count: int) -> None:
        self.count: Final = count
        self.replies: Final[list[Any]] = []
        self.answered: Final = asyncio.get_running_loop().create_future()
