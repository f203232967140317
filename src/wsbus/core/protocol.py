"""What every dialect must be able to do, and what most of them do alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Protocol

from .channels import Channel, parse_channel
from .frame import Frame
from .instant import Instant
from .messages import Excess, Publication, Request, ServerMessage
from .patterns import Pattern, parse_pattern

__all__ = ["WireProtocol"]


class WireProtocol(Protocol):
    """One dialect: frames to commands, replies and publications to frames.

    Derive from it to inherit what is not abstract; an object that merely has these members will
    do as well. One instance serves every connection, so it holds no state of a conversation.
    """

    name: str
    """The WebSocket subprotocol token (RFC 6455, section 11.3.4)."""
    binary: bool = False
    """It speaks binary frames too; if not, one of them closes the connection (1003)."""
    joins: bool = False
    """Several text messages may share a frame, separated by newlines
    (:func:`~wsbus.core.frame.join_lines`)."""

    def split(self, frame: str | bytes) -> Iterable[str | bytes]:
        """Cut a frame of a client into messages, at least one; by default it is one.

        Each counts against the rate of messages by itself, and is decoded only if it is within
        it. Cut lazily if there may be many.
        """
        return (frame,)

    @abstractmethod
    def decode(self, frame: str | bytes) -> Iterable[Request]:
        """Understand one message of :meth:`split`, or a whole frame.

        Guarantees: never raises, whatever the client sent, and gives at least one command: what
        cannot be understood is :class:`.Malformed`, whose text repeats nothing of the frame.
        """

    def glance(self, message: str | bytes) -> Excess:
        """Look at a message that is over the rate, only for what refusing it takes.

        Never raises, and should cost much less than :meth:`decode`. By default it sees nothing,
        so that the refusal carries no ``ref``.
        """
        return Excess()

    @abstractmethod
    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        """Say ``reply``; None if the dialect has no word for it.

        Raises:
            UnicodeEncodeError: A text of the application's own holds lone surrogates.
        """

    @abstractmethod
    def encode_publication(self, publication: Publication) -> Frame:
        """Say that something happened.

        Guarantees: the frame depends on the publication and the dialect, and on nothing else,
        so that one serves every subscriber.
        """

    def pattern(self, name: str) -> Pattern:
        """Return what a client means by ``name`` when it subscribes or unsubscribes.

        By default ``*`` is a wildcard and ``+`` is none.

        Raises:
            InvalidChannel: It means nothing.
        """
        return parse_pattern(name, plus=False)

    def channel(self, name: str) -> Channel:
        """Return what a client means by ``name`` when it publishes.

        Raises:
            InvalidChannel: It means nothing, or more than one channel.
        """
        return parse_channel(name)
