"""The stock price service in a process of its own, as its clients and operators see it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tests.examples.peer import Message, Peer, Server, launched

STOCK: Final = "600519"
VOLUME_WAVE: Final = {"strategy": "volume_wave"}
TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def evening() -> str:
    """Return a time zone in which it is eight in the evening: the timer rests for hours."""
    hours = (20 - datetime.now(UTC).hour + 12) % 24 - 12
    return f"TEST{-hours:+d}"


class Service:
    """A running service.

    Args:
        server: Its process.
    """

    def __init__(self, server: Server) -> None:
        self.server: Final = server

    @property
    def url(self) -> str:
        """Where WebSockets connect."""
        return self.server.url

    @property
    def port(self) -> int:
        """Where it listens."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def log(self) -> list[str]:
        """The lines logged so far."""
        return self.server.log.read_text(encoding="utf-8").splitlines()

    async def http(self, method: str, path: str, **query: str) -> tuple[int, Any]:
        """Return the status and the body of an answer."""
        address = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, address, params=query) as response,
        ):
            return response.status, json.loads(await response.text())

    async def data(self, path: str) -> Any:
        """Return what is in the envelope."""
        status, body = await self.http("GET", path)
        assert status == body["code"] == 200
        assert list(body) == ["code", "message", "data"]
        return body["data"]

    async def push(self, **query: str) -> Message:
        """Push, and return the data of the answer."""
        status, body = await self.http("POST", "/api/websocket/push/prices", **query)
        assert (status, body["code"], body["message"]) == (200, 200, "推送成功")
        data: Message = body["data"]
        return data

    @asynccontextmanager
    async def client(self, *subscriptions: str, **options: Any) -> AsyncIterator[Peer]:
        """Connect, and subscribe to what is given as ``stock:600519``."""
        async with self.server.connect(**options) as peer:
            await peer.hear("connected")
            for each in subscriptions:
                await peer.ask(subscribe(each), "subscribed")
            yield peer


def subscribe(name: str, verb: str = "subscribe") -> Message:
    """Return the message that subscribes to ``stock:600519``."""
    kind, _, target = name.partition(":")
    return {"type": verb, "subscription_type": kind, "target": target}


def codes(message: Message) -> list[str]:
    """Return the stocks of an update."""
    assert message["type"] == "price_update"
    assert message["count"] == len(message["data"])
    return [price["code"] for price in message["data"]]


async def nothing_waits(peer: Peer) -> bool:
    """Tell whether there is nothing to read but the answer to a ping."""
    await peer.say({"type": "ping"})
    return bool((await peer.next())["type"] == "pong")


@contextmanager
def running_service(log: Path, *options: str) -> Iterator[Service]:
    """Run the service, in the evening."""
    with launched("stock_prices.py", log, *options, zone=evening()) as server:
        yield Service(server)


def stubborn_socket(port: int) -> socket.socket:
    """Return a connected socket that takes in little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock
