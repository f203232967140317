from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Final

import pytest

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.families import Families
from wsbus.core.forms import BYTES, FRAMES, Form
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.member import Member, Standing
from wsbus.core.messages import Publication, Receipt, Request, ServerMessage
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.overflow import Overflow
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants
from wsbus.core.plan import Plan, frames
from wsbus.core.protocol import WireProtocol
from wsbus.core.queue import MessageQueue

A: Final = parse_channel("a")
B: Final = parse_channel("b")


class Dialect(WireProtocol):
    """Says the data as it is, and counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoded = Counter[bytes]()

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        return ()

    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        return None

    def encode_publication(self, publication: Publication) -> Frame:
        if publication.data == b"poison":
            raise ValueError("poison")
        self.encoded[publication.data] += 1
        return Frame(publication.data)


ONE: Final = Dialect("one")


class Nowhere(Outlet):
    """Where members go to whom nothing is written here."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...


def publication(text: str, channel: Channel = A) -> Publication:
    return Publication(channel, "e", text.encode(), 0.0)


def enter(
    hub: Hub,
    *patterns: str,
    dialect: Dialect | None = ONE,
    form: Form = BYTES,
    is_blocked: bool = False,
    room: int = 1000,
    overflow: Overflow = Overflow.DROP_OLDEST,
) -> Member:
    """Attach a member that has joined these patterns."""
    queue = MessageQueue[Owed](room)
    member = Member(dialect, queue, Nowhere(), overflow=overflow, form=form)
    hub.attach(member)
    if is_blocked:
        hub.block(member, ())
    for pattern in patterns:
        hub.join(member, parse_pattern(pattern))
    return member


def written(plan: Plan, member: Member) -> list[str]:
    """Return what a plan has for one member."""
    writes = [write for write in plan.writes if member in write.members]
    return [frame.text for write in writes for frame in frames(write.owed)]


def queued(member: Member) -> list[str]:
    return [frame.text for frame in frames(member.take(10_000).items)]


def read(member: Member) -> list[str]:
    """Read what a receiver inside the process gets: publications without frames."""
    items = member.take(10_000).items
    assert all(item.frame is None for item in items)
    return [item.publication.data.decode() for item in items if item.publication]


# --- whom it is for ------------------------------------------------------------------------------


def test_a_publication_goes_to_those_whose_patterns_match() -> None:
    """Each once, however many of its patterns match; others get nothing."""
    hub = Hub()
    both, exact, other = enter(hub, "a", "*"), enter(hub, "a"), enter(hub, "b")

    assert hub.publish(publication("1")) == Receipt(2, 2)
    plan = hub.take_plan()
    assert [written(plan, m) for m in (both, exact, other)] == [["1"], ["1"], []]


def test_nobody_costs_nothing() -> None:
    """A publication that nobody wants is not encoded, and nothing is due."""
    hub, dialect = Hub(), Dialect("x")
    enter(hub, "b", dialect=dialect)

    assert hub.publish(publication("1")) == Receipt(0, 0)
    assert not hub.is_due
    assert dialect.encoded == {}


def test_membership_counts_at_the_moment_of_publishing() -> None:
    """Who joins later does not get it; who leaves later does."""
    hub = Hub()
    leaver, joiner = enter(hub, "a"), enter(hub)
    hub.publish(publication("1"))
    hub.leave(leaver, parse_pattern("a"))
    hub.join(joiner, parse_pattern("a"))
    hub.publish(publication("2"))
    plan = hub.take_plan()

    assert (written(plan, leaver), written(plan, joiner)) == (["1"], ["2"])


def test_the_excluded_get_nothing() -> None:
    """Neither by the log nor by their queues, and they do not count; strangers do not matter."""
    hub, stranger = Hub(), Member(ONE, MessageQueue(), Nowhere())
    members = [enter(hub, "a", is_blocked=n == 3) for n in range(4)]
    excluded = frozenset([members[1], members[3], stranger])

    assert hub.publish(publication("1"), excluded) == Receipt(2, 2)
    plan = hub.take_plan()
    assert [written(plan, m) for m in members] == [["1"], [], ["1"], []]
    assert members[3].queue.is_empty
    assert hub.publish(publication("2"), frozenset(members)) == Receipt(0, 0)


