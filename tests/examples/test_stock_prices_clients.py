"""The tools that the stock price service's users use, as they are."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.examples.peer import PATIENCE, Message
from tests.examples.prices import (
    TIMESTAMP,
    VOLUME_WAVE,
    Service,
    codes,
    nothing_waits,
    running_service,
)
from tests.protocols.golden import vectors_by_scene

SUBSCRIBE = '{"type":"subscribe","subscription_type":"strategy","target":"volume_wave"}'
UNSUBSCRIBE = SUBSCRIBE.replace("subscribe", "unsubscribe", 1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("prices") / "log") as running:
        yield running


# --- Python ---------------------------------------------------------------------------------------


async def test_scene_1_with_websockets(service: Service) -> None:
    """Connect, subscribe, ping, and a manual push arrives: with nothing but ``websockets``."""
    async with websockets.connect(service.url, proxy=None) as socket:
        hello = json.loads(await socket.recv())
        assert (hello["type"], hello["message"]) == ("connected", "WebSocket连接成功")
        assert socket.subprotocol is None
        await socket.send(SUBSCRIBE)
        assert json.loads(await socket.recv())["type"] == "subscribed"
        await socket.send('{"type":"ping"}')
        assert json.loads(await socket.recv())["type"] == "pong"
        assert (await service.push(**VOLUME_WAVE))["sent"] == 1
        assert len(codes(json.loads(await socket.recv()))) == 50
        await (await socket.ping())  # the protocol's own


@pytest.mark.parametrize("origin", [None, "null", "http://localhost:3000", "https://evil.example"])
async def test_any_origin(service: Service, origin: str | None) -> None:
    """A front end elsewhere, a page without origin and a program may all connect."""
    async with service.client("stock:600519", origin=origin) as peer:
        assert await peer.is_alive()


async def test_who_never_pings(service: Service) -> None:
    """Who subscribes as soon as it is open, and then only listens, hears every push."""
    async with service.server.connect() as peer:
        await peer.say(SUBSCRIBE)  # before it has read anything
        for _ in range(5):
            await peer.hear("subscribed") if len(peer.heard) < 2 else None
            await service.push(**VOLUME_WAVE)
            assert len(codes(await peer.next())) == 50
        kinds = [message["type"] for message in peer.heard]
    assert kinds == ["connected", "subscribed", *["price_update"] * 5]


# --- wscat ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wscat(
    tmp_path_factory: pytest.TempPathFactory, require_command: Callable[[str, str], str]
) -> Path:
    """The program, installed in a directory that goes away."""
    npm = require_command("npm", "nodejs npm")
    room = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--prefix", str(room), "--no-audit", "--no-fund", "wscat"]
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"needs wscat: npm install wscat ({done.stderr.strip()[-200:]})"
        if os.environ.get("WSBUS_REQUIRE_SERVICES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return room / "node_modules" / ".bin" / "wscat"


class Terminal:
    """Somebody who types lines, and reads what comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    def type(self, line: str) -> None:
        self._stdin.write(f"{line}\n".encode())

    async def read(self) -> Message:
        """Return the next message; prompts are passed over."""
        async with asyncio.timeout(PATIENCE):
            line = ""
            while "{" not in line:
                line = (await self._stdout.readline()).decode()
        message: Message = json.loads(line[line.index("{") :])
        return message

    def leave(self) -> None:
        self._stdin.close()


@asynccontextmanager
async def terminal(*command: str) -> AsyncIterator[Terminal]:
    """Run a program that is typed at."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 20)
    try:
        yield Terminal(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_wscat(service: Service, wscat: Path) -> None:
    """``wscat -c URL``, typing the lines of the page: each is answered, the push is shown."""
    async with terminal(str(wscat), "-c", service.url) as shell:
        assert (await shell.read())["type"] == "connected"
        shell.type(SUBSCRIBE)
        subscribed = await shell.read()
        assert (subscribed["type"], subscribed["message"]) == ("subscribed", "订阅成功")
        shell.type('{"type":"ping"}')
        assert (await shell.read())["type"] == "pong"
        shell.type("what?")
        assert (await shell.read())["type"] == "error"
        assert (await service.push(**VOLUME_WAVE))["sent"] == 1
        assert len(codes(await shell.read())) == 50
        shell.type(UNSUBSCRIBE)
        assert (await shell.read())["type"] == "unsubscribed"
        assert (await service.push(**VOLUME_WAVE))["sent"] == 0
        shell.leave()
        assert await asyncio.wait_for(shell.process.wait(), PATIENCE) == 0


# --- the golden vectors, over sockets -------------------------------------------------------------


def shape(text: str) -> Message:
    """Return a message without what differs from run to run; of an update, the first price."""
    message: Message = json.loads(TIMESTAMP.sub("…", text))
    if "client_id" in message:
        message["client_id"] = "client_xxx"
    if message["type"] == "price_update":
        codes(message)
        message["count"], message["data"] = 1, message["data"][:1]
        for key in ("price", "change", "change_percent", "volume"):
            message["data"][0][key] = "…"
    return message


@pytest.mark.parametrize("scene", vectors_by_scene("stock_prices"))
async def test_transcripts(service: Service, scene: list[dict[str, Any]]) -> None:
    """What stands in a transcript is what goes over the wire, in this order, and nothing else."""
    async with service.server.connect() as peer:
        for entry in scene:
            text = "".join(entry["text"])
            if "means" in entry:
                await peer.say(text)
                continue
            if "publishes" in entry:
                await service.push(**VOLUME_WAVE)
            heard = await peer.text()
            assert json.dumps(shape(heard)) == json.dumps(shape(text)), entry["name"]
        assert await nothing_waits(peer)
