from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pydantic
import pytest
from anyio import connect_tcp, fail_after
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.client.servers import Server, serving
from wsbus import Bus, Event, History
from wsbus.brokers import MemoryBroker
from wsbus.client import UnexpectedData, connect

PACKED: Final = "wsbus.v1.msgpack"
BOTH: Final = ("wsbus.v1", PACKED)
MOMENT: Final = datetime(2026, 2, 3, 4, 5, 6, 789_012, UTC)
DATA: Final = {
    "bytes": b"\x00\xff",
    "moment": MOMENT,
    "large": 2**64 - 1,
    "small": -(2**63),
    "float": 1.0,
    "list": [b"", MOMENT, "text"],
}
AS_JSON: Final = {
    "bytes": "AP8=",
    "moment": "2026-02-03T04:05:06.789012Z",
    "large": 2**64 - 1,
    "small": -(2**63),
    "float": 1.0,
    "list": ["", "2026-02-03T04:05:06.789012Z", "text"],
}


class Model(pydantic.BaseModel):
    text: str
    at: datetime


async def next_of(events: Any) -> Event[Any]:
    """Return the next event."""
    with fail_after(5):
        event: Event[Any] = await anext(events)
        return event


@pytest.mark.parametrize("protocol", BOTH)
async def test_what_the_application_publishes_keeps_its_types(protocol: str) -> None:
    """protocol.md: bytes, moments and numbers stay what they are; JSON has texts for the first."""
    with serving(protocols=BOTH) as server:
        async with (
            connect(server.url, token="ada", protocol=protocol) as client,
            client.subscribe("a.*") as events,
        ):
            server.bus.publish_threadsafe("a.b", DATA)
            event = await next_of(events)
            expected = DATA if protocol == PACKED else AS_JSON
            assert event.data == expected
            assert [type(each) for each in event.data.values()] == [
                type(each) for each in expected.values()
            ]
            server.bus.publish_threadsafe("a.b", {"plain": [1, 2.5, None]})
            assert (await next_of(events)).data == {"plain": [1, 2.5, None]}


@pytest.mark.parametrize("sender", BOTH)
@pytest.mark.parametrize("receiver", BOTH)
async def test_what_clients_publish_reaches_both_kinds(sender: str, receiver: str) -> None:
    """A client of either dialect publishes to clients of either; one that packs loses nothing."""
    with serving(protocols=BOTH) as server:
        async with (
            connect(server.url, token="ada", protocol=sender) as ada,
            connect(server.url, token="bob", protocol=receiver) as bob,
            bob.subscribe("a.b") as events,
        ):
            receipt = await ada.publish("a.b", DATA)
            assert receipt.local_matched == 1
            keeps = sender == receiver == PACKED
            assert (await next_of(events)).data == (DATA if keeps else AS_JSON)


@pytest.mark.parametrize("protocol", BOTH)
async def test_history_keeps_types(protocol: str) -> None:
    """What is replayed, and what is asked for, is as it was published."""
    with serving(protocols=BOTH) as server:
        async with connect(server.url, token="ada", protocol=protocol) as client:
            server.publish("chat.a", DATA)
            expected = DATA if protocol == PACKED else AS_JSON
            page = await client.history("chat.a")
            assert [event.data for event in page.events] == [expected]
            server.publish("state.a", DATA)
            async with client.subscribe("state.a") as events:
                event = await next_of(events)
                assert (event.data, event.is_latest) == (expected, True)


async def test_commands_take_and_return_types() -> None:
    """Parameters and results are what they are; typed parameters take both forms."""
    server = Server(protocols=BOTH)
    seen: list[object] = []

    @server.bus.command("turn")
    def turn(what: bytes, at: datetime, rest: Any = None) -> dict[str, object]:
        seen.append(rest)
        return {"what": what[::-1], "at": at + timedelta(days=1)}

    @server.bus.command("model")
    async def model(value: Model) -> Model:
        return value

    server.start()
    try:
        async with (
            connect(server.url, token="ada", protocol=PACKED) as packed,
            connect(server.url, token="ada") as plain,
        ):
            params = {"what": b"ab", "at": MOMENT, "rest": [b"x", MOMENT]}
            got = await packed.command("turn", params)
            assert got == {"what": b"ba", "at": MOMENT + timedelta(days=1)}
            assert await plain.command("turn", params) == {
                "what": "YmE=",
                "at": "2026-02-04T04:05:06.789012Z",
            }
            assert seen == [[b"x", MOMENT], ["eA==", "2026-02-03T04:05:06.789012Z"]]
            assert await packed.command("add", {"a": 1, "b": 2.5}) == 3.5
            assert await packed.command("model", {"text": "t", "at": MOMENT}) == {
                "text": "t",
                "at": "2026-02-03T04:05:06.789012Z",
            }
            with pytest.raises(UnexpectedData):
                await packed.command("turn", params, returns=int)
    finally:
        server.stop()


