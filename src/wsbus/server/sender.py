"""Hands items to a broker, for those that receive nothing: dials when there is something to send.

A link is kept until it fails. What is under way then is refused, and nothing is tried again by
itself: the next call dials anew. Each call either returns once the broker has taken all of its
items, or raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from anyio import CancelScope, Event, move_on_after

from .._spawn import spawn
from ..broker import CALL_SECONDS, Broker, HistoryLink
from ..core.envelope import Draft
from ..core.errors import BrokerUnavailable, UsageError
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead, Stored
from .outgoing import Handover, Outgoing
from .reads import within

__all__ = ["Sender"]

_END_SECONDS: Final = 1.5
"""Seconds for a link to end, once it is not used any more."""


class Sender:
    """Sends items in one event loop.

    Args:
        broker: The broker.
        node: The name of the sender.
    """

    def __init__(self, broker: Broker, node: str) -> None:
        self._broker: Final = broker
        self._outgoing: Final = Outgoing(node)
        self._attempt: Handover | None = None
        self._unfit: UsageError | None = None
        self._scope = CancelScope()
        self._ended = Event()
        self._ended.set()
        self._is_closed = False

    async def send(self, items: Sequence[tuple[Feed, bytes] | Draft]) -> list[Stored]:
        """Return once the broker has taken all items.

        Returns:
            The outcome of each draft, in order.

        Raises:
            BrokerUnavailable: It has not, or not all of them, or that will never be known.
            UsageError: The broker cannot work here.
        """
        if not items:
            return []
        await self._dial()
        outgoing = self._outgoing
        handovers: dict[Handover, None] = {}
        drafts: list[tuple[Handover, int]] = []
        for item in items:
            await outgoing.room()
            if isinstance(item, Draft):
                drafts.append(outgoing.draft(item))
                handovers[drafts[-1][0]] = None
            else:
                handovers[outgoing.put(*item)] = None
        has_part = False
        for handover in handovers:
            try:
                await handover.wait()
            except BrokerUnavailable as exc:
                if not has_part:
                    raise
                text = f"{exc}; a part of the batch is published"
                raise BrokerUnavailable(text, may_have_arrived=True) from None
            has_part = True
        return [handover.stored[place] for handover, place in drafts]

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        """Ask the store of the broker.

        Raises:
            BrokerUnavailable: It has not answered.
            UsageError: The broker keeps no history.
        """
        await self._dial()
        link = self._outgoing.link
        if link is not None and not isinstance(link, HistoryLink):
            raise UsageError("the broker keeps no history")
        if link is None:
            raise BrokerUnavailable("the link to the broker is lost")
        return await within(CALL_SECONDS, partial(link.read, reads))

    async def close(self, seconds: float) -> None:
        """Hand over what was put, and end the link; bounded, and shielded from cancellation."""
        self._is_closed = True
        with move_on_after(seconds, shield=True):
            await self._outgoing.drain()
        self._scope.cancel()
        with move_on_after(_END_SECONDS, shield=True):
            await self._ended.wait()

    async def _dial(self) -> None:
        """Have a link; those that come while it is dialled wait for it together."""
        if self._outgoing.is_open:
            return
        if self._is_closed:
            raise UsageError("the emitter is closed")
        attempt = self._attempt
        if attempt is None:
            await self._ended.wait()  # The link before this one has ended.
            attempt = self._attempt
        if attempt is None:
            attempt = self._attempt = Handover()
            self._scope, self._ended, self._unfit = CancelScope(), Event(), None
            spawn(partial(self._keep, attempt, self._scope, self._ended))
        try:
            await attempt.wait()
        except BrokerUnavailable:
            if self._unfit is not None:
                raise UsageError(str(self._unfit)) from None
            raise

    async def _keep(self, attempt: Handover, scope: CancelScope, ended: Event) -> None:
        """Dial, and serve the link until it fails."""
        reason = "the emitter is closed"
        try:
            with scope:
                async with self._broker.connect(_ignore) as link:
                    self._outgoing.open(link)
                    self._attempt = None
                    attempt.settle(None)
                    await self._outgoing.run(link)
        except UsageError as exc:
            self._unfit, reason = exc, str(exc)
        except Exception as exc:  # noqa: BLE001  # whatever a link raises costs that link only
            reason = f"there is no link to {self._broker.address}: {_root(exc)}"
        except BaseException:  # noqa: BLE001  # the event loop ends, and no task awaits this one
            reason = "the event loop has ended"
        self._outgoing.close(BrokerUnavailable(reason))
        if self._attempt is attempt:
            self._attempt = None
        attempt.settle(BrokerUnavailable(reason))
        ended.set()


def _root(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _ignore(_message: bytes) -> None:
    """Nothing is followed, so nothing comes."""
