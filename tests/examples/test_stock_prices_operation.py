"""What time and slowness do to the stock price service: nothing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import aiohttp
import pytest
from websockets.asyncio.client import connect

from examples.stock_prices import PATH, Market, every_minute, make_app
from tests.adapters.serving import serving
from tests.examples.peer import PATIENCE, Peer
from tests.examples.prices import (
    VOLUME_WAVE,
    codes,
    nothing_waits,
    running_service,
    stubborn_socket,
    subscribe,
)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self, at: str) -> None:
        self.at = datetime.fromisoformat(f"2025-11-24T{at}")
        self._asleep = asyncio.Event()
        self._wake: asyncio.Queue[float] = asyncio.Queue()

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self._asleep.set()
        early = await self._wake.get()
        self.at += timedelta(seconds=seconds - early)

    async def go_on(self, early: float = 0.0) -> None:
        """Let the sleeper wake, and do what it has to do."""
        await self._asleep.wait()
        self._asleep.clear()
        self._wake.put_nowait(early)
        async with asyncio.timeout(PATIENCE):
            await self._asleep.wait()


class Exchange(Market):
    """Prices that may not come."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches = 0
        self.is_broken = False
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def fetch(self) -> None:
        self.fetches += 1
        self.asked.set()
        await self.answers.wait()
        if self.is_broken:
            raise ConnectionError
        await super().fetch()


@asynccontextmanager
async def client(port: int, name: str) -> AsyncIterator[Peer]:
    """Connect and subscribe to a service in this process."""
    async with connect(f"ws://127.0.0.1:{port}{PATH}", proxy=None) as socket:
        peer = Peer(socket)
        await peer.ask(subscribe(name), "subscribed")
        yield peer


# --- the timer ------------------------------------------------------------------------------------


async def test_the_timer(caplog: pytest.LogCaptureFixture) -> None:
    """It fetches and pushes at each full minute from 09:30 to 15:00, both included; and says so."""
    caplog.set_level(logging.INFO, "stock_prices")
    clock, market = Clock("09:28:20"), Exchange()
    app, _ = make_app(market, now=clock.now, sleep=clock.sleep)
    async with (
        serving(app, lifespan="on") as (port, _),
        client(port, "strategy:volume_wave") as peer,
        client(port, "stock:601057") as other,
    ):
        for at, is_trading in (
            ("09:29:00", False),
            ("09:30:00", True),
            ("09:31:00", True),
            ("14:59:00", True),
            ("15:00:00", True),
            ("15:01:00", False),
        ):
            before = market.fetches
            clock.at += datetime.fromisoformat(f"2025-11-24T{at}") - clock.at - timedelta(minutes=1)
            if at == "09:29:00":
                clock.at += timedelta(seconds=20)
            await clock.go_on()
            assert f"{clock.at:%H:%M:%S}" == at
            assert market.fetches == before + is_trading
            if is_trading:
                assert len(codes(await peer.next())) == 50
                assert codes(await other.next()) == ["601057"]
            assert await nothing_waits(peer)
            assert await nothing_waits(other)
    assert caplog.messages[:3] == [
        "推送策略 volume_wave 价格更新: 50个股票, 1/1个客户端",
        "推送策略 ma_cross 价格更新: 20个股票, 1/1个客户端",
        "价格更新已推送到 2 个WebSocket客户端",
    ]
    assert re.fullmatch(r"实时数据更新完成，耗时 \d+\.\d\d秒", caplog.messages[3])
    assert len(caplog.messages) == 4 * 4


async def test_each_minute_is_one() -> None:
    """A sleep that ends early, a clock that is set back, and a failure cost and add no minute."""
    clock, updates = Clock("10:00:30"), list[str]()

    async def update() -> None:
        updates.append(f"{clock.at:%H:%M:%S}")
        if len(updates) == 2:
            raise ConnectionError

    timer = asyncio.create_task(every_minute(update, clock.now, clock.sleep))
    await clock.go_on(early=0.25)
    assert updates == []
    for _ in range(3):
        await clock.go_on()
    assert updates == ["10:01:00", "10:02:00", "10:03:00"]
    clock.at -= timedelta(hours=1)
    await clock.go_on()
    assert updates[3:] == []  # half past nine is yet to come
    timer.cancel()
    await asyncio.wait([timer])


async def test_nobody_waits_for_prices(caplog: pytest.LogCaptureFixture) -> None:
    """While prices do not come, and none ever would, signals are read and pushes arrive.

    A fetch that fails is logged, and the next minute is another one.
    """
    clock, market = Clock("10:00:30"), Exchange()
    app, _ = make_app(market, now=clock.now, sleep=clock.sleep)
    async with (
        serving(app, lifespan="on") as (port, _),
        client(port, "strategy:volume_wave") as peer,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        market.answers.clear()
        minute = asyncio.create_task(clock.go_on())
        await asyncio.wait_for(market.asked.wait(), PATIENCE)
        for _ in range(20):
            async with session.get("/api/signals/buy", params=VOLUME_WAVE) as response:
                assert len((await response.json())["data"]["signals"]) == 50
            async with session.post("/api/websocket/push/prices", params=VOLUME_WAVE) as response:
                assert (await response.json())["data"]["sent"] == 1
            assert len(codes(await peer.next())) == 50
        assert market.fetches == 1

        market.is_broken = True
        market.answers.set()
        await minute
        assert await nothing_waits(peer)
        assert "实时数据更新失败" in caplog.messages
        market.is_broken = False
        await clock.go_on()
        assert len(codes(await peer.next())) == 50


# --- slow clients ---------------------------------------------------------------------------------


async def test_a_push_waits_for_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One subscriber never reads: pushes are answered and arrive as before; it is let go."""
    with running_service(tmp_path_factory.mktemp("slow") / "log") as service:
        sock = stubborn_socket(service.port)
        async with (
            service.client("strategy:volume_wave") as witness,
            service.server.connect(sock=sock, max_queue=1) as hog,
            aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session,
        ):
            for name in ("market:all", "strategy:volume_wave"):
                await hog.say(subscribe(name))
            slowest, pushes, reached = 0.0, 0, 2
            async with asyncio.timeout(40):
                while reached == 2:  # until it is given up: 5 s after it took something last
                    began = time.perf_counter()
                    async with session.post(
                        "/api/websocket/push/prices", params=VOLUME_WAVE
                    ) as response:
                        reached = (await response.json())["data"]["sent"]
                    assert len(codes(await witness.next())) == 50
                    slowest = max(slowest, time.perf_counter() - began)
                    pushes += 1
            assert slowest < 3  # Whoever waited for it would have waited for 5 s.
            assert pushes > 50
            listed = await service.data("/api/websocket/clients")
            assert [client["client_id"] for client in listed["clients"]] == [
                witness.heard[0]["client_id"]
            ]
            assert await nothing_waits(witness)
            hog.socket.transport.abort()
