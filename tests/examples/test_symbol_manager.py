"""``websocket_manager`` of the symbol stream: what the rest of a backend relies on."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from examples.symbol_stream import Sent, WebSocketManager, websocket_manager
from tests.examples.peer import PATIENCE, Message, Peer
from tests.examples.symbols import Stream, masked, settled, spoken, status, stream, until
from tests.protocols.golden import text_of, vectors_by_scene
from wsbus import UsageError

NAMES: Final = [
    "BTC/USDT",
    "BRK.B",
    "^GSPC",
    "A B",
    "*",
    "+",
    "BRK.*",
    "%2A",
    "贵州茅台",
    "BRK",
    "",
]


async def test_a_broadcast_reaches_the_subscribers_of_its_symbol_verbatim() -> None:
    """Each name is exact: a message for one reaches those who said that one, as it stands."""
    async with stream() as served, AsyncExitStack() as stack:
        connections = [served.connect(name) for name in NAMES]
        peers = [await stack.enter_async_context(connection) for connection in connections]
        both = await stack.enter_async_context(served.connect("*", "BRK.B"))
        for name in NAMES:
            sent = await served.manager.broadcast_to_subscribers(name, {"of": name, "中": [None]})
            assert sent == Sent(2 if name in {"*", "BRK.B"} else 1, 0)
        for name, peer in zip(NAMES, peers, strict=True):
            assert (
                await peer.text() == f'{{"of":{json.dumps(name, ensure_ascii=False)},"中":[null]}}'
            )
        assert [(await both.next())["of"] for _ in range(2)] == ["BRK.B", "*"]
        await served.manager.broadcast_to_all({"last": 1})
        for peer in [*peers, both]:  # and nothing came in between
            assert await peer.text() == '{"last":1}'


async def test_a_broadcast_to_all_reaches_all() -> None:
    """Who subscribes to nothing gets it, too; nobody gets it twice, and it is no subscription."""
    async with stream() as served, served.connect() as one, served.connect("*", "A") as other:
        assert await served.manager.broadcast_to_all({"n": 1}) == Sent(2, 0)
        assert await served.manager.broadcast_to_all({"n": 2}) == Sent(2, 0)
        for peer, symbols in ((one, []), (other, ["*", "A"])):
            assert [await peer.text() for _ in range(2)] == ['{"n":1}', '{"n":2}']
            assert (await status(peer))["subscriptions"] == symbols


async def test_each_broadcast_leaves_one_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """One line tells whom it was for, and how many were reached; a name cannot forge another."""
    caplog.set_level(logging.DEBUG, "symbol_stream")
    async with stream() as served, served.connect("A\nB"):
        await served.manager.broadcast_to_subscribers("A\nB", {})
        await served.manager.broadcast_to_all({})
        await served.manager.broadcast_to_subscribers("nobody's", {})

    lines = [r.getMessage() for r in caplog.records if r.name == "symbol_stream"]
    assert lines == [
        r"broadcast to the subscribers of 'A\nB': 1 sent, 0 failed",
        "broadcast to everybody: 1 sent, 0 failed",
        'broadcast to the subscribers of "nobody\'s": 0 sent, 0 failed',
    ]


async def test_what_cannot_be_sent_harms_nobody() -> None:
    """A message that JSON has no form for is its sender's mistake; nobody hears of it."""
    async with stream() as served, served.connect("A") as peer:
        for bad in ({"x": float("nan")}, {"x": object()}, {"x": "\ud800"}):
            with pytest.raises(UsageError):
                await served.manager.broadcast_to_subscribers("A", bad)
        await served.manager.broadcast_to_subscribers("A", {"good": 1})
        assert await peer.text() == '{"good":1}'


async def test_what_is_known_of_a_connection() -> None:
    """Connection info: times in seconds since the epoch, its symbols, its messages, its life."""
    began = time.time()
    async with stream() as served:
        async with served.connect("BTC/USDT", "*") as peer:
            await served.manager.broadcast_to_all({})
            await served.manager.broadcast_to_subscribers("*", {})
            answer = await status(peer)
            [info] = served.manager.connections.values()
            assert began - 1 < info.connected_at <= info.last_pong < time.time() + 1
            assert info.connected_at == answer["connected_at"]
            assert info.last_ping == info.connected_at  # it was not pinged yet
            assert info.subscriptions == {"BTC/USDT", "*"}
            assert info.message_count == answer["message_count"] == 2  # no pongs and statuses
            assert info.is_alive
            before = info.last_pong
            await peer.say("whatever it is")
            await settled(peer)
            assert next(iter(served.manager.connections.values())).last_pong > before
        await until(lambda: not served.manager.connections)


