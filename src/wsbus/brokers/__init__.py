"""Brokers: what carries publications between processes.

``MemoryBroker()`` joins buses of one process; ``RedisBroker("redis://…")`` and
``NatsBroker("nats://…")`` join processes, and need the extras ``redis`` and ``nats``.
"""

from __future__ import annotations

from .memory import MemoryBroker

__all__ = ["MemoryBroker"]
