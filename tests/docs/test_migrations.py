"""Both sides of each page about moving to wsbus are served, and carry the same message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest
from anyio import create_task_group, fail_after, to_thread
from websockets.asyncio.client import connect as dial

from tests.docs.documents import HOW_TO, needing, running, served
from wsbus import Bus
from wsbus.client import connect

SECONDS: Final = 20


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


@contextmanager
def page(name: str) -> Iterator[Any]:
    with running(needing(HOW_TO / f"migrate-{name}.md")) as guide:
        yield guide


def post(url: str) -> None:
    urlopen(Request(url, method="POST"), timeout=SECONDS).close()


async def test_a_list_of_sockets_becomes_a_channel() -> None:
    """The text of one client reaches the other, with its number; so does its leaving."""
    with page("by-hand") as guide, fail_after(SECONDS):
        async with served(guide.before, Bus()) as host, dial(f"ws://{host}/ws/1") as one:
            async with dial(f"ws://{host}/ws/2") as two:
                await two.send("hello")
                assert await one.recv() == "2 says: hello"
            assert await one.recv() == "2 has left"
        async with (
            served(guide.after, guide.endpoint) as host,
            connect(f"ws://{host}/ws/1") as client,
            client.subscribe("talk") as heard,
        ):
            async with connect(f"ws://{host}/ws/2") as other:
                await other.command("say", {"text": "hello"})
                assert (await anext(heard)).data == "2 says: hello"
            assert (await anext(heard)).data == "2 has left"


async def test_broadcaster_becomes_a_bus() -> None:
    """A text of one client reaches clients, and a loop inside the process."""
    with page("broadcaster") as guide, fail_after(SECONDS):
        async with served(guide.before, Bus()) as host, dial(f"ws://{host}/ws") as one:
            await one.send("hello")
            assert await one.recv() == "hello"
        async with (
            served(guide.after, guide.endpoint) as host,
            connect(f"ws://{host}/ws") as client,
            client.subscribe("chatroom") as heard,
            guide.bus.subscribe("chatroom") as inside,
        ):
            await client.publish("chatroom", "hello")
            assert (await anext(heard)).data == (await anext(inside)).data == "hello"


async def test_a_consumer_becomes_a_command() -> None:
    """A message reaches its room; a view of Django publishes there, too."""
    with page("channels") as guide, fail_after(SECONDS):
        async with (
            served(guide.before, Bus()) as host,
            dial(f"ws://{host}/ws/chat/a/") as one,
            dial(f"ws://{host}/ws/chat/a/") as two,
        ):
            await one.send(json.dumps({"text": "hello"}))
            assert json.loads(await two.recv()) == {"text": "hello"}
        async with (
            served(guide.after, guide.endpoint) as host,
            connect(f"ws://{host}/ws") as client,
            client.subscribe("chat.a") as heard,
        ):
            await client.command("chat.say", {"room": "a", "text": "hello"})
            assert (await anext(heard)).data == {"text": "hello"}
            await to_thread.run_sync(lambda: urlopen(f"http://{host}/announce/a").close())
            assert (await anext(heard)).data == {"text": "a new post"}


async def test_litestars_channels_become_those_of_a_bus() -> None:
    """The same route publishes to the clients of each."""
    with page("litestar") as guide, fail_after(SECONDS):
        async with served(guide.before, Bus()) as host, dial(f"ws://{host}/live/prices.BTC") as one:
            await to_thread.run_sync(post, f"http://{host}/prices/BTC?last=1.5")
            assert json.loads(await one.recv()) == {"last": 1.5}
        async with (
            served(guide.after, guide.endpoint) as host,
            connect(f"ws://{host}/ws") as client,
            client.subscribe("prices.*") as heard,
        ):
            await to_thread.run_sync(post, f"http://{host}/prices/BTC?last=1.5")
            assert (await anext(heard)).data == {"last": 1.5}


async def test_event_streams_become_channels() -> None:
    """A stream has what is published; after a cut it has what was published meanwhile."""
    with page("sse") as guide, fail_after(SECONDS):
        for app, endpoint, path in [
            (guide.before, Bus(), "/events"),
            (guide.after, guide.endpoint, "/ws/events?channels=prices.*"),
        ]:
            async with served(app, endpoint) as host:
                url = f"http://{host}"
                stream = await to_thread.run_sync(urlopen, f"{url}{path}")
                with stream:
                    async with create_task_group() as tasks:
                        tasks.start_soon(to_thread.run_sync, post, f"{url}/price/1.5")
                        assert await to_thread.run_sync(first, stream)


def first(stream: Any) -> bool:
    """Read until a price comes."""
    return any(b'"last":' in line.replace(b" ", b"") for line in stream)
