"""Local fan-out, pure: which members get a publication, and what to write to each of them.

``publish`` touches no member. It appends to the *log* of the turn, and :meth:`Hub.take_plan`,
called once per turn of the event loop, turns the log into few writes: members that owe the same
frames share one, so that the frames are joined once for all of them. Replies go through the same
log, which makes its order the order on the wire. Only a member that is not READY has its own queue
filled, at once and within its bounds: :mod:`wsbus.core.member` says why, and how it gets back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple, Protocol, TypeAlias
from weakref import WeakValueDictionary

from .channels import Channel
from .crowd import Crowd
from .families import Families
from .forms import Form
from .frame import Frame
from .member import Duty, Input, Member, Standing
from .messages import Publication, Receipt
from .outlet import Owed
from .overflow import Offer
from .patterns import Pattern
from .permissions import Grants
from .plan import Audience, Entry, Group, Plan, plan_writes
from .protocol import WireProtocol
from .replays import Replays
from .subscriptions import SubscriptionTable

__all__ = ["Hub", "HubStatistics", "InterestWatch"]


class HubStatistics(NamedTuple):
    """A snapshot; the sums are over all members that ever were.

    ``matched == sent + dropped + refused + discarded + queued`` while the log is empty.
    """

    members: int
    blocked: int
    """Members to which nothing can be written now: LENT or BLOCKED ones."""
    patterns: int
    publications: int
    matched: int
    sent: int
    dropped: int
    refused: int
    discarded: int
    queued: int
    queued_bytes: int
    controls: int
    """Control frames sent."""
    conflated: int
    """Of those dropped, the ones that a newer one with the same key replaced."""
    regained: int
    """Of those sent, the ones that were dropped at first, and then read from a store."""


class InterestWatch(Protocol):
    """Hears which patterns have members, in the order of the changes."""

    def gained(self, pattern: Pattern) -> None:
        """The pattern has its first member."""
        ...

    def lost(self, pattern: Pattern) -> None:
        """The pattern has no member any more."""
        ...


Tap: TypeAlias = Callable[[Publication, int], None]

# Attributes of enum classes are slow to look up in Python 3.11.
_ACCEPTED: Final = Offer.ACCEPTED
_OVERFLOW: Final = Offer.OVERFLOW
_READY: Final = Standing.READY
_OWED: Final = Input.OWED
_LENT: Final = Input.LENT
_DRAINED: Final = Input.DRAINED

_NOBODY: Final[frozenset[Member]] = frozenset()


class Hub:
    """Members, what they subscribe to, and what they owe."""

    def __init__(self, families: Families | None = None, *, cache_size: int = 16_384) -> None:
        self.families: Final = Families() if families is None else families
        """The policies of channels."""
        self.table: Final = SubscriptionTable[Member, Audience](
            self._arrange, cache_size, edit=Audience.edited, narrow=self._narrow
        )
        """Members by pattern."""
        self.replays: Final = Replays(self.families)
        """Publications of the past, encoded."""
        self.taps: Final[list[Tap]] = []
        """Called with each publication and the number of its receivers. Normally empty."""
        self.interest: InterestWatch | None = None
        """Hears of the first and the last member of each pattern. None: nobody wants to know."""
        self._members: Final[set[Member]] = set()
        self.waiting: Final[set[Member]] = set()
        """Members to which nothing can be written now: those that are LENT or BLOCKED."""
        self._queued: Final[set[Member]] = set()
        # Weak: each is as old as the audiences that it is part of, and holds on to its members.
        self._groups: Final[WeakValueDictionary[tuple[Member, ...], Group]] = WeakValueDictionary()
        self._restricted: Final[set[Member]] = set()
        """Members that have denies."""
        self._log: list[Entry | tuple[Member, Owed]] = []
        self._woken: list[Member] = []
        self._overflowed: list[Member] = []
        self.owed_bytes: int = 0
        """Bytes in the log, counted once per publication."""
        self._publications = self._matched = 0
        # Sent, dropped, refused, discarded, controls, conflated, regained of members that are gone.
        self._past = [0, 0, 0, 0, 0, 0, 0]

    # --- members -----------------------------------------------------------------------------

    def attach(self, member: Member) -> None:
        """Take a member in, once."""
        member.step(Input.ATTACHED)
        self._members.add(member)
        if member.standing is Standing.QUEUED:
            self._queued.add(member)

    def detach(self, member: Member, patterns: Iterable[Pattern]) -> None:
        """Let it go; what it still owes is discarded. ``patterns``: all that it joined."""
        self.leave_all(member, patterns)
        if member not in self._members:
            return
        for members in (self._members, self._restricted, self.waiting, self._queued):
            members.discard(member)
        if member.step(Input.DETACHED) is Duty.COUNT:
            self.discard(self._logged(member))
        member.clear()
        queue = member.queue
        sent, controls = member.message_count, member.control_count
        lost = (queue.dropped, queue.refused, queue.discarded)
        counts = (sent, *lost, controls, queue.conflated, queue.regained)
        self._past = [past + now for past, now in zip(self._past, counts, strict=True)]

    def leave_all(self, member: Member, patterns: Iterable[Pattern]) -> None:
        """Stop publications to it; what it owes it still gets."""
        for pattern in patterns:
            self.leave(member, pattern)

    def join(self, member: Member, pattern: Pattern) -> None:
        """From now on the member gets what matches. Idempotent."""
        if self.table.add(pattern, member) and self.interest is not None:
            self.interest.gained(pattern)

    def leave(self, member: Member, pattern: Pattern) -> None:
        """From now on the member does not get what matches only this pattern. Idempotent."""
        if self.table.discard(pattern, member) and self.interest is not None:
            self.interest.lost(pattern)

    def restrict(self, member: Member, grants: Grants) -> None:
        """From now on the denies of ``grants`` are filtered out at delivery."""
        self._filter(member, grants if grants.deny_subscribe else None)

    def restrict_as(self, member: Member, other: Member) -> None:
        """From now on what is filtered out for the other member is for this one, too."""
        self._filter(member, other.grants)

    def _filter(self, member: Member, grants: Grants | None) -> None:
        had = member.grants is not None
        member.grants = grants
        if member.grants is not None:
            self._restricted.add(member)
        else:
            self._restricted.discard(member)
        if had or member.grants is not None:
            self.table.touch(member)

    def _arrange(self, members: Collection[Member]) -> Audience:
        parts: dict[tuple[WireProtocol | None, Form], list[Member]] = {}
        for member in members:
            parts.setdefault((member.protocol, member.form), []).append(member)
        return Audience(tuple([self._intern(tuple(part)) for part in parts.values()]))

    def _narrow(self, channel: Channel, audience: Audience) -> Audience:
        if self._restricted:
            restricted = audience.among(self._restricted)
            denied = [m for m in restricted if m.grants and not m.grants.may_receive(channel)]
            if denied:
                # In one order, so that channels denied to the same members share their groups.
                audience = audience.edited((), sorted(denied, key=id))
        family = self.families.find(channel)
        return audience if family is None else audience.under(family)

    def _intern(self, members: tuple[Member, ...]) -> Group:
        # Channels with the same subscribers share one group, so that a turn in which all of them
        # were published is still one write per member (see plan_writes).
        if len(members) < 2:
            return Group(Crowd(members))
        group = self._groups.get(members)
        if group is None:
            group = self._groups[members] = Group(Crowd(members))
        return group

    def matching(self, channel: Channel) -> Audience:
        """Return the members that match the channel, in no particular order; none is looked at."""
        return self.table.match(channel)

    # --- in ----------------------------------------------------------------------------------

    def publish(self, publication: Publication, excluded: frozenset[Member] = _NOBODY) -> Receipt:
        """Owe a publication to everyone whose patterns match.

        Cost: independent of the number of members while none of them is blocked.
        """
        return self._owe(self.table.match(publication.channel), publication, excluded)

    def publish_to(
        self,
        members: Collection[Member],
        publication: Publication,
        excluded: frozenset[Member] = _NOBODY,
    ) -> Receipt:
        """Owe a publication to these members, whatever they subscribe to."""
        present = [member for member in members if member in self._members]
        audience = self._narrow(publication.channel, self._arrange(present))
        return self._owe(audience, publication, excluded)

    def _owe(
        self, audience: Audience, publication: Publication, excluded: frozenset[Member]
    ) -> Receipt:
        self._publications += 1
        matched = audience.count
        if excluded:
            matched -= len(audience.among(excluded))
        for tap in self.taps:
            tap(publication, matched)
        if not matched:
            return Receipt(0, 0, publication.position)
        entry = Entry(audience, publication, excluded)
        for group in audience.groups:
            entry.owed_in(group.protocol)  # Here, so that a dialect that fails fails its publisher.
        self._matched += matched
        self._log.append(entry)
        self.owed_bytes += len(publication.data)
        accepted = matched
        if self.waiting:
            for member in audience.among(self.waiting).difference(excluded):
                accepted -= not self._enqueue(member, entry.owed_in(member.protocol))
        if audience.queued is not None:
            for member in audience.queued.members:
                if member not in excluded:
                    accepted -= not self._enqueue(member, entry.owed_in(None))
        return Receipt(matched, accepted, publication.position)

    def replay(
        self, member: Member, publications: Iterable[Publication], *, is_latest: bool = False
    ) -> None:
        """Owe to one member what was published before; its denies are the caller's business."""
        owed, protocol = self.replays.owed, member.protocol
        for publication in publications:
            self._matched += 1
            self.pass_on(member, owed(publication, protocol, is_latest=is_latest))

    def send(self, member: Member, frame: Frame) -> None:
        """Owe a control frame to one member; it keeps its place among the publications."""
        if member.standing is _READY:  # As in pass_on: this is a hot path, too.
            self._log.append((member, Owed(frame, None)))
            self.owed_bytes += frame.size
        else:
            self._enqueue(member, Owed(frame, None))

    def pass_on(self, member: Member, owed: Owed) -> None:
        """Owe to one member what is counted already."""
        if member.standing is _READY:
            self._log.append((member, owed))
            self.owed_bytes += owed.size
        else:
            self._enqueue(member, owed)

    def _enqueue(self, member: Member, owed: Owed) -> bool:
        duty = member.step(_OWED)
        if duty is Duty.NOTHING:
            return False
        if duty is Duty.WAKE and member.queue.is_empty:
            self._woken.append(member)
        offer = member.enqueue(owed)
        if offer is _OVERFLOW and member.step(Input.OVERFLOWED) is Duty.CLOSE:
            self._overflowed.append(member)
        return offer is _ACCEPTED

    # --- out ---------------------------------------------------------------------------------

    @property
    def owed(self) -> int:
        """Entries in the log. When 0, no ready member has unsent frames."""
        return len(self._log)

    @property
    def is_due(self) -> bool:
        """Whether a flush has anything to do."""
        return bool(self._log or self._woken or self._overflowed)

    def take_plan(self) -> Plan:
        """Empty the log into writes; the caller carries all of them out before anything else."""
        log, self._log, self.owed_bytes = self._log, [], 0
        woken, self._woken = self._woken, []
        overflowed, self._overflowed = self._overflowed, []
        return Plan(plan_writes(log), woken, overflowed)

    @property
    def has_unread(self) -> bool:
        """Whether a receiver inside the process has something to read."""
        return any(not member.queue.is_empty for member in self._queued)

    def block(self, member: Member, owed: Iterable[Owed]) -> None:
        """A write was refused: the member is BLOCKED, and what it owes goes into its queue.

        Args:
            member: READY until now.
            owed: What the plan that is being carried out has for it; what was logged since
                follows.
        """
        logged = list(self._logged(member))
        member.step(Input.REFUSED)
        self.waiting.add(member)
        for item in (*owed, *logged):
            self._enqueue(member, item)

    def lend(self, members: Collection[Member]) -> None:
        """READY members are LENT: a task sends to each what the plan has for it."""
        for member in members:
            logged = list(self._logged(member)) if self._log else ()
            member.step(_LENT)
            for item in logged:
                self._enqueue(member, item)
        self.waiting.update(members)

    def _logged(self, member: Member) -> Iterator[Owed]:
        for entry in self._log:
            if not isinstance(entry, Entry):
                if entry[0] is member:
                    yield entry[1]
            elif entry.is_for(member):
                yield entry.owed_in(member.protocol)

    def discard(self, owed: Iterable[Owed]) -> None:
        """Count what could not be written to a member, because its connection failed."""
        self._past[3] += sum(item.publication is not None for item in owed)

    def release(self, member: Member) -> bool:
        """Make a member READY again, if it owes nothing; return whether it is not waiting any more.

        What is in the log was put into its queue already, and must not be written a second time:
        so the log must be empty, too.
        """
        if self._log or not member.queue.is_empty:
            return False
        member.step(_DRAINED)
        self.waiting.discard(member)
        return True

    def statistics(self) -> HubStatistics:
        """Count; costs a walk over the members."""
        sent, dropped, refused, discarded, controls, conflated, regained = self._past
        queued = queued_bytes = 0
        for member in self._members:
            queue = member.queue
            sent += member.message_count
            controls += member.control_count
            dropped += queue.dropped
            refused += queue.refused
            discarded += queue.discarded
            conflated += queue.conflated
            regained += queue.regained
            queued += len(queue)
            queued_bytes += queue.bytes
        return HubStatistics(
            members=len(self._members),
            blocked=len(self.waiting),
            patterns=len(self.table),
            publications=self._publications,
            matched=self._matched,
            sent=sent,
            dropped=dropped,
            refused=refused,
            discarded=discarded,
            queued=queued,
            queued_bytes=queued_bytes,
            controls=controls,
            conflated=conflated,
            regained=regained,
        )
