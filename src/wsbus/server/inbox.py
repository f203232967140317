"""The way from the broker: each publication reaches this node's members once, in order.

Nothing waits here: what comes is handed to the hub within the call, so that no queue grows. What a
node cannot take in time waits at the broker, which cuts a link that falls behind too far, and that
is a gap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from .._log import BoundedLog
from ..core.envelope import Envelope, Item, Published, open_envelope, read_items

__all__ = ["Inbox"]

_MOST_COPIES: Final = 65_536
"""The latest publications, which are remembered while copies may come."""

_TOGETHER_SECONDS: Final = 0.0001
"""Envelopes that come closer than this were read together: what they bring is written together."""

_MOST_HELD: Final = 10_000
"""Messages that are kept while a new link begins to follow; older ones are part of the gap."""


class Inbox:
    """Reads envelopes, and passes their items on.

    Args:
        node: This node, whose own publications its members have got already.
        take: Called with each item of another node, its envelope, and the time; it may not raise.
        echo: Called with each envelope of this node.
        wall: Reads the time, in seconds since the epoch.
        settle: Called after the items of an envelope, with whether it came by itself: no other one
            came right before it.
    """

    def __init__(
        self,
        node: str,
        take: Callable[[Item, Envelope], None],
        echo: Callable[[Envelope], None],
        wall: Callable[[], float],
        settle: Callable[[bool], None],
    ) -> None:
        self._node: Final = node
        self._take: Final = take
        self._echo: Final = echo
        self._wall: Final = wall
        self._settle: Final = settle
        self._last = 0.0  # When an envelope came last.
        self._seen: dict[tuple[str, int], None] | None = None
        self._held: deque[bytes] | None = None
        self._log: Final = BoundedLog(logging.getLogger("wsbus.relay"))
        self.envelopes: int = 0
        """Envelopes of other nodes."""
        self.items: int = 0
        """Items in them, copies included."""
        self.copies: int = 0
        """Publications that came by two feeds while those changed, and were delivered once."""
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
        if envelope.node == self._node:
            self._echo(envelope)
            return
        self.envelopes += 1
        now = self._wall()
        self.lag = now - envelope.sent_at
        items, unread = read_items(envelope)
        self.items += len(items)
        if unread:
            self._drop(unread)
        seen = self._seen
        for item in items:
            if seen is not None and isinstance(item, Published):
                key = (envelope.node, item.number)
                if key in seen:
                    self.copies += 1
                    continue
                if len(seen) >= _MOST_COPIES:
                    del seen[next(iter(seen))]
                seen[key] = None
            self._take(item, envelope)
        self._settle(not 0 <= now - self._last < _TOGETHER_SECONDS)
        self._last = now

    def hold(self) -> None:
        """Keep what comes: the gap that stands before it was not reported yet."""
        self._held = deque(maxlen=_MOST_HELD)

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

    def unfit(self) -> None:
        """Count an item whose content is unfit for subscribers."""
        self._drop(1)

    def _drop(self, count: int) -> None:
        self.unreadable += count
        self._log.warning(
            "a message of the broker cannot be read, and was dropped; it is not from wsbus, or "
            "from a version that is more than one ahead of this one"
        )
