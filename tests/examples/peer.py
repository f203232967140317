"""A client that knows nothing but the protocol's page, and the server processes it talks to."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Final, TypeAlias

import jwt
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

ROOT: Final = Path(__file__).parents[2]
SECRET: Final = "the-secret-of-the-tests-32-bytes-long"
PATIENCE: Final = 15.0
"""Seconds for anything that is awaited; far more than it takes."""
GRID: Final = {"pair": "BTC-USDC", "upper_price": 100000, "lower_price": 90000, "grid_count": 10}
ALL: Final[dict[str, Any]] = {"admin": True, "command": ["*"], "publish": ["*"]}

Message: TypeAlias = dict[str, Any]
Scenario: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def token(seconds: float = 300.0, secret: str = SECRET, **claims: Any) -> str:
    """Return a token; without claims it is an administrator's, who may command everything."""
    claims = {"sub": "u1", "exp": time.time() + seconds} | (claims or ALL)
    return jwt.encode(claims, secret, algorithm="HS256")


class Server:
    """One example server in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        self.name: Final = name
        self.process: Final = process
        self.log: Final = log
        self._stdout: Final = process.stdout

    @cached_property
    def url(self) -> str:
        """Where it listens; the first to ask waits until it is ready."""
        return self._stdout.readline().strip()

    @asynccontextmanager
    async def connect(
        self,
        token: str | None = None,
        *,
        subprotocols: tuple[str, ...] = (),
        origin: str | None = None,
        path: str | None = None,
        **options: Any,
    ) -> AsyncIterator[Peer]:
        """Connect, with the token in the query."""
        url = self.url if path is None else self.url.removesuffix("/ws") + path
        async with websockets.connect(
            url if token is None else f"{url}?token={token}",
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            origin=None if origin is None else Origin(origin),
            proxy=None,
            ping_interval=None,
            close_timeout=1,
            **options,
        ) as socket:
            yield Peer(socket)

    async def refusal(self, token: str | None = None, **options: Any) -> int:
        """Return the HTTP status, or the close code, with which a connection is refused."""
        try:
            async with self.connect(token, **options) as peer:
                return await peer.close_code()
        except InvalidStatus as exc:
            return exc.response.status_code


@contextmanager
def running(name: str, log: Path, *options: str) -> Iterator[Server]:
    """Run the ZigQuant example behind one of its servers."""
    own = ("--server", name, "--jwt-secret", SECRET, "--log-level", "DEBUG")
    with launched("zigquant.py", log, *own, *options, name=name) as server:
        yield server


@contextmanager
def launched(
    script: str, log: Path, *options: str, name: str = "", zone: str | None = None
) -> Iterator[Server]:
    """Run an example on a free port, unless the options name one; what it logs is in ``log``.

    Args:
        script: The example's file.
        log: Gets what it logs.
        *options: Of its command line.
        name: What failures call it.
        zone: Its time zone; None: that of the tests.
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"), PYTHONUNBUFFERED="1")
    if zone is not None:
        environment["TZ"] = zone
    command = [sys.executable, f"examples/{script}", "--port", "0", *options]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            yield Server(name or script, process, log)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def everywhere(scenario: Scenario) -> Scenario:
    """Make a test of what takes seconds: it runs against all servers at once.

    Args:
        scenario: A test that asks for ``server``.
    """

    @wraps(scenario)
    async def test(servers: list[Server], **arguments: Any) -> None:
        async def run(server: Server) -> None:
            try:
                await scenario(server=server, **arguments)
            except Exception as exc:
                exc.add_note(f"with the server {server.name}")
                raise

        await asyncio.gather(*map(run, servers))

    own = inspect.signature(scenario).parameters.values()
    asked = [one.replace(name="servers") if one.name == "server" else one for one in own]
    test.__signature__ = inspect.Signature(asked)  # type: ignore[attr-defined]  # pytest reads it
    return test


class Peer:
    """One connection, seen from the client."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket: Final = socket
        self.heard: Final[list[Message]] = []
        """Everything so far, in order."""

    async def say(self, message: Message | str | bytes) -> None:
        """Send a message; text as it stands, bytes as a binary frame."""
        text = json.dumps(message) if isinstance(message, dict) else message
        await self.socket.send(text)

    async def text(self) -> str:
        """Wait for the next frame, and return it with its timestamp taken out."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.socket.recv()
        assert isinstance(frame, str)
        self.heard.append(json.loads(frame))
        return re.sub(r'"timestamp":\d{13}', '"timestamp":…', frame)

    async def next(self) -> Message:
        """Wait for the next message."""
        await self.text()
        return self.heard[-1]

    async def hear(self, kind: str, **wanted: Any) -> Message:
        """Wait for a message of this type, with these values; all else is passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self.next()
                if message.get("type") == kind and wanted.items() <= message.items():
                    return message

    async def ask(self, message: Message | str, kind: str) -> Message:
        """Send a message, and wait for one of this type."""
        await self.say(message)
        return await self.hear(kind)

    async def event(self, channel: str, event: str) -> Message:
        """Wait for an event; return its data."""
        message = await self.hear("event", channel=channel, event=event)
        data: Message = message["data"]
        return data

    async def subscribe(self, *channels: str) -> Message:
        """Subscribe, and return what the answer holds."""
        answer = await self.ask({"type": "subscribe", "channels": channels}, "subscribed")
        data: Message = answer["data"]
        return data

    async def command(self, action: str, /, **params: Any) -> Message:
        """Give a command, and return its data, or its error."""
        reference = f"cmd_{len(self.heard)}"
        await self.say({"type": "command", "id": reference, "action": action, "params": params})
        answer = await self.hear("response", id=reference)
        data: Message = answer["data"] if answer["success"] else answer["error"]
        return data

    async def close_code(self) -> int:
        """Read to the end, and return the close code."""
        try:
            while True:
                await self.next()
        except ConnectionClosed as exc:
            return exc.rcvd.code if exc.rcvd else 1006

    async def is_alive(self) -> bool:
        """Tell whether a ping is answered."""
        await self.ask({"type": "ping"}, "pong")
        return True
