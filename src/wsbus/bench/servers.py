"""The servers of ``wsbus bench serve``: a bus without any limit, on each kind of server."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from ..broker import Broker
from ..bus import Bus
from ..core.heartbeat import HeartbeatPolicy
from ..core.limits import Limits
from ..core.permissions import Grants
from ..endpoint import Endpoint
from .errors import NotInstalled

__all__ = ["SERVERS", "Options", "make_bus", "require", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 0
    ping_interval: float | None = None
    """Seconds between pings to a client, which is closed after twice as long without an answer;
    None: the default."""
    flush_interval: float = 0.0
    """See :class:`.Bus`."""
    broker: Broker | None = None
    """See :class:`.Bus`."""
    ready: Callable[[str], object] = print
    """Called with ``host:port`` once the server accepts connections."""


def make_bus(
    ping_interval: float | None = None,
    flush_interval: float = 0.0,
    broker: Broker | None = None,
) -> tuple[Bus, Endpoint]:
    """Return a bus, and an endpoint that allows anything, without a rate limit.

    All else has its defaults. Commands: ``echo`` and ``echo_sync`` answer with their data, and
    ``publish`` is for dialects in which clients cannot publish.

    Args:
        ping_interval: See :class:`Options`.
        flush_interval: The same.
        broker: The same.
    """
    bus = Bus(flush_interval=flush_interval, broker=broker)
    heartbeat = None
    if ping_interval is not None:
        heartbeat = HeartbeatPolicy(interval=ping_interval, timeout=2 * ping_interval)
    endpoint = bus.endpoint(
        protocols=["wsbus.v1", "zigquant-v2"],
        limits=Limits(messages_per_second=None, commands_per_second=None),
        anonymous=Grants.of(admin=True, command=["*"], publish=["*"]),
        origins="*",
        heartbeat=heartbeat,
    )

    @bus.command("echo")
    async def echo(params: dict[str, Any]) -> dict[str, Any]:
        return params

    @bus.command("echo_sync")
    def echo_sync(params: dict[str, Any]) -> dict[str, Any]:
        return params

    @bus.command("publish")
    def publish(channel: str, data: dict[str, Any]) -> None:
        bus.publish_soon(channel, data, event="m")

    return bus, endpoint


async def _serve_websockets(options: Options) -> None:
    from ..adapters.websockets import serve

    bus, endpoint = make_bus(options.ping_interval, options.flush_interval, options.broker)
    async with bus, serve(endpoint, options.host, options.port) as server:
        _tell(options, next(iter(server.sockets)).getsockname())
        await _stopped()


async def _serve_aiohttp(options: Options) -> None:
    from aiohttp import web

    from ..adapters.aiohttp import setup

    bus, endpoint = make_bus(options.ping_interval, options.flush_interval, options.broker)
    app = web.Application()
    setup(app, "/ws", endpoint)
    runner = web.AppRunner(app, access_log=None)
    async with bus:
        await runner.setup()
        try:
            await web.TCPSite(runner, options.host, options.port).start()
            _tell(options, runner.addresses[0])
            await _stopped()
        finally:
            await runner.cleanup()


async def _serve_starlette(options: Options) -> None:
    from starlette.applications import Starlette

    from ..adapters.starlette import lifespan, websocket_route
    from ..adapters.uvicorn import serve

    bus, endpoint = make_bus(options.ping_interval, options.flush_interval, options.broker)
    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    host, port = options.host, options.port
    await serve(app, endpoint, host=host, port=port, ready=options.ready)


async def _serve_asgi(options: Options) -> None:
    from ..adapters.asgi import app
    from ..adapters.uvicorn import serve

    _, endpoint = make_bus(options.ping_interval, options.flush_interval, options.broker)
    host, port = options.host, options.port
    await serve(app(endpoint), endpoint, host=host, port=port, ready=options.ready, ws="auto")


def _tell(options: Options, address: tuple[Any, ...]) -> None:
    host, port = address[:2]
    options.ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def _stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


class _ServerKind:
    """A kind of server, and the packages that it needs."""

    def __init__(
        self, serve: Callable[[Options], Coroutine[Any, Any, None]], extra: str, *modules: str
    ) -> None:
        self.serve: Final = serve
        self.extra: Final = extra
        self.modules: Final = modules


SERVERS: Final = {
    "websockets": _ServerKind(_serve_websockets, "cli,websockets", "websockets"),
    "aiohttp": _ServerKind(_serve_aiohttp, "cli,aiohttp", "aiohttp"),
    "starlette": _ServerKind(_serve_starlette, "demo", "starlette", "uvicorn", "websockets"),
    "asgi": _ServerKind(_serve_asgi, "demo", "uvicorn", "websockets"),
}
"""By name. ``asgi`` is plain uvicorn; ``starlette`` writes through the adapter's own protocol."""


def require(name: str, *, uvloop: bool = False) -> None:
    """Check that the packages for a server are installed.

    Raises:
        NotInstalled: One is missing.
    """
    kind = SERVERS[name]
    if any(importlib.util.find_spec(module) is None for module in kind.modules):
        raise NotInstalled(f"the server {name} needs more: pip install 'wsbus[{kind.extra}]'")
    if uvloop and importlib.util.find_spec("uvloop") is None:
        raise NotInstalled("--uvloop needs more: pip install uvloop")


def run(name: str, options: Options, *, uvloop: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        name: One of :data:`SERVERS`.
        options: Address and settings.
        uvloop: Whether uvloop is the event loop.

    Raises:
        NotInstalled: A package is missing.
        OSError: The port is taken, or the address is not of this machine.
    """
    require(name, uvloop=uvloop)
    # The load resets its connections, which some libraries log at length.
    logging.disable(logging.ERROR)
    factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(SERVERS[name].serve(options))
