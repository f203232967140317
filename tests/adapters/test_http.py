"""A bus over HTTP: event streams, long polls and single requests, on every framework."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import httpx
import pytest
from anyio import Event, create_task_group

from tests.adapters.serving import client, receive, serving, subscribe
from wsbus import (
    Bus,
    Connection,
    History,
)
from wsbus.adapters import asgi

Serve: TypeAlias = Callable[[Bus], AbstractAsyncContextManager[int]]
JSON: Final = {"Content-Type": "application/json"}


@asynccontextmanager
async def on_asgi(bus: Bus) -> AsyncIterator[int]:
    """Serve on plain ASGI."""
    async with serving(asgi.app(bus)) as (port, _):
        yield port


SERVERS: Final = [on_asgi]


@pytest.fixture(params=SERVERS, ids=lambda serve: serve.__name__)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


def a_bus(**settings: Any) -> Bus:
    """Return a bus whose channels below ``news`` keep history."""
    bus = Bus(**settings)
    bus.family("news.*", history=History())
    return bus


class Stream:
    """Events of a stream, as a browser's ``EventSource`` reads them (HTML, section 9.2.6)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ""
        self.retry: int | None = None
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        data: list[str] = []
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if not line and data:
                message: dict[str, Any] = json.loads("\n".join(data))
                return message
            if field == "data":
                data.append(value)
            elif field == "id":
                self.last_id = value
            elif field == "retry":
                self.retry = int(value)
        raise EOFError

    async def until(self, kind: str) -> dict[str, Any]:
        while (message := await self.next())["type"] != kind:
            pass
        return message


@asynccontextmanager
async def web_client(port: int) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, timeout=10, trust_env=False) as http:
        yield http


@asynccontextmanager
async def events(
    port: int, query: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    async with (
        web_client(port) as http,
        http.stream("GET", f"/ws/events?{query}", headers=headers or {}) as response,
    ):
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


async def test_events(serve: Serve) -> None:
    """A stream is ``connected``, ``subscribed`` and events, as a WebSocket would get them."""
    bus = a_bus()
    async with serve(bus) as port, events(port, "channels=news.a,other&channels=x.*") as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert "connection" not in headers
        assert (await stream.next())["type"] == "connected"
        subscribed = await stream.next()
        assert subscribed["data"]["channels"] == ["news.a", "other", "x.*"]
        begun = stream.last_id
        await bus.publish("x.y", {"n": 1})
        assert (await stream.next())["channel"] == "x.y"
        assert stream.last_id == begun  # It is not kept, and so moves no position.
        await bus.publish("news.a", {"n": 2})
        async with client(port) as peer:
            await subscribe(peer, "news.a")
            await bus.publish("news.a", {"n": 3})
            assert (await stream.next())["data"] == {"n": 2}
            assert await stream.next() == await receive(peer)
        assert stream.last_id != begun


async def test_resumes(serve: Serve) -> None:
    """``Last-Event-ID`` brings what came after it, once and in order; it wins over ``since``."""
    bus = a_bus()
    async with serve(bus) as port:
        async with events(port, "channels=news.*") as stream:
            await stream.until("subscribed")
            first = stream.last_id
            await bus.publish("news.a", 1)
            assert (await stream.next())["data"] == 1
            second = stream.last_id
        for number in range(2, 5):
            await bus.publish("news.b", number)
        for query, headers, expected in (
            ("", {"Last-Event-ID": second}, [2, 3, 4]),
            (f"&since={second}", {}, [2, 3, 4]),
            (f"&since={second}", {"Last-Event-ID": first}, [1, 2, 3, 4]),
        ):
            async with events(port, f"channels=news.*{query}", headers) as stream:
                subscribed = await stream.until("subscribed")
                assert subscribed["data"]["positions"][0]["recovered"] is True
                assert [(await stream.until("event"))["data"] for _ in expected] == expected


async def test_a_lost_position_is_a_gap(serve: Serve) -> None:
    """A position of another epoch is a gap at the beginning, or 409 for who wants all."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http:
        async with events(port, "channels=news.a&since=1.another.5") as stream:
            kinds = [(await stream.next())["type"] for _ in range(3)]
            assert kinds == ["connected", "gap", "subscribed"]
            assert stream.last_id.startswith("1.")
            assert "another" not in stream.last_id
        answer = await http.get("/ws/events?channels=news.a&since=1.another.5&strict=1")
        assert (answer.status_code, answer.json()["code"]) == (409, "POSITION_LOST")
        answer = await http.get("/ws/poll?channels=news.a&since=1.another.5")
        assert [each["type"] for each in answer.json()["messages"]] == ["gap"]


async def test_polls(serve: Serve) -> None:
    """A poll answers at once with what was missed, else with what comes, else when it is over."""
    bus = a_bus()
    async with serve(bus) as port, web_client(port) as http:
        first = (await http.get("/ws/poll?channels=news.*,other")).json()
        assert [each["type"] for each in first["messages"]] == ["subscribed"]
        for number in range(5):
            await bus.publish("news.a", number)
        path, since = "/ws/poll?channels=news.*,other", first["position"]
        missed = (await http.get(f"{path}&since={since}")).json()
        assert [each["data"] for each in missed["messages"]] == [0, 1, 2, 3, 4]
        part = (await http.get(f"{path}&since={since}&limit=2")).json()
        assert [each["data"] for each in part["messages"]] == [0, 1]
        rest = (await http.get(f"{path}&since={part['position']}")).json()
        assert [each["data"] for each in rest["messages"]] == [2, 3, 4]
        assert rest["position"] == missed["position"]
        quiet = (await http.get(f"{path}&since={rest['position']}&wait=0")).json()
        assert quiet == {"position": rest["position"], "messages": []}
        answers: list[Any] = []

        async def poll() -> None:
            answers.append((await http.get(f"{path}&since={rest['position']}")).json())

        waits = Event()

        @bus.on_subscribe
        def note(_connection: Connection, pattern: str) -> None:
            if pattern == "other":
                waits.set()

        async with create_task_group() as tasks:
            tasks.start_soon(poll)
            await waits.wait()
            await bus.publish("news.a", 5)
        assert [each["data"] for each in answers[0]["messages"]] == [5]
