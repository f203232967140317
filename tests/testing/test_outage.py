"""A broker with outages: what an application sees of them, and the fixtures for pytest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from anyio import create_task_group, fail_after, sleep, wait_all_tasks_blocked

from wsbus import BrokerUnavailable, Bus, History
from wsbus.brokers import MemoryBroker
from wsbus.client import Connecting
from wsbus.testing import FaultyBroker, MemoryNetwork, expect

pytest_plugins = ["wsbus.testing.pytest"]


async def healed(*buses: Bus) -> None:
    """Wait until buses have their broker again."""
    with fail_after(10):
        while not all(bus.healthy for bus in buses):  # noqa: ASYNC110  # no event tells it
            await sleep(0.01)


async def test_a_cut_is_seen_and_told(
    wsbus_broker: FaultyBroker, wsbus_client: Callable[..., Connecting]
) -> None:
    """Publishing raises, health is false, and who subscribes gets a gap afterwards."""
    one, two = Bus(broker=wsbus_broker), Bus(broker=wsbus_broker)
    async with one, two, wsbus_client(two) as c, c.subscribe("a") as events:
        await one.publish("a", 1)
        assert (await expect(events).receive(1)).gap is None

        await wsbus_broker.cut()
        assert not one.healthy
        assert not two.healthy
        with pytest.raises(BrokerUnavailable):
            await one.publish("a", 2)

        wsbus_broker.restore()
        await healed(one, two)
        await one.publish("a", 3)
        assert (await expect(events).receive(3)).gap is not None


async def test_one_of_two_is_cut_off() -> None:
    """Another one around the same broker goes on."""
    shared = MemoryBroker()
    mine = FaultyBroker(shared)
    one, two = Bus(broker=mine), Bus(broker=FaultyBroker(shared))
    async with one, two:
        await mine.cut()
        assert (one.healthy, two.healthy) == (False, True)


async def test_history_is_kept_while_it_is_cut() -> None:
    """The broker forgets nothing, and keeps nothing new."""
    broker = FaultyBroker()
    bus = Bus(broker=broker)
    bus.family("kept.*", history=History(size=10))
    async with bus:
        await bus.publish("kept.a", 1)
        await broker.cut()
        with pytest.raises(BrokerUnavailable):
            await bus.publish("kept.a", 2)
        broker.restore()
        await healed(bus)
        await bus.publish("kept.a", 3)
        page = await bus.history("kept.a")
        assert [event.data for event in page.events] == [1, 3]


async def test_what_is_frozen_waits() -> None:
    """A publication returns, and comes, only after the freeze; nothing is lost."""
    broker = FaultyBroker()
    one, two = Bus(broker=broker), Bus(broker=broker)
    async with one, two, two.subscribe("a") as events, create_task_group() as tasks:
        done: list[int] = []

        async def publish() -> None:
            await one.publish("a", 1)
            done.append(1)

        broker.freeze()
        tasks.start_soon(publish)
        await wait_all_tasks_blocked()
        assert not done
        await expect(events).nothing()
        broker.restore()
        assert (await expect(events).receive(1)).gap is None


async def test_what_is_on_its_way_is_held_too() -> None:
    """What a bus outside of the freeze publishes comes after it, in order."""
    shared = MemoryBroker()
    broker = FaultyBroker(shared)
    one, two = Bus(broker=shared), Bus(broker=broker)
    async with one, two, two.subscribe("a") as events:
        broker.freeze()
        await one.publish("a", 1)
        await one.publish("a", 2)
        await expect(events).nothing()
        broker.restore()
        await expect(events).receive_all(1, 2)


async def test_a_frozen_broker_can_be_cut() -> None:
    """The link ends, though its calls wait."""
    broker = FaultyBroker()
    async with Bus(broker=broker) as bus:
        broker.freeze()
        with fail_after(2):
            await broker.cut()
        assert not bus.healthy


async def test_clients_of_the_fixture_share_the_network(
    wsbus_network: MemoryNetwork, wsbus_client: Callable[..., Connecting]
) -> None:
    """The test can break all of them at once."""
    bus = Bus()
    async with bus, wsbus_client(bus), wsbus_client(bus):
        assert wsbus_network.dialled == 2


def test_pytest_is_not_imported_by_others() -> None:
    """Programs that use the kit without the fixtures need no pytest."""
    code = "import sys, wsbus.testing; print('pytest' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
