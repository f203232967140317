"""Log lines about refused connections that show a mistake in the set-up."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from ._log import BoundedLog, about, escaped
from .transport import Handshake

__all__ = ["Notices"]

logger: Final = logging.getLogger("wsbus.endpoint")


class Notices:
    """Logs the refusals of one endpoint, with a bound: any client can cause most of them."""

    __slots__ = ("_has_told_of_rest", "_has_told_of_token", "log")

    def __init__(self) -> None:
        self._has_told_of_rest = False
        self._has_told_of_token = False
        self.log: Final = BoundedLog(logger)
        """The log for failures of the application's functions at a handshake."""

    def of_rest(self, path: str, remedy: str) -> None:
        """Log, once, that connections are refused because the bus is not running.

        Args:
            path: The path that the client asked for.
            remedy: How to start the bus with this adapter.
        """
        if not self._has_told_of_rest:
            self._has_told_of_rest = True
            logger.warning(
                "connections to %s are refused: nobody has started the bus of this endpoint; %s",
                escaped(path),
                remedy,
                extra=about("not_started", path=escaped(path)),
            )

    def of_query_token(self, remedy: str) -> None:
        """Log, once, that the server's log may hold the tokens of this endpoint.

        Args:
            remedy: How to keep tokens out of it.
        """
        if not self._has_told_of_token:
            self._has_told_of_token = True
            logger.warning(
                "this endpoint takes tokens in the query (query_token=), and the server may log "
                "queries; %s",
                remedy,
                extra=about("query_tokens"),
            )

    def of_refusal(self, handshake: Handshake, status: int, reason: str) -> None:
        """Log that a connection is refused, for reasons without a log line of their own.

        A name that is taken (409) is normal where clients reconnect, and is logged at INFO.
        """
        level = logging.INFO if status == 409 else logging.WARNING
        words = "refused a connection to %s with status %d: %s"
        self.log.log(
            level,
            words,
            escaped(handshake.path),
            status,
            escaped(reason),
            of=str(status),
            extra=about("refused", path=escaped(handshake.path), status=status),
        )

    def of_token(self, handshake: Handshake, reason: str) -> None:
        """Log that a token is refused, and why; never the token."""
        path = escaped(handshake.path)
        self.log.warning(
            "a token is refused: %s (on %s)",
            escaped(reason, 300),
            path,
            extra=about("token_refused", path=path),
        )

    def of_origin(self, handshake: Handshake, origins: Collection[str] | str) -> None:
        """Log that an origin is refused, and the origins that are accepted."""
        if origins == "same-host":
            host = escaped(handshake.headers.get("host", ""))
            expected = (
                f"the request's own Host, {host} (let the proxy pass Host on with its port, or "
                "name the page's origin in bus.endpoint(origins=[…]))"
            )
        else:
            known = escaped(", ".join(sorted(origins)), 300) or "no page's"
            expected = f"{known} (name the page's origin in bus.endpoint(origins=[…]))"
        self.log.warning(
            "refused a connection from the origin %s; this endpoint takes %s",
            escaped(handshake.headers.get("origin", "")),
            expected,
            extra=about("origin_refused", path=escaped(handshake.path)),
        )
