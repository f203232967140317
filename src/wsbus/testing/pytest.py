"""Fixtures for pytest: ``pytest_plugins = ["wsbus.testing.pytest"]`` in ``conftest.py``.

``wsbus_network`` is a :class:`.MemoryNetwork`; ``wsbus_client`` is :func:`wsbus.testing.client
<.in_memory.client>` over this network; ``wsbus_broker`` is a :class:`.FaultyBroker`. Each test has
its own. They need no event loop, so they work with the plugin of anyio, pytest-asyncio and others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

from .in_memory import client
from .network import MemoryNetwork
from .outage import FaultyBroker

if TYPE_CHECKING:  # It needs the extra "client".
    from ..client import Connecting

__all__ = ["wsbus_broker", "wsbus_client", "wsbus_network"]


@pytest.fixture
def wsbus_network() -> MemoryNetwork:
    """Return the network of the clients of a test."""
    return MemoryNetwork()


@pytest.fixture
def wsbus_client(wsbus_network: MemoryNetwork) -> Callable[..., Connecting]:
    """Return a function that connects a client to a bus over the network of the test."""
    return partial(client, network=wsbus_network)


@pytest.fixture
def wsbus_broker() -> FaultyBroker:
    """Return a broker in memory for the buses of a test, which the test can break."""
    return FaultyBroker()
