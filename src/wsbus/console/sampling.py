"""Walks over the objects of a bus, in chunks that do not hold the event loop for long.

A walk visits a few hundred objects, lets other tasks run, and goes on. Its cost is added up, and
the next sample waits until its share of the time is small.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec
from anyio.lowlevel import checkpoint

from ..connection import ConnectionInfo
from ..core.errors import CloseCode, CommandError, ErrorCode
from ..core.member import Member
from ..core.patterns import parse_pattern
from ..server.connection import ConnectionDriver
from ..server.directory import Node
from ..server.relay import Relay
from ..server.services import Services
from .samples import (
    CUT,
    FEEDS,
    NODE_ROWS,
    ROWS,
    SUMMARY_ROWS,
    ChannelRow,
    ConnectionRow,
    EndedRow,
    PatternRow,
    Query,
    Row,
)
from .tap import ChannelTap, Seen

__all__ = [
    "Effort",
    "Found",
    "RoundTripped",
    "answer",
    "chunks",
    "cut",
    "ended_row",
    "followed",
    "node_rows",
    "sendable",
    "sorted_by",
]

T = TypeVar("T")

CHUNK: Final = 500
"""Objects visited between two turns of the loop: about a millisecond."""
_SOME: Final = 4
_LONGEST: Final = 4096
"""Characters of a text in the details of one connection."""


@runtime_checkable
class RoundTripped(Protocol):
    """The additional method of a transport that knows its round-trip time."""

    def round_trip(self) -> float | None:
        """Return the smoothed round-trip time in seconds; None if it is unknown."""
        ...


class Effort:
    """Adds up the time spent inside ``with effort:``, in which nothing is awaited."""

    def __init__(self) -> None:
        self.seconds: float = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += perf_counter() - self._began


class Found(msgspec.Struct, frozen=True):
    """The answer to a query."""

    rows: list[Row]
    total: int
    found: int


def cut(text: str, most: int = CUT) -> str:
    """Return the beginning of a text for a row, in UTF-8."""
    return text[:most].encode(errors="replace").decode()


def sendable(info: ConnectionInfo) -> ConnectionInfo:
    """Return the same, with texts that UTF-8 can encode: a path may hold lone surrogates."""
    host = (cut(info.client[0]), info.client[1]) if info.client else None
    return msgspec.structs.replace(
        info,
        connection_id=cut(info.connection_id, _LONGEST),
        subject=None if info.subject is None else cut(info.subject, _LONGEST),
        path=cut(info.path, _LONGEST),
        client=host,
        subscriptions=tuple(cut(pattern, _LONGEST) for pattern in info.subscriptions),
        assigned=tuple(cut(pattern, _LONGEST) for pattern in info.assigned),
    )


# --- connections ------------------------------------------------------------------------------


def _lost(driver: ConnectionDriver) -> int:
    return driver.member.queue.lost_ever


def _slowness(driver: ConnectionDriver) -> tuple[int, int, int]:
    queue = driver.member.queue
    return len(queue), queue.bytes, queue.lost_ever


def _containing(text: str, services: Services) -> Callable[[ConnectionDriver], bool]:
    """Return a test whether a connection's row, or one of its patterns, contains a text."""
    subscribed = _subscribed(text, services)

    def contains(driver: ConnectionDriver) -> bool:
        identity, handshake = driver.identity, driver.handshake
        client = handshake.client
        return (
            text in driver.id.lower()
            or (identity is not None and text in identity.subject.lower())
            or text in handshake.path.lower()
            or (client is not None and text in f"{client[0]}:{client[1]}")
            or text in driver.protocol.name
            or not subscribed.isdisjoint(driver.members)
        )

    return contains


def _subscribed(text: str, services: Services) -> set[Member]:
    """Return the members that subscribe to patterns that contain a text."""
    table = services.hub.table
    held = [pattern for pattern, _ in table.held() if text in pattern.lower()]
    return {member for pattern in held for member in table.members(parse_pattern(pattern))}


def _connection_row(driver: ConnectionDriver) -> ConnectionRow:
    info = driver.info()
    transport = driver.outlet.transport
    rtt = transport.round_trip() if isinstance(transport, RoundTripped) else None
    some = [cut(pattern) for pattern in islice(chain(info.subscriptions, info.assigned), _SOME)]
    return ConnectionRow(
        id=cut(info.connection_id),
        connected_at=info.connected_at,
        subject=msgspec.UNSET if info.subject is None else cut(info.subject),
        protocol=info.protocol,
        path=cut(info.path),
        client=cut(f"{info.client[0]}:{info.client[1]}") if info.client else "",
        last_seen=info.last_pong,
        queued=info.queue_messages,
        queued_bytes=info.queue_bytes,
        dropped=info.dropped,
        sent=info.message_count,
        received=info.messages_received,
        is_blocked=driver.is_stuck or info.queue_messages > 0,
        rtt=msgspec.UNSET if rtt is None else rtt,
        patterns=len(info.subscriptions) + len(info.assigned),
        some_patterns=tuple(some),
    )


