"""A link to Redis: two connections to one server.

One publishes, and reads the replies. The other subscribes; its reader passes each message on as it
is parsed, without a queue, so that what a node cannot take in time waits at the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

from anyio import CancelScope
from redis.exceptions import RedisError

from ..broker import Link, Receive
from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable
from ..core.feeds import Feed
from ._redis_dial import (
    RedisPlace,
    Stream,
    Words,
    bounded,
    fault_of,
    find,
    open_stream,
    reason_of,
    refusal_of,
)

__all__ = ["linked"]

_CHUNK: Final = 512
"""Channels of one SUBSCRIBE."""

_WATCH_SECONDS: Final = 1.5
"""Seconds between two questions to sentinels."""

_MULTI: Final = (b"MULTI",)
_EXEC: Final = (b"EXEC",)


@asynccontextmanager
async def linked(place: RedisPlace, names: str, receive: Receive) -> AsyncIterator[Link]:
    """Find the server, dial it, and yield a link to it, until that fails.

    Args:
        place: Where it is.
        names: What the names of all channels and keys begin with.
        receive: Called with each message.

    Raises:
        BrokerUnavailable: It cannot be reached, it refuses, or the link has failed.
    """
    check = (b"DEL", f"{names}primary".encode())
    outward = inward = None
    tasks: list[asyncio.Task[None]] = []
    try:
        with bounded():
            address, outward = await find(place, check)
            inward = await open_stream(address, place.login)
        with CancelScope() as scope:
            link = _RedisLink(
                outward,
                inward,
                names=names,
                check=check,
                receive=receive,
                on_lost=scope.cancel,
            )
            tasks.append(asyncio.create_task(link.read()))
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
            for stream in (outward, inward):
                if stream is not None:
                    await stream.close()


class _RedisLink:
    def __init__(
        self,
        outward: Stream,
        inward: Stream,
        *,
        names: str,
        check: Words,
        receive: Receive,
        on_lost: Callable[[], None],
    ) -> None:
        self._outward: Final = outward
        self._inward: Final = inward
        self._names: Final = names
        self._check: Final = check
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
        try:
            first, *others = await self._outward.call(self._check, *commands)
        except (OSError, RedisError) as exc:
            reason = self._lose(reason_of(exc))
            raise BrokerUnavailable(
                f"{reason}; this is published, or not", may_have_arrived=True
            ) from None
        except BaseException:
            self._lose("a call to it was given up")  # Its replies would be taken for later ones.
            raise
        wrong = fault_of(first)
        if wrong is not None:
            raise BrokerUnavailable(self._lose(wrong), may_have_arrived=True)
        results = [*others, *others[-1]] if type(others[-1]) is list else others
        if any(isinstance(reply, Exception) for reply in results):
            reason = next(str(reply) for reply in results if isinstance(reply, Exception))
            raise BrokerUnavailable(
                self._lose(refusal_of(reason)),
                may_have_arrived=any(type(reply) is int for reply in results),
            )

    async def follow(self, feeds: Collection[Feed]) -> None:
        await self._change(b"SUBSCRIBE", feeds)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        await self._change(b"UNSUBSCRIBE", feeds)

    @property
    def has_others(self) -> bool:
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True

    async def read(self) -> None:
        """Pass on what the server sends, until the link fails."""
        receive = self._receive
        try:
            while True:
                reply = await self._inward.receive()
                if type(reply) is not list or len(reply) != 3:
                    self._lose(refusal_of(str(reply)))
                    return
                if reply[0] == b"message":
                    receive(reply[2])
                else:
                    self._confirm()
        except (OSError, RedisError) as exc:
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
            await self._inward.send(*commands)
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
