"""ASGI servers other than uvicorn in this process: each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from anyio import fail_after, sleep, to_thread
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests.adapters.serving import client, connect_raw, masked, receive, subscribe

PROGRAM: Final = """
import asyncio
import logging
import signal
import sys

from aiohttp import web

from wsbus import Bus, Connection, Limits
from wsbus.adapters import aiohttp, asgi, uvicorn, websockets

logging.basicConfig(level=logging.WARNING)
bus = Bus()


@bus.command("leave")
def leave(connection: Connection) -> None:
    connection.disconnect(4511, "see you later")


@bus.command("say")
async def say(what: str) -> int:
    return (await bus.publish("said", what)).local_matched


app = asgi.app(bus)
started_by_a_client = asgi.app(bus, autostart=True)
brief = bus.endpoint(limits=Limits(close_timeout=1))
brief_app = asgi.app(brief)


def on_aiohttp(_argv: list[str]) -> web.Application:
    application = web.Application()
    aiohttp.setup(application, "/ws", brief)
    return application


async def on_websockets(port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with bus, websockets.serve(brief, "127.0.0.1", port):
        await stop.wait()


if __name__ == "__main__":
    port = int(sys.argv[2])
    if sys.argv[1] == "websockets":
        asyncio.run(on_websockets(port))
    else:
        asyncio.run(uvicorn.serve(brief_app, brief, port=port))
"""

SITE: Final = """
import logging
import sys

import uvicorn
from fastapi import FastAPI

from wsbus import Bus
from wsbus.adapters.fastapi import mount

logging.basicConfig(level=logging.WARNING)
app = FastAPI()
mount(app, "/ws", Bus())

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]))
"""

PYTHON: Final = [sys.executable, "-m"]
WORKER: Final = "wsbus.adapters.gunicorn.UvicornWorker"
FAST: Final = "wsbus.adapters.uvicorn:WebSocketProtocol"
COMMANDS: Final = {
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} served:app",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} served:app",
    "hypercorn-trio": "hypercorn -k trio --bind 127.0.0.1:{port} served:app",
    "daphne": "daphne -b 127.0.0.1 -p {port} served:started_by_a_client",
    "gunicorn": f"gunicorn -b 127.0.0.1:{{port}} -k {WORKER} served:app",
    "gunicorn-two": f"gunicorn -w 2 -b 127.0.0.1:{{port}} -k {WORKER} served:app",
    "uvicorn": "uvicorn --port {port} served:app",
    "uvicorn-fast": f"uvicorn --port {{port}} --ws {FAST} served:app",
    "uvicorn-two": f"uvicorn --port {{port}} --workers 2 --ws {FAST} served:app",
    "uvicorn-alone": "uvicorn --port {port} --lifespan off served:started_by_a_client",
    "uvicorn-never": "uvicorn --port {port} --lifespan off served:app",
}
PLAIN: Final = {
    "uvicorn": "uvicorn --port {port} site_of_fastapi:app",
    "uvicorn-run": "site_of_fastapi {port}",
    "fastapi_cli": "fastapi run --port {port} site_of_fastapi.py",
    "gunicorn": "gunicorn -b 127.0.0.1:{port} -k uvicorn.workers.UvicornWorker site_of_fastapi:app",
}
"""Ways to run uvicorn that know nothing of wsbus."""
BRIEF: Final = {
    "aiohttp": "aiohttp.web -H 127.0.0.1 -P {port} served:on_aiohttp",
    "websockets": "served websockets {port}",
    "uvicorn-serve": "served uvicorn {port}",
    "uvicorn-fast": f"uvicorn --port {{port}} --ws {FAST} served:brief_app",
    "gunicorn": f"gunicorn -b 127.0.0.1:{{port}} -k {WORKER} served:brief_app",
}
"""Servers that wait a second for clients which do not answer a close frame."""
WAITS_FOR_CLIENTS: Final = {"hypercorn"} if sys.version_info >= (3, 12) else set[str]()
"""hypercorn (0.18) awaits ``Server.wait_closed``, which from Python 3.12 on waits for clients."""


class Process:
    """A server that runs, and what it has written."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port: Final = port
        self.log: Final = log
        self._process: Final = process

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until it has ended; return the exit status."""
        return await to_thread.run_sync(lambda: self._process.wait(20))

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.terminate()
        return await self.ended()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@asynccontextmanager
async def running(
    name: str, folder: Path, commands: Mapping[str, str] = COMMANDS
) -> AsyncIterator[Process]:
    """Run a server until the context ends; it must have been stopped by then, or is killed."""
    module = name.partition("-")[0]
    if importlib.util.find_spec(module) is None:
        reason = f"needs {module}: pip install -e '.[servers]'"
        if os.environ.get("WSBUS_REQUIRE_SERVICES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    (folder / "served.py").write_text(PROGRAM, encoding="utf-8")
    (folder / "site_of_fastapi.py").write_text(SITE, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    arguments = commands[name].format(port=port).split()
    log = folder / "log"
    process = start([*PYTHON, *arguments], log)
    try:
        with fail_after(30):
            while not listens(port):
                assert process.poll() is None, log.read_text(encoding="utf-8")
                await sleep(0.05)
        yield Process(port, process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(arguments, cwd=log.parent, stdout=out, stderr=subprocess.STDOUT)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def command(peer: ClientConnection, action: str, **params: Any) -> list[Any]:
    """Give a command; return what comes until it is answered, events first."""
    message = {"type": "command", "id": "1", "action": action, "params": params}
    await peer.send(json.dumps(message))
    got: list[Any] = []
    while not any(each["type"] == "response" for each in got):
        got += [json.loads(line) for line in str(await peer.recv()).splitlines()]
    return got


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "uvicorn-never"])
async def test_servers_serve(name: str, tmp_path: Path) -> None:
    """Commands, events, close codes and the end of the process are as on every other server."""
    async with running(name, tmp_path) as server:
        with fail_after(30):
            for _ in range(3):
                async with client(server.port) as peer:
                    assert (await receive(peer))["type"] == "connected"
                    await subscribe(peer, "said")
                    got = await command(peer, "say", what="hello")
                    while not any(each["type"] == "event" for each in got):
                        got.append(await receive(peer))
                    assert {each.get("data") for each in got} == {1, "hello"}
                    await peer.send('{"type":"command","id":"2","action":"leave"}')
                    await peer.wait_closed()
                    assert peer.close_code == 4511
                    if name != "daphne":  # Which has no reasons.
                        assert peer.close_reason == "see you later"
            async with client(server.port) as peer:
                await receive(peer)
                server.terminate()
                if name not in WAITS_FOR_CLIENTS:
                    await server.ended()
            status = await server.ended()
    # uvicorn raises the signal again once it has shut down.
    assert status in ({0, -signal.SIGTERM} if name.startswith("uvicorn") else {0})
    assert "an async call failed" not in server.said()


@pytest.mark.parametrize("name", BRIEF)
async def test_a_second_signal_changes_nothing(name: str, tmp_path: Path) -> None:
    """The process ends in good order, though one client sleeps and one answers no close frame."""
    async with running(name, tmp_path, BRIEF) as server:
        with fail_after(30):
            mute, asleep = await connect_raw(server.port), await connect_raw(server.port)
            async with client(server.port) as peer:
                await asleep.send(masked(1, b'{"type":"subscribe","channels":["said"]}'))
                while (await command(peer, "say", what="x" * 60_000))[-1]["data"] == 0:
                    pass  # Until it has subscribed.
                for _ in range(100):  # 6 MB: more than the system keeps for it.
                    await command(peer, "say", what="x" * 60_000)
                server.terminate()
                await peer.wait_closed()
                assert peer.close_code in {1001, 1012}
            said = b""
            while b"\x88" not in said:
                said = await mute.receive()
            with suppress(ProcessLookupError):
                server.terminate()
            status = await server.ended()
            await mute.aclose()
            await asleep.aclose()
    assert status in ({0, -signal.SIGTERM} if name == "uvicorn-fast" else {0})
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("name", ["uvicorn-fast", "gunicorn"])
async def test_uvicorn_as_it_should_run_is_not_warned_of(name: str, tmp_path: Path) -> None:
    """What is right is not warned of."""
    async with running(name, tmp_path) as server:
        with fail_after(30):
            for _ in range(3):
                async with client(server.port) as peer:
                    await receive(peer)
            await server.stop()

    assert "WARNING:wsbus" not in server.said()


@pytest.mark.parametrize("name", PLAIN)
async def test_plain_uvicorn_is_told_what_to_write(name: str, tmp_path: Path) -> None:
    """However it is started, its log says once what makes the bus fast and frees stuck sockets."""
    async with running(name, tmp_path, PLAIN) as server:
        with fail_after(30):
            for _ in range(3):
                async with client(server.port) as peer:
                    await receive(peer)
            await server.stop()

    said = server.said()
    assert said.count("WARNING:wsbus") == 1
    assert said.count("--ws wsbus.adapters.uvicorn:WebSocketProtocol") == 1


async def test_a_server_without_a_lifespan_is_told(tmp_path: Path) -> None:
    """The log says how a bus is started where nobody does."""
    async with running("uvicorn-never", tmp_path) as server:
        with fail_after(30):
            for _ in range(2):
                with pytest.raises(InvalidStatus) as refused:
                    await client(server.port)
                assert refused.value.response.status_code == 503
            await server.stop()

    assert server.said().count("autostart=True") == 1


ALONE: Final = """
import logging

