"""A bus over HTTP: event streams, long polls and single requests, on every framework."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import httpx
import pytest
from aiohttp import web
from anyio import (
    BrokenResourceError,
    Event,
    aclose_forcefully,
    connect_tcp,
    create_task_group,
    fail_after,
)
from fastapi import FastAPI
from starlette.applications import Starlette

from tests.adapters.serving import client, receive, serving, subscribe
from tests.adapters.wanderer import wander
from wsbus import (
    Bus,
    CommandError,
    Connection,
    Grants,
    History,
    Identity,
    Limits,
    Presence,
    Unauthenticated,
)
from wsbus.adapters import aiohttp, asgi, fastapi, starlette
from wsbus.adapters.uvicorn import uvicorn_options

Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[int]]
JSON: Final = {"Content-Type": "application/json"}
ALL: Final = Grants.of(subscribe=["*"], publish=["*"], command=["*"], history=["*"], presence=["*"])


@asynccontextmanager
async def on_asgi(bus: Bus, **settings: Any) -> AsyncIterator[int]:
    """Serve on plain ASGI."""
    async with serving(asgi.app(bus.endpoint(**settings))) as (port, _):
        yield port


@asynccontextmanager
async def on_starlette(bus: Bus, **settings: Any) -> AsyncIterator[int]:
    """Serve on Starlette."""
    endpoint = bus.endpoint(**settings)
    routes = [starlette.websocket_route("/ws", endpoint), *starlette.http_routes("/ws", endpoint)]
    async with serving(Starlette(routes=routes, lifespan=starlette.lifespan(bus))) as (port, _):
        yield port


@asynccontextmanager
async def on_fastapi(bus: Bus, **settings: Any) -> AsyncIterator[int]:
    """Serve on FastAPI."""
    app = FastAPI()
    fastapi.mount(app, "/ws", bus.endpoint(**settings))
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(bus: Bus, **settings: Any) -> AsyncIterator[int]:
    """Serve on aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", bus.endpoint(**settings))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


SERVERS: Final = [on_asgi, on_starlette, on_fastapi, on_aiohttp]


@pytest.fixture(params=SERVERS, ids=lambda serve: serve.__name__)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


def a_bus(**settings: Any) -> Bus:
    """Return a bus whose channels below ``news`` keep history."""
    bus = Bus(**settings)
    bus.family("news.*", history=History())
    return bus


class Stream:
    """Events of a stream, as a browser's ``EventSource`` reads them (HTML, section 9.2.6)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ""
        self.retry: int | None = None
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        data: list[str] = []
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if not line and data:
                message: dict[str, Any] = json.loads("\n".join(data))
                return message
            if field == "data":
                data.append(value)
            elif field == "id":
                self.last_id = value
            elif field == "retry":
                self.retry = int(value)
        raise EOFError

    async def until(self, kind: str) -> dict[str, Any]:
        while (message := await self.next())["type"] != kind:
            pass
        return message


@asynccontextmanager
async def web_client(port: int) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, timeout=10, trust_env=False) as http:
        yield http


@asynccontextmanager
async def events(
    port: int, query: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    async with (
        web_client(port) as http,
        http.stream("GET", f"/ws/events?{query}", headers=headers or {}) as response,
    ):
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


async def test_events(serve: Serve) -> None:
    """A stream is ``connected``, ``subscribed`` and events, as a WebSocket would get them."""
    bus = a_bus()
    async with serve(bus) as port, events(port, "channels=news.a,other&channels=x.*") as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert "connection" not in headers
        assert (await stream.next())["type"] == "connected"
        subscribed = await stream.next()
        assert subscribed["data"]["channels"] == ["news.a", "other", "x.*"]
        begun = stream.last_id
        await bus.publish("x.y", {"n": 1})
        assert (await stream.next())["channel"] == "x.y"
        assert stream.last_id == begun  # It is not kept, and so moves no position.
        await bus.publish("news.a", {"n": 2})
        async with client(port) as peer:
            await subscribe(peer, "news.a")
            await bus.publish("news.a", {"n": 3})
            assert (await stream.next())["data"] == {"n": 2}
            assert await stream.next() == await receive(peer)
        assert stream.last_id != begun


async def test_resumes(serve: Serve) -> None:
    """``Last-Event-ID`` brings what came after it, once and in order; it wins over ``since``."""
    bus = a_bus()
    async with serve(bus) as port:
        async with events(port, "channels=news.*") as stream:
            await stream.until("subscribed")
            first = stream.last_id
            await bus.publish("news.a", 1)
            assert (await stream.next())["data"] == 1
            second = stream.last_id
        for number in range(2, 5):
            await bus.publish("news.b", number)
        for query, headers, expected in (
            ("", {"Last-Event-ID": second}, [2, 3, 4]),
            (f"&since={second}", {}, [2, 3, 4]),
            (f"&since={second}", {"Last-Event-ID": first}, [1, 2, 3, 4]),
        ):
            async with events(port, f"channels=news.*{query}", headers) as stream:
                subscribed = await stream.until("subscribed")
                assert subscribed["data"]["positions"][0]["recovered"] is True
                assert [(await stream.until("event"))["data"] for _ in expected] == expected


async def test_a_lost_position_is_a_gap(serve: Serve) -> None:
    """A position of another epoch is a gap at the beginning, or 409 for who wants all."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http:
        async with events(port, "channels=news.a&since=1.another.5") as stream:
            kinds = [(await stream.next())["type"] for _ in range(3)]
            assert kinds == ["connected", "gap", "subscribed"]
            assert stream.last_id.startswith("1.")
            assert "another" not in stream.last_id
        answer = await http.get("/ws/events?channels=news.a&since=1.another.5&strict=1")
        assert (answer.status_code, answer.json()["code"]) == (409, "POSITION_LOST")
        answer = await http.get("/ws/poll?channels=news.a&since=1.another.5")
        assert [each["type"] for each in answer.json()["messages"]] == ["gap"]


