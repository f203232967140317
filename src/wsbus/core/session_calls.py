"""Commands and publishes of a client: what its grants say to them."""

from __future__ import annotations

from .actions import Emit, Fetch, Invoke, Send, refuse
from .errors import ErrorCode, InvalidChannel
from .messages import Command, Publish, ReadHistory, Request, is_event
from .permissions import Grants
from .protocol import WireProtocol
from .session_subscriptions import NOT_ALLOWED, NOT_GRANTED

__all__ = ["asked_about", "judge_command", "judge_publish", "judge_read", "judge_twice"]


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


def judge_read(read: ReadHistory, protocol: WireProtocol, grants: Grants) -> Fetch | Send:
    """Return what to do with a request for history: answer it, or refuse it."""
    try:
        channel = protocol.channel(read.channel)
    except InvalidChannel as exc:
        return refuse(read, ErrorCode.INVALID_CHANNEL, exc.reason)
    if not grants.may_read(channel):
        return refuse(read, ErrorCode.FORBIDDEN, NOT_GRANTED)
    return Fetch(channel, read)


def asked_about(action: Invoke | Emit | Fetch) -> tuple[Request, str, str]:
    """Return the request, and the action and the name that the application is asked about."""
    match action:
        case Invoke(call):
            return call, "command", call.action
        case Emit(channel, publish):
            return publish, "publish", channel
        case Fetch(channel, read):
            return read, "history", channel


def judge_twice(
    action: Invoke | Emit | Fetch, grants: Grants, *, is_allowed: bool
) -> Invoke | Emit | Fetch | Send:
    """Return what to do after the application's answer, with the grants of this moment."""
    request, _, _ = asked_about(action)
    if not is_allowed:
        return refuse(request, ErrorCode.FORBIDDEN, NOT_ALLOWED)
    if isinstance(action, Invoke):
        return judge_command(action.call, grants)
    may = grants.may_read if isinstance(action, Fetch) else grants.may_publish
    if not may(action.channel):  # A refresh has taken it away meanwhile.
        return refuse(request, ErrorCode.FORBIDDEN, NOT_GRANTED)
    return action
