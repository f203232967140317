"""Connections to a console whose token has not been accepted: no bus runs for them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from typing import Final

from anyio import CancelScope, Event, move_on_after

from .._log import about
from ..core import actions
from ..core.addresses import address_key
from ..core.errors import CloseCode, ErrorCode, TransportClosed
from ..core.instant import Instant
from ..core.messages import Request, ServerMessage
from ..core.permissions import Identity
from ..core.session import Session
from ..endpoint import Admission, Endpoint, Refusal
from ..server.opening import greeting
from ..server.services import new_heartbeat, new_id, read_clocks
from ..transport import Transport

__all__ = ["MAX_STRANGERS", "Stranger", "Strangers"]

logger: Final = logging.getLogger("wsbus.console")

MAX_STRANGERS: Final = 256
"""A further one replaces another. So an operator whose page sends the token within a fifth of a
second can connect while a thousand strangers a second come, each from its own address."""
MAX_MESSAGES: Final = 16
"""Messages that a stranger may send; the page sends one."""


class Stranger:
    """One connection up to its token, on a session of its own and the server's task.

    Args:
        endpoint: The console's endpoint.
        transport: Its transport, which no other object uses meanwhile.
        admission: An admission without an identity.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport, admission: Admission) -> None:
        now, handshake = read_clocks(), admission.handshake
        self.id: Final = new_id()
        """The connection's id in ``connected``."""
        self.address: Final = address_key(handshake.client[0]) if handshake.client else ""
        self.gone: Final = Event()
        """Set once it is no longer a stranger."""
        self._endpoint: Final = endpoint
        self._transport: Final = transport
        self._handshake: Final = handshake
        self._protocol: Final = admission.protocol
        self._session: Final = Session(
            protocol=admission.protocol,
            limits=endpoint.limits,
            heartbeat=new_heartbeat(endpoint.heartbeat, now.monotonic),
            identity=None,
            now=now,
            takes_tokens=True,
        )
        self._question: actions.AskToken | None = None
        self._messages = 0
        self._is_sending = False
        self._scope: Final = CancelScope()
        self._ending: actions.Close = actions.Close(CloseCode.TOKEN_REFUSED, "no token in time")

    async def converse(self) -> Identity | None:
        """Return the identity of an accepted token; None once the connection has ended.

        Cancellation: the connection is aborted.
        """
        try:
            with self._scope, move_on_after(self._endpoint.limits.auth_timeout):
                await self._greet()
                while self._session.identity is None:
                    await self._hear(await self._transport.receive())
                return self._session.identity
            await self._close(self._ending)
        except TransportClosed:
            pass
        except Exception:
            logger.exception(
                "the conversation with a client without a token failed",
                extra=about("console_failed"),
            )
            await self._close(actions.Close(CloseCode.INTERNAL_ERROR, "internal error"))
        except BaseException:
            self._transport.abort()
            raise
        return None

    def end(self, code: int, reason: str) -> None:
        """End it with a close frame; never waits."""
        self._ending = actions.Close(code, reason)
        self._scope.cancel()

    def abort(self) -> None:
        """Cut it off; never waits."""
        self._transport.abort()

    async def _greet(self) -> None:
        await self._say(greeting(self._endpoint, self.id, None))

    async def _hear(self, frame: str | bytes) -> None:
        """Act on a frame: all messages but a token are refused."""
        session, now = self._session, read_clocks()
        if isinstance(frame, bytes):
            why = f"{self._protocol.name} is text only"
            await self._perform(session.close(CloseCode.UNSUPPORTED_DATA, why))
        for message in self._protocol.split(frame):
            self._messages += 1
            if self._messages > MAX_MESSAGES:
                why = "too many messages without a token"
                await self._perform(session.close(CloseCode.RATE_ABUSE, why))
            for command in self._protocol.decode(message):
                # Messages after the token in its frame are lost for the connection that follows.
                is_early = self._question is not None
                todo = [_refuse_early(command)] if is_early else session.handle(command, now)
                await self._perform(todo, now)
        question, self._question = self._question, None
        if question is not None:
            await self._judge(question)

    async def _judge(self, question: actions.AskToken) -> None:
        verdict = await self._endpoint.judge(question.token, self._handshake, copy_context())
        answer: Identity | str
        if isinstance(verdict, Refusal):
            if verdict.close_code is not CloseCode.TOKEN_REFUSED:  # Not caused by the client.
                await self._perform(self._session.close(verdict.close_code, verdict.reason))
            answer = verdict.reason
        else:
            answer = verdict or "the token was refused"
        now = read_clocks()
        await self._perform(self._session.handle_answer(question.request, answer, now), now)

    async def _perform(self, todo: Sequence[actions.Action], now: Instant | None = None) -> None:
        for action in todo:
            match action:
                case actions.Send():
                    await self._say(action.reply, now)
                case actions.AskToken():
                    self._question = action
                case actions.Close():
                    await self._close(action)
                    raise TransportClosed(action.code, action.reason)
                case _:  # The connection that follows adopts the identity.
                    pass

    async def _say(self, reply: ServerMessage, now: Instant | None = None) -> None:
        frame = self._protocol.encode(reply, now or read_clocks())
        if frame is not None:
            self._is_sending = True
            await self._transport.send([frame])
            self._is_sending = False

    async def _close(self, action: actions.Close) -> None:
        if self._is_sending:  # It was cancelled: part of a frame may have been sent.
            self._transport.abort()
            return
        with move_on_after(self._endpoint.limits.close_timeout) as scope:
            await self._transport.close(action.code, action.reason)
        if scope.cancelled_caught:
            self._transport.abort()


def _refuse_early(command: Request) -> actions.Action:
    return actions.refuse(command, ErrorCode.RATE_LIMITED, "wait for the answer to the token")


class Strangers:
    """The present strangers: a bounded number, which does not keep operators out."""

    def __init__(self) -> None:
        self._here: Final[dict[Stranger, None]] = {}  # The oldest first.

    async def meet(self, stranger: Stranger) -> Identity | None:
        """Serve a stranger, see :meth:`Stranger.converse`; it may replace another one.

        That is the oldest stranger of the address with the most.
        """
        here = self._here
        if len(here) >= MAX_STRANGERS:
            by_address = Counter(each.address for each in here)
            busiest = max(by_address.values())
            oldest = next(each for each in here if by_address[each.address] == busiest)
            del here[oldest]
            oldest.abort()
            logger.info(
                "the console cut off a client that had shown no token",
                extra=about("console_cut_off"),
            )
        here[stranger] = None
        try:
            return await stranger.converse()
        finally:
            here.pop(stranger, None)
            stranger.gone.set()

    async def end(self, deadline: float, code: int) -> None:
        """End all with a close frame, and abort those that are left after so many seconds."""
        here = list(self._here)
        for stranger in here:
            stranger.end(code, "the server is shutting down")
        with move_on_after(deadline):
            for stranger in here:
                await stranger.gone.wait()
        for stranger in here:
            if not stranger.gone.is_set():
                stranger.abort()
