"""The pub/sub layer that a Python backend embeds to talk over WebSockets.

::

    bus = Bus()

    async with bus:
        await bus.publish("prices.BTC", {"last": 95000}, event="tick")

Endpoints are made with :meth:`.Bus.endpoint` and mounted by an adapter:
:mod:`wsbus.adapters.starlette`, :mod:`wsbus.adapters.asgi`, :mod:`wsbus.adapters.aiohttp`,
:mod:`wsbus.adapters.websockets`.
"""

from __future__ import annotations

from .auth import JWT, Authenticator, grants_from_claims
from .bus import Bus
from .connection import Connection, ConnectionId, ConnectionInfo
from .core.channels import Channel, channel, escape_segment, parse_channel, unescape_segment
from .core.errors import (
    BrokerUnavailable,
    CloseCode,
    CommandError,
    ErrorCode,
    InvalidChannel,
    NotStarted,
    PositionLost,
    RemoteError,
    StreamCancelled,
    StreamFailed,
    TransportClosed,
    Unauthenticated,
    UsageError,
    WsbusError,
)
from .core.events import ChannelLoss, Event, EventPage, Gap, GapCause, Position
from .core.families import Family, History, Presence, Stream
from .core.forms import Compression
from .core.heartbeat import HeartbeatPolicy
from .core.limits import Limits
from .core.messages import Receipt
from .core.overflow import Overflow
from .core.patterns import Pattern, parse_pattern
from .core.permissions import Grants, Identity
from .core.presence import Occupant
from .core.streams import StreamPart
from .endpoint import Admission, Endpoint, Refusal
from .server.directory import Node
from .server.hooks import Hook, PatternHook, SubscriptionHook
from .server.relay import LinkStatistics
from .server.services import Authorize
from .server.statistics import BusStatistics
from .server.stream_writer import StreamWriter
from .server.streaming import StreamReader
from .server.subscription import Subscription
from .server.typed import TypedChannel
from .transport import Handshake

__version__ = "0.1.0"

__all__ = [
    "JWT",
    "Admission",
    "Authenticator",
    "Authorize",
    "BrokerUnavailable",
    "Bus",
    "BusStatistics",
    "Channel",
    "ChannelLoss",
    "CloseCode",
    "CommandError",
    "Compression",
    "Connection",
    "ConnectionId",
    "ConnectionInfo",
    "Endpoint",
    "ErrorCode",
    "Event",
    "EventPage",
    "Family",
    "Gap",
    "GapCause",
    "Grants",
    "Handshake",
    "HeartbeatPolicy",
    "History",
    "Hook",
    "Identity",
    "InvalidChannel",
    "Limits",
    "LinkStatistics",
    "Node",
    "NotStarted",
    "Occupant",
    "Overflow",
    "Pattern",
    "PatternHook",
    "Position",
    "PositionLost",
    "Presence",
    "Receipt",
    "Refusal",
    "RemoteError",
    "Stream",
    "StreamCancelled",
    "StreamFailed",
    "StreamPart",
    "StreamReader",
    "StreamWriter",
    "Subscription",
    "SubscriptionHook",
    "TransportClosed",
    "TypedChannel",
    "Unauthenticated",
    "UsageError",
    "WsbusError",
    "channel",
    "escape_segment",
    "grants_from_claims",
    "parse_channel",
    "parse_pattern",
    "unescape_segment",
]
