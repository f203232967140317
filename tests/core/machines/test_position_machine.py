"""Positions: what one client is given of a channel, against what a broker numbered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsbus.client.dialects import dialect
from wsbus.core.channels import Channel, parse_channel
from wsbus.core.events import Gap, GapCause, Position
from wsbus.core.families import Families
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.member import Member, Standing
from wsbus.core.messages import Publication
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.overflow import Overflow
from wsbus.core.patterns import parse_pattern
from wsbus.core.queue import MessageQueue
from wsbus.protocols import protocol

CHANNELS: Final = [parse_channel(name) for name in ("a.x", "a.y", "b", "latest.x", "latest.y")]
NOW: Final = Instant(0.0, 0.0)
# Its replaced publications are no loss. What closes at the first loss leaves no hole to look at.
POLICIES: Final = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST]


class Nowhere(Outlet):
    """Nothing is written here but what the machine takes."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...


class Broker:
    """Numbers publications: one sequence for all channels of an epoch, as some brokers do."""

    def __init__(self) -> None:
        self.epoch = 0
        self.offset = 0
        self.given: dict[Channel, list[Position]] = {channel: [] for channel in CHANNELS}
        """The positions of each channel, in order."""

    def stamp(self, channel: Channel) -> Publication:
        self.offset += 1
        given = self.given[channel]
        previous = given[-1] if given else None
        given.append(Position(str(self.epoch), self.offset))
        return Publication(
            channel, "e", b"%d" % self.offset, 0.0, position=given[-1], previous=previous
        )


class Reader:
    """A client of ``wsbus.v1``, or a subscription inside the process, and what it was given."""

    def __init__(self, member: Member, joined: dict[Channel, int]) -> None:
        self.member: Final = member
        self.seen: Final = joined
        """How many publications of each channel it has passed, those before it joined included."""
        self.last: Final[dict[Channel, Position]] = {}
        self.told: Final = dict.fromkeys(CHANNELS, 0)
        """Losses that gaps named and that no hole has shown yet."""


class PositionMachine(RuleBasedStateMachine):
    """Publishes with positions to members that are written to, blocked and drained."""

    def __init__(self) -> None:
        super().__init__()
        families = Families()
        families.declare("latest.*", overflow=Overflow.CONFLATE)
        families.declare("b", overflow=Overflow.DROP_NEWEST)
        self.hub = Hub(families)
        self.broker = Broker()
        self.readers: list[Reader] = []

    @initialize(room=st.integers(1, 6))
    def start(self, room: int) -> None:
        self.room = room
        for n in range(4):
            self.join(n)

    @rule(n=st.integers(0, 3))
    def join(self, n: int) -> None:
        """Somebody comes late: what was published before is not for it."""
        if len(self.readers) >= 8:
            return
        spoken = protocol("wsbus.v1") if n % 2 else None
        member = Member(
            spoken, MessageQueue[Owed](self.room, 1 << 20), Nowhere(), overflow=POLICIES[n // 2]
        )
        self.hub.attach(member)
        self.hub.join(member, parse_pattern("*"))
        joined = {channel: len(given) for channel, given in self.broker.given.items()}
        self.readers.append(Reader(member, joined))

    @rule(channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=12))
    def publish(self, channels: list[Channel]) -> None:
        for channel in channels:
            self.hub.publish(self.broker.stamp(channel))

    @rule()
    def forget(self) -> None:
        """The broker lost its numbering, and begins another one."""
        self.broker.epoch += 1
        self.broker.offset = 0

    @rule(
        stuck=st.sets(st.sampled_from([1, 3, 5])),
        meanwhile=st.lists(st.sampled_from(CHANNELS), max_size=3),
    )
    def flush(self, stuck: set[int], meanwhile: list[Channel]) -> None:
        """Write the plan; the transports of ``stuck`` take nothing, and more is published."""
        refusing = {self.readers[n].member for n in stuck if n < len(self.readers)}
        readers = {reader.member: reader for reader in self.readers}
        plan = self.hub.take_plan()
        self.publish(meanwhile)
        for write in plan.writes:
            for member in write.members:
                if member.standing is not Standing.READY:
                    continue
                if member in refusing:
                    self.hub.block(member, write.owed)
                else:
                    self.hear(readers[member], [item.frame for item in write.owed])

    @rule(n=st.integers(0, 7), max_bytes=st.sampled_from([1, 100, 1 << 20]))
    def drain(self, n: int, max_bytes: int) -> None:
        """Take some of what waits, preceded by a gap if something is missing."""
        if n >= len(self.readers):
            return
        reader = self.readers[n]
        member = reader.member
        loss, owed = member.take(max_bytes)
        if member.protocol is None:
            if loss is not None:
                self.lose(reader, loss.gap(GapCause.BUFFER))
            for item in owed:
                assert item.publication is not None
                self.receive(reader, item.publication)
            return
        gap = None if loss is None else member.protocol.encode(loss.gap(GapCause.SERVER), NOW)
        self.hear(reader, [gap, *[item.frame for item in owed]])
        if member.standing is Standing.BLOCKED:
            self.hub.release(member)

    # --- what a client makes of it ---------------------------------------------------------------

    def hear(self, reader: Reader, frames: Iterable[Frame | None]) -> None:
        for frame in frames:
            if frame is None:
                continue
            for heard in dialect("wsbus.v1").decode(frame.text):
                if isinstance(heard, Gap):
                    self.lose(reader, heard)
                else:
                    assert isinstance(heard, Publication)
                    self.receive(reader, heard)

    def lose(self, reader: Reader, gap: Gap) -> None:
        """protocol.md: ``data.channels`` is what is missing, by channel."""
        assert gap.channels is not None
        assert gap.lost == sum(loss.lost or 0 for loss in gap.channels.values())
        for channel, loss in gap.channels.items():
            reader.told[parse_channel(channel)] += loss.lost or 0

    def receive(self, reader: Reader, publication: Publication) -> None:
        """protocol.md: ``offset`` is "greater than that of every earlier event of the channel".

        And ``previous`` is "the offset of the channel's event before this one".
        """
        channel, position = publication.channel, publication.position
        assert position is not None
        last = reader.last.get(channel)
        if last is not None and last.epoch == position.epoch:
            assert position.offset > last.offset
        given = self.broker.given[channel]
        at = given.index(position)
        hole = at - reader.seen[channel]
        assert hole >= 0
        if hole == 0 and last is not None and last.epoch == position.epoch:
            assert publication.previous == last, "no hole looks like one"
        if hole and last is not None and last.epoch == position.epoch:
            assert publication.previous != last, "a hole looks like none"
        reader.last[channel], reader.seen[channel] = position, at + 1
        self.explain(reader, channel, hole)

    def explain(self, reader: Reader, channel: Channel, hole: int) -> None:
        """A hole was told by a gap that named the channel, or lies in a conflating family."""
        if channel.startswith("latest."):
            reader.told[channel] = 0
            return
        assert hole <= reader.told[channel], "a hole that no gap told"
        reader.told[channel] -= hole

    @invariant()
    def who_owes_nothing_has_everything_or_was_told(self) -> None:
        for reader in self.readers:
            queue = reader.member.queue
            if self.hub.owed or not queue.is_empty or queue.lost:
                continue
            for channel, given in self.broker.given.items():
                if not channel.startswith("latest."):
                    missing = len(given) - reader.seen[channel]
                    assert missing == reader.told[channel]


TestPositionMachine = PositionMachine.TestCase
