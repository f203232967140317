"""Commands and publishes of a client: what its grants say to them."""

from __future__ import annotations

from typing import TypeAlias

from .actions import Ask, Emit, Fetch, Invoke, Look, Send, refuse
from .errors import ErrorCode, InvalidChannel
from .messages import CancelStream, Command, GetPresence, Publish, ReadHistory, Request, is_event
from .permissions import Grants
from .protocol import WireProtocol
from .session_subscriptions import NOT_ALLOWED, NOT_GRANTED

__all__ = [
    "Asked",
    "asked_about",
    "judge_command",
    "judge_publish",
    "judge_question",
    "judge_twice",
]


Asked: TypeAlias = Invoke | Emit | Fetch | Look | Ask
"""Actions that the application may be asked about."""


def judge_command(command: Command, grants: Grants) -> Invoke | Send:
    """Return what to do with a command: carry it out, or refuse it."""
    if not grants.may_command(command.action):
        return refuse(command, ErrorCode.FORBIDDEN, NOT_GRANTED)
    return Invoke(command)


def judge_publish(publish: Publish, protocol: WireProtocol, grants: Grants) -> Emit | Send:
    """Return what to do with a publish: publish it, or refuse it."""
    try:
        channel = protocol.channel(publish.channel)
    except InvalidChannel as exc:
        return refuse(publish, ErrorCode.INVALID_CHANNEL, exc.reason)
    if not is_event(publish.event):
        why = "an event is a printable text of at most 255 bytes"
        return refuse(publish, ErrorCode.INVALID_MESSAGE, why)
    if not grants.may_publish(channel):
        return refuse(publish, ErrorCode.FORBIDDEN, NOT_GRANTED)
    return Emit(channel, publish)


def judge_question(
    request: ReadHistory | GetPresence | CancelStream, protocol: WireProtocol, grants: Grants
) -> Fetch | Look | Ask | Send:
    """Return what to do with a question about a channel: answer it, or refuse it."""
    try:
        channel = protocol.channel(request.channel)
    except InvalidChannel as exc:
        return refuse(request, ErrorCode.INVALID_CHANNEL, exc.reason)
    if isinstance(request, ReadHistory):
        action: Fetch | Look | Ask = Fetch(channel, request)
    elif isinstance(request, CancelStream):
        action = Ask(channel, request)
    else:
        action = Look(channel, request)
    return action if _is_granted(action, grants) else _not_granted(request)


def asked_about(action: Asked) -> tuple[Request, str, str]:
    """Return the request, and the action and the name that the application is asked about."""
    match action:
        case Invoke(call):
            return call, "command", call.action
        case Emit(channel, publish):
            return publish, "publish", channel
        case Fetch(channel, read):
            return read, "history", channel
        case Look(channel, question):
            return question, "presence", channel
        case Ask(channel, wish):
            return wish, "cancel", channel


def judge_twice(action: Asked, grants: Grants, *, is_allowed: bool) -> Asked | Send:
    """Return what to do after the application's answer, with the grants of this moment."""
    request, _, _ = asked_about(action)
    if not is_allowed:
        return refuse(request, ErrorCode.FORBIDDEN, NOT_ALLOWED)
    if isinstance(action, Invoke):
        return judge_command(action.call, grants)
    # A refresh may have taken it away meanwhile.
    return action if _is_granted(action, grants) else _not_granted(request)


def _is_granted(action: Emit | Fetch | Look | Ask, grants: Grants) -> bool:
    match action:
        case Emit(channel):
            return grants.may_publish(channel)
        case Fetch(channel):
            return grants.may_read(channel)
        case Look(channel):
            return grants.may_look(channel)
        case Ask(channel):
            return grants.may_cancel(channel)


def _not_granted(request: Request) -> Send:
    return refuse(request, ErrorCode.FORBIDDEN, NOT_GRANTED)
