"""Servers for clients to meet: a real one, a network that fails, and one that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self, TypeVar

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    aclose_forcefully,
    connect_tcp,
    create_task_group,
    create_tcp_listener,
    sleep,
    sleep_forever,
)
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

from wsbus import (
    Bus,
    CommandError,
    Connection,
    Grants,
    Handshake,
    History,
    Identity,
    Presence,
    Unauthenticated,
)
from wsbus.adapters.websockets import serve
from wsbus.testing.frames import Opcode

T = TypeVar("T")
HOST: Final = "127.0.0.1"
JSON_PROTOCOLS: Final = ("wsbus.v1", "zigquant-v2")
PROTOCOLS: Final = (*JSON_PROTOCOLS, "wsbus.v1.msgpack")
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
BROKEN: Final = (OSError, BrokenResourceError, ClosedResourceError, EndOfStream)
EVERYTHING: Final = Grants.of(
    admin=True, subscribe=["*"], publish=["*"], command=["*"], history=["*"], presence=["*"]
)
GUEST: Final = Grants.of(subscribe=["public.*"], command=["add"])


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for the name of its bearer: ``name``, ``guest …``, or ``name for seconds``."""
    if token is None:
        return None
    name, _, seconds = token.partition(" for ")
    if name.startswith("bad"):
        raise Unauthenticated("nobody knows this token")
    grants = GUEST if name.startswith("guest") else EVERYTHING
    return Identity(name, grants, time.time() + float(seconds) if seconds else None)


class Server:
    """A bus behind websockets' server, on an event loop in a thread of its own."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        self.bus = Bus()
        self.bus.family("chat.*", history=History(size=10_000))
        self.bus.family("short.*", history=History(size=3))
        self.bus.family("state.*", history=History(size=1))
        self.bus.family("here.*", presence=Presence(max_members=3))
        self.port = 0
        self.calls: list[str] = []
        """What the command ``note`` was told."""
        self.gate = asyncio.Event()
        """The command ``wait`` returns when it is set."""
        defaults: dict[str, Any] = {"protocols": PROTOCOLS, "authenticator": judge}
        self._endpoint = self.bus.endpoint(**defaults | options)
        self._tls: Final = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._add_commands()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://{HOST}:{self.port}/ws"

    def _add_commands(self) -> None:
        @self.bus.command("add")
        def add(a: float, b: float) -> float:
            return a + b

        @self.bus.command("note")
        def note(text: str) -> int:
            self.calls.append(text)
            return len(self.calls)

        @self.bus.command("wait")
        async def wait(text: str = "") -> str:
            self.calls.append(text)
            await self.gate.wait()
            return text

        @self.bus.command("refuse")
        def refuse() -> None:
            raise CommandError("TOO_LATE", "the shop is closed")

        @self.bus.command("revoke")
        def revoke(connection: Connection, pattern: str, reason: str | None = None) -> bool:
            return connection.revoke(pattern, reason)

        @self.bus.command("leave")
        def leave(connection: Connection, code: int) -> None:
            connection.disconnect(code, "told to")

    def start(self) -> None:
        """Listen, on the same port as before."""
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(ready),))
        self._thread.start()
        self.port = ready.result(10)

    def stop(self) -> None:
        """Drain, and stop listening. Idempotent."""
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = self._loop = None

    async def _main(self, ready: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.gate = asyncio.Event()
        try:
            async with self.bus, serve(self._endpoint, HOST, self.port, ssl=self._tls) as server:
                ready.set_result(next(iter(server.sockets)).getsockname()[1])
                await self._stop.wait()
        except BaseException as exc:
            if not ready.done():
                ready.set_exception(exc)
            raise

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(10)

    def release(self) -> None:
        """Let the command ``wait`` return."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.gate.set)

    def publish(self, channel: str, *data: object) -> None:
        """Publish."""
        for item in data:
            self.bus.publish_threadsafe(channel, item)

    def held(self) -> list[list[str]]:
        """Return what each connection is subscribed to."""

        async def look() -> list[list[str]]:
            return [list(info.subscriptions) for info in self.bus.connections()]

        return self.run(look)


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """Give a running server; options are those of the endpoint."""
    server = Server(**options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """A network between a client and a server, which can fail."""

    def __init__(self, tasks: TaskGroup, port: int) -> None:
        self.target = port
        self.port = 0
        self.accepted = 0
        """Connections over all."""
        self.is_black_hole = False
        """Whether bytes vanish, both ways, on connections old and new."""
        self.muted = 0
        """What the server says over the first so many connections vanishes."""
        self._tasks: Final = tasks
        self._open: Final[set[SocketStream]] = set()

    @property
    def url(self) -> str:
        """The server, as seen through it."""
        return f"ws://{HOST}:{self.port}/ws"

    def cut(self) -> None:
        """Reset every connection, as a crash does."""
        for stream in list(self._open):
            sock = stream.extra(SocketAttribute.raw_socket)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._tasks.start_soon(aclose_forcefully, stream)

    async def handle(self, client: SocketStream) -> None:
        """Pass bytes on between one client and the server."""
        self.accepted += 1
        number = self.accepted
        try:
            async with client, await connect_tcp(HOST, self.target) as server:
                self._open.update((client, server))
                try:
                    async with create_task_group() as tasks:
                        tasks.start_soon(self._pass, client, server, tasks.cancel_scope, math.inf)
                        tasks.start_soon(self._pass, server, client, tasks.cancel_scope, number)
                finally:
                    self._open.difference_update((client, server))
        except BROKEN:
            pass  # there is no server

    async def _pass(
        self,
        source: SocketStream,
        sink: SocketStream,
        scope: CancelScope,
        number: float,
    ) -> None:
        try:
            while True:
                data = await source.receive()
                if not self.is_black_hole and number > self.muted:
                    await sink.send(data)
        except BROKEN:
            if not self.is_black_hole:
                scope.cancel()


@asynccontextmanager
async def through_proxy(server: Server) -> AsyncIterator[Proxy]:
    """Give a network before the server."""
    async with await create_tcp_listener(local_host=HOST) as listener, create_task_group() as tasks:
        proxy = Proxy(tasks, server.port)
        proxy.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, proxy.handle)
        yield proxy
        tasks.cancel_scope.cancel()


