"""What tests of links share: turns of one byte, and a record of what came."""

from __future__ import annotations

from anyio import Event, fail_after

from wsbus.core.envelope import Turn
from wsbus.core.feeds import Feed

__all__ = ["Seen", "turn_of"]


class Seen:
    """What a link brought: the one byte that each message ends with."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self._more = Event()

    def __call__(self, message: bytes) -> None:
        self.items.append(message[-1])
        self._more.set()
        self._more = Event()

    async def until(self, count: int) -> list[int]:
        """Wait until so many have come."""
        with fail_after(10):
            while len(self.items) < count:
                await self._more.wait()
        return self.items


def turn_of(*items: tuple[Feed, int]) -> Turn:
    """Return a turn with these items, each of one byte."""
    turn = Turn("node", 1, 0.0)
    for feed, item in items:
        turn.add(feed, bytes((item,)))
    return turn
