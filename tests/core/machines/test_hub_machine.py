from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.messages import Publication, Request, ServerMessage
from wsbus.core.overflow import Offer, Overflow
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants
from wsbus.core.plan import Member, Standing
from wsbus.core.protocol import WireProtocol
from wsbus.core.queue import MessageQueue

CHANNELS: Final = [parse_channel(name) for name in ("a", "b", "a.x", "a.y")]
PATTERNS: Final = [parse_pattern(text) for text in ("a", "b", "a.x", "*", "a.*", "a.+", "+.x")]
DENIES: Final = [[], ["a.*"], ["a.x", "b"], ["*"]]


class Dialect(WireProtocol):
    """Puts its name before the data, and counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoded = Counter[bytes]()

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        return ()

    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        return None

    def encode_publication(self, publication: Publication) -> Frame:
        self.encoded[publication.data] += 1
        return Frame(self.say(publication.data))

    def say(self, data: bytes) -> bytes:
        return self.name.encode() + b":" + data


class Due(NamedTuple):
    """One frame that a member is to get."""

    payload: bytes
    policy: Overflow | None = None
    key: object = None
    is_control: bool = False

    @property
    def size(self) -> int:
        return len(self.payload)


class Model:
    """What one member must get, by what was done to it and nobody else."""

    def __init__(
        self, member: Member, dialect: Dialect, max_messages: int, max_bytes: int, *, is_local: bool
    ) -> None:
        self.member = member
        self.dialect = dialect
        self.is_local = is_local
        self.is_blocked = is_local
        self.is_gone = False
        self.patterns: dict[Pattern, None] = {}
        self.denies: list[Pattern] = []
        self.queue = MessageQueue[Due](max_messages, max_bytes)
        self.pending: list[Due] = []
        """What it owes by the log alone."""
        self.logged: list[bytes] = []
        """All in the log that names it, owed or in its queue already."""
        self.order: list[bytes] = []
        """All that it was ever to get, in that order."""
        self.got: list[bytes] = []
        self.written = 0
        self.discarded = 0

    def gets(self, channel: Channel) -> bool:
        return not any(deny.matches(channel) for deny in self.denies)

    def wants(self, channel: Channel) -> bool:
        wanted = any(pattern.matches(channel) for pattern in self.patterns)
        return not self.is_gone and wanted and self.gets(channel)

    def offer(self, due: Due) -> Offer:
        if due.policy is not None:
            return self.queue.offer(due, due.policy, due.key)
        self.queue.put(due)
        return Offer.ACCEPTED

    def publications(self) -> int:
        return sum(not due.is_control for due in self.pending)


class HubMachine(RuleBasedStateMachine):
    """Does to a hub what drivers do, and to each member's model what should come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(cache_size=4)
        self.hub.interest = self
        self.interest: set[Pattern] = set()
        self.dialects = [Dialect("one"), Dialect("two")]
        self.models: list[Model] = []
        self.bounds = (1000, 1 << 20)
        self.count = 0
        self.matched = 0
        self.due_woken: list[Member] = []
        self.due_overflowed: list[Member] = []
        self.is_settled = True

    @initialize(is_small=st.booleans())
    def start(self, *, is_small: bool) -> None:
        """With ample room everything arrives; with little the policies show."""
        if is_small:
            self.bounds = (3, 60)
        self.shared = MessageQueue[Frame](*self.bounds)
        for n in range(4):
            self.add(n % 2, writes_bytes=n < 3, is_local=False, shares_queue=n > 0)
            self.join(n, PATTERNS[3])

    def label(self, pad: int = 0) -> bytes:
        self.count += 1
        return f"{self.count:04}".encode() + b"." * pad

    def at(self, index: int) -> Model:
        return self.models[index % len(self.models)]

    def some(self, indices: set[int]) -> list[Model]:
        return [model for n, model in enumerate(self.models) if n in indices]

    # --- members -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.models) < 8)
    @rule(
        dialect=st.integers(0, 1),
        writes_bytes=st.booleans(),
        is_local=st.booleans(),
        shares_queue=st.booleans(),
    )
    def add(self, dialect: int, *, writes_bytes: bool, is_local: bool, shares_queue: bool) -> None:
        member = Member(
            self.dialects[dialect],
            self.shared if shares_queue else MessageQueue(*self.bounds),
            overflow=list(Overflow)[len(self.models) % 4],
            writes_bytes=writes_bytes,
            shares_queue=shares_queue,
        )
        self.hub.attach(member, is_blocked=is_local)
        self.models.append(Model(member, self.dialects[dialect], *self.bounds, is_local=is_local))

    @rule(index=st.integers(0, 7), pattern=st.sampled_from(PATTERNS))
    def join(self, index: int, pattern: Pattern) -> None:
        model = self.at(index)
        if not model.is_gone:
            model.patterns[pattern] = None
            self.hub.join(model.member, pattern)

    @rule(index=st.integers(0, 7), pattern=st.sampled_from(PATTERNS))
    def leave(self, index: int, pattern: Pattern) -> None:
        model = self.at(index)
        model.patterns.pop(pattern, None)
        self.hub.leave(model.member, pattern)

    @rule(index=st.integers(0, 7), denies=st.sampled_from(DENIES))
    def restrict(self, index: int, denies: list[str]) -> None:
        model = self.at(index)
        if not model.is_gone:
            model.denies = [parse_pattern(deny) for deny in denies]
            self.hub.restrict(model.member, Grants.of(deny_subscribe=denies))

    @rule(index=st.integers(0, 40))
    def detach(self, index: int) -> None:
        if index >= len(self.models):
            return  # Rarely: who is gone shows little.
        model = self.at(index)
        self.hub.detach(model.member, list(model.patterns))
        if not model.is_gone:
            model.is_gone = True
            self.is_settled = False
            model.is_blocked = False
            model.discarded = model.publications()
            model.patterns.clear()
            model.pending.clear()
            model.queue.clear()

    @rule()
    def settle(self) -> None:
        """Once a second the hub lets go of those who are gone."""
        self.hub.table.settle()
        self.is_settled = True

    # --- in ----------------------------------------------------------------------------------

    @rule(
        channel=st.sampled_from(CHANNELS),
        pad=st.integers(0, 30),
        policy=st.none() | st.sampled_from(Overflow),
        key=st.sampled_from(["k", None]),
        excluded=st.just(set[int]()) | st.sets(st.integers(0, 7)),
    )
    def publish(
        self, channel: Channel, pad: int, policy: Overflow | None, key: str, excluded: set[int]
    ) -> None:
        publication = Publication(channel, "e", self.label(pad), 0.0, policy, key)
        outsiders = self.some(excluded)
        receivers = [m for m in self.models if m.wants(channel) and m not in outsiders]
        accepted = self.owe(receivers, publication)
        receipt = self.hub.publish(publication, frozenset(m.member for m in outsiders))

        assert receipt == (len(receivers), accepted)

    @rule(channel=st.sampled_from(CHANNELS), excluded=st.sets(st.integers(0, 3)))
    def publish_and_flush(self, channel: Channel, excluded: set[int]) -> None:
        """Most turns hold little."""
        if self.hub.owed:
            self.flush(set())
        self.publish(channel, 0, None, None, excluded)
        self.flush(set())

    @rule(channel=st.sampled_from(CHANNELS), chosen=st.sets(st.integers(0, 7)))
    def publish_to(self, channel: Channel, chosen: set[int]) -> None:
        publication = Publication(channel, "e", self.label(), 0.0)
        receivers = [m for m in self.some(chosen) if not m.is_gone and m.gets(channel)]
        accepted = self.owe(receivers, publication)
        receipt = self.hub.publish_to([m.member for m in self.some(chosen)], publication)

        assert receipt == (len(receivers), accepted)

    def owe(self, receivers: list[Model], publication: Publication) -> int:
        self.matched += len(receivers)
        key = publication.conflation_key
        refused = 0
        for model in receivers:
            policy = publication.overflow or model.member.overflow
            due = Due(model.dialect.say(publication.data), policy, key)
            model.order.append(due.payload)
            model.logged.append(due.payload)
            if model.is_blocked:
                refused += self.queue(model, due) is not Offer.ACCEPTED
            else:
                model.pending.append(due)
        return len(receivers) - refused

    def queue(self, model: Model, due: Due) -> Offer:
        was_empty = model.queue.is_empty
        offer = model.offer(due)
        if was_empty:
            self.due_woken.append(model.member)
        if offer is Offer.OVERFLOW:
            self.due_overflowed.append(model.member)
        return offer

    @rule(index=st.integers(0, 7))
    def send(self, index: int) -> None:
        model = self.at(index)
        due = Due(self.label(), is_control=True)
        self.hub.send(model.member, Frame(due.payload))
        if model.is_gone:
            return
        model.order.append(due.payload)
        if model.is_blocked:
            self.queue(model, due)
        else:
            model.pending.append(due)
            model.logged.append(due.payload)

    # --- out ---------------------------------------------------------------------------------

    @rule(stuck=st.just(set[int]()) | st.sets(st.integers(0, 7)))
    def flush(self, stuck: set[int]) -> None:
        """Write the plan; the transports of ``stuck`` take nothing."""
        blocking = [model for model in self.some(stuck) if not model.is_gone]
        by_member = {model.member: model for model in self.models}
        # Interned or not: who owes the same shares a write, and nobody else does.
        kinds = {
            (m.dialect.name, m.member.writes_bytes, tuple(m.logged))
            for m in self.models
            if m.logged
        }
        plan = self.hub.take_plan()

        assert len(plan.writes) == len(kinds)
        written = [member for write in plan.writes for member in write.members]
        assert len(written) == len(set(written)), "a member is written to twice in a turn"
        assert {id(m) for m in written} == {id(m.member) for m in self.models if m.logged}
        for write in plan.writes:
            payloads = [owed.frame.payload for owed in write.owed]
            for member in write.members:
                model = by_member[member]
                assert payloads == model.logged
                if member.standing is not Standing.READY:
                    continue
                assert payloads == [due.payload for due in model.pending]
                if model in blocking:
                    self.hub.block(member, write.owed)
                    model.is_blocked = True
                    for due in model.pending:
                        self.queue(model, due)
                else:
                    model.got += payloads
                    member.sent += model.publications()
                    model.written += model.publications()
        for model in self.models:
            assert model.is_gone or model.is_blocked or model.pending == [] or model.logged
            model.pending.clear()
            model.logged.clear()
        assert self.hub.owed_bytes == 0
        self.check_told(plan.woken, plan.overflowed)

    def check_told(self, woken: list[Member], overflowed: list[Member]) -> None:
        """What blocking did to queues is told by the next plan."""
        again = self.hub.take_plan()
        assert again.writes == []
        # In any order: members are kept in sets.
        assert Counter(woken + again.woken) == Counter(self.due_woken)
        assert Counter(overflowed + again.overflowed) == Counter(self.due_overflowed)
        assert not self.hub.is_due
        self.due_woken, self.due_overflowed = [], []

    @rule(index=st.integers(0, 30))
    def clear(self, index: int) -> None:
        """Who is closed as too slow is not going to get what it owes."""
        if index >= len(self.models):
            return
        model = self.at(index)
        assert model.member.queue.clear() == model.queue.clear()

    @rule(index=st.integers(0, 7), is_lent=st.booleans())
    def block(self, index: int, is_lent: bool) -> None:
        """It may be blocked in the middle of a turn, too: what is in the log counts."""
        model = self.at(index)
        if model.is_gone or model.is_blocked:
            return
        if is_lent:
            self.hub.lend([model.member])
        else:
            self.hub.block(model.member, ())
        model.is_blocked = True
        for due in model.pending:
            self.queue(model, due)
        model.pending.clear()

    @rule(index=st.integers(0, 7), max_bytes=st.integers(1, 200))
    def drain(self, index: int, max_bytes: int) -> None:
        """What a blocked member is written is what its own queue would have held."""
        model = self.at(index)
        batch, expected = model.member.queue.take(max_bytes), model.queue.take(max_bytes)
        got = [frame.payload for frame in batch.items]
        assert (batch.lost, got) == (expected.lost, [due.payload for due in expected.items])
        model.got += got

    @rule(index=st.integers(0, 7))
    def unblock(self, index: int) -> None:
        """It is ready again when it owes nothing; what is in the log is flushed before."""
        model = self.at(index)
        if not model.is_blocked or model.is_local:
            return
        while not model.queue.is_empty:
            self.drain(index, 1000)
        if self.hub.owed:
            self.flush(set())
        assert self.hub.unblock(model.member) is model.queue.is_empty
        model.is_blocked = not model.queue.is_empty

    # --- what must hold ----------------------------------------------------------------------

    def gained(self, pattern: Pattern) -> None:
        assert pattern not in self.interest
        self.interest.add(pattern)

    def lost(self, pattern: Pattern) -> None:
        self.interest.remove(pattern)

    @invariant()
    def interest_is_what_members_have(self) -> None:
        assert self.interest == {pattern for model in self.models for pattern in model.patterns}

    @invariant()
    def what_is_shared_stays_empty(self) -> None:
        """Nobody's queue is another's."""
        shared = getattr(self, "shared", None)
        assert shared is None or shared.statistics().offered == shared.control_put == 0

    @invariant()
    def everybody_stands_as_it_should(self) -> None:
        blocked = {model.member for model in self.models if model.is_blocked}
        assert self.hub.blocked == blocked
        for model in self.models:
            standing = model.member.standing
            assert (standing is Standing.BLOCKED) == model.is_blocked
            assert (standing is Standing.GONE) == model.is_gone
            assert len(model.member.queue) == len(model.queue)
            if standing is Standing.READY:
                assert model.member.queue.is_empty

    @invariant()
    def what_arrives_is_in_order_and_once(self) -> None:
        for model in self.models:
            rest = iter(model.order)
            assert all(payload in rest for payload in model.got)
            if not model.is_gone:
                q = model.queue.statistics()
                waiting = len(model.pending) + q.queued + q.control_queued
                lost = q.dropped + q.refused + q.discarded + q.control_discarded
                assert len(model.got) + waiting + lost == len(model.order)
                if self.bounds[0] == 1000:  # Ample: nothing is lost but by intent.
                    assert q.dropped + q.refused == q.conflated

    @invariant()
    def every_publication_is_encoded_once_a_dialect(self) -> None:
        for dialect in self.dialects:
            assert all(times == 1 for times in dialect.encoded.values())

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        s = self.hub.statistics()
        queues = [model.queue.statistics() for model in self.models]
        owed = sum(model.publications() for model in self.models)

        assert s.matched == self.matched
        assert s.matched == s.sent + owed + s.queued + s.dropped + s.refused + s.discarded
        assert s.sent == sum(m.written for m in self.models) + sum(q.sent for q in queues)
        assert s.dropped == sum(q.dropped for q in queues)
        assert s.refused == sum(q.refused for q in queues)
        assert s.queued == sum(q.queued for q in queues)
        assert s.queued_bytes == sum(q.bytes for q in queues)
        assert s.members == sum(not model.is_gone for model in self.models)
        assert s.patterns == len({p for model in self.models for p in model.patterns})

    @invariant()
    def gone_members_are_not_kept(self) -> None:
        if not self.hub.owed and self.is_settled:
            for model in self.models:
                kept = any(model.member in members for members in self.hub._groups)
                assert not (model.is_gone and kept)


HubMachine.TestCase.settings = settings(
    max_examples=2 * settings().max_examples,
    stateful_step_count=2 * settings().stateful_step_count,
)
TestHubMachine = HubMachine.TestCase
