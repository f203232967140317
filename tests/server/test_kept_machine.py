"""Subscribers of channels with history, whatever fails: they get everything, or are told."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import sleep
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.kept_world import CHANNELS, NODES, World, in_virtual_time

NAMES = ("kept.a", "kept.*", "kept.+", "kept.c.*", "*", "kept.b")
nodes = st.integers(0, NODES - 1)
waits = st.sampled_from([0.0, 0.001, 0.03, 0.2, 1.1, 4.0, 7.0])
channels = st.sampled_from(CHANNELS)
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
steps = st.one_of(
    st.tuples(st.just("subscribe"), nodes, st.sampled_from(NAMES)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 9), st.none()),
    st.tuples(st.just("connect"), nodes, st.tuples(st.sampled_from(["ada", "shy"]), names)),
    st.tuples(st.sampled_from(["cut", "cut", "cut all"]), nodes, st.integers(0, 9)),
    st.tuples(st.sampled_from(["publish", "repeat"]), nodes, channels),
    st.tuples(st.just("burst"), nodes, st.integers(1, 30)),
    st.tuples(st.just("lose"), nodes, st.none()),
    st.tuples(st.sampled_from(["refuse", "dead", "freeze"]), nodes, st.booleans()),
    st.tuples(st.just("slow"), nodes, st.sampled_from([0.0, 0.002, 0.05, 0.2, 1.0])),
    st.tuples(st.just("late"), nodes, st.sampled_from([0.0, 0.01, 0.4])),
    st.tuples(st.just("wait"), waits, st.none()),
    st.tuples(st.just("wait"), waits, st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
)


async def perform(  # noqa: C901, PLR0912  # a case for each step
    world: World, step: tuple[str, Any, Any]
) -> None:
    match step:
        case "subscribe", node, name:
            world.subscribe(node, name)
        case "unsubscribe", index, _:
            if world.scopes:
                world.scopes[index % len(world.scopes)].cancel()
        case "connect", node, (token, chosen):
            world.connect(node, token, chosen)
        case "cut", node, index:
            if world.clients:
                world.clients[index % len(world.clients)].cut(node)
        case "cut all", node, _:
            for client in world.clients:
                client.cut(node)
        case "publish" | "repeat" as how, node, channel:
            world.tasks.start_soon(lambda: world.publish(node, channel, repeats=how == "repeat"))
        case "burst", node, count:
            for number in range(count):
                world.tasks.start_soon(world.publish, node, CHANNELS[number % len(CHANNELS)])
                await sleep(0.001)
        case "lose", node, _:
            world.switches[node].lose()
        case "refuse", node, value:
            world.switches[node].refuses = value
        case "dead", node, value:
            world.switches[node].is_dead = value
        case "freeze", node, value:
            world.switches[node].is_frozen = value
        case "slow", node, seconds:
            world.switches[node].seconds = seconds
        case "late", node, seconds:
            world.switches[node].latency = seconds
        case "wait", seconds, _:
            await sleep(seconds)
        case "flush", _, _:
            world.board.flush()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@settings(max_examples=settings().max_examples // 4)
@given(st.lists(steps, min_size=5, max_size=40), st.sampled_from([3, 50, 1000]))
def test_everything_comes_once_and_in_order_or_is_told(
    backend: str, script: list[tuple[str, Any, Any]], size: int
) -> None:
    """Cut clients and links anywhere: offsets grow, each hole was told, and in the end all is well.

    What is acknowledged is kept at its position, what is refused is not, and nobody gets what is
    denied to them.
    """

    async def scenario(world: World) -> None:
        for step in script:
            await perform(world, step)
        await world.settle()
        world.check()

    in_virtual_time(scenario, backend=backend, size=size)
