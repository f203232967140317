"""Publish from a process that has no bus: a worker, a Celery task, a Django view, a script.

An emitter hands publications to the broker that the buses of a service share, in their own form,
after their own checks. It has no subscribers, and no clients connect to it.

From code with an event loop::

    async with Emitter(RedisBroker("redis://127.0.0.1:6379")) as emitter:
        await emitter.publish("orders.42", {"state": "paid"}, event="paid")

From code without one::

    emitter = SyncEmitter("redis://127.0.0.1:6379")
    emitter.publish("orders.42", {"state": "paid"}, event="paid")

Every call returns once the broker has taken what it published, or raises
:class:`.BrokerUnavailable`. Nothing is tried again by itself; the next call dials anew. What
belongs together goes in a batch, which the broker takes at once::

    async with emitter.batch() as batch:
        for order in orders:
            batch.publish(channel("orders", order.id), order)
"""

from __future__ import annotations

from ..server.batch import EmitterBatch
from .emitter import Emitter
from .sync import SyncEmitter

__all__ = ["Emitter", "EmitterBatch", "SyncEmitter"]
