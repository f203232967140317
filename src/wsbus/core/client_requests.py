"""Requests of a client that wait for an answer: each gets one, and none gets two."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from .client_actions import Answer, ClientAction, Say
from .errors import WsbusError
from .messages import Call, GetStatus, Publish, Response, Status

__all__ = ["Request", "Requests"]

Request: TypeAlias = Call | Publish | GetStatus


class _Pending(NamedTuple):
    key: Any
    request: Request
    is_idempotent: bool


class Requests:
    """Those that are not sent yet, in order, and those that are, by the ``ref`` they carry."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Pending] = {}
        self._sent: Final[dict[str, _Pending]] = {}
        self._refs: Final[dict[Hashable, str]] = {}

    def __len__(self) -> int:
        """Return how many have no answer yet."""
        return len(self._waiting) + len(self._sent)

    def add(self, key: Hashable, request: Request, *, is_idempotent: bool) -> None:
        """Put a request behind those that wait to be sent."""
        self._waiting[key] = _Pending(key, request, is_idempotent)

    def send(self, new_ref: Callable[[], str]) -> list[ClientAction]:
        """Send all that wait."""
        actions: list[ClientAction] = []
        for pending in self._waiting.values():
            ref = new_ref()
            self._sent[ref] = pending
            self._refs[pending.key] = ref
            actions.append(Say(msgspec.structs.replace(pending.request, ref=ref)))
        self._waiting.clear()
        return actions

    def answer(
        self, ref: str | None, outcome: Response | Status | WsbusError
    ) -> list[ClientAction]:
        """Take an answer; what answers nothing, or not in kind, is ignored."""
        pending = self._sent.get(ref) if ref is not None else None
        if pending is None or ref is None:
            return []
        is_query = isinstance(pending.request, GetStatus)
        if isinstance(outcome, Status) is not is_query and not isinstance(outcome, WsbusError):
            return []
        del self._sent[ref], self._refs[pending.key]
        return [Answer(pending.key, outcome)]

    def forget(self, key: Hashable) -> bool:
        """Nobody waits for the answer any more; what is not sent yet, never is. Idempotent.

        Returns:
            Whether it was still to be sent.
        """
        ref = self._refs.pop(key, None)
        if ref is not None:
            del self._sent[ref]
        return self._waiting.pop(key, None) is not None

    def cut(self, new_error: Callable[[], WsbusError]) -> list[ClientAction]:
        """The connection ended: fail what was sent, but what may be sent again waits once more."""
        sent, self._waiting = (
            [*self._sent.values()],
            {
                **{p.key: p for p in self._sent.values() if p.is_idempotent},
                **self._waiting,
            },
        )
        self._sent.clear()
        self._refs.clear()
        return [Answer(p.key, new_error()) for p in sent if not p.is_idempotent]

    def fail(self, new_error: Callable[[], WsbusError]) -> list[ClientAction]:
        """There will be no answers any more."""
        keys = [p.key for p in (*self._sent.values(), *self._waiting.values())]
        self._sent.clear()
        self._refs.clear()
        self._waiting.clear()
        return [Answer(key, new_error()) for key in keys]
