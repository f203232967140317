"""ChronoRetrace's example servers, and connections to them by client id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import websockets
from websockets.typing import Origin

from tests.examples.peer import Peer, Server, launched

__all__ = ["chronoretrace", "connected", "host_of", "url_of"]


@contextmanager
def chronoretrace(log: Path, *options: str) -> Iterator[Server]:
    """Run the example; its local time is Shanghai's."""
    options = ("--seed", "1", *options)
    with launched("chronoretrace.py", log, *options, zone="Asia/Shanghai") as server:
        yield server


def host_of(server: Server) -> str:
    """Return its ``host:port``."""
    return server.url.removeprefix("http://").removesuffix("/websocket-test")


def url_of(server: Server, client_id: str) -> str:
    """Return where the client of this id connects."""
    return f"ws://{host_of(server)}/api/v1/ws/{quote(client_id, safe='')}"


@asynccontextmanager
async def connected(
    server: Server, client_id: str, *, origin: str | None = None, **options: Any
) -> AsyncIterator[Peer]:
    """Connect; the first message has not been read yet."""
    async with websockets.connect(
        url_of(server, client_id),
        origin=None if origin is None else Origin(origin),
        proxy=None,
        close_timeout=1,
        **options,
    ) as socket:
        yield Peer(socket)
