"""Hosts the connections of a bus: starts and stops what runs for it, and serves its endpoints."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final

from anyio.abc import TaskGroup

from .._log import about
from ..broker import Broker
from ..connection import ConnectionInfo
from ..core.encoding import encode_data
from ..core.errors import CloseCode, NotStarted, UsageError
from ..core.families import Families, Family, History, PayloadCheck, Presence, Stream
from ..core.history import MemoryHistory
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.overflow import Overflow
from ..core.packing import pack
from ..core.permissions import Identity
from ..core.tracing import Tracing
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Handshake, Transport
from ._threads import LoopCall
from .archive import Archive
from .attendance import Attendances
from .commands import Commands
from .driver import Driver
from .flusher import Flusher
from .hooks import HookLists
from .incoming import Incoming
from .interest import InterestProvider
from .lifecycle import FORKED, Life
from .occupancy import Occupancy
from .post import Post
from .posted import Posted
from .rates import Rates
from .relay import Relay
from .runner import Runner
from .services import Authorize, Services, new_id, read_clocks
from .siblings import warn_of_siblings
from .source import Encode, Pack
from .statistics import BusStatistics
from .storage import Storage
from .streams import StreamCare

__all__ = ["BusHost"]

logger: Final = logging.getLogger("wsbus.bus")


class BusHost:
    """The host of a bus's endpoints; adapters reach it as :attr:`.Endpoint.host`.

    It may be started again after a stop; each time all that runs is new.

    Args:
        commands: The commands of the bus.
        hooks: The hooks of the bus.
        encode: Turns what is published into JSON.
        pack: Makes its packed form, if a dialect of an endpoint has one.
        authorize: Asked about everything that the grants allow; see :data:`.Authorize`.
        flush_interval: Seconds for which publications may wait for others.
        clock: Reads both clocks.
        broker: Joins the bus with those of other processes; None: it has none to join.
        tracing: Begins spans of publications; None: they are not traced.
    """

    def __init__(
        self,
        commands: Commands,
        hooks: HookLists,
        *,
        encode: Encode = encode_data,
        pack: Pack = pack,
        authorize: Authorize | None = None,
        flush_interval: float = 0.0,
        clock: Callable[[], Instant] = read_clocks,
        broker: Broker | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.commands: Final = commands
        """The commands of the bus."""
        self._hooks: Final = hooks
        self.encode: Final = encode
        """Turns data into JSON."""
        self.families: Final = Families()
        """Those of the bus."""
        self._pack: Final = pack
        self._authorize: Final = authorize
        self._flush_interval: Final = flush_interval
        self.clock: Final = clock
        """Reads both clocks."""
        self._broker: Final = broker
        self._tracing: Final = tracing
        self._posted: Final = Posted()
        self.endpoints: Final[list[Endpoint]] = []
        """The endpoints of the bus, in the order that they were made."""
        self.life: Life | None = None
        """The run that goes on, or has failed; None: there is none."""
        self.has_run: bool = False
        """Whether it has been started, be it running still or not."""
        self.is_private: bool = False
        """Whether it serves a part of wsbus, which needs no broker."""

    # --- life --------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether connections and publications are taken."""
        return self.life is not None and self.life.is_up

    @property
    def is_healthy(self) -> bool:
        """Whether it accepts connections, and its broker, if it has one, can be reached."""
        life = self.life
        if life is None or not life.is_up or life.is_leaving or life.services is None:
            return False
        relay = life.services.relay
        return relay is None or relay.is_up

    @property
    def is_leaving(self) -> bool:
        """Whether clients are sent away, so that no connection is accepted."""
        return self.life is not None and self.life.is_leaving

    @property
    def services(self) -> Services:
        """The services of the present run.

        Raises:
            NotStarted: The bus is not running.
            UsageError: This is another thread than the event loop's, or a fork of its process.
        """
        life = self.life
        if life is None or life.services is None:
            raise self._not_running()
        if threading.get_ident() != life.thread:
            raise UsageError(
                f"the bus belongs to thread {life.thread}, this is {threading.get_ident()}: "
                "use publish_threadsafe"
            )
        return life.services

    @property
    def post(self) -> Post:
        """The object that accepts publications, for any thread.

        Raises:
            NotStarted: The bus is not running.
            UsageError: This is a fork of the process that it runs in.
        """
        if self.life is None or self.life.services is None:
            raise self._not_running()
        return self.life.services.post

    async def request(
        self, endpoint: Endpoint, handshake: Handshake, identity: Identity, text: str
    ) -> tuple[str | None, bytes]:
        """Answer one request of ``wsbus.v1`` that came without a connection.

        Returns:
            The code of the error, if it is one, and the message.
        """
        return await self._posted.answer(self.services, endpoint, handshake, identity, text)

    def _not_running(self) -> UsageError:
        is_inherited = self.life is not None and self.life.is_inherited
        return UsageError(FORKED) if is_inherited else NotStarted()

    def runs_here(self) -> bool:
        """Return whether it runs in this event loop; False: it can be started.

        Raises:
            UsageError: It runs in another one, or in a process that this one is a fork of.
        """
        life = self.life
        if life is None or life.is_over:
            return False
        life.check_here()
        return life.is_up

    def declare(
        self,
        pattern: str,
        *,
        overflow: Overflow | str | None,
        key: str | None,
        history: History | None,
        presence: Presence | None,
        content: PayloadCheck | None = None,
        stream: Stream | None = None,
    ) -> Family:
        """Declare a family of channels; see :meth:`.Bus.family`."""
        if self.life is not None and not self.life.is_over:
            raise UsageError("declare families before the bus runs: bus.family(…) after Bus()")
        return self.families.declare(
            pattern,
            overflow=overflow,
            key=key,
            history=history,
            presence=presence,
            content=content,
            stream=stream,
        )

    async def start(self) -> None:
        """Start. Cancellation: it has not started, and can be started again.

        Raises:
            UsageError: It is running, here or in another event loop; or this process is a fork of
                the one that it runs in.
        """
        if self.life is not None and not self.life.is_over:
            self.life.check_here()
            raise UsageError("this bus is running already")
        if self.life is not None and self.life.is_lost:
            logger.warning(
                "the event loop was closed before the bus was stopped; its connections are lost, "
                "and it starts anew",
                extra=about("loop_closed"),
            )
        life = self.life = Life(self._make_services)
        self.has_run = True
        try:
            await life.start()
        except BaseException:
            if self.life is life:
                self.life = None
            raise

    async def stop(self, *, deadline: float = 10.0, code: int = CloseCode.GOING_AWAY) -> None:
        """Stop; see :meth:`.Bus.aclose`. Idempotent."""
        life = self.life
        if life is not None:
            await life.stop(deadline, code)
            if self.life is life:
                self.life = None

    def add(self, endpoint: Endpoint) -> None:
        """Take an endpoint of the bus in."""
        self.endpoints.append(endpoint)
        if self.life is not None and self.life.services is not None:
            self.life.services.post.source.pack = self._packs()

    def _packs(self) -> Pack | None:
        """Return what packs data: if an endpoint may need it, or others that are not known here.

        A bus without endpoints publishes for the endpoints of other processes.
        """
        is_sender = self._broker is not None and not self.endpoints
        protocols = [each for endpoint in self.endpoints for each in endpoint.protocols]
        speaks = any(getattr(each, "packs", False) for each in protocols)
        return self._pack if speaks or is_sender else None

    def _make_services(self, tasks: TaskGroup) -> Services:
        hub, runner, clock = Hub(self.families), Runner(tasks), self.clock
        archive = None
        if self.families.keep_history and self._broker is None:
            archive = Archive(self.families, MemoryHistory(new_id()), clock)
        flusher = Flusher(hub, runner, clock, self._flush_interval)
        node = new_id()
        services = Services(
            hub=hub,
            flusher=flusher,
            post=Post(
                hub,
                flusher,
                clock,
                self.encode,
                node,
                archive=archive,
                pack=self._packs(),
                tracing=self._tracing,
            ),
            attendances=Attendances(node, self.families, flusher, clock),
            rates=Rates(hub, flusher, clock),
            archive=archive,
            runner=runner,
            clock=clock,
            commands=self.commands,
            authorize=self._authorize,
            hooks=self._hooks,
        )
        if self.families.show_presence:
            tasks.start_soon(services.attendances.run)
        provider: InterestProvider | None = None
        if self.families.keep_history:
            flusher.restore = services.restore
        if self._broker is not None:
            incoming = Incoming(services, self.endpoints)
            if self.families.keep_history:
                services.storage = Storage(
                    self.families,
                    self._broker.address,
                    keep=incoming.keep,
                    deliver=services.post.deliver_kept,
                    tell=services.tell_loss,
                )
            relay = services.relay = Relay(
                self._broker,
                node,
                clock,
                count_connections=services.registry.__len__,
                storage=services.storage,
                keep=incoming.keep,
                publish=incoming.publish,
                carry_out=incoming.carry_out,
                settle=services.post.settle,
                tell_gap=lambda of_kept: services.tell_gap(of_kept=of_kept),
                meet=services.attendances.meet,
                forget=services.attendances.forget,
                expire=services.attendances.expire,
            )
            services.attendances.send = relay.tell
            provider = relay
            services.post.outgoing = relay.outgoing
        if self.families.has_streams:
            post, relay_of = services.post, services.relay
            is_linked = (lambda: True) if relay_of is None else (lambda: relay_of.is_up)
            streams = services.streams = StreamCare(hub, post, services.read, is_linked)
            post.note = streams.note
            tasks.start_soon(streams.run)
        if self._hooks.occupied or self._hooks.vacated:
            provider = Occupancy(self._hooks, runner, copy_context(), provider)
        if provider is not None:
            services.follow(provider)
        if not self.is_private and (self._broker is None or self._broker.address == "memory:"):
            tasks.start_soon(warn_of_siblings)
        return services

    # --- for its endpoints -----------------------------------------------------------------------

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint takes connections now.

        Raises:
            UsageError: The bus runs in another event loop.
        """
        return self.runs_here() and self.life is not None and self.life.accepts(endpoint)

    def count(self, endpoint: Endpoint) -> int:
        """Return how many connections an endpoint has."""
        services = self.life.services if self.life else None
        return services.registry.count(endpoint) if services else 0

    def refusal(self, endpoint: Endpoint, name: str | None, subject: str) -> Refusal | None:
        """Return why a connection of this name and subject would be refused, or None."""
        services = self.life.services if self.life else None
        return services.registry.refusal(endpoint, name, subject) if services else None

    def serve(
        self, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> Coroutine[Any, Any, None]:
        """Return what runs a connection to its end; see :meth:`.Endpoint.run`."""
        services = self.life.services if self.life else None
        if services is None or not self.accepts(endpoint):
            return transport.close(CloseCode.GOING_AWAY, "the server is shutting down")
        driver = Driver(services, endpoint, transport, admission)
        return driver.run(is_greeted=admission.is_greeted)

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End the connections of one endpoint; see :meth:`.Endpoint.drain`."""
        if self.life is not None:
            await self.life.drain(endpoint, deadline, code)

    async def send_away(self, window: float, *, deadline: float, code: int) -> None:
        """End all connections; see :meth:`.Bus.drain`."""
        if self.life is not None:
            await self.life.send_away(window, deadline, code)

    # --- for operators -----------------------------------------------------------------------

    def connections(self) -> list[ConnectionInfo]:
        """Return what is known of each connection, oldest first."""
        return [driver.info() for driver in self.services.registry.connected()]

    def statistics(self) -> BusStatistics:
        """Return the counters; costs a walk over the connections."""
        return self.services.statistics(is_running=self.is_running)

    def statistics_threadsafe(self, timeout: float) -> BusStatistics:
        """Return the counters, in any thread; another one than the event loop's waits for it.

        Raises:
            NotStarted: The bus is not running.
            UsageError: The event loop did not come to it within ``timeout`` seconds.
        """
        life = self.life
        if life is None or threading.get_ident() == life.thread:
            return self.statistics()
        call = LoopCall(self.statistics, is_awaited=True)
        call.submit(life.token)
        return call.wait(timeout)
