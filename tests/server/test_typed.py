"""Typed channels: what is published there is checked, whoever publishes it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest
from anyio import fail_after

from tests.server.clients import UNLIMITED, Connect, connecting, judge
from wsbus import Bus, History, InvalidChannel, UsageError
from wsbus.brokers import MemoryBroker

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Status(msgspec.Struct):
    """A struct of msgspec."""

    progress: Share


@dataclass
class Point:
    """A dataclass."""

    progress: Share


class Row(TypedDict):
    """A typed dictionary."""

    progress: Share


class Model(pydantic.BaseModel):
    """A model of pydantic."""

    progress: float = pydantic.Field(ge=0, le=1)


KINDS: list[tuple[Any, Any]] = [
    (Status, Status(0.5)),
    (Point, Point(0.5)),
    (Row, {"progress": 0.5}),
    (Model, Model(progress=0.5)),
    (dict[str, Share], {"progress": 0.5}),
]


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Connect]:
    """Run a bus that takes clients."""
    endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=UNLIMITED)
    async with bus, connecting(endpoint) as connect:
        with fail_after(10):
            yield connect


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=lambda each: getattr(each, "__name__", None))
async def test_objects_of_the_declared_type_arrive(kind: Any, value: Any) -> None:
    """A subscriber in the process gets objects of the type, and the values in the name."""
    bus = Bus()
    status = bus.channel("grid.{id}.status", kind, events=["update"])
    async with running(bus), status.subscribe(id="*") as events:
        receipt = await status.publish(value, id="abc")
        event = await anext(events)
    assert receipt.local_matched == 1
    assert (event.event, event.data) == ("update", value)
    assert type(event.data) is type(value)
    assert status.values(event.channel) == {"id": "abc"}


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=lambda each: getattr(each, "__name__", None))
async def test_what_is_not_of_the_type_is_refused_with_its_place(kind: Any, value: Any) -> None:
    """Neither the application nor a client publishes it, by whatever verb; both learn where."""
    bus = Bus()
    status = bus.channel("grid.{id}.status", kind, events=["update"])
    async with running(bus) as connect:
        ada, bob = await connect("ada"), await connect("bob")
        bob.say("subscribe", channels=["grid.*"], id="1")
        await bob.hear("subscribed")
        with pytest.raises(UsageError, match=r"grid\.abc\.status.*data"):
            await bus.publish("grid.abc.status", {"progress": 7}, event="update")
        with pytest.raises(UsageError, match="data"):
            status.publish_soon({"progress": "x"}, id="abc")
        with pytest.raises(UsageError, match="no such event; it has update"):
            await bus.publish("grid.abc.status", value, event="updaet")
        for data in ({"progress": 7}, {"progress": "x"}, 5):
            fields = {"channel": "grid.abc.status", "event": "update", "data": data}
            ada.say("publish", id="2", **fields)
            error = (await ada.hear("error", "response"))["error"]
            assert error["code"] == "VALIDATION_ERROR"
            assert "$.data" in error["message"]
        ada.say("publish", id="3", channel="grid.a.status", event="update", data={"progress": 1})
        assert await ada.hear("response")
        assert (await bob.hear("event"))["data"] == {"progress": 1}  # Nothing came before it.


async def test_a_client_that_asks_for_no_answer_learns_of_the_fault_too() -> None:
    """As with other refusals of a publication; and other channels take anything."""
    bus = Bus()
    bus.channel("grid.{id}", Status)
    async with running(bus) as connect:
        ada = await connect("ada")
        ada.say("publish", channel="grid.abc", data={})
        assert (await ada.hear("error"))["error"]["code"] == "VALIDATION_ERROR"
        ada.say("publish", channel="grid.abc.deeper", data={}, id="1")
        assert await ada.hear("response")


async def test_a_validator_that_fails_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets no text of it, the log has it, and the connection lives on."""

    class Bad(pydantic.BaseModel):
        x: int

        @pydantic.field_validator("x")
        @classmethod
        def fails(cls, x: int) -> int:
            raise KeyError("secret")

    bus = Bus()
    bus.channel("bad", Bad)
    async with running(bus) as connect:
        ada = await connect("ada")
        ada.say("publish", channel="bad", data={"x": 1}, id="1")
        error = (await ada.hear("error", "response"))["error"]
        assert (error["code"], "secret" in error["message"]) == ("INTERNAL_ERROR", False)
        ada.say("ping", id="2")
        assert await ada.hear("pong")
    assert any(record.exc_info for record in caplog.records)


