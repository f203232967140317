"""Clients that were written by the page, and operators of the ChronoRetrace example."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from tests.examples.chronoretrace_peer import chronoretrace, connected, host_of, url_of
from tests.examples.peer import PATIENCE, ROOT, Message, Server
from wsbus.core.errors import may_reconnect


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may stop."""
    with chronoretrace(tmp_path / "log") as server:
        yield server


def stop(server: Server, number: int = signal.SIGTERM) -> float:
    """Send a signal; return how many seconds the end took. It must be a success."""
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == 0
    return time.monotonic() - began


async def test_the_python_sample(server: Server) -> None:
    """It reads the acknowledgement, subscribes, reads on, and its loop ends with the server."""
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def sample() -> None:
        async with websockets.connect(url_of(server, "my_client"), proxy=None) as websocket:
            heard.put_nowait(json.loads(await websocket.recv()))
            await websocket.send(json.dumps({"type": "subscribe", "topic": "stock.AAPL.1m"}))
            while True:
                try:
                    heard.put_nowait(json.loads(await websocket.recv()))
                except ConnectionClosed:
                    break

    async with asyncio.timeout(PATIENCE):
        running = asyncio.create_task(sample())
        messages = [await heard.get() for _ in range(5)]
        await asyncio.to_thread(stop, server)
        await running
    assert (messages[0]["type"], messages[0]["client_id"]) == ("connection_ack", "my_client")
    assert (messages[1]["type"], messages[1]["topic"]) == ("subscribe_ack", "stock.AAPL.1m")
    assert [message["data"]["seq"] for message in messages[2:]] == [1, 2, 3]


async def test_the_javascript_sample(
    server: Server, require_command: Callable[[str, str], str]
) -> None:
    """In Node: it subscribes on the acknowledgement, logs data, and hears of the close."""
    process = await asyncio.create_subprocess_exec(
        require_command("node", "nodejs"),
        "--experimental-websocket",
        str(ROOT / "tests" / "examples" / "chronoretrace_client.mjs"),
        url_of(server, "my_client"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(2 * PATIENCE):
        lines = [await process.stdout.readline() for _ in range(6)]
        await asyncio.to_thread(stop, server)
        rest = await process.stdout.read()
    assert lines[0] == b"open\n"
    messages = [json.loads(line) for line in lines[1:]]
    assert [m["type"] for m in messages] == ["connection_ack", "subscribe_ack", *["data"] * 3]
    assert {message["topic"] for message in messages[1:]} == {"stock.AAPL.1m"}
    assert re.search(rb"^closed 10(01|12)$", rest, re.MULTILINE)
    assert b"error" not in rest


class ReturningClient:
    """Comes again after a loss, and subscribes to all it had once it is acknowledged."""

    def __init__(self, address: str, client_id: str, topics: list[str]) -> None:
        self._url = f"ws://{address}/api/v1/ws/{client_id}"
        self._topics = topics
        self.codes: list[int] = []
        self.visits: list[list[Message]] = []
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Run until it is told not to come again."""
        while not self.codes or may_reconnect(self.codes[-1]):
            try:
                async with websockets.connect(self._url, proxy=None) as socket:
                    await self._visit(socket)
            except OSError:
                await asyncio.sleep(0.05)  # nobody tells when a port opens
            except ConnectionClosed as exc:
                self.codes.append(exc.rcvd.code if exc.rcvd else 1006)

    async def _visit(self, socket: websockets.ClientConnection) -> None:
        self.visits.append([])
        while True:
            message = json.loads(await socket.recv())
            self.visits[-1].append(message)
            self._heard.set()
            if message["type"] == "connection_ack":
                for topic in self._topics:
                    await socket.send(json.dumps({"type": "subscribe", "topic": topic}))

    async def has_all(self, visit: int) -> None:
        """Wait until each topic was acknowledged and has had data in this visit."""
        for topic in self._topics:
            while not {"subscribe_ack", "data"} <= {
                message["type"]
                for message in (self.visits[visit] if len(self.visits) > visit else ())
                if message.get("topic") == topic
            }:
                self._heard.clear()
                await self._heard.wait()


async def test_a_restart_under_three_clients(tmp_path: Path) -> None:
    """They see 1001 or 1012, come back, and are subscribed again; who is replaced does not."""
    with ExitStack() as stack:
        first = stack.enter_context(chronoretrace(tmp_path / "first.log"))
        address = host_of(first)
        clients = [
            ReturningClient(address, f"client_{number}", ["stock.AAPL.1m", f"stock.{number}.1d"])
            for number in range(3)
        ]
        running = [asyncio.create_task(client.run()) for client in clients]

        async with asyncio.timeout(2 * PATIENCE):
            await asyncio.gather(*(client.has_all(0) for client in clients))
            assert await asyncio.to_thread(stop, first) < 5
            port = address.rpartition(":")[2]
            second = stack.enter_context(chronoretrace(tmp_path / "second.log", "--port", port))
            assert host_of(second) == address
            await asyncio.gather(*(client.has_all(1) for client in clients))
            for number, client in enumerate(clients):
                assert client.codes[0] in {1001, 1012}
                async with connected(second, f"client_{number}") as successor:
                    await successor.hear("connection_ack")
                    await running[number]
                    assert client.codes[-1] == 4509
                    assert len(client.visits) == 2


async def test_signals_end_it_in_good_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    """SIGINT as SIGTERM: 1001 or 1012, exit code 0 and soon; nothing was logged by then."""

    async def run(number: int) -> None:
        log = tmp_path_factory.mktemp("logs") / "log"
        with chronoretrace(log) as server:
            async with connected(server, "idle") as idle, connected(server, "busy") as busy:
                await busy.say({"type": "subscribe", "topic": "stock.AAPL.1m"})
                await busy.hear("data")
                await busy.say("no JSON")
                await busy.hear("error")
                async with connected(server, "rude") as rude, connected(server, "idle2") as broken:
                    rude.socket.transport.abort()
                    await broken.socket.send(b"\xff", text=True)
                    await broken.close_code()
                async with connected(server, "idle"):
                    assert await idle.close_code() == 4509
                ended = asyncio.create_task(busy.close_code())
                assert await asyncio.to_thread(stop, server, number) < 5
                assert await ended in {1001, 1012}
        complaints = re.findall(
            r"^.*(?:WARNING|ERROR|Traceback|Error).*$",
            log.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        assert complaints == []

    await asyncio.gather(run(signal.SIGTERM), run(signal.SIGINT))
