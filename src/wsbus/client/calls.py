"""The requests of a client: commands, publications, history, status."""

from __future__ import annotations

from copy import copy
from secrets import token_urlsafe
from typing import Any, Final, TypeVar, overload

import msgspec
from anyio import fail_after

from ..core.channels import parse_channel
from ..core.client.actions import RequestAnswer
from ..core.client.requests import OpenRequest
from ..core.errors import CommandError, ErrorCode, PositionLost, UsageError, WsbusError
from ..core.events import EventPage, Position
from ..core.messages import (
    CancelStream,
    Command,
    GetPresence,
    GetStatus,
    HistoryResult,
    PresenceResult,
    Publish,
    Receipt,
    Response,
    Status,
)
from ..core.presence import Roster
from .changes import Closed, Connected
from .driver import ClientDriver
from .past import checked_key, page_of, read_history
from .payloads import decode
from .replies import PendingReply

__all__ = ["Caller"]

T = TypeVar("T")
_KEY_BYTES: Final = 16


class Caller:
    """The methods of a :class:`.Client` that ask the server; not for use by itself."""

    def __init__(self, driver: ClientDriver) -> None:
        self._driver: Final = driver

    @overload
    async def command(
        self,
        action: str,
        params: object = None,
        *,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any: ...

    @overload
    async def command(
        self,
        action: str,
        params: object = None,
        *,
        returns: type[T],
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> T: ...

    @overload
    async def command(  # What is no class: a union, say.
        self,
        action: str,
        params: object = None,
        *,
        returns: object,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any: ...

    async def command(
        self,
        action: str,
        params: object = None,
        *,
        returns: Any = Any,
        timeout: float = 30.0,
        idempotent: bool = False,
    ) -> Any:
        """Call a command of the application, and return its result.

        The call waits for a connection, and until the server's rates allow it. Once sent, it is
        sent again over the next connection only if it is ``idempotent``.

        Args:
            action: The command's name.
            params: Its parameters: a mapping, or anything that becomes an object in JSON.
            returns: The type of the result, any that msgspec decodes; by default JSON as it is.
            timeout: Seconds.
            idempotent: Whether it does no harm to carry it out twice.

        Raises:
            CommandError: The server refuses it, or it fails. ``TIMEOUT``: no answer came in time,
                or it could not be sent in time; the message says which.
            ConnectionLost: The connection ended before the answer came; it may have been done.
            UnexpectedData: The result does not fit ``returns``.
            MessageTooLarge: It is larger than the messages that the server reads; it was not sent.
            UsageError: The client is closed, the parameters have no form in JSON, or the caller
                is not on the event loop that the client was made on.
            RemoteError: The client has ended; the error says why.

        Cancellation: the server carries the command out nevertheless.
        """
        speaks = self._driver.settings.dialect
        data = speaks.nothing if params is None else speaks.data(params)
        to = speaks.decoder(returns)
        response = await self._ask(Command(action, data), timeout, action, idempotent=idempotent)
        return decode(response.data, to, f"the result of {action}")

    async def publish(
        self,
        channel: str,
        data: object,
        *,
        event: str = "message",
        idempotency_key: str | None = None,
        timeout: float = 30.0,
    ) -> Receipt:
        """Publish; return what became of it on the node that the client is connected to.

        If the connection is lost before the answer, it is sent again over the next one. On a
        channel with history it is published once nevertheless; on any other the server refuses the
        repetition, and this raises ``ConnectionLost``.

        Args:
            channel: Where; no wildcards.
            data: Anything that has a form in JSON.
            event: What happened.
            idempotency_key: A text, 1 to 128 characters, by which a channel with history publishes
                once what is published several times within two minutes, from this client or another
                one of the same subject. None: a key that nothing else has.
            timeout: Seconds.

        Returns:
            The number of receivers, and on a channel with history the position. ``repeated``: the
            key was used before, and nothing was published now.

        Raises:
            UsageError: The dialect cannot publish, the channel is invalid, or the data have no
                form in JSON.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("publish")
        key = token_urlsafe(_KEY_BYTES) if idempotency_key is None else checked_key(idempotency_key)
        speaks = self._driver.settings.dialect
        publish = Publish(parse_channel(channel), event, speaks.data(data), None, key)
        response = await self._ask(publish, timeout, f"publish on {channel}")
        return decode(response.data, speaks.receipt, "the answer to publish")

    @overload
    async def history(
        self,
        channel: str,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]: ...

    @overload
    async def history(
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
    async def history(  # What is no class: a union, say.
        self,
        channel: str,
        payload: object,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]: ...

    async def history(
        self,
        channel: str,
        payload: Any = Any,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        timeout: float = 30.0,
    ) -> EventPage[Any]:
        """Return what a channel keeps: its newest events, or those beside a position.

        Args:
            channel: A channel with history.
            payload: The type of the data, any that msgspec decodes; by default JSON as it is.
            limit: The most events, 1 to 300.
            before: Only what was published before it, as near to it as possible.
            after: Only what was published after it, as near to it as possible.
            timeout: Seconds.

        Returns:
            The events, the oldest first. ``more``: there are older ones, or with ``after`` newer
            ones.

        Raises:
            PositionLost: A part of what was published after ``after`` is not kept any more.
            CommandError: The server refuses it; ``NO_HISTORY``: the channel keeps nothing.
            UnexpectedData: The data of an event do not fit ``payload``.
            UsageError: The dialect cannot ask for it, or an argument is invalid.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("history")
        request = read_history(channel, limit, before, after)
        to = self._driver.settings.dialect.decoder(payload)
        result = await self._request(request, timeout, f"history of {channel}", idempotent=True)
        assert isinstance(result, HistoryResult)  # The session pairs kinds.
        return page_of(result, to)

    async def presence(self, channel: str, *, timeout: float = 30.0) -> Roster:
        """Return the connections that are subscribed to exactly this channel.

        Args:
            channel: A channel with presence.
            timeout: Seconds.

        Raises:
            CommandError: The server refuses it; ``NO_PRESENCE``: the channel does not show them.
            UsageError: The dialect cannot ask for it, or the channel is invalid.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("presence")
        request = GetPresence(parse_channel(channel))
        result = await self._request(request, timeout, f"presence of {channel}", idempotent=True)
        assert isinstance(result, PresenceResult)  # The session pairs kinds.
        return Roster(result.members, result.total)

    async def cancel_stream(self, channel: str, *, timeout: float = 30.0) -> None:
        """Ask the producer of a stream, wherever it runs, to cancel it.

        Args:
            channel: The channel of the stream. One that has ended stays as it is.
            timeout: Seconds.

        Raises:
            CommandError: The server refuses it: ``FORBIDDEN`` without a grant, ``NO_STREAM`` if
                there is none.
            UsageError: The dialect cannot ask for it, or the channel is invalid.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("cancel")
        request = CancelStream(parse_channel(channel))
        await self._request(request, timeout, f"cancel of {channel}", idempotent=True)

    async def status(self, *, timeout: float = 30.0) -> Status:
        """Return what the server knows about this connection.

        Raises:
            UsageError: The dialect cannot ask for it.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("status")
        status = await self._request(GetStatus(), timeout, "status", idempotent=True)
        assert isinstance(status, Status)  # The session pairs kinds.
        return msgspec.structs.replace(status, ref=None)

    async def _ask(
        self, request: OpenRequest, timeout: float, what: str, *, idempotent: bool = False
    ) -> Response:
        response = await self._request(request, timeout, what, idempotent=idempotent)
        assert isinstance(response, Response)  # The session pairs kinds.
        return response

    async def _request(
        self, request: OpenRequest, timeout: float, what: str, *, idempotent: bool
    ) -> RequestAnswer:
        driver = self._driver
        driver.check_caller()
        if isinstance(driver.state, Closed):
            raise self._reason()
        reply = PendingReply()
        driver.ask(reply, request, is_idempotent=idempotent)
        try:
            with fail_after(timeout):
                await reply.done.wait()
        except TimeoutError:
            if reply.outcome is None:
                why = "no answer came"
                if driver.session.forget(reply):
                    why = "there was no connection to send it over"
                    if isinstance(driver.state, Connected):
                        why = "the rates of the server did not allow it"
                text = f"{what}: {why} within {timeout:g} s"
                if why != "no answer came":
                    text += "; it was not carried out"
                raise CommandError(ErrorCode.TIMEOUT, text) from None
        finally:
            driver.session.forget(reply)
        outcome = reply.outcome
        if isinstance(outcome, CommandError) and outcome.code == ErrorCode.POSITION_LOST:
            raise PositionLost(outcome.message)
        if isinstance(outcome, WsbusError):
            raise outcome
        assert outcome is not None
        return outcome

    def _reason(self) -> WsbusError:
        state = self._driver.state
        error = state.error if isinstance(state, Closed) else None
        return copy(error) if error else UsageError("the client is closed")

    def _require_rich(self, what: str) -> None:
        dialect = self._driver.settings.dialect
        if not dialect.is_rich:
            raise UsageError(f"{dialect.name} has no {what}; connect with protocol='wsbus.v1'")
