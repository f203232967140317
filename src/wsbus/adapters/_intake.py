"""Bounds on the data read from a peer; for protocol classes that hold the socket."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final

from ._sockets import reset, unsent

__all__ = ["FLOOD_SECONDS", "SMALL_FRAGMENT", "TOO_MANY", "Intake", "SmallFrames"]

TOO_MANY: Final = "too many control frames"
"""The reason of the close, with 4429, that ends a flood."""

SMALL_FRAGMENT: Final = 128
"""Size in bytes below which a fragment counts as small."""

_SLICE_BYTES: Final = 16 * 1024
"""Parsed in one turn of the loop: 2,700 of the smallest frames, about 20 ms."""
_MAX_UNREAD_PONGS: Final = 256 * 1024
"""Unsent bytes, pongs included, after which the server reads no more from the peer."""
_MAX_AFTER_CLOSE: Final = 256 * 1024
"""Bytes read from a peer after our close frame: messages that were on their way."""
FLOOD_SECONDS: Final = 1.0
"""Time for the close frame to reach a flooding peer; much may wait before it."""
_RATE: Final = 100.0
_BURST: Final = 1000.0


class SmallFrames:
    """A leaky bucket: so many control frames and small fragments may come."""

    __slots__ = ("_at", "_level")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def add(self, count: int, now: float) -> bool:
        """Count frames at a moment in seconds; tell whether they are too many."""
        left = self._level - (now - self._at) * _RATE
        self._level, self._at = max(left, 0.0) + count, now
        return self._level > _BURST


class Intake(asyncio.Protocol, ABC):
    """Bounds the work that a peer can cause; a mixin before the library's protocol class.

    Laws: Nothing is read while messages wait for the application, or many pongs for the peer. One
    turn of the loop parses at most 16 KiB, so that a run of small frames does not delay others for
    long. Control frames and small fragments may come at 100 a second, with a burst of 1000; beyond
    that, :meth:`end_flood` is called, once. After :meth:`end_within` the peer has so many seconds,
    and little more is read from it.

    It costs an idle connection nothing: its attributes are made when they are needed.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    _backlog: bytes = b""  # Received, and not parsed yet.
    _is_slice_due: bool = False
    _small_frames: SmallFrames | None = None
    _deadline: asyncio.TimerHandle | None = None
    _heard_after_close: int = 0
    _has_heard_enough: bool = False

    # --- defined by subclasses -------------------------------------------------------------------

    @property
    @abstractmethod
    def is_held(self) -> bool:
        """Whether messages wait for the application, so that no more should be read."""

    @abstractmethod
    def end_flood(self) -> None:
        """Close with 4429 through the library, and parse no more."""

    # --- reading -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse one slice a turn."""
        if self._deadline is not None:
            self._heard_after_close += len(data)
            self._has_heard_enough |= self._heard_after_close > _MAX_AFTER_CLOSE
        if self._backlog:  # TLS and uvloop deliver data that they had before reading was paused.
            self._backlog += data
        elif len(data) > _SLICE_BYTES:
            self._backlog = data
            self._parse_slice()
        else:
            super().data_received(data)
        if self._backlog or self._has_heard_enough or unsent(self.transport) > _MAX_UNREAD_PONGS:
            self._pause()

    def eof_received(self) -> bool | None:
        """Parse the rest: the peer sends no more, and may have sent a close frame."""
        if self._backlog:
            data, self._backlog = self._backlog, b""
            super().data_received(data)
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop all references."""
        self._backlog = b""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def read_on(self) -> None:
        """Resume reading if nothing forbids it; called when a reason against it has gone."""
        if not self._may_parse:
            return
        if not self._backlog:
            if not self.transport.is_closing():
                self.transport.resume_reading()
        elif not self._is_slice_due:
            self._is_slice_due = True
            self.loop.call_soon(self._parse_next)

    @property
    def _may_parse(self) -> bool:
        is_full = unsent(self.transport) > _MAX_UNREAD_PONGS
        return not (is_full or self._has_heard_enough or self.is_held)

    def _pause(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _parse_next(self) -> None:
        self._is_slice_due = False
        if self._backlog and self._may_parse:
            self._parse_slice()

    def _parse_slice(self) -> None:
        data, self._backlog = self._backlog[:_SLICE_BYTES], self._backlog[_SLICE_BYTES:]
        super().data_received(data)
        if self._backlog:
            self._pause()  # The library may have resumed reading.
        self.read_on()

    # --- the end -------------------------------------------------------------------------------

    def note_small_frames(self, count: int = 1) -> None:
        """Count control frames and small fragments."""
        if self._small_frames is None:
            self._small_frames = SmallFrames()
        is_flood = self._small_frames.add(count, self.loop.time())
        if is_flood and not self._has_heard_enough:
            self._has_heard_enough = True
            self._backlog = b""
            self.end_within(FLOOD_SECONDS)
            self.end_flood()
            self._pause()

    def end_within(self, seconds: float) -> None:
        """Free the socket after so many seconds, if it is still there.

        The earliest deadline of several calls counts.
        """
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, reset, self.transport)
            self.read_on()
        elif self.loop.time() + seconds < self._deadline.when():
            self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, reset, self.transport)
