"""A long poll: what came for it, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ..core.errors import CloseCode
from ..core.frame import Frame
from ..protocols.event_stream import (
    NO_POSITION,
    EventFrame,
    StartFrame,
    Unreadable,
    token_of,
)
from ..web.pages import AssetResponse
from ._http import Reading, error_answer, status_of_close, status_of_code

__all__ = ["Poll"]


class Poll:
    """Collects what one poll answers.

    Args:
        reading: What it asks for.
    """

    __slots__ = ("_frames", "_has_begun", "_position", "_reading", "_refusal", "is_due")

    def __init__(self, reading: Reading) -> None:
        self._reading: Final = reading
        self._position = NO_POSITION if reading.since is None else token_of(reading.since)
        self._frames: list[EventFrame] = []
        self._refusal: Unreadable | None = None
        self._has_begun = False
        self.is_due = False
        """Whether there is something to answer."""

    def take(self, frames: Sequence[Frame]) -> bool:
        """Take what came; tell whether there is something to answer."""
        for frame in frames:
            if isinstance(frame, StartFrame):
                self._begin(frame)
            elif isinstance(frame, EventFrame) and not frame.is_greeting:
                self._frames.append(frame)
                self.is_due = self.is_due or self._has_begun
        return self.is_due

    def _begin(self, start: StartFrame) -> None:
        self._has_begun = True
        self._refusal = start.refusal
        self._position = start.token or self._position
        if start.gap is not None:
            self._frames.append(start.gap)
        if self._reading.is_first:
            self._frames.insert(0, start)
        self.is_due = self._reading.is_first or bool(self._frames or start.refusal)

    def answer(self) -> AssetResponse:
        """Return the answer: all that came, up to the limit."""
        headers = self._reading.headers
        if self._refusal is not None:
            code, message = self._refusal
            return error_answer(status_of_code(code), code, message, headers)
        messages: list[msgspec.Raw] = []
        for frame in self._frames:
            # What has no position is lost if it is not answered now.
            if frame.token is not None and len(messages) >= self._reading.limit:
                break
            messages.append(msgspec.Raw(frame.message))
            self._position = frame.token or self._position
        body = msgspec.json.encode({"position": self._position, "messages": messages})
        own = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return AssetResponse(200, {**own, "X-Content-Type-Options": "nosniff", **headers}, body)

    def closed(self, code: int, reason: str) -> AssetResponse:
        """Return the answer of a connection that the server ends: what came, or why."""
        if self.is_due and code not in {CloseCode.TOKEN_EXPIRED, CloseCode.TOKEN_REFUSED}:
            return self.answer()
        why = reason or "closed"
        return error_answer(status_of_close(code), "CLOSED", why, self._reading.headers)
