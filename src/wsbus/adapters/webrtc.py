"""Adapter for WebRTC's data channels, with `aiortc <https://aiortc.readthedocs.io>`_; experimental.

A client asks for a data channel over the connection that it has, with a command. So there is no
second way in, and nothing new to authenticate::

    channels = DataChannels(bus)

    @bus.command("webrtc.offer")
    async def offer(connection: Connection, sdp: str, protocol: str | None = None) -> str:
        return await channels.answer(connection, sdp, protocol)

    async with bus, channels, serve(bus, "127.0.0.1", 8000) as server:
        await server.serve_forever()

aiortc runs on asyncio only. Needs the extra ``webrtc``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import aiortc as _aiortc  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.webrtc", "webrtc", _exc) from None

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Final, Self

from aiortc import RTCConfiguration
from anyio import TASK_STATUS_IGNORED, create_task_group
from anyio.abc import TaskGroup, TaskStatus

from .._log import BoundedLog, about, escaped
from ..bus import Bus
from ..connection import Connection
from ..core.choices import is_number, shown
from ..core.errors import CommandError, ErrorCode, UsageError
from ..endpoint import Admission, Endpoint, Refusal
from ._data_channel import BadOffer, DataChannelTransport, Unopened
from ._endpoint import endpoint_of

__all__ = ["DataChannels"]

_log: Final = BoundedLog(logging.getLogger("wsbus.webrtc"))

_MOST_OFFERS: Final = 4
"""Offers of one connection whose data channels are not open yet; each holds sockets."""
_CODES: Final = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.UNAVAILABLE,
}


class DataChannels:
    """Makes connections of an endpoint of the data channels that clients offer.

    Use it as ``async with``, within the bus. On exit it drains the endpoint, and gives up data
    channels that are not open yet.

    Args:
        endpoint: Where data channels come in; a bus means its default endpoint. Who a client is,
            it is not asked: a data channel has the identity, and so the grants, of the connection
            that asks for it.
        configuration: STUN servers, for a server that does not know its public address. None: none
            are asked; it offers the addresses of its network interfaces.
        open_timeout: Seconds from the answer until the data channel must be open.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self,
        endpoint: Bus | Endpoint,
        *,
        configuration: RTCConfiguration | None = None,
        open_timeout: float = 15.0,
    ) -> None:
        if not isinstance(configuration, RTCConfiguration | None):
            raise UsageError(f"configuration is an RTCConfiguration, not {shown(configuration)}")
        if not (is_number(open_timeout) and open_timeout >= 0):
            raise UsageError(f"open_timeout is a number of seconds, not {shown(open_timeout)}")
        self._endpoint: Final = endpoint_of(endpoint)
        # aiortc's own default asks a STUN server on the internet.
        self._configuration: Final = configuration or RTCConfiguration(iceServers=[])
        self._open_timeout: Final = open_timeout
        self._offers: Final[Counter[str]] = Counter()
        self._stack: Final = AsyncExitStack()
        self._tasks: TaskGroup | None = None
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Take offers from now on.

        Raises:
            UsageError: It has been used before.
        """
        if self._tasks is not None:
            raise UsageError("data channels are entered once: make new ones")
        self._tasks = await self._stack.enter_async_context(create_task_group())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the data channels."""
        assert self._tasks is not None
        self._is_over = True
        try:
            await self._endpoint.drain()
        finally:
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()

    async def answer(self, connection: Connection, offer: str, protocol: str | None = None) -> str:
        """Return the answer to an offer of one data channel: both are SDP. Call it in a command.

        First the endpoint judges the handshake of the connection, as that of a WebSocket: its
        origin, the number of connections, their names. The data channel has this handshake, with
        the address that is in it.

        Args:
            connection: The connection whose command it is.
            offer: An offer of one data channel, and of nothing else. The addresses in it are not
                used: the client reaches the server, never the reverse.
            protocol: The dialect that is spoken on the data channel, such as ``wsbus.v1``; None:
                the first of the endpoint.

        Raises:
            CommandError: The endpoint refuses it, or the offer is not as it should be.
            UsageError: Clients come before ``async with``.
        """
        if self._tasks is None:
            raise UsageError("data channels are offered before `async with channels:`")
        if self._is_over:
            raise CommandError(ErrorCode.UNAVAILABLE, "the server is shutting down")
        try:
            answer: str = await self._tasks.start(self._run, connection, offer, protocol)
        except BadOffer as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, str(exc)) from None
        return answer

    async def _run(
        self,
        connection: Connection,
        offer: str,
        protocol: str | None,
        *,
        task_status: TaskStatus[str] = TASK_STATUS_IGNORED,
    ) -> None:
        """Run one data channel; if it fails, the others and the server go on."""
        try:
            await self._converse(connection, offer, protocol, task_status)
        except (BadOffer, CommandError):
            raise  # To the client that has asked.
        except Exception:  # noqa: BLE001  # of aiortc, say; it is logged
            name = escaped(connection.id)
            extra = about("data_channel_failed", connection=name)
            _log.exception("a data channel of %s failed", name, extra=extra)

    async def _converse(
        self,
        connection: Connection,
        offer: str,
        protocol: str | None,
        task_status: TaskStatus[str],
    ) -> None:
        async with DataChannelTransport(self._configuration, self._endpoint.limits) as transport:
            with self._counted(connection.id):
                admission = await self._admit(connection, protocol)
                try:
                    task_status.started(await transport.answer(offer))
                    await transport.opened(self._open_timeout)
                except Unopened as exc:
                    _release(admission)
                    _log_unopened(connection, str(exc))
                    return
                except BaseException:
                    _release(admission)
                    raise
            await self._endpoint.run(transport, admission)

    @contextmanager
    def _counted(self, who: str) -> Iterator[None]:
        if self._offers[who] >= _MOST_OFFERS:
            raise CommandError(ErrorCode.RATE_LIMITED, "other data channels are not open yet")
        self._offers[who] += 1
        try:
            yield
        finally:
            self._offers[who] -= 1
            if not self._offers[who]:
                del self._offers[who]

    async def _admit(self, connection: Connection, protocol: str | None) -> Admission:
        offered = () if protocol is None else (protocol,)
        handshake = replace(connection.handshake, subprotocols=offered)
        verdict = await self._endpoint.admit(handshake, connection.identity)
        if isinstance(verdict, Refusal):
            code = _CODES.get(verdict.status, ErrorCode.VALIDATION_ERROR)
            raise CommandError(code, verdict.reason)
        return verdict


def _release(admission: Admission) -> None:
    if admission.place is not None:
        admission.place.release()


def _log_unopened(connection: Connection, why: str) -> None:
    _log.warning(
        "a data channel of %s was not opened: %s",
        escaped(connection.id),
        escaped(why, 300),
        extra=about("data_channel_unopened", connection=escaped(connection.id)),
    )