def test_taps_are_told_how_many_get_it() -> None:
    """The excluded do not count."""
    hub = Hub()
    members = [enter(hub, "a") for _ in range(3)]
    told: list[int] = []
    hub.taps.append(lambda _, count: told.append(count))
    hub.publish(publication("1"), frozenset(members[:2]))
    hub.publish_to(members, publication("2"), frozenset(members[:1]))

    assert told == [1, 2]


def test_publish_to_goes_past_the_subscriptions() -> None:
    """The chosen get it whatever they joined; who is gone does not count."""
    hub = Hub()
    chosen, other, gone = enter(hub), enter(hub, "a"), enter(hub, "a")
    hub.detach(gone, [parse_pattern("a")])

    assert hub.publish_to([chosen, gone], publication("1")) == Receipt(1, 1)
    plan = hub.take_plan()
    assert (written(plan, chosen), written(plan, other)) == (["1"], [])


def test_narrower_denies_are_taken_out_at_delivery() -> None:
    """From the moment of ``restrict``, on cached channels too, until it is lifted."""
    hub = Hub()
    member, other = enter(hub, "*"), enter(hub, "*")
    hub.publish(publication("before"))
    hub.restrict(member, Grants.of(deny_subscribe=["a"]))
    assert hub.publish(publication("hidden")) == Receipt(1, 1)
    assert hub.publish_to([member], publication("hidden, too")) == Receipt(0, 0)
    hub.publish(publication("b", B))
    hub.restrict(member, Grants())
    hub.publish(publication("after"))
    plan = hub.take_plan()

    assert written(plan, member) == ["before", "b", "after"]
    assert written(plan, other) == ["before", "hidden", "b", "after"]


