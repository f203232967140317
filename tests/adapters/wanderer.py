"""A reader that is cut at any byte, and comes back by another way at the position it has."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any, Final

import h11
from anyio import EndOfStream, Event, connect_tcp, create_task_group, fail_after, sleep
from websockets.asyncio.client import connect

from wsbus import Bus
from wsbus.core.events import Position
from wsbus.protocols.event_stream import position_of, token_of

PATTERN: Final = "run.*"
AHEAD: Final = 150
"""The most publications that the reader may miss: 300 are replayed."""


class Wanderer:
    """Reads one pattern over WebSocket, event stream and long poll, as chance has it."""

    def __init__(self, port: int, count: int, chance: random.Random) -> None:
        self.seen: list[int] = []
        self.ways: dict[str, int] = {}
        self.moved = Event()
        self._port: Final = port
        self._count: Final = count
        self._chance: Final = chance
        self.placed = Event()
        self._token = ""

    async def run(self) -> None:
        ways = {"socket": self._socket, "events": self._events, "poll": self._poll}
        while len(self.seen) < self._count:
            name = self._chance.choice([*ways])
            self.ways[name] = self.ways.get(name, 0) + 1
            await ways[name]()

    def _move(self, token: str | None) -> None:
        if token is not None:
            self._token = token
            self.placed.set()

    def _take(self, message: dict[str, Any]) -> None:
        assert message["type"] != "gap", message
        if message["type"] == "event":
            self.seen.append(message["data"])
            self.moved.set()
            self.moved = Event()

    async def _socket(self) -> None:
        since: dict[str, Any] = {}
        if self._token and (position := position_of(self._token)):
            start = {"epoch": position.epoch, "offset": position.offset, "tag": position.tag}
            since = {PATTERN: start}
        async with connect(f"ws://127.0.0.1:{self._port}/ws", proxy=None) as peer:
            await peer.send(
                json.dumps({"type": "subscribe", "channels": [PATTERN], "since": since})
            )
            for _ in range(self._chance.randrange(1, 8)):
                if len(self.seen) >= self._count:
                    break
                for line in str(await peer.recv()).splitlines():
                    message = json.loads(line)
                    self._take(message)
                    place = message.get("position")
                    if message["type"] == "subscribed":
                        (place,) = message["data"]["positions"]
                    if place is not None:
                        at = Position(place["epoch"], place["offset"], place.get("tag", ""))
                        self._move(token_of(at))
            peer.transport.abort()

    async def _events(self) -> None:
        text = ""
        limit = self._chance.randrange(1, 5000)
        async for part in self._get("events", limit):
            text += part
            *whole, text = text.split("\n\n")
            for event in whole:
                fields = dict(line.split(": ", 1) for line in event.splitlines())
                self._take(json.loads(fields["data"]))
                self._move(fields.get("id"))
            if len(self.seen) >= self._count:
                return

    async def _poll(self) -> None:
        limit = self._chance.choice([100_000, self._chance.randrange(1, 3000)])
        text = "".join([part async for part in self._get("poll", limit)])
        try:
            answer = json.loads(text)
        except ValueError:  # It was cut.
            return
        for message in answer["messages"]:
            self._take(message)
        self._move(answer["position"])

    async def _get(self, what: str, limit: int) -> AsyncIterator[str]:
        """Yield the body of an answer, until so many bytes have come from the socket."""
        http = h11.Connection(h11.CLIENT)
        since = f"&since={self._token}" if self._token else ""
        target = f"/ws/{what}?channels={PATTERN}{since}&wait=1"
        stream = await connect_tcp("127.0.0.1", self._port)
        try:
            request = h11.Request(method="GET", target=target, headers=[("Host", "localhost")])
            await stream.send((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    if limit <= 0:
                        return
                    try:
                        data = await stream.receive(min(limit, 4096))
                    except EndOfStream:
                        data = b""
                    limit -= len(data)
                    http.receive_data(data)
                elif isinstance(event, h11.Data):
                    yield bytes(event.data).decode()
                elif isinstance(event, h11.EndOfMessage):
                    return
        finally:
            await stream.aclose()


async def wander(bus: Bus, port: int, seed: int, count: int = 1000) -> Wanderer:
    """Publish while a reader wanders; return it once it has read everything."""
    chance = random.Random(seed)
    reader = Wanderer(port, count, random.Random(seed))
    with fail_after(50):
        async with create_task_group() as tasks:
            tasks.start_soon(reader.run)
            # Nothing before the first position is the reader's.
            await reader.placed.wait()
            for number in range(count):
                while number - len(reader.seen) > AHEAD:
                    await reader.moved.wait()
                await bus.publish(f"run.{chance.randrange(4)}", number)
                if chance.random() < 0.2:
                    await sleep(0.002)
    return reader
