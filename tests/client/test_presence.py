"""The Python client asks which connections are on a channel."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import pytest
from anyio import create_task_group, fail_after, to_thread, wait_all_tasks_blocked
from click.testing import CliRunner, Result

from tests.client.servers import Server, through_proxy
from wsbus import Bus, Grants, Occupant, Presence
from wsbus.adapters.websockets import serve
from wsbus.bus import host_of
from wsbus.cli import wsbus
from wsbus.client import (
    Client,
    CommandError,
    PresenceWatch,
    Retry,
    RosterChange,
    UsageError,
    connect,
)

SOON: Final = Retry(base=0.01, cap=0.02, attempts=None)


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


class Reader:
    """Reads a watch; every step must fit the ones before."""

    def __init__(self, watch: PresenceWatch) -> None:
        self.watch = watch
        self.known: set[Occupant] = set()

    async def step(self) -> RosterChange:
        """Take one step."""
        change = await anext(self.watch)
        assert self.known.issuperset(change.left)
        self.known.difference_update(change.left)
        assert self.known.isdisjoint(change.joined)
        self.known.update(change.joined)
        assert self.known == set(change.members)
        return change

    async def until(self, *expected: str, count: int | None = None) -> RosterChange:
        """Read on until just these are there, by subject, or so many."""
        while True:
            change = await self.step()
            names = sorted(str(each.subject) for each in change.members)
            if change.count == count or (count is None and names == sorted(expected)):
                return change


async def watchers(server: Server) -> list[str]:
    """Return the channels that somebody watches."""
    return [*host_of(server.bus).services.attendances._watchers]


async def there(stack: AsyncExitStack, server: Server, name: str, channel: str) -> Client:
    """Have a client come to a channel; it stays until the stack ends."""
    client = await stack.enter_async_context(connect(server.url, token=name))
    await stack.enter_async_context(client.subscribe(channel))
    return client


async def test_a_watch_yields_joins_and_leaves(server: Server) -> None:
    """First all that are there, then each join and leave once; two watches know the same."""
    async with AsyncExitStack() as stack:
        stack.enter_context(fail_after(10))
        client = await stack.enter_async_context(connect(server.url, token="watcher"))
        watch = await stack.enter_async_context(client.watch_presence("here.a"))
        reader = Reader(watch)
        first = await reader.step()
        assert (first.members, first.count, first.joined, first.left) == ((), 0, (), ())
        async with AsyncExitStack() as visit:
            ada = await there(visit, server, "ada", "here.a")
            occupant = Occupant(str(ada.connection_id), "ada")
            change = await reader.step()
            assert change == RosterChange((occupant,), 1, (occupant,), ())
            assert watch.roster.members == (occupant,)
            other = Reader(await visit.enter_async_context(client.watch_presence("here.a")))
            assert await other.step() == change
            await there(visit, server, "bob", "here.a")
            await reader.until("ada", "bob")
            await other.until("ada", "bob")
        while (change := await reader.step()).count:
            assert change.left
        assert not watch.roster.members


async def test_a_watch_is_right_again_after_a_reconnect(server: Server) -> None:
    """Who came and went meanwhile is one step, and changes come again."""
    async with through_proxy(server) as proxy, AsyncExitStack() as stack:
        stack.enter_context(fail_after(10))
        client = await stack.enter_async_context(connect(proxy.url, token="w", retry=SOON))
        reader = Reader(await stack.enter_async_context(client.watch_presence("here.a")))
        async with AsyncExitStack() as visit:
            await there(visit, server, "ada", "here.a")
            await there(visit, server, "bob", "here.a")
            await reader.until("ada", "bob")
            proxy.is_black_hole = True
        await there(stack, server, "eve", "here.a")
        proxy.is_black_hole = False
        proxy.cut()
        change = await reader.until("eve")
        assert [each.subject for each in change.joined] == ["eve"]
        await there(stack, server, "dan", "here.a")
        await reader.until("eve", "dan")


async def test_a_watch_of_many_has_their_number(server: Server) -> None:
    """Above the bound of the family the count is right; below it the members are again."""
    async with AsyncExitStack() as stack:
        stack.enter_context(fail_after(10))
        client = await stack.enter_async_context(connect(server.url, token="watcher"))
        reader = Reader(await stack.enter_async_context(client.watch_presence("here.b")))
        await there(stack, server, "ada", "here.b")
        await there(stack, server, "bob", "here.b")
        await reader.until("ada", "bob")
        async with AsyncExitStack() as visit:
            for name in ("c1", "c2", "c3"):
                await there(visit, server, name, "here.b")
            await reader.until(count=5)
        await there(stack, server, "eve", "here.b")
        await reader.until("ada", "bob", "eve")


async def test_the_server_is_asked_once_and_no_more_than_needed(server: Server) -> None:
    """The last watch of a channel ends it at the server, too; what is refused is raised."""
    async with connect(server.url, token="watcher") as client:
        with fail_after(10):
            with pytest.raises(CommandError, match="NO_PRESENCE"):
                async with client.watch_presence("a.b"):
                    pass
            async with client.watch_presence("here.a") as one, client.watch_presence("here.a"):
                with pytest.raises(UsageError, match="entered once"):
                    await one.__aenter__()
                async with create_task_group() as tasks:
                    reader = Reader(one)
                    await reader.step()
                    tasks.start_soon(reader.step)
                    await wait_all_tasks_blocked()
                    with pytest.raises(UsageError, match="another task waits"):
                        await anext(one)
                    tasks.cancel_scope.cancel()
            with pytest.raises(StopAsyncIteration):
                await anext(one)
            await client.status()  # The requests before it are acted on.
            assert await to_thread.run_sync(server.run, partial(watchers, server)) == []
            watch = client.watch_presence("here.a")
            with pytest.raises(UsageError, match="async with"):
                await anext(watch)
            with pytest.raises(UsageError, match="async with"):
                _ = watch.roster
    with pytest.raises(UsageError, match="closed"):
        async with client.watch_presence("here.a"):
            pass


async def test_a_watch_ends_with_the_client(server: Server) -> None:
    """The loop ends when the application closes the client."""
    client = await connect(server.url, token="watcher")
    with fail_after(10):
        async with client.watch_presence("here.a") as watch:
            await anext(watch)
            await client.aclose()
            assert [change async for change in watch] == []


async def test_what_cannot_be_watched(server: Server) -> None:
    """A wildcard, an impossible time limit, and a dialect without presence are refused at once."""
    async with connect(server.url, token="watcher") as client:
        with pytest.raises(UsageError):
            client.watch_presence("here.*")
        with pytest.raises(UsageError):
            client.watch_presence("here.a", timeout=0)
    async with connect(server.url, token="watcher", protocol="zigquant-v2") as client:
        with pytest.raises(UsageError, match="presence"):
            client.watch_presence("here.a")
