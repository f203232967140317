"""The error tree, and the two tables of codes that clients see.

::

    WsbusError
    ├── RemoteError               the peer's fault; it gets an answer in its own dialect
    │   ├── CommandError          a command was refused: ``code`` and ``message`` go to the client
    │   ├── Unauthenticated       a token was refused
    │   ├── TransportClosed       the peer, or the network, ended the connection
    │   │   └── ConnectionLost    a client's connection ended, in words for its user
    │   ├── ConnectError          a client could not connect
    │   ├── StreamFailed          a stream will not be completed
    │   ├── StreamCancelled       a stream was cancelled, or is to be
    │   └── UnexpectedData        a client got data of another type
    └── UsageError                the calling code's fault
        ├── InvalidChannel        a name that is not a channel, or not a pattern
        ├── NotStarted            the bus is not running
        └── MessageTooLarge       a request is larger than the server reads

The branch says whose fault it is. No text holds a payload or a token.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

__all__ = [
    "BrokerUnavailable",
    "CloseCode",
    "CommandError",
    "ConnectError",
    "ConnectionLost",
    "ErrorCode",
    "InvalidChannel",
    "MessageTooLarge",
    "NotStarted",
    "PositionLost",
    "RemoteError",
    "StreamCancelled",
    "StreamFailed",
    "TransportClosed",
    "Unauthenticated",
    "UnexpectedData",
    "UsageError",
    "WsbusError",
    "check_sendable",
    "is_sendable",
    "may_reconnect",
]


class ErrorCode(StrEnum):
    """Reasons to refuse a message; sent to the client in ``error.code``."""

    INVALID_MESSAGE = "INVALID_MESSAGE"
    """Not JSON, or not the shape its type asks for."""
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    """The dialect has no message of this type."""
    INVALID_CHANNEL = "INVALID_CHANNEL"
    """The name breaks the grammar of channels or patterns."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """No valid token yet, or the token was refused."""
    FORBIDDEN = "FORBIDDEN"
    """No grant covers this."""
    TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"
    """The connection holds as many subscriptions as its endpoint allows."""
    RATE_LIMITED = "RATE_LIMITED"
    """Too many messages or commands; this one was not acted on."""
    UNAVAILABLE = "UNAVAILABLE"
    """The source of a subscription cannot be reached now; the client may ask again."""
    POSITION_LOST = "POSITION_LOST"
    """A part of what was published after the position of a subscription is not kept any more."""
    NO_HISTORY = "NO_HISTORY"
    """The channel keeps no history that could be read."""
    NO_PRESENCE = "NO_PRESENCE"
    """The channel does not say which connections are there."""
    NO_STREAM = "NO_STREAM"
    """There is no stream on the channel that could be cancelled."""
    NOT_REPEATABLE = "NOT_REPEATABLE"
    """A publication is sent again on a channel without history, which cannot tell it apart."""
    UNKNOWN_ACTION = "UNKNOWN_ACTION"
    """No command of this name is registered."""
    VALIDATION_ERROR = "VALIDATION_ERROR"
    """The parameters of a command do not fit; the message names the place."""
    TIMEOUT = "TIMEOUT"
    """The command took longer than its time limit and was cancelled."""
    INTERNAL_ERROR = "INTERNAL_ERROR"
    """The server failed; details are in its log only."""


class CloseCode(IntEnum):
    """Reasons for the end of a connection.

    1000-2999 belong to RFC 6455, section 7.4. In the application's range, clients reconnect after
    4000-4499, and do not after 4500-4999.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    """The server shuts down."""
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    """Binary where the dialect is text, or the reverse."""
    NO_STATUS = 1005
    """Never sent: the close frame carried no code."""
    ABNORMAL = 1006
    """Never sent: the connection ended without a close frame."""
    INVALID_PAYLOAD = 1007
    """A text frame was not UTF-8."""
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TOKEN_EXPIRED = 4401
    """Get a new token, then reconnect."""
    HEARTBEAT_TIMEOUT = 4408
    """Nothing came from the client for the heartbeat timeout."""
    TOO_SLOW = 4409
    """The client did not read fast enough for the overflow policy ``close``."""
    RATE_ABUSE = 4429
    """The client kept exceeding its rate; back off."""
    TOKEN_REFUSED = 4500
    """The token was refused, or none came in time."""
    REPLACED = 4509
    """Another connection took this client id."""
    DISCONNECTED = 4510
    """The operator or the application ended it."""


