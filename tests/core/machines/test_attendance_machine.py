"""Three nodes that tell each other who is on their channels, over a line that loses."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsbus.core.presence import Attendance, News, Occupant

NODES = ("A", "B", "C")
CHANNELS = st.sampled_from(["chat.a", "chat.b"])
IDS = st.sampled_from(["1", "2", "3"])
NODE = st.sampled_from(NODES)


class Node:
    """A node, what its watchers know, and what is on its way to it."""

    def __init__(self, name: str) -> None:
        self.attendance = Attendance(name)
        self.known: dict[str, set[Occupant]] = {}
        self.line: deque[tuple[str, News]] = deque()
        self.joined: dict[tuple[str, str], object] = {}


class AttendanceMachine(RuleBasedStateMachine):
    """Law: what watchers were told, change after change, is what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {name: Node(name) for name in NODES}

    @rule(name=NODE, channel=CHANNELS, who=IDS, subject=st.sampled_from(["ada", None]))
    def join(self, name: str, channel: str, who: str, subject: str | None) -> None:
        """A connection joins, or takes over the place of one with the same id."""
        node = self.nodes[name]
        holder = node.joined[channel, who] = object()
        node.attendance.join(channel, Occupant(f"{name}{who}", subject), holder)

    @rule(name=NODE, channel=CHANNELS, who=IDS, is_late=st.booleans())
    def leave(self, name: str, channel: str, who: str, *, is_late: bool) -> None:
        """A connection leaves; one whose place was taken over changes nothing."""
        node = self.nodes[name]
        if is_late:
            node.attendance.leave(channel, f"{name}{who}", object())
        else:
            holder = node.joined.pop((channel, who), object())
            node.attendance.leave(channel, f"{name}{who}", holder)

    @rule(name=NODE)
    def tell(self, name: str) -> None:
        """Watchers learn of the changes, each connection once; so do the other nodes."""
        node = self.nodes[name]
        changes, news = node.attendance.take()
        for change in changes:
            known = node.known.setdefault(change.channel, set())
            assert known.issuperset(change.left)
            known.difference_update(change.left)
            assert known.isdisjoint(change.joined)
            known.update(change.joined)
            assert len(known) == change.total
            assert change.joined or change.left
            names = [each.id for each in change.joined]
            assert len(names) == len(set(names))
        self.send(name, news)

    def send(self, name: str, news: list[News]) -> None:
        for other, node in self.nodes.items():
            if other != name:
                node.line.extend((name, each) for each in news)

    @rule(name=NODE, is_lost=st.booleans(), again=st.booleans())
    def hear(self, name: str, *, is_lost: bool, again: bool) -> None:
        """News come in order, are lost, or come twice; who misses some asks for the whole."""
        node = self.nodes[name]
        if not node.line:
            return
        sender, news = node.line.popleft()
        if is_lost:
            return
        for _ in range(1 + (again and not news.is_whole)):
            if not node.attendance.hear(sender, news):
                self.send(sender, self.nodes[sender].attendance.whole())

    @rule(name=NODE, other=NODE)
    def lose(self, name: str, other: str) -> None:
        """A node is taken for gone, and asks when it is heard again."""
        if name != other:
            self.nodes[name].attendance.forget(other)

    @rule()
    def settle(self) -> None:
        """Once all is heard, every node knows everyone."""
        for name in NODES:
            self.tell(name)
            self.send(name, self.nodes[name].attendance.whole())
        for name in NODES:
            while self.nodes[name].line:
                self.hear(name, is_lost=False, again=False)
        for name in NODES:
            self.tell(name)
        for channel in ("chat.a", "chat.b"):
            there = {
                f"{name}{who}"
                for name, node in self.nodes.items()
                for at, who in node.joined
                if at == channel
            }
            for node in self.nodes.values():
                assert {each.id for each in node.known.get(channel, ())} == there

    @invariant()
    def what_was_told_is_known(self) -> None:
        """The answer to a request fits the changes that follow it."""
        for node in self.nodes.values():
            for channel in ("chat.a", "chat.b"):
                assert set(node.attendance.told(channel)) == node.known.get(channel, set())


TestAttendanceMachine = AttendanceMachine.TestCase
