"""What tests of the symbol stream need: its manager in the test, and its server's process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import websockets
from websockets.typing import Origin

from examples.symbol_stream import WebSocketManager
from tests.examples.peer import PATIENCE, Message, Peer
from wsbus.adapters.websockets import serve

MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def masked(text: str) -> str:
    """Take out of a message what time puts in."""
    return re.sub(r'"connected_at":\d+\.\d+', '"connected_at":…', MOMENT.sub("…", text))


async def spoken(peer: Peer) -> str:
    """Return the next frame that is neither a quote nor the server's ping, masked."""
    while True:
        text = await peer.text()
        if peer.heard[-1].get("type") not in {"quote", "ping"}:
            return masked(text)


async def settled(peer: Peer) -> None:
    """Wait until the server has acted on all that was said."""
    await peer.ask('{"type":"ping"}', "pong")


async def until(happened: Any, *arguments: Any) -> None:
    """Poll until a function says so: for state of another process, which sets no event here."""
    async with asyncio.timeout(PATIENCE):
        while not happened(*arguments):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.02)


async def status(peer: Peer) -> Message:
    """Return the status of the connection."""
    return await peer.ask({"type": "get_status"}, "status")


@dataclass
class Stream:
    """The manager, served inside the test; there is no feed."""

    manager: WebSocketManager
    url: str

    @asynccontextmanager
    async def connect(self, *symbols: str, **options: Any) -> AsyncIterator[Peer]:
        """Connect a client that does nothing by itself, with these subscriptions."""
        if "origin" in options:
            options["origin"] = Origin(options["origin"])
        options = {"close_timeout": 1, "ping_interval": None} | options
        async with websockets.connect(self.url, proxy=None, **options) as socket:
            peer = Peer(socket)
            if symbols:
                await peer.say({"type": "subscribe", "symbols": list(symbols)})
                await settled(peer)
            yield peer


@asynccontextmanager
async def stream() -> AsyncIterator[Stream]:
    """Serve a manager of its own."""
    manager = WebSocketManager()
    async with (
        manager.bus,
        serve(manager.endpoint, "127.0.0.1", 0, backlog=1024) as server,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        yield Stream(manager, f"ws://127.0.0.1:{port}/any/path")
