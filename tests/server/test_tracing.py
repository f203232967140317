"""Traces: what has a span, what it says, and how its context travels."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from anyio import Event as Flag
from anyio import fail_after
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.server.clients import EVERYTHING, connecting, judge
from wsbus import Bus, CommandError, Handshake, History, Identity, Limits, Stream, UsageError
from wsbus.brokers import MemoryBroker
from wsbus.bus import host_of
from wsbus.core.channels import Channel
from wsbus.core.envelope import Published, publication_of, publish_item
from wsbus.core.messages import Publication
from wsbus.emitter import Emitter, SyncEmitter
from wsbus.opentelemetry import OpenTelemetry, links_to

PARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """An SDK that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: Final = InMemorySpanExporter()
        self.provider: Final = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.tracer: Final = self.provider.get_tracer("test")
        self.tracing: Final = OpenTelemetry(self.provider)

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name that have ended."""
        return [span for span in self.kept.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        (span,) = self.spans(name)
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Give an SDK of this test's own."""
    found = Traced()
    yield found
    found.provider.shutdown()


def ids(span: ReadableSpan | trace.Span) -> tuple[int, int]:
    """Return what identifies a span."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    """Return what identifies the spans that a span links to."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


# --- commands --------------------------------------------------------------------------------


def with_commands(bus: Bus) -> Bus:
    """Register one command of each sort."""

    @bus.command("now")
    def now(x: int) -> int:
        return x

    @bus.command("later")
    async def later(x: int) -> int:
        await Flag().wait() if x < 0 else None
        return x

    @bus.command("thread", threaded=True)
    def in_thread(x: int) -> int:
        return x

    @bus.command("refuse")
    def refuse() -> None:
        raise CommandError("SOLD_OUT", "the secret of hopper")

    @bus.command("fail")
    async def fail() -> None:
        raise ValueError("the secret of hopper")

    return bus


@pytest.mark.parametrize("action", ["now", "later", "thread"])
async def test_a_command_has_a_server_span(traced: Traced, action: str) -> None:
    """It has the attributes of the conventions, no error, and begins a trace."""
    bus = with_commands(Bus(tracing=traced.tracing))
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        assert await client.is_refused(action, x=1) is None
    span = traced.span(action)
    assert span.kind is trace.SpanKind.SERVER
    assert facts(span) == {"rpc.system.name": "wsbus", "rpc.method": action}
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.parent is None


@pytest.mark.parametrize(
    ("action", "params", "name", "code"),
    [
        ("refuse", {}, "refuse", "SOLD_OUT"),
        ("fail", {}, "fail", "INTERNAL_ERROR"),
        ("later", {"x": -1}, "later", "TIMEOUT"),
        ("now", {"x": "hopper"}, "now", "VALIDATION_ERROR"),
        ("later", {"x": "hopper"}, "later", "VALIDATION_ERROR"),
        ("of hopper", {}, "_OTHER", "UNKNOWN_ACTION"),
    ],
)
async def test_an_error_of_a_command_is_the_status_of_its_span(
    traced: Traced, action: str, params: dict[str, object], name: str, code: str
) -> None:
    """The code is there, for every way to fail, and no text of the application or of the client."""
    bus = with_commands(Bus(tracing=traced.tracing))
    limits = Limits(command_timeout=0.01) if code == "TIMEOUT" else Limits()
    async with bus, connecting(bus.endpoint(limits=limits)) as connect:
        client = await connect()
        assert await client.is_refused(action, **params) == code
    span = traced.span(name)
    assert span.status.status_code is trace.StatusCode.ERROR
    assert facts(span) == {
        "rpc.system.name": "wsbus",
        "rpc.method": name,
        "rpc.response.status_code": code,
        "error.type": code,
    }
    assert "hopper" not in span.to_json()


async def test_a_command_that_is_cut_off_has_a_span_nevertheless(traced: Traced) -> None:
    """The span of a command that runs as the bus ends is ended, as cancelled."""
    bus = with_commands(Bus(tracing=traced.tracing))
    started = Flag()

    @bus.command("wait")
    async def wait() -> None:
        started.set()
        await Flag().wait()

    async with connecting(bus.endpoint()) as connect:
        await bus.__aenter__()
        client = await connect()
        client.say("command", id="1", action="wait")
        with fail_after(5):
            await started.wait()
        await bus.aclose(deadline=0)
    assert facts(traced.span("wait"))["error.type"] == "cancelled"


