"""The client over HTTP: the same session, with streams, polls and requests below it."""

from __future__ import annotations

import gzip
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from tests.client.http_server import HttpServer
from tests.client.servers import (
    HOST,
    Latch,
    Proxy,
    Scripted,
    Server,
    scripted,
    through_proxy,
    wait_until,
)
from wsbus import Limits, Position
from wsbus.client import (
    Client,
    CommandError,
    ConnectError,
    ConnectionLost,
    Gap,
    Missed,
    PositionLost,
    Reconnecting,
    Retry,
    Unauthenticated,
    UsageError,
    connect,
    sync,
)
from wsbus.client._readings import NameStream, ReadingGroup, StartGiven, groups_of, texts_of
from wsbus.client.http import HttpWire
from wsbus.testing import FaultProxy

SOON: Final = Retry(base=0.01, cap=0.02)
LONG: Final = 40


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """Give a server that wants a token."""
    running = HttpServer()
    running.start()
    try:
        yield running
    finally:
        running.stop()


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[tuple[Client, Proxy, Latch]]:
    """Give a client behind a network that fails, the network, and the client's changes."""
    changes = Latch()
    defaults: dict[str, Any] = {
        "token": "ada",
        "way": "http",
        "retry": SOON,
        "on_change": changes,
        "close_timeout": 1,
    }
    async with through_proxy(server) as proxy, connect(proxy.url, **defaults | options) as client:
        with fail_after(LONG):
            yield client, proxy, changes


async def taken(events: Any, count: int) -> list[Any]:
    """Return the data of the next events."""
    return [(await anext(events)).data for _ in range(count)]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("token_in", ["message", "header", "subprotocol"])
