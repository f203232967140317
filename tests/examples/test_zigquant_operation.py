"""What the operator of an example sees: its log, and how it stops."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from urllib.parse import urlsplit

import pytest

from tests.examples.conftest import NAMES
from tests.examples.peer import PATIENCE, Peer, Server, running, token

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Server, int]]]:
    """Two fresh servers of each kind, one for each signal."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        yield [
            (stack.enter_context(running(name, logs / f"{name}-{number}.log")), number)
            for name in NAMES
            for number in SIGNALS
        ]


async def misbehave(server: Server, secrets: list[str]) -> None:
    """Show tokens in every way there is, and send payloads that must not be logged."""
    good, bad, first = token(), token(secret="x" * 32), token(sub="first")
    secrets += [good, bad, first]
    assert await server.refusal(bad) in {401, 4500}
    assert await server.refusal(bad, path="/elsewhere") in {403, 404}
    assert await server.refusal(good, subprotocols=("soap",)) in {400, 403}
    async with server.connect() as peer:
        await peer.ask({"type": "auth", "token": first}, "auth_result")
        await peer.say(f'{{"type":"auth","token":"{bad}"}}')
        await peer.say(f'{{"type":"auth","token":["{good}"]}}')
        await peer.say(f'{{"type":"sec\\nret","x":"secret-payload","token":"{good}')
        await peer.say({"type": "command", "id": "c", "action": "secret-payload\n"})
        await peer.hear("response", id="c")
    for frame, is_text in (
        (b'{"x":"secret-payload"}', False),
        (b'{"x":"secret-payload\xff"}', True),
        (b'{"x":"secret-payload' + b"a" * 70_000 + b'"}', True),
    ):
        async with server.connect(good) as peer:
            await peer.socket.send(frame, text=is_text)
            await peer.close_code()
    async with server.connect(good) as peer:
        peer.socket.transport.abort()


async def stop(server: Server, number: int, peers: list[Peer]) -> float:
    """Send the signal; return how many seconds its end took."""
    began = time.monotonic()
    server.process.send_signal(number)
    codes = await asyncio.gather(*(peer.close_code() for peer in peers))
    assert set(codes) <= {1001, 1012}, codes
    status = await asyncio.to_thread(server.process.wait, PATIENCE)
    assert status == 0, server.log.read_text(encoding="utf-8", errors="replace")[-3000:]
    return time.monotonic() - began


async def clog(server: Server) -> Peer:
    """Connect a client that asks for much and never reads."""
    address = urlsplit(server.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((address.hostname, address.port))
    sock.setblocking(False)
    stack = AsyncExitStack()
    peer = await stack.enter_async_context(server.connect(token(), sock=sock, max_queue=1))
    frame = '{"type":"subscribe","channels":[' + ",".join(['"no..%s"' % ("x" * 200)] * 300) + "]}"
    for _ in range(60):
        try:
            async with asyncio.timeout(0.2):
                await peer.say(frame)
        except TimeoutError:
            break
    return peer


async def test_stopping_and_what_was_logged(pairs: list[tuple[Server, int]]) -> None:
    """SIGTERM and SIGINT: clients see 1001 or 1012, the exit code is 0, within 10 s.

    That holds with clients that have not authenticated, that are busy, and that never read. No
    line of the log, at DEBUG, holds a token or a payload, or complains of what clients did.
    """

    async def run(server: Server, number: int) -> None:
        secrets: list[str] = []
        await misbehave(server, secrets)
        async with (
            server.connect(token(), subprotocols=("zigquant-v2",)) as busy,
            server.connect(token()) as idle,
            server.connect() as stranger,
        ):
            await busy.subscribe("*")
            clogged = await clog(server)
            assert await stop(server, number, [busy, idle, stranger]) < 10
            clogged.socket.transport.abort()
        log = server.log.read_text(encoding="utf-8", errors="replace")
        for secret in secrets:
            for part in secret.split("."):
                if len(part) > 40:  # the header is the same for all
                    assert part not in log, server.name
        assert "eyJ" not in log
        assert "secret-payload" not in log
        complaints = re.findall(r"^.*(?:WARNING|ERROR|CRITICAL|Traceback).*$", log, re.MULTILINE)
        # These two are for the operator: misbehave() shows a forged token, and a wrong protocol.
        refusals = ("WARNING:wsbus.auth:a token is refused: ", "WARNING:wsbus.endpoint:refused a ")
        assert [line for line in complaints if not line.startswith(refusals)] == [], server.name

    await asyncio.gather(*(run(server, number) for server, number in pairs))