class Watch:
    """Notes first and last interest, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def gained(self, pattern: Pattern) -> None:
        self.log.append(f"+{pattern.text}")

    def lost(self, pattern: Pattern) -> None:
        self.log.append(f"-{pattern.text}")


def test_first_and_last_interest_is_reported_on_every_way_out() -> None:
    """Whoever looks after other nodes learns what this one is interested in."""
    hub, a, b = Hub(), parse_pattern("a"), parse_pattern("b.*")
    watch = hub.interest = Watch()
    one, two = enter(hub), enter(hub)
    hub.join(one, a)
    hub.join(two, a)
    hub.join(two, a)
    hub.join(two, b)
    assert watch.log == ["+a", "+b.*"]

    hub.leave(one, a)
    hub.leave(one, a)
    assert watch.log == ["+a", "+b.*"]
    hub.leave_all(two, [a])
    assert watch.log == ["+a", "+b.*", "-a"]
    hub.detach(two, [a, b])
    hub.detach(two, [a, b])
    assert watch.log == ["+a", "+b.*", "-a", "-b.*"]


# --- how it is written ---------------------------------------------------------------------------


def test_publishing_touches_no_member() -> None:
    """While nobody is blocked only the log grows."""
    hub = Hub()
    member = enter(hub, "a")
    hub.publish(publication("1"))
    hub.send(member, Frame(b"c"))

    assert (hub.owed, hub.owed_bytes, hub.is_due) == (2, 2, True)
    assert member.queue.is_empty
    hub.take_plan()
    assert (hub.owed, hub.owed_bytes, hub.is_due) == (0, 0, False)


def test_a_uniform_turn_is_one_write_a_group() -> None:
    """Several channels with the same audience, in any order: one write per dialect and form."""
    hub, two = Hub(), Dialect("two")
    members = [enter(hub, "*") for _ in range(3)]
    framed = [enter(hub, "*", form=FRAMES) for _ in range(2)]
    others = [enter(hub, "*", dialect=two) for _ in range(2)]
    for n in range(10):
        hub.publish(publication(str(n), A if n % 3 else B))
    plan = hub.take_plan()

    assert [list(write.members) for write in plan.writes] == [members, framed, others]
    assert all(written(plan, m) == list("0123456789") for m in members + framed + others)
    # Not put together member by member: the groups' own members.
    assert not hasattr(plan.writes[0].members, "append")


def test_channels_with_the_same_subscribers_share_their_groups() -> None:
    """Or a turn over several channels would be put together member by member."""
    hub = Hub()
    for _ in range(3):
        enter(hub, "a", "b")

    assert hub.table.match(A).groups == hub.table.match(B).groups


def test_channels_of_one_pattern_share_their_audience_with_denies_taken_out() -> None:
    """Many channels cost one audience; where a deny matches, one more for all that it matches."""
    hub = Hub()
    members = [enter(hub, "chat.*") for _ in range(5)]
    hub.restrict(members[2], Grants.of(deny_subscribe=["chat.secret.*"]))
    open_ = [hub.table.match(parse_channel(f"chat.{i}")) for i in range(10)]
    secret = [hub.table.match(parse_channel(f"chat.secret.{i}")) for i in range(10)]

    assert {id(audience) for audience in open_} == {id(open_[0])}
    assert set(open_[0]) == set(members)
    assert {audience.groups for audience in secret} == {secret[0].groups}
    assert set(secret[0]) == set(members) - {members[2]}


def test_new_denies_touch_only_what_the_member_has_joined() -> None:
    """Channels on which the member gets nothing are not searched again."""
    hub = Hub()
    enter(hub, "a")
    other = enter(hub, "b.*")
    hub.table.match(A)
    hub.table.match(parse_channel("b.c"))
    searches = hub.table.statistics().misses
    hub.restrict(other, Grants.of(deny_subscribe=["b.c"]))

    assert len(hub.table.match(A)) == 1
    assert hub.table.statistics().misses == searches
    assert list(hub.table.match(parse_channel("b.c"))) == []


def test_who_comes_or_goes_costs_no_new_arrangement() -> None:
    """A group is copied with one more or one less; channels that shared it share the new one."""
    hub = Hub()
    for _ in range(3):
        enter(hub, "a", "b")
    hub.table.match(A), hub.table.match(B)
    late = enter(hub, "a", "b")

    assert late in hub.table.match(A)
    assert hub.table.match(A).groups == hub.table.match(B).groups
    hub.detach(late, [parse_pattern("a"), parse_pattern("b")])
    assert late not in hub.table.match(A)
    assert hub.table.match(A).groups == hub.table.match(B).groups


@pytest.mark.parametrize("spoil", ["control", "exclude", "other audience"])
def test_who_owes_the_same_shares_a_write_in_every_turn(spoil: str) -> None:
    """One member that owes something else costs one more write, not one a member."""
    hub = Hub()
    members = [enter(hub, "a") for _ in range(20)]
    odd = members[7]
    hub.publish(publication("1"))
    if spoil == "control":
        hub.send(odd, Frame(b"c"))
    elif spoil == "exclude":
        hub.publish(publication("x"), frozenset([odd]))
    else:
        hub.join(odd, parse_pattern("b"))
        hub.publish(publication("x", B))
    hub.publish(publication("2"))
    plan = hub.take_plan()

    assert len(plan.writes) == 2
    expected = {
        "control": ["1", "c", "2"],
        "exclude": ["1", "2"],
        "other audience": ["1", "x", "2"],
    }
    assert written(plan, odd) == expected[spoil]
    assert sorted(len(write.members) for write in plan.writes) == [1, 19]


def test_encoding_is_once_a_publication_and_dialect() -> None:
    """However many members and groups there are, blocked or not, and however often planned."""
    hub, one, two = Hub(), Dialect("one"), Dialect("two")
    for n in range(12):
        dialect = one if n % 2 else two
        enter(hub, "*", dialect=dialect, form=BYTES if n > 6 else FRAMES, is_blocked=n > 9)
    hub.publish(publication("uniform"))
    hub.take_plan()
    hub.publish(publication("mixed"))
    hub.send(next(iter(hub._members)), Frame(b"c"))
    hub.take_plan()

    assert one.encoded == two.encoded == {b"uniform": 1, b"mixed": 1}


def test_a_dialect_that_fails_fails_its_publisher() -> None:
    """Nobody has got anything then, and the turn of others goes on."""
    hub = Hub()
    member = enter(hub, "*")
    blocked = enter(hub, "*", is_blocked=True)
    hub.publish(publication("1"))
    with pytest.raises(ValueError, match="poison"):
        hub.publish(publication("poison"))
    hub.publish(publication("2"))

    assert written(hub.take_plan(), member) == queued(blocked) == ["1", "2"]
    s = hub.statistics()
    assert s.matched == 4


def test_control_frames_keep_their_place() -> None:
    """Among the publications of a turn, and again in a queue."""
    hub = Hub()
    ready, blocked = enter(hub, "a"), enter(hub, "a", is_blocked=True)
    for step in ("1", "-", "2", "3", "-"):
        if step == "-":
            hub.send(ready, Frame(b"-"))
            hub.send(blocked, Frame(b"-"))
        else:
            hub.publish(publication(step))

    assert written(hub.take_plan(), ready) == ["1", "-", "2", "3", "-"]
    assert queued(blocked) == ["1", "-", "2", "3", "-"]


def test_groups_do_not_keep_members_that_are_gone() -> None:
    """A settled hub holds on to nobody: neither by interning nor by its cache."""
    hub, a = Hub(), parse_pattern("a")
    stays = enter(hub, "a")
    goes = Member(ONE, MessageQueue(), Nowhere())
    connection = weakref.ref(goes.outlet)
    hub.attach(goes)
    hub.join(goes, a)
    hub.publish(publication("1"))
    hub.publish_to([stays, goes], publication("2"))
    hub.take_plan()
    hub.detach(goes, [a])
    hub.table.settle()
    del goes
    gc.collect()

    assert connection() is None
    assert len(hub._groups) == 0


# --- blocked members -----------------------------------------------------------------------------


def test_what_could_not_be_written_waits_in_the_queue() -> None:
    """What the plan had goes first, what is published later behind it."""
    hub = Hub()
    member = enter(hub, "a")
    hub.publish(publication("1"))
    hub.send(member, Frame(b"c"))
    (write,) = hub.take_plan().writes
    hub.block(member, write.owed)
    with pytest.raises(AssertionError, match="BLOCKED"):  # Nothing is owed twice.
        hub.block(member, write.owed)
    assert hub.publish(publication("2")) == Receipt(1, 1)

    assert member.standing is Standing.BLOCKED
    assert queued(member) == ["1", "c", "2"]


def test_what_was_logged_while_a_plan_is_carried_out_waits_too() -> None:
    """It follows what the plan has, and is not written from the log as well."""
    hub = Hub()
    member = enter(hub, "a")
    hub.publish(publication("1"))
    (write,) = hub.take_plan().writes
    hub.publish(publication("2"))
    hub.send(member, Frame(b"c"))
    hub.send(enter(hub, "a"), Frame(b"another's"))
    hub.publish(publication("3"))
    hub.publish(publication("not for it"), frozenset([member]))
    hub.block(member, write.owed)

    assert queued(member) == ["1", "2", "c", "3"]
    carry_out(hub)
    assert member.sent == 0


def test_what_is_in_the_log_must_be_flushed_before_a_member_is_ready_again() -> None:
    """It is in its queue already: to write it from the log would be to write it twice."""
    hub = Hub()
    member = enter(hub, "a")
    hub.block(member, ())
    hub.publish(publication("1"))
    assert queued(member) == ["1"]
    assert not hub.release(member)
    assert hub.waiting == {member}
    hub.take_plan()
    assert hub.release(member)

    assert member.standing is Standing.READY
    assert hub.waiting == set()


def test_who_still_owes_is_not_ready() -> None:
    """A member with a queue would be overtaken by the log."""
    hub = Hub()
    member = enter(hub, "a")
    hub.block(member, ())
    hub.publish(publication("1"))
    hub.take_plan()

    assert not hub.release(member)
    assert member.standing is Standing.BLOCKED


def test_a_lent_member_queues_what_is_owed_meanwhile() -> None:
    """What is in the log already, too."""
    hub = Hub()
    members = [enter(hub, "a") for _ in range(3)]
    hub.lend(members[:2])
    hub.publish(publication("1"))
    hub.lend(members[2:])

    assert hub.waiting == set(members)
    assert [queued(member) for member in members] == [["1"]] * 3
    assert all(member.standing is Standing.LENT for member in members)


def test_a_receipt_tells_full_queues() -> None:
    """Matched counts everybody, accepted those for whom there was room."""
    hub = Hub()
    enter(hub, "a")
    for policy in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST):
        enter(hub, "a", is_blocked=True, room=1, overflow=policy)

    assert hub.publish(publication("1")) == Receipt(3, 3)
    assert hub.publish(publication("2")) == Receipt(3, 2)


def test_the_policy_of_the_family_wins() -> None:
    """The member's own is for channels without a family, and for families that leave it open."""
    families = Families()
    families.declare("a.*")
    families.declare("*", overflow=Overflow.DROP_OLDEST)
    hub = Hub(families)
    member = enter(hub, "*", is_blocked=True, room=1, overflow=Overflow.DROP_NEWEST)
    for text, channel in (("1", "a.x"), ("2", "a.x"), ("3", "b"), ("4", "a.x")):
        hub.publish(publication(text, parse_channel(channel)))

    assert queued(member) == ["3"]
    for text in ("5", "6"):
        hub.publish_to([member], publication(text, parse_channel("b")))
    assert queued(member) == ["6"]


