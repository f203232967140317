"""What Prometheus sees of a bus, and what it must not see."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from tests.server.clients import UNLIMITED, Connect, connecting, quiet
from wsbus import Bus, History, UsageError
from wsbus.brokers import MemoryBroker
from wsbus.prometheus import BusCollector

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def registered(bus: Bus, **options: Any) -> CollectorRegistry:
    """Return a registry that shows nothing but a bus."""
    registry = CollectorRegistry()
    registry.register(BusCollector(bus, **options))
    return registry


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    """Return the values, as Prometheus reads them, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = "".join(f"[{key}={value}]" for key, value in sample.labels.items())
            found[sample.name + labels] = sample.value
    return found


@asynccontextmanager
async def stage(bus: Bus) -> AsyncIterator[Connect]:
    """Run a bus; give what connects clients."""
    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        yield connect


async def test_the_page_has_what_is_scraped() -> None:
    """Name, type and meaning of each metric stand in the reference, in order, and no others."""
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `wsbus_")
    ]
    async with Bus(broker=MemoryBroker()) as bus:
        with fail_after(10):
            while getattr(bus.statistics().broker, "round_trip", None) is None:
                await checkpoint()
        lines = generate_latest(registered(bus)).decode().splitlines()
    kinds = [line.split(" ", 3)[2:] for line in lines if line.startswith("# TYPE")]
    texts = [line.split(" ", 3)[2:] for line in lines if line.startswith("# HELP")]
    seen = [[name, kind, text] for (name, kind), (_, text) in zip(kinds, texts, strict=True)]
    assert sorted(seen) == sorted(rows)


async def test_the_values_are_those_of_the_bus() -> None:
    """Connections, messages and deliveries are counted, and a slow reader's queue is seen."""
    bus = Bus()
    registry = registered(bus)
    async with stage(bus) as connect:
        ann, bob = await connect(), await connect()
        await ann.subscribe("prices.*")
        await bob.subscribe("prices.*")
        await bus.publish("prices.BTC", 1)
        for client in (ann, bob):
            await client.hear("event")
        bob.peer.stop_reading()
        await bus.publish("prices.BTC", 2)
        await ann.hear("event")
        await quiet()
        seen = scraped(registry)
        bob.peer.read_on()
    expected = {
        "wsbus_up": 1,
        "wsbus_ready": 1,
        "wsbus_connections": 2,
        "wsbus_connections_accepted_total": 2,
        "wsbus_connections_blocked": 1,
        "wsbus_patterns": 1,
        "wsbus_messages_received_total": 2,
        "wsbus_publications_total": 2,
        "wsbus_deliveries_total": 4,
        "wsbus_deliveries_sent_total": 3,
        "wsbus_messages_sent_total": 7,
        "wsbus_queued_publications": 1,
    }
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "conflate"])
async def test_each_loss_has_its_reason(overflow: str) -> None:
    """A full queue evicts, refuses or conflates; what a connection leaves is discarded."""
    bus = Bus()
    registry = registered(bus)
    async with bus:
        async with bus.subscribe("a", max_messages=2, overflow=overflow):
            for number in range(5):
                await bus.publish("a", number, key="one")
            lost = [
                scraped(registry)[f"wsbus_deliveries_dropped_total[reason={reason}]"]
                for reason in ("evicted", "refused", "conflated", "discarded")
            ]
        left = scraped(registry)["wsbus_deliveries_dropped_total[reason=discarded]"]
    assert [*lost, left] == {
        "drop_oldest": [3, 0, 0, 0, 2],
        "drop_newest": [0, 3, 0, 0, 2],
        "conflate": [0, 0, 4, 0, 1],
    }[overflow]


async def test_a_counter_never_falls() -> None:
    """What a history gives back is counted apart, not taken off what was dropped."""
    bus = Bus()
    bus.family("kept.*", history=History())
    registry, name = registered(bus), "wsbus_deliveries_dropped_total[reason=evicted]"
    async with bus:
        async with bus.subscribe("kept.*", max_messages=2) as events:
            for number in range(10):
                await bus.publish("kept.a", number)
            before = scraped(registry)
            got = [(await anext(events)).data for _ in range(10)]
            after = scraped(registry)
        gone = scraped(registry)
    assert got == [*range(10)]
    assert (before[name], before["wsbus_deliveries_regained_total"]) == (8, 0)
    for seen in (after, gone):
        assert (seen[name], seen["wsbus_deliveries_regained_total"]) == (8, 8)
        assert seen["wsbus_deliveries_sent_total"] == 10


async def test_clients_add_no_series() -> None:
    """Neither channels nor users nor connections become labels."""
    bus = Bus()
    registry = registered(bus)
    async with stage(bus) as connect:
        before = scraped(registry)
        for number in range(20):
            client = await connect()
            await client.subscribe(f"secret.{number}", f"{number}.*")
            await bus.publish(f"secret.{number}", number)
        after = scraped(registry)
    assert before.keys() == after.keys()
    assert after["wsbus_connections"] == 20
    labels = {name.partition("[")[2].partition("=")[0] for name in after}
    assert labels == {"", "version", "reason"}


async def test_a_bus_that_does_not_run() -> None:
    """Before the start and after the stop there is its state, and nothing that would be wrong."""
    bus = Bus(broker=MemoryBroker())
    registry = registered(bus)
    states = []
    for _ in range(2):
        states.append(scraped(registry))
        async with bus:
            await bus.publish("a", 1)
            assert scraped(registry)["wsbus_publications_total"] == 1
    states.append(scraped(registry))
    for state in states:
        assert state.pop(next(iter(state))) == 1
        assert state == {"wsbus_up": 0, "wsbus_ready": 0}


async def test_a_drained_bus_is_up_and_not_ready() -> None:
    """Its counters are there still, and no traffic should come."""
    async with Bus() as bus:
        await bus.drain(0)
        seen = scraped(registered(bus))
    assert (seen["wsbus_up"], seen["wsbus_ready"], seen["wsbus_connections"]) == (1, 0, 0)


async def test_other_threads_may_ask() -> None:
    """The event loop gives them the counters, as ``start_http_server`` needs it."""
    async with Bus(broker=MemoryBroker()) as bus:
        await bus.publish("a", 1)
        seen = await to_thread.run_sync(scraped, registered(bus))
    assert (seen["wsbus_publications_total"], seen["wsbus_broker_nodes"]) == (1, 1)


async def test_a_blocked_event_loop_fails_the_scrape() -> None:
    """Prometheus learns that the process does not answer; the thread does not wait on."""
    errors: list[Exception] = []

    def scrape(registry: CollectorRegistry) -> None:
        try:
            scraped(registry)
        except UsageError as exc:
            errors.append(exc)

    async with Bus() as bus:
        thread = threading.Thread(target=scrape, args=(registered(bus, timeout=0.01),))
        thread.start()
        thread.join()  # The event loop is blocked here.
    assert "the event loop did not take it for 0.01 s" in str(errors[0])


def test_a_registry_takes_one() -> None:
    """Two would give the same name twice, which Prometheus refuses as a whole."""
    registry = registered(Bus())
    with pytest.raises(DuplicateTimeseries, match="wsbus_connections"):
        registry.register(BusCollector(Bus()))


@pytest.mark.parametrize("timeout", [0, -1, "5", None, True])
def test_wrong_arguments(timeout: Any) -> None:
    """They are refused when the collector is made."""
    with pytest.raises(UsageError, match="timeout"):
        BusCollector(Bus(), timeout=timeout)
    endpoint: Any = Bus().default_endpoint
    with pytest.raises(UsageError, match="shows a bus"):
        BusCollector(endpoint)
