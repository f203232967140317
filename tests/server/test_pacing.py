"""*Pacing*: no verb that is ``async`` completes 64 publications or 256 KiB without a flush."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.clients import EVERYTHING, connecting
from wsbus import Bus, Identity, Limits
from wsbus.bus import host_of
from wsbus.core.messages import Publication
from wsbus.core.pacing import FLUSH_BYTES, FLUSH_COUNT
from wsbus.server.services import Services

LIMITS: Final = Limits(
    messages_per_second=None, commands_per_second=None, max_message_bytes=1 << 21
)
VERBS: Final = ("publish", "send", "broadcast", "client")


class Run(NamedTuple):
    """One verb, over and over, without a pause that the verb itself does not make."""

    verb: str
    times: int
    size: int


class Watch:
    """Counts what was accepted since the last flush."""

    def __init__(self, services: Services) -> None:
        self.flusher = services.flusher
        self.flushes = services.flusher.flushes
        self.count = self.bytes = 0
        self.most = self.most_bytes = 0
        services.hub.taps.append(self.tap)

    def tap(self, publication: Publication, matched: int) -> None:
        if self.flusher.flushes != self.flushes:
            self.flushes, self.count, self.bytes = self.flusher.flushes, 0, 0
        # What was accepted before this one has been completed without a flush.
        self.most, self.most_bytes = max(self.most, self.count), max(self.most_bytes, self.bytes)
        self.count, self.bytes = self.count + 1, self.bytes + publication.size


async def repeat(run: Run, verb: Callable[[str], Awaitable[object]]) -> None:
    for _ in range(run.times):
        await verb("x" * run.size)


async def follow(runs: list[Run], *, direct: bool) -> Watch:
    bus = Bus()
    endpoint = bus.endpoint(
        authenticator=lambda token, _: Identity(token or "nobody", EVERYTHING),
        limits=LIMITS,
        broadcast="all",
    )
    async with bus, connecting(endpoint, direct=direct) as connect:
        reader, writer = await connect("reader"), await connect("writer")
        await reader.subscribe("a")
        watch = Watch(host_of(bus).services)
        verbs: dict[str, Callable[[str], Awaitable[Any]]] = {
            "publish": lambda data: bus.publish("a", data),
            "send": lambda data: bus.send("a", data, to=reader.connection),
            "broadcast": bus.broadcast,
        }
        for run in runs:
            if run.verb == "client":
                # In one frame, which holds as many messages as it likes.
                line = json.dumps(
                    {"type": "publish", "channel": "a", "event": "e", "data": "x" * run.size}
                )
                writer.peer.send("\n".join([line] * run.times))
                writer.say("ping", id="done")
                await writer.hear("pong")
            else:
                await repeat(run, verbs[run.verb])
        return watch


runs = st.builds(
    Run, st.sampled_from(VERBS), st.integers(1, 150), st.sampled_from([1, 1, 1, 3000, 9000])
)


@settings(max_examples=20, deadline=None)
@given(st.lists(runs, min_size=1, max_size=3), st.booleans())
def test_nothing_piles_up_whatever_verbs_follow_each_other(steps: list[Run], direct: bool) -> None:
    """Whoever publishes: fewer than 64 publications and 256 KiB are complete and not flushed."""
    watch = anyio.run(lambda: follow(steps, direct=direct))

    assert watch.most < FLUSH_COUNT
    assert watch.most_bytes < FLUSH_BYTES


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("times", "size"), [(200, 1), (70, 9000)], ids=["many", "large"])
async def test_each_verb_is_flushed_when_it_must_be(verb: str, times: int, size: int) -> None:
    """And not much earlier: what is owed in between is joined."""
    watch = await follow([Run(verb, times, size)], direct=True)

    assert watch.most < FLUSH_COUNT
    assert watch.most_bytes < FLUSH_BYTES
    if verb == "client":  # The reader gives others a turn earlier than that.
        assert watch.most > 0 or size > 1
    elif size == 1:
        assert watch.most == FLUSH_COUNT - 1
    else:
        assert watch.most_bytes >= FLUSH_BYTES - 2 * size
