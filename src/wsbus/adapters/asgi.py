"""Adapter for every ASGI framework and server: one application object.

As the whole application, it starts and stops the bus, too::

    uvicorn.run(app(bus), **uvicorn_options(bus))

In a framework, mount it where a WebSocket route or another ASGI application goes, and run the bus
with the framework's own lifespan; :mod:`.starlette` does both in a line each for Starlette and
FastAPI.

Plain ASGI differs from the other adapters in one thing: the socket is out of reach. A peer that
never reads costs the bus nothing after the write deadline, but its socket lives until the server
lets it go; uvicorn waits for the peer to leave. Where that matters, set ``TCP_USER_TIMEOUT`` on the
listening socket. Nor can anybody bound the pongs that uvicorn writes for a peer which floods it
with pings and reads none.

uvicorn must be 0.52.1 or newer: older ones, and daphne, take all that is sent into memory, so
that no bound and no overflow policy can hold. uvicorn closes what is not UTF-8 with 1007, and logs
an error with a traceback, see :class:`.RedactQuery`; it reports a reset connection as 1005, and
hypercorn every close by the client as 1006.

Under uvicorn with :func:`.uvicorn_options` all of this is mended, and fan-out is twice as fast: the
socket comes within reach, through ``scope["extensions"]["wsbus"]``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Final

from anyio.lowlevel import checkpoint

from ..bus import Bus
from ..core.errors import UsageError
from ..endpoint import Endpoint, Refusal
from ..transport import Handshake, HeaderView
from ._asgi import Message, Receive, Send, transport
from ._intake import abridged

__all__ = ["Application", "app"]

logger: Final = logging.getLogger("wsbus.asgi")


class Application:
    """An ASGI application; made by :func:`app`."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint: Final = endpoint

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, or the server's lifespan."""
        match scope["type"]:
            case "websocket":
                _warn_of_old_uvicorn()
                await self._converse(scope, receive, send)
            case "http":
                await _decline(scope, send)
            case "lifespan":
                await self._live(receive, send)
            case other:
                raise UsageError(f"no such ASGI scope is known here: {other!r}")

    async def _converse(self, scope: Message, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        verdict = await self._endpoint.admit(_handshake(scope))
        try:
            if isinstance(verdict, Refusal):
                await _refuse(verdict, scope, send)
                return
            accept: Message = {"type": "websocket.accept"}
            if verdict.subprotocol is not None:
                accept["subprotocol"] = verdict.subprotocol
            await send(accept)
        except OSError:  # It left while it was judged.
            return
        if (kept := abridged(scope["headers"])) is not None and isinstance(scope["headers"], list):
            scope["headers"][:] = kept  # In place: the handshake is a view of them.
        link = transport(self._endpoint, scope, receive, send)
        try:
            await self._endpoint.run(link, verdict)
        finally:
            link.abort()  # No send outlives the application, as ASGI wants it.

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start the bus, unless the application has done so, and stop it at the end."""
        await receive()
        bus = self._endpoint.gate
        is_ours = isinstance(bus, Bus) and not bus.is_running
        try:
            if isinstance(bus, Bus) and is_ours:
                await bus.__aenter__()
        except Exception as exc:  # noqa: BLE001  # told; raised, uvicorn would go on without a bus
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            if isinstance(bus, Bus) and is_ours:
                await bus.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def app(door: Bus | Endpoint) -> Application:
    """Return an ASGI application whose WebSockets, on any path, come in by this door.

    Refused handshakes are answered with their HTTP status where the server can (uvicorn,
    hypercorn), with 403 otherwise. HTTP requests are answered 426.

    Args:
        door: Where clients come in; a bus means its default endpoint.
    """
    return Application(door.default_endpoint if isinstance(door, Bus) else door)


async def _refuse(refusal: Refusal, scope: Message, send: Send) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        # Before the handshake is complete that means 403.
        await send({"type": "websocket.close", "code": refusal.close_code})
        return
    await _respond("websocket.http.response", refusal.status, refusal.reason, send)
    # uvicorn logs an error if the application returns before it has let the connection go.
    await checkpoint()


async def _decline(scope: Message, send: Send) -> None:
    if str(scope.get("http_version", "")).startswith("1"):
        headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        await _respond("http.response", 426, "this is a WebSocket", send, headers)
    else:
        await _respond("http.response", 404, "this is a WebSocket", send)


async def _respond(
    kind: str,
    status: int,
    text: str,
    send: Send,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    body = f"{text}\n".encode()
    own = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": [*own, *headers]})
    await send({"type": f"{kind}.body", "body": body})


def _handshake(scope: Message) -> Handshake:
    client = scope.get("client")
    return Handshake(
        path=scope["path"],
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers=HeaderView(partial(_decoded, scope["headers"])),
        client=None if client is None else (client[0], client[1]),
        subprotocols=tuple(name for name in scope.get("subprotocols", ()) if name),
        path_params={name: str(value) for name, value in scope.get("path_params", {}).items()},
    )


def _decoded(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)


@cache
def _warn_of_old_uvicorn() -> None:
    version = getattr(sys.modules.get("uvicorn"), "__version__", "")
    if _is_too_old(version):
        logger.warning(
            "uvicorn %s keeps all that a slow client does not read in memory; take 0.52.1 or newer",
            version,
        )


def _is_too_old(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return found is not None and tuple(int(part or 0) for part in found.groups()) < (0, 52, 1)
