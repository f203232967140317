"""``wsbus doctor --broker``: dial a broker, and use it as a bus does."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, Final

import anyio

from ..broker import Broker, BrokerReport, InspectedBroker, Link
from ..core.envelope import Beacon, Turn, encode_item, open_envelope, read_items
from ..core.errors import WsbusError
from ..core.feeds import ALL_NODES, Feed
from ..server.directory import PROBE_SECONDS
from ..server.services import new_id
from .findings import CLOCK_SECONDS, PATIENCE, SLOW_SECONDS, Findings

__all__ = ["look_at_broker"]

_BEACONS: Final = 20
_MOST_NODES: Final = 100
"""Nodes that are listed at most."""
LISTEN_SECONDS: Final = PROBE_SECONDS + 0.5
"""How long to listen to the beacons of nodes."""
_RIGHTS: Final = {
    "+publish": "to publish",
    "+subscribe": "to follow channels",
    "+unsubscribe": "to stop following channels",
    "+multi": "to publish a turn as one transaction",
    "+exec": "to publish a turn as one transaction",
    "+del": "to check with each turn that the server is a primary",
    "+client|setname": "to give its connections a name",
    "+evalsha": "to run the scripts of the store",
    "+script|load": "to load the scripts of the store",
    "+time": "to read the server's clock",
    "+pubsub|numsub": "to ask which channels other nodes follow",
}
"""Rights of Redis that do not explain themselves."""


class _Visit:
    """One link to a broker, and what comes back by it."""

    def __init__(self) -> None:
        self.node: Final = f"doctor-{new_id()}"
        self.number = 0
        self.nodes: Final[dict[str, tuple[Beacon, float]]] = {}
        """The last beacon of each node, and how far its clock is ahead of this one, in seconds; the
        way of the beacon makes that less."""
        self.strange = 0
        """Messages that no bus of this version sends."""
        self._echo = anyio.Event()

    def receive(self, message: bytes) -> None:
        envelope = open_envelope(message)
        if envelope is None:
            self.strange += 1
            return
        items, _ = read_items(envelope)
        for beacon in [item for item in items if isinstance(item, Beacon)]:
            if envelope.node != self.node:
                self._note(envelope.node, beacon, envelope.sent_at - time.time())
            elif beacon.number == self.number:
                self._echo.set()

    def _note(self, node: str, beacon: Beacon, offset: float) -> None:
        if beacon.is_leaving:
            self.nodes.pop(node, None)
        elif len(self.nodes) < _MOST_NODES:
            self.nodes[node] = (beacon, offset)

    async def beacon(self, link: Link) -> float:
        """Send a beacon of no node; return the seconds until it is back."""
        self.number += 1
        self._echo = anyio.Event()
        turn = Turn(self.node, self.number, time.time())
        told = Beacon(self.number, platform.node(), os.getpid(), 0, time.time(), is_leaving=True)
        turn.add(ALL_NODES, encode_item(told))
        began = time.perf_counter()
        await link.publish(turn)
        with anyio.fail_after(PATIENCE):
            await self._echo.wait()
        return time.perf_counter() - began


async def look_at_broker(findings: Findings, broker: Broker) -> None:
    """Dial a broker, follow and publish; the broker keeps nothing of it."""
    visit, what = _Visit(), broker.address
    step = "dial it"
    try:
        if isinstance(broker, InspectedBroker):
            _tell_of_server(findings, what, await broker.inspect())
        async with broker.connect(visit.receive) as link:
            findings.tell("ok", what, "it can be dialled")
            step, until = "follow", anyio.current_time() + LISTEN_SECONDS
            await _timed(findings, what, "follow all nodes", partial(link.follow, [ALL_NODES]))
            feed = Feed(f"=wsbus.doctor.{visit.node}")
            await _timed(findings, what, "follow a channel", partial(link.follow, [feed]))
            prefix = Feed(f"~wsbus.doctor.{visit.node}.")
            await _timed(findings, what, "follow a wildcard", partial(link.follow, [prefix]))
            step = "publish, and get it back"
            taken = [await visit.beacon(link) for _ in range(_BEACONS)]
            middle, longest = median(taken), max(taken)
            findings.tell(
                "ok" if middle <= SLOW_SECONDS else "warn",
                what,
                f"round trip {middle * 1000:.2f} ms (median of {_BEACONS}), "
                f"at most {longest * 1000:.2f} ms",
                "" if middle <= SLOW_SECONDS else "put the broker nearer to its nodes",
            )
            step = "unfollow"
            await _timed(findings, what, "unfollow", partial(link.unfollow, [feed, prefix]))
            if what != "memory:":  # There are no others in this process.
                step = "listen to other nodes"
                await anyio.sleep_until(until)
                _tell_of_nodes(findings, what, visit)
    except TimeoutError:
        cure = "its user must be permitted to publish and to subscribe; see docs/how-to/brokers.md"
        findings.tell("fail", what, f"what was sent did not come back within {PATIENCE:g} s", cure)
    except (WsbusError, OSError) as exc:
        cure = "compare address, user, password and permissions with docs/how-to/brokers.md"
        findings.tell("fail", what, f"cannot {step}: {exc}", cure)


def _tell_of_server(findings: Findings, what: str, found: BrokerReport) -> None:
    findings.tell("ok", what, f"the server is {found.server}")
    cure = "grant it with ACL SETUSER; docs/how-to/brokers.md has the whole line"
    for right in found.missing:
        findings.tell("fail", what, f"its user lacks {right}: {_right(right)}", cure)
    for right in found.missing_for_history:
        text = f"its user lacks {right}: {_right(right)}, for families with history"
        findings.tell("warn", what, text, cure)


def _tell_of_nodes(findings: Findings, what: str, visit: _Visit) -> None:
    nodes = sorted(visit.nodes.items(), key=lambda each: each[1][0].started_at)
    findings.tell("ok", what, f"{len(nodes)} nodes are there")
    for node, (beacon, offset) in nodes:
        is_close = abs(offset) <= CLOCK_SECONDS
        findings.tell(
            "ok" if is_close else "warn",
            what,
            f"node {node}, process {beacon.pid} on {beacon.host}, has {beacon.connections} "
            f"connections; its clock is {offset:+.3f} s from this one",
            "" if is_close else "let both follow NTP: events have the time of their node",
        )
    if visit.strange:
        text = f"{visit.strange} messages for all nodes are not of this version of wsbus"
        cure = "give other programs, and other versions, another prefix or another server"
        findings.tell("warn", what, text, cure)


def _right(right: str) -> str:
    """Say in words what a right of Redis permits."""
    if right.startswith("&"):
        return f"to use the channels {right[1:]}"
    if right.startswith("~"):
        return f"to use the keys {right[1:]}"
    return _RIGHTS.get(right, f"to call {right[1:].upper().replace('|', ' ')}")


async def _timed(findings: Findings, what: str, name: str, call: Callable[[], Any]) -> None:
    began = time.perf_counter()
    with anyio.fail_after(PATIENCE):
        await call()
    findings.tell("ok", what, f"{name}: {(time.perf_counter() - began) * 1000:.2f} ms")
