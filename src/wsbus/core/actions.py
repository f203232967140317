"""The actions of a session: its driver performs them in order, with nothing in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from .channels import Channel
from .events import Position
from .messages import (
    CancelStream,
    Command,
    Excess,
    GetPresence,
    Malformed,
    Publication,
    Publish,
    ReadHistory,
    Refused,
    Request,
    ServerMessage,
    Since,
)
from .patterns import Pattern
from .permissions import Identity

__all__ = [
    "Action",
    "Adopt",
    "Ask",
    "AskPermission",
    "AskToken",
    "Attach",
    "Brought",
    "Close",
    "Emit",
    "Fetch",
    "Invoke",
    "Join",
    "Leave",
    "Look",
    "Outcome",
    "Replay",
    "ReportStatus",
    "Send",
    "Thin",
    "refuse",
]


class Send(msgspec.Struct, frozen=True):
    """Say this to the client."""

    reply: ServerMessage


class Join(msgspec.Struct, frozen=True):
    """From now on the client gets what matches."""

    pattern: Pattern


class Leave(msgspec.Struct, frozen=True):
    """From now on it does not."""

    pattern: Pattern


class Thin(msgspec.Struct, frozen=True):
    """From now on the client gets at most so many events a second; it has joined, or is about to.

    It comes before the joins and after the leaves that go with it.
    """

    rates: Mapping[Pattern, float | None]
    """All patterns, each with its rate, or None for all events; empty if none has a rate."""


class Adopt(msgspec.Struct, frozen=True):
    """From now on the client is this identity."""

    identity: Identity
    is_renewal: bool = False
    """The client was this subject before: it has shown a newer token."""


class Invoke(msgspec.Struct, frozen=True):
    """Carry out a command that the client may give, if there is such a command."""

    call: Command


class Emit(msgspec.Struct, frozen=True):
    """Publish what the client may publish."""

    channel: Channel
    publish: Publish


class Fetch(msgspec.Struct, frozen=True):
    """Answer with the history that the client may read."""

    channel: Channel
    request: ReadHistory


class Look(msgspec.Struct, frozen=True):
    """Answer which connections are on a channel that the client may look at."""

    channel: Channel
    request: GetPresence


class Ask(msgspec.Struct, frozen=True):
    """Ask the producer of a stream to cancel it; the client may."""

    channel: Channel
    request: CancelStream


class ReportStatus(msgspec.Struct, frozen=True):
    """Answer with what is known of the connection."""

    ref: str | None


class AskToken(msgspec.Struct, frozen=True):
    """Have the token judged; answer with :meth:`.Session.handle_answer`."""

    request: int
    """The number of the pending request, which comes back with the answer."""
    token: str


class AskPermission(msgspec.Struct, frozen=True):
    """May the identity do ``action`` on each of ``names``?

    Answer with :meth:`.Session.handle_answer`. ``action`` is ``subscribe`` (the names are
    patterns), ``publish``, ``history`` or ``presence`` (one channel) or ``command`` (one action).
    """

    request: int
    """The number of the pending request, which comes back with the answer."""
    identity: Identity
    action: str
    names: tuple[str, ...]


class Attach(msgspec.Struct, frozen=True):
    """Bring what matches these patterns here; answer with :meth:`.Session.handle_answer`.

    The client gets nothing of it before: the answer brings :class:`Join`.
    """

    request: int
    """The number of the pending request, which comes back with the answer."""
    patterns: tuple[Pattern, ...]
    since: Mapping[Pattern, Since] = {}
    """The positions where the client goes on, by pattern."""


class Outcome(NamedTuple):
    """The outcome of an :class:`Attach` for one pattern."""

    is_reached: bool = True
    """Whether what other nodes publish is brought here."""
    position: Position | None = None
    """The position before the replay: what comes is after it. None: the pattern
    has no history."""
    is_recovered: bool | None = None
    """Whether nothing is missing; None: it has no ``since``."""
    is_replayed: bool = False
    """Whether all that is kept since ``since`` is replayed: nothing is missing but what is never
    kept."""
    until: Position | None = None
    """The later position up to which there was nothing to replay; None: there was something, or
    that is not known."""


class Brought(NamedTuple):
    """The answer to an :class:`Attach`."""

    outcomes: Sequence[Outcome]
    """One for each pattern, in order."""
    replay: Sequence[Publication] = ()
    """Publications that were missed, in order."""
    latest: Sequence[Publication] = ()
    """The latest publications for new subscriptions, in order."""


class Replay(msgspec.Struct, frozen=True):
    """Say what was published before."""

    publications: Sequence[Publication]
    is_latest: bool = False
    """They are the latest of their channels, for a new subscription."""


class Close(msgspec.Struct, frozen=True):
    """End the connection; always the last action."""

    code: int
    reason: str


Action: TypeAlias = (
    Send
    | Join
    | Leave
    | Thin
    | Adopt
    | Invoke
    | Emit
    | Fetch
    | Look
    | Ask
    | ReportStatus
    | AskToken
    | AskPermission
    | Attach
    | Replay
    | Close
)


def refuse(command: Request, code: str, message: str) -> Send:
    """Answer a message that is not acted on; what asked for a response gets one."""
    match command:
        case Command() | Publish() | CancelStream():
            is_call = command.ref is not None
        case Malformed() | Excess():
            is_call = command.is_call
        case _:
            is_call = False
    return Send(Refused(code, message, command.ref, is_call))
