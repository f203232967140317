"""The Python client, without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from .._timing import PassingClock
from ..bus import Bus
from ..core.choices import shown
from ..core.errors import UsageError
from ..core.permissions import Identity
from ..endpoint import Endpoint
from ..server.host import BusHost
from .network import MemoryNetwork, Way

if TYPE_CHECKING:  # They need the extra "client".
    from ..client import Connecting
    from ..client.tokens import TokenSource

__all__ = ["client"]

_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


def client(
    bus: Bus,
    *,
    endpoint: Endpoint | None = None,
    path: str = "/ws",
    token: str | TokenSource | None = None,
    identity: Identity | None = None,
    headers: Mapping[str, str] | None = None,
    path_params: Mapping[str, str] = _NO_PARAMETERS,
    protocol: str = "wsbus.v1",
    network: MemoryNetwork | None = None,
    **options: Any,
) -> Connecting:
    """Return a client of a running bus that needs no socket.

    Use it as ``async with bus, client(bus) as c:``. It is the client of :mod:`wsbus.client`, and
    the bus serves it as any other: handshake, authenticator, limits, heartbeat and dialect are
    real. Only the socket and the server library are not there. Where the bus has a
    :class:`.ManualClock`, the client goes by it, too.

    Needs the extra ``client``.

    Args:
        bus: A running bus, in this event loop.
        endpoint: The endpoint that it connects to; None: the default one.
        path: The path of the handshake, and after a question mark the query.
        token: A text, or a function that returns it; see :func:`wsbus.client.connecting.connect`.
        identity: The identity of the client, as from a framework that has identified it; the
            authenticator is then not asked.
        headers: Headers of the handshake, such as ``Cookie`` or ``Origin``.
        path_params: What the router of a framework would find in the path.
        protocol: The dialect.
        network: The network that it connects over, which a test can break; None: one of its own.
        **options: All others of :func:`wsbus.client.connecting.connect`.

    Raises:
        UsageError: An argument is invalid; all other errors are those of
            :func:`wsbus.client.connecting.connect`.
    """
    from ..client import connect  # the rest of this package needs no extra

    if not isinstance(bus, Bus):
        raise UsageError("client(bus) takes a Bus; an endpoint of it goes into endpoint=")
    if not isinstance(endpoint, Endpoint | None):
        raise UsageError(f"endpoint= takes an endpoint of the bus, not {shown(endpoint)}")
    if not isinstance(network, MemoryNetwork | None):
        raise UsageError(f"network= takes a MemoryNetwork, not {shown(network)}")
    door = bus.default_endpoint if endpoint is None else endpoint
    way = Way(network or MemoryNetwork(), door, identity, path_params)
    host = door.host
    clock = host.clock if isinstance(host, BusHost) else None
    connecting = connect(
        f"ws://testserver{path}", token=token, headers=headers, protocol=protocol, **options
    )
    return connecting.over(way, clock if isinstance(clock, PassingClock) else None)
