"""The producer of a stream, as an application holds it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Final, Protocol, Self

from anyio import Event, Lock, current_time, get_cancelled_exc_class, move_on_after, sleep

from .._log import about
from ..core.channels import Channel
from ..core.errors import BrokerUnavailable, StreamCancelled, StreamFailed, UsageError
from ..core.events import Position
from ..core.families import Stream
from ..core.messages import Publication, Receipt
from ..core.stream_script import StreamScript
from ..core.streams import StreamEvent, compacted, is_open

__all__ = ["StreamOutlet", "StreamWriter"]

logger: Final = logging.getLogger("wsbus.streams")

_RETRY_SECONDS: Final = 10.0
"""How long an entry is tried again while the broker cannot be reached."""
_PAUSE_SECONDS: Final = 0.1
_END_SECONDS: Final = 5.0
"""Time to say how it ended, when the producer is cancelled."""

_FAILED: Final = "the producer failed"
_TAKEN: Final = "another one has ended the stream"


class StreamOutlet(Protocol):
    """The way from a producer to the store, for one channel."""

    async def open(self, producer: StreamWriter) -> None:
        """Begin to tell the producer what comes on the channel, and others that it is there."""
        ...

    def close(self, producer: StreamWriter) -> None:
        """End that. Idempotent."""
        ...

    async def read(self) -> list[Publication]:
        """Return the newest entries of the channel."""
        ...

    def encode(self, data: object) -> bytes:
        """Return data as JSON."""
        ...

    async def put(self, event: str, data: bytes, key: str) -> Receipt:
        """Publish an entry.

        Args:
            event: Its kind.
            data: JSON.
            key: A repetition has the same.
        """
        ...


class StreamWriter:
    """Produces a stream; made by :meth:`.Bus.stream`.

    ``async with`` opens it, and its end ends the stream: with :attr:`result` if the block ends
    normally; as failed if it raises, and readers learn no more than that, but for the message of a
    :class:`.StreamFailed`; as cancelled if its task is cancelled, or a reader has asked for that.
    A block that is left because of :class:`.StreamCancelled` does not raise it further.

    While the broker cannot be reached, calls wait, at most 10 s. Entries are neither lost nor
    doubled by that.

    Args:
        channel: The channel.
        stream: The policy of its family.
        outlet: The way to the store.
        name: Identifies it among all producers.
    """

    def __init__(self, channel: Channel, stream: Stream, outlet: StreamOutlet, name: str) -> None:
        self.channel: Final = channel
        self.result: Any = None
        """Goes to readers at the end, beside the value; anything that has a form in JSON."""
        self.position: Position | None = None
        """The position of the last entry."""
        self._script: Final = StreamScript(stream.compact, stream.max_bytes)
        self._compact: Final = stream.compact
        self._outlet: Final = outlet
        self._name: Final = name
        self._count = 0
        self._lock: Lock | None = None
        self._cancelled: Event | None = None
        self._is_over = False
        self._failure: str | None = None

    @property
    def text(self) -> str:
        """The text so far; empty if the value is none."""
        return self._script.text

    @property
    def value(self) -> Any:
        """All deltas so far, joined."""
        return self._script.value

    @property
    def is_cancelled(self) -> bool:
        """Whether someone has asked to cancel it."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    async def wait_cancelled(self) -> None:
        """Wait until someone asks to cancel it."""
        _, cancelled = self._entered()
        await cancelled.wait()

    async def __aenter__(self) -> Self:
        """Open the stream.

        Raises:
            UsageError: The channel has a stream already, open or not.
            BrokerUnavailable: The broker cannot be reached.
        """
        if self._lock is not None:
            raise UsageError("a stream is entered once")
        self._lock, self._cancelled = Lock(), Event()
        outlet = self._outlet
        await outlet.open(self)
        try:
            known = compacted(await outlet.read(), self._compact)
            if known is not None:
                why = "has a producer already" if is_open(known) else "has ended"
                raise UsageError(f"the stream {str(self.channel)!r} {why}: use another channel")
            # The first entry: of several producers at once only one has it.
            receipt = await self._put(StreamEvent.WHOLE, self._script.whole(), "open")
            if receipt.repeated:
                raise UsageError(f"the stream {str(self.channel)!r} has a producer already")
        except BaseException:
            outlet.close(self)
            raise
        return self

    async def append(self, delta: object) -> None:
        """Add to the stream; return once the store has it, so that no reader will miss it.

        Args:
            delta: A text; with :attr:`.Stream.compact` anything that has a form in JSON.

        Raises:
            StreamCancelled: A reader has asked to cancel it: leave the block.
            StreamFailed: It counts as failed, since this process could not be reached for 6 s.
            UsageError: It has ended; the delta cannot be joined; or the value becomes too large.
            BrokerUnavailable: The broker could not be reached for 10 s.
        Cancellation: it may be added, or not.
        """
        lock, _ = self._entered()
        async with lock:
            self._check()
            data = self._outlet.encode(delta)
            is_due = self._script.append(data)
            await self._put(StreamEvent.APPEND, data)
            if is_due:
                await self._put(StreamEvent.WHOLE, self._script.whole())

    async def fail(self, message: str = _FAILED) -> None:
        """End the stream as failed. Idempotent after any end.

        Args:
            message: A sentence for readers: put no secret in it.
        """
        await self._end(StreamEvent.FAIL, {"message": message})

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """End the stream."""
        try:
            if exc is None:
                if self.is_cancelled:
                    await self._end(StreamEvent.CANCEL, {"message": None})
                else:
                    await self._end(StreamEvent.END, {"result": self.result})
            else:
                event, message = StreamEvent.FAIL, _FAILED
                is_cancelled = isinstance(exc, StreamCancelled | get_cancelled_exc_class())
                if isinstance(exc, StreamFailed):
                    message = exc.message
                data: dict[str, object] = {"message": message}
                if is_cancelled:
                    event, data = StreamEvent.CANCEL, {"message": None}
                with move_on_after(_END_SECONDS, shield=True):
                    await self._end(event, data)
        except Exception:
            if exc is None:
                raise
            logger.exception(
                "the end of a stream cannot be published; its readers learn it in a while",
                extra=about("stream_end_failed", channel=self.channel),
            )
        finally:
            self._is_over = True
            self._outlet.close(self)
        return isinstance(exc, StreamCancelled) and self.is_cancelled

    def hear(self, publication: Publication) -> None:
        """Take an entry of the channel."""
        if publication.event == StreamEvent.CANCELLING.value and self._cancelled is not None:
            self._cancelled.set()
        elif publication.event == StreamEvent.FAIL.value and not self._is_over:
            self._failure = _TAKEN

    def _entered(self) -> tuple[Lock, Event]:
        if self._lock is None or self._cancelled is None:
            raise UsageError("use it as `async with bus.stream(…) as s:`")
        return self._lock, self._cancelled

    def _check(self) -> None:
        if self._failure is not None:
            raise StreamFailed(self._failure)
        if self._is_over:
            raise UsageError(f"the stream {str(self.channel)!r} has ended")
        if self.is_cancelled:
            raise StreamCancelled

    async def _end(self, event: StreamEvent, data: object) -> None:
        lock, _ = self._entered()
        async with lock:
            if not self._is_over:
                self._is_over = True
                if self._failure is None:
                    await self._put(event, self._outlet.encode(data))

    async def _put(self, event: StreamEvent, data: bytes, key: str | None = None) -> Receipt:
        """Publish an entry, again and again while the broker cannot be reached."""
        if key is None:
            self._count += 1
            key = f"{self._name} {self._count}"
        until = current_time() + _RETRY_SECONDS
        has_arrived = False
        while True:
            try:
                receipt = await self._outlet.put(event.value, data, key)
            except BrokerUnavailable as exc:
                has_arrived = has_arrived or exc.may_have_arrived
                if current_time() >= until:
                    raise
                await sleep(_PAUSE_SECONDS)
                continue
            self.position = receipt.position
            return Receipt(0, 0, receipt.position, repeated=receipt.repeated and not has_arrived)