def ended_row(driver: ConnectionDriver, at: float) -> EndedRow:
    """Return the facts of a connection that has ended at this second of the epoch."""
    identity = driver.identity
    return EndedRow(
        id=cut(driver.id),
        subject=msgspec.UNSET if identity is None else cut(identity.subject),
        path=cut(driver.handshake.path),
        connected_at=driver.connected_at,
        ended_at=at,
        code=driver.close_code or CloseCode.ABNORMAL,
        reason=cut(driver.close_reason),
        dropped=_lost(driver),
    )


# --- channels and patterns --------------------------------------------------------------------


def _channel_row(seen: Seen) -> ChannelRow:
    return ChannelRow(
        channel=seen.channel,
        rate=seen.rate,
        count=seen.count,
        size=seen.size,
        subscribers=seen.subscribers,
        event=cut(seen.event),
        at=seen.at,
    )


_Held = tuple[str, int]
"""A pattern, and the number of its subscribers."""


def _backwards(name: str) -> tuple[int, ...]:
    """Return a key that sorts names in reverse."""
    return (*[-ord(character) for character in name], 1)


# --- the broker -------------------------------------------------------------------------------


def node_rows(relay: Relay | None) -> list[Node]:
    """Return the nodes that are there, this one first; what others say of themselves is cut."""
    found = [] if relay is None else relay.nodes()[:NODE_ROWS]
    return [msgspec.structs.replace(node, id=cut(node.id), host=cut(node.host)) for node in found]


def followed(relay: Relay | None) -> list[str]:
    """Return channels and patterns that are followed at the broker, not too many."""
    feeds = [] if relay is None else relay.feeds(FEEDS + 1)
    names = [feed[1:] if feed[0] == "=" else f"{feed[1:]}*" for feed in feeds if feed[0] != "!"]
    return [cut(name) for name in names[:FEEDS]]


# --- lists ------------------------------------------------------------------------------------


class _List(msgspec.Struct, frozen=True):
    """One kind of list; of its orders, the first is the default."""

    orders: dict[str, Callable[[Any], Any]]
    containing: Callable[[str, Services], Callable[[Any], bool]]
    row: Callable[[Any], Row]
    length: int = ROWS


def _subject(driver: ConnectionDriver) -> str:
    return driver.identity.subject[:CUT] if driver.identity else ""


_CONNECTIONS: Final = _List(
    orders={
        "slow": _slowness,
        "dropped": _lost,
        "sent": lambda driver: driver.member.message_count,
        "received": lambda driver: driver.messages_received,
        "newest": lambda driver: driver.connected_at,
        "oldest": lambda driver: -driver.connected_at,
        "name": lambda driver: _backwards(_subject(driver)),
    },
    containing=_containing,
    row=_connection_row,
)
_LISTS: Final = {
    "overview": msgspec.structs.replace(
        _CONNECTIONS, orders={"slow": _slowness}, length=SUMMARY_ROWS
    ),
    "connections": _CONNECTIONS,
    "published": _List(
        orders={
            "rate": lambda seen: (seen.rate, seen.count),
            "subscribers": lambda seen: (seen.subscribers, seen.rate),
            "newest": lambda seen: seen.at,
            "name": lambda seen: _backwards(seen.channel),
        },
        containing=lambda text, _: lambda seen: text in seen.channel.lower(),
        row=_channel_row,
    ),
    "subscribed": _List(
        orders={"subscribers": lambda held: held[1], "name": lambda held: _backwards(held[0])},
        containing=lambda text, _: lambda held: text in held[0].lower(),
        row=lambda held: PatternRow(*held),
    ),
}


def sorted_by(view: str, sort: str) -> str:
    """Return the order of a view's list; the default for the empty text.

    Raises:
        CommandError: The view has no such order.
    """
    orders = _LISTS[view].orders
    if sort and sort not in orders:
        raise CommandError(
            ErrorCode.VALIDATION_ERROR, f"{view} can be sorted by {', '.join(orders)}"
        )
    return sort or next(iter(orders))


async def answer(query: Query, services: Services, tap: ChannelTap, effort: Effort) -> Found:
    """Find the first rows of a list; the cost is added to ``effort``."""
    kind = _LISTS[query.view]
    key = kind.orders[query.sort]
    with effort:
        things = _things(query, services, tap)
        contains = kind.containing(query.find, services) if query.find else None
    best: list[Any] = []
    found = 0
    for chunk in chunks(things):
        with effort:
            fitting = [thing for thing in chunk if contains(thing)] if contains else chunk
            found += len(fitting)
            best = heapq.nlargest(kind.length, [*best, *fitting], key)
        await checkpoint()
    with effort:
        return Found([kind.row(thing) for thing in best], len(things), found)


def _things(query: Query, services: Services, tap: ChannelTap) -> Sequence[Any]:
    match query.view:
        case "published":
            return list(tap.channels.values())
        case "subscribed":
            return services.hub.table.held()
        case _:
            return services.registry.connected()


def chunks(things: Iterable[T]) -> Iterator[list[T]]:
    """Yield all things, as many at a time as one turn of the loop visits."""
    rest = iter(things)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
