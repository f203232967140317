"""Expectations of a test about the events of a subscription."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from anyio import CancelScope, move_on_after

from ..core.errors import RemoteError
from ..core.events import Event
from .settling import settle

__all__ = ["ANYTHING", "EventSource", "Expectation", "expect"]

T = TypeVar("T")
_SHOWN: Final = 5
"""Events that a message shows after the one that is wrong."""


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "anything"


ANYTHING: Final[Any] = _Anything()
"""Equals everything; it may stand within data, too: ``{"id": ANYTHING, "state": "paid"}``."""


class EventSource(Protocol[T]):
    """A subscription: that of a client, or one inside the process."""

    async def __anext__(self) -> Event[T]:
        """Wait for the next event."""
        ...


def expect(events: EventSource[T]) -> Expectation[T]:
    """Return the expectations of a test about a subscription that it has entered.

    ::

        async with c.subscribe("prices.*") as events:
            await bus.publish("prices.BTC", {"last": 1.5})
            await expect(events).receive({"last": 1.5}, channel="prices.BTC")
            await expect(events).nothing()
    """
    return Expectation(events)


class Expectation(Generic[T]):
    """The expectations of a test about a subscription; made by :func:`expect`."""

    def __init__(self, events: EventSource[T]) -> None:
        self._events: Final = events

    async def receive(
        self,
        data: object = ANYTHING,
        *,
        channel: str | None = None,
        event: str | None = None,
        within: float = 5.0,
    ) -> Event[T]:
        """Wait for the next event, and return it.

        Args:
            data: What its data equals; left out: anything.
            channel: Its channel; None: any.
            event: What happened; None: any.
            within: The most seconds that it waits. It waits no longer than it must.

        Raises:
            AssertionError: Another event came, or none, or the subscription has ended; the message
                says what came in its place.
        """
        wanted = _described(data, channel, event)
        came = await self._next(wanted, within)
        fits = (channel in (None, came.channel), event in (None, came.event), data == came.data)
        if not all(fits):
            raise AssertionError(
                f"expected {wanted}\n     got {_shown(came)}{await self._what_follows()}"
            )
        return came

    async def receive_all(
        self,
        *data: object,
        channel: str | None = None,
        event: str | None = None,
        within: float = 5.0,
    ) -> list[Event[T]]:
        """Wait for several events, in this order, and return them; see :meth:`receive`.

        Args:
            *data: The data of each.
            channel: The channel of all of them; None: any.
            event: What happened each time; None: any.
            within: The most seconds that it waits for each.

        Raises:
            AssertionError: One of them is another, or did not come.
        """
        return [
            await self.receive(each, channel=channel, event=event, within=within) for each in data
        ]

    async def nothing(self) -> None:
        """Prove that no event is here, or on its way; it waits for no fixed time.

        A client asks its server one question: the answer comes after everything that was
        published before. And all tasks of the loop must have come to rest. So it sees what
        other buses of this process publish through a :class:`.MemoryBroker`. What a broker outside
        of the process still has, what a subscription with ``max_rate`` holds back, and what
        threads do later, it cannot know.

        Raises:
            AssertionError: An event came; the message shows it. Or the subscription has ended.
            TimeoutError: The server does not answer.
        """
        await settle()
        catch_up = getattr(self._events, "catch_up", None)
        if catch_up is not None:
            await catch_up()
        try:
            came = await self._take()
        except (StopAsyncIteration, RemoteError) as exc:
            raise AssertionError(
                f"expected nothing, but the subscription has ended: {exc}"
            ) from exc
        if came is not None:
            raise AssertionError(
                f"expected nothing\n     got {_shown(came)}{await self._what_follows()}"
            )

    async def _next(self, wanted: str, within: float) -> Event[T]:
        with move_on_after(within):
            try:
                return await self._events.__anext__()
            except StopAsyncIteration:
                raise AssertionError(f"expected {wanted}\nbut the subscription is closed") from None
            except RemoteError as exc:
                raise AssertionError(
                    f"expected {wanted}\nbut the subscription has ended: {exc}"
                ) from exc
        raise AssertionError(f"expected {wanted}\nbut nothing came within {within:g} s")

    async def _take(self) -> Event[T] | None:
        """Return an event that is here already."""
        with CancelScope() as scope:
            scope.cancel()  # At the first wait.
            return await self._events.__anext__()
        return None

    async def _what_follows(self) -> str:
        lines: list[str] = []
        with suppress(StopAsyncIteration, RemoteError):
            while len(lines) < _SHOWN and (came := await self._take()) is not None:
                lines.append(f"\n    then {_shown(came)}")
        return "".join(lines)


def _described(data: object, channel: str | None, event: str | None) -> str:
    parts = ["an event"]
    parts += [] if channel is None else [f"on {channel}"]
    parts += [] if event is None else [f"({event})"]
    parts += [] if data is ANYTHING else [f"with {data!r}"]
    return " ".join(parts)


def _shown(event: Event[Any]) -> str:
    text = f"an event on {event.channel} ({event.event}) with {event.data!r}"
    return text if event.gap is None else f"{text}, after a gap: {event.gap!r}"
