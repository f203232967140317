from __future__ import annotations

import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.request import urlopen

import pytest
from anyio import to_thread
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.adapters.serving import client, receive, serving
from tests.console.operators import TOKEN
from wsbus import Bus
from wsbus.adapters.starlette import console_routes, lifespan
from wsbus.adapters.websockets import serve
from wsbus.cli import wsbus
from wsbus.console import Console
from wsbus.console.remote import ConsoleNotFound, PageServer, find

SECONDS = 20


@pytest.fixture
def anyio_backend() -> str:
    """What serves here is made for asyncio."""
    return "asyncio"


@asynccontextmanager
async def application() -> AsyncIterator[str]:
    """Serve an application with a console, once at the root and once below."""
    bus = Bus()
    console = Console(bus, token=TOKEN)
    routes = [
        Route("/", lambda _: PlainTextResponse("an application")),
        *console_routes(console),
        Mount("/inner", routes=console_routes(console, "/ops")),
    ]
    async with serving(Starlette(routes=routes, lifespan=lifespan(bus))) as (port, _):
        yield f"http://127.0.0.1:{port}"


async def test_the_console_of_an_application_is_found() -> None:
    """Its page is named by its own address, or by that of the application."""
    async with application() as url:
        found = [
            await to_thread.run_sync(find, url + path)
            for path in ("", "/", "/console", "/console/", "/inner/ops")
        ]

        assert found == [f"{url}/console/"] * 4 + [f"{url}/inner/ops/"]


async def test_what_is_there_instead_is_told() -> None:
    """Other pages, no pages, no servers and no URLs are told in words."""
    async with application() as url:
        with pytest.raises(ConsoleNotFound, match=r"/inner/ answers 404 Not Found; .*/console/"):
            await to_thread.run_sync(find, f"{url}/inner")
    with pytest.raises(ConsoleNotFound, match=r"cannot be reached: .*refused"):
        await to_thread.run_sync(find, url)
    for nonsense in ("example.org", "file:///etc/passwd", "http://"):
        with pytest.raises(ConsoleNotFound, match="is no URL of an application"):
            find(nonsense)
    for nonsense in ("ws://", "wss://a/?token=1", 'ws://a/"><script>', "ws://user:pw@host/"):
        with pytest.raises(ConsoleNotFound, match="is no URL of an endpoint"):
            PageServer(nonsense, 0)


@pytest.mark.parametrize(
    "url", ["ftp://a/?token=hush", "http://ada:hush@127.0.0.1:1/", "http://127.0.0.1:1/?t=hush"]
)
def test_no_message_repeats_a_secret_of_the_url(url: str) -> None:
    """What cannot be found is named without query and password."""
    with pytest.raises(ConsoleNotFound) as failed:
        find(url)
    with pytest.raises(ConsoleNotFound) as refused:
        PageServer(url.replace("http", "ws"), 0)

    assert "hush" not in str(failed.value) + str(refused.value)


async def test_the_command_prints_the_address() -> None:
    """The address alone is on stdout; what fails is on stderr, with exit code 1."""
    async with application() as url:
        done = await to_thread.run_sync(CliRunner().invoke, wsbus, ["console", url])
    failed = CliRunner().invoke(wsbus, ["console", "localhost"])

    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{url}/console/\n", "")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: no console found: localhost is no URL")


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a b/", "http://127.0.0.1:x/", f"http://{'a' * 70}.example/"]
)
def test_what_can_be_no_address_is_told(url: str) -> None:
    """In words: such an address comes from a typing error."""
    failed = CliRunner().invoke(wsbus, ["console", url])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: no console found: ")


@pytest.mark.parametrize(
    "answer",
    [b"-ERR unknown command\r\n", b"HTTP/1.1 404 \x1b[2JForged\r\n\r\n"],
    ids=["no HTTP", "escapes"],
)
def test_what_a_stranger_answers_is_told_in_one_line(answer: bytes) -> None:
    """A server may speak something else, and a terminal must not obey its words."""

    class Stranger(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        failed = CliRunner().invoke(
            wsbus, ["console", f"http://127.0.0.1:{server.server_address[1]}"]
        )
        server.shutdown()
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: no console found: ")
    assert failed.stderr.rstrip("\n").isprintable()


async def test_a_page_is_served_for_an_endpoint_without_one() -> None:
    """The page served here names the endpoint, which lets its origin in, and no other."""
    bus = Bus()
    pages = PageServer("ws://127.0.0.1:1/ops", 0)
    console = Console(bus, token=TOKEN, origins=[pages.origin])
    thread = threading.Thread(target=pages.serve_forever)
    thread.start()
    try:
        async with bus, serve(console.endpoint, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            page = await to_thread.run_sync(lambda: urlopen(f"{pages.origin}/").read())
            script = await to_thread.run_sync(lambda: urlopen(f"{pages.origin}/console.js").read())
            async with client(port, "/", origin=pages.origin) as peer:
                assert (await receive(peer))["type"] == "connected"
    finally:
        pages.shutdown()
        thread.join()
        pages.server_close()

    assert b'content="ws://127.0.0.1:1/ops"' in page
    assert b"wsbus-endpoint" in script


def test_the_command_serves_until_it_is_interrupted() -> None:
    """``wsbus console ws://…`` prints where, says which origin to allow, and ends with Ctrl-C."""
    command = [sys.executable, "-m", "wsbus", "console", "ws://127.0.0.1:1/", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urlopen(address, timeout=SECONDS) as response:
            assert response.status == 200
        port = address.rstrip("/").rpartition(":")[2]
        second = CliRunner().invoke(wsbus, ["console", "ws://127.0.0.1:1/", "--port", port])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)

    assert (process.returncode, out) == (0, "")
    assert f"must allow the origin {address.rstrip('/')}" in err
    assert (second.exit_code, "is taken" in second.stderr) == (1, True)
