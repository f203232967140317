"""For those who test what they build on wsbus, or write an adapter for it.

Time that a test lets pass (:class:`.ManualClock`), transports without sockets
(:class:`.MemoryTransport`), a WebSocket client that breaks every rule it is asked to
(:class:`.Peer`), and the conformance suite of transports (:func:`.check_transport`).
"""

from __future__ import annotations

from .adapters import Adapter, ConformanceError
from .clock import ManualClock
from .memory import DirectMemoryTransport, MemoryPeer, MemoryTransport
from .peer import Peer
from .transports import TRANSPORT_CHECKS, check_transport

__all__ = [
    "TRANSPORT_CHECKS",
    "Adapter",
    "ConformanceError",
    "DirectMemoryTransport",
    "ManualClock",
    "MemoryPeer",
    "MemoryTransport",
    "Peer",
    "check_transport",
]
