"""The HTTP requests of a client, and what their answers say."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec
from anyio import CancelScope
from websockets.datastructures import Headers
from websockets.uri import WebSocketURI

from ..core.client.retry import Advice
from ..core.errors import ConnectError, ErrorCode, InvalidChannel
from ._readings import HttpRefusal
from .address import DialFailed, bearer, explain_network, explain_status, place

__all__ = ["BROKEN", "PING", "Calls", "HttpAnswer", "encoded", "in_form", "ref_of"]

PING: Final = b'{"type":"ping"}'
BROKEN: Final = (
    httpx.HTTPError,
    msgspec.MsgspecError,
    UnicodeError,
    RecursionError,
    InvalidChannel,
)
"""An answer did not come, or makes no sense."""
_POST_SECONDS: Final = 35.0
"""For an answer: longer than a command may take by default."""
_POLL_BYTES: Final = 64 << 20
"""The largest answer to a poll: 300 messages of 64 KiB, the default of servers, are a third."""


class HttpFault(msgspec.Struct):
    """An error."""

    code: str = "UNKNOWN"
    message: str = ""


class HttpAnswer(msgspec.Struct):
    """The body of an answer: a message, or an error of HTTP's own form."""

    type: str = ""
    code: str = "UNKNOWN"
    message: str = ""
    error: HttpFault | None = None

    @property
    def fault(self) -> dict[str, str]:
        """The error, in the form of messages."""
        found = self.error or HttpFault(self.code, self.message)
        return {"code": found.code, "message": found.message}


class Calls:
    """Calls one endpoint.

    Args:
        uri: Its address.
        token: Shown with each request; it may be assigned. None: none is.
        headers: More headers.
        tls: Certificates to trust; None: those that the machine trusts.
        max_bytes: The largest message.
    """

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        token: str | None,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        max_bytes: int,
    ) -> None:
        self._uri: Final = uri
        self._max_bytes: Final = max_bytes
        self.token = token
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        self._base: Final = f"http{'s' * uri.secure}://{host}:{uri.port}{uri.path.rstrip('/')}"
        own = {"user-agent": "wsbus", "accept-encoding": "identity"}
        self._client: Final = httpx.AsyncClient(
            transport=_QueryTransport(uri, tls),
            headers=[(k.encode(), v.encode()) for k, v in {**own, **headers}.items()],
            timeout=httpx.Timeout(_POST_SECONDS, read=None, pool=None),
            trust_env=False,  # As over a WebSocket.
        )

    async def aclose(self) -> None:
        """Free all sockets."""
        await self._client.aclose()

    async def look(self) -> bool:
        """Ask for a pong; return whether the server has accepted the client.

        Raises:
            DialFailed: There is no answer, or the server refuses the token, or does not speak
                wsbus over HTTP.
        """
        uri = self._uri
        try:
            status, body = await self.post(PING)
        except httpx.DecodingError as exc:
            why = f"no wsbus over HTTP at {uri.path!r} of {place(uri)}: {exc}"
            raise DialFailed(ConnectError(why), Advice.WRONG) from exc
        except httpx.HTTPError as exc:
            raise explain_network(_cause_of(exc), uri) from exc
        kind = _read(body).type
        if status == 200 and kind == "pong":
            return True
        is_shown = self.token is not None or "authorization" in self._client.headers
        if status == 401 and kind == "error" and not is_shown:
            return False
        if status in {200, 404, 405, 415, 426}:
            why = f"no wsbus over HTTP at {uri.path!r} of {place(uri)} (HTTP status {status})"
            raise DialFailed(ConnectError(why, status), Advice.WRONG)
        raise explain_status(status, Headers(), _read(body).message.encode() or body, uri)

    async def post(self, message: bytes, token: str | None = None) -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer.

        Args:
            message: The request.
            token: Shown in place of the present one.

        Raises:
            httpx.HTTPError: There is no answer, or it is too large.
        """
        call = self._call("requests", [], token or self.token)
        call["headers"]["content-type"] = "application/json"
        call["timeout"] = httpx.Timeout(_POST_SECONDS)
        async with self._client.stream("POST", content=message, **call) as answer:
            return answer.status_code, await _whole(answer, self._max_bytes)

    async def poll(self, query: list[tuple[str, str]]) -> bytes:
        """Poll; return the body of the answer.

        Raises:
            HttpRefusal: The server does not take it.
            httpx.HTTPError: There is no answer, or it is too large.
        """
        async with self._client.stream("GET", **self._call("poll", query, self.token)) as answer:
            body = await _whole(answer, self._max_bytes + _POLL_BYTES)
        if answer.status_code != 200:
            raise _refusal(answer.status_code, body)
        return body

    @asynccontextmanager
    async def stream(self, query: list[tuple[str, str]]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an event stream; give the parts of its body.

        Raises:
            HttpRefusal: The server does not take it.
            httpx.HTTPError: There is no answer, or it is not to be read.
        """
        call = self._call("events", query, self.token)
        call["headers"]["accept"] = "text/event-stream"
        async with self._client.stream("GET", **call) as answer:
            if answer.status_code != 200:
                raise _refusal(answer.status_code, await _whole(answer, self._max_bytes))
            yield _chunks_of(answer)

    def _call(self, what: str, query: list[tuple[str, str]], token: str | None) -> dict[str, Any]:
        headers = {} if token is None else {"authorization": bearer(token)}
        return {"url": f"{self._base}/{what}", "params": query, "headers": headers}