async def test_all_that_a_client_does(server: HttpServer, token_in: str) -> None:
    """Events, commands with their errors, publications, history, presence."""
    async with connected(server, token_in=token_in) as (client, _, _):
        async with (
            client.subscribe("prices.*", dict[str, int]) as prices,
            client.subscribe("chat.room") as room,
        ):
            assert sorted(client.subscriptions) == ["chat.room", "prices.*"]
            server.publish("prices.a", {"n": 1})
            assert await taken(prices, 1) == [{"n": 1}]
            receipt = await client.publish("chat.room", "hello")
            assert receipt.position is not None
            assert await taken(room, 1) == ["hello"]
        assert await client.command("add", {"a": 2, "b": 3}) == 5
        with pytest.raises(CommandError, match="the shop is closed"):
            await client.command("refuse")
        page = await client.history("chat.room")
        assert [event.data for event in page.events] == ["hello"]
        assert (await client.presence("here.x")).count == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_nothing_is_lost_and_nothing_comes_twice(server: HttpServer) -> None:
    """Connections are cut at random, and the way changes; positions hold over all of them."""
    chance, count = random.Random(7), 300
    got: list[int] = []
    ways = ["http", "websocket", "either"]
    since: Position | None = None
    published = 0

    async def publish(proxy: Proxy) -> None:
        nonlocal published
        while published < count:
            server.publish("chat.room", published)
            published += 1
            if published % 40 == 0:
                proxy.cut()
            await checkpoint()

    for way in [*ways, *ways]:
        async with (
            connected(server, way=way) as (client, proxy, _),
            client.subscribe("chat.room", buffer=count, since=since) as events,
        ):
            since = since or events.position
            goal = min(count, len(got) + 50 + chance.randrange(10))
            async with create_task_group() as tasks:
                if not published:
                    tasks.start_soon(publish, proxy)
                while len(got) < goal:
                    event = await anext(events)
                    got.append(event.data)
                    since = event.position
    async with connected(server) as (client, _, _):
        assert since is not None
        async with client.subscribe("chat.room", buffer=count, since=since) as events:
            got += await taken(events, count - len(got))

    assert got == [*range(count)]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_quiet_name_takes_nothing_from_a_busy_one(server: HttpServer) -> None:
    """After a cut each name goes on where it was, however much the others have had since then."""
    async with (
        connected(server) as (client, proxy, changes),
        client.subscribe("chat.quiet") as quiet,
        client.subscribe("chat.busy", buffer=1000) as busy,
    ):
        server.publish("chat.busy", *range(400))
        assert await taken(busy, 400) == [*range(400)]
        proxy.cut()
        await changes.next(Reconnecting)
        server.publish("chat.quiet", "missed")
        server.publish("chat.busy", *range(400, 450))
        server.publish("chat.quiet", "last")

        events = [await anext(busy) for _ in range(50)]
        assert [event.data for event in events] == [*range(400, 450)]
        assert [event.gap for event in events] == [None] * 50
        assert await taken(quiet, 2) == ["missed", "last"]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_stream_that_is_held_back_is_polled(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has history comes in order and once, over polls as well."""
    monkeypatch.setattr("wsbus.client._readings.HELD_SECONDS", 0.2)
    server.holds_streams = True
    async with connected(server) as (client, _, _), client.subscribe("chat.*") as events:
        server.publish("chat.a", *range(5))
        assert await taken(events, 5) == [*range(5)]
        server.publish("chat.b", *range(5, 9))
        assert await taken(events, 4) == [5, 6, 7, 8]
        assert await client.command("add", {"a": 1, "b": 1}) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_where_no_websocket_gets_through(server: HttpServer) -> None:
    """HTTP is the second choice; who wants WebSockets only gets the error."""
    server.has_websockets = False
    async with connected(server, way="either") as (client, _, _):
        assert await client.command("add", {"a": 1, "b": 1}) == 2
    with pytest.raises(ConnectError, match="502"):
        async with connect(server.url, token="ada", retry=Retry(attempts=1)):
            pass


async def test_overlapping_subscriptions_bring_an_event_once(server: HttpServer) -> None:
    """Each subscription gets it, from one stream; those that are left go on."""
    async with (
        connected(server) as (client, _, _),
        client.subscribe("live.*") as wide,
    ):
        async with client.subscribe("live.a") as narrow:
            server.publish("live.a", 1)
            server.publish("live.b", 2)
            server.publish("live.a", 3)
            assert await taken(narrow, 2) == [1, 3]
            assert await taken(wide, 3) == [1, 2, 3]
        server.publish("live.a", 4)
        assert await taken(wide, 1) == [4]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("channel", ["live.a", "chat.a"])
@pytest.mark.parametrize("is_late", [0, 1], ids=["the wide one is late", "the narrow one is late"])
async def test_a_stream_goes_on_exactly_where_another_ends(
    server: HttpServer, channel: str, is_late: int
) -> None:
    """Of two streams that match a channel one is slow, and the first one ends."""
    async with (
        FaultProxy(HOST, server.port) as proxy,
        connect(f"ws://{HOST}:{proxy.port}/ws", token="ada", way="http") as client,
        AsyncExitStack() as stack,
    ):
        wide = await stack.enter_async_context(client.subscribe(f"{channel[:5]}*"))
        async with client.subscribe(channel) as narrow:
            slow = proxy.connections[is_late]
            slow.black_hole()
            server.publish(channel, 1, 2)
            if is_late:
                assert await taken(wide, 2) == await taken(narrow, 2) == [1, 2]
            else:
                await wait_until(lambda: _ahead(client) == 2)
            await stack.aclose()
            slow.heal()
            server.publish(channel, 3)
            expected = [3] if is_late else [1, 2, 3]
            assert await taken(narrow, len(expected)) == expected


def _ahead(client: Client) -> int:
    """Return how many events wait for an older stream."""
    wire = client._driver._wire
    assert isinstance(wire, HttpWire)
    return sum(len(reading.ahead) for reading in wire._readings)


async def test_positions_hold_or_are_refused(server: HttpServer) -> None:
    """A position that is lost is refused by name; others of the same client are not."""
    server.publish("chat.a", *range(3))
    server.publish("short.a", *range(9))
    async with connected(server) as (client, _, _):
        page = await client.history("chat.a")
        first = page.events[0].position
        old = (await client.history("short.a")).events[0].position
        assert first is not None
        assert old is not None
        lost = Position(old.epoch, 0)
        async with client.subscribe("chat.a", since=first) as events:
            assert await taken(events, 2) == [1, 2]
            with pytest.raises(PositionLost):
                async with client.subscribe("short.a", since=lost):
                    pass
            server.publish("chat.a", 3)
            assert await taken(events, 1) == [3]


async def test_a_gap_is_reported(server: HttpServer) -> None:
    """What has no history and was published during a cut is missing, and the client says so."""
    async with (
        connected(server) as (client, proxy, changes),
        client.subscribe("live.*") as events,
    ):
        server.publish("live.a", 1)
        assert await taken(events, 1) == [1]
        proxy.cut()
        await changes.next(Reconnecting)
        missed = await changes.next(Missed)
        assert isinstance(missed.gap, Gap)


async def test_a_token_that_is_refused(server: HttpServer) -> None:
    """It ends the client, at its first connection and later."""
    with pytest.raises(Unauthenticated, match="nobody knows this token"):
        async with connect(server.url, token="bad", token_in="header", way="http"):
            pass
    with pytest.raises(Unauthenticated):
        async with connect(server.url, way="http"):
            pass


async def test_a_token_that_expires_is_fetched_anew(server: HttpServer) -> None:
    """Streams end with the token that opened them, and go on with the next one."""
    fetched: list[str] = []

    def fetch() -> str:
        fetched.append(f"ada for {2.5 if not fetched else 60}")
        return fetched[-1]

    async with (
        connected(server, token=fetch, token_in="header") as (client, _, changes),
        client.subscribe("chat.*") as events,
    ):
        server.publish("chat.a", 1)
        assert await taken(events, 1) == [1]
        await changes.next(Reconnecting)
        server.publish("chat.a", 2)
        assert await taken(events, 1) == [2]
        assert len(fetched) >= 2


async def test_denied_names_are_refused_and_others_are_not(server: HttpServer) -> None:
    """Each name has its own answer."""
    async with (
        connected(server, token="guest 1") as (client, _, _),
        client.subscribe("public.a") as events,
    ):
        with pytest.raises(CommandError, match="secret"):
            async with client.subscribe("secret.a"):
                pass
        server.publish("public.a", 1)
        assert await taken(events, 1) == [1]


async def test_many_names_and_rates(server: HttpServer) -> None:
    """More names than one request may have; and a rate."""
    async with connected(server) as (client, _, _), client.subscribe("fast.x", max_rate=5) as fast:
        for n in range(50):
            server.publish("fast.x", n)
        assert (await taken(fast, 1))[0] in range(50)
        last = None
        while last != 49:
            (last,) = await taken(fast, 1)
    assert len(groups_of([f"c.{n}" for n in range(120)], {}, {})) == 3


async def test_long_names_fit_into_addresses(server: HttpServer) -> None:
    """As many as the endpoint allows, of 255 bytes that take three characters each."""
    names = [f"{n}{'é' * 125}" for n in range(40)]
    async with connected(server) as (client, _, _), AsyncExitStack() as stack:
        every = [await stack.enter_async_context(client.subscribe(name)) for name in names]
        for name, events in zip(names, every, strict=True):
            server.publish(name, name)
            assert await taken(events, 1) == [name]
    for group in groups_of(names, {}, {}):
        assert len(urlencode([("channel", name) for name in group.names])) <= 4096


async def test_a_server_without_http_is_named() -> None:
    """The error says what is missing there."""
    server = Server()
    server.start()
    try:
        with pytest.raises(ConnectError, match="closed the connection before it had answered"):
            async with connect(server.url, token="ada", way="http", retry=Retry(attempts=1)):
                pass
    finally:
        server.stop()


async def test_nothing_listens() -> None:
    """The error is the one of a WebSocket."""
    with pytest.raises(ConnectError, match="nothing listens at"):
        async with connect("ws://127.0.0.1:9/ws", way="http", retry=Retry(attempts=1, base=0.01)):
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"way": "pigeon"}, "way must be one of"),
        ({"way": "http", "protocol": "zigquant-v2"}, "HTTP carries wsbus.v1, not zigquant-v2"),
        ({"way": "either", "protocol": "wsbus.v1.msgpack"}, "HTTP carries wsbus.v1"),
    ],
)
def test_wrong_ways_are_refused(options: dict[str, Any], words: str) -> None:
    """By the call itself."""
    with pytest.raises(UsageError, match=words):
        connect("ws://localhost/ws", **options)


def test_the_sync_client_speaks_http(server: HttpServer) -> None:
    """With the same option."""
    with (
        sync.connect(server.url, token="ada", way="http") as client,
        client.subscribe("chat.*") as events,
    ):
        client.publish("chat.a", 7)
        assert events.get(timeout=10).data == 7


async def test_a_server_that_is_full(server: HttpServer) -> None:
    """Requests over the rate are sent again, as over a WebSocket."""
    server.stop()
    slow = HttpServer(limits=Limits(commands_per_second=5))
    slow.start()
    try:
        async with connected(slow) as (client, _, _):
            found: list[Any] = []

            async def ask(n: int) -> None:
                found.append(await client.command("add", {"a": n, "b": 0}))

            async with create_task_group() as tasks:
                for n in range(8):
                    tasks.start_soon(ask, n)
            assert sorted(found) == [*range(8)]
    finally:
        slow.stop()


@pytest.mark.parametrize("token_in", ["message", "header", "query"])
async def test_no_log_has_the_token(token_in: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not httpx's, either, which has the address of each request."""
    caplog.set_level(logging.DEBUG)
    server = HttpServer(query_token="token")
    server.start()
    try:
        async with (
            connect(f"{server.url}?x=1", token="s3cr3t", token_in=token_in, way="http") as client,
            client.subscribe("chat.*") as events,
        ):
            await client.publish("chat.a", 7)
            assert (await anext(events)).data == 7
    finally:
        server.stop()
    assert "/ws/requests" in caplog.text
    assert "s3cr3t" not in caplog.text


# --- servers that misbehave ----------------------------------------------------------------------

PONG: Final = b'{"type":"pong","data":{}}'
NEST: Final = b"[" * 100_000 + b"]" * 100_000
BOMB: Final = gzip.compress(b"0" * 50_000_000)


def answer(body: bytes, *more: str, status: int = 200) -> bytes:
    """Return an answer of HTTP."""
    head = (f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *more, "", "")
    return "\r\n".join(head).encode() + body


def stream(*messages: bytes, more: str = "") -> bytes:
    """Return an event stream that does not end."""
    head = f"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\n{more}\r\n".encode()
    return head + b"".join(b"data: " + message + b"\n\n" for message in messages)


@asynccontextmanager
async def misbehaving(*, posts: bytes = b"", streams: bytes = b"") -> AsyncIterator[str]:
    """Serve answers as they are: a pong to a ping, one to other requests, one to streams."""

    async def script(peer: Scripted) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await peer.stream.receive()
        if not head.startswith(b"POST"):
            await peer.stream.send(streams)
            await peer.silence()
        while not head.endswith(b"}"):
            head += await peer.stream.receive()
        is_ping = head.endswith(b'"ping"}')
        await peer.stream.send(answer(PONG, "connection: close") if is_ping else posts)

    async with scripted(script) as url:
        yield url


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param(stream(message), id=str(n))
        for n, message in enumerate(
            [
                b'{"type":"subscribed","data":{"channels":["a..b"]}}',
                b'{"type":"subscribed","data":{"channels":[1]}}',
                b'{"type":"subscribed","data":{"channels":["a"],"positions":[{"channel":[]}]}}',
                b'{"type":"subscribed","data":{"channels":["a"],"positions":[{"offset":"1"}]}}',
            ]
        )
    ]
    + [
        pytest.param(stream(BOMB, more="content-encoding: gzip\r\n"), id="compressed"),
        pytest.param(answer(b"[" * (5 << 20), status=500), id="an error without end"),
    ],
)
async def test_a_stream_that_makes_no_sense_ends_the_connection(streams: bytes) -> None:
    """The client comes again, as after any other end; it does not fail."""
    changes = Latch()
    async with (
        misbehaving(streams=streams) as url,
        connect(url, way="http", retry=Retry(base=60, cap=60), on_change=changes) as client,
        create_task_group() as tasks,
    ):
        tasks.start_soon(client.subscribe("a").__aenter__)
        change = await changes.next(Reconnecting)
        tasks.cancel_scope.cancel()
    assert "close code 1006" in str(change.error)


