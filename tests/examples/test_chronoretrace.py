"""The ChronoRetrace example, from the wire."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from examples.chronoretrace import Source, make_endpoint
from tests.examples.chronoretrace_peer import chronoretrace, connected, host_of, url_of
from tests.examples.peer import PATIENCE, ROOT, Message, Peer, Server
from wsbus import Bus
from wsbus.adapters.uvicorn import uvicorn_options

_VECTORS: Final = ROOT / "tests" / "protocols" / "vectors" / "chronoretrace.json"
ENTRIES: Final[list[dict[str, Any]]] = json.loads(_VECTORS.read_text(encoding="utf-8"))
SHANGHAI: Final = timezone(timedelta(hours=8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example as it is."""
    with chronoretrace(tmp_path_factory.mktemp("logs") / "replace.log") as server:
        yield server


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, which refuses duplicates, with a source for three topics."""
    log = tmp_path_factory.mktemp("logs") / "reject.log"
    with chronoretrace(log, "--on-duplicate", "reject", "--capacity", "3") as server:
        yield server


def masked(frame: str) -> str:
    """Take out of a frame what is another each time."""
    frame = re.sub(r'"timestamp":"[\d-]{10}T[\d:]{8}\.\d{6}"', '"timestamp":…', frame)
    return re.sub(r'"seq":\d+,"price":[\d.]+,"volume":\d+', '"seq":…', frame)


async def frame_of(peer: Peer, kind: str = "", topic: str | None = None) -> str:
    """Wait for a frame: the next that is no data, or data of a topic."""
    async with asyncio.timeout(PATIENCE):
        while True:
            frame = await peer.socket.recv()
            assert isinstance(frame, str)
            message = json.loads(frame)
            is_data = message["type"] == "data"
            if is_data is (kind == "data") and topic in {None, message.get("topic")}:
                return frame


async def subscribe(peer: Peer, topic: str) -> Message:
    """Subscribe; return the answer."""
    await peer.say({"type": "subscribe", "topic": topic})
    while True:
        answer: Message = json.loads(await frame_of(peer))
        if answer["type"] != "connection_ack":
            return answer


async def test_the_scenes_of_the_page(server: Server) -> None:
    """What is said, and when, is word for word what the vectors say; nothing closes."""

    async def play(scene: str) -> None:
        script = [entry for entry in ENTRIES if entry["scene"] == scene]
        async with connected(server, script[0]["says"]["connection_id"]) as peer:
            for entry in script:
                [text] = entry["text"]
                if "means" in entry:
                    await peer.say(text)
                elif "says" in entry:
                    assert masked(await frame_of(peer)) == masked(text), entry["name"]
                else:
                    topic = json.loads(text)["topic"]
                    assert masked(await frame_of(peer, "data", topic)) == masked(text)
            assert await peer.is_alive()

    await asyncio.gather(*map(play, dict.fromkeys(entry["scene"] for entry in ENTRIES)))


async def test_timestamps_are_local_time(server: Server) -> None:
    """The clock of the server's own zone, now, to the microsecond, in every message."""
    async with connected(server, "clock") as peer:
        ack = await peer.next()
        await subscribe(peer, "stock.AAPL.1m")
        data = await peer.hear("data")
        for message in (ack, data):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", message["timestamp"])
            at = datetime.fromisoformat(message["timestamp"]).replace(tzinfo=SHANGHAI)
            age = datetime.now(SHANGHAI) - at
            assert timedelta(seconds=-1) < age < timedelta(seconds=10)


async def test_data_is_numbered_and_comes_once_at_least_once_a_second(server: Server) -> None:
    """Each topic has numbers of its own, the same for all; subscribing twice delivers once."""
    topics = ("stock.NUMBERS.1m", "crypto.NUMBERS.1M", "crypto.NUMBERS.1m")
    clock = asyncio.get_running_loop().time
    async with connected(server, "numbers 1") as one, connected(server, "numbers 2") as two:
        for peer in (one, two):
            await peer.hear("connection_ack")
            for topic in (*topics, topics[0]):
                await peer.say({"type": "subscribe", "topic": topic})
        times: dict[str, list[float]] = {topic: [] for topic in topics}
        while len(times[topics[-1]]) < 5:
            message = await one.next()
            if message["type"] == "data":
                times[message["topic"]].append(clock())
        while sum(message["type"] == "data" for message in two.heard) < 9:
            await two.next()
        for topic in topics:
            assert all(later - sooner <= 1 for sooner, later in pairwise(times[topic]))
            first, second = data_of(one, topic), data_of(two, topic)
            for heard in (first, second):
                numbers = [data["seq"] for data in heard]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            common = [data for data in first if data in second]
            assert len(common) >= 2


