"""What an endpoint's log says of connections that are refused through a mistake of the operator."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from time import monotonic
from typing import Final

from .transport import Handshake

__all__ = ["Notices", "escaped"]

logger: Final = logging.getLogger("wsbus.endpoint")

_ORIGINS_A_MINUTE: Final = 10


class Notices:
    """Warns of one endpoint, and not too often."""

    __slots__ = ("_has_told_of_rest", "_origins")

    def __init__(self) -> None:
        self._has_told_of_rest = False
        # When origins were logged as warnings. Many of them must not fill a log at that level.
        self._origins: Final[deque[float]] = deque(maxlen=_ORIGINS_A_MINUTE)

    def of_rest(self, path: str, remedy: str) -> None:
        """Log, once, that connections are refused because nobody has started the bus.

        Args:
            path: What the client asked for.
            remedy: How the bus is started where this endpoint is served.
        """
        if not self._has_told_of_rest:
            self._has_told_of_rest = True
            logger.warning(
                "connections to %s are refused: nobody has started the bus of this endpoint; %s",
                escaped(path),
                remedy,
            )

    def of_origin(self, handshake: Handshake, origins: Collection[str] | str) -> None:
        """Log that an origin is refused, with what it was compared to."""
        now, shown = monotonic(), self._origins
        is_shown = len(shown) < _ORIGINS_A_MINUTE or now - shown[0] > 60
        if is_shown:
            shown.append(now)
        if origins == "same-host":
            host = escaped(handshake.headers.get("host", ""))
            expected = (
                f"the request's own Host, {host} (let the proxy pass Host on with its port, or "
                "name the page's origin in bus.endpoint(origins=[…]))"
            )
        else:
            expected = escaped(", ".join(origins), 300)
        logger.log(
            logging.WARNING if is_shown else logging.INFO,
            "refused a connection from the origin %s; this endpoint takes %s",
            escaped(handshake.headers.get("origin", "")),
            expected,
        )


def escaped(text: str, limit: int = 100) -> str:
    """Return a client's word as it may stand in a log line: control characters escaped, short."""
    short = text if len(text) <= limit else text[:limit] + "…"
    return short.encode("unicode_escape", "backslashreplace").decode("ascii")
