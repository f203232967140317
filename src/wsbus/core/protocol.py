"""The interface of dialects, with defaults for most of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Protocol

from .channels import Channel, parse_channel
from .frame import Frame
from .instant import Instant
from .messages import Excess, Publication, Request, ServerMessage
from .patterns import Pattern, parse_pattern

__all__ = ["WireProtocol"]


class WireProtocol(Protocol):
    """One dialect: frames to requests, and replies and publications to frames.

    Derive from it to inherit the defaults; any object with these members works, too. One instance
    serves every connection, so it holds no state of a conversation.
    """

    name: str
    """The WebSocket subprotocol token (RFC 6455, section 11.3.4)."""
    binary: bool = False
    """Whether it accepts binary frames; if not, a binary frame closes the connection (1003)."""
    packs: bool = False
    """Whether its frames tell bytes and moments from text, so that :attr:`.Publication.packed` is
    of use; only a bus with an endpoint that speaks such a dialect makes it."""
    joins: bool = False
    """Whether text messages may share a frame, separated by newlines
    (:func:`~wsbus.core.frame.join_lines`)."""
    advises: bool = False
    """Whether the reason of a close frame may end with the time to come again
    (:func:`~wsbus.core.returning.with_return`)."""
    is_one_way: ClassVar[bool] = False
    """Whether clients only listen, and so answer no pings."""

    def split(self, frame: str | bytes) -> Iterable[str | bytes]:
        """Cut a frame of a client into messages, at least one; by default it is one.

        Each message counts against the rate, and is decoded only if it is within the rate. Cut
        lazily if there may be many.
        """
        return (frame,)

    @abstractmethod
    def decode(self, frame: str | bytes) -> Iterable[Request]:
        """Decode one message of :meth:`split`, or a whole frame.

        Guarantees: never raises, whatever the client sent, and gives at least one request:
        :class:`.Malformed`, whose text repeats nothing of the frame, for an invalid message.
        """

    def glance(self, message: str | bytes) -> Excess:
        """Read only the parts of a message over the rate that its refusal needs.

        Never raises, and should cost much less than :meth:`decode`. By default it reads nothing,
        so that the refusal has no ``ref``.
        """
        return Excess()

    @abstractmethod
    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        """Return the frame for ``reply``; None if the dialect has no such message.

        Raises:
            UnicodeEncodeError: A text of the application holds lone surrogates.
        """

    @abstractmethod
    def encode_publication(self, publication: Publication) -> Frame:
        """Return the frame for a publication.

        Guarantees: the frame depends on the publication and the dialect, and on nothing else, so
        that all subscribers get the same.
        """

    def encode_latest(self, publication: Publication) -> Frame:
        """Return the frame for the latest publication of a channel, for a new subscription.

        By default it is that of :meth:`encode_publication`.
        """
        return self.encode_publication(publication)

    def pattern(self, name: str) -> Pattern:
        """Return the pattern for the ``name`` in a subscribe or unsubscribe request.

        By default ``*`` is a wildcard and ``+`` is not.

        Raises:
            InvalidChannel: The name is invalid.
        """
        return parse_pattern(name, plus=False)

    def channel(self, name: str) -> Channel:
        """Return the channel for the ``name`` in a publish request.

        Raises:
            InvalidChannel: The name is invalid, or a pattern.
        """
        return parse_channel(name)
