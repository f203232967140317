"""Ends connections in order: all at once when a bus stops, or in batches, with advice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from anyio import current_time, move_on_after, sleep

from ..core.returning import Spread, with_return
from ..endpoint import Endpoint
from .connection import ConnectionDriver
from .services import Services

__all__ = ["STUCK_SECONDS", "drain", "drain_in_batches"]

STUCK_SECONDS: Final = 1.0
"""A connection that takes no frame for so long while it is drained is aborted."""

_LAST_SECONDS: Final = 1.0
"""The time for connections to end once they are aborted."""

_BATCHES_A_SECOND: Final = 20
_BATCH: Final = 50
"""The smallest batch: 1,000 connections a second are closed, if that is fast enough."""


async def drain(
    services: Services,
    endpoint: Endpoint | None,
    deadline: float,
    code: int,
    spread: Spread | None = None,
) -> None:
    """Send each connection what it is owed and a close frame; return when all are gone.

    Takes at most a second longer than the deadline.

    Args:
        services: Those of the bus.
        endpoint: Whose connections end; None: all do.
        deadline: Seconds after which the connections that are left are aborted.
        code: The close code.
        spread: Advises when to come again; None: there is no advice.
    """
    services.flusher.flush()
    _close(services, services.registry.connected(endpoint), code, spread)
    # On plain ASGI only time tells which are stuck: they are blocked, and take nothing.
    progress = {d: d.outlet.progress_at for d in services.registry.connected(endpoint)}
    with move_on_after(min(STUCK_SECONDS, deadline)):
        await services.registry.all_gone(endpoint)
    for driver, before in progress.items():
        if driver.member.is_waiting and driver.outlet.progress_at == before:
            driver.abort()
    # Connections that are left at the deadline are aborted; their readers end within a second.
    for seconds in (max(deadline - STUCK_SECONDS, 0.0), _LAST_SECONDS):
        with move_on_after(seconds):
            await services.registry.all_gone(endpoint)
        for driver in services.registry.connected(endpoint):
            driver.abort()


async def drain_in_batches(
    services: Services, window: float, deadline: float, code: int, spread: Spread
) -> None:
    """Like :func:`drain`, of all endpoints, but a batch at a time, so that the loop goes on.

    Half of the deadline, or of the window, is for the batches; the rest is for slow clients.
    """
    begun = current_time()
    most = min(window, deadline) / 2
    left = services.registry.connected()
    size = max(_BATCH, round(len(left) / max(1.0, most * _BATCHES_A_SECOND) + 0.5))
    while left and current_time() - begun < most:
        services.flusher.flush()
        _close(services, left[:size], code, spread)
        left = left[size:]
        if left:
            await sleep(1 / _BATCHES_A_SECOND)
    # All that are left, and connections that had been admitted before the drain began.
    await drain(services, None, max(0.0, begun + deadline - current_time()), code, spread)


def _close(
    services: Services, drivers: Iterable[ConnectionDriver], code: int, spread: Spread | None
) -> None:
    for driver in drivers:
        if driver.is_stuck:
            driver.abort()
        elif driver.close_code is None:
            reason = "the server is shutting down"
            if spread is not None and driver.protocol.advises:
                reason = with_return(reason, spread.advise(services.clock().monotonic))
            driver.connection.disconnect(code, reason)
