"""Streams of a client, for code without an event loop."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from anyio import fail_after

from ..core.streams import StreamPart
from .portal import Portal
from .streams import ClientStream

__all__ = ["SyncClientStream"]


class SyncClientStream:
    """The parts of a stream, for one thread; made by :meth:`.SyncClient.stream`."""

    def __init__(self, portal: Portal, stream: ClientStream) -> None:
        self._portal: Final = portal
        self._stream: Final = stream
        self._stack: Final = ExitStack()

    @property
    def text(self) -> str:
        """The text so far; empty if the value is none."""
        return self._stream.text

    @property
    def value(self) -> Any:
        """All deltas so far, joined."""
        return self._stream.value

    @property
    def result(self) -> Any:
        """The producer's result, once the stream has ended."""
        return self._stream.result

    def cancel(self) -> None:
        """Ask the producer to cancel it; as :meth:`.ClientStream.cancel`.

        Raises:
            WsbusError: The same.
        """
        self._portal.run(self._stream.cancel)

    def __enter__(self) -> Self:
        """Subscribe.

        Raises:
            WsbusError: The server refuses it, or does not answer in time.
        """
        self._stack.enter_context(self._portal.enter(self._stream))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe."""
        self._stack.close()

    def __iter__(self) -> Self:
        """Iterate."""
        return self

    def __next__(self) -> StreamPart:
        """Wait for the next part.

        Raises:
            WsbusError: As iterating :class:`.ClientStream` does.
        """
        try:
            return self.get()
        except EOFError:
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> StreamPart:
        """Wait for the next part.

        Args:
            timeout: Seconds; None: no limit.

        Raises:
            TimeoutError: None has come.
            EOFError: The stream has ended.
            WsbusError: As iterating :class:`.ClientStream` does.
        """
        return self._portal.run(partial(self._next, timeout))

    async def _next(self, timeout: float | None) -> StreamPart:  # noqa: ASYNC109
        try:
            with fail_after(timeout):
                return await anext(self._stream)
        except StopAsyncIteration:  # A coroutine cannot raise StopIteration.
            raise EOFError(f"{self._stream.channel}: the stream has ended") from None
