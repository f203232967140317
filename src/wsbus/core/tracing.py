"""The interface of tracing, for a bus and an emitter; see :mod:`wsbus.opentelemetry`.

The context of a publication travels as a *trace parent*, the text of the header ``traceparent`` in
`W3C Trace Context <https://www.w3.org/TR/trace-context/>`_.
"""

from __future__ import annotations

import re
from typing import Final, Protocol, runtime_checkable

__all__ = ["TracedWork", "Tracing", "checked_parent"]

_is_parent: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def checked_parent(text: str) -> str | None:
    """Return a trace parent that comes from outside; None: it has not the form of one."""
    return text if _is_parent(text) else None


class TracedWork(Protocol):
    """A span that has begun."""

    @property
    def trace_parent(self) -> str | None:
        """Its context, for others to link to; None: it has none."""
        ...

    def end(self, error: str | None = None) -> None:
        """End it; call it once.

        Args:
            error: A word for what went wrong, never a text with data; None: nothing did.
        """
        ...


@runtime_checkable
class Tracing(Protocol):
    """Begins spans; any thread may use it."""

    def publication(self, channel: str, *, is_of_client: bool) -> TracedWork:
        """Begin the span of a publication, in the context of the code that publishes.

        Args:
            channel: The channel; empty: the broadcast channels.
            is_of_client: A client publishes, so that no code of the application is running.
        """
        ...

    def command(self, action: str | None, *, is_posted: bool) -> TracedWork:
        """Begin the span of a command, and make it the current one of this context.

        The context is a copy of that of the handshake, and is used for this command only.

        Args:
            action: The command's name; None: there is none of the name that the client gave.
            is_posted: It came by HTTP: what was current at the handshake is a request that waits
                for this command, and not a connection.
        """
        ...