async def test_polls(serve: Serve) -> None:
    """A poll answers at once with what was missed, else with what comes, else when it is over."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http:
        first = (await http.get("/ws/poll?channels=news.*,other")).json()
        assert [each["type"] for each in first["messages"]] == ["subscribed"]
        for number in range(5):
            await bus.publish("news.a", number)
        path, since = "/ws/poll?channels=news.*,other", first["position"]
        missed = (await http.get(f"{path}&since={since}")).json()
        assert [each["data"] for each in missed["messages"]] == [0, 1, 2, 3, 4]
        part = (await http.get(f"{path}&since={since}&limit=2")).json()
        assert [each["data"] for each in part["messages"]] == [0, 1]
        rest = (await http.get(f"{path}&since={part['position']}")).json()
        assert [each["data"] for each in rest["messages"]] == [2, 3, 4]
        assert rest["position"] == missed["position"]
        quiet = (await http.get(f"{path}&since={rest['position']}&wait=0")).json()
        assert quiet == {"position": rest["position"], "messages": []}
        answers: list[Any] = []

        async def poll() -> None:
            answers.append((await http.get(f"{path}&since={rest['position']}")).json())

        waits = Event()

        @bus.on_subscribe
        def note(_connection: Connection, pattern: str) -> None:
            if pattern == "other":
                waits.set()

        async with create_task_group() as tasks:
            tasks.start_soon(poll)
            await waits.wait()
            await bus.publish("news.a", 5)
        assert [each["data"] for each in answers[0]["messages"]] == [5]


async def test_polls_say_once_what_is_lost(serve: Serve) -> None:
    """With a quiet name beside the one that lost something, the next poll waits and goes on."""
    bus = a_bus()
    bus.family("short.*", history=History(size=2))
    async with serve(bus) as port, web_client(port) as http:
        path = "/ws/poll?channels=short.a,news.a&wait=0"
        since = (await http.get(path)).json()["position"]
        for number in range(5):
            await bus.publish("short.a", number)
        lost = (await http.get(f"{path}&since={since}")).json()
        assert [each["type"] for each in lost["messages"]] == ["gap"]
        since = lost["position"]
        assert (await http.get(f"{path}&since={since}")).json()["messages"] == []
        await bus.publish("news.a", "next")
        news = (await http.get(f"{path}&since={since}")).json()
        assert [each.get("data") for each in news["messages"]] == ["next"]


async def test_polls_of_a_pattern_that_is_kept_in_part_wait(serve: Serve) -> None:
    """What is never kept is lost between two polls without a gap; what is kept comes."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http:
        since = (await http.get("/ws/poll?channels=*&wait=0")).json()["position"]
        path = f"/ws/poll?channels=*&since={since}&wait=0"
        assert (await http.get(path)).json() == {"position": since, "messages": []}
        await bus.publish("other", "not kept")
        await bus.publish("news.a", "kept")
        kept = (await http.get(path)).json()
        assert [each.get("data") for each in kept["messages"]] == ["kept"]


async def post(http: httpx.AsyncClient, request: object, **headers: str) -> httpx.Response:
    content = request if isinstance(request, str) else json.dumps(request)
    return await http.post("/ws/requests", content=content, headers={**JSON, **headers})


