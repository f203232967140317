"""What a client that watches a channel knows of who is there."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from wsbus.core.client.attendees import Attendees
from wsbus.core.messages import PresenceChanged, PresenceResult
from wsbus.core.presence import Attendance, Occupant, Roster

MOST = 2
"""How many are named."""
CHANNEL = "chat.a"
WHO = st.sampled_from(["1", "2", "3", "4"])


class WatchMachine(RuleBasedStateMachine):
    """A server, a client that watches, and a reader that looks when it likes.

    From the reference: "Changes within a short time come together"; `joined` and `left` are absent
    "when none has joined, or there are too many to name".
    """

    def __init__(self) -> None:
        super().__init__()
        self.server = Attendance("A")
        self.holders: dict[str, object] = {}
        self.line: deque[PresenceResult | PresenceChanged] = deque()
        self.client = Attendees()
        self.seen: Roster | None = None
        self.shown: set[Occupant] = set()
        self.is_watching = False
        self.is_asked = False
        self.ask()

    def ask(self) -> None:
        """The server takes a question at once; its answer takes its time."""
        if self.is_asked:
            return
        self.is_asked = self.is_watching = True
        told = self.server.told(CHANNEL)
        self.line.append(PresenceResult(CHANNEL, tuple(told[:MOST]), len(told), True, None))

    @rule(who=WHO, subject=st.sampled_from(["ada", None]))
    def join(self, who: str, subject: str | None) -> None:
        """A connection joins, or another one takes its place."""
        self.holders[who] = object()
        self.server.join(CHANNEL, Occupant(who, subject), self.holders[who])

    @rule(who=WHO)
    def leave(self, who: str) -> None:
        """A connection leaves."""
        self.server.leave(CHANNEL, who, self.holders.pop(who, object()))

    @rule()
    def tell(self) -> None:
        """The server tells what has changed."""
        for change in self.server.take()[0]:
            joined, left = change.joined, change.left
            if change.total > MOST:
                joined = left = ()
            if self.is_watching:
                self.line.append(PresenceChanged(CHANNEL, joined, left, change.total))

    @precondition(lambda self: self.line)
    @rule()
    def hear(self) -> None:
        """A message comes."""
        message = self.line.popleft()
        if isinstance(message, PresenceResult):
            self.is_asked = False
            self.client.answered(message)
        elif self.client.changed(message):
            self.ask()

    @rule()
    def reconnect(self) -> None:
        """The connection is lost; the next one begins with a question."""
        self.line.clear()
        self.is_asked = self.is_watching = False
        self.ask()

    @rule()
    def look(self) -> None:
        """Each step tells who is new and who is gone since the step before."""
        change = self.client.since(self.seen)
        if change is None:
            return
        assert self.shown.issuperset(change.left)
        self.shown.difference_update(change.left)
        assert self.shown.isdisjoint(change.joined)
        self.shown.update(change.joined)
        assert self.shown == set(change.members)
        if self.seen is not None:
            assert change.joined or change.left or change.count != self.seen.count
        self.seen = change

    @rule()
    def settle(self) -> None:
        """When all has been told, the reader knows who is there."""
        self.tell()
        while self.line:
            self.hear()
        self.look()
        there = self.server.present(CHANNEL)
        assert self.seen is not None
        assert self.seen.count == len(there)
        if len(there) <= MOST:
            assert set(self.seen.members) == set(there)


TestWatch = WatchMachine.TestCase
