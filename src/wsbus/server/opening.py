"""Begins a connection: its session and member, its greeting, and the wait for its predecessor."""

from __future__ import annotations

from typing import Final

from anyio import move_on_after

from ..core.errors import CloseCode
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Greeting
from ..core.permissions import Identity
from ..core.session import Session
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Transport
from .connection import ConnectionDriver
from .outlet import OutletOwner, SocketOutlet
from .services import Services

__all__ = ["await_end", "greeting", "new_member", "new_outlet", "new_session", "take_name"]

_REPLACED_SECONDS: Final = 1.0
"""How long a connection whose name was taken over may take to close; then it is aborted."""


def new_session(
    services: Services, endpoint: Endpoint, admission: Admission, now: Instant
) -> Session:
    """Return the session of a connection that begins now, on the terms of its admission."""
    heartbeat = services.new_heartbeat(endpoint.heartbeat, now.monotonic)
    # Protocols of applications may derive from nothing.
    heartbeat.is_one_way = getattr(admission.protocol, "is_one_way", False)
    return Session(
        protocol=admission.protocol,
        limits=endpoint.limits,
        heartbeat=heartbeat,
        identity=admission.identity,
        now=now,
        takes_tokens=endpoint.authenticator is not None,
        asks=services.authorize is not None,
        attaches=services.attaches,
    )


def new_outlet(
    services: Services, endpoint: Endpoint, transport: Transport, owner: OutletOwner
) -> SocketOutlet:
    """Return where what a connection is owed goes."""
    deadline, log = endpoint.limits.write_deadline, services.flusher.log
    return SocketOutlet(transport, owner, deadline, log, endpoint.deflate)


def new_member(endpoint: Endpoint, admission: Admission, outlet: SocketOutlet) -> Member:
    """Return what stands for a connection in the hub; it shares the endpoint's empty queue."""
    return Member(
        admission.protocol,
        endpoint.empty_queue,
        outlet,
        overflow=endpoint.overflow,
        form=outlet.form,
        shares_queue=True,
    )


def greeting(endpoint: Endpoint, connection_id: str, identity: Identity | None) -> Greeting:
    """Return the first message to a client: its id, and the terms it has to keep."""
    policy, limits = endpoint.heartbeat, endpoint.limits
    subject = None if identity is None else identity.subject
    rates = limits.messages_per_second, limits.commands_per_second
    bounds = limits.max_message_bytes, limits.max_names, *rates
    return Greeting(connection_id, subject, policy.interval, policy.timeout, *bounds)


def take_name(
    driver: ConnectionDriver, services: Services, identity: Identity
) -> ConnectionDriver | Refusal | None:
    """Take the name from the connection that has it; see :meth:`.Registry.adopt`."""
    taken = services.registry.adopt(driver, identity.subject)
    if not (taken is None or isinstance(taken, Refusal)):
        taken.connection.disconnect(CloseCode.REPLACED, "client_id replaced")
    return taken


async def await_end(replaced: ConnectionDriver | None) -> None:
    """Wait for the end of a connection whose name was taken over; abort it after a second."""
    if replaced is None:
        return
    with move_on_after(_REPLACED_SECONDS) as scope:
        await replaced.gone()
    if scope.cancelled_caught:
        replaced.abort()  # Its peer may be long gone.
        await replaced.gone()  # Bounded by the time limits of hooks.
