"""The end of uvicorn, for readers over HTTP.

At SIGTERM uvicorn closes its WebSockets, and then waits for every answer that is under way, even
for a stream that never ends. It says so to no application. So its signal handlers are followed here
by the end of the readers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from types import FrameType
from typing import Any, Final

from ..core.errors import CloseCode
from ..endpoint import Endpoint
from ..protocols.event_stream import EVENT_STREAM
from ..server.host import BusHost

__all__ = ["is_ending"]


class UvicornExit:
    """Handles the signals of one server of uvicorn: as uvicorn does, and ends its readers.

    Args:
        server: The server, whose handlers are in place. It takes them away when it has ended.
        loop: The event loop that it runs on.
    """

    def __init__(self, server: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._former: Final = server.handle_exit
        self._loop: Final = loop
        self.endpoints: Final[set[Endpoint]] = set()
        """Those that have had readers."""
        self.has_begun = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._former(number, frame)
        if not self.has_begun:
            self.has_begun = True
            self._loop.call_soon_threadsafe(self._end_readers)

    def follow(self) -> None:
        """Take the place of the server's handlers."""
        for number in signal.valid_signals():
            if signal.getsignal(number) == self._former:
                signal.signal(number, self)

    def _end_readers(self) -> None:
        for endpoint in self.endpoints:
            host = endpoint.host
            if not isinstance(host, BusHost) or not host.is_running:
                continue
            for driver in host.services.registry.connected(endpoint):
                if driver.protocol is EVENT_STREAM:
                    driver.connection.disconnect(
                        CloseCode.SERVICE_RESTART, "the server is shutting down"
                    )


def is_ending(endpoint: Endpoint) -> bool:
    """Tell whether uvicorn has been asked to end; if not, end the endpoint's readers when it is.

    Where uvicorn handles no signals, or another server runs, nothing is done.
    """
    found = _exit_of_server()
    if found is None:
        return False
    found.endpoints.add(endpoint)
    return found.has_begun


def _exit_of_server() -> UvicornExit | None:
    if threading.current_thread() is not threading.main_thread():
        return None  # Signals belong to the main thread.
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, UvicornExit):
        return handler
    uvicorn: Any = sys.modules.get("uvicorn.server")
    server = getattr(handler, "__self__", None)
    if uvicorn is None or not isinstance(server, uvicorn.Server):
        return None
    found = UvicornExit(server, asyncio.get_running_loop())
    found.follow()
    return found
