"""Protocols (dialects): frames to requests, and replies and events to frames.

A client picks one by its subprotocol token. Those of this package are registered here; an
application registers its own with :func:`.register`, or passes the object itself to an endpoint.

The parts for a dialect of one's own are here, too: :class:`.WireProtocol` for any frames, or
:class:`.TaggedJson` for JSON objects with a ``type``; the requests and replies, in ``messages``
(:mod:`wsbus.core.messages`); :class:`.Frame`; :class:`.Instant`; and the bounded queue that
connections have, :class:`.MessageQueue`.
"""

from __future__ import annotations

from typing import Final

from ..core import messages
from ..core.frame import Frame
from ..core.instant import Instant
from ..core.protocol import WireProtocol
from ..core.queue import MessageQueue
from .msgpack import MessagePack
from .native import Native
from .registry import protocol, protocols_of, register, single
from .tagged import (
    ClientMessage,
    PingMessage,
    PongMessage,
    StatusMessage,
    TaggedJson,
    TaggedMessage,
)
from .zigquant import ZigQuant

__all__ = [
    "ClientMessage",
    "Frame",
    "Instant",
    "MessagePack",
    "MessageQueue",
    "Native",
    "PingMessage",
    "PongMessage",
    "StatusMessage",
    "TaggedJson",
    "TaggedMessage",
    "WireProtocol",
    "ZigQuant",
    "messages",
    "protocol",
    "protocols_of",
    "register",
]

_native: Final = Native()
register(_native)
register(single(_native))
register(MessagePack())
register(ZigQuant())