async def test_a_command_links_to_the_handshake_and_is_part_of_a_request(traced: Traced) -> None:
    """Over a connection it begins a trace; by HTTP it is a child of the request's span."""
    bus = with_commands(Bus(tracing=traced.tracing))
    endpoint = bus.endpoint()
    async with bus:
        with traced.tracer.start_as_current_span("handshake") as handshake:
            async with connecting(endpoint) as connect:
                client = await connect()
                await client.command("now", x=1)
        over_connection = traced.span("now")
        traced.kept.clear()
        with traced.tracer.start_as_current_span("request") as request:
            text = json.dumps({"type": "command", "action": "now", "params": {"x": 1}})
            identity = Identity("hopper", EVERYTHING)
            code, _ = await host_of(bus).request(endpoint, Handshake("/ws"), identity, text)
        assert code is None
    assert over_connection.parent is None
    assert linked(over_connection) == [ids(handshake)]
    by_http = traced.span("now")
    assert by_http.parent is not None
    assert (by_http.parent.trace_id, by_http.parent.span_id) == ids(request)


async def test_the_span_of_a_command_is_current_in_it_and_nowhere_else(traced: Traced) -> None:
    """What a command publishes belongs to its trace; the next command does not."""
    bus = Bus(tracing=traced.tracing)

    @bus.command("tell")
    async def tell() -> None:
        await bus.publish("news", 1)

    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.command("tell")
        await client.command("tell")
    commands, publications = traced.spans("tell"), traced.spans("publish")
    assert len({ids(span)[0] for span in commands}) == 2
    parents = [span.parent and span.parent.span_id for span in publications]
    assert parents == [ids(span)[1] for span in commands]


# --- publications ----------------------------------------------------------------------------


