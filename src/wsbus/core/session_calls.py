"""Commands and publishes of a client: what its grants say to them."""

from __future__ import annotations

from .actions import Emit, Invoke, Send, refuse
from .errors import ErrorCode, InvalidChannel
from .messages import Command, Publish, is_event
from .permissions import Grants
from .protocol import WireProtocol
from .session_subscriptions import NOT_ALLOWED, NOT_GRANTED

__all__ = ["judge_command", "judge_publish", "judge_twice"]


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


def judge_twice(action: Invoke | Emit, grants: Grants, *, is_allowed: bool) -> Invoke | Emit | Send:
    """Return what to do after the application's answer, with the grants of this moment."""
    request = action.call if isinstance(action, Invoke) else action.publish
    if not is_allowed:
        return refuse(request, ErrorCode.FORBIDDEN, NOT_ALLOWED)
    if isinstance(action, Invoke):
        return judge_command(action.call, grants)
    if not grants.may_publish(action.channel):  # A refresh has taken it away meanwhile.
        return refuse(request, ErrorCode.FORBIDDEN, NOT_GRANTED)
    return action