def data_of(peer: Peer, topic: str) -> list[Message]:
    """Return the data of a topic that was heard so far."""
    return [m["data"] for m in peer.heard if m["type"] == "data" and m["topic"] == topic]


async def test_nothing_comes_after_an_unsubscribe(server: Server) -> None:
    """And what is given up by all is numbered from 1 when somebody wants it again."""
    async with connected(server, "leaver") as peer:
        for topic in ("stock.GONE.1m", "stock.KEPT.1m"):
            await subscribe(peer, topic)
        first = await peer.hear("data", topic="stock.GONE.1m")
        assert first["data"]["seq"] == 1
        await peer.ask({"type": "unsubscribe", "topic": "stock.GONE.1m"}, "unsubscribe_ack")
        at = len(peer.heard)
        for _ in range(3):
            await peer.hear("data", topic="stock.KEPT.1m")
        assert {message["topic"] for message in peer.heard[at:]} == {"stock.KEPT.1m"}
        await subscribe(peer, "stock.GONE.1m")
        assert (await peer.hear("data", topic="stock.GONE.1m"))["data"]["seq"] == 1


@pytest.mark.parametrize(
    "client_id",
    [
        "a/b",
        "/",
        "a%2Fb",
        "%",
        "客户 一",
        "?x=1#y",
        "..",
        "a\nb\n",
        "+",
        "🙂\x00",
        '"\\',
        "x" * 1000,
    ],
    ids=ascii,
)
async def test_any_string_is_a_client_id(server: Server, client_id: str) -> None:
    """It is percent-decoded, once, and acknowledged first of all."""
    async with connected(server, client_id) as peer:
        ack = await peer.next()
        assert ack == {
            "type": "connection_ack",
            "client_id": client_id,
            "timestamp": ack["timestamp"],
        }


