"""Publishing over HTTP, by programs that know no wsbus."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import pytest
from aiohttp import ClientSession, web
from anyio import connect_tcp, fail_after
from fastapi import Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection

from tests.adapters.serving import client, receive, serving, subscribe
from wsbus import Bus, UsageError
from wsbus.adapters import aiohttp, asgi, fastapi, starlette
from wsbus.brokers import broker_of

TOKEN: Final = "0123456789abcdef"
NEXT: Final = "the-token-after-it"
PATH: Final = "/-/publish"
HEADERS: Final = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

Serve: TypeAlias = Callable[[Bus], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def on_asgi(bus: Bus) -> AsyncIterator[int]:
    """Serve on plain ASGI."""
    publish, sockets = asgi.publish_app(bus, token=[NEXT, TOKEN]), asgi.app(bus)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (publish if scope["type"] == "http" else sockets)(scope, receive, send)

    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_starlette(bus: Bus) -> AsyncIterator[int]:
    """Serve on Starlette."""
    routes = [
        starlette.websocket_route("/ws", bus),
        starlette.publish_route(bus, token=[NEXT, TOKEN]),
    ]
    async with serving(Starlette(routes=routes, lifespan=starlette.lifespan(bus))) as (port, _):
        yield port


@asynccontextmanager
async def on_fastapi(bus: Bus) -> AsyncIterator[int]:
    """Serve on FastAPI."""
    app = FastAPI()
    fastapi.mount(app, "/ws", bus)
    fastapi.mount_publish(app, bus, token=[NEXT, TOKEN])
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(bus: Bus) -> AsyncIterator[int]:
    """Serve on aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", bus)
    aiohttp.add_publish_route(app, bus, token=[NEXT, TOKEN])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(
    params=[on_asgi, on_starlette, on_fastapi, on_aiohttp],
    ids=["asgi", "starlette", "fastapi", "aiohttp"],
)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run a test on each framework."""
    found: Serve = request.param
    return found


Post: TypeAlias = Callable[..., Awaitable[tuple[int, Any, Any]]]


@pytest.fixture
async def bus() -> Bus:
    """Give a bus."""
    return Bus()


@pytest.fixture
async def port(serve: Serve, bus: Bus) -> AsyncIterator[int]:
    """Give the port at which it is served."""
    async with serve(bus) as found:
        yield found


@pytest.fixture
async def post(port: int) -> AsyncIterator[Post]:
    """Give a function that posts a body and returns status, headers and the JSON of the answer."""
    async with ClientSession() as session:

        async def ask(body: Any, method: str = "POST", **headers: Any) -> tuple[int, Any, Any]:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given = {**HEADERS, **{name.replace("_", "-"): v for name, v in headers.items()}}
            given = {name: value for name, value in given.items() if value is not None}
            url = f"http://127.0.0.1:{port}{PATH}"
            skipped = ["Content-Type"] if given.get("Content-Type") is None else []
            async with session.request(
                method, url, data=data, headers=given, skip_auto_headers=skipped
            ) as answer:
                assert answer.content_type == "application/json"
                assert answer.headers["Cache-Control"] == "no-store"
                return answer.status, answer.headers, await answer.json()

        yield ask


pytestmark = pytest.mark.anyio


async def hear(peer: ClientConnection, count: int) -> list[Any]:
    """Return the next messages, of which a frame may hold several."""
    found: list[Any] = []
    while len(found) < count:
        found += [json.loads(line) for line in str(await peer.recv()).split("\n")]
    assert len(found) == count
    return found


async def test_what_is_posted_is_published(bus: Bus, port: int, post: Post) -> None:
    """One publication or several reach the subscribers in order; the answer has the receipts."""
    async with client(port) as peer:
        await subscribe(peer, "t.*")
        assert (await post({"channel": "t.a", "data": {"n": "贵"}, "event": "paid"}))[::2] == (
            200,
            {"receipts": [{"matched": 1, "accepted": 1}]},
        )
        (first,) = await hear(peer, 1)
        many = [{"channel": "t.b", "data": n} for n in range(3)] + [{"channel": "u"}]
        status, _, answer = await post({"publications": many}, Authorization=f"bearer {NEXT}")
        assert status == 200
        assert [each["matched"] for each in answer["receipts"]] == [1, 1, 1, 0]
        assert (first["channel"], first["event"], first["data"]) == ("t.a", "paid", {"n": "贵"})
        assert [each["data"] for each in await hear(peer, 3)] == [0, 1, 2]


async def test_a_connection_may_be_left_out(bus: Bus, port: int, post: Post) -> None:
    """``exclude`` has ids of connections, and ``to`` the subject of an identity."""
    async with client(port) as one, client(port) as two:
        identity = (await receive(one))["data"]["connection_id"]
        await subscribe(one, "t.a")
        await subscribe(two, "t.a")
        status, _, answer = await post({"channel": "t.a", "data": 1, "exclude": [identity]})
        assert (status, answer["receipts"][0]["matched"]) == (200, 1)
        await post({"channel": "t.a", "data": 2, "to": "nobody"})
        await post({"channel": "t.a", "data": 3})
        assert (await receive(one))["data"] == 3
        assert [each["data"] for each in await hear(two, 2)] == [1, 3]


BAD_BODIES: Final[list[tuple[bytes, str, str]]] = [
    (b"", "", "truncated"),
    (b"{", "", ""),
    (b"[]", "", "object"),
    (b"{}", "$", "channel is missing"),
    (b'{"channel": 1}', "$.channel", "str"),
    (b'{"channel": "a", "data": 1, "excluded": []}', "", "excluded"),
    (b'{"channel": "a", "exclude": "x"}', "$.exclude", "array"),
    (b'{"channel": "a", "exclude": [1]}', "$.exclude[0]", "str"),
    (b'{"channel": "a", "to": 3}', "$.to", "str"),
    (b'{"channel": "a.*"}', "$.channel", "wildcards"),
    (b'{"channel": "a", "event": "x\\n"}', "$.event", "printable"),
    (b'{"channel": "a", "publications": []}', "$.channel", "not both"),
    (b'{"publications": []}', "$.publications", "1 to 1000"),
    (b'{"publications": 1}', "$.publications", "array"),
    (b'{"publications": [{"data": 1}]}', "$.publications[0]", "channel"),
    (
        b'{"publications": [{"channel": "t.a"}, {"channel": "t..a"}]}',
        "$.publications[1].channel",
        "empty",
    ),
    (b'{"channel": "a", "data": ' + b"[" * 65 + b"]" * 65 + b"}", "", "nested"),
    (b'{"channel": "a", "data": ' + b"[" * 200_000, "", "nested"),
    (b'{"channel": "a", "data": "\xff"}', "", "UTF-8"),
    (b'{"channel": "a", "data": "\\ud800"}', "", ""),
    (b'{"channel": "a", "data": 1e999}', "$.data", "range"),
    (b'{"channel": "a", "data": NaN}', "", ""),
    (
        json.dumps({"publications": [{"channel": "a"}] * 1001}).encode(),
        "$.publications",
        "1001",
    ),
]


async def test_bad_bodies_publish_nothing(bus: Bus, port: int, post: Post) -> None:
    """The answer is 400 with the place of the fault, and nothing of the request is published."""
    async with bus.subscribe("*") as events:
        for body, at, text in BAD_BODIES:
            status, _, answer = await post(body)
            assert (status, answer["error"].get("at", "")) == (400, at), (body[:80], answer)
            assert text in answer["error"]["message"], (body[:80], answer)
        await post({"channel": "after"})
        assert (await anext(events)).channel == "after"


BAD_TOKENS: Final = [
    None,
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN} {TOKEN}",
    "Bearer " + "ü" * 16,
]


async def test_the_token_is_needed(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    """Without a valid token the answer is 401; the log has the refusal, and no token."""
    with caplog.at_level(logging.DEBUG, "wsbus"):
        for given in BAD_TOKENS:
            status, headers, answer = await post({"channel": "a"}, Authorization=given)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), given
            assert "token" in answer["error"]["message"]
    assert "refused with 401" in caplog.text
    assert TOKEN[:-1] not in caplog.text


async def test_other_requests_are_refused(post: Post) -> None:
    """Methods, types and encodings that are not taken have their statuses, and bodies in JSON."""
    status, headers, _ = await post(b"", "PUT")
    assert (status, headers["Allow"]) == (405, "POST")
    assert (await post(b"", "GET"))[0] == 405
    body = {"channel": "a"}
    for kind in (None, "text/plain", "application/json; charset=latin-1", "application/jsonx"):
        assert (await post(body, Content_Type=kind))[0] == 415, kind
    assert (await post(body, Content_Type="Application/JSON; charset=UTF-8"))[0] == 200
    assert (await post(body, Content_Encoding="gzip"))[0] == 415


async def ask_raw(port: int, head: str, *parts: bytes, ends: bool = False) -> bytes:
    """Send a request by hand; return the first line of the answer."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in HEADERS.items()])
    async with await connect_tcp("127.0.0.1", port) as stream:
        await stream.send(f"POST {PATH} HTTP/1.1\r\nHost: a\r\n{lines}{head}\r\n\r\n".encode())
        for part in parts:
            await stream.send(part)
        if ends:
            return b""
        with fail_after(10):
            return (await stream.receive()).partition(b"\r\n")[0]


