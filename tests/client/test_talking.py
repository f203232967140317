from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from anyio import create_task_group, fail_after, move_on_after, sleep_forever

from tests.client.servers import (
    PROTOCOLS,
    Latch,
    Scripted,
    Server,
    scripted,
    serving,
    wait_until,
)
from wsbus import Grants
from wsbus.client import (
    Change,
    ChannelLoss,
    Client,
    CommandError,
    Event,
    Gap,
    GapCause,
    Missed,
    Receipt,
    UnexpectedData,
    UsageError,
    connect,
)


class Status(msgspec.Struct):
    running: bool
    orders: int = 0


async def take(events: Any, count: int) -> list[Any]:
    """Return the data of the next events."""
    with fail_after(5):
        return [(await anext(events)).data for _ in range(count)]


# --- subscriptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_events_come_in_order_once_subscribed(server: Server, protocol: str) -> None:
    """What is published after the block begins comes, in order, as it was published."""
    async with (
        connect(server.url, token="ada", protocol=protocol) as client,
        client.subscribe("grid.*.status") as events,
    ):
        server.bus.publish_threadsafe("grid.a.status", {"n": 0}, event="began")
        server.bus.publish_threadsafe("grid.a.other", 0)
        server.publish("grid.b.status", 1, [2], None)
        with fail_after(5):
            first = await anext(events)

        assert (first.channel, first.event, first.data, first.gap) == (
            "grid.a.status",
            "began",
            {"n": 0},
            None,
        )
        assert abs(first.timestamp - time.time()) < 60
        assert await take(events, 3) == [1, [2], None]
        assert client.subscriptions == ["grid.*.status"]


async def test_data_have_the_type_that_is_asked_for(server: Server) -> None:
    """Data come as the type; what does not fit raises, and the next one may fit."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("grid.*.status", Status) as events,
    ):
        server.publish("grid.a.status", {"running": True}, {"running": "x"}, {"running": False})
        with fail_after(5):
            first: Event[Status] = await anext(events)
            with pytest.raises(UnexpectedData, match=r"grid\.a\.status.*`\$\.running`"):
                await anext(events)
            third = await anext(events)

        assert first.data == Status(running=True)
        assert third.data.running is False


async def test_what_does_not_fit_is_not_repeated(server: Server) -> None:
    """The error names the place, and neither the data nor anything of them."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("a", dict[str, Literal["x", "y"]]) as events,
    ):
        server.publish("a", {"k": "secret"})
        with fail_after(5), pytest.raises(UnexpectedData, match=r"`\$\[\.\.\.\]`") as error:
            await anext(events)
        assert "secret" not in str(error.value)
        server.publish("a", {"k": "y"})
        assert await take(events, 1) == [{"k": "y"}]


class Quote(pydantic.BaseModel):
    last: Annotated[float, pydantic.Field(gt=0)]
    side: Literal["buy", "sell"] = "buy"


async def test_models_of_pydantic_are_types_as_well(server: Server) -> None:
    """A model, or a list of some, is what data and results are decoded to, and what is sent."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("a", list[Quote]) as events,
    ):
        server.publish("a", [{"last": 1.5}], [{"last": 1, "side": "secret"}], [{"last": 2}])
        with fail_after(5):
            first: Event[list[Quote]] = await anext(events)
            with pytest.raises(UnexpectedData, match=r"`\$\[0\]\.side`") as error:
                await anext(events)
            third = await anext(events)
        assert "secret" not in str(error.value)
        assert first.data == [Quote(last=1.5)]
        assert third.data[0].last == 2
        await client.publish("a", [Quote(last=3)])
        assert (await take(events, 1)) == [[Quote(last=3)]]


async def test_one_event_comes_to_each_subscription_that_matches_it(server: Server) -> None:
    """Patterns may overlap and repeat: each gets an event once, and the server is asked once."""
    async with connect(server.url, token="ada") as client:
        async with (
            client.subscribe("a.*") as wide,
            client.subscribe("a.b") as narrow,
            client.subscribe("a.*") as again,
        ):
            server.publish("a.b", 1)
            server.publish("a.c", 2)

            assert await take(wide, 2) == await take(again, 2) == [1, 2]
            assert await take(narrow, 1) == [1]
            assert server.held() == [["a.*", "a.b"]]
            again.close()
            server.publish("a.c", 3)
            assert await take(wide, 1) == [3]
        await client.status()  # The messages before it are acted on.
        assert server.held() == [[]]


async def test_a_rate_thins_one_subscription(server: Server) -> None:
    """It gets the first and the last events of a burst, without a gap; another one gets all."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("grid.a.*", max_rate=2) as some,
        client.subscribe("grid.*.status") as every,
    ):
        server.publish("grid.a.order", *range(20))
        server.publish("grid.a.status", *range(20))
        orders: list[object] = []
        with fail_after(10):
            while 19 not in orders:
                event = await anext(some)
                assert event.gap is None
                orders += [event.data] if event.channel == "grid.a.order" else []
        assert orders[0] == 0
        assert len(orders) < 20
        assert await take(every, 20) == [*range(20)]
        for wrong in (0, 1001, "5", True):
            with pytest.raises(UsageError, match="max_rate"):
                client.subscribe("grid.b", max_rate=wrong)  # type: ignore[arg-type]
    async with connect(server.url, token="ada", protocol="zigquant-v2") as client:
        with pytest.raises(UsageError, match="max_rate"):
            client.subscribe("grid.b", max_rate=1)