async def test_posts(serve: Serve) -> None:
    """A ``POST`` is answered like a request on a socket; an error has the status of its code."""
    bus = a_bus(authorize=lambda identity, action, name: name != "secret")
    bus.family("room.*", presence=Presence())

    @bus.command("add")
    async def add(a: int, b: int, connection: Connection) -> int:
        assert connection.handshake.path.endswith("/requests")
        return a + b

    @bus.command("join")
    def join(connection: Connection) -> None:
        connection.subscribe("news.a")

    @bus.command("fail")
    def fail() -> None:
        raise CommandError("NO_LUCK", "not today")

    async with serve(bus, anonymous=ALL) as port, web_client(port) as http:
        for request, status, found in (
            ({"type": "ping", "id": "7"}, 200, {"type": "pong", "id": "7"}),
            ({"type": "publish", "channel": "news.a", "data": [1]}, 200, {"success": True}),
            ({"type": "publish", "channel": "secret", "data": 1}, 403, {"type": "error"}),
            ({"type": "publish", "channel": "a.*", "data": 1}, 400, {"type": "error"}),
            ({"type": "command", "action": "add", "params": {"a": 1, "b": 2}}, 200, {"data": 3}),
            ({"type": "command", "action": "add", "params": {"a": 1}}, 400, {"type": "error"}),
            ({"type": "command", "id": "x", "action": "no"}, 404, {"id": "x", "success": False}),
            ({"type": "command", "action": "join"}, 400, {"type": "error"}),
            ({"type": "command", "action": "fail"}, 400, {"type": "error"}),
            ({"type": "history", "channel": "news.a"}, 200, {"type": "history"}),
            ({"type": "history", "channel": "other"}, 404, {"type": "error"}),
            ({"type": "presence", "channel": "room.1"}, 200, {"type": "presence"}),
            ({"type": "presence", "channel": "room.1", "watch": True}, 400, {"type": "error"}),
            ({"type": "subscribe", "channels": ["a"]}, 400, {"type": "error"}),
            ({"type": "nothing"}, 400, {"type": "error"}),
            ("[", 400, {"type": "error"}),
            ('{"type":"ping",\n"id":"1"}\n', 200, {"id": "1"}),
        ):
            answer = await post(http, request)
            assert answer.status_code == status, (request, answer.text)
            message = answer.json()
            assert {key: message.get(key) for key in found} == found
            assert answer.headers["cache-control"] == "no-store"
        history = (await post(http, {"type": "history", "channel": "news.a"})).json()
        assert [each["data"] for each in history["data"]["events"]] == [[1]]


async def test_a_repeated_post_is_published_once(serve: Serve) -> None:
    """The idempotency key of a ``POST`` works as on a socket."""
    bus = a_bus()
    request = {"type": "publish", "channel": "news.a", "data": 1, "idempotency_key": "k"}
    async with serve(bus, anonymous=ALL) as port, web_client(port) as http:
        first = (await post(http, request)).json()
        again = (await post(http, request | {"retry": True})).json()
        assert first["data"]["position"] == again["data"]["position"]
        history = (await post(http, {"type": "history", "channel": "news.a"})).json()
        assert len(history["data"]["events"]) == 1


async def test_rates_of_posts(serve: Serve) -> None:
    """Requests of one identity share a rate, however many sockets they come by."""
    bus = a_bus()

    @bus.command("act")
    def act() -> int:
        return 1

    call = {"type": "command", "id": "1", "action": "act"}
    for limits in (Limits(messages_per_second=0.01), Limits(commands_per_second=0.01)):
        async with serve(bus, limits=limits, anonymous=ALL) as port:
            for expected in (200, 429):
                async with web_client(port) as http:
                    answer = await post(http, call)
                    assert answer.status_code == expected
                    assert answer.json()["id"] == "1"
                    is_refused = answer.json().get("error", {}).get("code") == "RATE_LIMITED"
                    assert is_refused == ("retry-after" in answer.headers) == (expected == 429)


def judged(token: str | None, _handshake: object) -> Identity:
    if token != "let-me-in":
        raise Unauthenticated("no")
    return Identity("ann", Grants.of(subscribe=["news.*"], publish=["news.*"]))