async def test_large_bodies_are_not_read(bus: Bus, port: int, post: Post) -> None:
    """More than 1 MiB is refused: by its announced length at once, and in chunks on the way."""
    assert b" 413 " in await ask_raw(port, "Content-Length: 1048577")
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    assert b" 413 " in await ask_raw(port, "Transfer-Encoding: chunked", *[chunk] * 17)
    assert (await post({"channel": "a", "data": "x" * 1_000_000}))[0] == 200


async def test_half_a_body_publishes_nothing(bus: Bus, port: int, post: Post) -> None:
    """A client that leaves in the middle costs nothing, and the route goes on."""
    async with bus.subscribe("*") as events:
        whole = b'{"channel": "half", "data": 1}'
        await ask_raw(port, f"Content-Length: {len(whole)}", whole[:-1], ends=True)
        await ask_raw(port, "Transfer-Encoding: chunked", b"1e\r\n" + whole[:9], ends=True)
        await post({"channel": "after"})
        assert (await anext(events)).channel == "after"


async def test_a_lost_broker_is_503(serve: Serve) -> None:
    """Without a link nothing is published, and the answer says when to ask again."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}"
    bus = Bus(broker=broker_of(url))
    async with (
        serve(bus) as port,
        ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}{PATH}", json={"channel": "a"}, headers=HEADERS
        ) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "nothing was published" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    "token", ["", "short", [], [TOKEN, "short"], "with a space in it..", "ü" * 16, None, [None]]
)
def test_a_token_must_be_long(token: Any) -> None:
    """A token that can be guessed, or cannot be sent, is refused when the route is made."""
    for make in (asgi.publish_app, starlette.publish_route):
        with pytest.raises(UsageError):
            make(Bus(), token=token)


async def test_the_dependencies_of_fastapi_guard_it() -> None:
    """Dependencies of the application apply to the route as to any other."""

    async def nobody() -> None:
        raise HTTPException(418)

    bus, app = Bus(), FastAPI(dependencies=[Depends(nobody)])
    fastapi.mount(app, "/ws", bus)
    fastapi.mount_publish(app, bus, token=TOKEN)
    async with serving(app) as (port, _), ClientSession() as session:
        url = f"http://127.0.0.1:{port}{PATH}"
        async with session.post(url, json={"channel": "a"}, headers=HEADERS) as answer:
            assert answer.status == 418
