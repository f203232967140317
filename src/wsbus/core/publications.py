"""Publications, and the receipts of those who publish."""

from __future__ import annotations

from typing import Final

import msgspec

from .channels import Channel
from .events import Position

__all__ = ["Publication", "Receipt", "is_event"]

_MAX_EVENT_BYTES: Final = 255


def is_event(text: str) -> bool:
    """Tell whether ``text`` can be an event: printable, at most 255 bytes of UTF-8."""
    return text.isprintable() and len(text.encode()) <= _MAX_EVENT_BYTES


class Publication(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Data accepted on a channel; compared by identity."""

    channel: Channel
    event: str
    """A word that says what happened, such as ``update``."""
    data: bytes
    """The data as compact JSON text in UTF-8, checked, so that it is safe in any frame."""
    timestamp: float
    """When it was accepted, in seconds since the epoch."""
    key: str | None = None
    """For ``conflate``: a newer publication with the same key replaces this one in a queue.
    None: channel and event."""
    node: str = ""
    """The run of a bus that accepted it; empty where that is not known, as in a client."""
    number: int = 0
    """Counts what the node accepted."""
    position: Position | None = None
    """The position in its channel; None: the channel has no history."""
    previous: Position | None = None
    """The position of the channel's publication before it; None: there is none, or the channel has
    no history. Not every broker numbers each channel by itself, so offsets may skip."""
    packed: bytes | None = None
    """The data as MessagePack, checked, where that says more than the JSON text: it holds bytes or
    moments, and was published where they are kept. None: :attr:`data` says everything."""
    trace_parent: str | None = None
    """The context of the span that published it, as :attr:`.Event.trace_parent`."""

    @property
    def id(self) -> str:
        """Identifies it among the publications of all nodes."""
        return f"{self.node}-{self.number}"

    @property
    def conflation_key(self) -> object:
        """The key for ``conflate``."""
        return self.key if self.key is not None else (self.channel, self.event)

    @property
    def size(self) -> int:
        """Its size in a queue of publications, in bytes."""
        return len(self.data)


class Receipt(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"local_matched": "matched", "local_accepted": "accepted"},
):
    """The result of a publication, as the node that accepted it knows it.

    In JSON the counts are ``matched`` and ``accepted``.
    """

    local_matched: int
    """Receivers at that node: connections, and subscriptions inside the process."""
    local_accepted: int
    """Of these, the ones that will get it unless they go away; the rest have full queues."""
    position: Position | None = None
    """The position in its channel; None: the channel has no history, or it is not known yet."""
    repeated: bool = False
    """Whether its idempotency key was used before: the position is that of the first publication
    with this key, and nothing was published now."""
