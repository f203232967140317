"""Watches of a client: the connections on channels, across reconnects."""

from __future__ import annotations

from copy import copy
from types import TracebackType
from typing import Final, Protocol, Self

import anyio
from anyio import fail_after

from ..core.client.attendees import Attendees
from ..core.client.requests import OpenRequest
from ..core.errors import CommandError, ErrorCode, UsageError, WsbusError
from ..core.messages import GetPresence, PresenceChanged, PresenceResult
from ..core.presence import Roster, RosterChange
from .changes import Closed, Connected, Reconnecting
from .replies import ReplyOutcome, ReplyTaker

__all__ = ["PresenceWatch", "WatchOwner", "Watches"]


class WatchOwner(Protocol):
    """The part of a client that watches need."""

    @property
    def state(self) -> Connected | Reconnecting | Closed | None:
        """The state of the connection; None: there was none yet."""
        ...

    def check_caller(self) -> None:
        """Refuse a caller that is not on the client's own event loop.

        Raises:
            UsageError: It is another one.
        """
        ...

    def ask(self, reply: ReplyTaker, request: OpenRequest, *, is_idempotent: bool) -> None:
        """Send a request; ``reply`` gets the outcome."""
        ...


class PresenceWatch:
    """The connections on a channel, from now on; made by :meth:`.Client.watch_presence`.

    ``async with`` it, then iterate: the first step gives all that are there, and each other one
    what has changed since the step before, whenever something has. A connection that has come and
    gone in between is not mentioned, so that a slow reader costs no memory.

    While there is no connection to the server, it keeps what it knew; once there is one again, the
    difference is one step. The iteration ends when the client is closed, and raises when either was
    ended by the server.

    Cancellation: a cancelled ``async for`` step loses nothing.
    """

    def __init__(self, watches: Watches, channel: str, timeout: float) -> None:
        self.channel: Final = channel
        self._watches: Final = watches
        self._timeout: Final = timeout
        self._attendees: Attendees | None = None
        self._seen: Roster | None = None
        self._wake: anyio.Event | None = None
        self._known: Final = anyio.Event()
        self._is_entered = False
        self._is_closed = False
        self._error: WsbusError | None = None

    @property
    def roster(self) -> Roster:
        """The connections that are there, as far as the client knows by now.

        ``members`` are as many as the server names; ``count`` is right with more, too.

        Raises:
            UsageError: Not entered.
        """
        if self._attendees is None:
            raise UsageError("use it as `async with client.watch_presence(…) as watch:`")
        return Roster(tuple(self._attendees.members.values()), self._attendees.count)

    def __repr__(self) -> str:
        return f"<PresenceWatch {self.channel!r}>"

    async def __aenter__(self) -> Self:
        """Ask which connections are there, and to be kept informed.

        Raises:
            CommandError: The server refuses it (``FORBIDDEN``; ``NO_PRESENCE``: the channel does
                not show them), or says nothing (``TIMEOUT``).
            RemoteError: The client has ended; why.
            UsageError: The client is closed, or the watch was entered before.
        """
        if self._is_entered:
            raise UsageError("a watch is entered once")
        self._is_entered = True
        try:
            self._watches.join(self)
            with fail_after(self._timeout):
                await self._known.wait()
        except TimeoutError:
            self.close()
            why = f"presence of {self.channel}: no answer came within {self._timeout:g} s"
            raise CommandError(ErrorCode.TIMEOUT, why) from None
        except BaseException:
            self.close()
            raise
        if self._is_closed:
            raise copy(self._error) if self._error else UsageError("the client is closed")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it up; does not wait for the server."""
        self.close()

    def close(self) -> None:
        """Give it up: the iterator ends. Idempotent."""
        self._is_closed = True
        self._watches.leave(self)
        self._rouse()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> RosterChange:
        """Wait until something is new.

        Raises:
            RemoteError: The server ended the watch, or the client; why.
            UsageError: Not entered; or another task waits already, or this is another event loop.
        """
        if not self._is_entered:
            raise UsageError("use it as `async with client.watch_presence(…) as watch:`")
        while not self._is_closed:
            change = self._attendees.since(self._seen) if self._attendees is not None else None
            if change is not None:
                self._seen = change
                return change
            await self._wait()
        if self._error is not None:
            raise copy(self._error)
        raise StopAsyncIteration

    async def _wait(self) -> None:
        self._watches.check_caller()
        if self._wake is not None:
            raise UsageError(f"presence of {self.channel}: another task waits for it already")
        wake = self._wake = anyio.Event()
        try:
            await wake.wait()
        finally:
            if self._wake is wake:
                self._wake = None

    # --- for the client --------------------------------------------------------------------------

    def told(self, attendees: Attendees) -> None:
        """Something may be new."""
        self._attendees = attendees
        self._known.set()
        self._rouse()

    def end(self, error: WsbusError | None) -> None:
        """It is over, by no doing of the application."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
        self._known.set()
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None


