"""The set-up for checks of adapters: one served endpoint, and clients that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from anyio import CancelScope, Event, create_task_group, move_on_after
from anyio.abc import TaskStatus

from ..bus import Bus
from ..connection import Connection, ConnectionInfo
from ..core.limits import Limits
from ..endpoint import Endpoint
from .peer import Peer

__all__ = ["Adapter", "ConformanceError", "JsonPeer", "Serve", "Site", "open_site", "require"]

Serve: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[tuple[str, int]]]
"""Serves an endpoint, on every path, at the address it gives; on exit it shuts down as the server
does in production, clients or no clients."""

UNLIMITED: Final = Limits(messages_per_second=None, commands_per_second=None)


class ConformanceError(AssertionError):
    """An adapter breaks a law."""


def require(fact: object, law: str) -> None:
    """Check that a law holds.

    Raises:
        ConformanceError: The adapter breaks it.
    """
    if not fact:
        raise ConformanceError(law)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The adapter to check, and the promises that its server does not allow."""

    serve: Serve
    make_bus: Callable[[], Bus] = Bus
    """Makes the bus of each check."""
    connect: Callable[..., Awaitable[Peer]] = Peer.connect
    """Makes a client: a subclass of :class:`.Peer` can reach what is no WebSocket. Its arguments
    are those of :meth:`.Peer.connect`."""
    frees_sockets: bool = True
    """An aborted connection's socket is gone at once. False: only its task is gone, and the socket
    goes when the server closes it, as on plain ASGI."""
    bounds_pongs: bool = True
    """Pings of a peer that never reads cost no memory. False: the server answers them below the
    adapter, without bound."""
    tells_resets: bool = True
    """A connection that breaks ends with 1006, one that is closed without a code with 1005."""
    drains: bool = True
    """At shutdown clients get what they are owed. False: the server closes the connections itself,
    and the last publications are lost."""
    chooses_status: bool = True
    """A handshake is refused with the status that fits. False: always with 403."""
    hidden_bytes: int = 1 << 20
    """Bytes that may wait for a peer below its queue, in buffers of the server and both kernels."""


class JsonPeer:
    """A :class:`.Peer` that speaks one of wsbus's JSON dialects."""

    def __init__(self, peer: Peer) -> None:
        self.peer: Final = peer
        self._lines: list[str] = []

    async def say(self, kind: str, **fields: Any) -> None:
        """Send one message."""
        message: Mapping[str, Any] = {"type": kind, **fields}
        await self.peer.send(msgspec.json.encode(message).decode())

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """Return the next message, of one of these types if any are named; skip the others.

        Raises:
            TransportClosed: The connection has ended.
        """
        while True:
            if not self._lines:
                frame = await self.peer.receive()
                text = frame if isinstance(frame, str) else frame.decode()
                self._lines = text.split("\n")[::-1]
            message: dict[str, Any] = msgspec.json.decode(self._lines.pop())
            if not kinds or message["type"] in kinds:
                return message

    async def subscribe(self, *patterns: str) -> None:
        """Subscribe, and wait for the confirmation."""
        await self.say("subscribe", channels=patterns)
        answer = await self.hear("subscribed")
        require(answer["data"]["channels"] == [*patterns], f"a subscription was refused: {answer}")

    async def ping(self, ref: str = "") -> None:
        """Send a ping, and wait for the pong; events that come before it are skipped."""
        await self.say("ping", id=ref)
        while (await self.hear("pong"))["id"] != ref:
            pass


class Site:
    """A running bus, one served endpoint of it, and the connections that have ended."""

    def __init__(self, adapter: Adapter, bus: Bus, endpoint: Endpoint) -> None:
        self.adapter: Final = adapter
        self.bus: Final = bus
        self.endpoint: Final = endpoint
        self.address: tuple[str, int] = ("", 0)
        self.peers: Final[list[Peer]] = []
        self.stop: Final = Event()
        self.stopped: Final = Event()
        self._gone: Final[list[Connection]] = []
        self._left = Event()
        bus.on_disconnect(self._note)

    async def connect(self, target: str = "/ws", **options: Any) -> JsonPeer:
        """Connect, and wait for the application's hook; options are those of :class:`.Peer`."""
        client = await self.knock(target, **options)
        require(client.peer.status == 101, f"refused with {client.peer.status}")
        return client

    async def knock(self, target: str = "/ws", **options: Any) -> JsonPeer:
        """Ask for a connection; it may be refused."""
        peer = await self.adapter.connect(self.address, target, **options)
        self.peers.append(peer)
        return JsonPeer(peer)

    def info(self, client: JsonPeer) -> ConnectionInfo:
        """Return the server's information about a connected client."""
        everyone = {info.client: info for info in self.bus.connections()}
        return everyone[client.peer.address]

    def connection(self, client: JsonPeer) -> Connection:
        """Return the server's side of a client."""
        found = self.bus.connection(self.info(client).connection_id)
        assert found is not None
        return found

    async def departure(self, client: JsonPeer) -> Connection:
        """Wait until the application's hook was called for a client that has left."""
        while True:
            for connection in self._gone:
                if connection.handshake.client == client.peer.address:
                    return connection
            await self._left.wait()

    def has_left(self, client: JsonPeer) -> bool:
        """Tell whether the application's hook was called for a client that has left."""
        return any(gone.handshake.client == client.peer.address for gone in self._gone)

    async def shut_down(self) -> None:
        """Shut the server down while clients are connected."""
        self.stop.set()
        await self.stopped.wait()

    def _note(self, connection: Connection) -> None:
        self._gone.append(connection)
        left, self._left = self._left, Event()
        left.set()


@asynccontextmanager
async def open_site(adapter: Adapter, **options: Any) -> AsyncIterator[Site]:
    """Serve an endpoint with these options; on exit the clients close first."""
    bus = adapter.make_bus()
    endpoint = bus.endpoint(**{"limits": UNLIMITED, **options})
    async with bus, create_task_group() as tasks:
        site: Site = await tasks.start(_serve, Site(adapter, bus, endpoint))
        try:
            yield site
        finally:
            for peer in site.peers:
                peer.reset()
            with CancelScope(shield=True), move_on_after(5):
                await site.shut_down()


async def _serve(site: Site, *, task_status: TaskStatus[Site]) -> None:
    # In a task of its own: a server that is a task group must be left where it was entered.
    async with site.adapter.serve(site.endpoint) as site.address:
        task_status.started(site)
        await site.stop.wait()
    site.stopped.set()
