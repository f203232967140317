"""The how-to about metrics does what it says."""

from __future__ import annotations

import socket

import pytest
from aiohttp import ClientSession
from anyio import to_thread
from websockets.asyncio.client import connect

from tests.docs.documents import HOW_TO, running, served


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn and aiohttp do."""
    return "asyncio"


async def scraped(url: str) -> list[str]:
    """Return the lines of a scrape."""
    async with ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return (await answer.text()).splitlines()


async def test_each_way_shows_the_bus() -> None:
    """FastAPI, aiohttp and a thread with a port of its own show the same connections."""
    with running(HOW_TO / "metrics.md") as guide:
        runner = guide.web.AppRunner(guide.web_app, access_log=None)
        await runner.setup()
        await guide.web.TCPSite(runner, "127.0.0.1", 0).start()
        async with served(guide.app, guide.bus) as host, connect(f"ws://{host}/ws") as peer:
            await peer.recv()
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            server, thread = await to_thread.run_sync(guide.show_metrics, port)
            for where in (host, f"127.0.0.1:{runner.addresses[0][1]}", f"127.0.0.1:{port}"):
                assert "wsbus_connections 1.0" in await scraped(f"http://{where}/metrics")
            await to_thread.run_sync(server.shutdown)
            thread.join()
            server.server_close()
        await runner.cleanup()
