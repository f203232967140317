"""The nodes of a service, as far as their beacons tell."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from ..core.envelope import Beacon
from ..core.presence import MAX_NODES

__all__ = ["PROBE_SECONDS", "Directory", "Node", "own_beacon"]

PROBE_SECONDS: Final = 2.0
"""Seconds between two beacons. With :data:`.CALL_SECONDS` to come back, a dead link is noticed
within 5 s."""

_GONE_SECONDS: Final = 3 * PROBE_SECONDS
"""A node whose beacon is older is not there any more."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A process with a bus, as its last beacon says."""

    id: str
    host: str
    pid: int
    connections: int
    started_at: float
    """Seconds since the epoch."""
    seen: float
    """Seconds since its last beacon."""
    is_self: bool


class Directory:
    """Notes the beacons of nodes.

    Args:
        node: This node.
        forget: Called with each node that is gone.
        expire: Called now and then with the nodes that are there.
    """

    def __init__(
        self,
        node: str,
        forget: Callable[[str], object],
        expire: Callable[[Collection[str]], object],
    ) -> None:
        self._node: Final = node
        self._forget: Final = forget
        self._expire: Final = expire
        self._seen: Final[dict[str, tuple[Beacon, float]]] = {}

    def note(self, node: str, beacon: Beacon, now: float) -> bool:
        """Note a beacon that came at ``now``, in seconds of the loop; return whether it is new."""
        is_new = node not in self._seen and not beacon.is_leaving
        if is_new and len(self._seen) >= MAX_NODES:
            return False  # A broker may bring beacons of any number.
        if beacon.is_leaving:
            self._seen.pop(node, None)
            self._forget(node)
        else:
            self._seen[node] = (beacon, now)
        return is_new

    def expire(self, now: float) -> None:
        """Drop the nodes that are not there any more."""
        gone = [n for n, (_, seen) in self._seen.items() if now - seen > _GONE_SECONDS]
        for node in gone:
            del self._seen[node]
            self._forget(node)
        self._expire(self._seen.keys())

    def renew(self, now: float) -> None:
        """Take every node to be there: no beacon could come for a while."""
        self._seen.update({node: (beacon, now) for node, (beacon, _) in self._seen.items()})

    def nodes(self, own: Beacon, now: float) -> list[Node]:
        """Return the nodes that are there; this one, with its own beacon, is the first."""
        found = [
            Node(
                id=node,
                host=beacon.host,
                pid=beacon.pid,
                connections=beacon.connections,
                started_at=beacon.started_at,
                seen=now - seen,
                is_self=node == self._node,
            )
            for node, (beacon, seen) in {**self._seen, self._node: (own, now)}.items()
            if now - seen <= _GONE_SECONDS
        ]
        return sorted(found, key=lambda node: (not node.is_self, node.started_at))


def own_beacon(
    number: int, connections: int, started_at: float, *, is_leaving: bool = False
) -> Beacon:
    """Return a beacon of this process."""
    host, pid = platform.node(), os.getpid()
    return Beacon(number, host, pid, connections, started_at, is_leaving)
