"""Questions of a session: what a token proves, what is allowed, and whether interest is known.

They take time, and so does a broker that takes what a client publishes. A call of the runner awaits
the answer and passes it to the session, and the driver performs the actions that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar, TypeVarTuple

import msgspec

from .._application import call
from .._log import about
from ..core.actions import (
    Action,
    Ask,
    AskPermission,
    AskToken,
    Attach,
    Brought,
    Emit,
    Fetch,
)
from ..core.errors import BrokerUnavailable, CloseCode, CommandError, ErrorCode
from ..core.history import HistoryRead
from ..core.instant import Instant
from ..core.messages import HistoryResult, Publication, Refused, Response
from ..core.patterns import parse_pattern
from ..core.permissions import Identity
from ..core.session_subscriptions import NOT_REACHED, POSITION_LOST
from ..endpoint import Refusal
from .connection import ConnectionDriver, about_driver
from .outgoing import NotTaken
from .post import Post
from .services import Services

__all__ = ["Asker", "emit", "fetch", "put", "question"]

logger: Final = logging.getLogger("wsbus.connection")


_ANSWER_BYTES: Final = 256 * 1024
"""Data in an answer with history; what does not fit is left for the next one."""

_NOT_RELAYED: Final = "only subscribers at this server have got it: the others cannot be reached"
_NOT_KEPT: Final = "it is not published: the history of this channel cannot be reached"
_MAY_BE_KEPT: Final = "it may be published: the history of this channel was lost before it answered"


class Asker(ConnectionDriver, Protocol):
    """A driver whose session asks."""

    async def enter(self, identity: Identity) -> bool:
        """Take the name of an identity; false: the connection is closed instead."""
        ...

    async def free(self) -> None:
        """Wait until no hooks of the application hold the session."""
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
        logger.exception(
            "an answer of the application cannot be used",
            extra=about_driver("answer_unfit", asker),
        )
        asker.connection.disconnect(CloseCode.INTERNAL_ERROR, "internal error")


def question(
    asker: Asker, services: Services, ask: AskToken | AskPermission | Attach, now: Instant | None
) -> None:
    """Have a question of a session answered: by the runner, or at once if nothing is to wait for.

    Args:
        asker: The driver of the session.
        services: Those of the bus.
        ask: The question.
        now: The moment, if it was looked up already.
    """
    submit = services.runner.submit
    match ask:
        case AskToken():
            submit(partial(put, asker, _judge_token, services, ask))
        case AskPermission():
            submit(partial(put, asker, _judge_permission, services, ask))
        case Attach():
            brought = services.bring(ask.patterns, ask.since)
            if brought is None:
                submit(partial(put, asker, _await_brought, services, ask))
                return
            now = now or services.clock()
            asker.perform(asker.session.handle_answer(ask.request, brought, now), now)


def emit(asker: ConnectionDriver, post: Post, action: Emit) -> None:
    """Publish what a client publishes, and answer once the broker, if there is one, has taken it.

    A client that asks for no answer gets one if only this node's subscribers get the publication.
    """
    publish = action.publish
    if post.checks and (refused := _refused(asker, post, action)):
        asker.send(refused)
        return
    if publish.is_retry and not post.keeps(action.channel):
        why = "this channel has no history, which would tell a repetition apart"
        refused = Refused(ErrorCode.NOT_REPEATABLE, why, publish.ref, publish.ref is not None)
        asker.send(refused)
        return
    key = publish.idempotency_key
    if key is not None:
        owner = asker.identity.subject if asker.identity else ""
        key = post.scoped(key, action.channel, owner) if post.keeps(action.channel) else None
    sent = post.emit(action.channel, publish.event, publish.data, key, publish.packed)

    def answer(error: NotTaken | None) -> None:
        if error is not None:
            why = _NOT_RELAYED
            if sent.draft is not None:
                is_open = isinstance(error, BrokerUnavailable) and error.may_have_arrived
                why = _MAY_BE_KEPT if is_open else _NOT_KEPT
            asker.send(Refused(ErrorCode.UNAVAILABLE, why, publish.ref))
        elif publish.ref is not None:
            asker.send(Response(msgspec.json.encode(sent.result), publish.ref))

    if sent.handover is None:
        answer(None)
    else:
        sent.handover.then(answer)


def _refused(asker: ConnectionDriver, post: Post, action: Emit) -> Refused | None:
    """Return why what a client publishes is not what the channel holds; None: it is."""
    publish = action.publish
    try:
        call(asker.context, post.check, action.channel, publish.event, publish.data)
    except CommandError as exc:
        code, why = exc.code, exc.message
    except Exception:
        logger.exception(
            "the check of what is published on %s failed",
            action.channel,
            extra=about("check_failed", channel=action.channel),
        )
        code, why = ErrorCode.INTERNAL_ERROR, "the check of the data failed"
    else:
        return None
    return Refused(code, why, publish.ref, publish.ref is not None)


async def fetch(asker: Asker, services: Services, action: Fetch | Ask) -> None:
    """Answer with the history of a channel, or ask the producer of its stream to cancel it."""
    if isinstance(action, Ask):
        await _cancel(asker, services, action)
        return
    read = action.request
    if not services.post.keeps(action.channel):
        why = "this channel keeps no history"
        asker.send(Refused(ErrorCode.NO_HISTORY, why, read.ref))
        return
    try:
        (page,) = await services.read(
            [
                HistoryRead(
                    parse_pattern(action.channel),
                    read.after,
                    read.before,
                    read.limit,
                    is_from_end=read.after is None,
                )
            ]
        )
    except BrokerUnavailable:
        asker.send(Refused(ErrorCode.UNAVAILABLE, NOT_REACHED, read.ref))
        return
    if read.after is not None and not page.is_complete:
        asker.send(Refused(ErrorCode.POSITION_LOST, POSITION_LOST, read.ref))
        return
    found = _within(page.publications, is_from_end=read.after is None)
    has_more = page.has_more or len(found) < len(page.publications)
    asker.send(HistoryResult(action.channel, found, page.head, has_more, read.ref))


async def _cancel(asker: Asker, services: Services, action: Ask) -> None:
    """Ask the producer of a stream to cancel it, and answer once it can hear of that."""
    ref = action.request.ref
    is_there = False
    try:
        if services.streams is not None and services.post.is_stream(action.channel):
            is_there = await services.streams.ask_to_cancel(action.channel)
    except BrokerUnavailable:
        asker.send(Refused(ErrorCode.UNAVAILABLE, NOT_REACHED, ref, ref is not None))
        return
    if is_there:
        asker.send(Response(b"null", ref))
    else:
        why = "there is no stream on this channel"
        asker.send(Refused(ErrorCode.NO_STREAM, why, ref, ref is not None))


def _within(publications: Sequence[Publication], *, is_from_end: bool) -> tuple[Publication, ...]:
    """Return those that fit into an answer, at least one: the newest, or the oldest."""
    room, fit = _ANSWER_BYTES, 0
    for publication in reversed(publications) if is_from_end else publications:
        room -= publication.size
        if fit and room < 0:
            break
        fit += 1
    return tuple(publications[len(publications) - fit :] if is_from_end else publications[:fit])


async def _judge_token(asker: Asker, services: Services, ask: AskToken) -> None:
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
    asker.go_on(asker.session.handle_answer(ask.request, answer, now), now)


async def _judge_permission(asker: Asker, services: Services, ask: AskPermission) -> None:
    """Ask ``authorize`` about each name."""
    seconds = asker.endpoint.limits.command_timeout
    allowed = await services.judge(ask, seconds, asker.context)
    now = services.clock()
    asker.go_on(asker.session.handle_answer(ask.request, allowed, now), now)


async def _await_brought(asker: Asker, services: Services, ask: Attach) -> None:
    """Wait until what a request needs is brought here, or cannot be; then have it answered."""

    def act(brought: Brought) -> None:
        now = services.clock()
        asker.go_on(asker.session.handle_answer(ask.request, brought, now), now)

    assert services.recoveries is not None
    await services.recoveries.bring(ask.patterns, ask.since, act, asker.free)