@pytest.mark.parametrize(
    ("posts", "words"),
    [
        pytest.param(answer(b'{"a":' + NEST + b"}"), "RecursionError", id="nested"),
        pytest.param(answer(b"null"), "ValidationError", id="null"),
        pytest.param(answer(b"<html>", status=502), "DecodeError", id="page"),
        pytest.param(
            answer(BOMB, "content-encoding: gzip"), "compressed, though nothing asked", id="bomb"
        ),
        pytest.param(answer(b"1" * (5 << 20)), "larger than 4194304 bytes", id="endless"),
    ],
)
async def test_an_answer_that_makes_no_sense_ends_the_connection(posts: bytes, words: str) -> None:
    """The request may have been carried out; the client does not fail, and keeps its memory."""
    changes = Latch()
    async with (
        misbehaving(posts=posts) as url,
        connect(url, way="http", retry=Retry(base=60, cap=60), on_change=changes) as client,
    ):
        with pytest.raises(ConnectionLost, match=words):
            await client.command("add", {}, timeout=20)


async def test_a_header_that_is_not_ascii() -> None:
    """It goes out in UTF-8, as over a WebSocket."""
    async with (
        misbehaving(posts=answer(b'{"type":"result","data":5}')) as url,
        connect(url, way="http", headers={"X-Name": "Jürgen"}) as client,
    ):
        assert client.is_connected