def test_members_that_block_later_go_by_the_family_too() -> None:
    """What the plan, or the log, had for a member that blocks keeps the policy of its channel."""
    families = Families()
    families.declare("a", overflow=Overflow.CONFLATE)
    hub = Hub(families)
    member = enter(hub, "*", room=1, overflow=Overflow.CLOSE)
    hub.publish(publication("1"))
    [write] = hub.take_plan().writes
    hub.publish(publication("2"))
    hub.block(member, write.owed)

    assert queued(member) == ["2"]
    assert member.queue.conflated == 1


def test_channels_of_a_family_share_their_members() -> None:
    """A policy costs no copy of an audience, and a turn over many channels is one write."""
    families = Families()
    families.declare("a.+", overflow=Overflow.CONFLATE)
    hub = Hub(families)
    members = [enter(hub, "a.*") for _ in range(3)]
    for name in ("a.x", "a.y", "a.x.y"):
        hub.publish(publication(name, parse_channel(name)))

    [write] = hub.take_plan().writes
    assert list(write.members) == members
    policies = [item.family and item.family.overflow for item in write.owed]
    assert policies == [Overflow.CONFLATE, Overflow.CONFLATE, None]


def test_conflation_goes_by_channel_and_event_or_by_key() -> None:
    """The newest of a key stays, at the end."""
    hub = Hub()
    member = enter(hub, "*", is_blocked=True, overflow=Overflow.CONFLATE)
    for channel, key, data in ((A, None, b"1"), (B, None, b"2"), (A, None, b"3"), (B, "k", b"4")):
        hub.publish(Publication(channel, "e", data, 0.0, key))
    hub.publish(Publication(A, "e", b"5", 0.0, "k"))

    assert queued(member) == ["2", "3", "5"]


