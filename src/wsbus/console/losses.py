"""Connections that have lost publications lately, as the counters of their queues tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from anyio.lowlevel import checkpoint

from ..core.queue import MessageQueue
from ..server.connection import ConnectionDriver
from ..server.services import Services
from ..server.statistics import BusStatistics
from .samples import LOSS_CHANNELS, LOSS_ROWS, LossRow
from .sampling import Effort, chunks, cut

__all__ = ["Losses"]

_QUIET_SECONDS: Final = 60.0
"""A loss that comes later than this after the last one of its connection begins a new row."""

_Key = tuple[str, float]


class Losses:
    """Notes which connections lose publications, from one look to the next.

    The first look only learns the counters: nobody knows when those publications were lost.
    A look at a bus that has lost nothing since the last one visits no connection.
    """

    def __init__(self) -> None:
        self._total: int | None = None
        self._counts: dict[_Key, int] = {}
        self._rows: dict[_Key, LossRow] = {}

    def rows(self) -> list[LossRow]:
        """Return the connections with losses, that with the latest first."""
        return [*reversed(self._rows.values())]

    async def look(
        self, services: Services, totals: BusStatistics, at: float, effort: Effort
    ) -> None:
        """Note what was lost since the last look; ``at``: seconds of the epoch."""
        total = totals.dropped - totals.conflated + totals.refused
        if total == self._total:
            return
        is_first, self._total = self._total is None, total
        before, self._counts = self._counts, {}
        for chunk in chunks(services.registry.connected()):
            with effort:
                for driver, key, lost in _counted(chunk):
                    self._counts[key] = lost
                    more = lost - before.get(key, 0)
                    if more > 0 and not is_first:
                        self._add(key, driver, more, at)
            await checkpoint()

    def _add(self, key: _Key, driver: ConnectionDriver, lost: int, at: float) -> None:
        """Add to the row of a connection, or begin one; the oldest gives way."""
        row = self._rows.pop(key, None)
        if row is None or at - row.at > _QUIET_SECONDS:
            row = _row(driver, at)
        known = dict.fromkeys([*row.channels, *_channels(driver.member.queue)])
        self._rows[key] = msgspec.structs.replace(
            row,
            at=at,
            lost=row.lost + lost,
            channels=tuple(known)[:LOSS_CHANNELS],
            has_more=row.has_more or len(known) > LOSS_CHANNELS,
        )
        if len(self._rows) > LOSS_ROWS:
            del self._rows[next(iter(self._rows))]


def _counted(drivers: Iterable[ConnectionDriver]) -> list[tuple[ConnectionDriver, _Key, int]]:
    """Return the connections that have ever lost something, each with its key and how much."""
    counted = [(driver, driver.member.queue.lost_ever) for driver in drivers]
    return [(driver, (driver.id, driver.connected_at), lost) for driver, lost in counted if lost]


def _row(driver: ConnectionDriver, at: float) -> LossRow:
    identity = driver.identity
    return LossRow(
        id=cut(driver.id),
        subject=msgspec.UNSET if identity is None else cut(identity.subject),
        connected_at=driver.connected_at,
        since=at,
        at=at,
    )


def _channels(queue: MessageQueue[Any]) -> list[str]:
    """Return the channels of what its client was not yet told of."""
    loss = queue.unreported
    return [] if loss is None or loss.channels is None else [cut(name) for name in loss.channels]
