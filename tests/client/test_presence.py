"""The Python client asks which connections are on a channel."""

from __future__ import annotations

import json

import pytest
from anyio import fail_after, to_thread
from click.testing import CliRunner, Result

from wsbus import Bus, Grants, Occupant, Presence
from wsbus.adapters.websockets import serve
from wsbus.cli import wsbus
from wsbus.client import CommandError, connect


def run(port: int, *arguments: str) -> Result:
    """Run ``wsbus presence``."""
    return CliRunner().invoke(wsbus, ["presence", f"ws://127.0.0.1:{port}", *arguments])


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
                    shown = await to_thread.run_sync(run, port, "chat.lobby")
                    assert (shown.exit_code, shown.output) == (0, f"{name}  anonymous\n")
                    shown = await to_thread.run_sync(run, port, "chat.lobby", "--json")
                    members = [{"id": name, "subject": "anonymous"}]
                    assert json.loads(shown.output) == {"count": 1, "members": members}
                    shown = await to_thread.run_sync(run, port, "news")
                    assert shown.exit_code == 1
                    assert "NO_PRESENCE" in shown.output
                with pytest.raises(CommandError, match="NO_PRESENCE"):
                    await client.presence("news")