async def test_a_subscription_ends_with_its_block(server: Server) -> None:
    """After the block, or a close, its iterator ends, and nothing waits in it."""
    async with connect(server.url, token="ada") as client:
        async with client.subscribe("a.*") as events:
            server.publish("a.b", 1, 2)
            assert await take(events, 1) == [1]
        assert [event async for event in events] == []


async def test_a_forbidden_pattern_is_told_by_name(server: Server) -> None:
    """A refused subscription raises the server's code, with the pattern; the client goes on."""
    async with connect(server.url, token="guest") as client:
        with pytest.raises(CommandError, match=r"grid\.\*: no grant covers this") as refused:
            async with client.subscribe("grid.*"):
                pass
        assert refused.value.code == "FORBIDDEN"

        async with client.subscribe("public.*") as events:
            server.publish("public.a", 1)
            assert await take(events, 1) == [1]


async def test_what_the_server_sends_unasked_can_be_heard(server: Server) -> None:
    """With ``ask=False`` the server is not asked; what it sends by itself comes."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("inbox", ask=False) as events,
    ):
        server.publish("inbox", "not for this client")

        async def send() -> None:
            await server.bus.send("inbox", "hello", to="ada")

        server.run(send)

        assert await take(events, 1) == ["hello"]
        assert server.held() == [[]]


async def test_a_slow_consumer_holds_up_nobody_and_is_told(server: Server) -> None:
    """Who does not iterate loses the oldest by its own buffer; others get all, pings are answered.

    The loss is told on the first event after it.
    """
    async with (
        connect(server.url, token="ada", ping_interval=0.05, ping_timeout=5) as client,
        client.subscribe("a", buffer=3) as slow,
        client.subscribe("a", buffer=1000) as fast,
    ):
        server.publish("a", *range(100))

        assert await take(fast, 100) == list(range(100))
        with fail_after(5):
            first = await anext(slow)
        assert first.data == 97
        assert first.gap == Gap(97, GapCause.BUFFER, {"a": ChannelLoss(97)})
        assert await take(slow, 2) == [98, 99]
        assert (slow.lost, fast.lost) == (97, 0)


@pytest.mark.parametrize(
    ("overflow", "left", "lost"),
    [("drop_oldest", [3, 4], 3), ("drop_newest", [0, 1], 3), ("conflate", [4], None)],
)
async def test_a_full_buffer_keeps_what_its_policy_says(
    server: Server, overflow: str, left: list[int], lost: int | None
) -> None:
    """The policies are those of the server's queues."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("a", buffer=2, overflow=overflow) as events,
        client.subscribe("b") as after,
    ):
        server.publish("a", *range(5))
        server.publish("b", "end")
        await take(after, 1)

        assert await take(events, len(left)) == left
        server.publish("a", "next")
        with fail_after(5):
            following = await anext(events)
        assert following.data == "next"
        told = following.gap.lost if following.gap else None
        assert told == (lost if overflow == "drop_newest" else None)
        assert events.lost == (lost or 0)


