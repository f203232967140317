"""The names of connections: what ``name_connection`` makes of a handshake."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from ._application import call
from ._log import about
from ._notices import Notices
from ._places import NOT_AVAILABLE, Refusal
from .core.errors import CloseCode, Unauthenticated
from .transport import Handshake

__all__ = ["name_for"]

MAX_NAME_BYTES: Final = 1024
"""The longest name of a connection, in bytes of UTF-8."""


def name_for(
    name_connection: Callable[[Handshake], str] | None, handshake: Handshake, notices: Notices
) -> str | Refusal | None:
    """Return the name for a connection, or a refusal, or None."""
    if name_connection is None:
        return None
    try:
        name: Any = call(copy_context(), name_connection, handshake)
    except Unauthenticated as exc:
        notices.of_refusal(handshake, 401, exc.message)
        return Refusal(401, exc.message, CloseCode.TOKEN_REFUSED)
    except Exception:
        notices.log.exception("name_connection failed", extra=about("name_connection_failed"))
        return NOT_AVAILABLE
    if not isinstance(name, str):
        notices.log.error(
            "name_connection returned a %s, not a text",
            type(name).__name__,
            extra=about("name_connection_failed"),
        )
        return NOT_AVAILABLE
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # UTF-8 cannot encode it.
        size = 0
    if not 0 < size <= MAX_NAME_BYTES:
        return Refusal(400, f"the name of a connection has 1 to {MAX_NAME_BYTES} bytes of UTF-8")
    return name
