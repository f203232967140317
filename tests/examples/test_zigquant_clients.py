"""Clients that were written by the page, faults included, work unchanged."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.examples.peer import GRID, PATIENCE, ROOT, Message, Peer, Server, everywhere, token


class SampleClient:
    """Does what the sample of the page does, in Python."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._count = 0
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._listeners: defaultdict[str, list[Callable[[Message], None]]] = defaultdict(list)

    async def transmit(self, message: Message) -> None:
        """Write as `JSON.stringify({...message, timestamp})` does."""
        whole = message | {"timestamp": int(time.time() * 1000)}
        await self._peer.say(json.dumps(whole, separators=(",", ":"), ensure_ascii=False))

    def on(self, pattern: str, listener: Callable[[Message], None]) -> None:
        """Listen."""
        self._listeners[pattern].append(listener)

    async def command(self, action: str, params: Message) -> Message:
        """Give a command; raise ``LookupError`` with code and message if it fails."""
        self._count += 1
        reference = f"cmd_{int(time.time() * 1000)}_k{self._count}"
        answer = self._waiting[reference] = asyncio.get_running_loop().create_future()
        await self.transmit(
            {"type": "command", "id": reference, "action": action, "params": params}
        )
        response = await asyncio.wait_for(answer, PATIENCE)
        if not response["success"]:
            raise LookupError(response["error"]["code"], response["error"]["message"])
        data: Message = response["data"]
        return data

    async def read(self) -> None:
        """Read on."""
        while True:
            message = await self._peer.next()
            if message["type"] == "event":
                self._tell(message)
            elif message["type"] == "response":
                self._waiting.pop(message["id"]).set_result(message)
            elif message["type"] == "ping":
                await self.transmit({"type": "pong"})

    def _tell(self, event: Message) -> None:
        for listener in self._listeners.get(event["channel"], ()):
            listener(event["data"])
        for pattern, listeners in self._listeners.items():
            if re.fullmatch(pattern.replace("*", "[^.]+"), event["channel"]):
                for listener in listeners:  # An exact name hears it twice: the sample's fault.
                    listener(event["data"])


@everywhere
async def test_the_sample_client(server: Server) -> None:
    """It subscribes, hears status and health, and its commands resolve and reject."""
    async with server.connect(token(subscribe=["*"], command=["grid.*", "system.*"])) as peer:
        assert peer.socket.subprotocol is None
        client = SampleClient(peer)
        reading = asyncio.create_task(client.read())
        heard: asyncio.Queue[Message] = asyncio.Queue()
        healthy: asyncio.Queue[Message] = asyncio.Queue()
        client.on("grid.*.status", heard.put_nowait)
        client.on("system.health", healthy.put_nowait)
        await client.transmit({"type": "subscribe", "channels": ["grid.*", "system.health"]})

        result = await client.command("grid.start", dict(GRID))
        while (await asyncio.wait_for(heard.get(), PATIENCE))["id"] != result["grid_id"]:
            pass
        refusals = {
            "VALIDATION_ERROR": client.command("grid.start", GRID | {"upper_price": 1}),
            "FORBIDDEN": client.command("backtest.run", {}),
            "UNKNOWN_ACTION": client.command("grid.explode", {}),
        }
        for code, command in refusals.items():
            with pytest.raises(LookupError, match=code):
                await command
        commands = [client.command("grid.stop", {"id": "nobody"}) for _ in range(12)]
        failures = await asyncio.gather(*commands, return_exceptions=True)
        assert "RATE_LIMITED" in set(map(code_of, failures))
        await client.transmit({"type": "ping"})
        first, second = [await asyncio.wait_for(healthy.get(), PATIENCE) for _ in range(2)]
        assert first == second
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def code_of(outcome: Message | BaseException) -> str:
    """Return the code with which a command was refused."""
    assert isinstance(outcome, LookupError)
    code: str = outcome.args[0]
    return code


@everywhere
async def test_a_reconnecting_client_gets_everything_back(server: Server) -> None:
    """A client that connects again and subscribes again to all it had goes on as before."""
    channels = ["grid.*", "system.health", "strategy.*.status"]
    for _connection in range(3):
        async with server.connect(token()) as peer:
            answer = await peer.subscribe(*channels)
            assert answer == {"channels": channels, "active_subscriptions": 3}
            await peer.event("grid.grid_abc123.status", "update")
            peer.socket.transport.abort()


@everywhere
async def test_the_sample_client_in_node(
    server: Server, require_command: Callable[[str, str], str]
) -> None:
    """The same in JavaScript, with the WebSocket of Node."""
    node = require_command("node", "nodejs")
    process = await asyncio.create_subprocess_exec(
        node,
        "--experimental-websocket",
        str(ROOT / "tests" / "examples" / "sample_client.mjs"),
        server.url,
        token(),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(output)
    assert seen["protocol"] == ""
    assert seen["started"]["status"] == "starting"
    assert seen["of_started"]["id"] == seen["started"]["grid_id"]
    assert seen["refused"] == {
        "code": "VALIDATION_ERROR",
        "message": "upper_price must be greater than lower_price",
    }
    assert seen["unknown"]["code"] == "UNKNOWN_ACTION"
    assert seen["types"]["subscribed"] == 1
    assert (seen["tail"], seen["health"]) == (0, 2)
