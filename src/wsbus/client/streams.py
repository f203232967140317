"""Streams, as an async iterator of a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import copy
from typing import Any, Final, Self

from ..core.errors import UnexpectedData, UsageError
from ..core.events import Gap, GapCause
from ..core.families import Compact
from ..core.messages import Publication
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.streams import StreamDuty, StreamFold, StreamPart
from .driver import ClientDriver
from .events import Events

__all__ = ["ClientStream"]


class _Feed(Events[Any]):
    """The subscription of a stream: it joins what comes at once, so that nothing waits in it."""

    def __init__(
        self, driver: ClientDriver, channel: str, compact: Compact | None, timeout: float
    ) -> None:
        super().__init__(
            driver,
            parse_pattern(channel),
            copy,
            asks=True,
            buffer=1,
            buffer_bytes=1,
            overflow=Overflow.DROP_OLDEST,
            timeout=timeout,
        )
        self.fold: Final = StreamFold(compact)
        self._driver: Final = driver

    async def enter(self) -> None:
        """Subscribe. If the client was subscribed already, it begins anew, to get everything."""
        is_held = self.pattern in self._driver.session.subscriptions
        await self.__aenter__()
        if is_held:
            self._renew()

    def _renew(self) -> None:
        driver, now = self._driver, self._driver.settings.clock()
        driver.perform(driver.session.renew(self.parsed, self, now))

    def offer(self, publication: Publication) -> None:
        """Take an entry."""
        if self.fold.take(publication) is StreamDuty.ASK:
            self._renew()
        self._rouse()

    def lose(self, gap: Gap) -> None:
        """Entries are missing. After a reconnect the whole value comes anyway."""
        self.fold.lose()
        if gap.cause is not GapCause.RECONNECT:
            self._renew()

    def abandon(self) -> None:
        """Close it, if this is its event loop: nothing holds its iterator any more."""
        with suppress(UsageError, RuntimeError):  # The loop may have ended, or be another one.
            self._owner.check_caller()
            self.close()

    async def wait(self) -> None:
        """Wait until something has come, or it is over.

        Raises:
            RemoteError: The server ended the subscription, or the client; why.
            UsageError: The client was closed; or another task waits already.
        """
        if self._is_closed:
            raise copy(self._error) if self._error else UsageError("the client is closed")
        await self._wait()


class ClientStream:
    """The parts of a stream; made by :meth:`.Client.stream`.

    ``async for part in client.stream("answers.42")`` begins with everything so far and ends with
    the stream. It outlives connections. A reader that is slow gets fewer parts, and larger ones.
    One task may iterate. ``async with`` gives the subscription up at the end of the block, whatever
    happens; otherwise that is done when nothing holds the iterator any more.
    """

    def __init__(
        self,
        driver: ClientDriver,
        channel: str,
        compact: Compact | None,
        timeout: float,
        ask_to_cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self.channel: Final = channel
        self._feed: Final = _Feed(driver, channel, compact, timeout)
        self._ask_to_cancel: Final = ask_to_cancel
        self._text = ""
        self._value: Any = None
        self._is_entered = False

    @property
    def text(self) -> str:
        """The text so far; empty if the value is none."""
        return self._feed.fold.text

    @property
    def value(self) -> Any:
        """All deltas so far, joined."""
        return self._feed.fold.value

    @property
    def result(self) -> Any:
        """The producer's result, once the stream has ended."""
        return self._feed.fold.result

    async def cancel(self) -> None:
        """Ask the producer to cancel it; iterating goes on until it has.

        Raises:
            CommandError: The server refuses it: ``FORBIDDEN`` without a grant, ``NO_STREAM`` if
                there is none.
            RemoteError: As :meth:`.Caller.command`.
        """
        await self._ask_to_cancel(self.channel)

    def close(self) -> None:
        """Give it up. Idempotent."""
        if self._is_entered:
            self._feed.close()

    def __del__(self) -> None:
        """Give it up: an iteration may be left without a word."""
        if self._is_entered:
            self._feed.abandon()

    async def __aenter__(self) -> Self:
        """Subscribe.

        Raises:
            RemoteError: As entering :class:`.Events`.
        """
        if not self._is_entered:
            self._is_entered = True
            await self._feed.enter()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Give it up."""
        self.close()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> StreamPart:
        """Wait for the next part.

        Raises:
            StreamFailed: The stream failed.
            StreamCancelled: It was cancelled.
            UnexpectedData: The deltas are no texts: give ``compact=``.
            RemoteError: The server ended the subscription, or the client; why.
        """
        await self.__aenter__()
        fold = self._feed.fold
        while True:
            text, value = fold.text, fold.value
            if len(text) > len(self._text) or (not text and value and value is not self._value):
                part = fold.part_after(self._text)
                self._text, self._value = text, value
                return part
            if fold.is_over:
                self.close()
                if fold.is_unfit:
                    raise UnexpectedData(f"{self.channel}: {fold.message}; compact= joins others")
                fold.check()
                raise StopAsyncIteration
            await self._feed.wait()
