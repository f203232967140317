"""The JavaScript client over HTTP, whose event stream is cut at chosen bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio import connect_tcp, fail_after, open_process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.client.http_server import HttpServer
from tests.client.servers import HOST
from wsbus.testing import FaultProxy

CHANNEL: Final = "chat.room"
STREAM: Final = b"text/event-stream"
"""Each event stream has this once, in its head; bytes are counted from here."""
READER: Final = Path(__file__).with_name("reader.mjs")
REQUEST: Final = (
    f"GET /ws/events?channel={CHANNEL} HTTP/1.1\r\n"
    f"Host: {HOST}\r\nAuthorization: Bearer ada\r\n\r\n"
).encode()


def text_of(number: int) -> str:
    """Return what is published: letters of one to four bytes."""
    return f"{number:04} é€😀"


async def places(server: HttpServer) -> tuple[int, int]:
    """Return where the first event of a stream begins, and where it ends."""
    async with await connect_tcp(HOST, server.port) as raw:
        stream = BufferedByteReceiveStream(raw)
        await raw.send(REQUEST)
        await stream.receive_until(STREAM, 4096)
        begin = len(await stream.receive_until(b'"positions"', 4096))
        begin += len(await stream.receive_until(b"\n\n", 4096))
        server.publish(CHANNEL, "😀")
        return begin, begin + len(await stream.receive_until("😀".encode(), 4096)) + 20


@asynccontextmanager
async def reader(node: str, url: str) -> AsyncIterator[Callable[[], Any]]:
    """Run a client in a process of its own; give what returns its next line."""
    async with await open_process([node, *FLAGS, str(READER), url, "ada", CHANNEL]) as process:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)

        async def following() -> Any:
            with fail_after(30):
                return json.loads(await lines.receive_until(b"\n", 1 << 20))

        try:
            assert await following() == "reads"
            yield following
        finally:
            process.kill()


FLAGS: Final = ("--experimental-websocket", "--no-warnings")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # The client is a program of its own.
async def test_nothing_is_lost_or_doubled_wherever_a_stream_is_cut(
    require_command: Callable[[str, str], str],
) -> None:
    """Within its head, within its first messages, and at each byte of an event."""
    server = HttpServer()
    server.has_websockets = False
    server.start()
    cuts: list[int] = []
    try:
        begin, end = await places(server)

        def counts() -> Iterator[int]:
            for count in (*range(0, begin - 10, 40), *range(begin - 10, end)):
                cuts.append(count)
                yield count

        node = require_command("node", "nodejs")
        async with (
            FaultProxy(HOST, server.port) as proxy,
            reader(node, f"ws://{HOST}:{proxy.port}/ws") as following,
        ):
            proxy.cut_after(counts(), since=STREAM)
            proxy.cut()
            number = 0
            while not cuts or cuts[-1] < end - 1:
                server.publish(CHANNEL, text_of(number))
                assert await following() == text_of(number)
                number += 1
            server.publish(CHANNEL, "last")
            assert await following() == "last"
    finally:
        await anyio.to_thread.run_sync(server.stop)
    assert len(cuts) > 150
