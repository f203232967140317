from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
from collections.abc import Callable
from copy import copy
from http import HTTPStatus
from typing import Any, Literal

import pytest
from aiohttp import web
from anyio import (
    create_task_group,
    current_time,
    fail_after,
    move_on_after,
    sleep_forever,
    to_thread,
    wait_all_tasks_blocked,
)
from anyio.lowlevel import checkpoint
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketException

from tests.adapters.serving import serving as serving_uvicorn
from tests.client.servers import (
    HOST,
    PROTOCOLS,
    Latch,
    Scripted,
    Server,
    scripted,
    serving,
    through_proxy,
    wait_until,
)
from wsbus import Bus
from wsbus.adapters import aiohttp, fastapi
from wsbus.client import (
    Closed,
    Connected,
    ConnectError,
    ConnectionLost,
    RemoteError,
    Retry,
    Unauthenticated,
    UsageError,
    WsbusError,
    connect,
)
from wsbus.testing.frames import Opcode, close_body


async def refusal(url: str, **options: Any) -> RemoteError:
    """Return why a client cannot connect."""
    with fail_after(5), pytest.raises(RemoteError) as refused:
        async with connect(url, **options):
            pass
    return refused.value


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://example.org/ws", "use ws://"),
        ("https://example.org/ws", "use wss://"),
        ("example.org/ws", "begins with ws://"),
        ("ws:///ws", "no address"),
        ("ws://example.org:port/ws", "no address"),
    ],
)
def test_what_is_no_address_is_refused_at_once(url: str, hint: str) -> None:
    """An address that cannot be meant raises from the call, with a hint."""
    with pytest.raises(UsageError, match=hint):
        connect(url)


def test_what_makes_no_sense_is_refused_at_once() -> None:
    """Options that cannot be meant raise from the call, and no text repeats a token."""
    with pytest.raises(UsageError, match=r"speaks wsbus\.v1, wsbus\.v1\.msgpack, zigquant-v2"):
        connect("ws://example.org", protocol="mqtt")
    with pytest.raises(UsageError, match=r"token_in must be one of `message`, .*, not 'coo"):
        connect("ws://example.org", token_in="cookie")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        connect("ws://example.org", ping_interval=0)
    with pytest.raises(UsageError):
        connect("ws://example.org", close_timeout=0)
    with pytest.raises(UsageError):
        connect("ws://example.org", headers={"Cookie": "a=b\r\nX: y"})
    with pytest.raises(UsageError) as refused:
        connect("http://user:secret@example.org/?token=secret")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"headers": [("Cookie", "a")]}, "headers are a mapping of names to values, not list"),
        ({"headers": {"Cookie": 5}}, "the value of a header must be .*; that of Cookie is not"),
        ({"headers": {5: "a"}}, "a header has a name such as Cookie, not 5"),
        ({"headers": {"Cookie:": "a"}}, "a header has a name such as Cookie, not 'Cookie:'"),
        ({"headers": {"": "a"}}, "a header has a name such as Cookie, not ''"),
        ({"tls": True}, "tls is an ssl.SSLContext, not True"),
        ({"max_message_bytes": "4 MB"}, "max_message_bytes is a whole number of bytes, not '4 MB'"),
        ({"max_message_bytes": 0}, "max_message_bytes is a whole number of bytes, not 0"),
        ({"max_message_bytes": None}, "max_message_bytes is a whole number of bytes, not None"),
        ({"token": ""}, "a token is a text that is not empty"),
        ({"token_name": ""}, "token_name is the name of a parameter, not ''"),
        ({"retry": 3}, r"retry is a Retry, such as Retry\(attempts=3\), not 3"),
        ({"on_change": "print"}, "on_change is a function, not 'print'"),
    ],
)
def test_options_of_a_wrong_kind_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    """The call itself names the option; later the client would fail, and its log say why."""
    with pytest.raises(UsageError, match=words):
        connect("ws://example.org", **options)


@pytest.mark.parametrize("end", ["\n", " ", "\r\nHost: x", "\x00", "\u2028"])
def test_no_address_holds_a_line_end(end: str) -> None:
    """It would end the request's first line, or be dropped in silence."""
    with pytest.raises(UsageError, match="an address has no spaces and line ends") as refused:
        connect(f"ws://example.org/ws?token=secret{end}")
    assert "secret" not in str(refused.value)


