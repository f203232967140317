"""The acceptance scenes of the Laicai stream, and what its event bus promises, in one process."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from examples.laicai_stream import PONG_TIMEOUT, LoggedStream
from tests.examples.laicai import FrontEnd, Network, Stream, running, stream
from tests.examples.peer import PATIENCE, ROOT, Message, Peer
from tests.protocols.golden import text_of
from wsbus import Connection, HeartbeatPolicy, UsageError

PING = '{"type":"ping"}'
PONG = '{"type":"pong"}'


async def arrive(peer: Peer) -> Message:
    """Read the first frame."""
    first = await peer.next()
    assert (first["type"], first["event"]) == ("connection", "created")
    return first


# --- scene 1 ----------------------------------------------------------------------------------


async def test_a_pong_comes_at_once_whatever_else_goes_on() -> None:
    """Pongs wait neither for publications, nor for hooks and listeners that take their time."""
    done, reached = asyncio.Event(), asyncio.Event()

    def prepare(stream: Stream) -> None:
        @stream.bus.on_connect
        async def dawdle(connection: Connection) -> None:
            if connection.handshake.query_string == "slow":
                reached.set()
                await done.wait()

    async def listen_slowly(data: Message) -> None:
        await done.wait()

    async def publish_on(stream: Stream) -> None:
        while True:
            await stream.event_bus.publish("market", {"price": 1})
            await asyncio.sleep(0)

    async with (
        stream(prepare=prepare) as served,
        served.connect() as peer,
        served.connect("?slow") as slow,
    ):
        jobs = [
            asyncio.create_task(served.event_bus.listen("connection", listen_slowly)),
            asyncio.create_task(publish_on(served)),
        ]
        await reached.wait()
        await slow.say(PING)
        for _ in range(20):
            async with asyncio.timeout(1):
                await peer.ask(PING, "pong")
        assert not any(message["type"] == "pong" for message in slow.heard)
        done.set()  # Only now is what the slow one said acted on, and not lost.
        await slow.hear("pong")
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


# --- scene 3 ----------------------------------------------------------------------------------


async def be_cut_off() -> None:
    """Be the front end, as :class:`FrontEnd` is it."""
    async with stream() as served, Network(served.url).open() as network:
        client = FrontEnd(network.url, interval=0.3, timeout=0.5)
        async with running(client), served.connect() as witness:
            await client.hear("connection", event="created")
            await client.answered(2)
            cut = asyncio.get_running_loop().time()
            network.cut()
            again = await client.hear("connection", event="created", connections=3)

            [(gave_up, code)] = client.lost
            assert code is None
            assert 0.2 <= gave_up - cut < 0.3 + 0.5 + 1
            assert 2.0 <= client.connected[1] - gave_up < 3.0
            await client.answered(1)
            assert len(client.connected) == 2
            await witness.hear("connection", client_id=again["client_id"])


async def be_cut_off_in_node(node: str) -> None:
    """Be the front end in JavaScript, with the WebSocket of Node."""
    script = str(ROOT / "tests" / "examples" / "laicai_client.mjs")
    async with stream() as served, Network(served.url).open() as network:
        process = await asyncio.create_subprocess_exec(
            node,
            "--experimental-websocket",
            script,
            network.url,
            *("300", "500", "2000"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        seen: list[Message] = []

        async def until(what: str) -> Message:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                while True:
                    seen.append(json.loads(await process.stdout.readline()))
                    if seen[-1]["what"] == what:
                        return seen[-1]

        try:
            assert (await until("open"))["protocol"] == ""
            assert (await until("event"))["data"]["event"] == "created"
            last = (await until("pong"), await until("pong"))[1]
            network.cut()
            gave_up = await until("timeout")
            opened = await until("open")
            await until("event")
            await until("pong")
        finally:
            process.kill()
            await process.communicate()
        assert 0.4 < gave_up["at"] - last["at"] < 0.3 + 0.5 + 1
        assert 1.9 < opened["at"] - gave_up["at"] < 3


async def test_a_client_notices_a_cut_network_and_comes_back(
    require_command: Callable[[str, str], str],
) -> None:
    """It gives up within interval + timeout of the cut, and connects again 2 s later.

    So in Python as in JavaScript; then it is pinging again, and hears of its own arrival.
    """
    node = require_command("node", "nodejs")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(be_cut_off())
        tasks.create_task(be_cut_off_in_node(node))


# --- scene 4 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", ["tight", "turns"])
async def test_a_thousand_pings_among_ten_thousand_events(pace: str) -> None:
    """Exactly 1,000 pongs, and all events, in order; another connection gets no pong."""

    async def publish(served: Stream) -> None:
        for n in range(10_000):
            await served.event_bus.publish("market", {"n": n, "name": "贵州茅台"})
            if pace == "turns" and n % 20 == 0:
                await asyncio.sleep(0)

    async def ping(peer: Peer) -> None:
        for n in range(1000):
            await peer.say(PING)
            if n % 10 == 0:
                await asyncio.sleep(0)

    async def read(peer: Peer, pongs: int) -> list[str]:
        frames: list[str] = []
        while len(frames) < 10_000 + pongs:
            frames.append(await peer.text())
        return frames

    async with stream() as served, served.connect() as peer, served.connect() as other:
        await arrive(peer)
        await peer.hear("connection", connections=2)
        await arrive(other)
        async with asyncio.TaskGroup() as tasks:
            mine, theirs = (tasks.create_task(read(p, n)) for p, n in ((peer, 1000), (other, 0)))
            tasks.create_task(publish(served))
            tasks.create_task(ping(peer))
        await peer.say(PING)

        assert mine.result().count(PONG) == 1000
        events = [json.loads(text) for text in mine.result() if text != PONG]
        assert [event["n"] for event in events] == list(range(10_000))
        assert theirs.result() == [text for text in mine.result() if text != PONG]
        assert await peer.text() == PONG
        assert served.bus.statistics().dropped == 0


# --- connections and events -------------------------------------------------------------------


async def test_the_first_frame_is_its_own_arrival() -> None:
    """Also to those that arrive while much is published, and that speak at once."""

    async def publish_on(served: Stream) -> None:
        while True:
            await served.event_bus.publish("market", {"price": 1})
            await asyncio.sleep(0)

    async def come(served: Stream) -> str:
        async with served.connect() as peer:
            await peer.say(PING)
            first = await arrive(peer)
            await peer.hear("pong")
            return str(first["client_id"])

    async with stream() as served:
        flood = asyncio.create_task(publish_on(served))
        ids = await asyncio.gather(*(come(served) for _ in range(30)))
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)

    assert len(set(ids)) == 30


async def test_others_hear_of_arrivals_and_ends() -> None:
    """``created`` and ``closed`` reach everyone who is there, with the count, however it ended."""
    async with stream() as served, served.connect() as witness:
        own = await arrive(witness)
        assert own["connections"] == 1
        for end in ("close", "cut"):
            async with served.connect() as peer:
                news = await arrive(peer)
                assert (news["connections"], news["client_id"] != own["client_id"]) == (2, True)
                assert await witness.next() == news
                if end == "cut":
                    peer.socket.transport.abort()
            assert await witness.next() == news | {"event": "closed", "connections": 1}


async def test_a_failing_listener_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What a listener or a hook raises is logged; the connection and the listener live on."""
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def fail(data: Message) -> None:
        heard.put_nowait(data)
        raise LookupError("listener")

    def prepare(served: Stream) -> None:
        @served.bus.on_connect
        def fail_at_once(connection: Connection) -> None:
            raise LookupError("hook")

    async with stream(prepare=prepare) as served:
        listening = asyncio.create_task(served.event_bus.listen("connection", fail))
        await asyncio.sleep(0)
        async with served.connect() as peer:
            await arrive(peer)
            assert (await heard.get())["event"] == "created"
            async with served.connect() as second:
                await arrive(second)
            assert [(await heard.get())["event"] for _ in range(2)] == ["created", "closed"]
            await peer.ask(PING, "pong")
        assert (await heard.get())["event"] == "closed"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    failures = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert failures.count("[WS] A listener of connection failed") == 4
    assert sum("the connection hook" in failure for failure in failures) == 2


