"""The bus: what users hold.

Over 300 lines: every verb of the library is a method here, most of them a few lines over the hub.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from anyio import CancelScope, Event, create_task_group, from_thread, move_on_after, sleep
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from ._spawn import spawn
from .auth import Authenticator
from .commands import Commands, RegisteredCommand
from .connection import Connection
from .core.channels import parse_channel
from .core.encoding import EncHook, encode_data
from .core.errors import CloseCode, NotStarted, UsageError
from .core.heartbeat import HeartbeatPolicy
from .core.hub import Hub, Receipt
from .core.instant import Instant
from .core.limits import Limits
from .core.messages import Publication
from .core.patterns import parse_pattern
from .core.permissions import Grants
from .core.queue import Overflow
from .endpoint import Admission, Endpoint
from .flusher import Flusher
from .local import Subscription
from .protocols import WireProtocol, protocol
from .runner import Runner
from .services import Authorize, Hook, Services
from .snapshots import BusStatistics, ConnectionInfo
from .transport import Transport

__all__ = ["Bus"]

logger: Final = logging.getLogger("wsbus.bus")

_SWEEP_SECONDS: Final = 1.0
_F = TypeVar("_F", bound=Callable[..., Any])


def _read_clocks() -> Instant:
    return Instant(time.monotonic(), time.time())


def _new_id() -> str:
    return secrets.token_hex(8)


def _spread() -> float:
    return 1 - random.random() / 2  # noqa: S311  # spreads pings, guards nothing


class Bus:
    """Publish and subscribe for everything connected to this process.

    Build it anywhere, also at import; run it with ``async with bus:``, as often as you like, one
    run at a time. Set-up and clean-up may happen in different tasks. All methods belong to the
    thread of the event loop, but for :meth:`publish_threadsafe`.

    Args:
        enc_hook: Turns objects that msgspec cannot encode into ones that it can.
        authorize: ``async (identity, action, pattern) → bool``, asked about everything that the
            grants allow; ``action`` is ``subscribe``, ``publish`` or ``command``.
        clock: Reads both clocks; for tests.
    """

    def __init__(
        self,
        *,
        enc_hook: EncHook | None = None,
        authorize: Authorize | None = None,
        clock: Callable[[], Instant] = _read_clocks,
    ) -> None:
        self._encode: Final = partial(encode_data, enc_hook=enc_hook)
        self._authorize: Final = authorize
        self._clock: Final = clock
        self._commands: Final = Commands(self._encode)
        self._on_connect: Final[list[Hook]] = []
        self._on_disconnect: Final[list[Hook]] = []
        self._broadcasts: Final[set[str]] = set()
        self._default_endpoint: Endpoint | None = None
        self._services: Services | None = None
        self._is_closing = False
        self._draining: Final[set[Endpoint]] = set()
        self._thread = 0
        self._token: Any = None
        self._stop = self._stopped = Event()

    # --- setting up --------------------------------------------------------------------------

    def endpoint(
        self,
        *,
        protocols: Sequence[str | WireProtocol] = ("wsbus.v1",),
        authenticator: Authenticator | None = None,
        anonymous: Grants | None = None,
        query_token: str | None = None,
        origins: Collection[str] | Literal["same-host", "*"] = "same-host",
        limits: Limits | None = None,
        heartbeat: HeartbeatPolicy | None = None,
        overflow: Overflow = Overflow.DROP_OLDEST,
        broadcast: str | None = None,
    ) -> Endpoint:
        """Make a door for an adapter to mount; its fields are described at :class:`.Endpoint`.

        Args:
            protocols: Names of registered dialects, or dialects; the first is the default.
            authenticator: Judges tokens; None: everybody is let in.
            anonymous: Grants of everybody, without an authenticator; None: subscribe to
                anything, give any command, publish nothing.
            query_token: Name of the query parameter that may hold a token.
            origins: Whose pages may connect.
            limits: Bounds.
            heartbeat: Who pings, and what silence means.
            overflow: What a full queue does with publications that do not say.
            broadcast: The channel of :meth:`broadcast`.

        Raises:
            UsageError: No or an unknown protocol, or a channel that is none.
        """
        if not protocols:
            raise UsageError("an endpoint speaks at least one protocol")
        if isinstance(origins, str) and origins not in {"same-host", "*"}:
            raise UsageError("origins are a collection of texts, 'same-host' or '*'")
        if broadcast is not None:
            self._broadcasts.add(parse_channel(broadcast))
        return Endpoint(
            gate=self,
            protocols=tuple(protocol(which) for which in protocols),
            authenticator=authenticator,
            anonymous=anonymous or Grants.open(),
            query_token=query_token,
            origins=origins,
            limits=limits or Limits(),
            heartbeat=heartbeat or HeartbeatPolicy(),
            overflow=overflow,
            broadcast=None if broadcast is None else parse_channel(broadcast),
        )

    @property
    def default_endpoint(self) -> Endpoint:
        """What adapters mount when they are given the bus itself."""
        if self._default_endpoint is None:
            self._default_endpoint = self.endpoint()
        return self._default_endpoint

    def command(
        self, action: str, *, threaded: bool = False, timeout: float | None = None
    ) -> Callable[[_F], _F]:
        """Register the decorated function as the command ``action``.

        Its parameters are what the client sends, typed; see :class:`.RegisteredCommand`. What it
        returns goes to the client; it refuses by raising :class:`.CommandError`.

        Args:
            action: A name such as ``grid.start``; grants go by it.
            threaded: Run a blocking ``def`` in a worker thread.
            timeout: Seconds after which it is cancelled; None: 25, unless the limits say else.

        Raises:
            UsageError: The action is taken, or the function does not fit.
        """

        def register(function: _F) -> _F:
            self._commands.add(
                RegisteredCommand(
                    action, function, caller=Connection, threaded=threaded, timeout=timeout
                )
            )
            return function

        return register

    def on_connect(self, hook: Hook) -> Hook:
        """Register a hook, sync or async: called with each connection once it is attached.

        No message of the connection is acted on before the hook has returned; what it raises is
        logged and harms nobody.
        """
        self._on_connect.append(hook)
        return hook

    def on_disconnect(self, hook: Hook) -> Hook:
        """Register a hook, sync or async: called with each connection after it has ended."""
        self._on_disconnect.append(hook)
        return hook

    # --- life --------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether connections and publications are taken."""
        return self._services is not None and not self._is_closing

    async def __aenter__(self) -> Self:
        """Start.

        Raises:
            UsageError: It is running.
        """
        if self._services is not None:
            raise UsageError("this bus is running already")
        self._thread, self._token = threading.get_ident(), current_token()
        self._stop, self._stopped, self._is_closing = Event(), Event(), False
        started = Event()
        spawn(partial(self._live, started))
        await started.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, as :meth:`aclose` does by default."""
        await self.aclose()

    async def aclose(
        self, *, deadline: float = 10.0, code: CloseCode = CloseCode.GOING_AWAY
    ) -> None:
        """Stop: take no more connections, give each what it is owed and a close frame, end.

        Connections that are not writable are aborted first. Idempotent. Cancellation: shielded;
        it takes ``deadline`` at most, and little more.

        Args:
            deadline: Seconds after which the connections that are left are aborted.
            code: 1001, or 1012 to say that the service restarts at once.
        """
        services = self._services
        if services is None:
            return
        with CancelScope(shield=True):
            if self._is_closing:
                await self._stopped.wait()
                return
            self._is_closing = True
            await self._drain(services, None, deadline, code)
            for subscription in list(services.subscriptions):
                subscription.close()
            self._stop.set()
            await self._stopped.wait()

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End the connections of one endpoint; see :meth:`.Endpoint.drain`."""
        if self._services is not None:
            self._draining.add(endpoint)
            try:
                with CancelScope(shield=True):
                    await self._drain(self._services, endpoint, deadline, code)
            finally:
                self._draining.discard(endpoint)

    async def _drain(
        self, services: Services, endpoint: Endpoint | None, deadline: float, code: int
    ) -> None:
        services.flusher.flush()
        for connection in services.connected(endpoint):
            if connection.is_stuck:
                connection.abort()
            else:
                connection.disconnect(code, "the server is shutting down")
        for seconds in (deadline, 1.0):
            with move_on_after(seconds):
                await services.all_gone(endpoint)
            for connection in services.connected(endpoint):
                connection.abort()

    async def _live(self, started: Event) -> None:
        """Host everything that runs for the bus, in a task of its own."""
        try:
            async with create_task_group() as tasks:
                services = self._services = self._make_services(tasks)
                tasks.start_soon(services.flusher.run)
                tasks.start_soon(self._sweep, services)
                started.set()
                await self._stop.wait()
                tasks.cancel_scope.cancel()
        except Exception:
            logger.critical("the bus has failed; its connections are cut", exc_info=True)
        finally:
            for connection in self._services.connected() if self._services else ():
                connection.abort()
            self._services = None
            self._stopped.set()

    def _make_services(self, tasks: TaskGroup) -> Services:
        hub, runner = Hub(), Runner(tasks)
        return Services(
            hub=hub,
            flusher=Flusher(hub, runner, self._clock),
            runner=runner,
            clock=self._clock,
            new_id=_new_id,
            spread=_spread,
            commands=self._commands,
            authorize=self._authorize,
            on_connect=self._on_connect,
            on_disconnect=self._on_disconnect,
        )

    async def _sweep(self, services: Services) -> None:
        """Once a second, have every connection do what time demands."""
        last = self._clock()
        while True:
            await sleep(_SWEEP_SECONDS)
            now = self._clock()
            elapsed = now.monotonic - last.monotonic
            # More than a second late: the process was stopped, or its loop blocked. Meanwhile
            # nothing was read, and nobody must be judged for that.
            late = elapsed - _SWEEP_SECONDS
            stopped = late if late > 1 else 0.0
            was_set = abs(now.wall - last.wall - elapsed) > 1
            last = now
            services.flusher.forgive(stopped)
            for connection in services.connected():
                if stopped or was_set:
                    connection.clock_changed(now, stopped)
                connection.tick(now)
            services.flusher.expire(now.monotonic)

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint takes connections now; for :class:`.Endpoint`."""
        return self.is_running and endpoint not in self._draining

    def count(self, endpoint: Endpoint) -> int:
        """Return how many connections an endpoint has."""
        return self._services.counts[endpoint] if self._services else 0

    async def serve(self, endpoint: Endpoint, transport: Transport, admission: Admission) -> None:
        """Run a connection to its end; for adapters, through :meth:`.Endpoint.run`."""
        services = self._services
        if services is None or not self.accepts(endpoint):
            await transport.close(CloseCode.GOING_AWAY, "the server is shutting down")
            return
        await Connection(services, endpoint, transport, admission).run()

    # --- publishing ----------------------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Connection | Iterable[Connection] = (),
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of the calls.

        It never waits for a subscriber, and yields to the event loop only once per 64
        publications or 256 KiB, so that a tight loop loses nothing for readers that keep up.

        Args:
            channel: Where; an exact name.
            data: What JSON has a form for; msgspec structs, dataclasses and dates, too.
            event: What happened, a word within the channel.
            exclude: Who shall not get it.
            overflow: What a full queue does with it; None: as its endpoint says.
            key: For ``conflate``: what it replaces; None: the same event of the same channel.

        Returns:
            How many it was for, and how many will get it.

        Raises:
            InvalidChannel: It is no channel, a pattern, say.
            UsageError: The data has no JSON form. Nobody got anything.
            NotStarted: The bus is not running.
        Cancellation: accepted already.
        """
        flusher = self._running().flusher
        receipt = self._accept(channel, data, event, exclude, overflow, key)
        if flusher.is_overdue:
            await flusher.flushed()
        else:
            flusher.soon()
        return receipt

    def publish_soon(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Connection | Iterable[Connection] = (),
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish from code that cannot await: as :meth:`publish`, in one order with it.

        It never waits; in a tight loop queues may overflow.

        Raises:
            UsageError: Called from another thread, too: see :meth:`publish_threadsafe`.
        """
        flusher = self._running().flusher
        receipt = self._accept(channel, data, event, exclude, overflow, key)
        flusher.soon()
        return receipt

    def publish_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish from another thread; wait until the event loop has accepted it.

        Args and errors are those of :meth:`publish`.
        """
        if self._services is None:
            raise NotStarted
        if threading.get_ident() == self._thread:
            raise UsageError("this is the thread of the event loop: use publish_soon")
        call = partial(self.publish_soon, channel, data, event=event, overflow=overflow, key=key)
        return from_thread.run_sync(call, token=self._token)

    async def broadcast(self, data: object, *, event: str = "message") -> Receipt:
        """Publish to every authenticated connection of the endpoints with a broadcast channel.

        Raises:
            UsageError: No endpoint has one; and as :meth:`publish`.
        """
        if not self._broadcasts:
            raise UsageError("no endpoint has a broadcast channel: bus.endpoint(broadcast=…)")
        receipts = [await self.publish(name, data, event=event) for name in self._broadcasts]
        return Receipt(sum(r.matched for r in receipts), sum(r.accepted for r in receipts))

    async def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: Connection | str,
        event: str = "message",
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to one connection, or to all of one identity, whatever they subscribe to.

        Args:
            channel: What the event says it is on.
            data: As for :meth:`publish`.
            to: A connection, or the subject of an identity.
            event: What happened.
            overflow: As for :meth:`publish`.
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish`.
        """
        services = self._running()
        publication = self._publication(channel, data, event, overflow, key)
        members = [connection.member for connection in self._find(services, to)]
        receipt = services.hub.publish_to(members, publication)
        services.flusher.soon()
        return receipt

    def _accept(
        self,
        channel: str,
        data: object,
        event: str,
        exclude: Connection | Iterable[Connection],
        overflow: Overflow | None,
        key: str | None,
    ) -> Receipt:
        excluded = (exclude,) if isinstance(exclude, Connection) else exclude
        return self._running().hub.publish(
            self._publication(channel, data, event, overflow, key),
            frozenset([connection.member for connection in excluded]),
        )

    def _publication(
        self, channel: str, data: object, event: str, overflow: Overflow | None, key: str | None
    ) -> Publication:
        name = parse_channel(channel)
        if not isinstance(event, str) or not event.isprintable():  # type: ignore[redundant-expr]
            raise UsageError("an event is a printable text")
        return Publication(name, event, self._encode(data), self._clock().wall, overflow, key)

    # --- connections -----------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        *,
        max_messages: int = 1000,
        max_bytes: int = 1 << 20,
        overflow: Overflow = Overflow.DROP_OLDEST,
    ) -> Subscription:
        """Subscribe inside the process: ``async with bus.subscribe("grid.*") as events:``.

        Args:
            pattern: As clients subscribe, ``+`` included.
            max_messages: Publications that may wait for the consumer.
            max_bytes: The same, in bytes of JSON.
            overflow: What to do with more.

        Raises:
            InvalidChannel: It is no pattern.
        """
        return Subscription(
            self._running,
            parse_pattern(pattern),
            max_messages=max_messages,
            max_bytes=max_bytes,
            overflow=overflow,
        )

    def connection(self, connection_id: str) -> Connection | None:
        """Return the connection of this id, if it is there."""
        return self._running().connections.get(connection_id)

    def connections(self) -> list[ConnectionInfo]:
        """Return what is known of each connection, oldest first."""
        return [connection.info() for connection in self._running().connections.values()]

    def disconnect(
        self,
        who: Connection | str,
        *,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the server",
    ) -> int:
        """End a connection, or all of one identity; never waits.

        Args:
            who: A connection, or the subject of an identity.
            code: As for :meth:`.Connection.disconnect`.
            reason: The same.

        Returns:
            How many there were.
        """
        found = self._find(self._running(), who)
        for connection in found:
            connection.disconnect(code, reason)
        return len(found)

    def statistics(self) -> BusStatistics:
        """Return the counters; costs a walk over the connections."""
        return self._running().statistics(is_running=self.is_running)

    def _find(self, services: Services, who: Connection | str) -> list[Connection]:
        if isinstance(who, Connection):
            return [who] if services.connections.get(who.id) is who else []
        return list(services.subjects.get(who, ()))

    def _running(self) -> Services:
        if self._services is None:
            raise NotStarted
        if threading.get_ident() != self._thread:
            raise UsageError(
                f"the bus belongs to thread {self._thread}, this is {threading.get_ident()}: "
                "use publish_threadsafe"
            )
        return self._services