from starlette.applications import Starlette

from wsbus import Bus
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.brokers import MemoryBroker

logging.basicConfig(level=logging.WARNING)


class Joined(MemoryBroker):
    address = "joined:"


def application(bus):
    return Starlette(routes=[websocket_route("/ws", bus)], lifespan=lifespan(bus))


alone = application(Bus())
joined = application(Bus(broker=Joined()))
"""
SEVERAL: Final = {
    "uvicorn": "uvicorn --workers 2 --port {port} alone:alone",
    "gunicorn-preload": f"gunicorn --preload -w 3 -b 127.0.0.1:{{port}} -k {WORKER} alone:alone",
    "hypercorn-trio": "hypercorn -k trio -w 2 --bind 127.0.0.1:{port} alone:alone",
    "granian": "granian --interface asgi --workers 2 --host 127.0.0.1 --port {port} alone:alone",
}
ONE: Final = {
    "uvicorn-reload": "uvicorn --reload --port {port} alone:alone",
    "uvicorn-joined": "uvicorn --workers 2 --port {port} alone:joined",
    "granian": "granian --interface asgi --workers 1 --host 127.0.0.1 --port {port} alone:alone",
}
WARNING: Final = "processes serve one address, and each has a bus of its own"


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
@pytest.mark.parametrize("name", SEVERAL)
async def test_several_workers_without_a_broker_are_told(name: str, tmp_path: Path) -> None:
    """Once, with their number and what to do, by whatever server they were started."""
    (tmp_path / "alone.py").write_text(ALONE, encoding="utf-8")
    async with running(name, tmp_path, SEVERAL) as server:
        with fail_after(30):
            while WARNING not in server.said():
                assert listens(server.port)
                await sleep(0.1)
        await server.stop()
    (line,) = [line for line in server.said().splitlines() if WARNING in line]
    count = 3 if name == "gunicorn-preload" else 2
    assert line.startswith(f"WARNING:wsbus.bus:{count} processes")
    assert "give all of them one broker" in line


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
@pytest.mark.parametrize("name", ONE)
async def test_one_worker_is_not_taken_for_several(name: str, tmp_path: Path) -> None:
    """Nor are a supervisor and its worker, or workers that a broker joins."""
    (tmp_path / "alone.py").write_text(ALONE, encoding="utf-8")
    async with running(name, tmp_path, ONE) as server:
        await sleep(2.5)  # The first look comes after one second.
        await server.stop()
    assert WARNING not in server.said()
