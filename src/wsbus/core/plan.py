"""What members owe, and how a turn's worth of it becomes few writes; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias

from ..protocols.base import WireProtocol
from .frame import MAX_JOIN_BYTES, Frame, join_lines
from .messages import Publication
from .overflow import Overflow
from .permissions import Grants
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
    """Not writable, or written to by a task of its own: its queue holds what it owes."""
    GONE = auto()
    """Detached; what is still addressed to it is discarded."""


class Member:
    """One receiver of publications.

    Args:
        protocol: Encodes for it.
        queue: Holds what it owes while it is blocked.
        shares_queue: It is empty, and stands for others, too: the member gets one of its own when
            it first needs one. Most never do.
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


class Owed:
    """One frame on its way to members, with what a full queue shall do with it."""

    __slots__ = ("frame", "publication")

    def __init__(self, frame: Frame, publication: Publication | None) -> None:
        self.frame: Final = frame
        self.publication: Final = publication
        """None: a control frame, which no policy drops."""


class Write(NamedTuple):
    """Members that owe the same frames, in this order."""

    members: Sequence[Member]
    owed: Sequence[Owed]


class Plan(NamedTuple):
    """What one flush has to do."""

    writes: list[Write]
    woken: list[Member]
    """Blocked members whose empty queue got something."""
    overflowed: list[Member]
    """Members that are to be closed as too slow."""


class Group:
    """Members of one audience for whom the same bytes will do."""

    __slots__ = ("__weakref__", "members", "protocol")

    def __init__(self, protocol: WireProtocol, members: tuple[Member, ...]) -> None:
        self.protocol: Final = protocol
        self.members: Final = members


class Audience:
    """Who gets what is published on a channel; cached by the subscription table."""

    __slots__ = ("groups", "members")

    def __init__(self, groups: tuple[Group, ...], members: Collection[Member]) -> None:
        self.groups: Final = groups
        self.members: Final = frozenset(members)


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
        return member in self.audience.members and member not in self.excluded

    def owed_in(self, protocol: WireProtocol) -> Owed:
        """Encode once per protocol, on first use."""
        owed = self.owed.get(protocol)
        if owed is None:
            frame = protocol.encode_publication(self.publication)
            owed = self.owed[protocol] = Owed(frame, self.publication)
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
        Write(group.members, [entry.owed_in(group.protocol) for entry in entries])
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
            alike[key] = Write([member], items)
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
