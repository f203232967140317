"""What takes seconds by its nature, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from tests.examples.peer import Peer, Server, everywhere, token


async def send_no_token(server: Server) -> None:
    """Without a token: 4500 after 10 s, whatever else is sent meanwhile."""
    began = time.monotonic()
    async with server.connect() as peer:
        await peer.say('{"type":"ping"}')
        async with asyncio.timeout(20):
            await peer.socket.wait_closed()
        assert peer.socket.close_code == 4500
        assert time.monotonic() - began > 9.5


async def keep_exceeding(server: Server) -> None:
    """200 messages a second: each is answered, and after 10 s that ends with 4429."""
    began = time.monotonic()
    async with server.connect(token()) as peer:
        pings = 0
        try:
            while time.monotonic() - began < 20:
                for _ in range(40):
                    await peer.say('{"type":"ping"}')
                    pings += 1
                for _ in range(40):
                    await peer.next()
                await asyncio.sleep(0.2)  # the rate is what this is about
        except ConnectionClosed:
            pass
        answers = [message["type"] for message in peer.heard]
        assert peer.socket.close_code == 4429
        assert time.monotonic() - began > 10
        assert answers.count("pong") < 100 * (time.monotonic() - began) + 100
        assert pings - 40 <= len(answers) <= pings


async def watch_the_rates(server: Server) -> None:
    """Status and progress come once a second, health every 5 s."""
    async with server.connect(token()) as peer:
        channels = {
            "grid.grid_abc123.status": 1,
            "backtest.bt_xyz789.progress": 1,
            "strategy.st_ma001.status": 1,
            "system.health": 5,
        }
        await peer.subscribe(*channels)
        times: dict[str, list[float]] = {channel: [] for channel in channels}
        while len(times["system.health"]) < 3:
            event = await peer.hear("event")
            times[event["channel"]].append(event["timestamp"] / 1000)
        for channel, seconds in channels.items():
            mean = (times[channel][-1] - times[channel][0]) / (len(times[channel]) - 1)
            assert abs(mean - seconds) < 0.2 * seconds, channel


async def send_all(peer: Peer, frames: list[str], seconds: float) -> None:
    """Send as long as one can, one frame in so many seconds."""
    with contextlib.suppress(ConnectionClosed):
        for frame in frames:
            await peer.say(frame)
            await asyncio.sleep(seconds)


async def ask_and_never_read(server: Server) -> None:
    """Who asks and never reads is not read either, and cut off; nobody else notices."""
    address = urlsplit(server.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((address.hostname, address.port))
    sock.setblocking(False)
    names = [f"no..{i:03}{'x' * 200}" for i in range(300)]
    frame = json.dumps({"type": "subscribe", "channels": names})
    async with (
        server.connect(token(), sock=sock, max_queue=1) as hog,
        server.connect(token()) as witness,
    ):
        # Answers of 90 KB each; 300 names count as 38 of the 100 messages allowed a second.
        flood = asyncio.create_task(send_all(hog, [frame] * 90, 0.4))
        await witness.subscribe("system.health")
        for _ in range(3):  # at least 10 s: its time to read is 5 s, judged once a second
            await witness.event("system.health", "update")
            assert await witness.is_alive()
        assert await hog.close_code() == 1006
        assert len(hog.heard) < 90
        await flood


@pytest.mark.slow
@everywhere
async def test_what_takes_ten_seconds(server: Server) -> None:
    """No token in time, a rate exceeded for long, the rates of the feeds, and a client that clogs.

    Each scenario states its law.
    """
    await asyncio.gather(
        send_no_token(server),
        keep_exceeding(server),
        watch_the_rates(server),
        ask_and_never_read(server),
    )
