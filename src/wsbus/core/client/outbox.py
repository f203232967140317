"""The requests that a client has yet to send, within the rates of its server; pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from ..errors import ErrorCode, WsbusError
from ..messages import Greeting
from .actions import ClientAction, Say
from .pace import Pace
from .requests import Requests
from .subscriptions import ClientHoldings

__all__ = ["Outbox"]

_MAX_ASK_BYTES: Final = 16 * 1024
_MIN_ASK_BYTES: Final = 64


class Outbox:
    """Subscriptions first, then requests, each as its rate allows.

    Args:
        holdings: Names to subscribe to, and to unsubscribe from.
        requests: Requests that wait.
        pace: The limits of the present connection.
    """

    def __init__(self, holdings: ClientHoldings[Any], requests: Requests, pace: Pace) -> None:
        self._holdings: Final = holdings
        self._requests: Final = requests
        self._pace: Final = pace
        self._max_ask_bytes = _MAX_ASK_BYTES

    def learn(self, terms: Greeting, at: float) -> list[ClientAction]:
        """The server has told its limits: what is too large for it fails."""
        self._pace.learn(terms, at)
        return self._requests.judge(self._pace)

    def cut(self, new_error: Callable[[], WsbusError], *, is_too_big: bool) -> list[ClientAction]:
        """The connection ended: what was sent fails, or waits to be sent again.

        If a message was too large for the server, fewer names are asked for at once.
        """
        if is_too_big:
            self._max_ask_bytes = max(_MIN_ASK_BYTES, self._max_ask_bytes // 2)
        return self._requests.cut(new_error, is_too_big=is_too_big)

    def asks_again(self, ref: str, code: str, at: float) -> bool:
        """Handle the refusal of a request for names; tell whether it is made again.

        A server that announces no limits refuses a request with too many names as invalid; the
        next one has half as many.
        """
        count = self._holdings.count(ref)
        if code == ErrorCode.RATE_LIMITED and count:
            self._pace.refused(at, is_call=False)
        elif code == ErrorCode.INVALID_MESSAGE and count > 1:
            self._pace.max_names = min(self._pace.max_names, count // 2)
        else:
            return False
        self._holdings.postpone(ref)
        return True

    def flush(self, new_ref: Callable[[], str], at: float) -> list[ClientAction]:
        """Return the requests that can be sent now."""
        todo: list[ClientAction] = []
        pace = self._pace
        size = self._max_ask_bytes
        if pace.max_bytes is not None:
            size = min(size, pace.max_bytes // 2)
        while self._holdings.has_requests and pace.ready_at(at, is_call=False) <= at:
            said = self._holdings.next_request(new_ref, pace.names(), size)
            assert said is not None
            pace.take(at, names=len(said.names))
            todo.append(Say(said))
        held = len(self._holdings.names)
        return todo + self._requests.send(new_ref, pace, at, held=held)

    def ready_at(self, now: float) -> float:
        """Return when the next request can be sent; infinity: none waits."""
        at = math.inf
        next_is_call = self._requests.next_is_call
        if next_is_call is not None:
            at = self._pace.ready_at(now, is_call=next_is_call)
        if self._holdings.has_requests:
            at = min(at, self._pace.ready_at(now, is_call=False))
        return at