async def test_nobody_listens(free_tcp_port: int) -> None:
    """A port where nobody listens is told as such, at once."""
    error = await refusal(f"ws://{HOST}:{free_tcp_port}/ws")

    assert isinstance(error, ConnectError)
    assert str(error).startswith(f"nothing listens at {HOST}:{free_tcp_port}")


async def test_there_is_no_such_host() -> None:
    """A name that does not resolve is told as such."""
    for host in ("nowhere.invalid", "x" * 64):
        assert f"there is no host '{host}'" in str(await refusal(f"ws://{host}/ws"))


async def test_no_tls_where_it_is_asked_for(server: Server) -> None:
    """wss:// to a server that speaks ws:// is told as such."""
    error = await refusal(server.url.replace("ws:", "wss:"), tls=ssl.create_default_context())

    assert "does not speak TLS: use ws://" in str(error)


@pytest.fixture(scope="module")
def certificate(
    tmp_path_factory: pytest.TempPathFactory, require_command: Callable[[str, str], str]
) -> tuple[str, str]:
    """Give a certificate that nobody has signed, for this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            require_command("openssl", "openssl"),
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return files


async def test_tls_is_spoken_with_whom_one_trusts(certificate: tuple[str, str]) -> None:
    """wss:// works with a certificate that is trusted; any other is told as such."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with serving(tls=context) as server:
        url = server.url.replace("ws:", "wss:")
        error = await refusal(url, token="ada")
        assert f"the certificate of {HOST}:{server.port} is not trusted" in str(error)

        trust = ssl.create_default_context(cafile=certificate[0])
        async with connect(url, token="ada", tls=trust) as client, client.subscribe("a") as events:
            server.publish("a", "x" * 100_000)
            with fail_after(5):
                assert len((await anext(events)).data) == 100_000
            assert await client.command("add", {"a": 1, "b": 1}) == 2
        error = await refusal(server.url, token="ada")
        assert isinstance(error, ConnectError)


EITHER = "no such path, or refused: Starlette and FastAPI answer 403 to both"

# --- servers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "no WebSocket at '/ws': is the path right?"),
        (200, "is no WebSocket"),
        (302, "sends clients elsewhere: https://example.org/login"),
        (401, "go away"),
        (403, EITHER),
        (429, "too many attempts"),
        (503, "not ready, or full"),
        (502, "failed"),
        (418, "refused the connection"),
    ],
)
async def test_an_http_answer_is_put_into_words(status: int, words: str) -> None:
    """Each HTTP status that is no 101 says what to look at, and what the server wrote."""

    async def answer(peer: Scripted) -> None:
        location = "Location: https://user:pw@example.org/login?token=secret\r\n"
        await peer.stream.send(
            f"HTTP/1.1 {status} What\r\n{location}Content-Length: 7\r\n\r\ngo away".encode()
        )
        await peer.drain()

    async with scripted(answer) as url:
        error = await refusal(url)

    assert words in str(error)
    assert "secret" not in str(error)
    assert "go away" in str(error)
    assert isinstance(error, Unauthenticated if status == 401 else ConnectError)
    assert isinstance(error, Unauthenticated) or error.status == status


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"this origin may not connect\n", "refuses this client at '/ws' (HTTP status 403: this o"),
        (
            b'{"detail":"Members only"}',
            "refuses this client at '/ws' (HTTP status 403: Members only)",
        ),
        (b"", "no such path, or refused"),
        (b"Access denied", "no such path, or refused"),
        (b"<html>This is a page", "no such path, or refused"),
        (b'{"detail":["a","b"]}', "no such path, or refused"),
        (b'{"detail":"\\u001b[2J"}', "no such path, or refused"),
    ],
)
async def test_a_403_that_has_a_reason_is_a_refusal(body: bytes, words: str) -> None:
    """403 may mean a wrong path, unless the answer says in a sentence, or FastAPI's way, why."""

    async def answer(peer: Scripted) -> None:
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\n\r\n"
        await peer.stream.send(head.encode() + body)
        await peer.drain()

    async with scripted(answer) as url:
        error = await refusal(url)

    assert words in str(error)
    assert ("such path" in str(error)) is ("such path" in words)
    assert str(error).isprintable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wrong_path_is_told_apart_where_the_framework_does() -> None:
    """With real frameworks: a path that is none, a refusal that says why, and one that cannot."""
    bus = Bus()
    app = FastAPI()

    def members_only(websocket: WebSocket) -> None:
        match websocket.query_params.get("as"):
            case "stranger":
                raise HTTPException(403, "Members only")
            case "nobody":
                raise WebSocketException(1008)

    fastapi.mount(app, "/ws", bus, dependencies=[Depends(members_only)])
    async with serving_uvicorn(app, lifespan="on") as (port, _):
        url = f"ws://{HOST}:{port}/ws"
        for address, options, words in [
            (f"{url}s", {}, f"{EITHER}; the path is '/wss' (HTTP status 403)"),
            (f"{url}?as=nobody", {}, f"{EITHER}; the path is '/ws' (HTTP status 403)"),
            (f"{url}?as=stranger", {}, "refuses this client at '/ws' (HTTP status 403: Members o"),
            (url, {"headers": {"Origin": "http://x.example"}}, "403: this origin may not connect"),
        ]:
            assert words in str(await refusal(address, **options))
        async with connect(url) as client:
            assert client.is_connected

    other, site = web.Application(), Bus()
    aiohttp.setup(other, "/ws", site.endpoint())
    runner = web.AppRunner(other, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        error = await refusal(f"ws://{HOST}:{runner.addresses[0][1]}/wss")
    finally:
        await runner.cleanup()
    assert "there is no WebSocket at '/wss': is the path right? (HTTP status 404" in str(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"220 mail.example.org ESMTP\r\n\r\n", "is no WebSocket server"),
        (b"HTTP/1.1 101 Yes\r\n\r\n", "is no WebSocket server"),
        (b"", "closed the connection before it had answered"),
        (b"HTTP/1.1 404 No\r\n\r\nno length", "no WebSocket at"),
    ],
)
async def test_what_is_no_websocket_server_is_told(said: bytes, words: str) -> None:
    """Whatever answers in place of a WebSocket server, or hangs up, is told as such."""

    async def answer(peer: Scripted) -> None:
        await peer.stream.send(said)

    async with scripted(answer) as url:
        assert words in str(await refusal(url))


