from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.machines.naive_queue import Item, NaiveQueue
from wsbus.core.channels import Channel, parse_channel
from wsbus.core.families import Families
from wsbus.core.forms import BYTES, FRAMES, Compression, Deflate, Form
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.member import Duty, Input, Member, Standing
from wsbus.core.messages import Publication, Receipt, Request, ServerMessage
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.overflow import Offer, Overflow
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants
from wsbus.core.plan import frames
from wsbus.core.protocol import WireProtocol
from wsbus.core.queue import MessageQueue

CHANNELS: Final = [parse_channel(name) for name in ("a", "b", "a.x", "a.y")]
PATTERNS: Final = [parse_pattern(text) for text in ("a", "b", "a.x", "*", "a.*", "a.+", "+.x")]
FAMILIES: Final = ["a", "a.+", "+.x", "*"]
FORMS: Final[list[Form]] = [BYTES, FRAMES, Deflate(Compression(minimum=0))]
"""The most specific first."""
MANY: Final = [parse_channel(f"m.{n}") for n in range(17)]
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


class Nowhere(Outlet):
    """Where members go: the machine writes for the flusher."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...


class Model:
    """What one member must get, by what was done to it and nobody else.

    The reference page ("Gaps") says what it gets if it reads slowly: "Publications that the client
    does not read in time wait in a queue, and if that is full, the overflow policy decides".
    """

    def __init__(
        self, member: Member, dialect: Dialect | None, max_messages: int, max_bytes: int
    ) -> None:
        self.member = member
        self.dialect = dialect
        self.is_local = dialect is None
        self.standing = "QUEUED" if dialect is None else "READY"
        self.patterns: dict[Pattern, None] = {}
        self.denies: list[Pattern] = []
        self.queue = NaiveQueue(max_messages, max_bytes)
        self.pending: list[tuple[Item, Overflow | None]] = []
        """What it owes by the log alone."""
        self.logged: list[bytes] = []
        """All in the log that names it, owed or in its queue already."""
        self.order: list[bytes] = []
        """All that it was ever to get, in that order."""
        self.got: list[bytes] = []
        self.told = 0
        """How many its gaps said are missing."""
        self.written = 0
        self.discarded = self.forgotten = 0

    @property
    def is_gone(self) -> bool:
        return self.standing == "GONE"

    @property
    def is_waiting(self) -> bool:
        return self.standing in {"LENT", "BLOCKED"}

    def gets(self, channel: Channel) -> bool:
        return not any(deny.matches(channel) for deny in self.denies)

    def wants(self, channel: Channel) -> bool:
        wanted = any(pattern.matches(channel) for pattern in self.patterns)
        return not self.is_gone and wanted and self.gets(channel)

    def say(self, data: bytes) -> bytes:
        return data if self.dialect is None else self.dialect.say(data)

    def offer(self, item: Item, policy: Overflow | None) -> Offer:
        if policy is not None:
            return self.queue.offer(item, policy)
        self.queue.put(item)
        return Offer.ACCEPTED

    def publications(self) -> int:
        return sum(not item.is_control for item, _ in self.pending)


class HubMachine(RuleBasedStateMachine):
    """Does to a hub what drivers do, and to each member's model what should come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.families = Families()
        self.hub = Hub(self.families, cache_size=4)
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

    @initialize(
        is_small=st.booleans(),
        policies=st.dictionaries(st.sampled_from(FAMILIES), st.none() | st.sampled_from(Overflow)),
    )
    def start(self, *, is_small: bool, policies: dict[str, Overflow | None]) -> None:
        """With ample room everything arrives; with little the policies show."""
        self.policies = policies
        for pattern, overflow in policies.items():
            self.families.declare(pattern, overflow=overflow)
        if is_small:
            self.bounds = (3, 60)
        self.shared = MessageQueue[Owed](*self.bounds)
        for n in range(4):
            self.add(n % 2, form=FORMS[n % 3], shares_queue=n > 0)
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
        speaks=st.integers(0, 1) | st.none(),
        form=st.sampled_from(FORMS),
        shares_queue=st.booleans(),
    )
    def add(self, speaks: int | None, *, form: Form, shares_queue: bool) -> None:
        dialect = None if speaks is None else self.dialects[speaks]
        member = Member(
            dialect,
            self.shared if shares_queue else MessageQueue(*self.bounds),
            Nowhere(),
            overflow=list(Overflow)[len(self.models) % 4],
            form=form,
            shares_queue=shares_queue,
        )
        self.hub.attach(member)
        self.models.append(Model(member, dialect, *self.bounds))

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
            model.standing = "GONE"
            self.is_settled = False
            model.discarded = model.publications()
            model.forgotten += model.queue.lost
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
        key=st.sampled_from(["k", None]),
        excluded=st.just(set[int]()) | st.sets(st.integers(0, 7)),
    )
    def publish(self, channel: Channel, pad: int, key: str | None, excluded: set[int]) -> None:
        publication = Publication(channel, "e", self.label(pad), 0.0, key)
        outsiders = self.some(excluded)
        receivers = [m for m in self.models if m.wants(channel) and m not in outsiders]
        accepted = self.owe(receivers, publication)
        receipt = self.hub.publish(publication, frozenset(m.member for m in outsiders))

        assert receipt == Receipt(len(receivers), accepted)

    @rule(channel=st.sampled_from(CHANNELS), excluded=st.sets(st.integers(0, 3)))
    def publish_and_flush(self, channel: Channel, excluded: set[int]) -> None:
        """Most turns hold little."""
        if self.hub.owed:
            self.flush(set())
        self.publish(channel, 0, None, excluded)
        self.flush(set())

    @rule(channel=st.sampled_from(CHANNELS), chosen=st.sets(st.integers(0, 7)))
    def publish_to(self, channel: Channel, chosen: set[int]) -> None:
        publication = Publication(channel, "e", self.label(), 0.0)
        receivers = [m for m in self.some(chosen) if not m.is_gone and m.gets(channel)]
        accepted = self.owe(receivers, publication)
        receipt = self.hub.publish_to([m.member for m in self.some(chosen)], publication)

        assert receipt == Receipt(len(receivers), accepted)

    @precondition(lambda self: self.bounds[0] < 1000)
    @rule(twice=st.booleans())
    def publish_on_many(self, *, twice: bool) -> None:
        """On more channels than a gap names."""
        for channel in MANY + MANY * twice:
            self.publish(channel, 0, "k", set())

    def owe(self, receivers: list[Model], publication: Publication) -> int:
        self.matched += len(receivers)
        refused = 0
        for model in receivers:
            policy = self.policy(publication.channel) or model.member.overflow
            # "It counts": its frame, or its data where no frame is needed.
            payload = model.say(publication.data)
            key = publication.conflation_key if policy is Overflow.CONFLATE else None
            item = Item(len(model.order), len(payload), False, key, publication.channel, payload)
            model.order.append(payload)
            if model.standing == "READY":
                model.pending.append((item, policy))
            else:
                refused += self.queue(model, item, policy) is not Offer.ACCEPTED
            if not model.is_local:
                model.logged.append(payload)
        return len(receivers) - refused

    def policy(self, channel: Channel) -> Overflow | None:
        """Say what the most specific family says: those of FAMILIES stand in that order."""
        for pattern in FAMILIES:
            if pattern in self.policies and parse_pattern(pattern).matches(channel):
                return self.policies[pattern]
        return None

    def queue(self, model: Model, item: Item, policy: Overflow | None) -> Offer:
        was_empty = not model.queue.entries
        offer = model.offer(item, policy)
        if was_empty and model.is_local:
            self.due_woken.append(model.member)
        if offer is Offer.OVERFLOW:
            self.due_overflowed.append(model.member)
        return offer

    def move(self, model: Model, standing: str) -> None:
        """It cannot be written to any more: what it owes waits in its queue."""
        model.standing = standing
        for item, policy in model.pending:
            self.queue(model, item, policy)
        model.pending.clear()

    @rule(index=st.integers(0, 7))
    def send(self, index: int) -> None:
        model = self.at(index)
        if model.is_local:
            return
        payload = self.label()
        item = Item(len(model.order), len(payload), is_control=True, payload=payload)
        self.hub.send(model.member, Frame(payload))
        if model.is_gone:
            return
        model.order.append(payload)
        if model.standing == "READY":
            model.pending.append((item, None))
            model.logged.append(payload)
        else:
            self.queue(model, item, None)

    # --- out ---------------------------------------------------------------------------------

    @rule(stuck=st.just(set[int]()) | st.sets(st.integers(0, 7)))
    def flush(self, stuck: set[int]) -> None:
        """Write the plan; the transports of ``stuck`` take nothing."""
        blocking = [model for model in self.some(stuck) if not model.is_gone]
        by_member = {model.member: model for model in self.models}
        # Interned or not: who owes the same shares a write, and nobody else does.
        kinds = {
            (m.dialect and m.dialect.name, m.member.form, tuple(m.logged))
            for m in self.models
            if m.logged
        }
        plan = self.hub.take_plan()

        assert len(plan.writes) == len(kinds)
        written = [member for write in plan.writes for member in write.members]
        assert len(written) == len(set(written)), "a member is written to twice in a turn"
        assert {id(m) for m in written} == {id(m.member) for m in self.models if m.logged}
        for write in plan.writes:
            payloads = [frame.payload for frame in frames(write.owed)]
            for member in write.members:
                model = by_member[member]
                assert payloads == model.logged
                if member.standing is not Standing.READY:
                    continue
                assert payloads == [item.payload for item, _ in model.pending]
                if model in blocking and write.form.writes_bytes:
                    self.hub.block(member, write.owed)
                    self.move(model, "BLOCKED")
                    continue
                if not write.form.writes_bytes:
                    self.hub.lend([member])
                    model.standing = "LENT"
                member.count_lent(model.publications(), 0)
                model.got += payloads
                model.written += model.publications()
                model.pending.clear()
        for model in self.models:
            assert model.is_gone or model.is_waiting or model.pending == [] or model.logged
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
        model.forgotten += model.queue.lost
        model.queue.clear()
        model.member.clear()

    @rule(index=st.integers(0, 7), is_lent=st.booleans())
    def block(self, index: int, *, is_lent: bool) -> None:
        """It may be blocked in the middle of a turn, too: what is in the log counts."""
        model = self.at(index)
        if model.standing != "READY":
            return
        if is_lent:
            self.hub.lend([model.member])
        else:
            self.hub.block(model.member, ())
        self.move(model, "LENT" if is_lent else "BLOCKED")

    @rule(index=st.integers(0, 7))
    def fail(self, index: int) -> None:
        """A failed write changes nothing: the member's connection learns of it, and detaches it."""
        model = self.at(index)
        if not model.is_local:
            duty = model.member.step(Input.FAILED)
            assert duty is (Duty.NOTHING if model.is_gone else Duty.REPORT)

    @rule(index=st.integers(0, 7), max_bytes=st.integers(1, 200))
    def drain(self, index: int, max_bytes: int) -> None:
        """What comes out of its queue is what the page says, gaps included."""
        model = self.at(index)
        loss, owed = model.member.take(max_bytes)
        told, items = model.queue.take(max_bytes)
        if model.is_local:
            assert frames(owed) == []
            got = [each.publication.data for each in owed if each.publication]
        else:
            got = [frame.payload for frame in frames(owed)]
        assert (loss, got) == (told, [item.payload for item in items])
        model.told += 0 if loss is None else loss.lost
        model.got += got

    @rule(index=st.integers(0, 7))
    def release(self, index: int) -> None:
        """It is ready again when it owes nothing; what is in the log is flushed before."""
        model = self.at(index)
        if not model.is_waiting:
            return
        if model.standing == "LENT" and not self.hub.release(model.member):
            assert model.member.step(Input.BEHIND) is Duty.DRAIN
            model.standing = "BLOCKED"
        while model.queue.entries:
            self.drain(index, 1000)
        if self.hub.owed:
            assert model.standing == "BLOCKED"
            assert not self.hub.release(model.member)
            self.flush(set())
        if model.standing == "BLOCKED":
            assert self.hub.release(model.member) is (not model.queue.entries)
        if not model.queue.entries:
            model.standing = "READY"

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
        assert self.hub.waiting == {model.member for model in self.models if model.is_waiting}
        assert self.hub.has_unread == any(
            model.standing == "QUEUED" and model.queue.entries for model in self.models
        )
        for model in self.models:
            assert model.member.standing.name == model.standing
            assert len(model.member.queue) == len(model.queue.publications)
            if model.standing == "READY":
                assert model.member.queue.is_empty

    @invariant()
    def what_arrives_is_in_order_and_once(self) -> None:
        for model in self.models:
            rest = iter(model.order)
            assert all(payload in rest for payload in model.got)
            queue = model.queue
            if not model.is_gone:
                q = model.member.queue.statistics()
                waiting = len(model.pending) + q.queued + q.control_queued
                lost = q.dropped + q.refused + q.discarded + q.control_discarded
                assert len(model.got) + waiting + lost == len(model.order)
            # What is missing was told, waits to be told, or went with what was discarded.
            assert len(queue.lost_numbers) == model.told + queue.lost + model.forgotten
            if self.bounds[0] == 1000:  # Ample: nothing is lost but by intent.
                assert not queue.lost_numbers

    @invariant()
    def every_publication_is_encoded_once_a_dialect(self) -> None:
        for dialect in self.dialects:
            assert all(times == 1 for times in dialect.encoded.values())

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        s = self.hub.statistics()
        queues = [model.queue for model in self.models]
        owed = sum(model.publications() for model in self.models)

        assert s.matched == self.matched
        assert s.matched == s.sent + owed + s.queued + s.dropped + s.refused + s.discarded
        assert s.sent == sum(m.written for m in self.models) + sum(q.sent for q in queues)
        assert s.conflated == sum(q.conflated for q in queues)
        lost = sum(len(q.lost_numbers) for q in queues)
        assert s.dropped - s.conflated + s.refused == lost
        assert s.queued == sum(len(q.publications) for q in queues)
        assert s.queued_bytes == sum(item.size for q in queues for item in q.publications)
        assert s.blocked == sum(model.is_waiting for model in self.models)
        assert s.members == sum(not model.is_gone for model in self.models)
        assert s.patterns == len({p for model in self.models for p in model.patterns})

    @invariant()
    def gone_members_are_not_kept(self) -> None:
        if not self.hub.owed and self.is_settled:
            for model in self.models:
                kept = any(model.member in members for members in self.hub._groups)
                assert not (model.is_gone and kept)


TestHubMachine = HubMachine.TestCase
