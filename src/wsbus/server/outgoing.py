"""The way to the broker: one turn's items in one call, and one call at a time.

What is put while a call is on its way leaves with the next one. So a slow broker gets fewer and
larger calls, and each publisher still learns whether its own was taken. No call has a time limit of
its own: the beacons of the relay go the same way, and end a link on which they are stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..broker import BoundedLink, HistoryLink, Link
from ..core.envelope import Draft, Turn, largest_item
from ..core.errors import BrokerUnavailable, UsageError
from ..core.feeds import Feed
from ..core.history import Stored
from ..core.messages import Receipt
from ._wakeup import Bell, Wakeup

__all__ = ["Handover", "NotTaken", "Outgoing"]

MAX_ITEMS: Final = 10_000
MAX_BYTES: Final = 16 << 20
"""Bounds of the items that wait for the broker: a second of more traffic than one node has."""


NotTaken: TypeAlias = BrokerUnavailable | UsageError
"""Why a broker has not taken something; a usage error: it is too large."""


class Handover:
    """Whether the broker has taken what one turn put."""

    __slots__ = ("_bell", "_callbacks", "_error", "_is_settled", "stored")

    def __init__(self, error: NotTaken | None = None) -> None:
        self._error = error
        self._is_settled = error is not None
        self._bell: Bell | None = None
        self._callbacks: list[Callable[[NotTaken | None], None]] = []
        self.stored: Sequence[Stored] = ()
        """The outcomes of the drafts of the turn, once it was taken."""

    @property
    def error(self) -> NotTaken | None:
        """Why it was not taken; None: it was, or that is not known yet."""
        return self._error

    async def wait(self) -> None:
        """Wait until the broker has taken it.

        Raises:
            BrokerUnavailable: It has not, or that will never be known.
            UsageError: It is larger than the broker takes.
        """
        if not self._is_settled:
            if self._bell is None:
                self._bell = Bell()
            await self._bell.wait()
        self.check()

    def check(self) -> None:
        """Raise the error, if it is known not to be taken.

        Raises:
            BrokerUnavailable: It was not taken.
            UsageError: It is larger than the broker takes.
        """
        if isinstance(self._error, UsageError):
            raise UsageError(str(self._error))
        if self._error is not None:
            # Each waiter raises one of its own: a shared one would collect their tracebacks.
            raise BrokerUnavailable(str(self._error), may_have_arrived=self._error.may_have_arrived)

    def checked(self, receipt: Receipt) -> Receipt:
        """Return a receipt, unless it is known that the broker has not taken it.

        Raises:
            BrokerUnavailable: There is no link, or too much waits for it.
        """
        self.check()
        return receipt

    def then(self, callback: Callable[[NotTaken | None], None]) -> None:
        """Have a function called once it is known; it must not raise."""
        if self._is_settled:
            callback(self._error)
        else:
            self._callbacks.append(callback)

    def settle(self, error: NotTaken | None) -> None:
        """Note the end of it. Idempotent."""
        if self._is_settled:
            return
        self._is_settled, self._error = True, error
        if self._bell is not None:
            self._bell.ring()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(error)


class Outgoing:
    """Collects items, and hands them to a link.

    Args:
        node: The node that sends.
        wall: Reads the time, in seconds since the epoch.
    """

    def __init__(self, node: str, wall: Callable[[], float] = time.time) -> None:
        self._node: Final = node
        self._wall: Final = wall
        self._number = 0
        self._turn: tuple[Turn, Handover] | None = None
        self._under_way: Handover | None = None
        self._due: Final = Wakeup()
        self._link: Link | None = None
        self._keeper: HistoryLink | None = None  # The link, if it keeps history.
        self._largest = MAX_BYTES
        self._reason = BrokerUnavailable("there is no link to the broker yet")
        self.turns: int = 0
        """Calls that the broker has taken."""
        self.items: int = 0
        """Items in them."""
        self.unconfirmed: int = 0
        """Items that were put, and that the broker did not confirm."""

    @property
    def is_open(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    @property
    def link(self) -> Link | None:
        """The link; None: there is none."""
        return self._link

    @property
    def has_others(self) -> bool:
        """Whether there may be other nodes."""
        return self._link is None or self._link.has_others

    def is_wanted(self, feed: Feed) -> bool:
        """Whether another node may want a feed, as far as that is known."""
        return self._link is None or self._link.is_wanted(feed)

    def put(self, feed: Feed, item: bytes) -> Handover:
        """Add an item to this turn; never waits.

        Returns:
            What to ask whether it was taken. All items of a turn share it.
        """
        current = self._turn  # There is a link then.
        if current is None or len(item) > self._largest or _is_full(current[0]):
            found = self._turn_for(item, "no other process gets it")
            if isinstance(found, Handover):
                return found
            current = found
        turn, handover = current
        turn.add(feed, item)
        return handover

    def draft(self, draft: Draft) -> tuple[Handover, int]:
        """Add what the broker is to keep to this turn; never waits.

        Returns:
            What to ask whether it was taken, and the place of its outcome.
        """
        if self._link is not None and self._keeper is None:
            return Handover(UsageError("the broker keeps no history: it is not published")), 0
        found = self._turn_for(draft.item, "it is not published")
        if isinstance(found, Handover):
            return found, 0
        turn, handover = found
        turn.draft(draft)
        return handover, len(turn.drafts) - 1

    def _turn_for(self, item: bytes, otherwise: str) -> tuple[Turn, Handover] | Handover:
        """Return the turn that takes an item; or a handover that says why none does."""
        if self._link is None:
            return Handover(self._reason)
        if len(item) > self._largest:
            return Handover(
                UsageError(
                    f"this has {len(item)} bytes, and the broker takes {self._largest}; {otherwise}"
                )
            )
        if self._turn is None:
            self._number += 1
            self._turn = Turn(self._node, self._number, self._wall()), Handover()
            self._due.set()
        if _is_full(self._turn[0]):
            waiting = len(self._turn[0])
            return Handover(BrokerUnavailable(f"{waiting} items wait for the broker already"))
        return self._turn

    async def room(self) -> None:
        """Wait until an item can be put, or there is no link."""
        while self._turn is not None and _is_full(self._turn[0]):
            try:
                await self._turn[1].wait()
            except BrokerUnavailable:
                return

    def open(self, link: Link) -> None:
        """Take items for a link, which :meth:`run` serves."""
        self._link = link
        # To ask for a protocol takes longer than a publication (Python 3.11): not for each of them.
        self._keeper = link if isinstance(link, HistoryLink) else None
        self._largest = largest_item(link.max_bytes) if isinstance(link, BoundedLink) else MAX_BYTES

    async def run(self, link: Link) -> None:
        """Hand over what is put, until the link fails.

        Raises:
            BrokerUnavailable: The link has failed. What was not taken by then is refused.
        """
        try:
            while True:
                await self._due.wait()
                await self._hand_over(link)
        finally:
            self.close(BrokerUnavailable("the link to the broker is lost"))

    async def drain(self) -> None:
        """Wait until the broker has taken everything that was put, or its link has failed."""
        while self._turn is not None or self._under_way is not None:
            handover = self._under_way or (self._turn and self._turn[1])
            if handover is not None:
                try:
                    await handover.wait()
                except BrokerUnavailable:
                    return

    def close(self, reason: BrokerUnavailable) -> None:
        """Refuse what waits, and what is put from now on."""
        self._link, self._keeper, self._reason = None, None, reason
        turn, self._turn = self._turn, None
        if turn is not None:
            self.unconfirmed += len(turn[0])
            turn[1].settle(reason)

    async def _hand_over(self, link: Link) -> None:
        if self._turn is None:
            return
        (turn, handover), self._turn = self._turn, None
        self._under_way = handover
        error: BrokerUnavailable | None = BrokerUnavailable(
            "the link to the broker was lost before it answered; this is published, or not",
            may_have_arrived=True,
        )
        try:
            if turn.drafts:
                assert self._keeper is not None  # There are drafts for such a link only.
                handover.stored = await _store(self._keeper, turn)
            else:
                await link.publish(turn)
            error = None
            self.turns += 1
            self.items += len(turn)
        finally:
            self._under_way = None
            if error is not None:
                self.unconfirmed += len(turn)
            handover.settle(error)


def _is_full(turn: Turn) -> bool:
    return turn.size >= MAX_BYTES or len(turn) >= MAX_ITEMS


async def _store(link: HistoryLink, turn: Turn) -> Sequence[Stored]:
    """Have a link keep the drafts of a turn, and publish all of it."""
    stored = await link.store(turn)
    if len(stored) != len(turn.drafts):
        raise BrokerUnavailable(
            f"the broker answered {len(stored)} of {len(turn.drafts)} publications",
            may_have_arrived=True,
        )
    return stored
