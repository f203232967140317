"""Questions of a session to the application: about the identity of a token, and permissions.

They take time. A call of the runner awaits the answer and passes it to the session, and the driver
performs the actions that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar, TypeVarTuple

from ..core.actions import Action, AskPermission, AskToken
from ..core.errors import CloseCode
from ..core.instant import Instant
from ..core.permissions import Identity
from ..endpoint import Refusal
from .connection import ConnectionDriver
from .services import Services

__all__ = ["Asker", "judge_permission", "judge_token", "put"]

logger: Final = logging.getLogger("wsbus.connection")


class Asker(ConnectionDriver, Protocol):
    """A driver whose session asks."""

    async def enter(self, identity: Identity) -> bool:
        """Take the name of an identity; false: the connection is closed instead."""
        ...

    def go_on(self, todo: Sequence[Action], now: Instant) -> None:
        """Perform the actions after an answer, then handle the messages that waited for it."""
        ...


_A = TypeVar("_A", bound=Asker)
_Q = TypeVarTuple("_Q")


async def put(asker: _A, judge: Callable[[_A, *_Q], Awaitable[None]], *args: *_Q) -> None:
    """Put a question to the application; a failure ends the connection, or it would hang."""
    try:
        await judge(asker, *args)
    except Exception:
        logger.exception("an answer of the application cannot be used")
        asker.connection.disconnect(CloseCode.INTERNAL_ERROR, "internal error")


async def judge_token(asker: Asker, services: Services, ask: AskToken) -> None:
    """Ask the authenticator of the endpoint; a first identity takes its name before it counts."""
    verdict = await asker.endpoint.judge(
        ask.token, asker.handshake, asker.context, services.runner.ask
    )
    if isinstance(verdict, Refusal):
        answer: Identity | str = verdict.reason
        if verdict.close_code is not CloseCode.TOKEN_REFUSED and asker.identity is None:
            # Not the client's fault.
            asker.connection.disconnect(verdict.close_code, verdict.reason)
    else:
        answer = verdict if isinstance(verdict, Identity) else "the token was refused"
        if isinstance(answer, Identity) and not (asker.identity or await asker.enter(answer)):
            return
    now = services.clock()
    asker.go_on(asker.session.handle_token(ask.generation, answer, now), now)


async def judge_permission(asker: Asker, services: Services, ask: AskPermission) -> None:
    """Ask ``authorize`` about each name."""
    seconds = asker.endpoint.limits.command_timeout
    allowed = await services.judge(ask, seconds, asker.context)
    now = services.clock()
    asker.go_on(asker.session.handle_permission(ask.generation, allowed, now), now)
