"""Brokers: what carries publications between processes.

``MemoryBroker()`` joins buses of one process; ``RedisBroker("redis://…")`` and
``NatsBroker("nats://…")`` join processes, and need the extras ``redis`` and ``nats``.
"""

from __future__ import annotations

from ..broker import Broker
from ..core.choices import shown
from ..core.errors import UsageError
from .memory import MemoryBroker
from .nats import NatsBroker
from .redis import RedisBroker

__all__ = ["MemoryBroker", "NatsBroker", "RedisBroker", "broker_of"]


def broker_of(url: str) -> Broker:
    """Return a broker for a URL, as programs take it from their command line.

    Raises:
        UsageError: No broker has such a URL.
        ModuleNotFoundError: The extra of that broker is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "memory":
        return MemoryBroker()
    if scheme in {"nats", "tls"}:
        return NatsBroker(url)
    if scheme.startswith(("redis", "valkey", "unix")):
        return RedisBroker(url)
    raise UsageError(
        f"the URL of a broker begins with memory:, redis:// or nats://, not {shown(scheme)}"
    )
