"""The Python client asks which connections are on a channel."""

from __future__ import annotations

import pytest
from anyio import fail_after

from wsbus import Bus, Grants, Occupant, Presence
from wsbus.adapters.websockets import serve
from wsbus.client import CommandError, connect


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # The server's.
async def test_a_client_sees_who_is_on_a_channel() -> None:
    """Itself, too; where the family does not show it, the server says so."""
    bus = Bus()
    bus.family("chat.*", presence=Presence())
    endpoint = bus.endpoint(anonymous=Grants.of(subscribe=["*"], presence=["*"]))
    async with bus, serve(endpoint, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with fail_after(10):
            async with connect(f"ws://127.0.0.1:{port}") as client:
                async with client.subscribe("chat.lobby"):
                    while not (roster := await client.presence("chat.lobby")).count:
                        assert roster.members == ()
                    name = (await client.status()).connection_id
                    assert roster.members == (Occupant(name, "anonymous"),)
                with pytest.raises(CommandError, match="NO_PRESENCE"):
                    await client.presence("news")
