"""Tools for testing applications and adapters.

A clock that a test moves (:class:`.ManualClock`), transports without sockets
(:class:`.MemoryTransport`), a WebSocket client that can break the rules (:class:`.Peer`), a TCP
proxy with faults (:class:`.FaultProxy`), and the conformance suite of transports
(:func:`.check_transport`).
"""

from __future__ import annotations

from .adapters import Adapter, ConformanceError
from .clock import ManualClock
from .memory import DirectMemoryTransport, MemoryPeer, MemoryTransport
from .peer import Peer
from .proxy import FaultProxy, ProxiedConnection
from .transports import TRANSPORT_CHECKS, check_transport

__all__ = [
    "TRANSPORT_CHECKS",
    "Adapter",
    "ConformanceError",
    "DirectMemoryTransport",
    "FaultProxy",
    "ManualClock",
    "MemoryPeer",
    "MemoryTransport",
    "Peer",
    "ProxiedConnection",
    "check_transport",
]
