"""Messages to and from a console: their shapes."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from ..server.statistics import BusStatistics

__all__ = [
    "CHANNEL",
    "CUT",
    "ENDED_ROWS",
    "ROWS",
    "SUMMARY_ROWS",
    "ChannelRow",
    "ConnectionRow",
    "EndedRow",
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
"""What samples and tails are on; it exists on the consoles' own bus only."""

CUT: Final = 200
"""Characters of a text that a row shows."""
ROWS: Final = 100
"""Rows of one list in a sample."""
SUMMARY_ROWS: Final = 5
"""Of the overview."""
ENDED_ROWS: Final = 8
"""Connections that have ended, of which a sample tells."""

View: TypeAlias = Literal["overview", "connections", "published", "subscribed"]


class Query(msgspec.Struct, frozen=True):
    """Which list a console looks at; equal ones are answered by one walk."""

    view: View = "overview"
    sort: str = ""
    find: str = ""
    """What a row must contain, in lower case."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of ``console.watch``: everything a console wants, each time anew."""

    view: View = "overview"
    """``overview`` has the slowest connections as its list."""
    sort: str = ""
    """What comes first; empty: as the view has it by default."""
    find: Annotated[str, Meta(max_length=100)] = ""
    tail: Annotated[str, Meta(max_length=255)] | None = None
    """Pattern of channels to tail."""
    text: Annotated[str, Meta(max_length=100)] = ""
    """What events of the tail must contain."""


class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One connection, in brief; times are seconds since the epoch, texts may be cut."""

    id: str
    connected_at: float
    """With the id it says which connection this is, for as long as there is one."""
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
    """Its transport has not taken what it was given."""
    rtt: float | msgspec.UnsetType = msgspec.UNSET
    """Of its TCP connection, in seconds; only where the operating system tells."""
    patterns: int = 0
    some_patterns: tuple[str, ...] = ()
    """The first few."""


class ChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One channel on which something was published since the console began to look."""

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


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process that the bus runs in."""

    wsbus: str
    """Its version."""
    python: str
    pid: int
    host: str
    seconds: float
    """Since the process was started."""
    memory: int | msgspec.UnsetType = msgspec.UNSET
    """Bytes that are resident, where the operating system tells."""


Row: TypeAlias = ConnectionRow | ChannelRow | PatternRow


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One moment."""

    at: float
    """Seconds since the epoch."""
    clock: float
    """Monotonic seconds: rates are differences over these."""
    totals: BusStatistics
    process: ProcessInfo
    consoles: int
    cpu: float
    """Seconds of processor time that the process has used."""
    lag: float
    """Seconds by which the event loop was late, at worst, since the last sample."""
    cost: float
    """Seconds that the last sample kept the event loop busy."""
    interval: float
    """Seconds to the next one."""
    view: View
    sort: str
    find: str = ""
    total: int
    """Rows that there are."""
    found: int
    """Of these, how many contain what is looked for."""
    rows: list[Row]
    """The first of those."""
    ended: list[EndedRow] = []
    """Connections that have ended since the first console connected, the newest first."""
    listening: float = 0.0
    """Seconds for which channels have been told apart."""
    others: int = 0
    """Publications on channels that are not told apart, because there are too many."""


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
    """What a tail has gathered since the last batch."""

    tail: str
    matched: int
    """Publications that the tail was for since it began; those not among the events were too
    many to show."""
    events: list[TailEvent]
