"""History as clients ask for it: grants, bounds, and keys that belong to their subject."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import fail_after

from tests.server.clients import UNLIMITED, Client, Connect, connecting
from wsbus import Bus, Grants, Handshake, History, Identity
from wsbus.bus import host_of
from wsbus.testing import ManualClock

GRANTS = Grants.of(
    subscribe=["*"], publish=["*"], history=["chat.*", "news"], deny_subscribe=["chat.secret"]
)


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for the name of its bearer."""
    return None if token is None else Identity(token, GRANTS)


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Bus, Connect]]:
    """Run a bus whose channels below ``chat`` keep history."""
    bus = Bus()
    bus.family("chat.*", history=History(size=20))
    endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=UNLIMITED)
    async with bus, connecting(endpoint) as connect:
        with fail_after(10):
            yield bus, connect


async def ask(client: Client, channel: str, **fields: Any) -> dict[str, Any]:
    """Ask for history; return the page, or the error."""
    client.say("history", id="h", channel=channel, **fields)
    answer = await client.hear("history", "error")
    found: dict[str, Any] = answer.get("data") or answer["error"]
    return found


async def test_history_needs_a_grant_and_no_deny() -> None:
    """Each refusal says why, and the connection lives on."""
    async with stage() as (bus, connect):
        ada = await connect("ada")
        for channel in ("chat.secret", "other.a"):
            assert (await ask(ada, channel))["code"] == "FORBIDDEN"
        assert (await ask(ada, "news"))["code"] == "NO_HISTORY"
        assert (await ask(ada, "chat.*"))["code"] == "INVALID_CHANNEL"
        lost = {"epoch": "other", "offset": 1}
        assert (await ask(ada, "chat.a", after=lost))["code"] == "POSITION_LOST"
        await bus.publish("chat.a", 1)
        assert [event["data"] for event in (await ask(ada, "chat.a"))["events"]] == [1]


async def test_an_answer_is_bounded_and_says_that_there_is_more() -> None:
    """What does not fit is left for the next page, both ways; one event always fits."""
    async with stage() as (bus, connect):
        ada = await connect("ada")
        start = await bus.position("chat.a")
        for letter in "abcde":
            await bus.publish("chat.a", letter * 100_000)
        after = {"epoch": start.epoch, "offset": start.offset}
        newest = await ask(ada, "chat.a")
        oldest = await ask(ada, "chat.a", after=after)
        assert [event["data"][0] for event in newest["events"]] == ["d", "e"]
        assert [event["data"][0] for event in oldest["events"]] == ["a", "b"]
        assert newest["more"]
        assert oldest["more"]
        await bus.publish("chat.b", "x" * 400_000)
        assert len((await ask(ada, "chat.b"))["events"]) == 1


async def test_a_key_belongs_to_its_channel_and_its_subject() -> None:
    """The same key of another subject, or on another channel, is another key."""
    async with stage() as (bus, connect):
        ada, bob = await connect("ada"), await connect("bob")
        for client, channel in ((ada, "chat.a"), (bob, "chat.a"), (ada, "chat.b"), (ada, "chat.a")):
            client.say("publish", id="p", channel=channel, data=1, idempotency_key="k")
            assert (await client.hear("response"))["success"]
        counts = [len((await bus.history(name)).events) for name in ("chat.a", "chat.b")]
        assert counts == [2, 1]
        await bus.publish("chat.a", 1, idempotency_key="k")  # The application's own.
        assert len((await bus.history("chat.a")).events) == 3


async def test_what_is_denied_is_not_replayed() -> None:
    """A subscription that goes on gets no more than a live one."""
    async with stage() as (bus, connect):
        ada = await connect("ada")
        start = await bus.position("chat.a")
        for channel in ("chat.a", "chat.secret", "chat.b"):
            await bus.publish(channel, channel)
        since = {"chat.*": {"epoch": start.epoch, "offset": start.offset}}
        ada.say("subscribe", channels=["chat.*"], since=since)
        answer = await ada.hear("subscribed")
        assert answer["data"]["positions"][0]["recovered"] is True
        assert await ada.events() == ["chat.a", "chat.b"]


async def test_what_is_kept_ends_when_its_time_is_over() -> None:
    """Counted for each publication from the moment at which it was accepted."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    bus.family("chat.*", history=History(ttl=10))
    async with bus:
        for number in range(3):
            await bus.publish("chat.a", number)
            await clock.pass_time(4)
        for left in ([1, 2], [2], []):
            page = await bus.history("chat.a")
            assert [event.data for event in page.events] == left
            await clock.pass_time(4)


async def test_frames_of_the_past_are_kept_for_a_moment() -> None:
    """Clients that come back together share them; then the bus lets go of them."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    bus.family("chat.*", history=History(size=20))
    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        replays = host_of(bus).services.hub.replays
        first = await bus.publish("chat.a", 0)
        assert first.position is not None
        for number in range(1, 4):
            await bus.publish("chat.a", number)
        since = {"chat.a": {"epoch": first.position.epoch, "offset": first.position.offset}}
        for _ in range(2):
            client = await connect()
            client.say("subscribe", channels=["chat.a"], since=since)
            assert [(await client.hear("event"))["data"] for _ in range(3)] == [1, 2, 3]
            assert len(replays) == 3
        await clock.pass_time(5)
        assert len(replays) == 0


async def test_a_subject_with_a_space_has_keys_of_its_own() -> None:
    """No subject and key together look like those of another subject."""
    async with stage() as (bus, connect):
        for name, key in (("ada", "b c"), ("ada%20b", "c")):
            client = await connect(name)
            client.say("publish", id="p", channel="chat.a", data=1, idempotency_key=key)
            assert (await client.hear("response"))["success"]
        assert len((await bus.history("chat.a")).events) == 2
