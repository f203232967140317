"""The stock price service is stopped, and started again."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.examples.peer import PATIENCE, Peer
from tests.examples.prices import (
    VOLUME_WAVE,
    Service,
    codes,
    running_service,
    stubborn_socket,
    subscribe,
)


class Faithful:
    """A client that comes back, and subscribes again.

    Args:
        url: Where it connects.
        name: What it subscribes to.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self.close_codes: list[int] = []
        self.subscribed: asyncio.Queue[bool] = asyncio.Queue()
        self.updates: asyncio.Queue[list[str]] = asyncio.Queue()

    async def live(self) -> None:
        while True:
            try:
                async with connect(self._url, proxy=None) as socket:
                    peer = Peer(socket)
                    await peer.hear("connected")
                    await peer.ask(subscribe(self._name), "subscribed")
                    self.subscribed.put_nowait(True)
                    while True:
                        self.updates.put_nowait(codes(json.loads(await socket.recv())))
            except ConnectionClosed as exc:
                self.close_codes.append(exc.rcvd.code if exc.rcvd else 1006)
            except OSError:
                await asyncio.sleep(0.05)  # nobody tells when a port opens


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def stop(request: pytest.FixtureRequest) -> signal.Signals:
    """What ends the server."""
    number: signal.Signals = request.param
    return number


@pytest.fixture
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is going to be stopped."""
    with running_service(tmp_path_factory.mktemp("first") / "log") as service:
        yield service


async def test_a_restart(
    first: Service, stop: signal.Signals, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Three clients see 1001 or 1012, come back, are subscribed again; the exit code is 0."""
    names = ("strategy:volume_wave", "market:a", "stock:600519")
    clients = [Faithful(first.url, name) for name in names]
    tasks = [asyncio.create_task(each.live()) for each in clients]
    try:
        await arrived(clients, first)
        began = time.monotonic()
        first.server.process.send_signal(stop)
        assert await asyncio.to_thread(first.server.process.wait, PATIENCE) == 0
        assert time.monotonic() - began < 5
        log = tmp_path_factory.mktemp("second") / "log"
        with running_service(log, "--port", str(first.port)) as second:
            assert second.url == first.url
            await arrived(clients, second)
            listed = await second.data("/api/websocket/clients")
            assert listed["total"] == 3
        assert all(each.close_codes[0] in {1001, 1012} for each in clients)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    complaints = [line for line in first.log if "价格更新" not in line]
    assert complaints == []


async def arrived(clients: list[Faithful], service: Service) -> None:
    """Wait until all are subscribed, and see that a push reaches them."""
    async with asyncio.timeout(PATIENCE):
        for each in clients:
            await each.subscribed.get()
        assert (await service.push(**VOLUME_WAVE))["sent"] == len(clients)
        got = [len(await each.updates.get()) for each in clients]
    assert got == [50, 50, 1]


async def test_stopping_waits_for_nobody(first: Service) -> None:
    """With a client that never reads the others see their close code at once, and it ends soon."""
    sock = stubborn_socket(first.port)
    async with (
        first.client("strategy:volume_wave") as witness,
        first.server.connect(sock=sock, max_queue=1) as hog,
        aiohttp.ClientSession(f"http://127.0.0.1:{first.port}") as session,
    ):
        await hog.say(subscribe("strategy:volume_wave"))
        for _ in range(800):  # more than buffers hold
            async with session.post("/api/websocket/push/prices", params=VOLUME_WAVE):
                assert len(codes(await witness.next())) == 50
        began = time.monotonic()
        first.server.process.terminate()
        assert await witness.close_code() in {1001, 1012}
        assert time.monotonic() - began < 3
        assert await asyncio.to_thread(first.server.process.wait, PATIENCE) == 0
        assert time.monotonic() - began < 5
        hog.socket.transport.abort()