async def test_a_buffer_can_close_instead_of_losing(server: Server) -> None:
    """With the policy ``close`` an overflow ends the subscription with an error, and only it."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("a", buffer=2, overflow="close") as events,
        client.subscribe("a") as other,
    ):
        server.publish("a", *range(5))
        assert await take(other, 5) == list(range(5))

        with pytest.raises(CommandError, match="overflowed") as ended:
            await take(events, 1)
        assert ended.value.code == "OVERFLOW"


async def test_a_cancelled_step_loses_nothing(server: Server) -> None:
    """An iteration that was cancelled goes on where it was."""
    async with (
        connect(server.url, token="ada") as client,
        client.subscribe("a") as events,
    ):
        with move_on_after(0.02):
            await anext(events)
        server.publish("a", 1, 2)

        assert await take(events, 2) == [1, 2]


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_command_returns_its_result(server: Server, protocol: str) -> None:
    """The result has the type asked for; a failure has the server's code and message."""
    async with connect(server.url, token="ada", protocol=protocol) as client:
        assert await client.command("add", {"a": 1, "b": 2.5}, returns=float) == 3.5
        assert await client.command("add", {"a": 1, "b": 2}) == 3
        with pytest.raises(UnexpectedData, match="add"):
            await client.command("add", {"a": 1, "b": 2}, returns=str)
        for action, params, code in [
            ("refuse", None, "TOO_LATE"),
            ("nothing", None, "UNKNOWN_ACTION"),
            ("add", {"a": 1}, "VALIDATION_ERROR"),
        ]:
            with pytest.raises(CommandError) as refused:
                await client.command(action, params)
            assert refused.value.code == code


async def test_commands_overlap(server: Server) -> None:
    """Answers are paired with their commands, whatever the order in which they come."""
    async with connect(server.url, token="ada") as client:
        got: list[str] = []

        async def wait(text: str) -> None:
            got.append(await client.command("wait", {"text": text}, returns=str))

        with fail_after(5):
            async with create_task_group() as tasks:
                for text in "abc":
                    tasks.start_soon(wait, text)
                await wait_until(lambda: len(server.calls) == 3)
                assert await client.command("add", {"a": 1, "b": 1}) == 2
                assert got == []
                server.release()
        assert sorted(got) == ["a", "b", "c"]


async def test_a_command_has_a_time_limit(server: Server) -> None:
    """Without an answer in time it fails as TIMEOUT; the late answer disturbs nothing."""
    async with connect(server.url, token="ada") as client:
        with pytest.raises(CommandError, match=r"wait: no answer came within 0\.05 s") as late:
            await client.command("wait", timeout=0.05)
        assert late.value.code == "TIMEOUT"

        server.release()
        assert await client.command("add", {"a": 1, "b": 1}) == 2


async def test_a_client_publishes_and_asks(server: Server) -> None:
    """``publish`` tells who gets it, ``status`` what the server knows; what cannot be said raises.

    Nothing of what is refused here reaches the server.
    """
    async with connect(server.url, token="ada") as client, client.subscribe("a.*") as events:
        assert await client.publish("a.b", {"x": 1}, event="tick") == Receipt(1, 1)
        with fail_after(5):
            event = await anext(events)
        assert (event.event, event.data) == ("tick", {"x": 1})

        status = await client.status()
        assert (status.connection_id, status.subject) == (client.connection_id, "ada")
        assert status.subscriptions == ("a.*",)
        for channel, data in [("a.*", 1), ("", 1), ("a", object()), ("a", float("nan"))]:
            with pytest.raises(UsageError):
                await client.publish(channel, data)
        with pytest.raises(UsageError):
            client.subscribe("a..b")
        with pytest.raises(
            UsageError, match=r"overflow must be one of `drop_oldest`, .* not 'shrug'"
        ):
            client.subscribe("a", overflow="shrug")
        with pytest.raises(UsageError):
            client.subscribe("a", timeout=0)
        with pytest.raises(UsageError, match="cannot be decoded"):
            client.subscribe("a", 5)
        with pytest.raises(UsageError):
            client.subscribe("a", buffer=0)
        with pytest.raises(UsageError):
            await client.command("add", {"a": object()})