_FATAL: Final = frozenset({CloseCode.NORMAL, CloseCode.UNSUPPORTED_DATA, CloseCode.INVALID_PAYLOAD})


def may_reconnect(code: int) -> bool:
    """Tell whether a client should reconnect after close ``code``."""
    return code not in _FATAL and not 4500 <= code <= 4999


def is_sendable(code: int) -> bool:
    """Tell whether a close frame may carry ``code`` (RFC 6455, section 7.4)."""
    return (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) or 3000 <= code <= 4999


def check_sendable(code: object) -> None:
    """Refuse a code that no close frame may carry.

    Raises:
        UsageError: ``code`` may not be sent.
    """
    if not isinstance(code, int) or not is_sendable(code):
        raise UsageError(
            f"{code!r:.80} is no code to close with (RFC 6455, section 7.4): use 4000 to 4999, "
            "such as CloseCode.DISCONNECTED"
        )


class WsbusError(Exception):
    """Root of all errors that wsbus raises."""


class RemoteError(WsbusError):
    """The peer did something wrong, or went away."""


class PositionLost(RemoteError):
    """A part of what was published after a position is not kept any more: read the state anew."""


class StreamFailed(RemoteError):
    """A stream will not be completed: its producer has failed, or is gone.

    A producer may raise it inside ``async with bus.stream(…)``.

    Args:
        message: A sentence for readers. It is sent to clients: put no secret in it.
    """

    def __init__(self, message: str = "the stream failed") -> None:
        super().__init__(message)
        self.message: Final = _speakable(message)


class StreamCancelled(RemoteError):
    """A stream was cancelled, or for its producer: it is to be.

    Args:
        message: A sentence for readers. It is sent to clients: put no secret in it.
    """

    def __init__(self, message: str = "the stream was cancelled") -> None:
        super().__init__(message)
        self.message: Final = _speakable(message)


class CommandError(RemoteError):
    """A command cannot be carried out.

    Raise it in a command; the client's call fails with exactly this code and message.

    Args:
        code: A word for programs, such as ``VALIDATION_ERROR`` or one of your own.
        message: A sentence for people. It is sent to the client: put no secret in it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code: Final = _speakable(code)
        self.message: Final = _speakable(message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Unauthenticated(RemoteError):
    """A token was refused; raised by authenticators.

    Args:
        message: A sentence for the client, and for the server's log: put no secret and no token
            in it.
    """

    is_logged: bool = False
    """Whether the authenticator has logged the reason; otherwise the endpoint logs the message."""

    def __init__(self, message: str = "the token was refused") -> None:
        super().__init__(message)
        self.message: Final = _speakable(message)


class TransportClosed(RemoteError):
    """The connection ended.

    Args:
        code: Close code of RFC 6455, section 7.4; 1006 if no close frame came.
        reason: The peer's text, at most 123 bytes; do not trust it.
    """

    def __init__(self, code: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code: Final = code
        self.reason: Final = reason


_CLOSINGS: Final[dict[int, str]] = {
    CloseCode.NORMAL: "the server closed it on purpose",
    CloseCode.GOING_AWAY: "the server is shutting down",
    CloseCode.PROTOCOL_ERROR: "the other side reported an error of the WebSocket protocol",
    CloseCode.UNSUPPORTED_DATA: "the server takes text frames only",
    CloseCode.NO_STATUS: "the server closed it without saying why",
    CloseCode.ABNORMAL: "the server is gone, or the network broke",
    CloseCode.INVALID_PAYLOAD: "a text was not UTF-8",
    CloseCode.MESSAGE_TOO_BIG: "a message was too big",
    CloseCode.INTERNAL_ERROR: "the server failed",
    CloseCode.SERVICE_RESTART: "the server is restarting, or full",
    CloseCode.TOKEN_EXPIRED: "the token has expired",
    CloseCode.HEARTBEAT_TIMEOUT: "the server heard nothing from this client for too long",
    CloseCode.TOO_SLOW: "this client read too slowly",
    CloseCode.RATE_ABUSE: "this client kept sending too much",
    CloseCode.TOKEN_REFUSED: "the server refused the token, or got none in time",
    CloseCode.REPLACED: "another connection took this client's place",
    CloseCode.DISCONNECTED: "the server's operator or application ended it",
}


class ConnectionLost(TransportClosed):
    """A client's connection ended; a request without an answer may have been carried out or not.

    Args:
        code: Close code of RFC 6455, section 7.4; 1006 if no close frame came.
        reason: The server's text, or the client's own.
        context: The beginning of the sentence: the consequence for the caller.
    """

    def __init__(self, code: int = CloseCode.ABNORMAL, reason: str = "", context: str = "") -> None:
        super().__init__(code, reason)
        self.context: Final = context

    def __str__(self) -> str:
        words = _CLOSINGS.get(self.code, "the server closed it with a code of its own")
        said = f": {self.reason}" if self.reason else ""
        return (
            f"{self.context or 'the connection was lost'}; {words} (close code {self.code}{said})"
        )


class ConnectError(RemoteError):
    """A client could not connect.

    Args:
        message: What is wrong, for people; it repeats no token.
        status: HTTP status of the server's answer; None: there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.message: Final = message
        self.status: Final = status

    def __str__(self) -> str:
        return self.message