async def test_each_event_may_have_a_type_of_its_own() -> None:
    """Then the event is named at each publication."""
    bus = Bus()
    grid = bus.channel("grid.{id}", events={"update": Status, "gone": str})
    async with running(bus), grid.subscribe() as events:
        await grid.publish(Status(1), event="update", id="1")
        await grid.publish("why", event="gone", id="1")
        assert [(await anext(events)).data for _ in range(2)] == [Status(1), "why"]
        with pytest.raises(UsageError, match="several events"):
            await grid.publish("why", id="1")
        with pytest.raises(UsageError, match=r"grid\.1"):
            await grid.publish("why", event="update", id="1")


async def test_history_and_late_subscribers_get_objects_too() -> None:
    """A channel keeps what its family keeps, and gives it back as the declared type."""
    bus = Bus()
    status = bus.channel("grid.{id}", Status, history=History(size=3, latest=True))
    async with running(bus):
        first = await status.publish(Status(0.1), id="1")
        await status.publish(Status(0.2), id="1")
        page = await status.history(id="1")
        assert [event.data for event in page.events] == [Status(0.1), Status(0.2)]
        assert page.head == await status.position(id="1")
        async with status.subscribe(since=first.position) as events:
            assert (await anext(events)).data == Status(0.2)
        async with status.subscribe(id=1) as events:
            event = await anext(events)
        assert (event.data, event.is_latest) == (Status(0.2), True)
        with pytest.raises(UsageError, match="presence"):
            status.presence(id="1")


async def test_what_another_process_declares_differently_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The subscription goes on, and the log says what is wrong and where."""
    broker = MemoryBroker()
    ours, theirs = Bus(broker=broker), Bus(broker=broker)
    status = ours.channel("grid.{id}", Status)
    async with running(ours), theirs, status.subscribe() as events:
        await theirs.publish("grid.a", {"progress": "much"})
        await theirs.publish("grid.a", {"progress": 0.5})
        assert (await anext(events)).data == Status(0.5)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "grid.a" in record.getMessage()


def test_wrong_declarations_are_refused_when_they_are_made() -> None:
    """Each error names the channel, and says what to write."""

    class Opaque:
        pass

    bus = Bus()
    wrong: dict[str, dict[str, Any]] = {
        "a.{event}": {"kind": Status},
        "b.{id}": {},
        "c.{id}": {"kind": Opaque},
        "d.{id}": {"kind": Status, "events": "update"},
        "e.{id}": {"kind": Status, "events": []},
        "f.{id}": {"kind": Status, "events": {"update": Status}},
        "g.{id}": {"kind": Status, "events": [1]},
        "h.x{id}": {"kind": Status},
    }
    for template, arguments in wrong.items():
        with pytest.raises(UsageError, match=template[0]):
            bus.channel(template, **arguments)
    with pytest.raises(InvalidChannel):
        bus.channel("a..{id}", Status)
    bus.channel("i.{id}", Status)
    with pytest.raises(UsageError, match="the same channels"):
        bus.channel("i.{name}", Status)
    assert [each.template for each in bus.channels] == ["i.{id}"]


async def test_a_loop_subscribes_at_its_first_step_and_until_it_is_closed() -> None:
    """``async for`` needs no ``async with``; nothing stays behind."""
    bus = Bus()
    status = bus.channel("grid.{id}", Status, history=History(latest=True))
    async with running(bus):
        await status.publish(Status(0), id="1")
        steps = aiter(status.subscribe())
        assert isinstance(steps, AsyncGenerator)
        assert (await status.publish(Status(1), id=1)).local_matched == 0
        assert (await anext(steps)).data == Status(1)
        assert (await status.publish(Status(1), id=1)).local_matched == 1
        await steps.aclose()
        assert (await status.publish(Status(1), id=1)).local_matched == 0
