"""The services that a running bus shares with its connections."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, runtime_checkable

from anyio import current_time, move_on_after

from .._application import Overdue, name_of
from .._log import BoundedLog, about
from ..core.actions import AskPermission, Brought, Outcome
from ..core.channels import parse_channel
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import MAX_GAP_CHANNELS, ChannelLoss, Gap, GapCause, Position
from ..core.heartbeat import Heartbeat, HeartbeatPolicy
from ..core.history import HistoryPage, HistoryRead, offset_of
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.loss import Loss, PlacedLoss
from ..core.member import Member
from ..core.messages import Publication, Since
from ..core.patterns import Pattern, parse_pattern
from ..core.permissions import Identity
from ..core.recovery import MAX_REPLAY
from ..endpoint import Endpoint
from .archive import Archive
from .attendance import Attendances
from .commands import Commands
from .connection import ConnectionDriver
from .flusher import Flusher
from .hooks import HookLists
from .interest import Interest, InterestProvider
from .post import Post
from .rates import Rates
from .recoveries import Recoveries, StandIn
from .registry import Registry
from .relay import Relay
from .runner import Runner
from .statistics import BusStatistics
from .storage import Storage
from .streams import StreamCare

__all__ = [
    "SWEEP_SECONDS",
    "Authorize",
    "InProcess",
    "Lossy",
    "Services",
    "new_heartbeat",
    "new_id",
    "read_clocks",
]

SWEEP_SECONDS: Final = 1.0
"""Seconds between two sweeps over all connections."""

_OVERDUE: Final = "%s was cancelled after %g s; the answer is no"
_NO_BOOL: Final = "%s returned %s, not a bool; the answer is no"
_RESTORE_SECONDS: Final = 1.0
"""How long a slow reader waits for what it has lost; then it gets a gap."""

logger: Final = logging.getLogger("wsbus.services")

Authorize: TypeAlias = Callable[[Identity, str, str], Awaitable[bool] | bool]
"""``(identity, action, pattern) → bool``, ``def`` or ``async def``; the action is ``subscribe``,
``publish`` or ``command``. It is called after the grants, which must allow it, too. A ``def`` runs
on the event loop and must not block."""


def read_clocks() -> Instant:
    """Return the moment on both clocks."""
    return Instant(time.monotonic(), time.time())


def new_id() -> str:
    """Return an id for a connection: 64 bits of chance, in hexadecimal."""
    return secrets.token_hex(8)


def new_heartbeat(policy: HeartbeatPolicy, now: float) -> Heartbeat:
    """Start a heartbeat at a monotonic second, with chance for its first ping."""
    chance = random.random()  # noqa: S311  # it spreads pings, and is no secret
    return Heartbeat(policy, now, 1 - chance / 2 if policy.spreads else 1.0)


def _always(_: Pattern) -> bool:
    return True


@runtime_checkable
class Lossy(Protocol):
    """A receiver inside the process."""

    def lose(self, gap: Gap) -> None:
        """Note that publications are missing."""
        ...


class InProcess(Lossy, Protocol):
    """A subscription inside the process, which ends with the bus."""

    @property
    def pattern(self) -> Pattern:
        """The pattern that it subscribes to."""
        ...

    def close(self) -> None:
        """End it. Idempotent."""
        ...


@dataclass(slots=True, kw_only=True)
class Services:
    """The services that a running bus shares with its connections."""

    hub: Hub
    flusher: Flusher
    rates: Rates
    post: Post
    attendances: Attendances
    runner: Runner
    clock: Callable[[], Instant]
    new_id: Callable[[], str] = new_id
    new_heartbeat: Callable[[HeartbeatPolicy, float], Heartbeat] = new_heartbeat
    """Starts a heartbeat at a monotonic second, with chance for its first ping."""
    commands: Commands
    authorize: Authorize | None
    hooks: HookLists
    interest: Interest | None = None
    """The patterns wanted from other nodes; None: there are no other nodes."""
    relay: Relay | None = None
    """The way to other nodes; None: there are none."""
    storage: Storage | None = None
    """The history that the broker keeps; None: no family has any, or this process keeps it."""
    recoveries: Recoveries | None = None
    """Finds what subscriptions get; None: there are no other nodes."""
    stand_ins: set[StandIn] = field(default_factory=set)
    """Stand-ins for subscriptions whose past is being read."""
    streams: StreamCare | None = None
    """Cares for streams; None: no family has any."""
    archive: Archive | None = None
    """Keeps history in this process; None: no family has any, or a broker keeps it."""
    registry: Registry[ConnectionDriver] = field(default_factory=Registry)
    heartbeats: dict[Endpoint, HeartbeatPolicy] = field(default_factory=dict)
    """The heartbeats that were applied to their connections last."""
    messages_received: int = 0
    malformed: int = 0
    """Messages that a dialect did not understand."""
    subscriptions: set[InProcess] = field(default_factory=set)
    """Subscriptions inside the process."""
    unsaid: int = 0
    """Replies for which a dialect had no message."""
    log: BoundedLog = field(default_factory=lambda: BoundedLog(logger))
    """The log for failures of the application's functions."""

    @property
    def attaches(self) -> Callable[[Pattern], bool] | None:
        """Tells whether a pattern that is subscribed must be brought here; None: none must."""
        if self.interest is not None:
            return _always
        return None if self.archive is None else self.hub.families.keeps_any

    async def begin(
        self,
        member: Member,
        pattern: Pattern,
        since: Position | None,
        begin: Callable[[Brought], None],
    ) -> None:
        """Join a member of this process to a pattern, once that is brought here.

        Args:
            member: It is attached.
            pattern: What it subscribes to.
            since: The position where it goes on; None: here.
            begin: Takes what was published before.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
            PositionLost: ``begin`` says so.
        """
        start = {} if since is None else {pattern: Since(since, is_strict=True)}

        def act(brought: Brought) -> None:
            if not brought.outcomes[0].is_reached:
                raise BrokerUnavailable(
                    f"the broker cannot bring what other processes publish on {pattern.text!r} now"
                )
            begin(brought)
            self.hub.join(member, pattern)

        brought = self.bring((pattern,), start)
        if brought is not None:
            act(brought)
        elif self.recoveries is not None:
            await self.recoveries.bring((pattern,), start, act)

    async def restore(self, member: Member, loss: Loss) -> Sequence[Publication]:
        """Return the publications that a slow reader has lost, if all of them are kept; else none.

        They are at most :data:`.MAX_REPLAY`, and fit into the member's queue.
        """
        channels = loss.channels
        if channels is None or not isinstance(loss, PlacedLoss) or not loss.is_kept:
            return ()
        if loss.lost > MAX_REPLAY:
            return ()
        if member.grants is not None and not all(map(member.grants.may_receive, channels)):
            return ()
        reads = [
            HistoryRead(
                parse_pattern(channel),
                Position(span.first.epoch, span.first.offset - 1),
                Position(span.last.epoch, span.last.offset + 1),
                channels[channel] + 1,
            )
            for channel, span in loss.spans.items()
        ]
        pages: Sequence[HistoryPage] | None = None
        with move_on_after(_RESTORE_SECONDS):
            pages = await self._read_all(reads)
        if pages is None:
            return ()
        found = [publication for page in pages for publication in page.publications]
        is_all = [len(page.publications) for page in pages] == [channels[c] for c in loss.spans]
        if not is_all or sum([each.size for each in found]) > member.queue.max_bytes:
            return ()
        return sorted(found, key=offset_of)

    async def _read_all(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage] | None:
        """Return the answers; None: the broker cannot be reached."""
        try:
            return await self.read(reads)
        except BrokerUnavailable:
            return None

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        """Read history; the answers stand in the order of the questions.

        Raises:
            BrokerUnavailable: The broker that keeps it cannot be reached.
            UsageError: No family keeps history.
        """
        if self.storage is not None:
            return await self.storage.read(reads)
        if self.archive is None:
            raise UsageError("no channel has history: bus.family(…, history=History())")
        return [*map(self.archive.read, reads)]

    def bring(self, patterns: Sequence[Pattern], since: Mapping[Pattern, Since]) -> Brought | None:
        """Return what patterns get that are subscribed now; None: :attr:`recoveries` finds it."""
        if self.streams is not None:
            self.streams.expect(patterns)
        if self.archive is not None:
            return self.archive.bring(patterns, since)
        if self.recoveries is None:
            return Brought([Outcome()] * len(patterns))
        return self.recoveries.bring_now(patterns, since)

    def follow(self, provider: InterestProvider) -> None:
        """Have a provider bring what is wanted here; to be called before any client connects."""
        interest = self.hub.interest = self.interest = Interest(provider, self.runner, self.clock)
        self.recoveries = Recoveries(self.hub, interest, self.storage, self.stand_ins)
        self.runner.submit(interest.run)

    def tell_gap(self, *, of_live: bool = True, of_kept: bool = True) -> None:
        """Tell subscribers that publications of other nodes may be missing.

        Only those get it that such a channel may concern. Where it concerns a part of what they
        subscribe to, and that part is known by name, the gap names the channels.

        Args:
            of_live: Publications on channels without history.
            of_kept: Publications on channels with history.
        """
        keeps_any, keeps_all = self.hub.families.keeps_any, self.hub.families.keeps_all
        known: dict[Pattern, bool] = {}

        def gap_of(patterns: Collection[Pattern]) -> Gap | None:
            for pattern in patterns:
                if pattern not in known:
                    known[pattern] = (of_live and not keeps_all(pattern)) or (
                        of_kept and keeps_any(pattern)
                    )
            concerned = [pattern for pattern in patterns if known[pattern]]
            return _gap(concerned, is_part=len(concerned) < len(patterns))

        now = self.clock()
        for driver in self.registry.connected():
            gap = gap_of(driver.session.patterns)
            if gap is not None:
                driver.send(gap, now)
        for subscription in self.subscriptions:
            gap = gap_of((subscription.pattern,))
            if gap is not None:
                subscription.lose(gap)
        if of_kept:
            for stand_in in self.stand_ins:
                stand_in.lose(Gap(None, GapCause.BROKER))

    def tell_loss(self, channel: str | None, position: Position | None) -> None:
        """Tell the subscribers of a channel that publications are missing.

        Args:
            channel: The channel; None: all channels with history.
            position: The position of the newest one that is missing.
        """
        if channel is None:
            self.tell_gap(of_live=False)
            return
        gap = Gap(None, GapCause.BROKER, {channel: ChannelLoss(None, position)})
        now = self.clock()
        receivers = [m.outlet.receiver for m in self.hub.matching(parse_channel(channel))]
        for driver in self.registry.present(receivers):
            driver.send(gap, now)
        for receiver in receivers:
            if isinstance(receiver, Lossy):
                receiver.lose(gap)

    def sweep_seconds(self) -> float:
        """Return how long the sweeper may sleep: a second, or a third of the quickest heartbeat."""
        policies = [endpoint.heartbeat for endpoint in self.registry.endpoints()]
        beats = [s for policy in policies for s in (policy.interval, policy.timeout) if s]
        return max(min([SWEEP_SECONDS, *(beat / 3 for beat in beats)]), 0.05)

    async def judge(self, question: AskPermission, seconds: float, context: Context) -> list[bool]:
        """Ask ``authorize``; a failure, or a call that takes longer, is a no.

        Await it in a call of the runner.
        """
        assert self.authorize is not None  # Sessions ask only if there is an `authorize`.
        name, action = name_of(self.authorize), question.action
        extra = about("authorize_failed", function=name)
        until = current_time() + seconds
        allowed = [False] * len(question.names)
        for i, channel in enumerate(question.names):
            try:
                answer = await self.runner.ask(
                    until - current_time(),
                    context,
                    self.authorize,
                    question.identity,
                    action,
                    channel,
                )
            except Overdue:
                self.log.warning(_OVERDUE, name, seconds, extra=extra)
                break
            except Exception:
                self.log.exception("%s failed; the answer is no", name, extra=extra)
            else:
                allowed[i] = answer is True
                if answer is not True and answer is not False:
                    self.log.error(_NO_BOOL, name, type(answer).__qualname__, extra=extra)
        return allowed

    def statistics(self, *, is_running: bool) -> BusStatistics:
        """Add up the counters of everything that runs."""
        hub = self.hub.statistics()
        return BusStatistics(
            is_running=is_running,
            connections=len(self.registry),
            connections_ever=self.registry.ever,
            blocked=hub.blocked,
            patterns=hub.patterns,
            messages_received=self.messages_received,
            malformed=self.malformed,
            messages_sent=hub.sent + hub.controls,
            publications=hub.publications,
            matched=hub.matched,
            sent=hub.sent,
            dropped=hub.dropped,
            conflated=hub.conflated,
            regained=hub.regained,
            refused=hub.refused,
            discarded=hub.discarded,
            queued=hub.queued,
            queued_bytes=hub.queued_bytes,
            unsaid=self.unsaid,
            failures=self.flusher.failures,
            flushes=self.flusher.flushes,
            broker=None if self.relay is None else self.relay.statistics(),
        )


def _gap(patterns: Sequence[Pattern], *, is_part: bool) -> Gap | None:
    """Return the gap of a subscriber whose patterns may have lost something; None: none has."""
    if not patterns:
        return None
    is_named = is_part and all(pattern.is_exact for pattern in patterns)
    if not is_named or len(patterns) > MAX_GAP_CHANNELS:
        return Gap(None, GapCause.BROKER)
    return Gap(None, GapCause.BROKER, {p.text: ChannelLoss(None) for p in patterns})
