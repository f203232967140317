from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsbus.core import member as module
from wsbus.core.channels import parse_channel
from wsbus.core.frame import Frame
from wsbus.core.member import TABLE, Duty, Input, Member, Standing
from wsbus.core.messages import Publication
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.overflow import Offer
from wsbus.core.queue import MessageQueue
from wsbus.protocols.native import Native

SOURCE = Path(module.__file__).parents[1]
R, L, B, Q, G = Standing
NEVER = None

# Written from the theory of operation: where it may stand, and what then follows.
EXPECTED = {
    # "READY: in the hub's log of this turn, and nowhere else."
    (R, Input.ATTACHED): R,
    (R, Input.OWED): R,
    # "The transport takes nothing now. What is owed goes into the queue."
    (R, Input.REFUSED): B,
    # "A task sends, to a transport that can only be awaited"
    (R, Input.LENT): L,
    (L, Input.OWED): L,
    (B, Input.OWED): B,
    # "LENT → READY, if it owes nothing, LENT → BLOCKED if it does: it drains"
    (L, Input.DRAINED): R,
    (L, Input.BEHIND): B,
    (B, Input.DRAINED): R,
    # "always in the queue, which the receiver reads itself"
    (Q, Input.ATTACHED): Q,
    (Q, Input.OWED): Q,
    (L, Input.OVERFLOWED): L,
    (B, Input.OVERFLOWED): B,
    (Q, Input.OVERFLOWED): Q,
    # "A failed write changes no standing."
    (R, Input.FAILED): R,
    (L, Input.FAILED): L,
    (B, Input.FAILED): B,
    # "GONE: nowhere."
    **{(standing, Input.DETACHED): G for standing in Standing},
    # "What fails after the detach counts for nothing": so is whatever else a task reports.
    **{(G, late): G for late in (Input.OWED, Input.BEHIND, Input.DRAINED, Input.FAILED)},
}


class Nowhere(Outlet):
    """Where a member goes to whom nothing is written."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...


def standing(where: Standing, queue: MessageQueue[Owed] | None = None) -> Member:
    """Bring a member where it is to stand."""
    protocol = None if where is Q else Native()
    queue = MessageQueue[Owed]() if queue is None else queue
    member = Member(protocol, queue, Nowhere(), shares_queue=True)
    way = {R: [], Q: [], L: [Input.LENT], B: [Input.REFUSED], G: [Input.DETACHED]}
    for step in way[where]:
        member.step(step)
    assert member.standing is where
    return member


@pytest.mark.parametrize("what", Input, ids=lambda value: value.name)
@pytest.mark.parametrize("where", Standing, ids=lambda value: value.name)
def test_the_table_is_complete(where: Standing, what: Input) -> None:
    """Every pair of standing and input leads somewhere, or raises and changes nothing."""
    member = standing(where)
    expected = EXPECTED.get((where, what))
    if expected is None:
        assert TABLE[what][where] is NEVER
        with pytest.raises(AssertionError, match=f"{what.name} .* {where.name}"):
            member.step(what)
        assert member.standing is where
    else:
        duty = member.step(what)
        assert member.standing is expected
        assert TABLE[what][where] == (expected, duty)


def test_the_table_has_a_column_for_each_standing_and_a_row_for_each_input() -> None:
    """And each duty is some row's."""
    assert list(TABLE) == list(Input)
    assert {len(row) for row in TABLE.values()} == {len(Standing)}
    assert {step[1] for row in TABLE.values() for step in row if step} == set(Duty)


def test_what_leaves_a_member_waiting_always_leads_back() -> None:
    """From every standing but READY's own and GONE a member gets to READY, or stays QUEUED."""
    reached = {
        where: {step[0] for row in TABLE.values() if (step := row[where])} for where in Standing
    }

    assert reached == {R: {R, L, B, G}, L: {R, L, B, G}, B: {R, B, G}, Q: {Q, G}, G: {G}}
    assert standing(L).is_waiting
    assert standing(B).is_waiting
    assert not any(standing(where).is_waiting for where in (R, Q, G))


def test_nothing_bypasses_the_table() -> None:
    """Standing, queue and counters of a member are written in its own module only."""
    written = re.compile(r"\.(standing|sent|controls|queue|outlet) (\+)?= |\.(sent|controls) \+=")
    for path in SOURCE.rglob("*.py"):
        if path.name in {"member.py", "queue.py"}:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if written.search(line) and "self." not in line]
        assert found == [], path


def test_nobody_asks_what_kind_of_outlet_it_is() -> None:
    """What is to be known of an outlet, its interface says."""
    asks = re.compile(r"(?i)(isinstance|issubclass|getattr|hasattr|callable|type)\([^()]*outlet")
    for path in SOURCE.rglob("*.py"):
        assert not asks.search(path.read_text(encoding="utf-8")), path


def test_a_shared_queue_stays_as_it_is() -> None:
    """A member that needs a queue gets one of its own, with the same bounds."""
    shared = MessageQueue[Owed](2, 100)
    first, second = standing(B, shared), standing(Q, shared)
    publication = Publication(parse_channel("a"), "e", b"1", 0.0)
    assert first.enqueue(Owed(Frame(b"1"), publication)) is Offer.ACCEPTED
    assert second.enqueue(Owed(None, publication)) is Offer.ACCEPTED
    for member in (first, second, standing(R, shared)):
        member.clear()

    assert shared.statistics().offered == shared.statistics().discarded == 0
    assert first.queue is not shared is not second.queue
    assert first.queue.max_messages == shared.max_messages
    assert (len(first.queue), first.queue.discarded) == (0, 1)


def test_what_is_owed_has_the_size_of_what_it_is() -> None:
    """A frame's, or the data's where no frame is needed; a loss names the publication's channel."""
    publication = Publication(parse_channel("a"), "e", b"12345", 0.0)

    assert Owed(Frame(b"frame of it"), publication).size == 11
    assert Owed(None, publication).size == 5
    assert Owed(None, publication).channel == "a"
    assert Owed(Frame(b"reply"), None).channel is None
