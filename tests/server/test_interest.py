"""What a process wants from others, and what its provider hears of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Self, cast

import pytest
import trio
from anyio import Event, fail_after, sleep
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock

from tests.server.clients import EVERYTHING, UNLIMITED, Client, connecting, judge, quiet
from wsbus import Bus, Endpoint, Grants, HeartbeatPolicy, Identity, Limits
from wsbus.brokers import MemoryBroker
from wsbus.core.instant import Instant
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.server.interest import LINGER_SECONDS, Interest, InterestProvider
from wsbus.server.runner import Runner
from wsbus.testing import ManualClock

PATTERNS: Final = [parse_pattern(text) for text in ("a", "b", "c.*")]


class Provider:
    """Notes what it is told; says no, or later, where a test wants it to."""

    def __init__(self) -> None:
        self.has: set[str] = set()
        self.calls: dict[str, int] = {}  # The number of the last call that asked for it.
        self.log: list[str] = []
        self.fails: set[str] = set()
        self.waits: Event | None = None

    def gained(self, patterns: Sequence[Pattern]) -> Awaitable[Collection[Pattern]] | None:
        texts = [pattern.text for pattern in patterns]
        self.log += [f"+{text}" for text in texts]
        assert self.has.isdisjoint(texts)
        self.has.update(texts)
        call = len(self.log)
        self.calls.update(dict.fromkeys(texts, call))
        if self.waits is None and self.fails.isdisjoint(texts):
            return None
        return self._bring(patterns, self.waits, call)

    async def _bring(
        self, patterns: Sequence[Pattern], until: Event | None, call: int
    ) -> list[Pattern]:
        if until is not None:
            await until.wait()
        missed = [pattern for pattern in patterns if pattern.text in self.fails]
        # What was lost meanwhile and asked for again waits for the later call.
        late = [pattern.text for pattern in missed if self.calls[pattern.text] == call]
        self.has.difference_update(late)
        return missed

    def lost(self, patterns: Sequence[Pattern]) -> None:
        self.log += [f"-{pattern.text}" for pattern in patterns]
        self.has.difference_update(pattern.text for pattern in patterns)


class Calls:
    """A runner whose calls a test answers."""

    def __init__(self) -> None:
        self.due: list[Callable[[], Awaitable[None]]] = []

    def submit(self, call: Callable[[], Awaitable[None]]) -> None:
        self.due.append(call)


def run(call: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine that does not wait."""
    with pytest.raises(StopIteration):
        cast("Any", call()).send(None)