def test_overflow_is_told_with_the_next_plan() -> None:
    """A member that is to be closed as too slow is named, and nobody else."""
    hub = Hub()
    slow = enter(hub, "a", is_blocked=True, room=1, overflow=Overflow.CLOSE)
    enter(hub, "a", is_blocked=True, room=1)
    hub.publish(publication("1"))
    assert hub.take_plan().overflowed == []
    hub.publish(publication("2"))

    assert hub.take_plan().overflowed == [slow]
    assert hub.take_plan().overflowed == []


def test_an_empty_queue_that_got_something_wakes_its_reader_once() -> None:
    """Once until it was emptied; and nobody but the reader of a QUEUED member."""
    hub = Hub()
    member = enter(hub, "a", dialect=None)
    enter(hub, "a", is_blocked=True)
    hub.publish(publication("1"))
    hub.publish(publication("2"))
    assert hub.take_plan().woken == [member]
    hub.publish(publication("3"))
    assert hub.take_plan().woken == []
    assert read(member) == ["1", "2", "3"]
    hub.publish(publication("4"))

    assert hub.is_due
    assert hub.take_plan().woken == [member]


def test_members_without_a_protocol_are_never_written_to() -> None:
    """They take part in no write, need no frames, and are not counted as blocked."""
    hub, dialect = Hub(), Dialect("x")
    member = enter(hub, "a", dialect=None)
    assert hub.publish(publication("1")) == Receipt(1, 1)
    remote = enter(hub, "a", dialect=dialect)
    assert hub.publish(publication("2"), frozenset([member])) == Receipt(1, 1)
    assert hub.publish_to([member, remote], publication("3")) == Receipt(2, 2)
    plan = hub.take_plan()

    assert [list(write.members) for write in plan.writes] == [[remote]]
    assert written(plan, remote) == ["2", "3"]
    assert member.standing is Standing.QUEUED
    assert hub.statistics().blocked == 0
    unread = hub.has_unread
    assert unread
    assert read(member) == ["1", "3"]
    unread = hub.has_unread
    assert not unread
    hub.detach(member, [parse_pattern("a")])
    assert hub.publish(publication("4")) == Receipt(1, 1)


