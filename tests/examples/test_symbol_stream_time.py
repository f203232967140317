"""The heartbeat of the symbol stream, which takes the time it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.examples.peer import Server, launched
from tests.examples.symbols import MOMENT, status

INTERVAL, TIMEOUT = 0.6, 1.8
SOME_TIMEOUTS = 3 * TIMEOUT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, with a quick heartbeat."""
    options = ["--heartbeat-interval", str(INTERVAL), "--heartbeat-timeout", str(TIMEOUT)]
    with launched("symbol_stream.py", tmp_path_factory.mktemp("beat") / "log", *options) as it:
        yield it


async def never_say_anything(server: Server) -> None:
    """Who neither answers nor sends is pinged, and closed with 4408 after the timeout."""
    async with server.connect() as peer:
        began = time.monotonic()
        assert await peer.close_code() == 4408
        assert peer.socket.close_reason == "heartbeat timeout"
        assert time.monotonic() - began > TIMEOUT - 0.1
        assert len(peer.heard) >= 2
        for ping in peer.heard:
            assert list(ping) == ["type", "timestamp"]
            assert ping["type"] == "ping"
            assert MOMENT.fullmatch(ping["timestamp"])


async def fall_silent(server: Server) -> None:
    """The timeout counts from the last frame, and being sent quotes is no sign of life."""
    async with server.connect() as peer:
        await asyncio.sleep(TIMEOUT / 2)
        await peer.say('{"type":"subscribe","symbol":"AAPL"}')
        began = time.monotonic()
        assert await peer.close_code() == 4408
        assert time.monotonic() - began > TIMEOUT - 0.1
        assert "quote" in {message["type"] for message in peer.heard}


async def keep_saying(server: Server, frame: str, *answers: str) -> None:
    """Who sends any frame now and then lives, though it answers no ping."""
    async with server.connect() as peer:
        ends = time.monotonic() + SOME_TIMEOUTS
        closed = asyncio.create_task(peer.close_code())
        while time.monotonic() < ends:
            await peer.say(frame)
            await asyncio.wait([closed], timeout=TIMEOUT / 3)
        assert not closed.done()
        closed.cancel()
        await asyncio.wait([closed])
        kinds = [message["type"] for message in peer.heard]
        assert kinds.count("ping") >= SOME_TIMEOUTS / INTERVAL / 2
        assert set(kinds) == {"ping", *answers}


async def only_answer(server: Server) -> None:
    """Who answers the server's pings, and does nothing else, lives."""
    async with server.connect() as peer:
        ends = time.monotonic() + SOME_TIMEOUTS
        while time.monotonic() < ends:
            await peer.hear("ping")
            await peer.say('{"type":"pong","timestamp":"2025-12-11T10:30:00"}')
        assert (await status(peer))["message_count"] == 0


async def vanish(server: Server) -> None:
    """Who stops reading altogether is closed all the same."""
    async with server.connect(max_queue=1) as peer:
        peer.socket.transport.pause_reading()
        await asyncio.sleep(SOME_TIMEOUTS)
        peer.socket.transport.resume_reading()
        assert await peer.close_code() in {4408, 1006}


async def test_the_heartbeat(server: Server) -> None:
    """Silent clients are closed with 4408; any frame is life, the sample's pings above all.

    Each scenario states its law.
    """
    assert server.url
    await asyncio.gather(
        never_say_anything(server),
        fall_silent(server),
        keep_saying(server, '{"type":"ping"}', "pong"),
        keep_saying(server, '{"type":"get_status"}', "status"),
        keep_saying(server, "what is this"),
        only_answer(server),
        vanish(server),
    )