async def test_a_server_that_says_nothing_is_given_up() -> None:
    """Before and after the handshake the server has ``connect_timeout`` to say something."""

    async def mute(peer: Scripted) -> None:
        await peer.silence()

    async def curt(peer: Scripted) -> None:
        await peer.shake_hands()
        await peer.silence()

    # The second must have time for the handshake, on a slow machine, too.
    for script, seconds, words in [
        (mute, 0.1, "no answer from the server within"),
        (curt, 1, "said nothing"),
    ]:
        async with scripted(script) as url:
            assert words in str(await refusal(url, connect_timeout=seconds))


async def test_a_version_that_is_not_spoken_is_told() -> None:
    """A server that does not speak the dialect is told as such, be it one of wsbus or another."""

    async def foreign(peer: Scripted) -> None:
        await peer.shake_hands(subprotocol=None)
        await peer.drain()

    async with scripted(foreign) as url:
        assert "does not speak wsbus.v1" in str(await refusal(url))
    with serving(protocols=["zigquant-v2"]) as server:
        error = await refusal(server.url)
        assert "does not speak this protocol" in str(error)
        assert isinstance(error, ConnectError)
        assert error.status == HTTPStatus.BAD_REQUEST


async def test_a_server_may_close_at_once() -> None:
    """A close in place of a greeting is told with its code in words."""

    async def full(peer: Scripted) -> None:
        await peer.shake_hands()
        await peer.frame(Opcode.CLOSE, close_body(1012, "come later"))

    async with scripted(full) as url:
        error = await refusal(url)

    assert isinstance(error, ConnectionLost)
    assert error.code == 1012
    assert "restarting, or full (close code 1012: come later)" in str(error)


# --- tokens that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refused_token_is_told(server: Server, protocol: str) -> None:
    """The server's reason comes as Unauthenticated, and no token in it."""
    error = await refusal(server.url, token="bad token", protocol=protocol)

    assert isinstance(error, Unauthenticated)
    assert "nobody knows this token" in str(error)
    assert "bad" not in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_token_that_is_wanted_is_asked_for(server: Server, protocol: str) -> None:
    """Without a token, where one is wanted, the client says so at once."""
    error = await refusal(server.url, protocol=protocol)

    assert isinstance(error, Unauthenticated)
    assert "wants a token, and none was given" in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_token_can_be_shown_in_the_query(protocol: str) -> None:
    """A server that takes it there gets it there; a refused one, and one not taken, are told."""
    with serving(query_token="key") as server:
        options: dict[str, Any] = {"token_in": "query", "token_name": "key", "protocol": protocol}
        async with connect(server.url + "?x=1", token="a&b=c d", **options) as client:
            if protocol == "wsbus.v1":
                assert client.subject == "a&b=c d"
        assert isinstance(await refusal(server.url, token="bad", **options), Unauthenticated)
        error = await refusal(
            server.url, token="ada", token_in="query", token_name="no", protocol=protocol
        )
        assert isinstance(error, Unauthenticated)
        assert "did not take the token from the handshake" in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("token_in", ["header", "subprotocol"])
