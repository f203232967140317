"""Reads a file of SQLite that keeps history; see :mod:`wsbus.brokers._sqlite_file`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..core.envelope import kept_publication, open_kept
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import feed_of
from ..core.history import HistoryPage, HistoryRead
from ..core.messages import Publication

__all__ = ["answer", "error_name", "in_words", "knows", "row_of", "state_of", "tag_of"]

_FAR: Final = 1 << 62
"""No offset is as great."""
# Of the channels in a JSON array, the first or last offsets within two, and what is there.
_FIND: Final = """
SELECT entry FROM entries WHERE offset IN (
    SELECT e.offset FROM json_each(?) AS c CROSS JOIN entries AS e
    ON e.channel = c.value AND e.offset > ? AND e.offset < ? ORDER BY e.offset {order} LIMIT ?
) ORDER BY offset
"""
# The same, but of each channel only the newest.
_FIND_NEWEST: Final = """
SELECT entry FROM entries WHERE offset IN (
    SELECT e.offset FROM json_each(?) AS c CROSS JOIN entries AS e
    ON e.offset IN (
        SELECT offset FROM entries WHERE channel = c.value AND offset > ? AND offset < ?
        ORDER BY offset DESC LIMIT ?
    ) ORDER BY e.offset {order} LIMIT ?
) ORDER BY offset
"""


def answer(connection: sqlite3.Connection, read: HistoryRead) -> HistoryPage:
    """Answer a question, within a transaction."""
    head, floor = state_of(connection)
    after, before, pattern = read.after, read.before, read.pattern
    is_known = after is None or knows(connection, after, head)
    start = max(after.offset, 0) if after is not None and is_known else 0
    end = head.offset + 1
    if before is not None and before.epoch == head.epoch:
        end = min(max(before.offset, 0), _FAR)
    is_complete, numbers, count = is_known, [], 0
    for number, name, last, gone in _within(connection, read):
        if not pattern.matches(name):
            continue
        count += 1
        if last > start:
            numbers.append(number)
            is_complete = is_complete and (after is None or gone <= start)
    if after is not None and start < floor and not (pattern.is_exact and count):
        is_complete = False
    order = "DESC" if read.is_from_end else "ASC"
    most = read.limit + 1
    if read.newest is None:
        query, values = _FIND, [json.dumps(numbers), start, end, most]
    else:
        query, values = _FIND_NEWEST, [json.dumps(numbers), start, end, read.newest, most]
    entries = [row[0] for row in connection.execute(query.format(order=order), values)]
    has_more = len(entries) > read.limit
    if has_more:
        entries = entries[1:] if read.is_from_end else entries[:-1]
    publications = [*filter(None, [_open(entry, head.epoch) for entry in entries])]
    is_complete = is_complete and len(publications) == len(entries)
    return HistoryPage(tuple(publications), head, is_complete, has_more)


def _within(connection: sqlite3.Connection, read: HistoryRead) -> sqlite3.Cursor:
    """Return the channels that a pattern may match."""
    find = "SELECT id, name, last, gone FROM channels"
    if read.pattern.is_exact:
        return connection.execute(f"{find} WHERE name = ?", [read.pattern.text])
    literal = feed_of(read.pattern)[1:]
    if not literal:
        return connection.execute(find)
    between = [literal, literal[:-1] + "/"]  # The next character after the dot.
    return connection.execute(f"{find} WHERE name >= ? AND name < ?", between)


def state_of(connection: sqlite3.Connection) -> tuple[Position, int]:
    """Return the head, and the greatest offset of a channel that is not remembered."""
    epoch, head, floor = row_of(connection, "SELECT epoch, head, floor FROM state")
    return Position(epoch, head, tag_of(connection, head)), floor


def knows(connection: sqlite3.Connection, position: Position, head: Position) -> bool:
    """Tell whether this file has given a position."""
    if position.epoch != head.epoch or position.offset > head.offset:
        return False
    return not position.tag or position.tag == tag_of(connection, max(position.offset, 0))


def tag_of(connection: sqlite3.Connection, offset: int) -> str:
    """Return the tag of the run that gave an offset; empty: none is known."""
    find = "SELECT tag FROM runs WHERE first <= ? ORDER BY first DESC LIMIT 1"
    row = connection.execute(find, [offset]).fetchone()
    return "" if row is None else str(row[0])


def row_of(
    connection: sqlite3.Connection, query: str, values: Sequence[object] = ()
) -> tuple[Any, ...]:
    """Return the only row of an answer."""
    row: tuple[Any, ...] = connection.execute(query, values).fetchone()
    return row


def in_words(exc: sqlite3.Error, path: str) -> UsageError | BrokerUnavailable:
    """Return what an error of SQLite means.

    A :class:`.UsageError` is one that another attempt does not mend.
    """
    name = error_name(exc)
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_FORMAT")):
        return UsageError(f"{path} is no database, or is damaged: move it away, or restore a copy")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return UsageError(
            f"{path} cannot be opened and written: its directory must be there, and this process "
            "must have the right to write to both"
        )
    if name.startswith("SQLITE_FULL"):
        return BrokerUnavailable(f"the disk is full: {path} cannot grow")
    return BrokerUnavailable(f"{path} cannot be read or written: {exc}")


def error_name(exc: sqlite3.Error) -> str:
    """Return the name that SQLite has for an error; empty: it is none of SQLite's own."""
    return str(getattr(exc, "sqlite_errorname", ""))


def _open(entry: bytes, epoch: str) -> Publication | None:
    kept = open_kept(entry)
    if kept is not None and kept.epoch != epoch:  # The file has got a new one since.
        kept = msgspec.structs.replace(kept, epoch=epoch)
    return None if kept is None else kept_publication(kept)
