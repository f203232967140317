"""Tools for testing applications and adapters.

The Python client in memory (:func:`.client`), expectations about its events (:func:`.expect`), a
clock that a test moves (:class:`.ManualClock`), networks that fail (:class:`.MemoryNetwork`;
:class:`.FaultProxy` for TCP), a broker with outages (:class:`.FaultyBroker`), and fixtures for
pytest (:mod:`wsbus.testing.pytest`).

For authors of adapters and brokers: transports without sockets (:class:`.MemoryTransport`), a
WebSocket client that can break the rules (:class:`.Peer`), and the conformance suites of transports
(:func:`.check_transport`) and brokers (:func:`.check_broker`).
"""

from __future__ import annotations

from .adapters import Adapter, ConformanceError
from .brokers import BROKER_CHECKS, check_broker
from .clock import ManualClock
from .expecting import ANYTHING, EventSource, Expectation, expect
from .in_memory import client
from .memory import DirectMemoryTransport, MemoryPeer, MemoryTransport
from .network import MemoryNetwork
from .outage import FaultyBroker
from .peer import Peer
from .proxy import FaultProxy, ProxiedConnection
from .transports import TRANSPORT_CHECKS, check_transport

__all__ = [
    "ANYTHING",
    "BROKER_CHECKS",
    "TRANSPORT_CHECKS",
    "Adapter",
    "ConformanceError",
    "DirectMemoryTransport",
    "EventSource",
    "Expectation",
    "FaultProxy",
    "FaultyBroker",
    "ManualClock",
    "MemoryNetwork",
    "MemoryPeer",
    "MemoryTransport",
    "Peer",
    "ProxiedConnection",
    "check_broker",
    "check_transport",
    "client",
    "expect",
]
