"""A file of SQLite that keeps history: its tables, and what is written and read. Nothing waits.

One thread writes, over one connection; others read, over a second one. The write-ahead log lets
them work side by side. ``synchronous=FULL``: a commit is on the disk before anybody hears of it,
because an offset that was confirmed or delivered must not be given to another publication after
the machine has lost its power.

Each opening is a *run*, with a random tag for the offsets that it gives. So a file that was copied
back from a backup is noticed: offsets that are given anew have another tag.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe
from threading import Lock
from typing import Final, NamedTuple, TypeAlias

from ..core.envelope import Draft, Turn, kept_item
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import Feed
from ..core.history import IDEMPOTENCY_SECONDS, HistoryPage, HistoryRead, Stored
from ._sqlite_reads import answer, error_name, in_words, knows, row_of, state_of, tag_of

__all__ = ["MAX_CHANNELS", "HistoryFile", "Written"]

MAX_CHANNELS: Final = 100_000
"""Channels that are remembered at most."""

_APPLICATION: Final = 0x77736275
"""Marks the files of wsbus: ``wsbu``."""
_SCHEMA: Final = 1
_MAX_RUNS: Final = 1000
_MAX_SWEEP: Final = 5000
"""Publications that are dropped in one transaction because of their age."""
_LOCK_SECONDS: Final = 2.0
"""How long another process may hold the file while it ends."""
_MAX_TTL: Final = 366 * 86_400.0

_TABLES: Final = f"""
BEGIN;
CREATE TABLE state (epoch TEXT NOT NULL, head INTEGER NOT NULL, floor INTEGER NOT NULL);
CREATE TABLE runs (first INTEGER PRIMARY KEY, tag TEXT NOT NULL);
CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL,
    gone INTEGER NOT NULL, count INTEGER NOT NULL, ends REAL NOT NULL);
CREATE TABLE entries (offset INTEGER PRIMARY KEY, channel INTEGER NOT NULL, ends REAL NOT NULL,
    entry BLOB NOT NULL);
