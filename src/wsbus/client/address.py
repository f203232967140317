"""Server addresses, and the reasons for which no connection could be opened, in words."""

from __future__ import annotations

import socket
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from ..core.choices import shown
from ..core.client.retry import Advice
from ..core.errors import ConnectError, Unauthenticated, UsageError, WsbusError

__all__ = [
    "DialFailed",
    "bearer",
    "explain_network",
    "explain_status",
    "parse_url",
    "token_of",
    "token_subprotocol",
    "with_token",
]

_PASSING: Final = {
    **dict.fromkeys((403, 408, 425, 500, 502, 503, 504), Advice.NOW),
    429: Advice.MUCH_LATER,
}
"""HTTP statuses after which another attempt may succeed. Plain ASGI servers answer 403 to every
refusal, also while they stop."""

_MEANINGS: Final = {
    400: "the server did not understand the request, or does not speak this protocol",
    403: (
        "no such path, or refused: Starlette and FastAPI answer 403 to both; the path is {path!r}"
    ),
    **dict.fromkeys((404, 405, 410), "there is no WebSocket at {path!r}: is the path right?"),
    **dict.fromkeys((200, 426), "what is at {path!r} is no WebSocket"),
    429: "the server has had too many attempts",
    503: "the server is not ready, or full",
}
_BEARER: Final = "wsbus.token."
_REASON_CHARS: Final = 200
_SENTENCE_WORDS: Final = 3


class DialFailed(Exception):
    """No connection could be opened. Only the driver sees it."""

    def __init__(self, error: WsbusError, advice: Advice) -> None:
        super().__init__(error, advice)
        self.error: Final = error
        self.advice: Final = advice


def parse_url(url: str) -> WebSocketURI:
    """Parse an address.

    Raises:
        UsageError: It is not the address of a WebSocket.
    """
    if not isinstance(url, str):
        raise UsageError(f"an address is a text such as 'ws://host/ws', not {shown(url)}")
    if " " in url or not url.isprintable():
        raise UsageError(f"an address has no spaces and line ends, but {redacted(url)!r} has")
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError) as exc:
        scheme = urlsplit(url).scheme if "://" in url else ""
        hint = {"http": ": use ws:// in place of http://", "https": ": use wss:// for https://"}
        why = hint.get(scheme, ", which begins with ws:// or wss://")
        raise UsageError(f"{redacted(url)!r} is no address of a WebSocket{why}") from exc
    return uri


def bearer(token: str) -> str:
    """Return the header ``Authorization`` for a token.

    Raises:
        DialFailed: No header can carry it.
    """
    if not (token.isascii() and token.isprintable()):
        error = UsageError("a token in a header is printable ASCII; show it elsewhere: token_in=…")
        raise DialFailed(error, Advice.STOP)
    return f"Bearer {token}"


def token_subprotocol(token: str) -> str:
    """Return the subprotocol that carries a token to a wsbus server."""
    return _BEARER + urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


def token_of(subprotocols: Sequence[str]) -> str | None:
    """Return the token that a subprotocol carries; None: none does."""
    found = [each for each in subprotocols if each.startswith(_BEARER)]
    if not found:
        return None
    text = found[0].removeprefix(_BEARER)
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def with_token(uri: WebSocketURI, name: str, token: str) -> WebSocketURI:
    """Return the address with a token in the query."""
    query = f"{uri.query}&" if uri.query else ""
    return WebSocketURI(
        uri.secure,
        uri.host,
        uri.port,
        uri.path,
        f"{query}{quote(name, safe='')}={quote(token, safe='')}",
        uri.username,
        uri.password,
    )


def place(uri: WebSocketURI) -> str:
    """Return host and port for a message."""
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"{host}:{uri.port}"


def explain_network(exc: Exception, uri: WebSocketURI) -> DialFailed:
    """Return the error for a connection that the network did not open, in words."""
    where = place(uri)
    cause: BaseException = exc
    while isinstance(cause, OSError) and cause.errno is None and cause.__cause__ is not None:
        cause = cause.__cause__  # anyio sums several attempts up
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    advice = Advice.NOW
    match cause:
        case socket.gaierror():
            why = f"there is no host {uri.host!r}: is the address right?"
        case ConnectionRefusedError():
            why = f"nothing listens at {where}: is the server running, and the port right?"
        case ssl.SSLCertVerificationError():
            why = f"the certificate of {where} is not trusted: {cause.verify_message}"
            advice = Advice.WRONG
        case ssl.SSLError():
            why = f"{where} does not speak TLS: use ws:// in place of wss://?"
        case TimeoutError():
            why = f"{where} does not answer"
        case OSError():
            why = f"{where} cannot be reached: {cause.strerror or type(cause).__name__}"
        case _:
            why = f"{where} closed the connection before it had answered"
    return DialFailed(ConnectError(why), advice)


def explain_status(status: int, headers: Headers, body: bytes, uri: WebSocketURI) -> DialFailed:
    """Return the error for an HTTP answer other than 101, in words.

    Only a refused token stops a client that was connected before: while a server is deployed, a
    proxy in front of it may answer anything.
    """
    path = uri.path or "/"
    advice = _PASSING.get(status, Advice.WRONG)
    said, is_reason = _reason(body)
    if status == HTTPStatus.UNAUTHORIZED:
        error = Unauthenticated(said or "the server refused the token")
        return DialFailed(error, Advice.STOP)
    if status == HTTPStatus.FORBIDDEN and is_reason:
        why = f"the server refuses this client at {path!r}"
    elif status in _MEANINGS:
        why = _MEANINGS[status].format(path=path)
    elif 300 <= status < 400:
        why = f"the server sends clients elsewhere: {redacted(headers.get('Location', ''))}"
    elif status in _PASSING:
        why = "the server, or what stands before it, failed"
    else:
        why = "the server refused the connection"
    detail = f": {said}" if said else ""
    return DialFailed(ConnectError(f"{why} (HTTP status {status}{detail})", status), advice)


def _reason(body: bytes) -> tuple[str, bool]:
    """Return the first line of an answer unless it is a page, and whether it gives a reason.

    A server's own answer is a word or two, such as ``Forbidden``, or daphne's ``Access denied``.
    The text of FastAPI's ``HTTPException`` comes from the application, and gives a reason.
    """
    try:
        text, least_words = msgspec.json.decode(body, type=_Detail).detail, 1
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text, least_words = body.decode(errors="replace"), _SENTENCE_WORDS
    text = text.strip()[:_REASON_CHARS].partition("\n")[0].strip()
    if not text.isprintable() or text.startswith(("<", "{")):
        return "", False
    return text, len(text.split()) >= least_words


class _Detail(msgspec.Struct):
    """The body of FastAPI's and Starlette's errors, if they are texts."""

    detail: str


def redacted(url: str) -> str:
    """Return an address without the parts that may hold a token."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200]
