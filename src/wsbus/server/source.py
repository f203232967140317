"""Publications: checked, encoded, and numbered for their node.

A bus and an emitter accept the same, because both ask here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final, TypeAlias

from ..core.channels import Channel, parse_channel
from ..core.choices import shown
from ..core.encoding import EncHook, encode_data
from ..core.errors import CommandError, UsageError
from ..core.families import Families
from ..core.instant import Instant
from ..core.messages import Publication

__all__ = ["BROADCAST", "Encode", "Source", "encoder", "scoped_key"]

Encode: TypeAlias = Callable[[object], bytes]
"""Turns data into JSON text."""


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


BROADCAST: Final = Channel("")
"""In place of a channel: the broadcast channels of each node."""


class Source:
    """Makes the publications of one node; any thread may use it.

    Args:
        node: Identifies this run of a bus, or this emitter.
        encode: Turns data into JSON.
        clock: Reads both clocks.
        families: Those that the publisher knows; they may say what publications hold.
    """

    def __init__(
        self, node: str, encode: Encode, clock: Callable[[], Instant], families: Families
    ) -> None:
        self.node: Final = node
        self._families: Final = families
        self._encode: Final = encode
        self._clock: Final = clock
        self._numbers: Final = count(1)

    def accept(self, channel: str, event: str, data: object, key: str | None) -> Publication:
        """Check what the application publishes, encode its data, and say what it is.

        Raises:
            InvalidChannel: ``channel`` is no channel.
            UsageError: The data has no JSON form, or is not what the channel holds, or another
                argument is of the wrong type.
        """
        return self.accept_on(parse_channel(channel), event, data, key)

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
        now = self._clock().wall
        return Publication(name, event, text, now, key, self.node, next(self._numbers))

    def take(self, channel: Channel, event: str, data: bytes) -> Publication:
        """Say what a client's publication is; its protocol has checked it."""
        now = self._clock().wall
        return Publication(channel, event, data, now, None, self.node, next(self._numbers))


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
