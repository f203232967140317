"""Envelopes: messages between nodes, each with many items.

An envelope is one byte, its version, and then MessagePack: ``[node, number, sent_at, items]``.
``number`` counts the envelopes of a node, ``sent_at`` is in seconds since the epoch, and each item
is an array that starts with its kind. What one turn of the event loop publishes shares envelopes,
one for each feed (:class:`Turn`).

A node reads its own version and the next one, so that the processes of a service can be updated
one by one. Later versions may append fields to arrays, and add kinds: a reader skips both. The
content comes from a broker that others may write to: everything is checked as if a client had sent
it, and what is wrong costs its item only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import msgspec

from .channels import parse_channel
from .errors import InvalidChannel
from .events import Position
from .families import History
from .feeds import Feed, feeds_around
from .limits import MAX_DEPTH, too_deep
from .messages import Publication
from .packing import InvalidPacked, open_packed, pack_value
from .presence import ChannelNews
from .tracing import checked_parent

__all__ = [
    "VERSION",
    "Addressed",
    "AttendanceAsked",
    "Attended",
    "Beacon",
    "Dismissed",
    "Draft",
    "Envelope",
    "Item",
    "Kept",
    "Published",
    "Revoked",
    "StreamLease",
    "Turn",
    "Untraced",
    "encode_item",
    "kept_item",
    "kept_publication",
    "largest_item",
    "open_envelope",
    "open_kept",
    "publication_of",
    "publish_item",
    "read_items",
]

VERSION: Final = 1
"""The version that this node writes; it reads the next one, too."""


class Addressed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Connections on any node: some by their ids, or all of one identity."""

    connections: tuple[str, ...] = ()
    """Ids of connections."""
    subject: str | None = None
    """The subject of an identity."""
    realm: int | None = None
    """The number of the identity's authenticator; None: the first one of the bus."""
    endpoint: int | None = None
    """The number of the identity's endpoint; None: every endpoint with that authenticator."""
    own: tuple[str, ...] = ()
    """Ids of connections of the node that sends this; others may have some of the same name."""