@pytest.mark.parametrize("path", ["/a/b", "/", "", "/a/", "//a", "/a%2Fb/c"])
async def test_a_client_id_is_one_segment(server: Server, path: str) -> None:
    """Where the path has more segments, or an empty one, there is nothing."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{host_of(server)}/api/v1/ws{path}", proxy=None)
    assert refused.value.response.status_code in {403, 404}


async def test_a_second_connection_replaces_the_first(server: Server) -> None:
    """The first is closed with 4509 and hears nothing else; other ids are other clients."""
    async with AsyncExitStack() as stack:

        async def enter(client_id: str) -> Peer:
            peer = await stack.enter_async_context(connected(server, client_id))
            await peer.hear("connection_ack")
            return peer

        other, first = await enter("twin%2F"), await enter("twin/")
        await subscribe(first, "stock.TWIN.1d")
        await first.hear("data")
        second = await enter("twin/")
        at = len(first.heard)
        assert await first.close_code() == 4509
        assert first.socket.close_reason == "client_id replaced"
        assert {message["type"] for message in first.heard[at:]} <= {"data"}
        assert await other.is_alive()
        assert await second.is_alive()
        assert {message["type"] for message in second.heard} == {"connection_ack", "pong"}
        await subscribe(second, "stock.TWIN.1d")
        assert (await second.hear("data"))["topic"] == "stock.TWIN.1d"


async def test_or_is_rejected(small_server: Server) -> None:
    """With HTTP 409; the first lives on, and once it has left the id is free."""
    async with connected(small_server, "twin") as first:
        for _again in range(2):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url_of(small_server, "twin"), proxy=None)
            assert refused.value.response.status_code == 409
        async with connected(small_server, "another"):
            assert await first.is_alive()
    async with asyncio.timeout(PATIENCE):
        while True:  # The server may not have noticed yet.
            try:
                async with connected(small_server, "twin") as again:
                    assert await again.is_alive()
                    break
            except InvalidStatus:
                await asyncio.sleep(0.01)


async def test_a_thousand_topics_and_no_more(server: Server) -> None:
    """The 1001st subscription fails, the others do not notice; nor does a thousand's owner."""
    async with connected(server, "collector") as peer, connected(server, "witness") as witness:
        await peer.hear("connection_ack")
        await subscribe(witness, "stock.WITNESS.1m")
        await witness.hear("data")
        for number in range(1001):
            await peer.say({"type": "subscribe", "topic": f"stock.{number}.1m"})
        answers = [json.loads(await frame_of(peer)) for _ in range(1001)]
        assert [a["topic"] for a in answers[:1000]] == [f"stock.{n}.1m" for n in range(1000)]
        assert {answer["type"] for answer in answers[:1000]} == {"subscribe_ack"}
        error = answers[1000]
        assert (error["error_code"], error["error_message"]) == (
            "subscription_failed",
            "订阅失败: stock.1000.1m",
        )
        await peer.say({"type": "unsubscribe", "topic": "stock.7.1m"})
        assert json.loads(await frame_of(peer))["type"] == "unsubscribe_ack"
        assert (await subscribe(peer, "stock.1000.1m"))["type"] == "subscribe_ack"
        assert await witness.is_alive()
        numbers = [data["seq"] for data in data_of(witness, "stock.WITNESS.1m")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_the_source_refuses_what_it_has_no_room_for(small_server: Server) -> None:
    """A topic too many fails until others are given up."""
    async with connected(small_server, "filler") as peer:
        await peer.hear("connection_ack")
        for topic in ("stock.A.1m", "stock.B.1m", "stock.C.1m", "stock.A.1m"):
            assert (await subscribe(peer, topic))["type"] == "subscribe_ack"
        refused = await subscribe(peer, "stock.D.1m")
        assert refused == {
            "type": "error",
            "error_code": "subscription_failed",
            "error_message": "订阅失败: stock.D.1m",
            "timestamp": refused["timestamp"],
        }
        await peer.say({"type": "unsubscribe", "topic": "stock.A.1m"})
        await frame_of(peer)
        async with asyncio.timeout(PATIENCE):
            while (await subscribe(peer, "stock.D.1m"))["type"] != "subscribe_ack":
                await peer.hear("data")
        await peer.hear("data", topic="stock.D.1m")


@pytest.mark.parametrize(
    ("frame", "is_text", "code"),
    [
        (b'{"type":"ping"}', False, 1003),
        (b'{"type":"ping","x":"\xff"}', True, 1007),
        (b'{"type":"ping","x":"' + b"a" * 65536 + b'"}', True, 1009),
    ],
    ids=["binary", "invalid UTF-8", "oversized"],
)
async def test_framing_faults_close_the_connection(
    server: Server, frame: bytes, is_text: bool, code: int
) -> None:
    """One's own only; whatever else is wrong is answered, see the scenes."""
    async with connected(server, f"broken {code}") as peer, connected(server, "sane") as witness:
        await peer.socket.send(frame, text=is_text)
        assert await peer.close_code() == code
        assert await witness.is_alive()


async def test_poison_is_an_invalid_message(server: Server) -> None:
    """Half characters, numbers that are none and endless nesting: refused, and nothing closes."""
    async with connected(server, "poisoner") as peer:
        await peer.hear("connection_ack")
        for frame in (
            '{"type":"subscribe","topic":"stock.\\ud800.1m"}',
            '{"type":"ping","x":NaN}',
            f'{{"type":"ping","x":{"[" * 30_000}{"]" * 30_000}}}',
            '{"type":"ping"}{"type":"ping"}',
        ):
            answer = await peer.ask(frame, "error")
            assert answer["error_code"] == "invalid_message"
            assert answer["error_message"].startswith("无效的消息格式: ")
        assert await peer.is_alive()


@pytest.mark.parametrize("origin", ["http://localhost:3000", "null", None], ids=str)
async def test_any_origin_may_connect(server: Server, origin: str | None) -> None:
    """A page of another port, a file, and what is no browser; no subprotocol is chosen."""
    async with connected(server, f"from {origin}", origin=origin) as peer:
        assert (await peer.next())["client_id"] == f"from {origin}"
        assert peer.socket.subprotocol is None


def test_silence_is_judged_below_the_messages() -> None:
    """The server sends no pings of its own and times nobody out: RFC 6455's keepalive is on."""
    endpoint = make_endpoint(Bus(), Source(1, Random(1)))

    assert (endpoint.heartbeat.interval, endpoint.heartbeat.timeout) == (None, None)
    assert uvicorn_options(endpoint)["ws_ping_interval"] == 20
    assert uvicorn_options(endpoint)["ws_ping_timeout"] == 20


async def test_the_test_page_is_served(server: Server) -> None:
    """As one file that fetches nothing."""
    with await asyncio.to_thread(urllib.request.urlopen, server.url) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        text = response.read().decode()

    assert text == (ROOT / "examples" / "chronoretrace.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', text) == []