async def test_the_figures() -> None:
    """``get_stats`` tells of now and ever; symbols that nobody has are not there."""
    manager = WebSocketManager()
    nothing: Message = {
        "active_connections": 0,
        "total_connections": 0,
        "total_messages": 0,
        "subscriptions": {},
        "is_running": False,
    }
    assert manager.get_stats() == websocket_manager.get_stats() == nothing
    async with stream() as served:
        get_stats = served.manager.get_stats
        assert get_stats() == nothing | {"is_running": True}
        async with served.connect("AAPL") as one:
            async with served.connect("BTC/USDT", "AAPL", "A B"):
                await served.manager.broadcast_to_subscribers("AAPL", {})
                await served.manager.broadcast_to_all({})
                await served.manager.broadcast_to_subscribers("nobody's", {})
                await settled(one)
                assert get_stats() == {
                    "active_connections": 2,
                    "total_connections": 2,
                    "total_messages": 4,
                    "subscriptions": {"AAPL": 2, "BTC/USDT": 1, "A B": 1},
                    "is_running": True,
                }
            await until(lambda: get_stats()["active_connections"] == 1)
            await one.say({"type": "unsubscribe", "symbol": "AAPL"})
            await served.manager.broadcast_to_all({})
            await settled(one)
            now = get_stats()
            assert (now["total_connections"], now["total_messages"]) == (2, 5)
            assert now["subscriptions"] == {}
    assert served.manager.get_stats() == nothing