async def test_a_consumer_of_another_node_links_to_the_publication(traced: Traced) -> None:
    """The context travels through a broker; the consumer has a trace of its own, with a link."""
    broker = MemoryBroker()
    here, there = Bus(broker=broker, tracing=traced.tracing), Bus(broker=broker)
    async with here, there, there.subscribe("news") as events:
        with fail_after(5), traced.tracer.start_as_current_span("caller") as caller:
            await here.publish("news", {"secret": "of hopper"})
        with fail_after(5):
            event = await anext(events)
        with traced.tracing.process(event):
            pass
    published, processed = traced.span("publish"), traced.span("process")
    assert (published.kind, processed.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    assert published.parent is not None
    assert published.parent.span_id == ids(caller)[1]
    assert linked(processed) == [ids(published)]
    assert processed.parent is None
    assert facts(published) == {
        "messaging.system": "wsbus",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    assert facts(processed) == {
        "messaging.system": "wsbus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }


@pytest.mark.parametrize("place", ["process", "memory", "file"])
async def test_the_context_is_kept_with_history(traced: Traced, place: str, tmp_path: Path) -> None:
    """What is read later, live or from history, links as well, wherever the history is kept."""
    path = tmp_path / "history.db" if place == "file" else None
    broker = None if place == "process" else MemoryBroker(path)
    bus = Bus(broker=broker, tracing=traced.tracing)
    bus.family("kept", history=History())
    async with bus, bus.subscribe("kept") as events:
        with fail_after(5):
            await bus.publish("kept", 1)
            live = await anext(events)
            (late,) = (await bus.history("kept")).events
    expected = [ids(traced.span("publish"))]
    for event in (live, late):
        found = [link.context for link in links_to(event)]
        assert [(each.trace_id, each.span_id) for each in found] == expected


async def test_a_publication_of_a_client_begins_a_trace(traced: Traced) -> None:
    """It does not belong to whatever span was current where its connection runs."""
    bus = Bus(tracing=traced.tracing)
    endpoint = bus.endpoint(authenticator=judge, query_token="token")
    async with bus, bus.subscribe("news") as events:
        with traced.tracer.start_as_current_span("handshake"):
            async with connecting(endpoint) as connect:
                client = await connect("hopper")
                client.say("publish", channel="news", data=1)
                with fail_after(5):
                    event = await anext(events)
    span = traced.span("publish")
    assert span.parent is None
    assert [link.context.span_id for link in links_to(event)] == [ids(span)[1]]
    assert "hopper" not in span.to_json()
    assert "news" not in span.to_json()


async def test_another_thread_publishes_in_its_own_context(traced: Traced) -> None:
    """The parent is the span that is current in the thread that publishes."""
    bus = Bus(tracing=traced.tracing)
    async with bus, bus.subscribe("news") as events:

        def publish() -> None:
            with traced.tracer.start_as_current_span("job"):
                bus.publish_threadsafe("news", 1, wait=False)

        thread = threading.Thread(target=publish)
        thread.start()
        with fail_after(5):
            await anext(events)
        thread.join()
    published = traced.span("publish")
    assert published.parent is not None
    assert published.parent.span_id == ids(traced.span("job"))[1]


async def test_channels_are_named_only_if_asked(traced: Traced) -> None:
    """With channels=True the name and an attribute of both spans have the channel."""
    tracing = OpenTelemetry(traced.provider, channels=True)
    bus = Bus(tracing=tracing)
    async with bus, bus.subscribe("news") as events:
        await bus.publish("news", 1)
        with tracing.process(await anext(events)):
            pass
    for name in ("publish news", "process news"):
        assert facts(traced.span(name))["messaging.destination.name"] == "news"


async def test_what_cannot_be_published_is_an_error_of_its_span(traced: Traced) -> None:
    """The class of the error is there, and not its text; what the block of an event raises, too."""
    bus = Bus(tracing=traced.tracing)
    async with bus, bus.subscribe("news") as events:
        with pytest.raises(UsageError):
            await bus.publish("news", object())
        await bus.publish("news", 1)
        event = await anext(events)
        with pytest.raises(KeyError), traced.tracing.process(event):
            raise KeyError("the secret of hopper")
    refused, accepted = traced.spans("publish")
    assert facts(refused)["error.type"] == "UsageError"
    assert accepted.status.status_code is trace.StatusCode.UNSET
    processed = traced.span("process")
    assert facts(processed)["error.type"] == "KeyError"
    assert "hopper" not in processed.to_json()
    for span in (refused, processed):
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.events == ()


async def test_an_emitter_passes_the_context_on(traced: Traced) -> None:
    """What an emitter publishes links like what a bus publishes."""
    broker = MemoryBroker()
    bus = Bus(broker=broker)
    emitter = Emitter(broker, tracing=traced.tracing)
    async with bus, bus.subscribe("news") as events, emitter:
        with fail_after(5):
            await emitter.publish("news", 1)
            event = await anext(events)
    assert [link.context.span_id for link in links_to(event)] == [ids(traced.span("publish"))[1]]


async def test_entries_of_streams_have_no_spans(traced: Traced) -> None:
    """A stream has hundreds of entries: none of them has a span."""
    bus = Bus(tracing=traced.tracing)
    bus.family("answers.*", stream=Stream())
    async with bus, bus.stream("answers.1") as stream:
        await stream.append("a")
    assert traced.kept.get_finished_spans() == ()


def test_what_tracing_may_be() -> None:
    """Something else than tracing is refused where it is given."""
    wrong: Any = "yes"
    for make in (
        lambda: Bus(tracing=wrong),
        lambda: Emitter(MemoryBroker(), tracing=wrong),
        lambda: SyncEmitter("redis://127.0.0.1:1", tracing=wrong),
        lambda: OpenTelemetry(wrong),
        lambda: OpenTelemetry(channels=wrong),
    ):
        with pytest.raises(UsageError, match="yes"):
            make()


async def test_without_an_sdk_nothing_is_traced() -> None:
    """With the API alone everything works, and no context travels."""
    bus = with_commands(Bus(tracing=OpenTelemetry(trace.NoOpTracerProvider())))
    async with bus, connecting(bus.endpoint()) as connect, bus.subscribe("news") as events:
        client = await connect()
        assert await client.is_refused("later", x=1) is None
        await bus.publish("news", 1)
        event = await anext(events)
    assert event.trace_parent is None
    assert links_to(event) == ()


# --- the envelope ----------------------------------------------------------------------------


class OldPublished(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A publication as nodes without tracing write and read it."""

    number: int
    channel: str
    event: str
    data: bytes
    timestamp: float
    key: str | None = None
    excluded: None = None
    to: None = None
    packed: bytes | None = None


def test_the_envelope_is_the_same_without_tracing_and_is_read_without_it() -> None:
    """Byte for byte without tracing; with it, a node that knows nothing of it reads the rest."""
    plain = Publication(Channel("a.b"), "e", b"1", 1.5, "key", "node", 7)
    traced = msgspec.structs.replace(plain, trace_parent=PARENT)
    old = OldPublished(7, "a.b", "e", b"1", 1.5, "key")
    assert publish_item(plain) == msgspec.msgpack.encode(old)
    assert publish_item(traced) != publish_item(plain)
    assert msgspec.msgpack.decode(publish_item(traced), type=OldPublished) == old
    item = msgspec.msgpack.decode(publish_item(traced), type=Published)
    arrived = publication_of(item, "a.b", "node")
    assert arrived is not None
    assert arrived.trace_parent == PARENT


@pytest.mark.parametrize("text", ["", "x" * 10_000, PARENT + "-more", PARENT.upper(), "é"])
def test_a_context_that_is_none_costs_the_link_only(text: str) -> None:
    """What others write as a context is checked; the publication is fit nevertheless."""
    arrived = publication_of(Published(1, "a", "e", b"1", 1.0, trace_parent=text), "a", "node")
    assert arrived is not None
    assert arrived.trace_parent is None
