"""Laws of order and of flow control, for peers that read and peers that do not."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from typing import Final
from unittest import SkipTest

import msgspec
from anyio import create_task_group, move_on_after, sleep
from anyio.lowlevel import checkpoint

from ...core.overflow import Overflow
from ...server.connection import driver_of
from ...transport import Handshake
from ..adapters import UNLIMITED, Adapter, JsonPeer, open_site, require
from ..frames import Opcode, client_frame

__all__ = [
    "backpressure",
    "choked_reading",
    "nothing_lost_unknowingly",
    "order_in",
    "order_out",
    "ping_flood",
    "stuck_peer",
    "tight_publisher",
]

_SMALL: Final = 4096
"""Bytes of receive buffer, for peers that do not read."""
_PATIENT: Final = msgspec.structs.replace(UNLIMITED, write_deadline=60.0)
_KIB: Final = "x" * 1000
_MIB: Final = 1 << 20
_LONG_PING: Final = {"type": "ping", "id": "x" * 60_000}
_MOST_AHEAD: Final = 16 * _MIB
"""Bytes that a peer may send ahead of the answers, including buffers of both kernels."""


async def order_out(adapter: Adapter) -> None:
    """Publications and answers arrive in the order made, all of them, in every dialect."""
    # Large enough for all: on a busy machine these readers, in the same process, may not keep up.
    limits = msgspec.structs.replace(UNLIMITED, queue_messages=3000)
    protocols = ["wsbus.v1", "zigquant-v2"]
    async with open_site(adapter, protocols=protocols, limits=limits) as site:
        clients = [await site.connect(subprotocols=[p.name]) for p in site.endpoint.protocols]
        for client in clients:
            await client.subscribe("a.*", "*")
        count = 3000
        async with create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(_hears_all, client, count)
            for number in range(count):
                await site.bus.publish(f"a.{number % 3}", number)


async def order_in(adapter: Adapter) -> None:
    """Messages of a client are acted on in the order sent, all of them."""
    async with open_site(adapter) as site:
        client = await site.connect()
        refs = [str(number) for number in range(1000)]
        async with create_task_group() as tasks:
            tasks.start_soon(_hears_pongs, client, refs)
            for ref in refs:
                await client.say("ping", id=ref)


async def tight_publisher(adapter: Adapter) -> None:
    """A publisher in a tight loop loses nothing for a reader that keeps up."""
    async with open_site(adapter, overflow=Overflow.CLOSE) as site:
        client = await site.connect()
        await client.subscribe("a")
        async with create_task_group() as tasks:
            tasks.start_soon(_hears_all, client, 4000)
            for number in range(4000):
                await site.bus.publish("a", number, event=_KIB)


async def backpressure(adapter: Adapter) -> None:
    """For a peer that does not read, the queue and the bytes below it are bounded."""
    async with open_site(adapter, limits=_PATIENT) as site:
        client = await site.connect(receive_buffer=_SMALL)
        await client.subscribe("a")
        for _ in range(32):
            for _ in range(512):
                await site.bus.publish("a", _KIB)
            info = site.info(client)
            require(info.queue_bytes <= _PATIENT.queue_bytes, "the queue is bounded in bytes")
            require(info.queue_messages <= _PATIENT.queue_messages, "and in messages")

        info = site.info(client)
        below = info.message_count * len(_KIB)
        require(below <= adapter.hidden_bytes, f"{below} bytes wait below the queue")
        require(info.message_count + info.queue_messages + info.dropped == 32 * 512, "all counted")


async def nothing_lost_unknowingly(adapter: Adapter) -> None:
    """A peer that pauses and reads on gets the rest in order, and the number of lost messages."""
    async with open_site(adapter, limits=_PATIENT) as site:
        client = await site.connect(receive_buffer=_SMALL)
        await client.subscribe("a", "end")
        count = 8192
        for number in range(count):
            await site.bus.publish("a", number, event=_KIB)
        await site.bus.publish("end")

        got = lost = 0
        last = -1
        while (message := await client.hear("event", "gap"))["type"] == "gap" or (
            message["channel"] != "end"
        ):
            if message["type"] == "gap":
                lost += message["data"]["lost"]
            else:
                require(message["data"] > last, "what is left is in order")
                last, got = message["data"], got + 1
        require(lost > 0, "so much does not fit anywhere")
        require(got + lost == count, f"{got} came and {lost} are reported as lost, of {count}")


async def stuck_peer(adapter: Adapter) -> None:
    """A peer that reads nothing is aborted at the write deadline, and slows no other until then."""
    limits = msgspec.structs.replace(UNLIMITED, write_deadline=0.5)
    async with open_site(adapter, limits=limits) as site:
        stuck = await site.connect(receive_buffer=_SMALL)
        reader = await site.connect()
        await stuck.subscribe("a")
        await reader.subscribe("a")
        async with create_task_group() as tasks:
            tasks.start_soon(_hears_till_end, reader)
            number = 0
            while not site.has_left(stuck):
                await site.bus.publish("a", number, event=_KIB * 8)
                number += 1
                await sleep(0.001)  # Time must pass; the reader shares this thread.
            await site.bus.publish("a", -1)

        require(site.bus.statistics().connections == 1, "only the stuck one was aborted")
        if adapter.frees_sockets:
            require(await stuck.peer.was_reset(), "the socket of an aborted peer is gone")


async def choked_reading(adapter: Adapter) -> None:
    """The server reads as slowly from a client as the client reads its answers."""
    limits = msgspec.structs.replace(_PATIENT, control_bytes=64 * 1024)
    async with open_site(adapter, limits=limits) as site:
        for chatter in (b"", client_frame(Opcode.PING, b"x" * 100) * 16):
            client = await site.connect(receive_buffer=_SMALL)
            question = client_frame(Opcode.TEXT, msgspec.json.encode(_LONG_PING)) + chatter
            rest, sent, read = question, 0, 0
            while read < 2 * _MIB:  # Each byte that is read lets the server write one more.
                while taken := client.peer.send_some(rest):
                    sent += taken
                    rest = rest[taken:] or question
                    await checkpoint()
                    if sent - read > _MOST_AHEAD:
                        break
                require(sent - read <= _MOST_AHEAD, f"{sent} bytes were taken, {read} answered")
                read += await client.peer.read_some(32 * 1024)
            client.peer.reset()


async def ping_flood(adapter: Adapter) -> None:
    """A peer that sends pings and never reads costs the server hardly any memory."""
    if not adapter.bounds_pongs:
        raise SkipTest("the server answers pings below the adapter")

    def nobody_yet(token: str | None, handshake: Handshake) -> None:
        return None

    async with open_site(adapter, authenticator=nobody_yet) as site:
        flooder = await site.connect(receive_buffer=_SMALL)
        gc.collect()
        before, pings = _resident_bytes(), client_frame(Opcode.PING, b"x" * 125) * 100
        is_over = False
        for _ in range(1000):  # 13 MB, unless the server stops reading before, or closes.
            with move_on_after(0.5) as patience, suppress(OSError):
                await flooder.peer.send_raw(pings)
                continue
            is_over = not patience.cancelled_caught
            break
        grown = _resident_bytes() - before
        bystander = await site.connect()
        await bystander.say("ping")
        require((await bystander.hear("error"))["error"]["code"], "the others are served")

        require(grown < 4 << 20, f"{grown} bytes for a peer that never reads")
        if is_over or site.has_left(flooder):
            return
        direct = driver_of(site.connection(flooder)).outlet.direct
        if direct is not None:
            require(direct.unsent() < 1 << 20, f"{direct.unsent()} bytes of pongs wait")


async def _hears_all(client: JsonPeer, count: int) -> None:
    for number in range(count):
        message = await client.hear("event", "gap")
        require(message.get("data") == number, f"{message} came where {number} was due")


async def _hears_till_end(client: JsonPeer) -> None:
    number = 0
    while (message := await client.hear("event", "gap")).get("data") != -1:
        require(message.get("data") == number, "a stuck peer costs the others nothing")
        number += 1


async def _hears_pongs(client: JsonPeer, refs: list[str]) -> None:
    for ref in refs:
        pong = await client.hear("pong")
        require(pong["id"] == ref, f"{pong} came where {ref} was due")


def _resident_bytes() -> int:
    """Return the memory of the process.

    Raises:
        SkipTest: There is no /proc.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise SkipTest("there is no /proc to read the memory of a process from") from None
    return pages * 4096
