"""The bus: the object that applications use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal, NoReturn, TypeVar

from ._settings import callable_setting, function_setting
from .auth import Authenticator
from .broker import Broker
from .connection import Connection, ConnectionInfo
from .core.channels import parse_channel
from .core.choices import is_number, member_of, shown
from .core.encoding import EncHook
from .core.envelope import Addressed, Dismissed, Item, Revoked, encode_item
from .core.errors import CloseCode, UsageError, check_sendable
from .core.feeds import ALL_NODES
from .core.forms import Compression
from .core.heartbeat import HeartbeatPolicy
from .core.instant import Instant
from .core.limits import Limits
from .core.overflow import Overflow
from .core.permissions import Grants
from .core.tracing import Tracing
from .endpoint import Endpoint
from .protocols import WireProtocol, protocols_of
from .server.commands import RegisteredCommand, check_action
from .server.directory import Node
from .server.hooks import Hooks
from .server.host import BusHost
from .server.recipients import Who, subscribers
from .server.services import Authorize, read_clocks
from .server.source import encoder, packer, tracing_setting
from .server.statistics import BusStatistics
from .server.tracing import new_commands
from .server.typed import Declarations
from .transport import Handshake

__all__ = ["Bus", "host_of"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Bus(Declarations, Hooks):
    """Publish and subscribe for everything connected to this process.

    Make it anywhere, also at import; run it with ``async with bus:``, any number of times, one run
    at a time. Set-up and clean-up may happen in different tasks. Call all methods in the thread of
    the event loop, except :meth:`publish_threadsafe` and :meth:`send_threadsafe`.

    Args:
        enc_hook: Turns objects that msgspec cannot encode into ones that it can.
        authorize: ``(identity, action, pattern) → bool``, called for everything that the grants
            allow; see :data:`.Authorize`.
        flush_interval: Seconds, at most 1, for which publications may wait for others, to be
            written together. 0 writes at the end of each turn of the event loop. With a few
            publications a turn, 0.005 halves their cost, and delays them by 5 ms.
        broker: Joins this bus with those of other processes, or with others of this process that
            have the same broker: see :mod:`wsbus.brokers`. None: there are no others.
        clock: Reads both clocks; for tests.
        tracing: Has a span for each command and publication: an
            :class:`wsbus.opentelemetry.OpenTelemetry`. None: nothing is traced.

    Raises:
        UsageError: The flush interval is out of its range.
    """

    def __init__(
        self,
        *,
        enc_hook: EncHook | None = None,
        authorize: Authorize | None = None,
        flush_interval: float = 0.0,
        broker: Broker | None = None,
        clock: Callable[[], Instant] = read_clocks,
        tracing: Tracing | None = None,
    ) -> None:
        if not (is_number(flush_interval) and 0 <= flush_interval <= 1):
            raise UsageError(f"flush_interval is 0 to 1 seconds, not {shown(flush_interval)}")
        function_setting("clock", clock)
        if broker is not None and not isinstance(broker, Broker):
            raise UsageError(
                "broker is MemoryBroker(), RedisBroker(…), NatsBroker(…), or one of your own, not "
                f"{shown(broker)}"
            )
        callable_setting("authorize", authorize, "identity, action, name")
        Hooks.__init__(self)
        encode, pack = encoder(enc_hook), packer(enc_hook)
        tracing = tracing_setting(tracing)
        self._commands: Final = new_commands(encode, pack, tracing)
        host = BusHost(
            self._commands,
            self._hooks,
            encode=encode,
            pack=pack,
            authorize=authorize,
            flush_interval=flush_interval,
            clock=clock,
            broker=broker,
            tracing=tracing,
        )
        Declarations.__init__(self, host)
        self._default_endpoint: Endpoint | None = None

    # --- setting up --------------------------------------------------------------------------

    def endpoint(
        self,
        *,
        protocols: Sequence[str | WireProtocol] = ("wsbus.v1",),
        joins: bool = True,
        authenticator: Authenticator | None = None,
        anonymous: Grants | None = None,
        query_token: str | None = None,
        cookie_token: str | None = None,
        header_token: bool = True,
        origins: Collection[str] | Literal["same-host", "*"] = "same-host",
        limits: Limits | None = None,
        heartbeat: HeartbeatPolicy | None = None,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        compression: Compression | bool = False,
        broadcast: str | None = None,
        name_connection: Callable[[Handshake], str] | None = None,
        on_duplicate: Literal["replace", "reject"] = "replace",
        client_address: Callable[[Handshake], str | None] | None = None,
        trusted_proxies: Collection[str] = (),
    ) -> Endpoint:
        """Make an endpoint for an adapter to mount; :class:`.Endpoint` describes its fields.

        Args:
            protocols: Names of registered dialects, or dialects; the first is the default.
            joins: Whether messages to a client may share a frame; False: one message a frame.
            authenticator: Turns tokens into identities; None: all clients are accepted.
            anonymous: Grants of all clients, without an authenticator; None: :meth:`.Grants.open`.
            query_token: Name of the query parameter that may hold a token.
            cookie_token: Name of the cookie that may hold a token.
            header_token: Whether ``Authorization`` or a subprotocol may hold a token.
            origins: Origins of the pages that may connect.
            limits: Bounds of each connection.
            heartbeat: The side that sends pings, and the longest silence.
            overflow: The overflow policy of channels whose family has none.
            compression: Whether permessage-deflate is agreed on with clients, and how.
            broadcast: The channel of :meth:`broadcast`.
            name_connection: Returns the ids of connections; None: the bus makes them.
            on_duplicate: Whether a second connection of one subject and name replaces the first.
            client_address: Returns the address for ``max_connections_per_address``.
            trusted_proxies: Proxies whose ``X-Forwarded-For`` is trusted.

        Raises:
            UsageError: A setting can never take effect, contradicts another, or is unknown.
        """
        if anonymous is not None and authenticator is not None:
            raise UsageError("anonymous= is for endpoints without an authenticator: leave one out")
        endpoint = Endpoint(
            host=self._host,
            protocols=protocols_of(protocols),
            joins=joins,
            authenticator=authenticator,
            anonymous=Grants.open() if anonymous is None else anonymous,
            query_token=query_token,
            cookie_token=cookie_token,
            header_token=header_token,
            origins=origins,
            limits=Limits() if limits is None else limits,
            heartbeat=HeartbeatPolicy() if heartbeat is None else heartbeat,
            overflow=member_of(Overflow, overflow, "overflow"),
            compression=compression,
            broadcast=None if broadcast is None else parse_channel(broadcast),
            name_connection=name_connection,
            on_duplicate=on_duplicate,
            client_address=client_address,
            trusted_proxies=trusted_proxies,
            realm=self._recipients.realm_of(authenticator),
        )
        self._host.add(endpoint)
        if endpoint.broadcast is not None:
            self._broadcasts.add(endpoint.broadcast)
        return endpoint

    @property
    def default_endpoint(self) -> Endpoint:
        """The endpoint that adapters mount for the bus itself."""
        if self._default_endpoint is None:
            self._default_endpoint = self.endpoint()
        return self._default_endpoint

    def command(
        self, action: str, *, threaded: bool = False, timeout: float | None = None
    ) -> Callable[[_F], _F]:
        """Register the decorated function as the command ``action``.

        The client sends its parameters, which are checked; see :class:`.RegisteredCommand`. Its
        result goes to the client; it refuses by raising :class:`.CommandError`.

        Args:
            action: A name such as ``grid.start``, which grants are about.
            threaded: Run a blocking ``def`` in a worker thread.
            timeout: Seconds after which it is cancelled; None: the limit ``command_timeout``.

        Raises:
            UsageError: The action is taken, or the function does not fit.
        """
        check_action(action)

        def register(function: _F) -> _F:
            self._commands.add(
                RegisteredCommand(
                    action, function, caller=Connection, threaded=threaded, timeout=timeout
                )
            )
            return function

        return register

    def __call__(self, *_given: object) -> NoReturn:
        """Raise an error for a framework that calls the bus as a lifespan, or an application."""
        raise UsageError("a bus is no application: write lifespan=lifespan(bus), or asgi.app(bus)")

    # --- connections -----------------------------------------------------------------------------

    def connection(self, connection_id: str, endpoint: Endpoint | None = None) -> Connection | None:
        """Return the connection of this id, if it is there.

        Args:
            connection_id: Unique at its endpoint. A name (``name_connection=``) belongs to a
                connection from its authentication on.
            endpoint: Its endpoint; None: any endpoint of this bus.
        """
        registry, endpoints = (
            self._host.services.registry,
            [endpoint] if endpoint else self._host.endpoints,
        )
        found = (registry.named(each, connection_id) for each in endpoints)
        return next((driver.connection for driver in found if driver), None)

    def local_subscribers(self, *channels: str) -> list[Connection]:
        """Return this process's connections that would get a publication on any of the channels.

        Raises:
            InvalidChannel: A channel is invalid.
        """
        services = self._host.services
        names = [parse_channel(name) for name in channels]
        return subscribers(services.hub, services.registry, names)

    def connections(self) -> list[ConnectionInfo]:
        """Return information about each connection, oldest first."""
        return self._host.connections()

    def disconnect(
        self,
        who: Who,
        *,
        endpoint: Endpoint | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the server",
    ) -> int:
        """End a connection, or all of one identity on every node; never waits.

        Args:
            who: A connection, or the subject of an identity.
            endpoint: For a subject, as for :meth:`send`.
            code: As for :meth:`.Connection.disconnect`.
            reason: The same.

        Returns:
            The number of connections of this process.

        Raises:
            UsageError: The code may not be sent, or ``who`` is something else.
            BrokerUnavailable: There is no link to the broker now; connections of this process have
                ended, those of others have not.
        """
        check_sendable(code)
        found = self._recipients.find(self._host.services.registry, who, endpoint)
        for driver in found:
            driver.connection.disconnect(code, reason)
        self._order(who, endpoint, lambda to: Dismissed(to, code, reason))
        return len(found)

    def revoke(
        self,
        who: Who,
        pattern: str,
        *,
        endpoint: Endpoint | None = None,
        reason: str | None = None,
    ) -> int:
        """Take a subscription from a connection, or from one identity everywhere; never waits.

        Args are those of :meth:`disconnect` and of :meth:`.Connection.revoke`.

        Returns:
            The number of connections of this process that had it.

        Raises:
            BrokerUnavailable: As :meth:`disconnect`.
        """
        found = self._recipients.find(self._host.services.registry, who, endpoint)
        count = sum([driver.connection.revoke(pattern, reason) for driver in found])
        self._order(who, endpoint, lambda to: Revoked(to, pattern, reason))
        return count

    def _order(
        self, who: Who, endpoint: Endpoint | None, order: Callable[[Addressed], Item]
    ) -> None:
        """Have other nodes do to the connections that they have what was done to ours."""
        outgoing = self._host.services.post.outgoing
        to = None if outgoing is None else self._recipients.elsewhere(who, endpoint)
        if outgoing is not None and to is not None and outgoing.is_wanted(ALL_NODES):
            outgoing.put(ALL_NODES, encode_item(order(to))).check()

    def nodes(self) -> list[Node]:
        """Return the processes of this service, as far as they are known; this one is the first.

        Every process tells the others that it is there once in two seconds. Without a broker there
        are none to know.
        """
        relay = self._host.services.relay
        return [] if relay is None else relay.nodes()

    def statistics(self) -> BusStatistics:
        """Return the counters; costs a walk over the connections."""
        return self._host.statistics()


def host_of(bus: Bus) -> BusHost:
    """Return the host of a bus: for parts of wsbus that are built on one, not for applications."""
    return bus._host  # noqa: SLF001  # the bus is made of it
