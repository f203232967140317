"""The example servers, started once for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.examples.peer import Server, running

NAMES = ("websockets", "aiohttp", "starlette")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The servers are processes of their own: the loop of their clients does not matter."""
    return "asyncio"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """One ZigQuant server for each adapter, all running."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(name, logs / f"{name}.log", "--seed", "1"))
            for name in NAMES
        ]


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, servers: list[Server]) -> Server:
    """Each of the servers in turn."""
    return next(each for each in servers if each.name == request.param)


@pytest.fixture(scope="session")
def kill_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, for a test that stops everything."""
    with running("websockets", tmp_path_factory.mktemp("kill") / "log", "--seed", "1") as server:
        yield server