async def test_an_event_cannot_pass_for_a_heartbeat() -> None:
    """``ping``, ``pong`` and data with a ``type`` are refused; nobody gets anything."""
    async with stream() as served, served.connect() as peer:
        await arrive(peer)
        for event_type, data in (("ping", {}), ("pong", {}), ("market", {"type": "pong"})):
            with pytest.raises(UsageError):
                await served.event_bus.publish(event_type, data)
        await served.event_bus.publish("市场.*", {"名": "贵州茅台"})

        assert await peer.text() == '{"type":"市场.*","名":"贵州茅台"}'


# --- logs -------------------------------------------------------------------------------------


async def test_the_lines_that_operators_check(caplog: pytest.LogCaptureFixture) -> None:
    """They are written by the example's own logger, at INFO, word for word and in this order.

    No line can be forged. wsbus's own logger tells of bad input at DEBUG, and holds no payload.
    """
    caplog.set_level(logging.DEBUG)
    async with stream() as served, served.connect() as peer:
        await arrive(peer)
        await peer.ask(PING, "pong")
        await peer.say('{"type":"secret\n[WS] forged"}')
        await peer.say('{"type":"secret"}')
        await peer.ask(PING, "pong")
        assert served.bus.statistics().malformed == 2
    own = [record for record in caplog.records if record.name == "laicai.stream"]
    assert [r.getMessage() for r in own if r.levelno == logging.INFO][:5] == [
        "[WS] WebSocket client connected to /api/stream",
        "[WS] Published connected event (delayed)",
        '[WS] Received message: {"type":"ping"}',
        "[WS] Parsed message: {'type': 'ping'}",
        "[WS] Received ping, sending pong",
    ]
    assert all("\n" not in record.getMessage() for record in own)
    theirs = [record for record in caplog.records if record.name.startswith("wsbus")]
    assert [record.getMessage().rpartition(": ")[2] for record in theirs] == [
        "not JSON",
        "neither a ping nor a pong",
    ]
    assert {record.levelno for record in theirs} == {logging.DEBUG}
    assert not any("secret" in record.getMessage() for record in theirs)


