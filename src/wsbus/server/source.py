"""Publications: checked, encoded, and numbered for their node.

A bus and an emitter accept the same, because both ask here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import count
from typing import Final, TypeAlias

from msgspec.structs import replace

from ..core.channels import Channel, parse_channel
from ..core.choices import shown
from ..core.encoding import EncHook, encode_data
from ..core.errors import CommandError, UsageError
from ..core.families import Families
from ..core.instant import Instant
from ..core.messages import Publication
from ..core.packing import pack
from ..core.tracing import Tracing

__all__ = [
    "BROADCAST",
    "Encode",
    "Pack",
    "Source",
    "TracedSource",
    "encoder",
    "new_source",
    "packer",
    "scoped_key",
    "tracing_setting",
]

Encode: TypeAlias = Callable[[object], bytes]
"""Turns data into JSON text."""
Pack: TypeAlias = Callable[[object, bytes], bytes | None]
"""Turns data, given its JSON text, into MessagePack if that says more; see :func:`.pack`."""


def scoped_key(key: str, channel: Channel, families: Families, owner: str = "") -> str:
    """Return the key under which a store remembers a publication.

    Args:
        key: The publisher's idempotency key.
        channel: Where it publishes.
        families: Those that the publisher knows.
        owner: The subject whose client publishes; others may use the same key.

    Raises:
        UsageError: It is no text, or the channel has no history.
    """
    if not isinstance(key, str) or not key:  # type: ignore[redundant-expr]
        raise UsageError(f"an idempotency key is a text, not {shown(key)}")
    if families.history_of(channel) is None:
        raise UsageError(
            f"idempotency_key needs history: declare family({str(channel)!r}, history=History())"
        )
    # With its length, since a subject may hold spaces: no other subject and key look the same.
    return f"{channel} {len(owner)} {owner} {key}"


_channel: Final = lru_cache(4096)(parse_channel)  # Most programs have fewer, and repeat them.

BROADCAST: Final = Channel("")
"""In place of a channel: the broadcast channels of each node."""


class Source:
    """Makes the publications of one node; any thread may use it.

    Args:
        node: Identifies this run of a bus, or this emitter.
        encode: Turns data into JSON.
        clock: Reads both clocks.
        families: Those that the publisher knows; they may say what publications hold.
        pack: Makes the packed form of data.
    """

    def __init__(
        self,
        node: str,
        encode: Encode,
        clock: Callable[[], Instant],
        families: Families,
        pack: Pack | None = None,
    ) -> None:
        self.pack: Pack | None = pack
        """Makes the packed form of data for dialects that tell bytes and moments from text. None:
        none is spoken."""
        self.node: Final = node
        self._families: Final = families
        self._encode: Final = encode
        self._clock: Final = clock
        self._numbers: Final = count(1)
        self.moment: Instant = clock()
        """When something was accepted last. It saves a store the time to read the clock."""

    def accept(self, channel: str, event: str, data: object, key: str | None) -> Publication:
        """Check what the application publishes, encode its data, and say what it is.

        Raises:
            InvalidChannel: ``channel`` is no channel.
            UsageError: The data has no JSON form, or is not what the channel holds, or another
                argument is of the wrong type.
        """
        name = _channel(channel) if type(channel) is str else parse_channel(channel)
        return self.accept_on(name, event, data, key)

    def accept_on(self, name: Channel, event: str, data: object, key: str | None) -> Publication:
        """Accept what is published on a checked channel, or on :data:`BROADCAST`.

        Raises:
            UsageError: As :meth:`accept`.
        """
        if not isinstance(event, str) or not event.isprintable():  # type: ignore[redundant-expr]
            raise UsageError(f"an event is a printable text, not {shown(event)}")
        if key is not None and not isinstance(key, str):
            raise UsageError(f"key must be a text or None, not {type(key).__name__}")
        text = self._encode(data)
        if self._families.check_content:
            try:
                self._families.check(name, event, text)
            except CommandError as exc:
                raise UsageError(f"{str(name)!r}, event {event!r}: {exc.message}") from None
        self.moment = moment = self._clock()
        now, number, pack = moment.wall, next(self._numbers), self.pack
        if pack is None:
            return Publication(name, event, text, now, key, self.node, number)
        packed = pack(data, text)
        return Publication(name, event, text, now, key, self.node, number, packed=packed)

    def take(
        self, channel: Channel, event: str, data: bytes, packed: bytes | None = None
    ) -> Publication:
        """Say what a publication is whose data was checked; an entry of a stream, for example."""
        self.moment = moment = self._clock()
        now, number = moment.wall, next(self._numbers)
        return Publication(channel, event, data, now, None, self.node, number, packed=packed)

    take_of_client = take
    """Say what a client's publication is; its protocol has checked it."""


class TracedSource(Source):
    """Has a span for each publication, but for the entries of streams.

    Args:
        node: As :class:`Source`, and so are ``encode`` to ``pack``.
        encode: The same.
        clock: The same.
        families: The same.
        pack: The same.
        tracing: Begins spans.
    """

    def __init__(
        self,
        node: str,
        encode: Encode,
        clock: Callable[[], Instant],
        families: Families,
        pack: Pack | None = None,
        *,
        tracing: Tracing,
    ) -> None:
        super().__init__(node, encode, clock, families, pack)
        self._tracing: Final = tracing

    def accept_on(self, name: Channel, event: str, data: object, key: str | None) -> Publication:
        """Accept what is published, in a span; see :meth:`.Source.accept_on`."""
        work = self._tracing.publication(name, is_of_client=False)
        error: str | None = None
        try:
            publication = super().accept_on(name, event, data, key)
        except BaseException as exc:
            error = type(exc).__qualname__
            raise
        finally:
            work.end(error)
        return replace(publication, trace_parent=work.trace_parent)

    def take_of_client(
        self, channel: Channel, event: str, data: bytes, packed: bytes | None = None
    ) -> Publication:
        """Say what a client's publication is, in a span."""
        work = self._tracing.publication(channel, is_of_client=True)
        publication = super().take_of_client(channel, event, data, packed)
        work.end()
        return replace(publication, trace_parent=work.trace_parent)


def new_source(
    node: str,
    encode: Encode,
    clock: Callable[[], Instant],
    families: Families,
    pack: Pack | None,
    *,
    tracing: Tracing | None,
) -> Source:
    """Return a source, with tracing if there is one; see :class:`TracedSource`."""
    if tracing is None:
        return Source(node, encode, clock, families, pack)
    return TracedSource(node, encode, clock, families, pack, tracing=tracing)


def tracing_setting(tracing: Tracing | None) -> Tracing | None:
    """Return the tracing of a bus, or of an emitter.

    Raises:
        UsageError: It is none.
    """
    if tracing is not None and not isinstance(tracing, Tracing):
        raise UsageError(
            f"tracing is an OpenTelemetry() of wsbus.opentelemetry, or None, not {shown(tracing)}"
        )
    return tracing


def encoder(enc_hook: EncHook | None) -> Encode:
    """Return the encoder for the data of a bus, or of an emitter.

    Raises:
        UsageError: The hook is not a function.
    """
    if enc_hook is not None and not callable(enc_hook):
        raise UsageError(
            f"enc_hook is a function that turns an object into data, not {shown(enc_hook)}"
        )
    return partial(encode_data, enc_hook=enc_hook)


def packer(enc_hook: EncHook | None) -> Pack:
    """Return what packs the data of a bus, or of an emitter; see :func:`encoder`."""
    return partial(pack, enc_hook=enc_hook)
