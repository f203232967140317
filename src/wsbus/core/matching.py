"""A bounded cache of the members interested in a channel, kept up to date change by change.

What a search found is kept per channel. A change of interest is only noted, and channels that begin
like the pattern are looked at again. The next publication on one of them takes up what was noted
since the one before, and leaves alone what does not match. So a client that comes and goes costs
others a comparison, not a search over all members.

Channels that the same patterns match share one answer, so that memory does not grow with channels
times members.

A client may join and leave by the same wildcard again and again. Then what was right before the
change is set aside with the pair that makes the difference, and comes back as it was when the pair
changes again: neither way is anything looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from itertools import takewhile
from typing import Any, Final, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from .answers import Answers, InterestChange, KeptAnswer, SharedAnswer
from .channels import Channel
from .patterns import Pattern

__all__ = ["MatchCache", "Matched"]

M = TypeVar("M", bound=Hashable)
"""A member: what subscribes."""
A = TypeVar("A", bound=Collection[Any])
"""An arrangement: members of one channel in the form that is wanted at delivery."""

_MAX_ASIDE: Final = 4
"""Sets of answers that are set aside."""
_JOIN_AND_LEAVE: Final = 2
_MAX_CHANGES: Final = 64
"""Changes that an entry may be behind. Past that a search is cheaper, and members that are gone
are let go."""


class Matched(NamedTuple, Generic[M]):
    """The result of a search."""

    key: tuple[object, ...]
    """Equal for channels that the same patterns match."""
    parts: tuple[object, ...]
    """Objects that the key names by identity, held so that no identity is used twice."""
    members: Callable[[], Collection[M]]
    """Returns the distinct members."""
    holds: Callable[[M], bool]
    """Tells whether a member is among them."""


class MatchCache(Generic[M, A]):
    """Answers by channel.

    Args:
        search: Finds the members that are interested now; None: there are none.
        arrange: Makes an arrangement of members.
        edit: Returns the arrangement with some members more and some less. It ignores members that
            are there already, or are not there. None: everything is arranged anew.
        narrow: Takes out those who do not get this channel. If that is nobody it returns the same
            object, or one that shares its members.
        size: The most channels that are kept.
        places: The most members, over all different arrangements, that are kept. Both bounds count
            two generations of half their size: when the younger is full the older is forgotten, so
            that what is used stays. One arrangement of any size always fits.
    """

    def __init__(
        self,
        search: Callable[[Channel], Matched[M] | None],
        arrange: Callable[[Collection[M]], A],
        *,
        edit: Callable[[A, Collection[M], Collection[M]], A] | None,
        narrow: Callable[[Channel, A], A] | None,
        size: int,
        places: int,
    ) -> None:
        self._search: Final = search
        self._arrange: Final = arrange
        self._edit: Final = edit
        self._narrow: Final = narrow
        self._nothing: A | None = None
        """The arrangement of no members, made once: names that nobody wants are not kept."""
        self._size: Final = size // 2
        self._places: Final = places // 2
        self._now: Answers[M, A] = Answers()
        """Answers that are right as they are."""
        self._fresh = self._now.fresh
        self._aside: list[tuple[frozenset[InterestChange[M]], Answers[M, A]]] = []
        """Answers that will be right when just these changes are taken back."""
        self._recent: dict[Channel, KeptAnswer[M, A]] = {}
        self._older: dict[Channel, KeptAnswer[M, A]] = {}
        self._used = 0  # Places of the younger generation.
        self._generation = 1
        self._answers: Final[WeakValueDictionary[tuple[object, ...], SharedAnswer[A]]] = (
            WeakValueDictionary()
        )
        self._version = 0
        self._changes: dict[InterestChange[M], tuple[int, int]] = {}
        """Changes, the last one last: the version after it, and how often it came lately."""
        self._forgotten = 0
        """The version of the last change that is not among these any more."""
        self._behind: set[Channel] = set()
        self.hits: int = 0
        self.misses: int = 0

    def __len__(self) -> int:
        """Return how many channels are kept."""
        return len(self._recent) + len(self._older)

    @property
    def places(self) -> int:
        """Members over all different arrangements that are kept; for tests of the bound."""
        entries = [*self._recent.values(), *self._older.values()]
        for answers in self._all():
            entries += [entry for each in answers.entries.values() for entry in each.values()]
        kept = {id(e.base): len(e.base) for e in entries}
        kept |= {id(e.arranged): len(e.arranged) for e in entries if _takes_places(e)}
        return sum(kept.values())

    def holds(self, channel: Channel) -> bool:
        """Tell whether somebody was interested, and nothing has changed since."""
        return channel in self._fresh

    def match(self, channel: Channel) -> A:
        """Return the arrangement for a channel. Cost: one look-up if nothing has changed."""
        found = self._fresh.get(channel)
        if found is not None:
            self.hits += 1
            return found
        return self._match_slowly(channel)

    def note(self, pattern: Pattern | None, member: M) -> None:
        """Note that a member's interest in a pattern with wildcards has changed.

        Args:
            pattern: None: what it gets has changed, not its interest.
            member: Whose.
        """
        if not (self._recent or self._older):
            return
        change = (pattern, member)
        times = self._changes.pop(change, (0, 0))[1] + 1
        self._version += 1
        self._changes[change] = (self._version, times)
        self._turn(change, times)
        if len(self._changes) >= 2 * _MAX_CHANGES:
            for old in [*self._changes][:_MAX_CHANGES]:
                self._forgotten, _ = self._changes.pop(old)
            self._drop_before(self._forgotten)

    def note_exact(self, channel: Channel, member: M) -> None:
        """Note that a member's interest in exactly this channel has changed."""
        entry = self._recent.get(channel) or self._older.get(channel)
        if entry is None:
            return
        self._forget(channel)
        entry.touched.append(member)
        self._behind.add(channel)
        if len(entry.touched) > _MAX_CHANGES:
            self._drop(channel)
        elif len(self._behind) > _MAX_CHANGES:
            self._drop_behind()

    def settle(self) -> None:
        """Forget what is behind, and so let go of members that are gone.

        Cost: O(channels that are kept), if there was a change since the last call.
        """
        self._drop_behind()
        self._aside = [(undone, answers) for undone, answers in self._aside if answers.is_used]
        for _, answers in self._aside:
            answers.is_used = False
        if self._changes:
            self._changes = {}
            self._forgotten = self._version
            self._drop_before(self._version)

    def clear(self) -> None:
        """Forget everything."""
        self._recent, self._older, self._changes = {}, {}, {}
        self._forgotten = self._version
        self._renew_all()
        self._behind = set()
        self._used = 0

    def _renew_all(self) -> None:
        """Have all answers looked at again."""
        self._aside = []
        self._turn_to(Answers())

    def _turn_to(self, answers: Answers[M, A]) -> None:
        answers.is_used = True
        self._now, self._fresh = answers, answers.fresh

    def _turn(self, change: InterestChange[M], times: int) -> None:
        """Have answers looked at again that a change may concern, or take back those set aside."""
        pattern, _ = change
        before, undone = self._now, frozenset([change])
        if pattern is not None:
            found = next((answers for each, answers in self._aside if each == undone), None)
            # Who comes and goes once does not pay for a copy. Without `edit` the order counts, and
            # a member that is back does not stand where it stood.
            if (
                found is None
                and self._edit is not None
                and times > _JOIN_AND_LEAVE
                and before.concerns(pattern)
            ):
                found = before.without(pattern)
            if found is not None:
                others = [(each ^ undone, a) for each, a in self._aside if a is not found]
                before.is_used = True
                self._aside = [*others, (undone, before)][-_MAX_ASIDE:]
                self._turn_to(found)
                return
        for answers in self._all():
            answers.drop(pattern)

    def _all(self) -> Iterator[Answers[M, A]]:
        yield self._now
        for _, answers in self._aside:
            yield answers

    def _forget(self, channel: Channel) -> None:
        """Have the answer for a channel looked at again."""
        for answers in self._all():
            answers.forget(channel)

    def _drop(self, channel: Channel) -> None:
        self._forget(channel)
        self._recent.pop(channel, None)
        self._older.pop(channel, None)

    def _drop_behind(self) -> None:
        for channel in self._behind:
            self._drop(channel)
        self._behind = set()

    def _drop_before(self, version: int) -> None:
        fresh = self._fresh
        for entries in self._now.entries.values():
            for channel, entry in entries.items():
                if channel in fresh:  # No change since concerned it, or it was taken back.
                    entry.known = self._version
                    self._recent[channel] = entry
        self._recent = {c: e for c, e in self._recent.items() if e.known >= version}
        self._older = {c: e for c, e in self._older.items() if e.known >= version}
        for answers in self._all():
            answers.keep(self._recent)

    def _match_slowly(self, channel: Channel) -> A:
        entry = self._recent.get(channel)
        is_recent = entry is not None
        if entry is None:
            entry = self._older.pop(channel, None)
        touched = None if entry is None else self._touched(channel, entry)
        if entry is not None and touched is not None and not touched:
            self.hits += 1
        else:
            self.misses += 1
            found = self._search(channel)
            if found is None or not self._size:
                if entry is not None:
                    self._drop(channel)
                if found is not None:
                    return self._narrowed(channel, self._arrange(found.members()))
                if self._nothing is None:
                    self._nothing = self._arrange(())
                return self._nothing
            entry = self._renewed(channel, entry, found, touched)
        entry.known = self._version
        self._keep(channel, entry, is_new=not is_recent)
        self._now.add(channel, entry)
        return entry.arranged

    def _touched(self, channel: Channel, entry: KeptAnswer[M, A]) -> list[M] | None:
        """Return the members whose changes concern the channel; None: too much has happened."""
        interest = self._interest(channel, entry.known)
        if interest is None:
            return None
        changes = self._since(entry.known) or ()
        narrowed = [m for pattern, m in changes if pattern is None and m in entry.base]
        return [*interest, *narrowed, *entry.touched]

    def _interest(self, channel: Channel, version: int) -> list[M] | None:
        changes = self._since(version)
        if changes is None:
            return None
        return [m for p, m in changes if p is not None and p.matches(channel)]

    def _since(self, version: int) -> list[InterestChange[M]] | None:
        """Return the changes since a version, the last one first; None: some are forgotten."""
        if version < self._forgotten:
            return None
        changes = self._changes
        return list(takewhile(lambda each: changes[each][0] > version, reversed(changes)))

    def _renewed(
        self,
        channel: Channel,
        entry: KeptAnswer[M, A] | None,
        found: Matched[M],
        touched: list[M] | None,
    ) -> KeptAnswer[M, A]:
        """Bring an entry up to date with what was found, at the least cost."""
        answer = self._answers.get(found.key)
        if answer is not None:  # Whatever channel it was made for, the same patterns match.
            interest = self._interest(channel, answer.version)
            exact = entry.touched if entry is not None else ()
            changed = None if interest is None else [*interest, *exact]
            arranged = self._changed(answer.arranged, found, changed)
            if arranged is not answer.arranged:
                answer.arranged, answer.generation = arranged, 0
            answer.version = self._version
        else:
            base = None if entry is None or touched is None else entry.base
            arranged = self._changed(base, found, touched)
            answer = self._answers[found.key] = SharedAnswer(arranged, found.parts, self._version)
        self._behind.discard(channel)
        return KeptAnswer(answer, self._narrowed(channel, answer.arranged))

    def _changed(self, base: A | None, found: Matched[M], touched: list[M] | None) -> A:
        if base is None or touched is None or (touched and self._edit is None):
            return self._arrange(found.members())
        if not touched or self._edit is None:
            return base
        come: list[M] = []
        gone: list[M] = []
        for member in dict.fromkeys(reversed(touched)):  # In the order of the changes.
            (come if found.holds(member) else gone).append(member)
        return self._edit(base, come, gone)

    def _narrowed(self, channel: Channel, arranged: A) -> A:
        return arranged if self._narrow is None else self._narrow(channel, arranged)

    def _count(self, entry: KeptAnswer[M, A]) -> None:
        # An edited arrangement counts again: other entries may hold the one that it was made from.
        if entry.base is not entry.answer.arranged:
            self._used += len(entry.base)
        elif entry.answer.generation != self._generation:
            entry.answer.generation = self._generation
            self._used += len(entry.base)
        if _takes_places(entry):
            self._used += len(entry.arranged)

    def _keep(self, channel: Channel, entry: KeptAnswer[M, A], *, is_new: bool) -> None:
        # What is renewed counts, too: answers that are set aside hold what it was made from.
        if (is_new and len(self._recent) >= self._size) or self._used > self._places:
            self._recent.pop(channel, None)
            self._older, self._recent = self._recent, {}
            self._renew_all()
            self._used = 0
            self._generation += 1
        self._count(entry)
        self._recent[channel] = entry


def _takes_places(entry: KeptAnswer[M, A]) -> bool:
    """Tell whether what was narrowed holds members of its own: if all are left, it shares them."""
    return len(entry.arranged) != len(entry.base)
