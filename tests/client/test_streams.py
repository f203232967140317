"""The Python client reads streams: over cuts, late, in parallel, to every kind of end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
import pytest
from anyio import create_task_group, fail_after

from tests.client.servers import Proxy, Server, through_proxy, wait_until
from wsbus import Bus, Grants, Stream
from wsbus.adapters.websockets import serve
from wsbus.client import (
    Client,
    CommandError,
    Retry,
    StreamCancelled,
    StreamFailed,
    UnexpectedData,
    connect,
    sync,
)

SOON: Final = Retry(base=0.01, cap=0.02)
CHANNEL: Final = "answers.42"
GRANTS: Final = Grants.of(subscribe=["*"], cancel=["answers.*"])


@asynccontextmanager
async def running(**stream: Any) -> AsyncIterator[tuple[Bus, Proxy]]:
    """Give a bus with streams, and a network to it that fails."""
    bus = Bus()
    bus.family("answers.*", stream=Stream(**stream))
    bus.family("locked.*", stream=Stream())
    endpoint = bus.endpoint(anonymous=GRANTS)
    with fail_after(30):
        async with bus, serve(endpoint, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with through_proxy(cast("Server", SimpleNamespace(port=port))) as proxy:
                yield bus, proxy


async def read(client: Client, channel: str = CHANNEL) -> str:
    """Return what a reader joins, which is what each part says, too."""
    text = ""
    async for part in client.stream(channel):
        assert part.delta
        text += part.delta
        assert part.text == part.value == text
    return text


pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # The server's.


async def test_readers_get_all_of_it_whenever_they_come() -> None:
    """Before it begins, in between, after its end, and several in one client: the same text."""
    texts: list[str] = []
    async with (
        running() as (bus, proxy),
        connect(proxy.url) as client,
        create_task_group() as tasks,
    ):

        async def note() -> None:
            texts.append(await read(client))

        tasks.start_soon(note)
        await wait_until(lambda: CHANNEL in client.subscriptions)
        async with bus.stream(CHANNEL) as s:
            for i in range(700):
                await s.append(f"{i} ")
                if i in {100, 200, 690}:
                    tasks.start_soon(note)
                    await anyio.lowlevel.checkpoint()
            s.result = {"tokens": 700}
        await wait_until(lambda: len(texts) == 4)
        async with client.stream(CHANNEL) as late:
            parts = [part async for part in late]
    whole = "".join(f"{i} " for i in range(700))
    assert texts == [whole] * 4
    assert [part.delta for part in parts] == [whole]
    assert late.result == {"tokens": 700}


async def test_cuts_cost_a_reader_nothing() -> None:
    """However often the connection is reset, also for longer than is replayed."""
    async with (
        running() as (bus, proxy),
        connect(proxy.url, retry=SOON) as client,
        create_task_group() as tasks,
    ):
        texts: list[str] = []

        async def note() -> None:
            texts.append(await read(client))

        tasks.start_soon(note)
        async with bus.stream(CHANNEL) as s:
            for i in range(2000):
                await s.append(f"{i} ")
                if i % 97 == 0:
                    proxy.cut()
                if i % 10 == 0:
                    await anyio.lowlevel.checkpoint()
        await wait_until(lambda: bool(texts))
    assert texts == [s.text]


async def test_every_end_is_an_end_for_the_reader() -> None:
    """A failure tells its message and nothing of the exception; a cancellation is one."""
    async with running() as (bus, proxy), connect(proxy.url) as client:

        async def break_down() -> None:
            async with bus.stream("answers.1") as s:
                await s.append("a")
                raise ValueError("secret")

        with pytest.raises(ValueError, match="secret"):
            await break_down()
        with pytest.raises(StreamFailed, match=r"^the producer failed$"):
            await read(client, "answers.1")
        async with bus.stream("answers.2") as s:
            await s.fail("no credit")
        with pytest.raises(StreamFailed, match=r"^no credit$"):
            await read(client, "answers.2")
        with anyio.CancelScope() as scope:
            async with bus.stream("answers.3") as s:
                scope.cancel()
                await anyio.sleep_forever()
        with pytest.raises(StreamCancelled):
            await read(client, "answers.3")


async def test_a_reader_may_ask_to_cancel_with_a_grant() -> None:
    """The producer's next append raises, and its readers learn how it ended."""
    async with running() as (bus, proxy), connect(proxy.url) as client:
        async with client.stream(CHANNEL) as stream:
            with pytest.raises(CommandError, match="NO_STREAM"):
                await stream.cancel()
            async with bus.stream(CHANNEL) as s:
                await s.append("begun")
                assert (await anext(stream)).delta == "begun"
                await stream.cancel()
                await s.wait_cancelled()
                await s.append("more")
                pytest.fail("it goes on")
            assert s.is_cancelled
            assert s.text == "begun"
            with pytest.raises(StreamCancelled):
                await anext(stream)
            await stream.cancel()
        async with bus.stream("locked.1"):
            with pytest.raises(CommandError, match="FORBIDDEN"):
                await client.cancel_stream("locked.1")
        with pytest.raises(CommandError, match="NO_STREAM"):
            await client.cancel_stream("answers.plain")


async def test_other_values_are_joined_by_the_application() -> None:
    """``compact`` on both sides makes the value; without it the reader learns what it lacks."""

    def compact(value: Any, delta: Any) -> Any:
        return [*(value or []), delta]

    async with running(compact=compact) as (bus, proxy), connect(proxy.url) as client:
        async with bus.stream(CHANNEL) as s:
            for i in range(300):
                await s.append({"step": i})
        steps = [{"step": i} for i in range(300)]
        values = [part.value async for part in client.stream(CHANNEL, compact=compact)]
        assert values[-1] == steps == s.value
        async with bus.stream("answers.7") as s:
            plain = client.stream("answers.7")
            async with plain:
                await s.append({"step": 1})
                with pytest.raises(UnexpectedData, match="compact="):
                    await anext(plain)


async def test_a_subscription_of_the_same_channel_takes_nothing_from_a_stream() -> None:
    """The stream begins anew and gets the whole; the subscription learns of a gap."""
    async with (
        running() as (bus, proxy),
        connect(proxy.url) as client,
        client.subscribe(CHANNEL) as events,
    ):
        async with bus.stream(CHANNEL) as s:
            await s.append("ab")
            async with client.stream(CHANNEL) as stream:
                assert (await anext(stream)).text == "ab"
                await s.append("c")
                assert (await anext(stream)).text == "abc"
        assert [(await anext(events)).event for _ in range(2)] == ["whole", "append"]


async def test_code_without_an_event_loop_reads_a_stream() -> None:
    """In a thread, with the same parts and the same ends."""
    async with running() as (bus, proxy), bus.stream(CHANNEL) as s:
        await s.append("a")

        def work() -> tuple[str, list[str]]:
            with sync.connect(proxy.url) as client, client.stream(CHANNEL) as stream:
                first = stream.get(10).delta
                stream.cancel()
                with pytest.raises(StreamCancelled):
                    stream.get(10)
                return first, [stream.text]

        async with create_task_group() as tasks:

            async def leave() -> None:
                await s.wait_cancelled()
                await s.__aexit__(None, None, None)

            tasks.start_soon(leave)
            assert await anyio.to_thread.run_sync(work) == ("a", ["a"])