async def test_types_go_through_brokers() -> None:
    """Another node's clients get what was published, whichever node it was published on."""
    broker = MemoryBroker()
    first, second = Bus(broker=broker), Bus(broker=broker)
    got: list[object] = []
    for bus in (first, second):
        bus.family("kept.*", history=History())
    second.endpoint(protocols=BOTH)
    async with first, second:
        second._host.services.hub.taps.append(lambda publication, _: got.append(publication))
        async with second.subscribe("*") as events:
            for channel in ("live.a", "kept.a"):
                await first.publish(channel, DATA)
                assert (await next_of(events)).data == AS_JSON
    for publication in got:
        packed: Any = publication.packed  # type: ignore[attr-defined]
        assert msgspec.msgpack.decode(packed) == DATA


async def test_only_a_bus_that_speaks_it_packs() -> None:
    """Without an endpoint of such a dialect a publication has no second form."""
    forms: list[object] = []
    for protocols in (("wsbus.v1",), BOTH):
        bus = Bus()
        bus.endpoint(protocols=protocols)
        async with bus:
            bus._host.services.hub.taps.append(lambda each, _: forms.append(each.packed))
            await bus.publish("a", b"x")
            await bus.publish("a", "x")
    assert forms == [None, None, b"\xc4\x01x", None]


async def test_raw_data_are_json() -> None:
    """A client that asks for ``msgspec.Raw`` gets the JSON text, whatever it speaks."""
    with serving(protocols=BOTH) as server:
        async with (
            connect(server.url, token="ada", protocol=PACKED) as client,
            client.subscribe("a", msgspec.Raw) as events,
        ):
            server.bus.publish_threadsafe("a", {"x": b"y"})
            assert bytes((await next_of(events)).data) == b'{"x":"eQ=="}'


async def test_a_moment_of_another_zone_is_the_same_moment() -> None:
    """MessagePack has moments without a zone; JSON clients get the zone of the application."""
    moment = MOMENT.astimezone(timezone(timedelta(hours=2)))
    with serving(protocols=BOTH) as server:
        for protocol, expected in ((PACKED, MOMENT), ("wsbus.v1", moment.isoformat())):
            async with (
                connect(server.url, token="ada", protocol=protocol) as client,
                client.subscribe("a") as events,
            ):
                server.bus.publish_threadsafe("a", moment)
                assert (await next_of(events)).data == expected


@pytest.mark.parametrize("protocol", BOTH)
async def test_a_rate_holds_the_newest_event_in_both(protocol: str) -> None:
    """What is held is encoded for each dialect when it goes."""
    with serving(protocols=BOTH) as server:
        async with (
            connect(server.url, token="ada", protocol=protocol) as client,
            client.subscribe("a.*", max_rate=10) as events,
        ):
            for number in range(10):
                server.bus.publish_threadsafe("a.b", {"bytes": bytes([number])})
            while (event := await next_of(events)).data["bytes"] not in {b"\t", "CQ=="}:
                assert event.gap is None


async def test_bad_input_is_answered_and_the_connection_goes_on() -> None:
    """protocol.md: what is refused gets ``INVALID_MESSAGE``, a text frame, too."""
    bad: list[bytes | str] = [
        *(b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xa1\xff", b"\xd4\x05x", b"\x91" * 65 + b"\xc0"),
        *(b"\x82\xa4type\xa4ping\xa4type\xa4ping", b"\x81\x01\x02", '{"type":"ping"}'),
    ]
    with serving(protocols=BOTH) as server:
        stream = await connect_tcp("127.0.0.1", server.port)
        async with stream:
            peer = ClientProtocol(parse_uri(server.url), subprotocols=[Subprotocol(PACKED)])
            peer.send_request(peer.connect())
            heard: list[dict[str, Any]] = []

            async def hear(count: int) -> None:
                with fail_after(10):
                    while len(heard) < count:
                        await stream.send(b"".join(peer.data_to_send()))
                        peer.receive_data(await stream.receive())
                        heard.extend(
                            msgspec.msgpack.decode(event.data)
                            for event in peer.events_received()
                            if isinstance(event, Frame) and event.opcode is Opcode.BINARY
                        )

            peer_auth = msgspec.msgpack.encode({"type": "auth", "token": "ada"})
            while peer.state is State.CONNECTING:
                await stream.send(b"".join(peer.data_to_send()))
                peer.receive_data(await stream.receive())
            peer.send_binary(peer_auth)
            for frame in bad:
                if isinstance(frame, str):
                    peer.send_text(frame.encode())
                else:
                    peer.send_binary(frame)
            peer.send_binary(msgspec.msgpack.encode({"type": "ping", "id": "last"}))
            await hear(3 + len(bad))
    answers = [each for each in heard if each["type"] == "error"]
    assert [each["error"]["code"] for each in answers] == ["INVALID_MESSAGE"] * len(bad)
    assert [each["id"] for each in heard if each["type"] == "pong"] == ["last"]
