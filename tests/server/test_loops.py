"""A bus belongs to one event loop of one process; using it elsewhere is an error that says so."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from tests.server.clients import connecting, quiet
from wsbus import Bus, Connection, Handshake, NotStarted, UsageError
from wsbus.bus import host_of

LOOPS = ["asyncio", "trio"]


def forked(check: Callable[[], None]) -> str:
    """Call a function in a fork of this process; return the traceback of its failure."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            check()
        except BaseException:  # noqa: BLE001  # the parent gets it
            os.write(writing, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


def raises_of_fork(use: Callable[[], object]) -> None:
    """Check that a call is refused, and that the error says what to do instead."""
    with pytest.raises(UsageError, match=r"fork of the one.*lifespan=lifespan\(bus\)") as caught:
        use()
    assert not isinstance(caught.value, NotStarted)


# --- processes ------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@needs_fork
@pytest.mark.parametrize(
    "use",
    [
        lambda bus: bus.publish_soon("a"),
        lambda bus: bus.publish_threadsafe("a"),
        lambda bus: bus.send_threadsafe("a", to="ann"),
        lambda bus: bus.connections(),
        lambda bus: bus.statistics(),
        lambda bus: bus.disconnect("ann"),
        lambda bus: bus.nodes(),
    ],
    ids=["publish_soon", "threadsafe", "send", "connections", "statistics", "disconnect", "nodes"],
)
async def test_a_fork_cannot_use_the_bus(use: Callable[[Bus], object]) -> None:
    """Each call is refused in the fork, and goes on to work in the process that was forked."""
    async with Bus() as bus:
        assert forked(lambda: raises_of_fork(partial(use, bus))) == ""
        assert bus.is_running
        assert (await bus.publish("a")).local_matched == 0


@needs_fork
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_fork_cannot_start_the_bus(loop: str) -> None:
    """Nor publish in a loop of its own; a stop there ends nothing, and the parent goes on."""

    def check() -> None:
        async def main() -> None:
            assert not bus.is_running
            assert not bus.healthy
            for use in (bus.__aenter__, lambda: bus.publish("a"), bus.subscribe("a").__aenter__):
                with pytest.raises(UsageError, match="after the fork"):
                    await use()
            await bus.aclose()

        failure: list[BaseException] = []

        def run() -> None:
            try:
                anyio.run(main, backend=loop)
            except BaseException as exc:  # noqa: BLE001  # raised below
                failure.append(exc)

        # In a thread of its own: the loop of the parent is noted as the running one in this one.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    async with Bus() as bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.subscribe("a")
        assert forked(check) == ""
        await bus.publish("a", 1)
        assert await client.events() == [1]


@needs_fork
async def test_a_fork_cannot_write_to_connections() -> None:
    """They are those of the process that was forked; what is known of them can be read."""
    bus = Bus()
    met: list[Connection] = []
    bus.on_connect(met.append)
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await quiet()
        (connection,) = met

        def check() -> None:
            assert connection.id == client.id
            raises_of_fork(partial(connection.subscribe, "a"))
            raises_of_fork(connection.disconnect)
            raises_of_fork(connection.abort)

        assert forked(check) == ""
        assert await client.events() == []
        assert connection.info().is_alive


@needs_fork
async def test_a_bus_that_does_not_run_can_be_forked() -> None:
    """As servers do that load the application before they fork: each worker starts its own."""
    bus = Bus()
    async with bus:
        pass

    def check() -> None:
        thread = threading.Thread(target=anyio.run, args=(main,))
        thread.start()
        thread.join()
        assert ran == [True]

    async def main() -> None:
        async with bus:
            await bus.publish("a")
            ran.append(bus.is_running)

    ran: list[bool] = []
    assert forked(check) == ""


# --- event loops ----------------------------------------------------------------------------------


async def elsewhere(main: Callable[[], Awaitable[Any]], loop: str) -> None:
    """Run an async function in an event loop of another thread."""
    await anyio.to_thread.run_sync(partial(anyio.run, main, backend=loop))


@pytest.mark.parametrize("loop", LOOPS)
async def test_another_thread_cannot_have_it_too(loop: str) -> None:
    """A server with a loop for each thread needs a bus for each, as the error says."""
    bus = Bus()

    async def main() -> None:
        for use in (
            bus.__aenter__,
            bus.aclose,
            lambda: bus.publish("a"),
            lambda: bus.default_endpoint.admit(Handshake("/")),
            lambda: bus.subscribe("a").__aenter__(),
        ):
            with pytest.raises(UsageError, match="thread"):
                await use()
        with pytest.raises(UsageError, match="a bus for each event loop"):
            host_of(bus).runs_here()
        assert bus.is_running  # Probes may ask in any thread.

    async with bus:
        await elsewhere(main, loop)
        assert bus.is_running


async def test_one_bus_after_the_other() -> None:
    """What one thread has stopped another may start."""
    bus = Bus()

    async def main() -> None:
        async with bus:
            await bus.publish("a")

    for loop in (*LOOPS, *LOOPS):
        await elsewhere(main, loop)


def new_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def test_a_second_loop_of_one_thread() -> None:
    """While the first one stands still, the second is refused; afterwards the first goes on."""
    bus = Bus()
    first, second = new_loop(), new_loop()
    try:
        first.run_until_complete(bus.__aenter__())

        async def main() -> None:
            for use in (bus.__aenter__, bus.aclose, lambda: bus.publish("a")):
                with pytest.raises(UsageError, match="another event loop"):
                    await use()
            with pytest.raises(UsageError, match="another event loop"):
                bus.publish_soon("a")

        second.run_until_complete(main())
        anyio.run(main, backend="trio")
        bus.publish_soon("a")  # Between two runs of its loop it takes what goes out in the next.
        first.run_until_complete(bus.aclose())
    finally:
        first.close()
        second.close()


def test_a_loop_that_was_closed_under_the_bus(caplog: pytest.LogCaptureFixture) -> None:
    """It does not run any more, says why, and can be started in another loop."""
    bus = Bus()
    first = new_loop()
    first.run_until_complete(bus.__aenter__())
    first.close()

    async def main() -> None:
        assert not bus.is_running
        assert not bus.healthy
        with pytest.raises(UsageError, match="was closed before the bus was stopped"):
            bus.publish_soon("a")
        with pytest.raises(UsageError, match="was closed before the bus was stopped"):
            await bus.publish("a")
        await bus.aclose()

    asyncio.run(main())
    caplog.set_level(logging.WARNING)

    async def again() -> None:
        async with bus, connecting(bus.endpoint()) as connect:
            client = await connect()
            await client.subscribe("a")
            await bus.publish("a", 1)
            assert await client.events() == [1]

    asyncio.run(again())
    second = new_loop()
    second.run_until_complete(bus.__aenter__())
    second.close()
    anyio.run(again, backend="trio")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "wsbus.bus"]
    assert "the event loop was closed before the bus was stopped" in line


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_ends_without_a_stop(loop: str) -> None:
    """The next run starts it anew: asyncio.run and trio.run cut what they leave."""
    bus = Bus()

    async def main() -> None:
        await bus.__aenter__()
        await bus.publish("a")

    for _ in range(3):
        anyio.run(main, backend=loop)