class Scripted:
    """One connection to a server that says what it is told to say."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream: Final = stream

    async def shake_hands(self, *, subprotocol: str | None = "wsbus.v1") -> None:
        """Accept the handshake."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self.stream.receive(1)
        fields = dict(
            line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line
        )
        key = fields["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        named = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        await self.stream.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n{named}\r\n".encode()
        )

    async def welcome(self) -> None:
        """Accept the handshake and say hello."""
        await self.shake_hands()
        await self.say('{"type":"connected","data":{"connection_id":"c","subject":"u"}}')

    async def say(self, *texts: str) -> None:
        """Send texts, a frame each."""
        for text in texts:
            await self.frame(Opcode.TEXT, text.encode())

    async def frame(self, opcode: int, payload: bytes, *, is_final: bool = True) -> None:
        """Send a frame, legal or not."""
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2)
        await self.stream.send(bytes([0x80 * is_final | opcode]) + length + payload)

    async def drain(self) -> bytes:
        """Read all that the client says until it hangs up."""
        data = b""
        try:
            while True:
                data += await self.stream.receive()
        except BROKEN:
            return data

    async def silence(self) -> None:
        """Say nothing more."""
        await sleep_forever()

    async def __aenter__(self) -> Self:
        await self.stream.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await aclose_forcefully(self.stream)


@asynccontextmanager
async def scripted(script: Callable[[Scripted], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve a script for every connection; give the address."""

    async def handle(stream: SocketStream) -> None:
        try:
            async with Scripted(stream) as peer:
                await script(peer)
        except BROKEN:
            pass  # the client had enough

    async with await create_tcp_listener(local_host=HOST) as listener, create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"ws://{HOST}:{listener.extra(SocketAttribute.local_port)}/ws"
        tasks.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a server in another thread will do soon; nothing here can be awaited."""
    while not condition():  # noqa: ASYNC110
        await sleep(0.005)


class Latch:
    """Collects changes, and lets a test wait for one of a type."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self._wake = Event()

    def __call__(self, change: Any) -> None:
        """Be ``on_change``."""
        self.changes.append(change)
        self._wake.set()
        self._wake = Event()

    async def next(self, kind: type[T], count: int = 1) -> T:
        """Wait for the ``count``-th change of a type."""
        while True:
            found = [change for change in self.changes if isinstance(change, kind)]
            if len(found) >= count:
                return found[count - 1]
            await self._wake.wait()
