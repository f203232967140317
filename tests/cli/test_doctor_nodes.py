"""``wsbus doctor`` and the nodes of a service: what they say of themselves, and to each other."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette

from tests.adapters.serving import serving
from tests.brokers.servers import REDIS, Server, Servers
from tests.cli.running import wsbus
from wsbus import Bus
from wsbus.adapters.starlette import status_routes
from wsbus.brokers import broker_of
from wsbus.core.instant import Instant
from wsbus.server.services import read_clocks

AHEAD: Final = 100.0
"""Seconds by which the clock of one node is wrong."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    """Give a running Redis."""
    with Servers() as servers:
        yield servers.of(REDIS[0])


def wrong_clock() -> Instant:
    """Read a wall clock that is ahead."""
    now = read_clocks()
    return Instant(now.monotonic, now.wall + AHEAD)


async def doctor(*arguments: str) -> tuple[int, list[str]]:
    """Run the command; return the exit code, and the lines that are not about this machine."""
    ran = await to_thread.run_sync(wsbus, "doctor", *arguments)
    assert ran.stderr == ""
    return ran.returncode, [line for line in ran.stdout.splitlines() if "://" in line]


@asynccontextmanager
async def showing(bus: Bus) -> AsyncIterator[str]:
    """Serve the status of a bus; give the address of its routes."""
    async with serving(Starlette(routes=status_routes(bus))) as (port, _):
        yield f"http://127.0.0.1:{port}/-"


async def test_nodes_links_and_clocks_are_shown(redis: Server) -> None:
    """The nodes of a broker are listed with their clocks; a process tells of its link and lag."""
    here = Bus(broker=broker_of(redis.url))
    there = Bus(broker=broker_of(redis.url), clock=wrong_clock)
    async with here, there, here.subscribe("prices.*"), showing(here) as url:
        with fail_after(20):
            while len(here.nodes()) < 2 or not (there.healthy and here.healthy):
                await checkpoint()
        await there.publish("prices.BTC", 1)
        code, lines = await doctor("--broker", redis.url, "--status", url)
        assert len(here.nodes()) == 2  # The doctor is none.
    told = "\n".join(lines)
    assert code == 0
    assert f"ok   {redis.url}: 2 nodes are there" in told
    node = re.compile(r"(\S+) +\S+: node \S+, process \d+ on .*clock is ([+-]\d+)\.")
    nodes = [found.groups() for found in map(node.match, lines) if found]
    assert sorted((verdict, round(abs(int(at)), -1)) for verdict, at in nodes) == [
        ("ok", 0),
        ("warn", AHEAD),
    ]
    assert f"ok   {url}: it is ready" in told
    assert re.search(
        rf"ok   {url}: its link to {redis.url} is there .* 2 nodes and follows [1-9]", told
    )
    assert f"ok   {url}: round trip to the broker " in told
    assert re.search(rf"warn {url}: lag -(99|100)\.\d+ s", told)


async def test_a_process_without_its_broker_fails() -> None:
    """The lines have the reason, and what to try."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"redis://127.0.0.1:{free.getsockname()[1]}"
    async with Bus(broker=broker_of(address)) as bus, showing(bus) as url:
        code, lines = await doctor("--status", url)
    assert code == 1
    failed = [line for line in lines if line.startswith("fail")]
    assert failed[0].startswith(f"fail {url}: it is not ready: there is no link to {address}")
    assert f"it has no link to {address} since" in failed[1]
    assert failed[1].endswith(f"try wsbus doctor --broker {address} on that machine")


async def test_losses_of_slow_readers_are_warned_of() -> None:
    """It is a warning: the process does what it can."""
    bus = Bus()
    async with bus, bus.subscribe("a", max_messages=1), showing(bus) as url:
        for number in range(4):
            await bus.publish("a", number)
        code, lines = await doctor("--status", f"{url}/")
    assert code == 0
    assert [line.partition(";")[0] for line in lines] == [
        f"ok   {url}: it is ready",
        f"ok   {url}: 0 connections, 0 blocked, 1 queued events",
        f"warn {url}: slow readers have lost 3 events, and 0 connections have failed",
        f"ok   {url}: it has no broker: its clients get what this process publishes",
    ]


async def test_an_address_without_routes_of_status() -> None:
    """What is not there, does not answer, or is no address, is named."""
    async with Bus() as bus, showing(bus) as url:
        code, lines = await doctor("--status", f"{url}/elsewhere")
        assert (code, len(lines)) == (1, 1)
        assert lines[0].startswith(f"fail {url}/elsewhere: {url}/elsewhere/ready answers 404; ")
    code, lines = await doctor("--status", url)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"fail {url}: cannot ask it: ")
    ran = await to_thread.run_sync(wsbus, "doctor", "--status", "ws://x")
    assert (ran.returncode, "'ws://x' is no address of HTTP" in ran.stderr) == (2, True)
