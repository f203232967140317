"""Questions of a client about the past: positions, keys of publications, and history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ..core.channels import parse_channel
from ..core.choices import shown
from ..core.errors import UsageError
from ..core.events import Event, EventPage, Position
from ..core.messages import HistoryResult, ReadHistory
from .payloads import decode

__all__ = ["checked_key", "checked_position", "page_of", "read_history"]

T = TypeVar("T")
_MAX_EVENTS: Final = 300
_MAX_TEXT: Final = 128
_MAX_OFFSET: Final = 2**53 - 1


def checked_key(key: str) -> str:
    """Return an idempotency key.

    Raises:
        UsageError: It is something else than a text of 1 to 128 characters.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_TEXT:  # type: ignore[redundant-expr]
        raise UsageError(f"an idempotency key has 1 to {_MAX_TEXT} characters; not {shown(key)}")
    return key


def checked_position(name: str, given: Position | None) -> Position | None:
    """Return a position that the application gives.

    Raises:
        UsageError: It is something else.
    """
    if given is None:
        return None
    if not isinstance(given, Position):
        raise UsageError(f"{name} is a Position, as events have one, not {shown(given)}")
    fits = 1 <= len(given.epoch) <= _MAX_TEXT and len(given.tag) <= _MAX_TEXT
    if not fits or not 0 <= given.offset <= _MAX_OFFSET:
        raise UsageError(f"{name} is no position of a server: {shown(given)}")
    return given


def read_history(
    channel: str, limit: int, before: Position | None, after: Position | None
) -> ReadHistory:
    """Return the request for history.

    Raises:
        UsageError: An argument is invalid.
    """
    if type(limit) is not int or not 1 <= limit <= _MAX_EVENTS:
        raise UsageError(f"limit is 1 to {_MAX_EVENTS} events, not {shown(limit)}")
    return ReadHistory(
        parse_channel(channel),
        limit,
        checked_position("before", before),
        checked_position("after", after),
    )


def page_of(result: HistoryResult, to: Callable[[bytes], T]) -> EventPage[T]:
    """Return the answer as events.

    Raises:
        UnexpectedData: The data of one do not have the type.
    """
    what = f"an event on {result.channel}"
    events = tuple(
        Event(p.channel, p.event, decode(p.data, to, what), p.timestamp, position=p.position)
        for p in result.publications
    )
    return EventPage(events, result.position, result.has_more)
