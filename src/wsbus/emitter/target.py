"""The broker that an emitter publishes to, and its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..broker import Broker
from ..brokers import MemoryBroker, broker_of
from ..core.choices import shown
from ..core.errors import UsageError
from ..core.history import Stored
from ..core.messages import Receipt

__all__ = ["TIMEOUT", "broker_for", "receipt_of"]

TIMEOUT: Final = 10.0
"""Seconds to dial, and for the broker to take what is published; more than both may take."""


def receipt_of(stored: Sequence[Stored]) -> Receipt:
    """Return the receipt of what a broker has taken; an emitter has no receivers of its own.

    Args:
        stored: The outcomes of the publications that it keeps. Of several the receipt says nothing.
    """
    if len(stored) != 1:
        return Receipt(0, 0)
    return Receipt(0, 0, stored[0].position, repeated=stored[0].is_repeated)


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
