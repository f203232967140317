"""The bus's side of a broker: keeps a link, follows what is wanted, and reports what was missed.

One task dials, and dials again. While a link lasts, three tasks use it: one hands over what is
published (:mod:`wsbus.server.outgoing`), one follows what is wanted, and one sends a beacon every
:data:`.PROBE_SECONDS` and waits until it comes back. A link may be alive while its subscriptions
are dead, and a frozen broker keeps its sockets open; the way of the beacon shows both. Whatever
fails ends the link, and nothing else: the node goes on, publications that need the broker are
refused, and subscribers get what is published here.

When a link is back, everything wanted is followed first. Then what a store has kept meanwhile is
read, other subscribers get a ``gap``, and what the link has brought by then comes after.

:class:`.Cover` says what to follow, and the task brings the link there: what is new before it gives
up what is old. Meanwhile two feeds may bring the same, and the inbox drops the copies.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from heapq import nsmallest
from typing import Final

import msgspec
from anyio import Event, create_task_group, current_time, move_on_after

from .._log import BoundedLog, about, escaped
from .._timing import limit_of, now_of, pause_of
from ..broker import CALL_SECONDS, DIAL_SECONDS, Broker, Link
from ..core.envelope import Beacon, Item, Kept, Published, encode_item
from ..core.errors import BrokerUnavailable, UsageError
from ..core.feeds import ALL_NODES, Cover, Feed, feed_of, is_prefix, is_within
from ..core.instant import Instant
from ..core.patterns import Pattern
from ._threads import loop_clock
from .directory import PROBE_SECONDS, Directory, Node, own_beacon
from .inbox import Inbox
from .outgoing import Outgoing
from .reads import within
from .storage import Storage

__all__ = ["LinkStatistics", "Relay"]

logger: Final = logging.getLogger("wsbus.relay")

_BACKOFF: Final = (0.05, 2.0)
"""The first wait before another attempt, and the longest."""

_COPY_SECONDS: Final = 1.0
"""Copies may come for so long after a feed was given up: they may be on their way here."""


class LinkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A node's link to its broker."""

    address: str
    is_up: bool
    seconds: float
    """How long it has been up, or down."""
    failure: str | None
    """Why it is down; None: it is up, or was not dialled yet."""
    node: str
    """This node."""
    nodes: int
    """Nodes that are there, this one included."""
    feeds: int
    """Feeds that are followed."""
    losses: int
    """How often a link was lost."""
    gaps: int
    """How often subscribers got a gap: a link was back, or something could not be read."""
    round_trip: float | None
    """Seconds that the last beacon took to the broker and back; None: none has come back yet."""
    lag: float
    """Seconds from another node's turn to here, of what came last; clocks may differ."""
    turns: int
    """Calls that the broker has taken."""
    sent: int
    """Items in these."""
    unconfirmed: int
    """Items that the broker did not confirm: their publishers know."""
    received: int
    """Items of other nodes, copies included."""
    envelopes: int
    """Messages of the broker that held them."""
    copies: int
    late: int
    """Envelopes that came behind later ones of their node, and were dropped."""
    unreadable: int


