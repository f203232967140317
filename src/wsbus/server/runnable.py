"""The life of a bus: starting it, stopping it, and sending its clients away."""

from __future__ import annotations

from typing import Final, Self

from ..core.errors import CloseCode
from .host import BusHost

__all__ = ["Runnable"]


class Runnable:
    """The methods of a :class:`.Bus` that are about its life; not for use by itself."""

    def __init__(self, host: BusHost) -> None:
        self._host: Final = host

    @property
    def is_running(self) -> bool:
        """Whether it accepts connections and publications."""
        return self._host.is_running

    @property
    def healthy(self) -> bool:
        """Whether it runs and its broker can be reached: what a readiness probe asks for.

        It is false once the bus has failed, which is logged as CRITICAL, and while the link to the
        broker is lost, which is logged as ERROR. Use :attr:`is_running` for a probe that restarts
        the process: a restart brings no broker back.
        """
        return self._host.is_healthy

    async def __aenter__(self) -> Self:
        """Start. Cancellation: the bus has not started, and can be started again.

        Raises:
            UsageError: It is running already.
        """
        await self._host.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop, as :meth:`aclose` does by default."""
        await self.aclose()

    async def aclose(self, *, deadline: float = 10.0, code: int = CloseCode.GOING_AWAY) -> None:
        """Stop: accept no more connections, send each what it is owed and a close frame, end.

        Connections that are not writable are aborted first. Idempotent. Cancellation: shielded;
        it takes little more than ``deadline``.

        Args:
            deadline: Seconds after which the connections that are left are aborted.
            code: 1001, or 1012 to say that the service restarts at once.
        """
        await self._host.stop(deadline=deadline, code=code)

    async def drain(
        self,
        window: float = 20.0,
        *,
        deadline: float = 9.0,
        code: int = CloseCode.SERVICE_RESTART,
    ) -> None:
        """Send all clients away, each with the time to come again; accept none any more.

        For a process that is about to end, while others serve its clients, or a new one does soon.
        Clients of wsbus come again evenly spread over the window. Connections are closed in
        batches, as :meth:`aclose` does, within half of the window and of the deadline. The bus
        goes on running, and :attr:`healthy` is false. A further call waits for the first.

        Args:
            window: Seconds, at most 3600, from now.
            deadline: Seconds after which the connections that are left are aborted; it takes at
                most a second more.
            code: 1012, or another one after which clients reconnect.

        Raises:
            UsageError: The window or the deadline is out of its range, or the code may not be sent.
        Cancellation: shielded.
        """
        await self._host.send_away(window, deadline=deadline, code=code)
