"""The Python client, for asyncio and trio.

::

    async with connect("wss://example.org/ws", token=token) as client:
        async with client.subscribe("prices.*") as events:
            async for event in events:
                print(event.channel, event.data)

Needs the extra ``client``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import websockets as _websockets  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.client", "client", _exc) from None

from ..core.client.retry import Retry
from ..core.errors import (
    CommandError,
    ConnectError,
    ConnectionLost,
    MessageTooLarge,
    PositionLost,
    RemoteError,
    StreamCancelled,
    StreamFailed,
    Unauthenticated,
    UnexpectedData,
    UsageError,
    WsbusError,
)
from ..core.events import ChannelLoss, Event, EventPage, Gap, GapCause, Position
from ..core.messages import Receipt, Status
from ..core.overflow import Overflow
from ..core.presence import Roster, RosterChange
from ..core.streams import StreamPart
from .changes import Change, Changes, Closed, Connected, Missed, Reconnecting, RefreshFailed
from .client import Client
from .connecting import Connecting, connect
from .events import Events
from .streams import ClientStream
from .watches import PresenceWatch

__all__ = [
    "Change",
    "Changes",
    "ChannelLoss",
    "Client",
    "ClientStream",
    "Closed",
    "CommandError",
    "ConnectError",
    "Connected",
    "Connecting",
    "ConnectionLost",
    "Event",
    "EventPage",
    "Events",
    "Gap",
    "GapCause",
    "MessageTooLarge",
    "Missed",
    "Overflow",
    "Position",
    "PositionLost",
    "PresenceWatch",
    "Receipt",
    "Reconnecting",
    "RefreshFailed",
    "RemoteError",
    "Retry",
    "Roster",
    "RosterChange",
    "Status",
    "StreamCancelled",
    "StreamFailed",
    "StreamPart",
    "Unauthenticated",
    "UnexpectedData",
    "UsageError",
    "WsbusError",
    "connect",
]
