"""One channel in full: a page of what it keeps, and the connections that are on it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ..core.channels import Channel, parse_channel
from ..core.errors import BrokerUnavailable, CommandError, ErrorCode, InvalidChannel
from ..core.events import Position
from ..core.history import HistoryRead
from ..core.messages import Publication
from ..core.patterns import parse_pattern
from ..core.permissions import Grants
from ..core.presence import Occupant
from ..server.services import Services
from .samples import TailEvent
from .sampling import cut
from .tap import MAX_TEXT

__all__ = ["EVENTS", "OCCUPANTS", "Past", "PastQuery", "look"]

EVENTS: Final = 25
"""Events of one page."""
OCCUPANTS: Final = 100
"""Connections listed; more are counted."""


class PastQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of ``console.channel``."""

    channel: Annotated[str, Meta(max_length=255)]
    before: Position | None = None
    """Only what was published before it; None: the newest."""


class Past(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One channel: its history, and the connections on it."""

    channel: str
    keeps: bool
    """Whether it has history."""
    events: list[TailEvent] = []
    """Ascending."""
    before: Position | None = None
    """The page before this one ends there; None: there is none."""
    shows: bool
    """Whether it has presence."""
    occupants: list[Occupant] = []
    """Those that were there longest."""
    count: int = 0
    """How many there are."""


async def look(wanted: PastQuery, grants: Grants, services: Services) -> Past:
    """Read one channel.

    Args:
        wanted: What the operator asks for.
        grants: Grants of the operator, whose denies hide channels.
        services: Those of the bus that is watched.

    Raises:
        CommandError: It is no channel, it is denied, or its history cannot be reached.
    """
    try:
        channel = parse_channel(wanted.channel)
    except InvalidChannel as exc:
        raise CommandError(ErrorCode.INVALID_CHANNEL, exc.reason) from None
    if not grants.may_receive(channel):
        raise CommandError(ErrorCode.FORBIDDEN, "this channel is denied")
    keeps, shows = services.post.keeps(channel), services.attendances.shows(channel)
    found, before = await _page(channel, wanted.before, services) if keeps else ((), None)
    there = services.attendances.present(channel) if shows else []
    return Past(
        channel=channel,
        keeps=keeps,
        events=[_event(publication) for publication in found],
        before=before,
        shows=shows,
        occupants=[_occupant(each) for each in there[:OCCUPANTS]],
        count=len(there),
    )


async def _page(
    channel: Channel, before: Position | None, services: Services
) -> tuple[tuple[Publication, ...], Position | None]:
    """Return a page of history, and where the page before it ends."""
    read = HistoryRead(parse_pattern(channel), before=before, limit=EVENTS, is_from_end=True)
    try:
        (page,) = await services.read([read])
    except BrokerUnavailable:
        why = "the broker that keeps the history cannot be reached"
        raise CommandError(ErrorCode.UNAVAILABLE, why) from None
    found = page.publications
    return found, found[0].position if page.has_more and found else None


def _event(publication: Publication) -> TailEvent:
    return TailEvent(
        publication.channel,
        cut(publication.event),
        publication.timestamp,
        publication.data[:MAX_TEXT].decode(errors="ignore"),
        len(publication.data),
    )


def _occupant(occupant: Occupant) -> Occupant:
    """Return it with texts that are short, and that UTF-8 can encode."""
    subject = occupant.subject
    return Occupant(cut(occupant.id), None if subject is None else cut(subject))