async def test_a_token_can_be_shown_in_the_handshake(
    server: Server, token_in: Literal["header", "subprotocol"], protocol: str
) -> None:
    """The server knows who it is before it accepts; a refused token is told with 401."""
    async with connect(server.url, token="ada", token_in=token_in, protocol=protocol) as client:
        if protocol == "wsbus.v1":
            assert client.subject == "ada"
    error = await refusal(server.url, token="bad", token_in=token_in, protocol=protocol)
    assert isinstance(error, Unauthenticated)
    with pytest.raises(UsageError, match="printable ASCII"):
        await connect(server.url, token="é\n", token_in="header", protocol=protocol)


async def test_a_token_in_a_subprotocol_may_be_any_text(server: Server) -> None:
    """It is encoded, so that nothing in it ends the header."""
    async with connect(server.url, token="é, x", token_in="subprotocol") as client:
        assert client.subject == "é, x"


# --- the block -----------------------------------------------------------------------------------


async def test_the_block_begins_connected_and_ends_closed(server: Server) -> None:
    """In the block the client is connected and knows who it is; after it nothing works or hangs."""
    changes = Latch()
    async with connect(server.url, token="ada", on_change=changes) as client:
        assert client.is_connected
        assert (client.subject, client.protocol) == ("ada", "wsbus.v1")
        assert client.connection_id
        stream = client.changes()
        first = await anext(stream)
        assert isinstance(first, Connected)
        assert not first.is_again
        events = client.subscribe("a")
        await events.__aenter__()

    state: tuple[object, ...] = (client.is_connected, client.subject, client.connection_id)
    assert state == (False, None, None)
    assert [change async for change in stream] == [Closed(None)]
    assert changes.changes[-1] == Closed(None)
    assert [event async for event in events] == []
    with pytest.raises(UsageError, match="closed"):
        await client.command("add")
    with pytest.raises(UsageError, match="closed"):
        async with client.subscribe("a"):
            pass
    await client.aclose()
    await wait_until(lambda: server.held() == [])


async def test_headers_are_sent() -> None:
    """Headers of the application's go into the handshake, in place of the client's own."""
    heads: list[bytes] = []

    async def read(peer: Scripted) -> None:
        heads.append(await peer.stream.receive())

    async with scripted(read) as url:
        await refusal(url, headers={"Cookie": "a=b", "user-agent": "mine"})

    assert b"Cookie: a=b\r\n" in heads[0]
    assert heads[0].lower().count(b"user-agent:") == 1


