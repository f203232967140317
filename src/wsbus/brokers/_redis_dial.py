"""Finding and dialling a server of Redis, and what its errors mean.

redis-py dials, speaks TLS and logs in; its retries, its pools and its subscriptions are not used,
so that a connection ends at its first failure and what is lost is seen.
:mod:`wsbus.brokers._redis_stream` has the calls.

**Primary.** A replica takes a PUBLISH, and passes it to its own subscribers only. So each turn
starts with ``DEL`` of a key that does not exist. A server that may not write answers ``READONLY``,
or ``MOVED`` if another node of a cluster has the slot, or ``CLUSTERDOWN``, or ``NOREPLICAS``. Each
of them ends the link, and the turn does not count as published. It costs a turn 1 to 4 µs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import sample
from ssl import SSLContext, SSLError
from typing import Any, Final, Literal, TypeAlias

import msgspec
from anyio import fail_after
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..broker import DIAL_SECONDS
from ..core.errors import BrokerUnavailable
from ._redis_stream import RedisStream, Words, drop

__all__ = [
    "HISTORY_RIGHTS",
    "RIGHTS",
    "Address",
    "Login",
    "RedisPlace",
    "bounded",
    "fault_of",
    "find",
    "open_stream",
    "reason_of",
    "refusal_of",
    "shown_address",
]

Address: TypeAlias = tuple[str, int] | str
"""A host and a port, or the path of a socket."""

RIGHTS: Final = (
    "&wsbus:* ~wsbus:* +publish +subscribe +unsubscribe +multi +exec +del +client|setname"
)
"""The rights of a user, as ``ACL SETUSER`` takes them; for the prefix ``wsbus``."""

HISTORY_RIGHTS: Final = (
    "+evalsha +script|load +exists +get +set +hmget +hset +time +pexpire +rpush +lpop +llen"
    " +lindex +lrange +zadd +zcard +zscore +zmscore +zrange +zrangebyscore +zremrangebyrank"
    " +pubsub|numsub"
)
"""Rights that it needs as well where families keep history."""

_NO_RIGHT: Final = ("NOPERM", "can't run this command", "ACL failure")
"""In the error of a script whose user lacks a right."""

_MOST_MOVES: Final = 5
_NOT_PRIMARY: Final = {
    "READONLY": "it is a replica, which cannot reach the subscribers of others",
    "MASTERDOWN": "it is a replica without a primary",
    "NOREPLICAS": "it has lost its replicas, so that it may not be the primary any more",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "another node of its cluster has the slot of the prefix now",
    "ASK": "the slot of the prefix is on its way to another node of its cluster",
    "TRYAGAIN": "the slot of the prefix is on its way to another node of its cluster",
}
"""Errors of the first command of each turn that mean that this is the wrong server."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in to a server."""

    user: str | None = None
    password: str | None = None
    database: int = 0
    tls: SSLContext | None = None

    def __repr__(self) -> str:
        """Return a text without the password."""
        return f"Login(user={self.user!r})"


class RedisPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The server of a link, or those that know it."""

    kind: Literal["server", "sentinel", "cluster"]
    starts: tuple[Address, ...]
    """Servers to ask; one of them is enough."""
    login: Login
    service: str = ""
    """The name of the primary, for sentinels."""
    sentinels: Login = Login()
    """How to log in to sentinels."""


class _Moved(BrokerUnavailable):
    """Another node of the cluster has the prefix."""

    def __init__(self, message: str, address: Address) -> None:
        super().__init__(message)
        self.address: Final = address


async def find(place: RedisPlace, check: Words) -> tuple[Address, RedisStream]:
    """Return the address of the server, and a connection to it."""
    reasons = []
    for start in sample(place.starts, len(place.starts)):
        try:
            with bounded(len(place.starts)):
                return await _primary(place, start, check)
        except BrokerUnavailable as exc:
            reason = str(exc)
            reasons.append(
                reason if len(place.starts) == 1 else f"{shown_address(start)}: {reason}"
            )
    raise BrokerUnavailable("; ".join(reasons))


async def _primary(place: RedisPlace, start: Address, check: Words) -> tuple[Address, RedisStream]:
    address = start
    if place.kind == "sentinel":
        address = await _told_by_sentinel(place, start)
    for _ in range(_MOST_MOVES):
        try:
            return address, await _checked(address, place.login, check)
        except _Moved as exc:
            if place.kind != "cluster":
                raise BrokerUnavailable(f"{exc}; write redis+cluster://") from None
            address = exc.address
        except BrokerUnavailable as exc:
            if address == start:
                raise
            raise BrokerUnavailable(f"{shown_address(address)}: {exc}") from None
    raise BrokerUnavailable("the nodes of the cluster do not agree which of them has the prefix")


async def _checked(address: Address, login: Login, check: Words) -> RedisStream:
    """Dial a server that may write."""
    stream = await open_stream(address, login)
    try:
        # The name is for operators; a server that refuses it works as well.
        _, first = await stream.call((b"CLIENT", b"SETNAME", b"wsbus"), check)
        fault = fault_of(first)
        if fault is None:
            return stream
        moved_to = _moved_to(str(first), address)
        raise BrokerUnavailable(fault) if moved_to is None else _Moved(fault, moved_to)
    except (OSError, RedisError) as exc:
        await stream.close()
        raise BrokerUnavailable(reason_of(exc)) from None
    except BaseException:
        await stream.close()
        raise


async def _told_by_sentinel(place: RedisPlace, start: Address) -> Address:
    """Ask a sentinel for the address of the primary."""
    stream = await open_stream(start, place.sentinels)
    try:
        [reply] = await stream.call(
            (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", place.service.encode())
        )
    except (OSError, RedisError) as exc:
        raise BrokerUnavailable(reason_of(exc)) from None
    finally:
        await stream.close()
    match reply:
        case [bytes() as host, bytes() as port]:
            return host.decode(), int(port)
        case None:
            raise BrokerUnavailable(f"the sentinel does not know {place.service!r}")
        case _:
            raise BrokerUnavailable(refusal_of(str(reply)))


async def open_stream(address: Address, login: Login) -> RedisStream:
    """Dial a server and log in."""
    options: dict[str, Any] = {
        "username": login.user,
        "password": login.password,
        "db": login.database,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "socket_timeout": DIAL_SECONDS,
        "socket_connect_timeout": DIAL_SECONDS,
        "driver_info": None,  # CLIENT SETINFO is one more command that an ACL must allow.
    }
    connection: Connection | UnixDomainSocketConnection
    if isinstance(address, str):
        connection = UnixDomainSocketConnection(path=address, **options)
    elif login.tls is None:
        connection = Connection(host=address[0], port=address[1], **options)
    else:
        connection = SSLConnection(host=address[0], port=address[1], **options)
        connection.ssl_context.context = login.tls
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        connection.socket_timeout = None  # The bus notices what is silent; each timer costs 20 µs.
        return RedisStream(connection)
    except (RedisError, OSError) as exc:
        await drop(connection)
        raise BrokerUnavailable(reason_of(exc)) from None
    except BaseException:
        await drop(connection)
        raise


def _moved_to(error: str, asked: Address) -> Address | None:
    """Return where a node of a cluster sends its clients."""
    match error.split():
        case ["MOVED" | "ASK", _, place]:
            host, _, port = place.rpartition(":")
            return (host or asked[0], int(port)) if port.isdigit() else None
        case _:
            return None


@contextmanager
def bounded(parts: int = 1) -> Iterator[None]:
    """Give up a dial, or one of several, after its time."""
    seconds = DIAL_SECONDS / parts
    try:
        with fail_after(seconds):
            yield
    except TimeoutError:
        raise BrokerUnavailable(f"it did not answer within {seconds:.2g} s") from None


def shown_address(address: Address) -> str:
    """Return an address as it stands in a URL."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fault_of(reply: object) -> str | None:
    """Say what the reply to the first command of a turn means; None: this is the primary."""
    if not isinstance(reply, Exception):
        return None
    text = str(reply)
    code = text.partition(" ")[0]
    if code == "MISCONF":  # It cannot save to its disk, which does not concern publications.
        return None
    return _NOT_PRIMARY.get(code) or refusal_of(text)


def refusal_of(text: str) -> str:
    """Say in plain words what a server answers, without a secret."""
    text = text.removeprefix("EXECABORT Transaction discarded because of: ")
    text = text.partition(", with args")[0]  # It may repeat what it was sent.
    code = text.partition(" ")[0]
    if code == "NOPERM" or any(phrase in text for phrase in _NO_RIGHT):
        return _needed(text)
    if code == "NOAUTH":
        return "it asks for a login: write redis://user:password@…"
    if code == "LOADING":
        return "it is loading its data"
    return f"it answers: {text}"


def _needed(refusal: str) -> str:
    return (
        f"it refuses: {refusal}; a user needs {RIGHTS}, for the prefix wsbus, and for history also "
        f"{HISTORY_RIGHTS}"
    )


def reason_of(exc: BaseException) -> str:
    """Say in plain words what went wrong, without a secret."""
    if isinstance(exc, RedisError) and isinstance(exc.__context__, OSError):
        exc = exc.__context__
    if isinstance(exc, AuthenticationError):
        return f"it refused the login: {exc}"
    if isinstance(exc, NoPermissionError):
        return _needed(str(exc))
    if isinstance(exc, InvalidResponse):
        return "it does not speak the protocol of Redis"
    if isinstance(exc, RedisTimeoutError):
        return "it did not answer in time"
    if isinstance(exc, RedisConnectionError | ConnectionResetError | BrokenPipeError):
        return "it closed the connection"
    if isinstance(exc, SSLError):
        why = getattr(exc, "verify_message", None) or exc.reason or str(exc)
        return f"TLS failed: {why.lower().replace('_', ' ')}"
    if isinstance(exc, OSError) and exc.errno is not None:
        return os.strerror(exc.errno).lower() if exc.errno > 0 else str(exc.strerror).lower()
    return refusal_of(str(exc)) if isinstance(exc, RedisError) else str(exc)