@pytest.mark.parametrize("token_in", ["message", "header", "subprotocol"])
async def test_a_token_that_no_header_carries(server: HttpServer, token_in: Any) -> None:
    """The error says so; the client does not fail."""
    with pytest.raises((Unauthenticated, UsageError), match="a token in a header is printable"):
        async with connect(server.url, token="a\nb", token_in=token_in, way="http"):
            pass


# --- the pure part -------------------------------------------------------------------------------


def test_groups_share_streams_by_epoch_rate_and_strictness() -> None:
    """A position that must hold stands alone; the others begin at the first of theirs."""
    starts = {
        "a": StartGiven("e", 5),
        "b": StartGiven("e", 3),
        "c": StartGiven("f", 9),
        "d": StartGiven("e", 1, strict=True),
    }
    groups = groups_of(["a", "b", "c", "d", "x", "y", "x"], starts, {"y": 2.0})

    assert [list(group.names) for group in groups] == [["a", "b"], ["c"], ["d"], ["x"], ["y"]]
    assert [group.first and group.first.offset for group in groups] == [3, 9, 1, None, None]
    assert groups[-1].max_rate == 2.0


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_found_however_the_bytes_arrive(size: int) -> None:
    """Comments and fields of no use are skipped; positions are noted."""
    stream = (
        ': ping\n\nretry: 5\ndata: {"type":"connected"}\n\n'
        'id: 1.e.4\ndata: {"type":"event","channel":"ä"}\n\n: ping\n\ndata: 1\n\n'
    ).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(stream), size):
            yield stream[at : at + size]

    reading = NameStream(ReadingGroup({"a": None}, None))
    texts = [text async for text in texts_of(chunks(), reading, 1000)]

    assert [msgspec.json.decode(text) for text in texts] == [
        {"type": "connected"},
        {"type": "event", "channel": "ä"},
        1,
    ]
    assert reading.query() == [("channel", "a"), ("since", "1.e.4")]
