"""The fault proxy, with real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET
from struct import pack

import pytest
from anyio import (
    BrokenResourceError,
    EndOfStream,
    connect_tcp,
    create_task_group,
    create_tcp_listener,
    current_time,
    fail_after,
    move_on_after,
    sleep,
)
from anyio.abc import SocketAttribute, SocketStream

from wsbus.testing import FaultProxy


class Line:
    """A client's end, behind the proxy; the server echoes."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream

    async def echoes(self, data: bytes = b"hello", *, within: float = 10) -> bool:
        """Send, and tell whether the same comes back in time."""
        await self.stream.send(data)
        with move_on_after(within):
            await self.hear(data)
            return True
        return False

    async def hear(self, data: bytes) -> None:
        heard = b""
        while len(heard) < len(data):
            heard += await self.stream.receive()
        assert heard == data


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Callable[[], object]]]:
    """Give a proxy before an echo server, and what counts the server's open connections."""
    served: set[SocketStream] = set()

    async def echo(stream: SocketStream) -> None:
        served.add(stream)
        try:
            async with stream:
                async for data in stream:
                    await stream.send(data)
        except BrokenResourceError:
            pass
        finally:
            served.discard(stream)

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo)
            async with FaultProxy("127.0.0.1", port) as proxy:
                yield proxy, lambda: len(served)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def line(proxy: FaultProxy) -> AsyncIterator[Line]:
    async with await connect_tcp("127.0.0.1", proxy.port) as stream:
        yield Line(stream)


async def test_without_faults_all_bytes_pass() -> None:
    """A megabyte each way passes in order, and the close of a side is passed on."""
    data = bytes(range(256)) * 4096
    async with proxied() as (proxy, _), line(proxy) as client, create_task_group() as tasks:
        tasks.start_soon(client.stream.send, data)
        await client.hear(data)
        assert len(proxy.connections) == 1
        await client.stream.send_eof()
        with pytest.raises(EndOfStream), fail_after(5):
            await client.stream.receive()


async def test_cut_and_reset_end_what_is_open_only() -> None:
    """A cut is an end of the stream, a reset is an error; connections to come are served."""
    async with proxied() as (proxy, _):
        async with line(proxy) as client:
            assert await client.echoes()
            proxy.cut()
            with pytest.raises(EndOfStream):
                await client.stream.receive()
        async with line(proxy) as client:
            assert await client.echoes()
            proxy.reset()
            with pytest.raises(BrokenResourceError):
                await client.stream.receive()
        async with line(proxy) as client:
            assert await client.echoes()


async def test_one_connection_of_several() -> None:
    """A fault of one connection leaves the others alone."""
    async with proxied() as (proxy, _), line(proxy) as first:
        assert await first.echoes()
        async with line(proxy) as second:
            assert await second.echoes()
            ours, theirs = proxy.connections
            ours.black_hole()
            assert not await first.echoes(within=0.2)
            assert await second.echoes()
            theirs.reset()
            with pytest.raises(BrokenResourceError):
                await second.stream.receive()
        ours.heal()
        await first.hear(b"hello")


async def test_a_black_hole_keeps_sockets_open_and_loses_nothing() -> None:
    """Nothing moves in a black hole, new connections included; healed, all of it arrives."""
    async with proxied() as (proxy, _), line(proxy) as old:
        assert await old.echoes()
        proxy.black_hole()
        assert not await old.echoes(b"one", within=0.2)
        async with line(proxy) as new:
            assert not await new.echoes(b"two", within=0.2)
            proxy.heal()
            with fail_after(5):
                await old.hear(b"one")
                await new.hear(b"two")
            assert await old.echoes()


async def test_a_black_hole_of_the_old_connections() -> None:
    """With ``new=False`` only what is open is held."""
    async with proxied() as (proxy, _), line(proxy) as old:
        assert await old.echoes()
        proxy.black_hole(new=False)
        async with line(proxy) as new:
            assert await new.echoes()
        assert not await old.echoes(within=0.2)


