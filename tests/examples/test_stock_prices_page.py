"""Every sentence of the stock price service's page, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.examples.peer import Message
from tests.examples.prices import (
    STOCK,
    TIMESTAMP,
    VOLUME_WAVE,
    Service,
    codes,
    nothing_waits,
    running_service,
    subscribe,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("prices") / "log") as running:
        yield running


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that nobody else talks to."""
    with running_service(tmp_path_factory.mktemp("fresh") / "log") as running:
        yield running


def masked(text: str) -> str:
    """Take the time out."""
    return TIMESTAMP.sub("…", text)


# --- on the wire --------------------------------------------------------------------------------


async def test_the_conversation_of_the_page(service: Service) -> None:
    """``connected`` comes first, unasked; each message is answered byte for byte."""
    async with service.server.connect(origin="http://elsewhere:3000") as peer:
        hello = await peer.text()
        client_id = peer.heard[0]["client_id"]
        assert masked(hello) == (
            f'{{"type":"connected","client_id":"{client_id}",'
            '"message":"WebSocket连接成功","timestamp":"…"}'
        )
        assert client_id.startswith("client_")
        assert len(client_id) > len("client_")
        await peer.say(subscribe("strategy:volume_wave"))
        assert masked(await peer.text()) == (
            '{"type":"subscribed","subscription_type":"strategy","target":"volume_wave",'
            '"message":"订阅成功","timestamp":"…"}'
        )
        await peer.say('{"type":"ping"}')
        assert masked(await peer.text()) == '{"type":"pong","timestamp":"…"}'
        await peer.say(subscribe("strategy:volume_wave", "unsubscribe"))
        assert masked(await peer.text()) == (
            '{"type":"unsubscribed","subscription_type":"strategy","target":"volume_wave",'
            '"message":"取消订阅成功","timestamp":"…"}'
        )
        await service.push(**VOLUME_WAVE)
        assert await nothing_waits(peer)
        assert all(TIMESTAMP.fullmatch(message["timestamp"]) for message in peer.heard)


async def test_an_update(service: Service) -> None:
    """It holds the prices, their number and the time, keys in the page's order."""
    async with service.client("strategy:volume_wave") as peer:
        await service.push(**VOLUME_WAVE)
        text = await peer.text()
    update = peer.heard[-1]
    assert list(update) == ["type", "data", "count", "timestamp"]
    assert len(codes(update)) == 50
    for price in update["data"]:
        assert ",".join(price) == "code,name,price,change,change_percent,volume,timestamp"
        assert isinstance(price["volume"], int)
        assert TIMESTAMP.fullmatch(price["timestamp"])
    assert '{"code":"600519","name":"贵州茅台","price":' in text


async def test_any_name_is_exact(service: Service) -> None:
    """Names with wildcards, dots, blanks, colons and Chinese stand for themselves."""
    names = ["*", "+", "6005*", "a.b", "打 板", "a:b", "", "%", "~" * 200, "market"]
    async with service.client() as peer:
        for name in names:
            for verb in ("subscribe", "unsubscribe"):
                for kind in ("strategy", "stock", "market"):
                    message = subscribe(f"{kind}:{name}", verb)
                    answer = await peer.ask(message, f"{verb}d")
                    assert (answer["subscription_type"], answer["target"]) == (kind, name)
        for name in names:
            await peer.ask(subscribe(f"stock:{name}"), "subscribed")
            await peer.ask(subscribe(f"strategy:{name}"), "subscribed")
        await service.push()
        assert await nothing_waits(peer)


async def test_a_thousand_subscriptions(service: Service) -> None:
    """One connection holds at least 1,000, with no limit on its rate."""
    async with service.client() as peer:
        for number in range(1000):
            await peer.say(subscribe(f"stock:{number:06}"))
        answers = [await peer.next() for _ in range(1000)]
        assert {answer["type"] for answer in answers} == {"subscribed"}
        await service.push(**VOLUME_WAVE)
        assert codes(await peer.next()) == ["000001", "000858"]


BAD = {
    "not JSON": "hello",
    "empty": "",
    "cut off": '{"type":"ping"',
    "an array": "[]",
    "no type": '{"target":"volume_wave"}',
    "unknown type": '{"type":"order"}',
    "type in capitals": '{"type":"PING"}',
    "no target": '{"type":"subscribe","subscription_type":"strategy"}',
    "target is null": '{"type":"subscribe","subscription_type":"stock","target":null}',
    "target is a number": '{"type":"subscribe","subscription_type":"stock","target":600519}',
    "no subscription_type": '{"type":"subscribe","target":"volume_wave"}',
    "unknown subscription_type": '{"type":"subscribe","subscription_type":"bond","target":"a"}',
    "plural": '{"type":"unsubscribe","subscription_type":"stocks","target":"600519"}',
    "unsubscribe without target": '{"type":"unsubscribe","subscription_type":"market"}',
    "half a character": '{"type":"subscribe","subscription_type":"stock","target":"\\ud800"}',
    "too long": json.dumps(subscribe(f"stock:{'x' * 300}")),
    "deep": '{"type":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}",
}