class UnexpectedData(RemoteError):
    """Data from the server do not have the type that the caller asked for.

    Args:
        message: What is wrong, and where.
    """


class UsageError(WsbusError):
    """The calling code asked for something that cannot be done; nothing was changed."""


class InvalidChannel(UsageError, ValueError):
    """A name that breaks the grammar of channels (or of patterns).

    A session that reads such a name from a client catches this and answers ``INVALID_CHANNEL``.

    Args:
        reason: What is wrong, in a text for the client that does not repeat the name.
        name: The refused name, whose start the error shows. Left out: the error shows no name.
    """

    def __init__(self, reason: str, name: object = ...) -> None:
        super().__init__(reason, name)
        self.reason: Final = reason
        self.name: Final = None if name is ... else name
        self._is_named: Final = name is not ...

    def __str__(self) -> str:
        if not self._is_named:
            return self.reason
        if not isinstance(self.name, str):
            kind = "None" if self.name is None else type(self.name).__name__
            return f"{self.reason}, not {kind}"
        dots = "…" if len(self.name) > _SHOWN else ""
        return f"{self.name[:_SHOWN]!r}{dots}: {self.reason}"


_SHOWN: Final = 80
"""Characters of a refused name that an error repeats."""


class NotStarted(UsageError):
    """The bus is not running: use it inside ``async with bus:``."""

    def __init__(self) -> None:
        super().__init__("the bus is not running: use it inside `async with bus:`")


class BrokerUnavailable(WsbusError):
    """The broker cannot be reached, or did not answer in time.

    Subscribers in this process have got the publication, if its family keeps no history.

    Args:
        message: What happened, for people; it repeats no password.
        may_have_arrived: Whether the broker may have passed it on: the link was lost after it was
            sent. Otherwise no other process has got it.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.may_have_arrived: Final = may_have_arrived
        """Whether other processes may have got it in spite of this error."""


class MessageTooLarge(UsageError):
    """A request is larger than the messages that the server reads; it was not sent.

    Args:
        what: The request.
        size: Size of its message, in bytes.
        limit: The server's limit, from ``connected``.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what: Final = what
        self.size: Final = size
        self.limit: Final = limit

    def __str__(self) -> str:
        return (
            f"{self.what}: the message is too large: it has {self.size} bytes, and the server "
            f"takes {self.limit}; it was not sent"
        )


def _speakable(text: str) -> str:
    """Replace what UTF-8 cannot encode: an error must not fail on its way to the client."""
    return str(text).encode(errors="replace").decode()
