"""Clients without sockets, and people for them to be."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from wsbus import Connection, Endpoint, Grants, Handshake, Identity, Limits, Unauthenticated
from wsbus.endpoint import Admission
from wsbus.server.host import BusHost
from wsbus.testing import DirectMemoryTransport, MemoryTransport

UNLIMITED: Final = Limits(messages_per_second=None, commands_per_second=None)
"""No rate limits: they have tests of their own."""

Connect: TypeAlias = Callable[..., Awaitable["Client"]]

EVERYTHING: Final = Grants.of(admin=True, subscribe=["*"], publish=["*"], command=["*"])


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for the name of its bearer; ``bad…`` is refused."""
    if token is None:
        return None
    if token.startswith("bad"):
        raise Unauthenticated
    return Identity(token, EVERYTHING)


class Client:
    """A client of ``wsbus.v1``."""

    def __init__(self, endpoint: Endpoint, transport: MemoryTransport) -> None:
        self.transport: Final = transport
        self.peer: Final = transport.peer
        self.id = ""
        self._endpoint: Final = endpoint
        self._lines: list[str] = []

    @property
    def connection(self) -> Connection:
        """The server's side."""
        host = self._endpoint.host
        assert isinstance(host, BusHost)
        driver = host.services.registry.named(self._endpoint, self.id)
        assert driver is not None
        return driver.connection

    def say(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        self.peer.send(json.dumps({"type": kind, **fields}))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """Return the next message, of one of these types if any are named."""
        while True:
            if not self._lines:
                frame = await self.peer.receive()
                assert isinstance(frame, str)
                self._lines = frame.split("\n")[::-1]
            message: dict[str, Any] = json.loads(self._lines.pop())
            if not kinds or message["type"] in kinds:
                return message

    async def subscribe(self, *patterns: str) -> None:
        """Subscribe."""
        self.say("subscribe", channels=patterns)
        answer = await self.hear("subscribed")
        assert answer["data"]["channels"] == [*patterns]

    async def command(self, action: str, **params: Any) -> dict[str, Any]:
        """Give a command; return the response."""
        self.say("command", id=action, action=action, params=params)
        return await self.hear("response")

    async def events(self) -> list[Any]:
        """Return the data of the events that have come by now."""
        self.say("ping", id="events?")
        found = []
        while (message := await self.hear())["type"] != "pong":
            if message["type"] == "event":
                found.append(message["data"])
        return found

    async def is_refused(self, action: str, **params: Any) -> str | None:
        """Give a command; return the code it is refused with."""
        response = await self.command(action, **params)
        return None if response["success"] else str(response["error"]["code"])


@asynccontextmanager
async def connecting(
    endpoint: Endpoint, *, direct: bool = True, **options: Any
) -> AsyncIterator[Connect]:
    """Give ``connect(name, …)``; the connections end with the block.

    Args:
        endpoint: Where they come in.
        direct: Whether the transports can write without waiting.
        **options: Fields of the handshake.
    """
    clients: list[Client] = []
    async with create_task_group() as tasks:

        async def connect(name: str | None = None, *, hears: bool = True, **more: Any) -> Client:
            query = "" if name is None else f"token={name}"
            handshake = Handshake(**{"path": "/ws", "query_string": query, **options, **more})
            admission = await endpoint.admit(handshake)
            assert isinstance(admission, Admission), admission
            client = Client(endpoint, DirectMemoryTransport() if direct else MemoryTransport())
            tasks.start_soon(endpoint.run, client.transport, admission)
            clients.append(client)
            if hears:
                client.id = (await client.hear("connected"))["data"]["connection_id"]
            return client

        try:
            yield connect
        finally:
            for client in clients:
                client.peer.read_on()
                client.peer.close()


def steady(value: object) -> str:
    """Return an id for a test that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


async def quiet() -> None:
    """Let happen what is due: without sockets nothing takes more than a few turns of the loop."""
    for _ in range(50):
        await checkpoint()