async def test_authenticates(serve: Serve) -> None:
    """A header or a cookie identifies readers and requests; the grants are the same."""
    bus = a_bus()
    async with (
        serve(bus, authenticator=judged, cookie_token="session") as port,
        web_client(port) as http,
    ):
        bearer = {"Authorization": "Bearer let-me-in"}
        for headers in (bearer, {"Cookie": "session=let-me-in"}):
            async with events(port, "channels=news.a,secret", headers) as stream:
                assert (await stream.next())["data"]["subject"] == "ann"
                subscribed = await stream.next()
                assert subscribed["data"]["channels"] == ["news.a"]
                assert [each["code"] for each in subscribed["data"]["rejected"]] == ["FORBIDDEN"]
            ping = await post(http, {"type": "ping"}, **headers)
            assert ping.status_code == 200
        for path in ("events?channels=news.a", "poll?channels=news.a"):
            answer = await http.get(f"/ws/{path}")
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
            answer = await http.get(f"/ws/{path.replace('news.a', 'secret')}", headers=bearer)
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        assert (await post(http, {"type": "ping"})).status_code == 401
        publish = {"type": "publish", "channel": "secret", "data": 1}
        assert (await post(http, publish, **bearer)).status_code == 403


async def test_origins(serve: Serve) -> None:
    """Pages of the listed origins may read; those of others get 403, with a cookie or without."""
    good, bad = "https://example.com", "https://evil.example"
    bus = a_bus()
    cookie = {"Cookie": "session=let-me-in"}
    async with (
        serve(bus, authenticator=judged, cookie_token="session", origins=[good]) as port,
        web_client(port) as http,
    ):
        preflight = {"Origin": good, "Access-Control-Request-Method": "POST"}
        answer = await http.options("/ws/requests", headers=preflight)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == good
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "content-type" in answer.headers["access-control-allow-headers"]
        refused = await http.options("/ws/requests", headers=preflight | {"Origin": bad})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        ping = {"type": "ping"}
        answer = await post(http, ping, Origin=good, **cookie)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == good
        assert answer.headers["vary"] == "Origin"
        for headers in ({"Origin": bad}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await post(http, ping, **headers, **cookie)).status_code == 403
            for path in ("events", "poll"):
                answer = await http.get(f"/ws/{path}?channels=news.a", headers=headers | cookie)
                assert answer.status_code == 403
                assert answer.json()["type"] == "error"


async def test_bad_requests(serve: Serve) -> None:
    """What cannot be read is answered with a status and a reason in JSON; others are unaffected."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http, events(port, "channels=a") as stream:
        await stream.until("subscribed")
        many = ",".join(f"c{number}" for number in range(10_000))
        long = ",".join(f"c{number}" for number in range(200))
        for path, headers, statuses in (
            ("events", {}, {400}),
            ("events?channels=", {}, {400}),
            (f"events?channels={long}", {}, {400}),
            (f"poll?channels={many}", {}, {414, 431, 400}),
            ("events?channels=a", {"Last-Event-ID": "what?"}, {400}),
            ("events?channels=a", {"Last-Event-ID": "1.e.99999999999999999999"}, {400}),
            ("events?channels=a", {"Last-Event-ID": "2.e.1"}, {400}),
            ("events?channels=a", {"Last-Event-ID": "1." + "e" * 500 + ".1"}, {400}),
            ("events?channels=a&strict=maybe", {}, {400}),
            ("poll?channels=a&wait=long", {}, {400}),
            ("poll?channels=a&wait=nan", {}, {400}),
            ("poll?channels=a&limit=0", {}, {400}),
            ("poll?channels=a..b", {}, {400}),
        ):
            answer = await http.get(f"/ws/{path}", headers=headers)
            assert answer.status_code in statuses, (path[:50], answer.text)
            if answer.status_code == 400 and many not in path:  # Or aiohttp itself refuses it.
                assert answer.json()["type"] == "error"
                assert answer.json()["message"]
        assert (await http.get("/ws/requests")).status_code == 405
        assert (await http.post("/ws/events?channels=a")).status_code == 405
        ping = '{"type":"ping"}'
        for kind, status in (("text/plain", 415), ("", 415), ("application/json; charset=x", 415)):
            answer = await http.post("/ws/requests", content=ping, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["type"]) == (status, "error")
        assert (await post(http, '"' + "x" * 70_000 + '"')).status_code == 413
        assert (await http.post("/ws/requests", content=b"\xff", headers=JSON)).status_code == 400
        half = await connect_tcp("127.0.0.1", port)
        await half.send(
            b"POST /ws/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 50\r\n\r\n{"type":"publish"'
        )
        await half.aclose()
        await bus.publish("a", "still here")
        assert (await stream.next())["data"] == "still here"


async def test_connections_are_counted(serve: Serve) -> None:
    """Readers take places like sockets, and give them back."""
    bus = a_bus()
    left = Event()

    @bus.on_disconnect
    def note(_connection: Connection) -> None:
        left.set()

    async with serve(bus, limits=Limits(max_connections=1)) as port, web_client(port) as http:
        async with events(port, "channels=news.a") as stream:
            await stream.until("subscribed")
            answer = await http.get("/ws/poll?channels=news.a")
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        await left.wait()
        assert (await http.get("/ws/poll?channels=news.a")).status_code == 200


async def test_the_end_is_told(serve: Serve) -> None:
    """A drained or disconnected reader gets one last message with the code, and the end."""
    bus = a_bus()
    async with serve(bus) as port, events(port, "channels=news.a") as stream:
        await stream.until("subscribed")
        await bus.aclose(deadline=5)
        close = await stream.until("close")
        assert close["code"] == 1001
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_reader_that_reads_nothing_is_cut_off(serve: Serve) -> None:
    """A reader that takes nothing for the write deadline is gone; the others lose nothing."""
    bus = a_bus()
    gone, there = Event(), Event()

    @bus.on_disconnect
    def note(_connection: Connection) -> None:
        gone.set()

    @bus.on_subscribe
    def begin(_connection: Connection, pattern: str) -> None:
        if pattern == "big":
            there.set()

    async with serve(bus, limits=Limits(write_deadline=0.5, queue_messages=10)) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"GET /ws/events?channels=big HTTP/1.1\r\nHost: x\r\n\r\n")
        with fail_after(20):
            await there.wait()
            while not gone.is_set():
                await bus.publish("big", "x" * 65_536)
        await stream.aclose()


@pytest.mark.parametrize("seed", [1])
async def test_one_position_for_every_way(serve: Serve, seed: int) -> None:
    """A reader that is cut at any byte and changes its way at random gets everything, once."""
    bus = Bus()
    bus.family("run.*", history=History(size=1000))
    async with serve(bus) as port:
        reader = await wander(bus, port, seed)
    assert reader.seen == list(range(1000))
    assert len(reader.ways) == 3


async def test_many_channels_are_resumed_at_one_position(serve: Serve) -> None:
    """A reader of more channels than a socket may recover at once loses nothing either."""
    bus = a_bus()
    query = "channels=" + ",".join(f"news.{number}" for number in range(100))
    async with serve(bus) as port:
        async with events(port, query) as stream:
            await stream.until("subscribed")
            since = stream.last_id
        for number in range(200):
            await bus.publish(f"news.{number % 100}", number)
        async with events(port, query, {"Last-Event-ID": since}) as stream:
            for number in range(200):
                message = await stream.next()
                while message["type"] in {"connected", "subscribed"}:
                    message = await stream.next()
                assert (message["type"], message["data"]) == ("event", number)


@asynccontextmanager
async def on_our_uvicorn(bus: Bus, **settings: Any) -> AsyncIterator[int]:
    """Serve on uvicorn with the options that wsbus recommends."""
    endpoint = bus.endpoint(**settings)
    options = {**uvicorn_options(endpoint), "log_config": None}
    async with serving(asgi.app(endpoint), **options) as (port, _):
        yield port


@pytest.mark.parametrize("serve", [on_our_uvicorn, on_aiohttp], ids=["uvicorn", "aiohttp"])
async def test_the_socket_of_a_stuck_reader_is_freed(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the adapter has the socket, a reader that takes nothing is reset."""
    bus, gone, there = a_bus(), Event(), Event()
    bus.on_disconnect(lambda _connection: gone.set())
    bus.on_subscribe(lambda _connection, _pattern: there.set())
    async with serve(bus, limits=Limits(write_deadline=0.5, queue_messages=10)) as port:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"GET /ws/events?channels=big HTTP/1.1\r\nHost: x\r\n\r\n")
        with fail_after(20):
            await there.wait()
            while not gone.is_set():
                await bus.publish("big", "x" * 65_536)
            with pytest.raises(BrokenResourceError):  # noqa: PT012  # not a regular end
                while await stream.receive():
                    pass
        await stream.aclose()
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("more", [0, 1, 30])
async def test_a_client_that_leaves_behind_many_requests_is_gone(more: int) -> None:
    """Requests that wait for the end of a stream do not keep it: its place is free again."""
    async with Bus() as bus:
        endpoint = bus.endpoint(anonymous=ALL, limits=Limits(max_connections=1))
        async with serving(asgi.app(endpoint), **uvicorn_options(endpoint)) as (port, _):
            stream = await connect_tcp("127.0.0.1", port)
            request = f"GET /ws/events?channels=a HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            await stream.send(request.encode() * (more + 1))
            with fail_after(20):
                await stream.receive()
                await aclose_forcefully(stream)
                while bus.connections():
                    await bus.publish("a", 1)  # What is written shows that it is gone.
