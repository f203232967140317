"""The way from the broker: each publication reaches this node's members once, in order.

Nothing waits here: what comes is handed to the hub within the call, so that no queue grows. What a
node cannot take in time waits at the broker, which cuts a link that falls behind too far, and that
is a gap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from .._log import BoundedLog, about
from ..core.envelope import (
    Beacon,
    Envelope,
    Item,
    Kept,
    Published,
    open_envelope,
    read_items,
)

__all__ = ["Inbox"]

_MOST_COPIES: Final = 65_536
"""The latest publications, which are remembered while copies may come."""

_TOGETHER_SECONDS: Final = 0.0001
"""Envelopes that come closer than this were read together: what they bring is written together."""
_MOST_NODES: Final = 10_000
"""Nodes and emitters whose latest turn is remembered."""

_MOST_HELD: Final = 10_000
"""Messages that are kept while a new link begins to follow; older ones are part of the gap."""


class Inbox:
    """Reads envelopes, and passes their items on.

    Args:
        node: This node, whose own publications its members have got already, but for those that a
            store numbers.
        publish: Called with each publication of another node, and that node; it returns whether the
            content is fit, and does not raise.
        carry_out: Called with each other item, and its node, in the same way.
        keep: Called with each publication that a store has numbered, of this node, too, and in late
            envelopes; it returns whether the content is fit, and does not raise.
        echo: Called with each beacon of this node.
        wall: Reads the time, in seconds since the epoch.
        settle: Called after the items of an envelope, with whether it came by itself: no other one
            came right before it.
    """

    def __init__(
        self,
        node: str,
        *,
        publish: Callable[[Published, str], bool],
        carry_out: Callable[[Item, str], bool],
        keep: Callable[[Kept], bool],
        echo: Callable[[Beacon], None],
        wall: Callable[[], float],
        settle: Callable[[bool], None],
    ) -> None:
        self._node: Final = node
        self._publish: Final = publish
        self._carry_out: Final = carry_out
        self._keep: Final = keep
        self._echo: Final = echo
        self._wall: Final = wall
        self._settle: Final = settle
        self._last = 0.0  # When an envelope came last.
        self._seen: dict[tuple[str, int], None] | None = None
        self._held: deque[bytes] | None = None
        self._turns: Final[dict[str, int]] = {}  # The latest one of each node.
        self._log: Final = BoundedLog(logging.getLogger("wsbus.relay"))
        self.envelopes: int = 0
        """Envelopes of other nodes."""
        self.items: int = 0
        """Items in them, copies included."""
        self.copies: int = 0
        """Publications that came by two feeds while those changed, and were delivered once."""
        self.late: int = 0
        """Envelopes that came behind later ones of their node, and were dropped."""
        self.unreadable: int = 0
        """Envelopes and items that could not be read."""
        self.lag: float = 0.0
        """Seconds from another node's turn to here, of the envelope that came last. The clocks of
        two machines may differ."""

    def receive(self, message: bytes) -> None:
        """Take a message of the broker; never waits, never raises."""
        if self._held is not None:
            self._held.append(message)
            return
        envelope = open_envelope(message)
        if envelope is None:
            self._drop(1)
            return
        node = envelope.node
        if node == self._node:
            self._take_back(envelope)
            return
        if self._is_late(envelope):
            self.late += 1
            self._take_kept(read_items(envelope)[0])
            return
        self.envelopes += 1
        now = self._wall()
        self.lag = now - envelope.sent_at
        items, unread = read_items(envelope)
        self.items += len(items)
        if unread:
            self._drop(unread)
        for item in items:
            if type(item) is not Published:
                is_fit = self._take_other(item, node)
            elif self._seen is not None and self._is_copy(node, item.number):
                continue
            else:
                is_fit = self._publish(item, node)
            if not is_fit:
                self._drop(1)
        self._settle(not 0 <= now - self._last < _TOGETHER_SECONDS)
        self._last = now

    def _take_other(self, item: Item, node: str) -> bool:
        return self._keep(item) if type(item) is Kept else self._carry_out(item, node)

    def _take_back(self, envelope: Envelope) -> None:
        """Take what this node sent: its members have got all of it but what a store numbered."""
        items, _ = read_items(envelope)
        for item in items:
            if type(item) is Beacon:
                self._echo(item)
        self._take_kept(items)

    def _take_kept(self, items: Iterable[Item]) -> None:
        """Pass on what a store has numbered, and nothing else."""
        kept = [item for item in items if type(item) is Kept]
        for item in kept:
            if not self._keep(item):
                self._drop(1)
        if kept:
            now = self._wall()
            self._settle(not 0 <= now - self._last < _TOGETHER_SECONDS)
            self._last = now

    def _is_copy(self, node: str, number: int) -> bool:
        """Whether a publication has come by another feed; remember it otherwise."""
        seen = self._seen
        assert seen is not None  # Copies are expected.
        if (node, number) in seen:
            self.copies += 1
            return True
        if len(seen) >= _MOST_COPIES:
            del seen[next(iter(seen))]
        seen[node, number] = None
        return False

    def _is_late(self, envelope: Envelope) -> bool:
        """Whether a later turn of its node has come before; remember its own otherwise.

        A link that its node has given up may still bring what was held up on it, when later turns
        have come by another link. Its publishers know that the broker may have it, or not.
        """
        node, turns = envelope.node, self._turns
        latest = turns.get(node)
        if latest is None and len(turns) >= _MOST_NODES:
            del turns[next(iter(turns))]
        elif latest is not None and envelope.number < latest:
            return True
        turns[node] = envelope.number
        return False

    def hold(self) -> None:
        """Keep what comes: the gap that stands before it was not reported yet."""
        self._held = deque(maxlen=_MOST_HELD)

    @property
    def has_overflowed(self) -> bool:
        """Whether so much has come since :meth:`hold` that the oldest may be lost."""
        return self._held is not None and len(self._held) >= _MOST_HELD

    def release(self) -> None:
        """Pass on what was kept, and what comes."""
        held, self._held = self._held, None
        for message in held or ():
            self.receive(message)

    @property
    def is_watching(self) -> bool:
        """Whether copies are expected."""
        return self._seen is not None

    def watch_copies(self) -> None:
        """Expect copies: from now on two followed feeds may hold the same publication."""
        if self._seen is None:
            self._seen = {}

    def expect_none(self) -> None:
        """Expect no copies any more: no followed feed lies within another."""
        self._seen = None

    def _drop(self, count: int) -> None:
        self.unreadable += count
        self._log.warning(
            "a message of the broker cannot be read, and was dropped; it is not from wsbus, or "
            "from a version that is more than one ahead of this one",
            extra=about("broker_message_unread", count=count),
        )