class InterestMachine(RuleBasedStateMachine):
    """Plays hub, requests, provider and time.

    The law: the provider has what has members, what is asked for, and what had one of these in the
    last second; but for what it failed to bring in the last second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.provider = Provider()
        self.calls = Calls()
        provider = cast("InterestProvider", self.provider)
        self.interest = Interest(provider, cast("Runner", self.calls), self.clock)
        self.joined: set[Pattern] = set()
        self.asked: list[tuple[Pattern, ...]] = []
        self.wanted_at: dict[Pattern, float] = {}
        self.missed_at: dict[Pattern, float] = {}

    @property
    def now(self) -> float:
        return self.clock().monotonic

    def wanted(self) -> set[Pattern]:
        return self.joined | {pattern for patterns in self.asked for pattern in patterns}

    @rule(pattern=st.sampled_from(PATTERNS))
    def join(self, pattern: Pattern) -> None:
        if pattern not in self.joined:
            self.joined.add(pattern)
            self.interest.gained(pattern)

    @rule(pattern=st.sampled_from(PATTERNS))
    def leave(self, pattern: Pattern) -> None:
        if pattern in self.joined:
            self.wanted_at[pattern] = self.now
            self.joined.discard(pattern)
            self.interest.lost(pattern)

    @rule(patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, unique=True))
    def ask(self, patterns: list[Pattern]) -> None:
        is_here = self.interest.ask(patterns)
        if not is_here:
            self.asked.append(tuple(patterns))
        else:
            assert {pattern.text for pattern in patterns} <= self.provider.has
            self.wanted_at |= dict.fromkeys(patterns, self.now)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        patterns = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        self.wanted_at |= dict.fromkeys(patterns, self.now)
        self.interest.release(patterns)

    @rule(fails=st.sets(st.sampled_from(["a", "b", "c.*"]), max_size=1))
    def fail(self, fails: set[str]) -> None:
        self.provider.fails = fails

    @precondition(lambda self: self.calls.due)
    @rule()
    def answer(self) -> None:
        before = set(self.provider.has)
        run(self.calls.due.pop(0))
        gone = before - self.provider.has
        self.missed_at |= {p: self.now for p in PATTERNS if p.text in gone}

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.interest.sweep()

    def teardown(self) -> None:
        for call in self.calls.due:
            run(call)

    @invariant()
    def the_provider_has_what_is_wanted(self) -> None:
        has = {pattern for pattern in PATTERNS if pattern.text in self.provider.has}
        late = {p for p, at in self.wanted_at.items() if self.now - at < LINGER_SECONDS}
        missed = {p for p, at in self.missed_at.items() if self.now - at < LINGER_SECONDS}
        assert self.wanted() - missed <= has <= self.wanted() | late
        assert {pattern.text for pattern in self.interest.known} == self.provider.has


TestInterestMachine = InterestMachine.TestCase


# --- a running bus -------------------------------------------------------------------------------


class FollowedBus(Bus):
    """A bus whose interest is followed by a provider."""

    def __init__(self, provider: Provider, **options: Any) -> None:
        super().__init__(**options)
        self.provider: Final = provider

    async def __aenter__(self) -> Self:
        """Start it; nobody has connected yet."""
        await super().__aenter__()
        self._host.services.follow(cast("InterestProvider", self.provider))
        return self


def way_in(bus: Bus, **limits: Any) -> Endpoint:
    """Return an endpoint without rates, where everybody is whom the query names."""
    return bus.endpoint(
        authenticator=judge,
        query_token="token",
        limits=Limits(messages_per_second=None, commands_per_second=None, **limits),
        heartbeat=HeartbeatPolicy.client_drives(),
    )


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run every test here in time that jumps."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


def clock() -> Any:
    """Return clocks that go by the time of the loop."""
    return lambda: Instant(trio.current_time(), 1_700_000_000.0 + trio.current_time())


async def test_unsubscribing_and_subscribing_again_shows_nothing() -> None:
    """Within a second the provider hears of neither; after it, of the end, once."""
    bus = FollowedBus(Provider(), clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        await client.subscribe("a")
        for _ in range(3):
            client.say("unsubscribe", channels=["a"])
            await client.hear("unsubscribed")
            await sleep(0.9)
            await client.subscribe("a")
        assert bus.provider.log == ["+a"]

        client.say("unsubscribe", channels=["a"])
        await client.hear("unsubscribed")
        await sleep(0.9)
        assert bus.provider.has == {"a"}
        await sleep(0.2)
        assert bus.provider.log == ["+a", "-a"]


@pytest.mark.parametrize(
    "way", ["unsubscribe", "close", "abort", "revoke", "refresh", "in-process"]
)
async def test_interest_ends_on_every_way_out(way: str) -> None:
    """Whatever ends the last subscription, the provider hears of it a second later."""

    def judge_less(token: str | None, handshake: object) -> Identity | None:
        if token is None:
            return None
        return Identity("ada", Grants.of(subscribe=["b"]) if token == "less" else EVERYTHING)

    bus = FollowedBus(Provider(), clock=clock())
    endpoint = bus.endpoint(
        authenticator=judge_less, query_token="token", limits=UNLIMITED,
        heartbeat=HeartbeatPolicy.client_drives(),
    )  # fmt: skip
    async with bus, connecting(endpoint) as connect:
        client = await connect("ada")
        if way == "in-process":
            async with bus.subscribe("a"):
                assert bus.provider.log == ["+a"]
        else:
            await client.subscribe("a")
            assert bus.provider.log == ["+a"]
        match way:
            case "unsubscribe":
                client.say("unsubscribe", channels=["a"])
            case "close":
                client.connection.disconnect()
            case "abort":
                client.connection.abort()
            case "revoke":
                assert client.connection.revoke("a")
            case "refresh":
                client.say("auth", token="less")
        await sleep(0.9)
        assert bus.provider.log == ["+a"]
        await sleep(0.2)
        assert bus.provider.log == ["+a", "-a"]


async def test_subscribed_waits_for_the_provider_and_stops_nothing_else() -> None:
    """The page: "`subscribed` comes before the first event of the subscriptions"."""
    provider = Provider()
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        await client.subscribe("b")
        here = provider.waits = Event()
        client.say("subscribe", id="slow", channels=["a"])
        client.say("unsubscribe", id="after", channels=["a"])
        client.say("subscribe", id="other", channels=["b"])
        client.say("ping", id="p")
        assert (await client.hear())["id"] == "other"
        assert (await client.hear())["id"] == "p"
        await bus.publish("a", 1)
        await bus.publish("b", 2)
        here.set()
        event = await client.hear()
        assert (event["channel"], event["data"]) == ("b", 2)
        assert [(await client.hear())["id"] for _ in range(2)] == ["slow", "after"]


async def test_what_cannot_be_brought_is_rejected_and_leaves_nothing() -> None:
    """The page: `UNAVAILABLE`; hub and interest are as they were."""
    provider = Provider()
    provider.fails = {"a"}
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        client.say("subscribe", channels=["a", "b"])
        answer = (await client.hear("subscribed"))["data"]
        assert answer["channels"] == ["b"]
        assert [(r["channel"], r["code"]) for r in answer["rejected"]] == [("a", "UNAVAILABLE")]
        assert provider.has == {"b"}
        assert (await bus.publish("a", 1)).local_matched == 0
        await sleep(3)
        assert provider.log == ["+a", "+b"]  # Nobody wants it: it is not asked for again.


async def test_what_a_member_misses_is_asked_for_again() -> None:
    """The application's own subscriptions have no answer to fail; they come as soon as they can."""
    provider = Provider()
    provider.fails = {"a"}
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        client.connection.subscribe("a")
        await sleep(2.5)
        assert provider.log == ["+a", "+a", "+a"]
        provider.fails = set()
        await sleep(3)
        assert provider.log == ["+a", "+a", "+a", "+a"]
        assert provider.has == {"a"}


