"""Laws of the end of a connection."""

from __future__ import annotations

from typing import Final

import msgspec
from anyio import create_task_group, current_time, fail_after, move_on_after

from ...core.errors import CloseCode, TransportClosed
from ..adapters import UNLIMITED, Adapter, JsonPeer, Site, open_site, require

__all__ = [
    "abort",
    "abrupt_reset",
    "close_while_publishing",
    "closed_by_the_client",
    "closed_by_the_server",
    "shutdown",
]

_PROMPTLY: Final = 2.0
"""Seconds within which an action that waits for nothing is done."""
_SHUTDOWN: Final = 3.0
"""The same for a shutdown with a stuck peer: a second to notice it, another to cut it off."""
_REASON: Final = "é" * 61 + "x"
"""123 bytes: the most that fits (RFC 6455, section 5.5.1)."""


async def closed_by_the_server(adapter: Adapter) -> None:
    """The client sees the code and the reason that the application gave; a long one is cut."""
    async with open_site(adapter) as site:
        for code, reason, heard in (
            (4401, "token expired", "token expired"),
            (4999, _REASON, _REASON),
            (4999, _REASON + "é", _REASON),
            (1012, "", ""),
        ):
            client = await site.connect()
            await client.ping()
            site.connection(client).disconnect(code, reason)
            closed = await client.peer.wait_closed()
            gone = await site.departure(client)

            require((closed.code, closed.reason) == (code, heard), f"the client saw {closed!r}")
            require(gone.close_code == code, f"the application saw {gone.close_code}")


async def closed_by_the_client(adapter: Adapter) -> None:
    """The application sees the client's code and reason; the client's close is answered."""
    async with open_site(adapter) as site:
        for code, reason in ((1000, ""), (4999, _REASON), (1001, "unloading"), (None, "")):
            client = await site.connect()
            await client.ping()
            answer = await client.peer.close(code, reason)
            with fail_after(_PROMPTLY):
                gone = await site.departure(client)

            require(gone.close_code == (code or CloseCode.NO_STATUS), f"seen: {gone.close_code}")
            require(gone.close_reason == reason, f"seen: {gone.close_reason!r}")
            answers = {code} if code is not None else {CloseCode.NORMAL, CloseCode.NO_STATUS}
            require(answer.code in answers, f"answered with {answer.code}")


async def close_while_publishing(adapter: Adapter) -> None:
    """Nothing is written after a close frame, and a close under load does not affect others."""
    async with open_site(adapter) as site:
        for closes_itself in (True, False):
            leaver, reader = await site.connect(), await site.connect()
            await leaver.subscribe("a")
            await reader.subscribe("a")
            async with create_task_group() as tasks:
                tasks.start_soon(_hears_all, reader, 3000)
                for number in range(3000):
                    await site.bus.publish("a", number)
                    if number == 1000 and closes_itself:
                        tasks.start_soon(leaver.peer.close)
                    elif number == 1000:
                        site.connection(leaver).disconnect()
                        tasks.start_soon(leaver.peer.wait_closed)
            with fail_after(_PROMPTLY):
                await site.departure(leaver)


async def abrupt_reset(adapter: Adapter) -> None:
    """A connection that is reset is gone promptly, as 1006, and others are not affected."""
    async with open_site(adapter) as site:
        idle, busy, reader = [await site.connect() for _ in range(3)]
        for client in (idle, busy, reader):
            await client.ping()
        await busy.subscribe("a")
        await reader.subscribe("a")
        async with create_task_group() as tasks:
            tasks.start_soon(_hears_all, reader, 3000)
            for number in range(3000):
                await site.bus.publish("a", number)
                if number == 1000:
                    idle.peer.reset()
                    busy.peer.reset()
        for client in (idle, busy):
            with fail_after(_PROMPTLY):
                gone = await site.departure(client)
            told = gone.close_code == CloseCode.ABNORMAL
            blurred = gone.close_code == CloseCode.NO_STATUS and not adapter.tells_resets
            require(told or blurred, f"seen: {gone.close_code}")
        await reader.ping("still here")


async def abort(adapter: Adapter) -> None:
    """An aborted connection is gone promptly, without a close frame."""
    async with open_site(adapter) as site:
        client = await site.connect()
        await client.ping()
        site.connection(client).abort()
        with fail_after(_PROMPTLY):
            await site.departure(client)
        if adapter.frees_sockets:
            require(await client.peer.was_reset(), "the socket is gone")


async def shutdown(adapter: Adapter) -> None:
    """A server that stops sends what it owes, then 1001 or 1012; a stuck peer delays no other."""
    limits = msgspec.structs.replace(UNLIMITED, write_deadline=60.0)
    async with open_site(adapter, limits=limits) as site:
        stuck = await site.connect(receive_buffer=4096)
        await stuck.subscribe("a")
        readers = [await site.connect() for _ in range(20)]
        for client in readers:
            await client.subscribe("b")
        for _ in range(4096):
            await site.bus.publish("a", "x" * 4000)
        endings: list[TransportClosed] = []
        async with create_task_group() as tasks:
            for client in readers:
                tasks.start_soon(_hears_the_end, client, 100 * adapter.drains, endings)
            for number in range(100):
                await site.bus.publish("b", number)
            began = current_time()
            await site.shut_down()
            took = current_time() - began

        codes = {closed.code for closed in endings}
        require(codes <= {CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART}, f"closed with {codes}")
        require(took < _SHUTDOWN, f"the shutdown took {took:.1f} s")
        with move_on_after(_PROMPTLY):
            await site.departure(stuck)
        require(site.has_left(stuck), "the stuck peer is gone, too")
        require(await _is_closed(site), "no connection is accepted any more")


async def _is_closed(site: Site) -> bool:
    try:
        client = await site.knock()
    except (OSError, AssertionError):
        return True
    return client.peer.status != 101


async def _hears_all(client: JsonPeer, count: int) -> None:
    for number in range(count):
        message = await client.hear("event", "gap")
        require(message.get("data") == number, f"{message} came where {number} was due")


async def _hears_the_end(client: JsonPeer, count: int, endings: list[TransportClosed]) -> None:
    try:
        await _hears_all(client, count)
    except TransportClosed as closed:
        require(fact=False, law=f"closed with {closed.code} before all that was owed")
    endings.append(await client.peer.wait_closed())