async def test_bad_input_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each message that is dropped is counted, and one line at DEBUG holds nothing of it."""
    caplog.set_level(logging.DEBUG, "wsbus")
    async with stream() as served, served.connect() as peer:
        for bad in ('{"secret', '{"type":"secret"}', '{"type":"subscribe","symbol":["secret"]}'):
            await peer.say(bad)
        await settled(peer)
        assert served.manager.bus.statistics().malformed == 3

    dropped = [record for record in caplog.records if "not understood" in record.getMessage()]
    assert [record.levelname for record in dropped] == ["DEBUG"] * 3
    assert "secret" not in caplog.text


# --- connections that fail ------------------------------------------------------------------------


async def stuck(served: Stream, stack: AsyncExitStack, symbol: str) -> Peer:
    """Connect a client that subscribes, and reads no more."""
    address = urlsplit(served.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    return await stack.enter_async_context(served.connect(symbol, sock=sock, max_queue=1))


async def test_a_connection_that_fails_costs_only_itself() -> None:
    """Who does not read is counted as a failure, removed and counted; others get everything."""
    async with stream() as served, AsyncExitStack() as stack:
        manager = served.manager
        clogged = await stuck(served, stack, "A")
        good = await stack.enter_async_context(served.connect("A"))
        message, sent = {"text": "x" * 50_000}, []
        for n in range(1000):
            sent.append(await manager.broadcast_to_subscribers("A", message | {"n": n}))
            assert (await good.next())["n"] == n
            if sent[-1].failures:
                break
        assert set(sent[:-1]) == {Sent(2, 0)}
        assert sent[-1] == Sent(1, 1)
        await settled(good)
        assert await manager.broadcast_to_subscribers("A", {}) == Sent(1, 0)
        stats = manager.get_stats()
        assert (stats["active_connections"], stats["subscriptions"]) == (1, {"A": 1})
        await until(lambda: manager.dead_connections == 1)
        assert list(manager.connections) == [
            c.id for c in manager.bus.local_subscribers("everybody")
        ]
        clogged.socket.transport.abort()


async def test_dead_connections_are_removed_and_counted() -> None:
    """Who vanishes without a goodbye is dead; who says goodbye is not."""
    async with stream() as served, AsyncExitStack() as stack:
        manager = served.manager
        async with served.connect("A"):
            pass
        peers = [await stack.enter_async_context(served.connect("A")) for _ in range(3)]
        for peer in peers[:2]:
            peer.socket.transport.abort()
        await until(lambda: manager.get_stats()["active_connections"] == 1)
        await until(lambda: manager.dead_connections == 2)
        assert await manager.broadcast_to_subscribers("A", {"n": 1}) == Sent(1, 0)
        assert await peers[2].text() == '{"n":1}'


async def test_a_heartbeat_that_is_assigned_takes_effect_while_connections_are_open() -> None:
    """``heartbeat_interval`` and ``heartbeat_timeout`` are 30 and 60, and hold for all at once."""
    async with stream() as served, served.connect() as silent, served.connect() as living:
        manager = served.manager
        assert (manager.heartbeat_interval, manager.heartbeat_timeout) == (30, 60)
        manager.heartbeat_interval = 0.3
        ping = await silent.hear("ping")
        assert set(ping) == {"type", "timestamp"}
        manager.heartbeat_timeout = 1.2
        assert (manager.heartbeat_interval, manager.heartbeat_timeout) == (0.3, 1.2)
        closing = asyncio.create_task(silent.close_code())
        while not closing.done():
            await living.hear("ping")
            await living.say({"type": "pong"})
        assert closing.result() == 4408
        await until(lambda: manager.dead_connections == 1)
        manager.heartbeat_interval, manager.heartbeat_timeout = 30, 60
        [info] = manager.connections.values()
        assert info.last_ping > info.connected_at
        for wrong in (0, -1, float("inf")):
            with pytest.raises(UsageError):
                manager.heartbeat_interval = wrong


# --- the scenes, and many clients -------------------------------------------------------------


@pytest.mark.parametrize("scene", vectors_by_scene("symbols"))
async def test_a_scene_over_sockets(scene: list[dict[str, Any]]) -> None:
    """Each scene of the vectors goes that way, byte for byte, between a client and the server."""
    async with stream() as served, served.connect(origin="null") as peer:
        if any(entry.get("says") == {"is": "Ping"} for entry in scene):
            served.manager.heartbeat_interval = 0.3
        for entry in scene:
            match entry:
                case {"means": _}:
                    await peer.say(text_of(entry, "means"))
                case {"says": {"is": "Ping"}}:
                    assert masked(await peer.text()) == masked(text_of(entry, "says"))
                case {"says": _}:
                    assert await spoken(peer) == masked(text_of(entry, "says"))
                case {"publishes": {"channel": channel, "data": data}}:
                    named = channel.startswith("symbol.")
                    names = {"symbol.A%20B": "A B", "symbol.%2A": "*"}
                    target = names.get(channel, channel.removeprefix("symbol."))
                    message = json.loads(data)
                    await served.manager.send(message, target if named else None)
                    assert await peer.text() == text_of(entry, "publishes")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of each connection are in this process: more than the usual 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_connections(many_files: None) -> None:
    """Every message reaches each of 1,000 clients, in order; all are counted."""
    clients, messages = 1000, 40
    async with stream() as served, AsyncExitStack() as stack:

        async def come(batch: range) -> list[Peer]:
            options = {"open_timeout": PATIENCE * 2, "max_queue": None}
            connections = [served.connect(f"S{n % 2}", **options) for n in batch]
            return [await stack.enter_async_context(one) for one in connections]

        async def listen(peer: Peer) -> list[int]:
            return [(await peer.next())["n"] for _ in range(messages)]

        peers: list[Peer] = []
        for batch in await asyncio.gather(*(come(range(n, clients, 8)) for n in range(8))):
            peers += batch
        listening = [asyncio.create_task(listen(peer)) for peer in peers]
        for n in range(0, messages, 2):
            assert await served.manager.broadcast_to_all({"n": n}) == Sent(clients, 0)
            for symbol in ("S0", "S1"):
                sent = await served.manager.broadcast_to_subscribers(symbol, {"n": n + 1})
                assert sent == Sent(clients // 2, 0)
        for heard in await asyncio.gather(*listening):
            assert heard == list(range(messages))
        stats = served.manager.get_stats()
        assert stats == {
            "active_connections": clients,
            "total_connections": clients,
            "total_messages": clients * messages,
            "subscriptions": {"S0": clients // 2, "S1": clients // 2},
            "is_running": True,
        }
        for peer in peers:  # a thousand closing handshakes would prove nothing more
            peer.socket.transport.abort()
    with pytest.raises(ConnectionClosed):
        await peers[0].socket.recv()
