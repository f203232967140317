"""A server of WebSockets and of HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from aiohttp import web

from tests.client.servers import HOST, Server
from wsbus.adapters import aiohttp

__all__ = ["HttpServer"]


class HttpServer(Server):
    """A bus behind aiohttp, which serves WebSockets and HTTP at one address."""

    holds_streams: bool = False
    """Whether event streams wait without end, as behind a proxy that holds them back."""
    has_websockets: bool = True

    async def _main(self, ready: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.gate = asyncio.Event()
        held = asyncio.Event()

        @web.middleware
        async def proxy(request: web.Request, handler: Any) -> Any:
            if self.holds_streams and request.path.endswith("/events"):
                await held.wait()
                return web.Response(status=503)
            if not self.has_websockets and "upgrade" in request.headers:
                return web.Response(status=502)
            return await handler(request)

        app = web.Application(middlewares=[proxy])
        aiohttp.setup(app, "/ws", self._endpoint)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self.port).start()
            ready.set_result(runner.addresses[0][1])
            await self._stop.wait()
        finally:
            held.set()
            await runner.cleanup()
