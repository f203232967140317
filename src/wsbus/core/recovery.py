"""Recovery: what a new subscription gets of the past, worked out from what a store answered.

A subscription of a pattern may begin where an earlier one ended (``since``), and it may begin with
the latest publication of each channel. Both are questions to a store (:func:`reads_of`), and
:func:`recover` puts the answers together: for each pattern its outcome, and for all of them the
publications to replay, each once, in the order of their offsets.

*Recovered* means that the replay and what follows live hold everything that was published on the
pattern's channels since, each once and in order. So a pattern is not recovered if a part of it is
gone, if it is more than :data:`MAX_REPLAY`, or if the pattern also matches channels without
history, of which nothing can be known.

Several patterns may match one channel. What is after the position of one of them is replayed, since
a client keeps a mark for each pattern and drops by it what its subscribers have got.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .actions import Brought, Outcome
from .channels import Channel
from .events import Position
from .families import Families
from .history import HistoryPage, HistoryRead, offset_of
from .messages import Publication, Since
from .patterns import Pattern
from .streams import STREAM_NEWEST, compacted, lost_stream

__all__ = [
    "MAX_LATEST",
    "MAX_RECOVERED",
    "MAX_REPLAY",
    "MAX_REPLAY_BYTES",
    "Wanted",
    "reads_of",
    "recover",
]

MAX_REPLAY: Final = 300
"""The most publications that are replayed for one pattern; more are a gap."""

MAX_LATEST: Final = 1000
"""The most publications that the subscriptions of one request begin with, of all channels."""

MAX_RECOVERED: Final = 10
"""The most patterns of one request that are recovered: the first ones with a position, or all that
have one and the same position, with fewer publications for each. A request
takes the event loop for a bounded time, and memory within bounds."""

MAX_REPLAY_BYTES: Final = 4 << 20
"""The most bytes of data that are replayed for one request; patterns with more are a gap."""


class Wanted(NamedTuple):
    """A pattern that is about to be subscribed."""

    pattern: Pattern
    since: Since | None = None


def reads_of(wanted: Sequence[Wanted], families: Families) -> list[HistoryRead]:
    """Return the questions whose answers :func:`recover` takes, in the same order."""
    reads: list[HistoryRead] = []
    places, limit = _bounds(wanted, families)
    for pattern, since in wanted:
        if since is not None and places and families.keeps_any(pattern):
            places -= 1
            reads.append(HistoryRead(pattern, since.position, limit=limit))
        newest = _newest(pattern, families)
        if newest is not None:
            reads.append(HistoryRead(pattern, limit=MAX_LATEST, newest=newest, is_from_end=True))
    return reads


def _bounds(wanted: Sequence[Wanted], families: Families) -> tuple[int, int]:
    """Return how many patterns are recovered, and how many publications of each are replayed.

    A reader over HTTP has one position for all of its patterns, and cannot ask for them one after
    another: it would lose the order. So they share what ten patterns may have.
    """
    starts = [each.since.position for each in wanted if each.since and families.keeps_any(each[0])]
    if len(starts) > MAX_RECOVERED and len(set(starts)) == 1:
        return len(starts), MAX_RECOVERED * MAX_REPLAY // len(starts) or 1
    return MAX_RECOVERED, MAX_REPLAY


def recover(
    wanted: Sequence[Wanted], pages: Sequence[HistoryPage], families: Families, head: Position
) -> Brought:
    """Put the answers of a store together.

    Args:
        wanted: The patterns, each once.
        pages: The answers to :func:`reads_of`.
        families: Those of the bus.
        head: The position of the store before the questions were asked, or later, if what was
            published between is known not to have been delivered.
    """
    answers = iter(pages)
    outcomes: list[Outcome] = []
    replay: dict[int, Publication] = {}
    latest: dict[int, Publication] = {}
    (places, _), room = _bounds(wanted, families), MAX_REPLAY_BYTES
    for pattern, since in wanted:
        if not families.keeps_any(pattern):
            outcomes.append(Outcome(is_recovered=None if since is None else False))
            continue
        position, is_recovered, until = head, None, None
        if since is not None:
            is_recovered = False
            if places:
                places -= 1
                page = next(answers)
                new = {at: e for e in page.publications if (at := offset_of(e)) not in replay}
                size = sum([len(each.data) for each in new.values()])
                if page.is_complete and not page.has_more and size <= room:
                    room -= size
                    position = since.position
                    replay.update(new)
                    is_recovered = families.keeps_all(pattern)
                    if not page.publications and position.offset < head.offset:
                        until = head
        if _newest(pattern, families) is not None:
            page = next(answers)
            if position is head:
                found = _latest(page, families, head)
                if since is not None and not found and pattern.is_exact:
                    found = _lost(pattern, families, head)
                latest.update((offset_of(each), each) for each in found)
        is_replayed = since is not None and position is not head
        outcomes.append(
            Outcome(
                position=position,
                is_recovered=is_recovered,
                is_replayed=is_replayed,
                until=until,
            )
        )
    missed = [publication for _, publication in sorted(replay.items())]
    fresh = [each for offset, each in sorted(latest.items()) if offset not in replay]
    return Brought(outcomes, missed, _newest_within(fresh))


def _newest_within(latest: Sequence[Publication]) -> Sequence[Publication]:
    """Return those that a request may begin with, the newest ones."""
    room, count = MAX_REPLAY_BYTES, 0
    for publication in reversed(latest):
        room -= publication.size
        if room < 0 or count >= MAX_LATEST:
            break
        count += 1
    return latest[len(latest) - count :]


def _newest(pattern: Pattern, families: Families) -> int | None:
    """Return how many publications of each channel hold the latest ones; None: none is wanted."""
    counts = [
        STREAM_NEWEST if family.stream else 1 if family.key is None else family.history.size
        for family in families.over(pattern)
        if family.history is not None and family.history.gives_latest
    ]
    return max(counts, default=None)


def _latest(page: HistoryPage, families: Families, head: Position) -> list[Publication]:
    """Return the latest publication of each channel, or of each key where the family has one.

    For a stream it stands for all entries up to a head, since later ones come live.
    """
    latest: dict[object, Publication] = {}
    entries: dict[str, list[Publication]] = {}
    for publication in page.publications:
        family = families.find(publication.channel)
        if family is None or family.history is None or not family.history.gives_latest:
            continue
        if family.stream is not None:
            if offset_of(publication) <= head.offset:
                entries.setdefault(publication.channel, []).append(publication)
            continue
        key: object = publication.channel
        if family.key is not None:
            value = publication.key or family.key_in(publication.data)
            key = (publication.channel, publication.event, value)
        latest.pop(key, None)
        latest[key] = publication
    for channel, found in entries.items():
        stream = families.stream_of(channel)
        whole = compacted(found, None if stream is None else stream.compact)
        if whole is not None:
            latest[channel] = whole
    return [*latest.values()]


def _lost(pattern: Pattern, families: Families, head: Position) -> list[Publication]:
    """Return what the reader of a stream gets that had a part of it, if nothing is kept."""
    if families.stream_of(pattern.text) is None:
        return []
    return [lost_stream(Channel(pattern.text), head)]
