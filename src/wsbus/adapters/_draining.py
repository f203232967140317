"""Draining over HTTP, for every framework: what Kubernetes calls before it stops a container."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from .._log import BoundedLog, about, escaped
from ..bus import Bus
from ..core.addresses import is_loopback, shows_proxy
from ..core.choices import is_number, shown
from ..core.errors import UsageError
from ..core.returning import MAX_RETURN_SECONDS
from ..web.pages import AssetResponse
from ._bearers import Bearers

__all__ = ["Draining"]

logger: Final = logging.getLogger("wsbus.drain")

_OF_BROWSERS: Final = ("origin", "referer", "sec-fetch-site")


class Draining:
    """Answers requests to drain a bus, once it is drained.

    Without a token it takes ``POST`` from programs on the same machine: the peer's address is of
    the loopback, and nothing shows a proxy or a browser in between. With a token it takes ``GET``,
    too, which is all that Kubernetes' ``httpGet`` can send.

    Args:
        bus: The bus.
        token: The token that a request must have, or several; None: see above.
        window: As for :meth:`.Bus.drain`.

    Raises:
        UsageError: An argument is wrong, or a token is too short.
    """

    def __init__(self, bus: Bus, token: str | Collection[str] | None, window: float) -> None:
        if not isinstance(bus, Bus):
            raise UsageError(f"the route drains a bus, not {shown(bus)}")
        if not (is_number(window) and 0 <= window <= MAX_RETURN_SECONDS):
            raise UsageError(f"window is 0 to {MAX_RETURN_SECONDS:g} seconds, not {shown(window)}")
        self._bus: Final = bus
        self._bearers: Final = None if token is None else Bearers(token)
        self._window: Final = window
        self._log: Final = BoundedLog(logger)

    async def answer(
        self, method: str, headers: Iterable[tuple[str, str]], address: str | None
    ) -> AssetResponse:
        """Answer a request, when the bus is drained: within ten seconds.

        Args:
            method: The method.
            headers: The headers, with names in any case.
            address: The address of the peer; None: it has none, as over a Unix socket.
        """
        found = [(name.lower(), value) for name, value in headers]
        status, why, more = self._judge(method, found, address)
        if status != 200:
            self._log.warning(
                "a request to drain was refused with %d: %s",
                status,
                escaped(why, 300),
                extra=about("drain_refused", status=status),
            )
            return _json(status, {"error": {"message": why}}, more)
        if not self._bus.is_running:
            return _json(503, {"error": {"message": "the bus is not running"}}, {})
        await self._bus.drain(self._window)
        return _json(200, {"drained": True}, {})

    def _judge(
        self, method: str, headers: Sequence[tuple[str, str]], address: str | None
    ) -> tuple[int, str, dict[str, str]]:
        if self._bearers is not None:
            if not self._bearers.accept(headers):
                why = "Authorization: Bearer … with a valid token is needed"
                return 401, why, {"WWW-Authenticate": "Bearer"}
            return _allow(method, "POST", "GET")
        if not is_loopback(address):
            return 403, "drain from the same machine, or give the route a token", {}
        strange = next((name for name, _ in headers if _is_foreign(name)), None)
        if strange is not None:
            return 403, f"the header {strange} shows a proxy or a browser", {}
        return _allow(method, "POST")


def _allow(method: str, *allowed: str) -> tuple[int, str, dict[str, str]]:
    if method in allowed:
        return 200, "", {}
    return 405, f"drain with {' or '.join(allowed)}", {"Allow": ", ".join(allowed)}


def _is_foreign(name: str) -> bool:
    return name in _OF_BROWSERS or shows_proxy(name)


def _json(status: int, content: object, headers: dict[str, str]) -> AssetResponse:
    own = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return AssetResponse(status, own | headers, msgspec.json.encode(content))
