"""The state of a bus over HTTP: what operators see, and what probes ask."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..core.encoding import encode_data
from .host import BusHost

__all__ = ["Alive", "Readiness", "probe_views", "respond", "status_views"]


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the process should get traffic: ``healthy`` of the bus, and why it is not."""

    ready: bool
    reason: str | None = None


class Alive(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the process should go on: ``is_running`` of the bus."""

    live: bool
    reason: str | None = None


def status_views(host: BusHost) -> dict[str, Callable[[], object]]:
    """Return the views for operators over HTTP, by the last segment of the path."""
    return {
        "statistics": host.statistics,
        "connections": host.connections,
        "ready": lambda: _readiness(host, _lost_link),
        "live": lambda: _liveness(host),
    }


def probe_views(host: BusHost) -> dict[str, Callable[[], object]]:
    """Return the views for probes alone, by the last segment; they name no address."""
    return {
        "ready": lambda: _readiness(host, lambda _: "there is no link to the broker"),
        "live": lambda: _liveness(host),
    }


def respond(tell: Callable[[], object]) -> tuple[int, bytes]:
    """Return the status and the JSON for a view."""
    data = tell()
    is_bad = (isinstance(data, Readiness) and not data.ready) or (
        isinstance(data, Alive) and not data.live
    )
    return (503 if is_bad else 200), encode_data(data)


def _liveness(host: BusHost) -> Alive:
    return Alive(live=True) if host.is_running else Alive(live=False, reason=_STOPPED)


def _readiness(host: BusHost, no_link: Callable[[BusHost], str]) -> Readiness:
    if not host.is_running:
        return Readiness(ready=False, reason=_STOPPED)
    if host.is_leaving:
        return Readiness(ready=False, reason="the bus was drained")
    if host.is_healthy:
        return Readiness(ready=True)
    return Readiness(ready=False, reason=no_link(host))


def _lost_link(host: BusHost) -> str:
    link = host.statistics().broker
    assert link is not None  # Nothing else makes a running bus unhealthy.
    return f"there is no link to {link.address} since {link.seconds:.0f} s: {link.failure}"


_STOPPED = "the bus is not running"
