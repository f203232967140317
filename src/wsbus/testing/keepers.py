"""The set-up for checks of history: links that store, and the memory to compare them with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from time import time
from typing import Final, NamedTuple
from unittest import SkipTest

import msgspec

from ..broker import HistoryLink
from ..core.channels import parse_channel
from ..core.envelope import Draft, Kept, publish_item
from ..core.events import Position
from ..core.families import History
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead, MemoryHistory, Stored
from ..core.messages import Publication
from ..core.patterns import parse_pattern
from .adapters import require
from .nodes import BrokerUnderTest, LinkedNode

__all__ = ["Keeper", "KeptEntry", "Model", "read_of", "same", "two_keepers"]

_ALL: Final = History(size=1000)


class KeptEntry(NamedTuple):
    """A publication to store."""

    publication: Publication
    history: History = _ALL
    key: str | None = None


class Keeper:
    """A node whose link keeps history."""

    def __init__(self, node: LinkedNode) -> None:
        if not isinstance(node.link, HistoryLink):
            raise SkipTest("the links of this broker keep no history")
        self.node: Final = node
        self.link: Final[HistoryLink] = node.link

    def entry(
        self, name: str, text: object = 0, history: History = _ALL, key: str | None = None
    ) -> KeptEntry:
        """Return something to store on a channel of this check."""
        case, data = self.node.case, msgspec.json.encode(text)
        channel, number = parse_channel(f"{case.base}.{name}"), next(case.numbers)
        publication = Publication(
            channel, "check", data, time(), "k" if number % 3 else None, self.node.name, number
        )
        return KeptEntry(publication, history, None if key is None else f"{case.base} {key}")

    async def store(
        self, entries: Sequence[KeptEntry], others: Sequence[tuple[Feed, str]] = ()
    ) -> Sequence[Stored]:
        """Store entries, and publish texts on feeds, in one turn."""
        turn = self.node.turn(others)
        for publication, history, key in entries:
            feed, item = Feed("=" + publication.channel), publish_item(publication)
            turn.draft(Draft(feed, publication, item, history, key))
        stored = await self.link.store(turn)
        require(len(stored) == len(entries), "each draft has its outcome")
        return stored

    async def ask(self, name: str, **options: object) -> HistoryPage:
        """Read the channels of this check that match."""
        read = read_of(self.node.case, name, **options)
        [page] = await self.link.read([read])
        return page

    async def gets(self, expected: Sequence[Stored]) -> list[Kept]:
        """Return what comes, once it must be everything; check the positions."""
        await self.node.gets(len(expected))
        await self.node.settle(self.node)
        kept = [*self.node.kept]
        positions = [item.position for item in kept]
        require(
            sorted(p.offset for p in positions) == [e.position.offset for e in expected]
            and {*positions} == {e.position for e in expected},
            f"{len(expected)} were stored, {len(kept)} came: each comes once, with its position",
        )
        self.node.kept.clear()
        return kept


class Model:
    """Stored publications, in the memory of this process."""

    def __init__(self) -> None:
        self._memory: Final = MemoryHistory("model")
        self._positions: Final[list[Position]] = []
        """The position in the store of each offset here."""
        self.kept: Final[dict[int, Publication]] = {}
        """By number, as a store must give it back."""

    def keep(self, entries: Sequence[KeptEntry], stored: Sequence[Stored]) -> list[Stored]:
        """Take what was stored, check its outcome, and return those that were published."""
        fresh = []
        for entry, outcome in zip(entries, stored, strict=True):
            publication, history, key = entry
            repeated = None if key is None else self._memory.repeated(key, 0)
            if repeated is not None:
                require(outcome.is_repeated, f"the key of {publication.number} was used before")
                require(outcome.position == self._real(repeated), "a repetition has its position")
                continue
            last = self._positions[-1].offset if self._positions else 0
            require(not outcome.is_repeated, f"{publication.number} is no repetition")
            require(outcome.position.offset > last, "offsets grow")
            self._positions.append(outcome.position)
            kept = self._memory.keep(publication, history, 0, key)
            self.kept[kept.number] = msgspec.structs.replace(
                kept, position=outcome.position, previous=self._real(kept.previous)
            )
            fresh.append(outcome)
        return fresh

    def a_position(self, random: Random) -> tuple[Position | None, Position | None]:
        """Return a position here, and the same one in the store."""
        last = self._positions[-1]
        match random.randrange(8):
            case 0 | 1:
                return None, None
            case 2:
                return Position("model", 0), Position(last.epoch, 0)
            case 3:
                return Position("other", 3), Position("other", 3)
            case 4:
                far = 1_000_000_000
                return Position("model", far), Position(last.epoch, last.offset + far)
        offset = random.randint(max(1, len(self._positions) - 20), len(self._positions))
        real = self._positions[offset - 1]
        if random.randrange(4) == 0:
            real = Position(real.epoch, real.offset)  # As `previous` names it.
        return Position("model", offset), real

    def check(self, read: HistoryRead, page: HistoryPage, asked: HistoryRead) -> None:
        """Compare an answer with that of the memory to the same question."""
        expected = self._memory.read(read, 0)
        numbers = [each.number for each in expected.publications]
        came = [each.number for each in page.publications]
        require(came == numbers, f"{asked} gave {came}, not {numbers}")
        require(page.is_complete == expected.is_complete, f"{asked}: complete: {page.is_complete}")
        require(page.has_more == expected.has_more, f"{asked}: has more: {page.has_more}")
        for publication in page.publications:
            same(publication, self.kept[publication.number])
        if self._positions:
            last = self._positions[-1]
            require(page.head.epoch == last.epoch, "an answer names the epoch")
            require(page.head.offset >= last.offset, "the head is not before what is kept")

    def _real(self, position: Position | None) -> Position | None:
        return None if position is None else self._positions[position.offset - 1]


def same(publication: Publication, expected: Publication) -> None:
    """Check that a publication is what was stored; the tag of ``previous`` is not known."""
    previous, before = publication.previous, expected.previous
    require(
        (previous and (previous.epoch, previous.offset))
        == (before and (before.epoch, before.offset)),
        f"{publication.number} names {previous} as the one before it, not {before}",
    )
    one, other = [
        msgspec.structs.astuple(msgspec.structs.replace(each, previous=None))
        for each in (publication, expected)
    ]
    require(one == other, f"{other} came back as {one}")


def read_of(case: BrokerUnderTest, name: str, **options: object) -> HistoryRead:
    """Return a question about the channels of a check that match."""
    read = HistoryRead(parse_pattern(f"{case.base}.{name}"))
    return read._replace(**options)  # type: ignore[arg-type]


@asynccontextmanager
async def two_keepers(case: BrokerUnderTest) -> AsyncIterator[tuple[Keeper, Keeper]]:
    """Dial two links; skip the check if they keep no history."""
    async with case.join() as one, case.join() as two:
        yield Keeper(one), Keeper(two)