async def test_bad_input_is_an_error(service: Service) -> None:
    """Each is answered in the page's shape; the connection lives on, nobody else is affected."""
    async with service.client("stock:600519") as witness, service.client() as peer:
        for name, text in BAD.items():
            await peer.say(text)
            answer = await peer.next()
            assert list(answer) == ["type", "error", "details", "timestamp"], name
            assert answer["type"] == "error"
            assert answer["error"]
            assert answer["details"]
            assert TIMESTAMP.fullmatch(answer["timestamp"])
            assert "bond" not in answer["details"]
        assert await nothing_waits(peer)
        assert await nothing_waits(witness)
        await peer.ask(subscribe("stock:600519"), "subscribed")
        await service.push(**VOLUME_WAVE)
        assert codes(await peer.next()) == codes(await witness.next()) == [STOCK]


async def test_other_ways_to_misbehave(fresh: Service) -> None:
    """Binary, too large and not UTF-8 close as RFC 6455 has it; operators hear nothing of it."""
    service = fresh
    async with service.client("stock:600519") as witness:
        for frame, is_text, code in (
            (b'{"type":"ping"}', False, 1003),
            (b"x" * 70_000, True, 1009),
            (b"\xff", True, 1007),
        ):
            async with service.client() as peer:
                await peer.socket.send(frame, text=is_text)
                assert await peer.close_code() == code
        assert await nothing_waits(witness)
    assert service.log == []


# --- who gets what ------------------------------------------------------------------------------

COVERED = {
    "strategy:volume_wave": 50,
    "strategy:volume_wave stock:600519": 50,
    "stock:600519 strategy:volume_wave": 50,
    "market:": 50,
    "market:a": 50,
    "market:a market:b": 50,
    "market:a strategy:volume_wave stock:600519": 50,
    "stock:600519": 1,
    "stock:600519 stock:000001 stock:999999": 2,
    "stock:600519 strategy:ma_cross": 1,
    "stock:999999": 0,
    "strategy:600519": 0,
    "strategy:ma_cross": 0,
    "strategy:Volume_wave": 0,
    "": 0,
}


async def test_who_gets_what(service: Service) -> None:
    """The widest list, once; nothing without a subscription; the answer counts the same."""
    async with AsyncExitStack() as stack:
        peers = {
            names: await stack.enter_async_context(service.client(*names.split()))
            for names in COVERED
        }
        pushed = await service.push(**VOLUME_WAVE)
        for names, peer in peers.items():
            if COVERED[names]:
                assert len(codes(await peer.next())) == COVERED[names], names
            assert await nothing_waits(peer), names
        assert codes(peers["stock:600519"].heard[-2]) == [STOCK]
        both = codes(peers["stock:600519 stock:000001 stock:999999"].heard[-2])
        assert sorted(both) == ["000001", STOCK]
    covered = sum(map(bool, COVERED.values()))
    counts = {"stocks": 50, "sent": covered, "subscribers": covered}
    assert pushed == {"strategy": "volume_wave"} | counts


