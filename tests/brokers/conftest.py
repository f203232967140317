"""Real servers for tests of brokers: shared ones, and ones that a test may kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.brokers.listening import BusThread
from tests.brokers.servers import KINDS, NATS, REDIS, Server, Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Give one server of each kind, for all tests of this process: leave them running."""
    with Servers() as found:
        yield found


@pytest.fixture(params=REDIS)
def redis_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Give a running Redis, then a running Valkey; both are shared."""
    return servers.of(request.param)


@pytest.fixture(params=NATS)
def nats_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Give a running NATS of Debian, then the newest one; both are shared."""
    return servers.of(request.param)


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Give ``start_server(kind, *arguments)``: a server of this test alone."""
    with ExitStack() as stack:

        def start(kind: str, *arguments: str) -> Server:
            return stack.enter_context(Server(KINDS[kind], *arguments))

        yield start


@pytest.fixture(params=["redis7", "nats2.15"])
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Give a running server of each client library; it is shared."""
    return servers.of(request.param)


@pytest.fixture
def bus(server: Server) -> Iterator[BusThread]:
    """Give a bus that listens to that server."""
    with BusThread(server.url) as running:
        yield running