CREATE INDEX entries_of_channel ON entries (channel, offset);
CREATE INDEX entries_by_end ON entries (ends);
CREATE TABLE keys (key BLOB PRIMARY KEY, offset INTEGER NOT NULL, ends REAL NOT NULL);
CREATE INDEX keys_by_end ON keys (ends);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_SCHEMA};
COMMIT;
"""
Written: TypeAlias = tuple[list[Stored], list[tuple[Feed, bytes]]]
"""The outcomes of the drafts of a turn, and the items to bring."""


class _Row(NamedTuple):
    """A channel in the file."""

    number: int
    name: str
    last: int = 0
    gone: int = 0
    count: int = 0  # type: ignore[assignment]  # not the method of tuples
    ends: float = 0


class _Channel:
    """A channel, as the writer knows it."""

    __slots__ = ("count", "ends", "gone", "last", "name", "number", "size")

    def __init__(self, row: _Row) -> None:
        self.number: Final = row.number
        self.name: Final = row.name
        self.last = row.last
        """The offset of its last publication."""
        self.gone = row.gone
        """The greatest offset that may have been dropped."""
        self.count = row.count
        """Its publications that are kept."""
        self.ends = row.ends
        """When the last of them is too old; those before it are by then, too."""
        self.size = 0
        """The most that it keeps."""


class HistoryFile:
    """An open file. An error of :mod:`sqlite3` leaves it unusable, but for :meth:`close`.

    Args:
        path: The path, absolute and without links.
        max_bytes: The most bytes of it that are in use.
        seen: The last position that the caller knows of this file; None: none. If the file does
            not know it, it gets a new epoch.
        now: Seconds since the epoch.

    Raises:
        UsageError: The file cannot be used.
        BrokerUnavailable: It cannot be used now.
    """

    def __init__(self, path: str, max_bytes: int, seen: Position | None, now: float) -> None:
        self._path: Final = path
        self._max_bytes: Final = max_bytes
        self._open: Final[list[sqlite3.Connection]] = []
        self._reading: Final = Lock()
        self._channels: Final[dict[str, _Channel]] = {}
        """The one that was published on longest ago first."""
        self._by_number: Final[dict[int, _Channel]] = {}
        self._files: list[tuple[int, int] | None] = []
        """How the system identifies the database and its log."""
        self._tag: Final = token_urlsafe(6)
        try:
            self._lock()
            self._writer: Final = self._connect()
            self._prepare()
            self._reader: Final = self._connect()
            self._reader.execute("PRAGMA query_only = 1")
            self._load(seen, now)
            self._files = [_identity(path), _identity(f"{path}-wal")]
        except sqlite3.Error as exc:
            self.close()
            raise in_words(exc, path) from exc
        except BaseException:
            self.close()
            raise

    # --- opening -----------------------------------------------------------------------------

    def _lock(self) -> None:
        """Keep other processes, and other brokers, away: a lock that ends with this process."""
        connection = self._connect(f"{self._path}-lock")
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            if error_name(exc).startswith("SQLITE_BUSY"):
                raise UsageError(
                    f"{self._path} is open already, in another process or through another broker; "
                    "share one MemoryBroker in a process, and use Redis or NATS for several"
                ) from None
            raise

    def _connect(self, path: str | None = None) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path or self._path,
            timeout=_LOCK_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._open.append(connection)
        return connection

    def _prepare(self) -> None:
        """Check that it is a file of this version; make the tables of a new one."""
        writer = self._writer
        [application] = row_of(writer, "PRAGMA application_id")
        [version] = row_of(writer, "PRAGMA user_version")
        [tables] = row_of(writer, "SELECT count(*) FROM sqlite_master")
        if tables and application != _APPLICATION:
            raise UsageError(f"{self._path} is a database of something else: name another file")
        if tables and version != _SCHEMA:
            raise UsageError(
                f"{self._path} has the format {version}, and this version of wsbus reads "
                f"{_SCHEMA}: move the file away, or use the version that wrote it"
            )
        [mode] = row_of(writer, "PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise UsageError(f"{self._path} is where SQLite has no write-ahead log")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA wal_autocheckpoint = 4000")
        writer.execute("PRAGMA journal_size_limit = 67108864")
        writer.execute("PRAGMA cache_size = -32768")
        if not tables:
            writer.executescript(_TABLES)

    def _load(self, seen: Position | None, now: float) -> None:
        """Begin a run."""
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        if row_of(writer, "SELECT count(*) FROM state") == (0,):
            writer.execute("INSERT INTO state VALUES (?, 0, 0)", [token_urlsafe(12)])
        self._epoch, self._head, self._floor = row_of(
            writer, "SELECT epoch, head, floor FROM state"
        )
        if seen is not None and not knows(writer, seen, Position(self._epoch, self._head)):
            # It was replaced: members with greater marks would drop what comes.
            self._epoch = token_urlsafe(12)
            writer.execute("UPDATE state SET epoch = ?", [self._epoch])
        writer.execute("REPLACE INTO runs VALUES (?, ?)", [self._head + 1, self._tag])
        writer.execute(
            "DELETE FROM runs WHERE first NOT IN "
            "(SELECT first FROM runs ORDER BY first DESC LIMIT ?)",
            [_MAX_RUNS],
        )
        # Whatever a clock that was wrong has written ends some day.
        writer.execute("UPDATE entries SET ends = ? WHERE ends > ?", [now + _MAX_TTL] * 2)
        writer.execute("UPDATE channels SET ends = ? WHERE ends > ?", [now + _MAX_TTL] * 2)
        columns = "id, name, last, gone, count, ends"
        for row in writer.execute(f"SELECT {columns} FROM channels ORDER BY last"):  # noqa: S608
            self._channels[row[1]] = self._by_number[row[0]] = _Channel(_Row(*row))
        self._next_number = max(self._by_number, default=0) + 1
        writer.execute("COMMIT")
        self.sweep(now)

    def close(self) -> None:
        """Close it, whatever has failed."""
        with self._reading:
            self._leave_log()
            while self._open:  # The lock at last.
                with suppress(sqlite3.Error):
                    self._open.pop().close()

    @property
    def _is_replaced(self) -> bool:
        return bool(self._files) and _identity(self._path) != self._files[0]

    def _leave_log(self) -> None:
        """Take the log away if the database was replaced: SQLite would apply it to the new one."""
        log = Path(f"{self._path}-wal")
        if self._is_replaced and _identity(str(log)) == self._files[1]:
            with suppress(OSError):
                log.unlink()

    # --- writing -----------------------------------------------------------------------------

    def write(self, turns: Sequence[Turn], now: float) -> list[Written]:
        """Number and keep the drafts of turns, in one transaction."""
        writer = self._writer
        rows: list[tuple[int, int, float, bytes]] = []
        touched: dict[_Channel, None] = {}
        fresh: list[_Channel] = []
        writer.execute("BEGIN IMMEDIATE")
        written: list[Written] = []
        for turn in turns:
            stored: list[Stored] = []
            items: list[tuple[Feed, bytes]] = []
            for draft in turn.drafts:
                key = draft.idempotency_key
                if key is not None:
                    position = self._repeated(key, now)
                    if position is not None:
                        stored.append(Stored(position, is_repeated=True))
                        continue
                channel = self._channels.pop(draft.publication.channel, None)
                if channel is None:
                    channel = self._new_channel(draft)
                    fresh.append(channel)
                self._channels[draft.publication.channel] = channel
                touched[channel] = None
                self._head += 1
                position = Position(self._epoch, self._head, self._tag)
                item = kept_item(draft.item, turn.node, position, channel.last)
                channel.last = self._head
                channel.ends = max(channel.ends, now + draft.history.ttl)
                channel.count += 1
                channel.size = draft.history.size
                rows.append((self._head, channel.number, channel.ends, item))
                stored.append(Stored(position))
                items.append((draft.feed, item))
                if key is not None:
                    self._remember(key, now)
            written.append((stored, items))
        if rows:
            writer.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
            writer.executemany(
                "INSERT INTO channels VALUES (?, ?, 0, 0, 0, 0)",
                [(channel.number, channel.name) for channel in fresh],
            )
            for channel in touched:
                if channel.count > channel.size:
                    self._trim(channel)
            self._note(touched)
            self._make_room()
        writer.execute("COMMIT")
        return written

    def sweep(self, now: float) -> float | None:
        """Drop what is too old, a bounded number; return when the next is; None: never."""
        writer = self._writer
        find = "SELECT offset, channel FROM entries WHERE ends <= ? ORDER BY ends, offset LIMIT ?"
        old = writer.execute(find, [now, _MAX_SWEEP]).fetchall()
        [stale] = row_of(writer, "SELECT count(*) FROM keys WHERE ends <= ?", [now])
        if old or stale:
            writer.execute("BEGIN IMMEDIATE")
            self._drop(old)
            writer.execute("DELETE FROM keys WHERE ends <= ?", [now])
            writer.execute("COMMIT")
        ends = [*writer.execute("SELECT min(ends) FROM entries UNION SELECT min(ends) FROM keys")]
        return min((each for (each,) in ends if each is not None), default=None)

    def _new_channel(self, draft: Draft) -> _Channel:
        channel = _Channel(_Row(self._next_number, draft.publication.channel, gone=self._floor))
        self._by_number[channel.number] = channel
        self._next_number += 1
        return channel

    def _repeated(self, key: str, now: float) -> Position | None:
        find = "SELECT offset FROM keys WHERE key = ? AND ends > ?"
        row = self._writer.execute(find, [_key(key), now]).fetchone()
        if row is None:
            return None
        return Position(self._epoch, row[0], tag_of(self._writer, row[0]))

    def _remember(self, key: str, now: float) -> None:
        values = [_key(key), self._head, now + IDEMPOTENCY_SECONDS]
        self._writer.execute("REPLACE INTO keys VALUES (?, ?, ?)", values)

    def _trim(self, channel: _Channel) -> None:
        """Drop what a channel has too much of."""
        excess = channel.count - channel.size
        find = "SELECT offset FROM entries WHERE channel = ? ORDER BY offset LIMIT 1 OFFSET ?"
        [channel.gone] = row_of(self._writer, find, [channel.number, excess - 1])
        channel.count = channel.size
        self._writer.execute(
            "DELETE FROM entries WHERE channel = ? AND offset <= ?", [channel.number, channel.gone]
        )

    def _make_room(self) -> None:
        """Forget channels, and drop publications, that are the oldest, until the bounds hold."""
        while len(self._channels) > MAX_CHANNELS:
            channel = self._channels.pop(next(iter(self._channels)))
            del self._by_number[channel.number]
            self._floor = max(self._floor, channel.last)
            self._writer.execute("DELETE FROM entries WHERE channel = ?", [channel.number])
            self._writer.execute("DELETE FROM channels WHERE id = ?", [channel.number])
        self._writer.execute("UPDATE state SET head = ?, floor = ?", [self._head, self._floor])
        [page_bytes] = row_of(self._writer, "PRAGMA page_size")
        while self._used() * page_bytes > self._max_bytes:
            find = "SELECT offset, channel FROM entries ORDER BY offset LIMIT 1000"
            oldest = self._writer.execute(find).fetchall()
            if not oldest:
                break
            self._drop(oldest)

    def _used(self) -> int:
        """Return the pages of the file that hold something."""
        [pages] = row_of(self._writer, "PRAGMA page_count")
        [free] = row_of(self._writer, "PRAGMA freelist_count")
        return int(pages - free)

    def _drop(self, oldest: Sequence[tuple[int, int]]) -> None:
        """Drop publications, given by offset and channel; of each channel the first ones."""
        touched: dict[_Channel, None] = {}
        for offset, number in oldest:
            channel = self._by_number[number]
            channel.gone = max(channel.gone, offset)
            channel.count -= 1
            touched[channel] = None
        drop = "DELETE FROM entries WHERE offset = ?"
        self._writer.executemany(drop, [(offset,) for offset, _ in oldest])
        self._note(touched)

    def _note(self, channels: dict[_Channel, None]) -> None:
        self._writer.executemany(
            "UPDATE channels SET last = ?, gone = ?, count = ?, ends = ? WHERE id = ?",
            [(each.last, each.gone, each.count, each.ends, each.number) for each in channels],
        )

    # --- reading -----------------------------------------------------------------------------

    def read(self, reads: Sequence[HistoryRead]) -> list[HistoryPage]:
        """Answer questions, all of one moment."""
        with self._reading:
            self._reader.execute("BEGIN")
            try:
                return [answer(self._reader, read) for read in reads]
            finally:
                self._reader.execute("ROLLBACK")

    def head(self) -> Position:
        """Return the position of the store.

        Raises:
            BrokerUnavailable: The file was replaced or removed.
        """
        if self._is_replaced:
            raise BrokerUnavailable(f"{self._path} was replaced or removed while it was in use")
        with self._reading:
            return state_of(self._reader)[0]


def _key(key: str) -> bytes:
    return key.encode(errors="surrogatepass")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
