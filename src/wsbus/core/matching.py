"""A bounded cache of the members interested in a channel, kept up to date change by change.

What a search found is kept per channel. A change of interest is only noted, and has channels that
begin like the pattern looked at again; the next publication on one of these takes up what was noted since the one before, and leaves alone what does not match. So
a client that comes and goes costs others a comparison, not a search over all members.

Channels that the same patterns match share one answer, so that memory does not grow with channels
times members.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any, Final, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from .channels import Channel
from .patterns import Pattern

__all__ = ["MatchCache", "Matched"]

M = TypeVar("M", bound=Hashable)
"""A member: what subscribes."""
A = TypeVar("A", bound=Collection[Any])
"""An arrangement: members of one channel in the form that is wanted at delivery."""

_WILDCARDS: Final = frozenset("*+")
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


class _Answer(Generic[A]):
    """The members of all channels with one key, as of a version."""

    __slots__ = ("__weakref__", "arranged", "generation", "parts", "version")

    def __init__(self, arranged: A, parts: tuple[object, ...], version: int) -> None:
        self.arranged = arranged
        self.parts = parts
        self.version = version
        self.generation = 0
        """The generation in which its size was counted last."""


class _Entry(Generic[M, A]):
    """The cached result for one channel."""

    __slots__ = ("answer", "arranged", "base", "known", "touched")

    def __init__(self) -> None:
        self.known = 0
        """The version up to which changes were taken up."""
        self.answer: _Answer[A]
        self.base: A
        """The result that ``arranged`` was narrowed from."""
        self.arranged: A
        self.touched: list[M] = []
        """Members whose exact subscriptions changed since."""


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
        self._size: Final = size // 2
        self._places: Final = places // 2
        self._fresh: dict[Channel, A] = {}
        """Answers that are right as they are."""
        self._heads: dict[str, dict[Channel, None]] = {}
        """The channels of these, by their first segment."""
        self._recent: dict[Channel, _Entry[M, A]] = {}
        self._older: dict[Channel, _Entry[M, A]] = {}
        self._used = 0  # Places of the younger generation.
        self._generation = 1
        self._answers: Final[WeakValueDictionary[tuple[object, ...], _Answer[A]]] = (
            WeakValueDictionary()
        )
        self._version = 0
        self._changes: list[tuple[Pattern | None, M]] = []
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
        self._changes.append((pattern, member))
        self._version += 1
        if self._fresh:
            self._stale(pattern)
        if len(self._changes) >= 2 * _MAX_CHANGES:
            del self._changes[:-_MAX_CHANGES]
            self._drop_before(self._version - _MAX_CHANGES)

    def note_exact(self, channel: Channel, member: M) -> None:
        """Note that a member's interest in exactly this channel has changed."""
        entry = self._recent.get(channel) or self._older.get(channel)
        if entry is None:
            return
        self._fresh.pop(channel, None)
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
        if self._changes:
            self._changes = []
            self._drop_before(self._version)

    def clear(self) -> None:
        """Forget everything."""
        self._fresh, self._recent, self._older, self._changes = {}, {}, {}, []
        self._heads = {}
        self._behind = set()
        self._used = 0

    def _stale(self, pattern: Pattern | None) -> None:
        """Have answers looked at again that a change may concern."""
        head = "*" if pattern is None else pattern.segments[0]
        if head in _WILDCARDS:
            self._fresh, self._heads = {}, {}
            return
        for channel in self._heads.pop(head, ()):
            self._fresh.pop(channel, None)

    def _drop(self, channel: Channel) -> None:
        self._fresh.pop(channel, None)
        self._recent.pop(channel, None)
        self._older.pop(channel, None)

    def _drop_behind(self) -> None:
        for channel in self._behind:
            self._drop(channel)
        self._behind = set()

    def _drop_before(self, version: int) -> None:
        for channel in self._fresh:  # No change since concerned these.
            self._recent[channel].known = self._version
        self._recent = {c: e for c, e in self._recent.items() if e.known >= version}
        self._older = {c: e for c, e in self._older.items() if e.known >= version}

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
                self._drop(channel)
                return self._narrowed(channel, self._arrange(found.members() if found else ()))
            if entry is None:
                entry = _Entry()
            self._renew(channel, entry, found, touched)
        entry.known = self._version
        if is_recent:
            self._count(entry)
        else:
            self._keep(channel, entry)
        self._fresh[channel] = entry.arranged
        self._heads.setdefault(channel.partition(".")[0], {})[channel] = None
        return entry.arranged

    def _touched(self, channel: Channel, entry: _Entry[M, A]) -> list[M] | None:
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

    def _since(self, version: int) -> list[tuple[Pattern | None, M]] | None:
        count = self._version - version
        if count > len(self._changes):
            return None
        return self._changes[-count:] if count else []

    def _renew(
        self, channel: Channel, entry: _Entry[M, A], found: Matched[M], touched: list[M] | None
    ) -> None:
        """Bring an entry up to date with what was found, at the least cost."""
        answer = self._answers.get(found.key)
        if answer is not None:  # Whatever channel it was made for, the same patterns match.
            interest = self._interest(channel, answer.version)
            changed = None if interest is None else [*interest, *entry.touched]
            arranged = self._changed(answer.arranged, found, changed)
            if arranged is not answer.arranged:
                answer.arranged, answer.generation = arranged, 0
            answer.version = self._version
        else:
            base = None if touched is None else entry.base
            arranged = self._changed(base, found, touched)
            answer = self._answers[found.key] = _Answer(arranged, found.parts, self._version)
        entry.touched = []
        self._behind.discard(channel)
        entry.answer, entry.base = answer, answer.arranged
        entry.arranged = self._narrowed(channel, answer.arranged)

    def _changed(self, base: A | None, found: Matched[M], touched: list[M] | None) -> A:
        if base is None or touched is None or (touched and self._edit is None):
            return self._arrange(found.members())
        if not touched or self._edit is None:
            return base
        come: list[M] = []
        gone: list[M] = []
        for member in dict.fromkeys(touched):
            (come if found.holds(member) else gone).append(member)
        return self._edit(base, come, gone)

    def _narrowed(self, channel: Channel, arranged: A) -> A:
        return arranged if self._narrow is None else self._narrow(channel, arranged)

    def _count(self, entry: _Entry[M, A]) -> None:
        # An edited arrangement counts again: other entries may hold the one that it was made from.
        if entry.answer.generation != self._generation:
            entry.answer.generation = self._generation
            self._used += len(entry.base)
        if _takes_places(entry):
            self._used += len(entry.arranged)

    def _keep(self, channel: Channel, entry: _Entry[M, A]) -> None:
        if len(self._recent) >= self._size or self._used > self._places:
            self._older, self._recent, self._fresh = self._recent, {}, {}
            self._heads = {}
            self._used = 0
            self._generation += 1
        self._count(entry)
        self._recent[channel] = entry


def _takes_places(entry: _Entry[M, A]) -> bool:
    """Tell whether what was narrowed holds members of its own: if all are left, it shares them."""
    return len(entry.arranged) != len(entry.base)