class Untraced(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """A publication without a context, as it is written; it is read as :class:`Published`."""

    number: int
    channel: str
    """Empty: the broadcast channels of the node that reads it."""
    event: str
    data: bytes
    timestamp: float
    key: str | None = None
    excluded: Addressed | None = None
    to: Addressed | None = None
    """None: those whose patterns match."""
    packed: bytes | None = None
    """As :attr:`.Publication.packed`."""


class Published(Untraced, frozen=True, array_like=True, tag="p", gc=False):
    """A publication."""

    trace_parent: str | None = None
    """As :attr:`.Publication.trace_parent`."""


class Dismissed(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """Connections are to end."""

    to: Addressed
    code: int
    reason: str


class Revoked(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """Connections are to lose a subscription."""

    to: Addressed
    pattern: str
    reason: str | None = None


class Beacon(msgspec.Struct, frozen=True, array_like=True, tag="n", gc=False):
    """A node is there. It is also the probe: its node must get it back."""

    number: int
    host: str
    pid: int
    connections: int
    started_at: float
    """Seconds since the epoch."""
    is_leaving: bool = False


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="k", gc=False):
    """A publication that a store has numbered. A store keeps just this, too."""

    published: Published
    node: str
    """The node that accepted it."""
    epoch: str
    offset: int
    previous: int = 0
    """The offset of the channel's publication before it; 0: there was none."""
    tag: str = ""

    @property
    def position(self) -> Position:
        """Its position."""
        return Position(self.epoch, self.offset, self.tag)


class Attended(msgspec.Struct, frozen=True, array_like=True, tag="a", gc=False):
    """A node's news of which connections are on its channels; see :mod:`wsbus.core.presence`."""

    number: int
    channels: tuple[ChannelNews, ...]
    is_whole: bool = False


class AttendanceAsked(msgspec.Struct, frozen=True, array_like=True, tag="w", gc=False):
    """A node asks another to say again which connections are on its channels."""

    node: str
    """Empty: all nodes."""


class StreamLease(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """The producer of a stream is there."""

    channel: str


Item: TypeAlias = (
    Published | Dismissed | Revoked | Beacon | Kept | Attended | AttendanceAsked | StreamLease
)
"""The content of an envelope."""


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Items that one node has sent together."""

    node: str
    number: int
    sent_at: float
    items: msgspec.Raw


_encode: Final = msgspec.msgpack.Encoder().encode
_head: Final = msgspec.msgpack.Decoder(Envelope).decode
_items: Final = msgspec.msgpack.Decoder(list[Item]).decode
_raw_items: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_item: Final = msgspec.msgpack.Decoder(Item).decode
_kept: Final = msgspec.msgpack.Decoder(Kept).decode
_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_NEWLINE: Final = ord("\n")  # To look for a byte is quicker than to look for bytes (3.11).
_channel: Final = lru_cache(4096)(parse_channel)
_LAST_SECOND: Final = 253_402_300_799.0  # Of the year 9999: a date in every language.
_VERSION: Final = bytes((VERSION,))
_READABLE: Final = (VERSION, VERSION + 1)

_HEAD_BYTES: Final = 128
"""More than an envelope has beside its items: a node is named by 32 characters at most."""

encode_item: Final = _encode
"""Encode an item."""


def publish_item(
    publication: Publication, excluded: Addressed | None = None, to: Addressed | None = None
) -> bytes:
    """Encode a publication as an item: a :class:`Published`."""
    p, absent = publication, excluded
    plain = Untraced(p.number, p.channel, p.event, p.data, p.timestamp, p.key, absent, to, p.packed)
    if p.trace_parent is None:
        return _encode(plain)
    return _encode(Published(**msgspec.structs.asdict(plain), trace_parent=p.trace_parent))


def kept_item(item: bytes, node: str, position: Position, previous: int) -> bytes:
    """Encode a publication that a store has numbered.

    Args:
        item: What :func:`publish_item` made of it.
        node: The node that accepted it.
        position: Its position.
        previous: The offset of the channel's publication before it; 0: there was none.
    """
    raw, p = msgspec.Raw(item), position
    return _encode(("k", raw, node, p.epoch, p.offset, previous, p.tag))


def open_kept(entry: bytes) -> Kept | None:
    """Read what :func:`kept_item` made; None: it cannot be read."""
    try:
        return _kept(entry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def kept_publication(kept: Kept) -> Publication | None:
    """Return a publication with its position; None: it is not fit for subscribers."""
    publication = publication_of(kept.published, kept.published.channel, kept.node)
    if publication is None or kept.offset < 1 or kept.previous < 0:
        return None
    previous = Position(kept.epoch, kept.previous) if kept.previous else None
    return msgspec.structs.replace(publication, position=kept.position, previous=previous)


def open_envelope(message: bytes) -> Envelope | None:
    """Read the head of an envelope; None: it is none, or of a version that is not known."""
    if not message or message[0] not in _READABLE:
        return None
    try:
        return _head(memoryview(message)[1:])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def read_items(envelope: Envelope) -> tuple[list[Item], int]:
    """Return the items of an envelope, and the number of those that cannot be read."""
    raw = envelope.items
    try:
        return _items(raw), 0
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    items, unread = [], 0
    try:
        parts = _raw_items(raw)
    except (msgspec.MsgspecError, RecursionError):
        return [], 1
    for part in parts:
        try:
            items.append(_item(part))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            unread += 1
    return items, unread


def publication_of(item: Published, channel: str, node: str) -> Publication | None:
    """Return what an item publishes on a channel; None: it is not fit for subscribers."""
    data = item.data
    try:
        name = _channel(channel)
        # msgspec does not check UTF-8 in what it only looks at.
        _json(data if data.isascii() else data.decode())
    except (InvalidChannel, UnicodeError, msgspec.MsgspecError, RecursionError):
        return None
    if _NEWLINE in data or too_deep(data, MAX_DEPTH) or not item.event.isprintable():
        return None
    if not 0 <= item.timestamp <= _LAST_SECOND:  # Neither is NaN.
        return None
    packed = item.packed
    if packed is not None:
        try:
            packed = pack_value(open_packed(packed))
        except InvalidPacked:
            return None
    at, parent = item.timestamp, None
    if item.trace_parent is not None:  # If it is wrong, the publication is fit nevertheless.
        parent = checked_parent(item.trace_parent)
    return Publication(
        name, item.event, data, at, item.key, node, item.number, None, None, packed, parent
    )


class Draft(NamedTuple):
    """A publication for a store to number, keep and publish."""

    feed: Feed
    publication: Publication
    item: bytes
    """It as :func:`publish_item` encodes it."""
    history: History
    idempotency_key: str | None = None


class Turn:
    """The items that a node hands to its broker at once, in order.

    Args:
        node: The node.
        number: Counts the turns of the node.
        sent_at: Seconds since the epoch.
    """

    def __init__(self, node: str, number: int, sent_at: float) -> None:
        self._node: Final = node
        self._number: Final = number
        self._sent_at: Final = sent_at
        self._order: Final[list[tuple[Feed, msgspec.Raw]]] = []
        self.drafts: Final[list[Draft]] = []
        """Publications to be kept first; see :class:`wsbus.broker.HistoryLink`."""
        self.size: int = 0
        """The size of the items."""

    def __len__(self) -> int:
        """Return the number of items and drafts."""
        return len(self._order) + len(self.drafts)

    @property
    def node(self) -> str:
        """The node."""
        return self._node

    def draft(self, draft: Draft) -> None:
        """Append what a store is to keep."""
        self.drafts.append(draft)
        self.size += len(draft.item)

    def add(self, feed: Feed, item: bytes) -> None:
        """Append an item; see :func:`encode_item`."""
        self._order.append((feed, msgspec.Raw(item)))
        self.size += len(item)

    def messages(self, *, spread: bool, most: int | None = None) -> Iterator[tuple[Feed, bytes]]:
        """Yield one envelope for each feed, for a broker to publish.

        Args:
            spread: Whether each item also goes to the feeds around its own. A broker that delivers
                by the start of a name does not need that.
            most: Bytes that an envelope may have: more items on a feed become several envelopes,
                in order. An item has at most :func:`largest_item` of them. None: any number.
        """
        feeds: dict[Feed, list[msgspec.Raw]] = {}
        targets: dict[Feed, list[list[msgspec.Raw]]] = {}
        for feed, item in self._order:
            if (lists := targets.get(feed)) is None:
                reached = (feed, *feeds_around(feed)) if spread else (feed,)
                lists = targets[feed] = [feeds.setdefault(each, []) for each in reached]
            for items in lists:
                items.append(item)
        former, encoded = list[msgspec.Raw](), list[bytes]()
        for feed, items in feeds.items():
            if items != former:  # Of one channel, the feeds around its own bring the same.
                parts = [items] if most is None else _parts(items, largest_item(most))
                former, encoded = items, [self.envelope(part) for part in parts]
            yield from [(feed, message) for message in encoded]

    def envelope(self, items: Sequence[msgspec.Raw]) -> bytes:
        """Return an envelope with these items; it begins with :attr:`head`."""
        return _VERSION + _encode((self._node, self._number, self._sent_at, items))

    @property
    def head(self) -> bytes:
        """The first bytes of each envelope of this turn; the array of its items follows."""
        return self.envelope(())[:-1]


def largest_item(most: int) -> int:
    """Return the largest size of an item that fits into an envelope of so many bytes."""
    return most - _HEAD_BYTES


def _parts(items: list[msgspec.Raw], most: int) -> Iterator[list[msgspec.Raw]]:
    """Split items so that each part has at most so many bytes, or one item."""
    part, size = list[msgspec.Raw](), 0
    for item in items:
        if part and size + len(item) > most:
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item)
    yield part
