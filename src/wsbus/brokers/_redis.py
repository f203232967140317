"""A link to Redis: two connections to one server, and a third one once history is read.

One publishes and stores, and reads the replies. Another subscribes, and passes each message on as
it is parsed, without a queue, so that what a node cannot take in time waits at the server.
The third one reads history, so that long answers do not hold up what is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from anyio import CancelScope
from redis.exceptions import RedisError

from ..broker import Link, Receive
from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable
from ..core.events import Position
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead, Stored
from ._redis_dial import (
    RedisPlace,
    bounded,
    fault_of,
    find,
    open_stream,
    reason_of,
    refusal_of,
)
from ._redis_history import Question, RedisStore
from ._redis_scripts import HEAD, READ, STORE, LuaScript
from ._redis_stream import ErrorReply, RedisStream, Words

__all__ = ["linked"]

_CHUNK: Final = 512
"""Channels of one SUBSCRIBE."""

_MOST_READS: Final = 128
"""Questions of one write."""

_WATCH_SECONDS: Final = 1.5
"""Seconds between two questions to sentinels."""

_MULTI: Final = (b"MULTI",)
_EXEC: Final = (b"EXEC",)
_UINT32: Final = b"\xce"


@asynccontextmanager
async def linked(
    place: RedisPlace, names: str, store: RedisStore, receive: Receive
) -> AsyncIterator[Link]:
    """Find the server, dial it, and yield a link to it, until that fails.

    Args:
        place: Where it is.
        names: What the names of all channels and keys begin with.
        store: The history of these names.
        receive: Called with each message.

    Raises:
        BrokerUnavailable: It cannot be reached, it refuses, or the link has failed.
    """
    check = (b"DEL", f"{names}primary".encode())
    streams: list[RedisStream] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        with bounded():
            address, outward = await find(place, check)
            streams.append(outward)
            inward = await open_stream(address, place.login)
            streams.append(inward)

        async def open_reader() -> RedisStream:
            with bounded():
                streams.append(await open_stream(address, place.login))
            return streams[-1]

        with CancelScope() as scope:
            link = _RedisLink(
                outward,
                inward,
                names=names,
                check=check,
                store=store,
                open_reader=open_reader,
                receive=receive,
                on_lost=scope.cancel,
            )
            link.listen()
            if place.kind == "sentinel":
                tasks.append(asyncio.create_task(link.watch(place)))
            yield link
        if link.failure is not None:
            raise BrokerUnavailable(link.failure)
    finally:
        with CancelScope(shield=True):
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for stream in streams:
                await stream.close()


class _RedisLink:
    def __init__(
        self,
        outward: RedisStream,
        inward: RedisStream,
        *,
        names: str,
        check: Words,
        store: RedisStore,
        open_reader: Callable[[], Awaitable[RedisStream]],
        receive: Receive,
        on_lost: Callable[[], None],
    ) -> None:
        self._outward: Final = outward
        self._inward: Final = inward
        self._names: Final = names
        self._check: Final = check
        self._store: Final = store
        self._open_reader: Final = open_reader
        self._reader: RedisStream | None = None
        self._opening: Final = asyncio.Lock()
        self._receive: Final = receive
        self._on_lost: Final = on_lost
        self._asked = self._confirmed = 0  # Channels, to be followed or not.
        self._waiting: Final[deque[tuple[int, asyncio.Future[None]]]] = deque()
        self.failure: str | None = None
        """Why it has ended; None: it has not."""

    async def publish(self, turn: Turn) -> None:
        self._check_life()
        commands: list[Words] = [
            (b"PUBLISH", self._name(feed), message) for feed, message in turn.messages(spread=True)
        ]
        if not commands:
            return
        if len(commands) > 1:
            commands = [_MULTI, *commands, _EXEC]
        others = await self._call(self._outward, commands)
        results = [*others, *others[-1]] if type(others[-1]) is list else others
        if any(isinstance(reply, Exception) for reply in results):
            reason = next(str(reply) for reply in results if isinstance(reply, Exception))
            raise BrokerUnavailable(
                self._lose(refusal_of(reason)),
                may_have_arrived=any(type(reply) is int for reply in results),
            )

    async def store(self, turn: Turn) -> Sequence[Stored]:
        if not turn.drafts:
            await self.publish(turn)
            return []
        self._check_life()
        command, tag = self._store.storing(turn)
        [reply] = await self._run(self._outward, STORE, [command])
        return self._store.stored(reply, tag, len(turn.drafts))

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        questions = [Question(read, self._store) for read in reads]
        open_ones = questions
        while open_ones:
            for start in range(0, len(open_ones), _MOST_READS):
                part = open_ones[start : start + _MOST_READS]
                replies = await self._ask(READ, [question.next() for question in part])
                for question, reply in zip(part, replies, strict=True):
                    question.take(reply)
            open_ones = [question for question in open_ones if question.page is None]
        return [question.page for question in questions if question.page is not None]

    async def head(self) -> Position:
        [reply] = await self._ask(HEAD, [self._store.asking_head()])
        return self._store.head(reply)

    async def follow(self, feeds: Collection[Feed]) -> None:
        await self._change(b"SUBSCRIBE", feeds)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        await self._change(b"UNSUBSCRIBE", feeds)

    @property
    def has_others(self) -> bool:
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True

    def listen(self) -> None:
        """Pass on what the server sends from now on, until the link fails."""
        self._outward.listen(None, self._ended)
        self._inward.listen(self._take, self._ended)

    def _take(self, reply: Any) -> None:
        if type(reply) is not list or len(reply) != 3:
            self._lose(refusal_of(str(reply)))
        elif reply[0] == b"message":
            message = reply[2]
            if message[-5:-4] == _UINT32:
                self._store.newest = message
            self._receive(message)
        else:
            self._confirm()

    def _ended(self, exc: Exception) -> None:
        self._lose(reason_of(exc))

    async def watch(self, place: RedisPlace) -> None:
        """Ask the sentinels now and then, and end the link if they name another primary.

        They leave the former one as it is for ten seconds when it is alive.
        """
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                with bounded():
                    _, stream = await find(place, self._check)
            except BrokerUnavailable:
                continue  # The turns go on without sentinels.
            has_moved = stream.peer != self._outward.peer
            await stream.close()
            if has_moved:
                self._lose("the sentinels name another primary")

    async def _ask(self, script: LuaScript, commands: list[Words]) -> list[Any]:
        """Run a script beside what is published.

        It runs to its end, though its caller may be cancelled: the next one needs the connection.
        """
        self._check_life()
        if self._reader is None:
            async with self._opening:
                if self._reader is None:
                    try:
                        self._reader = await self._open_reader()
                        self._reader.listen(None, self._ended)
                    except BrokerUnavailable as exc:
                        raise BrokerUnavailable(self._lose(str(exc))) from None
        return await self._run(self._reader, script, commands)

    async def _run(
        self, stream: RedisStream, script: LuaScript, commands: list[Words]
    ) -> list[Any]:
        """Run a script some times, and have the server learn it if it does not know it."""
        replies = await self._call(stream, commands)
        if any(_is_unknown(reply) for reply in replies):
            again = [index for index, reply in enumerate(replies) if _is_unknown(reply)]
            load, *others = await self._call(
                stream, [script.load, *[commands[index] for index in again]]
            )
            for index, reply in zip(again, others, strict=True):
                replies[index] = load if isinstance(load, Exception) else reply
        for reply in replies:
            if isinstance(reply, Exception):
                # The script may have failed at any of its commands.
                raise BrokerUnavailable(self._lose(refusal_of(str(reply))), may_have_arrived=True)
        return replies

    async def _call(self, stream: RedisStream, commands: list[Words]) -> list[Any]:
        """Send commands in one write, and return the replies of a server that may write."""
        try:
            first, *others = await stream.call(self._check, *commands)
        except (OSError, RedisError) as exc:
            reason = self._lose(reason_of(exc))
            raise BrokerUnavailable(
                f"{reason}; this is published, or not", may_have_arrived=True
            ) from None
        wrong = fault_of(first)
        if wrong is not None:
            raise BrokerUnavailable(self._lose(wrong), may_have_arrived=True)
        return others

    async def _change(self, command: bytes, feeds: Collection[Feed]) -> None:
        self._check_life()
        channels = [self._name(feed) for feed in feeds]
        if not channels:
            return
        self._asked += len(channels)
        confirmed = asyncio.get_running_loop().create_future()
        self._waiting.append((self._asked, confirmed))
        commands = [
            (command, *channels[start : start + _CHUNK])
            for start in range(0, len(channels), _CHUNK)
        ]
        try:
            self._inward.send(*commands)
        except (OSError, RedisError) as exc:
            raise BrokerUnavailable(self._lose(reason_of(exc))) from None
        await confirmed

    def _confirm(self) -> None:
        self._confirmed += 1
        while self._waiting and self._waiting[0][0] <= self._confirmed:
            _, confirmed = self._waiting.popleft()
            if not confirmed.done():
                confirmed.set_result(None)

    def _lose(self, reason: str) -> str:
        """End the link; return the first reason."""
        if self.failure is None:
            self.failure = reason
            for _, confirmed in self._waiting:
                if not confirmed.done():
                    confirmed.set_exception(BrokerUnavailable(reason))
                    confirmed.exception()  # Its waiter may be cancelled before it looks.
            self._waiting.clear()
            self._on_lost()
        return self.failure

    def _check_life(self) -> None:
        if self.failure is not None:
            raise BrokerUnavailable(self.failure)

    def _name(self, feed: Feed) -> bytes:
        return (self._names + feed).encode()


def _is_unknown(reply: object) -> bool:
    """Whether the server does not know a script."""
    return isinstance(reply, ErrorReply) and str(reply).startswith("NOSCRIPT")