async def test_an_update_comes_at_once(service: Service) -> None:
    """From the request to the update it takes milliseconds: no acknowledgement is waited for."""
    seconds = []
    async with (
        service.client("strategy:volume_wave") as peer,
        aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session,
    ):
        for _ in range(21):
            began = time.perf_counter()
            async with session.post("/api/websocket/push/prices", params=VOLUME_WAVE) as response:
                await response.read()
            await peer.next()
            seconds.append(time.perf_counter() - began)
    # With Nagle's algorithm on nearly all take 0.04 and more; on a busy machine, some.
    assert sorted(seconds)[len(seconds) // 4] < 0.03


async def test_every_strategy_at_once(service: Service) -> None:
    """A push of every strategy reaches each client once, with all that it is covered by."""
    async with (
        service.client("strategy:volume_wave") as wave,
        service.client("strategy:volume_wave", "strategy:ma_cross") as two,
        service.client("market:all") as market,
        service.client("stock:600519") as stock,
    ):
        pushed = await service.push()
        assert pushed == {"strategy": None, "stocks": 60, "sent": 4, "subscribers": 4}
        for peer, number in ((wave, 50), (two, 60), (market, 60), (stock, 1)):
            got = codes(await peer.next())
            assert len(got) == len(set(got)) == number
            assert await nothing_waits(peer)


async def test_duplicates_count_once(service: Service) -> None:
    """A second subscribe is acknowledged and counts once; so is an unknown unsubscribe."""
    async with service.client("stock:600519", "stock:600519") as peer:
        listed = await service.data("/api/websocket/clients")
        held = next(
            client["subscriptions"]
            for client in listed["clients"]
            if client["client_id"] == peer.heard[0]["client_id"]
        )
        assert held == [{"subscription_type": "stock", "target": STOCK}]
        await peer.ask(subscribe("stock:nobody", "unsubscribe"), "unsubscribed")
        await peer.ask(subscribe("market:nobody", "unsubscribe"), "unsubscribed")
        await service.push(**VOLUME_WAVE)
        assert codes(await peer.next()) == [STOCK]
        await peer.ask(subscribe("stock:600519", "unsubscribe"), "unsubscribed")
        await service.push(**VOLUME_WAVE)
        assert await nothing_waits(peer)


async def test_one_market_of_two_may_be_left(service: Service) -> None:
    """Who unsubscribes from one target of the market still gets it for the other."""
    async with service.client("market:a", "market:b") as peer:
        await peer.ask(subscribe("market:a", "unsubscribe"), "unsubscribed")
        await service.push(**VOLUME_WAVE)
        assert len(codes(await peer.next())) == 50


# --- over HTTP ----------------------------------------------------------------------------------


async def test_health_and_signals(service: Service) -> None:
    """Health is two words; signals come in the envelope, without prices; faults are told."""
    assert await service.http("GET", "/api/health") == (200, {"status": "ok"})
    data = await service.data("/api/signals/buy?strategy=volume_wave")
    assert (data["strategy"], data["count"], len(data["signals"])) == ("volume_wave", 50, 50)
    assert data["signals"][0] == {"code": STOCK, "name": "贵州茅台"}
    for method, path in (("GET", "/api/signals/buy"), ("POST", "/api/websocket/push/prices")):
        status, body = await service.http(method, path, strategy="nope\n推送策略")
        assert (status, body) == (404, {"code": 404, "message": "策略不存在", "data": None})
    assert (await service.http("GET", "/api/websocket/push/prices"))[0] == 405


async def test_statistics_after_one_client(fresh: Service) -> None:
    """After one client has connected and subscribed, they are those of the page."""
    async with fresh.client("strategy:volume_wave") as peer:
        stats = await fresh.http("GET", "/api/websocket/stats")
        expected = {
            "connections": {
                "total_connections": 1,
                "active_connections": 1,
                "total_subscriptions": 0,
                "messages_sent": 2,
                "messages_received": 1,
            },
            "subscriptions": {
                "total_subscriptions": 1,
                "total_clients": 1,
                "total_targets": 1,
                "strategy_targets": 1,
                "stock_targets": 0,
                "market_targets": 0,
            },
        }
        body: Message = {"code": 200, "message": "获取统计信息成功", "data": expected}
        assert stats == (200, body)
        assert json.dumps(stats[1]) == json.dumps(body)  # the order of the keys, too

        listed = await fresh.http("GET", "/api/websocket/clients")
        client = {
            "client_id": peer.heard[0]["client_id"],
            "connected_at": listed[1]["data"]["clients"][0]["connected_at"],
            "subscriptions": [{"subscription_type": "strategy", "target": "volume_wave"}],
        }
        data = {"total": 1, "clients": [client]}
        assert listed == (200, {"code": 200, "message": "获取客户端列表成功", "data": data})
        assert TIMESTAMP.fullmatch(client["connected_at"])


async def test_statistics_and_the_log(fresh: Service) -> None:
    """Scene 2: one push reaches all three; what is counted, and the lines that operators grep."""
    async with (
        fresh.client("strategy:volume_wave", "strategy:volume_wave", "market:a") as first,
        fresh.client("strategy:volume_wave", "stock:600519") as second,
        fresh.client("strategy:volume_wave", "strategy:ma_cross") as third,
        fresh.client(),
    ):
        pushed = await fresh.push(**VOLUME_WAVE)
        assert pushed == {"strategy": "volume_wave", "stocks": 50, "sent": 3, "subscribers": 3}
        for peer in (first, second, third):
            assert len(codes(await peer.next())) == 50
        await third.say("nonsense")
        await third.hear("error")
        await first.ask(subscribe("strategy:nobody", "unsubscribe"), "unsubscribed")
        data = await fresh.data("/api/websocket/stats")
        assert data["connections"] == {
            "total_connections": 4,
            "active_connections": 4,
            "total_subscriptions": 0,
            "messages_sent": 4 + 7 + 3 + 2,  # connected, subscribed, price_update, the answers
            "messages_received": 7 + 2,
        }
        assert data["subscriptions"] == {
            "total_subscriptions": 6,
            "total_clients": 3,
            "total_targets": 4,
            "strategy_targets": 2,
            "stock_targets": 1,
            "market_targets": 1,
        }
    async with asyncio.timeout(10):
        while (await fresh.data("/api/websocket/clients"))["total"]:
            pass
    await fresh.push()
    data = await fresh.data("/api/websocket/stats")
    connections = (data["connections"][f"{which}_connections"] for which in ("total", "active"))
    assert tuple(connections) == (4, 0)
    assert set(data["subscriptions"].values()) == {0}
    assert fresh.log == [
        "推送策略 volume_wave 价格更新: 50个股票, 3/3个客户端",
        "价格更新已推送到 3 个WebSocket客户端",
        "推送策略 volume_wave 价格更新: 50个股票, 0/0个客户端",
        "推送策略 ma_cross 价格更新: 20个股票, 0/0个客户端",
        "价格更新已推送到 0 个WebSocket客户端",
    ]
