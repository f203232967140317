"""Audiences of publications, and plans that join the frames of a turn into few writes; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from .crowd import Crowd
from .families import Family
from .forms import BYTES, Form
from .frame import Frame, join_lines
from .member import Member
from .messages import Publication
from .outlet import Owed
from .pacing import MAX_JOIN_BYTES
from .protocol import WireProtocol

__all__ = [
    "Audience",
    "Entry",
    "Group",
    "Log",
    "Plan",
    "Write",
    "count",
    "frames",
    "join",
    "joined_writes",
    "plan_writes",
]


Members: TypeAlias = tuple[Member, ...]


class Write(NamedTuple):
    """Members that owe the same frames, in this order."""

    members: Collection[Member]
    form: Form
    owed: Sequence[Owed]


class Plan(NamedTuple):
    """The work of one flush."""

    writes: list[Write]
    woken: list[Member]
    """QUEUED members whose empty queue got something."""
    overflowed: list[Member]
    """Members that are to be closed as too slow."""


class Group:
    """Members of one audience that take the same bytes; it never changes."""

    __slots__ = ("__weakref__", "_edited", "form", "members", "protocol")

    def __init__(self, members: Crowd[Member]) -> None:
        self.members: Final = members
        """At least one."""
        first = next(iter(members))
        self.protocol: Final = first.protocol
        """None: members that are QUEUED; nothing is written to them."""
        self.form: Final = first.form
        self._edited: WeakValueDictionary[tuple[Members, Members], Group] | None = None

    def edited(self, come: Members, gone: Members) -> Group | None:
        """Return the group with some more and some less; None: nobody is left.

        Channels that shared this group share the new one, too.
        """
        if self._edited is None:
            self._edited = WeakValueDictionary()
        group = self._edited.get((come, gone))
        if group is None:
            left = self.members.edited(come, gone)
            if not left:
                return None
            group = self._edited[come, gone] = Group(left)
        return group


class Audience(Collection[Member]):
    """The members that get what is published on a channel; it never changes."""

    __slots__ = ("count", "family", "groups", "queued")

    def __init__(self, groups: tuple[Group, ...], family: Family | None = None) -> None:
        self.groups: Final = groups
        self.family: Final = family
        """The channel's family; None: it has none."""
        self.queued: Final = next((group for group in groups if group.protocol is None), None)
        """The group of those that are QUEUED."""
        self.count: Final = sum([len(group.members) for group in groups])

    @property
    def members(self) -> Collection[Member]:
        """All of them."""
        return tuple(self)

    def among(self, members: AbstractSet[Member]) -> set[Member]:
        """Return those of ``members`` that belong to it."""
        return set().union(*[group.members.among(members) for group in self.groups])

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Member]:
        return (member for group in self.groups for member in group.members)

    def __contains__(self, member: object) -> bool:
        return any(member in group.members for group in self.groups)

    def under(self, family: Family | None) -> Audience:
        """Return the same members under the policy of a family; they are shared, not copied."""
        return self if family is self.family else Audience(self.groups, family)

    def edited(self, come: Collection[Member], gone: Collection[Member]) -> Audience:
        """Return it with some more members, at the end, and some less.

        Members that are there already, or are not there, change nothing.
        """
        come = [member for member in come if member not in self]
        kinds = {(group.protocol, group.form): group for group in self.groups}
        parts: dict[tuple[WireProtocol | None, Form], list[Member]] = {}
        for member in come:
            parts.setdefault((member.protocol, member.form), []).append(member)
        groups: list[Group | None] = []
        for kind, group in kinds.items():
            more = tuple(parts.pop(kind, ()))
            less = tuple([member for member in gone if member in group.members])
            groups.append(group.edited(more, less) if more or less else group)
        groups += [Group(Crowd(part)) for part in parts.values()]
        if groups == list(self.groups) and self.family is None:
            return self
        return Audience(tuple([group for group in groups if group is not None]))