class Relay:
    """Keeps a bus and its broker together; it follows the interest of its hub.

    Args:
        broker: The broker.
        node: This run of the bus.
        clock: Reads both clocks.
        count_connections: Returns how many connections the beacon tells.
        storage: The history that the broker keeps; None: the bus keeps none.
        keep: See :class:`.Inbox`, and so for the next three.
        publish: Called with each publication of another node.
        carry_out: Called with each order of another node.
        settle: Called after each envelope.
        tell_gap: Called when publications of other nodes may be missing, and with whether those on
            channels with history may be, too.
        meet: Called when a link is there: nodes may have missed each other's news.
        forget: See :class:`.Directory`, and so for the next one.
        expire: Called with the nodes that are there.
    """

    def __init__(
        self,
        broker: Broker,
        node: str,
        clock: Callable[[], Instant],
        *,
        count_connections: Callable[[], int],
        storage: Storage | None,
        keep: Callable[[Kept], bool],
        publish: Callable[[Published, str], bool],
        carry_out: Callable[[Item, str], bool],
        settle: Callable[[bool], None],
        tell_gap: Callable[[bool], None],
        meet: Callable[[], None],
        forget: Callable[[str], None],
        expire: Callable[[Collection[str]], None],
    ) -> None:
        self._broker: Final = broker
        self._node: Final = node
        self._clock: Final = clock
        self._now, self._limit, self._pause = now_of(clock), limit_of(clock), pause_of(clock)
        self._storage: Final = storage
        self._count_connections: Final = count_connections
        self._obey: Final = carry_out
        self._tell_gap: Final = tell_gap
        self._meet: Final = meet
        self._started_at: Final = clock().wall
        self.outgoing: Final = Outgoing(node, lambda: clock().wall)
        """Takes what goes to other nodes."""
        self.inbox: Final = Inbox(
            node,
            publish=publish,
            carry_out=self._carry_out,
            keep=keep if storage is None else storage.take,
            echo=self._echoed,
            wall=lambda: clock().wall,
            settle=settle,
        )
        """Takes what comes from them."""
        self._cover: Final = Cover()
        self._cover.add(ALL_NODES)
        self._followed: Final[set[Feed]] = set()
        self._changed = Event()  # What is wanted has changed.
        self._progress = Event()  # What is followed has changed.
        self._attempted: Final = Event()
        self._log: Final = BoundedLog(logger, a_minute=3)
        self._is_up, self._beacons = False, 0
        self._echo = Event()
        self._round_trip: float | None = None
        self._directory: Final = Directory(node, forget, expire)
        self._losses = self._gaps = 0
        self._time: Final = loop_clock()
        self._since = self._time()  # When the link came, or went.
        self._failure: str | None = None

    # --- life --------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether the link is there, and brings everything that was wanted when it came."""
        return self._is_up

    async def run(self) -> None:
        """Keep a link until cancelled."""
        pause = _BACKOFF[0]
        while True:
            self.inbox.hold()
            try:
                async with self._broker.connect(self.inbox.receive) as link:
                    wanted = {*self._cover.wanted}  # More may be wanted when this is followed.
                    await within(DIAL_SECONDS, partial(link.follow, wanted))
                    storage = self._storage
                    is_complete = storage is not None and await storage.arrive(link, wanted)
                    self._arrive(link, wanted, is_complete=is_complete)
                    pause = _BACKOFF[0]
                    await self._use(link)
            except UsageError:  # The broker cannot work here, however often it is dialled.
                raise
            except Exception as exc:  # noqa: BLE001  # whatever a link raises costs that link only
                self._lose(exc)
                self._attempted.set()
            finally:
                self._is_up = False
                self._followed.clear()
            await self._pause(pause * (1 + random.random()) / 2)  # noqa: S311  # it spreads attempts
            pause = min(pause * 2, _BACKOFF[1])

    async def attempted(self) -> None:
        """Wait until the first link is there, or could not be dialled."""
        await self._attempted.wait()

    async def close(self, seconds: float) -> None:
        """Hand over what was put, and say farewell to the other nodes; bounded."""
        if self._is_up:
            with move_on_after(seconds):
                self._send_beacon(is_leaving=True)
                await self.outgoing.drain()

    def _arrive(self, link: Link, followed: AbstractSet[Feed], *, is_complete: bool) -> None:
        """The link is there, and brings what was wanted when it was dialled."""
        self._followed.update(followed)
        self.outgoing.open(link)
        self._is_up = True
        self._since, self._failure = self._time(), None
        if self._attempted.is_set():
            self._gaps += 1
            self._tell_gap(not (is_complete := is_complete and not self.inbox.has_overflowed))
            logger.warning(
                "the link to %s is there; subscribers%s get a gap, since events of other processes "
                "may be missing",
                self._broker.address,
                " of channels without history" if is_complete else "",
                extra=about("link_back", broker=self._broker.address),
            )
        self._directory.renew(self._now())
        self.inbox.release()
        self._meet()
        self._attempted.set()
        self._tell_progress()

    def _lose(self, exc: Exception) -> None:
        while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]
        if self._is_up:
            self._losses += 1
            self._since = self._time()
        self._failure = str(exc) or type(exc).__name__
        self._log.error(
            "there is no link to %s: %s; no other process gets what is published here, until it is "
            "back",
            self._broker.address,
            escaped(self._failure, 300),
            exc=None if isinstance(exc, BrokerUnavailable | OSError) else exc,
            extra=about("link_lost", broker=self._broker.address),
        )
        self.outgoing.close(BrokerUnavailable(f"there is no link to {self._broker.address}: {exc}"))

    async def _use(self, link: Link) -> None:
        async with create_task_group() as tasks:
            tasks.start_soon(self.outgoing.run, link)
            tasks.start_soon(self._follow, link)
            tasks.start_soon(self._probe, link)
            if self._storage is not None:
                tasks.start_soon(self._storage.run, link)

    # --- interest ----------------------------------------------------------------------------

    def gained(self, patterns: Sequence[Pattern]) -> Awaitable[None] | None:
        """Want patterns; see :meth:`.InterestProvider.gained`."""
        feeds = [feed_of(pattern) for pattern in patterns]
        for feed in feeds:
            self._cover.add(feed)
        if all(is_within(feed, self._followed) for feed in feeds):
            return None
        self._changed.set()
        return self._reached(feeds)

    def lost(self, patterns: Sequence[Pattern]) -> None:
        """Want patterns no more."""
        for pattern in patterns:
            self._cover.discard(feed_of(pattern))
        self._changed.set()
        self._tell_progress()

    async def _reached(self, feeds: Sequence[Feed]) -> None:
        """Wait until the broker brings these feeds, or they are not wanted any more."""
        while not all(
            is_within(feed, self._followed) or not is_within(feed, self._cover.wanted)
            for feed in feeds
        ):
            await self._progress.wait()

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = Event()

    async def _follow(self, link: Link) -> None:
        """Bring the link to what is wanted, whenever that changes."""
        while True:
            self._changed = Event()
            new, old = self._cover.wanted - self._followed, self._followed - self._cover.wanted
            if any(map(is_prefix, new | old)):
                self.inbox.watch_copies()
            if new:
                await within(CALL_SECONDS, partial(link.follow, new))
                self._followed.update(new)
                self._tell_progress()
            elif old:
                # First: a pattern that comes to want one of them waits until it is followed again.
                self._followed.difference_update(old)
                if self._storage is not None:
                    self._storage.forget(old, self._followed)
                await within(CALL_SECONDS, partial(link.unfollow, old))
            elif self.inbox.is_watching:
                with move_on_after(_COPY_SECONDS) as scope:
                    await self._changed.wait()
                if scope.cancelled_caught:
                    self.inbox.expect_none()
            else:
                await self._changed.wait()

    def nodes(self) -> list[Node]:
        """Return the nodes that are there, as far as their beacons tell; this one is the first."""
        return self._directory.nodes(self._beacon(), self._time())

    async def _probe(self, link: Link) -> None:
        """Send a beacon, see it come back, and again; report what could not be read meanwhile.

        What was kept before the beacon was sent has come before it.
        """
        unreadable = self.inbox.unreadable
        while True:
            look = None if self._storage is None else self._storage.look
            confirm = None if look is None else await look(link, self._followed)
            self._echo, sent = Event(), current_time()
            self._send_beacon()
            with self._limit(CALL_SECONDS):
                await self._echo.wait()
            if not self._echo.is_set():
                raise BrokerUnavailable(
                    f"what this process sent did not come back within {CALL_SECONDS:g} s"
                )
            self._round_trip = current_time() - sent
            if confirm is not None:
                confirm()
            if self.inbox.unreadable > unreadable:
                unreadable = self.inbox.unreadable
                self._gaps += 1
                self._tell_gap(True)  # noqa: FBT003  # by position, as it is declared
            self._directory.expire(self._now())
            await self._pause(PROBE_SECONDS)

    def tell(self, item: Item) -> None:
        """Tell all nodes something; without a link it is lost."""
        self.outgoing.put(ALL_NODES, encode_item(item))

    def _send_beacon(self, *, is_leaving: bool = False) -> None:
        self._beacons += 1
        self.outgoing.put(ALL_NODES, encode_item(self._beacon(is_leaving=is_leaving)))

    def _beacon(self, *, is_leaving: bool = False) -> Beacon:
        connections = self._count_connections()
        return own_beacon(self._beacons, connections, self._started_at, is_leaving=is_leaving)

    def _echoed(self, beacon: Beacon) -> None:
        """A beacon of this node has come back."""
        if beacon.number == self._beacons:
            self._echo.set()

    def _carry_out(self, item: Item, node: str) -> bool:
        if not isinstance(item, Beacon):
            return self._obey(item, node)
        if self._directory.note(node, item, self._now()):
            self._send_beacon()  # So that a node which has just come knows this one at once.
        return True

    def statistics(self) -> LinkStatistics:
        """Return the counters of the link."""
        return LinkStatistics(
            address=self._broker.address,
            is_up=self._is_up,
            seconds=self._time() - self._since,
            failure=self._failure,
            node=self._node,
            nodes=len(self.nodes()),
            feeds=len(self._followed),
            losses=self._losses,
            gaps=self._gaps,
            round_trip=self._round_trip,
            lag=self.inbox.lag,
            turns=self.outgoing.turns,
            sent=self.outgoing.items,
            unconfirmed=self.outgoing.unconfirmed,
            received=self.inbox.items,
            envelopes=self.inbox.envelopes,
            copies=self.inbox.copies,
            late=self.inbox.late,
            unreadable=self.inbox.unreadable,
        )

    def feeds(self, most: int) -> list[Feed]:
        """Return the feeds that are followed, in order, but not more than ``most``."""
        return nsmallest(most, self._followed)
