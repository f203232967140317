"""Tools for testing applications and adapters.

A clock that a test moves (:class:`.ManualClock`), transports without sockets
(:class:`.MemoryTransport`), a WebSocket client that can break the rules (:class:`.Peer`), a TCP
proxy with faults (:class:`.FaultProxy`), and the conformance suites of transports
(:func:`.check_transport`) and brokers (:func:`.check_broker`).
"""

from __future__ import annotations

from .adapters import Adapter, ConformanceError
from .brokers import BROKER_CHECKS, check_broker
from .clock import ManualClock
from .memory import DirectMemoryTransport, MemoryPeer, MemoryTransport
from .peer import Peer
from .proxy import FaultProxy, ProxiedConnection
from .transports import TRANSPORT_CHECKS, check_transport

__all__ = [
    "BROKER_CHECKS",
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
    "check_broker",
    "check_transport",
]
