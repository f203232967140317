"""The Laicai example as its clients and operators see it: a process that listens on a port."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
from websockets.exceptions import InvalidStatus

from tests.examples.laicai import FrontEnd, running
from tests.examples.peer import PATIENCE, ROOT, Message, Peer, Server, launched

EXAMPLE: Final = "laicai_stream.py"
PING: Final = '{"type":"ping"}'
BAD: Final = {
    "not JSON": "hello",
    "empty": "",
    "cut off": '{"type":"ping"',
    "two messages": '{"type":"ping"}\n{"type":"ping"}',
    "NaN": '{"type":"ping","at":NaN}',
    "half a character": '{"type":"ping","at":"\\ud800"}',
    "array": '["ping"]',
    "number": "1",
    "text": '"ping"',
    "null": "null",
    "no type": "{}",
    "type is a number": '{"type":1}',
    "type is null": '{"type":null}',
    "type is an object": '{"type":{"type":"ping"}}',
    "capitals": '{"type":"PING"}',
    "no such message": '{"type":"subscribe","channels":["market"]}',
    "what the server says": '{"type":"connection","event":"created","connections":9}',
    "30,000 levels": f'{{"type":"ping","at":{"[" * 30_000}{"]" * 30_000}}}',
    "30,000 open": "[" * 30_000,
    "5,000 digits": f'{{"type":"ping","at":{"1" * 5000}}}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    with launched(EXAMPLE, tmp_path_factory.mktemp("laicai") / "log") as server:
        yield server


async def arrive(peer: Peer) -> Message:
    """Read the first frame."""
    first = await peer.next()
    assert list(first)[:3] == ["type", "event", "connections"]
    assert (first["type"], first["event"]) == ("connection", "created")
    return first


async def statistics(server: Server) -> Message:
    """Ask for them over HTTP."""
    where = server.url.replace("ws://", "http://").replace("/api/stream", "/-/statistics")
    body = await asyncio.to_thread(lambda: urlopen(where, timeout=PATIENCE).read())
    told: Message = json.loads(body)
    return told


# --- messages ---------------------------------------------------------------------------------


async def test_a_connection_from_arrival_to_end(server: Server) -> None:
    """Its first frame is its own ``created``; the others get that, too, and its ``closed``."""
    async with server.connect() as witness:
        before = await arrive(witness)
        async with server.connect() as peer:
            news = await arrive(peer)
            assert news["connections"] == before["connections"] + 1
            assert await witness.hear("connection") == news
            await peer.hear("market")
        end = await witness.hear("connection")
        assert end == before | {"event": "closed", "client_id": news["client_id"]}


async def test_a_ping_is_answered_by_a_pong_without_another_key(server: Server) -> None:
    """``{"type":"pong"}``, byte for byte, whatever else stood in the ping."""
    async with server.connect() as peer:
        for ping in (PING, '{"timestamp":1703836800000,"type":"ping"}', ' {"type" : "ping"}\n'):
            await peer.say(ping)
            while (text := await peer.text()).startswith(('{"type":"market"', '{"type":"conn')):
                pass
            assert text == '{"type":"pong"}'


async def test_a_pong_is_not_answered(server: Server) -> None:
    """A client that says pong, asked or not, hears nothing of it, and it is not bad input."""
    async with server.connect() as peer:
        await arrive(peer)
        before = await statistics(server)
        await peer.say('{"type":"pong"}')
        await peer.ask(PING, "pong")
        after = await statistics(server)
        assert after["malformed"] == before["malformed"]
        assert after["messages_received"] == before["messages_received"] + 2


async def test_the_market_comes_several_times_a_second(server: Server) -> None:
    """Everyone gets it without asking, the same for all, Chinese unescaped."""
    async with server.connect() as one, server.connect() as other:
        await one.hear("market")
        began = time.monotonic()
        for _ in range(6):
            text = await one.text()
            if one.heard[-1]["type"] == "market":
                assert re.fullmatch(
                    r'\{"type":"market","symbol":"600519","name":"贵州茅台","price":[\d.]+\}', text
                )
        assert time.monotonic() - began < 3
        while one.heard[-1] not in other.heard:
            await other.hear("market")


@pytest.mark.parametrize("origin", [None, "null", "http://localhost:3000", "https://evil.example"])
async def test_any_origin_is_welcome(server: Server, origin: str | None) -> None:
    """A front end on another port, a console, a native client: none offers a subprotocol."""
    async with server.connect(origin=origin) as peer:
        await arrive(peer)
        assert peer.socket.subprotocol is None


async def test_the_stream_is_on_its_path_only(server: Server) -> None:
    """Elsewhere the handshake is refused."""
    with pytest.raises(InvalidStatus):
        async with server.connect(path="/../ws"):
            pass


# --- bad input --------------------------------------------------------------------------------


async def test_bad_input_is_dropped_and_counted(server: Server) -> None:
    """No answer, no close, and nobody else notices; the pings after it are answered."""
    async with server.connect() as peer, server.connect() as witness:
        await arrive(peer)
        before = await statistics(server)
        for frame in BAD.values():
            await peer.say(frame)
            await peer.ask(PING, "pong")
        assert {message["type"] for message in peer.heard} <= {"connection", "market", "pong"}
        assert sum(message["type"] == "pong" for message in peer.heard) == len(BAD)
        assert (await statistics(server))["malformed"] == before["malformed"] + len(BAD)
        await witness.ask(PING, "pong")
        assert sum(message["type"] == "pong" for message in witness.heard) == 1


@pytest.mark.parametrize(
    ("frame", "is_text", "code"),
    [
        pytest.param(b'{"type":"ping"}', False, 1003, id="binary"),
        pytest.param(b'{"type":"\xff"}', True, 1007, id="not UTF-8"),
        pytest.param(b'"' + b"a" * 70_000 + b'"', True, 1009, id="too large"),
    ],
)
async def test_what_the_websocket_protocol_forbids_ends_one_connection(
    server: Server, frame: bytes, is_text: bool, code: int
) -> None:
    """It is closed with the code of RFC 6455, and nobody else notices."""
    async with server.connect() as peer, server.connect() as witness:
        await peer.socket.send(frame, text=is_text)
        assert await peer.close_code() == code
        assert await witness.is_alive()


# --- operation --------------------------------------------------------------------------------


async def stop(server: Server, number: int, peers: list[Peer]) -> None:
    """Send the signal: all see the end coming, and the process ends well, and soon."""
    began = time.monotonic()
    server.process.send_signal(number)
    assert set(await asyncio.gather(*(peer.close_code() for peer in peers))) <= {1001, 1012}
    assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopping_and_what_was_logged(tmp_path: Path, number: int) -> None:
    """Clients see 1001 or 1012, the exit code is 0; the log has its lines, and no noise."""
    with launched(EXAMPLE, tmp_path / "log") as server:
        async with AsyncExitStack() as stack:
            connect = [stack.enter_async_context(server.connect()) for _ in range(3)]
            peers = await asyncio.gather(*connect)
            await peers[0].ask(PING, "pong")
            await peers[1].say("hello")
            await peers[1].say('{"type":"a\\n[WS] forged"}')
            await peers[1].ask(PING, "pong")
            async with server.connect() as rude:
                await rude.socket.send(b"\xff", text=True)
                await rude.close_code()
            async with server.connect() as gone:
                gone.socket.transport.abort()
            await peers[2].hear("connection", event="closed", connections=3)
            await stop(server, number, peers)
        lines = server.log.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [
        "[WS] WebSocket client connected to /api/stream",
        "[WS] Published connected event (delayed)",
    ]
    first = lines.index('[WS] Received message: {"type":"ping"}')
    assert lines[first + 1 : first + 3] == [
        "[WS] Parsed message: {'type': 'ping'}",
        "[WS] Received ping, sending pong",
    ]
    assert [line for line in lines if not line.startswith("[WS] ")] == []
    assert not any(
        word in line for line in lines for word in ("Traceback", "not understood", "failed")
    )


async def test_a_restart_under_three_clients(tmp_path: Path) -> None:
    """They see the close code, find the server when it is back, and get every event again."""
    with launched(EXAMPLE, tmp_path / "first") as server:
        clients = [FrontEnd(server.url, interval=0.2, timeout=5, delay=2) for _ in range(3)]
        async with running(*clients):
            for client in clients:
                await client.hear("connection", connections=3)
                await client.answered(1)
            server.process.terminate()
            assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0
            for client in clients:  # Once in vain, while there is no server.
                while client.attempts < 2:  # noqa: ASYNC110  # a refused connection says nothing
                    await asyncio.sleep(0.02)
            port = server.url.split(":")[2].removesuffix("/api/stream")
            with launched(EXAMPLE, tmp_path / "second", "--port", port):
                for client in clients:
                    await client.hear("connection", event="created", connections=3)
                    await client.hear("market")
                    await client.answered(1)
                assert all(len(client.connected) == 2 for client in clients)
                assert {code for client in clients for _, code in client.lost} <= {1001, 1012}
                assert [len(client.lost) for client in clients] == [1] * 3


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_server_ping_that_is_no_duration(seconds: str) -> None:
    """The example says so, and does not start."""
    command = [sys.executable, f"examples/{EXAMPLE}", "--port", "0", f"--server-ping={seconds}"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
