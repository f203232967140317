"""How the servers of the peers are run: on a free port, told on the first line of output.

All of them use asyncio's own loop, and none compresses or sends pings of its own accord: the load
answers none, and the peers are the cheaper for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

HOST: Final = "127.0.0.1"
SUBSCRIBE: Final = "subscribe"
"""What makes a client of a server in this directory a subscriber; all else is a publication."""
SUBSCRIBED: Final = "subscribed"


def ready(port: int) -> None:
    """Tell the load where to connect."""
    print(port, flush=True)


async def serve_uvicorn(app: Any) -> None:
    """Serve an ASGI application under plain uvicorn, in its default WebSocket implementation."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready(self.servers[0].sockets[0].getsockname()[1])

    config = uvicorn.Config(
        app,
        host=HOST,
        port=0,
        loop="asyncio",
        http="h11",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    await Server(config).serve()


async def serve_aiohttp(answer: Callable[[Any], Awaitable[Any]]) -> None:
    """Serve one function at ``/ws`` under aiohttp."""
    from aiohttp import web

    app = web.Application()
    app.router.add_get("/ws", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    ready(runner.addresses[0][1])
    await asyncio.Event().wait()