# --- what the library must make impossible ----------------------------------------------------


async def test_a_server_ping_leaves_nothing_behind() -> None:
    """With pings both ways there is one reader, and no task stays when a connection is gone."""
    async with stream(server_ping=0.1) as served, served.connect() as peer:
        await arrive(peer)
        await peer.ask(PING, "pong")
        before = len(asyncio.all_tasks())
        clients = [FrontEnd(served.url, interval=0.01, timeout=5) for _ in range(5)]
        async with running(*clients):
            await asyncio.gather(*(client.answered(50) for client in clients))
            assert [client.lost for client in clients] == [[]] * 5
        await peer.hear("connection", event="closed", connections=1)
        await peer.hear("ping")
        async with asyncio.timeout(PATIENCE):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # tasks end unheard
                await asyncio.sleep(0.01)


async def test_the_terms_of_the_server_ping() -> None:
    """Without it, nobody is pinged or closed; with it, a frame must come within 20 s of a ping."""
    async with stream() as served:
        assert served.endpoint.heartbeat == HeartbeatPolicy.client_drives()
    async with stream(server_ping=15) as served:
        assert served.endpoint.heartbeat == HeartbeatPolicy(15, 15 + PONG_TIMEOUT, spreads=False)
        assert isinstance(served.endpoint.protocols[0], LoggedStream)


# --- golden vectors ---------------------------------------------------------------------------


def transcripts() -> list[Any]:
    """Return the steps of each scene."""
    path = ROOT / "tests" / "protocols" / "vectors" / "laicai.json"
    steps: dict[str, list[Message]] = {}
    for step in json.loads(path.read_text(encoding="utf-8")):
        steps.setdefault(step["scene"], []).append(step)
    return [pytest.param(scene, each, id=scene) for scene, each in steps.items()]


@pytest.mark.parametrize(("scene", "steps"), transcripts())
async def test_the_transcripts_over_a_socket(scene: str, steps: list[Message]) -> None:
    """Each scene happens on the wire as it is written, byte for byte but for the client's id."""
    async with (
        stream(server_ping=0.2 if scene == "server ping" else None) as served,
        served.connect() as peer,
    ):
        for step in steps:
            kind = next(kind for kind in ("means", "says", "publishes") if kind in step)
            text = text_of(step, kind)
            if kind == "means":
                await peer.say(text)
                continue
            if kind == "publishes" and step["publishes"]["event"] != "connection":
                data = json.loads(step["publishes"]["data"])
                await served.event_bus.publish(step["publishes"]["event"], data)
            assert re.sub(r"[0-9a-f]{16}", "0123456789abcdef", await peer.text()) == text
        malformed = [s for s in steps for c in s.get("means", ()) if c["is"] == "Malformed"]
        assert served.bus.statistics().malformed == len(malformed)
