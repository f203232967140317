"""The Python client, for asyncio and trio.

::

    async with connect("wss://example.org/ws", token=token) as client:
        async with client.subscribe("prices.*") as events:
            async for event in events:
                print(event.channel, event.data)

Needs the extra ``client``.
"""

from __future__ import annotations

from ..core.client_actions import GapCause
from ..core.client_retry import Retry
from ..core.errors import (
    CommandError,
    ConnectError,
    ConnectionLost,
    RemoteError,
    Unauthenticated,
    UnexpectedData,
    UsageError,
    WsbusError,
)
from ..core.hub import Receipt
from ..core.messages import Status
from ..core.overflow import Overflow
from .changes import Change, Changes, Closed, Connected, Gap, Reconnecting, RefreshFailed
from .client import Client
from .connecting import connect
from .events import Event, Events

__all__ = [
    "Change",
    "Changes",
    "Client",
    "Closed",
    "CommandError",
    "ConnectError",
    "Connected",
    "ConnectionLost",
    "Event",
    "Events",
    "Gap",
    "GapCause",
    "Overflow",
    "Receipt",
    "Reconnecting",
    "RefreshFailed",
    "RemoteError",
    "Retry",
    "Status",
    "Unauthenticated",
    "UnexpectedData",
    "UsageError",
    "WsbusError",
    "connect",
]
