"""What takes a minute by its nature, all at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.examples.laicai import FrontEnd, Network, running
from tests.examples.peer import Message, Server, launched

IDLE_SECONDS = 65.0


async def say_nothing(server: Server) -> None:
    """Scene 2: it is never sent a JSON ping, and is still connected after 65 s."""
    began = time.monotonic()
    async with server.connect() as peer:
        while time.monotonic() - began < IDLE_SECONDS:
            await peer.next()
        types = Counter(message["type"] for message in peer.heard)
        assert set(types) == {"connection", "market"}
        assert types["market"] > 2 * IDLE_SECONDS
        assert await peer.is_alive()


async def ping_as_the_page_says(server: Server) -> None:
    """Every 15 s for 65 s: each ping is answered, and the connection stays."""
    client = FrontEnd(server.url)
    async with running(client):
        for _ in range(4):
            await client.answered(1, patience=17)
        assert (len(client.connected), client.lost) == (1, [])


async def be_cut_off(server: Server) -> None:
    """Scene 3 at the page's own times: it gives up within 15 + 20 s, and is back 2 s later.

    The server finds its end of that connection dead by its keepalive, and the others hear of it.
    """
    async with Network(server.url).open() as network, server.connect() as witness:
        client = FrontEnd(network.url)
        async with running(client):
            mine = await client.hear("connection", event="created")
            cut = time.monotonic()
            network.cut()

            async def come_back() -> Message:
                async with asyncio.timeout(45):
                    while True:
                        message = await client.heard.get()
                        if message.get("event") == "created":
                            return message

            async def hear_of_the_end() -> None:
                async with asyncio.timeout(60):
                    while True:
                        message = await witness.next()
                        news = (message.get("event"), message.get("client_id"))
                        if news == ("closed", mine["client_id"]):
                            return

            again, _ = await asyncio.gather(come_back(), hear_of_the_end())
            [(gave_up, code)] = client.lost
            assert code is None
            assert 34 < gave_up - cut < 36.5
            assert 2 <= client.connected[1] - gave_up < 3
            assert again["client_id"] != mine["client_id"]


async def answer_the_server(server: Server) -> None:
    """With ``--server-ping 2``: asked every 2 s, and kept, with pongs or any other frame."""

    async def answer(text: str) -> None:
        began, asked = time.monotonic(), []
        async with server.connect() as peer:
            while time.monotonic() - began < 28:
                message = await peer.next()
                if message["type"] == "ping":
                    assert message == {"type": "ping"}
                    asked.append(time.monotonic() - began)
                    await peer.say(text)
            assert await peer.is_alive()
        gaps = [later - earlier for earlier, later in zip([0.0, *asked], asked, strict=False)]
        assert min(gaps) > 1.0
        assert abs(sum(gaps) / len(gaps) - 2) < 0.8

    await asyncio.gather(answer('{"type":"pong"}'), answer("what?"))


async def never_answer_the_server(server: Server) -> None:
    """With ``--server-ping 2``: closed with 4408 when 20 s have passed after a ping."""
    began = time.monotonic()
    async with server.connect() as peer:
        assert await peer.close_code() == 4408
        assert time.monotonic() - began > 21.5
        assert sum(message["type"] == "ping" for message in peer.heard) >= 8


@pytest.mark.timeout(100)
@pytest.mark.slow
async def test_what_takes_a_minute(tmp_path: Path) -> None:
    """An idle client, one that pings, one that is cut off; and the server's own ping.

    Each scenario states its law. The log has no line but those of the page.
    """
    with (
        launched("laicai_stream.py", tmp_path / "log") as server,
        launched("laicai_stream.py", tmp_path / "pings", "--server-ping", "2") as pinging,
    ):
        async with asyncio.TaskGroup() as scenarios:
            for scenario in (say_nothing, ping_as_the_page_says, be_cut_off):
                scenarios.create_task(scenario(server))
            for scenario in (answer_the_server, never_answer_the_server):
                scenarios.create_task(scenario(pinging))
    for log in (server.log, pinging.log):
        lines = log.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if not line.startswith("[WS] ")] == []
