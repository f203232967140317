"""The client, as an application holds it."""

from __future__ import annotations

import sys
import warnings
from copy import copy
from typing import Any, Final, TypeVar, overload

import msgspec
from anyio import fail_after, move_on_after

from ..core.channels import parse_channel
from ..core.choices import member_of
from ..core.client.requests import OpenRequest
from ..core.encoding import encode_data
from ..core.errors import CommandError, ErrorCode, UsageError, WsbusError
from ..core.messages import Command, GetStatus, Publish, Receipt, Response, Status
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from .changes import Changes, Closed, Connected
from .driver import ClientDriver, PendingReply
from .events import Events
from .payloads import decode, decoder_of

__all__ = ["Client"]

T = TypeVar("T")
_ABORT_SECONDS: Final = 1.0
_DECODE_RECEIPT: Final = decoder_of(Receipt)


class Client:
    """A client of one server, across reconnects; made by :func:`wsbus.client.connecting.connect`.

    Use it on the event loop that it was made on. Any number of tasks may use it at once.
    """

    def __init__(self, driver: ClientDriver) -> None:
        self._driver: Final = driver

    def __del__(self) -> None:
        """Warn about a client that was not closed and has not ended."""
        if self._driver.is_running and not sys.is_finalizing():
            warnings.warn(
                f"{self!r} was not closed: use `async with connect(…)`, or await its aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        uri = self._driver.settings.uri
        return f"<Client of {uri.host}:{uri.port}{uri.path}>"

    # --- what it is -------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and the server has accepted the token, if any."""
        return isinstance(self._driver.state, Connected)

    @property
    def connection_id(self) -> str | None:
        """The server's name for the connection; None without one, or in ``zigquant-v2``."""
        state = self._driver.state
        return state.connection_id if isinstance(state, Connected) else None

    @property
    def subject(self) -> str | None:
        """The identity's subject according to the server; None if there is none, or unknown."""
        state = self._driver.state
        return state.subject if isinstance(state, Connected) else None

    @property
    def protocol(self) -> str:
        """The dialect spoken."""
        return self._driver.settings.dialect.name

    @property
    def subscriptions(self) -> list[str]:
        """The patterns that the server has confirmed."""
        return list(self._driver.session.subscriptions)

    def changes(self) -> Changes:
        """Return the changes of the connection from now on, beginning with the present state."""
        self._driver.check_caller()
        return self._driver.changes()

    # --- what it does -----------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        pattern: str,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
    ) -> Events[Any]: ...

    @overload
    def subscribe(
        self,
        pattern: str,
        payload: type[T],
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
    ) -> Events[T]: ...

    @overload
    def subscribe(  # What is no class: a union, say.
        self,
        pattern: str,
        payload: object,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
    ) -> Events[Any]: ...

    def subscribe(
        self,
        pattern: str,
        payload: Any = Any,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = 4 << 20,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
    ) -> Events[Any]:
        """Return what matches ``pattern``: ``async with`` it, then iterate.

        Args:
            pattern: A channel, or with ``*`` (and in ``wsbus.v1`` ``+``) for segments.
            payload: The type of the data, any that msgspec decodes; by default JSON as it is.
            ask: Whether to ask the server for it. False: take only what the server sends without
                being asked.
            buffer: Largest number of events that wait to be taken.
            buffer_bytes: Largest size of their data, in bytes; more than the largest event has.
            overflow: What happens when the buffer is full. ``close`` ends the subscription.
            timeout: Seconds for the server to confirm it; they also pass without a connection.

        Raises:
            UsageError: The pattern is invalid (:class:`.InvalidChannel`), or an option is.
        """
        if not timeout > 0:
            raise UsageError("a timeout must be positive seconds")
        return Events(
            self._driver,
            parse_pattern(pattern, plus=self._driver.settings.dialect.has_plus),
            decoder_of(payload),
            asks=ask,
            buffer=buffer,
            buffer_bytes=buffer_bytes,
            overflow=member_of(Overflow, overflow, "overflow"),
            timeout=timeout,
        )

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
        data = b"{}" if params is None else encode_data(params)
        to = decoder_of(returns)
        response = await self._ask(Command(action, data), timeout, action, idempotent=idempotent)
        return decode(response.data, to, f"the result of {action}")

    async def publish(
        self, channel: str, data: object, *, event: str = "message", timeout: float = 30.0
    ) -> Receipt:
        """Publish; return what became of it on the node that the client is connected to.

        Args:
            channel: Where; no wildcards.
            data: Anything that has a form in JSON.
            event: What happened.
            timeout: Seconds.

        Raises:
            UsageError: The dialect cannot publish, the channel is invalid, or the data have no
                form in JSON.
            RemoteError: As :meth:`command`.
        """
        self._require_rich("publish")
        publish = Publish(parse_channel(channel), event, encode_data(data))
        response = await self._ask(publish, timeout, f"publish on {channel}")
        return decode(response.data, _DECODE_RECEIPT, "the answer to publish")

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

    async def aclose(self) -> None:
        """Close the client: iterators end, requests fail, and it does not reconnect. Idempotent.

        It takes at most ``close_timeout`` seconds, whatever the server does.

        Cancellation: the connection is cut, without a close frame.
        """
        driver = self._driver
        if not driver.is_running:
            return
        driver.check_caller()
        driver.perform(driver.session.close())
        try:
            await driver.over.wait()
        except BaseException:
            await self._abort()
            raise

    # --- small things -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time; called by :func:`wsbus.client.connecting.connect`.

        Raises:
            RemoteError: It failed; the error says why.
        """
        driver = self._driver
        driver.start()
        try:
            await driver.known.wait()
        except BaseException:
            driver.perform(driver.session.close())
            await self._abort()
            raise
        if isinstance(driver.state, Closed):
            await self.aclose()
            raise self._reason()

    async def _ask(
        self, request: OpenRequest, timeout: float, what: str, *, idempotent: bool = False
    ) -> Response:
        response = await self._request(request, timeout, what, idempotent=idempotent)
        assert isinstance(response, Response)  # The session pairs kinds.
        return response

    async def _request(
        self, request: OpenRequest, timeout: float, what: str, *, idempotent: bool
    ) -> Response | Status:
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
                    if self.is_connected:
                        why = "the rates of the server did not allow it"
                text = f"{what}: {why} within {timeout:g} s"
                if why != "no answer came":
                    text += "; it was not carried out"
                raise CommandError(ErrorCode.TIMEOUT, text) from None
        finally:
            driver.session.forget(reply)
        outcome = reply.outcome
        if isinstance(outcome, WsbusError):
            raise outcome
        assert outcome is not None
        return outcome

    async def _abort(self) -> None:
        self._driver.abort()
        # Bounded: the client's own callback may close it.
        with move_on_after(_ABORT_SECONDS, shield=True):
            await self._driver.over.wait()

    def _reason(self) -> WsbusError:
        state = self._driver.state
        error = state.error if isinstance(state, Closed) else None
        return copy(error) if error else UsageError("the client is closed")

    def _require_rich(self, what: str) -> None:
        dialect = self._driver.settings.dialect
        if not dialect.is_rich:
            raise UsageError(f"{dialect.name} has no {what}; connect with protocol='wsbus.v1'")
