"""The broker that an emitter publishes to, and its receipt."""

from __future__ import annotations

from typing import Final

from ..broker import Broker
from ..brokers import MemoryBroker, broker_of
from ..core.choices import shown
from ..core.errors import UsageError
from ..core.messages import Receipt

__all__ = ["RECEIPT", "TIMEOUT", "broker_for"]

TIMEOUT: Final = 10.0
"""Seconds to dial, and for the broker to take what is published; more than both may take."""

RECEIPT: Final = Receipt(0, 0)
"""An emitter has no receivers of its own."""


def broker_for(given: Broker | str) -> Broker:
    """Return the broker that is given, or that of a URL.

    Raises:
        UsageError: It is neither, or reaches nothing.
    """
    if isinstance(given, str):
        given = broker_of(given)
        if isinstance(given, MemoryBroker):
            raise UsageError(
                "memory: is inside one process, and reaches no other; give redis://… or nats://…, "
                "or the MemoryBroker of a bus in this process"
            )
    if not isinstance(given, Broker):
        raise UsageError(
            f"an emitter takes RedisBroker(…), NatsBroker(…), or a URL, not {shown(given)}"
        )
    return given
