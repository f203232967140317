"""A client's requests that wait for an answer; each gets exactly one outcome."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from ..errors import CommandError, ErrorCode, MessageTooLarge, WsbusError
from ..messages import (
    CancelStream,
    Command,
    GetPresence,
    GetStatus,
    HistoryResult,
    PresenceResult,
    Publish,
    ReadHistory,
    Response,
    Status,
)
from .actions import Answer, ClientAction, RequestAnswer, Say
from .pace import Pace

__all__ = ["Measure", "OpenRequest", "Requests"]

OpenRequest: TypeAlias = Command | Publish | GetStatus | ReadHistory | GetPresence | CancelStream
Measure: TypeAlias = Callable[[OpenRequest], int]
"""Returns the size of a request in the client's dialect, in bytes."""

_ROOM: Final = 4096
"""Bytes allowed for the parts of a message other than its data."""


class _Pending(NamedTuple):
    key: Any
    request: OpenRequest
    is_idempotent: bool
    number: int
    """In the order in which the requests were made."""
    lost: WsbusError | None = None
    """Why no answer came, if it was sent before and may have been carried out."""

    @property
    def is_call(self) -> bool:
        """Whether it counts against the rate of commands, too."""
        return isinstance(self.request, Command)

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent again: the server finds a publication by its key."""
        request = self.request
        has_key = isinstance(request, Publish) and request.idempotency_key is not None
        return self.is_idempotent or has_key

    def with_ref(self, ref: str) -> OpenRequest:
        """Return the request to send; a publication says that it is sent again."""
        if self.lost is not None and isinstance(self.request, Publish):
            return msgspec.structs.replace(self.request, ref=ref, is_retry=True)
        return msgspec.structs.replace(self.request, ref=ref)


_number_of: Final = attrgetter("number")


class Requests:
    """Those that wait to be sent, in order, and those that are sent, by the ``ref`` they carry.

    Args:
        measure: Returns the size of a request; None: nothing is measured.
    """

    def __init__(self, measure: Measure | None = None) -> None:
        self._measure: Final = measure
        self._waiting: Final[OrderedDict[Hashable, _Pending]] = OrderedDict()
        """In the order in which they were made, also those that were sent before."""
        self._made = 0
        self._sent: Final[dict[str, _Pending]] = {}
        self._refs: Final[dict[Hashable, str]] = {}
        self._answered = 0
        """The most bytes of data of a request that was ever answered."""

    def __len__(self) -> int:
        """Return the number of requests without an answer."""
        return len(self._waiting) + len(self._sent)

    def add(
        self, key: Hashable, request: OpenRequest, pace: Pace, *, is_idempotent: bool
    ) -> list[ClientAction]:
        """Put a request behind those that wait to be sent, unless it is too large."""
        self._made += 1
        pending = self._waiting[key] = _Pending(key, request, is_idempotent, self._made)
        return self._judge(pending, pace.max_bytes)

    def judge(self, pace: Pace) -> list[ClientAction]:
        """The server has told its limit: fail what is too large, whatever waits before it."""
        waiting = list(self._waiting.values())
        return [action for each in waiting for action in self._judge(each, pace.max_bytes)]

    @property
    def next_is_call(self) -> bool | None:
        """Whether the first waiting request is a command; None: none waits."""
        for pending in self._waiting.values():
            return pending.is_call
        return None

    def send(
        self, new_ref: Callable[[], str], pace: Pace, now: float, *, held: int = 0
    ) -> list[ClientAction]:
        """Send waiting requests within the server's rates; fail those that are too large for it.

        Args:
            new_ref: Returns the next ``ref``.
            pace: The limits of the connection.
            now: Monotonic seconds.
            held: Subscriptions; the answer to a request for the status names them all.
        """
        actions: list[ClientAction] = []
        while (is_call := self.next_is_call) is not None:
            if pace.ready_at(now, is_call=is_call) > now:
                break
            _, pending = self._waiting.popitem(last=False)
            ref = new_ref()
            request = pending.with_ref(ref)
            error = self._too_large(request, pace.max_bytes)
            if error is not None:
                actions.append(Answer(pending.key, error))
                continue
            names = held if isinstance(request, GetStatus) else 1
            pace.take(now, names=max(1, names), is_call=is_call)
            self._sent[ref] = pending
            self._refs[pending.key] = ref
            actions.append(Say(request))
        return actions

    def answer(
        self,
        ref: str | None,
        outcome: RequestAnswer | WsbusError,
        pace: Pace,
        now: float,
    ) -> list[ClientAction] | None:
        """Take an answer; after ``RATE_LIMITED`` the request is sent again instead.

        After ``NOT_REPEATABLE`` nobody knows whether it was carried out when it was sent first.

        Returns:
            The actions; None if it answers no request, or one of another kind, and is ignored.
        """
        pending = self._sent.get(ref) if ref is not None else None
        if pending is None or ref is None:
            return None
        if not isinstance(outcome, (_answer_to(pending.request), WsbusError)):
            return None
        del self._sent[ref], self._refs[pending.key]
        if isinstance(outcome, CommandError) and outcome.code == ErrorCode.RATE_LIMITED:
            pace.refused(now, is_call=pending.is_call)
            self._wait_again([pending])
            return []
        pace.answered(is_call=pending.is_call)
        self._answered = max(self._answered, _data_of(pending.request))
        if isinstance(outcome, CommandError) and outcome.code == ErrorCode.NOT_REPEATABLE:
            outcome = pending.lost or outcome
        return [Answer(pending.key, outcome)]

    def forget(self, key: Hashable) -> bool:
        """Forget a request whose caller has given up; if it was not sent, it never is. Idempotent.

        Returns:
            Whether it was certainly not carried out, since the server never got it.
        """
        ref = self._refs.pop(key, None)
        if ref is not None:
            del self._sent[ref]
        pending = self._waiting.pop(key, None)
        return pending is not None and pending.lost is None

    def cut(
        self, new_error: Callable[[], WsbusError], *, is_too_big: bool = False
    ) -> list[ClientAction]:
        """The connection ended: fail what was sent, but what may be sent again waits once more.

        Args:
            new_error: Makes the error for each.
            is_too_big: Whether a message was too large: then one that is larger than all that
                were ever answered is not sent again.
        """
        failed: list[ClientAction] = []
        again: list[_Pending] = []
        for pending in self._sent.values():
            is_suspect = is_too_big and _data_of(pending.request) > self._answered
            if pending.may_repeat and not is_suspect:
                again.append(pending._replace(lost=new_error()))
            else:
                failed.append(Answer(pending.key, new_error()))
        self._wait_again(again)
        self._sent.clear()
        self._refs.clear()
        return failed

    def fail(self, new_error: Callable[[], WsbusError]) -> list[ClientAction]:
        """Fail all requests: there will be no answers any more."""
        everything = [*self._sent.values(), *self._waiting.values()]
        for queue in (self._sent, self._refs, self._waiting):
            queue.clear()
        return [Answer(p.key, new_error()) for p in sorted(everything, key=_number_of)]

    def _wait_again(self, sent: list[_Pending]) -> None:
        """Put requests back where they were made."""
        waiting = sorted((*sent, *self._waiting.values()), key=_number_of)
        self._waiting.clear()
        self._waiting.update((pending.key, pending) for pending in waiting)

    def _judge(self, pending: _Pending, limit: int | None) -> list[ClientAction]:
        # No ref is shorter. What is too large only with its own fails when it is sent.
        request = msgspec.structs.replace(pending.request, ref="0")
        error = self._too_large(request, limit)
        if error is None:
            return []
        del self._waiting[pending.key]
        return [Answer(pending.key, error)]

    def _too_large(self, request: OpenRequest, limit: int | None) -> MessageTooLarge | None:
        if limit is None or self._measure is None:
            return None
        if isinstance(request, GetStatus | ReadHistory | GetPresence | CancelStream):
            return None
        if isinstance(request, Command):
            data, what = request.params, request.action
        else:
            data, what = request.data, f"publish on {request.channel}"
        if len(data) + _ROOM <= limit:  # Small enough: it need not be encoded twice.
            return None
        size = self._measure(request)
        return MessageTooLarge(what, size, limit) if size > limit else None


def _answer_to(request: OpenRequest) -> type[RequestAnswer]:
    match request:
        case GetStatus():
            return Status
        case ReadHistory():
            return HistoryResult
        case GetPresence():
            return PresenceResult
        case _:
            return Response


def _data_of(request: OpenRequest) -> int:
    """Return the bytes of data in a request."""
    match request:
        case Command(params=data) | Publish(data=data):
            return len(data)
        case _:
            return 0
