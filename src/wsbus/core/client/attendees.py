"""The connections on a channel, as a server tells a client that watches it; pure."""

from __future__ import annotations

from ..messages import PresenceChanged, PresenceResult
from ..presence import Occupant, Roster, RosterChange

__all__ = ["Attendees"]


class Attendees:
    """The connections on a channel, as far as a client knows them.

    Law: once every message has come, and every question is answered, the members are those that are
    there, if there are not too many to name.
    """

    def __init__(self) -> None:
        self.members: dict[str, Occupant] = {}
        """By the id of the connection, those that joined first at first."""
        self.count: int = 0
        """How many there are."""
        self._is_part: bool = False
        """Whether some were not named, so that the members may be wrong."""

    def answered(self, result: PresenceResult) -> None:
        """Take the answer to a question: it stands for all that came before."""
        self.members = {each.id: each for each in result.members}
        self.count = result.total
        self._is_part = len(self.members) != self.count

    def changed(self, change: PresenceChanged) -> bool:
        """Take a change; return whether to ask which connections are there."""
        self.count = change.total
        if not change.joined and not change.left:
            # There are too many to name: the answer would not name them either.
            self._is_part = True
            return False
        members = dict(self.members)  # A reader may hold the former ones.
        for each in change.left:
            members.pop(each.id, None)
        for each in change.joined:
            members[each.id] = each
        self.members = members
        return self._is_part or len(members) != self.count

    def since(self, before: Roster | None) -> RosterChange | None:
        """Return what has changed since a reader looked; None: nothing.

        Args:
            before: What the reader knows; None: it has not looked yet.
        """
        known = {each.id: each for each in before.members} if before is not None else {}
        joined = tuple([o for o in self.members.values() if known.get(o.id) != o])
        left = tuple([o for o in known.values() if self.members.get(o.id) != o])
        if before is not None and not joined and not left and self.count == before.count:
            return None
        return RosterChange(tuple(self.members.values()), self.count, joined, left)
