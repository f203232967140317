"""Questions to the store of a broker: many that come together are one.

When a broker or a server is back, all of its subscribers ask at once what they have missed. So
all questions of one moment go to the link in one call, and those about one pattern wait for
:data:`PAUSE_SECONDS` and are put as one (:mod:`wsbus.core.sharing`). A question shares only a call
that begins after it was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from anyio import Event, current_time, fail_after, move_on_after

from ..broker import CALL_SECONDS, HistoryLink
from ..core.errors import BrokerUnavailable
from ..core.history import HistoryPage, HistoryRead
from ..core.patterns import Pattern, parse_pattern
from ..core.sharing import part_of, shared

__all__ = ["HEAD", "PAUSE_SECONDS", "READ_SECONDS", "Reads", "within"]

HEAD: Final = HistoryRead(parse_pattern("*"), limit=0)
"""The question where the store stands, and nothing else; it need not pause."""

PAUSE_SECONDS: Final = 0.1
"""Seconds between two questions about the same pattern."""

READ_SECONDS: Final = 5.0
"""How long a question waits for its answer, dials included."""

_MOST: Final = 200
"""The most patterns of one call."""

_T = TypeVar("_T")


class _Asked:
    """A question of one caller."""

    def __init__(self, read: HistoryRead) -> None:
        self.read: Final = read
        self.page: HistoryPage | None = None
        """The answer, once that is there."""
        self.is_alone: bool = False
        """Whether it could not be answered with others."""
        self.settled: Final = Event()


class Reads:
    """Puts questions to whatever link there is."""

    def __init__(self) -> None:
        self._asked: Final[dict[_Asked, None]] = {}
        """Questions without an answer that are not on their way."""
        self._due = Event()
        self._put_at: Final[dict[Pattern, float]] = {}
        """When patterns were asked for within the last pause."""
        self.calls: int = 0
        """Calls of links."""

    async def read(self, reads: Sequence[HistoryRead]) -> list[HistoryPage]:
        """Return the answers, in order.

        Raises:
            BrokerUnavailable: There is no answer within :data:`READ_SECONDS`.
        """
        asked = [_Asked(read) for read in reads]
        self._asked.update(dict.fromkeys(asked))
        self._due.set()
        try:
            with fail_after(READ_SECONDS):
                for each in asked:
                    await each.settled.wait()
        except TimeoutError:
            raise BrokerUnavailable("the broker has not answered what it keeps") from None
        finally:
            for each in asked:
                each.settled.set()  # Or it would be put again.
                self._asked.pop(each, None)
        return [each.page for each in asked if each.page is not None]

    async def run(self, link: HistoryLink) -> None:
        """Put to a link what is asked, until that fails.

        Raises:
            BrokerUnavailable: The link has failed. What it has not answered is put to the next.
        """
        while True:
            self._due = Event()
            now = current_time()
            for pattern in [p for p, at in self._put_at.items() if at + PAUSE_SECONDS <= now]:
                del self._put_at[pattern]
            ready = self._ready()
            if ready:
                await self._put(link, ready)
            elif self._asked:
                with move_on_after(min(self._put_at.values()) + PAUSE_SECONDS - now):
                    await self._due.wait()
            else:
                await self._due.wait()

    def _ready(self) -> list[_Asked]:
        """Take what may be put now, for a bounded number of patterns."""
        patterns: set[Pattern] = set()
        ready, alone = [], 0
        for each in self._asked:
            pattern = each.read.pattern
            if each.read != HEAD:
                if pattern in self._put_at or (each.is_alone and alone >= _MOST):
                    continue
                if pattern not in patterns and len(patterns) >= _MOST:
                    continue
                alone += each.is_alone
                patterns.add(pattern)
            ready.append(each)
        for each in ready:
            del self._asked[each]
        return ready

    async def _put(self, link: HistoryLink, asked: Sequence[_Asked]) -> None:
        together = shared([each.read for each in asked if not each.is_alone])
        put = dict.fromkeys([self._question(each, together) for each in asked])
        questions = [question for question in put if question != HEAD]
        self._put_at.update(dict.fromkeys([each.pattern for each in questions], current_time()))
        self.calls += 1
        answers: dict[HistoryRead, HistoryPage] = {}
        try:
            if HEAD in put:
                head = await within(CALL_SECONDS, link.head)
                answers[HEAD] = HistoryPage((), head, is_complete=True)
            if questions:
                pages = await within(CALL_SECONDS, lambda: link.read(questions))
                answers.update(zip(questions, pages, strict=True))
            for each in asked:
                question = self._question(each, together)
                each.page = part_of(answers[question], question, each.read)
                if each.page is not None:
                    each.settled.set()
                each.is_alone = True
        finally:
            self._asked.update(dict.fromkeys([e for e in asked if not e.settled.is_set()]))

    @staticmethod
    def _question(asked: _Asked, together: Mapping[HistoryRead, HistoryRead]) -> HistoryRead:
        return asked.read if asked.is_alone else together[asked.read]


async def within(seconds: float, call: Callable[[], Awaitable[_T]]) -> _T:
    """Await a call of a link; one that takes too long means that the link is lost.

    Raises:
        BrokerUnavailable: It took too long, or failed.
    """
    try:
        with fail_after(seconds):
            return await call()
    except TimeoutError:
        raise BrokerUnavailable(f"the broker did not answer within {seconds:g} s") from None
