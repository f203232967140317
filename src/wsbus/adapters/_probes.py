"""Probes over HTTP, for every framework: what Kubernetes and proxies ask again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..bus import Bus, host_of
from ..core.choices import shown
from ..core.errors import UsageError
from ..server.status import probe_views, respond
from ..web.pages import AssetResponse

__all__ = ["probes_of"]

_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}


def probes_of(bus: Bus) -> dict[str, Callable[[], AssetResponse]]:
    """Return what answers each probe, by the last segment of its path.

    Raises:
        UsageError: It is not a bus.
    """
    if not isinstance(bus, Bus):
        raise UsageError(f"a probe asks a bus, not {shown(bus)}")
    return {name: _answering(tell) for name, tell in probe_views(host_of(bus)).items()}


def _answering(tell: Callable[[], object]) -> Callable[[], AssetResponse]:
    def answer() -> AssetResponse:
        status, body = respond(tell)
        return AssetResponse(status, _HEADERS, body)

    return answer
