"""Requests of one conversation that are not settled, and which of them must wait for which.

A request is *pending* from the moment it asks for something that takes time (a token's verdict, a
permission, interest) until the answer is acted on. It stops no other request but those that must
keep their order with it:

- a ``subscribe`` or ``unsubscribe`` that names what an earlier one names,
- a ``subscribe`` for which there may be no place while earlier ones are not settled,
- a ``publish`` on the same channel, a command of the same name,
- an ``auth``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from .actions import Action
from .channels import Channel
from .errors import InvalidChannel
from .instant import Instant
from .limits import Limits
from .messages import Auth, Command, Publish, Request, Subscribe, Unsubscribe
from .session_subscriptions import JudgedRequest

__all__ = ["Answered", "PendingRequests", "Slot"]

Answered: TypeAlias = Callable[[Any, Instant], list[Action]]
"""Returns the actions that follow from the answer to a pending request."""

_PLACES: Final = ("places",)
"""Stands for the places that are left for subscriptions."""


class Slot(msgspec.Struct, frozen=True):
    """A request whose answer is awaited."""

    request: Request
    answered: Answered
    judged: JudgedRequest | None = None
    """The names judged so far; None: it is no ``subscribe``."""


class PendingRequests:
    """Requests that are not settled: those whose answer is awaited, and those that wait.

    Args:
        limits: How many there may be, and how many names a request may have. One with more names
            is refused whole, so that it waits for no other.
        channel: Returns the channel that a client means by a name.
        free_places: Returns how many subscriptions the client may still hold.
    """

    __slots__ = (
        "_answers",
        "_channel",
        "_free_places",
        "_limits",
        "_number",
        "_slots",
        "_waiting",
        "freed",
        "is_full",
        "is_idle",
    )

    def __init__(
        self, limits: Limits, channel: Callable[[str], Channel], free_places: Callable[[], int]
    ) -> None:
        self.is_full: bool = False
        """As many are not settled as may be: read nothing until one of them is."""
        self.is_idle: bool = True
        """There are none."""
        self.freed: Callable[[], None] | None = None
        """Called when it is not full any more."""
        self._limits: Final = limits
        self._channel: Final = channel
        self._free_places: Final = free_places
        self._number = 0
        # None: there are none, as in every idle conversation.
        self._slots: dict[int, Slot] | None = None
        self._waiting: list[Request] | None = None
        self._answers: list[tuple[int, Any]] | None = None

    def begin(
        self, request: Request, answered: Answered, judged: JudgedRequest | None = None
    ) -> int:
        """Note that an answer is awaited; return the number that comes with it."""
        self._number += 1
        if self._slots is None:
            self._slots = {}
        self._slots[self._number] = Slot(request, answered, judged)
        self._count()
        return self._number

    def awaits(self, number: int) -> bool:
        """Tell whether an answer is not late."""
        return self._slots is not None and number in self._slots

    def settle(self, number: int) -> Slot:
        """Return what awaited this answer; it does no more."""
        assert self._slots is not None  # The caller has asked; see `awaits`.
        slot = self._slots.pop(number)
        if not self._slots:
            self._slots = None
        self._count()
        return slot

    def keep(self, number: int, answer: Any) -> None:
        """Keep an answer until :meth:`take_answer` returns it; its request is not settled yet."""
        if self._answers is None:
            self._answers = []
        self._answers.append((number, answer))

    def take_answer(self) -> tuple[int, Any] | None:
        """Return the first answer that was kept, with its number; None: there is none."""
        if not self._answers:
            self._answers = None
            return None
        return self._answers.pop(0)

    def judged(self) -> Iterator[JudgedRequest]:
        """Iterate over the subscribe requests whose answers are awaited."""
        slots = self._slots or {}
        return (slot.judged for slot in slots.values() if slot.judged is not None)

    def wait(self, request: Request) -> None:
        """Keep a request until :meth:`take_request` returns it."""
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(request)
        self._count()

    def must_wait(self, request: Request) -> bool:
        """Tell whether a request that has just come must wait for an earlier one."""
        return self._is_behind(request, [*self._awaited(), *(self._waiting or ())])

    def take_request(self) -> Request | None:
        """Return the first request that waits for no earlier one any more; None: there is none."""
        if self._waiting is None:
            return None
        earlier = self._awaited()
        for i, request in enumerate(self._waiting):
            if not self._is_behind(request, earlier):
                del self._waiting[i]
                if not self._waiting:
                    self._waiting = None
                self._count()
                return request
            earlier.append(request)
        return None

    def clear(self) -> None:
        """Forget all of them: their answers are late."""
        self._slots = self._waiting = self._answers = None
        self._count()

    def _count(self) -> None:
        count = len(self._slots or ()) + len(self._waiting or ())
        self.is_idle = not count
        self.is_full = count >= self._limits.max_waiting
        if self.freed is not None and not self.is_full:
            self.freed()

    def _awaited(self) -> list[Request]:
        return [slot.request for slot in (self._slots or {}).values()]

    def _is_behind(self, request: Request, earlier: Collection[Request]) -> bool:
        wanted = self._keys(request)
        if not wanted:
            return False
        if isinstance(request, Subscribe):
            asked = sum(len(set(each.names)) for each in earlier if isinstance(each, Subscribe))
            if asked + len(wanted) > self._free_places():
                wanted.add(_PLACES)
        return any(not wanted.isdisjoint(self._kept(each)) for each in earlier)

    def _keys(self, request: Request) -> set[Hashable]:
        """Return what a request keeps its order with earlier ones about."""
        match request:
            case Subscribe(names) | Unsubscribe(names) if len(names) <= self._limits.max_names:
                return set(names)
            case Publish(name):
                return {(Publish, self._channel_of(name))}
            case Command(action):
                return {(Command, action)}
            case Auth():
                return {Auth}
            case _:
                return set()

    def _kept(self, request: Request) -> set[Hashable]:
        """Return what later requests may have to wait for."""
        keys = self._keys(request)
        if isinstance(request, Subscribe | Unsubscribe):
            keys.add(_PLACES)
        return keys

    def _channel_of(self, name: str) -> str:
        try:
            return self._channel(name)
        except InvalidChannel:  # It is refused, once its turn has come.
            return name
