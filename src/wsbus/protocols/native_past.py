"""Messages of ``wsbus.v1`` about the past of channels, presence and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.events import Position
from ..core.presence import Occupant
from .common import FromClient, FromServer, milliseconds

__all__ = [
    "CancelMessage",
    "GivenPosition",
    "PresenceMessage",
    "ReadHistoryMessage",
    "Text",
    "WirePosition",
    "history_answer",
    "presence_answer",
    "presence_notice",
    "wire_position",
]

Content: TypeAlias = Callable[[core.Publication], Raw]
Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""An epoch, or an idempotency key."""


class GivenPosition(msgspec.Struct, frozen=True):
    """A position that a client gives."""

    epoch: Text
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    tag: Annotated[str, msgspec.Meta(max_length=128)] = ""

    def position(self) -> Position:
        """Return the position."""
        return Position(self.epoch, self.offset, self.tag)


class ReadHistoryMessage(FromClient, frozen=True, kw_only=True, tag="history"):
    """``{"type":"history"}``."""

    channel: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=300)] = 50
    before: GivenPosition | None = None
    after: GivenPosition | None = None

    def request(self) -> core.Request:
        """Return the request."""
        before = None if self.before is None else self.before.position()
        after = None if self.after is None else self.after.position()
        return core.ReadHistory(self.channel, self.limit, before, after, self.id)


class PresenceMessage(FromClient, frozen=True, kw_only=True, tag="presence"):
    """``{"type":"presence"}``."""

    channel: str
    watch: bool | None = None

    def request(self) -> core.Request:
        """Return the request."""
        return core.GetPresence(self.channel, self.watch, self.id)


class CancelMessage(FromClient, frozen=True, tag="cancel"):
    """``{"type":"cancel"}``."""

    is_call = True

    channel: str

    def request(self) -> core.Request:
        """Return the request."""
        return core.CancelStream(self.channel, self.id)


class WirePosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A position as the server writes it."""

    epoch: str
    offset: int
    tag: str = ""
    previous: int | None = None


class _PastEvent(msgspec.Struct, frozen=True):
    event: str
    timestamp: int
    position: WirePosition
    data: Raw


class _History(msgspec.Struct, frozen=True):
    channel: str
    events: tuple[_PastEvent, ...]
    position: WirePosition
    more: bool


class _HistoryAnswer(FromServer, frozen=True, kw_only=True, tag="history"):
    id: str | None = None
    timestamp: int
    data: _History


class _Occupant(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    subject: str | None = None


class _There(msgspec.Struct, frozen=True):
    channel: str
    members: tuple[_Occupant, ...]
    count: int
    watching: bool


class _PresenceAnswer(FromServer, frozen=True, kw_only=True, tag="presence"):
    id: str | None = None
    timestamp: int
    data: _There


class _Moves(msgspec.Struct, frozen=True, omit_defaults=True):
    channel: str
    count: int
    joined: tuple[_Occupant, ...] = ()
    left: tuple[_Occupant, ...] = ()
    watching: bool = True


class _PresenceNotice(FromServer, frozen=True, tag="presence_changed"):
    timestamp: int
    data: _Moves


def wire_position(position: Position, previous: Position | None = None) -> WirePosition:
    """Return a position as it is written, with the offset of the one before it."""
    if previous is None or previous.epoch != position.epoch:
        return WirePosition(position.epoch, position.offset, position.tag)
    return WirePosition(position.epoch, position.offset, position.tag, previous.offset)


def _history(result: core.HistoryResult, content: Content) -> _History:
    return _History(
        result.channel,
        tuple([_past_event(each, content(each)) for each in result.publications]),
        wire_position(result.position),
        result.has_more,
    )


def _past_event(publication: core.Publication, data: Raw) -> _PastEvent:
    assert publication.position is not None  # It is kept.
    where = wire_position(publication.position, publication.previous)
    return _PastEvent(publication.event, milliseconds(publication.timestamp), where, data)


def _occupants(occupants: tuple[Occupant, ...]) -> tuple[_Occupant, ...]:
    return tuple([_Occupant(each.id, each.subject) for each in occupants])


def history_answer(result: core.HistoryResult, at: int, content: Content) -> FromServer:
    """Return the answer to a request for history.

    Args:
        result: What the store has.
        at: Milliseconds.
        content: Returns the data of a publication in the form of the dialect.
    """
    return _HistoryAnswer(id=result.ref, timestamp=at, data=_history(result, content))


def presence_answer(result: core.PresenceResult, at: int) -> FromServer:
    """Return the answer to a request for presence."""
    members = _occupants(result.members)
    there = _There(result.channel, members, result.total, result.is_watched)
    return _PresenceAnswer(id=result.ref, timestamp=at, data=there)


def presence_notice(change: core.PresenceChanged, at: int) -> FromServer:
    """Return the message for a change of presence."""
    joined, left = _occupants(change.joined), _occupants(change.left)
    moves = _Moves(change.channel, change.total, joined, left, change.is_watched)
    return _PresenceNotice(at, moves)