# --- the end, and the sums -----------------------------------------------------------------------


@pytest.mark.parametrize("is_blocked", [False, True])
def test_who_goes_discards_what_it_owes(*, is_blocked: bool) -> None:
    """It is counted once, whether it was owed by the log or by a queue, and no frame follows."""
    hub, a = Hub(), parse_pattern("a")
    member = enter(hub, "a")
    if is_blocked:
        hub.block(member, ())
    hub.publish(publication("1"))
    hub.send(member, Frame(b"c"))
    hub.publish(publication("2"))
    hub.detach(member, [a])
    hub.detach(member, [a])
    hub.send(member, Frame(b"late"))
    plan = hub.take_plan()
    s = hub.statistics()

    assert member.standing is Standing.GONE
    assert all(m.standing is Standing.GONE for write in plan.writes for m in write.members)
    assert (s.matched, s.discarded, s.queued, s.members, s.patterns) == (2, 2, 0, 0, 0)
    assert member.queue.is_empty
    hub.release(member)
    assert member.standing is Standing.GONE
    assert hub.publish(publication("3")) == Receipt(0, 0)


def test_what_failed_to_be_written_is_discarded() -> None:
    """Control frames do not count."""
    hub = Hub()
    member = enter(hub, "a")
    hub.publish(publication("1"))
    hub.send(member, Frame(b"c"))
    hub.discard(hub.take_plan().writes[0].owed)

    assert hub.statistics().discarded == 1


def carry_out(hub: Hub, stuck: Iterable[Member] = ()) -> None:
    """Do what a flusher does; the transports of ``stuck`` take nothing."""
    for write in hub.take_plan().writes:
        for member in write.members:
            if member in stuck:
                hub.block(member, write.owed)
            elif member.standing is Standing.READY:
                member.count_lent(len(write.owed), 0)


def test_the_sums_hold_while_members_come_and_go() -> None:
    """What matched was sent, dropped, refused or discarded, or is queued still."""
    hub = Hub()
    members = [enter(hub, "a", room=2, overflow=policy) for policy in Overflow for _ in range(2)]
    for n in range(30):
        hub.publish(publication(str(n)))
        carry_out(hub, members[::2] if n in {5, 20} else ())
        if n == 9:
            for member in hub.waiting.copy():
                while not member.queue.is_empty:  # A batch ends before what was lost.
                    member.queue.take(1000)
                hub.release(member)
        if n == 8:
            members[0].queue.clear()  # Closed as too slow, and not gone yet.
        if n == 25:
            hub.detach(members[2], [parse_pattern("a")])
        s = hub.statistics()
        assert s.matched == s.sent + s.dropped + s.refused + s.discarded + s.queued
    s = hub.statistics()
    assert s.publications == 30
    assert (s.members, s.blocked, s.patterns) == (7, 3, 1)
    assert min(s.sent, s.dropped, s.refused, s.discarded, s.queued) > 0
    assert s.queued_bytes == sum(member.queue.bytes for member in members)
