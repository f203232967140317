"""The file for nginx passes WebSockets, event streams and long polls, over TLS."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import anyio
import pytest
from anyio import fail_after, to_thread
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from tests.docs.documents import HOW_TO, rows_below, served
from wsbus import Bus, Endpoint, HeartbeatPolicy, History
from wsbus.adapters.starlette import http_routes, lifespan, status_routes, websocket_route
from wsbus.client import ConnectError, connect

PAGE: Final = HOW_TO / "nginx.md"
SECONDS: Final = 30


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


def blocks() -> list[str]:
    """Return the files of the page: that of the site, and that of nginx itself."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```nginx\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def write_certificate(folder: Path, openssl: str) -> ssl.SSLContext:
    """Make a certificate for localhost; return what trusts it."""
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -keyout app.key -out app.pem"
    subprocess.run([openssl, *command.split()], cwd=folder, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(folder / "app.pem"))


def write_file(folder: Path, host: str, port: int) -> Path:
    """Put the page's files into one, with ports and paths of this test."""
    site, main = blocks()
    for said, meant in [
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8000", host),
        ("127.0.0.1:8001", host),
        ("/etc/ssl/", f"{folder}/"),
    ]:
        assert said in site
        site = site.replace(said, meant)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"pid {folder}/nginx.pid;\ndaemon off;\nerror_log stderr notice;\n{main}\n"
        f"http {{\naccess_log off;\n{paths}{site}}}\n"
    )
    return file


@asynccontextmanager
async def in_front(program: str, file: Path) -> AsyncIterator[None]:
    """Run nginx with this file."""
    command = [program, "-p", str(file.parent), "-c", str(file)]
    async with await anyio.open_process(command) as nginx:
        try:
            assert nginx.stderr is not None
            said = b""
            while b"start worker process" not in said:
                said += await nginx.stderr.receive()
            yield
        finally:
            nginx.terminate()


def behind(bus: Bus, endpoint: Endpoint) -> Starlette:
    """Return an application with all that the page speaks of."""
    routes: list[BaseRoute] = [websocket_route("/ws", endpoint), *http_routes("/ws", endpoint)]
    return Starlette(routes=[*routes, *status_routes(bus)], lifespan=lifespan(bus))


@asynccontextmanager
async def site(
    require_command: Callable[[str, str], str], folder: Path
) -> AsyncIterator[tuple[Bus, str, ssl.SSLContext]]:
    """Serve a bus behind nginx; give the bus, host and port of nginx, and what trusts it."""
    nginx = require_command("nginx", "nginx-light")
    tls = write_certificate(folder, require_command("openssl", "openssl"))
    bus, port = Bus(), free_port()
    bus.family("news.*", history=History())
    endpoint = bus.endpoint(trusted_proxies=["127.0.0.1"])
    async with (
        served(behind(bus, endpoint), endpoint) as host,
        in_front(nginx, write_file(folder, host, port)),
    ):
        yield bus, f"localhost:{port}", tls


def read(url: str, tls: ssl.SSLContext) -> Any:
    """Send a GET request; return the JSON of the answer."""
    with urlopen(url, timeout=SECONDS, context=tls) as answer:
        return json.loads(answer.read())


async def test_everything_passes_over_tls(
    require_command: Callable[[str, str], str], tmp_path: Path
) -> None:
    """A WebSocket, a stream and a poll get what is published; the routes of status stay inside."""
    with fail_after(SECONDS):
        async with site(require_command, tmp_path) as (bus, host, tls):
            url = f"wss://{host}/ws"
            async with (
                connect(url, tls=tls) as socket,
                connect(url, tls=tls, way="http") as stream,
                socket.subscribe("news.*") as by_socket,
                stream.subscribe("news.*") as by_stream,
            ):
                for number in (1, 2):
                    await bus.publish("news.a", number)
                    assert (await anext(by_socket)).data == number
                    assert (await anext(by_stream)).data == number
                assert len(bus.connections()) == 2

            poll = f"https://{host}/ws/poll?channels=news.*"
            since = (await to_thread.run_sync(read, poll, tls))["position"]
            await bus.publish("news.a", 3)
            answer = await to_thread.run_sync(read, f"{poll}&since={since}", tls)
            assert [message["data"] for message in answer["messages"]] == [3]

            with pytest.raises(HTTPError, match="404") as refused:
                await to_thread.run_sync(read, f"https://{host}/-/connections", tls)
            refused.value.close()


async def test_pages_of_the_site_may_connect(
    require_command: Callable[[str, str], str], tmp_path: Path
) -> None:
    """``Host`` comes with its port, so that a page of the site connects, and no other one."""
    with fail_after(SECONDS):
        async with site(require_command, tmp_path) as (_, host, tls):
            url = f"wss://{host}/ws"
            async with connect(url, tls=tls, headers={"Origin": f"https://{host}"}):
                pass
            with pytest.raises(ConnectError) as refused:
                await connect(url, tls=tls, headers={"Origin": "https://localhost:1"})

            assert refused.value.status == 403


def test_nginx_waits_longer_than_the_heartbeat() -> None:
    """A connection that only answers pings is not cut by nginx."""
    seconds = re.search(r"proxy_read_timeout (\d+)s;", blocks()[0])
    interval = HeartbeatPolicy().interval

    assert seconds is not None
    assert interval is not None
    assert int(seconds[1]) > 2 * interval


def test_each_line_that_the_page_explains_is_in_the_file() -> None:
    """The table names lines of the file."""
    for row in rows_below(PAGE, "line | without it"):
        for word in re.findall(r"[\w$]*_\w+|Upgrade|Connection|X-[\w-]+|/-/", row[0]):
            assert word in blocks()[0], word
