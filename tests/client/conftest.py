"""What tests of the client may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.servers import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a server that wants a token."""
    with serving() as running:
        yield running