async def test_a_provider_that_never_answers_is_a_failure() -> None:
    """After five seconds the names are rejected, and given back."""
    provider = Provider()
    provider.waits = Event()
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        client.say("subscribe", channels=["a"])
        began = trio.current_time()
        answer = (await client.hear("subscribed"))["data"]
        assert trio.current_time() - began == pytest.approx(5)
        assert answer["rejected"][0]["code"] == "UNAVAILABLE"
        await sleep(1.1)
        assert provider.log == ["+a", "-a"]


@pytest.mark.parametrize("end", ["revoke", "close", "abort"])
async def test_an_end_while_a_request_is_pending(end: str) -> None:
    """A late answer changes nothing; what was asked for is given back."""
    provider = Provider()
    here = provider.waits = Event()
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        client = await connect("ada")
        client.say("subscribe", channels=["a"])
        await quiet()
        connection = client.connection
        match end:
            case "revoke":
                assert not connection.revoke("a", "banned")
            case "close":
                connection.disconnect()
            case "abort":
                connection.abort()
        here.set()
        if end == "revoke":
            rejected = (await client.hear("subscribed"))["data"]["rejected"]
            assert [(r["code"], r["message"]) for r in rejected] == [("FORBIDDEN", "banned")]
        assert (await bus.publish("a", 1)).local_matched == 0
        await sleep(1.1)
        assert provider.log == ["+a", "-a"]


async def test_two_that_want_the_same_are_brought_it_once() -> None:
    """The second waits for what the first asked for."""
    provider = Provider()
    here = provider.waits = Event()
    bus = FollowedBus(provider, clock=clock())
    async with bus, connecting(way_in(bus)) as connect:
        clients: list[Client] = [await connect("ada"), await connect("bob")]
        for client in clients:
            client.say("subscribe", channels=["a"])
        await quiet()
        assert provider.log == ["+a"]
        here.set()
        for client in clients:
            assert (await client.hear("subscribed"))["data"]["channels"] == ["a"]
        assert provider.log == ["+a"]


# --- hooks ---------------------------------------------------------------------------------


async def test_hooks_learn_of_the_first_and_the_last_subscriber() -> None:
    """Of connections and of the application; who comes back within a second is not mentioned."""
    bus = Bus(clock=clock())
    seen = list[str]()
    told = Event()

    @bus.on_occupied
    async def occupied(pattern: str) -> None:
        await checkpoint()
        seen.append(f"+{pattern}")

    @bus.on_vacated
    def vacated(pattern: str) -> None:
        nonlocal told
        seen.append(f"-{pattern}")
        told.set()

    @bus.on_occupied
    def failing(pattern: str) -> None:
        raise ValueError(pattern)

    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        with fail_after(10):
            ada, bob = await connect(), await connect()
            await ada.subscribe("prices.*")
            await bob.subscribe("prices.*")
            async with bus.subscribe("news"):
                ada.say("unsubscribe", channels=["prices.*"])
                await ada.hear("unsubscribed")
                ada.say("subscribe", channels=["prices.*"])
                await ada.hear("subscribed")
            ada.peer.close()
            bob.peer.close()
            while "-prices.*" not in seen:
                told = Event()
                await told.wait()
    assert seen == ["+prices.*", "+news", "-news", "-prices.*"]


async def test_hooks_and_a_broker_hear_the_same() -> None:
    """The hook comes beside the way to other nodes, not in its place."""
    broker, seen = MemoryBroker(), list[str]()
    here, there = Bus(broker=broker), Bus(broker=broker)
    here.on_occupied(seen.append)
    async with here, there, here.subscribe("news.*") as events:
        with fail_after(10):
            await there.publish("news.today", 1)
            assert (await anext(events)).data == 1
            while not seen:
                await checkpoint()
    assert seen == ["news.*"]
