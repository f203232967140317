"""Sharing: one question to a store for many subscribers that come back at once.

They ask for the same pattern, each after a position of its own. The answer after the earliest
position holds those of all others, unless a part of it is gone: then whether another position's
part is gone, too, is known for an exact channel only. A position with a tag is recognised in
the answer, or the store must be asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from .events import Position
from .history import HistoryPage, HistoryRead, offset_of

__all__ = ["part_of", "shared"]

_EARLIEST: Final = 0


def shared(reads: Iterable[HistoryRead]) -> dict[HistoryRead, HistoryRead]:
    """Return for each question the one that is put instead of it, often itself."""
    groups: dict[object, list[HistoryRead]] = {}
    for read in dict.fromkeys(reads):
        after = read.after
        is_simple = read.before is None and read.newest is None and not read.is_from_end
        kind: object = read
        if after is not None and is_simple:
            kind = (read.pattern, after.epoch, read.limit)
        groups.setdefault(kind, []).append(read)
    put: dict[HistoryRead, HistoryRead] = {}
    for group in groups.values():
        put.update(dict.fromkeys(group, _widest(group)))
    return put


def part_of(page: HistoryPage, wide: HistoryRead, read: HistoryRead) -> HistoryPage | None:
    """Return the answer to a question from that to the wider one that was put instead of it.

    Returns:
        None: that does not say it; the question must be put by itself.
    """
    if wide == read:
        return page
    after, publications = read.after, page.publications
    assert after is not None  # Only such questions share one.
    position, found = after.offset, [p for p in publications if offset_of(p) > after.offset]
    if after.epoch != page.head.epoch or position > page.head.offset:
        return HistoryPage((), page.head, is_complete=False)
    if after.tag and not _is_known(after, wide, page):
        return None
    if not page.is_complete:
        if not read.pattern.is_exact or not publications:
            return None
        if len(found) == len(publications):
            previous = found[0].previous
            if previous is not None and previous.offset > position:
                return None
    if len(found) <= read.limit:
        return HistoryPage(tuple(found), page.head, is_complete=True)
    return HistoryPage(tuple(found[: read.limit]), page.head, is_complete=True, has_more=True)


def _widest(group: Sequence[HistoryRead]) -> HistoryRead:
    """Return a question whose answer holds the end of what all of the group ask for."""
    if len(group) == 1:
        return group[0]
    earliest = min(group, key=lambda read: read.after.offset if read.after else _EARLIEST)
    return earliest._replace(limit=earliest.limit + 1, is_from_end=True)


def _is_known(position: Position, wide: HistoryRead, page: HistoryPage) -> bool:
    """Tell whether a store that gave this answer has given that position, too."""
    return position == wide.after or any(p.position == position for p in page.publications)