async def test_a_dialect_without_the_word_says_so(server: Server) -> None:
    """In zigquant-v2 nothing can be published, and there is no status."""
    async with connect(server.url, token="ada", protocol="zigquant-v2") as client:
        with pytest.raises(UsageError, match="zigquant-v2 has no publish"):
            await client.publish("a", 1)
        with pytest.raises(UsageError, match="zigquant-v2 has no status"):
            await client.status()
        with pytest.raises(UsageError):
            client.subscribe("a.+")


async def test_no_text_of_a_client_holds_a_token(server: Server) -> None:
    """Its repr says where it is connected, and not as whom."""
    url = server.url + "?token=secret"
    async with connect(url, token="secret") as client, client.subscribe("a.*") as events:
        assert repr(client) == f"<Client of {url[5:].partition('?')[0]}>"
        assert repr(events) == "<Events 'a.*'>"


async def test_a_client_may_be_anonymous() -> None:
    """Where nobody is asked for a token, none is needed."""
    with serving(authenticator=None, anonymous=Grants.open()) as server:
        for protocol in PROTOCOLS:
            async with connect(server.url, protocol=protocol) as client:
                assert await client.command("add", {"a": 1, "b": 1}) == 2


# --- what the application is told ----------------------------------------------------------------


async def test_a_gap_of_the_server_is_told() -> None:
    """What the server had no room for is told on the next event, and among the changes at once.

    Losses that follow each other add up.
    """

    async def script(peer: Scripted) -> None:
        await peer.welcome()
        await peer.stream.receive()
        await peer.say(
            '{"type":"subscribed","id":"1","data":{"channels":["a"]}}',
            '{"type":"gap","data":{"lost":2}}',
            '{"type":"gap","data":{"lost":3}}',
            '{"type":"event","channel":"a","event":"e","data":1}',
            '{"type":"event","channel":"a","event":"e","data":2}',
        )
        await peer.drain()

    changes = Latch()
    with fail_after(5):
        async with (
            scripted(script) as url,
            connect(url, close_timeout=0.05, on_change=changes) as client,
            client.subscribe("a") as events,
        ):
            first, second = await anext(events), await anext(events)
            assert first.gap == Gap(5, GapCause.SERVER)
            assert second.gap is None
            assert await changes.next(Missed) == Missed("a", Gap(2, GapCause.SERVER))


async def test_callbacks_hold_up_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that waits for ever, or fails, delays neither events nor answers nor the end."""

    async def wait(change: Change) -> None:
        await sleep_forever()

    def fail(change: Change) -> None:
        raise ZeroDivisionError

    for on_change in (wait, fail):
        with fail_after(5):
            async with (
                connect(server.url, token="ada", on_change=on_change) as client,
                client.subscribe("a") as events,
            ):
                server.publish("a", 1)
                assert await take(events, 1) == [1]
                assert await client.command("add", {"a": 1, "b": 1}) == 2
    assert "on_change has failed" in caplog.text


async def test_a_callback_may_close_the_client(server: Server) -> None:
    """What is told of a change may end the client that tells it."""
    clients: list[Client] = []

    async def close(change: Change) -> None:
        if isinstance(change, Missed):
            await clients[0].aclose()

    with fail_after(10):
        async with (
            connect(server.url, token="ada", on_change=close) as client,
            client.subscribe("a", buffer=1) as slow,
            client.subscribe("a") as events,
        ):
            clients.append(client)
            server.publish("a", 1, 2)
            await take(events, 2)
            await take(slow, 1)
            assert [event async for event in events] == []


async def test_a_command_may_be_given_up(server: Server) -> None:
    """A cancelled command leaves nothing behind, and the client goes on."""
    async with connect(server.url, token="ada") as client:
        with move_on_after(0.05):
            await client.command("wait")
        server.release()
        assert await client.command("add", {"a": 1, "b": 1}) == 2
        assert len(client._driver.session._requests) == 0


async def test_a_subscription_that_is_left_is_given_up(server: Server) -> None:
    """Cancelled before its confirmation, it is taken back; it cannot be entered twice."""
    async with connect(server.url, token="ada") as client:
        with move_on_after(0):
            async with client.subscribe("a"):
                pass
        await client.status()
        assert server.held() == [[]]
        events = client.subscribe("a")
        with pytest.raises(UsageError, match="async with"):
            await anext(events)
        async with events:
            with pytest.raises(UsageError, match="once"):
                await events.__aenter__()
