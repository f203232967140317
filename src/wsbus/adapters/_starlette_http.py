"""HTTP in Starlette's routes; for :mod:`.starlette`, which has checked that Starlette is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from ..endpoint import Endpoint
from ._placed import MISPLACED, Placed
from .asgi import serve

__all__ = ["HttpSide", "on_http"]


class HttpSide(Placed):
    """A route's HTTP side, as an ASGI application."""

    __slots__ = ("respond",)

    def __init__(self, respond: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__()
        self.respond: Final = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_refused(scope):
            response: Response = PlainTextResponse(MISPLACED, 500)
        else:
            response = await self.respond(Request(scope, receive, send))
        await response(scope, receive, send)


class _AsResponse(Response):
    """A response that an endpoint writes itself."""

    def __init__(self, endpoint: Endpoint, what: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._what = what

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._endpoint, self._what, scope, receive, send)


def on_http(endpoint: Endpoint, what: str) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a route of an endpoint."""

    async def respond(_request: Request) -> Response:
        return _AsResponse(endpoint, what)

    return respond
