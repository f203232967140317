"""The requests of a client, for code without an event loop."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, TypeVar, overload

from ..core.events import EventPage, Position
from ..core.messages import Receipt, Status
from ..core.presence import Roster
from .client import Client
from .portal import Portal

__all__ = ["SyncCaller"]

T = TypeVar("T")


class SyncCaller:
    """The methods of a :class:`.SyncClient` that ask the server; not for use by itself."""

    def __init__(self, portal: Portal, client: Client) -> None:
        self._portal: Final = portal
        self._client: Final = client

    @overload
    def command(
        self,
        action: str,
        params: object = None,
        *,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any: ...

    @overload
    def command(
        self,
        action: str,
        params: object = None,
        *,
        returns: type[T],
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> T: ...

    @overload
    def command(  # What is no class: a union, say.
        self,
        action: str,
        params: object = None,
        *,
        returns: object,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any: ...

    def command(
        self,
        action: str,
        params: object = None,
        *,
        returns: Any = Any,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any:
        """Call a command, and return its result; see :meth:`.Caller.command`.

        Raises:
            WsbusError: As :meth:`.Caller.command`.
        """
        return self._portal.run(
            partial(
                self._client.command,
                action,
                params,
                returns=returns,
                timeout=timeout,
                idempotent=idempotent,
            )
        )

    def publish(
        self,
        channel: str,
        data: object,
        *,
        event: str = "message",
        idempotency_key: str | None = None,
        timeout: float = 30.0,
    ) -> Receipt:
        """Publish; return how many receivers it has; see :meth:`.Caller.publish`.

        Raises:
            WsbusError: As :meth:`.Caller.publish`.
        """
        publish = partial(
            self._client.publish,
            channel,
            data,
            event=event,
            idempotency_key=idempotency_key,
            timeout=timeout,
        )
        return self._portal.run(publish)

    @overload
    def history(
        self,
        channel: str,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]: ...

    @overload
    def history(
        self,
        channel: str,
        payload: type[T],
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[T]: ...

    @overload
    def history(  # What is no class: a union, say.
        self,
        channel: str,
        payload: object,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]: ...

    def history(
        self,
        channel: str,
        payload: Any = Any,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]:
        """Return what a channel keeps; see :meth:`.Caller.history`.

        Raises:
            WsbusError: As :meth:`.Caller.history`.
        """
        history = partial(
            self._client.history,
            channel,
            payload,
            limit=limit,
            before=before,
            after=after,
            timeout=timeout,
        )
        return self._portal.run(history)

    def presence(self, channel: str, *, timeout: float = 30.0) -> Roster:
        """Return the connections on a channel; see :meth:`.Caller.presence`.

        Raises:
            WsbusError: As :meth:`.Caller.presence`.
        """
        return self._portal.run(partial(self._client.presence, channel, timeout=timeout))

    def status(self, *, timeout: float = 30.0) -> Status:
        """Return what the server knows about this connection; see :meth:`.Caller.status`.

        Raises:
            WsbusError: As :meth:`.Caller.status`.
        """
        return self._portal.run(partial(self._client.status, timeout=timeout))
