"""The messages to and from a console."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from ..server.directory import Node
from ..server.statistics import BusStatistics

__all__ = [
    "CHANNEL",
    "CUT",
    "ENDED_ROWS",
    "FEEDS",
    "LOSS_CHANNELS",
    "LOSS_ROWS",
    "NODE_ROWS",
    "ROWS",
    "SUMMARY_ROWS",
    "ChannelRow",
    "ConnectionRow",
    "EndedRow",
    "LossRow",
    "PatternRow",
    "ProcessInfo",
    "Query",
    "Row",
    "Sample",
    "TailBatch",
    "TailEvent",
    "Watch",
]

CHANNEL: Final = "wsbus.console"
"""The channel of samples and tails; it exists on the consoles' own bus only."""

CUT: Final = 200
"""Characters of a text that a row shows."""
ROWS: Final = 100
"""Rows of one list in a sample."""
SUMMARY_ROWS: Final = 5
"""Rows of the list in the overview."""
NODE_ROWS: Final = 50
"""Nodes listed in a sample."""
FEEDS: Final = 100
"""Names in a sample of what is followed at the broker."""
ENDED_ROWS: Final = 8
"""Connections that have ended, listed in a sample."""
LOSS_ROWS: Final = 8
"""Connections that have lost publications lately, listed in a sample."""
LOSS_CHANNELS: Final = 3
"""Channels that a row of these names."""

View: TypeAlias = Literal["overview", "connections", "published", "subscribed"]


class Query(msgspec.Struct, frozen=True):
    """The list that a console shows; equal queries are answered by one walk."""

    view: View = "overview"
    sort: str = ""
    find: str = ""
    """Text that a row must contain, in lower case."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of ``console.watch``: all that a console wants, sent whole each time."""

    view: View = "overview"
    """``overview`` has the slowest connections as its list."""
    sort: str = ""
    """The order of the list; empty: the view's default."""
    find: Annotated[str, Meta(max_length=100)] = ""
    tail: Annotated[str, Meta(max_length=255)] | None = None
    """Pattern of channels to tail."""
    text: Annotated[str, Meta(max_length=100)] = ""
    """Text that events of the tail must contain."""


class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One connection, in brief; times are seconds since the epoch, texts may be cut."""

    id: str
    connected_at: float
    """Together with the id it identifies the connection."""
    subject: str | msgspec.UnsetType = msgspec.UNSET
    protocol: str
    path: str
    client: str = ""
    last_seen: float
    queued: int = 0
    queued_bytes: int = 0
    dropped: int = 0
    sent: int = 0
    received: int = 0
    is_blocked: bool = False
    """Whether its transport is not writable."""
    rtt: float | msgspec.UnsetType = msgspec.UNSET
    """Round-trip time of its TCP connection, in seconds, where the operating system knows it."""
    patterns: int = 0
    some_patterns: tuple[str, ...] = ()
    """The first few patterns."""


class ChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One channel with publications since the console began to watch."""

    channel: str
    rate: float
    """Publications a second."""
    count: int
    size: int
    """Bytes of JSON."""
    subscribers: int
    event: str
    at: float


class PatternRow(msgspec.Struct, frozen=True):
    """One pattern that is subscribed."""

    pattern: str
    subscribers: int


class EndedRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One connection that has ended, in brief; texts may be cut."""

    id: str
    subject: str | msgspec.UnsetType = msgspec.UNSET
    path: str
    connected_at: float
    ended_at: float
    code: int
    reason: str = ""
    dropped: int = 0


class LossRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Publications that one connection has lost lately; texts may be cut."""

    id: str
    subject: str | msgspec.UnsetType = msgspec.UNSET
    connected_at: float
    since: float
    """The first of these losses, in seconds since the epoch."""
    at: float
    """The last one."""
    lost: int = 0
    channels: tuple[str, ...] = ()
    """Some of the channels, as far as they are known."""
    has_more: bool = False
    """Whether it lost publications on further channels."""


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process that the bus runs in."""

    wsbus: str
    """The version of wsbus."""
    python: str
    pid: int
    host: str
    seconds: float
    """Seconds since the process was started."""
    memory: int | msgspec.UnsetType = msgspec.UNSET
    """Resident memory in bytes, where the operating system knows it."""


Row: TypeAlias = ConnectionRow | ChannelRow | PatternRow


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a bus at one moment."""

    at: float
    """Seconds since the epoch."""
    clock: float
    """Monotonic seconds: rates are differences over these."""
    node: str
    """This run of the bus: the totals start anew with another one."""
    totals: BusStatistics
    process: ProcessInfo
    consoles: int
    cpu: float
    """Seconds of processor time that the process has used."""
    lag: float
    """Largest lateness of the event loop since the last sample, in seconds."""
    cost: float
    """Seconds that the last sample kept the event loop busy."""
    interval: float
    """Seconds to the next sample."""
    view: View
    sort: str
    find: str = ""
    total: int
    """Number of all rows."""
    found: int
    """Number of rows that contain the text."""
    rows: list[Row]
    """The first of those rows."""
    ended: list[EndedRow] = []
    """Connections that have ended since the first console connected, the newest first."""
    losses: list[LossRow] = []
    """Connections that have lost publications since then, that with the latest loss first."""
    nodes: list[Node] = []
    """The processes that a broker joins; none without a broker."""
    feeds: list[str] = []
    """The first channels and patterns that are followed at the broker."""
    listening: float = 0.0
    """Seconds for which channels have been counted."""
    others: int = 0
    """Publications on channels that are not counted separately, because there are too many."""


class TailEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One publication in a tail."""

    channel: str
    event: str
    at: float
    text: str
    """The JSON, perhaps cut."""
    size: int
    """Bytes of the whole JSON."""


class TailBatch(msgspec.Struct, frozen=True):
    """The events of a tail since the last batch."""

    tail: str
    matched: int
    """Publications that matched the tail since it began; those without an event were too many to
    show."""
    events: list[TailEvent]
