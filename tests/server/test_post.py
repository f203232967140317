"""The way of a publication, from whoever publishes to the hub."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

import pytest
from anyio import to_thread

from tests.server.clients import UNLIMITED, Client, connecting, judge
from wsbus import Bus, Receipt
from wsbus.core.messages import Publication
from wsbus.server.host import BusHost
from wsbus.server.post import Post

Verb: TypeAlias = Callable[[Bus, Client, int], Awaitable[object]]


async def at_once(call: Callable[[], object]) -> None:
    """Call what does not wait."""
    call()


VERBS: Final[dict[str, Verb]] = {
    "publish": lambda bus, ann, n: bus.publish("a", n),
    "publish_soon": lambda bus, ann, n: at_once(lambda: bus.publish_soon("a", n)),
    "publish_threadsafe": lambda bus, ann, n: to_thread.run_sync(bus.publish_threadsafe, "a", n),
    "send": lambda bus, ann, n: bus.send("x", n, to=ann.connection),
    "send_soon": lambda bus, ann, n: at_once(lambda: bus.send_soon("x", n, to="ann")),
    "send_threadsafe": lambda bus, ann, n: to_thread.run_sync(
        partial(bus.send_threadsafe, "x", n, to="ann")
    ),
    "broadcast": lambda bus, ann, n: bus.broadcast(n),
    "a client": lambda bus, ann, n: at_once(
        lambda: ann.say("publish", id=str(n), channel="a", data=n)
    ),
}


class Way:
    """What passed the post, and what came to the hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delivered: list[Publication] = []
        self.arrived: list[Publication] = []
        deliver = Post.deliver

        def noted(post: Post, publication: Publication, *args: Any, **options: Any) -> Receipt:
            self.delivered.append(publication)
            return deliver(post, publication, *args, **options)

        monkeypatch.setattr(Post, "deliver", noted)

    def watch(self, host: BusHost) -> None:
        """Look at what the hub of a running bus gets."""
        host.services.hub.taps.append(lambda publication, _: self.arrived.append(publication))


def numbers() -> Iterator[int]:
    """Yield what to publish: each number once."""
    return itertools.count()


@pytest.mark.parametrize("verb", VERBS)
async def test_every_publication_passes_the_post_once(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes: what the hub gets was delivered by the post, once, in the same order."""
    way, bus = Way(monkeypatch), Bus()
    endpoint = bus.endpoint(
        authenticator=judge, query_token="token", broadcast="all", limits=UNLIMITED
    )
    other, count = VERBS["publish"], numbers()
    async with bus, connecting(endpoint) as connect:
        ann = await connect("ann")
        await ann.subscribe("a")
        host = endpoint.host
        assert isinstance(host, BusHost)
        way.watch(host)
        for _ in range(3):
            await VERBS[verb](bus, ann, next(count))
            if verb == "a client":
                await ann.hear("response")
            await other(bus, ann, next(count))
        published = list(range(next(count)))
        node = host.services.post.node

        assert way.arrived == way.delivered
        assert [int(publication.data) for publication in way.arrived] == published
        assert len({publication.id for publication in way.arrived}) == len(published)
        assert {publication.node for publication in way.arrived} == {node}


async def test_each_run_is_a_node_of_its_own() -> None:
    """Ids of two runs, or of two buses, are never the same."""
    bus, nodes = Bus(), set[str]()
    for _ in range(2):
        async with bus, Bus() as other:
            for each in (bus, other):
                nodes.add(each._host.services.post.node)

    assert len(nodes) == 4


def test_families_are_declared_before_the_bus_runs() -> None:
    """The guide: before the bus starts; see ``tests/mistakes`` for the refusal while it runs."""
    bus = Bus()

    assert bus.family("a.*", overflow="close").pattern.text == "a.*"