class _QueryTransport(httpx.AsyncHTTPTransport):
    """Adds the query of the endpoint's address, which may hold a token, after httpx's log."""

    def __init__(self, uri: WebSocketURI, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            # To load certificates takes as long as a hundred messages.
            verify=uri.secure and (tls or ssl.create_default_context()),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._query: Final = (uri.query or "").encode()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._query:
            query = b"&".join(filter(None, (self._query, request.url.query)))
            request = httpx.Request(
                request.method,
                request.url.copy_with(query=query),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        return await super().handle_async_request(request)


def _chunks_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Return the parts of a body.

    Raises:
        httpx.DecodingError: It is compressed, though nothing asked for that: a little could become
            more than there is memory.
    """
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise httpx.DecodingError("the answer is compressed, though nothing asked for that")
    return answer.aiter_raw()


async def _whole(answer: httpx.Response, max_bytes: int) -> bytes:
    """Return a body.

    Raises:
        httpx.DecodingError: It is compressed, or larger than ``max_bytes``.
        httpx.HTTPError: It does not come.
    """
    body, chunks = bytearray(), _chunks_of(answer)
    with CancelScope() as scope:  # On trio, httpx's generators are not to be left before their end.
        async for chunk in chunks:
            if not scope.cancel_called:
                body += chunk
            if len(body) > max_bytes:
                scope.cancel()
    if scope.cancel_called:
        raise httpx.DecodingError(f"the answer is larger than {max_bytes} bytes")
    return bytes(body)


def _refusal(status: int, body: bytes) -> HttpRefusal:
    """Return the error that an answer is."""
    answer = _read(body)
    code = answer.code if answer.type == "error" else ErrorCode.UNAVAILABLE
    return HttpRefusal(status, code, answer.message or f"HTTP status {status}")


def _read(body: bytes) -> HttpAnswer:
    try:
        return msgspec.json.decode(body, type=HttpAnswer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return HttpAnswer()


def _cause_of(exc: BaseException) -> Exception:
    """Return the error of the operating system below an error of httpx, if there is one."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, OSError) else Exception(exc)


def in_form(status: int, body: bytes, ref: str | None) -> str:
    """Return an answer as a WebSocket would bring it."""
    answer = msgspec.json.decode(body, type=HttpAnswer)
    if status == 200 or answer.error is not None:
        return body.decode()
    return encoded({"type": "error", "error": answer.fault, **ref_of(ref)})


def encoded(message: dict[str, Any]) -> str:
    """Return a message as text."""
    return msgspec.json.encode(message).decode()


def ref_of(ref: str | None) -> dict[str, str]:
    """Return the id of a request, to be put into its answer."""
    return {} if ref is None else {"id": ref}
