"""Connections of clients without sockets, and a network between them and the bus that can fail."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote
from weakref import WeakSet

from anyio import Event, move_on_after, sleep_forever
from anyio.lowlevel import checkpoint

from .._spawn import spawn
from ..core.errors import CloseCode
from ..core.permissions import Identity
from ..endpoint import Endpoint, Refusal
from ..transport import Handshake
from .memory import DirectMemoryTransport

if TYPE_CHECKING:  # They need the extra "client".
    from websockets.uri import WebSocketURI

    from ..client.dialects import ClientDialect
    from ..client.settings import ClientWire

__all__ = ["MemoryNetwork"]

_FAREWELL_SECONDS: Final = 1.0
"""Time for the server's side of a connection to end after the client has closed it."""
_ports: Final = count(50_000)


class MemoryNetwork:
    """The network between the clients of a test and the bus: ``client(bus, network=network)``.

    It breaks like a real one, and without a socket. Any number of clients may share it.
    """

    def __init__(self) -> None:
        self.dialled: int = 0
        """Connections that clients have asked for."""
        self._wires: Final = WeakSet[_MemoryWire]()
        self._is_cut = False
        self._cuts = 0  # How often it was cut.
        self._thaw: Event | None = None  # Set when it is frozen no more.

    def cut(self) -> None:
        """Break all connections, and refuse new ones until :meth:`restore`.

        To break connections only, restore at once.
        """
        self._is_cut = True
        self._cuts += 1
        for wire in [*self._wires]:
            wire.cut()

    def freeze(self) -> None:
        """Let nothing pass, either way: connections stay open, and say nothing."""
        if self._thaw is None:
            self._thaw = Event()
        for wire in [*self._wires]:
            wire.freeze()

    def restore(self) -> None:
        """Let everything pass again; what was held arrives."""
        self._is_cut = False
        if self._thaw is not None:
            self._thaw.set()
            self._thaw = None
        for wire in [*self._wires]:
            wire.thaw()

    async def open(
        self,
        endpoint: Endpoint,
        identity: Identity | None,
        handshake: Handshake,
        *,
        is_binary: bool,
    ) -> _MemoryWire | Refusal | None:
        """Connect to an endpoint, as a server library does; None: the network is cut."""
        self.dialled += 1
        await checkpoint()
        cuts = self._cuts
        await self._pass_on()
        if self._is_cut:
            return None
        admission = await endpoint.admit(handshake, identity)
        await self._pass_on()
        is_broken = cuts != self._cuts
        if isinstance(admission, Refusal):
            return None if is_broken else admission
        if is_broken:
            if admission.place is not None:
                admission.place.release()
            return None
        transport = DirectMemoryTransport()
        wire = _MemoryWire(transport, endpoint.limits.max_message_bytes, is_binary=is_binary)
        run = endpoint.run(transport, admission)
        spawn(lambda: self._serve(wire, run))
        self._wires.add(wire)
        return wire

    async def _pass_on(self) -> None:
        """Wait until it is not frozen."""
        while self._thaw is not None:
            await self._thaw.wait()

    async def _serve(self, wire: _MemoryWire, run: Coroutine[Any, Any, None]) -> None:
        try:
            await run
        finally:
            wire.ended.set()


class _MemoryWire:
    """One connection of a client; see :class:`.ClientWire`."""

    def __init__(
        self, transport: DirectMemoryTransport, max_bytes: int, *, is_binary: bool
    ) -> None:
        self.ended: Final = Event()
        """Set once the server's side has ended."""
        self._transport: Final = transport
        self._peer: Final = transport.peer
        self._max_bytes: Final = max_bytes
        self._is_binary: Final = is_binary
        self._held: list[Callable[[], None]] | None = None
        self._may_pass = Event()
        self._may_pass.set()

    async def receive(self) -> list[str | bytes]:
        """Wait for messages, and until they may pass."""
        try:
            messages = [await self._peer.receive()]
        finally:  # The end of the connection is news, too.
            while not self._may_pass.is_set():
                await self._may_pass.wait()
        messages += self._peer.received
        self._peer.received.clear()
        return messages

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self._held is not None:
            self._held.append(lambda: self.send(message))
        elif len(message) > self._max_bytes:  # A server library refuses it like this.
            self._peer.close(CloseCode.MESSAGE_TOO_BIG, f"over {self._max_bytes} bytes")
        elif self._peer.closed is None:
            self._peer.send(message if self._is_binary else message.decode())

    def hang_up(self, code: int, reason: str) -> None:
        """Close the connection."""
        if self._held is not None:
            self._held.append(lambda: self.hang_up(code, reason))
        else:
            self._peer.close(code, reason)

    async def run_writer(self) -> None:
        """Wait: messages are passed on as they are sent."""
        await sleep_forever()

    async def finish(self) -> None:
        """Wait until the server's side has ended."""
        with move_on_after(_FAREWELL_SECONDS):
            await self.ended.wait()

    async def abort(self) -> None:
        """End it at once."""
        if self._held is not None:
            self._held.append(self._transport.abort)
        else:
            self._transport.abort()

    def cut(self) -> None:
        """Break, for both sides; what was held is lost."""
        self._held = None
        self._transport.abort()
        self._may_pass.set()

    def freeze(self) -> None:
        """Let nothing pass."""
        if self._held is None:
            self._held, self._may_pass = [], Event()

    def thaw(self) -> None:
        """Let pass what was held, and what comes."""
        held, self._held = self._held, None
        for send in held or ():
            send()
        self._may_pass.set()


class Way:
    """The way of one client to an endpoint: what the client calls to connect."""

    def __init__(
        self,
        network: MemoryNetwork,
        endpoint: Endpoint,
        identity: Identity | None,
        path_params: Mapping[str, str],
    ) -> None:
        self._network: Final = network
        self._endpoint: Final = endpoint
        self._identity: Final = identity
        self._path_params: Final = path_params

    async def __call__(
        self,
        uri: WebSocketURI,
        speaks: ClientDialect,
        *,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,  # there is nothing to encrypt
        max_bytes: int,  # the server is the test's own
    ) -> ClientWire:
        """Connect, once; see :class:`.OpenWire`."""
        from websockets.datastructures import Headers  # the extra "client"

        from ..client.address import explain_network, explain_status

        shown = {"host": uri.host, "user-agent": "wsbus"}
        shown |= {name.lower(): value for name, value in headers.items()}
        handshake = Handshake(
            path=unquote(uri.path),
            query_string=uri.query or "",
            headers=shown,
            client=("127.0.0.1", next(_ports)),
            subprotocols=tuple(subprotocols),
            path_params=self._path_params,
        )
        wire = await self._network.open(
            self._endpoint, self._identity, handshake, is_binary=speaks.is_binary
        )
        if wire is None:
            raise explain_network(ConnectionRefusedError(), uri)
        if isinstance(wire, Refusal):
            raise explain_status(wire.status, Headers(), wire.reason.encode(), uri)
        return wire