class Entry:
    """A publication in the log."""

    __slots__ = ("audience", "excluded", "owed", "publication")

    def __init__(
        self, audience: Audience, publication: Publication, excluded: frozenset[Member]
    ) -> None:
        self.audience: Final = audience
        self.publication: Final = publication
        self.excluded: Final = excluded
        self.owed: Final[dict[WireProtocol | None, Owed]] = {}

    def is_for(self, member: Member) -> bool:
        """Tell whether ``member`` is to get it."""
        return member in self.audience and member not in self.excluded

    def owed_in(self, protocol: WireProtocol | None) -> Owed:
        """Encode once per protocol, on first use."""
        owed = self.owed.get(protocol)
        if owed is None:
            frame = protocol.encode_publication(self.publication) if protocol else None
            owed = self.owed[protocol] = Owed(frame, self.publication, self.audience.family)
        return owed


Log: TypeAlias = "Sequence[Entry | tuple[Member, Owed]]"
"""A turn in order: publications, and control frames each to one member."""


def plan_writes(log: Log) -> list[Write]:
    """Turn a log into writes, so that members that owe the same frames share one."""
    return _uniform_writes(log) or _mixed_writes(log)


def _uniform_writes(log: Log) -> list[Write]:
    """Plan a turn in which everything went to the same members: one write per group.

    Returns:
        The writes; none if the turn is not of this kind.
    """
    entries: list[Entry] = []
    groups: tuple[Group, ...] | None = None
    for entry in log:
        if not isinstance(entry, Entry) or entry.excluded:
            return []
        if groups is None:
            groups = entry.audience.groups
        elif groups != entry.audience.groups:  # Interned groups: compared by identity.
            return []
        entries.append(entry)
    return [
        Write(group.members, group.form, [entry.owed_in(group.protocol) for entry in entries])
        for group in groups or ()
        if group.protocol is not None
    ]


def _mixed_writes(log: Log) -> list[Write]:
    """Plan any turn: collect what each member owes, then put equals together."""
    owed: dict[Member, list[Owed]] = {}
    for entry in log:
        if not isinstance(entry, Entry):
            member, item = entry
            owed.setdefault(member, []).append(item)
            continue
        for group in entry.audience.groups:
            if group.protocol is None:
                continue
            item = entry.owed_in(group.protocol)
            for member in group.members:
                if member not in entry.excluded:
                    owed.setdefault(member, []).append(item)
    alike: dict[tuple[object, ...], Write] = {}
    for member, items in owed.items():
        write = alike.get(key := (member.form, *map(id, items)))
        if write is None:
            alike[key] = Write([member], member.form, items)
        else:
            write.members.append(member)  # type: ignore[attr-defined]  # a list, made just above
    return list(alike.values())


def count(owed: Iterable[Owed]) -> tuple[int, int]:
    """Return how many publications there are, and how many control frames."""
    kinds = [item.publication is None for item in owed]
    return kinds.count(False), kinds.count(True)


def frames(owed: Iterable[Owed]) -> list[Frame]:
    """Return their frames; only what goes to QUEUED members has none."""
    return [item.frame for item in owed if item.frame is not None]


def join(owed: Iterable[Owed], protocol: WireProtocol | None) -> list[Frame]:
    """Join their frames as far as the dialect allows."""
    found = frames(owed)
    return list(join_lines(found)) if protocol is not None and protocol.joins else found


def joined_writes(
    owed: Sequence[Owed], protocol: WireProtocol | None, form: Form = BYTES
) -> Iterator[tuple[bytes, Sequence[Owed]]]:
    """Join what is owed into writes of at most 64 KiB, each with what it holds.

    Args:
        owed: What is owed.
        protocol: The dialect, which says whether messages may share a frame; None: they may not.
        form: Makes the bytes.
    """
    wire = form.wire
    if len(owed) == 1 and (frame := owed[0].frame) is not None:  # As a rule, if turns are short.
        yield wire(frame), owed
        return
    size = sum([item.size for item in owed])
    if size <= MAX_JOIN_BYTES:
        yield b"".join([wire(frame) for frame in join(owed, protocol)]), owed
        return
    part: list[Owed] = []
    size = 0
    for item in owed:
        if part and size + item.size > MAX_JOIN_BYTES:
            yield from joined_writes(part, protocol, form)
            part, size = [], 0
        part.append(item)
        size += item.size
    yield b"".join([wire(frame) for frame in join(part, protocol)]), part
