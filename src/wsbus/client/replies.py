"""The replies that requests of a client wait for."""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

import anyio

from ..core.client.actions import RequestAnswer
from ..core.errors import WsbusError

__all__ = ["PendingReply", "ReplyOutcome", "ReplyTaker"]

ReplyOutcome: TypeAlias = RequestAnswer | WsbusError
"""The answer to a request, or why there is none."""


class ReplyTaker(Protocol):
    """Takes the outcome of a request."""

    def __hash__(self) -> int:
        """It is found by itself."""
        ...

    def settle(self, outcome: ReplyOutcome) -> None:
        """Take the outcome; called once."""
        ...


class PendingReply:
    """The reply that a request waits for."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.done: Final = anyio.Event()
        self.outcome: ReplyOutcome | None = None

    def settle(self, outcome: ReplyOutcome) -> None:
        """Take the outcome; called once."""
        self.outcome = outcome
        self.done.set()