class _Watched:
    """A channel that a client watches, however many hold it."""

    def __init__(self) -> None:
        self.attendees: Final = Attendees()
        self.holders: Final[dict[PresenceWatch, None]] = {}
        self.is_known = False
        """Whether the server has answered at all."""
        self.is_asked = False
        """Whether the answer to a question is still to come."""


class _Question:
    """A request to begin or to end a watch."""

    def __init__(self, watches: Watches, channel: str, watched: _Watched | None) -> None:
        self._watches: Final = watches
        self._channel: Final = channel
        self._watched: Final = watched

    def settle(self, outcome: ReplyOutcome) -> None:
        """Take the outcome."""
        self._watches.answered(self._channel, self._watched, outcome)


class Watches:
    """The watches of a client. The server is asked once for a channel, and again when it must be.

    Args:
        owner: The client.
    """

    def __init__(self, owner: WatchOwner) -> None:
        self._owner: Final = owner
        self.check_caller: Final = owner.check_caller
        self._watched: Final[dict[str, _Watched]] = {}

    def join(self, watch: PresenceWatch) -> None:
        """Begin a watch."""
        self.check_caller()
        state = self._owner.state
        if isinstance(state, Closed):
            watch.end(state.error)
            return
        watched = self._watched.get(watch.channel)
        if watched is None:
            watched = self._watched[watch.channel] = _Watched()
        watched.holders[watch] = None
        if watched.is_known:
            watch.told(watched.attendees)
        else:
            self._ask(watch.channel, watched)

    def leave(self, watch: PresenceWatch) -> None:
        """End a watch. Idempotent."""
        channel = watch.channel
        watched = self._watched.get(channel)
        if watched is None or watch not in watched.holders:
            return
        del watched.holders[watch]
        if watched.holders:
            return
        del self._watched[channel]
        if not watched.is_asked:  # If it is, the answer is waited for.
            self._say_goodbye(channel)

    def connected(self) -> None:
        """Ask anew for everything: the server does not know this connection."""
        for channel, watched in list(self._watched.items()):
            self._ask(channel, watched)

    def changed(self, change: PresenceChanged) -> None:
        """Take what the server tells of a channel."""
        channel = change.channel
        watched = self._watched.get(channel)
        if watched is None:
            return
        if not change.is_watched:
            why = f"presence of {channel}: the server does not tell it any more"
            self._end(channel, CommandError(ErrorCode.FORBIDDEN, why))
        elif watched.is_known:
            if watched.attendees.changed(change):
                self._ask(channel, watched)
            else:
                self._tell(watched)

    def end(self, error: WsbusError | None) -> None:
        """End all; the client has ended."""
        for channel in list(self._watched):
            self._end(channel, error)

    def answered(self, channel: str, asked: _Watched | None, outcome: ReplyOutcome) -> None:
        """Take the answer to a question."""
        watched = self._watched.get(channel)
        if asked is not None:
            asked.is_asked = False
        is_watched = isinstance(outcome, PresenceResult) and outcome.is_watched
        if watched is None:
            if is_watched:
                self._say_goodbye(channel)
        elif asked is not watched:
            # Requests can be sent in another order: an end that came late has ended this watch.
            if isinstance(outcome, PresenceResult) and not is_watched:
                self._ask(channel, watched)
        elif isinstance(outcome, PresenceResult):
            watched.attendees.answered(outcome)
            watched.is_known = True
            self._tell(watched)
        elif isinstance(outcome, WsbusError):
            self._end(channel, None if isinstance(outcome, UsageError) else outcome)

    def _ask(self, channel: str, watched: _Watched) -> None:
        if not watched.is_asked:
            watched.is_asked = True
            question = _Question(self, channel, watched)
            self._owner.ask(question, GetPresence(channel, watch=True), is_idempotent=True)

    def _say_goodbye(self, channel: str) -> None:
        if isinstance(self._owner.state, Connected):  # If not, the server knows of no watch.
            question = _Question(self, channel, None)
            self._owner.ask(question, GetPresence(channel, watch=False), is_idempotent=False)

    def _tell(self, watched: _Watched) -> None:
        for watch in list(watched.holders):
            watch.told(watched.attendees)

    def _end(self, channel: str, error: WsbusError | None) -> None:
        for watch in self._watched.pop(channel).holders:
            watch.end(copy(error))