async def test_a_black_hole_hides_the_end_of_a_peer() -> None:
    """The server does not see in a black hole that its client is gone; a cut tells it."""
    async with proxied() as (proxy, served):
        async with line(proxy) as client:
            assert await client.echoes()
            proxy.black_hole()
        with move_on_after(0.1):
            while proxy.connections:
                await _turn()
        assert served() == 1
        proxy.cut()
        with fail_after(5):
            while served():
                await _turn()


async def test_a_delay_is_one_of_each_way() -> None:
    """What is sent arrives that much later, each way, and many messages wait side by side."""
    async with proxied() as (proxy, _), line(proxy) as client:
        assert await client.echoes()
        proxy.delay(0.1)
        before = current_time()
        for _ in range(20):
            await client.stream.send(b"x")
        await client.hear(b"x" * 20)
        assert current_time() - before >= 0.19
        proxy.delay(60)
        await client.stream.send(b"y")
        proxy.heal()
        with fail_after(5):
            await client.hear(b"y")


async def test_a_trickle_bounds_what_passes() -> None:
    """At most so many bytes a second pass, until healed."""
    async with proxied() as (proxy, _), line(proxy) as client:
        assert await client.echoes()
        proxy.trickle(10_000)
        before = current_time()
        await client.stream.send(b"x" * 2_000)
        await client.hear(b"x" * 2_000)
        assert current_time() - before >= 0.15
        proxy.trickle(1)
        await client.stream.send(b"y" * 2_000)
        proxy.heal()
        with fail_after(5):
            await client.hear(b"y" * 2_000)


async def test_cuts_at_chosen_bytes() -> None:
    """Each connection ends so many bytes after a text, however that comes; then none does."""
    got: list[bytes] = []
    async with proxied() as (proxy, _):
        proxy.cut_after([0, 1, 5], since=b"go")
        for pieces in ((b"ready, go: 12345",), (b"g", b"o: 12345"), (b"go", b": 1", b"2345")):
            async with line(proxy) as client:
                heard = b""
                with suppress(EndOfStream, BrokenResourceError), fail_after(5):
                    for piece in pieces:
                        await client.stream.send(piece)
                        heard += await client.stream.receive()
                    heard += await client.stream.receive()
                got.append(heard)
        async with line(proxy) as client:
            assert await client.echoes(b"go: 12345" * 100)

    assert got == [b"ready, go", b"go:", b"go: 123"]


async def test_a_server_that_resets_what_waits() -> None:
    """A reset by the server reaches a client although more than the proxy holds waits for it."""
    held: list[SocketStream] = []

    async def hold(stream: SocketStream) -> None:
        held.append(stream)
        await stream.receive()
        socket = stream.extra(SocketAttribute.raw_socket)
        socket.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
        await stream.aclose()

    async with (
        await create_tcp_listener(local_host="127.0.0.1") as listener,
        create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, hold)
        port = listener.extra(SocketAttribute.local_port)
        async with FaultProxy("127.0.0.1", port) as proxy, line(proxy) as client:
            with pytest.raises(BrokenResourceError), fail_after(10):
                await client.stream.send(b"x" * (64 << 20))
            assert held
        tasks.cancel_scope.cancel()


async def test_refused_connections() -> None:
    """New connections are refused, old ones go on, and the port is the same once healed."""
    async with proxied() as (proxy, _), line(proxy) as old:
        assert await old.echoes()
        proxy.refuse()
        with pytest.raises(OSError, match=r"refused|failed"):
            await connect_tcp("127.0.0.1", proxy.port)
        assert await old.echoes()
        proxy.heal()
        async with line(proxy) as new:
            assert await new.echoes()


async def test_a_server_that_is_gone() -> None:
    """A client is reset where the server cannot be reached."""
    async with proxied() as (inner, _), FaultProxy("127.0.0.1", inner.port) as proxy:
        inner.refuse()
        async with line(proxy) as client:
            with pytest.raises((BrokenResourceError, EndOfStream)), fail_after(5):
                await client.stream.receive()


async def _turn() -> None:
    await sleep(0.005)  # Nothing tells when a socket of another task closes.
