"""What members owe, and how a turn's worth of it becomes few writes; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from .frame import MAX_JOIN_BYTES, Frame, join_lines
from .messages import Publication
from .overflow import Overflow
from .permissions import Grants
from .protocol import WireProtocol
from .queue import MessageQueue

__all__ = [
    "Audience",
    "Entry",
    "Group",
    "Log",
    "Member",
    "Owed",
    "Plan",
    "Standing",
    "Write",
    "count",
    "join",
    "joined_writes",
    "plan_writes",
]


class Standing(Enum):
    """How a member stands with the hub."""

    READY = auto()
    """Writable, and it owes nothing that is not in the log."""
    BLOCKED = auto()
    """Not writable, or a task of its own writes to it: its queue holds what it owes."""
    GONE = auto()
    """Detached; what is still addressed to it is discarded."""


class Member:
    """One receiver of publications.

    Args:
        protocol: Encodes for it.
        queue: Holds what it owes while it is blocked.
        shares_queue: The queue is empty and shared: the member gets one of its own when it first
            needs one. Most never do.
        overflow: What a full queue does with publications that do not say.
        outlet: What the flusher writes through; the hub only groups by it.
        writes_bytes: Whether the outlet takes RFC 6455 bytes; such members share joined writes.
    """

    __slots__ = (
        "controls",
        "grants",
        "outlet",
        "overflow",
        "protocol",
        "queue",
        "sent",
        "shares_queue",
        "standing",
        "writes_bytes",
    )

    def __init__(
        self,
        protocol: WireProtocol,
        queue: MessageQueue[Frame],
        *,
        overflow: Overflow = Overflow.DROP_OLDEST,
        outlet: Any = None,
        writes_bytes: bool = True,
        shares_queue: bool = False,
    ) -> None:
        self.protocol: Final = protocol
        self.queue: MessageQueue[Frame] = queue
        self.shares_queue: bool = shares_queue
        self.overflow: Final = overflow
        self.outlet: Final = outlet
        self.writes_bytes: Final = writes_bytes
        self.standing: Standing = Standing.READY
        self.grants: Grants | None = None
        """Whose denies are filtered out at delivery; None: nothing is."""
        self.sent: int = 0
        """Publications written without touching the queue."""
        self.controls: int = 0
        """Control frames written without touching the queue."""

    @property
    def message_count(self) -> int:
        """Publications sent to this member."""
        return self.sent + self.queue.sent

    @property
    def control_count(self) -> int:
        """Control frames sent to it: replies, pings."""
        return self.controls + self.queue.control_sent


Members: TypeAlias = tuple[Member, ...]


class Owed:
    """One frame on its way to members, with what a full queue does with it."""

    __slots__ = ("frame", "overflow", "publication")

    def __init__(
        self, frame: Frame, publication: Publication | None, overflow: Overflow | None = None
    ) -> None:
        self.frame: Final = frame
        self.overflow: Final = overflow
        """The policy of the channel's family; None: each member's own."""
        self.publication: Final = publication
        """None: a control frame, which no policy drops."""


class Write(NamedTuple):
    """Members that owe the same frames, in this order."""

    members: Collection[Member]
    writes_bytes: bool
    owed: Sequence[Owed]


class Plan(NamedTuple):
    """What one flush has to do."""

    writes: list[Write]
    woken: list[Member]
    """Blocked members whose empty queue got something."""
    overflowed: list[Member]
    """Members that are to be closed as too slow."""


class Group:
    """Members of one audience that take the same bytes; it never changes."""

    __slots__ = ("__weakref__", "_edited", "members", "protocol", "writes_bytes")

    def __init__(self, members: dict[Member, None]) -> None:
        self.members: Final = members
        """In order; a dict finds one of them at once, and is copied at little cost."""
        first = next(iter(self.members))
        self.protocol: Final[WireProtocol] = first.protocol
        self.writes_bytes: Final[bool] = first.writes_bytes
        self._edited: WeakValueDictionary[tuple[Members, Members], Group] | None = None

    def edited(self, come: Members, gone: Members) -> Group | None:
        """Return the group with some more and some less; None: nobody is left.

        Channels that shared this group share the new one, too.
        """
        if self._edited is None:
            self._edited = WeakValueDictionary()
        group = self._edited.get((come, gone))
        if group is None:
            left = self.members.copy()
            for member in gone:
                del left[member]
            for member in come:
                left[member] = None
            if not left:
                return None
            group = self._edited[come, gone] = Group(left)
        return group


class Audience(Collection[Member]):
    """The members that get what is published on a channel; it never changes."""

    __slots__ = ("count", "groups", "overflow")

    def __init__(self, groups: tuple[Group, ...], overflow: Overflow | None = None) -> None:
        self.groups: Final = groups
        self.overflow: Final = overflow
        """The policy of the channel's family; None: each member's own."""
        self.count: Final = sum([len(group.members) for group in groups])

    @property
    def members(self) -> Collection[Member]:
        """All of them."""
        return tuple(self)

    def among(self, members: AbstractSet[Member]) -> set[Member]:
        """Return those of ``members`` that belong to it."""
        return {member for group in self.groups for member in group.members.keys() & members}

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Member]:
        return (member for group in self.groups for member in group.members)

    def __contains__(self, member: object) -> bool:
        return any(member in group.members for group in self.groups)

    def under(self, overflow: Overflow | None) -> Audience:
        """Return the same members under the policy of a family; they are shared, not copied."""
        return self if overflow is self.overflow else Audience(self.groups, overflow)

    def edited(self, come: Collection[Member], gone: Collection[Member]) -> Audience:
        """Return it with some more members, at the end, and some less.

        Members that are there already, or are not there, change nothing.
        """
        come = [member for member in come if member not in self]
        kinds = {(group.protocol, group.writes_bytes): group for group in self.groups}
        parts: dict[tuple[WireProtocol, bool], list[Member]] = {}
        for member in come:
            parts.setdefault((member.protocol, member.writes_bytes), []).append(member)
        groups: list[Group | None] = []
        for kind, group in kinds.items():
            more = tuple(parts.pop(kind, ()))
            less = tuple([member for member in gone if member in group.members])
            groups.append(group.edited(more, less) if more or less else group)
        groups += [Group(dict.fromkeys(part)) for part in parts.values()]
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
        self.owed: Final[dict[WireProtocol, Owed]] = {}

    def is_for(self, member: Member) -> bool:
        """Tell whether ``member`` is to get it."""
        return member in self.audience and member not in self.excluded

    def owed_in(self, protocol: WireProtocol) -> Owed:
        """Encode once per protocol, on first use."""
        owed = self.owed.get(protocol)
        if owed is None:
            frame = protocol.encode_publication(self.publication)
            owed = self.owed[protocol] = Owed(frame, self.publication, self.audience.overflow)
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
        Write(
            group.members, group.writes_bytes, [entry.owed_in(group.protocol) for entry in entries]
        )
        for group in groups or ()
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
            item = entry.owed_in(group.protocol)
            for member in group.members:
                if member not in entry.excluded:
                    owed.setdefault(member, []).append(item)
    alike: dict[tuple[object, ...], Write] = {}
    for member, items in owed.items():
        write = alike.get(key := (member.writes_bytes, *map(id, items)))
        if write is None:
            alike[key] = Write([member], member.writes_bytes, items)
        else:
            write.members.append(member)  # type: ignore[attr-defined]  # a list, made just above
    return list(alike.values())


def count(owed: Iterable[Owed]) -> tuple[int, int]:
    """Return how many publications there are, and how many control frames."""
    kinds = [item.publication is None for item in owed]
    return kinds.count(False), kinds.count(True)


def join(frames: Iterable[Frame], protocol: WireProtocol) -> list[Frame]:
    """Join them as far as the dialect allows."""
    return list(join_lines(frames)) if protocol.joins else list(frames)


def joined_writes(
    owed: Sequence[Owed], protocol: WireProtocol
) -> Iterator[tuple[bytes, Sequence[Owed]]]:
    """Join what is owed into writes of at most 64 KiB, each with what it holds."""
    size = sum([item.frame.size for item in owed])
    if size <= MAX_JOIN_BYTES:
        frames = join([item.frame for item in owed], protocol)
        yield b"".join([frame.wire for frame in frames]), owed
        return
    part: list[Owed] = []
    size = 0
    for item in owed:
        if part and size + item.frame.size > MAX_JOIN_BYTES:
            yield from joined_writes(part, protocol)
            part, size = [], 0
        part.append(item)
        size += item.frame.size
    frames = join([item.frame for item in part], protocol)
    yield b"".join([frame.wire for frame in frames]), part
