"""Keeps history in a file of SQLite, without waiting in the event loop.

A thread writes (:mod:`wsbus.brokers._sqlite_file`). What is stored while a transaction is under
way shares the next one, so that the disk sets the time of a call, but not the number of calls.
Once a transaction is on the disk, the event loop brings what it holds, in order, and its calls
return. Reads go by worker threads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import time
from typing import Any, Final, TypeVar

from anyio import CancelScope, Event, to_thread
from anyio.lowlevel import current_token

from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead, Stored
from ._sqlite_file import HistoryFile, Written
from ._sqlite_reads import in_words

__all__ = ["SqliteStore"]

T = TypeVar("T")

_MOST_DRAFTS: Final = 4096
"""Publications that share a transaction at most, unless one turn has more."""
_SWEEP_SECONDS: Final = 0.5
"""The least time between two looks for what is too old."""
_IDLE_SECONDS: Final = 60.0


class _Job:
    """A turn that waits for the disk."""

    __slots__ = ("done", "failure", "stored", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn: Final = turn
        self.done: Final = Event()
        self.stored: list[Stored] = []
        self.failure: BrokerUnavailable | None = None


class SqliteStore:
    """The history of a broker, in a file.

    Args:
        path: The file.
        max_bytes: The most bytes of it that are in use.
        bring: Called in the event loop with each turn that is stored, and its items.
        end: Called in the event loop when the file has failed.
    """

    def __init__(
        self,
        path: str,
        max_bytes: int,
        bring: Callable[[Turn, Sequence[tuple[Feed, bytes]]], None],
        end: Callable[[BrokerUnavailable], None],
    ) -> None:
        self._path: Final = path
        self._max_bytes: Final = max_bytes
        self._bring: Final = bring
        self._end: Final = end
        self._file: HistoryFile | None = None
        self._failure: BrokerUnavailable | None = None
        self._seen: Position | None = None
        """The last position that anybody has heard of."""
        self._was_open = False
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: Final[dict[_Job, None]] = {}
        self._token: Any = None
        self._thread: Thread | None = None

    async def open(self) -> None:
        """Open the file, and start the thread that writes.

        Raises:
            UsageError: The file cannot be used; only before it was open for the first time.
            BrokerUnavailable: It cannot be used now.
        """
        make = partial(HistoryFile, self._path, self._max_bytes, self._seen, time())
        try:
            with CancelScope(shield=True):  # What is open must be known.
                self._file = await to_thread.run_sync(make)
        except UsageError as exc:
            if not self._was_open:
                raise
            raise BrokerUnavailable(str(exc)) from None
        self._was_open, self._failure = True, None
        self._queue, self._token = SimpleQueue(), current_token().native_token
        self._thread = Thread(target=self._write, args=(self._file,), daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, and close the file."""
        thread, file = self._thread, self._file
        if thread is None or file is None:
            return
        self._queue.put(None)
        with CancelScope(shield=True):
            await to_thread.run_sync(thread.join)
            await to_thread.run_sync(file.close)
        self._file = self._thread = None

    async def store(self, turn: Turn) -> list[Stored]:
        """See :meth:`wsbus.broker.HistoryLink.store`."""
        self._check()
        job = _Job(turn)
        self._waiting[job] = None
        self._queue.put(job)
        await job.done.wait()
        if job.failure is not None:
            raise job.failure
        return job.stored

    async def read(self, reads: Sequence[HistoryRead]) -> list[HistoryPage]:
        """See :meth:`wsbus.broker.HistoryLink.read`."""
        return await self._ask(lambda file: file.read(reads))

    async def head(self) -> Position:
        """See :meth:`wsbus.broker.HistoryLink.head`."""
        head = await self._ask(HistoryFile.head)
        if self._seen is None or head.offset > self._seen.offset:
            self._seen = head
        return head

    async def _ask(self, question: Callable[[HistoryFile], T]) -> T:
        file = self._check()
        try:
            return await to_thread.run_sync(question, file)
        except sqlite3.Error as exc:
            failure = BrokerUnavailable(str(in_words(exc, self._path)))
        except BrokerUnavailable as exc:
            failure = exc
        if file is self._file:
            self._give_up(failure)
        raise failure

    def _check(self) -> HistoryFile:
        if self._failure is not None:
            raise self._failure
        if self._file is None:
            raise BrokerUnavailable("the link has ended")
        return self._file

    # --- in the thread -----------------------------------------------------------------------

    def _write(self, file: HistoryFile) -> None:
        jobs: list[_Job] = []
        try:
            swept_at, ends = time(), file.sweep(time())
            while True:
                taken = self._take(_pause(swept_at, ends))
                if taken is None:
                    return
                if taken:
                    jobs = taken
                    written = file.write([job.turn for job in jobs], time())
                    self._call(self._finish, jobs, written)
                    jobs, ends = [], 0.0  # Look soon when the first of them ends.
                now = time()
                if not 0 <= now - swept_at < _SWEEP_SECONDS:
                    swept_at, ends = now, file.sweep(now)
        except Exception as exc:  # noqa: BLE001  # whatever it is, nothing is written any more
            error = in_words(exc, self._path) if isinstance(exc, sqlite3.Error) else exc
            failure = BrokerUnavailable(str(error) or type(error).__name__)
            self._call(self._fail, jobs, failure)

    def _take(self, pause: float) -> list[_Job] | None:
        """Return what waits; nothing after a pause; None: no more comes."""
        jobs: list[_Job] = []
        drafts = 0
        try:
            job = self._queue.get(timeout=pause)
            while job is not None:
                jobs.append(job)
                drafts += len(job.turn.drafts)
                if drafts >= _MOST_DRAFTS:
                    return jobs
                job = self._queue.get_nowait()
        except Empty:
            return jobs
        if jobs:
            self._queue.put(None)  # Once more, after these.
            return jobs
        return None

    def _call(self, call: Callable[..., None], *args: object) -> None:
        token = self._token
        run_soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        try:
            run_soon(call, *args)
        except RuntimeError:
            return  # The event loop has ended, and all who waited with it.

    # --- in the event loop -------------------------------------------------------------------

    def _finish(self, jobs: Sequence[_Job], written: Sequence[Written]) -> None:
        for job, (stored, items) in zip(jobs, written, strict=True):
            self._seen = next(
                (each.position for each in reversed(stored) if not each.is_repeated), self._seen
            )
            self._bring(job.turn, items)
            job.stored = stored
            self._settle(job)

    def _fail(self, jobs: Sequence[_Job], failure: BrokerUnavailable) -> None:
        """The thread has ended. Some turns may be on the disk, and what waits behind is not."""
        self._give_up(failure)
        for job in jobs:
            job.failure = BrokerUnavailable(str(failure), may_have_arrived=True)
            self._settle(job)
        for job in [*self._waiting]:
            job.failure = failure
            self._settle(job)

    def _give_up(self, failure: BrokerUnavailable) -> None:
        """End all links: the file is opened anew with the next one."""
        if self._failure is None:
            self._failure = failure
            self._end(failure)

    def _settle(self, job: _Job) -> None:
        self._waiting.pop(job, None)
        job.done.set()


def _pause(swept_at: float, ends: float | None) -> float:
    """Return the seconds until there may be something too old."""
    if ends is None:
        return _IDLE_SECONDS
    return min(max(max(swept_at + _SWEEP_SECONDS, ends) - time(), 0.0), _IDLE_SECONDS)
