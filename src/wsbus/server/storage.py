"""The history that a broker keeps, as a node sees it.

What the store numbers comes back to every node, the one that published it included, and is only
then delivered, so that all nodes have one order (:meth:`Storage.take`). After a link was lost, what
was missed is read before anything else is delivered (:meth:`Storage.arrive`); where that is
complete, subscribers of channels with history miss nothing, and get no gap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

from anyio import Event

from .._log import about
from ..broker import CALL_SECONDS, HistoryLink, Link
from ..core.continuity import Continuity, Verdict
from ..core.envelope import Kept
from ..core.errors import UsageError
from ..core.events import Position
from ..core.families import Families
from ..core.feeds import ALL_NODES, Feed, feed_of
from ..core.history import HistoryPage, HistoryRead, offset_of
from ..core.messages import Publication
from ..core.patterns import Pattern, parse_pattern
from .reads import Reads, within

__all__ = ["Storage"]

logger: Final = logging.getLogger("wsbus.relay")

_MAX_MISSED: Final = 10_000
"""The most publications that are read after a link was lost; more are a gap. As many feeds may be
followed for that."""
_PAGE: Final = 1000
_READS: Final = 500
"""Questions in one call."""


class Storage:
    """Takes what a store has numbered, and asks it for what was missed.

    Args:
        families: Those of the bus.
        address: That of the broker, for operators.
        keep: Delivers an item; returns whether its content is fit.
        deliver: Delivers what was read after a link was lost.
        tell: Tells the subscribers of a channel that publications up to a position are missing;
            None: all subscribers of channels with history, and how many is not known.
    """

    def __init__(
        self,
        families: Families,
        address: str,
        *,
        keep: Callable[[Kept], bool],
        deliver: Callable[[Publication], object],
        tell: Callable[[str | None, Position | None], None],
    ) -> None:
        self._families: Final = families
        self._address: Final = address
        self._keep: Final = keep
        self._deliver: Final = deliver
        self._tell: Final = tell
        self._continuity: Final = Continuity()
        self._moved: Event | None = None  # For those who wait until the mark moves.
        self._reads: Final = Reads()
        self.recovered: int = 0
        """Publications that were missed and read later."""

    @property
    def mark(self) -> Position | None:
        """The position of what was delivered last; None: nothing is known of the store yet."""
        return self._continuity.mark

    def covers(self, pattern: Pattern) -> bool:
        """Whether everything that matches and comes after :attr:`mark` will be delivered.

        That is not so for a feed that was followed after the store was asked where it stands.
        """
        return self._continuity.covers(feed_of(pattern))

    @property
    def calls(self) -> int:
        """How often a link was asked."""
        return self._reads.calls

    async def read(self, reads: Sequence[HistoryRead]) -> list[HistoryPage]:
        """Return the answers of the store, in order; see :meth:`.Reads.read`."""
        return await self._reads.read(reads)

    async def run(self, link: Link) -> None:
        """Put questions to a link, until that fails."""
        await self._reads.run(self._checked(link))

    # --- what the link brings --------------------------------------------------------------------

    def take(self, kept: Kept) -> bool:
        """Take a kept item: deliver it once, in order, after a gap if something is missing.

        Returns:
            Whether its content is fit.
        """
        verdict = self._continuity.take(kept)
        if verdict is Verdict.COPY:
            return True
        if verdict is Verdict.ANEW:
            self._begin_anew()
        elif verdict is Verdict.HOLE:
            self._tell(kept.published.channel, Position(kept.epoch, kept.previous))
        elif verdict is Verdict.LATE:
            self._tell(kept.published.channel, kept.position)
            return True
        is_fit = self._keep(kept)
        self._tell_moved()
        return is_fit

    async def passed(self, position: Position) -> None:
        """Wait until everything up to a position is delivered, or the store begins anew."""
        while (mark := self.mark) is not None:
            if mark.epoch != position.epoch or mark.offset >= position.offset:
                return
            if self._moved is None:
                self._moved = Event()
            await self._moved.wait()

    def confirm(self, head: Position, feeds: Collection[Feed], before: Position | None) -> None:
        """Note that the link has brought all that was kept before the store was asked.

        Args:
            head: The position of the store at that time.
            feeds: What has been followed since then.
            before: The mark at that time.
        """
        mark = self.mark
        if mark is None or before is None or mark.epoch != before.epoch:
            return  # It has begun anew meanwhile.
        if mark.epoch == head.epoch:
            self._continuity.confirm(head, feeds)
        else:
            self._continuity.restart(head, feeds)
            self._begin_anew()
        self._tell_moved()

    def note(self, head: Position) -> None:
        """Note a position of the store that was read, which has begun anew."""
        self._continuity.restart(head, ())
        self._begin_anew()
        self._tell_moved()

    def forget(self, feeds: Collection[Feed], followed: Collection[Feed]) -> None:
        """Note that feeds are not followed any more."""
        self._continuity.forget(feeds, followed)

    def _begin_anew(self) -> None:
        logger.warning(
            "the broker numbers what it keeps anew: it was emptied, or has lost a part of it; "
            "subscribers of channels with history get a gap",
            extra=about("store_anew"),
        )
        self._tell(None, None)

    def _tell_moved(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    async def look(self, link: Link, followed: Collection[Feed]) -> Callable[[], None]:
        """Ask where the store stands; return what to call once all before that has been brought.

        Args:
            link: It follows the feeds.
            followed: What it follows, which may change.
        """
        feeds, mark = {*followed}, self.mark
        head = await within(CALL_SECONDS, self._checked(link).head)
        return lambda: self.confirm(head, feeds.intersection(followed), mark)

    def _checked(self, link: Link) -> HistoryLink:
        if not isinstance(link, HistoryLink):
            why = getattr(link, "no_history", "")
            raise UsageError(
                f"the broker {self._address} keeps no history{why and f' ({why})'}, and "
                "bus.family(…, history=…) needs it: use a broker that does, or leave history= out"
            )
        return link

    # --- a link that is back -----------------------------------------------------------------

    async def arrive(self, link: Link, feeds: Collection[Feed]) -> bool:
        """Deliver what was missed, before anything that a new link brings.

        Args:
            link: It follows the feeds.
            feeds: All that is wanted.

        Returns:
            Whether nothing on channels with history was missed that is not delivered now.

        Raises:
            BrokerUnavailable: The link has failed.
            UsageError: It keeps no history.
        """
        mark, checked = self.mark, self._checked(link)
        head = await within(CALL_SECONDS, checked.head)
        missed: Sequence[Publication] | None = None
        if mark is not None and mark.epoch == head.epoch and mark.offset <= head.offset:
            missed = await self._missed(checked, feeds, mark, head)
        self._continuity.restart(head, feeds)
        for publication in missed or ():
            self._deliver(publication)
        self.recovered += len(missed or ())
        self._tell_moved()
        return missed is not None

    async def _missed(
        self, link: HistoryLink, feeds: Collection[Feed], mark: Position, head: Position
    ) -> list[Publication] | None:
        """Return what was published on feeds after a mark, up to a head; None: not all is kept."""
        patterns = [
            pattern
            for feed in feeds
            if feed != ALL_NODES and self._families.keeps_any(pattern := _pattern_of(feed))
        ]
        if len(patterns) > _MAX_MISSED:
            return None
        found: dict[int, Publication] = {}
        before = Position(head.epoch, head.offset + 1)
        left = [HistoryRead(pattern, mark, before, _PAGE) for pattern in patterns]
        while left and mark.offset < head.offset:
            reads, left = left[:_READS], left[_READS:]
            pages = await within(CALL_SECONDS, partial(link.read, reads))
            for read, page in zip(reads, pages, strict=True):
                if not page.is_complete or page.head.epoch != head.epoch:
                    return None
                found.update([(offset_of(each), each) for each in page.publications])
                if len(found) > _MAX_MISSED:
                    return None
                if page.has_more:
                    left.append(read._replace(after=page.publications[-1].position))
        return [found[offset] for offset in sorted(found) if offset <= head.offset]


def _pattern_of(feed: Feed) -> Pattern:
    """Return the pattern of the channels of a feed."""
    name = feed[1:]
    return parse_pattern(name if feed.startswith("=") else name + "*")
