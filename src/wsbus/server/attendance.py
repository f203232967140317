"""Presence in a running bus: notes which connections are on channels, and tells it.

Changes go out :data:`TELL_SECONDS` after the first of them, so that a storm of joins costs one
message for each channel and watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Final

from anyio import Event, sleep

from ..core.channels import Channel, parse_channel
from ..core.envelope import AttendanceAsked, Attended, Item
from ..core.errors import ErrorCode, InvalidChannel
from ..core.families import Families, Presence
from ..core.frame import Frame
from ..core.instant import Instant
from ..core.messages import GetPresence, PresenceChanged, PresenceResult, Refused
from ..core.patterns import Pattern
from ..core.permissions import Grants
from ..core.presence import MAX_NODES, Attendance, News, Occupant, PresenceChange
from ..core.protocol import WireProtocol
from .connection import ConnectionDriver
from .flusher import Flusher

__all__ = ["TELL_SECONDS", "Attendances"]

TELL_SECONDS: Final = 0.2
"""Seconds from the first change to its message."""

_ASK_SECONDS: Final = 1.0
"""Seconds between two questions to one node."""

_NONE: Final = "this channel has no presence"
_TOO_MANY: Final = "at most %d channels are watched by a connection"


class Attendances:
    """Keeps the presence of a bus.

    Args:
        node: This run of the bus.
        families: Those of the bus.
        flusher: Writes to watchers.
        clock: Reads both clocks.
    """

    def __init__(
        self,
        node: str,
        families: Families,
        flusher: Flusher,
        clock: Callable[[], Instant],
    ) -> None:
        self._node: Final = node
        self._families: Final = families
        self._flusher: Final = flusher
        self._clock: Final = clock
        self.send: Callable[[Item], object] | None = None
        """Tells other nodes; None: there are none."""
        self._attendance: Final = Attendance(node)
        self._watchers: Final[dict[str, dict[ConnectionDriver, None]]] = {}
        self._watched: Final[dict[ConnectionDriver, dict[str, None]]] = {}
        self._asked: Final[dict[str, float]] = {}
        self._is_wanted = False
        """Whether a node asks for all that is known of this one."""
        self._changed = Event()

    async def run(self) -> None:
        """Tell what changes, until cancelled."""
        while True:
            await self._changed.wait()
            await sleep(TELL_SECONDS)
            self.tell()

    def tell(self) -> None:
        """Tell what has changed."""
        self._changed = Event()
        changes, news = self._attendance.take()
        for change in changes:
            self._tell_watchers(change)
        if self._is_wanted:
            self._is_wanted = False
            news = self._attendance.whole()
        for each in news:
            self._say(Attended(each.number, each.channels, each.is_whole))

    # --- this node -------------------------------------------------------------------------------

    def join(self, driver: ConnectionDriver, pattern: Pattern) -> None:
        """Note that a connection has joined a pattern."""
        if pattern.is_exact and self._policy(pattern.text) is not None:
            subject = None if driver.identity is None else driver.identity.subject
            self._attendance.join(pattern.text, Occupant(driver.id, subject), driver)
            self._changed.set()

    def leave(self, driver: ConnectionDriver, patterns: Iterable[Pattern]) -> None:
        """Note that a connection has left patterns."""
        for pattern in patterns:
            if pattern.is_exact and self._policy(pattern.text) is not None:
                self._attendance.leave(pattern.text, driver.id, driver)
                self._changed.set()

    def drop(self, driver: ConnectionDriver, patterns: Iterable[Pattern]) -> None:
        """Note that a connection ends.

        Args:
            driver: The connection.
            patterns: All that it joined.
        """
        self.leave(driver, patterns)
        for channel in self._watched.pop(driver, ()):
            self._unwatch(driver, channel)

    def review(self, driver: ConnectionDriver, grants: Grants) -> None:
        """Have a connection watch only what its grants allow still."""
        for channel in [*self._watched.get(driver, ())]:
            if not grants.may_look(channel):
                self._end_watch(driver, channel)
                driver.send(PresenceChanged(channel, (), (), 0, is_watched=False))

    def look(self, driver: ConnectionDriver, channel: Channel, request: GetPresence) -> None:
        """Answer a request, and begin or end a watch."""
        policy = self._policy(channel)
        if policy is None:
            driver.send(Refused(ErrorCode.NO_PRESENCE, _NONE, request.ref))
            return
        watched = self._watched.get(driver, {})
        if request.watch and channel not in watched:
            most = driver.endpoint.limits.max_subscriptions
            if len(watched) >= most:
                why = _TOO_MANY % most
                driver.send(Refused(ErrorCode.TOO_MANY_SUBSCRIPTIONS, why, request.ref))
                return
            self._watched.setdefault(driver, {})[channel] = None
            self._watchers.setdefault(channel, {})[driver] = None
        elif request.watch is False and channel in watched:
            self._end_watch(driver, channel)
        there = self._attendance.told(channel)
        is_watched = channel in self._watched.get(driver, ())
        members = tuple(there[: policy.max_members])
        driver.send(PresenceResult(channel, members, len(there), is_watched, request.ref))

    def shows(self, channel: str) -> bool:
        """Tell whether a channel says which connections are there."""
        return self._policy(channel) is not None

    def _is_shown(self, name: str) -> bool:
        """Tell the same of what another node says to be a channel."""
        try:
            return self.shows(parse_channel(name))
        except InvalidChannel:
            return False

    def present(self, channel: str) -> list[Occupant]:
        """Return which connections are on a channel now."""
        return self._attendance.present(channel)

    # --- other nodes -----------------------------------------------------------------------------

    def hear(self, item: Attended | AttendanceAsked, node: str) -> None:
        """Take what another node says."""
        if isinstance(item, AttendanceAsked):
            if item.node in {"", self._node}:
                self._is_wanted = True
                self._changed.set()
            return
        # Families differ while a service is updated, and a broker may bring anything.
        channels = tuple([each for each in item.channels if self._is_shown(each.channel)])
        news = News(item.number, channels, item.is_whole)
        if not self._attendance.hear(node, news):
            self._ask(node)
        if self._attendance.has_changed:
            self._changed.set()

    def meet(self) -> None:
        """Ask all nodes for their connections, and tell them: news may have been missed."""
        if not self._families.show_presence:
            return
        self._is_wanted = True
        self._changed.set()
        self._say(AttendanceAsked(""))

    def forget(self, node: str) -> None:
        """Note that a node is gone."""
        self._attendance.forget(node)
        self._asked.pop(node, None)
        if self._attendance.has_changed:
            self._changed.set()

    def expire(self, known: Container[str]) -> None:
        """Forget the nodes that speak of their connections, and are not among the known ones."""
        self._attendance.expire(known)
        if self._attendance.has_changed:
            self._changed.set()
        latest = self._clock().monotonic - _ASK_SECONDS
        for node in [node for node, asked in self._asked.items() if asked <= latest]:
            del self._asked[node]

    def _ask(self, node: str) -> None:
        now = self._clock().monotonic
        if node not in self._asked and len(self._asked) >= MAX_NODES:
            return
        if now - self._asked.get(node, -_ASK_SECONDS) >= _ASK_SECONDS:
            self._asked[node] = now
            self._say(AttendanceAsked(node))

    def _say(self, item: Item) -> None:
        if self.send is not None:
            self.send(item)

    # --- watchers --------------------------------------------------------------------------------

    def _policy(self, channel: str) -> Presence | None:
        if not self._families.show_presence:
            return None
        family = self._families.find(channel)
        return None if family is None else family.presence

    def _tell_watchers(self, change: PresenceChange) -> None:
        watchers = self._watchers.get(change.channel)
        policy = self._policy(change.channel)
        if not watchers or policy is None:
            return
        joined, left = change.joined, change.left
        if change.total > policy.max_members:
            joined = left = ()
        notice = PresenceChanged(change.channel, joined, left, change.total)
        frames: dict[WireProtocol, Frame | None] = {}
        for driver in watchers:
            protocol = driver.member.protocol
            assert protocol is not None  # It is a connection.
            if protocol not in frames:
                frames[protocol] = protocol.encode(notice, self._clock())
            frame = frames[protocol]
            if frame is not None:
                self._flusher.send(driver.member, frame)

    def _end_watch(self, driver: ConnectionDriver, channel: str) -> None:
        watched = self._watched[driver]
        del watched[channel]
        if not watched:
            del self._watched[driver]
        self._unwatch(driver, channel)

    def _unwatch(self, driver: ConnectionDriver, channel: str) -> None:
        watchers = self._watchers[channel]
        del watchers[driver]
        if not watchers:
            del self._watchers[channel]
