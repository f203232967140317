"""The interface of the driver that runs a connection."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final, NoReturn, Protocol, cast

from .._log import about, escaped
from ..connection import Connection, Driven
from ..core.errors import UsageError
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import ServerMessage
from ..endpoint import Endpoint
from .outlet import SocketOutlet

__all__ = ["ConnectionDriver", "about_driver", "driver_of", "orphan"]


class ConnectionDriver(Driven, Protocol):
    """Runs a connection; see :class:`wsbus.server.driver.Driver`.

    The registry holds drivers, the application holds :class:`~wsbus.connection.Connection`; each
    knows the other.
    """

    members: Sequence[Member]
    """Its own member, then that of its pacer, if it has one; the last one joins its patterns."""

    @property
    def connection(self) -> Connection:
        """The connection as the application holds it."""
        ...

    @property
    def member(self) -> Member:
        """Its member in the hub."""
        ...

    @property
    def outlet(self) -> SocketOutlet:
        """The place that its frames go to."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint that it came by."""
        ...

    @property
    def context(self) -> Context:
        """The context that calls of the application get a copy of."""
        ...

    @property
    def is_stuck(self) -> bool:
        """Whether its transport has not taken all frames."""
        ...

    @property
    def deadline(self) -> float:
        """When to call :meth:`tick`, in monotonic seconds."""
        ...

    def tick(self, now: Instant) -> None:
        """Send pings, or close, if the time has come."""
        ...

    def review(self, now: Instant, stopped: float) -> None:
        """Apply the endpoint's present heartbeat, and forgive ``stopped`` seconds of silence."""
        ...

    def send(self, reply: ServerMessage, now: Instant | None = None) -> int:
        """Send a message to the client; return how many bytes that takes."""
        ...

    async def gone(self) -> None:
        """Wait until it has ended and its hooks have returned."""
        ...


def driver_of(connection: Connection) -> ConnectionDriver:
    """Return the driver of a connection: for the bus, not for applications."""
    # The two know each other, and the bus makes connections for such drivers only.
    return cast("ConnectionDriver", connection._driver)  # noqa: SLF001


class _Orphan:
    """Stands in for a driver in a fork of its process: it tells what it knows, and does nothing."""

    def __init__(self, driver: ConnectionDriver, why: str) -> None:
        self._driver: Final = driver
        self._why: Final = why

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def perform(self, *_args: object) -> NoReturn:
        raise UsageError(self._why)

    def abort(self) -> NoReturn:
        raise UsageError(self._why)


def orphan(driver: ConnectionDriver, why: str) -> None:
    """Have the methods of a connection that would write raise :class:`.UsageError`."""
    driver.connection._driver = _Orphan(driver, why)  # noqa: SLF001  # as above


def about_driver(kind: str, driver: ConnectionDriver) -> dict[str, object]:
    """Return the attributes of a log record about a connection; see ``_log.about``."""
    return about(kind, connection=escaped(driver.id))