async def test_a_failure_of_its_own_is_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw ends the client, not the program, and the log says what it was."""

    class Broken(ssl.SSLContext):
        def wrap_bio(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("nobody foresaw this")

    trust = Broken(ssl.PROTOCOL_TLS_CLIENT)
    error = await refusal(server.url.replace("ws:", "wss:"), tls=trust)

    assert str(error) == "the client has failed; its log says why"
    assert "the client has failed" in caplog.text


async def test_an_error_in_the_block_comes_out_as_it_is(server: Server) -> None:
    """What is raised in the block is not wrapped, and the client is closed."""
    with pytest.raises(ZeroDivisionError):
        async with connect(server.url, token="ada") as client:
            raise ZeroDivisionError
    assert not client.is_connected


# In older versions anyio's connect_tcp leaves the socket to the garbage collector if it is
# cancelled just as it succeeds.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("seconds", [0, 0.001, 0.003, 0.01, 0.03])
async def test_it_can_be_cancelled_at_any_point(server: Server, seconds: float) -> None:
    """Cancelled while it connects, subscribes, commands or closes, it is gone at once."""
    with move_on_after(seconds):
        async with connect(server.url, token="ada") as client, client.subscribe("a"):
            await client.command("wait")
    # What a library below lost in that moment goes with the garbage; nothing else may hold it.
    with fail_after(10):
        await wait_until(lambda: gc.collect() >= 0 and server.held() == [])


async def test_it_closes_promptly_though_the_server_is_dead(server: Server) -> None:
    """Leaving the block takes no longer than ``close_timeout``, whatever the network does."""
    async with through_proxy(server) as proxy:
        async with connect(proxy.url, token="ada", close_timeout=0.2) as client:
            assert client.is_connected
            proxy.is_black_hole = True
            began = current_time()
        assert 0.1 < current_time() - began < 2


async def test_a_cancelled_close_cuts(server: Server) -> None:
    """A block that is left by cancellation is left at once, however long ``close_timeout`` is."""
    async with through_proxy(server) as proxy:
        with fail_after(5), move_on_after(0.05):
            async with connect(proxy.url, token="ada", close_timeout=60):
                proxy.is_black_hole = True
                await sleep_forever()
        proxy.is_black_hole = False


async def test_nothing_reconnects_after_the_block(server: Server) -> None:
    """A client that is left while it waits for the next attempt makes none."""
    async with through_proxy(server) as proxy:
        retry = Retry(base=0.01, cap=0.01)
        async with connect(proxy.url, token="ada", retry=retry):
            proxy.target = 1  # where nobody listens
            proxy.cut()
            await wait_until(lambda: proxy.accepted >= 2)
        count = proxy.accepted
        with move_on_after(0.1):
            await wait_until(lambda: proxy.accepted > count)
        assert proxy.accepted == count


def test_errors_survive_a_copy() -> None:
    """An error that several callers get is copied for each; its words stay."""
    errors: list[WsbusError] = [
        ConnectError("why", 404),
        ConnectionLost(1006, "reason", "context"),
        Unauthenticated("no"),
    ]
    for error in errors:
        assert str(copy(error)) == str(error)
        assert type(copy(error)) is type(error)
        assert copy(error).args == error.args


async def test_it_can_be_awaited(server: Server) -> None:
    """``await connect(…)`` gives a client that lives until ``aclose``; each call connects once."""
    connecting = connect(server.url, token="ada")
    client = await connecting
    assert await client.command("add", {"a": 1, "b": 2}) == 3
    with pytest.raises(UsageError, match="made once"):
        await connecting
    await client.aclose()
    await client.aclose()
    with pytest.raises(UsageError, match="closed"):
        await client.command("add", {"a": 1, "b": 2})


async def test_a_client_that_is_not_closed_is_warned_of(server: Server) -> None:
    """A client that is forgotten goes on in the background: Python says so."""
    client = await connect(server.url, token="ada")
    driver = client._driver
    held = [client]
    del client
    with pytest.warns(ResourceWarning, match="was not closed"):
        held.clear()  # Without a cycle it goes at once.
    driver.perform(driver.session.close())
    await driver.over.wait()


async def test_nothing_is_left_wherever_it_is_cancelled(server: Server) -> None:
    """Cancelled at any turn of the loop while it starts, a client leaves no task and no socket."""
    for turns in range(40):
        async with create_task_group() as tasks:

            async def whole() -> None:
                async with connect(server.url, token="ada"):
                    await sleep_forever()

            tasks.start_soon(whole)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
    with fail_after(10):
        await wait_until(lambda: not server.held())


async def test_another_loop_is_refused(server: Server) -> None:
    """Used from another event loop or thread, a client says so at once."""
    async with connect(server.url, token="ada") as client, client.subscribe("a") as events:

        async def ask() -> object:
            return await client.command("add", {"a": 1, "b": 2})

        async def iterate() -> object:
            return await anext(events)

        async def enter() -> object:
            return await client.subscribe("b").__aenter__()

        async def close() -> object:
            await client.aclose()
            return None

        for work in (ask, iterate, enter, close):
            with pytest.raises(UsageError, match="another event loop"):
                await to_thread.run_sync(asyncio.run, work())
        with pytest.raises(UsageError, match="another event loop"):
            await to_thread.run_sync(client.changes)
        assert await ask() == 3


async def test_a_second_task_is_refused(server: Server) -> None:
    """Two tasks cannot wait for one subscription; one that was cancelled is in nobody's way."""
    async with connect(server.url, token="ada") as client, client.subscribe("a") as events:
        with move_on_after(0.01):
            await anext(events)
        got: list[object] = []

        async def first() -> None:
            got.append((await anext(events)).data)

        async with create_task_group() as tasks:
            tasks.start_soon(first)
            await wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="another task waits"):
                await anext(events)
            await client.publish("a", 1)
        assert got == [1]
